//! One client's connection: reads, writes and waits on behalf of a session.
//!
//! A connection that waits for a command holds no buffers: what is read lands in a buffer of the thread, and only what
//! a session could not use at once is kept. 2,000 idle TLS sessions are to cost 40 MiB at most.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::admission::Ticket;
use super::budget::Share;
use super::count::{LoginEnd, MessageEnd};
use super::gate::{Gate, GatePolicy, answer};
use super::io::Io;
use super::penalty::Failure;
use super::server::{Post, Shared};
use crate::accept::{Origin, Submission};
use crate::credential::VerifyError;
use crate::mail::Text;
use crate::maillog::{self, Said, Service};
use crate::smtp::answer::Answer;
use crate::smtp::auth::Login;
use crate::smtp::session::{Act, Denial, Link, Message, Mode, Security, Session, Verb};

/// What one read can bring. Unit: octets. One buffer a thread.
const SCRATCH_LENGTH: usize = 64 * 1024;
/// Buffers over this are freed when a client goes quiet. Unit: octets.
const IDLE_CAPACITY_MAX: usize = 1024;
/// After a farewell we read on for so long, and so much, so that the kernel does not throw away our last reply along
/// with what the client is still sending.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_OCTETS: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_LENGTH]);
    /// The buffer of a client that went quiet, for the next that does not: on a busy relay nearly every message would
    /// allocate and free one else. One a thread, no longer than [`SCRATCH_LENGTH`].
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why waiting for the client ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wake {
    Octets,
    /// It is gone.
    End,
    Timeout,
    /// The server is stopping.
    Drain,
}

/// What a connection is made of.
pub(super) struct Arrival<G: Gate> {
    pub(super) shared: Arc<Shared<G>>,
    pub(super) post: Arc<Post>,
    pub(super) stream: TcpStream,
    pub(super) client: SocketAddr,
    pub(super) ticket: Ticket,
    pub(super) drain: oneshot::Receiver<()>,
}

impl<G: Gate> Arrival<G> {
    /// Talks to the client until one of us has had enough.
    pub(super) async fn serve(self) {
        let client = self.client;
        match Connection::open(self).await {
            Ok(mut connection) => connection.run().await,
            Err(error) => tracing::debug!(%client, %error, "connection lost before the greeting"),
        }
    }
}

/// Who speaks in the classic log.
fn service(mode: Mode) -> Service {
    match mode {
        Mode::Smtp => Service::Smtpd,
        Mode::Submission => Service::Submission,
        Mode::Submissions => Service::Smtps,
    }
}

/// Where a dialogue stood, in the classic log's words: a message that was read to its end is refused behind it.
fn place(verb: Verb, has_sender: bool, has_recipient: bool) -> &'static str {
    match verb {
        Verb::Data | Verb::Bdat if has_sender && has_recipient => "END-OF-MESSAGE",
        other => other.name(),
    }
}

struct Connection<G: Gate> {
    shared: Arc<Shared<G>>,
    post: Arc<Post>,
    client: SocketAddr,
    io: Option<Io>,
    tls: Option<Text>,
    session: Session,
    /// Read and not yet used.
    input: Vec<u8>,
    /// Memory for the message being received.
    share: Share,
    drain: oneshot::Receiver<()>,
    draining: bool,
    deadline: Pin<Box<Sleep>>,
    /// When the present wait, for a command or a message, began.
    since: Instant,
    commands: u64,
    /// What was waited for last was a piece of a message.
    receiving: bool,
    login_failed: bool,
    /// Its name in the classic log.
    log: maillog::Session,
    _ticket: Ticket,
}

