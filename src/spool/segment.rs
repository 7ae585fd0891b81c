//! One segment of a log: its name, its header page, and the walk over its records.
//!
//! ```text
//!   0       8      10    11      12       16         32      40         48        56        60    64
//!   | "post | ver- | log | flags | number | spool id | magic | first    | last    | previous | 0  | newest
//!   | ride" | sion | u8  | u8    | u32    | u128     | u64   | sequence | id u64  | end u32  |    | time u64
//!   72                  92          96
//!   | zeros             | crc u32   |
//! ```
//! Little-endian; written twice, at 0 and at 2048, so that one flipped byte never takes a segment. Records begin at
//! 4096.

use std::io;
use std::sync::Arc;

use super::SpoolId;
use super::disk::DiskFile;
use super::record::{ALIGN, HEADER_BYTES, Header, VERSION};
use super::wire::{Reader, Writer};

/// Where the first record stands.
pub(super) const FIRST_RECORD: u32 = 4096;
const COPY_OFFSETS: [usize; 2] = [0, 2048];
const HEADER_SIZE: usize = 96;
const MARK: &[u8; 8] = b"postride";
/// What one read of a walk takes in: a dozen ordinary records.
const WINDOW_BYTES: usize = 128 * 1024;
/// Kept of a damaged last record whose length cannot be told.
const STUMP_BYTES: u64 = 64 * 1024;

/// Which of the two logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum LogKind {
    Mail,
    State,
}

impl LogKind {
    fn number(self) -> u8 {
        match self {
            LogKind::Mail => 1,
            LogKind::State => 2,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            LogKind::Mail => "mail-",
            LogKind::State => "state-",
        }
    }

    /// The file of a segment.
    pub(super) fn segment_name(self, number: u32) -> String {
        format!("{}{number:08x}.log", self.prefix())
    }

    /// The segment of a file, if it is one of this log.
    pub(super) fn segment_number(self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(self.prefix())?.strip_suffix(".log")?;
        if digits.len() == 8 { u32::from_str_radix(digits, 16).ok() } else { None }
    }
}

/// What a segment says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    pub kind: LogKind,
    /// A sorted copy of all state before it: older segments count for nothing.
    pub snapshot: bool,
    pub number: u32,
    pub spool_id: SpoolId,
    pub magic: u64,
    /// Its first record's number. Older segments' records from this number on were rewritten here.
    pub first_sequence: u64,
    /// The highest queue id in any record before.
    pub last_id: u64,
    /// Where the records of the segment before end. 0: there was none.
    pub previous_end: u32,
    /// The latest time in any record before, in ms.
    pub newest: u64,
}

/// Why a header page says nothing.
#[derive(Debug)]
pub(super) enum BadHeader {
    Damaged,
    Version(u16),
}

impl SegmentHeader {
    /// The whole first page.
    pub(super) fn page(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(HEADER_SIZE);
        copy.extend_from_slice(MARK);
        let mut w = Writer(&mut copy);
        w.u16(VERSION);
        w.u8(self.kind.number());
        w.u8(u8::from(self.snapshot));
        w.u32(self.number);
        w.0.extend_from_slice(&self.spool_id.0.to_le_bytes());
        w.u64(self.magic);
        w.u64(self.first_sequence);
        w.u64(self.last_id);
        w.u32(self.previous_end);
        w.u32(0);
        w.u64(self.newest);
        copy.resize(HEADER_SIZE - 4, 0);
        let crc = crc32fast::hash(&copy);
        Writer(&mut copy).u32(crc);
        let mut page = vec![0; FIRST_RECORD as usize];
        for at in COPY_OFFSETS {
            if let Some(place) = page.get_mut(at..at + HEADER_SIZE) {
                place.copy_from_slice(&copy);
            }
        }
        page
    }

