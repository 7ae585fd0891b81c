//! The scheduler's one task.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{error, info, warn};

use super::accounts::Accounts;
use super::listing::provider;
use super::names::{Configured, Numbers};
use super::recent::{Ended, Recent};
use super::resolve::{BELIEVED_FOR, DISCARDED, SiteKey, Target, TargetKey, Way, WayKey, resolve};
use super::suspend::{Said, Suspensions};
use super::world::{End, World};
use super::{Command, Inbox, Meant, NamedLimits, Settings};
use crate::classify::{Feedback, Reaction, Signal};
use crate::delivery::{ConnectionId, Event, Host, Order as LinkOrder, Plan, SlotLimits, Source, Words};
use crate::dns::{Failure, Finality};
use crate::history::{self, History};
use crate::mail::{Cause, Domain, Outcome, QueueId, Stage, Text};
use crate::queue::{Change, Waiting};
use crate::route;
use crate::time::Timestamp;
use crate::traffic::{
    Account, ConnectionHandle, CredentialHandle, DomainHandle, Ending, Engine, Fact, Handle, Holder, Operator, Order,
    PlaceHandle, PoolHandle, ProviderHandle, Put, Rates, Rules, SiteHandle, SiteLimits, SourceHandle, StreamHandle,
    TargetHandle, Unit, Unresolved, Warming,
};

/// Events of all connections that wait here; a connection that has more waits itself.
const EVENTS_MAX: usize = 4096;
/// Facts taken in one go, so that orders are not held up by a flood.
const BATCH: usize = 256;
/// Orders that one connection can hold: the engine has one envelope on it at most, and says Close once.
const LINK_ORDERS_MAX: usize = 4;
/// At a stop, for the last records.
const RECORDS_WITHIN: Duration = Duration::from_millis(500);
/// The longest sleep, since timers do not reach to the end of time.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Hosts, and the site whose limits they share.
pub(super) struct Aim {
    pub target: Target,
    pub site: u32,
}

/// What is known of a site beside what the engine knows, by source.
#[derive(Default)]
pub(super) struct SiteMemory {
    /// Its last words.
    pub last: HashMap<u16, Outcome>,
    /// What became of the last attempts.
    pub recent: HashMap<u16, Box<Recent>>,
    /// What the engine was told is suspended here.
    pub stopped: Box<[Option<SourceHandle>]>,
    /// Its limits as the config has them.
    pub limits: Option<Arc<NamedLimits>>,
    /// Where its hosts are, if that makes others share it.
    pub addresses: Option<Box<[(IpAddr, u16)]>>,
    /// Sources of which the history was told these.
    told: Vec<Arc<str>>,
}

struct Link {
    orders: mpsc::Sender<LinkOrder>,
    source: SourceHandle,
    target: u32,
    task: Id,
}

/// What a task was asked, should it break off without an answer.
enum Asked {
    Way(u32),
    End(QueueId),
    Budget(Option<Account>),
}

enum Answer {
    Way(u32, Result<Box<Way>, Failure>),
    End(QueueId, bool),
    Budget(Option<Account>, bool),
}

pub(super) struct Clerk<W> {
    settings: Arc<Settings>,
    pub world: Arc<W>,
    inbox: Arc<Inbox>,
    pub engine: Engine,
    out: Vec<Order>,
    pub domains: Numbers<WayKey, Option<Failure>>,
    pub targets: Numbers<TargetKey, Aim>,
    pub sites: Numbers<SiteKey, SiteMemory>,
    pub places: Numbers<SocketAddr, ()>,
    pub sources: Configured,
    source_of: Vec<Option<Source>>,
    pub pools: Configured,
    pub providers: Configured,
    streams: Configured,
    credentials: Configured,
    links: HashMap<u32, Link>,
    link_of: HashMap<Id, u32>,
    connections: JoinSet<()>,
    events: mpsc::Sender<(ConnectionId, Event)>,
    heard: mpsc::Receiver<(ConnectionId, Event)>,
    answers: JoinSet<Answer>,
    asked: HashMap<Id, Asked>,
    /// When the engine wants to be told that time passed, by the clock that nobody sets.
    wake: Duration,
    pub accounts: Accounts,
    pub suspensions: Suspensions,
    /// Sites that no rule governs, by where their best hosts are.
    site_at: HashMap<Box<[(IpAddr, u16)]>, u32>,
    /// Limits by their place in memory, with sources as numbers. For the settings of now.
    numbered: HashMap<usize, (Arc<NamedLimits>, Arc<SiteLimits>)>,
    /// When the two clocks were compared first, and by how much they differ since. See [`Fact::Skewed`].
    clocks: (Timestamp, Duration),
    skew_ms: i64,
    /// What waited at the start is still being taken in.
    pub loading: bool,
    /// Some route takes one source, so that a pool depends on it.
    routes_have_pools: bool,
    /// Envelopes whose sender was paused or goes on: to be told to the engine anew.
    again: VecDeque<Meant>,
}

