//! What a recipient meets to whom nothing is sent: refused at RCPT where the listener says so, else accepted and ended as
//! suppressed, and looked at again before the first packet of every attempt.

use std::fmt;

use tracing::info;

use crate::events::Suppressing;
use crate::mail::{
    Address, Cause, EnhancedStatus, Envelope, Outcome, Progress, QueueId, RecipientState, ReversePath, Stage,
    StreamKind,
};
use crate::queue::{Lease, Settling, Withheld};
use crate::report::PeerReports;
use crate::suppression::{Entry, Suppressions};
use crate::time::Timestamp;

use super::quota::Exempt;
use super::settings::Settings;
use super::{Door, Refusal};

/// RFC 3463 §3.8: delivery not authorized.
const STATUS: EnhancedStatus = EnhancedStatus::new(5, 7, 1);

/// Recipients of an envelope that get nothing, by their place in it, and why.
pub type Blocked = Vec<(usize, Entry)>;

impl Door {
    /// The same door, which asks this list.
    pub fn with_suppressions(self, suppressions: Suppressions) -> Door {
        Door { suppressions: Some(suppressions), ..self }
    }

    /// To whom nothing is sent.
    pub fn suppressions(&self) -> Option<&Suppressions> {
        self.suppressions.as_ref()
    }

    /// Whether mail of a credential (or a trusted network, `None`) may go to this recipient: asked at RCPT where the
    /// listener refuses. A control header may choose another stream later; then the message's end decides.
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn check_recipient(
        &self,
        credential: Option<&str>,
        listener_stream: Option<&str>,
        address: &Address,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Some(list) = &self.suppressions else { return Ok(()) };
        let settings = self.settings.load();
        let rights = credential.and_then(|name| settings.credentials.get(name));
        let own = rights.and_then(|rights| rights.stream.as_deref()).or(listener_stream);
        let stream = own.unwrap_or(&settings.default_stream);
        let kind = settings.streams.get(stream).map_or(StreamKind::Transactional, |stream| stream.kind);
        let bypassed = rights.map_or(&[][..], |rights| &rights.bypass);
        match list.blocking_but(address, kind, stream, bypassed, now) {
            None => Ok(()),
            Some(entry) => {
                self.events.suppressed(Suppressing::Refused, entry.cause.name());
                let text = format!("<{address}>: {}", Words { entry: &entry, with_evidence: false });
                Err(Refusal { code: 550, status: "5.7.1", text })
            }
        }
    }

    /// Those of an envelope's pending recipients that get nothing now.
    pub fn blocked(&self, envelope: &Envelope, progress: &Progress, now: Timestamp) -> Blocked {
        let Some(list) = &self.suppressions else { return Blocked::new() };
        let settings = self.settings.load();
        let bypassed = settings.credentials.get(&envelope.credential).map_or(&[][..], |rights| &rights.bypass);
        let places = envelope.recipients.iter().zip(&progress.recipients).enumerate();
        let pending = places.filter(|(_, (_, at))| at.state == RecipientState::Pending);
        let wanted = pending.filter(|(_, (recipient, _))| !is_alarm(&settings, envelope, &recipient.address));
        wanted
            .filter_map(|(place, (recipient, _))| {
                let found = list.blocking_but(&recipient.address, envelope.kind, &envelope.stream, bypassed, now)?;
                Some((place, found))
            })
            .collect()
    }

    /// Ends these recipients as suppressed; their sender is told as of other failures. The others stay as they are.
    ///
    /// # Cancel safety
    /// As [`Door::conclude`].
    pub async fn suppress(&self, lease: Lease, blocked: &Blocked, now: Timestamp) -> Settling {
        blocked.iter().for_each(|(_, entry)| self.events.suppressed(Suppressing::Waiting, entry.cause.name()));
        let after = after_suppressed(lease.progress(), blocked, now);
        self.settle(lease, after, PeerReports::No, now).await
    }

    /// Of a message that comes in: to whom nothing will go, so that it uses up nothing.
    pub(super) fn exempt(&self, envelopes: &[Envelope], now: Timestamp) -> Exempt {
        let of = |envelope: &Envelope| {
            let blocked = self.blocked(envelope, &envelope.untried(), now).into_iter();
            let found = blocked.filter_map(|(place, _)| Some(envelope.recipients.get(place)?.address.clone()));
            found.collect::<Vec<_>>()
        };
        envelopes.iter().flat_map(of).collect()
    }

    /// Of a message that comes in: which of its envelopes have recipients that get nothing.
    pub(super) fn with_blocked(&self, envelopes: &[Envelope], now: Timestamp) -> Vec<QueueId> {
        let has_blocked = |envelope: &&Envelope| !self.blocked(envelope, &envelope.untried(), now).is_empty();
        envelopes.iter().filter(has_blocked).map(|envelope| envelope.id).collect()
    }

