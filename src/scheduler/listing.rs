//! What operators see of sites and sources at a glance, and of one site in full: rows for `traffic sites`, `traffic
//! sources` and `traffic sites --explain`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::clerk::Clerk;
use super::explain::unit;
use super::recent::{MINUTES, Recent};
use super::resolve::{SiteKey, Way, WayKey, resolve};
use super::settings::{NamedLimits, Settings};
use super::suspend::{Said, Suspension};
use super::world::World;
use crate::mail::Domain;
use crate::metrics::OTHER;
use crate::time::Timestamp;
use crate::traffic::{PathView, SiteView, SourceHandle, UseView};

/// From this share of attempts on, deferrals are trouble, if there were enough attempts to tell.
const TROUBLE_PERCENT: u32 = 20;
const ATTEMPTS_TO_TELL: u32 = 10;

/// Sites of one listing. What comes after these is in less trouble.
const SITES_MAX: usize = 10_000;

/// Hosts shown of one site: a provider that names a host after each customer has as many as it has customers.
const HOSTS_MAX: usize = 16;
/// Hosts that these are chosen from, so that a site of 100,000 domains is listed in no time.
const HOSTS_SEEN_MAX: usize = 1000;

/// Which sites are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Those where something waits, is connected or is wrong.
    Busy,
    /// All that are known.
    All,
}

/// How much a row is in need of a look, least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Idle,
    Waiting,
    Held,
    Deferring,
    Throttled,
    Suspended,
}

struct Row {
    value: Value,
    trouble: Trouble,
}

impl<W: World> Clerk<W> {
    /// Sites, the one in most trouble first, then the one with the most queued.
    pub(super) fn list_sites(&self, which: Which, filter: &str) -> Value {
        let queued = |view: &SiteView| view.queued.iter().map(|n| u64::from(*n)).sum::<u64>();
        let mut rows = Vec::new();
        for view in self.engine.sites().iter().filter(|view| self.is_called_like(view, filter)) {
            let Row { value, trouble } = self.list_site(view);
            if which == Which::All || trouble != Trouble::Idle || queued(view) > 0 || view.open > 0 {
                rows.push((std::cmp::Reverse((trouble, queued(view))), value));
            }
        }
        rows.sort_by_key(|(rank, _)| *rank);
        rows.into_iter().map(|(_, value)| value).take(SITES_MAX).collect()
    }

    fn is_called_like(&self, view: &SiteView, filter: &str) -> bool {
        let Some(key) = self.sites.key(view.site.0) else { return false };
        key.name().contains(filter)
            || provider(self.settings(), key).contains(filter)
            || key.hosts().iter().any(|host| host.contains(filter))
            || self.hosts_of(view).any(|host| host.contains(filter))
    }

    /// The names of the hosts that mail of this site goes to, those that several domains share once for each.
    fn hosts_of<'a>(&'a self, view: &'a SiteView) -> impl Iterator<Item = &'a str> {
        let aims = view.targets.iter().filter_map(|target| self.targets.value(target.0));
        aims.flat_map(|aim| aim.target.hosts.iter()).map(|host| &*host.name)
    }

