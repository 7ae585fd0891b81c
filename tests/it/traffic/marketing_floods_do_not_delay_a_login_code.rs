//! A hundred thousand newsletters wait for the site that a login code must reach now.

use std::collections::HashMap;
use std::time::Duration;

use postrider::mail::StreamKind::{Marketing, Transactional};
use postrider::traffic::{CredentialHandle, Limits, PoolHandle, Rules, SourceHandle};

use super::world::{Place, Temper, World, secs};

fn site(millis: u64, connections: u16) -> Vec<Place> {
    let limits = Limits { connections, ..Limits::NONE };
    vec![Place { temper: Temper::Kind(Duration::from_millis(millis)), site: 0, limits }]
}

#[test]
fn a_login_code_waits_for_one_message_boundary_at_most() {
    for connections in [1, 2, 5] {
        let mut world = World::new(5, Rules::default(), site(100, connections));
        for _ in 0..20_000 {
            let put = world.envelope(0, Marketing);
            world.put(put);
        }
        world.run_for(secs(60));
        for round in 0..20 {
            let put = world.envelope(0, Transactional);
            let asked_at = world.now;
            world.put(put);
            world.run_for(secs(1));
            let sent_at = world.sent.iter().find(|(_, id, ..)| *id == put.id).map(|(at, ..)| *at);
            let waited = sent_at.expect("sent within a second").since(asked_at);
            assert!(waited <= Duration::from_millis(130), "{connections} connections, round {round}: {waited:?}");
        }
    }
}

#[test]
fn while_both_wait_one_grant_in_ten_is_marketing_and_the_last_slot_is_kept() {
    let mut world = World::new(6, Rules::default(), site(100, 4));
    for _ in 0..2000 {
        for kind in [Marketing, Transactional] {
            let put = world.envelope(0, kind);
            world.put(put);
        }
    }
    world.run_for(secs(30));
    let sent: Vec<_> = world.sent.iter().map(|(.., kind)| *kind).collect();
    assert!(sent.len() > 700);
    for ten in sent.windows(10) {
        assert!(ten.iter().filter(|kind| **kind == Marketing).count() <= 1);
    }
    let marketing = sent.iter().filter(|kind| **kind == Marketing).count();
    assert!(marketing >= sent.len() / 11, "marketing starves: {marketing} of {}", sent.len());
}

#[test]
fn priority_goes_before_turns_and_turns_before_age() {
    let mut world = World::new(7, Rules::default(), site(10, 1));
    // Something on the way, so that all the others wait together.
    let first = world.envelope(0, Transactional);
    world.put(first);
    world.run_for(Duration::from_millis(100));
    let mut names = HashMap::new();
    let blocker = world.envelope(0, Transactional);
    world.put(blocker);
    for n in 0..300 {
        let mut put = world.envelope(0, Transactional);
        put.credential = CredentialHandle(1);
        put.due = world.now.before(secs(300 - n));
        names.insert(put.id, 'a');
        world.put(put);
    }
    for _ in 0..3 {
        let mut put = world.envelope(0, Transactional);
        put.credential = CredentialHandle(2);
        names.insert(put.id, 'b');
        world.put(put);
    }
    let mut urgent = world.envelope(0, Transactional);
    (urgent.priority, urgent.credential) = (90, CredentialHandle(1));
    names.insert(urgent.id, 'u');
    world.put(urgent);
    world.run_for(secs(10));
    let order: String = world.sent.iter().filter_map(|(_, id, ..)| names.get(id)).take(9).collect();
    assert!(["uabababaa", "ubabababa", "ubababaaa"].contains(&&*order), "{order}");
    let due: Vec<_> =
        world.sent.iter().filter(|(_, id, ..)| names.get(id) == Some(&'a')).map(|(_, id, ..)| *id).collect();
    assert!(due.is_sorted(), "the oldest due is first");
}

#[test]
fn a_deferred_envelope_keeps_its_source_until_that_is_suspended() {
    let pools: Vec<Box<[SourceHandle]>> = vec![Box::new([SourceHandle(0), SourceHandle(1)])];
    let rules = Rules { pools: pools.into(), ..Rules::default() };
    let mut world = World::new(8, rules, site(10, 5));
    let mut put = world.envelope(0, Transactional);
    (put.pool, put.source) = (PoolHandle(0), Some(SourceHandle(1)));
    world.apply(postrider::traffic::Fact::Operator(postrider::traffic::Operator::SuspendSource(SourceHandle(0))));
    world.put(put);
    let mut other = world.envelope(0, Transactional);
    other.source = Some(SourceHandle(0));
    world.put(other);
    world.run_out(secs(60));
    assert_eq!(world.ended.len(), 2, "a suspended source is not waited for");
}

#[test]
fn the_engaged_go_before_others_of_their_priority_and_never_before_a_higher_one() {
    let mut world = World::new(9, Rules::default(), site(10, 1));
    let blocker = world.envelope(0, Marketing);
    world.put(blocker);
    let mut names = HashMap::new();
    for n in 0..20 {
        for (name, priority, engaged) in [('c', 50, false), ('b', 50, true), ('a', 51, false), ('d', 0, true)] {
            let mut put = world.envelope(0, Marketing);
            (put.priority, put.engaged) = (priority, engaged);
            put.due = world.now.before(secs(n));
            names.insert(put.id, name);
            world.put(put);
        }
    }
    world.run_for(secs(10));
    let order: String = world.sent.iter().filter_map(|(_, id, ..)| names.get(id)).collect();
    assert_eq!(order, ["a", "b", "c", "d"].map(|name| name.repeat(20)).concat());
}
