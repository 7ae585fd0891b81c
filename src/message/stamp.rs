//! What a message gets on its way in: a Received field, the fields it lacks, and short lines. RFC 6409 §8, RFC 5321 §4.4.
//!
//! Called by the door for every message, once. One new buffer, one copy; nothing but what is named here is changed.

use std::net::IpAddr;

use crate::mail::{Address, BodyFacts, Domain, QueueId};
use crate::time::Timestamp;

use super::header::{HeaderBlock, Kind};
use super::mend::{Warning, shorten_lines};
use super::transfer::has_long_line;

/// Room for what is put on top, so that the buffer is made once.
const STAMP_LENGTH: usize = 768;

/// What a Received field says.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// The name in EHLO; `None` where the client is to be hidden, or there was none.
    pub hello: Option<&'a str>,
    /// The client's address, under the same condition.
    pub client: Option<IpAddr>,
    /// `TLSv1.3 with cipher …`, if under TLS.
    pub tls: Option<&'a str>,
    /// Our name.
    pub by: &'a Domain,
    /// ESMTPSA and its kin (RFC 3848, RFC 6531 §3.7.3).
    pub protocol: &'a str,
    /// What the client will read after "queued as".
    pub id: QueueId,
    /// The recipient, if there is exactly one: several would tell each other's (RFC 5321 §7.6).
    pub recipient: Option<&'a Address>,
    /// When it came.
    pub at: Timestamp,
}

/// Which missing fields are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing<'a> {
    /// None: a relayed message (RFC 5321 §6.4).
    Left,
    /// Date and Message-ID; and From, if an address is given (as Postfix does for mail of its own host).
    Added {
        /// Who wrote it, if it does not say.
        author: Option<&'a Address>,
    },
}

/// A message ready to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamped {
    /// CRLF line ends as before, no line over 998 octets, ended by CRLF, with an empty line after its header.
    pub message: Vec<u8>,
    /// What it is like.
    pub facts: BodyFacts,
    /// Its Message-ID without angle brackets; empty if there is none.
    pub message_id: Box<str>,
    /// What had to be done that its sender may not like.
    pub warning: Option<Warning>,
}

/// Composes the message that is kept. `message` has CRLF line ends only, and `header` is its scan.
pub fn stamp(message: &[u8], header: &HeaderBlock, trace: &Trace, missing: Missing) -> Stamped {
    let mut out = Vec::with_capacity(message.len() + STAMP_LENGTH);
    received(trace, &mut out);
    let has = |kind: Kind| header.of(kind).next().is_some();
    let mut message_id: Box<str> = header.of(Kind::MessageId).next().map_or("".into(), |f| bare_id(f.value));
    if let Missing::Added { author } = missing {
        if !has(Kind::Date) {
            put(&mut out, &["Date: ", &trace.at.rfc5322(), "\r\n"]);
        }
        if let Some(author) = author.filter(|_| !has(Kind::From)) {
            put(&mut out, &["From: <", &author.to_string(), ">\r\n"]);
        }
        if !has(Kind::MessageId) {
            message_id = format!("{}@{}", trace.id, trace.by).into();
            put(&mut out, &["Message-ID: <", &message_id, ">\r\n"]);
        }
    }
    let foreign_signature = copy_fields(message, header, &mut out);
    let body = message.get(header.body_start..).unwrap_or_default();
    out.extend_from_slice(b"\r\n");
    let header_bytes = out.len();
    let utf8_headers = !out.is_ascii();
    let is_long = has_long_line(&out) || has_long_line(body);
    out.extend_from_slice(body);
    // RFC 5321 §4.1.1.4: the last line end is part of the message.
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    let facts = BodyFacts {
        size_bytes: out.len() as u64,
        header_bytes: u32::try_from(header_bytes).unwrap_or(u32::MAX),
        eight_bit: !body.is_ascii(),
        utf8_headers,
        foreign_signature,
    };
    match is_long {
        true => shortened(&out, facts, message_id),
        false => Stamped { message: out, facts, message_id, warning: None },
    }
}

/// What a message as it stands is like: for one that we wrote ourselves.
pub fn facts(message: &[u8], header: &HeaderBlock) -> BodyFacts {
    BodyFacts {
        size_bytes: message.len() as u64,
        header_bytes: u32::try_from(header.body_start).unwrap_or(u32::MAX),
        eight_bit: !message.get(header.body_start..).unwrap_or_default().is_ascii(),
        utf8_headers: !message.get(..header.body_start).unwrap_or_default().is_ascii(),
        foreign_signature: header.of(Kind::DkimSignature).next().is_some(),
    }
}

