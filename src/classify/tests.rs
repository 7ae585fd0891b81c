//! What answers mean, as tables.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::mail::{EnhancedStatus, Reply};

fn of(stage: Stage, cause: &Cause, recipients_taken: usize) -> Meaning {
    Rules::shipped().classify(&Observation { stage, cause, recipients_taken, host: None })
}

#[test]
fn sample_replies_mean_what_an_experienced_postmaster_would_say() {
    use Feedback::{Good, Neutral, Slower};
    use VerdictKind::{Deferred, Delivered, Failed};
    let rows = [
        (Stage::Greeting, 554, "5.7.1 192.0.2.1 is listed", 0, Deferred, Slower),
        (Stage::Greeting, 421, "4.7.0 too many connections", 0, Deferred, Slower),
        (Stage::Hello, 550, "5.7.1 bad EHLO name", 0, Deferred, Slower),
        (Stage::Auth, 535, "5.7.8 no", 0, Deferred, Slower),
        (Stage::Mail, 421, "4.7.28 unusual rate", 0, Deferred, Slower),
        (Stage::Mail, 451, "4.3.0 later", 0, Deferred, Neutral),
        (Stage::Mail, 550, "5.7.1 sender refused", 0, Failed, Neutral),
        (Stage::Mail, 530, "5.7.0 Must issue a STARTTLS command first", 0, Deferred, Neutral),
        (Stage::Mail, 552, "5.3.4 message too big", 0, Failed, Neutral),
        (Stage::Rcpt, 450, "4.2.0 greylisted", 0, Deferred, Neutral),
        (Stage::Rcpt, 421, "closing", 3, Deferred, Slower),
        (Stage::Rcpt, 550, "5.1.1 no such user", 0, Failed, Neutral),
        (Stage::Rcpt, 452, "4.5.3 too many recipients", 9, Deferred, Neutral),
        (Stage::Rcpt, 552, "5.5.3 too many recipients", 0, Deferred, Neutral),
        (Stage::Rcpt, 552, "too many recipients", 0, Deferred, Neutral),
        (Stage::Rcpt, 552, "enough", 100, Deferred, Neutral),
        (Stage::Rcpt, 552, "5.2.2 mailbox full", 5, Failed, Neutral),
        (Stage::Rcpt, 552, "mailbox full", 0, Failed, Neutral),
        (Stage::Rcpt, 354, "out of step", 0, Deferred, Neutral),
        (Stage::Rcpt, 503, "need MAIL first", 0, Deferred, Neutral),
        (Stage::Data, 554, "5.5.1 no valid recipients", 0, Deferred, Neutral),
        (Stage::Data, 554, "5.7.1 no", 2, Failed, Neutral),
        (Stage::Data, 451, "4.3.0 later", 1, Deferred, Neutral),
        (Stage::FinalDot, 250, "2.0.0 queued", 1, Delivered, Good),
        (Stage::FinalDot, 354, "again?", 1, Deferred, Neutral),
        (Stage::FinalDot, 554, "5.7.1 spam", 1, Failed, Neutral),
        (Stage::FinalDot, 451, "4.7.1 later", 1, Deferred, Neutral),
        (Stage::FinalDot, 421, "4.3.2 shutting down", 1, Deferred, Slower),
        (Stage::FinalDot, 299, "2.0.0 odd", 1, Delivered, Good),
    ];
    for (stage, code, text, taken, verdict, feedback) in rows {
        let meaning = of(stage, &Cause::Reply(Reply::new(code, text)), taken);
        assert_eq!((meaning.verdict, meaning.signal.feedback), (verdict, feedback), "{stage:?} {code} {text}");
    }
}

#[test]
fn what_we_found_out_ourselves_is_never_read_as_the_recipients_fault_before_mail() {
    let (later, never) = (EnhancedStatus::new(4, 4, 1), EnhancedStatus::new(5, 1, 10));
    let rows = [
        (Stage::Resolve, later, VerdictKind::Deferred, Feedback::Neutral),
        (Stage::Resolve, never, VerdictKind::Failed, Feedback::Neutral),
        (Stage::Connect, later, VerdictKind::Deferred, Feedback::Broken),
        (Stage::Connect, never, VerdictKind::Deferred, Feedback::Broken),
        (Stage::Tls, never, VerdictKind::Deferred, Feedback::Broken),
        (Stage::Rcpt, later, VerdictKind::Deferred, Feedback::Broken),
        (Stage::FinalDot, later, VerdictKind::Deferred, Feedback::Broken),
        (Stage::Local, later, VerdictKind::Deferred, Feedback::Neutral),
        (Stage::Local, never, VerdictKind::Failed, Feedback::Neutral),
    ];
    for (stage, status, verdict, feedback) in rows {
        let meaning = of(stage, &Cause::local(status, "text"), 1);
        assert_eq!((meaning.verdict, meaning.signal.feedback), (verdict, feedback), "{stage:?} {status}");
    }
}

