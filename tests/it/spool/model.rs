//! What must be true of a spool after any crash, and a queue of the simplest kind to hold it against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use postrider::mail::{
    BodyFacts, Cause, EnhancedStatus, Envelope, Marks, Notify, Outcome, Prepared, Progress, QueueId, Recipient,
    RecipientState, Reply, ReversePath, Stage, StreamKind,
};
use postrider::spool::{Apply, Message, Place, Position, Sequence, StateEntry, StateValue};
use postrider::time::Timestamp;

/// What the queue would keep.
#[derive(Clone, Default, Debug)]
pub struct Rows {
    pub live: BTreeMap<QueueId, (Place, Progress)>,
    pub state: BTreeMap<(u16, Bytes), StateValue>,
    pub lost: Vec<QueueId>,
    pub applied: Sequence,
    /// The highest segment that a record stood in.
    pub segment: u32,
}

/// The queue.
#[derive(Clone, Default)]
pub struct Queue(pub Arc<Mutex<Rows>>);

impl Queue {
    pub fn rows(&self) -> Rows {
        self.0.lock().unwrap().clone()
    }
}

impl Apply for Queue {
    fn before_write(&mut self) {}

    fn accepted(&mut self, sequence: Sequence, at: Position, message: Message) {
        let mut rows = self.0.lock().unwrap();
        for envelope in message.envelopes {
            let progress = envelope.untried();
            rows.live.insert(envelope.id, (Place::home(at), progress));
        }
        rows.applied = rows.applied.max(sequence);
        rows.segment = rows.segment.max(at.segment);
    }

    fn settled(&mut self, sequence: Sequence, at: Position, id: QueueId, progress: Progress) {
        let mut rows = self.0.lock().unwrap();
        match progress.is_final() {
            true => drop(rows.live.remove(&id)),
            false => {
                if let Some((place, row)) = rows.live.get_mut(&id) {
                    place.state = at;
                    *row = progress;
                }
            }
        }
        rows.applied = rows.applied.max(sequence);
        rows.segment = rows.segment.max(at.segment);
    }

    fn moved(&mut self, sequence: Sequence, at: Position, envelope: Envelope, progress: Progress) {
        let mut rows = self.0.lock().unwrap();
        rows.live.insert(envelope.id, (Place::home(at), progress));
        rows.applied = rows.applied.max(sequence);
        rows.segment = rows.segment.max(at.segment);
    }

    fn lost(&mut self, id: QueueId) {
        let mut rows = self.0.lock().unwrap();
        rows.live.remove(&id);
        rows.lost.push(id);
    }

    fn state(&mut self, entry: StateEntry) {
        let mut rows = self.0.lock().unwrap();
        match entry.value {
            StateValue::Absent => drop(rows.state.remove(&(entry.table, entry.key))),
            value => drop(rows.state.insert((entry.table, entry.key), value)),
        }
    }
}

/// An envelope with recipients enough to make its state worth comparing.
pub fn envelope(id: u64, submission: u64, recipients: usize) -> Envelope {
    let recipient = |n: usize| Recipient {
        address: format!("user{n}@example.net").parse().unwrap(),
        notify: if n == 1 { Notify::On { success: true, failure: false, delay: true } } else { Notify::Default },
        original: (n == 2).then(|| "rfc822;user2+2Bx@example.net".into()),
    };
    Envelope {
        id: QueueId::from_u64(id),
        submission: QueueId::from_u64(submission),
        accepted_at: Timestamp::from_millis(1_800_000_000_000 + id),
        release_at: Timestamp::from_millis(1_800_000_000_000 + id + 60_000 * (id % 2)),
        put_off_by: "".into(),
        held: false,
        expires_at: Timestamp::from_millis(1_800_400_000_000 + id),
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        priority: 50,
        credential: "shop".into(),
        pool: "transactional".into(),
        reverse_path: match id % 5 {
            0 => ReversePath::Null,
            _ => ReversePath::Address("bounce@example.com".parse().unwrap()),
        },
        return_path: id.is_multiple_of(4).then(|| format!("b{id}@bounce.example.com").parse().unwrap()),
        ret: None,
        envid: id.is_multiple_of(3).then(|| "envelope+2Bid".into()),
        author_domain: Some("example.com".parse().unwrap()),
        message_id: format!("{id}@example.com").into(),
        marks: Marks {
            tags: (0..id % 3).map(|n| format!("tag-{n}").into()).collect(),
            metadata: (0..id % 2).map(|n| (format!("key-{n}").into(), "value".into())).collect(),
            engaged: id.is_multiple_of(4),
        },
        added_headers: Bytes::from_static(b"X-Added: yes\r\n"),
        body: BodyFacts { size_bytes: id, header_bytes: 80, eight_bit: id.is_multiple_of(2), ..BodyFacts::default() },
        recipients: (0..recipients.max(1)).map(recipient).collect(),
    }
}

/// A message of that many envelopes and body bytes, which can be told from every other.
pub fn message(first: u64, envelopes: u64, body_bytes: usize) -> Prepared {
    let seed = first.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut body = vec![0; body_bytes];
    random.fill(&mut body);
    let one = |id| envelope(id, first, 1 + (id % 3) as usize);
    Prepared { body: body.into(), envelopes: (first..first + envelopes).map(one).collect() }
}

/// The next state of an envelope: `step` makes it unlike all before.
pub fn settled(before: &Progress, step: u64, end: bool) -> Progress {
    let mut progress = before.clone();
    progress.attempts += 1;
    progress.due = Timestamp::from_millis(1_800_000_000_000 + step);
    progress.source = format!("source-{step}").into();
    progress.pool = if step.is_multiple_of(3) { "bulk".into() } else { "".into() };
    let outcome = Outcome {
        at: Timestamp::from_millis(1_800_000_000_000 + step),
        stage: Stage::FinalDot,
        host: "mx1.example.net".into(),
        address: Some("192.0.2.25".parse().unwrap()),
        cause: match step % 2 {
            0 => Cause::Reply(Reply::new(451, "4.3.2 try again later")),
            _ => Cause::local(EnhancedStatus::new(4, 4, 1), "timed out"),
        },
    };
    match end {
        true => progress.end(RecipientState::Delivered, Some(&outcome)),
        false => progress.recipients[0].last = Some(outcome),
    }
    progress
}

/// All that was ever asked about one envelope, and what of it was promised.
#[derive(Clone, Debug)]
pub struct Story {
    pub prepared: Arc<Prepared>,
    pub envelope: Envelope,
    /// From acceptance on, in the order of settles.
    pub states: Vec<Progress>,
    /// The put was answered Ok, or a recovery showed it.
    pub acknowledged: bool,
    /// The last state whose ticket was answered: survives a kill.
    pub written: usize,
    /// The last state that was synced: survives a power cut.
    pub synced: usize,
    /// With a settle of this envelope, this one comes: the state's number and the id.
    pub dsn: Option<(usize, QueueId)>,
}

impl Story {
    pub fn new(prepared: Arc<Prepared>, envelope: Envelope) -> Story {
        let fresh = envelope.untried();
        Story { prepared, envelope, states: vec![fresh], acknowledged: false, written: 0, synced: 0, dsn: None }
    }
}
