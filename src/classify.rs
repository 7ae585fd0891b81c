//! What a reply, or its absence, means: for the recipient it answered, and for the source at that site. Pure.
//!
//! Called by `delivery` for each outcome of an attempt; `traffic` reads the [`Feedback`]. It never looks at who the
//! recipient is, and in doubt it says "later".

use std::time::Duration;

use crate::mail::{Cause, Reply, Stage};

/// What an attempt or a refusal says about a source at a site, beyond its own recipients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Feedback {
    /// The peer took mail: concurrency may grow.
    Good,
    /// Nothing either way (a 4xx or 5xx about a recipient or a message).
    Neutral,
    /// The peer wants less (421, too many connections) or refuses the source: concurrency shrinks.
    Slower,
    /// The connection could not be made, or broke.
    Broken,
}

/// What a reply calls for, of a source at the site that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reaction {
    /// Fewer connections at once: so many, or one less than there are.
    FewerConnections {
        /// At most.
        most: Option<u16>,
    },
    /// Fewer deliveries on one connection: so many, or those that it just took.
    FewerDeliveries {
        /// At most.
        most: Option<u32>,
    },
    /// No more than this by time. A count of 0: as much as it took of late.
    Slow {
        /// So many.
        count: u32,
        /// In such a time.
        per: Duration,
        /// Not more again before this has passed.
        hold: Duration,
    },
    /// Nothing over this source for so long.
    Suspend {
        /// How long.
        hold: Duration,
    },
    /// Nothing of this sending domain for so long.
    StopDomain {
        /// How long.
        hold: Duration,
    },
}

/// What an attempt or a refusal says about a source at a site, as the traffic engine hears it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Signal {
    /// How it went on the whole.
    pub feedback: Feedback,
    /// What more is called for.
    pub reaction: Option<Reaction>,
    /// Only after so many such replies within an hour, from two recipient domains or more. 1: at once.
    pub trigger: u16,
    /// The number of the rule, stable within one config. 0: none.
    pub rule: u16,
    /// It speaks of our reputation: it counts against a warm-up.
    pub reputation: bool,
    /// The source is blocked or listed.
    pub block: bool,
}

impl Default for Signal {
    fn default() -> Self {
        Signal { feedback: Feedback::Neutral, reaction: None, trigger: 1, rule: 0, reputation: false, block: false }
    }
}

impl From<Feedback> for Signal {
    fn from(feedback: Feedback) -> Signal {
        Signal { feedback, ..Signal::default() }
    }
}

/// Which verdict an outcome is, for the recipients it answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VerdictKind {
    /// The peer took responsibility.
    Delivered,
    /// Again later.
    Deferred,
    /// Never again.
    Failed,
}

/// What was found out, and where.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Which command it answers, or where we were when we found it out.
    pub stage: Stage,
    /// The peer's words, or ours.
    pub cause: &'a Cause,
    /// How many RCPTs of this transaction the peer had taken before. With pipelining DATA is answered even if none
    /// was, and its 503 or 554 then says nothing new.
    pub recipients_taken: usize,
}

/// What an observation means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Meaning {
    /// For the recipients it answered: one at RCPT, all of the transaction elsewhere.
    pub verdict: VerdictKind,
    /// For the source at the site.
    pub feedback: Feedback,
    /// Whether it uses up one of the envelope's attempts: what concerns the source alone does not.
    pub counts: bool,
    /// Whether the envelope should come back over the same source: greylisting knows it by that.
    pub stay: bool,
}

impl Meaning {
    const fn new(verdict: VerdictKind, feedback: Feedback) -> Meaning {
        Meaning { verdict, feedback, counts: true, stay: false }
    }

    const fn uncounted(self) -> Meaning {
        Meaning { counts: false, ..self }
    }
}

const DELIVERED: Meaning = Meaning::new(VerdictKind::Delivered, Feedback::Good);
const FAILED: Meaning = Meaning::new(VerdictKind::Failed, Feedback::Neutral);
const DEFERRED: Meaning = Meaning::new(VerdictKind::Deferred, Feedback::Neutral);
const BROKEN: Meaning = Meaning::new(VerdictKind::Deferred, Feedback::Broken);
const REFUSED: Meaning = Meaning::new(VerdictKind::Deferred, Feedback::Slower).uncounted();

/// What an outcome means.
pub fn classify(observation: &Observation) -> Meaning {
    match observation.cause {
        Cause::Reply(reply) => of_reply(observation, reply),
        Cause::Local { status, .. } => of_our_own(observation.stage, status.class),
    }
}

