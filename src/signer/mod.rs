//! DKIM (RFC 6376, RFC 8463): the keys, and the signatures that delivery puts on top of a message.
//!
//! The one wrapper of mail-auth. Called by `delivery` for every envelope, by `cli` (new keys, records) and by the
//! sandbox (`verify`). It reads key files when it is made or reloaded, and nothing else; it never changes a message,
//! and never decides whether one is sent. `incoming` looks at mail that comes in, for `accept`.
//!
//! Signing is synchronous: RSA-2048 takes about 0.3 ms of CPU, Ed25519 a thirtieth of that, the body's hash 1 ms per
//! MiB. `delivery` does it on the connection's task, whatever the size.

mod cache;
mod canonical;
mod incoming;
mod key;
mod verify;

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use mail_auth::common::crypto::SigningKey as _;
use mail_auth::dkim::{Canonicalization, Signature};

use crate::mail::{Domain, QueueId};
use crate::time::Timestamp;

use cache::Bounded;
use canonical::{body_hash, signed_header};
pub use incoming::{Found, Incoming, Verifier};
pub use key::{Algorithm, KeyError, NewKey, Record, SigningKey, generate};
pub use verify::{Verified, verify};

/// What is signed with which key, and how long a signature lives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domains that sign, each with one or two keys. Default: none, and nothing is signed.
    pub domains: Vec<SigningDomain>,
    /// How long a signature is valid (`x=`, RFC 6376 §3.5). Limits replay of a captured message.
    ///
    /// Default: 7 days, two more than the longest age of a message. Range: 1 day or more. `None`: for ever.
    pub valid_for: Option<Duration>,
    /// A signature older than this is made anew. Default: 24 hours, so that a retry never carries one about to expire.
    pub made_anew_after: Duration,
    /// Signatures and body hashes kept for other envelopes and attempts of the same message.
    ///
    /// Default: 4,096 each, about 4 MiB. 0 turns it off.
    pub cached_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            domains: Vec::new(),
            valid_for: Some(Duration::from_secs(7 * 86_400)),
            made_anew_after: Duration::from_secs(86_400),
            cached_max: 4096,
        }
    }
}

/// A domain and its keys: `[[sending_domain]]`.
#[derive(Clone, Debug)]
pub struct SigningDomain {
    /// Signs for itself and for names below it that have no keys of their own.
    pub domain: Domain,
    /// One RSA key, one Ed25519 key, or one of each: every one makes a signature.
    pub keys: Vec<KeyFile>,
}

/// Where a private key is.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// `pr1` in `pr1._domainkey.example.com`.
    pub selector: Box<str>,
    /// PEM, PKCS#8 or PKCS#1; not readable by others.
    pub path: PathBuf,
}

/// Why a message could not be signed. It should be tried again, not sent without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing for {domain} failed: {reason}")]
pub struct SignError {
    /// Whose key.
    pub domain: Domain,
    /// What the library said.
    pub reason: String,
}

/// Which bytes of one submission are signed: a conversion makes another body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Form {
    /// As accepted.
    #[default]
    AsAccepted,
    /// Converted for a peer without 8BITMIME.
    SevenBit,
}

/// A message to be signed.
#[derive(Clone, Debug)]
pub struct Unsigned<'a> {
    /// With `form`, names the body: equal values mean equal bytes.
    pub submission: QueueId,
    /// Which bytes.
    pub form: Form,
    /// Which header: 0 for that which was accepted, else what tells another from it.
    pub variant: u64,
    /// The key is chosen to align with this (RFC 9989): its own, else its nearest parent's.
    pub author_domain: &'a Domain,
    /// The fields that this envelope alone gets; they will stand between the signature and the message.
    pub added_headers: &'a Bytes,
    /// Header block and body.
    pub message: &'a [u8],
    /// Where the body begins ([`crate::mail::BodyFacts::header_bytes`], or of the converted message).
    pub header_bytes: usize,
}

#[derive(Clone, PartialEq, Eq)]
struct SignatureName {
    submission: QueueId,
    form: Form,
    variant: u64,
    author_domain: Domain,
    added_headers: Bytes,
}

impl Hash for SignatureName {
    /// The added headers are half a kilobyte, and ours: nobody can choose them so that their sums agree.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.submission, self.form, self.variant, crc32fast::hash(&self.added_headers)).hash(hasher);
    }
}

struct Made {
    at: Timestamp,
    keyring: u64,
    header: Bytes,
}

struct Keyring {
    number: u64,
    domains: Vec<(Domain, Vec<SigningKey>)>,
    valid_for: Option<Duration>,
    made_anew_after: Duration,
}

/// The signer's handle. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    keyring: Arc<ArcSwap<Keyring>>,
    made: Arc<Cache<SignatureName, Made>>,
    hashes: Arc<Cache<(QueueId, Form), [u8; 32]>>,
}

type Cache<K, V> = Mutex<Bounded<K, V>>;

impl Signer {
    /// Reads all keys.
    ///
    /// # Errors
    /// The first key that cannot be used, and why.
    pub fn new(settings: &Settings) -> Result<Signer, KeyError> {
        let keyring = Keyring::load(settings, 0)?;
        Ok(Signer {
            keyring: Arc::new(ArcSwap::from_pointee(keyring)),
            made: Arc::new(Mutex::new(Bounded::new(settings.cached_max))),
            hashes: Arc::new(Mutex::new(Bounded::new(settings.cached_max))),
        })
    }

