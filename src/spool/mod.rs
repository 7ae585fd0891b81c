//! The spool: the truth about every message, in append-only logs of checksummed records.
//!
//! Called by `queue` (put, settle, read), by every room that keeps state (`state_put`), by the command line (check,
//! backup, restore). It never decides where or when mail goes, and never takes absence from an index for death.
//! `docs/SPOOL.md` draws every record byte by byte and says what a crash at each point leaves.
//!
//! ```text
//!   put ───┐                 ┌─ mail-N.log   Accepted, Settled, Moved
//!   settle ┼─► writer thread ┤
//!   state ─┘   (group commit)└─ state-N.log  Put{table, key, value}
//!                   │ applied in log order
//!                   ▼
//!                 Apply (the queue's rows)
//! ```

mod backup;
mod body;
mod check;
mod clean;
pub mod disk;
mod field;
mod handle;
mod log;
mod quarantine;
mod read;
mod record;
mod recover;
mod replay;
mod segment;
mod settings;
mod state;
mod table;
mod wire;
mod writer;

pub use backup::restore;
pub use check::{CheckProgress, CheckReport, DAMAGE_LINES_MAX, check};
pub use disk::{Disk, DiskFile, FileDisk};
pub use handle::{Fatal, Spool, Ticket, abort};
pub use read::Reader;
pub use record::{BodyPlace, Entry, decode_front, decode_record, encode_record};
pub use settings::{Known, OpenOptions, Settings};
pub use state::{Compacted, Compaction};
pub use writer::{Broken, PutFailure, PutRequest, SettleRequest, StateRequest, Work, Writer};

use std::time::Duration;

use bytes::Bytes;

use crate::mail::{Envelope, Progress, QueueId};
use crate::time::Timestamp;

/// Where a record stands in the mail log. 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// The segment's number; rises for ever.
    pub segment: u32,
    /// Bytes from the segment's start. Segments are at most 4 GiB.
    pub offset: u32,
}

/// Where an envelope is kept: the record that holds it, and the one that holds its latest state. 16 bytes.
///
/// An accepted or moved envelope has both at the same position; a settle changes `state` alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The Accepted or Moved record with the envelope and the way to its body.
    pub home: Position,
    /// The record with the latest progress.
    pub state: Position,
}

impl Place {
    /// As accepted or moved.
    pub fn home(at: Position) -> Place {
        Place { home: at, state: at }
    }
}

/// The number of a record, in log order, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

/// Names one spool for life; a checkpoint of another spool's rows is worthless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpoolId(pub u128);

/// Proof that a record is on the disk: only the spool can make one, and only a holder can answer 250.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a 250 may be answered only with this in hand"]
pub struct DurableSeq(Sequence);

impl DurableSeq {
    /// The record's number.
    pub fn sequence(self) -> Sequence {
        self.0
    }
}

/// What one Accepted record brings.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its envelopes, all at the same position.
    pub envelopes: Vec<Envelope>,
    /// The body, when it was accepted a moment ago and is still in memory; `None` when replayed at start.
    pub body: Option<Bytes>,
}

/// The value of a state key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateValue {
    /// As put.
    Is(Bytes),
    /// Removed.
    Absent,
    /// Put, but its record is damaged: the owner of the table takes its strictest meaning.
    Damaged,
}

/// One Put of the state log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateEntry {
    /// Which room's table. Numbers are given out in `docs/SPOOL.md`.
    pub table: u16,
    /// Key within the table.
    pub key: Bytes,
    /// The latest put wins.
    pub value: StateValue,
}

