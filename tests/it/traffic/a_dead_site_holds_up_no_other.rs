//! Thousands of messages for sites that never answer wait beside mail for living ones.

use std::time::Duration;

use postrider::mail::StreamKind::{Marketing, Transactional};
use postrider::traffic::{Limits, Rules};

use super::world::{End, Place, Temper, World, secs};

fn places(count: u32, temper: impl Fn(u32) -> Temper) -> Vec<Place> {
    (0..count).map(|site| Place { temper: temper(site), site, limits: Limits::default() }).collect()
}

#[test]
fn a_living_site_is_served_at_once_beside_a_dead_one() {
    let kind = Temper::Kind(Duration::from_millis(50));
    let mut world = World::new(1, Rules::default(), places(2, |n| if n == 0 { Temper::Dead } else { kind }));
    for _ in 0..5000 {
        let put = world.envelope(0, Transactional);
        world.put(put);
    }
    world.run_for(secs(3600));
    for _ in 0..100 {
        let put = world.envelope(1, Marketing);
        world.put(put);
    }
    world.run_for(secs(3));
    assert_eq!(world.ended_as(End::Delivered), 100);
    assert!(world.refusals < 20, "the dead site was dialed {} times in an hour", world.refusals);
    world.run_out(secs(6 * 86_400));
    assert_eq!(world.ended_as(End::Expired), 5000);
}

#[test]
fn many_dead_sites_leave_the_living_three_quarters_of_all_connections() {
    let kind = Temper::Kind(Duration::from_millis(50));
    let rules = Rules { total_connections: 100, ..Rules::default() };
    let mut world = World::new(2, rules, places(10_000, |n| if n % 10 == 0 { kind } else { Temper::Dead }));
    // The living ones proved themselves before.
    for domain in (0..10_000).step_by(10) {
        let put = world.envelope(domain, Transactional);
        world.put(put);
    }
    world.run_for(secs(200));
    assert_eq!(world.ended_as(End::Delivered), 1000);
    for domain in 0..10_000 {
        for _ in 0..2 {
            let put = world.envelope(domain, Transactional);
            world.put(put);
        }
    }
    world.run_for(secs(120));
    assert_eq!(world.ended_as(End::Delivered), 3000, "the living are done while the dead still time out");
    assert_eq!(world.ended.len(), 3000);
}

#[test]
fn one_dead_domain_among_ten_thousand_is_not_noticed() {
    let kind = Temper::Kind(Duration::from_millis(100));
    let mut world = World::new(3, Rules::default(), places(10_000, |n| if n == 77 { Temper::Dead } else { kind }));
    for domain in 0..10_000 {
        let put = world.envelope(domain, Marketing);
        world.put(put);
    }
    world.run_for(secs(300));
    assert_eq!(world.ended_as(End::Delivered), 9_999);
    assert_eq!(world.sites_sent_to(), 9_999);
}
