//! What a session is told before it begins.

use std::time::Duration;

use crate::mail::Domain;

/// What a listener is for. The names are the config's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Port 587: STARTTLS, then AUTH (RFC 6409).
    Submission,
    /// Port 465: TLS from the first octet, then AUTH (RFC 8314).
    Submissions,
    /// Port 25: trusted networks may relay; for all others there is nothing here yet.
    Smtp,
}

impl Mode {
    /// The word in config and logs.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Submission => "submission",
            Mode::Submissions => "submissions",
            Mode::Smtp => "smtp",
        }
    }
}

/// Whether the link is under TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// In clear, and so it stays.
    Clear,
    /// In clear, and STARTTLS is offered.
    Upgradable,
    /// Under TLS.
    Tls,
}

/// What this very connection is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its encryption.
    pub security: Security,
    /// Both ends are on this machine: a password in clear is read by nobody.
    pub loopback: bool,
    /// The client's address is in the listener's trusted networks: it needs no login, whatever the listener is for.
    pub trusted: bool,
}

/// What all sessions of a listener share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Our name, in the greeting and in EHLO.
    pub hostname: Domain,
    /// What a name without a domain gets. Default: our name.
    pub origin: Option<Domain>,
    /// What the listener is for.
    pub mode: Mode,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest message, announced as SIZE. Unit: octets.
    pub message_size_max: usize,
    /// Longest header block. Unit: octets.
    pub header_size_max: usize,
    /// Recipients of one transaction, announced as LIMITS RCPTMAX (RFC 9422).
    pub recipients_max: usize,
    /// Longest time for which a message may be held, announced as FUTURERELEASE (RFC 4865). Unit: seconds. Zero: not
    /// offered.
    pub hold_max: Duration,
    /// Longest command line without its end; AUTH has RFC 4954's own. Unit: octets.
    pub command_length_max: usize,
    /// Refused commands before the session is ended.
    pub errors_max: u32,
    /// Commands that bring no mail (NOOP, RSET, VRFY, HELP, EHLO) between two messages; each further one is an error.
    pub idle_commands_max: u32,
    /// Failed logins before the session is ended.
    pub login_failures_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_size_max: 50 * 1024 * 1024,
            header_size_max: 256 * 1024,
            recipients_max: 1000,
            hold_max: Duration::ZERO,
            command_length_max: 2048,
            errors_max: 20,
            idle_commands_max: 100,
            login_failures_max: 5,
        }
    }
}
