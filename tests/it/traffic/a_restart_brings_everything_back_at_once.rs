//! After a start all envelopes come in one breath: some overdue, some expired while we were down.

use std::time::Duration;

use postrider::mail::StreamKind::Transactional;
use postrider::traffic::{Engine, Fact};
use postrider::traffic::{Limits, Order, Rules};

use super::world::{End, Place, START, Temper, World, secs};

fn place(site: u32) -> Place {
    Place { temper: Temper::Kind(Duration::from_millis(20)), site, limits: Limits::default() }
}

#[test]
fn a_hundred_thousand_are_taken_in_and_sent_within_the_limits() {
    let mut world = World::new(9, Rules::default(), (0..500).map(place).collect());
    for n in 0..100_000 {
        let put = world.envelope(n % 500, Transactional);
        world.put(put);
    }
    world.run_out(secs(600));
    assert_eq!(world.ended_as(End::Delivered), 100_000);
    assert_eq!(world.most_open, 1000, "all connections are used");
}

#[test]
fn what_expired_while_we_were_down_is_tried_once_unless_it_is_worthless_by_now() {
    let mut world = World::new(10, Rules::default(), vec![place(0)]);
    let (mut letter, mut code) = (world.envelope(0, Transactional), world.envelope(0, Transactional));
    letter.expires_at = world.now.after(secs(5 * 86_400));
    code.expires_at = world.now.after(secs(900));
    // Both were handed in at START; we come back a week later.
    world.now = START.after(secs(7 * 86_400));
    world.put(letter);
    world.put(code);
    world.run_out(secs(60));
    assert_eq!(world.ended[&letter.id].0, End::Delivered);
    assert_eq!(world.ended[&code.id].0, End::Expired);
}

#[test]
fn what_cannot_be_tried_within_its_grace_expires() {
    let dead = Place { temper: Temper::Dead, ..place(0) };
    let mut world = World::new(11, Rules::default(), vec![dead]);
    let mut letter = world.envelope(0, Transactional);
    letter.expires_at = world.now.after(secs(5 * 86_400));
    world.now = START.after(secs(7 * 86_400));
    world.put(letter);
    world.run_out(secs(1000));
    assert_eq!(world.ended[&letter.id].0, End::Expired);
}

#[test]
fn what_expired_since_the_last_fact_is_not_sent_by_the_next() {
    let limits = Limits { connections: 1, ..Limits::NONE };
    let slow = Place { temper: Temper::Kind(secs(2000)), limits, ..place(0) };
    let mut world = World::new(12, Rules::default(), vec![slow]);
    let first = world.envelope(0, Transactional);
    world.put(first);
    world.run_for(secs(10));
    let mut code = world.envelope(0, Transactional);
    code.expires_at = world.now.after(secs(900));
    world.put(code);
    // The daemon slept: no tick came at 900 s, and the first thing it hears is that the connection is free.
    let connection = postrider::traffic::ConnectionHandle(1);
    let feedback = postrider::classify::Feedback::Good;
    world.now = world.now.after(secs(1500));
    world.apply(Fact::Settled { connection, id: first.id, due: None, signal: feedback.into() });
    world.run_out(secs(600));
    assert_eq!(world.ended[&code.id].0, End::Expired);
}

#[test]
fn a_fact_about_strangers_is_ignored() {
    let mut engine = Engine::new(Rules::default());
    let mut out: Vec<Order> = Vec::new();
    let id = postrider::mail::QueueId::from_u64(7);
    let connection = postrider::traffic::ConnectionHandle(9);
    let domain = postrider::traffic::DomainHandle(5);
    let facts = [
        Fact::Gone(id),
        Fact::Refused(connection, postrider::classify::Feedback::Slower.into()),
        Fact::Eof(connection),
        Fact::Skipped(connection, id),
        Fact::Returned(connection, id),
        Fact::MailWritten(connection, id),
        Fact::Connected { connection, deliveries_max: None },
        Fact::Unresolved(domain, postrider::traffic::Unresolved::Never(START)),
        Fact::Ended(id, postrider::traffic::Ending::Done),
        Fact::Tick,
    ];
    for fact in facts {
        engine.apply(START, 0.5, fact, &mut out);
    }
    assert!(out.is_empty() && engine.is_empty(), "{out:?}");
}
