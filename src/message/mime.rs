//! The skeleton of a MIME message: where each part's header and body stand. Nothing is decoded.
//!
//! Called only for a message that must be changed (a line that is too long, 8-bit content for a 7-bit peer), never on
//! the usual way. One pass, bounded depth and number of parts: what lies beyond is taken as one opaque part.

use std::ops::Range;

use memchr::memmem;

use super::header::{Field, HeaderBlock, HeaderLimits, Kind as FieldKind, line_length, scan, unfold};

/// Parts within parts. Deeper ones are opaque.
const DEPTH_MAX: usize = 20;
/// Parts in all.
const ENTITIES_MAX: usize = 1000;
/// The header of a part. A larger one is no header, and the part opaque: what is read here stays bounded.
const PART_LIMITS: HeaderLimits = HeaderLimits { bytes_max: 1 << 20, fields_max: 5000 };
/// RFC 2046 §5.1.1 allows 70; some write more.
const BOUNDARY_LENGTH_MAX: usize = 256;

/// What a part is, as far as changing it is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nature {
    /// Its body is other entities.
    Container,
    /// text/*: line ends are line ends.
    Text,
    /// Octets.
    Binary,
    /// Whatever it is, it must not be encoded anew: signed, encrypted, or not understood.
    Frozen,
}

/// Content-Transfer-Encoding, RFC 2045 §6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    /// Absent, or `7bit`.
    SevenBit,
    /// `8bit` or `binary`.
    EightBit,
    /// `quoted-printable`.
    QuotedPrintable,
    /// `base64`.
    Base64,
}

/// A message or a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entity {
    /// Its fields, without the empty line.
    pub header: Range<usize>,
    /// Its body; empty for a container, whose entities follow.
    pub body: Range<usize>,
    /// What may be done with it.
    pub nature: Nature,
    /// As declared.
    pub encoding: Encoding,
    /// It is a whole message (the outermost, or a message/rfc822), which needs MIME-Version.
    pub is_message: bool,
}

struct Boundary<'a> {
    text: &'a [u8],
    frozen: bool,
}

struct Walk<'a> {
    message: &'a [u8],
    boundaries: Vec<Boundary<'a>>,
    entities: Vec<Entity>,
    /// message/rfc822 within message/rfc822.
    nested: usize,
}

/// Where a delimiter line was found.
struct Delimiter {
    /// The end of the content before it (the line end belongs to the delimiter, RFC 2046 §5.1.1).
    content_end: usize,
    /// The start of the line after it.
    after: usize,
    /// The place of its boundary in the stack.
    level: usize,
    /// `--boundary--`
    is_last: bool,
}

/// The entities of a message in the order of its bytes: containers before what they hold, ranges never overlapping.
/// What lies between them (preambles, delimiters, epilogues) belongs to none.
pub(super) fn entities(message: &[u8]) -> Vec<Entity> {
    let mut walk = Walk { message, boundaries: Vec::new(), entities: Vec::new(), nested: 0 };
    let mut at = Some(0);
    let mut frozen = false;
    let mut is_message = true;
    while let Some(start) = at {
        let (body_start, next_is_message) = walk.open(start, frozen, is_message);
        if let Some(inner) = next_is_message {
            (at, is_message, frozen) = (Some(body_start), true, inner);
            continue;
        }
        at = walk.next_part(body_start);
        is_message = false;
        frozen = walk.boundaries.iter().any(|boundary| boundary.frozen);
    }
    walk.entities
}

