//! The clock of the rooms that touch the world; floors 0 to 2 get `now` as an argument.
//!
//! Schedules run on a wall clock that cannot jump: it starts at the system's time and advances with the monotonic
//! clock. A system clock that is set by a large step while we run (a dead RTC found by NTP) must neither expire the
//! queue nor fire all of it at once, so a difference of over two minutes is approached slowly instead of followed.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// Differences up to this are followed: ordinary drift and slewing. Forward at once; back at half speed, since a clock that
/// stood still for two minutes would hold up for as long what is due in a moment.
const STEP_MAX: Duration = Duration::from_secs(120);
const BACK_DIVISOR: u64 = 2;
/// A larger difference is approached by this share of the time that passes: 1/10, so that a clock that was an hour
/// wrong is right after ten.
const APPROACH_DIVISOR: u64 = 10;
/// How often the system's clock is asked. Unit: milliseconds.
const COMPARED_EVERY_MS: u64 = 1000;

/// A source of [`Timestamp`]s that never go back. Shared by reference or `Arc`. It is asked many times a message, from
/// all threads, so that nothing is locked but once a second.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    /// What it showed then.
    began: Timestamp,
    /// Milliseconds to add to the monotonic clock.
    offset_ms: AtomicU64,
    /// When the offset was last compared with the system's clock. Unit: milliseconds since `started`.
    compared_ms: AtomicU64,
    /// The latest that it ever showed. Unit: milliseconds since the epoch.
    last_ms: AtomicU64,
    /// Held by who changes the offset.
    changing: Mutex<()>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock::starting_at(system_time())
    }
}

impl Clock {
    /// A clock that shows `now` and runs from there.
    pub fn starting_at(now: Timestamp) -> Clock {
        Clock {
            started: Instant::now(),
            began: now,
            offset_ms: now.as_millis().into(),
            compared_ms: 0.into(),
            last_ms: now.as_millis().into(),
            changing: Mutex::default(),
        }
    }

    /// The time by which mail is scheduled, expired and stamped. Never goes back within a process.
    pub fn now(&self) -> Timestamp {
        self.advance(self.started.elapsed(), system_time)
    }

    /// Both at one moment, so that they differ by what the clock was set and by nothing else.
    pub fn both(&self) -> (Timestamp, Timestamp) {
        let elapsed = self.started.elapsed();
        (self.advance(elapsed, system_time), self.began.after(elapsed))
    }

    /// The time that really passed, on from the start: nobody sets it, and limits are counted by it.
    pub fn steady(&self) -> Timestamp {
        self.began.after(self.started.elapsed())
    }

    /// Moves the clock to no earlier than `floor`: the newest time in the spool, should the system's clock have fallen
    /// behind it while we were down.
    pub fn at_least(&self, floor: Timestamp) {
        let elapsed_ms = self.started.elapsed().as_millis() as u64;
        let _changing = self.changing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let offset_ms = self.offset_ms.load(Relaxed);
        let missing = floor.as_millis().saturating_sub(offset_ms.saturating_add(elapsed_ms));
        self.offset_ms.store(offset_ms.saturating_add(missing), Relaxed);
        self.last_ms.fetch_max(floor.as_millis(), Relaxed);
    }

    fn advance(&self, elapsed: Duration, system: impl FnOnce() -> Timestamp) -> Timestamp {
        let elapsed_ms = elapsed.as_millis() as u64;
        if elapsed_ms.saturating_sub(self.compared_ms.load(Relaxed)) >= COMPARED_EVERY_MS {
            self.compare(elapsed_ms, system);
        }
        let shown = self.offset_ms.load(Relaxed).saturating_add(elapsed_ms);
        let last = self.last_ms.load(Relaxed);
        // Most calls fall into the millisecond of the one before.
        let latest = if last >= shown { last } else { self.last_ms.fetch_max(shown, Relaxed).max(shown) };
        Timestamp::from_millis(latest)
    }

    /// Follows the system's clock, or approaches it.
    fn compare(&self, elapsed_ms: u64, system: impl FnOnce() -> Timestamp) {
        let _changing = self.changing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let passed_ms = elapsed_ms.saturating_sub(self.compared_ms.load(Relaxed));
        // Another thread did.
        if passed_ms < COMPARED_EVERY_MS {
            return;
        }
        let offset_ms = self.offset_ms.load(Relaxed);
        let shown = offset_ms.saturating_add(elapsed_ms);
        let system = system();
        let difference = system.as_millis().abs_diff(shown);
        let is_behind = system.as_millis() >= shown;
        let step = match (difference <= STEP_MAX.as_millis() as u64, is_behind) {
            (true, true) => difference,
            (true, false) => difference.min(passed_ms / BACK_DIVISOR),
            (false, _) => difference.min(passed_ms / APPROACH_DIVISOR),
        };
        let offset_ms = match is_behind {
            true => offset_ms.saturating_add(step),
            false => offset_ms.saturating_sub(step),
        };
        self.offset_ms.store(offset_ms, Relaxed);
        self.compared_ms.store(elapsed_ms, Relaxed);
    }
}

/// What the system's clock says, jumps and all. For comparison with other machines, never for schedules.
pub fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn run(jump_secs: i64) -> Timestamp {
        let clock = Clock::starting_at(START);
        let mut shown = START;
        for second in 1..=100 {
            let system = START.as_secs().saturating_add(second).saturating_add_signed(jump_secs);
            let now = clock.advance(Duration::from_secs(second), || Timestamp::from_secs(system));
            assert!(now > shown, "the clock stands still, or went back");
            shown = now;
        }
        shown
    }

    #[test]
    fn a_small_step_is_followed_and_a_large_one_approached() {
        assert_eq!(run(0), START.after(Duration::from_secs(100)));
        assert_eq!(run(60), START.after(Duration::from_secs(160)));
        assert_eq!(run(-20), START.after(Duration::from_secs(80)));
        assert_eq!(run(-60), START.after(Duration::from_secs(50)), "half as fast until it is right");
        assert_eq!(run(864_000), START.after(Duration::from_secs(110)));
        assert_eq!(run(-864_000), START.after(Duration::from_secs(90)));
        assert_eq!(run(-1_700_000_000), START.after(Duration::from_secs(90)));
    }

    #[test]
    fn all_threads_see_it_go_forward_while_it_is_corrected() {
        let clock = Clock::starting_at(START);
        let looks = |offset: u64| {
            let mut shown = Timestamp::ZERO;
            for second in 1..=2000u64 {
                // The system's clock swings by 100 s around the truth.
                let swing = START.as_secs() + second + 50 * (second % 5);
                let elapsed = Duration::from_millis(second * 700 + offset);
                let now = clock.advance(elapsed, || Timestamp::from_secs(swing));
                assert!(now >= shown, "it went back");
                shown = now;
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || looks(thread * 13));
            }
        });
        assert!(clock.last_ms.load(Relaxed) >= START.as_millis() + 700_000);
    }

    #[test]
    fn the_spool_can_push_the_clock_forward_but_never_back() {
        let clock = Clock::starting_at(START);
        clock.at_least(START.after(Duration::from_secs(500)));
        assert!(clock.now() >= START.after(Duration::from_secs(500)));
        clock.at_least(Timestamp::ZERO);
        assert!(clock.now() >= START.after(Duration::from_secs(500)));
    }
}
