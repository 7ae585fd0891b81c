//! What rows are found by: a number for each queue id, recipient address and Message-ID. Pure.
//!
//! The numbers are part of the files: a change of this module makes every index on the disk worthless.

use crate::mail::{Fnv, QueueId, Text};

/// What is looked for, as a number of 64 bits; an index keeps 32 of them, mixed with a number of its file's own, so that
/// nobody who chooses addresses can make them meet in an index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(u64);

impl Key {
    /// Of an envelope, or of a submission.
    pub fn of_id(id: QueueId) -> Key {
        of(b'i', &id.as_u64().to_le_bytes())
    }

    /// Of a recipient, in whatever case: a person who asks for `Ann@x` means `ann@X` too.
    pub fn of_address(address: &str) -> Key {
        match address.is_ascii() {
            true => of_octets(b'a', address.bytes().map(|octet| octet.to_ascii_lowercase())),
            false => of(b'a', folded(address).as_bytes()),
        }
    }

    /// Of a Message-ID, without its angle brackets.
    pub fn of_message_id(id: &str) -> Key {
        of(b'm', id.as_bytes())
    }

    /// Of everything that came in to our return paths and unsubscribe addresses.
    pub fn of_reports() -> Key {
        of(b'r', b"")
    }

    /// What the index of a file with this marker keeps of it.
    pub fn short(self, marker: u64) -> u32 {
        (mixed(self.0 ^ marker) >> 32) as u32
    }
}

/// An address as it is compared.
pub fn folded(address: &str) -> Text {
    match address.is_ascii() {
        true => address.to_ascii_lowercase().into(),
        false => address.chars().flat_map(char::to_lowercase).collect(),
    }
}

fn of(kind: u8, octets: &[u8]) -> Key {
    of_octets(kind, octets.iter().copied())
}

fn of_octets(kind: u8, octets: impl Iterator<Item = u8>) -> Key {
    Key(mixed(octets.fold(Fnv::new(0).octet(kind), Fnv::octet).end()))
}

/// The finalizer of MurmurHash3.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_whatever_case_it_is_asked_for() {
        for asked in ["ann.öst@x.example", "ANN.ÖST@X.EXAMPLE", "Ann.Öst@x.example"] {
            assert_eq!(Key::of_address(asked), Key::of_address("Ann.Öst@X.Example"), "{asked}");
        }
        assert_ne!(Key::of_address("ann@x.example"), Key::of_address("anne@x.example"));
        assert_ne!(Key::of_message_id("a@x"), Key::of_address("a@x"));
    }

    #[test]
    fn what_an_index_keeps_spreads() {
        let keys = (0..100_000u64).map(|n| Key::of_id(QueueId::from_u64(n << 21)).short(5));
        let mut seen: Vec<u32> = keys.collect();
        seen.sort_unstable();
        seen.dedup();
        // 100,000 numbers of 2^32: 1.2 pairs that meet are expected.
        assert!(seen.len() > 99_980, "{}", seen.len());
        let low = seen.iter().filter(|short| **short < u32::MAX / 16).count();
        assert!((5500..7000).contains(&low), "{low}");
    }

    #[test]
    fn the_numbers_on_disks_out_there_stay_what_they_are() {
        // Computed apart from this code.
        assert_eq!(Key::of_address("ANN@example.com").0, 0xc76f_d009_e864_5c7e);
        assert_eq!(Key::of_id(QueueId::from_u64(7)).0, 0xf1dc_c46f_a0c9_7c22);
        assert_eq!(Key::of_message_id("m@example.com").0, 0x032c_4d6b_1891_e1f3);
        assert_eq!(Key::of_message_id("m@example.com").short(1), 0xee49_99fc);
    }
}
