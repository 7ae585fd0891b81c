//! What is kept: one row for each thing that happened. Its JSON is what event lines and `trace --json` show: the keys
//! are stable, absent where there is nothing to say.
//!
//! Every row type says once, in `fields`, what is written of it and in which order: reading and writing are the same code.

use serde::{Deserialize, Serialize};

use super::key::{Key, folded};
use crate::mail::{QueueId, Text};
use crate::time::Timestamp;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// When, by the clock of schedules.
    #[serde(rename = "at_ms", with = "millis")]
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Fact {
    /// The daemon started: no connection of an earlier run is left.
    Started(Started),
    /// Rows were told faster than they could be written, and dropped.
    Lost(Lost),
    /// A recipient of an envelope that is durable.
    Accepted(Accepted),
    /// What an attempt or a decision means for one recipient.
    Outcome(Outcome),
    /// An envelope was held, released or made due at another time.
    Decided(Decided),
    /// The sender was told of an envelope's fate.
    Reported(Reported),
    /// A bounce, a complaint or an unsubscribe mail came in: what it did for one recipient.
    CameBack(CameBack),
    /// What SPF and DKIM say of one that came in.
    Authenticated(Authenticated),
    /// A transaction with a peer is over.
    Attempt(Attempt),
    /// A connection to a peer is being made: it counts from here.
    Dialed(Dialed),
    /// It is made, and ready for mail.
    Connected(Connected),
    /// Its end was seen: it counts no more.
    Closed(Closed),
    /// These limits are in force from here on.
    Limits(Limits),
}

/// See [`Fact::Started`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Started {
    /// Of the daemon.
    pub version: Text,
    /// 1: the run before ended cleanly. 0: it did not, and what was under way then is in no row.
    pub clean: u64,
}

/// See [`Fact::Lost`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// How many.
    pub rows: u64,
}

/// See [`Fact::Accepted`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// The envelope.
    #[serde(with = "id")]
    pub queue_id: QueueId,
    /// What the client was told.
    #[serde(with = "id")]
    pub submission: QueueId,
    /// The recipient.
    pub recipient: Text,
    /// The envelope sender; empty: none.
    pub from: Text,
    /// Without angle brackets.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub message_id: Text,
    /// Who handed it in; empty: nobody logged in.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub credential: Text,
    /// The stream.
    pub stream: Text,
    /// Where it came from; empty: it is our own.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub client: Text,
    /// Octets of the message.
    pub size_bytes: u64,
}

/// See [`Fact::Outcome`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// The envelope.
    #[serde(with = "id")]
    pub queue_id: QueueId,
    /// The recipient.
    pub recipient: Text,
    /// The word of the mail log: delivered, deferred, uncertain, failed, expired, suppressed, deleted.
    pub fate: Text,
    /// Attempts that counted, with this one.
    pub attempt: u64,
    /// When it is due again; 0: it has its final state.
    #[serde(skip_serializing_if = "is_zero")]
    pub due_ms: u64,
    /// How far the dialogue was.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub stage: Text,
    /// The enhanced status.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub status: Text,
    /// The peer's words, or ours.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub reply: Text,
    /// Who said it.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub host: Text,
    /// Its address.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub address: Text,
}

/// See [`Fact::Decided`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Decided {
    /// The envelope.
    #[serde(with = "id")]
    pub queue_id: QueueId,
    /// held, released, retry.
    pub decision: Text,
    /// When it is due.
    #[serde(skip_serializing_if = "is_zero")]
    pub due_ms: u64,
}

/// See [`Fact::Reported`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reported {
    /// The envelope.
    #[serde(with = "id")]
    pub queue_id: QueueId,
    /// The report's own envelope.
    #[serde(with = "id")]
    pub report: QueueId,
    /// How many recipients it speaks of.
    pub recipients: u64,
}

