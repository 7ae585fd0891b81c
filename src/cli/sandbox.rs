//! `postrider sandbox`: the real daemon on loopback between a client and a peer that catches what is delivered.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Exit, Paint};
use crate::app;
use crate::clock::system_time;
use crate::config::Config;
use crate::sandbox::client::Client;
use crate::sandbox::samples::{self, Sample};
use crate::sandbox::stage::{DOMAIN, USER};
use crate::sandbox::{Caught, Peer, Stage, show};

/// Caught messages that wait to be shown; the peer answers its 250 only when there is room.
const CAUGHT_MAX: usize = 256;
/// Connections over which samples are sent.
const SENDERS_MAX: usize = 4;
/// Up to so many samples are shown in full, more in one line each.
const SHOWN_IN_FULL_MAX: usize = 5;
/// How long deliveries may stand still before the sandbox gives up on the rest.
const STANDSTILL: Duration = Duration::from_secs(30);
/// How long the daemon may take to end.
const FAREWELL: Duration = Duration::from_secs(15);
/// Missing and broken samples that are named.
const NAMED_MAX: usize = 10;

/// What `sandbox` is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Send N sample mails through, and end: 0 if all were delivered and verified.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    send: Option<u32>,
}

/// Runs the command.
///
/// # Errors
/// The sandbox could not be set up, or the daemon ended by itself.
pub fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(compose(arguments))
}

async fn compose(arguments: &Arguments) -> anyhow::Result<Exit> {
    let stage = Stage::build(&std::env::temp_dir())?;
    let peer = Peer::bind(&stage.peer_tls()?).await.context("no port for the peer")?;
    let path = stage.write_config(peer.address()?)?;
    let config = Config::load(&path)?;
    let (caught_in, caught) = mpsc::channel(CAUGHT_MAX);
    let peer = tokio::spawn(peer.run(caught_in));
    let (stop, stopped) = watch::channel(false);
    // The sandbox never reloads its config.
    let (_requests, requested) = mpsc::channel(1);
    let (ready_in, ready) = oneshot::channel();
    // Nobody may be listening any more, if the daemon is slower to start than the user to leave.
    let mut daemon = Box::pin(app::run(config, requested, stopped, move |ready| drop(ready_in.send(ready))));
    let play = async {
        let ready = ready.await.context("the daemon did not start")?;
        let place = Place::of(&stage, &path, &ready)?;
        match arguments.send {
            Some(count) => send(&place, caught, count as usize).await,
            None => watch_mail(&place, caught).await,
        }
    };
    let outcome = tokio::select! {
        ended = &mut daemon => match ended {
            Ok(()) => bail!("the daemon ended by itself"),
            Err(error) => return Err(error.context("the daemon")),
        },
        outcome = play => outcome,
    };
    let _ = stop.send(true);
    tokio::time::timeout(FAREWELL, daemon).await.context("the daemon did not end")?.context("the daemon")?;
    peer.abort();
    outcome
}

/// Where everything is, for those who play in it.
struct Place<'a> {
    stage: &'a Stage,
    config: &'a std::path::Path,
    submission: SocketAddr,
    submissions: SocketAddr,
    smtp: SocketAddr,
    paint: Paint,
}

impl<'a> Place<'a> {
    fn of(stage: &'a Stage, config: &'a std::path::Path, ready: &app::Ready) -> anyhow::Result<Place<'a>> {
        match ready.addresses.as_slice() {
            &[submission, submissions, smtp] => {
                Ok(Place { stage, config, submission, submissions, smtp, paint: Paint::of_stdout() })
            }
            other => bail!("three listeners were asked for, {} are bound", other.len()),
        }
    }

    fn welcome(&self) -> String {
        let Place { stage, config, submission, submissions, smtp, paint } = self;
        let (password, authority) = (&stage.password, stage.authority.display());
        let (port, config) = (submission.port(), config.display());
        format!(
            r#"{title}
  submission   {submission}   STARTTLS and AUTH
  submissions  {submissions}   TLS and AUTH
  smtp         {smtp}   no AUTH
  user         {USER}
  password     {password}
  CA           {authority}
  config       {config}   (for `postrider -c … queue list`)

{python}

import smtplib, ssl
with smtplib.SMTP("localhost", {port}) as relay:
    relay.starttls(context=ssl.create_default_context(cafile="{authority}"))
    relay.login("{USER}", "{password}")
    relay.sendmail("shop@{DOMAIN}", ["you@catch.example"], "From: shop@{DOMAIN}\r\nTo: you@catch.example\r\nSubject: Hello\r\n\r\nHello.\r\n")

{swaks}

swaks --server 127.0.0.1:{port} --tls --auth PLAIN --auth-user {USER} --auth-password {password} --from shop@{DOMAIN} --to you@catch.example

Whatever is sent is delivered to a peer on this machine, and shown here. Recipients reject@… are refused, defer@… are put off.
Ctrl-C ends it and removes everything.
"#,
            title = paint.bold("A whole relay on loopback:"),
            python = paint.bold("Python:"),
            swaks = paint.bold("swaks:"),
        )
    }
}

