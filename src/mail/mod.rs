//! The types of the field: what mail is made of, before any rule, disk or socket.
//!
//! Every room speaks in these words, and none of them does anything: parsing is total, arithmetic saturates,
//! and a value that exists is valid (an [`Address`] can be written between `<` and `>` without a second look).
//!
//! # Words
//! - *submission*: handed in by a client, not yet accepted. *envelope*: recipients that share a domain, a
//!   return path and every added header; one envelope is one SMTP transaction on the way out.
//! - *reverse path*, *forward path* (RFC 5321 §2.3.11); users read "envelope sender" and "recipient".
//! - *queue id*: names one envelope for its whole life. *stream*, its *kind*: transactional or marketing.
//! - *put*: make durable. *lease*: the right to attempt. *attempt*: one transaction tried. *settle*: record it.
//! - *reply*: what a peer said. *enhanced status*: RFC 3463. *class*: of a reply, nothing else. *verdict*: what an
//!   attempt means for one recipient. *uncertain*: the peer's answer to the final dot never came (RFC 1047).
//! - *deferred*, *failed*, *expired*, *held*, *suppressed*: what a recipient can be besides delivered. *scheduled*: not
//!   tried yet, because its sender asked for a later time (*release*, RFC 4865).
//! - *control header*: a header field by which a client chooses stream, tags or time; *family*: those of one provider.
//!   *marks*: what is kept of them. *engaged*: a recipient who opened or clicked lately, as the client says.
//! - *site*: MX hosts that share limits. *MX host*, *next hop*. *source*, *pool*. *provider*. *budget*.
//! - *spool*, *segment*, *record*, *checkpoint*. *DSN*: RFC 3464.

mod address;
mod domain;
mod envelope;
mod progress;
mod queue_id;
mod reply;

pub use address::{Address, AddressError, ReversePath, is_safe_argument};
pub use domain::{Domain, DomainError};
pub use envelope::{BodyFacts, Envelope, Marks, Notify, Prepared, Recipient, Return, StreamKind};
pub use progress::{Attempt, Outcome, Progress, RecipientProgress, RecipientState, Verdict};
pub use queue_id::{QueueId, QueueIdError};
pub use reply::{Cause, EnhancedStatus, Reply, Stage, UNREADABLE};
