//! One recipient among many: found, in a time that is printed.
//!
//! `POSTRIDER_HISTORY_ROWS=3000000 cargo test --test it a_search_among -- --nocapture` is the measurement of
//! `docs/HISTORY.md`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::history::{Accepted, Attempt, Fact, History, Outcome, Question, Settings, trace};
use postrider::mail::{QueueId, Text};
use postrider::time::Timestamp;

use crate::harness::count;

const ROWS_SHORT: u32 = 60_000;
/// A message has three rows: accepted, attempt, outcome.
const ROWS_EACH: u64 = 3;

fn tell(history: &History, number: u64) {
    let id = QueueId::from_u64(((1_795_255_200_000 + number / 1000) << 21) + number % 1000);
    let recipient = Text::from(format!("person{number}@domain{}.example", number % 5000));
    history.tell(Fact::Accepted(Accepted {
        queue_id: id,
        submission: id,
        recipient: recipient.clone(),
        from: "bounces@shop.example".into(),
        message_id: format!("{number}.7f3a@shop.example").into(),
        credential: "shop".into(),
        stream: "transactional".into(),
        client: "192.0.2.7:40000".into(),
        size_bytes: 20_000 + number % 1000,
    }));
    history.tell(Fact::Attempt(Attempt {
        queue_id: id,
        connection: number % 64,
        source: "a".into(),
        site: format!("mx{}.example", number % 300).into(),
        domain: format!("domain{}.example", number % 5000).into(),
        host: format!("mx{}.example", number % 300).into(),
        address: format!("198.51.100.{}", number % 250).into(),
        mail_ms: 1_795_255_200_000 + number,
        done_ms: 1_795_255_200_080 + number,
        recipients: 1,
        delivered: 1,
        result: "delivered".into(),
    }));
    history.tell(Fact::Outcome(Outcome {
        queue_id: id,
        recipient,
        fate: "delivered".into(),
        attempt: 1,
        stage: "dot".into(),
        status: "2.0.0".into(),
        reply: format!("250 2.0.0 OK queued as {number:016x}").into(),
        host: format!("mx{}.example", number % 300).into(),
        address: format!("198.51.100.{}", number % 250).into(),
        ..Outcome::default()
    }));
}

#[test]
fn is_exact_and_its_time_is_printed() {
    let messages = u64::from(count("POSTRIDER_HISTORY_ROWS", ROWS_SHORT)) / ROWS_EACH;
    let dir = tempfile::tempdir().unwrap();
    let settings =
        Settings { directory: dir.path().to_owned(), keep: Duration::from_secs(86_400), keep_events: Duration::ZERO };
    let now = || Timestamp::from_millis(1_795_255_200_000);
    let history = History::open(settings, (Arc::new(now), Arc::new(now)), true).unwrap();
    let began = Instant::now();
    for number in 0..messages {
        tell(&history, number);
        if number % 20_000 == 0 {
            // The buffer is for a relay's pace, not for this.
            history.flush();
        }
    }
    history.flush();
    let told = began.elapsed();
    assert_eq!(history.snapshot().history_lost, 0);
    let search = |number: u64| {
        let what = format!("person{number}@domain{}.example", number % 5000);
        let question = Question { what, since: Timestamp::ZERO, until: Timestamp::NEVER };
        let began = Instant::now();
        let answer = trace(dir.path(), &question).unwrap();
        assert_eq!(answer.rows.len() as u64, ROWS_EACH, "{:?}", answer.rows);
        began.elapsed()
    };
    let places = [0, messages / 3, messages / 2, messages - 1];
    let open_day = places.map(search).into_iter().max().unwrap();
    history.close();
    let closed_day = places.map(search).into_iter().max().unwrap();
    let sizes = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
    let sizes: Vec<String> = sizes
        .map(|entry| format!("{} {} MiB", entry.file_name().display(), entry.metadata().unwrap().len() >> 20))
        .collect();
    println!(
        "{} rows told in {told:.1?}; the slowest of four searches: {open_day:.1?} while the day is open, {closed_day:.1?} after; \
         {}",
        messages * ROWS_EACH,
        sizes.join(", ")
    );
}
