//! Where unsubscribe links lead: one-click unsubscribe (RFC 8058), and a page with a button for people.
//!
//! Started by `app`. The link's token says all, so there is nothing to look up and nothing to find out: whoever has no
//! valid token learns nothing. Only a POST changes anything, since scanners open every link of a message. What it asks for
//! is done by a closure of the roof; asked twice it is done twice, which is the same. No cookies, no redirects, no script.

mod answer;
mod page;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::tls::server::ServerTls;
use crate::token::{Keys, Link};

/// Connections at once. A proxy needs a few; without one, a newsletter's first minutes bring some hundred.
const CONNECTIONS_MAX: usize = 512;
/// A connection takes no further request after so long, whatever it does: a slow one must not keep others out.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// How long the request that is under way then may take.
const LAST_REQUEST_TIME: Duration = Duration::from_secs(10);
/// Longest wait for a request's header, and for a TLS handshake.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Longest request header: one that browsers and proxies make is a tenth of it. Unit: octets.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Wait after a failed accept: no descriptors are left, and asking again at once would find none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The wish could not be kept; the text is for the log. Whoever asked is told to try again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotKept(pub String);

/// Keeps a wish to hear no more; durable when it is done.
pub type Suppress = Arc<dyn Fn(Link) -> Pin<Box<dyn Future<Output = Result<(), NotKept>> + Send>> + Send + Sync>;
/// What time it is.
pub type Now = Arc<dyn Fn() -> crate::time::Timestamp + Send + Sync>;

/// What a reload may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What reads the tokens.
    pub keys: Keys,
    /// Who the page says the mail was from. Empty: nobody.
    pub sender: Box<str>,
}

/// The endpoint's handle. Cheap to clone.
#[derive(Clone)]
pub struct Unsubscribe {
    settings: Arc<ArcSwap<Settings>>,
    suppress: Suppress,
    now: Now,
}

impl Unsubscribe {
    /// Nothing is served yet.
    pub fn new(settings: Settings, suppress: Suppress, now: Now) -> Unsubscribe {
        Unsubscribe { settings: Arc::new(ArcSwap::from_pointee(settings)), suppress, now }
    }

    /// From the next request on.
    pub fn reload(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Answers on a listener until `stop`, with TLS if there is a certificate. What is under way then is dropped: a wish
    /// that was not answered is made again.
    ///
    /// # Errors
    /// Never, as long as the listener's socket lives.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<ServerTls>,
        stop: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            // Nobody closes the semaphore.
            let place = Arc::clone(&room).acquire_owned();
            let accepted = async {
                let place = place.await.ok();
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = &mut stop => return Ok(()),
                _ = connections.join_next(), if !connections.is_empty() => continue,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection to the unsubscribe page was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (endpoint, tls) = (self.clone(), tls.clone());
            connections.spawn(async move {
                let _place = place;
                endpoint.connection(stream, tls).await;
            });
        }
    }

    async fn connection(&self, stream: TcpStream, tls: Option<ServerTls>) {
        let Some(tls) = tls else { return self.requests(stream).await };
        match timeout(HEADER_TIME, TlsAcceptor::from(tls.config()).accept(stream)).await {
            Ok(Ok(stream)) => self.requests(stream).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake with the unsubscribe page failed"),
            Err(_) => {}
        }
    }

    async fn requests(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request).await) });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(HEADER_BYTES_MAX);
        let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = match timeout(CONNECTION_TIME, served.as_mut()).await {
            Ok(ended) => ended,
            Err(_) => {
                // A proxy's connection, on which a request may be under way: it is answered, and is the last.
                served.as_mut().graceful_shutdown();
                match timeout(LAST_REQUEST_TIME, served).await {
                    Ok(ended) => ended,
                    // Who is not done by then is gone, or plays for time.
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection to the unsubscribe page ended");
        }
    }
}

#[cfg(test)]
mod tests;
