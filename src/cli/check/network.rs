//! The network checks: what a mailbox provider would hold against us, found before it does.
//!
//! Called by `check --network`. Each check asks through [`Lookups`], and says what it found and what to set.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::lookups::{Lookups, Trouble};
use super::spf::{self, Spf};
use super::{Finding, Weight, bounce};
use crate::cli::records::{Record, reverse_name};
use crate::config::{Config, RecipientPattern, Source};
use crate::signer;

/// Domains whose MX answers on port 25, from different networks: one that answers is enough.
const WELL_KNOWN: [&str; 3] = ["gmail.com", "outlook.com", "yahoo.com"];
/// Length of an Ed25519 public key.
const ED25519_OCTETS: usize = 32;
/// How long one of them may take.
const GREETING_WAIT: Duration = Duration::from_secs(5);

/// A source as the world sees it.
pub struct Seen<'a> {
    /// Its name in the config.
    pub name: &'a str,
    /// Its entry there.
    pub source: &'a Source,
    /// The address that peers see, if it is known.
    pub public: Option<IpAddr>,
}

/// Everything, in the order in which it should be put right.
pub async fn findings(
    config: &Config,
    sources: &[Seen<'_>],
    keys: &[signer::Record],
    lookups: &impl Lookups,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let resolver = resolver(lookups).await;
    let answers = resolver.weight == Weight::Good;
    findings.push(resolver);
    if answers {
        for source in sources {
            findings.push(name_and_address(source, lookups).await);
        }
        for domain in &config.sending_domains {
            let known = sources.iter().filter_map(|source| Some((source.name, source.public?)));
            for (name, address) in known {
                findings.push(spf_of(domain.name.as_str(), name, address, lookups).await);
            }
        }
        let known: Vec<(&str, IpAddr)> =
            sources.iter().filter_map(|source| Some((source.name, source.public?))).collect();
        for sending in &config.sending_domains {
            findings.extend(bounce::findings(config, sending, &known, lookups).await);
        }
        for key in keys {
            findings.push(published(key, lookups).await);
        }
        for domain in &config.sending_domains {
            findings.push(dmarc(domain.name.as_str(), lookups).await);
        }
    }
    let all_routed = config.routes.iter().any(|route| {
        let by_mx = route.next_hop.iter().any(|hop| hop.mx);
        route.is_way() && !by_mx && route.sender.is_none() && route.recipient_domain == RecipientPattern::Any
    });
    if answers && !all_routed {
        for source in sources {
            findings.push(way_out(source, lookups).await);
        }
    }
    findings
}

async fn resolver(lookups: &impl Lookups) -> Finding {
    let subject = "resolver";
    match lookups.exchanges(WELL_KNOWN[0]).await {
        Ok(hosts) if !hosts.is_empty() => Finding::good(subject, "it answers"),
        Ok(_) => Finding::bad(
            subject,
            format!("it says that {} has no MX, which is not so", WELL_KNOWN[0]),
            "A resolver that invents answers cannot be used for mail. Run one on this machine (`apt install unbound`).",
        ),
        Err(Trouble(why)) => Finding::bad(
            subject,
            format!("no answer to \"MX {}\": {why}", WELL_KNOWN[0]),
            "Set [dns] nameservers, or /etc/resolv.conf, to a resolver that answers: `apt install unbound`.",
        ),
    }
}

/// PTR → name, name → address, name = EHLO: what providers call forward-confirmed reverse DNS.
async fn name_and_address(seen: &Seen<'_>, lookups: &impl Lookups) -> Finding {
    let ehlo = seen.source.ehlo.as_str();
    let subject = format!("source {}", seen.name);
    let Some(address) = seen.public else {
        return Finding::doubtful(
            subject,
            "its public address is not known here, so PTR and SPF were not looked up",
            format!("[source.{}]\npublic_address = \"203.0.113.10\"   # as peers see it", seen.name),
        );
    };
    let pointers = match lookups.pointers(address).await {
        Ok(pointers) => pointers,
        Err(trouble) => return unanswered(subject, "PTR", &reverse_name(address), &trouble),
    };
    let set = Record::pointer(address, ehlo, "").zone_line();
    let Some(first) = pointers.first() else {
        let fix = format!("{set}\n(whoever rents out the address sets it)");
        return Finding::bad(subject, format!("{address} has no name (PTR); the big providers refuse its mail"), fix);
    };
    let addresses = match lookups.addresses(ehlo).await {
        Ok(addresses) => addresses,
        Err(trouble) => return unanswered(subject, "A", ehlo, &trouble),
    };
    if !addresses.contains(&address) {
        let fix = Record::address(ehlo, address, "").zone_line();
        return Finding::bad(subject, format!("its EHLO name {ehlo} does not resolve to {address}"), fix);
    }
    match pointers.iter().any(|pointer| same_name(pointer, ehlo)) {
        true => Finding::good(subject, format!("{address} is {ehlo}, both ways")),
        false => Finding::bad(
            subject,
            format!("{address} has the name {first}, but says {ehlo} in EHLO"),
            format!("{set}\nor [source.{}] ehlo = \"{}\"", seen.name, first.trim_end_matches('.')),
        ),
    }
}

pub(super) async fn spf_of(domain: &str, source: &str, address: IpAddr, lookups: &impl Lookups) -> Finding {
    let subject = format!("SPF {domain}");
    let term = if address.is_ipv4() { format!("ip4:{address}") } else { format!("ip6:{address}") };
    match spf::evaluate(lookups, domain, address).await {
        Ok(Spf::Pass) => Finding::good(subject, format!("{address} (source {source}) may send")),
        Ok(Spf::None) => {
            let fix = Record::txt(domain, format!("v=spf1 {term} ~all"), "").zone_line();
            Finding::bad(subject, "there is no SPF record", fix)
        }
        Ok(Spf::Other(record)) => {
            let rest = record.get("v=spf1".len()..).unwrap_or_default().trim_start();
            let fix = Record::txt(domain, format!("v=spf1 {term} {rest}"), "").zone_line();
            Finding::bad(subject, format!("\"{record}\" does not let {address} (source {source}) send"), fix)
        }
        Ok(Spf::Broken(why)) => Finding::bad(subject, why, String::new()),
        Err(trouble) => unanswered(subject, "TXT", domain, &trouble),
    }
}

async fn published(key: &signer::Record, lookups: &impl Lookups) -> Finding {
    let subject = format!("DKIM {}", key.name);
    let fix = Record::txt(&*key.name, &*key.value, "").zone_line();
    let texts = match lookups.texts(&key.name).await {
        Ok(texts) => texts,
        Err(trouble) => return unanswered(subject, "TXT", &key.name, &trouble),
    };
    let ours = public_key(&key.value).unwrap_or_default();
    let published: Vec<Vec<u8>> = texts.iter().filter_map(|text| public_key(text)).collect();
    // Some publish RSAPublicKey, the end of SubjectPublicKeyInfo, alone; verifiers take both.
    let equal = |bytes: &Vec<u8>| *bytes == ours || (bytes.len() > ED25519_OCTETS && ours.ends_with(bytes));
    match published.as_slice() {
        [] => Finding::bad(subject, "the public key is not published: every signature fails", fix),
        [one] if one.is_empty() => Finding::bad(subject, "the published key is revoked (an empty p=)", fix),
        [one] if equal(one) => Finding::good(subject, "the published key is ours"),
        [_] => Finding::bad(subject, "the published key is not that of the private key: every signature fails", fix),
        _ => Finding::bad(subject, "there are several records at this name; verifiers take any of them", fix),
    }
}

/// The `p=` tag of a DKIM record; empty if the key is revoked (RFC 6376 §3.6.1).
fn public_key(record: &str) -> Option<Vec<u8>> {
    let tag = record.split(';').find_map(|tag| tag.trim().strip_prefix("p="))?;
    let joined: String = tag.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(joined).ok()
}

async fn dmarc(domain: &str, lookups: &impl Lookups) -> Finding {
    let subject = format!("DMARC {domain}");
    // RFC 9989 walks up the tree; the record of a parent holds for its subdomains.
    let mut at = Some(domain);
    while let Some(name) = at.filter(|name| name.contains('.')) {
        let record = format!("_dmarc.{name}");
        match lookups.texts(&record).await {
            Ok(texts) if texts.iter().any(|text| text.to_ascii_lowercase().starts_with("v=dmarc1")) => {
                return Finding::good(subject, format!("there is a record at {record}"));
            }
            Ok(_) => at = name.split_once('.').map(|(_, parent)| parent),
            Err(trouble) => return unanswered(subject, "TXT", &record, &trouble),
        }
    }
    let value = format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}");
    let fix = Record::txt(format!("_dmarc.{domain}"), value, "").zone_line();
    Finding::bad(subject, "there is no DMARC record; the big providers ask for one", fix)
}

