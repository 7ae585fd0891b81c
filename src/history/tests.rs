//! The files: what is told is found, whatever a crash, a flipped bit or a full disk leaves of them.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::block::{self, Builder, HEADER_LENGTH};
use super::day::{DAY_MS, Day, Scan, marker_of};
use super::*;
use crate::mail::{QueueId, Text};

const START_MS: u64 = 1_795_255_200_000;

fn settings(directory: &Path) -> Settings {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    Settings { directory: directory.to_owned(), keep: days(3), keep_events: days(1) }
}

/// A history on a clock that the test moves.
fn open(directory: &Path) -> (History, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(START_MS));
    let shown = time.clone();
    let now: Clock = Arc::new(move || Timestamp::from_millis(shown.load(Ordering::Relaxed)));
    (History::open(settings(directory), (now.clone(), now), true).unwrap(), time)
}

fn accepted(number: u64) -> Fact {
    let id = QueueId::from_u64(START_MS << 21 | number);
    Fact::Accepted(Accepted {
        queue_id: id,
        submission: id,
        recipient: format!("Person{number}@x{}.example", number % 50).into(),
        from: "shop@y.example".into(),
        message_id: format!("m{number}@y.example").into(),
        stream: "transactional".into(),
        size_bytes: number,
        ..Accepted::default()
    })
}

fn attempt(number: u64) -> Fact {
    Fact::Attempt(Attempt {
        queue_id: QueueId::from_u64(START_MS << 21 | number),
        connection: 1,
        source: "a".into(),
        site: "mx.example".into(),
        recipients: 1,
        result: "delivered".into(),
        ..Attempt::default()
    })
}

fn found(directory: &Path, what: &str) -> Answer {
    let question = Question { what: what.to_owned(), since: Timestamp::ZERO, until: Timestamp::NEVER };
    trace(directory, &question).unwrap()
}

fn numbers(answer: &Answer) -> Vec<u64> {
    answer.rows.iter().filter_map(|row| row.fact.queue_id()).map(|id| id.as_u64() & 0x1f_ffff).collect()
}

#[test]
fn what_was_told_is_found_by_address_id_and_message_id_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = open(dir.path());
    for number in 0..5000 {
        history.tell(accepted(number));
        history.tell(attempt(number));
    }
    history.flush();
    let check = || {
        let id = QueueId::from_u64(START_MS << 21 | 4321).to_string();
        for what in ["person4321@X21.example", "<m4321@y.example>", "m4321@y.example", &id] {
            assert_eq!(numbers(&found(dir.path(), what)), [4321, 4321], "{what}");
        }
        assert_eq!(numbers(&found(dir.path(), "nobody@x.example")), Vec::<u64>::new());
    };
    check();
    history.close();
    check();
    let (again, _) = open(dir.path());
    assert_eq!(again.snapshot().history_damaged, 0);
    check();
    again.close();
    assert_eq!(history.snapshot().history_lost, 0);
}

#[test]
fn days_have_files_of_their_own_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let (history, time) = open(dir.path());
    for day in 0..6u64 {
        time.store(START_MS + day * DAY_MS, Ordering::Relaxed);
        history.tell(accepted(day));
        history.tell(attempt(day));
        history.flush();
    }
    history.close();
    let mut names: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let days = |days: &[u64], extension: &str| -> Vec<String> {
        days.iter().map(|day| format!("2026-11-{day}.{extension}")).collect()
    };
    let mut want = days(&[23, 24, 25, 26], "log");
    want.extend(days(&[23, 24, 25, 26], "idx"));
    want.extend(days(&[25, 26], "events"));
    want.sort();
    assert_eq!(names, want);
    assert_eq!(numbers(&found(dir.path(), "person3@x3.example")), [3, 3]);
    assert_eq!(numbers(&found(dir.path(), "person1@x1.example")), Vec::<u64>::new());
    let question = |since, until| Question {
        what: "person3@x3.example".into(),
        since: Timestamp::from_millis(since),
        until: Timestamp::from_millis(until),
    };
    let at = START_MS + 3 * DAY_MS;
    for (since, until, want) in [(at, at, 2), (at + 1, u64::MAX, 0), (0, at - 1, 0)] {
        assert_eq!(trace(dir.path(), &question(since, until)).unwrap().rows.len(), want);
    }
}

#[test]
fn a_name_is_a_day_and_a_day_a_name() {
    for (day, name) in [(0, "1970-01-01"), (11_016, "2000-02-29"), (20_778, "2026-11-21"), (24_837, "2038-01-01")] {
        let path = Day(day).path(Path::new("/h"), "log");
        assert_eq!(path, Path::new("/h").join(format!("{name}.log")));
        assert_eq!(Day::of_path(&path), Some((Day(day), "log")));
    }
    for other in
        ["/h/2026-11-21.log.damaged", "/h/x.log", "/h/2026-13-01.log", "/h/2026-11-21.txt", "/h/-026-11-21.log"]
    {
        assert_eq!(Day::of_path(Path::new(other)), None, "{other}");
    }
}

