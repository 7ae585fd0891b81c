//! A source's day over all providers: what one address may send in all while it warms up.

use super::curve::Curve;
use super::record::{Restored, checksum};

/// Length of a total's record.
pub const TOTAL_BYTES: usize = 20;
const VERSION: u32 = 1;
/// Parts of a total that are made durable at once, and the least of one.
const PARTS: u32 = 64;
const PART_LEAST: u32 = 16;

/// The total of one source today. Transactional mail is counted and never stopped, as on the ladders.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Total {
    day: u32,
    /// `None`: warm everywhere.
    limit: Option<u32>,
    used: u32,
    ahead: u32,
    blind: bool,
}

impl Total {
    /// Begins a day. `budget`: the largest that a ladder of this source has today; `None`: one of them is warm, and with
    /// it the address.
    pub fn roll(&mut self, day: u32, budget: Option<u32>, curve: &Curve) {
        self.limit = budget.map(|budget| budget.saturating_mul(curve.total()));
        let back = self.day.saturating_sub(day);
        if back == 1 || (back == 0 && day == self.day && !self.blind) {
            return;
        }
        // As for a ladder: of a day on which the clock was set back far nothing is known.
        let unknown = self.blind || back > 1;
        self.used = if unknown { self.limit.unwrap_or(0) } else { 0 };
        (self.day, self.ahead, self.blind) = (day, 0, false);
    }

    /// What marketing mail may send now over all providers. 0 with [`Total::record_due`]: write the record first.
    pub fn allowance(&self) -> u32 {
        match self.limit {
            None => u32::MAX,
            Some(limit) => limit.min(self.ahead).saturating_sub(self.used),
        }
    }

    /// What is left of the day, durable or not. `None`: no limit.
    pub fn rest(&self) -> Option<u32> {
        self.limit.map(|limit| limit.saturating_sub(self.used))
    }

    /// Messages were granted.
    pub fn spend(&mut self, count: u32) {
        self.used = self.used.saturating_add(count);
    }

    /// Messages were granted and not sent.
    pub fn refund(&mut self, count: u32) {
        self.used = self.used.saturating_sub(count);
    }

    /// Whether half of what is durable is spent.
    pub fn record_due(&self) -> bool {
        self.limit.is_some() && self.ahead.saturating_sub(self.used) * 2 < self.part()
    }

    /// A record that holds until `ahead`, the second value, is spent. When it is durable: [`Total::keep`].
    ///
    /// ```text
    ///   0          4     8       12      16         20
    ///   | version  | day | limit | ahead | checksum |
    /// ```
    pub fn record(&self) -> ([u8; TOTAL_BYTES], u32) {
        let ahead = self.used.saturating_add(self.part()).max(self.ahead);
        (self.write(ahead), ahead)
    }

    /// The record of a clean stop.
    pub fn record_at_stop(&self) -> [u8; TOTAL_BYTES] {
        self.write(self.used)
    }

    /// A record of this day is durable.
    pub fn keep(&mut self, day: u32, ahead: u32) {
        if day == self.day {
            self.ahead = self.ahead.max(ahead);
        }
    }

    /// The total of a record; one that is damaged counts as used up. `roll` comes next.
    pub fn restore(record: &[u8]) -> (Total, Restored) {
        let words = |at: usize| record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        let sound = record.len() == TOTAL_BYTES && words(16) == record.get(..16).map(checksum);
        match (sound, words(0), words(4), words(8), words(12)) {
            (true, Some(VERSION), Some(day), Some(limit), Some(used)) => {
                let limit = Some(limit).filter(|limit| *limit != u32::MAX);
                (Total { day, limit, used, ahead: 0, blind: false }, Restored::Sound)
            }
            _ => (Total { limit: Some(0), blind: true, ..Total::default() }, Restored::Damaged),
        }
    }

    /// The day that is counted.
    pub fn day(&self) -> u32 {
        self.day
    }

    fn part(&self) -> u32 {
        (self.limit.unwrap_or(0) / PARTS).max(PART_LEAST)
    }

    fn write(&self, used: u32) -> [u8; TOTAL_BYTES] {
        let mut record = [0; TOTAL_BYTES];
        let words = [VERSION, self.day, self.limit.unwrap_or(u32::MAX), used];
        for (place, word) in record.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&record[..16]);
        record[16..].copy_from_slice(&sum.to_le_bytes());
        record
    }
}

#[cfg(test)]
mod tests {
    use super::super::Steps;
    use super::*;

    #[test]
    fn a_source_sends_no_more_in_all_than_its_total_over_crashes_too() {
        let curve = Curve::new(&Steps::Table(vec![100]), 3).unwrap();
        let mut total = Total::default();
        total.roll(7, Some(100), &curve);
        let mut sent = 0;
        for turn in 0..200 {
            let (_, ahead) = total.record();
            total.keep(7, ahead);
            let now = total.allowance().min(2);
            total.spend(now);
            sent += now;
            if turn % 10 == 9 {
                (total, _) = Total::restore(&total.record().0);
                total.roll(7, Some(100), &curve);
                assert_eq!(total.allowance(), 0, "nothing goes before it is durable");
            }
        }
        assert!((150..=300).contains(&sent), "{sent}");
        total.roll(8, Some(100), &curve);
        assert_eq!(total.rest(), Some(300));
        total.roll(9, None, &curve);
        assert_eq!(total.allowance(), u32::MAX);
    }

    #[test]
    fn a_damaged_total_is_used_up_today_and_whole_tomorrow() {
        let curve = Curve::new(&Steps::Table(vec![100]), 1).unwrap();
        let mut record = Total::default().record().0;
        record[5] ^= 1;
        for bytes in [&record[..], &record[..19], &[]] {
            let (mut total, how) = Total::restore(bytes);
            assert_eq!(how, Restored::Damaged);
            total.roll(7, Some(100), &curve);
            assert_eq!(total.rest(), Some(0));
            total.roll(8, Some(100), &curve);
            assert_eq!(total.rest(), Some(100));
        }
    }

    #[test]
    fn a_clean_stop_loses_nothing_and_a_clock_set_back_gives_nothing() {
        let curve = Curve::new(&Steps::Table(vec![100]), 1).unwrap();
        let mut total = Total::default();
        total.roll(20, Some(100), &curve);
        total.spend(30);
        let (mut total, _) = Total::restore(&total.record_at_stop());
        for (day, rest) in [(20, 70), (19, 70), (10, 0), (11, 100)] {
            total.roll(day, Some(100), &curve);
            assert_eq!(total.rest(), Some(rest), "day {day}");
        }
    }
}
