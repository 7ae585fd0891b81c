//! What the history keeps of a connection: its beginning, its transactions, its end.

use std::sync::Arc;

use super::Plan;
use super::attempt::Found;
use super::session::Peer;
use crate::history::{self, Fact, History};
use crate::mail::{QueueId, Text, ToCompactString, Verdict};

/// A connection's past. Its end is told when it is dropped, also if its task is.
pub(super) struct Past {
    history: History,
    connection: u64,
    source: Arc<str>,
    site: Arc<str>,
    /// Transactions that were begun.
    pub deliveries: u32,
    /// Why it never was ready for mail.
    pub refused: String,
}

impl Past {
    /// It is being made.
    pub fn dialed(plan: &Plan, history: History) -> Past {
        let (source, site) = (Arc::clone(&plan.source.name), Arc::clone(&plan.site));
        if history.is_kept() {
            history.tell(Fact::Dialed(history::Dialed {
                connection: plan.id.0,
                source: (&*source).into(),
                site: (&*site).into(),
                domain: plan.domain.as_str().into(),
                dialed_ms: history.steady_ms(),
            }));
        }
        Past { history, connection: plan.id.0, source, site, deliveries: 0, refused: String::new() }
    }

    /// It is ready for mail.
    pub fn connected(&self, peer: &Peer) {
        if self.history.is_kept() {
            self.history.tell(Fact::Connected(history::Connected {
                connection: self.connection,
                source: (&*self.source).into(),
                site: (&*self.site).into(),
                host: (&*peer.host).into(),
                address: peer.place.ip().to_compact_string(),
                connected_ms: self.history.steady_ms(),
            }));
        }
    }
}

impl Drop for Past {
    fn drop(&mut self) {
        if self.history.is_kept() {
            self.history.tell(Fact::Closed(history::Closed {
                connection: self.connection,
                source: (&*self.source).into(),
                site: (&*self.site).into(),
                closed_ms: self.history.steady_ms(),
                deliveries: u64::from(self.deliveries),
                refused: std::mem::take(&mut self.refused).into(),
            }));
        }
    }
}

/// A transaction that MAIL was written for.
pub(super) struct Sent<'a> {
    pub plan: &'a Plan,
    pub peer: &'a Peer,
    pub id: QueueId,
    /// The recipients' domain.
    pub domain: Text,
    /// Right before MAIL was written: the peer cannot have counted it earlier.
    pub mail_ms: u64,
    /// RCPTs that may have been sent.
    pub recipients: usize,
}

impl Sent<'_> {
    /// It is over: its reply came, or its connection was lost.
    pub fn tell(self, history: &History, done_ms: u64, found: Option<&Found>) {
        if !history.is_kept() {
            return;
        }
        let (mut delivered, mut deferred, mut failed) = (0, 0, 0);
        for (_, verdict) in found.iter().flat_map(|found| &found.attempt.verdicts) {
            match verdict {
                Verdict::Delivered(_) => delivered += 1,
                Verdict::Deferred(_) => deferred += 1,
                Verdict::Failed(_) => failed += 1,
            }
        }
        let result = match (found, delivered, deferred, failed) {
            (None, ..) => "lost",
            (Some(found), ..) if found.attempt.uncertain => "uncertain",
            (Some(_), _, 0, 0) => "delivered",
            (Some(_), 0, _, 0) => "deferred",
            (Some(_), 0, 0, _) => "failed",
            (Some(_), ..) => "mixed",
        };
        history.tell(Fact::Attempt(history::Attempt {
            queue_id: self.id,
            connection: self.plan.id.0,
            source: (&*self.plan.source.name).into(),
            site: (&*self.plan.site).into(),
            domain: self.domain,
            host: (&*self.peer.host).into(),
            address: self.peer.place.ip().to_compact_string(),
            mail_ms: self.mail_ms,
            done_ms,
            recipients: self.recipients as u64,
            delivered,
            result: result.into(),
        }));
    }
}
