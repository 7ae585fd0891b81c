//! Addresses in header fields: found where RFC 5322 §3.4 has them, replaced, and every other octet left as it is.

use std::borrow::Cow;
use std::ops::Range;

/// Whose addresses a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Sender,
    Recipient,
}

/// Fields whose addresses are rewritten, as cleanup(8) sorts them.
const FIELDS: &[(&str, Side)] = &[
    ("from", Side::Sender),
    ("sender", Side::Sender),
    ("reply-to", Side::Sender),
    ("errors-to", Side::Sender),
    ("return-receipt-to", Side::Sender),
    ("disposition-notification-to", Side::Sender),
    ("mail-followup-to", Side::Sender),
    ("resent-from", Side::Sender),
    ("resent-sender", Side::Sender),
    ("resent-reply-to", Side::Sender),
    ("to", Side::Recipient),
    ("cc", Side::Recipient),
    ("bcc", Side::Recipient),
    ("apparently-to", Side::Recipient),
    ("resent-to", Side::Recipient),
    ("resent-cc", Side::Recipient),
    ("resent-bcc", Side::Recipient),
];
/// Longest line. Unit: octets without CRLF. RFC 5322 §2.1.1.
const LINE_LENGTH_MAX: usize = 998;

/// The ranges of the fields of a header block, each with its line end; up to the empty line, or to what is no field.
pub(super) fn fields(block: &[u8]) -> Vec<Range<usize>> {
    let mut fields: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < block.len() {
        let end = memchr::memchr(b'\n', &block[at..]).map_or(block.len(), |end| at + end + 1);
        let line = &block[at..end];
        if line == b"\r\n" || line == b"\n" {
            break;
        }
        match (line.first(), fields.last_mut()) {
            (Some(b' ' | b'\t'), Some(last)) => last.end = end,
            _ if name_of(line).is_some() => fields.push(at..end),
            _ => break,
        }
        at = end;
    }
    fields
}

/// The name of a field, if it has the form of one: RFC 5322 §2.2, and white space before the colon as §4.5 allows.
pub(super) fn name_of(field: &[u8]) -> Option<&str> {
    let colon = memchr::memchr(b':', field)?;
    let name = std::str::from_utf8(&field[..colon]).ok()?.trim_end_matches([' ', '\t']);
    (!name.is_empty() && name.bytes().all(|b| (0x21..=0x7e).contains(&b))).then_some(name)
}

/// A header block with its addresses replaced; `None`: nothing changed. `replace` is asked for each address as it stands
/// there, comments and white space left out.
pub(super) fn rewrite(block: &[u8], replace: &mut dyn FnMut(Side, &str) -> Option<String>) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    for field in fields(block) {
        let text = &block[field.clone()];
        let Some(side) = name_of(text).and_then(side_of) else { continue };
        let value = memchr::memchr(b':', text).map_or(text.len(), |colon| colon + 1);
        let Some(new) = rewritten(&text[value..], side, replace) else { continue };
        let out = out.get_or_insert_with(|| Vec::with_capacity(block.len() + 256));
        out.extend_from_slice(&block[copied..field.start + value]);
        out.extend_from_slice(&folded(new, value));
        copied = field.end;
    }
    let mut out = out?;
    out.extend_from_slice(&block[copied..]);
    Some(out)
}

fn side_of(name: &str) -> Option<Side> {
    FIELDS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, side)| *side)
}

fn rewritten(value: &[u8], side: Side, replace: &mut dyn FnMut(Side, &str) -> Option<String>) -> Option<Vec<u8>> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    for (range, address) in addresses(value) {
        let Some(new) = replace(side, &address).filter(|new| !new.bytes().any(|b| b.is_ascii_control())) else {
            continue;
        };
        let out = out.get_or_insert_with(|| Vec::with_capacity(value.len() + 64));
        out.extend_from_slice(&value[copied..range.start]);
        out.extend_from_slice(new.as_bytes());
        copied = range.end;
    }
    let mut out = out?;
    out.extend_from_slice(&value[copied..]);
    Some(out)
}

