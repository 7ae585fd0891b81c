//! The engine's part that grants: which connection gets which envelope, who may dial, and who has to make room.

use super::Engine;
use super::gate::{Barrier, Shut};
use super::lane::place_of;
use super::link::{Doing, Link};
use super::slab::State;
use super::words::{ConnectionHandle, Order, SourceHandle, TargetHandle};
use crate::mail::StreamKind;

/// Of this many grants while both kinds wait, one is marketing's.
const MARKETING_ONE_IN: u8 = 10;
/// After so many transactions a connection makes room for others that wait for its slot.
pub(super) const ROTATE_AFTER: u32 = 20;
/// Lanes of a site that are tried for one free slot; the others stand first the next time.
const TRIES: usize = 32;
/// Sites that share one free connection are tried up to this many at once.
const STARVED_TRIES: usize = 32;
/// The share of all connections that sites without a success may hold: one in this many.
const UNPROVEN_SHARE: u32 = 4;

const KINDS: [StreamKind; 2] = [StreamKind::Transactional, StreamKind::Marketing];

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blocked {
    /// No source of the lane may have one more at the site.
    AtSite,
    /// The relay has no more.
    InAll,
}

impl Engine {
    /// A lane has more ready envelopes than before: an idle connection takes them, or one is dialed, or the lane waits
    /// in its site's line.
    pub(super) fn want(&mut self, lane: u32, kind: StreamKind, out: &mut Vec<Order>) {
        while self.lanes[lane].waiting[place_of(kind)] > 0 {
            let Some(number) = self.idle_for(lane, kind) else { break };
            if !self.grant(number, out) {
                break;
            }
        }
        // One that stands in line already can have nothing that those before it have not.
        while self.lanes[lane].is_hungry(kind) && !self.lanes[lane].queued[place_of(kind)] {
            if let Err(blocked) = self.dial(lane, kind, out) {
                self.stand_in_line(lane, kind, blocked);
            }
        }
    }

    fn stand_in_line(&mut self, lane: u32, kind: StreamKind, blocked: Blocked) {
        let site = self.targets[self.lanes[lane].target].site;
        let queued = &mut self.lanes[lane].queued[place_of(kind)];
        if !std::mem::replace(queued, true) {
            self.sites[site].hungry[place_of(kind)].push_back(lane);
        }
        if blocked == Blocked::InAll && !std::mem::replace(&mut self.sites[site].starved, true) {
            self.starved[usize::from(!self.sites[site].proven)].push_back(site);
        }
    }

    pub(super) fn queue_if_hungry(&mut self, lane: u32) {
        for kind in KINDS {
            if self.lanes[lane].is_hungry(kind) {
                self.stand_in_line(lane, kind, Blocked::AtSite);
            }
        }
    }

    /// The last idle connection that can take a lane's mail.
    fn idle_for(&self, number: u32, kind: StreamKind) -> Option<u32> {
        let lane = &self.lanes[number];
        let idle = &self.targets[lane.target].idle;
        if idle.is_empty() {
            return None;
        }
        let sources = self.sources(lane.via);
        let (site, now) = (self.targets[lane.target].site, self.steady());
        let is_overflowing = kind == StreamKind::Transactional && !self.rules.warming.is_empty();
        let fits = |source: &SourceHandle| {
            sources.contains(source)
                && !self.is_kept_off(number, *source, site, kind)
                && !self.is_lane_shut(number, *source, kind)
                && (!is_overflowing || !self.sites[site].path(*source).is_full(now))
        };
        idle.iter().rev().find(|(source, _)| fits(source)).map(|(_, number)| *number)
    }

