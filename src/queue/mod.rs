//! The queue: every envelope that has no final answer, who may attempt it, and what became of it.
//!
//! Called by `accept` (put, settle), `delivery` (lease), `scheduler` (changes) and `http` (listings, operators' orders).
//! It never decides when or where mail goes.
//!
//! ```text
//!   put ──► spool ──► Applier (writer thread, log order) ──► Table: one row each ──► sink (scheduler)
//!             ▲                                                │        │
//!   settle ───┘           lease ◄─────────────────────────────-┘        └─► Checkpointer ──► store, once a second
//! ```

mod applier;
mod census;
mod checkpoint;
mod hot;
mod lease;
mod listing;
mod names;
mod operator;
mod row;
#[cfg(test)]
pub(crate) mod samples;
mod table;
#[cfg(test)]
mod tests;
mod withheld;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::mail::{Domain, Envelope, Prepared, Progress, QueueId, StreamKind};
use crate::size::ByteSize;
use crate::spool::{
    Body, Disk, DurableSeq, Fatal, OpenError, Place, PutError, ReadError, Sequence, Spool, StartReport, StateEntry,
    Stored, Ticket,
};
use crate::time::Timestamp;
use crate::{spool, store};

use applier::Applier;
pub use census::{Census, Standing};
use checkpoint::Checkpointer;
use hot::Hot;
pub use lease::{Lease, Settling, UNREADABLE_WAIT};
pub use listing::{Filter, LISTING_MAX, Listed, Page, Sender, State};
pub use operator::{Order, Ordered};
use row::Flags;
use table::Table;
pub use withheld::Withheld;

/// How the queue is kept in memory and checkpointed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Memory for just accepted envelopes and bodies, which are then delivered without a read from the disk.
    ///
    /// Unit: bytes. Default 64 MiB. More helps only if more than this is accepted in the seconds before its delivery.
    pub hot: ByteSize,
    /// Where the index on disk lives. `None`: there is none, and every start reads the whole spool.
    pub index_dir: Option<PathBuf>,
    /// How often changed rows are written to the index.
    ///
    /// Unit: seconds. Default 1. What is delivered within one to two of these never reaches the index.
    pub checkpoint_every: Duration,
    /// Longest wait for the index at a stop.
    ///
    /// Unit: seconds. Default 3. An index that was not closed in time is read again on the same boot, else rebuilt.
    pub close_within: Duration,
    /// How the index is kept.
    pub store: store::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            hot: ByteSize::mib(64),
            index_dir: None,
            checkpoint_every: Duration::from_secs(1),
            close_within: Duration::from_secs(3),
            store: store::Settings::default(),
        }
    }
}

/// Who hears of state entries.
pub type StateEar = Box<dyn FnMut(StateEntry) + Send>;

/// What the queue stands on.
pub struct Ground {
    /// The spool's settings.
    pub spool: spool::Settings,
    /// Its directory.
    pub disk: Arc<dyn Disk>,
    /// What is done when the disk breaks a promise.
    pub fatal: Fatal,
    /// Called on the writer thread before settles or state entries are written: where what is told of them may wait, it is
    /// told now.
    pub before_write: fn(),
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Who hears of state entries, at start and on the writer thread: the rooms that keep state.
    pub state: StateEar,
}

/// What the scheduler must know of a waiting envelope, and when it changes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new envelope, or one found at start, or one whose state an operator changed (held, released, due now), or
    /// whose lease was dropped.
    Waiting(Waiting),
    /// It has its final state, and no connection will say so (delete, bounce, an unclean end, a lost record).
    Gone(QueueId),
}

/// A waiting envelope as the scheduler sees it.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its name.
    pub id: QueueId,
    /// The recipients' domain.
    pub domain: Domain,
    /// The domain of the From header, if it has one that is known: a peer may stop all that it sends.
    pub author: Option<Domain>,
    /// The stream's name.
    pub stream: Arc<str>,
    /// The stream's kind.
    pub kind: StreamKind,
    /// The pool's name.
    pub pool: Arc<str>,
    /// The credential's name.
    pub credential: Arc<str>,
    /// 0 to 100.
    pub priority: u8,
    /// The client marked the recipient as engaged: before others of the same priority.
    pub engaged: bool,
    /// Attempts that counted, up to 255.
    pub attempts: u16,
    /// Pending recipients.
    pub recipients: u16,
    /// Not before this.
    pub due: Timestamp,
    /// After this it expires.
    pub expires_at: Timestamp,
    /// An operator stopped it.
    pub held: bool,
    /// Stay with this source, if not empty.
    pub source: Arc<str>,
}

