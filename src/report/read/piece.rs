//! A message, taken apart: its header, and the parts that reports are made of, to a depth and a number.
//!
//! The split is our own, because reports come with boundaries that are wrong, missing or cut off, and because a parser
//! that nests as deep as its input asks for would end the process. Each leaf is decoded by mail-parser, which knows every
//! transfer encoding and charset; it is never given a part that could have parts.

use mail_parser::MessageParser;

use super::address;
use super::field::{self, Fields};

/// Levels of multiparts. A report has one, a gateway's wrapping adds one or two.
const DEPTH_MAX: usize = 4;
/// Parts of a message. A report has three.
const PARTS_MAX: usize = 64;
/// What stands before the first boundary, where the header names none. Unit: lines.
const PREAMBLE_MAX: usize = 8;
/// What is decoded of one part. Unit: bytes.
const LEAF_MAX: usize = 128 * 1024;

/// What a part is to a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Text,
    Html,
    /// message/delivery-status, and that of RFC 6533.
    Status,
    /// message/feedback-report.
    Feedback,
    /// message/disposition-notification, RFC 8098.
    Disposition,
    /// The returned message.
    Message,
    /// Its header alone.
    Header,
    Other,
}

/// One part that has no parts.
pub(super) struct Piece<'a> {
    pub kind: Kind,
    pub fields: Fields,
    pub body: &'a [u8],
}

impl Piece<'_> {
    /// The content, decoded, in UTF-8.
    pub fn text(&self) -> String {
        let body = self.body.get(..LEAF_MAX).unwrap_or(self.body);
        let content = self.fields.first("content-type").unwrap_or_default();
        let charset = field::parameter(content, "charset").unwrap_or_default();
        let charset: String = charset.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.:".contains(*c)).collect();
        let charset = match charset.is_empty() || charset.eq_ignore_ascii_case("us-ascii") {
            // ISO-2022-JP without its name is known by its escapes; what else has no name is most often UTF-8.
            true if has_jis_escape(body) => "iso-2022-jp".to_owned(),
            true if std::str::from_utf8(body).is_err() => "windows-1252".to_owned(),
            true => "utf-8".to_owned(),
            false => charset,
        };
        let encoding = self.fields.first("content-transfer-encoding").unwrap_or_default().trim().to_ascii_lowercase();
        let encoding = match encoding.as_str() {
            "base64" => "base64",
            "quoted-printable" => "quoted-printable",
            _ => "8bit",
        };
        let subtype = if self.kind == Kind::Html { "html" } else { "plain" };
        let mut leaf =
            format!("Content-Type: text/{subtype}; charset=\"{charset}\"\nContent-Transfer-Encoding: {encoding}\n\n")
                .into_bytes();
        leaf.extend_from_slice(body);
        let parsed = MessageParser::new().parse(&leaf);
        let text = parsed.as_ref().and_then(|message| message.body_text(0)).unwrap_or_default();
        // A decoder may bring back the line ends that were unified.
        text.replace("\r\n", "\n").replace('\r', "\n")
    }
}

fn has_jis_escape(octets: &[u8]) -> bool {
    memchr::memmem::find(octets, b"\x1b$B").is_some() || memchr::memmem::find(octets, b"\x1b$@").is_some()
}

/// A whole message.
pub(super) struct Letter<'a> {
    pub fields: Fields,
    pub pieces: Vec<Piece<'a>>,
    /// Everything below the header, as it is: where a report's fields are looked for when its structure is wrong.
    pub body: &'a [u8],
    /// The readable parts, in order; HTML only where there is no plain text.
    pub words: String,
}

impl<'a> Letter<'a> {
    pub fn of(octets: &'a [u8]) -> Letter<'a> {
        let (fields, body) = field::header(octets);
        let mut pieces = Vec::new();
        take(fields.clone(), body, 0, &mut pieces);
        let of_kind = |kind: Kind| pieces.iter().filter(move |piece: &&Piece| piece.kind == kind);
        let mut words = String::new();
        let plain = of_kind(Kind::Text).map(Piece::text).filter(|text| !text.trim().is_empty());
        for text in plain.take(8) {
            words.push_str(&text);
            words.push('\n');
        }
        if words.trim().len() < 40 {
            for text in of_kind(Kind::Html).map(Piece::text).take(4) {
                words.push_str(&text);
                words.push('\n');
            }
        }
        Letter { fields, pieces, body, words }
    }

    /// The parts of a kind, decoded.
    pub fn texts(&self, kind: Kind) -> impl Iterator<Item = String> + '_ {
        self.pieces.iter().filter(move |piece| piece.kind == kind).map(Piece::text)
    }

    /// Whether it has a part that only reports have, or says that it is a report.
    pub fn is_report(&self) -> bool {
        let said = self.fields.first("content-type").unwrap_or_default().to_ascii_lowercase();
        said.contains("multipart/report")
            || self.pieces.iter().any(|piece| matches!(piece.kind, Kind::Status | Kind::Feedback | Kind::Disposition))
            || self.fields.first("x-failed-recipients").is_some()
    }

    /// The subject in lower case, decoded.
    pub fn subject(&self) -> String {
        let Some(raw) = self.fields.first("subject") else { return String::new() };
        field::decoded(raw).trim().to_lowercase()
    }

    /// The address of From.
    pub fn from(&self) -> Option<String> {
        self.fields.all("from").find_map(|value| address::within(value).into_iter().next())
    }

