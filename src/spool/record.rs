//! One record: a header with a checksum of its own, a front (the list of entries) with its own, a body with its own.
//!
//! ```text
//!   0        8          16       24     32        36        40       44       48      50   52
//!   | magic  | sequence | synced | ends | front   | front   | body   | body   | ver-  | 0  | header |
//!   | u64    | u64      | u64    | u64  | len u32 | crc u32 | len u32| crc u32| sion  |    | crc u32|
//!   56                 56 + front len                56 + front len + body len    next multiple of 8
//!   | front: entries   | body                        | zeros                     |
//! ```
//! Little-endian. The magic is 64 random bits of the segment: a client could mail a forged record, but cannot know it.
//! Decoding is total: any bytes give entries or nothing.

use bytes::Bytes;

use super::field::{read_envelope, read_progress, write_envelope, write_progress};
use super::wire::{Reader, Writer};
use crate::mail::{Envelope, Prepared, Progress, QueueId};

/// Bytes before the front.
pub(super) const HEADER_BYTES: usize = 56;
/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// Written into every record and segment; a reader knows this and all before.
pub(super) const VERSION: u16 = 2;
/// No honest front is longer: 1,000 recipients with the longest replies make 1.5 MiB.
const FRONT_BYTES_MAX: u32 = 256 << 20;
/// Fronts up to this are searched for the one byte that was flipped, to learn at least whose value is damaged.
const REPAIR_BYTES_MAX: usize = 1024;

/// What a record says before its front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Its number in the log.
    pub sequence: u64,
    /// Every record of the log up to this was synced when this one was composed.
    pub synced: u64,
    /// For a final settle: the number of the Accepted or Moved record that holds the envelope it ends. Else 0.
    pub ends: u64,
    pub front_len: u32,
    pub front_crc: u32,
    pub body_len: u32,
    pub body_crc: u32,
    pub version: u16,
}

impl Header {
    pub(super) fn write(&self, magic: u64, out: &mut Vec<u8>) {
        let at = out.len();
        let mut w = Writer(out);
        w.u64(magic);
        w.u64(self.sequence);
        w.u64(self.synced);
        w.u64(self.ends);
        w.u32(self.front_len);
        w.u32(self.front_crc);
        w.u32(self.body_len);
        w.u32(self.body_crc);
        w.u16(self.version);
        w.u16(0);
        let crc = crc32fast::hash(out.get(at..).unwrap_or_default());
        Writer(out).u32(crc);
    }

    /// A header of this segment, sound in itself.
    pub(super) fn read(bytes: &[u8], magic: u64) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let (summed, crc) = bytes.split_last_chunk::<4>()?;
        if !summed.starts_with(&magic.to_le_bytes()) || crc32fast::hash(summed) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut r = Reader(summed.get(8..)?);
        let header = Header {
            sequence: r.u64()?,
            synced: r.u64()?,
            ends: r.u64()?,
            front_len: r.u32()?,
            front_crc: r.u32()?,
            body_len: r.u32()?,
            body_crc: r.u32()?,
            version: r.u16()?,
        };
        (header.front_len <= FRONT_BYTES_MAX).then_some(header)
    }

    /// The header that this was before one byte of it changed. The front's checksum must confirm it.
    pub(super) fn repair(bytes: &[u8], magic: u64) -> Option<Header> {
        let mut bytes: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let wrong = bytes.iter().zip(magic.to_le_bytes()).filter(|(is, should)| **is != *should).count();
        if wrong > 1 {
            return None;
        }
        if wrong == 1 {
            for (is, should) in bytes.iter_mut().zip(magic.to_le_bytes()) {
                *is = should;
            }
            return Header::read(&bytes, magic);
        }
        for place in 8..HEADER_BYTES {
            let Some(&was) = bytes.get(place) else { continue };
            for value in 0..=u8::MAX {
                set(&mut bytes, place, value);
                if let Some(header) = Header::read(&bytes, magic) {
                    return Some(header);
                }
            }
            set(&mut bytes, place, was);
        }
        None
    }

    /// Bytes from this record's start to the next one's.
    pub(super) fn record_bytes(&self) -> u64 {
        (HEADER_BYTES as u64 + u64::from(self.front_len) + u64::from(self.body_len)).next_multiple_of(ALIGN)
    }

    /// Where the body stands in the record.
    pub(super) fn body_offset(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.front_len)
    }
}

