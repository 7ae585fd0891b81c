//! Would SPF let an address send for a domain? The part of RFC 7208 that a sender's own record uses.
//!
//! Called by `check --network`. It is no verifier of foreign mail: macros are not expanded, `exists` and `ptr` count as
//! no match, which errs towards a warning.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use super::lookups::{Lookups, Trouble};

/// Mechanisms that cost a lookup, per evaluation: RFC 7208 §4.6.4.
const LOOKUPS_MAX: usize = 10;

/// What a domain's SPF says of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spf {
    /// `+`: it may send.
    Pass,
    /// There is a record, and it does not let the address send. With the record.
    Other(String),
    /// There is no record.
    None,
    /// The record cannot be used: two of them, or too many lookups. With the reason.
    Broken(String),
}

/// Evaluates a domain's record for an address.
///
/// # Errors
/// A lookup got no answer.
pub async fn evaluate(lookups: &impl Lookups, domain: &str, address: IpAddr) -> Result<Spf, Trouble> {
    let mut spent = 0;
    record_of(lookups, domain.to_owned(), address, &mut spent).await
}

type Evaluation<'a> = Pin<Box<dyn Future<Output = Result<Spf, Trouble>> + 'a>>;

/// Recursion through `include` and `redirect` ends, because each costs one of the lookups.
fn record_of<'a>(lookups: &'a impl Lookups, domain: String, address: IpAddr, spent: &'a mut usize) -> Evaluation<'a> {
    Box::pin(async move {
        let record = match record(lookups, &domain).await? {
            Found::One(record) => record,
            Found::None => return Ok(Spf::None),
            Found::Several => return Ok(Spf::Broken("there are two SPF records; join them to one".to_owned())),
        };
        for term in terms_of(&record) {
            let (passes, mechanism) = match term.as_bytes().first() {
                Some(b'+') => (true, term.get(1..).unwrap_or_default()),
                Some(b'-' | b'~' | b'?') => (false, term.get(1..).unwrap_or_default()),
                _ => (true, term.as_str()),
            };
            let term = Term::read(mechanism, &domain);
            *spent += usize::from(term.costs_a_lookup());
            if *spent > LOOKUPS_MAX {
                return Ok(too_many());
            }
            let matched = match term {
                Term::All => true,
                Term::Network(network) => network.contains(&address),
                Term::Redirect(target) => return record_of(lookups, target, address, spent).await,
                Term::Include(target) => match record_of(lookups, target.clone(), address, spent).await? {
                    Spf::Pass => true,
                    Spf::Other(_) => false,
                    Spf::None => return Ok(Spf::Broken(format!("{target}, which it includes, has no SPF record"))),
                    Spf::Broken(why) => return Ok(Spf::Broken(why)),
                },
                Term::Host { name, prefix } => hosts_match(&lookups.addresses(&name).await?, address, prefix),
                Term::Exchange { name, prefix } => {
                    let mut matched = false;
                    for host in lookups.exchanges(&name).await?.iter().take(LOOKUPS_MAX) {
                        matched |= hosts_match(&lookups.addresses(host).await?, address, prefix);
                    }
                    matched
                }
                Term::Unknown => false,
            };
            match (matched, passes) {
                (true, true) => return Ok(Spf::Pass),
                (true, false) => return Ok(Spf::Other(record)),
                (false, _) => {}
            }
        }
        Ok(Spf::Other(record))
    })
}

fn too_many() -> Spf {
    Spf::Broken(format!("it needs more than {LOOKUPS_MAX} DNS lookups, and verifiers stop there (RFC 7208 §4.6.4)"))
}

enum Found {
    One(String),
    None,
    Several,
}

async fn record(lookups: &impl Lookups, domain: &str) -> Result<Found, Trouble> {
    let texts = lookups.texts(domain).await?;
    let is_spf = |text: &&String| {
        let lower = text.to_ascii_lowercase();
        lower == "v=spf1" || lower.starts_with("v=spf1 ")
    };
    let mut records = texts.iter().filter(is_spf);
    Ok(match (records.next(), records.next()) {
        (Some(record), None) => Found::One(record.clone()),
        (None, _) => Found::None,
        (Some(_), Some(_)) => Found::Several,
    })
}

/// The terms in order; `redirect` comes after all mechanisms (RFC 7208 §6.1), and not at all beside `all`.
fn terms_of(record: &str) -> Vec<String> {
    let lower = record.to_ascii_lowercase();
    let terms: Vec<String> = lower.split_ascii_whitespace().skip(1).map(str::to_owned).collect();
    let has_all = terms.iter().any(|term| term.trim_start_matches(['+', '-', '~', '?']) == "all");
    let (redirects, mechanisms): (Vec<_>, Vec<_>) = terms.into_iter().partition(|term| term.starts_with("redirect="));
    mechanisms.into_iter().chain(redirects.into_iter().filter(|_| !has_all).take(1)).collect()
}

fn hosts_match(hosts: &[IpAddr], address: IpAddr, prefix: Option<u8>) -> bool {
    hosts.iter().any(|host| {
        let longest = if host.is_ipv4() { 32 } else { 128 };
        ipnet::IpNet::new(*host, prefix.unwrap_or(longest).min(longest)).is_ok_and(|network| network.contains(&address))
    })
}

enum Term {
    All,
    Network(ipnet::IpNet),
    Include(String),
    Redirect(String),
    Host { name: String, prefix: Option<u8> },
    Exchange { name: String, prefix: Option<u8> },
    Unknown,
}

