//! What is written as the message of one envelope: its signature, its added header fields, its body.

use bytes::Bytes;

use crate::mail::{Domain, Envelope, ReturnPath, ReversePath};
use crate::message::{self, HeaderLimits};
use crate::queue::Lease;
use crate::rewrite::Trouble;
use crate::signer::{Form, SignError, Signer, Unsigned};
use crate::smtp::dialog::{self, Capabilities, Unsendable};
use crate::spool::ReadError;
use crate::time::Timestamp;

use super::Tools;
use super::attempt::needs;
use super::transact::Content;

/// Why there is nothing to write.
pub(super) enum Unsent {
    /// The spool cannot give the body.
    Unreadable(ReadError),
    /// The tables for what goes out cannot say now what is to be written.
    Undecided(Trouble),
    /// It cannot be signed, and unsigned it would harm the domain.
    Unsigned(SignError),
    /// This peer cannot take it.
    Refused(Unsendable),
}

/// The message for this peer: as it is, or in 7 bits where the peer takes no more and nobody else's signature covers it
/// (RFC 6152 §3), and signed as it goes out.
pub(super) async fn compose(
    tools: &Tools,
    (lease, envelope): (&Lease, &Envelope),
    offered: &Capabilities,
    whose: ReturnPath,
    now: Timestamp,
) -> Result<Content, Unsent> {
    let body = tools.queue.body(lease).await.map_err(Unsent::Unreadable)?;
    let (body, variant) = outgoing(tools, envelope, body)?;
    let content = signed(&tools.signer, (envelope, variant), body, Form::AsAccepted, now)?;
    match dialog::check(offered, needs(envelope, &content, whose)) {
        Ok(()) => Ok(content),
        Err(Unsendable::Needs8BitMime) if !envelope.body.foreign_signature => {
            let converted = message::downgrade_8bit(&content.body);
            let body = converted.map_err(|_| Unsent::Refused(Unsendable::Needs8BitMime))?.into();
            let content = signed(&tools.signer, (envelope, variant), body, Form::SevenBit, now)?;
            dialog::check(offered, needs(envelope, &content, whose)).map_err(Unsent::Refused)?;
            Ok(content)
        }
        Err(unsendable) => Err(Unsent::Refused(unsendable)),
    }
}

/// The envelope as the tables for what goes out have it.
pub(super) fn envelope_out(tools: &Tools, envelope: &Envelope) -> Result<Option<Envelope>, Trouble> {
    let outgoing = tools.door.outgoing();
    if outgoing.generic.is_empty() {
        return Ok(None);
    }
    let mut new = envelope.clone();
    if let ReversePath::Address(address) = &envelope.reverse_path {
        new.reverse_path = ReversePath::Address(outgoing.address(address)?);
    }
    for recipient in &mut new.recipients {
        recipient.address = outgoing.address(&recipient.address)?;
    }
    Ok(Some(new))
}

/// The message as the tables for what goes out have it, and what tells its header from that which was accepted. A message
/// under somebody else's signature is changed too: the operator's tables say so.
fn outgoing(tools: &Tools, envelope: &Envelope, body: Bytes) -> Result<(Bytes, u64), Unsent> {
    let outgoing = tools.door.outgoing();
    if outgoing.is_none() {
        return Ok((body, 0));
    }
    let end = header_length(&body);
    let (new, notes) = outgoing.header(&body[..end]).map_err(Unsent::Undecided)?;
    for note in notes {
        tracing::info!(queue_id = %envelope.id, field = note.field, "header check on the way out: {}: {}", note.what, note.text);
    }
    let Some(header) = new else { return Ok((body, 0)) };
    let variant = header.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        // FNV-1a: it must tell two headers of one message apart, and nobody gains by making them one.
        (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(([&header[..], &body[end..]].concat().into(), variant.max(1)))
}

fn signed(
    signer: &Signer,
    (envelope, variant): (&Envelope, u64),
    body: Bytes,
    form: Form,
    now: Timestamp,
) -> Result<Content, Unsent> {
    let added = &envelope.added_headers;
    let (eight_bit, header_bytes) = match form {
        Form::AsAccepted => {
            let header_bytes = if variant == 0 { envelope.body.header_bytes as usize } else { header_length(&body) };
            (envelope.body.eight_bit || envelope.body.utf8_headers, header_bytes)
        }
        Form::SevenBit => (false, header_length(&body)),
    };
    // Whose key signs, the header that goes out says.
    let author_domain = match variant {
        0 => envelope.author_domain.clone(),
        _ => author_of(&body[..header_bytes.min(body.len())]).or_else(|| envelope.author_domain.clone()),
    };
    let signature = match &author_domain {
        Some(author_domain) => {
            let unsigned = Unsigned {
                submission: envelope.submission,
                form,
                variant,
                author_domain,
                added_headers: added,
                message: &body,
                header_bytes,
            };
            signer.sign(&unsigned, now).map_err(Unsent::Unsigned)?
        }
        None => Bytes::new(),
    };
    let head = match (signature.is_empty(), added.is_empty()) {
        (_, true) => signature,
        (true, false) => added.clone(),
        (false, false) => [signature, added.clone()].concat().into(),
    };
    Ok(Content { head, body, eight_bit })
}

fn author_of(header: &[u8]) -> Option<Domain> {
    let header = message::scan(header, HeaderLimits::NONE).ok()?;
    let field = header.of(message::Kind::From).next()?;
    message::mailboxes(field.value).ok()?.last().map(|author| author.domain().clone())
}

/// Up to and with the empty line, or all.
fn header_length(message: &[u8]) -> usize {
    memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |end| end + 4)
}
