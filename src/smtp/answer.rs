//! What we say to a client: reply lines that are always whole, short and without control characters.

use std::borrow::Cow;

/// Longest text of one reply line. Unit: octets. RFC 5321 §4.5.3.1.5 allows 512 with code and CRLF, and PHPMailer
/// reads no more at once.
const TEXT_LENGTH_MAX: usize = 490;

/// A reply of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Three digits.
    pub code: u16,
    /// RFC 2034; empty where none belongs (greeting, EHLO, 334, 354).
    pub status: &'static str,
    /// A sentence.
    pub text: Cow<'static, str>,
}

impl Answer {
    /// A reply whose words never change.
    pub const fn fixed(code: u16, status: &'static str, text: &'static str) -> Answer {
        Answer { code, status, text: Cow::Borrowed(text) }
    }

    /// A reply that names something. Control characters in `text` are defused when it is written.
    pub const fn new(code: u16, status: &'static str, text: String) -> Answer {
        Answer { code, status, text: Cow::Owned(text) }
    }

    /// Appends the reply line to what will be sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_with(out, b' ');
    }

    /// Appends it as one line of several: `-` after the code.
    pub fn write_continued(&self, out: &mut Vec<u8>) {
        self.write_with(out, b'-');
    }

    fn write_with(&self, out: &mut Vec<u8>, separator: u8) {
        let code = self.code.clamp(200, 599);
        out.extend([code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8));
        out.push(separator);
        if !self.status.is_empty() {
            out.extend_from_slice(self.status.as_bytes());
            out.push(b' ');
        }
        let mut length = 0;
        for c in self.text.chars() {
            length += c.len_utf8();
            if length > TEXT_LENGTH_MAX {
                break;
            }
            let c = if c.is_control() { '?' } else { c };
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(answer: &Answer) -> String {
        let mut out = Vec::new();
        answer.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reply_is_one_line_whatever_its_text() {
        assert_eq!(written(&Answer::fixed(250, "2.1.0", "Ok")), "250 2.1.0 Ok\r\n");
        assert_eq!(written(&Answer::fixed(334, "", "")), "334 \r\n");
        let hostile = Answer::new(550, "5.7.1", "a\r\n250 ok\0\u{85}".to_owned());
        assert_eq!(written(&hostile), "550 5.7.1 a??250 ok??\r\n");
        let long = written(&Answer::new(550, "5.7.1", "é".repeat(1000)));
        assert!(long.len() <= 512 && long.ends_with("é\r\n"));
    }
}
