//! All numbers for Prometheus: on the control socket, and on a TCP address of their own where nothing else is offered.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::{Api, Scrape};

/// The media type of the text format, by which Prometheus 3 chooses its parser.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Connections at once. A scraper needs one.
const CONNECTIONS_MAX: usize = 16;
/// A connection ends after so long, whatever it does: a slow one must not keep the scraper out. Scrapers connect again.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Wait after a failed accept: no descriptors are left, and asking again at once would find none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// `GET /metrics` on the control socket.
pub(super) async fn show(State(api): State<Api>) -> impl IntoResponse {
    page(&api.scrape).await
}

/// Offers `/metrics`, and nothing else, on a TCP listener until `stop`. Whoever can connect can read: the numbers name
/// streams, sources and MX hosts, never an address or a message.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    scrape: Scrape,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    offer(Bounded { listener, room, time: CONNECTION_TIME }, scrape, stop).await
}

async fn offer(bounded: Bounded, scrape: Scrape, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let show = |State(scrape): State<Scrape>| async move { page(&scrape).await };
    let absent = || async { (StatusCode::NOT_FOUND, "only /metrics is here\n") };
    let router = Router::new().route("/metrics", get(show)).fallback(absent).with_state(scrape);
    axum::serve(bounded, router).with_graceful_shutdown(stop).await
}

async fn page(scrape: &Scrape) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], scrape().await.text())
}

/// A listener that has a few connections at once, each for a short time.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    time: Duration,
}

impl Listener for Bounded {
    type Io = Brief;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Brief, SocketAddr) {
        loop {
            // Nobody closes the semaphore.
            let room = Arc::clone(&self.room).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, client)) => {
                    let end = Box::pin(tokio::time::sleep(self.time));
                    return (Brief { stream, end, _room: room }, client);
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the metrics was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
struct Brief {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Brief {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Brief {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.is_over(cx) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Pin::new(&mut self.stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Brief {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.is_over(cx) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::metrics::{Metric, Page};

    async fn serving(time: Duration) -> (SocketAddr, tokio::sync::oneshot::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scrape: Scrape = Arc::new(|| {
            let mut page = Page::default();
            page.count(Metric::QueuePastAge, &[], 0);
            Box::pin(async move { page })
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let bounded = Bounded { listener, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)), time };
        tokio::spawn(offer(bounded, scrape, async move { drop(stopped.await) }));
        (address, stop)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_page_and_nothing_else_is_offered() {
        let (address, _stop) = serving(CONNECTION_TIME).await;
        let answer = ask(address, "GET /metrics").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(body.ends_with("\npostrider_queue_past_age_envelopes 0\n"), "{body}");
        for (request, status) in [("GET /v1/queue", "404"), ("GET /", "404"), ("POST /metrics", "405")] {
            let answer = ask(address, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_the_scraper_out() {
        let (address, _stop) = serving(Duration::from_millis(50)).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answered = tokio::time::timeout(Duration::from_secs(20), ask(address, "GET /metrics")).await;
        assert!(answered.expect("their time is over").starts_with("HTTP/1.1 200"));
        for mut stream in silent {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
        }
    }
}
