//! What an operator may do to a waiting envelope: each order reads it, changes its state, and writes that like any
//! other settle, so that it survives whatever comes.

use std::sync::Arc;

use super::row::Row;
use super::{Claim, Flags, Lease, Queue, Wish, lock};
use crate::mail::{Cause, EnhancedStatus, Envelope, Outcome, Progress, QueueId, RecipientState, Stage};
use crate::route;
use crate::spool::ReadError;
use crate::time::Timestamp;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// Stop it, until it is released. It does not expire meanwhile.
    Hold,
    /// Undo a hold; of what is not held, but scheduled for later: send it now.
    Release,
    /// Due now.
    Retry,
    /// Remove it, and tell nobody.
    Delete,
    /// Return it to its sender.
    Bounce,
}

impl Order {
    /// Every order.
    pub const ALL: [Order; 5] = [Order::Hold, Order::Release, Order::Retry, Order::Delete, Order::Bounce];

    /// The word on the command line and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Order::Hold => "hold",
            Order::Release => "release",
            Order::Retry => "retry",
            Order::Delete => "delete",
            Order::Bounce => "bounce",
        }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ordered {
    /// Done, and written.
    Done,
    /// It was so already.
    Unchanged,
    /// It is being attempted: held or deleted as soon as that ends, unless it is delivered.
    AfterAttempt,
    /// It is being attempted, and this cannot be done meanwhile.
    Busy,
    /// It is held: release it first.
    Held,
    /// There is no such envelope.
    Unknown,
    /// Its record cannot be read.
    Unreadable(ReadError),
    /// The spool is closed.
    Closed,
}

/// What the bounce says.
const BOUNCED_TEXT: &str = "returned to the sender by the operator of this server";

impl Queue {
    /// Carries out an order on one envelope. When this returns `Done`, it is written.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the order was carried out or not.
    pub async fn order(&self, id: QueueId, order: Order) -> Ordered {
        match self.lease_for_order(id, order).await {
            Ok(lease) => self.alter(lease, |envelope, after, now| carry_out(envelope, after, order, now)).await,
            Err(ordered) => ordered,
        }
    }

    /// Lets another pool carry an envelope from now on, whatever its stream's says; it need not keep its source. The name
    /// is for the caller to check. When this returns `Done`, it is written.
    ///
    /// # Cancel safety
    /// As [`Queue::order`].
    pub async fn reroute(&self, id: QueueId, pool: &str) -> Ordered {
        let reroute = |envelope: &Envelope, after: &mut Progress, _: Timestamp| {
            let pool = &*route::moved(&envelope.pool, pool);
            let is_own = after.pool.is_empty() && *envelope.pool == *pool;
            if !is_own && *after.pool != *pool {
                (after.pool, after.source) = (pool.into(), "".into());
            }
        };
        match self.take(id, Held::IsNoMatter).await {
            Ok(lease) => self.alter(lease, reroute).await,
            Err(ordered) => ordered,
        }
    }

    /// Lets an envelope take a route from now on, or the one that its recipients' domain says; it need not keep its source,
    /// and keeps its pool. When this returns `Done`, it is written.
    ///
    /// # Cancel safety
    /// As [`Queue::order`].
    pub async fn take_route(&self, id: QueueId, route: Option<&str>) -> Ordered {
        let change = |envelope: &Envelope, after: &mut Progress, _: Timestamp| {
            let before = if after.pool.is_empty() { &envelope.pool } else { &after.pool };
            let (pool, _) = route::split(before);
            let wanted = route.map_or_else(|| pool.to_owned(), |route| route::join(pool, route));
            if **before != *wanted {
                (after.pool, after.source) = (wanted.into(), "".into());
            }
        };
        match self.take(id, Held::IsNoMatter).await {
            Ok(lease) => self.alter(lease, change).await,
            Err(ordered) => ordered,
        }
    }

    /// Changes and writes the state of what was leased for it.
    async fn alter(&self, lease: Lease, change: impl FnOnce(&Envelope, &mut Progress, Timestamp)) -> Ordered {
        let id = lease.envelope().id;
        let mut after = lease.progress().clone();
        change(lease.envelope(), &mut after, self.now());
        if after == *lease.progress() && !lease.releases(&after) {
            return Ordered::Unchanged;
        }
        if let Some(wish) = self.shared.take_wish(id).filter(|_| !after.is_final()) {
            super::lease::grant(&mut after, wish);
        }
        let (envelope, before) = lease.end();
        match self.settle_unasked(&envelope, &before, after).written().await {
            true => Ordered::Done,
            false => Ordered::Closed,
        }
    }

    /// Takes the lease of an envelope, held or not, for an order that another room carries out: the door returns it to its
    /// sender with the message. Its settle is announced to the scheduler.
    ///
    /// # Errors
    /// What the order comes to without a lease.
    pub async fn lease_for_order(&self, id: QueueId, order: Order) -> Result<Lease, Ordered> {
        let held = if order == Order::Retry { Held::IsRefused } else { Held::IsNoMatter };
        self.take(id, held).await.map_err(|ordered| match ordered {
            Ordered::Busy => self.wish(id, order),
            other => other,
        })
    }

    /// Takes the lease for an operator. `Busy`: a connection has it.
    async fn take(&self, id: QueueId, if_held: Held) -> Result<Lease, Ordered> {
        let row = match self.shared.table().lease_for_order(id) {
            Ok(Some(row)) => row,
            Ok(None) => return Err(Ordered::Unknown),
            Err(()) => return Err(Ordered::Busy),
        };
        if row.flags.has(Flags::HELD) && if_held == Held::IsRefused {
            self.give_back(id);
            return Err(Ordered::Held);
        }
        self.lease_of(row).await
    }

    /// The lease of a row that was leased for an order just now.
    pub(super) async fn lease_of(&self, row: Row) -> Result<Lease, Ordered> {
        let id = row.id;
        let claim = Claim { queue: self, id, kept: false };
        let held = row.flags.has(Flags::HELD);
        match self.read(id, row.place).await {
            Ok((stored, place)) => {
                claim.keep();
                Ok(Lease::new(self.clone(), Arc::new(stored.envelope), stored.progress, place).for_order(held))
            }
            Err(error) => Err(Ordered::Unreadable(error)),
        }
    }

    /// What can be done to an envelope that a connection holds.
    fn wish(&self, id: QueueId, order: Order) -> Ordered {
        let wish = match order {
            Order::Hold => Wish::Hold,
            Order::Delete => Wish::Delete,
            Order::Release | Order::Retry | Order::Bounce => return Ordered::Busy,
        };
        let mut wishes = lock(&self.shared.wishes);
        if wishes.insert(id, wish).is_none() {
            self.shared.wish_count.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        }
        Ordered::AfterAttempt
    }
}

/// What a hold means to an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    IsNoMatter,
    IsRefused,
}

fn carry_out(envelope: &Envelope, progress: &mut Progress, order: Order, now: Timestamp) {
    match order {
        Order::Hold => progress.held = true,
        Order::Release if progress.held => progress.held = false,
        Order::Release if envelope.is_scheduled() && progress.is_untried() => progress.due = progress.due.min(now),
        Order::Release => {}
        Order::Retry => progress.due = now,
        Order::Delete => progress.end(RecipientState::Deleted, None),
        Order::Bounce => {
            let cause = Cause::local(EnhancedStatus::new(5, 0, 0), BOUNCED_TEXT);
            let outcome = Outcome { at: now, stage: Stage::Local, host: "".into(), address: None, cause };
            progress.end(RecipientState::Failed, Some(&outcome));
        }
    }
}
