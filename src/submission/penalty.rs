//! Failed logins slow their client down: longer with every session that failed, by client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::admission::client_key;

/// Addresses remembered. When it is reached, all are forgotten: an attacker with so many addresses is not slowed down
/// by any of them, and memory stays bounded.
const ADDRESSES_MAX: usize = 10_000;
/// A failure is forgotten after this time without another.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Doublings counted.
const SESSIONS_MAX: u32 = 16;

#[derive(Default)]
pub(super) struct Penalties(Mutex<HashMap<IpAddr, Penalty>>);

struct Penalty {
    sessions: u32,
    last: Instant,
}

/// Whether a session failed before: smtplib tries every mechanism in turn, and means it as one try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    FirstOfSession,
    Another,
}

impl Penalties {
    /// Notes a failure; gives how long its answer should wait.
    pub(super) fn note(&self, client: IpAddr, failure: Failure, base: Duration, max: Duration) -> Duration {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, penalty| now.duration_since(penalty.last) < FORGET_AFTER);
        }
        if all.len() >= ADDRESSES_MAX {
            all.clear();
        }
        let penalty = all.entry(client_key(client)).or_insert(Penalty { sessions: 0, last: now });
        if now.duration_since(penalty.last) >= FORGET_AFTER {
            penalty.sessions = 0;
        }
        penalty.last = now;
        if failure == Failure::FirstOfSession || penalty.sessions == 0 {
            penalty.sessions = (penalty.sessions + 1).min(SESSIONS_MAX);
        }
        base.saturating_mul(1 << (penalty.sessions - 1)).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_with_each_failed_session_up_to_its_bound() {
        let penalties = Penalties::default();
        let seconds = Duration::from_secs;
        let note = |client: &str, failure| penalties.note(client.parse().unwrap(), failure, seconds(1), seconds(30));
        assert_eq!(note("192.0.2.1", Failure::FirstOfSession), seconds(1));
        assert_eq!(note("192.0.2.1", Failure::Another), seconds(1));
        for want in [2, 4, 8, 16, 30, 30] {
            assert_eq!(note("192.0.2.1", Failure::FirstOfSession), seconds(want));
        }
        assert_eq!(note("192.0.2.2", Failure::FirstOfSession), seconds(1));
        for _ in 0..100 {
            assert_eq!(note("192.0.2.1", Failure::FirstOfSession), seconds(30));
        }
        for client in 0..30_000u32 {
            penalties.note(IpAddr::from(client.to_be_bytes()), Failure::FirstOfSession, seconds(1), seconds(30));
        }
        assert!(penalties.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }
}
