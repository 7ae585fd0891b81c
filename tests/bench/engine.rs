//! The engine at scale: 100,000 recipient domains, each with hosts of its own, over ten sources, on a simulated clock.
//!
//! ```text
//! cargo bench --bench engine [-- DOMAINS EACH]
//! ```
//! Prints the CPU time of the thread per step (one fact told): median, 99.9th percentile, longest; and the memory that the
//! engine takes. Aims: 50 µs, 1 ms, 300 MiB. Half of the sites are dead; each domain has one message, or EACH.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::Feedback;
use postrider::mail::{QueueId, StreamKind};
use postrider::time::Timestamp;
use postrider::traffic::{
    CredentialHandle, DomainHandle, Engine, Fact, Limits, Order, PoolHandle, ProviderHandle, Put, Rate, Rates, Rules,
    SiteHandle, SiteLimits, SourceHandle, StreamHandle, TargetHandle,
};
use rustix::time::{ClockId, clock_gettime};

const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const SOURCES: u16 = 10;
/// Facts told at most: the dead half would go on for five days.
const STEPS_MAX: usize = 4_000_000;

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// What happens when, in order.
struct Event(Timestamp, u64, Fact);

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Bench {
    engine: Engine,
    now: Timestamp,
    events: BinaryHeap<Reverse<Event>>,
    number: u64,
    wake: Timestamp,
    orders: Vec<Order>,
    limits: Arc<SiteLimits>,
    /// By connection: the domain it was dialed for.
    dialed: std::collections::HashMap<u32, u32>,
    steps_ns: Vec<u32>,
    delivered: u64,
}

impl Bench {
    fn tell(&mut self, fact: Fact) {
        let began = cpu_ns();
        self.engine.apply(self.now, fastrand::f64(), fact, &mut self.orders);
        self.steps_ns.push((cpu_ns() - began).min(u64::from(u32::MAX)) as u32);
        let orders = std::mem::take(&mut self.orders);
        for order in &orders {
            self.execute(*order);
        }
        self.orders = orders;
        self.orders.clear();
    }

    fn later(&mut self, ms: u64, fact: Fact) {
        self.number += 1;
        self.events.push(Reverse(Event(self.now.after(Duration::from_millis(ms)), self.number, fact)));
    }

    fn execute(&mut self, order: Order) {
        match order {
            Order::Resolve(domain) => {
                let fact = Fact::Resolved {
                    domain,
                    target: TargetHandle(domain.0),
                    site: SiteHandle(domain.0),
                    provider: ProviderHandle(0),
                    limits: Arc::clone(&self.limits),
                    own: None,
                    kept: Box::default(),
                    until: self.now.after(Duration::from_secs(600)),
                };
                self.later(5, fact);
            }
            Order::Dial { connection, domain, .. } => {
                self.dialed.insert(connection.0, domain.0);
                if domain.0.is_multiple_of(2) {
                    self.later(20, Fact::Connected { connection, deliveries_max: None });
                } else {
                    self.later(100, Fact::Refused(connection, Feedback::Slower.into()));
                    self.later(101, Fact::Eof(connection));
                }
            }
            Order::Send { connection, id, .. } => {
                self.delivered += 1;
                self.later(1, Fact::MailWritten(connection, id));
                self.later(50, Fact::Settled { connection, id, due: None, signal: Feedback::Good.into() });
            }
            Order::Close(connection) => {
                // A refused one ends by itself.
                if self.dialed.get(&connection.0).is_some_and(|domain| domain.is_multiple_of(2)) {
                    self.later(5, Fact::Eof(connection));
                }
            }
            Order::Reserve(account) => {
                let _ = self.engine.record(account);
                self.later(3, Fact::Reserved(account, true));
            }
            Order::WakeAt(at) => self.wake = at,
            Order::Frozen(..) | Order::Expire(..) | Order::Fail(..) | Order::Forget(_) => {}
        }
    }
}

fn percentile(sorted: &[u32], share: f64) -> f64 {
    let place = ((sorted.len() - 1) as f64 * share) as usize;
    f64::from(sorted[place]) / 1000.0
}

fn report(what: &str, steps_ns: &mut [u32]) {
    steps_ns.sort_unstable();
    println!(
        "{what}: {} steps, median {:.1} us, 99.9 % {:.1} us, longest {:.1} us",
        steps_ns.len(),
        percentile(steps_ns, 0.5),
        percentile(steps_ns, 0.999),
        percentile(steps_ns, 1.0)
    );
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (domains, each): (u32, u32) = (numbers.next().unwrap_or(100_000), numbers.next().unwrap_or(1));
    let sources: Vec<SourceHandle> = (0..SOURCES).map(SourceHandle).collect();
    let rules = Rules { total_connections: 2000, pools: vec![sources.into()].into(), ..Rules::default() };
    let rate = |count, secs| Rate { count, per: Duration::from_secs(secs) };
    let messages = Rates::new(&[rate(20, 1), rate(1000, 3600)]).expect("two windows");
    let limits = Arc::new(SiteLimits::of_each(Limits { messages, ..Limits::default() }));
    let before = resident_kib();
    let mut bench = Bench {
        engine: Engine::new(rules),
        now: START,
        events: BinaryHeap::new(),
        number: 0,
        wake: Timestamp::NEVER,
        orders: Vec::new(),
        limits,
        dialed: std::collections::HashMap::new(),
        steps_ns: Vec::with_capacity(STEPS_MAX + 1_000_000),
        delivered: 0,
    };
    let mut id = QueueId::MIN;
    for n in 0..domains * each {
        id = QueueId::next(id, bench.now);
        let kind = if n.is_multiple_of(3) { StreamKind::Transactional } else { StreamKind::Marketing };
        bench.tell(Fact::Put(Put {
            id,
            domain: DomainHandle(n % domains),
            credential: CredentialHandle(n % 7),
            stream: StreamHandle(u16::from(kind == StreamKind::Marketing)),
            pool: PoolHandle(0),
            source: None,
            kind,
            priority: 50,
            recipients: 1,
            due: bench.now,
            expires_at: bench.now.after(Duration::from_secs(5 * 86_400)),
            held: false,
            engaged: false,
        }));
    }
    report("put", &mut bench.steps_ns);
    bench.steps_ns.clear();
    let mut most_kib = 0;
    for step in 0..STEPS_MAX {
        let event = bench.events.peek().map_or(Timestamp::NEVER, |Reverse(event)| event.0);
        let next = event.min(bench.wake);
        if next == Timestamp::NEVER {
            break;
        }
        bench.now = bench.now.max(next);
        if event <= bench.wake {
            if let Some(Reverse(Event(_, _, fact))) = bench.events.pop() {
                bench.tell(fact);
            }
        } else {
            bench.wake = Timestamp::NEVER;
            bench.tell(Fact::Tick);
        }
        if step % 100_000 == 0 {
            // The bench's own lists are not the engine's.
            let own = (bench.steps_ns.len() * 4 + bench.events.len() * 160 + bench.dialed.len() * 24) / 1024;
            most_kib = most_kib.max(resident_kib().saturating_sub(before).saturating_sub(own as u64));
        }
        if bench.delivered >= u64::from(domains / 2 * each) {
            break;
        }
    }
    report("run", &mut bench.steps_ns);
    println!(
        "{domains} domains with {each} messages each, {SOURCES} sources: {} delivered in {} simulated seconds; at most {} MiB",
        bench.delivered,
        bench.now.since(START).as_secs(),
        most_kib / 1024
    );
}
