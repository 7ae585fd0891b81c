//! The right to attempt one envelope, and the ways in which it ends.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Queue, Wish};
use crate::mail::{
    Attempt, Cause, EnhancedStatus, Envelope, Outcome, Progress, QueueId, RecipientState, Stage, UNREADABLE, Verdict,
};
use crate::retry;
use crate::spool::{Body, Place, ReadError, Ticket};
use crate::time::Timestamp;

/// How long an envelope waits whose record the disk could not read just now.
pub const UNREADABLE_WAIT: Duration = Duration::from_secs(15 * 60);

/// What `why` and the bounce say of it.
const UNCERTAIN_TEXT: &str = "the connection was lost after the final dot: the message may have been delivered";

/// The right to attempt one envelope: at most one exists for each. Given back by [`Queue::settle`], or by dropping it,
/// which leaves the envelope as it was. Drop after [`Lease::final_dot_sent`] settles it as uncertain.
#[must_use = "an envelope stays leased until it is settled or the lease dropped"]
pub struct Lease {
    queue: Queue,
    envelope: Arc<Envelope>,
    progress: Progress,
    place: Place,
    /// Of a just accepted message.
    body: Option<Body>,
    dot_sent: bool,
    /// Why the body could not be read, if that was tried: dropping the lease then holds or defers the envelope.
    fault: OnceLock<ReadError>,
    /// It was settled, and dropping it means nothing.
    ended: bool,
    /// An operator's order has it, so that no connection tells the scheduler of its end; whether its row is held.
    order: Option<bool>,
}

impl Lease {
    pub(super) fn new(queue: Queue, envelope: Arc<Envelope>, progress: Progress, place: Place) -> Lease {
        let envelope = queue.respited(envelope);
        Lease {
            queue,
            envelope,
            progress,
            place,
            body: None,
            dot_sent: false,
            fault: OnceLock::new(),
            ended: false,
            order: None,
        }
    }

    pub(super) fn with_body(mut self, body: Body) -> Lease {
        self.body = Some(body);
        self
    }

    pub(super) fn for_order(mut self, held: bool) -> Lease {
        self.order = Some(held);
        self
    }

    /// Whether an operator's order has it.
    pub(super) fn is_order(&self) -> bool {
        self.order.is_some()
    }

    /// Whether this state ends a hold that stands in memory alone, since the record could not be read before.
    pub(super) fn releases(&self, after: &Progress) -> bool {
        self.order == Some(true) && !after.held
    }

    /// As accepted.
    pub fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }

    /// As last settled.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Marks that the peer may have taken the message: from here on an unclean end is uncertain (RFC 1047).
    pub fn final_dot_sent(&mut self) {
        self.dot_sent = true;
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn hot_body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    pub(super) fn fault(&self) -> Option<&ReadError> {
        self.fault.get()
    }

    pub(super) fn set_fault(&self, error: ReadError) {
        let _ = self.fault.set(error);
    }

    /// The lease's end by a settle: what is left of it.
    pub(super) fn end(mut self) -> (Arc<Envelope>, Progress) {
        self.ended = true;
        let empty = Progress::new(0, Timestamp::ZERO);
        (Arc::clone(&self.envelope), std::mem::replace(&mut self.progress, empty))
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.envelope.id).field("dot_sent", &self.dot_sent).finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let id = self.envelope.id;
        let now = self.queue.now();
        let mut after = self.progress.clone();
        if self.dot_sent {
            uncertain(&mut after, now, self.envelope.expires_at);
        } else if let Some(error) = self.fault.get() {
            unread(&mut after, error, now);
        }
        if let Some(wish) = self.queue.shared.take_wish(id) {
            grant(&mut after, wish);
        }
        match after == self.progress {
            true => self.queue.give_back(id),
            // Nobody waits for it: the spool writes what it was given, whether its ticket is awaited or not.
            false => drop(self.queue.settle_unasked(&self.envelope, &self.progress, after)),
        }
    }
}

/// A settle on its way to the disk.
#[must_use = "the next final dot on this connection must wait for `written`"]
pub struct Settling {
    pub(super) ticket: Ticket,
    pub(super) id: QueueId,
}

