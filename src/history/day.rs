//! The files of one day: `YYYY-MM-DD.log` with the blocks, `.idx` with the index runs, `.events` with event lines.
//!
//! A day's log begins with a magic (8 octets) and the file's marker (8 octets, random). Whoever reads needs no lock:
//! files only grow, and what is not whole yet does not check out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::block::{self, BODY_LENGTH_MAX, Builder, HEADER_LENGTH, Header};
use super::index::{self, ENTRIES_MAX, HEAD_LENGTH, Head, STRETCH_MAX};
use super::row::Row;
use crate::time::Timestamp;

const MAGIC: &[u8; 8] = b"PRHIST1\n";
/// Octets before the first block.
const BEGIN: u64 = 16;
/// Milliseconds of a day, which is the UTC day.
pub(super) const DAY_MS: u64 = 86_400_000;
/// How much is looked through at once for the next block behind damage. Unit: octets.
const LOOK_LENGTH: usize = 256 * 1024;

/// A day: its number since 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Day(pub u64);

impl Day {
    pub fn of(at: Timestamp) -> Day {
        Day(at.as_millis() / DAY_MS)
    }

    pub fn path(self, directory: &Path, extension: &str) -> PathBuf {
        let name = Timestamp::from_millis(self.0.saturating_mul(DAY_MS)).rfc3339();
        directory.join(format!("{}.{extension}", name.get(..10).unwrap_or("never")))
    }

    /// Of a file of a day: the day, and the name's extension.
    pub fn of_path(path: &Path) -> Option<(Day, &str)> {
        let (stem, extension) = (path.file_stem()?.to_str()?, path.extension()?.to_str()?);
        let mut numbers = stem.split('-').map(|number| number.parse::<i64>().ok().filter(|number| *number >= 0));
        let (year, month, day) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let known = matches!(extension, "log" | "idx" | "events");
        if stem.len() != 10 || numbers.next().is_some() || !known || !(1..=12).contains(&month) {
            return None;
        }
        // Days from the civil date (H. Hinnant, chrono-compatible algorithms).
        let year = if month <= 2 { year - 1 } else { year };
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
        u64::try_from(days).ok().map(|days| (Day(days), extension))
    }
}

/// A day that is being written.
#[derive(Debug)]
pub(super) struct Open {
    pub day: Day,
    directory: PathBuf,
    log: File,
    index: File,
    marker: u64,
    length: u64,
    index_length: u64,
    run_from: u64,
    run: Vec<(u32, u32)>,
    events: Option<File>,
    /// The last line was not written to its end.
    events_torn: bool,
    unsynced: bool,
}

/// What opening a day found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Octets of a torn tail that was cut.
    pub cut: u64,
    /// Damaged stretches that were skipped.
    pub damaged: u64,
}

impl Open {
    /// Opens a day to be written on. A torn tail is cut; what the index does not cover yet is read again.
    pub fn new(directory: &Path, day: Day, with_events: bool) -> io::Result<(Open, Found)> {
        let path = day.path(directory, "log");
        let (log, index) = (appendable(&path)?, appendable(&day.path(directory, "idx"))?);
        let mut length = log.metadata()?.len();
        let marker = match marker_of(&log) {
            Ok(Some(marker)) => marker,
            Ok(None) => {
                if length >= BEGIN {
                    // Not ours, or its first octets are damaged: kept for eyes, and begun anew.
                    std::fs::rename(&path, day.path(directory, "log.damaged"))?;
                    let _ = std::fs::remove_file(day.path(directory, "idx"));
                    let (open, found) = Open::new(directory, day, with_events)?;
                    return Ok((open, Found { damaged: found.damaged + 1, ..found }));
                }
                let marker = random()?;
                log.set_len(0)?;
                let begin = [MAGIC.as_slice(), &marker.to_le_bytes()].concat();
                log.write_all_at(&begin, 0)?;
                index.set_len(0)?;
                length = BEGIN;
                marker
            }
            Err(error) => return Err(error),
        };
        let (runs, index_length) = runs(&index, marker, length)?;
        index.set_len(index_length)?;
        let covered = runs.last().map_or(BEGIN, |(_, head)| head.to);
        let events = with_events.then(|| events_file(&day.path(directory, "events"))).transpose()?;
        let mut open = Open {
            day,
            directory: directory.to_owned(),
            log,
            index,
            marker,
            length,
            index_length,
            run_from: covered,
            run: Vec::new(),
            events,
            events_torn: false,
            unsynced: true,
        };
        let found = open.recover(covered)?;
        Ok((open, found))
    }

