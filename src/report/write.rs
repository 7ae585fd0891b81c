//! Writes a report: multipart/report with its three parts. RFC 6522, RFC 3464, RFC 6533.
//!
//! The sender, the subjects, `Auto-Submitted: auto-replied`, the first line of the text, the form `<address>: host …
//! said: …` and the fields of the status part are those that programs which read bounces have known for decades.

use crate::mail::{
    Address, BodyFacts, Cause, Domain, EnhancedStatus, Envelope, Outcome, Progress, RecipientState, Stage,
};
use crate::time::Timestamp;

use super::due::{Action, Event};
use super::text::{Charset, clean, decode_xtext, field, original_recipient, paragraph};

/// How much of the original message is sent back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Original<'a> {
    /// All of it: a failure that asked for no less, of a message that is not too large.
    Whole(&'a [u8]),
    /// Its header block alone.
    Header(&'a [u8]),
    /// Nothing: it cannot be read any more.
    Lost,
}

/// Everything a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Our name: Reporting-MTA, and the domain of the From address.
    pub hostname: &'a Domain,
    /// Who is told: the reverse path.
    pub to: &'a Address,
    /// The Message-ID's left part: the report's own queue id.
    pub id: &'a str,
    /// What divides the parts; must not occur in them, so it holds random characters.
    pub boundary: &'a str,
    /// When it is written.
    pub now: Timestamp,
    /// What it is about.
    pub envelope: &'a Envelope,
    /// As settled.
    pub progress: &'a Progress,
    /// The recipients it is about, one or more.
    pub events: &'a [Event],
    /// What goes back.
    pub original: Original<'a>,
}

/// The report as a message: CRLF line ends, ended by CRLF. Lines are at most 998 octets if those of the original are.
pub fn write(report: &Report) -> Vec<u8> {
    let charset = charset(report);
    let mut out = Vec::with_capacity(4096 + returned(report).len());
    header(report, charset, &mut out);
    delimiter(report, &mut out);
    explanation(report, charset, &mut out);
    delimiter(report, &mut out);
    status(report, charset, &mut out);
    original(report, &mut out);
    put(&mut out, &["\r\n--", report.boundary, "--\r\n"]);
    out
}

fn put(out: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

fn delimiter(report: &Report, out: &mut Vec<u8>) {
    put(out, &["\r\n--", report.boundary, "\r\n"]);
}

fn returned<'a>(report: &Report<'a>) -> &'a [u8] {
    match report.original {
        Original::Whole(bytes) | Original::Header(bytes) => bytes,
        Original::Lost => b"",
    }
}

/// RFC 6533 §3: UTF-8 where an address needs it, else the form that every reader knows.
fn charset(report: &Report) -> Charset {
    let mut reported = report.events.iter().filter_map(|event| report.envelope.recipients.get(event.place));
    let needs_it = report.to.needs_smtputf8() || reported.any(|recipient| recipient.address.needs_smtputf8());
    if needs_it { Charset::Utf8 } else { Charset::Ascii }
}

fn has(report: &Report, action: Action) -> bool {
    report.events.iter().any(|event| event.action == action)
}

fn subject(report: &Report) -> &'static str {
    match (has(report, Action::Failed), has(report, Action::Delayed)) {
        (true, _) => "Undelivered Mail Returned to Sender",
        (false, true) => "Delayed Mail (still being retried)",
        (false, false) => "Successful Mail Delivery Report",
    }
}

fn header(report: &Report, charset: Charset, out: &mut Vec<u8>) {
    let hostname = report.hostname.as_str();
    let is_eight_bit = charset == Charset::Utf8 || !returned(report).is_ascii();
    let encoding = if is_eight_bit { "8bit" } else { "7bit" };
    put(out, &["Date: ", &report.now.rfc5322(), "\r\n"]);
    put(out, &["From: MAILER-DAEMON@", hostname, " (Mail Delivery System)\r\n"]);
    put(out, &["Subject: ", subject(report), "\r\n"]);
    put(out, &["To: ", &report.to.to_string(), "\r\n"]);
    put(out, &["Message-ID: <", report.id, "@", hostname, ">\r\n"]);
    if !report.envelope.message_id.is_empty() && report.envelope.message_id.is_ascii() {
        put(out, &["References: <", &report.envelope.message_id, ">\r\n"]);
    }
    // RFC 3834 §5, and what Exchange looks at.
    put(out, &["Auto-Submitted: auto-replied\r\nX-Auto-Response-Suppress: All\r\nMIME-Version: 1.0\r\n"]);
    let kind = match charset {
        Charset::Ascii => "delivery-status",
        Charset::Utf8 => "global-delivery-status",
    };
    put(out, &["Content-Type: multipart/report; report-type=", kind, ";\r\n\tboundary=\"", report.boundary, "\"\r\n"]);
    put(out, &["Content-Transfer-Encoding: ", encoding, "\r\n\r\n"]);
    put(out, &["This is a MIME-encapsulated message.\r\n"]);
}

