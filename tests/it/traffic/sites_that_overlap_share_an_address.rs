//! Three sites whose hosts overlap: `x y`, `y z` and `y` alone. Each has the same limits; the host `y` counts what comes
//! to its address, whatever site it came for, and must never count more than the limit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::Feedback;
use postrider::mail::{QueueId, StreamKind};
use postrider::time::Timestamp;
use postrider::traffic::{
    ConnectionHandle, CredentialHandle, DomainHandle, Engine, Fact, Handle, Limits, Order, PlaceHandle, PoolHandle,
    ProviderHandle, Put, Rate, Rates, Rules, SiteHandle, SiteLimits, StreamHandle, TargetHandle,
};

const START: Timestamp = Timestamp::from_secs(1_800_000_000);
/// The addresses of each site's hosts.
const HOSTS: [&[u32]; 3] = [&[0, 1], &[1, 2], &[1]];
const CONNECTIONS: u16 = 4;
const WINDOWS: [(u32, u64); 2] = [(10, 1000), (300, 60_000)];

/// What the peers saw.
#[derive(Default)]
struct Peers {
    /// Connections at once, by address.
    open: BTreeMap<u32, u16>,
    /// From the order to the reply, by address. Unit: milliseconds.
    messages: BTreeMap<u32, Vec<(u64, u64)>>,
    /// Messages at the address that all share.
    shared: usize,
    /// Messages of each site.
    sites: BTreeMap<u32, usize>,
}

struct World {
    engine: Engine,
    now: u64,
    random: fastrand::Rng,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    facts: HashMap<u64, Fact>,
    number: u64,
    wake: Timestamp,
    site_of: HashMap<u32, u32>,
    address_of: HashMap<u32, u32>,
    peers: Peers,
    forgotten: usize,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            engine: Engine::new(Rules::default()),
            now: 0,
            random: fastrand::Rng::with_seed(seed),
            events: BinaryHeap::new(),
            facts: HashMap::new(),
            number: 0,
            wake: Timestamp::NEVER,
            site_of: HashMap::new(),
            address_of: HashMap::new(),
            peers: Peers::default(),
            forgotten: 0,
        }
    }

    fn time(&self) -> Timestamp {
        START.after(Duration::from_millis(self.now))
    }

    fn tell(&mut self, fact: Fact) {
        let mut orders = Vec::new();
        let jitter = self.random.f64();
        self.engine.apply(self.time(), jitter, fact, &mut orders);
        orders.into_iter().for_each(|order| self.execute(order));
    }

    fn later(&mut self, ms: u64, fact: Fact) {
        self.number += 1;
        self.facts.insert(self.number, fact);
        self.events.push(Reverse((self.now + ms, self.number)));
    }

    fn execute(&mut self, order: Order) {
        match order {
            Order::Resolve(domain) => {
                let rates = WINDOWS.map(|(count, ms)| Rate { count, per: Duration::from_millis(ms) });
                let messages = Rates::new(&rates).unwrap();
                let limits = Limits { connections: CONNECTIONS, messages, ..Limits::default() };
                let fact = Fact::Resolved {
                    domain,
                    target: TargetHandle(domain.0),
                    site: SiteHandle(domain.0),
                    provider: ProviderHandle(0),
                    limits: Arc::new(SiteLimits::of_each(limits)),
                    own: None,
                    kept: Box::default(),
                    until: START.after(Duration::from_secs(86_400)),
                };
                self.later(2, fact);
            }
            Order::Dial { connection, domain, .. } => self.dial(connection, domain.0),
            Order::Send { connection, id, .. } => {
                let address = self.address_of[&connection.0];
                let took = self.random.u64(5..60);
                self.peers.messages.entry(address).or_default().push((self.now, self.now + took));
                self.peers.shared += usize::from(address == 1);
                *self.peers.sites.entry(self.site_of[&connection.0]).or_default() += 1;
                self.later(1, Fact::MailWritten(connection, id));
                self.later(took, Fact::Settled { connection, id, due: None, signal: Feedback::Good.into() });
            }
            Order::Close(connection) => {
                if self.address_of.contains_key(&connection.0) {
                    self.later(5, Fact::Eof(connection));
                }
            }
            Order::Reserve(account) => {
                self.engine.record(account).expect("what is to be written down");
                self.later(3, Fact::Reserved(account, true));
            }
            Order::WakeAt(at) => self.wake = at,
            Order::Forget(Handle::Place(_)) => self.forgotten += 1,
            Order::Frozen(..) | Order::Expire(..) | Order::Fail(..) | Order::Forget(_) => {}
        }
    }

    /// As `delivery` does: the first address that has a connection left, from anywhere in the list.
    fn dial(&mut self, connection: ConnectionHandle, site: u32) {
        let hosts = HOSTS[site as usize];
        let first = self.random.usize(..hosts.len());
        let free = (0..hosts.len()).map(|step| hosts[(first + step) % hosts.len()]);
        let free = free.into_iter().find(|address| self.peers.open.get(address).is_none_or(|open| *open < CONNECTIONS));
        let Some(address) = free else {
            self.later(1, Fact::Crowded(connection, PlaceHandle(hosts[first])));
            return self.later(2, Fact::Eof(connection));
        };
        *self.peers.open.entry(address).or_default() += 1;
        self.site_of.insert(connection.0, site);
        self.address_of.insert(connection.0, address);
        self.later(5, Fact::Arrived(connection, PlaceHandle(address)));
        self.later(5, Fact::Connected { connection, deliveries_max: None });
    }

    fn put(&mut self, id: QueueId, domain: u32) {
        let now = self.time();
        let kind = if id.as_u64().is_multiple_of(2) { StreamKind::Marketing } else { StreamKind::Transactional };
        self.tell(Fact::Put(Put {
            id,
            domain: DomainHandle(domain),
            credential: CredentialHandle(0),
            stream: StreamHandle(kind as u16),
            pool: PoolHandle(0),
            source: None,
            kind,
            priority: 50,
            recipients: 1,
            due: now,
            expires_at: START.after(Duration::from_secs(5 * 86_400)),
            held: false,
            engaged: false,
        }));
    }

    fn run(&mut self, until: u64) {
        loop {
            let event = self.events.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            let wake = self.wake.since(START).as_millis() as u64;
            let next = event.min(wake).max(self.now);
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            if event > wake {
                self.wake = Timestamp::NEVER;
                self.tell(Fact::Tick);
                continue;
            }
            let Some(Reverse((_, number))) = self.events.pop() else { return };
            let fact = self.facts.remove(&number).expect("an event has its fact");
            if let Fact::Eof(connection) = fact
                && let Some(address) = self.address_of.remove(&connection.0)
            {
                *self.peers.open.get_mut(&address).unwrap() -= 1;
            }
            self.tell(fact);
        }
    }
}

