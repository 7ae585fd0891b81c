//! The keys: what the file of them says, and what they compute.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Octets of a secret, as many as HMAC-SHA256 gives (RFC 2104 §3).
const SECRET_LENGTH: usize = 32;
/// Octets of a MAC: half of what SHA-256 gives, as RFC 2104 §5 allows.
pub(super) const MAC_LENGTH: usize = 16;
/// Most keys in a file. One a month for a year, and some that were made in haste.
pub(super) const KEYS_MAX: usize = 16;

/// One or more keys: the newest makes tokens, all of them read.
#[derive(Clone)]
pub struct Keys {
    /// The newest first. Never empty.
    keys: Box<[Key]>,
}

/// Why a file of keys cannot be used. No word of it shows a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeysError {
    /// Nothing but comments.
    #[error("it has no key: a line of 64 hexadecimal digits is expected (`openssl rand -hex 32`)")]
    None,
    /// This line.
    #[error("line {0} is no key: 64 hexadecimal digits are expected (`openssl rand -hex 32`)")]
    Line(usize),
    /// More than can be tried for every message that comes in.
    #[error("it has more than {KEYS_MAX} keys; remove the oldest, which stand first")]
    Many,
}

impl Keys {
    /// From the text of a key file: a key a line, the newest last; `#` begins a comment.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let mut keys = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if keys.len() == KEYS_MAX {
                return Err(KeysError::Many);
            }
            keys.push(Key::new(&secret(line).ok_or(KeysError::Line(place + 1))?));
        }
        keys.reverse();
        match keys.is_empty() {
            true => Err(KeysError::None),
            false => Ok(Keys { keys: keys.into() }),
        }
    }

    /// Keys of one secret.
    pub fn of(secret: &[u8; SECRET_LENGTH]) -> Keys {
        Keys { keys: Box::new([Key::new(secret)]) }
    }

    /// The text of a new key file with this secret, from a source of true chance.
    pub fn file(secret: &[u8; SECRET_LENGTH]) -> String {
        use fmt::Write as _;
        let mut text = String::from(
            "# The keys of return paths and unsubscribe links. Who has them can forge bounces, complaints and unsubscribes.\n\
             # A key a line, 64 hexadecimal digits. The last line makes tokens, all lines read them. For a new key:\n\
             #   openssl rand -hex 32 >> FILE && systemctl reload postrider\n\
             # Remove an old line only a year and the longest age of a message later: until then there is mail whose links it made.\n",
        );
        for octet in secret {
            // Invariant: writing to a String cannot fail.
            let _ = write!(text, "{octet:02x}");
        }
        text.push('\n');
        text
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn newest(&self) -> &Key {
        &self.keys[0] // Invariant: never empty.
    }

    /// Whether a key says yes, the newest first.
    pub(super) fn any(&self, proves: impl FnMut(&Key) -> bool) -> bool {
        self.keys.iter().any(proves)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.keys.len())
    }
}

fn secret(line: &str) -> Option<[u8; SECRET_LENGTH]> {
    let digits = line.as_bytes();
    if digits.len() != 2 * SECRET_LENGTH {
        return None;
    }
    let mut secret = [0; SECRET_LENGTH];
    for (octet, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *octet = u8::try_from(value(pair[0])? << 4 | value(pair[1])?).ok()?;
    }
    Some(secret)
}

/// One secret, as a key for each use, so that what one use gives away says nothing in another.
#[derive(Clone)]
pub(super) struct Key {
    local: Hmac<Sha256>,
    seal: Hmac<Sha256>,
    stream: Hmac<Sha256>,
}

impl Key {
    fn new(secret: &[u8; SECRET_LENGTH]) -> Key {
        let of = |label: &[u8]| keyed(&keyed(secret).chain_update(label).finalize().into_bytes());
        Key { local: of(b"postrider local part 1"), seal: of(b"postrider seal 1"), stream: of(b"postrider stream 1") }
    }

    /// Over the kind's letter and what is said.
    pub(super) fn local_mac(&self, letter: char, said: &[u8]) -> [u8; MAC_LENGTH] {
        shortened(self.local.clone().chain_update([letter as u8]).chain_update(said))
    }

    /// Takes as long for every MAC.
    pub(super) fn proves_local(&self, letter: char, said: &[u8], mac: &[u8]) -> bool {
        let made = self.local.clone().chain_update([letter as u8]).chain_update(said);
        mac.len() == MAC_LENGTH && made.verify_truncated_left(mac).is_ok()
    }

    pub(super) fn seal(&self, content: &[u8]) -> Vec<u8> {
        let mac = shortened(self.seal.clone().chain_update(content));
        let mut sealed = mac.to_vec();
        sealed.extend_from_slice(content);
        self.cipher(&mac, &mut sealed[MAC_LENGTH..]);
        sealed
    }

    /// Takes as long for every MAC.
    pub(super) fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (mac, content) = sealed.split_first_chunk::<MAC_LENGTH>()?;
        let mut content = content.to_vec();
        self.cipher(mac, &mut content);
        self.seal.clone().chain_update(&content).verify_truncated_left(mac).is_ok().then_some(content)
    }

    fn cipher(&self, mac: &[u8; MAC_LENGTH], content: &mut [u8]) {
        for (block, part) in (0u32..).zip(content.chunks_mut(SECRET_LENGTH)) {
            let stream =
                self.stream.clone().chain_update(mac).chain_update(block.to_be_bytes()).finalize().into_bytes();
            part.iter_mut().zip(stream).for_each(|(octet, key)| *octet ^= key);
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // Invariant: HMAC takes keys of every length.
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("a key of any length")
}

fn shortened(mac: Hmac<Sha256>) -> [u8; MAC_LENGTH] {
    let whole = mac.finalize().into_bytes();
    std::array::from_fn(|place| whole[place])
}
