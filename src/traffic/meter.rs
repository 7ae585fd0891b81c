//! One unit of one holder (the messages of a source at a site, the recipients of all sources there …) against its
//! windows, exact as the peer may count. Pure; driven by the engine.
//!
//! The peer counts a message at some time between our MAIL and its reply, we do not know when. So it *occupies* every
//! window from the grant until the reply, and then for the window's whole length:
//!
//! ```text
//!   grant ──── in flight ──── reply ──────── per ────────► free
//! ```
//! For any `count + 1` messages, the last was then granted later than `per` after some other's reply, so no window of
//! that length, wherever it begins, holds them all. The clock's own tick (a millisecond) is waited for on top.
//!
//! Windows say what must not be passed; the *pace* spreads what waits over the window, so that a backlog is neither
//! burnt in the first second nor, by jitter, lost. The pace is a virtual schedule (GCRA) at the windows' own rate: what
//! is late may catch up a little, what comes alone may run ahead of it.

use std::collections::VecDeque;
use std::time::Duration;

use super::limits::{Rate, Rates};
use crate::time::Timestamp;

/// What ended is kept in steps of this share of its window; a step frees as a whole, late rather than early. 1/2048 of
/// a window is what exactness costs in use.
const STEPS: u64 = 2048;
/// A window this long or longer outlives a restart: what is used is durable before it is spent. Shorter ones are waited
/// out at a start.
pub(super) const KEPT_FROM: Duration = Duration::from_secs(10);
/// A reservation is this share of the window, so that a crash wastes no more of it.
const CHUNKS: u32 = 16;
/// What the pace may catch up: a sixteenth of the window, up to this, but one message at least.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
const CATCH_UP_DIVISOR: u64 = 16;
/// What a learned pace may catch up: what a busy machine wakes up late, and no message more where they are rarer than that.
/// Unit: microseconds.
const STRICT_CATCH_UP_US: u64 = 20_000;
/// Steps of a window that is written down. Rounded late, so that a restart wastes a little and passes nothing.
const WRITTEN_STEPS: u64 = 64;

#[derive(Clone, Debug)]
struct Window {
    rate: Rate,
    /// Ended, oldest first: at the end of which step, how many.
    ended: VecDeque<(Timestamp, u32)>,
    sum: u32,
    /// When the next one is due by the pace. Unit: microseconds.
    due_us: u64,
    /// Next to nothing may catch up: the length of the peer's own window is not known, and two at once may be too many.
    strict: bool,
}

/// How much a meter is asked for, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Haste {
    /// Keep to the pace.
    Paced,
    /// All that waits with this one is so many: if they fit into what is unused, they may go ahead of the pace.
    Ahead(u32),
}

/// What a meter says to one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// So many may go now; one at least.
    For(u32),
    /// Not before this: by this window, or by its pace.
    At(Timestamp, Rate, Bound),
    /// What is durable is used up: more must be reserved first.
    Unreserved,
}

/// What of a window binds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// It is full.
    Full,
    /// It has room, and the rest of it is being spread over its length.
    Paced,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    windows: Vec<Window>,
    /// Granted, and not ended.
    flying: u32,
    /// Durable, and not granted yet. Only where a window is [`KEPT_FROM`] or longer.
    reserved: u32,
    /// A reservation is on its way to the disk: so many, and who was in flight when it was written down.
    asked: u32,
    /// What was asked for last could not be written.
    is_unwritten: bool,
    /// What is on its way to the disk speaks of a clock that was set since.
    is_stale: bool,
    /// What is used is durable before it is spent. Not of what was learned: a window that begins anew is not passed as a
    /// promise.
    kept: bool,
}

impl Window {
    fn per(&self) -> Duration {
        self.rate.per.max(Duration::from_millis(1))
    }

    fn count(&self) -> u32 {
        self.rate.count.max(1)
    }

