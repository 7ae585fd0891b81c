//! Decides who must be told what after an envelope was settled.

use std::time::Duration;

use crate::mail::{Cause, Envelope, Notify, Progress, RecipientState, Stage, StreamKind, UNREADABLE};
use crate::time::Timestamp;

/// The Action field, RFC 3464 §2.3.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It will not be delivered.
    Failed,
    /// It is still being tried.
    Delayed,
    /// The next host took it, and will report for itself no more: it knows no DSN (RFC 3461 §5.2.2).
    Relayed,
    /// It reached its mailbox, as far as we are concerned.
    Delivered,
}

impl Action {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
            Action::Delivered => "delivered",
        }
    }
}

/// One recipient to report on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its place in the envelope.
    pub place: usize,
    /// What happened.
    pub action: Action,
}

/// Whether the peer that took a message reports its delivery itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PeerReports {
    /// It offered DSN and was given the NOTIFY parameters: success is its to report.
    Yes,
    /// It offered no DSN: we report "relayed".
    #[default]
    No,
}

/// Whether a sender hears of failures that it did not ask about: `bounces` of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bounces {
    /// Unless NOTIFY says otherwise.
    #[default]
    ByDefault,
    /// Only where NOTIFY asks.
    OnRequest,
}

impl Bounces {
    /// What a stream of this kind has unless it says otherwise.
    pub fn of_kind(kind: StreamKind) -> Bounces {
        match kind {
            StreamKind::Transactional => Bounces::ByDefault,
            StreamKind::Marketing => Bounces::OnRequest,
        }
    }
}

/// The recipients whose sender must hear of this settle; empty: nobody hears anything.
///
/// Nothing is ever reported to the null path, so that no report causes a report (RFC 5321 §4.5.5, RFC 3834 §2).
/// Where a stream's bounces are off, its failures are reported only where NOTIFY asks: an address list that ages would
/// otherwise answer every newsletter with a storm. Delays are reported only where NOTIFY asks, once, after `delay_after`.
pub fn due(
    envelope: &Envelope,
    before: &Progress,
    after: &Progress,
    peer: PeerReports,
    bounces: Bounces,
    delay_after: Duration,
    now: Timestamp,
) -> Vec<Event> {
    if envelope.reverse_path.address().is_none() {
        return Vec::new();
    }
    let is_late = !before.delay_reported && now.since(envelope.release_at) >= delay_after;
    let mut events = Vec::new();
    for (place, recipient) in envelope.recipients.iter().enumerate() {
        let (Some(was), Some(is)) = (before.recipients.get(place), after.recipients.get(place)) else { continue };
        if was.state.is_final() {
            continue;
        }
        let wants_failure = match (recipient.notify, bounces) {
            (Notify::Default, Bounces::OnRequest) => false,
            (notify, Bounces::ByDefault | Bounces::OnRequest) => notify.failure(),
        };
        let action = match is.state {
            RecipientState::Failed | RecipientState::Expired | RecipientState::Suppressed if wants_failure => {
                Action::Failed
            }
            RecipientState::Delivered if recipient.notify.success() && peer == PeerReports::No => Action::Relayed,
            // Our disk ate it: it is held for the postmaster, who may have a backup, but its sender must not wait for that.
            RecipientState::Pending if wants_failure && is_newly_damaged(before, after, place) => Action::Failed,
            RecipientState::Pending if is_late && recipient.notify.delay() && is.last.is_some() => Action::Delayed,
            // Deleted: the operator meant silence.
            RecipientState::Failed
            | RecipientState::Expired
            | RecipientState::Suppressed
            | RecipientState::Delivered
            | RecipientState::Pending
            | RecipientState::Deleted => continue,
        };
        events.push(Event { place, action });
    }
    events
}