    /// Whom it was sent to, as its own header says.
    pub fn recipients(&self) -> Vec<Box<str>> {
        let mut found: Vec<Box<str>> = Vec::new();
        for name in ["delivered-to", "x-original-to", "x-envelope-to", "envelope-to", "to"] {
            for address in self.fields.all(name).flat_map(address::within).take(20) {
                if !found.iter().any(|known| known.eq_ignore_ascii_case(&address)) {
                    found.push(address.into());
                }
            }
        }
        found
    }
}

/// One kind of line end: LF. Old archives have CR alone.
pub(super) fn unify(message: &[u8]) -> Vec<u8> {
    let mut unified = Vec::with_capacity(message.len());
    let mut before = 0;
    for &octet in message {
        match octet {
            b'\n' if before == b'\r' => {}
            b'\r' => unified.push(b'\n'),
            0 => unified.push(b' '),
            _ => unified.push(octet),
        }
        before = octet;
    }
    unified
}

fn take<'a>(fields: Fields, body: &'a [u8], depth: usize, pieces: &mut Vec<Piece<'a>>) {
    if pieces.len() >= PARTS_MAX {
        return;
    }
    let content = fields.first("content-type").unwrap_or_default().to_owned();
    let lower = content.to_ascii_lowercase();
    let is_multipart = lower.trim_start().starts_with("multipart/");
    let encoding = fields.first("content-transfer-encoding").unwrap_or_default().to_ascii_lowercase();
    let is_plain = !encoding.contains("base64") && !encoding.contains("quoted");
    if depth < DEPTH_MAX && (is_multipart || (depth == 0 && is_plain)) {
        let said = field::parameter(&content, "boundary").filter(|_| is_multipart);
        let marked = said.filter(|boundary| has_line(body, boundary));
        if let Some(boundary) = marked.or_else(|| guessed_boundary(body)) {
            for part in split(body, &boundary) {
                let (inner, content) = match part.first() {
                    // A part without a header begins with an empty line.
                    Some(b'\n') => (Fields::default(), part.get(1..).unwrap_or_default()),
                    _ => field::header(part),
                };
                take(inner, content, depth + 1, pieces);
            }
            return;
        }
    }
    pieces.push(Piece { kind: kind(&lower, body), fields, body });
}

fn kind(content: &str, body: &[u8]) -> Kind {
    let media = content.split([';', ' ', '\t']).next().unwrap_or_default().trim();
    let begins = |name: &str| {
        let start = body.trim_ascii_start();
        start.get(..name.len()).is_some_and(|front| front.eq_ignore_ascii_case(name.as_bytes()))
    };
    match media {
        "message/delivery-status" | "message/global-delivery-status" => Kind::Status,
        "message/feedback-report" => Kind::Feedback,
        "message/disposition-notification" | "message/global-disposition-notification" => Kind::Disposition,
        "message/rfc822" | "message/global" | "message/news" | "message/partial" => Kind::Message,
        "text/rfc822-headers" | "text/rfc822-header" | "message/rfc822-headers" | "message/global-headers" => {
            Kind::Header
        }
        // Gateways relabel what they do not know.
        _ if begins("Reporting-MTA:") || begins("Final-Recipient:") => Kind::Status,
        _ if begins("Feedback-Type:") => Kind::Feedback,
        "text/html" => Kind::Html,
        _ if media.is_empty() || media.starts_with("text") || media.starts_with("multipart/") => Kind::Text,
        _ => Kind::Other,
    }
}

fn has_line(body: &[u8], boundary: &str) -> bool {
    lines(body).any(|(_, line)| delimits(line, boundary).is_some())
}

/// Whether a line is the boundary's, and whether it is the last one.
fn delimits(line: &[u8], boundary: &str) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary.as_bytes())?.trim_ascii_end();
    match rest {
        b"" => Some(false),
        b"--" => Some(true),
        _ => None,
    }
}

/// A line that begins with two dashes and is followed by a part's header: a boundary, whatever the header says. Before it
/// stands a short remark at most: a boundary farther below is that of a message that was returned within the text.
fn guessed_boundary(body: &[u8]) -> Option<String> {
    let mut candidate: Option<&[u8]> = None;
    let mut remarks = 0;
    for (_, line) in lines(body).take(400) {
        let is_header = line.get(..8).is_some_and(|front| front.eq_ignore_ascii_case(b"content-"));
        if let Some(found) = candidate.filter(|_| is_header) {
            return String::from_utf8(found.to_vec()).ok();
        }
        let rest = line.strip_prefix(b"--").map(<[u8]>::trim_ascii_end);
        candidate = rest.filter(|rest| (4..=100).contains(&rest.len()) && !rest.contains(&b' '));
        remarks += usize::from(candidate.is_none() && !line.trim_ascii().is_empty());
        if remarks > PREAMBLE_MAX || line.contains(&b'@') && candidate.is_none() {
            return None;
        }
    }
    None
}

fn split<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut begun = None;
    for (place, line) in lines(body) {
        let Some(is_last) = delimits(line, boundary) else { continue };
        if let Some(start) = begun.take() {
            parts.push(body.get(start..place.saturating_sub(1).max(start)).unwrap_or_default());
        }
        if is_last || parts.len() >= PARTS_MAX {
            return parts;
        }
        begun = Some((place + line.len() + 1).min(body.len()));
    }
    // The last boundary is missing where a report was cut off.
    parts.extend(begun.and_then(|start| body.get(start..)));
    parts
}

/// The lines, each with the place where it begins.
fn lines(octets: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut place = 0;
    octets.split(|&octet| octet == b'\n').map(move |line| {
        let start = place;
        place += line.len() + 1;
        (start, line)
    })
}
