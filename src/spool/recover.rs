//! What happens at a start, before anything is answered, delivered or removed.
//!
//! 1. The last segment's records that may not have been synced are rewritten to a fresh segment, synced and renamed
//!    into place, because a kernel that failed to write them may still show them.
//! 2. All records are replayed.
//! 3. What nothing in the log names (spares too short, body files, half snapshots) is removed.
//!
//! It never reads a body beyond the tail.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tracing::info;

use super::disk::{Disk, Entry, Open};
use super::log::{Continuation, Log, Purpose, Spares, Trouble, adopt, random_u64};
use super::quarantine::Quarantine;
use super::record::{Entry as RecordEntry, HEADER_BYTES, Header, decode_front, repair_front};
use super::segment::{BadHeader, FIRST_RECORD, Found, LogKind, Segment, SegmentHeader, Walk, read_inline_body};
use super::{OpenError, SpoolId};

/// A small last segment is rewritten whole, so that a daemon that crashes over and over does not begin segment after
/// segment. As a share of the segment size: 1/4.
const WHOLE_REWRITE_DIVISOR: u64 = 4;

pub(super) fn disk_error(doing: &str) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Disk { doing: doing.to_owned(), source }
}

pub(super) fn trouble(trouble: Trouble) -> OpenError {
    match trouble {
        Trouble::Full => OpenError::Full,
        Trouble::Broken(what) => OpenError::Disk { doing: "starting the spool".into(), source: io::Error::other(what) },
    }
}

/// The segments of one log as found, those that count.
pub(super) fn find_segments(
    disk: &dyn Disk,
    kind: LogKind,
    files: &[Entry],
    quarantine: &mut Quarantine,
) -> Result<BTreeMap<u32, Arc<Segment>>, OpenError> {
    let mut segments = BTreeMap::new();
    for file in files {
        let Some(number) = kind.segment_number(&file.name) else { continue };
        let open = disk.open(&file.name, Open::Existing).map_err(disk_error("opening a segment"))?;
        match SegmentHeader::of(&*open).map_err(disk_error("reading a segment's header"))? {
            Ok(header) if header.kind == kind && header.number == number => {
                segments.insert(number, Arc::new(Segment { header, file: open, size: file.len }));
            }
            Err(BadHeader::Version(version)) => {
                return Err(OpenError::Version { name: file.name.clone(), version, known: super::record::VERSION });
            }
            Ok(_) | Err(BadHeader::Damaged) => {
                quarantine.take_file(&file.name).map_err(disk_error("moving a damaged segment aside"))?;
            }
        }
    }
    Ok(segments)
}

/// Drops what a snapshot replaces, and half-written snapshots.
pub(super) fn drop_superseded(
    disk: &dyn Disk,
    segments: &mut BTreeMap<u32, Arc<Segment>>,
    files: &[Entry],
) -> Result<(), OpenError> {
    let snapshot = segments.values().rev().find(|segment| segment.header.snapshot).map(|s| s.header.number);
    let older: Vec<u32> = segments.range(..snapshot.unwrap_or(0)).map(|(number, _)| *number).collect();
    for number in older {
        if let Some(segment) = segments.remove(&number) {
            let name = segment.header.kind.segment_name(number);
            disk.unlink(&name).map_err(disk_error("removing a replaced segment"))?;
        }
    }
    for file in files.iter().filter(|file| file.name.ends_with(".tmp")) {
        disk.unlink(&file.name).map_err(disk_error("removing a half-written snapshot"))?;
    }
    disk.sync_dir("").map_err(disk_error("syncing the spool's directory"))
}

/// Where the records of each segment end, as far as the next one's header tells.
pub(super) fn end_of(segments: &BTreeMap<u32, Arc<Segment>>, number: u32) -> Option<u32> {
    let segment = segments.get(&number)?;
    if segment.header.snapshot {
        return u32::try_from(segment.size).ok();
    }
    let next = segments.get(&number.checked_add(1)?)?;
    (next.header.previous_end >= FIRST_RECORD).then_some(next.header.previous_end)
}

/// Records with a number from this on are not this segment's any more: a later one has them.
pub(super) fn void_from(segments: &BTreeMap<u32, Arc<Segment>>, number: u32) -> u64 {
    let later = segments.range(number.saturating_add(1)..);
    later.map(|(_, segment)| segment.header.first_sequence).min().unwrap_or(u64::MAX)
}

