//! Tags, scheduled mail and other pools: found, held, let go and moved, over restarts too.

use std::time::Duration;

use postrider::mail::{Marks, QueueId};
use postrider::queue::{Filter, Order, Ordered, Queue, State};
use postrider::time::Timestamp;

use super::kit::{self, Ear, lease, put, put_envelope, run, settle};

const LATER: Timestamp = Timestamp::from_secs(4_000_000_000);

fn tagged(filter: &str) -> Filter {
    Filter { tag: Some(filter.to_owned()), ..Filter::default() }
}

async fn ids(queue: &Queue, filter: Filter) -> Vec<QueueId> {
    queue.ids(filter, QueueId::MIN, 1000).await.rows
}

#[test]
fn the_wrong_newsletter_is_found_by_its_tag_and_nothing_else_is() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let mut wanted = Vec::new();
        for n in 0..30 {
            let mut envelope = kit::envelope(&queue, &[&format!("a@d{n}.example")]);
            envelope.marks = Marks {
                tags: match n % 3 {
                    0 => vec!["spring-sale".into(), "de".into()],
                    1 => vec!["spring".into()],
                    _ => Vec::new(),
                },
                ..Marks::default()
            };
            let id = put_envelope(&queue, envelope).await;
            wanted.extend((n % 3 == 0).then_some(id));
        }
        assert_eq!(ids(&queue, tagged("spring-sale")).await, wanted);
        assert_eq!(ids(&queue, tagged("Spring-Sale")).await, [], "a tag is as it was given");
        let both = Filter { domain: "d3.example".parse().ok(), ..tagged("de") };
        assert_eq!(ids(&queue, both).await, [wanted[1]]);
        // A settle, a restart with the index, and one without it change nothing.
        let first = lease(&queue, wanted[0]).await;
        settle(&queue, first, 450, LATER).await;
        queue.close();
        drop(queue);
        for index in [true, false] {
            if !index {
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            let queue = kit::open(dir.path());
            assert_eq!(ids(&queue, tagged("spring-sale")).await, wanted, "with the index: {index}");
            let listed = queue.list(tagged("de"), QueueId::MIN, 5).await;
            assert!(listed.rows.iter().all(|row| &*row.stored.as_ref().unwrap().envelope.marks.tags[1] == "de"));
            queue.close();
        }
    });
}

#[test]
fn a_filter_by_site_takes_the_domains_that_the_scheduler_named() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let mut all = Vec::new();
        for to in ["a@one.example", "a@two.example", "a@three.example"] {
            all.push(put(&queue, &[to]).await);
        }
        let of = |names: &[&str]| Filter {
            domains: Some(names.iter().map(|name| name.parse().unwrap()).collect()),
            ..Filter::default()
        };
        assert_eq!(ids(&queue, of(&["one.example", "three.example", "other.example"])).await, [all[0], all[2]]);
        assert_eq!(ids(&queue, of(&["other.example"])).await, []);
        assert_eq!(ids(&queue, of(&[])).await, []);
        queue.close();
    });
}

