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

/// `Nov  1 10:00:00`, in the machine's zone: how mail logs begin (RFC 3164 §4.1.2).
pub fn syslog_time(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).ok();
    match millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok()) {
        Some(instant) => instant.to_zoned(jiff::tz::TimeZone::system()).strftime("%b %e %H:%M:%S").to_string(),
        None => "Jan  1 00:00:00".to_owned(),
    }
}

/// A named time zone: where calendar days begin and end.
///
/// Its rules are compiled in, so that asking reads no file and answers alike on every machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone(jiff::tz::TimeZone);

impl Zone {
    /// UTC: days of 24 hours, always.
    pub const UTC: Zone = Zone(jiff::tz::TimeZone::UTC);

    /// The zone of an IANA name, such as `Europe/Berlin`. `None`: there is no such zone.
    pub fn named(name: &str) -> Option<Zone> {
        jiff::tz::TimeZone::get(name).ok().map(Zone)
    }

    /// Its IANA name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The calendar day that holds a moment, counted from 1970-01-01. Before that, and past the calendar's end: 0.
    pub fn day(&self, at: Timestamp) -> u32 {
        let instant = i64::try_from(at.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        let date = instant.map(|instant| self.0.to_datetime(instant).date());
        let days = date.and_then(|date| date.since(EPOCH).ok()).map_or(0, |span| span.get_days());
        u32::try_from(days).unwrap_or(0)
    }

    /// When a full hour of a day begins; hour 24 is the next day's start. An hour that the clocks skip begins when they
    /// do, and of one that they repeat the first counts.
    pub fn hour(&self, day: u32, hour: u8) -> Timestamp {
        let day = i64::from(day) + i64::from(hour / 24);
        let date = EPOCH.checked_add(jiff::Span::new().days(day.min(DAYS_MAX)));
        let clock = date.map(|date| date.at(i8::try_from(hour % 24).unwrap_or(0), 0, 0, 0));
        let instant = clock.and_then(|clock| self.0.to_timestamp(clock));
        let millis = instant.ok().and_then(|instant| u64::try_from(instant.as_millisecond()).ok());
        Timestamp(millis.unwrap_or(0))
    }
}

const EPOCH: jiff::civil::Date = jiff::civil::date(1970, 1, 1);
/// Past the year 9000; keeps arithmetic on damaged numbers inside the calendar.
const DAYS_MAX: i64 = 2_600_000;

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
    fn a_day_of_a_zone_has_23_to_25_hours() {
        let zone = Zone::named("Europe/Berlin").unwrap();
        let rows = [("2026-03-29", 20_541, 23), ("2026-10-25", 20_751, 25), ("2026-11-21", 20_778, 24)];
        for (date, day, hours) in rows {
            let starts = zone.hour(day, 0);
            let ends = zone.hour(day, 24);
            assert_eq!(ends.since(starts), Duration::from_secs(hours * 3600), "{date}");
            assert_eq!((zone.day(starts), zone.day(ends)), (day, day + 1), "{date}");
            assert_eq!(zone.day(ends.before(Duration::from_millis(1))), day, "{date}");
        }
        assert_eq!(zone.hour(20_541, 2).rfc3339(), "2026-03-29T01:00:00.000Z", "the skipped hour begins at 3:00");
        assert!(Zone::named("Europe/Atlantis").is_none());
        assert_eq!((Zone::UTC.day(Timestamp::NEVER), Zone::UTC.hour(u32::MAX, 24).0 > 0), (0, true));
        assert_eq!((zone.name(), Zone::UTC.name()), ("Europe/Berlin", "UTC"));
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
