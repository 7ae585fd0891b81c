//! The spool's handle and the thread behind it: what the other rooms call.
//!
//! Async callers leave their work in the inbox and wait for the writer to wake them; only reads, and the files of large
//! bodies, touch the disk on the caller's side.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tracing::error;

use super::backup::{self, Pinned};
use super::disk::Disk;
use super::log::Segments;
use super::writer::{Broken, PutFailure, PutRequest, SettleRequest, StateRequest, Work, Writer};
use super::{
    Apply, Compacted, DurableSeq, OpenError, OpenOptions, Place, Position, PutError, ReadError, Reader, Settings,
    StartReport, StateEntry, Stats, Stored, state,
};
use crate::mail::{Prepared, Progress, QueueId};

/// The table of [`Spool::prove`]: it never has an entry.
const PROOF_TABLE: u16 = u16::MAX;

/// What is done when the disk broke a promise: it must not return to a daemon that goes on answering 250.
pub type Fatal = Box<dyn Fn(&str) + Send + Sync>;

/// Ends the process at once: what [`Fatal`] should be in a daemon.
pub fn abort(why: &str) {
    error!(why, "the spool's disk failed; the process ends, and recovery decides what is true");
    std::process::abort();
}

/// The spool. Cheap to clone. Dropping the last clone closes nothing: call [`Spool::close`].
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// Something was put into the inbox.
    filled: Condvar,
    settings: Settings,
    disk: Arc<dyn Disk>,
    reader: Reader,
    state: Segments,
    state_end: Arc<AtomicU64>,
    places: Arc<Semaphore>,
    stats: Mutex<Stats>,
    started: Instant,
    /// Milliseconds after `started` at which the writer last showed life.
    heartbeat: AtomicU64,
    /// Puts are refused for want of space.
    full: AtomicBool,
    fatal: Fatal,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Inbox {
    work: Work,
    pins: Vec<oneshot::Sender<Pinned>>,
    compacted: Option<Result<Compacted, Broken>>,
    sleep: Sleep,
    closing: bool,
    /// The writer is gone: nothing is taken any more.
    closed: bool,
}

/// What the writer does between two steps.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Sleep {
    /// It works, and will look into the inbox by itself.
    #[default]
    Awake,
    /// It waits for [`LINGER`]; settles that come alone do not wake it.
    Lingering,
    /// Anything wakes it.
    Asleep,
}

/// How long settles wait for company after a step. On a busy relay the next message comes within this time and takes them
/// along, which halves the writes and spares one wake in five (`tests/bench/relay`, under `perf stat`). No answer waits for
/// it, only the next final dot on the same connection, which is a peer's round trip away. Unit: microseconds.
const LINGER: Duration = Duration::from_micros(300);

/// Whether what comes can wait for [`LINGER`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// Somebody waits for an answer.
    Now,
    /// A settle.
    Soon,
}

/// A settle on its way to the disk.
#[must_use = "the next final dot on this connection must wait for `written`"]
pub struct Ticket {
    done: oneshot::Receiver<()>,
}

impl Ticket {
    /// Waits until the record is written and applied: it survives `kill -9`, and is synced within 10 ms after. `false`:
    /// the spool is closed or failed first.
    pub async fn written(self) -> bool {
        self.done.await.is_ok()
    }
}

