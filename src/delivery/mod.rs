//! Delivery: one connection to one peer, and the transactions on it.
//!
//! `scheduler` starts a connection by its [`Plan`] and tells it by [`Order`]s what to send. It leases an envelope and
//! reads its body from the queue, and gives the lease to the door when the attempt is over; it never puts, lists or
//! changes mail otherwise, and never decides what goes next.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::accept::Door;
use crate::classify::{Observation, Rules};
use crate::mail::{Cause, Domain, Outcome, QueueId, ReturnPath};
use crate::queue::Queue;
use crate::signer::Signer;
use crate::time::Timestamp;
use crate::tls::client::Client;

pub use crate::classify::{Feedback, Signal};
pub use crate::dns::Host;

pub use connect::Caller;
pub use settings::Settings;
pub use slots::SlotLimits;
pub use stops::Stops;

use connect::NotMade;
use past::Past;
use remark::Remark;
use serve::{Line, closing, serve};

mod attempt;
mod clear_text;
mod connect;
mod letter;
mod past;
mod private;
mod remark;
mod serve;
mod session;
mod settings;
mod slots;
mod stops;
#[cfg(test)]
mod testing;
mod transact;

/// The number of a connection, never used twice in one run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

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

impl TlsPolicy {
    /// As the config writes it.
    pub fn name(self) -> &'static str {
        match self {
            TlsPolicy::Opportunistic => "opportunistic",
            TlsPolicy::Require => "require",
            TlsPolicy::Verify => "verify",
            TlsPolicy::Implicit => "implicit",
            TlsPolicy::None => "none",
        }
    }
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

/// Certificates that are believed at some hosts.
#[derive(Clone)]
pub struct Trust {
    /// The file that they stand in: what tells two of these apart.
    pub file: Arc<str>,
    /// TLS with them.
    pub client: Client,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Trust) -> bool {
        self.file == other.file
    }
}

impl Eq for Trust {}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.file).finish()
    }
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
    /// Whose certificates are believed; `None`: as everywhere.
    pub trust: Option<Trust>,
    /// Whose return path it takes.
    pub return_path: ReturnPath,
    /// Loopback and private peers may be connected to.
    pub allow_private: bool,
    /// How many connections there may be to one address, those made for other sites included.
    pub slots: SlotLimits,
    /// The site whose limits govern it, as history and metrics name it.
    pub site: Arc<str>,
    /// Who runs the hosts; `other` for the many.
    pub provider: Arc<str>,
    /// The recipient domain for which it is first made (for logs).
    pub domain: Domain,
}

impl Plan {
    /// The port of one of its hosts.
    fn port_of(&self, name: &str) -> u16 {
        self.hosts.iter().find(|host| &*host.name == name).map_or(0, |host| host.port)
    }
}

/// What the scheduler tells a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Attempt this envelope.
    Send {
        /// Which.
        id: QueueId,
        /// RCPTs at most; the others stay due.
        recipients_max: u16,
    },
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
        /// Its address and port.
        address: SocketAddr,
        /// RFC 9422 MAILMAX, if the peer gave one.
        transactions_max: Option<u32>,
    },
    /// No host was asked: all connections that there may be to its addresses are in use for other sites. Ends with `Eof`.
    Crowded {
        /// One of these addresses.
        place: SocketAddr,
        /// What `why` shows.
        outcome: Outcome,
    },
    /// No host took us. Ends with `Eof`.
    Refused {
        /// The last outcome: what `why` shows.
        outcome: Outcome,
        /// What it asks of the engine.
        signal: Signal,
    },
    /// MAIL FROM of this envelope is on the wire. It has occupied its windows since the grant; now the peer may have
    /// counted it, and its place is no longer given back.
    MailWritten(QueueId),
    /// The envelope was settled (written to the spool).
    Settled {
        /// Which.
        id: QueueId,
        /// `None`: it has its final state. Else it is due again then.
        due: Option<Timestamp>,
        /// What its answers say about the source at this site, and ask of the engine.
        signal: Signal,
        /// The peer's words, if they ask something of the source.
        words: Option<Box<Words>>,
    },
    /// Nothing was said, and it was settled: its sending domain is stopped at this site, or recipients of it are suppressed
    /// by now.
    Postponed {
        /// Which.
        id: QueueId,
        /// As of [`Event::Settled`].
        due: Option<Timestamp>,
    },
    /// It could not be leased (gone, held, unreadable): nothing was sent.
    Skipped(QueueId),
    /// The connection was gone before the peer answered anything about it (an idle peer closed): nothing was attempted
    /// or written, and it can go over another connection at once.
    Returned(QueueId),
    /// The peer closed, or we did and the peer's EOF came (or 30 s passed): the slot is free.
    Eof,
}

