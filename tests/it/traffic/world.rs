//! A simulated world around the engine: sites with tempers, a clock that jumps to the next event, and a referee that
//! checks every order against what the engine promised, without looking into it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::{Feedback, Reaction, Signal};
use postrider::mail::{QueueId, StreamKind};
use postrider::time::Timestamp;
use postrider::traffic::{
    Account, ConnectionHandle, CredentialHandle, DomainHandle, Ending, Engine, Fact, GRACE, Handle, Holder, Kept,
    Limits, Operator, Order, PoolHandle, ProviderHandle, Put, Rules, SiteHandle, SiteLimits, SourceHandle,
    StreamHandle, TargetHandle, Unresolved,
};

pub const START: Timestamp = Timestamp::from_secs(1_800_000_000);

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What a domain's hosts do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Temper {
    /// Takes everything, in this time a message.
    Kind(Duration),
    /// Never answers a connect.
    Dead,
    /// Says 421 to more connections than this.
    Limiter(usize),
    /// Says 421 to more connections than this, and defers what is more than this in any such time.
    Hidden(usize, usize, Duration),
    /// Refuses, breaks, defers and skips at random.
    Moody,
    /// Has no hosts, ever.
    Never,
    /// Cannot be looked up before this.
    Lost(Timestamp),
}

#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub temper: Temper,
    pub site: u32,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    source: SourceHandle,
    target: u32,
    site: u32,
    connected: bool,
    closing: bool,
    carrying: Option<QueueId>,
    kind: Option<StreamKind>,
}

#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub put: Put,
    /// Later than `expires_at` only by grace.
    deadline: Timestamp,
    pub due: Timestamp,
    pub flying: bool,
    /// Somebody else ended it while it was on its way.
    gone: bool,
    pub sends: u32,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Expired,
    Failed,
    Removed,
}

pub struct World {
    pub engine: Engine,
    pub now: Timestamp,
    random: fastrand::Rng,
    events: BTreeMap<(Timestamp, u64), Fact>,
    number: u64,
    pub places: Vec<Place>,
    connections: HashMap<u32, Connection>,
    pub waiting: HashMap<QueueId, Known>,
    pub ended: HashMap<QueueId, (End, Timestamp)>,
    /// Sends, in order: when, what, where.
    pub sent: Vec<(Timestamp, QueueId, u32, StreamKind)>,
    pub rules: Rules,
    wake: Timestamp,
    last_id: QueueId,
    pub refusals: u32,
    pub most_open: usize,
    pub trace: u64,
    /// Stops checking of limits that a reload may have lowered under open connections.
    pub limits_may_be_passed: bool,
    /// What an operator stopped, by site.
    stopped: HashMap<u32, Box<[Option<SourceHandle>]>>,
    /// What the engine had written down, as a crash would leave it.
    pub records: BTreeMap<Account, Vec<u8>>,
    /// What the peers may have counted: site, source, from when, until when.
    pub spans: Vec<Span>,
    open_spans: HashMap<QueueId, usize>,
    /// What a hidden limit counted, by site.
    counted: HashMap<u32, VecDeque<Timestamp>>,
    next_answer: Option<Signal>,
    /// Ladders that the engine says are frozen.
    pub frozen: Vec<(SourceHandle, ProviderHandle)>,
    /// Messages that a hidden limit deferred.
    pub deferrals: u32,
}

/// One transaction as a peer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub site: u32,
    pub source: SourceHandle,
    pub from: Timestamp,
    /// `NEVER` while it is under way.
    pub until: Timestamp,
    pub recipients: u16,
}

impl World {
    pub fn new(seed: u64, rules: Rules, places: Vec<Place>) -> World {
        World {
            engine: Engine::new(rules.clone()),
            now: START,
            random: fastrand::Rng::with_seed(seed),
            events: BTreeMap::new(),
            number: 0,
            places,
            connections: HashMap::new(),
            waiting: HashMap::new(),
            ended: HashMap::new(),
            sent: Vec::new(),
            rules,
            wake: Timestamp::NEVER,
            last_id: QueueId::MIN,
            refusals: 0,
            most_open: 0,
            trace: 0,
            limits_may_be_passed: false,
            stopped: HashMap::new(),
            records: BTreeMap::new(),
            spans: Vec::new(),
            open_spans: HashMap::new(),
            counted: HashMap::new(),
            next_answer: None,
            frozen: Vec::new(),
            deferrals: 0,
        }
    }

