//! Puts, removals, merges, imports and undone incidents on a simulated disk that stops anywhere, tears writes, fails calls
//! and fills up: whatever was answered is there after the next start, and an import is there whole or not at all.
//!
//! The spool's writer, merges and compaction run on threads of their own, and who of them makes the call that fails is theirs to
//! settle: a seed is not the same history twice, and what it finds once, many seeds find again. `POSTRIDER_SEEDS` says how
//! many, `POSTRIDER_SEED` which is the first.

use std::collections::BTreeMap;
use std::sync::Arc;

use postrider::mail::{Address, Envelope, Progress, QueueId, StreamKind};
use postrider::size::ByteSize;
use postrider::spool::{Apply, Disk, Message, OpenError, OpenOptions, Position, Sequence, Settings, Spool, StateEntry};
use postrider::suppression::{Cause, Entry, Failure, Query, Run, Scope, Suppressions};
use postrider::time::Timestamp;

use crate::spool::disk::{End, Fault, SimDisk};

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);
const ADDRESSES: usize = 40;
const SEEDS_DEFAULT: u64 = 60;
/// Found something once, and find it most times.
const SEEDS_KNOWN: [u64; 1] = [1088];
/// No entry was said so often.
const TORN: u32 = u32::MAX;
const CAUSES: [Cause; 2] = [Cause::HardBounce, Cause::Unsubscribe];

struct Deaf;

impl Apply for Deaf {
    fn before_write(&mut self) {}
    fn accepted(&mut self, _: Sequence, _: Position, _: Message) {}
    fn settled(&mut self, _: Sequence, _: Position, _: QueueId, _: Progress) {}
    fn moved(&mut self, _: Sequence, _: Position, _: Envelope, _: Progress) {}
    fn lost(&mut self, _: QueueId) {}
    fn state(&mut self, _: StateEntry) {}
}

fn address(number: usize) -> Address {
    format!("user{number}@d{}.example", number % 3).parse().unwrap()
}

type Key = (usize, Cause);

/// What a key may hold: one number for sure, or either of several where the last answer was none.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Key, Vec<Option<u32>>>,
    /// An import that was not answered: all of it, or nothing.
    open_import: BTreeMap<Key, u32>,
}

impl Model {
    fn is(&mut self, key: Key, value: Option<u32>) {
        self.keys.insert(key, vec![value]);
    }

    fn may_be(&mut self, key: Key, value: Option<u32>) {
        self.keys.entry(key).or_insert_with(|| vec![None]).push(value);
    }
}

struct House {
    disk: SimDisk,
    open: Option<(Spool, Suppressions)>,
}

impl House {
    fn open(&mut self) -> Result<(), OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let settings = Settings { segment_size: ByteSize::kib(64), ..Settings::default() };
        // A daemon would end here; the next start of the simulation comes soon enough.
        let fatal = Box::new(|_: &str| {});
        let (spool, _) = Spool::open(settings, disk.clone(), OpenOptions::default(), Box::new(Deaf), fatal)?;
        match Suppressions::open(spool.clone(), disk) {
            Ok(list) => {
                self.open = Some((spool, list));
                Ok(())
            }
            Err(failure) => {
                spool.close();
                assert!(self.disk.is_stopped() || failure.to_string().contains("error"), "{failure}");
                Err(OpenError::Full)
            }
        }
    }

    /// Ends this run, cleanly or not, and starts the next; every fault is over by then.
    async fn restart(&mut self, end: End) {
        if let Some((spool, list)) = self.open.take() {
            // What a dead process had begun does not go on.
            list.close().await;
            spool.close();
        }
        self.disk.take_fault();
        self.disk.fill_up(None);
        self.disk.end(end);
        self.open().unwrap_or_else(|error| panic!("a start after the end of all faults: {error}"));
    }

    fn list(&self) -> &Suppressions {
        &self.open.as_ref().unwrap().1
    }

    /// Everything, by key. A Put that was torn is an entry of the strictest meaning, which is [`TORN`] here.
    fn all(&self) -> BTreeMap<Key, u32> {
        let mut all = BTreeMap::new();
        for number in 0..ADDRESSES {
            for entry in self.list().entries(&address(number)) {
                let hits = if entry.evidence.contains("is damaged on the disk") { TORN } else { entry.hits };
                assert!(all.insert((number, entry.cause), hits).is_none(), "{entry:?} twice");
            }
        }
        all
    }

    fn check(&self, model: &mut Model, what: &str) {
        let all = self.all();
        let listed: BTreeMap<String, usize> =
            self.list().export(&Query::default(), NOW).fold(BTreeMap::new(), |mut counts, (address, _)| {
                *counts.entry(address.to_string()).or_default() += 1;
                counts
            });
        assert_eq!(listed.values().sum::<usize>(), all.len(), "{what}: the listing and the look-ups agree");
        let import = std::mem::take(&mut model.open_import);
        let whole: Vec<_> = import.iter().filter(|(key, _)| all.get(key) != Some(&TORN)).collect();
        let arrived = whole.iter().filter(|(key, hits)| all.get(key) == Some(*hits)).count();
        assert!(arrived == 0 || arrived == whole.len(), "{what}: {arrived} of an import of {}", import.len());
        for number in 0..ADDRESSES {
            for cause in CAUSES {
                let (key, found) = ((number, cause), all.get(&(number, cause)).copied());
                let allowed = model.keys.entry(key).or_insert_with(|| vec![None]);
                // No promise was made of a write that the end tore: it blocks rather than forgets.
                assert!(
                    found == Some(TORN) || allowed.contains(&found),
                    "{what}: {key:?} is {found:?}, and may be {allowed:?}"
                );
                *allowed = vec![found];
            }
        }
    }
}

