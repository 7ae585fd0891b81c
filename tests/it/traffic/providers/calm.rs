//! Calm worlds: what is configured is used while mail waits, and a dead site is not noticed by others.

use std::sync::Arc;
use std::time::Duration;

use postrider::mail::StreamKind;
use postrider::time::Timestamp;
use postrider::traffic::{CredentialHandle, Limits, Rate, Rates, Rules, SourceHandle};

use super::super::world::{Place, Temper, World, secs};

fn kind(random: &mut fastrand::Rng) -> StreamKind {
    if random.bool() { StreamKind::Transactional } else { StreamKind::Marketing }
}

/// What was used of the tightest window of one source, of 1, over many windows.
pub fn share_used(seed: u64) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let per = [1, 2, 5, 10, 30, 60, 600, 3600][random.usize(0..8)];
    // A transaction occupies its window until its reply and then as long as that is, which costs just these 2 % at a
    // fiftieth; the clock's tick and the steps in which what ended is kept come on top.
    let takes = Duration::from_millis(random.u64(1..=per * 1000 / 54).min(20_000));
    // As many connections as it takes, and half as many again.
    let count = random.u32(1..=(20.0 * per as f64 / takes.as_secs_f64() / 1.5).min(300.0) as u32);
    let mut windows = vec![Rate { count, per: secs(per) }];
    if random.bool() {
        // A wider one binds no one.
        windows.push(Rate { count: count * 12, per: secs(per * 10) });
    }
    let rates = Rates::new(&windows).unwrap();
    let limits = match random.bool() {
        true => Limits { connections: 40, messages: rates, ..Limits::NONE },
        false => Limits { connections: 40, recipients: rates, ..Limits::NONE },
    };
    let domains = random.u32(1..=20);
    let places = (0..domains).map(|_| Place { temper: Temper::Kind(takes), site: 0, limits }).collect();
    let mut world = World::new(seed, Rules::default(), places);
    let windows = (2000 / count).clamp(3, 20);
    let fill = |world: &mut World, random: &mut fastrand::Rng| {
        while (world.waiting.len() as u32) < 2 * count + 60 {
            let mut put = world.envelope(random.u32(0..domains), kind(random));
            put.credential = CredentialHandle(random.u32(0..3));
            put.expires_at = world.now.after(secs(86_400 * 30));
            world.put(put);
        }
    };
    fill(&mut world, &mut random);
    let parts = 10;
    let part = Duration::from_millis(per * 1000 / parts);
    let mut live = |world: &mut World, windows: u32| {
        for _ in 0..u64::from(windows) * parts {
            world.run_for(part);
            fill(world, &mut random);
        }
    };
    // The first begin with connections still to be made.
    live(&mut world, if per < 10 { (20 / per) as u32 } else { 2 });
    let before = world.spans.len();
    live(&mut world, windows);
    (world.spans.len() - before) as f64 / f64::from(count * windows)
}

/// When each envelope for a living site was sent, with mail for dead ones beside it or without.
fn sends(seed: u64, with_the_dead: bool) -> Vec<Timestamp> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (living, dead) = (random.u32(1..20), random.u32(1..20));
    let limits = |random: &mut fastrand::Rng| {
        let rate = Rate { count: random.u32(1..30), per: secs(random.u64(1..60)) };
        let messages = if random.bool() { Rates::new(&[rate]).unwrap() } else { Rates::NONE };
        Limits { connections: random.u16(1..10), messages, ..Limits::NONE }
    };
    let place = |site| {
        let takes = Duration::from_millis(random.u64(5..800));
        let temper = if site < living { Temper::Kind(takes) } else { Temper::Dead };
        Place { temper, site, limits: limits(&mut random) }
    };
    let places: Vec<Place> = (0..living + dead).map(place).collect();
    let pools: Vec<Box<[SourceHandle]>> = vec![(0..random.u16(1..4)).map(SourceHandle).collect()];
    let rules = Rules { pools: Arc::from(pools), ..Rules::default() };
    let mut world = World::new(seed, rules, places);
    world.is_even = true;
    let mut ids = Vec::new();
    for _ in 0..60 {
        for _ in 0..random.u32(0..12) {
            let domain = random.u32(0..living + dead);
            let kind = kind(&mut random);
            let priority = random.u8(0..3) * 10;
            if domain < living || with_the_dead {
                let mut put = world.envelope(domain, kind);
                put.priority = priority;
                world.put(put);
                ids.extend((domain < living).then_some(put.id));
            }
        }
        world.run_for(Duration::from_millis(random.u64(0..5000)));
    }
    world.run_for(secs(3 * 3600));
    let sent = |id| world.sent.iter().find(|(_, sent, ..)| *sent == id).map_or(Timestamp::NEVER, |(at, ..)| *at);
    ids.into_iter().map(sent).collect()
}

/// The longest by which a dead site delayed an envelope for another.
pub fn delay_by_the_dead(seed: u64) -> Duration {
    let (with, without) = (sends(seed, true), sends(seed, false));
    assert_eq!(with.len(), without.len());
    let late = with.iter().zip(&without).map(|(with, without)| with.since(*without));
    late.max().unwrap_or_default()
}
