//! The engine: which envelope goes now, over which source, or why none can. Pure, and the heart of the relay.
//!
//! ```text
//!   queue, connections, DNS ──► Fact ──► Engine::apply ──► Order ──► dial, send, look up, expire
//! ```
//! `scheduler` owns the one engine, tells it everything that happens and does what it orders. The engine knows no
//! clock, no names and no sockets, so that the same code runs for thirty simulated days in a second.
//!
//! # What it holds to
//! - Never more connections of a source at a site than the limit, counted from the dial to the peer's EOF.
//! - No window of messages, recipients or new connections ever holds more than its limit as the peer may count, per
//!   source at a site, in total there, for a domain with limits of its own, and at an address that sites share: see
//!   `meter`, `place`.
//! - An envelope is on its way once at most; what is held does not move; what is gone is not sent.
//! - Past its longest age an envelope is not sent but expired. One exception: if it is put (found at start, released)
//!   when that has passed already or nearly so, and its stream's longest age is an hour or more, it gets
//!   [`GRACE`] in which it may be attempted once: a relay that was down must not bounce what it never tried.
//! - At each message boundary: transactional before marketing, then priority, then credentials in turn, then due. While
//!   both kinds wait for a connection, one grant in ten is marketing's, and where transactional mail was seen within
//!   [`RESERVE_FOR`] marketing leaves it one of two or more slots.
//! - A site that is full, dead or slow holds nothing up but itself: each has its own queues, and sites that never took
//!   a message hold at most a quarter of all connections.
//! - Refusals cost the source a slot or a pause at that site, never an envelope one of its attempts.
//!
//! Nothing scans: what is blocked waits in a heap of timers, what is ready in lines and rings; every fact costs
//! O(log n). Only [`Fact::Reload`], an operator's order, and [`Engine::sites`] walk over everything.
//!
//! Windows of ten seconds and more outlive a crash: what is spent of them was made durable before (`Reserve`,
//! `Reserved`). The refusals of a site are not written to its envelopes, since [`Engine::why`] knows them.

mod domain;
mod ending;
mod gate;
mod heap;
mod lane;
mod lesson;
mod limits;
mod link;
mod meter;
mod path;
mod place;
mod react;
mod row;
mod serve;
mod site;
mod slab;
mod stop;
mod warming;
pub mod warmup;
mod why;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

pub use limits::{Limits, Rate, Rates, SiteLimits};
pub use meter::Bound;
pub use site::{PathView, SiteView, UseView};
pub use warming::{Warming, WarmupView};
pub use words::*;

use crate::time::Timestamp;
use domain::{Domain, Resolution};
use lane::{Flow, FlowKey, Lane};
use link::Link;
use place::Place;
use site::{Site, Target};
use slab::{Mixed, Rows, Slab};
use stop::Stopped;

pub use row::GRACE;
pub use site::RESERVE_FOR;

/// See the module.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    now: Now,
    jitter: f64,
    rows: Rows,
    /// Rows that must be looked at some time: due, or expired.
    timers: Vec<u32>,
    flows: Slab<Flow>,
    flow_of: HashMap<FlowKey, u32, Mixed>,
    lanes: Slab<Lane>,
    domains: Slab<Domain>,
    targets: Slab<Target>,
    sites: Slab<Site>,
    sites_made: u64,
    links: HashMap<u32, Link, Mixed>,
    /// Addresses that there are connections to, or lately were.
    places: BTreeMap<PlaceHandle, Place>,
    last_link: u32,
    /// Grants so far: tells lanes apart by when they were last served.
    grants: u64,
    /// Connections that were told to close, or broke.
    closing: u32,
    /// Connections of sites without a success.
    unproven: u32,
    /// Idle connections, the longest idle first. By the time that really passed, as alarms are.
    idle: BTreeSet<(Timestamp, u32)>,
    /// Domains and sites that must be looked at some time.
    alarms: BTreeSet<(Timestamp, Alarm)>,
    /// Domains to be looked up, in turn.
    to_resolve: VecDeque<u32>,
    resolving: u32,
    /// Sites that would dial but for the total: proven ones, and the others.
    starved: [VecDeque<u32>; 2],
    /// Rows to be expired, in turn.
    dying: VecDeque<u32>,
    /// Domains whose mail fails, in turn.
    failing: VecDeque<u32>,
    /// Orders to end an envelope that were not answered yet.
    ending: u32,
    stopped: Stopped,
    /// Sources that warm up, at providers; their totals, and what goes to providers.
    warming: BTreeMap<(SourceHandle, ProviderHandle), warming::Climb>,
    totals: BTreeMap<SourceHandle, warming::Sum>,
    volumes: BTreeMap<ProviderHandle, warming::Volume>,
    /// The last `WakeAt`.
    announced: Timestamp,
    /// By how much `now` is ahead of the time that really passed since the start. Unit: milliseconds.
    skew_ms: i64,
    /// The same when all records were written anew last.
    written_skew_ms: i64,
    /// When the engine began, by that time.
    started: Timestamp,
    /// Nothing is dialed before this, by that time.
    first_dial: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Alarm {
    Domain(u32),
    Site(u32),
    /// A warming source may have room at a provider.
    Warmup(SourceHandle, ProviderHandle),
    /// A recipient domain's own windows have room again.
    Gate(u32),
    /// A peer's address may be forgotten.
    Place(PlaceHandle),
    /// Dialing may begin.
    Begin,
}

