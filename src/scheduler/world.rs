//! The world as the scheduler sees it: look-ups, connections, and envelopes that end without a peer.
//!
//! [`Live`] is the real one; tests bring a simulated one, so that the whole scheduler runs on a paused clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::info;

use crate::alarm;
use crate::delivery::{ConnectionId, Event, Host, Order, Plan, Tools};
use crate::dns::{Dns, Failure};
use crate::history::History;
use crate::ledger::Ledger;
use crate::mail::{Attempt, Domain, Outcome, Progress, QueueId, RecipientState, StreamKind, Verdict};
use crate::time::Timestamp;

/// What a look-up finds.
pub type Found<T> = Result<T, Failure>;
/// A future that the scheduler may run on any thread.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How an envelope ends without a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Its longest age passed; with what last stood in its way, if that is known.
    Expired(Option<Outcome>),
    /// Its domain takes no mail, for this reason.
    Failed(Outcome),
    /// A route drops it; nobody is told.
    Discarded,
}

/// What the scheduler does to the world.
pub trait World: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Timestamp;
    /// The hosts of a domain.
    fn mail_hosts(&self, domain: Domain) -> Task<Found<Arc<[Host]>>>;
    /// A named host.
    fn host(&self, name: Arc<str>, port: u16) -> Task<Found<Host>>;
    /// Lets all mail of sending domains go again that sites stopped: an operator wants it tried.
    fn end_stops(&self) {}
    /// Whether mail of a credential on a stream is held: it is paused, or suspended.
    fn holds(&self, _credential: &str, _stream: &str, _kind: StreamKind) -> bool {
        false
    }
    /// Why an envelope is held that no operator holds by itself.
    fn why_held(&self, _id: QueueId) -> Option<String> {
        None
    }
    /// Makes a connection, works on it, and ends with `Event::Eof`.
    fn connect(
        &self,
        plan: Plan,
        orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<(ConnectionId, Event)>,
    ) -> Task<()>;
    /// Ends an envelope. False: it could not be leased.
    fn end(&self, id: QueueId, end: End) -> Task<bool>;
    /// A provider blocked a source that warms up there.
    fn warmup_frozen(&self, _source: &str, _provider: &str) {}
    /// The time that passed since some moment, by a clock that nobody sets: what limits go by.
    fn steady(&self) -> Duration {
        self.now().since(Timestamp::ZERO)
    }
    /// `now` and `steady` at one moment.
    fn clocks(&self) -> (Timestamp, Duration) {
        (self.now(), self.steady())
    }
    /// Where the limits in force are told.
    fn history(&self) -> History {
        History::default()
    }
    /// What earlier runs wrote down of budgets, by name. Asked once, before anything is sent.
    fn budgets(&self) -> Vec<(Bytes, Bytes)>;
    /// What operators suspended in earlier runs, by name. Asked once, before anything is sent.
    fn suspensions(&self) -> Vec<(Bytes, Bytes)>;
    /// Writes a suspension down, or removes it. True: it is durable.
    fn keep_suspension(&self, name: Bytes, record: Option<Bytes>) -> Task<bool>;
    /// Writes a budget down, or removes it. True: it is durable.
    fn keep_budget(&self, name: Bytes, record: Option<Bytes>) -> Task<bool>;
}

/// The real world.
#[derive(Clone)]
pub struct Live {
    /// Names.
    pub dns: Dns,
    /// Connections, queue and door.
    pub tools: Arc<Tools>,
    /// Budgets.
    pub ledger: Ledger,
}

impl World for Live {
    fn now(&self) -> Timestamp {
        self.tools.caller.clock().now()
    }

    fn steady(&self) -> Duration {
        self.clocks().1
    }

    fn clocks(&self) -> (Timestamp, Duration) {
        let (now, steady) = self.tools.caller.clock().both();
        (now, steady.since(Timestamp::ZERO))
    }

    fn history(&self) -> History {
        self.tools.door.events().history().clone()
    }

