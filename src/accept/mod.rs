//! The one way in: checks, stamps, tags and splits a message, and puts it into the queue. Our own DSNs take the same
//! door.
//!
//! Called by `submission` (accept), `delivery` (conclude), `scheduler` (conclude, expire) and, through a closure of the
//! roof, `http` (bounce). It never connects to anything, and never decides when mail goes.

mod conclude;
mod intake;
mod letterhead;
mod observe;
mod prepare;
mod quota;
mod rewriting;
mod settings;
mod suppressed;
mod withheld;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tracing::{debug, warn};

use crate::alarm::{Alarms, Notice};
use crate::classify;
use crate::events::{Events, Made, OverQuota, RefusedAt};
use crate::harm::Harm;
use crate::ledger::Ledger;
use crate::mail::{Address, Attempt, Envelope, Notify, Prepared, Progress, QueueId, Return, ReversePath, Text};
use crate::maillog;
use crate::message::Families;
use crate::queue::{Lease, Queue, Reporter, Settling};
use crate::report::Action;
pub use crate::report::{Bounces, PeerReports};
use crate::signer::Verifier;
use crate::spool::{DurableSeq, PutError};
use crate::suppression::Suppressions;
use crate::time::Timestamp;

use conclude::{End, Told};
use intake::Intake;
pub use letterhead::REPORTS_AFTER;
pub use observe::{Learned, Observed, Via};
use quota::{Denied, Exempt, Quotas, Rules, Taken};
pub use settings::{DEFAULT_STREAM, Over, Rights, RouteRule, SenderDomain, Sending, Settings, Stream};
pub use suppressed::Blocked;
pub use withheld::Kept;

/// Where a submission came from: for its Received header, its stream and its rights.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client's address; `None` for HTTP over the unix socket and for ourselves.
    pub client: Option<SocketAddr>,
    /// What it said in EHLO, a safe argument.
    pub hello: Text,
    /// The Received keyword: ESMTP, ESMTPS, ESMTPA, ESMTPSA (RFC 3848), UTF8SMTPSA (RFC 6531) …
    pub protocol: &'static str,
    /// `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384`, if under TLS.
    pub tls: Option<Text>,
    /// The credential that authenticated; `None` for a trusted network.
    pub credential: Option<Text>,
    /// From anyone: nothing of it is relayed, and its recipients are addresses of ours.
    pub from_anyone: bool,
    /// The stream that the listener names, if any.
    pub listener_stream: Option<Text>,
    /// Whose control headers count, if there is no credential.
    pub listener_control: Families,
    /// `received = "hide-client"`: the Received header names neither client nor EHLO name.
    pub hide_client: bool,
    /// RFC 6409 §8: a submission, whose missing headers are added; a relayed message gets none but Received.
    pub fix_headers: bool,
    /// The connection's name in the classic log; `None` where there is none.
    pub session: Option<maillog::Session>,
}

/// A message as a client handed it in.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who from.
    pub origin: Origin,
    /// MAIL FROM.
    pub reverse_path: ReversePath,
    /// RFC 3461.
    pub ret: Option<Return>,
    /// RFC 3461, xtext as it came.
    pub envid: Option<Text>,
    /// RFC 4865: not before this.
    pub release_at: Option<Timestamp>,
    /// RCPT TO, in order; duplicates are removed at the door.
    pub recipients: Vec<(Address, Notify, Option<Text>)>,
    /// The message after dot-unstuffing: every line ended by CRLF; no bare CR or LF, no NUL (the SMTP session saw to
    /// that).
    pub message: Bytes,
    /// When its last byte came.
    pub received_at: Timestamp,
}

/// Why a message is refused: exactly what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {status} {text}")]
pub struct Refusal {
    /// SMTP code.
    pub code: u16,
    /// Enhanced status, `5.7.1`.
    pub status: &'static str,
    /// One sentence that says what would be right.
    pub text: String,
}

/// A message that is now ours.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// What the client reads after "queued as".
    pub id: QueueId,
    /// Proof that it may be told so.
    pub durable: DurableSeq,
}

/// The door's handle. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    queue: Queue,
    events: Events,
    alarms: Alarms,
    settings: Arc<ArcSwap<Settings>>,
    quotas: Arc<Quotas>,
    suppressions: Option<Suppressions>,
    harm: Harm,
    intake: Intake,
    /// Looks at reports that come in; `None`: nobody does.
    verifier: Option<Verifier>,
    /// What replies mean.
    rules: Arc<ArcSwap<classify::Rules>>,
}