/// Who hears of changes. Called in log order, on the writer thread or where a lease is dropped: it must not block, and
/// must not call the queue.
pub type Sink = Arc<dyn Fn(Change) + Send + Sync>;

/// Who hears of settles that the queue makes itself (a lease dropped after its dot, an operator's order): before and
/// after. It writes the log line, and returns the DSN that goes along, if the sender must hear of it.
pub type Reporter = Arc<dyn Fn(&Envelope, &Progress, &Progress) -> Option<Prepared> + Send + Sync>;

/// How long an envelope may wait, as it was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Life<'a> {
    /// The credential's name.
    pub credential: &'a str,
    /// The stream's name.
    pub stream: &'a str,
    /// The stream's kind.
    pub kind: StreamKind,
    /// When its id was made.
    pub accepted_at: Timestamp,
    /// When its longest age passes.
    pub expires_at: Timestamp,
}

/// When an envelope expires: later than its age says, if its sender's mail was held. Called with the table locked: it must
/// not block, and must not call the queue.
pub type Respite = Arc<dyn Fn(&Life<'_>) -> Timestamp + Send + Sync>;

/// The queue's handle. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    spool: Spool,
    checkpointer: Arc<Checkpointer>,
}

/// What the handle, the writer thread and the checkpointer share.
pub(in crate::queue) struct Shared {
    table: Mutex<Table>,
    hot: Mutex<Hot>,
    /// Locked before the table by everyone who announces a change, so that changes are heard in the order in which they
    /// happened.
    sink: Mutex<Option<Sink>>,
    reporter: Mutex<Option<Reporter>>,
    wishes: Mutex<HashMap<QueueId, Wish>>,
    /// How many wishes there are: so that nobody locks to find none.
    wish_count: AtomicUsize,
    /// What is being put and may not go before its putter lets it: leased as soon as it is there.
    withheld: Mutex<HashSet<QueueId>>,
    last_id: AtomicU64,
    clock: Arc<Clock>,
    /// When the queue was opened.
    opened: Timestamp,
    index: IndexHealth,
}

/// How the index on disk fares.
#[derive(Debug, Default)]
pub(in crate::queue) struct IndexHealth {
    /// There is one, and it takes what it is given.
    used: AtomicBool,
    /// How often it was given up.
    failures: AtomicU64,
}

/// What an operator asked for while an envelope was leased. At most one for each lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::queue) enum Wish {
    Hold,
    Delete,
}

impl Wish {
    fn order(self) -> Order {
        match self {
            Wish::Hold => Order::Hold,
            Wish::Delete => Order::Delete,
        }
    }
}

/// How often a record is looked up again that the cleaner moved meanwhile.
const LOOKUPS_MAX: usize = 8;

impl Queue {
    /// Opens the index and the spool, and replays what the index does not have. Blocks until every row is known.
    ///
    /// # Errors
    /// The spool cannot be opened. The index never stops a start: in doubt it is rebuilt.
    pub fn open(settings: Settings, ground: Ground) -> Result<(Queue, StartReport), OpenError> {
        checkpoint::open(settings, ground)
    }

    pub(in crate::queue) fn assemble(shared: Arc<Shared>, spool: Spool, checkpointer: Checkpointer) -> Queue {
        Queue { shared, spool, checkpointer: Arc::new(checkpointer) }
    }

