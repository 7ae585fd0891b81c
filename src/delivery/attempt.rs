//! From a lease to an attempt: what is sent to whom, and what the peer's answers mean for each recipient.

use std::sync::Arc;
use std::time::Duration;

use crate::accept::PeerReports;
use crate::classify::{Feedback, Meaning, Observation, Reaction, Rules, Signal, VerdictKind};
use crate::mail::{
    Attempt, Cause, Domain, EnhancedStatus, Envelope, Outcome, Progress, RecipientState, Reply, ReturnPath, Stage,
    Verdict,
};
use crate::retry;
use crate::smtp::dialog::{Ended, Needs};
use crate::time::Timestamp;

use super::Words;
use super::remark::Remark;
use super::session::{Lost, Peer};
use super::stops::Stop;
use super::transact::{Content, End, Exchange};

/// Refusals of one transaction that are told apart. A peer has a few sentences, not one for each recipient.
const REMARKS_MAX: usize = 16;

/// The recipients of the next transaction, and whether some must wait for one more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Round {
    pub places: Vec<usize>,
    pub others_wait: bool,
}

/// Whom to attempt now: what is pending and was not attempted since the envelope became due, at most RCPTMAX
/// (RFC 9422). Those left over keep the envelope due, so that they follow at once and nobody is asked for twice.
pub(super) fn round(progress: &Progress, recipients_max: Option<usize>) -> Round {
    let pending = |fresh_only: bool| -> Vec<usize> {
        let recipients = progress.recipients.iter().enumerate();
        let waiting = recipients.filter(|(_, recipient)| recipient.state == RecipientState::Pending);
        let fresh = |at: &Timestamp| *at < progress.due;
        waiting
            .filter(|(_, recipient)| !fresh_only || recipient.last.as_ref().is_none_or(|last| fresh(&last.at)))
            .map(|(place, _)| place)
            .collect()
    };
    let mut places = pending(true);
    if places.is_empty() {
        // An operator's retry, or a clock that stood still.
        places = pending(false);
    }
    let most = recipients_max.unwrap_or(usize::MAX);
    let others_wait = places.len() > most;
    places.truncate(most);
    Round { places, others_wait }
}

/// What MAIL must ask for, decided by content.
pub(super) fn needs(envelope: &Envelope, content: &Content, whose: ReturnPath) -> Needs {
    Needs { size_bytes: content.size() as u64, eight_bit: content.eight_bit, smtputf8: envelope.needs_smtputf8(whose) }
}

/// An attempt ready to be concluded, and what it says about the source.
#[derive(Debug)]
pub(super) struct Found {
    pub attempt: Attempt,
    /// With DSN the peer was given NOTIFY, and success is its to report; without, we report it as relayed (RFC 3461 §5.2).
    pub reports: PeerReports,
    /// For the engine: the strongest of what the answers ask.
    pub signal: Signal,
    /// What in the answers asks something of the source.
    pub words: Option<Box<Words>>,
    /// What was refused.
    pub remarks: Vec<Remark>,
    /// The connection can carry another transaction.
    pub reusable: bool,
}

/// What is the same for all recipients of an attempt.
pub(super) struct Circumstances<'a> {
    pub envelope: &'a Envelope,
    pub progress: &'a Progress,
    pub peer: &'a Peer,
    pub source: &'a str,
    /// The peer offered DSN, and reports success to the client.
    pub dsn: bool,
    /// What replies mean.
    pub rules: Arc<Rules>,
    pub schedule: retry::Schedule,
    pub now: Timestamp,
    /// 0 to 1.
    pub jitter: f64,
}