/// Whether this settle held the message because its body cannot be read any more, and not by an operator's wish.
fn is_newly_damaged(before: &Progress, after: &Progress, place: usize) -> bool {
    let last = |progress: &Progress| progress.recipients.get(place).and_then(|recipient| recipient.last.clone());
    let found = last(after).filter(|found| {
        found.stage == Stage::Local && matches!(&found.cause, Cause::Local { status, .. } if *status == UNREADABLE)
    });
    after.held && !before.held && found.is_some() && found != last(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{EnhancedStatus, Outcome, Recipient, RecipientProgress, ReversePath};
    use crate::report::write::tests::envelope;

    const ON: Notify = Notify::On { success: true, failure: true, delay: true };

    fn run(state: RecipientState, notify: Notify, change: impl Fn(&mut Envelope, &mut Progress)) -> Option<Action> {
        run_on(Bounces::ByDefault, state, notify, change)
    }

    fn run_on(
        bounces: Bounces,
        state: RecipientState,
        notify: Notify,
        change: impl Fn(&mut Envelope, &mut Progress),
    ) -> Option<Action> {
        let address = "x@y.example".parse().unwrap();
        let mut envelope = envelope();
        envelope.recipients = vec![Recipient { address, notify, original: None }];
        let mut before = Progress::new(1, Timestamp::ZERO);
        change(&mut envelope, &mut before);
        let cause = Cause::local(EnhancedStatus::new(4, 4, 1), "x");
        let last = Outcome { at: Timestamp::ZERO, stage: Stage::Connect, host: "".into(), address: None, cause };
        let mut after = before.clone();
        after.recipients = vec![RecipientProgress { state, last: Some(last) }];
        let now = envelope.accepted_at.after(Duration::from_secs(10));
        let events = due(&envelope, &before, &after, PeerReports::No, bounces, Duration::from_secs(10), now);
        events.first().map(|event| event.action)
    }

    #[test]
    fn every_state_and_wish_has_its_report_or_its_silence() {
        use RecipientState::*;
        let none = Notify::On { success: false, failure: false, delay: false };
        let rows = [
            (Failed, Notify::Default, Some(Action::Failed)),
            (Expired, Notify::Default, Some(Action::Failed)),
            (Suppressed, Notify::Default, Some(Action::Failed)),
            (Failed, Notify::Never, None),
            (Failed, none, None),
            (Failed, ON, Some(Action::Failed)),
            (Deleted, ON, None),
            (Delivered, Notify::Default, None),
            (Delivered, ON, Some(Action::Relayed)),
            (Pending, Notify::Default, None),
            (Pending, ON, Some(Action::Delayed)),
            (Pending, Notify::Never, None),
        ];
        for (state, notify, want) in rows {
            assert_eq!(run(state, notify, |_, _| {}), want, "{state:?} {notify:?}");
            assert_eq!(run(state, notify, |e, _| e.reverse_path = ReversePath::Null), None, "to the null path");
        }
    }

    #[test]
    fn where_bounces_are_off_only_those_asked_for_are_sent() {
        let run = |state, notify| run_on(Bounces::OnRequest, state, notify, |_, _| {});
        assert_eq!(run(RecipientState::Failed, Notify::Default), None);
        assert_eq!(run(RecipientState::Expired, Notify::Default), None);
        assert_eq!(run(RecipientState::Failed, ON), Some(Action::Failed));
    }

    #[test]
    fn a_damaged_message_is_reported_as_failed_once_and_an_operators_hold_is_not() {
        let report = |held_before: bool, status: EnhancedStatus, same: bool, notify: Notify| {
            let mut envelope = envelope();
            envelope.recipients = vec![Recipient { address: "x@y.example".parse().unwrap(), notify, original: None }];
            let cause = Cause::local(status, "damaged");
            let last = Outcome { at: Timestamp::ZERO, stage: Stage::Local, host: "".into(), address: None, cause };
            let mut before = Progress::new(1, Timestamp::ZERO);
            before.held = held_before;
            before.recipients[0].last = same.then(|| last.clone());
            let mut after = before.clone();
            after.held = true;
            after.recipients[0].last = Some(last);
            let (peer, wait) = (PeerReports::No, Duration::from_secs(3600));
            let events = due(&envelope, &before, &after, peer, Bounces::ByDefault, wait, envelope.accepted_at);
            events.first().map(|event| event.action)
        };
        assert_eq!(report(false, UNREADABLE, false, Notify::Default), Some(Action::Failed));
        assert_eq!(report(false, UNREADABLE, false, Notify::Never), None);
        assert_eq!(report(true, UNREADABLE, false, Notify::Default), None, "it was told when it was found");
        assert_eq!(report(false, UNREADABLE, true, Notify::Default), None, "held by an operator, after a restore");
        assert_eq!(report(false, EnhancedStatus::new(4, 3, 2), false, Notify::Default), None);
    }

    #[test]
    fn nothing_is_reported_twice() {
        let reported = |_: &mut Envelope, p: &mut Progress| p.delay_reported = true;
        assert_eq!(run(RecipientState::Pending, ON, reported), None);
        let ended = |_: &mut Envelope, p: &mut Progress| p.recipients[0].state = RecipientState::Failed;
        assert_eq!(run(RecipientState::Failed, ON, ended), None);
    }
}
