//! Points in time as the spool, the queue and the engines carry them.
//!
//! Nothing here reads a clock: `now` is always an argument, taken from `crate::clock` by the rooms that
//! touch the world. That is what lets the same code run in a test, under a fuzzer and on a simulated clock.

mod moment;

use std::fmt;
use std::time::Duration;

pub use moment::MomentError;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds ignored.
///
/// Never negative. Arithmetic saturates, so that a damaged value read from a disk cannot panic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch, and what an absent time reads as.
    pub const ZERO: Timestamp = Timestamp(0);
    /// Later than every real time; means "never".
    pub const NEVER: Timestamp = Timestamp(u64::MAX);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Timestamp(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Timestamp(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This much later.
    pub fn after(self, wait: Duration) -> Self {
        Timestamp(self.0.saturating_add(millis(wait)))
    }

    /// This much earlier.
    pub fn before(self, wait: Duration) -> Self {
        Timestamp(self.0.saturating_sub(millis(wait)))
    }

    /// How long it is since `earlier`; zero if that lies in the future.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `2026-11-21T10:00:00.000Z` (RFC 3339), for logs, JSON and listings.
    pub fn rfc3339(self) -> String {
        match self.civil() {
            Some(c) => format!("{}.{:03}Z", c.strftime("%Y-%m-%dT%H:%M:%S"), self.0 % 1000),
            None => "never".to_owned(),
        }
    }

    /// `Sat, 21 Nov 2026 10:00:00 +0000`, for header fields (RFC 5322 §3.3).
    pub fn rfc5322(self) -> String {
        match self.civil() {
            Some(c) => c.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
            None => "Thu, 01 Jan 1970 00:00:00 +0000".to_owned(),
        }
    }

    /// From `20261121100000Z`: the times of certificates, as DER has them (RFC 5280 §4.1.2.5.2).
    pub fn parse_der(text: &str) -> Option<Timestamp> {
        let digits = text.strip_suffix('Z').filter(|digits| digits.len() == 14)?;
        let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", digits).ok()?;
        let instant = jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()?;
        u64::try_from(instant.as_millisecond()).ok().map(Timestamp)
    }

    fn civil(self) -> Option<jiff::civil::DateTime> {
        let millis = i64::try_from(self.0).ok()?;
        let instant = jiff::Timestamp::from_millisecond(millis).ok()?;
        Some(jiff::tz::TimeZone::UTC.to_datetime(instant))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_the_standards_write_it() {
        let at = Timestamp::from_millis(1_795_255_200_123);
        assert_eq!(at.rfc3339(), "2026-11-21T10:00:00.123Z");
        assert_eq!(at.rfc5322(), "Sat, 21 Nov 2026 10:00:00 +0000");
    }

    #[test]
    fn a_certificate_s_time_is_read_to_the_second_and_in_one_form_only() {
        let at = Timestamp::parse_der("20261121100000Z");
        assert_eq!(at, Some(Timestamp::from_secs(1_795_255_200)));
        let wrong =
            ["", "Z", "20261121100000", "20261321100000Z", "202611211000Z", "20261121100000+0000", "2026112110000xZ"];
        for text in wrong.into_iter().chain(["19691121100000Z"]) {
            assert_eq!(Timestamp::parse_der(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_damaged_time_saturates_and_never_panics() {
        assert_eq!(Timestamp::NEVER.after(Duration::MAX), Timestamp::NEVER);
        assert_eq!(Timestamp::ZERO.before(Duration::from_secs(1)), Timestamp::ZERO);
        assert_eq!(Timestamp::ZERO.since(Timestamp::NEVER), Duration::ZERO);
        assert_eq!(Timestamp::NEVER.rfc3339(), "never");
        assert!(!Timestamp::from_millis(u64::MAX - 1).rfc5322().is_empty());
    }
}
