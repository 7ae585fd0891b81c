//! Attempts and ends, and the reports they make.

use std::time::Duration;

use super::*;
use crate::mail::{BodyFacts, RecipientProgress, Reply, StreamKind, Verdict};

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);
const BODY: &[u8] = b"From: sender@example.com\r\nSubject: hi\r\n\r\nthe body\r\n";

fn settings() -> Settings {
    Settings::new("relay.example.com".parse().unwrap())
}

fn envelope() -> Envelope {
    let recipient =
        |address: &str| Recipient { address: address.parse().unwrap(), notify: Notify::Default, original: None };
    Envelope {
        id: QueueId::from_u64(7),
        submission: QueueId::from_u64(7),
        accepted_at: NOW,
        release_at: NOW,
        put_off_by: "".into(),
        held: false,
        expires_at: NOW.after(Duration::from_secs(1000)),
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        priority: 50,
        credential: "shop".into(),
        pool: "default".into(),
        reverse_path: ReversePath::Address("sender@example.com".parse().unwrap()),
        return_path: None,
        ret: None,
        envid: None,
        author_domain: None,
        message_id: "".into(),
        marks: crate::mail::Marks::default(),
        added_headers: Bytes::new(),
        body: BodyFacts { header_bytes: 41, ..BodyFacts::default() },
        recipients: vec![recipient("a@dest.example"), recipient("b@dest.example")],
    }
}

fn outcome(code: u16) -> Outcome {
    let cause = Cause::Reply(Reply::new(code, "5.1.1 text"));
    Outcome { at: NOW, stage: Stage::Rcpt, host: "mx".into(), address: None, cause }
}

fn attempt(verdicts: Vec<(usize, Verdict)>, uncertain: bool) -> Attempt {
    Attempt { verdicts, due: NOW, counts: true, uncertain, source: "".into() }
}

fn states(progress: &Progress) -> Vec<RecipientState> {
    progress.recipients.iter().map(|recipient| recipient.state).collect()
}

fn told(envelope: &Envelope, progress: &Progress, events: &[Event]) -> Option<Prepared> {
    let told = Told { envelope, progress, events, body: Some(BODY) };
    dsn(&settings(), &told, QueueId::from_u64(9), 0xabc, NOW)
}

#[test]
fn a_failure_makes_a_report_from_nobody_to_the_sender() {
    let envelope = envelope();
    let before = Progress::new(2, NOW);
    let verdicts = vec![(0, Verdict::Failed(outcome(550))), (1, Verdict::Delivered(outcome(250)))];
    let mut after = after_attempt(&envelope, &before, attempt(verdicts, false), NOW);
    let events = events(&settings(), &envelope, &before, &mut after, PeerReports::No, NOW);
    assert_eq!(events, [Event { place: 0, action: Action::Failed }]);
    let prepared = told(&envelope, &after, &events).unwrap();
    let report = &prepared.envelopes[0];
    assert_eq!(report.reverse_path, ReversePath::Null);
    assert_eq!(report.recipients[0].address.to_string(), "sender@example.com");
    assert_eq!(report.author_domain.as_ref().map(|d| d.to_string()).as_deref(), Some("relay.example.com"));
    assert_eq!(report.body.size_bytes as usize, prepared.body.len());
    let text = std::str::from_utf8(&prepared.body).unwrap();
    assert!(text.contains("the body") && text.contains("<a@dest.example>: ") && !text.contains("b@dest.example"));
    // A report that fails makes no report.
    let mut failed = Progress::new(1, NOW);
    failed.recipients[0] = RecipientProgress { state: RecipientState::Failed, last: Some(outcome(550)) };
    let silence = super::events(&settings(), report, &Progress::new(1, NOW), &mut failed, PeerReports::No, NOW);
    assert_eq!(silence, []);
}

