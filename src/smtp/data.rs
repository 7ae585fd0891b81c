//! Reads a message out of DATA or BDAT octets, in pieces of any size. Called by the session; pure.
//!
//! What comes out has CRLF line ends only and no NUL. Rules, one for every way in:
//! - Only CRLF `.` CRLF ends DATA, and only the dot of a line behind a true CRLF is unstuffed (RFC 5321 §4.5.2).
//!   Anything looser lets a sender who is stricter than we are smuggle a second message (CVE-2023-51764 and its kin).
//! - A bare CR or LF becomes CRLF, before anything is signed, so that no later server can read an end into it.
//!   A dot behind it is text like any other, and is stuffed again on the way out.
//! - A message with NUL, or over the limit, is read to its end and refused then: what stayed unread would be taken
//!   for commands.

use memchr::{memchr_iter, memchr3, memmem};

/// Smallest buffer for a message. Unit: octets. Most transactional mail fits without growing.
const CAPACITY_MIN: usize = 8 * 1024;

/// Why a message cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Over the size limit.
    TooBig,
    /// It holds NUL, which RFC 5321 §4.5.2 forbids and which truncates strings in too many receivers.
    Nul,
}

/// Where in a line the next octet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Behind a true CRLF, or at the very start. DATA only.
    LineStart,
    /// Behind LineStart and a dot, which is not kept.
    Dot,
    /// Behind LineStart, dot and CR.
    DotCr,
    /// Anywhere else.
    Text,
    /// Behind a CR in text; it is not kept yet.
    Cr,
}

/// Which dots are special.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// DATA: dots stuffed, ended by a dot.
    Dots,
    /// BDAT: octets counted by the session.
    Counted,
}

/// Collects one message.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    place: Place,
    body: Vec<u8>,
    /// Octets of the body that may be kept at most.
    size_max: usize,
    /// Octets that memory was set aside for.
    granted: usize,
    fault: Option<Fault>,
    /// Octets as they came.
    received: u64,
}

impl Decoder {
    /// For what follows 354.
    pub fn for_data(size_max: usize) -> Decoder {
        Decoder::new(Framing::Dots, Place::LineStart, size_max)
    }

    /// For the chunks of BDAT, all of them together.
    pub fn for_chunks(size_max: usize) -> Decoder {
        Decoder::new(Framing::Counted, Place::Text, size_max)
    }

    fn new(framing: Framing, place: Place, size_max: usize) -> Decoder {
        Decoder { framing, place, body: Vec::new(), size_max, granted: usize::MAX, fault: None, received: 0 }
    }

    /// Octets kept so far.
    pub fn kept(&self) -> usize {
        self.body.len()
    }

    /// Octets received so far, kept or not.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Why the message will be refused, if that is known already.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// How far the buffer may grow before it is asked for again. Unit: octets.
    pub fn grant(&mut self, total: usize) {
        self.granted = total;
    }

    /// Stops keeping: the rest is only read.
    pub fn forsake(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.body = Vec::new();
    }

    /// Takes in DATA octets. Gives how many were used, and whether the end of data was among them.
    pub fn data(&mut self, input: &[u8]) -> (usize, bool) {
        let mut rest = input;
        let mut ended = false;
        while let Some((&octet, after)) = rest.split_first() {
            match (self.place, octet) {
                (Place::LineStart, b'.') => (self.place, rest) = (Place::Dot, after),
                (Place::Dot, b'\r') => (self.place, rest) = (Place::DotCr, after),
                (Place::DotCr, b'\n') => {
                    (ended, rest) = (true, after);
                    break;
                }
                // The dot was stuffing, the CR is bare: CRLF.CR is no end.
                (Place::DotCr, _) => self.end_line(Place::Text),
                (Place::LineStart | Place::Dot, _) => self.place = Place::Text,
                (Place::Cr, b'\n') => {
                    self.end_line(Place::LineStart);
                    rest = after;
                }
                (Place::Cr, _) => self.end_line(Place::Text),
                (Place::Text, _) => rest = self.text(rest),
            }
        }
        let used = input.len() - rest.len();
        self.received += used as u64;
        (used, ended)
    }

