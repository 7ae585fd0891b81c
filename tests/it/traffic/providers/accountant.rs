//! Whoever counts what peers can count, and knows the order that was promised. It sees connections, transactions and
//! replies, and what the config says; of the engine it asks nothing but what `traffic warmup` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::{Feedback, Signal};
use postrider::mail::StreamKind;
use postrider::time::Timestamp;
use postrider::traffic::{
    Account, DomainHandle, Handle, Holder, Limits, ProviderHandle, Put, RESERVE_FOR, Rates, SiteHandle, SiteLimits,
    SourceHandle, Unit,
};

use super::super::world::{Aim, Call, Connection, Known, World};

/// The most that two credentials in turn may be apart, in recipients: each may be in debt by one envelope (32 at most) and
/// one turn ahead; and as much again, since a debt is forgotten when a domain's mail leaves its lane for a moment.
const APART_MAX: i64 = 132;
const DAY: u64 = 86_400;
/// Windows this long outlive a crash by their records; shorter ones are waited out.
const KEPT_FROM: Duration = Duration::from_secs(10);

/// What was counted of one account. A transaction counts from its grant until its reply, and then as long as a window is.
#[derive(Default)]
struct Tally {
    /// When some ended, and how many had by then: in all, and of those that a limit was in force for.
    ended: Vec<(Timestamp, u64, u64)>,
    flying: u64,
    /// Since when there is a window that is kept.
    limited_since: Option<Timestamp>,
    /// Of before this, a kept window only knows what was limited then.
    forgiven: Option<Timestamp>,
}

impl Tally {
    fn ended_by(&self, at: Timestamp) -> (u64, u64) {
        let place = self.ended.partition_point(|(ended, ..)| *ended <= at);
        place.checked_sub(1).map_or((0, 0), |place| (self.ended[place].1, self.ended[place].2))
    }

    fn used(&self, now: Timestamp, per: Duration) -> u64 {
        let (from, all) = (now.before(per), self.ended.last().map_or(0, |(_, all, _)| *all));
        let (gone, gone_limited) = self.ended_by(from);
        match self.forgiven.filter(|until| per >= KEPT_FROM && *until > from) {
            Some(until) => {
                let (known, known_limited) = self.ended_by(until);
                self.flying + all - known + known_limited - gone_limited
            }
            None => self.flying + all - gone,
        }
    }

    fn end(&mut self, begun: Timestamp, now: Timestamp, sent: u64, unsent: u64) {
        self.flying -= sent + unsent;
        let (all, limited) = self.ended.last().map_or((0, 0), |(_, all, limited)| (*all, *limited));
        let counts = self.limited_since.is_some_and(|since| begun >= since);
        self.ended.push((now, all + sent, limited + if counts { sent } else { 0 }));
    }

    /// A later run knows what was written down. What no kept window limited was not.
    fn survive(&mut self, at: Timestamp, is_written_down: bool) {
        if self.limited_since.is_none() || !is_written_down {
            self.forgiven = Some(at);
        }
    }
}

struct Flight {
    call: Call,
    domain: u32,
    recipients: u64,
    /// It was counted toward a ladder's day.
    warmed: bool,
    provider: ProviderHandle,
    day: u64,
}

/// The mail of one kind and rank that goes to the same hosts over the same pool.
type Level = (u32, u16, StreamKind, u8);

#[derive(Default)]
pub struct Accountant {
    /// While both kinds wait, one grant in so many is marketing's.
    pub marketing_one_in: u32,
    /// By stage; what is past it is warm.
    pub ladder: Vec<u32>,
    sites: BTreeMap<u32, Arc<SiteLimits>>,
    domains: BTreeMap<u32, Option<Arc<SiteLimits>>>,
    tallies: BTreeMap<Account, Tally>,
    open: BTreeMap<(u32, SourceHandle), u32>,
    /// Connections of a run that died, until their peers saw it.
    lingering: Vec<(Timestamp, u32, SourceHandle)>,
    /// Ours says that it ended; the peer sees that so much later.
    pub lingers: Duration,
    /// Since when.
    connecting: BTreeMap<u32, Timestamp>,
    flights: BTreeMap<u32, Flight>,
    proven: BTreeSet<u32>,
    since_marketing: BTreeMap<u32, u32>,
    transactional_at: BTreeMap<u32, Timestamp>,
    apart: BTreeMap<Level, BTreeMap<(u32, u32), i64>>,
    warmed: BTreeMap<(SourceHandle, ProviderHandle, u64), u32>,
    /// Sources that had trouble at a site.
    pub troubled: BTreeSet<(u32, SourceHandle)>,
    pub sends: u32,
    pub dials: u32,
    /// Of any window, the largest share that was ever in use, in thousandths.
    pub fullest: u64,
}

