//! The scheduler's one task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{error, info, warn};

use super::accounts::Accounts;
use super::names::{Configured, Numbers};
use super::resolve::{BELIEVED_FOR, SiteKey, Target, TargetKey, Way, resolve};
use super::world::{End, World};
use super::{Command, Inbox, NamedLimits, Settings};
use crate::delivery::{ConnectionId, Event, Host, Order as LinkOrder, Plan, Source};
use crate::dns::{Failure, Finality};
use crate::mail::{Cause, Domain, Outcome, QueueId, Stage};
use crate::queue::{Change, Waiting};
use crate::time::Timestamp;
use crate::traffic::{
    Account, ConnectionHandle, CredentialHandle, DomainHandle, Ending, Engine, Fact, Handle, Holder, Operator, Order,
    PoolHandle, Put, Rules, SiteHandle, SiteLimits, SourceHandle, StreamHandle, TargetHandle, Unresolved,
};

/// Events of all connections that wait here; a connection that has more waits itself.
const EVENTS_MAX: usize = 4096;
/// Facts taken in one go, so that orders are not held up by a flood.
const BATCH: usize = 256;
/// Orders that one connection can hold: the engine has one envelope on it at most, and says Close once.
const LINK_ORDERS_MAX: usize = 4;
/// The longest sleep, since timers do not reach to the end of time.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Hosts, and the site whose limits they share.
pub(super) struct Aim {
    pub target: Target,
    pub site: u32,
}

/// A site's last words to each source.
#[derive(Default)]
pub(super) struct SiteMemory {
    pub last: HashMap<u16, Outcome>,
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
    Way(u32, Result<Way, Failure>),
    End(QueueId, bool),
    Budget(Option<Account>, bool),
}

pub(super) struct Clerk<W> {
    settings: Arc<Settings>,
    pub world: Arc<W>,
    inbox: Arc<Inbox>,
    pub engine: Engine,
    out: Vec<Order>,
    pub domains: Numbers<Domain, Option<Failure>>,
    pub targets: Numbers<TargetKey, Aim>,
    pub sites: Numbers<SiteKey, SiteMemory>,
    pub sources: Configured,
    source_of: Vec<Option<Source>>,
    pub pools: Configured,
    streams: Configured,
    credentials: Configured,
    links: HashMap<u32, Link>,
    link_of: HashMap<Id, u32>,
    connections: JoinSet<()>,
    events: mpsc::Sender<(ConnectionId, Event)>,
    heard: mpsc::Receiver<(ConnectionId, Event)>,
    answers: JoinSet<Answer>,
    asked: HashMap<Id, Asked>,
    wake: Timestamp,
    pub accounts: Accounts,
    /// Limits by their place in memory, with sources as numbers. For the settings of now.
    numbered: HashMap<usize, (Arc<NamedLimits>, Arc<SiteLimits>)>,
    /// When the two clocks were compared first, and by how much they differ since. See [`Fact::Skewed`].
    clocks: (Timestamp, Duration),
    skew_ms: i64,
}