    fn list_site(&self, view: &SiteView) -> Row {
        let mut hosts: Vec<&str> = Vec::new();
        for host in self.hosts_of(view).take(HOSTS_SEEN_MAX) {
            if hosts.len() < HOSTS_MAX && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let mut sources: Vec<Row> = view.paths.iter().map(|path| self.list_path(view, path)).collect();
        sources.sort_by_key(|row| std::cmp::Reverse(row.trouble));
        let trouble = sources.iter().map(|row| row.trouble).max().unwrap_or(Trouble::Idle);
        let sources: Vec<Value> = sources.into_iter().map(|row| row.value).collect();
        let rates: Vec<Value> = view.uses.iter().map(|used| self.rate(used)).collect();
        let key = self.sites.key(view.site.0);
        let value = json!({
            "site": self.site(view.site),
            "provider": key.map(|key| provider(self.settings(), key)),
            "hosts": hosts,
            "queued": by_kind(view.queued),
            "waiting": by_kind(view.waiting),
            "connections": view.open,
            "proven": view.proven,
            "sources": sources,
            "rates": rates,
            "idle": trouble == Trouble::Idle,
        });
        Row { value, trouble }
    }

    /// The first name of the site to which a host belongs by its address.
    pub(super) fn site_with_host(&self, host: &str) -> Option<String> {
        let aims = self.targets.iter().filter_map(|(number, _)| self.targets.value(number));
        let aim = aims.into_iter().find(|aim| aim.target.hosts.iter().any(|other| *other.name == *host))?;
        let key = self.sites.key(aim.site)?;
        Some(key.hosts().first().map_or_else(|| key.name(), |name| (*name).to_owned()))
    }

    /// A source at a site.
    fn list_path(&self, view: &SiteView, path: &PathView) -> Row {
        let source = self.sources.name(path.source.0);
        let now = self.world.now();
        let suspension = self.suspension(view, source);
        let fullest = view
            .uses
            .iter()
            .filter(|used| used.source.is_none_or(|of| of == path.source))
            .max_by_key(|used| u64::from(used.used) * 10_000 / u64::from(used.rate.count.max(1)));
        let queued = view.carried.iter().find(|(of, _)| *of == path.source).map(|(_, queued)| *queued);
        let queued = queued.unwrap_or_default();
        let recent = self.sites.value(view.site.0).and_then(|memory| memory.recent.get(&path.source.0));
        let (attempts, deferred) = recent.map(|recent| Recent::sums(recent, now)).unwrap_or_default();
        let busy = queued != [0, 0] || path.open > 0;
        let deferring = attempts >= ATTEMPTS_TO_TELL && deferred * 100 / attempts.max(1) >= TROUBLE_PERCENT;
        let (state, trouble) = match (&suspension, path.throttled) {
            (Some(_), _) => ("suspended", Trouble::Suspended),
            (None, Some(_)) => ("throttled", Trouble::Throttled),
            (None, None) if deferring => (if path.slowed.is_some() { "slowed" } else { "ready" }, Trouble::Deferring),
            (None, None) if busy && path.slowed.is_some() => ("slowed", Trouble::Held),
            (None, None) if busy && path.allowed < path.limit && self.last_words(path.source, view.site).is_some() => {
                ("ready", Trouble::Held)
            }
            (None, None) if busy => ("ready", Trouble::Waiting),
            (None, None) => ("ready", Trouble::Idle),
        };
        let until = match &suspension {
            Some(suspension) => Some(suspension.until).filter(|until| *until != Timestamp::NEVER),
            None => path.throttled,
        };
        let value = json!({
            "source": source,
            "queued": by_kind(queued),
            "connections": path.open,
            "allowed": path.allowed,
            "limit": path.limit,
            "rate": fullest.map(|used| self.rate(used)),
            "slowed": path.slowed.map(|(used, rate)| json!({
                "used": used, "count": rate.count, "per_seconds": rate.per.as_secs(),
            })),
            "deliveries": path.deliveries,
            "recent": { "minutes": MINUTES, "attempts": attempts, "deferred": deferred },
            "state": state,
            "until": until.map(Timestamp::rfc3339),
            "suspended": suspension.map(|suspension| told(&suspension)),
            "cause": self.last_words(path.source, view.site),
        });
        Row { value, trouble }
    }

    fn suspension(&self, view: &SiteView, source: &str) -> Option<Suspension> {
        let at = self.sites.key(view.site.0).and_then(|key| self.suspensions.at(key, source));
        self.suspensions.of_source(source).or(at.map(|(_, suspension)| suspension)).cloned()
    }

    fn rate(&self, used: &UseView) -> Value {
        json!({
            "source": used.source.map(|source| self.sources.name(source.0)),
            "unit": unit(used.unit),
            "used": used.used,
            "count": used.rate.count,
            "per_seconds": used.rate.per.as_secs(),
        })
    }

    /// Each source of the config, in its order.
    pub(super) fn list_sources(&self) -> Value {
        let views = self.engine.sites();
        let of = |number: SourceHandle, queued: &mut [u32; 2], open: &mut u32| {
            for view in &views {
                let carried = view.carried.iter().filter(|(source, _)| *source == number);
                carried.for_each(|(_, more)| queued.iter_mut().zip(more).for_each(|(sum, more)| *sum += more));
                *open += view.paths.iter().filter(|p| p.source == number).map(|p| u32::from(p.open)).sum::<u32>();
            }
        };
        let list = |source: &crate::delivery::Source| {
            let (mut queued, mut open) = ([0; 2], 0);
            if let Some(number) = self.sources.find(&source.name) {
                of(SourceHandle(number), &mut queued, &mut open);
            }
            let pools: BTreeSet<&str> = self
                .settings()
                .pools
                .iter()
                .filter(|pool| pool.sources.contains(&source.name))
                .map(|pool| &*pool.name)
                .collect();
            let suspension = self.suspensions.of_source(&source.name);
            json!({
                "source": &*source.name,
                "address": source.address.to_string(),
                "ehlo": &*source.ehlo,
                "pools": pools,
                "queued": by_kind(queued),
                "connections": open,
                "state": if suspension.is_some() { "suspended" } else { "ready" },
                "suspended": suspension.map(told),
            })
        };
        self.settings().sources.iter().map(list).collect()
    }

    /// Says where each value of a site comes from: by its rule's name or a host, else by a recipient domain, whose hosts
    /// are looked up.
    pub(super) fn explain_site(&self, called: &str, answer: Said<Value>) {
        let settings = Arc::clone(self.settings());
        let known = || self.sites.iter().find(|(_, key)| key.is_called(called));
        let said = if called == OTHER {
            Some(Ok(explained(OTHER, OTHER, &[], &settings.limits)))
        } else if let Some(rule) = settings.sites.iter().find(|rule| *rule.name == *called) {
            let hosts: Vec<&str> = rule.mx.iter().map(Domain::as_str).collect();
            Some(Ok(explained(&rule.name, &rule.provider, &hosts, &rule.limits)))
        } else if let Some((number, key)) = known() {
            let limits = self.sites.value(number).and_then(|memory| memory.limits.clone());
            let limits = limits.unwrap_or_else(|| Arc::clone(&settings.limits));
            Some(Ok(explained(&key.name(), provider(&settings, key), &key.hosts(), &limits)))
        } else if called.parse::<Domain>().is_err() {
            Some(Err(format!("\"{called}\" is neither a site nor a domain")))
        } else {
            None
        };
        // Whoever asked may be gone.
        match (said, called.parse::<Domain>()) {
            (Some(said), _) => drop(answer.send(said)),
            (None, Err(_)) => {}
            (None, Ok(domain)) => {
                let world = Arc::clone(&self.world);
                drop(tokio::spawn(async move {
                    let key = WayKey { domain: domain.clone(), route: None };
                    let way = resolve(&*world, &settings, &key).await;
                    drop(answer.send(match way {
                        Ok(way) => Ok(explained_domain(&settings, &domain, &way)),
                        Err(failure) => Err(format!("{domain}: {}", failure.text)),
                    }));
                }));
            }
        }
    }
}

/// Whose reputation a site's mail counts for.
pub(super) fn provider<'a>(settings: &'a Settings, key: &SiteKey) -> &'a str {
    match key {
        SiteKey::Rule(name) => {
            let rule = settings.sites.iter().find(|rule| rule.name == *name);
            rule.map_or(OTHER, |rule| &rule.provider)
        }
        SiteKey::Hosts(_) => OTHER,
    }
}

