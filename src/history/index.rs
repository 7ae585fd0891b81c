//! Index runs: which block has rows for a key, sorted, for a stretch of a day's file. Pure.
//!
//! A run on the disk, one behind the other in `YYYY-MM-DD.idx`:
//!
//! ```text
//!   0         8         16        24       28          32
//!   | marker  | from    | to      | count  | crc32 of  | 1024 buckets: end u32, crc32 | count entries: key u32,
//!   | u64     | u64     | u64     | u32    | all until | of its entries               | offset u32 from `from`
//!   |         |         |         |        | entries   |                              |
//! ```
//! Numbers are little-endian; `from` and `to` are offsets in the day's file, and the blocks between them are what it
//! covers. A key's upper ten bits name its bucket, so that a look-up reads the buckets' table and one bucket.

use super::key::Key;

/// Entries of a run. What is not in a run yet is read through at a search: 20 to 30 MB.
pub(super) const ENTRIES_MAX: usize = 1 << 19;
/// Longest stretch that a run covers. Unit: octets. Offsets have 32 bits.
pub(super) const STRETCH_MAX: u64 = 1 << 30;
/// Octets before the buckets' table.
const FIXED_LENGTH: usize = 32;
const BUCKETS: usize = 1024;
/// Octets before the entries.
pub(super) const HEAD_LENGTH: usize = FIXED_LENGTH + BUCKETS * 8;
/// Octets of an entry.
pub(super) const ENTRY_LENGTH: usize = 8;

/// What a run covers, and where its entries are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub from: u64,
    pub to: u64,
    pub count: u32,
    buckets: Vec<(u32, u32)>,
}

/// A run of these entries (key, offset from `from`).
pub(super) fn write(marker: u64, (from, to): (u64, u64), entries: &mut Vec<(u32, u32)>) -> Vec<u8> {
    entries.sort_unstable();
    entries.dedup();
    let mut bodies = Vec::with_capacity(entries.len() * ENTRY_LENGTH);
    let mut table = Vec::with_capacity(BUCKETS * 8);
    let mut end = 0;
    for bucket in 0..BUCKETS as u32 {
        let begin = end;
        end += entries[begin..].partition_point(|(key, _)| key >> 22 == bucket);
        let at = bodies.len();
        for (key, offset) in &entries[begin..end] {
            bodies.extend_from_slice(&key.to_le_bytes());
            bodies.extend_from_slice(&offset.to_le_bytes());
        }
        table.extend_from_slice(&(end as u32).to_le_bytes());
        table.extend_from_slice(&crc32fast::hash(&bodies[at..]).to_le_bytes());
    }
    let mut out = Vec::with_capacity(HEAD_LENGTH + bodies.len());
    out.extend_from_slice(&marker.to_le_bytes());
    out.extend_from_slice(&from.to_le_bytes());
    out.extend_from_slice(&to.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out);
    crc.update(&table);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&table);
    out.extend_from_slice(&bodies);
    out
}

impl Head {
    /// `None`: there is no run here.
    pub fn read(bytes: &[u8], marker: u64) -> Option<Head> {
        let head = bytes.get(..HEAD_LENGTH)?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..28]);
        crc.update(&head[FIXED_LENGTH..]);
        if u64_at(0) != marker || crc.finalize() != u32_at(28) {
            return None;
        }
        let table = (0..BUCKETS).map(|bucket| FIXED_LENGTH + bucket * 8);
        let buckets: Vec<(u32, u32)> = table.map(|at| (u32_at(at), u32_at(at + 4))).collect();
        let head = Head { from: u64_at(8), to: u64_at(16), count: u32_at(24), buckets };
        let ordered = head.buckets.is_sorted_by_key(|(end, _)| *end) && head.from <= head.to;
        let ends = head.buckets.last().is_some_and(|(end, _)| *end == head.count);
        (ordered && ends && head.count as usize <= ENTRIES_MAX * 2).then_some(head)
    }

    /// Octets of the whole run.
    pub fn length(&self) -> u64 {
        (HEAD_LENGTH + self.count as usize * ENTRY_LENGTH) as u64
    }

    /// Where the bucket of a key is, in octets from the run's begin, and its length.
    pub fn bucket(&self, key: Key, marker: u64) -> (u64, usize) {
        let bucket = (key.short(marker) >> 22) as usize;
        let begin = bucket.checked_sub(1).map_or(0, |before| self.buckets[before].0);
        let count = (self.buckets[bucket].0 - begin) as usize;
        ((HEAD_LENGTH + begin as usize * ENTRY_LENGTH) as u64, count * ENTRY_LENGTH)
    }

    /// The blocks that a bucket names for a key, as offsets in the day's file. `None`: the bucket is damaged.
    pub fn find(&self, bucket: &[u8], key: Key, marker: u64) -> Option<Vec<u64>> {
        let short = key.short(marker);
        if crc32fast::hash(bucket) != self.buckets[(short >> 22) as usize].1 {
            return None;
        }
        let (entries, _) = bucket.as_chunks::<ENTRY_LENGTH>();
        let pairs = entries.iter().map(|e| (u32::from_le_bytes([e[0], e[1], e[2], e[3]]), [e[4], e[5], e[6], e[7]]));
        let named = pairs.filter(|(key, _)| *key == short);
        Some(named.map(|(_, offset)| self.from + u64::from(u32::from_le_bytes(offset))).collect())
    }
}
