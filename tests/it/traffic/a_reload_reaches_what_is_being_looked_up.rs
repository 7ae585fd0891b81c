//! A look-up that is under way at a reload may answer by the config of before: its domain is looked up once more.

use std::sync::Arc;
use std::time::Duration;

use postrider::mail::QueueId;
use postrider::mail::StreamKind::Transactional;
use postrider::time::Timestamp;
use postrider::traffic::{
    CredentialHandle, DomainHandle, Engine, Fact, Order, PoolHandle, ProviderHandle, Put, Rules, SiteHandle,
    StreamHandle, TargetHandle, Unresolved,
};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const DOMAIN: DomainHandle = DomainHandle(0);

fn tell(engine: &mut Engine, fact: Fact) -> usize {
    let mut orders = Vec::new();
    engine.apply(NOW, 0.5, fact, &mut orders);
    orders.iter().filter(|order| **order == Order::Resolve(DOMAIN)).count()
}

fn put() -> Fact {
    Fact::Put(Put {
        id: QueueId::next(QueueId::MIN, NOW),
        domain: DOMAIN,
        credential: CredentialHandle(0),
        stream: StreamHandle(0),
        pool: PoolHandle(0),
        source: None,
        kind: Transactional,
        priority: 50,
        engaged: false,
        recipients: 1,
        due: NOW,
        expires_at: NOW.after(Duration::from_secs(5 * 86_400)),
        held: false,
    })
}

fn resolved() -> Fact {
    Fact::Resolved {
        domain: DOMAIN,
        target: TargetHandle(0),
        site: SiteHandle(0),
        provider: ProviderHandle(0),
        limits: Arc::default(),
        own: None,
        kept: Box::default(),
        until: NOW.after(Duration::from_secs(3600)),
    }
}

#[test]
fn whatever_its_answer() {
    for answer in [resolved(), Fact::Unresolved(DOMAIN, Unresolved::Later(NOW.after(Duration::from_secs(30))))] {
        let mut engine = Engine::new(Rules::default());
        assert_eq!(tell(&mut engine, put()), 1);
        assert_eq!(tell(&mut engine, Fact::Reload(Rules::default())), 0, "two look-ups of one domain at once");
        assert_eq!(tell(&mut engine, answer), 1, "what was found by the old config is believed");
        assert_eq!(tell(&mut engine, resolved()), 0);
        assert_eq!(tell(&mut engine, Fact::Reload(Rules::default())), 1, "at rest, a reload looks it up at once");
    }
}

#[test]
fn but_one_that_still_stands_in_line_is_made_once() {
    let mut engine = Engine::new(Rules { lookups: 1, ..Rules::default() });
    let other = Fact::Put(Put {
        domain: DomainHandle(1),
        ..match put() {
            Fact::Put(put) => put,
            _ => unreachable!("it is one"),
        }
    });
    assert_eq!(tell(&mut engine, other), 0);
    assert_eq!(tell(&mut engine, put()), 0, "one look-up at a time");
    tell(&mut engine, Fact::Reload(Rules { lookups: 1, ..Rules::default() }));
    let unknown =
        |domain| Fact::Unresolved(DomainHandle(domain), Unresolved::Later(NOW.after(Duration::from_secs(30))));
    assert_eq!(tell(&mut engine, unknown(1)), 1);
    assert_eq!(tell(&mut engine, resolved()), 0, "it began after the reload");
}
