//! Delivery status notifications: when one is due, and what it says. RFC 3461, 3464, 6522, 6533. And how those of others,
//! their complaints and all that merely looks like it are read: [`read`].
//!
//! Pure. Called by `accept`, which reads the body, gives the report a queue id and has it written with the settle, and by
//! the command line. Reports are written by hand, byte by byte, because the programs that read bounces look for exactly
//! this shape.

mod due;
mod read;
mod text;
mod write;

pub use due::{Action, Bounces, Event, PeerReports, due};
pub use read::{Fate, Kind, OCTETS_MAX, RECIPIENTS_MAX, Reading, Reported, Returned, read, same_mailbox};
pub use write::{Original, Report, write};
