//! What a peer's replies taught about its rate: how much of it a source takes at a site, found and given back. Pure.
//!
//! A small state machine of its own, beside `path`, which does the same for connections. It knows no meter: the engine
//! holds the source to [`Lesson::rate`] as it does to a configured limit.
//!
//! ```text
//!   refused, nothing known ─► the best second that it took
//!   refused by a rule that names a rate ─► that rate
//!   refused again ─► what it was before it was raised, else seven tenths, or what it took on the average if that is less
//!   a probe in use and not refused ─► a twentieth more; a quarter, far below where it was refused
//! ```

use std::time::Duration;

use super::limits::Rate;
use crate::time::Timestamp;

/// Refusals within this time are one: messages that were on their way together.
const SAME_REFUSAL: Duration = Duration::from_secs(2);
/// What is left of a rate that was refused.
const LOWERED: f64 = 0.7;
/// Of what it took in its best second, or before it was raised: so much is believed to be right.
const BELIEVED: f64 = 0.95;
const RAISED: f64 = 1.05;
/// Below this share of the rate that was refused, steps are longer.
const FAR_BELOW: f64 = 0.7;
const RAISED_FAR_BELOW: f64 = 1.25;
/// The lowest rate that is learned: one in ten minutes. Who wants less suspends.
const LOWEST: f64 = 1.0 / 600.0;
/// Above this a learned rate limits nothing any more.
const HIGHEST: f64 = 10_000.0;
/// A learned window holds so many, or is a second long.
const WINDOW_COUNT: f64 = 20.0;
const WINDOW_MAX: Duration = Duration::from_secs(3600);
/// After so long without a success the average begins anew.
const EPISODE_ENDS: Duration = Duration::from_secs(600);
/// Successes are counted by eighths of a second: a burst over the turn of a second is no slower than one within it.
const EIGHTH_MS: u64 = 125;
const EIGHTHS: usize = 8;
/// How far back the best second may lie. Unit: eighths of a second.
const BEST_WITHIN: u64 = 10 * EIGHTHS as u64;

/// What one source learned at one site.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Lesson {
    /// Messages a second; 0: nothing is known that limits.
    per_second: f64,
    /// As a rule named it, until it is raised.
    named: Option<Rate>,
    /// What was refused last. 0: nothing.
    refused: f64,
    /// The rate before it was raised, while that was not refused.
    before: f64,
    refused_at: Timestamp,
    /// Messages taken in each of the last eight eighths of a second, the last of which is this one.
    taken: [u16; EIGHTHS],
    eighth: u64,
    /// The most in any second of the last ten, and the eighth that it ended with.
    best: u32,
    best_at: u64,
    /// Messages taken since then, without a pause of [`EPISODE_ENDS`].
    since: Timestamp,
    taken_since: u32,
    last: Timestamp,
}

/// The bytes of a lesson that is written down.
pub(super) const WRITTEN: usize = 24;

impl Lesson {
    /// What the source is held to, if to anything.
    pub fn rate(&self) -> Option<Rate> {
        if self.per_second <= 0.0 {
            return None;
        }
        if self.named.is_some() {
            return self.named;
        }
        let seconds = (WINDOW_COUNT / self.per_second).ceil().clamp(1.0, WINDOW_MAX.as_secs_f64());
        let count = (self.per_second * seconds).floor().max(1.0);
        // One that is rarer than the longest window: one in as long as it takes.
        let seconds = if self.per_second * seconds < 1.0 { (1.0 / self.per_second).ceil() } else { seconds };
        Some(Rate { count: count as u32, per: Duration::from_secs(seconds as u64) })
    }

    /// The site took a message.
    pub fn took(&mut self, now: Timestamp) {
        let eighth = now.as_millis() / EIGHTH_MS;
        // A clock that was set back begins anew.
        let passed = eighth.checked_sub(self.eighth).unwrap_or(u64::MAX).min(EIGHTHS as u64);
        (0..passed).for_each(|step| self.taken[place_of(eighth - step)] = 0);
        self.eighth = eighth;
        let place = place_of(eighth);
        self.taken[place] = self.taken[place].saturating_add(1);
        let second = self.second();
        if second >= self.best || !(self.best_at..=self.best_at + BEST_WITHIN).contains(&eighth) {
            (self.best, self.best_at) = (second, eighth);
        }
        if now.since(self.last) >= EPISODE_ENDS {
            (self.since, self.taken_since) = (now, 0);
        }
        self.last = now;
        self.taken_since = self.taken_since.saturating_add(1);
    }

    /// What it took on the average since it was sent anything: the truth about a window longer than all that was seen.
    fn average(&self, now: Timestamp) -> f64 {
        match self.taken_since {
            0 => f64::INFINITY,
            taken => f64::from(taken) / now.since(self.since).as_secs_f64().max(1.0),
        }
    }

