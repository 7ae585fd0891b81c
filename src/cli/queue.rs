//! `postrider queue`: what waits, and what an operator may do to it.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{Client, ClientError, Daemon, conclude, path_with_query};
use super::moment::{self, Now};
use crate::http::shapes::{Envelope, Listing, OrderAnswer, OrderRequest, Select, sender_text};
use crate::size::ByteSize;

/// Most envelopes that are asked for, or ordered about, in one request.
const PAGE_ROWS: usize = 500;
/// Longest wait for one page of orders: each may wait for a sync.
const ORDERS_WITHIN: Duration = Duration::from_secs(300);

/// Show and change what waits in the queue.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what waits: id, state, age, next attempt, sender, recipients, and why it was deferred.
    List(List),
    /// Show everything that is known of some envelopes.
    Show(Which),
    /// Stop envelopes until they are released; they do not expire meanwhile.
    Hold(Which),
    /// Undo a hold; send now what is scheduled for later.
    Release(Which),
    /// Make envelopes due now.
    Retry(Which),
    /// Let another pool carry envelopes from now on.
    Reroute(Reroute),
    /// Remove envelopes without telling anybody.
    Delete(Which),
    /// Return envelopes to their senders.
    Bounce(Which),
}

/// `queue list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filters: Filters,
    /// Most envelopes to list; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// Which envelopes are to be shown, or an order is about.
#[derive(Debug, Args)]
pub struct Which {
    /// Queue ids.
    #[arg(value_name = "ID", conflicts_with_all = ["all", "sender", "domain", "site", "stream", "credential", "tag",
        "older_than", "younger_than", "state"])]
    ids: Vec<String>,
    /// Every envelope in the queue.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filters: Filters,
}

impl Which {
    /// Whether nothing was named: an order without a choice is a mistake, not one about everything.
    fn is_nothing(&self) -> bool {
        self.ids.is_empty() && !self.all && self.filters.select() == Select::default()
    }
}

/// `queue reroute`.
#[derive(Debug, Args)]
pub struct Reroute {
    /// The pool: one of the config's.
    #[arg(long, value_name = "POOL")]
    pool: String,
    #[command(flatten)]
    which: Which,
}

/// Filters; all that are given must fit.
#[derive(Debug, Default, Args)]
pub struct Filters {
    /// By envelope sender: an address, a domain, or <>.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// By recipient domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// By site, as `why` and listings name it: all domains whose MX hosts are the site's, as far as they were looked up.
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// By stream.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// By credential.
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,
    /// By tag, exactly as the client gave it (X-Tag, X-PM-Tag …).
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Accepted at least this long ago: 90s, 30m, 4h, 2d.
    #[arg(long, value_name = "AGE", value_parser = moment::parse_age)]
    older_than: Option<Duration>,
    /// Accepted at most this long ago.
    #[arg(long, value_name = "AGE", value_parser = moment::parse_age)]
    younger_than: Option<Duration>,
    /// By state: active, held, scheduled, deferred or ready.
    #[arg(long, value_name = "STATE", value_parser = ["active", "held", "scheduled", "deferred", "ready"])]
    state: Option<String>,
}

impl Filters {
    fn select(&self) -> Select {
        Select {
            sender: self.sender.clone(),
            domain: self.domain.clone(),
            site: self.site.clone(),
            stream: self.stream.clone(),
            credential: self.credential.clone(),
            tag: self.tag.clone(),
            older_than: self.older_than.map(|age| age.as_secs()),
            younger_than: self.younger_than.map(|age| age.as_secs()),
            state: self.state.clone(),
            ..Select::default()
        }
    }
}

