//! Blocks of a file: entries in the order of their keys, checked as a whole. Pure.
//!
//! ```text
//!   0         8        12        16        20          24
//!   | marker  | length | entries | words   | crc32 of    | body, `length` octets: entries, from `words` on the words
//!   | u64     | u32    | u32     | at u32  | 8-20 + body |
//! ```
//! Little-endian. The marker is the file's own 64 random bits. An entry: how many octets of its key it shares with the key
//! before (varint), the rest's length and octets, the value's length (varint) and the value (`entry.rs`), whose texts are
//! numbers of words. The words: how many (varint), then each with its length before it. So a look-up passes over values
//! without reading them.

use std::collections::HashMap;

use super::entry::{EVIDENCE_LENGTH_MAX, Entry, Texts, read_fields, write_fields};
use super::key::{self, KEY_LENGTH_MAX, put_number, take_number};

/// Octets of a block's header.
pub(super) const HEADER_LENGTH: usize = 24;
/// A block that has this much is closed: one read of a look-up. Unit: octets.
const FULL_LENGTH: usize = 4096;
/// Longest body that is believed. Unit: octets. Full, and one entry with two words.
pub(super) const BODY_LENGTH_MAX: usize = FULL_LENGTH + 4096;

/// One entry of a file: its key, and what it says; `None`: it was removed, or all that is older is void (a reset).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub key: Vec<u8>,
    pub entry: Option<Entry>,
}

/// A block that is being filled.
#[derive(Debug, Default)]
pub(super) struct Builder {
    body: Vec<u8>,
    value: Vec<u8>,
    words: Words,
    entries: u32,
    last: Vec<u8>,
}

#[derive(Debug, Default)]
struct Words {
    places: HashMap<Box<str>, u64>,
    octets: Vec<u8>,
}

impl Texts for Words {
    fn put(&mut self, out: &mut Vec<u8>, text: &str) {
        let place = match self.places.get(text) {
            Some(place) => *place,
            None => {
                let place = self.places.len() as u64;
                self.places.insert(text.into(), place);
                put_number(&mut self.octets, text.len() as u64);
                self.octets.extend_from_slice(text.as_bytes());
                place
            }
        };
        put_number(out, place);
    }
}

