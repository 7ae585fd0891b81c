//! Who may send: credentials by name, proved by a password or an API key.
//!
//! Called by `submission` (verify), by the roof (load, reload) and by `cli/credential` (keys, hashes).
//! It never says why a login failed: unknown name, wrong secret and disabled credential look and last the same.
//!
//! Passwords are argon2id. Checking one takes tens of milliseconds and megabytes, so only a few are checked at once, and
//! a success is remembered for a while: PHP logs in anew for every message. What is remembered is a MAC under a key that
//! lives and dies with the process. API keys are long random strings: one SHA-256 is enough, and a key names its own
//! record, so that nothing is searched.

mod file;
mod key;
mod password;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

pub use file::{CredentialFile, FILE_NAME, FileError, KeyRecord};
pub use key::ApiKey;
pub use password::{PasswordError, hash, random_password};

/// The name that stands for "whose key this is", as several large providers have it.
const KEY_USER: &str = "apikey";

/// How passwords are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Passwords being hashed at once. Each takes the memory its hash asks for, 19 MiB as made by us.
    ///
    /// Range 1 to 64. Default: half of the machine's cores, at least one, so that guessing cannot stop the mail.
    pub verifications_at_once: usize,
    /// Longest wait for a turn; then the client gets 454 and tries again.
    ///
    /// Unit: seconds. Default 10.
    pub wait_max: Duration,
    /// How long a success is remembered.
    ///
    /// Unit: seconds; 0 remembers nothing. Default 600. A reload forgets all.
    pub remember: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            verifications_at_once: (cores / 2).max(1),
            wait_max: Duration::from_secs(10),
            remember: Duration::from_secs(600),
        }
    }
}

/// A credential as the config has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name; also what the client logs in as.
    pub name: Box<str>,
    /// `$argon2id$…`; absent where only API keys are used.
    pub password_hash: Option<Box<str>>,
    /// It may not log in, whatever it shows.
    pub disabled: bool,
}

/// Why a login is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VerifyError {
    /// Name or secret is wrong, or the credential is disabled.
    #[error("name or secret is wrong")]
    Rejected,
    /// No turn within the wait allowed.
    #[error("too many logins are being checked")]
    Busy,
}

/// Why credentials cannot be used as written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The hash of this credential cannot be read.
    #[error("credential {name:?}: {error}")]
    Password {
        /// Which.
        name: Box<str>,
        /// What is wrong.
        error: PasswordError,
    },
    /// Two have one name.
    #[error("credential {0:?} is there twice")]
    Twice(Box<str>),
    /// `apikey` would be ambiguous, and an empty name cannot log in.
    #[error("a credential cannot be named {0:?}")]
    Name(Box<str>),
    /// The file in the data directory.
    #[error(transparent)]
    File(#[from] FileError),
}

/// All credentials. Cheap to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    settings: Settings,
    table: ArcSwap<Table>,
    file: CredentialFile,
    turns: Arc<Semaphore>,
    remembered: Mutex<HashMap<Arc<str>, Remembered>>,
    process_key: [u8; 32],
}

struct Table {
    accounts: HashMap<Box<str>, (Arc<str>, Account)>,
    /// Stands in for the hash of an unknown name; made with the parameters of the real ones, to cost the same.
    decoy: Arc<str>,
}

/// At most one a credential: it has but one password.
struct Remembered {
    tag: [u8; 32],
    until: Instant,
}

impl Credentials {
    /// From the config's credentials and [`FILE_NAME`] in the data directory (which need not exist).
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub fn new(settings: Settings, accounts: Vec<Account>, file: PathBuf) -> Result<Credentials, CredentialError> {
        let mut process_key = [0; 32];
        getrandom::fill(&mut process_key).map_err(|_| FileError::Random)?;
        let turns = Arc::new(Semaphore::new(settings.verifications_at_once.clamp(1, 64)));
        Ok(Credentials(Arc::new(Inner {
            table: ArcSwap::from_pointee(Table::new(accounts)?),
            file: CredentialFile::open(file)?,
            turns,
            remembered: Mutex::default(),
            process_key,
            settings,
        })))
    }

    /// Takes other credentials into use, and forgets every remembered success.
    ///
    /// # Errors
    /// As [`Credentials::new`]; the old ones stay.
    pub fn reload(&self, accounts: Vec<Account>) -> Result<(), CredentialError> {
        let table = Table::new(accounts)?;
        self.0.file.reload()?;
        let mut remembered = self.remembered();
        self.0.table.store(Arc::new(table));
        remembered.clear();
        Ok(())
    }

    /// Whether the config has this credential, and it is not disabled.
    pub fn is_enabled(&self, name: &str) -> bool {
        let table = self.0.table.load();
        table.accounts.get(name).is_some_and(|(_, account)| self.may_log_in(account))
    }

