//! Many entries at once: an import from elsewhere, or the undoing of an incident. All of it counts, or nothing.
//!
//! What comes in is sorted in memory, a part at a time; full parts are written to files of their own; at the end all parts
//! are merged into one file of the list, which counts from the moment that it has its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::OwnedMutexGuard;
use tracing::info;

use super::block::Record;
use super::file::{Builder, Name, Part};
use super::key;
use super::scan::{Gone, Merge};
use super::{ENTRIES_MAX, Entry, Failure, Query, Shared, Suppressions, blocking};
use crate::mail::Address;
use crate::time::Timestamp;

/// Memory of a part before it is written. Unit: octets.
const PART_WEIGHT: usize = 24 << 20;
/// Parts of an import: their files are open all at once.
const PARTS_MAX: usize = 256;
/// What an entry costs in memory beside its texts. Unit: octets.
const ENTRY_WEIGHT: usize = 200;
/// After so many entries the one who waits is told how far it is.
const TOLD_EVERY: u64 = 10_000;

/// Whether what is said comes true.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// It does.
    Real,
    /// It is only counted.
    Dry,
}

/// An import that goes on. Dropped, it leaves nothing behind.
pub struct Import {
    shared: Arc<Shared>,
    records: Vec<Record>,
    weight: usize,
    parts: Vec<Part>,
    taken: u64,
    _turn: Turn,
}

/// One at a time.
struct Turn {
    shared: Arc<Shared>,
    _lock: OwnedMutexGuard<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.progress.goes_on.store(false, Ordering::Release);
    }
}

/// How far the import is that goes on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    goes_on: AtomicBool,
    taken: AtomicU64,
    merged: AtomicU64,
}

/// What became of an import.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Entries that came.
    pub taken: u64,
    /// Of them different ones.
    pub distinct: u64,
    /// Were not in the list.
    pub added: u64,
    /// Were there, and say more now.
    pub changed: u64,
    /// Were there, and said as much.
    pub known: u64,
}

impl Suppressions {
    /// How far the import is that goes on: entries that came, and how many different ones were compared with the list.
    /// `None`: none goes on.
    pub fn import_progress(&self) -> Option<(u64, u64)> {
        let progress = &self.shared.progress;
        // Who looked by trying the lock would keep an import out.
        let goes_on = progress.goes_on.load(Ordering::Acquire);
        goes_on.then(|| (progress.taken.load(Ordering::Relaxed), progress.merged.load(Ordering::Relaxed)))
    }

    /// Begins an import.
    ///
    /// # Errors
    /// Another one goes on.
    pub fn import(&self) -> Result<Import, Failure> {
        let lock = self.shared.importing.clone().try_lock_owned().map_err(|_| Failure::Busy)?;
        let shared = self.shared.clone();
        shared.progress.taken.store(0, Ordering::Relaxed);
        shared.progress.merged.store(0, Ordering::Relaxed);
        shared.progress.goes_on.store(true, Ordering::Release);
        let turn = Turn { shared: shared.clone(), _lock: lock };
        Ok(Import { shared, records: Vec::new(), weight: 0, parts: Vec::new(), taken: 0, _turn: turn })
    }

    /// Removes every entry that a query finds: as one, or not at all. Gives how many there were. What is said while this goes
    /// on stays, as what is said after it does.
    ///
    /// # Errors
    /// Nothing was removed.
    ///
    /// # Cancel safety
    /// Dropped before it returns, all may be removed nevertheless.
    pub async fn remove_where(&self, query: &Query, run: Run, now: Timestamp) -> Result<u64, Failure> {
        let (shared, query) = (self.shared.clone(), query.clone());
        super::spawned(async move {
            let turn = shared.maintenance.clone().lock_owned().await;
            if run == Run::Real {
                shared.merge(true).await?;
            }
            let finder = shared.clone();
            let count = blocking(move || finder.void_where(&query, run, now)).await?;
            drop(turn);
            if count > 0 && run == Run::Real {
                info!(entries = count, "entries of the suppression list were removed");
                shared.start_merge();
            }
            Ok(count)
        })
        .await
    }
}

impl Import {
    /// Takes an entry. Of two with the same address, scope and cause the later counts.
    ///
    /// # Errors
    /// The import cannot go on; nothing of it is kept.
    pub async fn push(&mut self, address: &Address, entry: Entry) -> Result<(), Failure> {
        let entry = entry.bounded();
        let key = key::key(address, &entry.scope, entry.cause);
        self.weight += ENTRY_WEIGHT + key.len() + entry.site.len() + entry.evidence.len();
        self.records.push(Record { key, entry: Some(entry) });
        self.taken += 1;
        self.shared.progress.taken.store(self.taken, Ordering::Relaxed);
        if self.weight >= PART_WEIGHT { self.write_part().await } else { Ok(()) }
    }

