//! The form of a message in the maildrop, written by `sendmail` and the helper, read by the daemon.
//!
//! ```text
//!   stamp, 32 octets, by the helper:
//!   0          8         16      20     24         28
//!   | PRDROP01 | time ms | uid   | pid  | 0        | crc32 of octets 0..28 |      big-endian
//!
//!   letter, by sendmail: records
//!   | kind u8 | length u32 | length octets |
//!
//!   'S' envelope sender, empty for <>         first, once
//!   'F' full name of the user                 at most once
//!   'V' envelope id (RFC 3461), 'H' RET: "F" or "H"
//!   'R' recipient, 'N' its NOTIFY: "N", or of "S", "F", "D"
//!   'B' a piece of the message, 64 KiB at most
//!   'E' crc32 of all records before           last, once; nothing follows
//! ```
//!
//! The octets of a letter are its writer's: nothing in them is believed but by what the daemon allows a local user.

use std::fmt;

/// Begins a file, and says its version.
const MAGIC: &[u8; 8] = b"PRDROP01";
/// Length of a stamp. Unit: octets.
pub const STAMP_LENGTH: usize = 32;
/// Longest record. Unit: octets.
pub const RECORD_LENGTH_MAX: usize = 64 * 1024;
/// Longest letter. Unit: octets. The config's `limits.message` is asked by the daemon, which returns what is longer to its
/// sender; this bounds what a user can write at all.
pub const TOTAL_LENGTH_MAX: u64 = 256 << 20;
/// Kind and length of a record. Unit: octets.
const HEAD_LENGTH: usize = 5;
/// Longest address, name or envelope id. RFC 5321 §4.5.3.1.3 has 256 for a path. Unit: octets.
const WORD_LENGTH_MAX: usize = 1024;
/// Most recipients of one letter, as the config allows at most.
const RECIPIENTS_MAX: usize = 100_000;

/// Who put a message into the maildrop, and when: the helper's own word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Unit: milliseconds since 1970.
    pub time_ms: u64,
    /// The real user id of the process.
    pub uid: u32,
    /// Its process id.
    pub pid: u32,
}

/// One recipient, and what its sender wants to hear of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// As it was given: perhaps without a domain.
    pub address: String,
    /// RFC 3461 §4.1: letters of `S`, `F`, `D`; `N` for never; empty for the default.
    pub notify: String,
}

/// A message with its envelope, as a user handed it in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Letter {
    /// Envelope sender; empty for the null one.
    pub sender: String,
    /// The user's name, for a From field that is missing.
    pub full_name: String,
    /// RFC 3461 §4.4.
    pub envid: String,
    /// RFC 3461 §4.3: `F` or `H`; empty for neither.
    pub ret: String,
    /// One or more.
    pub recipients: Vec<Wanted>,
    /// Header and body.
    pub message: Vec<u8>,
}

/// What is wrong with a file or a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It does not begin as one.
    Magic,
    /// A checksum does not fit.
    Checksum,
    /// It ends too early.
    Short,
    /// Something follows its end.
    Long,
    /// A record of no known kind, out of place, or of a length that its kind cannot have.
    Record,
    /// More than 256 MiB, or more than 100,000 recipients.
    TooBig,
    /// A word that is no UTF-8, or has control characters.
    Word,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::Magic => "it does not begin with PRDROP01 and a sound stamp",
            Flaw::Checksum => "its checksum does not fit",
            Flaw::Short => "it ends too early",
            Flaw::Long => "something follows its end",
            Flaw::Record => "a record is unknown, out of place, or of an impossible length",
            Flaw::TooBig => "it is longer than 256 MiB, or has more than 100000 recipients",
            Flaw::Word => "an address or a name is not UTF-8, or has control characters",
        })
    }
}

impl std::error::Error for Flaw {}

impl Stamp {
    /// As it is written.
    pub fn bytes(&self) -> [u8; STAMP_LENGTH] {
        let mut out = [0; STAMP_LENGTH];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.time_ms.to_be_bytes());
        out[16..20].copy_from_slice(&self.uid.to_be_bytes());
        out[20..24].copy_from_slice(&self.pid.to_be_bytes());
        let sum = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn read(bytes: &[u8; STAMP_LENGTH]) -> Result<Stamp, Flaw> {
        let mut fields = bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_be_bytes(*chunk)).skip(2);
        let mut next = || fields.next().unwrap_or_default();
        let (high, low, uid, pid, reserved, sum) = (next(), next(), next(), next(), next(), next());
        match bytes.starts_with(MAGIC) && reserved == 0 && sum == crc32fast::hash(&bytes[..28]) {
            true => Ok(Stamp { time_ms: (u64::from(high) << 32) | u64::from(low), uid, pid }),
            false => Err(Flaw::Magic),
        }
    }
}

