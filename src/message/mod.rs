//! The rules about a message's bytes: what its header says, what must be added or removed, how long its lines are.
//!
//! Pure: bytes in, bytes out; total on any input, linear in its length, and bounded in memory by a small multiple of
//! it.
//! Called by `accept` (every message), `delivery` (a peer without 8BITMIME) and tests. It knows no config and no
//! rights, and decodes no content.

mod author;
mod control;
mod feedback;
mod header;
mod mend;
mod mime;
mod stamp;
mod transfer;

pub use author::{AuthorError, mailboxes};
pub use control::{Control, ControlError, Families, Family, StreamName, control, quoted};
pub use feedback::{feedback_id, forbids_more};
pub use header::{Field, HeaderBlock, HeaderLimits, HeaderTooLarge, Kind, scan, unfold};
pub use mend::{CannotDowngrade, Warning, downgrade_8bit, shorten_lines};
pub use stamp::{Missing, Stamped, Trace, facts, stamp};
