//! A queue over a real spool in a directory of its own, and messages to put into it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postrider::clock::Clock;
use postrider::mail::{
    Attempt, BodyFacts, Cause, Envelope, Notify, Outcome, Prepared, Progress, QueueId, Recipient, Reply, ReversePath,
    Stage, StreamKind, Verdict,
};
use postrider::queue::{Change, Ground, Lease, Queue, Settings};
use postrider::size::ByteSize;
use postrider::spool::{self, FileDisk, StartReport};
use postrider::store;
use postrider::time::Timestamp;

/// Settings for a queue that checkpoints as fast as a test can wait.
pub fn settings(dir: &Path) -> Settings {
    Settings {
        hot: ByteSize::mib(1),
        index_dir: Some(dir.join("index")),
        checkpoint_every: Duration::from_millis(5),
        close_within: Duration::from_secs(10),
        store: store::Settings::default(),
    }
}

/// Opens the queue in a directory.
pub fn open(dir: &Path) -> Queue {
    open_with(dir, settings(dir)).0
}

/// Opens the queue in a directory, and says what the start found.
pub fn open_with(dir: &Path, settings: Settings) -> (Queue, StartReport) {
    open_telling(dir, settings, || {})
}

/// As [`open_with`]; `before_write` is called before the spool is written.
pub fn open_telling(dir: &Path, settings: Settings, before_write: fn()) -> (Queue, StartReport) {
    let ground = Ground {
        spool: spool::Settings { segment_size: ByteSize::mib(1), ..spool::Settings::default() },
        disk: Arc::new(FileDisk::new(&dir.join("spool")).unwrap()),
        fatal: Box::new(|reason| panic!("the spool broke: {reason}")),
        before_write,
        clock: Arc::new(Clock::default()),
        state: Box::new(|_| ()),
    };
    Queue::open(settings, ground).unwrap()
}

/// An envelope with these recipients, in the name of a client.
pub fn envelope(queue: &Queue, recipients: &[&str]) -> Envelope {
    // A clock of our own may be a millisecond ahead of the queue's, by which the envelope would not be due yet.
    let now = Clock::default().now().before(Duration::from_millis(2));
    let id = queue.next_id(now);
    let recipient = |text: &&str| Recipient { address: text.parse().unwrap(), notify: Notify::Default, original: None };
    Envelope {
        id,
        submission: id,
        accepted_at: now,
        release_at: now,
        put_off_by: "".into(),
        held: false,
        expires_at: now.after(Duration::from_secs(432_000)),
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        priority: 50,
        credential: "shop".into(),
        pool: "transactional".into(),
        reverse_path: ReversePath::Address("sender@example.com".parse().unwrap()),
        return_path: None,
        ret: None,
        envid: None,
        author_domain: None,
        message_id: "m@example.com".into(),
        marks: postrider::mail::Marks::default(),
        added_headers: Bytes::new(),
        body: BodyFacts { size_bytes: BODY.len() as u64, header_bytes: 14, ..BodyFacts::default() },
        recipients: recipients.iter().map(recipient).collect(),
    }
}

/// The body of every message here.
pub const BODY: &[u8] = b"Subject: x\r\n\r\nHello\r\n";

/// Puts a message with one envelope.
pub async fn put(queue: &Queue, recipients: &[&str]) -> QueueId {
    put_envelope(queue, envelope(queue, recipients)).await
}

/// Puts this envelope.
pub async fn put_envelope(queue: &Queue, envelope: Envelope) -> QueueId {
    let id = envelope.id;
    let prepared = Prepared { body: Bytes::from_static(BODY), envelopes: vec![envelope] };
    let _ = queue.put(prepared).await.unwrap();
    id
}

/// Takes a lease that must be there to take.
pub async fn lease(queue: &Queue, id: QueueId) -> Lease {
    queue.lease(id).await.unwrap().expect("the envelope waits")
}

/// What a peer said to every recipient.
pub fn outcome(code: u16, text: &str) -> Outcome {
    Outcome {
        at: Timestamp::from_secs(1_795_255_200),
        stage: Stage::Rcpt,
        host: "mx.example".into(),
        address: None,
        cause: Cause::Reply(Reply::new(code, text)),
    }
}

/// The state after an attempt with this answer for all.
pub fn after(progress: &Progress, code: u16, due: Timestamp) -> Progress {
    let verdict = match code / 100 {
        2 => Verdict::Delivered(outcome(code, "ok")),
        4 => Verdict::Deferred(outcome(code, "later")),
        _ => Verdict::Failed(outcome(code, "never")),
    };
    let verdicts = (0..progress.recipients.len()).map(|place| (place, verdict.clone())).collect();
    let mut progress = progress.clone();
    let attempt = Attempt { verdicts, due, counts: true, uncertain: false, source: "a".into() };
    progress.settle(attempt, Timestamp::ZERO, Timestamp::NEVER);
    progress
}

/// Settles a lease with this answer for all, and waits for the record.
pub async fn settle(queue: &Queue, lease: Lease, code: u16, due: Timestamp) {
    let progress = after(lease.progress(), code, due);
    queue.settle(lease, progress, None).written().await;
}

/// What the scheduler heard.
#[derive(Clone, Default)]
pub struct Ear(Arc<Mutex<Vec<Change>>>);

impl Ear {
    /// Listens to this queue; the rows that wait already come first.
    pub fn at(queue: &Queue) -> Ear {
        let ear = Ear::default();
        let heard = Arc::clone(&ear.0);
        let rows = queue.set_sink(Arc::new(move |change| heard.lock().unwrap().push(change)));
        let rows: Vec<Change> = rows.map(Change::Waiting).collect();
        ear.0.lock().unwrap().splice(0..0, rows);
        ear
    }

    /// Everything since the last look: ids, and `gone`, `held` or `waiting`.
    pub fn heard(&self) -> Vec<(QueueId, &'static str)> {
        let say = |change: Change| match change {
            Change::Gone(id) => (id, "gone"),
            Change::Waiting(waiting) if waiting.held => (waiting.id, "held"),
            Change::Waiting(waiting) => (waiting.id, "waiting"),
        };
        self.0.lock().unwrap().drain(..).map(say).collect()
    }
}

/// Everything that the queue knows of what waits, for comparison.
pub fn rows(queue: &Queue) -> Vec<String> {
    queue.waiting().map(|waiting| format!("{waiting:?}")).collect()
}

/// Copies a directory as it is: what a process leaves that is killed at this moment.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

/// Runs a scenario on two threads, as the daemon does.
pub fn run<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), scenario).await.expect("a minute is enough") };
    runtime.block_on(bounded)
}
