//! What is learned from what became of mail: an address goes to the suppression list, a sender is paused.
//!
//! Every attempt's verdicts pass here before they are settled, and so does whatever a report says: the list knows an address
//! before the queue forgets the envelope. What is believed, `evidence` decides; what is paused, `rates`.

use tracing::{error, info, warn};

use crate::alarm;
use crate::classify::{Class, Meaning, Observation, Scope as Concerns, VerdictKind};
use crate::events::Made;
use crate::evidence::{Answer, Circumstances, Known, Means, Said, Share, Turn, doubted, holds_in_a_storm, judge};
use crate::harm::Harm;
use crate::mail::{
    Address, Cause, Domain, Envelope, Outcome, Progress, QueueId, RecipientState, Stage, StreamKind, Verdict,
};
use crate::metrics;
use crate::rates::{Became, Mail, Step, percent};
use crate::suppression::{self, Edit, Entry, Scope};
use crate::time::Timestamp;

use super::Door;

/// The way on which an attempt went. Empty: not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Via<'a> {
    /// The source's name.
    pub source: &'a str,
    /// The site.
    pub site: &'a str,
    /// Its provider; `other` for the many.
    pub provider: &'a str,
    /// How the attempt was made.
    pub made: Made,
}

impl<'a> Via<'a> {
    /// Who says what is usual: a provider, over all its hosts, or else the site.
    fn judge(&self) -> &'a str {
        if self.provider.is_empty() || self.provider == metrics::OTHER { self.site } else { self.provider }
    }
}

/// What was said of an address, by a peer's reply or by a report that proved itself.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Of whom: of a report the token's, never one read from it.
    pub address: &'a Address,
    /// What.
    pub said: Said,
    /// How it was heard.
    pub means: Means,
    /// The words, for people.
    pub words: &'a str,
    /// The message.
    pub id: QueueId,
    /// When it was delivered; of a reply: now.
    pub delivered_at: Timestamp,
    /// Its stream.
    pub stream: &'a str,
    /// The stream's kind.
    pub kind: StreamKind,
    /// Its credential; empty for trusted networks.
    pub credential: &'a str,
    /// The domain of its From header.
    pub domain: &'a str,
    /// The way it went.
    pub via: Via<'a>,
    /// What an unsubscription is about. `None`: all marketing.
    pub scope: Option<&'a Scope>,
}

/// What became of an observation.
#[derive(Clone, PartialEq, Debug)]
pub enum Learned {
    /// There is no list.
    NoList,
    /// The list could not be written: it was told in the log.
    NotKept,
    /// It was known: a report that came twice.
    Known,
    /// The list has it now, believed or pending.
    Written(Entry),
}

/// A recipient's finding in an attempt.
struct Finding<'a> {
    address: &'a Address,
    finding: Found<'a>,
}

enum Found<'a> {
    Delivered,
    Deferred,
    Said(Said, &'a Outcome),
}

impl Door {
    /// The same door, which keeps these books.
    pub fn with_harm(self, harm: Harm) -> Door {
        Door { harm, ..self }
    }

    /// The books of what mail did.
    pub fn harm(&self) -> &Harm {
        &self.harm
    }

    /// Learns from an attempt.
    pub(super) async fn learn(
        &self,
        envelope: &Envelope,
        before: &Progress,
        after: &Progress,
        verdicts: &[(usize, Verdict)],
        via: Via<'_>,
        now: Timestamp,
    ) {
        for Finding { address, finding } in self.findings(envelope, before, after, verdicts) {
            match finding {
                Found::Delivered => self.delivered(address, envelope, via, now).await,
                Found::Deferred => self.count(&mail(envelope, via), Became::Deferred, now).await,
                Found::Said(said, outcome) => {
                    let words = outcome.cause.to_string();
                    self.observe(&observed(envelope, address, said, &words, via, now), now).await;
                }
            }
        }
    }

    /// Learns from an envelope whose time is over: a mailbox that was full to the last.
    pub(super) async fn learn_expired(&self, envelope: &Envelope, before: &Progress, now: Timestamp) {
        let many = envelope.recipients.len();
        for (recipient, progress) in envelope.recipients.iter().zip(&before.recipients) {
            let Some(last) = progress.last.as_ref().filter(|_| !progress.state.is_final()) else { continue };
            if self.unwilling(last, many).is_some() {
                let words = last.cause.to_string();
                let via = Via { site: &last.host, ..Via::default() };
                self.observe(&observed(envelope, &recipient.address, Said::Unwilling, &words, via, now), now).await;
            }
        }
    }

