//! Makes a message's lines short enough to send, and its content 7-bit for a peer without 8BITMIME.
//!
//! Called by the door for the rare message with a line over 998 octets, and by delivery for a peer that offers no
//! 8BITMIME. It changes only the parts that need it, and never a part that someone signed, unless it is a line too
//! long to be sent at all: that is folded, and said.

use std::ops::Range;

use super::header::{HeaderLimits, Kind, scan};
use super::mime::{Encoding, Entity, Nature, entities};
use super::transfer::{
    base64, fold_field, fold_text, has_long_line, mend_base64, mend_quoted_printable, quoted_printable,
};

/// What was done beyond encoding: for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Warning {
    /// A signed, encrypted or unintelligible part had a line over 998 octets, which was folded: its signature may no
    /// longer verify.
    #[error("a line over 998 octets stood where nothing may be encoded anew, and was folded")]
    Folded,
}

/// Why a message cannot be sent to a peer without 8BITMIME.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotDowngrade {
    /// It has octets above 127 in a header (RFC 6532): SMTPUTF8 is needed.
    #[error("the header of the message or of a part has characters outside ASCII")]
    Header,
    /// The 8-bit content is signed, encrypted, or not understood.
    #[error("the 8-bit content is signed or cannot be encoded anew")]
    Frozen,
}

/// Encodes or folds every line over 998 octets. A message without one comes back as it was.
pub fn shorten_lines(message: &[u8]) -> (Vec<u8>, Option<Warning>) {
    let mut mend = Mend { message, out: Vec::with_capacity(message.len() + message.len() / 8), folded: false };
    if !has_long_line(message) {
        mend.out.extend_from_slice(message);
        return (mend.out, None);
    }
    let mut copied = 0;
    for entity in entities(message) {
        mend.gap(copied..entity.header.start);
        let encode = encoding_for(&entity, has_long_line(mend.text(entity.body.clone())));
        mend.header(&entity, encode.declared());
        mend.out.extend_from_slice(mend.text(entity.header.end..entity.body.start));
        mend.body(&entity, encode);
        copied = entity.body.end;
    }
    mend.gap(copied..message.len());
    (mend.out, mend.folded.then_some(Warning::Folded))
}

/// Encodes all content outside ASCII as quoted-printable (text) or base64 (all else). The result is another message
/// than the one accepted: it needs a signature of its own.
///
/// # Errors
/// When what would have to change must not; the recipient then fails with 5.6.3 (RFC 6152 §3 (4)).
pub fn downgrade_8bit(message: &[u8]) -> Result<Vec<u8>, CannotDowngrade> {
    let mut mend = Mend { message, out: Vec::with_capacity(message.len() + message.len() / 4), folded: false };
    let mut copied = 0;
    for entity in entities(message) {
        if !mend.text(copied..entity.header.start).is_ascii() {
            return Err(CannotDowngrade::Frozen);
        }
        mend.gap(copied..entity.header.start);
        if !mend.text(entity.header.clone()).is_ascii() {
            return Err(CannotDowngrade::Header);
        }
        let is_eight_bit = !mend.text(entity.body.clone()).is_ascii();
        if is_eight_bit && (entity.nature == Nature::Frozen || entity.encoding == Encoding::Base64) {
            return Err(CannotDowngrade::Frozen);
        }
        let encode = encoding_for(&entity, is_eight_bit);
        let declared = match (encode.declared(), entity.encoding, entity.nature) {
            (Some(name), _, _) => Some(name),
            (None, _, Nature::Frozen) => None,
            (None, Encoding::EightBit, _) => Some("7bit"),
            (None, _, _) => None,
        };
        mend.header(&entity, declared);
        mend.out.extend_from_slice(mend.text(entity.header.end..entity.body.start));
        mend.body(&entity, encode);
        copied = entity.body.end;
    }
    if !mend.text(copied..message.len()).is_ascii() {
        return Err(CannotDowngrade::Frozen);
    }
    mend.gap(copied..message.len());
    Ok(mend.out)
}

/// What is done with a part's body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encode {
    Nothing,
    QuotedPrintable,
    Base64,
    MendQuotedPrintable,
    MendBase64,
    Fold,
}

impl Encode {
    /// The Content-Transfer-Encoding that must now be declared, if it changed.
    fn declared(self) -> Option<&'static str> {
        match self {
            Encode::QuotedPrintable => Some("quoted-printable"),
            Encode::Base64 => Some("base64"),
            Encode::Nothing | Encode::MendQuotedPrintable | Encode::MendBase64 | Encode::Fold => None,
        }
    }
}

fn encoding_for(entity: &Entity, is_needed: bool) -> Encode {
    match (entity.nature, entity.encoding) {
        (Nature::Container, _) => Encode::Nothing,
        _ if !is_needed => Encode::Nothing,
        (Nature::Frozen, _) => Encode::Fold,
        (_, Encoding::QuotedPrintable) => Encode::MendQuotedPrintable,
        (_, Encoding::Base64) => Encode::MendBase64,
        (Nature::Text, Encoding::SevenBit | Encoding::EightBit) => Encode::QuotedPrintable,
        (Nature::Binary, Encoding::SevenBit | Encoding::EightBit) => Encode::Base64,
    }
}