fn shortened(message: &[u8], before: BodyFacts, message_id: Box<str>) -> Stamped {
    let (message, warning) = shorten_lines(message);
    let facts = match super::header::scan(&message, super::header::HeaderLimits::NONE) {
        Ok(header) => facts(&message, &header),
        Err(_) => before,
    };
    Stamped { message, facts, message_id, warning }
}

/// Copies all fields but those that must not travel, in as few pieces as there are. Says whether a signature is among
/// them.
fn copy_fields(message: &[u8], header: &HeaderBlock, out: &mut Vec<u8>) -> bool {
    let signed = header.of(Kind::DkimSignature).next().is_some();
    let mut from = 0;
    for field in &header.fields {
        // RFC 5322 §3.6.3: Bcc is for the sender's eyes. RFC 5321 §4.4: Return-Path is the last host's to write.
        let is_dropped = matches!(field.kind, Kind::Bcc | Kind::ResentBcc | Kind::ReturnPath | Kind::Control);
        // RFC 5322 §4.5 lets white space stand before the colon, must not be generated, and verifiers of signatures
        // differ about whose field it is then.
        let colon = field.start + field.name.len();
        let is_spaced = !signed && message.get(colon) != Some(&b':');
        if !is_dropped && !is_spaced {
            continue;
        }
        out.extend_from_slice(message.get(from..field.start).unwrap_or_default());
        from = field.end;
        if !is_dropped {
            out.extend_from_slice(field.name);
            from = colon + message.get(colon..).and_then(|rest| memchr::memchr(b':', rest)).unwrap_or(0);
        }
    }
    out.extend_from_slice(message.get(from..header.end).unwrap_or_default());
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    signed
}

fn put(out: &mut Vec<u8>, texts: &[&str]) {
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
}

/// RFC 5321 §4.4. The lines stay under 998 octets whatever the client called itself: 255 for the name, 320 for a path.
fn received(trace: &Trace, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Received: ");
    if let Some(hello) = trace.hello {
        out.extend_from_slice(b"from ");
        out.extend(hello.bytes().take(255).map(|b| if is_name_byte(b) { b } else { b'?' }));
        match trace.client {
            Some(IpAddr::V4(address)) => put(out, &[" ([", &address.to_string(), "])"]),
            Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(address) => put(out, &[" ([", &address.to_string(), "])"]),
                None => put(out, &[" ([IPv6:", &address.to_string(), "])"]),
            },
            None => {}
        }
        out.extend_from_slice(b"\r\n\t");
        if let Some(tls) = trace.tls {
            put(out, &["(using ", tls, ")\r\n\t"]);
        }
    }
    put(out, &["by ", trace.by.as_str(), " (Postrider) with ", trace.protocol, " id ", &trace.id.to_string()]);
    if let Some(recipient) = trace.recipient {
        put(out, &["\r\n\tfor <", &recipient.to_string(), ">"]);
    }
    put(out, &["; ", &trace.at.rfc5322(), "\r\n"]);
}

/// What stands in a host name or an address literal; a parenthesis could open a comment.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)
}