fn of_our_own(stage: Stage, status_class: u8) -> Meaning {
    match stage {
        // Nothing was attempted that could count; a final answer (null MX, no such domain) is DNS's to give.
        Stage::Resolve if status_class == 5 => FAILED.uncounted(),
        Stage::Resolve => DEFERRED.uncounted(),
        // No host took us: never the recipients' fault, whatever status we wrote down.
        Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth => BROKEN.uncounted(),
        // A connection that breaks within a transaction may break because of the message, so it counts.
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::FinalDot if status_class == 5 => FAILED,
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::FinalDot => BROKEN,
        Stage::Local if status_class == 5 => FAILED,
        Stage::Local => DEFERRED,
    }
}

fn of_reply(observation: &Observation, reply: &Reply) -> Meaning {
    // RFC 5321 §3.8: 421 may answer any command, and says that the channel closes, never that a recipient is bad.
    if reply.code == 421 {
        return REFUSED;
    }
    match observation.stage {
        // 5xx before MAIL ("554 your address is listed") was said before the peer knew of any recipient.
        Stage::Resolve | Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth => REFUSED,
        Stage::Mail => match reply.code {
            500..=599 if concerns_us(reply) => DEFERRED,
            500..=599 => FAILED,
            _ => DEFERRED,
        },
        Stage::Rcpt => match reply.code {
            500..=599 if concerns_us(reply) => DEFERRED,
            552 if is_too_many_recipients(reply, observation.recipients_taken) => DEFERRED,
            500..=599 => FAILED,
            _ => Meaning { stay: true, ..DEFERRED },
        },
        Stage::Data | Stage::FinalDot => match reply.code {
            200..=299 if observation.stage == Stage::FinalDot => DELIVERED,
            500..=599 if observation.recipients_taken == 0 || concerns_us(reply) => DEFERRED,
            500..=599 => FAILED,
            _ => DEFERRED,
        },
        Stage::Local => DEFERRED,
    }
}

/// 5xx that say that the two of us do not understand each other (order of commands, TLS or a login wanted): the
/// recipients are not to blame, and an operator can mend it within the message's life.
fn concerns_us(reply: &Reply) -> bool {
    matches!(reply.code, 503 | 530 | 534 | 535 | 538)
}

