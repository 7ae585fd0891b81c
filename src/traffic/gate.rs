//! The engine's part for limits by time: which meters one more message or connection must pass, and who waits for them.

use std::time::Duration;

use super::lane::{self, Via, place_of};
use super::limits::{Limits, Rate, Rates, SiteLimits};
use super::link::{Doing, Link};
use super::meter::{Haste, Meter, Room};
use super::slab::NONE;
use super::words::{Account, Constraint, DomainHandle, Holder, Kept, Order, SiteHandle, SourceHandle, Unit};
use super::{Alarm, Engine};
use crate::mail::StreamKind;
use crate::time::Timestamp;

const KINDS: [StreamKind; 2] = [StreamKind::Transactional, StreamKind::Marketing];
const UNITS: [Unit; 3] = [Unit::Messages, Unit::Recipients, Unit::Connections];
/// A transaction waits until this share of the recipients' window is free, if it could use it: a window that is always
/// nearly full would else be spent one recipient at a time, each in a message of its own.
const WORTHWHILE_SHARE: u32 = 32;
/// No window is longer.
const LONGEST: Duration = Duration::from_secs(86_400);
/// A clock that was set by less than this, altogether, leaves the records as they are: they are rounded late, and one that
/// approaches another slowly would have them written all the time. Unit: milliseconds.
const RESTATED_FROM_MS: u64 = 1000;

pub(super) fn rates(limits: &Limits, unit: Unit) -> &Rates {
    match unit {
        Unit::Messages => &limits.messages,
        Unit::Recipients => &limits.recipients,
        Unit::Connections => &limits.new_connections,
        Unit::Lesson | Unit::Warmup => &Rates::NONE,
    }
}

/// The meters of one holder, made when they are first needed: for each source, and for all together.
#[derive(Debug)]
pub(super) struct Meters {
    started: Timestamp,
    /// Units of single sources, or of all together (true), that were without a limit until then: what was sent before
    /// nobody knows.
    opened: Vec<(bool, Unit, Timestamp)>,
    /// What is used of them outlives a crash.
    kept: bool,
    all: Vec<(Option<SourceHandle>, Unit, Meter)>,
    /// Of messages, as the peer's replies taught.
    learned: Vec<(SourceHandle, Rate, Meter)>,
}

/// What a meter says against one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shut {
    /// Until then, when time alone can open it.
    Until(Timestamp),
    /// Until a reservation is durable.
    Unreserved,
}

impl Meters {
    pub fn new(started: Timestamp) -> Meters {
        Meters { started, kept: true, opened: Vec::new(), all: Vec::new(), learned: Vec::new() }
    }

    /// Meters of which nothing is written down.
    pub fn unkept(started: Timestamp) -> Meters {
        Meters { kept: false, ..Meters::new(started) }
    }

    /// The meter of a unit, if there is a limit.
    fn meter(&mut self, limits: &SiteLimits, source: Option<SourceHandle>, unit: Unit) -> Option<&mut Meter> {
        let of = source.map_or(&limits.total, |source| limits.of(source));
        let rates = rates(of, unit);
        if rates.is_empty() {
            return None;
        }
        let place = match self.all.iter().position(|(other, of, _)| *other == source && *of == unit) {
            Some(place) => place,
            None => {
                let meter = self.fresh(rates, source, unit);
                self.all.push((source, unit, meter));
                self.all.len() - 1
            }
        };
        self.all.get_mut(place).map(|(_, _, meter)| meter)
    }

    /// A meter that is not there yet: unused, but for what was sent while nothing limited it.
    fn fresh(&self, rates: &Rates, source: Option<SourceHandle>, unit: Unit) -> Meter {
        let mut meter = Meter::at_start(rates, self.started, self.kept);
        let opened = self.opened.iter().find(|(total, of, _)| *total == source.is_none() && *of == unit);
        if let Some((.., at)) = opened {
            meter.fill(*at);
        }
        meter
    }

    /// Holds a source to what was learned, or to nothing any more. `refused`: what it sent so far was too much.
    pub fn learn(&mut self, source: SourceHandle, rate: Option<Rate>, refused: bool, now: Timestamp) {
        let Some(rate) = rate else { return self.learned.retain(|(other, ..)| *other != source) };
        let Some(rates) = Rates::new(&[rate]) else { return };
        let place = match self.learned.iter().position(|(other, ..)| *other == source) {
            Some(place) => place,
            None => {
                self.learned.push((source, rate, Meter::learned(&rates)));
                self.learned.len() - 1
            }
        };
        let Some((_, known, meter)) = self.learned.get_mut(place) else { return };
        *known = rate;
        if !meter.has(&rates) {
            meter.change(&rates, now);
        }
        if refused {
            meter.fill(now);
        }
    }

