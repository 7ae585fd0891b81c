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

/// What waits, of all threads. Never locked while something is written.
static WAITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Held by who writes, with a buffer to write from; locked before [`WAITING`], so that lines keep their order.
static WRITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Whether anything waits, so that a worker who goes to sleep need not lock to find nothing.
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
    write_waiting(&WAITING, &WRITING, &mut io::stderr());
}

fn write_waiting(waiting: &Mutex<Vec<u8>>, writing: &Mutex<Vec<u8>>, out: &mut dyn Write) {
    let mut lines = lock(writing);
    {
        let mut waiting = lock(waiting);
        SOME_WAIT.store(false, Ordering::Relaxed);
        std::mem::swap(&mut *waiting, &mut *lines);
    }
    if !lines.is_empty() {
        // As the log itself: there is nowhere to tell of an error.
        let _ = out.write_all(&lines);
    }
    match lines.capacity() > 2 * FULL {
        true => *lines = Vec::new(),
        false => lines.clear(),
    }
}

fn lock(lines: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
        add(octets, self.can_wait, &WAITING, flush);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn add(line: &[u8], can_wait: bool, waiting: &Mutex<Vec<u8>>, write: impl FnOnce()) {
    let length = {
        let mut waiting = lock(waiting);
        SOME_WAIT.store(true, Ordering::Relaxed);
        waiting.extend_from_slice(line);
        waiting.len()
    };
    if !can_wait || length >= FULL {
        write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers each write by itself.
    #[derive(Default)]
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

    #[derive(Default)]
    struct Log {
        waiting: Mutex<Vec<u8>>,
        writing: Mutex<Vec<u8>>,
        written: Mutex<Writes>,
    }

    impl Log {
        fn add(&self, line: &[u8], can_wait: bool) {
            add(line, can_wait, &self.waiting, || self.flush());
        }

        fn flush(&self) {
            write_waiting(&self.waiting, &self.writing, &mut *self.written.lock().unwrap());
        }

        fn writes(self) -> Vec<String> {
            self.written.into_inner().unwrap().0
        }
    }

    #[test]
    fn lines_wait_for_one_that_cannot_and_go_out_with_it_in_one_write_in_their_order() {
        let log = Log::default();
        log.add(b"accepted\n", true);
        log.add(b"delivered\n", true);
        assert!(log.written.lock().unwrap().0.is_empty());
        log.add(b"a warning\n", false);
        log.flush();
        assert_eq!(log.writes(), ["accepted\ndelivered\na warning\n"], "nothing waits, so nothing more is written");
    }

    #[test]
    fn no_more_waits_than_is_full_and_no_long_buffer_is_kept() {
        let log = Log::default();
        (0..40).for_each(|_| log.add(&[b'a'; 1000], true));
        log.add(&[b'a'; 100_000], true);
        let capacities = [&log.waiting, &log.writing].map(|lines| lock(lines).capacity());
        assert!(capacities.iter().all(|capacity| *capacity <= 2 * FULL), "{capacities:?}");
        let lengths: Vec<usize> = log.writes().iter().map(String::len).collect();
        assert_eq!(lengths, [17_000, 17_000, 106_000]);
    }

    #[test]
    fn each_threads_lines_are_written_once_and_in_their_order() {
        let log = Log::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for number in 0..2000 {
                        log.add(format!("{thread} {number}\n").as_bytes(), number % 7 != 0);
                    }
                });
            }
        });
        log.flush();
        let text = log.writes().concat();
        for thread in 0..4 {
            let begin = format!("{thread} ");
            let numbers: Vec<usize> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&begin))
                .map(|number| number.parse().unwrap())
                .collect();
            assert_eq!(numbers, (0..2000).collect::<Vec<_>>(), "of thread {thread}");
        }
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
