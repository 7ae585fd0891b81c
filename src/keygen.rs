//! Makes key pairs and certificates: DKIM keys, the certificate of the first days, the sandbox's authority.
//!
//! Called by the roof (`init`, `dkim new`, `check`) and by the sandbox. It never touches a file, and never signs mail.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize,
};

/// Why no key or certificate could be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// The library's words: a text that is no key, a name that is no host.
    #[error("{0}")]
    Refused(#[from] rcgen::Error),
    /// A private key of a kind that DKIM does not have.
    #[error("DKIM knows RSA and Ed25519 keys, and this is neither")]
    NotForDkim,
    /// RFC 8301 §3.2: verifiers may ignore smaller ones.
    #[error("an RSA key for DKIM needs 2048 bits, this one has {bits}")]
    TooSmall {
        /// Of the modulus.
        bits: usize,
    },
}

/// The two algorithms of DKIM that are worth having.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// `rsa-sha256` with 2048 bits: what everybody verifies (RFC 6376, RFC 8301).
    Rsa,
    /// `ed25519-sha256`: small and fast, verified by some (RFC 8463).
    Ed25519,
}

impl Algorithm {
    /// The `k=` tag of the record.
    pub fn tag(self) -> &'static str {
        match self {
            Algorithm::Rsa => "rsa",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

/// The public half of a DKIM key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DkimPublic {
    /// Of which kind.
    pub algorithm: Algorithm,
    /// The bytes of the `p=` tag: SubjectPublicKeyInfo for RSA, the bare 32 octets for Ed25519 (RFC 8463 §4).
    pub key: Vec<u8>,
    /// PKCS#1 RSAPublicKey, which some publish instead; the same as `key` for Ed25519.
    pub bare: Vec<u8>,
}

impl DkimPublic {
    /// The text of the TXT record at `SELECTOR._domainkey.DOMAIN` (RFC 6376 §3.6.1).
    pub fn record(&self) -> String {
        format!("v=DKIM1; k={}; p={}", self.algorithm.tag(), STANDARD.encode(&self.key))
    }

    /// Reads it out of a private key.
    ///
    /// # Errors
    /// It is no PEM of a private key that DKIM can use.
    pub fn of_private(pem: &str) -> Result<DkimPublic, KeygenError> {
        let pair = KeyPair::from_pem(pem)?;
        let bare = pair.public_key_raw().to_vec();
        if pair.is_compatible(&PKCS_ED25519) {
            return Ok(DkimPublic { algorithm: Algorithm::Ed25519, key: bare.clone(), bare });
        }
        if !pair.is_compatible(&PKCS_RSA_SHA256) {
            return Err(KeygenError::NotForDkim);
        }
        // RSAPublicKey is the modulus and a short exponent: about 14 octets of frame around the modulus.
        let bits = bare.len().saturating_sub(14) * 8;
        match bits < 2048 {
            true => Err(KeygenError::TooSmall { bits }),
            false => Ok(DkimPublic { algorithm: Algorithm::Rsa, key: pair.subject_public_key_info(), bare }),
        }
    }
}

/// A new DKIM key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DkimPair {
    /// PKCS#8 in PEM.
    pub private_pem: String,
    /// For DNS.
    pub public: DkimPublic,
}

impl DkimPair {
    /// Makes one. RSA takes about a tenth of a second.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<DkimPair, KeygenError> {
        let pair = match algorithm {
            Algorithm::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
            Algorithm::Ed25519 => KeyPair::generate_for(&PKCS_ED25519)?,
        };
        let private_pem = pair.serialize_pem();
        Ok(DkimPair { public: DkimPublic::of_private(&private_pem)?, private_pem })
    }
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The chain in PEM, leaf first.
    pub chain_pem: String,
    /// PKCS#8 in PEM.
    pub key_pem: String,
}

impl Certificate {
    /// One that nobody trusts, but that encrypts: for the days until a real one is there.
    ///
    /// # Errors
    /// A name is no host name.
    pub fn self_signed(names: &[&str]) -> Result<Certificate, KeygenError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(names)?.self_signed(&key)?;
        Ok(Certificate { chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// An authority of one process, for the sandbox and tests.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn new(name: &str) -> Result<Authority, KeygenError> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate_pem = parameters.self_signed(&key)?.pem();
        Ok(Authority { certificate_pem, issuer: Issuer::new(parameters, key) })
    }

    /// What clients must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a server certificate for host names and addresses.
    ///
    /// # Errors
    /// A name is no host name.
    pub fn issue(&self, names: &[&str]) -> Result<Certificate, KeygenError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(names)?.signed_by(&key, &self.issuer)?;
        let chain_pem = format!("{}{}", certificate.pem(), self.certificate_pem);
        Ok(Certificate { chain_pem, key_pem: key.serialize_pem() })
    }
}

fn leaf(names: &[&str]) -> Result<CertificateParams, KeygenError> {
    let mut parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    if let Some(first) = names.first() {
        parameters.distinguished_name.push(DnType::CommonName, *first);
    }
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// A password of 24 letters and digits, 142 bits, that no shell, URL or config file needs to quote.
///
/// # Errors
/// The system gave no randomness.
pub fn password() -> Result<String, getrandom::Error> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const LENGTH: usize = 24;
    let mut password = String::with_capacity(LENGTH);
    let mut bytes = [0; 64];
    while password.len() < LENGTH {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 in an octet: the rest would favour some letters.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let letters = fair.filter_map(|byte| LETTERS.get(usize::from(byte % 62)));
        password.extend(letters.take(LENGTH - password.len()).map(|letter| char::from(*letter)));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_s_record_can_be_made_again_from_its_private_half() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let pair = DkimPair::generate(algorithm).unwrap();
            assert!(pair.private_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
            let again = DkimPublic::of_private(&pair.private_pem).unwrap();
            assert_eq!(again, pair.public);
            assert!(pair.public.record().starts_with(&format!("v=DKIM1; k={}; p=", algorithm.tag())));
        }
    }

    #[test]
    fn an_ed25519_record_has_the_bare_32_octets() {
        let public = DkimPair::generate(Algorithm::Ed25519).unwrap().public;
        assert_eq!((public.key.len(), &public.key), (32, &public.bare));
    }

    #[test]
    fn what_is_no_key_for_dkim_is_refused() {
        let ecdsa = KeyPair::generate().unwrap().serialize_pem();
        assert!(matches!(DkimPublic::of_private(&ecdsa), Err(KeygenError::NotForDkim)));
        assert!(matches!(DkimPublic::of_private("hello"), Err(KeygenError::Refused(_))));
    }

    #[test]
    fn passwords_need_no_quotes_and_are_never_the_same() {
        let (a, b) = (password().unwrap(), password().unwrap());
        assert_eq!((a.len(), a.chars().all(|c| c.is_ascii_alphanumeric()), a == b), (24, true, false));
    }

    #[test]
    fn certificates_are_made_for_names_and_addresses() {
        let authority = Authority::new("test authority").unwrap();
        let issued = authority.issue(&["localhost", "127.0.0.1"]).unwrap();
        assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
        let own = Certificate::self_signed(&["relay.example.com"]).unwrap();
        assert_eq!(own.chain_pem.matches("BEGIN CERTIFICATE").count(), 1);
        assert!(own.key_pem.contains("PRIVATE KEY"));
    }
}
