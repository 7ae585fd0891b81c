//! Interned names: what a row keeps of a domain, a stream, a pool, a credential or a source is a small number.
//!
//! Used by the table alone. A name is forgotten with its last row, so that a year of mail to ever new domains costs
//! no more memory than the domains that are waiting now.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The handle of "no name": what an empty or unknown name reads as.
pub(super) const NONE: u32 = 0;

/// Names and their handles, counted by use.
#[derive(Debug)]
pub(super) struct Names<K> {
    /// Place 0 stays empty: it is [`NONE`].
    slots: Vec<Slot<K>>,
    handles: HashMap<K, u32>,
    free: Vec<u32>,
    /// The greatest handle that a row can hold.
    handle_max: u32,
}

#[derive(Debug)]
struct Slot<K> {
    name: Option<K>,
    uses: u32,
}

impl<K: Clone + Eq + Hash> Names<K> {
    /// An empty set whose handles fit below `handle_max`.
    pub(super) fn new(handle_max: u32) -> Self {
        Names { slots: vec![Slot { name: None, uses: 0 }], handles: HashMap::new(), free: Vec::new(), handle_max }
    }

    /// The handle of a name, made by `make` if it is new. One use more.
    ///
    /// When every handle is taken the name reads as [`NONE`]: the true one stands in the spool, and is read at lease.
    pub(super) fn intern<Q>(&mut self, name: &Q, make: impl FnOnce() -> K) -> u32
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(&handle) = self.handles.get(name) {
            if let Some(slot) = self.slots.get_mut(handle as usize) {
                slot.uses = slot.uses.saturating_add(1);
            }
            return handle;
        }
        let slot = Slot { name: Some(make()), uses: 1 };
        let handle = match self.free.pop() {
            Some(handle) => handle,
            None if self.slots.len() as u64 <= u64::from(self.handle_max) => {
                self.slots.push(Slot { name: None, uses: 0 });
                (self.slots.len() - 1) as u32
            }
            None => return NONE,
        };
        if let (Some(place), Some(name)) = (self.slots.get_mut(handle as usize), &slot.name) {
            self.handles.insert(name.clone(), handle);
            *place = slot;
        }
        handle
    }

    /// One use less; the last forgets the name.
    pub(super) fn release(&mut self, handle: u32) {
        if handle == NONE {
            return;
        }
        let Some(slot) = self.slots.get_mut(handle as usize) else { return };
        slot.uses = slot.uses.saturating_sub(1);
        if slot.uses > 0 {
            return;
        }
        if let Some(name) = slot.name.take() {
            self.handles.remove(&name);
            self.free.push(handle);
        }
        if self.handles.is_empty() {
            // Nothing waits: give back what a large queue took.
            *self = Names::new(self.handle_max);
        }
    }

    /// The name behind a handle.
    pub(super) fn name(&self, handle: u32) -> Option<&K> {
        self.slots.get(handle as usize).and_then(|slot| slot.name.as_ref())
    }

    /// The handle of a name that is in use.
    pub(super) fn handle<Q>(&self, name: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.handles.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn intern(names: &mut Names<Arc<str>>, name: &str) -> u32 {
        names.intern(name, || name.into())
    }

    #[test]
    fn a_name_keeps_its_handle_until_its_last_use_ends() {
        let mut names: Names<Arc<str>> = Names::new(9);
        let a = intern(&mut names, "a");
        let b = intern(&mut names, "b");
        assert_ne!(a, b);
        assert_eq!(intern(&mut names, "a"), a);
        names.release(a);
        assert_eq!(names.name(a).map(|n| &**n), Some("a"));
        names.release(a);
        assert_eq!(names.name(a), None);
        assert_eq!(intern(&mut names, "c"), a, "a free handle is used again");
        assert_eq!(names.handle("b"), Some(b));
        names.release(b);
        names.release(a);
        assert_eq!(names.slots.len(), 1);
    }

    #[test]
    fn names_beyond_the_last_handle_read_as_none_and_harm_nobody() {
        let mut names: Names<Arc<str>> = Names::new(2);
        assert_eq!((intern(&mut names, "a"), intern(&mut names, "b")), (1, 2));
        assert_eq!(intern(&mut names, "c"), NONE);
        names.release(NONE);
        names.release(77);
        assert_eq!(names.name(1).map(|n| &**n), Some("a"));
    }
}