impl Engine {
    /// An engine without mail.
    pub fn new(rules: Rules) -> Engine {
        Engine {
            rules,
            now: Timestamp::ZERO,
            jitter: 0.5,
            rows: Rows::default(),
            timers: Vec::new(),
            flows: Slab::default(),
            flow_of: HashMap::default(),
            lanes: Slab::default(),
            domains: Slab::default(),
            targets: Slab::default(),
            sites: Slab::default(),
            sites_made: 0,
            links: HashMap::default(),
            places: BTreeMap::new(),
            last_link: 0,
            grants: 0,
            closing: 0,
            unproven: 0,
            idle: BTreeSet::new(),
            alarms: BTreeSet::new(),
            to_resolve: VecDeque::new(),
            resolving: 0,
            starved: [VecDeque::new(), VecDeque::new()],
            dying: VecDeque::new(),
            failing: VecDeque::new(),
            ending: 0,
            stopped: Stopped::default(),
            warming: BTreeMap::new(),
            totals: BTreeMap::new(),
            volumes: BTreeMap::new(),
            announced: Timestamp::NEVER,
            skew_ms: 0,
            written_skew_ms: 0,
            started: Timestamp::ZERO,
            first_dial: Timestamp::ZERO,
        }
    }

    /// An engine that begins at `now`: what an earlier run did shortly before, the peers still count.
    pub fn starting_at(rules: Rules, now: Now) -> Engine {
        Engine { now, started: now, ..Engine::new(rules) }
    }

    /// Tells the engine what happened at `now`, and adds to `out` what is to be done about it, in order. `jitter` is a
    /// fresh random number from 0 to 1. A fact about something that the engine does not know is ignored.
    pub fn apply(&mut self, now: Now, jitter: f64, fact: Fact, out: &mut Vec<Order>) {
        self.now = self.now.max(now);
        self.jitter = jitter;
        let is_tick = matches!(fact, Fact::Tick);
        match fact {
            Fact::Put(put) => self.put(put, out),
            Fact::Gone(id) => self.gone(id, out),
            Fact::Resolved { domain, target, site, provider, limits, own, kept, until } => {
                self.resolved(Resolution { domain, target, site, provider, limits, own, kept, until }, out);
            }
            Fact::Unresolved(domain, why) => self.unresolved(domain, why, out),
            Fact::Connected { connection, deliveries_max } => self.connected(connection, deliveries_max, out),
            Fact::Arrived(connection, place) => self.arrived(connection, place),
            Fact::Crowded(connection, place) => self.crowded(connection, place, out),
            Fact::Refused(connection, signal) => self.refused(connection, signal, out),
            Fact::MailWritten(connection, id) => self.mail_written(connection, id),
            Fact::Settled { connection, id, due, signal } => self.settled(connection, id, due, signal, out),
            Fact::Skipped(connection, id) => self.skipped(connection, id, out),
            Fact::Returned(connection, id) => self.returned(connection, id, out),
            Fact::Eof(connection) => self.eof(connection, out),
            Fact::Ended(id, ending) => self.ended(id, ending, out),
            Fact::Reserved(account, durable) => self.reserved(account, durable, out),
            Fact::Skewed(by_ms) => self.skewed(by_ms, out),
            Fact::Reload(rules) => self.reload(rules, out),
            Fact::Operator(operator) => self.operate(operator, out),
            Fact::Tick => {}
        }
        self.advance(out);
        self.announce(is_tick, out);
    }

