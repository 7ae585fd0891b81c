//! A labelled set of replies, kept apart from the rules' samples: who would be suppressed, and for what.

use std::fmt::Write as _;

use postrider::classify::{Class, Observation, Rules, stage_named};
use postrider::mail::{Cause, Reply};

const LABELLED: &str = include_str!("../replies/labelled.jsonl");

#[derive(serde::Deserialize)]
struct Labelled {
    code: u16,
    text: String,
    stage: String,
    class: String,
    suppress: bool,
    /// Of a set that was labelled before it was first tried; docs/REPLIES.md tells how each fared.
    round: Option<String>,
}

/// Classes whose replies must never cost a recipient its address.
const BLAMELESS: [Class; 9] = [
    Class::ReputationIp,
    Class::ReputationDomain,
    Class::Content,
    Class::Policy,
    Class::RateLimit,
    Class::RecipientRate,
    Class::ConnectionLimit,
    Class::Authentication,
    Class::Greylisting,
];

/// Rounds whose classes were labelled by the table in docs/REPLIES.md.
fn is_classed(round: &str) -> bool {
    round.split(' ').next().and_then(|number| number.parse::<u8>().ok()).is_some_and(|number| number >= 7)
}

#[test]
fn dead_recipients_are_known_and_nobody_else_is_taken_for_one() {
    let rules = Rules::shipped();
    let (mut count, mut wrong, mut classed, mut other_class) = (0, 0, 0, 0);
    let mut disagreements = String::new();
    let mut blamed = Vec::new();
    for line in LABELLED.lines() {
        let labelled: Labelled = serde_json::from_str(line).unwrap();
        let reply = Reply::new(labelled.code, &labelled.text);
        let (stage, cause) = (stage_named(&labelled.stage).unwrap(), Cause::Reply(reply));
        let meaning = rules.classify(&Observation { stage, cause: &cause, recipients_taken: 1, host: None });
        let class = Class::ALL.iter().find(|class| class.name() == labelled.class).expect("a class's word");
        count += 1;
        wrong += usize::from(meaning.suppress != labelled.suppress);
        // Those of the first rounds were gathered for "dead or not", before docs/REPLIES.md told the classes apart: they are
        // held to whom they blame alone.
        if labelled.round.as_deref().is_none_or(is_classed) {
            classed += 1;
            other_class += usize::from(meaning.class != *class);
        }
        if meaning.suppress != labelled.suppress || meaning.class != *class {
            let rule = rules.name(meaning.signal.rule).unwrap_or("none");
            let got = (meaning.class.name(), meaning.suppress);
            writeln!(disagreements, "{got:?} by {rule}, not {:?}: {cause}", (class.name(), labelled.suppress)).unwrap();
        }
        if meaning.suppress && BLAMELESS.contains(class) {
            blamed.push(cause.to_string());
        }
    }
    println!("{count} replies; suppress differs for {wrong}, class for {other_class}\n{disagreements}");
    assert!(count >= 2_000, "{count} replies");
    assert!(blamed.is_empty(), "read as dead recipients:\n{}", blamed.join("\n"));
    assert!(wrong * 20 <= count, "suppress differs for {wrong} of {count}:\n{disagreements}");
    assert!(
        classed >= 1_500 && other_class * 10 <= classed,
        "class differs for {other_class} of {classed}:\n{disagreements}"
    );
}
