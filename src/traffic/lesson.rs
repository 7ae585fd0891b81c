//! What a peer's replies taught about its rate: how much of it a source takes at a site, found and given back. Pure.
//!
//! A small state machine of its own, beside `path`, which does the same for connections. It knows no meter: the engine
//! holds the source to [`Lesson::rate`] as it does to a configured limit.
//!
//! ```text
//!   refused, nothing known ─► the best second that it took
//!   refused by a rule that names a rate ─► that rate
//!   refused again ─► what it was before it was raised, else seven tenths, or what it took in the window if that is less
//!   a probe in use and not refused ─► a twentieth more; a quarter, far below where it was refused
//! ```
//! # Which window
//! A peer that counts by the hour takes the whole hour's mail in a second, and then nothing. So at each refusal the
//! windows of a second, ten, a minute, ten and an hour are looked at: one in which it took far more before than now is not
//! the one that is full. The shortest of the others is believed, and held to as such, until a refusal says otherwise.

use std::time::Duration;

use super::limits::Rate;
use super::path::shifted;
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
/// The same where the peer's window is known: one in the longest.
const LOWEST_KNOWN: f64 = 1.0 / 3600.0;
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

/// The windows that a peer may count by, beside a second. Their number stands in records.
const SPANS: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3600)];
/// Windows up to this number are so short that what is on its way matters.
const SHORT: u8 = 1;
/// What was taken is counted by these parts of a window.
const PARTS: usize = 16;
/// A window that held less than this share of what it held before is not the full one.
const FULL: f64 = 0.8;
/// A second, and what replies may be late by.
const LATELY: Duration = Duration::from_millis(1250);

/// What one source learned at one site.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Lesson {
    /// Messages a second; 0: nothing is known that limits.
    per_second: f64,
    /// As a rule named it, until it is raised.
    named: Option<Rate>,
    /// The window that is believed in: 0 is a second, else one more than its place in [`SPANS`].
    span: u8,
    /// What was taken in each of them, from the first refusal on.
    traces: Option<Box<[Trace; SPANS.len()]>>,
    /// What was refused last. 0: nothing.
    refused: f64,
    /// The rate before it was raised, while that was not refused.
    before: f64,
    refused_at: Timestamp,
    raised_at: Timestamp,
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

/// Messages taken within a window that ends now.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Trace {
    /// In each of the last parts, by the part's number.
    parts: [u32; PARTS],
    part: u64,
    /// The most that were ever in it.
    most: u32,
}

impl Trace {
    fn pass(&mut self, now: Timestamp, span: Duration) {
        let part = now.as_millis() / (span.as_millis() as u64 / PARTS as u64);
        let passed = part.saturating_sub(self.part).min(PARTS as u64);
        (0..passed).for_each(|step| self.parts[((part - step) % PARTS as u64) as usize] = 0);
        self.part = self.part.max(part);
    }

    fn add(&mut self, now: Timestamp, span: Duration, count: u32) {
        self.pass(now, span);
        let place = &mut self.parts[(self.part % PARTS as u64) as usize];
        *place = place.saturating_add(count);
        self.most = self.most.max(self.sum());
    }

    fn sum(&self) -> u32 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// Taken within the window that ends now.
    fn count(&mut self, now: Timestamp, span: Duration) -> u32 {
        self.pass(now, span);
        self.sum()
    }
}

/// The bytes of a lesson that is written down.
pub(super) const WRITTEN: usize = 25;
/// The same as the first version had it: no window.
pub(super) const WRITTEN_FIRST: usize = 24;

impl Lesson {
    /// What the source is held to, if to anything.
    pub fn rate(&self) -> Option<Rate> {
        if self.per_second <= 0.0 {
            return None;
        }
        if self.named.is_some() {
            return self.named;
        }
        if let Some(span) = self.span() {
            let count = (self.per_second * span.as_secs_f64()).round();
            // One that is rarer than the window: one in as long as it takes.
            let per = if count < 1.0 { Duration::from_secs((1.0 / self.per_second).ceil() as u64) } else { span };
            return Some(Rate { count: count.max(1.0) as u32, per });
        }
        let seconds = (WINDOW_COUNT / self.per_second).ceil().clamp(1.0, WINDOW_MAX.as_secs_f64());
        let count = (self.per_second * seconds).floor().max(1.0);
        // One that is rarer than the longest window: one in as long as it takes.
        let seconds = if self.per_second * seconds < 1.0 { (1.0 / self.per_second).ceil() } else { seconds };
        Some(Rate { count: count as u32, per: Duration::from_secs(seconds as u64) })
    }