#[test]
fn a_scheduled_envelope_waits_until_its_time_or_an_operator_lets_it_go() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let ear = Ear::at(&queue);
        let mut scheduled = Vec::new();
        for n in 0..4 {
            let mut envelope = kit::envelope(&queue, &[&format!("a@d{n}.example")]);
            envelope.release_at = envelope.accepted_at.after(Duration::from_secs(86_400));
            envelope.expires_at = envelope.release_at.after(Duration::from_secs(900));
            scheduled.push(put_envelope(&queue, envelope).await);
        }
        let plain = put(&queue, &["b@plain.example"]).await;
        let state = async |queue: &Queue, id| queue.show(id).await.unwrap().state;
        let only = |state| Filter { state: Some(state), ..Filter::default() };
        assert_eq!(ids(&queue, only(State::Scheduled)).await, scheduled);
        assert_eq!(ids(&queue, only(State::Deferred)).await, []);
        let row = queue.waiting().next().unwrap();
        assert!(row.due > row.id.made_at().after(Duration::from_secs(86_000)), "not due before");
        queue.close();
        drop(queue);
        let queue = kit::open(dir.path());
        assert_eq!(ids(&queue, only(State::Scheduled)).await, scheduled, "over a restart too");
        ear.heard();

        assert_eq!(queue.order(scheduled[0], Order::Retry).await, Ordered::Done);
        assert_eq!(queue.order(scheduled[1], Order::Release).await, Ordered::Done);
        assert_eq!(queue.order(scheduled[1], Order::Release).await, Ordered::Unchanged);
        for id in &scheduled[..2] {
            assert_eq!(state(&queue, *id).await, State::Ready);
        }
        // A hold comes off first; what was scheduled still is.
        assert_eq!(queue.order(scheduled[2], Order::Hold).await, Ordered::Done);
        assert_eq!(state(&queue, scheduled[2]).await, State::Held);
        assert_eq!(queue.order(scheduled[2], Order::Release).await, Ordered::Done);
        assert_eq!(state(&queue, scheduled[2]).await, State::Scheduled);
        assert_eq!(queue.order(scheduled[2], Order::Release).await, Ordered::Done);
        assert_eq!(state(&queue, scheduled[2]).await, State::Ready);
        // Once tried it is deferred like any other.
        let tried = lease(&queue, scheduled[0]).await;
        settle(&queue, tried, 450, LATER).await;
        assert_eq!(state(&queue, scheduled[0]).await, State::Deferred);
        assert_eq!(queue.order(scheduled[0], Order::Release).await, Ordered::Unchanged);
        assert_eq!(queue.order(plain, Order::Release).await, Ordered::Unchanged);
        assert_eq!(ids(&queue, only(State::Scheduled)).await, [scheduled[3]]);
        queue.close();
    });
}

#[test]
fn a_rerouted_envelope_stays_with_its_new_pool_and_leaves_its_old_source() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let id = put(&queue, &["a@y.example"]).await;
        let own = queue.waiting().next().unwrap().pool.to_string();
        let pool = |queue: &Queue| {
            let row = queue.waiting().next().unwrap();
            (row.pool.to_string(), row.source.to_string())
        };
        // Greylisted: it would keep its source.
        let first = lease(&queue, id).await;
        settle(&queue, first, 450, Timestamp::ZERO).await;
        assert_eq!(pool(&queue), (own.clone(), "a".to_owned()));
        assert_eq!(queue.reroute(id, &own).await, Ordered::Unchanged);
        let ear = Ear::at(&queue);
        ear.heard();
        assert_eq!(queue.reroute(id, "bulk").await, Ordered::Done);
        assert_eq!(ear.heard(), [(id, "waiting")], "the scheduler hears of it");
        assert_eq!(pool(&queue), ("bulk".to_owned(), String::new()));
        assert_eq!(queue.reroute(id, "bulk").await, Ordered::Unchanged);
        // An attempt, a hold and a restart keep it.
        let second = lease(&queue, id).await;
        assert_eq!(queue.reroute(id, "other").await, Ordered::Busy);
        settle(&queue, second, 450, Timestamp::ZERO).await;
        assert_eq!(queue.order(id, Order::Hold).await, Ordered::Done);
        queue.close();
        drop(queue);
        for index in [true, false] {
            if !index {
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            let queue = kit::open(dir.path());
            assert_eq!(pool(&queue).0, "bulk", "with the index: {index}");
            queue.close();
        }
        let queue = kit::open(dir.path());
        assert_eq!(queue.reroute(id, &own).await, Ordered::Done, "a held one too, and back");
        assert_eq!(pool(&queue).0, own);
        assert_eq!(queue.show(id).await.unwrap().state, State::Held);
        assert_eq!(queue.reroute(QueueId::from_u64(1), "bulk").await, Ordered::Unknown);
        queue.close();
    });
}
