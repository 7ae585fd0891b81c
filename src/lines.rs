//! Standard error as the structured log's file, several lines a write where that loses nothing.
//!
//! A line is in the kernel before its caller goes on, so that what follows from it is not done before it is told. Those of a
//! message may come [`later`], by [`GATHER`], since a relay under load logs three of them a message, and a write costs more than
//! making the line. They lose nothing by it: `accepted` tells of what the spool has, and whoever writes what became of a
//! recipient to the spool calls [`flush`] first, so that no end is there without its line, whoever kills the daemon. Lines stand
//! in the order in which they were logged, whoever logged them.

mod text;

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

pub use text::Text;

/// How long a line that may wait does so. As long as the spool's settles wait for their sync.
const GATHER: Duration = Duration::from_millis(10);
/// Where so much waits, whoever logs writes it first. Unit: octets.
const WAITING_MAX: usize = 1024 * 1024;
/// A longer buffer is not kept. Unit: octets.
const KEPT_MAX: usize = 64 * 1024;
/// How often a standard error that must not block, and takes nothing now, is asked again, and how many times.
const RETRY_EVERY: Duration = Duration::from_millis(5);
const RETRIES_MAX: u32 = 200;

static LOG: Log = Log::new();

/// Held by tests that read what is logged: `tracing` keeps for the whole process which levels anybody listens to.
#[cfg(test)]
pub static LISTENING: Mutex<()> = Mutex::new(());

thread_local! {
    /// What this thread logs now may wait.
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `tell`, and writes the lines that it logs within [`GATHER`], with those of others.
pub fn later<T>(tell: impl FnOnce() -> T) -> T {
    struct End(bool);
    impl Drop for End {
        fn drop(&mut self) {
            MAY_WAIT.set(self.0);
        }
    }
    let _end = End(MAY_WAIT.replace(true));
    tell()
}

/// Starts the thread that writes what waits, and lets panics write it first. Until then, and once what this returns is
/// dropped, each line is written at once.
///
/// # Errors
/// There is no thread to be had.
pub fn gather() -> io::Result<Gathering> {
    std::thread::Builder::new().name("log".into()).spawn(|| {
        LOG.is_gathering.store(true, Ordering::Relaxed);
        loop {
            LOG.await_lines();
            std::thread::sleep(GATHER);
            flush();
        }
    })?;
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        LOG.flush_unless_busy(&mut io::stderr());
        tell(panic);
    }));
    Ok(Gathering(()))
}

/// While it lives, lines wait for each other.
#[derive(Debug)]
pub struct Gathering(());

impl Drop for Gathering {
    fn drop(&mut self) {
        LOG.is_gathering.store(false, Ordering::Relaxed);
        flush();
    }
}

/// Writes what waits.
pub fn flush() {
    LOG.flush(&mut io::stderr());
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
        // The first of all levels is the gravest.
        Line { can_wait: *meta.level() >= Level::INFO && MAY_WAIT.get() }
    }
}

/// One line.
#[derive(Debug)]
pub struct Line {
    can_wait: bool,
}

impl Write for Line {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        LOG.add(octets, self.can_wait, &mut io::stderr());
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Log {
    /// Never locked while something is written.
    waiting: Mutex<Waiting>,
    /// Told when a line waits while the log's thread sleeps.
    some_wait: Condvar,
    /// Held by who writes, with a buffer to write from; locked before `waiting`, so that lines keep their order.
    writing: Mutex<Vec<u8>>,
    is_gathering: AtomicBool,
}

/// What waits to be written, of all threads.
struct Waiting {
    lines: Vec<u8>,
    /// The log's thread sleeps until a line waits. Telling it is a system call, whether it sleeps or not.
    is_awaited: bool,
}

impl Log {
    const fn new() -> Log {
        Log {
            waiting: Mutex::new(Waiting { lines: Vec::new(), is_awaited: false }),
            some_wait: Condvar::new(),
            writing: Mutex::new(Vec::new()),
            is_gathering: AtomicBool::new(false),
        }
    }

