//! Every rule of the door, row by row.

use super::*;
use crate::message::{Families, Family};
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
        control: Families::NONE,
        ..Rights::default()
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
            from_anyone: false,
            listener_stream: None,
            listener_control: Families::NONE,
            hide_client: false,
            fix_headers: credential.is_some(),
            session: None,
        },
        reverse_path: ReversePath::Address("bounce@example.com".parse().unwrap()),
        ret: None,
        envid: None,
        release_at: None,
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
    prepare(&settings(), submission, &Deed::default(), &mut next_id).map(|admitted| admitted.prepared)
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

/// The door's settings with streams that foreign names lead to, and a credential that may use control headers.
fn with_control(families: &[Family]) -> Settings {
    let mut settings = settings();
    let otp = Stream { max_age: std::time::Duration::from_secs(900), pool: "codes".into(), ..Stream::default() };
    settings.streams.insert("otp".into(), otp);
    settings.stream_aliases.insert("broadcast".into(), "marketing".into());
    settings.stream_aliases.insert("14".into(), "marketing".into());
    settings.credentials.get_mut("shop").unwrap().control = families.iter().copied().collect();
    settings
}

fn run_with(settings: &Settings, submission: Submission) -> Result<Prepared, Refusal> {
    prepare(settings, submission, &Deed::default(), &mut || QueueId::from_u64(1)).map(|admitted| admitted.prepared)
}

#[test]
fn an_allowed_header_chooses_the_stream_and_does_not_leave() {
    let settings = with_control(&[Family::Postrider, Family::Postmark, Family::Sendgrid, Family::Sparkpost]);
    let chosen = |fields: &str| {
        let message = format!("From: a@example.com\r\n{fields}Subject: s\r\n\r\nbody\r\n");
        let prepared = run_with(&settings, submission(Some("shop"), &message))?;
        let body = String::from_utf8(prepared.body.to_vec()).unwrap();
        assert!(body.ends_with("From: a@example.com\r\nSubject: s\r\n\r\nbody\r\n"), "{body}");
        let envelope = &prepared.envelopes[0];
        assert_eq!(envelope.longest_age(), settings.streams[&envelope.stream].max_age);
        assert_eq!(envelope.pool, settings.streams[&envelope.stream].pool);
        Ok::<String, Refusal>(envelope.stream.to_string())
    };
    let rows = [
        ("", "transactional"),
        ("X-Stream: otp\r\n", "otp"),
        ("X-PM-Message-Stream: broadcast\r\n", "marketing"),
        ("X-Stream: marketing\r\nX-PM-Message-Stream: broadcast\r\n", "marketing"),
        ("X-SMTPAPI: {\"asm_group_id\": 14}\r\n", "marketing"),
        ("X-SMTPAPI: {\"asm_group_id\": 15}\r\n", "transactional"),
        ("X-MSYS-API: {\"options\": {\"transactional\": false}}\r\n", "marketing"),
        ("X-MSYS-API: {\"options\": {\"transactional\": true}}\r\n", "transactional"),
        ("X-MSYS-API: {\"options\": {\"transactional\": true, \"ip_pool\": \"otp\"}}\r\n", "otp"),
    ];
    for (fields, want) in rows {
        assert_eq!(chosen(fields).as_deref(), Ok(want), "{fields}");
    }
    let rows = [
        (
            "X-Stream: Otp\r\n",
            "X-Stream names the stream \"Otp\", which is unknown; there are marketing, otp, transact",
        ),
        ("X-SMTPAPI: {\"ip_pool\": \"warm\"}\r\n", "X-SMTPAPI's ip_pool names the stream \"warm\", which is unknown"),
        (
            "X-Stream: otp\r\nX-PM-Message-Stream: broadcast\r\n",
            "X-Stream chooses the stream otp, and X-PM-Message-Stream the stream marketing",
        ),
        ("X-SMTPAPI: {\"to\": [\"a@b.example\"]}\r\n", "X-SMTPAPI's to cannot be honoured: "),
    ];
    for (fields, want) in rows {
        let refusal = chosen(fields).unwrap_err();
        assert_eq!((refusal.code, refusal.status), (550, "5.7.1"), "{fields}");
        assert!(refusal.text.starts_with(want), "{fields}: {}", refusal.text);
    }
    assert_eq!(chosen("X-SMTPAPI: [\r\n").unwrap_err().status, "5.6.0");
}