    fn budgets(&self) -> Vec<(Bytes, Bytes)> {
        self.ledger.budgets()
    }

    fn keep_budget(&self, name: Bytes, record: Option<Bytes>) -> Task<bool> {
        let ledger = self.ledger.clone();
        Box::pin(async move { ledger.keep(name, record).await })
    }

    fn suspensions(&self) -> Vec<(Bytes, Bytes)> {
        self.ledger.suspensions()
    }

    fn keep_suspension(&self, name: Bytes, record: Option<Bytes>) -> Task<bool> {
        let ledger = self.ledger.clone();
        Box::pin(async move { ledger.keep_suspension(name, record).await })
    }

    fn holds(&self, credential: &str, stream: &str, kind: StreamKind) -> bool {
        self.tools.door.harm().holds(credential, stream, kind)
    }

    fn why_held(&self, id: QueueId) -> Option<String> {
        let waiting = self.tools.queue.waiting_one(id).filter(|waiting| !waiting.held)?;
        self.tools.door.harm().why_held(&waiting.credential, &waiting.stream, waiting.kind)
    }

    fn end_stops(&self) {
        self.tools.stops.end_all();
    }

    fn warmup_frozen(&self, source: &str, provider: &str) {
        let detail =
            "no marketing mail goes there for the rest of the day and all of the next; `traffic warmup` shows it";
        let subject = format!("{source} at {provider}");
        self.tools.door.alarms().event(alarm::Cause::WarmupFrozen, &subject, detail, self.now());
    }

    fn mail_hosts(&self, domain: Domain) -> Task<Found<Arc<[Host]>>> {
        let (dns, now) = (self.dns.clone(), self.now());
        Box::pin(async move { dns.mail_hosts(&domain, now).await })
    }

    fn host(&self, name: Arc<str>, port: u16) -> Task<Found<Host>> {
        let (dns, now) = (self.dns.clone(), self.now());
        Box::pin(async move { dns.host(&name, port, now).await })
    }

    fn connect(
        &self,
        plan: Plan,
        orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<(ConnectionId, Event)>,
    ) -> Task<()> {
        Box::pin(crate::delivery::run(plan, orders, events, Arc::clone(&self.tools)))
    }

    fn end(&self, id: QueueId, end: End) -> Task<bool> {
        let (tools, now) = (Arc::clone(&self.tools), self.now());
        Box::pin(async move {
            // An error was logged by the queue, which holds or postpones what it cannot read.
            let Ok(Some(lease)) = tools.queue.lease(id).await else { return false };
            let settling = match end {
                End::Failed(outcome) => {
                    let attempt = attempt(lease.progress(), Verdict::Failed(outcome), now);
                    tools.door.conclude(lease, attempt, now).await
                }
                // Deferred past the longest age is expired, and the bounce then says what stood in the way. What a peer
                // said to an attempt of its own says more.
                End::Expired(Some(outcome)) if now >= lease.envelope().expires_at && is_untried(lease.progress()) => {
                    let attempt = attempt(lease.progress(), Verdict::Deferred(outcome), now);
                    tools.door.conclude(lease, attempt, now).await
                }
                End::Expired(_) => tools.door.expire(lease, now).await,
                End::Discarded => {
                    info!(queue_id = %id, "a route discards a message");
                    tools.door.delete(lease, now).await
                }
            };
            settling.written().await;
            true
        })
    }
}

fn is_untried(progress: &Progress) -> bool {
    progress.recipients.iter().all(|recipient| recipient.last.is_none())
}

/// One verdict for all who wait.
fn attempt(progress: &Progress, verdict: Verdict, now: Timestamp) -> Attempt {
    let pending = progress.recipients.iter().enumerate().filter(|(_, r)| r.state == RecipientState::Pending);
    Attempt {
        verdicts: pending.map(|(place, _)| (place, verdict.clone())).collect(),
        due: now,
        counts: false,
        uncertain: false,
        source: progress.source.clone(),
    }
}