/// The most messages in any window of this length, if each may be counted anywhere in its time.
fn fullest(sent: &[(u64, u64)], per: u64) -> usize {
    let mut sent = sent.to_vec();
    sent.sort();
    let after = |(place, (_, end)): (usize, &(u64, u64))| {
        let rest = sent[place + 1..].iter().take_while(|(start, _)| *start < end + per);
        1 + rest.filter(|(_, other)| other >= end).count()
    };
    sent.iter().enumerate().map(after).max().unwrap_or(0)
}

#[test]
fn and_the_limits_hold_there_for_all_of_them_together() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        let mut id = QueueId::MIN;
        // The sites come one after another, so that what the first used is known when the second comes.
        for site in 0..HOSTS.len() as u32 {
            for _ in 0..400 {
                id = QueueId::next(id, world.time());
                world.put(id, site);
            }
            world.run(u64::from(site + 1) * 700);
        }
        world.run(30_000);
        for (address, messages) in &world.peers.messages {
            for (count, per) in WINDOWS {
                let fullest = fullest(messages, per);
                assert!(fullest <= count as usize, "seed {seed}: address {address} saw {fullest} of {count}/{per} ms");
            }
        }
        // Nobody is kept out, and what there is is used: each site has 5 a second of its own, and so has the address.
        assert!(world.peers.shared >= 130, "seed {seed}: {}", world.peers.shared);
        let sites: Vec<usize> = world.peers.sites.values().copied().collect();
        assert!(sites.len() == 3 && sites.iter().all(|count| *count >= 60), "seed {seed}: {sites:?}");
    }
}

#[test]
fn and_an_address_is_forgotten_when_its_windows_have_passed() {
    let mut world = World::new(1);
    let mut id = QueueId::MIN;
    for site in [0, 1, 2] {
        id = QueueId::next(id, world.time());
        world.put(id, site);
    }
    world.run(50_000);
    assert_eq!(world.forgotten, 0, "the longest window is a minute");
    world.run(90_000);
    assert!((1..=3).contains(&world.forgotten), "{}", world.forgotten);
}

