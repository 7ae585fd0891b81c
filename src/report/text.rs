//! Pieces of text made safe for a report: what a peer said is an attacker's input.

use crate::mail::is_safe_argument;

/// Longest line written, without its line end. RFC 5322 §2.1.1 recommends 78.
const LINE_LENGTH: usize = 78;

/// Whether a text may hold characters outside ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Charset {
    /// RFC 3464: message/delivery-status.
    Ascii,
    /// RFC 6533: message/global-delivery-status.
    Utf8,
}

/// One line of printable text: control characters and, where it must be, what is not ASCII become `?`.
pub(super) fn clean(text: &str, charset: Charset) -> String {
    text.chars()
        .map(|c| match c {
            ' '..='~' => c,
            _ if c.is_control() || charset == Charset::Ascii => '?',
            '\u{2028}' | '\u{2029}' => '?',
            _ => c,
        })
        .collect()
}

/// Writes `name: value`, folded so that no line is over 78 octets where a space allows it, and none over 200 at all.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut line = String::from(name);
    line.push(':');
    let mut is_folded = false;
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        for (number, piece) in pieces(word, LINE_LENGTH - 2).enumerate() {
            // The first word stays with the name: parsers of bounces look for it there.
            let starts = !is_folded && line.len() == name.len() + 1;
            if !starts && (number > 0 || line.len() + 1 + piece.len() > LINE_LENGTH) {
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(b"\r\n");
                line.clear();
                is_folded = true;
            }
            line.push(' ');
            line.push_str(piece);
        }
    }
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes a paragraph in lines of at most 78 octets, each after `indent`.
pub(super) fn paragraph(out: &mut Vec<u8>, indent: &str, text: &str) {
    let mut line = String::new();
    let room = LINE_LENGTH - indent.len();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        for (number, piece) in pieces(word, room).enumerate() {
            if !line.is_empty() && (number > 0 || line.len() + 1 + piece.len() > room) {
                end_line(out, indent, &mut line);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(piece);
        }
    }
    if !line.is_empty() {
        end_line(out, indent, &mut line);
    }
}

fn end_line(out: &mut Vec<u8>, indent: &str, line: &mut String) {
    out.extend_from_slice(indent.as_bytes());
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
    line.clear();
}

/// A word in pieces of at most `length` octets, no character torn.
fn pieces(word: &str, length: usize) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = (0..=length.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).filter(|at| *at > 0);
        let (piece, after) = rest.split_at(at.unwrap_or(rest.len()));
        rest = after;
        Some(piece)
    })
}

/// Reads xtext (RFC 3461 §4): `+` and two hexadecimal digits for an octet. What is none stays as it is.
///
/// The result can stand on a header line: an octet that could not is written as it came.
pub(super) fn decode_xtext(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let escaped = rest.get(1..3).filter(|_| c == '+').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(octet @ 0x20..=0x7e) => decoded.push(char::from(octet)),
            Some(_) => decoded.push_str(rest.get(..3).unwrap_or_default()),
            None => decoded.push(c),
        }
        let taken = if escaped.is_some() { 3 } else { c.len_utf8() };
        rest = rest.get(taken..).unwrap_or_default();
    }
    decoded
}

/// `type;address` of an ORCPT parameter, its xtext read. `None` for what is no ORCPT.
pub(super) fn original_recipient(orcpt: &str) -> Option<(String, String)> {
    let (kind, address) = orcpt.split_once(';').filter(|_| is_safe_argument(orcpt))?;
    let sound = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    sound.then(|| (kind.to_owned(), decode_xtext(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_read_and_what_cannot_stand_stays_escaped() {
        let rows = [
            ("QQ314159", "QQ314159"),
            ("a+2Bb+3Dc", "a+b=c"),
            ("a+20b", "a b"),
            ("evil+0D+0AX:y", "evil+0D+0AX:y"),
            ("tail+", "tail+"),
            ("tail+2", "tail+2"),
            ("no+zzhex", "no+zzhex"),
            ("+E9", "+E9"),
        ];
        for (text, want) in rows {
            assert_eq!(decode_xtext(text), want);
        }
        let rows = [
            ("rfc822;a+2Bb@c.example", Some(("rfc822", "a+b@c.example"))),
            ("utf-8;\\x{E9}@c.example", Some(("utf-8", "\\x{E9}@c.example"))),
            ("a@c.example", None),
            ("bad type;x", None),
        ];
        for (orcpt, want) in rows {
            let want = want.map(|(kind, address)| (kind.to_owned(), address.to_owned()));
            assert_eq!(original_recipient(orcpt), want, "{orcpt}");
        }
    }

    #[test]
    fn lines_are_short_whatever_is_put_into_them() {
        for text in ["x".repeat(3000), "word ".repeat(500), "\u{e9}".repeat(500), String::new(), " ".repeat(200)] {
            let mut out = Vec::new();
            field(&mut out, "Diagnostic-Code", &format!("smtp; {text}"));
            paragraph(&mut out, "    ", &text);
            let out = String::from_utf8(out).unwrap();
            assert!(out.lines().all(|line| line.len() <= 100 && !line.trim().is_empty()), "{out}");
            assert!(out.starts_with("Diagnostic-Code: smtp;"));
            assert!(out.ends_with("\r\n"));
        }
    }

    #[test]
    fn text_is_cleaned_for_its_charset() {
        assert_eq!(clean("a\r\nb\u{1b}\u{e9}\u{85}", Charset::Ascii), "a??b???");
        assert_eq!(clean("a\r\nb\u{1b}\u{e9}\u{85}\u{2028}", Charset::Utf8), "a??b?\u{e9}??");
    }
}
