//! The clerk of the engine: one task that owns it, tells it what happens, and does what it orders.
//!
//! ```text
//!   queue ──► inbox ─┐                              ┌─► connections (delivery)
//!   connections ─────┼─► facts ─► Engine ─► orders ─┼─► look-ups (dns, routes)
//!   look-ups, http ──┘                              └─► ends (the door)
//! ```
//! It knows the names for the engine's handles, the peers' last words, and nothing else: what goes when is the
//! engine's decision. Started by `app`, which also hands `http` closures that ask it through its [`Handle`].

mod accounts;
mod clerk;
mod explain;
mod listing;
mod names;
mod recent;
mod resolve;
mod settings;
mod suspend;
mod warmup;
mod world;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::mail::{Domain, QueueId};
use crate::metrics::count::{Histogram, STEP_BOUNDS};
use crate::metrics::{Gauge, Metric, Page};
use crate::queue::{Change, Waiting};
use crate::traffic::WarmupOrder;

use clerk::Clerk;
pub use listing::Which;
pub use settings::{DomainRule, Hop, NamedLimits, Origin, Pool, Route, RouteWay, Settings, SiteRule, WarmupRule};
use suspend::Said;
pub use suspend::Scope;
pub use world::{End, Found, Live, Task, World};

/// Questions and orders that wait for the scheduler; more senders wait themselves.
const COMMANDS_MAX: usize = 64;

/// What the queue announced and the scheduler did not take yet. Its bound is the queue's: an envelope stands here only
/// if its state just changed.
struct Inbox {
    changes: Mutex<Vec<Change>>,
    filled: Notify,
    /// How long the engine's steps took.
    steps: Histogram,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { changes: Mutex::default(), filled: Notify::new(), steps: Histogram::new(STEP_BOUNDS) }
    }
}

impl Inbox {
    fn push(&self, change: Change) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = changes.is_empty();
        changes.push(change);
        drop(changes);
        if was_empty {
            self.filled.notify_one();
        }
    }

    fn swap(&self, taken: &mut Vec<Change>) {
        std::mem::swap(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner), taken);
    }
}

/// Rows of the queue, one after the other.
pub type Rows = Box<dyn Iterator<Item = Waiting> + Send>;
/// All rows; of those that are not meant, `None`: whoever takes some bounds how many are looked at.
pub type Meant = Box<dyn Iterator<Item = Option<Waiting>> + Send>;

/// What others ask of the scheduler.
enum Command {
    Why(QueueId, oneshot::Sender<Value>),
    Sites(Which, Arc<str>, oneshot::Sender<Value>),
    Gauges(oneshot::Sender<Vec<Gauge>>),
    Stranded(Vec<QueueId>, oneshot::Sender<Vec<QueueId>>),
    SiteDomains(String, oneshot::Sender<Option<Vec<Domain>>>),
    Pools(oneshot::Sender<Vec<String>>),
    Reload(Box<Settings>),
    Sources(oneshot::Sender<Value>),
    Explain(Arc<str>, Said<Value>),
    Warmups(oneshot::Sender<Value>),
    Warmup(Arc<str>, Option<Arc<str>>, WarmupOrder, Said),
    Suspend(Scope, Option<Duration>, Arc<str>, Said),
    Resume(Scope, Arc<str>, Said),
    Probe(oneshot::Sender<()>),
    TellAgain(Meant),
    LetGo(Rows),
    Stop(Duration, oneshot::Sender<usize>),
}

/// The way to the scheduler. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    inbox: Arc<Inbox>,
}

impl Handle {
    /// Where the queue announces its changes, before and while the scheduler runs. Never blocks.
    pub fn sink(&self) -> Arc<dyn Fn(Change) + Send + Sync> {
        let inbox = Arc::clone(&self.inbox);
        Arc::new(move |change| inbox.push(change))
    }

    /// Why an envelope waits: an array of `{kind, text, cause, until}`, the binding constraint first. Empty: it is not
    /// known here.
    pub async fn why(&self, id: QueueId) -> Value {
        self.ask(|answer| Command::Why(id, answer)).await.unwrap_or_else(|| Value::Array(Vec::new()))
    }

    /// Sites whose name, provider or a host contains a text, the one in most trouble first; ten thousand at most.
    pub async fn sites(&self, which: Which, filter: &str) -> Value {
        self.ask(|answer| Command::Sites(which, filter.into(), answer))
            .await
            .unwrap_or_else(|| Value::Array(Vec::new()))
    }

    /// Puts what the clerk counts, and what it and the engine tell of now, on a page of metrics.
    pub async fn write(&self, page: &mut Page) {
        page.histogram(Metric::EngineStep, &[], &self.inbox.steps.read());
        page.gauges(self.ask(Command::Gauges).await.unwrap_or_default());
    }

    /// Which of these envelopes, none of them held, nothing would ever happen to: see [`Engine::is_stranded`]. None, until
    /// all that waited at the start was taken in.
    ///
    /// [`Engine::is_stranded`]: crate::traffic::Engine::is_stranded
    pub async fn stranded(&self, ids: Vec<QueueId>) -> Vec<QueueId> {
        self.ask(|answer| Command::Stranded(ids, answer)).await.unwrap_or_default()
    }