/// What was done about the tail of a log.
#[derive(Debug)]
pub(super) struct Tail {
    pub continuation_number: u32,
    pub next_sequence: u64,
    pub previous_end: u32,
    pub clean: bool,
    pub rewritten: u64,
    /// The fresh segment, if one was begun, and its end.
    pub fresh: Option<(Arc<Segment>, u64)>,
}

/// What a look at the last segment tells.
struct LastLook {
    end: u32,
    /// Every record up to this was synced.
    synced: u64,
    /// The highest number seen, sound or not.
    highest: u64,
    clean: bool,
    /// Offset, header, whether front and (past `synced`) body are sound.
    records: Vec<(u32, Header, bool)>,
    /// Damage that has no header: offset and length.
    gaps: Vec<(u32, u64)>,
    unreadable: bool,
}

fn look_at_last(segment: &Segment) -> io::Result<LastLook> {
    let first = segment.header.first_sequence;
    let mut look = LastLook {
        end: FIRST_RECORD,
        synced: first.saturating_sub(1),
        highest: first.saturating_sub(1),
        clean: false,
        records: Vec::new(),
        gaps: Vec::new(),
        unreadable: false,
    };
    let end = if segment.header.snapshot { u32::try_from(segment.size).ok() } else { None };
    let mut walk = Walk::new(segment, end);
    loop {
        let (at, header, sound) = match walk.next()? {
            None => break,
            Some(Found::Record { at, header, front }) => {
                look.clean = decode_front(front).is_some_and(|entries| entries.contains(&RecordEntry::Closed));
                (at, header, true)
            }
            Some(Found::BadFront { at, header, .. }) => (at, header, false),
            Some(Found::Gap { at, len }) => {
                look.gaps.push((at, len));
                look.clean = false;
                continue;
            }
        };
        look.synced = look.synced.max(header.synced);
        look.highest = look.highest.max(header.sequence);
        look.records.push((at, header, sound));
    }
    look.end = walk.end();
    look.unreadable = walk.is_unreadable();
    if segment.header.snapshot {
        // Synced before it got its name.
        look.synced = look.highest;
    }
    let synced = look.synced;
    for (at, header, sound) in look.records.iter_mut().filter(|(_, header, _)| header.sequence > synced) {
        *sound = *sound && crc32fast::hash(&read_inline_body(segment, *at, header)?) == header.body_crc;
    }
    Ok(look)
}

/// Secures the tail of a log: see the top of this file.
pub(super) fn secure_tail(
    disk: &Arc<dyn Disk>,
    segments: &mut BTreeMap<u32, Arc<Segment>>,
    spares: &mut Spares,
    quarantine: &mut Quarantine,
) -> Result<Tail, OpenError> {
    let Some(last) = segments.last_key_value().map(|(_, segment)| segment.clone()) else {
        return Ok(Tail {
            continuation_number: 1,
            next_sequence: 1,
            previous_end: 0,
            clean: true,
            rewritten: 0,
            fresh: None,
        });
    };
    let look = look_at_last(&last).map_err(disk_error("reading the last segment"))?;
    let before = segments.values().map(|segment| segment.header.first_sequence.saturating_sub(1)).max().unwrap_or(0);
    let mut tail = Tail {
        continuation_number: last.header.number + 1,
        next_sequence: look.highest.max(before) + 1,
        previous_end: look.end,
        clean: look.clean,
        rewritten: 0,
        fresh: None,
    };
    if look.unreadable {
        quarantine.keep(last.header.kind.segment_name(last.header.number));
    }
    if look.clean || look.synced >= look.highest {
        return Ok(tail);
    }
    // A segment that cannot be read whole stays as it is, and only its tail is written again.
    let used = u64::from(look.end - FIRST_RECORD);
    let whole = used <= last.size / WHOLE_REWRITE_DIVISOR && !look.unreadable && look.gaps.is_empty();
    let from = if whole { last.header.first_sequence } else { look.synced + 1 };
    rewrite(disk, segments, spares, quarantine, &last, &look, from, &mut tail)?;
    Ok(tail)
}

