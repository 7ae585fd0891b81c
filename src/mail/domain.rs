//! A host or mail domain name.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name in text form (RFC 1035 §2.3.4), without the final dot.
const LENGTH_MAX: usize = 253;

/// A domain name in the form that DNS and SMTP peers without SMTPUTF8 take: ASCII, lower case, A-labels
/// (RFC 5890), no final dot, 1 to 253 octets. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `parent` or a name below it.
    pub fn is_within(&self, parent: &Domain) -> bool {
        match self.0.strip_suffix(&*parent.0) {
            Some(rest) => rest.is_empty() || rest.ends_with('.'),
            None => false,
        }
    }
}

/// Why a text is no domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a domain name: letters, digits, hyphens and dots are expected, 253 at most")]
pub struct DomainError;

impl FromStr for Domain {
    type Err = DomainError;

    /// Takes U-labels and A-labels in any case. Underscores are taken, since names with them are in use.
    fn from_str(text: &str) -> Result<Self, DomainError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let ascii: Cow<'_, str> = match text.is_ascii() {
            true if !text.bytes().any(|octet| octet.is_ascii_uppercase()) => text.into(),
            true => text.to_ascii_lowercase().into(),
            // UTS 46 as browsers apply it; refuses what no registry would register.
            false => idna::domain_to_ascii_strict(text).map_err(|_| DomainError)?.into(),
        };
        let sound = !ascii.is_empty() && ascii.len() <= LENGTH_MAX && ascii.split('.').all(is_label);
        match sound {
            true => Ok(Domain(ascii.into())),
            false => Err(DomainError),
        }
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_converted_or_refused() {
        let good = [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("localhost", "localhost"),
        ];
        for (text, want) in good {
            assert_eq!(text.parse::<Domain>().map(|d| d.to_string()), Ok(want.to_owned()));
        }
        let long = format!("{}.example", "a".repeat(64));
        for bad in ["", ".", "a..b", "-a.example", "a b", "a\r\nb", "a>b", "[192.0.2.1]", &long, "a@b", "\u{0}"] {
            assert_eq!(bad.parse::<Domain>(), Err(DomainError), "{bad:?}");
        }
    }

    #[test]
    fn a_subdomain_is_within_and_a_lookalike_is_not() {
        let parent: Domain = "example.com".parse().unwrap();
        for (name, want) in [("example.com", true), ("a.example.com", true), ("badexample.com", false), ("com", false)]
        {
            assert_eq!(name.parse::<Domain>().unwrap().is_within(&parent), want, "{name}");
        }
    }
}