    /// What was learned of a source: its rate, and the use of it.
    pub fn lesson(&self, source: SourceHandle) -> Option<(Rate, &Meter)> {
        self.learned.iter().find(|(other, ..)| *other == source).map(|(_, rate, meter)| (*rate, meter))
    }

    /// Whether most of a learned rate is in use.
    pub fn is_lesson_in_use(&self, source: SourceHandle) -> bool {
        let most = |(used, rate): (u32, Rate)| u64::from(used) * 10 >= u64::from(rate.count) * 7;
        self.lesson(source).is_some_and(|(_, meter)| meter.uses().any(most))
    }

    /// The meters that a source's mail would pass here. One that is not there yet says what it would say if it were: a
    /// look makes none, or a site would have one for each source that was never used there.
    fn looked_at(&mut self, limits: &SiteLimits, source: SourceHandle, unit: Unit, mut visit: impl FnMut(&mut Meter)) {
        if unit == Unit::Messages {
            let learned = self.learned.iter_mut().filter(|(other, ..)| *other == source);
            learned.for_each(|(_, _, meter)| visit(meter));
        }
        for source in [Some(source), None] {
            let of = source.map_or(&limits.total, |source| limits.of(source));
            let rates = rates(of, unit);
            match self.find(source, unit) {
                _ if rates.is_empty() => {}
                Some(meter) => visit(meter),
                None => visit(&mut self.fresh(rates, source, unit)),
            }
        }
    }

    /// Adds what another holder, with its limits, used of a unit; what it had no need to count may have been anything.
    pub fn absorb(
        &mut self,
        limits: &SiteLimits,
        source: Option<SourceHandle>,
        unit: Unit,
        (other_limits, other): (&SiteLimits, &Meters),
        now: Timestamp,
    ) {
        let of = source.map_or(&other_limits.total, |source| other_limits.of(source));
        let is_counted = !rates(of, unit).is_empty();
        let known = other.all.iter().find(|(of, counts, _)| *of == source && *counts == unit).map(|(.., meter)| meter);
        let Some(meter) = self.meter(limits, source, unit) else { return };
        match known {
            Some(known) => meter.absorb(known, now),
            None if is_counted => {}
            None => meter.fill(now),
        }
    }

    /// The meters that a source's mail passes here, made if need be: its own, that of all together, and what was learned.
    pub fn passed(&mut self, limits: &SiteLimits, source: SourceHandle, unit: Unit, mut visit: impl FnMut(&mut Meter)) {
        if unit == Unit::Messages {
            let learned = self.learned.iter_mut().filter(|(other, ..)| *other == source);
            learned.for_each(|(_, _, meter)| visit(meter));
        }
        for source in [Some(source), None] {
            if let Some(meter) = self.meter(limits, source, unit) {
                visit(meter);
            }
        }
    }

    /// Other limits: what is known goes on to count, and where there was no limit all that there may be.
    pub fn change(&mut self, before: &SiteLimits, limits: &SiteLimits, now: Timestamp) {
        for unit in UNITS {
            let is_new = |old: &Limits, new: &Limits| rates(old, unit).is_empty() && !rates(new, unit).is_empty();
            let named = before.sources.iter().chain(limits.sources.iter()).map(|(source, _)| *source);
            let each = is_new(&before.each, &limits.each)
                || named.into_iter().any(|source| is_new(before.of(source), limits.of(source)));
            for (total, is_new) in [(false, each), (true, is_new(&before.total, &limits.total))] {
                if is_new {
                    self.opened.retain(|(of, known, _)| (*of, *known) != (total, unit));
                    self.opened.push((total, unit, now));
                }
            }
        }
        self.all.retain_mut(|(source, unit, meter)| {
            let of = source.map_or(&limits.total, |source| limits.of(source));
            let rates = rates(of, *unit);
            if !meter.has(rates) {
                meter.change(rates, now);
            }
            !rates.is_empty()
        });
    }

    /// Takes over what an earlier run wrote down.
    pub fn restore(&mut self, holder: Holder, limits: &SiteLimits, kept: &[Kept], now: Timestamp) {
        for kept in kept.iter().filter(|kept| kept.account.holder == holder) {
            if let Some(meter) = self.meter(limits, kept.account.source, kept.account.unit) {
                meter.restore(&kept.bytes, now);
            }
        }
    }

