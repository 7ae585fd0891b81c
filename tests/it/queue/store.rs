//! The index on disk is believed only when nothing speaks against it, and whatever happens to it is over in bounded
//! time and costs no more than a rebuild.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use postrider::store::{Opener, Settings, Store, StoreError, Tree, TreeKind};

const SPOOL: u128 = 77;
const BOOT: &str = "boot-1";

fn row(number: u64) -> (u64, Option<Vec<u8>>) {
    (number, Some(format!("row {number}").into_bytes()))
}

/// An index with rows 1 to 100, less row 50, good for record 9.
fn filled(dir: &Path) -> Store {
    let mut store = Store::begin(dir, &Settings::default(), SPOOL, BOOT.to_owned()).unwrap();
    store.write((1..=100).map(row).collect()).unwrap();
    store.write(vec![(50, None)]).unwrap();
    store.checkpoint(9, 1).unwrap();
    store
}

/// The rows that a start finds, in order, and the record they are good for.
fn found(dir: &Path, boot: &str) -> Result<(u64, Vec<u64>), StoreError> {
    let (store, loaded) = Store::open(dir, &Settings::default(), boot.to_owned())?;
    drop(store);
    assert_eq!(loaded.spool, SPOOL);
    assert!(loaded.rows.iter().all(|(number, value)| row(number).1.as_deref() == Some(value)));
    let mut numbers: Vec<u64> = loaded.rows.iter().map(|(number, _)| number).collect();
    numbers.sort_unstable();
    Ok((loaded.sequence, numbers))
}

fn all_but_50() -> Vec<u64> {
    (1..=100).filter(|number| *number != 50).collect()
}

#[test]
fn a_closed_index_is_believed_after_a_reboot_and_an_unclosed_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close(12, 1).unwrap();
    assert_eq!(found(dir.path(), "boot-2"), Ok((12, all_but_50())));
    // That start opened it and did not close it.
    assert_eq!(found(dir.path(), "boot-2"), Ok((12, all_but_50())), "the same boot");
    assert!(found(dir.path(), "boot-3").is_err(), "another boot");
    assert!(found(dir.path(), "").is_err(), "an unknown boot");
}

#[test]
fn an_index_that_is_begun_anew_holds_nothing_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close(12, 1).unwrap();
    let mut store = Store::begin(dir.path(), &Settings::default(), SPOOL, BOOT.to_owned()).unwrap();
    store.write(vec![row(7)]).unwrap();
    store.close(20, 1).unwrap();
    assert_eq!(found(dir.path(), BOOT), Ok((20, vec![7])));
}

#[test]
fn a_half_written_snapshot_of_a_crashed_open_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close(12, 1).unwrap();
    let inner = files(dir.path()).first().and_then(|file| file.parent().map(Path::to_owned)).unwrap();
    fs::write(inner.join("snap.ffffffffffffffff.generating"), b"half").unwrap();
    assert_eq!(found(dir.path(), "boot-2"), Ok((12, all_but_50())));
}

#[test]
fn two_indexes_are_none() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close(12, 1).unwrap();
    fs::create_dir(dir.path().join("index.9999")).unwrap();
    assert!(found(dir.path(), BOOT).is_err());
    let mut store = Store::begin(dir.path(), &Settings::default(), SPOOL, BOOT.to_owned()).unwrap();
    store.write(vec![row(7)]).unwrap();
    store.close(20, 1).unwrap();
    assert_eq!(found(dir.path(), BOOT), Ok((20, vec![7])));
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Whatever one byte is flipped or wherever a file is cut: the rows are right, or none are believed.
#[test]
fn a_damaged_index_gives_the_right_rows_or_none() {
    let good = tempfile::tempdir().unwrap();
    filled(good.path()).close(12, 1).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut refused = 0;
    for round in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        for file in files(good.path()) {
            let to = dir.path().join(file.strip_prefix(good.path()).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
        let victims: Vec<PathBuf> =
            files(dir.path()).into_iter().filter(|file| fs::metadata(file).unwrap().len() > 0).collect();
        let victim = &victims[random.usize(..victims.len())];
        let mut bytes = fs::read(victim).unwrap();
        match round % 3 {
            0 => bytes.truncate(random.usize(..bytes.len())),
            1 => bytes.iter_mut().for_each(|byte| *byte = random.u8(..)),
            _ => {
                // Most of sled's file is empty space: aim at what was written.
                let written: Vec<usize> = (0..bytes.len()).filter(|place| bytes[*place] != 0).collect();
                let place = written[random.usize(..written.len())];
                bytes[place] ^= 1 << random.u8(..8);
            }
        }
        fs::write(victim, bytes).unwrap();
        match found(dir.path(), "boot-2") {
            Ok(rows) => assert_eq!(rows, (12, all_but_50()), "round {round}: {}", victim.display()),
            Err(_) => refused += 1,
        }
        let store = Store::begin(dir.path(), &Settings::default(), SPOOL, BOOT.to_owned());
        assert!(store.is_ok(), "round {round}: a new one can always be begun");
    }
    assert!(refused > 20, "only {refused} of 60 damages were seen");
}

/// What a tree does to those who call it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mood {
    Fails,
    Panics,
    Hangs,
}

