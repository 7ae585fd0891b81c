//! The history: what happened to mail and on connections, in files of a day each, kept for some weeks.
//!
//! `events` and the hands tell it; `cli` and `http` search it; `audit` re-counts limits from its event lines. It observes
//! and never decides: mail never waits for it, and a full or broken disk costs rows of it (counted, and said in the
//! files) and nothing else. `docs/HISTORY.md` draws the files.
//!
//! ```text
//!   tell ──► blocks in memory ──► one thread: write every 100 ms, sync every second ──► DATA/history/YYYY-MM-DD.*
//! ```

mod audit;
mod block;
mod day;
pub mod exercise;
mod index;
mod key;
mod report;
mod row;
mod search;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{error, warn};

pub use audit::{Audit, Certificate, Holder, Unit, Use, Violation, windows_text};
pub use report::{REPORTS_MAX, Report, ReportQuestion, Reports, reports};
pub use row::{
    Accepted, Attempt, Authenticated, CameBack, Closed, Connected, Decided, Dialed, Fact, Limits, Lost, Outcome,
    Reported, Row, Started,
};
pub use search::{Answer, ENVELOPES_MAX, Question, ROWS_MAX, trace};

use block::Builder;
use day::{Day, Open};

use crate::mail::{QueueId, Text};
use crate::time::Timestamp;

/// What waits to be written, at most. Unit: octets. Some 200,000 rows: more than a second of the fastest relay.
const WAITING_MAX: usize = 32 * 1024 * 1024;
/// How often is written at most: what a killed process loses.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// How often is synced: what a power cut loses.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep of a thread that has nothing to do.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

/// Where the files are, and how long they stay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The directory; made if it is missing.
    pub directory: PathBuf,
    /// How long rows are kept: whole days.
    pub keep: Duration,
    /// How long event lines are kept; zero: none are written.
    pub keep_events: Duration,
}

/// The history's handle. Cheap to clone. The default one keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct History {
    shared: Option<Arc<Shared>>,
}

/// A clock, since rooms of one floor do not name each other.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

struct Shared {
    /// What schedules go by.
    now: Clock,
    /// What limits are counted by: nobody sets it.
    steady: Clock,
    directory: PathBuf,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Told by the thread when all that waited is written.
    written: Condvar,
    counters: Counters,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    full: Vec<Builder>,
    filling: Builder,
    /// The last second that was told of, and its words.
    second: (u64, Text),
    weight: usize,
    lost: u64,
    settings: Option<Settings>,
    /// How many times all was asked to be written, and how many times it was.
    flushes: (u64, u64),
    closing: bool,
}

#[derive(Debug, Default)]
struct Counters {
    rows: AtomicU64,
    lost: AtomicU64,
    damaged: AtomicU64,
}

/// How often each thing happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Rows that were written.
    pub history_rows: u64,
    /// Rows that were dropped: told faster than the disk takes them, or the disk takes none.
    pub history_lost: u64,
    /// Damaged stretches that were found at a start.
    pub history_damaged: u64,
}