fn entry(cause: Cause, hits: u32) -> Entry {
    let scope = if cause == Cause::Unsubscribe { Scope::Kind(StreamKind::Marketing) } else { Scope::All };
    // Long enough that some dozens fill a block.
    Entry { hits, evidence: format!("{hits} ").repeat(30).into(), ..Entry::new(scope, cause, NOW) }
}

async fn step(house: &House, model: &mut Model, random: &mut fastrand::Rng, hits: u32) {
    let key = (random.usize(0..ADDRESSES), CAUSES[random.usize(0..2)]);
    let list = house.list();
    match random.u32(0..20) {
        0..=9 => match list.put(&address(key.0), entry(key.1, hits)).await {
            Ok(()) => model.is(key, Some(hits)),
            Err(_) => model.may_be(key, Some(hits)),
        },
        10..=12 => match list.remove(&address(key.0), None, Some(key.1)).await {
            Ok(_) => model.is(key, None),
            Err(_) => model.may_be(key, None),
        },
        // Its failure changes nothing.
        13..=15 => drop(list.merge().await),
        16..=17 => {
            let mut import = list.import().unwrap();
            let mut keys = BTreeMap::new();
            for _ in 0..random.usize(1..60) {
                let key = (random.usize(0..ADDRESSES), CAUSES[random.usize(0..2)]);
                import.push(&address(key.0), entry(key.1, hits)).await.unwrap();
                keys.insert(key, hits);
            }
            match import.finish(Run::Real, |_| {}).await {
                Ok(_) => keys.into_keys().for_each(|key| model.is(key, Some(hits))),
                Err(_) => {
                    keys.keys().for_each(|key| model.may_be(*key, Some(hits)));
                    model.open_import = keys;
                }
            }
        }
        _ => {
            let query = Query { cause: Some(key.1), domain: Some("d1.example".parse().unwrap()), ..Query::default() };
            let done = list.remove_where(&query, Run::Real, NOW).await;
            for number in (1..ADDRESSES).step_by(3) {
                match done {
                    Ok(_) => model.is((number, key.1), None),
                    Err(_) => model.may_be((number, key.1), None),
                }
            }
        }
    }
}

async fn scenario(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut house = House { disk: SimDisk::new(seed), open: None };
    house.open().unwrap();
    let mut model = Model::default();
    let mut hits = 0;
    for round in 0..6 {
        let fault = match random.u8(0..6) {
            0 => None,
            1 => Some(Fault::Eio),
            2 => Some(Fault::Enospc),
            _ => Some(Fault::Stop),
        };
        if let Some(fault) = fault {
            house.disk.fault_at(random.u64(1..120), fault);
        } else {
            house.disk.fill_up(Some(random.u64(0..200_000)));
        }
        for _ in 0..25 {
            hits += 1;
            step(&house, &mut model, &mut random, hits).await;
            if house.disk.is_stopped() || !model.open_import.is_empty() {
                break;
            }
        }
        if random.bool() {
            // Who dies closes nothing.
            house.disk.fault_at(1, Fault::Stop);
        }
        let end = if random.bool() { End::Kill } else { End::PowerCut };
        house.restart(end).await;
        house.check(&mut model, &format!("seed {seed}, round {round}, {fault:?}, {end:?}"));
    }
    house.restart(End::Kill).await;
    let names: Vec<String> = house.disk.files().into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().all(|name| !name.contains(".tmp")), "seed {seed}: {names:?}");
}

#[test]
fn whatever_was_answered_is_there_after_any_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = (number("POSTRIDER_SEED"), number("POSTRIDER_SEEDS"));
    let count = count.unwrap_or(if first.is_some() { 1 } else { SEEDS_DEFAULT });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = first.unwrap_or(0);
    for seed in SEEDS_KNOWN.into_iter().chain(first..first + count) {
        runtime.block_on(scenario(seed));
    }
}

/// What is answered after a change that failed, without a write of its own to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answered {
    NothingToRemove,
    NothingToRemoveOfMany,
    Imported,
    ThereAlready,
}

