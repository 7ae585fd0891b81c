//! Where a key stands in the file: from a key's path to its line and text, and from toml's byte range to the key.
//!
//! Called by `config` alone, to make errors that name the line, the key and the value. It never judges a value.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Longest text of a value that an error repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// Every key of a file, by its path (`listener[0].bind`).
#[derive(Clone, Debug, Default)]
pub struct Places {
    text: String,
    keys: BTreeMap<String, Spans>,
    tables: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Spans {
    key: Range<usize>,
    value: Range<usize>,
}

/// One place, as an error names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// Path without indices (`listener.bind`); empty for the whole file.
    pub key: String,
    /// The value as written, shortened; empty for a table.
    pub value: String,
}

impl Places {
    /// Notes where every key of a parsed file stands.
    pub fn of(text: &str, table: &DeTable<'_>) -> Places {
        let mut places = Places { text: text.to_owned(), ..Places::default() };
        places.note_table("", table);
        places
    }

    /// The place of a key, or of the nearest table around it that the file has.
    pub fn of_key(&self, path: &str) -> Place {
        let mut known = path;
        loop {
            if let Some(spans) = self.keys.get(known) {
                let value = if known == path { self.shown(path, &spans.value) } else { String::new() };
                return Place { line: self.line(spans.key.start), key: without_indices(path), value };
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None => return Place { line: 1, key: without_indices(path), value: String::new() },
            }
        }
    }

    /// The line of a key that the file has.
    pub fn line_of_key(&self, path: &str) -> Option<usize> {
        self.keys.get(path).map(|spans| self.line(spans.key.start))
    }

    /// The place of a byte range that toml complained of.
    pub fn of_range(&self, range: &Range<usize>) -> Place {
        let exact = self.keys.iter().find(|(_, spans)| spans.key == *range || spans.value == *range);
        let within = || {
            let around = self.keys.iter().filter(|(_, s)| s.value.start <= range.start && range.end <= s.value.end);
            around.min_by_key(|(_, spans)| spans.value.len())
        };
        let line = self.line(range.start);
        match exact.or_else(within) {
            Some((path, spans)) => {
                let of_name = spans.key == *range && spans.key != spans.value;
                let value = if of_name { String::new() } else { self.shown(path, &spans.value) };
                Place { line, key: without_indices(path), value }
            }
            None => Place { line, key: String::new(), value: String::new() },
        }
    }

    fn note_table(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref();
            let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            self.keys.insert(path.clone(), Spans { key: key.span(), value: value.span() });
            self.note_value(&path, value.get_ref());
        }
    }

    fn note_value(&mut self, path: &str, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => {
                self.tables.insert(path.to_owned());
                self.note_table(path, table);
            }
            DeValue::Array(items) => {
                if items.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_))) {
                    self.tables.insert(path.to_owned());
                }
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.keys.insert(path.clone(), Spans { key: item.span(), value: item.span() });
                    self.note_value(&path, item.get_ref());
                }
            }
            // Leaves; toml's own enum.
            _ => {}
        }
    }

    fn line(&self, offset: usize) -> usize {
        line_of(&self.text, offset)
    }

    /// The value as the file has it, on one line and not too long. A hash is no secret, but no reading matter either.
    fn shown(&self, path: &str, range: &Range<usize>) -> String {
        let written = self.text.get(range.clone()).unwrap_or_default();
        // What toml gives for a table is its header, `[tls]`, which is no value.
        if written.starts_with('[') && self.tables.contains(path) {
            return String::new();
        }
        let max = if path.contains("hash") { 14 } else { SHOWN_CHARS_MAX };
        let flat: String = written.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match flat.char_indices().nth(max) {
            Some((cut, _)) => format!("{}…", &flat[..cut]),
            None => flat,
        }
    }
}

/// The line of a byte, from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn without_indices(path: &str) -> String {
    let mut key = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ if !inside => key.push(c),
            _ => {}
        }
    }
    key
}
