//! What the ladders promise: no more than the budget and the eighth, over crashes and clock changes; and what days bring.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{Restored, SendHours, Steps};
use super::*;
use crate::time::Zone;

const HOUR: u64 = 3_600_000;

fn curve(volumes: &[u32]) -> Curve {
    Curve::new(&Steps::Table(volumes.to_vec()), 1).unwrap()
}

fn utc(number: u32) -> Day {
    Day::of(Zone::UTC.hour(number, 0), &Zone::UTC, SendHours::ALL)
}

fn keep(ladder: &mut Ladder) {
    let (_, kept) = ladder.record();
    ladder.keep(kept);
}

/// A day of mail: attempted, delivered, deferred for reputation.
fn send(ladder: &mut Ladder, attempted: u32, delivered: u32, deferred: u32) {
    let at = ladder.bounds.unwrap().opens;
    ladder.spend(at, Kind::Transactional, attempted);
    ladder.delivered(delivered);
    ladder.deferred_for_reputation(deferred);
}

#[test]
fn a_day_brings_what_the_provider_said_of_it() {
    use Judgement::*;
    let curve = curve(&[100, 200, 400, 800]);
    // From stage 2, budget 400: attempted, delivered, deferred; judged; the next stage.
    let rows = [
        (400, 400, 0, Passed, 3),
        (200, 180, 0, Passed, 3),
        (199, 199, 0, NotASendingDay, 2),
        (0, 0, 0, NotASendingDay, 2),
        (400, 359, 0, TooFewDelivered, 2),
        (400, 392, 8, Passed, 3),
        (400, 391, 9, Deferred, 2),
        (400, 380, 20, Deferred, 2),
        (400, 379, 21, ManyDeferred, 1),
        (10, 7, 3, ManyDeferred, 1),
        (10, 8, 2, NotASendingDay, 2),
        (500, 500, 0, Passed, 3),
    ];
    for (attempted, delivered, deferred, judged, stage) in rows {
        let mut ladder = Ladder::new();
        ladder.roll(utc(100), &curve, 0);
        ladder.set(2, &curve, 0);
        send(&mut ladder, attempted, delivered, deferred);
        assert_eq!(ladder.judge(), judged, "{attempted} {delivered} {deferred}");
        ladder.roll(utc(101), &curve, 0);
        assert_eq!(ladder.view().stage, stage, "{attempted} {delivered} {deferred}");
    }
}

#[test]
fn the_last_stage_leads_to_warm_and_warm_stays() {
    let curve = curve(&[10]);
    let mut ladder = Ladder::new();
    ladder.roll(utc(100), &curve, 0);
    send(&mut ladder, 10, 10, 0);
    ladder.roll(utc(101), &curve, 0);
    ladder.blocked(&curve, 0);
    ladder.roll(utc(102), &curve, 0);
    assert_eq!(ladder.allowance(utc(102).opens).because, Because::Warm);
    assert_eq!((ladder.view().budget, ladder.view().over), (None, 0));
}

#[test]
fn a_block_halves_and_freezes_and_a_hold_keeps() {
    let curve = curve(&[100, 150, 200, 400]);
    let mut ladder = Ladder::new();
    ladder.roll(utc(100), &curve, 0);
    ladder.set(3, &curve, 0);
    keep(&mut ladder);
    ladder.blocked(&curve, 0);
    ladder.blocked(&curve, 0);
    assert_eq!((ladder.view().stage, ladder.view().frozen_until), (2, Some(102)));
    assert!(ladder.record_due());
    for (day, because) in [(100, Because::Frozen), (101, Because::Frozen), (102, Because::Unkept)] {
        ladder.roll(utc(day), &curve, 0);
        assert_eq!(ladder.allowance(utc(day).opens).because, because, "day {day}");
    }
    ladder.hold();
    send(&mut ladder, 200, 200, 0);
    assert_eq!(ladder.judge(), Judgement::Held);
    ladder.roll(utc(103), &curve, 0);
    assert_eq!(ladder.view().stage, 2);
    ladder.resume();
    ladder.skip(&curve, 0);
    assert_eq!((ladder.view().stage, ladder.view().budget, ladder.view().held), (3, Some(400), false));
}