impl History {
    /// Opens the directory and starts the thread. `clock` is what schedules go by, and what nobody sets; `clean` says how
    /// the run before ended.
    ///
    /// # Errors
    /// The directory or today's files cannot be opened; the message names them.
    pub fn open(settings: Settings, (now, steady): (Clock, Clock), clean: bool) -> io::Result<History> {
        use std::os::unix::fs::DirBuilderExt;
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", settings.directory.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&settings.directory).map_err(named)?;
        let shared = Arc::new(Shared {
            now: now.clone(),
            steady,
            directory: settings.directory.clone(),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            written: Condvar::new(),
            counters: Counters::default(),
            writer: Mutex::default(),
        });
        let mut writer = Writer { shared: shared.clone(), settings: settings.clone(), open: None, silent: false };
        writer.turn_to(Day::of(now())).map_err(named)?;
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run())?;
        *shared.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(thread);
        let history = History { shared: Some(shared) };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        history.tell(Fact::Started(Started { version: version.into(), clean: u64::from(clean) }));
        Ok(history)
    }

    /// Whether anything is kept: callers need not make rows else.
    pub fn is_kept(&self) -> bool {
        self.shared.is_some()
    }

    /// The time that really passed, by which limits are counted. Zero without files.
    pub fn steady_ms(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| (shared.steady)().as_millis())
    }

    /// Keeps what just happened. Never waits for the disk; at overload the row is dropped and counted.
    pub fn tell(&self, fact: Fact) {
        let Some(shared) = &self.shared else { return };
        // Under the lock, so that rows stand in the order of their times.
        let mut waiting = shared.waiting();
        let at = (shared.now)();
        if waiting.weight + waiting.filling.weight() > WAITING_MAX || waiting.closing {
            waiting.lost += 1;
            return;
        }
        let idle = waiting.is_empty();
        waiting.push(Row { at, fact });
        if idle {
            shared.wake.notify_one();
        }
    }

    /// Waits until all that was told is written (not synced): a search that follows sees it. 5 s at most.
    pub fn flush(&self) {
        let Some(shared) = &self.shared else { return };
        let mut waiting = shared.waiting();
        waiting.flushes.0 += 1;
        let mine = waiting.flushes.0;
        shared.wake.notify_one();
        let wait = Duration::from_secs(5);
        let done = shared.written.wait_timeout_while(waiting, wait, |w| w.flushes.1 < mine && !w.closing);
        drop(done);
    }

    /// All that is kept of one envelope. Blocks.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn find(&self, id: QueueId, now: Timestamp) -> io::Result<Vec<Row>> {
        const DAY: Duration = Duration::from_secs(86_400);
        let Some(shared) = &self.shared else { return Ok(Vec::new()) };
        self.flush();
        search::of_envelope(&shared.directory, id, id.made_at().before(DAY), now)
    }

    /// Follows other settings; the directory stays.
    pub fn reload(&self, settings: Settings) {
        if let Some(shared) = &self.shared {
            shared.waiting().settings = Some(settings);
        }
    }

    /// Writes and syncs what waits, and ends the thread. What is told later is lost.
    pub fn close(&self) {
        let Some(shared) = &self.shared else { return };
        shared.waiting().closing = true;
        shared.wake.notify_one();
        let thread = shared.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(thread) = thread {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }

    /// Where the files are.
    pub fn directory(&self) -> Option<&Path> {
        self.shared.as_ref().map(|shared| shared.directory.as_path())
    }

    /// The counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let Some(shared) = &self.shared else { return Snapshot::default() };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            history_rows: read(&shared.counters.rows),
            history_lost: read(&shared.counters.lost) + shared.waiting().lost,
            history_damaged: read(&shared.counters.damaged),
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.full.is_empty() && self.filling.is_empty()
    }

    fn push(&mut self, mut row: Row) {
        self.filling.push(&mut row);
        if row.fact.is_event() {
            let time = self.time_of(row.at);
            if serde_json::to_writer(&mut self.filling.events, &Line { time: &time, row: &row }).is_ok() {
                self.filling.events.push(b'\n');
            }
        }
        if self.filling.is_full() {
            let full = std::mem::take(&mut self.filling);
            self.weight += full.weight();
            self.full.push(full);
        }
    }

    /// In words. Rows come many to a second, and all but the milliseconds is the same for them.
    fn time_of(&mut self, at: Timestamp) -> Text {
        let (second, words) = &mut self.second;
        if *second != at.as_secs() || words.is_empty() {
            (*second, *words) = (at.as_secs(), Timestamp::from_secs(at.as_secs()).rfc3339().into());
        }
        let mut time = words.clone();
        let millis = at.as_millis() % 1000;
        // Otherwise it is "never", or of a year with five digits.
        if time.ends_with(".000Z") && millis > 0 {
            time.truncate(time.len() - 4);
            // Invariant: writing to a text cannot fail.
            let _ = write!(time, "{millis:03}Z");
        }
        time
    }

    /// All that waits; what was lost is said at its end.
    fn take(&mut self, lost: u64, now: Timestamp) -> Vec<Builder> {
        self.lost -= lost;
        if lost > 0 {
            self.push(Row { at: now, fact: Fact::Lost(Lost { rows: lost }) });
        }
        let mut all = std::mem::take(&mut self.full);
        let filling = std::mem::take(&mut self.filling);
        if !filling.is_empty() {
            all.push(filling);
        }
        self.weight = 0;
        all
    }
}

/// A row for eyes and scripts: its time in words too.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    #[serde(flatten)]
    row: &'a Row,
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    settings: Settings,
    open: Option<Open>,
    /// The disk takes nothing, and that was said.
    silent: bool,
}

