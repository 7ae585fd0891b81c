//! The list's files: entries in the order of their keys, written once, never changed.
//!
//! `suppression/FFFFFFFF-TTTTTTTT.list` holds what was said in the turns F to T; a file whose turns lie within another's is
//! one that the other was made from.
//!
//! ```text
//!   | header, 24 octets | blocks (block.rs) | ! marker u64 | index | filter | footer, 72 octets |
//!
//!   header:  | magic 8 | version u32 | marker u64 | crc32 of octets 0-20 |
//!   index:   for each block its length (varint), and the length (varint) and octets of its first key
//!   footer:  | marker u64 | index at u64 | its length u64 | its crc32 u32 | filter at u64 | its length u64 | its crc32 u32
//!            | entries u64 | version u32 | magic 8 | crc32 of octets 0-68 |
//! ```
//! Index and filter are in memory while the file is open. Where they are damaged they are made anew from the blocks.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, warn};

use super::block::{self, Block, HEADER_LENGTH as BLOCK_HEADER_LENGTH, Record, Walk};
use super::entry::Entry;
use super::filter::{Filter, hash};
use super::key::{self, KEY_LENGTH_MAX, put_number, take_number};
use crate::spool::disk::Open;
use crate::spool::{Disk, DiskFile};

/// Below the spool's directory.
pub(super) const DIRECTORY: &str = "suppression";
/// What a file is renamed to that cannot be read at all.
const LOST_SUFFIX: &str = ".list.damaged";
const MAGIC: &[u8; 8] = b"PRSUPPR\n";
const VERSION: u32 = 1;
const HEADER_LENGTH: usize = 24;
const FOOTER_LENGTH: usize = 72;
/// Written at once. Unit: octets.
const CHUNK_LENGTH: usize = 1 << 20;
/// How much is looked through at once for the next block behind damage. Unit: octets.
const LOOK_LENGTH: usize = 256 * 1024;
/// Damaged blocks of a file that are told one by one.
const TOLD_MAX: usize = 1000;

/// A file that is being written, under a name that a start removes.
pub(super) struct Builder {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    temporary: String,
    marker: u64,
    block: block::Builder,
    out: Vec<u8>,
    /// Where `out` goes.
    at: u64,
    index: Vec<u8>,
    /// Key of the block that is being filled.
    first_key: Vec<u8>,
    filter: Filter,
    last_hash: Option<u64>,
    entries: u64,
}

