//! FNV-1a, a hash of 64 bits that is the same on every machine and in every release: what stands on disks may hang on it.
//! It spreads, and withstands nobody who chooses what is hashed. Pure.

/// A hash that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fnv(u64);

impl Fnv {
    /// Begins one that is unlike those of other seeds.
    pub fn new(seed: u64) -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325 ^ seed)
    }

    /// With an octet more.
    pub fn octet(self, octet: u8) -> Fnv {
        Fnv((self.0 ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
    }

    /// With these octets more.
    pub fn octets(self, octets: &[u8]) -> Fnv {
        octets.iter().fold(self, |hash, octet| hash.octet(*octet))
    }

    /// The number. Its low bits are good; whoever needs the high ones mixes it.
    pub fn end(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_its_authors() {
        // http://www.isthe.com/chongo/tech/comp/fnv/, test vectors of FNV-1a with 64 bits.
        for (text, number) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(Fnv::new(0).octets(text.as_bytes()).end(), number, "{text}");
        }
    }
}