    /// Dials for a lane over the next of its sources that may.
    fn dial(&mut self, lane: u32, kind: StreamKind, out: &mut Vec<Order>) -> Result<(), Blocked> {
        let target = self.lanes[lane].target;
        let site = self.targets[target].site;
        let Some(source) = self.next_source(lane, site, kind, out) else {
            self.make_room(site, target, out);
            return Err(Blocked::AtSite);
        };
        let total = self.rules.total_connections.max(1);
        if self.links.len() as u32 >= total {
            if self.closing_is_too_little()
                && let Some((_, number)) = self.idle.first().copied()
            {
                self.close(number, out);
            }
            return Err(Blocked::InAll);
        }
        if !self.sites[site].proven && self.unproven >= (total / UNPROVEN_SHARE).max(1) {
            return Err(Blocked::InAll);
        }
        let Some(flow) = self.lanes[lane].choose(kind) else { return Err(Blocked::AtSite) };
        let domain = self.flows[flow].key.domain;
        self.open_link(lane, target, site, source, kind);
        self.charge_dial(site, source, out);
        let connection = ConnectionHandle(self.last_link);
        out.push(Order::Dial { connection, source, target: TargetHandle(target), domain });
        Ok(())
    }

    /// Whether more sites wait for a connection than connections are on their way out.
    fn closing_is_too_little(&self) -> bool {
        (self.closing as usize) < self.starved[0].len() + self.starved[1].len() + 1
    }

    fn open_link(&mut self, lane: u32, target: u32, site: u32, source: SourceHandle, kind: StreamKind) {
        loop {
            self.last_link = self.last_link.wrapping_add(1);
            if !self.links.contains_key(&self.last_link) {
                break;
            }
        }
        self.links.insert(self.last_link, Link::new(source, target, site, lane, kind));
        self.lanes[lane].dialing[place_of(kind)] += 1;
        self.targets[target].links += 1;
        let known = &mut self.sites[site];
        known.open += 1;
        let path = known.path_mut(source);
        path.open += 1;
        path.dialing += 1;
        path.marketing += u16::from(kind == StreamKind::Marketing);
        known.dials = match kind {
            StreamKind::Transactional => known.dials.saturating_add(1),
            StreamKind::Marketing => 0,
        };
        self.unproven += u32::from(!self.sites[site].proven);
    }

