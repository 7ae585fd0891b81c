//! An envelope's way from put to its final state, and the lease's promises on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider::clock::Clock;
use postrider::mail::{Prepared, Progress, RecipientState};
use postrider::time::Timestamp;

use super::kit::{self, Ear, lease, put, run, settle};

const LATER: Timestamp = Timestamp::from_secs(4_000_000_000);

#[test]
fn a_message_is_put_deferred_and_delivered_and_each_step_is_seen() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let ear = Ear::at(&queue);
        let id = put(&queue, &["a@y.example", "b@y.example"]).await;
        assert_eq!(ear.heard(), [(id, "waiting")]);
        // (the answer, what is left waiting, attempts so far)
        for (code, waits, attempts) in [(450, true, 1), (421, true, 2), (250, false, 3)] {
            let lease = lease(&queue, id).await;
            assert_eq!(lease.envelope().recipients.len(), 2);
            assert_eq!(lease.progress().attempts + 1, attempts);
            assert_eq!(&queue.body(&lease).await.unwrap()[..], kit::BODY);
            settle(&queue, lease, code, LATER).await;
            let row = queue.waiting().find(|row| row.id == id);
            assert_eq!(row.is_some(), waits, "{code}");
            if let Some(row) = row {
                assert_eq!((row.attempts, row.due, &*row.source), (attempts, LATER, "a"));
            }
        }
        assert!(queue.lease(id).await.unwrap().is_none());
        assert!(queue.is_empty());
        assert_eq!(ear.heard(), [], "what a lease settles, its connection tells");
        queue.close();
    });
}

#[test]
fn what_is_told_of_a_settle_is_told_before_it_is_true() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _) = kit::open_telling(dir.path(), kit::settings(dir.path()), || {
            TOLD.fetch_add(1, Ordering::Relaxed);
        });
        let id = put(&queue, &["a@y.example"]).await;
        assert_eq!(TOLD.load(Ordering::Relaxed), 0);
        for (code, told) in [(450, 1), (250, 2)] {
            settle(&queue, lease(&queue, id).await, code, LATER).await;
            assert_eq!(TOLD.load(Ordering::Relaxed), told, "{code}");
        }
        assert!(queue.is_empty());
        queue.close();
    });
}

#[test]
fn of_many_who_want_a_lease_one_gets_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        // Once from memory, once from the disk.
        let id = put(&queue, &["a@y.example"]).await;
        for _ in 0..2 {
            let tries: Vec<_> = (0..50)
                .map(|_| {
                    let queue = queue.clone();
                    tokio::spawn(async move { queue.lease(id).await.unwrap() })
                })
                .collect();
            let mut leases = Vec::new();
            for one in tries {
                leases.extend(one.await.unwrap());
            }
            assert_eq!(leases.len(), 1);
            settle(&queue, leases.remove(0), 450, LATER).await;
        }
        queue.close();
    });
}

#[test]
fn a_lease_dropped_before_the_dot_leaves_everything_as_it_was() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let id = put(&queue, &["a@y.example"]).await;
        let ear = Ear::at(&queue);
        let before = kit::rows(&queue);
        ear.heard();
        drop(lease(&queue, id).await);
        assert_eq!(ear.heard(), [(id, "waiting")]);
        assert_eq!(kit::rows(&queue), before);
        let again = lease(&queue, id).await;
        assert_eq!(again.progress().attempts, 0);
        drop(again);
        queue.close();
    });
}

#[test]
fn a_lease_dropped_after_the_dot_is_uncertain_and_fails_at_the_fourth_time() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let reported = Arc::new(std::sync::Mutex::new(Vec::new()));
        let reports = Arc::clone(&reported);
        queue.set_reporter(Arc::new(move |_, before: &Progress, after: &Progress| {
            reports.lock().unwrap().push((before.uncertain, after.recipients[0].state));
            None
        }));
        let id = put(&queue, &["a@y.example"]).await;
        let ear = Ear::at(&queue);
        ear.heard();
        for wait in [900, 3600, 14_400].map(Duration::from_secs) {
            let mut lease = lease(&queue, id).await;
            lease.final_dot_sent();
            let began = Clock::default().now();
            drop(lease);
            let heard = heard_in_time(&ear).await;
            assert_eq!(heard, [(id, "waiting")]);
            let row = queue.waiting().next().unwrap();
            let waits = row.due.since(began);
            assert!(waits.abs_diff(wait) < Duration::from_secs(30), "{waits:?} instead of {wait:?}");
        }
        let listed = queue.show(id).await.unwrap();
        assert!(listed.uncertain);
        assert_eq!(listed.stored.unwrap().progress.uncertain, 3);
        let mut last = lease(&queue, id).await;
        last.final_dot_sent();
        drop(last);
        assert_eq!(heard_in_time(&ear).await, [(id, "gone")]);
        assert!(queue.is_empty());
        let want = [
            (0, RecipientState::Pending),
            (1, RecipientState::Pending),
            (2, RecipientState::Pending),
            (3, RecipientState::Failed),
        ];
        assert_eq!(*reported.lock().unwrap(), want);
        queue.close();
    });
}

/// What the ear hears next: the writer thread tells it.
async fn heard_in_time(ear: &Ear) -> Vec<(postrider::mail::QueueId, &'static str)> {
    loop {
        let heard = ear.heard();
        if !heard.is_empty() {
            return heard;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_bounce_goes_into_the_queue_with_the_settle_that_caused_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let id = put(&queue, &["a@y.example"]).await;
        let ear = Ear::at(&queue);
        ear.heard();
        let lease = lease(&queue, id).await;
        let dsn = kit::envelope(&queue, &["sender@example.com"]);
        let dsn_id = dsn.id;
        let prepared = Prepared { body: bytes::Bytes::from_static(kit::BODY), envelopes: vec![dsn] };
        let progress = kit::after(lease.progress(), 550, LATER);
        queue.settle(lease, progress, Some(prepared)).written().await;
        assert_eq!(queue.waiting().map(|row| row.id).collect::<Vec<_>>(), [dsn_id]);
        assert_eq!(ear.heard(), [(dsn_id, "waiting")]);
        queue.close();
    });
}

#[test]
fn ids_rise_over_restarts_even_when_nothing_waits() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut last = postrider::mail::QueueId::MIN;
        for _ in 0..3 {
            let queue = kit::open(dir.path());
            let id = put(&queue, &["a@y.example"]).await;
            assert!(id > last);
            last = id;
            let lease = lease(&queue, id).await;
            settle(&queue, lease, 250, LATER).await;
            // A clock at zero: only what is stored can keep the ids rising.
            assert!(queue.next_id(Timestamp::ZERO) > last);
            queue.close();
            drop(queue);
        }
    });
}