    fn recover(&mut self, from: u64) -> io::Result<Found> {
        let mut found = Found::default();
        let mut scan = Scan::new(self.log.try_clone()?, self.marker, from, self.length);
        let mut whole = from;
        while let Some((offset, rows)) = scan.next_block()? {
            whole = scan.at;
            self.length = whole;
            let mut keys = Vec::new();
            rows.iter().for_each(|row| row.fact.keys(|key| keys.push(key)));
            self.note(offset, &keys)?;
        }
        // Damage at the very end is a torn tail; before a whole block it is damage.
        found.damaged = scan.damaged_before_last;
        let end = self.log.metadata()?.len();
        found.cut = end.saturating_sub(whole);
        self.log.set_len(whole)?;
        self.length = whole;
        Ok(found)
    }

    /// Writes a block and its event lines.
    ///
    /// # Errors
    /// The block is not kept; the file is as before.
    pub fn append(&mut self, builder: &Builder) -> io::Result<()> {
        let bytes = builder.sealed(self.marker);
        let offset = self.length;
        if let Err(error) = self.log.write_all_at(&bytes, offset) {
            // Half a block must not stand before a whole one.
            let _ = self.log.set_len(offset);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.unsynced = true;
        if let Some(events) = self.events.as_mut().filter(|_| !builder.events.is_empty()) {
            if std::mem::take(&mut self.events_torn) {
                events.write_all(b"\n")?;
            }
            self.events_torn = true;
            events.write_all(&builder.events)?;
            self.events_torn = false;
        }
        self.note(offset, &builder.keys)
    }

    fn note(&mut self, offset: u64, keys: &[super::key::Key]) -> io::Result<()> {
        let place = u32::try_from(offset.saturating_sub(self.run_from)).unwrap_or(u32::MAX);
        self.run.extend(keys.iter().map(|key| (key.short(self.marker), place)));
        if self.run.len() >= ENTRIES_MAX || self.length.saturating_sub(self.run_from) >= STRETCH_MAX {
            self.end_run()?;
        }
        Ok(())
    }

    /// Writes what is not in a run yet.
    fn end_run(&mut self) -> io::Result<()> {
        let bytes = index::write(self.marker, (self.run_from, self.length), &mut self.run);
        if let Err(error) = self.index.write_all_at(&bytes, self.index_length) {
            // Without a run the stretch is read through by whoever searches; so that memory stays bounded, the next run
            // begins here, and whoever opens the day again makes up for it.
            let _ = self.index.set_len(self.index_length);
            self.run.clear();
            self.run_from = self.length;
            return Err(error);
        }
        self.index_length += bytes.len() as u64;
        self.run_from = self.length;
        self.run.clear();
        Ok(())
    }

    /// Whether anything was written since the last sync.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Puts what was written on the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced) {
            self.log.sync_data()?;
        }
        Ok(())
    }

    /// Ends the day: all of it is in the index, and on the disk.
    pub fn close(mut self) -> io::Result<()> {
        if !self.run.is_empty() {
            self.end_run()?;
        }
        self.sync()?;
        self.index.sync_data()?;
        File::open(&self.directory)?.sync_all()
    }
}

fn appendable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)
}

/// A line that a crash tore is ended, so that the next one is whole.
fn events_file(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn random() -> io::Result<u64> {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u64::from_le_bytes(octets))
}

