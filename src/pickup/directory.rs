//! The maildrop on the disk: made, listed, read and emptied. Everything here blocks.
//!
//! Users reach it by the helper alone, which can make files and nothing else; so what is found here was made by it, and is
//! read with suspicion all the same.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use postrider_drop::{COMPLETE_PREFIX, GROUP, PARTIAL_PREFIX, STAMP_LENGTH, TOTAL_LENGTH_MAX, WAKE_NAME};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};

use crate::users;

/// The maildrop's name in the data directory.
pub const NAME: &str = "maildrop";
/// Where what cannot be read is kept for people to look at.
pub const ASIDE_NAME: &str = "maildrop-damaged";
/// Most messages that are looked at in one round.
const NAMES_MAX: usize = 10_000;
/// How old a partial file is at least before its writer is looked for.
const PARTIAL_AGE: Duration = Duration::from_secs(60);
/// Sticky, and the group may make files and sync the directory: the helper opens it to read for that alone.
const MODE: u32 = 0o1770;

/// A message that waits in the maildrop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its file.
    pub name: String,
    /// Whose file it is.
    pub uid: u32,
    /// Unit: octets.
    pub size: u64,
}

/// The maildrop.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    aside: PathBuf,
}

impl Directory {
    /// That of a data directory.
    pub fn of(data_dir: &Path) -> Directory {
        Directory { path: data_dir.join(NAME), aside: data_dir.join(ASIDE_NAME) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where what is damaged goes.
    pub fn aside(&self) -> &Path {
        &self.aside
    }

    /// The pipe that the helper writes to.
    pub fn wake(&self) -> PathBuf {
        self.path.join(WAKE_NAME)
    }

    /// Makes it with the rights that it must have, and gives it to the helper's group, if there is that group and we may.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        if let Some(group) = users::group_id(GROUP) {
            // A package may have done this, and we may not be allowed to.
            let _ = std::os::unix::fs::chown(&self.path, None, Some(group));
        }
        if fs::metadata(&self.path)?.permissions().mode() & 0o7777 != MODE {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(MODE))?;
        }
        let wake = self.wake();
        let is_pipe = |found: fs::Metadata| std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type());
        if !fs::symlink_metadata(&wake).is_ok_and(is_pipe) {
            let _ = fs::remove_file(&wake);
            rustix::fs::mknodat(rustix::fs::CWD, &wake, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        let group = fs::metadata(&self.path)?.gid();
        let _ = std::os::unix::fs::chown(&wake, None, Some(group));
        fs::set_permissions(&wake, fs::Permissions::from_mode(0o620))
    }

    /// The messages that are complete: those of all users in turn, each user's in the order of their arrival, so that one
    /// who floods the maildrop holds up himself.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn scan(&self) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)?.filter_map(Result::ok).filter(is_complete).take(NAMES_MAX) {
            // Gone again since: somebody else removed it.
            let Ok(data) = fs::symlink_metadata(entry.path()) else { continue };
            let Ok(name) = entry.file_name().into_string() else { continue };
            found.push(Entry { name, uid: data.uid(), size: data.len() });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut turns: HashMap<u32, usize> = HashMap::new();
        let mut ranked: Vec<(usize, Entry)> = found
            .into_iter()
            .map(|entry| {
                let turn = turns.entry(entry.uid).or_default();
                *turn += 1;
                (*turn, entry)
            })
            .collect();
        ranked.sort_by_key(|(turn, _)| *turn);
        Ok(ranked.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The octets of a message.
    ///
    /// # Errors
    /// `InvalidData`: it is no plain file, or longer than any can be. Others: it cannot be read now.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
        let options = fs::OpenOptions::new().read(true).custom_flags(flags as i32).open(self.path.join(name));
        let file = options.map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                io::Error::new(io::ErrorKind::InvalidData, "it is a symbolic link")
            }
            _ => error,
        })?;
        let data = file.metadata()?;
        let longest = TOTAL_LENGTH_MAX + STAMP_LENGTH as u64;
        if !data.is_file() || data.len() > longest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no plain file, or too long"));
        }
        let mut octets = Vec::with_capacity(data.len() as usize);
        file.take(longest).read_to_end(&mut octets)?;
        Ok(octets)
    }

    /// Removes messages, and makes that durable. Returns those that are still there.
    pub fn remove(&self, names: &[String]) -> Vec<(String, io::Error)> {
        let mut failed = Vec::new();
        for name in names {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => failed.push((name.clone(), error)),
                Ok(()) | Err(_) => {}
            }
        }
        match File::open(&self.path).and_then(|directory| directory.sync_all()) {
            Ok(()) => failed,
            Err(error) => {
                names.iter().map(|name| (name.clone(), io::Error::new(error.kind(), error.to_string()))).collect()
            }
        }
    }

    /// Puts a message where people find it.
    ///
    /// # Errors
    /// It stays where it is.
    pub fn set_aside(&self, name: &str) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.aside)?;
        fs::rename(self.path.join(name), self.aside.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    /// Removes what writers left behind that are gone: whoever writes holds a lock. Returns how many there were.
    pub fn clean(&self, now: SystemTime) -> usize {
        let is_old = |path: &Path| {
            let changed = fs::symlink_metadata(path).and_then(|data| data.modified()).ok();
            changed.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age >= PARTIAL_AGE))
        };
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten().take(NAMES_MAX);
        let partial =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().first() == Some(&(PARTIAL_PREFIX as u8)));
        partial
            .filter(|entry| is_old(&entry.path()) && is_abandoned(&entry.path()))
            .filter(|entry| fs::remove_file(entry.path()).is_ok())
            .count()
    }
}

