//! What operators suspended: sources, sites, and sources at sites. Written down before it is confirmed, and in force again
//! before anything is dialed after a restart.
//!
//! A site goes by the name of its rule or, without one, by that of any of its hosts: a host that is added to a domain does
//! not end a suspension. The engine knows sites by number; it is told when a number is given to a name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::info;

use super::clerk::Clerk;
use super::resolve::SiteKey;
use super::world::World;
use crate::time::Timestamp;
use crate::traffic::{Fact, Operator, SiteHandle, SourceHandle};

/// Suspensions that there may be at once. More would hide what is not suspended.
const SUSPENSIONS_MAX: usize = 1000;
/// Longest name of the person who suspends, in characters.
const BY_CHARS_MAX: usize = 64;
/// The longest time after which a suspension may end by itself.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// What is suspended: a source everywhere, a site for all sources, or one source at one site.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// No source is used at this site.
    Site(Arc<str>),
    /// This source is not used.
    Source(Arc<str>),
    /// This source (the second) is not used at this site.
    At(Arc<str>, Arc<str>),
}

impl Scope {
    fn site(&self) -> Option<&Arc<str>> {
        match self {
            Scope::Site(site) | Scope::At(site, _) => Some(site),
            Scope::Source(_) => None,
        }
    }

    fn source(&self) -> Option<&Arc<str>> {
        match self {
            Scope::Source(source) | Scope::At(_, source) => Some(source),
            Scope::Site(_) => None,
        }
    }

    /// Its name in the ledger: source and site, a line each, either may be empty.
    fn key(&self) -> Bytes {
        let text = |name: Option<&Arc<str>>| name.map(ToString::to_string).unwrap_or_default();
        Bytes::from(format!("{}\n{}", text(self.source()), text(self.site())))
    }

    fn read(key: &[u8]) -> Option<Scope> {
        let (source, site) = std::str::from_utf8(key).ok()?.split_once('\n')?;
        match (source, site) {
            ("", "") => None,
            ("", site) => Some(Scope::Site(site.into())),
            (source, "") => Some(Scope::Source(source.into())),
            (source, site) => Some(Scope::At(site.into(), source.into())),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scope::Site(site) => f.write_str(site),
            Scope::Source(source) => write!(f, "the source {source}"),
            Scope::At(site, source) => write!(f, "{site} for the source {source}"),
        }
    }
}

/// By whom, since when, until when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Suspension {
    /// Zero: not known any more.
    pub since: Timestamp,
    /// `NEVER`: until somebody resumes it.
    pub until: Timestamp,
    pub by: Arc<str>,
}

impl Suspension {
    /// `1, since, until, by`, a line each; times in milliseconds.
    fn written(&self) -> Bytes {
        let until = match self.until {
            Timestamp::NEVER => String::new(),
            until => until.as_millis().to_string(),
        };
        Bytes::from(format!("1\n{}\n{until}\n{}", self.since.as_millis(), self.by))
    }

    /// What cannot be read suspends until it is resumed: the strictest meaning.
    fn read(record: &[u8]) -> Suspension {
        let read = || {
            let mut lines = std::str::from_utf8(record).ok()?.splitn(4, '\n');
            let (version, since, until, by) = (lines.next()?, lines.next()?, lines.next()?, lines.next()?);
            let until = match until {
                "" => Timestamp::NEVER,
                millis => Timestamp::from_millis(millis.parse().ok()?),
            };
            let since = Timestamp::from_millis(since.parse().ok()?);
            (version == "1").then(|| Suspension { since, until, by: by.into() })
        };
        let strictest =
            Suspension { since: Timestamp::ZERO, until: Timestamp::NEVER, by: "a record that cannot be read".into() };
        read().unwrap_or(strictest)
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }
}

/// All that is suspended.
#[derive(Debug, Default)]
pub(super) struct Suspensions {
    all: BTreeMap<Scope, Suspension>,
}

impl Suspensions {
    pub fn read(records: Vec<(Bytes, Bytes)>) -> Suspensions {
        let read = |(key, record): (Bytes, Bytes)| Some((Scope::read(&key)?, Suspension::read(&record)));
        Suspensions { all: records.into_iter().filter_map(read).collect() }
    }

