//! What operators may do, and what they see.

use std::time::Duration;

use postrider::mail::{QueueId, ReversePath};
use postrider::queue::{Filter, Order, Ordered, Queue, Sender, State};
use postrider::time::Timestamp;

use super::kit::{self, Ear, lease, put, put_envelope, run, settle};

const LATER: Timestamp = Timestamp::from_secs(4_000_000_000);

#[test]
fn each_order_does_what_it_says_and_survives_a_restart() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let ear = Ear::at(&queue);
        let id = put(&queue, &["a@y.example"]).await;
        ear.heard();
        let rows = [
            (Order::Retry, Ordered::Done, "waiting", State::Ready),
            (Order::Hold, Ordered::Done, "held", State::Held),
            (Order::Hold, Ordered::Unchanged, "held", State::Held),
            (Order::Retry, Ordered::Held, "held", State::Held),
            (Order::Release, Ordered::Done, "waiting", State::Ready),
            (Order::Release, Ordered::Unchanged, "waiting", State::Ready),
        ];
        for (order, ordered, last_heard, state) in rows {
            assert_eq!(queue.order(id, order).await, ordered, "{order:?}");
            let heard = ear.heard();
            assert!(heard.last().is_none_or(|heard| *heard == (id, last_heard)), "{order:?}: {heard:?}");
            assert_eq!(queue.show(id).await.unwrap().state, state, "{order:?}");
        }
        assert_eq!(queue.order(id, Order::Hold).await, Ordered::Done);
        assert!(queue.lease(id).await.unwrap().is_none(), "a held envelope is not attempted");
        queue.close();
        drop(queue);
        let queue = kit::open(dir.path());
        assert_eq!(queue.show(id).await.unwrap().state, State::Held);
        let ear = Ear::at(&queue);
        ear.heard();
        assert_eq!(queue.order(id, Order::Delete).await, Ordered::Done);
        assert_eq!(ear.heard(), [(id, "gone")]);
        assert_eq!(queue.order(id, Order::Delete).await, Ordered::Unknown);
        assert!(queue.is_empty());
        queue.close();
    });
}

#[test]
fn what_is_being_sent_is_held_or_deleted_as_soon_as_that_ends() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let ear = Ear::at(&queue);
        // (order, what the attempt ends in; 0: a dropped lease, what the scheduler hears, what waits)
        let rows = [
            (Order::Hold, 450, Some("held"), true),
            (Order::Hold, 250, None, false),
            (Order::Hold, 0, Some("held"), true),
            (Order::Delete, 450, Some("gone"), false),
            (Order::Delete, 0, Some("gone"), false),
        ];
        for (order, code, hears, waits) in rows {
            let id = put(&queue, &["a@y.example"]).await;
            let lease = lease(&queue, id).await;
            assert_eq!(queue.order(id, order).await, Ordered::AfterAttempt);
            for other in [Order::Release, Order::Retry, Order::Bounce] {
                assert_eq!(queue.order(id, other).await, Ordered::Busy);
            }
            ear.heard();
            match code {
                0 => drop(lease),
                code => settle(&queue, lease, code, LATER).await,
            }
            if let Some(hears) = hears {
                let heard = loop {
                    let heard = ear.heard();
                    if !heard.is_empty() {
                        break heard;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                };
                assert_eq!(heard.last(), Some(&(id, hears)), "{order:?} {code}");
            }
            let shown = queue.show(id).await;
            assert_eq!(shown.map(|listed| listed.state), waits.then_some(State::Held), "{order:?} {code}");
        }
        queue.close();
    });
}

#[test]
fn a_bounced_envelope_fails_and_its_reporter_makes_the_bounce() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let id = put(&queue, &["a@y.example"]).await;
        let dsn = kit::envelope(&queue, &["sender@example.com"]);
        let dsn_id = dsn.id;
        queue.set_reporter(std::sync::Arc::new(move |_, _, after| {
            assert!(after.recipients[0].last.as_ref().unwrap().cause.to_string().contains("operator"));
            let body = bytes::Bytes::from_static(kit::BODY);
            Some(postrider::mail::Prepared { body, envelopes: vec![dsn.clone()] })
        }));
        assert_eq!(queue.order(id, Order::Bounce).await, Ordered::Done);
        assert_eq!(queue.waiting().map(|row| row.id).collect::<Vec<_>>(), [dsn_id]);
        queue.close();
    });
}

/// Six envelopes that differ in everything a filter can ask.
async fn assorted(queue: &Queue) -> Vec<QueueId> {
    let mut ids = Vec::new();
    let rows = [
        ("a@one.example", "sender@example.com", "transactional", "shop"),
        ("b@one.example", "Sender@example.com", "marketing", "shop"),
        ("c@two.example", "other@example.com", "marketing", "news"),
        ("d@two.example", "sender@example.net", "transactional", ""),
        ("e@three.example", "", "transactional", ""),
        ("f@three.example", "sender@example.com", "otp", "shop"),
    ];
    for (to, from, stream, credential) in rows {
        let mut envelope = kit::envelope(queue, &[to]);
        envelope.reverse_path = match from {
            "" => ReversePath::Null,
            from => ReversePath::Address(from.parse().unwrap()),
        };
        envelope.stream = stream.into();
        envelope.credential = credential.into();
        ids.push(put_envelope(queue, envelope).await);
    }
    let third = lease(queue, ids[2]).await;
    settle(queue, third, 450, LATER).await;
    assert_eq!(queue.order(ids[3], Order::Hold).await, Ordered::Done);
    ids
}

