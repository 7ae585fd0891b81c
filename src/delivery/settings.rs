//! The timeouts and bounds of delivery.

use std::collections::HashMap;
use std::time::Duration;

use crate::retry::Schedule;

/// How patient delivery is with peers. Filled from `[delivery]` in the config.
///
/// The defaults are those of RFC 5321 §4.5.3.2. Shorter ones give up on slow but honest peers; after the final dot they
/// cause duplicates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Longest wait for a TCP connection. Unit: seconds. Default 30: an address that does not answer by then will not,
    /// and others are waiting to be tried.
    pub connect_timeout: Duration,
    /// Longest wait for the 220 greeting. Unit: seconds. Default 300: RFC 5321 §4.5.3.2.1.
    pub greeting_timeout: Duration,
    /// Longest wait for the reply to EHLO, HELO and STARTTLS. Unit: seconds. Default 300: as for MAIL.
    pub hello_timeout: Duration,
    /// Longest TLS handshake. Unit: seconds. Default 60, so that mail still goes in clear within five minutes where TLS
    /// fails on every host.
    pub tls_timeout: Duration,
    /// Longest AUTH step to a smarthost. Unit: seconds. Default 120: it may ask a directory.
    pub auth_timeout: Duration,
    /// Longest wait for the reply to MAIL. Unit: seconds. Default 300: RFC 5321 §4.5.3.2.2.
    pub mail_timeout: Duration,
    /// Longest wait for the reply to one RCPT. Unit: seconds. Default 300: RFC 5321 §4.5.3.2.3.
    pub rcpt_timeout: Duration,
    /// Longest wait for the 354. Unit: seconds. Default 120: RFC 5321 §4.5.3.2.4.
    pub data_timeout: Duration,
    /// Longest time in which no byte of the message could be written. Unit: seconds. Default 180: RFC 5321 §4.5.3.2.5.
    pub block_timeout: Duration,
    /// Longest wait for the reply to the final dot. Unit: seconds. Default 600: RFC 5321 §4.5.3.2.6, because the peer may
    /// only now be scanning the message. Shorter values cause duplicates, not losses.
    pub final_dot_timeout: Duration,
    /// Longest wait for the peer's end of the connection after QUIT; until then the slot counts as taken. Unit: seconds.
    /// Default 30.
    pub close_timeout: Duration,
    /// Longest time for making a connection over all its addresses, and again for each transaction; to the latter comes
    /// the time that the message needs at `bytes_per_second_min`. Unit: minutes. Default 30: whatever a peer does, a slot
    /// is not held for longer.
    pub attempt_timeout: Duration,
    /// Slowest pace of a message on its way out, on average. Unit: octets per second. Default 500. At least 1.
    pub bytes_per_second_min: u64,
    /// Addresses tried for one connection. Default 5, 1 to 100.
    pub addresses_max: usize,
    /// How long a host whose TLS handshake failed, and which then took mail in clear, is given it in clear at once.
    /// Unit: hours. Default 24. Only where TLS is opportunistic.
    pub clear_text_memory: Duration,
    /// How many such hosts are remembered. Default 10,000.
    pub clear_text_hosts_max: usize,
    /// The waits between attempts, of mail whose stream has none of its own.
    pub retry: Schedule,
    /// The waits between attempts, by stream. Default: none.
    pub stream_retry: HashMap<Box<str>, Schedule>,
}

impl Settings {
    /// The waits of a stream's mail.
    pub fn retry_of(&self, stream: &str) -> Schedule {
        self.stream_retry.get(stream).copied().unwrap_or(self.retry)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connect_timeout: Duration::from_secs(30),
            greeting_timeout: Duration::from_secs(300),
            hello_timeout: Duration::from_secs(300),
            tls_timeout: Duration::from_secs(60),
            auth_timeout: Duration::from_secs(120),
            mail_timeout: Duration::from_secs(300),
            rcpt_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(120),
            block_timeout: Duration::from_secs(180),
            final_dot_timeout: Duration::from_secs(600),
            close_timeout: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(30 * 60),
            bytes_per_second_min: 500,
            addresses_max: 5,
            clear_text_memory: Duration::from_secs(24 * 3600),
            clear_text_hosts_max: 10_000,
            retry: Schedule::default(),
            stream_retry: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_its_own_waits_or_those_of_all() {
        let otp = Schedule { minimum: Duration::from_secs(30), ..Schedule::default() };
        let settings = Settings { stream_retry: HashMap::from([("otp".into(), otp)]), ..Settings::default() };
        assert_eq!(settings.retry_of("otp"), otp);
        assert_eq!(settings.retry_of("transactional"), Schedule::default());
    }
}
