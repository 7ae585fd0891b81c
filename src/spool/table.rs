//! Who decides that something is dead: per segment, one bit for each envelope in it, set only by a record that ends or
//! supersedes that envelope. Rebuilt from the log at every start.
//!
//! Called by recovery and by the writer, with the same facts in the same order. It never reads a disk.

use std::collections::{BTreeMap, HashMap};

use super::{Place, Position};
use crate::mail::QueueId;

/// One Accepted or Moved record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub offset: u32,
    /// Bytes of the whole record.
    pub bytes: u32,
    /// The first of its envelopes' bits.
    first_bit: u32,
    /// Envelopes in it that nothing ended.
    pub live: u32,
    pub sequence: u64,
}

/// Where a live envelope is, and which of its home's bits is its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub place: Place,
    slot: u32,
}

#[derive(Debug, Default)]
struct SegmentTable {
    /// By offset.
    homes: Vec<Home>,
    /// One bit an envelope: 1 = ended, on the word of a record.
    ended: Vec<u64>,
    bits: u32,
    live_bytes: u64,
    live_envelopes: u64,
}

/// The live envelopes and the bits.
#[derive(Debug, Default)]
pub(super) struct Table {
    live: HashMap<QueueId, Live>,
    segments: BTreeMap<u32, SegmentTable>,
    /// Homes whose body is a file, and its name.
    files: HashMap<Position, QueueId>,
    live_bytes: u64,
}

/// What came of ending an envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    /// The body's file, when this was the last envelope that needed it.
    pub orphan: Option<QueueId>,
}

impl Table {
    pub(super) fn live(&self) -> u64 {
        self.live.len() as u64
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn place(&self, id: QueueId) -> Option<Place> {
        self.live.get(&id).map(|live| live.place)
    }

    /// The number of the record that holds a live envelope.
    pub(super) fn home_sequence(&self, id: QueueId) -> Option<u64> {
        let home = self.live.get(&id)?.place.home;
        self.segments.get(&home.segment)?.home(home.offset).map(|home| home.sequence)
    }

    /// The files that live bodies are in.
    pub(super) fn files(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.files.values().copied()
    }

    /// The homes of a segment with a live envelope, from an offset on.
    pub(super) fn next_home(&self, segment: u32, from: u32) -> Option<Home> {
        let table = self.segments.get(&segment)?;
        let start = table.homes.partition_point(|home| home.offset < from);
        table.homes.get(start..)?.iter().find(|home| home.live > 0).copied()
    }

    /// Envelopes of a segment that nothing ended.
    pub(super) fn live_in(&self, segment: u32) -> u64 {
        self.segments.get(&segment).map_or(0, |table| table.live_envelopes)
    }

    /// Whether the bit of an envelope says that a record ended it here. `slot` is its place in the home.
    pub(super) fn is_ended(&self, home: Position, slot: u32) -> bool {
        let Some(table) = self.segments.get(&home.segment) else { return false };
        table.home(home.offset).is_some_and(|home| table.bit(home.first_bit + slot))
    }

    /// A record that holds envelopes. Whatever was known about them before is superseded.
    ///
    /// Gives the files of bodies that nothing needs any more: none, but for a log that contradicts itself.
    pub(super) fn home(
        &mut self,
        at: Position,
        bytes: u64,
        sequence: u64,
        file: Option<QueueId>,
        ids: impl ExactSizeIterator<Item = QueueId>,
    ) -> Vec<QueueId> {
        let count = ids.len() as u32;
        let table = self.segments.entry(at.segment).or_default();
        let first_bit = table.bits;
        table.bits += count;
        table.ended.resize(table.bits.div_ceil(64) as usize, 0);
        let home = Home { offset: at.offset, bytes: bytes as u32, first_bit, live: count, sequence };
        table.homes.push(home);
        table.live_bytes += bytes;
        table.live_envelopes += u64::from(count);
        self.live_bytes += bytes;
        if let Some(file) = file {
            self.files.insert(at, file);
        }
        let mut orphans = Vec::new();
        for (slot, id) in ids.enumerate() {
            let before = self.live.insert(id, Live { place: Place::home(at), slot: slot as u32 });
            if let Some(before) = before {
                let ended = self.end_at(before);
                orphans.extend(ended.orphan.filter(|orphan| Some(*orphan) != file));
            }
        }
        orphans
    }

    /// An envelope's state was written. `false`: it is not live.
    pub(super) fn state(&mut self, id: QueueId, at: Position) -> bool {
        match self.live.get_mut(&id) {
            Some(live) => {
                live.place.state = at;
                true
            }
            None => false,
        }
    }

    /// A record ended an envelope. `None`: it was not live.
    pub(super) fn end(&mut self, id: QueueId) -> Option<Ended> {
        let live = self.live.remove(&id)?;
        Some(self.end_at(live))
    }

    fn end_at(&mut self, live: Live) -> Ended {
        let at = live.place.home;
        let mut ended = Ended { orphan: None };
        let Some(table) = self.segments.get_mut(&at.segment) else { return ended };
        let Ok(index) = table.homes.binary_search_by_key(&at.offset, |home| home.offset) else { return ended };
        let Some(home) = table.homes.get_mut(index) else { return ended };
        let bit = home.first_bit + live.slot;
        let Some(word) = table.ended.get_mut((bit / 64) as usize) else { return ended };
        if *word & (1 << (bit % 64)) != 0 {
            return ended;
        }
        *word |= 1 << (bit % 64);
        home.live = home.live.saturating_sub(1);
        table.live_envelopes = table.live_envelopes.saturating_sub(1);
        if home.live == 0 {
            table.live_bytes = table.live_bytes.saturating_sub(u64::from(home.bytes));
            self.live_bytes = self.live_bytes.saturating_sub(u64::from(home.bytes));
            ended.orphan = self.files.remove(&at);
        }
        ended
    }

    /// Forgets a segment that is no more.
    pub(super) fn forget(&mut self, segment: u32) {
        if let Some(table) = self.segments.remove(&segment) {
            self.live_bytes = self.live_bytes.saturating_sub(table.live_bytes);
            for home in table.homes {
                self.files.remove(&Position { segment, offset: home.offset });
            }
        }
    }

    /// Gives up an envelope whose home cannot be read any more: its record was quarantined.
    pub(super) fn give_up(&mut self, home: Position) -> Vec<QueueId> {
        let lost: Vec<QueueId> =
            self.live.iter().filter(|(_, live)| live.place.home == home).map(|(id, _)| *id).collect();
        for id in &lost {
            self.end(*id);
        }
        lost
    }
}

impl SegmentTable {
    fn home(&self, offset: u32) -> Option<&Home> {
        let index = self.homes.binary_search_by_key(&offset, |home| home.offset).ok()?;
        self.homes.get(index)
    }