    pub(super) fn parse(page: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let mut bad = BadHeader::Damaged;
        for at in COPY_OFFSETS {
            match page.get(at..at + HEADER_SIZE).map(SegmentHeader::parse_copy) {
                Some(Ok(header)) => return Ok(header),
                Some(Err(error @ BadHeader::Version(_))) => bad = error,
                Some(Err(BadHeader::Damaged)) | None => {}
            }
        }
        Err(bad)
    }

    fn parse_copy(copy: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let (summed, crc) = copy.split_last_chunk::<4>().ok_or(BadHeader::Damaged)?;
        if !summed.starts_with(MARK) || crc32fast::hash(summed) != u32::from_le_bytes(*crc) {
            return Err(BadHeader::Damaged);
        }
        let mut r = Reader(summed.get(MARK.len()..).unwrap_or_default());
        match r.u16() {
            // Its shape is the same in all of them; what changed is what its records may hold.
            Some(1..=VERSION) => SegmentHeader::parse_fields(&mut r).ok_or(BadHeader::Damaged),
            Some(version) => Err(BadHeader::Version(version)),
            None => Err(BadHeader::Damaged),
        }
    }

    fn parse_fields(r: &mut Reader) -> Option<SegmentHeader> {
        let kind = match r.u8()? {
            1 => LogKind::Mail,
            2 => LogKind::State,
            _ => return None,
        };
        let snapshot = r.flag()?;
        let number = r.u32()?;
        let spool_id = SpoolId(r.u128()?);
        let (magic, first_sequence, last_id, previous_end) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?);
        r.u32()?;
        let newest = r.u64()?;
        Some(SegmentHeader { kind, snapshot, number, spool_id, magic, first_sequence, last_id, previous_end, newest })
    }

    /// From an open file.
    pub(super) fn of(file: &dyn DiskFile) -> io::Result<Result<SegmentHeader, BadHeader>> {
        let mut page = vec![0; FIRST_RECORD as usize];
        let read = file.read_at(&mut page, 0)?;
        page.truncate(read);
        Ok(SegmentHeader::parse(&page))
    }
}

/// An open segment, shared with those who read from it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub file: Arc<dyn DiskFile>,
    /// Bytes of the file.
    pub size: u64,
}

/// What stands at a place in a segment.
pub(super) enum Found<'a> {
    /// A record whose header and front are sound; the body was not looked at.
    Record { at: u32, header: Header, front: &'a [u8] },
    /// A record whose header is sound and whose front is not.
    BadFront { at: u32, header: Header, front: &'a [u8] },
    /// Bytes that no record can be made of, up to the next sound header or the end.
    Gap { at: u32, len: u64 },
}

/// A walk over the records of a segment, in order. Reads fronts, never bodies larger than its window.
pub(super) struct Walk<'a> {
    file: &'a dyn DiskFile,
    magic: u64,
    at: u64,
    /// Nothing of the segment stands from here on.
    limit: u64,
    /// Whether the records fill it up to the limit, or just end somewhere.
    sealed: bool,
    window: Vec<u8>,
    window_at: u64,
    /// Bytes of the window that were read.
    filled: usize,
    done: bool,
    /// The disk would not give some page; it was taken as zeros.
    unreadable: bool,
}

