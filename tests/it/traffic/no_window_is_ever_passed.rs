//! Limits by time, on the engine as a whole: counted from the outside, as the strictest peer may.

use std::time::Duration;

use postrider::mail::StreamKind;
use postrider::traffic::{Limits, PoolHandle, Rate, Rates, Rules, SourceHandle};

use super::world::{Place, START, Span, Temper, World, secs};

fn rates(all: &[(u32, u64)]) -> Rates {
    let all: Vec<Rate> = all.iter().map(|(count, per)| Rate { count: *count, per: secs(*per) }).collect();
    Rates::new(&all).unwrap()
}

/// The most that any time of this length can hold, if each transaction may be counted anywhere between its begin and
/// its end: earlier ones as late, later ones as early as can be.
fn fullest(spans: &[Span], per: Duration, weight: impl Fn(&Span) -> u32) -> u32 {
    let mut spans: Vec<&Span> = spans.iter().filter(|span| span.recipients > 0).collect();
    spans.sort_by_key(|span| span.from);
    let mut fullest = 0;
    for (place, first) in spans.iter().enumerate() {
        let end = first.until.after(per);
        let inside = spans[place + 1..].iter().take_while(|span| span.from < end);
        let sum = inside.filter(|span| span.until >= first.until).map(|span| weight(span)).sum::<u32>();
        fullest = fullest.max(weight(first) + sum);
    }
    fullest
}

fn two_sources() -> Rules {
    let pools: Vec<Box<[SourceHandle]>> = vec![Box::new([SourceHandle(0), SourceHandle(1)])];
    Rules { pools: pools.into(), ..Rules::default() }
}

/// Whatever peers do, messages and recipients of each source stay within their windows, over crashes at any time too.
#[test]
fn whatever_happens_no_window_is_passed() {
    let mut uses = 0;
    for seed in 0..120u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (count, many) = (random.u32(1..30), random.u32(20..60));
        let (per, long) = (random.u64(1..20), random.u64(30..120));
        let limits = Limits {
            connections: random.u16(1..6),
            messages: rates(&[(count, per), (count * 3, long)]),
            recipients: rates(&[(many, long / 2)]),
            ..Limits::NONE
        };
        let temper =
            if random.bool() { Temper::Moody } else { Temper::Kind(Duration::from_millis(random.u64(1..900))) };
        let places = (0..4).map(|n| Place { temper, site: n % 2, limits }).collect();
        let mut world = World::new(seed, two_sources(), places);
        for _ in 0..400 {
            let kind = if random.bool() { StreamKind::Transactional } else { StreamKind::Marketing };
            let mut put = world.envelope(random.u32(0..4), kind);
            put.recipients = random.u16(1..8);
            put.pool = PoolHandle(0);
            world.put(put);
        }
        for _ in 0..6 {
            world.run_for(secs(random.u64(1..90)));
            if random.bool() {
                world.crash(secs(1));
            }
        }
        for site in 0..2 {
            for source in [SourceHandle(0), SourceHandle(1)] {
                let own: Vec<Span> =
                    world.spans.iter().filter(|span| span.site == site && span.source == source).copied().collect();
                let seen = |per, weight: fn(&Span) -> u32| fullest(&own, secs(per), weight);
                let messages = [(count, per), (count * 3, long)];
                for (count, per) in messages {
                    assert!(seen(per, |_| 1) <= count, "seed {seed}: {} of {count} in {per} s", seen(per, |_| 1));
                }
                let recipients = seen(long / 2, |span| u32::from(span.recipients));
                assert!(recipients <= many, "seed {seed}: {recipients} of {many} recipients");
                uses += own.len();
            }
        }
    }
    assert!(uses > 10_000, "{uses} transactions prove little");
}

/// A limit that mail waits for is used to 98 %, and its backlog is spread.
#[test]
fn a_window_that_mail_waits_for_is_used() {
    for (count, per, time) in [(200, 1, 10), (600, 60, 300), (30, 60, 900)] {
        let limits = Limits { connections: 20, messages: rates(&[(count, per)]), ..Limits::NONE };
        let place = Place { temper: Temper::Kind(Duration::from_millis(time)), site: 0, limits };
        let mut world = World::new(count.into(), Rules::default(), vec![place]);
        let windows = 20;
        for _ in 0..count * (windows + 2) {
            let put = world.envelope(0, StreamKind::Marketing);
            world.put(put);
        }
        // The first window may begin with connections still to be made.
        world.run_for(secs(per.max(5)));
        let before = world.spans.len();
        let began = world.now;
        world.run_for(secs(per * u64::from(windows - 5).max(5)));
        let used = (world.spans.len() - before) as f64 / (world.now.since(began).as_secs_f64() / per as f64);
        assert!(used >= 0.98 * f64::from(count), "{used:.1} of {count} in {per} s");
        assert!(fullest(&world.spans, secs(per), |_| 1) <= count);
    }
}

/// What waits for a window says so, and when it ends.
#[test]
fn a_full_window_is_the_reason_that_is_told() {
    let limits = Limits { messages: rates(&[(1, 3600)]), ..Limits::NONE };
    let place = Place { temper: Temper::Kind(Duration::from_millis(20)), site: 0, limits };
    let mut world = World::new(1, Rules::default(), vec![place]);
    let (first, second) = (world.envelope(0, StreamKind::Transactional), world.envelope(0, StreamKind::Transactional));
    world.put(first);
    world.put(second);
    world.run_for(secs(10));
    assert_eq!(world.spans.len(), 1);
    let why = world.engine.why(world.now, second.id);
    let postrider::traffic::Constraint::Window { rate, used, until, .. } = why[0] else { panic!("{why:?}") };
    assert_eq!((rate.count, used), (1, 1));
    assert!(until > START.after(secs(3600)) && until < START.after(secs(3605)), "{until:?}");
    world.run_until(until.after(secs(5)));
    assert_eq!(world.spans.len(), 2);
}

/// All sources together have no more connections than the site allows in total.
#[test]
fn the_total_of_all_sources_holds() {
    let limits = Limits { connections: 5, new_connections: rates(&[(2, 10)]), ..Limits::NONE };
    let place = Place { temper: Temper::Kind(secs(2)), site: 0, limits };
    let mut world = World::new(7, two_sources(), vec![place]);
    for _ in 0..200 {
        let put = world.envelope(0, StreamKind::Marketing);
        world.put(put);
    }
    world.run_for(secs(9));
    assert!(world.most_open <= 4, "{} connections made within 9 s at 2 each in 10 s", world.most_open);
}
