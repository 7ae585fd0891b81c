//! The message on standard input, as `sendmail` takes it: line ends, the lone dot, "From " lines, and whom its header names.

use std::io::{self, BufRead};

use super::addresses::addresses;

/// Longest header from which recipients are read. Unit: octets.
const HEADER_LENGTH_MAX: usize = 4 << 20;

/// A message that was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Input {
    /// Lines ended by LF.
    pub message: Vec<u8>,
    /// Whom the header names, if that was asked for.
    pub recipients: Vec<String>,
}

/// Why it is none.
#[derive(Debug)]
pub(super) enum InputError {
    Read(io::Error),
    /// Longer than may be sent.
    TooBig,
    /// The header is too long to look for recipients in.
    HeaderTooBig,
}

/// Whether a line with a lone dot ends the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dot {
    Ends,
    IsText,
}

/// Reads a message to its end.
///
/// # Errors
/// See [`InputError`].
pub(super) fn read(
    input: &mut impl BufRead,
    dot: Dot,
    from_headers: bool,
    length_max: u64,
) -> Result<Input, InputError> {
    let mut message = Vec::new();
    let mut line = Vec::new();
    let mut at_start = true;
    loop {
        line.clear();
        let left = length_max.saturating_add(2).saturating_sub(message.len() as u64);
        let length = io::Read::take(&mut *input, left).read_until(b'\n', &mut line).map_err(InputError::Read)?;
        if length == 0 {
            break;
        }
        let is_whole = line.ends_with(b"\n");
        let mut text = line.strip_suffix(b"\n").unwrap_or(&line);
        // PHP's mail() writes CRLF headers above a body with any line ends; programs that add CRs add too many.
        while let Some(shorter) = text.strip_suffix(b"\r") {
            text = shorter;
        }
        if dot == Dot::Ends && text == b"." {
            break;
        }
        // mbox's line before each message, which mail programs leave in place.
        at_start = at_start && (text.starts_with(b"From ") || text.starts_with(b">From "));
        if at_start {
            continue;
        }
        message.extend_from_slice(text);
        message.push(b'\n');
        if message.len() as u64 > length_max {
            return Err(InputError::TooBig);
        }
        if !is_whole {
            break;
        }
    }
    let recipients = match from_headers {
        true => recipients(&message)?,
        false => Vec::new(),
    };
    Ok(Input { message, recipients })
}

/// To, Cc and Bcc; if any Resent- one of them is there, those alone.
fn recipients(message: &[u8]) -> Result<Vec<String>, InputError> {
    let (mut first, mut resent) = (Vec::new(), None::<Vec<String>>);
    let mut field = String::new();
    let mut seen = 0;
    let mut lines = message.split_inclusive(|byte| *byte == b'\n');
    loop {
        let line = lines.next().unwrap_or_default();
        seen += line.len();
        if seen > HEADER_LENGTH_MAX {
            return Err(InputError::HeaderTooBig);
        }
        let text = String::from_utf8_lossy(line);
        if text.starts_with([' ', '\t']) && !field.is_empty() {
            field.push_str(&text);
            continue;
        }
        if let Some((name, value)) = field.split_once(':') {
            match name.trim_end().to_ascii_lowercase().as_str() {
                "to" | "cc" | "bcc" => first.extend(addresses(value)),
                "resent-to" | "resent-cc" | "resent-bcc" => {
                    resent.get_or_insert_default().extend(addresses(value));
                }
                _ => {}
            }
        }
        field = text.into_owned();
        if !is_field(&field) {
            return Ok(resent.unwrap_or(first));
        }
    }
}

/// Whether a line begins a header field. Anything else ends the header.
fn is_field(line: &str) -> bool {
    let Some((name, _)) = line.split_once(':') else { return false };
    let name = name.trim_end();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(input: &str, dot: Dot) -> String {
        String::from_utf8(read(&mut input.as_bytes(), dot, false, 1000).unwrap().message).unwrap()
    }

    #[test]
    fn lines_are_mended_and_nothing_else() {
        let rows = [
            ("", Dot::Ends, ""),
            ("a\r\nb\n", Dot::Ends, "a\nb\n"),
            ("a\r\r\nb", Dot::Ends, "a\nb\n"),
            ("a\rb\n", Dot::Ends, "a\rb\n"),
            ("a\n.\nb\n", Dot::Ends, "a\n"),
            ("a\r\n.\r\nb\n", Dot::Ends, "a\n"),
            ("a\n.\nb\n", Dot::IsText, "a\n.\nb\n"),
            ("a\n..\n", Dot::Ends, "a\n..\n"),
            ("From me Mon\n>From you\nSubject: x\nFrom here\n", Dot::Ends, "Subject: x\nFrom here\n"),
        ];
        for (input, dot, wanted) in rows {
            assert_eq!(text(input, dot), wanted, "{input:?}");
        }
    }

    #[test]
    fn a_message_is_bounded_in_length() {
        let long = "x".repeat(999);
        assert!(read(&mut long.as_bytes(), Dot::Ends, false, 1000).is_ok());
        for length in [1000, 1001, 5000] {
            let long = "x".repeat(length);
            let read = read(&mut long.as_bytes(), Dot::Ends, false, 1000);
            assert!(matches!(read, Err(InputError::TooBig)), "{length}");
        }
    }

    #[test]
    fn the_header_names_the_recipients() {
        let rows: [(&str, &[&str]); 7] = [
            ("To: a@x.example\n\nTo: b@x.example\n", &["a@x.example"]),
            ("TO: a@x.example,\n\tB <b@x.example>\nCc: c\nBCC: d\n", &["a@x.example", "b@x.example", "c", "d"]),
            ("To: a\nResent-To: b\nResent-Bcc: c\n\n", &["b", "c"]),
            ("To : a\n\n", &["a"]),
            ("Subject: x\n\nTo: a\n", &[]),
            ("no field\nTo: a\n", &[]),
            ("Reply-To: a\nX-To: b\nApparently-To: c\n", &[]),
        ];
        for (message, wanted) in rows {
            assert_eq!(read(&mut message.as_bytes(), Dot::Ends, true, 1000).unwrap().recipients, wanted, "{message:?}");
        }
    }
}
