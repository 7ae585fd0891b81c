//! What the spool's writer thread tells the queue, in log order. Quick, and never waits for anything but the table.

use std::sync::Arc;

use super::{Change, Shared, StateEar, lock};
use crate::mail::{Envelope, Progress, QueueId};
use crate::spool::{Apply, Message, Position, Sequence, StateEntry};

/// The queue's ear at the spool.
pub(super) struct Applier {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<std::sync::Mutex<StateEar>>,
    pub(super) before_write: fn(),
}

impl Apply for Applier {
    fn before_write(&mut self) {
        (self.before_write)();
    }

    fn accepted(&mut self, sequence: Sequence, at: Position, message: Message) {
        let sink = lock(&self.shared.sink);
        let mut changes = Vec::with_capacity(if sink.is_some() { message.envelopes.len() } else { 0 });
        {
            let withheld = lock(&self.shared.withheld);
            let mut table = self.shared.table();
            for envelope in &message.envelopes {
                table.place(sequence, at, envelope, None);
                if !withheld.is_empty() && withheld.contains(&envelope.id) {
                    // Announced when it is let go.
                    table.lease(envelope.id);
                } else if sink.is_some() {
                    changes.extend(table.seen(envelope.id).map(|seen| Change::Waiting(seen.waiting)));
                }
            }
        }
        if let Some(body) = message.body {
            let mut hot = lock(&self.shared.hot);
            // What is scheduled or held is not for a moment from now.
            for envelope in message.envelopes.into_iter().filter(|envelope| !envelope.is_scheduled() && !envelope.held)
            {
                hot.keep(Arc::new(envelope), body.clone());
            }
        }
        // Told last: whoever hears of it may lease it at once, and finds it hot.
        if let Some(sink) = &*sink {
            changes.into_iter().for_each(|change| sink(change));
        }
    }

    fn settled(&mut self, sequence: Sequence, at: Position, id: QueueId, progress: Progress) {
        lock(&self.shared.hot).forget(id);
        self.shared.change(|table| table.settled(sequence, at, id, &progress));
        if progress.is_final() {
            self.shared.take_wish(id);
        }
    }

    fn moved(&mut self, sequence: Sequence, at: Position, envelope: Envelope, progress: Progress) {
        self.shared.table().place(sequence, at, &envelope, Some(&progress));
    }

    fn lost(&mut self, id: QueueId) {
        tracing::error!(queue_id = %id, "an envelope's record is damaged; it was copied to quarantine and given up");
        lock(&self.shared.hot).forget(id);
        self.shared.change(|table| table.lost(id));
        self.shared.take_wish(id);
    }

    fn state(&mut self, entry: StateEntry) {
        (lock(&self.state))(entry);
    }
}
