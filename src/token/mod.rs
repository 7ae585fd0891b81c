//! Return paths and unsubscribe links that prove themselves: who holds one got it from us, and it says all that is needed.
//!
//! Called by the door (which makes them), by the bounce side and by `unsubscribe` (which read them). Pure: keys and `now`
//! are arguments. It never looks anything up, and says nothing of a token that is not ours but that.
//!
//! A local part (RFC 5321 §4.5.3.1.1 gives it 64 octets; these have 48):
//!
//! ```text
//!   'b' | base32 of:  0            8               10              13          29
//!                     | id u64 BE  | recipient u16 | hours u24 BE  | MAC, 16   |
//! ```
//!
//! The letter says the kind and is under the MAC. Letters and digits alone, since systems on the way fold case, cut at
//! `+`, `-` and `=`, and take `_` and `.` for their own. The same token in capitals is the same token.
//!
//! A link must say whom it unsubscribes long after the message is forgotten, and must not show it, so its content is
//! sealed:
//!
//! ```text
//!   's' | base32 of:  0        16
//!                     | MAC    | content XOR keystream(MAC)
//!   content:          | id u64 | recipient u16 | hours u24 | length u8, local | length u8, domain | stream |
//! ```
//!
//! That is SIV (RFC 5297 §2.6, after Rogaway and Shrimpton) with HMAC-SHA256 as both the MAC and, in counter mode, the
//! cipher: it needs no randomness, and the same link sealed twice is the same text, over restarts too.

mod base32;
mod keys;

pub use keys::{Keys, KeysError};

use crate::mail::{Address, QueueId, Text};
use crate::time::Timestamp;

/// In place of a recipient: the token is of an envelope's every recipient.
pub const WHOLE_ENVELOPE: u16 = u16::MAX;
/// The header field that carries a token of the kind [`Kind::Reference`]: a complaint that tells neither recipient nor
/// return path often still quotes it.
pub const REFERENCE_HEADER: &str = "X-Postrider-Ref";
/// Octets of every local part that is made. RFC 5321 §4.5.3.1.1 allows 64.
pub const LOCAL_LENGTH: usize = 48;
/// Octets of the longest sealed link: the longest address (a quoted local part of 130, a domain of 253) and a stream's
/// name of 64.
pub const SEALED_LENGTH_MAX: usize = 1 + (8 * (keys::MAC_LENGTH + FIXED_LENGTH + 1 + 130 + 1 + 253 + 64)).div_ceil(5);

/// Queue id, recipient, hours.
const FIXED_LENGTH: usize = 13;
/// The first character of a sealed link.
const SEALED: char = 's';
const MILLIS_PER_HOUR: u64 = 3_600_000;
const HOURS_MAX: u64 = (1 << 24) - 1;

/// What a token is for. One of another kind proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// MAIL FROM: what comes there is a report about the message.
    ReturnPath,
    /// The mailto of List-Unsubscribe: what comes there is a wish to hear no more.
    Unsubscribe,
    /// The header field [`REFERENCE_HEADER`]: names the message in a complaint. Mail to it is nothing.
    Reference,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::ReturnPath, Kind::Unsubscribe, Kind::Reference];

    /// No two alike, and none is [`SEALED`].
    fn letter(self) -> char {
        match self {
            Kind::ReturnPath => 'b',
            Kind::Unsubscribe => 'u',
            Kind::Reference => 'r',
        }
    }
}

/// What a local part says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// What it is for.
    pub kind: Kind,
    /// The envelope.
    pub id: QueueId,
    /// The recipient's place in it, or [`WHOLE_ENVELOPE`].
    pub recipient: u16,
    /// Not read after this. Kept in whole hours, rounded up.
    pub expires_at: Timestamp,
}

/// What an unsubscribe link says: all that is needed weeks later.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Link {
    /// Who wants to hear no more.
    pub address: Address,
    /// The stream of the message.
    pub stream: Text,
    /// The envelope.
    pub id: QueueId,
    /// The recipient's place in it.
    pub recipient: u16,
    /// Not read after this. Kept in whole hours, rounded up.
    pub expires_at: Timestamp,
}

/// Why a text is no valid token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TokenFlaw {
    /// It does not even look like one.
    #[error("it is no token of ours: {LOCAL_LENGTH} letters and digits of one form are expected")]
    Form,
    /// It looks like one, and none of our keys made it.
    #[error("it was not made with one of our keys, or was changed")]
    Forged,
    /// It was ours.
    #[error("it is too old")]
    Expired,
}

impl Keys {
    /// The local part of a token: lower-case letters and digits, always [`LOCAL_LENGTH`] octets. The newest key makes it.
    pub fn make(&self, token: &Token) -> String {
        let fixed = fixed(token.id, token.recipient, token.expires_at);
        let letter = token.kind.letter();
        let mac = self.newest().local_mac(letter, &fixed);
        let mut text = String::with_capacity(LOCAL_LENGTH);
        text.push(letter);
        base32::encode(&[fixed.as_slice(), &mac].concat(), &mut text);
        text
    }

