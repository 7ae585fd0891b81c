//! A recipient domain with limits of its own: what one source used up there keeps neither another source nor another
//! domain from going on.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::{Feedback, Signal};
use postrider::mail::StreamKind::{self, Marketing, Transactional};
use postrider::traffic::{
    Constraint, Handle, Holder, Limits, PoolHandle, ProviderHandle, Put, Rate, Rates, Rules, SiteLimits, SourceHandle,
};

use super::world::{Aim, Answer, Call, Greeting, Known, Peers, Place, Temper, Turn, World, secs};

const LIMITED: u32 = 0;
const OTHER: u32 = 1;

/// Takes everything; the domain [`LIMITED`] has these limits of its own.
struct Kind {
    own: Arc<SiteLimits>,
    /// Over which source, and to which domain.
    sent: Rc<RefCell<Vec<(u16, u32)>>>,
}

impl Peers for Kind {
    fn find(&mut self, _: &World, domain: u32) -> Option<Aim> {
        let own = (domain == LIMITED).then(|| Arc::clone(&self.own));
        Some(Aim { target: 0, site: 0, provider: ProviderHandle(0), limits: Arc::default(), own })
    }

    fn told(&mut self, _: &World, _: u32) {}

    fn dialed(&mut self, _: &World, _: &Call) -> Greeting {
        Greeting { after: Duration::from_millis(20), signal: None, deliveries_max: None }
    }

    fn greeted(&mut self, _: &World, _: &Call, _: Option<Signal>) {}

    fn sent(&mut self, _: &World, call: &Call, known: &Known, _: u16) -> Answer {
        self.sent.borrow_mut().push((call.source.0, known.put.domain.0));
        let (mail_after, after) = (Duration::from_millis(1), Duration::from_millis(50));
        Answer { mail_after, after, due: None, signal: Feedback::Good.into(), turn: Turn::Goes }
    }

    fn answered(&mut self, _: &World, _: &Call, _: &Put, _: bool, _: Option<Signal>) {}

    fn hangs_up_after(&mut self) -> Duration {
        Duration::from_millis(5)
    }

    fn hung_up(&mut self, _: &World, _: &Call) {}

    fn crashed(&mut self, _: &World, _: bool) {}

    fn forgotten(&mut self, _: &World, _: Handle) {}
}

fn an_hour(count: u32) -> Limits {
    let messages = Rates::new(&[Rate { count, per: secs(3600) }]).unwrap();
    Limits { messages, ..Limits::NONE }
}

type Sent = Rc<RefCell<Vec<(u16, u32)>>>;

/// Two sources in one pool.
fn world(own: SiteLimits) -> (World, Sent) {
    let place = Place { temper: Temper::Peer, site: 0, limits: Limits::NONE };
    let rules = Rules { pools: vec![Box::from([SourceHandle(0), SourceHandle(1)])].into(), ..Rules::default() };
    let mut world = World::new(5, rules, vec![place; 2]);
    let sent = Sent::default();
    world.peers = Some(Box::new(Kind { own: Arc::new(own), sent: Rc::clone(&sent) }));
    (world, sent)
}

fn put(world: &mut World, domain: u32, kind: StreamKind, count: usize) {
    for _ in 0..count {
        let put = world.envelope(domain, kind);
        world.put(put);
    }
}

fn count(sent: &Sent, source: u16, domain: u32) -> usize {
    sent.borrow().iter().filter(|of| **of == (source, domain)).count()
}

#[test]
fn what_one_source_may_not_carry_another_does() {
    for kind in [Transactional, Marketing] {
        let limits =
            SiteLimits { sources: Box::new([(SourceHandle(0), an_hour(1))]), ..SiteLimits::of_each(Limits::NONE) };
        let (mut world, sent) = world(limits);
        put(&mut world, LIMITED, kind, 40);
        put(&mut world, OTHER, kind, 40);
        world.run_for(secs(30));
        assert_eq!(count(&sent, 0, LIMITED), 1, "{kind:?}");
        assert_eq!(count(&sent, 1, LIMITED), 39, "{kind:?}");
        assert_eq!(count(&sent, 0, OTHER) + count(&sent, 1, OTHER), 40, "{kind:?}");
        world.assert_none_stranded();
    }
}

#[test]
fn a_pool_is_not_kept_off_by_what_another_pools_source_used() {
    let (mut world, sent) = world(SiteLimits::of_each(an_hour(2)));
    world.set_rules(Rules {
        pools: vec![Box::from([SourceHandle(0)]), Box::from([SourceHandle(1)])].into(),
        ..Rules::default()
    });
    put(&mut world, LIMITED, Transactional, 9);
    world.run_for(secs(60));
    assert_eq!((count(&sent, 0, LIMITED), count(&sent, 1, LIMITED)), (2, 0));
    let mut other = world.envelope(LIMITED, Transactional);
    other.pool = PoolHandle(1);
    world.put(other);
    world.run_for(secs(5));
    assert_eq!((count(&sent, 0, LIMITED), count(&sent, 1, LIMITED)), (2, 1));
}

#[test]
fn a_source_whose_window_opens_carries_on() {
    let (mut world, sent) = world(SiteLimits::of_each(an_hour(1)));
    put(&mut world, LIMITED, Transactional, 6);
    put(&mut world, OTHER, Transactional, 6);
    world.run_for(secs(60));
    assert_eq!((count(&sent, 0, LIMITED), count(&sent, 1, LIMITED)), (1, 1));
    assert_eq!(count(&sent, 0, OTHER) + count(&sent, 1, OTHER), 6, "the domain is full, not its site");
    let waits = *world.waiting.keys().next().unwrap();
    let why = world.engine.why(world.now, waits);
    assert!(
        matches!(why[0], Constraint::Window { account, .. } if matches!(account.holder, Holder::Domain(_))),
        "{why:?}"
    );
    world.assert_none_stranded();
    world.run_for(secs(3610));
    assert_eq!((count(&sent, 0, LIMITED), count(&sent, 1, LIMITED)), (2, 2));
    world.run_for(secs(3610));
    assert_eq!((count(&sent, 0, LIMITED), count(&sent, 1, LIMITED)), (3, 3));
}

#[test]
fn what_all_sources_share_is_full_for_all() {
    let limits = SiteLimits { total: an_hour(3), ..SiteLimits::of_each(Limits::NONE) };
    let (mut world, sent) = world(limits);
    put(&mut world, LIMITED, Transactional, 2);
    world.run_for(secs(60));
    put(&mut world, LIMITED, Marketing, 9);
    put(&mut world, OTHER, Marketing, 9);
    world.run_for(secs(1300));
    assert_eq!(count(&sent, 0, LIMITED) + count(&sent, 1, LIMITED), 3);
    assert_eq!(count(&sent, 0, OTHER) + count(&sent, 1, OTHER), 9);
}
