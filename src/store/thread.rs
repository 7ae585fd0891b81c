//! The thread on which the tree lives, and the deadline under which it is asked. Used by the store alone.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::{Loaded, Rows, Settings, StoreError, generation};

/// What the store needs of sled. Every call may fail, panic or never return.
pub trait Tree {
    /// Calls `each` with every key and value.
    ///
    /// # Errors
    /// What the tree said.
    fn scan(&mut self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String>;
    /// Gives back the memory that a scan took.
    ///
    /// # Errors
    /// What the tree said.
    fn shed(&mut self) -> Result<(), String> {
        Ok(())
    }
    /// The value of a key.
    ///
    /// # Errors
    /// What the tree said.
    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// Writes a value; whether the key is new.
    ///
    /// # Errors
    /// What the tree said.
    fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String>;
    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// What the tree said.
    fn remove(&mut self, key: &[u8]) -> Result<bool, String>;
    /// Hands everything to the kernel: it survives a crash of ours.
    ///
    /// # Errors
    /// What the tree said.
    fn flush(&mut self) -> Result<(), String>;
    /// Makes everything survive a crash of the machine.
    ///
    /// # Errors
    /// What the disk said.
    fn sync(&mut self) -> Result<(), String>;
}

/// Makes a tree in a directory that exists. Runs on the store's thread.
pub type Opener = Box<dyn FnOnce(&Path) -> Result<Box<dyn Tree>, String> + Send>;

/// Where the mark stands: no row's key has this length.
const MARK_KEY: &[u8] = b"mark";
/// Calls waiting for the thread: its one caller waits for each.
const CALLS_MAX: usize = 1;

/// What is asked of the thread.
enum Call {
    Load { boot: String },
    Begin { spool: u128, boot: String },
    Write(Vec<(u64, Option<Vec<u8>>)>),
    Checkpoint(u64, u32),
    Close(u64, u32),
}

/// What it answers.
type Answer = Result<Option<Loaded>, String>;

/// The caller's side: asks, waits, and gives up for good at the first trouble. The thread is never joined: it may
/// hang for ever, and then costs no more than its stack.
pub(super) struct Worker {
    /// `None` only while it is dropped.
    calls: Option<SyncSender<Call>>,
    answers: Receiver<Answer>,
    bad: Option<StoreError>,
    deadline: Duration,
    open_deadline: Duration,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("bad", &self.bad).finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn start(directory: &Path, settings: &Settings) -> Result<Worker, StoreError> {
        let (calls, inbox) = sync_channel(CALLS_MAX);
        let (outbox, answers) = sync_channel(CALLS_MAX);
        let directory = directory.to_owned();
        let opener = (settings.tree.0)(settings.cache);
        let run = move || {
            let mut keeper = Keeper { directory, opener: Some(opener), tree: None, mark: None };
            for call in inbox {
                let answer = catch_unwind(AssertUnwindSafe(|| keeper.answer(call)));
                let answer = answer.unwrap_or_else(|_| Err("it panicked".to_owned()));
                let failed = answer.is_err();
                if outbox.send(answer).is_err() || failed {
                    // Nobody waits any more, or nothing after a failure can be trusted.
                    break;
                }
            }
            // A tree that failed may panic or hang once more while it is dropped: here that harms nobody.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(keeper)));
        };
        let thread = std::thread::Builder::new().name("index".to_owned()).spawn(run);
        thread.map_err(|error| StoreError::Failed(format!("no thread for it: {error}")))?;
        let Settings { deadline, open_deadline, .. } = *settings;
        Ok(Worker { calls: Some(calls), answers, bad: None, deadline, open_deadline })
    }

    pub(super) fn load(&mut self, boot: String) -> Result<Loaded, StoreError> {
        let loaded = self.ask(Call::Load { boot }, self.open_deadline)?;
        loaded.ok_or_else(|| self.condemn(StoreError::Failed("there is none".to_owned())))
    }

    pub(super) fn begin(&mut self, spool: u128, boot: String) -> Result<(), StoreError> {
        self.ask(Call::Begin { spool, boot }, self.deadline).map(drop)
    }

