//! Listens, counts, and hands connections out to tasks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

use super::admission::{Admission, Full};
use super::budget::Budget;
use super::connection::Arrival;
use super::count::Counts;
use super::gate::Gate;
use super::penalty::Penalties;
use super::settings::{Listener, Settings};
use crate::clock::Clock;
use crate::credential::Credentials;
use crate::mail::Domain;
use crate::maillog::Maillog;
use crate::metrics::{Metric, Page};
use crate::smtp::answer::Answer;
use crate::smtp::session::{Mode, Terms};
use crate::tls::server::ServerTls;

/// Connections that the kernel holds for us until we take them.
const BACKLOG: u32 = 1024;
/// Pause after a failed accept, which is nearly always for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything that the config says about this room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Our name.
    pub hostname: Domain,
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// Limits and times.
    pub settings: Settings,
}

/// Why listening cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refuses the address.
    #[error("cannot listen on {bind}: {error}")]
    Bind {
        /// Which.
        bind: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
    /// Implicit TLS without a certificate.
    #[error("a listener on {bind} in mode submissions needs a certificate: set certificate and private_key in [tls]")]
    NoCertificate {
        /// Which.
        bind: SocketAddr,
    },
}

/// What all connections share.
pub(super) struct Shared<G> {
    pub(super) gate: G,
    pub(super) credentials: Credentials,
    pub(super) clock: Arc<Clock>,
    pub(super) budget: Budget,
    pub(super) penalties: Penalties,
    pub(super) counts: Arc<Counts>,
    pub(super) maillog: Maillog,
    admission: Arc<Admission>,
    tls: Option<ServerTls>,
}

/// What the connections of one listener share until the next reload.
pub(super) struct Post {
    pub(super) listener: Listener,
    pub(super) terms: Arc<Terms>,
    pub(super) settings: Settings,
    pub(super) tls: Option<ServerTls>,
}

/// A bound listener and what it is told.
struct Bound {
    address: SocketAddr,
    post: Arc<ArcSwap<Post>>,
}

/// The listening side. Dropping it stops accepting; connections live on.
pub struct Server<G: Gate> {
    shared: Arc<Shared<G>>,
    bound: Vec<Bound>,
    waiting: Vec<TcpListener>,
    stop: watch::Sender<bool>,
    /// Every loop and connection holds a sender: when all are gone, everybody is.
    everybody: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

impl<G: Gate> Server<G> {
    /// Binds all addresses. Nothing is accepted before [`Server::start`].
    ///
    /// # Errors
    /// See [`StartError`]; then nothing stays bound.
    pub fn bind(
        plan: Plan,
        tls: Option<ServerTls>,
        credentials: Credentials,
        gate: G,
        clock: Arc<Clock>,
    ) -> Result<Server<G>, StartError> {
        let (mut bound, mut waiting) = (Vec::new(), Vec::new());
        for listener in &plan.listeners {
            let bind = listener.bind;
            if listener.mode == Mode::Submissions && tls.is_none() {
                return Err(StartError::NoCertificate { bind });
            }
            let socket = listen(bind).map_err(|error| StartError::Bind { bind, error })?;
            let address = socket.local_addr().map_err(|error| StartError::Bind { bind, error })?;
            let post = Arc::new(ArcSwap::from_pointee(post(&plan, listener, tls.clone())));
            bound.push(Bound { address, post });
            waiting.push(socket);
        }
        // One message of full size must fit, with what is read of it at once.
        let least = plan.settings.limits.message_size_max + (2 << 20);
        let budget = plan.settings.body_memory_max.as_usize().max(least);
        let maillog = gate.maillog();
        let shared = Shared {
            gate,
            credentials,
            clock,
            budget: Budget::new(budget),
            penalties: Penalties::default(),
            counts: Arc::default(),
            maillog,
            admission: Arc::default(),
            tls,
        };
        let (stop, _) = watch::channel(false);
        Ok(Server { shared: Arc::new(shared), bound, waiting, stop, everybody: mpsc::channel(1) })
    }

    /// Where clients can connect: the listeners in their order, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.address).collect()
    }

    /// For metrics; outlives the server.
    pub fn meter(&self) -> Meter {
        Meter { counts: Arc::clone(&self.shared.counts), budget: self.shared.budget.clone() }
    }

    /// Begins to accept. The runtime must be running.
    pub fn start(&mut self) {
        for (listener, bound) in self.waiting.drain(..).zip(&self.bound) {
            let accepting = Accepting {
                shared: self.shared.clone(),
                listener,
                post: bound.post.clone(),
                stop: self.stop.subscribe(),
                everybody: self.everybody.0.clone(),
            };
            tokio::spawn(accepting.run());
        }
    }

