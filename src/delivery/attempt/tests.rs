//! What exchanges mean, as tables.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::testing::envelope;
use super::*;
use crate::mail::RecipientProgress;
use crate::smtp::encode::EncodeError;

const NOW: Timestamp = Timestamp::from_secs(2000);

fn progress(uncertain: u8) -> Progress {
    Progress { uncertain, ..Progress::new(2, Timestamp::from_secs(1500)) }
}

fn said(stage: Stage, code: u16, text: &str) -> Option<(Stage, Reply)> {
    Some((stage, Reply::new(code, text)))
}

fn lost(stage: Stage, uncertain: bool, answered: bool) -> End {
    End::Lost { stage, lost: Lost::Closed, uncertain, answered }
}

/// Verdicts as `place kind stage`, and the rest of what was found.
fn meant(answers: Vec<Option<(Stage, Reply)>>, taken: usize, end: End, uncertain: u8) -> Option<(String, Found)> {
    let (envelope, progress) = (envelope(2), progress(uncertain));
    let peer = Peer { host: "mx".into(), place: SocketAddr::from((Ipv4Addr::LOCALHOST, 25)), encrypted: false };
    let circumstances = Circumstances {
        envelope: &envelope,
        progress: &progress,
        peer: &peer,
        source: "a",
        dsn: false,
        rules: Rules::shipped(),
        schedule: retry::Schedule::default(),
        now: NOW,
        jitter: 0.5,
    };
    let round = Round { places: vec![0, 1], others_wait: false };
    let found = circumstances.exchanged(&round, Exchange { answers, taken, end }, false)?;
    let kind = |verdict: &Verdict| match verdict {
        Verdict::Delivered(outcome) => format!("delivered {}", outcome.stage.name()),
        Verdict::Deferred(outcome) => format!("deferred {}", outcome.stage.name()),
        Verdict::Failed(outcome) => format!("failed {}", outcome.stage.name()),
    };
    let verdicts = found.attempt.verdicts.iter().map(|(place, verdict)| format!("{place} {}", kind(verdict)));
    Some((verdicts.collect::<Vec<_>>().join(", "), found))
}

#[test]
fn mail_of_a_stopped_domain_waits_for_the_end_of_the_stop_and_uses_up_no_attempt() {
    let author: Domain = "shop.test".parse().unwrap();
    // For how long it is stopped; how long the message may still wait; when it is due.
    let rows = [(3600, 86_400, 3600..=3960), (3600, 3000, 2900..=3000), (3600, 60, 0..=60)];
    for (hold, left, want) in rows {
        let (mut envelope, mut progress) = (envelope(2), progress(0));
        envelope.expires_at = NOW.after(Duration::from_secs(left));
        progress.source = "a".into();
        let peer = Peer { host: "mx".into(), place: SocketAddr::from((Ipv4Addr::LOCALHOST, 25)), encrypted: false };
        let circumstances = Circumstances {
            envelope: &envelope,
            progress: &progress,
            peer: &peer,
            source: "b",
            dsn: false,
            rules: Rules::shipped(),
            schedule: retry::Schedule::default(),
            now: NOW,
            jitter: 0.5,
        };
        let stop = Stop { until: NOW.after(Duration::from_secs(hold)), words: "550 5.7.26 no".into() };
        let found = circumstances.stopped(&[0, 1], &stop, ("google", &author));
        let due = found.attempt.due.since(NOW).as_secs();
        assert!(want.contains(&due), "{hold} {left}: {due}");
        assert!(!found.attempt.counts && found.reusable && found.signal == Signal::default());
        assert_eq!((&*found.attempt.source, found.attempt.verdicts.len()), ("a", 2), "greylisting knows the source");
        for (_, verdict) in &found.attempt.verdicts {
            let Verdict::Deferred(outcome) = verdict else { panic!("{verdict:?}") };
            assert!(outcome.cause.to_string().ends_with("UTC: \"550 5.7.26 no\""), "{}", outcome.cause);
        }
    }
}