fn by_kind([transactional, marketing]: [u32; 2]) -> Value {
    json!({ "transactional": transactional, "marketing": marketing })
}

fn told(suspension: &Suspension) -> Value {
    let at = |at: Timestamp, unknown: Timestamp| Some(at).filter(|at| *at != unknown).map(Timestamp::rfc3339);
    json!({
        "by": &*suspension.by,
        "since": at(suspension.since, Timestamp::ZERO),
        "until": at(suspension.until, Timestamp::NEVER),
    })
}

fn explained(site: &str, provider: &str, hosts: &[&str], limits: &NamedLimits) -> Value {
    json!({ "site": site, "provider": provider, "hosts": hosts, "values": values(limits) })
}

fn explained_domain(settings: &Settings, domain: &Domain, way: &Way) -> Value {
    let hosts: Vec<&str> = way.target.hosts.iter().map(|host| &*host.name).collect();
    let mut all = explained(&way.site_key.name(), provider(settings, &way.site_key), &hosts, &way.limits);
    all["domain"] = domain.as_str().into();
    if let Some(rule) = settings.own_rule(domain) {
        all["domain_values"] = values(&rule.limits);
    }
    all
}

fn values(limits: &NamedLimits) -> Value {
    let value = |origin: &super::Origin| {
        json!({
            "source": origin.source.as_deref(),
            "key": origin.key,
            "value": &*origin.value,
            "from": &*origin.from,
        })
    };
    limits.origins.iter().map(value).collect()
}
