//! What a line says: texts that other people's programs take apart, so they are Postfix's to the letter. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::mail::{Cause, Outcome, QueueId, Stage};

/// One line, whatever a stranger said: no control characters, and not too long.
pub(super) fn safe(mut text: String, length_max: usize) -> String {
    if text.len() > length_max {
        let end = (0..=length_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    match text.chars().any(char::is_control) {
        true => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        false => text,
    }
}

/// `smtpd`: whose message an id is.
pub fn client(id: QueueId, peer: &str, login: Option<(&str, &str)>) -> String {
    match login {
        Some((mechanism, user)) => {
            format!("{id}: client={peer}, sasl_method={mechanism}, sasl_username={}", without_comma(user))
        }
        None => format!("{id}: client={peer}"),
    }
}

/// `qmgr`: an envelope that will be tried.
pub fn queued(id: QueueId, from: &str, size: u64, recipients: usize) -> String {
    format!("{id}: from=<{}>, size={size}, nrcpt={recipients} (queue active)", plain(from))
}

/// `qmgr`: an envelope that was too old.
pub fn expired(id: QueueId, from: &str) -> String {
    format!("{id}: from=<{}>, status=expired, returned to sender", plain(from))
}

/// Something that a client was refused.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// `RCPT`, `MAIL`, `DATA`, `END-OF-MESSAGE`.
    pub at: &'a str,
    pub code: u16,
    pub status: &'a str,
    pub text: &'a str,
    pub from: Option<&'a str>,
    pub to: Option<&'a str>,
    /// `SMTP` or `ESMTP`.
    pub protocol: &'a str,
    pub hello: &'a str,
}

/// `smtpd`: a refusal.
pub fn refused(peer: &str, said: &Said<'_>) -> String {
    let mut line = format!("NOQUEUE: reject: {} from {peer}: {} ", said.at, said.code);
    if !said.status.is_empty() {
        let _ = write!(line, "{} ", said.status);
    }
    let _ = write!(line, "{};", said.text.trim_end_matches(';'));
    if let Some(from) = said.from {
        let _ = write!(line, " from=<{}>", plain(from));
    }
    if let Some(to) = said.to {
        let _ = write!(line, " to=<{}>", plain(to));
    }
    let _ = write!(line, " proto={} helo=<{}>", said.protocol, plain(said.hello));
    line
}

/// `smtpd`: a session that ended badly. `how`: `lost connection`, `timeout`, `too many errors`,
/// `improper command pipelining`.
pub fn lost(how: &str, after: &str, octets: Option<u64>, peer: &str) -> String {
    match octets {
        Some(octets) => format!("{how} after {after} ({octets} bytes) from {peer}"),
        None => format!("{how} after {after} from {peer}"),
    }
}

/// `smtpd`: a session's end, with what it did: name, those that went well, all.
pub fn session_end(peer: &str, tallies: impl Iterator<Item = (&'static str, u32, u32)>) -> String {
    let mut line = format!("disconnect from {peer}");
    let (mut good, mut all) = (0_u32, 0_u32);
    let tell = |line: &mut String, name: &str, good: u32, all: u32| {
        let _ = match good == all && all > 0 {
            true => write!(line, " {name}={all}"),
            false => write!(line, " {name}={good}/{all}"),
        };
    };
    for (name, well, told) in tallies.filter(|(_, _, told)| *told > 0) {
        tell(&mut line, name, well, told);
        (good, all) = (good.saturating_add(well), all.saturating_add(told));
    }
    tell(&mut line, "commands", good, all);
    line
}

/// Where a message's time went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delays {
    /// Since it was accepted.
    pub all: Duration,
    /// The transaction itself. What is left was spent in the queue: connections are made before a message is theirs.
    pub transaction: Duration,
}

/// How a delivery's line ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    Sent,
    Deferred,
    Bounced,
}

impl Tail {
    fn name(self) -> &'static str {
        match self {
            Tail::Sent => "sent",
            Tail::Deferred => "deferred",
            Tail::Bounced => "bounced",
        }
    }
}

/// Where a delivery was tried. Absent: nowhere.
pub fn delivery(id: QueueId, to: &str, outcome: Option<&Outcome>, port: u16, delays: Delays, tail: Tail) -> String {
    let relay = outcome.filter(|o| !o.host.is_empty() && o.stage != Stage::Local);
    let mut line = format!("{id}: to=<{}>, relay=", plain(to));
    let _ = match relay {
        Some(o) => write!(line, "{}:{port}", host(&o.host, o.address)),
        None => write!(line, "none"),
    };
    let queue = delays.all.saturating_sub(delays.transaction);
    let _ = write!(line, ", delay={}, delays=0/{}/0/{}", short(delays.all), short(queue), short(delays.transaction));
    let status = outcome.map_or_else(|| "5.0.0".to_owned(), |o| o.cause.status().to_string());
    let _ = write!(line, ", dsn={status}, status={} ({})", tail.name(), reason(outcome, port, tail));
    line
}

fn reason(outcome: Option<&Outcome>, port: u16, tail: Tail) -> String {
    let Some(outcome) = outcome else { return "no attempt was made".to_owned() };
    let at = host(&outcome.host, outcome.address);
    match &outcome.cause {
        Cause::Reply(_) if tail == Tail::Sent => outcome.cause.to_string(),
        Cause::Reply(_) => match command(outcome.stage) {
            Some(command) => format!("host {at} said: {} (in reply to {command})", outcome.cause),
            None if outcome.host.is_empty() => outcome.cause.to_string(),
            None => format!("host {at} refused to talk to me: {}", outcome.cause),
        },
        Cause::Local { text, .. } if outcome.stage == Stage::Connect && !outcome.host.is_empty() => {
            format!("connect to {at}:{port}: {text}")
        }
        Cause::Local { text, .. } => text.to_string(),
    }
}

/// What a reply answered. `None`: the greeting.
fn command(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Mail => Some("MAIL FROM command"),
        Stage::Rcpt => Some("RCPT TO command"),
        Stage::Data => Some("DATA command"),
        Stage::FinalDot => Some("end of DATA command"),
        Stage::Hello => Some("EHLO command"),
        Stage::Tls => Some("STARTTLS command"),
        Stage::Auth => Some("AUTH command"),
        Stage::Resolve | Stage::Connect | Stage::Greeting | Stage::Local => None,
    }
}

fn host(name: &str, address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("{name}[{address}]"),
        None => name.to_owned(),
    }
}

/// Two significant digits, as Postfix has it; from 100 s on whole seconds.
fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.005 => "0".to_owned(),
        s if s < 1.0 => trimmed(format!("{s:.2}")),
        s if s < 10.0 => trimmed(format!("{s:.1}")),
        s => format!("{s:.0}"),
    }
}

/// Without zeros that say nothing.
fn trimmed(number: String) -> String {
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Within angle brackets nothing may end them.
fn plain(address: &str) -> String {
    match address.contains(['<', '>']) {
        true => address.replace(['<', '>'], "?"),
        false => address.to_owned(),
    }
}

fn without_comma(user: &str) -> String {
    user.replace([',', ' '], "?")
}