impl Spool {
    /// Locks, recovers and replays the spool in `disk`, then starts its writer thread. Blocks until everything is
    /// applied.
    ///
    /// # Errors
    /// Another process has it, or the disk cannot be read or written.
    pub fn open(
        settings: Settings,
        disk: Arc<dyn Disk>,
        options: OpenOptions,
        apply: Box<dyn Apply>,
        fatal: Fatal,
    ) -> Result<(Spool, StartReport), OpenError> {
        let (writer, report) = Writer::open(settings.clone(), disk.clone(), &options, apply)?;
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            filled: Condvar::new(),
            places: Arc::new(Semaphore::new(settings.puts_waiting_max.clamp(1, Semaphore::MAX_PERMITS))),
            settings,
            disk,
            reader: writer.reader(),
            state: writer.state.segments.clone(),
            state_end: writer.state.committed.clone(),
            stats: Mutex::new(writer.stats()),
            started: Instant::now(),
            heartbeat: AtomicU64::new(0),
            full: AtomicBool::new(false),
            fatal,
            thread: Mutex::new(None),
        });
        let runner = shared.clone();
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || run(&runner, writer))
            .map_err(|source| OpenError::Disk { doing: "starting the spool's thread".into(), source })?;
        *lock(&shared.thread) = Some(thread);
        Ok((Spool { shared }, report))
    }

    /// Makes a message durable: when this returns, it was synced and applied.
    ///
    /// # Errors
    /// Nothing was kept.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the message may have been kept nevertheless.
    pub async fn put(&self, prepared: Prepared) -> Result<DurableSeq, PutError> {
        let shared = &self.shared;
        let Ok(_place) = shared.places.acquire().await else { return Err(PutError::Closed) };
        let done = match prepared.body.len() > shared.settings.inline_bytes() {
            false => shared.leave(prepared)?,
            true => {
                let shared = shared.clone();
                let left = tokio::task::spawn_blocking(move || shared.leave(prepared)).await;
                left.unwrap_or(Err(PutError::Closed))?
            }
        };
        done.await.unwrap_or(Err(PutError::Closed))
    }

    /// Writes an envelope's new state, and with it in one record the DSN that it causes. In the order of calls. An id
    /// that is not live is ignored, its DSN too.
    pub fn settle(&self, id: QueueId, progress: Progress, dsn: Option<Prepared>) -> Ticket {
        let (request, done) = SettleRequest::new(id, progress, dsn);
        self.shared.fill(Haste::Soon, |inbox| inbox.work.settles.push_back(request));
        Ticket { done }
    }

    /// Makes a state entry durable. `None` removes the key.
    ///
    /// # Errors
    /// The reserve is used before `Full`. A start may find the entry all the same, unless a later put of any state succeeds
    /// (or [`Spool::prove`] does): a write that found no room may have been done in part, and what follows it makes it void.
    pub async fn state_put(&self, table: u16, key: Bytes, value: Option<Bytes>) -> Result<(), PutError> {
        self.put_state(table, key, value).await.map(drop)
    }

    async fn put_state(&self, table: u16, key: Bytes, value: Option<Bytes>) -> Result<DurableSeq, PutError> {
        let Ok(_place) = self.shared.places.acquire().await else { return Err(PutError::Closed) };
        let (request, done) = StateRequest::new(table, key, value);
        self.shared.fill(Haste::Now, |inbox| inbox.work.states.push(request));
        done.await.unwrap_or(Err(PutError::Closed))
    }

    /// Proof that all state that was put before is durable, for a 250 to a message of which nothing else is kept. Removes an
    /// entry that nobody has.
    ///
    /// # Errors
    /// As [`Spool::state_put`].
    pub async fn prove(&self) -> Result<DurableSeq, PutError> {
        self.put_state(PROOF_TABLE, Bytes::new(), None).await
    }

    /// All entries of one table that are not absent, read from the log, in the order of keys. Blocks.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn state_entries(&self, table: u16) -> Result<Vec<StateEntry>, ReadError> {
        state::entries(&self.shared.state, self.shared.state_end.load(Ordering::Acquire), table)
            .map_err(|error| ReadError::Unreadable(error.to_string()))
    }

    /// Reads an envelope and its state. Blocks on the disk (microseconds when cached): call from `spawn_blocking`, or
    /// where that is no harm.
    ///
    /// # Errors
    /// See [`ReadError`]; at `Gone`, look the place up again.
    pub fn read(&self, place: Place, id: QueueId) -> Result<Stored, ReadError> {
        self.shared.reader.read(place, id)
    }

    /// Reads the body of the record at `home` and verifies its checksum. Blocks, as [`Spool::read`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_body(&self, home: Position) -> Result<Bytes, ReadError> {
        self.shared.reader.read_body(home)
    }

    /// Numbers for metrics, as of the writer's last step.
    pub fn stats(&self) -> Stats {
        lock(&self.shared.stats).clone()
    }

    /// Whether the disk was full at the last put, and no room came since: so that a client can be told before it sends
    /// its message.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed)
    }

    /// How long ago the writer thread last showed life. It does so at least once a second: for the watchdog.
    pub fn writer_silence(&self) -> Duration {
        let last = Duration::from_millis(self.shared.heartbeat.load(Ordering::Relaxed));
        self.shared.started.elapsed().saturating_sub(last)
    }

    /// Copies a consistent spool to a directory that does not exist yet, while running: sealed segments and large
    /// bodies by hard link, the rest by copy. Blocks.
    ///
    /// # Errors
    /// The disk said no; what was copied is left for the caller to remove.
    pub fn backup(&self, to: &Path) -> std::io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.shared.fill(Haste::Now, |inbox| inbox.pins.push(sender));
        let pinned = receiver.blocking_recv().map_err(|_| std::io::Error::other("the spool is closed"))?;
        backup::copy(&*self.shared.disk, &pinned, to)
    }

    /// Writes what waits, marks a clean close, and ends the thread. Blocks. Later calls answer `Closed`.
    pub fn close(&self) {
        self.shared.places.close();
        self.shared.fill(Haste::Now, |inbox| inbox.closing = true);
        if let Some(thread) = lock(&self.shared.thread).take() {
            // A writer that panicked left no clean mark; the next start recovers.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Encodes a message and leaves it for the writer.
    fn leave(&self, prepared: Prepared) -> Result<oneshot::Receiver<Result<DurableSeq, PutError>>, PutError> {
        match PutRequest::new(&*self.disk, &self.settings, prepared) {
            Ok((request, done)) => {
                self.fill(Haste::Now, |inbox| inbox.work.puts.push_back(request));
                Ok(done)
            }
            Err(PutFailure::Full) => Err(PutError::Full),
            Err(PutFailure::Broken(Broken(why))) => {
                (self.fatal)(&why);
                Err(PutError::Closed)
            }
        }
    }

    /// Puts something into the inbox and wakes the writer if it sleeps. When the writer is gone, what was put in is
    /// dropped, and who waits for it learns that.
    fn fill(&self, haste: Haste, fill: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        fill(&mut inbox);
        if inbox.closed {
            inbox.work = Work::default();
            inbox.pins.clear();
        }
        let wake = match (inbox.sleep, haste) {
            (Sleep::Asleep, _) | (Sleep::Lingering, Haste::Now) => true,
            (Sleep::Lingering, Haste::Soon) | (Sleep::Awake, _) => false,
        };
        if wake {
            inbox.sleep = Sleep::Awake;
        }
        drop(inbox);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Everything that waits; sleeps up to `idle` if nothing does, the first `linger` of it lightly.
    fn take(&self, idle: Duration, linger: Duration) -> Inbox {
        let mut inbox = lock(&self.inbox);
        if inbox.has_no_haste() && !linger.min(idle).is_zero() {
            inbox = self.sleep(inbox, Sleep::Lingering, linger.min(idle));
        }
        if inbox.is_empty() && !idle.is_zero() {
            inbox = self.sleep(inbox, Sleep::Asleep, idle);
        }
        let closing = inbox.closing;
        std::mem::replace(&mut *inbox, Inbox { closing, ..Inbox::default() })
    }

    fn sleep<'a>(&self, mut inbox: MutexGuard<'a, Inbox>, sleep: Sleep, time: Duration) -> MutexGuard<'a, Inbox> {
        inbox.sleep = sleep;
        let mut inbox = match self.filled.wait_timeout(inbox, time) {
            Ok((inbox, _)) => inbox,
            Err(poisoned) => poisoned.into_inner().0,
        };
        inbox.sleep = Sleep::Awake;
        inbox
    }

    fn show_life(&self, now: Duration) {
        self.heartbeat.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.work.settles.is_empty() && self.has_no_haste()
    }

    fn has_no_haste(&self) -> bool {
        let idle = self.work.puts.is_empty() && self.work.states.is_empty();
        idle && self.pins.is_empty() && self.compacted.is_none() && !self.closing
    }
}