impl<G: Gate> Connection<G> {
    async fn open(arrival: Arrival<G>) -> io::Result<Connection<G>> {
        let Arrival { shared, post, stream, client, ticket, drain } = arrival;
        let log = shared.maillog.session(service(post.terms.mode));
        shared.maillog.write_of(log, || format!("connect from {}", maillog::peer(client.ip())));
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let loopback = [local, client].iter().all(|end| end.ip().to_canonical().is_loopback());
        let (io, tls, security) = match (&post.tls, post.terms.mode) {
            (Some(config), Mode::Submissions) => {
                let handshake = Box::pin(Io::secure(stream, config.config()));
                let (io, tls) = timeout(post.settings.handshake_timeout, handshake).await??;
                (io, Some(tls), Security::Tls)
            }
            // On this machine's own loopback nobody can listen in, and clients that upgrade whenever they can (Go,
            // nodemailer) would fail to verify a certificate that nobody vouches for.
            (Some(config), _) if !(loopback && config.is_self_signed()) => {
                (Io::Plain(stream), None, Security::Upgradable)
            }
            _ => (Io::Plain(stream), None, Security::Clear),
        };
        let link = Link { security, loopback, trusted: post.listener.trusts(client.ip()) };
        let mut session = Session::new(post.terms.clone(), link);
        if shared.maillog.is_on() {
            session.keep_refusals();
        }
        let since = Instant::now();
        let deadline = Box::pin(sleep_until(since + post.settings.command_timeout));
        let (input, share) = (Vec::new(), Share::default());
        let connection = Connection {
            shared,
            post,
            client,
            io: Some(io),
            tls: tls.map(Text::from),
            session,
            input,
            share,
            drain,
            draining: false,
            deadline,
            since,
            commands: 0,
            receiving: false,
            login_failed: false,
            log,
            _ticket: ticket,
        };
        Ok(connection)
    }

    async fn run(&mut self) {
        self.talk().await;
        if self.session.is_worn_out() {
            self.log_loss("too many errors");
        }
        self.shared.maillog.write_of(self.log, || {
            let tallies = self.session.tally().counts().map(|(verb, well, all)| (verb.word(), well, all));
            maillog::session_end(&maillog::peer(self.client.ip()), tallies)
        });
    }

    async fn talk(&mut self) {
        if self.talks_early().await {
            self.log_loss("improper command pipelining");
            tracing::debug!(client = %self.client, "client talked before the greeting");
            self.session.output().clear();
            self.session.end(&Answer::fixed(554, "5.5.0", "Error: wait for the greeting before you talk"));
        }
        loop {
            let act = self.advance().await;
            let outcome = match act {
                Act::Read => self.listen().await,
                Act::Flush => self.flush().await,
                Act::Verify(login) => {
                    self.verify(login).await;
                    Ok(())
                }
                Act::Accept(message) => {
                    self.accept(*message).await;
                    Ok(())
                }
                Act::StartTls => Box::pin(self.start_tls()).await,
                Act::Close => return self.farewell().await,
            };
            self.log_refusals();
            if let Err(error) = outcome {
                self.log_loss("lost connection");
                tracing::debug!(client = %self.client, %error, "connection lost");
                return;
            }
        }
    }

    /// Lets the session work on what was read.
    async fn advance(&mut self) -> Act {
        let need = self.session.body_need(self.input.len());
        if need > self.share.octets() {
            let wait = self.post.settings.body_memory_wait;
            match self.shared.budget.grow(&mut self.share, need, wait).await {
                Ok(()) => self.session.grant(self.share.octets()),
                Err(_) => {
                    self.shared.counts.no_memory.one();
                    tracing::warn!(client = %self.client, "no memory for a message: client told to try again");
                    self.session.forsake();
                    self.share = Share::default();
                }
            }
        }
        let policy = GatePolicy {
            gate: &self.shared.gate,
            credentials: &self.shared.credentials,
            clock: &self.shared.clock,
            suppressed: self.post.listener.suppressed,
            listener_stream: self.post.listener.stream.as_deref(),
        };
        let (used, act) = self.session.step(&self.input, &policy);
        self.shared.counts.refused_recipients(self.post.terms.mode, self.session.take_refused_recipients());
        match used >= self.input.len() {
            true => self.input.clear(),
            false => drop(self.input.drain(..used)),
        }
        if !self.session.holds_body() && self.share.octets() > 0 {
            self.share = Share::default();
        }
        act
    }