    /// Has all that is written down written anew.
    fn restate(&mut self, holder: Holder, now: Timestamp, out: &mut Vec<Order>) {
        for (source, unit, meter) in &mut self.all {
            if meter.is_kept() && !meter.is_idle(now) && meter.restates() {
                out.push(Order::Reserve(Account { holder, source: *source, unit: *unit }));
            }
        }
    }

    /// Whether forgetting it loses nothing.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        self.opened.retain(|(.., at)| now.since(*at) < LONGEST);
        self.opened.is_empty() && self.all.iter_mut().all(|(_, _, meter)| meter.is_idle(now))
    }

    fn find(&mut self, source: Option<SourceHandle>, unit: Unit) -> Option<&mut Meter> {
        self.all.iter_mut().find(|(other, of, _)| *other == source && *of == unit).map(|(_, _, meter)| meter)
    }

    /// What is used of each window: of a source, or of all together.
    pub fn uses(&self) -> impl Iterator<Item = (Option<SourceHandle>, Unit, &Meter)> {
        self.all.iter().map(|(source, unit, meter)| (*source, *unit, meter))
    }

    /// How many may go now, at most `wanted`.
    fn room(
        &mut self,
        limits: &SiteLimits,
        source: SourceHandle,
        unit: Unit,
        now: Timestamp,
        haste: Haste,
    ) -> Result<u32, Shut> {
        let (mut room, mut shut) = (u32::MAX, None);
        self.looked_at(limits, source, unit, |meter| match meter.room(now, haste) {
            Room::For(count) => room = room.min(count),
            Room::At(at, ..) => {
                shut = Some(match shut {
                    Some(Shut::Until(other)) => Shut::Until(at.max(other)),
                    Some(Shut::Unreserved) | None => Shut::Until(at),
                });
            }
            Room::Unreserved => shut = shut.or(Some(Shut::Unreserved)),
        });
        shut.map_or(Ok(room), Err)
    }

    /// Whether somebody asked for allowance of a source that is not durable.
    fn is_asked(&mut self, limits: &SiteLimits, source: SourceHandle, unit: Unit) -> bool {
        let mut is_asked = false;
        self.looked_at(limits, source, unit, |meter| is_asked |= meter.is_asked());
        is_asked
    }

    /// The most that one transaction can ever take.
    fn largest(&mut self, limits: &SiteLimits, source: SourceHandle, unit: Unit) -> u32 {
        let mut largest = u32::MAX;
        self.looked_at(limits, source, unit, |meter| largest = largest.min(meter.largest()));
        largest
    }
}

/// What a grant took, to be ended with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Charge {
    pub recipients: u16,
    pub domain: u32,
    /// When it was charged to a ladder, if it was.
    pub warmup: Option<Timestamp>,
}

/// What stands against a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Barrier {
    /// The site's windows: nobody's mail goes over this connection now.
    Site(Shut),
    /// The recipient domain's own: others' mail may.
    Domain(Shut),
}

impl Engine {
    /// The time that really passed: what peers count by, and by which all is looked at again that this run began.
    pub(super) fn steady(&self) -> Timestamp {
        self.steady_of(self.now)
    }

    /// When so much will have passed that the clock shows this, if nobody sets it meanwhile.
    pub(super) fn steady_of(&self, shown: Timestamp) -> Timestamp {
        shifted(shown, -self.skew_ms)
    }

    /// What the clock will show then.
    pub(super) fn at(&self, steady: Timestamp) -> Timestamp {
        shifted(steady, self.skew_ms)
    }

    fn haste(&self, lane: u32, kind: StreamKind) -> Haste {
        match kind {
            StreamKind::Transactional => Haste::Ahead(self.lanes[lane].waiting[place_of(kind)]),
            StreamKind::Marketing => Haste::Paced,
        }
    }

    /// The same for a domain's own windows: others' mail in the lane is nothing to them.
    fn haste_of_domain(&self, domain: u32, source: SourceHandle, kind: StreamKind) -> Haste {
        // What waits for its pace is told so.
        if self.is_shut_for(domain, source, kind) {
            return Haste::Paced;
        }
        let flows = self.domains.get(domain).into_iter().flat_map(|known| &known.flows);
        let of_kind = flows.map(|flow| &self.flows[*flow]).filter(|flow| flow.key.kind == kind);
        match kind {
            StreamKind::Transactional => Haste::Ahead(of_kind.map(|flow| flow.ready.len() as u32).sum()),
            StreamKind::Marketing => Haste::Paced,
        }
    }

