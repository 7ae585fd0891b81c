//! A warming source beside a warm one, at a provider that takes everything: marketing mail climbs the ladder within its
//! budget, transactional mail stays off it, and neither waits for what the other has left.

use std::sync::Arc;
use std::time::Duration;

use postrider::classify::{Feedback, Reaction, Signal};
use postrider::mail::StreamKind::{self, Marketing, Transactional};
use postrider::time::{Timestamp, Zone};
use postrider::traffic::warmup::{Curve, SendHours, Steps};
use postrider::traffic::{
    Fact, Limits, Operator, ProviderHandle, Rate, Rates, Rules, SourceHandle, Warming, WarmupOrder,
};

use super::world::{End, Place, Temper, World, secs};

const NEW: SourceHandle = SourceHandle(0);
const WARM: SourceHandle = SourceHandle(1);
const TABLE: [u32; 3] = [40, 80, 160];
const DAY: u64 = 86_400;

/// Two sites of one provider. The source 0 warms up; 1, if there is one, is warm.
fn world(sources: u16, seed: u64) -> World {
    let curve = Arc::new(Curve::new(&Steps::Table(TABLE.to_vec()), 3).unwrap());
    let warming = Warming { curve, providers: Box::default(), zone: Zone::UTC, hours: SendHours::ALL };
    let pool: Box<[SourceHandle]> = (0..sources).map(SourceHandle).collect();
    let rules =
        Rules { pools: vec![pool].into(), warming: vec![Some(Arc::new(warming)), None].into(), ..Rules::default() };
    let place = |site| Place { temper: Temper::Kind(Duration::from_millis(50)), site, limits: Limits::default() };
    let mut world = World::new(seed, rules, vec![place(0), place(1)]);
    // To midnight, so that days are whole.
    let past = world.now.as_secs() % DAY;
    world.run_for(secs(DAY - past));
    world
}

fn put(world: &mut World, kind: StreamKind, count: u32) {
    for n in 0..count {
        let mut put = world.envelope(n % 2, kind);
        put.expires_at = world.now.after(secs(30 * DAY));
        world.put(put);
    }
}

/// Messages of a kind over a source within a day.
fn sent(world: &World, source: SourceHandle, kind: StreamKind, day: u64) -> u32 {
    let of_day = |at: Timestamp| at.as_secs() / DAY == day;
    let spans = world.spans.iter().zip(&world.sent);
    spans.filter(|(span, (at, _, _, of))| span.source == source && *of == kind && of_day(*at)).count() as u32
}

#[test]
fn marketing_mail_keeps_to_the_budget_of_each_day_and_the_rest_goes_over_the_warm_source() {
    let mut world = world(2, 3);
    let first = world.now.as_secs() / DAY;
    for (day, budget) in TABLE.iter().enumerate() {
        // Mail enough comes all day long, and what the ladder cannot carry now the warm source takes at once.
        for _ in 0..288 {
            put(&mut world, Marketing, 2);
            put(&mut world, Transactional, 1);
            world.run_for(secs(300));
        }
        let day = first + day as u64;
        let over_new = sent(&world, NEW, Marketing, day);
        assert!(over_new <= *budget && over_new * 10 >= budget * 8, "{over_new} of {budget}");
        assert_eq!(sent(&world, NEW, Transactional, day), 0, "the warm source has it");
        assert!(sent(&world, WARM, Marketing, day) + over_new >= 570, "nothing waits while a warm source is free");
    }
    put(&mut world, Marketing, 1);
    world.run_for(secs(3600));
    let ladder = world.engine.warmups()[0];
    assert_eq!((ladder.view.budget, ladder.view.stage), (None, 3), "{ladder:?}");
    assert!(world.waiting.is_empty());
}

#[test]
fn alone_it_lets_marketing_mail_wait_and_transactional_mail_go_at_once() {
    let mut world = world(1, 4);
    let day = world.now.as_secs() / DAY;
    put(&mut world, Marketing, 200);
    world.run_for(secs(DAY / 2));
    let noon = sent(&world, NEW, Marketing, day);
    assert!((12..=28).contains(&noon), "half a day's budget by noon: {noon}");
    let waits = world.waiting.values().next().unwrap().put.id;
    let why = format!("{:?}", world.engine.why(world.now, waits));
    assert!(why.contains("Warmup"), "{why}");
    put(&mut world, Transactional, 60);
    world.run_for(secs(60));
    assert_eq!(sent(&world, NEW, Transactional, day), 60);
    world.run_for(secs(DAY / 2 - 120));
    let marketing = sent(&world, NEW, Marketing, day);
    assert!(marketing <= noon.max(1), "transactional mail used the day's budget up: {marketing} after {noon}");
    let view = world.engine.warmups()[0].view;
    assert!(view.over >= 30, "{view:?}");
    // All of it goes in the end.
    world.run_out(secs(20 * DAY));
    assert_eq!(world.ended_as(End::Delivered), 260);
}

