//! How many connections there are to each address of a peer, whatever site they were made for: host sets that overlap
//! (`a b` and `b c`) share the limit of the host where they meet, since that host counts them all.
//!
//! The engine counts by site, and cannot know to which address a connection will go. So the last word is here: an
//! address that has all its connections is passed over as if it were not there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections there may be to one address at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotLimits {
    /// From the source. 0 is read as 1.
    pub of_source: u16,
    /// From all sources together. 0 is read as 1.
    pub of_all: u16,
}

impl Default for SlotLimits {
    fn default() -> Self {
        SlotLimits { of_source: u16::MAX, of_all: u16::MAX }
    }
}

/// Sources and their connections to one address.
type Taken = Vec<(Arc<str>, u16)>;

/// The connections of the whole process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Arc<Mutex<HashMap<SocketAddr, Taken>>>);

/// One connection's place, from its dial to the peer's EOF.
#[derive(Debug)]
#[must_use]
pub(super) struct Slot {
    slots: Slots,
    address: SocketAddr,
    source: Arc<str>,
}

impl Slots {
    fn taken(&self) -> MutexGuard<'_, HashMap<SocketAddr, Taken>> {
        // Counts are changed whole: a panic elsewhere leaves them true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place at an address, if there is one.
    pub fn take(&self, source: &Arc<str>, address: SocketAddr, limits: SlotLimits) -> Option<Slot> {
        let mut all = self.taken();
        let taken = all.entry(address).or_default();
        let sum: u32 = taken.iter().map(|(_, count)| u32::from(*count)).sum();
        let own = taken.iter_mut().find(|(name, _)| name == source);
        let of_source = own.as_ref().map_or(0, |(_, count)| *count);
        if of_source >= limits.of_source.max(1) || sum >= u32::from(limits.of_all.max(1)) {
            return None;
        }
        match own {
            Some((_, count)) => *count += 1,
            None => taken.push((Arc::clone(source), 1)),
        }
        Some(Slot { slots: self.clone(), address, source: Arc::clone(source) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut all = self.slots.taken();
        let Some(taken) = all.get_mut(&self.address) else { return };
        if let Some((_, count)) = taken.iter_mut().find(|(name, _)| *name == self.source) {
            *count -= 1;
        }
        taken.retain(|(_, count)| *count > 0);
        if taken.is_empty() {
            all.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_of_a_source_and_so_many_in_all() {
        let slots = Slots::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (here, there) = ("192.0.2.1:25".parse().unwrap(), "192.0.2.1:26".parse().unwrap());
        let limits = SlotLimits { of_source: 2, of_all: 3 };
        let first = slots.take(&a, here, limits).unwrap();
        let _second = slots.take(&a, here, limits).unwrap();
        assert!(slots.take(&a, here, limits).is_none(), "a has its two");
        let _third = slots.take(&b, here, limits).unwrap();
        assert!(slots.take(&b, here, limits).is_none(), "there are three");
        let _other = slots.take(&b, there, limits).unwrap();
        drop(first);
        let _again = slots.take(&a, here, limits).unwrap();
        assert!(slots.take(&a, here, SlotLimits { of_source: 0, of_all: 0 }).is_none());
    }

    #[test]
    fn nothing_is_kept_of_an_address_without_connections() {
        let slots = Slots::default();
        drop(slots.take(&"a".into(), "192.0.2.1:25".parse().unwrap(), SlotLimits::default()).unwrap());
        assert!(slots.taken().is_empty());
    }
}