#[test]
fn a_filter_finds_what_it_names_and_pages_add_up() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let ids = assorted(&queue).await;
        let held_lease = lease(&queue, ids[5]).await;
        let none = Filter::default();
        let address = |text: &str| Some(Sender::Address(text.parse().unwrap()));
        let rows: Vec<(Filter, &[usize])> = vec![
            (none.clone(), &[0, 1, 2, 3, 4, 5]),
            (Filter { domain: "one.example".parse().ok(), ..none.clone() }, &[0, 1]),
            (Filter { domain: "four.example".parse().ok(), ..none.clone() }, &[]),
            (Filter { stream: Some("marketing".into()), ..none.clone() }, &[1, 2]),
            (Filter { stream: Some("no such".into()), ..none.clone() }, &[]),
            (Filter { credential: Some("shop".into()), ..none.clone() }, &[0, 1, 5]),
            (Filter { credential: Some("".into()), ..none.clone() }, &[3, 4]),
            (Filter { sender: address("SENDER@example.com"), ..none.clone() }, &[0, 1, 5]),
            (Filter { sender: "example.com".parse().ok().map(Sender::Domain), ..none.clone() }, &[0, 1, 2, 5]),
            (Filter { sender: Some(Sender::Null), ..none.clone() }, &[4]),
            (Filter { state: Some(State::Deferred), ..none.clone() }, &[2]),
            (Filter { state: Some(State::Held), ..none.clone() }, &[3]),
            (Filter { state: Some(State::Active), ..none.clone() }, &[5]),
            (Filter { state: Some(State::Ready), ..none.clone() }, &[0, 1, 4]),
            (Filter { older_than: Some(Duration::from_secs(3600)), ..none.clone() }, &[]),
            (Filter { younger_than: Some(Duration::from_secs(3600)), ..none.clone() }, &[0, 1, 2, 3, 4, 5]),
            (
                Filter {
                    stream: Some("marketing".into()),
                    state: Some(State::Deferred),
                    domain: "two.example".parse().ok(),
                    ..none.clone()
                },
                &[2],
            ),
        ];
        for (filter, want) in rows {
            let want: Vec<QueueId> = want.iter().map(|place| ids[*place]).collect();
            for limit in [1, 2, 100] {
                let (mut listed, mut named) = (Vec::new(), Vec::new());
                let mut after = QueueId::MIN;
                loop {
                    let page = queue.list(filter.clone(), after, limit).await;
                    assert!(page.rows.len() <= limit);
                    listed.extend(page.rows.iter().map(|listed| listed.waiting.id));
                    named.extend(queue.ids(filter.clone(), after, limit).await.rows);
                    let Some(next) = page.next else { break };
                    after = next;
                }
                assert_eq!(listed, want, "{filter:?} by {limit}");
                assert_eq!(named, want, "{filter:?} by {limit}");
            }
        }
        drop(held_lease);
        queue.close();
    });
}

/// What the watchman asks about, page by page.
#[test]
fn whatever_is_not_held_is_listed_once_whether_it_waits_or_is_being_sent() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let mut ids = Vec::new();
        for number in 0..5 {
            ids.push(put(&queue, &[&format!("a@d{number}.example")]).await);
        }
        let lease = lease(&queue, ids[3]).await;
        assert_eq!(queue.order(ids[1], Order::Hold).await, Ordered::Done);
        let (mut found, mut after) = (Vec::new(), QueueId::MIN);
        loop {
            let page = queue.unheld_after(after, 2);
            let Some(last) = page.last() else { break };
            after = *last;
            assert!(page.len() <= 2);
            found.extend(page);
        }
        assert_eq!(found, [ids[0], ids[2], ids[3], ids[4]]);
        assert_eq!(queue.still_unheld(ids.clone()), found);
        settle(&queue, lease, 250, Timestamp::ZERO).await;
        assert_eq!(queue.still_unheld(found), [ids[0], ids[2], ids[4]]);
        queue.close();
    });
}

#[test]
fn the_door_can_end_a_held_envelope_and_the_scheduler_hears_of_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let queue = kit::open(dir.path());
        let id = put(&queue, &["a@y.example"]).await;
        assert_eq!(queue.order(id, Order::Hold).await, Ordered::Done);
        let ear = Ear::at(&queue);
        ear.heard();
        let lease = queue.lease_for_order(id, Order::Bounce).await.unwrap();
        assert_eq!(queue.lease_for_order(id, Order::Bounce).await.err(), Some(Ordered::Busy));
        settle(&queue, lease, 550, LATER).await;
        assert_eq!(ear.heard(), [(id, "gone")]);
        assert_eq!(queue.lease_for_order(id, Order::Bounce).await.err(), Some(Ordered::Unknown));
        queue.close();
    });
}
