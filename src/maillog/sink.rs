//! Where lines end: a file, the syslog socket, the journal. What cannot be written is dropped and told of once a minute.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Entry, Target};
use crate::time::syslog_time;

const SYSLOG: &str = "/dev/log";
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Facility `mail` (2), severity `info` (6): RFC 5424 §6.2.1.
const PRIORITY: u8 = 2 * 8 + 6;
/// How often is looked whether the file was moved away.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a reader that is slow.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// The way out.
pub(super) struct Sink {
    target: Target,
    hostname: Box<str>,
    process: u32,
    file: Option<(File, Instant)>,
    socket: Option<UnixDatagram>,
    trouble: Option<io::Error>,
}

impl Sink {
    pub(super) fn new(target: Target, hostname: &str) -> Sink {
        Sink { target, hostname: hostname.into(), process: std::process::id(), file: None, socket: None, trouble: None }
    }

    /// Why lines were lost.
    pub(super) fn trouble(&self) -> String {
        let at = match &self.target {
            Target::Syslog => SYSLOG.into(),
            Target::Journal => JOURNAL.into(),
            Target::File(path) => path.display().to_string(),
        };
        match &self.trouble {
            Some(error) => format!("{at}: {error}"),
            None => format!("{at} takes them slower than mail makes them"),
        }
    }

    /// Gives how many were lost.
    pub(super) fn write(&mut self, entries: &[Entry]) -> u64 {
        self.trouble = None;
        match &self.target {
            Target::File(path) => {
                let path = path.clone();
                match self.append(&path, entries) {
                    Ok(()) => 0,
                    Err(error) => {
                        self.file = None;
                        self.trouble = Some(error);
                        entries.len() as u64
                    }
                }
            }
            Target::Syslog => self.send_all(SYSLOG, entries, syslog),
            Target::Journal => self.send_all(JOURNAL, entries, journal),
        }
    }

    fn append(&mut self, path: &Path, entries: &[Entry]) -> io::Result<()> {
        let now = Instant::now();
        if self
            .file
            .as_ref()
            .is_some_and(|(file, looked)| now.duration_since(*looked) >= LOOK_EVERY && is_moved(file, path))
        {
            self.file = None;
        }
        let mut lines = String::with_capacity(entries.iter().map(|entry| entry.text.len() + 96).sum());
        for entry in entries {
            let number = self.number(entry);
            let _ = writeln!(
                lines,
                "{} {} {}[{number}]: {}",
                syslog_time(entry.at),
                self.hostname,
                entry.service.name(),
                entry.text
            );
        }
        let (file, looked) = match self.file.take() {
            Some((file, looked)) if now.duration_since(looked) < LOOK_EVERY => (file, looked),
            Some((file, _)) => (file, now),
            None => (OpenOptions::new().append(true).create(true).mode(0o640).open(path)?, now),
        };
        let (file, _) = self.file.insert((file, looked));
        file.write_all(lines.as_bytes())
    }

    fn number(&self, entry: &Entry) -> u32 {
        if entry.number == 0 { self.process } else { entry.number }
    }

    fn send_all(&mut self, to: &str, entries: &[Entry], form: fn(&Entry, u32) -> String) -> u64 {
        let mut lost = 0;
        for entry in entries {
            let datagram = form(entry, self.number(entry));
            // The reader may have been restarted since: once more on a new socket.
            let sent = self.send(to, datagram.as_bytes()).or_else(|_| {
                self.socket = None;
                self.send(to, datagram.as_bytes())
            });
            if let Err(error) = sent {
                (self.socket, self.trouble) = (None, Some(error));
                lost += 1;
            }
        }
        lost
    }

    fn send(&mut self, to: &str, datagram: &[u8]) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(to)?;
                socket.set_write_timeout(Some(SEND_WITHIN))?;
                self.socket.insert(socket)
            }
        };
        socket.send(datagram).map(|_| ())
    }
}

/// `logrotate` moved it, or somebody removed it.
fn is_moved(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) != (there.dev(), there.ino()),
        _ => true,
    }
}

/// RFC 3164 §4.1, as syslog(3) writes it to a local socket: no host name.
fn syslog(entry: &Entry, number: u32) -> String {
    format!("<{PRIORITY}>{} {}[{number}]: {}", syslog_time(entry.at), entry.service.name(), entry.text)
}

/// The journal's own protocol: fields, a line each. Texts hold no line ends.
fn journal(entry: &Entry, number: u32) -> String {
    let name = entry.service.name();
    format!("PRIORITY=6\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER={name}\nSYSLOG_PID={number}\nMESSAGE={}\n", entry.text)
}
