//! Tests of the rows without a spool: records are applied by hand. Over a real spool: `tests/it/queue`.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::applier::Applier;
use super::samples::{ACCEPTED_AT, envelope, envelope_to};
use super::table::{Extent, Table};
use super::{Change, Shared, StateEar};
use crate::clock::Clock;
use crate::mail::{Attempt, Cause, EnhancedStatus, Outcome, Progress, QueueId, RecipientState, Stage, Verdict};
use crate::size::ByteSize;
use crate::spool::{Apply, Message, Position, Sequence};
use crate::time::Timestamp;

fn at(offset: u64) -> Position {
    Position { segment: 1, offset: offset as u32 }
}

fn id(number: u64) -> QueueId {
    QueueId::from_u64(number)
}

fn outcome(text: &str) -> Outcome {
    let cause = Cause::local(EnhancedStatus::new(4, 4, 1), text);
    Outcome { at: ACCEPTED_AT, stage: Stage::Connect, host: "mx.example".into(), address: None, cause }
}

fn deferred(attempts: u16) -> Progress {
    let mut progress = Progress::new(1, ACCEPTED_AT);
    progress.attempts = attempts;
    progress.due = Timestamp::from_secs(ACCEPTED_AT.as_secs() + u64::from(attempts) * 60);
    progress.source = "a".into();
    progress
}

fn ended() -> Progress {
    let mut progress = Progress::new(1, ACCEPTED_AT);
    progress.end(RecipientState::Delivered, Some(&outcome("ok")));
    progress
}

#[test]
fn each_record_changes_its_row_as_it_says() {
    let mut table = Table::default();
    table.place(Sequence(1), at(10), &envelope_to(5, &["a@y.example", "b@y.example"]), None);
    assert!(table.lease(id(5)).is_some());
    assert!(table.lease(id(5)).is_none(), "a lease is exclusive");
    let mut progress = Progress::new(2, ACCEPTED_AT);
    let verdicts = vec![(0, Verdict::Delivered(outcome("ok"))), (1, Verdict::Deferred(outcome("later")))];
    let due = Timestamp::from_secs(ACCEPTED_AT.as_secs() + 900);
    let attempt = Attempt { verdicts, due, counts: true, uncertain: false, source: "a".into() };
    progress.settle(attempt, ACCEPTED_AT, Timestamp::NEVER);
    assert!(table.settled(Sequence(2), at(20), id(5), &progress).is_none(), "a connection tells the scheduler itself");
    let seen = table.seen(id(5)).unwrap();
    assert_eq!((seen.waiting.attempts, seen.waiting.recipients, seen.waiting.due), (1, 1, due));
    assert_eq!((&*seen.waiting.source, seen.waiting.domain.as_str()), ("a", "y.example"));
    assert_eq!((seen.row.place.home, seen.row.place.state), (at(10), at(20)));

    table.place(Sequence(3), at(30), &envelope_to(5, &["a@y.example", "b@y.example"]), Some(&progress));
    let moved = table.seen(id(5)).unwrap();
    assert_eq!((moved.row.place.home, moved.row.place.state), (at(30), at(30)));
    assert_eq!((moved.waiting.attempts, moved.waiting.recipients), (1, 1));

    assert!(table.lease(id(5)).is_some(), "a settle ends the lease");
    assert!(table.settled(Sequence(4), at(40), id(5), &ended()).is_none());
    assert!(table.seen(id(5)).is_none());
    assert_eq!((table.len(), table.applied()), (0, Sequence(4)));
    assert!(table.settled(Sequence(5), at(50), id(5), &deferred(1)).is_none(), "an unknown id is ignored");
    assert_eq!(table.len(), 0);
}

#[test]
fn a_held_row_is_not_leased_and_an_order_announces_its_change() {
    let mut table = Table::default();
    table.place(Sequence(1), at(10), &envelope(5), None);
    assert!(table.lease_for_order(id(5)).unwrap().is_some());
    assert!(table.lease_for_order(id(5)).is_err());
    table.announce(id(5));
    let mut held = deferred(0);
    held.held = true;
    let change = table.settled(Sequence(2), at(20), id(5), &held);
    assert!(matches!(change, Some(Change::Waiting(waiting)) if waiting.held));
    assert!(table.lease(id(5)).is_none());
    assert!(table.lease_for_order(id(5)).unwrap().is_some());
    table.announce(id(5));
    let change = table.settled(Sequence(3), at(30), id(5), &ended());
    assert!(matches!(change, Some(Change::Gone(gone)) if gone == id(5)));
}

