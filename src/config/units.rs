//! How durations, sizes, addresses and names are written in the config, and how they are read by serde.
//!
//! Called by the structs of `config` through `deserialize_with`. Every message says what would be right, since toml
//! adds the place and the reader sees nothing else.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Visitor};

use crate::size::ByteSize;
use crate::traffic::{Rate, Rates};

const DURATION_RIGHT: &str = "a duration such as \"90s\", \"15m\", \"4h\" or \"5d\" is expected";
const SIZE_RIGHT: &str = "a size such as \"512 KiB\" or \"25 MiB\" is expected";

/// Reads `90s`, `15m`, `1h 30m`, `5d`, `2w`, `250ms`.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    let mut terms = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| DURATION_RIGHT)?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(DURATION_RIGHT),
        };
        let term = number.checked_mul(millis).map(Duration::from_millis);
        total = term.and_then(|term| total.checked_add(term)).ok_or(DURATION_RIGHT)?;
        rest = after.trim_start();
        terms += 1;
    }
    match terms {
        0 => Err(DURATION_RIGHT),
        _ => Ok(total),
    }
}

/// Reads `512 B`, `64 KiB`, `25 MiB`, `1 GiB`, and the decimal `KB`, `MB`, `GB`.
///
/// # Errors
/// What would be right.
pub fn parse_size(text: &str) -> Result<ByteSize, &'static str> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| SIZE_RIGHT)?;
    let unit: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(SIZE_RIGHT),
    };
    number.checked_mul(unit).map(ByteSize).ok_or(SIZE_RIGHT)
}

/// A duration as the config writes it: `5d`, `90s`, `1h 30m`.
pub fn show_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 5] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let mut left = duration.as_millis();
    let mut terms = Vec::new();
    for (unit, name) in UNITS {
        if left >= unit {
            terms.push(format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    match terms.is_empty() {
        true => "0s".to_owned(),
        false => terms.join(" "),
    }
}

/// A part of a whole, in millionths; written `0.3%`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Share(pub u32);

impl Written for Share {
    const RIGHT: &'static str = "a share such as \"0.3%\" is expected, over 0% and up to 100%";

    fn read(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').map(str::trim_end).filter(|number| number.len() <= 8);
        let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
        let millionths = number.and_then(|number| number.parse::<f64>().ok()).map(|percent| (percent * 1e4).round());
        let fits = millionths.filter(|millionths| (1.0..=1e6).contains(millionths));
        fits.map(|millionths| Share(millionths as u32)).ok_or_else(|| Self::RIGHT.to_owned())
    }
}

/// `deserialize_with` for a duration.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer
        .deserialize_str(Text { right: DURATION_RIGHT, parse: |text| parse_duration(text).map_err(str::to_owned) })
}

/// `deserialize_with` for a duration that may be absent.
pub fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// `deserialize_with` for a size.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    deserializer.deserialize_str(Text { right: SIZE_RIGHT, parse: |text| parse_size(text).map_err(str::to_owned) })
}

/// `deserialize_with` for whatever is read from a text: names, addresses, sockets.
pub fn parsed<'de, D: Deserializer<'de>, T: Written>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { right: T::RIGHT, parse: T::read })
}

/// As [`parsed`], for a key that may be absent.
pub fn some_parsed<'de, D: Deserializer<'de>, T: Written>(deserializer: D) -> Result<Option<T>, D::Error> {
    parsed(deserializer).map(Some)
}

/// As [`parsed`], for a list.
pub fn parsed_list<'de, D: Deserializer<'de>, T: Written>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(List(PhantomData))
}

/// As [`parsed_list`], for a key that may be absent.
pub fn some_parsed_list<'de, D: Deserializer<'de>, T: Written>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    parsed_list(deserializer).map(Some)
}

/// A value that the config writes as a text.
pub trait Written: Sized {
    /// What is right: "an IP address such as \"203.0.113.10\" is expected".
    const RIGHT: &'static str;
    /// Reads it.
    ///
    /// # Errors
    /// What would be right, or what is wrong in particular.
    fn read(text: &str) -> Result<Self, String>;
}

/// [`Written`] by way of `FromStr`, whose own error says nothing that the sentence does not.
macro_rules! written {
    ($($type:ty: $right:expr;)*) => {$(
        impl Written for $type {
            const RIGHT: &'static str = $right;
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| Self::RIGHT.to_owned())
            }
        }
    )*};
}

