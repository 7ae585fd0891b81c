//! A row of the working index: all that memory keeps of a waiting envelope, in at most 64 bytes.
//!
//! Used by the table, which owns the names that a row's handles mean, and by the checkpoint, which writes a row with
//! its names spelt out.

use std::sync::Arc;

use crate::mail::{Domain, QueueId, ReversePath, StreamKind};
use crate::spool::{Place, Position};
use crate::time::Timestamp;

/// What a row's bits say.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Flags(u16);

impl Flags {
    /// Durable: an operator or damage stopped it.
    pub(super) const HELD: Flags = Flags(1);
    /// In memory only: a lease of it exists.
    pub(super) const LEASED: Flags = Flags(2);
    /// It differs from the checkpoint.
    pub(super) const DIRTY: Flags = Flags(4);
    /// The checkpoint has it, in this or an older state.
    pub(super) const STORED: Flags = Flags(8);
    /// The settle that is on its way was not made by a connection, so the scheduler must be told of it.
    pub(super) const ANNOUNCE: Flags = Flags(16);
    /// The stream's kind is marketing.
    pub(super) const MARKETING: Flags = Flags(32);
    /// The answer to a final dot was lost at least once.
    pub(super) const UNCERTAIN: Flags = Flags(64);
    /// It has tags: a search by tag reads its record.
    pub(super) const TAGGED: Flags = Flags(128);
    /// The client marked the recipient as engaged.
    pub(super) const ENGAGED: Flags = Flags(256);
    /// It was never tried, and its sender asked for a later time than that of its acceptance.
    pub(super) const SCHEDULED: Flags = Flags(512);
    /// What stays true over a restart.
    const KEPT: Flags = Flags(
        Flags::HELD.0
            | Flags::MARKETING.0
            | Flags::UNCERTAIN.0
            | Flags::TAGGED.0
            | Flags::ENGAGED.0
            | Flags::SCHEDULED.0,
    );

    pub(super) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(super) fn set(&mut self, flag: Flags, on: bool) {
        match on {
            true => self.0 |= flag.0,
            false => self.0 &= !flag.0,
        }
    }
}

/// One waiting envelope.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) id: QueueId,
    /// Where the spool has it, and its latest state.
    pub(super) place: Place,
    pub(super) due: Timestamp,
    /// Seconds since 1970, rounded up; `u32::MAX` means never.
    pub(super) expires_secs: u32,
    pub(super) domain: u32,
    /// Checksums of the envelope sender and its domain, so that a search by sender reads few records.
    pub(super) sender: u32,
    pub(super) sender_domain: u32,
    pub(super) stream: u16,
    pub(super) pool: u16,
    pub(super) credential: u16,
    pub(super) source: u16,
    /// The domain of the From header: a peer may stop all that it sends.
    pub(super) author: u16,
    /// Pending ones.
    pub(super) recipients: u16,
    pub(super) flags: Flags,
    /// Up to 255; the state in the spool counts on.
    pub(super) attempts: u8,
    pub(super) priority: u8,
}

/// The promise of the design: 100,000 waiting envelopes are 6.4 MB of rows.
const _: () = assert!(size_of::<Row>() <= 64);

impl Row {
    pub(super) fn kind(&self) -> StreamKind {
        match self.flags.has(Flags::MARKETING) {
            true => StreamKind::Marketing,
            false => StreamKind::Transactional,
        }
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        match self.expires_secs {
            u32::MAX => Timestamp::NEVER,
            secs => Timestamp::from_secs(u64::from(secs)),
        }
    }
}

/// A time as a row keeps it: rounded up, so that nothing expires early.
pub(super) fn expiry_secs(at: Timestamp) -> u32 {
    u32::try_from(at.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// The checksum by which a sender is searched for; upper and lower case are one. FNV-1a: it finds candidates, which
/// are then read, and it must be the same after a restart.
pub(super) fn text_checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193))
}

/// Both checksums of an envelope sender; zero for the null one.
pub(super) fn sender_checksums(path: &ReversePath) -> (u32, u32) {
    match path.address() {
        Some(address) => (text_checksum(&address.text()), text_checksum(address.domain().as_str())),
        None => (0, 0),
    }
}

/// The names that a row's handles mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowNames {
    pub(super) domain: Option<Domain>,
    pub(super) author: Option<Domain>,
    pub(super) stream: Arc<str>,
    pub(super) pool: Arc<str>,
    pub(super) credential: Arc<str>,
    pub(super) source: Arc<str>,
}

/// The shape below. Another one is not read: the index is rebuilt from the spool instead.
const VERSION: u8 = 2;

/// A row as the checkpoint keeps it, under its queue id:
///
/// ```text
///   0         1          2..4    4..8    8..12    12..16   16..20
///   | version | priority | flags | home: segment, offset | state: segment, offset |
///   20..28  28..32    32..36   36..40          40         41         42..44
///   | due   | expires | sender | sender domain | attempts | reserved | recipients |
///   44..
///   | domain | author | stream | pool | credential | source |   each: length u16, bytes
/// ```
/// Numbers are little-endian. `None` if a name is too long to be written.
pub(super) fn encode(row: &Row, names: &RowNames) -> Option<Vec<u8>> {
    let kept = Flags(row.flags.0 & Flags::KEPT.0);
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&[VERSION, row.priority]);
    out.extend_from_slice(&kept.0.to_le_bytes());
    for position in [row.place.home, row.place.state] {
        out.extend_from_slice(&position.segment.to_le_bytes());
        out.extend_from_slice(&position.offset.to_le_bytes());
    }
    out.extend_from_slice(&row.due.as_millis().to_le_bytes());
    for number in [row.expires_secs, row.sender, row.sender_domain] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&[row.attempts, 0]);
    out.extend_from_slice(&row.recipients.to_le_bytes());
    let [domain, author] = [&names.domain, &names.author].map(|name| name.as_ref().map_or("", Domain::as_str));
    for name in [domain, author, &names.stream, &names.pool, &names.credential, &names.source] {
        out.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    Some(out)
}

