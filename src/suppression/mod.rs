//! The suppression list: to whom nothing is sent, and why. Kept on the disk, looked up in microseconds.
//!
//! Called by `accept` (may this recipient have mail?), by who believes a bounce, a complaint or an unsubscription (put), and
//! by `http` for the operator. It never decides what to believe.
//!
//! ```text
//!   put, remove ──► state log of the spool (table 10) ──► in memory: what changed of late
//!                                                             │ some thousands: written to a file, then taken out of the log
//!   import ──► parts, sorted ──────────► files, newest first ◄┘
//!   blocking ──► memory, then each file: its filter says no, or one block is read
//! ```
//! `docs/SPOOL.md` draws the files, and says what a crash leaves.

mod block;
mod entry;
mod file;
mod filter;
pub mod foreign;
mod import;
mod key;
mod listing;
mod query;
mod scan;

pub use entry::{Cause, EVIDENCE_LENGTH_MAX, Entry, Scope, UnknownCause};
pub use file::check;
pub use import::{Import, Imported, Run};
pub use listing::{Counts, Export, Page};
pub use query::{Query, State};

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::mail::{Address, StreamKind};
use crate::spool::{Disk, PutError, Spool, StateValue};
use crate::time::Timestamp;

use block::Record;
use file::{Builder, Damage, Generation, Name, Unopened};
use filter::hash;
use scan::{Gone, Merge};

/// The number of the state table; `docs/SPOOL.md` lists them.
const TABLE: u16 = 10;
/// Changes in memory that are worth a file.
const CHANGES_FULL: usize = 20_000;
/// And octets of them.
const CHANGES_WEIGHT_FULL: usize = 8 << 20;
/// Changes are refused when so many times as much is in memory: files cannot be written, and somebody was told long ago.
const CHANGES_OVERFULL: usize = 8;
/// What a change costs in memory beside its key and texts. Unit: octets.
const CHANGE_WEIGHT: usize = 200;
/// Entries of one address: scopes times causes, streams bounded by this.
const ENTRIES_MAX: usize = 64;
/// Locks that keep changes of one address in order.
const STRIPES: usize = 64;
/// Keys that are taken out of the state log at once.
const CLEANED_AT_ONCE: usize = 512;
/// A file is merged with those newer than it once they have a half of its entries.
const GROWTH: u64 = 2;
/// How long what has expired is kept: who decides what to believe looks at what was believed before.
const EXPIRED_KEPT: Duration = Duration::from_secs(400 * 86_400);
/// After a file could not be written it is tried again when this has passed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Why the list did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No room on the disk. What was there before is there still.
    #[error("the disk under the spool is full: nothing of this was kept")]
    Full,
    /// The daemon stops, or the spool failed.
    #[error("the spool is closed")]
    Closed,
    /// One import at a time.
    #[error("another import is running; wait until it is done")]
    Busy,
    /// More than an import may bring.
    #[error("the import is too large: {taken} entries came and there is no room for more parts; split the file")]
    TooMany {
        /// Until then.
        taken: u64,
    },
    /// More than an address may have.
    #[error("{address} has {ENTRIES_MAX} entries already; remove some of them, or use the scope all")]
    Crowded {
        /// Whose.
        address: Box<str>,
    },
    /// So many changes wait in memory for a file that no more is taken: files cannot be written, or not as fast as they come.
    #[error(
        "the suppression list has too many changes in memory that no file has yet ({why}): nothing of this was kept; try again \
         in a minute, and see `postrider suppression stats`"
    )]
    Overfull {
        /// What keeps them from a file.
        why: String,
    },
    /// The disk said no.
    #[error("the suppression list's files: {0}")]
    Disk(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Full,
            _ => Failure::Disk(error.to_string()),
        }
    }
}

impl From<PutError> for Failure {
    fn from(error: PutError) -> Failure {
        match error {
            PutError::Full => Failure::Full,
            PutError::Closed => Failure::Closed,
        }
    }
}

/// Why the list cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the suppression list: {0}")]
pub struct OpenFailure(String);

impl From<Unopened> for OpenFailure {
    fn from(unopened: Unopened) -> OpenFailure {
        OpenFailure(unopened.to_string())
    }
}

/// The list's handle. Cheap to clone.
#[derive(Clone)]
pub struct Suppressions {
    shared: Arc<Shared>,
}

impl fmt::Debug for Suppressions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suppressions").field("figures", &self.figures()).finish()
    }
}

