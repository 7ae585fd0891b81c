//! The spool: the truth about every message, in append-only logs of checksummed records. See `docs/SPOOL.md`.

use std::sync::Arc;

use bytes::Bytes;

use crate::mail::{Envelope, Prepared, Progress, QueueId};

/// Where a record stands in the mail log. 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// The segment's number; rises for ever.
    pub segment: u32,
    /// Bytes from the segment's start. Segments are at most 4 GiB.
    pub offset: u32,
}

/// The number of a record, in log order, from 1, without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

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

/// What the writer tells the queue, in log order, on the writer thread: an accepted record after its `fdatasync` and
/// before its waiter wakes.
pub trait Apply: Send {
    /// These envelopes are now durable. One record, at `at`; `place` in the record is their order.
    fn accepted(&mut self, sequence: Sequence, at: Position, prepared: &Prepared);
    /// An envelope's state was written at `at`. `progress.is_final()` ends it.
    fn settled(&mut self, sequence: Sequence, at: Position, id: QueueId, progress: &Progress);
    /// The cleaner copied an envelope (and its state) forward to `at`.
    fn moved(&mut self, sequence: Sequence, at: Position, id: QueueId);
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

/// An envelope as read back, with its body's whereabouts.
#[derive(Clone, Debug)]
pub struct Stored {
    /// As accepted.
    pub envelope: Arc<Envelope>,
    /// As last settled.
    pub progress: Progress,
}

/// A body, or why it cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Its checksum is wrong: quarantined.
    #[error("the record is damaged")]
    Damaged,
    /// The disk said no, or there is no such record.
    #[error("the record could not be read: {0}")]
    Unreadable(String),
}

/// Body bytes as read from the spool or shared from memory.
pub type Body = Bytes;
