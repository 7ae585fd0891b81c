//! A labelled set of messages that came back, kept apart from the reader's own samples: what each is, whom it speaks of, in
//! which class, and who would be suppressed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use postrider::classify::{Class, Observation, Rules};
use postrider::report::{self, Fate, Kind, Reading};

/// Where the messages and their labels are.
const SET: &str = "tests/reports";
#[derive(serde::Deserialize)]
struct Labelled {
    file: String,
    kind: String,
    recipients: Vec<Label>,
}

#[derive(serde::Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Label {
    address: Option<String>,
    class: String,
    suppress: bool,
}

/// What counts of a reading, as `postrider report parse` would say it.
fn told(rules: &Rules, reading: &Reading) -> Vec<Label> {
    let label = |reported: &report::Reported| {
        let cause = reported.cause();
        let host = reported.remote_host.as_deref();
        let seen = Observation { stage: reported.stage(), cause: &cause, recipients_taken: 1, host };
        let meaning = rules.classify(&seen);
        let (class, suppress) = match reading.kind {
            Kind::Complaint => ("complaint", true),
            Kind::Unsubscribe => ("unsubscribe", true),
            _ => (meaning.class.name(), meaning.suppress && !reported.names_another() && reported.fate == Fate::Failed),
        };
        Label { address: reported.address.as_deref().map(str::to_lowercase), class: class.to_owned(), suppress }
    };
    let mut told: Vec<Label> = match reading.kind {
        // A delay or a success may name whom it is about: it does nothing to them.
        Kind::Other | Kind::AutoReply => Vec::new(),
        Kind::Bounce | Kind::Complaint | Kind::Unsubscribe => reading.recipients.iter().map(label).collect(),
    };
    told.sort();
    told
}

#[test]
fn reports_are_read_to_the_right_recipient_and_class_and_nobody_else_is_taken_for_dead() {
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join(SET);
    let rules = Rules::shipped();
    let labels = fs::read_to_string(set.join("labels.jsonl")).expect("the labels");
    let (mut count, mut right) = (0, 0);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let (mut differences, mut blamed) = (String::new(), Vec::new());
    for line in labels.lines() {
        let labelled: Labelled = serde_json::from_str(line).expect("a label");
        let message = fs::read(set.join("labelled").join(&labelled.file)).expect("a labelled message");
        let reading = report::read(&message);
        let mut want: Vec<Label> = labelled.recipients;
        want.iter_mut().for_each(|label| label.address = label.address.as_deref().map(str::to_lowercase));
        want.sort();
        for class in want
            .iter()
            .map(|label| &label.class)
            .filter(|class| !["complaint", "unsubscribe"].contains(&class.as_str()))
        {
            assert!(Class::ALL.iter().any(|known| known.name() == class), "{}: {class} is no class", labelled.file);
        }
        let got = told(&rules, &reading);
        count += 1;
        *kinds.entry(labelled.kind.clone()).or_default() += 1;
        if reading.kind.name() == labelled.kind && got == want {
            right += 1;
        } else {
            writeln!(differences, "{}: {} {got:?}, not {} {want:?}", labelled.file, reading.kind.name(), labelled.kind)
                .unwrap();
        }
        for label in got.iter().filter(|label| label.suppress) {
            let is_dead = want.iter().any(|wanted| wanted.suppress && wanted.address == label.address);
            if !is_dead {
                blamed.push(format!("{}: {label:?}", labelled.file));
            }
        }
        // Cut off anywhere, it is read without harm.
        for part in [3, 2] {
            let _ = report::read(message.get(..message.len() / part).unwrap_or_default());
        }
    }
    let files = fs::read_dir(set.join("labelled")).expect("the set").count();
    println!("{right} of {count} right, {kinds:?}\n{differences}");
    assert_eq!(files, count, "every message has a label");
    assert!(count >= 200, "{count} messages");
    assert!(blamed.is_empty(), "read as dead recipients:\n{}", blamed.join("\n"));
    assert!(right * 100 >= count * 97, "{right} of {count}:\n{differences}");
}
