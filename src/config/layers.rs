//! Limits in layers: which value holds where several tables say one, and in which line it stands.
//!
//! ```text
//!   the default ([delivery]) < provider < provider of one source < [[site]] < [[site]] of one source
//! ```
//! Each key by itself: the last layer that says it wins. A `[[route]]` has the default below it and nothing else. A
//! `[[recipient_domain]]` has none below it: its windows hold beside those of the site, which all domains there share.
//! Called by the roof; it touches no disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::outbound::{RecipientDomain, Site};
use super::place::Places;
use super::units::show_rate;
use super::{Config, TlsPolicy};
use crate::mail::Domain;
use crate::traffic::Rates;

/// Where a value came from that no file says.
pub const BUILT_IN: &str = "built-in";

/// A key that says a limit, as the config writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// `connection_limit`
    ConnectionLimit,
    /// `max_deliveries_per_connection`
    MaxDeliveriesPerConnection,
    /// `max_message_rate`
    MaxMessageRate,
    /// `max_recipient_rate`
    MaxRecipientRate,
    /// `max_connection_rate`
    MaxConnectionRate,
    /// `total_connection_limit`
    TotalConnectionLimit,
    /// `total_message_rate`
    TotalMessageRate,
    /// `total_recipient_rate`
    TotalRecipientRate,
    /// `total_connection_rate`
    TotalConnectionRate,
    /// `tls`
    Tls,
}

impl Key {
    /// Its name in the config.
    pub fn name(self) -> &'static str {
        match self {
            Key::ConnectionLimit => "connection_limit",
            Key::MaxDeliveriesPerConnection => "max_deliveries_per_connection",
            Key::MaxMessageRate => "max_message_rate",
            Key::MaxRecipientRate => "max_recipient_rate",
            Key::MaxConnectionRate => "max_connection_rate",
            Key::TotalConnectionLimit => "total_connection_limit",
            Key::TotalMessageRate => "total_message_rate",
            Key::TotalRecipientRate => "total_recipient_rate",
            Key::TotalConnectionRate => "total_connection_rate",
            Key::Tls => "tls",
        }
    }

    /// Whether one source can have a value of its own.
    pub fn is_of_source(self) -> bool {
        match self {
            Key::ConnectionLimit
            | Key::MaxDeliveriesPerConnection
            | Key::MaxMessageRate
            | Key::MaxRecipientRate
            | Key::MaxConnectionRate => true,
            Key::TotalConnectionLimit
            | Key::TotalMessageRate
            | Key::TotalRecipientRate
            | Key::TotalConnectionRate
            | Key::Tls => false,
        }
    }
}

/// What a key says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// Connections, or messages on one.
    Count(u32),
    /// Windows.
    Rates(Rates),
    /// TLS.
    Tls(TlsPolicy),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => write!(f, "{count}"),
            Value::Tls(tls) => f.write_str(tls.name()),
            Value::Rates(rates) if rates.is_empty() => f.write_str("none"),
            Value::Rates(rates) => {
                let all: Vec<String> = rates.iter().map(|rate| format!("\"{}\"", show_rate(rate))).collect();
                write!(f, "[{}]", all.join(", "))
            }
        }
    }
}

/// What one table says of each key that it may have.
pub type Says = Vec<(Key, Option<Value>)>;

/// A value, and where it stands: `file:line`, or [`BUILT_IN`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The value.
    pub value: Value,
    /// Its place.
    pub from: Arc<str>,
}

/// The value of each key that some layer says.
pub type Values = BTreeMap<Key, Told>;

/// What the layers come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layered {
    /// For each source, and all together.
    pub each: Values,
    /// For single sources, whole.
    pub sources: Vec<(String, Values)>,
}

/// A site as its layers make it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayeredSite {
    /// Its name.
    pub name: String,
    /// The provider's name: its own, unless it lies below a provider of `conf/providers.toml`.
    pub provider: String,
    /// MX hosts, each with the hosts below it.
    pub mx: Vec<Domain>,
    /// Limits.
    pub limits: Layered,
}

/// A file and where its keys stand. What a config means does not depend on it, so that two are always equal.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    file: Arc<str>,
    places: Arc<Places>,
}

impl PartialEq for Lines {
    fn eq(&self, _: &Lines) -> bool {
        true
    }
}

impl Eq for Lines {}

impl Lines {
    pub(super) fn new(file: &Path, places: Places) -> Lines {
        Lines { file: file.display().to_string().into(), places: Arc::new(places) }
    }

    /// Where each key stands.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// `file:line` of a key, if the file has it.
    fn of(&self, path: &str) -> Option<Arc<str>> {
        let line = self.places.line_of_key(path)?;
        Some(format!("{}:{line}", self.file).into())
    }
}

/// One layer: what a table says, of one source or of each.
struct Layer<'a> {
    lines: &'a Lines,
    path: String,
    source: Option<&'a str>,
    says: Says,
}

impl Layer<'_> {
    fn put(&self, values: &mut Values) {
        for (key, value) in &self.says {
            let Some(value) = *value else { continue };
            let from = self.lines.of(&format!("{}.{}", self.path, key.name()));
            values.insert(*key, Told { value, from: from.unwrap_or_else(|| BUILT_IN.into()) });
        }
    }
}