/// Settings whose tree is made by this opener, once.
fn with_tree(deadline: Duration, opener: Opener) -> Settings {
    let once = Mutex::new(Some(opener));
    let tree = TreeKind(Arc::new(move |_| once.lock().unwrap().take().unwrap()));
    Settings { deadline, open_deadline: deadline, tree, ..Settings::default() }
}

/// A tree that works for some calls and then never again. It hangs until the test lets go of its end of a channel.
struct Moody {
    mood: Mood,
    good_calls: usize,
    hang: mpsc::Receiver<()>,
}

impl Moody {
    fn call(&mut self) -> Result<(), String> {
        if self.good_calls > 0 {
            self.good_calls -= 1;
            return Ok(());
        }
        match self.mood {
            Mood::Fails => Err("StorageFull".to_owned()),
            Mood::Panics => panic!("tried to serialize Uninitialized"),
            Mood::Hangs => {
                let _ = self.hang.recv();
                Err("woken at last".to_owned())
            }
        }
    }
}

impl Tree for Moody {
    fn scan(&mut self, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        self.call()
    }
    fn value(&mut self, _: &[u8]) -> Result<Option<Vec<u8>>, String> {
        self.call().map(|()| None)
    }
    fn insert(&mut self, _: &[u8], _: &[u8]) -> Result<bool, String> {
        self.call().map(|()| true)
    }
    fn remove(&mut self, _: &[u8]) -> Result<bool, String> {
        self.call().map(|()| true)
    }
    fn flush(&mut self) -> Result<(), String> {
        self.call()
    }
    fn sync(&mut self) -> Result<(), String> {
        self.call()
    }
}

#[test]
fn an_error_a_panic_or_silence_makes_the_store_bad_for_good_within_its_deadline() {
    for (mood, deadline_ms) in [(Mood::Fails, 20_000), (Mood::Panics, 20_000), (Mood::Hangs, 200)] {
        let deadline = Duration::from_millis(deadline_ms);
        for good_calls in [0, 1, 3, 4] {
            let dir = tempfile::tempdir().unwrap();
            let (let_go, hang) = mpsc::channel();
            let opener: Opener = Box::new(move |_| Ok(Box::new(Moody { mood, good_calls, hang })));
            let started = Instant::now();
            let mut store = Store::begin(dir.path(), &with_tree(deadline, opener), SPOOL, BOOT.to_owned()).unwrap();
            let first = (0..10)
                .find_map(|number| store.write(vec![row(number)]).and_then(|()| store.checkpoint(number, 1)).err());
            let first = first.unwrap();
            let want = match mood {
                Mood::Fails => StoreError::Failed("StorageFull".to_owned()),
                Mood::Panics => StoreError::Failed("it panicked".to_owned()),
                Mood::Hangs => StoreError::Silent(deadline),
            };
            assert_eq!(first, want, "{mood:?} after {good_calls}");
            // From then on nobody waits for it again.
            let asked = Instant::now();
            assert_eq!(store.write(vec![row(1)]), Err(want.clone()));
            assert_eq!(store.close(5, 1), Err(want));
            assert!(asked.elapsed() < Duration::from_millis(100));
            assert!(started.elapsed() < Duration::from_secs(15));
            drop(let_go);
        }
    }
}

#[test]
fn an_open_that_hangs_or_panics_is_given_up() {
    let deadline = Duration::from_millis(200);
    let dir = tempfile::tempdir().unwrap();
    let (let_go, hang) = mpsc::channel::<()>();
    let hanging: Opener = Box::new(move |_| {
        let _ = hang.recv();
        Err("woken at last".to_owned())
    });
    let begun = Store::begin(dir.path(), &with_tree(deadline, hanging), SPOOL, BOOT.to_owned());
    assert_eq!(begun.err(), Some(StoreError::Silent(deadline)));
    drop(let_go);
    let panicking: Opener = Box::new(|_| panic!("tried to serialize Uninitialized"));
    let begun = Store::begin(dir.path(), &with_tree(Duration::from_secs(20), panicking), SPOOL, BOOT.to_owned());
    assert_eq!(begun.err(), Some(StoreError::Failed("it panicked".to_owned())));
}

#[test]
fn a_value_that_sled_would_put_into_a_file_of_its_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::begin(dir.path(), &Settings::default(), SPOOL, BOOT.to_owned()).unwrap();
    store.write(vec![(1, Some(vec![0; 4096]))]).unwrap();
    assert!(store.write(vec![(2, Some(vec![0; 4097]))]).is_err());
    assert!(store.checkpoint(1, 1).is_err(), "what could not be written makes the rest worthless");
}
