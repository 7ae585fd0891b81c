//! Delivery: one connection to one peer, and the transactions on it.
//!
//! `scheduler` starts a connection by its [`Plan`] and tells it what to send; it knows the queue only through a `Lease`,
//! and never decides what goes next.

use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::{Domain, Outcome, QueueId};
use crate::time::Timestamp;

pub use crate::classify::Feedback;

/// The number of a connection, never used twice in one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// A host to try, as DNS or a `[[route]]` gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// The name for TLS and logs; for an address literal in a route, its text.
    pub name: Arc<str>,
    /// Preference (MX); equal ones are shuffled by `dns`.
    pub preference: u16,
    /// Its addresses, private ones included (refused at connect unless `allow_private`).
    pub addresses: Vec<IpAddr>,
    /// TCP port.
    pub port: u16,
}

/// How TLS is used towards a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TlsPolicy {
    /// `opportunistic`: STARTTLS if offered, nothing verified, in clear if it cannot be had (RFC 7435).
    #[default]
    Opportunistic,
    /// `require`: encrypted or not at all; nothing verified.
    Require,
    /// `verify`: encrypted, and the certificate must be valid for the host's name.
    Verify,
    /// `implicit`: TLS from the first byte (465), verified.
    Implicit,
    /// `none`: never.
    None,
}

/// A source address and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its name in the config.
    pub name: Arc<str>,
    /// What is bound; unspecified (`0.0.0.0`): the kernel chooses.
    pub address: IpAddr,
    /// What EHLO says.
    pub ehlo: Arc<str>,
}

/// Everything a connection needs to be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its number.
    pub id: ConnectionId,
    /// From where.
    pub source: Source,
    /// The hosts to try, in order.
    pub hosts: Arc<[Host]>,
    /// TLS.
    pub tls: TlsPolicy,
    /// User and password for a smarthost.
    pub login: Option<(Arc<str>, Arc<str>)>,
    /// Loopback and private peers may be connected to.
    pub allow_private: bool,
    /// The recipient domain for which it is first made (for logs).
    pub domain: Domain,
}

/// What the scheduler tells a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Attempt this envelope.
    Send(QueueId),
    /// QUIT, and end.
    Close,
}

/// What a connection tells the scheduler. After `Eof` nothing more comes.
#[derive(Clone, Debug)]
pub enum Event {
    /// Greeting, EHLO and TLS are done with this host; transactions may come.
    Connected {
        /// The host that answered.
        host: Arc<str>,
        /// Its address.
        address: IpAddr,
        /// RFC 9422 MAILMAX, if the peer gave one.
        transactions_max: Option<u32>,
    },
    /// No host took us. Ends with `Eof`.
    Refused {
        /// The last outcome: what `why` shows.
        outcome: Outcome,
    },
    /// MAIL FROM of this envelope is on the wire: it occupies its window from here.
    MailWritten(QueueId),
    /// The envelope was settled (written to the spool).
    Settled {
        /// Which.
        id: QueueId,
        /// `None`: it has its final state. Else it is due again then.
        due: Option<Timestamp>,
        /// What the attempt says about the source at this site.
        feedback: Feedback,
    },
    /// It could not be leased (gone, held, unreadable): nothing was sent.
    Skipped(QueueId),
    /// The peer closed, or we did and the peer's EOF came (or 30 s passed): the slot is free.
    Eof,
}
