//! Private keys: read from files, made anew, and the DNS record of each.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::mail::Domain;

/// RFC 8301 §3.2 asks signers for 2048 at least; below, receivers may ignore the signature.
const RSA_BITS_MIN: usize = 2048;
/// Larger keys do not fit a UDP answer and cost 8 times the CPU.
const RSA_BITS_MAX: usize = 4096;
/// A key file is under 4 KiB; anything much larger is something else.
const FILE_LENGTH_MAX: u64 = 64 * 1024;
/// DER of the start of a SubjectPublicKeyInfo for rsaEncryption: its AlgorithmIdentifier (RFC 3279 §2.3.1).
const RSA_ALGORITHM: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];

/// Why a key cannot be used. Names its file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("the DKIM key {path} cannot be read: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Others could read or its group change it.
    #[error("the DKIM key {path} has mode {mode:04o}, so that others could use it; set it to 0640 or 0600")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no key, or of no kind that DKIM knows.
    #[error("{path} holds no RSA or Ed25519 private key in PEM form (PKCS#8 or PKCS#1): {reason}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// RSA with too few or too many bits.
    #[error("the DKIM key {path} has {bits} bits; 2048 to 4096 are allowed, 2048 is what all receivers take")]
    Bits {
        /// Which file.
        path: PathBuf,
        /// How many it has.
        bits: usize,
    },
}

/// A key's kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// `rsa-sha256`.
    Rsa,
    /// `ed25519-sha256`, RFC 8463.
    Ed25519,
}

impl Algorithm {
    /// The `k=` tag.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rsa => "rsa",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

/// A private key with its selector.
pub struct SigningKey {
    pub(super) selector: Box<str>,
    pub(super) key: DkimKey,
    algorithm: Algorithm,
    /// The `p=` tag.
    public: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("selector", &self.selector).field("algorithm", &self.algorithm).finish()
    }
}

/// A TXT record to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `pr1._domainkey.example.com`, without the final dot.
    pub name: String,
    /// `v=DKIM1; k=rsa; p=…`, on one line.
    pub value: String,
}

impl Record {
    /// As a line of a zone file, in strings of at most 255 octets (RFC 1035 §3.3.14).
    pub fn zone_line(&self) -> String {
        let mut strings = Vec::new();
        let mut rest = self.value.as_str();
        while !rest.is_empty() {
            // ASCII only, so every place is a character's boundary.
            let (string, after) = rest.split_at_checked(255).unwrap_or((rest, ""));
            strings.push(format!("\"{string}\""));
            rest = after;
        }
        format!("{}. IN TXT ( {} )", self.name, strings.join(" "))
    }
}

impl SigningKey {
    /// Reads a key file.
    ///
    /// # Errors
    /// When it cannot be read, could be read by others, or holds no fit key.
    pub fn load(selector: &str, path: &Path) -> Result<SigningKey, KeyError> {
        let read_error = |error| KeyError::Read { path: path.to_owned(), error };
        let metadata = std::fs::metadata(path).map_err(read_error)?;
        let mode = {
            use std::os::unix::fs::PermissionsExt as _;
            metadata.permissions().mode() & 0o7777
        };
        // The group may read (0640 with the service's own); nobody but the owner may write.
        if mode & 0o027 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() > FILE_LENGTH_MAX {
            return Err(KeyError::Form { path: path.to_owned(), reason: "it is too large".to_owned() });
        }
        let pem = std::fs::read(path).map_err(read_error)?;
        SigningKey::from_pem(selector, &pem, path)
    }