/// One at a time, so that each seed is the same history each time.
async fn failed_then(answered: Answered, seed: u64, end: End) {
    let mut house = House { disk: SimDisk::new(seed), open: None };
    house.open().unwrap();
    let list = house.list();
    let (there, other) = (address(0), address(1));
    list.put(&there, entry(Cause::HardBounce, 1)).await.unwrap();
    list.merge().await.unwrap();
    // The write of the log: a removal reads a block before.
    let failed = match answered {
        Answered::NothingToRemove | Answered::NothingToRemoveOfMany => {
            house.disk.fault_at(1, Fault::Enospc);
            list.put(&other, entry(Cause::HardBounce, 2)).await
        }
        Answered::Imported | Answered::ThereAlready => {
            house.disk.fault_at(2, Fault::Enospc);
            list.remove(&there, None, None).await.map(drop)
        }
    };
    assert_eq!(failed, Err(Failure::Full), "seed {seed}, {answered:?}");
    match answered {
        Answered::NothingToRemove => assert_eq!(list.remove(&other, None, None).await, Ok(0)),
        Answered::NothingToRemoveOfMany => {
            let query = Query { domain: Some("d1.example".parse().unwrap()), ..Query::default() };
            assert_eq!(list.remove_where(&query, Run::Real, NOW).await, Ok(0));
        }
        Answered::Imported => {
            let mut import = list.import().unwrap();
            import.push(&there, entry(Cause::HardBounce, 2)).await.unwrap();
            assert_eq!(import.finish(Run::Real, |_| {}).await.unwrap().changed, 1);
        }
        Answered::ThereAlready => {
            let count = list.change(&there, |entries| (Vec::new(), entries.len())).await;
            assert_eq!(count, Ok(1));
        }
    }
    let known = house.all();
    // A clean close would write to the log.
    house.disk.fault_at(1, Fault::Stop);
    house.restart(end).await;
    assert_eq!(house.all(), known, "seed {seed}, {answered:?}, {end:?}");
    house.open.take().unwrap().0.close();
}

#[test]
fn what_failed_does_not_come_true_behind_what_is_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seed in 0..40 {
        for end in [End::Kill, End::PowerCut] {
            use Answered::*;
            for answered in [NothingToRemove, NothingToRemoveOfMany, Imported, ThereAlready] {
                runtime.block_on(failed_then(answered, seed, end));
            }
        }
    }
}

/// The process dies in the middle of a merge or an import, and the power goes after the next start.
#[test]
fn what_a_start_has_shown_outlives_a_power_cut() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for seed in 0..20 {
            // Until the import is done before the end comes.
            for calls in 1.. {
                let mut house = House { disk: SimDisk::new(seed), open: None };
                house.open().unwrap();
                house.list().put(&address(0), entry(Cause::HardBounce, 1)).await.unwrap();
                house.disk.fault_at(calls, Fault::Stop);
                let mut import = house.list().import().unwrap();
                import.push(&address(1), entry(Cause::HardBounce, 2)).await.unwrap();
                let done = import.finish(Run::Real, |_| {}).await;
                house.restart(End::Kill).await;
                let shown = house.all();
                house.disk.fault_at(1, Fault::Stop);
                house.restart(End::PowerCut).await;
                assert_eq!(house.all(), shown, "seed {seed}, call {calls}");
                house.open.take().unwrap().0.close();
                if done.is_ok() {
                    break;
                }
                assert!(calls < 100, "an import has few calls");
            }
        }
    });
}

#[test]
fn a_full_disk_is_told_and_costs_nothing_that_was_there() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut house = House { disk: SimDisk::new(1), open: None };
        house.open().unwrap();
        for number in 0..ADDRESSES {
            house.list().put(&address(number), entry(Cause::HardBounce, 1)).await.unwrap();
        }
        house.disk.fill_up(Some(0));
        let failure = house.list().merge().await.unwrap_err().to_string();
        assert_eq!(failure, "the disk under the spool is full: nothing of this was kept");
        let mut import = house.list().import().unwrap();
        for number in 0..1000 {
            let address = format!("more{number}@example.com").parse().unwrap();
            import.push(&address, entry(Cause::HardBounce, 1)).await.unwrap();
        }
        assert_eq!(import.finish(Run::Real, |_| {}).await.unwrap_err().to_string(), failure);
        assert!(house.list().figures().failed.is_some_and(|why| why == failure), "the watchman sees it");
        assert_eq!(house.all().len(), ADDRESSES);
        house.disk.fill_up(None);
        house.list().merge().await.unwrap();
        assert_eq!(house.list().figures().failed, None);
        house.restart(End::PowerCut).await;
        assert_eq!(house.all().len(), ADDRESSES);
        house.open.take().unwrap().0.close();
    });
}
