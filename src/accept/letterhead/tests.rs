//! What is added to whose mail, and what never is.

use bytes::Bytes;

use super::super::prepare::prepare;
use super::super::rewriting::Deed;
use super::super::settings::{Rights, Stream};
use super::super::{Origin, Submission};
use super::*;
use crate::mail::{Notify, QueueId, ReversePath};
use crate::message::Families;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);
const URL: &str = "https://mail.example.com/u";
const GOOD: &str = "From: a@example.com\r\nSubject: s\r\n\r\nbody\r\n";

fn keys() -> Keys {
    Keys::of(&[3; 32])
}

fn settings() -> Settings {
    let mut settings = Settings::new("relay.example.com".parse().unwrap());
    let marketing = Stream { kind: StreamKind::Marketing, ..Stream::default() };
    settings.streams.insert("news".into(), marketing);
    let rights = |stream: &str, return_path| Rights {
        stream: Some(stream.into()),
        from_domains: vec!["example.com".parse().unwrap(), "plain.example".parse().unwrap()],
        return_path,
        ..Rights::default()
    };
    settings.credentials.insert("shop".into(), rights("transactional", ReturnPath::Ours));
    settings.credentials.insert("list".into(), rights("news", ReturnPath::Ours));
    settings.credentials.insert("listmonk".into(), rights("news", ReturnPath::Client));
    let sending = |domain: &str, bounce: Option<&str>, feedback: Option<&str>, signed| Sending {
        domain: domain.parse().unwrap(),
        bounce_domain: bounce.map(|bounce| bounce.parse().unwrap()),
        feedback_address: feedback.map(|address| address.parse().unwrap()),
        signed,
    };
    settings.sendings = vec![
        sending("example.com", Some("bounce.example.com"), None, true),
        sending("cfbl.example.com", None, Some("fbl@example.com"), true),
        sending("plain.example", None, Some("fbl@plain.example"), false),
    ];
    settings.tokens = Some(keys());
    settings.unsubscribe_url = Some(URL.into());
    settings
}

struct Sent<'a> {
    credential: &'a str,
    from: Option<&'a str>,
    to: &'a [&'a str],
    message: &'a str,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Sent { credential: "list", from: Some("me@example.com"), to: &["ann@example.net"], message: GOOD }
    }
}

fn send(settings: &Settings, sent: &Sent) -> Vec<Envelope> {
    let submission = Submission {
        origin: Origin {
            client: None,
            hello: "c.example".into(),
            protocol: "ESMTPSA",
            tls: None,
            credential: Some(sent.credential.into()),
            from_anyone: false,
            listener_stream: None,
            listener_control: Families::NONE,
            hide_client: false,
            fix_headers: true,
            session: None,
        },
        reverse_path: sent.from.map_or(ReversePath::Null, |from| ReversePath::Address(from.parse().unwrap())),
        ret: None,
        envid: None,
        release_at: None,
        recipients: sent.to.iter().map(|to| (to.parse().unwrap(), Notify::Default, None)).collect(),
        message: Bytes::copy_from_slice(sent.message.as_bytes()),
        received_at: NOW,
    };
    let mut last = 0;
    let mut next_id = || {
        last += 1;
        QueueId::from_u64(last)
    };
    let mut admitted = prepare(settings, submission, &Deed::default(), &mut next_id).unwrap();
    give(settings, &admitted.head, &mut admitted.prepared.envelopes);
    admitted.prepared.envelopes
}

/// The added fields as name and value, folding taken out.
fn fields(envelope: &Envelope) -> Vec<(String, String)> {
    let text = String::from_utf8(envelope.added_headers.to_vec()).unwrap();
    assert!(text.is_empty() || text.ends_with("\r\n"));
    assert!(text.split("\r\n").all(|line| line.len() <= 998), "{text}");
    let unfolded = text.replace("\r\n\t", " ");
    let split = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    unfolded.lines().map(|line| split(line).unwrap()).collect()
}

