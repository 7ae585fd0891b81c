//! The list on a real disk: what is put is found, whatever becomes of its files.

use super::*;
use crate::size::ByteSize;
use crate::spool::{Apply, FileDisk, OpenOptions, Position, Sequence, Settings, StateEntry};

pub(super) const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

/// What happens at a write.
type Hook = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A disk that does something else besides, once, when a file of the list is about to get its name.
struct Hooked {
    disk: FileDisk,
    hooks: Mutex<std::collections::VecDeque<Hook>>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl Disk for Hooked {
    fn open(&self, name: &str, how: crate::spool::disk::Open) -> io::Result<Arc<dyn crate::spool::DiskFile>> {
        self.disk.open(name, how)
    }
    fn make_dir(&self, name: &str) -> io::Result<()> {
        self.disk.make_dir(name)
    }
    fn sync_dir(&self, name: &str) -> io::Result<()> {
        self.disk.sync_dir(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let hook = if to.ends_with(".list") { lock(&self.hooks).pop_front() } else { None };
        hook.map_or(Ok(()), |hook| hook())?;
        self.disk.rename(from, to)
    }
    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.unlink(name)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<crate::spool::disk::Entry>> {
        self.disk.list(dir)
    }
    fn space(&self) -> io::Result<crate::spool::disk::Space> {
        self.disk.space()
    }
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn link_out(&self, name: &str, to: &std::path::Path) -> io::Result<()> {
        self.disk.link_out(name, to)
    }
}

struct Deaf;

impl Apply for Deaf {
    fn before_write(&mut self) {}
    fn accepted(&mut self, _: Sequence, _: Position, _: crate::spool::Message) {}
    fn settled(&mut self, _: Sequence, _: Position, _: crate::mail::QueueId, _: crate::mail::Progress) {}
    fn moved(&mut self, _: Sequence, _: Position, _: crate::mail::Envelope, _: crate::mail::Progress) {}
    fn lost(&mut self, _: crate::mail::QueueId) {}
    fn state(&mut self, _: StateEntry) {}
}

/// A spool with its list.
struct House {
    directory: tempfile::TempDir,
    open: Option<(Spool, Suppressions)>,
    disk: Option<Arc<Hooked>>,
}

impl House {
    fn new() -> House {
        let mut house = House { directory: tempfile::tempdir().unwrap(), open: None, disk: None };
        house.reopen();
        house
    }

    fn reopen(&mut self) {
        if let Some((spool, _)) = self.open.take() {
            spool.close();
        }
        let disk = FileDisk::new(&self.directory.path().join("spool")).unwrap();
        let hooked = Arc::new(Hooked { disk, hooks: Mutex::default() });
        self.disk = Some(hooked.clone());
        let disk: Arc<dyn Disk> = hooked;
        let settings = Settings { segment_size: ByteSize::mib(1), ..Settings::default() };
        let fatal = Box::new(|why: &str| panic!("{why}"));
        let (spool, _) = Spool::open(settings, disk.clone(), OpenOptions::default(), Box::new(Deaf), fatal).unwrap();
        let list = Suppressions::open(spool.clone(), disk).unwrap();
        self.open = Some((spool, list));
    }

    fn list(&self) -> &Suppressions {
        &self.open.as_ref().unwrap().1
    }

    /// Does something when the next file is about to get its name, and the one after it.
    fn hook(&self, hook: impl FnOnce() -> io::Result<()> + Send + 'static) {
        lock(&self.disk.as_ref().unwrap().hooks).push_back(Box::new(hook));
    }

    fn check(&self) -> (u64, Vec<String>) {
        let mut lines = Vec::new();
        let files = check(&self.disk.as_ref().unwrap().disk, |line| lines.push(line)).unwrap();
        (files, lines)
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let directory = std::fs::read_dir(self.directory.path().join("spool/suppression")).unwrap();
        let mut files: Vec<_> = directory.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some((spool, _)) = self.open.take() {
            spool.close();
        }
    }
}

fn at(text: &str) -> Address {
    text.parse().unwrap()
}

fn entry(scope: Scope, cause: Cause) -> Entry {
    Entry { site: "gmail".into(), evidence: "550 5.1.1 no such user".into(), ..Entry::new(scope, cause, NOW) }
}

const NEWS: StreamKind = StreamKind::Marketing;
const MAIL: StreamKind = StreamKind::Transactional;

#[tokio::test]
async fn what_is_put_blocks_what_it_covers_before_and_after_merges_and_starts() {
    let mut house = House::new();
    let joe = at("Joe@Example.com");
    house.list().put(&joe, entry(Scope::Kind(NEWS), Cause::Unsubscribe)).await.unwrap();
    house.list().put(&joe, Entry { pending: true, ..entry(Scope::All, Cause::HardBounce) }).await.unwrap();
    let ended = Entry { expires_at: Some(NOW), ..entry(Scope::All, Cause::SoftBounce) };
    house.list().put(&joe, ended).await.unwrap();
    house.list().put(&at("x@example.com"), entry(Scope::Stream("daily".into()), Cause::Manual)).await.unwrap();
    for round in 0..4 {
        let list = house.list();
        let cause = |address: &str, kind, stream| list.blocking(&at(address), kind, stream, NOW).map(|e| e.cause);
        assert_eq!(cause("joe@EXAMPLE.com", NEWS, "weekly"), Some(Cause::Unsubscribe), "round {round}");
        assert_eq!(cause("joe@example.com", MAIL, "otp"), None, "pending and expired entries stop nothing");
        assert_eq!(cause("jo.e@example.com", NEWS, "weekly"), None);
        assert_eq!(cause("x@example.com", NEWS, "daily"), Some(Cause::Manual));
        assert_eq!(cause("x@example.com", NEWS, "weekly"), None);
        assert_eq!(list.blocking_but(&joe, NEWS, "weekly", &[Cause::Unsubscribe], NOW), None, "bypassed");
        assert_eq!(list.entries(&joe).len(), 3);
        let before = NOW.before(Duration::from_secs(1));
        assert_eq!(list.blocking(&joe, MAIL, "otp", before).map(|e| e.cause), Some(Cause::SoftBounce));
        match round {
            0 | 2 => house.reopen(),
            _ => house.list().merge().await.unwrap(),
        }
    }
    assert_eq!(house.list().figures().in_memory, 0);
}

#[tokio::test]
async fn what_is_removed_stays_so_though_older_files_have_it() {
    let mut house = House::new();
    let joe = at("joe@example.com");
    for cause in [Cause::Complaint, Cause::Manual] {
        house.list().put(&joe, entry(Scope::All, cause)).await.unwrap();
    }
    for other in 0..100 {
        house.list().put(&at(&format!("u{other}@example.com")), entry(Scope::All, Cause::Import)).await.unwrap();
    }
    house.list().merge().await.unwrap();
    assert_eq!(house.list().remove(&joe, None, Some(Cause::Manual)).await, Ok(1));
    assert_eq!(house.list().remove(&joe, None, Some(Cause::Manual)).await, Ok(0));
    house.list().merge().await.unwrap();
    assert_eq!(house.list().figures().files, 2, "the older file is too large to be merged with one entry");
    house.reopen();
    assert_eq!(house.list().entries(&joe).len(), 1);
    assert_eq!(house.list().remove(&joe, Some(&Scope::Kind(NEWS)), None).await, Ok(0));
    assert_eq!(house.list().remove(&joe, None, None).await, Ok(1));
    assert_eq!(house.list().entries(&joe), []);
    house.reopen();
    assert_eq!(house.list().entries(&joe), []);
    assert_eq!(house.list().count(&Query::default(), NOW).entries, 100);
}

#[tokio::test]
async fn an_import_counts_as_a_whole_and_twice_is_once() {
    let mut house = House::new();
    let kept = Entry { hits: 7, ..entry(Scope::All, Cause::HardBounce) };
    house.list().put(&at("u5@example.com"), kept.clone()).await.unwrap();
    for (run, added, changed, known, there) in
        [(Run::Dry, 999, 1, 0, 1), (Run::Real, 999, 1, 0, 1000), (Run::Real, 0, 0, 1000, 1000)]
    {
        let mut import = house.list().import().unwrap();
        assert_eq!(house.list().import().err(), Some(Failure::Busy));
        for number in (0..1000).rev().chain([5, 5]) {
            let later = Entry { last_at: NOW.after(Duration::from_secs(9)), ..entry(Scope::All, Cause::HardBounce) };
            import.push(&at(&format!("U{number}@example.com")), later).await.unwrap();
        }
        assert_eq!(
            house.list().count(&Query::default(), NOW).entries,
            if run == Run::Dry || added > 0 { 1 } else { 1000 }
        );
        let imported = import.finish(run, |_| {}).await.unwrap();
        assert_eq!(imported, Imported { taken: 1002, distinct: 1000, added, changed, known });
        assert_eq!(house.list().count(&Query::default(), NOW).entries, there, "{run:?}");
    }
    house.reopen();
    let now = house.list().entries(&at("u5@example.com"));
    assert_eq!(now, [Entry { last_at: NOW.after(Duration::from_secs(9)), ..kept }], "it says no less than before");
    drop(house.list().import().unwrap());
    assert!(house.list().import().is_ok(), "one that was given up makes room");
    assert!(house.files().iter().all(|path| path.extension().is_some_and(|e| e == "list")), "{:?}", house.files());
}

#[tokio::test]
async fn an_incident_is_undone_in_files_and_in_memory() {
    let mut house = House::new();
    for number in 0..300u64 {
        let entry = Entry {
            added_at: NOW.after(Duration::from_secs(number)),
            site: if number.is_multiple_of(2) { "gmail".into() } else { "yahoo".into() },
            ..entry(Scope::All, Cause::HardBounce)
        };
        house.list().put(&at(&format!("u{number}@d{}.example", number % 3)), entry).await.unwrap();
        if number == 150 {
            house.list().merge().await.unwrap();
        }
    }
    let query = Query {
        site: Some("gmail".into()),
        since: Some(NOW.after(Duration::from_secs(100))),
        until: Some(NOW.after(Duration::from_secs(200))),
        ..Query::default()
    };
    assert_eq!(house.list().remove_where(&query, Run::Dry, NOW).await, Ok(50));
    assert_eq!(house.list().count(&query, NOW).entries, 50);
    assert_eq!(house.list().remove_where(&query, Run::Real, NOW).await, Ok(50));
    assert_eq!(house.list().remove_where(&query, Run::Real, NOW).await, Ok(0));
    house.reopen();
    assert_eq!(house.list().count(&query, NOW).entries, 0);
    assert_eq!(house.list().count(&Query::default(), NOW).entries, 250);
    let domain = Query { domain: Some("d1.example".parse().unwrap()), ..Query::default() };
    assert_eq!(house.list().count(&domain, NOW).addresses, 100 - 17);
}

#[tokio::test]
async fn pages_follow_each_other_and_miss_nothing() {
    let house = House::new();
    for number in 0..250 {
        let address = at(&format!("u{number:03}@d{}.example", number % 2));
        house.list().put(&address, entry(Scope::All, Cause::HardBounce)).await.unwrap();
        house.list().put(&address, entry(Scope::Kind(NEWS), Cause::Unsubscribe)).await.unwrap();
        if number % 60 == 0 {
            house.list().merge().await.unwrap();
        }
    }
    for query in [Query::default(), Query { domain: Some("d0.example".parse().unwrap()), ..Query::default() }] {
        let all: Vec<_> = house.list().export(&query, NOW).collect();
        for limit in [1, 7, 100, 1000] {
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let page = house.list().page(&query, after.as_deref(), limit, NOW).unwrap();
                assert!(page.entries.len() <= limit);
                pages.extend(page.entries);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(pages, all);
        }
    }
    for bad in ["x", "0", "ü", "+1"] {
        assert_eq!(house.list().page(&Query::default(), Some(bad), 1, NOW), None, "{bad}");
    }
}

#[tokio::test]
async fn an_address_has_its_bound() {
    let house = House::new();
    let joe = at("joe@example.com");
    for stream in 0..ENTRIES_MAX {
        house.list().put(&joe, entry(Scope::Stream(format!("s{stream}").into()), Cause::Manual)).await.unwrap();
    }
    let more = entry(Scope::All, Cause::Manual);
    assert_eq!(house.list().put(&joe, more.clone()).await, Err(Failure::Crowded { address: "joe@example.com".into() }));
    assert_eq!(house.list().put(&joe, entry(Scope::Stream("s1".into()), Cause::Manual)).await, Ok(()));
    assert_eq!(house.list().remove(&joe, Some(&Scope::Stream("s1".into())), None).await, Ok(1));
    assert_eq!(house.list().put(&joe, more).await, Ok(()));
}

#[tokio::test]
async fn many_merges_leave_few_files() {
    let house = House::new();
    for number in 0..400 {
        house.list().put(&at(&format!("u{number}@example.com")), entry(Scope::All, Cause::Import)).await.unwrap();
        house.list().merge().await.unwrap();
        let files = house.list().figures().files;
        assert!(files <= 10, "{files} files after {number}");
    }
    assert_eq!(house.files().len() as u64, house.list().figures().files);
    assert_eq!(house.list().count(&Query::default(), NOW).entries, 400);
}

#[tokio::test]
async fn what_expired_long_ago_goes_with_a_merge() {
    let house = House::new();
    let old = |days: u64| Entry {
        expires_at: Some(NOW.before(Duration::from_secs(days * 86_400))),
        ..entry(Scope::All, Cause::HardBounce)
    };
    house.list().put(&at("old@example.com"), old(500)).await.unwrap();
    house.list().put(&at("new@example.com"), old(50)).await.unwrap();
    house.list().merge().await.unwrap();
    assert_eq!(house.list().entries(&at("old@example.com")).len(), 0);
    assert_eq!(house.list().entries(&at("new@example.com")).len(), 1);
}

/// Three files of 200, 60 and 20 entries.
async fn three_files(house: &House) -> usize {
    let mut number = 0;
    for count in [200, 60, 20] {
        for _ in 0..count {
            house.list().put(&at(&format!("u{number}@example.com")), entry(Scope::All, Cause::Manual)).await.unwrap();
            number += 1;
        }
        house.list().merge().await.unwrap();
    }
    assert_eq!(house.list().figures().files, 3);
    number
}

#[tokio::test]
async fn one_changed_octet_anywhere_loses_nobody() {
    let mut house = House::new();
    let number = three_files(&house).await;
    let files = house.files();
    let mut random = fastrand::Rng::with_seed(5);
    let mut told = 0;
    for round in 0..150 {
        let path = &files[round % files.len()];
        let sound = std::fs::read(path).unwrap();
        let mut octets = sound.clone();
        // The ends too, where header, index, filter and footer stand.
        let at_octet = match round / 3 % 3 {
            0 => random.usize(0..32),
            1 => octets.len() - 1 - random.usize(0..600),
            _ => random.usize(0..octets.len()),
        };
        octets[at_octet] ^= 1 << random.u8(0..8);
        std::fs::write(path, octets).unwrap();
        house.reopen();
        let list = house.list();
        for user in 0..number {
            let address = at(&format!("u{user}@example.com"));
            let found = list.blocking(&address, MAIL, "otp", NOW);
            assert!(found.is_some(), "octet {at_octet} of {}: u{user} is not found", path.display());
        }
        let strangers = (0..1000)
            .filter(|user| list.blocking(&at(&format!("stranger{user}@example.org")), MAIL, "otp", NOW).is_some());
        assert!(strangers.count() <= 20, "octet {at_octet} of {}", path.display());
        told += u64::from(list.figures().damaged > 0);
        std::fs::write(path, sound).unwrap();
    }
    assert!(told > 20, "{told}");
}

#[tokio::test]
async fn a_damaged_block_blocks_its_addresses_until_they_are_removed_and_is_not_merged() {
    let mut house = House::new();
    three_files(&house).await;
    let path = house.files()[1].clone();
    let mut octets = std::fs::read(&path).unwrap();
    octets[200] ^= 1;
    std::fs::write(&path, octets).unwrap();
    house.reopen();
    let list = house.list();
    let lost = at("u210@example.com");
    let found = list.blocking(&lost, MAIL, "otp", NOW).unwrap();
    assert!(found.evidence.contains("is damaged on the disk (block 0 of suppression/"), "{}", found.evidence);
    assert_eq!(list.figures().damaged, 1);
    assert_eq!(list.remove(&lost, None, None).await, Ok(1));
    assert_eq!(list.blocking(&lost, MAIL, "otp", NOW), None);
    list.merge().await.unwrap();
    assert_eq!(list.blocking(&lost, MAIL, "otp", NOW), None);
    for more in 0..300 {
        list.put(&at(&format!("more{more}@example.com")), entry(Scope::All, Cause::Manual)).await.unwrap();
    }
    list.merge().await.unwrap();
    assert!(path.exists(), "what is damaged is kept");
    assert!(list.count(&Query::default(), NOW).damaged > 0, "and told by whoever looks at all");
    house.reopen();
    assert_eq!(house.list().blocking(&lost, MAIL, "otp", NOW), None);
    assert!(house.list().blocking(&at("u211@example.com"), MAIL, "otp", NOW).is_some());
}

#[tokio::test]
async fn a_file_damaged_at_both_ends_is_kept_and_told() {
    let mut house = House::new();
    three_files(&house).await;
    let path = house.files()[2].clone();
    let octets = std::fs::read(&path).unwrap();
    std::fs::write(&path, &octets[30..octets.len() - 10]).unwrap();
    house.reopen();
    assert_eq!(house.list().figures().damaged, 1);
    assert!(house.list().blocking(&at("u1@example.com"), MAIL, "otp", NOW).is_some());
    house.reopen();
    assert_eq!(house.list().figures().damaged, 1, "it is told until somebody takes it away");
    assert!(house.files().iter().any(|path| path.to_string_lossy().ends_with(".list.damaged")));
}

#[tokio::test]
async fn a_later_version_is_not_opened() {
    let mut house = House::new();
    three_files(&house).await;
    let path = house.files()[0].clone();
    let mut octets = std::fs::read(&path).unwrap();
    octets[8] = 2;
    let sum = crc32fast::hash(&octets[..20]).to_le_bytes();
    octets[20..24].copy_from_slice(&sum);
    std::fs::write(&path, octets).unwrap();
    let (spool, _) = house.open.take().unwrap();
    let disk = Arc::new(FileDisk::new(&house.directory.path().join("spool")).unwrap());
    let failure = Suppressions::open(spool.clone(), disk).err().unwrap().to_string();
    assert!(failure.ends_with("has format version 2; this Postrider reads up to 1"), "{failure}");
    spool.close();
}

#[tokio::test]
async fn an_import_holds_the_bound_of_an_address_and_says_whose() {
    let house = House::new();
    let (joe, streams) = (at("joe@example.com"), |from: usize, to: usize| (from..to).map(|n| format!("s{n}")));
    for stream in streams(0, 10) {
        house.list().put(&joe, entry(Scope::Stream(stream.into()), Cause::Manual)).await.unwrap();
    }
    // With ten of them there already, and five that are the same.
    for (from, to, want) in [(5, ENTRIES_MAX, true), (5, ENTRIES_MAX + 1, false)] {
        let mut import = house.list().import().unwrap();
        import.push(&at("other@example.com"), entry(Scope::All, Cause::Import)).await.unwrap();
        for stream in streams(from, to) {
            import.push(&joe, entry(Scope::Stream(stream.into()), Cause::Manual)).await.unwrap();
        }
        let done = import.finish(Run::Real, |_| {}).await;
        match want {
            true => assert_eq!(done.unwrap().added, 1 + (ENTRIES_MAX - 10) as u64),
            false => assert_eq!(done, Err(Failure::Crowded { address: "joe@example.com".into() })),
        }
        assert_eq!(house.list().entries(&joe).len(), ENTRIES_MAX);
    }
}

#[tokio::test]
async fn who_looks_at_the_progress_keeps_no_import_out() {
    let house = House::new();
    let (looking, list) = (Arc::new(AtomicBool::new(true)), house.list().clone());
    let goes_on = looking.clone();
    let watcher = std::thread::spawn(move || {
        while goes_on.load(Ordering::Relaxed) {
            let _ = list.import_progress();
        }
    });
    for round in 0..20_000 {
        assert_eq!(house.list().import_progress(), None);
        let import = house.list().import();
        assert!(import.is_ok(), "round {round}");
        assert_eq!(house.list().import_progress(), Some((0, 0)));
    }
    looking.store(false, Ordering::Relaxed);
    watcher.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_while_many_are_removed_stays_and_the_rest_goes_as_one() {
    let house = House::new();
    house.list().put(&at("before@example.com"), entry(Scope::All, Cause::HardBounce)).await.unwrap();
    let (list, runtime) = (house.list().clone(), tokio::runtime::Handle::current());
    house.hook(|| Ok(()));
    // All that was said before is in a file; the one that voids it is about to count.
    house.hook(move || {
        let late = at("late@example.com");
        runtime.block_on(list.put(&late, entry(Scope::All, Cause::HardBounce))).map_err(io::Error::other)
    });
    assert_eq!(house.list().remove_where(&Query::default(), Run::Real, NOW).await, Ok(1));
    assert_eq!(house.list().entries(&at("before@example.com")).len(), 0);
    assert_eq!(house.list().entries(&at("late@example.com")).len(), 1);
    // And where its file cannot be had, nothing goes.
    house.hook(|| Ok(()));
    house.hook(|| Err(io::ErrorKind::StorageFull.into()));
    assert_eq!(house.list().remove_where(&Query::default(), Run::Real, NOW).await, Err(Failure::Full));
    assert_eq!(house.list().entries(&at("late@example.com")).len(), 1);
}

#[tokio::test]
async fn a_merge_that_failed_is_tried_again_though_nothing_changes() {
    let house = House::new();
    house.list().put(&at("joe@example.com"), entry(Scope::All, Cause::Manual)).await.unwrap();
    house.hook(|| Err(io::ErrorKind::StorageFull.into()));
    assert_eq!(house.list().merge().await, Err(Failure::Full));
    house.list().tick();
    assert!(house.list().figures().failed.is_some(), "not at once");
    house.list().shared.merge_if_full(Duration::ZERO);
    // Whoever waits for the turn has it once the merge that began has ended.
    for _ in 0..1000 {
        if house.list().figures().failed.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(house.list().figures().failed, None);
}

#[tokio::test]
async fn too_many_changes_in_memory_are_not_called_a_full_disk() {
    let house = House::new();
    let list = house.list();
    {
        let mut changes = list.shared.changes_mut();
        for number in 0..CHANGES_FULL * CHANGES_OVERFULL {
            let key = key::key(&at(&format!("u{number}@example.com")), &Scope::All, Cause::Manual);
            changes.insert(key, Some(entry(Scope::All, Cause::Manual)));
        }
    }
    let put = list.put(&at("more@example.com"), entry(Scope::All, Cause::Manual)).await;
    let Err(Failure::Overfull { why }) = put else { panic!("{put:?}") };
    assert_eq!(why, "one is being written, slower than changes come");
    *lock(&list.shared.failed) = Some(("the disk under the spool is full".into(), Instant::now()));
    let failure = list.put(&at("more@example.com"), entry(Scope::All, Cause::Manual)).await.unwrap_err().to_string();
    assert!(
        failure.contains("no file has yet (the disk under the spool is full): nothing of this was kept"),
        "{failure}"
    );
    assert_eq!(list.entries(&at("more@example.com")), []);
}

#[tokio::test]
async fn what_is_decided_by_an_entry_is_decided_while_nobody_else_changes_it() {
    let house = House::new();
    let joe = at("joe@example.com");
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let (list, joe) = (house.list().clone(), joe.clone());
        tasks.spawn(async move {
            let once_more = |there: &[Entry]| {
                let before = there.first().map_or(0, |entry| entry.hits);
                (vec![Edit::Put(Entry { hits: before + 1, ..entry(Scope::All, Cause::SoftBounce) })], before)
            };
            list.change(&joe, once_more).await.unwrap()
        });
    }
    let mut seen: Vec<u32> = tasks.join_all().await;
    seen.sort_unstable();
    assert_eq!(seen, (0..64).collect::<Vec<u32>>());
    assert_eq!(house.list().entries(&joe)[0].hits, 64);
    let drop_it = |there: &[Entry]| (there.iter().map(|e| Edit::Remove(e.scope.clone(), e.cause)).collect(), ());
    house.list().change(&joe, drop_it).await.unwrap();
    assert_eq!(house.list().entries(&joe), []);
}

#[tokio::test]
async fn a_check_says_which_file_is_damaged_where_and_what_that_means() {
    let mut house = House::new();
    three_files(&house).await;
    assert_eq!(house.check(), (3, vec![]));
    let path = house.files()[0].clone();
    let sound = std::fs::read(&path).unwrap();
    let end = sound.len();
    for (octet, wants) in [
        (2, "its header is damaged; no entry is lost"),
        (60, "block 0 is damaged: the addresses from u0@example.com to "),
        (end - 72 - 8, "its filter is damaged; a start makes it anew"),
        (end - 30, "its footer is damaged, so that its blocks were not checked"),
    ] {
        let mut octets = sound.clone();
        octets[octet] ^= 1;
        std::fs::write(&path, octets).unwrap();
        let (files, lines) = house.check();
        assert_eq!((files, lines.len()), (3, 1), "{octet}: {lines:?}");
        assert!(lines[0].starts_with("suppression/") && lines[0].contains(wants), "{octet}: {lines:?}");
    }
    // The index stands between the blocks and the filter.
    let index_at = u64::from_le_bytes(sound[end - 64..end - 56].try_into().unwrap()) as usize;
    let mut octets = sound.clone();
    octets[index_at] ^= 1;
    std::fs::write(&path, octets).unwrap();
    assert!(house.check().1[0].contains("its index is damaged"), "{:?}", house.check());
    std::fs::write(&path, &sound[30..end - 10]).unwrap();
    house.reopen();
    let (files, lines) = house.check();
    assert_eq!((files, lines.len()), (2, 1));
    assert!(lines[0].contains(".list.damaged: a start could not read it at all"), "{lines:?}");
}
