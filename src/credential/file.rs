//! What commands change about credentials while the daemon runs: API keys, and who is switched off. One JSON file of
//! the data directory, `credentials.json`.
//!
//! Not in the config, because a key is made and revoked by command, at once: the daemon looks at the file's stamp when
//! somebody logs in, at most once a second, and follows. It holds no secret that could be used: keys are hashed.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::key::ApiKey;
use crate::time::Timestamp;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "credentials.json";
/// Keys in one file. Far more than anyone makes by hand.
const KEYS_MAX: usize = 10_000;
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system's words.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not ours.
    #[error("{path}: {error}", path = path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// There are 10,000 keys or disabled credentials already.
    #[error("there are too many keys: revoke some")]
    Full,
    /// The system gave no randomness.
    #[error("no random numbers to be had from the system")]
    Random,
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The middle part of the key.
    pub id: Box<str>,
    /// Whose it is.
    pub credential: Box<str>,
    /// SHA-256 of the whole key, hexadecimal. The key has 200 random bits: nothing slower is needed.
    pub sha256: Box<str>,
    /// RFC 3339.
    pub created_at: Box<str>,
    /// A word of its maker's.
    #[serde(default)]
    pub note: Box<str>,
}

#[derive(Default, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    keys: Vec<KeyRecord>,
    /// Credentials that may not log in, whatever the config says.
    #[serde(default)]
    disabled: BTreeSet<Box<str>>,
}

#[derive(Default)]
struct Contents {
    keys: HashMap<Box<str>, KeyRecord>,
    disabled: BTreeSet<Box<str>>,
}

/// The file.
pub struct CredentialFile {
    path: PathBuf,
    contents: ArcSwap<Contents>,
    seen: Mutex<Seen>,
}

struct Seen {
    stamp: Stamp,
    looked_at: Instant,
}

/// Changes whenever the file is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

impl CredentialFile {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(path: PathBuf) -> Result<CredentialFile, FileError> {
        let (stamp, contents) = read(&path)?;
        let seen = Mutex::new(Seen { stamp, looked_at: Instant::now() });
        Ok(CredentialFile { path, contents: ArcSwap::from_pointee(contents), seen })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// As [`CredentialFile::open`]; what was read before stays.
    pub fn reload(&self) -> Result<(), FileError> {
        let (stamp, contents) = read(&self.path)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { stamp, looked_at: Instant::now() };
        self.contents.store(Arc::new(contents));
        Ok(())
    }

    /// Whose key this is, if it is one.
    pub fn owner(&self, key: &ApiKey) -> Option<Box<str>> {
        self.look();
        let contents = self.contents.load();
        let record = contents.keys.get(key.id());
        // Compared even where there is none: an id must not be found out by time.
        let kept = record.and_then(|record| digest(&record.sha256)).unwrap_or_default();
        let equal: bool = kept.ct_eq(&key.digest()).into();
        record.filter(|_| equal).map(|record| record.credential.clone())
    }

    /// All keys, oldest first.
    pub fn list(&self) -> Vec<KeyRecord> {
        self.look();
        sorted(self.contents.load().keys.values().cloned().collect())
    }

    /// Makes a key and writes the file.
    ///
    /// # Errors
    /// Nothing was made.
    pub fn create(&self, credential: &str, note: &str, now: Timestamp) -> Result<ApiKey, FileError> {
        let key = ApiKey::random().ok_or(FileError::Random)?;
        let record = KeyRecord {
            id: key.id().into(),
            credential: credential.into(),
            sha256: key.digest().iter().map(|octet| format!("{octet:02x}")).collect(),
            created_at: now.rfc3339().into(),
            note: note.into(),
        };
        self.change(|contents| contents.keys.insert(record.id.clone(), record).is_none())?;
        Ok(key)
    }

    /// Revokes a key by its id; false if there is none.
    ///
    /// # Errors
    /// The file could not be written: the key still works.
    pub fn revoke(&self, id: &str) -> Result<bool, FileError> {
        self.change(|contents| contents.keys.remove(id).is_some())
    }

    /// Whether a credential is switched off here.
    pub fn is_disabled(&self, credential: &str) -> bool {
        self.look();
        self.contents.load().disabled.contains(credential)
    }

    /// Switches a credential off; false if it was. A daemon that runs follows within a second.
    ///
    /// # Errors
    /// The file could not be written: it still works.
    pub fn disable(&self, credential: &str) -> Result<bool, FileError> {
        self.change(|contents| contents.disabled.insert(credential.into()))
    }

    /// Switches it on again; false if it was on.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn enable(&self, credential: &str) -> Result<bool, FileError> {
        self.change(|contents| contents.disabled.remove(credential))
    }