fn set(bytes: &mut [u8], place: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(place) {
        *byte = value;
    }
}

/// Where the body of an Accepted or Moved is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyPlace {
    /// It is the record's body.
    Inline,
    /// It is the file `bodies/NAME`.
    File {
        /// The first queue id of the message.
        name: QueueId,
        /// Length in bytes.
        len: u64,
        /// CRC-32 of all of it.
        crc: u32,
    },
}

/// One entry of a record.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry {
    /// A message and the envelopes that share its body.
    Accepted {
        /// Where the body is.
        body: BodyPlace,
        /// One or more.
        envelopes: Vec<Envelope>,
    },
    /// The whole state of one envelope; the latest wins.
    Settled {
        /// Which.
        id: QueueId,
        /// Its state.
        progress: Progress,
    },
    /// A copy forward of what is live of an Accepted or Moved; supersedes all before about these envelopes.
    Moved {
        /// Where the body is.
        body: BodyPlace,
        /// The live ones and their states.
        stored: Vec<(Envelope, Progress)>,
    },
    /// State. The value is the record's body.
    Put {
        /// Whose table.
        table: u16,
        /// Key within the table.
        key: Bytes,
        /// Whether there is a value.
        present: bool,
    },
    /// The spool was closed cleanly after this.
    Closed,
}

/// A record's changing parts, encoded and summed; sequence and magic are the writer thread's to add.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    pub front: Vec<u8>,
    pub front_crc: u32,
    pub body: Bytes,
    pub body_crc: u32,
}

impl Encoded {
    /// From entries written by `front` and a body whose checksum is known.
    pub(super) fn new(front: impl FnOnce(&mut Writer), body: Bytes, body_crc: u32) -> Encoded {
        let mut bytes = Vec::with_capacity(512);
        front(&mut Writer(&mut bytes));
        let front_crc = crc32fast::hash(&bytes);
        Encoded { front: bytes, front_crc, body, body_crc }
    }

    /// Bytes that the record takes up in the log.
    pub(super) fn record_bytes(&self) -> u64 {
        (HEADER_BYTES as u64 + self.front.len() as u64 + self.body.len() as u64).next_multiple_of(ALIGN)
    }

    /// Appends the whole record.
    pub(super) fn write(&self, magic: u64, sequence: u64, synced: u64, ends: u64, out: &mut Vec<u8>) {
        let header = Header {
            sequence,
            synced,
            ends,
            front_len: self.front.len() as u32,
            front_crc: self.front_crc,
            body_len: self.body.len() as u32,
            body_crc: self.body_crc,
            version: VERSION,
        };
        header.write(magic, out);
        out.extend_from_slice(&self.front);
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
    }
}

/// The entry of an accepted message.
pub(super) fn write_accepted(w: &mut Writer, body: BodyPlace, envelopes: &[Envelope]) {
    w.u8(1);
    w.framed(|w| {
        write_body_place(w, body);
        w.u32(envelopes.len() as u32);
        for envelope in envelopes {
            write_envelope(w, envelope);
        }
    });
}

/// The entry of a settle.
pub(super) fn write_settled(w: &mut Writer, id: QueueId, progress: &Progress) {
    w.u8(2);
    w.framed(|w| {
        w.u64(id.as_u64());
        write_progress(w, progress);
    });
}

/// The entry of a copy forward.
pub(super) fn write_moved(w: &mut Writer, body: BodyPlace, stored: &[(Envelope, Progress)]) {
    w.u8(3);
    w.framed(|w| {
        write_body_place(w, body);
        w.u32(stored.len() as u32);
        for (envelope, progress) in stored {
            write_envelope(w, envelope);
            write_progress(w, progress);
        }
    });
}

/// The entry of a state put.
pub(super) fn write_put(w: &mut Writer, table: u16, key: &[u8], present: bool) {
    w.u8(4);
    w.framed(|w| {
        w.u16(table);
        w.u8(u8::from(present));
        w.bytes(key);
    });
}

/// The entry of a clean close.
pub(super) fn write_closed(w: &mut Writer) {
    w.u8(5);
    w.framed(|_| {});
}

