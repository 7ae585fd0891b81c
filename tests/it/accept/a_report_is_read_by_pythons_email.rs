//! Python's email package finds in a report of ours what programs that read bounces look for.

use std::time::Duration;

use bytes::Bytes;
use postrider::mail::{
    BodyFacts, Cause, Envelope, Notify, Outcome, Progress, QueueId, Recipient, RecipientProgress, RecipientState,
    Reply, ReversePath, Stage, StreamKind,
};
use postrider::report::{Action, Event, Original, Report, write};
use postrider::time::Timestamp;

use super::run;

const SCRIPT: &str = r#"
import email, email.policy, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
assert not message.defects, message.defects
assert message.get_content_type() == 'multipart/report'
assert message.get_param('report-type') == 'delivery-status'
assert message['Auto-Submitted'] == 'auto-replied' and message['To'] == 'sender@example.com'
text, status, original = message.get_payload()
for part in message.walk():
    assert not part.defects, (part.get_content_type(), part.defects)
assert 'This is the mail system at host relay.example.com.' in text.get_content()
blocks = status.get_payload()
assert blocks[0]['Reporting-MTA'] == 'dns; relay.example.com'
assert blocks[0]['Original-Envelope-Id'] == 'a+b'
one = blocks[1]
assert one['Final-Recipient'] == 'rfc822; user@dest.example', one.items()
assert one['Original-Recipient'] == 'rfc822; o+x@old.example'
assert one['Action'] == 'failed' and one['Status'] == '5.1.1'
assert one['Remote-MTA'] == 'dns; mx.dest.example'
assert one['Diagnostic-Code'].startswith('smtp; 550 5.1.1 No such user yyyy'), one['Diagnostic-Code']
assert original.get_content_type() == 'message/rfc822'
assert original.get_payload(0)['Subject'] == 'hi'
print('read')
"#;

#[test]
fn a_report_is_read_by_pythons_email() {
    let envelope = Envelope {
        id: QueueId::from_u64(7),
        submission: QueueId::from_u64(7),
        accepted_at: Timestamp::from_secs(1_795_255_200),
        release_at: Timestamp::from_secs(1_795_255_200),
        put_off_by: "".into(),
        held: false,
        expires_at: Timestamp::from_secs(1_795_255_200).after(Duration::from_secs(432_000)),
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        priority: 50,
        credential: "shop".into(),
        pool: "default".into(),
        reverse_path: ReversePath::Address("sender@example.com".parse().unwrap()),
        return_path: None,
        ret: None,
        envid: Some("a+2Bb".into()),
        author_domain: None,
        message_id: "m1@example.com".into(),
        marks: postrider::mail::Marks::default(),
        added_headers: Bytes::new(),
        body: BodyFacts::default(),
        recipients: vec![Recipient {
            address: "user@dest.example".parse().unwrap(),
            notify: Notify::Default,
            original: Some("rfc822;o+2Bx@old.example".into()),
        }],
    };
    let cause = Cause::Reply(Reply::new(550, &format!("5.1.1 No such user yyyy {}", "and more ".repeat(90))));
    let last = Outcome {
        at: Timestamp::from_secs(1_795_255_300),
        stage: Stage::Rcpt,
        host: "mx.dest.example".into(),
        address: Some("192.0.2.1".parse().unwrap()),
        cause,
    };
    let mut progress = Progress::new(1, Timestamp::ZERO);
    progress.recipients = vec![RecipientProgress { state: RecipientState::Failed, last: Some(last) }];
    let hostname = "relay.example.com".parse().unwrap();
    let report = write(&Report {
        hostname: &hostname,
        to: envelope.reverse_path.address().unwrap(),
        id: "ID1",
        boundary: "ID1.0123456789abcdef/relay.example.com",
        now: Timestamp::from_secs(1_795_255_301),
        envelope: &envelope,
        progress: &progress,
        events: &[Event { place: 0, action: Action::Failed }],
        original: Original::Whole(b"From: sender@example.com\r\nSubject: hi\r\n\r\nbody\r\n"),
    });
    let Some((fits, told)) = run("python3", &["-c", SCRIPT], &report) else { return };
    assert!(fits && told.trim() == "read", "{told}\n{}", String::from_utf8_lossy(&report));
}