/// The writer thread.
fn run(shared: &Arc<Shared>, mut writer: Writer) {
    let ended = drive(shared, &mut writer);
    let left = {
        let mut inbox = lock(&shared.inbox);
        inbox.closed = true;
        std::mem::take(&mut inbox.work)
    };
    shared.places.close();
    if let Err(Broken(why)) = ended {
        (shared.fatal)(&why);
    }
    // Only now: whoever waits must not learn of a failed disk from a daemon that lives on.
    drop(left);
}

fn drive(shared: &Arc<Shared>, writer: &mut Writer) -> Result<(), Broken> {
    let mut stats_at = Duration::ZERO;
    let mut linger = Duration::ZERO;
    loop {
        let now = shared.started.elapsed();
        let inbox = shared.take(writer.idle_time(now), linger);
        let now = shared.started.elapsed();
        shared.show_life(now);
        if let Some(compacted) = inbox.compacted {
            writer.compacted(compacted)?;
        }
        if inbox.closing {
            writer.close(inbox.work, now)?;
            *lock(&shared.stats) = writer.stats();
            return Ok(());
        }
        // A relay at rest writes what comes at once.
        linger = if inbox.work.is_empty() { Duration::ZERO } else { LINGER };
        writer.step(inbox.work, now)?;
        shared.full.store(writer.is_full(), Ordering::Relaxed);
        for pin in inbox.pins {
            writer.sync_mail()?;
            let _ = pin.send(writer.pinned());
        }
        if now.saturating_sub(stats_at) >= Duration::from_millis(100) || stats_at.is_zero() {
            stats_at = now;
            *lock(&shared.stats) = writer.stats();
            start_compaction(shared, writer);
        }
    }
}

fn start_compaction(shared: &Arc<Shared>, writer: &mut Writer) {
    let Some(job) = writer.compaction() else { return };
    let answer = shared.clone();
    let started = std::thread::Builder::new().name("spool-compact".into()).spawn(move || {
        let compacted = job.run();
        answer.fill(Haste::Now, |inbox| inbox.compacted = Some(compacted));
    });
    if let Err(error) = started {
        shared.fill(Haste::Now, |inbox| inbox.compacted = Some(Err(Broken(format!("no thread: {error}")))));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