    fn add(&self, line: &[u8], can_wait: bool, out: &mut dyn Write) {
        let (waits, is_awaited) = {
            let mut waiting = lock(&self.waiting);
            waiting.lines.extend_from_slice(line);
            let waits = can_wait && waiting.lines.len() < WAITING_MAX && self.is_gathering.load(Ordering::Relaxed);
            (waits, waits && std::mem::take(&mut waiting.is_awaited))
        };
        if !waits {
            self.flush(out);
        } else if is_awaited {
            self.some_wait.notify_one();
        }
    }

    fn await_lines(&self) {
        let waiting = lock(&self.waiting);
        // Poisoned or not, what waits is whole lines.
        drop(self.some_wait.wait_while(waiting, |waiting| {
            waiting.is_awaited = waiting.lines.is_empty();
            waiting.is_awaited
        }));
    }

    fn flush(&self, out: &mut dyn Write) {
        self.write(&mut lock(&self.writing), out);
    }

    /// As `flush`, unless a thread writes, which may be this one.
    fn flush_unless_busy(&self, out: &mut dyn Write) {
        match self.writing.try_lock() {
            Ok(mut lines) => self.write(&mut lines, out),
            Err(TryLockError::Poisoned(poisoned)) => self.write(&mut poisoned.into_inner(), out),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    fn write(&self, lines: &mut Vec<u8>, out: &mut dyn Write) {
        match &mut lock(&self.waiting).lines {
            waiting if lines.is_empty() => std::mem::swap(waiting, lines),
            waiting => lines.append(waiting),
        }
        let written = write_all(lines, out);
        let is_cut = written < lines.len() && written > 0 && lines.get(written - 1) != Some(&b'\n');
        match lines.capacity() > KEPT_MAX {
            true => *lines = Vec::new(),
            false => lines.clear(),
        }
        if is_cut {
            // There is nowhere to tell of it, but what comes next begins a line of its own.
            lines.push(b'\n');
        }
    }
}

/// Says how much was written: all, unless the write failed.
fn write_all(lines: &[u8], out: &mut dyn Write) -> usize {
    let (mut written, mut retries) = (0, 0);
    while let Some(rest @ [_, ..]) = lines.get(written..) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares it with us made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && retries < RETRIES_MAX => {
                retries += 1;
                std::thread::sleep(RETRY_EVERY);
            }
            Err(_) => break,
        }
    }
    written
}

fn lock<T>(lines: &Mutex<T>) -> MutexGuard<'_, T> {
    lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers each write by itself, and fails as it is told.
    #[derive(Default)]
    struct Writes {
        all: Vec<String>,
        failures: Vec<(usize, io::ErrorKind)>,
    }

    impl Write for Writes {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            match self.failures.pop() {
                Some((0, kind)) => return Err(kind.into()),
                Some((takes, kind)) => {
                    self.failures.push((0, kind));
                    self.all.push(String::from_utf8_lossy(&octets[..takes]).into_owned());
                    return Ok(takes);
                }
                None => {}
            }
            self.all.push(String::from_utf8_lossy(octets).into_owned());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gathering() -> Log {
        let log = Log::new();
        log.is_gathering.store(true, Ordering::Relaxed);
        log
    }

    #[test]
    fn what_may_wait_ends_with_what_is_run_also_if_it_panics() {
        let inner = || (MAY_WAIT.get(), later(|| MAY_WAIT.get()), MAY_WAIT.get());
        assert_eq!((MAY_WAIT.get(), later(inner), MAY_WAIT.get()), (false, (true, true, true), false));
        let ended = std::panic::catch_unwind(|| later(|| panic!("on purpose")));
        assert!(ended.is_err() && !MAY_WAIT.get());
    }