impl Circumstances<'_> {
    fn outcome(&self, stage: Stage, cause: Cause) -> Outcome {
        let peer = self.peer;
        Outcome { at: self.now, stage, host: (&*peer.host).into(), address: Some(peer.place.ip()), cause }
    }

    /// A message that cannot be given to this peer, or cannot be read: one finding for all.
    pub fn unsent(&self, places: &[usize], status: EnhancedStatus, text: &str) -> Found {
        let outcome = self.outcome(Stage::Local, Cause::local(status, text));
        let verdict = |outcome| if status.class == 5 { Verdict::Failed(outcome) } else { Verdict::Deferred(outcome) };
        let verdicts = places.iter().map(|place| (*place, verdict(outcome.clone()))).collect();
        self.found(verdicts, Tally { counts: true, ..Tally::default() }, true)
    }

    /// Its sending domain is stopped at this site: all wait, no attempt is used up, and the site's words are told.
    pub fn stopped(&self, places: &[usize], stop: &Stop, (site, author): (&str, &Domain)) -> Found {
        let cause = Cause::local(EnhancedStatus::new(4, 7, 0), &stop.sentence(site, author, self.now));
        // The host said nothing of this message: no words of ours are put into its mouth.
        let outcome = Outcome { at: self.now, stage: Stage::Local, host: "".into(), address: None, cause };
        let verdicts = places.iter().map(|place| (*place, Verdict::Deferred(outcome.clone()))).collect();
        let tally = Tally { again_in: Some(stop.until.since(self.now)), ..Tally::default() };
        let mut found = self.found(verdicts, tally, true);
        found.attempt.source = self.progress.source.clone();
        found
    }

    /// What an exchange means. `None`: the connection was already gone, and nothing was attempted.
    pub fn exchanged(&self, round: &Round, exchange: Exchange, first_on_connection: bool) -> Option<Found> {
        let mut tally = Tally { others_wait: round.others_wait, ..Tally::default() };
        let reusable = match exchange.end {
            End::Ended(Ended::Clean | Ended::NeedsReset) => true,
            End::Ended(Ended::Closing) => false,
            End::Unsendable(error) => {
                let mut found = self.unsent(&round.places, EnhancedStatus::new(5, 6, 0), &error.to_string());
                // Had it been a long message, the peer now waits for the rest of it.
                found.reusable = exchange.taken == 0;
                return Some(found);
            }
            End::Lost { answered: false, uncertain: false, lost, .. }
                if !first_on_connection && lost != Lost::Timeout =>
            {
                return None;
            }
            End::Lost { uncertain, .. } => {
                tally.uncertain = uncertain;
                tally.counts = true;
                tally.signal.feedback = Feedback::Broken;
                false
            }
        };
        let too_many = |reply: &Reply| exchange.taken > 0 && is_too_many_recipients(reply);
        let mut verdicts = Vec::with_capacity(round.places.len());
        for (place, answer) in round.places.iter().zip(exchange.answers) {
            let verdict = match answer {
                Some((Stage::Rcpt, reply)) if too_many(&reply) => {
                    tally.others_wait = true;
                    continue;
                }
                Some((stage, reply)) => self.judged(stage, Cause::Reply(reply), exchange.taken, &mut tally),
                None => self.unanswered(exchange.end, &mut tally),
            };
            verdicts.push((*place, verdict));
        }
        Some(self.found(verdicts, tally, reusable))
    }

    fn judged(&self, stage: Stage, cause: Cause, recipients_taken: usize, tally: &mut Tally) -> Verdict {
        let host = Some(&*self.peer.host);
        let meaning = self.rules.classify(&Observation { stage, cause: &cause, recipients_taken, host });
        let outcome = self.outcome(stage, cause);
        tally.note(meaning, &outcome, &self.rules);
        match meaning.verdict {
            VerdictKind::Delivered => Verdict::Delivered(outcome),
            VerdictKind::Deferred => Verdict::Deferred(outcome),
            VerdictKind::Failed => Verdict::Failed(outcome),
        }
    }

    /// A recipient that was left without an answer.
    fn unanswered(&self, end: End, tally: &mut Tally) -> Verdict {
        match end {
            // RFC 1047: the peer may have the message. We ask again, later and later, and at last say so.
            End::Lost { lost, uncertain: true, .. } => {
                let text = format!("{lost} after the end of the message: it may have been delivered");
                match retry::uncertain_wait(self.progress.uncertain.saturating_add(1)) {
                    Some(_) => {
                        let cause = Cause::local(EnhancedStatus::new(4, 4, 2), &text);
                        Verdict::Deferred(self.outcome(Stage::FinalDot, cause))
                    }
                    None => {
                        let cause = Cause::local(EnhancedStatus::new(5, 4, 2), &text);
                        Verdict::Failed(self.outcome(Stage::FinalDot, cause))
                    }
                }
            }
            End::Lost { stage, lost, uncertain: false, .. } => self.judged(stage, lost.cause(stage), 0, tally),
            End::Ended(_) | End::Unsendable(_) => {
                let text = "the host left the message without an answer";
                self.judged(Stage::Data, Cause::local(EnhancedStatus::new(4, 5, 0), text), 0, tally)
            }
        }
    }

    fn found(&self, verdicts: Vec<(usize, Verdict)>, tally: Tally, reusable: bool) -> Found {
        let uncertain_wait = match tally.uncertain {
            true => retry::uncertain_wait(self.progress.uncertain.saturating_add(1)),
            false => None,
        };
        let (since, expires_at) = (self.envelope.tried_since(self.now), self.envelope.expires_at);
        let due = match (uncertain_wait, tally.others_wait, tally.again_in) {
            (Some(wait), _, _) => self.now.after(wait),
            // Still due, as it was: the others' turn is now.
            (None, true, _) => self.progress.due,
            // Nobody comes sooner than a peer asked.
            (None, false, Some(wait)) => retry::asked(wait, since, expires_at, self.now, self.jitter),
            (None, false, None) if tally.counts => {
                retry::next_due(self.schedule, since, expires_at, self.now, self.jitter)
            }
            (None, false, None) => retry::soon(expires_at, self.now, self.jitter),
        };
        let attempt = Attempt {
            verdicts,
            due,
            counts: tally.counts && !tally.others_wait,
            uncertain: tally.uncertain,
            source: if tally.stay { self.source.into() } else { "".into() },
        };
        let reports = if self.dsn { PeerReports::Yes } else { PeerReports::No };
        let Tally { signal, words, remarks, .. } = tally;
        Found { attempt, reports, signal, words, remarks, reusable }
    }
}

