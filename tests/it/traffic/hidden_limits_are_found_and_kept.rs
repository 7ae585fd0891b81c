//! A site whose limits nobody told us: five connections, and so many messages by time. Its refusals teach both.

use std::time::Duration;

use postrider::mail::StreamKind::Marketing;
use postrider::traffic::{Limits, Rules};

use super::world::{End, Place, Temper, World, secs};

/// Keeps mail waiting for a day. Gives the refusals of the first two minutes, those of the rest, and what was delivered.
fn day(count: usize, per: Duration) -> (u32, u32, usize) {
    let place = Place { temper: Temper::Hidden(5, count, per), site: 0, limits: Limits::default() };
    let mut world = World::new(7, Rules::default(), vec![place]);
    let batch = (count as f64 / per.as_secs_f64() * 900.0) as usize + 1000;
    let fill = |world: &mut World| {
        while world.waiting.len() < batch {
            let put = world.envelope(0, Marketing);
            world.put(put);
        }
    };
    fill(&mut world);
    world.run_for(secs(120));
    let first = world.refusals + world.deferrals;
    for _ in 0..96 {
        fill(&mut world);
        world.run_for(secs(900));
    }
    (first, world.refusals + world.deferrals - first, world.ended_as(End::Delivered))
}

#[test]
fn a_cap_and_a_rate_are_found_in_two_minutes_and_tried_again_rarely() {
    let (first, later, delivered) = day(2, secs(1));
    println!("2/1s: {first} refusals in two minutes, {later} in the day after, {delivered} delivered");
    assert!(first <= 20, "{first} refusals in two minutes");
    assert!(later <= 30, "{later} refusals a day");
    assert!(delivered > 2 * 86_400 * 80 / 100, "{delivered}");
}

#[test]
fn a_rate_by_the_minute_is_found_too() {
    let (first, later, delivered) = day(60, secs(60));
    println!("60/60s: {first} refusals in two minutes, {later} in the day after, {delivered} delivered");
    assert!(first <= 40, "{first} refusals in two minutes");
    assert!(later <= 40, "{later} refusals a day");
    assert!(delivered > 86_400 * 70 / 100, "{delivered}");
}
