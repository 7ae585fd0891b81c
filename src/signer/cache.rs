//! A map that holds a bounded number of entries and forgets the oldest.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

pub(super) struct Bounded<K, V> {
    entries: HashMap<K, V>,
    /// In the order of their first keeping.
    order: VecDeque<K>,
    entries_max: usize,
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    pub(super) fn new(entries_max: usize) -> Self {
        Bounded { entries: HashMap::new(), order: VecDeque::new(), entries_max }
    }

    pub(super) fn find(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Keeps a value in the place of an older one of the same key, or of the oldest of all.
    pub(super) fn keep(&mut self, key: K, value: V) {
        if self.entries_max == 0 {
            return;
        }
        if self.entries.insert(key.clone(), value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.entries_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_nothing_is_kept_without_room() {
        let mut cache = Bounded::new(2);
        for key in [1, 2, 1, 3] {
            cache.keep(key, key * 10);
        }
        assert_eq!((cache.find(&1), cache.find(&2), cache.find(&3)), (None, Some(&20), Some(&30)));
        assert_eq!(cache.entries.len(), cache.order.len());
        let mut none = Bounded::new(0);
        none.keep(1, 1);
        assert_eq!(none.find(&1), None);
    }
}
