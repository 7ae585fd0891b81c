//! What mail gets in the name of its sending domain: a return path of ours, and header fields that let a complaint and an
//! unsubscribe find their way back.
//!
//! Called by the door once a message, between quotas and put, so that all of it is kept with the envelope and is the same
//! at every attempt. It changes nothing that the client wrote, and adds no field that the client has.

use std::time::Duration;

use crate::mail::{Address, Envelope, ReturnPath, StreamKind};
use crate::message::{HeaderBlock, feedback_id, forbids_more};
use crate::token::{Keys, Kind, Link, REFERENCE_HEADER, Token, WHOLE_ENVELOPE};

use super::settings::{Sending, Settings};

/// How long reports are believed after the envelope's longest age: a peer that took the message tries for as long again,
/// and ours is not the only clock.
pub const REPORTS_AFTER: Duration = Duration::from_secs(14 * 86_400);
/// How long an unsubscribe link works. Whom a link of old mail answers with an error complains instead.
const LINK_VALID: Duration = Duration::from_secs(365 * 86_400);
/// Longest line that is made, without its CRLF. RFC 5322 §2.1.1 allows 998.
const LINE_LENGTH_MAX: usize = 990;

const LIST_UNSUBSCRIBE: &str = "List-Unsubscribe";
const LIST_UNSUBSCRIBE_POST: &str = "List-Unsubscribe-Post";
const FEEDBACK_ID: &str = "Feedback-ID";
const CFBL_ADDRESS: &str = "CFBL-Address";
const CFBL_FEEDBACK_ID: &str = "CFBL-Feedback-ID";

/// What decides which fields may be added to a message.
#[derive(Clone, Debug)]
pub(super) struct Head {
    whose: ReturnPath,
    list_unsubscribe: Place,
    list_unsubscribe_post: Place,
    feedback_id: Place,
    cfbl_address: Place,
    cfbl_feedback_id: Place,
    reference: Place,
}

/// Whether there is room for a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Free,
    /// The client wrote one.
    Taken,
    /// A signature that came with the message breaks if there is one more: it signs the field's absence (RFC 6376 §8.15).
    Sealed,
}

impl Head {
    pub(super) fn of(header: &HeaderBlock, whose: ReturnPath) -> Head {
        let place = |name: &str| {
            let stands = header.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name.as_bytes()));
            match (stands, forbids_more(header, name)) {
                (true, _) => Place::Taken,
                (false, true) => Place::Sealed,
                (false, false) => Place::Free,
            }
        };
        Head {
            whose,
            list_unsubscribe: place(LIST_UNSUBSCRIBE),
            list_unsubscribe_post: place(LIST_UNSUBSCRIBE_POST),
            feedback_id: place(FEEDBACK_ID),
            cfbl_address: place(CFBL_ADDRESS),
            cfbl_feedback_id: place(CFBL_FEEDBACK_ID),
            reference: place(REFERENCE_HEADER),
        }
    }
}

/// Whether each recipient needs an envelope of their own: marketing mail whose return path or link names them.
pub(super) fn is_personal(settings: &Settings, head: &Head, envelope: &Envelope) -> bool {
    let Some((_, sending)) = in_whose_name(settings, envelope) else { return false };
    let has_path = head.whose == ReturnPath::Ours && sending.bounce_domain.is_some();
    let has_link = settings.unsubscribe_url.is_some() && head.list_unsubscribe == Place::Free;
    envelope.kind == StreamKind::Marketing && (has_path || has_link)
}

/// Gives each envelope its return path and header fields.
pub(super) fn give(settings: &Settings, head: &Head, envelopes: &mut [Envelope]) {
    for envelope in envelopes {
        let Some((keys, sending)) = in_whose_name(settings, envelope) else { continue };
        if let Some(domain) = sending.bounce_domain.as_ref().filter(|_| head.whose == ReturnPath::Ours) {
            // A token is a local part that needs no quotes, so this is always an address.
            envelope.return_path = Address::new(&keys.make(&token(envelope, Kind::ReturnPath)), domain.clone()).ok();
        }
        let mut fields = String::with_capacity(512);
        feedback(keys, sending, head, envelope, &mut fields);
        if let (StreamKind::Marketing, Some(url)) = (envelope.kind, &settings.unsubscribe_url) {
            unsubscribe(keys, sending, url, head, envelope, &mut fields);
        }
        envelope.added_headers = fields.into();
    }
}