/// RFC 5321 §4.5.3.1.10: older servers say 552 where 452 is meant, and clients treat it so. It also means a full
/// mailbox (5.2.2), which is final.
fn is_too_many_recipients(reply: &Reply, recipients_taken: usize) -> bool {
    match reply.enhanced {
        Some(enhanced) => (enhanced.subject, enhanced.detail) == (5, 3),
        None => recipients_taken > 0 || reply.text.to_ascii_lowercase().contains("too many"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::EnhancedStatus;

    fn of(stage: Stage, cause: &Cause, recipients_taken: usize) -> Meaning {
        classify(&Observation { stage, cause, recipients_taken })
    }

    #[test]
    fn sample_replies_mean_what_an_experienced_postmaster_would_say() {
        use Feedback::{Good, Neutral, Slower};
        use VerdictKind::{Deferred, Delivered, Failed};
        let rows = [
            (Stage::Greeting, 554, "5.7.1 192.0.2.1 is listed", 0, Deferred, Slower),
            (Stage::Greeting, 421, "4.7.0 too many connections", 0, Deferred, Slower),
            (Stage::Hello, 550, "5.7.1 bad EHLO name", 0, Deferred, Slower),
            (Stage::Auth, 535, "5.7.8 no", 0, Deferred, Slower),
            (Stage::Mail, 421, "4.7.28 unusual rate", 0, Deferred, Slower),
            (Stage::Mail, 451, "4.3.0 later", 0, Deferred, Neutral),
            (Stage::Mail, 550, "5.7.1 sender refused", 0, Failed, Neutral),
            (Stage::Mail, 530, "5.7.0 Must issue a STARTTLS command first", 0, Deferred, Neutral),
            (Stage::Mail, 552, "5.3.4 message too big", 0, Failed, Neutral),
            (Stage::Rcpt, 450, "4.2.0 greylisted", 0, Deferred, Neutral),
            (Stage::Rcpt, 421, "closing", 3, Deferred, Slower),
            (Stage::Rcpt, 550, "5.1.1 no such user", 0, Failed, Neutral),
            (Stage::Rcpt, 452, "4.5.3 too many recipients", 9, Deferred, Neutral),
            (Stage::Rcpt, 552, "5.5.3 too many recipients", 0, Deferred, Neutral),
            (Stage::Rcpt, 552, "too many recipients", 0, Deferred, Neutral),
            (Stage::Rcpt, 552, "enough", 100, Deferred, Neutral),
            (Stage::Rcpt, 552, "5.2.2 mailbox full", 5, Failed, Neutral),
            (Stage::Rcpt, 552, "mailbox full", 0, Failed, Neutral),
            (Stage::Rcpt, 354, "out of step", 0, Deferred, Neutral),
            (Stage::Rcpt, 503, "need MAIL first", 0, Deferred, Neutral),
            (Stage::Data, 554, "5.5.1 no valid recipients", 0, Deferred, Neutral),
            (Stage::Data, 554, "5.7.1 no", 2, Failed, Neutral),
            (Stage::Data, 451, "4.3.0 later", 1, Deferred, Neutral),
            (Stage::FinalDot, 250, "2.0.0 queued", 1, Delivered, Good),
            (Stage::FinalDot, 354, "again?", 1, Deferred, Neutral),
            (Stage::FinalDot, 554, "5.7.1 spam", 1, Failed, Neutral),
            (Stage::FinalDot, 451, "4.7.1 later", 1, Deferred, Neutral),
            (Stage::FinalDot, 421, "4.3.2 shutting down", 1, Deferred, Slower),
            (Stage::FinalDot, 299, "2.0.0 odd", 1, Delivered, Good),
        ];
        for (stage, code, text, taken, verdict, feedback) in rows {
            let meaning = of(stage, &Cause::Reply(Reply::new(code, text)), taken);
            assert_eq!((meaning.verdict, meaning.feedback), (verdict, feedback), "{stage:?} {code} {text}");
        }
    }

    #[test]
    fn what_we_found_out_ourselves_is_never_read_as_the_recipients_fault_before_mail() {
        let (later, never) = (EnhancedStatus::new(4, 4, 1), EnhancedStatus::new(5, 1, 10));
        let rows = [
            (Stage::Resolve, later, VerdictKind::Deferred, Feedback::Neutral),
            (Stage::Resolve, never, VerdictKind::Failed, Feedback::Neutral),
            (Stage::Connect, later, VerdictKind::Deferred, Feedback::Broken),
            (Stage::Connect, never, VerdictKind::Deferred, Feedback::Broken),
            (Stage::Tls, never, VerdictKind::Deferred, Feedback::Broken),
            (Stage::Rcpt, later, VerdictKind::Deferred, Feedback::Broken),
            (Stage::FinalDot, later, VerdictKind::Deferred, Feedback::Broken),
            (Stage::Local, later, VerdictKind::Deferred, Feedback::Neutral),
            (Stage::Local, never, VerdictKind::Failed, Feedback::Neutral),
        ];
        for (stage, status, verdict, feedback) in rows {
            let meaning = of(stage, &Cause::local(status, "text"), 1);
            assert_eq!((meaning.verdict, meaning.feedback), (verdict, feedback), "{stage:?} {status}");
        }
    }

    #[test]
    fn what_concerns_the_source_uses_up_no_attempt_and_greylisting_keeps_the_source() {
        let reply = |code| Cause::Reply(Reply::new(code, "text"));
        assert!(!of(Stage::Mail, &reply(421), 0).counts);
        assert!(!of(Stage::Greeting, &reply(554), 0).counts);
        assert!(of(Stage::Rcpt, &reply(450), 0).counts);
        assert!(of(Stage::Rcpt, &reply(450), 0).stay);
        assert!(!of(Stage::FinalDot, &reply(450), 1).stay);
        assert!(!of(Stage::Rcpt, &reply(550), 0).stay);
    }

    #[test]
    fn no_code_at_all_fails_anyone_before_mail_and_only_5xx_after() {
        let before = [Stage::Connect, Stage::Greeting, Stage::Hello, Stage::Tls, Stage::Auth];
        let after = [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::FinalDot];
        for code in 0..1000 {
            let cause = Cause::Reply(Reply::new(code, "x"));
            for stage in before {
                assert_eq!(of(stage, &cause, 1).verdict, VerdictKind::Deferred, "{stage:?} {code}");
            }
            for stage in after {
                let failed = of(stage, &cause, 1).verdict == VerdictKind::Failed;
                assert!(!failed || (500..=599).contains(&code), "{stage:?} {code}");
            }
        }
    }
}