struct Shared {
    spool: Spool,
    disk: Arc<dyn Disk>,
    changes: RwLock<Changes>,
    /// The oldest first. Only who has the turn of `maintenance` replaces them.
    files: ArcSwap<Vec<Arc<Generation>>>,
    turn: AtomicU32,
    stripes: Vec<tokio::sync::Mutex<()>>,
    maintenance: Arc<tokio::sync::Mutex<()>>,
    importing: Arc<tokio::sync::Mutex<()>>,
    progress: import::Progress,
    /// A merge was started and has not ended.
    merging: AtomicBool,
    /// The daemon stops.
    closed: AtomicBool,
    /// Why the last merge failed, and when.
    failed: Mutex<Option<(String, Instant)>>,
    /// Files that could not be read at all.
    lost: u64,
    /// The latest time that anybody said: what a merge goes by.
    now: AtomicU64,
}

/// What changed since the newest file: as the state log has it.
#[derive(Debug, Default)]
struct Changes {
    by_key: BTreeMap<Vec<u8>, Change>,
    weight: usize,
    last: u64,
}

#[derive(Clone, Debug)]
struct Change {
    entry: Option<Entry>,
    /// Which change it was: a later one must not be taken for it.
    number: u64,
}

impl Changes {
    fn insert(&mut self, key: Vec<u8>, entry: Option<Entry>) {
        self.remove(&key);
        self.last += 1;
        self.weight += weight(&key, entry.as_ref());
        self.by_key.insert(key, Change { entry, number: self.last });
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(change) = self.by_key.remove(key) {
            self.weight = self.weight.saturating_sub(weight(key, change.entry.as_ref()));
        }
    }

    fn of<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Vec<u8>, &'a Change)> {
        let range = self.by_key.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        range.take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn is_full(&self, times: usize) -> bool {
        self.by_key.len() >= CHANGES_FULL * times || self.weight >= CHANGES_WEIGHT_FULL * times
    }
}

fn weight(key: &[u8], entry: Option<&Entry>) -> usize {
    CHANGE_WEIGHT + key.len() + entry.map_or(0, |entry| entry.site.len() + entry.evidence.len())
}

/// A change of an address's entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// Puts one in place of that of the same scope and cause.
    Put(Entry),
    /// Removes that of this scope and cause, if it is there.
    Remove(Scope, Cause),
}

/// What the list says of an address.
#[derive(Debug, Default)]
struct Seen {
    records: Vec<Record>,
    damage: Option<Damage>,
}

impl Seen {
    fn entry(&self, like: &Entry) -> Option<Entry> {
        let mut entries = self.records.iter().filter_map(|record| record.entry.as_ref());
        entries.find(|entry| entry.scope == like.scope && entry.cause == like.cause).cloned()
    }

    /// With one that stands for what cannot be read.
    fn entries(self) -> Vec<Entry> {
        let unread = self.damage.map(|damage| Entry::unreadable(Scope::All, Cause::Manual, &damage.to_string()));
        self.records.into_iter().filter_map(|record| record.entry).chain(unread).collect()
    }
}

/// What is kept, in numbers that cost nothing: for metrics and alarms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Records in files: entries, and what says that one was removed.
    pub in_files: u64,
    /// Changes that no file has yet.
    pub in_memory: u64,
    /// Files.
    pub files: u64,
    /// Their octets.
    pub disk_bytes: u64,
    /// Octets of memory for filters and indexes.
    pub memory_bytes: u64,
    /// Damaged blocks that were come across since the start, and files that could not be read at all.
    pub damaged: u64,
    /// Why the last file could not be written.
    pub failed: Option<String>,
}