    /// Sends what there is to say, then waits for more.
    async fn listen(&mut self) -> io::Result<()> {
        self.flush().await?;
        if self.draining && self.session.is_idle() {
            return self.stop();
        }
        self.set_deadline();
        if self.session.is_idle() && self.input.is_empty() && self.input.capacity() > IDLE_CAPACITY_MAX {
            let quiet = std::mem::take(&mut self.input);
            SPARE.with_borrow_mut(|spare| {
                if (spare.capacity()..=SCRATCH_LENGTH).contains(&quiet.capacity()) {
                    *spare = quiet;
                }
            });
        }
        match self.read().await {
            Wake::Octets | Wake::Drain => Ok(()),
            Wake::End => Err(io::ErrorKind::UnexpectedEof.into()),
            Wake::Timeout => {
                self.log_loss("timeout");
                let text = format!("{} Error: timeout exceeded", self.post.terms.hostname);
                self.session.end(&Answer::new(421, "4.4.2", text));
                Ok(())
            }
        }
    }

    fn stop(&mut self) -> io::Result<()> {
        let text = format!("{} Service is stopping; try again soon", self.post.terms.hostname);
        self.session.end(&Answer::new(421, "4.3.2", text));
        Ok(())
    }

    /// A command has its time as a whole, not each piece of it; a message may last as long as it keeps its pace.
    fn set_deadline(&mut self) {
        let now = Instant::now();
        let settings = &self.post.settings;
        let (commands, receiving) = (self.session.commands(), self.session.receiving().is_some());
        // The time that a message took is not taken from the command behind it.
        if commands != self.commands || (self.receiving && !receiving) {
            (self.commands, self.since) = (commands, now);
        }
        self.receiving = receiving;
        let deadline = match self.session.receiving() {
            None => self.since + settings.command_timeout,
            Some(received) => {
                let earned = received.checked_div(settings.data_rate_min).map_or(Duration::MAX, Duration::from_secs);
                let pace = self.since.checked_add(settings.data_timeout.saturating_add(earned));
                let pause = now + settings.data_timeout;
                pace.map_or(pause, |pace| pace.min(pause))
            }
        };
        self.deadline.as_mut().reset(deadline);
    }