/// What the writer tells the queue, in log order, on the writer thread: an accepted record after its `fdatasync` and
/// before its waiter wakes, a settled one after its write and before its ticket wakes. At start, the same for every
/// record of the logs after [`OpenOptions::applied`]. Must be quick and must not block on the spool.
///
/// Everything here is idempotent by queue id: an `accepted` or `moved` for an id that is known replaces what is known
/// about it, and a `settled` for an unknown id is to be ignored.
pub trait Apply: Send {
    /// Settles or state entries are about to be written: what must be known outside before a start can find them is to be
    /// told now. Whatever happened before a call of `settle` or `state_put` happened before this. Called in the step that
    /// takes them, not again where one is kept until there is room.
    fn before_write(&mut self);
    /// These envelopes are now durable, at `at`, nothing tried, due when they are released ([`Envelope::untried`]).
    fn accepted(&mut self, sequence: Sequence, at: Position, message: Message);
    /// An envelope's state was written at `at`. `progress.is_final()` ends it.
    fn settled(&mut self, sequence: Sequence, at: Position, id: QueueId, progress: Progress);
    /// The cleaner copied an envelope and its state forward: home and state are now `at`.
    fn moved(&mut self, sequence: Sequence, at: Position, envelope: Envelope, progress: Progress);
    /// The envelope's record was found unreadable, copied to `quarantine/` and given up.
    fn lost(&mut self, id: QueueId);
    /// A state entry was put (durable), or found at start.
    fn state(&mut self, entry: StateEntry);
}

/// Why a put failed. The client gets a 4xx and keeps the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// 452 4.3.1: no room. Deliveries go on and make some.
    #[error("the disk under the spool is full")]
    Full,
    /// 421 or 451: the daemon is stopping, or the spool failed.
    #[error("the spool is closed")]
    Closed,
}

/// An envelope as read back.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As accepted.
    pub envelope: Envelope,
    /// As last settled.
    pub progress: Progress,
}

/// A body or an envelope, or why it cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its checksum is wrong: quarantined. The queue holds the envelope.
    #[error("the record is damaged")]
    Damaged,
    /// The record has moved since its position was looked up: look it up again.
    #[error("the record has moved")]
    Gone,
    /// The disk said no, or there is no such record.
    #[error("the record could not be read: {0}")]
    Unreadable(String),
}

/// Body bytes as read from the spool or shared from memory.
pub type Body = Bytes;

/// What a start found. The newest id and time are floors for `queue` and `clock`.
#[derive(Clone, Debug)]
pub struct StartReport {
    /// The spool's name.
    pub spool_id: SpoolId,
    /// The last run closed the spool cleanly.
    pub clean: bool,
    /// Records after this were given to [`Apply`]; at most [`OpenOptions::applied`], less when records moved.
    pub applied_from: Sequence,
    /// The last record of the mail log.
    pub last: Sequence,
    /// Envelopes without a final state. A checkpoint that leads to another number is wrong.
    pub live: u64,
    /// Records of the tail that were rewritten to a fresh segment.
    pub rewritten: u64,
    /// Records that could not be read, copied to `quarantine/`.
    pub quarantined: u64,
    /// State records whose key could not be told.
    pub state_lost: u64,
    /// The highest queue id ever accepted, as far as the log knows.
    pub last_id: QueueId,
    /// The latest time in any record.
    pub newest: Timestamp,
}

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("another process is using this spool")]
    Locked,
    /// Not even the reserve is there: some space must be freed by hand.
    #[error("the disk under the spool is full and its reserve is used up")]
    Full,
    /// The disk said no.
    #[error("{doing}: {source}")]
    Disk {
        /// What was tried.
        doing: String,
        /// What came of it.
        source: std::io::Error,
    },
    /// Written by a newer Postrider.
    #[error("{name} has format version {version}; this Postrider reads up to {known}")]
    Version {
        /// The file.
        name: String,
        /// Its version.
        version: u16,
        /// Ours.
        known: u16,
    },
}

/// What the spool is doing: for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Envelopes without a final state.
    pub live: u64,
    /// Bytes of the mail log's segments.
    pub mail_bytes: u64,
    /// Bytes of records that hold a live envelope.
    pub live_bytes: u64,
    /// Segments of the mail log.
    pub mail_segments: u64,
    /// Segments of the state log.
    pub state_segments: u64,
    /// Preallocated segments at hand; below the reserve, puts are refused.
    pub spares: u64,
    /// Syncs of either log since the start.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_time: Duration,
    /// Those of them that took a second or more.
    pub slow_syncs: u64,
    /// Records written since the start.
    pub records: u64,
    /// Envelopes copied forward by the cleaner since the start.
    pub moved: u64,
    /// Records copied to `quarantine/` since the start.
    pub quarantined: u64,
    /// Puts refused for want of space since the start.
    pub refused_full: u64,
    /// Free bytes on the file system, as of the last look (about once a second).
    pub free_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
}