impl<W: World> Clerk<W> {
    pub fn new(settings: Settings, world: Arc<W>, inbox: Arc<Inbox>) -> Clerk<W> {
        let (events, heard) = mpsc::channel(EVENTS_MAX);
        let clocks = world.clocks();
        let accounts = Accounts::new(world.budgets());
        let suspensions = Suspensions::read(world.suspensions());
        let mut clerk = Clerk {
            settings: Arc::new(Settings::default()),
            world,
            inbox,
            engine: Engine::starting_at(Rules::default(), clocks.0),
            out: Vec::new(),
            domains: Numbers::default(),
            targets: Numbers::default(),
            sites: Numbers::default(),
            places: Numbers::default(),
            sources: Configured::default(),
            source_of: Vec::new(),
            pools: Configured::default(),
            providers: Configured::default(),
            streams: Configured::default(),
            credentials: Configured::default(),
            links: HashMap::new(),
            link_of: HashMap::new(),
            connections: JoinSet::new(),
            events,
            heard,
            answers: JoinSet::new(),
            asked: HashMap::new(),
            wake: Duration::MAX,
            accounts,
            suspensions,
            site_at: HashMap::new(),
            numbered: HashMap::new(),
            clocks,
            skew_ms: 0,
            loading: true,
            routes_have_pools: false,
            again: VecDeque::new(),
        };
        clerk.reload(settings);
        clerk
    }

    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut waiting: impl Iterator<Item = Waiting> + Send,
    ) {
        let inbox = Arc::clone(&self.inbox);
        let (mut changes, mut events) = (Vec::new(), Vec::with_capacity(BATCH));
        self.execute();
        loop {
            let wake = self.wake.saturating_sub(self.world.steady());
            let pause = if self.loading || !self.again.is_empty() {
                Duration::ZERO
            } else {
                let suspended = match self.suspensions.next_end() {
                    Timestamp::NEVER => SLEEP_MAX,
                    end => end.since(self.world.now()),
                };
                wake.min(suspended).min(SLEEP_MAX)
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop(within, answer)) => {
                        let dropped = self.stop(within).await;
                        // Whoever asked may be gone.
                        let _ = answer.send(dropped);
                        return;
                    }
                    Some(command) => self.obey(command),
                    // Nobody can ever stop us: the handle is gone, and with it the process's interest.
                    None => return,
                },
                _ = self.heard.recv_many(&mut events, BATCH) => {}
                () = inbox.filled.notified() => {}
                Some(answer) = self.answers.join_next_with_id() => self.answered(answer),
                Some(ended) = self.connections.join_next_with_id() => self.reap(ended),
                () = tokio::time::sleep(pause) => {
                    // The engine says anew what it waits for.
                    self.wake = Duration::MAX;
                    self.tell(Fact::Tick);
                }
            }
            self.end_suspensions();
            self.loading = self.loading && self.load(&mut waiting);
            if let Some(mut rows) = self.again.pop_front()
                && self.tell_some(&mut rows)
            {
                self.again.push_front(rows);
            }
            self.inbox.swap(&mut changes);
            for change in changes.drain(..) {
                self.heard_change(change);
            }
            for (id, event) in events.drain(..) {
                self.heard_event(id, event);
            }
            self.execute();
        }
    }

    /// Takes some of what waited before we ran. False: that was all.
    fn load(&mut self, waiting: &mut impl Iterator<Item = Waiting>) -> bool {
        for _ in 0..BATCH {
            match waiting.next() {
                Some(waiting) => self.heard_change(Change::Waiting(waiting)),
                None => return false,
            }
        }
        true
    }

    /// Looks at some of what may have to be told anew. Bounded by rows, not by those that are meant, of which there may be
    /// none. False: that was all.
    fn tell_some(&mut self, rows: &mut Meant) -> bool {
        for _ in 0..BATCH {
            match rows.next() {
                Some(Some(waiting)) => self.heard_change(Change::Waiting(waiting)),
                Some(None) => {}
                None => return false,
            }
        }
        true
    }

    pub(super) fn tell(&mut self, fact: Fact) {
        let (now, steady) = self.world.clocks();
        let passed = steady.saturating_sub(self.clocks.1);
        let skew_ms = now.as_millis() as i64 - self.clocks.0.after(passed).as_millis() as i64;
        if skew_ms != self.skew_ms {
            self.skew_ms = skew_ms;
            self.engine.apply(now, fastrand::f64(), Fact::Skewed(skew_ms), &mut self.out);
        }
        let began = Instant::now();
        self.engine.apply(now, fastrand::f64(), fact, &mut self.out);
        self.inbox.steps.observe(began.elapsed());
    }

    /// Whether rows wait to be told to the engine anew.
    pub(super) fn is_telling_again(&self) -> bool {
        !self.again.is_empty()
    }

    fn heard_change(&mut self, change: Change) {
        let fact = match change {
            Change::Gone(id) => Fact::Gone(id),
            Change::Waiting(waiting) => Fact::Put(self.put(&waiting)),
        };
        self.tell(fact);
    }

    fn put(&mut self, waiting: &Waiting) -> Put {
        let (pool, chosen) = route::split(&waiting.pool);
        let key = WayKey { domain: waiting.domain.clone(), route: chosen.map(Into::into) };
        let settings = Arc::clone(&self.settings);
        let pool = match self.routes_have_pools {
            true => settings.route(&key).and_then(|route| route.pool.as_deref()).unwrap_or(pool),
            false => pool,
        };
        // A pool that left the config is served by the first one.
        let pool = self.pools.find(pool).unwrap_or_default();
        let is_paused = self.world.holds(&waiting.credential, &waiting.stream, waiting.kind);
        Put {
            id: waiting.id,
            domain: DomainHandle(self.domains.number(&key, || None)),
            credential: CredentialHandle(u32::from(self.credentials.number(&waiting.credential))),
            stream: StreamHandle(self.streams.number(&waiting.stream)),
            pool: PoolHandle(pool),
            source: self.sources.find(&waiting.source).map(SourceHandle),
            kind: waiting.kind,
            priority: waiting.priority,
            engaged: waiting.engaged,
            recipients: waiting.recipients,
            due: waiting.due,
            // Told anew when the pause is over: until then what a pause lets go does not expire either.
            expires_at: if is_paused { Timestamp::NEVER } else { waiting.expires_at },
            held: waiting.held || is_paused,
        }
    }

    fn heard_event(&mut self, id: ConnectionId, event: Event) {
        let Some(number) = u32::try_from(id.0).ok().filter(|number| self.links.contains_key(number)) else { return };
        let connection = ConnectionHandle(number);
        let fact = match event {
            Event::Connected { address, transactions_max, .. } => {
                let place = PlaceHandle(self.places.number(&address, || ()));
                self.tell(Fact::Arrived(connection, place));
                Fact::Connected { connection, deliveries_max: transactions_max }
            }
            Event::Crowded { place: address, outcome } => {
                self.remember(number, outcome);
                let place = PlaceHandle(self.places.number(&address, || ()));
                self.tell(Fact::Crowded(connection, place));
                return self.forget(Handle::Place(place));
            }
            Event::Refused { outcome, signal, .. } => {
                self.refused(number, outcome);
                Fact::Refused(connection, signal)
            }
            Event::MailWritten(id) => Fact::MailWritten(connection, id),
            Event::Settled { id, due, signal, words, .. } => {
                self.count(number, if due.is_some() { Ended::Deferred } else { Ended::Final });
                let fact = Fact::Settled { connection, id, due, signal };
                return match words {
                    Some(words) => self.heed(number, fact, &signal, *words),
                    None => self.tell(fact),
                };
            }
            Event::Postponed { id, due } => Fact::Settled { connection, id, due, signal: Signal::NOTHING },
            Event::Skipped(id) => Fact::Skipped(connection, id),
            Event::Returned(id) => Fact::Returned(connection, id),
            Event::Eof => return self.eof(number),
        };
        self.tell(fact);
    }

    /// Counts what became of an attempt, for listings.
    fn count(&mut self, number: u32, ended: Ended) {
        let now = self.world.now();
        let Some(link) = self.links.get(&number) else { return };
        let Some(site) = self.targets.value(link.target).map(|aim| aim.site) else { return };
        if let Some(memory) = self.sites.value_mut(site) {
            memory.recent.entry(link.source.0).or_default().count(now, ended);
        }
    }

    /// Keeps why a connection was not made, for `why`.
    fn remember(&mut self, number: u32, outcome: Outcome) {
        let Some(link) = self.links.get(&number) else { return };
        let Some(site) = self.targets.value(link.target).map(|aim| aim.site) else { return };
        if let Some(memory) = self.sites.value_mut(site) {
            memory.last.insert(link.source.0, outcome);
        }
    }

    /// A site refused a connection.
    fn refused(&mut self, number: u32, outcome: Outcome) {
        let Some(link) = self.links.get(&number) else { return };
        let source = link.source;
        let Some(site) = self.targets.value(link.target).map(|aim| aim.site) else { return };
        let (name, source_name) = (self.sites.key(site).map(SiteKey::name), self.sources.name(source.0));
        let (host, stage) = (&outcome.host, outcome.stage.name());
        info!(site = name.as_deref(), source = source_name, %host, stage, cause = %outcome.cause, "a connection was refused");
        self.remember(number, outcome);
    }

    /// Tells of an attempt whose answers ask something of the source, and keeps them for `why` and the listing if the
    /// engine acts on them: then it has something to write down. A reply below its rule's trigger must not stand there as
    /// the cause of what another brought about.
    fn heed(&mut self, number: u32, fact: Fact, signal: &Signal, words: Words) {
        let Some(link) = self.links.get(&number) else { return self.tell(fact) };
        let (source, site) = (link.source, self.targets.value(link.target).map(|aim| aim.site));
        let before = self.out.len();
        self.tell(fact);
        let Some(site) = site else { return };
        let lesson = Account { holder: Holder::Site(SiteHandle(site)), source: Some(source), unit: Unit::Lesson };
        let acts = self.out.iter().skip(before).any(|order| *order == Order::Reserve(lesson));
        if let Some(done) = signal.reaction.filter(|_| acts).and_then(done_by) {
            let (site, source) = (self.sites.key(site).map(SiteKey::name), self.sources.name(source.0));
            let (host, rule, cause) = (&words.outcome.host, &words.rule, &words.outcome.cause);
            info!(site, source, %host, rule, %cause, "a source was {done} at a site");
        }
        let pauses = matches!(signal.feedback, Feedback::Slower | Feedback::Broken);
        if let Some(memory) = self.sites.value_mut(site).filter(|_| acts || pauses) {
            memory.last.insert(source.0, words.outcome);
        }
    }

    fn eof(&mut self, number: u32) {
        if let Some(link) = self.links.remove(&number) {
            self.link_of.remove(&link.task);
            self.tell(Fact::Eof(ConnectionHandle(number)));
        }
    }

    /// A connection's task ended. If it broke off without its last event, that is told here.
    fn reap(&mut self, ended: Result<(Id, ()), JoinError>) {
        let Err(error) = ended else { return };
        let Some(number) = self.link_of.get(&error.id()).copied() else { return };
        error!(connection = number, %error, "a connection's task broke off");
        // What it still said before is in the channel.
        while let Ok((id, event)) = self.heard.try_recv() {
            self.heard_event(id, event);
        }
        self.eof(number);
    }

    fn answered(&mut self, answer: Result<(Id, Answer), JoinError>) {
        match answer {
            Ok((id, answer)) => {
                self.asked.remove(&id);
                match answer {
                    Answer::Way(domain, Ok(way)) => self.resolved(domain, *way),
                    Answer::Way(domain, Err(failure)) => self.unresolved(domain, failure),
                    Answer::End(id, true) => self.tell(Fact::Ended(id, Ending::Done)),
                    Answer::End(id, false) => self.tell(Fact::Ended(id, Ending::Again)),
                    Answer::Budget(Some(account), durable) => self.tell(Fact::Reserved(account, durable)),
                    Answer::Budget(None, _) => {}
                }
            }
            Err(broken) => {
                error!(error = %broken, "a task of the scheduler broke off");
                match self.asked.remove(&broken.id()) {
                    Some(Asked::Way(domain)) => {
                        let later = Unresolved::Later(self.world.now());
                        self.tell(Fact::Unresolved(DomainHandle(domain), later));
                    }
                    Some(Asked::End(id)) => self.tell(Fact::Ended(id, Ending::Again)),
                    Some(Asked::Budget(Some(account))) => self.tell(Fact::Reserved(account, false)),
                    Some(Asked::Budget(None)) | None => {}
                }
            }
        }
    }

    fn resolved(&mut self, domain: u32, way: Way) {
        if let Some(failure) = self.domains.value_mut(domain) {
            *failure = None;
        }
        let site = self.site_of(&way);
        let target = self.targets.number(&way.target_key, || Aim { target: way.target.clone(), site });
        if let Some(aim) = self.targets.value_mut(target) {
            // Newer addresses.
            *aim = Aim { target: way.target, site };
        }
        self.tell_limits(site, &way.limits);
        if let Some(own) = &way.own {
            self.tell_own_limits(domain, own);
        }
        self.enforce_at(site);
        let limits = self.numbered(&way.limits);
        let own = way.own.as_ref().map(|own| self.numbered(own));
        let provider = match self.sites.key(site) {
            Some(key) => self.providers.number(&Arc::from(provider(&self.settings, key))),
            None => 0,
        };
        let kept = self.kept_of(site, domain, ProviderHandle(provider));
        self.tell(Fact::Resolved {
            domain: DomainHandle(domain),
            target: TargetHandle(target),
            site: SiteHandle(site),
            provider: ProviderHandle(provider),
            limits,
            own,
            kept,
            until: self.world.now().after(BELIEVED_FOR),
        });
        // The domain may have gone meanwhile, and nobody needs these then.
        self.forget(Handle::Target(TargetHandle(target)));
        self.forget(Handle::Site(SiteHandle(site)));
    }

    /// The site whose limits a way shares: by its rule, by the names of its hosts, else that of other names for exactly
    /// the same addresses. Names go first, since addresses rotate. The addresses must be all the same: a domain that
    /// lists another's host beside its own could else make us believe that the other refuses us.
    fn site_of(&mut self, way: &Way) -> u32 {
        let shared = match (self.sites.find(&way.site_key), &way.addresses) {
            (None, Some(addresses)) if !self.suspensions.is_about(&way.site_key) => {
                self.site_at.get(addresses).copied()
            }
            (Some(_), _) | (None, _) => None,
        };
        if let Some(site) = shared.filter(|site| self.sites.key(*site).is_some()) {
            return site;
        }
        let site = self.sites.number(&way.site_key, SiteMemory::default);
        let Some(memory) = self.sites.value_mut(site).filter(|memory| memory.addresses != way.addresses) else {
            return site;
        };
        let old = std::mem::replace(&mut memory.addresses, way.addresses.clone());
        self.leave_addresses(site, old);
        if let Some(addresses) = &way.addresses {
            self.site_at.entry(addresses.clone()).or_insert(site);
        }
        site
    }

    fn leave_addresses(&mut self, site: u32, addresses: Option<Box<[(IpAddr, u16)]>>) {
        if let Some(addresses) = addresses.filter(|addresses| self.site_at.get(addresses) == Some(&site)) {
            self.site_at.remove(&addresses);
        }
    }

    /// Limits of a site are in force: the history hears of them again for each source that was used there.
    fn tell_limits(&mut self, site: u32, limits: &Arc<NamedLimits>) {
        let history = self.world.history();
        let Some(name) = self.sites.key(site).filter(|_| history.is_kept()).map(SiteKey::full_name) else { return };
        let Some(memory) = self.sites.value_mut(site) else { return };
        let known = memory.limits.replace(Arc::clone(limits));
        if known.is_some_and(|known| known != *limits) {
            for source in &memory.told {
                tell_limits(&history, (&name, ""), source, limits);
            }
        }
    }

    /// Before a source's first connection to a site.
    fn tell_limits_of(&mut self, site: u32, source: &Arc<str>) {
        let history = self.world.history();
        let Some(name) = self.sites.key(site).filter(|_| history.is_kept()).map(SiteKey::full_name) else { return };
        let Some(memory) = self.sites.value_mut(site) else { return };
        let Some(limits) = memory.limits.as_ref().filter(|_| !memory.told.contains(source)) else { return };
        tell_limits(&history, (&name, ""), source, limits);
        memory.told.push(Arc::clone(source));
    }

    /// Limits of a recipient domain's own.
    fn tell_own_limits(&self, domain: u32, limits: &NamedLimits) {
        let history = self.world.history();
        let Some(name) = self.domains.key(domain).filter(|_| history.is_kept()) else { return };
        for source in &self.settings.sources {
            tell_limits(&history, ("", name.domain.as_str()), &source.name, limits);
        }
    }

    fn unresolved(&mut self, domain: u32, failure: Failure) {
        let why = match failure.finality {
            Finality::Deferred => Unresolved::Later(failure.until),
            Finality::Final => Unresolved::Never(failure.until),
        };
        if let Some(kept) = self.domains.value_mut(domain) {
            *kept = Some(failure);
        }
        self.tell(Fact::Unresolved(DomainHandle(domain), why));
    }

    fn forget(&mut self, handle: Handle) {
        if self.engine.holds(handle) {
            return;
        }
        match handle {
            Handle::Domain(domain) => {
                self.close_accounts(Holder::Domain(domain));
                self.domains.free(domain.0);
            }
            Handle::Target(target) => self.targets.free(target.0),
            Handle::Place(place) => self.places.free(place.0),
            Handle::Site(site) => {
                self.close_accounts(Holder::Site(site));
                self.let_go(site.0);
                let addresses = self.sites.value_mut(site.0).and_then(|memory| memory.addresses.take());
                self.leave_addresses(site.0, addresses);
                self.sites.free(site.0);
            }
        }
    }

    fn execute(&mut self) {
        let mut orders = std::mem::take(&mut self.out);
        for order in orders.drain(..) {
            match order {
                Order::Resolve(domain) => self.look_up(domain.0),
                Order::Dial { connection, source, target, domain } => self.dial(connection, source, target, domain),
                Order::Send { connection, id, recipients_max } => {
                    self.order(connection, LinkOrder::Send { id, recipients_max });
                }
                Order::Reserve(account) => self.reserve(account),
                Order::Close(connection) => self.order(connection, LinkOrder::Close),
                Order::Expire(id, domain) => self.end(id, End::Expired(self.what_stood_in_the_way(id, domain))),
                Order::Fail(id, domain) => self.fail(id, domain),
                Order::WakeAt(at) => {
                    // The clock may be set while we sleep; what was promised to pass does.
                    let (now, steady) = self.world.clocks();
                    self.wake = steady.saturating_add(at.since(now));
                }
                Order::Frozen(source, provider) => {
                    self.world.warmup_frozen(self.sources.name(source.0), self.providers.name(provider.0));
                }
                Order::Forget(handle) => self.forget(handle),
            }
        }
        // Keeps the buffer; what an order could not do comes back as a fact of its own.
        orders.append(&mut self.out);
        self.out = orders;
        if !self.out.is_empty() {
            self.execute();
        }
    }

    fn look_up(&mut self, domain: u32) {
        let Some(name) = self.domains.key(domain).cloned() else { return };
        let (world, settings) = (Arc::clone(&self.world), Arc::clone(&self.settings));
        let task = async move { Answer::Way(domain, resolve(&*world, &settings, &name).await.map(Box::new)) };
        let id = self.answers.spawn(task).id();
        self.asked.insert(id, Asked::Way(domain));
    }

    fn dial(&mut self, connection: ConnectionHandle, source: SourceHandle, target: TargetHandle, domain: DomainHandle) {
        let found = (
            self.source_of.get(usize::from(source.0)).cloned().flatten(),
            self.targets.value(target.0).map(|aim| Aim { target: aim.target.clone(), site: aim.site }),
            self.domains.key(domain.0).map(|key| key.domain.clone()),
        );
        let (Some(address), Some(aim), Some(domain)) = found else {
            // A source that left the config between the order and now.
            warn!(connection = connection.0, "a connection could not be made: its source or target is gone");
            self.tell(Fact::Eof(connection));
            return;
        };
        self.tell_limits_of(aim.site, &address.name);
        let site = self.sites.key(aim.site).map_or_else(|| "".into(), SiteKey::full_name);
        let provider = self.sites.key(aim.site).map_or("", |key| provider(&self.settings, key)).into();
        let plan = Plan {
            id: ConnectionId(u64::from(connection.0)),
            source: address,
            hosts: shuffled(&aim.target.hosts),
            tls: aim.target.tls,
            login: aim.target.login,
            trust: aim.target.trust,
            return_path: aim.target.return_path,
            allow_private: aim.target.allow_private,
            slots: self.slots_of(aim.site, source),
            site,
            provider,
            domain,
        };
        let (orders, ordered) = mpsc::channel(LINK_ORDERS_MAX);
        let task = self.connections.spawn(self.world.connect(plan, ordered, self.events.clone())).id();
        self.links.insert(connection.0, Link { orders, source, target: target.0, task });
        self.link_of.insert(task, connection.0);
    }

    /// How many connections there may be to one address of a site.
    fn slots_of(&self, site: u32, source: SourceHandle) -> SlotLimits {
        let Some(limits) = self.engine.limits_of(SiteHandle(site)) else { return SlotLimits::default() };
        SlotLimits { of_source: limits.of(source).connections, of_all: limits.total.connections }
    }

    fn order(&mut self, connection: ConnectionHandle, order: LinkOrder) {
        let Some(link) = self.links.get(&connection.0) else { return };
        match link.orders.try_send(order) {
            // One that is ending takes no more mail, and says so by its last event only when the peer is gone too: its
            // envelope need not wait for that.
            Err(mpsc::error::TrySendError::Closed(LinkOrder::Send { id, .. })) => {
                self.tell(Fact::Returned(connection, id))
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(LinkOrder::Close)) => {}
            Err(mpsc::error::TrySendError::Full(order)) => {
                error!(connection = connection.0, ?order, "a connection does not take its orders");
            }
        }
    }

    pub(super) fn keep(&mut self, name: Bytes, record: Option<Bytes>, account: Option<Account>) {
        let world = Arc::clone(&self.world);
        let task = async move { Answer::Budget(account, world.keep_budget(name, record).await) };
        let id = self.answers.spawn(task).id();
        self.asked.insert(id, Asked::Budget(account));
    }

    /// Writes down what an operator decided, and then tells them.
    pub(super) fn write_down(&mut self, records: Vec<(Bytes, Option<Bytes>)>, answer: Said, done: String) {
        let world = Arc::clone(&self.world);
        let task = async move {
            let mut durable = true;
            for (name, record) in records {
                durable &= world.keep_suspension(name, record).await;
            }
            let unwritten = || format!("{done}, but only until a restart: it could not be written down");
            // Whoever asked may be gone.
            let _ = answer.send(if durable { Ok(done) } else { Err(unwritten()) });
            Answer::Budget(None, durable)
        };
        let id = self.answers.spawn(task).id();
        self.asked.insert(id, Asked::Budget(None));
    }

    /// Limits with the sources' numbers, shared by all whom one rule governs.
    fn numbered(&mut self, limits: &Arc<NamedLimits>) -> Arc<SiteLimits> {
        let place = Arc::as_ptr(limits) as usize;
        if let Some((_, numbered)) = self.numbered.get(&place) {
            return Arc::clone(numbered);
        }
        let numbered = Arc::new(limits.numbered(|name| self.sources.find(name)));
        // The limits stay alive as long as their place is known, so that it is nobody else's.
        self.numbered.insert(place, (Arc::clone(limits), Arc::clone(&numbered)));
        numbered
    }

    fn end(&mut self, id: QueueId, end: End) {
        let world = Arc::clone(&self.world);
        let task = self.answers.spawn(async move { Answer::End(id, world.end(id, end).await) }).id();
        self.asked.insert(task, Asked::End(id));
    }

    fn fail(&mut self, id: QueueId, domain: DomainHandle) {
        match self.failure_of(domain) {
            Some(outcome) if outcome.cause.status() == DISCARDED => self.end(id, End::Discarded),
            Some(outcome) => self.end(id, End::Failed(outcome)),
            None => self.tell(Fact::Ended(id, Ending::Again)),
        }
    }

    /// Why a domain has no hosts, as an outcome.
    fn failure_of(&self, domain: DomainHandle) -> Option<Outcome> {
        let failure = self.domains.value(domain.0)?.as_ref()?;
        Some(Outcome {
            at: self.world.now(),
            stage: Stage::Resolve,
            host: "".into(),
            address: None,
            cause: Cause::local(failure.status, &failure.text),
        })
    }

    /// What kept an envelope from being tried, if anybody said.
    fn what_stood_in_the_way(&self, id: QueueId, domain: DomainHandle) -> Option<Outcome> {
        if let Some(outcome) = self.failure_of(domain) {
            return Some(outcome);
        }
        let site = self.engine.site_of(id)?;
        let memory = self.sites.value(site.0)?;
        memory.last.values().max_by_key(|outcome| outcome.at).cloned()
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone, and an answer to nobody is no error.
        match command {
            Command::Why(id, answer) => drop(answer.send(self.why(id))),
            Command::Sites(which, filter, answer) => drop(answer.send(self.list_sites(which, &filter))),
            Command::Gauges(answer) => drop(answer.send(self.gauges())),
            Command::Stranded(ids, answer) => drop(answer.send(self.stranded(ids))),
            Command::SiteDomains(site, answer) => drop(answer.send(self.site_domains(&site))),
            Command::Pools(answer) => {
                let named = self.settings.pools.iter().filter(|pool| !pool.name.contains(' '));
                let pools = named.map(|pool| pool.name.to_string());
                drop(answer.send(pools.collect()));
            }
            Command::Reload(settings) => self.reload(*settings),
            Command::Warmups(answer) => drop(answer.send(self.list_warmups())),
            Command::Warmup(source, provider, order, answer) => {
                self.order_warmup(&source, provider.as_deref(), order, answer);
            }
            Command::Sources(answer) => drop(answer.send(self.list_sources())),
            Command::Explain(site, answer) => self.explain_site(&site, answer),
            Command::Suspend(scope, within, by, answer) => self.suspend(scope, within, &by, answer),
            Command::Resume(scope, by, answer) => self.resume(&scope, &by, answer),
            Command::TellAgain(rows) => self.again.push_back(rows),
            Command::LetGo(rows) => {
                for waiting in rows {
                    let put = Put { held: waiting.held, ..self.put(&waiting) };
                    self.tell(Fact::Put(put));
                }
            }
            Command::Probe(answer) => {
                self.world.end_stops();
                self.tell(Fact::Operator(Operator::Probe));
                // Whoever does not wait for it any more has given up its order.
                let _ = answer.send(());
            }
            Command::Stop(..) => {}
        }
    }

    fn site_domains(&self, name: &str) -> Option<Vec<Domain>> {
        let named = self.sites.iter().filter(|(_, key)| key.name() == name);
        let sites: Vec<SiteHandle> = named.map(|(site, _)| SiteHandle(site)).collect();
        if sites.is_empty() {
            return None;
        }
        let domains = self.engine.domains_of(&sites);
        Some(domains.iter().filter_map(|domain| self.domains.key(domain.0)).map(|key| key.domain.clone()).collect())
    }

    /// The settings of now.
    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// A source that the config has now.
    pub(super) fn address_of(&self, name: &str) -> Option<&Source> {
        self.source_of.get(usize::from(self.sources.find(name)?))?.as_ref()
    }

    fn reload(&mut self, settings: Settings) {
        for source in &mut self.source_of {
            *source = None;
        }
        for source in &settings.sources {
            let number = usize::from(self.sources.number(&source.name));
            self.source_of.resize(self.sources.len(), None);
            self.source_of[number] = Some(source.clone());
        }
        for pool in &settings.pools {
            self.pools.number(&pool.name);
        }
        let first = settings.pools.first().map(|pool| Arc::clone(&pool.name));
        let members = |name: &str| -> Box<[SourceHandle]> {
            let pool = settings.pools.iter().find(|pool| &*pool.name == name);
            // Mail of a pool that left the config goes by the first one.
            let pool = pool.or_else(|| settings.pools.iter().find(|pool| Some(&pool.name) == first.as_ref()));
            let sources = pool.map(|pool| pool.sources.as_slice()).unwrap_or_default();
            let known = |name: &Arc<str>| settings.sources.iter().any(|source| source.name == *name);
            sources.iter().filter(|name| known(name)).filter_map(|n| self.sources.find(n)).map(SourceHandle).collect()
        };
        let pools = (0..self.pools.len()).map(|pool| members(self.pools.name(pool as u16))).collect();
        let rules = Rules {
            total_connections: settings.connections,
            idle: settings.idle_timeout,
            lookups: settings.lookups,
            first_dial: settings.first_dial,
            pools,
            warming: Arc::default(),
        };
        let warming = self.warming_of(&settings);
        let rules = Rules { warming, ..rules };
        self.numbered.clear();
        self.routes_have_pools = settings.routes.iter().any(|route| route.pool.is_some());
        self.settings = Arc::new(settings);
        // Before the engine feeds what new sources there are.
        self.enforce_all();
        self.tell(Fact::Reload(rules));
    }

    /// How sources warm up, by their numbers.
    fn warming_of(&mut self, settings: &Settings) -> Arc<[Option<Arc<Warming>>]> {
        let mut all = vec![None; if settings.warmups.is_empty() { 0 } else { self.sources.len() }];
        for rule in &settings.warmups {
            let curves = rule.providers.iter();
            let providers = curves.map(|(name, curve)| (ProviderHandle(self.providers.number(name)), curve.clone()));
            let warming = Warming {
                curve: rule.curve.clone(),
                providers: providers.collect(),
                zone: rule.zone.clone(),
                hours: rule.hours,
            };
            if let Some(place) = self.sources.find(&rule.source).and_then(|number| all.get_mut(usize::from(number))) {
                *place = Some(Arc::new(warming));
            }
        }
        all.into()
    }

    /// Ends all connections, and waits for that, this long at most. Returns how many were dropped.
    async fn stop(&mut self, within: Duration) -> usize {
        let dropped = self.end_connections(within).await;
        let records = self.engine.final_records().into_iter();
        let named = records.filter_map(|(account, record)| Some((self.account_name(account)?, Bytes::from(record))));
        let mut kept: JoinSet<bool> = named.map(|(name, record)| self.world.keep_budget(name, Some(record))).collect();
        let all = async { while kept.join_next().await.is_some() {} };
        // What is not written by then costs as much of the allowance as a crash.
        let _ = tokio::time::timeout(RECORDS_WITHIN, all).await;
        dropped
    }

    async fn end_connections(&mut self, within: Duration) -> usize {
        self.answers.abort_all();
        for link in self.links.values() {
            // A full or closed line is ended by the drop of its sender below.
            let _ = link.orders.try_send(LinkOrder::Close);
        }
        self.links.clear();
        let heard = &mut self.heard;
        let connections = &mut self.connections;
        let ended = async {
            loop {
                tokio::select! {
                    next = connections.join_next() => if next.is_none() { return },
                    // Nobody listens any more, but nobody shall wait to be heard either.
                    _ = heard.recv() => {}
                }
            }
        };
        if tokio::time::timeout(within, ended).await.is_ok() {
            return 0;
        }
        let dropped = self.connections.len();
        warn!(connections = dropped, "connections were dropped at the stop");
        self.connections.shutdown().await;
        dropped
    }
}

