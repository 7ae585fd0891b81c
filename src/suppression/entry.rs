//! What the list says of an address, and how one entry stands in the state log. Pure.
//!
//! The value of a Put, numbers as varints:
//!
//! ```text
//!   | version 1 | flags u8 | added ms | last ms | [expires ms] | hits | [source id] | site: length, text | evidence: length, text |
//! ```
//! flags: 1 there (else it was removed, and nothing follows) · 2 pending · 4 has an expiry · 8 has a source id.

use super::key::{put_number, take_number};
use crate::mail::{QueueId, StreamKind};
use crate::time::Timestamp;

/// Longest text that is kept of the words that led to an entry. Unit: octets.
pub const EVIDENCE_LENGTH_MAX: usize = 512;
/// Longest name of a site or a stream that is kept. Unit: octets. A domain name has 253 at most.
pub const NAME_LENGTH_MAX: usize = 255;

/// Which mail an entry stops.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// All of it.
    All,
    /// That of all streams of a kind.
    Kind(StreamKind),
    /// That of one stream.
    Stream(Box<str>),
}

impl Scope {
    /// Whether mail of this stream, of this kind, is meant.
    pub fn covers(&self, kind: StreamKind, stream: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Kind(own) => *own == kind,
            Scope::Stream(own) => **own == *stream,
        }
    }

    /// `all`, `transactional`, `marketing`, or `stream:NAME`: as in JSON, CSV and on the command line.
    pub fn name(&self) -> String {
        match self {
            Scope::All => "all".to_owned(),
            Scope::Kind(kind) => kind.name().to_owned(),
            Scope::Stream(stream) => format!("stream:{stream}"),
        }
    }

    /// Reads what [`Scope::name`] writes.
    pub fn parse(text: &str) -> Option<Scope> {
        match text {
            "all" => Some(Scope::All),
            "transactional" => Some(Scope::Kind(StreamKind::Transactional)),
            "marketing" => Some(Scope::Kind(StreamKind::Marketing)),
            _ => text
                .strip_prefix("stream:")
                .filter(|name| {
                    !name.is_empty() && name.len() <= NAME_LENGTH_MAX && !name.contains(|c: char| c.is_control())
                })
                .map(|name| Scope::Stream(name.into())),
        }
    }
}

/// Why an address is in the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// There is no such mailbox.
    HardBounce,
    /// It was full or inactive again and again.
    SoftBounce,
    /// Its owner called a message spam.
    Complaint,
    /// Its owner wants no more of it.
    Unsubscribe,
    /// An operator put it there.
    Manual,
    /// It came with a list from elsewhere that did not say why.
    Import,
}

impl Cause {
    /// Every cause, the one that says most about the address first.
    pub const ALL: [Cause; 6] =
        [Cause::Complaint, Cause::HardBounce, Cause::Unsubscribe, Cause::Manual, Cause::SoftBounce, Cause::Import];

    /// The word in config, JSON, CSV, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::HardBounce => "hard_bounce",
            Cause::SoftBounce => "soft_bounce",
            Cause::Complaint => "complaint",
            Cause::Unsubscribe => "unsubscribe",
            Cause::Manual => "manual",
            Cause::Import => "import",
        }
    }

    /// Reads what [`Cause::name`] writes; `-` for `_` too.
    pub fn parse(text: &str) -> Option<Cause> {
        let text = text.replace('-', "_");
        Cause::ALL.into_iter().find(|cause| cause.name() == text)
    }

    /// What stands on the disk.
    pub(super) fn number(self) -> u8 {
        match self {
            Cause::HardBounce => 1,
            Cause::SoftBounce => 2,
            Cause::Complaint => 3,
            Cause::Unsubscribe => 4,
            Cause::Manual => 5,
            Cause::Import => 6,
        }
    }

    pub(super) fn of_number(number: u8) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.number() == number)
    }
}

impl std::str::FromStr for Cause {
    type Err = UnknownCause;

    fn from_str(text: &str) -> Result<Cause, UnknownCause> {
        Cause::parse(text).ok_or(UnknownCause)
    }
}

/// What stands where a cause should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cause is one of hard_bounce, soft_bounce, complaint, unsubscribe, manual, import")]
pub struct UnknownCause;

/// One reason not to send to an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which mail it stops.
    pub scope: Scope,
    /// Why.
    pub cause: Cause,
    /// When it was first put there.
    pub added_at: Timestamp,
    /// When it was last said again.
    pub last_at: Timestamp,
    /// When it ends by itself; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// How often it was said.
    pub hits: u32,
    /// Seen and not yet believed: it stops nothing.
    pub pending: bool,
    /// The site that said so; empty: none did.
    pub site: Box<str>,
    /// The envelope that it came of.
    pub source_id: Option<QueueId>,
    /// The words, [`EVIDENCE_LENGTH_MAX`] octets at most.
    pub evidence: Box<str>,
}

