//! Every field of every family, and every way to ask for what is not done here.

use proptest::prelude::*;

use super::super::header::{HeaderLimits, scan};
use super::*;

fn all() -> Families {
    Family::ALL.into_iter().collect()
}

fn read_as(fields: &str, enabled: Families) -> Result<(Control, Vec<String>), ControlError> {
    let message = format!("From: a@example.com\r\n{fields}\r\n\r\nX-Stream: body\r\n");
    let mut header = scan(message.as_bytes(), HeaderLimits::NONE).unwrap();
    let read = control(&mut header, enabled)?;
    Ok((read, header.of(Kind::Control).map(|field| lossy(field.name)).collect()))
}

fn read(fields: &str) -> Result<Control, ControlError> {
    read_as(fields, all()).map(|(control, _)| control)
}

/// `stream NAME; tag NAME; KEY=VALUE; at TIME; kind KIND; engaged`, as far as there is any.
fn told(control: &Control) -> String {
    let mut parts: Vec<String> = control.streams.iter().map(|stream| format!("stream {}", stream.name)).collect();
    parts.extend(control.marks.tags.iter().map(|tag| format!("tag {tag}")));
    parts.extend(control.marks.metadata.iter().map(|(key, value)| format!("{key}={value}")));
    parts.extend(control.release_at.map(|at| format!("at {}", at.as_secs())));
    parts.extend(control.kind.as_ref().map(|(kind, _)| format!("kind {}", kind.name())));
    parts.extend(control.marks.engaged.then(|| "engaged".to_owned()));
    parts.join("; ")
}