impl Letter {
    /// As `sendmail` writes it to the helper.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.message.len() + self.message.len() / 8192 + 1024);
        put(&mut out, b'S', self.sender.as_bytes());
        for (kind, word) in [(b'F', &self.full_name), (b'V', &self.envid), (b'H', &self.ret)] {
            if !word.is_empty() {
                put(&mut out, kind, word.as_bytes());
            }
        }
        for wanted in &self.recipients {
            put(&mut out, b'R', wanted.address.as_bytes());
            if !wanted.notify.is_empty() {
                put(&mut out, b'N', wanted.notify.as_bytes());
            }
        }
        for piece in self.message.chunks(RECORD_LENGTH_MAX) {
            put(&mut out, b'B', piece);
        }
        let sum = crc32fast::hash(&out);
        put(&mut out, b'E', &sum.to_be_bytes());
        out
    }
}

fn put(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(content);
}

/// Watches the records of a letter go by: says whether it is one, and whether it is complete.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    sum: crc32fast::Hasher,
    length: u64,
    recipients: usize,
    last: Option<u8>,
    seen: u8,
}

impl Guard {
    /// Takes one record in.
    ///
    /// # Errors
    /// No letter has it there.
    pub fn take(&mut self, kind: u8, content: &[u8]) -> Result<(), Flaw> {
        self.length += (HEAD_LENGTH + content.len()) as u64;
        if self.length > TOTAL_LENGTH_MAX {
            return Err(Flaw::TooBig);
        }
        self.check_place(kind, content)?;
        let length = u32::try_from(content.len()).map_err(|_| Flaw::Record)?;
        if kind != b'E' {
            self.sum.update(&[kind]);
            self.sum.update(&length.to_be_bytes());
            self.sum.update(content);
        }
        self.last = Some(kind);
        Ok(())
    }

    /// Whether the end was seen.
    pub fn is_complete(&self) -> bool {
        self.last == Some(b'E')
    }

    fn check_place(&mut self, kind: u8, content: &[u8]) -> Result<(), Flaw> {
        let is_word = content.len() <= WORD_LENGTH_MAX;
        let fits = match (self.last, kind) {
            (None, b'S') => is_word,
            (None, _) | (Some(b'E'), _) => false,
            (Some(b'S' | b'F' | b'V' | b'H'), b'F' | b'V' | b'H') => {
                let bit = match kind {
                    b'F' => 1,
                    b'V' => 2,
                    _ => 4,
                };
                let is_first = self.seen & bit == 0;
                self.seen |= bit;
                is_first && is_word && (kind != b'H' || matches!(content, b"F" | b"H"))
            }
            (Some(b'S' | b'F' | b'V' | b'H' | b'R' | b'N'), b'R') => {
                self.recipients += 1;
                if self.recipients > RECIPIENTS_MAX {
                    return Err(Flaw::TooBig);
                }
                is_word && !content.is_empty()
            }
            (Some(b'R'), b'N') => content == b"N" || is_subset(content, b"SFD"),
            (Some(b'R' | b'N' | b'B'), b'B') => (1..=RECORD_LENGTH_MAX).contains(&content.len()),
            // A message may be empty.
            (Some(b'R' | b'N' | b'B'), b'E') => {
                let sum: Option<[u8; 4]> = content.try_into().ok();
                match sum.map(u32::from_be_bytes) {
                    Some(sum) if sum == self.sum.clone().finalize() => true,
                    Some(_) => return Err(Flaw::Checksum),
                    None => false,
                }
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(Flaw::Record) }
    }
}

/// Whether it is one or more of these letters, each once.
fn is_subset(content: &[u8], letters: &[u8]) -> bool {
    let once = |letter: &u8| content.iter().filter(|other| *other == letter).count() == 1;
    !content.is_empty() && content.iter().all(|letter| letters.contains(letter) && once(letter))
}

/// Takes the record that the octets begin with: kind, content, and what follows.
fn record(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Flaw> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_LENGTH>().ok_or(Flaw::Short)?;
    let (kind, length) = split_head(*head);
    if length > RECORD_LENGTH_MAX {
        return Err(Flaw::Record);
    }
    let (content, rest) = rest.split_at_checked(length).ok_or(Flaw::Short)?;
    Ok((kind, content, rest))
}

/// Kind and length of a record.
pub(crate) fn split_head(head: [u8; HEAD_LENGTH]) -> (u8, usize) {
    let [kind, length @ ..] = head;
    (kind, u32::from_be_bytes(length) as usize)
}

/// Reads a whole file of the maildrop.
///
/// # Errors
/// It is damaged, or no such file.
pub fn read(bytes: &[u8]) -> Result<(Stamp, Letter), Flaw> {
    let (stamp, mut rest) = bytes.split_first_chunk::<STAMP_LENGTH>().ok_or(Flaw::Short)?;
    let stamp = Stamp::read(stamp)?;
    let (mut guard, mut letter) = (Guard::default(), Letter::default());
    while !guard.is_complete() {
        let (kind, content, behind) = record(rest)?;
        guard.take(kind, content)?;
        match kind {
            b'S' => letter.sender = word(content)?,
            b'F' => letter.full_name = word(content)?,
            b'V' => letter.envid = word(content)?,
            b'H' => letter.ret = word(content)?,
            b'R' => letter.recipients.push(Wanted { address: word(content)?, notify: String::new() }),
            b'N' => {
                if let Some(wanted) = letter.recipients.last_mut() {
                    wanted.notify = word(content)?;
                }
            }
            b'B' => letter.message.extend_from_slice(content),
            // The guard lets nothing else by.
            _ => {}
        }
        rest = behind;
    }
    if rest.is_empty() { Ok((stamp, letter)) } else { Err(Flaw::Long) }
}

fn word(content: &[u8]) -> Result<String, Flaw> {
    let text = std::str::from_utf8(content).map_err(|_| Flaw::Word)?;
    if text.chars().any(char::is_control) { Err(Flaw::Word) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            sender: "www-data".to_owned(),
            full_name: "Web Server".to_owned(),
            envid: "QQ314159".to_owned(),
            ret: "H".to_owned(),
            recipients: vec![
                Wanted { address: "root".to_owned(), notify: String::new() },
                Wanted { address: "a@example.com".to_owned(), notify: "SF".to_owned() },
            ],
            message: [b"Subject: x\n\n".to_vec(), vec![b'y'; 200_000]].concat(),
        }
    }

