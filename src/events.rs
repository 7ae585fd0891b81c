//! What happened to mail: one log line a fact, and counters. Told by `accept` and, at the start, by the roof; read by
//! `http`. It observes and never decides.
//!
//! Every line has the target `postrider::mail`, level `info`, and `queue_id` as its first field, so that
//! `POSTRIDER_LOG=warn,postrider::mail=info` is a mail log and nothing else. Fields that a stranger chose (addresses,
//! replies, names) hold no control characters: their types saw to that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{Level, enabled, info};

use crate::history::{self, Fact, History};
use crate::lines;
use crate::mail::{
    Attempt, Envelope, Outcome, Progress, QueueId, RecipientState, StreamKind, ToCompactString, Verdict,
};
use crate::maillog::{self, Delays, Maillog, Service, Tail};
use crate::metrics::count::{
    ATTEMPT_BOUNDS, Counter, DELIVERY_BOUNDS, Family, Held, Histogram, MAIL_BOUNDS, Open, Tally, Top,
};
use crate::metrics::{Metric, Page};
use crate::report;
use crate::time::Timestamp;

/// The target of the mail log's lines.
const TARGET: &str = "postrider::mail";

/// The one who writes it down. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Events {
    counters: Arc<Counters>,
    history: History,
    maillog: Maillog,
}

/// How an attempt was made, for its line in the classic log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Made {
    /// The peer's port.
    pub port: u16,
    /// From MAIL to the last reply.
    pub took: Duration,
}

/// What became of a recipient in one attempt, or by a decision without one: the word in the mail log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// The peer took responsibility.
    Delivered,
    /// Again later.
    Deferred,
    /// The answer to the final dot was lost; again later.
    Uncertain,
    /// Never again: the peer or a rule said so.
    Failed,
    /// Never again: too old.
    Expired,
    /// Never again: it is on the suppression list.
    Suppressed,
    /// An operator removed it.
    Deleted,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Fate; 7] = [
        Fate::Delivered,
        Fate::Deferred,
        Fate::Uncertain,
        Fate::Failed,
        Fate::Expired,
        Fate::Suppressed,
        Fate::Deleted,
    ];

    /// The word in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Delivered => "delivered",
            Fate::Deferred => "deferred",
            Fate::Uncertain => "uncertain",
            Fate::Failed => "failed",
            Fate::Expired => "expired",
            Fate::Suppressed => "suppressed",
            Fate::Deleted => "deleted",
        }
    }

    /// From a recipient's state after a settle.
    pub fn of_state(state: RecipientState, uncertain: bool) -> Fate {
        match state {
            RecipientState::Pending if uncertain => Fate::Uncertain,
            RecipientState::Pending => Fate::Deferred,
            RecipientState::Delivered => Fate::Delivered,
            RecipientState::Failed => Fate::Failed,
            RecipientState::Expired => Fate::Expired,
            RecipientState::Suppressed => Fate::Suppressed,
            RecipientState::Deleted => Fate::Deleted,
        }
    }
}

#[derive(Debug)]
struct Counters {
    messages_accepted: AtomicU64,
    recipients_accepted: AtomicU64,
    fates: [AtomicU64; Fate::ALL.len()],
    quarantined: AtomicU64,
    removed: AtomicU64,
    streams: Family<[StreamCounters; KINDS.len()]>,
    refused: [Tally; RefusedAt::ALL.len()],
    deferred_at: Tally,
    replies: Tally,
    peers: Family<PeerCounters>,
    sites: Top<Family<SiteCounters>>,
    first_mail: [Histogram; KINDS.len()],
    attempt_time: Histogram,
    delivery_time: [Histogram; KINDS.len()],
    queued_over_quota: Counter,
    refused_over_quota: Counter,
    capped: Family<Counter>,
    suppressed: [Tally; Suppressing::ALL.len()],
    came_back: [Tally; report::Kind::ALL.len()],
    learned: Tally,
    doubted: Tally,
    paused: Tally,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            messages_accepted: AtomicU64::new(0),
            recipients_accepted: AtomicU64::new(0),
            fates: Default::default(),
            quarantined: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            streams: Family::default(),
            refused: Default::default(),
            deferred_at: Tally::default(),
            replies: Tally::default(),
            peers: Family::default(),
            sites: Top::default(),
            first_mail: KINDS.map(|_| Histogram::new(MAIL_BOUNDS)),
            attempt_time: Histogram::new(ATTEMPT_BOUNDS),
            delivery_time: KINDS.map(|_| Histogram::new(DELIVERY_BOUNDS)),
            queued_over_quota: Counter::default(),
            refused_over_quota: Counter::default(),
            capped: Family::default(),
            suppressed: Default::default(),
            came_back: Default::default(),
            learned: Tally::default(),
            doubted: Tally::default(),
            paused: Tally::default(),
        }
    }
}

