//! A binary heap of slot numbers whose members know their place in it, so that any of them leaves in O(log n).
//!
//! Four bytes a member in the heap and four in the member. Used by the engine's timers and queues; it never holds keys.

/// Members of a heap: their order, and where they note their place.
pub(super) trait Ranked {
    /// The order; the least comes first. May not change while the member is in the heap.
    fn rank(&self, slot: u32) -> (u64, u64);
    /// Where it stands.
    fn place(&self, slot: u32) -> u32;
    /// Notes where it stands.
    fn seat(&mut self, slot: u32, place: u32);
}

pub(super) fn push(heap: &mut Vec<u32>, items: &mut impl Ranked, slot: u32) {
    heap.push(slot);
    let place = heap.len() - 1;
    items.seat(slot, place as u32);
    rise(heap, items, place);
}

/// Takes a member out. One that is not where it says is left alone.
pub(super) fn remove(heap: &mut Vec<u32>, items: &mut impl Ranked, slot: u32) {
    let place = items.place(slot) as usize;
    if heap.get(place) != Some(&slot) {
        return;
    }
    let Some(last) = heap.pop() else { return };
    if place < heap.len() {
        heap[place] = last;
        items.seat(last, place as u32);
        let place = rise(heap, items, place);
        sink(heap, items, place);
    }
    // Give memory back after a flood, in large steps.
    if heap.capacity() > 64 && heap.len() * 4 < heap.capacity() {
        heap.shrink_to(heap.len() * 2);
    }
}

fn rise(heap: &mut [u32], items: &mut impl Ranked, mut place: usize) -> usize {
    while place > 0 {
        let parent = (place - 1) / 2;
        if items.rank(heap[parent]) <= items.rank(heap[place]) {
            break;
        }
        swap(heap, items, place, parent);
        place = parent;
    }
    place
}

fn sink(heap: &mut [u32], items: &mut impl Ranked, mut place: usize) {
    loop {
        let mut least = place;
        for child in [2 * place + 1, 2 * place + 2] {
            if child < heap.len() && items.rank(heap[child]) < items.rank(heap[least]) {
                least = child;
            }
        }
        if least == place {
            return;
        }
        swap(heap, items, place, least);
        place = least;
    }
}

fn swap(heap: &mut [u32], items: &mut impl Ranked, a: usize, b: usize) {
    heap.swap(a, b);
    items.seat(heap[a], a as u32);
    items.seat(heap[b], b as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Items(Vec<(u64, u32)>);

    impl Ranked for Items {
        fn rank(&self, slot: u32) -> (u64, u64) {
            (self.0[slot as usize].0, u64::from(slot))
        }
        fn place(&self, slot: u32) -> u32 {
            self.0[slot as usize].1
        }
        fn seat(&mut self, slot: u32, place: u32) {
            self.0[slot as usize].1 = place;
        }
    }

    proptest! {
        #[test]
        fn members_leave_in_order_or_by_name(keys in proptest::collection::vec(0u64..50, 1..200), step in 1usize..7) {
            let mut items = Items(keys.iter().map(|key| (*key, 0)).collect());
            let mut heap = Vec::new();
            for slot in 0..keys.len() {
                push(&mut heap, &mut items, slot as u32);
            }
            let mut kept: Vec<(u64, u32)> = Vec::new();
            for (slot, key) in keys.iter().enumerate() {
                if slot % step == 0 {
                    remove(&mut heap, &mut items, slot as u32);
                    remove(&mut heap, &mut items, slot as u32);
                } else {
                    kept.push((*key, slot as u32));
                }
            }
            kept.sort();
            for (_, slot) in kept {
                prop_assert_eq!(heap[0], slot);
                remove(&mut heap, &mut items, slot);
            }
            prop_assert!(heap.is_empty());
        }
    }
}