struct Mend<'a> {
    message: &'a [u8],
    out: Vec<u8>,
    folded: bool,
}

impl<'a> Mend<'a> {
    fn text(&self, range: Range<usize>) -> &'a [u8] {
        self.message.get(range).unwrap_or_default()
    }

    /// Copies what belongs to no part.
    fn gap(&mut self, range: Range<usize>) {
        let text = self.text(range);
        match has_long_line(text) {
            true => fold_text(text, &mut self.out),
            false => self.out.extend_from_slice(text),
        }
    }

    /// Copies a header, its long lines folded, its Content-Transfer-Encoding set.
    fn header(&mut self, entity: &Entity, declared: Option<&str>) {
        let text = self.text(entity.header.clone());
        if declared.is_none() && !has_long_line(text) {
            self.out.extend_from_slice(text);
            return;
        }
        // Cannot fail without limits.
        let Ok(block) = scan(text, HeaderLimits::NONE) else { return };
        let mut is_versioned = false;
        let mut at = 0;
        for field in &block.fields {
            at = field.end;
            is_versioned |= field.kind == Kind::MimeVersion;
            if declared.is_some() && field.kind == Kind::TransferEncoding {
                continue;
            }
            let raw = text.get(field.start..field.end).unwrap_or_default();
            match has_long_line(raw) {
                true => fold_field(raw, &mut self.out),
                false => self.out.extend_from_slice(raw),
            }
        }
        self.gap(entity.header.start + at..entity.header.end);
        let Some(name) = declared else { return };
        if !self.out.is_empty() && !self.out.ends_with(b"\r\n") {
            self.out.extend_from_slice(b"\r\n");
        }
        // RFC 2045 §4: without it the encoding means nothing.
        if entity.is_message && !is_versioned {
            self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        self.out.extend_from_slice(b"Content-Transfer-Encoding: ");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        // A part without fields, or whose fields ran into its body, has no empty line to end what was added.
        if entity.header.end == entity.body.start {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn body(&mut self, entity: &Entity, encode: Encode) {
        let body = self.text(entity.body.clone());
        match encode {
            Encode::Nothing => self.out.extend_from_slice(body),
            Encode::QuotedPrintable => quoted_printable(body, &mut self.out),
            Encode::MendQuotedPrintable => mend_quoted_printable(body, &mut self.out),
            Encode::MendBase64 => mend_base64(body, &mut self.out),
            Encode::Base64 => {
                base64(body, &mut self.out);
                // The last part of a message has no delimiter whose line end would end it.
                if entity.body.end == self.message.len() {
                    self.out.extend_from_slice(b"\r\n");
                }
            }
            Encode::Fold => {
                self.folded = true;
                fold_text(body, &mut self.out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::transfer::tests::{crlf_text, decode, longest};
    use super::*;

    fn shorten(message: &str) -> (String, Option<Warning>) {
        let (out, warning) = shorten_lines(message.as_bytes());
        assert!(longest(&out) <= 998, "{}", String::from_utf8_lossy(&out));
        assert_eq!(shorten_lines(&out).0, out, "not idempotent");
        (String::from_utf8(out).unwrap(), warning)
    }

    #[test]
    fn a_single_part_text_is_encoded_and_its_encoding_declared() {
        let long = "x=".repeat(1500);
        let rows = [
            ("From: a@b.example\r\n", "From: a@b.example\r\nMIME-Version: 1.0\r\n"),
            (
                "Content-Type: text/html\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n",
                "Content-Type: text/html\r\nMIME-Version: 1.0\r\n",
            ),
        ];
        for (header, want) in rows {
            let (out, warning) = shorten(&format!("{header}\r\n{long}\r\n"));
            let (head, body) = out.split_once("\r\n\r\n").unwrap();
            assert_eq!(format!("{head}\r\n"), format!("{want}Content-Transfer-Encoding: quoted-printable\r\n"));
            assert_eq!(decode(body.as_bytes()), format!("{long}\r\n").into_bytes());
            assert_eq!(warning, None);
        }
    }

    #[test]
    fn only_the_part_that_needs_it_is_encoded() {
        let long = "y".repeat(3000);
        let message = format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\npre\r\n--b\r\n\
             Content-Type: text/plain\r\n\r\nshort = line\r\n--b\r\nContent-Type: text/html\r\n\r\n{long}\r\n--b\r\n\
             Content-Type: application/octet-stream\r\n\r\n{long}\r\n--b\r\n\r\n{long}\r\n--b--\r\n"
        );
        let (out, warning) = shorten(&message);
        assert_eq!(warning, None);
        assert!(out.contains("Content-Type: text/plain\r\n\r\nshort = line\r\n--b\r\n"));
        assert!(out.contains("Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nyyy"));
        assert!(out.contains("octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\neXl5"));
        assert!(out.contains("--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nyyy"));
        assert!(out.ends_with("\r\n--b--\r\n"));
    }

    #[test]
    fn what_is_signed_is_folded_and_said() {
        let long = "z".repeat(1500);
        let signed = format!("DKIM-Signature: v=1\r\n\r\n{long}\r\n");
        let (out, warning) = shorten(&signed);
        assert_eq!(warning, Some(Warning::Folded));
        assert_eq!(out.replace("\r\n ", ""), signed);
        let part = format!("Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n{long}\r\n--b--\r\n");
        assert_eq!(shorten(&part).1, Some(Warning::Folded));
    }

    #[test]
    fn a_long_field_of_a_part_is_folded() {
        let (out, warning) =
            shorten(&format!("Subject: s{}\r\nX: {}\r\n\r\nb\r\n", " word".repeat(400), "w".repeat(2000)));
        assert_eq!(warning, None);
        assert!(out.ends_with("\r\n\r\nb\r\n"));
    }

    #[test]
    fn eight_bit_content_becomes_seven_bit_or_is_refused() {
        let text = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
                    MIME-Version: 1.0\r\n\r\ngr\u{fc}n\r\n";
        let out = downgrade_8bit(text.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Content-Type: text/plain; charset=utf-8\r\nMIME-Version: 1.0\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\ngr=C3=BCn\r\n"
        );
        let mixed = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             --b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\u{e9}\r\n\
             --b\r\nContent-Type: application/x-a\r\n\r\n\u{e9}\r\n\
             --b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             Subject: in\r\n\r\n\u{e9}\r\n--b--\r\n";
        let out = String::from_utf8(downgrade_8bit(mixed.as_bytes()).unwrap()).unwrap();
        assert!(out.is_ascii() && !out.contains("8bit"), "{out}");
        assert!(out.contains("boundary=b\r\nContent-Transfer-Encoding: 7bit\r\n\r\n--b\r\n"), "{out}");
        assert!(out.contains("x-a\r\nContent-Transfer-Encoding: base64\r\n\r\nw6k=\r\n--b\r\n"), "{out}");
        assert!(
            out.contains(
                "Subject: in\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9"
            )
        );
        let rows = [
            ("Subject: \u{e9}\r\n\r\nx\r\n", CannotDowngrade::Header),
            ("DKIM-Signature: x\r\n\r\n\u{e9}\r\n", CannotDowngrade::Frozen),
            (
                "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\u{e9}\r\n--b--\r\n",
                CannotDowngrade::Frozen,
            ),
            (
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n\u{e9}\r\n--b\r\n\r\nx\r\n--b--\r\n",
                CannotDowngrade::Frozen,
            ),
            ("Content-Transfer-Encoding: base64\r\n\r\n\u{e9}\r\n", CannotDowngrade::Frozen),
        ];
        for (message, want) in rows {
            assert_eq!(downgrade_8bit(message.as_bytes()), Err(want), "{message}");
        }
    }

    /// Whole messages made of the pieces that matter, in any order.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"Content-Type: multipart/mixed; boundary=b\r\n".to_vec()),
            Just(b"Content-Type: multipart/signed; boundary=\"b c\"\r\n".to_vec()),
            Just(b"Content-Type: text/html\r\n".to_vec()),
            Just(b"Content-Type: application/x\r\n".to_vec()),
            Just(b"Content-Type: message/rfc822\r\n".to_vec()),
            Just(b"Content-Transfer-Encoding: 8bit\r\n".to_vec()),
            Just(b"Content-Transfer-Encoding: base64\r\n".to_vec()),
            Just(b"Content-Transfer-Encoding: quoted-printable\r\n".to_vec()),
            Just(b"DKIM-Signature: v=1\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"--b\r\n".to_vec()),
            Just(b"--b--\r\n".to_vec()),
            Just(b"--b c\r\n".to_vec()),
            Just(b"From: a@b.example\r\n".to_vec()),
            crlf_text(),
        ];
        proptest::collection::vec(piece, 0..16).prop_map(|pieces| {
            let mut message = pieces.concat();
            if !message.ends_with(b"\r\n") {
                message.extend_from_slice(b"\r\n");
            }
            message
        })
    }

    proptest! {
        #[test]
        fn no_long_line_and_no_bare_line_end_is_left(message in message()) {
            let (out, _) = shorten_lines(&message);
            prop_assert!(longest(&out) <= 998);
            let line_ends = out.windows(2).filter(|w| w == b"\r\n").count();
            prop_assert_eq!(out.iter().filter(|b| **b == b'\r').count(), line_ends);
            prop_assert!(out.ends_with(b"\r\n"));
            prop_assert_eq!(&shorten_lines(&out).0, &out);
            if longest(&message) <= 998 {
                prop_assert_eq!(out, message);
            }
        }

        #[test]
        fn a_downgraded_message_is_ascii_and_downgrades_to_itself(message in message()) {
            if let Ok(out) = downgrade_8bit(&message) {
                prop_assert!(out.is_ascii());
                prop_assert_eq!(downgrade_8bit(&out), Ok(out.clone()));
                prop_assert!(message.is_ascii() || longest(&message) > 998 || longest(&out) <= 998);
            }
        }
    }
}
