//! Looks at the list for people and scripts: pages, everything, counts. Blocks on the disk; nothing waits for it.

use std::collections::BTreeMap;

use super::block::Record;
use super::scan::{Gone, Merge};
use super::{Cause, Entry, Figures, Query, Scope, State, Suppressions, key};
use crate::mail::Address;
use crate::time::Timestamp;

/// Entries that are looked at for one page: it may be short, or empty, and have a next one.
const LOOKED_AT_MAX: usize = 200_000;

/// Some entries, in the order of domains and addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// What was found.
    pub entries: Vec<(Address, Entry)>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<String>,
    /// Blocks that could not be read: what was in them is missing here.
    pub damaged: u64,
}

/// How many entries there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Entries.
    pub entries: u64,
    /// Addresses that have one or more.
    pub addresses: u64,
    /// Of each cause, in each state.
    pub causes: BTreeMap<(Cause, &'static str), u64>,
    /// Of each scope. Streams beyond a thousand are counted together as `stream:…`.
    pub scopes: BTreeMap<String, u64>,
    /// Blocks that could not be read: what was in them is missing here.
    pub damaged: u64,
    /// What it takes.
    pub figures: Figures,
}

/// Streams that are counted one by one.
const SCOPES_MAX: usize = 1000;

/// Everything that a query finds, one after the other.
pub struct Export {
    merge: Merge,
    query: Query,
    now: Timestamp,
    /// Records that were looked at.
    looked_at: usize,
    /// Only what comes after this: a reset stands before the entries of its address, and must be seen.
    after: Vec<u8>,
    /// Where it goes on.
    last: Option<Vec<u8>>,
}

impl Export {
    /// Blocks that could not be read so far: what was in them is missing.
    pub fn damaged(&self) -> u64 {
        self.merge.damaged()
    }

    /// The next within so many records.
    fn next_within(&mut self, looked_at_max: usize) -> Option<(Address, Entry)> {
        while self.looked_at < looked_at_max {
            let Some(Record { key, entry }) = self.merge.next().filter(|record| !self.query.is_past(&record.key))
            else {
                self.last = None;
                return None;
            };
            self.looked_at += 1;
            let is_after = key > self.after;
            let found = entry.filter(|entry| is_after && self.query.matches(entry, self.now)).zip(key::address(&key));
            self.last = Some(key);
            if let Some((entry, address)) = found {
                return Some((address, entry));
            }
        }
        None
    }
}

impl Iterator for Export {
    type Item = (Address, Entry);

    fn next(&mut self) -> Option<(Address, Entry)> {
        self.next_within(usize::MAX)
    }
}

impl Suppressions {
    /// Everything that a query finds, as of now. Blocks.
    pub fn export(&self, query: &Query, now: Timestamp) -> Export {
        self.export_after(query, Vec::new(), now)
    }

    fn export_after(&self, query: &Query, after: Vec<u8>, now: Timestamp) -> Export {
        let from = query.first_key().max(key::prefix_of(&after).to_vec());
        let (mut memory, files) = self.shared.snapshot();
        memory.retain(|record| record.key >= from);
        let merge = Merge::new(memory, &files, &from, Gone::Dropped);
        Export { merge, query: query.clone(), now, looked_at: 0, after, last: None }
    }

    /// At most so many of what a query finds; `after`: what the page before named as its next. Blocks.
    ///
    /// `None`: `after` is nothing that a page named.
    pub fn page(&self, query: &Query, after: Option<&str>, limit: usize, now: Timestamp) -> Option<Page> {
        let after = after.map_or(Some(Vec::new()), of_hex)?;
        let mut export = self.export_after(query, after, now);
        let mut entries = Vec::new();
        let mut is_over = false;
        while entries.len() < limit && !is_over {
            match export.next_within(LOOKED_AT_MAX) {
                Some(found) => entries.push(found),
                None => is_over = true,
            }
        }
        let next = export.last.as_deref().map(hex);
        Some(Page { entries, next, damaged: export.damaged() })
    }

    /// Counts everything. Blocks; ten million entries take some seconds.
    pub fn count(&self, query: &Query, now: Timestamp) -> Counts {
        let mut counts = Counts::default();
        let mut export = self.export(query, now);
        let mut last: Option<Address> = None;
        for (address, entry) in &mut export {
            counts.entries += 1;
            if last.as_ref() != Some(&address) {
                counts.addresses += 1;
                last = Some(address);
            }
            *counts.causes.entry((entry.cause, State::of(&entry, now).name())).or_default() += 1;
            let scope = match &entry.scope {
                Scope::Stream(_) if counts.scopes.len() >= SCOPES_MAX => "stream:…".to_owned(),
                scope => scope.name(),
            };
            *counts.scopes.entry(scope).or_default() += 1;
        }
        Counts { damaged: export.damaged(), figures: self.figures(), ..counts }
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 2 * key::KEY_LENGTH_MAX
        || !text.len().is_multiple_of(2)
        || !text.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
