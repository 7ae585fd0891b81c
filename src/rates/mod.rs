//! What share of the mail of a sender bounces or is complained about, and when that stops it: counts and `now` in, steps
//! out. Pure.
//!
//! Called by `harm`, which keeps it over restarts; told by `accept` of each recipient's end. It stops nothing itself: a
//! [`Step`] says what is to be told and what holds now, and [`Book::hold`] what the scheduler asks.
//!
//! Only marketing mail is ever paused, and only what one credential sends on one stream. A credential of whose recipients
//! many never existed is suspended whole: that is what a stolen login looks like.

mod rest;
mod ring;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::mail::{StreamKind, Text};
use crate::time::Timestamp;

pub use rest::Rests;
pub use ring::{Counts, Span, Windows};
pub use scope::{Scope, Sender};

/// Most scopes that are counted; who was not heard of for longest makes room. Some 2.4 KiB each: 46 slots of six counts.
const SCOPES_MAX: usize = 4096;
/// Most pauses and suspensions.
const HOLDS_MAX: usize = 1000;
/// What a bounce pause lets go in an hour at least.
const TRICKLE_MIN: u32 = 10;
/// A bounce pause ends when no more than half of what began it bounces.
const RECOVERED: f64 = 0.5;
/// Complaints that say something: one angry reader is no share.
const COMPLAINTS_WARN_MIN: u64 = 3;
const COMPLAINTS_PAUSE_MIN: u64 = 5;

/// When is it too much.
#[derive(Clone, PartialEq, Debug)]
pub struct Thresholds {
    /// Share of complaints at which a person is told. Default 0.1 %: what Google and SES call healthy ends there.
    pub complaint_warn: f64,
    /// Share of complaints that pauses. Default 0.3 %: Google's and Yahoo's limit.
    pub complaint_pause: f64,
    /// Deliveries that a share of complaints is taken of, at least. Default 1,000.
    pub complaint_volume: u64,
    /// Share of recipients that do not exist that pauses. Default 10 %: where SES may stop a sender.
    pub bounce_pause: f64,
    /// Answers that this share is taken of, at least. Default 200.
    pub bounce_volume: u64,
    /// Share of strangers (they do not exist, and nothing was delivered to them of late) that suspends a credential.
    /// Default 30 %.
    pub login_storm: f64,
    /// Such strangers within an hour, at least. Default 100.
    pub login_storm_volume: u64,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds {
            complaint_warn: 0.001,
            complaint_pause: 0.003,
            complaint_volume: 1000,
            bounce_pause: 0.1,
            bounce_volume: 200,
            login_storm: 0.3,
            login_storm_volume: 100,
        }
    }
}

/// Whose mail it was, and where it went. Empty: not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mail<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// Its kind.
    pub kind: StreamKind,
    /// The credential's name; empty for trusted networks.
    pub credential: &'a str,
    /// The source's name.
    pub source: &'a str,
    /// The sending domain.
    pub domain: &'a str,
    /// The recipient's provider.
    pub provider: &'a str,
}

/// What became of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// Taken by the peer.
    Delivered {
        /// The provider sends reports of complaints.
        feedback: bool,
    },
    /// An attempt that ended in "later".
    Deferred,
    /// There is no such mailbox.
    Bounced {
        /// Nothing was delivered there of late either.
        stranger: bool,
    },
    /// They called it spam. Counted to when it was delivered.
    Complained {
        /// When that was.
        delivered_at: Timestamp,
    },
}

/// Why a sender is paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Until an operator resumes it.
    Complaints,
    /// It goes on at a tenth of its rate, and wholly when fewer bounce.
    Bounces,
}

impl Why {
    /// The word in listings and records.
    pub fn name(self) -> &'static str {
        match self {
            Why::Complaints => "complaints",
            Why::Bounces => "bounces",
        }
    }
}

/// A sender that is paused, or a credential that is suspended.
#[derive(Clone, PartialEq, Debug)]
pub struct Pause {
    /// What of.
    pub why: Why,
    /// Since when.
    pub since: Timestamp,
    /// The share, 0 to 1 …
    pub share: f64,
    /// … of so many.
    pub of: u64,
    /// What may go in an hour meanwhile.
    pub per_hour: u32,
    /// What became of mail since.
    pub after: Counts,
}

/// A credential that may not log in, and whose mail is held.
#[derive(Clone, PartialEq, Debug)]
pub struct Suspension {
    /// Since when.
    pub since: Timestamp,
    /// By whom, or why: words for people.
    pub because: Text,
}

