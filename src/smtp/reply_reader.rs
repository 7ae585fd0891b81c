//! A peer's replies, cut out of its bytes. A reply is attacker input: everything here is bounded.
//!
//! `delivery` reads into [`ReplyReader::space`] and takes whole replies out. Bytes behind a reply stay, so that a group
//! that breaks in the middle keeps every reply that came before the break.

use bytes::{Buf, BytesMut};

use crate::mail::{EnhancedStatus, Reply};

/// Kept of one line. Unit: octets. RFC 5321 §4.5.3.1.5 allows 512; what is longer is read and dropped.
const LINE_KEPT_MAX: usize = 2048;
/// Lines of one reply. The longest honest ones are EHLO's, some 20.
const LINES_MAX: usize = 100;
/// Octets of one reply, dropped ones included, before its end: more is no mail server.
const REPLY_LENGTH_MAX: usize = 64 * 1024;
/// Octets kept of one reply over all its lines.
const REPLY_KEPT_MAX: usize = 8 * 1024;
/// Least room offered to a read.
const READ_LENGTH: usize = 4096;

/// Cuts replies out of a byte stream. Lines may end in CRLF or LF.
#[derive(Debug, Default)]
pub struct ReplyReader {
    buffer: BytesMut,
    line: Vec<u8>,
    text: Vec<u8>,
    lines: usize,
    octets: usize,
    code: Option<u16>,
}

/// What makes a peer's words no SMTP reply. The connection is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    /// A line without three digits, a code outside 200 to 599, or another class in the middle of a reply.
    #[error("the peer's answer is no SMTP reply")]
    Garbage,
    /// Over 100 lines or 64 KiB.
    #[error("the peer's reply does not end")]
    Endless,
}

/// One whole reply. Borrows the reader's memory: nothing is copied for a reply that nobody keeps.
#[derive(Debug)]
pub struct Answer<'a> {
    code: u16,
    /// Lines without their codes, joined by LF.
    text: &'a [u8],
}

impl Answer<'_> {
    /// Its code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Its lines, without code.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|octet| *octet == b'\n')
    }

    /// To be kept: the lines joined by a space, bounded and defused. An enhanced status that is repeated on every line is
    /// kept once (RFC 2034 §4 has it on each), so that texts can be recognised across lines.
    pub fn reply(&self) -> Reply {
        let text = String::from_utf8_lossy(self.text);
        if !text.contains('\n') {
            return Reply::new(self.code, &text);
        }
        let first = EnhancedStatus::split(text.split('\n').next().unwrap_or_default()).map(|(status, _)| status);
        let mut joined = String::with_capacity(text.len());
        for (place, line) in text.split('\n').enumerate() {
            let line = match EnhancedStatus::split(line) {
                Some((status, rest)) if place > 0 && Some(status) == first => rest,
                _ => line,
            };
            if place > 0 && !line.is_empty() {
                joined.push(' ');
            }
            joined.push_str(line);
        }
        Reply::new(self.code, &joined)
    }
}

