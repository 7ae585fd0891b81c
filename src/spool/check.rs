//! Verifies every record of a spool, bodies too, without changing anything: `postrider spool check`.
//!
//! Works beside a running daemon: a segment that is recycled meanwhile is not there, and a tail that is just being
//! written is not damage.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use super::body;
use super::disk::Disk;
use super::record::{BodyPlace, Entry, decode_front};
use super::recover::{end_of, void_from};
use super::segment::{Found, LogKind, Segment, SegmentHeader, Walk};
use super::writer::open_read_only;
use crate::mail::QueueId;

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckProgress {
    /// Bytes looked at.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Segments read.
    pub segments: u64,
    /// Sound records.
    pub records: u64,
    /// Envelopes without a final state.
    pub live: u64,
    /// One line each: file, offset, what is wrong. At most [`DAMAGE_LINES_MAX`]; `damaged` counts all.
    pub lines: Vec<String>,
    /// Damaged stretches, records, bodies and headers.
    pub damaged: u64,
    /// Files in `quarantine/`.
    pub quarantined: u64,
}

/// More lines than these tell nothing more.
pub const DAMAGE_LINES_MAX: usize = 1000;

impl CheckReport {
    fn damage(&mut self, line: String) {
        self.damaged += 1;
        if self.lines.len() < DAMAGE_LINES_MAX {
            self.lines.push(line);
        }
    }
}

/// Reads the whole spool.
///
/// # Errors
/// The disk cannot be read at all.
pub fn check(disk: &dyn Disk, mut progress: impl FnMut(CheckProgress)) -> io::Result<CheckReport> {
    let mut report = CheckReport::default();
    let files = disk.list("")?;
    let is_segment =
        |name: &str| [LogKind::Mail, LogKind::State].iter().any(|kind| kind.segment_number(name).is_some());
    let total_bytes = files.iter().filter(|file| is_segment(&file.name)).map(|file| file.len).sum();
    let mut done_bytes = 0;
    for kind in [LogKind::State, LogKind::Mail] {
        let mut segments = BTreeMap::new();
        for file in &files {
            let Some(number) = kind.segment_number(&file.name) else { continue };
            let open = match open_read_only(disk, &file.name) {
                Ok(open) => open,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match SegmentHeader::of(&*open)? {
                Ok(header) => {
                    segments.insert(number, Arc::new(Segment { header, file: open, size: file.len }));
                }
                Err(bad) => report.damage(format!("{}: its header is unreadable ({bad:?})", file.name)),
            }
        }
        let mut live = HashSet::new();
        for (number, segment) in &segments {
            check_segment(disk, &segments, *number, segment, &mut live, &mut report)?;
            done_bytes += segment.size;
            progress(CheckProgress { done_bytes, total_bytes });
        }
        report.segments += segments.len() as u64;
        report.live += live.len() as u64;
    }
    report.quarantined = disk.list(super::quarantine::DIRECTORY)?.len() as u64;
    Ok(report)
}

fn check_segment(
    disk: &dyn Disk,
    segments: &BTreeMap<u32, Arc<Segment>>,
    number: u32,
    segment: &Segment,
    live: &mut HashSet<QueueId>,
    report: &mut CheckReport,
) -> io::Result<()> {
    let name = segment.header.kind.segment_name(number);
    let void_from = void_from(segments, number);
    let end = end_of(segments, number);
    let mut found_here = CheckReport::default();
    let mut walk = Walk::new(segment, end);
    while let Some(found) = walk.next()? {
        let (at, header, entries) = match found {
            Found::Record { header, .. } | Found::BadFront { header, .. } if header.sequence >= void_from => continue,
            Found::Record { at, header, front } => (at, header, decode_front(front)),
            Found::BadFront { at, header, .. } => (at, header, None),
            Found::Gap { at, len } => {
                // The unsealed end of a segment that is being written may be half there.
                if end.is_some() {
                    found_here.damage(format!("{name}: {len} bytes at {at} are no record"));
                }
                continue;
            }
        };
        let Some(entries) = entries else {
            found_here.damage(format!("{name}: the record at {at} is damaged"));
            continue;
        };
        if crc32fast::hash(walk.body(at, &header)?) != header.body_crc {
            found_here.damage(format!("{name}: the body of the record at {at} is damaged"));
        }
        found_here.records += 1;
        for entry in entries {
            check_entry(disk, &name, at, entry, live, &mut found_here)?;
        }
    }
    // Recycled while it was read: nothing that was found means anything.
    let now = SegmentHeader::of(&*segment.file)?;
    if now.is_ok_and(|now| now == segment.header) {
        report.records += found_here.records;
        for line in found_here.lines {
            report.damage(line);
        }
    }
    Ok(())
}

fn check_entry(
    disk: &dyn Disk,
    name: &str,
    at: u32,
    entry: Entry,
    live: &mut HashSet<QueueId>,
    report: &mut CheckReport,
) -> io::Result<()> {
    let (place, ids): (BodyPlace, Vec<QueueId>) = match entry {
        Entry::Accepted { body, envelopes } => (body, envelopes.iter().map(|envelope| envelope.id).collect()),
        Entry::Moved { body, stored } => (body, stored.iter().map(|(envelope, _)| envelope.id).collect()),
        Entry::Settled { id, progress } => {
            if progress.is_final() {
                live.remove(&id);
            }
            return Ok(());
        }
        Entry::Put { .. } | Entry::Closed => return Ok(()),
    };
    live.extend(ids);
    if let BodyPlace::File { name: file, len, crc } = place {
        match body::read(disk, file, len, crc) {
            // Ended later in the log, most likely: a body that nothing needs is removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok((_, true)) => {}
            Ok((_, false)) => report.damage(format!("{name}: the body file {file} of the record at {at} is damaged")),
        }
    }
    Ok(())
}