    /// An envelope as an ordinary client hands it in.
    pub fn envelope(&mut self, domain: u32, kind: StreamKind) -> Put {
        self.last_id = QueueId::next(self.last_id, self.now);
        Put {
            id: self.last_id,
            domain: DomainHandle(domain),
            credential: CredentialHandle(0),
            stream: StreamHandle(0),
            pool: PoolHandle(0),
            source: None,
            kind,
            priority: 50,
            engaged: false,
            recipients: 1,
            due: self.now,
            expires_at: self.now.after(secs(5 * 86_400)),
            held: false,
        }
    }

    pub fn put(&mut self, put: Put) {
        let long = put.expires_at.since(put.id.made_at()) >= secs(3600);
        let deadline = if long { put.expires_at.max(self.now.after(GRACE)) } else { put.expires_at };
        match self.waiting.get_mut(&put.id) {
            Some(known) if known.flying => known.put.held = put.held,
            Some(known) => (known.put, known.due, known.deadline) = (put, put.due, deadline),
            None => {
                let known = Known { put, deadline, due: put.due, flying: false, gone: false, sends: 0 };
                self.waiting.insert(put.id, known);
            }
        }
        self.apply(Fact::Put(put));
    }

    pub fn gone(&mut self, id: QueueId) {
        match self.waiting.get_mut(&id) {
            Some(known) if known.flying => known.gone = true,
            Some(_) => self.end(id, End::Removed),
            None => {}
        }
        self.apply(Fact::Gone(id));
    }

    fn end(&mut self, id: QueueId, end: End) {
        assert!(self.waiting.remove(&id).is_some(), "{id} ended twice");
        self.ended.insert(id, (end, self.now));
    }

    pub fn later(&mut self, wait: Duration, fact: Fact) {
        self.number += 1;
        self.events.insert((self.now.after(wait), self.number), fact);
    }

