//! Which addresses mail was delivered to within 90 days: for many millions of them in bounded memory, three octets each.
//!
//! A table of fingerprints with the week in which each was last marked. Who is written to every day takes up one place, not
//! one a week, as it would in rotating filters. It says "yes" of an address that was never marked with a probability of
//! 0.024 % for each layer, 0.3 % at the most: that address then needs a second reply, a day later, to be suppressed. It says
//! "no" of one that was marked only if the table was full and had to forget the oldest.
//!
//! ```text
//!   layer 0     65,536 places: buckets of 8, each address may stand in one of two
//!   layer 1    131,072 places  made when both buckets of an address are full (at nine tenths or so)
//!   …          twice as many, until there are as many as there may be
//! ```

use std::time::Duration;

use crate::mail::Fnv;
use crate::time::Timestamp;

const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// A mark counts in its week and the 13 after it: 91 to 98 days, never less than 90.
const WEEKS: u8 = 13;
const BUCKET: usize = 8;
/// Places of the first layer.
const FIRST: usize = 1 << 16;
const PLACES_MAX: usize = 1 << 28;
/// Stands before what is kept, with the number of its shape.
const MAGIC: &[u8; 8] = b"PRDELIV3";
/// Weeks are counted modulo this.
const WEEK_MASK: u8 = 0x7f;
/// In the octet of a mark's week: it was marked more than once.
const MORE: u8 = 0x80;

/// What makes the fingerprints of one table unlike another's. Drawn once, kept with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(pub u64);

impl Seed {
    /// An address as the table knows it; the same for upper and lower case.
    pub fn hash(self, address: &str) -> u64 {
        // Finished as splitmix64 is. Whoever made addresses collide would gain a day for them.
        let hash = match address.is_ascii() {
            true => address.bytes().fold(Fnv::new(self.0), |hash, octet| hash.octet(octet.to_ascii_lowercase())),
            false => Fnv::new(self.0).octets(address.to_lowercase().as_bytes()),
        };
        let mut sum = hash.end();
        for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
            sum = (sum ^ (sum >> shift)).wrapping_mul(factor);
        }
        sum ^ (sum >> 31)
    }
}

struct Layer {
    /// 0: nobody stands there.
    prints: Vec<u16>,
    /// The number of the week, modulo 128, and [`MORE`].
    weeks: Vec<u8>,
}

impl Layer {
    fn new(places: usize) -> Layer {
        Layer { prints: vec![0; places], weeks: vec![0; places] }
    }

    /// The places where a hash may stand.
    fn places(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let buckets = (self.prints.len() / BUCKET) as u64;
        // The print is made of the top 16 bits, the buckets of the other 48.
        let (one, other) = ((hash & 0xff_ffff) % buckets, (hash >> 24 & 0xff_ffff) % buckets);
        [one, other].into_iter().flat_map(|bucket| (0..BUCKET).map(move |place| bucket as usize * BUCKET + place))
    }

    fn find(&self, hash: u64) -> Option<usize> {
        let print = print(hash);
        self.places(hash).find(|place| self.prints[*place] == print)
    }

    /// A place that nobody needs: in the emptier of the two buckets, so that both fill evenly.
    fn free(&self, hash: u64, week: u8) -> Option<usize> {
        let mut free = [(0, None); 2];
        for (number, place) in self.places(hash).enumerate() {
            if self.prints[place] == 0 || !counts(self.weeks[place], week) {
                let (count, first) = &mut free[number / BUCKET];
                *count += 1;
                first.get_or_insert(place);
            }
        }
        let [(one, in_one), (other, in_other)] = free;
        if one >= other { in_one } else { in_other }
    }

    fn set(&mut self, place: usize, hash: u64, week: u8) {
        (self.prints[place], self.weeks[place]) = (print(hash), week);
    }
}