#[allow(clippy::too_many_arguments)]
fn rewrite(
    disk: &Arc<dyn Disk>,
    segments: &mut BTreeMap<u32, Arc<Segment>>,
    spares: &mut Spares,
    quarantine: &mut Quarantine,
    last: &Arc<Segment>,
    look: &LastLook,
    from: u64,
    tail: &mut Tail,
) -> Result<(), OpenError> {
    let magic = random_u64().map_err(trouble)?;
    let mut records = Vec::new();
    let mut previous_end = look.end;
    for (at, header, sound) in look.records.iter().filter(|(_, header, _)| header.sequence >= from) {
        previous_end = previous_end.min(*at);
        if !*sound {
            quarantine.copy(last, *at, header.record_bytes());
            if last.header.kind == LogKind::State {
                keep_key(last, *at, header, magic, look.highest, &mut records)
                    .map_err(disk_error("reading the tail"))?;
            }
            continue;
        }
        let mut bytes = vec![0; header.record_bytes() as usize];
        let read = last.file.read_at(&mut bytes, u64::from(*at)).map_err(disk_error("reading the tail"))?;
        let Some(contents) = bytes.get(HEADER_BYTES..read.min(bytes.len())) else { continue };
        // By the time anyone sees this copy, all of it was synced.
        Header { synced: look.highest, ..*header }.write(magic, &mut records);
        records.extend_from_slice(contents);
        records.resize(records.len().next_multiple_of(super::record::ALIGN as usize), 0);
        tail.rewritten += 1;
    }
    // The replay ends there, and would not see them.
    for (at, len) in look.gaps.iter().filter(|(at, _)| *at >= previous_end) {
        quarantine.copy(last, *at, *len);
    }
    let header = SegmentHeader {
        number: tail.continuation_number,
        magic,
        snapshot: false,
        first_sequence: from,
        previous_end,
        ..last.header
    };
    let spare = spares.take(Purpose::Reserve, records.len() as u64).map_err(trouble)?;
    adopt(&**disk, &spare, &header, &records).map_err(trouble)?;
    info!(segment = header.number, records = tail.rewritten, "the tail of the log was written again");
    let end = u64::from(FIRST_RECORD) + records.len() as u64;
    let fresh = Arc::new(Segment { header, file: spare.file, size: spare.size });
    segments.insert(header.number, fresh.clone());
    tail.continuation_number += 1;
    tail.previous_end = previous_end;
    tail.fresh = Some((fresh, end));
    let nothing_left = previous_end <= FIRST_RECORD && from <= last.header.first_sequence;
    let name = last.header.kind.segment_name(last.header.number);
    if nothing_left && !quarantine.is_kept(&name) && !last.header.snapshot {
        segments.remove(&last.header.number);
        spares.recycle(&name, last).map_err(trouble)?;
    }
    Ok(())
}

/// Keeps of a damaged put what can be known, its key: its value may have been promised, so it must read as damaged and
/// not as what it was before.
fn keep_key(
    segment: &Segment,
    at: u32,
    header: &Header,
    magic: u64,
    synced: u64,
    records: &mut Vec<u8>,
) -> io::Result<()> {
    let mut front = vec![0; (header.front_len as usize).min(segment.size as usize)];
    let read = segment.file.read_at(&mut front, u64::from(at) + HEADER_BYTES as u64)?;
    front.truncate(read);
    let front = match crc32fast::hash(&front) == header.front_crc {
        true => Some(front),
        false => repair_front(&front, header.front_crc),
    };
    if let Some(front) = front {
        // A sum that no empty body has.
        Header { synced, body_len: 0, body_crc: 1, ..*header }.write(magic, records);
        records.extend_from_slice(&front);
        records.resize(records.len().next_multiple_of(super::record::ALIGN as usize), 0);
    }
    Ok(())
}

/// A log that goes on where its tail was secured.
pub(super) fn continue_log(
    kind: LogKind,
    spool_id: SpoolId,
    disk: &Arc<dyn Disk>,
    segments: BTreeMap<u32, Arc<Segment>>,
    tail: &Tail,
) -> Log {
    let from = Continuation {
        next_number: tail.continuation_number,
        next_sequence: tail.next_sequence,
        previous_end: tail.previous_end,
    };
    let mut log = Log::new(kind, spool_id, disk.clone(), segments, &from);
    if let Some((segment, end)) = &tail.fresh {
        log.resume(segment.clone(), *end);
    }
    log
}
