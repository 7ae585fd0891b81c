//! What clients were promised: every message that was answered 250.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Peer, Sample};

/// A message that the daemon answered 250 for.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Its id.
    pub id: String,
    /// Its recipient.
    pub to: String,
    /// What its receipt must show.
    pub fingerprint: [u8; 32],
}

/// The acknowledged messages of all clients of a test.
#[derive(Default)]
pub struct Ledger {
    messages: Mutex<Vec<Acknowledged>>,
}

impl Ledger {
    fn messages(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a promise. Only after the 250 was read.
    pub fn acknowledge(&self, sample: &Sample) {
        let entry = Acknowledged { id: sample.id.clone(), to: sample.to(), fingerprint: sample.fingerprint() };
        self.messages().push(entry);
    }

    /// How many were promised.
    pub fn len(&self) -> usize {
        self.messages().len()
    }

    /// The ids that the peer has neither taken nor refused for good.
    pub fn missing(&self, peer: &Peer) -> Vec<String> {
        let (taken, refused) = (peer.taken_ids(), peer.refused());
        let messages = self.messages();
        let missing = messages.iter().filter(|message| !taken.contains(&message.id) && !refused.contains(&message.to));
        missing.map(|message| message.id.clone()).collect()
    }

    /// The ids that arrived with other bytes than were sent.
    pub fn altered(&self, peer: &Peer) -> Vec<String> {
        let sent: HashSet<(String, [u8; 32])> =
            self.messages().iter().map(|message| (message.id.clone(), message.fingerprint)).collect();
        let known: HashSet<String> = sent.iter().map(|(id, _)| id.clone()).collect();
        let receipts = peer.receipts();
        let altered = receipts.iter().filter(|receipt| {
            known.contains(&receipt.id) && !sent.contains(&(receipt.id.clone(), receipt.fingerprint))
        });
        altered.map(|receipt| receipt.id.clone()).collect()
    }
}
