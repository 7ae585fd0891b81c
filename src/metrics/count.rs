//! What the rooms count in: atomics where the names are fixed, small bounded maps where they come from the config.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::OTHER;

/// Names that a [`Family`] or [`Tally`] tells apart. Streams, sources and credentials are configured, so few; what comes
/// beyond counts as `other`.
pub const NAMES_MAX: usize = 256;

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that is open while it is held: how many are.
#[derive(Debug, Default)]
pub struct Open(AtomicU64);

/// One of them. Dropping it ends it.
#[derive(Debug)]
pub struct Held(Arc<Open>);

impl Open {
    /// One more, until what is returned is dropped.
    pub fn hold(self: &Arc<Open>) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(self))
    }

    /// How many.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One set of counters for each of some names. Reading a name that is known takes a read lock and no allocation.
#[derive(Debug)]
pub struct Family<T>(RwLock<BTreeMap<Box<str>, Arc<T>>>);

impl<T> Default for Family<T> {
    fn default() -> Self {
        Family(RwLock::default())
    }
}

impl<T: Default> Family<T> {
    /// The counters of this name; those of `other` when there are too many names.
    pub fn of(&self, name: &str) -> Arc<T> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Arc::clone(known);
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let name = if all.len() < NAMES_MAX || all.contains_key(name) { name } else { OTHER };
        Arc::clone(all.entry(name.into()).or_default())
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(Box<str>, Arc<T>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, counters)| (name.clone(), Arc::clone(counters))).collect()
    }
}

/// Names that a [`Top`] tells apart at once.
pub const TOP_MAX: usize = 64;
/// Of these, how many the first that come may take: who sends to a few sites sees each from its first message on.
const TOP_AT_ONCE: usize = TOP_MAX / 2;
/// What a later name must have done to be told apart: a site that gets a letter a day stays `other`.
const TOP_FROM: u32 = 20;
/// Names on their way there.
const CANDIDATES_MAX: usize = 4096;
/// A named one that was idle for so many uses of all makes room for another.
const IDLE_USES: u64 = 10_000;

/// As a [`Family`], for names that strangers choose (MX hosts): those that are used most, and `other` for the rest. What
/// `other` counted stays there, and one that made room begins at 0 when it comes back: no counter ever falls.
#[derive(Debug)]
pub struct Top<T>(Mutex<Ranks<T>>);

#[derive(Debug)]
struct Ranks<T> {
    /// With the number of the last use.
    named: BTreeMap<Box<str>, (Arc<T>, u64)>,
    candidates: BTreeMap<Box<str>, u32>,
    other: Arc<T>,
    uses: u64,
}

impl<T: Default> Default for Top<T> {
    fn default() -> Self {
        let ranks = Ranks { named: BTreeMap::new(), candidates: BTreeMap::new(), other: Arc::default(), uses: 0 };
        Top(Mutex::new(ranks))
    }
}

impl<T: Default> Top<T> {
    /// The counters of this name, or those of `other`.
    pub fn of(&self, name: &str) -> Arc<T> {
        let mut ranks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ranks.uses += 1;
        let now = ranks.uses;
        if let Some((counters, used)) = ranks.named.get_mut(name) {
            *used = now;
            return Arc::clone(counters);
        }
        if !ranks.qualifies(name) || !ranks.has_room(now) {
            return Arc::clone(&ranks.other);
        }
        ranks.candidates.remove(name);
        let counters = Arc::<T>::default();
        ranks.named.insert(name.into(), (Arc::clone(&counters), now));
        counters
    }

    /// All of them, by name, `other` last.
    pub fn all(&self) -> Vec<(Box<str>, Arc<T>)> {
        let ranks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = ranks.named.iter().map(|(name, (counters, _))| (name.clone(), Arc::clone(counters)));
        named.chain([(OTHER.into(), Arc::clone(&ranks.other))]).collect()
    }
}

impl<T> Ranks<T> {
    fn qualifies(&mut self, name: &str) -> bool {
        if name == OTHER {
            return false;
        }
        if self.named.len() < TOP_AT_ONCE {
            return true;
        }
        if self.candidates.len() >= CANDIDATES_MAX && !self.candidates.contains_key(name) {
            // Those that came once and not again go; who is halfway there stays halfway.
            self.candidates.retain(|_, uses| {
                *uses /= 2;
                *uses > 0
            });
            if self.candidates.len() >= CANDIDATES_MAX {
                return false;
            }
        }
        let uses = self.candidates.entry(name.into()).or_default();
        *uses = uses.saturating_add(1);
        *uses >= TOP_FROM
    }

    fn has_room(&mut self, now: u64) -> bool {
        if self.named.len() < TOP_MAX {
            return true;
        }
        let idlest = self.named.iter().min_by_key(|(_, (_, used))| *used);
        let idlest = idlest.filter(|(_, (_, used))| now - used >= IDLE_USES).map(|(name, _)| name.clone());
        idlest.is_some_and(|name| self.named.remove(&name).is_some())
    }
}

/// Counters by words that stand in the code: reasons, statuses, classes. For what is rare.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    /// One more of this.
    pub fn one(&self, word: &'static str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let word = if all.len() < NAMES_MAX || all.contains_key(word) { word } else { OTHER };
        *all.entry(word).or_default() += 1;
    }

    /// All of them.
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(word, count)| (*word, *count)).collect()
    }
}

/// Upper bounds of buckets in seconds, rising, the last one finite.
pub type Bounds = &'static [f64];

/// From a reply within a network to the longest final dot. RFC 5321 §4.5.3.2.6.
pub const ATTEMPT_BOUNDS: Bounds = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0];
/// From the 50 ms of an idle queue to a backlog.
pub const MAIL_BOUNDS: Bounds =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0, 14_400.0];
/// From "at once" over greylisting to the longest age.
pub const DELIVERY_BOUNDS: Bounds =
    &[0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 432_000.0];
/// The engine's promise is 50 µs at the median and 1 ms at the 99.9th percentile.
pub const STEP_BOUNDS: Bounds =
    &[0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.025, 0.1];
/// From a disk with a battery to one that hangs.
pub const SYNC_BOUNDS: Bounds = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Durations, counted by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    /// One more than the bounds: what lies beyond them.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// What a histogram counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Counted {
    bounds: Bounds,
    /// In each bucket alone, not added up.
    counts: Vec<u64>,
    /// Of everything observed.
    pub sum_seconds: f64,
}

impl Histogram {
    /// With these buckets, and one for what lies beyond.
    pub fn new(bounds: Bounds) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // 2^64 ns are 584 years.
        self.sum_nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Counted {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let sum_seconds = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        Counted { bounds: self.bounds, counts, sum_seconds }
    }
}

impl Counted {
    /// Upper bound and count of each bucket, not added up; the last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied())
    }

    /// How many were observed.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}
