//! API keys: `prk_<id>_<secret>`, kept as hashes in one file of the data directory.
//!
//! ```text
//! prk_ 0123456789 _ 0123456789012345678901234567890123456789
//!      id, 50 bits  secret, 200 bits
//! ```
//! In the data directory and not in the config, because keys are made and revoked by command while the daemon runs:
//! it looks at the file's stamp when a key is shown, at most once a second, and follows.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::time::Timestamp;

const PREFIX: &str = "prk_";
const ID_LENGTH: usize = 10;
const SECRET_LENGTH: usize = 40;
/// 32 characters that no one mixes up and a double click selects as one word.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Keys in one file. Far more than anyone makes by hand.
const KEYS_MAX: usize = 10_000;
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
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
    /// There are 10,000 keys already.
    #[error("there are too many keys: revoke some")]
    Full,
    /// The system gave no randomness.
    #[error("no random numbers to be had from the system")]
    Random,
}

/// A key as its user has it. Shown once, when it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: Box<str>,
    secret: Box<str>,
}

impl ApiKey {
    /// Reads a text that has the form of a key; anything else is a password.
    pub fn parse(text: &str) -> Option<ApiKey> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let of = |text: &str, length| text.len() == length && text.bytes().all(|b| ALPHABET.contains(&b));
        (of(id, ID_LENGTH) && of(secret, SECRET_LENGTH)).then(|| ApiKey { id: id.into(), secret: secret.into() })
    }

    /// What names it in lists and revokes it. No secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_string()).into()
    }
}

impl fmt::Display for ApiKey {
    /// The whole key, secret and all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_…", self.id)
    }
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
    keys: Vec<KeyRecord>,
}