/// What was done about a recipient that the suppression list names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Suppressing {
    /// Refused at RCPT.
    Refused,
    /// Accepted, and ended as suppressed.
    Accepted,
    /// It came to the list while its message waited.
    Waiting,
    /// Sent all the same, since the credential may.
    Bypassed,
}

impl Suppressing {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Suppressing; 4] =
        [Suppressing::Refused, Suppressing::Accepted, Suppressing::Waiting, Suppressing::Bypassed];

    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Suppressing::Refused => "refused",
            Suppressing::Accepted => "accepted",
            Suppressing::Waiting => "waiting",
            Suppressing::Bypassed => "bypassed",
        }
    }
}

/// The kinds, in the order in which they are counted.
const KINDS: [StreamKind; 2] = [StreamKind::Transactional, StreamKind::Marketing];

fn place_of(kind: StreamKind) -> usize {
    match kind {
        StreamKind::Transactional => 0,
        StreamKind::Marketing => 1,
    }
}

/// What happened to one stream's mail.
#[derive(Debug, Default)]
struct StreamCounters {
    messages: Counter,
    recipients: Counter,
    fates: [Counter; Fate::ALL.len()],
}

/// What happened on connections from one source.
#[derive(Debug, Default)]
struct PeerCounters {
    open: Arc<Open>,
    encrypted: Counter,
    clear: Counter,
    failed_at: Tally,
}

/// What happened at one site from one source.
#[derive(Debug, Default)]
struct SiteCounters {
    attempts: Counter,
    delivered: Counter,
    deferred: Counter,
    uncertain: Counter,
    failed: Counter,
    refusals: Counter,
}

/// Where the door refused something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusedAt {
    /// At MAIL FROM.
    Sender,
    /// At the end of the message.
    Message,
}

impl RefusedAt {
    /// Both.
    pub const ALL: [RefusedAt; 2] = [RefusedAt::Sender, RefusedAt::Message];

    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            RefusedAt::Sender => "sender",
            RefusedAt::Message => "message",
        }
    }
}

/// What is done about recipients over a quota.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OverQuota {
    /// Their message waits until the quota has room.
    Queued,
    /// Their message was refused.
    Refused,
}

/// How often each thing happened since the start. Unit: recipients, unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Snapshot {
    /// Messages (submissions and our own DSNs) that were made durable.
    pub messages_accepted: u64,
    /// Their recipients.
    pub recipients_accepted: u64,
    /// Taken by a peer.
    pub delivered: u64,
    /// Attempts that ended in "again later". Many: look at `why` of one of them.
    pub deferred: u64,
    /// Attempts whose final answer was lost: each may be a duplicate. Many: a peer or a network drops connections.
    pub uncertain: u64,
    /// Refused for good.
    pub failed: u64,
    /// Too old to be tried again.
    pub expired: u64,
    /// Not tried, because they are on the suppression list.
    pub suppressed: u64,
    /// Removed by an operator.
    pub deleted: u64,
    /// Unreadable records that were set aside. Any: look at the disk.
    pub quarantined: u64,
    /// Envelopes that reached their final state.
    pub removed: u64,
}

impl Events {
    /// The same counters, with a history that keeps what happens.
    pub fn with_history(self, history: History) -> Events {
        Events { history, ..self }
    }

    /// The same, with a log in the classic form beside the structured one.
    pub fn with_maillog(self, maillog: Maillog) -> Events {
        Events { maillog, ..self }
    }

    /// The log in the classic form.
    pub fn maillog(&self) -> &Maillog {
        &self.maillog
    }

    /// Where more is kept than mail: connections, and what audits need.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether anything is written at all: callers that must keep something for it need not.
    pub fn are_written(&self) -> bool {
        self.history.is_kept() || self.maillog.is_on() || enabled!(target: TARGET, Level::INFO)
    }

    /// A message came in over a client's connection; told before [`Events::accepted`].
    pub fn came_over(&self, session: maillog::Session, id: QueueId, client: SocketAddr, user: &str) {
        self.maillog.write_of(session, || {
            let login = session.mechanism.filter(|_| !user.is_empty()).map(|mechanism| (mechanism, user));
            maillog::client(id, &maillog::peer(client.ip()), login)
        });
    }

    /// A message for so many recipients is durable, with these envelopes; `client` is where it came from.
    pub fn accepted(&self, recipients: usize, envelopes: &[Envelope], client: Option<SocketAddr>) {
        // The spool has it: nobody waits for the line.
        lines::later(|| self.tell_accepted(recipients, envelopes, client));
    }

