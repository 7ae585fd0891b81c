//! The spool on a real file system, with its thread: backup and restore, large bodies, recycled segments, a full disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postrider::mail::{Envelope, Prepared, Progress, QueueId};
use postrider::size::ByteSize;
use postrider::spool::{
    Apply, FileDisk, Message, OpenError, OpenOptions, Position, PutError, Sequence, Settings, Spool, StartReport,
    StateEntry, StateValue, check, restore,
};

use super::model::{Queue, message, settled};

fn settings() -> Settings {
    Settings { segment_size: ByteSize::kib(256), inline_body_max: ByteSize::kib(16), ..Settings::default() }
}

fn open(root: &Path) -> (Spool, Queue, StartReport) {
    let queue = Queue::default();
    let disk = Arc::new(FileDisk::new(root).unwrap());
    let fatal = Box::new(|why: &str| panic!("{why}"));
    let (spool, report) =
        Spool::open(settings(), disk, OpenOptions::default(), Box::new(queue.clone()), fatal).unwrap();
    (spool, queue, report)
}

fn numbered(n: u64, bytes: usize) -> Prepared {
    message((1 << 21) + 8 * n, 1 + n % 2, bytes)
}

fn check_clean(root: &Path) -> postrider::spool::CheckReport {
    let report = check(&FileDisk::new(root).unwrap(), |_| {}).unwrap();
    assert_eq!(report.lines, Vec::<String>::new());
    report
}

fn everything_reads_back(spool: &Spool, queue: &Queue, bodies: impl Fn(QueueId) -> Bytes) {
    for (id, (place, progress)) in queue.rows().live {
        assert_eq!(spool.read(place, id).unwrap().progress, progress);
        assert!(spool.read_body(place.home).unwrap() == bodies(id), "the body of {id}");
    }
}

fn body_of(id: QueueId) -> Bytes {
    let n = (id.as_u64() - (1 << 21)) / 8;
    numbered(n, size_of(n)).body
}

fn size_of(n: u64) -> usize {
    if n % 9 == 4 { 40_000 } else { 3000 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_put_at_once_are_all_there_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("spool");
    let (spool, queue, _) = open(&root);
    let puts = (0..200).map(|n| {
        let spool = spool.clone();
        tokio::spawn(async move { spool.put(numbered(n, size_of(n))).await })
    });
    for put in puts.collect::<Vec<_>>() {
        let _proof = put.await.unwrap().unwrap();
    }
    assert_eq!(queue.rows().live.len(), 300);
    let (id, (_, row)) = queue.rows().live.into_iter().next().unwrap();
    assert!(spool.settle(id, settled(&row, 1, false), None).written().await);
    spool.state_put(3, Bytes::from_static(b"key"), Some(Bytes::from_static(b"value"))).await.unwrap();
    everything_reads_back(&spool, &queue, body_of);
    let disk = Arc::new(FileDisk::new(&root).unwrap());
    let second = Spool::open(settings(), disk, OpenOptions::default(), Box::new(Queue::default()), Box::new(|_| {}));
    assert!(matches!(second, Err(OpenError::Locked)));
    let closing = spool.clone();
    tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
    assert_eq!(spool.put(numbered(900, 10)).await.map(|_| ()), Err(PutError::Closed));
    assert!(!spool.settle(id, row, None).written().await);
    assert_eq!(check_clean(&root).live, 300);

    let (spool, again, report) = open(&root);
    assert!(report.clean);
    assert_eq!(report.live, 300);
    let (before, after) = (queue.rows().live, again.rows().live);
    assert!(before.iter().map(|(id, (_, row))| (id, row)).eq(after.iter().map(|(id, (_, row))| (id, row))));
    everything_reads_back(&spool, &again, body_of);
    let entries = spool.state_entries(3).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].value, StateValue::Is(Bytes::from_static(b"value")));
    tokio::task::spawn_blocking(move || spool.close()).await.unwrap();
}

/// A queue that remembers what the disk had each time it was told that something is about to be written.
struct Watcher {
    queue: Queue,
    root: PathBuf,
    seen: Arc<Mutex<Vec<Contents>>>,
}

type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// All files under a directory.
fn contents(root: &Path) -> Contents {
    let mut found = Contents::new();
    for entry in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => found.append(&mut contents(&entry)),
            false => drop(found.insert(entry.clone(), std::fs::read(&entry).unwrap())),
        }
    }
    found
}

impl Apply for Watcher {
    fn before_write(&mut self) {
        self.seen.lock().unwrap().push(contents(&self.root));
    }

