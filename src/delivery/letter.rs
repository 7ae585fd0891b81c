//! What is written as the message of one envelope: its signature, its added header fields, its body.

use bytes::Bytes;

use crate::mail::{Envelope, ReturnPath};
use crate::message;
use crate::queue::Lease;
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
    /// It cannot be signed, and unsigned it would harm the domain.
    Unsigned(SignError),
    /// This peer cannot take it.
    Refused(Unsendable),
}

/// The message for this peer: as it is, or in 7 bits where the peer takes no more and nobody else's signature covers it
/// (RFC 6152 §3), and signed as it goes out.
pub(super) async fn compose(
    tools: &Tools,
    lease: &Lease,
    offered: &Capabilities,
    whose: ReturnPath,
    now: Timestamp,
) -> Result<Content, Unsent> {
    let envelope = lease.envelope();
    let body = tools.queue.body(lease).await.map_err(Unsent::Unreadable)?;
    let content = signed(&tools.signer, envelope, body, Form::AsAccepted, now)?;
    match dialog::check(offered, needs(envelope, &content, whose)) {
        Ok(()) => Ok(content),
        Err(Unsendable::Needs8BitMime) if !envelope.body.foreign_signature => {
            let converted = message::downgrade_8bit(&content.body);
            let body = converted.map_err(|_| Unsent::Refused(Unsendable::Needs8BitMime))?.into();
            let content = signed(&tools.signer, envelope, body, Form::SevenBit, now)?;
            dialog::check(offered, needs(envelope, &content, whose)).map_err(Unsent::Refused)?;
            Ok(content)
        }
        Err(unsendable) => Err(Unsent::Refused(unsendable)),
    }
}

fn signed(signer: &Signer, envelope: &Envelope, body: Bytes, form: Form, now: Timestamp) -> Result<Content, Unsent> {
    let added = &envelope.added_headers;
    let (eight_bit, header_bytes) = match form {
        Form::AsAccepted => {
            (envelope.body.eight_bit || envelope.body.utf8_headers, envelope.body.header_bytes as usize)
        }
        Form::SevenBit => (false, header_length(&body)),
    };
    let signature = match &envelope.author_domain {
        Some(author_domain) => {
            let unsigned = Unsigned {
                submission: envelope.submission,
                form,
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

/// Up to and with the empty line, or all.
fn header_length(message: &[u8]) -> usize {
    memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |end| end + 4)
}
