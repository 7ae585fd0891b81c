//! `postrider suppression import`: a file, line by line, to the daemon, which takes all of it or nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use tokio::sync::mpsc;

use super::{Outcome, answered};
use crate::cli::client::{Client, ClientError};
use crate::cli::moment;
use crate::clock;
use crate::http::shapes::{SuppressionImport, SuppressionImported};
use crate::suppression::foreign::{About, Reader, Row, Terms, json_of};
use crate::suppression::{Cause, Scope};

/// Read from the file at once. Unit: octets.
const BUFFER_LENGTH: usize = 1 << 20;
/// Sent at once. Unit: octets.
const CHUNK_LENGTH: usize = 64 * 1024;
/// Chunks on their way: a daemon that is slow makes the reader wait.
const CHUNKS_WAITING_MAX: usize = 16;
/// Bad lines that are told one by one.
const BAD_TOLD_MAX: usize = 20;
/// Longest wait for the answer.
const IMPORT_WITHIN: Duration = Duration::from_secs(3600);
/// How often a terminal hears how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// `suppression import`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// CSV with a header, JSON Lines, or an address a line; `-` for standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is about, where its columns and its name do not say.
    #[arg(long = "as", value_name = "WHAT", value_parser = parse_about)]
    about: Option<About>,
    /// The cause of all lines, whatever they say: hard_bounce, complaint, unsubscribe, manual, import, soft_bounce.
    #[arg(long, value_parser = parse_cause)]
    cause: Option<Cause>,
    /// Which mail all of them stop: all, marketing, transactional, stream:NAME. Absent: unsubscribes and complaints marketing,
    /// the others all.
    #[arg(long, value_parser = parse_scope)]
    scope: Option<Scope>,
    /// For this long: 90d, 52w. Absent: as the lines say, else for good.
    #[arg(long = "for", value_name = "TIME", value_parser = moment::parse_age)]
    within: Option<Duration>,
    /// Read the file and count what would be done; without a running daemon, what the list has already is not known.
    #[arg(long)]
    dry_run: bool,
}

fn parse_about(text: &str) -> Result<About, String> {
    let found = About::ALL.iter().find(|(word, _)| *word == text).map(|(_, about)| *about);
    found.ok_or_else(|| "bounces, blocks, complaints, unsubscribes or invalid is expected".to_owned())
}

fn parse_cause(text: &str) -> Result<Cause, String> {
    text.parse().map_err(|error: crate::suppression::UnknownCause| error.to_string())
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    Scope::parse(text).ok_or_else(|| "all, marketing, transactional or stream:NAME is expected".to_owned())
}

/// What the reading of the file came to.
#[derive(Debug, Default)]
struct Account {
    entries: u64,
    left_out: BTreeMap<&'static str, u64>,
    bad: u64,
    /// The first of them.
    told: Vec<String>,
}