    /// How many recipients of a row may go over a connection now.
    pub(super) fn pass(&mut self, link: &Link, lane: u32, kind: StreamKind, slot: u32) -> Result<u16, Barrier> {
        let (now, haste) = (self.steady(), self.haste(lane, kind));
        let wanted = u32::from(self.rows[slot].recipients.max(1));
        let domain = self.flows[self.rows[slot].flow].key.domain.0;
        let own_haste = self.haste_of_domain(domain, link.source, kind);
        let site = &mut self.sites[link.site];
        let limits = std::sync::Arc::clone(&site.limits);
        let of_site = recipients_now(&mut site.meters, &limits, link.source, now, haste, wanted);
        let mut allowed = of_site.map_err(Barrier::Site)?;
        if let Some(own) = self.domains.get_mut(domain).and_then(|domain| domain.own.as_deref_mut()) {
            let limits = std::sync::Arc::clone(&own.limits);
            let of_domain = recipients_now(&mut own.meters, &limits, link.source, now, own_haste, wanted);
            allowed = allowed.min(of_domain.map_err(Barrier::Domain)?);
        }
        let source = link.source;
        let at_place =
            self.pass_place(link, |meters, limits| recipients_now(meters, limits, source, now, haste, wanted));
        allowed = allowed.min(at_place.map_err(Barrier::Site)?);
        Ok(u16::try_from(allowed).unwrap_or(u16::MAX))
    }

    /// A message with so many recipients was granted.
    pub(super) fn charge(
        &mut self,
        number: u32,
        link: &Link,
        kind: StreamKind,
        (domain, recipients): (u32, u16),
        out: &mut Vec<Order>,
    ) {
        let now = self.steady();
        let warmup = self.charge_warmup(link, kind, out);
        let take = |unit, meter: &mut Meter| match unit {
            Unit::Messages => meter.take(now, 1),
            Unit::Recipients => meter.take(now, u32::from(recipients)),
            Unit::Connections | Unit::Lesson | Unit::Warmup => {}
        };
        self.each_meter(link.site, domain, link.source, take);
        self.each_meter_at(link.place, link.source, take);
        self.had_turn(link);
        if let Some(link) = self.links.get_mut(&number) {
            link.charge = Some(Charge { recipients, domain, warmup });
        }
        self.reserve_ahead(link.site, Some(domain), link.source, out);
    }

    /// What a connection carried is over: the peer may have counted it if anything of it was sent.
    pub(super) fn discharge(&mut self, number: u32) {
        let now = self.steady();
        let Some(link) = self.links.get_mut(&number) else { return };
        let Some(charge) = link.charge.take() else { return };
        let (site, place, source, sent) = (link.site, link.place, link.source, link.mail_written);
        if let Some(at) = charge.warmup.filter(|_| !sent) {
            self.refund_warmup(source, site, at);
        }
        let end = |meter: &mut Meter, count: u32| match sent {
            true => meter.end(now, count, 0),
            false => meter.end(now, 0, count),
        };
        let end_unit = |unit, meter: &mut Meter| match unit {
            Unit::Messages => end(meter, 1),
            Unit::Recipients => end(meter, u32::from(charge.recipients)),
            Unit::Connections | Unit::Lesson | Unit::Warmup => {}
        };
        self.each_meter(site, charge.domain, source, end_unit);
        self.each_meter_at(place, source, end_unit);
        if !sent {
            self.reopen(site, charge.domain);
        }
    }

    /// What was given back is there for whoever waits for these windows.
    fn reopen(&mut self, site: u32, domain: u32) {
        let now = self.steady();
        if self.sites[site].gate_at != Timestamp::NEVER {
            self.sites[site].gate_at = now;
            self.arm_site(site);
        }
        if KINDS.into_iter().any(|kind| self.is_shut(domain, kind)) {
            self.open_gates(domain);
            self.arm_gate(domain, now);
        }
    }

