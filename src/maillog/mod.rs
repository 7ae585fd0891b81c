//! The mail log in the form that analysers read: Postfix's, line for line as `pflogsumm`, fail2ban and the exporters
//! expect them, beside the structured log. `submission` and `events` write it; nobody waits for it.
//!
//! ```text
//!   write ──► lines in memory ──► one thread ──► the file, /dev/log, or the journal's socket
//! ```
//!
//! The number in brackets, a process in Postfix, is a client's connection in `smtpd`'s lines, so that what pairs the lines
//! of one session by it finds them; everywhere else it is our process.

mod line;
mod sink;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::time::Timestamp;

pub use line::{Delays, Said, Tail, client, delivery, expired, lost, queued, refused, session_end};

use sink::Sink;

/// What waits to be written, at most; a line beyond it is dropped, counted and told of. Unit: octets.
const WAITING_MAX: usize = 32 * 1024 * 1024;
/// How often is written at most.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// Longest line's text; a stranger's words fill no disk. Unit: octets. syslogd's own limits are below it.
const TEXT_LENGTH_MAX: usize = 2048;
/// Numbers of sessions begin anew behind this: what pairs lines by them takes them for process ids.
const SESSION_MAX: u32 = 4_194_304;

/// Where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The syslog socket, `/dev/log`.
    Syslog,
    /// systemd's journal, under the identifiers that syslog would show.
    Journal,
    /// A file. One that was moved away is made anew.
    File(PathBuf),
}

/// Who speaks: the part of the house that has this name in Postfix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Service {
    /// The server of listeners of mode `smtp`.
    Smtpd,
    /// Of mode `submission`.
    Submission,
    /// Of mode `submissions`.
    Smtps,
    /// Mail of local programs.
    Pickup,
    /// Messages as they are taken in.
    Cleanup,
    /// The queue.
    Qmgr,
    /// Attempts.
    Smtp,
    /// Ends without an attempt.
    Error,
    /// Reports of ours.
    Bounce,
}

impl Service {
    /// Its name in a line.
    pub fn name(self) -> &'static str {
        match self {
            Service::Smtpd => "postfix/smtpd",
            Service::Submission => "postfix/submission/smtpd",
            Service::Smtps => "postfix/smtps/smtpd",
            Service::Pickup => "postfix/pickup",
            Service::Cleanup => "postfix/cleanup",
            Service::Qmgr => "postfix/qmgr",
            Service::Smtp => "postfix/smtp",
            Service::Error => "postfix/error",
            Service::Bounce => "postfix/bounce",
        }
    }
}

/// A client's connection, as its lines name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// By the listener's mode.
    pub service: Service,
    /// Its own.
    pub number: u32,
    /// Of the login, if there was one.
    pub mechanism: Option<&'static str>,
}

/// One line that waits.
#[derive(Debug)]
struct Entry {
    at: Timestamp,
    service: Service,
    /// Zero: our process.
    number: u32,
    text: String,
}

/// The log's handle. Cheap to clone. The default one writes nothing.
#[derive(Clone, Default)]
pub struct Maillog {
    shared: Option<Arc<Shared>>,
}

/// A clock, since rooms of one floor do not name each other.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

struct Shared {
    now: Clock,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    closing: AtomicBool,
    sessions: AtomicU32,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: Vec<Entry>,
    weight: usize,
    lost: u64,
}

impl std::fmt::Debug for Maillog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maillog").field("is_on", &self.is_on()).finish()
    }
}

impl Maillog {
    /// Begins to write to `target`, which need not be there yet. `hostname` stands in a file's lines; syslog adds its
    /// own.
    pub fn open(target: Target, hostname: &str, now: Clock) -> std::io::Result<Maillog> {
        let shared = Arc::new(Shared {
            now,
            waiting: Mutex::new(Waiting::default()),
            wake: Condvar::new(),
            closing: AtomicBool::new(false),
            sessions: AtomicU32::new(0),
            writer: Mutex::new(None),
        });
        let writer = Writer { shared: shared.clone(), sink: Sink::new(target, hostname) };
        let thread = std::thread::Builder::new().name("maillog".to_owned()).spawn(move || writer.run())?;
        *lock(&shared.writer) = Some(thread);
        Ok(Maillog { shared: Some(shared) })
    }

    /// Whether anything is written: callers need not make lines for nobody.
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// A number for a session that begins.
    pub fn session(&self, service: Service) -> Session {
        let next = self.shared.as_ref().map_or(0, |shared| shared.sessions.fetch_add(1, Ordering::Relaxed));
        Session { service, number: next % SESSION_MAX + 1, mechanism: None }
    }

    /// Writes one line of a session.
    pub fn write_of(&self, session: Session, text: impl FnOnce() -> String) {
        self.put(session.service, session.number, text);
    }

    /// Writes one line.
    pub fn write(&self, service: Service, text: impl FnOnce() -> String) {
        self.put(service, 0, text);
    }

    fn put(&self, service: Service, number: u32, text: impl FnOnce() -> String) {
        let Some(shared) = &self.shared else { return };
        let text = line::safe(text(), TEXT_LENGTH_MAX);
        let weight = text.len() + size_of::<Entry>();
        let mut waiting = lock(&shared.waiting);
        if waiting.weight + weight > WAITING_MAX {
            waiting.lost += 1;
            return;
        }
        waiting.weight += weight;
        // Under the lock, so that lines stand in the order of their times.
        waiting.entries.push(Entry { at: (shared.now)(), service, number, text });
        if waiting.entries.len() == 1 {
            shared.wake.notify_one();
        }
    }

    /// Writes what waits, and ends the thread. Blocks, on a broken disk for as long as that does.
    pub fn close(&self) {
        let Some(shared) = &self.shared else { return };
        shared.closing.store(true, Ordering::Release);
        shared.wake.notify_one();
        let writer = lock(&shared.writer).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

/// A client's name and address, as every line of a session has them. Names are not looked up: it is `unknown`, or
/// `localhost`.
pub fn peer(address: IpAddr) -> String {
    let address = address.to_canonical();
    let name = if address.is_loopback() { "localhost" } else { "unknown" };
    format!("{name}[{address}]")
}

struct Writer {
    shared: Arc<Shared>,
    sink: Sink,
}

impl Writer {
    fn run(mut self) {
        loop {
            let waiting = lock(&self.shared.waiting);
            let closing = || self.shared.closing.load(Ordering::Acquire);
            let waiting = self.shared.wake.wait_while(waiting, |w| w.entries.is_empty() && w.lost == 0 && !closing());
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            let Waiting { entries, lost, .. } = std::mem::take(&mut *waiting);
            drop(waiting);
            if entries.is_empty() && lost == 0 {
                return;
            }
            let lost = lost + self.sink.write(&entries);
            if lost > 0 {
                tracing::warn!(lines = lost, "the classic mail log lost lines: {}", self.sink.trouble());
            }
            // A moment for more to come: a write of many lines costs as much as one.
            if !closing() {
                std::thread::sleep(WRITE_EVERY);
            }
        }
    }
}

/// No panic can leave what waits half changed in a way that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