    fn accepted(&mut self, sequence: Sequence, at: Position, message: Message) {
        self.queue.accepted(sequence, at, message);
    }

    fn settled(&mut self, sequence: Sequence, at: Position, id: QueueId, progress: Progress) {
        self.queue.settled(sequence, at, id, progress);
    }

    fn moved(&mut self, sequence: Sequence, at: Position, envelope: Envelope, progress: Progress) {
        self.queue.moved(sequence, at, envelope, progress);
    }

    fn lost(&mut self, id: QueueId) {
        self.queue.lost(id);
    }

    fn state(&mut self, entry: StateEntry) {
        self.queue.state(entry);
    }
}

#[tokio::test]
async fn the_queue_is_told_before_a_settle_or_a_state_entry_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("spool");
    let disk = Arc::new(FileDisk::new(&root).unwrap());
    let (queue, seen) = (Queue::default(), Arc::new(Mutex::new(Vec::new())));
    let watcher = Box::new(Watcher { queue: queue.clone(), root: root.clone(), seen: seen.clone() });
    let fatal = Box::new(|why: &str| panic!("{why}"));
    let (spool, _) = Spool::open(settings(), disk, OpenOptions::default(), watcher, fatal).unwrap();
    let _proof = spool.put(numbered(0, 3000)).await.unwrap();
    assert!(seen.lock().unwrap().is_empty(), "a put tells of nothing that came before it");

    let (id, (_, row)) = queue.rows().live.into_iter().next().unwrap();
    let before_settle = contents(&root);
    assert!(spool.settle(id, settled(&row, 1, true), None).written().await);
    let before_state = contents(&root);
    spool.state_put(3, Bytes::from_static(b"key"), Some(Bytes::from_static(b"value"))).await.unwrap();
    let after = contents(&root);
    assert!(before_settle != before_state && before_state != after);
    assert!(*seen.lock().unwrap() == [before_settle, before_state]);
    tokio::task::spawn_blocking(move || spool.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_is_used_again_and_stays_within_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("spool");
    let (spool, queue, _) = open(&root);
    for n in 0..800 {
        let _proof = spool.put(numbered(n, size_of(n))).await.unwrap();
        let rows = queue.rows();
        // One in forty stays: the cleaner has something to carry forward.
        let mut last = None;
        for (id, (_, row)) in rows.live.iter().filter(|(id, _)| id.as_u64() % 40 != 0) {
            last = Some(spool.settle(*id, settled(row, n, true), None));
        }
        if let Some(last) = last {
            assert!(last.written().await);
        }
    }
    let closing = spool.clone();
    let begun = Instant::now();
    let segment = 256 * 1024;
    loop {
        let stats = spool.stats();
        if stats.mail_bytes <= 2 * stats.live_bytes + 4 * segment {
            assert!(stats.moved > 0, "{stats:?}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the log does not shrink: {stats:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    everything_reads_back(&spool, &queue, body_of);
    let bodies = std::fs::read_dir(root.join("bodies")).unwrap().count();
    let rows = queue.rows();
    let large = rows.live.keys().map(|id| (id.as_u64() - (1 << 21)) / 8).filter(|n| size_of(*n) > 16_384);
    let live_files = large.collect::<std::collections::BTreeSet<_>>().len();
    assert!(bodies <= live_files + 1, "{bodies} body files for {live_files} messages");
    tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
    check_clean(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_running_spool_is_a_spool_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (root, backup, restored) = (dir.path().join("spool"), dir.path().join("backup"), dir.path().join("restored"));
    let (spool, queue, _) = open(&root);
    for n in 0..120 {
        let _proof = spool.put(numbered(n, size_of(n))).await.unwrap();
    }
    let rows = queue.rows().live;
    let (copying, to) = (spool.clone(), backup.clone());
    tokio::task::spawn_blocking(move || copying.backup(&to)).await.unwrap().unwrap();
    // All that was backed up ends, and its segments are wanted back.
    for (id, (_, row)) in &rows {
        assert!(spool.settle(*id, settled(row, 1, true), None).written().await);
    }
    for n in 200..320 {
        let _proof = spool.put(numbered(n, size_of(n))).await.unwrap();
    }
    tokio::task::spawn_blocking(move || spool.close()).await.unwrap();
    restore(&backup, &restored).unwrap();
    for copy in [&backup, &restored] {
        check_clean(copy);
        let (spool, queue, report) = open(copy);
        assert_eq!(report.live, rows.len() as u64);
        assert_eq!(report.quarantined, 0);
        everything_reads_back(&spool, &queue, body_of);
        tokio::task::spawn_blocking(move || spool.close()).await.unwrap();
    }
}
