//! `postrider suppression`: to whom nothing is sent, and why. Works on the running daemon; only `import --dry-run` reads a
//! file without one.

mod import;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::Paint;
use super::client::{Client, ClientError, Daemon, conclude, path_with_query};
use super::moment::{self, Now};
use crate::clock;
use crate::http::shapes::{
    Suppression, SuppressionAdd, SuppressionAdded, SuppressionPage, SuppressionRemove, SuppressionRemoved,
    SuppressionSelect, SuppressionStats,
};
use crate::suppression::foreign;
use crate::time::Timestamp;

/// Entries of one request.
const PAGE_ENTRIES: usize = 5000;
/// Longest wait for an order, or for counting everything.
const ORDER_WITHIN: Duration = Duration::from_secs(600);

/// Show and change to whom nothing is sent.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List entries, in the order of domains.
    List(List),
    /// Show everything that is known of an address: causes, times, the words that led to it.
    Show {
        /// The address.
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
    /// Send nothing more to an address.
    Add(Add),
    /// Send to an address again; or undo an incident: `--site gmail --since 2026-11-24T10:00:00Z --until …`.
    Remove(Remove),
    /// Take over a list: our own export, SendGrid's, Mailgun's, Postmark's or SES's, or an address a line. All or nothing.
    Import(import::Arguments),
    /// Write the list, or a part of it, to standard output.
    Export(Export),
    /// Count entries by cause and scope, and say what they take.
    Stats,
}

/// Which entries.
#[derive(Clone, Debug, Default, Args)]
pub struct Filters {
    /// Of this cause: hard_bounce, soft_bounce, complaint, unsubscribe, manual, import.
    #[arg(long)]
    cause: Option<String>,
    /// Of this scope: all, marketing, transactional, stream:NAME.
    #[arg(long)]
    scope: Option<String>,
    /// Said by this site.
    #[arg(long)]
    site: Option<String>,
    /// Of addresses at this domain.
    #[arg(long)]
    domain: Option<String>,
    /// Put there since then: a time, a day, or an age like 2d.
    #[arg(long, value_name = "TIME", value_parser = moment::parse_moment)]
    since: Option<Timestamp>,
    /// Put there before then.
    #[arg(long, value_name = "TIME", value_parser = moment::parse_moment)]
    until: Option<Timestamp>,
    /// In this state: in_force, pending (seen, not believed yet), expired.
    #[arg(long)]
    state: Option<String>,
}

impl Filters {
    fn select(&self) -> SuppressionSelect {
        SuppressionSelect {
            cause: self.cause.clone(),
            scope: self.scope.clone(),
            site: self.site.clone(),
            domain: self.domain.clone(),
            since: self.since.map(Timestamp::rfc3339),
            until: self.until.map(Timestamp::rfc3339),
            state: self.state.clone(),
            ..SuppressionSelect::default()
        }
    }
}

/// `suppression list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filters: Filters,
    /// Most entries to list; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// `suppression add`.
#[derive(Debug, Args)]
pub struct Add {
    /// The address.
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// Which mail is stopped: all, marketing, transactional, stream:NAME.
    #[arg(long, default_value = "all")]
    scope: String,
    /// Why: hard_bounce, soft_bounce, complaint, unsubscribe, manual, import.
    #[arg(long, default_value = "manual")]
    cause: String,
    /// For this long: 30d, 12w. Absent: for good.
    #[arg(long = "for", value_name = "TIME", value_parser = moment::parse_age)]
    within: Option<Duration>,
    /// Words for whoever looks at it later.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// `suppression remove`.
#[derive(Debug, Args)]
pub struct Remove {
    /// The address: all its entries, or those of --scope and --cause.
    #[arg(value_name = "ADDRESS", conflicts_with_all = ["site", "domain", "since", "until", "state", "all"])]
    address: Option<String>,
    #[command(flatten)]
    filters: Filters,
    /// Everything in the list.
    #[arg(long)]
    all: bool,
    /// Say how many there are, and remove none.
    #[arg(long)]
    dry_run: bool,
}

/// `suppression export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    filters: Filters,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = Form::Csv)]
    format: Form,
}