    /// The clock was set: what is written down speaks of times that it showed, and is written anew.
    pub(super) fn skewed(&mut self, by_ms: i64, out: &mut Vec<Order>) {
        self.skew_ms = by_ms;
        // Whoever sleeps until the clock shows some time is told anew when that is.
        self.announced = Timestamp::NEVER;
        if by_ms.abs_diff(self.written_skew_ms) < RESTATED_FROM_MS {
            return;
        }
        self.written_skew_ms = by_ms;
        self.calendar_moved();
        let (now, sites) = (self.steady(), self.sites.slots());
        for site in 0..sites {
            if let Some(known) = self.sites.get_mut(site) {
                known.meters.restate(Holder::Site(SiteHandle(site)), now, out);
            }
        }
        for domain in 0..self.domains.slots() {
            if let Some(own) = self.domains.get_mut(domain).and_then(|known| known.own.as_deref_mut()) {
                own.meters.restate(Holder::Domain(DomainHandle(domain)), now, out);
            }
        }
    }

    fn each_meter(&mut self, site: u32, domain: u32, source: SourceHandle, mut visit: impl FnMut(Unit, &mut Meter)) {
        let known = &mut self.sites[site];
        let limits = std::sync::Arc::clone(&known.limits);
        for unit in UNITS {
            known.meters.passed(&limits, source, unit, |meter| visit(unit, meter));
        }
        if let Some(own) = self.domains.get_mut(domain).and_then(|domain| domain.own.as_deref_mut()) {
            let limits = std::sync::Arc::clone(&own.limits);
            for unit in [Unit::Messages, Unit::Recipients] {
                own.meters.passed(&limits, source, unit, |meter| visit(unit, meter));
            }
        }
    }

    /// What time has against one more connection of a source to a site, to which its own mail has use for it. `Err`: until
    /// when, if it is looked at again by then.
    pub(super) fn may_dial_now(
        &mut self,
        source: SourceHandle,
        site: u32,
        lane: u32,
        kind: StreamKind,
    ) -> Result<(), Option<Shut>> {
        let now = self.steady();
        if self.first_dial > now {
            return Err(None);
        }
        let haste = self.haste(lane, kind);
        let known = &mut self.sites[site];
        let limits = std::sync::Arc::clone(&known.limits);
        let dialing = u32::from(known.path(source).dialing);
        let connections = known.meters.room(&limits, source, Unit::Connections, now, Haste::Ahead(1));
        // A connection spends no messages: one may be made before any are asked for, so that a dead site has none written.
        // Once they are asked for, none is made before they are there: on a full disk it could carry nothing, would make
        // room for the next, and so without end.
        let mut one_if_unasked = |unit| match known.meters.room(&limits, source, unit, now, haste) {
            Err(Shut::Unreserved) if !known.meters.is_asked(&limits, source, unit) => Ok(1),
            room => room,
        };
        let (messages, recipients) = (one_if_unasked(Unit::Messages), one_if_unasked(Unit::Recipients));
        let found = connections.and_then(|_| Ok(messages?.min(recipients?)));
        match found {
            Ok(room) if room > dialing => Ok(()),
            Ok(_) => Err(None),
            Err(shut) => {
                self.wait_at(site, shut);
                Err(Some(shut))
            }
        }
    }

    /// A connection is being made.
    pub(super) fn charge_dial(&mut self, site: u32, source: SourceHandle, out: &mut Vec<Order>) {
        let now = self.steady();
        let known = &mut self.sites[site];
        let limits = std::sync::Arc::clone(&known.limits);
        known.meters.passed(&limits, source, Unit::Connections, |meter| meter.take(now, 1));
        let proven = known.proven;
        match proven {
            true => self.reserve_ahead(site, None, source, out),
            false => self.reserve_dials(site, source, out),
        }
    }

    /// A connection is made, or will not be: the peer may have counted it.
    pub(super) fn discharge_dial(&mut self, site: u32, source: SourceHandle) {
        let now = self.steady();
        let known = &mut self.sites[site];
        let limits = std::sync::Arc::clone(&known.limits);
        known.meters.passed(&limits, source, Unit::Connections, |meter| meter.end(now, 1, 0));
    }

    /// Asks for allowance of new connections before the last of it is spent, and once more for what could not be written.
    pub(super) fn reserve_dials(&mut self, site: u32, source: SourceHandle, out: &mut Vec<Order>) {
        let known = &mut self.sites[site];
        let limits = std::sync::Arc::clone(&known.limits);
        let mut units = vec![Unit::Connections];
        for unit in [Unit::Messages, Unit::Recipients] {
            let mut is_unwritten = false;
            known.meters.looked_at(&limits, source, unit, |meter| is_unwritten |= meter.is_unwritten());
            units.extend(is_unwritten.then_some(unit));
        }
        known.meters.ask(&limits, Holder::Site(SiteHandle(site)), source, &units, out);
    }

