//! What the operator decides about the way out, as the scheduler needs it. Filled by `config`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::resolve::WayKey;
use crate::delivery::{Source, TlsPolicy, Trust};
use crate::mail::{Domain, EnhancedStatus, ReturnPath};
use crate::route::Match;
use crate::time::{Timestamp, Zone};
use crate::traffic::warmup::{Curve, SendHours};
use crate::traffic::{Limits, SiteLimits, SourceHandle};

/// Sources, pools, routes, sites and limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Local addresses and their names. Default: one on the kernel's own address.
    pub sources: Vec<Source>,
    /// Pools, each with the names of its sources. An envelope whose pool is not here goes by the first one.
    pub pools: Vec<Pool>,
    /// Where mail goes instead of to the MX. The most specific one wins.
    pub routes: Vec<Route>,
    /// MX hosts that share limits.
    pub sites: Vec<SiteRule>,
    /// Recipient domains with limits of their own beside their site's.
    pub domains: Vec<DomainRule>,
    /// Sources that warm up.
    pub warmups: Vec<WarmupRule>,
    /// Limits of every other site.
    pub limits: Arc<NamedLimits>,
    /// TLS towards every other host. Default: opportunistic.
    pub tls: TlsPolicy,
    /// Whether hosts from DNS may have loopback and private addresses. Default: no. A route's hosts always may, since
    /// the operator named them.
    pub allow_private_peers: bool,
    /// Connections to all peers at once. Default 1,000. Sites that never took a message hold at most a quarter.
    pub connections: u32,
    /// How long an idle connection is kept for the next message. Unit: seconds. Default 4.
    pub idle_timeout: Duration,
    /// DNS look-ups at once. Default 64.
    pub lookups: u32,
    /// Nothing is dialed before this: after an unclean end, until the peers have seen our old connections end.
    pub first_dial: Timestamp,
}

impl Default for Settings {
    fn default() -> Self {
        let source = Source {
            name: "default".into(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ehlo: "localhost.localdomain".into(),
        };
        Settings {
            pools: vec![Pool { name: "default".into(), sources: vec![Arc::clone(&source.name)] }],
            sources: vec![source],
            routes: Vec::new(),
            sites: Vec::new(),
            domains: Vec::new(),
            warmups: Vec::new(),
            limits: Arc::default(),
            tls: TlsPolicy::default(),
            allow_private_peers: false,
            connections: 1000,
            idle_timeout: Duration::from_secs(4),
            lookups: 64,
            first_dial: Timestamp::ZERO,
        }
    }
}

/// How a source warms up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WarmupRule {
    /// Its name.
    pub source: Arc<str>,
    /// The curve at providers that have none of their own here.
    pub curve: Arc<Curve>,
    /// Curves by provider.
    pub providers: Vec<(Arc<str>, Arc<Curve>)>,
    /// Whose calendar days count.
    pub zone: Zone,
    /// When marketing mail goes.
    pub hours: SendHours,
}

/// Sources that share the work of some streams, in turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// Names of sources. One that stands here twice gets twice the work.
    pub sources: Vec<Arc<str>>,
}

/// Where some mail goes instead of to the MX.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// For whom.
    pub matches: Match,
    /// What tells it from every other route, over restarts too.
    pub name: Arc<str>,
    /// Where to.
    pub way: RouteWay,
    /// The pool that it takes instead of the stream's: one source.
    pub pool: Option<Arc<str>>,
    /// Limits.
    pub limits: Arc<NamedLimits>,
    /// TLS.
    pub tls: TlsPolicy,
    /// User and password.
    pub login: Option<(Arc<str>, Arc<str>)>,
    /// Whose certificates are believed there; `None`: as everywhere.
    pub trust: Option<Trust>,
    /// Whose return path it takes. A service that one logs in to refuses senders that it does not know.
    pub return_path: ReturnPath,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteWay {
    /// To hosts, tried in this order.
    Hosts(Vec<Hop>),
    /// To where DNS says, with TLS of its own if any, and to others when those cannot be reached.
    Usual(Option<TlsPolicy>, Vec<Hop>),
    /// Nowhere: it fails with this status and text, or waits if the status is temporary.
    Nowhere(EnhancedStatus, Box<str>),
    /// Nowhere, and nobody is told.
    Discard,
}

/// A host of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// A name or an address literal.
    pub name: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The MX hosts of the name are meant.
    pub mx: bool,
}

/// Limits as the config states them: sources by their names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedLimits {
    /// Of each source, if nothing else is said of it.
    pub each: Limits,
    /// Of single sources, whole.
    pub sources: Vec<(Arc<str>, Limits)>,
    /// Of all sources together.
    pub total: Limits,
    /// Where each value stands in the config, for people.
    pub origins: Vec<Origin>,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Of which source; `None`: of each, or of all together.
    pub source: Option<Arc<str>>,
    /// The key that says it.
    pub key: &'static str,
    /// What it says.
    pub value: Arc<str>,
    /// `file:line`, or that it is built in.
    pub from: Arc<str>,
}

impl NamedLimits {
    /// The same for each source, and none for all together.
    pub fn of_each(each: Limits) -> NamedLimits {
        NamedLimits { each, sources: Vec::new(), total: Limits::NONE, origins: Vec::new() }
    }

    /// Whether anything is limited by time.
    pub(super) fn are_some(&self) -> bool {
        let limits = self.sources.iter().map(|(_, limits)| limits).chain([&self.each, &self.total]);
        let empty = |limits: &Limits| {
            limits.messages.is_empty() && limits.recipients.is_empty() && limits.new_connections.is_empty()
        };
        !limits.into_iter().all(empty)
    }