/// What a reaction does to a source, for the log; `None`: nothing.
fn done_by(reaction: Reaction) -> Option<&'static str> {
    match reaction {
        Reaction::FewerConnections { .. } => Some("given fewer connections"),
        Reaction::FewerDeliveries { .. } => Some("given fewer deliveries on a connection"),
        Reaction::Slow { .. } => Some("slowed"),
        Reaction::Suspend { .. } => Some("suspended"),
        Reaction::StopDomain { .. } => None,
    }
}

/// The limits of a source, and those of all together.
fn tell_limits(history: &History, (site, domain): (&str, &str), source: &str, limits: &NamedLimits) {
    let own = limits.sources.iter().find(|(name, _)| &**name == source).map_or(&limits.each, |(_, own)| own);
    for (source, limits) in [(source, own), ("", &limits.total)] {
        let text = |rates: &Rates| Text::from(history::windows_text(rates.iter().map(|rate| (rate.count, rate.per))));
        history.tell(history::Fact::Limits(history::Limits {
            source: source.into(),
            site: site.into(),
            domain: domain.into(),
            // A recipient domain's connections are its site's.
            connections: if limits.connections == u16::MAX || site.is_empty() { 0 } else { limits.connections.into() },
            new_connections: if site.is_empty() { Text::default() } else { text(&limits.new_connections) },
            messages: text(&limits.messages),
            recipients: text(&limits.recipients),
        }));
    }
}

/// Hosts in the order in which they are tried this time: equal preferences in any order (RFC 5321 §5.1).
fn shuffled(hosts: &Arc<[Host]>) -> Arc<[Host]> {
    if hosts.windows(2).all(|pair| pair[0].preference != pair[1].preference) {
        return Arc::clone(hosts);
    }
    let mut hosts = hosts.to_vec();
    fastrand::shuffle(&mut hosts);
    hosts.sort_by_key(|host| host.preference);
    hosts.into()
}