/// Whether a message counts against quotas and caps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counting {
    /// A client's.
    Counted,
    /// Ours, which must go out whatever clients did.
    Free,
}

impl Door {
    /// A door into this queue.
    pub fn new(queue: Queue, events: Events, settings: Settings) -> Door {
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let rules = Arc::new(ArcSwap::new(classify::Rules::shipped()));
        Door {
            queue,
            events,
            alarms: Alarms::default(),
            settings,
            quotas: Arc::default(),
            suppressions: None,
            harm: Harm::default(),
            intake: Intake::default(),
            verifier: None,
            rules,
        }
    }

    /// The same door, with the alarms that the whole house shares.
    pub fn with_alarms(self, alarms: Alarms) -> Door {
        Door { alarms, ..self }
    }

    /// The same door, which has SPF and DKIM of reports looked at.
    pub fn with_verifier(self, verifier: Verifier) -> Door {
        Door { verifier: Some(verifier), ..self }
    }

    /// Says what replies mean from now on.
    pub fn set_rules(&self, rules: Arc<classify::Rules>) {
        self.rules.store(rules);
    }

    /// What an operator must look at.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Where what happens is told.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// For [`Queue::set_reporter`]: what is told of the settles that the queue makes itself (an operator's order, a lease
    /// that was dropped past its dot). The report has no body: there is no lease to read it by.
    pub fn reporter(&self) -> Reporter {
        let door = self.clone();
        Arc::new(move |envelope, before, after| {
            let settings = door.settings.load();
            let now =
                after.recipients.iter().filter_map(|r| r.last.as_ref()).map(|last| last.at).max().unwrap_or_default();
            let mut after = after.clone();
            let told = conclude::events(&settings, envelope, before, &mut after, PeerReports::No, now);
            door.events.outcomes(envelope, before, &after, now);
            door.report(&settings, &Told { envelope, progress: &after, events: &told, body: None }, now)
        })
    }

    /// Replaces the settings. What is being accepted at this moment ends under the old ones.
    pub fn reload(&self, settings: Settings) {
        self.quotas.keep_only(&settings);
        self.settings.store(Arc::new(settings));
    }

    /// Takes up what was taken of quotas before this start. Blocks.
    pub fn restore_quotas(&self) {
        self.quotas.restore(self.ledger().quotas().into_iter());
    }

