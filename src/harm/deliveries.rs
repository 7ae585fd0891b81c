//! To whom mail was delivered within 90 days, on the disk: a table, and a log of what was marked since it was written.
//!
//! The log is appended to every few seconds and not synced: what a power failure takes is a delivery that is forgotten, and
//! costs at most that one reply, where two were wanted, is believed. The table is written anew, under another name and
//! synced, when the log has grown to half its size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::{error, warn};

use crate::evidence::{Delivered, Means, Seed};
use crate::time::Timestamp;

use super::lock;

const TABLE: &str = "table";
const LOG: &str = "log";
/// A log is kept at least so long before the table is written anew.
const LOG_MIN: u64 = 1 << 20;

pub(super) struct Deliveries {
    table: Delivered,
    /// Marks that the log does not have yet. Bounded by the deliveries of a few seconds, or, while the disk refuses them, by
    /// [`UNWRITTEN_MAX`].
    unwritten: Vec<u8>,
    log_size: u64,
    /// `None`: nothing is kept.
    directory: Option<PathBuf>,
}

/// More than this the log does not get; the next table has them all the same. Unit: octets.
const UNWRITTEN_MAX: usize = 8 << 20;

impl Default for Deliveries {
    fn default() -> Deliveries {
        Deliveries { table: Delivered::new(Seed(0), 1 << 16), unwritten: Vec::new(), log_size: 0, directory: None }
    }
}

impl Deliveries {
    /// What is kept in a directory. What cannot be read is told, and nothing is known of any address.
    pub fn open(directory: PathBuf, addresses_max: usize) -> Deliveries {
        let read = |name: &str| match std::fs::read(directory.join(name)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                error!(directory = %directory.display(), name, %error, "to whom mail was delivered could not be read");
                None
            }
        };
        let kept = read(TABLE).and_then(|bytes| {
            let table = Delivered::decode(&bytes, addresses_max);
            if table.is_none() {
                error!(directory = %directory.display(), "the table of deliveries is damaged: it begins anew");
            }
            table
        });
        let (table, log_size) = match kept {
            Some(mut table) => {
                let log = read(LOG).unwrap_or_default();
                table.replay(&log);
                // A mark that a crash cut short would shift all that follow: they are written behind the whole ones.
                (table, (log.len() / Delivered::MARK * Delivered::MARK) as u64)
            }
            // Without its seed a log says nothing.
            None => (Delivered::new(Seed(random()), addresses_max), 0),
        };
        let mut deliveries = Deliveries { table, unwritten: Vec::new(), log_size, directory: Some(directory) };
        if let Err(error) = deliveries.begin() {
            error!(%error, "to whom mail is delivered cannot be kept: a restart will not know");
            deliveries.directory = None;
        }
        deliveries
    }

    /// Makes the directory; a table without a log, or the other way round, is never left behind.
    fn begin(&mut self) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        std::fs::create_dir_all(directory)?;
        if self.log_size == 0 {
            return write_table(directory, &self.table.encode());
        }
        OpenOptions::new().write(true).open(directory.join(LOG))?.set_len(self.log_size)
    }

    pub fn mark(&mut self, address: &str, now: Timestamp) {
        let hash = self.table.hash(address);
        if self.table.mark(hash, now) && self.directory.is_some() && self.unwritten.len() < UNWRITTEN_MAX {
            self.unwritten.extend_from_slice(&Delivered::mark_record(hash, now));
        }
    }

    /// Whether mail was delivered to an address; of a report: besides the message that it is about.
    pub fn knows(&self, address: &str, means: Means, now: Timestamp) -> bool {
        let hash = self.table.hash(address);
        match means {
            Means::Report => self.table.knows_twice(hash, now),
            Means::Reply | Means::Storm => self.table.knows(hash, now),
        }
    }
}

/// Appends to the log, or writes the table anew. Blocks; the table is locked only while it is copied. One caller at a time.
pub(super) fn write(deliveries: &Mutex<Deliveries>) {
    let (directory, unwritten, log_size, table) = {
        let mut own = lock(deliveries);
        let Some(directory) = own.directory.clone() else { return };
        let unwritten = std::mem::take(&mut own.unwritten);
        let log_size = own.log_size + unwritten.len() as u64;
        let is_long = log_size > LOG_MIN.max(3 * own.table.places() as u64 / 2);
        (directory, unwritten, own.log_size, is_long.then(|| own.table.encode()))
    };
    let written = match table {
        Some(table) => write_table(&directory, &table).map(|()| 0),
        None if unwritten.is_empty() => return,
        None => append(&directory, log_size, &unwritten),
    };
    match written {
        Ok(size) => lock(deliveries).log_size = size,
        Err(error) => {
            warn!(%error, "to whom mail was delivered could not be written down; it is tried again");
            let mut own = lock(deliveries);
            let newer = std::mem::replace(&mut own.unwritten, unwritten);
            own.unwritten.extend_from_slice(&newer);
        }
    }
}

/// Behind what is known to be whole.
fn append(directory: &Path, size: u64, marks: &[u8]) -> io::Result<u64> {
    let mut log = OpenOptions::new().create(true).write(true).truncate(false).open(directory.join(LOG))?;
    log.set_len(size)?;
    io::Seek::seek(&mut log, io::SeekFrom::End(0))?;
    log.write_all(marks)?;
    Ok(size + marks.len() as u64)
}

/// The table under its name, then an empty log: a crash between the two replays marks that the table has.
fn write_table(directory: &Path, table: &[u8]) -> io::Result<()> {
    let temporary = directory.join("table.new");
    let mut file = File::create(&temporary)?;
    file.write_all(table)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(TABLE))?;
    File::open(directory)?.sync_all()?;
    File::create(directory.join(LOG))?;
    Ok(())
}

fn random() -> u64 {
    let mut octets = [0; 8];
    // Without chance the fingerprints are those of every such relay: still right.
    let _ = getrandom::fill(&mut octets);
    u64::from_le_bytes(octets)
}