    /// The window that is believed in, if it is longer than a second.
    fn span(&self) -> Option<Duration> {
        SPANS.get(usize::from(self.span).checked_sub(1)?).copied()
    }

    /// Whether what a window holds when it is refused is all that it may hold: then it is full as it is.
    pub fn knows_window(&self) -> bool {
        self.span > 0 && self.named.is_none()
    }

    /// Whether the last change was in force for the whole window.
    pub fn may_raise(&self, now: Timestamp) -> bool {
        let changed = self.refused_at.max(self.raised_at);
        self.per_second > 0.0 && self.span().is_none_or(|span| now.since(changed) >= span)
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
        if let Some(traces) = &mut self.traces {
            traces.iter_mut().zip(SPANS).for_each(|(trace, span)| trace.add(now, span, 1));
        }
    }

    /// What was taken of late in each window, begun by what is known of the time before the first refusal.
    fn traced(&mut self, now: Timestamp) -> &mut [Trace; SPANS.len()] {
        let (since, taken) = (self.since, self.taken_since);
        self.traces.get_or_insert_with(|| {
            let (mut traces, passed) = (Box::new([Trace::default(); SPANS.len()]), now.since(since));
            for (trace, span) in traces.iter_mut().zip(SPANS).filter(|_| taken > 0) {
                let part = span / PARTS as u32;
                // As if it had come evenly; what is older than the window is not in it.
                let parts = (passed.as_secs_f64() / part.as_secs_f64()).ceil().max(1.0);
                let within = parts.min(PARTS as f64) as u32;
                for back in (0..within).rev() {
                    let share = (f64::from(taken) / parts).round() as u32;
                    trace.add(now.before(part * back), span, if within == 1 { taken } else { share });
                }
            }
            traces
        })
    }

    /// The shortest window that may be the one that is full, as its number, and what it took in it a second (of a
    /// second itself: infinity). `None`: in each of them it took far more before.
    fn full_window(&mut self, now: Timestamp) -> Option<(u8, f64)> {
        let (best, second) = (f64::from(self.best(now)), f64::from(self.last_second(now)));
        // What the peer counted within a second, replies may have spread over a little more; of few, one is much.
        let lately = self.taken_since > 0 && now.since(self.last) <= LATELY;
        if lately && second + 1.0 >= best * FULL {
            return Some((0, f64::INFINITY));
        }
        let traces = self.traced(now);
        (1..).zip(traces.iter_mut().zip(SPANS)).find_map(|(number, (trace, span))| {
            let count = f64::from(trace.count(now, span));
            let full = count > 0.0 && count >= f64::from(trace.most) * FULL;
            full.then_some((number, count / span.as_secs_f64()))
        })
    }

    /// What it took once says nothing any more: it takes less than that in every window.
    fn begin_anew(&mut self, now: Timestamp) {
        self.traced(now).iter_mut().zip(SPANS).for_each(|(trace, span)| trace.most = trace.count(now, span));
    }

    /// Messages taken in the second before now.
    fn last_second(&self, now: Timestamp) -> u32 {
        let eighth = now.as_millis() / EIGHTH_MS;
        let passed = eighth.saturating_sub(self.eighth).min(EIGHTHS as u64);
        (passed..EIGHTHS as u64).map(|back| u32::from(self.taken[place_of(eighth.saturating_sub(back))])).sum()
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
        self.traced(now);
        let full = self.full_window(now);
        if full.is_none() && self.taken_since > 0 {
            self.begin_anew(now);
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
            // In a long window a moment sooner or later is nothing.
            _ if raised && self.span > SHORT => self.before,
            _ if raised => self.before * BELIEVED,
            _ => match full {
                Some((span, took)) => {
                    self.span = self.span.max(span);
                    (current * LOWERED).min(took)
                }
                None => current * LOWERED,
            },
        };
        self.named = named.filter(|_| told == Some(next));
        if let Some(named) = self.named {
            self.span = SPANS.partition_point(|span| *span <= named.per) as u8;
        }
        self.before = 0.0;
        self.per_second = next.clamp(if self.span > SHORT { LOWEST_KNOWN } else { LOWEST }, HIGHEST);
        true
    }

