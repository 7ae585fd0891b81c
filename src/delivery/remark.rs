//! What replies say beyond their own recipients, passed on to those whom it concerns: each is counted by its class, a person
//! hears of what a rule calls alarming, and a sending domain that a site does not want is stopped there.
//!
//! Called when an attempt ended, before it is settled, and for refused connections. What a reply asks of the source goes to
//! the engine instead, in the event's signal.

use tracing::{info, warn};

use crate::alarm;
use crate::classify::{Class, Meaning, Reaction};
use crate::mail::{Domain, Envelope, Outcome};
use crate::time::Timestamp;

use super::stops::Heard;
use super::{Plan, Tools};

/// The rule for a client that gives many messages one Message-ID. It has an alarm of its own.
const SAME_MESSAGE_ID: &str = "google-same-message-id";

/// A refusal, and how often one that means the same came in this transaction.
#[derive(Clone, Debug)]
pub(super) struct Remark {
    pub meaning: Meaning,
    /// The name of the rule that it falls under; empty: none.
    pub rule: Box<str>,
    /// The first of them.
    pub outcome: Outcome,
    pub replies: u32,
}

impl Remark {
    fn detail(&self) -> String {
        let (host, stage, cause) = (&self.outcome.host, self.outcome.stage.name(), &self.outcome.cause);
        format!("{host} at {stage}, by the rule {}: {cause}", if self.rule.is_empty() { "none" } else { &self.rule })
    }
}

/// Passes on what an attempt's refusals say.
pub(super) async fn pass_on(remarks: &[Remark], plan: &Plan, envelope: &Envelope, tools: &Tools, now: Timestamp) {
    for remark in remarks {
        count(remark, tools);
        let author = envelope.author_domain.as_ref();
        if let Some((cause, subject)) = alarm_of(remark, plan, author) {
            let detail = match cause {
                alarm::Cause::DuplicateMessageId => format!("<{}>: {}", envelope.message_id, remark.detail()),
                _ => remark.detail(),
            };
            tools.door.alarms().event_about(envelope.id, cause, &subject, &detail, now);
        }
        if let (Some(author), Some(recipients)) = (author, envelope.domain()) {
            stop(remark, (author, recipients), plan, envelope, tools, now).await;
        }
    }
}

/// Passes on why a connection was refused. Whose mail it was for is nobody's fault.
pub(super) fn pass_on_refusal(remark: &Remark, plan: &Plan, tools: &Tools) {
    count(remark, tools);
    if let Some((cause, subject)) = alarm_of(remark, plan, None) {
        tools.door.alarms().event(cause, &subject, &remark.detail(), remark.outcome.at);
    }
}

fn count(remark: &Remark, tools: &Tools) {
    for _ in 0..remark.replies {
        tools.door.events().replied(remark.meaning.class.name());
    }
}

/// The alarm that a refusal raises, and what it concerns.
fn alarm_of(remark: &Remark, plan: &Plan, author: Option<&Domain>) -> Option<(alarm::Cause, String)> {
    let signal = &remark.meaning.signal;
    if signal.block || (signal.alarm && matches!(signal.reaction, Some(Reaction::Suspend { .. }))) {
        return Some((alarm::Cause::SourceBlocked, format!("{} at {}", plan.source.name, plan.site)));
    }
    if !signal.alarm {
        return None;
    }
    let author = author.map(Domain::as_str);
    if *remark.rule == *SAME_MESSAGE_ID {
        return Some((alarm::Cause::DuplicateMessageId, author.unwrap_or_default().to_owned()));
    }
    let subject = || format!("{} at {}", author.unwrap_or(&plan.source.name), plan.site);
    match remark.meaning.class {
        Class::Authentication => Some((alarm::Cause::AuthenticationRefused, subject())),
        // Told once they are stopped.
        Class::ReputationDomain => None,
        Class::RecipientInvalid
        | Class::MailboxFull
        | Class::Inactive
        | Class::RecipientRate
        | Class::Content
        | Class::ReputationIp
        | Class::ConnectionLimit
        | Class::RateLimit
        | Class::Greylisting
        | Class::Policy
        | Class::Dns
        | Class::Protocol
        | Class::Network
        | Class::Unknown => {
            let (site, source, rule) = (&plan.site, &plan.source.name, &remark.rule);
            warn!(%site, %source, rule, cause = %remark.outcome.cause, "a refusal that somebody should look at");
            None
        }
    }
}

