//! DNS: the one wrapper of the resolver. Who takes a domain's mail, and the records that `check --network` compares.
//!
//! Called by `scheduler` (hosts of a domain), and by `cli check`. It never decides when to try again: it says what is
//! known, whether that is final, and until when it is believed.

use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::{Domain, EnhancedStatus};
use crate::time::Timestamp;

/// A host to try, as DNS or a `[[route]]` gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// The name for TLS and logs; for an address literal in a route, its text.
    pub name: Arc<str>,
    /// Preference (MX); equal ones are shuffled.
    pub preference: u16,
    /// Its addresses, private ones included (refused at connect unless `allow_private`).
    pub addresses: Vec<IpAddr>,
    /// TCP port.
    pub port: u16,
}

/// Whether a failed look-up may have another answer later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Finality {
    /// Again later: the server failed, or we cannot trust a first "no such name".
    Deferred,
    /// Never: the recipients fail.
    Final,
}

/// Why a domain has no hosts for us.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{status} {text}")]
pub struct Failure {
    /// Whether it is worth another look.
    pub finality: Finality,
    /// For the DSN and for `why`.
    pub status: EnhancedStatus,
    /// One sentence.
    pub text: Box<str>,
    /// This answer is kept until then; asking earlier gives the same.
    pub until: Timestamp,
}

/// The resolver's handle. Cheap to clone.
#[derive(Clone)]
pub struct Dns {}

impl Dns {
    /// The hosts that take a domain's mail, best first.
    ///
    /// # Errors
    /// The reason, and whether it is final.
    pub async fn mail_hosts(&self, domain: &Domain, now: Timestamp) -> Result<Arc<[Host]>, Failure> {
        let _ = (domain, now);
        todo!()
    }

    /// The addresses of one named host (of a `[[route]]`'s next hop), or of an address literal.
    ///
    /// # Errors
    /// As [`Dns::mail_hosts`].
    pub async fn host(&self, name: &str, port: u16, now: Timestamp) -> Result<Host, Failure> {
        let _ = (name, port, now);
        todo!()
    }
}
