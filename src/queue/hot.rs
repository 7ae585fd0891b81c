//! Envelopes and bodies that were accepted a moment ago, kept so that a first attempt reads nothing from the disk.
//!
//! Filled by the applier once the record is durable, emptied by the first settle. Bounded in bytes: beyond them the
//! oldest go first, and are read from the spool like any other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::mail::{Envelope, QueueId};

/// What an entry costs beyond its body and headers: names, addresses, the maps' own share. Unit: bytes.
const ENTRY_BYTES: usize = 1024;

/// The cache.
#[derive(Debug)]
pub(super) struct Hot {
    entries: HashMap<QueueId, Entry>,
    /// In the order of arrival; ids that are gone are skipped.
    order: VecDeque<QueueId>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) envelope: Arc<Envelope>,
    pub(super) body: Bytes,
    cost: usize,
}

impl Hot {
    pub(super) fn new(bytes_max: usize) -> Hot {
        Hot { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Keeps an envelope, if it fits at all.
    ///
    /// A body that several envelopes share counts once for each: the bound is kept, never exceeded.
    pub(super) fn keep(&mut self, envelope: Arc<Envelope>, body: Bytes) {
        let own = envelope.added_headers.len() + envelope.marks.octets() + envelope.recipients.len() * 128;
        let cost = ENTRY_BYTES + body.len() + own;
        if cost > self.bytes_max {
            return;
        }
        let id = envelope.id;
        self.forget(id);
        self.bytes += cost;
        self.entries.insert(id, Entry { envelope, body, cost });
        self.order.push_back(id);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.order.retain(|id| entries.contains_key(id));
        }
    }

    pub(super) fn entry(&self, id: QueueId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(super) fn forget(&mut self, id: QueueId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.cost.min(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::samples::envelope;

    #[test]
    fn the_oldest_make_room_and_the_bound_holds() {
        let body = Bytes::from(vec![b'x'; 10_000]);
        let mut hot = Hot::new(100_000);
        for number in 1..=1000 {
            hot.keep(Arc::new(envelope(number)), body.clone());
            assert!(hot.bytes <= 100_000);
            assert!(hot.order.len() <= 2 * hot.entries.len() + 65);
        }
        assert!(hot.entry(QueueId::from_u64(1)).is_none());
        assert!(hot.entry(QueueId::from_u64(1000)).is_some());
        for number in 1..=1000 {
            hot.forget(QueueId::from_u64(number));
        }
        assert_eq!((hot.bytes, hot.entries.len()), (0, 0));
    }

    #[test]
    fn a_body_over_the_whole_bound_is_left_to_the_disk() {
        let mut hot = Hot::new(5_000);
        hot.keep(Arc::new(envelope(1)), Bytes::from(vec![b'x'; 10_000]));
        assert!(hot.entry(QueueId::from_u64(1)).is_none());
        assert_eq!(hot.bytes, 0);
    }
}
