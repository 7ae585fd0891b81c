//! Sample messages that name themselves, so that one can be recognised wherever it turns up.

use sha2::{Digest, Sha256};

/// A message with an id that is its subject, its sender's and its recipient's local part.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Unique within a test.
    pub id: String,
    /// Header block, blank line, body; ends with CRLF.
    pub bytes: Vec<u8>,
}

impl Sample {
    /// A message with `size` octets of body, roughly, of text that the seed decides: lines of all lengths, with dots at
    /// their starts, blank ones, and trailing blanks.
    pub fn new(id: &str, size: usize, seed: u64) -> Sample {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut body = Vec::with_capacity(size + 200);
        while body.len() < size {
            match random.u8(0..8) {
                0 => body.extend_from_slice(b"."),
                1 => body.extend_from_slice(b".."),
                2 => body.extend_from_slice(b" \t"),
                _ => {}
            }
            let length = random.usize(0..120);
            body.extend(std::iter::repeat_with(|| random.u8(b' '..b'~')).take(length));
            body.extend_from_slice(b"\r\n");
        }
        Sample::with_body(id, &body)
    }

    /// A message with this body, which must end with CRLF or be empty.
    pub fn with_body(id: &str, body: &[u8]) -> Sample {
        let mut bytes = format!(
            "From: Shop <{id}@example.com>\r\nTo: <{id}@dest.example>\r\nSubject: {id}\r\nX-Test-Id: {id}\r\n\
             Date: Sun, 22 Nov 2026 06:00:00 +0000\r\nMessage-ID: <{id}@example.com>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Sample { id: id.to_owned(), bytes }
    }

    /// Its envelope sender.
    pub fn from(&self) -> String {
        format!("{}@example.com", self.id)
    }

    /// Its recipient.
    pub fn to(&self) -> String {
        format!("{}@dest.example", self.id)
    }

    /// What a receipt of it must show.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.bytes)
    }
}

/// The hash of a message's body and of the header fields from its own From on: what stands before those (Received, the
/// signature) is the relay's.
pub fn fingerprint(message: &[u8]) -> [u8; 32] {
    Sha256::digest(own_part(message)).into()
}

/// The message from its own first field on.
pub fn own_part(message: &[u8]) -> &[u8] {
    let mut start = 0;
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"From: ") {
            return message.get(start..).unwrap_or_default();
        }
        start += line.len();
    }
    message
}

/// A header field's value, first line only.
pub fn field(message: &[u8], name: &str) -> Option<String> {
    for line in message.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            return None;
        }
        if let Some((found, value)) = line.split_once(':')
            && found.eq_ignore_ascii_case(name)
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}