    /// Writes down what was taken of quotas since the last time. A quota is no promise to a peer, so it need not be durable
    /// before it is spent: what was taken between the last of these and a crash is forgotten.
    pub async fn keep_quotas(&self, now: Timestamp) {
        let ledger = self.ledger();
        for (name, record) in self.quotas.records(now) {
            ledger.keep_quota(name, record).await;
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger::new(self.queue.spool().clone())
    }

    /// Who is meant by `RCPT TO:<postmaster>` (RFC 5321 §4.1.1.3), if the config says.
    pub fn postmaster(&self) -> Option<Address> {
        self.settings.load().postmaster.clone()
    }

    /// Whether a credential (or a trusted network, `None`) may use this envelope sender: asked at MAIL FROM, so that
    /// the client learns it before it sends the body. On a full disk nobody may (RFC 1870 §6.1: 452).
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn check_sender(&self, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal> {
        let checked = self.check_suspended(credential);
        let checked = checked.and_then(|()| prepare::check_sender(&self.settings.load(), credential, path));
        let checked = match self.queue.spool().is_full() {
            true => checked.and(Err(Refusal::full())),
            false => checked,
        };
        checked.inspect_err(|refusal| self.events.refused(RefusedAt::Sender, refusal.status))
    }

    /// Whether a credential may send at all: sessions outlive its suspension.
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn check_suspended(&self, credential: Option<&str>) -> Result<(), Refusal> {
        match credential.is_some_and(|name| self.harm.is_suspended(name)) {
            true => Err(Refusal { code: 535, status: "5.7.8", text: "This credential is suspended".to_owned() }),
            false => Ok(()),
        }
    }

    /// Takes a message over: after this returns Ok it is on the disk and ours.
    ///
    /// # Errors
    /// The refusal to answer; nothing was kept.
    ///
    /// # Cancel safety
    /// Dropped while waiting, the message may or may not have been kept; no 250 was answered, so the client sends it
    /// again.
    pub async fn accept(&self, submission: Submission) -> Result<Receipt, Refusal> {
        let accepted = self.take_over_or_in(submission).await;
        accepted.inspect_err(|refusal| self.events.refused(RefusedAt::Message, refusal.status))
    }

    /// Mail to tokens, and all mail from anyone, is taken in; the rest of a client's message goes on.
    async fn take_over_or_in(&self, mut submission: Submission) -> Result<Receipt, Refusal> {
        let inward = self.take_out_ours(&mut submission);
        if inward.is_empty() {
            return self.take_over(submission, Counting::Counted).await;
        }
        let taken_in = self.take_in(&submission, inward).await?;
        match submission.recipients.is_empty() {
            true => Ok(taken_in),
            false => self.take_over(submission, Counting::Counted).await,
        }
    }

    /// Tells the postmaster of an alarm: a message of ours as any other, from nobody, so that nothing ever comes back of it.
    /// `None`: the config names no postmaster.
    ///
    /// # Errors
    /// As [`Door::accept`]; on a full disk it is to be tried again later.
    pub async fn tell_postmaster(&self, notice: &Notice, now: Timestamp) -> Result<Option<Receipt>, Refusal> {
        let settings = self.settings.load_full();
        let Some(postmaster) = settings.postmaster.clone() else { return Ok(None) };
        let letter = notice.letter(&settings.hostname, &postmaster.to_string());
        let origin = Origin {
            client: None,
            hello: "".into(),
            protocol: "local",
            tls: None,
            credential: None,
            from_anyone: false,
            listener_stream: Some(settings.dsn_stream.clone()),
            listener_control: Families::default(),
            hide_client: false,
            fix_headers: true,
            session: None,
        };
        let submission = Submission {
            origin,
            reverse_path: ReversePath::Null,
            ret: None,
            envid: None,
            // RFC 3461 §4.1: a mail from nobody asks for no report.
            recipients: vec![(postmaster, Notify::Never, None)],
            message: letter.into(),
            release_at: None,
            received_at: now,
        };
        self.take_over(submission, Counting::Free).await.map(Some)
    }

    async fn take_over(&self, submission: Submission, counting: Counting) -> Result<Receipt, Refusal> {
        let kept = self.take_over_as(submission, counting, None).await?;
        let receipt = kept.receipt().clone();
        kept.release().await;
        Ok(receipt)
    }

    /// Keeps a message; under this id, and withheld, if one is given.
    async fn take_over_as(
        &self,
        mut submission: Submission,
        counting: Counting,
        given: Option<QueueId>,
    ) -> Result<Kept, Refusal> {
        let (now, client) = (submission.received_at, submission.origin.client);
        let session = submission.origin.session;
        self.check_suspended(submission.origin.credential.as_deref())?;
        let settings = self.settings.load_full();
        let deed = rewriting::rewrite(&settings, &mut submission, counting)?;
        if deed.discarded {
            let id = given.unwrap_or_else(|| self.queue.next_id(now));
            deed.tell(id);
            let durable = self.queue.spool().prove().await.map_err(|_| Refusal::closed())?;
            return Ok(Kept::new(self.clone(), Receipt { id, durable }, None, (Vec::new(), now)));
        }
        let mut admitted = {
            let mut first = given;
            let mut next_id = || first.take().unwrap_or_else(|| self.queue.next_id(now));
            prepare::prepare(&settings, submission, &deed, &mut next_id)?
        };
        let taken = match counting {
            Counting::Counted => {
                let envelopes = &mut admitted.prepared.envelopes;
                let taken = self.admit(&admitted.rules, envelopes, now)?;
                // After the quotas, which may split an envelope: a return path names its own.
                letterhead::give(&settings, &admitted.head, envelopes);
                taken
            }
            Counting::Free => Taken::default(),
        };
        if deed.held {
            admitted.prepared.envelopes.iter_mut().for_each(|envelope| envelope.held = true);
        }
        if letterhead::weight(&admitted.prepared.envelopes) > ENVELOPES_BYTES_MAX {
            self.quotas.give_back(&taken);
            return Err(Refusal::too_many(&admitted.prepared.envelopes));
        }
        // `prepare` makes one envelope at least.
        let Some(first) = admitted.prepared.envelopes.first() else { return Err(Refusal::closed()) };
        let id = first.id;
        deed.tell(id);
        if let Some(warning) = admitted.warning {
            warn!(queue_id = %id, credential = %first.credential, "{warning}");
        }
        if let Some(field) = admitted.ignored {
            debug!(queue_id = %id, credential = %first.credential, %field, "its control_headers do not allow this header");
        }
        let blocked = self.with_blocked(&admitted.prepared.envelopes, now);
        // Kept for the log's line, which is a fact only after the put.
        let envelopes = self.events.are_written().then(|| admitted.prepared.envelopes.clone());
        let (stream, kind) = (first.stream.clone(), first.kind);
        let recipients = admitted.prepared.envelopes.iter().map(|envelope| envelope.recipients.len()).sum();
        let put = match given {
            None if blocked.is_empty() => self.queue.put(admitted.prepared).await.map(|durable| (durable, None)),
            // Or some of it must be ended before a connection can have it.
            Some(_) | None => {
                let put = self.queue.put_withheld(admitted.prepared).await;
                put.map(|(durable, withheld)| (durable, Some(withheld)))
            }
        };
        match put {
            Ok((durable, withheld)) => {
                self.events.taken(&stream, kind, recipients);
                if let (Some(session), Some(client)) = (session, client) {
                    let user =
                        envelopes.as_deref().and_then(<[Envelope]>::first).map_or("", |first| &*first.credential);
                    self.events.came_over(session, id, client, user);
                }
                self.events.accepted(recipients, envelopes.as_deref().unwrap_or_default(), client);
                self.count_put_off(&taken, &stream);
                Ok(Kept::new(self.clone(), Receipt { id, durable }, withheld, (blocked, now)))
            }
            Err(error) => {
                self.quotas.give_back(&taken);
                Err(match error {
                    PutError::Full => Refusal::full(),
                    PutError::Closed => Refusal::closed(),
                })
            }
        }
    }

    /// Sets when a message may go by quotas and caps, or refuses it.
    fn admit(&self, rules: &Rules, envelopes: &mut Vec<Envelope>, now: Timestamp) -> Result<Taken, Refusal> {
        let exempt = match rules.are_none() {
            true => Exempt::default(),
            false => self.exempt(envelopes, now),
        };
        let stream = envelopes.first().map(|envelope| envelope.stream.clone()).unwrap_or_default();
        let admitted = self.quotas.admit(rules, envelopes, &exempt, now, &mut || self.queue.next_id(now));
        admitted.map_err(|denied| match denied {
            Denied::Quota(refusal, recipients) => {
                self.events.over_quota(OverQuota::Refused, recipients);
                refusal
            }
            Denied::Cap(refusal) => {
                self.events.capped(&stream);
                refusal
            }
        })
    }

    fn count_put_off(&self, taken: &Taken, stream: &str) {
        if taken.queued > 0 {
            self.events.over_quota(OverQuota::Queued, taken.queued);
        }
        (0..taken.capped).for_each(|_| self.events.capped(stream));
    }

    /// Ends an attempt: settles the envelope, and writes what its sender must hear (a DSN) in the same record. Success
    /// that was to be reported is reported as "relayed": right for a peer without DSN, see [`Door::conclude_with`].
    ///
    /// # Cancel safety
    /// Waits only where a report is due, for the body, and where an address is suppressed, for the disk. Dropped there, the
    /// lease is dropped, with what that means.
    pub async fn conclude(&self, lease: Lease, attempt: Attempt, now: Timestamp) -> Settling {
        self.conclude_with(lease, attempt, PeerReports::No, Via::default(), now).await
    }

    /// As [`Door::conclude`], for a peer that may have taken over to report success: it offered DSN, and was sent the
    /// NOTIFY parameters (RFC 3461 §5.2.1). What the peer said of recipients is learned first.
    ///
    /// # Cancel safety
    /// As [`Door::conclude`].
    pub async fn conclude_with(
        &self,
        lease: Lease,
        attempt: Attempt,
        peer: PeerReports,
        via: Via<'_>,
        now: Timestamp,
    ) -> Settling {
        let verdicts = attempt.verdicts.clone();
        let after = conclude::after_attempt(lease.envelope(), lease.progress(), attempt, now);
        self.learn(lease.envelope(), lease.progress(), &after, &verdicts, via, now).await;
        self.settle_made(lease, after, peer, via.made, now).await
    }

    /// Ends an envelope whose longest age has passed; its sender is told.
    ///
    /// # Cancel safety
    /// As [`Door::conclude`].
    pub async fn expire(&self, lease: Lease, now: Timestamp) -> Settling {
        self.learn_expired(lease.envelope(), lease.progress(), now).await;
        self.end(lease, End::Expired, now).await
    }

    /// Returns an envelope to its sender by an operator's order.
    ///
    /// # Cancel safety
    /// As [`Door::conclude`].
    pub async fn bounce(&self, lease: Lease, now: Timestamp) -> Settling {
        self.end(lease, End::Bounced, now).await
    }

    /// Removes an envelope by an operator's order; nobody is told.
    pub async fn delete(&self, lease: Lease, now: Timestamp) -> Settling {
        self.end(lease, End::Deleted, now).await
    }

    async fn end(&self, lease: Lease, end: End, now: Timestamp) -> Settling {
        let after = conclude::after_end(lease.progress(), end, now);
        self.settle(lease, after, PeerReports::No, now).await
    }

    async fn settle(&self, lease: Lease, after: Progress, peer: PeerReports, now: Timestamp) -> Settling {
        self.settle_made(lease, after, peer, Made::default(), now).await
    }

    async fn settle_made(
        &self,
        lease: Lease,
        mut after: Progress,
        peer: PeerReports,
        made: Made,
        now: Timestamp,
    ) -> Settling {
        let settings = self.settings.load_full();
        let events = conclude::events(&settings, lease.envelope(), lease.progress(), &mut after, peer, now);
        let body = match events.is_empty() {
            true => None,
            // A bounce without the message is better than none.
            false => self.queue.body(&lease).await.ok(),
        };
        // Nothing is awaited from here on: what is logged is what the spool is given, unless the process dies between.
        self.events.outcomes_of(lease.envelope(), lease.progress(), &after, made, now);
        let told = Told { envelope: lease.envelope(), progress: &after, events: &events, body: body.as_deref() };
        let dsn = self.report(&settings, &told, now);
        self.queue.settle(lease, after, dsn)
    }

    fn report(&self, settings: &Settings, told: &Told<'_>, now: Timestamp) -> Option<Prepared> {
        if told.events.is_empty() {
            return None;
        }
        let mut dsn = conclude::dsn(settings, told, self.queue.next_id(now), random(), now)?;
        let template = dsn.envelopes.pop()?;
        dsn.envelopes = prepare::addressed(settings, template, &mut || self.queue.next_id(now));
        let envelope = dsn.envelopes.first()?;
        // A report may tell of several things; a failure is what its reader must know.
        let has_failed = told.events.iter().any(|event| event.action == Action::Failed);
        let what = told.events.first().filter(|_| !has_failed).map_or(Action::Failed, |event| event.action);
        self.events.reported(told.envelope.id, envelope, told.events.len(), what);
        Some(dsn)
    }
}

/// Most that the envelopes of one message may take up. One record holds them all, so that no crash parts them, and the
/// spool reads none of more than 256 MiB. A newsletter to 100,000 readers fits. Unit: octets.
const ENVELOPES_BYTES_MAX: usize = 192 << 20;

/// Keeps a boundary from being guessed by whoever wrote the message that a report returns.
fn random() -> u64 {
    let mut octets = [0; 8];
    match getrandom::fill(&mut octets) {
        Ok(()) => u64::from_be_bytes(octets),
        Err(_) => fastrand::u64(..),
    }
}

impl Refusal {
    /// 552: so many envelopes do not fit into one record.
    fn too_many(envelopes: &[Envelope]) -> Refusal {
        let text = format!(
            "Error: {} recipients with these tags and metadata are too many for one message; hand it in in parts",
            envelopes.iter().map(|envelope| envelope.recipients.len()).sum::<usize>()
        );
        Refusal { code: 552, status: "5.5.3", text }
    }

    /// 452: no room now.
    fn full() -> Refusal {
        let text = "Insufficient system storage; try again later".to_owned();
        Refusal { code: 452, status: "4.3.1", text }
    }

    /// 451: the daemon stops, or cannot write.
    fn closed() -> Refusal {
        Refusal { code: 451, status: "4.3.0", text: "Error: queue file write error; try again later".to_owned() }
    }
}