    /// When the first of them ends by itself.
    pub fn next_end(&self) -> Timestamp {
        self.all.values().map(|suspension| suspension.until).min().unwrap_or(Timestamp::NEVER)
    }

    fn over(&self, now: Timestamp) -> Vec<Scope> {
        self.all.iter().filter(|(_, suspension)| suspension.is_over(now)).map(|(scope, _)| scope.clone()).collect()
    }

    /// That of a source everywhere.
    pub fn of_source(&self, source: &str) -> Option<&Suspension> {
        self.all.get(&Scope::Source(source.into()))
    }

    /// Whether any speaks of a site.
    pub fn is_about(&self, key: &SiteKey) -> bool {
        self.of_site(key).next().is_some()
    }

    /// Those that speak of a site.
    fn of_site<'a>(&'a self, key: &'a SiteKey) -> impl Iterator<Item = (&'a Scope, &'a Suspension)> {
        self.all.iter().filter(|(scope, _)| scope.site().is_some_and(|site| key.is_called(site)))
    }

    /// That which binds a source at a site, if it is not suspended everywhere: the site's before its own.
    pub fn at<'a>(&'a self, key: &'a SiteKey, source: &str) -> Option<(&'a Scope, &'a Suspension)> {
        let binding = |scope: &Scope| scope.source().is_none_or(|suspended| **suspended == *source);
        let mut found: Vec<_> = self.of_site(key).filter(|(scope, _)| binding(scope)).collect();
        found.sort_by_key(|(scope, _)| scope.source().is_some());
        found.into_iter().next()
    }

    /// What `resume` ends: this, and for a site the suspensions of single sources there too. A site may be called by
    /// another of its hosts than when it was suspended; `known` are the sites of now.
    fn meant_by<'a>(&self, scope: &Scope, known: impl Iterator<Item = &'a SiteKey>) -> Vec<Scope> {
        let meant = |other: &&Scope| match scope {
            Scope::Site(site) => other.site() == Some(site),
            Scope::Source(_) | Scope::At(..) => *other == scope,
        };
        let exact: Vec<Scope> = self.all.keys().filter(meant).cloned().collect();
        match scope {
            Scope::Site(site) if exact.is_empty() => {
                let called = known.filter(|key| key.is_called(site));
                called.flat_map(|key| self.of_site(key).map(|(scope, _)| scope.clone()).collect::<Vec<_>>()).collect()
            }
            Scope::Site(_) | Scope::Source(_) | Scope::At(..) => exact,
        }
    }
}

/// The answer to an operator: what was done, or why not.
pub(super) type Said<T = String> = oneshot::Sender<Result<T, String>>;

impl<W: World> Clerk<W> {
    /// Suspends, and says so once that is durable.
    pub(super) fn suspend(&mut self, scope: Scope, within: Option<Duration>, by: &str, answer: Said) {
        let refused = self.why_not_suspend(&scope, within);
        if let Some(reason) = refused {
            // Whoever asked may be gone.
            let _ = answer.send(Err(reason));
            return;
        }
        let by: String = by.chars().filter(|c| !c.is_control()).take(BY_CHARS_MAX).collect();
        let now = self.world.now();
        let until = within.map_or(Timestamp::NEVER, |within| now.after(within));
        let suspension = Suspension { since: now, until, by: by.into() };
        info!(what = %scope, by = %suspension.by, until = %until.rfc3339(), "suspended");
        let done = match until {
            Timestamp::NEVER => format!("{scope} is suspended until it is resumed"),
            until => format!("{scope} is suspended until {}", until.rfc3339()),
        };
        let record = suspension.written();
        self.suspensions.all.insert(scope.clone(), suspension);
        self.enforce(&scope);
        self.write_down(vec![(scope.key(), Some(record))], answer, done);
    }