/// How an export is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Form {
    /// With a header line.
    Csv,
    /// A JSON object a line.
    Jsonl,
}

/// Runs `postrider suppression …`, and prints what came of it.
///
/// # Errors
/// Standard output is closed.
pub fn run(daemon: Daemon<'_>, command: &Command, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let client = Client::new(daemon)?;
    let paint = if json { Paint::Plain } else { Paint::of_stdout() };
    let outcome = match command {
        Command::List(list) => show_list(&client, list, json, paint, out),
        Command::Show { address } => show(&client, address, json, paint, out),
        Command::Add(add) => put(&client, add, json, out),
        Command::Remove(order) => remove(&client, order, json, out),
        Command::Import(arguments) => import::run(&client, arguments, json, out),
        Command::Export(export) => write_export(&client, export, out),
        Command::Stats => stats(&client, json, paint, out),
    };
    outcome.map(conclude)
}

/// What was asked; the outer error is that of standard output.
type Written<T> = io::Result<Result<T, ClientError>>;
/// What a command came to.
type Outcome = Written<ExitCode>;

macro_rules! answered {
    ($asked:expr) => {
        match $asked {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        }
    };
}
use answered;

/// Calls `see` with each page, until `limit` entries came; gives how many damaged blocks there were, and whether more is there.
fn pages(
    client: &Client,
    filters: &Filters,
    limit: usize,
    mut see: impl FnMut(&[Suppression]) -> io::Result<()>,
) -> Written<(u64, bool)> {
    let (mut select, mut seen, mut damaged) = (filters.select(), 0, 0);
    loop {
        let wanted = if limit == 0 { PAGE_ENTRIES } else { PAGE_ENTRIES.min(limit - seen) };
        select.limit = Some(wanted);
        let page: SuppressionPage = answered!(client.ask(&path_with_query("/v1/suppression", &select.query())));
        seen += page.entries.len();
        damaged += page.damaged;
        see(&page.entries)?;
        match page.next {
            None => return Ok(Ok((damaged, false))),
            Some(_) if limit > 0 && seen >= limit => return Ok(Ok((damaged, true))),
            next => select.after = next,
        }
    }
}

fn warn_of_damage(blocks: u64) {
    if blocks > 0 {
        eprintln!(
            "postrider: {blocks} blocks of the list are damaged on the disk, and their entries are missing here: see docs/SPOOL.md, \
             \"The suppression list\""
        );
    }
}

fn show_list(client: &Client, list: &List, json: bool, paint: Paint, out: &mut dyn Write) -> Outcome {
    let now = Now::of_system();
    let mut all = Vec::new();
    let found = pages(client, &list.filters, list.limit, |entries| {
        all.extend_from_slice(entries);
        Ok(())
    });
    let (damaged, is_more) = answered!(found?);
    if json {
        writeln!(out, "{}", serde_json::to_string(&all).unwrap_or_default())?;
    } else {
        write_table(&all, now, paint, out)?;
        if is_more {
            writeln!(out, "… and more: --limit 0 lists all, `suppression stats` counts them")?;
        }
    }
    warn_of_damage(damaged);
    Ok(Ok(ExitCode::SUCCESS))
}