/// Breaks lines that became too long, after commas.
fn folded(value: Vec<u8>, first: usize) -> Vec<u8> {
    let long = value.split(|b| *b == b'\n').enumerate().any(|(at, line)| {
        let before = if at == 0 { first } else { 0 };
        before + line.len() > LINE_LENGTH_MAX + 1
    });
    if !long {
        return value;
    }
    let mut out = Vec::with_capacity(value.len() + value.len() / 32);
    let mut length = first;
    let mut comma = false;
    for byte in value {
        // Where white space stands a line may end, in quotes and comments too.
        if comma && byte == b' ' && length > 70 {
            out.extend_from_slice(b"\r\n");
            length = 0;
        }
        comma = byte == b',';
        length = if byte == b'\n' { 0 } else { length + 1 };
        out.push(byte);
    }
    out
}

/// A piece of a mailbox that is no comment.
struct Token {
    range: Range<usize>,
    /// A comment stood before it.
    after_comment: bool,
}

/// Where the addresses of a list stand, and how they read. What is no address is passed over.
fn addresses(value: &[u8]) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    let mut angle: Option<Range<usize>> = None;
    let mut after_comment = false;
    let mut at = 0;
    while at < value.len() {
        let start = at;
        match value[at] {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'(' => {
                at = comment_end(value, at);
                after_comment = true;
            }
            b'"' => {
                at = quoted_end(value, at);
                tokens.push(Token { range: start..at, after_comment: std::mem::take(&mut after_comment) });
            }
            b'<' => {
                let end = angle_end(value, at);
                angle.get_or_insert(at + 1..end);
                at = end + 1;
            }
            b',' | b';' => {
                found.extend(mailbox(value, &tokens, angle.take()));
                tokens.clear();
                after_comment = false;
                at += 1;
            }
            // The name of a group.
            b':' => {
                tokens.clear();
                at += 1;
            }
            b'[' => {
                at = memchr::memchr(b']', &value[at..]).map_or(value.len(), |end| at + end + 1);
                tokens.push(Token { range: start..at, after_comment: std::mem::take(&mut after_comment) });
            }
            _ => {
                let special =
                    |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b'"' | b'<' | b',' | b';' | b':' | b'[');
                at += value[at..].iter().position(special).unwrap_or(value.len() - at).max(1);
                tokens.push(Token { range: start..at, after_comment: std::mem::take(&mut after_comment) });
            }
        }
    }
    found.extend(mailbox(value, &tokens, angle));
    found
}

fn mailbox(value: &[u8], tokens: &[Token], angle: Option<Range<usize>>) -> Option<(Range<usize>, String)> {
    if let Some(inner) = angle {
        let inner = inner.start..inner.end.min(value.len());
        let text = value.get(inner.clone())?;
        // RFC 5322 §4.4: a route before the address, which means nothing any more.
        let route = text.starts_with(b"@").then(|| memchr::memchr(b':', text)).flatten().map_or(0, |colon| colon + 1);
        let before = text[route..].iter().take_while(|b| b.is_ascii_whitespace()).count();
        let after = text[route..].iter().rev().take_while(|b| b.is_ascii_whitespace()).count();
        let range = inner.start + route + before..(inner.end - after).max(inner.start + route + before);
        let text = std::str::from_utf8(value.get(range.clone())?).ok()?;
        return (!text.is_empty() && !text.contains(['(', '<'])).then(|| (range, unspaced(text).into_owned()));
    }
    let (first, last) = (tokens.first()?, tokens.last()?);
    let mut text = String::new();
    for (place, token) in tokens.iter().enumerate() {
        let piece = std::str::from_utf8(value.get(token.range.clone())?).ok()?;
        // Two words are a name, unless they join at a dot or an at sign (RFC 5322 §4.4).
        let joins = text.ends_with(['@', '.']) || piece.starts_with(['@', '.']);
        let apart = place > 0 && tokens[place - 1].range.end != token.range.start;
        if place > 0 && (token.after_comment || (apart && !joins)) {
            return None;
        }
        text.push_str(piece);
    }
    Some((first.range.start..last.range.end, text))
}

fn unspaced(text: &str) -> Cow<'_, str> {
    match text.contains('"') || !text.contains([' ', '\t', '\r', '\n']) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(text.split_ascii_whitespace().collect()),
    }
}