    fn why_not_suspend(&self, scope: &Scope, within: Option<Duration>) -> Option<String> {
        if let Some(source) = scope.source().filter(|source| self.address_of(source).is_none()) {
            let known: Vec<&str> = self.settings().sources.iter().map(|source| &*source.name).collect();
            return Some(format!("there is no source \"{source}\"; there are: {}", known.join(", ")));
        }
        if let Some(site) = scope.site() {
            let rule = self.settings().sites.iter().any(|rule| rule.name == *site);
            if !rule && !self.sites.keys().any(|key| key.is_called(site)) {
                let text = "a rule's name, or a host of a site that mail waits for, is expected: `traffic sites --all`";
                let owner = self.settings().rule_of_host(site).map(ToString::to_string);
                return Some(match owner.or_else(|| self.site_with_host(site)) {
                    Some(owner) => format!("{site} belongs to the site {owner}: suspend that"),
                    None => format!("there is no site \"{site}\" now; {text}"),
                });
            }
        }
        if within.is_some_and(|within| within > LONGEST || within.is_zero()) {
            return Some("a time of 1 second to 366 days is expected".to_owned());
        }
        let full = self.suspensions.all.len() >= SUSPENSIONS_MAX && !self.suspensions.all.contains_key(scope);
        full.then(|| format!("there are {SUSPENSIONS_MAX} suspensions already"))
    }

    /// Ends suspensions, and says so once that is durable.
    pub(super) fn resume(&mut self, scope: &Scope, by: &str, answer: Said) {
        let meant = self.suspensions.meant_by(scope, self.sites.keys());
        if meant.is_empty() {
            let wider = match scope {
                Scope::At(site, _) => self.suspensions.all.contains_key(&Scope::Site(Arc::clone(site))),
                Scope::Site(_) | Scope::Source(_) => false,
            };
            let _ = answer.send(Err(match wider {
                true => format!(
                    "all sources are suspended there: resume {} without --source",
                    scope.site().map_or("", |s| s)
                ),
                false => format!("{scope} is not suspended"),
            }));
            return;
        }
        let names: Vec<String> = meant.iter().map(ToString::to_string).collect();
        info!(what = names.join(", "), by, "resumed");
        let records = meant.iter().map(|scope| (scope.key(), None)).collect();
        for scope in &meant {
            self.suspensions.all.remove(scope);
            self.enforce(scope);
        }
        self.write_down(records, answer, format!("{} goes on", names.join(", ")));
    }

    /// Ends what was suspended for a time that has passed.
    pub(super) fn end_suspensions(&mut self) {
        // Nearly always nothing is suspended, and no clock need be asked.
        let next_end = self.suspensions.next_end();
        if next_end == Timestamp::NEVER {
            return;
        }
        let now = self.world.now();
        if next_end > now {
            return;
        }
        for scope in self.suspensions.over(now) {
            info!(what = %scope, "its suspension ended");
            self.suspensions.all.remove(&scope);
            self.enforce(&scope);
            self.write_down(vec![(scope.key(), None)], oneshot::channel().0, String::new());
        }
    }

    /// Tells the engine what is suspended, after a start or a reload: a source may have come or gone.
    pub(super) fn enforce_all(&mut self) {
        let scopes: Vec<Scope> = self.suspensions.all.keys().cloned().collect();
        scopes.iter().for_each(|scope| self.enforce(scope));
    }

    /// Tells the engine what holds now for what a scope names.
    fn enforce(&mut self, scope: &Scope) {
        match scope {
            Scope::Source(source) => {
                let Some(number) = self.sources.find(source).map(SourceHandle) else { return };
                self.tell(Fact::Operator(match self.suspensions.of_source(source) {
                    Some(_) => Operator::SuspendSource(number),
                    None => Operator::ResumeSource(number),
                }));
            }
            Scope::Site(site) | Scope::At(site, _) => {
                let meant: Vec<u32> =
                    self.sites.iter().filter(|(_, key)| key.is_called(site)).map(|(number, _)| number).collect();
                meant.into_iter().for_each(|site| self.enforce_at(site));
            }
        }
    }

    /// Tells the engine what is suspended at a site, if that is another than it knows.
    pub(super) fn enforce_at(&mut self, site: u32) {
        let Some(key) = self.sites.key(site) else { return };
        let number = |scope: &Scope| match scope.source() {
            None => Some(None),
            Some(source) => self.sources.find(source).map(|number| Some(SourceHandle(number))),
        };
        let stopped: Box<[Option<SourceHandle>]> =
            self.suspensions.of_site(key).filter_map(|(scope, _)| number(scope)).collect();
        let Some(memory) = self.sites.value_mut(site).filter(|memory| memory.stopped != stopped) else { return };
        memory.stopped = stopped.clone();
        self.tell(Fact::Operator(Operator::SuspendAt(SiteHandle(site), stopped)));
    }