    /// Follows a changed config: connections made from now on are held to it. Gives what can be changed only by a
    /// restart, in sentences.
    pub fn reload(&self, plan: &Plan) -> Vec<String> {
        let mut unchanged = Vec::new();
        let mut wanted: Vec<&Listener> = plan.listeners.iter().collect();
        for bound in &self.bound {
            let old = bound.post.load();
            let same = |listener: &&Listener| (listener.bind, listener.mode) == (old.listener.bind, old.listener.mode);
            match wanted.iter().position(same) {
                Some(at) => {
                    let listener = wanted.remove(at);
                    bound.post.store(Arc::new(post(plan, listener, self.shared.tls.clone())));
                }
                None => unchanged.push(format!("the listener on {} stays until a restart", old.listener.bind)),
            }
        }
        unchanged.extend(wanted.iter().map(|new| format!("the listener on {} needs a restart", new.bind)));
        unchanged
    }

    /// Stops accepting, lets clients finish the transaction they are in, and tells the rest 421. True if all were gone
    /// in time; what is left ends with the runtime.
    pub async fn drain(mut self, within: Duration) -> bool {
        let _ = self.stop.send(true);
        self.waiting.clear();
        self.shared.admission.drain();
        let (sender, mut receiver) = self.everybody;
        drop(sender);
        tokio::time::timeout(within, receiver.recv()).await.is_ok()
    }
}

/// Tells what the server counts. Cheap to clone.
#[derive(Clone)]
pub struct Meter {
    counts: Arc<Counts>,
    budget: Budget,
}

impl Meter {
    /// Puts all on a page of metrics.
    pub fn write(&self, page: &mut Page) {
        self.counts.write(page);
        let (used, all) = self.budget.octets();
        page.count(Metric::BodyMemory, &[], used as u64);
        page.count(Metric::BodyMemoryLimit, &[], all as u64);
    }
}

fn post(plan: &Plan, listener: &Listener, tls: Option<ServerTls>) -> Post {
    let (hostname, origin) = (plan.hostname.clone(), plan.settings.origin.clone());
    let terms = Terms { hostname, origin, mode: listener.mode, limits: plan.settings.limits };
    Post { listener: listener.clone(), terms: Arc::new(terms), settings: plan.settings.clone(), tls }
}

fn listen(bind: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(bind)?;
    socket.listen(BACKLOG)
}

/// One listener's loop.
struct Accepting<G: Gate> {
    shared: Arc<Shared<G>>,
    listener: TcpListener,
    post: Arc<ArcSwap<Post>>,
    stop: watch::Receiver<bool>,
    everybody: mpsc::Sender<()>,
}

impl<G: Gate> Accepting<G> {
    async fn run(mut self) {
        loop {
            let accepted = tokio::select! {
                biased;
                // An error means that the server was dropped.
                _ = self.stop.changed() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => self.admit(stream, client),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Never waits: one slow client must not keep others out.
    fn admit(&self, stream: TcpStream, client: SocketAddr) {
        let post = self.post.load_full();
        let settings = &post.settings;
        let per_client = match post.listener.trusts(client.ip()) {
            true => None,
            false => Some(settings.connections_per_client_max),
        };
        let entered = self.shared.admission.enter(client.ip(), per_client, settings.connections_max);
        let (ticket, drain) = match entered {
            Ok(entered) => entered,
            Err(full) => {
                self.shared.counts.turned_away(full);
                return turn_away(&post, &stream, client, full);
            }
        };
        self.shared.counts.admitted(post.terms.mode);
        let open = self.shared.counts.open.hold();
        let arrival = Arrival { shared: self.shared.clone(), post, stream, client, ticket, drain };
        let everybody = self.everybody.clone();
        tokio::spawn(async move {
            arrival.serve().await;
            drop((everybody, open));
        });
    }
}

fn turn_away(post: &Post, stream: &TcpStream, client: SocketAddr, full: Full) {
    match full {
        Full::All => tracing::warn!(%client, "connections_max is reached: client turned away"),
        Full::Client => tracing::info!(%client, "connections_per_client_max is reached: client turned away"),
    }
    if post.terms.mode != Mode::Submissions {
        let mut line = Vec::new();
        let text = format!("{} Error: too many connections", post.terms.hostname);
        Answer::new(421, "4.7.0", text).write(&mut line);
        // It fits the empty socket buffer, or the client learns by the close alone.
        let _ = stream.try_write(&line);
    }
}