/// What a peer said about the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words {
    /// The answer that asks for more than the others, or the end of the connection.
    pub outcome: Outcome,
    /// The name of the rule that it falls under; empty: none.
    pub rule: Box<str>,
}

/// What every connection works with. One for the whole process.
pub struct Tools {
    /// Leases and bodies.
    pub queue: Queue,
    /// Where attempts are concluded.
    pub door: Door,
    /// DKIM.
    pub signer: Signer,
    /// Timeouts, TLS towards peers, the clock.
    pub caller: Caller,
    /// What replies mean; exchanged at a reload.
    pub rules: ArcSwap<Rules>,
    /// Sending domains that sites do not want for now.
    pub stops: Stops,
}

/// Makes a connection by its plan and carries out orders on it until it ends. Events go out under the plan's number;
/// the last is [`Event::Eof`], always, unless the receiver is gone. A closed `orders` is [`Order::Close`].
///
/// An order may be sent ahead (before the last `Settled`): the next transaction's commands then overlap the settle.
/// Orders that were not begun when the connection ended come back as [`Event::Returned`].
pub async fn run(
    plan: Plan,
    mut orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<(ConnectionId, Event)>,
    tools: Arc<Tools>,
) {
    let line = Line::new(plan.id, events);
    let events = tools.door.events();
    let _open = events.connecting(&plan.source.name);
    let mut early = VecDeque::new();
    let mut past = Past::dialed(&plan, tools.door.events().history().clone());
    let connected = tokio::select! {
        connected = tools.caller.connect(&plan) => Some(connected),
        () = closing(&mut orders, &mut early) => None,
    };
    match connected {
        Some(Ok((mut session, _slot))) => {
            events.connected(&plan.source.name, session.peer.encrypted);
            past.connected(&session.peer);
            line.tell(Event::Connected {
                host: session.peer.host.clone(),
                address: session.peer.place,
                transactions_max: session.offered.transactions_max,
            })
            .await;
            let farewell = serve(&plan, &mut session, &mut early, &mut orders, &line, &tools).await;
            turn_away(&mut orders, &mut early, &line).await;
            past.deliveries = session.transactions;
            session.close(farewell, tools.caller.settings().close_timeout).await;
        }
        Some(Err(NotMade::Crowded(place, outcome))) => line.tell(Event::Crowded { place, outcome }).await,
        Some(Err(NotMade::Refused(outcome))) => {
            past.refused = outcome.cause.to_string();
            events.not_connected(&plan.site, &plan.source.name, &outcome, plan.port_of(&outcome.host));
            connect::alarm_if_ours(&tools, &plan, &outcome);
            line.tell(refused(outcome, &plan, &tools)).await;
        }
        None => {}
    }
    turn_away(&mut orders, &mut early, &line).await;
    // Before the scheduler hears of it: what it dials then stands behind this end.
    drop(past);
    line.tell(Event::Eof).await;
}

/// What a refusal, or a connection that could not be made, tells.
fn refused(outcome: Outcome, plan: &Plan, tools: &Tools) -> Event {
    let rules = tools.rules.load();
    let host = Some(&*outcome.host);
    let observation = Observation { stage: outcome.stage, cause: &outcome.cause, recipients_taken: 0, host };
    let meaning = rules.classify(&observation);
    let signal = meaning.signal;
    if matches!(outcome.cause, Cause::Reply(_)) {
        let rule = rules.name(signal.rule).unwrap_or_default().into();
        let remark = Remark { meaning, rule, outcome: outcome.clone(), replies: 1 };
        remark::pass_on_refusal(&remark, plan, tools);
    }
    Event::Refused { outcome, signal }
}

/// Gives back what was ordered and not begun.
async fn turn_away(orders: &mut mpsc::Receiver<Order>, early: &mut VecDeque<Order>, line: &Line) {
    orders.close();
    loop {
        let order = match early.pop_front() {
            Some(order) => order,
            None => match orders.recv().await {
                Some(order) => order,
                None => return,
            },
        };
        match order {
            Order::Send { id, .. } => line.tell(Event::Returned(id)).await,
            Order::Close => {}
        }
    }
}
