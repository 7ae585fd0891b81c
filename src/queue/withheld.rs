//! A put whose envelopes stand still until whoever put them says so: for a way in that must first forget where they came from.
//!
//! Leases are of memory alone, so after a crash all that was withheld is simply in the queue. Until it is let go, nothing
//! can end it: that it is not in the queue after a crash proves that it was never put.

use std::collections::BTreeSet;

use super::operator::Ordered;
use super::{Change, Lease, Queue, lock};
use crate::mail::{Prepared, QueueId};
use crate::spool::{DurableSeq, PutError};

/// Keeps envelopes from being attempted. Dropping it lets them go.
#[must_use = "what is withheld goes as soon as this is dropped"]
pub struct Withheld {
    queue: Queue,
    /// A message may have 100,000 envelopes, and end most of them.
    ids: BTreeSet<QueueId>,
}

impl Queue {
    /// As [`Queue::put`], but nothing of it is attempted, and no order carried out, before [`Withheld`] is dropped.
    ///
    /// # Errors
    /// Nothing was kept.
    ///
    /// # Cancel safety
    /// Dropped while waiting, the message may or may not have been kept, and is not withheld any more.
    pub async fn put_withheld(&self, prepared: Prepared) -> Result<(DurableSeq, Withheld), PutError> {
        let ids: BTreeSet<QueueId> = prepared.envelopes.iter().map(|envelope| envelope.id).collect();
        lock(&self.shared.withheld).extend(&ids);
        let withheld = Withheld { queue: self.clone(), ids };
        let durable = self.spool.put(prepared).await?;
        Ok((durable, withheld))
    }

    /// Whether an envelope waits: with [`Queue::put_withheld`], whether it was ever put.
    pub fn is_waiting(&self, id: QueueId) -> bool {
        self.shared.table().seen(id).is_some()
    }
}

impl Withheld {
    /// Takes one of them, before anybody else can.
    ///
    /// # Errors
    /// It is none of them, or its record cannot be read.
    pub async fn lease(&mut self, id: QueueId) -> Result<Lease, Ordered> {
        if !self.ids.remove(&id) {
            return Err(Ordered::Unknown);
        }
        let row = {
            lock(&self.queue.shared.withheld).remove(&id);
            // Nobody hears of a change, since there is none: it was leased, and is again.
            let mut table = self.queue.shared.table();
            table.give_back(id);
            table.lease_for_order(id).ok().flatten()
        };
        self.queue.lease_of(row.ok_or(Ordered::Unknown)?).await
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        let shared = &self.queue.shared;
        // The applier works under this lock: it leased the row by now, or will find that it need not.
        let sink = lock(&shared.sink);
        let changes: Vec<Change> = {
            let mut withheld = lock(&shared.withheld);
            self.ids.iter().for_each(|id| {
                withheld.remove(id);
            });
            let mut table = shared.table();
            self.ids.iter().filter_map(|id| table.give_back(*id)).collect()
        };
        if let Some(sink) = &*sink {
            changes.into_iter().for_each(|change| sink(change));
        }
    }
}
