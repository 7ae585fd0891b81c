//! Splits what a client sends into command lines. Called by the session; it never sees message octets.
//!
//! A line ends at CRLF. A line that ends at LF alone is given out too, marked as such, because people type at us with
//! `nc` and some devices know no better; the session refuses it wherever the framing changes (DATA, BDAT, STARTTLS,
//! AUTH), so that nothing about the end of a message ever hangs on a bare LF.

/// How a line ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineEnd {
    /// As RFC 5321 §2.3.8 demands.
    CrLf,
    /// LF alone.
    Lf,
}

/// What stands at the start of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A whole line.
    Line {
        /// Without its end.
        text: &'a [u8],
        /// How it ended.
        end: LineEnd,
        /// Octets to take from the buffer.
        consumed: usize,
    },
    /// No line end yet, and room for more.
    More,
    /// Longer than allowed: what is there must be thrown away, up to the next LF.
    TooLong,
}

/// Looks for a line of at most `length_max` octets (its end not counted) at the start of `buffer`.
pub fn frame(buffer: &[u8], length_max: usize) -> Frame<'_> {
    let Some(at) = memchr::memchr(b'\n', buffer) else {
        // One octet over for a CR that waits for its LF.
        return if buffer.len() > length_max + 1 { Frame::TooLong } else { Frame::More };
    };
    let line = buffer.get(..at).unwrap_or_default();
    let (text, end) = match line.strip_suffix(b"\r") {
        Some(text) => (text, LineEnd::CrLf),
        None => (line, LineEnd::Lf),
    };
    match text.len() > length_max {
        true => Frame::TooLong,
        false => Frame::Line { text, end, consumed: at + 1 },
    }
}

/// How much of `buffer` belongs to a line that is being thrown away, and whether its end is among it.
pub fn discard(buffer: &[u8]) -> (usize, bool) {
    match memchr::memchr(b'\n', buffer) {
        Some(at) => (at + 1, true),
        None => (buffer.len(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_their_ends_and_bounded() {
        let line = |text, end, consumed| Frame::Line { text, end, consumed };
        let rows: &[(&[u8], Frame)] = &[
            (b"", Frame::More),
            (b"NOOP", Frame::More),
            (b"NOOP\r", Frame::More),
            (b"NOOP\r\n", line(b"NOOP", LineEnd::CrLf, 6)),
            (b"NOOP\nX", line(b"NOOP", LineEnd::Lf, 5)),
            (b"\r\n", line(b"", LineEnd::CrLf, 2)),
            (b"A\rB\r\nC", line(b"A\rB", LineEnd::CrLf, 5)),
            (b"A\r\r\n", line(b"A\r", LineEnd::CrLf, 4)),
            (b"12345678", Frame::More),
            (b"12345678\r", Frame::More),
            (b"12345678\r\n", line(b"12345678", LineEnd::CrLf, 10)),
            (b"123456789\r\n", Frame::TooLong),
            (b"1234567890", Frame::TooLong),
        ];
        for (buffer, want) in rows {
            assert_eq!(frame(buffer, 8), *want, "{}", buffer.escape_ascii());
        }
        assert_eq!(discard(b"abc"), (3, false));
        assert_eq!(discard(b"abc\nd"), (4, true));
    }
}
