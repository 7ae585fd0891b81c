//! The daemon's API: JSON over HTTP on a unix socket in the data directory. The command line is its client.
//!
//! Whoever can open the socket is an operator: the file's mode is the only password. Every listing is paged and every
//! body bounded. It decides nothing: it asks the queue, and asks the engine (through a closure) why mail waits.

mod metrics;
mod past;
mod queue;
pub mod shapes;
mod spool;
mod suppression;
mod traffic;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use crate::events::Events;
use crate::mail::{Domain, QueueId};
use crate::metrics::Page;
use crate::queue::{Lease, Listed, Queue, Settling};
use crate::suppression::Suppressions;

pub use metrics::serve as serve_metrics;

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Largest request body: a page of ids, with room to spare.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Longest path of a unix socket on Linux (unix(7)), without its final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Where the API is offered, and to whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket.
    pub socket: PathBuf,
    /// Permission bits of the socket.
    ///
    /// Unit: octal mode. Default 0600: root and the service's user. 0660 lets the service's group in.
    pub mode: u32,
}

impl Settings {
    /// The socket of this data directory.
    pub fn in_dir(data_dir: &Path) -> Settings {
        Settings { socket: data_dir.join(SOCKET_NAME), mode: 0o600 }
    }
}

/// Why an envelope waits: a JSON array of [`shapes::Constraint`], the binding one first. The engine's answer.
pub type Explain = Arc<dyn Fn(QueueId) -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// Returns an envelope to its sender: the door's `bounce`, which writes the DSN and the settle in one record.
pub type Bounce = Arc<dyn Fn(Lease) -> Pin<Box<dyn Future<Output = Settling> + Send>> + Send + Sync>;

/// Ends the pauses of sites that refused: mail was ordered to be tried now.
pub type Probe = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// All numbers of this moment.
pub type Scrape = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Page> + Send>> + Send + Sync>;
/// The domains whose mail goes to a site. `None`: no mail waits for a site of that name.
pub type SiteDomains = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Option<Vec<Domain>>> + Send>> + Send + Sync>;

/// The names of all pools.
pub type Pools = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<String>> + Send>> + Send + Sync>;

/// What is asked about sites and sources, and what is ordered of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Sites: an array of [`shapes::Site`].
    Sites(shapes::SitesSelect),
    /// All sources: an array of [`shapes::Source`].
    Sources,
    /// Where each value of a site comes from: [`shapes::Explained`].
    Explain(String),
    /// The ladders of warming sources: an array of [`shapes::Warmup`].
    Warmups,
    /// An order to a ladder. Answered by a sentence.
    Warmup(shapes::WarmupRequest),
    /// What was counted of senders in a span, and who is paused: [`shapes::Rates`].
    Rates(String),
    /// The end of a sender's pause. Answered by a sentence.
    ResumeSender(shapes::ResumeSender),
    /// A credential's mail is held, or goes on. Answered by a sentence.
    HoldCredential(shapes::HoldCredential),
    /// No mail to a site, over a source, or both. Answered by a sentence.
    Suspend(shapes::SuspendRequest),
    /// The end of that. Answered by a sentence.
    Resume(shapes::ResumeRequest),
}

/// Answers what is asked of traffic; the error is a sentence for people.
pub type Traffic = Arc<dyn Fn(Ask) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send>> + Send + Sync>;

/// What the API can ask.
#[derive(Clone)]
pub struct Api {
    /// The queue.
    pub queue: Queue,
    /// The counters.
    pub events: Events,
    /// Why an envelope waits.
    pub why: Explain,
    /// How an envelope is returned to its sender.
    pub bounce: Bounce,
    /// Tries sites at once.
    pub probe: Probe,
    /// The metrics.
    pub scrape: Scrape,
    /// Which domains are of a site.
    pub site_domains: SiteDomains,
    /// Which pools there are.
    pub pools: Pools,
    /// Sites and sources.
    pub traffic: Traffic,
    /// To whom nothing is sent.
    pub suppressions: Option<Suppressions>,
}

/// Offers the API until `stop`; answers what was asked by then.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(settings: Settings, api: Api, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let listener = bind(&settings).await?;
    let served = axum::serve(listener, router(api)).with_graceful_shutdown(stop).await;
    let _ = std::fs::remove_file(&settings.socket);
    served
}