/// Port 25 outwards: most clouds block it, and nothing says so but time-outs.
async fn way_out(seen: &Seen<'_>, lookups: &impl Lookups) -> Finding {
    let subject = format!("port 25 from source {}", seen.name);
    let mut last = "no well-known MX has an address of its family".to_owned();
    for domain in WELL_KNOWN {
        let Some(peer) = peer(domain, seen.source.address, lookups).await else { continue };
        match lookups.greeting(seen.source.address, peer, GREETING_WAIT).await {
            Ok(line) if line.starts_with("220") => {
                return Finding::good(subject, format!("{peer} of {domain} answers \"{line}\""));
            }
            Ok(line) => last = format!("{peer} of {domain} said \"{line}\""),
            Err(Trouble(why)) => last = format!("{peer} of {domain}: {why}"),
        }
    }
    Finding::bad(
        subject,
        format!("no MX could be reached ({last}). Most clouds block port 25 until they are asked"),
        "Ask the hoster to open port 25, or send through a smarthost on 587:\n\
         [[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"smtp.example.net:587\"]\ntls = \"verify\"\n\
         username = \"USER\"\npassword_file = \"/etc/postrider/smarthost.password\"",
    )
}

async fn peer(domain: &str, source: IpAddr, lookups: &impl Lookups) -> Option<SocketAddr> {
    let hosts = lookups.exchanges(domain).await.ok()?;
    let addresses = lookups.addresses(hosts.first()?).await.ok()?;
    let fits = addresses.into_iter().find(|address| address.is_ipv4() == source.is_ipv4());
    fits.map(|address| SocketAddr::new(address, 25))
}

