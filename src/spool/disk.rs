//! Every file call of the spool, behind one small trait, so that a simulator can fail, tear, drop and reorder each.
//!
//! Names are relative to the spool's directory and at most one level deep. [`FileDisk`] is the real one; it never
//! decides what an error means.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// It must exist.
    Existing,
    /// It must exist, and is not written.
    ReadOnly,
    /// It must not exist.
    New,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Without the directory.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// Room on the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Bytes that we may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A directory with one level of directories below it.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens or creates a file. A created name is durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's.
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a directory, if it is not there.
    ///
    /// # Errors
    /// The system's.
    fn make_dir(&self, name: &str) -> io::Result<()>;
    /// Makes names in a directory (`""`: the top) durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in place of what has it.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    ///
    /// # Errors
    /// The system's.
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// The files of a directory (`""`: the top), in any order; empty if it is not there.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &str) -> io::Result<Vec<Entry>>;
    /// Free space.
    ///
    /// # Errors
    /// The system's.
    fn space(&self) -> io::Result<Space>;
    /// Takes the spool for this process until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another has it, else the system's.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
    /// Gives a file a second name outside the spool, or copies it where that cannot be.
    ///
    /// # Errors
    /// The system's.
    fn link_out(&self, name: &str, to: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of it.
    ///
    /// # Errors
    /// The system's; any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable, and the length with it.
    ///
    /// # Errors
    /// The system's; what was written may be lost for ever, whatever a second call says.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;
    /// Names that lead to it. More than one: a backup shares it, and it must not be written again.
    ///
    /// # Errors
    /// The system's.
    fn names(&self) -> io::Result<u64>;
    /// Reserves blocks, so that writes below `len` find room; the file is at least this long afterwards.
    ///
    /// # Errors
    /// The system's.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    root: PathBuf,
}

impl FileDisk {
    /// The spool in `root`, which is made if its parent exists. For its owner alone.
    ///
    /// # Errors
    /// The system's.
    pub fn new(root: &Path) -> io::Result<FileDisk> {
        use std::os::unix::fs::DirBuilderExt;
        match fs::DirBuilder::new().mode(0o700).create(root) {
            Ok(()) => {
                sync_path(root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(FileDisk { root: root.to_owned() })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for FileDisk {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match how {
            Open::Existing => options.write(true),
            Open::ReadOnly => &mut options,
            Open::New => options.write(true).create_new(true),
        };
        Ok(Arc::new(RealFile(options.open(self.root.join(name))?)))
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        match fs::DirBuilder::new().mode(0o700).create(self.root.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, name: &str) -> io::Result<()> {
        sync_path(&self.root.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A file that went away between the two calls (a read-only look at a running spool) is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                found.push(Entry { name, len: metadata.len() });
            }
        }
        Ok(found)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.root.join("lock"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn link_out(&self, name: &str, to: &Path) -> io::Result<()> {
        let from = self.root.join(name);
        if fs::hard_link(&from, to).is_ok() {
            return Ok(());
        }
        fs::copy(&from, to)?;
        File::open(to)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn names(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.nlink())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // A file system without preallocation (NFS, old ZFS): written zeros reserve blocks as well.
            Err(rustix::io::Errno::OPNOTSUPP) => fill(&self.0, len),
            Err(error) => Err(error.into()),
        }
    }
}

fn fill(file: &File, len: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let zeros = vec![0; CHUNK as usize];
    let mut at = file.metadata()?.len();
    while at < len {
        let step = CHUNK.min(len - at);
        file.write_all_at(zeros.get(..step as usize).unwrap_or(&zeros), at)?;
        at += step;
    }
    Ok(())
}