    /// The spool under the queue: for state entries, statistics and backups.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// How many envelopes wait, leased and held ones included.
    pub fn len(&self) -> usize {
        self.shared.table().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the index on disk is in use, and how often it was given up. Without it mail flows all the same.
    pub fn index_health(&self) -> (bool, u64) {
        let index = &self.shared.index;
        (index.used.load(Ordering::Relaxed), index.failures.load(Ordering::Relaxed))
    }

    /// The last record of the spool that the rows know of.
    pub fn applied(&self) -> Sequence {
        self.shared.table().applied()
    }

    /// The next queue id. Rises over restarts.
    pub fn next_id(&self, now: Timestamp) -> QueueId {
        let last = &self.shared.last_id;
        let next = |last| QueueId::next(QueueId::from_u64(last), now).as_u64();
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        // Invariant: the closure always returns a value, so both arms hold the former one.
        QueueId::from_u64(next(before.unwrap_or_else(|before| before)))
    }

    /// From now on `sink` hears of changes. Returns the rows that wait now: each once, none of which it has heard.
    ///
    /// A row that changes during the walk is heard through the sink, and shown as it is when the walk reaches it.
    pub fn set_sink(&self, sink: Sink) -> WaitingRows {
        let mut slot = lock(&self.shared.sink);
        let ids = self.shared.table().ids();
        *slot = Some(sink);
        WaitingRows { shared: Arc::clone(&self.shared), ids: ids.into_iter() }
    }

    /// A waiting envelope, as the scheduler sees it.
    pub fn waiting_one(&self, id: QueueId) -> Option<Waiting> {
        self.shared.table().seen(id).map(|seen| seen.waiting)
    }

    /// The rows that wait now, leased and held ones included, in the order of their ids.
    pub fn waiting(&self) -> WaitingRows {
        let ids = self.shared.table().ids();
        WaitingRows { shared: Arc::clone(&self.shared), ids: ids.into_iter() }
    }

    /// Names who reports the settles that the queue makes itself.
    pub fn set_reporter(&self, reporter: Reporter) {
        *lock(&self.shared.reporter) = Some(reporter);
    }

    /// Names who says when envelopes expire. Leases, rows and counts from now on have it from there.
    pub fn set_respite(&self, respite: Respite) {
        self.shared.table().set_respite(respite);
    }

    /// An envelope with the time at which it expires as things are now.
    fn respited(&self, envelope: Arc<Envelope>) -> Arc<Envelope> {
        let life = Life {
            credential: &envelope.credential,
            stream: &envelope.stream,
            kind: envelope.kind,
            accepted_at: envelope.id.made_at(),
            expires_at: envelope.expires_at,
        };
        let expires_at = self.shared.table().expiry(&life);
        match expires_at == envelope.expires_at {
            true => envelope,
            false => Arc::new(Envelope { expires_at, ..Envelope::clone(&envelope) }),
        }
    }

    /// Makes a message durable. When this returns, a 250 may be answered.
    ///
    /// # Errors
    /// Nothing was kept; the client must be told to try again.
    pub async fn put(&self, prepared: Prepared) -> Result<DurableSeq, PutError> {
        self.spool.put(prepared).await
    }

    /// Takes the lease of a waiting envelope. `None`: it is leased, held or gone.
    ///
    /// # Errors
    /// The record cannot be read; the envelope was put off or held, and the reason logged.
    pub async fn lease(&self, id: QueueId) -> Result<Option<Lease>, ReadError> {
        if let Some(wish) = self.shared.take_wish(id) {
            // It came between the end of the last attempt and the record of it.
            self.order(id, wish.order()).await;
            return Ok(None);
        }
        let Some(row) = self.shared.table().lease(id) else { return Ok(None) };
        let claim = Claim { queue: self, id, kept: false };
        let hot = lock(&self.shared.hot).entry(id).cloned();
        if let Some(hot) = hot {
            claim.keep();
            let progress = hot.envelope.untried();
            return Ok(Some(Lease::new(self.clone(), hot.envelope, progress, row.place).with_body(hot.body)));
        }
        match self.read(row.id, row.place).await {
            Ok((stored, place)) => {
                claim.keep();
                Ok(Some(Lease::new(self.clone(), Arc::new(stored.envelope), stored.progress, place)))
            }
            Err(error) => {
                self.put_off(id, &error);
                Err(error)
            }
        }
    }

    /// The body of a leased envelope, from memory if it was accepted a moment ago, else from the spool.
    ///
    /// # Errors
    /// It cannot be read. Once the lease is dropped the envelope is held (damage) or put off (everything else).
    pub async fn body(&self, lease: &Lease) -> Result<Body, ReadError> {
        if let Some(body) = lease.hot_body() {
            return Ok(body.clone());
        }
        let read = self.read_body(lease.envelope().id, lease.place()).await;
        if let Err(error) = &read {
            tracing::error!(queue_id = %lease.envelope().id, %error, "a message could not be read from the spool");
            lease.set_fault(error.clone());
        }
        read
    }

    /// Writes an envelope's new state, and the DSN that goes with it, in one record, and ends the lease.
    pub fn settle(&self, lease: Lease, mut progress: Progress, dsn: Option<Prepared>) -> Settling {
        lease::hold_if_damaged(&mut progress, lease.fault());
        let unasked = lease.is_order();
        let (envelope, _) = lease.end();
        let id = envelope.id;
        if unasked {
            self.shared.table().announce(id);
        }
        if let Some(wish) = self.shared.take_wish(id).filter(|_| !progress.is_final()) {
            lease::grant(&mut progress, wish);
            self.shared.table().announce(id);
        }
        Settling { ticket: self.spool.settle(id, progress, dsn), id }
    }

    /// Writes what waits, closes the spool and the index. Blocks; later puts and settles are refused.
    pub fn close(&self) {
        self.spool.close();
        self.checkpointer.close();
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Ends a lease and leaves the envelope as it was.
    fn give_back(&self, id: QueueId) {
        self.shared.change(|table| table.give_back(id));
    }

    /// Settles what no connection reports: the reporter and the scheduler hear of it.
    fn settle_unasked(&self, envelope: &Envelope, before: &Progress, after: Progress) -> Ticket {
        let reporter = lock(&self.shared.reporter).clone();
        let dsn = reporter.and_then(|report| report(envelope, before, &after));
        self.shared.table().announce(envelope.id);
        self.spool.settle(envelope.id, after, dsn)
    }

    /// A record that cannot be read now: held in memory if it is damaged, else due later. The disk keeps its old state,
    /// so that a restart looks again.
    fn put_off(&self, id: QueueId, error: &ReadError) {
        tracing::error!(queue_id = %id, %error, "an envelope could not be read from the spool");
        let due = match error {
            ReadError::Damaged => None,
            ReadError::Gone | ReadError::Unreadable(_) => Some(self.now().after(UNREADABLE_WAIT)),
        };
        self.shared.table().put_off(id, due);
    }

    /// Reads an envelope, wherever the cleaner moved it meanwhile.
    async fn read(&self, id: QueueId, place: Place) -> Result<(Stored, Place), ReadError> {
        let queue = self.clone();
        blocking(move || queue.look_up(id, place, |spool, place| spool.read(place, id))).await
    }

    async fn read_body(&self, id: QueueId, place: Place) -> Result<Body, ReadError> {
        let queue = self.clone();
        let read = blocking(move || queue.look_up(id, place, |spool, place| spool.read_body(place.home))).await;
        read.map(|(body, _)| body)
    }

    fn look_up<T>(
        &self,
        id: QueueId,
        mut place: Place,
        read: impl Fn(&Spool, Place) -> Result<T, ReadError>,
    ) -> Result<(T, Place), ReadError> {
        for _ in 0..LOOKUPS_MAX {
            match read(&self.spool, place) {
                Ok(value) => return Ok((value, place)),
                Err(ReadError::Gone) => place = self.shared.table().seen(id).ok_or(ReadError::Gone)?.row.place,
                Err(error) => return Err(error),
            }
        }
        Err(ReadError::Gone)
    }
}

/// Runs what blocks on the disk away from the threads that serve sockets.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ReadError::Unreadable("the read was cut short".to_owned())))
}

impl Shared {
    pub(in crate::queue) fn new(hot: ByteSize, clock: Arc<Clock>) -> Shared {
        let opened = clock.now();
        Shared {
            table: Mutex::default(),
            hot: Mutex::new(Hot::new(hot.as_usize())),
            sink: Mutex::new(None),
            reporter: Mutex::new(None),
            wishes: Mutex::default(),
            wish_count: AtomicUsize::new(0),
            withheld: Mutex::default(),
            last_id: AtomicU64::new(0),
            clock,
            opened,
            index: IndexHealth::default(),
        }
    }

