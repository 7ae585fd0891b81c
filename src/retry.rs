//! When a deferred envelope is tried again: age-doubling waits with jitter, pure.
//!
//! Called by `delivery` when an attempt ends. It never reads a clock and never decides *whether* to try again: past
//! `expires_at` the traffic engine expires an envelope, whatever its due time says.

use std::time::Duration;

use crate::time::Timestamp;

/// The share by which a wait may be longer or shorter, so that what failed together does not come back together.
const JITTER_SHARE: f64 = 0.1;
/// Waits after an answer to the final dot was lost (RFC 1047): long, because each further try may double the message.
const UNCERTAIN_WAITS: [Duration; 3] =
    [Duration::from_secs(15 * 60), Duration::from_secs(3600), Duration::from_secs(4 * 3600)];
/// The least and the most that an attempt waits that did not count (421, a broken connection before MAIL). The real
/// pause is the source's at the site; this only keeps one envelope from being the one that meets every refusal.
const SOON: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60));
/// The last attempt is made this long before expiry, or a thirtieth of the longest age, whichever is less.
const LAST_ATTEMPT_MARGIN: Duration = Duration::from_secs(60);
/// Waits of a short-lived stream are this fraction of its longest age: 15 minutes give 30 s, 1 min, 2 min …
const SHORT_LIVED_DIVISOR: u32 = 30;
const LONGEST_WAIT_DIVISOR: u32 = 8;

/// The bounds of the waits between two attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// The shortest wait. Default 5 minutes. RFC 5321 §4.5.4.1 asks for 30 minutes in general, but greylisting
    /// commonly ends after five; the doubling below soon reaches what the RFC asks for.
    pub minimum: Duration,
    /// The longest wait. Default 4,000 seconds (66 min 40 s).
    pub maximum: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { minimum: Duration::from_secs(300), maximum: Duration::from_secs(4000) }
    }
}

impl Schedule {
    /// This schedule scaled down for a stream whose mail is soon worthless: at a longest age of 15 minutes the first
    /// waits are 30 s and 1 min. From 2.5 hours on nothing is scaled.
    pub fn within(self, longest_age: Duration) -> Schedule {
        let floor = Duration::from_secs(30);
        let minimum = (longest_age / SHORT_LIVED_DIVISOR).max(floor).min(self.minimum);
        let maximum = (longest_age / LONGEST_WAIT_DIVISOR).max(minimum).min(self.maximum.max(minimum));
        Schedule { minimum, maximum }
    }
}

/// When an envelope is due again after an attempt at `now` that counted.
///
/// The next wait is the age reached so far, between the schedule's bounds, ± 10 % by `jitter` (0 to 1): attempts at
/// about 0, 5, 10, 20, 40, 80 minutes, then every 66 minutes. If that would lie past `expires_at`, one last attempt
/// is made shortly before it; after that one the answer is `expires_at` itself.
pub fn next_due(
    schedule: Schedule,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    let longest_age = expires_at.since(accepted_at);
    let schedule = schedule.within(longest_age);
    let wait = now.since(accepted_at).clamp(schedule.minimum, schedule.maximum);
    let factor = 1.0 + JITTER_SHARE * (2.0 * jitter.clamp(0.0, 1.0) - 1.0);
    let due = now.after(wait.mul_f64(factor));
    let margin = LAST_ATTEMPT_MARGIN.min(longest_age / SHORT_LIVED_DIVISOR);
    let last = expires_at.before(margin);
    if due < last {
        due
    } else if now.after(schedule.minimum / 2) <= last {
        last
    } else {
        // This attempt was as good as the last one.
        expires_at
    }
}

/// When an envelope is due again if the peer asked us to come back in `wait`: never sooner, up to a tenth later by
/// `jitter` (0 to 1), so that what was sent away together does not come back together. A wait past the last moment for an
/// attempt becomes one at that moment: a last try costs nothing, and mail must not expire without it.
pub fn asked(wait: Duration, accepted_at: Timestamp, expires_at: Timestamp, now: Timestamp, jitter: f64) -> Timestamp {
    let due = now.after(wait.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0)));
    let last = expires_at.before(LAST_ATTEMPT_MARGIN.min(expires_at.since(accepted_at) / SHORT_LIVED_DIVISOR));
    if due < last {
        due
    } else if now.after(wait / 2) <= last {
        last
    } else {
        // This attempt was as good as the last one.
        expires_at.max(now)
    }
}

