//! Where a domain's mail goes: by a route, else by its MX; and what that means as target and site.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::settings::{Hop, NamedLimits, Route, RouteWay, Settings};
use super::world::World;
use crate::delivery::{Host, TlsPolicy, Trust};
use crate::dns::{Failure, Finality};
use crate::mail::{Domain, EnhancedStatus, ReturnPath};

/// How long hosts are used before they are asked for again. The resolver keeps to the records' own times meanwhile.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(300);

/// What an envelope's way is looked up by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct WayKey {
    /// The recipients' domain.
    pub domain: Domain,
    /// The route that it was given when it was accepted, where the domain alone does not say which.
    pub route: Option<Arc<str>>,
}

impl fmt::Display for WayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.domain.fmt(f)
    }
}

/// The status of an envelope that ends without a word: a success, which no failed look-up has.
pub(super) const DISCARDED: EnhancedStatus = EnhancedStatus::new(2, 0, 0);
/// RFC 7505: the domain takes no mail at all, and says so.
const NULL_MX: EnhancedStatus = EnhancedStatus::new(5, 1, 10);

/// Hosts, and how to talk to them.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub hosts: Arc<[Host]>,
    pub tls: TlsPolicy,
    pub login: Option<(Arc<str>, Arc<str>)>,
    pub trust: Option<Trust>,
    pub return_path: ReturnPath,
    pub allow_private: bool,
}

/// What makes two targets one: names and ports of the hosts, best first, and the way of talking to them. Addresses are
/// not part of it, since they rotate.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct TargetKey {
    hosts: Box<[(u16, Arc<str>, u16)]>,
    tls: TlsPolicy,
    login: Option<(Arc<str>, Arc<str>)>,
    trust: Option<Arc<str>>,
    return_path: ReturnPath,
    allow_private: bool,
}

/// What makes two sites one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum SiteKey {
    /// A rule's name.
    Rule(Arc<str>),
    /// The host set, in the order of names: whoever shares hosts shares limits, whatever the preferences.
    Hosts(Box<[(Arc<str>, u16)]>),
}

impl SiteKey {
    /// As it is known over restarts: the whole of it.
    pub fn kept_name(&self) -> String {
        match self {
            SiteKey::Rule(name) => format!("rule {name}"),
            SiteKey::Hosts(hosts) => {
                let all: Vec<String> = hosts.iter().map(|(name, port)| format!("{name}:{port}")).collect();
                format!("hosts {}", all.join(" "))
            }
        }
    }

    /// Whether an operator may mean it by this: the rule's name, or any of its hosts.
    pub fn is_called(&self, called: &str) -> bool {
        match self {
            SiteKey::Rule(name) => **name == *called,
            SiteKey::Hosts(hosts) => hosts.iter().any(|(name, _)| **name == *called),
        }
    }

    /// Its hosts, if it goes by them.
    pub fn hosts(&self) -> Vec<&str> {
        match self {
            SiteKey::Rule(_) => Vec::new(),
            SiteKey::Hosts(hosts) => hosts.iter().map(|(name, _)| &**name).collect(),
        }
    }

    /// As the history names it: no two sites share it.
    pub fn full_name(&self) -> Arc<str> {
        let host = |(name, port): &(Arc<str>, u16)| match port {
            25 => name.to_string(),
            port => format!("{name}:{port}"),
        };
        match self {
            SiteKey::Rule(name) => Arc::clone(name),
            SiteKey::Hosts(hosts) => hosts.iter().map(host).collect::<Vec<_>>().join(", ").into(),
        }
    }

    /// As listings name it.
    pub fn name(&self) -> String {
        match self {
            SiteKey::Rule(name) => name.to_string(),
            SiteKey::Hosts(hosts) => hosts.iter().map(|(name, _)| &**name).take(3).collect::<Vec<_>>().join(", "),
        }
    }
}

/// A domain's way.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub target: Target,
    pub target_key: TargetKey,
    pub site_key: SiteKey,
    /// Where its best hosts are, in order: who is at the same place shares limits, whatever the names. Only if no rule
    /// says whose hosts these are.
    pub addresses: Option<Box<[(IpAddr, u16)]>>,
    pub limits: Arc<NamedLimits>,
    /// Those that the domain has for itself.
    pub own: Option<Arc<NamedLimits>>,
}

/// Looks a way up.
pub(super) async fn resolve(world: &impl World, settings: &Settings, key: &WayKey) -> Result<Way, Failure> {
    let (domain, route) = (&key.domain, settings.route(key));
    let rule = settings.own_rule(domain);
    let own_tls = rule.and_then(|rule| rule.tls);
    let way = match route.map(|route| (route, &route.way)) {
        Some((route, RouteWay::Hosts(hops))) => by_route(world, route, hops).await?,
        Some((route, RouteWay::Usual(tls, fallback))) => {
            usual(world, settings, route, tls.or(own_tls), domain, fallback).await?
        }
        Some((_, RouteWay::Nowhere(status, text))) => return Err(nowhere(world, *status, text)),
        Some((_, RouteWay::Discard)) => return Err(nowhere(world, DISCARDED, "a route discards it")),
        None => by_mx(settings, own_tls, world.mail_hosts(domain.clone()).await?),
    };
    // The windows of a domain are one account: mail that takes another way than its domain's is not counted there.
    let own = rule.filter(|_| key.route.is_none()).map(|rule| Arc::clone(&rule.limits));
    Ok(Way { own: own.filter(|limits| limits.are_some()), ..way })
}

fn nowhere(world: &impl World, status: EnhancedStatus, text: &str) -> Failure {
    let finality = if status.class == 4 { Finality::Deferred } else { Finality::Final };
    Failure { finality, status, text: text.into(), until: world.now().after(BELIEVED_FOR) }
}

