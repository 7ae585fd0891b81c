//! The system's clock is set back, and ours stands still until it is right. What this run began goes on by the time that
//! passes: windows open, pauses end, and what idles is closed.

use std::time::Duration;

use postrider::mail::StreamKind::{Marketing, Transactional};
use postrider::traffic::{Limits, Rate, Rates, Rules};

use super::world::{Place, Temper, World, secs};

const KIND: Temper = Temper::Kind(Duration::from_millis(20));

fn world(temper: Temper, limits: Limits) -> World {
    World::new(9, Rules::default(), vec![Place { temper, site: 0, limits }])
}

fn fill(world: &mut World, count: u32) {
    for _ in 0..count {
        let put = world.envelope(0, Marketing);
        world.put(put);
    }
}

#[test]
fn a_window_opens_when_its_time_has_passed() {
    for by_ms in [-90_000, -7_000, 7_000, 90_000] {
        let messages = Rates::new(&[Rate { count: 1, per: secs(1) }]).unwrap();
        let mut world = world(KIND, Limits { messages, ..Limits::default() });
        fill(&mut world, 60);
        world.run_for(secs(5));
        let before = world.sent.len();
        world.set_clock(by_ms);
        world.run_for(secs(30));
        let sent = world.sent.len() - before;
        assert!((28..=30).contains(&sent), "{sent} in 30 s, the clock set by {by_ms} ms");
    }
}

#[test]
fn a_pause_ends_when_its_time_has_passed() {
    for by_ms in [-110_000, 110_000] {
        let mut world = world(Temper::Limiter(0), Limits::default());
        fill(&mut world, 1);
        world.run_for(secs(2));
        assert_eq!(world.refusals, 1);
        world.set_clock(by_ms);
        world.run_for(secs(50));
        assert_eq!(world.refusals, 1, "after 50 s of a minute, by {by_ms}");
        world.run_for(secs(20));
        assert_eq!(world.refusals, 2, "after a minute, by {by_ms}");
    }
}

#[test]
fn what_idles_is_closed_in_time_and_what_comes_is_sent_at_once() {
    let mut world = world(KIND, Limits::default());
    fill(&mut world, 1);
    world.run_for(secs(1));
    assert_eq!(world.open_at(0), 1);
    world.set_clock(-60_000);
    let put = world.envelope(0, Transactional);
    world.put(put);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.sent.len(), 2);
    world.run_for(secs(5));
    assert_eq!(world.open_at(0), 0);
}