    fn tell_accepted(&self, recipients: usize, envelopes: &[Envelope], client: Option<SocketAddr>) {
        self.counters.messages_accepted.fetch_add(1, Ordering::Relaxed);
        self.counters.recipients_accepted.fetch_add(recipients as u64, Ordering::Relaxed);
        if self.history.is_kept() {
            envelopes.iter().for_each(|envelope| self.keep_accepted(envelope, client));
        }
        if self.maillog.is_on() {
            envelopes.iter().for_each(|envelope| self.log_queued(envelope));
        }
        if !enabled!(target: TARGET, Level::INFO) {
            return;
        }
        for envelope in envelopes {
            info!(
                target: TARGET,
                queue_id = %envelope.id,
                submission = %envelope.submission,
                from = %format_args!("<{}>", envelope.reverse_path),
                return_path = envelope.return_path.as_ref().map(tracing::field::display),
                recipients = envelope.recipients.len(),
                size_bytes = envelope.body.size_bytes,
                client = client.map(tracing::field::display),
                credential = &*envelope.credential,
                stream = &*envelope.stream,
                message_id = &*envelope.message_id,
                "accepted"
            );
        }
    }

    /// As [`Events::accepted`], by stream: for metrics.
    pub fn taken(&self, stream: &str, kind: StreamKind, recipients: usize) {
        let counters = self.counters.streams.of(stream);
        let Some(counters) = counters.get(place_of(kind)) else { return };
        counters.messages.one();
        counters.recipients.add(recipients as u64);
    }

    /// A message or an envelope sender was refused at the door, with this enhanced status.
    pub fn refused(&self, at: RefusedAt, status: &'static str) {
        self.counters.refused[at as usize].one(status);
    }

    /// Recipients went over a quota.
    pub fn over_quota(&self, action: OverQuota, recipients: usize) {
        match action {
            OverQuota::Queued => self.counters.queued_over_quota.add(recipients as u64),
            OverQuota::Refused => self.counters.refused_over_quota.add(recipients as u64),
        }
    }

    /// A recipient got as much on this stream as its cap allows.
    pub fn capped(&self, stream: &str) {
        self.counters.capped.of(stream).one();
    }

    /// The list was told of an address, for this cause: believed, or pending.
    pub fn learned(&self, cause: &'static str, is_pending: bool) {
        match is_pending {
            true => self.counters.doubted.one(cause),
            false => self.counters.learned.one(cause),
        }
    }

    /// A sender was paused, or a credential suspended, for this.
    pub fn paused(&self, why: &'static str) {
        self.counters.paused.one(why);
    }

    /// A recipient is in the suppression list, for this cause.
    pub fn suppressed(&self, how: Suppressing, cause: &'static str) {
        self.counters.suppressed[how as usize].one(cause);
    }

    /// A bounce, a complaint or an unsubscribe mail came in. `effect`: what it did.
    pub fn came_back(&self, kind: report::Kind, effect: &'static str) {
        self.counters.came_back[kind as usize].one(effect);
    }

    /// A peer refused something, and this is the class of what it meant.
    pub fn replied(&self, class: &'static str) {
        self.counters.replies.one(class);
    }

    /// A connection from this source is being made; it lasts until what is returned is dropped.
    pub fn connecting(&self, source: &str) -> Held {
        self.counters.peers.of(source).open.hold()
    }

    /// It is made, `encrypted` or in clear.
    pub fn connected(&self, source: &str, encrypted: bool) {
        let counters = self.counters.peers.of(source);
        match encrypted {
            true => counters.encrypted.one(),
            false => counters.clear.one(),
        }
    }

    /// It could not be made: the last host refused at this stage.
    pub fn not_connected(&self, site: &str, source: &str, outcome: &Outcome, port: u16) {
        if let (false, Some(address)) = (outcome.host.is_empty(), outcome.address) {
            self.maillog
                .write(Service::Smtp, || format!("connect to {}[{address}]:{port}: {}", outcome.host, outcome.cause));
        }
        self.counters.peers.of(source).failed_at.one(outcome.stage.name());
        self.counters.sites.of(site).of(source).refusals.one();
    }

    /// A transaction with a site ended so.
    pub fn attempted(&self, site: &str, source: &str, attempt: &Attempt) {
        let counters = self.counters.sites.of(site).of(source);
        counters.attempts.one();
        for (_, verdict) in &attempt.verdicts {
            match verdict {
                Verdict::Delivered(_) => counters.delivered.one(),
                Verdict::Deferred(_) if attempt.uncertain => counters.uncertain.one(),
                Verdict::Deferred(_) => counters.deferred.one(),
                Verdict::Failed(_) => counters.failed.one(),
            }
        }
    }

