//! Times as people read and write them on the command line: `4h`, `in 15m`, `2d ago`.

use std::time::Duration;

use crate::clock;
use crate::time::Timestamp;

const UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];

/// The moment at which a listing is made.
#[derive(Clone, Copy, Debug)]
pub struct Now(Timestamp);

impl Now {
    /// The system's time.
    pub fn of_system() -> Now {
        Now(clock::system_time())
    }

    /// A time of a test's own.
    #[cfg(test)]
    pub fn at(text: &str) -> Now {
        parse(text).map(Now).unwrap_or_else(|| panic!("{text} is no time"))
    }

    /// How long ago an RFC 3339 time was: `3h`; `-` if it is none.
    pub fn since(self, at: &str) -> String {
        parse(at).map_or_else(|| "-".to_owned(), |at| short(self.0.since(at)))
    }

    /// How long until then: `in 15m`, `now`, `never`.
    pub fn until(self, at: &str) -> String {
        match parse(at) {
            None => at.to_owned(),
            Some(at) if at <= self.0 => "now".to_owned(),
            Some(at) => format!("in {}", short(at.since(self.0))),
        }
    }
}

/// Reads `90s`, `30m`, `4h`, `2d`, `1w`, or a bare number of seconds.
///
/// # Errors
/// One sentence that says what would be right.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let factor = match unit {
        "" => Some(1),
        unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    let secs = digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    secs.map(Duration::from_secs).ok_or_else(|| "a number and s, m, h, d or w is expected, like 30m".to_owned())
}

/// Reads a moment: `2d` ago, or an RFC 3339 time, or a day (its begin, UTC).
///
/// # Errors
/// One sentence that says what would be right.
pub fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let day = if text.len() == 10 { parse(&format!("{text}T00:00:00Z")) } else { None };
    if let Some(at) = parse(text).or(day) {
        return Ok(at);
    }
    let age = parse_age(text).map_err(|_| "a time like 2026-11-25T13:00:00Z, a day, or an age like 2d is expected")?;
    Ok(clock::system_time().before(age))
}

fn parse(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(instant.as_millisecond()).ok().map(Timestamp::from_millis)
}

/// A duration in its largest whole unit, two digits where that is coarse: `45s`, `15m`, `4h`, `36h`, `5d`.
fn short(wait: Duration) -> String {
    let secs = wait.as_secs();
    match secs {
        0..=119 => format!("{secs}s"),
        120..=7199 => format!("{}m", secs / 60),
        7200..=172_799 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        for (text, want) in
            [("90s", Some(90)), ("30m", Some(1800)), ("4h", Some(14_400)), ("2d", Some(172_800)), ("7", Some(7))]
        {
            assert_eq!(parse_age(text).ok().map(|age| age.as_secs()), want, "{text}");
        }
        for bad in ["", "m", "1.5h", "4 h", "4y", "-1h", "99999999999999999999d", "18446744073709551615w"] {
            assert!(parse_age(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_shown_relative_to_now() {
        let now = Now(Timestamp::from_secs(1_795_255_200));
        for (at, since, until) in [
            ("2026-11-21T10:00:00.000Z", "0s", "now"),
            ("2026-11-21T09:15:00Z", "45m", "now"),
            ("2026-11-21T14:30:00Z", "0s", "in 4h"),
            ("2026-11-26T10:00:00Z", "0s", "in 5d"),
            ("never", "-", "never"),
        ] {
            assert_eq!((now.since(at).as_str(), now.until(at).as_str()), (since, until), "{at}");
        }
    }
}