impl Builder {
    /// Begins a file for at most so many addresses.
    pub fn new(disk: &Arc<dyn Disk>, stem: &str, addresses_max: u64) -> io::Result<Builder> {
        let temporary = format!("{DIRECTORY}/{stem}.tmp");
        // A failed earlier try may have left one.
        let _ = disk.unlink(&temporary);
        let file = disk.open(&temporary, Open::New)?;
        let marker = random()?;
        let mut out = Vec::with_capacity(CHUNK_LENGTH + 2 * 4096);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&marker.to_le_bytes());
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        Ok(Builder {
            disk: disk.clone(),
            file,
            temporary,
            marker,
            block: block::Builder::default(),
            out,
            at: 0,
            index: Vec::new(),
            first_key: Vec::new(),
            filter: Filter::with_room(addresses_max),
            last_hash: None,
            entries: 0,
        })
    }

    /// Adds the next entry; keys rise.
    pub fn push(&mut self, key: &[u8], entry: Option<&Entry>) -> io::Result<()> {
        if self.block.is_empty() {
            self.first_key = key.to_vec();
        }
        let address = hash(key::prefix_of(key));
        if self.last_hash != Some(address) {
            self.filter.add(address);
            self.last_hash = Some(address);
        }
        self.block.push(key, entry);
        self.entries += 1;
        match self.block.is_full() {
            true => self.seal(),
            false => Ok(()),
        }
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    fn seal(&mut self) -> io::Result<()> {
        let before = self.out.len();
        self.block.seal(self.marker, &mut self.out);
        put_number(&mut self.index, (self.out.len() - before) as u64);
        put_number(&mut self.index, self.first_key.len() as u64);
        self.index.extend_from_slice(&self.first_key);
        if self.out.len() >= CHUNK_LENGTH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(&self.out, self.at)?;
        self.at += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Makes the file durable under its name, and opens it.
    pub fn finish(mut self, name: &Name) -> io::Result<Generation> {
        let finished = self.write_end().and_then(|()| self.file.sync_data()).and_then(|()| {
            self.disk.rename(&self.temporary, &name.path())?;
            let opened = self.disk.sync_dir(DIRECTORY).and_then(|()| {
                Generation::open(&self.disk, *name).map_err(|failure| io::Error::other(failure.to_string()))
            });
            opened.inspect_err(|_| {
                // What was not said to be done must not come true at the next start.
                let _ = self.disk.unlink(&name.path()).and_then(|()| self.disk.sync_dir(DIRECTORY));
            })
        });
        finished.inspect_err(|_| {
            let _ = self.disk.unlink(&self.temporary);
        })
    }

    /// The last block, and what stands behind it.
    fn write_end(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.seal()?;
        }
        self.out.extend_from_slice(&(!self.marker).to_le_bytes());
        let index_at = self.at + self.out.len() as u64;
        let index = std::mem::take(&mut self.index);
        self.out.extend_from_slice(&index);
        let filter_at = index_at + index.len() as u64;
        let filter = self.filter.octets();
        self.out.extend_from_slice(&filter);
        let mut footer = Vec::with_capacity(FOOTER_LENGTH);
        footer.extend_from_slice(&self.marker.to_le_bytes());
        for (at, section) in [(index_at, &index), (filter_at, &filter)] {
            footer.extend_from_slice(&at.to_le_bytes());
            footer.extend_from_slice(&(section.len() as u64).to_le_bytes());
            footer.extend_from_slice(&crc32fast::hash(section).to_le_bytes());
        }
        footer.extend_from_slice(&self.entries.to_le_bytes());
        footer.extend_from_slice(&VERSION.to_le_bytes());
        footer.extend_from_slice(MAGIC);
        let sum = crc32fast::hash(&footer);
        self.out.extend_from_slice(&footer);
        self.out.extend_from_slice(&sum.to_le_bytes());
        self.write()
    }

    /// Ends a part of an import: it is read once and never outlives the process, so it keeps its name and is not synced.
    pub fn finish_part(mut self) -> io::Result<Part> {
        self.write_end()?;
        let Builder { disk, temporary, .. } = self;
        let opened = Generation::open_as(&disk, temporary.clone(), Name { from: 0, to: 0 });
        let generation = opened.map_err(|failure| io::Error::other(failure.to_string()))?;
        Ok(Part { generation: Arc::new(generation), disk, path: temporary })
    }

    /// Gives up.
    pub fn remove(self) {
        let _ = self.disk.unlink(&self.temporary);
    }
}

/// A part of an import. The file goes with it.
pub(super) struct Part {
    pub generation: Arc<Generation>,
    disk: Arc<dyn Disk>,
    path: String,
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.disk.unlink(&self.path);
    }
}

fn random() -> io::Result<u64> {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).map_err(|error| io::Error::other(format!("no random octets: {error}")))?;
    Ok(u64::from_le_bytes(octets))
}

/// A file's turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Name {
    pub from: u32,
    pub to: u32,
}

impl Name {
    pub fn path(&self) -> String {
        format!("{DIRECTORY}/{:08x}-{:08x}.list", self.from, self.to)
    }