    /// One change, on what the file holds now: another command may have written it meanwhile.
    fn change(&self, edit: impl FnOnce(&mut Contents) -> bool) -> Result<bool, FileError> {
        let lock = open_for_writing(&self.path.with_extension("lock"))?;
        lock.lock().map_err(|error| FileError::File { path: self.path.clone(), error })?;
        let (_, mut contents) = read(&self.path)?;
        let changed = edit(&mut contents);
        if contents.keys.len() > KEYS_MAX || contents.disabled.len() > KEYS_MAX {
            return Err(FileError::Full);
        }
        if changed {
            self.write(contents)?;
        }
        self.reload()?;
        Ok(changed)
    }

    /// Replaces the file at once or not at all, owned by who owns the directory: root runs the command, the service
    /// reads the file.
    fn write(&self, contents: Contents) -> Result<(), FileError> {
        let keys = sorted(contents.keys.into_values().collect());
        let document = Document { keys, disabled: contents.disabled };
        let failed = |error| FileError::File { path: self.path.clone(), error };
        let form = |error| FileError::Form { path: self.path.clone(), error };
        let text = serde_json::to_string_pretty(&document).map_err(form)?;
        let new = self.path.with_extension("new");
        let mut file = open_for_writing(&new)?;
        file.set_len(0).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)?;
        File::open(directory(&self.path)).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.looked_at.elapsed() < LOOK_EVERY {
            return;
        }
        seen.looked_at = Instant::now();
        if stamp(&self.path) == seen.stamp {
            return;
        }
        match read(&self.path) {
            Ok((stamp, contents)) => {
                seen.stamp = stamp;
                self.contents.store(Arc::new(contents));
            }
            Err(error) => {
                tracing::warn!(%error, "credentials.json could not be read again; what was read before stays in force")
            }
        }
    }
}

fn sorted(mut keys: Vec<KeyRecord>) -> Vec<KeyRecord> {
    keys.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
    keys
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open_for_writing(path: &Path) -> Result<File, FileError> {
    let failed = |error| FileError::File { path: path.to_owned(), error };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    let owner = fs::metadata(directory(path)).map_err(failed)?;
    let own = file.metadata().map_err(failed)?;
    if (own.uid(), own.gid()) != (owner.uid(), owner.gid()) {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
    }
    Ok(file)
}

fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).map_or_else(
        |_| Stamp::default(),
        |meta| Stamp { inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()), length: meta.len() },
    )
}

fn read(path: &Path) -> Result<(Stamp, Contents), FileError> {
    // Taken first: a change in between is seen at the next look.
    let stamp = stamp(path);
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((stamp, Contents::default())),
        Err(error) => return Err(FileError::File { path: path.to_owned(), error }),
    };
    let document: Document =
        serde_json::from_slice(&text).map_err(|error| FileError::Form { path: path.to_owned(), error })?;
    let keys = document.keys.into_iter().map(|record| (record.id.clone(), record)).collect();
    Ok((stamp, Contents { keys, disabled: document.disabled }))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut octets = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_survive_in_a_private_file_that_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.json");
        let now = Timestamp::from_secs(1_800_000_000);
        let file = CredentialFile::open(path.clone()).unwrap();
        let other = CredentialFile::open(path.clone()).unwrap();
        let one = file.create("shop", "web", now).unwrap();
        // Made by another process that had read the file before: none is lost.
        let two = other.create("shop", "", now).unwrap();
        let again = CredentialFile::open(path.clone()).unwrap();
        assert_eq!(again.list().len(), 2);
        assert_eq!(again.owner(&one).as_deref(), Some("shop"));
        assert_eq!(again.owner(&two).as_deref(), Some("shop"));
        let secret = two.to_string().rsplit('_').next().unwrap().to_owned();
        let mixed = ApiKey::parse(&format!("prk_{}_{secret}", one.id())).unwrap();
        assert_eq!(again.owner(&mixed), None);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&secret));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(again.revoke(one.id()).unwrap() && !again.revoke(one.id()).unwrap());
        assert_eq!(again.owner(&one), None);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.json");
        let file = CredentialFile::open(path.clone()).unwrap();
        let key = file.create("shop", "", Timestamp::ZERO).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(matches!(CredentialFile::open(path.clone()), Err(FileError::Form { .. })));
        assert!(file.reload().is_err() && file.create("shop", "", Timestamp::ZERO).is_err());
        assert_eq!(file.owner(&key).as_deref(), Some("shop"));
    }
    #[test]
    fn a_credential_is_switched_off_and_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.json");
        let file = CredentialFile::open(path.clone()).unwrap();
        assert!(file.disable("shop").unwrap() && !file.disable("shop").unwrap());
        let again = CredentialFile::open(path).unwrap();
        assert!(again.is_disabled("shop") && !again.is_disabled("other"));
        assert!(again.enable("shop").unwrap() && !again.enable("shop").unwrap());
        assert!(!again.is_disabled("shop"));
    }
}