/// See [`Fact::CameBack`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CameBack {
    /// The envelope that it is about; 0: none that we know.
    #[serde(with = "id", skip_serializing_if = "is_none")]
    pub queue_id: QueueId,
    /// The report's own number, by which `report show` finds it. One for all its recipients.
    #[serde(with = "id")]
    pub report: QueueId,
    /// The recipient that it is about: the envelope's own. Empty: it does not say.
    pub recipient: Text,
    /// bounce, complaint, auto-reply, unsubscribe, other.
    pub kind: Text,
    /// The class of what it quotes, as `classify` names it; empty: it quotes no reply.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub class: Text,
    /// The enhanced status that it quotes.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub status: Text,
    /// The words that it quotes.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub text: Text,
    /// What it did: suppressed, pending, known, nothing, unknown.
    pub effect: Text,
    /// Why that, in words.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub why: Text,
    /// valid, quoted (by a complaint that came elsewhere), unknown (of a message that the history does not know), none.
    pub token: Text,
    /// Its envelope sender; empty: none.
    pub from: Text,
    /// To whom it was sent on; empty: to nobody.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub sent_on_to: Text,
    /// By which envelope.
    #[serde(with = "id", skip_serializing_if = "is_none")]
    pub sent_on_as: QueueId,
    /// Who brought it.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub client: Text,
}

/// See [`Fact::Authenticated`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Authenticated {
    /// The report: see [`CameBack`].
    #[serde(with = "id")]
    pub report: QueueId,
    /// The result's word (RFC 8601 §2.7.2) and whose record it is: `pass mail.example`.
    pub spf: Text,
    /// Of each signature the result's word (RFC 8601 §2.7.1), domain and selector; `none`.
    pub dkim: Text,
}

/// See [`Fact::Attempt`]. Its times are by a clock that nobody sets, and what limits are counted by.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// The envelope.
    #[serde(with = "id")]
    pub queue_id: QueueId,
    /// The connection; unique from one start of the daemon to the next.
    pub connection: u64,
    /// From where.
    pub source: Text,
    /// Whose limits it counts against.
    pub site: Text,
    /// The recipients' domain.
    pub domain: Text,
    /// The peer.
    pub host: Text,
    /// Its address.
    pub address: Text,
    /// When MAIL was about to be written.
    pub mail_ms: u64,
    /// When the reply that ended the transaction had come.
    pub done_ms: u64,
    /// Recipients that are charged: RCPTs that may have been sent.
    pub recipients: u64,
    /// Of these, taken over by the peer.
    pub delivered: u64,
    /// delivered, deferred, failed, mixed, uncertain, lost.
    pub result: Text,
}

/// See [`Fact::Dialed`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialed {
    /// See [`Attempt`].
    pub connection: u64,
    /// From where.
    pub source: Text,
    /// Whose limits it counts against.
    pub site: Text,
    /// The recipient domain for which it is made.
    pub domain: Text,
    /// When, by the clock of [`Attempt`].
    pub dialed_ms: u64,
}

/// See [`Fact::Connected`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Connected {
    /// See [`Attempt`].
    pub connection: u64,
    /// From where.
    pub source: Text,
    /// Whose limits it counts against.
    pub site: Text,
    /// The peer.
    pub host: Text,
    /// Its address.
    pub address: Text,
    /// When, by the clock of [`Attempt`].
    pub connected_ms: u64,
}

/// See [`Fact::Closed`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Closed {
    /// See [`Attempt`].
    pub connection: u64,
    /// From where.
    pub source: Text,
    /// Whose limits it counted against.
    pub site: Text,
    /// When its end was seen, by the clock of [`Attempt`].
    pub closed_ms: u64,
    /// Transactions that were begun on it.
    pub deliveries: u64,
    /// Why it never was ready for mail.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub refused: Text,
}