    /// Asks for allowance before the last of it is spent.
    pub(super) fn reserve_ahead(&mut self, site: u32, domain: Option<u32>, source: SourceHandle, out: &mut Vec<Order>) {
        let known = &mut self.sites[site];
        let limits = std::sync::Arc::clone(&known.limits);
        let holder = Holder::Site(SiteHandle(site));
        known.meters.ask(&limits, holder, source, &UNITS, out);
        let Some(domain) = domain else { return };
        if let Some(own) = self.domains.get_mut(domain).and_then(|domain| domain.own.as_deref_mut()) {
            let limits = std::sync::Arc::clone(&own.limits);
            own.meters.ask(&limits, Holder::Domain(DomainHandle(domain)), source, &UNITS, out);
        }
    }

    /// Allowance is durable: whoever waited for it goes on.
    pub(super) fn reserved(&mut self, account: Account, durable: bool, out: &mut Vec<Order>) {
        if account.unit == Unit::Warmup {
            return self.warmup_kept(account, durable, out);
        }
        let Some(meters) = self.meters_of(account.holder) else { return };
        let Some(meter) = meters.find(account.source, account.unit) else { return };
        meter.reserved(durable);
        match account.holder {
            // What could not be written is asked for again by whoever needs it.
            _ if !durable => {}
            Holder::Site(site) => self.open_site(site.0, out),
            Holder::Domain(domain) => {
                self.open_gates(domain.0);
                self.open_domain(domain.0, out);
            }
            Holder::Provider(_) | Holder::All | Holder::Place(_) => {}
        }
    }

    fn meters_of(&mut self, holder: Holder) -> Option<&mut Meters> {
        match holder {
            Holder::Site(site) => self.sites.get_mut(site.0).map(|site| &mut site.meters),
            Holder::Domain(domain) => self.domains.get_mut(domain.0)?.own.as_deref_mut().map(|own| &mut own.meters),
            Holder::Provider(_) | Holder::All | Holder::Place(_) => None,
        }
    }

    /// What is to be written down of an account.
    pub fn record(&mut self, account: Account) -> Option<Vec<u8>> {
        let skew = self.skew_ms;
        if account.unit == Unit::Warmup {
            return self.warmup_record(account);
        }
        if let (Unit::Lesson, Holder::Site(site), Some(source)) = (account.unit, account.holder, account.source) {
            return self.sites.get(site.0).map(|site| site.path(source).written(skew));
        }
        self.meters_of(account.holder)?.find(account.source, account.unit).map(|meter| meter.written(skew))
    }

    /// Nothing goes over this connection before its site's windows open.
    pub(super) fn wait_for_site(&mut self, number: u32, link: &Link, shut: Shut, out: &mut Vec<Order>) {
        let site = &mut self.sites[link.site];
        if !site.gated.contains(&number) {
            site.gated.push(number);
        }
        self.wait_at(link.site, shut);
        if shut == Shut::Unreserved {
            self.reserve_ahead(link.site, None, link.source, out);
        }
    }

    /// Looks at a site again when its windows may be open.
    fn wait_at(&mut self, site: u32, shut: Shut) {
        let now = self.steady();
        let at = match shut {
            Shut::Until(at) => at,
            // Should the disk be so slow that nobody answers, ask again.
            Shut::Unreserved => now.after(Duration::from_secs(1)),
        };
        let known = &mut self.sites[site];
        if known.gate_at <= now || at < known.gate_at {
            known.gate_at = at;
        }
        self.arm_site(site);
    }

    /// A site's windows may be open: connections that waited for it go on, then those who want to dial.
    pub(super) fn open_site(&mut self, site: u32, out: &mut Vec<Order>) {
        let Some(known) = self.sites.get_mut(site) else { return };
        known.gate_at = Timestamp::NEVER;
        for number in std::mem::take(&mut known.gated) {
            let idle = self.links.get(&number).is_some_and(|link| matches!(link.doing, Doing::Idle(_)));
            if idle && link_site(self.links.get(&number)) == Some(site) {
                self.grant(number, out);
            }
        }
        if self.sites.get(site).is_some() {
            self.feed(site, out);
            self.arm_site(site);
        }
    }

