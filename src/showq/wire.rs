//! What goes over the public sockets: Postfix's own showq words, so that programs that read its socket read ours.
//!
//! ```text
//!   name NUL value NUL …      attributes of one message: queue_name, queue_id, time, size, forced_expire, sender,
//!                             then recipient and reason for each recipient
//!   NUL                       ends a message
//!   NUL                       (another one) ends the listing
//! ```
//!
//! A listing that is refused is one record of the attribute `error`. One without its end was cut off.

use std::io::{self, BufRead};

/// Longest value that is read. Unit: octets.
const VALUE_LENGTH_MAX: usize = 64 * 1024;

/// One message of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// `maildrop`, `active`, `incoming`, `deferred` or `hold`.
    pub queue: String,
    /// Its id.
    pub id: String,
    /// When it came. Unit: seconds since 1970.
    pub time: u64,
    /// Unit: octets.
    pub size: u64,
    /// Empty: the null sender.
    pub sender: String,
    /// Those that wait, each with the reason, or an empty one.
    pub recipients: Vec<(String, String)>,
}

/// How the null sender is shown.
pub const NOBODY: &str = "MAILER-DAEMON";

impl Message {
    /// As it goes over the socket.
    pub fn write(&self, out: &mut Vec<u8>) {
        let sender = if self.sender.is_empty() { NOBODY } else { &self.sender };
        let (time, size) = (self.time.to_string(), self.size.to_string());
        let head = [
            ("queue_name", self.queue.as_str()),
            ("queue_id", &self.id),
            ("time", &time),
            ("size", &size),
            ("forced_expire", "0"),
            ("sender", sender),
        ];
        head.into_iter().for_each(|(name, value)| put(out, name, value));
        for (recipient, reason) in &self.recipients {
            put(out, "recipient", recipient);
            put(out, "reason", reason);
        }
        out.push(0);
    }
}

/// The end of a listing.
pub fn write_end(out: &mut Vec<u8>) {
    out.push(0);
}

/// A listing that is none.
pub fn write_error(out: &mut Vec<u8>, text: &str) {
    put(out, "error", text);
    out.push(0);
}

fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    for text in [name, value] {
        // No value has a NUL: addresses and replies were cleaned long ago.
        out.extend(text.bytes().filter(|byte| *byte != 0));
        out.push(0);
    }
}

/// Reads a listing, message by message.
///
/// # Errors
/// `PermissionDenied`: it was refused, in its words. Others: it was cut off.
pub fn read(input: &mut impl BufRead, mut each: impl FnMut(Message) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut message = Message::default();
        let mut any = false;
        loop {
            let name = word(input)?;
            if name.is_empty() {
                break;
            }
            any = true;
            let value = word(input)?;
            match name.as_str() {
                "queue_name" => message.queue = value,
                "queue_id" => message.id = value,
                "time" => message.time = value.parse().unwrap_or_default(),
                "size" => message.size = value.parse().unwrap_or_default(),
                "sender" => message.sender = value,
                "recipient" => message.recipients.push((value, String::new())),
                "reason" => {
                    if let Some((_, reason)) = message.recipients.last_mut() {
                        *reason = value;
                    }
                }
                "error" => return Err(io::Error::new(io::ErrorKind::PermissionDenied, value)),
                // What a later daemon may add.
                _ => {}
            }
        }
        if !any {
            return Ok(());
        }
        each(message)?;
    }
}

fn word(input: &mut impl BufRead) -> io::Result<String> {
    let mut octets = Vec::new();
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the listing was cut off"));
        }
        let (piece, ended) = match memchr::memchr(0, buffer) {
            Some(end) => (buffer.get(..end).unwrap_or_default(), true),
            None => (buffer, false),
        };
        if octets.len() + piece.len() > VALUE_LENGTH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the listing is none"));
        }
        octets.extend_from_slice(piece);
        let used = piece.len() + usize::from(ended);
        input.consume(used);
        if ended {
            return String::from_utf8(octets).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str) -> Message {
        Message {
            queue: "deferred".to_owned(),
            id: id.to_owned(),
            time: 1_795_255_200,
            size: 512,
            sender: "app@example.com".to_owned(),
            recipients: vec![
                ("a@b.example".to_owned(), "connect to x".to_owned()),
                ("c@b.example".to_owned(), String::new()),
            ],
        }
    }

    fn read_all(octets: &[u8]) -> io::Result<Vec<Message>> {
        let mut found = Vec::new();
        read(&mut &*octets, |message| {
            found.push(message);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_what_postfix_writes() {
        let mut out = Vec::new();
        message("4F1A").write(&mut out);
        write_end(&mut out);
        let want = "queue_name\0deferred\0queue_id\x004F1A\0time\x001795255200\0size\x00512\0forced_expire\x000\0\
                    sender\0app@example.com\0recipient\0a@b.example\0reason\0connect to x\0recipient\0c@b.example\0\
                    reason\0\0\0\0";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    #[test]
    fn a_listing_reads_back_and_a_torn_one_is_seen() {
        let mut out = Vec::new();
        for id in ["A", "B"] {
            message(id).write(&mut out);
        }
        write_end(&mut out);
        assert_eq!(read_all(&out).unwrap(), [message("A"), message("B")]);
        for length in 0..out.len() {
            assert!(read_all(&out[..length]).is_err(), "{length} octets");
        }
        let mut refused = Vec::new();
        write_error(&mut refused, "User x(1) is not allowed");
        assert_eq!(read_all(&refused).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(read_all(&vec![b'x'; 100_000]).is_err());
    }
}
