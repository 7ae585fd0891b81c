//! The queue: every envelope that has no final answer, who may attempt it, and what became of it.
//!
//! Called by `accept` (put, settle), `delivery` (lease), `scheduler` (changes) and `http` (listings, operators' orders).
//! It never decides when or where mail goes.

use std::sync::Arc;

use crate::mail::{Domain, Envelope, Prepared, Progress, QueueId, StreamKind};
use crate::spool::{Body, DurableSeq, PutError, ReadError};
use crate::time::Timestamp;

/// The queue's handle. Cheap to clone.
#[derive(Clone)]
pub struct Queue {}

/// What the scheduler must know of a waiting envelope, and when it changes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new envelope, or one found at start, or one whose state an operator changed (held, released, due now).
    Waiting(Waiting),
    /// It has its final state, by an operator's hand (delete, bounce). Settles by a lease are not announced here.
    Gone(QueueId),
}

/// A waiting envelope as the scheduler sees it.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its name.
    pub id: QueueId,
    /// The recipients' domain.
    pub domain: Domain,
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
    /// Attempts that counted.
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

/// The right to attempt one envelope: at most one exists for each. Given back by [`Queue::settle`], or by dropping it,
/// which leaves the envelope as it was. Drop after [`Lease::final_dot_sent`] settles it as uncertain.
#[must_use = "an envelope stays leased until it is settled or the lease dropped"]
pub struct Lease {
    envelope: Arc<Envelope>,
    progress: Progress,
}

impl Lease {
    /// As accepted.
    pub fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }

    /// As last settled.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Marks that the peer may have taken the message: from here on an unclean end is uncertain (RFC 1047).
    pub fn final_dot_sent(&mut self) {
        todo!()
    }
}

/// A settle on its way to the disk.
#[must_use = "the next final dot on this connection must wait for `written`"]
pub struct Settling {}

impl Settling {
    /// Waits until the record is written (it survives `kill -9`); synced within 10 ms after.
    pub async fn written(self) {
        todo!()
    }
}

impl Queue {
    /// The next queue id. Rises over restarts.
    pub fn next_id(&self, now: Timestamp) -> QueueId {
        let _ = now;
        todo!()
    }

    /// Makes a message durable. When this returns, a 250 may be answered.
    ///
    /// # Errors
    /// Nothing was kept; the client must be told to try again.
    pub async fn put(&self, prepared: Prepared) -> Result<DurableSeq, PutError> {
        let _ = prepared;
        todo!()
    }

    /// Takes the lease of a waiting envelope. `None`: it is leased, held or gone.
    ///
    /// # Errors
    /// The record cannot be read; the envelope was held and the reason logged.
    pub async fn lease(&self, id: QueueId) -> Result<Option<Lease>, ReadError> {
        let _ = id;
        todo!()
    }

    /// The body of a leased envelope, from memory if it was accepted a moment ago, else from the spool.
    ///
    /// # Errors
    /// As [`Queue::lease`].
    pub async fn body(&self, lease: &Lease) -> Result<Body, ReadError> {
        let _ = lease;
        todo!()
    }

    /// Writes an envelope's new state, and the DSN that goes with it, in one record, and ends the lease.
    pub fn settle(&self, lease: Lease, progress: Progress, dsn: Option<Prepared>) -> Settling {
        let _ = (lease, progress, dsn);
        todo!()
    }
}