    /// Takes in octets of a BDAT chunk, all of them.
    pub fn chunk(&mut self, input: &[u8]) {
        self.received += input.len() as u64;
        let mut rest = input;
        while let Some((&octet, after)) = rest.split_first() {
            match (self.place, octet) {
                (Place::Cr, b'\n') => {
                    self.end_line(Place::Text);
                    rest = after;
                }
                (Place::Cr, _) => self.end_line(Place::Text),
                (Place::Text | Place::LineStart | Place::Dot | Place::DotCr, _) => rest = self.text(rest),
            }
        }
    }

    /// The message, once its last octet came.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn finish(mut self) -> Result<Vec<u8>, Fault> {
        if self.place == Place::Cr {
            self.end_line(Place::Text);
        }
        self.fault.map_or(Ok(self.body), Err)
    }

    /// Takes in octets from the middle of a line, as many lines as come in one piece; gives what is left.
    ///
    /// The usual message is all CRLF lines without leading dots: it is copied in one go.
    fn text<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let mut clean = 0;
        loop {
            let Some(found) = memchr3(b'\r', b'\n', 0, input.get(clean..).unwrap_or_default()) else {
                self.keep(input);
                self.place = Place::Text;
                return &[];
            };
            let at = clean + found;
            let (before, rest) = input.split_at_checked(at).unwrap_or((input, &[]));
            match rest {
                [b'\r', b'\n', ..] if self.framing == Framing::Counted => clean = at + 2,
                [b'\r', b'\n'] | [b'\r', b'\n', b'.', ..] => {
                    self.keep(before);
                    self.end_line(Place::LineStart);
                    return rest.get(2..).unwrap_or_default();
                }
                [b'\r', b'\n', ..] => clean = at + 2,
                [b'\r'] => {
                    self.keep(before);
                    self.place = Place::Cr;
                    return &[];
                }
                [b'\r' | b'\n', rest @ ..] => {
                    self.keep(before);
                    self.end_line(Place::Text);
                    return rest;
                }
                [_, rest @ ..] => {
                    self.keep(before);
                    self.place = Place::Text;
                    self.forsake(Fault::Nul);
                    return rest;
                }
                [] => return &[],
            }
        }
    }

    fn end_line(&mut self, place: Place) {
        self.keep(b"\r\n");
        self.place = place;
    }

    fn keep(&mut self, octets: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let needed = self.body.len() + octets.len();
        if needed > self.size_max {
            return self.forsake(Fault::TooBig);
        }
        let capacity = self.body.capacity();
        if needed > capacity {
            // Doubling, but never past what memory was set aside for.
            let target = (capacity * 2).max(CAPACITY_MIN).min(self.granted).max(needed);
            self.body.reserve_exact(target - self.body.len());
        }
        self.body.extend_from_slice(octets);
    }
}

/// Octets of the header block with the empty line that ends it; all, if there is none.
pub fn header_length(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 2;
    }
    memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 4)
}

