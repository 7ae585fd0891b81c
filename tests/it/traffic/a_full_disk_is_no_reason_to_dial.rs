//! On a full disk no allowance can be written down, so nothing may be sent; then no connection has a use either. Domains
//! that share a site must not take its connections from each other meanwhile, and go on when there is room again.

use std::time::Duration;

use postrider::mail::StreamKind::{Marketing, Transactional};
use postrider::traffic::{Limits, Rate, Rates, Rules};

use super::world::{End, Place, Temper, World, secs};

/// Half of the time in which the disk is full. Unit: seconds.
const FULL: u64 = 1800;

/// Domains of one site, at which all may have two connections and 1,000 messages an hour.
fn world(seed: u64, domains: u32) -> World {
    let messages = Rates::new(&[Rate { count: 1000, per: secs(3600) }]).unwrap();
    let limits = Limits { connections: 2, messages, ..Limits::default() };
    let place = Place { temper: Temper::Kind(Duration::from_millis(50)), site: 0, limits };
    let mut world = World::new(seed, Rules::default(), vec![place; domains as usize]);
    world.disk = Some(Default::default());
    world
}

fn fill(world: &mut World, full: bool) {
    world.disk.as_mut().expect("a disk").is_full = full;
}

fn put(world: &mut World, domains: u32, each: u32) {
    for number in 0..domains * each {
        let kind = if number % 2 == 0 { Transactional } else { Marketing };
        let envelope = world.envelope(number % domains, kind);
        world.put(envelope);
    }
}

#[test]
fn whether_or_not_the_site_is_known() {
    for is_known in [false, true] {
        let mut world = world(7, 8);
        if is_known {
            put(&mut world, 8, 4);
            world.run_for(secs(300));
            assert_eq!(world.ended_as(End::Delivered), 32);
        }
        let (before, done) = (world.dials, world.ended.len());
        fill(&mut world, true);
        put(&mut world, 8, 20);
        world.run_for(secs(FULL));
        // What was durable before may be spent, and domains take turns on two connections.
        let (sent, dials) = (world.ended.len() - done, world.dials - before);
        assert!(sent < 160, "a full disk stops what must be written down");
        assert!(dials as usize <= 2 * sent + 10, "known {is_known}: {dials} connections for {sent} messages");
        world.run_for(secs(FULL));
        let more = world.dials - before - dials;
        assert_eq!((world.ended.len() - done, more), (sent, 0), "known {is_known}: dials although nothing may be sent");
        fill(&mut world, false);
        world.run_for(secs(1200));
        assert_eq!(world.ended_as(End::Delivered), done + 160);
    }
}