/// The id between angle brackets, printable and bounded, for logs and traces.
fn bare_id(value: &[u8]) -> Box<str> {
    const LENGTH_MAX: usize = 255;
    let text = value.trim_ascii();
    let inner = text.strip_prefix(b"<").map_or(text, |rest| rest.strip_suffix(b">").unwrap_or(rest));
    inner.iter().take(LENGTH_MAX).map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::header::{HeaderLimits, scan};
    use super::super::transfer::tests::{crlf_text, longest};
    use super::*;

    fn run(message: &[u8], missing: Missing) -> Stamped {
        let by = "relay.example.com".parse().unwrap();
        let trace = Trace {
            hello: Some("client(x)"),
            client: Some("192.0.2.7".parse().unwrap()),
            tls: Some("TLSv1.3 with cipher X"),
            by: &by,
            protocol: "ESMTPSA",
            id: QueueId::from_u64(7),
            recipient: None,
            at: Timestamp::from_secs(1_795_255_200),
        };
        stamp(message, &scan(message, HeaderLimits::NONE).unwrap(), &trace, missing)
    }

    const RECEIVED: &str = "Received: from client?x? ([192.0.2.7])\r\n\t(using TLSv1.3 with cipher X)\r\n\tby \
                            relay.example.com (Postrider) with ESMTPSA id 000000000007; Sat, 21 Nov 2026 10:00:00 +0000\r\n";

    #[test]
    fn a_message_gets_what_it_lacks_and_nothing_else_is_touched() {
        let author: Address = "a@b.example".parse().unwrap();
        let added = Missing::Added { author: Some(&author) };
        let rows = [
            (
                "From: x@y.example\r\nSubject:  odd \r\n\r\nbody",
                Missing::Left,
                "From: x@y.example\r\nSubject:  odd \r\n\r\nbody\r\n",
            ),
            (
                "From: x@y.example\r\ndate: d\r\nMESSAGE-ID: <i@y.example>\r\n\r\n",
                added,
                "From: x@y.example\r\ndate: d\r\nMESSAGE-ID: <i@y.example>\r\n\r\n",
            ),
            (
                "To: x@y.example\r\n\r\nb\r\n",
                added,
                "Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nFrom: <a@b.example>\r\n\
              Message-ID: <000000000007@relay.example.com>\r\nTo: x@y.example\r\n\r\nb\r\n",
            ),
            (
                "bcc: a@b.example,\r\n c@d.example\r\nTo: x\r\nReturn-Path: <>\r\nResent-Bcc: x\r\nCc: y\r\n\r\n\
                 Bcc: stays\r\n",
                Missing::Left,
                "To: x\r\nCc: y\r\n\r\nBcc: stays\r\n",
            ),
            (
                "To: x\r\nno field\r\nFrom: evil@x.example\r\n",
                Missing::Left,
                "To: x\r\n\r\nno field\r\nFrom: evil@x.example\r\n",
            ),
            ("To: x", Missing::Left, "To: x\r\n\r\n"),
            ("To\t : x\r\nBcc : z\r\nCc:y\r\n\r\n", Missing::Left, "To: x\r\nCc:y\r\n\r\n"),
            ("", Missing::Left, "\r\n"),
        ];
        for (message, missing, want) in rows {
            let stamped = run(message.as_bytes(), missing);
            assert_eq!(String::from_utf8(stamped.message).unwrap(), format!("{RECEIVED}{want}"), "{message:?}");
            assert_eq!(stamped.warning, None);
        }
    }

    #[test]
    fn the_received_field_hides_what_it_is_told_to() {
        let by = "r.example".parse().unwrap();
        let recipient = "a@b.example".parse().unwrap();
        let mut out = Vec::new();
        let trace = Trace {
            hello: None,
            client: None,
            tls: Some("TLS"),
            by: &by,
            protocol: "ESMTPSA",
            id: QueueId::from_u64(7),
            recipient: Some(&recipient),
            at: Timestamp::ZERO,
        };
        received(&trace, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "Received: by r.example (Postrider) with ESMTPSA id 000000000007\r\n\tfor <a@b.example>; \
                          Thu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
    }

    #[test]
    fn facts_say_what_the_content_truly_needs() {
        let rows: [(&[u8], bool, bool, bool); 4] = [
            (b"A: b\r\n\r\nascii\r\n", false, false, false),
            ("A: b\r\n\r\n\u{fc}\r\n".as_bytes(), true, false, false),
            ("A: \u{fc}\r\n\r\nascii\r\n".as_bytes(), false, true, false),
            (b"DKIM-Signature: v=1\r\n\r\nascii\r\n", false, false, true),
        ];
        for (message, eight_bit, utf8_headers, foreign_signature) in rows {
            let stamped = run(message, Missing::Left);
            let facts = stamped.facts;
            assert_eq!(
                (facts.eight_bit, facts.utf8_headers, facts.foreign_signature),
                (eight_bit, utf8_headers, foreign_signature)
            );
            assert_eq!(facts.size_bytes as usize, stamped.message.len());
            assert!(stamped.message[..facts.header_bytes as usize].ends_with(b"\r\n\r\n"));
        }
    }

    #[test]
    fn eight_bit_content_that_was_encoded_for_its_length_needs_no_8bitmime() {
        let message = format!("A: b\r\n\r\n{}\r\n", "\u{fc}".repeat(600));
        let stamped = run(message.as_bytes(), Missing::Left);
        assert!(!stamped.facts.eight_bit);
        assert!(stamped.message[..stamped.facts.header_bytes as usize].ends_with(b"quoted-printable\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn what_is_kept_can_be_sent(message in crlf_text(), headers in "([A-Z][a-z]{0,5}: [ -~]{0,1200}\r\n){0,4}") {
            let message = [headers.into_bytes(), message].concat();
            let stamped = run(&message, Missing::Added { author: None });
            let out = &stamped.message;
            prop_assert!(longest(out) <= 998);
            prop_assert!(out.ends_with(b"\r\n"));
            let line_ends = out.windows(2).filter(|w| w == b"\r\n").count();
            prop_assert_eq!(out.iter().filter(|b| **b == b'\r').count(), line_ends);
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), line_ends);
            prop_assert_eq!(stamped.facts.size_bytes, out.len() as u64);
            let block = scan(out, HeaderLimits::NONE).unwrap();
            prop_assert!(block.is_separated());
            prop_assert_eq!(block.body_start, stamped.facts.header_bytes as usize);
        }
    }
}