    /// Tells of those of an envelope's pending recipients that get it in spite of the list, since its credential may.
    pub fn tell_bypassed(&self, envelope: &Envelope, progress: &Progress, now: Timestamp) {
        let Some(list) = &self.suppressions else { return };
        let settings = self.settings.load();
        let Some(rights) = settings.credentials.get(&envelope.credential).filter(|r| !r.bypass.is_empty()) else {
            return;
        };
        let places = envelope.recipients.iter().zip(&progress.recipients);
        for (recipient, _) in places.filter(|(_, at)| at.state == RecipientState::Pending) {
            let blocking =
                |bypassed| list.blocking_but(&recipient.address, envelope.kind, &envelope.stream, bypassed, now);
            if let (Some(entry), None) = (blocking(&[]), blocking(&rights.bypass)) {
                self.events.suppressed(Suppressing::Bypassed, entry.cause.name());
                info!(
                    queue_id = %envelope.id,
                    recipient = %recipient.address,
                    credential = &*envelope.credential,
                    cause = entry.cause.name(),
                    "sent in spite of the suppression list: the credential may"
                );
            }
        }
    }

    /// Ends what [`Door::with_blocked`] found, once it is kept and before a connection can have it.
    pub(super) async fn end_blocked(&self, mut withheld: Withheld, ids: Vec<QueueId>, now: Timestamp) {
        for id in ids {
            // What cannot be read is looked at again before its first attempt.
            let Ok(lease) = withheld.lease(id).await else { continue };
            let blocked = self.blocked(lease.envelope(), lease.progress(), now);
            if blocked.is_empty() {
                continue;
            }
            blocked.iter().for_each(|(_, entry)| self.events.suppressed(Suppressing::Accepted, entry.cause.name()));
            let after = after_suppressed(lease.progress(), &blocked, now);
            // Its record is written behind the message's, whether that is awaited or not.
            drop(self.settle(lease, after, PeerReports::No, now).await);
        }
    }
}

/// An alarm to the postmaster is sent whatever the list says of him: nobody else would hear of it.
fn is_alarm(settings: &Settings, envelope: &Envelope, to: &Address) -> bool {
    envelope.reverse_path == ReversePath::Null && settings.postmaster.as_ref() == Some(to)
}

fn after_suppressed(before: &Progress, blocked: &Blocked, now: Timestamp) -> Progress {
    let mut after = before.clone();
    for (place, entry) in blocked {
        let Some(recipient) = after.recipients.get_mut(*place).filter(|r| !r.state.is_final()) else { continue };
        let words = Words { entry, with_evidence: true }.to_string();
        recipient.state = RecipientState::Suppressed;
        let (host, address) = recipient.last.take().map_or(("".into(), None), |last| (last.host, last.address));
        recipient.last =
            Some(Outcome { at: now, stage: Stage::Local, host, address, cause: Cause::local(STATUS, &words) });
    }
    after
}

/// Why an address gets nothing, in a line.
struct Words<'a> {
    entry: &'a Entry,
    with_evidence: bool,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.entry.added_at.rfc3339();
        let date = date.get(..10).unwrap_or(&date);
        write!(f, "this address is on the suppression list since {date}: {}", self.entry.cause.name())?;
        match self.with_evidence && !self.entry.evidence.is_empty() {
            true => write!(f, " ({})", self.entry.evidence),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppression::{self, Scope};

    const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

    #[test]
    fn only_pending_recipients_are_ended_and_the_reason_is_told() {
        let entry = Entry {
            evidence: "550 5.1.1 no such user".into(),
            ..Entry::new(Scope::All, suppression::Cause::HardBounce, NOW)
        };
        let mut before = Progress::new(3, NOW);
        before.recipients[1].state = RecipientState::Delivered;
        let blocked = vec![(0, entry.clone()), (1, entry.clone()), (9, entry)];
        let after = after_suppressed(&before, &blocked, NOW);
        let states: Vec<_> = after.recipients.iter().map(|recipient| recipient.state).collect();
        assert_eq!(states, [RecipientState::Suppressed, RecipientState::Delivered, RecipientState::Pending]);
        assert_eq!(
            after.recipients[0].last.as_ref().unwrap().cause.to_string(),
            "this address is on the suppression list since 2026-11-21: hard_bounce (550 5.1.1 no such user)"
        );
    }

    #[test]
    fn only_a_letter_of_ours_to_the_postmaster_goes_in_spite_of_the_list() {
        let mut settings = Settings::new("relay.example.com".parse().unwrap());
        settings.postmaster = Some("me@example.com".parse().unwrap());
        let mut envelope = crate::queue::samples::envelope(1);
        let (me, other): (Address, Address) = ("me@example.com".parse().unwrap(), "x@example.com".parse().unwrap());
        assert!(!is_alarm(&settings, &envelope, &me));
        envelope.reverse_path = ReversePath::Null;
        assert!(is_alarm(&settings, &envelope, &me) && !is_alarm(&settings, &envelope, &other));
        settings.postmaster = None;
        assert!(!is_alarm(&settings, &envelope, &me));
    }
}