fn write_table(entries: &[Suppression], now: Now, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if entries.is_empty() {
        return writeln!(out, "no entries");
    }
    let width = |text: fn(&Suppression) -> &str, name: &str| {
        entries.iter().map(|entry| text(entry).chars().count()).max().unwrap_or(0).max(name.len()).min(60)
    };
    let (address, scope) = (width(|e| &e.address, "ADDRESS"), width(|e| &e.scope, "SCOPE"));
    let head = format!(
        "{:address$}  {:11}  {:scope$}  {:8}  {:10}  {:8}  {:>4}  SITE",
        "ADDRESS", "CAUSE", "SCOPE", "STATE", "SINCE", "ENDS", "HITS"
    );
    writeln!(out, "{}", paint.bold(&head))?;
    for entry in entries {
        let state = format!("{:8}", entry.state.replace('_', " "));
        let state = if entry.state == "in_force" { state } else { paint.dim(&state) };
        let ends = entry.expires_at.as_deref().map_or_else(|| "never".to_owned(), |at| now.until(at));
        let line = format!(
            "{:address$}  {:11}  {:scope$}  {state}  {:10}  {ends:8}  {:>4}  {}",
            entry.address,
            entry.cause,
            entry.scope,
            entry.added_at.get(..10).unwrap_or(&entry.added_at),
            entry.hits,
            entry.site
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn show(client: &Client, address: &str, json: bool, paint: Paint, out: &mut dyn Write) -> Outcome {
    let path = path_with_query("", &[("", address.to_owned())]);
    let path = format!("/v1/suppression/addresses/{}", path.trim_start_matches("?="));
    let page: SuppressionPage = answered!(client.ask(&path));
    let now = Now::of_system();
    if json {
        writeln!(out, "{}", serde_json::to_string(&page.entries).unwrap_or_default())?;
    } else if page.entries.is_empty() {
        writeln!(out, "{address} is not in the suppression list")?;
    }
    for entry in page.entries.iter().filter(|_| !json) {
        let ends = entry.expires_at.as_deref().map_or_else(
            || "never".to_owned(),
            |at| if entry.state == "expired" { format!("at {at}") } else { format!("{} ({at})", now.until(at)) },
        );
        let state = match entry.state.as_str() {
            "in_force" => paint.red("in force"),
            "pending" => paint.yellow("pending: seen, not believed yet, and stops nothing"),
            other => paint.dim(other),
        };
        writeln!(out, "{}", paint.bold(&entry.address))?;
        let mut line = |name: &str, text: &str| match text.is_empty() {
            true => Ok(()),
            false => writeln!(out, "  {name:10}{text}"),
        };
        line("cause", &entry.cause)?;
        line("stops", &if entry.scope == "all" { "all mail".to_owned() } else { format!("{} mail", entry.scope) })?;
        line("state", &state)?;
        line("since", &format!("{} ({} ago)", entry.added_at, now.since(&entry.added_at)))?;
        if entry.hits > 1 {
            line("last", &format!("{}, {} times in all", entry.last_at, entry.hits))?;
        }
        line(if entry.state == "expired" { "ended" } else { "ends" }, &ends)?;
        line("site", &entry.site)?;
        line("message", entry.source_id.as_deref().unwrap_or_default())?;
        line("words", &entry.evidence)?;
    }
    let is_there = !page.entries.is_empty();
    Ok(Ok(if is_there { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn put(client: &Client, add: &Add, json: bool, out: &mut dyn Write) -> Outcome {
    let request = SuppressionAdd {
        address: add.address.clone(),
        scope: Some(add.scope.clone()),
        cause: Some(add.cause.clone()),
        expires_at: add.within.map(|within| clock::system_time().after(within).rfc3339()),
        evidence: add.note.clone(),
    };
    let added: SuppressionAdded = answered!(client.tell("/v1/suppression/add", &request, ORDER_WITHIN));
    match json {
        true => writeln!(out, "{}", serde_json::to_string(&added).unwrap_or_default())?,
        false => {
            let entry = &added.entry;
            let verb = if added.was_there { "was in the suppression list; it was put in anew" } else { "was put in" };
            writeln!(out, "{} {verb}: {}, {}", entry.address, entry.cause, entry.scope)?;
        }
    }
    Ok(Ok(ExitCode::SUCCESS))
}

fn remove(client: &Client, order: &Remove, json: bool, out: &mut dyn Write) -> Outcome {
    let request = SuppressionRemove {
        address: order.address.clone(),
        all: order.all,
        dry_run: order.dry_run,
        select: order.filters.select(),
    };
    let done: SuppressionRemoved = answered!(client.tell("/v1/suppression/remove", &request, ORDER_WITHIN));
    let entries = if done.removed == 1 { "1 entry".to_owned() } else { format!("{} entries", done.removed) };
    match (json, done.dry_run) {
        (true, _) => writeln!(out, "{}", serde_json::to_string(&done).unwrap_or_default())?,
        (false, true) => writeln!(out, "{entries} would be removed")?,
        (false, false) => writeln!(out, "{entries} removed")?,
    }
    // An address that is not there may be a slip of the pen.
    let is_slip = order.address.is_some() && done.removed == 0;
    Ok(Ok(if is_slip { ExitCode::FAILURE } else { ExitCode::SUCCESS }))
}

fn write_export(client: &Client, export: &Export, out: &mut dyn Write) -> Outcome {
    if export.format == Form::Csv {
        writeln!(out, "{}", foreign::COLUMNS)?;
    }
    let written = pages(client, &export.filters, 0, |entries| {
        for entry in entries {
            match export.format {
                Form::Jsonl => writeln!(out, "{}", serde_json::to_string(entry).unwrap_or_default())?,
                Form::Csv => writeln!(out, "{}", csv_line(entry))?,
            }
        }
        Ok(())
    });
    let (damaged, _) = answered!(written?);
    out.flush()?;
    warn_of_damage(damaged);
    Ok(Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn csv_line(entry: &Suppression) -> String {
    foreign::csv_fields([
        &entry.address,
        &entry.scope,
        &entry.cause,
        &entry.state,
        &entry.added_at,
        &entry.last_at,
        entry.expires_at.as_deref().unwrap_or_default(),
        &entry.hits.to_string(),
        &entry.site,
        entry.source_id.as_deref().unwrap_or_default(),
        &entry.evidence,
    ])
}

fn stats(client: &Client, json: bool, paint: Paint, out: &mut dyn Write) -> Outcome {
    let stats: SuppressionStats = answered!(client.ask_within("/v1/suppression/stats", ORDER_WITHIN));
    if json {
        writeln!(out, "{}", serde_json::to_string(&stats).unwrap_or_default())?;
        return Ok(Ok(ExitCode::SUCCESS));
    }
    writeln!(out, "{} entries of {} addresses", stats.entries, stats.addresses)?;
    writeln!(out)?;
    writeln!(out, "{}", paint.bold(&format!("{:14}{:>12}{:>12}{:>12}", "CAUSE", "IN FORCE", "PENDING", "EXPIRED")))?;
    for cause in crate::suppression::Cause::ALL {
        let of = |state: &str| {
            let found = stats.causes.iter().find(|row| row.cause == cause.name() && row.state == state);
            found.map_or(0, |row| row.entries)
        };
        let counts = [of("in_force"), of("pending"), of("expired")];
        if counts.iter().any(|count| *count > 0) {
            writeln!(out, "{:14}{:>12}{:>12}{:>12}", cause.name(), counts[0], counts[1], counts[2])?;
        }
    }
    writeln!(out)?;
    writeln!(out, "{}", paint.bold(&format!("{:26}{:>12}", "SCOPE", "ENTRIES")))?;
    for (scope, count) in &stats.scopes {
        writeln!(out, "{scope:26}{count:>12}")?;
    }
    writeln!(out)?;
    let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
    writeln!(
        out,
        "{} files of {:.1} MiB, {:.1} MiB of memory; {} changes are in the state log and in no file yet",
        stats.files,
        mib(stats.disk_bytes),
        mib(stats.memory_bytes),
        stats.in_memory
    )?;
    if stats.damaged > 0 {
        let text = format!(
            "{} blocks or files are damaged: `postrider spool check` says which, docs/SPOOL.md, \"The suppression list\", what to do",
            stats.damaged
        );
        writeln!(out, "{}", paint.red(&text))?;
    }
    if let Some(why) = &stats.failed {
        writeln!(out, "{}", paint.red(&format!("the last file could not be written: {why}")))?;
    }
    Ok(Ok(ExitCode::SUCCESS))
}