impl Term {
    fn costs_a_lookup(&self) -> bool {
        match self {
            Term::Include(_) | Term::Redirect(_) | Term::Host { .. } | Term::Exchange { .. } => true,
            Term::All | Term::Network(_) | Term::Unknown => false,
        }
    }

    fn read(term: &str, domain: &str) -> Term {
        if term == "all" {
            return Term::All;
        }
        if let Some(target) = term.strip_prefix("redirect=") {
            return Term::Redirect(target.to_owned());
        }
        if let Some(network) = term.strip_prefix("ip4:").or_else(|| term.strip_prefix("ip6:")) {
            let alone = || network.parse::<IpAddr>().map(ipnet::IpNet::from);
            return network.parse().or_else(|_| alone()).map_or(Term::Unknown, Term::Network);
        }
        let (head, prefix) = match term.split_once('/') {
            // "a/24//64": the IPv4 half is enough here.
            Some((head, prefix)) => (head, prefix.split('/').next().and_then(|length| length.parse().ok())),
            None => (term, None),
        };
        let (name, value) = match head.split_once(':') {
            Some((name, value)) => (name, value.to_owned()),
            None => (head, domain.to_owned()),
        };
        match name {
            "include" => Term::Include(value),
            "a" => Term::Host { name: value, prefix },
            "mx" => Term::Exchange { name: value, prefix },
            _ => Term::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookups::table::{Table, row};
    use super::*;

    fn world(records: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        for (name, text) in records {
            table.texts.entry((*name).to_owned()).or_default().push((*text).to_owned());
        }
        table.addresses.insert("d.example".to_owned(), row(&["192.0.2.1", "2001:db8::1"]));
        table.addresses.insert("mx.d.example".to_owned(), row(&["192.0.2.7"]));
        table.exchanges.insert("d.example".to_owned(), row(&["mx.d.example"]));
        table
    }

    async fn verdict(records: &[(&str, &str)], address: &str) -> String {
        match evaluate(&world(records), "d.example", address.parse().unwrap()).await {
            Ok(Spf::Pass) => "pass".to_owned(),
            Ok(Spf::Other(_)) => "other".to_owned(),
            Ok(Spf::None) => "none".to_owned(),
            Ok(Spf::Broken(why)) => why,
            Err(Trouble(why)) => why,
        }
    }

    #[tokio::test]
    async fn a_record_lets_an_address_send_or_not() {
        for (record, address, want) in [
            ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.1", "pass"),
            ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.2", "other"),
            ("v=spf1 ip4:192.0.2.0/24 ~all", "192.0.2.2", "pass"),
            ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::5", "pass"),
            ("v=spf1 ip6:2001:db8::5 -all", "2001:db8::5", "pass"),
            ("V=SPF1 A -ALL", "192.0.2.1", "pass"),
            ("v=spf1 a/24 -all", "192.0.2.200", "pass"),
            ("v=spf1 a:mx.d.example -all", "192.0.2.7", "pass"),
            ("v=spf1 mx -all", "192.0.2.7", "pass"),
            ("v=spf1 -ip4:192.0.2.1 +all", "192.0.2.1", "other"),
            ("v=spf1 ?all", "192.0.2.1", "other"),
            ("v=spf1", "192.0.2.1", "other"),
            ("v=spf1 -all ip4:192.0.2.1", "192.0.2.1", "other"),
            ("v=spf1 exists:%{i}.x.example ptr -all", "192.0.2.1", "other"),
            ("spf1 ip4:192.0.2.1", "192.0.2.1", "none"),
            ("v=spf10 ip4:192.0.2.1", "192.0.2.1", "none"),
            ("v=spf1 include:absent.example -all", "192.0.2.1", "absent.example, which it includes, has no SPF record"),
        ] {
            assert_eq!(verdict(&[("d.example", record)], address).await, want, "{record} {address}");
        }
    }

    #[tokio::test]
    async fn includes_count_only_when_they_pass_and_a_redirect_counts_whole() {
        let inner = ("i.example", "v=spf1 ip4:192.0.2.9 -all");
        for (record, address, want) in [
            ("v=spf1 include:i.example -all", "192.0.2.9", "pass"),
            ("v=spf1 include:i.example ip4:192.0.2.1 -all", "192.0.2.1", "pass"),
            ("v=spf1 include:i.example -all", "192.0.2.1", "other"),
            ("v=spf1 redirect=i.example", "192.0.2.9", "pass"),
            ("v=spf1 redirect=i.example ip4:192.0.2.1", "192.0.2.1", "pass"),
            ("v=spf1 redirect=i.example", "192.0.2.1", "other"),
            ("v=spf1 redirect=i.example -all", "192.0.2.9", "other"),
        ] {
            assert_eq!(verdict(&[("d.example", record), inner], address).await, want, "{record} {address}");
        }
    }

    #[tokio::test]
    async fn what_verifiers_call_an_error_is_told() {
        let loops = [("d.example", "v=spf1 include:d.example -all")];
        assert!(verdict(&loops, "192.0.2.1").await.starts_with("it needs more than 10 DNS lookups"));
        let two = [("d.example", "v=spf1 -all"), ("d.example", "v=spf1 a -all")];
        assert_eq!(verdict(&two, "192.0.2.1").await, "there are two SPF records; join them to one");
    }
}
