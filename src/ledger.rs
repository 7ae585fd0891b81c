//! What was spent of budgets that outlive the process: how much of its windows each source used at each site.
//!
//! Called by `scheduler`. Kept in the spool's state log, since a chunk must be durable before it is spent; it knows
//! neither what a budget is for nor how its records read.

use bytes::Bytes;
use tracing::error;

use crate::spool::{Spool, StateValue};

/// The number of the state table; `docs/SPOOL.md` lists them.
const TABLE: u16 = 1;

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

    /// All that is written down, by name. A damaged record is empty: its reader takes the strictest meaning. Blocks.
    pub fn budgets(&self) -> Vec<(Bytes, Bytes)> {
        let entries = self.spool.state_entries(TABLE).unwrap_or_else(|error| {
            error!(%error, "the budgets of the last run could not be read: limits of ten seconds and more begin anew");
            Vec::new()
        });
        let read = |value| match value {
            StateValue::Is(record) => Some(record),
            StateValue::Damaged => Some(Bytes::new()),
            StateValue::Absent => None,
        };
        entries.into_iter().filter_map(|entry| Some((entry.key, read(entry.value)?))).collect()
    }

    /// Writes a record, or removes it. True: it is durable.
    pub async fn keep(&self, name: Bytes, record: Option<Bytes>) -> bool {
        match self.spool.state_put(TABLE, name, record).await {
            Ok(()) => true,
            Err(error) => {
                error!(%error, "a budget could not be written down: what it is for waits");
                false
            }
        }
    }
}