impl Suppressions {
    /// Opens the list of a spool. Blocks: reads the filters and indexes of all files.
    ///
    /// # Errors
    /// The disk says no, or a later Postrider wrote it. Damage is no error: it is told, and taken for the strictest meaning.
    pub fn open(spool: Spool, disk: Arc<dyn Disk>) -> Result<Suppressions, OpenFailure> {
        let files = file::open_all(&disk)?;
        let lost = file::lost(&disk);
        lost.iter()
            .for_each(|name| error!(%name, "a file of the suppression list could not be read at an earlier start"));
        let mut changes = Changes::default();
        for put in spool.state_entries(TABLE).map_err(|error| OpenFailure(error.to_string()))? {
            let Some(tail) = key::tail(&put.key).filter(|_| key::address(&put.key).is_some()) else {
                error!(key = ?put.key, "a change of the suppression list is of nobody; it is passed over");
                continue;
            };
            let read = match (&put.value, &tail) {
                (StateValue::Is(_), None) => Some(None),
                (StateValue::Is(value), Some((scope, cause))) => entry::read_value(value, scope, *cause),
                (StateValue::Damaged, _) => None,
                (StateValue::Absent, _) => continue,
            };
            match (read, tail) {
                (Some(entry), _) => changes.insert(put.key.to_vec(), entry),
                (None, Some((scope, cause))) => {
                    error!(
                        "a change of the suppression list is damaged; its address gets no mail until it is said anew"
                    );
                    changes.insert(put.key.to_vec(), Some(Entry::unreadable(scope, cause, "state log")));
                }
                // A damaged reset: what it made void counts again.
                (None, None) => error!("a change of the suppression list is damaged; what it removed is back"),
            }
        }
        let turn = files.iter().map(|file| file.name.to).max().unwrap_or(0) + 1;
        let shared = Arc::new(Shared {
            spool,
            disk,
            changes: RwLock::new(changes),
            files: ArcSwap::from_pointee(files),
            turn: AtomicU32::new(turn),
            stripes: (0..STRIPES).map(|_| tokio::sync::Mutex::default()).collect(),
            maintenance: Arc::default(),
            importing: Arc::default(),
            progress: import::Progress::default(),
            merging: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            failed: Mutex::default(),
            lost: lost.len() as u64,
            now: AtomicU64::new(0),
        });
        Ok(Suppressions { shared })
    }

    /// The entry that forbids to send mail of this stream to this address, if there is one: the one that says most about
    /// the address. Expired and pending ones never do.
    ///
    /// Takes microseconds; reads the disk where a filter says that the address may be in a file.
    pub fn blocking(&self, address: &Address, kind: StreamKind, stream: &str, now: Timestamp) -> Option<Entry> {
        self.blocking_but(address, kind, stream, &[], now)
    }

    /// As [`Suppressions::blocking`], for somebody to whom these causes mean nothing.
    pub fn blocking_but(
        &self,
        address: &Address,
        kind: StreamKind,
        stream: &str,
        bypassed: &[Cause],
        now: Timestamp,
    ) -> Option<Entry> {
        let seen = self.shared.look_up(&key::prefix(address));
        if seen.records.is_empty() && seen.damage.is_none() {
            return None;
        }
        let blocks = |entry: &Entry| {
            entry.is_in_force(now) && entry.scope.covers(kind, stream) && !bypassed.contains(&entry.cause)
        };
        let weight = |entry: &Entry| Cause::ALL.iter().position(|cause| *cause == entry.cause);
        seen.entries().into_iter().filter(blocks).min_by_key(weight)
    }

    /// Everything that the list says of an address, pending and expired too.
    pub fn entries(&self, address: &Address) -> Vec<Entry> {
        self.shared.look_up(&key::prefix(address)).entries()
    }

    /// Puts an entry into the list, in place of one of the same scope and cause. It is durable when this returns.
    ///
    /// # Errors
    /// It may be there or not; what was there before is not lost.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the entry may be there nevertheless.
    pub async fn put(&self, address: &Address, entry: Entry) -> Result<(), Failure> {
        self.change(address, |_| (vec![Edit::Put(entry)], ())).await
    }