    /// A domain's own windows have no room for mail of a kind over a source: what no other source carries leaves its lanes,
    /// so that it stands in nobody's way. What paces marketing does not stop transactional mail.
    pub(super) fn shut_domain(
        &mut self,
        domain: u32,
        link: &Link,
        (kind, shut): (StreamKind, Shut),
        out: &mut Vec<Order>,
    ) {
        let now = self.steady();
        let until = match shut {
            Shut::Until(at) => at.max(now.after(Duration::from_millis(1))),
            Shut::Unreserved => {
                self.reserve_ahead(link.site, Some(domain), link.source, out);
                now.after(Duration::from_secs(1))
            }
        };
        let Some(known) = self.domains.get_mut(domain) else { return };
        let Some(own) = known.own.as_deref_mut() else { return };
        own.shut(link.source, kind, until);
        for place in 0..known.flows.len() {
            let flow = self.domains[domain].flows[place];
            if self.flows[flow].key.kind == kind && self.is_shut_out(flow) {
                lane::detach(flow, &mut self.flows, &mut self.lanes);
            }
        }
        self.arm_gate(domain, until);
    }

    /// Whether the domain's own windows have no room for a flow's mail over any source that carries it.
    pub(super) fn is_shut_out(&self, flow: u32) -> bool {
        let (key, now) = (&self.flows[flow].key, self.steady());
        let Some(own) = self.domains.get(key.domain.0).and_then(|known| known.own.as_deref()) else { return false };
        if !own.is_by_source() {
            // Whichever source found it full says it for all.
            return own.is_shut(None, key.kind, now);
        }
        let sources = self.sources(self.via(key));
        !sources.is_empty() && sources.iter().all(|source| own.is_shut(Some(*source), key.kind, now))
    }

    /// Whether a lane's mail of a kind has no room over this source, by its domain's own windows.
    pub(super) fn is_lane_shut(&self, lane: u32, source: SourceHandle, kind: StreamKind) -> bool {
        let Via::Own(_, domain) = self.lanes[lane].via else { return false };
        let own = self.domains.get(domain.0).and_then(|known| known.own.as_deref());
        own.is_some_and(|own| own.is_shut(Some(source), kind, self.steady()))
    }

    /// Has a domain's windows looked at by this time.
    fn arm_gate(&mut self, domain: u32, at: Timestamp) {
        let now = self.steady();
        let Some(own) = self.domains.get_mut(domain).and_then(|known| known.own.as_deref_mut()) else { return };
        if own.gate_at > now && own.gate_at <= at {
            return;
        }
        let was = std::mem::replace(&mut own.gate_at, at);
        self.arm(was, at, Alarm::Gate(domain));
    }

    /// Some of a domain's own windows may be open: its mail goes back to its lanes.
    pub(super) fn open_domain(&mut self, domain: u32, out: &mut Vec<Order>) {
        let now = self.steady();
        let Some(known) = self.domains.get_mut(domain) else { return };
        let mut again = None;
        if let Some(own) = known.own.as_deref_mut() {
            own.open(now);
            again = own.opens_at(now);
            let was = std::mem::replace(&mut own.gate_at, Timestamp::NEVER);
            self.arm(was, Timestamp::NEVER, Alarm::Gate(domain));
        }
        for place in 0..self.domains[domain].flows.len() {
            let Some(flow) = self.domains.get(domain).and_then(|known| known.flows.get(place)).copied() else { break };
            match self.flows[flow].lane {
                NONE => self.attach_flow(flow, out),
                // It stands in its lane, since another source carries it; one more may now.
                lane => self.want_again(lane, self.flows[flow].key.kind, out),
            }
        }
        if let Some(at) = again {
            self.arm_gate(domain, at);
        }
    }

    /// A lane's mail may go over a source that it could not go over.
    fn want_again(&mut self, lane: u32, kind: StreamKind, out: &mut Vec<Order>) {
        let Via::Own(..) = self.lanes[lane].via else { return };
        self.want(lane, kind, out);
        if self.lanes[lane].queued[place_of(kind)] {
            let site = self.targets[self.lanes[lane].target].site;
            self.feed(site, out);
        }
    }

    /// What was found shut may be open before its time.
    fn open_gates(&mut self, domain: u32) {
        if let Some(own) = self.domains.get_mut(domain).and_then(|known| known.own.as_deref_mut()) {
            own.open(Timestamp::NEVER);
        }
    }

    /// A domain's own limits are others, or gone: which lanes are its mail's is said anew.
    pub(super) fn reopen_domain(&mut self, domain: u32, out: &mut Vec<Order>) {
        self.open_gates(domain);
        for place in 0..self.domains.get(domain).map_or(0, |known| known.flows.len()) {
            lane::detach(self.domains[domain].flows[place], &mut self.flows, &mut self.lanes);
        }
        self.open_domain(domain, out);
    }

