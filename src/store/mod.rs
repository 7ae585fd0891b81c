//! The index on disk: small rows under their numbers, kept in sled, so that a start need not read the whole spool.
//!
//! Called by `queue`, about once a second, from a thread of its own. The store is never the only copy of anything, and
//! in any doubt it is deleted and begun anew, never repaired: sled 0.34 can fail to open for ever after a crash, panic
//! on a flipped byte, and hang after a full disk. So every call runs on a dedicated thread, under a deadline and
//! `catch_unwind`, and the first error, panic or silence makes the store bad for good. It decides nothing about mail.

mod rows;
mod sled_tree;
mod thread;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::size::ByteSize;
pub use rows::Rows;
use thread::Worker;
pub use thread::{Opener, Tree};

/// Largest value. A leaf of 16 values above it would leave sled's log for blob files, which it never syncs and hardly
/// ever deletes.
pub const VALUE_BYTES_MAX: usize = 4096;

/// How the index is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// sled's cache. Unit: bytes. Default 2 MiB; real use is several times this, and the rows are in memory anyway.
    pub cache: ByteSize,
    /// Longest wait for one call. Unit: seconds. Default 30: slower than this is a hang, not a busy disk.
    pub deadline: Duration,
    /// Longest wait for opening. Unit: seconds. Default 10: reading the spool is faster than a slower open.
    pub open_deadline: Duration,
    /// What opens a tree: sled, but for tests of what a failing one does.
    pub tree: TreeKind,
}

/// What opens a tree, given its cache's size.
#[derive(Clone)]
pub struct TreeKind(pub Arc<dyn Fn(ByteSize) -> Opener + Send + Sync>);

impl Default for TreeKind {
    fn default() -> Self {
        TreeKind(Arc::new(sled_tree::opener))
    }
}

impl fmt::Debug for TreeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TreeKind")
    }
}

impl Default for Settings {
    fn default() -> Self {
        let (deadline, open_deadline) = (Duration::from_secs(30), Duration::from_secs(10));
        Settings { cache: ByteSize::mib(2), deadline, open_deadline, tree: TreeKind::default() }
    }
}

/// Why the store is bad. It stays bad; its owner goes on from memory and begins a new one later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It said so, or what it holds does not fit.
    #[error("{0}")]
    Failed(String),
    /// It said nothing in time.
    #[error("no answer in {} s", .0.as_secs())]
    Silent(Duration),
}

/// The kernel's boot id: what was not synced survives a crash of ours, but not of the machine. Empty if there is none,
/// which fits nothing.
pub fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

/// Rows found at the start, and what they belong to.
#[derive(Debug)]
pub struct Loaded {
    /// The spool whose rows they are; of another spool they are worth nothing.
    pub spool: u128,
    /// Everything up to this record is in the rows, and perhaps some of what came after.
    pub sequence: u64,
    /// The highest segment of the spool that the rows know of.
    pub segment: u32,
    /// Number and value of each, in no order.
    pub rows: Rows,
}

/// An open index. Dropping it without [`Store::close`] leaves it to be believed on this boot only.
#[derive(Debug)]
pub struct Store {
    worker: Worker,
}

impl Store {
    /// Opens the index in `directory` and reads it, if it may be believed: after a clean close, or on the same `boot`.
    ///
    /// # Errors
    /// There is none, or it is not to be believed; the text says why.
    pub fn open(directory: &Path, settings: &Settings, boot: String) -> Result<(Store, Loaded), StoreError> {
        let mut worker = Worker::start(directory, settings)?;
        let loaded = worker.load(boot)?;
        Ok((Store { worker }, loaded))
    }

    /// Deletes what is in `directory` and begins an empty index.
    ///
    /// # Errors
    /// It could not be made; try again later.
    pub fn begin(directory: &Path, settings: &Settings, spool: u128, boot: String) -> Result<Store, StoreError> {
        let mut worker = Worker::start(directory, settings)?;
        worker.begin(spool, boot)?;
        Ok(Store { worker })
    }

    /// Writes rows, or removes those without a value.
    ///
    /// # Errors
    /// The store is bad now.
    pub fn write(&mut self, rows: Vec<(u64, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        if rows.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX)) {
            return Err(self
                .worker
                .condemn(StoreError::Failed(format!("a row is longer than {VALUE_BYTES_MAX} bytes"))));
        }
        self.worker.write(rows)
    }

    /// Says that the rows hold everything up to this record, and know of no segment of the spool above this one.
    ///
    /// # Errors
    /// The store is bad now.
    pub fn checkpoint(&mut self, sequence: u64, segment: u32) -> Result<(), StoreError> {
        self.worker.checkpoint(sequence, segment)
    }

    /// A last checkpoint, synced, so that the rows are believed even after the machine was off.
    ///
    /// # Errors
    /// The index will be rebuilt at the next start; nothing is lost.
    pub fn close(mut self, sequence: u64, segment: u32) -> Result<(), StoreError> {
        self.worker.close(sequence, segment)
    }
}

/// The only directory below `directory` that holds an index, if there is exactly one: more than one means that an
/// attempt to begin anew was cut short.
fn generation(directory: &Path) -> (Option<PathBuf>, u32) {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = names
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("index.")?.parse().ok())
        .take(GENERATIONS_MAX)
        .collect();
    numbers.sort_unstable();
    let last = numbers.last().copied().unwrap_or(0);
    let only = (numbers.len() == 1).then(|| directory.join(format!("index.{last}")));
    (only, last.saturating_add(1))
}

/// More directories than this in one place are not ours.
const GENERATIONS_MAX: usize = 10_000;
