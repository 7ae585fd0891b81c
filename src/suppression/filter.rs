//! A filter of addresses: says surely that an address is not in a file, without a look at the disk. Pure.
//!
//! A Bloom filter in blocks of one cache line (F. Putze, P. Sanders, J. Singler: Cache-, Hash- and Space-Efficient Bloom
//! Filters): each of a block's eight words has one bit of an address. Twelve bits an address let through about one stranger
//! in 230, measured by the test below.

/// Bits an address. Twelve cost 15 MB for ten million addresses.
const BITS: u64 = 12;
/// Words of a block: 64 octets.
const WORDS: usize = 8;

/// The filter of one file.
#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// With room for so many addresses.
    pub fn with_room(addresses: u64) -> Filter {
        let blocks = addresses.saturating_mul(BITS).div_ceil(64 * WORDS as u64).max(1);
        Filter { words: vec![0; usize::try_from(blocks).unwrap_or(1).saturating_mul(WORDS)] }
    }

    /// From what was written.
    pub fn of_octets(octets: &[u8]) -> Option<Filter> {
        if octets.is_empty() || !octets.len().is_multiple_of(WORDS * 8) {
            return None;
        }
        let word = |chunk: &[u8]| chunk.try_into().map(u64::from_le_bytes).unwrap_or_default();
        Some(Filter { words: octets.chunks_exact(8).map(word).collect() })
    }

    /// As it is written.
    pub fn octets(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub fn add(&mut self, hash: u64) {
        let begin = self.block(hash);
        for (at, word) in self.words.iter_mut().skip(begin).take(WORDS).enumerate() {
            *word |= bit(hash, at);
        }
    }

    /// False: the address was never added.
    pub fn may_have(&self, hash: u64) -> bool {
        let begin = self.block(hash);
        let block = self.words.get(begin..begin + WORDS).unwrap_or_default();
        block.iter().enumerate().all(|(at, word)| word & bit(hash, at) != 0)
    }

    /// Octets of memory.
    pub fn weight(&self) -> usize {
        self.words.len() * 8
    }

    /// The upper half chooses the block, the lower the bits.
    fn block(&self, hash: u64) -> usize {
        let blocks = (self.words.len() / WORDS) as u64;
        (((hash >> 32) * blocks) >> 32) as usize * WORDS
    }
}

/// Odd numbers that make eight independent choices of one (Parquet's split-block filter has the same).
const SALTS: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

fn bit(hash: u64, at: usize) -> u64 {
    let salt = SALTS.get(at).copied().unwrap_or(1);
    1 << ((hash as u32).wrapping_mul(salt) >> 26)
}

/// A number of an address's prefix, the same on every machine: it stands in files.
pub(super) fn hash(octets: &[u8]) -> u64 {
    let mut hash = fold(octets.len() as u64 ^ 0x9e37_79b9_7f4a_7c15, 0xa076_1d64_78bd_642f);
    for chunk in octets.chunks(8) {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        hash = fold(hash ^ u64::from_le_bytes(word), 0xe703_7ed1_a0b4_28db);
    }
    fold(hash, 0x8ebc_6af0_9c88_c6e3)
}

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_known_and_few_strangers_are() {
        const COUNT: u64 = 20_000;
        let number = |i: u64| hash(format!("example{}.com\0user{i}\0", i % 100).as_bytes());
        let mut filter = Filter::with_room(COUNT);
        (0..COUNT).for_each(|i| filter.add(number(i)));
        let filter = Filter::of_octets(&filter.octets()).unwrap();
        assert!((0..COUNT).all(|i| filter.may_have(number(i))));
        let strangers = (COUNT..COUNT * 11).filter(|i| filter.may_have(number(*i))).count();
        assert!(strangers < COUNT as usize * 10 / 200, "{strangers} of {}", COUNT * 10);
        println!("{strangers} of {} strangers", COUNT * 10);
        assert!(filter.weight() as u64 <= COUNT * 12 / 8 + 64);
    }

    #[test]
    fn the_number_of_an_address_never_changes() {
        assert_eq!(hash(b"example.com\0joe\0"), hash(b"example.com\0joe\0"));
        assert_ne!(hash(b"a"), hash(b"a\0"));
        // Files hold it: another function would have to be another version of the file.
        assert_eq!(hash(b"example.com\0joe\0"), EXPECTED);
    }

    const EXPECTED: u64 = 10_679_893_654_573_368_813;

    #[test]
    fn what_is_no_filter_is_none() {
        assert!(Filter::of_octets(&[]).is_none() && Filter::of_octets(&[0; 63]).is_none());
    }
}