    fn file(letter: &Letter) -> Vec<u8> {
        let stamp = Stamp { time_ms: 1_795_255_200_123, uid: 33, pid: 4711 };
        [stamp.bytes().to_vec(), letter.bytes()].concat()
    }

    #[test]
    fn what_is_written_reads_back() {
        let empty = Letter { recipients: letter().recipients, ..Letter::default() };
        for letter in [letter(), empty] {
            let (stamp, read) = read(&file(&letter)).unwrap();
            assert_eq!((stamp.time_ms, stamp.uid, stamp.pid), (1_795_255_200_123, 33, 4711));
            assert_eq!(read, letter);
        }
    }

    #[test]
    fn no_beginning_of_a_file_is_a_file() {
        let whole = file(&Letter { message: b"Subject: x\n\nbody\n".to_vec(), ..letter() });
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]).unwrap_err(), Flaw::Short, "{length} octets");
        }
        assert_eq!(read(&[&whole[..], b"x"].concat()), Err(Flaw::Long));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let whole = file(&Letter { message: b"Subject: x\n\nbody\n".to_vec(), ..letter() });
        for place in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[place / 8] ^= 1 << (place % 8);
            assert!(read(&damaged).is_err(), "bit {place}");
        }
    }

    #[test]
    fn records_out_of_place_are_refused() {
        let cases: &[&[(u8, &[u8])]] = &[
            &[(b'R', b"a@b.c")],
            &[(b'S', b""), (b'S', b"")],
            &[(b'S', b""), (b'B', b"x")],
            &[(b'S', b""), (b'E', &[0; 4])],
            &[(b'S', b""), (b'N', b"N")],
            &[(b'S', b""), (b'R', b"")],
            &[(b'S', b""), (b'H', b"X")],
            &[(b'S', b""), (b'F', b"a"), (b'F', b"b")],
            &[(b'S', b""), (b'R', b"a"), (b'N', b"SS")],
            &[(b'S', b""), (b'R', b"a"), (b'N', b"NS")],
            &[(b'S', b""), (b'R', b"a"), (b'N', b"")],
            &[(b'S', b""), (b'R', b"a"), (b'B', b"")],
            &[(b'S', b""), (b'R', b"a"), (b'B', b"x"), (b'R', b"b")],
            &[(b'S', b""), (b'R', b"a"), (b'E', &[0; 3])],
            &[(b'S', &[b'a'; 1025])],
            &[(b'x', b"")],
        ];
        for case in cases {
            let mut guard = Guard::default();
            let ended = case.iter().try_for_each(|(kind, content)| guard.take(*kind, content));
            assert_eq!(ended, Err(Flaw::Record), "{case:?}");
        }
    }

    #[test]
    fn words_have_no_control_characters() {
        for bad in ["a\nb@c.d", "a\0", "\u{85}"] {
            let letter = Letter { sender: bad.to_owned(), ..letter() };
            assert_eq!(read(&file(&letter)).unwrap_err(), Flaw::Word, "{bad:?}");
        }
    }
}
