//! After a restart the rows are the same, whatever became of the index.

use std::fs;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use postrider::harm::{self, Harm};
use postrider::queue::{Order, Ordered, Queue};
use postrider::store::{self, Opener, TreeKind};
use postrider::time::Timestamp;

use super::kit::{self, lease, put, run, settle};

/// Forty envelopes: some ready, some deferred, some held, some ended.
async fn fill(queue: &Queue) {
    for number in 0..40u64 {
        let id = put(queue, &[&format!("user@d{}.example", number % 7)]).await;
        match number % 4 {
            0 => {
                let lease = lease(queue, id).await;
                settle(queue, lease, 450, Timestamp::from_secs(4_000_000_000 + number)).await;
            }
            1 => {
                let lease = lease(queue, id).await;
                settle(queue, lease, 250, Timestamp::ZERO).await;
            }
            2 => assert_eq!(queue.order(id, Order::Hold).await, Ordered::Done),
            _ => (),
        }
    }
}

/// Waits until the index is in use: from then on a stop writes all of it.
async fn checkpointed(queue: &Queue) {
    while !queue.index_health().0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn the_rows_are_the_same_after_a_stop_and_after_a_kill() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        fill(&queue).await;
        checkpointed(&queue).await;
        // What comes after the last checkpoint must be there too.
        put(&queue, &["late@d1.example"]).await;
        let want = kit::rows(&queue);
        assert_eq!(want.len(), 31);
        let killed = tempfile::tempdir().unwrap();
        kit::copy(dir.path(), killed.path());
        queue.close();
        drop(queue);
        for path in [dir.path(), killed.path()] {
            for _ in 0..2 {
                let queue = kit::open(path);
                assert_eq!(kit::rows(&queue), want);
                queue.close();
                drop(queue);
            }
        }
    });
}

/// The books on this queue's spool, which says from now on when mail expires, were it this late.
fn books(queue: &Queue, dir: &Path, now: Timestamp) -> Harm {
    let harm = Harm::open(harm::Settings::default(), queue.spool().clone(), dir.join("delivered"), now);
    let asked = harm.clone();
    queue.set_respite(Arc::new(move |life| {
        asked.expiry((life.credential, life.stream, life.kind), (life.accepted_at, life.expires_at), now)
    }));
    harm
}

#[test]
fn mail_that_was_held_has_the_rest_of_its_life_after_a_kill_too() {
    const HOUR: Duration = Duration::from_secs(3600);
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let mut envelope = kit::envelope(&queue, &["a@d1.example"]);
        let accepted = envelope.id.made_at();
        envelope.expires_at = accepted.after(24 * HOUR);
        let id = kit::put_envelope(&queue, envelope).await;
        let stranger =
            postrider::mail::Envelope { credential: "other".into(), ..kit::envelope(&queue, &["b@d1.example"]) };
        let stranger = kit::put_envelope(&queue, stranger).await;
        let (held, released) = (accepted.after(HOUR), accepted.after(1000 * HOUR));
        let harm = books(&queue, dir.path(), released);
        harm.suspend("shop", "ann", held).await.unwrap();
        let killed = tempfile::tempdir().unwrap();
        kit::copy(dir.path(), killed.path());
        assert!(harm.unsuspend("shop", released).await.unwrap().is_some());
        let resumed = tempfile::tempdir().unwrap();
        kit::copy(dir.path(), resumed.path());
        queue.close();
        drop((queue, harm));
        // While it was held, it had as much left as when that began; and so it has afterwards.
        for dir in [&killed, &resumed] {
            let queue = kit::open(dir.path());
            books(&queue, dir.path(), released);
            let seconds = |at: Timestamp| at.as_millis().div_ceil(1000);
            let want = released.after(23 * HOUR);
            assert_eq!(seconds(queue.waiting_one(id).unwrap().expires_at), seconds(want));
            assert_eq!(lease(&queue, id).await.envelope().expires_at, want);
            let theirs = lease(&queue, stranger).await.envelope().expires_at;
            assert!(theirs < accepted.after(200 * HOUR), "others grow older");
            queue.close();
        }
    });
}