    /// The rate is in use and was not refused for long enough: a little more is tried.
    pub fn raise(&mut self, now: Timestamp) {
        if self.per_second <= 0.0 {
            return;
        }
        let held_to = self.rate();
        self.raised_at = now;
        self.before = self.per_second;
        let step = if self.per_second < self.refused * FAR_BELOW { RAISED_FAR_BELOW } else { RAISED };
        self.per_second *= step;
        self.named = None;
        if let (Some(span), Some(held_to)) = (self.span(), held_to) {
            // By one message at least.
            self.per_second = self.per_second.max(f64::from(held_to.count + 1) / span.as_secs_f64());
        }
        if self.per_second >= HIGHEST {
            *self = Lesson { taken: self.taken, eighth: self.eighth, ..Lesson::default() };
        }
    }

    /// As it is written down. `shift_ms` is added to its time.
    pub fn written(&self, shift_ms: i64) -> [u8; WRITTEN] {
        let mut out = [0; WRITTEN];
        out[..8].copy_from_slice(&self.per_second.to_bits().to_le_bytes());
        out[8..16].copy_from_slice(&self.refused.to_bits().to_le_bytes());
        out[16..24].copy_from_slice(&shifted(self.refused_at.as_millis(), shift_ms).to_le_bytes());
        out[24] = self.span;
        out
    }