    /// MAIL of an envelope's first attempt was written, so long after it could have been.
    pub fn first_mail(&self, kind: StreamKind, waited: Duration) {
        if let Some(histogram) = self.counters.first_mail.get(place_of(kind)) {
            histogram.observe(waited);
        }
    }

    /// A transaction took so long, from MAIL to the last reply.
    pub fn transacted(&self, took: Duration) {
        self.counters.attempt_time.observe(took);
    }

    /// What an attempt, or a decision without one, means for the recipient at `place`.
    ///
    /// `attempt` counts from 1. Writes the whole of it in one line: fate, DSN status, who said what, after how long.
    pub fn outcome(
        &self,
        envelope: &Envelope,
        place: usize,
        attempt: u16,
        fate: Fate,
        outcome: Option<&Outcome>,
        now: Timestamp,
    ) {
        self.outcome_of(envelope, place, attempt, fate, outcome, (Made::default(), now));
    }

    fn outcome_of(
        &self,
        envelope: &Envelope,
        place: usize,
        attempt: u16,
        fate: Fate,
        outcome: Option<&Outcome>,
        (made, now): (Made, Timestamp),
    ) {
        self.log_outcome(envelope, place, fate, outcome, (made, now));
        self.counters.fates[fate as usize].fetch_add(1, Ordering::Relaxed);
        self.count_outcome(envelope, fate, outcome, now);
        if !enabled!(target: TARGET, Level::INFO) {
            return;
        }
        let Some(recipient) = envelope.recipients.get(place) else { return };
        let delay = now.since(envelope.accepted_at);
        info!(
            target: TARGET,
            queue_id = %envelope.id,
            recipient = %recipient.address,
            host = outcome.map(|o| &*o.host).filter(|host| !host.is_empty()),
            address = outcome.and_then(|o| o.address).map(tracing::field::display),
            attempt,
            stage = outcome.map(|o| o.stage.name()),
            status = outcome.map(|o| tracing::field::display(o.cause.status())),
            reply = outcome.map(|o| tracing::field::display(&o.cause)),
            delay = %Seconds(delay),
            "{}", fate.name()
        );
    }

    fn count_outcome(&self, envelope: &Envelope, fate: Fate, outcome: Option<&Outcome>, now: Timestamp) {
        let kind = place_of(envelope.kind);
        if let Some(counter) = self.counters.streams.of(&envelope.stream).get(kind) {
            counter.fates[fate as usize].one();
        }
        match (fate, outcome) {
            (Fate::Delivered, _) => {
                if let Some(histogram) = self.counters.delivery_time.get(kind) {
                    histogram.observe(now.since(envelope.accepted_at));
                }
            }
            (Fate::Deferred | Fate::Uncertain, Some(outcome)) => self.counters.deferred_at.one(outcome.stage.name()),
            (Fate::Deferred | Fate::Uncertain, None) => {}
            (Fate::Failed | Fate::Expired | Fate::Suppressed | Fate::Deleted, _) => {}
        }
    }

    /// Every recipient that `after` changed against `before`: what `outcome` says of each.
    pub fn outcomes(&self, envelope: &Envelope, before: &Progress, after: &Progress, now: Timestamp) {
        self.outcomes_of(envelope, before, after, Made::default(), now);
    }

    /// As [`Events::outcomes`], where it is known how the attempt was made.
    pub fn outcomes_of(&self, envelope: &Envelope, before: &Progress, after: &Progress, made: Made, now: Timestamp) {
        // The spool's thread writes the lines before it writes what they tell of.
        lines::later(|| self.tell_outcomes(envelope, before, after, made, now));
    }

    fn tell_outcomes(&self, envelope: &Envelope, before: &Progress, after: &Progress, made: Made, now: Timestamp) {
        let uncertain = after.uncertain > before.uncertain;
        let mut attempted = false;
        for (place, (was, is)) in before.recipients.iter().zip(&after.recipients).enumerate() {
            if was.state.is_final() || was == is {
                continue;
            }
            let fate = Fate::of_state(is.state, uncertain);
            self.outcome_of(envelope, place, after.attempts, fate, is.last.as_ref(), (made, now));
            self.keep_outcome(envelope, place, after, fate);
            attempted = true;
        }
        self.keep_decision(envelope.id, before, after, attempted);
        if after.is_final() && !before.is_final() {
            let expired = after.recipients.iter().any(|recipient| recipient.state == RecipientState::Expired);
            if expired {
                self.maillog.write(Service::Qmgr, || maillog::expired(envelope.id, &envelope.reverse_path.to_string()));
            }
            self.removed(envelope.id);
        }
    }