impl<'a> Walk<'a> {
    /// Over a segment that ends at `end`, or of which nobody knows the end.
    pub(super) fn new(segment: &'a Segment, end: Option<u32>) -> Walk<'a> {
        let limit = end.map_or(segment.size, |end| u64::from(end).min(segment.size));
        Walk {
            file: &*segment.file,
            magic: segment.header.magic,
            at: u64::from(FIRST_RECORD),
            limit: limit.min(u64::from(u32::MAX)),
            sealed: end.is_some(),
            window: Vec::new(),
            window_at: 0,
            filled: 0,
            done: false,
            unreadable: false,
        }
    }

    /// Whether the disk would not give some part: the segment must not be overwritten, a doctor may yet read it.
    pub(super) fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// The body of a record just found, sound or not.
    pub(super) fn body(&mut self, at: u32, header: &Header) -> io::Result<&[u8]> {
        let len = (header.body_len as usize).min(self.limit as usize);
        self.bytes(u64::from(at) + header.body_offset(), len)
    }

    /// Where the last record ended.
    pub(super) fn end(&self) -> u32 {
        self.at as u32
    }

    /// The next thing found; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        if self.done || self.at + HEADER_BYTES as u64 > self.limit {
            return Ok(None);
        }
        let magic = self.magic;
        let bytes = self.bytes(self.at, HEADER_BYTES)?;
        let sound = Header::read(bytes, magic);
        let Some(header) = sound.or_else(|| Header::repair(bytes, magic)) else { return self.resync() };
        if self.at + header.record_bytes() > self.limit.next_multiple_of(ALIGN) {
            return self.resync();
        }
        let at = self.at;
        let front = self.bytes(at + HEADER_BYTES as u64, header.front_len as usize)?;
        let front_sound = front.len() == header.front_len as usize && crc32fast::hash(front) == header.front_crc;
        if !front_sound && sound.is_none() {
            return self.resync();
        }
        self.at += header.record_bytes();
        let front = self.seen(at + HEADER_BYTES as u64, header.front_len as usize);
        let at = at as u32;
        Ok(Some(match front_sound {
            true => Found::Record { at, header, front },
            false => Found::BadFront { at, header, front },
        }))
    }

    /// Looks for the next sound header: this segment's magic with a right checksum, and nothing less.
    fn resync(&mut self) -> io::Result<Option<Found<'_>>> {
        let start = self.at;
        let magic = self.magic.to_le_bytes();
        let begins_like_a_record = self.bytes(start, HEADER_BYTES)?.starts_with(&magic);
        let finder = memchr::memmem::Finder::new(&magic);
        let mut at = start + ALIGN;
        while at + HEADER_BYTES as u64 <= self.limit {
            let len = (self.limit - at).min(8 * WINDOW_BYTES as u64) as usize;
            let bytes = self.bytes(at, len)?;
            let Some(place) = finder.find(bytes) else {
                // The magic may begin in the last seven bytes.
                at += (len as u64).saturating_sub(8).max(ALIGN) / ALIGN * ALIGN;
                continue;
            };
            let candidate = at + place as u64;
            let header = self.bytes(candidate, HEADER_BYTES)?;
            if candidate.is_multiple_of(ALIGN) && Header::read(header, u64::from_le_bytes(magic)).is_some() {
                self.at = candidate;
                return Ok(Some(Found::Gap { at: start as u32, len: candidate - start }));
            }
            at = (candidate + 1).next_multiple_of(ALIGN);
        }
        self.done = true;
        if self.sealed {
            return Ok(Some(Found::Gap { at: start as u32, len: self.limit.saturating_sub(start) }));
        }
        if begins_like_a_record {
            return Ok(Some(Found::Gap { at: start as u32, len: STUMP_BYTES.min(self.limit - start) }));
        }
        Ok(None)
    }

    /// These bytes of the file, fewer at its end.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let held = at >= self.window_at && at + len as u64 <= self.window_at + self.filled as u64;
        if !held {
            if self.window.len() < len.max(WINDOW_BYTES) {
                self.window = vec![0; len.max(WINDOW_BYTES)];
            }
            (self.window_at, self.filled) = (at, 0);
            let (read, bad) = read_patiently(self.file, &mut self.window, at, self.limit)?;
            self.unreadable |= bad;
            self.filled = read;
        }
        Ok(self.seen(at, len))
    }

    /// These bytes, if the window has them.
    fn seen(&self, at: u64, len: usize) -> &[u8] {
        let start = at.saturating_sub(self.window_at) as usize;
        let rest = self.window.get(start..self.filled).unwrap_or_default();
        rest.get(..len).unwrap_or(rest)
    }
}