    #[test]
    fn lines_wait_for_one_that_cannot_and_go_out_with_it_in_one_write_in_their_order() {
        let (log, mut out) = (gathering(), Writes::default());
        log.add(b"accepted\n", true, &mut out);
        log.add(b"delivered\n", true, &mut out);
        assert!(out.all.is_empty());
        log.add(b"a warning\n", false, &mut out);
        log.flush(&mut out);
        assert_eq!(out.all, ["accepted\ndelivered\na warning\n"], "nothing waits, so nothing more is written");
        // Before the start and after the end nothing waits.
        log.is_gathering.store(false, Ordering::Relaxed);
        log.add(b"stopped\n", true, &mut out);
        assert_eq!(out.all.len(), 2);
    }

    #[test]
    fn the_logs_thread_is_told_of_a_line_that_waits_and_of_no_other() {
        const LONGEST: Duration = Duration::from_secs(20);
        let (log, mut out) = (std::sync::Arc::new(gathering()), Writes::default());
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::sync::Arc::clone(&log);
        // Never joined: a thread that is not told fails the test, and does not hang it.
        std::thread::spawn(move || {
            thread.await_lines();
            tell.send(()).unwrap();
        });
        let begun = std::time::Instant::now();
        while !lock(&log.waiting).is_awaited {
            assert!(begun.elapsed() < LONGEST, "the thread waits");
            std::thread::sleep(Duration::from_millis(1));
        }
        log.add(b"a warning\n", false, &mut out);
        assert!(lock(&log.waiting).is_awaited, "what is written at once is nothing to wake up for");
        log.add(b"accepted\n", true, &mut out);
        told.recv_timeout(LONGEST).expect("the thread is told");
        assert!(!lock(&log.waiting).is_awaited);
        log.await_lines();
        assert!(!lock(&log.waiting).is_awaited && out.all == ["a warning\n"], "a line waits already");
    }

    #[test]
    fn what_waits_is_bounded_and_no_long_buffer_is_kept() {
        let (log, mut out) = (gathering(), Writes::default());
        (0..2200).for_each(|_| log.add(&[b'a'; 1000], true, &mut out));
        log.flush(&mut out);
        let lengths: Vec<usize> = out.all.iter().map(String::len).collect();
        assert_eq!(lengths, [1_049_000, 1_049_000, 102_000]);
        let capacities = [lock(&log.waiting).lines.capacity(), lock(&log.writing).capacity()];
        assert!(capacities.iter().all(|capacity| *capacity <= KEPT_MAX), "{capacities:?}");
    }

    #[test]
    fn a_failed_write_loses_what_was_written_and_glues_no_lines_together() {
        let (log, mut out) = (gathering(), Writes::default());
        out.failures = vec![(2, io::ErrorKind::StorageFull)];
        log.add(b"one\ntwo\n", false, &mut out);
        log.add(b"three\n", false, &mut out);
        assert_eq!(out.all, ["on", "\nthree\n"]);
        // It only had to be asked again.
        out.failures = vec![(3, io::ErrorKind::WouldBlock)];
        log.add(b"four\n", false, &mut out);
        out.failures = vec![(0, io::ErrorKind::Interrupted)];
        log.add(b"five\n", false, &mut out);
        assert_eq!(out.all[2..], ["fou", "r\n", "five\n"]);
    }

    #[test]
    fn each_threads_lines_are_written_once_and_in_their_order() {
        let (log, out) = (gathering(), Mutex::new(Writes::default()));
        struct Shared<'a>(&'a Mutex<Writes>);
        impl Write for Shared<'_> {
            fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(octets)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (log, out) = (&log, &out);
                scope.spawn(move || {
                    for number in 0..2000 {
                        let line = format!("{thread} {number}\n");
                        log.add(line.as_bytes(), number % 7 != 0, &mut Shared(out));
                    }
                });
            }
        });
        log.flush(&mut Shared(&out));
        let text = out.into_inner().unwrap().all.concat();
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
}
