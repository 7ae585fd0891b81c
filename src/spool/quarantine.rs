//! Where unreadable bytes go, so that nobody ever loses mail in silence.
//!
//! Called by recovery, the cleaner and readers. It copies; it never removes anything.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tracing::{error, warn};

use super::disk::{Disk, Open};
use super::log::is_full;
use super::segment::Segment;

/// The directory.
pub(super) const DIRECTORY: &str = "quarantine";
/// Copied of one damaged stretch at most.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// Copies damaged bytes aside, and remembers whose copy could not be made.
#[derive(Debug)]
pub(super) struct Quarantine {
    disk: Arc<dyn Disk>,
    /// Stretches found damaged since the start.
    pub found: u64,
    /// Segments that must be kept whole, since their damage could not be copied or read.
    keep: BTreeSet<String>,
}

impl Quarantine {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Quarantine {
        Quarantine { disk, found: 0, keep: BTreeSet::new() }
    }

    /// Copies a stretch of a segment. The name says where it was, so that a second start does not copy it again.
    pub(super) fn copy(&mut self, segment: &Segment, at: u32, len: u64) {
        self.found += 1;
        let source = segment.header.kind.segment_name(segment.header.number);
        let name = format!("{DIRECTORY}/{source}-{at:08x}-{:016x}", segment.header.magic);
        match self.write(segment, at, len.min(COPY_BYTES_MAX), &name) {
            Ok(true) => error!(segment = %source, offset = at, len, copy = %name, "a damaged record was quarantined"),
            Ok(false) => warn!(segment = %source, offset = at, "a record that was quarantined before"),
            Err(error) => {
                error!(segment = %source, offset = at, %error, "a damaged record could not be copied");
                self.keep.insert(source);
            }
        }
    }

    fn write(&self, segment: &Segment, at: u32, len: u64, name: &str) -> io::Result<bool> {
        let file = match self.disk.open(name, Open::New) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; len.min(segment.size.saturating_sub(u64::from(at))) as usize];
        let copied = segment.file.read_at(&mut bytes, u64::from(at)).and_then(|read| {
            file.write_at(bytes.get(..read).unwrap_or_default(), 0)?;
            file.sync_data()?;
            self.disk.sync_dir(DIRECTORY)
        });
        if copied.is_err() {
            // Half a copy would keep the next start from making a whole one.
            let _ = self.disk.unlink(name);
        }
        copied.map(|()| true)
    }

    /// This segment is to be kept for a doctor when its time comes.
    pub(super) fn keep(&mut self, name: String) {
        self.keep.insert(name);
    }

    pub(super) fn is_kept(&self, name: &str) -> bool {
        self.keep.contains(name)
    }

    /// Moves a whole file aside.
    pub(super) fn take_file(&mut self, name: &str) -> io::Result<()> {
        let flat = name.replace('/', "-");
        error!(file = %name, "a damaged file was quarantined");
        self.found += 1;
        self.disk.rename(name, &format!("{DIRECTORY}/{flat}"))?;
        self.disk.sync_dir(DIRECTORY)?;
        match name.split_once('/') {
            Some((directory, _)) => self.disk.sync_dir(directory),
            None => self.disk.sync_dir(""),
        }
    }
}

/// Whether an operation may be tried again later instead of failing what needs it.
pub(super) fn is_passing(error: &io::Error) -> bool {
    is_full(error) || error.kind() == io::ErrorKind::NotFound
}