/// What holds a sender's mail back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Hold<'a> {
    /// A pause.
    Paused(&'a Pause),
    /// Its credential is suspended.
    Suspended(&'a Suspension),
}

/// What is to be told, and written down.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Complaints are near the limit.
    Warn(Scope, f64, u64),
    /// A sender is paused from now on.
    Pause(Sender, Pause),
    /// A pause is over by itself.
    Recovered(Sender),
    /// A credential is suspended from now on.
    Suspend(Text, Suspension),
}

/// All counts and pauses.
#[derive(Default, Debug)]
pub struct Book {
    windows: HashMap<Scope, Windows>,
    pauses: BTreeMap<Sender, Pause>,
    suspensions: BTreeMap<Text, Suspension>,
    /// When mail of senders and of credentials was held.
    rests: BTreeMap<Scope, Rests>,
    /// Counts that began anew, and are to be removed where they are kept.
    dropped: Vec<Scope>,
}

impl Book {
    /// Counts what became of a recipient.
    pub fn count(&mut self, mail: &Mail<'_>, became: Became, limits: &Thresholds, now: Timestamp) -> Vec<Step> {
        for scope in Scope::of(mail) {
            self.windows_of(scope, now).count(became, now);
        }
        let mut steps = Vec::new();
        let sender = Sender::new(mail.credential, mail.stream);
        self.follow(&sender, became, limits, now, &mut steps);
        match became {
            Became::Complained { .. } => self.judge_complaints(mail, &sender, limits, now, &mut steps),
            Became::Bounced { .. } => {
                self.judge_bounces(mail, &sender, limits, now, &mut steps);
                self.judge_login(mail.credential, limits, now, &mut steps);
            }
            Became::Delivered { .. } | Became::Deferred => {}
        }
        steps
    }

    fn windows_of(&mut self, scope: Scope, now: Timestamp) -> &mut Windows {
        if self.windows.len() >= SCOPES_MAX && !self.windows.contains_key(&scope) {
            let mut ages: Vec<(Timestamp, Scope)> =
                self.windows.iter().map(|(scope, windows)| (windows.at(), scope.clone())).collect();
            ages.sort_unstable();
            ages.truncate(SCOPES_MAX / 10);
            ages.into_iter().for_each(|(_, scope)| self.drop_counts(scope));
        }
        self.windows.entry(scope).or_insert_with(|| Windows::new(now))
    }

    /// A bounce pause looks at what went since.
    fn follow(&mut self, sender: &Sender, became: Became, limits: &Thresholds, now: Timestamp, steps: &mut Vec<Step>) {
        let Some(pause) = self.pauses.get_mut(sender) else { return };
        pause.after.count(became);
        let (share, of) = pause.after.bounce_share();
        let has_recovered = of >= limits.bounce_volume && share <= limits.bounce_pause * RECOVERED;
        if pause.why == Why::Bounces && has_recovered {
            self.begin_anew(sender, now);
            steps.push(Step::Recovered(sender.clone()));
        }
    }

    /// Complaints are shares of what was delivered: of each day of the last week, and of all.
    fn judge_complaints(
        &mut self,
        mail: &Mail<'_>,
        sender: &Sender,
        limits: &Thresholds,
        now: Timestamp,
        steps: &mut Vec<Step>,
    ) {
        let worst = |windows: &Windows, least: u64, threshold: f64| {
            let cohorts = windows.days(now).chain([windows.sum(Span::Week, now)]);
            let enough = cohorts.filter(|day| day.feedback >= limits.complaint_volume && day.complained >= least);
            enough
                .map(|day| day.complaint_share())
                .filter(|(share, _)| *share >= threshold)
                .max_by(|a, b| a.0.total_cmp(&b.0))
        };
        if mail.kind == StreamKind::Marketing
            && !self.pauses.get(sender).is_some_and(|pause| pause.why == Why::Complaints)
            && let Some(windows) = self.windows.get(&Scope::Sender(sender.clone()))
            && let Some((share, of)) = worst(windows, COMPLAINTS_PAUSE_MIN, limits.complaint_pause)
        {
            let pause = Pause { why: Why::Complaints, since: now, share, of, per_hour: 0, after: Counts::default() };
            return self.pause(sender, pause, steps);
        }
        for scope in [Scope::Sender(sender.clone()), Scope::Domain(mail.domain.into())] {
            let found = self.windows.get(&scope).and_then(|w| worst(w, COMPLAINTS_WARN_MIN, limits.complaint_warn));
            if let Some((share, of)) = found {
                steps.push(Step::Warn(scope, share, of));
            }
        }
    }