/// The part for people.
fn explanation(report: &Report, charset: Charset, out: &mut Vec<u8>) {
    let (name, encoding) = match charset {
        Charset::Ascii => ("us-ascii", "7bit"),
        Charset::Utf8 => ("utf-8", "8bit"),
    };
    put(out, &["Content-Description: Notification\r\nContent-Type: text/plain; charset=", name, "\r\n"]);
    put(out, &["Content-Transfer-Encoding: ", encoding, "\r\n\r\n"]);
    put(out, &["This is the mail system at host ", report.hostname.as_str(), ".\r\n\r\n"]);
    let sentences = match (has(report, Action::Failed), has(report, Action::Delayed)) {
        (true, _) => {
            "Your message could not be delivered to the recipients below. It will not be tried again for those that \
             failed. What their mail systems said is quoted; your postmaster can tell you more."
        }
        (false, true) => {
            "This is a warning only: you need not send your message again. It has not been delivered yet to the \
             recipients below, and is still being tried."
        }
        (false, false) => {
            "Your message was handed to the mail systems of the recipients below. They send no reports of their own, \
             so this is the last you hear of it unless they return it."
        }
    };
    paragraph(out, "", sentences);
    for event in report.events {
        let Some(recipient) = report.envelope.recipients.get(event.place) else { continue };
        put(out, &["\r\n"]);
        let told = told(report, *event);
        paragraph(out, "", &format!("<{}>: {}", clean(&recipient.address.to_string(), charset), clean(&told, charset)));
    }
}

/// What happened to one recipient, as a sentence.
fn told(report: &Report, event: Event) -> String {
    let Some(recipient) = report.progress.recipients.get(event.place) else { return String::new() };
    let Some(last) = &recipient.last else { return "the delivery time expired".to_owned() };
    let peer = peer(last);
    let text = match (&last.cause, last.stage) {
        (Cause::Reply(reply), Stage::Greeting) => format!("host {peer} refused to talk to me: {reply}"),
        (Cause::Reply(reply), stage) => match command(stage) {
            Some(command) => format!("host {peer} said: {reply} (in reply to {command} command)"),
            None => format!("host {peer} said: {reply}"),
        },
        (Cause::Local { text, .. }, _) if last.host.is_empty() => text.to_string(),
        (Cause::Local { text, .. }, _) => format!("{text} (host {peer})"),
    };
    match (recipient.state, event.action) {
        (RecipientState::Expired, _) => format!("delivery time expired; the last attempt ended so: {text}"),
        _ => text,
    }
}

fn peer(outcome: &Outcome) -> String {
    match outcome.address {
        Some(address) => format!("{}[{address}]", outcome.host),
        None => outcome.host.to_string(),
    }
}

fn command(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Hello => Some("EHLO"),
        Stage::Tls => Some("STARTTLS"),
        Stage::Auth => Some("AUTH"),
        Stage::Mail => Some("MAIL FROM"),
        Stage::Rcpt => Some("RCPT TO"),
        Stage::Data => Some("DATA"),
        Stage::FinalDot => Some("end of DATA"),
        Stage::Resolve | Stage::Connect | Stage::Greeting | Stage::Local => None,
    }
}

/// The part for programs, RFC 3464 §2.
fn status(report: &Report, charset: Charset, out: &mut Vec<u8>) {
    let (kind, encoding) = match charset {
        Charset::Ascii => ("message/delivery-status", "7bit"),
        Charset::Utf8 => ("message/global-delivery-status", "8bit"),
    };
    put(out, &["Content-Description: Delivery report\r\nContent-Type: ", kind, "\r\n"]);
    put(out, &["Content-Transfer-Encoding: ", encoding, "\r\n\r\n"]);
    let envelope = report.envelope;
    field(out, "Reporting-MTA", &format!("dns; {}", report.hostname));
    if let Some(envid) = &envelope.envid {
        field(out, "Original-Envelope-Id", &decode_xtext(&clean(envid, Charset::Ascii)));
    }
    field(out, "X-Postrider-Queue-ID", &envelope.id.to_string());
    field(out, "X-Postrider-Sender", &typed(report.to, charset));
    field(out, "Arrival-Date", &envelope.accepted_at.rfc5322());
    if envelope.is_scheduled() && envelope.put_off_by.is_empty() {
        // RFC 4865, which updates RFC 3464 by this field. A quota of ours is no request of theirs.
        field(out, "Future-Release-Request", &format!("until;{}", envelope.release_at.rfc3339()));
    }
    for event in report.events {
        put(out, &["\r\n"]);
        recipient_status(report, *event, charset, out);
    }
}