    pub(in crate::queue) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// What an operator asked for while the envelope was leased. Asked once.
    pub(in crate::queue) fn take_wish(&self, id: QueueId) -> Option<Wish> {
        if self.wish_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let wish = lock(&self.wishes).remove(&id)?;
        self.wish_count.fetch_sub(1, Ordering::AcqRel);
        Some(wish)
    }

    /// Changes the table, and tells the sink.
    pub(in crate::queue) fn change(&self, change: impl FnOnce(&mut Table) -> Option<Change>) {
        let sink = lock(&self.sink);
        let change = change(&mut self.table());
        if let (Some(sink), Some(change)) = (&*sink, change) {
            sink(change);
        }
    }
}

/// A lock that a panic elsewhere does not take from us: everything under it is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lease that is being taken: given back if its taker is cancelled.
struct Claim<'a> {
    queue: &'a Queue,
    id: QueueId,
    kept: bool,
}

impl Claim<'_> {
    /// The lease was taken.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.queue.give_back(self.id);
        }
    }
}

/// Rows of the queue, one after the other; those that ended meanwhile are skipped.
pub struct WaitingRows {
    shared: Arc<Shared>,
    ids: std::vec::IntoIter<QueueId>,
}

impl Iterator for WaitingRows {
    type Item = Waiting;

    fn next(&mut self) -> Option<Waiting> {
        self.ids.by_ref().find_map(|id| self.shared.table().seen(id)).map(|seen| seen.waiting)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.ids.len()))
    }
}
