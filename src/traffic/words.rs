//! What the engine is told, what it orders, and the handles in which both speak.
//!
//! The caller keeps the names: a handle is a small number that it gave to a name (a domain, a site …) and may give to
//! another once the engine said [`Order::Forget`]. `scheduler` is that caller.

use std::sync::Arc;
use std::time::Duration;

use super::limits::{Rate, SiteLimits};
use super::meter::Bound;
use super::warming::Warming;
use super::warmup::Because;
use crate::classify::Signal;
use crate::mail::{QueueId, StreamKind};
use crate::time::Timestamp;

/// The time by which the engine decides; the caller's, and never earlier than the one before.
pub type Now = Timestamp;

/// A recipient domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainHandle(pub u32);
/// One set of hosts, with one way of talking to them (TLS policy, login): what a connection may be reused within.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetHandle(pub u32);
/// Hosts that share limits: one target, or many by a `[[site]]` rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteHandle(pub u32);
/// A source: its place in [`Rules`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceHandle(pub u16);
/// An address and port of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PlaceHandle(pub u32);
/// A provider: whose reputation several sites share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ProviderHandle(pub u16);
/// A pool: its place in [`Rules::pools`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolHandle(pub u16);
/// A stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamHandle(pub u16);
/// A credential.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CredentialHandle(pub u32);
/// A connection, numbered by the engine and not used twice in one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionHandle(pub u32);

/// What the operator decided, for all sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Connections at once in all. Default 1,000. Sites that never took a message hold at most a quarter of them.
    pub total_connections: u32,
    /// How long an idle connection is kept for the next message. Default 4 seconds: long enough for the next of a
    /// series, shorter than any peer's patience.
    pub idle: Duration,
    /// DNS look-ups at once. Default 64.
    pub lookups: u32,
    /// Nothing is dialed before this: after an unclean end the peers may still hold the last run's connections.
    pub first_dial: Timestamp,
    /// The sources of each pool, by [`PoolHandle`].
    pub pools: Arc<[Box<[SourceHandle]>]>,
    /// How sources warm up, by [`SourceHandle`]; empty: none does.
    pub warming: Arc<[Option<Arc<Warming>>]>,
}

impl Default for Rules {
    fn default() -> Self {
        let pools: Vec<Box<[SourceHandle]>> = vec![Box::new([SourceHandle(0)])];
        Rules {
            total_connections: 1000,
            idle: Duration::from_secs(4),
            lookups: 64,
            first_dial: Timestamp::ZERO,
            pools: pools.into(),
            warming: Arc::default(),
        }
    }
}

/// An envelope that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put {
    /// Its name.
    pub id: QueueId,
    /// Where it goes.
    pub domain: DomainHandle,
    /// On whose behalf.
    pub credential: CredentialHandle,
    /// Its stream.
    pub stream: StreamHandle,
    /// Whose sources carry it.
    pub pool: PoolHandle,
    /// Stay with this source, if it is one of the pool's (greylisting).
    pub source: Option<SourceHandle>,
    /// The stream's kind.
    pub kind: StreamKind,
    /// 0 to 100; higher goes first.
    pub priority: u8,
    /// The recipient opened or clicked lately: before others of the same kind and priority.
    pub engaged: bool,
    /// What it costs in the credential's turn.
    pub recipients: u16,
    /// Not before this.
    pub due: Timestamp,
    /// Never after this, see [`super::Engine`].
    pub expires_at: Timestamp,
    /// Not at all.
    pub held: bool,
}

/// Why a domain has no hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unresolved {
    /// Ask again, not before this.
    Later(Timestamp),
    /// It takes no mail (null MX, no such domain): what waits fails. Believed until then.
    Never(Timestamp),
}

/// What an operator wants of sources and sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operator {
    /// No new connections and no further messages over this source.
    SuspendSource(SourceHandle),
    /// Undoes it.
    ResumeSource(SourceHandle),
    /// No new connections and no further messages to this site over these sources; `None` is all of them. Replaces what
    /// was said of the site before, so that nothing resumes it. May be said before the engine knows the site.
    SuspendAt(SiteHandle, Box<[Option<SourceHandle>]>),
    /// An order to the ladder of a source at a provider.
    Warmup(SourceHandle, ProviderHandle, WarmupOrder),
    /// Ends the pauses of all sites that refused: mail was ordered to be tried now. The next refusal pauses as before.
    Probe,
}