/// A log's marker. `None`: it has none.
pub(super) fn marker_of(log: &File) -> io::Result<Option<u64>> {
    let mut begin = [0; BEGIN as usize];
    match log.read_exact_at(&mut begin, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (magic, marker) = begin.split_at(8);
    let marker = marker.first_chunk::<8>().map(|octets| u64::from_le_bytes(*octets));
    Ok(marker.filter(|_| magic == MAGIC))
}

/// The runs of an index with their offsets, and the length of what is whole. They follow on each other, or the rest is
/// not believed: a gap's stretch is read through.
pub(super) fn runs(index: &File, marker: u64, log_length: u64) -> io::Result<(Vec<(u64, Head)>, u64)> {
    let end = index.metadata()?.len();
    let (mut all, mut at, mut covered) = (Vec::new(), 0, BEGIN);
    let mut head = vec![0; HEAD_LENGTH];
    while at + HEAD_LENGTH as u64 <= end {
        index.read_exact_at(&mut head, at)?;
        let Some(head) = Head::read(&head, marker) else { break };
        if head.from != covered || head.to > log_length || at + head.length() > end {
            break;
        }
        covered = head.to;
        let next = at + head.length();
        all.push((at, head));
        at = next;
    }
    Ok((all, at))
}

/// Reads a log from block to block.
pub(super) struct Scan {
    log: File,
    marker: u64,
    /// Where the next block is looked for.
    pub at: u64,
    end: u64,
    /// Damaged stretches, each of which a whole block follows.
    pub damaged_before_last: u64,
    buffer: Vec<u8>,
}

impl Scan {
    pub fn new(log: File, marker: u64, from: u64, end: u64) -> Scan {
        Scan { log, marker, at: from.max(BEGIN), end, damaged_before_last: 0, buffer: Vec::new() }
    }

    /// The next whole block: its offset and its rows. Damage before it is skipped and counted.
    pub fn next_block(&mut self) -> io::Result<Option<(u64, Vec<Row>)>> {
        let mut damaged = false;
        loop {
            if let Some((length, rows)) = self.block_at(self.at)? {
                let offset = self.at;
                self.at += length;
                self.damaged_before_last += u64::from(damaged);
                return Ok(Some((offset, rows)));
            }
            damaged = true;
            match self.marker_after(self.at)? {
                Some(next) => self.at = next,
                None => return Ok(None),
            }
        }
    }

    /// The block at an offset, if it is whole.
    pub fn block_at(&mut self, offset: u64) -> io::Result<Option<(u64, Vec<Row>)>> {
        if offset + HEADER_LENGTH as u64 > self.end {
            return Ok(None);
        }
        let mut head = [0; HEADER_LENGTH];
        self.log.read_exact_at(&mut head, offset)?;
        let Some((header, _)) = Header::read(&head, self.marker) else { return Ok(None) };
        let length = HEADER_LENGTH + (header.length as usize).min(BODY_LENGTH_MAX);
        if offset + length as u64 > self.end {
            return Ok(None);
        }
        self.buffer.resize(length, 0);
        self.log.read_exact_at(&mut self.buffer, offset)?;
        Ok(block::rows(&self.buffer, self.marker).map(|rows| (length as u64, rows)))
    }

    /// Where the marker stands next, behind an offset.
    fn marker_after(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let sought = self.marker.to_le_bytes();
        let mut at = offset + 1;
        while at + sought.len() as u64 <= self.end {
            let length = usize::try_from(self.end - at).unwrap_or(usize::MAX).min(LOOK_LENGTH);
            self.buffer.resize(length, 0);
            self.log.read_exact_at(&mut self.buffer, at)?;
            if let Some(found) = memchr::memmem::find(&self.buffer, &sought) {
                return Ok(Some(at + found as u64));
            }
            // A marker may stand across the pieces.
            at += (length - sought.len() + 1) as u64;
        }
        Ok(None)
    }
}
