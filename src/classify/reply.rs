//! What an answer means by its stage and code alone, and what a rule may make of that.
//!
//! The rules speak of texts; what holds whatever a peer says stands here: before MAIL no recipient is to blame, 421 never
//! fails anyone, a recipient is dead only if the answer was about it alone.

use super::again;
use super::meaning::{Class, Feedback, Meaning, Scope, VerdictKind};
use super::rule::{Death, Then};
use super::said::Said;
use super::{Observation, Rules};
use crate::mail::{Reply, Stage};

const DELIVERED: Meaning = Meaning::new(VerdictKind::Delivered, Feedback::Good, Class::Unknown, Scope::Recipient);
const FAILED: Meaning = Meaning::new(VerdictKind::Failed, Feedback::Neutral, Class::Unknown, Scope::Recipient);
const DEFERRED: Meaning = Meaning::new(VerdictKind::Deferred, Feedback::Neutral, Class::Unknown, Scope::Recipient);
const BROKEN: Meaning = Meaning::new(VerdictKind::Deferred, Feedback::Broken, Class::Network, Scope::Connection);
const REFUSED: Meaning =
    Meaning::new(VerdictKind::Deferred, Feedback::Slower, Class::Unknown, Scope::Source).uncounted();

/// What we found out without a reply. No rule is asked: our own words must never be read as a peer's.
pub(super) fn of_our_own(stage: Stage, status_class: u8) -> Meaning {
    let of_dns = |meaning: Meaning| Meaning { class: Class::Dns, scope: Scope::RecipientDomain, ..meaning.uncounted() };
    match stage {
        // Nothing was attempted that could count; a final answer (null MX, no such domain) is DNS's to give.
        Stage::Resolve if status_class == 5 => of_dns(FAILED),
        Stage::Resolve => of_dns(DEFERRED),
        // No host took us: never the recipients' fault, whatever status we wrote down.
        Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth => BROKEN.uncounted(),
        // A connection that breaks within a transaction may break because of the message, so it counts.
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::FinalDot if status_class == 5 => FAILED,
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::FinalDot => BROKEN,
        Stage::Local if status_class == 5 => Meaning { scope: Scope::Message, ..FAILED },
        Stage::Local => Meaning { scope: Scope::Message, ..DEFERRED },
    }
}

/// What a reply means.
pub(super) fn of_reply(rules: &Rules, observation: &Observation, reply: &Reply) -> Meaning {
    let plain = by_code(observation, reply);
    let says_nothing_new =
        matches!(observation.stage, Stage::Data | Stage::FinalDot) && observation.recipients_taken == 0;
    if reply.code < 400 || says_nothing_new {
        return plain;
    }
    let said = Said::of(reply);
    let asked = again::asked(&said.text);
    let Some((number, rule)) = rules.first(observation.stage, &said, observation.host) else {
        return Meaning { again_in: asked.filter(|_| plain.verdict == VerdictKind::Deferred), ..plain };
    };
    let then = &rule.then;
    let mut meaning = ruled(plain, observation, reply, then);
    meaning.signal.rule = number;
    if meaning.verdict == VerdictKind::Deferred {
        meaning.again_in = asked.or(then.again_in);
    }
    meaning
}

fn ruled(plain: Meaning, observation: &Observation, reply: &Reply, then: &Then) -> Meaning {
    let before_mail = matches!(
        observation.stage,
        Stage::Resolve | Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth
    );
    let may_fail = !before_mail && reply.code != 421 && observation.stage != Stage::Local;
    let about_mailbox = matches!(then.class, Class::RecipientInvalid | Class::Inactive);
    let verdict = match (plain.verdict, then.verdict) {
        (VerdictKind::Deferred, Some(VerdictKind::Failed)) if may_fail => VerdictKind::Failed,
        (VerdictKind::Failed, Some(VerdictKind::Deferred)) => VerdictKind::Deferred,
        // The guess that a 552 means too many recipients, against words that say what it does mean.
        (VerdictKind::Deferred, None) if reply.code == 552 && about_mailbox && observation.stage == Stage::Rcpt => {
            VerdictKind::Failed
        }
        (VerdictKind::Failed, None) if then.class.passes_by_itself() => VerdictKind::Deferred,
        (by_code, _) => by_code,
    };
    let about_one = match observation.stage {
        Stage::Rcpt => true,
        // An answer to the whole message is about its recipient only if there was just one.
        Stage::Data | Stage::FinalDot => observation.recipients_taken == 1,
        _ => false,
    };
    let scope = match then.scope {
        Scope::Recipient if before_mail => Scope::Connection,
        Scope::Recipient if !about_one => Scope::Nobody,
        scope => scope,
    };
    let is_dead = then.death != Death::No && then.class == Class::RecipientInvalid;
    let wants_less = matches!(then.class, Class::ConnectionLimit | Class::RateLimit)
        && matches!(scope, Scope::Source | Scope::Connection);
    let mut meaning = Meaning {
        verdict,
        class: then.class,
        scope,
        suppress: is_dead && about_one && verdict == VerdictKind::Failed,
        stay: (plain.stay || then.class == Class::Greylisting) && !then.block,
        ..plain
    };
    if wants_less && meaning.signal.feedback == Feedback::Neutral {
        meaning.signal.feedback = Feedback::Slower;
    }
    meaning.signal.reaction = then.reaction;
    meaning.signal.trigger = then.trigger;
    meaning.signal.reputation = then.reputation;
    meaning.signal.block = then.block;
    meaning.signal.alarm = then.alarm;
    meaning
}

fn by_code(observation: &Observation, reply: &Reply) -> Meaning {
    // RFC 5321 §3.8: 421 may answer any command, and says that the channel closes, never that a recipient is bad.
    if reply.code == 421 {
        return REFUSED;
    }
    match observation.stage {
        // 5xx before MAIL ("554 your address is listed") was said before the peer knew of any recipient.
        Stage::Resolve | Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth => REFUSED,
        Stage::Mail => match reply.code {
            500..=599 if concerns_us(reply) => DEFERRED,
            // Whoever is meant, it is none of the recipients: none was named yet.
            500..=599 => Meaning { scope: Scope::Nobody, ..FAILED },
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