#[test]
fn a_clean_index_saves_reading_the_log() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        fill(&queue).await;
        checkpointed(&queue).await;
        queue.close();
        drop(queue);
        let (queue, report) = kit::open_with(dir.path(), kit::settings(dir.path()));
        assert!(report.last.0 - report.applied_from.0 <= 1, "nothing was left to replay but the note of the stop");
        queue.close();
    });
}

#[test]
fn an_index_that_is_gone_cut_or_garbage_costs_nothing_but_time() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        fill(&queue).await;
        checkpointed(&queue).await;
        let want = kit::rows(&queue);
        queue.close();
        drop(queue);
        for round in 0..24u64 {
            let copy = tempfile::tempdir().unwrap();
            kit::copy(dir.path(), copy.path());
            damage(&copy.path().join("index"), round);
            let queue = kit::open(copy.path());
            assert_eq!(kit::rows(&queue), want, "round {round}");
            // And it is used again: the next start believes it.
            checkpointed(&queue).await;
            queue.close();
            drop(queue);
            let (queue, report) = kit::open_with(copy.path(), kit::settings(copy.path()));
            assert_eq!(kit::rows(&queue), want, "round {round}");
            assert!(report.last.0 - report.applied_from.0 <= 1, "round {round}: {report:?}");
            queue.close();
        }
    });
}

fn damage(index: &Path, round: u64) {
    let mut random = fastrand::Rng::with_seed(round);
    if round == 0 {
        return fs::remove_dir_all(index).unwrap();
    }
    let inner = fs::read_dir(index).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut files: Vec<_> = files.collect();
    files.sort();
    let victim = &files[random.usize(..files.len())];
    let mut bytes = fs::read(victim).unwrap();
    match round % 4 {
        0 => fs::remove_file(victim).unwrap(),
        1 => {
            bytes.truncate(random.usize(..bytes.len().max(1)));
            fs::write(victim, bytes).unwrap();
        }
        2 => fs::write(victim, (0..bytes.len()).map(|_| random.u8(..)).collect::<Vec<u8>>()).unwrap(),
        _ => fs::write(inner.join("snap.0000000000000001.generating"), b"half").unwrap(),
    }
}

#[test]
fn an_index_of_another_spool_is_not_believed() {
    run(async {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            let queue = kit::open(dir.path());
            fill(&queue).await;
            checkpointed(&queue).await;
            queue.close();
        }
        fs::remove_dir_all(one.path().join("index")).unwrap();
        kit::copy(&two.path().join("index"), &one.path().join("index"));
        let queue = kit::open(two.path());
        let foreign = kit::rows(&queue);
        queue.close();
        let queue = kit::open(one.path());
        let own = kit::rows(&queue);
        assert_eq!(own.len(), 30);
        assert!(own.iter().all(|row| !foreign.contains(row)));
        queue.close();
    });
}

#[test]
fn an_index_that_hangs_stops_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (let_go, hang) = mpsc::channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        let tree = TreeKind(Arc::new(move |_| {
            let hang = Arc::clone(&hang);
            let opener: Opener = Box::new(move |_| {
                let _ = hang.lock().unwrap().recv();
                Err("woken at last".to_owned())
            });
            opener
        }));
        let mut settings = kit::settings(dir.path());
        settings.store = store::Settings {
            tree,
            deadline: Duration::from_millis(50),
            open_deadline: Duration::from_millis(50),
            ..store::Settings::default()
        };
        settings.close_within = Duration::from_millis(500);
        let (queue, _) = kit::open_with(dir.path(), settings.clone());
        fill(&queue).await;
        let want = kit::rows(&queue);
        queue.close();
        drop(queue);
        let (queue, _) = kit::open_with(dir.path(), settings);
        assert_eq!(kit::rows(&queue), want);
        queue.close();
        drop(let_go);
    });
}
