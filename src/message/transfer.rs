//! Quoted-printable and base64 (RFC 2045 §6.7, §6.8), and the folding of lines that may not be encoded.

use base64::Engine as _;

use super::author::hex_octet;
use super::header::line_length;

/// Octets in a line without its CRLF: RFC 5322 §2.1.1, RFC 5321 §4.5.3.1.6.
pub(super) const LINE_LENGTH_MAX: usize = 998;
/// Characters in an encoded line: RFC 2045 §6.7 rule 5 and §6.8.
const ENCODED_LENGTH_MAX: usize = 76;

/// Whether some line is longer than [`LINE_LENGTH_MAX`]. Looks at about one octet in a thousand of ordinary text.
pub(super) fn has_long_line(text: &[u8]) -> bool {
    let mut rest = text;
    while rest.len() > LINE_LENGTH_MAX {
        let window = rest.get(..LINE_LENGTH_MAX + 2).unwrap_or(rest);
        match memchr::memrchr(b'\n', window) {
            Some(newline) => rest = rest.get(newline + 1..).unwrap_or_default(),
            None => return true,
        }
    }
    false
}

/// The lines of a text, each with its line end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (line, after) = rest.split_at_checked(line_length(rest)).filter(|(line, _)| !line.is_empty())?;
        rest = after;
        Some(line)
    })
}

/// A line and its line end, which may be missing at the end of a text.
fn split_end(line: &[u8]) -> (&[u8], &[u8]) {
    match line.strip_suffix(b"\r\n") {
        Some(content) => (content, b"\r\n"),
        None => (line, b""),
    }
}

fn is_long(line: &[u8]) -> bool {
    split_end(line).0.len() > LINE_LENGTH_MAX
}

