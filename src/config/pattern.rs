//! How the config names domains and hosts: `example.com` with all below it, `=example.com` alone, `*` for any.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::units::{self, Written};
use crate::mail::{Address, Domain};

/// A domain and its subdomains, or the domain alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DomainPattern {
    /// The name.
    pub domain: Domain,
    /// `=example.com`: its subdomains are not meant.
    pub alone: bool,
}

impl DomainPattern {
    /// Whether a domain is meant.
    pub fn matches(&self, domain: &Domain) -> bool {
        match self.alone {
            true => *domain == self.domain,
            false => domain.is_within(&self.domain),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.alone { "=" } else { "" }, self.domain)
    }
}

impl Written for DomainPattern {
    const RIGHT: &'static str =
        "a domain such as \"example.com\", or \"=example.com\" without its subdomains, is expected";

    fn read(text: &str) -> Result<Self, String> {
        let (name, alone) = match text.strip_prefix('=') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let domain = name.parse().map_err(|_| Self::RIGHT.to_owned())?;
        Ok(DomainPattern { domain, alone })
    }
}

/// Which recipients a route is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RecipientPattern {
    /// `*`
    Any,
    /// A domain.
    Domain(DomainPattern),
    /// `.example.com`: its subdomains alone.
    Below(Domain),
    /// One address.
    Address(Address),
}

impl RecipientPattern {
    /// Whether all of a domain is meant.
    pub fn matches(&self, domain: &Domain) -> bool {
        match self {
            RecipientPattern::Any => true,
            RecipientPattern::Domain(pattern) => pattern.matches(domain),
            RecipientPattern::Below(parent) => domain != parent && domain.is_within(parent),
            RecipientPattern::Address(_) => false,
        }
    }
}

impl fmt::Display for RecipientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecipientPattern::Any => f.write_str("*"),
            RecipientPattern::Domain(pattern) => pattern.fmt(f),
            RecipientPattern::Below(parent) => write!(f, ".{parent}"),
            RecipientPattern::Address(address) => address.fmt(f),
        }
    }
}

impl Written for RecipientPattern {
    const RIGHT: &'static str =
        "\"*\", a domain such as \"example.com\", or \"=example.com\" without its subdomains, is expected";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || Self::RIGHT.to_owned();
        if text == "*" {
            return Ok(RecipientPattern::Any);
        }
        if text.contains('@') {
            return text.parse().map(RecipientPattern::Address).map_err(|_| wrong());
        }
        if let Some(parent) = text.strip_prefix('.') {
            return parent.parse().map(RecipientPattern::Below).map_err(|_| wrong());
        }
        DomainPattern::read(text).map(RecipientPattern::Domain).map_err(|_| wrong())
    }
}

/// Whose mail a route is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum SenderPattern {
    /// `<>`: reports.
    Null,
    /// `@example.com`: every envelope sender there, and none below it.
    Domain(Domain),
    /// One envelope sender.
    Address(Address),
}

impl fmt::Display for SenderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SenderPattern::Null => f.write_str("<>"),
            SenderPattern::Domain(domain) => write!(f, "@{domain}"),
            SenderPattern::Address(address) => address.fmt(f),
        }
    }
}

impl Written for SenderPattern {
    const RIGHT: &'static str =
        "an envelope sender such as \"a@example.com\", \"@example.com\" for a domain, or \"<>\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || Self::RIGHT.to_owned();
        match (text, text.strip_prefix('@')) {
            ("<>", _) => Ok(SenderPattern::Null),
            (_, Some(domain)) => domain.parse().map(SenderPattern::Domain).map_err(|_| wrong()),
            (_, None) => text.parse().map(SenderPattern::Address).map_err(|_| wrong()),
        }
    }
}

/// A host to hand mail to instead of the MX.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NextHop {
    /// A name or an address literal without brackets; empty: the recipient's domain.
    pub host: String,
    /// Its own port; absent: the route's.
    pub port: Option<u16>,
    /// `mx:`: the name's MX hosts are meant, and not the host of this name.
    pub mx: bool,
}

impl NextHop {
    /// `mx:` alone: where DNS says.
    pub fn is_usual(&self) -> bool {
        self.mx && self.host.is_empty()
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mx {
            f.write_str("mx:")?;
        }
        match (self.port, self.host.contains(':')) {
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (None, _) => f.write_str(&self.host),
        }
    }
}

impl Written for NextHop {
    const RIGHT: &'static str =
        "a host such as \"smtp.example.net\", \"smtp.example.net:587\" or \"[2001:db8::1]:25\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || Self::RIGHT.to_owned();
        match text.strip_prefix("mx:") {
            Some("") => return Ok(NextHop { host: String::new(), port: None, mx: true }),
            Some(name) => {
                let hop = NextHop::read(name).map_err(|_| wrong())?;
                let is_name = IpAddr::from_str(&hop.host).is_err() && !hop.mx;
                return is_name.then_some(NextHop { mx: true, ..hop }).ok_or_else(wrong);
            }
            None => {}
        }
        // Postfix's way to write that a name is not looked up by MX.
        let in_brackets = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((name, rest)) = in_brackets.filter(|(name, _)| name.parse::<IpAddr>().is_err()) {
            return match name.contains([':', '[']) || !(rest.is_empty() || rest.starts_with(':')) {
                true => Err(wrong()),
                false => NextHop::read(&format!("{name}{rest}")),
            };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if IpAddr::from_str(bare).is_ok() {
            return Ok(NextHop { host: bare.to_owned(), port: None, mx: false });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port: u16 = port.parse().map_err(|_| wrong())?;
                (host, Some(port).filter(|port| *port > 0).ok_or_else(wrong)?.into())
            }
            None => (text, None),
        };
        if let Some(literal) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            IpAddr::from_str(literal).map_err(|_| wrong())?;
            return Ok(NextHop { host: literal.to_owned(), port, mx: false });
        }
        if IpAddr::from_str(host).is_ok_and(|address| address.is_ipv4()) {
            return Ok(NextHop { host: host.to_owned(), port, mx: false });
        }
        let name: Domain = host.parse().map_err(|_| wrong())?;
        // 300.1.2.3 would be looked up as a name, and fail with a riddle.
        let numeric = name.as_str().split('.').next_back().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
        match numeric {
            true => Err(wrong()),
            false => Ok(NextHop { host: name.to_string(), port, mx: false }),
        }
    }
}

