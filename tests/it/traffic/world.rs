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
    /// What [`Peers`] say.
    Peer,
}

/// What a look-up finds, and under which limits.
#[derive(Clone, Debug)]
pub struct Aim {
    pub target: u32,
    pub site: u32,
    pub provider: ProviderHandle,
    pub limits: Arc<SiteLimits>,
    pub own: Option<Arc<SiteLimits>>,
}

/// A connection as a peer knows it.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// By the clock that nobody sets.
    pub at: Timestamp,
    pub connection: u32,
    pub source: SourceHandle,
    pub site: u32,
}

/// How a peer takes a connection.
pub struct Greeting {
    pub after: Duration,
    pub signal: Option<Signal>,
    pub deliveries_max: Option<u32>,
}

/// How a peer takes a message.
pub struct Answer {
    /// When MAIL is on the wire.
    pub mail_after: Duration,
    pub after: Duration,
    /// For all its recipients; `None`: they have their final state.
    pub due: Option<Timestamp>,
    pub signal: Signal,
    /// What the connection does: the envelope comes back untouched, it breaks, or it ends after the reply.
    pub turn: Turn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    Goes,
    Closes,
    Breaks,
    Returns,
    Skips,
}

/// Peers with minds of their own behind [`Temper::Peer`], and whoever watches the engine from there. Each is called
/// before the engine hears of it.
pub trait Peers {
    /// `None`: the name servers do not answer.
    fn find(&mut self, world: &World, domain: u32) -> Option<Aim>;
    fn told(&mut self, world: &World, domain: u32);
    fn dialed(&mut self, world: &World, call: &Call) -> Greeting;
    fn greeted(&mut self, world: &World, call: &Call, signal: Option<Signal>);
    fn sent(&mut self, world: &World, call: &Call, known: &Known, recipients: u16) -> Answer;
    /// A transaction is over: something of it was said to the peer, and this is what it answered.
    fn answered(&mut self, world: &World, call: &Call, put: &Put, sent: bool, signal: Option<Signal>);
    /// How long a peer takes to see QUIT, and to hang up.
    fn hangs_up_after(&mut self) -> Duration;
    fn hung_up(&mut self, world: &World, call: &Call);
    /// The process is gone; `clean`: it stopped, and the peers saw all its connections end.
    fn crashed(&mut self, world: &World, clean: bool);
    fn forgotten(&mut self, world: &World, handle: Handle);
}

#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub temper: Temper,
    pub site: u32,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub source: SourceHandle,
    pub target: u32,
    pub site: u32,
    pub connected: bool,
    pub closing: bool,
    pub carrying: Option<QueueId>,
    pub kind: Option<StreamKind>,
    /// MAIL was written.
    written: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub put: Put,
    /// Later than `expires_at` only by grace.
    pub deadline: Timestamp,
    pub due: Timestamp,
    pub flying: bool,
    /// Somebody else ended it while it was on its way.
    pub gone: bool,
    pub sends: u32,
    /// Recipients without a final state.
    pub left: u16,
    /// The source that it came back over, and keeps.
    pub stays: Option<SourceHandle>,
    /// An order to end it could not be carried out then.
    pub again_at: Timestamp,
    /// An order to end it was carried out, and not told yet.
    pub ending: bool,
    /// Due then, as somebody said while it was on its way.
    heard: Option<Timestamp>,
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
    /// By the time that passes for everybody, which only differs from `now` once that was set.
    events: BTreeMap<(Timestamp, u64), Fact>,
    number: u64,
    pub real: Timestamp,
    /// By how much `now` is ahead of it. Unit: milliseconds.
    ahead_ms: i64,
    /// The same when the engine began, and what it was told since.
    ahead_at_start_ms: i64,
    told_ms: i64,
    /// The engine is never told that the clock was set.
    pub hides_skew: bool,
    /// No chance in the world itself: look-ups take as long as ever, nothing is spread.
    pub is_even: bool,
    /// `now` at the last fact but this one.
    pub last_fact: Timestamp,
    /// The fact that is heard now takes mail out of its lines and puts it back, one after the other.
    pub is_rearranging: bool,
    pub places: Vec<Place>,
    pub peers: Option<Box<dyn Peers>>,
    /// What look-ups found, while the engine knows it; and what those found that are on their way.
    pub aims: HashMap<u32, Aim>,
    looking: HashMap<u32, Option<Aim>>,
    /// Domains whose last look-up failed.
    pub lost: BTreeSet<u32>,
    pub connections: BTreeMap<u32, Connection>,
    pub waiting: BTreeMap<QueueId, Known>,
    pub ended: HashMap<QueueId, (End, Timestamp)>,
    /// Sends, in order: when, what, where.
    pub sent: Vec<(Timestamp, QueueId, u32, StreamKind)>,
    pub rules: Rules,
    /// When the engine is told that time passed, by the time that passes for everybody.
    wake: Timestamp,
    last_id: QueueId,
    pub refusals: u32,
    pub dials: u32,
    pub most_open: usize,
    pub trace: u64,
    /// Stops checking of limits that a reload may have lowered under open connections.
    pub limits_may_be_passed: bool,
    /// What an operator stopped, by site.
    pub stopped: HashMap<u32, Box<[Option<SourceHandle>]>>,
    pub stopped_sources: BTreeSet<SourceHandle>,
    /// What the engine had written down.
    pub records: BTreeMap<Account, Vec<u8>>,
    /// What of it is on the disk, and what is on its way there: of that a crash leaves the first so many. `None`: a crash
    /// loses nothing.
    pub disk: Option<Disk>,
    /// The process dies when it carried out so many orders.
    pub doom: Option<u32>,
    pub crashes: u32,
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