    /// The next source of a lane, in turn, that may have one more connection at the site. The first that lacks nothing but
    /// durable allowance for it gets some: others need none before their turn comes.
    fn next_source(&mut self, lane: u32, site: u32, kind: StreamKind, out: &mut Vec<Order>) -> Option<SourceHandle> {
        let sources = self.sources(self.lanes[lane].via);
        let turn = usize::from(self.lanes[lane].turn);
        // Marketing mail climbs the ladders of warming sources first; transactional mail leaves them alone if it can.
        let warms = !self.rules.warming.is_empty();
        let (mut found, mut unreserved) = (None, None);
        'search: for first in [true, false] {
            for step in 0..sources.len() {
                let place = (turn + step) % sources.len();
                let source = sources[place];
                let warming = warms && self.roll_warmup(source, self.sites[site].provider);
                if (warming == (kind == StreamKind::Marketing)) != first {
                    continue;
                }
                if warming && self.is_kept_off(lane, source, site, kind) {
                    if kind == StreamKind::Marketing {
                        self.wait_for_warmup(source, site, out);
                    }
                    continue;
                }
                if self.is_lane_shut(lane, source, kind) || !self.may_dial(source, site, kind) {
                    continue;
                }
                match self.may_dial_now(source, site, lane, kind) {
                    Ok(()) => {
                        self.lanes[lane].turn = ((place + 1) % sources.len()) as u16;
                        found = Some(source);
                        break 'search;
                    }
                    Err(Some(Shut::Unreserved)) => unreserved = unreserved.or(Some(source)),
                    // Those that warm up come after it.
                    Err(Some(Shut::Until(at))) if warms && kind == StreamKind::Transactional => {
                        let now = self.steady();
                        self.sites[site].path_mut(source).fills(now, at);
                    }
                    Err(Some(Shut::Until(_)) | None) => {}
                }
            }
        }
        if let Some(source) = unreserved {
            self.reserve_dials(site, source, out);
        }
        found
    }

    pub(super) fn may_dial(&self, source: SourceHandle, site: u32, kind: StreamKind) -> bool {
        let (stopped, now) = (self.is_stopped(source, site), self.steady());
        let site = &self.sites[site];
        let path = site.path(source);
        let reserved = kind == StreamKind::Marketing && site.is_reserved(source, now);
        !stopped && path.throttled(now).is_none() && path.open < site.allowed(source) && !site.is_full() && !reserved
    }

    /// Closes one connection that idles at a full site for another target.
    fn make_room(&mut self, site: u32, target: u32, out: &mut Vec<Order>) {
        let elsewhere =
            self.idle.iter().take(TRIES).find(|(_, number)| {
                self.links.get(number).is_some_and(|link| link.site == site && link.target != target)
            });
        if let Some((_, number)) = elsewhere.copied() {
            self.close(number, out);
        }
    }

    /// A slot of a site may be free: the lanes in its line dial, transactional ones first but for one time in ten.
    pub(super) fn feed(&mut self, site: u32, out: &mut Vec<Order>) {
        let marketing_first = self.sites[site].dials >= MARKETING_ONE_IN - 1;
        let order = if marketing_first { [1, 0] } else { [0, 1] };
        for place in order {
            let mut tries = self.sites[site].hungry[place].len().min(TRIES);
            while tries > 0 {
                let Some(lane) = self.sites[site].hungry[place].pop_front() else { break };
                self.lanes[lane].queued[place] = false;
                if self.lanes[lane].is_orphan() {
                    self.lanes.take(lane);
                    continue;
                }
                if !self.lanes[lane].is_hungry(KINDS[place]) {
                    tries -= 1;
                    continue;
                }
                let dialed = self.dial(lane, KINDS[place], out);
                if self.lanes[lane].is_hungry(KINDS[place]) {
                    self.stand_in_line(lane, KINDS[place], dialed.err().unwrap_or(Blocked::AtSite));
                }
                match dialed {
                    // As long as there is room, all may have more.
                    Ok(()) => tries = self.sites[site].hungry[place].len().min(TRIES),
                    Err(Blocked::AtSite) => tries -= 1,
                    Err(Blocked::InAll) => return,
                }
            }
        }
    }

    /// The relay may have room for a connection: sites that wait for one get it in turn.
    pub(super) fn feed_starved(&mut self, out: &mut Vec<Order>) {
        let total = self.rules.total_connections.max(1);
        for place in 0..2 {
            for _ in 0..self.starved[place].len().min(STARVED_TRIES) {
                let room = !self.idle.is_empty() && self.closing_is_too_little();
                let full = self.links.len() as u32 >= total && !room;
                let unproven_full = place == 1 && self.unproven >= (total / UNPROVEN_SHARE).max(1);
                if full || unproven_full {
                    break;
                }
                let Some(site) = self.starved[place].pop_front() else { break };
                // A site that became proven in line stands in both lines.
                let Some(known) = self.sites.get_mut(site) else { continue };
                known.starved = false;
                self.feed(site, out);
            }
        }
    }

    pub(super) fn feed_all(&mut self, out: &mut Vec<Order>) {
        let sites: Vec<u32> = self.sites.iter().map(|(site, _)| site).collect();
        for site in sites {
            self.arm_site(site);
            self.feed(site, out);
        }
    }

    /// A connection is between two transactions: the next one, or rest, or room for others.
    pub(super) fn boundary(&mut self, number: u32, out: &mut Vec<Order>) {
        let Some(link) = self.links.get(&number).copied().filter(|link| link.doing != Doing::Closing) else { return };
        let path = self.sites[link.site].path(link.source);
        let most = link.most.min(link.tries.or(path.most()).unwrap_or(u32::MAX));
        let stopped = self.is_stopped(link.source, link.site) || path.is_blocked(self.steady());
        let worn = stopped || (link.done >= most && !self.tries_more(number, &link));
        if worn || self.must_make_room(&link) {
            return self.close(number, out);
        }
        if !self.grant(number, out) {
            self.rest(number, &link);
        }
    }

    /// Whether a connection that carried all that it may is the one that tries more than was learned.
    fn tries_more(&mut self, number: u32, link: &Link) -> bool {
        if link.tries.is_some() || link.done >= link.most {
            return false;
        }
        let tries = self.sites[link.site].path_mut(link.source).try_more();
        if let Some(link) = self.links.get_mut(&number).filter(|_| tries.is_some()) {
            link.tries = tries;
        }
        tries.is_some()
    }

    /// Whether others wait for this connection's slot and have the better right to it.
    fn must_make_room(&self, link: &Link) -> bool {
        let site = &self.sites[link.site];
        let own = &self.targets[link.target];
        let others = |place: usize| {
            let queued = own.lanes.iter().filter(|lane| self.lanes[**lane].queued[place]).count();
            site.hungry[place].len() > queued
        };
        let full = site.path(link.source).open >= site.allowed(link.source);
        if full && (others(0) || others(1)) {
            let transactional_here = own.lanes.iter().any(|lane| self.lanes[*lane].waiting[0] > 0);
            let outranked = others(0) && !transactional_here && site.since_marketing < MARKETING_ONE_IN - 1;
            return outranked || link.done >= ROTATE_AFTER;
        }
        let total = self.rules.total_connections.max(1);
        let starved = !self.starved[0].is_empty() || !self.starved[1].is_empty();
        let unproven_too_many = self.unproven >= (total / UNPROVEN_SHARE).max(1);
        let all_full = self.links.len() as u32 >= total || (!site.proven && unproven_too_many);
        // A connection above what feedback allows now has no slot at all.
        let above = site.path(link.source).open - site.path(link.source).closing > site.allowed(link.source);
        above || (starved && all_full && link.done >= ROTATE_AFTER)
    }

    fn rest(&mut self, number: u32, link: &Link) {
        if let Doing::Idle(_) = link.doing {
            return;
        }
        let now = self.steady();
        self.idle.insert((now, number));
        self.targets[link.target].idle.push((link.source, number));
        if let Some(link) = self.links.get_mut(&number) {
            link.doing = Doing::Idle(now);
        }
    }

    /// Gives the best waiting envelope to a connection. False: there is none that it may carry now.
    pub(super) fn grant(&mut self, number: u32, out: &mut Vec<Order>) -> bool {
        let Some(link) = self.links.get(&number).copied() else { return false };
        if self.is_stopped(link.source, link.site) || self.sites[link.site].path(link.source).is_blocked(self.steady())
        {
            return false;
        }
        let warms = !self.rules.warming.is_empty();
        if warms {
            self.roll_warmup(link.source, self.sites[link.site].provider);
        }
        loop {
            let Some((lane, kind)) = self.best_for(&link) else {
                if warms {
                    self.leave_to_warmup(number, &link, out);
                }
                return false;
            };
            let Some(slot) = self.next_of(lane, kind) else { return false };
            if self.rows[slot].deadline <= self.now {
                self.unplace(slot);
                self.place(slot, out);
                continue;
            }
            match self.pass(&link, lane, kind, slot) {
                Ok(recipients) => {
                    self.lanes[lane].pay(kind, self.rows[slot].recipients);
                    self.unplace(slot);
                    self.hand_over(number, &link, lane, kind, slot, recipients, out);
                    return true;
                }
                Err(Barrier::Site(shut)) => {
                    self.wait_for_site(number, &link, shut, out);
                    if let (Shut::Until(until), StreamKind::Transactional) = (shut, kind) {
                        self.overflow(link.source, link.site, lane, until, out);
                    }
                    return false;
                }
                Err(Barrier::Domain(shut)) => {
                    let domain = self.flows[self.rows[slot].flow].key.domain;
                    self.shut_domain(domain.0, &link, (kind, shut), out);
                }
            }
        }
    }

    /// Nothing may go over this connection: marketing mail that only its source's warm-up keeps off it waits for that, and
    /// stands in the site's line.
    fn leave_to_warmup(&mut self, number: u32, link: &Link, out: &mut Vec<Order>) {
        let provider = self.sites[link.site].provider;
        if self.warmup_shut(link.source, provider).is_none() {
            return;
        }
        let kept_off = |lane: &u32| self.lanes[*lane].waiting[place_of(StreamKind::Marketing)] > 0;
        let lanes: Vec<u32> = self.targets[link.target].lanes.iter().copied().filter(kept_off).collect();
        if lanes.is_empty() {
            return;
        }
        let site = &mut self.sites[link.site];
        if !site.gated.contains(&number) {
            site.gated.push(number);
        }
        for lane in lanes {
            self.stand_in_line(lane, StreamKind::Marketing, Blocked::AtSite);
        }
        self.wait_for_warmup(link.source, link.site, out);
    }

    /// Which lane is next on a connection, and with which kind.
    fn best_for(&self, link: &Link) -> Option<(u32, StreamKind)> {
        let best = |kind: StreamKind| {
            let able = |lane: &&u32| {
                self.sources(self.lanes[**lane].via).contains(&link.source)
                    && !self.is_kept_off(**lane, link.source, link.site, kind)
                    && !self.is_lane_shut(**lane, link.source, kind)
            };
            let ranked = |lane: &u32| {
                let known = &self.lanes[*lane];
                known.best(kind).map(|rank| ((rank, known.served), *lane))
            };
            let lanes = self.targets[link.target].lanes.iter().filter(able).filter_map(ranked);
            lanes.min().map(|(_, lane)| (lane, kind))
        };
        let (site, now) = (&self.sites[link.site], self.steady());
        let marketing = || best(StreamKind::Marketing).filter(|_| !site.is_reserved(link.source, now));
        match best(StreamKind::Transactional) {
            Some(transactional) if site.since_marketing >= MARKETING_ONE_IN - 1 => marketing().or(Some(transactional)),
            Some(transactional) => Some(transactional),
            None => marketing(),
        }
    }

    /// The next row of a lane.
    fn next_of(&mut self, lane: u32, kind: StreamKind) -> Option<u32> {
        let flow = self.lanes[lane].choose(kind)?;
        self.flows[flow].ready.first().copied()
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one decision")]
    fn hand_over(
        &mut self,
        number: u32,
        link: &Link,
        lane: u32,
        kind: StreamKind,
        slot: u32,
        recipients: u16,
        out: &mut Vec<Order>,
    ) {
        if let Doing::Idle(since) = link.doing {
            self.unidle(number, since);
        }
        self.grants += 1;
        self.lanes[lane].served = self.grants;
        let row = &mut self.rows[slot];
        (row.state, row.place) = (State::Flying, number);
        let site = &mut self.sites[link.site];
        match kind {
            StreamKind::Transactional => site.since_marketing = site.since_marketing.saturating_add(1),
            StreamKind::Marketing => {
                site.since_marketing = 0;
                site.path_mut(link.source).marketing += 1;
            }
        }
        if kind == StreamKind::Transactional {
            self.granted_transactional(link.site);
        }
        if let Some(link) = self.links.get_mut(&number) {
            (link.doing, link.carrying, link.kind) = (Doing::Busy, Some(slot), Some(kind));
        }
        let domain = self.flows[self.rows[slot].flow].key.domain.0;
        self.charge(number, link, kind, (domain, recipients), out);
        let id = self.rows[slot].id;
        out.push(Order::Send { connection: ConnectionHandle(number), id, recipients_max: recipients });
    }
}