impl<'a> Walk<'a> {
    /// Reads the header of the entity at `start` and notes the entity, its body still empty. Returns where its body
    /// begins, and, if that is a message of its own, whether it is frozen.
    fn open(&mut self, start: usize, frozen: bool, is_message: bool) -> (usize, Option<bool>) {
        let limit = self.header_limit(start);
        let part = self.message.get(start..limit).unwrap_or_default();
        let Ok(block) = scan(part, PART_LIMITS) else {
            let (nature, encoding) = (Nature::Frozen, Encoding::SevenBit);
            self.entities.push(Entity { header: start..start, body: start..start, nature, encoding, is_message });
            return (start, None);
        };
        let body_start = start + block.body_start;
        let (mut nature, encoding, boundary) = nature_of(&block);
        let is_signed = is_message && block.of(FieldKind::DkimSignature).next().is_some();
        let frozen = frozen || is_signed;
        let full = self.boundaries.len() + self.nested >= DEPTH_MAX || self.entities.len() >= ENTITIES_MAX;
        let mut inner = None;
        match boundary {
            Contained::Parts { boundary, signed } if !full => {
                // The stack borrows the message's own bytes. A boundary that was folded or written with escapes is not
                // found, and not understanding it is safe.
                match memmem::find(part, &boundary).and_then(|at| part.get(at..at + boundary.len())) {
                    Some(text) => self.boundaries.push(Boundary { text, frozen: frozen || signed }),
                    None => nature = Nature::Frozen,
                }
            }
            Contained::Message if !full => {
                self.nested += 1;
                inner = Some(frozen);
            }
            Contained::Parts { .. } | Contained::Message => nature = Nature::Frozen,
            Contained::Nothing => {}
        }
        if frozen && nature != Nature::Container {
            nature = Nature::Frozen;
        }
        let header = start..start + block.end;
        self.entities.push(Entity { header, body: body_start..body_start, nature, encoding, is_message });
        (body_start, inner)
    }

    /// Where a header that begins at `start` must end: at an empty line, or at a delimiter of an outer part.
    fn header_limit(&self, start: usize) -> usize {
        let mut at = start;
        while let Some(rest) = self.message.get(at..).filter(|rest| !rest.is_empty()) {
            let length = line_length(rest);
            let line = rest.get(..length).unwrap_or_default();
            if line == b"\r\n" {
                return at + length;
            }
            if self.level_of(line).is_some() {
                return at;
            }
            at += length;
        }
        self.message.len()
    }

    /// Ends the body of the last entity at the next delimiter, and returns where the next part begins.
    fn next_part(&mut self, body_start: usize) -> Option<usize> {
        let mut from = body_start;
        let mut in_body = true;
        loop {
            let delimiter = self.find_delimiter(from);
            if in_body {
                let end = delimiter.as_ref().map_or(self.message.len(), |d| d.content_end).max(body_start);
                if let Some(last) = self.entities.last_mut().filter(|e| e.nature != Nature::Container) {
                    last.body = body_start..end;
                }
            }
            let delimiter = delimiter?;
            self.nested = 0;
            match delimiter.is_last {
                false => {
                    self.boundaries.truncate(delimiter.level + 1);
                    // Full: the rest is nobody's, and copied as it is.
                    return if self.entities.len() < ENTITIES_MAX { Some(delimiter.after) } else { None };
                }
                true => self.boundaries.truncate(delimiter.level),
            }
            from = delimiter.after;
            in_body = false;
        }
    }

    fn find_delimiter(&self, from: usize) -> Option<Delimiter> {
        if self.boundaries.is_empty() {
            return None;
        }
        let mut at = from;
        // A delimiter may be the very first line of a body.
        let mut candidate = match self.message.get(from..) {
            Some(rest) if rest.starts_with(b"--") => Some((from, from)),
            _ => self.next_dashes(at),
        };
        while let Some((content_end, line_start)) = candidate {
            let rest = self.message.get(line_start..)?;
            let length = line_length(rest);
            if let Some((level, is_last)) = rest.get(..length).and_then(|line| self.level_of(line)) {
                return Some(Delimiter { content_end, after: line_start + length, level, is_last });
            }
            at = line_start;
            candidate = self.next_dashes(at);
        }
        None
    }

    /// The next line that begins with `--`: the end of the line before it, and its start.
    fn next_dashes(&self, from: usize) -> Option<(usize, usize)> {
        let at = from + memmem::find(self.message.get(from..)?, b"\r\n--")?;
        Some((at, at + 2))
    }

    /// The innermost boundary that a line is a delimiter of, and whether it is the last.
    fn level_of(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        self.boundaries.iter().enumerate().rev().find_map(|(level, boundary)| {
            match text.strip_prefix(boundary.text)? {
                b"" => Some((level, false)),
                b"--" => Some((level, true)),
                _ => None,
            }
        })
    }
}