    /// Envelopes that the engine knows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections from their dial to their EOF.
    pub fn connections(&self) -> usize {
        self.links.len()
    }

    /// Whether a handle means something to the engine now. The caller frees one only if not.
    pub fn holds(&self, handle: Handle) -> bool {
        match handle {
            Handle::Domain(domain) => self.domains.get(domain.0).is_some(),
            Handle::Target(target) => self.targets.get(target.0).is_some(),
            Handle::Site(site) => self.sites.get(site.0).is_some(),
            Handle::Place(place) => self.places.contains_key(&place),
        }
    }

    /// Does what the passing of time asks for, and what was waiting for room.
    fn advance(&mut self, out: &mut Vec<Order>) {
        self.rows_due(out);
        let now = self.steady();
        while let Some((at, alarm)) = self.alarms.first().copied().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, alarm));
            match alarm {
                Alarm::Domain(domain) => self.domain_alarm(domain, out),
                Alarm::Site(site) => self.site_alarm(site, out),
                Alarm::Gate(domain) => self.open_domain(domain, out),
                Alarm::Warmup(source, provider) => self.open_warmup(source, provider, out),
                Alarm::Place(place) => self.place_alarm(place, out),
                Alarm::Begin => self.feed_all(out),
            }
        }
        self.close_idle(out);
        self.resolve_more(out);
        self.end_more(out);
        self.feed_starved(out);
    }

    fn announce(&mut self, is_tick: bool, out: &mut Vec<Order>) {
        let row = self.timers.first().map(|slot| self.rows[*slot].wakes_at());
        let alarm = self.alarms.first().map(|(at, _)| self.at(*at));
        let idle = self.idle.first().map(|(since, _)| self.at(since.after(self.rules.idle)));
        let next = [row, alarm, idle].into_iter().flatten().min().unwrap_or(Timestamp::NEVER);
        // An earlier wake-up than needed does no harm, so only a nearer one is announced; after it came, all are.
        if is_tick || self.announced <= self.now {
            self.announced = Timestamp::NEVER;
        }
        if next < self.announced {
            self.announced = next;
            out.push(Order::WakeAt(next));
        }
    }

    fn arm(&mut self, was: Timestamp, at: Timestamp, alarm: Alarm) {
        if was != at {
            self.alarms.remove(&(was, alarm));
        }
        if at != Timestamp::NEVER {
            self.alarms.insert((at, alarm));
        }
    }

    fn reload(&mut self, rules: Rules, out: &mut Vec<Order>) {
        if rules.first_dial != self.rules.first_dial {
            self.first_dial = self.steady_of(rules.first_dial);
        }
        self.rules = rules;
        if self.first_dial > self.steady() {
            self.alarms.insert((self.first_dial, Alarm::Begin));
        }
        self.replace_flows(out);
        for domain in 0..self.domains.slots() {
            self.ask_anew(domain);
        }
        self.feed_all(out);
    }

    fn operate(&mut self, operator: Operator, out: &mut Vec<Order>) {
        match operator {
            Operator::SuspendSource(source) => self.stopped.stop(source),
            Operator::ResumeSource(source) => self.stopped.resume(source),
            Operator::SuspendAt(site, sources) => self.stopped.set(site, sources),
            Operator::Warmup(source, provider, order) => return self.order_warmup(source, provider, order, out),
            Operator::Probe => {
                let sites: Vec<u32> = self.sites.iter().map(|(site, _)| site).collect();
                sites.into_iter().for_each(|site| self.sites[site].end_pauses());
            }
        };
        self.replace_flows(out);
        self.close_unusable(out);
        self.feed_all(out);
    }
}