    pub(super) fn write(&mut self, rows: Vec<(u64, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.ask(Call::Write(rows), self.deadline).map(drop)
    }

    pub(super) fn checkpoint(&mut self, sequence: u64, segment: u32) -> Result<(), StoreError> {
        self.ask(Call::Checkpoint(sequence, segment), self.deadline).map(drop)
    }

    pub(super) fn close(&mut self, sequence: u64, segment: u32) -> Result<(), StoreError> {
        self.ask(Call::Close(sequence, segment), self.deadline).map(drop)
    }

    /// Makes the store bad, and says why.
    pub(super) fn condemn(&mut self, error: StoreError) -> StoreError {
        self.bad.get_or_insert(error).clone()
    }

    fn ask(&mut self, call: Call, deadline: Duration) -> Result<Option<Loaded>, StoreError> {
        if let Some(bad) = &self.bad {
            return Err(bad.clone());
        }
        if self.calls.as_ref().is_none_or(|calls| calls.send(call).is_err()) {
            return Err(self.condemn(StoreError::Failed("its thread ended".to_owned())));
        }
        match self.answers.recv_timeout(deadline) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(reason)) => Err(self.condemn(StoreError::Failed(reason))),
            Err(RecvTimeoutError::Timeout) => Err(self.condemn(StoreError::Silent(deadline))),
            Err(RecvTimeoutError::Disconnected) => Err(self.condemn(StoreError::Failed("its thread ended".to_owned()))),
        }
    }
}

/// How long a drop waits for a healthy tree to let go of its files, so that they can be opened again at once.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);

impl Drop for Worker {
    fn drop(&mut self) {
        self.calls = None;
        if self.bad.is_none() {
            // The thread's end of the channel goes last, after the tree.
            let _ = self.answers.recv_timeout(LET_GO_WITHIN);
        }
    }
}

/// The thread's side: the tree, and the mark that says what its rows are worth.
struct Keeper {
    directory: PathBuf,
    opener: Option<Opener>,
    tree: Option<Box<dyn Tree>>,
    mark: Option<Mark>,
}

impl Keeper {
    fn answer(&mut self, call: Call) -> Answer {
        match call {
            Call::Load { boot } => self.load(boot).map(Some),
            Call::Begin { spool, boot } => self.begin(spool, boot).map(|()| None),
            Call::Write(rows) => self.write(rows).map(|()| None),
            Call::Checkpoint(sequence, segment) => self.mark(sequence, segment, Stop::None).map(|()| None),
            Call::Close(sequence, segment) => self.mark(sequence, segment, Stop::Clean).map(|()| None),
        }
    }

    fn load(&mut self, boot: String) -> Result<Loaded, String> {
        let (directory, _) = generation(&self.directory);
        let directory = directory.ok_or("there is none")?;
        let tree = self.open(&directory)?;
        let bytes = tree.value(MARK_KEY)?.ok_or("it has no mark")?;
        let mut mark = Mark::decode(&bytes).ok_or("its mark cannot be read")?;
        let same_boot = mark.boot == boot && !boot.is_empty();
        if !mark.clean && !same_boot {
            return Err("it was not closed before the machine stopped".to_owned());
        }
        let mut rows = Rows::default();
        let mut damaged = false;
        tree.scan(&mut |key, value| match unsealed(key, value) {
            Some((number, content)) => rows.push(number, content),
            None => damaged |= key != MARK_KEY,
        })?;
        if damaged {
            return Err("it holds a row that cannot be read".to_owned());
        }
        if rows.len() as u64 != mark.rows {
            return Err(format!("it should hold {} rows and holds {}", mark.rows, rows.len()));
        }
        // From here on it is in use, and the disk must know that before any row changes.
        (mark.boot, mark.clean) = (boot, false);
        let (spool, sequence, segment) = (mark.spool, mark.sequence, mark.segment);
        tree.insert(MARK_KEY, &mark.encode())?;
        tree.flush()?;
        tree.sync()?;
        tree.shed()?;
        self.mark = Some(mark);
        Ok(Loaded { spool, sequence, segment, rows })
    }

    fn begin(&mut self, spool: u128, boot: String) -> Result<(), String> {
        let (_, next) = generation(&self.directory);
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with("index.")) {
                // What cannot be deleted is not used either: two directories are never believed.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let directory = self.directory.join(format!("index.{next}"));
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        self.open(&directory)?;
        self.mark = Some(Mark { spool, boot, sequence: 0, segment: 0, rows: 0, clean: false });
        Ok(())
    }

