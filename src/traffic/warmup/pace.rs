//! The hour's bound: what was granted in the last hour, in slots of five minutes.
//!
//! Any hour, wherever it begins, touches at most thirteen slots. So thirteen in a row never hold more than an eighth of
//! the day's budget, and then no hour does.

use std::time::Duration;

use crate::time::Timestamp;

/// Length of a slot.
pub(super) const SLOT: Duration = Duration::from_secs(300);
const SLOTS: usize = 13;

/// The slot of a moment.
pub(super) fn slot_of(at: Timestamp) -> u32 {
    u32::try_from(at.as_millis() / 300_000).unwrap_or(u32::MAX)
}

/// When a slot begins.
pub(super) fn start_of(slot: u32) -> Timestamp {
    Timestamp::from_millis(u64::from(slot) * 300_000)
}

/// What was granted, by slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pace {
    counts: [u32; SLOTS],
    /// The slot of `counts[latest % SLOTS]`; the others are those before.
    latest: u32,
}

impl Pace {
    /// What is known after a restart: so many, no later than in this slot.
    pub(super) fn known(slot: u32, count: u32) -> Pace {
        let mut pace = Pace { latest: slot, ..Pace::default() };
        pace.counts[slot as usize % SLOTS] = count;
        pace
    }

    /// A slot before the latest is the latest: a wall clock that was set back gives nothing again.
    pub(super) fn add(&mut self, slot: u32, count: u32) {
        for step in 1..=slot.saturating_sub(self.latest).min(SLOTS as u32) {
            self.counts[self.latest.wrapping_add(step) as usize % SLOTS] = 0;
        }
        // Past a pause of an hour and more every place was emptied, whichever they were called.
        self.latest = self.latest.max(slot);
        let place = &mut self.counts[self.latest as usize % SLOTS];
        *place = place.saturating_add(count);
    }

    /// Gives back what went in at the latest slot and was not sent.
    pub(super) fn remove(&mut self, slot: u32, count: u32) {
        if slot == self.latest {
            let place = &mut self.counts[slot as usize % SLOTS];
            *place = place.saturating_sub(count);
        }
    }

    /// In one slot.
    pub(super) fn of(&self, slot: u32) -> u32 {
        match self.latest.checked_sub(slot) {
            Some(back) if (back as usize) < SLOTS => self.counts[slot as usize % SLOTS],
            Some(_) | None => 0,
        }
    }

    /// In thirteen slots, of which this is the last.
    pub(super) fn hour(&self, slot: u32) -> u32 {
        (0..SLOTS as u32)
            .filter_map(|back| slot.checked_sub(back))
            .fold(0, |sum, slot| sum.saturating_add(self.of(slot)))
    }

    /// The first slot from `slot` on in which an hour holds less than `most`.
    pub(super) fn room_at(&self, slot: u32, most: u32) -> u32 {
        let end = slot.saturating_add(SLOTS as u32);
        (slot..end).find(|later| self.hour(*later) < most).unwrap_or(end)
    }

    /// The latest slot known.
    pub(super) fn latest(&self) -> u32 {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_forgets_slot_by_slot() {
        let mut pace = Pace::default();
        pace.add(100, 5);
        pace.add(104, 2);
        let rows = [(100, 5, 5), (104, 2, 7), (112, 0, 7), (113, 0, 2), (117, 0, 0)];
        for (slot, of, hour) in rows {
            assert_eq!((pace.of(slot), pace.hour(slot)), (of, hour), "slot {slot}");
        }
        assert_eq!((pace.room_at(104, 7), pace.room_at(104, 2), pace.room_at(104, 8)), (113, 117, 104));
        pace.add(90, 1);
        assert_eq!(pace.of(104), 3, "a clock set back counts at the latest slot");
        pace.add(1000, 1);
        assert_eq!(pace.hour(1000), 1);
        pace.remove(1000, 2);
        assert_eq!(pace.hour(1000), 0);
        assert_eq!(Pace::known(7, 9).hour(19), 9);
    }
}