impl Entry {
    /// An entry of this moment, for good, without site, source and words.
    pub fn new(scope: Scope, cause: Cause, now: Timestamp) -> Entry {
        Entry {
            scope,
            cause,
            added_at: now,
            last_at: now,
            expires_at: None,
            hits: 1,
            pending: false,
            site: "".into(),
            source_id: None,
            evidence: "".into(),
        }
    }

    /// Whether it stops mail at this time.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        !self.pending && !self.is_expired(now)
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Cut to what is kept: texts have their bounds, and no control characters.
    pub(super) fn bounded(mut self) -> Entry {
        self.site = bounded(&self.site, NAME_LENGTH_MAX);
        self.evidence = bounded(&self.evidence, EVIDENCE_LENGTH_MAX);
        if let Scope::Stream(name) = &self.scope {
            self.scope = Scope::Stream(bounded(name, NAME_LENGTH_MAX));
        }
        self
    }

    /// What both together say, where a list from elsewhere names what is there already: never less than either did.
    pub(super) fn with(&self, other: &Entry) -> Entry {
        if !other.is_readable() {
            return self.clone();
        }
        let expires_at = match (self.expires_at, other.expires_at) {
            (Some(own), Some(others)) => Some(own.max(others)),
            (None, _) | (_, None) => None,
        };
        Entry {
            scope: self.scope.clone(),
            cause: self.cause,
            added_at: self.added_at.min(other.added_at),
            last_at: self.last_at.max(other.last_at),
            expires_at,
            hits: self.hits.max(other.hits),
            pending: self.pending && other.pending,
            site: if self.site.is_empty() { other.site.clone() } else { self.site.clone() },
            source_id: self.source_id.or(other.source_id),
            evidence: if self.evidence.is_empty() { other.evidence.clone() } else { self.evidence.clone() },
        }
    }

    /// Whether it is what was written, and no stand-in for what cannot be read.
    pub fn is_readable(&self) -> bool {
        self.added_at != Timestamp::ZERO
    }

    /// What stands for entries that cannot be read any more: the strictest meaning, and what to do about it.
    pub(super) fn unreadable(scope: Scope, cause: Cause, place: &str) -> Entry {
        let words = format!(
            "what the list says of this address is damaged on the disk ({place}): no mail is sent to it until it is removed \
             from the list"
        );
        Entry { evidence: words.into(), ..Entry::new(scope, cause, Timestamp::ZERO) }
    }
}

fn bounded(text: &str, length_max: usize) -> Box<str> {
    let text = match text.contains(|c: char| c.is_control()) {
        true => text.replace(|c: char| c.is_control(), " "),
        false => text.to_owned(),
    };
    text.get(..text.floor_char_boundary(length_max)).unwrap_or_default().into()
}

const VERSION: u8 = 1;
const THERE: u8 = 1;
const PENDING: u8 = 2;
const EXPIRES: u8 = 4;
const SOURCE: u8 = 8;

/// Where the texts of an entry are put: in place, or in the words of a block.
pub(super) trait Texts {
    /// Writes one.
    fn put(&mut self, out: &mut Vec<u8>, text: &str);
}

/// Texts that stand in their places.
pub(super) struct InPlace;