#[test]
fn only_the_header_goes_back_where_that_was_asked_or_the_message_is_large() {
    let failed = [Event { place: 0, action: Action::Failed }];
    let progress = Progress::new(2, NOW);
    let mut asked = envelope();
    asked.ret = Some(Return::Headers);
    let text = String::from_utf8(told(&asked, &progress, &failed).unwrap().body.to_vec()).unwrap();
    assert!(text.contains("text/rfc822-headers") && text.contains("Subject: hi") && !text.contains("the body"));
    let mut small = settings();
    small.returned_size_max = crate::size::ByteSize(10);
    let envelope = envelope();
    let all = Told { envelope: &envelope, progress: &progress, events: &failed, body: Some(BODY) };
    let prepared = dsn(&small, &all, QueueId::from_u64(9), 1, NOW).unwrap();
    assert!(!String::from_utf8_lossy(&prepared.body).contains("the body"));
    let lost = Told { envelope: &envelope, progress: &progress, events: &failed, body: None };
    assert!(dsn(&small, &lost, QueueId::from_u64(9), 1, NOW).is_some());
}

#[test]
fn a_message_whose_answer_is_always_lost_fails_after_three_more_tries() {
    let envelope = envelope();
    let mut progress = Progress::new(2, NOW);
    for round in 0..4 {
        let verdicts = vec![(0, Verdict::Deferred(outcome(450))), (1, Verdict::Deferred(outcome(450)))];
        progress = after_attempt(&envelope, &progress, attempt(verdicts, true), NOW);
        let want = if round < 3 { RecipientState::Pending } else { RecipientState::Failed };
        assert_eq!(states(&progress), [want, want], "round {round}");
    }
    let last = progress.recipients[0].last.as_ref().unwrap();
    assert!(last.cause.to_string().contains("may have been delivered"));
    assert_eq!(&*last.host, "mx");
}

#[test]
fn an_end_without_an_attempt_touches_only_what_is_pending() {
    let mut before = Progress::new(2, NOW);
    before.recipients[1] = RecipientProgress { state: RecipientState::Delivered, last: Some(outcome(250)) };
    let rows = [
        (End::Expired, RecipientState::Expired, true),
        (End::Bounced, RecipientState::Failed, true),
        (End::Deleted, RecipientState::Deleted, false),
    ];
    for (end, want, is_told) in rows {
        let mut after = after_end(&before, end, NOW);
        assert_eq!(states(&after), [want, RecipientState::Delivered]);
        let envelope = envelope();
        let events = events(&settings(), &envelope, &before, &mut after, PeerReports::No, NOW);
        assert_eq!(!events.is_empty(), is_told, "{end:?}");
        assert_eq!(told(&envelope, &after, &events).is_some(), is_told);
    }
}

#[test]
fn a_delay_is_reported_once() {
    let mut envelope = envelope();
    envelope.expires_at = Timestamp::NEVER;
    envelope.recipients[0].notify = Notify::On { success: false, failure: true, delay: true };
    let later = NOW.after(Duration::from_secs(4 * 3600));
    let before = Progress::new(2, NOW);
    let deferred = || attempt(vec![(0, Verdict::Deferred(outcome(450)))], false);
    let mut after = after_attempt(&envelope, &before, deferred(), later);
    let first = events(&settings(), &envelope, &before, &mut after, PeerReports::No, later);
    assert_eq!(first, [Event { place: 0, action: Action::Delayed }]);
    assert!(after.delay_reported);
    let mut again = after_attempt(&envelope, &after, deferred(), later);
    assert_eq!(events(&settings(), &envelope, &after, &mut again, PeerReports::No, later), []);
}

#[test]
fn a_stream_says_whether_its_failures_bounce() {
    let failure = |stream: &str, kind: StreamKind| {
        let mut settings = settings();
        let newsletter = Stream { bounces: Bounces::OnRequest, ..Stream::default() };
        let digest = Stream { kind: StreamKind::Marketing, ..Stream::default() };
        settings.streams.extend([("newsletter".into(), newsletter), ("digest".into(), digest)]);
        let envelope = Envelope { stream: stream.into(), kind, ..envelope() };
        let before = Progress::new(2, NOW);
        let verdicts = vec![(0, Verdict::Failed(outcome(550)))];
        let mut after = after_attempt(&envelope, &before, attempt(verdicts, false), NOW);
        !events(&settings, &envelope, &before, &mut after, PeerReports::No, NOW).is_empty()
    };
    assert!(failure("transactional", StreamKind::Transactional));
    assert!(!failure("newsletter", StreamKind::Transactional));
    assert!(failure("digest", StreamKind::Marketing));
    // Gone from the config since: its kind decides.
    assert!(failure("gone", StreamKind::Transactional));
    assert!(!failure("gone", StreamKind::Marketing));
}
