//! One log: its segments, the one that is appended to, and the order in which a new one comes to be.
//!
//! Called by the writer thread and by recovery, for both logs alike. It never decides what is dead.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::disk::{Disk, DiskFile, Open};
use super::record::Encoded;
use super::segment::{FIRST_RECORD, LogKind, Segment, SegmentHeader};
use super::{Position, SpoolId};

/// Zeros are written this far ahead in a segment that was never written: overwriting is half the price of a sync into
/// blocks that were only reserved.
const ZERO_AHEAD_BYTES: u64 = 1 << 20;
/// A sync that takes so long is counted as slow: a healthy disk needs milliseconds.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// Why something could not be written.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No room. Nothing is broken.
    Full,
    /// The disk broke a promise; nothing that was not synced may be believed any more.
    Broken(String),
}

impl Trouble {
    pub(super) fn of(doing: &str, error: &io::Error) -> Trouble {
        match is_full(error) {
            true => Trouble::Full,
            false => Trouble::Broken(format!("{doing}: {error}")),
        }
    }

    /// A failed sync is never a matter of room: what was written may be gone (and a second sync may lie about it).
    pub(super) fn sync(doing: &str, error: &io::Error) -> Trouble {
        Trouble::Broken(format!("{doing}: {error}"))
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The segments of a log, by number, shared with those who read.
pub(super) type Segments = Arc<RwLock<BTreeMap<u32, Arc<Segment>>>>;

/// The one that is appended to.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    /// Where the next write goes.
    end: u64,
    /// Up to here, writing overwrites.
    zeroed: u64,
    /// A write found no room: nothing is appended here any more.
    spoiled: bool,
}

/// A new segment's file: reserved, not yet named.
#[derive(Debug)]
pub(super) struct Spare {
    pub name: String,
    pub file: Arc<dyn DiskFile>,
    pub size: u64,
    /// It was written before.
    pub recycled: bool,
}

/// One log.
#[derive(Debug)]
pub(super) struct Log {
    pub kind: LogKind,
    pub spool_id: SpoolId,
    disk: Arc<dyn Disk>,
    pub segments: Segments,
    active: Option<Active>,
    next_number: u32,
    /// The next record's number.
    next_sequence: u64,
    /// The last record that was written, though perhaps not synced.
    written: u64,
    /// The last record that was synced.
    synced: u64,
    /// Where the records of the last segment end, if nothing is active.
    previous_end: u32,
    buffer: Vec<u8>,
    /// For the next segment's header.
    pub last_id: u64,
    pub newest: u64,
    pub syncs: u64,
    pub sync_time: Duration,
    pub slow_syncs: u64,
    /// Segment number and written end, for readers beside the writer: `number << 32 | end`.
    pub committed: Arc<AtomicU64>,
}

/// Where a log continues after recovery.
pub(super) struct Continuation {
    pub next_number: u32,
    pub next_sequence: u64,
    pub previous_end: u32,
}

impl Log {
    pub(super) fn new(
        kind: LogKind,
        spool_id: SpoolId,
        disk: Arc<dyn Disk>,
        segments: BTreeMap<u32, Arc<Segment>>,
        from: &Continuation,
    ) -> Log {
        Log {
            kind,
            spool_id,
            disk,
            segments: Arc::new(RwLock::new(segments)),
            active: None,
            next_number: from.next_number,
            next_sequence: from.next_sequence,
            written: from.next_sequence - 1,
            synced: from.next_sequence - 1,
            previous_end: from.previous_end,
            buffer: Vec::new(),
            last_id: 0,
            newest: 0,
            syncs: 0,
            sync_time: Duration::ZERO,
            slow_syncs: 0,
            committed: Arc::default(),
        }
    }