fn rank_of(put: &Put) -> u8 {
    2 * (100 - put.priority) + u8::from(!put.engaged)
}

fn rates(limits: &Limits, unit: Unit) -> &Rates {
    match unit {
        Unit::Messages => &limits.messages,
        Unit::Recipients => &limits.recipients,
        Unit::Connections => &limits.new_connections,
        Unit::Warmup | Unit::Lesson => &Rates::NONE,
    }
}

impl Accountant {
    pub fn new(ladder: Vec<u32>) -> Accountant {
        Accountant { marketing_one_in: 10, ladder, ..Accountant::default() }
    }

    pub fn limits_of(&self, site: u32) -> Option<&Arc<SiteLimits>> {
        self.sites.get(&site)
    }

    /// The engine was told these.
    pub fn told(&mut self, site: u32, limits: Arc<SiteLimits>, domain: u32, own: Option<Arc<SiteLimits>>) {
        self.sites.insert(site, limits);
        if own.is_none() {
            // A limit that ends is begun anew.
            self.tallies.retain(|account, _| account.holder != Holder::Domain(DomainHandle(domain)));
        }
        self.domains.insert(domain, own);
    }

    fn start(
        &mut self,
        at: Timestamp,
        holder: Holder,
        source: SourceHandle,
        unit: Unit,
        count: u64,
        what: &SiteLimits,
    ) {
        for source in [Some(source), None] {
            let limits = source.map_or(&what.total, |source| what.of(source));
            let tally = self.tallies.entry(Account { holder, source, unit }).or_default();
            tally.flying += count;
            if rates(limits, unit).iter().all(|rate| rate.per < KEPT_FROM) {
                tally.limited_since = None;
            } else {
                tally.limited_since.get_or_insert(at);
            }
            for rate in rates(limits, unit).iter() {
                let used = tally.used(at, rate.per);
                let most = u64::from(rate.count.max(1));
                assert!(used <= most, "{holder:?} of {source:?}: {used} {unit:?} of {rate:?}");
                self.fullest = self.fullest.max(used * 1000 / most);
            }
        }
    }

    fn end(
        &mut self,
        (begun, at): (Timestamp, Timestamp),
        holder: Holder,
        source: SourceHandle,
        unit: Unit,
        (sent, unsent): (u64, u64),
    ) {
        for source in [Some(source), None] {
            if let Some(tally) = self.tallies.get_mut(&Account { holder, source, unit }) {
                tally.end(begun, at, sent, unsent);
            }
        }
    }

    /// What is in use of a window now, as peers count.
    pub fn used(&self, at: Timestamp, account: Account, per: Duration) -> u64 {
        self.tallies.get(&account).map_or(0, |tally| tally.used(at, per))
    }

    pub fn open_at(&self, site: u32, source: SourceHandle) -> u32 {
        self.open.get(&(site, source)).copied().unwrap_or_default()
    }

    pub fn open_in_all(&self, site: u32) -> u32 {
        self.open.iter().filter(|((of, _), _)| *of == site).map(|(_, open)| open).sum()
    }

    pub fn is_proven(&self, site: u32) -> bool {
        self.proven.contains(&site)
    }

    pub fn unproven(&self, world: &World) -> usize {
        world.connections.values().filter(|link| !self.proven.contains(&link.site)).count()
    }

