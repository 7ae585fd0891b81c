//! What a settle means, and the DSN that goes with it: pure.

use bytes::Bytes;

use crate::mail::{
    Attempt, Cause, EnhancedStatus, Envelope, Notify, Outcome, Prepared, Progress, QueueId, Recipient, RecipientState,
    Return, ReversePath, Stage, Text,
};
use crate::message::{HeaderLimits, facts, scan};
use crate::report::{Action, Bounces, Event, Original, PeerReports, Report, due, write};
use crate::time::Timestamp;

use super::settings::{Settings, Stream};

/// How often a message whose answer was lost is tried again: after 15 minutes, 1 hour and 4 hours. RFC 1047.
const UNCERTAIN_RETRIES: u8 = 3;
/// "Delivery time expired", RFC 3463 §3.5.
const EXPIRED: EnhancedStatus = EnhancedStatus::new(4, 4, 7);
/// "Bad connection", RFC 3463 §3.5.
const LOST: EnhancedStatus = EnhancedStatus::new(5, 4, 2);
/// "Other or undefined mail system status", RFC 3463 §3.4.
const RETURNED: EnhancedStatus = EnhancedStatus::new(5, 3, 0);

/// How an envelope is ended without an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Its longest age passed.
    Expired,
    /// An operator returned it.
    Bounced,
    /// An operator removed it.
    Deleted,
}

/// The state after an attempt.
pub(super) fn after_attempt(envelope: &Envelope, before: &Progress, attempt: Attempt, now: Timestamp) -> Progress {
    let mut after = before.clone();
    let is_uncertain = attempt.uncertain;
    after.settle(attempt, now, envelope.expires_at);
    if is_uncertain && after.uncertain > UNCERTAIN_RETRIES {
        let text =
            "the connection broke after the message was sent, each time it was tried: it may have been delivered";
        for recipient in after.recipients.iter_mut().filter(|recipient| !recipient.state.is_final()) {
            recipient.state = RecipientState::Failed;
            recipient.last = Some(found(now, recipient.last.take(), Cause::local(LOST, text)));
        }
    }
    after
}

/// The state after an end without an attempt.
pub(super) fn after_end(before: &Progress, end: End, now: Timestamp) -> Progress {
    let mut after = before.clone();
    for recipient in after.recipients.iter_mut().filter(|recipient| !recipient.state.is_final()) {
        match end {
            End::Deleted => recipient.state = RecipientState::Deleted,
            End::Bounced => {
                recipient.state = RecipientState::Failed;
                let cause = Cause::local(RETURNED, "the postmaster returned the message without delivering it");
                recipient.last = Some(found(now, None, cause));
            }
            End::Expired => {
                recipient.state = RecipientState::Expired;
                if recipient.last.is_none() {
                    recipient.last = Some(found(now, None, Cause::local(EXPIRED, "it was never its turn")));
                }
            }
        }
    }
    after
}

/// A finding of our own, at the host of the last attempt.
fn found(at: Timestamp, last: Option<Outcome>, cause: Cause) -> Outcome {
    let (host, address) = last.map_or(("".into(), None), |last| (last.host, last.address));
    Outcome { at, stage: Stage::Local, host, address, cause }
}

/// Who must hear of it; marks a delay as reported.
pub(super) fn events(
    settings: &Settings,
    envelope: &Envelope,
    before: &Progress,
    after: &mut Progress,
    peer: PeerReports,
    now: Timestamp,
) -> Vec<Event> {
    let bounces = bounces(settings, envelope);
    let events = due(envelope, before, after, peer, bounces, settings.delay_report_after, now);
    after.delay_reported |= events.iter().any(|event| event.action == Action::Delayed);
    events
}

/// Its stream's say; one that a reload removed has its kind's.
fn bounces(settings: &Settings, envelope: &Envelope) -> Bounces {
    settings.streams.get(&envelope.stream).map_or_else(|| Bounces::of_kind(envelope.kind), |stream| stream.bounces)
}

/// What a report is about.
pub(super) struct Told<'a> {
    pub envelope: &'a Envelope,
    pub progress: &'a Progress,
    pub events: &'a [Event],
    /// Header block and body, unless they cannot be read any more.
    pub body: Option<&'a [u8]>,
}

/// The DSN as a message of our own: from nobody, to the reverse path, on the stream for DSNs. `None` where nobody is to
/// be told, or the report's own shape is broken, which no input can make it.
pub(super) fn dsn(settings: &Settings, told: &Told, id: QueueId, random: u64, now: Timestamp) -> Option<Prepared> {
    let to = told.envelope.reverse_path.address().filter(|_| !told.events.is_empty())?;
    let report = Report {
        hostname: &settings.hostname,
        to,
        id: &id.to_string(),
        boundary: &format!("{id}.{random:016x}/{}", settings.hostname),
        now,
        envelope: told.envelope,
        progress: told.progress,
        events: told.events,
        original: original(settings, told),
    };
    let message = write(&report);
    let header = scan(&message, HeaderLimits::NONE).ok()?;
    let body = facts(&message, &header);
    // A stream that a reload removed still has its kind.
    let fallback = Stream::default();
    let stream = settings.streams.get(&settings.dsn_stream).unwrap_or(&fallback);
    let envelope = Envelope {
        id,
        submission: id,
        accepted_at: now,
        release_at: now,
        put_off_by: Text::default(),
        held: false,
        expires_at: now.after(stream.max_age),
        stream: settings.dsn_stream.clone(),
        kind: stream.kind,
        priority: stream.priority,
        credential: "".into(),
        pool: stream.pool.clone(),
        reverse_path: ReversePath::Null,
        return_path: None,
        ret: None,
        envid: None,
        author_domain: Some(settings.hostname.clone()),
        message_id: format!("{id}@{}", settings.hostname).into(),
        marks: crate::mail::Marks::default(),
        added_headers: Bytes::new(),
        body,
        // RFC 3461 §4.1: a report asks for none.
        recipients: vec![Recipient { address: to.clone(), notify: Notify::Never, original: None }],
    };
    Some(Prepared { body: message.into(), envelopes: vec![envelope] })
}

/// RFC 3461 §4.3: RET governs failures only; other reports return the header.
fn original<'a>(settings: &Settings, told: &Told<'a>) -> Original<'a> {
    let Some(body) = told.body else { return Original::Lost };
    let is_failure = told.events.iter().any(|event| event.action == Action::Failed);
    let is_small = body.len() as u64 <= settings.returned_size_max.bytes();
    if is_failure && is_small && told.envelope.ret != Some(Return::Headers) {
        return Original::Whole(body);
    }
    let end = usize::try_from(told.envelope.body.header_bytes).unwrap_or(usize::MAX);
    Original::Header(body.get(..end).unwrap_or(body))
}

#[cfg(test)]
mod tests;
