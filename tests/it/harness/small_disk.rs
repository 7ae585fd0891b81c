//! A disk that is really full: a small tmpfs in a mount namespace of its own, which ends with its holder.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The disk. Gone when dropped.
pub struct SmallDisk {
    mount_point: TempDir,
    holder: Child,
}

impl SmallDisk {
    /// Mounts one of so many MiB. `None`, and a printed word, where mounting is not allowed.
    pub fn mount(mebibytes: u32) -> Option<SmallDisk> {
        let mount_point = tempfile::Builder::new().prefix("postrider-disk-").tempdir().ok()?;
        // `cat` holds the namespace until our end of its pipe closes, even if that is because this process dies.
        let script = format!("mount -t tmpfs -o size={mebibytes}m,mode=0755 tmpfs \"$0\" && echo mounted && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(mount_point.path());
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut holder) = spawned else {
            println!("skipped: no unshare(1) here");
            return None;
        };
        let mut word = String::new();
        let stdout = holder.stdout.as_mut()?;
        if BufReader::new(stdout).read_line(&mut word).is_err() || word != "mounted\n" {
            println!("skipped: a tmpfs cannot be mounted here (it needs root)");
            let _ = holder.kill();
            let _ = holder.wait();
            return None;
        }
        Some(SmallDisk { mount_point, holder })
    }

    /// Where the daemon finds it.
    pub fn inside(&self) -> PathBuf {
        self.mount_point.path().join("data")
    }

    /// The command through which the daemon must be started to see it.
    pub fn launcher(&self) -> [String; 3] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.holder.id()), "--".to_owned()]
    }

    /// Writes a file until not one byte more fits.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("the filler");
        for chunk in [vec![0x5a; 1 << 20], vec![0x5a; 4096], vec![0x5a; 1]] {
            while file.write_all(&chunk).is_ok() {}
        }
    }

    /// Removes that file.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("the filler removed");
    }

    fn filler(&self) -> PathBuf {
        let below_root = self.mount_point.path().strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(below_root).join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
