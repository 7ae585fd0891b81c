//! What answers mean, as tables.

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