#[test]
fn what_concerns_the_source_uses_up_no_attempt_and_greylisting_keeps_the_source() {
    let reply = |code| Cause::Reply(Reply::new(code, "text"));
    assert!(!of(Stage::Mail, &reply(421), 0).counts);
    assert!(!of(Stage::Greeting, &reply(554), 0).counts);
    assert!(of(Stage::Rcpt, &reply(450), 0).counts);
    assert!(of(Stage::Rcpt, &reply(450), 0).stay);
    assert!(!of(Stage::FinalDot, &reply(450), 1).stay);
    assert!(!of(Stage::Rcpt, &reply(550), 0).stay);
}

#[test]
fn no_code_at_all_fails_anyone_before_mail_and_only_5xx_after() {
    let before = [Stage::Connect, Stage::Greeting, Stage::Hello, Stage::Tls, Stage::Auth];
    let after = [Stage::Mail, Stage::Rcpt, Stage::Data, Stage::FinalDot];
    for code in 0..1000 {
        let cause = Cause::Reply(Reply::new(code, "x"));
        for stage in before {
            assert_eq!(of(stage, &cause, 1).verdict, VerdictKind::Deferred, "{stage:?} {code}");
        }
        for stage in after {
            let failed = of(stage, &cause, 1).verdict == VerdictKind::Failed;
            assert!(!failed || (500..=599).contains(&code), "{stage:?} {code}");
        }
    }
}

#[test]
fn every_sample_of_our_rules_is_taken_by_its_rule() {
    let (rules, samples) = file::read_all(&[(SHIPPED_NAME, SHIPPED)]).unwrap_or_else(|flaws| panic!("{flaws}"));
    let flaws: Vec<String> =
        samples.iter().filter_map(|sample| sample.flaw(&rules)).map(|flaw| flaw.to_string()).collect();
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
    for number in 1..=u16::try_from(rules.len()).unwrap() {
        let name = rules.name(number).unwrap();
        let count = samples.iter().filter(|sample| sample.rule == name).count();
        assert!(count >= 2, "{name} has {count} samples");
    }
}

#[test]
fn several_recipients_behind_one_answer_are_none_of_them_dead() {
    let unknown = Cause::Reply(Reply::new(550, "5.1.1 User unknown"));
    let rows = [
        (Stage::Rcpt, 0, true, Scope::Recipient),
        (Stage::Rcpt, 5, true, Scope::Recipient),
        (Stage::FinalDot, 1, true, Scope::Recipient),
        (Stage::FinalDot, 2, false, Scope::Nobody),
        (Stage::Data, 9, false, Scope::Nobody),
        (Stage::Mail, 0, false, Scope::Nobody),
        (Stage::Greeting, 0, false, Scope::Source),
    ];
    for (stage, taken, suppress, scope) in rows {
        let meaning = of(stage, &unknown, taken);
        assert_eq!((meaning.suppress, meaning.scope), (suppress, scope), "{stage:?} {taken}");
    }
    let ours = Cause::local(EnhancedStatus::new(5, 1, 1), "User unknown");
    let meaning = of(Stage::Local, &ours, 1);
    assert_eq!((meaning.suppress, meaning.signal.rule), (false, 0), "our own words are no peer's");
}

