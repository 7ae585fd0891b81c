//! What leaves as message data: dot-stuffing, and the one end of data.
//!
//! `delivery` encodes every message with it. It never repairs a line end: the door has made them all CRLF before anything
//! was signed, so a bare CR or LF here is a fault of ours, and a message with one is not sent at all. A peer that takes
//! another sequence than CRLF.CRLF for the end of data could otherwise be made to read a second message out of it
//! (SMTP smuggling; RFC 5321 §2.3.8, §4.1.1.4, §4.5.2).

/// Encodes one message, whole or in chunks cut anywhere.
///
/// ```text
///   LineStart ──other──► Middle ──CR──► AfterCr ──LF──► LineStart
///       └──'.' (doubled)──► Middle          └──other──► Err
/// ```
#[derive(Debug, Default)]
pub struct Encoder {
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    #[default]
    LineStart,
    Middle,
    AfterCr,
    Broken,
}

/// Why a message cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// CR without LF, or LF without CR.
    #[error("the message has a bare CR or LF and cannot be sent")]
    BareLineEnd,
}

impl Encoder {
    /// Appends the encoded form of the next chunk.
    ///
    /// # Errors
    /// A bare CR or LF. Nothing of the chunk is appended then; what was appended before must not be followed by an end of data,
    /// and every later call fails too.
    pub fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let begin = out.len();
        self.place = self.append(chunk, out).unwrap_or(Place::Broken);
        if self.place == Place::Broken {
            out.truncate(begin);
            return Err(EncodeError::BareLineEnd);
        }
        Ok(())
    }

    /// Says where the chunk ends, if it has no bare CR or LF.
    fn append(&self, chunk: &[u8], out: &mut Vec<u8>) -> Option<Place> {
        let Some((last, but_last)) = chunk.split_last() else { return Some(self.place) };
        // A CR at the chunk's very end is kept back until its LF comes.
        let text = if *last == b'\r' { but_last } else { chunk };
        out.reserve(chunk.len() + 8);
        match self.place {
            Place::AfterCr => out.push(b'\r'),
            // RFC 5321 §4.5.2: a line that starts with a dot gets one more.
            Place::LineStart if text.first() == Some(&b'.') => out.push(b'.'),
            Place::LineStart | Place::Middle => {}
            Place::Broken => return None,
        }
        let is_after_cr = self.place == Place::AfterCr;
        let (mut copied, mut lines) = (0, 0);
        for at in memchr::memchr_iter(b'\n', text) {
            let has_cr = at.checked_sub(1).map_or(is_after_cr, |before| text.get(before) == Some(&b'\r'));
            if !has_cr {
                return None;
            }
            lines += 1;
            if text.get(at + 1) == Some(&b'.') {
                out.extend_from_slice(text.get(copied..=at)?);
                out.push(b'.');
                copied = at + 1;
            }
        }
        // Each LF had its CR: any more CRs are bare.
        if memchr::memchr_iter(b'\r', text).count() + usize::from(is_after_cr) != lines {
            return None;
        }
        out.extend_from_slice(text.get(copied..)?);
        Some(match last {
            b'\r' => Place::AfterCr,
            b'\n' => Place::LineStart,
            _ => Place::Middle,
        })
    }

    /// Appends the end of data: CRLF.CRLF, whose first CRLF is the message's own where it has one (RFC 5321 §4.1.1.4).
    ///
    /// # Errors
    /// The message ended in a bare CR, or was broken before.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self.place {
            Place::LineStart => out.extend_from_slice(b".\r\n"),
            Place::Middle => out.extend_from_slice(b"\r\n.\r\n"),
            Place::AfterCr | Place::Broken => return Err(EncodeError::BareLineEnd),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(chunks: &[&[u8]]) -> Result<Vec<u8>, EncodeError> {
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        for chunk in chunks {
            encoder.encode(chunk, &mut out)?;
        }
        encoder.finish(&mut out)?;
        Ok(out)
    }

    /// What a peer makes of the data: lines up to the one that is a single dot, one leading dot taken off.
    fn decode(mut data: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let mut message = Vec::new();
        loop {
            let end = data.windows(2).position(|pair| pair == b"\r\n")?;
            let (line, rest) = data.split_at(end + 2);
            data = rest;
            match line {
                b".\r\n" => return Some((message, data)),
                [b'.', line @ ..] => message.extend_from_slice(line),
                line => message.extend_from_slice(line),
            }
        }
    }

    fn has_bare_line_end(data: &[u8]) -> bool {
        let bare_lf = (0..data.len()).any(|i| data[i] == b'\n' && (i == 0 || data[i - 1] != b'\r'));
        bare_lf || (0..data.len()).any(|i| data[i] == b'\r' && data.get(i + 1) != Some(&b'\n'))
    }

    #[test]
    fn dots_are_doubled_at_line_starts_and_nowhere_else() {
        let rows: [(&[u8], &[u8]); 9] = [
            (b"", b".\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a.b\r\n..c\r\n", b"a.b\r\n...c\r\n.\r\n"),
            (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
            (b"a\0\xff\r\n", b"a\0\xff\r\n.\r\n"),
        ];
        for (message, want) in rows {
            assert_eq!(encode(&[message]).as_deref(), Ok(want), "{message:?}");
        }
    }

    #[test]
    fn a_bare_line_end_is_never_sent() {
        let rows: [&[u8]; 10] =
            [b"\n", b"\r", b"a\nb", b"a\rb", b"\r\r\n", b"a\r\n\n.\r\n", b"\n.\n", b"\r.\r", b"a\r", b"\r\n.\r\r\n"];
        for message in rows {
            assert_eq!(encode(&[message]), Err(EncodeError::BareLineEnd), "{message:?}");
            for cut in 0..message.len() {
                let (a, b) = message.split_at(cut);
                assert_eq!(encode(&[a, b]), Err(EncodeError::BareLineEnd), "{message:?} at {cut}");
            }
        }
    }

    #[test]
    fn a_broken_message_stays_broken() {
        for (before, broken) in [(&b"so far"[..], &b"a\r\n.b\nc"[..]), (b"so far\r", b"x"), (b"", b"a\r\n.\rb")] {
            let (mut encoder, mut out) = (Encoder::default(), Vec::new());
            encoder.encode(before, &mut out).unwrap();
            let good = out.clone();
            for chunk in [broken, b"good\r\n", b""] {
                assert!(encoder.encode(chunk, &mut out).is_err());
            }
            assert!(encoder.finish(&mut out).is_err());
            assert_eq!(out, good, "nothing of what is broken is appended");
        }
    }

    /// Messages dense in what matters: dots, line ends, and now and then a bare one.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => Just(b"\r\n".to_vec()),
            5 => Just(b".".to_vec()),
            4 => Just(b"a".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..5),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_sent_decodes_to_what_was_given_for_every_split(message in messages(), cuts in any::<[u8; 3]>()) {
            let whole = encode(&[&message]);
            prop_assert_eq!(whole.is_err(), has_bare_line_end(&message));
            let mut cuts = cuts.map(|cut| usize::from(cut) % (message.len() + 1));
            cuts.sort_unstable();
            let chunks =
                [&message[..cuts[0]], &message[cuts[0]..cuts[1]], &message[cuts[1]..cuts[2]], &message[cuts[2]..]];
            prop_assert_eq!(&encode(&chunks), &whole);
            for cut in 0..=message.len() {
                let (a, b) = message.split_at(cut);
                prop_assert_eq!(&encode(&[a, b]), &whole);
            }
            if let Ok(sent) = whole {
                prop_assert!(!has_bare_line_end(&sent));
                let (mut decoded, rest) = decode(&sent).expect("it ends");
                prop_assert!(rest.is_empty(), "a second end of data");
                // The end of data closes an open last line.
                if !message.is_empty() && !message.ends_with(b"\r\n") {
                    prop_assert!(decoded.ends_with(b"\r\n"));
                    decoded.truncate(decoded.len() - 2);
                }
                prop_assert_eq!(decoded, message);
            }
        }
    }
}