#[test]
fn refusals_are_told_apart_by_their_rules_and_the_words_are_those_that_ask_of_the_source() {
    let (refused, block) = ("5.1.1 no such user", "5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org");
    // Replies by class, and whose words the source hears.
    let rows = [
        (vec![said(Stage::Rcpt, 550, refused), said(Stage::Rcpt, 550, refused)], "2 recipient-invalid", ""),
        (
            vec![said(Stage::Rcpt, 550, refused), said(Stage::Rcpt, 554, block)],
            "1 recipient-invalid, 1 reputation-ip",
            "554 5.7.1",
        ),
        (vec![said(Stage::FinalDot, 554, block), said(Stage::FinalDot, 554, block)], "1 reputation-ip", "554 5.7.1"),
        (vec![said(Stage::FinalDot, 250, "ok"), said(Stage::FinalDot, 250, "ok")], "", ""),
        (
            vec![
                said(Stage::FinalDot, 550, "5.7.26 unauthenticated"),
                said(Stage::FinalDot, 550, "5.7.26 unauthenticated"),
            ],
            "1 authentication",
            "",
        ),
    ];
    for (answers, want, words) in rows {
        let (_, found) = meant(answers, 2, End::Ended(Ended::Clean), 0).unwrap();
        let counted: Vec<String> =
            found.remarks.iter().map(|remark| format!("{} {}", remark.replies, remark.meaning.class.name())).collect();
        assert_eq!(counted.join(", "), want);
        let heard = found.words.map(|words| words.outcome.cause.to_string()).unwrap_or_default();
        assert!(heard.starts_with(words) && heard.is_empty() == words.is_empty(), "{want}: {heard:?}");
    }
}

#[test]
fn each_recipient_gets_its_own_verdict() {
    use Ended::{Clean, Closing, NeedsReset};
    use Feedback::{Broken, Good, Neutral, Slower};
    let dot = || said(Stage::FinalDot, 250, "2.0.0 Ok");
    let rows = [
        (vec![dot(), dot()], 2, End::Ended(Clean), "0 delivered dot, 1 delivered dot", Good, true),
        (vec![dot(), said(Stage::Rcpt, 550, "no")], 1, End::Ended(Clean), "0 delivered dot, 1 failed rcpt", Good, true),
        (
            vec![said(Stage::Rcpt, 450, "grey"), said(Stage::Rcpt, 550, "no")],
            0,
            End::Ended(NeedsReset),
            "0 deferred rcpt, 1 failed rcpt",
            Neutral,
            true,
        ),
        (
            vec![said(Stage::Mail, 421, "busy"), said(Stage::Mail, 421, "busy")],
            0,
            End::Ended(Closing),
            "0 deferred mail, 1 deferred mail",
            Slower,
            false,
        ),
        // Too many at once: not judged, and again at once.
        (vec![dot(), said(Stage::Rcpt, 452, "4.5.3 too many")], 1, End::Ended(Clean), "0 delivered dot", Good, true),
        (
            vec![dot(), said(Stage::Rcpt, 452, "4.2.2 full")],
            1,
            End::Ended(Clean),
            "0 delivered dot, 1 deferred rcpt",
            Good,
            true,
        ),
        // Broken in the middle: what was said before stands.
        (
            vec![said(Stage::Rcpt, 550, "no"), None],
            0,
            lost(Stage::Rcpt, false, true),
            "0 failed rcpt, 1 deferred rcpt",
            Broken,
            false,
        ),
        (
            vec![said(Stage::Rcpt, 550, "no"), None],
            1,
            lost(Stage::FinalDot, true, true),
            "0 failed rcpt, 1 deferred dot",
            Broken,
            false,
        ),
        (
            vec![None, None],
            0,
            End::Unsendable(EncodeError::BareLineEnd),
            "0 failed local, 1 failed local",
            Neutral,
            true,
        ),
    ];
    for (answers, taken, end, verdicts, feedback, reusable) in rows {
        let (told, found) = meant(answers, taken, end, 0).unwrap();
        assert_eq!((&*told, found.signal.feedback, found.reusable), (verdicts, feedback, reusable));
    }
}

#[test]
fn a_connection_that_was_already_gone_attempted_nothing() {
    assert!(meant(vec![None, None], 0, lost(Stage::Mail, false, false), 0).is_none());
    let silent = End::Lost { stage: Stage::Mail, lost: Lost::Timeout, uncertain: false, answered: false };
    assert!(meant(vec![None, None], 0, silent, 0).is_some(), "a peer that is silent was attempted");
}

#[test]
fn a_lost_answer_is_asked_for_again_later_and_later_and_at_last_given_up() {
    let rows = [
        (0, 900, "1 deferred dot"),
        (1, 3600, "1 deferred dot"),
        (2, 14_400, "1 deferred dot"),
        (3, 0, "1 failed dot"),
    ];
    for (before, wait, verdict) in rows {
        let answers = vec![said(Stage::Rcpt, 550, "no"), None];
        let (told, found) = meant(answers, 1, lost(Stage::FinalDot, true, true), before).unwrap();
        assert!(told.ends_with(verdict), "{before}: {told}");
        assert!(found.attempt.uncertain);
        if wait > 0 {
            assert_eq!(found.attempt.due, NOW.after(Duration::from_secs(wait)));
        }
    }
}

