//! Reads what comes back: delivery status notifications and the many bounces that are none, complaints of feedback loops,
//! unsubscribe mails, and automatic replies, which count for nothing. RFC 3464, 6522, 6533, 5965, 6591, 3834.
//!
//! Pure: octets in, a [`Reading`] out. It believes what it reads: whether the report is ours to believe, whose address is
//! written and what a reply means is decided by those who call it (the bounce side; `postrider report parse`). It never
//! panics, and looks at the first 256 KiB, 64 parts, 4 levels and 200 recipients only.

use crate::mail::{Cause, EnhancedStatus, Reply, Stage};

pub use address::same_mailbox;
use piece::{Letter, Piece};

mod address;
mod answer;
mod automatic;
mod bounce;
mod feedback;
mod field;
mod phrases;
mod piece;
mod quoted;
mod status;
#[cfg(test)]
mod tests;

/// What of a message is looked at. Unit: bytes. The words stand at the front; what follows is the returned message.
pub const OCTETS_MAX: usize = 256 * 1024;
/// Recipients that one report may speak of.
pub const RECIPIENTS_MAX: usize = 200;

/// What a message that came back is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A delivery failed for good.
    Bounce,
    /// A person called a message unwanted.
    Complaint,
    /// A vacation notice, a challenge, an acknowledgement: nobody's failure.
    AutoReply,
    /// A person asks to be taken off.
    Unsubscribe,
    /// None of these; also reports of delays and of successes, and reports that are no complaint of a person.
    Other,
}

impl Kind {
    /// Every one.
    pub const ALL: [Kind; 5] = [Kind::Bounce, Kind::Complaint, Kind::AutoReply, Kind::Unsubscribe, Kind::Other];

    /// The word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bounce => "bounce",
            Kind::Complaint => "complaint",
            Kind::AutoReply => "auto-reply",
            Kind::Unsubscribe => "unsubscribe",
            Kind::Other => "other",
        }
    }
}

/// What a report says became of a recipient, RFC 3464 §2.3.3. Only a failure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It will not be delivered.
    Failed,
    /// It is still being tried.
    Delayed,
    /// It was delivered, relayed or expanded.
    Passed,
}

/// What a report says of one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reported {
    /// The address that the message was sent to, as the report writes it. `None`: it names none.
    pub address: Option<Box<str>>,
    /// Another mailbox that the report names as the one that failed: the target of a forwarder.
    pub forwarded_to: Option<Box<str>>,
    /// What became of it.
    pub fate: Fate,
    /// RFC 3463: that of the reply, else that of the report.
    pub status: Option<EnhancedStatus>,
    /// The code of the reply, if one is repeated: 400 to 599.
    pub code: Option<u16>,
    /// What the reply answered, where the report says it.
    pub stage: Option<Stage>,
    /// The words of the reply, without code and status.
    pub text: Box<str>,
    /// The host that refused.
    pub remote_host: Option<Box<str>>,
}

impl Reported {
    /// It failed at another mailbox than the one that was written to.
    pub fn names_another(&self) -> bool {
        match (&self.address, &self.forwarded_to) {
            (Some(address), Some(other)) => !same_mailbox(address, other),
            _ => false,
        }
    }

    /// The words as the reply that a synchronous refusal would have been. Where no code is repeated, the status tells
    /// its class, and what is returned without either is refused for good.
    pub fn cause(&self) -> Cause {
        let code = self.code.unwrap_or(match self.status {
            Some(status) if status.class == 4 => 450,
            _ => 550,
        });
        let mut reply = Reply::new(code, &self.text);
        reply.enhanced = reply.enhanced.or(self.status);
        Cause::Reply(reply)
    }

    /// What it answered; RCPT where nothing is said, since most are.
    pub fn stage(&self) -> Stage {
        self.stage.unwrap_or(Stage::Rcpt)
    }
}

/// What is left of the message that the report is about: where a token of ours can be found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Returned {
    /// Without angle brackets.
    pub message_id: Option<Box<str>>,
    /// Our stream and credential, if it was not redacted.
    pub feedback_id: Option<Box<str>>,
    /// As in the message's Return-Path, or the Original-Mail-From of a complaint.
    pub return_path: Option<Box<str>>,
    /// Original-Envelope-Id of a DSN (RFC 3461 §4.4).
    pub envelope_id: Option<Box<str>>,
    /// The whole field.
    pub list_unsubscribe: Option<Box<str>>,
    /// Addresses of To and Cc.
    pub to: Vec<Box<str>>,
    /// Fields whose name begins with `X-`, at most 64: an opaque reference of ours is one of them.
    pub extension: Vec<(Box<str>, Box<str>)>,
}

/// A message, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// What it is.
    pub kind: Kind,
    /// Whom it speaks of.
    pub recipients: Vec<Reported>,
    /// What is left of the message that it is about.
    pub original: Returned,
    /// Feedback-Type of a complaint.
    pub feedback_type: Option<Box<str>>,
    /// Who reports: Reporting-MTA of a DSN, User-Agent of a complaint.
    pub reporter: Option<Box<str>>,
    /// The addresses that the report itself was sent to: our token, if it came back to one.
    pub sent_to: Vec<Box<str>>,
}

impl Reading {
    fn of(kind: Kind) -> Reading {
        Reading {
            kind,
            recipients: Vec::new(),
            original: Returned::default(),
            feedback_type: None,
            reporter: None,
            sent_to: Vec::new(),
        }
    }
}

/// Reads a message as it came in, with any kind of line end, whole or cut off.
pub fn read(message: &[u8]) -> Reading {
    let octets = piece::unify(message.get(..OCTETS_MAX).unwrap_or(message));
    let letter = Letter::of(&octets);
    let mut reading = read_letter(&letter);
    if reading.kind == Kind::Other
        && reading.recipients.is_empty()
        && !letter.is_report()
        && let Some(inner) = enclosed(&letter)
    {
        reading = inner;
    }
    reading.sent_to = letter.recipients();
    reading
}

fn read_letter(letter: &Letter) -> Reading {
    let original = quoted::original(letter);
    let mut reading = feedback::read(letter, &original)
        .or_else(|| status::read(letter, &original))
        .or_else(|| automatic::read(letter))
        .or_else(|| bounce::read(letter, &original))
        .or_else(|| automatic::read_unsubscribe(letter))
        .unwrap_or_else(|| Reading::of(Kind::Other));
    if matches!(reading.kind, Kind::Bounce | Kind::Complaint | Kind::Other) {
        let known = std::mem::take(&mut reading.original);
        reading.original = Returned {
            return_path: known.return_path.or(original.return_path),
            envelope_id: known.envelope_id,
            ..original
        };
    }
    for shown in [&mut reading.reporter, &mut reading.feedback_type].into_iter().flatten() {
        *shown = shown.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect::<String>().into();
    }
    reading.recipients.truncate(RECIPIENTS_MAX);
    reading
}

/// A report that somebody forwarded as an attachment.
fn enclosed(letter: &Letter) -> Option<Reading> {
    let attached: Vec<&Piece> = letter.pieces.iter().filter(|piece| piece.kind == piece::Kind::Message).collect();
    let [only] = attached.as_slice() else { return None };
    let inner = Letter::of(only.body);
    let reading = inner.is_report().then(|| read_letter(&inner))?;
    matches!(reading.kind, Kind::Bounce | Kind::Complaint).then_some(reading)
}
