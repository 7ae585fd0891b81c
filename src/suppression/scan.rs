//! Goes through the whole list in the order of keys: what is newer wins, what was removed is left out.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::block::Record;
use super::file::{Cursor, Damage, Generation};
use super::key;

/// One run of records in the order of keys.
enum Source {
    File(Cursor),
    Memory(std::vec::IntoIter<Record>),
}

impl Source {
    fn next(&mut self) -> Option<Result<Record, Damage>> {
        match self {
            Source::File(cursor) => cursor.next(),
            Source::Memory(records) => records.next().map(Ok),
        }
    }
}

/// A run's next record. `rank`: 0 is the newest run.
struct Head {
    record: Record,
    rank: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    /// The heap's greatest: the smallest key, of it the newest.
    fn cmp(&self, other: &Head) -> Ordering {
        other.record.key.cmp(&self.record.key).then(other.rank.cmp(&self.rank))
    }
}

/// What is done with records that say that something is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// Left out: nothing older is there for them to hide.
    Dropped,
    /// Kept, for files that are older still.
    Kept,
}

/// Runs as one.
pub(super) struct Merge {
    sources: Vec<Source>,
    heap: BinaryHeap<Head>,
    gone: Gone,
    last: Vec<u8>,
    /// An address that was reset, and the rank of the run that says so.
    reset: Option<(Vec<u8>, usize)>,
    /// Blocks that could not be read.
    damaged: u64,
}

impl Merge {
    /// Over records in memory, which are the newest, and files, the newest first; from the first key that is not before
    /// `from`.
    pub fn new(memory: Vec<Record>, files: &[Arc<Generation>], from: &[u8], gone: Gone) -> Merge {
        let files = files.iter().map(|file| Source::File(file.cursor(from)));
        let sources = std::iter::once(Source::Memory(memory.into_iter())).chain(files).collect();
        let mut merge = Merge { sources, heap: BinaryHeap::new(), gone, last: Vec::new(), reset: None, damaged: 0 };
        (0..merge.sources.len()).for_each(|rank| merge.advance(rank));
        merge
    }

    /// Blocks that could not be read so far; what was in them is missing.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn advance(&mut self, rank: usize) {
        while let Some(next) = self.sources.get_mut(rank).and_then(Source::next) {
            match next {
                Ok(record) => return self.heap.push(Head { record, rank }),
                Err(_) => self.damaged += 1,
            }
        }
    }

    fn is_void(&mut self, head: &Head) -> bool {
        let prefix = key::prefix_of(&head.record.key);
        let is_reset = prefix.len() == head.record.key.len();
        match &self.reset {
            Some((address, rank)) if address == prefix => return is_reset || head.rank > *rank,
            Some(_) | None => {}
        }
        if is_reset {
            self.reset = Some((prefix.to_vec(), head.rank));
        }
        false
    }
}

impl Iterator for Merge {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            let head = self.heap.pop()?;
            self.advance(head.rank);
            if self.is_void(&head) || head.record.key == self.last {
                continue;
            }
            self.last.clone_from(&head.record.key);
            match (&head.record.entry, self.gone) {
                (None, Gone::Dropped) => {}
                (None, Gone::Kept) | (Some(_), _) => return Some(head.record),
            }
        }
    }
}