fn write_body_place(w: &mut Writer, body: BodyPlace) {
    match body {
        BodyPlace::Inline => w.u8(0),
        BodyPlace::File { name, len, crc } => {
            w.u8(1);
            w.u64(name.as_u64());
            w.u64(len);
            w.u32(crc);
        }
    }
}

fn read_body_place(r: &mut Reader) -> Option<BodyPlace> {
    match r.u8()? {
        0 => Some(BodyPlace::Inline),
        1 => Some(BodyPlace::File { name: QueueId::from_u64(r.u64()?), len: r.u64()?, crc: r.u32()? }),
        _ => None,
    }
}

/// The entries of a front. `None`: these bytes are no front that this version knows.
pub fn decode_front(front: &[u8]) -> Option<Vec<Entry>> {
    let mut rest = Reader(front);
    let mut entries = Vec::with_capacity(1);
    while !rest.0.is_empty() {
        let kind = rest.u8()?;
        let mut r = rest.framed()?;
        entries.push(read_entry(kind, &mut r)?);
    }
    Some(entries)
}

fn read_entry(kind: u8, r: &mut Reader) -> Option<Entry> {
    /// No envelope takes fewer bytes.
    const ENVELOPE_BYTES_MIN: usize = 64;
    Some(match kind {
        1 => {
            let body = read_body_place(r)?;
            let count = r.u32()? as usize;
            Entry::Accepted { body, envelopes: r.list(count, ENVELOPE_BYTES_MIN, read_envelope)? }
        }
        2 => Entry::Settled { id: QueueId::from_u64(r.u64()?), progress: read_progress(r)? },
        3 => {
            let body = read_body_place(r)?;
            let count = r.u32()? as usize;
            let stored = r.list(count, ENVELOPE_BYTES_MIN, |r| Some((read_envelope(r)?, read_progress(r)?)))?;
            Entry::Moved { body, stored }
        }
        4 => {
            let table = r.u16()?;
            let present = r.flag()?;
            Entry::Put { table, key: Bytes::copy_from_slice(r.bytes()?), present }
        }
        5 => Entry::Closed,
        _ => return None,
    })
}

/// A whole record as it stands in a segment with this magic, with its body: for fuzzing and for tests. `None`: damaged.
pub fn decode_record(bytes: &[u8], magic: u64) -> Option<(Vec<Entry>, &[u8])> {
    let header = Header::read(bytes, magic)?;
    let front_end = HEADER_BYTES.checked_add(header.front_len as usize)?;
    let front = bytes.get(HEADER_BYTES..front_end)?;
    let body = bytes.get(front_end..front_end.checked_add(header.body_len as usize)?)?;
    let sound = crc32fast::hash(front) == header.front_crc && crc32fast::hash(body) == header.body_crc;
    if sound { Some((decode_front(front)?, body)) } else { None }
}

/// A record as it would stand in a segment with this magic: for fuzzing and for tests.
pub fn encode_record(prepared: &Prepared, magic: u64, sequence: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_prepared(prepared, BodyPlace::Inline, None).write(magic, sequence, 0, 0, &mut out);
    out
}

/// An accepted message, alone or together with the settle that causes it.
pub(super) fn encode_prepared(prepared: &Prepared, place: BodyPlace, settled: Option<(QueueId, &Progress)>) -> Encoded {
    let body = match place {
        BodyPlace::Inline => prepared.body.clone(),
        BodyPlace::File { .. } => Bytes::new(),
    };
    let crc = crc32fast::hash(&body);
    Encoded::new(
        |w| {
            if let Some((id, progress)) = settled {
                write_settled(w, id, progress);
            }
            write_accepted(w, place, &prepared.envelopes);
        },
        body,
        crc,
    )
}

/// The front that this was before one byte of it changed; for learning a key, never for believing a value.
pub(super) fn repair_front(front: &[u8], crc: u32) -> Option<Vec<u8>> {
    if front.len() > REPAIR_BYTES_MAX {
        return None;
    }
    let mut bytes = front.to_vec();
    for place in 0..bytes.len() {
        let was = *bytes.get(place)?;
        for value in 0..=u8::MAX {
            set(&mut bytes, place, value);
            if crc32fast::hash(&bytes) == crc {
                return Some(bytes);
            }
        }
        set(&mut bytes, place, was);
    }
    None
}
