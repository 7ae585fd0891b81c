//! A suspended site, a suspended source, and one source suspended at one site: what each stops, what it leaves alone, and
//! what `why` says of it.

use std::time::Duration;

use postrider::mail::StreamKind::Transactional;
use postrider::traffic::{
    Constraint, Fact, Limits, Operator, PoolHandle, Rules, SiteHandle, SourceHandle, StreamHandle,
};

use super::world::{Place, Temper, World, secs};

const A: SourceHandle = SourceHandle(0);
const B: SourceHandle = SourceHandle(1);
const HERE: SiteHandle = SiteHandle(0);
const THERE: SiteHandle = SiteHandle(1);

/// Two sites, two sources in one pool.
fn world() -> World {
    let pools: Vec<Box<[SourceHandle]>> = vec![Box::new([A, B])];
    let place = |site| Place {
        temper: Temper::Kind(Duration::from_millis(50)),
        site,
        limits: Limits { connections: 4, ..Limits::NONE },
    };
    World::new(7, Rules { pools: pools.into(), ..Rules::default() }, vec![place(0), place(1)])
}

fn stop(world: &mut World, site: SiteHandle, sources: &[Option<SourceHandle>]) {
    world.apply(Fact::Operator(Operator::SuspendAt(site, sources.into())));
}

/// By site, then source: whether anything went.
type Went = [[bool; 2]; 2];

/// What goes to either site over either source, in a row each: what is said, who may go on.
#[test]
fn each_order_stops_what_it_names_and_nothing_else() {
    let here = |sources: &[Option<SourceHandle>]| Some(Operator::SuspendAt(HERE, sources.into()));
    let rows: [(&str, Option<Operator>, Went); 6] = [
        ("nothing", None, [[true, true], [true, true]]),
        ("a site", here(&[None]), [[false, false], [true, true]]),
        ("a source at a site", here(&[Some(A)]), [[false, true], [true, true]]),
        ("both sources, one by one", here(&[Some(A), Some(B)]), [[false, false], [true, true]]),
        ("a source", Some(Operator::SuspendSource(B)), [[true, false], [true, false]]),
        ("a site that is resumed again", here(&[]), [[true, true], [true, true]]),
    ];
    for (what, order, want) in rows {
        let mut world = world();
        // Before anything is known of the site, as after a restart.
        if let Some(order) = order {
            world.apply(Fact::Operator(order));
        }
        for domain in [0, 1] {
            for _ in 0..40 {
                let put = world.envelope(domain, Transactional);
                world.put(put);
            }
        }
        world.run_for(secs(60));
        let went = |site: u32, source| world.spans.iter().any(|span| (span.site, span.source) == (site, source));
        let went = [[went(0, A), went(0, B)], [went(1, A), went(1, B)]];
        assert_eq!(went, want, "{what}");
    }
}

#[test]
fn what_waits_goes_when_the_site_is_resumed_and_its_connections_close_meanwhile() {
    let mut world = world();
    for _ in 0..200 {
        let put = world.envelope(0, Transactional);
        world.put(put);
    }
    world.run_for(Duration::from_millis(400));
    assert!(world.open_at(0) > 0);
    stop(&mut world, HERE, &[None]);
    world.run_for(secs(1));
    assert_eq!((world.open_at(0), world.waiting.is_empty()), (0, false));
    let id = *world.waiting.keys().min().unwrap();
    world.run_for(secs(3600));
    let why = world.engine.why(world.now, id);
    assert_eq!(why, [Constraint::SuspendedAt(A, HERE), Constraint::SuspendedAt(B, HERE)]);
    stop(&mut world, HERE, &[]);
    world.run_out(secs(60));
}

#[test]
fn mail_that_keeps_a_source_leaves_it_where_that_is_stopped() {
    let mut world = world();
    for site in [HERE, THERE] {
        let mut put = world.envelope(site.0, Transactional);
        (put.source, put.pool, put.stream) = (Some(A), PoolHandle(0), StreamHandle(0));
        world.put(put);
    }
    // Said while its hosts are being looked up.
    stop(&mut world, HERE, &[Some(A)]);
    world.run_out(secs(60));
    let over: Vec<_> = world.spans.iter().map(|span| (span.site, span.source)).collect();
    assert!(over.contains(&(0, B)) && over.contains(&(1, A)), "{over:?}");
}