    fn judge_bounces(
        &mut self,
        mail: &Mail<'_>,
        sender: &Sender,
        limits: &Thresholds,
        now: Timestamp,
        steps: &mut Vec<Step>,
    ) {
        if mail.kind != StreamKind::Marketing || self.pauses.contains_key(sender) {
            return;
        }
        let Some(windows) = self.windows.get(&Scope::Sender(sender.clone())) else { return };
        let (hour, day) = (windows.sum(Span::Hour, now), windows.sum(Span::Day, now));
        let mut shares = [hour.bounce_share(), day.bounce_share()].into_iter();
        let found = shares.find(|(share, of)| *of >= limits.bounce_volume && *share >= limits.bounce_pause);
        if let Some((share, of)) = found {
            let usual = hour.answers().max(day.answers() / 24);
            let per_hour = u32::try_from(usual / 10).unwrap_or(u32::MAX).max(TRICKLE_MIN);
            let pause = Pause { why: Why::Bounces, since: now, share, of, per_hour, after: Counts::default() };
            self.pause(sender, pause, steps);
        }
    }

    fn pause(&mut self, sender: &Sender, mut pause: Pause, steps: &mut Vec<Step>) {
        // Its mail is held since the first of two.
        pause.since = self.pauses.get(sender).map_or(pause.since, |before| before.since.min(pause.since));
        if self.pauses.len() < HOLDS_MAX || self.pauses.contains_key(sender) {
            self.pauses.insert(sender.clone(), pause.clone());
            steps.push(Step::Pause(sender.clone(), pause));
        }
    }

    fn judge_login(&mut self, credential: &str, limits: &Thresholds, now: Timestamp, steps: &mut Vec<Step>) {
        if credential.is_empty() || self.suspensions.contains_key(credential) || self.suspensions.len() >= HOLDS_MAX {
            return;
        }
        let Some(windows) = self.windows.get(&Scope::Credential(credential.into())) else { return };
        let hour = windows.sum(Span::Hour, now);
        let share = hour.strangers as f64 / hour.answers().max(1) as f64;
        if hour.strangers < limits.login_storm_volume || share < limits.login_storm {
            return;
        }
        let because = format!(
            "{} of {} recipients within an hour do not exist and never got mail: is the login stolen?",
            hour.strangers,
            hour.answers()
        );
        let suspension = Suspension { since: now, because: because.into() };
        self.suspensions.insert(credential.into(), suspension.clone());
        steps.push(Step::Suspend(credential.into(), suspension));
    }