    pub fn dialed(&mut self, world: &World, call: &Call) {
        self.dials += 1;
        *self.open.entry((call.site, call.source)).or_default() += 1;
        self.connecting.insert(call.connection, call.at);
        let limits = Arc::clone(&self.sites[&call.site]);
        self.lingering.retain(|(until, ..)| *until > call.at);
        let linger = |source: Option<SourceHandle>| {
            let of = |(_, site, by): &&(Timestamp, u32, SourceHandle)| {
                *site == call.site && source.is_none_or(|source| source == *by)
            };
            self.lingering.iter().filter(of).count() as u32
        };
        let (open, all) = (self.open_at(call.site, call.source), self.open_in_all(call.site));
        let (open, all) = (open + linger(Some(call.source)), all + linger(None));
        let most = u32::from(limits.of(call.source).connections.max(1));
        assert!(open <= most, "{open} connections of {:?} to site {} at a limit of {most}", call.source, call.site);
        let most = u32::from(limits.total.connections.max(1));
        assert!(all <= most, "{all} connections to site {} at a limit of {most} in total", call.site);
        self.start(call.at, Holder::Site(SiteHandle(call.site)), call.source, Unit::Connections, 1, &limits);
        if !self.proven.contains(&call.site) {
            let quarter = (world.rules.total_connections.max(1) / 4).max(1) as usize;
            let unproven = self.unproven(world);
            assert!(unproven <= quarter, "{unproven} of {quarter} connections to sites that never took mail");
        }
    }

    /// The dial came to its end, whichever.
    pub fn greeted(&mut self, call: &Call, signal: Option<Signal>) {
        if signal.is_some() {
            self.troubled.insert((call.site, call.source));
        }
        if let Some(begun) = self.connecting.remove(&call.connection) {
            let site = Holder::Site(SiteHandle(call.site));
            self.end((begun, call.at), site, call.source, Unit::Connections, (1, 0));
        }
    }

    pub fn hung_up(&mut self, call: &Call) {
        self.troubled.extend(self.connecting.contains_key(&call.connection).then_some((call.site, call.source)));
        if let Some(open) = self.open.get_mut(&(call.site, call.source)) {
            *open -= 1;
        }
        if !self.lingers.is_zero() {
            self.lingering.push((call.at.after(self.lingers), call.site, call.source));
        }
    }

    pub fn sent(&mut self, world: &World, call: &Call, known: &Known, recipients: u16) {
        self.sends += 1;
        let (site, put) = (call.site, &known.put);
        let domain = put.domain.0;
        let limits = Arc::clone(&self.sites[&site]);
        for (unit, count) in [(Unit::Messages, 1), (Unit::Recipients, u64::from(recipients))] {
            self.start(call.at, Holder::Site(SiteHandle(site)), call.source, unit, count, &limits);
            if let Some(own) = self.domains.get(&domain).cloned().flatten() {
                self.start(call.at, Holder::Domain(DomainHandle(domain)), call.source, unit, count, &own);
            }
        }
        let most = u32::from(limits.of(call.source).connections);
        let link = world.connections[&call.connection];
        self.check_share(world, call, put.kind, most);
        self.check_order(world, &link, known);
        self.check_warmup(world, call, put);
        match put.kind {
            StreamKind::Transactional => {
                *self.since_marketing.entry(site).or_default() += 1;
                self.transactional_at.insert(site, world.now);
            }
            StreamKind::Marketing => drop(self.since_marketing.insert(site, 0)),
        }
        let (provider, day) = (world.aims[&domain].provider, world.now.as_secs() / DAY);
        let warmed = put.kind == StreamKind::Marketing || world.crashes == 0;
        let flight = Flight { call: *call, domain, recipients: u64::from(recipients), provider, day, warmed };
        self.flights.insert(call.connection, flight);
    }

    /// Marketing leaves one of two or more slots to transactional mail, where some was seen lately.
    fn check_share(&self, world: &World, call: &Call, kind: StreamKind, most: u32) {
        let lately = self.transactional_at.get(&call.site).is_some_and(|at| world.now.since(*at) < RESERVE_FOR);
        if kind == StreamKind::Transactional || most < 2 || !lately {
            return;
        }
        let here = |link: &&Connection| {
            link.source == call.source && link.site == call.site && link.kind == Some(StreamKind::Marketing)
        };
        let held = world.connections.values().filter(here).count() as u32;
        assert!(held < most, "marketing holds {held} of {most} connections");
    }