    fn step_ms(&self) -> u64 {
        (self.per().as_millis() as u64 / STEPS).max(1)
    }

    /// When what ended at `at` no longer counts.
    fn free_at(&self, at: Timestamp) -> Timestamp {
        at.after(self.per()).after(Duration::from_millis(1))
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((at, count)) = self.ended.front().copied() {
            if self.free_at(at) > now {
                return;
            }
            self.ended.pop_front();
            self.sum -= count;
        }
        if self.ended.capacity() > 32 && self.ended.is_empty() {
            self.ended = VecDeque::new();
        }
    }

    fn add(&mut self, at: Timestamp, count: u32) {
        if count == 0 {
            return;
        }
        let step = self.step_ms();
        let end = Timestamp::from_millis(at.as_millis().div_ceil(step).saturating_mul(step));
        // A place in the past only comes from what was written down; order is what expiry lives on.
        let end = self.ended.back().map_or(end, |(last, _)| end.max(*last));
        match self.ended.back_mut() {
            Some((last, sum)) if *last == end => *sum = sum.saturating_add(count),
            Some(_) | None => self.ended.push_back((end, count)),
        }
        self.sum = self.sum.saturating_add(count);
    }

    fn interval_us(&self) -> u64 {
        (self.per().as_micros() as u64 / u64::from(self.count())).max(1)
    }

    fn catch_up_us(&self) -> u64 {
        if self.strict {
            return STRICT_CATCH_UP_US;
        }
        let share = self.per().as_micros() as u64 / CATCH_UP_DIVISOR;
        share.min(CATCH_UP_MAX.as_micros() as u64).max(self.interval_us())
    }

    /// When the pace lets the next one go.
    fn paced_at(&self) -> Timestamp {
        Timestamp::from_millis(self.due_us.saturating_sub(self.catch_up_us()).div_ceil(1000))
    }

    /// How many the pace lets go now.
    fn paced(&self, now: Timestamp) -> u32 {
        let now_us = now.as_millis().saturating_mul(1000);
        let from_us = self.paced_at().as_millis().saturating_mul(1000);
        match now_us.checked_sub(from_us) {
            Some(late) => u32::try_from(late.min(self.catch_up_us()) / self.interval_us() + 1).unwrap_or(u32::MAX),
            None => 0,
        }
    }

    /// The earliest time at which there can be room for one more: what flies now may end now.
    fn opens_at(&self, now: Timestamp, flying: u32) -> Timestamp {
        let mut needed = (flying.saturating_add(self.sum)).saturating_sub(self.count() - 1);
        for (at, count) in &self.ended {
            needed = needed.saturating_sub(*count);
            if needed == 0 {
                return self.free_at(*at);
            }
        }
        self.free_at(now)
    }

    /// What was known of another window of the same unit, as far as it reaches back; what no one knows counts as full.
    fn inherit(&mut self, now: Timestamp, known: &[Window]) {
        let longer = known.iter().filter(|other| other.per() >= self.per()).min_by_key(|other| other.per());
        if let Some(longer) = longer {
            longer.ended.iter().for_each(|(at, count)| self.add(*at, *count));
            self.due_us = longer.due_us.min(now.as_millis().saturating_mul(1000).saturating_add(self.interval_us()));
            self.expire(now);
            return;
        }
        let longest = known.iter().max_by_key(|other| other.per());
        let (sum, since) = longest.map_or((0, now), |longest| (longest.sum, now.before(longest.per())));
        let unknown = self.count().saturating_sub(sum);
        self.add(since, unknown);
        for (at, count) in longest.iter().flat_map(|longest| &longest.ended) {
            self.add(*at, *count);
        }
    }
}

impl Meter {
    /// An unused meter.
    pub fn new(rates: &Rates) -> Meter {
        let window = |rate| Window { rate, ended: VecDeque::new(), sum: 0, due_us: 0, strict: false };
        Meter {
            windows: rates.iter().map(window).collect(),
            flying: 0,
            reserved: 0,
            asked: 0,
            is_unwritten: false,
            is_stale: false,
            kept: true,
        }
    }