    fn findings<'a>(
        &self,
        envelope: &'a Envelope,
        before: &Progress,
        after: &Progress,
        verdicts: &'a [(usize, Verdict)],
    ) -> Vec<Finding<'a>> {
        // How many were past RCPT: one reply to several names nobody.
        let taken = verdicts
            .iter()
            .filter(|(_, verdict)| matches!(verdict.outcome().stage, Stage::Data | Stage::FinalDot))
            .count();
        let finding = |(place, verdict): &'a (usize, Verdict)| {
            let address = &envelope.recipients.get(*place)?.address;
            before.recipients.get(*place).filter(|recipient| !recipient.state.is_final())?;
            let outcome = verdict.outcome();
            let finding = match verdict {
                Verdict::Delivered(_) => Found::Delivered,
                Verdict::Failed(_) | Verdict::Deferred(_) => {
                    let meaning = self.meaning(outcome, taken)?;
                    let state = after.recipients.get(*place).map(|recipient| recipient.state);
                    let has_ended = matches!(state, Some(RecipientState::Failed | RecipientState::Expired));
                    match meaning.verdict {
                        VerdictKind::Failed if meaning.suppress && meaning.scope == Concerns::Recipient => {
                            Found::Said(Said::NoMailbox, outcome)
                        }
                        _ if has_ended && is_unwilling(&meaning) => Found::Said(Said::Unwilling, outcome),
                        VerdictKind::Deferred => Found::Deferred,
                        VerdictKind::Failed | VerdictKind::Delivered => return None,
                    }
                }
            };
            Some(Finding { address, finding })
        };
        verdicts.iter().filter_map(finding).collect()
    }

    /// What a peer's reply means; of our own findings nothing is learned.
    fn meaning(&self, outcome: &Outcome, recipients_taken: usize) -> Option<Meaning> {
        match &outcome.cause {
            Cause::Reply(_) => {
                let (stage, cause, host) = (outcome.stage, &outcome.cause, Some(&*outcome.host));
                Some(self.rules.load().classify(&Observation { stage, cause, recipients_taken, host }))
            }
            Cause::Local { .. } => None,
        }
    }

    fn unwilling(&self, outcome: &Outcome, recipients_taken: usize) -> Option<Meaning> {
        self.meaning(outcome, recipients_taken).filter(is_unwilling)
    }

    async fn delivered(&self, address: &Address, envelope: &Envelope, via: Via<'_>, now: Timestamp) {
        self.harm.delivered(address, now);
        self.turn(via.judge(), Answer::Valid, now).await;
        if let Some(list) = &self.suppressions {
            let is_void = move |entry: &&Entry| {
                let is_ours = matches!(entry.cause, suppression::Cause::HardBounce | suppression::Cause::SoftBounce);
                is_ours && known(entry).is_dropped_by_success(now)
            };
            // Most have nothing there.
            if list.entries(address).iter().any(|entry| is_void(&entry)) {
                let drop_void = move |there: &[Entry]| {
                    let void = there.iter().filter(is_void);
                    (void.map(|entry| Edit::Remove(entry.scope.clone(), entry.cause)).collect(), ())
                };
                told(list.change(address, drop_void).await);
            }
        }
        let feedback = self.harm.sends_feedback(via.provider);
        self.count(&mail(envelope, via), Became::Delivered { feedback }, now).await;
    }

    /// Takes in what was said of an address: judges it, writes it into the list, and counts it against its sender. Durable
    /// when it returns. A report of the message that was heard of last changes nothing; who asks with older ones knows from
    /// the history that they were heard.
    ///
    /// # Cancel safety
    /// Dropped before it returns, it may be written and not counted.
    pub async fn observe(&self, observed: &Observed<'_>, now: Timestamp) -> Learned {
        let Observed { address, said, means, via, .. } = *observed;
        let site = via.judge();
        let (scope, cause) = self.place(observed);
        let (is_report, id) = (means == Means::Report, observed.id);
        let is_heard = move |entry: &Entry| is_report && entry.source_id == Some(id);
        let same = move |there: &[Entry], scope: &Scope| {
            there.iter().find(|entry| (&entry.scope, entry.cause) == (scope, cause)).cloned()
        };
        let before = self.suppressions.as_ref().and_then(|list| same(&list.entries(address), &scope));
        if before.as_ref().is_some_and(is_heard) {
            return Learned::Known;
        }
        if said == Said::NoMailbox {
            self.turn(site, Answer::Invalid, now).await;
        }
        // After that: a storm may have begun with this one.
        let circumstances = self.harm.circumstances(address, site, means, now);
        let Some(list) = &self.suppressions else {
            self.count_said(observed, circumstances, now).await;
            return Learned::NoList;
        };
        let (site_name, words) = (Box::<str>::from(site), observed.words.to_owned());
        // Under the address's lock: the same report on two connections at once is one.
        let written = list.change(address, move |there| {
            let before = same(there, &scope);
            if before.as_ref().is_some_and(is_heard) {
                return (Vec::new(), None);
            }
            let known_before = before.as_ref().map(known);
            let after = judge(known_before, said, means, circumstances, now);
            let is_rash = said == Said::NoMailbox
                && after.blocks(now)
                && !holds_in_a_storm(known_before, means, circumstances, now);
            let entry = Entry {
                scope,
                cause,
                added_at: after.first_at,
                last_at: after.last_at,
                expires_at: after.expires_at,
                hits: after.hits,
                pending: after.pending,
                site: site_name,
                source_id: Some(id),
                evidence: after.means.tagged(&words).into(),
            };
            (vec![Edit::Put(entry.clone())], Some((entry, is_rash)))
        });
        let written = told(written.await);
        // A report that could not be kept comes again, and is counted then.
        match (&written, means) {
            (Some(Some(_)), _) | (None, Means::Reply | Means::Storm) => {
                self.count_said(observed, circumstances, now).await;
            }
            (Some(None), _) | (None, Means::Report) => {}
        }
        let (entry, is_rash) = match written {
            None => return Learned::NotKept,
            Some(None) => return Learned::Known,
            Some(Some(written)) => written,
        };
        // A storm may have begun on another connection while this was judged and written.
        if is_rash && !self.harm.believed(site, address, now) {
            self.doubt(&address.to_string(), now).await;
        }
        let state = if entry.pending { "pending" } else { "suppressed" };
        self.events.learned(cause.name(), entry.pending);
        info!(
            target: "postrider::mail",
            queue_id = %observed.id, recipient = %address, cause = cause.name(), state,
            until = entry.expires_at.map(Timestamp::rfc3339), evidence = %entry.evidence, "learned of a recipient"
        );
        Learned::Written(entry)
    }

    /// Where in the list it belongs.
    fn place(&self, observed: &Observed<'_>) -> (Scope, suppression::Cause) {
        match observed.said {
            Said::NoMailbox => (Scope::All, suppression::Cause::HardBounce),
            Said::Unwilling => (Scope::All, suppression::Cause::SoftBounce),
            Said::Complained if self.harm.complaint_stops_all() => (Scope::All, suppression::Cause::Complaint),
            Said::Complained => (Scope::Kind(StreamKind::Marketing), suppression::Cause::Complaint),
            Said::Unsubscribed => {
                let scope = observed.scope.cloned().unwrap_or(Scope::Kind(StreamKind::Marketing));
                (scope, suppression::Cause::Unsubscribe)
            }
        }
    }

    async fn count_said(&self, observed: &Observed<'_>, circumstances: Circumstances, now: Timestamp) {
        let Observed { stream, kind, credential, domain, via, .. } = *observed;
        let mail = Mail { stream, kind, credential, source: via.source, domain, provider: via.provider };
        let became = match observed.said {
            Said::NoMailbox => Became::Bounced { stranger: !circumstances.delivered_lately },
            Said::Complained => Became::Complained { delivered_at: observed.delivered_at },
            Said::Unwilling | Said::Unsubscribed => return,
        };
        self.count(&mail, became, now).await;
    }

    async fn count(&self, mail: &Mail<'_>, became: Became, now: Timestamp) {
        let steps = self.harm.count(mail, became, now);
        if steps.is_empty() {
            return;
        }
        self.harm.write(&steps).await;
        for step in &steps {
            self.tell_step(step, now);
        }
    }

    fn tell_step(&self, step: &Step, now: Timestamp) {
        match step {
            Step::Warn(scope, share, of) => {
                let detail = format!("{} of {of} deliveries at providers that report complaints", percent(*share));
                self.alarms.event(alarm::Cause::ComplaintsHigh, &scope.to_string(), &detail, now);
            }
            Step::Pause(sender, pause) => {
                self.events.paused(pause.why.name());
                self.alarms.state(alarm::Cause::SenderPaused, &sender.to_string(), &pause.sentence(sender), now);
            }
            Step::Recovered(sender) => {
                info!(%sender, "goes on: fewer recipients do not exist now");
                self.alarms.clear(alarm::Cause::SenderPaused, &sender.to_string());
            }
            Step::Suspend(credential, suspension) => {
                self.events.paused("login_storm");
                let sentence = suspension.sentence(credential);
                self.alarms.state(alarm::Cause::CredentialSuspended, credential, &sentence, now);
            }
        }
    }

    /// A site's answer may begin a storm or end it.
    async fn turn(&self, site: &str, answer: Answer, now: Timestamp) {
        match self.harm.hear(site, answer, now) {
            Turn::None => {}
            Turn::Begins(share, doubt) => {
                self.alarms.state(alarm::Cause::InvalidRecipientStorm, site, &shown(share), now);
                for name in doubt {
                    self.doubt(&name, now).await;
                }
            }
            Turn::Ends(share) => self.storm_ended(site, share),
        }
    }

    fn storm_ended(&self, site: &str, share: Share) {
        info!(site, "its share of unknown recipients is as usual again: {}", shown(share));
        self.alarms.clear(alarm::Cause::InvalidRecipientStorm, site);
    }

    async fn doubt(&self, name: &str, now: Timestamp) {
        let (Some(list), Ok(address)) = (&self.suppressions, name.parse::<Address>()) else { return };
        let doubt = move |there: &[Entry]| {
            let believed = there.iter().filter(|entry| entry.cause == suppression::Cause::HardBounce && !entry.pending);
            let doubted = believed.map(|entry| {
                let after = doubted(known(entry), now);
                let (_, words) = entry.evidence.split_once(": ").unwrap_or(("", &entry.evidence));
                let evidence = after.means.tagged(words).into();
                let (expires_at, hits, pending) = (after.expires_at, after.hits, after.pending);
                Edit::Put(Entry { expires_at, hits, pending, evidence, ..entry.clone() })
            });
            (doubted.collect(), ())
        };
        told(list.change(&address, doubt).await);
    }

    /// Writes the books down, and says again what holds. To be called every few seconds.
    pub async fn keep_harm(&self, when: crate::harm::When, now: Timestamp) {
        for (site, share) in self.harm.tick(when, now).await {
            self.storm_ended(&site, share);
        }
        for (site, _, share) in self.harm.storms() {
            self.alarms.state(alarm::Cause::InvalidRecipientStorm, &site, &shown(share), now);
        }
        for (sender, pause) in self.harm.pauses() {
            self.alarms.state(alarm::Cause::SenderPaused, &sender.to_string(), &pause.sentence(&sender), now);
        }
        for (credential, suspension) in self.harm.suspensions() {
            let sentence = suspension.sentence(&credential);
            self.alarms.state(alarm::Cause::CredentialSuspended, &credential, &sentence, now);
        }
    }
}