    /// Reads a local part, in whatever case it came.
    ///
    /// # Errors
    /// What is wrong with it; one that is not ours must cause nothing.
    pub fn read(&self, local: &str, now: Timestamp) -> Result<Token, TokenFlaw> {
        let (letter, octets) = unfold(local, LOCAL_LENGTH, LOCAL_LENGTH)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.letter() == letter).ok_or(TokenFlaw::Form)?;
        let (said, mac) = octets.split_first_chunk::<FIXED_LENGTH>().ok_or(TokenFlaw::Form)?;
        if !self.any(|key| key.proves_local(letter, said, mac)) {
            return Err(TokenFlaw::Forged);
        }
        let (id, recipient, expires_at) = read_fixed(said);
        match now <= expires_at {
            true => Ok(Token { kind, id, recipient, expires_at }),
            false => Err(TokenFlaw::Expired),
        }
    }

    /// The text of a link, for a URL or a subject: lower-case letters and digits, at most [`SEALED_LENGTH_MAX`] octets. It
    /// shows nothing of what it says but the length.
    pub fn seal(&self, link: &Link) -> String {
        let mut content = fixed(link.id, link.recipient, link.expires_at).to_vec();
        for part in [link.address.local(), link.address.domain().as_str()] {
            // Invariant: `Address` holds neither part longer than 253.
            content.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            content.extend_from_slice(part.as_bytes());
        }
        // A config allows 64.
        content.extend(link.stream.bytes().take(64));
        let mut text = String::with_capacity(2 * content.len() + 32);
        text.push(SEALED);
        base32::encode(&self.newest().seal(&content), &mut text);
        text
    }

    /// Reads the text of a link, in whatever case it came.
    ///
    /// # Errors
    /// What is wrong with it; one that is not ours must cause nothing.
    pub fn open(&self, text: &str, now: Timestamp) -> Result<Link, TokenFlaw> {
        let (letter, octets) = unfold(text, LOCAL_LENGTH, SEALED_LENGTH_MAX)?;
        if letter != SEALED {
            return Err(TokenFlaw::Form);
        }
        let mut content = None;
        self.any(|key| {
            content = key.unseal(&octets);
            content.is_some()
        });
        let link = read_link(&content.ok_or(TokenFlaw::Forged)?).ok_or(TokenFlaw::Form)?;
        match now <= link.expires_at {
            true => Ok(link),
            false => Err(TokenFlaw::Expired),
        }
    }
}

/// Letter and octets of a text whose length is within bounds.
fn unfold(text: &str, shortest: usize, longest: usize) -> Result<(char, Vec<u8>), TokenFlaw> {
    if !(shortest..=longest).contains(&text.len()) {
        return Err(TokenFlaw::Form);
    }
    let mut rest = text.chars();
    let letter = rest.next().ok_or(TokenFlaw::Form)?.to_ascii_lowercase();
    let octets = base32::decode(rest.as_str()).ok_or(TokenFlaw::Form)?;
    Ok((letter, octets))
}

fn fixed(id: QueueId, recipient: u16, expires_at: Timestamp) -> [u8; FIXED_LENGTH] {
    // 24 bits of hours reach to the year 3885.
    let hours = expires_at.as_millis().div_ceil(MILLIS_PER_HOUR).min(HOURS_MAX);
    let mut out = [0; FIXED_LENGTH];
    out[..8].copy_from_slice(&id.as_u64().to_be_bytes());
    out[8..10].copy_from_slice(&recipient.to_be_bytes());
    out[10..].copy_from_slice(&hours.to_be_bytes()[5..]);
    out
}

fn read_fixed(octets: &[u8; FIXED_LENGTH]) -> (QueueId, u16, Timestamp) {
    let [a, b, c, d, e, f, g, h, high, low, x, y, z] = *octets;
    let id = QueueId::from_u64(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    let hours = u64::from(u32::from_be_bytes([0, x, y, z]));
    (id, u16::from_be_bytes([high, low]), Timestamp::from_millis(hours * MILLIS_PER_HOUR))
}

/// What we sealed ourselves; `None` only for what another version of us would write.
fn read_link(content: &[u8]) -> Option<Link> {
    let (said, rest) = content.split_first_chunk::<FIXED_LENGTH>()?;
    let (id, recipient, expires_at) = read_fixed(said);
    let (local, rest) = counted(rest)?;
    let (domain, stream) = counted(rest)?;
    let address = Address::new(local, domain.parse().ok()?).ok()?;
    Some(Link { address, stream: std::str::from_utf8(stream).ok()?.into(), id, recipient, expires_at })
}

fn counted(octets: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = octets.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests;
