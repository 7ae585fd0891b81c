//! Finds the fields of a header block without copying or changing them.
//!
//! Called for every message by the door, the signer's tests and the other rules here. It never interprets a value.
//!
//! Reading is generous (obsolete forms of RFC 5322 §4.5 are fields too), because what a reader downstream could take
//! for a field must be seen here. Where a line is no field, the block ends before it for us, and the door writes the
//! empty line that ends it for everybody else.

use std::ops::Range;

use memchr::memchr;

/// One field with its folding, as it stands in the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// What it is, for the names that a rule knows.
    pub kind: Kind,
    /// The name without white space before the colon.
    pub name: &'a [u8],
    /// After the colon, folding included, without the final line end.
    pub value: &'a [u8],
    /// Where it begins in the message.
    pub start: usize,
    /// Where the next one begins.
    pub end: usize,
}

/// The fields that some rule here looks at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// RFC 5322 §3.6.2.
    From,
    /// RFC 5322 §3.6.2.
    Sender,
    /// RFC 5322 §3.6.5.
    Subject,
    /// RFC 5322 §3.6.1.
    Date,
    /// RFC 5322 §3.6.4.
    MessageId,
    /// RFC 5321 §4.4.
    Received,
    /// RFC 5322 §3.6.3.
    Bcc,
    /// RFC 5322 §3.6.6.
    ResentBcc,
    /// RFC 5321 §4.4: only the last host of all writes it.
    ReturnPath,
    /// RFC 6376.
    DkimSignature,
    /// RFC 2045 §4.
    MimeVersion,
    /// RFC 2045 §5.
    ContentType,
    /// RFC 2045 §6.
    TransferEncoding,
    /// A field that steers us and is not for the recipient: see [`super::control()`]. Never found by a scan.
    Control,
    /// Every other.
    Other,
}

impl Kind {
    fn of(name: &[u8]) -> Kind {
        let (text, kind): (&[u8], Kind) = match name.len() {
            3 => (b"bcc", Kind::Bcc),
            4 if matches!(name.first(), Some(b'f' | b'F')) => (b"from", Kind::From),
            4 => (b"date", Kind::Date),
            6 => (b"sender", Kind::Sender),
            7 => (b"subject", Kind::Subject),
            8 => (b"received", Kind::Received),
            10 if matches!(name.first(), Some(b'r' | b'R')) => (b"resent-bcc", Kind::ResentBcc),
            10 => (b"message-id", Kind::MessageId),
            11 => (b"return-path", Kind::ReturnPath),
            12 if matches!(name.first(), Some(b'm' | b'M')) => (b"mime-version", Kind::MimeVersion),
            12 => (b"content-type", Kind::ContentType),
            14 => (b"dkim-signature", Kind::DkimSignature),
            25 => (b"content-transfer-encoding", Kind::TransferEncoding),
            _ => return Kind::Other,
        };
        if name.eq_ignore_ascii_case(text) { kind } else { Kind::Other }
    }
}

/// The fields of a message (or of a MIME part), and where its body begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderBlock<'a> {
    /// In the order of the message.
    pub fields: Vec<Field<'a>>,
    /// Where the last field ends.
    pub end: usize,
    /// Where the body begins: after the empty line, or at [`HeaderBlock::end`] if there is none.
    pub body_start: usize,
}

impl<'a> HeaderBlock<'a> {
    /// The fields of one kind, from the top.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Field<'a>> {
        self.fields.iter().filter(move |field| field.kind == kind)
    }

    /// Whether an empty line stands between header block and body.
    pub fn is_separated(&self) -> bool {
        self.body_start > self.end
    }
}

/// How much of a header block is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderLimits {
    /// Octets of the whole block.
    pub bytes_max: usize,
    /// Fields.
    pub fields_max: usize,
}

impl HeaderLimits {
    /// No limit but memory's: for a message that passed the door.
    pub const NONE: HeaderLimits = HeaderLimits { bytes_max: usize::MAX, fields_max: usize::MAX };
}

/// The header block is larger than allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderTooLarge {
    /// In octets.
    #[error("the header block is larger than {0} octets")]
    Bytes(usize),
    /// In fields.
    #[error("the header block has more than {0} fields")]
    Fields(usize),
}

/// Reads the header block at the start of a message.
///
/// # Errors
/// When a limit is passed; nothing else is an error.
pub fn scan(message: &[u8], limits: HeaderLimits) -> Result<HeaderBlock<'_>, HeaderTooLarge> {
    // Mail that applications hand in has 6 to 15 fields. For more than 18 at once, malloc would have to lock its heap.
    let mut fields = Vec::with_capacity(16);
    let mut at = 0;
    while let Some(range) = field_at(message, at) {
        if range.end > limits.bytes_max {
            return Err(HeaderTooLarge::Bytes(limits.bytes_max));
        }
        if fields.len() >= limits.fields_max {
            return Err(HeaderTooLarge::Fields(limits.fields_max));
        }
        let Some(field) = field_in(message, range) else { break };
        at = field.end;
        fields.push(field);
    }
    let body_start = match message.get(at..) {
        Some(rest) if rest.starts_with(b"\r\n") => at + 2,
        _ => at,
    };
    Ok(HeaderBlock { fields, end: at, body_start })
}