#[test]
fn a_header_that_is_not_allowed_means_nothing_and_passes_untouched() {
    let settings = with_control(&[Family::Postmark]);
    let message = "From: a@example.com\r\nX-Stream: marketing\r\nX-SMTPAPI: {\"to\": [1]}\r\n\r\nbody\r\n";
    let admitted =
        prepare(&settings, submission(Some("shop"), message), &Deed::default(), &mut || QueueId::from_u64(1)).unwrap();
    assert_eq!(admitted.ignored.as_deref(), Some("X-Stream"));
    let envelope = &admitted.prepared.envelopes[0];
    assert_eq!((&*envelope.stream, envelope.marks.tags.len()), ("transactional", 0));
    assert!(String::from_utf8(admitted.prepared.body.to_vec()).unwrap().contains(&message[..70]));

    // Without a credential the listener says what counts.
    let mut relayed = submission(None, "From: a@b.example\r\nX-Stream: otp\r\nX-Tag: t\r\n\r\nbody\r\n");
    relayed.origin.listener_control = [Family::Postrider].into_iter().collect();
    let envelope = run_with(&settings, relayed).unwrap().envelopes.remove(0);
    assert_eq!((&*envelope.stream, &*envelope.marks.tags[0]), ("otp", "t"));
}

#[test]
fn a_message_is_released_at_the_later_of_the_times_that_were_asked_for() {
    let settings = with_control(&[Family::Postrider]);
    let later = |secs: u64| Timestamp::from_secs(NOW.as_secs() + secs);
    let run = |header: Option<u64>, parameter: Option<u64>| {
        let field = header.map(|secs| format!("X-Deliver-At: {}\r\n", later(secs).rfc3339())).unwrap_or_default();
        let mut submission = submission(Some("shop"), &format!("{field}{GOOD}"));
        submission.release_at = parameter.map(later);
        run_with(&settings, submission).map(|prepared| prepared.envelopes[0].clone())
    };
    let month = 30 * 86_400;
    for (header, parameter, want) in [
        (None, None, 0),
        (Some(3600), None, 3600),
        (None, Some(60), 60),
        (Some(60), Some(3600), 3600),
        (Some(month), None, month),
    ] {
        let envelope = run(header, parameter).unwrap();
        assert_eq!(envelope.release_at, later(want));
        assert_eq!(envelope.expires_at, later(want + 5 * 86_400), "the longest age counts from then");
        assert_eq!((envelope.accepted_at, envelope.is_scheduled()), (NOW, want > 0));
        assert_eq!(envelope.untried().due, later(want));
        // Let go before its time, its waits grow with its age; from its time on they begin anew.
        assert_eq!(envelope.tried_since(NOW), NOW);
        assert_eq!(envelope.tried_since(later(want + 1)), later(want));
    }
    let refusal = run(Some(month + 1), None).unwrap_err();
    assert_eq!((refusal.code, refusal.status), (550, "5.7.1"));
    assert!(refusal.text.contains("2592000 seconds ahead are allowed at most"), "{refusal}");
    let past = submission(Some("shop"), &format!("X-Deliver-At: 2020-01-01T00:00:00Z\r\n{GOOD}"));
    assert_eq!(run_with(&settings, past).unwrap().envelopes[0].release_at, NOW, "a time that passed is now");
}

#[test]
fn every_envelope_of_a_submission_has_its_marks() {
    let settings = with_control(&[Family::Postrider]);
    let mut two = submission(Some("shop"), &format!("X-Tag: spring\r\nX-Metadata-a: b\r\nX-Engaged: yes\r\n{GOOD}"));
    two.recipients.push(("x@other.example".parse().unwrap(), Notify::Default, None));
    for envelope in run_with(&settings, two).unwrap().envelopes {
        assert_eq!(
            (&*envelope.marks.tags[0], envelope.marks.metadata.len(), envelope.marks.engaged),
            ("spring", 1, true)
        );
    }
}