/// The file of keys.
pub struct KeyFile {
    path: PathBuf,
    keys: ArcSwap<HashMap<Box<str>, KeyRecord>>,
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

impl KeyFile {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(path: PathBuf) -> Result<KeyFile, KeyError> {
        let (stamp, keys) = read(&path)?;
        let seen = Mutex::new(Seen { stamp, looked_at: Instant::now() });
        Ok(KeyFile { path, keys: ArcSwap::from_pointee(keys), seen })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// As [`KeyFile::open`]; what was read before stays.
    pub fn reload(&self) -> Result<(), KeyError> {
        let (stamp, keys) = read(&self.path)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { stamp, looked_at: Instant::now() };
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// Whose key this is, if it is one.
    pub fn owner(&self, key: &ApiKey) -> Option<Box<str>> {
        self.look();
        let keys = self.keys.load();
        let record = keys.get(key.id());
        // Compared even where there is none: an id must not be found out by time.
        let kept = record.and_then(|record| digest(&record.sha256)).unwrap_or_default();
        let equal: bool = kept.ct_eq(&key.digest()).into();
        record.filter(|_| equal).map(|record| record.credential.clone())
    }

    /// All keys, oldest first.
    pub fn list(&self) -> Vec<KeyRecord> {
        let mut all: Vec<_> = self.keys.load().values().cloned().collect();
        all.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        all
    }

    /// Makes a key and writes the file.
    ///
    /// # Errors
    /// Nothing was made.
    pub fn create(&self, credential: &str, note: &str, now: Timestamp) -> Result<ApiKey, KeyError> {
        let key = ApiKey {
            id: random_text(ID_LENGTH).ok_or(KeyError::Random)?.into(),
            secret: random_text(SECRET_LENGTH).ok_or(KeyError::Random)?.into(),
        };
        let record = KeyRecord {
            id: key.id.clone(),
            credential: credential.into(),
            sha256: key.digest().iter().map(|octet| format!("{octet:02x}")).collect(),
            created_at: now.rfc3339().into(),
            note: note.into(),
        };
        self.change(|keys| {
            keys.insert(record.id.clone(), record);
            true
        })?;
        Ok(key)
    }

    /// Revokes a key by its id; false if there is none.
    ///
    /// # Errors
    /// The file could not be written: the key still works.
    pub fn revoke(&self, id: &str) -> Result<bool, KeyError> {
        self.change(|keys| keys.remove(id).is_some())
    }

    /// One change, on what the file holds now: another command may have written it meanwhile.
    fn change(&self, edit: impl FnOnce(&mut HashMap<Box<str>, KeyRecord>) -> bool) -> Result<bool, KeyError> {
        let lock = open_for_writing(&self.path.with_extension("lock"))?;
        lock.lock().map_err(|error| KeyError::File { path: self.path.clone(), error })?;
        let (_, mut keys) = read(&self.path)?;
        let changed = edit(&mut keys);
        if keys.len() > KEYS_MAX {
            return Err(KeyError::Full);
        }
        if changed {
            self.write(&keys)?;
        }
        self.reload()?;
        Ok(changed)
    }

    /// Replaces the file at once or not at all, owned by who owns the directory: root runs the command, the service
    /// reads the file.
    fn write(&self, keys: &HashMap<Box<str>, KeyRecord>) -> Result<(), KeyError> {
        let mut document = Document { keys: keys.values().cloned().collect() };
        document.keys.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        let failed = |error| KeyError::File { path: self.path.clone(), error };
        let form = |error| KeyError::Form { path: self.path.clone(), error };
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
            Ok((stamp, keys)) => {
                seen.stamp = stamp;
                self.keys.store(Arc::new(keys));
            }
            Err(error) => tracing::warn!(%error, "API keys could not be read again; the old ones stay in use"),
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn open_for_writing(path: &Path) -> Result<File, KeyError> {
    let failed = |error| KeyError::File { path: path.to_owned(), error };
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

fn read(path: &Path) -> Result<(Stamp, HashMap<Box<str>, KeyRecord>), KeyError> {
    // Taken first: a change in between is seen at the next look.
    let stamp = stamp(path);
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((stamp, HashMap::new())),
        Err(error) => return Err(KeyError::File { path: path.to_owned(), error }),
    };
    let document: Document =
        serde_json::from_slice(&text).map_err(|error| KeyError::Form { path: path.to_owned(), error })?;
    Ok((stamp, document.keys.into_iter().map(|record| (record.id.clone(), record)).collect()))
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

/// Random characters, 5 bits each.
pub(super) fn random_text(length: usize) -> Option<String> {
    let mut octets = vec![0; length];
    getrandom::fill(&mut octets).ok()?;
    // 32 divides 256: every character is as likely as every other.
    Some(octets.iter().filter_map(|octet| ALPHABET.get(usize::from(octet & 31))).map(|c| char::from(*c)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_what_has_the_form_of_a_key_is_one() {
        let key = format!("prk_{}_{}", "a".repeat(10), "b".repeat(40));
        assert_eq!(ApiKey::parse(&key).unwrap().to_string(), key);
        for text in
            ["", "prk_", "prk_a_b", &key[1..], &key[..key.len() - 1], &key.replace('b', "0"), &format!("{key}b")]
        {
            assert_eq!(ApiKey::parse(text), None, "{text}");
        }
    }

    #[test]
    fn keys_survive_in_a_private_file_that_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let now = Timestamp::from_secs(1_800_000_000);
        let file = KeyFile::open(path.clone()).unwrap();
        let other = KeyFile::open(path.clone()).unwrap();
        let one = file.create("shop", "web", now).unwrap();
        // Made by another process that had read the file before: none is lost.
        let two = other.create("shop", "", now).unwrap();
        let again = KeyFile::open(path.clone()).unwrap();
        assert_eq!(again.list().len(), 2);
        assert_eq!(again.owner(&one).as_deref(), Some("shop"));
        assert_eq!(again.owner(&two).as_deref(), Some("shop"));
        let mixed = ApiKey { id: one.id.clone(), secret: two.secret.clone() };
        assert_eq!(again.owner(&mixed), None);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&*one.secret));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(again.revoke(one.id()).unwrap() && !again.revoke(one.id()).unwrap());
        assert_eq!(again.owner(&one), None);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let file = KeyFile::open(path.clone()).unwrap();
        let key = file.create("shop", "", Timestamp::ZERO).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(matches!(KeyFile::open(path.clone()), Err(KeyError::Form { .. })));
        assert!(file.reload().is_err() && file.create("shop", "", Timestamp::ZERO).is_err());
        assert_eq!(file.owner(&key).as_deref(), Some("shop"));
    }
}