impl Settling {
    /// Waits until the record is written (it survives `kill -9`); synced within 10 ms after.
    pub async fn written(self) {
        if !self.ticket.written().await {
            // The envelope stays leased in memory, so that nobody attempts again what may have been delivered.
            tracing::error!(queue_id = %self.id, "the outcome of an attempt could not be written: the spool is closed");
        }
    }
}

/// Applies an attempt whose answer to the final dot never came, to every pending recipient.
pub(super) fn uncertain(progress: &mut Progress, now: Timestamp, expires_at: Timestamp) {
    let cause = Cause::local(EnhancedStatus::new(4, 4, 2), UNCERTAIN_TEXT);
    let outcome = Outcome { at: now, stage: Stage::FinalDot, host: "".into(), address: None, cause };
    // Most such messages were taken, and each new attempt is one more copy in the mailbox.
    let wait = retry::uncertain_wait(progress.uncertain.saturating_add(1));
    let verdict = match wait {
        Some(_) => Verdict::Deferred(outcome),
        None => Verdict::Failed(outcome),
    };
    let pending = progress.recipients.iter().enumerate().filter(|(_, r)| r.state == RecipientState::Pending);
    let verdicts = pending.map(|(place, _)| (place, verdict.clone())).collect();
    let due = now.after(wait.unwrap_or_default());
    let source = progress.source.clone();
    progress.settle(Attempt { verdicts, due, counts: true, uncertain: true, source }, now, expires_at);
}

/// The body could not be read: damaged, it is held for people to look at; else the disk gets another chance later.
fn unread(progress: &mut Progress, error: &ReadError, now: Timestamp) {
    let text = format!("the message could not be read from the spool: {error}");
    let cause = Cause::local(UNREADABLE, &text);
    let outcome = Outcome { at: now, stage: Stage::Local, host: "".into(), address: None, cause };
    for recipient in progress.recipients.iter_mut().filter(|r| !r.state.is_final()) {
        recipient.last = Some(outcome.clone());
    }
    match error {
        ReadError::Damaged => progress.held = true,
        ReadError::Gone | ReadError::Unreadable(_) => progress.due = now.after(UNREADABLE_WAIT),
    }
}

/// What an operator asked for while the envelope was being attempted.
pub(super) fn grant(progress: &mut Progress, wish: Wish) {
    match wish {
        Wish::Hold => progress.held = !progress.is_final(),
        Wish::Delete => progress.end(RecipientState::Deleted, None),
    }
}

/// Settled by a lease whose body could not be read: what the attempt said, and held if the body is damaged.
pub(super) fn hold_if_damaged(progress: &mut Progress, fault: Option<&ReadError>) {
    if fault == Some(&ReadError::Damaged) && !progress.is_final() {
        progress.held = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_answer_is_tried_again_three_times_and_then_fails() {
        let now = Timestamp::from_secs(1_000_000);
        let mut progress = Progress::new(2, Timestamp::ZERO);
        for (times, wait_secs) in [(1, 900), (2, 3600), (3, 14_400)] {
            uncertain(&mut progress, now, Timestamp::NEVER);
            assert_eq!(progress.uncertain, times);
            assert_eq!(progress.due, now.after(Duration::from_secs(wait_secs)));
            assert!(!progress.is_final());
        }
        uncertain(&mut progress, now, Timestamp::NEVER);
        assert!(progress.recipients.iter().all(|r| r.state == RecipientState::Failed));
        let said = progress.recipients[0].last.as_ref().unwrap().cause.to_string();
        assert!(said.contains("may have been delivered"), "{said}");
    }

    #[test]
    fn an_unreadable_body_waits_and_a_damaged_one_is_held() {
        let now = Timestamp::from_secs(1_000_000);
        for (error, held) in [(ReadError::Damaged, true), (ReadError::Unreadable("EIO".to_owned()), false)] {
            let mut progress = Progress::new(1, Timestamp::ZERO);
            unread(&mut progress, &error, now);
            assert_eq!(progress.held, held, "{error}");
            assert_eq!(progress.due > now, !held);
            assert!(progress.recipients[0].last.as_ref().unwrap().cause.to_string().contains("could not be read"));
        }
    }
}
