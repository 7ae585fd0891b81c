//! From a plan to an open session: which addresses, connect, greeting, EHLO, STARTTLS, AUTH.
//!
//! The next address is tried only after a failure of one of these. None of these failures concerns a recipient: a peer
//! that says 554 before MAIL refuses the source, not the mail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mail_send::{Credentials, SmtpClient};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::alarm;
use crate::clock::Clock;
use crate::mail::{Cause, EnhancedStatus, Outcome, Reply, Stage};
use crate::smtp::dialog::Capabilities;
use crate::tls::client::{Client, Proof};

use super::clear_text::ClearText;
use super::private::is_private;
use super::session::{Lost, Peer, Session, Stream};
use super::slots::{Slot, Slots};
use super::{Host, Plan, Settings, Source, TlsPolicy, Tools};

/// Makes connections. One for the whole process: it remembers which hosts have no usable TLS.
pub struct Caller {
    settings: Settings,
    tls: Client,
    clock: Arc<Clock>,
    clear_text: ClearText,
    slots: Slots,
}

/// Why there is no connection.
pub(super) enum NotMade {
    /// Every address has all the connections that it may have.
    Crowded(SocketAddr, Outcome),
    /// No address took us.
    Refused(Outcome),
}

/// One address of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    host: Arc<str>,
    address: SocketAddr,
}

/// Whether this try may use STARTTLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Secrecy {
    AsThePolicySays,
    /// TLS failed on every host, and the policy lets mail go in clear then.
    Clear,
}

/// Why an address did not take us.
struct Failed {
    stage: Stage,
    cause: Cause,
    /// It would perhaps have without TLS.
    by_tls: bool,
}

impl Failed {
    fn local(stage: Stage, status: EnhancedStatus, text: &str) -> Failed {
        Failed { stage, cause: Cause::local(status, text), by_tls: false }
    }

    /// RFC 3463 §3.4, X.4.5: system congestion.
    fn crowded(address: SocketAddr) -> Failed {
        let text =
            format!("all connections that there may be to {address} are in use, some of them by mail for other hosts");
        Failed::local(Stage::Connect, EnhancedStatus::new(4, 4, 5), &text)
    }

    fn lost(stage: Stage) -> impl FnOnce(Lost) -> Failed {
        move |lost| Failed { stage, cause: lost.cause(stage), by_tls: false }
    }

    fn reply(stage: Stage, reply: Reply) -> Failed {
        Failed { stage, cause: Cause::Reply(reply), by_tls: false }
    }
}

impl Caller {
    /// With nothing remembered.
    pub fn new(settings: Settings, tls: Client, clock: Arc<Clock>) -> Caller {
        let clear_text = ClearText::new(settings.clear_text_hosts_max, settings.clear_text_memory);
        Caller { settings, tls, clock, clear_text, slots: Slots::default() }
    }

    /// The timeouts and bounds.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Tries the plan's addresses until one takes us. The slot is to be held until the peer's EOF.
    pub(super) async fn connect(&self, plan: &Plan) -> Result<(Session<Stream>, Slot), NotMade> {
        let deadline = Instant::now() + self.settings.attempt_timeout;
        let targets = targets(plan, self.settings.addresses_max)
            .map_err(|failed| NotMade::Refused(self.outcome(None, failed)))?;
        let mut failures = Vec::with_capacity(targets.len());
        let mut crowded = None;
        for target in &targets {
            let Some(slot) = self.slots.take(&plan.source.name, target.address, plan.slots) else {
                crowded = Some(target);
                continue;
            };
            match self.reach(plan, target, Secrecy::AsThePolicySays, deadline).await {
                Ok(session) => return Ok((session, slot)),
                Err(failed) => {
                    tracing::debug!(host = %target.host, address = %target.address, stage = failed.stage.name(),
                        cause = %failed.cause, "not connected");
                    failures.push((target, failed));
                }
            }
        }
        // RFC 7435 §3: where encryption cannot be had from any host, clear text is better than no mail.
        if plan.tls == TlsPolicy::Opportunistic && plan.login.is_none() {
            let without_tls: Vec<&Target> =
                failures.iter().filter(|(_, failed)| failed.by_tls).map(|(target, _)| *target).collect();
            for target in without_tls {
                let Some(slot) = self.slots.take(&plan.source.name, target.address, plan.slots) else { continue };
                match self.reach(plan, target, Secrecy::Clear, deadline).await {
                    Ok(session) => {
                        self.clear_text.remember(&target.host, self.clock.now());
                        tracing::warn!(host = %target.host, address = %target.address,
                            "TLS fails with this host; its mail goes in clear for a day");
                        return Ok((session, slot));
                    }
                    Err(failed) => failures.push((target, failed)),
                }
            }
        }
        // A peer's words say more than our own finding; among equals the last. What is crowded is not refused: a backup that
        // fails then must not cost the site a pause.
        let spoken = failures.iter().rposition(|(_, failed)| matches!(failed.cause, Cause::Reply(_)));
        let chosen = spoken.unwrap_or(failures.len().saturating_sub(1));
        Err(match (failures.into_iter().nth(chosen), crowded.filter(|_| spoken.is_none())) {
            (Some((target, failed)), None) => NotMade::Refused(self.outcome(Some(target), failed)),
            (_, Some(target)) => {
                NotMade::Crowded(target.address, self.outcome(Some(target), Failed::crowded(target.address)))
            }
            // Invariant: `targets` is not empty.
            (None, None) => {
                let failed = Failed::local(Stage::Connect, EnhancedStatus::new(4, 4, 0), "no address");
                NotMade::Refused(self.outcome(None, failed))
            }
        })
    }