/// What an operator wants of a ladder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WarmupOrder {
    /// Go to this stage, counted from 0, today.
    Set(u16),
    /// Go to the next stage, today.
    Skip,
    /// Keep the stage however well days go.
    Hold,
    /// Climb again, and end a freeze.
    Resume,
}

/// What happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact {
    /// An envelope waits, or what was said of it before changed.
    Put(Put),
    /// An envelope has its final state by another's hand.
    Gone(QueueId),
    /// A domain's hosts are these.
    Resolved {
        /// Which.
        domain: DomainHandle,
        /// Its hosts.
        target: TargetHandle,
        /// Whose limits they share.
        site: SiteHandle,
        /// Whose reputation counts there.
        provider: ProviderHandle,
        /// Those limits.
        limits: Arc<SiteLimits>,
        /// Limits that the domain has for itself beside its site's: messages and recipients by time.
        own: Option<Arc<SiteLimits>>,
        /// What was kept of the windows of this site and this domain over a restart; believed if they are new here.
        kept: Box<[Kept]>,
        /// Ask again after this.
        until: Timestamp,
    },
    /// A domain's hosts are not to be had.
    Unresolved(DomainHandle, Unresolved),
    /// A peer is ready for transactions.
    Connected {
        /// Which.
        connection: ConnectionHandle,
        /// The most that it said to take (RFC 9422 MAILMAX).
        deliveries_max: Option<u32>,
    },
    /// A connection goes to this address; `Connected` follows.
    Arrived(ConnectionHandle, PlaceHandle),
    /// All connections that there may be to an address, this one among others, are in use; `Eof` follows.
    Crowded(ConnectionHandle, PlaceHandle),
    /// No host took us, and what that says about the source at the site; `Eof` follows.
    Refused(ConnectionHandle, Signal),
    /// MAIL FROM is on the wire.
    MailWritten(ConnectionHandle, QueueId),
    /// An attempt ended.
    Settled {
        /// Over which connection.
        connection: ConnectionHandle,
        /// Whose.
        id: QueueId,
        /// When it is due again; `None`: it has its final state.
        due: Option<Timestamp>,
        /// What this says about the source at the site.
        signal: Signal,
    },
    /// An envelope could not be leased.
    Skipped(ConnectionHandle, QueueId),
    /// A connection was gone before anything of this envelope was said.
    Returned(ConnectionHandle, QueueId),
    /// The slot is free.
    Eof(ConnectionHandle),
    /// An [`Order::Expire`] or [`Order::Fail`] was carried out, or could not be and is to be ordered again later.
    Ended(QueueId, Ending),
    /// What [`Order::Reserve`] asked for is durable; false: it could not be written, and is to be asked for again.
    Reserved(Account, bool),
    /// `now` has run ahead of the time that really passed since the start by so many milliseconds (behind it, if
    /// negative), since the system's clock was set. Windows go by the time that passed.
    Skewed(i64),
    /// New rules. Limits of sites come with the look-ups that this causes.
    Reload(Rules),
    /// An operator's order.
    Operator(Operator),
    /// Time passed.
    Tick,
}

/// What became of an order to end an envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It has its final state.
    Done,
    /// It could not be leased or written.
    Again,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Find a domain's hosts, and say `Resolved` or `Unresolved`.
    Resolve(DomainHandle),
    /// Connect, and say `Connected` or `Refused`, and in the end `Eof`.
    Dial {
        /// Its number from now on.
        connection: ConnectionHandle,
        /// From where.
        source: SourceHandle,
        /// Where to.
        target: TargetHandle,
        /// The domain whose mail it is first made for; for logs.
        domain: DomainHandle,
    },
    /// Attempt this envelope, and say `Settled`, `Skipped` or `Returned`.
    Send {
        /// Over which connection.
        connection: ConnectionHandle,
        /// Whose.
        id: QueueId,
        /// RCPTs at most; the other recipients stay due.
        recipients_max: u16,
    },
    /// Write [`super::Engine::record`] of it where it outlives a crash, and say `Reserved`.
    Reserve(Account),
    /// QUIT, and say `Eof` when the peer closed.
    Close(ConnectionHandle),
    /// Its longest age passed: end it, and say `Ended`.
    Expire(QueueId, DomainHandle),
    /// Its domain takes no mail: fail it, and say `Ended`.
    Fail(QueueId, DomainHandle),
    /// Say `Tick` at this time, unless another fact comes after it first.
    WakeAt(Timestamp),
    /// A provider blocked a source that warms up there, and its ladder is frozen: somebody should know.
    Frozen(SourceHandle, ProviderHandle),
    /// A handle is free to mean something else.
    Forget(Handle),
}