/// `rfc822; a@b.example`, or `utf-8; …` (RFC 6533 §3).
fn typed(address: &Address, charset: Charset) -> String {
    let kind = if address.needs_smtputf8() && charset == Charset::Utf8 { "utf-8" } else { "rfc822" };
    format!("{kind}; {}", clean(&address.to_string(), charset))
}

fn recipient_status(report: &Report, event: Event, charset: Charset, out: &mut Vec<u8>) {
    let (Some(recipient), Some(progress)) =
        (report.envelope.recipients.get(event.place), report.progress.recipients.get(event.place))
    else {
        return;
    };
    field(out, "Final-Recipient", &typed(&recipient.address, charset));
    // RFC 3461 §6.3: only if the sender gave one.
    if let Some((kind, address)) = recipient.original.as_deref().and_then(original_recipient) {
        field(out, "Original-Recipient", &format!("{kind}; {address}"));
    }
    field(out, "Action", event.action.name());
    field(out, "Status", &code(progress.state, event.action, progress.last.as_ref()).to_string());
    if let Some(last) = &progress.last {
        if !last.host.is_empty() && matches!(last.cause, Cause::Reply(_)) {
            field(out, "Remote-MTA", &format!("dns; {}", clean(&last.host, charset)));
        }
        let diagnostic = match &last.cause {
            Cause::Reply(reply) => format!("smtp; {}", clean(&reply.to_string(), charset)),
            Cause::Local { text, .. } => format!("X-Postrider; {}", clean(text, charset)),
        };
        field(out, "Diagnostic-Code", &diagnostic);
        field(out, "Last-Attempt-Date", &last.at.rfc5322());
    }
    if event.action == Action::Delayed {
        field(out, "Will-Retry-Until", &report.envelope.expires_at.rfc5322());
    }
}

/// RFC 3463. The class must agree with the action, whatever a peer said.
fn code(state: RecipientState, action: Action, last: Option<&Outcome>) -> EnhancedStatus {
    let said = last.map(|outcome| outcome.cause.status());
    let in_class = |class: u8| match said {
        Some(status) => EnhancedStatus { class, ..status },
        None => EnhancedStatus::new(class, 0, 0),
    };
    match (action, state) {
        // "Delivery time expired": a transient failure that persisted.
        (Action::Failed, RecipientState::Expired) => EnhancedStatus::new(4, 4, 7),
        (Action::Failed, _) => in_class(5),
        (Action::Delayed, _) => in_class(4),
        (Action::Relayed | Action::Delivered, _) => in_class(2),
    }
}