    fn outcome(&self, target: Option<&Target>, failed: Failed) -> Outcome {
        Outcome {
            at: self.clock.now(),
            stage: failed.stage,
            host: target.map_or("".into(), |target| (&*target.host).into()),
            address: target.map(|target| target.address.ip()),
            cause: failed.cause,
        }
    }

    /// One address, up to and with AUTH.
    async fn reach(
        &self,
        plan: &Plan,
        target: &Target,
        secrecy: Secrecy,
        deadline: Instant,
    ) -> Result<Session<Stream>, Failed> {
        let within = |limit: Duration| (Instant::now() + limit).min(deadline);
        let tcp = dial(&plan.source, target.address, within(self.settings.connect_timeout)).await?;
        let peer = Peer { host: target.host.clone(), place: target.address, encrypted: false };
        let mut session = match plan.tls {
            TlsPolicy::Implicit => self.encrypt(tcp, peer, Proof::Name, self.trusted(plan)).await?,
            TlsPolicy::Opportunistic | TlsPolicy::Require | TlsPolicy::Verify | TlsPolicy::None => {
                Session::new(Stream::Plain(tcp), peer)
            }
        };
        let lost = Failed::lost(Stage::Greeting);
        let greeting = session.reply(|| within(self.settings.greeting_timeout)).await.map_err(lost)?;
        if greeting.code != 220 {
            return Err(Failed::reply(Stage::Greeting, greeting));
        }
        self.hello(&mut session, &plan.source, deadline).await?;
        if !session.peer.encrypted {
            session = self.secure(plan, session, secrecy, deadline).await?;
        }
        if let Some((user, password)) = &plan.login {
            self.log_in(&mut session, &plan.source, user, password).await?;
        }
        Ok(session)
    }

    /// EHLO, or HELO where EHLO is not known (RFC 5321 §3.2).
    async fn hello(&self, session: &mut Session<Stream>, source: &Source, deadline: Instant) -> Result<(), Failed> {
        let by = (Instant::now() + self.settings.hello_timeout).min(deadline);
        let line = format!("EHLO {}\r\n", source.ehlo);
        super::session::write(&mut session.client.stream, line.as_bytes(), || by, Duration::MAX)
            .await
            .map_err(Failed::lost(Stage::Hello))?;
        let (reply, offered) = session
            .answer(|| by, |answer| (answer.reply(), Capabilities::parse(answer)))
            .await
            .map_err(Failed::lost(Stage::Hello))?;
        match reply.code {
            code if code / 100 == 2 => session.offered = offered,
            500 | 502 | 504 | 550 | 554 => {
                let line = format!("HELO {}\r\n", source.ehlo);
                let reply = session.command(&line, by).await.map_err(Failed::lost(Stage::Hello))?;
                if !reply.is_positive() {
                    return Err(Failed::reply(Stage::Hello, reply));
                }
                session.offered = Capabilities::default();
            }
            _ => return Err(Failed::reply(Stage::Hello, reply)),
        }
        Ok(())
    }