/// Whether a message keeps what this room promises: no bare CR, no bare LF, no NUL. For tests and fuzzing.
pub fn is_normal(message: &[u8]) -> bool {
    let returns = memchr_iter(b'\r', message).all(|at| message.get(at + 1) == Some(&b'\n'));
    let feeds = memchr_iter(b'\n', message).all(|at| at > 0 && message.get(at - 1) == Some(&b'\r'));
    returns && feeds && !message.contains(&0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(input: &[u8]) -> Option<(Result<Vec<u8>, Fault>, usize)> {
        let mut decoder = Decoder::for_data(1 << 20);
        let (used, ended) = decoder.data(input);
        ended.then(|| (decoder.finish(), used))
    }

    #[test]
    fn data_is_unstuffed_normalised_and_ended_only_by_crlf_dot_crlf() {
        let rows: &[(&[u8], &[u8])] = &[
            (b".\r\n", b""),
            (b"a\r\n.\r\n", b"a\r\n"),
            (b"..\r\n.\r\n", b".\r\n"),
            (b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
            (b".a\r\n.\r\n", b"a\r\n"),
            (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r.\rb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\n\r\nb\r\n"),
            (b"a\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\r\n.\r\n", b"a\r\n\r\n"),
            (b"a\n\r\n.\r\n", b"a\r\n\r\n"),
        ];
        for (input, want) in rows {
            let (got, used) = whole(input).unwrap_or_else(|| panic!("no end in {}", input.escape_ascii()));
            assert_eq!(got.as_deref(), Ok(*want), "{}", input.escape_ascii());
            assert_eq!(used, input.len());
        }
        for open in [&b""[..], b".", b".\r", b".\n", b"\n.\n", b"\n.\r\n", b"\r.\r", b"a\r\n.\r\r\n", b"a\r\n\0.\r\n"] {
            assert_eq!(whole(open), None, "{}", open.escape_ascii());
        }
    }

    #[test]
    fn a_faulty_message_is_read_to_its_end() {
        assert_eq!(whole(b"a\0b\r\n.\r\nQUIT"), Some((Err(Fault::Nul), 8)));
        let mut decoder = Decoder::for_data(4);
        assert_eq!(decoder.data(b"abc\r\nd\r\n.\r\nQUIT"), (11, true));
        assert_eq!(decoder.finish(), Err(Fault::TooBig));
        let mut decoder = Decoder::for_data(5);
        assert_eq!(decoder.data(b"abc\r\n.\r\n"), (8, true));
        assert_eq!(decoder.finish().as_deref(), Ok(&b"abc\r\n"[..]));
    }

    #[test]
    fn chunks_are_normalised_across_their_borders() {
        let mut decoder = Decoder::for_chunks(100);
        for chunk in [&b"a\r"[..], b"\nb\r", b"c\n", b".\r\n", b"\r"] {
            decoder.chunk(chunk);
        }
        assert_eq!(decoder.finish().as_deref(), Ok(&b"a\r\nb\r\nc\r\n.\r\n\r\n"[..]));
    }

    #[test]
    fn the_header_block_ends_at_its_empty_line() {
        for (message, want) in [(&b"A: b\r\n\r\nc"[..], 8), (b"\r\nc", 2), (b"A: b\r\n", 6), (b"", 0)] {
            assert_eq!(header_length(message), want);
        }
    }

    /// Octets that matter, much more often than others.
    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let special = prop::sample::select(vec![b'\r', b'\n', b'.', b'a', 0]);
        let piece = prop_oneof![
            6 => special.prop_map(|octet| vec![octet]),
            4 => Just(b"\r\n".to_vec()),
            2 => Just(b"\r\n.".to_vec()),
            1 => any::<u8>().prop_map(|octet| vec![octet]),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_split_of_data_reads_as_the_whole(mut input in octets(), cuts in prop::collection::vec(0usize..40, 0..40)) {
            input.extend_from_slice(b"\r\n.\r\n");
            let (want, used) = whole(&input).expect("an end was appended");
            let mut decoder = Decoder::for_data(1 << 20);
            let mut cuts = cuts.into_iter();
            let (mut at, mut ended) = (0, false);
            while !ended {
                let upto = (at + cuts.next().unwrap_or(1)).min(input.len());
                let (taken, end) = decoder.data(&input[at..upto]);
                prop_assert!(end || taken == upto - at);
                (at, ended) = (at + taken, end);
            }
            prop_assert_eq!(at, used);
            let got = decoder.finish();
            prop_assert_eq!(&got, &want);
            if let Ok(message) = got {
                prop_assert!(is_normal(&message));
            }
        }

        #[test]
        fn any_split_of_chunks_reads_as_the_whole(input in octets(), cut in 0usize..100) {
            let mut one = Decoder::for_chunks(1 << 20);
            one.chunk(&input);
            let mut two = Decoder::for_chunks(1 << 20);
            let (first, second) = input.split_at(cut.min(input.len()));
            two.chunk(first);
            two.chunk(second);
            let (one, two) = (one.finish(), two.finish());
            prop_assert_eq!(&one, &two);
            prop_assert!(one.is_err() || is_normal(&one.unwrap()));
        }

        #[test]
        fn what_a_sender_stuffed_comes_out_as_it_went_in(lines in prop::collection::vec("[.a]{0,4}", 0..20)) {
            let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut wire: String =
                lines.iter().map(|line| format!("{}{line}\r\n", if line.starts_with('.') { "." } else { "" })).collect();
            wire.push_str(".\r\n");
            prop_assert_eq!(whole(wire.as_bytes()), Some((Ok(message.into_bytes()), wire.len())));
        }
    }
}
