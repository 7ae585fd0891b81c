//! One open connection to a peer, and reading and writing on it within their times.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mail_send::SmtpClient;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use crate::mail::{Cause, EnhancedStatus, Reply, Stage};
use crate::smtp::dialog::Capabilities;
use crate::smtp::reply_reader::{Answer, ReplyError, ReplyReader};

/// What a connection runs over.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub host: Arc<str>,
    pub place: SocketAddr,
    pub encrypted: bool,
}

/// A connection past its greeting and EHLO.
pub(super) struct Session<T: AsyncRead + AsyncWrite> {
    pub client: SmtpClient<T>,
    pub reader: ReplyReader,
    pub offered: Capabilities,
    pub peer: Peer,
    /// Commands on their way out. Kept to save the allocation.
    pub out: Vec<u8>,
    /// An encoded message on its way out.
    pub message: Vec<u8>,
    /// RSET must come before the next MAIL.
    pub reset_first: bool,
    /// Transactions begun.
    pub transactions: u32,
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Farewell {
    /// We end it.
    Quit,
    /// It is broken, or the peer ends it.
    Gone,
}

/// How a connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer did not answer in time")]
    Timeout,
    #[error("the connection broke: {0}")]
    Broken(io::ErrorKind),
    #[error("{0}")]
    NotSmtp(#[from] ReplyError),
}

impl Lost {
    /// What is told of it: where it happened, and how.
    pub fn cause(self, stage: Stage) -> Cause {
        let status = match self {
            Lost::Closed | Lost::Timeout | Lost::Broken(_) => EnhancedStatus::new(4, 4, 2),
            Lost::NotSmtp(_) => EnhancedStatus::new(4, 5, 0),
        };
        Cause::local(status, &format!("{self} (at {})", stage.name()))
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Lost {
        match error.kind() {
            // TLS without close_notify, which most peers do not send.
            io::ErrorKind::UnexpectedEof => Lost::Closed,
            io::ErrorKind::TimedOut => Lost::Timeout,
            kind => Lost::Broken(kind),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Session<T> {
    /// Over a fresh stream; nothing was read or written yet.
    pub fn new(stream: T, peer: Peer) -> Session<T> {
        Session {
            // The timeout is for the few steps that mail-send itself takes (AUTH); it is set there.
            client: SmtpClient { stream, timeout: Duration::ZERO },
            reader: ReplyReader::default(),
            offered: Capabilities::default(),
            peer,
            out: Vec::new(),
            message: Vec::new(),
            reset_first: false,
            transactions: 0,
        }
    }

    /// The next reply. `by` is asked only if it is not here yet.
    pub async fn reply(&mut self, by: impl Fn() -> Instant) -> Result<Reply, Lost> {
        self.answer(by, |answer| answer.reply()).await
    }

    /// The next reply, in the form that `take` makes of it.
    pub async fn answer<R>(
        &mut self,
        by: impl Fn() -> Instant,
        take: impl FnOnce(&Answer<'_>) -> R,
    ) -> Result<R, Lost> {
        let mut until = None;
        loop {
            if let Some(answer) = self.reader.next_reply()? {
                return Ok(take(&answer));
            }
            match timeout_at(*until.get_or_insert_with(&by), self.client.stream.read_buf(self.reader.space())).await {
                Err(_) => return Err(Lost::Timeout),
                Ok(Ok(0)) => return Err(Lost::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Writes one command and waits for its reply.
    pub async fn command(&mut self, line: &str, by: Instant) -> Result<Reply, Lost> {
        write(&mut self.client.stream, line.as_bytes(), || by, Duration::MAX).await?;
        self.reply(|| by).await
    }

    /// Waits until the peer says or does anything. On an idle connection that is its end: a 421, or a close.
    ///
    /// # Cancel safety
    /// What was read stays in the reader.
    pub async fn unsolicited(&mut self) {
        if !self.reader.has_more() {
            let _ = self.client.stream.read_buf(self.reader.space()).await;
        }
    }

    /// Ends the connection: QUIT unless it is already ending (RFC 5321 §4.1.1.10), then waits for the peer's end, because
    /// the slot at the peer is free only then.
    pub async fn close(mut self, farewell: Farewell, wait: Duration) {
        let by = Instant::now() + wait;
        if farewell == Farewell::Quit {
            if write(&mut self.client.stream, b"QUIT\r\n", || by, wait).await.is_err() {
                return;
            }
            // After its 221 a peer closes; one that waits for us to close sees ours.
            let _ = self.reply(|| by).await;
        }
        let _ = timeout_at(by, self.client.stream.shutdown()).await;
        let mut rest = [0u8; 512];
        while let Ok(Ok(1..)) = timeout_at(by, self.client.stream.read(&mut rest)).await {}
    }
}

/// Writes it all, by a deadline, with some progress in every `block`.
pub(super) async fn write<T>(
    stream: &mut T,
    bytes: &[u8],
    by: impl FnOnce() -> Instant,
    block: Duration,
) -> Result<(), Lost>
where
    T: AsyncWrite + Unpin,
{
    let mut rest = bytes;
    // The usual socket takes it at once, and no clock is asked.
    let at_once = poll_fn(|cx| {
        while !rest.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, rest) {
                Poll::Pending => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Lost::Closed)),
                Poll::Ready(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        match Pin::new(&mut *stream).poll_flush(cx) {
            Poll::Pending => Poll::Ready(Ok(false)),
            Poll::Ready(flushed) => Poll::Ready(flushed.map(|()| true).map_err(Lost::from)),
        }
    });
    if at_once.await? {
        return Ok(());
    }
    let by = by();
    let until = || Instant::now().checked_add(block).map_or(by, |end| end.min(by));
    while !rest.is_empty() {
        match timeout_at(until(), stream.write(rest)).await {
            Err(_) => return Err(Lost::Timeout),
            Ok(Ok(0)) => return Err(Lost::Closed),
            Ok(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    timeout_at(until(), stream.flush()).await.map_err(|_| Lost::Timeout)?.map_err(Lost::from)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