/// Runs `postrider queue …`, and prints what came of it.
///
/// # Errors
/// Standard output is closed.
pub fn run(daemon: Daemon<'_>, command: &Command, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let client = Client::new(daemon)?;
    let outcome = match command {
        Command::List(list) => list_queue(&client, list, json, out),
        Command::Show(which) => show(&client, which, json, out),
        Command::Hold(which) => order(&client, "hold", None, which, json, out),
        Command::Release(which) => order(&client, "release", None, which, json, out),
        Command::Retry(which) => order(&client, "retry", None, which, json, out),
        Command::Reroute(Reroute { pool, which }) => order(&client, "reroute", Some(pool), which, json, out),
        Command::Delete(which) => order(&client, "delete", None, which, json, out),
        Command::Bounce(which) => order(&client, "bounce", None, which, json, out),
    };
    match outcome {
        Ok(exit) => Ok(exit),
        Err(Trouble::Client(error)) => Ok(conclude(Err(error))),
        Err(Trouble::Output(error)) => Err(error),
    }
}

/// What ends a command early.
enum Trouble {
    Client(ClientError),
    Output(io::Error),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Trouble {
        Trouble::Client(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Output(error)
    }
}

fn query(select: &Select) -> Vec<(&'static str, String)> {
    let number = |n: u64| n.to_string();
    let pairs = [
        ("sender", select.sender.clone()),
        ("domain", select.domain.clone()),
        ("site", select.site.clone()),
        ("stream", select.stream.clone()),
        ("credential", select.credential.clone()),
        ("tag", select.tag.clone()),
        ("older_than", select.older_than.map(number)),
        ("younger_than", select.younger_than.map(number)),
        ("state", select.state.clone()),
        ("after", select.after.clone()),
        ("limit", select.limit.map(|n| n.to_string())),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn list_queue(client: &Client, list: &List, json: bool, out: &mut dyn Write) -> Result<ExitCode, Trouble> {
    let mut select = list.filters.select();
    let wanted = if list.limit == 0 { usize::MAX } else { list.limit };
    let mut shown = 0;
    let now = Now::of_system();
    let mut first = true;
    if json {
        write!(out, "[")?;
    }
    loop {
        select.limit = Some(PAGE_ROWS.min(wanted - shown));
        let page: Listing = client.ask(&path_with_query("/v1/queue", &query(&select)))?;
        for envelope in &page.envelopes {
            match json {
                true => write!(out, "{}\n{}", if first { "" } else { "," }, json!(envelope))?,
                false => {
                    if first {
                        writeln!(out, "{}", HEADING)?;
                    }
                    write!(out, "{}", Line(envelope, now))?;
                }
            }
            first = false;
        }
        shown += page.envelopes.len();
        match page.next {
            Some(next) if shown < wanted => select.after = Some(next),
            rest => {
                if json {
                    writeln!(out, "\n]")?;
                } else {
                    footer(out, shown, page.total, rest.is_some())?;
                }
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn footer(out: &mut dyn Write, shown: usize, total: usize, more: bool) -> io::Result<()> {
    match (total, shown, more) {
        (0, _, _) => writeln!(out, "The queue is empty."),
        (_, 0, false) => writeln!(out, "None of the {total} waiting envelopes fits."),
        (_, _, false) => writeln!(out, "{shown} of {total} waiting envelopes."),
        (_, _, true) => writeln!(out, "{shown} of {total} waiting envelopes; there may be more: --limit 0 lists all."),
    }
}

const HEADING: &str = "ID            STATE      AGE     NEXT     TRIES      SIZE  FROM -> TO";

/// One envelope in a listing: a line, and below it the last trouble.
struct Line<'a>(&'a Envelope, Now);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line(envelope, now) = self;
        let next = match envelope.state.as_str() {
            "deferred" | "scheduled" => now.until(&envelope.due),
            "ready" => "now".to_owned(),
            _ => "-".to_owned(),
        };
        let to = match &envelope.recipients[..] {
            [] => envelope.domain.clone(),
            [only] => only.address.clone(),
            [first, rest @ ..] => format!("{} and {} more", first.address, rest.len()),
        };
        writeln!(
            f,
            "{:<12}  {:<9}  {:<6}  {:<7}  {:>5}  {:>8}  {} -> {to}",
            envelope.id,
            envelope.state,
            now.since(&envelope.accepted_at),
            next,
            envelope.attempts,
            ByteSize(envelope.size_bytes).to_string(),
            sender_text(&envelope.sender),
        )?;
        if let Some(reason) = &envelope.unreadable {
            writeln!(f, "              ! {reason}")?;
        }
        let last = envelope.recipients.iter().filter(|r| r.state == "pending").find_map(|r| r.last.as_ref());
        match last {
            Some(last) if last.host.is_empty() => writeln!(f, "              {}", last.text),
            Some(last) => writeln!(f, "              {} said: {}", last.host, last.text),
            None => Ok(()),
        }
    }
}

fn show(client: &Client, which: &Which, json: bool, out: &mut dyn Write) -> Result<ExitCode, Trouble> {
    if which.is_nothing() {
        return Ok(nothing_named());
    }
    let mut sheets = Sheets { json, shown: 0, now: Now::of_system() };
    let mut exit = ExitCode::SUCCESS;
    for id in &which.ids {
        match client.ask::<Envelope>(&format!("/v1/queue/{id}")) {
            Ok(envelope) => sheets.show(&envelope, out)?,
            Err(error @ ClientError::Refused { .. }) => {
                eprintln!("postrider: {error}");
                exit = ExitCode::FAILURE;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut select = Select { limit: Some(PAGE_ROWS), ..which.filters.select() };
    let mut more = which.ids.is_empty();
    while more {
        let page: Listing = client.ask(&path_with_query("/v1/queue", &query(&select)))?;
        for envelope in &page.envelopes {
            sheets.show(envelope, out)?;
        }
        more = page.next.is_some();
        select.after = page.next;
    }
    sheets.end(out)?;
    Ok(exit)
}

/// Everything that is known of some envelopes, one after the other.
struct Sheets {
    json: bool,
    shown: usize,
    now: Now,
}

impl Sheets {
    fn show(&mut self, envelope: &Envelope, out: &mut dyn Write) -> io::Result<()> {
        let is_first = self.shown == 0;
        self.shown += 1;
        match (self.json, is_first) {
            (true, _) => write!(out, "{}\n{:#}", if is_first { "[" } else { "," }, json!(envelope)),
            (false, true) => write!(out, "{}", Sheet(envelope, self.now)),
            (false, false) => write!(out, "\n{}", Sheet(envelope, self.now)),
        }
    }

    fn end(&self, out: &mut dyn Write) -> io::Result<()> {
        match (self.json, self.shown) {
            (true, 0) => writeln!(out, "[]"),
            (true, _) => writeln!(out, "\n]"),
            (false, _) => Ok(()),
        }
    }
}

fn nothing_named() -> ExitCode {
    eprintln!("postrider: which envelopes? Name ids, a filter, or --all");
    ExitCode::from(2)
}

/// Everything that is known of an envelope, one fact a line.
pub(super) struct Sheet<'a>(pub(super) &'a Envelope, pub(super) Now);

impl std::fmt::Display for Sheet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sheet(envelope, now) = self;
        writeln!(f, "{}  {}", envelope.id, envelope.state)?;
        let mut fact = |name: &str, value: String| match value.is_empty() {
            true => Ok(()),
            false => writeln!(f, "  {name:<12} {value}"),
        };
        fact("from", sender_text(&envelope.sender))?;
        fact("return path", envelope.return_path.clone().unwrap_or_default())?;
        fact("message-id", envelope.message_id.clone())?;
        fact("size", ByteSize(envelope.size_bytes).to_string())?;
        fact("accepted", format!("{} ago ({})", now.since(&envelope.accepted_at), envelope.accepted_at))?;
        let wanted = envelope.release_at.as_ref().map(|at| format!("{} ({at})", now.until(at)));
        fact("scheduled", wanted.unwrap_or_default())?;
        fact("put off by", envelope.put_off_by.clone())?;
        fact("next", format!("{} ({})", now.until(&envelope.due), envelope.due))?;
        fact("expires", format!("{} ({})", now.until(&envelope.expires_at), envelope.expires_at))?;
        fact("attempts", envelope.attempts.to_string())?;
        fact("stream", format!("{} ({}), priority {}", envelope.stream, envelope.kind, envelope.priority))?;
        fact("pool", envelope.pool.clone())?;
        fact("credential", envelope.credential.clone())?;
        fact("source", envelope.source.clone())?;
        fact("tags", envelope.tags.join(", "))?;
        let metadata: Vec<String> = envelope.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        fact("metadata", metadata.join(", "))?;
        fact("engaged", if envelope.engaged { "yes".to_owned() } else { String::new() })?;
        if envelope.submission != envelope.id {
            fact("submission", envelope.submission.clone())?;
        }
        if envelope.uncertain {
            fact("uncertain", "a peer's last answer was lost: it may have been delivered already".to_owned())?;
        }
        fact("unreadable", envelope.unreadable.clone().unwrap_or_default())?;
        for recipient in &envelope.recipients {
            fact("to", format!("{}  {}", recipient.address, recipient.state))?;
            if let Some(last) = &recipient.last {
                let host = if last.host.is_empty() { String::new() } else { format!(" at {}", last.host) };
                fact("", format!("  {} ago{host}, {}: {}", now.since(&last.at), last.stage, last.text))?;
            }
        }
        Ok(())
    }
}

fn order(
    client: &Client,
    name: &str,
    pool: Option<&String>,
    which: &Which,
    json: bool,
    out: &mut dyn Write,
) -> Result<ExitCode, Trouble> {
    if which.is_nothing() {
        return Ok(nothing_named());
    }
    let mut select = which.filters.select();
    let path = format!("/v1/queue/orders/{name}");
    let mut tally = Tally { name, json, done: 0, failed: 0 };
    if !which.ids.is_empty() {
        for ids in which.ids.chunks(PAGE_ROWS) {
            let request = OrderRequest { ids: ids.to_vec(), select: None, pool: pool.cloned() };
            tally.count(&client.tell(&path, &request, ORDERS_WITHIN)?, out)?;
        }
        return Ok(tally.exit(out)?);
    }
    loop {
        select.limit = Some(PAGE_ROWS);
        let request = OrderRequest { ids: Vec::new(), select: Some(select.clone()), pool: pool.cloned() };
        let answer: OrderAnswer = client.tell(&path, &request, ORDERS_WITHIN)?;
        tally.count(&answer, out)?;
        match answer.next {
            Some(next) => select.after = Some(next),
            None => return Ok(tally.exit(out)?),
        }
    }
}

/// What came of an order so far.
struct Tally<'a> {
    name: &'a str,
    json: bool,
    done: usize,
    failed: usize,
}

impl Tally<'_> {
    fn count(&mut self, answer: &OrderAnswer, out: &mut dyn Write) -> io::Result<()> {
        for result in &answer.results {
            match result.is_success() {
                true => self.done += 1,
                false => self.failed += 1,
            }
            if self.json {
                writeln!(out, "{}", json!(result))?;
            } else if result.result != "done" {
                writeln!(out, "{}  {}", result.id, result.text)?;
            }
        }
        Ok(())
    }

    fn exit(&self, out: &mut dyn Write) -> io::Result<ExitCode> {
        if !self.json {
            let plural = if self.done == 1 { "envelope" } else { "envelopes" };
            write!(out, "{}: {} {plural}", self.name, self.done)?;
            match self.failed {
                0 => writeln!(out, ".")?,
                failed => writeln!(out, "; not possible for {failed}.")?,
            }
        }
        Ok(if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