/// Reads what [`encode`] wrote. `None` for anything else: then the whole index is rebuilt, never repaired.
pub(super) fn decode(id: QueueId, bytes: &[u8]) -> Option<(Row, RowNames)> {
    let mut rest = bytes;
    let [version, priority] = take::<2>(&mut rest)?;
    if version != VERSION {
        return None;
    }
    let flags = u16::from_le_bytes(take::<2>(&mut rest)?);
    let home = Position { segment: take_u32(&mut rest)?, offset: take_u32(&mut rest)? };
    let state = Position { segment: take_u32(&mut rest)?, offset: take_u32(&mut rest)? };
    let due = Timestamp::from_millis(u64::from_le_bytes(take::<8>(&mut rest)?));
    let (expires_secs, sender, sender_domain) = (take_u32(&mut rest)?, take_u32(&mut rest)?, take_u32(&mut rest)?);
    let [attempts, _] = take::<2>(&mut rest)?;
    let recipients = u16::from_le_bytes(take::<2>(&mut rest)?);
    let names = RowNames {
        domain: take_domain(&mut rest)?,
        author: take_domain(&mut rest)?,
        stream: take_text(&mut rest)?.into(),
        pool: take_text(&mut rest)?.into(),
        credential: take_text(&mut rest)?.into(),
        source: take_text(&mut rest)?.into(),
    };
    let row = Row {
        id,
        place: Place { home, state },
        due,
        expires_secs,
        domain: 0,
        sender,
        sender_domain,
        stream: 0,
        pool: 0,
        credential: 0,
        source: 0,
        author: 0,
        recipients,
        flags: Flags(flags & Flags::KEPT.0),
        attempts,
        priority,
    };
    rest.is_empty().then_some((row, names))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take::<4>(rest).map(u32::from_le_bytes)
}

fn take_domain(rest: &mut &[u8]) -> Option<Option<Domain>> {
    match take_text(rest)? {
        "" => Some(None),
        name => name.parse().ok().map(Some),
    }
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(u16::from_le_bytes(take::<2>(rest)?));
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(head).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Row, RowNames) {
        let names = RowNames {
            domain: "example.com".parse().ok(),
            author: "news.example.com".parse().ok(),
            stream: "transactional".into(),
            pool: "p".into(),
            credential: "".into(),
            source: "a".into(),
        };
        let row = Row {
            id: QueueId::from_u64(77),
            place: Place { home: Position { segment: 3, offset: 4096 }, state: Position { segment: 4, offset: 512 } },
            due: Timestamp::from_millis(1_795_255_200_123),
            expires_secs: expiry_secs(Timestamp::from_millis(1_795_255_200_001)),
            domain: 9,
            sender: 1,
            sender_domain: 2,
            stream: 1,
            pool: 2,
            credential: 0,
            source: 3,
            author: 4,
            recipients: 5,
            flags: Flags(u16::MAX),
            attempts: 4,
            priority: 50,
        };
        (row, names)
    }

    #[test]
    fn a_row_reads_back_without_what_dies_with_the_process() {
        let (row, names) = sample();
        let bytes = encode(&row, &names).unwrap();
        let (read, read_names) = decode(row.id, &bytes).unwrap();
        assert_eq!(read_names, names);
        assert_eq!((read.place, read.due), (row.place, row.due));
        assert_eq!((read.attempts, read.recipients, read.priority), (4, 5, 50));
        assert_eq!(read.expires_at(), Timestamp::from_secs(1_795_255_201));
        assert!(read.flags.has(Flags::HELD) && read.flags.has(Flags::UNCERTAIN));
        for kept in [Flags::TAGGED, Flags::ENGAGED, Flags::SCHEDULED, Flags::MARKETING] {
            assert!(read.flags.has(kept), "{kept:?}");
        }
        assert!(!read.flags.has(Flags::LEASED) && !read.flags.has(Flags::DIRTY));
    }

    #[test]
    fn a_row_cut_short_or_with_a_tail_is_not_read() {
        let (row, names) = sample();
        let mut bytes = encode(&row, &names).unwrap();
        for length in 0..bytes.len() {
            assert!(decode(row.id, &bytes[..length]).is_none(), "{length} bytes");
        }
        bytes.push(0);
        assert!(decode(row.id, &bytes).is_none());
    }

    #[test]
    fn an_expiry_never_comes_early() {
        for (at, want) in [(0, 0), (1, 1000), (1000, 1000), (1001, 2000)] {
            let secs = expiry_secs(Timestamp::from_millis(at));
            assert_eq!(u64::from(secs) * 1000, want);
        }
        assert_eq!(expiry_secs(Timestamp::NEVER), u32::MAX);
    }
}