/// What windows count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unit {
    /// Transactions.
    Messages,
    /// RCPTs.
    Recipients,
    /// New connections.
    Connections,
    /// Nothing: the ladder of a source at a provider, or the source's total. Only written down, as [`Kept`].
    Warmup,
    /// Nothing: what a source learned at a site from the peer's refusals. Only written down, as [`Kept`].
    Lesson,
}

/// Whose windows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Holder {
    /// A site.
    Site(SiteHandle),
    /// A recipient domain with limits of its own.
    Domain(DomainHandle),
    /// A provider.
    Provider(ProviderHandle),
    /// All of them.
    All,
    /// A peer's address that several sites share. Nothing of it is written down.
    Place(PlaceHandle),
}

/// One unit of one holder, of one source or of all together: what is reserved and written down as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Account {
    /// Whose.
    pub holder: Holder,
    /// Of which source; `None`: of all together.
    pub source: Option<SourceHandle>,
    /// What is counted.
    pub unit: Unit,
}

/// What an earlier run wrote down of an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Of which.
    pub account: Account,
    /// As [`super::Engine::record`] gave it. What cannot be read is taken for full windows.
    pub bytes: Box<[u8]>,
}

/// A handle that the engine no longer holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Handle {
    /// A domain.
    Domain(DomainHandle),
    /// A target.
    Target(TargetHandle),
    /// A site.
    Site(SiteHandle),
    /// A peer's address.
    Place(PlaceHandle),
}

/// One reason why an envelope does not go now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constraint {
    /// An operator or a damaged body stopped it.
    Held,
    /// It is being attempted over this connection.
    Attempted(ConnectionHandle),
    /// It is being expired or failed.
    Ending,
    /// It was deferred, or is not to go before this.
    NotDue(Timestamp),
    /// The hosts of its domain are being looked up.
    Resolving(DomainHandle),
    /// They could not be; the next look-up is then.
    Unresolved(DomainHandle, Timestamp),
    /// Its pool has no source.
    NoSource(PoolHandle),
    /// This source is suspended.
    Suspended(SourceHandle),
    /// This source, or every one, is suspended at this site.
    SuspendedAt(SourceHandle, SiteHandle),
    /// The site refused this source; it is tried again then.
    Throttled(SourceHandle, SiteHandle, Timestamp),
    /// All connections that this source may have at the site are in use.
    Connections {
        /// The source.
        source: SourceHandle,
        /// The site.
        site: SiteHandle,
        /// In use, those on their way to EOF included.
        open: u16,
        /// Allowed now, by feedback.
        allowed: u16,
        /// The configured limit.
        limit: u16,
    },
    /// All connections that all sources together may have at the site are in use.
    SiteConnections {
        /// The site.
        site: SiteHandle,
        /// In use.
        open: u16,
        /// The limit.
        limit: u16,
    },
    /// A window is full, or what is left of it is being spread over its length; one more may go then.
    Window {
        /// Whose window, and of what.
        account: Account,
        /// The window.
        rate: Rate,
        /// Used of it now.
        used: u32,
        /// What binds.
        bound: Bound,
        /// When.
        until: Timestamp,
    },
    /// The site's replies taught that it takes no more than this by time; one more may go then.
    Slowed(SourceHandle, SiteHandle, Rate, Timestamp),
    /// The source warms up at the provider, and marketing mail has used its budget for now.
    Warmup {
        /// The source.
        source: SourceHandle,
        /// The provider.
        provider: ProviderHandle,
        /// Counted from 0.
        stage: u16,
        /// Messages of today that are charged to the budget.
        used: u32,
        /// Today's, for marketing mail.
        budget: u32,
        /// What binds.
        because: Because,
        /// Until then, if time alone ends it.
        until: Option<Timestamp>,
    },
    /// Allowance is being made durable: a moment.
    Reserving(Account),
    /// After an unclean end, until the peers have seen the old connections end.
    Settling(Timestamp),
    /// The last slot is kept for transactional mail.
    Reserved(SourceHandle, SiteHandle),
    /// All connections of the whole relay, or a quarter of them for sites that took nothing yet, are in use.
    TotalConnections(u32),
    /// A connection for it is being made.
    Dialing(SiteHandle),
    /// It is in line: so many are ready for the same hosts and pool, itself included.
    InLine(SiteHandle, u32),
}
