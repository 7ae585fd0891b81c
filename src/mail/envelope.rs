//! What is kept of a message: who it is for, on whose behalf, and what its body is like.

use std::time::Duration;

use bytes::Bytes;

use super::{Address, Domain, Progress, QueueId, ReversePath, Text};
use crate::time::Timestamp;

/// Which of the two worlds a stream belongs to: they never share a reputation unless the config says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StreamKind {
    /// One person waits for it: order confirmations, login codes. First in every order.
    Transactional,
    /// Many get it: newsletters.
    Marketing,
}

impl StreamKind {
    /// The word in config, logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::Transactional => "transactional",
            StreamKind::Marketing => "marketing",
        }
    }
}

/// Whose return path MAIL FROM says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ReturnPath {
    /// Ours, where the envelope has one: reports come to us first.
    #[default]
    Ours,
    /// The client's own.
    Client,
}

/// What the sender wants reported about a recipient: NOTIFY, RFC 3461 §4.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Notify {
    /// No parameter: failures are reported.
    #[default]
    Default,
    /// `NOTIFY=NEVER`.
    Never,
    /// The listed events and no others.
    On {
        /// Delivered, or relayed to a host without DSN.
        success: bool,
        /// Failed or expired.
        failure: bool,
        /// Still being tried.
        delay: bool,
    },
}

impl Notify {
    /// Whether a failure is reported.
    pub fn failure(self) -> bool {
        matches!(self, Notify::Default | Notify::On { failure: true, .. })
    }

    /// Whether success is reported.
    pub fn success(self) -> bool {
        matches!(self, Notify::On { success: true, .. })
    }

    /// Whether a delay is reported.
    pub fn delay(self) -> bool {
        matches!(self, Notify::On { delay: true, .. })
    }

    /// The value of a NOTIFY parameter, if one must be sent on: `NEVER`, `SUCCESS,FAILURE`.
    pub fn parameter(self) -> Option<String> {
        match self {
            Notify::Default => None,
            Notify::Never => Some("NEVER".to_owned()),
            Notify::On { success, failure, delay } => {
                let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
                let set: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
                Some(set.join(","))
            }
        }
    }
}

/// How much of the message a DSN returns: RET, RFC 3461 §4.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Return {
    /// `RET=FULL`.
    Full,
    /// `RET=HDRS`.
    Headers,
}

/// One forward path, and what the sender asked about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recipient {
    /// Where it goes.
    pub address: Address,
    /// RFC 3461 §4.1.
    pub notify: Notify,
    /// The ORCPT value as it came (`rfc822;` and xtext), a safe argument; sent on and quoted in DSNs.
    pub original: Option<Text>,
}

/// What delivery must know of a body without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BodyFacts {
    /// Octets, as sent with DATA before dot-stuffing.
    pub size_bytes: u64,
    /// Octets up to and with the empty line after the header block (the whole, if there is none).
    pub header_bytes: u32,
    /// An octet above 127 stands in the body proper: 8BITMIME is needed, or a conversion.
    pub eight_bit: bool,
    /// An octet above 127 stands in the header block: SMTPUTF8 is needed.
    pub utf8_headers: bool,
    /// It came with a DKIM-Signature of another; nothing that this covers may be changed.
    pub foreign_signature: bool,
}

/// What the sender says about a message beside whom it is for: returned in events, and what an operator finds it by.
///
/// Bounded by the door ([`Marks::TAGS_MAX`] and its kin), so that a listing of many envelopes stays small.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Marks {
    /// Words for a campaign or a kind of mail. No control characters.
    pub tags: Vec<Text>,
    /// Keys and values that mean something to the sender alone.
    pub metadata: Vec<(Text, Text)>,
    /// The recipient opened or clicked lately: goes before others of its priority while a source warms up.
    pub engaged: bool,
}

impl Marks {
    /// Most tags of a message.
    ///
    /// SendGrid and Mailgun take 10, SparkPost as many.
    pub const TAGS_MAX: usize = 16;
    /// Longest tag, and longest key. Unit: octets. SendGrid and SES take 256.
    pub const WORD_LENGTH_MAX: usize = 256;
    /// Most pairs of metadata.
    pub const PAIRS_MAX: usize = 64;
    /// Most metadata, keys and values together. Unit: octets. SparkPost takes 1,000, Mailgun 4,096.
    pub const METADATA_LENGTH_MAX: usize = 4096;

    /// What they take up. Unit: octets.
    pub fn octets(&self) -> usize {
        let tags: usize = self.tags.iter().map(|tag| tag.len()).sum();
        tags + self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }
}