    /// Goes on in a segment that this process wrote and synced itself (the rewritten tail).
    pub(super) fn resume(&mut self, segment: Arc<Segment>, end: u64) {
        self.committed.store(u64::from(segment.header.number) << 32 | end, Ordering::Release);
        self.active = Some(Active { zeroed: end, segment, end, spoiled: false });
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn active_number(&self) -> Option<u32> {
        self.active.as_ref().map(|active| active.segment.header.number)
    }

    /// Where the active segment ends on the disk.
    pub(super) fn active_end(&self) -> Option<(u32, u64)> {
        self.active.as_ref().map(|active| (active.segment.header.number, active.end))
    }

    pub(super) fn is_unsynced(&self) -> bool {
        self.synced < self.written
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes that the active segment can still take in.
    pub(super) fn room(&self) -> u64 {
        match &self.active {
            Some(active) if !active.spoiled => active.segment.size - active.end - self.buffer.len() as u64,
            _ => 0,
        }
    }

    pub(super) fn oldest(&self) -> Option<Arc<Segment>> {
        self.map(|segments| segments.first_key_value().map(|(_, segment)| segment.clone()))
    }

    /// Bytes of all files, and their number.
    pub(super) fn size(&self) -> (u64, u64) {
        self.map(|segments| (segments.values().map(|segment| segment.size).sum(), segments.len() as u64))
    }

    pub(super) fn map<T>(&self, look: impl FnOnce(&BTreeMap<u32, Arc<Segment>>) -> T) -> T {
        look(&self.segments.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Arc<Segment>>)) {
        change(&mut self.segments.write().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// Adds a record to the buffer. There must be [`Log::room`] for it.
    pub(super) fn compose(&mut self, encoded: &Encoded, ends: u64) -> Option<(u64, Position)> {
        let active = self.active.as_ref()?;
        let offset = active.end + self.buffer.len() as u64;
        let at = Position { segment: active.segment.header.number, offset: u32::try_from(offset).ok()? };
        let sequence = self.next_sequence;
        encoded.write(active.segment.header.magic, sequence, self.synced, ends, &mut self.buffer);
        self.next_sequence += 1;
        Some((sequence, at))
    }

    /// Writes the buffer. At `Full` its records were not written: the sequence goes back to before them.
    pub(super) fn write(&mut self) -> Result<(), Trouble> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let Some(active) = self.active.as_mut() else {
            self.buffer.clear();
            return Ok(());
        };
        let buffer = std::mem::take(&mut self.buffer);
        let written = active.segment.file.write_at(&buffer, active.end);
        let len = buffer.len() as u64;
        self.buffer = buffer;
        self.buffer.clear();
        if let Err(error) = written {
            // Some of it may stand there, with numbers that will be given again: the next segment's header voids them.
            active.spoiled = true;
            self.next_sequence = self.written + 1;
            return Err(Trouble::of("writing the log", &error));
        }
        active.end += len;
        self.committed.store(u64::from(active.segment.header.number) << 32 | active.end, Ordering::Release);
        self.written = self.next_sequence - 1;
        zero_ahead(active)
    }

    /// Makes everything written durable.
    pub(super) fn sync(&mut self) -> Result<(), Trouble> {
        if !self.is_unsynced() {
            return Ok(());
        }
        if let Some(active) = &self.active {
            let began = Instant::now();
            active.segment.file.sync_data().map_err(|error| Trouble::sync("syncing the log", &error))?;
            let took = began.elapsed();
            self.syncs += 1;
            self.sync_time += took;
            self.slow_syncs += u64::from(took >= SLOW_SYNC);
        }
        self.synced = self.written;
        Ok(())
    }

    /// Begins a new segment in `spare`. All before is written and synced first.
    ///
    /// Header, sync, name, sync of the directory: after a crash at any point, a file with a segment's name has a
    /// header, and what its header says about the segment before it is true.
    pub(super) fn roll(&mut self, spare: Spare) -> Result<(), (Trouble, Option<Spare>)> {
        if let Err(trouble) = self.write().and_then(|()| self.sync()) {
            return Err((trouble, Some(spare)));
        }
        let previous_end = self.active.as_ref().map_or(self.previous_end, |active| active.end as u32);
        let magic = match random_u64() {
            Ok(magic) => magic,
            Err(trouble) => return Err((trouble, Some(spare))),
        };
        let header = SegmentHeader {
            kind: self.kind,
            snapshot: false,
            number: self.next_number,
            spool_id: self.spool_id,
            magic,
            first_sequence: self.next_sequence,
            last_id: self.last_id,
            previous_end,
            newest: self.newest,
        };
        if let Err(trouble) = adopt(&*self.disk, &spare, &header, &[]) {
            return Err((trouble, Some(spare)));
        }
        let zeroed = if spare.recycled { spare.size } else { u64::from(FIRST_RECORD) };
        let segment = Arc::new(Segment { header, file: spare.file, size: spare.size });
        self.change(|segments| {
            segments.insert(header.number, segment.clone());
        });
        self.next_number += 1;
        self.previous_end = previous_end;
        self.committed.store(u64::from(header.number) << 32 | u64::from(FIRST_RECORD), Ordering::Release);
        self.active = Some(Active { segment, end: u64::from(FIRST_RECORD), zeroed, spoiled: false });
        Ok(())
    }
}

/// Makes a spare the segment of this header, with these records in it.
pub(super) fn adopt(disk: &dyn Disk, spare: &Spare, header: &SegmentHeader, records: &[u8]) -> Result<(), Trouble> {
    let full = |doing: &'static str| move |error: io::Error| Trouble::of(doing, &error);
    let broken = |doing: &'static str| move |error: io::Error| Trouble::sync(doing, &error);
    // The records first: a spare that still has a header of an earlier life is none the worse.
    if !records.is_empty() {
        spare.file.write_at(records, u64::from(FIRST_RECORD)).map_err(full("writing a segment"))?;
    }
    spare.file.write_at(&header.page(), 0).map_err(full("writing a segment's header"))?;
    spare.file.sync_data().map_err(broken("syncing a segment's header"))?;
    let name = header.kind.segment_name(header.number);
    disk.rename(&spare.name, &name).map_err(full("naming a segment"))?;
    disk.sync_dir("").map_err(broken("syncing the spool's directory"))
}

fn zero_ahead(active: &mut Active) -> Result<(), Trouble> {
    if active.end < active.zeroed || active.end >= active.segment.size {
        return Ok(());
    }
    let upto = (active.end + ZERO_AHEAD_BYTES).min(active.segment.size);
    let zeros = vec![0; (upto - active.end) as usize];
    match active.segment.file.write_at(&zeros, active.end) {
        Ok(()) => active.zeroed = upto,
        Err(error) if is_full(&error) => active.zeroed = active.segment.size,
        Err(error) => return Err(Trouble::of("writing ahead in the log", &error)),
    }
    Ok(())
}

pub(super) fn random_u64() -> Result<u64, Trouble> {
    getrandom::u64().map_err(|error| Trouble::Broken(format!("no random numbers: {error}")))
}

/// Preallocated files, so that a full disk can still take in settles, moves and state.
#[derive(Debug)]
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    spares: Vec<Spare>,
    next: u32,
    segment_bytes: u64,
    /// Kept for what frees space.
    reserve: usize,
    /// An allocation failed; no other is tried before something was freed or a while has passed.
    exhausted: bool,
}

/// What a new segment is begun for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// New mail: may not touch the reserve.
    Accept,
    /// Settles, moves, state.
    Reserve,
}

impl Spares {
    /// Takes over the spares found; files too short to be one are removed.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        names: &[(String, u64)],
        segment_bytes: u32,
        reserve: usize,
    ) -> io::Result<Spares> {
        let segment_bytes = u64::from(segment_bytes);
        let mut next = 0;
        let mut spares = Vec::new();
        for (name, len) in names {
            let Some(number) = spare_number(name) else { continue };
            next = next.max(number.saturating_add(1));
            if *len == segment_bytes {
                let file = disk.open(name, Open::Existing)?;
                spares.push(Spare { name: name.clone(), file, size: *len, recycled: false });
            } else {
                disk.unlink(name)?;
            }
        }
        Ok(Spares { disk, spares, next, segment_bytes, reserve, exhausted: false })
    }