    /// # Cancel safety
    /// Nothing is lost: octets are taken from the stream only in the poll that ends it.
    async fn read(&mut self) -> Wake {
        poll_fn(|cx| {
            let Some(io) = &mut self.io else { return Poll::Ready(Wake::End) };
            if !self.draining && Pin::new(&mut self.drain).poll(cx).is_ready() {
                self.draining = true;
                return Poll::Ready(Wake::Drain);
            }
            let wake = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(io).poll_read(cx, &mut buffer) {
                    Poll::Pending => None,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        if self.input.is_empty() && self.input.capacity() < buffer.filled().len() {
                            SPARE.with_borrow_mut(|spare| self.input = std::mem::take(spare));
                        }
                        self.input.extend_from_slice(buffer.filled());
                        Some(Wake::Octets)
                    }
                    Poll::Ready(_) => Some(Wake::End),
                }
            });
            match wake {
                Some(wake) => Poll::Ready(wake),
                None => self.deadline.as_mut().poll(cx).map(|()| Wake::Timeout),
            }
        })
        .await
    }

    /// Writes all replies at once.
    async fn flush(&mut self) -> io::Result<()> {
        let out = self.session.output();
        if out.is_empty() {
            return Ok(());
        }
        let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        // The usual socket takes it at once, and no clock is asked.
        let at_once = poll_fn(|cx| match Pin::new(&mut *io).poll_write(cx, out) {
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => Poll::Ready(Ok(0)),
        });
        let rest = out.get(at_once.await?..).unwrap_or_default();
        if !rest.is_empty() || matches!(io, Io::Tls(_)) {
            // A client that does not read its replies has as much time as one that sends no commands.
            let until = Instant::now() + self.post.settings.command_timeout;
            timeout_at(until, io.write_all(rest)).await??;
            timeout_at(until, io.flush()).await??;
        }
        match out.capacity() > IDLE_CAPACITY_MAX {
            true => *out = Vec::new(),
            false => out.clear(),
        }
        Ok(())
    }

    async fn verify(&mut self, login: Login) {
        let outcome = self.shared.credentials.verify(&login.name, &login.secret).await;
        let (denial, end) = match outcome {
            Ok(name) => match self.shared.gate.why_suspended(&name) {
                None => {
                    self.shared.counts.login(LoginEnd::Accepted);
                    return self.session.verified(Ok(name));
                }
                Some(why) => {
                    tracing::info!(client = %self.client.ip(), credential = %name, "login refused: {why}");
                    (Denial::Suspended, LoginEnd::Suspended)
                }
            },
            Err(VerifyError::Busy) => (Denial::Busy, LoginEnd::Busy),
            Err(VerifyError::Rejected) => (Denial::Rejected, LoginEnd::Rejected),
        };
        self.shared.counts.login(end);
        if denial != Denial::Suspended {
            tracing::info!(client = %self.client.ip(), user = %login.name, reason = ?denial, "login failed");
        }
        self.shared.maillog.write_of(self.log, || {
            let (peer, mechanism) = (maillog::peer(self.client.ip()), self.session.mechanism().unwrap_or("PLAIN"));
            let reason = match denial {
                Denial::Rejected => "authentication failure",
                Denial::Suspended => "the credential is suspended",
                Denial::Busy => "Connection lost to authentication server",
            };
            let user = login.name.replace([',', ' '], "?");
            format!("warning: {peer}: SASL {mechanism} authentication failed: {reason}, sasl_username={user}")
        });
        if denial == Denial::Rejected {
            let failure = if self.login_failed { Failure::Another } else { Failure::FirstOfSession };
            self.login_failed = true;
            let (base, max) = (self.post.settings.login_failure_delay, self.post.settings.login_failure_delay_max);
            let wait = self.shared.penalties.note(self.client.ip(), failure, base, max);
            // Not while stopping: nobody guesses on at a closed door.
            if !wait.is_zero() && !self.draining {
                self.draining = timeout(wait, &mut self.drain).await.is_ok();
            }
        }
        self.session.verified(Err(denial));
    }

    async fn accept(&mut self, message: Message) {
        let post = &self.post;
        let origin = Origin {
            client: Some(self.client),
            hello: message.hello,
            protocol: message.protocol,
            tls: self.tls.clone(),
            credential: self.session.login().map(|name| Text::from(&**name)),
            from_anyone: post.terms.mode == Mode::Smtp && !post.listener.trusts(self.client.ip()),
            listener_stream: post.listener.stream.clone(),
            listener_control: post.listener.control,
            hide_client: post.listener.hide_client,
            session: self.shared.maillog.is_on().then(|| {
                let mechanism = self.session.login().and(self.session.mechanism());
                maillog::Session { mechanism, ..self.log }
            }),
            // RFC 6409 §8 is for submissions; what this machine's own programs say without a login is one too, and what a
            // trusted host says is not.
            fix_headers: self.session.login().is_some() || self.client.ip().to_canonical().is_loopback(),
        };
        let submission = Submission {
            origin,
            reverse_path: message.reverse_path,
            ret: message.ret,
            envid: message.envid,
            release_at: message.release_at,
            recipients: message.recipients,
            message: Bytes::from(message.body),
            received_at: self.shared.clock.now(),
        };
        // Boxed, so that an idle connection's task is small.
        let accepting = Box::pin(self.shared.gate.accept(submission));
        let outcome = accepting.await;
        let end = match &outcome {
            Ok(_) => MessageEnd::Accepted,
            Err(refusal) if refusal.code < 500 => MessageEnd::Deferred,
            Err(_) => MessageEnd::Refused,
        };
        self.shared.counts.message(self.post.terms.mode, end);
        let outcome = outcome.map_err(answer);
        self.session.accepted(outcome);
        self.share = Share::default();
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        // In clear, behind STARTTLS: whoever put it there wants it read as if said under TLS. The session saw what came
        // with the command; this is what came since.
        if !self.input.is_empty() || self.is_readable_now().await {
            self.session.output().clear();
            self.session.end(&Answer::fixed(554, "5.5.0", "Error: nothing may follow STARTTLS; closing"));
            return Ok(());
        }
        self.flush().await?;
        let (Some(Io::Plain(stream)), Some(tls)) = (self.io.take(), &self.post.tls) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let handshake = Io::secure(stream, tls.config());
        let (io, description) = timeout(self.post.settings.handshake_timeout, handshake).await??;
        (self.io, self.tls) = (Some(io), Some(description.into()));
        self.session.secured();
        Ok(())
    }

    /// Tells the classic log what the client was refused.
    fn log_refusals(&mut self) {
        for refusal in self.session.take_refusals() {
            self.shared.maillog.write_of(self.log, || {
                let hello = self.session.hello();
                let said = Said {
                    at: place(refusal.verb, refusal.from.is_some(), refusal.to.is_some()),
                    code: refusal.answer.code,
                    status: refusal.answer.status,
                    text: &refusal.answer.text,
                    from: refusal.from.as_deref(),
                    to: refusal.to.as_deref(),
                    protocol: if hello.is_some_and(|(_, extended)| extended) { "ESMTP" } else { "SMTP" },
                    hello: hello.map_or("", |(name, _)| name),
                };
                maillog::refused(&maillog::peer(self.client.ip()), &said)
            });
        }
    }

    /// Tells the classic log of a session that ended badly.
    fn log_loss(&self, how: &str) {
        self.shared.maillog.write_of(self.log, || {
            let octets = self.session.receiving();
            let after = match (octets, self.session.tally().last()) {
                (Some(_), Some(Verb::Bdat)) => "BDAT",
                (Some(_), _) => "DATA",
                (None, Some(verb)) => verb.name(),
                (None, None) => "CONNECT",
            };
            maillog::lost(how, after, octets, &maillog::peer(self.client.ip()))
        });
    }

    /// Whether the client says anything before we greet it.
    async fn talks_early(&mut self) -> bool {
        let wait = self.post.settings.greeting_delay;
        if wait.is_zero() {
            return self.is_readable_now().await;
        }
        self.deadline.as_mut().reset(Instant::now() + wait);
        self.read().await == Wake::Octets
    }

    /// Looks for octets that are there already.
    async fn is_readable_now(&mut self) -> bool {
        match &mut self.io {
            None => false,
            // Asked of the kernel: the runtime learns only later what came in with the connection.
            Some(Io::Plain(stream)) => {
                SockRef::from(&*stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|length| length > 0)
            }
            // Taken, not peeked at: whoever it is gets no answer to it.
            Some(Io::Tls(stream)) => {
                poll_fn(|cx| {
                    let mut octet = [0; 1];
                    let mut buffer = ReadBuf::new(&mut octet);
                    let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
                    Poll::Ready(matches!(read, Poll::Ready(Ok(()))) && !buffer.filled().is_empty())
                })
                .await
            }
        }
    }

    async fn farewell(&mut self) {
        if self.flush().await.is_err() {
            return;
        }
        let Some(io) = &mut self.io else { return };
        let until = Instant::now() + LINGER_TIME;
        let _ = timeout_at(until, async {
            io.shutdown().await?;
            let mut rest = io.take(LINGER_OCTETS as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        })
        .await;
    }
}
