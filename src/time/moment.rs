//! Times as clients write them, in header fields, in JSON and behind HOLDUNTIL.

use jiff::civil;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::tz::TimeZone;

use super::Timestamp;

/// No time of any form is longer. Unit: octets.
const LENGTH_MAX: usize = 128;

/// Why a text is no time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MomentError {
    /// None of the forms.
    #[error(
        "a time such as \"Fri, 27 Nov 2026 09:00:00 +0100\", \"2026-11-27T09:00:00+01:00\" or \
         \"2026-11-27T09:00[Europe/Berlin]\" is expected"
    )]
    Unreadable,
    /// A time of day that is another everywhere.
    #[error("it names no zone; append Z, an offset such as +01:00, or a zone such as [Europe/Berlin]")]
    NoZone,
    /// IANA knows none of that name, or its offset then is another.
    #[error("there is no such time in a zone of that name")]
    Zone,
}

impl Timestamp {
    /// Reads an RFC 5322 date, an RFC 3339 one, or a local time with an IANA zone in brackets (RFC 9557).
    ///
    /// A local time that a change of clocks skips is as much later; one that comes twice is the first of the two. What
    /// is before 1970 reads as 1970.
    ///
    /// # Errors
    /// What would be right.
    pub fn read(text: &str) -> Result<Timestamp, MomentError> {
        let text = text.trim();
        if text.len() > LENGTH_MAX {
            return Err(MomentError::Unreadable);
        }
        if text.ends_with(']') {
            let zoned: jiff::Zoned = text.parse().map_err(|_| MomentError::Zone)?;
            return Ok(of(zoned.timestamp()));
        }
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return Ok(of(instant));
        }
        // Clients get the weekday wrong more often than the date.
        if let Ok(zoned) = DateTimeParser::new().relaxed_weekday(true).parse_zoned(text) {
            return Ok(of(zoned.timestamp()));
        }
        match text.parse::<civil::DateTime>() {
            Ok(_) => Err(MomentError::NoZone),
            Err(_) => Err(MomentError::Unreadable),
        }
    }

    /// Reads a local time of UTC without a zone (`2026-11-27 09:00:00`), or whatever [`Timestamp::read`] reads.
    ///
    /// # Errors
    /// As [`Timestamp::read`].
    pub fn read_utc(text: &str) -> Result<Timestamp, MomentError> {
        match (Timestamp::read(text), text.trim().parse::<civil::DateTime>()) {
            (Err(MomentError::NoZone), Ok(local)) => {
                let zoned = local.to_zoned(TimeZone::UTC).map_err(|_| MomentError::Unreadable)?;
                Ok(of(zoned.timestamp()))
            }
            (read, _) => read,
        }
    }
}

fn of(instant: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(u64::try_from(instant.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_every_form_that_clients_write() {
        let nine_utc = "2026-11-27T09:00:00.000Z";
        let rows = [
            ("Fri, 27 Nov 2026 09:00:00 +0000", nine_utc),
            ("Fri, 27 Nov 2026 10:00:00 +0100", nine_utc),
            (" 27 Nov 2026 09:00 GMT ", nine_utc),
            ("Mon, 27 Nov 2026 04:00:00 EST", nine_utc),
            ("2026-11-27T09:00:00Z", nine_utc),
            ("2026-11-27T10:00:00+01:00", nine_utc),
            ("2026-11-27 14:30:00+05:30", nine_utc),
            ("2026-11-27T09:00:00.5Z", "2026-11-27T09:00:00.500Z"),
            ("2026-11-27T10:00[Europe/Berlin]", nine_utc),
            ("2026-11-27 10:00:00[Europe/Berlin]", nine_utc),
            ("2026-11-27T10:00:00+01:00[Europe/Berlin]", nine_utc),
            ("2026-07-01T11:00[Europe/Berlin]", "2026-07-01T09:00:00.000Z"),
            // Skipped: 02:30 is as long after 02:00 as 03:30 summer time. Twice: the first, still in summer time.
            ("2026-03-29T02:30[Europe/Berlin]", "2026-03-29T01:30:00.000Z"),
            ("2026-10-25T02:30[Europe/Berlin]", "2026-10-25T00:30:00.000Z"),
            ("1950-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ];
        for (text, want) in rows {
            assert_eq!(Timestamp::read(text).map(Timestamp::rfc3339).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(Timestamp::read_utc("2026-11-27 09:00:00").map(Timestamp::rfc3339).as_deref(), Ok(nine_utc));
        assert_eq!(Timestamp::read_utc("2026-11-27T10:00+01:00").map(Timestamp::rfc3339).as_deref(), Ok(nine_utc));
    }

    #[test]
    fn what_is_no_time_is_told_what_would_be_right() {
        use MomentError::{NoZone, Unreadable, Zone};
        let long = "2026-11-27T09:00:00Z".repeat(20);
        let rows = [
            ("", Unreadable),
            ("tomorrow", Unreadable),
            ("1795255200", Unreadable),
            ("2026-13-27T09:00:00Z", Unreadable),
            ("2026-11-31T09:00:00Z", Unreadable),
            ("Fri, 31 Nov 2026 09:00:00 +0000", Unreadable),
            (&long, Unreadable),
            ("2026-11-27T09:00:00", NoZone),
            ("2026-11-27 09:00", NoZone),
            ("2026-11-27T09:00[Europe/Nowhere]", Zone),
            ("2026-11-27T09:00[../../etc/passwd]", Zone),
            ("2026-11-27T09:00:00+05:00[Europe/Berlin]", Zone),
            ("[Europe/Berlin]", Zone),
        ];
        for (text, want) in rows {
            assert_eq!(Timestamp::read(text), Err(want), "{text}");
        }
    }
}