impl Writer {
    fn run(mut self) {
        let mut synced = Instant::now();
        loop {
            let (blocks, closing, flushes) = self.await_blocks();
            self.write(&blocks);
            if closing || synced.elapsed() >= SYNC_EVERY {
                synced = Instant::now();
                let done = self.open.as_mut().map_or(Ok(()), Open::sync);
                self.heed(done);
            }
            let mut waiting = self.shared.waiting();
            waiting.flushes.1 = flushes;
            self.shared.written.notify_all();
            if closing {
                // The index of an unfinished day is made up for by the next start; a closed one spares that.
                drop(waiting);
                let done = self.open.take().map_or(Ok(()), Open::close);
                self.heed(done);
                return;
            }
            // What comes meanwhile shares a block, unless somebody waits to see it.
            let pause = |w: &mut Waiting| w.flushes.0 <= w.flushes.1 && !w.closing;
            drop(self.shared.wake.wait_timeout_while(waiting, WRITE_EVERY, pause));
        }
    }

    fn await_blocks(&mut self) -> (Vec<Builder>, bool, u64) {
        let silent = self.silent;
        let idle =
            |w: &mut Waiting| w.is_empty() && (w.lost == 0 || silent) && w.flushes.0 <= w.flushes.1 && !w.closing;
        let waiting = self.shared.waiting();
        // An idle relay is woken by nothing.
        let unsynced = self.open.as_ref().is_some_and(Open::is_unsynced);
        let wait = if unsynced { SYNC_EVERY } else { IDLE_WAIT };
        let waited = self.shared.wake.wait_timeout_while(waiting, wait, idle);
        let (mut waiting, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        // A disk that takes nothing is not asked to take the news of it alone.
        let lost = if silent && waiting.is_empty() { 0 } else { waiting.lost };
        let blocks = waiting.take(lost, (self.shared.now)());
        self.shared.counters.lost.fetch_add(lost, Ordering::Relaxed);
        if let Some(settings) = waiting.settings.take() {
            let settings = Settings { directory: self.settings.directory.clone(), ..settings };
            if settings != self.settings {
                // The next row opens the day anew, with or without event lines, and removes what is too old.
                self.open = None;
                self.settings = settings;
            }
        }
        (blocks, waiting.closing, waiting.flushes.0)
    }

    fn write(&mut self, blocks: &[Builder]) {
        for block in blocks {
            let day = Day::of(block.last());
            let turned = match &self.open {
                Some(open) if open.day >= day => Ok(()),
                Some(_) | None => self.turn_to(day),
            };
            let written = turned.and_then(|()| match &mut self.open {
                Some(open) => open.append(block),
                None => Ok(()),
            });
            let counter = match written.is_ok() {
                true => &self.shared.counters.rows,
                false => {
                    self.shared.waiting().lost += block.rows();
                    self.heed(written);
                    continue;
                }
            };
            counter.fetch_add(block.rows(), Ordering::Relaxed);
            self.silent = false;
        }
    }

    fn heed(&mut self, done: io::Result<()>) {
        let Err(error) = done else { return };
        if !std::mem::replace(&mut self.silent, true) {
            error!(%error, directory = %self.settings.directory.display(), "the history cannot be written: rows are lost");
        }
    }

    /// Goes on in this day's files; those whose time is over are removed.
    fn turn_to(&mut self, day: Day) -> io::Result<()> {
        if let Some(open) = self.open.take() {
            open.close()?;
        }
        let (open, found) = Open::new(&self.settings.directory, day, !self.settings.keep_events.is_zero())?;
        if found.cut > 0 || found.damaged > 0 {
            let (cut, damaged) = (found.cut, found.damaged);
            warn!(cut_bytes = cut, damaged, "the history's last file was not whole: its torn end was cut");
            self.shared.counters.damaged.fetch_add(damaged, Ordering::Relaxed);
        }
        self.open = Some(open);
        if let Err(error) = remove_old(&self.settings, day) {
            warn!(%error, "old files of the history could not be removed");
        }
        Ok(())
    }
}

/// Removes files of days whose time is over.
fn remove_old(settings: &Settings, today: Day) -> io::Result<()> {
    for entry in std::fs::read_dir(&settings.directory)? {
        let path = entry?.path();
        let Some((day, extension)) = Day::of_path(&path) else { continue };
        let keep = match extension {
            "events" => settings.keep_events,
            _ => settings.keep,
        };
        // The day itself, and as many before it as cover the time.
        let days = keep.as_secs().div_ceil(86_400);
        if day.0.saturating_add(days) < today.0 {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