#[test]
fn thirty_days_without_mail_cost_two_thirds_of_the_stage() {
    let curve = curve(&(1..=20).map(|stage| stage * 100).collect::<Vec<_>>());
    for (idle, stage) in [(29, 13), (30, 4), (59, 4), (60, 1), (90, 0), (10_000, 0)] {
        let mut ladder = Ladder::new();
        ladder.roll(utc(100), &curve, 0);
        ladder.set(12, &curve, 0);
        send(&mut ladder, 1300, 1300, 0);
        ladder.roll(utc(100 + idle), &curve, 0);
        assert_eq!(ladder.view().stage, stage, "{idle} days in one leap");
        let mut ladder = Ladder::new();
        ladder.roll(utc(100), &curve, 0);
        ladder.set(12, &curve, 0);
        send(&mut ladder, 1300, 1300, 0);
        (101..=100 + idle.min(200)).for_each(|day| ladder.roll(utc(day), &curve, 0));
        assert_eq!(ladder.view().stage, stage, "{idle} days one by one");
    }
}

#[test]
fn transactional_mail_goes_over_and_takes_from_marketing() {
    let curve = curve(&[80]);
    let mut ladder = Ladder::new();
    let day = utc(100);
    ladder.roll(day, &curve, 0);
    keep(&mut ladder);
    let first = ladder.allowance(day.opens);
    assert_eq!((first.now, first.because), (1, Because::Spread));
    ladder.spend(day.opens, Kind::Transactional, 79);
    assert_eq!((ladder.view().over, ladder.view().used), (78, 79));
    assert_eq!(ladder.allowance(day.opens).because, Because::Hour);
    ladder.spend(day.opens, Kind::Transactional, 21);
    let view = ladder.view();
    assert_eq!((view.over, view.used, ladder.allowance(day.opens).because), (99, 100, Because::Budget));
}

#[test]
fn what_was_not_sent_comes_back_and_what_is_uncertain_counts_for_nobody() {
    let curve = curve(&[100]);
    let mut ladder = Ladder::new();
    let day = utc(100);
    ladder.roll(day, &curve, 0);
    ladder.spend(day.opens, Kind::Transactional, 60);
    ladder.refund(day.opens, 5);
    ladder.uncertain(5);
    ladder.delivered(50);
    let view = ladder.view();
    assert_eq!((view.used, view.attempted, view.outlook), (55, 50, Judgement::Passed));
}

#[test]
fn a_damaged_record_is_the_foot_of_the_ladder_and_a_used_day() {
    let curve = curve(&[100, 200]);
    let mut ladder = Ladder::new();
    ladder.roll(utc(100), &curve, 0);
    ladder.set(1, &curve, 0);
    let (record, _) = ladder.record();
    let now = utc(100).opens;
    for at in 0..record.len() {
        let mut damaged = record;
        damaged[at] ^= 0x40;
        let (mut ladder, how) = Ladder::restore(&damaged, now);
        assert_eq!(how, Restored::Damaged, "byte {at}");
        ladder.roll(utc(100), &curve, 0);
        assert_eq!((ladder.view().stage, ladder.allowance(now).because), (0, Because::Budget), "byte {at}");
        ladder.roll(utc(101), &curve, 0);
        assert_eq!((ladder.view().stage, ladder.view().used), (0, 0), "the day after is a day");
    }
    assert_eq!(Ladder::restore(&record[..59], now).1, Restored::Damaged);
    assert_eq!(Ladder::restore(&record, now).1, Restored::Sound);
}

#[test]
fn a_clock_set_back_gives_nothing_again() {
    let curve = curve(&[100]);
    let mut ladder = Ladder::new();
    ladder.roll(utc(100), &curve, 0);
    send(&mut ladder, 100, 0, 0);
    for (day, used) in [(99, 100), (100, 100), (50, 100), (51, 0)] {
        ladder.roll(utc(day), &curve, 0);
        assert_eq!(ladder.view().used, used, "day {day}");
    }
}

