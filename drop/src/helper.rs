//! The helper's whole work: standard input to one file of the maildrop, or nothing at all.
//!
//! It runs with the maildrop's group for any user, so it takes no config and no environment, and opens no path that a user can
//! name. A file appears under its final name only when it is complete and on the disk; who is killed before leaves a
//! partial one without a lock, which the daemon removes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::process::{Resource, getegid, geteuid, getgid, getrlimit, getuid};

use crate::form::{Flaw, Guard, RECORD_LENGTH_MAX, Stamp, split_head};
use crate::{COMPLETE_PREFIX, MAILDROP, PARTIAL_PREFIX, WAKE_NAME};

/// EX_USAGE: a command line of no use.
const USAGE: u8 = 64;
/// EX_DATAERR: what came in is no letter.
const DATA: u8 = 65;
/// EX_UNAVAILABLE: there is no maildrop, or it may not be used.
const UNAVAILABLE: u8 = 69;
/// EX_TEMPFAIL: there is no room now.
const TEMPORARY: u8 = 75;

/// What a flood of mail leaves to everybody else: a twentieth of the disk's blocks and inodes, but at least and at most
/// this much.
const FREE_BYTES_MIN: u64 = 16 << 20;
const FREE_BYTES_MAX: u64 = 1 << 30;
const FREE_SHARE: u64 = 20;

/// Names tried before the directory is given up.
const NAMES_MAX: u32 = 16;

/// Why nothing was kept.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    fn disk(what: &str, error: io::Error) -> Failure {
        Failure::new(TEMPORARY, format!("{what}: {error}"))
    }
}

/// Runs the helper. Prints the name of what it kept.
pub fn main() -> ExitCode {
    match maildrop().and_then(|directory| keep(&directory, &mut io::stdin().lock())) {
        Ok(name) => {
            // It is kept, whether anybody reads its name or not.
            let _ = writeln!(io::stdout(), "{name}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(io::stderr(), "postrider-drop: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// The directory: the one that was compiled in; another only for who has no more rights than his own.
fn maildrop() -> Result<PathBuf, Failure> {
    let is_privileged = geteuid() != getuid() || getegid() != getgid();
    let arguments: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    match arguments.as_slice() {
        [] => Ok(PathBuf::from(MAILDROP)),
        [flag, path] if flag == "--maildrop" && (!is_privileged || path == MAILDROP) => Ok(PathBuf::from(path)),
        [flag, _] if flag == "--maildrop" => {
            Err(Failure::new(UNAVAILABLE, format!("set-gid, it writes to {MAILDROP} and nowhere else")))
        }
        _ => Err(Failure::new(USAGE, "usage: postrider-drop < letter (it is run by sendmail)")),
    }
}

/// Keeps what comes in, and gives its name.
fn keep(path: &Path, input: &mut impl Read) -> Result<String, Failure> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let directory =
        opened.map_err(|error| Failure::new(UNAVAILABLE, format!("{}: {}", path.display(), io::Error::from(error))))?;
    leave_room(&directory)?;
    let partial = Partial::create(&directory)?;
    let mut file = &partial.file;
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let stamp = Stamp { time_ms, uid: getuid().as_raw(), pid: std::process::id() };
    let mut quota = Quota::of_this_process();
    quota.take(stamp.bytes().len())?;
    file.write_all(&stamp.bytes()).map_err(|error| Failure::disk("queue file write error", error))?;
    copy(input, file, &mut quota, &directory)?;
    // RFC 5321 §6.1: what was taken over must not be lost; a crash after exit 0 finds the file and its name.
    file.sync_all().map_err(|error| Failure::disk("queue file write error", error))?;
    let synced = file.try_clone().map_err(|error| Failure::disk("queue file write error", error))?;
    let name = partial.publish()?;
    sync_directory(path, &synced).map_err(|error| Failure::disk("syncing the maildrop", error))?;
    wake(&directory);
    Ok(name)
}

/// Copies a letter, record by record.
fn copy(input: &mut impl Read, mut file: &File, quota: &mut Quota, directory: &OwnedFd) -> Result<(), Failure> {
    /// Written between two looks at the disk's room.
    const LOOK_EVERY: usize = 4 << 20;
    let bad = |flaw: Flaw| Failure::new(DATA, format!("this is no letter: {flaw}"));
    let short = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => bad(Flaw::Short),
        _ => Failure::new(DATA, format!("reading standard input: {error}")),
    };
    let mut guard = Guard::default();
    let mut buffer = vec![0; 5 + RECORD_LENGTH_MAX];
    let mut since_look = 0;
    while !guard.is_complete() {
        let (head, content) = buffer.split_at_mut(5);
        input.read_exact(head).map_err(short)?;
        let mut fixed = [0; 5];
        fixed.copy_from_slice(head);
        let (kind, length) = split_head(fixed);
        let content = content.get_mut(..length).ok_or_else(|| bad(Flaw::Record))?;
        input.read_exact(content).map_err(short)?;
        guard.take(kind, content).map_err(bad)?;
        let whole = buffer.get(..5 + length).unwrap_or_default();
        quota.take(whole.len())?;
        file.write_all(whole).map_err(|error| Failure::disk("queue file write error", error))?;
        since_look += whole.len();
        if since_look > LOOK_EVERY {
            since_look = 0;
            leave_room(directory)?;
        }
    }
    match input.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(bad(Flaw::Long)),
        Err(error) => Err(short(error)),
    }
}

/// A flood of mail must not fill the disk: the daemon answers 250 from what is left.
fn leave_room(directory: &OwnedFd) -> Result<(), Failure> {
    let Ok(disk) = rustix::fs::fstatvfs(directory.as_fd()) else { return Ok(()) };
    let block = disk.f_frsize.max(1);
    let (free, whole) = (disk.f_bavail.saturating_mul(block), disk.f_blocks.saturating_mul(block));
    let least = (whole / FREE_SHARE).clamp(FREE_BYTES_MIN.min(whole / 2), FREE_BYTES_MAX);
    // Some file systems have no fixed number of inodes, and say zero.
    let has_inodes = disk.f_files == 0 || disk.f_favail >= (disk.f_files / FREE_SHARE).min(10_000);
    match free >= least && has_inodes {
        true => Ok(()),
        false => Err(Failure::new(TEMPORARY, "insufficient system storage: the maildrop's disk is nearly full")),
    }
}

/// The user's own limit of a file's length (RLIMIT_FSIZE): met as an error, where the kernel would send a signal.
struct Quota {
    left: Option<u64>,
}

impl Quota {
    fn of_this_process() -> Quota {
        Quota { left: getrlimit(Resource::Fsize).current }
    }

    fn take(&mut self, length: usize) -> Result<(), Failure> {
        let Some(left) = &mut self.left else { return Ok(()) };
        let after = left.checked_sub(length as u64);
        *left =
            after.ok_or_else(|| Failure::new(TEMPORARY, "queue file write error: File too large (RLIMIT_FSIZE)"))?;
        Ok(())
    }
}

/// A file that is being written. Removed when dropped before it is published.
struct Partial<'a> {
    directory: &'a OwnedFd,
    file: File,
    name: String,
    published: bool,
}

