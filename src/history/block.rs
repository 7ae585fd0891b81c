//! Blocks: rows one behind the other, checked as a whole. Pure.
//!
//! A block on the disk:
//!
//! ```text
//!   0         8        12       16          24         32        36           40
//!   | marker  | length | rows   | first ms  | last ms  | crc32   | crc32 of    | body, `length` octets
//!   | u64     | u32    | u32    | u64       | u64      | of body | octets 0-36 |
//! ```
//! Numbers are little-endian. The marker is the file's own 64 random bits: text that a stranger chose cannot look like
//! a block. In the body a row is its kind (u8), its time (zigzag varint, against the row before), and its fields: numbers
//! as varints, texts with their length before them, words as 0 and a text when they come first in the block, later as
//! their place in that order.

use std::collections::HashMap;

use super::key::Key;
use super::row::{Fact, Fields, Row};
use crate::mail::Text;
use crate::time::Timestamp;

/// Octets of a block's header.
pub(super) const HEADER_LENGTH: usize = 40;
/// A block that has this much is closed. Unit: octets.
pub(super) const FULL_LENGTH: usize = 64 * 1024;
/// Longest body that is believed. Unit: octets. One row more than full.
pub(super) const BODY_LENGTH_MAX: usize = FULL_LENGTH + 64 * 1024;
/// Longest text that is kept. Unit: octets. A row has fewer than sixteen.
const TEXT_LENGTH_MAX: usize = 2000;

/// A block that is being filled.
#[derive(Debug, Default)]
pub(super) struct Builder {
    body: Vec<u8>,
    words: HashMap<Text, u64>,
    rows: u32,
    times: Option<(Timestamp, Timestamp)>,
    previous: u64,
    /// What its rows are found by.
    pub keys: Vec<Key>,
    /// Its event lines.
    pub events: Vec<u8>,
}

impl Builder {
    pub fn push(&mut self, row: &mut Row) {
        let at = row.at.as_millis();
        self.body.push(row.fact.kind());
        let difference = at.wrapping_sub(self.previous) as i64;
        put_number(&mut self.body, ((difference << 1) ^ (difference >> 63)) as u64);
        self.previous = at;
        // Invariant: writing never fails.
        let _ = row.fact.fields(&mut Out { body: &mut self.body, words: &mut self.words });
        row.fact.keys(|key| self.keys.push(key));
        let (first, last) = self.times.unwrap_or((row.at, row.at));
        self.times = Some((first.min(row.at), last.max(row.at)));
        self.rows += 1;
    }

    /// A block of whatever octets: for `exercise`.
    pub fn of_body(octets: &[u8]) -> Builder {
        let body = octets.get(..BODY_LENGTH_MAX).unwrap_or(octets).to_vec();
        Builder { body, rows: 1, ..Builder::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn is_full(&self) -> bool {
        self.body.len() >= FULL_LENGTH
    }

    pub fn rows(&self) -> u64 {
        u64::from(self.rows)
    }

    /// Octets of memory, roughly.
    pub fn weight(&self) -> usize {
        self.body.len() + self.events.len() + self.keys.len() * size_of::<Key>()
    }

    /// The newest row's time.
    pub fn last(&self) -> Timestamp {
        self.times.map_or(Timestamp::ZERO, |(_, last)| last)
    }

    /// As it is written.
    pub fn sealed(&self, marker: u64) -> Vec<u8> {
        let (first, last) = self.times.unwrap_or_default();
        let header = Header { length: self.body.len() as u32, rows: self.rows, first, last };
        let mut out = Vec::with_capacity(HEADER_LENGTH + self.body.len());
        header.write(marker, crc32fast::hash(&self.body), &mut out);
        out.extend_from_slice(&self.body);
        out
    }
}

/// What a block says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub length: u32,
    pub rows: u32,
    pub first: Timestamp,
    pub last: Timestamp,
}

impl Header {
    fn write(&self, marker: u64, crc: u32, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&marker.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.first.as_millis().to_le_bytes());
        out.extend_from_slice(&self.last.as_millis().to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        let own = crc32fast::hash(&out[begin..]);
        out.extend_from_slice(&own.to_le_bytes());
    }

    /// A header and its body's checksum. `None`: there is none here.
    pub fn read(bytes: &[u8], marker: u64) -> Option<(Header, u32)> {
        let head = bytes.first_chunk::<HEADER_LENGTH>()?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
        if u64_at(0) != marker || crc32fast::hash(&head[..36]) != u32_at(36) {
            return None;
        }
        let (first, last) = (Timestamp::from_millis(u64_at(16)), Timestamp::from_millis(u64_at(24)));
        let header = Header { length: u32_at(8), rows: u32_at(12), first, last };
        (header.length as usize <= BODY_LENGTH_MAX).then_some((header, u32_at(32)))
    }
}

/// A block's rows. `None`: it is damaged. Rows of a kind that a later version wrote end it: nobody knows their length.
pub fn rows(bytes: &[u8], marker: u64) -> Option<Vec<Row>> {
    let (header, crc) = Header::read(bytes, marker)?;
    let body = bytes.get(HEADER_LENGTH..HEADER_LENGTH + header.length as usize)?;
    if crc32fast::hash(body) != crc {
        return None;
    }
    let mut read = In { rest: body, words: Vec::new() };
    // What a header says is believed only as far as the body can hold it.
    let mut all = Vec::with_capacity((header.rows as usize).min(body.len() / 2));
    let mut previous = 0u64;
    while let [kind, rest @ ..] = read.rest {
        let Some(mut fact) = Fact::of_kind(*kind) else { break };
        read.rest = rest;
        let number = read.take_number()?;
        previous = previous.wrapping_add(((number >> 1) as i64 ^ -((number & 1) as i64)) as u64);
        fact.fields(&mut read)?;
        all.push(Row { at: Timestamp::from_millis(previous), fact });
    }
    Some(all)
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// At most so many octets, whole characters.
fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LENGTH_MAX)]
}

struct Out<'a> {
    body: &'a mut Vec<u8>,
    words: &'a mut HashMap<Text, u64>,
}

impl Fields for Out<'_> {
    fn number(&mut self, number: &mut u64) -> Option<()> {
        put_number(self.body, *number);
        Some(())
    }

    fn word(&mut self, word: &mut Text) -> Option<()> {
        let kept = bounded(word);
        if let Some(place) = self.words.get(kept) {
            put_number(self.body, place + 1);
            return Some(());
        }
        self.words.insert(kept.into(), self.words.len() as u64);
        put_number(self.body, 0);
        self.text(word)
    }

    fn text(&mut self, text: &mut Text) -> Option<()> {
        let kept = bounded(text);
        put_number(self.body, kept.len() as u64);
        self.body.extend_from_slice(kept.as_bytes());
        Some(())
    }
}

struct In<'a> {
    rest: &'a [u8],
    words: Vec<&'a str>,
}

impl<'a> In<'a> {
    fn take_number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take_text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.take_number()?).ok().filter(|length| *length <= TEXT_LENGTH_MAX)?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}

impl Fields for In<'_> {
    fn number(&mut self, number: &mut u64) -> Option<()> {
        *number = self.take_number()?;
        Some(())
    }

    fn word(&mut self, word: &mut Text) -> Option<()> {
        let found = match self.take_number()? {
            0 => {
                let text = self.take_text()?;
                self.words.push(text);
                text
            }
            place => self.words.get(usize::try_from(place - 1).ok()?)?,
        };
        *word = found.into();
        Some(())
    }

    fn text(&mut self, text: &mut Text) -> Option<()> {
        *text = self.take_text()?.into();
        Some(())
    }
}
