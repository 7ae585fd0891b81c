//! Which hosts take a domain's mail: RFC 5321 §5.1, RFC 7505, and what to believe when there is no answer.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::mail::{Domain, EnhancedStatus};
use crate::time::Timestamp;

use super::cache::Known;
use super::{Exchange, Failure, Finality, Host, LookupError, Shared};

/// MX hosts whose addresses are asked for. At most five addresses are tried in an attempt; the rest of a long list would
/// only be more questions.
const HOSTS_MAX: usize = 16;

/// What a look found, without times.
enum Conclusion {
    Hosts(Vec<Host>, Duration),
    /// The domain says so itself.
    Final(EnhancedStatus, String),
    /// By the answers, it does not exist (or has no address). Believed only on conditions.
    Absent(EnhancedStatus, String),
    /// The servers failed.
    Failed(String),
}

/// One look at a domain. `absent_since`: from when on earlier looks found it absent.
pub(super) async fn of_domain(
    shared: &Arc<Shared>,
    domain: &Domain,
    now: Timestamp,
    absent_since: Option<Timestamp>,
) -> Known {
    let settings = &shared.settings;
    let failure = |finality, status, text: String, until| {
        let text = text.into();
        Known { hosts: Err(Failure { finality, status, text, until }), until, absent_since: None }
    };
    match conclude(shared, domain).await {
        Conclusion::Hosts(hosts, ttl) => Known { hosts: Ok(hosts.into()), until: now.after(ttl), absent_since: None },
        Conclusion::Final(status, text) => failure(Finality::Final, status, text, now.after(settings.ttl_min)),
        Conclusion::Failed(text) => {
            let until = now.after(settings.failure_ttl);
            // A failure says nothing about absence: what was heard before stands.
            let known = failure(Finality::Deferred, EnhancedStatus::new(4, 4, 3), text, until);
            Known { absent_since, ..known }
        }
        Conclusion::Absent(status, text) => {
            let since = absent_since.unwrap_or(now);
            let second = now.since(since) >= settings.second_look;
            if second || shared.addresses(&settings.known_name).await.is_ok() {
                let known = failure(Finality::Final, status, text, now.after(settings.ttl_min));
                return Known { absent_since: Some(since), ..known };
            }
            let later = EnhancedStatus::new(4, status.subject, status.detail);
            let text = format!("{text} (not yet believed: {} does not resolve either)", settings.known_name);
            let until = now.after(settings.failure_ttl);
            Known { absent_since: Some(since), ..failure(Finality::Deferred, later, text, until) }
        }
    }
}

async fn conclude(shared: &Arc<Shared>, domain: &Domain) -> Conclusion {
    let (listed, ttl) = match shared.mx(domain).await {
        Ok(found) => match named(found.records) {
            Some(listed) => (listed, found.ttl),
            // RFC 7505 §3.
            None => {
                let text = format!("{domain} takes no mail (null MX)");
                return Conclusion::Final(EnhancedStatus::new(5, 1, 10), text);
            }
        },
        // RFC 5321 §5.1: the implicit MX, only where there is no MX at all.
        Err(LookupError::NoRecord) => (vec![(0, domain.clone())], shared.settings.ttl_max),
        Err(LookupError::NoName) => {
            return Conclusion::Absent(EnhancedStatus::new(5, 1, 2), format!("the domain {domain} does not exist"));
        }
        Err(LookupError::Failed(reason)) => {
            return Conclusion::Failed(format!("the MX records of {domain} cannot be had: {reason}"));
        }
    };
    with_addresses(shared, domain, listed, ttl).await
}

/// Names by preference, each once at its best; `None` if all that is listed is the null MX. A null MX beside others is a
/// mistake and says nothing.
fn named(records: Vec<(u16, Exchange)>) -> Option<Vec<(u16, Domain)>> {
    if records.iter().all(|(_, exchange)| *exchange == Exchange::Null) {
        return None;
    }
    let host = |(preference, exchange)| match exchange {
        Exchange::Host(host) => Some((preference, host)),
        Exchange::Null | Exchange::Unusable => None,
    };
    let mut listed: Vec<(u16, Domain)> = records.into_iter().filter_map(host).collect();
    // Equal preferences in random order (RFC 5321 §5.1): shuffled first, and the sort is stable.
    fastrand::shuffle(&mut listed);
    listed.sort_by_key(|(preference, _)| *preference);
    let mut seen = HashSet::with_capacity(listed.len());
    listed.retain(|(_, host)| seen.insert(host.clone()));
    Some(listed)
}

async fn with_addresses(
    shared: &Arc<Shared>,
    domain: &Domain,
    mut listed: Vec<(u16, Domain)>,
    mut ttl: Duration,
) -> Conclusion {
    let settings = &shared.settings;
    let mut ours = listed.iter().find(|(_, host)| settings.own_names.contains(host)).map(|(preference, _)| *preference);
    listed.truncate(HOSTS_MAX);
    let mut looks = JoinSet::new();
    for (place, (_, host)) in listed.iter().enumerate() {
        let (shared, host) = (shared.clone(), host.clone());
        looks.spawn(async move { (place, shared.addresses(&host).await) });
    }
    let mut found: Vec<(usize, Vec<IpAddr>)> = Vec::with_capacity(listed.len());
    let mut failed = None;
    while let Some(look) = looks.join_next().await {
        match look {
            Ok((place, Ok(addresses))) => {
                ttl = ttl.min(addresses.ttl);
                found.push((place, addresses.records));
            }
            Ok((_, Err(LookupError::NoName | LookupError::NoRecord))) => {}
            Ok((_, Err(LookupError::Failed(reason)))) => failed = Some(reason),
            Err(broken) => failed = Some(broken.to_string()),
        }
    }
    found.sort_by_key(|(place, _)| *place);
    let mut hosts: Vec<Host> = Vec::with_capacity(found.len());
    for (place, addresses) in found {
        let Some((preference, name)) = listed.get(place) else { continue };
        if addresses.iter().any(|address| settings.own_addresses.contains(address)) {
            ours = Some(ours.map_or(*preference, |best| best.min(*preference)));
        }
        hosts.push(Host { name: name.as_str().into(), preference: *preference, addresses, port: settings.port });
    }
    // RFC 5321 §5.1: where we are an MX ourselves, only better ones may be tried, else mail goes in circles.
    if let Some(ours) = ours {
        hosts.retain(|host| host.preference < ours);
        if !listed.iter().any(|(preference, _)| *preference < ours) {
            let text = format!("mail for {domain} loops: its best MX is this host");
            return Conclusion::Final(EnhancedStatus::new(5, 4, 6), text);
        }
    }
    match (hosts.is_empty(), failed) {
        (false, _) => Conclusion::Hosts(hosts, ttl),
        (true, Some(reason)) => Conclusion::Failed(format!("no address of a host of {domain} can be had: {reason}")),
        (true, None) => {
            Conclusion::Absent(EnhancedStatus::new(5, 4, 4), format!("no mail host of {domain} has an address"))
        }
    }
}