    /// Reads all keys anew. From then on no signature of the old ones is used.
    ///
    /// # Errors
    /// As [`Signer::new`]; the old keys stay in use.
    pub fn reload(&self, settings: &Settings) -> Result<(), KeyError> {
        let keyring = Keyring::load(settings, self.keyring.load().number + 1)?;
        self.keyring.store(Arc::new(keyring));
        Ok(())
    }

    /// The domain that would sign (`d=`) for an author's.
    pub fn signing_domain(&self, author: &Domain) -> Option<Domain> {
        self.keyring.load().for_author(author).map(|(domain, _)| domain.clone())
    }

    /// The records that must be published for the keys in use.
    pub fn records(&self) -> Vec<Record> {
        let keyring = self.keyring.load();
        let all = keyring.domains.iter().flat_map(|(domain, keys)| keys.iter().map(|key| key.record(domain)));
        all.collect()
    }

    /// The DKIM-Signature fields to put on top of the added headers, one a key, each ended by CRLF. Empty: no key
    /// covers the author's domain, or the message has no From field (RFC 6376 §5.4 would forbid the signature).
    ///
    /// # Errors
    /// The library failed, which it does for no message, only for a broken machine.
    pub fn sign(&self, unsigned: &Unsigned, now: Timestamp) -> Result<Bytes, SignError> {
        let keyring = self.keyring.load();
        let Some((domain, keys)) = keyring.for_author(unsigned.author_domain) else { return Ok(Bytes::new()) };
        let name = SignatureName {
            submission: unsigned.submission,
            form: unsigned.form,
            variant: unsigned.variant,
            author_domain: unsigned.author_domain.clone(),
            added_headers: unsigned.added_headers.clone(),
        };
        let is_fresh = |made: &Made| made.keyring == keyring.number && now.since(made.at) < keyring.made_anew_after;
        if let Some(made) = lock(&self.made).find(&name).filter(|made| is_fresh(made)) {
            return Ok(made.header.clone());
        }
        let header_block = unsigned.message.get(..unsigned.header_bytes).unwrap_or(unsigned.message);
        let Some(signed) = signed_header(unsigned.added_headers, header_block) else { return Ok(Bytes::new()) };
        let mut signature = Signature {
            v: 1,
            d: domain.to_string(),
            bh: self.hash(unsigned).to_vec(),
            h: signed.names,
            t: now.as_secs(),
            x: keyring.valid_for.map_or(0, |valid_for| now.after(valid_for).as_secs()),
            ch: Canonicalization::Relaxed,
            cb: Canonicalization::Relaxed,
            ..Signature::default()
        };
        let mut header = Vec::with_capacity(1024 * keys.len());
        for key in keys {
            sign_with(key, &mut signature, &signed.canonical)
                .map_err(|error| SignError { domain: domain.clone(), reason: error.to_string() })?;
            signature.write(&mut header, true);
        }
        let header = Bytes::from(header);
        lock(&self.made).keep(name, Made { at: now, keyring: keyring.number, header: header.clone() });
        Ok(header)
    }

    /// The body's hash, made once a body.
    fn hash(&self, unsigned: &Unsigned) -> [u8; 32] {
        let name = (unsigned.submission, unsigned.form);
        if let Some(hash) = lock(&self.hashes).find(&name) {
            return *hash;
        }
        let hash = body_hash(unsigned.message.get(unsigned.header_bytes..).unwrap_or_default());
        lock(&self.hashes).keep(name, hash);
        hash
    }
}

/// No panic can leave a cache half changed in a way that matters.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the signature that of a key, over these fields.
fn sign_with(key: &SigningKey, signature: &mut Signature, canonical: &[u8]) -> Result<(), mail_auth::Error> {
    signature.a = key.key.algorithm();
    signature.s = key.selector.to_string();
    signature.b.clear();
    // RFC 6376 §3.7: the signed fields, then this one with an empty b= and without a line end.
    let mut input = Vec::with_capacity(canonical.len() + 512);
    input.extend_from_slice(canonical);
    signature.write(&mut input, false);
    signature.b = key.key.sign(input.as_slice())?;
    Ok(())
}

impl Keyring {
    fn load(settings: &Settings, number: u64) -> Result<Keyring, KeyError> {
        let mut domains = Vec::with_capacity(settings.domains.len());
        for entry in settings.domains.iter().filter(|entry| !entry.keys.is_empty()) {
            let keys = entry.keys.iter().map(|file| SigningKey::load(&file.selector, &file.path));
            domains.push((entry.domain.clone(), keys.collect::<Result<Vec<_>, _>>()?));
        }
        Ok(Keyring { number, domains, valid_for: settings.valid_for, made_anew_after: settings.made_anew_after })
    }

    /// The author's own domain, else the nearest above it.
    fn for_author(&self, author: &Domain) -> Option<(&Domain, &[SigningKey])> {
        let covering = self.domains.iter().filter(|(domain, _)| author.is_within(domain));
        covering.max_by_key(|(domain, _)| domain.as_str().len()).map(|(domain, keys)| (domain, keys.as_slice()))
    }
}

#[cfg(test)]
mod tests;