/// What a Content-Type says is inside.
enum Contained {
    Nothing,
    Message,
    Parts { boundary: Vec<u8>, signed: bool },
}

fn nature_of(block: &HeaderBlock) -> (Nature, Encoding, Contained) {
    let encoding = match single(block, FieldKind::TransferEncoding) {
        Ok(None) => Some(Encoding::SevenBit),
        Ok(Some(field)) => encoding_of(&without_comments(&unfold(field.value))),
        Err(()) => None,
    };
    let Some(encoding) = encoding else { return (Nature::Frozen, Encoding::SevenBit, Contained::Nothing) };
    let Ok(content_type) = single(block, FieldKind::ContentType) else {
        return (Nature::Frozen, encoding, Contained::Nothing);
    };
    // RFC 2045 §5.2: none means text/plain.
    let Some(field) = content_type else { return (Nature::Text, encoding, Contained::Nothing) };
    let value = without_comments(&unfold(field.value));
    let kind = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let plain = matches!(encoding, Encoding::SevenBit | Encoding::EightBit);
    match kind.as_slice() {
        b"message/rfc822" if plain => (Nature::Container, encoding, Contained::Message),
        kind if kind.starts_with(b"multipart/") => match boundary_of(&value) {
            // RFC 2045 §6.4: nothing else is legal there.
            Some(boundary) if plain => {
                let signed = matches!(kind, b"multipart/signed" | b"multipart/encrypted");
                (Nature::Container, encoding, Contained::Parts { boundary, signed })
            }
            _ => (Nature::Frozen, encoding, Contained::Nothing),
        },
        kind if kind.starts_with(b"text/") => (Nature::Text, encoding, Contained::Nothing),
        // RFC 2046 §5.2.1, RFC 3464 §2.1: never encoded. RFC 6532 §3.7 and RFC 6533 §5 allow it for message/global….
        kind if kind.starts_with(b"message/") && !kind.starts_with(b"message/global") => {
            (Nature::Frozen, encoding, Contained::Nothing)
        }
        kind if kind.contains(&b'/') => (Nature::Binary, encoding, Contained::Nothing),
        // Some write `Content-Type: text`.
        b"text" => (Nature::Text, encoding, Contained::Nothing),
        _ => (Nature::Frozen, encoding, Contained::Nothing),
    }
}

/// The one field of a kind. Two of them mean two things to two readers.
fn single<'a, 'b>(block: &'b HeaderBlock<'a>, kind: FieldKind) -> Result<Option<&'b Field<'a>>, ()> {
    let mut fields = block.of(kind);
    let first = fields.next();
    if fields.next().is_some() { Err(()) } else { Ok(first) }
}

fn encoding_of(value: &[u8]) -> Option<Encoding> {
    let value = value.trim_ascii().to_ascii_lowercase();
    match value.as_slice() {
        b"7bit" | b"" => Some(Encoding::SevenBit),
        b"8bit" | b"binary" => Some(Encoding::EightBit),
        b"quoted-printable" => Some(Encoding::QuotedPrintable),
        b"base64" => Some(Encoding::Base64),
        _ => None,
    }
}

/// A structured value without its comments (RFC 5322 §3.2.2), quoted strings untouched.
fn without_comments(value: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(value.len());
    let (mut depth, mut in_quotes, mut escaped) = (0u32, false, false);
    for &byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes || depth > 0 => {
                escaped = true;
                if depth == 0 {
                    kept.push(byte);
                }
                continue;
            }
            b'"' if depth == 0 => in_quotes = !in_quotes,
            b'(' if !in_quotes => {
                depth += 1;
                continue;
            }
            b')' if !in_quotes && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            kept.push(byte);
        }
    }
    kept
}

/// The boundary parameter. `None` if there is none, two, or one with escapes or too long.
fn boundary_of(value: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    for (name, text) in parameters(value) {
        if name.eq_ignore_ascii_case(b"boundary") && found.replace(text).is_some() {
            return None;
        }
    }
    let text = found?;
    let sound = (1..=BOUNDARY_LENGTH_MAX).contains(&text.len()) && !text.contains(&b'\\');
    if sound { Some(text.trim_ascii_end().to_vec()).filter(|text| !text.is_empty()) } else { None }
}