written! {
    crate::mail::Domain: "a domain name such as \"example.com\" is expected";
    crate::mail::Address: "a mail address such as \"ops@example.com\" is expected";
    std::net::IpAddr: "an IP address such as \"203.0.113.10\" or \"2001:db8::10\" is expected";
    crate::suppression::Cause: "hard_bounce, soft_bounce, complaint, unsubscribe, manual or import is expected";
    std::net::SocketAddr: "an address and a port such as \"0.0.0.0:587\" or \"[::]:587\" is expected";
}

impl Written for ipnet::IpNet {
    const RIGHT: &'static str = "a network such as \"10.0.0.0/8\", or an address such as \"::1\", is expected";

    fn read(text: &str) -> Result<Self, String> {
        let alone = || std::net::IpAddr::from_str(text).map(ipnet::IpNet::from);
        let network: ipnet::IpNet = text.parse().or_else(|_| alone()).map_err(|_| Self::RIGHT.to_owned())?;
        match network.trunc() == network {
            true => Ok(network),
            // "10.1.2.3/8" is nearly always a slip of the pen, and trusting 10.0.0.0/8 a dangerous reading of it.
            false => Err(format!("the address has bits set beyond its prefix; \"{}\" may be meant", network.trunc())),
        }
    }
}

impl Written for Rate {
    const RIGHT: &'static str = "a rate such as \"100/1h\" is expected: 1 to 100000000, in 1s to 1d";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || Self::RIGHT.to_owned();
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        let per = parse_duration(per).map_err(|_| wrong())?;
        let sound = (1..=100_000_000).contains(&count)
            && (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&per)
            && per.subsec_nanos() == 0;
        sound.then_some(Rate { count, per }).ok_or_else(wrong)
    }
}

/// `deserialize_with` for the windows of one unit: four rates at most, each of another length.
pub fn rates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rates, D::Error> {
    let all: Vec<Rate> = parsed_list(deserializer)?;
    let twice = all.iter().enumerate().any(|(place, rate)| all[..place].iter().any(|other| other.per == rate.per));
    match Rates::new(&all) {
        Some(rates) if !twice => Ok(rates),
        Some(_) | None => Err(D::Error::custom("up to four rates are expected, each with another time")),
    }
}

/// As [`rates`], for a key that may be absent.
pub fn some_rates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rates>, D::Error> {
    rates(deserializer).map(Some)
}

/// A rate as the config writes it: `100/1h`.
pub fn show_rate(rate: Rate) -> String {
    format!("{}/{}", rate.count, show_duration(rate.per))
}

struct Text<T> {
    right: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.right.trim_end_matches(" is expected"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

struct List<T>(PhantomData<T>);

impl<'de, T: Written> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list in brackets, of which each is {}", T::RIGHT.trim_end_matches(" is expected"))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Item(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list)
    }
}

struct Item<T>(T);

impl<'de, T: Written> serde::Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer).map(Item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit_and_never_without() {
        for (text, want) in [
            ("90s", 90_000),
            ("15m", 900_000),
            ("4h", 14_400_000),
            ("5d", 432_000_000),
            ("2w", 1_209_600_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            (" 1h 30m ", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(want)), "{text}");
        }
        for bad in ["", "5", "d", "5 d", "5D", "-5d", "1.5h", "5days", "99999999999999999999s", "18446744073709551615w"]
        {
            assert_eq!(parse_duration(bad), Err(DURATION_RIGHT), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit_and_never_without() {
        for (text, want) in
            [("25 MiB", 25 << 20), ("512KiB", 512 << 10), ("1 GiB", 1 << 30), ("100 B", 100), ("10 MB", 10_000_000)]
        {
            assert_eq!(parse_size(text), Ok(ByteSize(want)), "{text}");
        }
        for bad in ["", "25", "MiB", "25 mib", "25 M", "-1 B", "1.5 MiB", "99999999999 GiB"] {
            assert_eq!(parse_size(bad), Err(SIZE_RIGHT), "{bad:?}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_may_be_written() {
        for text in ["5d", "1h 30m", "90s", "0s", "250ms"] {
            let read = parse_duration(text);
            assert_eq!(read.map(show_duration).as_deref().and_then(|shown| parse_duration(shown).map_err(|_| &"")), {
                read.map_err(|_| &"")
            });
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "1h 30m");
    }
}