fn comment_end(value: &[u8], start: usize) -> usize {
    let mut depth = 0usize;
    let mut at = start;
    while at < value.len() {
        match value[at] {
            b'\\' => at += 1,
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    value.len()
}

fn quoted_end(value: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < value.len() {
        match value[at] {
            b'\\' => at += 1,
            b'"' => return at + 1,
            _ => {}
        }
        at += 1;
    }
    value.len()
}

/// The place of the `>`, or the end.
fn angle_end(value: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < value.len() {
        match value[at] {
            b'>' => return at,
            b'"' => at = quoted_end(value, at) - 1,
            _ => {}
        }
        at += 1;
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upper(block: &str) -> String {
        let new = rewrite(block.as_bytes(), &mut |side, text| match side {
            Side::Sender => Some(format!("S:{}", text.to_uppercase())),
            Side::Recipient => Some(text.to_uppercase()),
        });
        new.map_or_else(|| "unchanged".to_owned(), |new| String::from_utf8(new).unwrap())
    }

    #[test]
    fn addresses_are_replaced_where_they_stand_and_nothing_else_is() {
        for (block, want) in [
            ("To: a@b.c\r\n", "To: A@B.C\r\n"),
            ("to : a@b.c\r\n", "to : A@B.C\r\n"),
            (
                "To: Ann <a@b.c>, (x, <y@z>) \"q, <r@s>\" <d@e.f>\r\n",
                "To: Ann <A@B.C>, (x, <y@z>) \"q, <r@s>\" <D@E.F>\r\n",
            ),
            ("To: a@b.c (Ann\r\n\t(or so)),\r\n d@e.f\r\n", "To: A@B.C (Ann\r\n\t(or so)),\r\n D@E.F\r\n"),
            ("Cc: friends: a@b.c, Bo <d@e.f>; , g@h.i\r\n", "Cc: friends: A@B.C, Bo <D@E.F>; , G@H.I\r\n"),
            ("To: undisclosed-recipients:;\r\n", "unchanged"),
            ("To: root\r\n", "To: ROOT\r\n"),
            ("To: Ann Smith\r\n", "unchanged"),
            ("To: a @ b.c\r\n", "To: A@B.C\r\n"),
            ("To: a . x@b.c\r\n", "To: A.X@B.C\r\n"),
            ("To: \"a b\"@c.d\r\n", "To: \"A B\"@C.D\r\n"),
            ("To: <@x,@y:a@b.c>\r\n", "To: <@x,@y:A@B.C>\r\n"),
            ("To: < a@b.c >\r\n", "To: < A@B.C >\r\n"),
            ("To: <>\r\n", "unchanged"),
            ("To: a(x)@b.c\r\n", "unchanged"),
            ("To: a@[192.0.2.1]\r\n", "To: A@[192.0.2.1]\r\n"),
            ("From: =?utf-8?q?a=40b?= <a@b.c>\r\n", "From: =?utf-8?q?a=40b?= <S:A@B.C>\r\n"),
            ("Reply-To: a@b.c\r\n", "Reply-To: S:A@B.C\r\n"),
            ("Subject: a@b.c\r\nX-To: a@b.c\r\n", "unchanged"),
            (
                "Subject: x\r\nTo: a@b.c\r\nX: y\r\n\r\nTo: body@b.c\r\n",
                "Subject: x\r\nTo: A@B.C\r\nX: y\r\n\r\nTo: body@b.c\r\n",
            ),
            ("To: a@b.c,\r\n", "To: A@B.C,\r\n"),
            ("To: (unclosed a@b.c\r\n", "unchanged"),
            ("To: <a@b.c", "To: <A@B.C"),
            // A quote that does not end takes the rest for its own.
            ("To: \"unclosed <a@b.c>\r\n", "unchanged"),
        ] {
            assert_eq!(upper(block), want, "{block:?}");
        }
    }

    #[test]
    fn a_line_that_becomes_too_long_is_folded_after_commas() {
        let block = format!("To: {}\r\n", ["a@b.c"; 100].join(", "));
        let new = rewrite(block.as_bytes(), &mut |_, _| Some(format!("{}@example.com", "x".repeat(20)))).unwrap();
        let text = String::from_utf8(new).unwrap();
        assert!(text.lines().all(|line| line.len() <= LINE_LENGTH_MAX), "{text}");
        assert_eq!(text.replace("\r\n ", " ").matches("@example.com").count(), 100);
        assert_eq!(fields(text.as_bytes()).len(), 1);
    }
}
