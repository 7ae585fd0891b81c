//! `postrider report`: how bounces and complaints are read, and what they did.
//!
//! Called by the command line. `parse` reads files and says what each would do had it a token of ours: it asks no daemon, and
//! reads the config only for the operator's own rules, as `classify` does. `list` and `show` are in `report/taken.rs`.

mod taken;

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::client::Daemon;
use super::{Context, Exit};
use crate::classify::{Observation, Rules};
use crate::report::{self, Fate, Kind, Reading, Reported};

/// Files of one directory that are read; what is in directories below it is not.
const FILES_MAX: usize = 100_000;
/// What of the words is shown to people. Unit: bytes.
const SHOWN_MAX: usize = 200;

/// What is asked about reports.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Read raw messages, and say what each is, whom it speaks of and what it would do had it a token of ours
    Parse(Parse),
    /// Say how a report that came in was read, and what it did: of whom, what was concluded and why, where it was sent on
    Show(taken::Show),
    /// List reports that came in, the newest last
    List(taken::List),
}

/// Which messages.
#[derive(Debug, clap::Args)]
pub struct Parse {
    /// Files with one raw message each, directories of such files, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// One line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    kind: &'static str,
    recipients: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    address: Option<Box<str>>,
    /// A class of `classify`; `complaint` and `unsubscribe` have no reply that could have one.
    class: &'static str,
    status: Option<String>,
    text: Box<str>,
    suppress: bool,
}

/// Runs `postrider report`.
pub(super) fn run(context: &Context, command: &Command) -> anyhow::Result<ExitCode> {
    let json = context.json;
    match command {
        Command::Parse(parse) => parse_all(context, parse).map(ExitCode::from),
        Command::Show(show) => context.ask(|daemon: Daemon<'_>, out| taken::show(daemon, show, json, out)),
        Command::List(list) => context.ask(|daemon: Daemon<'_>, out| taken::list(daemon, list, json, out)),
    }
}

fn parse_all(context: &Context, Parse { files }: &Parse) -> anyhow::Result<Exit> {
    let Some(rules) = super::classify::rules(context) else { return Ok(Exit::Config) };
    let mut out = io::stdout().lock();
    let mut exit = Exit::Done;
    for file in files {
        match parse(&rules, file, context.json, &mut out) {
            Ok(Exit::Done) => {}
            Ok(other) => exit = other,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(exit)
}

/// Reads a file, or those of a directory. Errors of writing are returned, those of reading are told.
fn parse(rules: &Rules, file: &Path, json: bool, out: &mut dyn Write) -> io::Result<Exit> {
    let mut exit = Exit::Done;
    let files = match file.is_dir() {
        true => below(file),
        false => Ok(vec![file.to_owned()]),
    };
    for file in files.unwrap_or_else(|error| {
        eprintln!("{}: {error}", file.display());
        exit = Exit::Failed;
        Vec::new()
    }) {
        match octets(&file) {
            Ok(message) => show(rules, &file, &report::read(&message), json, out)?,
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)?.take(FILES_MAX) {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What of a file can matter.
fn octets(file: &Path) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let most = report::OCTETS_MAX as u64;
    match file == Path::new("-") {
        true => io::stdin().lock().take(most).read_to_end(&mut message)?,
        false => fs::File::open(file)?.take(most).read_to_end(&mut message)?,
    };
    Ok(message)
}

fn show(rules: &Rules, file: &Path, reading: &Reading, json: bool, out: &mut dyn Write) -> io::Result<()> {
    let name = file.to_string_lossy();
    let recipients: Vec<Row> = reading.recipients.iter().map(|reported| row(rules, reading.kind, reported)).collect();
    if json {
        let line = Line { file: &name, kind: reading.kind.name(), recipients };
        return writeln!(out, "{}", serde_json::to_string(&line)?);
    }
    writeln!(out, "{name}: {}", meaning(reading))?;
    for (row, reported) in recipients.iter().zip(&reading.recipients) {
        let address = row.address.as_deref().unwrap_or("(names no recipient)");
        writeln!(
            out,
            "  {address}: {}, {}",
            row.class,
            if row.suppress { "would suppress" } else { "suppresses nobody" }
        )?;
        if let Some(other) = &reported.forwarded_to {
            writeln!(out, "    failed at another mailbox: {other}")?;
        }
        let said: Vec<String> =
            [reported.code.map(|code| code.to_string()), row.status.clone()].into_iter().flatten().collect();
        let shown = row.text.get(..row.text.floor_char_boundary(SHOWN_MAX)).unwrap_or_default();
        let words = format!("{} {shown}", said.join(" "));
        if !words.trim().is_empty() {
            writeln!(out, "    {}", words.trim())?;
        }
        if let Some(host) = &reported.remote_host {
            writeln!(out, "    said by {host}")?;
        }
    }
    Ok(())
}

/// One sentence about the message.
fn meaning(reading: &Reading) -> String {
    let by = reading.reporter.as_deref().map(|reporter| format!(", by {reporter}")).unwrap_or_default();
    let is_late = reading.recipients.iter().any(|recipient| recipient.fate == Fate::Delayed);
    match reading.kind {
        Kind::Bounce => format!("a bounce{by}"),
        Kind::Complaint => format!("a complaint ({}){by}", reading.feedback_type.as_deref().unwrap_or("abuse")),
        Kind::AutoReply => "an automatic reply, which counts for nothing".to_owned(),
        Kind::Unsubscribe => "a wish to be taken off".to_owned(),
        Kind::Other if is_late => format!("a delay, which counts for nothing{by}"),
        Kind::Other if !reading.recipients.is_empty() => format!("a report of no failure{by}"),
        Kind::Other => match &reading.feedback_type {
            Some(kind) => format!("a report that is no complaint ({kind}){by}"),
            None => "no report".to_owned(),
        },
    }
}

fn row(rules: &Rules, kind: Kind, reported: &Reported) -> Row {
    let cause = reported.cause();
    let crate::mail::Cause::Reply(reply) = &cause else {
        // Invariant: a report is always made a reply.
        return Row { address: None, class: "unknown", status: None, text: "".into(), suppress: false };
    };
    // One recipient for each report: our token says whom the message was for.
    let host = reported.remote_host.as_deref();
    let seen = Observation { stage: reported.stage(), cause: &cause, recipients_taken: 1, host };
    let meaning = rules.classify(&seen);
    let (class, suppress) = match kind {
        Kind::Complaint => ("complaint", true),
        Kind::Unsubscribe => ("unsubscribe", true),
        Kind::Bounce => {
            (meaning.class.name(), meaning.suppress && !reported.names_another() && reported.fate == Fate::Failed)
        }
        Kind::AutoReply | Kind::Other => (meaning.class.name(), false),
    };
    let status = reply.enhanced.map(|status| status.to_string());
    Row { address: reported.address.clone(), class, status, text: (&*reply.text).into(), suppress }
}
