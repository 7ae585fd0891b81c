//! API keys: `prk_<id>_<secret>`.
//!
//! ```text
//! prk_ 0123456789 _ 0123456789012345678901234567890123456789
//!      id, 50 bits  secret, 200 bits
//! ```

use std::fmt;

use sha2::{Digest, Sha256};

const PREFIX: &str = "prk_";
const ID_LENGTH: usize = 10;
const SECRET_LENGTH: usize = 40;
/// 32 characters that no one mixes up and a double click selects as one word.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A key as its user has it. Shown once, when it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: Box<str>,
    secret: Box<str>,
}

impl ApiKey {
    /// A new one; `None` if the system gave no randomness.
    pub(super) fn random() -> Option<ApiKey> {
        Some(ApiKey { id: random_text(ID_LENGTH)?.into(), secret: random_text(SECRET_LENGTH)?.into() })
    }

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

    /// What is kept of it. 200 random bits: nothing slower is needed.
    pub(super) fn digest(&self) -> [u8; 32] {
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

/// Random characters, 5 bits each.
pub(super) fn random_text(length: usize) -> Option<String> {
    let mut octets = vec![0; length];
    getrandom::fill(&mut octets).ok()?;
    // 32 divides 256: every character is as likely as every other.
    Some(octets.iter().filter_map(|octet| ALPHABET.get(usize::from(octet & 31))).map(|c| char::from(*c)).collect())
}

#[cfg(test)]
mod tests {
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
}