    /// Reads a key; `path` is for messages.
    ///
    /// # Errors
    /// When it holds no fit key.
    pub fn from_pem(selector: &str, pem: &[u8], path: &Path) -> Result<SigningKey, KeyError> {
        let form = |reason: String| KeyError::Form { path: path.to_owned(), reason };
        let is_label =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !selector.split('.').all(is_label) || selector.len() > 63 {
            return Err(form(format!("the selector {selector:?} is no part of a domain name")));
        }
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| form(error.to_string()))?;
        let ed25519 = match &der {
            PrivateKeyDer::Pkcs8(pkcs8) => Ed25519Key::from_pkcs8_maybe_unchecked_der(pkcs8.secret_pkcs8_der()).ok(),
            _ => None,
        };
        if let Some(key) = ed25519 {
            // RFC 8463 §4: the bare 32 octets.
            let public = STANDARD.encode(key.public_key());
            return Ok(SigningKey {
                selector: selector.into(),
                key: DkimKey::Ed25519(key),
                algorithm: Algorithm::Ed25519,
                public,
            });
        }
        let key = RsaKey::<Sha256>::from_key_der(der).map_err(|error| form(error.to_string()))?;
        let public = key.public_key();
        let bits = modulus_bits(&public).ok_or_else(|| form("its modulus cannot be read".to_owned()))?;
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(KeyError::Bits { path: path.to_owned(), bits });
        }
        let public = STANDARD.encode(subject_public_key_info(&public));
        Ok(SigningKey { selector: selector.into(), key: DkimKey::Rsa(key), algorithm: Algorithm::Rsa, public })
    }

    /// The key's kind.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What must be published for `domain`.
    pub fn record(&self, domain: &Domain) -> Record {
        Record {
            name: format!("{}._domainkey.{domain}", self.selector),
            value: format!("v=DKIM1; k={}; p={}", self.algorithm.name(), self.public),
        }
    }
}

/// The size of the first INTEGER of an RSAPublicKey (RFC 8017 §A.1.1).
fn modulus_bits(rsa_public_key: &[u8]) -> Option<usize> {
    let (content, _) = der_content(rsa_public_key, 0x30)?;
    let (modulus, _) = der_content(content, 0x02)?;
    let first = modulus.iter().position(|octet| *octet != 0)?;
    let leading = modulus.get(first)?.leading_zeros();
    Some((modulus.len() - first) * 8 - usize::try_from(leading).ok()?)
}

/// The content of a DER value with this tag, and what follows it.
fn der_content(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    if length < 0x80 {
        return rest.split_at_checked(usize::from(length));
    }
    let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f)).filter(|(octets, _)| octets.len() <= 3)?;
    let length = octets.iter().fold(0, |sum, octet| (sum << 8) | usize::from(*octet));
    rest.split_at_checked(length)
}

fn der_value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        length @ 0..=0x7f => der.push(length as u8),
        length => {
            let octets: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect();
            der.push(0x80 | octets.len() as u8);
            der.extend(octets);
        }
    }
    der.extend_from_slice(content);
    der
}

/// The form in which all publish RSA keys (RFC 6376 §3.6.1 with erratum 3017).
fn subject_public_key_info(rsa_public_key: &[u8]) -> Vec<u8> {
    let bits = [&[0], rsa_public_key].concat();
    der_value(0x30, &[RSA_ALGORITHM.to_vec(), der_value(0x03, &bits)].concat())
}

/// A key just made.
pub struct NewKey {
    /// PKCS#8, to be written to a file that only the service can read.
    pub pem: String,
    /// The key itself, for its record.
    pub key: SigningKey,
}

/// Makes a key: RSA with 2048 bits (about half a second), or Ed25519.
///
/// # Errors
/// When the library cannot make one.
pub fn generate(algorithm: Algorithm, selector: &str) -> Result<NewKey, KeyError> {
    let path = Path::new("(new key)");
    let pair = match algorithm {
        Algorithm::Rsa => rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        Algorithm::Ed25519 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
    };
    let pair = pair.map_err(|error| KeyError::Form { path: path.to_owned(), reason: error.to_string() })?;
    let pem = pair.serialize_pem();
    let key = SigningKey::from_pem(selector, pem.as_bytes(), path)?;
    Ok(NewKey { pem, key })
}
