//! What is written as the message of one envelope: its added header fields, its signature, its body.

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

/// The message for this peer.
pub(super) async fn compose(tools: &Tools, lease: &Lease, offered: &Capabilities) -> Result<Content, Unsent> {
    let envelope = lease.envelope();
    let body = tools.queue.body(lease).await.map_err(Unsent::Unreadable)?;
    let content = Content { head: envelope.added_headers.clone(), body };
    dialog::check(offered, needs(envelope, &content)).map_err(Unsent::Refused)?;
    Ok(content)
}