#[test]
fn crashes_give_nothing_twice_and_orders_are_obeyed() {
    let mut world = world(1, 5);
    let day = world.now.as_secs() / DAY;
    put(&mut world, Marketing, 300);
    for _ in 0..20 {
        world.run_for(secs(DAY / 21));
        world.crash(secs(1));
    }
    world.run_for(secs(DAY / 21 - 10));
    let marketing = sent(&world, NEW, Marketing, day);
    assert!((10..=40).contains(&marketing), "{marketing} of 40 over 20 crashes");

    let ladder = |world: &World| world.engine.warmups()[0].view;
    let stage = ladder(&world).stage;
    world.apply(Fact::Operator(Operator::Warmup(NEW, ProviderHandle(0), WarmupOrder::Skip)));
    assert_eq!(ladder(&world).stage, stage + 1);
    world.apply(Fact::Operator(Operator::Warmup(NEW, ProviderHandle(0), WarmupOrder::Set(0))));
    world.apply(Fact::Operator(Operator::Warmup(NEW, ProviderHandle(0), WarmupOrder::Hold)));
    world.run_for(secs(2 * DAY));
    assert_eq!((ladder(&world).stage, ladder(&world).held), (0, true));
    world.crash(secs(1));
    world.run_for(secs(60));
    assert!(ladder(&world).held, "it outlives a restart");
}

#[test]
fn a_block_freezes_the_ladder_and_is_told_once() {
    let mut world = world(1, 6);
    put(&mut world, Marketing, 30);
    world.run_for(secs(6 * 3600));
    let blocked =
        Signal { reaction: Some(Reaction::Suspend { hold: secs(3600) }), block: true, ..Feedback::Neutral.into() };
    for _ in 0..2 {
        put(&mut world, Transactional, 1);
        world.answer_next_with(blocked);
        world.run_for(secs(2 * 3600));
    }
    assert_eq!(world.frozen, [(NEW, ProviderHandle(0))]);
    let day = world.now.as_secs() / DAY;
    let before = sent(&world, NEW, Marketing, day);
    world.run_for(secs(10 * 3600));
    assert_eq!(sent(&world, NEW, Marketing, day), before, "nothing goes for the rest of the day");
    world.run_for(secs(DAY));
    assert_eq!(sent(&world, NEW, Marketing, day + 1), 0, "nor on the next");
    world.run_for(secs(DAY));
    assert!(sent(&world, NEW, Marketing, day + 2) > 0);
}

#[test]
fn a_clean_stop_costs_no_allowance() {
    let mut world = world(1, 7);
    put(&mut world, Marketing, 300);
    world.run_for(secs(DAY / 2));
    let used = world.engine.warmups()[0].view.used;
    world.records.extend(world.engine.final_records());
    world.crash(secs(1));
    world.run_for(secs(60));
    let now = world.engine.warmups()[0].view.used;
    assert!(now <= used + 1, "{used} before, {now} after");
}

#[test]
fn while_the_warm_source_is_full_transactional_mail_takes_what_the_ladder_has_left() {
    let mut world = world(2, 8);
    for place in &mut world.places {
        let messages = Rates::new(&[Rate { count: 100, per: secs(3600) }]).unwrap();
        place.limits = Limits { messages, ..Limits::default() };
    }
    // Both sites' windows of the warm source together take 200 an hour.
    let day = world.now.as_secs() / DAY;
    put(&mut world, Transactional, 20);
    world.run_for(secs(60));
    assert_eq!(
        (sent(&world, WARM, Transactional, day), sent(&world, NEW, Transactional, day)),
        (20, 0),
        "there is room"
    );
    put(&mut world, Transactional, 2000);
    world.run_for(secs(3 * 3600));
    assert_eq!(sent(&world, NEW, Transactional, day), TABLE[0], "and no more than the ladder says");
    let warm = sent(&world, WARM, Transactional, day);
    assert!((500..=640).contains(&warm), "{warm} over the warm one");
    world.assert_none_stranded();
}