    /// The sender is told of so many recipients' fate, by an envelope of its own. `what`: of failures, of a delay, or of
    /// success.
    pub fn reported(&self, id: QueueId, envelope: &Envelope, recipients: usize, what: report::Action) {
        let report = envelope.id;
        self.maillog.write(Service::Bounce, || {
            let what = match what {
                report::Action::Failed => "non-delivery",
                report::Action::Delayed => "delay",
                report::Action::Delivered | report::Action::Relayed => "delivery status",
            };
            format!("{id}: sender {what} notification: {report}")
        });
        if self.maillog.is_on() {
            self.log_queued(envelope);
        }
        info!(queue_id = %id, %report, recipients, "the sender is told");
        let recipients = recipients as u64;
        self.history.tell(Fact::Reported(history::Reported { queue_id: id, report, recipients }));
    }

    fn log_queued(&self, envelope: &Envelope) {
        let id = envelope.id;
        self.maillog.write(Service::Cleanup, || match envelope.message_id.is_empty() {
            true => format!("{id}: message-id=<>"),
            false => format!("{id}: message-id=<{}>", envelope.message_id.trim_matches(['<', '>'])),
        });
        self.maillog.write(Service::Qmgr, || {
            let size = envelope.body.size_bytes;
            maillog::queued(id, &envelope.reverse_path.to_string(), size, envelope.recipients.len())
        });
    }

    fn log_outcome(
        &self,
        envelope: &Envelope,
        place: usize,
        fate: Fate,
        outcome: Option<&Outcome>,
        (made, now): (Made, Timestamp),
    ) {
        let (service, tail) = match fate {
            Fate::Delivered => (Service::Smtp, Tail::Sent),
            Fate::Deferred | Fate::Uncertain => (Service::Smtp, Tail::Deferred),
            Fate::Failed => (Service::Smtp, Tail::Bounced),
            Fate::Suppressed => (Service::Error, Tail::Bounced),
            // A line of the envelope's own; and nobody is told of what an operator removed.
            Fate::Expired | Fate::Deleted => return,
        };
        let Some(recipient) = envelope.recipients.get(place) else { return };
        self.maillog.write(service, || {
            let delays = Delays { all: now.since(envelope.accepted_at), transaction: made.took };
            maillog::delivery(envelope.id, &recipient.address.to_string(), outcome, made.port, delays, tail)
        });
    }

    fn keep_accepted(&self, envelope: &Envelope, client: Option<SocketAddr>) {
        for recipient in &envelope.recipients {
            self.history.tell(Fact::Accepted(history::Accepted {
                queue_id: envelope.id,
                submission: envelope.submission,
                recipient: recipient.address.text(),
                from: envelope.reverse_path.text(),
                message_id: envelope.message_id.trim_start_matches('<').trim_end_matches('>').into(),
                credential: envelope.credential.clone(),
                stream: envelope.stream.clone(),
                client: client.map(|client| client.to_compact_string()).unwrap_or_default(),
                size_bytes: envelope.body.size_bytes,
            }));
        }
    }

    fn keep_outcome(&self, envelope: &Envelope, place: usize, after: &Progress, fate: Fate) {
        let (Some(recipient), Some(is)) = (envelope.recipients.get(place), after.recipients.get(place)) else { return };
        if !self.history.is_kept() {
            return;
        }
        let last = is.last.as_ref();
        self.history.tell(Fact::Outcome(history::Outcome {
            queue_id: envelope.id,
            recipient: recipient.address.text(),
            fate: fate.name().into(),
            attempt: u64::from(after.attempts),
            due_ms: if is.state.is_final() { 0 } else { after.due.as_millis() },
            stage: last.map(|last| last.stage.name().into()).unwrap_or_default(),
            status: last.map(|last| last.cause.status().to_compact_string()).unwrap_or_default(),
            reply: last.map(|last| last.cause.to_compact_string()).unwrap_or_default(),
            host: last.map(|last| last.host.clone()).unwrap_or_default(),
            address: last.and_then(|last| last.address).map(|address| address.to_compact_string()).unwrap_or_default(),
        }));
    }

    fn keep_decision(&self, id: QueueId, before: &Progress, after: &Progress, attempted: bool) {
        let decision = match (before.held, after.held) {
            (false, true) => "held",
            (true, false) => "released",
            (true, true) | (false, false) if attempted || after.due == before.due || after.is_final() => return,
            (true, true) | (false, false) => "retry",
        };
        let due_ms = if after.held { 0 } else { after.due.as_millis() };
        self.history.tell(Fact::Decided(history::Decided { queue_id: id, decision: decision.into(), due_ms }));
    }

