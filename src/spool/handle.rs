//! The spool's handle and the thread behind it: what the other rooms call.
//!
//! Async callers leave their work in the inbox and wait for the writer to wake them; only reads touch the disk on the
//! caller's side.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::Disk;
use super::{
    Apply, DurableSeq, OpenError, OpenOptions, Place, Position, PutError, ReadError, Settings, StartReport, StateEntry,
    Stats, Stored,
};
use crate::mail::{Prepared, Progress, QueueId};

/// What is done when the disk broke a promise: it must not return to a daemon that goes on answering 250. The default
/// aborts the process.
pub type Fatal = Box<dyn Fn(&str) + Send + Sync>;

/// The spool. Cheap to clone.
#[derive(Clone)]
pub struct Spool {}

/// A settle on its way to the disk.
#[must_use = "the next final dot on this connection must wait for `written`"]
pub struct Ticket {}

impl Ticket {
    /// Waits until the record is written (it survives `kill -9`); synced within 10 ms after. `false`: the spool is
    /// closed or failed first.
    pub async fn written(self) -> bool {
        todo!()
    }
}

impl Spool {
    /// Locks, recovers and replays the spool in `disk`, then starts its writer thread. Blocks until everything is applied.
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
        let _ = (settings, disk, options, apply, fatal);
        todo!()
    }

    /// Makes a message durable: when this returns, it was synced and applied.
    ///
    /// # Errors
    /// Nothing was kept.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the message may have been kept nevertheless.
    pub async fn put(&self, prepared: Prepared) -> Result<DurableSeq, PutError> {
        let _ = prepared;
        todo!()
    }

    /// Writes an envelope's new state, and with it in one record the DSN that it causes. In the order of calls. An id
    /// that is not live is ignored, its DSN too.
    pub fn settle(&self, id: QueueId, progress: Progress, dsn: Option<Prepared>) -> Ticket {
        let _ = (id, progress, dsn);
        todo!()
    }

    /// Makes a state entry durable. `None` removes the key.
    ///
    /// # Errors
    /// As [`Spool::put`]; the reserve is used before `Full`.
    pub async fn state_put(&self, table: u16, key: Bytes, value: Option<Bytes>) -> Result<(), PutError> {
        let _ = (table, key, value);
        todo!()
    }

    /// All entries of one table that are not absent, read from the log, in the order of keys. Blocks.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn state_entries(&self, table: u16) -> Result<Vec<StateEntry>, ReadError> {
        let _ = table;
        todo!()
    }

    /// Reads an envelope and its state. Blocks on the disk (microseconds when cached): call from `spawn_blocking`, or
    /// where that is no harm.
    ///
    /// # Errors
    /// See [`ReadError`]; at `Gone`, look the place up again.
    pub fn read(&self, place: Place, id: QueueId) -> Result<Stored, ReadError> {
        let _ = (place, id);
        todo!()
    }

    /// Reads the body of the record at `home` and verifies its checksum. Blocks, as [`Spool::read`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_body(&self, home: Position) -> Result<Bytes, ReadError> {
        let _ = home;
        todo!()
    }

    /// Numbers for metrics and `spool check`.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// How long ago the writer thread last showed life. It does so at least once a second: for the watchdog.
    pub fn writer_silence(&self) -> Duration {
        todo!()
    }

    /// Copies a consistent spool to a directory that does not exist yet, while running: sealed segments and large bodies
    /// by hard link, the rest by copy. Blocks.
    ///
    /// # Errors
    /// The disk said no; what was copied is left for the caller to remove.
    pub fn backup(&self, to: &std::path::Path) -> std::io::Result<()> {
        let _ = to;
        todo!()
    }

    /// Writes what waits, marks a clean close, and ends the thread. Blocks. Later calls answer `Closed`.
    pub fn close(&self) {
        todo!()
    }
}