/// Whether nobody writes it any more. One that cannot be opened is left to whoever made it so.
fn is_abandoned(path: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags as i32).open(path);
    file.is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Whether this is the name of a complete message, as the helper makes them.
pub fn is_name(name: &str) -> bool {
    name.len() <= 64 && name.starts_with(COMPLETE_PREFIX) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_complete(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().is_some_and(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_complete_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let maildrop = Directory::of(dir.path());
        maildrop.make().unwrap();
        maildrop.make().unwrap();
        for name in ["m2", "m1", "t3", "m-4", "x5", "m6.x"] {
            fs::write(maildrop.path().join(name), name).unwrap();
        }
        let names: Vec<String> = maildrop.scan().unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["m1", "m2"]);
        assert_eq!(maildrop.read("m1").unwrap(), b"m1");
        assert_eq!(fs::metadata(maildrop.path()).unwrap().permissions().mode() & 0o7777, 0o1770);
        assert!(maildrop.remove(&["m1".to_owned(), "m7".to_owned()]).is_empty(), "what is gone is gone");
        maildrop.set_aside("m2").unwrap();
        assert_eq!(fs::read(maildrop.aside().join("m2")).unwrap(), b"m2");
        assert!(maildrop.scan().unwrap().is_empty());
    }

    #[test]
    fn no_link_and_no_pipe_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let maildrop = Directory::of(dir.path());
        maildrop.make().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", maildrop.path().join("m1")).unwrap();
        assert_eq!(maildrop.read("m1").unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(maildrop.read(WAKE_NAME).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_partial_file_goes_once_its_writer_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let maildrop = Directory::of(dir.path());
        maildrop.make().unwrap();
        let path = maildrop.path().join("t1");
        let writer = File::create(&path).unwrap();
        rustix::fs::flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
        let later = SystemTime::now() + Duration::from_secs(120);
        assert_eq!(maildrop.clean(later), 0, "somebody writes it");
        drop(writer);
        assert_eq!(maildrop.clean(SystemTime::now()), 0, "too young to say");
        assert_eq!(maildrop.clean(later), 1);
        assert!(!path.exists());
    }
}