impl<'a> Partial<'a> {
    fn create(directory: &'a OwnedFd) -> Result<Partial<'a>, Failure> {
        // Its own process alone writes it; the daemon, in the maildrop's group, reads it.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for attempt in 0..NAMES_MAX {
            let name = fresh_name(attempt).map_err(|error| Failure::disk("/dev/urandom", error))?;
            let partial = format!("{PARTIAL_PREFIX}{name}");
            match rustix::fs::openat(directory, &partial, flags, mode) {
                Ok(file) => {
                    let partial = Partial { directory, file: File::from(file), name, published: false };
                    // Whatever umask the user has.
                    rustix::fs::fchmod(&partial.file, mode)
                        .and_then(|()| rustix::fs::flock(&partial.file, FlockOperation::NonBlockingLockExclusive))
                        .map_err(|error| Failure::disk("queue file write error", error.into()))?;
                    return Ok(partial);
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => {
                    last = error.into();
                    break;
                }
            }
        }
        let code = match last.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => UNAVAILABLE,
            _ => TEMPORARY,
        };
        Err(Failure::new(code, format!("cannot write to the maildrop: {last}")))
    }

    /// Gives it its final name.
    fn publish(mut self) -> Result<String, Failure> {
        let (from, to) = (format!("{PARTIAL_PREFIX}{}", self.name), format!("{COMPLETE_PREFIX}{}", self.name));
        rustix::fs::renameat(self.directory, &from, self.directory, &to)
            .map_err(|error| Failure::disk("queue file rename error", error.into()))?;
        self.published = true;
        Ok(to)
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.published {
            let _ = rustix::fs::unlinkat(self.directory, format!("{PARTIAL_PREFIX}{}", self.name), AtFlags::empty());
        }
    }
}

/// A name that nobody had before: time, so that names are in the order of arrival, and 64 bits of chance, so that nobody
/// can take it first. Letters and digits only, as log analysers read ids.
fn fresh_name(attempt: u32) -> io::Result<String> {
    let mut chance = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut chance)?;
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Ok(format!("{millis:012X}{:016X}{attempt:X}", u64::from_be_bytes(chance)))
}

/// Makes the new name durable. A maildrop that its group cannot open to read (mode 1730) is synced with its whole file
/// system.
fn sync_directory(path: &Path, file: &File) -> io::Result<()> {
    match File::open(path) {
        Ok(directory) => directory.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(rustix::fs::syncfs(file)?),
        Err(error) => Err(error),
    }
}

/// Tells the daemon, if one listens. It looks by itself once a second, so nothing depends on this.
fn wake(directory: &OwnedFd) {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(pipe) = rustix::fs::openat(directory, WAKE_NAME, flags, Mode::empty()) {
        let _ = rustix::io::write(&pipe, b"!");
    }
}
