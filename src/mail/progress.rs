//! What became of an envelope so far, and the one function that changes it.

use std::net::IpAddr;

use super::{Cause, Stage, Text};
use crate::time::Timestamp;

/// What an attempt found out about one recipient, and from whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// When.
    pub at: Timestamp,
    /// How far the dialogue was.
    pub stage: Stage,
    /// The MX host or next hop; empty if none was reached.
    pub host: Text,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The peer's words, or ours.
    pub cause: Cause,
}

/// What an attempt means for one recipient. Unknown trouble is `Deferred`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The peer took responsibility.
    Delivered(Outcome),
    /// Again later.
    Deferred(Outcome),
    /// Never again.
    Failed(Outcome),
}

impl Verdict {
    /// What was found out.
    pub fn outcome(&self) -> &Outcome {
        match self {
            Verdict::Delivered(outcome) | Verdict::Deferred(outcome) | Verdict::Failed(outcome) => outcome,
        }
    }
}

/// Where a recipient stands.
///
/// ```text
///              ┌─► Delivered   the peer said 250
///              ├─► Failed      the peer or a rule said never
///   Pending ───┼─► Expired     the longest age passed
///              ├─► Suppressed  the suppression list said no
///              └─► Deleted     an operator removed it
/// ```
/// Only [`Progress::settle`] and its kin move it, and never out of a final state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecipientState {
    /// Waiting, or being attempted.
    Pending,
    /// Final.
    Delivered,
    /// Final.
    Failed,
    /// Final.
    Expired,
    /// Final.
    Suppressed,
    /// Final.
    Deleted,
}

impl RecipientState {
    /// Whether nothing will change it any more.
    pub fn is_final(self) -> bool {
        match self {
            RecipientState::Pending => false,
            RecipientState::Delivered
            | RecipientState::Failed
            | RecipientState::Expired
            | RecipientState::Suppressed
            | RecipientState::Deleted => true,
        }
    }

    /// The word in logs, JSON and listings.
    pub fn name(self) -> &'static str {
        match self {
            RecipientState::Pending => "pending",
            RecipientState::Delivered => "delivered",
            RecipientState::Failed => "failed",
            RecipientState::Expired => "expired",
            RecipientState::Suppressed => "suppressed",
            RecipientState::Deleted => "deleted",
        }
    }
}

/// One recipient's state, and the last thing that was found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientProgress {
    /// Where it stands.
    pub state: RecipientState,
    /// The last outcome, if it was ever attempted.
    pub last: Option<Outcome>,
}

/// What changes about an envelope: the whole of it is written at every settle, and the latest wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Attempts that counted.
    pub attempts: u16,
    /// Not before this.
    pub due: Timestamp,
    /// An operator, or a damaged body, stopped it. Durable; stops expiry too.
    pub held: bool,
    /// How often the answer to the final dot was lost (RFC 1047); at the fourth the recipients fail.
    pub uncertain: u8,
    /// A DSN "delayed" was sent.
    pub delay_reported: bool,
    /// The source of the last 4xx at RCPT: greylisting wants the same one again. Empty: none.
    pub source: Text,
    /// The pool that an operator chose instead of the envelope's. Empty: none.
    pub pool: Text,
    /// One per recipient, in the envelope's order.
    pub recipients: Vec<RecipientProgress>,
}

/// What one attempt, or one decision without an attempt, changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// What it means for some or all recipients, by their place in the envelope.
    pub verdicts: Vec<(usize, Verdict)>,
    /// When the deferred ones are due again.
    pub due: Timestamp,
    /// Whether it counts as an attempt (a refusal at connect that concerns the source does not).
    pub counts: bool,
    /// Whether the final dot was sent and its answer never came.
    pub uncertain: bool,
    /// The source to stay with, if any.
    pub source: Text,
}

impl Progress {
    /// As accepted: nothing tried, due at once.
    pub fn new(recipients: usize, due: Timestamp) -> Progress {
        let pending = RecipientProgress { state: RecipientState::Pending, last: None };
        Progress {
            attempts: 0,
            due,
            held: false,
            uncertain: 0,
            delay_reported: false,
            source: "".into(),
            pool: "".into(),
            recipients: vec![pending; recipients],
        }
    }

    /// Whether nothing was tried or found out yet.
    pub fn is_untried(&self) -> bool {
        self.attempts == 0 && self.recipients.iter().all(|recipient| recipient.last.is_none())
    }