    /// Of all that could go over this connection, was this the first?
    fn check_order(&mut self, world: &World, link: &Connection, sent: &Known) {
        if world.is_rearranging {
            return;
        }
        let (put, rank) = (&sent.put, rank_of(&sent.put));
        let warms = world.rules.warming.iter().any(Option::is_some);
        let level = (link.target, put.pool.0, put.kind, rank);
        // What has limits of its own for single sources, of several, stands beside the others and has its turn as they have.
        let pool = &world.rules.pools[usize::from(put.pool.0)];
        let several = pool.iter().any(|source| Some(source) != pool.first());
        let own = world.aims.get(&put.domain.0).and_then(|aim| aim.own.as_deref());
        let apart = several && own.is_some_and(is_by_source);
        let (mut waits, mut own_waits) = (BTreeSet::new(), false);
        for other in world.waiting.values().filter(|other| is_able(world, link, other)) {
            let (theirs, their_rank) = (&other.put, rank_of(&other.put));
            let alike = theirs.pool == put.pool && other.stays == sent.stays && !apart;
            if warms && !alike {
                continue;
            }
            if theirs.kind == StreamKind::Transactional && put.kind == StreamKind::Marketing && !warms {
                let since = self.since_marketing.get(&link.site).copied().unwrap_or_default();
                assert!(since + 1 >= self.marketing_one_in, "{put:?} went before {theirs:?}, {since} after the last");
            }
            if theirs.kind != put.kind {
                continue;
            }
            assert!(their_rank >= rank, "{put:?} went before {theirs:?}");
            if !alike || their_rank != rank {
                continue;
            }
            if theirs.credential == put.credential {
                own_waits = true;
                assert!(other.due >= sent.due, "{sent:?} went before {other:?}");
            } else if other.stays.is_none() {
                waits.insert(theirs.credential.0);
            }
        }
        if sent.stays.is_none() && !apart {
            self.check_turns(level, put, &waits, own_waits);
        }
    }

    /// Deficit round robin: credentials that both wait have had nearly the same.
    fn check_turns(&mut self, level: Level, put: &Put, waits: &BTreeSet<u32>, own_waits: bool) {
        let (own, cost) = (put.credential.0, i64::from(put.recipients.clamp(1, 32)));
        let apart = self.apart.entry(level).or_default();
        // Whoever has nothing left begins anew.
        apart.retain(|(one, other), _| {
            [one, other].into_iter().all(|credential| *credential == own || waits.contains(credential))
        });
        for other in waits {
            let lead = apart.entry((own, *other)).or_default();
            *lead += cost;
            let lead = *lead;
            *apart.entry((*other, own)).or_default() -= cost;
            assert!(lead <= APART_MAX, "credential {own} is {lead} recipients ahead of {other} on {level:?}");
        }
        if !own_waits {
            apart.retain(|(one, other), _| *one != own && *other != own);
        }
    }

    /// Turns begin anew where what waits was rearranged.
    pub fn unsettle(&mut self) {
        self.apart.clear();
    }

    fn check_warmup(&mut self, world: &World, call: &Call, put: &Put) {
        if world.rules.warming.get(usize::from(call.source.0)).is_none_or(Option::is_none) {
            return;
        }
        let (provider, day) = (world.aims[&put.domain.0].provider, world.now.as_secs() / DAY);
        let count = self.warmed.entry((call.source, provider, day)).or_default();
        // A crash may forget transactional mail that waited for no record; marketing's promise stands.
        *count += u32::from(put.kind == StreamKind::Marketing || world.crashes == 0);
        let ladders = world.engine.warmups();
        let Some(ladder) = ladders.iter().find(|of| (of.source, of.provider) == (call.source, provider)) else {
            return;
        };
        let budget = self.ladder.get(usize::from(ladder.view.stage)).copied();
        if let Some(budget) = budget.filter(|_| put.kind == StreamKind::Marketing) {
            assert!(*count <= budget, "{count} of {budget} over {:?} at {provider:?} on a day", call.source);
        }
    }