    fn bit(&self, bit: u32) -> bool {
        self.ended.get((bit / 64) as usize).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> Position {
        Position { segment, offset }
    }

    fn id(raw: u64) -> QueueId {
        QueueId::from_u64(raw)
    }

    #[test]
    fn only_a_record_ends_an_envelope_and_the_last_end_frees_the_bytes() {
        let mut table = Table::default();
        table.home(at(1, 4096), 1000, 7, Some(id(1)), [id(1), id(2)].into_iter());
        assert_eq!((table.live(), table.live_bytes(), table.live_in(1)), (2, 1000, 2));
        assert_eq!(table.home_sequence(id(2)), Some(7));
        assert_eq!(table.end(id(1)), Some(Ended { orphan: None }));
        assert_eq!(table.end(id(1)), None);
        assert!(table.is_ended(at(1, 4096), 0) && !table.is_ended(at(1, 4096), 1));
        assert_eq!(table.next_home(1, 0).map(|home| home.offset), Some(4096));
        assert_eq!(table.end(id(2)), Some(Ended { orphan: Some(id(1)) }));
        assert_eq!((table.live(), table.live_bytes(), table.live_in(1)), (0, 0, 0));
        assert!(table.next_home(1, 0).is_none());
    }

    #[test]
    fn a_move_ends_the_old_home_and_keeps_the_file() {
        let mut table = Table::default();
        table.home(at(1, 4096), 100, 1, Some(id(1)), [id(1), id(2)].into_iter());
        assert!(table.state(id(2), at(1, 8000)));
        table.end(id(1));
        let orphans = table.home(at(2, 4096), 90, 5, Some(id(1)), [id(2)].into_iter());
        assert!(orphans.is_empty());
        assert_eq!(table.place(id(2)), Some(Place::home(at(2, 4096))));
        assert_eq!((table.live_in(1), table.live_in(2), table.live_bytes()), (0, 1, 90));
        table.forget(1);
        assert_eq!(table.files().collect::<Vec<_>>(), [id(1)]);
        assert_eq!(table.live_bytes(), 90);
    }
}
