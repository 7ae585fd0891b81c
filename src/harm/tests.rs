//! What a kill tears and a restart keeps; who is held by a pause.

use super::*;
use crate::evidence::Means;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

#[test]
fn deliveries_outlive_the_process_and_what_a_kill_tears() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("delivered");
    let deliveries = Mutex::new(Deliveries::open(path.clone(), 1 << 20));
    for number in 0..1000 {
        lock(&deliveries).mark(&format!("a{number}@example.com"), NOW);
    }
    deliveries::write(&deliveries);
    lock(&deliveries).mark("lost@example.com", NOW);
    drop(deliveries);
    // The kill came in the middle of a mark.
    let log = path.join("log");
    let mut bytes = std::fs::read(&log).unwrap();
    assert_eq!(bytes.len(), 9000);
    bytes.truncate(8996);
    std::fs::write(&log, &bytes).unwrap();
    let again = Mutex::new(Deliveries::open(path.clone(), 1 << 20));
    let known = (0..1000).filter(|n| lock(&again).knows(&format!("a{n}@example.com"), Means::Reply, NOW)).count();
    assert_eq!(known, 999);
    assert!(!lock(&again).knows("lost@example.com", Means::Reply, NOW), "what was not written yet");
    lock(&again).mark("late@example.com", NOW);
    deliveries::write(&again);
    drop(again);
    let third = Deliveries::open(path.clone(), 1 << 20);
    assert!(third.knows("late@example.com", Means::Reply, NOW) && third.knows("a5@example.com", Means::Reply, NOW));
    // A damaged table is begun anew, with its log.
    std::fs::write(path.join("table"), b"rubbish").unwrap();
    let fourth = Mutex::new(Deliveries::open(path.clone(), 1 << 20));
    assert!(!lock(&fourth).knows("a5@example.com", Means::Reply, NOW));
    lock(&fourth).mark("a5@example.com", NOW);
    deliveries::write(&fourth);
    drop(fourth);
    assert!(Deliveries::open(path, 1 << 20).knows("a5@example.com", Means::Reply, NOW));
}

#[test]
fn a_long_log_becomes_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let deliveries = Mutex::new(Deliveries::open(dir.path().to_owned(), 1 << 20));
    for number in 0..130_000 {
        lock(&deliveries).mark(&format!("a{number}@example.com"), NOW);
    }
    deliveries::write(&deliveries);
    assert_eq!(std::fs::metadata(dir.path().join("log")).unwrap().len(), 0);
    drop(deliveries);
    let again = Deliveries::open(dir.path().to_owned(), 1 << 20);
    assert!((0..130_000).filter(|n| again.knows(&format!("a{n}@example.com"), Means::Reply, NOW)).count() > 129_900);
}

#[tokio::test]
async fn a_pause_holds_its_sender_alone_until_it_is_resumed() {
    let harm = Harm::default();
    let mut changes = harm.changes();
    let mail = Mail {
        stream: "news",
        kind: StreamKind::Marketing,
        credential: "shop",
        source: "",
        domain: "",
        provider: "yahoo",
    };
    for _ in 0..300 {
        let steps = harm.count(&mail, Became::Bounced { stranger: false }, NOW);
        harm.write(&steps).await;
    }
    assert!(harm.holds("shop", "news", StreamKind::Marketing));
    assert!(!harm.holds("shop", "orders", StreamKind::Transactional));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(harm.take_affected(), [Affected::Sender(Sender::new("shop", "news"))]);
    assert!(harm.why_held("shop", "news", StreamKind::Marketing).unwrap().contains("100.00 % of 200"));
    let sender = Sender::new("shop", "news");
    harm.resume(&sender, NOW).await.unwrap();
    assert!(harm.resume(&sender, NOW).await.is_err() && !harm.holds("shop", "news", StreamKind::Marketing));
    harm.suspend("shop", "root\n", NOW).await.unwrap();
    assert!(harm.is_suspended("shop") && harm.holds("shop", "orders", StreamKind::Transactional));
    assert!(harm.why_held("shop", "orders", StreamKind::Transactional).unwrap().contains("by root"));
    assert!(
        harm.unsuspend("shop", NOW).await.unwrap().is_some() && harm.unsuspend("shop", NOW).await.unwrap().is_none()
    );
    let circumstances = harm.circumstances(&address("a@b.example"), "google", Means::Reply, NOW);
    assert_eq!(circumstances, Circumstances::default());
    harm.delivered(&address("A@b.example"), NOW);
    assert!(harm.circumstances(&address("a@B.example"), "google", Means::Reply, NOW).delivered_lately);
}
