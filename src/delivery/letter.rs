//! What is written as the message of one envelope: its added header fields, its signature, its body.

use crate::message;
use crate::queue::Lease;
use crate::smtp::dialog::{self, Capabilities, Unsendable};
use crate::spool::ReadError;

use super::Tools;
use super::attempt::needs;
use super::transact::Content;

/// Why there is nothing to write.
pub(super) enum Unsent {
    /// The spool cannot give the body.
    Unreadable(ReadError),
    /// This peer cannot take it.
    Refused(Unsendable),
}

/// The message for this peer: as it is, or in 7 bits where the peer takes no more and nobody else's signature covers it
/// (RFC 6152 §3).
pub(super) async fn compose(tools: &Tools, lease: &Lease, offered: &Capabilities) -> Result<Content, Unsent> {
    let envelope = lease.envelope();
    let body = tools.queue.body(lease).await.map_err(Unsent::Unreadable)?;
    let head = envelope.added_headers.clone();
    let content = Content { head, body, eight_bit: envelope.body.eight_bit || envelope.body.utf8_headers };
    match dialog::check(offered, needs(envelope, &content)) {
        Ok(()) => Ok(content),
        Err(Unsendable::Needs8BitMime) if !envelope.body.foreign_signature => in_seven_bits(content),
        Err(unsendable) => Err(Unsent::Refused(unsendable)),
    }
}

fn in_seven_bits(content: Content) -> Result<Content, Unsent> {
    match message::downgrade_8bit(&content.body) {
        Ok(body) => Ok(Content { body: body.into(), eight_bit: false, ..content }),
        Err(_) => Err(Unsent::Refused(Unsendable::Needs8BitMime)),
    }
}