/// Encodes text whose line ends are CRLF, which stay as they are.
pub(super) fn quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    for line in lines(text) {
        let (content, end) = split_end(line);
        let mut column = 0;
        for (at, &byte) in content.iter().enumerate() {
            let is_last = at + 1 == content.len();
            let plain = match byte {
                b'=' => false,
                // White space at the end of a line is lost on the way (RFC 2045 §6.7 rule 3).
                b' ' | b'\t' => !is_last,
                0x21..=0x7e => true,
                _ => false,
            };
            let width = if plain { 1 } else { 3 };
            // Room for the `=` of a soft break, unless the line ends here.
            if column + width > ENCODED_LENGTH_MAX - usize::from(!is_last) {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            // A soft break must not make a line that begins like a delimiter.
            match plain && !(byte == b'-' && column == 0 && at > 0) {
                true => {
                    out.push(byte);
                    column += 1;
                }
                false => {
                    push_hex(byte, out);
                    column += 3;
                }
            }
        }
        out.extend_from_slice(end);
    }
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    out.extend([b'=', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Makes text that is quoted-printable already short-lined and 7-bit: soft breaks into long lines, octets above 127
/// as hexadecimals. Lines that need neither stay as they are.
pub(super) fn mend_quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    for line in lines(text) {
        if !is_long(line) && line.is_ascii() {
            out.extend_from_slice(line);
            continue;
        }
        let (content, end) = split_end(line);
        let (mut at, mut column) = (0, 0);
        while let Some(&byte) = content.get(at) {
            // A soft break of the author's own ends the line.
            let rest = content.get(at..).unwrap_or_default();
            let is_encoded = byte == b'=' && rest.get(1..3).and_then(hex_octet).is_some();
            let width = if is_encoded || !byte.is_ascii() { 3 } else { 1 };
            let taken = if is_encoded { 3 } else { 1 };
            let is_last = at + taken >= content.len();
            if column + width > ENCODED_LENGTH_MAX - usize::from(!is_last) {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            let starts_line = column == 0 && at > 0 && byte == b'-';
            column += if starts_line { 3 } else { width };
            match is_encoded {
                true => out.extend_from_slice(rest.get(..3).unwrap_or_default()),
                false if !byte.is_ascii() || starts_line => push_hex(byte, out),
                false => out.push(byte),
            }
            at += taken;
        }
        out.extend_from_slice(end);
    }
}

/// Encodes octets, 76 characters a line, without a final line end.
pub(super) fn base64(octets: &[u8], out: &mut Vec<u8>) {
    // 57 octets make 76 characters.
    for (number, chunk) in octets.chunks(57).enumerate() {
        if number > 0 {
            out.extend_from_slice(b"\r\n");
        }
        let mut line = [0; ENCODED_LENGTH_MAX];
        // Cannot fail: 57 octets fit exactly.
        let length = base64::engine::general_purpose::STANDARD.encode_slice(chunk, &mut line).unwrap_or(0);
        out.extend_from_slice(line.get(..length).unwrap_or_default());
    }
}

/// Breaks the long lines of base64 text. Line ends mean nothing there (RFC 2045 §6.8), unless a break made a
/// delimiter.
pub(super) fn mend_base64(text: &[u8], out: &mut Vec<u8>) {
    for line in lines(text) {
        let (content, end) = split_end(line);
        if !is_long(line) {
            out.extend_from_slice(line);
            continue;
        }
        for (number, chunk) in content.chunks(ENCODED_LENGTH_MAX).enumerate() {
            match chunk.first() {
                _ if number == 0 => {}
                Some(b'-' | b' ' | b'\t') => out.extend_from_slice(b"\r\n "),
                _ => out.extend_from_slice(b"\r\n"),
            }
            out.extend_from_slice(chunk);
        }
        out.extend_from_slice(end);
    }
}

/// Breaks long lines of text that may not be encoded, as Postfix does: a line end and a space (which keeps a piece
/// from being taken for a delimiter or a field), before white space if there is some.
pub(super) fn fold_text(text: &[u8], out: &mut Vec<u8>) {
    for line in lines(text) {
        let (mut content, end) = split_end(line);
        let mut room = LINE_LENGTH_MAX;
        while content.len() > room {
            let at = break_point(content, room);
            let (piece, rest) = content.split_at(at);
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
            room = LINE_LENGTH_MAX;
            if !rest.starts_with(b" ") {
                out.push(b' ');
                room -= 1;
            }
            content = rest;
        }
        out.extend_from_slice(content);
        out.extend_from_slice(end);
    }
}

/// Where to break a text so that at most `room` octets stand before: at the last space of the second half, else
/// where no UTF-8 character is torn. Never zero.
fn break_point(text: &[u8], room: usize) -> usize {
    let window = text.get(..=room).unwrap_or(text);
    if let Some(space) = memchr::memrchr(b' ', window).filter(|at| *at > room / 2) {
        return space;
    }
    let is_boundary = |at: usize| text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80);
    (room.saturating_sub(3)..=room).rev().find(|at| is_boundary(*at)).unwrap_or(room).max(1)
}

/// Folds a field's long lines (RFC 5322 §2.2.3) where white space stands; a word longer than a line is broken, which
/// puts a space into it. White space that fits on no line becomes one space, and a line of white space alone, which
/// some readers take for the end of the header, is never made.
pub(super) fn fold_field(field: &[u8], out: &mut Vec<u8>) {
    for line in lines(field) {
        let (content, end) = split_end(line);
        if content.len() <= LINE_LENGTH_MAX {
            out.extend_from_slice(line);
            continue;
        }
        let mut column = 0;
        let mut rest = content;
        while !rest.is_empty() {
            let blank = rest.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(rest.len());
            let (space, after) = rest.split_at(blank);
            let length = after.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(after.len());
            let (word, after) = after.split_at(length);
            rest = after;
            if word.is_empty() {
                break;
            }
            if column + space.len() + word.len() <= LINE_LENGTH_MAX {
                out.extend_from_slice(space);
                out.extend_from_slice(word);
                column += space.len() + word.len();
                continue;
            }
            column = fold_word(space, word, column, out);
        }
        out.extend_from_slice(end);
    }
}

/// Writes a word that does not fit on the line, on lines of its own. Returns the column after it.
fn fold_word(space: &[u8], word: &[u8], column: usize, out: &mut Vec<u8>) -> usize {
    let space: &[u8] = if space.is_empty() || space.len() + word.len() > LINE_LENGTH_MAX { b" " } else { space };
    // At the very start of a field nothing may stand before the name, and a line holding only white space is no fold.
    let mut column = column;
    let mut word = word;
    if column > 0 {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(space);
        column = space.len();
    }
    while column + word.len() > LINE_LENGTH_MAX {
        let (piece, rest) = word.split_at(break_point(word, LINE_LENGTH_MAX - column));
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n ");
        column = 1;
        word = rest;
    }
    out.extend_from_slice(word);
    column + word.len()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 2045 §6.7, strictly enough for what the encoder writes.
    pub(in crate::message) fn decode(text: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match &text[at..] {
                [b'=', b'\r', b'\n', ..] => at += 3,
                [b'=', high, low, ..] => {
                    decoded.push(hex_octet(&[*high, *low]).expect("two digits"));
                    at += 3;
                }
                [byte, ..] => {
                    decoded.push(*byte);
                    at += 1;
                }
                [] => unreachable!(),
            }
        }
        decoded
    }

    pub(in crate::message) fn longest(text: &[u8]) -> usize {
        lines(text).map(|line| split_end(line).0.len()).max().unwrap_or(0)
    }

    fn run(rule: fn(&[u8], &mut Vec<u8>), text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        rule(text, &mut out);
        out
    }

    /// Text with CRLF line ends only, some of its lines long.
    pub(in crate::message) fn crlf_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..120),
            1 => (any::<u8>(), 900..2100usize).prop_map(|(byte, length)| vec![byte; length]),
            1 => (0..400usize).prop_map(|n| "one =3D --b two\t".repeat(n).into_bytes()),
            1 => Just(b"\r\n".to_vec()),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| {
            let mut text = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                text.extend(piece.iter().filter(|b| !matches!(b, b'\r' | b'\n')));
                if at % 2 == 0 {
                    text.extend(b"\r\n");
                }
            }
            text
        })
    }

    proptest! {
        #[test]
        fn quoted_printable_decodes_to_what_was_encoded(text in crlf_text()) {
            let encoded = run(quoted_printable, &text);
            prop_assert!(encoded.is_ascii() && longest(&encoded) <= 76);
            prop_assert_eq!(decode(&encoded), text);
        }

        #[test]
        fn mending_quoted_printable_keeps_its_meaning(text in crlf_text()) {
            let encoded = run(quoted_printable, &text);
            let joined = encoded.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect::<Vec<_>>();
            // Without line ends the soft breaks are gone wrong, so take the `=` of each away too.
            let joined: Vec<u8> = match joined.last() { Some(b'=') => vec![], _ => joined };
            let mended = run(mend_quoted_printable, &joined);
            prop_assert!(mended.is_ascii() && longest(&mended) <= LINE_LENGTH_MAX);
            prop_assert_eq!(run(mend_quoted_printable, &mended), mended.clone());
        }

        #[test]
        fn base64_decodes_to_what_was_encoded(octets: Vec<u8>) {
            let encoded = run(base64, &octets);
            prop_assert!(longest(&encoded) <= 76);
            let joined: Vec<u8> = encoded.into_iter().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
            prop_assert_eq!(base64::engine::general_purpose::STANDARD.decode(&joined).unwrap(), octets);
            let long = [joined.clone(), b"\r\n".to_vec()].concat();
            let mended = run(mend_base64, &long);
            prop_assert!(longest(&mended) <= LINE_LENGTH_MAX);
            let again: Vec<u8> = mended.into_iter().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
            prop_assert_eq!(again, joined);
        }

        #[test]
        fn folding_shortens_every_line_and_adds_only_line_ends_and_spaces(text in crlf_text()) {
            let folded = run(fold_text, &text);
            prop_assert!(longest(&folded) <= LINE_LENGTH_MAX);
            let strip = |t: &[u8]| t.iter().copied().filter(|b| !b" \r\n".contains(b)).collect::<Vec<_>>();
            prop_assert_eq!(strip(&folded), strip(&text));
            prop_assert_eq!(run(fold_text, &folded), folded);
        }

        #[test]
        fn a_folded_field_has_no_long_line_and_no_blank_one(text in crlf_text()) {
            let flat: Vec<u8> = text.into_iter().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
            let field = [b"Subject: x".to_vec(), flat, b"\r\n".to_vec()].concat();
            let folded = run(fold_field, &field);
            prop_assert!(longest(&folded) <= LINE_LENGTH_MAX);
            let was_long = longest(&field) > LINE_LENGTH_MAX;
            prop_assert!(!was_long || lines(&folded).all(|line| line.iter().any(|b| !b" \t\r\n".contains(b))));
            let strip = |t: &[u8]| t.iter().copied().filter(|b| !b" \t\r\n".contains(b)).collect::<Vec<_>>();
            prop_assert_eq!(strip(&folded), strip(&field));
            prop_assert_eq!(run(fold_field, &folded), folded);
        }

        #[test]
        fn a_long_line_is_seen_wherever_it_stands(text in crlf_text()) {
            prop_assert_eq!(has_long_line(&text), longest(&text) > LINE_LENGTH_MAX);
        }
    }

    #[test]
    fn encoding_hides_what_the_way_would_change() {
        let rows: [(&[u8], &[u8]); 6] = [
            (b"a = b \r\n", b"a =3D b=20\r\n"),
            (b"tab\t", b"tab=09"),
            ("gr\u{fc}n\r\n".as_bytes(), b"gr=C3=BCn\r\n"),
            (b"-- \r\n", b"--=20\r\n"),
            (b"", b""),
            (b"\r\n\r\n", b"\r\n\r\n"),
        ];
        for (text, want) in rows {
            assert_eq!(run(quoted_printable, text), want);
        }
        let dashes = run(quoted_printable, &b"x".repeat(75).into_iter().chain(*b"--boundary").collect::<Vec<_>>());
        assert!(dashes.ends_with(b"=\r\n=2D-boundary"), "{}", String::from_utf8_lossy(&dashes));
    }

    #[test]
    fn a_field_is_folded_at_its_white_space() {
        let references = format!("References:{}\r\n", " <0123456789@id.example>".repeat(100));
        let folded = run(fold_field, references.as_bytes());
        let unfolded: Vec<u8> = folded.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        assert_eq!(unfolded, references.trim_end().as_bytes());
        assert!(longest(&folded) <= LINE_LENGTH_MAX && folded.contains(&b'\n'));
    }
}
