//! A data directory seen as files: copied, and damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Every regular file below a directory, in a fixed order.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Replaces `to` by a copy of `from`: regular files and directories, sockets left out.
pub fn restore(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("the data directory");
    fs::set_permissions(to, fs::metadata(from).expect("the copy").permissions()).expect("its permissions");
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("a file below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("its directory");
        fs::copy(&file, &target).expect("a copied file");
    }
}

/// Flips one bit of one file below `directory`: nearly always before the last byte that is not zero, since most of a
/// preallocated segment is empty. Returns where.
pub fn flip(directory: &Path, random: &mut fastrand::Rng) -> String {
    let files: Vec<PathBuf> =
        files(directory).into_iter().filter(|file| fs::metadata(file).is_ok_and(|data| data.len() > 0)).collect();
    let file = files.get(random.usize(..files.len())).expect("a file");
    let content = fs::read(file).expect("its content");
    let written = content.iter().rposition(|byte| *byte != 0).map_or(content.len(), |last| last + 1);
    let range = if random.u8(0..20) == 0 { content.len() } else { written };
    let offset = random.usize(..range);
    let bit = random.u8(0..8);
    let handle = OpenOptions::new().write(true).open(file).expect("the file");
    handle.write_all_at(&[content[offset] ^ (1 << bit)], offset as u64).expect("the flipped byte");
    format!("bit {bit} of byte {offset} of {}", file.strip_prefix(directory).unwrap_or(file).display())
}

/// When the index on disk changed last.
pub fn last_change(data_dir: &Path) -> SystemTime {
    let files = index(data_dir).map(|index| files(&index)).unwrap_or_default();
    let changes = files.iter().filter_map(|file| fs::metadata(file).and_then(|data| data.modified()).ok());
    changes.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The index's directory: the one in which sled keeps its `conf` and `db`.
pub fn index(data_dir: &Path) -> Option<PathBuf> {
    let parents = files(data_dir).into_iter().filter(|file| file.file_name().is_some_and(|name| name == "db"));
    parents.filter_map(|file| file.parent().map(Path::to_owned)).find(|parent| parent.join("conf").exists())
}