    /// Changes the entries of an address by what they are: nobody else changes them between what `decide` is shown and what
    /// it says. Gives what it gives beside the edits. They are durable when this returns.
    ///
    /// # Errors
    /// Some may be done and others not; what was there before is not lost.
    ///
    /// # Cancel safety
    /// As [`Suppressions::put`].
    pub async fn change<T: Send + 'static>(
        &self,
        address: &Address,
        decide: impl FnOnce(&[Entry]) -> (Vec<Edit>, T) + Send + 'static,
    ) -> Result<T, Failure> {
        let (address, shared) = (address.clone(), self.shared.clone());
        spawned(async move {
            let prefix = key::prefix(&address);
            let told = {
                let _turn = shared.stripe(&prefix).lock().await;
                let (edits, told) = decide(&shared.look_up(&prefix).entries());
                for edit in edits {
                    shared.edit(&address, &prefix, edit).await?;
                }
                told
            };
            shared.merge_if_full(RETRY_AFTER);
            Ok(told)
        })
        .await
    }

    /// Removes the entries of an address; `None`: of any scope, of any cause. Gives how many there were. Durable when this
    /// returns.
    ///
    /// # Errors
    /// Some may be removed and others not.
    ///
    /// # Cancel safety
    /// As [`Suppressions::put`].
    pub async fn remove(
        &self,
        address: &Address,
        scope: Option<&Scope>,
        cause: Option<Cause>,
    ) -> Result<usize, Failure> {
        let (prefix, scope, shared) = (key::prefix(address), scope.cloned(), self.shared.clone());
        spawned(async move {
            let mut count = 0;
            {
                let _turn = shared.stripe(&prefix).lock().await;
                let seen = shared.look_up(&prefix);
                match &seen.damage {
                    // Nobody can tell which they were: all that the files say is void.
                    Some(_) if scope.is_none() && cause.is_none() => {
                        shared.change(prefix.clone(), None).await?;
                        count += 1;
                    }
                    Some(damage) => {
                        let why = format!("{damage}: only all entries of this address can be removed together");
                        return Err(Failure::Disk(why));
                    }
                    None => {}
                }
                for record in seen.records {
                    let Some(entry) = record.entry else { continue };
                    let is_meant = scope.as_ref().is_none_or(|scope| *scope == entry.scope)
                        && cause.is_none_or(|cause| cause == entry.cause);
                    if is_meant {
                        shared.change(record.key, None).await?;
                        count += 1;
                    }
                }
            }
            shared.merge_if_full(RETRY_AFTER);
            Ok(count)
        })
        .await
    }

    /// Tries again what failed a while ago, though nobody changes anything. To be called every few seconds.
    pub fn tick(&self) {
        self.shared.merge_if_full(RETRY_AFTER);
    }

    /// Writes what is in memory to a file, and takes it out of the state log: what happens by itself now and then.
    ///
    /// # Errors
    /// It stays where it is.
    pub async fn merge(&self) -> Result<(), Failure> {
        let shared = self.shared.clone();
        spawned(async move {
            let _turn = shared.maintenance.clone().lock_owned().await;
            shared.merge(true).await
        })
        .await
    }

    /// No file is begun any more; waits for the end of the one that is being written, which is given up. What has no file yet is in the state log. To be
    /// called before the spool is closed.
    pub async fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        drop(self.shared.maintenance.lock().await);
    }

    /// What is kept, in numbers.
    pub fn figures(&self) -> Figures {
        let shared = &self.shared;
        let files = shared.files.load();
        let sum = |of: fn(&Generation) -> u64| files.iter().map(|file| of(file)).sum::<u64>();
        Figures {
            in_files: sum(|file| file.entries),
            in_memory: shared.changes().by_key.len() as u64,
            files: files.len() as u64,
            disk_bytes: sum(|file| file.size),
            memory_bytes: sum(|file| file.weight() as u64),
            damaged: shared.lost + sum(|file| file.damaged() as u64),
            failed: lock(&shared.failed).as_ref().map(|(why, _)| why.clone()),
        }
    }
}

impl Shared {
    fn changes(&self) -> std::sync::RwLockReadGuard<'_, Changes> {
        self.changes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes_mut(&self) -> std::sync::RwLockWriteGuard<'_, Changes> {
        self.changes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripe(&self, prefix: &[u8]) -> &tokio::sync::Mutex<()> {
        // Invariant: there are as many as the remainder can be.
        &self.stripes[(hash(prefix) % STRIPES as u64) as usize]
    }

    fn see_time(&self, now: Timestamp) {
        self.now.fetch_max(now.as_millis(), Ordering::Relaxed);
    }

    /// Everything about an address; of each key the newest. First what is in memory, then the files: who moves it puts the
    /// file in place first.
    fn look_up(&self, prefix: &[u8]) -> Seen {
        let mut seen = Seen::default();
        let mut is_reset = false;
        for (key, change) in self.changes().of(prefix) {
            match key.len() == prefix.len() {
                true => is_reset = true,
                false => seen.records.push(Record { key: key.clone(), entry: change.entry.clone() }),
            }
        }
        let files = self.files.load();
        let hash = hash(prefix);
        for file in files.iter().rev() {
            if is_reset {
                break;
            }
            let found = file.find(hash, prefix, |key, entry| match key.len() == prefix.len() {
                true => is_reset = true,
                false if seen.records.iter().any(|record| record.key == key) => {}
                false => seen.records.push(Record { key: key.to_vec(), entry }),
            });
            if let Err(damage) = found {
                seen.damage = Some(damage);
            }
        }
        seen
    }