    /// Entries that came so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    async fn write_part(&mut self) -> Result<(), Failure> {
        if self.parts.len() >= PARTS_MAX {
            return Err(Failure::TooMany { taken: self.taken });
        }
        let stem = format!("import-{}", self.parts.len());
        let (records, disk) = (std::mem::take(&mut self.records), self.shared.disk.clone());
        self.weight = 0;
        let part = blocking(move || {
            let mut builder = Builder::new(&disk, &stem, records.len() as u64)?;
            for record in sorted(records) {
                builder.push(&record.key, record.entry.as_ref())?;
            }
            Ok(builder.finish_part()?)
        });
        self.parts.push(part.await?);
        Ok(())
    }

    /// Ends it: when this returns, all of it counts, and survives whatever comes. `progress` is told how many different
    /// entries are done.
    ///
    /// # Errors
    /// Nothing of it is kept.
    ///
    /// # Cancel safety
    /// Dropped before it returns, all of it may count nevertheless.
    pub async fn finish(self, run: Run, progress: impl FnMut(u64) + Send + 'static) -> Result<Imported, Failure> {
        super::spawned(async move {
            let shared = self.shared.clone();
            let turn = shared.maintenance.clone().lock_owned().await;
            if run == Run::Real {
                // What was said before must be older than this file, on the disk too.
                shared.merge(true).await?;
            }
            let imported = blocking(move || self.write(run, progress)).await?;
            drop(turn);
            if run == Run::Real {
                info!(added = imported.added, changed = imported.changed, "a list was imported");
                shared.start_merge();
            }
            Ok(imported)
        })
        .await
    }

    fn write(mut self, run: Run, mut progress: impl FnMut(u64)) -> Result<Imported, Failure> {
        let shared = self.shared.clone();
        let newest_first: Vec<_> = self.parts.iter().rev().map(|part| part.generation.clone()).collect();
        let at_most = newest_first.iter().map(|part| part.entries).sum::<u64>() + self.records.len() as u64;
        let memory = sorted(std::mem::take(&mut self.records));
        let mut builder = shared.builder(run, at_most)?;
        let mut imported = Imported { taken: self.taken, ..Imported::default() };
        let mut merge = Merge::new(memory, &newest_first, &[], Gone::Dropped);
        // Whose entries come, and how many it has with those that came: they stand together.
        let (mut address, mut has) = (Vec::new(), 0);
        let written = merge.try_for_each(|record| {
            imported.distinct += 1;
            shared.goes_on()?;
            let Some(entry) = &record.entry else { return Ok(()) };
            let prefix = key::prefix_of(&record.key);
            let seen = shared.look_up(prefix);
            if address != prefix {
                address = prefix.to_vec();
                has = seen.records.iter().filter(|record| record.entry.is_some()).count();
            }
            let before = seen.entry(entry);
            has += usize::from(before.is_none());
            if has > ENTRIES_MAX && before.is_none() {
                let address = key::address(&record.key).map(|address| address.to_string()).unwrap_or_default();
                return Err(Failure::Crowded { address: address.into() });
            }
            let together = before.as_ref().map_or_else(|| entry.clone(), |before| before.with(entry));
            match &before {
                Some(before) if *before == together => imported.known += 1,
                before => {
                    *(if before.is_some() { &mut imported.changed } else { &mut imported.added }) += 1;
                    if let Some(builder) = &mut builder {
                        builder.push(&record.key, Some(&together))?;
                    }
                }
            }
            if imported.distinct.is_multiple_of(TOLD_EVERY) {
                shared.progress.merged.store(imported.distinct, Ordering::Relaxed);
                progress(imported.distinct);
            }
            Ok::<(), Failure>(())
        });
        let checked = match merge.damaged() {
            0 => written,
            _ => Err(Failure::Disk("a part of the import could not be read again".into())),
        };
        shared.install(builder, checked)?;
        Ok(imported)
    }
}

/// In the order of keys; of equal ones the last.
fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by(|one, other| one.key.cmp(&other.key));
    records.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
    records
}

impl Shared {
    /// A file for so many entries, unless the run is dry.
    fn builder(&self, run: Run, entries_max: u64) -> Result<Option<Builder>, Failure> {
        match run {
            Run::Dry => Ok(None),
            Run::Real => Ok(Some(Builder::new(&self.disk, "batch", entries_max)?)),
        }
    }

    /// Gives a batch its place in the list, if it is whole and there is anything in it. Called by who has the turn.
    fn install(&self, builder: Option<Builder>, written: Result<(), Failure>) -> Result<(), Failure> {
        let Some(builder) = builder else { return written };
        if written.is_err() || builder.entries() == 0 {
            builder.remove();
            return written;
        }
        let turn = self.next_turn();
        self.replace(&[], builder.finish(&Name { from: turn, to: turn })?);
        Ok(())
    }

    /// Writes a file that voids what a query finds in the files.
    fn void_where(&self, query: &Query, run: Run, now: Timestamp) -> Result<u64, Failure> {
        let (memory, files) = self.snapshot();
        // All that was said before this began is in files by now.
        let memory = if run == Run::Dry { memory } else { Vec::new() };
        let find = |memory: Vec<Record>, see: &mut dyn FnMut(&Record) -> Result<(), Failure>| {
            let mut merge = Merge::new(memory, &files, &query.first_key(), Gone::Dropped);
            for record in &mut merge {
                if query.is_past(&record.key) {
                    break;
                }
                if record.entry.as_ref().is_some_and(|entry| query.matches(entry, now)) {
                    see(&record)?;
                }
            }
            match merge.damaged() {
                0 => Ok(()),
                // Some of those that are meant may be in them, and would stay behind in silence.
                blocks => Err(Failure::Disk(format!(
                    "{blocks} blocks cannot be read, so nobody knows which of their entries are meant: addresses can be removed \
                     one by one"
                ))),
            }
        };
        // Counted first, so that the filter of the new file is no larger than it must be.
        let mut count = 0;
        find(memory, &mut |_| {
            count += 1;
            Ok(())
        })?;
        if count == 0 {
            return Ok(0);
        }
        let Some(mut builder) = self.builder(run, count)? else { return Ok(count) };
        let written = find(Vec::new(), &mut |record| {
            self.goes_on()?;
            Ok(builder.push(&record.key, None)?)
        });
        self.install(Some(builder), written)?;
        Ok(count)
    }
}