/// The range of the field that begins at `at`, with its continuation lines; `None` at an empty line or the end.
fn field_at(message: &[u8], at: usize) -> Option<Range<usize>> {
    let rest = message.get(at..)?;
    if rest.is_empty() || rest.starts_with(b"\r\n") {
        return None;
    }
    let mut end = at + line_length(rest);
    while matches!(message.get(end), Some(b' ' | b'\t')) {
        end += line_length(message.get(end..).unwrap_or_default());
    }
    Some(at..end)
}

/// Splits a field at its colon. `None` if this is no field (RFC 5322 §2.2: printable ASCII, then a colon;
/// §4.5.3: white space may stand before the colon).
fn field_in(message: &[u8], range: Range<usize>) -> Option<Field<'_>> {
    let text = message.get(range.clone())?;
    let colon = memchr(b':', text)?;
    let (name, value) = text.split_at(colon);
    let name = name.trim_ascii_end();
    if name.is_empty() || !name.iter().all(|b| (0x21..=0x7e).contains(b)) {
        return None;
    }
    let value = value.get(1..).unwrap_or_default();
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    Some(Field { kind: Kind::of(name), name, value, start: range.start, end: range.end })
}

/// The length of the first line with its line end.
pub(super) fn line_length(text: &[u8]) -> usize {
    memchr(b'\n', text).map_or(text.len(), |newline| newline + 1)
}

/// A value on one line: RFC 5322 §2.2.3, line ends before white space removed, outer white space trimmed.
pub fn unfold(value: &[u8]) -> Vec<u8> {
    let mut flat: Vec<u8> = value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    flat.truncate(flat.trim_ascii_end().len());
    let leading = flat.len() - flat.trim_ascii_start().len();
    flat.drain(..leading);
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(message: &str) -> (Vec<String>, &str) {
        let block = scan(message.as_bytes(), HeaderLimits::NONE).unwrap();
        let names = block.fields.iter().map(|f| String::from_utf8_lossy(f.name).into_owned()).collect();
        (names, &message[block.body_start..])
    }

    #[test]
    fn fields_are_found_in_every_form_that_a_reader_may_accept() {
        let rows: [(&str, &[&str], &str); 11] = [
            ("A: b\r\n\r\nbody", &["A"], "body"),
            ("A: b\r\n folded: c\r\n\tmore\r\nB:\r\n\r\n", &["A", "B"], ""),
            ("A : b\r\nFrom\t: c\r\n\r\nx", &["A", "From"], "x"),
            ("A: b\r\n \r\nFrom: c\r\n\r\nx", &["A", "From"], "x"),
            ("", &[], ""),
            ("\r\nbody", &[], "body"),
            ("no header at all\r\n", &[], "no header at all\r\n"),
            (" starts with space: x\r\n", &[], " starts with space: x\r\n"),
            ("A: b\r\nno colon\r\nB: c\r\n\r\n", &["A"], "no colon\r\nB: c\r\n\r\n"),
            ("A: b\r\nf\u{fc}: c\r\n", &["A"], "f\u{fc}: c\r\n"),
            ("A: b", &["A"], ""),
        ];
        for (message, want, body) in rows {
            assert_eq!(names(message), (want.iter().map(|n| (*n).to_owned()).collect(), body), "{message:?}");
        }
    }

    #[test]
    fn known_names_are_known_in_any_case() {
        let all = "FROM:\r\nsender:\r\nSubject:\r\nDate:\r\nMessage-Id:\r\nReceived:\r\nBcc:\r\nResent-Bcc:\r\n\
                   Return-Path:\r\nDKIM-Signature:\r\nMIME-Version:\r\nContent-Type:\r\n\
                   content-transfer-encoding:\r\nFrob:\r\n";
        let block = scan(all.as_bytes(), HeaderLimits::NONE).unwrap();
        use Kind::*;
        let want = [
            From,
            Sender,
            Subject,
            Date,
            MessageId,
            Received,
            Bcc,
            ResentBcc,
            ReturnPath,
            DkimSignature,
            MimeVersion,
            ContentType,
            TransferEncoding,
            Other,
        ];
        assert_eq!(block.fields.iter().map(|f| f.kind).collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_block_over_its_limits_is_refused() {
        let limits = HeaderLimits { bytes_max: 10, fields_max: 2 };
        assert_eq!(scan(b"A: 1234\r\nB: 5\r\n", limits), Err(HeaderTooLarge::Bytes(10)));
        assert_eq!(scan(b"A:\r\nB:\r\nC:", limits), Err(HeaderTooLarge::Fields(2)));
        assert!(scan(b"A:\r\nB:\r\n", limits).is_ok());
    }

    #[test]
    fn a_folded_value_is_read_as_one_line() {
        assert_eq!(unfold(b" a\r\n b\r\n\tc  "), b"a b\tc");
        assert_eq!(unfold(b""), b"");
    }
}