impl Builder {
    /// Adds the next entry; keys rise.
    pub fn push(&mut self, key: &[u8], entry: Option<&Entry>) {
        let shared = key.iter().zip(&self.last).take_while(|(own, before)| own == before).count();
        let rest = key.get(shared..).unwrap_or_default();
        put_number(&mut self.body, shared as u64);
        put_number(&mut self.body, rest.len() as u64);
        self.body.extend_from_slice(rest);
        self.value.clear();
        write_fields(&mut self.value, entry, &mut self.words);
        put_number(&mut self.body, self.value.len() as u64);
        self.body.extend_from_slice(&self.value);
        self.entries += 1;
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub fn is_full(&self) -> bool {
        self.body.len() + self.words.octets.len() >= FULL_LENGTH
    }

    /// As it is written; the builder is empty afterwards.
    pub fn seal(&mut self, marker: u64, out: &mut Vec<u8>) {
        let words_at = self.body.len() as u32;
        put_number(&mut self.body, self.words.places.len() as u64);
        self.body.extend_from_slice(&self.words.octets);
        let head: Vec<u8> =
            [self.body.len() as u32, self.entries, words_at].iter().flat_map(|number| number.to_le_bytes()).collect();
        out.extend_from_slice(&marker.to_le_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(&sum(&head, &self.body).to_le_bytes());
        out.extend_from_slice(&self.body);
        self.body.clear();
        self.words.places.clear();
        self.words.octets.clear();
        self.last.clear();
        self.entries = 0;
    }
}

fn sum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// A block whose checksum is right.
pub(super) struct Block<'a> {
    entries: &'a [u8],
    words: &'a [u8],
}

/// How long the block is that begins here, header and all, as far as its header tells. `None`: none begins here.
pub(super) fn length(bytes: &[u8], marker: u64) -> Option<usize> {
    let head = bytes.first_chunk::<HEADER_LENGTH>()?;
    if head.first_chunk::<8>() != Some(&marker.to_le_bytes()) {
        return None;
    }
    let length = u32_at(head, 8)? as usize;
    (length <= BODY_LENGTH_MAX).then_some(HEADER_LENGTH + length)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

impl<'a> Block<'a> {
    /// `None`: it is damaged.
    pub fn read(bytes: &'a [u8], marker: u64) -> Option<Block<'a>> {
        let end = length(bytes, marker)?;
        let (head, body) = bytes.get(..end)?.split_at_checked(HEADER_LENGTH)?;
        if sum(head.get(8..20)?, body) != u32_at(head, 20)? {
            return None;
        }
        let (entries, words) = body.split_at_checked(u32_at(head, 16)? as usize)?;
        Some(Block { entries, words })
    }

    /// Goes through its entries in order, until `see` says enough. `None`: an entry is damaged, though the sum is right.
    pub fn walk(&self, mut see: impl FnMut(&[u8], Value<'a>) -> Option<Walk>) -> Option<()> {
        let mut rest = self.entries;
        let mut key: Vec<u8> = Vec::with_capacity(128);
        while !rest.is_empty() {
            let shared = usize::try_from(take_number(&mut rest)?).ok()?;
            if shared > key.len() {
                return None;
            }
            key.truncate(shared);
            key.extend_from_slice(take(&mut rest)?);
            if key.len() > KEY_LENGTH_MAX {
                return None;
            }
            let value = Value { value: take(&mut rest)?, words: self.words };
            match see(&key, value)? {
                Walk::On => {}
                Walk::Enough => return Some(()),
            }
        }
        Some(())
    }

    /// All its entries. `None`: one is damaged.
    pub fn records(&self) -> Option<Vec<Record>> {
        let mut words = None;
        let mut records = Vec::new();
        self.walk(|key, value| {
            let words = match &mut words {
                Some(words) => words,
                None => words.insert(value.all_words()?),
            };
            records.push(Record { key: key.to_vec(), entry: value.entry(key, words)? });
            Some(Walk::On)
        })?;
        Some(records)
    }
}

/// Whether a walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Walk {
    On,
    Enough,
}

/// A value, not read yet.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    value: &'a [u8],
    words: &'a [u8],
}

impl<'a> Value<'a> {
    /// The words of its block.
    pub fn all_words(&self) -> Option<Vec<&'a str>> {
        let mut rest = self.words;
        let count = take_number(&mut rest)?;
        // Each has one octet at least.
        let mut words = Vec::with_capacity(usize::try_from(count).ok()?.min(rest.len()));
        for _ in 0..count {
            let word = take(&mut rest)?;
            if word.len() > EVIDENCE_LENGTH_MAX {
                return None;
            }
            words.push(std::str::from_utf8(word).ok()?);
        }
        Some(words)
    }

    /// What it says. The outer `None`: it is damaged.
    pub fn entry(&self, key: &[u8], words: &[&str]) -> Option<Option<Entry>> {
        let Some((scope, cause)) = key::tail(key)? else { return Some(None) };
        let mut rest = self.value;
        read_fields(&mut rest, &scope, cause, |rest, _| {
            let place = usize::try_from(take_number(rest)?).ok()?;
            words.get(place).map(|word| (*word).into())
        })
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppression::{Cause, Scope};
    use crate::time::Timestamp;

    fn records() -> Vec<Record> {
        let entry = |i: u64| Entry {
            evidence: format!("words {}", i % 3).into(),
            site: "gmail".into(),
            ..Entry::new(Scope::All, Cause::HardBounce, Timestamp::from_secs(i))
        };
        let of = |i: u64| Record {
            key: key::key(&format!("u{i:03}@example.com").parse().unwrap(), &Scope::All, Cause::HardBounce),
            entry: (!i.is_multiple_of(5)).then(|| entry(i)),
        };
        (0..50).map(of).collect()
    }

    fn sealed(records: &[Record]) -> Vec<u8> {
        let mut builder = Builder::default();
        records.iter().for_each(|record| builder.push(&record.key, record.entry.as_ref()));
        let mut out = Vec::new();
        builder.seal(7, &mut out);
        assert!(builder.is_empty());
        out
    }

    #[test]
    fn a_block_reads_back() {
        let records = records();
        let bytes = sealed(&records);
        assert!(bytes.len() < 50 * 40, "shared beginnings and words are written once: {}", bytes.len());
        assert_eq!(Block::read(&bytes, 7).and_then(|block| block.records()), Some(records));
        assert_eq!(length(&bytes, 7), Some(bytes.len()));
        assert!(Block::read(&bytes, 8).is_none(), "another file's");
    }

    #[test]
    fn every_flipped_or_missing_octet_is_noticed() {
        let bytes = sealed(&records());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Block::read(&flipped, 7).is_none(), "flipped at {at}");
            assert!(Block::read(&bytes[..at], 7).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_block_that_lies_under_a_right_sum_is_damaged_and_no_panic() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let body: Vec<u8> = (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
            let head: Vec<u8> = [body.len() as u32, 3, random.u32(0..=body.len() as u32)]
                .iter()
                .flat_map(|number| number.to_le_bytes())
                .collect();
            let sum = sum(&head, &body).to_le_bytes();
            let bytes = [&7u64.to_le_bytes()[..], &head, &sum, &body].concat();
            let block = Block::read(&bytes, 7).expect("its sum is right");
            // Whatever it says, it is bounded by its length.
            assert!(block.records().is_none_or(|records| records.len() <= body.len()));
        }
    }
}