/// `; name=value` pairs; quotes removed, escapes left.
fn parameters(value: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut pairs = Vec::new();
    let mut rest = value;
    while let Some(semicolon) = outside_quotes(rest, b';') {
        rest = rest.get(semicolon + 1..).unwrap_or_default();
        let end = outside_quotes(rest, b';').unwrap_or(rest.len());
        let pair = rest.get(..end).unwrap_or_default();
        let Some(equals) = pair.iter().position(|b| *b == b'=') else { continue };
        let (name, text) = pair.split_at(equals);
        let text = text.get(1..).unwrap_or_default().trim_ascii();
        let text = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).unwrap_or(text);
        pairs.push((name.trim_ascii(), text));
    }
    pairs
}

fn outside_quotes(text: &[u8], wanted: u8) -> Option<usize> {
    let (mut in_quotes, mut escaped) = (false, false);
    text.iter().position(|&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' => in_quotes = !in_quotes,
            _ => return byte == wanted && !in_quotes,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(message: &str) -> Vec<(Nature, &str)> {
        entities(message.as_bytes()).into_iter().map(|e| (e.nature, &message[e.body])).collect()
    }

    #[test]
    fn parts_are_found_where_their_delimiters_stand() {
        use Nature::*;
        let message = "Content-Type: multipart/mixed; (c;=) boundary=\"a:b\"\r\n\r\npreamble\r\n--a:b\r\n\
                       Content-Type: multipart/alternative; boundary=inner\r\n\r\n--inner\r\n\r\nplain\r\n\
                       --inner\r\nContent-Type: text/html\r\n\r\n<p>\r\n--inner--\r\nepilogue\r\n--a:b  \r\n\
                       Content-Type: application/pdf\r\n\r\nPDF\r\n--a:bc\r\n--a:b\r\n\
                       Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ninner\r\n--a:b--\r\nend\r\n";
        let want = [
            (Container, ""),
            (Container, ""),
            (Text, "plain"),
            (Text, "<p>"),
            (Binary, "PDF\r\n--a:bc"),
            (Container, ""),
            (Text, "inner"),
        ];
        assert_eq!(bodies(message), want);
    }

    #[test]
    fn what_must_not_be_encoded_anew_is_frozen() {
        let rows = [
            "Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\nx",
            "Content-Transfer-Encoding: x-uuencode\r\n\r\nx",
            "Content-Type: message/delivery-status\r\n\r\nx",
            "Content-Type: multipart/mixed\r\n\r\nx",
            "Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\nx",
            "Content-Type: multipart/mixed; boundary=a\r\nContent-Transfer-Encoding: base64\r\n\r\nx",
            "Content-Type: nonsense\r\n\r\nx",
            "DKIM-Signature: v=1\r\n\r\nx",
        ];
        for message in rows {
            assert_eq!(bodies(message), [(Nature::Frozen, "x")], "{message}");
        }
        let signed = "Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\ntext\r\n--s--\r\n";
        assert_eq!(bodies(signed), [(Nature::Container, ""), (Nature::Frozen, "text")]);
    }

    #[test]
    fn depth_and_number_of_parts_are_bounded() {
        let mut deep = String::new();
        for level in 0..50 {
            deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}x\r\n\r\n--b{level}x\r\n"));
        }
        assert!(entities(deep.as_bytes()).len() <= DEPTH_MAX + 1);
        let nested = "Content-Type: message/rfc822\r\n\r\n".repeat(100);
        assert!(entities(nested.as_bytes()).len() <= DEPTH_MAX + 1);
        let large = format!("{}\r\n\r\nbody", "a:\r\n".repeat(5001));
        assert_eq!(bodies(&large), [(Nature::Frozen, large.as_str())]);
        let wide = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\nx\r\n".repeat(5000));
        assert!(entities(wide.as_bytes()).len() <= ENTITIES_MAX);
    }
}