/// Reads once, once more, then page by page with zeros for those that the disk will not give: one bad sector must not
/// keep the whole spool from starting. Tells how much was read and whether any page was bad.
fn read_patiently(file: &dyn DiskFile, buffer: &mut [u8], at: u64, limit: u64) -> io::Result<(usize, bool)> {
    const PAGE: usize = 4096;
    for _ in 0..2 {
        if let Ok(read) = file.read_at(buffer, at) {
            return Ok((read, false));
        }
    }
    let len = buffer.len().min(limit.saturating_sub(at) as usize);
    let mut failed = 0;
    for (number, page) in buffer.get_mut(..len).unwrap_or_default().chunks_mut(PAGE).enumerate() {
        if file.read_at(page, at + (number * PAGE) as u64).is_err() {
            page.fill(0);
            failed += 1;
        }
    }
    match failed > 0 && failed == len.div_ceil(PAGE) && len > PAGE {
        // Not a bad sector: the disk is gone.
        true => Err(io::Error::other("nothing of the segment can be read")),
        false => Ok((len, failed > 0)),
    }
}

/// The record at a place: its header and front, both sound. `Ok(None)`: there is none.
pub(super) fn read_front(segment: &Segment, at: u32) -> io::Result<Option<(Header, Vec<u8>)>> {
    /// An ordinary header and front in one read.
    const GUESS_BYTES: usize = 4096;
    let mut bytes = vec![0; GUESS_BYTES];
    let read = segment.file.read_at(&mut bytes, u64::from(at))?;
    bytes.truncate(read);
    let magic = segment.header.magic;
    let header = Header::read(&bytes, magic).or_else(|| Header::repair(&bytes, magic));
    let Some(header) = header else { return Ok(None) };
    let len = header.front_len as usize;
    if bytes.len() < HEADER_BYTES + len {
        bytes = vec![0; (HEADER_BYTES + len).min(segment.size as usize)];
        let read = segment.file.read_at(&mut bytes, u64::from(at))?;
        bytes.truncate(read);
    }
    let Some(front) = bytes.get(HEADER_BYTES..HEADER_BYTES + len) else { return Ok(None) };
    if crc32fast::hash(front) != header.front_crc {
        return Ok(None);
    }
    let front = front.to_vec();
    Ok(Some((header, front)))
}

/// The record's body, sound or not. Shorter than it should be at the end of the file.
pub(super) fn read_inline_body(segment: &Segment, at: u32, header: &Header) -> io::Result<Vec<u8>> {
    let mut body = vec![0; (header.body_len as usize).min(segment.size as usize)];
    let read = segment.file.read_at(&mut body, u64::from(at) + header.body_offset())?;
    body.truncate(read);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_of_an_older_version_is_read_and_one_of_a_newer_is_not_touched() {
        let header = SegmentHeader {
            kind: LogKind::Mail,
            snapshot: false,
            number: 3,
            spool_id: SpoolId(7),
            magic: 1,
            first_sequence: 2,
            last_id: 3,
            previous_end: 4,
            newest: 5,
        };
        let page = |version: u16| {
            let mut page = header.page();
            for at in COPY_OFFSETS {
                let copy = &mut page[at..at + HEADER_SIZE];
                copy[MARK.len()..MARK.len() + 2].copy_from_slice(&version.to_le_bytes());
                let crc = crc32fast::hash(&copy[..HEADER_SIZE - 4]);
                copy[HEADER_SIZE - 4..].copy_from_slice(&crc.to_le_bytes());
            }
            page
        };
        for version in 1..=VERSION {
            assert!(SegmentHeader::parse(&page(version)).is_ok_and(|read| read.number == 3), "version {version}");
        }
        for version in [0, VERSION + 1] {
            assert!(matches!(SegmentHeader::parse(&page(version)), Err(BadHeader::Version(read)) if read == version));
        }
    }
}