/// What a row says, for comparison.
fn rows(table: &Table) -> BTreeMap<QueueId, String> {
    let say = |id: &QueueId| {
        let seen = table.seen(*id).unwrap();
        let row = seen.row;
        format!("{:?} {:?} {} {} {}", seen.waiting, row.place, row.sender, row.sender_domain, row.priority)
    };
    table.ids().iter().map(|id| (*id, say(id))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u64),
    Defer(u64, u16),
    End(u64),
    Move(u64),
    /// A checkpoint, of which this many batches of one row are written before the process dies; above 100: all.
    Checkpoint(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40u64).prop_map(Step::Accept),
        3 => (1..40u64, 1..9u16).prop_map(|(id, attempts)| Step::Defer(id, attempts)),
        3 => (1..40u64).prop_map(Step::End),
        1 => (1..40u64).prop_map(Step::Move),
        2 => any::<u8>().prop_map(Step::Checkpoint),
    ]
}

/// The spool's log, as far as rows see it.
#[derive(Clone, Debug)]
enum Record {
    Accepted(u64),
    Settled(u64, Progress),
    Moved(u64, Progress),
}

fn apply(table: &mut Table, sequence: u64, record: &Record) {
    let (number, position) = (Sequence(sequence), at(sequence * 10));
    match record {
        Record::Accepted(raw) => table.place(number, position, &envelope(*raw), None),
        Record::Settled(raw, progress) => drop(table.settled(number, position, id(*raw), progress)),
        Record::Moved(raw, progress) => table.place(number, position, &envelope(*raw), Some(progress)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was written of whichever checkpoints: the index and a replay from its mark give the rows again.
    #[test]
    fn an_index_and_the_log_after_its_mark_are_the_whole_queue(steps in prop::collection::vec(step(), 1..200)) {
        let mut table = Table::default();
        table.track_all();
        let (mut log, mut alive, mut accepted) = (Vec::<Record>::new(), BTreeMap::new(), 0);
        let (mut index, mut mark) = (BTreeMap::<QueueId, Vec<u8>>::new(), 0);
        for step in steps {
            let record = match step {
                Step::Accept(raw) => {
                    // An id is never used twice, not even after its end.
                    accepted += 1;
                    let raw = accepted * 100 + raw;
                    alive.insert(raw, Progress::new(1, ACCEPTED_AT));
                    Record::Accepted(raw)
                }
                Step::Defer(pick, attempts) => {
                    let Some(raw) = alive.keys().nth(pick as usize % alive.len().max(1)).copied() else { continue };
                    alive.insert(raw, deferred(attempts));
                    Record::Settled(raw, deferred(attempts))
                }
                Step::End(pick) => {
                    let Some(raw) = alive.keys().nth(pick as usize % alive.len().max(1)).copied() else { continue };
                    alive.remove(&raw);
                    Record::Settled(raw, ended())
                }
                Step::Move(pick) => {
                    let Some((raw, state)) = alive.iter().nth(pick as usize % alive.len().max(1)) else { continue };
                    Record::Moved(*raw, state.clone())
                }
                Step::Checkpoint(batches) => {
                    let mut pass = table.begin_checkpoint(Extent::Settled);
                    let mut left = if batches > 100 { u32::MAX } else { u32::from(batches) };
                    loop {
                        let batch = table.next_changed(1, &mut pass);
                        if batch.is_empty() {
                            mark = pass.sequence.0;
                            break;
                        }
                        if left == 0 {
                            break;
                        }
                        left -= 1;
                        for (id, row) in batch {
                            match row {
                                Some(row) => drop(index.insert(id, row)),
                                None => drop(index.remove(&id)),
                            }
                        }
                    }
                    if left == 0 {
                        // The process died here: a new one begins from the index and the log.
                        let mut again = Table::default();
                        again.track_from(Sequence(mark), 1);
                        for (id, row) in &index {
                            prop_assert!(again.load(*id, row));
                        }
                        for (place, record) in log.iter().enumerate().skip(mark as usize) {
                            apply(&mut again, place as u64 + 1, record);
                        }
                        prop_assert_eq!(rows(&again), rows(&table));
                        table = again;
                    }
                    continue;
                }
            };
            log.push(record);
            apply(&mut table, log.len() as u64, log.last().unwrap());
        }
        let mut pass = table.begin_checkpoint(Extent::All);
        for (id, row) in table.next_changed(usize::MAX, &mut pass) {
            match row {
                Some(row) => drop(index.insert(id, row)),
                None => drop(index.remove(&id)),
            }
        }
        prop_assert_eq!(pass.sequence, table.applied());
        prop_assert_eq!(index.keys().copied().collect::<Vec<_>>(), table.ids());
        let mut again = Table::default();
        for (id, row) in &index {
            prop_assert!(again.load(*id, row));
        }
        prop_assert_eq!(rows(&again), rows(&table));
    }
}

#[test]
fn what_is_delivered_between_two_checkpoints_never_reaches_the_index() {
    let mut table = Table::default();
    table.track_all();
    for number in 1..=1000u64 {
        table.place(Sequence(number), at(number), &envelope(number), None);
        if number % 2 == 0 {
            // The young generation is not written yet.
            let mut pass = table.begin_checkpoint(Extent::Settled);
            assert!(table.next_changed(usize::MAX, &mut pass).is_empty(), "{number}");
        }
        drop(table.settled(Sequence(number), at(number), id(number), &ended()));
    }
    let mut pass = table.begin_checkpoint(Extent::All);
    assert!(table.next_changed(usize::MAX, &mut pass).is_empty());
}

#[test]
fn the_list_of_changes_stays_bounded_while_the_index_is_late() {
    let mut table = Table::default();
    table.track_all();
    for number in 1..=200_000u64 {
        table.place(Sequence(number), at(number), &envelope(number), None);
        drop(table.settled(Sequence(number), at(number), id(number), &ended()));
    }
    let mut pass = table.begin_checkpoint(Extent::All);
    assert!(table.next_changed(usize::MAX, &mut pass).is_empty());
    assert!(table.changes_capacity() <= 16_384, "{}", table.changes_capacity());
}

#[test]
fn the_sink_hears_every_change_once_and_after_the_message_is_hot() {
    let shared = Arc::new(Shared::new(ByteSize::mib(1), Arc::new(Clock::starting_at(ACCEPTED_AT))));
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (listener, ears) = (Arc::clone(&shared), Arc::clone(&heard));
    *shared.sink.lock().unwrap() = Some(Arc::new(move |change| {
        let Change::Waiting(waiting) = change else { return };
        let hot = listener.hot.lock().unwrap().entry(waiting.id).is_some();
        ears.lock().unwrap().push((waiting.id, hot));
    }));
    let state = Arc::new(std::sync::Mutex::new(Box::new(|_| ()) as StateEar));
    let mut applier = Applier { shared: Arc::clone(&shared), state, before_write: || {} };
    let message = Message { envelopes: vec![envelope(1), envelope(2)], body: Some(bytes::Bytes::from_static(b"x")) };
    applier.accepted(Sequence(1), at(1), message);
    assert_eq!(*heard.lock().unwrap(), [(id(1), true), (id(2), true)]);
    applier.settled(Sequence(2), at(2), id(1), deferred(1));
    assert!(shared.hot.lock().unwrap().entry(id(1)).is_none(), "a deferred message is hot no more");
    assert_eq!(heard.lock().unwrap().len(), 2);
}

/// Waiting envelopes, each to a domain of its own: the worst case for names.
const MEASURED: u64 = 100_000;
/// The promise. Unit: bytes of an envelope, in all of the queue's room.
const ENVELOPE_BYTES_MAX: u64 = 260;
/// Says to the probe that it is the process that measures.
const PROBE: &str = "POSTRIDER_MEMORY_PROBE";

#[test]
fn a_waiting_envelope_costs_at_most_260_bytes_of_memory() {
    let probe = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "queue::tests::the_probe_of_memory_runs_alone", "--nocapture", "--test-threads=1"])
        .env(PROBE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&probe.stdout);
    let figure = said.lines().find_map(|line| line.split_once("bytes of an envelope: ")).map(|(_, figure)| figure);
    let bytes: u64 = figure.and_then(|figure| figure.trim().parse().ok()).unwrap_or_else(|| panic!("{said}"));
    println!("{bytes} bytes of an envelope");
    assert!((64..=ENVELOPE_BYTES_MAX).contains(&bytes), "{bytes} bytes of an envelope");
}

#[test]
fn the_probe_of_memory_runs_alone() {
    if std::env::var_os(PROBE).is_none() {
        return;
    }
    let shared = Arc::new(Shared::new(ByteSize::mib(64), Arc::new(Clock::starting_at(ACCEPTED_AT))));
    let state = Arc::new(std::sync::Mutex::new(Box::new(|_| ()) as StateEar));
    let mut applier = Applier { shared: Arc::clone(&shared), state, before_write: || {} };
    shared.table().track_all();
    let before = resident_bytes();
    for number in 1..=MEASURED {
        let envelope = envelope_to(number, &[&format!("user@customer-{number}.example.com")]);
        applier.accepted(Sequence(number), at(number), Message { envelopes: vec![envelope], body: None });
        let lease = shared.table().lease(id(number));
        assert!(lease.is_some());
        applier.settled(Sequence(number), at(number), id(number), deferred(1));
    }
    let after = resident_bytes();
    assert_eq!(shared.table().len() as u64, MEASURED);
    println!("bytes of an envelope: {}", (after - before) / MEASURED);
}

/// Of the heap: pages of the program that are touched meanwhile are no envelope's.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