#[test]
fn a_torn_tail_is_cut_and_damage_in_the_middle_costs_its_block_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = open(dir.path());
    for number in 0..30 {
        history.tell(accepted(number));
        history.flush();
    }
    history.close();
    let log = Day(START_MS / DAY_MS).path(dir.path(), "log");
    // The index would vouch for what is damaged: as after a crash, there is none.
    std::fs::remove_file(log.with_extension("idx")).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let whole = file.metadata().unwrap().len();
    let marker = marker_of(&file).unwrap().unwrap();
    let mut scan = Scan::new(file.try_clone().unwrap(), marker, 0, whole);
    let mut offsets = Vec::new();
    while let Some((offset, _)) = scan.next_block().unwrap() {
        offsets.push(offset);
    }
    assert!(offsets.len() >= 30, "{}", offsets.len());
    // One block's body, another's header, and a torn last one.
    file.write_all_at(b"\xff", offsets[10] + HEADER_LENGTH as u64 + 5).unwrap();
    file.write_all_at(b"\xff", offsets[20] + 9).unwrap();
    let last = *offsets.last().unwrap();
    file.set_len(whole - 3).unwrap();
    let (again, _) = open(dir.path());
    assert_eq!(again.snapshot().history_damaged, 2);
    again.close();
    let found_numbers: Vec<u64> =
        (0..30).filter(|n| !found(dir.path(), &format!("m{n}@y.example")).rows.is_empty()).collect();
    assert_eq!(found_numbers.len(), 27, "{found_numbers:?}");
    // The next run goes on where the torn block began.
    let mut scan = Scan::new(file.try_clone().unwrap(), marker, last, file.metadata().unwrap().len());
    assert!(scan.block_at(last).unwrap().is_some());
}

#[test]
fn a_damaged_index_is_read_past() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = open(dir.path());
    (0..2000).for_each(|number| history.tell(accepted(number)));
    history.close();
    let index = Day(START_MS / DAY_MS).path(dir.path(), "idx");
    let whole = std::fs::read(&index).unwrap();
    // Head, table and entries in turn, and a length that is no whole run's.
    for place in [3, 100, whole.len() / 2, whole.len() - 9] {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        std::fs::write(&index, &damaged).unwrap();
        for number in (0..2000).step_by(97) {
            let what = format!("m{number}@y.example");
            assert_eq!(numbers(&found(dir.path(), &what)), [number], "{place}");
        }
    }
    std::fs::write(&index, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(numbers(&found(dir.path(), "m77@y.example")), [77]);
}