pub(super) fn unanswered(subject: String, kind: &str, name: &str, trouble: &Trouble) -> Finding {
    Finding::doubtful(subject, format!("no answer to \"{kind} {name}\": {}", trouble.0), String::new())
}

fn same_name(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::lookups::table::{Table, row};
    use super::*;

    const CONFIG: &str = "hostname = \"relay.example.com\"\n\
        [source.default]\naddress = \"192.0.2.1\"\n\
        [[credential]]\nname = \"a\"\nfrom_domains = [\"example.com\"]\n\
        [[sending_domain]]\nname = \"example.com\"\n";

    fn key() -> signer::Record {
        let value = format!("v=DKIM1; k=rsa; p={}", STANDARD.encode([7; 64]));
        signer::Record { name: "r1._domainkey.example.com".to_owned(), value }
    }

    /// The same key published in other ways.
    fn published(world: &mut Table, public: &str) {
        world.texts.insert(key().name, vec![format!("v=DKIM1; p={public}")]);
    }

    /// A world in which all is well.
    fn world() -> Table {
        let mut table = Table::default();
        let mut text = |name: &str, value: &str| table.texts.insert(name.to_owned(), vec![value.to_owned()]);
        text("example.com", "v=spf1 ip4:192.0.2.1 ~all");
        text("_dmarc.example.com", "v=DMARC1; p=none");
        text(&key().name, &key().value.replace("BwcH", "Bw cH"));
        table.addresses.insert("relay.example.com".to_owned(), row(&["192.0.2.1"]));
        table.pointers.insert("192.0.2.1".parse().unwrap(), row(&["Relay.example.com."]));
        for domain in WELL_KNOWN {
            table.exchanges.insert(domain.to_owned(), vec![format!("mx.{domain}")]);
            table.addresses.insert(format!("mx.{domain}"), row(&["2001:db8::25", "198.51.100.25"]));
        }
        table.greetings.insert("198.51.100.25:25".parse().unwrap(), "220 mx ready".to_owned());
        table
    }

    async fn told(world: &Table, config: &str) -> Vec<Finding> {
        let config = Config::parse(config, Path::new("p.toml")).unwrap();
        let seen: Vec<Seen<'_>> = config
            .sources
            .iter()
            .map(|(name, source)| Seen { name, source, public: Some(source.address).filter(|a| !a.is_unspecified()) })
            .collect();
        findings(&config, &seen, &[key()], world).await
    }

    #[tokio::test]
    async fn when_all_is_well_everything_is_good() {
        let findings = told(&world(), CONFIG).await;
        let subjects: Vec<&str> = findings.iter().map(|finding| finding.subject.as_str()).collect();
        let want = [
            "resolver",
            "source default",
            "SPF example.com",
            "DKIM r1._domainkey.example.com",
            "DMARC example.com",
            "port 25 from source default",
        ];
        assert_eq!(subjects, want);
        assert!(findings.iter().all(|finding| finding.weight == Weight::Good), "{findings:#?}");
    }

    type Harm = fn(&mut Table);

    /// What goes wrong, what is said, and what is to be pasted.
    #[tokio::test]
    async fn each_fault_is_found_and_its_cure_printed() {
        let faults: [(Harm, &str, &str, &str); 12] = [
            (|t| t.broken = true, "resolver", "no answer to \"MX gmail.com\"", "unbound"),
            (|t| t.exchanges.clear(), "resolver", "it says that gmail.com has no MX", "unbound"),
            (
                |t| t.pointers.clear(),
                "source default",
                "192.0.2.1 has no name (PTR)",
                "1.2.0.192.in-addr.arpa. 3600 IN PTR relay.example.com.",
            ),
            (
                |t| drop(t.pointers.insert("192.0.2.1".parse().unwrap(), row(&["host1.example.net."]))),
                "source default",
                "192.0.2.1 has the name host1.example.net., but says relay.example.com in EHLO",
                "[source.default] ehlo = \"host1.example.net\"",
            ),
            (
                |t| drop(t.addresses.insert("relay.example.com".to_owned(), row(&["192.0.2.9"]))),
                "source default",
                "its EHLO name relay.example.com does not resolve to 192.0.2.1",
                "relay.example.com. 3600 IN A 192.0.2.1",
            ),
            (
                |t| drop(t.texts.remove("example.com")),
                "SPF example.com",
                "there is no SPF record",
                "example.com. 3600 IN TXT \"v=spf1 ip4:192.0.2.1 ~all\"",
            ),
            (
                |t| drop(t.texts.insert("example.com".to_owned(), vec!["v=spf1 mx -all".to_owned()])),
                "SPF example.com",
                "\"v=spf1 mx -all\" does not let 192.0.2.1 (source default) send",
                "example.com. 3600 IN TXT \"v=spf1 ip4:192.0.2.1 mx -all\"",
            ),
            (
                |t| drop(t.texts.remove("r1._domainkey.example.com")),
                "DKIM r1._domainkey.example.com",
                "the public key is not published",
                "r1._domainkey.example.com. 3600 IN TXT \"v=DKIM1; k=rsa; p=BwcH",
            ),
            (
                |t| published(t, &STANDARD.encode([8; 64])),
                "DKIM r1._domainkey.example.com",
                "the published key is not that of the private key",
                "p=BwcH",
            ),
            (|t| published(t, ""), "DKIM r1._domainkey.example.com", "the published key is revoked", "p=BwcH"),
            (
                |t| drop(t.texts.remove("_dmarc.example.com")),
                "DMARC example.com",
                "there is no DMARC record",
                "_dmarc.example.com. 3600 IN TXT \"v=DMARC1; p=none; rua=mailto:postmaster@example.com\"",
            ),
            (
                |t| t.greetings.clear(),
                "port 25 from source default",
                "no MX could be reached (198.51.100.25:25 of yahoo.com: no connection within 5s). Most clouds block",
                "[[route]]\nrecipient_domain = \"*\"",
            ),
        ];
        for (harm, subject, text, cure) in faults {
            let mut world = world();
            harm(&mut world);
            let findings = told(&world, CONFIG).await;
            let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.weight != Weight::Good).collect();
            let [one] = bad.as_slice() else { panic!("{subject}: {findings:#?}") };
            assert!(one.subject == subject && one.text.starts_with(text) && one.cure.contains(cure), "{one:#?}");
        }
    }

    /// What a bounce domain lacks, and what is to be pasted.
    #[tokio::test]
    async fn a_bounce_domain_needs_an_mx_here_spf_and_alignment() {
        let config = |bounce: &str| {
            format!("{CONFIG}bounce_domain = \"{bounce}\"\n[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtp\"\n")
        };
        let good = |bounce: &str| {
            let mut world = world();
            world.exchanges.insert(bounce.to_owned(), row(&["relay.example.com."]));
            world.texts.insert(bounce.to_owned(), vec!["v=spf1 ip4:192.0.2.1 -all".to_owned()]);
            world
        };
        let bounce = "bounce.example.com";
        let subjects: Vec<String> = told(&good(bounce), &config(bounce))
            .await
            .into_iter()
            .filter(|finding| finding.weight == Weight::Good)
            .map(|finding| finding.subject)
            .collect();
        let want = ["MX bounce.example.com", "SPF bounce.example.com", "alignment bounce.example.com"];
        assert!(want.iter().all(|want| subjects.iter().any(|subject| subject == want)), "{subjects:?}");
        let mut by_address = good(bounce);
        by_address.exchanges.insert(bounce.to_owned(), row(&["mx.example.com"]));
        by_address.addresses.insert("mx.example.com".to_owned(), row(&["192.0.2.1"]));
        assert!(told(&by_address, &config(bounce)).await.iter().all(|finding| finding.weight == Weight::Good));

        type Row = (Harm, String, &'static str, &'static str, &'static str);
        let rows: [Row; 6] = [
            (
                |t| drop(t.exchanges.remove("bounce.example.com")),
                config(bounce),
                "MX bounce.example.com",
                "there is no MX",
                "bounce.example.com. 3600 IN MX 10 relay.example.com.",
            ),
            (
                |t| drop(t.exchanges.insert("bounce.example.com".to_owned(), row(&["mx.gmail.com"]))),
                config(bounce),
                "MX bounce.example.com",
                "it leads to mx.gmail.com, which is not this machine",
                "IN MX 10 relay.example.com.",
            ),
            (
                |_| {},
                config(bounce).replace("0.0.0.0:25", "127.0.0.1:25"),
                "MX bounce.example.com",
                "it leads to",
                "mode = \"smtp\"",
            ),
            (
                |t| drop(t.texts.remove("bounce.example.com")),
                config(bounce),
                "SPF bounce.example.com",
                "there is no SPF record",
                "v=spf1 ip4:192.0.2.1",
            ),
            (
                |t| drop(t.texts.insert("bounce.example.com".to_owned(), vec!["v=spf1 -all".to_owned()])),
                config(bounce),
                "SPF bounce.example.com",
                "\"v=spf1 -all\" does not let 192.0.2.1",
                "v=spf1 ip4:192.0.2.1 -all",
            ),
            (
                |_| {},
                config("bounce.other.example"),
                "alignment bounce.other.example",
                "bounce.other.example belongs",
                "bounce.example.com",
            ),
        ];
        for (harm, config, subject, text, cure) in rows {
            let mut world = good(if subject.ends_with("other.example") { "bounce.other.example" } else { bounce });
            harm(&mut world);
            let findings = told(&world, &config).await;
            let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.weight != Weight::Good).collect();
            let [one] = bad.as_slice() else { panic!("{subject}: {findings:#?}") };
            assert!(one.subject == subject && one.text.starts_with(text) && one.cure.contains(cure), "{one:#?}");
        }
        // Side by side, below one domain that says who it is.
        let mut world = good("bounce.corp.example");
        world.texts.insert("_dmarc.corp.example".to_owned(), vec!["v=DMARC1; p=none; psd=n".to_owned()]);
        world.texts.insert("_dmarc.example".to_owned(), vec!["v=DMARC1; psd=y".to_owned()]);
        let aligned = config("bounce.corp.example").replace("example.com\"", "mail.corp.example\"");
        let findings = told(&world, &aligned).await;
        let found = findings.iter().find(|finding| finding.subject == "alignment bounce.corp.example").unwrap();
        assert_eq!(found.weight, Weight::Good, "{found:?}");
    }

    #[tokio::test]
    async fn a_key_published_in_its_bare_form_is_ours_too() {
        let mut world = world();
        published(&mut world, &STANDARD.encode([7; 40]));
        assert!(told(&world, CONFIG).await.iter().all(|finding| finding.weight == Weight::Good));
    }

    #[tokio::test]
    async fn an_unknown_public_address_is_a_doubt_and_a_route_for_all_needs_no_port_25() {
        let config = CONFIG.replace("192.0.2.1", "0.0.0.0")
            + "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"smtp.example.net\"]\n";
        let findings = told(&world(), &config).await;
        let source = findings.iter().find(|finding| finding.subject == "source default").unwrap();
        assert!(source.weight == Weight::Doubtful && source.cure.contains("public_address"));
        assert!(!findings.iter().any(|finding| finding.subject.starts_with("port 25")));
    }
}
