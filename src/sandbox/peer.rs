//! The catching peer: a small SMTP server with STARTTLS that takes everything and shows it.
//!
//! It shares no code with the daemon's own SMTP, so that one cannot hide the other's mistakes. Recipients `reject@…` and
//! `defer@…` get a 550 and a 451, to see what becomes of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::tls::server::{ServerTls, describe};

/// Longest command or text line, in octets.
const LINE_OCTETS_MAX: u64 = 64 * 1024;
/// Largest message, in octets.
const MESSAGE_OCTETS_MAX: usize = 200 * 1024 * 1024;
/// Longest silence of a client.
const IDLE: Duration = Duration::from_secs(300);
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 256;
/// Lines of dialogue kept for one message.
const DIALOGUE_LINES_MAX: usize = 2000;

/// A message as the peer got it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caught {
    /// What was said since the last message, each line with `C: ` or `S: ` before it, the message itself abridged.
    pub dialogue: Vec<String>,
    /// `TLSv1.3 with cipher …`, if under TLS.
    pub tls: Option<String>,
    /// As in MAIL FROM, without brackets.
    pub sender: String,
    /// As in RCPT TO, those that were taken.
    pub recipients: Vec<String>,
    /// Header block and body, dots unstuffed.
    pub message: Vec<u8>,
}

/// The peer's socket.
pub struct Peer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Peer {
    /// Binds a free port on loopback.
    ///
    /// # Errors
    /// There is none.
    pub async fn bind(tls: &ServerTls) -> io::Result<Peer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Peer { listener, acceptor: TlsAcceptor::from(tls.config()) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes connections until it is dropped; every message goes to `caught`, and is answered once there is room there.
    pub async fn run(self, caught: mpsc::Sender<Caught>) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (acceptor, caught) = (self.acceptor.clone(), caught.clone());
                    // A client that breaks off is its own business.
                    connections.spawn(async move { drop(connection(stream, acceptor, caught).await) });
                }
                Err(error) => {
                    tracing::warn!(%error, "the sandbox's peer cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, caught: mpsc::Sender<Caught>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut clear = Session::new(stream, caught.clone(), None);
    clear.reply("220 catcher.sandbox.example ESMTP").await?;
    match clear.converse().await? {
        End::Quit => Ok(()),
        End::StartTls => {
            let stream = acceptor.accept(clear.io.into_inner()).await?;
            let tls = Some(describe(stream.get_ref().1));
            let mut secure = Session::new(stream, caught, tls);
            secure.current.dialogue = clear.current.dialogue;
            secure.converse().await.map(drop)
        }
    }
}

enum End {
    Quit,
    StartTls,
}

struct Session<S> {
    io: BufReader<S>,
    caught: mpsc::Sender<Caught>,
    tls: Option<String>,
    current: Caught,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(stream: S, caught: mpsc::Sender<Caught>, tls: Option<String>) -> Session<S> {
        Session { io: BufReader::new(stream), caught, tls, current: Caught::default() }
    }

    async fn converse(&mut self) -> io::Result<End> {
        loop {
            let Some(line) = self.line().await? else { return Ok(End::Quit) };
            let command = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.note("C", &command);
            let (verb, argument) = command.split_once(' ').unwrap_or((&command, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => self.hello().await?,
                "HELO" => self.reply("250 catcher.sandbox.example").await?,
                "STARTTLS" if self.tls.is_none() => {
                    self.reply("220 2.0.0 go ahead").await?;
                    return Ok(End::StartTls);
                }
                "MAIL" => {
                    self.current.sender = path(argument);
                    self.current.recipients.clear();
                    self.reply("250 2.1.0 ok").await?;
                }
                "RCPT" => self.recipient(argument).await?,
                "DATA" if self.current.recipients.is_empty() => self.reply("554 5.5.1 no recipient was taken").await?,
                "DATA" => {
                    self.reply("354 go on").await?;
                    if self.message().await?.is_none() {
                        return Ok(End::Quit);
                    }
                }
                "RSET" => {
                    self.current.recipients.clear();
                    self.reply("250 2.0.0 ok").await?;
                }
                "NOOP" => self.reply("250 2.0.0 ok").await?,
                "QUIT" => {
                    self.reply("221 2.0.0 bye").await?;
                    return Ok(End::Quit);
                }
                _ => self.reply("500 5.5.2 not known here").await?,
            }
        }
    }

    async fn hello(&mut self) -> io::Result<()> {
        let mut features = vec!["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 209715200", "ENHANCEDSTATUSCODES"];
        if self.tls.is_none() {
            features.push("STARTTLS");
        }
        let mut reply = String::from("250-catcher.sandbox.example");
        for (index, feature) in features.iter().enumerate() {
            let mark = if index + 1 == features.len() { ' ' } else { '-' };
            reply += &format!("\r\n250{mark}{feature}");
        }
        self.reply(&reply).await
    }

    async fn recipient(&mut self, argument: &str) -> io::Result<()> {
        let recipient = path(argument);
        match recipient.split('@').next() {
            Some("reject") => self.reply("550 5.1.1 no such mailbox, as asked for by its name").await,
            Some("defer") => self.reply("451 4.7.1 come back later, as asked for by your name").await,
            _ => {
                self.current.recipients.push(recipient);
                self.reply("250 2.1.5 ok").await
            }
        }
    }

    /// Reads to the final dot, hands the message on, and answers. `None`: the client went away.
    async fn message(&mut self) -> io::Result<Option<()>> {
        let mut message = Vec::new();
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if line == b".\r\n" && (message.is_empty() || message.ends_with(b"\r\n")) {
                break;
            }
            let stuffed = line.starts_with(b".") && (message.is_empty() || message.ends_with(b"\r\n"));
            message.extend_from_slice(line.get(usize::from(stuffed)..).unwrap_or_default());
            if message.len() > MESSAGE_OCTETS_MAX {
                self.reply("552 5.3.4 too large").await?;
                return Ok(None);
            }
        }
        self.note("C", &format!("({} octets of message, and the final dot)", message.len()));
        let reply = "250 2.0.0 caught";
        self.note("S", reply);
        let dialogue = std::mem::take(&mut self.current.dialogue);
        let caught = Caught { dialogue, message, tls: self.tls.clone(), ..std::mem::take(&mut self.current) };
        if self.caught.send(caught).await.is_err() {
            self.send("451 4.3.2 nobody is watching any more").await?;
            return Ok(None);
        }
        self.send(reply).await.map(Some)
    }

    /// A line with its end. `None`: the connection ended, or the client fell silent.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.io).take(LINE_OCTETS_MAX);
        match tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await {
            Ok(read) => read.map(|octets| (octets > 0).then_some(line)),
            Err(_) => Ok(None),
        }
    }

    async fn reply(&mut self, reply: &str) -> io::Result<()> {
        for line in reply.split("\r\n") {
            self.note("S", line);
        }
        self.send(reply).await
    }

    async fn send(&mut self, reply: &str) -> io::Result<()> {
        self.io.write_all(format!("{reply}\r\n").as_bytes()).await?;
        self.io.flush().await
    }

    fn note(&mut self, side: &str, line: &str) {
        if self.current.dialogue.len() < DIALOGUE_LINES_MAX {
            self.current.dialogue.push(format!("{side}: {line}"));
        }
    }
}

/// What stands between the angle brackets.
fn path(argument: &str) -> String {
    let inner = argument.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or(argument, |(path, _)| path).to_owned()
}