    pub fn answered(&mut self, call: &Call, sent: bool, signal: Option<Signal>) {
        let Some(flight) = self.flights.remove(&call.connection) else { return };
        self.land(call.at, &flight, sent);
        match signal.map(|signal| (signal.feedback, signal.reaction)) {
            Some((Feedback::Good | Feedback::Neutral, None)) => drop(self.proven.insert(call.site)),
            Some((feedback, _)) => {
                if matches!(feedback, Feedback::Good | Feedback::Neutral) {
                    self.proven.insert(call.site);
                }
                self.troubled.insert((call.site, call.source));
            }
            None => drop(self.troubled.insert((call.site, call.source))),
        }
    }

    fn land(&mut self, at: Timestamp, flight: &Flight, sent: bool) {
        let (site, source) = (Holder::Site(SiteHandle(flight.call.site)), flight.call.source);
        for (unit, count) in [(Unit::Messages, 1), (Unit::Recipients, flight.recipients)] {
            let (times, counts) = ((flight.call.at, at), if sent { (count, 0) } else { (0, count) });
            self.end(times, site, source, unit, counts);
            self.end(times, Holder::Domain(DomainHandle(flight.domain)), source, unit, counts);
        }
        let warmed = self.warmed.get_mut(&(source, flight.provider, flight.day));
        if let Some(count) = warmed.filter(|_| !sent && flight.warmed) {
            *count = count.saturating_sub(1);
        }
    }

    /// The process is gone. `seen_within`: so much later all peers have seen it.
    pub fn stopped(&mut self, at: Timestamp, seen_within: Duration, is_written_down: impl Fn(&Account) -> bool) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            self.land(at, &flight, true);
        }
        // Dials that were under way.
        self.connecting.clear();
        for (account, tally) in &mut self.tallies {
            tally.end(at, at, tally.flying, 0);
            tally.survive(at, is_written_down(account));
        }
        for ((site, source), open) in std::mem::take(&mut self.open) {
            let until = at.after(seen_within);
            self.lingering.extend((0..open).filter(|_| !seen_within.is_zero()).map(|_| (until, site, source)));
        }
        (self.proven, self.since_marketing, self.transactional_at) = Default::default();
        self.sites.clear();
        self.domains.clear();
        self.unsettle();
    }

    /// The engine lets go of something: nothing of its windows may be in use.
    pub fn forgotten(&mut self, at: Timestamp, handle: Handle) {
        let (holder, limits) = match handle {
            Handle::Site(site) => {
                self.proven.remove(&site.0);
                self.since_marketing.remove(&site.0);
                self.transactional_at.remove(&site.0);
                (Holder::Site(site), self.sites.remove(&site.0))
            }
            Handle::Domain(domain) => (Holder::Domain(domain), self.domains.remove(&domain.0).flatten()),
            Handle::Target(_) | Handle::Place(_) => return,
        };
        for (account, tally) in self.tallies.iter().filter(|(account, _)| account.holder == holder) {
            let Some(limits) = &limits else { continue };
            let limits = account.source.map_or(&limits.total, |source| limits.of(source));
            for rate in rates(limits, account.unit).iter() {
                assert_eq!(tally.used(at, rate.per), 0, "{account:?} was forgotten with {rate:?} in use");
            }
        }
        self.tallies.retain(|account, _| account.holder != holder);
    }
}

fn is_by_source(own: &SiteLimits) -> bool {
    let all = own.sources.iter().map(|(_, limits)| limits).chain([&own.each]);
    all.into_iter().any(|limits| !limits.messages.is_empty() || !limits.recipients.is_empty())
}

/// Whether an envelope could go over this connection as well, by all that is known outside.
fn is_able(world: &World, link: &Connection, known: &Known) -> bool {
    let put = &known.put;
    let waits = !known.flying && !known.gone && !known.ending && !put.held;
    let is_time = known.due <= world.last_fact && known.deadline > world.now;
    let here = |aim: &Aim| aim.target == link.target && aim.own.is_none();
    // What the engine forgot of hosts that nobody needed is looked up again.
    let is_known = world.engine.site_of(put.id).is_some();
    waits
        && is_time
        && is_known
        && world.aims.get(&put.domain.0).is_some_and(here)
        && world.rules.pools[usize::from(put.pool.0)].contains(&link.source)
        && known.stays.is_none_or(|source| source == link.source)
}