/// Shows what comes until Ctrl-C.
async fn watch_mail(place: &Place<'_>, mut caught: mpsc::Receiver<Caught>) -> anyhow::Result<Exit> {
    println!("{}", place.welcome());
    let mut number = 0;
    loop {
        tokio::select! {
            message = caught.recv() => match message {
                Some(message) => {
                    number += 1;
                    let signatures = show::signatures(&message, &place.stage.records, system_time());
                    println!("{}", place.paint.bold(&format!("==== message {number}")));
                    print!("{}", show::in_full(&message, &signatures));
                }
                None => bail!("the peer ended by itself"),
            },
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                return Ok(Exit::Done);
            }
        }
    }
}

/// What became of the samples.
#[derive(Default)]
struct Tally {
    waiting: HashMap<String, Sample>,
    delivered: usize,
    by_kind: BTreeMap<samples::Kind, usize>,
    wrong: Vec<String>,
    twice: usize,
}

/// Sends samples, and waits for all of them to arrive.
async fn send(place: &Place<'_>, mut caught: mpsc::Receiver<Caught>, count: usize) -> anyhow::Result<Exit> {
    println!("{}", place.welcome());
    let started = Instant::now();
    let mut tally = Tally::default();
    tally.waiting.extend((0..count).map(Sample::numbered).map(|sample| (sample.id.clone(), sample)));
    let mut senders = tokio::task::JoinSet::new();
    let lanes = SENDERS_MAX.min(count);
    for lane in 0..lanes {
        let (relay, authority) = (place.submission, place.stage.authority.clone());
        let password = place.stage.password.clone();
        senders.spawn(async move {
            let mut client = Client::connect(relay, &authority, USER, &password).await?;
            for n in (lane..count).step_by(lanes) {
                client.send(&Sample::numbered(n)).await?;
            }
            client.quit().await
        });
    }
    let mut accepted_in = None;
    while !tally.waiting.is_empty() {
        tokio::select! {
            Some(ended) = senders.join_next(), if !senders.is_empty() => {
                ended.context("a sender")?.context("a sample was not accepted")?;
                if senders.is_empty() {
                    accepted_in = Some(started.elapsed());
                }
            }
            message = tokio::time::timeout(STANDSTILL, caught.recv()) => match message {
                Ok(Some(message)) => tally.count(place, &message, count),
                // A standstill, or no peer.
                Ok(None) | Err(_) => break,
            },
        }
    }
    let took = started.elapsed();
    while let Some(ended) = senders.join_next().await {
        ended.context("a sender")?.context("a sample was not accepted")?;
    }
    println!("{}", tally.summary(count, accepted_in.unwrap_or(took), took));
    match tally.waiting.is_empty() && tally.wrong.is_empty() {
        true => Ok(Exit::Done),
        false => Ok(Exit::Failed),
    }
}

impl Tally {
    fn count(&mut self, place: &Place<'_>, message: &Caught, count: usize) {
        let records = &place.stage.records;
        let signatures = show::signatures(message, records, system_time());
        let shown = match count <= SHOWN_IN_FULL_MAX {
            true => show::in_full(message, &signatures),
            false => format!("{}\n", show::in_short(message, &signatures)),
        };
        print!("{shown}");
        let id = samples::header(&message.message, "message-id").unwrap_or_default();
        let id = id.trim_matches(['<', '>']);
        let Some(sample) = self.waiting.remove(id) else {
            self.twice += 1;
            return;
        };
        self.delivered += 1;
        *self.by_kind.entry(sample.kind).or_default() += 1;
        if !show::all_hold(&signatures, records) {
            self.wrong.push(format!("{id}: a DKIM signature does not hold"));
        }
        if sample.kind.arrives_unchanged() && !sample.has_body_of(&message.message) {
            self.wrong.push(format!("{id}: its body was changed on the way"));
        }
        if message.tls.is_none() {
            self.wrong.push(format!("{id}: it came in clear"));
        }
    }

    fn summary(&self, count: usize, accepted_in: Duration, took: Duration) -> String {
        let rate = |number: usize, time: Duration| number as f64 / time.as_secs_f64().max(0.001);
        let kinds: Vec<String> = self.by_kind.iter().map(|(kind, n)| format!("{n} {}", kind.name())).collect();
        let mut text = format!(
            "\n{} of {count} delivered ({}), {} verified; accepted {:.0}/s, delivered {:.0}/s",
            self.delivered,
            kinds.join(", "),
            self.delivered.saturating_sub(self.wrong.len()),
            rate(count, accepted_in),
            rate(self.delivered, took),
        );
        if self.twice > 0 {
            text += &format!("; {} came twice", self.twice);
        }
        let missing = self.waiting.keys().take(NAMED_MAX).map(|id| format!("{id}: not delivered"));
        for line in self.wrong.iter().take(NAMED_MAX).cloned().chain(missing) {
            text += &format!("\n  {line}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_s_config_is_sound_and_sends_everything_to_the_peer() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Stage::build(directory.path()).unwrap();
        let config = Config::load(&stage.write_config("127.0.0.1:2525".parse().unwrap()).unwrap()).unwrap();
        assert_eq!(config.routes[0].next_hop[0].to_string(), "127.0.0.1:2525");
        assert_eq!(config.listeners.len(), 3);
        assert_eq!(config.warnings(), Vec::<String>::new());
    }
}