    /// As the engine reads them.
    pub(super) fn numbered(&self, number: impl Fn(&str) -> Option<u16>) -> SiteLimits {
        let sources = self.sources.iter().filter_map(|(name, limits)| Some((SourceHandle(number(name)?), *limits)));
        SiteLimits { each: self.each, sources: sources.collect(), total: self.total }
    }
}

impl Default for NamedLimits {
    fn default() -> Self {
        NamedLimits::of_each(Limits::default())
    }
}

/// Limits of a recipient domain, beside those of its site: messages and recipients by time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainRule {
    /// That domain alone.
    pub domain: Domain,
    /// Limits.
    pub limits: Arc<NamedLimits>,
    /// TLS. `None`: as its site has it.
    pub tls: Option<TlsPolicy>,
}

/// Limits of a provider, or of any MX.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteRule {
    /// Its name in listings.
    pub name: Arc<str>,
    /// Whose machines these are: what reputation is counted by.
    pub provider: Arc<str>,
    /// Hosts, each with those below it.
    pub mx: Vec<Domain>,
    /// Limits.
    pub limits: Arc<NamedLimits>,
    /// TLS.
    pub tls: TlsPolicy,
}

impl Settings {
    /// The route that an envelope was given, or the most specific one for its recipient domain; of equal ones the first.
    pub(super) fn route(&self, key: &WayKey) -> Option<&Route> {
        if let Some(chosen) = &key.route
            && let Some(route) = self.routes.iter().find(|route| route.name == *chosen)
        {
            return Some(route);
        }
        let fits = |route: &'_ Route| route.matches.rank_of_domain(&key.domain);
        let mut best: Option<(&Route, (usize, u8))> = None;
        for route in &self.routes {
            if let Some(rank) = fits(route)
                && best.is_none_or(|(_, other)| rank > other)
            {
                best = Some((route, rank));
            }
        }
        best.map(|(route, _)| route)
    }

    /// What is said of a recipient domain alone.
    pub(super) fn own_rule(&self, domain: &Domain) -> Option<&DomainRule> {
        self.domains.iter().find(|rule| rule.domain == *domain)
    }

    /// The name of the rule that a host falls under.
    pub(super) fn rule_of_host(&self, host: &str) -> Option<&Arc<str>> {
        self.site(&[host.parse().ok()?]).map(|rule| &rule.name)
    }

    /// The site rule that all these hosts fall under, by the longest name; of equal ones the last.
    pub(super) fn site(&self, hosts: &[Domain]) -> Option<&SiteRule> {
        let length = |rule: &SiteRule, host: &Domain| {
            rule.mx.iter().filter(|mx| host.is_within(mx)).map(|mx| mx.as_str().len()).max()
        };
        let fits = |rule: &&SiteRule| !hosts.is_empty() && hosts.iter().all(|host| length(rule, host).is_some());
        self.sites.iter().filter(fits).max_by_key(|rule| hosts.first().and_then(|host| length(rule, host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Recipients, Senders};

    fn domain(name: &str) -> Domain {
        name.parse().unwrap()
    }

    #[test]
    fn the_most_specific_route_wins() {
        let route = |recipients, name: &str| Route {
            matches: Match::to(recipients),
            name: name.into(),
            way: RouteWay::Hosts(vec![Hop { name: "h.example".into(), port: 25, mx: false }]),
            pool: None,
            limits: Arc::default(),
            tls: TlsPolicy::default(),
            login: None,
            trust: None,
            return_path: ReturnPath::Ours,
        };
        let of_sender = Match { recipients: Recipients::Any, senders: Senders::Domain(domain("s.example")) };
        let settings = Settings {
            routes: vec![
                Route { matches: of_sender, ..route(Recipients::Any, "of a sender") },
                route(Recipients::Any, "any"),
                route(Recipients::Within(domain("example.com")), "within"),
                route(Recipients::Only(domain("example.com")), "only"),
                route(Recipients::Within(domain("a.example.com")), "below"),
            ],
            ..Settings::default()
        };
        let rows = [
            ("other.example", None, "any"),
            ("example.com", None, "only"),
            ("b.example.com", None, "within"),
            ("a.example.com", None, "below"),
            ("x.a.example.com", None, "below"),
            ("badexample.com", None, "any"),
            ("example.com", Some("of a sender"), "of a sender"),
            // One that left the config.
            ("example.com", Some("gone"), "only"),
        ];
        for (name, chosen, want) in rows {
            let key = WayKey { domain: domain(name), route: chosen.map(Into::into) };
            assert_eq!(settings.route(&key).map(|route| &*route.name), Some(want), "{name} {chosen:?}");
        }
        let key = WayKey { domain: domain("a.example"), route: None };
        assert_eq!(Settings::default().route(&key), None);
    }

    #[test]
    fn a_site_rule_holds_only_if_all_hosts_fall_under_it() {
        let rule = |name: &str, mx: &[&str]| SiteRule {
            name: name.into(),
            provider: name.into(),
            mx: mx.iter().map(|name| domain(name)).collect(),
            limits: Arc::default(),
            tls: TlsPolicy::default(),
        };
        let settings = Settings {
            sites: vec![rule("big", &["example.net"]), rule("olc", &["olc.example.net", "olc.example.org"])],
            ..Settings::default()
        };
        let rows: [(&[&str], Option<&str>); 6] = [
            (&["mx.example.net"], Some("big")),
            (&["a.olc.example.net"], Some("olc")),
            (&["a.olc.example.net", "b.olc.example.org"], Some("olc")),
            (&["mx.example.net", "mx.example.org"], None),
            (&["badexample.net"], None),
            (&[], None),
        ];
        for (hosts, want) in rows {
            let hosts: Vec<Domain> = hosts.iter().map(|name| domain(name)).collect();
            assert_eq!(settings.site(&hosts).map(|rule| &*rule.name), want, "{hosts:?}");
        }
    }
}