#[test]
fn a_rule_asks_the_engine_for_what_it_says() {
    let of = |stage, code, text: &str| of(stage, &Cause::Reply(Reply::new(code, text)), 1);
    let blocked = of(Stage::Mail, 550, "5.7.1 part of their network is on our block list (S3140)");
    assert_eq!((blocked.verdict, blocked.class), (VerdictKind::Deferred, Class::ReputationIp));
    assert!(matches!(blocked.signal.reaction, Some(Reaction::Suspend { .. })));
    assert!(blocked.signal.block && blocked.signal.reputation && blocked.signal.alarm && !blocked.stay);
    let connections = of(Stage::Greeting, 421, "Trop de connexions");
    assert_eq!(connections.signal.reaction, Some(Reaction::FewerConnections { most: Some(1) }));
    let daily = of(Stage::Rcpt, 550, "RP:TRC 163 mx1");
    assert_eq!((daily.verdict, daily.again_in), (VerdictKind::Deferred, Some(Duration::from_secs(12 * 3600))));
    let listed = of(Stage::Rcpt, 450, "4.2.0 Greylisted, try again in 4 minutes");
    assert_eq!((listed.again_in, listed.stay), (Some(Duration::from_secs(240)), true));
    assert_eq!(of(Stage::Rcpt, 550, "5.1.1 unknown user, try again in 4 minutes").again_in, None);
}

#[test]
fn slower_without_a_rate_is_what_it_took_of_late() {
    let rule = |keys: &str| {
        let text = format!(
            "[[rule]]\nname = \"own\"\nreason = \"why\"\nclass = \"rate-limit\"\ntext = 'slower'\n{keys}\n\
             samples = \"mail: 450 slower\"\n"
        );
        let rules = Rules::read(Some(("own.toml", &text))).unwrap_or_else(|flaws| panic!("{flaws}"));
        let cause = Cause::Reply(Reply::new(450, "slower"));
        let seen = Observation { stage: Stage::Mail, cause: &cause, recipients_taken: 0, host: None };
        rules.classify(&seen).signal.reaction
    };
    let slow = |count, per, hold| {
        let (per, hold) = (Duration::from_secs(per), Duration::from_secs(hold));
        Some(Reaction::Slow { count, per, hold })
    };
    assert_eq!(rule("action = \"slow\""), slow(0, 0, 60));
    assert_eq!(rule("action = \"slow\"\nhold = \"15m\""), slow(0, 0, 900));
    assert_eq!(rule("action = \"slow\"\nrate = \"10/1m\"\nhold = \"15m\""), slow(10, 60, 900));
}

#[test]
fn a_limit_by_time_that_names_no_number_is_not_taken_for_one() {
    let rows = [
        (Stage::Mail, 450, "4.7.1 Error: rate limit exceeded, slow down"),
        (Stage::Mail, 421, "4.7.0 Too many messages, slow down"),
        (Stage::Mail, 454, "Throttling failure: Maximum sending rate exceeded."),
        (Stage::Rcpt, 452, "4.1.1 requested action aborted: try again later - AUP#CXMXRT"),
    ];
    for (stage, code, text) in rows {
        let meaning = of(stage, &Cause::Reply(Reply::new(code, text)), 1);
        let named = meaning.signal.reaction.map(|reaction| matches!(reaction, Reaction::Slow { count: 1.., .. }));
        assert_eq!((meaning.class, named, meaning.signal.trigger), (Class::RateLimit, Some(false), 1), "{text}");
    }
}