/// Recipients that share a domain, both paths and every added header: one SMTP transaction on the way out.
///
/// Immutable once accepted. What changes is kept in [`super::Progress`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Its name for life.
    pub id: QueueId,
    /// The id that the client read after "queued as": that of the submission's first envelope.
    pub submission: QueueId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Not before this: when it was accepted, or later if its sender asked for that (RFC 4865) or a quota put it off.
    pub release_at: Timestamp,
    /// The quota or cap that set `release_at`, in words for people (`the quota 100/1m of the credential shop`). Empty: its
    /// sender did.
    pub put_off_by: Text,
    /// It waits for an operator from the first: a header check held it.
    pub held: bool,
    /// After this it is expired instead of tried again.
    pub expires_at: Timestamp,
    /// The stream's name.
    pub stream: Text,
    /// The stream's kind, so that a stream that left the config still has one.
    pub kind: StreamKind,
    /// Order within the kind, 0 to 100; 50 if the config says nothing.
    pub priority: u8,
    /// The credential's name; empty for trusted networks and our own DSNs.
    pub credential: Text,
    /// The name of the pool whose sources carry it.
    pub pool: Text,
    /// Who hears of trouble: what the client said in MAIL FROM.
    pub reverse_path: ReversePath,
    /// Where peers report trouble, if that is to be us: what MAIL FROM says on the way out. Made once, when the envelope is
    /// accepted. Absent: peers report to `reverse_path`.
    pub return_path: Option<Address>,
    /// RFC 3461 §4.3.
    pub ret: Option<Return>,
    /// RFC 3461 §4.4: ENVID as it came (xtext), a safe argument.
    pub envid: Option<Text>,
    /// The domain of the From header's mailbox: the signing key is chosen to align with it (RFC 9989).
    pub author_domain: Option<Domain>,
    /// Without angle brackets; for logs and traces. Empty if there is none.
    pub message_id: Text,
    /// Tags, metadata, engagement.
    pub marks: Marks,
    /// Header fields that this envelope alone gets, each ended by CRLF, prepended to the body at sending and signed.
    pub added_headers: Bytes,
    /// What the body is like.
    pub body: BodyFacts,
    /// One or more, all of one domain.
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// The recipients' domain. `None` only for an envelope without recipients, which nothing makes.
    pub fn domain(&self) -> Option<&Domain> {
        self.recipients.first().map(|recipient| recipient.address.domain())
    }

    /// How long it may be tried in all.
    pub fn longest_age(&self) -> Duration {
        self.expires_at.since(self.release_at)
    }

    /// From when its age counts for the waits between attempts: from its release on, unless an operator let it go before.
    pub fn tried_since(&self, now: Timestamp) -> Timestamp {
        if now < self.release_at { self.accepted_at } else { self.release_at }
    }

    /// Its state as accepted: nothing tried, due when it may first go.
    pub fn untried(&self) -> Progress {
        Progress { held: self.held, ..Progress::new(self.recipients.len(), self.release_at) }
    }

    /// Whether it may go only later than at its acceptance: its sender asked for that, or a quota put it off.
    pub fn is_scheduled(&self) -> bool {
        self.release_at > self.accepted_at
    }

    /// What MAIL FROM says to a peer that takes a return path of ours, or one that does not. `None`: `<>`.
    pub fn mail_from(&self, whose: ReturnPath) -> Option<&Address> {
        match whose {
            ReturnPath::Ours => self.return_path.as_ref().or(self.reverse_path.address()),
            ReturnPath::Client => self.reverse_path.address(),
        }
    }

    /// Whether MAIL FROM says a return path of ours to such a peer.
    pub fn is_ours(&self, whose: ReturnPath) -> bool {
        whose == ReturnPath::Ours && self.return_path.is_some()
    }

    /// Whether MAIL FROM must say SMTPUTF8: decided by content, never by what the client announced (Go's client
    /// announces it on every message).
    pub fn needs_smtputf8(&self, whose: ReturnPath) -> bool {
        let from = self.mail_from(whose).is_some_and(Address::needs_smtputf8);
        from || self.body.utf8_headers || self.recipients.iter().any(|r| r.address.needs_smtputf8())
    }
}

/// A message past every check, ready to be made durable: one body, shared by one or more envelopes.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Header block and body, CRLF line ends only, no line over 998 octets, ended by CRLF, never changed again.
    pub body: Bytes,
    /// One or more; ids rise.
    pub envelopes: Vec<Envelope>,
}