/// Never 0.
fn print(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// Whether a mark of one week counts in another. A mark of the future counts as well: the clock was set back.
fn counts(mark: u8, week: u8) -> bool {
    week.wrapping_sub(mark) & WEEK_MASK <= WEEKS || mark.wrapping_sub(week) & WEEK_MASK <= WEEKS
}

fn week_of(now: Timestamp) -> u8 {
    (now.as_secs() / WEEK.as_secs()) as u8 & WEEK_MASK
}

/// The table.
pub struct Delivered {
    seed: Seed,
    layers: Vec<Layer>,
    places_max: usize,
}

impl Delivered {
    /// An empty one, for so many addresses at most: it takes up three octets for each, and grows as it fills.
    pub fn new(seed: Seed, addresses_max: usize) -> Delivered {
        let places_max = addresses_max.clamp(FIRST, PLACES_MAX);
        Delivered { seed, layers: vec![Layer::new(FIRST)], places_max }
    }

    /// What an address is known by here.
    pub fn hash(&self, address: &str) -> u64 {
        self.seed.hash(address)
    }

    /// Mail was delivered to it. True: that was not known, of this week or that it was more than once, and is to be written
    /// down.
    pub fn mark(&mut self, hash: u64, now: Timestamp) -> bool {
        self.mark_in(hash, week_of(now))
    }

    fn mark_in(&mut self, hash: u64, week: u8) -> bool {
        for layer in &mut self.layers {
            if let Some(place) = layer.find(hash) {
                let old = layer.weeks[place];
                layer.weeks[place] = if counts(old, week) { week | MORE } else { week };
                return layer.weeks[place] != old;
            }
        }
        // The largest first: it has most room.
        for layer in self.layers.iter_mut().rev() {
            if let Some(place) = layer.free(hash, week) {
                layer.set(place, hash, week);
                return true;
            }
        }
        self.grow_or_forget(hash, week);
        true
    }

    fn grow_or_forget(&mut self, hash: u64, week: u8) {
        let next = FIRST << self.layers.len();
        if self.places() + next <= self.places_max {
            self.layers.push(Layer::new(next));
        }
        let all = self.layers.iter().enumerate();
        let all = all.flat_map(|(number, layer)| layer.places(hash).map(move |place| (number, layer, place)));
        // Of those equally old a different one each time.
        let by_age = |(number, layer, place): &(usize, &Layer, usize)| match layer.prints[*place] {
            0 => (u8::MAX, u64::MAX),
            _ => (
                week.wrapping_sub(layer.weeks[*place]) & WEEK_MASK,
                (hash ^ (number + place) as u64).wrapping_mul(0x9e37_79b9),
            ),
        };
        if let Some((number, _, place)) = all.max_by_key(by_age) {
            self.layers[number].set(place, hash, week);
        }
    }

    /// Whether mail was delivered to it within 90 days.
    pub fn knows(&self, hash: u64, now: Timestamp) -> bool {
        let week = week_of(now);
        self.layers.iter().any(|layer| layer.find(hash).is_some_and(|place| counts(layer.weeks[place], week)))
    }

    /// Whether mail was delivered to it more than once within 90 days: besides a message that a report now says was not.
    pub fn knows_twice(&self, hash: u64, now: Timestamp) -> bool {
        let week = week_of(now);
        let twice = |mark: u8| mark & MORE != 0 && counts(mark, week);
        self.layers.iter().any(|layer| layer.find(hash).is_some_and(|place| twice(layer.weeks[place])))
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.layers.iter().map(|layer| layer.prints.len()).sum()
    }

    /// How many addresses it knows.
    pub fn len(&self, now: Timestamp) -> usize {
        let week = week_of(now);
        let alive = |layer: &Layer| {
            layer.prints.iter().zip(&layer.weeks).filter(|(print, mark)| **print != 0 && counts(**mark, week)).count()
        };
        self.layers.iter().map(alive).sum()
    }

    /// The table as it is kept.
    ///
    /// ```text
    ///   0        8             16             17
    ///   | magic  | seed u64 LE | layers u8    | each layer: prints u16 LE, weeks u8 | crc32 u32 LE |
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(21 + 3 * self.places());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.seed.0.to_le_bytes());
        out.push(self.layers.len() as u8);
        for layer in &self.layers {
            layer.prints.iter().for_each(|print| out.extend_from_slice(&print.to_le_bytes()));
            out.extend_from_slice(&layer.weeks);
        }
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what [`Delivered::encode`] wrote. `None` for anything else: then nothing is known of any address.
    pub fn decode(bytes: &[u8], addresses_max: usize) -> Option<Delivered> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let rest = body.strip_prefix(MAGIC)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let (seed, rest) = rest.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first()?;
        let mut layers = Vec::new();
        for number in 0..usize::from(*count).min(PLACES_MAX.ilog2() as usize) {
            let places = FIRST << number;
            let (prints, tail) = rest.split_at_checked(places * 2)?;
            let (weeks, tail) = tail.split_at_checked(places)?;
            let prints = prints.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            layers.push(Layer { prints, weeks: weeks.to_vec() });
            rest = tail;
        }
        let is_whole = rest.is_empty() && !layers.is_empty() && layers.len() == usize::from(*count);
        let seed = Seed(u64::from_le_bytes(*seed));
        is_whole.then(|| Delivered { layers, ..Delivered::new(seed, addresses_max) })
    }

    /// Octets of one mark in the log that follows what [`Delivered::encode`] wrote: the hash, and the week.
    pub const MARK: usize = 9;

    /// A mark for that log.
    pub fn mark_record(hash: u64, now: Timestamp) -> [u8; Delivered::MARK] {
        let mut out = [0; Delivered::MARK];
        out[..8].copy_from_slice(&hash.to_le_bytes());
        out[8] = week_of(now);
        out
    }

    /// Takes in the log. A mark that was cut short at its end is left out. Returns how many there were.
    pub fn replay(&mut self, log: &[u8]) -> usize {
        let marks = log.chunks_exact(Delivered::MARK);
        let count = marks.len();
        for mark in marks {
            if let Some((hash, week)) = mark.split_first_chunk::<8>() {
                self.mark_in(u64::from_le_bytes(*hash), week[0] & WEEK_MASK);
            }
        }
        count
    }
}

impl std::fmt::Debug for Delivered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivered").field("places", &self.places()).finish_non_exhaustive()
    }
}