#[test]
fn an_operators_rules_go_first_and_their_mistakes_are_told() {
    let good = "[[rule]]\nname = \"own\"\nreason = \"why\"\nclass = \"policy\"\nverdict = \"fail\"\ntext = 'user unknown'\nsamples = \"550 5.1.1 User unknown\"\n";
    let rules = Rules::read(Some(("own.toml", good))).unwrap();
    let cause = Cause::Reply(Reply::new(450, "4.1.1 user unknown"));
    let seen = |stage| rules.classify(&Observation { stage, cause: &cause, recipients_taken: 1, host: None });
    let meaning = seen(Stage::Rcpt);
    assert_eq!((rules.name(meaning.signal.rule), meaning.suppress), (Some("own"), false));
    assert_eq!(meaning.verdict, VerdictKind::Failed, "a rule may fail a 4xx");
    assert_eq!(seen(Stage::Greeting).verdict, VerdictKind::Deferred, "and nobody before MAIL");
    let rows = [
        ("class = \"policy\"", "class = \"polcy\"", "own.toml:4: rule \"own\": class: one of recipient-invalid, "),
        (
            "verdict = \"fail\"",
            "suppress = true",
            "own.toml:5: rule \"own\": suppress: only class = \"recipient-invalid\"",
        ),
        ("verdict = \"fail\"", "hold = \"1h\"", "own.toml:5: rule \"own\": hold: this belongs to an action"),
        (
            "verdict = \"fail\"",
            "action = \"slow\"\nrate = \"10/1m\"",
            "own.toml:1: rule \"own\": hold: \"slow\" with a rate needs this key",
        ),
        (
            "verdict = \"fail\"",
            "action = \"slow\"\nrate = \"0/1m\"\nhold = \"1h\"",
            "own.toml:6: rule \"own\": rate: messages by time, such as",
        ),
        ("verdict = \"fail\"", "action = \"slow\"\nhold = \"1\"", "own.toml:6: rule \"own\": hold: a duration such as"),
        (
            "verdict = \"fail\"",
            "action = \"slow\"\nmost = 3",
            "own.toml:6: rule \"own\": most: \"slow\" takes no such key",
        ),
        ("verdict = \"fail\"", "action = \"suspend\"", "own.toml:1: rule \"own\": hold: \"suspend\" needs this key"),
        ("verdict = \"fail\"", "again = \"5\"", "own.toml:5: rule \"own\": again: a duration such as"),
        ("verdict = \"fail\"", "code = \"250\"", "own.toml:5: rule \"own\": code: \"550\", \"550-554\" or \"5xx\" is"),
        ("verdict = \"fail\"", "status = \"5.7\"", "own.toml:5: rule \"own\": status: \"5.1.1\", "),
        ("verdict = \"fail\"", "verdct = 1", "own.toml:5: verdct: there is no such key; known are "),
        ("'user unknown'", "'user('", "own.toml:6: rule \"own\": text: this is no regular expression"),
        ("'user unknown'", "'(a{999}){999}'", "own.toml:6: rule \"own\": text: this is no regular expression"),
        ("'user unknown'", "'User'", "own.toml:6: rule \"own\": text: the text is compared in lower case"),
        (
            "550 5.1.1 User",
            "550 5.1.1 Nobody",
            "own.toml:7: rule \"own\": samples: \"550 5.1.1 Nobody unknown\" at rcpt is taken",
        ),
        ("550 5.1.1 User", "user", "own.toml:7: rule \"own\": samples: \"550 5.1.1 No such user\" is expected"),
        ("[[rule]]", "[rule]", "own.toml:1: rule: only tables [[rule]] are expected here"),
        ("[[rule]]", "[[rule", "own.toml:1: this is not TOML: "),
    ];
    for (right, wrong, want) in rows {
        let flaws = Rules::read(Some(("own.toml", &good.replace(right, wrong)))).unwrap_err().to_string();
        assert!(flaws.starts_with(want), "{wrong}: {flaws}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_words_of_a_peer_fail_a_4xx_or_suppress_another(
        code in 400u16..600,
        words in proptest::collection::vec(
            prop_oneof![
                Just("user unknown"), Just("blocked"), Just("spam"), Just("5.1.1"), Just("try again in 10 minutes"),
                Just("quota"), Just("does not exist"), Just("sender"), Just("550-5.7.1"), Just("用户不存在"), Just("\u{1f600}"),
            ],
            0..12,
        ),
        taken in 0usize..3,
    ) {
        let cause = Cause::Reply(Reply::new(code, &words.join(" ")));
        for stage in [Stage::Greeting, Stage::Mail, Stage::Rcpt, Stage::FinalDot] {
            let meaning = of(stage, &cause, taken);
            let failed = meaning.verdict == VerdictKind::Failed;
            prop_assert!(!failed || code >= 500);
            prop_assert!(!meaning.suppress || failed && meaning.class == Class::RecipientInvalid);
            let blames_source = meaning.signal.block || meaning.signal.reputation;
            prop_assert!(!(meaning.suppress && blames_source));
        }
    }
}

#[test]
fn the_rule_that_the_docs_show_is_one() {
    let page = include_str!("../../docs/REPLIES.md");
    let shown = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let rules = Rules::read(Some(("REPLIES.md", shown))).unwrap_or_else(|flaws| panic!("{flaws}"));
    assert_eq!(rules.name(1), Some("example-net-quarantine"));
    for class in Class::ALL {
        assert!(page.contains(&format!("`{}`", class.name())), "{} is missing", class.name());
    }
}