    /// The caller holds the address's lock.
    async fn edit(&self, address: &Address, prefix: &[u8], edit: Edit) -> Result<(), Failure> {
        let records = self.look_up(prefix).records;
        let is_there = |key: &[u8]| records.iter().any(|record| record.key == key && record.entry.is_some());
        match edit {
            Edit::Put(entry) => {
                let entry = entry.bounded();
                self.see_time(entry.last_at);
                let key = key::key(address, &entry.scope, entry.cause);
                let count = records.iter().filter(|record| record.entry.is_some()).count();
                match count >= ENTRIES_MAX && !is_there(&key) {
                    true => Err(Failure::Crowded { address: address.to_string().into() }),
                    false => self.change(key, Some(entry)).await,
                }
            }
            Edit::Remove(scope, cause) => {
                let key = key::key(address, &scope, cause);
                if is_there(&key) { self.change(key, None).await } else { Ok(()) }
            }
        }
    }

    /// Makes one change durable, then true in memory. The caller holds the address's lock.
    async fn change(&self, key: Vec<u8>, entry: Option<Entry>) -> Result<(), Failure> {
        if self.changes().is_full(CHANGES_OVERFULL) {
            let why = lock(&self.failed).as_ref().map(|(why, _)| why.clone());
            let why = why.unwrap_or_else(|| "one is being written, slower than changes come".to_owned());
            return Err(Failure::Overfull { why });
        }
        let value = Bytes::from(entry::write_value(entry.as_ref()));
        self.spool.state_put(TABLE, Bytes::copy_from_slice(&key), Some(value)).await?;
        self.changes_mut().insert(key, entry);
        Ok(())
    }

    /// What is in memory, and the files, the newest first.
    fn snapshot(&self) -> (Vec<Record>, Vec<Arc<Generation>>) {
        let record = |(key, change): (&Vec<u8>, &Change)| Record { key: key.clone(), entry: change.entry.clone() };
        let memory = self.changes().by_key.iter().map(record).collect();
        (memory, self.files.load().iter().rev().cloned().collect())
    }

