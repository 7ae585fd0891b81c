//! Where a domain's mail goes: by a route, else by its MX; and what that means as target and site.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::settings::{NamedLimits, Route, Settings};
use super::world::World;
use crate::delivery::{Host, TlsPolicy};
use crate::dns::Failure;
use crate::mail::{Domain, ReturnPath};

/// How long hosts are used before they are asked for again. The resolver keeps to the records' own times meanwhile.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(300);

/// Hosts, and how to talk to them.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub hosts: Arc<[Host]>,
    pub tls: TlsPolicy,
    pub login: Option<(Arc<str>, Arc<str>)>,
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

/// Looks a domain's way up.
pub(super) async fn resolve(world: &impl World, settings: &Settings, domain: &Domain) -> Result<Way, Failure> {
    let rule = settings.own_rule(domain);
    let way = match settings.route(domain) {
        Some(route) => by_route(world, route).await?,
        None => by_mx(settings, rule.and_then(|rule| rule.tls), world.mail_hosts(domain.clone()).await?),
    };
    Ok(Way { own: rule.map(|rule| Arc::clone(&rule.limits)).filter(|limits| limits.are_some()), ..way })
}

/// The hosts of a route that can be found; the failure of the last, if none can.
async fn by_route(world: &impl World, route: &Route) -> Result<Way, Failure> {
    let mut hosts = Vec::with_capacity(route.next_hops.len());
    let mut failure = None;
    for (place, (name, port)) in route.next_hops.iter().enumerate() {
        match world.host(Arc::clone(name), *port).await {
            // The config's order is the preference.
            Ok(host) => hosts.push(Host { preference: u16::try_from(place).unwrap_or(u16::MAX), ..host }),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(failure) if hosts.is_empty() => Err(failure),
        Some(_) | None => {
            let target = Target {
                hosts: hosts.into(),
                tls: route.tls,
                login: route.login.clone(),
                return_path: route.return_path,
                allow_private: true,
            };
            Ok(way(target, None, Arc::clone(&route.limits)))
        }
    }
}

fn by_mx(settings: &Settings, own_tls: Option<TlsPolicy>, hosts: Arc<[Host]>) -> Way {
    let best = hosts.iter().map(|host| host.preference).min();
    let best: Vec<Domain> =
        hosts.iter().filter(|host| Some(host.preference) == best).filter_map(|host| host.name.parse().ok()).collect();
    let rule = settings.site(&best);
    let tls = own_tls.unwrap_or(rule.map_or(settings.tls, |rule| rule.tls));
    let addresses = rule.is_none().then(|| places(&hosts)).filter(|places| !places.is_empty());
    let (return_path, allow_private) = (ReturnPath::Ours, settings.allow_private_peers);
    let target = Target { hosts, tls, login: None, return_path, allow_private };
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
    let mut hosts: Vec<_> =
        target.hosts.iter().map(|host| (host.preference, Arc::clone(&host.name), host.port)).collect();
    hosts.sort();
    let site_key = rule.map(SiteKey::Rule).unwrap_or_else(|| {
        let mut set: Vec<_> = hosts.iter().map(|(_, name, port)| (Arc::clone(name), *port)).collect();
        set.sort();
        SiteKey::Hosts(set.into())
    });
    let Target { tls, return_path, allow_private, .. } = target;
    let target_key = TargetKey { hosts: ranked(hosts), tls, login: target.login.clone(), return_path, allow_private };
    Way { target, target_key, site_key, limits, own: None, addresses: None }
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