    /// A number is about to be given to another site.
    pub(super) fn let_go(&mut self, site: u32) {
        if self.sites.value(site).is_some_and(|memory| !memory.stopped.is_empty()) {
            self.tell(Fact::Operator(Operator::SuspendAt(SiteHandle(site), Box::default())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn a_scope_reads_back_from_its_key() {
        for (scope, key) in [
            (Scope::Site("google".into()), "\ngoogle"),
            (Scope::Source("a".into()), "a\n"),
            (Scope::At("mx.example.net".into(), "a".into()), "a\nmx.example.net"),
        ] {
            assert_eq!(scope.key(), key.as_bytes());
            assert_eq!(Scope::read(&scope.key()), Some(scope));
        }
        for bad in ["", "\n", "a", "\u{0}"] {
            assert_eq!(Scope::read(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(Scope::read(&[0xff, b'\n', b'x']), None);
    }

    #[test]
    fn a_record_reads_back_and_one_that_cannot_be_read_suspends_for_good() {
        for until in [Timestamp::NEVER, NOW.after(Duration::from_secs(60))] {
            let suspension = Suspension { since: NOW, until, by: "root, for a while".into() };
            assert_eq!(Suspension::read(&suspension.written()), suspension);
        }
        let whole = Suspension { since: NOW, until: NOW, by: "root".into() }.written();
        for bad in
            [&b""[..], b"2\n1\n1\nroot", b"1\n1\n1", b"1\nx\n1\nroot", b"1\n1\n-1\nroot", &[0xff; 9], &whole[1..]]
        {
            let read = Suspension::read(bad);
            assert_eq!((read.until, read.since), (Timestamp::NEVER, Timestamp::ZERO), "{bad:?}");
            assert!(!read.is_over(NOW));
        }
    }

    #[test]
    fn what_binds_a_source_at_a_site_is_found_by_any_of_its_names() {
        let named = SiteKey::Rule("google".into());
        let hosts = SiteKey::Hosts([("mx1.example".into(), 25), ("mx2.example".into(), 25)].into());
        let suspension = |by: &str| Suspension { since: NOW, until: NOW.after(Duration::from_secs(60)), by: by.into() };
        let mut suspensions = Suspensions::default();
        for (scope, by) in [
            (Scope::At("google".into(), "a".into()), "1"),
            (Scope::Site("mx2.example".into()), "2"),
            (Scope::At("mx1.example".into(), "a".into()), "3"),
            (Scope::Source("c".into()), "4"),
        ] {
            suspensions.all.insert(scope, suspension(by));
        }
        let by = |key: &SiteKey, source: &str| suspensions.at(key, source).map(|(_, s)| s.by.to_string());
        let rows = [(&named, "a", Some("1")), (&named, "b", None), (&hosts, "a", Some("2")), (&hosts, "b", Some("2"))];
        for (key, source, want) in rows {
            assert_eq!(by(key, source).as_deref(), want, "{key:?} {source}");
        }
        assert!(suspensions.of_source("c").is_some() && suspensions.of_source("a").is_none());
        let meant = |scope: Scope| suspensions.meant_by(&scope, [&named, &hosts].into_iter()).len();
        assert_eq!(meant(Scope::Site("google".into())), 1);
        assert_eq!(meant(Scope::At("mx2.example".into(), "a".into())), 0);
        assert_eq!(meant(Scope::Site("mx2.example".into())), 1);
        assert_eq!(meant(Scope::Site("mx9.example".into())), 0);
        // By a host that no suspension names: all that is suspended at its site.
        let other = SiteKey::Hosts([("mx1.example".into(), 25), ("mx3.example".into(), 25)].into());
        assert_eq!(suspensions.meant_by(&Scope::Site("mx3.example".into()), [&other].into_iter()).len(), 1);
        assert_eq!(suspensions.over(NOW.after(Duration::from_secs(59))).len(), 0);
        assert_eq!(suspensions.over(suspensions.next_end()).len(), 4);
    }
}