#[test]
fn every_services_words_are_understood() {
    let rows = [
        ("Subject: no control", ""),
        ("X-Stream: otp", "stream otp"),
        ("x-stream:\r\n  otp ", "stream otp"),
        ("X-Stream: ", ""),
        ("X-Tag: a\r\nX-Tag: b\r\nX-Tag: a\r\nX-Tag: ", "tag a; tag b"),
        ("X-Tag: =?utf-8?q?Fr=C3=BChling?=", "tag Frühling"),
        ("X-Tag: =?utf-8?b?RnLDvGhsaW5n?=\r\n =?utf-8?q?_2026?=", "tag Frühling 2026"),
        ("X-Tag: Frühling", "tag Frühling"),
        ("X-Tag: a\u{1}b\tc", "tag a b c"),
        ("X-Metadata-Order: 7\r\nX-Metadata-Shop: de\r\nX-Metadata-Order: 8", "Shop=de; Order=8"),
        ("X-Metadata-: 7", ""),
        ("X-Deliver-At: Fri, 27 Nov 2026 10:00:00 +0100", "at 1795770000"),
        ("X-Deliver-At: 2026-11-27T09:00:00Z", "at 1795770000"),
        ("X-Deliver-At: 2026-11-27T10:00[Europe/Berlin]", "at 1795770000"),
        ("X-Engaged: yes", "engaged"),
        ("X-Engaged: no", ""),
        (
            "X-PM-Message-Stream: broadcast\r\nX-PM-Tag: welcome\r\nX-PM-Metadata-Color: red\r\nX-PM-TrackOpens: true",
            "stream broadcast; tag welcome; Color=red",
        ),
        (
            "X-Mailgun-Tag: a\r\nX-Mailgun-Tag: b\r\nX-Mailgun-Variables: {\"id\": 7}\r\nX-Mailgun-Variables: {\"b\": true}",
            "tag a; tag b; id=7; b=true",
        ),
        (
            "X-Mailgun-Deliver-By: Fri, 27 Nov 2026 09:00:00 +0000\r\nX-Mailgun-Track: no\r\nX-Mailgun-Drop-Message: no",
            "at 1795770000",
        ),
        ("X-Mailgun-Sending-Ip-Pool: warm", "stream warm"),
        (
            "X-SES-CONFIGURATION-SET: news\r\nX-SES-MESSAGE-TAGS: campaign=spring, list=a",
            "stream news; tag campaign=spring; tag list=a; campaign=spring; list=a",
        ),
        ("X-SES-SOURCE-ARN: arn:aws:ses", ""),
        (
            "X-SMTPAPI: {\"category\": [\"a\", \"b\"], \"unique_args\": {\"id\": 7, \"x\": \"y\"}, \"ip_pool\": \"warm\",\r\n \
         \"send_at\": 1795770000, \"filters\": {\"opentrack\": {\"settings\": {\"enable\": 1}}}}",
            "stream warm; tag a; tag b; id=7; x=y; at 1795770000",
        ),
        ("X-SMTPAPI: {\"category\": \"one\", \"to\": [], \"sub\": {}, \"asm_group_id\": 14}", "stream 14; tag one"),
        ("X-SMTPAPI: {\"filters\": {\"footer\": {\"settings\": {\"enable\": 0}}}}", ""),
        ("X-SMTPAPI: {}", ""),
        (
            "X-MSYS-API: {\"campaign_id\": \"c\", \"tags\": [\"t\"], \"metadata\": {\"a\": {\"b\": [1]}}, \"options\": \
         {\"ip_pool\": \"warm\", \"open_tracking\": false, \"transactional\": true}}",
            "stream warm; tag c; tag t; a={\"b\":[1]}; kind transactional",
        ),
        (
            "X-MSYS-API: {\"options\": {\"transactional\": false, \"start_time\": \"2026-11-27T09:00:00Z\"}}",
            "at 1795770000; kind marketing",
        ),
        (
            "X-MC-Tags: a, b\r\nX-MC-Metadata: {\"k\": \"v\"}\r\nX-MC-SendAt: 2026-11-27 09:00:00\r\nX-MC-IpPool: warm\r\n\
         X-MC-Track: opens",
            "stream warm; tag a; tag b; k=v; at 1795770000",
        ),
        (
            "X-Mailjet-Campaign: c\r\nX-MJ-CustomID: 7\r\nX-MJ-EventPayload: p\r\nX-Mailjet-Prio: 2",
            "tag c; custom_id=7; event_payload=p",
        ),
        ("IsTransactional: false\r\nPoolName: warm\r\nPostBack: p", "stream warm; postback=p; kind marketing"),
        ("X-Postal-Tag: t\r\nSC-Custom-Id: 7", "tag t; Id=7"),
        ("X-Virtual-MTA: a\r\nX-Job: j\r\nX-Sending-Zone: b", "stream a; stream b; tag j"),
    ];
    for (fields, want) in rows {
        let got = read(fields).map(|control| told(&control));
        assert_eq!(got.as_deref(), Ok(want), "{fields}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_place_and_a_reason() {
    let rows = [
        (
            "X-SMTPAPI: {\"to\": [\"a@b.example\"]}",
            "X-SMTPAPI's to cannot be honoured: recipients are those of the env",
        ),
        ("X-SMTPAPI: {\"sub\": {\"-n-\": [\"a\"]}}", "X-SMTPAPI's sub cannot be honoured: content is not changed here"),
        ("X-SMTPAPI: {\"section\": {\"s\": \"x\"}}", "X-SMTPAPI's section cannot be honoured: content"),
        ("X-SMTPAPI: {\"send_each_at\": [1]}", "X-SMTPAPI's send_each_at cannot be honoured: recipients"),
        (
            "X-SMTPAPI: {\"filters\": {\"bcc\": {\"settings\": {\"enable\": 1, \"email\": \"a@b.example\"}}}}",
            "X-SMTPAPI's filters.bcc cannot be honoured: recipients",
        ),
        (
            "X-SMTPAPI: {\"filters\": {\"template\": {\"settings\": {\"enable\": \"1\"}}}}",
            "X-SMTPAPI's filters.template cannot be honoured: content",
        ),
        ("X-SMTPAPI: {}\r\nx-smtpapi: {}", "x-smtpapi cannot be honoured: it stands twice"),
        ("X-SMTPAPI: {\"send_at\": \"soon\"}", "X-SMTPAPI's send_at cannot be read: seconds since 1970"),
        ("X-SMTPAPI: {\"send_at\": -5}", "X-SMTPAPI's send_at cannot be read: seconds since 1970"),
        ("X-SMTPAPI: {\"category\": [[1]]}", "X-SMTPAPI's category cannot be read: a text is expected, not \"[1]\""),
        ("X-SMTPAPI: {\"unique_args\": 7}", "X-SMTPAPI's unique_args cannot be read: a JSON object in braces"),
        ("X-SMTPAPI: [1]", "X-SMTPAPI cannot be read: a JSON object in braces"),
        ("X-SMTPAPI: {\"a\": ", "X-SMTPAPI cannot be read: this is not JSON: EOF"),
        ("X-SMTPAPI: ", "X-SMTPAPI cannot be read: this is not JSON: EOF"),
        ("X-MSYS-API: {\"cc\": [{\"email\": \"a@b.example\"}]}", "X-MSYS-API's cc cannot be honoured: recipients"),
        ("X-MSYS-API: {\"archive\": [1]}", "X-MSYS-API's archive cannot be honoured"),
        ("X-MSYS-API: {\"options\": {\"sandbox\": true}}", "X-MSYS-API's options.sandbox cannot be honoured"),
        ("X-MSYS-API: {\"options\": {\"inline_css\": true}}", "X-MSYS-API's options.inline_css cannot be honoured"),
        ("X-Mailgun-Drop-Message: yes", "X-Mailgun-Drop-Message cannot be honoured: it asks for a message that is not"),
        ("X-Mailgun-Recipient-Variables: {\"a@b.example\": {}}", "X-Mailgun-Recipient-Variables cannot be honoured"),
        ("X-Mailgun-Template-Name: welcome", "X-Mailgun-Template-Name cannot be honoured: content"),
        ("X-Mailgun-Require-TLS: true", "X-Mailgun-Require-TLS cannot be honoured: TLS is asked for in the config"),
        ("X-Mailgun-Variables: 7", "X-Mailgun-Variables cannot be read: a JSON object in braces"),
        ("X-SES-LIST-MANAGEMENT-OPTIONS: news", "X-SES-LIST-MANAGEMENT-OPTIONS cannot be honoured: SES leaves out"),
        ("X-SES-MESSAGE-TAGS: spring", "X-SES-MESSAGE-TAGS cannot be read: pairs such as campaign=spring"),
        ("X-MC-BccAddress: a@b.example", "X-MC-BccAddress cannot be honoured: recipients"),
        ("X-MC-Template: t", "X-MC-Template cannot be honoured: content"),
        ("X-MJ-TemplateID: 5", "X-MJ-TemplateID cannot be honoured: content"),
        ("X-Deliver-At: tomorrow", "X-Deliver-At cannot be read: a time such as"),
        ("X-Deliver-At: 2026-11-27T09:00:00", "X-Deliver-At cannot be read: it names no zone"),
        ("X-Deliver-At: 2026-11-27T09:00[Mars/Olympus]", "X-Deliver-At cannot be read: there is no such time"),
    ];
    for (fields, want) in rows {
        let error = read(fields).expect_err(fields).to_string();
        assert!(error.starts_with(want), "{fields}: {error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn tags_and_metadata_are_bounded_and_the_refusal_names_the_bound() {
    let fields = |name: &str, count: usize, value: &str| {
        (0..count).map(|n| format!("{name}{n}: {value}{n}")).collect::<Vec<_>>().join("\r\n")
    };
    let tags = |count: usize| (0..count).map(|n| format!("X-Tag: t{n}")).collect::<Vec<_>>().join("\r\n");
    assert_eq!(read(&tags(16)).unwrap().marks.tags.len(), 16);
    assert_eq!(read(&tags(17)).unwrap_err().to_string(), "the message's tags may have 16 tags, and has 17");
    let word = |length: usize| format!("X-Tag: {}", "a".repeat(length));
    assert!(read(&word(256)).is_ok());
    assert_eq!(read(&word(257)).unwrap_err().to_string(), "a tag may have 256 octets, and has 257");
    assert_eq!(read(&fields("X-Metadata-k", 64, "v")).unwrap().marks.metadata.len(), 64);
    let error = read(&fields("X-Metadata-k", 65, "v")).unwrap_err().to_string();
    assert_eq!(error, "the metadata may have 64 pairs, and has 65");
    let error = read(&fields("X-Metadata-k", 5, &"v".repeat(1000))).unwrap_err().to_string();
    assert!(error.starts_with("the metadata may have 4096 octets, and has "), "{error}");
    let key = format!("X-Metadata-{}: v", "k".repeat(257));
    assert!(read(&key).unwrap_err().to_string().starts_with("a key of the metadata may have 256 octets"));
    let long = format!("X-SMTPAPI: {{\"x\": \"{}\"}}", "a".repeat(70_000));
    assert_eq!(read(&long).unwrap_err().to_string(), "X-SMTPAPI may have 65536 octets");
    let deep = format!("X-SMTPAPI: {{\"x\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert!(read(&deep).unwrap_err().to_string().contains("recursion limit exceeded"));
}

#[test]
fn only_enabled_families_count_and_all_their_fields_are_marked() {
    let fields = "X-PM-Tag: a\r\nX-PM-Unheard-Of: b\r\nX-Mailgun-Tag: c\r\nX-SMTPAPI: nonsense\r\nX-Mailer: d";
    let enabled = [Family::Postmark, Family::Mailgun].into_iter().collect();
    let (control, marked) = read_as(fields, enabled).unwrap();
    assert_eq!(told(&control), "tag a; tag c");
    assert_eq!(marked, ["X-PM-Tag", "X-PM-Unheard-Of", "X-Mailgun-Tag"]);
    assert_eq!(control.ignored.as_deref(), Some("X-SMTPAPI"));
    let (control, marked) = read_as(fields, Families::NONE).unwrap();
    assert_eq!((told(&control).as_str(), marked.len()), ("", 0));
    assert_eq!(control.ignored.as_deref(), Some("X-PM-Tag"));
}

#[test]
fn families_are_a_set() {
    for family in Family::ALL {
        let one: Families = [family].into_iter().collect();
        assert!(Family::ALL.into_iter().all(|other| one.has(other) == (other == family)), "{}", family.name());
        assert!(!one.is_empty() && all().has(family) && !Families::NONE.has(family));
    }
}

#[test]
fn a_quoted_word_is_short_and_harmless() {
    assert_eq!(quoted("a\r\nb"), "\"a\\r\\nb\"");
    assert_eq!(quoted(&"ü".repeat(70)), format!("\"{}\"…", "ü".repeat(60)));
}

proptest! {
    #[test]
    fn whatever_they_say_what_is_kept_is_bounded_and_a_refusal_is_short(
        fields in "((X-(Stream|Tag|SMTPAPI|MSYS-API|MC-Tags|MC-SendAt|Deliver-At|SES-Message-Tags|Metadata-[a-z]{0,300})\
                   |PoolName): ([ -~\\x01é]{0,80}|\\{(\"(to|category|ip_pool|options|x)\": ?[\\[{\"0-9]{0,3}[\\]}\"]{0,3},?){0,4}\\})\r\n){0,25}"
    ) {
        match read(fields.trim_end()) {
            Ok(Control { marks, .. }) => {
                prop_assert!(marks.tags.len() <= Marks::TAGS_MAX && marks.metadata.len() <= Marks::PAIRS_MAX);
                prop_assert!(marks.tags.iter().all(|tag| tag.len() <= Marks::WORD_LENGTH_MAX));
                prop_assert!(!marks.tags.iter().any(|tag| tag.is_empty() || tag.contains(char::is_control)));
            }
            Err(error) => prop_assert!(error.to_string().len() < 800, "{}", error),
        }
    }
}
