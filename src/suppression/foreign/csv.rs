//! Reads CSV (RFC 4180) as it is really written: commas, semicolons or tabs, quotes where needed, any line ends. Bounded.

use std::io::{self, BufRead};

/// Longest record. Unit: octets. A provider's words for a bounce have some hundred.
pub(super) const RECORD_LENGTH_MAX: usize = 64 * 1024;
/// Most fields of a record.
const FIELDS_MAX: usize = 64;

/// A record: its fields, and the line on which it began, from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub line: u64,
    pub fields: Result<Vec<String>, Bad>,
}

/// Why a record is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Bad {
    #[error("it is longer than {RECORD_LENGTH_MAX} octets")]
    Long,
    #[error("it has more than {FIELDS_MAX} fields")]
    Wide,
    #[error("it is not UTF-8")]
    Encoding,
    #[error("a quote is not closed where the field ends")]
    Quote,
}

/// Goes through the lines of a file.
pub(super) struct Lines<R> {
    input: R,
    /// The next line's number.
    next: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Lines<R> {
        Lines { input, next: 1 }
    }

    /// The next line without its end. The flag: it was too long, and is cut.
    pub fn line(&mut self, out: &mut Vec<u8>) -> io::Result<Option<(u64, bool)>> {
        out.clear();
        let (mut is_long, mut is_something) = (false, false);
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            is_something = true;
            let end = memchr::memchr(b'\n', buffer);
            let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
            let room = RECORD_LENGTH_MAX - out.len();
            is_long |= part.len() > room;
            out.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            let used = end.map_or(buffer.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        if !is_something {
            return Ok(None);
        }
        if out.last() == Some(&b'\r') {
            out.pop();
        }
        self.next += 1;
        Ok(Some((self.next - 1, is_long)))
    }

    /// The next record that is not empty. A quoted field may go over several lines.
    pub fn record(&mut self, delimiter: u8) -> io::Result<Option<Record>> {
        let (mut line, mut text) = (Vec::new(), Vec::new());
        loop {
            let Some((number, mut is_long)) = self.line(&mut line)? else { return Ok(None) };
            text.clear();
            text.extend_from_slice(&line);
            if text.iter().all(u8::is_ascii_whitespace) && !is_long {
                continue;
            }
            while !is_long && is_open(&text, delimiter) {
                let Some((_, next_is_long)) = self.line(&mut line)? else { break };
                is_long = next_is_long || text.len() + 1 + line.len() > RECORD_LENGTH_MAX;
                text.push(b'\n');
                text.extend_from_slice(&line);
            }
            let fields = if is_long { Err(Bad::Long) } else { fields(&text, delimiter) };
            return Ok(Some(Record { line: number, fields }));
        }
    }
}

/// What divides the fields of this first line.
pub(super) fn delimiter_of(line: &[u8]) -> u8 {
    let count = |delimiter: &u8| line.iter().filter(|octet| *octet == delimiter).count();
    [b'\t', b';', b','].into_iter().max_by_key(count).filter(|delimiter| count(delimiter) > 0).unwrap_or(b',')
}

/// Whether a quoted field goes on in the next line.
fn is_open(text: &[u8], delimiter: u8) -> bool {
    let (mut quoted, mut at_start) = (false, true);
    let mut octets = text.iter().peekable();
    while let Some(octet) = octets.next() {
        match (quoted, *octet) {
            (true, b'"') if octets.peek() == Some(&&b'"') => drop(octets.next()),
            (true, b'"') => quoted = false,
            (false, b'"') if at_start => quoted = true,
            _ => {}
        }
        at_start = !quoted && *octet == delimiter;
    }
    quoted
}

/// The fields of a record, trimmed where they are not quoted.
fn fields(text: &[u8], delimiter: u8) -> Result<Vec<String>, Bad> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if fields.len() >= FIELDS_MAX {
            return Err(Bad::Wide);
        }
        let (field, after) = match rest.first() {
            Some(b'"') => quoted(rest.get(1..).unwrap_or_default(), delimiter)?,
            _ => {
                let end = memchr::memchr(delimiter, rest).unwrap_or(rest.len());
                let (field, after) = rest.split_at_checked(end).unwrap_or_default();
                (field.trim_ascii().to_vec(), after)
            }
        };
        fields.push(String::from_utf8(field).map_err(|_| Bad::Encoding)?);
        match after.split_first() {
            Some((_, after)) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// A quoted field, and what comes after it: nothing, or the delimiter.
fn quoted(text: &[u8], delimiter: u8) -> Result<(Vec<u8>, &[u8]), Bad> {
    let mut field = Vec::new();
    let mut rest = text;
    loop {
        let end = memchr::memchr(b'"', rest).ok_or(Bad::Quote)?;
        let (part, after) = rest.split_at_checked(end).unwrap_or_default();
        field.extend_from_slice(part);
        let after = after.get(1..).unwrap_or_default();
        match after.first() {
            Some(b'"') => {
                field.push(b'"');
                rest = after.get(1..).unwrap_or_default();
            }
            None => return Ok((field, after)),
            Some(octet) if *octet == delimiter => return Ok((field, after)),
            Some(octet) if octet.is_ascii_whitespace() => {
                let after = after.trim_ascii_start();
                match after.first() {
                    None => return Ok((field, after)),
                    Some(octet) if *octet == delimiter => return Ok((field, after)),
                    Some(_) => return Err(Bad::Quote),
                }
            }
            Some(_) => return Err(Bad::Quote),
        }
    }
}

/// A field as it must be written.
pub(super) fn quote(field: &str) -> String {
    match field.contains(['"', ',', '\n', '\r', ';', '\t']) || field.trim() != field {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u64, String)> {
        let mut lines = Lines::new(text.as_bytes());
        let delimiter = delimiter_of(text.lines().next().unwrap_or_default().as_bytes());
        let mut out = Vec::new();
        while let Some(record) = lines.record(delimiter).unwrap() {
            out.push((record.line, record.fields.map_or_else(|bad| format!("! {bad}"), |fields| fields.join("|"))));
        }
        out
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        for (text, want) in [
            ("a,b\r\nc,d", vec![(1, "a|b"), (2, "c|d")]),
            ("a;b,c\n1;2;3", vec![(1, "a;b|c"), (2, "1;2;3")]),
            ("a;b\n1; 2 ", vec![(1, "a|b"), (2, "1|2")]),
            ("a\tb\n\n\n1\t2\n", vec![(1, "a|b"), (4, "1|2")]),
            ("\"a,\"\"b\"\"\",c", vec![(1, "a,\"b\"|c")]),
            ("a,\"x\ny\"\nb,c", vec![(1, "a|x\ny"), (3, "b|c")]),
            ("a,\"x", vec![(1, "! a quote is not closed where the field ends")]),
            ("a,\"x\"y\nb,c", vec![(1, "! a quote is not closed where the field ends"), (2, "b|c")]),
            ("a,b\"c\n1,2", vec![(1, "a|b\"c"), (2, "1|2")]),
            (",\n,,", vec![(1, "|"), (2, "||")]),
            ("a,\"\" ,b", vec![(1, "a||b")]),
            ("", vec![]),
        ] {
            let want: Vec<(u64, String)> = want.into_iter().map(|(line, text)| (line, text.to_owned())).collect();
            assert_eq!(read(text), want, "{text:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_told_and_passed_over() {
        let long = format!("{}\nb,c\n", "x".repeat(RECORD_LENGTH_MAX + 1));
        assert_eq!(read(&long).iter().map(|(_, text)| &text[..3]).collect::<Vec<_>>(), ["! i", "b|c"]);
        let wide = format!("{}\nb,c\n", ",".repeat(100));
        assert_eq!(read(&wide)[0].1, "! it has more than 64 fields");
        let open = format!("a,\"{}\n{}", "y".repeat(40_000), "z\n".repeat(40_000));
        assert_eq!(read(&open)[0].1, format!("! it is longer than {RECORD_LENGTH_MAX} octets"));
        let mut lines = Lines::new(&b"a,\xff\n"[..]);
        assert_eq!(lines.record(b',').unwrap().unwrap().fields, Err(Bad::Encoding));
    }

    #[test]
    fn a_field_that_is_quoted_reads_back() {
        for field in ["", "a", "a,b", "a\"b", " a", "a\nb", "x;y"] {
            assert_eq!(fields(format!("{},2", quote(field)).as_bytes(), b','), Ok(vec![field.to_owned(), "2".into()]));
        }
    }
}