    /// Whether a domain's own windows keep its mail of a kind off some source.
    pub(super) fn is_shut(&self, domain: u32, kind: StreamKind) -> bool {
        let own = self.domains.get(domain).and_then(|known| known.own.as_deref());
        own.is_some_and(|own| own.is_shut(None, kind, self.steady()))
    }

    fn is_shut_for(&self, domain: u32, source: SourceHandle, kind: StreamKind) -> bool {
        let own = self.domains.get(domain).and_then(|known| known.own.as_deref());
        own.is_some_and(|own| own.is_shut(Some(source), kind, self.steady()))
    }

    /// What windows keep mail of a kind, from a source to a site and a domain, from going now. `haste`: at the site.
    pub(super) fn why_windows(
        &self,
        source: SourceHandle,
        site: Option<u32>,
        domain: u32,
        (kind, haste): (StreamKind, Haste),
    ) -> Vec<Constraint> {
        let own_haste = self.haste_of_domain(domain, source, kind);
        let now = self.steady();
        let mut all = Vec::new();
        if let Some(site) = site
            && let Some((rate, meter)) = self.sites[site].meters.lesson(source)
            && let Room::At(at, ..) = meter.clone().room(now, haste)
        {
            all.push(Constraint::Slowed(source, SiteHandle(site), rate, self.at(at)));
        }
        let mut look = |holder: Holder, meters: &Meters, haste: Haste| {
            for (of, unit, meter) in meters.uses().filter(|(of, ..)| of.is_none_or(|of| of == source)) {
                let account = Account { holder, source: of, unit };
                // A look changes nothing: it expires what is old in a copy.
                let mut copy = meter.clone();
                match copy.room(now, haste) {
                    Room::For(_) => {}
                    Room::At(at, rate, bound) => {
                        let used = copy.uses().find(|(_, other)| *other == rate).map_or(0, |(used, _)| used);
                        all.push(Constraint::Window { account, rate, used, bound, until: self.at(at) });
                    }
                    Room::Unreserved => all.push(Constraint::Reserving(account)),
                }
            }
        };
        if let Some(site) = site {
            look(Holder::Site(SiteHandle(site)), &self.sites[site].meters, haste);
        }
        if let Some(own) = self.domains.get(domain).and_then(|known| known.own.as_deref()) {
            look(Holder::Domain(DomainHandle(domain)), &own.meters, own_haste);
        }
        if let Some(site) = site {
            for (place, meters) in self.meters_at(site, source) {
                look(Holder::Place(place), meters, haste);
            }
        }
        all
    }
}

fn shifted(at: Timestamp, by_ms: i64) -> Timestamp {
    match at {
        Timestamp::NEVER => at,
        at => Timestamp::from_millis(super::path::shifted(at.as_millis(), by_ms)),
    }
}

fn link_site(link: Option<&Link>) -> Option<u32> {
    link.map(|link| link.site)
}

/// How many recipients of a transaction may go now, one at least.
fn recipients_now(
    meters: &mut Meters,
    limits: &SiteLimits,
    source: SourceHandle,
    now: Timestamp,
    haste: Haste,
    wanted: u32,
) -> Result<u32, Shut> {
    let messages = meters.room(limits, source, Unit::Messages, now, haste);
    // What a transaction takes of recipients is one burst, whatever the pace.
    let recipients = meters.room(limits, source, Unit::Recipients, now, Haste::Ahead(0));
    let paced = meters.room(limits, source, Unit::Recipients, now, haste);
    let (_, room, _) = (messages?, recipients?, paced?);
    let largest = meters.largest(limits, source, Unit::Recipients);
    let worthwhile = wanted.min((largest / WORTHWHILE_SHARE).max(1));
    if room < worthwhile {
        // When exactly so many are free is not worth knowing: a short wait, and another look.
        return Err(Shut::Until(now.after(Duration::from_millis(100))));
    }
    Ok(room.min(wanted))
}

impl Meters {
    fn ask(&mut self, limits: &SiteLimits, holder: Holder, source: SourceHandle, units: &[Unit], out: &mut Vec<Order>) {
        for unit in units.iter().copied() {
            for source in [Some(source), None] {
                if self.meter(limits, source, unit).is_some_and(|meter| meter.wants()) {
                    out.push(Order::Reserve(Account { holder, source, unit }));
                }
            }
        }
    }
}