/// Puts layers on each other, the most general first.
fn layered(layers: &[Layer<'_>]) -> Layered {
    let of = |source: Option<&str>| {
        let mut values = Values::new();
        let meant = |layer: &&Layer<'_>| layer.source.is_none() || layer.source == source;
        layers.iter().filter(meant).for_each(|layer| layer.put(&mut values));
        values
    };
    let mut names: Vec<&str> = layers.iter().filter_map(|layer| layer.source).collect();
    names.sort_unstable();
    names.dedup();
    Layered { each: of(None), sources: names.into_iter().map(|name| (name.to_owned(), of(Some(name)))).collect() }
}

impl Config {
    fn default_layer(&self) -> Layer<'_> {
        Layer { lines: &self.lines, path: "delivery".to_owned(), source: None, says: self.delivery.says() }
    }

    /// The limits of sites that no rule governs.
    pub fn default_limits(&self) -> Layered {
        layered(&[self.default_layer()])
    }

    /// The limits of a route: those of the entry at this index, and of the entries for single sources of the same
    /// recipients.
    pub fn route_limits(&self, index: usize) -> Layered {
        let mut layers = vec![self.default_layer()];
        let Some(meant) = self.routes.get(index) else { return layered(&layers) };
        for sourced in [false, true] {
            let entries = self.routes.iter().enumerate().filter(|(place, route)| match sourced {
                false => *place == index,
                true => !route.is_way() && route.is_for_the_same_mail(meant),
            });
            layers.extend(entries.map(|(place, route)| Layer {
                lines: &self.lines,
                path: format!("route[{place}]"),
                source: route.source.as_deref().filter(|_| !route.is_way()),
                says: route.says(),
            }));
        }
        layered(&layers)
    }

    /// Every recipient domain with limits of its own.
    pub fn domain_limits(&self) -> Vec<(Domain, Layered)> {
        let mut by_name: BTreeMap<String, Vec<(usize, &RecipientDomain)>> = BTreeMap::new();
        for (place, rule) in self.recipient_domains.iter().enumerate() {
            by_name.entry(rule.name.to_string()).or_default().push((place, rule));
        }
        let mut all = Vec::with_capacity(by_name.len());
        for entries in by_name.values_mut() {
            entries.sort_by_key(|(_, rule)| rule.source.is_some());
            let layer =
                |(place, rule): &(usize, &'_ RecipientDomain)| (format!("recipient_domain[{place}]"), rule.says());
            let layers: Vec<Layer<'_>> = entries
                .iter()
                .map(|entry| {
                    let (path, says) = layer(entry);
                    Layer { lines: &self.lines, path, source: entry.1.source.as_deref(), says }
                })
                .collect();
            if let Some((_, rule)) = entries.first() {
                all.push((rule.name.clone(), layered(&layers)));
            }
        }
        all
    }

    /// Every provider and site, providers first: of equally long names the later one is meant.
    pub fn layered_sites(&self) -> Vec<LayeredSite> {
        let named = |sites: &'_ [Site]| -> Vec<String> {
            let mut names: Vec<String> = Vec::new();
            for site in sites {
                if !names.contains(&site.name) {
                    names.push(site.name.clone());
                }
            }
            names
        };
        let own = named(&self.sites);
        let providers = named(&self.providers).into_iter().filter(|name| !own.contains(name));
        let mut all: Vec<LayeredSite> = providers.map(|name| self.layered_site(name.clone(), Some(name))).collect();
        all.extend(own.into_iter().map(|name| {
            let provider = self.provider_below(&name);
            self.layered_site(name, provider)
        }));
        all
    }

    /// The provider whose values a `[[site]]` starts from: that of the same name, else that which has all its hosts.
    fn provider_below(&self, name: &str) -> Option<String> {
        if self.providers.iter().any(|provider| provider.name == name) {
            return Some(name.to_owned());
        }
        let hosts = hosts_of(&self.sites, name);
        let mut best: Option<(usize, &str)> = None;
        for provider in &self.providers {
            let suffixes = hosts_of(&self.providers, &provider.name);
            let within = |host: &&Domain| suffixes.iter().filter(|suffix| host.is_within(suffix)).map(length).max();
            let lengths: Option<Vec<usize>> = hosts.iter().map(|host| within(&host)).collect();
            let Some(least) = lengths.and_then(|lengths| lengths.into_iter().min()) else { continue };
            if best.is_none_or(|(length, _)| least > length) {
                best = Some((least, &provider.name));
            }
        }
        best.map(|(_, name)| name.to_owned())
    }

    fn layered_site(&self, name: String, provider: Option<String>) -> LayeredSite {
        let mut layers = vec![self.default_layer()];
        let groups = [
            (provider.as_deref(), &self.providers, &self.provider_lines, "provider"),
            (Some(name.as_str()), &self.sites, &self.lines, "site"),
        ];
        for (name, sites, lines, table) in groups {
            for sourced in [false, true] {
                let fits = |site: &Site| Some(site.name.as_str()) == name && site.source.is_some() == sourced;
                let entries = sites.iter().enumerate().filter(|(_, site)| fits(site));
                layers.extend(entries.map(|(place, site)| Layer {
                    lines,
                    path: format!("{table}[{place}]"),
                    source: site.source.as_deref(),
                    says: site.says(),
                }));
            }
        }
        let limits = layered(&layers);
        let own = hosts_of(&self.sites, &name);
        let inherited = || provider.as_deref().map(|provider| hosts_of(&self.providers, provider)).unwrap_or_default();
        let mx = if own.is_empty() { inherited() } else { own };
        LayeredSite { provider: provider.unwrap_or_else(|| name.clone()), mx, limits, name }
    }
}

fn length(domain: &Domain) -> usize {
    domain.as_str().len()
}

/// The MX hosts of all entries of a name.
fn hosts_of(sites: &[Site], name: &str) -> Vec<Domain> {
    sites.iter().filter(|site| site.name == name).flat_map(|site| site.mx.iter().flatten()).cloned().collect()
}
