//! Keeps the state log short: a sorted snapshot of its sealed segments takes their place.
//!
//! Temp file, sync, rename over the last of them, sync of the directory; only then are the older ones removed. Runs on
//! a thread of its own (the sealed segments do not change); the writer does the renaming.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};

use super::disk::{Disk, Open};
use super::log::{Segments, Trouble, random_u64};
use super::record::{Encoded, write_put};
use super::replay::state_puts;
use super::segment::{FIRST_RECORD, LogKind, Segment, SegmentHeader};
use super::writer::{Broken, Writer, settle_trouble};
use super::{StateEntry, StateValue};

/// Written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A snapshot to be made.
pub struct Compaction {
    disk: Arc<dyn Disk>,
    /// All sealed segments.
    segments: BTreeMap<u32, Arc<Segment>>,
    /// Where the last of them ends.
    end: Option<u32>,
}

/// A snapshot that was written and synced under its temporary name.
pub struct Compacted {
    header: SegmentHeader,
    temporary: String,
    size: u64,
}

impl Writer {
    /// A snapshot worth making: two or more sealed segments that are at least twice the last snapshot.
    pub fn compaction(&mut self) -> Option<Compaction> {
        let active = self.state.active_number()?;
        if self.compacting || Arc::strong_count(&self.pin) > 1 {
            return None;
        }
        let segments: BTreeMap<u32, Arc<Segment>> =
            self.state.map(|all| all.range(..active).map(|(number, segment)| (*number, segment.clone())).collect());
        let of = |snapshot: bool| {
            let matching = segments.values().filter(move |segment| segment.header.snapshot == snapshot);
            matching.map(|segment| segment.size).sum::<u64>()
        };
        let logged = segments.values().filter(|segment| !segment.header.snapshot).count();
        if logged < 2 || of(false) < 2 * of(true) {
            return None;
        }
        let end = self.state.map(|all| {
            let (last, _) = segments.last_key_value()?;
            super::recover::end_of(all, *last)
        });
        self.compacting = true;
        Some(Compaction { disk: self.disk.clone(), segments, end })
    }

    /// Puts a snapshot in place of what it was made from.
    ///
    /// # Errors
    /// As [`Writer::step`].
    pub fn compacted(&mut self, snapshot: Result<Compacted, Broken>) -> Result<(), Broken> {
        self.compacting = false;
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(Broken(why)) => {
                warn!(%why, "the state log could not be compacted; it goes on as it is");
                return Ok(());
            }
        };
        let number = snapshot.header.number;
        let name = LogKind::State.segment_name(number);
        let renamed = self.disk.rename(&snapshot.temporary, &name);
        if settle_trouble(renamed.map_err(|error| Trouble::of("naming a snapshot", &error)))?.is_none() {
            return Ok(());
        }
        let synced = self.disk.sync_dir("");
        settle_trouble(synced.map_err(|error| Trouble::sync("syncing the spool's directory", &error)))?;
        let file =
            self.disk.open(&name, Open::Existing).map_err(|error| Broken(format!("opening a snapshot: {error}")))?;
        let older: Vec<(u32, Arc<Segment>)> =
            self.state.map(|all| all.range(..number).map(|(number, segment)| (*number, segment.clone())).collect());
        self.state.change(|segments| {
            segments.retain(|other, _| *other >= number);
            segments.insert(number, Arc::new(Segment { header: snapshot.header, file, size: snapshot.size }));
        });
        for (older, segment) in older {
            settle_trouble(self.spares.recycle(&LogKind::State.segment_name(older), &segment))?;
        }
        info!(segment = number, bytes = snapshot.size, "the state log was compacted");
        Ok(())
    }
}

impl Compaction {
    /// Reads all, keeps the latest of each key, writes them sorted.
    ///
    /// # Errors
    /// Nothing was replaced; the log goes on as it is.
    pub fn run(&self) -> Result<Compacted, Broken> {
        self.write().map_err(|error| Broken(error.to_string()))
    }

    fn write(&self) -> io::Result<Compacted> {
        let mut latest: BTreeMap<(u16, Bytes), (u64, StateValue)> = BTreeMap::new();
        state_puts(
            &self.segments,
            self.end,
            |put| {
                latest.insert((put.table, put.key), (put.sequence, put.value));
            },
            |_, _, _| {},
        )?;
        let last = self.segments.last_key_value().ok_or(io::ErrorKind::NotFound)?.1;
        let magic = random_u64().map_err(|trouble| io::Error::other(format!("{trouble:?}")))?;
        let header = SegmentHeader { snapshot: true, magic, previous_end: 0, ..last.header };
        let temporary = format!("state-{:08x}.tmp", header.number);
        // A failed earlier try may have left one.
        let _ = self.disk.unlink(&temporary);
        let file = self.disk.open(&temporary, Open::New)?;
        file.write_at(&header.page(), 0)?;
        let mut at = u64::from(FIRST_RECORD);
        let mut buffer = Vec::new();
        for ((table, key), (sequence, value)) in latest {
            let encoded = match value {
                // Nothing older is left that a removal must hide.
                StateValue::Absent => continue,
                StateValue::Is(value) => {
                    let crc = crc32fast::hash(&value);
                    Encoded::new(|w| write_put(w, table, &key, true), value, crc)
                }
                // Damaged it stays: a sum that no empty value has.
                StateValue::Damaged => Encoded::new(|w| write_put(w, table, &key, true), Bytes::new(), 1),
            };
            encoded.write(magic, sequence, sequence, 0, &mut buffer);
            if buffer.len() >= CHUNK_BYTES {
                file.write_at(&buffer, at)?;
                at += buffer.len() as u64;
                buffer.clear();
            }
        }
        file.write_at(&buffer, at)?;
        at += buffer.len() as u64;
        file.sync_data()?;
        Ok(Compacted { header, temporary, size: at })
    }
}

/// The latest entries of a table that are not absent, in the order of keys, from a running log.
pub(super) fn entries(segments: &Segments, committed: u64, table: u16) -> io::Result<Vec<StateEntry>> {
    let mut segments = segments.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    let (active, end) = ((committed >> 32) as u32, committed as u32);
    // Nothing after the last complete write, which may be half there.
    segments.retain(|number, _| committed == 0 || *number <= active);
    let mut latest = BTreeMap::new();
    state_puts(
        &segments,
        (committed != 0).then_some(end),
        |put| {
            if put.table == table {
                latest.insert(put.key, put.value);
            }
        },
        |_, _, _| {},
    )?;
    latest.retain(|_, value| *value != StateValue::Absent);
    Ok(latest.into_iter().map(|(key, value)| StateEntry { table, key, value }).collect())
}
