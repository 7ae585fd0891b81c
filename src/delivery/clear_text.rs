//! Hosts whose TLS does not work, so that not every message waits for a handshake that will fail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::time::Timestamp;

/// A bounded memory of host names.
pub(super) struct ClearText {
    until: Mutex<HashMap<Arc<str>, Timestamp>>,
    hosts_max: usize,
    memory: Duration,
}

impl ClearText {
    pub fn new(hosts_max: usize, memory: Duration) -> ClearText {
        ClearText { until: Mutex::default(), hosts_max, memory }
    }

    pub fn knows(&self, host: &str, now: Timestamp) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).get(host).is_some_and(|until| now < *until)
    }

    /// A full memory forgets what has passed, and if nothing has, does not take the new one: that host then costs a
    /// handshake each time, which is all that is lost.
    pub fn remember(&self, host: &Arc<str>, now: Timestamp) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= self.hosts_max {
            until.retain(|_, until| now < *until);
        }
        if until.len() < self.hosts_max {
            until.insert(host.clone(), now.after(self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_remembered_for_its_time_and_the_memory_is_bounded() {
        let clear = ClearText::new(2, Duration::from_secs(10));
        let at = Timestamp::from_secs;
        clear.remember(&"a".into(), at(0));
        clear.remember(&"b".into(), at(5));
        clear.remember(&"c".into(), at(6));
        assert!(clear.knows("a", at(9)) && clear.knows("b", at(14)) && !clear.knows("c", at(6)));
        assert!(!clear.knows("a", at(10)));
        clear.remember(&"c".into(), at(11));
        assert!(clear.knows("c", at(12)) && clear.knows("b", at(12)));
    }
}