    fn open(&mut self, directory: &Path) -> Result<&mut Box<dyn Tree>, String> {
        let opener = self.opener.take().ok_or("it was opened before")?;
        let tree = opener(directory)?;
        Ok(self.tree.insert(tree))
    }

    fn write(&mut self, rows: Vec<(u64, Option<Vec<u8>>)>) -> Result<(), String> {
        let (Some(tree), Some(mark)) = (&mut self.tree, &mut self.mark) else { return Err("it is not open".into()) };
        for (number, value) in rows {
            let key = number.to_be_bytes();
            match value {
                Some(value) => mark.rows += u64::from(tree.insert(&key, &sealed(&key, value))?),
                None => mark.rows -= u64::from(tree.remove(&key)?).min(mark.rows),
            }
        }
        Ok(())
    }

    /// Rows first, then the mark that vouches for them: a crash between leaves an older mark, whose count of rows
    /// does not fit unless its rows do.
    fn mark(&mut self, sequence: u64, segment: u32, stop: Stop) -> Result<(), String> {
        let (Some(tree), Some(mark)) = (&mut self.tree, &mut self.mark) else { return Err("it is not open".into()) };
        tree.flush()?;
        if stop == Stop::Clean {
            tree.sync()?;
        }
        (mark.sequence, mark.segment, mark.clean) = (sequence, segment, stop == Stop::Clean);
        tree.insert(MARK_KEY, &mark.encode())?;
        tree.flush()?;
        if stop == Stop::Clean {
            tree.sync()?;
            // Let go of the files before the caller believes that they are closed.
            self.tree = None;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    None,
    Clean,
}

/// A value as it is kept: with the checksum of its key and itself, since sled finds only some of what a disk does.
fn sealed(key: &[u8; 8], mut value: Vec<u8>) -> Vec<u8> {
    let crc = checksum(key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

/// What [`sealed`] made, or nothing.
fn unsealed<'a>(key: &[u8], value: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (content, crc) = value.split_last_chunk::<4>()?;
    let number = u64::from_be_bytes(key.try_into().ok()?);
    (checksum(key, content) == u32::from_le_bytes(*crc)).then_some((number, content))
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(content);
    hasher.finalize()
}

/// What the rows are worth.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mark {
    spool: u128,
    boot: String,
    sequence: u64,
    segment: u32,
    rows: u64,
    clean: bool,
}

/// The shape below.
const MARK_VERSION: u8 = 2;

impl Mark {
    /// ```text
    ///   0         1       2..18      18..26     26..30    30..38
    ///   | version | clean | spool id | sequence | segment | rows | boot id: the rest | crc32 |
    /// ```
    /// Numbers are little-endian.
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![MARK_VERSION, u8::from(self.clean)];
        out.extend_from_slice(&self.spool.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(self.boot.as_bytes());
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Mark> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        let (head, rest) = content.split_first_chunk::<2>()?;
        let (spool, rest) = rest.split_first_chunk::<16>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (segment, rest) = rest.split_first_chunk::<4>()?;
        let (rows, boot) = rest.split_first_chunk::<8>()?;
        let sound = crc32fast::hash(content) == u32::from_le_bytes(*crc) && head[0] == MARK_VERSION && head[1] <= 1;
        let boot = String::from_utf8(boot.to_vec()).ok()?;
        sound.then_some(Mark {
            spool: u128::from_le_bytes(*spool),
            boot,
            sequence: u64::from_le_bytes(*sequence),
            segment: u32::from_le_bytes(*segment),
            rows: u64::from_le_bytes(*rows),
            clean: head[1] == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_a_flipped_bit_is_seen() {
        let mark = Mark { spool: 5, boot: "b-1".to_owned(), sequence: 9, segment: 3, rows: 7, clean: true };
        let bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Some(mark));
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 4;
            assert_eq!(Mark::decode(&flipped), None, "byte {place}");
            assert_eq!(Mark::decode(&bytes[..place]), None);
        }
    }

    #[test]
    fn a_value_reads_back_only_under_its_own_key() {
        let value = sealed(&9u64.to_be_bytes(), vec![1, 2, 3]);
        assert_eq!(unsealed(&9u64.to_be_bytes(), &value), Some((9, &[1, 2, 3][..])));
        assert_eq!(unsealed(&8u64.to_be_bytes(), &value), None);
        assert_eq!(unsealed(b"mark", &value), None);
        assert_eq!(unsealed(&9u64.to_be_bytes(), &value[..3]), None);
    }
}
