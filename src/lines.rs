//! Standard error as the structured log's file, several lines a write where many come.
//!
//! What a worker of the runtime logs waits until a worker has nothing else to do, [`FULL`] octets wait, or anybody logs a
//! warning: a relay under load logs three lines a message, and a write costs as much as all else that a line does. Nobody sees
//! it but who kills the daemon at that moment: lines of the last milliseconds may be lost then, which is what the queue and the
//! history have of them is for. Other threads' lines, and all of a daemon that is not under load, are written at once. Lines
//! stand in the order in which they were logged, whoever logged them.

mod text;

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

pub use text::Text;

/// Where so much waits, it is written. Unit: octets. Some thirty messages.
const FULL: usize = 16 * 1024;

/// What waits, of all threads.
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: Vec::new() });
/// Whether anything does, so that a worker who goes to sleep need not lock to find nothing.
static SOME_WAIT: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// This thread is a worker: it writes what waits before it sleeps.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// A worker of the runtime is about to sleep: for the runtime's `on_thread_park`.
pub fn before_sleep() {
    IS_WORKER.set(true);
    if SOME_WAIT.load(Ordering::Relaxed) {
        flush();
    }
}

/// Writes what waits.
pub fn flush() {
    let mut waiting = waiting();
    // As the log itself: there is nowhere to tell of an error.
    let _ = waiting.write(&mut io::stderr());
    SOME_WAIT.store(false, Ordering::Relaxed);
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Where the log writes.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { can_wait: false }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { can_wait: can_wait(*meta.level()) }
    }
}

/// Whether a line of this level may wait on this thread. The first of all levels is the gravest.
fn can_wait(level: Level) -> bool {
    level >= Level::INFO && IS_WORKER.get()
}

/// One line.
#[derive(Debug)]
pub struct Line {
    can_wait: bool,
}

impl Write for Line {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut waiting = waiting();
        let waits = waiting.add(octets, self.can_wait, &mut io::stderr());
        SOME_WAIT.store(waits, Ordering::Relaxed);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Waiting {
    lines: Vec<u8>,
}

impl Waiting {
    /// Takes a line, and says whether it waits.
    fn add(&mut self, line: &[u8], can_wait: bool, out: &mut dyn Write) -> bool {
        self.lines.extend_from_slice(line);
        let waits = can_wait && self.lines.len() < FULL;
        if !waits {
            let _ = self.write(out);
        }
        waits
    }

    fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let written = if self.lines.is_empty() { Ok(()) } else { out.write_all(&self.lines) };
        match self.lines.capacity() > 2 * FULL {
            true => self.lines = Vec::new(),
            false => self.lines.clear(),
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers each write by itself.
    struct Writes(Vec<String>);

    impl Write for Writes {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.push(String::from_utf8_lossy(octets).into_owned());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_wait_for_one_that_cannot_and_go_out_with_it_in_one_write_in_their_order() {
        let (mut waiting, mut out) = (Waiting { lines: Vec::new() }, Writes(Vec::new()));
        assert!(waiting.add(b"accepted\n", true, &mut out));
        assert!(waiting.add(b"delivered\n", true, &mut out));
        assert!(out.0.is_empty());
        assert!(!waiting.add(b"a warning\n", false, &mut out));
        assert_eq!(out.0, ["accepted\ndelivered\na warning\n"]);
        waiting.write(&mut out).unwrap();
        assert_eq!(out.0.len(), 1, "nothing waits, so nothing is written");
    }

    #[test]
    fn no_more_waits_than_is_full() {
        let (mut waiting, mut out) = (Waiting { lines: Vec::new() }, Writes(Vec::new()));
        let line = [b'a'; 1000];
        let waited = (0..40).filter(|_| waiting.add(&line, true, &mut out)).count();
        assert_eq!((waited, out.0.len()), (38, 2));
        assert!(out.0.iter().all(|write| write.len() == 17_000));
        // A line longer than that, too, and its memory is not kept.
        assert!(!waiting.add(&[b'a'; 100_000], true, &mut out));
        assert!(waiting.lines.is_empty() && waiting.lines.capacity() <= 2 * FULL);
    }

    #[test]
    fn only_workers_lines_wait_and_no_warning() {
        let levels = || [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].map(can_wait);
        let on_worker = std::thread::spawn(move || {
            let before = levels();
            before_sleep();
            (before, levels())
        });
        assert_eq!(on_worker.join().unwrap(), ([false; 4], [false, false, true, true]));
    }
}