impl Texts for InPlace {
    fn put(&mut self, out: &mut Vec<u8>, text: &str) {
        put_number(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Writes flags and fields; `None`: it was removed.
pub(super) fn write_fields(out: &mut Vec<u8>, entry: Option<&Entry>, texts: &mut impl Texts) {
    let Some(entry) = entry else {
        out.push(0);
        return;
    };
    let mut flags = THERE;
    flags |= if entry.pending { PENDING } else { 0 };
    flags |= if entry.expires_at.is_some() { EXPIRES } else { 0 };
    flags |= if entry.source_id.is_some() { SOURCE } else { 0 };
    out.push(flags);
    put_number(out, entry.added_at.as_millis());
    put_number(out, entry.last_at.as_millis());
    if let Some(at) = entry.expires_at {
        put_number(out, at.as_millis());
    }
    put_number(out, u64::from(entry.hits));
    if let Some(id) = entry.source_id {
        put_number(out, id.as_u64());
    }
    texts.put(out, &entry.site);
    texts.put(out, &entry.evidence);
}

/// Reads flags and fields. `take` reads one text. The outer `None`: they are damaged.
pub(super) fn read_fields<'a>(
    rest: &mut &'a [u8],
    scope: &Scope,
    cause: Cause,
    mut take: impl FnMut(&mut &'a [u8], usize) -> Option<Box<str>>,
) -> Option<Option<Entry>> {
    let (flags, after) = rest.split_first()?;
    *rest = after;
    if flags & THERE == 0 {
        return Some(None);
    }
    let time = |rest: &mut &'a [u8]| take_number(rest).map(Timestamp::from_millis);
    let (added_at, last_at) = (time(rest)?, time(rest)?);
    let expires_at = if flags & EXPIRES != 0 { Some(time(rest)?) } else { None };
    let hits = u32::try_from(take_number(rest)?).ok()?;
    let source_id = if flags & SOURCE != 0 { Some(QueueId::from_u64(take_number(rest)?)) } else { None };
    let site = take(rest, NAME_LENGTH_MAX)?;
    let evidence = take(rest, EVIDENCE_LENGTH_MAX)?;
    let pending = flags & PENDING != 0;
    let scope = scope.clone();
    Some(Some(Entry { scope, cause, added_at, last_at, expires_at, hits, pending, site, source_id, evidence }))
}

/// A text that stands in its place.
pub(super) fn take_text(rest: &mut &[u8], length_max: usize) -> Option<Box<str>> {
    let length = usize::try_from(take_number(rest)?).ok().filter(|length| *length <= length_max)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(text).ok().map(Into::into)
}

/// The value of a Put; `None`: it was removed, which older files do not know yet.
pub(super) fn write_value(entry: Option<&Entry>) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_fields(&mut out, entry, &mut InPlace);
    out
}

/// Reads the value of a Put. The outer `None`: it is damaged, or of a later version.
pub(super) fn read_value(value: &[u8], scope: &Scope, cause: Cause) -> Option<Option<Entry>> {
    let mut rest = value.strip_prefix(&[VERSION])?;
    read_fields(&mut rest, scope, cause, take_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            expires_at: Some(Timestamp::from_secs(2_000_000_000)),
            hits: 3,
            pending: true,
            site: "gmail".into(),
            source_id: Some(QueueId::from_u64(77)),
            evidence: "550 5.1.1 no such user".into(),
            ..Entry::new(Scope::Stream("news".into()), Cause::HardBounce, Timestamp::from_secs(1_700_000_000))
        }
    }

    #[test]
    fn a_value_reads_back_and_a_cut_one_does_not() {
        let entry = entry();
        let value = write_value(Some(&entry));
        assert_eq!(read_value(&value, &entry.scope, entry.cause), Some(Some(entry.clone())));
        for end in 0..value.len() {
            assert_eq!(read_value(&value[..end], &entry.scope, entry.cause), None, "cut at {end}");
        }
        assert_eq!(read_value(&write_value(None), &entry.scope, entry.cause), Some(None));
        assert_eq!(read_value(&[9, 0], &entry.scope, entry.cause), None, "a later version");
    }

    #[test]
    fn scopes_and_causes_have_names_that_read_back() {
        for scope in [
            Scope::All,
            Scope::Kind(StreamKind::Marketing),
            Scope::Kind(StreamKind::Transactional),
            Scope::Stream("x y".into()),
        ] {
            assert_eq!(Scope::parse(&scope.name()), Some(scope.clone()), "{scope:?}");
        }
        for bad in ["", "All", "stream:", "stream", "stream:a\nb", &format!("stream:{}", "a".repeat(256))] {
            assert_eq!(Scope::parse(bad), None, "{bad}");
        }
        for cause in Cause::ALL {
            assert_eq!(Cause::parse(cause.name()), Some(cause));
            assert_eq!(Cause::of_number(cause.number()), Some(cause));
        }
        assert_eq!(Cause::parse("hard-bounce"), Some(Cause::HardBounce));
        assert_eq!(Cause::of_number(0), None);
    }

    #[test]
    fn a_scope_covers_what_it_says() {
        let (mail, news) = (StreamKind::Transactional, StreamKind::Marketing);
        for (scope, kind, stream, want) in [
            (Scope::All, mail, "otp", true),
            (Scope::Kind(news), news, "weekly", true),
            (Scope::Kind(news), mail, "otp", false),
            (Scope::Stream("weekly".into()), news, "weekly", true),
            (Scope::Stream("weekly".into()), news, "daily", false),
        ] {
            assert_eq!(scope.covers(kind, stream), want, "{scope:?} {kind:?} {stream}");
        }
    }

    #[test]
    fn texts_are_cut_at_whole_characters_and_hold_no_line_ends() {
        let long = Entry { evidence: format!("a\r\n{}", "ü".repeat(400)).into(), site: "x\0y".into(), ..entry() };
        let kept = long.bounded();
        assert!(kept.evidence.len() <= 512 && kept.evidence.starts_with("a  ü"), "{}", kept.evidence);
        assert_eq!(&*kept.site, "x y");
    }

    #[test]
    fn two_that_are_put_together_say_no_less_than_either() {
        let (mut one, mut two) = (entry(), entry());
        (one.added_at, two.added_at) = (Timestamp::from_secs(5), Timestamp::from_secs(4));
        (one.hits, two.pending, two.expires_at) = (9, false, None);
        let both = one.with(&two);
        assert_eq!((both.added_at, both.hits, both.pending, both.expires_at), (two.added_at, 9, false, None));
    }
}