    /// Runs until this time, or until nothing is left to happen.
    pub fn run_until(&mut self, end: Timestamp) {
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at).unwrap_or(Timestamp::NEVER);
            let next = event.min(self.wake);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if event <= self.wake {
                if let Some((_, fact)) = self.events.pop_first() {
                    self.apply(fact);
                }
            } else {
                self.wake = Timestamp::NEVER;
                self.apply(Fact::Tick);
            }
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now.after(time));
    }

    /// Runs until every envelope ended that is not held.
    pub fn run_out(&mut self, longest: Duration) {
        let end = self.now.after(longest);
        while self.now < end && self.waiting.values().any(|known| !known.put.held) {
            self.run_for(secs(10));
        }
        let left: Vec<_> = self.waiting.values().filter(|known| !known.put.held).collect();
        let why = left.first().map(|known| self.engine.why(self.now, known.put.id));
        assert!(left.is_empty(), "{} left, such as {:?}: {why:?}", left.len(), left.first());
    }

    pub fn apply(&mut self, fact: Fact) {
        let fact = match self.before(fact) {
            Some(fact) => fact,
            None => return,
        };
        let mut orders = Vec::new();
        let jitter = self.random.f64();
        self.engine.apply(self.now, jitter, fact, &mut orders);
        for order in orders {
            self.trace = self.trace.wrapping_mul(31).wrapping_add(fingerprint(&order));
            self.execute(order);
        }
        self.most_open = self.most_open.max(self.connections.len());
        assert!(self.connections.len() <= self.rules.total_connections as usize, "too many connections in all");
    }

    /// What the world knows of a fact before the engine hears it. `None`: it did not happen after all.
    fn before(&mut self, fact: Fact) -> Option<Fact> {
        match &fact {
            Fact::Connected { connection, .. } => {
                let known = self.connections.get_mut(&connection.0)?;
                known.connected = true;
            }
            Fact::Refused(connection, _) => {
                self.refusals += 1;
                self.connections.get(&connection.0)?;
            }
            Fact::Settled { connection, id, due, signal } => {
                self.landed(*connection, *id);
                let now = self.now;
                let known = *self.waiting.get(id)?;
                match due {
                    None => self.end(*id, End::Delivered),
                    Some(_) if now >= known.put.expires_at => {
                        self.end(*id, End::Expired);
                        return Some(Fact::Settled { connection: *connection, id: *id, due: None, signal: *signal });
                    }
                    Some(due) => self.again(*id, *due),
                }
            }
            Fact::Skipped(connection, id) => {
                // Nothing was said to the peer.
                if let Some(place) = self.open_spans.remove(id) {
                    self.spans[place].recipients = 0;
                    self.spans[place].until = self.now;
                }
                self.landed(*connection, *id);
                self.again(*id, self.now);
            }
            Fact::Returned(connection, id) => {
                self.landed(*connection, *id);
                self.again(*id, self.now);
            }
            Fact::Operator(Operator::SuspendAt(site, sources)) => {
                self.stopped.insert(site.0, sources.clone());
            }
            Fact::Eof(connection) => {
                let known = self.connections.remove(&connection.0)?;
                if let Some(id) = known.carrying {
                    self.close_span(id);
                    self.again(id, self.now);
                }
            }
            _ => {}
        }
        Some(fact)
    }

    fn landed(&mut self, connection: ConnectionHandle, id: QueueId) {
        let known = self.connections.get_mut(&connection.0).expect("a connection that carries");
        assert_eq!(known.carrying.take(), Some(id));
        known.kind = None;
        self.close_span(id);
    }

    fn close_span(&mut self, id: QueueId) {
        if let Some(place) = self.open_spans.remove(&id) {
            self.spans[place].until = self.now;
        }
    }

    fn again(&mut self, id: QueueId, due: Timestamp) {
        if let Some(known) = self.waiting.get_mut(&id) {
            known.flying = false;
            known.due = due;
            if known.gone {
                self.end(id, End::Removed);
            }
        }
    }

    fn execute(&mut self, order: Order) {
        match order {
            Order::Resolve(domain) => self.resolve(domain),
            Order::Dial { connection, source, target, domain } => self.dial(connection, source, target, domain),
            Order::Send { connection, id, recipients_max } => self.send(connection, id, recipients_max),
            Order::Reserve(account) => {
                let record = self.engine.record(account).expect("an account to be written down");
                self.records.insert(account, record);
                // A disk takes its time.
                self.later(Duration::from_millis(3), Fact::Reserved(account, true));
            }
            Order::Close(connection) => {
                let known = self.connections.get_mut(&connection.0).expect("a connection to close");
                assert!(!std::mem::replace(&mut known.closing, true), "closed twice");
                if known.carrying.is_none() && known.connected {
                    self.later(Duration::from_millis(5), Fact::Eof(connection));
                }
            }
            Order::Expire(id, _) => {
                let known = self.waiting.get(&id).expect("an envelope to expire");
                assert!(!known.put.held && !known.flying && self.now >= known.put.expires_at, "expired {known:?}");
                self.finish(id, End::Expired);
            }
            Order::Fail(id, domain) => {
                let known = self.waiting.get(&id).expect("an envelope to fail");
                assert!(!known.put.held && !known.flying);
                assert_eq!(self.places[domain.0 as usize].temper, Temper::Never);
                self.finish(id, End::Failed);
            }
            Order::WakeAt(at) => self.wake = at,
            Order::Frozen(source, provider) => self.frozen.push((source, provider)),
            Order::Forget(handle) => {
                if let Handle::Domain(domain) = handle {
                    // A walk over everything, so only in small worlds.
                    let small = self.waiting.len() < 1000;
                    let used = small && self.waiting.values().any(|known| known.put.domain == domain);
                    assert!(!used, "forgot a domain with mail");
                }
            }
        }
    }

    fn finish(&mut self, id: QueueId, end: End) {
        if self.random.u8(..) < 16 {
            // It could not be read just now.
            self.later(Duration::from_millis(1), Fact::Ended(id, Ending::Again));
        } else {
            self.end(id, end);
            self.later(Duration::from_millis(1), Fact::Ended(id, Ending::Done));
        }
    }

    fn resolve(&mut self, domain: DomainHandle) {
        let place = self.places[domain.0 as usize];
        let fact = match place.temper {
            Temper::Never => Fact::Unresolved(domain, Unresolved::Never(self.now.after(secs(600)))),
            Temper::Lost(until) if self.now < until => {
                Fact::Unresolved(domain, Unresolved::Later(self.now.after(secs(30))))
            }
            _ => Fact::Resolved {
                domain,
                // Domains of one site here share its hosts.
                target: TargetHandle(place.site),
                site: SiteHandle(place.site),
                provider: ProviderHandle(0),
                limits: Arc::new(SiteLimits::of_each(place.limits)),
                own: None,
                kept: self.kept(place.site),
                until: self.now.after(secs(600)),
            },
        };
        let wait = Duration::from_millis(self.random.u64(1..50));
        self.later(wait, fact);
    }

    fn dial(&mut self, connection: ConnectionHandle, source: SourceHandle, target: TargetHandle, domain: DomainHandle) {
        let place = self.places[domain.0 as usize];
        assert_eq!(place.site, target.0);
        let fresh = Connection {
            source,
            target: target.0,
            site: place.site,
            connected: false,
            closing: false,
            carrying: None,
            kind: None,
        };
        assert!(self.connections.insert(connection.0, fresh).is_none(), "a number was used twice");
        assert!(!self.is_stopped(place.site, source), "dialed what is stopped");
        let same = |other: &&Connection| other.source == source && other.site == place.site;
        let open = self.connections.values().filter(same).count();
        assert!(
            self.limits_may_be_passed || open <= usize::from(place.limits.connections.max(1)),
            "{open} connections at a limit of {:?}",
            place.limits
        );
        let most = place.limits.deliveries;
        let connected = Fact::Connected { connection, deliveries_max: most };
        let refused = Fact::Refused(connection, Feedback::Slower.into());
        match place.temper {
            Temper::Kind(_) | Temper::Never | Temper::Lost(_) => self.later(Duration::from_millis(20), connected),
            Temper::Dead => {
                self.later(secs(30), refused);
                self.later(secs(30), Fact::Eof(connection));
            }
            Temper::Limiter(most) | Temper::Hidden(most, ..) if open > most => {
                self.later(Duration::from_millis(20), refused);
                self.later(Duration::from_millis(21), Fact::Eof(connection));
            }
            Temper::Limiter(_) | Temper::Hidden(..) => self.later(Duration::from_millis(20), connected),
            Temper::Moody => match self.random.u8(0..10) {
                0 => self.later(Duration::from_millis(30), Fact::Eof(connection)),
                1 | 2 => {
                    self.later(secs(1), refused);
                    self.later(secs(2), Fact::Eof(connection));
                }
                _ => self.later(Duration::from_millis(30), connected),
            },
        }
    }

    fn send(&mut self, connection: ConnectionHandle, id: QueueId, recipients: u16) {
        let known = self.waiting.get_mut(&id).expect("an envelope that waits");
        assert!(!known.put.held, "sent a held envelope");
        assert!(!known.flying, "sent twice at once");
        assert!(self.now < known.deadline, "sent past its longest age");
        assert!(self.now >= known.due, "sent before it was due");
        known.flying = true;
        known.sends += 1;
        let put = known.put;
        let place = self.places[put.domain.0 as usize];
        self.sent.push((self.now, id, place.site, put.kind));
        let link = self.connections.get_mut(&connection.0).expect("a connection that is there");
        assert!(link.connected && !link.closing && link.carrying.is_none(), "sent on {link:?}");
        assert_eq!(link.target, place.site, "sent to hosts of others");
        assert!(self.rules.pools[usize::from(put.pool.0)].contains(&link.source), "sent over a source of others");
        (link.carrying, link.kind) = (Some(id), Some(put.kind));
        let source = link.source;
        assert!(!self.is_stopped(place.site, source), "sent to what is stopped");
        let span = Span { site: place.site, source, from: self.now, until: Timestamp::NEVER, recipients };
        self.spans.push(span);
        self.open_spans.insert(id, self.spans.len() - 1);
        let time = match place.temper {
            Temper::Kind(time) => time,
            _ => Duration::from_millis(100),
        };
        self.later(Duration::from_millis(1), Fact::MailWritten(connection, id));
        let settled = |due, feedback: Feedback| Fact::Settled { connection, id, due, signal: feedback.into() };
        let too_many = match place.temper {
            Temper::Hidden(_, count, per) => self.is_too_many(place.site, count, per),
            _ => false,
        };
        let slower = Signal {
            reaction: Some(Reaction::Slow { count: 0, per: Duration::ZERO, hold: Duration::ZERO }),
            ..Signal::default()
        };
        let told = self.next_answer.take_if(|_| put.kind == StreamKind::Transactional);
        let fact = match (place.temper, self.random.u8(0..20)) {
            _ if told.is_some() => {
                let (due, signal) = (Some(self.now.after(secs(60))), told.unwrap_or_default());
                Fact::Settled { connection, id, due, signal }
            }
            _ if too_many => {
                let due = Some(self.now.after(secs(300)));
                Fact::Settled { connection, id, due, signal: slower }
            }
            (Temper::Moody, 0) => Fact::Eof(connection),
            (Temper::Moody, 1) => Fact::Skipped(connection, id),
            (Temper::Moody, 2) => Fact::Returned(connection, id),
            (Temper::Moody, 3) => settled(Some(self.now.after(secs(60))), Feedback::Slower),
            (Temper::Moody, 4) => settled(Some(self.now.after(secs(60))), Feedback::Broken),
            (Temper::Moody, 5..=8) => settled(Some(self.now.after(secs(300))), Feedback::Neutral),
            _ => settled(None, Feedback::Good),
        };
        let ends = matches!(fact, Fact::Returned(..))
            || matches!(fact, Fact::Settled { signal, .. } if matches!(signal.feedback, Feedback::Slower | Feedback::Broken));
        self.later(time, fact);
        if ends || self.connections[&connection.0].closing {
            self.later(time + Duration::from_millis(5), Fact::Eof(connection));
        }
    }

    /// Whether a hidden limit is passed by one more; if not, it counts.
    fn is_too_many(&mut self, site: u32, count: usize, per: Duration) -> bool {
        let now = self.now;
        let counted = self.counted.entry(site).or_default();
        while counted.front().is_some_and(|at| at.after(per) <= now) {
            counted.pop_front();
        }
        let full = counted.len() >= count;
        if full {
            self.deferrals += 1;
        } else {
            counted.push_back(now);
        }
        full
    }

    fn is_stopped(&self, site: u32, source: SourceHandle) -> bool {
        self.stopped.get(&site).is_some_and(|stopped| stopped.iter().any(|of| of.is_none_or(|of| of == source)))
    }

    /// The next transactional message is put off for a minute, and the peer's answer says this.
    pub fn answer_next_with(&mut self, signal: Signal) {
        self.next_answer = Some(signal);
    }

    /// Connections open now at a site, of all sources.
    pub fn open_at(&self, site: u32) -> usize {
        self.connections.values().filter(|connection| connection.site == site).count()
    }

    pub fn ended_as(&self, end: End) -> usize {
        self.ended.values().filter(|(other, _)| *other == end).count()
    }

    /// The process dies and begins anew: what was on its way is over, what waited waits, and of its limits the engine
    /// knows what was written down.
    pub fn crash(&mut self, first_dial: Duration) {
        for (_, place) in self.open_spans.drain() {
            self.spans[place].until = self.now;
        }
        self.connections.clear();
        self.stopped.clear();
        self.events.clear();
        self.wake = Timestamp::NEVER;
        self.rules.first_dial = self.now.after(first_dial);
        self.engine = Engine::starting_at(Rules::default(), self.now);
        self.apply(Fact::Reload(self.rules.clone()));
        let waiting: Vec<QueueId> = self.waiting.keys().copied().collect();
        for id in waiting {
            let now = self.now;
            let known = self.waiting.get_mut(&id).expect("one that waits");
            known.flying = false;
            known.put.due = now;
            let put = known.put;
            self.put(put);
        }
    }

    fn kept(&self, site: u32) -> Box<[Kept]> {
        // All sites here are of one provider.
        let of_site = |account: &&Account| {
            account.holder == Holder::Site(SiteHandle(site))
                || matches!(account.holder, Holder::Provider(_) | Holder::All)
        };
        let accounts = self.records.keys().filter(of_site);
        accounts.map(|account| Kept { account: *account, bytes: self.records[account].as_slice().into() }).collect()
    }

    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules.clone();
        self.apply(Fact::Reload(rules));
    }

    /// When the world is quiet, the engine must be as if nothing had been.
    pub fn assert_forgotten(&mut self) {
        self.run_for(secs(30 * 3600));
        assert_eq!((self.engine.len(), self.engine.connections()), (0, 0));
        let held: Vec<u32> = (0..self.places.len() as u32)
            .filter(|n| {
                self.engine.holds(Handle::Domain(DomainHandle(*n))) || self.engine.holds(Handle::Site(SiteHandle(*n)))
            })
            .collect();
        assert!(held.is_empty(), "still known: {held:?}");
    }

    /// Whatever is not held has a next event: what the daemon counts once a minute must be 0 at every moment.
    pub fn assert_none_stranded(&self) {
        let waiting = self.waiting.values().filter(|known| !known.put.held);
        for known in waiting.filter(|known| !known.gone) {
            let id = known.put.id;
            let why = self.engine.why(self.now, id);
            assert!(!self.engine.is_stranded(self.now, id), "{known:?} has no next event: {why:?}");
        }
    }

    /// How many different sites were sent to.
    pub fn sites_sent_to(&self) -> usize {
        self.sent.iter().map(|(_, _, site, _)| *site).collect::<BTreeSet<_>>().len()
    }
}

fn fingerprint(order: &Order) -> u64 {
    format!("{order:?}").bytes().fold(7, |sum: u64, byte| sum.wrapping_mul(131).wrapping_add(u64::from(byte)))
}
