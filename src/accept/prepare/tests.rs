//! Every rule of the door, row by row.

use super::*;
use crate::mail::StreamKind;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

fn settings() -> Settings {
    let mut settings = Settings::new("relay.example.com".parse().unwrap());
    settings.postmaster = Some("ops@example.org".parse().unwrap());
    let marketing = Stream { kind: StreamKind::Marketing, pool: "bulk".into(), ..Stream::default() };
    settings.streams.insert("marketing".into(), marketing);
    let rights = |stream: Option<&str>, domains: &[&str]| Rights {
        stream: stream.map(Into::into),
        from_domains: domains.iter().map(|d| d.parse().unwrap()).collect(),
    };
    settings.credentials.insert("shop".into(), rights(None, &["example.com", "=exact.example"]));
    settings.credentials.insert("news".into(), rights(Some("marketing"), &["example.com"]));
    settings
}

fn submission(credential: Option<&str>, message: &str) -> Submission {
    Submission {
        origin: Origin {
            client: Some("192.0.2.9:4000".parse().unwrap()),
            hello: "client.example".into(),
            protocol: "ESMTPSA",
            tls: None,
            credential: credential.map(Into::into),
            listener_stream: None,
            hide_client: false,
            fix_headers: credential.is_some(),
        },
        reverse_path: ReversePath::Address("bounce@example.com".parse().unwrap()),
        ret: None,
        envid: None,
        recipients: vec![("to@dest.example".parse().unwrap(), Notify::Default, None)],
        message: Bytes::copy_from_slice(message.as_bytes()),
        received_at: NOW,
    }
}

fn run(submission: Submission) -> Result<Prepared, Refusal> {
    let mut last = 0;
    let mut next_id = || {
        last += 1;
        QueueId::from_u64(last)
    };
    prepare(&settings(), submission, &mut next_id).map(|admitted| admitted.prepared)
}

const GOOD: &str = "From: a@example.com\r\nSubject: s\r\n\r\nbody\r\n";

#[test]
fn a_credential_speaks_only_for_its_own_domains() {
    let rows = [
        ("From: a@example.com\r\n\r\n", true),
        ("From: a@deep.sub.example.com\r\n\r\n", true),
        ("From: a@exact.example\r\n\r\n", true),
        ("From: a@sub.exact.example\r\n\r\n", false),
        ("From: a@other.example\r\n\r\n", false),
        ("From: a@badexample.com\r\n\r\n", false),
        ("From: a@example.com, b@other.example\r\n\r\n", false),
        ("From: a@example.com\r\nSender: x@other.example\r\n\r\n", false),
        ("From: a@example.com\r\nSender: x@example.com\r\n\r\n", true),
        ("From: \"<ceo@other.example>\" <a@example.com>\r\n\r\n", false),
        ("From: ceo@other.example <a@example.com>\r\n\r\n", false),
        ("From: =?utf-8?q?=3Cceo=40other.example=3E?= <a@example.com>\r\n\r\n", false),
        ("From: (<ceo@other.example>) a@example.com\r\n\r\n", false),
        ("From: g: ceo@other.example;, a@example.com\r\n\r\n", false),
        ("From : a@other.example\r\n\r\n", false),
        ("From: a@example.com\r\nFrom : a@other.example\r\n\r\n", false),
        ("From: a@example.com\r\n \r\nFrom: a@other.example\r\n\r\n", false),
        ("From: a@ex\u{0430}mple.com\r\n\r\n", false),
        ("From: a@example.com\r\nReply-To: x@other.example\r\n\r\n", true),
        ("From: undisclosed:;\r\n\r\n", false),
        ("From: \r\n\r\n", false),
    ];
    for (message, fits) in rows {
        let got = run(submission(Some("shop"), message));
        assert_eq!(got.is_ok(), fits, "{message:?}: {:?}", got.err());
    }
    let mut forged = submission(Some("shop"), GOOD);
    forged.reverse_path = ReversePath::Address("a@other.example".parse().unwrap());
    let refusal = run(forged).unwrap_err();
    assert_eq!((refusal.code, refusal.status), (550, "5.7.1"));
    let mut null = submission(Some("shop"), GOOD);
    null.reverse_path = ReversePath::Null;
    assert!(run(null).is_ok());
    assert_eq!(run(submission(Some("gone"), GOOD)).unwrap_err().code, 550);
}

#[test]
fn a_field_that_stands_twice_or_is_missing_is_refused_with_its_name() {
    for name in ["From", "Sender", "Subject", "Date", "Message-ID"] {
        let field = format!("{name}: a@example.com\r\n");
        let first = if name == "From" { "" } else { "From: a@example.com\r\n" };
        let refusal = run(submission(Some("shop"), &format!("{first}{field}{field}\r\n"))).unwrap_err();
        assert_eq!((refusal.code, refusal.status), (550, "5.6.0"));
        assert!(refusal.text.contains(name), "{refusal}");
    }
    for message in ["Subject: s\r\n\r\nbody\r\n", "no header\r\n", ""] {
        let refusal = run(submission(Some("shop"), message)).unwrap_err();
        assert!(refusal.text.contains("no From field"), "{refusal}");
    }
    // A body's text is no field.
    assert!(run(submission(Some("shop"), "From: a@example.com\r\n\r\nFrom: x@other.example\r\n")).is_ok());
}

