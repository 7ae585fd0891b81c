//! One source at one site: how many connections it may have now, learned from what the peer does.
//!
//! A small state machine of its own, driven by the engine. It never counts messages and never knows who waits.

use std::time::Duration;

use crate::time::Timestamp;

/// Connections to a site that has not taken a message yet.
const WINDOW_UNKNOWN: f32 = 2.0;
/// Connections after its first success.
const WINDOW_PROVEN: f32 = 5.0;
/// First pause after a refusal, doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Refusals within this time are one: connections that were dialed together.
const SAME_REFUSAL: Duration = Duration::from_secs(5);
/// After this many pauses without a refusal, the pauses start small again.
const FORGIVEN_AFTER: u32 = 4;
/// How long a path that was refused is remembered after it was last used; one that was not, see `site.rs`.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Path {
    /// From Dial to Eof.
    pub open: u16,
    /// Of these, told to close or found broken.
    pub closing: u16,
    /// Of these, held by marketing mail.
    pub marketing: u16,
    /// Of these, not connected yet.
    pub dialing: u16,
    window: f32,
    /// The last pause, while no success came after it. Zero: none.
    pause: Duration,
    throttled_until: Timestamp,
    /// The window does not grow before this.
    growth_from: Timestamp,
    probe: Duration,
    refused_at: Timestamp,
}

impl Default for Path {
    fn default() -> Self {
        Path {
            open: 0,
            closing: 0,
            marketing: 0,
            dialing: 0,
            window: WINDOW_UNKNOWN,
            pause: Duration::ZERO,
            throttled_until: Timestamp::ZERO,
            growth_from: Timestamp::ZERO,
            probe: Duration::ZERO,
            refused_at: Timestamp::ZERO,
        }
    }
}

impl Path {
    /// Connections allowed now: by feedback, and never above the limit.
    pub fn allowed(&self, limit: u16) -> u16 {
        (self.window as u16).clamp(1, limit.max(1))
    }

    /// Until when the site refuses this source, if it does.
    pub fn throttled(&self, now: Timestamp) -> Option<Timestamp> {
        (self.throttled_until > now).then_some(self.throttled_until)
    }

    /// An operator wants it tried now.
    pub fn end_pause(&mut self) {
        self.throttled_until = Timestamp::ZERO;
    }

    /// The site took a message. Says whether the window grew: by one for each windowful of successes, and only while
    /// all of it is in use, since a success says nothing about connections that were not there.
    pub fn good(&mut self, now: Timestamp, limit: u16) -> bool {
        self.pause = Duration::ZERO;
        let before = self.allowed(limit);
        // One slot may be kept from marketing, and is then unused by order.
        if now < self.growth_from || self.open + 1 < before || before >= limit {
            return false;
        }
        let step = 1.0 / self.window.max(1.0);
        self.window = match self.refused_at == Timestamp::ZERO {
            true => (self.window + step).max(WINDOW_PROVEN),
            false => self.window + step,
        };
        self.window = self.window.min(f32::from(limit));
        self.allowed(limit) > before
    }

    /// The site refused a connection, said 421, or broke one. `others`: connections of this path that were not refused.
    pub fn refused(&mut self, now: Timestamp, jitter: f64, others: u16) {
        let since = now.since(self.refused_at);
        if self.refused_at == Timestamp::ZERO || since > self.probe * FORGIVEN_AFTER {
            self.probe = PAUSE_MIN;
        } else if since > SAME_REFUSAL {
            self.probe = (self.probe * 2).min(PAUSE_MAX);
        }
        self.refused_at = now;
        if others > 0 {
            // It takes some of us: that many are right for now.
            self.window = self.window.min(f32::from(others)).max(1.0);
            self.growth_from = now.after(spread(self.probe, jitter));
        } else {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            self.throttled_until = now.after(spread(self.pause, jitter));
            self.window = 1.0;
        }
    }

    /// Whether forgetting it changes nothing that matters.
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        let remembered = self.refused_at != Timestamp::ZERO && now.since(self.refused_at) < REMEMBERED;
        self.open == 0 && !remembered
    }
}

/// ± 10 %, so that what was refused together does not come back together.
fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn the_window_grows_by_one_for_each_windowful_of_successes() {
        let mut path = Path { open: 100, ..Path::default() };
        assert_eq!(path.allowed(20), 2);
        path.good(at(0), 20);
        assert_eq!(path.allowed(20), 5);
        let mut successes = 0;
        while path.allowed(20) < 10 {
            path.good(at(1), 20);
            successes += 1;
        }
        assert!((30..=45).contains(&successes), "{successes}");
        for _ in 0..1000 {
            path.good(at(2), 20);
        }
        assert_eq!(path.allowed(20), 20);
        assert_eq!(path.allowed(3), 3);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut path = Path { open: 1, ..Path::default() };
        for _ in 0..100 {
            path.good(at(0), 20);
        }
        assert_eq!(path.allowed(20), 5);
    }

    #[test]
    fn a_refusal_beside_working_connections_shrinks_to_these_and_probes_ever_more_rarely() {
        let mut path = Path { open: 6, window: 6.0, ..Path::default() };
        let (mut now, mut refusals) = (0, 0);
        while now < 86_400 {
            path.open = path.allowed(20);
            if path.open > 5 {
                path.refused(at(now), 0.5, 5);
                refusals += 1;
                assert_eq!(path.allowed(20), 5);
                assert_eq!(path.throttled(at(now)), None);
            } else {
                path.good(at(now), 20);
            }
            now += 1;
        }
        assert!((20..=35).contains(&refusals), "{refusals} refusals a day");
    }

    #[test]
    fn a_site_that_takes_nobody_is_left_alone_for_longer_and_longer() {
        let mut path = Path::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            path.refused(at(now), 0.5, 0);
            let until = path.throttled(at(now)).map(|until| until.since(at(now)).as_secs());
            pauses.extend(until);
            now += until.unwrap_or_default();
            assert_eq!(path.throttled(at(now)), None);
            assert_eq!(path.allowed(20), 1);
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        path.good(at(now), 20);
        path.refused(at(now), 0.5, 0);
        assert_eq!(path.throttled(at(now)), Some(at(now + 60)));
    }

    #[test]
    fn connections_refused_together_count_once() {
        let mut path = Path { open: 5, window: 5.0, ..Path::default() };
        path.refused(at(0), 0.5, 4);
        path.refused(at(1), 0.5, 3);
        path.refused(at(2), 0.5, 2);
        assert_eq!(path.allowed(20), 2);
        assert_eq!(path.probe, PAUSE_MIN);
    }
}