    /// Of a name in the directory.
    pub fn parse(name: &str) -> Option<Name> {
        let (from, to) = name.strip_suffix(".list")?.split_once('-')?;
        let number = |text: &str| u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8);
        let name = Name { from: number(from)?, to: number(to)? };
        (name.from <= name.to).then_some(name)
    }

    /// Whether the other was made from this file too.
    pub fn is_within(&self, other: &Name) -> bool {
        self != other && other.from <= self.from && self.to <= other.to
    }
}

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unopened {
    #[error("{name} has format version {version}; this Postrider reads up to {VERSION}")]
    Version { name: String, version: u32 },
    /// Neither header nor footer: what is in it cannot be told from anything else.
    #[error("{name} is damaged at both ends")]
    Lost { name: String },
    #[error("{name}: {source}")]
    Disk { name: String, source: io::Error },
}

/// A file that is open.
#[derive(Debug)]
pub(super) struct Generation {
    pub name: Name,
    file: Arc<dyn DiskFile>,
    marker: u64,
    index: Index,
    /// `None`: it was damaged, and not all blocks could be read to make it anew.
    filter: Option<Filter>,
    pub entries: u64,
    /// Octets on the disk.
    pub size: u64,
    damaged: Mutex<BTreeSet<usize>>,
}

/// The blocks, by their first keys.
#[derive(Debug, Default)]
struct Index {
    /// All first keys, one behind the other.
    keys: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
    offsets: Vec<u64>,
    /// Where the last block ends.
    end: u64,
}

impl Index {
    fn push(&mut self, offset: u64, key: &[u8]) {
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len() as u32);
        self.offsets.push(offset);
    }

    fn len(&self) -> usize {
        self.offsets.len()
    }

    fn key(&self, block: usize) -> &[u8] {
        let begin = block.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(block).copied().unwrap_or(begin);
        self.keys.get(begin as usize..end as usize).unwrap_or_default()
    }

    /// The first block that may have this key or a later one.
    fn block_of(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle) <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low.saturating_sub(1)
    }

    fn place(&self, block: usize) -> Option<(u64, usize)> {
        let begin = *self.offsets.get(block)?;
        let end = self.offsets.get(block + 1).copied().unwrap_or(self.end);
        Some((begin, usize::try_from(end.saturating_sub(begin)).ok()?))
    }

    fn parse(octets: &[u8], begin: u64) -> Option<Index> {
        let mut index = Index::default();
        let (mut rest, mut at) = (octets, begin);
        while !rest.is_empty() {
            let length = take_number(&mut rest)?;
            let key_length =
                usize::try_from(take_number(&mut rest)?).ok().filter(|length| *length <= KEY_LENGTH_MAX)?;
            let (key, after) = rest.split_at_checked(key_length)?;
            rest = after;
            index.push(at, key);
            at = at.checked_add(length)?;
        }
        index.end = at;
        Some(index)
    }
}

/// A block that cannot be read: which, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("block {block} of {name} is damaged")]
pub(super) struct Damage {
    name: String,
    block: usize,
}

impl Generation {
    /// Opens a file. Where index or filter are damaged it reads the whole file.
    pub fn open(disk: &Arc<dyn Disk>, name: Name) -> Result<Generation, Unopened> {
        Generation::open_as(disk, name.path(), name)
    }