/// A socket under its final name only once its mode is right; it takes the place of one that a crash left behind.
async fn bind(settings: &Settings) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let Settings { socket, mode } = settings;
    let temporary = socket.with_extension("new");
    if temporary.as_os_str().len() > SOCKET_PATH_MAX {
        let text = format!("{}: a socket's path has at most {SOCKET_PATH_MAX} bytes", socket.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if UnixStream::connect(socket).await.is_ok() {
        let text = format!("{}: another daemon answers there", socket.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(*mode))?;
    std::fs::rename(&temporary, socket)?;
    Ok(listener)
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/counters", get(counters))
        .route("/v1/queue", get(queue::list))
        .route("/v1/queue/{id}", get(queue::show))
        .route("/v1/queue/{id}/message", get(queue::message))
        .route("/v1/queue/orders/{order}", post(queue::order))
        .route("/v1/why/{id}", get(why))
        .route("/v1/sites", get(traffic::sites))
        .route("/v1/sites/explain", get(traffic::explain))
        .route("/v1/sources", get(traffic::sources))
        .route("/v1/warmups", get(traffic::warmups))
        .route("/v1/traffic/warmup", post(traffic::warmup))
        .route("/v1/traffic/suspend", post(traffic::suspend))
        .route("/v1/traffic/resume", post(traffic::resume))
        .route("/v1/rates", get(traffic::rates))
        .route("/v1/rates/resume", post(traffic::resume_sender))
        .route("/v1/credentials/hold", post(traffic::hold_credential))
        .route("/v1/reports", get(past::reports))
        .route("/v1/history", get(past::trace))
        .route("/v1/spool", get(spool::stats))
        .route("/v1/spool/backup", post(spool::backup))
        .route("/v1/suppression", get(suppression::page))
        .route("/v1/suppression/addresses/{address}", get(suppression::show))
        .route("/v1/suppression/add", post(suppression::add))
        .route("/v1/suppression/remove", post(suppression::remove))
        .route("/v1/suppression/import", get(suppression::import_progress).post(suppression::import))
        .route("/v1/suppression/stats", get(suppression::stats))
        .route("/metrics", get(metrics::show))
        .fallback(|| async { Refused(StatusCode::NOT_FOUND, "there is no such path".to_owned()) })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

/// An answer that is none: `{"error": "…"}`.
struct Refused(StatusCode, String);

impl Refused {
    fn unknown(id: QueueId) -> Refused {
        Refused(StatusCode::NOT_FOUND, format!("{id} is not in the queue: it has its final state, or never existed"))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn parse_id(text: &str) -> Result<QueueId, Refused> {
    text.parse().map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("{text:?}: {error}")))
}

async fn health(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "waiting": api.queue.len() }))
}

async fn counters(State(api): State<Api>) -> Json<Value> {
    let counters = serde_json::to_value(api.events.snapshot()).unwrap_or_default();
    Json(json!({ "waiting": api.queue.len(), "since_start": counters }))
}

async fn why(State(api): State<Api>, UrlPath(id): UrlPath<String>) -> Result<Json<Value>, Refused> {
    let id = parse_id(&id)?;
    let listed = api.queue.show(id).await.ok_or_else(|| Refused::unknown(id))?;
    let mut constraints = (api.why)(id).await;
    if listed.state == crate::queue::State::Scheduled {
        tell_scheduled(&mut constraints, &listed);
    }
    Ok(Json(json!({ "envelope": shapes::Envelope::of(&listed), "constraints": constraints })))
}

/// The engine knows that it is not due; whose wish that is stands in the envelope.
fn tell_scheduled(constraints: &mut Value, listed: &Listed) {
    let Some(binding) = constraints.get_mut(0).filter(|constraint| constraint["kind"] == "not_due") else { return };
    let until = listed.waiting.due.rfc3339();
    let put_off_by = listed.stored.as_ref().map_or("", |stored| &*stored.envelope.put_off_by);
    *binding = match put_off_by {
        "" => json!({
            "kind": "scheduled",
            "text": format!("it is scheduled: its sender wants it sent at {until}, not before; `queue retry` sends it now"),
            "until": until,
        }),
        by => json!({
            "kind": "quota",
            "text": format!("{by} has room for it at {until}; `queue retry` sends it now"),
            "cause": by,
            "until": until,
        }),
    };
}
