//! The file with the keys of return paths and unsubscribe links: made at the first start, read at each, and at a reload.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::config::private;
use crate::token::Keys;

/// Reads the keys at a start; makes the file if there is none. When this returns, they are on the disk: mail that carries
/// their tokens must find them again after a crash. A damaged file keeps nobody's mail waiting: it is set aside, what can be
/// read of it goes on to be used, and tokens of what cannot are lost until it is restored.
///
/// # Errors
/// The file cannot be read or made, or strangers can read it.
pub(super) fn keys_at_start(path: &Path) -> anyhow::Result<Keys> {
    let Ok(octets) = fs::read(path) else { return keys(path) };
    let text = String::from_utf8_lossy(&octets);
    if let Err(flaw) = Keys::parse(&text) {
        private(path).map_err(|error| anyhow::anyhow!("{error}"))?;
        let aside = path.with_extension("damaged");
        let whole = |line: &&str| line.len() == 64 && line.bytes().all(|octet| octet.is_ascii_hexdigit());
        let saved: Vec<&str> = text.lines().map(str::trim).filter(whole).collect();
        tracing::error!(
            file = %path.display(), aside = %aside.display(), keys = saved.len(), %flaw,
            "the keys of return paths and unsubscribe links are damaged: the file is set aside, and bounces and wishes whose \
             key is lost are not recognised; restore it from a backup and reload"
        );
        fs::rename(path, &aside).with_context(|| format!("{}: cannot be set aside", path.display()))?;
        if !saved.is_empty() {
            write(path, &(saved.join("\n") + "\n")).with_context(|| format!("{}: cannot be made", path.display()))?;
        }
    }
    keys(path)
}

/// Reads the keys; makes the file if there is none.
///
/// # Errors
/// The file cannot be read or made, or is no file of keys, or strangers can read it. It is not replaced.
pub(super) fn keys(path: &Path) -> anyhow::Result<Keys> {
    let shown = path.display();
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(path).with_context(|| format!("{shown}: cannot be made"))?
        }
        read => String::from_utf8_lossy(&read.with_context(|| format!("{shown}: cannot be read"))?).into_owned(),
    };
    if let Err(error) = private(path) {
        bail!("{error}");
    }
    Keys::parse(&text).with_context(|| shown.to_string())
}

fn make(path: &Path) -> io::Result<String> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| io::Error::other(error.to_string()))?;
    let text = Keys::file(&secret);
    write(path, &text)?;
    Ok(text)
}

/// Under its name only once it is whole.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    // What a crash left behind.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::mail::QueueId;
    use crate::time::Timestamp;
    use crate::token::{Kind, Token};

    fn made(keys: &Keys) -> String {
        let expires_at = Timestamp::from_secs(7200);
        keys.make(&Token { kind: Kind::ReturnPath, id: QueueId::MIN, recipient: 0, expires_at })
    }

    #[test]
    fn keys_are_made_once_for_the_owner_alone_and_differ_between_houses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.keys");
        // A crash in the middle of the first start.
        fs::write(path.with_extension("new"), "half").unwrap();
        let first = keys(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.with_extension("new").exists());
        let again = keys(&path).unwrap();
        assert_eq!(made(&first), made(&again));
        let other = keys(&dir.path().join("other.keys")).unwrap();
        assert_ne!(made(&first), made(&other));
        // As the file itself says how.
        fs::write(&path, fs::read_to_string(&path).unwrap() + &"ab".repeat(32)).unwrap();
        let rotated = keys(&path).unwrap();
        assert_eq!(rotated.count(), 2);
        assert!(rotated.read(&made(&first), Timestamp::ZERO).is_ok() && made(&rotated) != made(&first));
    }

    #[test]
    fn a_file_that_is_none_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.keys");
        fs::write(&path, "# empty").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = format!("{:#}", keys(&path).unwrap_err());
        assert!(error.contains("token.keys: it has no key"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "# empty");
        // A start goes on all the same, with what can be read.
        let good = "ab".repeat(32);
        fs::write(&path, format!("# \u{fffd}\n{good}\n{}\n", "xy".repeat(32))).unwrap();
        let saved = keys_at_start(&path).unwrap();
        assert_eq!(made(&saved), made(&Keys::parse(&good).unwrap()));
        assert!(path.with_extension("damaged").exists());
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(keys_at_start(&path).unwrap().count(), 1);

        fs::write(&path, Keys::file(&[1; 32])).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = format!("{:#}", keys(&path).unwrap_err());
        assert!(error.contains("chmod"), "{error}");
    }
}