#[test]
fn at_overload_rows_are_dropped_counted_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = open(dir.path());
    history.flush();
    let mut told = 0;
    while history.snapshot().history_lost == 0 {
        // As if so much waited; the thread may take it in between, and then it is tried again.
        history.shared.as_ref().unwrap().waiting().weight = WAITING_MAX + 1;
        history.tell(attempt(told));
        told += 1;
    }
    history.flush();
    history.tell(attempt(told));
    history.close();
    assert_eq!(history.snapshot().history_lost, 1);
    // The start, what was told, and the row that says what was lost, in place of it.
    assert_eq!(history.snapshot().history_rows, 1 + told + 1);
    let text = std::fs::read_to_string(Day(START_MS / DAY_MS).path(dir.path(), "events")).unwrap();
    assert_eq!(text.matches(r#""event":"lost","rows":1}"#).count(), 1, "{text}");
}

#[test]
fn event_lines_are_whole_json_objects_with_stable_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = open(dir.path());
    history.tell(attempt(1));
    history.tell(accepted(1));
    history.close();
    let events = Day(START_MS / DAY_MS).path(dir.path(), "events");
    // A crash tore a line: the next run ends it.
    let mut torn = std::fs::read(&events).unwrap();
    torn.extend_from_slice(b"{\"time\":");
    std::fs::write(&events, torn).unwrap();
    open(dir.path()).0.close();
    let text = std::fs::read_to_string(&events).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(
        lines[1],
        r#"{"time":"2026-11-21T10:00:00.000Z","at_ms":1795255200000,"event":"attempt","queue_id":"Q","connection":1,"source":"a","site":"mx.example","domain":"","host":"","address":"","mail_ms":0,"done_ms":0,"recipients":1,"delivered":0,"result":"delivered"}"#
            .replace("\"Q\"", &format!("\"{}\"", QueueId::from_u64(START_MS << 21 | 1)))
    );
    let read: Row = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(read.fact, attempt(1));
    assert!(lines[3].contains(r#""event":"started","version":"#), "{text}");
}

fn came_back(report: u64, recipient: &str, effect: &str) -> Fact {
    Fact::CameBack(CameBack {
        queue_id: QueueId::from_u64(START_MS << 21 | 1),
        report: QueueId::from_u64(report),
        recipient: recipient.into(),
        kind: "bounce".into(),
        effect: effect.into(),
        token: "valid".into(),
        ..CameBack::default()
    })
}

#[test]
fn reports_are_found_by_number_and_by_what_they_did_the_newest_first_over_days() {
    let directory = tempfile::tempdir().unwrap();
    let (history, time) = open(directory.path());
    for report in 1..=6u64 {
        // A block goes to the day of its last row.
        history.flush();
        time.store(START_MS + report / 3 * DAY_MS, Ordering::Relaxed);
        history.tell(accepted(report));
        history.tell(came_back(report, "Ann@x.example", if report == 2 { "known" } else { "suppressed" }));
        history.tell(came_back(report, "bob@x.example", "nothing"));
        if report % 2 == 0 {
            let (spf, dkim) = ("pass x.example".into(), "none".into());
            history.tell(Fact::Authenticated(Authenticated { report: QueueId::from_u64(report), spf, dkim }));
        }
    }
    history.flush();
    let all = ReportQuestion {
        id: None,
        since: Timestamp::ZERO,
        until: Timestamp::NEVER,
        kind: None,
        effect: None,
        recipient: None,
        limit: 100,
    };
    let ask = |question: &ReportQuestion| {
        let found = reports(directory.path(), question).unwrap();
        let number = |report: &Report| report.id.parse::<QueueId>().unwrap().as_u64();
        (found.reports.iter().map(number).collect::<Vec<_>>(), found.cut)
    };
    assert_eq!(ask(&all), (vec![1, 2, 3, 4, 5, 6], false));
    assert_eq!(ask(&ReportQuestion { limit: 3, ..all.clone() }), (vec![4, 5, 6], true));
    assert_eq!(ask(&ReportQuestion { effect: Some("known".into()), ..all.clone() }), (vec![2], false));
    assert_eq!(
        ask(&ReportQuestion { recipient: Some("BOB@x.example".into()), limit: 1, ..all.clone() }),
        (vec![6], true)
    );
    assert_eq!(ask(&ReportQuestion { kind: Some("complaint".into()), ..all.clone() }), (vec![], false));
    let until = Timestamp::from_millis(START_MS + 1);
    assert_eq!(ask(&ReportQuestion { until, ..all.clone() }), (vec![1, 2], false));
    let one = ReportQuestion { id: Some(QueueId::from_u64(2)), ..all.clone() };
    let one = reports(directory.path(), &one).unwrap().reports.remove(0);
    assert_eq!(
        (one.recipients.len(), one.spf.as_deref(), one.dkim.as_deref()),
        (2, Some("pass x.example"), Some("none"))
    );
    let ask_unknown = ReportQuestion { id: Some(QueueId::from_u64(77)), ..all };
    assert_eq!(ask(&ask_unknown), (vec![], false));
    // A report with no message of ours is about no envelope.
    assert_eq!(Fact::CameBack(CameBack::default()).queue_id(), None);
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let text = "[a-zé\u{1F600} ]{0,40}";
    let id = any::<u64>().prop_map(QueueId::from_u64);
    (1..=13u8, proptest::collection::vec(text, 10), proptest::collection::vec(any::<u64>(), 5), id).prop_map(
        |(kind, texts, numbers, id)| {
            let mut fact = Fact::of_kind(kind).unwrap();
            let mut fill = Fill { texts: texts.into_iter(), numbers: numbers.into_iter(), id };
            fact.fields(&mut fill).unwrap();
            fact
        },
    )
}

struct Fill<T, N> {
    texts: T,
    numbers: N,
    id: QueueId,
}

impl<T: Iterator<Item = String>, N: Iterator<Item = u64>> row::Fields for Fill<T, N> {
    fn number(&mut self, number: &mut u64) -> Option<()> {
        *number = self.numbers.next().unwrap_or(7);
        Some(())
    }
    fn word(&mut self, word: &mut Text) -> Option<()> {
        *word = self.texts.next().unwrap_or_default().into();
        Some(())
    }
    fn text(&mut self, text: &mut Text) -> Option<()> {
        self.word(text)
    }
    fn id(&mut self, id: &mut QueueId) -> Option<()> {
        *id = self.id;
        Some(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_block_is_read_as_it_was_written_or_not_at_all(
        facts in proptest::collection::vec((any_fact(), any::<u64>()), 1..40),
        flipped in any::<(usize, u8)>(),
        marker in any::<u64>(),
    ) {
        let mut builder = Builder::default();
        let mut rows: Vec<Row> =
            facts.into_iter().map(|(fact, at)| Row { at: Timestamp::from_millis(at), fact }).collect();
        rows.iter_mut().for_each(|row| builder.push(row));
        let mut bytes = builder.sealed(marker);
        prop_assert_eq!(block::rows(&bytes, marker), Some(rows.clone()));
        prop_assert_eq!(block::rows(&bytes, marker ^ 1), None);
        prop_assert_eq!(block::rows(&bytes[..bytes.len() - 1], marker), None);
        for row in &rows {
            let json = serde_json::to_string(row).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Row>(&json).unwrap(), row);
        }
        let place = flipped.0 % bytes.len();
        bytes[place] ^= flipped.1.max(1);
        prop_assert_eq!(block::rows(&bytes, marker), None);
    }
}
