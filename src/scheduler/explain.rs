//! What the engine says, in words for people and names for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::clerk::Clerk;
use super::resolve::SiteKey;
use super::suspend::{Scope, Suspension};
use super::world::World;
use crate::mail::{Outcome, QueueId};
use crate::metrics::{Gauge, Metric};
use crate::time::Timestamp;
use crate::traffic::{Account, Bound, Constraint, DomainHandle, SiteHandle, SourceHandle, Unit};

impl<W: World> Clerk<W> {
    /// `[{kind, text, cause, until}]`, the binding constraint first.
    pub(super) fn why(&self, id: QueueId) -> Value {
        let now = self.world.now();
        let mut all: Vec<Value> =
            self.engine.why(now, id).into_iter().map(|constraint| self.explain(constraint, id, now)).collect();
        // A site that is suspended binds each source, and is told once.
        all.dedup();
        all.into()
    }

    fn explain(&self, constraint: Constraint, id: QueueId, now: Timestamp) -> Value {
        match constraint {
            Constraint::Held => match self.world.why_held(id) {
                Some(sentence) => said("paused", &format!("{sentence}; it does not grow older meanwhile"), None, None),
                None => said("held", "it is held, until somebody releases it", None, None),
            },
            Constraint::Attempted(_) => said("attempted", "it is being delivered right now", None, None),
            Constraint::Ending => said("ending", "it is about to be returned to its sender", None, None),
            Constraint::NotDue(until) => {
                said("not_due", &format!("it waits until {}", when(until, now)), None, Some(until))
            }
            Constraint::Resolving(domain) => {
                said("resolving", &format!("the hosts of {} are being looked up", self.domain(domain)), None, None)
            }
            Constraint::Unresolved(domain, until) => {
                let cause = self.domains.value(domain.0).and_then(Option::as_ref).map(ToString::to_string);
                let cause = cause.unwrap_or_else(|| "the look-up failed".to_owned());
                let text = format!("waits until {}: {cause}", when(until, now));
                said("unresolved", &text, Some(cause), Some(until))
            }
            Constraint::NoSource(pool) => {
                said("no_source", &format!("the pool {} has no source", self.pools.name(pool.0)), None, None)
            }
            Constraint::Suspended(source) => {
                let name = self.sources.name(source.0);
                self.suspended(Scope::Source(name.into()), self.suspensions.of_source(name), now)
            }
            Constraint::SuspendedAt(source, site) => {
                let found = self.sites.key(site.0).map(|key| self.suspensions.at(key, self.sources.name(source.0)));
                match found.flatten() {
                    Some((scope, suspension)) => self.suspended(scope.clone(), Some(suspension), now),
                    None => self.suspended(Scope::Site(self.site(site).into()), None, now),
                }
            }
            Constraint::Throttled(source, site, until) => {
                let cause = self.last_words(source, site);
                let text =
                    format!("waits until {}: {}", when(until, now), cause.as_deref().unwrap_or("it was refused"));
                said("throttled", &text, cause, Some(until))
            }
            Constraint::Connections { source, site, open, allowed, limit } => {
                let (source_name, name) = (self.sources.name(source.0), self.site(site));
                let learned = if allowed < limit { " for now" } else { "" };
                let text = format!("{open} of {allowed} connections{learned} from {source_name} to {name} are in use");
                let cause = match allowed < limit {
                    true => self.last_words(source, site),
                    false => Some(format!("connection_limit = {limit}")),
                };
                said("connections", &text, cause, None)
            }
            Constraint::SiteConnections { site, open, limit } => {
                let text = format!("{open} of {limit} connections of all sources to {} are in use", self.site(site));
                said("site_connections", &text, Some(format!("total_connection_limit = {limit}")), None)
            }
            Constraint::Window { account, rate, used, bound, until } => {
                let name = self.holder_name(account.holder);
                let who = match account.source {
                    Some(source) => format!("from {} to {name}", self.sources.name(source.0)),
                    None => format!("from all sources to {name}"),
                };
                let (what, limit) = (unit(account.unit), format!("{}/{}", rate.count, per(rate.per)));
                let text = match bound {
                    Bound::Full => format!("waits until {}: {used} of {limit} {what} {who} are used", when(until, now)),
                    Bound::Paced => format!(
                        "waits until {}: {used} of {limit} {what} {who} are used, and the rest is spread over the time",
                        when(until, now)
                    ),
                };
                said("window", &text, Some(format!("{} = \"{limit}\"", key(account))), Some(until))
            }
            Constraint::Slowed(source, site, rate, until) => {
                let (source_name, name) = (self.sources.name(source.0), self.site(site));
                let text = format!(
                    "waits until {}: {source_name} sends {name} no more than {}/{} for now, as its replies taught",
                    when(until, now),
                    rate.count,
                    per(rate.per)
                );
                said("slowed", &text, self.last_words(source, site), Some(until))
            }
            Constraint::Warmup { source, provider, stage, used, budget, because, until } => {
                let (source, provider) = (self.sources.name(source.0), self.providers.name(provider.0));
                let until_text = until.map(|until| format!(" until {}", when(until, now))).unwrap_or_default();
                let text = format!(
                    "waits{until_text}: {source} warms up at {provider}, stage {}: {used} of today's {budget} marketing messages \
                     are used, and {}",
                    stage.saturating_add(1),
                    super::warmup::because(because)
                );
                said("warmup", &text, Some(format!("[source.{source}] warmup")), until)
            }
            Constraint::Reserving(account) => {
                let text = format!("allowance for {} is being written down", self.holder_name(account.holder));
                said("reserving", &text, None, None)
            }
            Constraint::Settling(until) => {
                let text = "after a crash, peers are given a second to see the old connections end";
                said("settling", text, None, Some(until))
            }
            Constraint::Reserved(source, site) => {
                let (source, site) = (self.sources.name(source.0), self.site(site));
                let text = format!("the last connection from {source} to {site} is kept for transactional mail");
                said("reserved", &text, None, None)
            }
            Constraint::TotalConnections(most) => {
                let text = "other sites use all connections that there may be".to_owned();
                said("total_connections", &text, Some(format!("connections = {most}")), None)
            }
            Constraint::Dialing(site) => {
                said("dialing", &format!("a connection to {} is being made", self.site(site)), None, None)
            }
            Constraint::InLine(site, waiting) => {
                said("in_line", &format!("{waiting} messages are ready for {}", self.site(site)), None, None)
            }
        }
    }

