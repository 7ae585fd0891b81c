//! Would a bounce find its way to us, and would the return path pass? What a bounce domain needs in DNS.
//!
//! Called by `check --network`, once for each sending domain that has one.

use std::net::IpAddr;

use super::Finding;
use super::lookups::{Lookups, Trouble};
use super::network::{spf_of, unanswered};
use crate::cli::records::Record;
use crate::config::{Config, Mode, SendingDomain};
use crate::mail::Domain;

/// MX at our listener, SPF for every source, alignment with From.
pub(super) async fn findings(
    config: &Config,
    sending: &SendingDomain,
    sources: &[(&str, IpAddr)],
    lookups: &impl Lookups,
) -> Vec<Finding> {
    let Some(bounce) = &sending.bounce_domain else { return Vec::new() };
    let own: Vec<IpAddr> = sources.iter().map(|(_, address)| *address).collect();
    let mut findings = vec![exchange(config, bounce, &own, lookups).await];
    for (source, address) in sources {
        findings.push(spf_of(bounce.as_str(), source, *address, lookups).await);
    }
    findings.push(alignment(bounce, &sending.name, lookups).await);
    findings
}

/// Its MX is our name or has one of our addresses, and something listens there.
async fn exchange(config: &Config, bounce: &Domain, own: &[IpAddr], lookups: &impl Lookups) -> Finding {
    let subject = format!("MX {bounce}");
    let hostname = config.hostname.as_str();
    let set = Record::exchange(bounce.as_str(), hostname, "").zone_line();
    let hosts = match lookups.exchanges(bounce.as_str()).await {
        Ok(hosts) => hosts,
        Err(trouble) => return unanswered(subject, "MX", bounce.as_str(), &trouble),
    };
    let Some(first) = hosts.first().map(|host| host.trim_end_matches('.')) else {
        return Finding::bad(subject, "there is no MX: bounces and complaints cannot come in", set);
    };
    if !first.eq_ignore_ascii_case(hostname) {
        match lookups.addresses(first).await {
            Ok(addresses) if addresses.iter().any(|address| own.contains(address)) => {}
            Ok(_) => return Finding::bad(subject, format!("it leads to {first}, which is not this machine"), set),
            Err(trouble) => return unanswered(subject, "A", first, &trouble),
        }
    }
    // Peers deliver to port 25, and to nobody who asks for a password.
    let mut listeners = config.listeners.iter().filter(|listener| listener.mode == Mode::Smtp);
    match listeners.any(|listener| listener.bind.port() == 25 && !listener.bind.ip().is_loopback()) {
        true => Finding::good(subject, format!("it leads to {first}, which is this machine")),
        false => Finding::bad(
            subject,
            format!("it leads to {first}, and no smtp listener is on port 25 of a public address there"),
            "[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtp\"",
        ),
    }
}

/// RFC 9989: SPF counts for DMARC only if both have one organizational domain.
async fn alignment(bounce: &Domain, sending: &Domain, lookups: &impl Lookups) -> Finding {
    let subject = format!("alignment {bounce}");
    let (of_bounce, of_sending) = match (organizational(bounce, lookups).await, organizational(sending, lookups).await)
    {
        (Ok(bounce), Ok(sending)) => (bounce, sending),
        (Err(trouble), _) | (_, Err(trouble)) => {
            return unanswered(subject, "TXT", &format!("_dmarc.{bounce}"), &trouble);
        }
    };
    match of_bounce == of_sending {
        true => Finding::good(subject, format!("SPF of {bounce} counts for mail from {sending}")),
        false => Finding::bad(
            subject,
            format!("{bounce} belongs to {of_bounce}, and {sending} to {of_sending}: SPF does not count for its mail"),
            format!("bounce_domain = \"bounce.{sending}\""),
        ),
    }
}

/// The tree walk of RFC 9989 §4.10: the highest name with a DMARC record, unless one says of itself that it is one
/// (`psd=n`) or a registry's (`psd=y`, and the name below it is).
async fn organizational(domain: &Domain, lookups: &impl Lookups) -> Result<String, Trouble> {
    /// RFC 9989 §4.10: from a longer name the walk begins at seven labels.
    const LABELS_MAX: usize = 7;
    let labels: Vec<&str> = domain.as_str().split('.').collect();
    let mut found = domain.to_string();
    let mut below = None;
    let first = labels.len().saturating_sub(LABELS_MAX);
    for start in std::iter::once(0).chain((1..labels.len()).filter(|start| *start >= first)) {
        let name = labels.get(start..).unwrap_or_default().join(".");
        let texts = lookups.texts(&format!("_dmarc.{name}")).await?;
        if let Some(record) =
            texts.iter().map(|text| text.to_ascii_lowercase()).find(|text| text.starts_with("v=dmarc1"))
        {
            let says = |tag: &str| record.split(';').any(|part| part.replace(' ', "") == tag);
            if says("psd=n") {
                return Ok(name);
            }
            if says("psd=y") {
                return Ok(below.unwrap_or(name));
            }
            found.clone_from(&name);
        }
        below = Some(name);
    }
    Ok(found)
}
