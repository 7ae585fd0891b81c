//! The command line's side of the control socket: one request, one connection, one JSON answer.
//!
//! Used by the commands that ask a running daemon. It never reads the spool: what a daemon keeps, only it may change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::http::SOCKET_NAME;

/// Largest answer that is read: a page of the longest envelopes.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest wait for an ordinary answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// EX_UNAVAILABLE: no daemon runs.
pub const NO_DAEMON: u8 = 69;

/// Where the daemon is, and the config that says so.
#[derive(Clone, Copy, Debug)]
pub struct Daemon<'a> {
    /// Its data directory.
    pub data_dir: &'a Path,
    /// The config file that was read, for error texts.
    pub config: &'a Path,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon is running at {}: start it with `postrider serve`, or check data_dir in {}", .socket.display(), .config.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// The config.
        config: PathBuf,
    },
    /// Not for us.
    #[error("{}: permission denied: run this as root or as the service's user", .socket.display())]
    Forbidden {
        /// The socket.
        socket: PathBuf,
    },
    /// It said no, in its own words.
    #[error("{text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// One sentence.
        text: String,
    },
    /// It stopped in the middle, or does not speak our language.
    #[error("the daemon at {} did not answer: {reason}", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// A client of one daemon, for commands that are not async.
pub struct Client {
    socket: PathBuf,
    config: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Client {
    /// A client; nothing is connected yet.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new(daemon: Daemon<'_>) -> io::Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (socket, config) = (daemon.data_dir.join(SOCKET_NAME), daemon.config.to_owned());
        Ok(Client { socket, config, runtime })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.runtime.block_on(self.request(Method::GET, path, Bytes::new(), ANSWER_WITHIN))
    }

    /// As [`Client::ask`], for an answer that takes long.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask_within<T: DeserializeOwned>(&self, path: &str, within: Duration) -> Result<T, ClientError> {
        self.runtime.block_on(self.request(Method::GET, path, Bytes::new(), within))
    }

    /// Sends what comes in until it ends, and waits `within` for the answer. Meanwhile asks at every tick how far it is, and
    /// tells `so_far`. An error that comes in breaks the request off.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send_stream<T: DeserializeOwned, P: DeserializeOwned>(
        &self,
        path: &str,
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        within: Duration,
        (every, progress): (Duration, &str),
        mut so_far: impl FnMut(Option<P>),
    ) -> Result<T, ClientError> {
        self.runtime.block_on(async {
            let sending = async {
                let bytes = self.bytes(Method::POST, path, Chunks(chunks), within).await?;
                serde_json::from_slice(&bytes).map_err(|error| self.broken(&error))
            };
            let mut sending = std::pin::pin!(sending);
            let mut ticks = tokio::time::interval(every);
            loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => return sent,
                    _ = ticks.tick() => {}
                }
                let asking = self.request(Method::GET, progress, Bytes::new(), ANSWER_WITHIN);
                tokio::select! {
                    sent = &mut sending => return sent,
                    told = asking => so_far(told.ok()),
                }
            }
        })
    }

    /// Asks for octets.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask_octets(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let bytes = self.runtime.block_on(self.bytes(Method::GET, path, Full::default(), ANSWER_WITHIN))?;
        Ok(bytes.into())
    }

    /// Asks for a text.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask_text(&self, path: &str) -> Result<String, ClientError> {
        let bytes = self.runtime.block_on(self.bytes(Method::GET, path, Full::default(), ANSWER_WITHIN))?;
        String::from_utf8(bytes.into()).map_err(|error| self.broken(&error))
    }

    /// Tells it to do something; waits `within` for the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn tell<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        self.runtime.block_on(self.request(Method::POST, path, body.into(), within))
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, path, Full::new(body), within).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.broken(&error))
    }

    async fn bytes<B: SomeBody>(
        &self,
        method: Method,
        path: &str,
        body: B,
        within: Duration,
    ) -> Result<Bytes, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unconnected(&error))?;
        let answer = tokio::time::timeout(within, self.exchange(stream, method, path, body)).await;
        let (status, bytes) = answer.map_err(|_| self.broken(&format!("nothing in {} s", within.as_secs())))??;
        if status.is_success() {
            return Ok(bytes);
        }
        let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = said.get("error").and_then(|text| text.as_str()).unwrap_or(status.as_str()).to_owned();
        Err(ClientError::Refused { status: status.as_u16(), text })
    }

    async fn exchange<B: SomeBody>(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: B,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| self.broken(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = answer.status();
        let limited = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let bytes = limited.collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        driver.abort();
        Ok((status, bytes))
    }

    fn unconnected(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon { socket, config: self.config.clone() }
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket },
            _ => self.broken(error),
        }
    }

    fn broken(&self, reason: &dyn fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// What a request may carry.
trait SomeBody: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static {}
impl<B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static> SomeBody for B {}

/// A request's body that is still being made.
struct Chunks(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

/// The end of a command that asked the daemon: errors are printed, and scripts can tell a missing daemon by its code.
pub fn conclude(outcome: Result<ExitCode, ClientError>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("postrider: {error}");
        match error {
            ClientError::NoDaemon { .. } => ExitCode::from(NO_DAEMON),
            ClientError::Forbidden { .. } | ClientError::Refused { .. } | ClientError::Broken { .. } => {
                ExitCode::FAILURE
            }
        }
    })
}

/// A path with a query; values are escaped.
pub(super) fn path_with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (place, (name, value)) in query.iter().enumerate() {
        out.push(if place == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        let query = [("sender", "a+b&c@ü.example".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(path_with_query("/v1/queue", &query), "/v1/queue?sender=a%2Bb%26c%40%C3%BC.example&limit=5");
        assert_eq!(path_with_query("/v1/queue", &[]), "/v1/queue");
    }

    #[test]
    fn without_a_daemon_the_error_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(Daemon { data_dir: dir.path(), config: Path::new("/etc/p.toml") }).unwrap();
        let error = client.ask::<serde_json::Value>("/v1/health").unwrap_err();
        let want = format!(
            "no daemon is running at {}: start it with `postrider serve`, or check data_dir in /etc/p.toml",
            dir.path().join("control.sock").display()
        );
        assert_eq!(error.to_string(), want);
    }
}