    /// What the engine keeps: numbers that are at hand, since a scrape must not hold up mail.
    pub(super) fn gauges(&self) -> Vec<Gauge> {
        let (domains, hosts, sites) = (self.domains.len(), self.targets.len(), self.sites.len());
        let (envelopes, connections) = (self.engine.len(), self.engine.connections());
        let all = [
            ("envelopes", envelopes),
            ("domains", domains),
            ("hosts", hosts),
            ("sites", sites),
            ("connections", connections),
        ];
        let gauge = |(what, count): (&str, usize)| Gauge {
            metric: Metric::EngineEntries,
            labels: vec![what.into()],
            value: count as f64,
        };
        all.into_iter().map(gauge).collect()
    }

    /// Those of the envelopes that nothing would ever happen to.
    pub(super) fn stranded(&self, mut ids: Vec<QueueId>) -> Vec<QueueId> {
        // What is still to be told is not where it will be.
        if self.loading || self.is_telling_again() {
            return Vec::new();
        }
        let now = self.world.now();
        ids.retain(|id| self.engine.is_stranded(now, *id) && self.world.why_held(*id).is_none());
        ids
    }

    fn suspended(&self, scope: Scope, suspension: Option<&Suspension>, now: Timestamp) -> Value {
        let Some(Suspension { since, until, by }) = suspension else {
            return said("suspended", &format!("{scope} is suspended"), None, None);
        };
        let mut text = format!("{scope} is suspended");
        if *until != Timestamp::NEVER {
            text += &format!(" until {}", when(*until, now));
        }
        let since = match *since {
            Timestamp::ZERO => String::new(),
            since => format!(" at {}", since.rfc3339()),
        };
        said("suspended", &text, Some(format!("by {by}{since}")), Some(*until).filter(|at| *at != Timestamp::NEVER))
    }