    fn open_as(disk: &Arc<dyn Disk>, path: String, name: Name) -> Result<Generation, Unopened> {
        let failed = |source: io::Error| Unopened::Disk { name: path.clone(), source };
        let file = disk.open(&path, Open::ReadOnly).map_err(failed)?;
        let size = file.length().map_err(failed)?;
        let header = read(&*file, 0, HEADER_LENGTH).map_err(failed)?;
        let footer_at = size.saturating_sub(FOOTER_LENGTH as u64);
        let octets = read(&*file, footer_at, FOOTER_LENGTH).map_err(failed)?;
        for version in [version_at(&header, 8, 0), version_at(&octets, 56, 60)].into_iter().flatten() {
            if version > VERSION {
                return Err(Unopened::Version { name: path, version });
            }
        }
        let footer = Footer::read(&octets);
        let marker = match (&footer, header_marker(&header)) {
            (Some(footer), _) => footer.marker,
            (None, Some(marker)) => marker,
            (None, None) => return Err(Unopened::Lost { name: path }),
        };
        let section = |part: &Option<Section>| -> Option<Vec<u8>> {
            let part = part.as_ref().filter(|part| part.at.saturating_add(part.length) <= size)?;
            let octets = read(&*file, part.at, usize::try_from(part.length).ok()?).ok()?;
            (crc32fast::hash(&octets) == part.sum).then_some(octets)
        };
        let (index_part, filter_part) = footer.as_ref().map(|f| (f.index, f.filter)).unzip();
        let index = section(&index_part).and_then(|octets| Index::parse(&octets, HEADER_LENGTH as u64));
        let filter = section(&filter_part).and_then(|octets| Filter::of_octets(&octets));
        let mut generation = Generation {
            name,
            file,
            marker,
            index: Index::default(),
            filter: None,
            entries: footer.as_ref().map_or(0, |footer| footer.entries),
            size,
            damaged: Mutex::default(),
        };
        match (index, filter) {
            (Some(index), Some(filter)) => (generation.index, generation.filter) = (index, Some(filter)),
            (index, filter) => {
                error!(file = %path, "a file of the suppression list is damaged at its end; it is read whole");
                let end = index_part.map_or(size, |part| part.at.saturating_sub(8).min(size));
                generation.restore(index, filter, end).map_err(failed)?;
            }
        }
        Ok(generation)
    }

    /// Makes what is missing of index and filter from the blocks.
    fn restore(&mut self, index: Option<Index>, filter: Option<Filter>, end: u64) -> io::Result<()> {
        self.index = match index {
            Some(index) => index,
            None => self.index_of_blocks(end)?,
        };
        let mut is_whole = true;
        let mut hashes = Vec::new();
        self.entries = 0;
        for block in 0..self.index.len() {
            match self.records(block) {
                Ok(records) => {
                    self.entries += records.len() as u64;
                    // Only for a filter that is missing; the entries of one address stand together.
                    for record in records.iter().filter(|_| filter.is_none()) {
                        let hash = hash(key::prefix_of(&record.key));
                        if hashes.last() != Some(&hash) {
                            hashes.push(hash);
                        }
                    }
                }
                Err(_) => is_whole = false,
            }
        }
        self.filter = filter.or_else(|| {
            let mut filter = Filter::with_room(hashes.len() as u64);
            hashes.iter().for_each(|hash| filter.add(*hash));
            // What a damaged block holds is not in it.
            is_whole.then_some(filter)
        });
        Ok(())
    }

    /// Goes from block to block. What lies between two that are sound is one block that is not.
    fn index_of_blocks(&self, end: u64) -> io::Result<Index> {
        let mut index = Index::default();
        let mut at = HEADER_LENGTH as u64;
        let mut last_key = Vec::new();
        while at < end {
            let octets = read(&*self.file, at, BLOCK_HEADER_LENGTH + block::BODY_LENGTH_MAX)?;
            if octets.first_chunk::<8>() == Some(&(!self.marker).to_le_bytes()) {
                break;
            }
            let records = Block::read(&octets, self.marker).and_then(|block| block.records());
            match (records, block::length(&octets, self.marker)) {
                (Some(records), Some(length)) => {
                    index.push(at, records.first().map(|record| &record.key[..]).unwrap_or_default());
                    last_key = records.last().map(|record| record.key.clone()).unwrap_or_default();
                    at += length as u64;
                }
                _ => {
                    index.push(at, &last_key);
                    at = self.next_block(at + 1, end)?;
                }
            }
        }
        index.end = at.min(end);
        Ok(index)
    }

    /// Where the next block or the index begins, at or after an octet.
    fn next_block(&self, from: u64, end: u64) -> io::Result<u64> {
        let (marker, last) = (self.marker.to_le_bytes(), (!self.marker).to_le_bytes());
        let mut at = from;
        while at < end {
            let octets = read(&*self.file, at, LOOK_LENGTH)?;
            let found = [memchr::memmem::find(&octets, &marker), memchr::memmem::find(&octets, &last)];
            if let Some(found) = found.into_iter().flatten().min() {
                return Ok((at + found as u64).min(end));
            }
            if octets.len() < LOOK_LENGTH {
                break;
            }
            // A marker may stand across the end of what was read.
            at += (LOOK_LENGTH - 8) as u64;
        }
        Ok(end)
    }

