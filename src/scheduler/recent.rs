//! What became of the last attempts of one source at one site: the share that was deferred. Kept by the clerk, in
//! memory alone; its size does not grow.

use crate::time::Timestamp;

/// Minutes that are looked back on.
pub(super) const MINUTES: usize = 15;

/// Attempts, and how many of them were deferred, by minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Recent {
    minutes: [Minute; MINUTES],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Minute {
    /// Since the epoch: one that is too old counts as empty.
    number: u64,
    attempts: u32,
    deferred: u32,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// With a final state.
    Final,
    /// To be tried again.
    Deferred,
}

fn number(now: Timestamp) -> u64 {
    now.as_millis() / 60_000
}

impl Recent {
    /// One more.
    pub fn count(&mut self, now: Timestamp, ended: Ended) {
        let number = number(now);
        let minute = &mut self.minutes[number as usize % MINUTES];
        if minute.number != number {
            *minute = Minute { number, attempts: 0, deferred: 0 };
        }
        minute.attempts = minute.attempts.saturating_add(1);
        minute.deferred = minute.deferred.saturating_add(u32::from(ended == Ended::Deferred));
    }

    /// Attempts of the last minutes, and how many of them were deferred.
    pub fn sums(&self, now: Timestamp) -> (u32, u32) {
        let now = number(now);
        let fresh = |minute: &&Minute| minute.number <= now && now - minute.number < MINUTES as u64;
        let fresh = self.minutes.iter().filter(fresh);
        fresh.fold((0, 0), |(attempts, deferred), minute| {
            (u32::saturating_add(attempts, minute.attempts), u32::saturating_add(deferred, minute.deferred))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_older_than_a_quarter_of_an_hour_counts_no_more() {
        let start = Timestamp::from_secs(1_800_000_000);
        let at = |minutes: u64| start.after(Duration::from_secs(60 * minutes));
        let mut recent = Recent::default();
        assert_eq!(recent.sums(start), (0, 0));
        for minute in 0..10 {
            recent.count(at(minute), Ended::Deferred);
            recent.count(at(minute), Ended::Final);
        }
        let rows = [(9, (20, 10)), (14, (20, 10)), (15, (18, 9)), (23, (2, 1)), (24, (0, 0)), (10_000, (0, 0))];
        for (minute, want) in rows {
            assert_eq!(recent.sums(at(minute)), want, "after {minute} min");
        }
        // A minute takes the place of the one that was counted there a quarter of an hour ago.
        recent.count(at(15), Ended::Final);
        assert_eq!(recent.sums(at(15)), (19, 9));
    }
}