/// About what the envelopes of a message take up beside its body. Unit: octets.
pub(super) fn weight(envelopes: &[Envelope]) -> usize {
    /// Numbers, names, lengths.
    const FIXED: usize = 512;
    let of = |envelope: &Envelope| {
        let recipients: usize = envelope
            .recipients
            .iter()
            .map(|recipient| 400 + recipient.original.as_ref().map_or(0, |original| original.len()))
            .sum();
        FIXED + recipients + envelope.added_headers.len() + envelope.marks.octets()
    };
    envelopes.iter().map(of).sum()
}

/// Nobody's, for mail from `<>`: it must never cause other mail (RFC 5321 §4.5.5).
fn in_whose_name<'a>(settings: &'a Settings, envelope: &Envelope) -> Option<(&'a Keys, &'a Sending)> {
    envelope.reverse_path.address()?;
    Some((settings.tokens.as_ref()?, settings.sending(envelope.author_domain.as_ref()?)?))
}

/// The place of its one recipient, or all.
fn place_of(envelope: &Envelope) -> u16 {
    match envelope.recipients.len() {
        1 => 0,
        _ => WHOLE_ENVELOPE,
    }
}

fn token(envelope: &Envelope, kind: Kind) -> Token {
    let valid_for = match kind {
        Kind::ReturnPath | Kind::Reference => REPORTS_AFTER,
        Kind::Unsubscribe => LINK_VALID,
    };
    let expires_at = envelope.expires_at.after(valid_for);
    Token { kind, id: envelope.id, recipient: place_of(envelope), expires_at }
}

/// What names the message in a complaint.
fn feedback(keys: &Keys, sending: &Sending, head: &Head, envelope: &Envelope, fields: &mut String) {
    if head.feedback_id == Place::Free {
        let campaign = envelope.marks.tags.first().map_or("", |tag| tag);
        let words = [campaign, &envelope.credential, &envelope.stream];
        put(fields, FEEDBACK_ID, &feedback_id(&sending.domain, words));
    }
    let reference = keys.make(&token(envelope, Kind::Reference));
    // Another relay of ours may have put one.
    if head.reference != Place::Sealed {
        put(fields, REFERENCE_HEADER, &reference);
    }
    // RFC 9477 §3.1.2: only under a signature.
    let Some(address) = sending.feedback_address.as_ref().filter(|_| sending.signed) else { return };
    if head.cfbl_address == Place::Free {
        put(fields, CFBL_ADDRESS, &format!("{address}; report=arf"));
        if head.cfbl_feedback_id == Place::Free {
            put(fields, CFBL_FEEDBACK_ID, &reference);
        }
    }
}

/// RFC 2369 §3.2 and RFC 8058 §3.1: a link for the recipient's program, a mailto for one that knows no links. Whoever has a
/// link of their own keeps it as it is.
fn unsubscribe(keys: &Keys, sending: &Sending, url: &str, head: &Head, envelope: &Envelope, fields: &mut String) {
    let [recipient] = envelope.recipients.as_slice() else { return };
    if head.list_unsubscribe != Place::Free {
        return;
    }
    let told = token(envelope, Kind::Unsubscribe);
    let (address, stream) = (recipient.address.clone(), envelope.stream.clone());
    let link =
        keys.seal(&Link { address, stream, id: told.id, recipient: told.recipient, expires_at: told.expires_at });
    let mut value = format!("<{url}/{link}>");
    if let Some(domain) = &sending.bounce_domain {
        let mailto = format!("<mailto:{}@{domain}?subject=unsubscribe", keys.make(&told));
        // The subject says what the local part has no room for; without it history must still know the message.
        value.push_str(",\r\n\t");
        value.push_str(&mailto);
        if mailto.len() + link.len() + 8 <= LINE_LENGTH_MAX {
            value.push_str("%20");
            value.push_str(&link);
        }
        value.push('>');
    }
    put(fields, LIST_UNSUBSCRIBE, &value);
    // RFC 8058 §4: a valid signature must cover both fields, so where none will, one click is not offered.
    if head.list_unsubscribe_post == Place::Free && sending.signed {
        put(fields, LIST_UNSUBSCRIBE_POST, "List-Unsubscribe=One-Click");
    }
}

fn put(fields: &mut String, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        fields.push_str(part);
    }
}

#[cfg(test)]
mod tests;