/// A member of a pool: `"a"`, or `{ source = "a", weight = 3 }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The source's name.
    pub source: String,
    /// Its share against the others of the pool. 1 to 1000, default 1.
    pub weight: u32,
}

impl Member {
    /// With weight 1.
    pub fn new(source: &str) -> Member {
        Member { source: source.to_owned(), weight: 1 }
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor)
    }
}

struct MemberVisitor;

impl<'de> serde::de::Visitor<'de> for MemberVisitor {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a source's name such as \"a\", or { source = \"a\", weight = 3 }")
    }

    fn visit_str<E>(self, name: &str) -> Result<Member, E> {
        Ok(Member::new(name))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Member, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Weighted {
            source: String,
            weight: u32,
        }
        let Weighted { source, weight } = Weighted::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        Ok(Member { source, weight })
    }
}

/// `deserialize_with` for a TLS policy by its name.
pub fn tls_policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TlsPolicy>, D::Error> {
    units::parsed(deserializer).map(Some)
}

pub use crate::delivery::TlsPolicy;

impl Written for TlsPolicy {
    const RIGHT: &'static str = "\"opportunistic\", \"require\", \"verify\", \"implicit\" or \"none\" is expected";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "opportunistic" => Ok(TlsPolicy::Opportunistic),
            "require" => Ok(TlsPolicy::Require),
            "verify" => Ok(TlsPolicy::Verify),
            "implicit" => Ok(TlsPolicy::Implicit),
            "none" => Ok(TlsPolicy::None),
            _ => Err(Self::RIGHT.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_meant_with_its_subdomains_unless_it_stands_alone() {
        for (pattern, domain, want) in [
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", true),
            ("example.com", "badexample.com", false),
            ("=example.com", "example.com", true),
            ("=example.com", "a.example.com", false),
        ] {
            let pattern = DomainPattern::read(pattern).unwrap();
            assert_eq!(pattern.matches(&domain.parse().unwrap()), want, "{pattern} {domain}");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_it_is_written() {
        for text in ["*", "example.com", "=example.com", ".example.com", "a@example.com"] {
            assert_eq!(RecipientPattern::read(text).unwrap().to_string(), text);
        }
        for text in ["<>", "@example.com", "a@example.com"] {
            assert_eq!(SenderPattern::read(text).unwrap().to_string(), text);
        }
        for bad in ["", "example.com", "@", "a@", "< >"] {
            assert!(SenderPattern::read(bad).is_err(), "{bad:?}");
        }
        let below = RecipientPattern::read(".example.com").unwrap();
        assert!(below.matches(&"a.example.com".parse().unwrap()) && !below.matches(&"example.com".parse().unwrap()));
    }

    #[test]
    fn a_next_hop_by_mx_says_so() {
        for (text, host, port, shown) in [
            ("mx:", "", None, "mx:"),
            ("mx:example.net", "example.net", None, "mx:example.net"),
            ("mx:example.net:2525", "example.net", Some(2525), "mx:example.net:2525"),
        ] {
            let hop = NextHop::read(text).unwrap();
            assert_eq!(hop, NextHop { host: host.to_owned(), port, mx: true });
            assert_eq!(hop.to_string(), shown);
        }
        let bracketed = NextHop { host: "smtp.example.net".to_owned(), port: Some(587), mx: false };
        assert_eq!(NextHop::read("[smtp.example.net]:587"), Ok(bracketed));
        for bad in ["mx::25", "mx:192.0.2.1", "mx:mx:a.example", "[a.example]587", "[a.example:25]", "[]", "[[a]"] {
            assert!(NextHop::read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_next_hop_is_a_name_or_an_address_with_or_without_a_port() {
        for (text, host, port) in [
            ("smtp.example.net", "smtp.example.net", None),
            ("smtp.example.net:587", "smtp.example.net", Some(587)),
            ("127.0.0.1:2525", "127.0.0.1", Some(2525)),
            ("192.0.2.1", "192.0.2.1", None),
            ("[2001:db8::1]:25", "2001:db8::1", Some(25)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("localhost:25", "localhost", Some(25)),
        ] {
            assert_eq!(NextHop::read(text), Ok(NextHop { host: host.to_owned(), port, mx: false }), "{text}");
        }
        for bad in ["", ":25", "host:", "host:0", "host:99999", "a b", "[::1", "300.1.2.3", "host:25:25", "user@host"] {
            assert!(NextHop::read(bad).is_err(), "{bad:?}");
        }
    }
}
