//! A site that takes five connections and says 421 to the sixth, with a limit of 20 on our side.

use postrider::mail::StreamKind::Transactional;
use postrider::traffic::{Limits, Rules};

use super::world::{End, Place, Temper, World, secs};

#[test]
fn five_connections_are_found_and_kept_with_few_refusals() {
    let place = Place { temper: Temper::Limiter(5), site: 0, limits: Limits::default() };
    let mut world = World::new(4, Rules::default(), vec![place]);
    for _ in 0..100_000 {
        let put = world.envelope(0, Transactional);
        world.put(put);
    }
    world.run_for(secs(120));
    assert_eq!(world.open_at(0), 5);
    assert!(world.refusals <= 4, "{} refusals in two minutes", world.refusals);
    // Five connections at 100 ms a message: 50 a second; 90 % of that in spite of the search.
    assert!(world.ended_as(End::Delivered) > 120 * 45, "{}", world.ended_as(End::Delivered));
    world.run_out(secs(86_400));
    assert!(world.refusals <= 30, "{} refusals", world.refusals);
    assert_eq!(world.ended_as(End::Delivered), 100_000);
    assert!(world.sent.len() == 100_000, "no refusal was charged to a message");
}