#[test]
fn what_concerns_the_source_alone_uses_up_no_attempt_and_greylisting_keeps_the_source() {
    let busy = || said(Stage::Mail, 421, "busy");
    let (_, found) = meant(vec![busy(), busy()], 0, End::Ended(Ended::Closing), 0).unwrap();
    assert!(!found.attempt.counts && found.attempt.due <= NOW.after(Duration::from_secs(60)));
    let grey = || said(Stage::Rcpt, 450, "4.7.1 greylisted");
    let (_, found) = meant(vec![grey(), grey()], 0, End::Ended(Ended::NeedsReset), 0).unwrap();
    assert_eq!((found.attempt.counts, &*found.attempt.source), (true, "a"));
    let (_, found) = meant(
        vec![said(Stage::FinalDot, 250, "ok"), said(Stage::Rcpt, 452, "too many")],
        1,
        End::Ended(Ended::Clean),
        0,
    )
    .unwrap();
    assert_eq!(
        (found.attempt.counts, found.attempt.due),
        (false, Timestamp::from_secs(1500)),
        "the other's turn is now"
    );
}

#[test]
fn a_round_takes_whom_the_peer_allows_and_nobody_twice() {
    let outcome = |at| Outcome {
        at: Timestamp::from_secs(at),
        stage: Stage::Rcpt,
        host: "mx".into(),
        address: None,
        cause: Cause::Reply(Reply::new(450, "later")),
    };
    let recipient = |state, at: Option<u64>| RecipientProgress { state, last: at.map(outcome) };
    let pending = |at| recipient(RecipientState::Pending, at);
    let due = 100;
    // Recipients, RCPTMAX, and whom it takes; `true`: others wait.
    let rows = [
        (vec![pending(None), pending(None), pending(None)], None, vec![0, 1, 2], false),
        (vec![pending(None), pending(None), pending(None)], Some(2), vec![0, 1], true),
        // The first two were attempted in this round, at or after it was due.
        (
            vec![pending(Some(100)), recipient(RecipientState::Delivered, Some(101)), pending(None)],
            Some(2),
            vec![2],
            false,
        ),
        // In the next round all are.
        (vec![pending(Some(50)), pending(Some(60)), pending(Some(99))], Some(2), vec![0, 1], true),
        (vec![recipient(RecipientState::Failed, Some(50)), pending(Some(60))], None, vec![1], false),
        // An operator's retry before its time.
        (vec![pending(Some(150)), pending(Some(160))], None, vec![0, 1], false),
        (vec![recipient(RecipientState::Failed, None)], None, vec![], false),
    ];
    for (recipients, most, places, others_wait) in rows {
        let progress = Progress { recipients, ..Progress::new(0, Timestamp::from_secs(due)) };
        assert_eq!(round(&progress, most), Round { places, others_wait });
    }
}

#[test]
fn an_envelope_is_due_again_unless_all_have_their_final_state() {
    let end = Timestamp::from_secs(9000);
    let grey = || said(Stage::Rcpt, 450, "later");
    let (_, found) = meant(vec![grey(), said(Stage::Rcpt, 550, "no")], 0, End::Ended(Ended::NeedsReset), 0).unwrap();
    assert_eq!(due_after(&progress(0), &found.attempt, NOW, end), Some(found.attempt.due));
    assert_eq!(due_after(&progress(0), &found.attempt, end, end), None, "what is deferred at its end expires");
    let held = Progress { held: true, ..progress(0) };
    assert_eq!(due_after(&held, &found.attempt, end, end), Some(found.attempt.due));
    let dot = || said(Stage::FinalDot, 250, "ok");
    let (_, found) = meant(vec![dot(), dot()], 2, End::Ended(Ended::Clean), 0).unwrap();
    assert_eq!(due_after(&progress(0), &found.attempt, NOW, end), None);
}

#[test]
fn a_wait_that_the_peer_asks_for_is_obeyed() {
    let rows = [
        ("4.2.0 Greylisted, try again in 10 minutes", 630),
        ("4.2.0 Greylisted, try again in 1 second", 31),
        ("4.7.1 rate limit, retry after 9 days", 14_400 + 720),
    ];
    for (text, wait) in rows {
        let answers = vec![said(Stage::Rcpt, 450, text), said(Stage::Rcpt, 450, "4.3.0 later")];
        let found = meant(answers, 0, End::Ended(Ended::NeedsReset), 0).unwrap().1;
        assert_eq!(found.attempt.due.since(NOW).as_secs(), wait, "{text}");
        assert!(found.attempt.counts);
    }
}