/// Answers everything at once; the hosts of a target are at the address of its number.
struct Quiet {
    engine: Engine,
    now: Timestamp,
    /// What each target's site is.
    sites: [u32; 3],
    sent: Vec<(u32, QueueId)>,
    forgot: Vec<Handle>,
    last: QueueId,
    /// Whose mail is gone before its connection is made.
    taken: Option<QueueId>,
}

impl Quiet {
    fn tell(&mut self, fact: Fact) {
        let mut orders = Vec::new();
        self.engine.apply(self.now, 0.5, fact, &mut orders);
        for order in orders {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        let limits = || {
            let messages = Rates::new(&[Rate { count: 5, per: Duration::from_secs(3600) }]).unwrap();
            Arc::new(SiteLimits::of_each(Limits { messages, ..Limits::default() }))
        };
        match order {
            Order::Resolve(domain) => self.tell(Fact::Resolved {
                domain,
                target: TargetHandle(domain.0),
                site: SiteHandle(self.sites[domain.0 as usize]),
                provider: ProviderHandle(0),
                limits: limits(),
                own: None,
                kept: Box::default(),
                until: self.now.after(Duration::from_secs(1)),
            }),
            Order::Reserve(account) => {
                self.engine.record(account);
                self.tell(Fact::Reserved(account, true));
            }
            Order::Dial { connection, target, .. } => {
                if let Some(id) = self.taken.take() {
                    self.tell(Fact::Gone(id));
                }
                // The third's hosts are the first's.
                self.tell(Fact::Arrived(connection, PlaceHandle(target.0 % 2)));
                self.tell(Fact::Connected { connection, deliveries_max: None });
            }
            Order::Send { connection, id, .. } => {
                self.sent.push((connection.0, id));
                self.tell(Fact::MailWritten(connection, id));
                self.tell(Fact::Settled { connection, id, due: None, signal: Feedback::Good.into() });
            }
            Order::Close(connection) => self.tell(Fact::Eof(connection)),
            Order::Forget(handle) => self.forgot.push(handle),
            Order::Expire(..) | Order::Fail(..) | Order::WakeAt(_) | Order::Frozen(..) => {}
        }
    }

    fn put(&mut self, domain: u32) -> QueueId {
        self.last = QueueId::next(self.last, self.now);
        let put = Put {
            id: self.last,
            domain: DomainHandle(domain),
            credential: CredentialHandle(0),
            stream: StreamHandle(0),
            pool: PoolHandle(0),
            source: None,
            kind: StreamKind::Transactional,
            priority: 50,
            engaged: false,
            recipients: 1,
            due: self.now,
            expires_at: self.now.after(Duration::from_secs(86_400)),
            held: false,
        };
        self.tell(Fact::Put(put));
        self.last
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.tell(Fact::Tick);
        }
    }
}

#[test]
fn a_site_that_got_the_number_of_a_forgotten_one_was_never_at_its_address() {
    let mut quiet = Quiet {
        engine: Engine::new(Rules::default()),
        now: START,
        sites: [0, 0, 1],
        sent: Vec::new(),
        forgot: Vec::new(),
        last: QueueId::MIN,
        taken: None,
    };
    // A connection that carries nothing: the address is remembered for an hour, its site for ten minutes.
    quiet.taken = Some(QueueId::next(QueueId::MIN, START));
    quiet.put(0);
    quiet.pass(1000);
    assert!(quiet.sent.is_empty() && quiet.forgot.contains(&Handle::Site(SiteHandle(0))), "{:?}", quiet.forgot);
    assert!(!quiet.forgot.contains(&Handle::Place(PlaceHandle(0))), "{:?}", quiet.forgot);
    // Its number goes to a site elsewhere, which uses its window up.
    for _ in 0..5 {
        quiet.put(1);
    }
    quiet.pass(10);
    assert_eq!(quiet.sent.len(), 5);
    // Another site comes to the address; there nothing was sent.
    let id = quiet.put(2);
    quiet.pass(1);
    assert_eq!(quiet.sent.last().map(|(_, id)| *id), Some(id), "{:?}", quiet.engine.why(quiet.now, id));
}