    /// An envelope has its final state, and leaves the queue.
    pub fn removed(&self, id: QueueId) {
        self.counters.removed.fetch_add(1, Ordering::Relaxed);
        self.maillog.write(Service::Qmgr, || format!("{id}: removed"));
        info!(target: TARGET, queue_id = %id, "removed");
    }

    /// An unreadable record was set aside.
    pub fn quarantined(&self, records: u64) {
        self.counters.quarantined.fetch_add(records, Ordering::Relaxed);
    }

    /// Puts all that is counted here on a page of metrics.
    pub fn write(&self, page: &mut Page) {
        let counters = &*self.counters;
        for (stream, by_kind) in counters.streams.all() {
            for (kind, counted) in KINDS.iter().zip(by_kind.iter()) {
                let labels = [&*stream, kind.name()];
                // A stream has one kind; the other is shown only if a reload changed it.
                if counted.recipients.read() == 0 && counted.fates.iter().all(|fate| fate.read() == 0) {
                    continue;
                }
                page.count(Metric::MessagesAccepted, &labels, counted.messages.read());
                page.count(Metric::RecipientsAccepted, &labels, counted.recipients.read());
                for fate in Fate::ALL {
                    let labels = [&*stream, kind.name(), fate.name()];
                    page.count(Metric::Outcomes, &labels, counted.fates[fate as usize].read());
                }
            }
        }
        for at in RefusedAt::ALL {
            for (status, count) in counters.refused[at as usize].all() {
                page.count(Metric::MessagesRefused, &[at.name(), status], count);
            }
        }
        for (metric, tally) in [(Metric::Deferrals, &counters.deferred_at), (Metric::Replies, &counters.replies)] {
            tally.all().iter().for_each(|(word, count)| page.count(metric, &[word], *count));
        }
        page.count(Metric::QuotaRecipients, &["queued"], counters.queued_over_quota.read());
        page.count(Metric::QuotaRecipients, &["refused"], counters.refused_over_quota.read());
        for (stream, capped) in counters.capped.all() {
            page.count(Metric::CapRecipients, &[&stream], capped.read());
        }
        for (kind, tally) in report::Kind::ALL.iter().zip(&counters.came_back) {
            tally.all().iter().for_each(|(effect, count)| page.count(Metric::CameBack, &[kind.name(), effect], *count));
        }
        for (tally, state) in [(&counters.learned, "believed"), (&counters.doubted, "pending")] {
            tally.all().iter().for_each(|(cause, count)| page.count(Metric::Learned, &[cause, state], *count));
        }
        counters.paused.all().iter().for_each(|(why, count)| page.count(Metric::Paused, &[why], *count));
        for (how, tally) in Suppressing::ALL.iter().zip(&counters.suppressed) {
            tally.all().iter().for_each(|(cause, count)| page.count(Metric::Suppressed, &[how.name(), cause], *count));
        }
        page.count(Metric::EnvelopesRemoved, &[], counters.removed.load(Ordering::Relaxed));
        for (kind, histogram) in KINDS.iter().zip(&counters.delivery_time) {
            page.histogram(Metric::DeliveryTime, &[kind.name()], &histogram.read());
        }
        for (kind, histogram) in KINDS.iter().zip(&counters.first_mail) {
            page.histogram(Metric::MailTime, &[kind.name()], &histogram.read());
        }
        self.write_sites(page);
        page.histogram(Metric::AttemptTime, &[], &counters.attempt_time.read());
        for (source, counted) in counters.peers.all() {
            page.count(Metric::PeersOpen, &[&source], counted.open.read());
            page.count(Metric::PeersTotal, &[&source, "tls"], counted.encrypted.read());
            page.count(Metric::PeersTotal, &[&source, "clear"], counted.clear.read());
            for (stage, count) in counted.failed_at.all() {
                page.count(Metric::PeersFailed, &[&source, stage], count);
            }
        }
    }

    fn write_sites(&self, page: &mut Page) {
        for (site, by_source) in self.counters.sites.all() {
            for (source, counted) in by_source.all() {
                page.count(Metric::SiteAttempts, &[&site, &source], counted.attempts.read());
                page.count(Metric::SiteRefusals, &[&site, &source], counted.refusals.read());
                for (verdict, counter) in [
                    ("delivered", &counted.delivered),
                    ("deferred", &counted.deferred),
                    ("uncertain", &counted.uncertain),
                    ("failed", &counted.failed),
                ] {
                    page.count(Metric::SiteRecipients, &[&site, &source, verdict], counter.read());
                }
            }
        }
    }