pub(super) fn is_unwilling(meaning: &Meaning) -> bool {
    matches!(meaning.class, Class::MailboxFull | Class::Inactive) && meaning.scope == Concerns::Recipient
}

fn mail<'a>(envelope: &'a Envelope, via: Via<'a>) -> Mail<'a> {
    Mail {
        stream: &envelope.stream,
        kind: envelope.kind,
        credential: &envelope.credential,
        source: via.source,
        domain: author(envelope),
        provider: via.provider,
    }
}

fn author(envelope: &Envelope) -> &str {
    envelope.author_domain.as_ref().map_or("", Domain::as_str)
}

fn observed<'a>(
    envelope: &'a Envelope,
    address: &'a Address,
    said: Said,
    words: &'a str,
    via: Via<'a>,
    now: Timestamp,
) -> Observed<'a> {
    Observed {
        address,
        said,
        means: Means::Reply,
        words,
        id: envelope.id,
        delivered_at: now,
        stream: &envelope.stream,
        kind: envelope.kind,
        credential: &envelope.credential,
        domain: author(envelope),
        via,
        scope: None,
    }
}

fn known(entry: &Entry) -> Known {
    Known {
        first_at: entry.added_at,
        last_at: entry.last_at,
        expires_at: entry.expires_at,
        hits: entry.hits,
        pending: entry.pending,
        means: Means::of(&entry.evidence),
    }
}

fn shown(share: Share) -> String {
    let Share { recent, answers, usual } = share;
    format!("{} of the last {answers:.0} recipients do not exist, {} is usual", percent(recent), percent(usual))
}

/// Mail goes on without the list; what it could not write is said anew by the next reply.
fn told<T>(written: Result<T, suppression::Failure>) -> Option<T> {
    use suppression::Failure;
    match written {
        Ok(done) => Some(done),
        Err(error @ (Failure::Closed | Failure::Full | Failure::Overfull { .. })) => {
            warn!(%error, "what was learned of a recipient is not kept");
            None
        }
        Err(error) => {
            error!(%error, "what was learned of a recipient is not kept");
            None
        }
    }
}