    /// Whether a file may still be written: a stop does not wait for ten million entries.
    fn goes_on(&self) -> Result<(), Failure> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(Failure::Closed),
            false => Ok(()),
        }
    }

    fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn merge_if_full(self: &Arc<Shared>, retry_after: Duration) {
        // One that failed is tried again, however few changes there are: its alarm ends by that alone.
        let failed_for = lock(&self.failed).as_ref().map(|(_, at)| at.elapsed());
        let is_due = failed_for.map_or_else(|| self.changes().is_full(1), |age| age >= retry_after);
        if is_due {
            self.start_merge();
        }
    }

    /// Merges in the background, unless that is going on.
    fn start_merge(self: &Arc<Shared>) {
        if self.merging.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move {
            let _turn = shared.maintenance.clone().lock_owned().await;
            // Who needs another is told by the next change, or the next tick.
            let _ = shared.merge(false).await;
            shared.merging.store(false, Ordering::Release);
        });
    }

    /// Writes what is in memory to a file, with the files that this one would soon outgrow. The caller has the turn.
    /// `whatever`: even if there is little of it.
    async fn merge(self: &Arc<Shared>, whatever: bool) -> Result<(), Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed);
        }
        let merged = self.try_merge(whatever).await;
        let mut failed = lock(&self.failed);
        match &merged {
            Ok(()) => *failed = None,
            Err(Failure::Closed) => {}
            Err(failure) => {
                error!(%failure, "the suppression list's changes could not be written to a file; they stay in the state log");
                *failed = Some((failure.to_string(), Instant::now()));
            }
        }
        merged
    }

    async fn try_merge(self: &Arc<Shared>, whatever: bool) -> Result<(), Failure> {
        let changes: Vec<(Vec<u8>, Change)> = {
            let all = self.changes();
            match whatever || all.is_full(1) {
                true => all.by_key.iter().map(|(key, change)| (key.clone(), change.clone())).collect(),
                false => Vec::new(),
            }
        };
        let shared = self.clone();
        let done = blocking(move || shared.write_merged(changes)).await?;
        self.take_out_of_log(done).await
    }

    fn write_merged(&self, changes: Vec<(Vec<u8>, Change)>) -> Result<Vec<(Vec<u8>, u64)>, Failure> {
        let files = self.files.load_full();
        let chosen = chosen(&files, changes.len() as u64);
        if changes.is_empty() && chosen.len() < 2 {
            return Ok(Vec::new());
        }
        let numbers = changes.iter().map(|(key, change)| (key.clone(), change.number)).collect();
        let memory: Vec<Record> =
            changes.into_iter().map(|(key, change)| Record { key, entry: change.entry }).collect();
        let is_last = chosen.len() == files.len();
        let newest_first: Vec<Arc<Generation>> = chosen.iter().rev().cloned().collect();
        let entries_max = memory.len() as u64 + chosen.iter().map(|file| file.entries).sum::<u64>();
        let turn = match memory.is_empty() {
            true => chosen.last().map_or(0, |file| file.name.to),
            false => self.next_turn(),
        };
        let name = Name { from: chosen.first().map_or(turn, |file| file.name.from), to: turn };
        let mut builder = Builder::new(&self.disk, "merge", entries_max)?;
        let mut merge = Merge::new(memory, &newest_first, &[], if is_last { Gone::Dropped } else { Gone::Kept });
        let long_ago = Timestamp::from_millis(self.now.load(Ordering::Relaxed)).before(EXPIRED_KEPT);
        let written: Result<(), Failure> = merge.try_for_each(|record| {
            // Expired long ago: gone, as if it had been removed.
            let entry = record.entry.as_ref().filter(|entry| !entry.is_expired(long_ago));
            self.goes_on()?;
            match entry.is_none() && is_last {
                true => Ok(()),
                false => Ok(builder.push(&record.key, entry)?),
            }
        });
        let checked = match (merge.damaged(), written) {
            (0, written) => written,
            // The file goes on as it is, and no merge takes it up again.
            (_, _) => Err(Failure::Disk("a block is damaged; its file is kept and not merged any more".into())),
        };
        if let Err(failure) = checked {
            builder.remove();
            return Err(failure);
        }
        let generation = builder.finish(&name)?;
        info!(file = %name.path(), entries = generation.entries, of = chosen.len(), "suppression list: a file was written");
        self.replace(&chosen, generation);
        Ok(numbers)
    }

    /// Puts a file in place of those that it was made from, as the newest. The caller has the turn.
    fn replace(&self, chosen: &[Arc<Generation>], generation: Generation) {
        let is_chosen = |file: &Arc<Generation>| chosen.iter().any(|other| Arc::ptr_eq(file, other));
        let mut files: Vec<Arc<Generation>> =
            self.files.load().iter().filter(|file| !is_chosen(file)).cloned().collect();
        files.push(Arc::new(generation));
        self.files.store(Arc::new(files));
        for file in chosen {
            // One that stays is removed at the next start: its turns lie within the new one's.
            let _ = self.disk.unlink(&file.name.path());
        }
    }

    /// Takes out of the log, then out of memory, what a file has, unless it changed since.
    async fn take_out_of_log(self: &Arc<Shared>, done: Vec<(Vec<u8>, u64)>) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        let mut result = Ok(());
        for (key, number) in done {
            while tasks.len() >= CLEANED_AT_ONCE {
                result = result.and(tasks.join_next().await.unwrap_or(Ok(Ok(()))).unwrap_or(Err(Failure::Closed)));
            }
            if result.is_err() {
                break;
            }
            let shared = self.clone();
            tasks.spawn(async move {
                let _turn = shared.stripe(key::prefix_of(&key)).lock().await;
                if shared.changes().by_key.get(&key).is_none_or(|change| change.number != number) {
                    return Ok(());
                }
                shared.spool.state_put(TABLE, Bytes::copy_from_slice(&key), None).await?;
                shared.changes_mut().remove(&key);
                Ok(())
            });
        }
        while let Some(joined) = tasks.join_next().await {
            result = result.and(joined.unwrap_or(Err(Failure::Closed)));
        }
        result
    }
}

/// The newest files that go into a new one, the oldest first: so that each file has at least twice the entries of all newer
/// ones together, and there are never more than some ten.
fn chosen(files: &[Arc<Generation>], changes: u64) -> Vec<Arc<Generation>> {
    let mut newer = changes;
    let mut begin = files.len();
    for (at, file) in files.iter().enumerate().rev() {
        let is_first_of_none = newer == 0;
        if file.damaged() > 0 || (!is_first_of_none && file.entries >= newer.saturating_mul(GROWTH)) {
            break;
        }
        newer += file.entries.max(1);
        begin = at;
    }
    files.get(begin..).unwrap_or_default().to_vec()
}

/// Runs to its end, whatever becomes of the caller: what is durable must become true in memory.
async fn spawned<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(work).await.unwrap_or(Err(Failure::Closed))
}

/// Runs on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Failure::Closed))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