/// Counts the octets that were read of a file.
struct Counted<R> {
    input: R,
    octets: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.octets.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Runs the command.
pub(super) fn run(client: &Client, arguments: &Arguments, json: bool, out: &mut dyn Write) -> Outcome {
    let (input, length) = match open(&arguments.file) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("postrider: {}: {error}", arguments.file.display());
            return Ok(Ok(ExitCode::FAILURE));
        }
    };
    let octets = Arc::new(AtomicU64::new(0));
    let input = BufReader::with_capacity(BUFFER_LENGTH, Counted { input, octets: octets.clone() });
    let now = clock::system_time();
    let name = arguments.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let terms = Terms {
        about: arguments.about.or_else(|| About::of_file_name(&name)),
        cause: arguments.cause,
        scope: arguments.scope.clone(),
        expires_at: arguments.within.map(|within| now.after(within)),
        now,
    };
    let reader = match Reader::new(input, terms) {
        Ok(reader) => reader,
        Err(unread) => {
            eprintln!("postrider: {}: {unread}", arguments.file.display());
            return Ok(Ok(ExitCode::FAILURE));
        }
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let began = Instant::now();
    let reading = std::thread::spawn(move || read(reader, now, &sender));
    let path = if arguments.dry_run { "/v1/suppression/import?dry_run=true" } else { "/v1/suppression/import" };
    let progress = Progress { octets, length, began, is_shown: io::stderr().is_terminal() && !json };
    let sent = client.send_stream::<SuppressionImported, SuppressionImport>(
        path,
        receiver,
        IMPORT_WITHIN,
        (TELL_EVERY, "/v1/suppression/import"),
        |so_far| progress.show(so_far),
    );
    progress.clear();
    let account = match reading.join() {
        Ok(Ok(account)) => account,
        Ok(Err(error)) => {
            eprintln!("postrider: {}: {error}; nothing was imported", arguments.file.display());
            return Ok(Ok(ExitCode::FAILURE));
        }
        Err(_) => return Ok(Ok(ExitCode::FAILURE)),
    };
    let imported = match sent {
        // Whoever only wants to know whether a file is sound needs no daemon.
        Err(ClientError::NoDaemon { .. }) if arguments.dry_run => None,
        sent => Some(answered!(sent)),
    };
    tell(&account, imported, arguments.dry_run, json, out)?;
    Ok(Ok(if account.bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn open(path: &Path) -> io::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((Box::new(file), Some(length)))
}

/// Reads to the end, whether anybody still listens or not: a dry run without a daemon counts all the same.
fn read<R: io::BufRead>(
    reader: Reader<R>,
    now: crate::time::Timestamp,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<Account> {
    let (mut account, mut chunk, mut is_heard) = (Account::default(), Vec::with_capacity(CHUNK_LENGTH + 4096), true);
    for row in reader {
        let (line, row) = match row {
            Ok(row) => row,
            Err(error) => {
                // Breaks the request off, so that the daemon takes nothing.
                let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
                return Err(error);
            }
        };
        match row {
            Row::Entry(address, entry) => {
                account.entries += 1;
                if is_heard {
                    serde_json::to_writer(&mut chunk, &json_of(&address, &entry, now))?;
                    chunk.push(b'\n');
                }
            }
            Row::LeftOut(why) => *account.left_out.entry(why).or_default() += 1,
            Row::Bad(why) => {
                account.bad += 1;
                if account.told.len() < BAD_TOLD_MAX {
                    account.told.push(format!("line {line}: {why}"));
                }
            }
        }
        if chunk.len() >= CHUNK_LENGTH {
            is_heard = is_heard && sender.blocking_send(Ok(Bytes::from(std::mem::take(&mut chunk)))).is_ok();
        }
    }
    if !chunk.is_empty() {
        let _ = sender.blocking_send(Ok(Bytes::from(chunk)));
    }
    Ok(account)
}

/// How far it is, on a terminal.
struct Progress {
    octets: Arc<AtomicU64>,
    length: Option<u64>,
    began: Instant,
    is_shown: bool,
}

impl Progress {
    fn show(&self, so_far: Option<SuppressionImport>) {
        if !self.is_shown {
            return;
        }
        let read = self.octets.load(Ordering::Relaxed);
        let share = self.length.filter(|length| *length > 0).map(|length| (read * 100 / length).min(100));
        let share = share.map_or_else(|| format!("{} MiB", read >> 20), |share| format!("{share:3} %"));
        let taken = so_far.map_or(0, |so_far| so_far.taken);
        let merged = so_far.map_or(0, |so_far| so_far.merged);
        let what = match merged {
            0 => format!("read {share}, {taken} lines with the daemon"),
            merged => format!("read {share}, {merged} entries sorted into the list"),
        };
        eprint!("\r{what}, {} s \x1b[K", self.began.elapsed().as_secs());
    }

    fn clear(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

fn tell(
    account: &Account,
    imported: Option<SuppressionImported>,
    dry_run: bool,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if json {
        let said = serde_json::json!({
            "dry_run": dry_run,
            "entries": account.entries,
            "imported": imported,
            "left_out": account.left_out,
            "bad": account.bad,
            "bad_lines": account.told,
        });
        return writeln!(out, "{said}");
    }
    for bad in &account.told {
        eprintln!("{bad}");
    }
    if account.bad > account.told.len() as u64 {
        eprintln!("… and {} more lines that cannot be read", account.bad - account.told.len() as u64);
    }
    match imported {
        Some(done) => {
            let verb = if dry_run { "would be added" } else { "added" };
            let other = if dry_run { "would be changed" } else { "changed" };
            writeln!(out, "{:>10}  {verb}", done.added)?;
            writeln!(out, "{:>10}  {other}: they were there and say more now", done.changed)?;
            writeln!(out, "{:>10}  known already", done.known)?;
            writeln!(out, "{:>10}  said twice in the file", done.taken.saturating_sub(done.distinct))?;
        }
        None => {
            writeln!(
                out,
                "{:>10}  to be put in; no daemon runs, so what the list has already is not known",
                account.entries
            )?;
        }
    }
    for (why, count) in &account.left_out {
        writeln!(out, "{count:>10}  left out: {why}")?;
    }
    match account.bad {
        0 => Ok(()),
        bad => writeln!(out, "{bad:>10}  lines that cannot be read"),
    }
}