    /// A meter of what a peer's replies taught.
    pub fn learned(rates: &Rates) -> Meter {
        let mut meter = Meter { kept: false, ..Meter::new(rates) };
        meter.windows.iter_mut().for_each(|window| window.strict = true);
        meter
    }

    /// A meter at a start: of windows that nobody wrote down, an earlier run may have used all until now.
    /// `kept`: longer ones were written down.
    pub fn at_start(rates: &Rates, started: Timestamp, kept: bool) -> Meter {
        let mut meter = Meter { kept, ..Meter::new(rates) };
        for window in meter.windows.iter_mut().filter(|window| window.per() < KEPT_FROM) {
            let count = window.count();
            window.add(started, count);
        }
        meter
    }

    /// Whether nothing is known that a new one would not know.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        self.windows.iter_mut().for_each(|window| window.expire(now));
        self.flying == 0 && self.asked == 0 && self.windows.iter().all(|window| window.sum == 0)
    }

    /// Whether its use must be durable before it is spent.
    pub fn is_kept(&self) -> bool {
        self.kept && self.windows.iter().any(|window| window.per() >= KEPT_FROM)
    }

    /// Takes other windows. What is known goes on to count; a window longer than all known ones is full as far back as
    /// nobody knows.
    pub fn change(&mut self, rates: &Rates, now: Timestamp) {
        let before = std::mem::take(&mut self.windows);
        for rate in rates.iter() {
            let same = before.iter().find(|window| window.rate.per == rate.per);
            self.windows.push(match same {
                Some(window) => Window { rate, ..window.clone() },
                None => {
                    let strict = before.iter().any(|window| window.strict);
                    let mut window = Window { rate, ended: VecDeque::new(), sum: 0, due_us: 0, strict };
                    window.inherit(now, &before);
                    window
                }
            });
        }
        if !self.is_kept() {
            (self.reserved, self.asked) = (0, 0);
        }
    }

    /// Adds what another meter of the same unit knows.
    pub fn absorb(&mut self, other: &Meter, now: Timestamp) {
        self.windows.iter_mut().for_each(|window| window.inherit(now, &other.windows));
    }

    /// Whether there are these windows.
    pub fn has(&self, rates: &Rates) -> bool {
        self.windows.iter().map(|window| window.rate).eq(rates.iter())
    }

    /// The most that any grant may take at once: what is larger would never fit.
    pub fn largest(&self) -> u32 {
        self.windows.iter().map(Window::count).min().unwrap_or(u32::MAX)
    }

    /// Whether one more may go now, or when.
    pub fn room(&mut self, now: Timestamp, haste: Haste) -> Room {
        let mut room = u32::MAX;
        let mut wait: Option<(Timestamp, Rate, Bound)> = None;
        let mut later = |at: Timestamp, rate: Rate, bound: Bound| {
            if wait.is_none_or(|(other, ..)| at > other) {
                wait = Some((at, rate, bound));
            }
        };
        for window in &mut self.windows {
            window.expire(now);
            let used = self.flying.saturating_add(window.sum);
            let free = window.count().saturating_sub(used);
            if free == 0 {
                later(window.opens_at(now, self.flying), window.rate, Bound::Full);
                continue;
            }
            room = room.min(free);
            let ahead = matches!(haste, Haste::Ahead(all) if all <= free);
            match window.paced(now) {
                _ if ahead => {}
                0 => later(window.paced_at(), window.rate, Bound::Paced),
                burst => room = room.min(burst),
            }
        }
        match wait {
            Some((at, rate, bound)) => Room::At(at, rate, bound),
            None if self.is_kept() && self.reserved == 0 => Room::Unreserved,
            None if self.is_kept() => Room::For(room.min(self.reserved)),
            None => Room::For(room),
        }
    }

    /// So many were granted.
    pub fn take(&mut self, now: Timestamp, count: u32) {
        self.flying = self.flying.saturating_add(count);
        self.reserved = self.reserved.saturating_sub(count);
        for window in &mut self.windows {
            let from = window.due_us.max(now.as_millis().saturating_mul(1000));
            window.due_us = from.saturating_add(window.interval_us().saturating_mul(u64::from(count)));
        }
    }

    /// Of what was granted, so many were sent and answered (or may have been), and so many were not sent at all.
    pub fn end(&mut self, now: Timestamp, sent: u32, unsent: u32) {
        self.flying = self.flying.saturating_sub(sent.saturating_add(unsent));
        if self.is_kept() {
            self.reserved = self.reserved.saturating_add(unsent);
        }
        for window in &mut self.windows {
            window.add(now, sent);
            window.due_us = window.due_us.saturating_sub(window.interval_us().saturating_mul(u64::from(unsent)));
        }
    }

    /// What must be made durable next, if anything: asked for ahead, so that nobody waits for a disk. The caller writes
    /// [`Meter::written`] down, and then says [`Meter::reserved`].
    pub fn wants(&mut self) -> bool {
        if self.asked > 0 || !self.is_kept() {
            return false;
        }
        let chunk = self.chunk();
        if self.reserved > chunk / 2 && !self.is_stale {
            return false;
        }
        (self.asked, self.is_stale) = (chunk, false);
        true
    }

    /// Whether it is to be written down anew now; it asks for one more, so that nothing else is asked for meanwhile.
    pub fn restates(&mut self) -> bool {
        if self.asked > 0 {
            self.is_stale = true;
            return false;
        }
        self.asked = 1;
        true
    }

    /// Whether somebody asked for what is not durable: the disk has it yet, or could not write it.
    pub fn is_asked(&self) -> bool {
        self.asked > 0 || self.is_unwritten
    }

    /// Whether what was asked for could not be written.
    pub fn is_unwritten(&self) -> bool {
        self.is_unwritten
    }

    fn chunk(&self) -> u32 {
        let kept = self.windows.iter().filter(|window| window.per() >= KEPT_FROM);
        kept.map(Window::count).min().map_or(0, |count| (count / CHUNKS).max(1))
    }

    /// What was asked for is durable, or is not to be had: then it is asked for again.
    pub fn reserved(&mut self, durable: bool) {
        let asked = std::mem::take(&mut self.asked);
        self.is_unwritten = !durable;
        if durable {
            self.reserved = self.reserved.saturating_add(asked);
        }
    }

    /// Of the longest window: used, of how many, for listings.
    pub fn uses(&self) -> impl Iterator<Item = (u32, Rate)> + '_ {
        self.windows.iter().map(|window| (self.flying.saturating_add(window.sum).min(window.count()), window.rate))
    }

    /// What a later run must know, should this one end now: for each kept window what ended when, and, as if it were to
    /// end only then, what is in flight, reserved and asked for. `shift_ms` is added to all times.
    ///
    /// ```text
    ///   | version u8 | open u32 | per window: per_ms u64, entries u16, of each: at_ms u64, count u32 |
    /// ```
    /// Numbers are little-endian.
    pub fn written(&self, shift_ms: i64) -> Vec<u8> {
        let open = self.flying.saturating_add(self.reserved).saturating_add(self.asked);
        let mut out = vec![VERSION];
        out.extend_from_slice(&open.to_le_bytes());
        for window in self.windows.iter().filter(|window| window.per() >= KEPT_FROM) {
            let step = (window.per().as_millis() as u64 / WRITTEN_STEPS).max(1);
            let mut entries: Vec<(u64, u32)> = Vec::new();
            for (at, count) in &window.ended {
                let at = at.as_millis().saturating_add_signed(shift_ms).div_ceil(step).saturating_mul(step);
                match entries.last_mut() {
                    Some((last, sum)) if *last == at => *sum = sum.saturating_add(*count),
                    Some(_) | None => entries.push((at, *count)),
                }
            }
            out.extend_from_slice(&(window.per().as_millis() as u64).to_le_bytes());
            out.extend_from_slice(&(entries.len() as u16).to_le_bytes());
            for (at, count) in entries {
                out.extend_from_slice(&at.to_le_bytes());
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
        out
    }

    /// Takes over what an earlier run wrote down. What it had open is taken for used at `now`, the latest that it can
    /// have been. Bytes that cannot be read are taken for all windows full.
    pub fn restore(&mut self, bytes: &[u8], now: Timestamp) {
        let Some((open, known)) = read(bytes) else {
            return self.fill(now);
        };
        let before: Vec<Window> = known
            .into_iter()
            .map(|(per, entries)| {
                let rate = Rate { count: u32::MAX, per };
                let mut window = Window { rate, ended: VecDeque::new(), sum: 0, due_us: 0, strict: false };
                entries.into_iter().for_each(|(at, count)| window.add(at.min(now), count));
                window.expire(now);
                window
            })
            .collect();
        for window in self.windows.iter_mut().filter(|window| window.per() >= KEPT_FROM) {
            window.inherit(now, &before);
            window.add(now, open);
        }
    }

    /// As if all windows were used up just now: the strictest that can be true.
    pub fn fill(&mut self, now: Timestamp) {
        for window in &mut self.windows {
            window.expire(now);
            let rest = window.count().saturating_sub(window.sum);
            window.add(now, rest);
        }
    }
}

const VERSION: u8 = 1;
/// More than any window writes; a record with more is not ours.
const ENTRIES_MAX: usize = 4 * WRITTEN_STEPS as usize;

type Known = Vec<(Duration, Vec<(Timestamp, u32)>)>;

fn read(bytes: &[u8]) -> Option<(u32, Known)> {
    let mut rest = bytes;
    if take::<1>(&mut rest)? != [VERSION] {
        return None;
    }
    let open = u32::from_le_bytes(take(&mut rest)?);
    let mut known = Vec::new();
    while !rest.is_empty() && known.len() < Rates::MAX {
        let per = Duration::from_millis(u64::from_le_bytes(take(&mut rest)?));
        let count = usize::from(u16::from_le_bytes(take(&mut rest)?));
        if count > ENTRIES_MAX {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let at = Timestamp::from_millis(u64::from_le_bytes(take(&mut rest)?));
            entries.push((at, u32::from_le_bytes(take(&mut rest)?)));
        }
        known.push((per, entries));
    }
    rest.is_empty().then_some((open, known))
}

/// The next octets of a record.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn at(ms: u64) -> Timestamp {
        START.after(Duration::from_millis(ms))
    }

    fn rates(all: &[(u32, u64)]) -> Rates {
        let all: Vec<Rate> =
            all.iter().map(|(count, ms)| Rate { count: *count, per: Duration::from_millis(*ms) }).collect();
        Rates::new(&all).unwrap()
    }

    /// The most messages that any window of this length holds, if each may be counted anywhere in its time.
    fn fullest(sent: &[(u64, u64)], per: u64) -> usize {
        // The worst that a peer can do: count what began earlier as late as it may, what began later as early as it may.
        let worst = |(place, (_, end)): (usize, &(u64, u64))| {
            1 + sent[place + 1..].iter().filter(|(start, other_end)| *start < end + per && *other_end >= *end).count()
        };
        let mut sent = sent.to_vec();
        sent.sort();
        (0..sent.len()).map(|place| worst((place, &sent[place]))).max().unwrap_or(0)
    }

    /// A peer that takes `time` for each, and as many at once as there may be; all that waits is a backlog.
    fn drain(meter: &mut Meter, time: u64, until: u64, haste: Haste) -> Vec<(u64, u64)> {
        let (mut now, mut flying, mut sent) = (0, VecDeque::new(), Vec::new());
        while now < until {
            while flying.front().is_some_and(|end| *end <= now) {
                flying.pop_front();
                meter.end(at(now), 1, 0);
            }
            if meter.wants() {
                meter.reserved(true);
            }
            match meter.room(at(now), haste) {
                Room::For(_) => {
                    meter.take(at(now), 1);
                    flying.push_back(now + time);
                    sent.push((now, now + time));
                }
                Room::At(next, ..) => {
                    assert!(next > at(now), "asked to come back at once");
                    let next = next.since(START).as_millis() as u64;
                    now = flying.front().map_or(next, |end| next.min(*end).max(now + 1));
                }
                Room::Unreserved => panic!("reserved ahead"),
            }
        }
        sent
    }

    #[test]
    fn no_window_holds_one_too_many_and_almost_all_is_used() {
        for (limits, time, seconds) in [
            (&[(200, 1000)][..], 10, 20),
            (&[(2, 1000), (100, 60_000)], 10, 600),
            (&[(100, 60_000)], 500, 1200),
            (&[(1000, 3_600_000)], 3000, 4 * 3600),
            (&[(7, 1000)], 15, 100),
            (&[(1, 1000)], 3, 50),
        ] {
            let mut meter = Meter::new(&rates(limits));
            let sent = drain(&mut meter, time, seconds * 1000, Haste::Paced);
            for (count, per) in limits {
                assert!(fullest(&sent, *per) <= *count as usize, "{limits:?}: {}", fullest(&sent, *per));
            }
            let tightest = limits.iter().map(|(count, per)| f64::from(*count) / *per as f64).fold(f64::MAX, f64::min);
            let used = sent.len() as f64 / (tightest * (seconds * 1000) as f64);
            assert!(used >= 0.98, "{limits:?}: {used}");
        }
    }

    #[test]
    fn one_too_many_would_be_seen() {
        // The bug that the check above must catch: a reply that no longer counts a millisecond early.
        let sent: Vec<(u64, u64)> = (0..10).map(|n| (n * 1000, n * 1000 + 5)).collect();
        assert_eq!(fullest(&sent, 995), 1);
        assert_eq!(fullest(&sent, 996), 2);
    }

    #[test]
    fn a_backlog_is_spread_over_its_window() {
        let mut meter = Meter::new(&rates(&[(100, 3_600_000)]));
        let sent = drain(&mut meter, 50, 3_600_000, Haste::Paced);
        let first_minute = sent.iter().filter(|(start, _)| *start < 60_000).count();
        assert!((2..=4).contains(&first_minute), "{first_minute} in the first minute");
        let gaps: Vec<u64> = sent.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.iter().all(|gap| *gap <= 37_000), "{gaps:?}");
    }

    #[test]
    fn what_comes_alone_runs_ahead_of_the_pace_and_a_flood_does_not() {
        let mut meter = Meter::new(&rates(&[(100, 3_600_000)]));
        meter.wants();
        meter.reserved(true);
        meter.take(at(0), 1);
        meter.end(at(1), 1, 0);
        meter.take(at(2), 1);
        assert!(matches!(meter.room(at(3), Haste::Paced), Room::At(_, _, Bound::Paced)));
        assert!(matches!(meter.room(at(3), Haste::Ahead(20)), Room::For(_)));
        assert!(matches!(meter.room(at(3), Haste::Ahead(99)), Room::At(_, _, Bound::Paced)));
    }

    #[test]
    fn what_was_not_sent_does_not_count() {
        let mut meter = Meter::new(&rates(&[(1, 1000)]));
        meter.take(at(0), 1);
        assert!(matches!(meter.room(at(0), Haste::Paced), Room::At(_, _, Bound::Full)));
        meter.end(at(1), 0, 1);
        assert_eq!(meter.room(at(1), Haste::Paced), Room::For(1));
    }

    #[test]
    fn a_crash_wastes_allowance_and_never_exceeds_it() {
        let limits = rates(&[(64, 60_000)]);
        let mut sent = Vec::new();
        let mut written: Option<Vec<u8>> = None;
        let mut now = 0;
        for crash in 1..60u64 {
            let mut meter = Meter::at_start(&limits, at(now), true);
            if let Some(bytes) = &written {
                meter.restore(bytes, at(now));
            }
            let until = crash * 13_137;
            while now < until {
                if meter.wants() {
                    written = Some(meter.written(0));
                    meter.reserved(true);
                }
                if let Room::For(_) = meter.room(at(now), Haste::Ahead(1)) {
                    meter.take(at(now), 1);
                    sent.push((now, now + 3));
                    meter.end(at(now + 3), 1, 0);
                }
                now += 7;
            }
        }
        assert!(fullest(&sent, 60_000) <= 64, "{}", fullest(&sent, 60_000));
        // Five crashes a window waste what was reserved, and no more than a half.
        assert!(sent.len() > 13 * 64 / 2, "{}", sent.len());
    }

    #[test]
    fn short_windows_are_waited_out_at_a_start_and_damage_is_read_as_full() {
        let mut meter = Meter::at_start(&rates(&[(5, 1000), (50, 60_000)]), at(0), true);
        assert!(matches!(meter.room(at(0), Haste::Ahead(1)), Room::At(until, ..) if until == at(1001)));
        meter.wants();
        meter.reserved(true);
        assert!(matches!(meter.room(at(1001), Haste::Ahead(1)), Room::For(_)));
        for bytes in [&[][..], &[9], &[1, 0, 0], &[1, 0, 0, 0, 0, 7]] {
            let mut meter = Meter::at_start(&rates(&[(50, 60_000)]), at(0), true);
            meter.restore(bytes, at(0));
            assert!(matches!(meter.room(at(59_000), Haste::Ahead(1)), Room::At(_, _, Bound::Full)), "{bytes:?}");
        }
    }

    #[test]
    fn a_new_window_inherits_what_is_known_and_the_unknown_counts_as_full() {
        let mut meter = Meter::new(&rates(&[(100, 60_000)]));
        for n in 0..30 {
            meter.take(at(n * 100), 1);
            meter.end(at(n * 100), 1, 0);
        }
        let used = |meter: &Meter| meter.uses().map(|(used, _)| used).collect::<Vec<_>>();
        meter.change(&rates(&[(50, 60_000), (10, 1000)]), at(3000));
        assert_eq!(used(&meter)[0], 30);
        assert!((9..=10).contains(&used(&meter)[1]), "{:?}", used(&meter));
        meter.change(&rates(&[(1000, 3_600_000)]), at(3000));
        assert_eq!(used(&meter), [1000]);
        // What was unknown is known an hour later.
        meter.wants();
        meter.reserved(true);
        assert!(matches!(meter.room(at(3_600_000), Haste::Ahead(1)), Room::For(_)));
    }

    proptest! {
        #[test]
        fn whatever_the_peer_takes_no_window_is_passed(
            count in 1u32..40, per in 50u64..5000, time in 1u64..400, second in 1u32..200, ahead in any::<bool>(),
        ) {
            let limits = [(count, per), (second, per * 7)];
            let mut meter = Meter::new(&rates(&limits));
            let haste = if ahead { Haste::Ahead(1) } else { Haste::Paced };
            let sent = drain(&mut meter, time, per * 20, haste);
            for (count, per) in limits {
                prop_assert!(fullest(&sent, per) <= count as usize);
            }
        }

        #[test]
        fn no_bytes_make_a_meter_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut meter = Meter::at_start(&rates(&[(5, 60_000)]), at(0), true);
            meter.restore(&bytes, at(0));
            meter.room(at(1), Haste::Paced);
        }
    }
}
