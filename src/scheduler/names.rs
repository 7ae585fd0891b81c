//! Names and the small numbers that the engine knows them by.
//!
//! Numbers of domains, targets and sites are freed when the engine forgets them. Those of sources, pools, streams and
//! credentials stay for the life of the process: they come from the config, and are few.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Distinct names of streams or credentials; what comes after these shares the number 0. A bound, not a limit that a
/// real config reaches.
const CONFIGURED_MAX: usize = u16::MAX as usize;

/// Numbers for keys, with a value for each, freed one by one.
#[derive(Debug)]
pub(super) struct Numbers<K, V> {
    by_key: HashMap<K, u32>,
    entries: Vec<Option<(K, V)>>,
    free: Vec<u32>,
}

impl<K: Clone + Eq + Hash, V> Default for Numbers<K, V> {
    fn default() -> Self {
        Numbers { by_key: HashMap::new(), entries: Vec::new(), free: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Numbers<K, V> {
    /// The number of a key, given now if it has none.
    pub fn number(&mut self, key: &K, value: impl FnOnce() -> V) -> u32 {
        if let Some(number) = self.by_key.get(key) {
            return *number;
        }
        let entry = Some((key.clone(), value()));
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_key.insert(key.clone(), number);
        number
    }

    /// All that have a number now.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &K)> {
        let entries = self.entries.iter().zip(0..);
        entries.filter_map(|(entry, number)| Some((number, &entry.as_ref()?.0)))
    }

    pub fn key(&self, number: u32) -> Option<&K> {
        self.entries.get(number as usize)?.as_ref().map(|(key, _)| key)
    }

    /// The number of a key that has one.
    pub fn find(&self, key: &K) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Every key that has a number now.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(_, key)| key)
    }

    pub fn value(&self, number: u32) -> Option<&V> {
        self.entries.get(number as usize)?.as_ref().map(|(_, value)| value)
    }

    pub fn value_mut(&mut self, number: u32) -> Option<&mut V> {
        self.entries.get_mut(number as usize)?.as_mut().map(|(_, value)| value)
    }

    /// Keys that have a number.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Frees a number; one that is free already stays so.
    pub fn free(&mut self, number: u32) {
        if let Some((key, _)) = self.entries.get_mut(number as usize).and_then(Option::take) {
            self.by_key.remove(&key);
            self.free.push(number);
        }
    }
}

/// Numbers for names from the config, never freed.
#[derive(Debug, Default)]
pub(super) struct Configured {
    by_name: HashMap<Arc<str>, u16>,
    names: Vec<Arc<str>>,
}

impl Configured {
    pub fn number(&mut self, name: &Arc<str>) -> u16 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        if self.names.len() >= CONFIGURED_MAX {
            return 0;
        }
        let number = self.names.len() as u16;
        self.names.push(Arc::clone(name));
        self.by_name.insert(Arc::clone(name), number);
        number
    }

    pub fn find(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    pub fn name(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or("?", |name| name)
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_one_key_until_it_is_freed() {
        let mut numbers: Numbers<&str, u8> = Numbers::default();
        let (a, b) = (numbers.number(&"a", || 1), numbers.number(&"b", || 2));
        assert_eq!((numbers.number(&"a", || 9), numbers.value(a), numbers.key(b)), (a, Some(&1), Some(&"b")));
        numbers.free(a);
        numbers.free(a);
        assert_eq!((numbers.value(a), numbers.key(a)), (None, None));
        assert_eq!(numbers.number(&"c", || 3), a);
        assert_ne!(numbers.number(&"a", || 4), a);
    }
}
