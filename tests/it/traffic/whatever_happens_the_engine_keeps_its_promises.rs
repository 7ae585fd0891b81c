//! Random mail, tempers, operators and reloads; the referee of the simulated world checks every order.

use std::time::Duration;

use postrider::mail::{QueueId, StreamKind};
use postrider::traffic::{CredentialHandle, Fact, Limits, Operator, PoolHandle, Put, Rules, SiteHandle, SourceHandle};
use proptest::prelude::*;

use super::world::{Place, START, Temper, World, secs};

fn world(seed: u64) -> World {
    let mut random = fastrand::Rng::with_seed(seed);
    let sites = random.u32(1..8);
    let tempers: Vec<(Temper, Limits)> = (0..sites)
        .map(|_| {
            let temper = match random.u8(0..8) {
                0 => Temper::Dead,
                1 => Temper::Limiter(random.usize(1..6)),
                2 | 3 => Temper::Moody,
                4 => Temper::Lost(START.after(secs(random.u64(1..5000)))),
                _ => Temper::Kind(Duration::from_millis(random.u64(10..500))),
            };
            let deliveries = random.bool().then(|| random.u32(1..30));
            (temper, Limits { connections: random.u16(0..8), deliveries, ..Limits::NONE })
        })
        .collect();
    let mut places: Vec<Place> = (0..sites * 3)
        .map(|n| {
            let (temper, limits) = tempers[(n % sites) as usize];
            Place { temper, site: n % sites, limits }
        })
        .collect();
    places.push(Place { temper: Temper::Never, site: sites, limits: Limits::default() });
    let pools: Vec<Box<[SourceHandle]>> =
        vec![Box::new([SourceHandle(0)]), Box::new([SourceHandle(1), SourceHandle(0)]), Box::new([SourceHandle(2)])];
    let rules = Rules { total_connections: random.u32(1..40), pools: pools.into(), lookups: 3, ..Rules::default() };
    World::new(seed, rules, places)
}

fn play(seed: u64) -> World {
    let mut world = world(seed);
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    for _ in 0..random.usize(1..120) {
        let ids: Vec<_> = {
            let mut ids: Vec<_> = world.waiting.keys().copied().collect();
            ids.sort();
            ids
        };
        let some = ids.get(random.usize(..).checked_rem(ids.len().max(1)).unwrap_or(0)).copied();
        match (random.u8(0..14), some) {
            (0, Some(id)) => world.gone(id),
            (1, Some(id)) => {
                let mut put = world.waiting[&id].put;
                put.held = !put.held;
                world.put(put);
            }
            (2, Some(id)) => {
                let mut put = world.waiting[&id].put;
                (put.due, put.pool) = (world.now, PoolHandle(random.u16(0..3)));
                if !world.waiting[&id].flying {
                    world.put(put);
                }
            }
            (3, _) => {
                let source = SourceHandle(random.u16(0..3));
                let site = SiteHandle(random.u32(0..world.places.len() as u32));
                let sources: Box<[Option<SourceHandle>]> = match random.u8(0..3) {
                    0 => Box::new([None]),
                    1 => Box::new([Some(source)]),
                    _ => Box::default(),
                };
                world.apply(Fact::Operator(match random.bool() {
                    true => Operator::SuspendSource(source),
                    false => Operator::SuspendAt(site, sources),
                }));
            }
            (4, _) => {
                let rules = world.rules.clone();
                world.set_rules(rules);
            }
            (5, _) => world.run_for(secs(random.u64(1..4000))),
            _ => {
                let domain = random.u32(0..world.places.len() as u32);
                let kind = if random.bool() { StreamKind::Transactional } else { StreamKind::Marketing };
                for _ in 0..random.u32(1..30) {
                    let mut put = world.envelope(domain, kind);
                    put.credential = CredentialHandle(random.u32(0..3));
                    put.pool = PoolHandle(random.u16(0..3));
                    put.priority = if random.u8(0..4) == 0 { 90 } else { 50 };
                    put.recipients = random.u16(1..60);
                    put.source = (random.u8(0..8) == 0).then(|| SourceHandle(random.u16(0..4)));
                    put.held = random.u8(0..20) == 0;
                    let age = if random.bool() { 86_400 } else { 900 };
                    put.expires_at = world.now.after(secs(age));
                    if random.u8(0..8) == 0 {
                        // Found at start, its time nearly or long over.
                        put.expires_at = world.now.before(secs(100)).max(put.id.made_at());
                    }
                    put.due = world.now.after(secs(random.u64(0..3).saturating_sub(1) * 100));
                    world.put(put);
                }
            }
        }
        world.run_for(Duration::from_millis(random.u64(0..3000)));
        world.assert_none_stranded();
    }
    for source in 0..3 {
        world.apply(Fact::Operator(Operator::ResumeSource(SourceHandle(source))));
    }
    for site in 0..world.places.len() as u32 {
        world.apply(Fact::Operator(Operator::SuspendAt(SiteHandle(site), Box::default())));
    }
    let mut held: Vec<_> = world.waiting.values().filter(|known| known.put.held).map(|known| known.put).collect();
    held.sort_by_key(|put| put.id);
    for mut put in held {
        put.held = false;
        world.put(put);
    }
    world.run_out(secs(3 * 86_400));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_envelope_ends_and_every_order_keeps_the_rules(seed in any::<u64>()) {
        let mut world = play(seed);
        world.assert_forgotten();
    }
}

/// So that a count of 0 means something.
#[test]
fn an_envelope_that_the_engine_lost_is_stranded() {
    let mut world = world(1);
    let put = world.envelope(0, StreamKind::Transactional);
    assert!(world.engine.is_stranded(world.now, put.id), "it was never told of it");
    world.put(put);
    assert!(!world.engine.is_stranded(world.now, put.id));
    // The queue says that it is not held, the engine that it is.
    let now = world.now;
    world.engine.apply(now, 0.5, Fact::Put(Put { held: true, id: QueueId::from_u64(9), ..put }), &mut Vec::new());
    assert!(world.engine.is_stranded(now, QueueId::from_u64(9)));
}

#[test]
fn the_same_facts_give_the_same_orders() {
    for seed in 0..5 {
        assert_eq!(play(seed).trace, play(seed).trace);
    }
}