    /// The counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let fate = |fate: Fate| self.counters.fates[fate as usize].load(Ordering::Relaxed);
        Snapshot {
            messages_accepted: self.counters.messages_accepted.load(Ordering::Relaxed),
            recipients_accepted: self.counters.recipients_accepted.load(Ordering::Relaxed),
            delivered: fate(Fate::Delivered),
            deferred: fate(Fate::Deferred),
            uncertain: fate(Fate::Uncertain),
            failed: fate(Fate::Failed),
            expired: fate(Fate::Expired),
            suppressed: fate(Fate::Suppressed),
            deleted: fate(Fate::Deleted),
            quarantined: self.counters.quarantined.load(Ordering::Relaxed),
            removed: self.counters.removed.load(Ordering::Relaxed),
        }
    }
}

/// Seconds with two digits, as log analysers of mail expect a delay.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2}", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;
    use crate::mail::{BodyFacts, Cause, Notify, Recipient, Reply, ReversePath, Stage};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn envelope() -> Envelope {
        let recipient =
            |text: &str| Recipient { address: text.parse().unwrap(), notify: Notify::Default, original: None };
        Envelope {
            id: QueueId::from_u64(7),
            submission: QueueId::from_u64(7),
            accepted_at: Timestamp::from_secs(100),
            release_at: Timestamp::from_secs(100),
            put_off_by: "".into(),
            held: false,
            expires_at: Timestamp::from_secs(1000),
            stream: "otp".into(),
            kind: StreamKind::Transactional,
            priority: 50,
            credential: "shop".into(),
            pool: "p".into(),
            reverse_path: ReversePath::Null,
            return_path: None,
            ret: None,
            envid: None,
            author_domain: None,
            message_id: "m@x.example".into(),
            marks: crate::mail::Marks::default(),
            added_headers: bytes::Bytes::new(),
            body: BodyFacts { size_bytes: 5120, ..BodyFacts::default() },
            recipients: vec![recipient("a@y.example"), recipient("b@y.example")],
        }
    }

    /// The lines that `facts` writes, as JSON, with the level on or off.
    fn lines(level: &str, facts: impl FnOnce()) -> String {
        let _listening = crate::lines::LISTENING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_env_filter(tracing_subscriber::EnvFilter::new(level))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, facts);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_message_leaves_one_line_a_fact_with_all_that_is_known() {
        let events = Events::default();
        let envelope = envelope();
        let before = Progress::new(2, Timestamp::ZERO);
        let mut after = before.clone();
        let outcome = |code, text| Outcome {
            at: Timestamp::from_secs(103),
            stage: Stage::Rcpt,
            host: "mx.y.example".into(),
            address: Some([192, 0, 2, 1].into()),
            cause: Cause::Reply(Reply::new(code, text)),
        };
        let verdicts = vec![
            (0, Verdict::Delivered(outcome(250, "2.0.0 ok"))),
            (1, Verdict::Failed(outcome(550, "5.1.1 no\r\n such user"))),
        ];
        let attempt = Attempt { verdicts, due: Timestamp::ZERO, counts: true, uncertain: false, source: "".into() };
        after.settle(attempt, Timestamp::from_secs(103), envelope.expires_at);
        let text = lines("info", || {
            events.accepted(
                envelope.recipients.len(),
                std::slice::from_ref(&envelope),
                Some(([127, 0, 0, 1], 5).into()),
            );
            events.outcomes(&envelope, &before, &after, Timestamp::from_millis(103_450));
        });
        let read: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read.len(), 4, "{text}");
        let field = |line: usize, name: &str| read[line]["fields"][name].to_string().replace('"', "");
        let id = envelope.id.to_string();
        let want = [
            (0, "message", "accepted"),
            (0, "queue_id", id.as_str()),
            (0, "from", "<>"),
            (0, "recipients", "2"),
            (0, "client", "127.0.0.1:5"),
            (1, "message", "delivered"),
            (1, "recipient", "a@y.example"),
            (1, "delay", "3.45"),
            (1, "attempt", "1"),
            (2, "message", "failed"),
            (2, "status", "5.1.1"),
            (2, "reply", "550 5.1.1 no?? such user"),
            (2, "host", "mx.y.example"),
            (3, "message", "removed"),
            (3, "queue_id", id.as_str()),
        ];
        for (line, name, value) in want {
            assert_eq!(field(line, name), value, "line {line}, {name}");
        }
        let want = Snapshot {
            messages_accepted: 1,
            recipients_accepted: 2,
            delivered: 1,
            failed: 1,
            removed: 1,
            ..Snapshot::default()
        };
        assert_eq!(events.snapshot(), want);
    }

    #[test]
    fn what_happened_is_counted_by_stream_and_by_source() {
        let events = Events::default();
        let envelope = envelope();
        let outcome = Outcome {
            at: Timestamp::from_secs(103),
            stage: Stage::Rcpt,
            host: "mx.y.example".into(),
            address: None,
            cause: Cause::Reply(Reply::new(450, "4.2.0 later")),
        };
        events.taken("otp", StreamKind::Transactional, 2);
        events.outcome(&envelope, 0, 1, Fate::Delivered, Some(&outcome), Timestamp::from_secs(103));
        events.outcome(&envelope, 1, 1, Fate::Deferred, Some(&outcome), Timestamp::from_secs(103));
        events.refused(RefusedAt::Message, "4.3.1");
        events.first_mail(StreamKind::Marketing, Duration::from_millis(30));
        let verdicts = vec![(0, Verdict::Delivered(outcome.clone())), (1, Verdict::Deferred(outcome.clone()))];
        let attempt = Attempt { verdicts, due: Timestamp::ZERO, counts: true, uncertain: true, source: "a".into() };
        (0..25).for_each(|_| events.attempted("gmail", "a", &attempt));
        events.capped("otp");
        events.suppressed(Suppressing::Accepted, "hard_bounce");
        events.over_quota(OverQuota::Refused, 9);
        events.not_connected("gmail", "a", &outcome, 25);
        events.connected("a", true);
        events.transacted(Duration::from_millis(70));
        let held = events.connecting("a");
        let mut page = Page::default();
        events.write(&mut page);
        let text = page.text();
        for line in [
            "postrider_messages_accepted_total{stream=\"otp\",kind=\"transactional\"} 1",
            "postrider_recipients_accepted_total{stream=\"otp\",kind=\"transactional\"} 2",
            "postrider_outcomes_total{stream=\"otp\",kind=\"transactional\",fate=\"delivered\"} 1",
            "postrider_outcomes_total{stream=\"otp\",kind=\"transactional\",fate=\"failed\"} 0",
            "postrider_deferrals_total{stage=\"rcpt\"} 1",
            "postrider_suppressed_recipients_total{how=\"accepted\",cause=\"hard_bounce\"} 1",
            "postrider_messages_refused_total{at=\"message\",status=\"4.3.1\"} 1",
            "postrider_first_mail_seconds_bucket{kind=\"marketing\",le=\"0.05\"} 1",
            "postrider_site_attempts_total{site=\"gmail\",source=\"a\"} 25",
            "postrider_site_recipients_total{site=\"gmail\",source=\"a\",verdict=\"delivered\"} 25",
            "postrider_site_recipients_total{site=\"gmail\",source=\"a\",verdict=\"uncertain\"} 25",
            "postrider_site_connection_refusals_total{site=\"gmail\",source=\"a\"} 1",
            "postrider_capped_recipients_total{stream=\"otp\"} 1",
            "postrider_quota_recipients_total{action=\"refused\"} 9",
            "postrider_delivery_time_seconds_bucket{kind=\"transactional\",le=\"1\"} 0",
            "postrider_delivery_time_seconds_bucket{kind=\"transactional\",le=\"5\"} 1",
            "postrider_delivery_time_seconds_sum{kind=\"transactional\"} 3",
            "postrider_attempt_duration_seconds_bucket{le=\"0.1\"} 1",
            "postrider_peer_connections{source=\"a\"} 1",
            "postrider_peer_connections_total{source=\"a\",security=\"tls\"} 1",
            "postrider_peer_connection_failures_total{source=\"a\",stage=\"rcpt\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
        assert!(!text.contains("marketing\",fate"), "{text}");
        drop(held);
        let mut page = Page::default();
        events.write(&mut page);
        assert!(page.text().contains("\npostrider_peer_connections{source=\"a\"} 0\n"));
    }

    #[test]
    fn with_the_level_off_facts_are_counted_and_not_written() {
        let events = Events::default();
        let envelope = envelope();
        let text = lines("warn", || {
            events.accepted(envelope.recipients.len(), std::slice::from_ref(&envelope), None);
            for fate in Fate::ALL {
                events.outcome(&envelope, 0, 1, fate, None, Timestamp::ZERO);
            }
        });
        assert_eq!(text, "");
        let counted = events.snapshot();
        assert_eq!((counted.delivered, counted.deferred, counted.uncertain), (1, 1, 1));
        assert_eq!((counted.failed, counted.expired, counted.suppressed, counted.deleted), (1, 1, 1, 1));
    }
}