    /// Whether every recipient has its final state.
    pub fn is_final(&self) -> bool {
        self.recipients.iter().all(|recipient| recipient.state.is_final())
    }

    /// Applies an attempt. A recipient with a final state keeps it, whatever the attempt says; those deferred at or
    /// past `expires_at` expire, unless held.
    pub fn settle(&mut self, attempt: Attempt, now: Timestamp, expires_at: Timestamp) {
        self.attempts = self.attempts.saturating_add(u16::from(attempt.counts));
        self.due = attempt.due;
        self.source = attempt.source;
        self.uncertain = match attempt.uncertain {
            true => self.uncertain.saturating_add(1),
            false => self.uncertain,
        };
        for (place, verdict) in attempt.verdicts {
            let Some(recipient) = self.recipients.get_mut(place) else { continue };
            if recipient.state.is_final() {
                continue;
            }
            recipient.state = match &verdict {
                Verdict::Delivered(_) => RecipientState::Delivered,
                Verdict::Failed(_) => RecipientState::Failed,
                Verdict::Deferred(_) if now >= expires_at && !self.held => RecipientState::Expired,
                Verdict::Deferred(_) => RecipientState::Pending,
            };
            recipient.last = Some(verdict.outcome().clone());
        }
    }

    /// Ends every pending recipient in one final state without an attempt (expiry, deletion, a bounce by hand).
    pub fn end(&mut self, state: RecipientState, outcome: Option<&Outcome>) {
        for recipient in self.recipients.iter_mut().filter(|r| !r.state.is_final()) {
            recipient.state = state;
            if let Some(outcome) = outcome {
                recipient.last = Some(outcome.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{EnhancedStatus, Reply};

    fn outcome(code: u16) -> Outcome {
        let cause = match code {
            0 => Cause::local(EnhancedStatus::new(4, 4, 1), "timed out"),
            code => Cause::Reply(Reply::new(code, "text")),
        };
        Outcome { at: Timestamp::from_secs(1), stage: Stage::Rcpt, host: "mx".into(), address: None, cause }
    }

    fn attempt(verdicts: Vec<(usize, Verdict)>) -> Attempt {
        Attempt { verdicts, due: Timestamp::from_secs(9), counts: true, uncertain: false, source: "".into() }
    }

    #[test]
    fn every_verdict_leads_to_its_state_and_a_final_one_stays() {
        let rows = [
            (Verdict::Delivered(outcome(250)), 1, RecipientState::Delivered),
            (Verdict::Failed(outcome(550)), 1, RecipientState::Failed),
            (Verdict::Deferred(outcome(450)), 1, RecipientState::Pending),
            (Verdict::Deferred(outcome(0)), 100, RecipientState::Expired),
        ];
        for (verdict, now, want) in rows {
            let mut progress = Progress::new(1, Timestamp::ZERO);
            let (now, end) = (Timestamp::from_secs(now), Timestamp::from_secs(100));
            progress.settle(attempt(vec![(0, verdict), (7, Verdict::Failed(outcome(550)))]), now, end);
            assert_eq!(progress.recipients[0].state, want);
            assert_eq!(progress.is_final(), want.is_final());
            progress.settle(attempt(vec![(0, Verdict::Delivered(outcome(250)))]), now, end);
            let after = if want.is_final() { want } else { RecipientState::Delivered };
            assert_eq!(progress.recipients[0].state, after);
        }
    }

    #[test]
    fn a_held_envelope_does_not_expire() {
        let mut progress = Progress::new(1, Timestamp::ZERO);
        progress.held = true;
        progress.settle(attempt(vec![(0, Verdict::Deferred(outcome(450)))]), Timestamp::from_secs(5), Timestamp::ZERO);
        assert_eq!(progress.recipients[0].state, RecipientState::Pending);
    }

    #[test]
    fn ending_touches_only_what_is_pending() {
        let mut progress = Progress::new(2, Timestamp::ZERO);
        progress.settle(attempt(vec![(0, Verdict::Delivered(outcome(250)))]), Timestamp::ZERO, Timestamp::NEVER);
        progress.end(RecipientState::Deleted, None);
        assert_eq!(progress.recipients[0].state, RecipientState::Delivered);
        assert_eq!(progress.recipients[1].state, RecipientState::Deleted);
    }
}