/// A disk that takes its time.
#[derive(Clone, Default)]
pub struct Disk {
    pub durable: BTreeMap<Account, Vec<u8>>,
    writes: VecDeque<(Account, Vec<u8>)>,
    pub is_full: bool,
    /// Keeps nothing, whatever it says.
    pub lies: bool,
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
            real: START,
            ahead_ms: 0,
            ahead_at_start_ms: 0,
            told_ms: 0,
            hides_skew: false,
            is_even: false,
            last_fact: START,
            is_rearranging: false,
            places,
            peers: None,
            aims: HashMap::new(),
            looking: HashMap::new(),
            lost: BTreeSet::new(),
            connections: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ended: HashMap::new(),
            sent: Vec::new(),
            rules,
            wake: Timestamp::NEVER,
            last_id: QueueId::MIN,
            refusals: 0,
            dials: 0,
            most_open: 0,
            trace: 0,
            limits_may_be_passed: false,
            stopped: HashMap::new(),
            stopped_sources: BTreeSet::new(),
            records: BTreeMap::new(),
            disk: None,
            doom: None,
            crashes: 0,
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
            Some(known) if known.flying || known.ending => (known.put.held, known.heard) = (put.held, Some(put.due)),
            Some(known) => {
                (known.put, known.due, known.deadline, known.stays) = (put, put.due, deadline, put.source);
            }
            None => {
                let known = Known {
                    put,
                    deadline,
                    due: put.due,
                    flying: false,
                    gone: false,
                    sends: 0,
                    // Ordinary places answer for all at once.
                    left: if self.peers.is_some() { put.recipients } else { 0 },
                    stays: put.source,
                    again_at: Timestamp::ZERO,
                    ending: false,
                    heard: None,
                };
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
        self.events.insert((self.real.after(wait), self.number), fact);
    }

    /// Runs until this time, or until nothing is left to happen.
    pub fn run_until(&mut self, end: Timestamp) {
        self.run_until_real(self.real_of(end));
    }

    /// When the clock will show this.
    fn real_of(&self, shown: Timestamp) -> Timestamp {
        if shown == Timestamp::NEVER {
            return shown;
        }
        Timestamp::from_millis(shown.as_millis().saturating_add_signed(-self.ahead_ms))
    }

    fn pass_to(&mut self, real: Timestamp) {
        self.real = self.real.max(real);
        let shown = Timestamp::from_millis(self.real.as_millis().saturating_add_signed(self.ahead_ms));
        // It never goes back, but stands still until it is right.
        self.now = self.now.max(shown);
    }

    /// The system's clock is set, and ours follows.
    pub fn set_clock(&mut self, by_ms: i64) {
        self.ahead_ms += by_ms;
        self.pass_to(self.real);
    }