    /// STARTTLS, as the policy says.
    async fn secure(
        &self,
        plan: &Plan,
        mut session: Session<Stream>,
        secrecy: Secrecy,
        deadline: Instant,
    ) -> Result<Session<Stream>, Failed> {
        let proof = match plan.tls {
            TlsPolicy::None => return Ok(session),
            TlsPolicy::Opportunistic => {
                let known = || self.clear_text.knows(&session.peer.host, self.clock.now());
                let clear = secrecy == Secrecy::Clear || !session.offered.starttls || known();
                // A password is worth more than a message: with one, encryption is not a matter of opportunity.
                match (clear, plan.login.is_some()) {
                    (true, false) => return Ok(session),
                    (true, true) | (false, _) => Proof::None,
                }
            }
            TlsPolicy::Require => Proof::None,
            TlsPolicy::Verify | TlsPolicy::Implicit => Proof::Name,
        };
        if !session.offered.starttls {
            if plan.tls == TlsPolicy::Opportunistic && session.peer.place.ip().is_loopback() {
                return Ok(session);
            }
            let text = "the host does not offer STARTTLS, which the configuration requires";
            return Err(Failed::local(Stage::Tls, EnhancedStatus::new(4, 7, 10), text));
        }
        let by = (Instant::now() + self.settings.hello_timeout).min(deadline);
        let lost = |lost| Failed { by_tls: true, ..Failed::lost(Stage::Tls)(lost) };
        let reply = session.command("STARTTLS\r\n", by).await.map_err(lost)?;
        if reply.code != 220 {
            return Err(Failed { by_tls: true, ..Failed::reply(Stage::Tls, reply) });
        }
        // RFC 3207 §4.2, CVE-2021-38371: what somebody in the middle put behind the 220 would be taken for the words of
        // the encrypted peer.
        if session.reader.has_more() {
            let text = "the host sent more than its reply before TLS began: somebody may be in between";
            return Err(Failed::local(Stage::Tls, EnhancedStatus::new(4, 7, 0), text));
        }
        let Session { client, peer, .. } = session;
        let tcp = match client.stream {
            Stream::Plain(tcp) => tcp,
            // Invariant: only a plain stream comes here.
            Stream::Tls(_) => {
                return Err(Failed::local(Stage::Tls, EnhancedStatus::new(4, 3, 5), "TLS within TLS"));
            }
        };
        let mut session = self.encrypt(tcp, peer, proof, self.trusted(plan)).await?;
        // RFC 3207 §4.2: what was offered in clear is forgotten.
        self.hello(&mut session, &plan.source, deadline).await?;
        Ok(session)
    }

    /// Whose certificates count at these hosts.
    fn trusted<'a>(&'a self, plan: &'a Plan) -> &'a Client {
        plan.trust.as_ref().map_or(&self.tls, |trust| &trust.client)
    }

    /// The handshake.
    async fn encrypt(
        &self,
        tcp: TcpStream,
        peer: Peer,
        proof: Proof,
        trusted: &Client,
    ) -> Result<Session<Stream>, Failed> {
        let client = SmtpClient { stream: tcp, timeout: self.settings.tls_timeout };
        let peer = Peer { encrypted: true, ..peer };
        match client.into_tls(trusted.connector(proof), &peer.host).await {
            Ok(client) => Ok(Session::new(Stream::Tls(Box::new(client.stream)), peer)),
            Err(error) => {
                let text = format!("the TLS handshake failed: {error}");
                Err(Failed { by_tls: true, ..Failed::local(Stage::Tls, EnhancedStatus::new(4, 7, 5), &text) })
            }
        }
    }

    /// AUTH to a smarthost: PLAIN or LOGIN, so only where nobody can listen.
    async fn log_in(
        &self,
        session: &mut Session<Stream>,
        source: &Source,
        user: &str,
        password: &str,
    ) -> Result<(), Failed> {
        if !session.peer.encrypted && !session.peer.place.ip().is_loopback() {
            let text = "the host offers no TLS, and a password is not sent in clear";
            return Err(Failed::local(Stage::Auth, EnhancedStatus::new(4, 7, 10), text));
        }
        if !session.offered.auth_plain && !session.offered.auth_login {
            let text = "the host offers neither AUTH PLAIN nor AUTH LOGIN";
            return Err(Failed::local(Stage::Auth, EnhancedStatus::new(4, 7, 4), text));
        }
        let client = &mut session.client;
        client.timeout = self.settings.auth_timeout;
        let failed = |error: mail_send::Error| match error {
            mail_send::Error::AuthenticationFailed(reply) | mail_send::Error::UnexpectedReply(reply) => {
                let text = match reply.esc {
                    [0, ..] => reply.message,
                    [class, subject, detail] => format!("{class}.{subject}.{detail} {}", reply.message),
                };
                Failed::reply(Stage::Auth, Reply::new(reply.code, &text))
            }
            error => Failed::local(Stage::Auth, EnhancedStatus::new(4, 7, 0), &format!("AUTH failed: {error}")),
        };
        let offered = client.ehlo(&source.ehlo).await.map_err(failed)?;
        let credentials = Credentials::new(user, password);
        client.authenticate(&credentials, &offered).await.map_err(failed)?;
        Ok(())
    }
}