/// See [`Fact::Limits`]. Windows are written `200/1s 5000/3600s`; empty: none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Of this source; empty: of all together.
    pub source: Text,
    /// At this site; empty where they are a recipient domain's own.
    pub site: Text,
    /// Of this recipient domain, beside its site's; empty where they are a site's.
    #[serde(skip_serializing_if = "Text::is_empty")]
    pub domain: Text,
    /// At once; 0: no limit.
    pub connections: u64,
    /// By time.
    pub new_connections: Text,
    /// By time.
    pub messages: Text,
    /// By time.
    pub recipients: Text,
}

/// What a row's fields are read from, or written to.
pub(super) trait Fields {
    fn number(&mut self, number: &mut u64) -> Option<()>;
    /// One that many rows share.
    fn word(&mut self, word: &mut Text) -> Option<()>;
    /// One that is this row's own.
    fn text(&mut self, text: &mut Text) -> Option<()>;

    fn id(&mut self, id: &mut QueueId) -> Option<()> {
        let mut number = id.as_u64();
        self.number(&mut number)?;
        *id = QueueId::from_u64(number);
        Some(())
    }
}

impl Fact {
    /// The number of its kind, which is part of the files.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Fact::Started(_) => 1,
            Fact::Lost(_) => 2,
            Fact::Accepted(_) => 3,
            Fact::Outcome(_) => 4,
            Fact::Decided(_) => 5,
            Fact::Reported(_) => 6,
            Fact::Attempt(_) => 7,
            Fact::Dialed(_) => 8,
            Fact::Connected(_) => 9,
            Fact::Closed(_) => 10,
            Fact::Limits(_) => 11,
            Fact::CameBack(_) => 12,
            Fact::Authenticated(_) => 13,
        }
    }

    /// An empty one of a kind; `None`: a later version wrote it.
    pub(super) fn of_kind(kind: u8) -> Option<Fact> {
        Some(match kind {
            1 => Fact::Started(Started::default()),
            2 => Fact::Lost(Lost::default()),
            3 => Fact::Accepted(Accepted::default()),
            4 => Fact::Outcome(Outcome::default()),
            5 => Fact::Decided(Decided::default()),
            6 => Fact::Reported(Reported::default()),
            7 => Fact::Attempt(Attempt::default()),
            8 => Fact::Dialed(Dialed::default()),
            9 => Fact::Connected(Connected::default()),
            10 => Fact::Closed(Closed::default()),
            11 => Fact::Limits(Limits::default()),
            12 => Fact::CameBack(CameBack::default()),
            13 => Fact::Authenticated(Authenticated::default()),
            _ => return None,
        })
    }

    /// Reads or writes it. `None`: what was read is no row.
    pub(super) fn fields(&mut self, to: &mut impl Fields) -> Option<()> {
        match self {
            Fact::Started(it) => {
                to.word(&mut it.version)?;
                to.number(&mut it.clean)
            }
            Fact::Lost(it) => to.number(&mut it.rows),
            Fact::Accepted(it) => {
                to.id(&mut it.queue_id)?;
                to.id(&mut it.submission)?;
                to.text(&mut it.recipient)?;
                to.word(&mut it.from)?;
                to.word(&mut it.message_id)?;
                to.word(&mut it.credential)?;
                to.word(&mut it.stream)?;
                to.word(&mut it.client)?;
                to.number(&mut it.size_bytes)
            }
            Fact::Outcome(it) => {
                to.id(&mut it.queue_id)?;
                to.text(&mut it.recipient)?;
                to.word(&mut it.fate)?;
                to.number(&mut it.attempt)?;
                to.number(&mut it.due_ms)?;
                to.word(&mut it.stage)?;
                to.word(&mut it.status)?;
                to.word(&mut it.reply)?;
                to.word(&mut it.host)?;
                to.word(&mut it.address)
            }
            Fact::Decided(it) => {
                to.id(&mut it.queue_id)?;
                to.word(&mut it.decision)?;
                to.number(&mut it.due_ms)
            }
            Fact::Reported(it) => {
                to.id(&mut it.queue_id)?;
                to.id(&mut it.report)?;
                to.number(&mut it.recipients)
            }
            Fact::CameBack(it) => {
                to.id(&mut it.queue_id)?;
                to.id(&mut it.report)?;
                to.id(&mut it.sent_on_as)?;
                to.text(&mut it.recipient)?;
                for word in [&mut it.kind, &mut it.class, &mut it.status, &mut it.text, &mut it.effect, &mut it.client]
                {
                    to.word(word)?;
                }
                for word in [&mut it.why, &mut it.token, &mut it.from, &mut it.sent_on_to] {
                    to.word(word)?;
                }
                Some(())
            }
            Fact::Authenticated(it) => {
                to.id(&mut it.report)?;
                to.word(&mut it.spf)?;
                to.word(&mut it.dkim)
            }
            Fact::Attempt(it) => {
                to.id(&mut it.queue_id)?;
                to.number(&mut it.connection)?;
                for word in [&mut it.source, &mut it.site, &mut it.domain, &mut it.host, &mut it.address] {
                    to.word(word)?;
                }
                for number in [&mut it.mail_ms, &mut it.done_ms, &mut it.recipients, &mut it.delivered] {
                    to.number(number)?;
                }
                to.word(&mut it.result)
            }
            Fact::Dialed(it) => {
                to.number(&mut it.connection)?;
                for word in [&mut it.source, &mut it.site, &mut it.domain] {
                    to.word(word)?;
                }
                to.number(&mut it.dialed_ms)
            }
            Fact::Connected(it) => {
                to.number(&mut it.connection)?;
                for word in [&mut it.source, &mut it.site, &mut it.host, &mut it.address] {
                    to.word(word)?;
                }
                to.number(&mut it.connected_ms)
            }
            Fact::Closed(it) => {
                to.number(&mut it.connection)?;
                to.word(&mut it.source)?;
                to.word(&mut it.site)?;
                to.number(&mut it.closed_ms)?;
                to.number(&mut it.deliveries)?;
                to.word(&mut it.refused)
            }
            Fact::Limits(it) => {
                for word in [&mut it.source, &mut it.site, &mut it.domain] {
                    to.word(word)?;
                }
                to.number(&mut it.connections)?;
                for word in [&mut it.new_connections, &mut it.messages, &mut it.recipients] {
                    to.word(word)?;
                }
                Some(())
            }
        }
    }

    /// What it is found by.
    pub(super) fn keys(&self, mut found: impl FnMut(Key)) {
        match self {
            Fact::Accepted(it) => {
                found(Key::of_id(it.queue_id));
                found(Key::of_id(it.submission));
                found(Key::of_address(&it.recipient));
                if !it.message_id.is_empty() {
                    found(Key::of_message_id(&it.message_id));
                }
            }
            Fact::Outcome(it) => {
                found(Key::of_id(it.queue_id));
                found(Key::of_address(&it.recipient));
            }
            Fact::Authenticated(it) => {
                found(Key::of_id(it.report));
                found(Key::of_reports());
            }
            Fact::CameBack(it) => {
                found(Key::of_id(it.queue_id));
                found(Key::of_id(it.report));
                found(Key::of_reports());
                if !it.recipient.is_empty() {
                    found(Key::of_address(&it.recipient));
                }
            }
            Fact::Reported(it) => {
                found(Key::of_id(it.queue_id));
                found(Key::of_id(it.report));
            }
            Fact::Decided(Decided { queue_id, .. }) | Fact::Attempt(Attempt { queue_id, .. }) => {
                found(Key::of_id(*queue_id));
            }
            Fact::Started(_)
            | Fact::Lost(_)
            | Fact::Dialed(_)
            | Fact::Connected(_)
            | Fact::Closed(_)
            | Fact::Limits(_) => {}
        }
    }

    /// Which envelope it is about.
    pub fn queue_id(&self) -> Option<QueueId> {
        match self {
            Fact::Accepted(Accepted { queue_id, .. })
            | Fact::Outcome(Outcome { queue_id, .. })
            | Fact::Decided(Decided { queue_id, .. })
            | Fact::Reported(Reported { queue_id, .. })
            | Fact::Attempt(Attempt { queue_id, .. }) => Some(*queue_id),
            Fact::CameBack(CameBack { queue_id, .. }) => Some(*queue_id).filter(|id| !is_none(id)),
            Fact::Started(_)
            | Fact::Authenticated(_)
            | Fact::Lost(_)
            | Fact::Dialed(_)
            | Fact::Connected(_)
            | Fact::Closed(_)
            | Fact::Limits(_) => None,
        }
    }

    /// Which recipient it is about, if about one.
    pub fn recipient(&self) -> Option<&str> {
        match self {
            Fact::Accepted(Accepted { recipient, .. })
            | Fact::Outcome(Outcome { recipient, .. })
            | Fact::CameBack(CameBack { recipient, .. }) => Some(recipient),
            Fact::Started(_)
            | Fact::Lost(_)
            | Fact::Decided(_)
            | Fact::Reported(_)
            | Fact::Attempt(_)
            | Fact::Authenticated(_)
            | Fact::Dialed(_)
            | Fact::Connected(_)
            | Fact::Closed(_)
            | Fact::Limits(_) => None,
        }
    }

    /// Whether it is an event line: what `audit` counts by.
    pub(super) fn is_event(&self) -> bool {
        match self {
            Fact::Started(_)
            | Fact::Lost(_)
            | Fact::Attempt(_)
            | Fact::Dialed(_)
            | Fact::Connected(_)
            | Fact::Closed(_)
            | Fact::Limits(_) => true,
            Fact::Accepted(_)
            | Fact::Outcome(_)
            | Fact::Decided(_)
            | Fact::Reported(_)
            | Fact::CameBack(_)
            | Fact::Authenticated(_) => false,
        }
    }

    /// Whether it is what somebody asked for.
    pub(super) fn answers(&self, asked: &Asked) -> bool {
        let is = |id: QueueId| asked.id == Some(id);
        let about = |recipient: &str| asked.has_at && folded(recipient) == asked.folded;
        match self {
            Fact::Accepted(it) => {
                is(it.queue_id)
                    || is(it.submission)
                    || about(&it.recipient)
                    || (!it.message_id.is_empty() && it.message_id == asked.text)
            }
            Fact::Outcome(it) => is(it.queue_id) || about(&it.recipient),
            Fact::CameBack(it) => is(it.queue_id) || is(it.report) || about(&it.recipient),
            Fact::Authenticated(it) => is(it.report),
            Fact::Reported(it) => is(it.queue_id) || is(it.report),
            Fact::Decided(_) | Fact::Attempt(_) => self.queue_id().is_some_and(is),
            Fact::Started(_)
            | Fact::Lost(_)
            | Fact::Dialed(_)
            | Fact::Connected(_)
            | Fact::Closed(_)
            | Fact::Limits(_) => false,
        }
    }
}

/// An address, a queue id or a Message-ID: what was asked is taken for whatever it can be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub text: String,
    pub folded: Text,
    pub id: Option<QueueId>,
    pub has_at: bool,
}

impl Asked {
    pub fn new(what: &str) -> Asked {
        let text = what.trim().trim_start_matches('<').trim_end_matches('>').to_owned();
        Asked { folded: folded(&text), id: text.parse().ok(), has_at: text.contains('@'), text }
    }

    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.id.map(Key::of_id).into_iter().collect();
        keys.push(Key::of_message_id(&self.text));
        if self.has_at {
            keys.push(Key::of_address(&self.text));
        }
        keys
    }
}

fn is_none(id: &QueueId) -> bool {
    id.as_u64() == 0
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

mod millis {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::time::Timestamp;

    pub fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(at.as_millis())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp::from_millis)
    }
}

mod id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::mail::QueueId;

    pub fn serialize<S: Serializer>(id: &QueueId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<QueueId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
