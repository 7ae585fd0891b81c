//! Argon2id, and nothing else: the one place that names the crate.

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};

/// Most memory that a hash may ask for. Unit: KiB. A config with more is a slip of the pen.
const MEMORY_MAX_KIB: u32 = 256 * 1024;
/// Most passes that a hash may ask for.
const PASSES_MAX: u32 = 20;
/// What the decoy hash is of; believed for nobody, since only an account with a hash of its own can be.
pub(super) const DECOY_PASSWORD: &str = "decoy";

/// Why a password hash is refused.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// No PHC string of argon2id.
    #[error("the password hash must be $argon2id$…, as made by `postrider credential hash`")]
    Form,
    /// It would take longer than any login may.
    #[error("the password hash asks for more than 256 MiB or 20 passes")]
    Costly,
    /// The system gave no randomness.
    #[error("no random numbers to be had from the system")]
    Random,
    /// Empty, or over 1,024 octets.
    #[error("a password has 1 to 1,024 octets")]
    Length,
}

/// The PHC string of a new password, with the crate's parameters: 19 MiB, 2 passes (OWASP's first choice).
///
/// # Errors
/// See [`PasswordError`].
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if !(1..=1024).contains(&password.len()) {
        return Err(PasswordError::Length);
    }
    hash_with(password, Params::default())
}

/// 32 characters, 160 bits.
///
/// # Errors
/// The system gave no randomness.
pub fn random_password() -> Result<String, PasswordError> {
    super::key::random_text(32).ok_or(PasswordError::Random)
}

fn hash_with(password: &str, parameters: Params) -> Result<String, PasswordError> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| PasswordError::Random)?;
    let salt = SaltString::encode_b64(&salt).map_err(|_| PasswordError::Random)?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
    hasher.hash_password(password.as_bytes(), &salt).map(|hash| hash.to_string()).map_err(|_| PasswordError::Form)
}

/// Checks that a hash from the config can be used, and how costly it is.
pub(super) fn parameters(hash: &str) -> Result<Params, PasswordError> {
    let hash = PasswordHash::new(hash).map_err(|_| PasswordError::Form)?;
    if hash.algorithm != argon2::ARGON2ID_IDENT || hash.hash.is_none() || hash.salt.is_none() {
        return Err(PasswordError::Form);
    }
    let parameters = Params::try_from(&hash).map_err(|_| PasswordError::Form)?;
    match parameters.m_cost() <= MEMORY_MAX_KIB && parameters.t_cost() <= PASSES_MAX {
        true => Ok(parameters),
        false => Err(PasswordError::Costly),
    }
}

/// A hash to check in place of one that does not exist.
pub(super) fn decoy(parameters: Params) -> Result<String, PasswordError> {
    hash_with(DECOY_PASSWORD, parameters)
}

/// Whether this is the password. Takes as long as the hash asks for, right or wrong.
pub(super) fn verify(hash: &str, password: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// For tests, which check many.
#[cfg(test)]
pub(super) fn cheap_hash(password: &str) -> String {
    hash_with(password, Params::new(8, 1, 1, None).unwrap()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_ours_verifies_and_no_two_are_equal() {
        let one = hash("secret").unwrap();
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify(&one, "secret") && !verify(&one, "Secret"));
        assert_ne!(one, hash("secret").unwrap());
        assert!(parameters(&one).is_ok());
        assert!(hash("").is_err());
    }

    #[test]
    fn hashes_that_cannot_be_meant_are_refused() {
        let bad = [
            "",
            "secret",
            "$6$rounds=1$abc$def",
            "$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g",
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0",
            "$argon2id$v=19$m=9999999,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g",
            "$argon2id$v=19$m=19456,t=999,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g",
        ];
        for hash in bad {
            assert!(parameters(hash).is_err(), "{hash}");
        }
    }
}