    fn may_log_in(&self, account: &Account) -> bool {
        !account.disabled && !self.0.file.is_disabled(&account.name)
    }

    /// Checks a login; gives the credential's name.
    ///
    /// # Errors
    /// See [`VerifyError`].
    ///
    /// # Cancel safety
    /// Dropping it loses nothing; a hash being computed runs to its end and keeps its turn until then.
    pub async fn verify(&self, name: &str, secret: &str) -> Result<Arc<str>, VerifyError> {
        match ApiKey::parse(secret) {
            Some(key) => self.verify_key(name, &key),
            None => self.verify_password(name, secret).await,
        }
    }

    fn verify_key(&self, name: &str, key: &ApiKey) -> Result<Arc<str>, VerifyError> {
        let owner = self.0.file.owner(key).ok_or(VerifyError::Rejected)?;
        let table = self.0.table.load();
        let (shared, account) = table.accounts.get(&*owner).ok_or(VerifyError::Rejected)?;
        let named = name.eq_ignore_ascii_case(KEY_USER) || name == &*account.name;
        if named && self.may_log_in(account) { Ok(shared.clone()) } else { Err(VerifyError::Rejected) }
    }

    async fn verify_password(&self, name: &str, secret: &str) -> Result<Arc<str>, VerifyError> {
        let table = self.0.table.load_full();
        let known = table.accounts.get(name);
        let tag = self.tag(name, secret);
        if let Some((shared, account)) = known
            && self.may_log_in(account)
            && self.is_remembered(name, &tag)
        {
            return Ok(shared.clone());
        }
        let turn = tokio::time::timeout(self.0.settings.wait_max, self.0.turns.clone().acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(VerifyError::Busy)?;
        let hash = known.and_then(|(_, account)| account.password_hash.as_deref()).map(Arc::from);
        let (hash, secret) = (hash.unwrap_or_else(|| table.decoy.clone()), secret.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            password::verify(&hash, &secret)
        });
        let right = checked.await.unwrap_or(false);
        match known {
            Some((shared, account)) if right && account.password_hash.is_some() && self.may_log_in(account) => {
                self.remember(shared, tag, &table);
                Ok(shared.clone())
            }
            _ => Err(VerifyError::Rejected),
        }
    }

