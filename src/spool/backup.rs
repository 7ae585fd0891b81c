//! A backup of a running spool, and its restore.
//!
//! The writer syncs, then hands out what there is and keeps it from being recycled until the copy is done; the caller's
//! thread does the copying. A segment with a second name is never written again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::body::BODIES;
use super::disk::Disk;
use super::segment::Segment;
use super::writer::Writer;

/// Where `suppression` keeps its files.
const LISTS: &str = "suppression";
/// How often they are listed again since one was merged away.
const COPIES_TRIED_MAX: usize = 20;

/// What a backup consists of. While it lives, nothing is recycled or removed.
pub(super) struct Pinned {
    /// Not appended to any more.
    sealed: Vec<String>,
    /// Appended to, and the length that counts.
    live: Vec<(String, Arc<Segment>, u64)>,
    bodies: Vec<String>,
    _pin: Arc<()>,
}

impl Writer {
    /// Everything as of now, all of it synced.
    pub(super) fn pinned(&self) -> Pinned {
        let mut pinned = Pinned { sealed: Vec::new(), live: Vec::new(), bodies: Vec::new(), _pin: self.pin.clone() };
        for log in [&self.mail, &self.state] {
            let active = log.active_end();
            for (number, segment) in log.map(Clone::clone) {
                let name = log.kind.segment_name(number);
                match active {
                    Some((active, end)) if active == number => pinned.live.push((name, segment, end)),
                    _ => pinned.sealed.push(name),
                }
            }
        }
        pinned.bodies = self.table.files().map(super::body::file_name).collect();
        pinned
    }
}

/// Makes the copy.
pub(super) fn copy(disk: &dyn Disk, pinned: &Pinned, to: &Path) -> io::Result<()> {
    make_private_dir(to)?;
    make_private_dir(&to.join(BODIES))?;
    for name in pinned.sealed.iter().chain(&pinned.bodies) {
        disk.link_out(name, &to.join(name))?;
    }
    for (name, segment, end) in &pinned.live {
        let file = File::create_new(to.join(name))?;
        copy_segment(segment, *end, &file)?;
        file.sync_all()?;
    }
    File::open(to.join(BODIES))?.sync_all()?;
    copy_lists(disk, &to.join(LISTS))?;
    File::open(to)?.sync_all()
}

/// The suppression list's files, after the state log that they follow: what is in neither of the two copies was never
/// answered. They never change; one that was merged into another meanwhile is looked for there.
fn copy_lists(disk: &dyn Disk, to: &Path) -> io::Result<()> {
    make_private_dir(to)?;
    for _ in 0..COPIES_TRIED_MAX {
        let mut is_whole = true;
        for entry in disk.list(LISTS)?.iter().filter(|entry| entry.name.ends_with(".list")) {
            let target = to.join(&entry.name);
            if target.exists() {
                continue;
            }
            match disk.link_out(&format!("{LISTS}/{}", entry.name), &target) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => is_whole = false,
                Err(error) => return Err(error),
            }
        }
        if is_whole {
            return File::open(to)?.sync_all();
        }
    }
    Err(io::Error::other("the suppression list's files changed too often"))
}

fn copy_segment(segment: &Segment, end: u64, mut to: &File) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < end {
        let want = (end - at).min(CHUNK as u64) as usize;
        let read = segment.file.read_at(buffer.get_mut(..want).unwrap_or_default(), at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(buffer.get(..read).unwrap_or_default())?;
        at += read as u64;
    }
    Ok(())
}

/// Puts a backup in place of a spool that is not there: copies, never links, so that the backup stays what it is.
///
/// What was delivered since the backup is delivered again: check before whether that is wanted.
///
/// # Errors
/// `to` exists, or the disk said no; what was copied is left for the caller to remove.
pub fn restore(from: &Path, to: &Path) -> io::Result<()> {
    make_private_dir(to)?;
    for directory in ["", BODIES, LISTS] {
        if !directory.is_empty() {
            make_private_dir(&to.join(directory))?;
        }
        let Ok(entries) = fs::read_dir(from.join(directory)) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let target = to.join(directory).join(entry.file_name());
                fs::copy(entry.path(), &target)?;
                File::open(&target)?.sync_all()?;
            }
        }
        File::open(to.join(directory))?.sync_all()?;
    }
    match to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path)
}
