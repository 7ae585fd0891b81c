//! What outlives the process beside mail: what was spent of budgets and quotas, what operators suspended, and which sending
//! domains are stopped where.
//!
//! Called by `scheduler`, by `delivery` for stops, and by `accept` for quotas. Kept in the spool's state log, since a chunk
//! must be durable before it is spent; it knows neither what a record is for nor how it reads.

use bytes::Bytes;
use tracing::error;

use crate::spool::{Spool, StateValue};

/// The numbers of the state tables; `docs/SPOOL.md` lists them.
const BUDGETS: u16 = 1;
const SUSPENSIONS: u16 = 4;
const STOPS: u16 = 8;
const QUOTAS: u16 = 9;
const PICKUPS: u16 = 13;

/// The way to the budgets. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    spool: Spool,
}

impl Ledger {
    /// Kept in this spool.
    pub fn new(spool: Spool) -> Ledger {
        Ledger { spool }
    }

    /// All budgets that are written down, by name. A damaged record is empty: its reader takes the strictest meaning.
    /// Blocks.
    pub fn budgets(&self) -> Vec<(Bytes, Bytes)> {
        self.entries(
            BUDGETS,
            "the budgets of the last run could not be read: limits of ten seconds and more begin anew",
        )
    }

    /// Writes a budget, or removes it. True: it is durable.
    pub async fn keep(&self, name: Bytes, record: Option<Bytes>) -> bool {
        self.put(BUDGETS, name, record, "a budget could not be written down: what it is for waits").await
    }

    /// All suspensions, as [`Ledger::budgets`].
    pub fn suspensions(&self) -> Vec<(Bytes, Bytes)> {
        self.entries(SUSPENSIONS, "what was suspended could not be read: suspend it again")
    }

    /// Writes a suspension, or removes it. True: it is durable.
    pub async fn keep_suspension(&self, name: Bytes, record: Option<Bytes>) -> bool {
        self.put(SUSPENSIONS, name, record, "a suspension could not be written down").await
    }

    /// All stops of sending domains, as [`Ledger::budgets`].
    pub fn stops(&self) -> Vec<(Bytes, Bytes)> {
        self.entries(STOPS, "which sending domains are stopped could not be read: the sites will say it again")
    }

    /// Writes a stop of a sending domain, or removes it. True: it is durable.
    pub async fn keep_stop(&self, name: Bytes, record: Option<Bytes>) -> bool {
        self.put(STOPS, name, record, "the stop of a sending domain could not be written down").await
    }

    /// What was taken of quotas, as [`Ledger::budgets`].
    pub fn quotas(&self) -> Vec<(Bytes, Bytes)> {
        self.entries(QUOTAS, "what was taken of quotas could not be read: they begin anew")
    }

    /// Writes what was taken of a quota, or removes it. True: it is durable.
    pub async fn keep_quota(&self, name: Bytes, record: Option<Bytes>) -> bool {
        self.put(QUOTAS, name, record, "what was taken of a quota could not be written down").await
    }

    /// Which files of the maildrop were being put, and under which id, as [`Ledger::budgets`].
    pub fn pickups(&self) -> Vec<(Bytes, Bytes)> {
        self.entries(
            PICKUPS,
            "which files of the maildrop were being put could not be read: those that are there may come twice",
        )
    }

    /// Writes that a file of the maildrop is being put, or that its end is no matter any more. True: it is durable.
    pub async fn keep_pickup(&self, name: Bytes, record: Option<Bytes>) -> bool {
        self.put(PICKUPS, name, record, "the put of a file of the maildrop could not be written down: it waits").await
    }

    fn entries(&self, table: u16, failed: &str) -> Vec<(Bytes, Bytes)> {
        let entries = self.spool.state_entries(table).unwrap_or_else(|error| {
            error!(%error, "{failed}");
            Vec::new()
        });
        let read = |value| match value {
            StateValue::Is(record) => Some(record),
            StateValue::Damaged => Some(Bytes::new()),
            StateValue::Absent => None,
        };
        entries.into_iter().filter_map(|entry| Some((entry.key, read(entry.value)?))).collect()
    }

    async fn put(&self, table: u16, name: Bytes, record: Option<Bytes>, failed: &str) -> bool {
        match self.spool.state_put(table, name, record).await {
            Ok(()) => true,
            Err(error) => {
                error!(%error, "{failed}");
                false
            }
        }
    }
}