fn names(envelope: &Envelope) -> String {
    fields(envelope).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

fn value(envelope: &Envelope, name: &str) -> String {
    fields(envelope).into_iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn marketing_mail_gets_a_path_and_a_link_for_each_recipient() {
    let to = ["ann@example.net", "Bob+x@example.net", "carl@example.org"];
    let envelopes = send(&settings(), &Sent { to: &to, ..Sent::default() });
    assert_eq!(envelopes.len(), 3);
    for (envelope, to) in envelopes.iter().zip(to) {
        let path = envelope.return_path.as_ref().unwrap();
        assert_eq!(path.domain().as_str(), "bounce.example.com");
        let token = keys().read(path.local(), NOW).unwrap();
        assert_eq!((token.kind, token.id, token.recipient), (Kind::ReturnPath, envelope.id, 0));
        // 14 days past the longest age, to the hour.
        let valid = token.expires_at.since(envelope.expires_at).as_secs();
        assert!((14 * 86_400..14 * 86_400 + 3600).contains(&valid), "{valid}");
        assert_eq!(envelope.reverse_path.to_string(), "me@example.com", "its sender still hears of trouble");

        let unsubscribe = value(envelope, "List-Unsubscribe");
        let (url, mailto) = unsubscribe.split_once(", ").unwrap();
        let token = url.strip_prefix("<https://mail.example.com/u/").and_then(|url| url.strip_suffix('>')).unwrap();
        let link = keys().open(token, NOW).unwrap();
        assert_eq!((link.address.to_string().as_str(), &*link.stream, link.id), (to, "news", envelope.id));
        assert!(link.expires_at >= NOW.after(Duration::from_secs(365 * 86_400)));
        assert!(!unsubscribe.contains("example.net"), "{unsubscribe}");
        let mailto = mailto.strip_prefix("<mailto:").and_then(|mailto| mailto.strip_suffix('>')).unwrap();
        let (address, subject) = mailto.split_once("?subject=unsubscribe%20").unwrap();
        let address: Address = address.parse().unwrap();
        assert_eq!(address.domain().as_str(), "bounce.example.com");
        assert_eq!(keys().read(address.local(), NOW).unwrap().kind, Kind::Unsubscribe);
        assert_eq!(subject, token);
        assert_eq!(value(envelope, "List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");

        let reference = keys().read(&value(envelope, REFERENCE_HEADER), NOW).unwrap();
        assert_eq!((reference.kind, reference.id), (Kind::Reference, envelope.id));
    }
    let feedback: Vec<String> = envelopes.iter().map(|envelope| value(envelope, "Feedback-ID")).collect();
    assert!(feedback.iter().all(|id| *id == feedback[0]), "{feedback:?}");
    assert_eq!(feedback[0].split(':').count(), 3, "credential, stream and sender: {feedback:?}");
}

#[test]
fn transactional_mail_is_split_by_domain_alone_and_gets_no_link() {
    let to = ["ann@example.net", "bob@example.net", "carl@example.org"];
    let envelopes = send(&settings(), &Sent { credential: "shop", to: &to, ..Sent::default() });
    let recipients: Vec<u16> = envelopes
        .iter()
        .map(|envelope| keys().read(envelope.return_path.as_ref().unwrap().local(), NOW).unwrap().recipient)
        .collect();
    assert_eq!(recipients, [WHOLE_ENVELOPE, 0]);
    for envelope in &envelopes {
        assert_eq!(names(envelope), "Feedback-ID X-Postrider-Ref");
    }
}

#[test]
fn who_has_a_path_and_a_link_and_who_has_none() {
    let from = |domain: &str, more: &str| format!("From: a@{domain}\r\n{more}Subject: s\r\n\r\nbody\r\n");
    let all = "Feedback-ID X-Postrider-Ref List-Unsubscribe List-Unsubscribe-Post";
    let without = |name: &str| all.split(' ').filter(|other| *other != name).collect::<Vec<_>>().join(" ");
    let unlinked = "Feedback-ID X-Postrider-Ref".to_owned();
    let sealing = |names: &str| format!("DKIM-Signature: v=1; d=x.example; h=From:{names}; b=x\r\n");
    let null = None;
    let me = Some("me@example.com");
    // Credential, MAIL FROM, author's domain, more fields; whether the path is ours; what is added.
    let rows = [
        ("list", me, "example.com", String::new(), true, all.to_owned()),
        ("list", me, "sub.example.com", String::new(), true, all.to_owned()),
        ("list", null, "example.com", String::new(), false, String::new()),
        ("listmonk", me, "example.com", String::new(), false, all.to_owned()),
        // A client's own fields stay alone.
        ("list", me, "example.com", "List-Unsubscribe: <https://x.example/>\r\n".into(), true, unlinked.clone()),
        ("list", me, "example.com", "list-unsubscribe: <mailto:x@y.example>\r\n".into(), true, unlinked.clone()),
        (
            "list",
            me,
            "example.com",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n".into(),
            true,
            without("List-Unsubscribe-Post"),
        ),
        ("list", me, "example.com", "Feedback-ID: a:b:c:d\r\n".into(), true, without("Feedback-ID")),
        ("list", me, "example.com", "X-Postrider-Ref: other\r\n".into(), true, all.to_owned()),
        // A foreign signature, which would break only where it signs that there is no such field.
        ("list", me, "example.com", sealing("To:Subject"), true, all.to_owned()),
        ("list", me, "example.com", sealing("List-Unsubscribe"), true, unlinked.clone()),
        ("list", me, "example.com", sealing("List-Unsubscribe-Post"), true, without("List-Unsubscribe-Post")),
        (
            "list",
            me,
            "example.com",
            sealing("Feedback-ID:X-Postrider-Ref"),
            true,
            "List-Unsubscribe List-Unsubscribe-Post".into(),
        ),
        // Complaints: under a signature alone.
        (
            "shop",
            me,
            "cfbl.example.com",
            String::new(),
            false,
            "Feedback-ID X-Postrider-Ref CFBL-Address CFBL-Feedback-ID".into(),
        ),
        ("shop", me, "cfbl.example.com", "CFBL-Address: x@example.com\r\n".into(), false, unlinked.clone()),
        // No key: no signature, no click.
        ("list", me, "plain.example", String::new(), false, without("List-Unsubscribe-Post")),
    ];
    for (credential, reverse_path, domain, more, is_ours, want) in rows {
        let message = from(domain, &more);
        let sent = Sent { credential, from: reverse_path, message: &message, ..Sent::default() };
        let envelopes = send(&settings(), &sent);
        let [envelope] = envelopes.as_slice() else { panic!("{envelopes:?}") };
        assert_eq!(envelope.return_path.is_some(), is_ours, "{credential} {domain} {more}");
        assert_eq!(names(envelope), want, "{credential} {domain} {more}");
    }
    let cfbl =
        send(&settings(), &Sent { credential: "shop", message: &from("cfbl.example.com", ""), ..Sent::default() });
    assert_eq!(value(&cfbl[0], "CFBL-Address"), "fbl@example.com; report=arf");
    assert_eq!(value(&cfbl[0], "CFBL-Feedback-ID"), value(&cfbl[0], "X-Postrider-Ref"));
}

#[test]
fn without_a_url_there_is_no_link_and_without_keys_nothing_at_all() {
    let two = ["ann@example.net", "bob@example.net"];
    let mut settings = settings();
    settings.unsubscribe_url = None;
    let envelopes = send(&settings, &Sent { to: &two, ..Sent::default() });
    assert_eq!(envelopes.len(), 2, "the return path is each recipient's");
    assert!(envelopes.iter().all(|envelope| names(envelope) == "Feedback-ID X-Postrider-Ref"));
    // Neither path nor link is personal: one transaction for both.
    let envelopes = send(&settings, &Sent { credential: "listmonk", to: &two, ..Sent::default() });
    assert_eq!(envelopes.len(), 1);
    settings.tokens = None;
    let envelopes = send(&settings, &Sent { to: &two, ..Sent::default() });
    assert!(envelopes.len() == 1 && envelopes[0].return_path.is_none() && envelopes[0].added_headers.is_empty());
}

#[test]
fn the_weight_is_no_less_than_what_the_spool_writes_of_it() {
    let mut envelopes = send(&settings(), &Sent { to: &["ann@example.net", "bob@example.net"], ..Sent::default() });
    let added = envelopes[0].added_headers.len();
    assert!((400..900).contains(&added), "{added}");
    let before = weight(&envelopes);
    assert!(before > 2 * (added + 400), "{before}");
    assert!(
        before / 2 * 100_000 < super::super::ENVELOPES_BYTES_MAX,
        "a newsletter to as many readers as a config allows"
    );
    envelopes[0].marks.tags = vec!["t".repeat(256).into()];
    envelopes[0].marks.metadata = vec![("k".into(), "v".repeat(4000).into())];
    assert_eq!(weight(&envelopes), before + 256 + 4001);
}

#[test]
fn the_longest_values_still_make_lines_that_can_be_sent() {
    let mut settings = settings();
    let long = format!("{0}.{0}.{0}.{1}", "d".repeat(63), "e".repeat(61));
    settings.unsubscribe_url = Some(format!("https://{}", "u".repeat(192)).into());
    settings.sendings[0].bounce_domain = long.parse().ok();
    let to = format!("\"{}\"@{long}", "\\\"".repeat(63));
    let envelopes = send(&settings, &Sent { to: &[&to], ..Sent::default() });
    let unsubscribe = value(&envelopes[0], "List-Unsubscribe");
    assert!(unsubscribe.contains("<mailto:") && unsubscribe.ends_with("?subject=unsubscribe>"), "{unsubscribe}");
    assert!(envelopes[0].return_path.as_ref().is_some_and(|path| path.local().len() <= 64));
}