    /// The most that it took in a second of late.
    fn best(&self, now: Timestamp) -> u32 {
        let recent = |eighth: u64| eighth + BEST_WITHIN >= now.as_millis() / EIGHTH_MS;
        match (recent(self.best_at), recent(self.eighth)) {
            (true, _) => self.best,
            (false, true) => self.second(),
            (false, false) => 0,
        }
    }

    /// Messages taken in the second that ends with the last eighth.
    fn second(&self) -> u32 {
        self.taken.iter().map(|taken| u32::from(*taken)).sum()
    }

    /// The site refused for the rate. `named`: a rule says what it takes. False: it is the same refusal as before.
    pub fn refused(&mut self, now: Timestamp, named: Option<Rate>) -> bool {
        if self.refused_at != Timestamp::ZERO && now.since(self.refused_at) < SAME_REFUSAL {
            return false;
        }
        self.refused_at = now;
        let current = self.per_second;
        if current > 0.0 {
            self.refused = current;
        }
        let told = named.map(|rate| f64::from(rate.count.max(1)) / rate.per.as_secs_f64().max(1.0));
        let raised = self.before > 0.0 && self.before < current;
        let next = match told {
            Some(told) if current <= 0.0 || told < current * LOWERED => told,
            _ if current <= 0.0 => {
                let best = f64::from(self.best(now));
                self.refused = best;
                // It took nothing: one in ten seconds is a beginning.
                if best > 0.0 { best * BELIEVED } else { 0.1 }
            }
            _ if raised => self.before * BELIEVED,
            _ => (current * LOWERED).min(self.average(now) * BELIEVED),
        };
        self.named = named.filter(|_| told == Some(next));
        self.before = 0.0;
        self.per_second = next.clamp(LOWEST, HIGHEST);
        true
    }

    /// The rate is in use and was not refused for long enough: a little more is tried.
    pub fn raise(&mut self) {
        if self.per_second <= 0.0 {
            return;
        }
        self.before = self.per_second;
        let step = if self.per_second < self.refused * FAR_BELOW { RAISED_FAR_BELOW } else { RAISED };
        self.per_second *= step;
        self.named = None;
        if self.per_second >= HIGHEST {
            *self = Lesson { taken: self.taken, eighth: self.eighth, ..Lesson::default() };
        }
    }

    /// As it is written down.
    pub fn written(&self) -> [u8; WRITTEN] {
        let mut out = [0; WRITTEN];
        out[..8].copy_from_slice(&self.per_second.to_bits().to_le_bytes());
        out[8..16].copy_from_slice(&self.refused.to_bits().to_le_bytes());
        out[16..].copy_from_slice(&self.refused_at.as_millis().to_le_bytes());
        out
    }

    /// Takes over what an earlier run wrote down. `None`: these are no numbers of ours.
    pub fn read(bytes: &[u8; WRITTEN]) -> Option<Lesson> {
        let number = |range: std::ops::Range<usize>| {
            let bytes: [u8; 8] = bytes.get(range)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let (per_second, refused) = (f64::from_bits(number(0..8)?), f64::from_bits(number(8..16)?));
        let sane = |rate: f64| rate == 0.0 || (LOWEST..=HIGHEST).contains(&rate);
        let refused_at = Timestamp::from_millis(number(16..24)?);
        // What was refused may lie above what is ever learned.
        let kept = sane(per_second) && refused.is_finite() && refused >= 0.0;
        kept.then_some(Lesson { per_second, refused, refused_at, ..Lesson::default() })
    }

    /// What is believed where a record cannot be read: one in ten minutes, until probes say otherwise.
    pub fn strictest(now: Timestamp) -> Lesson {
        Lesson { per_second: LOWEST, refused: LOWEST, refused_at: now, ..Lesson::default() }
    }
}

fn place_of(eighth: u64) -> usize {
    (eighth % EIGHTHS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + ms)
    }

    #[test]
    fn the_first_refusal_teaches_the_best_second_and_a_rule_its_own_rate() {
        let mut lesson = Lesson::default();
        assert_eq!(lesson.rate(), None);
        for n in 0..200 {
            lesson.took(at(n * 5));
        }
        assert!(lesson.refused(at(1500), None));
        assert_eq!(lesson.rate(), Some(Rate { count: 190, per: Duration::from_secs(1) }));
        let named = Rate { count: 10, per: Duration::from_secs(60) };
        assert!(lesson.refused(at(10_000), Some(named)));
        assert_eq!(lesson.rate(), Some(named));
        // A rule that names more than what was refused just now is not believed.
        let more = Rate { count: 100, per: Duration::from_secs(1) };
        assert!(lesson.refused(at(20_000), Some(more)));
        assert_eq!(lesson.rate(), Some(Rate { count: 20, per: Duration::from_secs(172) }));
    }

