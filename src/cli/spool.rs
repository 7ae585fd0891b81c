//! `postrider spool`: verify it, rebuild the queue's index from it, copy it while it runs, and put a copy back.
//!
//! `check` reads beside a running daemon and changes nothing. `rebuild` and `restore` need a stopped one, and say so.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, ClientError, Daemon, conclude};
use crate::clock::Clock;
use crate::queue::{self, Ground, Queue};
use crate::size::ByteSize;
use crate::spool::{self, CheckProgress, CheckReport, Disk, FileDisk};
use crate::suppression;

/// The spool's directory below the data directory.
const SPOOL_DIR: &str = "spool";
/// The index's.
const INDEX_DIR: &str = "index";
/// Longest wait for a backup by the daemon: what cannot be linked is copied.
const BACKUP_WITHIN: Duration = Duration::from_secs(3600);
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Verify, rebuild, back up and restore the spool.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Verify every record and body, and the suppression list's files, beside a running daemon or without one. Changes nothing.
    Check,
    /// Delete the queue's index and make it anew from the spool. The daemon must be stopped.
    Rebuild,
    /// Copy the spool to a new directory, while the daemon runs or is stopped.
    Backup {
        /// A directory that does not exist yet.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Put a backup in place of a spool that is gone. What was delivered since is delivered again.
    Restore {
        /// What `spool backup` made.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

/// Runs `postrider spool …`, and prints what came of it.
///
/// # Errors
/// The disk said no, or standard output is closed.
pub fn run(daemon: Daemon<'_>, command: &Command, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let spool_dir = daemon.data_dir.join(SPOOL_DIR);
    match command {
        Command::Check => check(&spool_dir, json, out),
        Command::Rebuild => rebuild(daemon, &spool_dir, json, out),
        Command::Backup { directory } => backup(daemon, &spool_dir, directory, json, out),
        Command::Restore { directory } => restore(daemon, &spool_dir, directory, json, out),
    }
}

fn check(spool_dir: &Path, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let disk = existing(spool_dir)?;
    let mut shown = Meter::default();
    let report = spool::check(&disk, |progress| shown.show(progress))?;
    shown.clear();
    let CheckReport { segments, records, live, mut lines, mut damaged, quarantined } = report;
    let list_files = suppression::check(&disk, |line| {
        damaged += 1;
        if lines.len() < spool::DAMAGE_LINES_MAX {
            lines.push(line);
        }
    })?;
    if json {
        let all = json!({ "segments": segments, "records": records, "live": live, "suppression_files": list_files,
            "damaged": damaged, "quarantined": quarantined, "damage": lines });
        writeln!(out, "{all:#}")?;
    } else {
        for line in &lines {
            writeln!(out, "damaged: {line}")?;
        }
        writeln!(
            out,
            "{segments} segments, {records} sound records, {live} envelopes waiting; {list_files} files of the suppression list."
        )?;
        match (damaged, quarantined) {
            (0, 0) => writeln!(out, "Nothing is damaged.")?,
            (0, files) => writeln!(out, "Nothing is damaged; {files} older finds are in quarantine.")?,
            (places, files) => writeln!(out, "{places} places are damaged; {files} files are in quarantine.")?,
        }
    }
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rebuild(daemon: Daemon<'_>, spool_dir: &Path, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let disk = existing(spool_dir)?;
    // Held while the index is deleted, so that no daemon starts on half of it.
    let lock = stopped(&disk)?;
    let index_dir = daemon.data_dir.join(INDEX_DIR);
    match fs::remove_dir_all(&index_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(within(&index_dir, &error)),
        _ => (),
    }
    drop(lock);
    let started = Instant::now();
    let ground = Ground {
        spool: spool::Settings::default(),
        disk: Arc::new(disk),
        fatal: Box::new(spool::abort),
        before_write: || {},
        clock: Arc::new(Clock::default()),
        state: Box::new(|_| ()),
    };
    let settings = queue::Settings { index_dir: Some(index_dir.clone()), ..queue::Settings::default() };
    let (queue, report) = Queue::open(settings, ground).map_err(io::Error::other)?;
    let waiting = queue.len();
    queue.close();
    hand_over(&index_dir, daemon.data_dir)?;
    hand_over(spool_dir, daemon.data_dir)?;
    match json {
        true => writeln!(out, "{:#}", json!({ "waiting": waiting, "quarantined": report.quarantined }))?,
        false => writeln!(
            out,
            "The index was rebuilt from the spool in {:.1} s: {waiting} envelopes wait, {} records are in quarantine.",
            started.elapsed().as_secs_f64(),
            report.quarantined
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

fn backup(
    daemon: Daemon<'_>,
    spool_dir: &Path,
    directory: &Path,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<ExitCode> {
    let directory = std::path::absolute(directory)?;
    let client = Client::new(daemon)?;
    let asked = client.tell::<Value>("/v1/spool/backup", &json!({ "directory": directory }), BACKUP_WITHIN);
    match asked {
        Ok(_) => (),
        Err(ClientError::NoDaemon { .. }) => {
            let disk = existing(spool_dir)?;
            let _lock = stopped(&disk)?;
            spool::restore(spool_dir, &directory).map_err(|error| within(&directory, &error))?;
        }
        Err(error) => return Ok(conclude(Err(error))),
    }
    match json {
        true => writeln!(out, "{:#}", json!({ "directory": directory }))?,
        false => writeln!(out, "The spool was copied to {}.", directory.display())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(
    daemon: Daemon<'_>,
    spool_dir: &Path,
    directory: &Path,
    json: bool,
    out: &mut dyn Write,
) -> io::Result<ExitCode> {
    if !directory.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{}: no such directory", directory.display())));
    }
    if spool_dir.exists() {
        let text = format!("{}: a spool is there; move it away first", spool_dir.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    // Half a spool under the final name would be taken for a whole one.
    let partial = daemon.data_dir.join("spool.restoring");
    let copied = spool::restore(directory, &partial).and_then(|()| hand_over(&partial, daemon.data_dir));
    if let Err(error) = copied {
        // What was there before is not ours to remove.
        if error.kind() != io::ErrorKind::AlreadyExists {
            let _ = fs::remove_dir_all(&partial);
        }
        return Err(within(&partial, &error));
    }
    // The index of the spool that was here before may bear the restored one's name and a record that it has too: it would
    // be believed, and point to places that are not there. Without one, the next start reads the spool.
    let index_dir = daemon.data_dir.join(INDEX_DIR);
    match fs::remove_dir_all(&index_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(within(&index_dir, &error)),
        Ok(()) | Err(_) => {}
    }
    fs::rename(&partial, spool_dir)?;
    fs::File::open(daemon.data_dir)?.sync_all()?;
    match json {
        true => writeln!(out, "{:#}", json!({ "spool": spool_dir }))?,
        false => writeln!(out, "{} was restored from {}.", spool_dir.display(), directory.display())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The spool's directory, which must be there: a command that reads must not make one.
fn existing(spool_dir: &Path) -> io::Result<FileDisk> {
    match spool_dir.is_dir() {
        true => FileDisk::new(spool_dir).map_err(|error| within(spool_dir, &error)),
        false => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("{}: there is no spool here", spool_dir.display())))
        }
    }
}

/// The spool's lock, which a running daemon holds.
fn stopped(disk: &FileDisk) -> io::Result<Box<dyn Send + Sync>> {
    disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::ResourceBusy, "the daemon is using the spool: stop it first")
        }
        _ => within(disk.root(), &error),
    })
}

/// What root makes must belong to the service's user, who owns the data directory.
fn hand_over(path: &Path, data_dir: &Path) -> io::Result<()> {
    let owner = fs::metadata(data_dir)?;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if (meta.uid(), meta.gid()) != (owner.uid(), owner.gid()) && !meta.is_symlink() {
            chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(|error| within(&path, &error))?;
        }
        if meta.is_dir() {
            left.extend(fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path()));
        }
    }
    Ok(())
}

fn within(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Progress on standard error, if somebody looks.
#[derive(Default)]
struct Meter {
    last: Option<Instant>,
}

impl Meter {
    fn show(&mut self, progress: CheckProgress) {
        let due = self.last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY);
        if !due || !io::stderr().is_terminal() {
            return;
        }
        self.last = Some(Instant::now());
        let percent = (progress.done_bytes * 100).checked_div(progress.total_bytes).unwrap_or(100);
        eprint!("\r{percent:>3} % of {}", ByteSize(progress.total_bytes));
    }

    fn clear(&self) {
        if self.last.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