    fn tag(&self, name: &str, secret: &str) -> [u8; 32] {
        // Invariant: HMAC takes keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0.process_key) else { return [0; 32] };
        // Names hold no NUL: no two pairs give the same octets.
        mac.update(name.as_bytes());
        mac.update(&[0]);
        mac.update(secret.as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Remembered>> {
        self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_remembered(&self, name: &str, tag: &[u8; 32]) -> bool {
        let remembered = self.remembered();
        let entry = remembered.get(name).filter(|entry| entry.until > Instant::now());
        entry.is_some_and(|entry| entry.tag.ct_eq(tag).into())
    }

    fn remember(&self, name: &Arc<str>, tag: [u8; 32], checked_in: &Arc<Table>) {
        let mut remembered = self.remembered();
        // A reload since the check may have changed the password, and stores its table before it forgets all.
        let stale = !Arc::ptr_eq(checked_in, &self.0.table.load());
        if stale || self.0.settings.remember.is_zero() {
            return;
        }
        let until = Instant::now() + self.0.settings.remember;
        remembered.insert(name.clone(), Remembered { tag, until });
    }
}

impl Table {
    fn new(accounts: Vec<Account>) -> Result<Table, CredentialError> {
        let mut by_name: HashMap<Box<str>, (Arc<str>, Account)> = HashMap::with_capacity(accounts.len());
        let mut model = None;
        for account in accounts {
            if account.name.is_empty() || account.name.eq_ignore_ascii_case(KEY_USER) || account.name.contains('\0') {
                return Err(CredentialError::Name(account.name));
            }
            if let Some(hash) = &account.password_hash {
                let failed = |error| CredentialError::Password { name: account.name.clone(), error };
                let parameters = password::parameters(hash).map_err(failed)?;
                model.get_or_insert(parameters);
            }
            let name = account.name.clone();
            if let Some((twice, _)) = by_name.insert(name.clone(), (Arc::from(&*name), account)) {
                return Err(CredentialError::Twice((*twice).into()));
            }
        }
        let decoy = password::decoy(model.unwrap_or_default())
            .map_err(|error| CredentialError::Password { name: "decoy".into(), error })?;
        Ok(Table { accounts: by_name, decoy: decoy.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, password: Option<&str>) -> Account {
        let password_hash = password.map(|password| password::cheap_hash(password).into());
        Account { name: name.into(), password_hash, disabled: false }
    }

    fn credentials(dir: &tempfile::TempDir, accounts: Vec<Account>) -> Credentials {
        Credentials::new(Settings::default(), accounts, dir.path().join("credentials.json")).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_enabled_credential_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut closed = account("closed", Some("secret"));
        closed.disabled = true;
        let all = vec![account("shop", Some("secret")), account("keys-only", None), closed];
        let credentials = credentials(&dir, all);
        // Twice: the second time from memory.
        for _ in 0..2 {
            assert_eq!(credentials.verify("shop", "secret").await.as_deref(), Ok("shop"));
            for (name, secret) in [
                ("shop", "wrong"),
                ("shop", ""),
                ("Shop", "secret"),
                ("nobody", "secret"),
                ("", "secret"),
                ("keys-only", ""),
                ("keys-only", password::DECOY_PASSWORD),
                ("nobody", password::DECOY_PASSWORD),
                ("closed", "secret"),
                ("apikey", "secret"),
            ] {
                let outcome = credentials.verify(name, secret).await;
                assert_eq!(outcome, Err(VerifyError::Rejected), "{name} {secret}");
            }
        }
    }

    #[tokio::test]
    async fn a_reload_forgets_the_old_password_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = credentials(&dir, vec![account("shop", Some("old"))]);
        assert!(credentials.verify("shop", "old").await.is_ok());
        let bad = Account { name: "shop".into(), password_hash: Some("plain".into()), disabled: false };
        assert!(credentials.reload(vec![bad]).is_err());
        assert!(credentials.reload(vec![account("a", None), account("a", None)]).is_err());
        assert!(credentials.reload(vec![account("apikey", None)]).is_err());
        assert!(credentials.verify("shop", "old").await.is_ok());
        credentials.reload(vec![account("shop", Some("new"))]).unwrap();
        assert_eq!(credentials.verify("shop", "old").await, Err(VerifyError::Rejected));
        assert!(credentials.verify("shop", "new").await.is_ok());
    }

    #[tokio::test]
    async fn a_key_works_under_both_names_until_it_is_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let mut closed = account("closed", None);
        closed.disabled = true;
        let credentials = credentials(&dir, vec![account("shop", None), account("other", None), closed]);
        let file = CredentialFile::open(dir.path().join("credentials.json")).unwrap();
        let now = crate::time::Timestamp::from_secs(1_800_000_000);
        let key = file.create("shop", "", now).unwrap();
        let secret = key.to_string();
        credentials.reload(vec![account("shop", None), account("other", None)]).unwrap();
        for name in ["apikey", "APIKEY", "shop"] {
            assert_eq!(credentials.verify(name, &secret).await.as_deref(), Ok("shop"), "{name}");
        }
        assert_eq!(credentials.verify("other", &secret).await, Err(VerifyError::Rejected));
        let forged = secret.replace(&secret[secret.len() - 4..], "aaaa");
        assert_eq!(credentials.verify("apikey", &forged).await, Err(VerifyError::Rejected));
        assert!(file.revoke(key.id()).unwrap());
        credentials.reload(vec![account("shop", None)]).unwrap();
        assert_eq!(credentials.verify("apikey", &secret).await, Err(VerifyError::Rejected));
    }

    #[tokio::test]
    async fn a_credential_switched_off_by_command_may_not_log_in() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = credentials(&dir, vec![account("shop", Some("secret"))]);
        let file = CredentialFile::open(dir.path().join("credentials.json")).unwrap();
        let key = file.create("shop", "", crate::time::Timestamp::ZERO).unwrap().to_string();
        for (change, want) in [(CredentialFile::disable as fn(&_, &_) -> _, false), (CredentialFile::enable, true)] {
            change(&file, "shop").unwrap();
            credentials.0.file.reload().unwrap();
            assert_eq!(credentials.verify("shop", "secret").await.is_ok(), want);
            assert_eq!(credentials.verify("apikey", &key).await.is_ok(), want);
            assert_eq!(credentials.is_enabled("shop"), want);
        }
    }

    #[tokio::test]
    async fn who_gets_no_turn_is_told_to_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let settings =
            Settings { verifications_at_once: 1, wait_max: Duration::from_millis(10), ..Settings::default() };
        let accounts = vec![account("shop", Some("secret"))];
        let credentials = Credentials::new(settings, accounts, dir.path().join("credentials.json")).unwrap();
        let turn = credentials.0.turns.clone().acquire_owned().await.unwrap();
        assert_eq!(credentials.verify("shop", "secret").await, Err(VerifyError::Busy));
        drop(turn);
        assert!(credentials.verify("shop", "secret").await.is_ok());
    }
}
