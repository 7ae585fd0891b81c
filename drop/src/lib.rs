//! What lies between `sendmail` and the daemon: the form of a message in the maildrop, and the helper that puts it there.
//!
//! `sendmail` writes a [`Letter`] to the helper's standard input. The helper ([`helper`]) checks its form, puts a [`Stamp`]
//! before it that says who ran it, and keeps both as one file. The daemon reads that with [`read`].
#![forbid(unsafe_code)]

mod form;
pub mod helper;

pub use form::{Flaw, Guard, Letter, RECORD_LENGTH_MAX, STAMP_LENGTH, Stamp, TOTAL_LENGTH_MAX, Wanted, read};

/// Where messages wait for the daemon.
///
/// Fixed when this is built, since the helper believes no argument: `POSTRIDER_MAILDROP` in the build's environment
/// changes it, for packages that keep their data elsewhere.
pub const MAILDROP: &str = match option_env!("POSTRIDER_MAILDROP") {
    Some(path) => path,
    None => "/var/lib/postrider/maildrop",
};

/// The pipe in the maildrop by which the daemon is woken.
pub const WAKE_NAME: &str = "wake";

/// How names of complete messages begin. Nothing else in the maildrop is ever read.
pub const COMPLETE_PREFIX: char = 'm';

/// How names of messages begin that are still being written. Their writer holds a lock on them.
pub const PARTIAL_PREFIX: char = 't';

/// The group that the helper is set-gid to, and the maildrop's.
pub const GROUP: &str = "postrider-drop";