    #[test]
    fn a_window_longer_than_all_that_was_seen_is_found_by_the_average() {
        let mut lesson = Lesson::default();
        (0..60).for_each(|n| lesson.took(at(n * 20)));
        lesson.refused(at(1200), None);
        assert_eq!(lesson.rate().map(|rate| rate.count), Some(47));
        lesson.refused(at(30_000), None);
        assert_eq!(
            lesson.rate(),
            Some(Rate { count: 20, per: Duration::from_secs(11) }),
            "60 in 30 s, and a little less"
        );
    }

    #[test]
    fn a_burst_over_the_turn_of_a_second_is_one_burst_and_ten_seconds_later_it_is_forgotten() {
        for start in [0, 300, 600, 990] {
            let burst = |after| {
                let mut lesson = Lesson::default();
                (0..200).for_each(|n| lesson.took(at(start + n * 2)));
                lesson.took(at(start + 9000));
                lesson.refused(at(start + after), None);
                lesson.rate().map(|rate| rate.count)
            };
            assert_eq!(burst(9500), Some(190), "{start}");
            // The one of nine seconds after, alone: 0.95 a second.
            assert_eq!(burst(11_000), Some(20), "{start}");
            assert_eq!(burst(20_000), Some(20), "{start}");
        }
        let mut lesson = Lesson::default();
        (0..100).for_each(|n| lesson.took(at(60_000 + n * 5)));
        (0..50).for_each(|n| lesson.took(at(n * 5)));
        assert_eq!(lesson.best(at(300)), 50, "a clock that was set back");
        (0..30).for_each(|n| lesson.took(at(400 + n * 100)));
        assert!(lesson.best(at(3400)) >= 50);
        (30..200).for_each(|n| lesson.took(at(400 + n * 100)));
        assert_eq!(lesson.best(at(20_400)), 10);
    }

    #[test]
    fn messages_refused_together_count_once() {
        let mut lesson = Lesson::default();
        (0..100).for_each(|n| lesson.took(at(n * 10)));
        assert!(lesson.refused(at(1000), None));
        let rate = lesson.rate();
        assert!(!lesson.refused(at(1100), None));
        assert!(!lesson.refused(at(2900), None));
        assert_eq!(lesson.rate(), rate);
    }

    #[test]
    fn a_raise_that_is_refused_is_taken_back_and_no_more() {
        let mut lesson = Lesson::default();
        (0..200).for_each(|n| lesson.took(at(n * 5)));
        lesson.refused(at(1500), None);
        lesson.raise();
        assert_eq!(lesson.rate(), Some(Rate { count: 199, per: Duration::from_secs(1) }));
        lesson.refused(at(100_000), None);
        assert_eq!(lesson.rate(), Some(Rate { count: 180, per: Duration::from_secs(1) }));
        (0..36_000).for_each(|n| lesson.took(at(n * 5)));
        lesson.refused(at(200_000), None);
        assert_eq!(lesson.rate(), Some(Rate { count: 126, per: Duration::from_secs(1) }));
        // Far below what was refused, steps are longer.
        lesson.refused(at(300_000), None);
        lesson.refused(at(400_000), None);
        let before = lesson.per_second;
        lesson.raise();
        assert!(lesson.per_second <= before * RAISED + 1e-9);
        for _ in 0..400 {
            lesson.raise();
        }
        assert_eq!(lesson.rate(), None, "raised until it limits nothing");
    }

    #[test]
    fn what_took_nothing_begins_with_one_in_ten_seconds_and_falls_to_one_in_ten_minutes() {
        let mut lesson = Lesson::default();
        lesson.refused(at(0), None);
        assert_eq!(lesson.rate(), Some(Rate { count: 20, per: Duration::from_secs(200) }));
        for n in 1..100 {
            lesson.refused(at(n * 10_000), None);
        }
        assert_eq!(lesson.rate(), Some(Rate { count: 6, per: Duration::from_secs(3600) }));
    }

    #[test]
    fn what_is_written_down_is_read_again_and_nonsense_is_not() {
        let mut lesson = Lesson::default();
        lesson.refused(at(5), None);
        let read = Lesson::read(&lesson.written()).unwrap();
        assert_eq!((read.rate(), read.refused_at), (lesson.rate(), lesson.refused_at));
        assert_eq!(Lesson::read(&[0xff; WRITTEN]), None);
        assert_eq!(Lesson::read(&[0; WRITTEN]), Some(Lesson::default()));
    }
}
