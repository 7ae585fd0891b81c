//! An operator's order holds an envelope's lease for a moment. A connection that was to send it meanwhile finds it taken,
//! and it must go out once it is given back, not a minute later; a pause of its site ends by an operator's order too.

use std::sync::Arc;
use std::time::Duration;

use postrider::mail::QueueId;
use postrider::mail::StreamKind::Transactional;
use postrider::time::Timestamp;
use postrider::traffic::{
    ConnectionHandle, CredentialHandle, DomainHandle, Engine, Fact, Operator, Order, PoolHandle, ProviderHandle, Put,
    Rules, SiteHandle, StreamHandle, TargetHandle,
};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

struct Bench {
    engine: Engine,
    now: Timestamp,
}

impl Bench {
    fn tell(&mut self, fact: Fact) -> Vec<Order> {
        let mut orders = Vec::new();
        self.engine.apply(self.now, 0.5, fact, &mut orders);
        orders
    }

    fn put(&self) -> Put {
        Put {
            id: QueueId::next(QueueId::MIN, NOW),
            domain: DomainHandle(0),
            credential: CredentialHandle(0),
            stream: StreamHandle(0),
            pool: PoolHandle(0),
            source: None,
            kind: Transactional,
            priority: 50,
            engaged: false,
            recipients: 1,
            due: self.now,
            expires_at: NOW.after(Duration::from_secs(5 * 86_400)),
            held: false,
        }
    }

    /// One envelope, its domain resolved; the connection that is dialled for it.
    fn dialled() -> (Bench, Put, ConnectionHandle) {
        let mut bench = Bench { engine: Engine::new(Rules::default()), now: NOW };
        let put = bench.put();
        bench.tell(Fact::Put(put));
        let orders = bench.tell(Fact::Resolved {
            domain: DomainHandle(0),
            target: TargetHandle(0),
            site: SiteHandle(0),
            provider: ProviderHandle(0),
            limits: Arc::default(),
            own: None,
            kept: Box::default(),
            until: NOW.after(Duration::from_secs(3600)),
        });
        let dialled = dial(&orders).expect("a connection for what waits");
        (bench, put, dialled)
    }
}

fn dial(orders: &[Order]) -> Option<ConnectionHandle> {
    orders.iter().find_map(|order| match order {
        Order::Dial { connection, .. } => Some(*connection),
        _ => None,
    })
}

fn sent(orders: &[Order]) -> bool {
    orders.iter().any(|order| matches!(order, Order::Send { .. }))
}

#[test]
fn whichever_is_heard_first() {
    for announced_first in [true, false] {
        let (mut bench, put, connection) = Bench::dialled();
        assert!(sent(&bench.tell(Fact::Connected { connection, deliveries_max: None })));
        let (announced, skipped) = (Fact::Put(put), Fact::Skipped(connection, put.id));
        let (first, second) = if announced_first { (announced, skipped) } else { (skipped, announced) };
        let again = sent(&bench.tell(first)) | sent(&bench.tell(second));
        assert!(again, "announced first: {announced_first}");
    }
}

#[test]
fn and_what_nobody_gave_back_waits_a_minute() {
    let (mut bench, put, connection) = Bench::dialled();
    bench.tell(Fact::Connected { connection, deliveries_max: None });
    assert!(!sent(&bench.tell(Fact::Skipped(connection, put.id))));
    bench.now = NOW.after(Duration::from_secs(61));
    let orders = bench.tell(Fact::Tick);
    assert!(sent(&orders) || dial(&orders).is_some());
}

#[test]
fn a_pause_ends_when_an_operator_wants_it_tried_now() {
    let (mut bench, _, connection) = Bench::dialled();
    bench.tell(Fact::Refused(connection, postrider::classify::Feedback::Slower.into()));
    bench.tell(Fact::Eof(connection));
    bench.now = NOW.after(Duration::from_secs(5));
    assert_eq!(dial(&bench.tell(Fact::Tick)), None, "the site's refusal is respected");
    assert!(dial(&bench.tell(Fact::Operator(Operator::Probe))).is_some());
}
