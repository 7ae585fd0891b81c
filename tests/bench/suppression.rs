//! The suppression list at scale: ten million entries, and a million imported from CSV.
//!
//! ```text
//! cargo bench --bench suppression [-- ENTRIES DIRECTORY]
//! ```
//! Prints what a look-up takes (median, 99th percentile, longest) for addresses that are in the list and for strangers, with
//! files in the page cache; the memory that the process grows by; how long a start takes; and how long the million takes,
//! reading and sorting and syncing included. Aims: 20 µs, 200 MiB, 2 s, 60 s.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::mail::{Address, Envelope, Progress, QueueId, StreamKind};
use postrider::spool::{Apply, Disk, FileDisk, Message, OpenOptions, Position, Sequence, Settings, Spool, StateEntry};
use postrider::suppression::foreign::{Reader, Row, Terms};
use postrider::suppression::{Cause, Entry, Query, Run, Scope, Suppressions};
use postrider::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const LOOK_UPS: usize = 1_000_000;
const IMPORTED: u64 = 1_000_000;

struct Deaf;

impl Apply for Deaf {
    fn before_write(&mut self) {}
    fn accepted(&mut self, _: Sequence, _: Position, _: Message) {}
    fn settled(&mut self, _: Sequence, _: Position, _: QueueId, _: Progress) {}
    fn moved(&mut self, _: Sequence, _: Position, _: Envelope, _: Progress) {}
    fn lost(&mut self, _: QueueId) {}
    fn state(&mut self, _: StateEntry) {}
}

fn open(directory: &Path) -> (Spool, Suppressions, Duration) {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::new(directory).expect("a directory"));
    let fatal = Box::new(|why: &str| panic!("{why}"));
    let (spool, _) =
        Spool::open(Settings::default(), disk.clone(), OpenOptions::default(), Box::new(Deaf), fatal).expect("a spool");
    let began = Instant::now();
    let list = Suppressions::open(spool.clone(), disk).expect("a list");
    (spool, list, began.elapsed())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Addresses as lists have them: most at few domains.
fn address(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let domain = match mixed % 10 {
        0..=3 => "gmail.com".to_owned(),
        4..=5 => "outlook.com".to_owned(),
        6 => "yahoo.com".to_owned(),
        _ => format!("company{}.example", mixed % 100_003),
    };
    format!("first.last{number:x}@{domain}")
}

fn entry(number: u64) -> Entry {
    let (scope, cause) = match number % 4 {
        0 => (Scope::Kind(StreamKind::Marketing), Cause::Unsubscribe),
        1 => (Scope::Kind(StreamKind::Marketing), Cause::Complaint),
        _ => (Scope::All, Cause::HardBounce),
    };
    let evidence = match cause {
        Cause::HardBounce => "550 5.1.1 The email account that you tried to reach does not exist",
        _ => "",
    };
    let at = Timestamp::from_secs(1_700_000_000 + number % 90_000_000);
    Entry { site: "gmail".into(), evidence: evidence.into(), ..Entry::new(scope, cause, at) }
}

fn look_ups(list: &Suppressions, name: &str, number: impl Fn(u64) -> u64) {
    let mut random = fastrand::Rng::with_seed(7);
    let addresses: Vec<Address> =
        (0..LOOK_UPS).map(|_| address(number(random.u64(..))).parse().expect("an address")).collect();
    let mut times: Vec<u64> = Vec::with_capacity(LOOK_UPS);
    let mut found = 0;
    for address in &addresses {
        let began = Instant::now();
        found += usize::from(list.blocking(address, StreamKind::Marketing, "marketing", NOW).is_some());
        times.push(began.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    let at = |share: f64| times[((LOOK_UPS - 1) as f64 * share) as usize] as f64 / 1000.0;
    println!(
        "{name}: median {:.2} us, 99% {:.2} us, longest {:.0} us; {found} of {LOOK_UPS} blocked",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn import_csv(list: &Suppressions, file: &Path) {
    let began = Instant::now();
    let terms = Terms { about: None, cause: None, scope: None, expires_at: None, now: NOW };
    let reader = Reader::new(BufReader::new(File::open(file).expect("the file")), terms).expect("a header");
    let mut import = list.import().expect("no other");
    for row in reader {
        match row.expect("a line").1 {
            Row::Entry(address, entry) => import.push(&address, entry).await.expect("room"),
            other => panic!("{other:?}"),
        }
    }
    let read = began.elapsed();
    let imported = import.finish(Run::Real, |_| {}).await.expect("room");
    println!("a million from CSV: read in {read:.1?}, durable after {:.1?}; {imported:?}", began.elapsed());
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let entries: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = directory.join(format!("postrider-bench-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory of our own");
    let spool_dir = directory.join("spool");

    let (spool, list, _) = open(&spool_dir);
    let before = resident_kib();
    let began = Instant::now();
    let mut import = list.import().expect("no other");
    for number in 0..entries {
        import.push(&address(number).parse().expect("an address"), entry(number)).await.expect("room");
    }
    let imported = import.finish(Run::Real, |_| {}).await.expect("room");
    println!("{} entries put in: {:.1?}", imported.added, began.elapsed());
    println!("memory after that: {} MiB more than before", resident_kib().saturating_sub(before) / 1024);
    spool.close();
    drop((list, spool));

    let (spool, list, took) = open(&spool_dir);
    let figures = list.figures();
    println!(
        "a start reads the list in {took:.2?}: {} MiB on the disk, {:.1} MiB of filters and indexes",
        figures.disk_bytes >> 20,
        figures.memory_bytes as f64 / f64::from(1 << 20)
    );
    look_ups(&list, "in the list", |random| random % entries);
    look_ups(&list, "strangers", |random| entries + random % entries);
    let began = Instant::now();
    let counts = list.count(&Query::default(), NOW);
    println!("all {} counted in {:.1?}", counts.entries, began.elapsed());

    let file = directory.join("import.csv");
    let mut out = BufWriter::new(File::create(&file).expect("a file"));
    writeln!(out, "email,cause,created,reason").expect("room");
    for number in 0..IMPORTED {
        let number = entries - IMPORTED / 2 + number;
        writeln!(out, "{},hard_bounce,{},\"550 5.1.1 no, such user\"", address(number), 1_700_000_000 + number % 1000)
            .expect("room");
    }
    out.into_inner().expect("room").sync_all().expect("a sync");
    import_csv(&list, &file).await;
    look_ups(&list, "in the list, with a second file", |random| random % entries);
    spool.close();
    drop((list, spool));
    let (spool, list, took) = open(&spool_dir);
    println!("a start after that: {took:.2?}; {} files, {} records", list.figures().files, list.figures().in_files);
    spool.close();
    let _ = std::fs::remove_dir_all(&directory);
}
