//! The types of the field: what mail is made of, before any rule, disk or socket.
//!
//! Every room speaks in these words, and none of them does anything: parsing is total, arithmetic saturates,
//! and a value that exists is valid (an [`Address`] can be written between `<` and `>` without a second look).
//!
//! What each word means, and those of the other rooms: `docs/ARCHITECTURE.md`, "Words".

mod address;
mod domain;
mod envelope;
mod fnv;
mod progress;
mod queue_id;
mod reply;

pub use address::{Address, AddressError, ReversePath, is_safe_argument};
/// A text that is most often short: up to 24 octets need no memory of their own. Addresses, names and words of envelopes are
/// such, and are copied for each message several times.
pub use compact_str::CompactString as Text;
/// Makes such a text of what can be shown.
pub use compact_str::ToCompactString;
pub use domain::{Domain, DomainError};
pub use envelope::{BodyFacts, Envelope, Marks, Notify, Prepared, Recipient, Return, ReturnPath, StreamKind};
pub use fnv::Fnv;
pub use progress::{Attempt, Outcome, Progress, RecipientProgress, RecipientState, Verdict};
pub use queue_id::{QueueId, QueueIdError};
pub use reply::{Cause, EnhancedStatus, Reply, Stage, UNREADABLE, is_unprintable};