    pub(super) fn len(&self) -> usize {
        self.spares.len()
    }

    /// Whether new mail may come in.
    pub(super) fn reserve_is_whole(&self) -> bool {
        self.spares.len() >= self.reserve
    }

    /// Whether the disk had no room for another.
    pub(super) fn is_short(&self) -> bool {
        self.exhausted || !self.reserve_is_whole()
    }

    /// Tries again to allocate what is missing.
    pub(super) fn retry(&mut self) -> Result<(), Trouble> {
        self.exhausted = false;
        self.replenish(self.reserve)
    }

    /// Allocates up to so many. Fewer, when the disk is full.
    fn replenish(&mut self, wanted: usize) -> Result<(), Trouble> {
        while self.spares.len() < wanted && !self.exhausted {
            let name = format!("spare-{:08x}", self.next);
            self.next = self.next.wrapping_add(1);
            let file = match self.disk.open(&name, Open::New) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) if is_full(&error) => {
                    self.exhausted = true;
                    break;
                }
                Err(error) => return Err(Trouble::of("making a spare segment", &error)),
            };
            match file.allocate(self.segment_bytes) {
                Ok(()) => self.spares.push(Spare { name, file, size: self.segment_bytes, recycled: false }),
                Err(error) => {
                    self.exhausted = true;
                    // What cannot be removed now is too short, and removed at the next start.
                    let _ = self.disk.unlink(&name);
                    if !is_full(&error) {
                        return Err(Trouble::of("allocating a spare segment", &error));
                    }
                }
            }
        }
        Ok(())
    }

    /// A file for a segment that must hold `need` bytes of records.
    pub(super) fn take(&mut self, purpose: Purpose, need: u64) -> Result<Spare, Trouble> {
        self.replenish(self.reserve + 1)?;
        let left = match purpose {
            Purpose::Accept => self.reserve,
            Purpose::Reserve => 0,
        };
        if self.spares.len() <= left {
            return Err(Trouble::Full);
        }
        // One that was written before is the cheapest to write again.
        let best = self.spares.iter().rposition(|spare| spare.recycled).unwrap_or(self.spares.len() - 1);
        let mut spare = self.spares.swap_remove(best);
        let size = (u64::from(FIRST_RECORD) + need).next_multiple_of(4096);
        if size > spare.size {
            if let Err(error) = spare.file.allocate(size) {
                self.give(spare);
                return Err(Trouble::of("allocating a large segment", &error));
            }
            spare.size = size;
            spare.recycled = false;
        }
        Ok(spare)
    }

    /// Takes a spare back that was not used after all.
    pub(super) fn give(&mut self, spare: Spare) {
        self.spares.push(spare);
    }

    /// Takes a segment that is dead back, or removes it. Its name is gone for good when this returns.
    pub(super) fn recycle(&mut self, name: &str, segment: &Segment) -> Result<(), Trouble> {
        let shared = segment.file.names().map_or(true, |names| names > 1);
        let useful = !shared && segment.size == self.segment_bytes && self.spares.len() < self.reserve + 2;
        let gone = if useful {
            let spare_name = format!("spare-{:08x}", self.next);
            self.next = self.next.wrapping_add(1);
            let renamed = self.disk.rename(name, &spare_name);
            renamed.map(|()| {
                let file = segment.file.clone();
                self.spares.push(Spare { name: spare_name, file, size: segment.size, recycled: true });
            })
        } else {
            self.disk.unlink(name)
        };
        match gone {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Trouble::of("recycling a segment", &error)),
        }
        self.exhausted = false;
        self.disk.sync_dir("").map_err(|error| Trouble::sync("syncing the spool's directory", &error))
    }
}

/// The number in a spare's name.
pub(super) fn spare_number(name: &str) -> Option<u32> {
    u32::from_str_radix(name.strip_prefix("spare-")?, 16).ok()
}