/// The third part: what came to us.
fn original(report: &Report, out: &mut Vec<u8>) {
    let bytes = returned(report);
    let BodyFacts { utf8_headers, .. } = report.envelope.body;
    // RFC 6533 §5: a message with UTF-8 in its header is no message/rfc822.
    let kind = match (report.original, utf8_headers) {
        (Original::Whole(_), false) => "message/rfc822",
        (Original::Whole(_), true) => "message/global",
        (Original::Header(_), false) => "text/rfc822-headers",
        (Original::Header(_), true) => "message/global-headers",
        (Original::Lost, _) => return,
    };
    delimiter(report, out);
    put(out, &["Content-Description: Undelivered Message"]);
    put(out, &[if matches!(report.original, Original::Header(_)) { " Headers\r\n" } else { "\r\n" }]);
    put(out, &["Content-Type: ", kind, "\r\nContent-Transfer-Encoding: "]);
    put(out, &[if bytes.is_ascii() { "7bit" } else { "8bit" }, "\r\n\r\n"]);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;
    use crate::mail::{Notify, QueueId, Recipient, RecipientProgress, Reply, ReversePath, StreamKind};

    pub(in crate::report) fn envelope() -> Envelope {
        let accepted_at = Timestamp::from_secs(1_795_255_200);
        let recipient = |address: &str, original: Option<&str>| Recipient {
            address: address.parse().unwrap(),
            notify: Notify::Default,
            original: original.map(Into::into),
        };
        Envelope {
            id: QueueId::from_u64(7),
            submission: QueueId::from_u64(7),
            accepted_at,
            release_at: accepted_at,
            put_off_by: "".into(),
            held: false,
            expires_at: accepted_at.after(Duration::from_secs(432_000)),
            stream: "transactional".into(),
            kind: StreamKind::Transactional,
            priority: 50,
            credential: "shop".into(),
            pool: "transactional".into(),
            reverse_path: ReversePath::Address("sender@example.com".parse().unwrap()),
            return_path: None,
            ret: None,
            envid: Some("order+2B7+0Ax".into()),
            author_domain: Some("example.com".parse().unwrap()),
            message_id: "m1@example.com".into(),
            marks: crate::mail::Marks::default(),
            added_headers: bytes::Bytes::new(),
            body: BodyFacts::default(),
            recipients: vec![
                recipient("user@dest.example", Some("rfc822;us+2Ber@old.example")),
                recipient("late@dest.example", None),
            ],
        }
    }

    fn outcome(cause: Cause) -> Option<Outcome> {
        Some(Outcome {
            at: Timestamp::from_secs(1_795_255_300),
            stage: Stage::Rcpt,
            host: "mx.dest.example".into(),
            address: Some("192.0.2.1".parse().unwrap()),
            cause,
        })
    }

    fn progress(text: &str) -> Progress {
        let mut progress = Progress::new(2, Timestamp::ZERO);
        let reply = Cause::Reply(Reply::new(550, text));
        progress.recipients[0] = RecipientProgress { state: RecipientState::Failed, last: outcome(reply) };
        let local = Cause::local(EnhancedStatus::new(4, 4, 1), "connect to mx.dest.example: Connection timed out");
        progress.recipients[1] = RecipientProgress { state: RecipientState::Expired, last: outcome(local) };
        progress
    }

    const BOTH: [Event; 2] = [Event { place: 0, action: Action::Failed }, Event { place: 1, action: Action::Failed }];

    fn report(envelope: &Envelope, progress: &Progress, events: &[Event], original: Original) -> Vec<u8> {
        let hostname = "relay.example.com".parse().unwrap();
        let to = envelope.reverse_path.address().unwrap();
        write(&Report {
            hostname: &hostname,
            to,
            id: "ID1",
            boundary: "BOUND.1/relay.example.com",
            now: Timestamp::from_secs(1_795_255_301),
            envelope,
            progress,
            events,
            original,
        })
    }

    #[test]
    fn a_bounce_reads_as_bounce_parsers_expect_it() {
        let body = b"From: sender@example.com\r\nSubject: hi\r\n\r\nbody\r\n";
        let out = report(&envelope(), &progress("5.1.1 No such user"), &BOTH, Original::Whole(body));
        let text = std::str::from_utf8(&out).unwrap();
        for want in [
            "From: MAILER-DAEMON@relay.example.com (Mail Delivery System)\r\n",
            "Subject: Undelivered Mail Returned to Sender\r\n",
            "Auto-Submitted: auto-replied\r\n",
            "Content-Type: multipart/report; report-type=delivery-status;\r\n",
            "This is the mail system at host relay.example.com.\r\n",
            "\r\n<user@dest.example>: host mx.dest.example[192.0.2.1] said: 550 5.1.1 No such\r\n\
             user (in reply to RCPT TO command)\r\n",
            "Reporting-MTA: dns; relay.example.com\r\nOriginal-Envelope-Id: order+7+0Ax\r\n",
            "Final-Recipient: rfc822; user@dest.example\r\nOriginal-Recipient: rfc822; us+er@old.example\r\n\
             Action: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.dest.example\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n",
            "Final-Recipient: rfc822; late@dest.example\r\nAction: failed\r\nStatus: 4.4.7\r\n\
             Diagnostic-Code: X-Postrider; connect to mx.dest.example: Connection timed out\r\n",
            "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nFrom: sender@example.com\r\n",
        ] {
            assert!(text.contains(want), "{want}\nis not in\n{text}");
        }
        assert!(text.ends_with("\r\nbody\r\n\r\n--BOUND.1/relay.example.com--\r\n"));
    }

    #[test]
    fn a_report_about_a_scheduled_message_says_until_when_it_was_held() {
        let told = |envelope: &Envelope| {
            let out = report(envelope, &progress("5.1.1 No such user"), &BOTH, Original::Lost);
            String::from_utf8(out).unwrap()
        };
        let mut envelope = envelope();
        assert!(!told(&envelope).contains("Future-Release-Request"));
        envelope.release_at = envelope.accepted_at.after(Duration::from_secs(3600));
        let want = format!("\r\nFuture-Release-Request: until;{}\r\n", envelope.release_at.rfc3339());
        assert!(told(&envelope).contains(&want), "{}", told(&envelope));
    }

    #[test]
    fn a_report_has_three_parts_that_a_parser_finds() {
        let header = b"Subject: hi\r\n\r\n";
        let out = report(&envelope(), &progress("5.1.1 x"), &BOTH, Original::Header(header));
        let message = MessageParser::new().parse(&out).unwrap();
        let types: Vec<String> = message
            .parts
            .iter()
            .map(|part| {
                let kind = part.content_type().unwrap();
                format!("{}/{}", kind.c_type, kind.c_subtype.as_deref().unwrap_or_default())
            })
            .collect();
        assert_eq!(types, ["multipart/report", "text/plain", "message/delivery-status", "text/rfc822-headers"]);
        assert_eq!(message.subject(), Some("Undelivered Mail Returned to Sender"));
        let from = message.from().and_then(|from| from.first()).and_then(|from| from.address()).unwrap();
        assert_eq!(from, "MAILER-DAEMON@relay.example.com");
        let lost = report(&envelope(), &progress("x"), &BOTH, Original::Lost);
        assert_eq!(MessageParser::new().parse(&lost).unwrap().parts.len(), 3);
    }

    #[test]
    fn the_subject_and_the_status_follow_the_action() {
        let mut progress = progress("x");
        let rows = [
            (RecipientState::Pending, 450, Action::Delayed, "Delayed Mail (still being retried)", "Status: 4.0.0"),
            (RecipientState::Delivered, 250, Action::Relayed, "Successful Mail Delivery Report", "Status: 2.0.0"),
            (RecipientState::Delivered, 250, Action::Delivered, "Successful Mail Delivery Report", "Action: delivered"),
            (RecipientState::Failed, 450, Action::Failed, "Undelivered Mail Returned to Sender", "Status: 5.0.0"),
        ];
        for (state, code, action, subject, status) in rows {
            let last = outcome(Cause::Reply(Reply::new(code, "ok")));
            progress.recipients[0] = RecipientProgress { state, last };
            let out = report(&envelope(), &progress, &[Event { place: 0, action }], Original::Header(b"A: b\r\n"));
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(&format!("Subject: {subject}\r\n")), "{text}");
            assert!(text.contains(&format!("{status}\r\n")), "{text}");
            assert_eq!(text.contains("Will-Retry-Until: "), action == Action::Delayed);
        }
    }

    #[test]
    fn an_address_that_needs_utf8_makes_a_global_report() {
        let mut envelope = envelope();
        envelope.recipients[0].address = "\u{fc}ser@dest.example".parse().unwrap();
        envelope.body.utf8_headers = true;
        let body = "Subject: \u{fc}\r\n\r\nbody\r\n";
        let text =
            String::from_utf8(report(&envelope, &progress("gr\u{fc}n"), &BOTH, Original::Whole(body.as_bytes())))
                .unwrap();
        for want in [
            "report-type=global-delivery-status",
            "Content-Type: message/global-delivery-status",
            "Content-Type: message/global\r\n",
            "Final-Recipient: utf-8; \u{fc}ser@dest.example\r\n",
            "Content-Transfer-Encoding: 8bit",
            "smtp; 550 gr\u{fc}n",
        ] {
            assert!(text.contains(want), "{want}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_hostile_reply_can_add_no_field_no_part_and_no_long_line() {
        let hostile = [
            "x\r\n\r\n--BOUND.1/relay.example.com\r\nSubject: evil".to_owned(),
            "y".repeat(5000),
            "\u{1b}]0;x\u{7} \u{e9}\u{e9}".to_owned(),
            " ".repeat(900),
        ];
        let mut envelope = envelope();
        envelope.recipients[0].original = Some("rfc822;a+0D+0AStatus:+202.0.0".into());
        for text in hostile {
            let out = report(&envelope, &progress(&text), &BOTH, Original::Header(b"A: b\r\n\r\n"));
            assert!(out.is_ascii());
            let text = std::str::from_utf8(&out).unwrap();
            assert!(text.lines().all(|line| line.len() <= 200), "{text}");
            assert_eq!(text.matches("\r\n--BOUND").count(), 4, "{text}");
            assert_eq!(text.matches("\nStatus:").count(), 2, "{text}");
            assert!(!text.contains("\nSubject: evil"));
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            assert_eq!(text.matches('\r').count(), text.matches("\r\n").count());
        }
    }
}