    fn octets(&self, block: usize) -> Result<Vec<u8>, Damage> {
        let damage = || self.damage(block, "it cannot be read");
        let (at, length) = self.index.place(block).ok_or_else(damage)?;
        if length > BLOCK_HEADER_LENGTH + block::BODY_LENGTH_MAX {
            return Err(self.damage(block, "its length is wrong"));
        }
        // A page that the disk refuses to read may come the second time.
        let octets = read(&*self.file, at, length).or_else(|_| read(&*self.file, at, length));
        octets.map_err(|error| self.damage(block, &error.to_string()))
    }

    /// All records of a block.
    fn records(&self, block: usize) -> Result<Vec<Record>, Damage> {
        let octets = self.octets(block)?;
        let records = Block::read(&octets, self.marker).and_then(|block| block.records());
        records.ok_or_else(|| self.damage(block, "its checksum is wrong"))
    }

    /// Notes damage, and tells of it once for each block.
    fn damage(&self, block: usize, why: &str) -> Damage {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.len() < TOLD_MAX && damaged.insert(block) {
            error!(file = %self.name.path(), block, %why, "a block of the suppression list is damaged");
        }
        Damage { name: self.name.path(), block }
    }

    /// Damaged blocks that were come across since the file was opened.
    pub fn damaged(&self) -> usize {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Gives every record of an address, in the order of keys.
    ///
    /// # Errors
    /// A block where it should be is damaged, and the filter says that it is there.
    pub fn find(&self, hash: u64, prefix: &[u8], mut see: impl FnMut(&[u8], Option<Entry>)) -> Result<(), Damage> {
        match &self.filter {
            Some(filter) if !filter.may_have(hash) => return Ok(()),
            Some(_) | None => {}
        }
        let mut block = self.index.block_of(prefix);
        while block < self.index.len() {
            let first = self.index.key(block);
            if first > prefix && !first.starts_with(prefix) {
                break;
            }
            match (self.find_in(block, prefix, &mut see), &self.filter) {
                // Without a filter every address would be there.
                (Ok(()), _) | (Err(_), None) => {}
                (Err(damage), Some(_)) => return Err(damage),
            }
            block += 1;
        }
        Ok(())
    }

    fn find_in(&self, block: usize, prefix: &[u8], see: &mut impl FnMut(&[u8], Option<Entry>)) -> Result<(), Damage> {
        let octets = self.octets(block)?;
        let read = Block::read(&octets, self.marker).and_then(|block| {
            block.walk(|key, value| {
                if key.starts_with(prefix) {
                    see(key, value.entry(key, &value.all_words()?)?);
                } else if key > prefix {
                    return Some(Walk::Enough);
                }
                Some(Walk::On)
            })
        });
        read.ok_or_else(|| self.damage(block, "its checksum is wrong"))
    }

    /// Its records in order, from the first that is not before `from`.
    pub fn cursor(self: &Arc<Generation>, from: &[u8]) -> Cursor {
        let block = self.index.block_of(from);
        Cursor { generation: self.clone(), block, from: from.to_vec(), records: Vec::new().into_iter() }
    }

    /// Octets of memory.
    pub fn weight(&self) -> usize {
        self.index.keys.len() + self.index.len() * 12 + self.filter.as_ref().map_or(0, Filter::weight)
    }
}

/// Goes through a file.
pub(super) struct Cursor {
    generation: Arc<Generation>,
    block: usize,
    from: Vec<u8>,
    records: std::vec::IntoIter<Record>,
}

impl Iterator for Cursor {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.find(|record| record.key >= self.from) {
                return Some(Ok(record));
            }
            if self.block >= self.generation.index.len() {
                return None;
            }
            self.block += 1;
            match self.generation.records(self.block - 1) {
                Ok(records) => self.records = records.into_iter(),
                Err(damage) => return Some(Err(damage)),
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Section {
    at: u64,
    length: u64,
    sum: u32,
}

#[derive(Debug)]
struct Footer {
    marker: u64,
    index: Section,
    filter: Section,
    entries: u64,
}

impl Footer {
    fn read(octets: &[u8]) -> Option<Footer> {
        let octets = octets.first_chunk::<FOOTER_LENGTH>()?;
        if crc32fast::hash(&octets[..68]) != u32_at(octets, 68)? || octets.get(60..68)? != MAGIC {
            return None;
        }
        let section = |at: usize| {
            Some(Section { at: u64_at(octets, at)?, length: u64_at(octets, at + 8)?, sum: u32_at(octets, at + 16)? })
        };
        Some(Footer {
            marker: u64_at(octets, 0)?,
            index: section(8)?,
            filter: section(28)?,
            entries: u64_at(octets, 48)?,
        })
    }
}

fn header_marker(header: &[u8]) -> Option<u64> {
    let is_sound = header.get(..8)? == MAGIC && crc32fast::hash(header.get(..20)?) == u32_at(header, 20)?;
    is_sound.then(|| u64_at(header, 12)).flatten()
}

/// The version, where a sound magic and sum say that it is one.
fn version_at(octets: &[u8], version: usize, magic: usize) -> Option<u32> {
    let end = octets.len().checked_sub(4)?;
    let is_sound =
        octets.get(magic..magic + 8)? == MAGIC && crc32fast::hash(octets.get(..end)?) == u32_at(octets, end)?;
    is_sound.then(|| u32_at(octets, version)).flatten()
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(octets: &[u8], at: usize) -> Option<u64> {
    octets.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn read(file: &dyn DiskFile, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; length];
    let got = file.read_at(&mut octets, at)?;
    octets.truncate(got);
    Ok(octets)
}

/// What a start finds in the directory: the files that count, the oldest first. What is unfinished or superseded is removed.
pub(super) fn open_all(disk: &Arc<dyn Disk>) -> Result<Vec<Arc<Generation>>, Unopened> {
    let failed = |source: io::Error| Unopened::Disk { name: DIRECTORY.to_owned(), source };
    disk.make_dir(DIRECTORY).map_err(failed)?;
    disk.sync_dir("").map_err(failed)?;
    let mut names = Vec::new();
    for entry in disk.list(DIRECTORY).map_err(failed)? {
        // What another made stays.
        if entry.name.ends_with(".tmp") {
            disk.unlink(&format!("{DIRECTORY}/{}", entry.name)).map_err(failed)?;
        }
        names.extend(Name::parse(&entry.name));
    }
    names.sort_unstable();
    let mut generations: Vec<Arc<Generation>> = Vec::new();
    // What supersedes others first: they go only once it is read, and take its place if it is lost.
    while let Some(place) = names.iter().position(|name| !names.iter().any(|other| name.is_within(other))) {
        let name = names.remove(place);
        match Generation::open(disk, name) {
            Ok(generation) => {
                generations.push(Arc::new(generation));
                for superseded in names.extract_if(.., |other| other.is_within(&name)) {
                    disk.unlink(&superseded.path()).map_err(failed)?;
                }
            }
            Err(Unopened::Lost { name: lost }) => {
                error!(file = %lost, "a file of the suppression list cannot be read at all; it is kept as .damaged");
                disk.rename(&lost, &format!("{lost}.damaged")).map_err(failed)?;
            }
            Err(unopened) => return Err(unopened),
        }
    }
    generations.sort_unstable_by_key(|generation| generation.name);
    Ok(generations)
}

/// Verifies the checksums of the list's files, without a change of anything; beside a running daemon too. Tells every damage:
/// which file, what of it, and what that means. Gives how many files there are.
///
/// # Errors
/// The disk cannot be read at all.
pub fn check(disk: &dyn Disk, mut damage: impl FnMut(String)) -> io::Result<u64> {
    let mut files = 0;
    for entry in disk.list(DIRECTORY)? {
        let path = format!("{DIRECTORY}/{}", entry.name);
        if entry.name.ends_with(LOST_SUFFIX) {
            damage(format!(
                "{path}: a start could not read it at all, and its entries are missing: bring them back from a backup or an \
                 export, then move it away"
            ));
        } else if Name::parse(&entry.name).is_some() {
            match check_file(disk, &path, &mut damage) {
                // Superseded while the others were read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                checked => {
                    checked?;
                    files += 1;
                }
            }
        }
    }
    Ok(files)
}

fn check_file(disk: &dyn Disk, path: &str, damage: &mut impl FnMut(String)) -> io::Result<()> {
    let file = disk.open(path, Open::ReadOnly)?;
    let size = file.length()?;
    let header = read(&*file, 0, HEADER_LENGTH)?;
    let footer = read(&*file, size.saturating_sub(FOOTER_LENGTH as u64), FOOTER_LENGTH)?;
    if let Some(version) = version_at(&header, 8, 0).filter(|version| *version > VERSION) {
        damage(format!(
            "{path}: has format version {version}, which this Postrider cannot check; it reads up to {VERSION}"
        ));
        return Ok(());
    }
    let marker = header_marker(&header);
    if marker.is_none() {
        damage(format!("{path}: its header is damaged; no entry is lost while its footer is sound"));
    }
    let Some(footer) = Footer::read(&footer) else {
        damage(format!(
            "{path}: its footer is damaged, so that its blocks were not checked; a start reads it whole, and loses no entry while its \
             header is sound"
        ));
        return Ok(());
    };
    let sound = |section: Section| -> io::Result<Option<Vec<u8>>> {
        let within = section.at.checked_add(section.length).is_some_and(|end| end <= size);
        let Some(length) = usize::try_from(section.length).ok().filter(|_| within) else { return Ok(None) };
        let octets = read(&*file, section.at, length)?;
        Ok((crc32fast::hash(&octets) == section.sum).then_some(octets))
    };
    if sound(footer.filter)?.is_none_or(|octets| Filter::of_octets(&octets).is_none()) {
        damage(format!("{path}: its filter is damaged; a start makes it anew from the blocks, and loses no entry"));
    }
    let Some(index) = sound(footer.index)?.and_then(|octets| Index::parse(&octets, HEADER_LENGTH as u64)) else {
        damage(format!(
            "{path}: its index is damaged, so that its blocks were not checked; a start makes it anew from them, and loses no entry"
        ));
        return Ok(());
    };
    for block in 0..index.len() {
        let place = index.place(block).filter(|(_, length)| *length <= BLOCK_HEADER_LENGTH + block::BODY_LENGTH_MAX);
        let octets = place.map(|(at, length)| read(&*file, at, length)).transpose()?.unwrap_or_default();
        if Block::read(&octets, footer.marker).and_then(|block| block.records()).is_none() {
            let first = key::address(index.key(block)).map_or_else(|| "?".to_owned(), |address| address.to_string());
            let next = (block + 1 < index.len()).then(|| key::address(index.key(block + 1))).flatten();
            let next = next.map_or_else(|| "the end".to_owned(), |address| address.to_string());
            damage(format!(
                "{path}: block {block} is damaged: the addresses from {first} to {next} that stood in it get no mail until each is \
                 removed from the list; bring the others back from a backup or an export"
            ));
        }
    }
    Ok(())
}

/// Files that could not be read at all, by name.
pub(super) fn lost(disk: &Arc<dyn Disk>) -> Vec<String> {
    let found = disk.list(DIRECTORY).unwrap_or_else(|error| {
        warn!(%error, "the suppression list's directory cannot be read");
        Vec::new()
    });
    found.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(LOST_SUFFIX)).collect()
}