    /// What holds mail of a credential on a stream back. Transactional mail is held by a suspension of its credential alone.
    pub fn hold(&self, credential: &str, stream: &str, kind: StreamKind) -> Option<Hold<'_>> {
        if let Some(suspension) = self.suspensions.get(credential) {
            return Some(Hold::Suspended(suspension));
        }
        match kind {
            StreamKind::Transactional => None,
            StreamKind::Marketing => self
                .pauses
                .iter()
                .find(|(sender, _)| sender.is(credential, stream))
                .map(|(_, pause)| Hold::Paused(pause)),
        }
    }

    /// When mail expires that was accepted at `life.0` and would at `life.1`: its time stands still while it is held.
    pub fn expiry(
        &self,
        (credential, stream, kind): (&str, &str, StreamKind),
        life: (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Timestamp {
        let mut spans = Vec::new();
        let mut rested = |scope: &Scope| {
            spans.extend_from_slice(self.rests.get(scope).map(Rests::spans).unwrap_or_default());
        };
        rested(&Scope::Credential(credential.into()));
        let mut held: Vec<Timestamp> = self.suspensions.get(credential).map(|found| found.since).into_iter().collect();
        if kind == StreamKind::Marketing {
            let sender = Sender::new(credential, stream);
            held.extend(self.pauses.get(&sender).map(|pause| pause.since));
            rested(&Scope::Sender(sender));
        }
        let is_held = !held.is_empty();
        spans.extend(held.into_iter().map(|since| (since, now)));
        rest::expiry(life, spans, is_held, now)
    }

    /// When mail of this sender or credential was held.
    pub fn rests(&self, scope: &Scope) -> Option<&Rests> {
        self.rests.get(scope)
    }

    /// Whether mail of anybody is held, or was.
    pub fn lengthens_any(&self) -> bool {
        self.holds_any() || !self.rests.is_empty()
    }

    /// Takes up what was kept of past holds.
    pub fn restore_rests(&mut self, scope: Scope, rests: Rests) {
        if rests != Rests::default() && self.rests.len() < 2 * HOLDS_MAX {
            self.rests.insert(scope, rests);
        }
    }

    /// Drops past holds that matter to no mail any more, and the oldest where there are too many: to be removed where they
    /// are kept.
    pub fn drop_rests(&mut self, now: Timestamp) -> Vec<Scope> {
        let mut dropped: Vec<Scope> =
            self.rests.iter().filter(|(_, rests)| rests.is_forgotten(now)).map(|(scope, _)| scope.clone()).collect();
        let mut ages: Vec<_> = self.rests.iter().map(|(scope, rests)| (rests.last(), scope)).collect();
        ages.sort_unstable();
        let over = ages.len().saturating_sub(HOLDS_MAX);
        dropped.extend(ages.into_iter().take(over).map(|(_, scope)| scope.clone()));
        dropped.iter().for_each(|scope| drop(self.rests.remove(scope)));
        dropped
    }

    /// Whether anything holds anybody.
    pub fn holds_any(&self) -> bool {
        !self.pauses.is_empty() || !self.suspensions.is_empty()
    }

    /// A person ends a pause: its counts begin anew, so that the same complaints do not pause it again. False: there was none.
    pub fn resume(&mut self, sender: &Sender, now: Timestamp) -> bool {
        let was = self.pauses.contains_key(sender);
        if was {
            self.begin_anew(sender, now);
        }
        was
    }

    fn begin_anew(&mut self, sender: &Sender, now: Timestamp) {
        if let Some(pause) = self.pauses.remove(sender) {
            self.rests.entry(Scope::Sender(sender.clone())).or_default().add(pause.since, now);
        }
        self.drop_counts(Scope::Sender(sender.clone()));
    }

    /// A person suspends a credential. False: there are too many.
    pub fn suspend(&mut self, credential: &str, mut suspension: Suspension) -> bool {
        let before = self.suspensions.get(credential);
        suspension.since = before.map_or(suspension.since, |before| before.since.min(suspension.since));
        let fits = self.suspensions.len() < HOLDS_MAX || self.suspensions.contains_key(credential);
        if fits {
            self.suspensions.insert(credential.into(), suspension);
        }
        fits
    }

    /// A person lets a credential in again; the last hour's strangers are forgotten. False: it was not suspended.
    pub fn unsuspend(&mut self, credential: &str, now: Timestamp) -> bool {
        let suspension = self.suspensions.remove(credential);
        let was = suspension.is_some();
        if let Some(suspension) = suspension {
            self.rests.entry(Scope::Credential(credential.into())).or_default().add(suspension.since, now);
            self.drop_counts(Scope::Credential(credential.into()));
        }
        was
    }

    /// Whether a credential is suspended.
    pub fn suspension(&self, credential: &str) -> Option<&Suspension> {
        self.suspensions.get(credential)
    }

    /// All pauses.
    pub fn pauses(&self) -> impl Iterator<Item = (&Sender, &Pause)> {
        self.pauses.iter()
    }

    /// All suspended credentials.
    pub fn suspensions(&self) -> impl Iterator<Item = (&str, &Suspension)> {
        self.suspensions.iter().map(|(name, suspension)| (&**name, suspension))
    }

    /// What was counted in a span, for each scope of which anything was.
    pub fn counts(&self, span: Span, now: Timestamp) -> Vec<(&Scope, Counts)> {
        let counts = self.windows.iter().map(|(scope, windows)| (scope, windows.sum(span, now)));
        let mut counts: Vec<_> = counts.filter(|(_, counts)| *counts != Counts::default()).collect();
        counts.sort_unstable_by_key(|(scope, _)| *scope);
        counts
    }

    fn drop_counts(&mut self, scope: Scope) {
        if self.windows.remove(&scope).is_some() {
            self.dropped.push(scope);
        }
    }

    /// Forgets counts that are older than the longest window.
    pub fn forget(&mut self, now: Timestamp) {
        let idle = self.windows.iter().filter(|(_, windows)| windows.idle(now) > FORGOTTEN_AFTER);
        let idle: Vec<Scope> = idle.map(|(scope, _)| scope.clone()).collect();
        idle.into_iter().for_each(|scope| self.drop_counts(scope));
    }

    /// Counts that changed since this was asked last, as they are kept; `None`: they are to be removed.
    pub fn changed(&mut self) -> Vec<(Scope, Option<Vec<u8>>)> {
        let mut all: Vec<_> = std::mem::take(&mut self.dropped).into_iter().map(|scope| (scope, None)).collect();
        let changed = self.windows.iter_mut().filter_map(|(scope, windows)| Some((scope.clone(), windows.changed()?)));
        all.extend(changed.map(|(scope, record)| (scope, Some(record))));
        all
    }

    /// Takes up counts that were kept; what does not read begins anew.
    pub fn restore_counts(&mut self, scope: Scope, record: &[u8]) {
        if let Some(windows) = Windows::read(record).filter(|_| self.windows.len() < SCOPES_MAX) {
            self.windows.insert(scope, windows);
        }
    }

    /// Takes up a pause that was kept.
    pub fn restore_pause(&mut self, sender: Sender, pause: Pause) {
        self.pauses.insert(sender, pause);
    }
}

impl Pause {
    /// `1 WHY SINCE SHARE OF PER_HOUR`.
    pub fn record(&self) -> String {
        let Pause { why, since, share, of, per_hour, .. } = self;
        format!("1 {} {} {share:.6} {of} {per_hour}", why.name(), since.as_millis())
    }

    /// What cannot be read pauses until somebody resumes it: the strictest meaning.
    pub fn read(record: &str) -> Pause {
        let strictest = Pause {
            why: Why::Complaints,
            since: Timestamp::ZERO,
            share: 0.0,
            of: 0,
            per_hour: 0,
            after: Counts::default(),
        };
        let read = || {
            let mut words = record.split(' ');
            let (version, why) = (words.next()?, words.next()?);
            let since = Timestamp::from_millis(words.next()?.parse().ok()?);
            let share = words.next()?.parse().ok().filter(|share: &f64| share.is_finite())?;
            let (of, per_hour) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let why = [Why::Complaints, Why::Bounces].into_iter().find(|known| known.name() == why)?;
            let after = Counts::default();
            (version == "1").then_some(Pause { why, since, share, of, per_hour, after })
        };
        read().unwrap_or(strictest)
    }

    /// `complaints 0.41 % of 5,210 since 2026-11-25 17:00 UTC; ends when an operator says so: postrider rates resume …`
    pub fn sentence(&self, sender: &Sender) -> String {
        let Pause { why, since, share, of, per_hour, .. } = self;
        let since = since.rfc3339();
        let (date, clock) = (since.get(..10).unwrap_or_default(), since.get(11..16).unwrap_or_default());
        let what = match why {
            Why::Complaints => "complaints of",
            Why::Bounces => "recipients that do not exist,",
        };
        let (share, of) = (percent(*share), grouped(*of));
        let ends = match why {
            Why::Complaints => format!("ends when an operator says `postrider rates resume {sender}`"),
            Why::Bounces => format!(
                "mail to {per_hour} recipients goes in an hour; ends when fewer do not exist, or by `postrider rates resume {sender}`"
            ),
        };
        format!("{sender} is paused: {what} {share} of {of}, since {date} {clock} UTC; {ends}")
    }
}

impl Suspension {
    /// `1 SINCE WORDS`.
    pub fn record(&self) -> String {
        format!("1 {} {}", self.since.as_millis(), self.because)
    }

    /// What cannot be read suspends all the same.
    pub fn read(record: &str) -> Suspension {
        let read = || {
            let mut words = record.splitn(3, ' ');
            let (version, since, because) = (words.next()?, words.next()?, words.next()?);
            let since = Timestamp::from_millis(since.parse().ok()?);
            (version == "1").then(|| Suspension { since, because: because.into() })
        };
        read().unwrap_or(Suspension { since: Timestamp::ZERO, because: "a record that cannot be read".into() })
    }

    /// For `why` and the log.
    pub fn sentence(&self, credential: &str) -> String {
        format!(
            "the credential {credential} is suspended since {}: {}; ends by `postrider credential enable {credential}`",
            self.since.rfc3339(),
            self.because
        )
    }
}

/// `0.41 %`.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// `5,210`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How long counts that are not heard of are kept: the longest window.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(8 * 86_400);