/// When an envelope is due again after an attempt that did not count, because it only met the site's refusal.
pub fn soon(expires_at: Timestamp, now: Timestamp, jitter: f64) -> Timestamp {
    let (least, most) = SOON;
    let wait = least + (most - least).mul_f64(jitter.clamp(0.0, 1.0));
    now.after(wait).min(expires_at.max(now))
}

/// How long to wait after the answer to the final dot was lost for the `losses`-th time (1 is the first): 15 minutes,
/// 1 hour, 4 hours. `None`: it was lost once more after all of these; the recipients fail as "may have been delivered".
pub fn uncertain_wait(losses: u8) -> Option<Duration> {
    UNCERTAIN_WAITS.get(usize::from(losses.max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_secs(1_800_000_000);
    const MIDDLE: f64 = 0.5;

    /// The seconds at which attempts happen, if each fails at once.
    fn attempts(longest_age: u64, jitter: f64) -> Vec<u64> {
        let expires_at = START.after(Duration::from_secs(longest_age));
        let mut now = START;
        let mut times = Vec::new();
        while now < expires_at && times.len() < 1000 {
            times.push(now.since(START).as_secs());
            now = next_due(Schedule::default(), START, expires_at, now, jitter);
        }
        times
    }

    #[test]
    fn waits_double_with_age_up_to_their_longest() {
        let five_days = attempts(5 * 86_400, MIDDLE);
        assert_eq!(five_days[..8], [0, 300, 600, 1200, 2400, 4800, 8800, 12_800]);
        assert_eq!(five_days.last(), Some(&(5 * 86_400 - 60)));
    }

    #[test]
    fn a_login_code_is_tried_often_in_its_quarter_of_an_hour() {
        assert_eq!(attempts(900, MIDDLE), [0, 30, 60, 120, 232, 345, 457, 570, 682, 795, 870]);
    }

    #[test]
    fn an_attempt_close_to_expiry_is_the_last() {
        let expires_at = START.after(Duration::from_secs(86_400));
        for (before_secs, want) in
            [(10, expires_at), (100, expires_at), (4000, expires_at.before(Duration::from_secs(60)))]
        {
            let now = expires_at.before(Duration::from_secs(before_secs));
            assert_eq!(next_due(Schedule::default(), START, expires_at, now, MIDDLE), want, "{before_secs}");
        }
    }

    #[test]
    fn a_lost_answer_is_tried_three_times_more() {
        let waits: Vec<Option<u64>> = (0..6).map(|n| uncertain_wait(n).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(900), Some(900), Some(3600), Some(14_400), None, None]);
    }

    proptest! {
        #[test]
        fn the_next_time_is_later_than_now_and_never_past_expiry(
            longest in 1u64..10_000_000, age in 0u64..10_000_000, jitter in -1.0f64..2.0,
        ) {
            let expires_at = START.after(Duration::from_secs(longest));
            let now = START.after(Duration::from_secs(age.min(longest - 1)));
            let due = next_due(Schedule::default(), START, expires_at, now, jitter);
            prop_assert!(due > now && due <= expires_at);
            // No hammering: only a last attempt may come sooner than 9/10 of the shortest wait.
            let shortest = Schedule::default().within(Duration::from_secs(longest)).minimum;
            prop_assert!(due.since(now) >= shortest / 2 || due == expires_at);
            prop_assert!(soon(expires_at, now, jitter) <= expires_at);
        }

        #[test]
        fn some_attempt_is_made_in_the_last_tenth_of_a_life(longest in 300u64..3_000_000, jitter in 0.0f64..1.0) {
            let last = *attempts(longest, jitter).last().unwrap();
            prop_assert!(longest - last <= (longest / 10).max(150), "{last} of {longest}");
        }
    }
}