    fn run_until_real(&mut self, end: Timestamp) {
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at).unwrap_or(Timestamp::NEVER);
            let wake = self.wake;
            let next = event.min(wake);
            if next > end {
                self.pass_to(end);
                return;
            }
            self.pass_to(next);
            if event <= wake {
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
        self.run_until_real(self.real.after(time));
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
        self.is_rearranging = matches!(
            fact,
            Fact::Resolved { .. } | Fact::Reload(_) | Fact::Operator(_) | Fact::Reserved(..) | Fact::Unresolved(..)
        );
        let mut orders = Vec::new();
        let jitter = if self.is_even { 0.5 } else { self.random.f64() };
        let shown = self.now.as_millis() as i64 - self.real.as_millis() as i64 - self.ahead_at_start_ms;
        if shown != self.told_ms && !self.hides_skew {
            self.told_ms = shown;
            self.engine.apply(self.now, jitter, Fact::Skewed(shown), &mut orders);
        }
        self.engine.apply(self.now, jitter, fact, &mut orders);
        for order in orders {
            self.trace = self.trace.wrapping_mul(31).wrapping_add(fingerprint(&order));
            self.execute(order);
            match &mut self.doom {
                Some(0) => return self.crash(secs(1)),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        self.last_fact = self.now;
        self.most_open = self.most_open.max(self.connections.len());
        assert!(self.connections.len() <= self.rules.total_connections as usize, "too many connections in all");
    }

    /// What the world knows of a fact before the engine hears it. `None`: it did not happen after all.
    fn before(&mut self, fact: Fact) -> Option<Fact> {
        match &fact {
            Fact::Connected { connection, .. } => {
                let known = self.connections.get_mut(&connection.0)?;
                known.connected = true;
                self.greeted(*connection, None);
            }
            Fact::Refused(connection, signal) => {
                self.refusals += 1;
                self.connections.get(&connection.0)?;
                self.greeted(*connection, Some(*signal));
            }
            Fact::MailWritten(connection, _) => {
                self.connections.get_mut(&connection.0)?.written = true;
            }
            Fact::Resolved { domain, .. } => {
                self.lost.remove(&domain.0);
                if let Some(Some(aim)) = self.looking.remove(&domain.0) {
                    self.aims.insert(domain.0, aim);
                    self.with_peers(|peers, world| peers.told(world, domain.0));
                }
            }
            Fact::Unresolved(domain, _) => {
                self.looking.remove(&domain.0);
                self.lost.insert(domain.0);
            }
            Fact::Reserved(_, durable) => {
                if let Some(disk) = &mut self.disk
                    && let Some((account, record)) = disk.writes.pop_front()
                    && *durable
                    && !disk.lies
                {
                    disk.durable.insert(account, record);
                }
            }
            Fact::Ended(id, Ending::Again) => {
                let now = self.now;
                let known = self.waiting.get_mut(id)?;
                let again = known.heard.take().unwrap_or(now.after(secs(60)));
                (known.again_at, known.due, known.ending) = (now, again, false);
            }
            Fact::Settled { connection, id, due, signal } => {
                let sent = self.connections.get(&connection.0)?.written;
                self.landed(*connection, *id, sent, Some(*signal));
                let now = self.now;
                let known = self.waiting.get_mut(id)?;
                let over = self.connections.get(&connection.0)?;
                known.stays = (signal.feedback == Feedback::Neutral).then_some(over.source);
                let known = *known;
                match due {
                    // The others' turn is now.
                    None if known.left > 0 && !known.gone && now < known.put.expires_at => {
                        self.again(*id, known.due);
                        let due = Some(known.due);
                        return Some(Fact::Settled { connection: *connection, id: *id, due, signal: *signal });
                    }
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
                self.landed(*connection, *id, false, None);
                let heard = self.waiting.get(id).and_then(|known| known.heard);
                let due = if self.peers.is_some() { self.now.after(secs(60)) } else { self.now };
                self.again(*id, heard.unwrap_or(due));
            }
            Fact::Returned(connection, id) => {
                self.landed(*connection, *id, false, None);
                let due = self.waiting.get(id).map_or(self.now, |known| known.heard.unwrap_or(known.due));
                self.again(*id, if self.peers.is_some() { due } else { self.now });
            }
            Fact::Operator(Operator::SuspendAt(site, sources)) => {
                self.stopped.insert(site.0, sources.clone());
            }
            Fact::Operator(Operator::SuspendSource(source)) => {
                self.stopped_sources.insert(*source);
            }
            Fact::Operator(Operator::ResumeSource(source)) => {
                self.stopped_sources.remove(source);
            }
            Fact::Eof(connection) => {
                let known = self.connections.get(&connection.0).copied()?;
                if let Some(id) = known.carrying {
                    self.landed(*connection, id, known.written, None);
                    let wait = if known.written { secs(15 * 60) } else { Duration::ZERO };
                    let due = self.waiting.get(&id).map_or(self.now, |waits| waits.heard.unwrap_or(waits.due));
                    self.again(id, if known.written { self.now.after(wait) } else { due });
                }
                if !known.connected {
                    self.greeted(*connection, None);
                }
                let call = self.call(connection.0, &known);
                self.connections.remove(&connection.0);
                self.with_peers(|peers, world| peers.hung_up(world, &call));
            }
            _ => {}
        }
        Some(fact)
    }

    fn call(&self, number: u32, connection: &Connection) -> Call {
        let Connection { source, site, .. } = *connection;
        Call { at: self.real, connection: number, source, site }
    }

    fn with_peers<T>(&mut self, ask: impl FnOnce(&mut dyn Peers, &World) -> T) -> Option<T> {
        let mut peers = self.peers.take()?;
        let answer = ask(&mut *peers, self);
        self.peers = Some(peers);
        Some(answer)
    }

    fn greeted(&mut self, connection: ConnectionHandle, signal: Option<Signal>) {
        let Some(known) = self.connections.get(&connection.0) else { return };
        let call = self.call(connection.0, known);
        self.with_peers(|peers, world| peers.greeted(world, &call, signal));
    }

    fn landed(&mut self, connection: ConnectionHandle, id: QueueId, sent: bool, signal: Option<Signal>) {
        let known = self.connections.get_mut(&connection.0).expect("a connection that carries");
        assert_eq!(known.carrying.take(), Some(id));
        (known.kind, known.written) = (None, false);
        let known = *known;
        self.close_span(id);
        let call = self.call(connection.0, &known);
        if let Some(put) = self.waiting.get(&id).map(|known| known.put) {
            self.with_peers(|peers, world| peers.answered(world, &call, &put, sent, signal));
        }
    }

    fn close_span(&mut self, id: QueueId) {
        if let Some(place) = self.open_spans.remove(&id) {
            self.spans[place].until = self.now;
        }
    }

    fn again(&mut self, id: QueueId, due: Timestamp) {
        if let Some(known) = self.waiting.get_mut(&id) {
            (known.flying, known.heard) = (false, None);
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
                // The limit may have gone meanwhile.
                let Some(record) = self.engine.record(account) else { return };
                self.records.insert(account, record.clone());
                let mut durable = true;
                if let Some(disk) = &mut self.disk {
                    disk.writes.push_back((account, record));
                    durable = !disk.is_full;
                }
                // A disk takes its time.
                self.later(Duration::from_millis(3), Fact::Reserved(account, durable));
            }
            Order::Close(connection) => {
                let wait = self.with_peers(|peers, _| peers.hangs_up_after()).unwrap_or(Duration::from_millis(5));
                let Some(known) = self.connections.get_mut(&connection.0) else {
                    // The engine may not have heard of the end yet.
                    assert!(self.peers.is_some(), "a connection to close");
                    return;
                };
                assert!(!std::mem::replace(&mut known.closing, true), "closed twice");
                if known.carrying.is_none() && known.connected {
                    self.later(wait, Fact::Eof(connection));
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
            Order::WakeAt(at) => self.wake = self.real.after(at.since(self.now)),
            Order::Frozen(source, provider) => self.frozen.push((source, provider)),
            Order::Forget(handle) => {
                self.drop_records(handle);
                if let Handle::Domain(domain) = handle {
                    self.aims.remove(&domain.0);
                    // A walk over everything, so only in small worlds.
                    let small = self.waiting.len() < 1000;
                    let used = small && self.waiting.values().any(|known| known.put.domain == domain);
                    assert!(!used, "forgot a domain with mail");
                }
                self.with_peers(|peers, world| peers.forgotten(world, handle));
            }
        }
    }

    /// What is forgotten has nothing in its windows, and its records go, as the scheduler's do.
    fn drop_records(&mut self, handle: Handle) {
        let holder = match handle {
            Handle::Domain(domain) => Holder::Domain(domain),
            Handle::Site(site) => Holder::Site(site),
            Handle::Target(_) | Handle::Place(_) => return,
        };
        self.records.retain(|account, _| account.holder != holder);
        if let Some(disk) = &mut self.disk {
            disk.durable.retain(|account, _| account.holder != holder);
        }
    }

    fn finish(&mut self, id: QueueId, end: End) {
        if self.random.u8(..) < 16 {
            // It could not be read just now.
            if let Some(known) = self.waiting.get_mut(&id) {
                known.ending = true;
            }
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
            Temper::Peer => {
                let found = self.with_peers(|peers, world| peers.find(world, domain.0)).flatten();
                self.looking.insert(domain.0, found.clone());
                match found {
                    Some(aim) => Fact::Resolved {
                        domain,
                        target: TargetHandle(aim.target),
                        site: SiteHandle(aim.site),
                        provider: aim.provider,
                        kept: self.kept_for(aim.site, Some(domain), Some(aim.provider)),
                        limits: aim.limits,
                        own: aim.own,
                        until: self.now.after(secs(600)),
                    },
                    None => Fact::Unresolved(domain, Unresolved::Later(self.now.after(secs(30)))),
                }
            }
            _ => Fact::Resolved {
                domain,
                // Domains of one site here share its hosts.
                target: TargetHandle(place.site),
                site: SiteHandle(place.site),
                provider: ProviderHandle(0),
                limits: Arc::new(SiteLimits::of_each(place.limits)),
                own: None,
                kept: self.kept_for(place.site, None, None),
                until: self.now.after(secs(600)),
            },
        };
        let wait = if self.is_even { 10 } else { self.random.u64(1..50) };
        self.later(Duration::from_millis(wait), fact);
    }

    fn dial(&mut self, connection: ConnectionHandle, source: SourceHandle, target: TargetHandle, domain: DomainHandle) {
        self.dials += 1;
        let place = self.places[domain.0 as usize];
        let (at, site) = self.aims.get(&domain.0).map_or((place.site, place.site), |aim| (aim.target, aim.site));
        assert_eq!(at, target.0);
        let fresh = Connection {
            source,
            target: target.0,
            site,
            connected: false,
            closing: false,
            carrying: None,
            kind: None,
            written: false,
        };
        assert!(self.connections.insert(connection.0, fresh).is_none(), "a number was used twice");
        assert!(!self.is_stopped(site, source), "dialed what is stopped");
        if place.temper == Temper::Peer {
            return self.dial_peer(connection);
        }
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
            Temper::Kind(_) | Temper::Never | Temper::Lost(_) | Temper::Peer => {
                self.later(Duration::from_millis(20), connected)
            }
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

    fn dial_peer(&mut self, connection: ConnectionHandle) {
        let call = self.call(connection.0, &self.connections[&connection.0]);
        let greeting = self.with_peers(|peers, world| peers.dialed(world, &call)).expect("peers");
        let fact = match greeting.signal {
            None => Fact::Connected { connection, deliveries_max: greeting.deliveries_max },
            Some(signal) => {
                self.later(greeting.after + Duration::from_millis(4), Fact::Eof(connection));
                Fact::Refused(connection, signal)
            }
        };
        self.later(greeting.after, fact);
    }

    fn send_to_peer(&mut self, connection: ConnectionHandle, id: QueueId, recipients: u16) {
        let call = self.call(connection.0, &self.connections[&connection.0]);
        let known = self.waiting[&id];
        let recipients = recipients.min(known.left);
        let answer = self.with_peers(|peers, world| peers.sent(world, &call, &known, recipients)).expect("peers");
        if matches!(answer.turn, Turn::Goes | Turn::Closes | Turn::Breaks) {
            self.later(answer.mail_after, Fact::MailWritten(connection, id));
        }
        let fact = match answer.turn {
            Turn::Goes | Turn::Closes => {
                if answer.due.is_none()
                    && let Some(known) = self.waiting.get_mut(&id)
                {
                    known.left -= recipients;
                }
                Fact::Settled { connection, id, due: answer.due, signal: answer.signal }
            }
            Turn::Breaks => Fact::Eof(connection),
            Turn::Returns => Fact::Returned(connection, id),
            Turn::Skips => Fact::Skipped(connection, id),
        };
        self.later(answer.after, fact);
        let ends = matches!(answer.turn, Turn::Closes | Turn::Returns);
        if ends || self.connections[&connection.0].closing {
            self.later(answer.after + Duration::from_millis(5), Fact::Eof(connection));
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
        let at = self.aims.get(&put.domain.0).map_or(place.site, |aim| aim.target);
        let link = self.connections.get_mut(&connection.0).expect("a connection that is there");
        assert!(link.connected && !link.closing && link.carrying.is_none(), "sent on {link:?}");
        assert_eq!(link.target, at, "sent to hosts of others");
        assert!(self.rules.pools[usize::from(put.pool.0)].contains(&link.source), "sent over a source of others");
        (link.carrying, link.kind) = (Some(id), Some(put.kind));
        let (source, site) = (link.source, link.site);
        self.sent.push((self.now, id, site, put.kind));
        assert!(!self.is_stopped(site, source), "sent to what is stopped");
        if place.temper == Temper::Peer {
            return self.send_to_peer(connection, id, recipients);
        }
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

    /// Whether a look-up of a domain is on its way.
    pub fn is_looking(&self, domain: u32) -> bool {
        self.looking.contains_key(&domain)
    }

    pub fn is_stopped(&self, site: u32, source: SourceHandle) -> bool {
        let everywhere = self.stopped_sources.contains(&source);
        everywhere
            || self.stopped.get(&site).is_some_and(|stopped| stopped.iter().any(|of| of.is_none_or(|of| of == source)))
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
        self.with_peers(|peers, world| peers.crashed(world, false));
        if let Some(disk) = &mut self.disk {
            let written = self.random.usize(0..=disk.writes.len());
            for (account, record) in disk.writes.drain(..).take(written).filter(|_| !disk.lies) {
                disk.durable.insert(account, record);
            }
            self.records = disk.durable.clone();
        }
        self.crashes += 1;
        self.begin_anew(first_dial);
    }

    /// A clean stop, and a start: what is on its way comes back within eight seconds, or is dropped.
    pub fn restart(&mut self) {
        let end = self.real.after(secs(8));
        while let Some(((at, _), fact)) = self.events.pop_first() {
            if at > end {
                break;
            }
            self.pass_to(at);
            // The queue and the peers see it; the engine hears nothing any more.
            self.before(fact);
        }
        // Until the next run begins, peers have seen the end of one that crashed just before, too.
        self.pass_to(self.real.after(secs(1)));
        self.with_peers(|peers, world| peers.crashed(world, true));
        let finals = self.engine.final_records();
        if let Some(disk) = &mut self.disk {
            for (account, record) in disk.writes.drain(..) {
                disk.durable.insert(account, record);
            }
            disk.durable.extend(finals);
            self.records = disk.durable.clone();
        } else {
            self.records.extend(finals);
        }
        self.begin_anew(Duration::ZERO);
    }

    fn begin_anew(&mut self, first_dial: Duration) {
        for (_, place) in self.open_spans.drain() {
            self.spans[place].until = self.now;
        }
        self.connections.clear();
        self.stopped.clear();
        self.stopped_sources.clear();
        self.events.clear();
        self.aims.clear();
        self.looking.clear();
        self.lost.clear();
        self.wake = Timestamp::NEVER;
        self.doom = None;
        self.ahead_at_start_ms = self.now.as_millis() as i64 - self.real.as_millis() as i64;
        self.ahead_ms = self.ahead_at_start_ms;
        self.told_ms = 0;
        self.rules.first_dial = if first_dial.is_zero() { Timestamp::ZERO } else { self.now.after(first_dial) };
        self.engine = Engine::starting_at(Rules::default(), self.now);
        self.last_fact = self.now;
        self.apply(Fact::Reload(self.rules.clone()));
        let waiting: Vec<QueueId> = self.waiting.keys().copied().collect();
        for id in waiting {
            let now = self.now;
            let with_peers = self.peers.is_some();
            let known = self.waiting.get_mut(&id).expect("one that waits");
            (known.flying, known.ending, known.heard) = (false, false, None);
            if known.gone {
                self.end(id, End::Removed);
                continue;
            }
            // What was deferred stays so.
            known.put.due = if with_peers { known.due } else { now };
            let put = known.put;
            self.put(put);
        }
    }

    fn kept_for(&self, site: u32, domain: Option<DomainHandle>, provider: Option<ProviderHandle>) -> Box<[Kept]> {
        let fits = |account: &&Account| match account.holder {
            Holder::Site(of) => of == SiteHandle(site),
            Holder::Domain(of) => Some(of) == domain,
            // All ordinary places are of one provider.
            Holder::Provider(of) => provider.is_none_or(|provider| provider == of),
            Holder::All => true,
            // Nothing of a shared address is kept.
            Holder::Place(_) => false,
        };
        let accounts = self.records.keys().filter(fits);
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
            assert!(
                !self.engine.is_stranded(self.now, id),
                "{known:?} has no next event: {why:?}; {:?}",
                self.aims.get(&known.put.domain.0)
            );
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