    fn domain(&self, domain: DomainHandle) -> String {
        self.domains.key(domain.0).map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn site(&self, site: SiteHandle) -> String {
        self.sites.key(site.0).map(SiteKey::name).unwrap_or_default()
    }

    pub(super) fn last_words(&self, source: SourceHandle, site: SiteHandle) -> Option<String> {
        self.sites.value(site.0)?.last.get(&source.0).map(words)
    }
}

pub(super) fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Messages => "messages",
        Unit::Recipients => "recipients",
        Unit::Connections => "new connections",
        Unit::Lesson => "lessons",
        Unit::Warmup => "warm-ups",
    }
}

/// The key in the config that says so.
fn key(account: Account) -> &'static str {
    match (account.unit, account.source.is_some()) {
        (Unit::Messages, true) => "max_message_rate",
        (Unit::Messages, false) => "total_message_rate",
        (Unit::Recipients, true) => "max_recipient_rate",
        (Unit::Recipients, false) => "total_recipient_rate",
        (Unit::Connections, true) => "max_connection_rate",
        (Unit::Connections, false) => "total_connection_rate",
        // No config says it: the peer does.
        (Unit::Lesson | Unit::Warmup, _) => "",
    }
}

/// `1h`, as the config writes it.
fn per(per: Duration) -> String {
    match per.as_secs() {
        secs if secs > 0 && secs % 86_400 == 0 => format!("{}d", secs / 86_400),
        secs if secs > 0 && secs % 3600 == 0 => format!("{}h", secs / 3600),
        secs if secs > 0 && secs % 60 == 0 => format!("{}m", secs / 60),
        secs => format!("{secs}s"),
    }
}

fn said(kind: &str, text: &str, cause: Option<String>, until: Option<Timestamp>) -> Value {
    let mut value = json!({ "kind": kind, "text": text });
    if let Some(cause) = cause {
        value["cause"] = cause.into();
    }
    if let Some(until) = until {
        value["until"] = until.rfc3339().into();
    }
    value
}

/// `mx1.example.net said 421 4.7.0 …`, or what we found out.
fn words(outcome: &Outcome) -> String {
    match (&outcome.cause, outcome.host.is_empty()) {
        (crate::mail::Cause::Reply(reply), false) => format!("{} said {reply}", outcome.host),
        (cause, false) => format!("{}: {cause}", outcome.host),
        (cause, true) => cause.to_string(),
    }
}

/// `10:32 UTC (in 4 min)`.
fn when(at: Timestamp, now: Timestamp) -> String {
    let text = at.rfc3339();
    let wait = at.since(now);
    let shown = match (text.get(..10), text.get(11..16)) {
        (Some(_), Some(clock)) if wait < Duration::from_secs(12 * 3600) => format!("{clock} UTC"),
        (Some(date), Some(clock)) => format!("{date} {clock} UTC"),
        _ => text,
    };
    format!("{shown} ({})", how_long(wait))
}

fn how_long(wait: Duration) -> String {
    match wait.as_secs() {
        0 => "now".to_owned(),
        secs @ 1..100 => format!("in {secs} s"),
        secs @ 100..5400 => format!("in {} min", secs / 60),
        secs @ 5400..172_800 => format!("in {} h", secs / 3600),
        secs => format!("in {} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_people_say_it() {
        let now = Timestamp::from_secs(1_795_255_200);
        let rows = [
            (0, "10:00 UTC (now)"),
            (40, "10:00 UTC (in 40 s)"),
            (240, "10:04 UTC (in 4 min)"),
            (7200, "12:00 UTC (in 2 h)"),
            (86_400, "2026-11-22 10:00 UTC (in 24 h)"),
            (345_600, "2026-11-25 10:00 UTC (in 4 days)"),
        ];
        for (secs, want) in rows {
            assert_eq!(when(now.after(Duration::from_secs(secs)), now), want);
        }
        assert!(when(Timestamp::NEVER, now).starts_with("never"));
    }
}
