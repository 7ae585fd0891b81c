//! Bit rot: one byte changed anywhere in a spool costs at most one message, and never in silence.
//!
//! `POSTRIDER_FLIPS` says how many (300).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::mail::QueueId;
use postrider::size::ByteSize;
use postrider::spool::{
    OpenOptions, PutRequest, ReadError, Settings, SettleRequest, StateRequest, StateValue, Work, Writer,
};

use super::disk::{End, SimDisk};
use super::model::{Queue, Rows, message, settled};

fn settings() -> Settings {
    Settings { segment_size: ByteSize::kib(64), inline_body_max: ByteSize(6000), ..Settings::default() }
}

/// A spool with some of everything, closed or killed.
fn spool(clean: bool) -> (SimDisk, Rows, BTreeMap<QueueId, Bytes>) {
    let disk = SimDisk::new(5);
    let queue = Queue::default();
    let (mut writer, _) =
        Writer::open(settings(), Arc::new(disk.clone()), &OpenOptions::default(), Box::new(queue.clone())).unwrap();
    let mut bodies = BTreeMap::new();
    for round in 0..60_u64 {
        let mut work = Work::default();
        let prepared = message((1 << 21) + 4 * round, 1 + round % 3, if round % 20 == 7 { 9000 } else { 3000 });
        for envelope in &prepared.envelopes {
            bodies.insert(envelope.id, prepared.body.clone());
        }
        work.puts.push_back(PutRequest::new(&disk, &settings(), prepared).unwrap().0);
        for (id, (_, row)) in queue.rows().live {
            if (id.as_u64() + round) % 7 == 0 {
                work.settles.push_back(SettleRequest::new(id, settled(&row, round, round % 3 == 0), None).0);
            }
        }
        let key = Bytes::copy_from_slice(&[(round % 10) as u8]);
        work.states.push(StateRequest::new(1, key, Some(Bytes::from(vec![round as u8; 500]))).0);
        writer.step(work, Duration::from_millis(round * 20)).unwrap();
    }
    if clean {
        writer.close(Work::default(), Duration::from_secs(9)).unwrap();
    }
    (disk, queue.rows(), bodies)
}

/// Envelopes that the flip cost: gone, repeated, back in an earlier state, or with a damaged body.
fn cost(before: &Rows, bodies: &BTreeMap<QueueId, Bytes>, disk: &SimDisk, what: &str) -> (u64, u64) {
    let queue = Queue::default();
    let (writer, report) =
        Writer::open(settings(), Arc::new(disk.clone()), &OpenOptions::default(), Box::new(queue.clone()))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    let rows = queue.rows();
    let reader = writer.reader();
    let mut records = std::collections::BTreeSet::new();
    let mut silent = 0;
    for (id, (place, progress)) in &before.live {
        match rows.live.get(id) {
            None => {
                silent += u64::from(report.quarantined == 0);
                records.insert(place.home);
            }
            Some((_, now)) if now != progress => drop(records.insert(place.state)),
            Some((now, _)) => match reader.read_body(now.home) {
                Ok(body) => assert_eq!(body, bodies[id], "{what}: a damaged body was handed out"),
                Err(ReadError::Damaged) => drop(records.insert(place.home)),
                Err(error) => panic!("{what}: {error}"),
            },
        }
    }
    let repeated = rows.live.keys().filter(|id| !before.live.contains_key(id)).count() as u64;
    for (key, value) in &before.state {
        let now = rows.state.get(key);
        let strict = now == Some(value) || now == Some(&StateValue::Damaged) || report.state_lost > 0;
        assert!(strict, "{what}: state {key:?} reads as something that it never was meant to be: {now:?}");
    }
    (records.len() as u64 + repeated, silent)
}

#[test]
fn one_flipped_byte_costs_one_message_at_most_and_never_in_silence() {
    let flips = std::env::var("POSTRIDER_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(300_u32);
    let mut random = fastrand::Rng::with_seed(77);
    for clean in [true, false] {
        let (disk, before, bodies) = spool(clean);
        let files: Vec<(String, u64)> =
            disk.files().into_iter().filter(|(name, len)| *len > 0 && !name.starts_with("spare")).collect();
        for _ in 0..flips / 2 {
            let (name, len) = &files[random.usize(0..files.len())];
            let at = random.usize(0..*len as usize);
            let with = random.u8(1..);
            let mut flipped = disk.copy();
            flipped.flip(name, at, with);
            flipped.end(End::Kill);
            let what = format!("{name} at {at} by {with:#x}, {}", if clean { "closed" } else { "killed" });
            let (records, silent) = cost(&before, &bodies, &flipped, &what);
            assert!(records <= 1, "{what}: {records} messages");
            assert_eq!(silent, 0, "{what}: lost in silence");
        }
    }
}