/// Sends as much as it may, asking every five minutes, from one day's start to the end of the next. Crashes at the
/// moments given. What went, by moment.
fn greedy(
    zone: &Zone,
    hours: SendHours,
    first: u32,
    budget: u32,
    crashes: &[u64],
    transactional: u32,
) -> Vec<(u64, u32)> {
    let curve = curve(&[budget]);
    let mut ladder = Ladder::new();
    ladder.hold();
    let (mut now, end) = (zone.hour(first, 0), zone.hour(first + 1, 24));
    let start = now;
    let mut went = Vec::new();
    let mut durable = ladder.record_at_stop();
    while now < end {
        ladder.roll(Day::of(now, zone, hours), &curve, 0);
        if ladder.record_due() {
            let (record, kept) = ladder.record();
            durable = record;
            ladder.keep(kept);
        }
        let step = Duration::from_millis(97_000);
        let count = ladder.allowance(now).now;
        if count > 0 {
            ladder.spend(now, Kind::Marketing, count);
            went.push((now.as_millis(), count));
        }
        if transactional > 0 && (now.as_millis() / 97_000) % 50 == 7 {
            ladder.spend(now, Kind::Transactional, transactional);
        }
        let at = now.since(start).as_millis() as u64;
        if crashes.iter().any(|crash| (at..at + 97_000).contains(crash)) {
            ladder = Ladder::restore(&durable, now).0;
        }
        now = now.after(step);
    }
    went
}

fn check(zone: &Zone, hours: SendHours, first: u32, budget: u32, went: &[(u64, u32)]) {
    for number in [first, first + 1] {
        let day = Day::of(zone.hour(number, 12), zone, hours);
        let within = |at: &&(u64, u32)| at.0 >= zone.hour(number, 0).as_millis() && at.0 < day.ends.as_millis();
        let sum: u32 = went.iter().filter(within).map(|(_, count)| count).sum();
        assert!(sum <= budget, "day {number}: {sum} of {budget}");
        let outside = |at: u64| at < day.opens.as_millis() || at >= day.closes.as_millis();
        assert!(went.iter().filter(within).all(|(at, _)| !outside(*at)), "outside of the send hours");
    }
    for (from, _) in went {
        let hour = went.iter().filter(|(at, _)| (*from..from + HOUR).contains(at));
        let sum: u32 = hour.map(|(_, count)| count).sum();
        assert!(sum <= budget.div_ceil(8), "{sum} in an hour of {budget}");
    }
}

#[test]
fn a_day_without_trouble_uses_its_budget_whole_also_when_clocks_change() {
    let zone = Zone::named("Europe/Berlin").unwrap();
    for first in [20_541, 20_751, 20_778] {
        for hours in [SendHours::ALL, SendHours::new(8, 20).unwrap(), SendHours::new(1, 11).unwrap()] {
            for budget in [1, 7, 20, 500, 10_000_000] {
                let went = greedy(&zone, hours, first, budget, &[], 0);
                check(&zone, hours, first, budget, &went);
                let sum: u64 = went.iter().map(|(_, count)| u64::from(*count)).sum();
                assert!(sum >= 2 * u64::from(budget) * 9 / 10, "{sum} of 2 × {budget} in {hours} of {first}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn marketing_never_gets_more_than_the_budget_and_the_eighth(
        budget in 1u32..200_000,
        (from, to) in (0u8..23).prop_flat_map(|from| (Just(from), from + 1..25)),
        crashes in proptest::collection::vec(0..48 * HOUR, 0..12),
        first in prop_oneof![Just(20_541u32), Just(20_751), 20_000u32..21_000],
        transactional in 0u32..50,
    ) {
        let zone = Zone::named("America/New_York").unwrap();
        let hours = SendHours::new(from, to).unwrap();
        let went = greedy(&zone, hours, first, budget, &crashes, transactional);
        check(&zone, hours, first, budget, &went);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
        let curve = curve(&[100]);
        let (mut ladder, _) = Ladder::restore(&bytes, Timestamp::from_secs(1));
        ladder.roll(utc(20_000), &curve, 0);
        prop_assert!(ladder.allowance(utc(20_000).opens).now <= 100);
    }
}