    /// Takes over what an earlier run wrote down. `None`: these are no numbers of ours.
    pub fn read(bytes: &[u8], shift_ms: i64) -> Option<Lesson> {
        let number = |range: std::ops::Range<usize>| {
            let bytes: [u8; 8] = bytes.get(range)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let (per_second, refused) = (f64::from_bits(number(0..8)?), f64::from_bits(number(8..16)?));
        let sane = |rate: f64| rate == 0.0 || (LOWEST_KNOWN..=HIGHEST).contains(&rate);
        let refused_at = Timestamp::from_millis(shifted(number(16..24)?, shift_ms));
        let span = bytes.get(24).copied().unwrap_or(0);
        // What was refused may lie above what is ever learned.
        let kept = sane(per_second) && refused.is_finite() && refused >= 0.0 && usize::from(span) <= SPANS.len();
        kept.then_some(Lesson { per_second, span, refused, refused_at, ..Lesson::default() })
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
        assert_eq!(lesson.rate(), Some(Rate { count: 7, per: Duration::from_secs(60) }));
    }

    #[test]
    fn a_window_longer_than_a_second_is_found_by_what_is_not_taken_after_it() {
        let mut lesson = Lesson::default();
        (0..60).for_each(|n| lesson.took(at(n * 20)));
        lesson.refused(at(1200), None);
        assert_eq!(lesson.rate().map(|rate| rate.count), Some(47));
        lesson.refused(at(30_000), None);
        assert_eq!(
            lesson.rate(),
            Some(Rate { count: 60, per: Duration::from_secs(60) }),
            "60 in some time that is longer than ten seconds"
        );
    }

    /// A peer that takes so many in any such time, asked as often as the lesson says, by a source that may burst before.
    fn refusals_of(count: usize, per_s: u64, until_s: u64) -> (Vec<u64>, usize, Lesson) {
        let (mut lesson, mut taken, mut refusals) = (Lesson::default(), Vec::<u64>::new(), Vec::new());
        let (mut now, mut held) = (0, Vec::<u64>::new());
        while now < until_s * 1000 {
            let room = lesson.rate().is_none_or(|rate| {
                let from = now.saturating_sub(rate.per.as_millis() as u64);
                let used = held.iter().rev().take_while(|at| **at > from).count();
                used < rate.count as usize
            });
            if room {
                let from = now.saturating_sub(per_s * 1000);
                held.push(now);
                match taken.iter().rev().take_while(|at| **at > from || now == 0).count() < count {
                    true => {
                        taken.push(now);
                        lesson.took(at(now));
                    }
                    false if lesson.refused(at(now), None) => {
                        refusals.push(now / 1000);
                        let rate = lesson.rate().unwrap();
                        // As the engine does: what is not known to be free is taken for used.
                        if !lesson.knows_window() {
                            (0..rate.count).for_each(|_| held.push(now));
                        }
                    }
                    false => {}
                }
            }
            now += 100;
        }
        (refusals, taken.len(), lesson)
    }

    #[test]
    fn an_hour_is_found_by_a_handful_of_refusals_and_held_to_as_an_hour() {
        for (count, per_s) in [(30, 60), (100, 600), (30, 3600), (200, 3600)] {
            let (refusals, taken, lesson) = refusals_of(count, per_s, 3 * 3600);
            assert!(refusals.len() <= 8, "{count} in {per_s} s: {refusals:?}");
            let rate = lesson.rate().unwrap();
            assert!(lesson.knows_window() && rate.per >= Duration::from_secs(per_s), "{rate:?}");
            let most = (3 * 3600 / per_s) as usize * count;
            assert!(taken * 10 >= most * 6, "{count} in {per_s} s: {taken} of {most}");
        }
    }

    #[test]
    fn a_known_window_is_raised_once_in_its_length_and_by_one_at_least() {
        let mut lesson = Lesson { per_second: 4.0 / 3600.0, span: 4, refused_at: at(0), ..Lesson::default() };
        assert_eq!(lesson.rate(), Some(Rate { count: 4, per: Duration::from_secs(3600) }));
        assert!(!lesson.may_raise(at(3_599_000)) && lesson.may_raise(at(3_600_000)));
        lesson.raise(at(3_600_000));
        assert_eq!(lesson.rate(), Some(Rate { count: 5, per: Duration::from_secs(3600) }));
        assert!(!lesson.may_raise(at(7_199_000)) && lesson.may_raise(at(7_200_000)));
        // The probe is taken back, and nothing of what was right.
        lesson.refused(at(7_000_000), None);
        assert_eq!(lesson.rate(), Some(Rate { count: 4, per: Duration::from_secs(3600) }));
        let read = Lesson::read(&lesson.written(5000), -5000).unwrap();
        assert_eq!((read.rate(), read.refused_at, read.knows_window()), (lesson.rate(), lesson.refused_at, true));
    }

    #[test]
    fn what_takes_less_than_before_in_every_window_is_slowed_until_it_takes_it() {
        let (_, _, mut lesson) = refusals_of(300, 60, 1800);
        let before = lesson.per_second;
        for n in 1..6 {
            assert!(lesson.refused(at(1_800_000 + n * 10_000), None));
        }
        assert!(lesson.per_second < before / 4.0, "{} of {before}", lesson.per_second);
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
        lesson.raise(at(0));
        assert_eq!(lesson.rate(), Some(Rate { count: 199, per: Duration::from_secs(1) }));
        lesson.refused(at(100_000), None);
        assert_eq!(lesson.rate(), Some(Rate { count: 180, per: Duration::from_secs(1) }));
        (0..36_000).for_each(|n| lesson.took(at(20_000 + n * 5)));
        lesson.refused(at(200_000), None);
        assert_eq!(lesson.rate(), Some(Rate { count: 126, per: Duration::from_secs(1) }));
        // Far below what was refused, steps are longer.
        lesson.refused(at(300_000), None);
        lesson.refused(at(400_000), None);
        let before = lesson.per_second;
        lesson.raise(at(0));
        assert!(lesson.per_second <= before * RAISED + 1e-9);
        for _ in 0..400 {
            lesson.raise(at(0));
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
        let read = Lesson::read(&lesson.written(0), 0).unwrap();
        assert_eq!((read.rate(), read.refused_at), (lesson.rate(), lesson.refused_at));
        assert_eq!(Lesson::read(&[0xff; WRITTEN], 0), None);
        assert_eq!(Lesson::read(&[0; WRITTEN], 0), Some(Lesson::default()));
    }
}
