//! The data directory: everybody may pass through it, to the maildrop and to the public sockets, and see nothing else of it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::Context as _;
use tracing::warn;

use crate::{pickup, showq};

/// Of the directory itself: its name in, no list.
const MODE: u32 = 0o711;
/// What strangers may do with what lies in it.
const OTHERS: u32 = 0o007;

/// Makes the directory, and sees to the rights of what is in it before anybody can pass.
///
/// # Errors
/// It cannot be made.
pub fn make(directory: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(MODE).create(directory);
    made.with_context(|| format!("data_dir {}: cannot be made", directory.display()))?;
    let mut all_closed = true;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_public = entry.file_name() == pickup::NAME || entry.file_name() == showq::NAME;
        if !is_public && let Err(error) = close(&entry.path()) {
            all_closed = false;
            warn!(path = %entry.path().display(), %error, "everybody on this machine can reach this: close it by hand");
        }
    }
    let mode = fs::metadata(directory).map_or(0, |data| data.permissions().mode());
    if all_closed && mode & 0o001 == 0 {
        let opened = fs::set_permissions(directory, fs::Permissions::from_mode((mode & 0o7777) | 0o001));
        if let Err(error) = opened {
            warn!(path = %directory.display(), %error, "users cannot reach the maildrop and mailq's socket: mode 0711 is needed");
        }
    }
    Ok(())
}

/// Takes from others what they may do.
fn close(path: &Path) -> std::io::Result<()> {
    let data = fs::symlink_metadata(path)?;
    let mode = data.permissions().mode() & 0o7777;
    match data.is_symlink() || mode & OTHERS == 0 {
        true => Ok(()),
        false => fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_more_than_the_way_through() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        for name in ["spool", pickup::NAME, showq::NAME] {
            fs::create_dir(data.join(name)).unwrap();
            fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(data.join("token.keys"), "x").unwrap();
        fs::set_permissions(data.join("token.keys"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        make(&data).unwrap();
        let mode = |name: &str| fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("spool"), mode("token.keys"), mode("")), (0o750, 0o640, 0o701));
        assert_eq!((mode(pickup::NAME), mode(showq::NAME)), (0o755, 0o755), "theirs are their own business");
    }
}
