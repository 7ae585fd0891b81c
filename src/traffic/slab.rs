//! Storage by small numbers: slots that are reused, and rows in chunks that never move.
//!
//! Used by the engine only.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::{Index, IndexMut};

use super::heap::Ranked;
use crate::mail::QueueId;
use crate::time::Timestamp;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Values in numbered slots, in chunks, so that growing moves nothing and wastes little.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

/// Slots in one chunk of a [`Slab`].
const SLAB_CHUNK: usize = 64;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts a value into a slot of our choice.
    pub fn insert(&mut self, value: T) -> u32 {
        let slot = self.free.pop().unwrap_or(self.slots());
        self.insert_at(slot, value);
        slot
    }

    /// Puts a value into a slot of the caller's choice; the caller hands out small numbers. Not to be mixed with
    /// [`Slab::insert`].
    pub fn insert_at(&mut self, slot: u32, value: T) {
        while self.slots() <= slot {
            match self.chunks.last_mut().filter(|chunk| chunk.len() < SLAB_CHUNK) {
                Some(chunk) => chunk.push(None),
                None => {
                    let mut chunk = Vec::with_capacity(SLAB_CHUNK);
                    chunk.push(None);
                    self.chunks.push(chunk);
                }
            }
        }
        if let Some(place) = self.place(slot) {
            *place = Some(value);
        }
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<T>> {
        self.chunks.get_mut(slot as usize / SLAB_CHUNK)?.get_mut(slot as usize % SLAB_CHUNK)
    }

    pub fn take(&mut self, slot: u32) -> Option<T> {
        let value = self.place(slot)?.take()?;
        self.free.push(slot);
        Some(value)
    }

    /// As [`Slab::take`], for slots of the caller's choice.
    pub fn take_at(&mut self, slot: u32) -> Option<T> {
        self.place(slot)?.take()
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.chunks.get(slot as usize / SLAB_CHUNK)?.get(slot as usize % SLAB_CHUNK)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.place(slot)?.as_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let all = self.chunks.iter().flatten().enumerate();
        all.filter_map(|(slot, value)| Some((slot as u32, value.as_ref()?)))
    }

    pub fn slots(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * SLAB_CHUNK;
        (full + self.chunks.last().map_or(0, Vec::len)) as u32
    }
}

// Invariant: the engine indexes only with slots that it got from `insert` and has not taken; what comes from outside
// goes through `get`.
impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, slot: u32) -> &T {
        self.get(slot).expect("a slot in use")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.get_mut(slot).expect("a slot in use")
    }
}

/// Where an envelope is within the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// In a free row.
    Free,
    /// Nowhere: it does not move.
    Held,
    /// In the timers, until it is due.
    Later,
    /// In its flow, and in the timers for its expiry.
    Ready,
    /// In the line of those to be ended.
    Dying,
    /// On a connection, whose number is its `place`.
    Flying,
    /// Ordered to be ended.
    Ending,
}

/// An envelope: 40 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub id: QueueId,
    pub due: Timestamp,
    pub deadline: Timestamp,
    pub flow: u32,
    /// In the flow's heap; the connection's number while flying; the next free row when free.
    pub place: u32,
    /// In the timers' heap.
    pub timer: u32,
    pub recipients: u16,
    pub state: State,
    /// `GONE`, `HOLD`, `HEARD`: what to do when it comes back.
    pub flags: u8,
}

/// It got its final state while it was on its way.
pub(super) const GONE: u8 = 1;
/// It was held while it was on its way.
pub(super) const HOLD: u8 = 2;
/// Its state was announced anew while it was on its way: whoever had it has given it back.
pub(super) const HEARD: u8 = 4;

const CHUNK: usize = 512;

/// All envelopes. Chunks, so that growing moves nothing and wastes little.
#[derive(Debug, Default)]
pub(super) struct Rows {
    chunks: Vec<Box<[Row]>>,
    free: Option<u32>,
    index: HashMap<QueueId, u32, Mixed>,
}

impl Rows {
    pub fn find(&self, id: QueueId) -> Option<u32> {
        self.index.get(&id).copied()
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn insert(&mut self, row: Row) -> u32 {
        let slot = match self.free {
            Some(slot) => slot,
            None => self.grow(),
        };
        let next = self[slot].place;
        self.free = (next != NONE).then_some(next);
        self.index.insert(row.id, slot);
        self[slot] = row;
        slot
    }

    pub fn remove(&mut self, slot: u32) {
        let id = self[slot].id;
        self.index.remove(&id);
        self[slot].state = State::Free;
        self[slot].place = self.free.unwrap_or(NONE);
        self.free = Some(slot);
        if self.index.capacity() > 4096 && self.index.len() * 8 < self.index.capacity() {
            self.index.shrink_to(self.index.len() * 2);
        }
    }

    fn grow(&mut self) -> u32 {
        let first = (self.chunks.len() * CHUNK) as u32;
        let empty = Row {
            id: QueueId::MIN,
            due: Timestamp::ZERO,
            deadline: Timestamp::ZERO,
            flow: NONE,
            place: NONE,
            timer: NONE,
            recipients: 0,
            state: State::Free,
            flags: 0,
        };
        let mut chunk = vec![empty; CHUNK].into_boxed_slice();
        for (offset, row) in chunk.iter_mut().enumerate().take(CHUNK - 1) {
            row.place = first + offset as u32 + 1;
        }
        self.chunks.push(chunk);
        first
    }
}

impl Index<u32> for Rows {
    type Output = Row;
    fn index(&self, slot: u32) -> &Row {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

impl IndexMut<u32> for Rows {
    fn index_mut(&mut self, slot: u32) -> &mut Row {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

/// Rows by the time at which something must happen to them.
pub(super) struct ByTime<'a>(pub &'a mut Rows);

impl Ranked for ByTime<'_> {
    fn rank(&self, slot: u32) -> (u64, u64) {
        (self.0[slot].wakes_at().as_millis(), self.0[slot].id.as_u64())
    }
    fn place(&self, slot: u32) -> u32 {
        self.0[slot].timer
    }
    fn seat(&mut self, slot: u32, place: u32) {
        self.0[slot].timer = place;
    }
}

impl Row {
    /// When the timers must look at it: due, or expired.
    pub fn wakes_at(&self) -> Timestamp {
        match self.state {
            State::Later => self.due.min(self.deadline),
            State::Free | State::Held | State::Ready | State::Dying | State::Flying | State::Ending => self.deadline,
        }
    }
}

/// Ready rows of one flow, oldest due first.
pub(super) struct ByDue<'a>(pub &'a mut Rows);

impl Ranked for ByDue<'_> {
    fn rank(&self, slot: u32) -> (u64, u64) {
        (self.0[slot].due.as_millis(), self.0[slot].id.as_u64())
    }
    fn place(&self, slot: u32) -> u32 {
        self.0[slot].place
    }
    fn seat(&mut self, slot: u32, place: u32) {
        self.0[slot].place = place;
    }
}

/// A hash for keys of our own making: fast, and the same in every run.
pub(super) type Mixed = BuildHasherDefault<Mix>;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }
    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}
