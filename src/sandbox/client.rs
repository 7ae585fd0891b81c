//! A mail client as applications have them: STARTTLS, AUTH PLAIN, one message after the other.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::samples::Sample;
use crate::tls::client::{Client as Tls, ClientError, Proof, Settings};

/// Longest reply that is read, in octets.
const REPLY_OCTETS_MAX: u64 = 64 * 1024;
/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why mail could not be handed in.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The relay said something else than expected.
    #[error("to {command}, the relay said: {reply}")]
    Refused {
        /// What was said to it.
        command: String,
        /// Its words.
        reply: String,
    },
    /// No connection, or it broke.
    #[error("the connection to the relay: {0}")]
    Connection(#[from] io::Error),
    /// The authority cannot be read.
    #[error(transparent)]
    Tls(#[from] ClientError),
}

/// A connection that may send.
pub struct Client {
    io: BufReader<TlsStream<TcpStream>>,
}

impl Client {
    /// Connects, and proves the relay's certificate and the credential.
    ///
    /// # Errors
    /// The relay does not answer as a submission server does.
    pub async fn connect(relay: SocketAddr, authority: &Path, user: &str, password: &str) -> Result<Client, SendError> {
        let tls = Tls::new(&Settings { extra_roots: Some(authority.to_owned()), ..Settings::default() })?;
        let stream = TcpStream::connect(relay).await?;
        stream.set_nodelay(true)?;
        let mut clear = BufReader::new(stream);
        expect(&mut clear, "the greeting", "220").await?;
        say(&mut clear, "EHLO client.sandbox.example", "250").await?;
        say(&mut clear, "STARTTLS", "220").await?;
        let name = ServerName::try_from("localhost").map_err(|error| io::Error::other(error.to_string()))?;
        let stream = tls.connector(Proof::Name).connect(name, clear.into_inner()).await?;
        let mut io = BufReader::new(stream);
        say(&mut io, "EHLO client.sandbox.example", "250").await?;
        let secret = STANDARD.encode(format!("\0{user}\0{password}"));
        // The error must not repeat the password.
        let login = say(&mut io, &format!("AUTH PLAIN {secret}"), "235").await;
        match login {
            Err(SendError::Refused { reply, .. }) => {
                Err(SendError::Refused { command: "AUTH PLAIN".to_owned(), reply })
            }
            Err(other) => Err(other),
            Ok(_) => Ok(Client { io }),
        }
    }

    /// Hands one message in.
    ///
    /// # Errors
    /// It was refused.
    pub async fn send(&mut self, sample: &Sample) -> Result<(), SendError> {
        let body = if sample.is_eight_bit() { " BODY=8BITMIME" } else { "" };
        say(&mut self.io, &format!("MAIL FROM:<{}>{body}", sample.sender), "250").await?;
        say(&mut self.io, &format!("RCPT TO:<{}>", sample.recipient), "250").await?;
        say(&mut self.io, "DATA", "354").await?;
        self.io.write_all(&stuffed(&sample.message)).await?;
        self.io.flush().await?;
        expect(&mut self.io, "the message", "250").await.map(drop)
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// The relay does not.
    pub async fn quit(mut self) -> Result<(), SendError> {
        say(&mut self.io, "QUIT", "221").await.map(drop)
    }
}

/// The message with its dots doubled, and the final one (RFC 5321 §4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut BufReader<S>,
    command: &str,
    code: &str,
) -> Result<String, SendError> {
    io.write_all(format!("{command}\r\n").as_bytes()).await?;
    io.flush().await?;
    expect(io, command, code).await
}

async fn expect<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut BufReader<S>,
    command: &str,
    code: &str,
) -> Result<String, SendError> {
    let reply =
        tokio::time::timeout(PATIENCE, reply(io)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match reply.starts_with(code) {
        true => Ok(reply),
        false => Err(SendError::Refused { command: command.to_owned(), reply }),
    }
}

async fn reply<S: AsyncRead + Unpin>(io: &mut BufReader<S>) -> io::Result<String> {
    let mut limited = io.take(REPLY_OCTETS_MAX);
    let mut reply = String::new();
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let last = line.as_bytes().get(3) != Some(&b'-');
        reply += &line;
        if last {
            return Ok(reply.trim_end().to_owned());
        }
    }
}