    /// The domains that mail waits for and whose hosts are a site's, by the site's name in listings. `None`: there is no
    /// such site now.
    pub async fn site_domains(&self, site: String) -> Option<Vec<Domain>> {
        self.ask(|answer| Command::SiteDomains(site, answer)).await.flatten()
    }

    /// The names of the pools in the config.
    pub async fn pools(&self) -> Vec<String> {
        self.ask(Command::Pools).await.unwrap_or_default()
    }

    /// Replaces sources, pools, routes, sites and limits. Connections stay; no more than is allowed now are made.
    pub async fn reload(&self, settings: Settings) {
        // A scheduler that has stopped needs no settings.
        let _ = self.commands.send(Command::Reload(Box::new(settings))).await;
    }

    /// Each source: address, state, pools, connections, queue.
    pub async fn sources(&self) -> Value {
        self.ask(Command::Sources).await.unwrap_or_else(|| Value::Array(Vec::new()))
    }

    /// Every limit of a site with the place that it comes from. By a rule's name, a host, or a recipient domain, whose
    /// hosts are then looked up.
    ///
    /// # Errors
    /// A sentence: there is no such site.
    pub async fn explain(&self, site: &str) -> Result<Value, String> {
        self.ask(|answer| Command::Explain(site.into(), answer)).await.unwrap_or_else(stopped)
    }

    /// Sends nothing more to a site or over a source, for this time or until resumed, over restarts too. Says what is so
    /// now.
    ///
    /// # Errors
    /// A sentence: there is no such site or source, or it could not be written down.
    pub async fn suspend(&self, scope: Scope, within: Option<Duration>, by: &str) -> Result<String, String> {
        self.ask(|answer| Command::Suspend(scope, within, by.into(), answer)).await.unwrap_or_else(stopped)
    }

    /// The ladders of warming sources.
    pub async fn warmups(&self) -> Value {
        self.ask(Command::Warmups).await.unwrap_or_default()
    }

    /// Orders a warming source's ladder at a provider, or at all where it is in use.
    ///
    /// # Errors
    /// A sentence: the source does not warm up, or nothing is known of the provider.
    pub async fn warmup(&self, source: &str, provider: Option<&str>, order: WarmupOrder) -> Result<String, String> {
        let (source, provider) = (source.into(), provider.map(Into::into));
        self.ask(|answer| Command::Warmup(source, provider, order, answer)).await.unwrap_or_else(stopped)
    }

    /// These envelopes' sender was paused, or goes on: they are held or let go, bit by bit.
    pub async fn tell_again(&self, rows: Meant) {
        // A scheduler that has stopped holds nothing.
        let _ = self.commands.send(Command::TellAgain(rows)).await;
    }

    /// Lets envelopes go although their sender is paused: its tenth. They are looked at as they are told.
    pub async fn let_go(&self, rows: Rows) {
        let _ = self.commands.send(Command::LetGo(rows)).await;
    }

    /// Tries sites that refused at once, instead of after their pause: an operator orders mail to be tried now. When it
    /// returns, no pause and no stop of a sending domain puts off what is ordered next.
    pub async fn probe(&self) {
        // A scheduler that has stopped tries nothing.
        let _ = self.ask(Command::Probe).await;
    }

    /// Undoes [`Handle::suspend`]; of a site, for single sources there too.
    ///
    /// # Errors
    /// A sentence: it is not suspended, or that could not be written down.
    pub async fn resume(&self, scope: Scope, by: &str) -> Result<String, String> {
        self.ask(|answer| Command::Resume(scope, by.into(), answer)).await.unwrap_or_else(stopped)
    }

    /// Sends nothing more, waits until all connections have ended, `within` at most, and then drops the rest. Returns
    /// how many were dropped: what was past its final dot on these settles as uncertain.
    pub async fn stop(&self, within: Duration) -> usize {
        self.ask(|answer| Command::Stop(within, answer)).await.unwrap_or(0)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

fn stopped<T>() -> Result<T, String> {
    Err("the daemon is stopping".to_owned())
}

/// A scheduler that does not run yet.
pub struct Scheduler<W> {
    settings: Settings,
    world: Arc<W>,
    handle: Handle,
    commands: mpsc::Receiver<Command>,
}

impl<W: World> Scheduler<W> {
    /// With these settings, in this world. Its [`Handle::sink`] is to be set in the queue before it runs.
    pub fn new(settings: Settings, world: W) -> Scheduler<W> {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let handle = Handle { commands: sender, inbox: Arc::new(Inbox::default()) };
        Scheduler { settings, world: Arc::new(world), handle, commands }
    }

    /// The way to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes in what waits already, and then works until it is stopped.
    pub async fn run(self, waiting: impl Iterator<Item = Waiting> + Send) {
        Clerk::new(self.settings, self.world, Arc::clone(&self.handle.inbox)).run(self.commands, waiting).await;
    }
}