/// "System not capable of selected features" is the nearest that RFC 3463 §3.4 has for a source address that this machine
/// does not have, or a descriptor that it has no room for. No other finding at [`Stage::Connect`] has this status.
const SOURCE_UNUSABLE: EnhancedStatus = EnhancedStatus::new(4, 4, 3);

/// What only an operator can mend: a source that this machine does not have, a smarthost that refuses our password.
pub(super) fn alarm_if_ours(tools: &Tools, plan: &Plan, outcome: &Outcome) {
    if let Some((cause, subject)) = alarm_of(outcome, &plan.source) {
        tools.door.alarms().event(cause, subject, &outcome.cause.to_string(), outcome.at);
    }
}

/// The alarm, and what it concerns.
fn alarm_of<'a>(outcome: &'a Outcome, source: &'a Source) -> Option<(alarm::Cause, &'a str)> {
    match &outcome.cause {
        Cause::Local { status, .. } => {
            let is_ours = outcome.stage == Stage::Connect && *status == SOURCE_UNUSABLE;
            is_ours.then_some((alarm::Cause::SourceUnusable, &*source.name))
        }
        Cause::Reply(reply) => {
            let is_ours = outcome.stage == Stage::Auth && reply.code / 100 == 5;
            is_ours.then_some((alarm::Cause::AuthenticationRefused, &*outcome.host))
        }
    }
}

/// A socket from the plan's source to the address.
async fn dial(source: &Source, address: SocketAddr, by: Instant) -> Result<TcpStream, Failed> {
    let ours = |error: std::io::Error| {
        let text = format!("the source address {} cannot be used: {error}", source.address);
        Failed::local(Stage::Connect, SOURCE_UNUSABLE, &text)
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(ours)?;
    // Commands and messages are written whole: waiting for more would only delay them.
    socket.set_nodelay(true).map_err(ours)?;
    if !source.address.is_unspecified() {
        socket.bind(SocketAddr::new(source.address, 0)).map_err(ours)?;
    }
    match timeout_at(by, socket.connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Failed::local(Stage::Connect, EnhancedStatus::new(4, 4, 1), &error.to_string())),
        Err(_) => Err(Failed::local(Stage::Connect, EnhancedStatus::new(4, 4, 1), "no answer to the connect")),
    }
}

/// The addresses to try, in order: hosts by preference, those of one preference by turns, so that a host with many dead
/// addresses does not use up the tries of its equals.
fn targets(plan: &Plan, addresses_max: usize) -> Result<Vec<Target>, Failed> {
    let mut targets = Vec::with_capacity(addresses_max);
    let (mut other_family, mut private) = (false, false);
    for hosts in plan.hosts.chunk_by(|a, b| a.preference == b.preference) {
        // RFC 5321 §5.1: equal preferences are shuffled, and here for each connection, not for each look-up.
        let mut order: Vec<&Host> = hosts.iter().collect();
        fastrand::shuffle(&mut order);
        let longest = order.iter().map(|host| host.addresses.len()).max().unwrap_or(0);
        for turn in 0..longest {
            for host in &order {
                let Some(address) = host.addresses.get(turn) else { continue };
                if !has_family(plan.source.address, *address) {
                    other_family = true;
                } else if !plan.allow_private && is_private(*address) {
                    private = true;
                } else if targets.len() < addresses_max.max(1) {
                    targets.push(Target { host: host.name.clone(), address: SocketAddr::new(*address, host.port) });
                }
            }
        }
    }
    match (targets.is_empty(), private, other_family) {
        (false, _, _) => Ok(targets),
        (true, true, _) => {
            let text = "the domain's hosts have only private addresses, to which no mail is sent";
            Err(Failed::local(Stage::Connect, EnhancedStatus::new(5, 4, 4), text))
        }
        (true, false, true) => {
            let text = "no host has an address of the source's family";
            Err(Failed::local(Stage::Connect, EnhancedStatus::new(4, 4, 4), text))
        }
        (true, false, false) => {
            Err(Failed::local(Stage::Connect, EnhancedStatus::new(4, 4, 4), "no host has an address"))
        }
    }
}

/// Whether a source can reach an address: its own family; `::` is the kernel's choice of both, `0.0.0.0` of IPv4 alone,
/// since IPv6 without a PTR of its own is refused by the large providers.
fn has_family(source: IpAddr, address: IpAddr) -> bool {
    match source {
        IpAddr::V4(_) => address.is_ipv4(),
        IpAddr::V6(source) => address.is_ipv6() || (source.is_unspecified() && address != Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests;