#[test]
fn a_trusted_network_is_relayed_as_it_is_and_our_own_host_gets_what_it_lacks() {
    let kept = |client: Option<&str>, fix_headers: bool| {
        let mut submission = submission(None, "Subject: s\r\n\r\nbody\r\n");
        submission.origin.client = client.map(|c| c.parse().unwrap());
        submission.origin.fix_headers = fix_headers;
        let prepared = run(submission).unwrap();
        String::from_utf8(prepared.body.to_vec()).unwrap()
    };
    let left = kept(Some("192.0.2.9:1"), false);
    assert!(left.starts_with("Received: from client.example ([192.0.2.9])\r\n"));
    assert!(left.ends_with("+0000\r\nSubject: s\r\n\r\nbody\r\n"), "{left}");
    for (client, fix) in
        [(Some("127.0.0.1:1"), false), (Some("[::1]:1"), false), (Some("192.0.2.9:1"), true), (None, false)]
    {
        let fixed = kept(client, fix);
        for want in ["\r\nDate: ", "\r\nFrom: <bounce@example.com>\r\n", "\r\nMessage-ID: <"] {
            assert!(fixed.contains(want), "{fixed}");
        }
    }
}

#[test]
fn the_client_is_hidden_where_the_listener_says_so() {
    let mut hidden = submission(Some("shop"), GOOD);
    hidden.origin.hide_client = true;
    let body = run(hidden).unwrap().body;
    let text = std::str::from_utf8(&body).unwrap();
    assert!(!text.contains("client.example") && !text.contains("192.0.2.9"), "{text}");
}

#[test]
fn a_message_that_goes_in_circles_is_stopped() {
    for (hops, fits) in [(50, true), (51, false)] {
        let message = format!("{}{GOOD}", "Received: by x\r\n".repeat(hops));
        let got = run(submission(Some("shop"), &message));
        assert_eq!(got.map_err(|r| (r.code, r.status)).err(), if fits { None } else { Some((554, "5.4.6")) });
    }
}

#[test]
fn a_header_over_its_limits_is_refused() {
    let message = format!("X: {}\r\n{GOOD}", "x ".repeat(200_000));
    assert_eq!(run(submission(Some("shop"), &message)).unwrap_err().status, "5.3.4");
}

#[test]
fn the_stream_is_the_credentials_then_the_listeners_then_the_default() {
    let rows = [
        (Some("news"), Some("transactional"), "marketing", StreamKind::Marketing),
        (Some("shop"), Some("marketing"), "marketing", StreamKind::Marketing),
        (Some("shop"), None, "transactional", StreamKind::Transactional),
        (None, Some("marketing"), "marketing", StreamKind::Marketing),
    ];
    for (credential, listener, want, kind) in rows {
        let mut submission = submission(credential, GOOD);
        submission.origin.listener_stream = listener.map(Into::into);
        let envelope = run(submission).unwrap().envelopes.remove(0);
        assert_eq!((&*envelope.stream, envelope.kind), (want, kind));
        assert_eq!(envelope.expires_at, NOW.after(std::time::Duration::from_secs(5 * 86_400)));
    }
    let mut lost = submission(Some("shop"), GOOD);
    lost.origin.listener_stream = Some("gone".into());
    assert_eq!(run(lost).unwrap_err().code, 451);
}

#[test]
fn recipients_are_kept_once_and_divided_by_domain() {
    let mut many = submission(Some("shop"), GOOD);
    let names = [
        "a@x.example",
        "b@y.example",
        "A@x.example",
        "a@X.example",
        "c@x.example",
        "Postmaster@relay.example.com",
        "abuse@relay.example.com",
    ];
    many.recipients = names.iter().map(|name| (name.parse().unwrap(), Notify::Default, None)).collect();
    let prepared = run(many).unwrap();
    let groups: Vec<Vec<String>> =
        prepared.envelopes.iter().map(|e| e.recipients.iter().map(|r| r.address.to_string()).collect()).collect();
    assert_eq!(
        groups,
        [vec!["a@x.example", "A@x.example", "c@x.example"], vec!["b@y.example"], vec!["ops@example.org"]]
    );
    let ids: Vec<u64> = prepared.envelopes.iter().map(|e| e.id.as_u64()).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert!(prepared.envelopes.iter().all(|e| e.submission.as_u64() == 1));
    // Several recipients are not told of each other.
    assert!(!String::from_utf8_lossy(&prepared.body).contains("for <"));
    let mut none = submission(Some("shop"), GOOD);
    none.recipients.clear();
    assert_eq!(run(none).unwrap_err().code, 554);
}

#[test]
fn no_envelope_has_more_recipients_than_every_peer_must_take() {
    let mut many = submission(Some("shop"), GOOD);
    many.recipients = (0..250).map(|n| (format!("u{n}@x.example").parse().unwrap(), Notify::Default, None)).collect();
    let prepared = run(many).unwrap();
    assert_eq!(prepared.envelopes.iter().map(|e| e.recipients.len()).collect::<Vec<_>>(), [100, 100, 50]);
}

#[test]
fn the_envelope_knows_its_author_and_its_message_id() {
    let message = "From: \"x@y.example\" <a@sub.example.com>\r\nMessage-ID: <id@sub.example.com>\r\n\r\n";
    let envelope = run(submission(Some("shop"), message)).unwrap().envelopes.remove(0);
    assert_eq!(envelope.author_domain.map(|d| d.to_string()).as_deref(), Some("sub.example.com"));
    assert_eq!(&*envelope.message_id, "id@sub.example.com");
    let made = run(submission(Some("shop"), GOOD)).unwrap().envelopes.remove(0);
    assert_eq!(&*made.message_id, "000000000001@relay.example.com");
}