/// Counts a refusal that asks for a stop of its sending domain, and tells when it is stopped.
async fn stop(
    remark: &Remark,
    (author, recipients): (&Domain, &Domain),
    plan: &Plan,
    envelope: &Envelope,
    tools: &Tools,
    now: Timestamp,
) {
    let signal = &remark.meaning.signal;
    let Some(Reaction::StopDomain { hold }) = signal.reaction else { return };
    let heard = Heard {
        site: &plan.site,
        domain: author,
        recipient_domain: recipients,
        rule: &remark.rule,
        trigger: signal.trigger,
        hold,
        words: &remark.outcome.cause.to_string(),
    };
    let Some(stop) = tools.stops.hear(&heard, now).await else { return };
    let (site, rule, until, cause) = (&plan.site, &remark.rule, stop.until.rfc3339(), &remark.outcome.cause);
    info!(%site, sending_domain = author.as_str(), rule, %until, %cause, "a sending domain was stopped at a site");
    let (subject, detail) = (format!("{} at {site}", author.as_str()), format!("until {until}; {}", remark.detail()));
    tools.door.alarms().event_about(envelope.id, alarm::Cause::SendingDomainStopped, &subject, &detail, now);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use super::*;
    use crate::classify::{Observation, Rules, stage_named};
    use crate::delivery::{ConnectionId, SlotLimits, Source, TlsPolicy};
    use crate::mail::{Cause, Reply};

    fn plan() -> Plan {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Plan {
            id: ConnectionId(1),
            source: Source { name: "a".into(), address, ehlo: "relay.example.com".into() },
            hosts: Arc::new([]),
            tls: TlsPolicy::None,
            login: None,
            trust: None,
            return_path: crate::mail::ReturnPath::Ours,
            allow_private: false,
            slots: SlotLimits::default(),
            site: "google".into(),
            provider: "google".into(),
            domain: "dest.test".parse().unwrap(),
        }
    }

    #[test]
    fn alarms_name_what_they_concern() {
        let rules = Rules::shipped();
        let rows = [
            (
                "dot",
                550,
                "5.7.26 This mail has been blocked because the sender is unauthenticated.",
                "authentication_refused shop.test at google",
            ),
            (
                "mail",
                554,
                "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
                "source_blocked a at google",
            ),
            (
                "greeting",
                553,
                "5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list; see https://senders.yahooinc.com",
                "source_blocked a at google",
            ),
            (
                "dot",
                421,
                "4.7.28 Gmail has detected that your account has exceeded its quota for messages with the same Message-ID.",
                "duplicate_message_id shop.test",
            ),
            ("rcpt", 550, "5.1.1 no such user", ""),
            ("dot", 550, "5.7.1 Rejected: your domain has a poor reputation", ""),
            ("rcpt", 450, "4.2.0 greylisted, come again", ""),
        ];
        let author = "shop.test".parse().unwrap();
        for (stage, code, text, want) in rows {
            let (stage, cause) = (stage_named(stage).unwrap(), Cause::Reply(Reply::new(code, text)));
            let observation = Observation { stage, cause: &cause, recipients_taken: 1, host: None };
            let meaning = rules.classify(&observation);
            let rule = rules.name(meaning.signal.rule).unwrap_or_default().into();
            let outcome = Outcome { at: Timestamp::from_secs(1), stage, host: "mx".into(), address: None, cause };
            let remark = Remark { meaning, rule, outcome, replies: 1 };
            let alarm = alarm_of(&remark, &plan(), Some(&author));
            let got = alarm.map(|(cause, subject)| format!("{} {subject}", cause.name())).unwrap_or_default();
            assert_eq!(got, want, "{text}, by {}", remark.rule);
        }
    }
}
