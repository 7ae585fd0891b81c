//! Messages that must be forgotten elsewhere before they may go: those of the maildrop, whose files must be gone first, or
//! a crash would send them twice.
//!
//! Called by `pickup`. The id is its choice, written down before the message is: after a crash it asks whether that id is
//! in the queue.

use tracing::info;

use crate::mail::{
    Cause, EnhancedStatus, Envelope, Marks, Outcome, Progress, QueueId, Recipient, RecipientState, Stage, Text,
};
use crate::message::{HeaderLimits, facts, scan};
use crate::queue::Withheld;
use crate::report::PeerReports;
use crate::spool::PutError;
use crate::time::Timestamp;

use super::conclude::{self, Told};
use super::settings::Stream;
use super::{Counting, Door, Receipt, Refusal, Submission, random};

/// A message that is durable. What of it was withheld goes when this is released or dropped.
#[must_use = "release it once its origin is forgotten"]
pub struct Kept {
    door: Door,
    receipt: Receipt,
    withheld: Option<Withheld>,
    blocked: (Vec<QueueId>, Timestamp),
}

impl Kept {
    pub(super) fn new(
        door: Door,
        receipt: Receipt,
        withheld: Option<Withheld>,
        blocked: (Vec<QueueId>, Timestamp),
    ) -> Kept {
        Kept { door, receipt, withheld, blocked }
    }

    /// What its client may be told.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Lets it go.
    pub async fn release(self) {
        let (blocked, now) = self.blocked;
        if let Some(withheld) = self.withheld {
            self.door.end_blocked(withheld, blocked, now).await;
        }
    }
}

impl Door {
    /// As [`Door::accept`], under this id, and withheld until the answer is released.
    ///
    /// # Errors
    /// As [`Door::accept`].
    pub async fn accept_withheld(&self, mut submission: Submission, id: QueueId) -> Result<Kept, Refusal> {
        let inward = self.take_out_ours(&mut submission);
        if !inward.is_empty() {
            let now = submission.received_at;
            let taken_in = self.take_in(&submission, inward).await?;
            if submission.recipients.is_empty() {
                return Ok(Kept::new(self.clone(), taken_in, None, (Vec::new(), now)));
            }
        }
        self.take_over_as(submission, Counting::Counted, Some(id)).await
    }

    /// Tells the sender of a message that was refused for good after its program was gone: a DSN under this id, withheld.
    /// `refusals`: one for each recipient, or for all that come after the last. `None`: nobody is to be told.
    ///
    /// # Errors
    /// It could not be kept; to be tried again.
    pub async fn return_refused(
        &self,
        submission: &Submission,
        refusals: &[Refusal],
        id: QueueId,
    ) -> Result<Option<Withheld>, PutError> {
        let settings = self.settings.load_full();
        let now = submission.received_at;
        let envelope = never_accepted(&settings, submission, self.queue.next_id(now));
        let before = envelope.untried();
        let mut after: Progress = before.clone();
        for (place, recipient) in after.recipients.iter_mut().enumerate() {
            let Some(refusal) = refusals.get(place).or(refusals.last()) else { continue };
            let status =
                EnhancedStatus::split(refusal.status).map_or(EnhancedStatus::new(5, 0, 0), |(status, _)| status);
            let cause = Cause::local(status, &refusal.text);
            recipient.state = RecipientState::Failed;
            recipient.last = Some(Outcome { at: now, stage: Stage::Local, host: "".into(), address: None, cause });
        }
        let events = conclude::events(&settings, &envelope, &before, &mut after, PeerReports::No, now);
        let told =
            Told { envelope: &envelope, progress: &after, events: &events, body: Some(submission.message.as_ref()) };
        let Some(dsn) = conclude::dsn(&settings, &told, id, random(), now) else { return Ok(None) };
        let (_, withheld) = self.queue.put_withheld(dsn).await?;
        info!(queue_id = %id, to = %envelope.reverse_path, recipients = envelope.recipients.len(), "refused, and its sender told");
        Ok(Some(withheld))
    }
}

/// The envelope that a refused message would have had, as far as a report says it.
fn never_accepted(settings: &super::Settings, submission: &Submission, id: QueueId) -> Envelope {
    let now = submission.received_at;
    let fallback = Stream::default();
    let stream = settings.streams.get(&settings.default_stream).unwrap_or(&fallback);
    let body = scan(&submission.message, HeaderLimits::NONE)
        .map(|header| facts(&submission.message, &header))
        .unwrap_or_default();
    let recipients = submission.recipients.iter().map(|(address, notify, original)| Recipient {
        address: address.clone(),
        notify: *notify,
        original: original.clone(),
    });
    Envelope {
        id,
        submission: id,
        accepted_at: now,
        release_at: now,
        put_off_by: Text::default(),
        held: false,
        expires_at: now,
        stream: settings.default_stream.clone(),
        kind: stream.kind,
        priority: stream.priority,
        credential: "".into(),
        pool: stream.pool.clone(),
        reverse_path: submission.reverse_path.clone(),
        return_path: None,
        ret: submission.ret,
        envid: submission.envid.clone(),
        author_domain: None,
        message_id: "".into(),
        marks: Marks::default(),
        added_headers: bytes::Bytes::new(),
        body,
        recipients: recipients.collect(),
    }
}
