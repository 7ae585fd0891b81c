//! A ladder on the disk.
//!
//! ```text
//!   0     1        2        4       6         8      12       16        20      24          28
//!   | ver | flags  | stage  | blocks | last, 0 | day  | budget | charged | ahead | attempted | delivered
//!   32         36     40         44             48     52     56         60
//!   | deferred | over | last day | frozen until | slot | hour | checksum |
//! ```
//! Little-endian. `charged` contains `ahead`, which was not spent yet; `hour` is what thirteen slots up to `slot` held.

use super::ladder::{Judgement, Ladder};
use super::pace::{self, Pace};
use crate::time::Timestamp;

/// Length of a ladder's record.
pub const RECORD_BYTES: usize = 60;
const VERSION: u8 = 1;
const HELD: u8 = 1;
const WARM: u8 = 2;
const BLIND: u8 = 4;

/// How a record was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// As it was written.
    Sound,
    /// It says nothing that can be believed: at the foot, and today counts as used.
    Damaged,
}

impl Ladder {
    pub(super) fn write(&self, ahead: u32) -> [u8; RECORD_BYTES] {
        let flag = |is: bool, bit: u8| if is { bit } else { 0 };
        let mut record = [0; RECORD_BYTES];
        record[0] = VERSION;
        record[1] = flag(self.held, HELD) | flag(self.budget.is_none(), WARM) | flag(self.blind, BLIND);
        record[2..4].copy_from_slice(&self.stage.to_le_bytes());
        record[4..6].copy_from_slice(&self.blocks.to_le_bytes());
        record[6] = self.last as u8;
        let words = [
            self.day,
            self.budget.unwrap_or(0),
            self.charged.saturating_add(ahead),
            ahead,
            self.attempted(),
            self.delivered,
            self.deferred,
            self.over,
            self.last_day,
            self.frozen_until,
            self.pace.latest(),
            self.pace.hour(self.pace.latest()),
        ];
        for (place, word) in record[8..56].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&record[..56]);
        record[56..].copy_from_slice(&sum.to_le_bytes());
        record
    }

    /// The ladder of a record. What was made durable ahead counts as spent, now. `roll` comes next.
    pub fn restore(record: &[u8], now: Timestamp) -> (Ladder, Restored) {
        match read(record, now) {
            Some(ladder) => (ladder, Restored::Sound),
            None => {
                let ladder = Ladder { blind: true, last: Judgement::Unknown, ..Ladder::new() };
                (ladder, Restored::Damaged)
            }
        }
    }
}

fn read(record: &[u8], now: Timestamp) -> Option<Ladder> {
    let record: &[u8; RECORD_BYTES] = record.try_into().ok()?;
    let (fields, sum) = record.split_at(56);
    if checksum(fields).to_le_bytes() != *sum || fields[0] != VERSION {
        return None;
    }
    let mut words = [0; 12];
    for (word, bytes) in words.iter_mut().zip(fields[8..].chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().ok()?);
    }
    let [day, budget, charged, ahead, attempted, delivered, deferred, over, last_day, frozen_until, slot, hour] = words;
    let mut pace = Pace::known(slot, hour);
    // Nobody knows in which slots the part ahead went: the latest possible one frees it last.
    if ahead > 0 {
        pace.add(pace::slot_of(now), ahead);
    }
    Some(Ladder {
        stage: u16::from_le_bytes([fields[2], fields[3]]),
        blocks: u16::from_le_bytes([fields[4], fields[5]]),
        last: Judgement::from_byte(fields[6])?,
        held: fields[1] & HELD != 0,
        blind: fields[1] & BLIND != 0,
        budget: (fields[1] & WARM == 0).then_some(budget),
        day,
        charged,
        waste: charged.saturating_sub(attempted),
        delivered,
        deferred,
        over,
        last_day,
        frozen_until,
        pace,
        ..Ladder::new()
    })
}

/// FNV-1a: finds a damaged record; who can forge one can write the whole state.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