impl<W: World> Clerk<W> {
    pub fn new(settings: Settings, world: Arc<W>, inbox: Arc<Inbox>) -> Clerk<W> {
        let (events, heard) = mpsc::channel(EVENTS_MAX);
        let clocks = (world.now(), world.steady());
        let accounts = Accounts::new(world.budgets());
        let mut clerk = Clerk {
            settings: Arc::new(Settings::default()),
            world,
            inbox,
            engine: Engine::starting_at(Rules::default(), clocks.0),
            out: Vec::new(),
            domains: Numbers::default(),
            targets: Numbers::default(),
            sites: Numbers::default(),
            sources: Configured::default(),
            source_of: Vec::new(),
            pools: Configured::default(),
            streams: Configured::default(),
            credentials: Configured::default(),
            links: HashMap::new(),
            link_of: HashMap::new(),
            connections: JoinSet::new(),
            events,
            heard,
            answers: JoinSet::new(),
            asked: HashMap::new(),
            wake: Timestamp::NEVER,
            accounts,
            numbered: HashMap::new(),
            clocks,
            skew_ms: 0,
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
        let mut loading = true;
        self.execute();
        loop {
            let pause = if loading { Duration::ZERO } else { self.wake.since(self.world.now()).min(SLEEP_MAX) };
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
                    self.wake = Timestamp::NEVER;
                    self.tell(Fact::Tick);
                }
            }
            loading = loading && self.load(&mut waiting);
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

    pub(super) fn tell(&mut self, fact: Fact) {
        /// Both clocks are read to the millisecond, one after the other: less than this is no difference.
        const SKEW_MIN_MS: u64 = 3;
        let now = self.world.now();
        let passed = self.world.steady().saturating_sub(self.clocks.1);
        let skew_ms = now.as_millis() as i64 - self.clocks.0.after(passed).as_millis() as i64;
        if skew_ms.abs_diff(self.skew_ms) >= SKEW_MIN_MS {
            self.skew_ms = skew_ms;
            self.engine.apply(now, fastrand::f64(), Fact::Skewed(skew_ms), &mut self.out);
        }
        self.engine.apply(now, fastrand::f64(), fact, &mut self.out);
    }

    fn heard_change(&mut self, change: Change) {
        let fact = match change {
            Change::Gone(id) => Fact::Gone(id),
            Change::Waiting(waiting) => Fact::Put(self.put(&waiting)),
        };
        self.tell(fact);
    }

    fn put(&mut self, waiting: &Waiting) -> Put {
        // A pool that left the config is served by the first one.
        let pool = self.pools.find(&waiting.pool).unwrap_or_default();
        Put {
            id: waiting.id,
            domain: DomainHandle(self.domains.number(&waiting.domain, || None)),
            credential: CredentialHandle(u32::from(self.credentials.number(&waiting.credential))),
            stream: StreamHandle(self.streams.number(&waiting.stream)),
            pool: PoolHandle(pool),
            source: self.sources.find(&waiting.source).map(SourceHandle),
            kind: waiting.kind,
            priority: waiting.priority,
            recipients: waiting.recipients,
            due: waiting.due,
            expires_at: waiting.expires_at,
            held: waiting.held,
        }
    }

    fn heard_event(&mut self, id: ConnectionId, event: Event) {
        let Some(number) = u32::try_from(id.0).ok().filter(|number| self.links.contains_key(number)) else { return };
        let connection = ConnectionHandle(number);
        let fact = match event {
            Event::Connected { transactions_max, .. } => {
                Fact::Connected { connection, deliveries_max: transactions_max }
            }
            Event::Refused { outcome, .. } => {
                self.refused(number, outcome);
                Fact::Refused(connection)
            }
            Event::MailWritten(id) => Fact::MailWritten(connection, id),
            Event::Settled { id, due, feedback, .. } => Fact::Settled { connection, id, due, feedback },
            Event::Skipped(id) => Fact::Skipped(connection, id),
            Event::Returned(id) => Fact::Returned(connection, id),
            Event::Eof => return self.eof(number),
        };
        self.tell(fact);
    }

    /// Keeps a site's words for `why`.
    fn refused(&mut self, number: u32, outcome: Outcome) {
        let Some(link) = self.links.get(&number) else { return };
        let source = link.source;
        let Some(site) = self.targets.value(link.target).map(|aim| aim.site) else { return };
        let (name, source_name) = (self.sites.key(site).map(SiteKey::name), self.sources.name(source.0));
        let (host, stage) = (&outcome.host, outcome.stage.name());
        info!(site = name.as_deref(), source = source_name, %host, stage, cause = %outcome.cause, "a connection was refused");
        if let Some(memory) = self.sites.value_mut(site) {
            memory.last.insert(source.0, outcome);
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
                    Answer::Way(domain, Ok(way)) => self.resolved(domain, way),
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
        let site = self.sites.number(&way.site_key, SiteMemory::default);
        let target = self.targets.number(&way.target_key, || Aim { target: way.target.clone(), site });
        if let Some(aim) = self.targets.value_mut(target) {
            // Newer addresses.
            *aim = Aim { target: way.target, site };
        }
        let limits = self.numbered(&way.limits);
        let own = way.own.as_ref().map(|own| self.numbered(own));
        let kept = self.kept_of(site, domain);
        self.tell(Fact::Resolved {
            domain: DomainHandle(domain),
            target: TargetHandle(target),
            site: SiteHandle(site),
            limits,
            own,
            kept,
            until: self.world.now().after(BELIEVED_FOR),
        });
        // The domain may have gone meanwhile, and nobody needs these then.
        self.forget(Handle::Target(TargetHandle(target)));
        self.forget(Handle::Site(SiteHandle(site)));
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
            Handle::Site(site) => {
                self.close_accounts(Holder::Site(site));
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
                Order::WakeAt(at) => self.wake = at,
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
        let task = async move { Answer::Way(domain, resolve(&*world, &settings, &name).await) };
        let id = self.answers.spawn(task).id();
        self.asked.insert(id, Asked::Way(domain));
    }

    fn dial(&mut self, connection: ConnectionHandle, source: SourceHandle, target: TargetHandle, domain: DomainHandle) {
        let found = (
            self.source_of.get(usize::from(source.0)).cloned().flatten(),
            self.targets.value(target.0).map(|aim| aim.target.clone()),
            self.domains.key(domain.0).cloned(),
        );
        let (Some(address), Some(aim), Some(domain)) = found else {
            // A source that left the config between the order and now.
            warn!(connection = connection.0, "a connection could not be made: its source or target is gone");
            self.tell(Fact::Eof(connection));
            return;
        };
        let plan = Plan {
            id: ConnectionId(u64::from(connection.0)),
            source: address,
            hosts: shuffled(&aim.hosts),
            tls: aim.tls,
            login: aim.login,
            allow_private: aim.allow_private,
            domain,
        };
        let (orders, ordered) = mpsc::channel(LINK_ORDERS_MAX);
        let task = self.connections.spawn(self.world.connect(plan, ordered, self.events.clone())).id();
        self.links.insert(connection.0, Link { orders, source, target: target.0, task });
        self.link_of.insert(task, connection.0);
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
            Command::Sites(answer) => drop(answer.send(self.list_sites())),
            Command::Reload(settings) => self.reload(*settings),
            Command::Suspend(source, answer) => drop(answer.send(self.operate(&source, Operator::SuspendSource))),
            Command::Resume(source, answer) => drop(answer.send(self.operate(&source, Operator::ResumeSource))),
            Command::Probe => self.tell(Fact::Operator(Operator::Probe)),
            Command::Stop(..) => {}
        }
    }

    fn operate(&mut self, source: &str, operator: fn(SourceHandle) -> Operator) -> bool {
        let Some(number) = self.sources.find(source) else { return false };
        self.tell(Fact::Operator(operator(SourceHandle(number))));
        true
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
        };
        self.numbered.clear();
        self.settings = Arc::new(settings);
        self.tell(Fact::Reload(rules));
    }

    /// Ends all connections, and waits for that, this long at most. Returns how many were dropped.
    async fn stop(&mut self, within: Duration) -> usize {
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