impl ReplyReader {
    /// Where the next bytes of the peer go: append, never remove. Has at least 4 KiB of room.
    pub fn space(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_LENGTH);
        &mut self.buffer
    }

    /// Whether the peer has said more than was taken: behind the reply to STARTTLS that is an attack (RFC 3207 §4.2,
    /// CVE-2021-38371).
    pub fn has_more(&self) -> bool {
        !self.buffer.is_empty() || !self.line.is_empty() || self.lines > 0
    }

    /// The next whole reply, if it is there.
    ///
    /// # Errors
    /// The peer does not speak SMTP. The reader is of no further use.
    pub fn next_reply(&mut self) -> Result<Option<Answer<'_>>, ReplyError> {
        if self.lines == 0 {
            self.text.clear();
        }
        while !self.buffer.is_empty() {
            let end = memchr::memchr(b'\n', &self.buffer);
            let taken = end.map_or(self.buffer.len(), |end| end + 1);
            self.octets = self.octets.saturating_add(taken);
            let room = LINE_KEPT_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(self.buffer.get(..room.min(taken)).unwrap_or_default());
            self.buffer.advance(taken);
            if self.octets > REPLY_LENGTH_MAX {
                return Err(ReplyError::Endless);
            }
            if end.is_some()
                && let Some(code) = self.end_of_line()?
            {
                (self.lines, self.octets, self.code) = (0, 0, None);
                return Ok(Some(Answer { code, text: &self.text }));
            }
        }
        Ok(None)
    }

    /// Takes a line in. `Some`: it was the last of its reply.
    fn end_of_line(&mut self) -> Result<Option<u16>, ReplyError> {
        let line = self.line.trim_ascii_end();
        let (code, rest) = line.split_at_checked(3).ok_or(ReplyError::Garbage)?;
        let code = code.iter().try_fold(0u16, |code, digit| match digit {
            b'0'..=b'9' => Some(code * 10 + u16::from(digit - b'0')),
            _ => None,
        });
        // RFC 5321 §4.2: 2yz to 5yz, then a space or, on all but the last line, a hyphen; the text may be missing.
        let code = code.filter(|code| (200..=599).contains(code)).ok_or(ReplyError::Garbage)?;
        let (last, text) = match rest {
            [] => (true, rest),
            [b'-', text @ ..] => (false, text),
            [b' ' | b'\t', text @ ..] => (true, text),
            _ => return Err(ReplyError::Garbage),
        };
        // Every line should have the same code; where they differ the last counts, unless they contradict each other.
        if self.code.is_some_and(|before| before / 100 != code / 100) {
            return Err(ReplyError::Garbage);
        }
        if self.lines > 0 && self.text.len() < REPLY_KEPT_MAX {
            self.text.push(b'\n');
        }
        let room = REPLY_KEPT_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
        self.line.clear();
        self.lines += 1;
        self.code = Some(code);
        match (last, self.lines < LINES_MAX) {
            (true, _) => Ok(Some(code)),
            (false, true) => Ok(None),
            (false, false) => Err(ReplyError::Endless),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The replies in the order they came, and how it ended.
    fn read(chunks: &[&[u8]]) -> (Vec<String>, Result<(), ReplyError>) {
        let (mut reader, mut replies) = (ReplyReader::default(), Vec::new());
        for chunk in chunks {
            reader.space().extend_from_slice(chunk);
            loop {
                match reader.next_reply() {
                    Ok(Some(answer)) => replies.push(answer.reply().to_string()),
                    Ok(None) => break,
                    Err(error) => return (replies, Err(error)),
                }
            }
        }
        (replies, Ok(()))
    }

    #[test]
    fn replies_are_cut_where_the_standard_says() {
        let rows: [(&[u8], &[&str]); 11] = [
            (b"250 Ok\r\n", &["250 Ok"]),
            (b"250 Ok\n", &["250 Ok"]),
            (b"250\r\n", &["250"]),
            (b"250 \r\n", &["250"]),
            (b"250 2.0.0 Ok: queued as 1\r\n", &["250 2.0.0 Ok: queued as 1"]),
            (b"250-a\r\n250-b\r\n250 c\r\n", &["250 a b c"]),
            (b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n", &["550 5.7.1 one two three"]),
            (b"250 a\r\n550 b\r\n354 c\r\n", &["250 a", "550 b", "354 c"]),
            (b"450-a\r\n451 b\r\n", &["451 a b"]),
            (b"550 \x1b]0;x\xff\r\n", &["550 ?]0;x\u{fffd}"]),
            (b"250 a\r\n25", &["250 a"]),
        ];
        for (bytes, want) in rows {
            assert_eq!(read(&[bytes]), (want.iter().map(|w| (*w).to_owned()).collect(), Ok(())), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_ends_the_connection_after_those_that_were() {
        let long = [b"250-".as_slice(), &vec![b'a'; 70_000]].concat();
        let many = b"250-a\r\n".repeat(101);
        let rows: [(&[u8], ReplyError); 12] = [
            (b"\r\n", ReplyError::Garbage),
            (b"25\r\n", ReplyError::Garbage),
            (b"2500 a\r\n", ReplyError::Garbage),
            (b"250x\r\n", ReplyError::Garbage),
            (b"199 a\r\n", ReplyError::Garbage),
            (b"600 a\r\n", ReplyError::Garbage),
            (b"999 a\r\n", ReplyError::Garbage),
            (b"+OK POP3\r\n", ReplyError::Garbage),
            (b"SSH-2.0-x\r\n", ReplyError::Garbage),
            (b"250-a\r\n550 b\r\n", ReplyError::Garbage),
            (&many, ReplyError::Endless),
            (&long, ReplyError::Endless),
        ];
        for (bytes, want) in rows {
            let (replies, end) = read(&[b"220 first\r\n", bytes]);
            assert_eq!((replies, end), (vec!["220 first".to_owned()], Err(want)));
        }
    }

    #[test]
    fn a_hostile_reply_is_kept_small() {
        let line = [b"550-".as_slice(), &[b'x'; 600], b"\r\n"].concat();
        let mut bytes = line.repeat(99);
        bytes.extend_from_slice(b"550 end\r\n");
        let mut reader = ReplyReader::default();
        reader.space().extend_from_slice(&bytes);
        let answer = reader.next_reply().unwrap().unwrap();
        assert!(answer.text.len() <= REPLY_KEPT_MAX);
        assert!(answer.reply().text.len() <= 1000);
        let mut reader = ReplyReader::default();
        reader.space().extend_from_slice(&[b"220 ".as_slice(), &[b'y'; 60_000], b"\r\n250 next\r\n"].concat());
        assert!(reader.next_reply().unwrap().unwrap().text.len() <= LINE_KEPT_MAX);
        assert!(reader.has_more());
        assert_eq!(reader.next_reply().unwrap().unwrap().code(), 250);
        assert!(!reader.has_more());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_the_same_and_never_panic(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..8),
                    Just(b"250".to_vec()), Just(b"-".to_vec()), Just(b" ".to_vec()), Just(b"\r\n".to_vec()),
                    Just(b"550 5.1.1 x\r\n".to_vec()), Just(b"250-a\n".to_vec()),
                ],
                0..30,
            ),
            cut in any::<u16>(),
        ) {
            let bytes = pieces.concat();
            let whole = read(&[&bytes]);
            let (a, b) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
            prop_assert_eq!(&read(&[a, b]), &whole);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&read(&single), &whole);
        }
    }
}