/// The hosts of a route that can be found; the failure of the last, if none can.
async fn by_route(world: &impl World, route: &Route, hops: &[Hop]) -> Result<Way, Failure> {
    let hosts = hosts_of(world, hops, 0).await?;
    let target = Target {
        hosts: hosts.into(),
        tls: route.tls,
        login: route.login.clone(),
        trust: route.trust.clone(),
        return_path: route.return_path,
        allow_private: true,
    };
    Ok(way(target, None, Arc::clone(&route.limits)))
}

/// The hosts of these that can be found, in the config's order, which is the preference.
async fn hosts_of(world: &impl World, hops: &[Hop], first: u16) -> Result<Vec<Host>, Failure> {
    let mut hosts = Vec::with_capacity(hops.len());
    let mut failure = None;
    let mut preference = first;
    for hop in hops {
        let found = match (hop.mx, hop.name.parse()) {
            (true, Ok(name)) => world.mail_hosts(name).await.map(|found| found.to_vec()),
            (_, _) => world.host(Arc::clone(&hop.name), hop.port).await.map(|host| vec![host]),
        };
        match found {
            Ok(mut found) => {
                found.sort_by_key(|host| host.preference);
                let mut last = None;
                for host in found {
                    // Hosts of one preference stay equal among themselves.
                    preference = preference.saturating_add(u16::from(last.is_some_and(|last| last != host.preference)));
                    last = Some(host.preference);
                    hosts.push(Host { preference, port: hop.port, ..host });
                }
                preference = preference.saturating_add(1);
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(failure) if hosts.is_empty() => Err(failure),
        Some(_) | None => Ok(hosts),
    }
}

/// Where DNS says, and after that to the fallback.
async fn usual(
    world: &impl World,
    settings: &Settings,
    route: &Route,
    tls: Option<TlsPolicy>,
    domain: &Domain,
    fallback: &[Hop],
) -> Result<Way, Failure> {
    let found = world.mail_hosts(domain.clone()).await;
    let found = match found {
        Err(failure) if fallback.is_empty() || failure.status == NULL_MX => return Err(failure),
        found => found.ok(),
    };
    let Some(hosts) = found else { return by_route(world, route, fallback).await };
    let worst = hosts.iter().map(|host| host.preference).max().unwrap_or_default();
    let mut way = by_mx(settings, tls, hosts);
    way.target.trust = route.trust.clone();
    if !fallback.is_empty() {
        // What cannot be found now is not waited for: the hosts proper come first.
        let last = hosts_of(world, fallback, worst.saturating_add(1)).await.unwrap_or_default();
        way.target.hosts = way.target.hosts.iter().cloned().chain(last).collect();
    }
    way.target_key = way.target.key();
    Ok(way)
}

fn by_mx(settings: &Settings, own_tls: Option<TlsPolicy>, hosts: Arc<[Host]>) -> Way {
    let best = hosts.iter().map(|host| host.preference).min();
    let best: Vec<Domain> =
        hosts.iter().filter(|host| Some(host.preference) == best).filter_map(|host| host.name.parse().ok()).collect();
    let rule = settings.site(&best);
    let tls = own_tls.unwrap_or(rule.map_or(settings.tls, |rule| rule.tls));
    let addresses = rule.is_none().then(|| places(&hosts)).filter(|places| !places.is_empty());
    let (return_path, allow_private) = (ReturnPath::Ours, settings.allow_private_peers);
    let target = Target { hosts, tls, login: None, trust: None, return_path, allow_private };
    let way = way(
        target,
        rule.map(|rule| Arc::clone(&rule.name)),
        Arc::clone(rule.map_or(&settings.limits, |rule| &rule.limits)),
    );
    Way { addresses, ..way }
}

/// Addresses and ports of the hosts of the lowest preference.
fn places(hosts: &[Host]) -> Box<[(IpAddr, u16)]> {
    let best = hosts.iter().map(|host| host.preference).min();
    let best = hosts.iter().filter(|host| Some(host.preference) == best);
    let all: BTreeSet<(IpAddr, u16)> =
        best.flat_map(|host| host.addresses.iter().map(|address| (*address, host.port))).collect();
    all.into_iter().collect()
}

fn way(target: Target, rule: Option<Arc<str>>, limits: Arc<NamedLimits>) -> Way {
    let site_key = rule.map(SiteKey::Rule).unwrap_or_else(|| {
        let mut set: Vec<_> = target.hosts.iter().map(|host| (Arc::clone(&host.name), host.port)).collect();
        set.sort();
        SiteKey::Hosts(set.into())
    });
    Way { target_key: target.key(), target, site_key, limits, own: None, addresses: None }
}

impl Target {
    fn key(&self) -> TargetKey {
        let mut hosts: Vec<_> =
            self.hosts.iter().map(|host| (host.preference, Arc::clone(&host.name), host.port)).collect();
        hosts.sort();
        TargetKey {
            hosts: ranked(hosts),
            tls: self.tls,
            login: self.login.clone(),
            trust: self.trust.as_ref().map(|trust| Arc::clone(&trust.file)),
            return_path: self.return_path,
            allow_private: self.allow_private,
        }
    }
}

/// Preferences as ranks: 10 and 20 mean what 5 and 7 mean.
fn ranked(mut hosts: Vec<(u16, Arc<str>, u16)>) -> Box<[(u16, Arc<str>, u16)]> {
    let (mut rank, mut last) = (0, None);
    for (preference, ..) in &mut hosts {
        if last.is_some_and(|last| last != *preference) {
            rank += 1;
        }
        last = Some(*preference);
        *preference = rank;
    }
    hosts.into()
}
