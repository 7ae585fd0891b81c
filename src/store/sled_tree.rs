//! sled 0.34.7 as the store's tree, with the care that it needs. Used by the store's thread alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::thread::{Opener, Tree};
use crate::size::ByteSize;

/// How long another holder of sled's lock is waited for, and how long between two looks.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// How sled is opened.
pub(super) fn opener(cache: ByteSize) -> Opener {
    Box::new(move |directory| {
        let db = Some(open(directory, cache)?);
        Ok(Box::new(SledTree { db, directory: directory.to_owned(), cache }))
    })
}

fn open(directory: &Path, cache: ByteSize) -> Result<sled::Db, String> {
    forget_half_written_snapshots(directory)?;
    // Its own flusher only logs what fails; ours is told.
    let config = sled::Config::new().path(directory).cache_capacity(cache.bytes()).flush_every_ms(None);
    let began = Instant::now();
    loop {
        match config.open() {
            // A process that was forked from this one holds the lock until it runs a program of its own.
            Err(sled::Error::Io(error)) if is_locked(&error) && began.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened.map_err(|error| error.to_string()),
        }
    }
}

/// sled has no error of its own for it.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

struct SledTree {
    /// `None` only after it could not be opened again.
    db: Option<sled::Db>,
    cache: ByteSize,
    directory: PathBuf,
}

/// sled writes its snapshot, at open, as `snap.*.generating`, and a crash then leaves a file that the next open takes
/// for the newest snapshot and fails on, for ever.
fn forget_half_written_snapshots(directory: &Path) -> Result<(), String> {
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path()).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

impl SledTree {
    fn db(&self) -> Result<&sled::Db, String> {
        self.db.as_ref().ok_or_else(|| "it could not be opened again".to_owned())
    }
}

impl Tree for SledTree {
    /// sled keeps what a scan read, whatever its cache's size; opened anew it holds nothing.
    fn shed(&mut self) -> Result<(), String> {
        drop(self.db.take());
        self.db = Some(open(&self.directory, self.cache)?);
        Ok(())
    }

    fn scan(&mut self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        for row in self.db()?.iter() {
            let (key, value) = row.map_err(|error| error.to_string())?;
            each(&key, &value);
        }
        Ok(())
    }

    fn value(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let value = self.db()?.get(key).map_err(|error| error.to_string())?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String> {
        let before = self.db()?.insert(key, value).map_err(|error| error.to_string())?;
        Ok(before.is_none())
    }

    fn remove(&mut self, key: &[u8]) -> Result<bool, String> {
        let before = self.db()?.remove(key).map_err(|error| error.to_string())?;
        Ok(before.is_some())
    }

    fn flush(&mut self) -> Result<(), String> {
        // Never `flush_async`: it deadlocks.
        self.db()?.flush().map(drop).map_err(|error| error.to_string())
    }

    /// sled's flush hands the pages to the kernel and waits for them with `sync_file_range`, which promises nothing
    /// over a power cut. The same files, by descriptors of our own, are synced here.
    fn sync(&mut self) -> Result<(), String> {
        let files = fs::read_dir(&self.directory).map_err(|error| error.to_string())?.flatten();
        for path in files.map(|entry| entry.path()).filter(|path| path.is_file()) {
            File::open(path).and_then(|file| file.sync_all()).map_err(|error| error.to_string())?;
        }
        let above = self.directory.parent().unwrap_or(&self.directory);
        for directory in [self.directory.as_path(), above] {
            File::open(directory).and_then(|file| file.sync_all()).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ByteSize::mib(2);
        drop(open(dir.path(), cache).unwrap());
        let held = File::open(dir.path().join("db")).unwrap();
        held.lock().unwrap();
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(held);
        });
        open(dir.path(), cache).expect("its holder let go");
        holder.join().unwrap();
    }
}