/// What the recipients' meanings add up to.
#[derive(Clone, Debug, Default)]
struct Tally {
    signal: Signal,
    words: Option<Box<Words>>,
    remarks: Vec<Remark>,
    /// The stage other than RCPT whose one reply was counted.
    counted: Option<Stage>,
    /// The longest wait that a peer asked for.
    again_in: Option<Duration>,
    counts: bool,
    stay: bool,
    uncertain: bool,
    others_wait: bool,
}

impl Tally {
    fn note(&mut self, meaning: Meaning, outcome: &Outcome, rules: &Rules) {
        let sum = stronger(self.signal, meaning.signal);
        if asks_of_source(&meaning.signal) && (self.words.is_none() || sum != self.signal) {
            let rule = rules.name(meaning.signal.rule).unwrap_or_default().into();
            self.words = Some(Box::new(Words { outcome: outcome.clone(), rule }));
        }
        if meaning.verdict != VerdictKind::Delivered && matches!(outcome.cause, Cause::Reply(_)) {
            self.remark(meaning, outcome, rules);
        }
        self.signal = sum;
        self.again_in = self.again_in.max(meaning.again_in);
        self.counts |= meaning.counts;
        self.stay |= meaning.stay;
    }

    /// Remembers a refusal. RCPT has a reply for each recipient, every other stage one for all.
    fn remark(&mut self, meaning: Meaning, outcome: &Outcome, rules: &Rules) {
        let is_counted = outcome.stage != Stage::Rcpt && self.counted == Some(outcome.stage);
        if outcome.stage != Stage::Rcpt {
            self.counted = Some(outcome.stage);
        }
        let replies = u32::from(!is_counted);
        let same = |other: &&mut Remark| {
            (other.meaning.signal.rule, other.meaning.class) == (meaning.signal.rule, meaning.class)
        };
        if let Some(known) = self.remarks.iter_mut().find(same) {
            known.replies += replies;
        } else if self.remarks.len() < REMARKS_MAX {
            let rule = rules.name(meaning.signal.rule).unwrap_or_default().into();
            self.remarks.push(Remark { meaning, rule, outcome: outcome.clone(), replies });
        }
    }
}

/// Whether a signal asks something of the source at the site.
fn asks_of_source(signal: &Signal) -> bool {
    let reacts = match signal.reaction {
        Some(
            Reaction::FewerConnections { .. }
            | Reaction::FewerDeliveries { .. }
            | Reaction::Slow { .. }
            | Reaction::Suspend { .. },
        ) => true,
        Some(Reaction::StopDomain { .. }) | None => false,
    };
    reacts || matches!(signal.feedback, Feedback::Slower | Feedback::Broken)
}

/// One signal of two answers in one transaction: the rule of the one that asks for more, the feedback of the worse.
fn stronger(one: Signal, other: Signal) -> Signal {
    let of_feedback = |feedback| match feedback {
        Feedback::Neutral => 0,
        Feedback::Good => 1,
        Feedback::Slower => 2,
        Feedback::Broken => 3,
    };
    let of_reaction = |reaction: Option<Reaction>| match reaction {
        None => 0,
        Some(Reaction::FewerDeliveries { .. }) => 1,
        Some(Reaction::FewerConnections { .. }) => 2,
        Some(Reaction::Slow { .. }) => 3,
        Some(Reaction::StopDomain { .. }) => 4,
        Some(Reaction::Suspend { .. }) => 5,
    };
    let weight = |signal: Signal| (of_reaction(signal.reaction), signal.block, signal.reputation, signal.alarm);
    let asks = |signal: Signal| (weight(signal), signal.rule > 0);
    let worse = if of_feedback(other.feedback) > of_feedback(one.feedback) { other } else { one };
    let more = if asks(other) > asks(one) { other } else { one };
    Signal {
        feedback: worse.feedback,
        reputation: one.reputation || other.reputation,
        block: one.block || other.block,
        alarm: one.alarm || other.alarm,
        ..more
    }
}

/// RFC 5321 §4.5.3.1.10: 452 (or, of old, 552) to a RCPT after others were taken means "not so many at once". These
/// recipients were not judged at all; they go in the next transaction.
fn is_too_many_recipients(reply: &Reply) -> bool {
    matches!(reply.code, 452 | 552) && reply.enhanced.is_none_or(|status| (status.subject, status.detail) == (5, 3))
}

/// When the envelope is due after this attempt; `None` if every recipient then has its final state.
pub(super) fn due_after(
    progress: &Progress,
    attempt: &Attempt,
    now: Timestamp,
    expires_at: Timestamp,
) -> Option<Timestamp> {
    let expired = now >= expires_at && !progress.held;
    let ended = |verdict: &Verdict| match verdict {
        Verdict::Delivered(_) | Verdict::Failed(_) => true,
        Verdict::Deferred(_) => expired,
    };
    let settled = attempt.verdicts.iter().filter(|(_, verdict)| ended(verdict)).count();
    let pending = progress.recipients.iter().filter(|recipient| !recipient.state.is_final()).count();
    (pending > settled).then_some(attempt.due)
}

#[cfg(test)]
mod tests;
