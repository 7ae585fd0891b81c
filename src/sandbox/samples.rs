//! Sample mail: the kinds that real senders make, one after the other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::stage::DOMAIN;

/// A kind of sample.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Plain ASCII.
    Text,
    /// HTML and an attachment, in base64.
    HtmlWithAttachment,
    /// UTF-8 as it is: 8BITMIME.
    EightBit,
    /// A line of 5,000 characters, as PHP newsletters have them: re-encoded at the door.
    LongLine,
    /// Lines that begin with dots, and blank lines at the end.
    Dots,
}

/// In the order in which they are sent.
pub const KINDS: [Kind; 5] = [Kind::Text, Kind::HtmlWithAttachment, Kind::EightBit, Kind::LongLine, Kind::Dots];

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::HtmlWithAttachment => "HTML with attachment",
            Kind::EightBit => "8-bit",
            Kind::LongLine => "long line",
            Kind::Dots => "dots",
        }
    }

    /// Whether the body must arrive as it was sent. A too long line is the one thing that is changed.
    pub fn arrives_unchanged(self) -> bool {
        self != Kind::LongLine
    }
}

/// A message to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Of which kind.
    pub kind: Kind,
    /// Its Message-ID, without brackets.
    pub id: String,
    /// MAIL FROM.
    pub sender: String,
    /// RCPT TO.
    pub recipient: String,
    /// Header block and body.
    pub message: Vec<u8>,
}

impl Sample {
    /// The n-th, from 0.
    pub fn numbered(n: usize) -> Sample {
        let kind = KINDS.get(n % KINDS.len()).copied().unwrap_or(Kind::Text);
        let id = format!("sample-{n}@{DOMAIN}");
        let sender = format!("shop@{DOMAIN}");
        let recipient = format!("reader{n}@catch{}.example", n % 7);
        let (content, body) = content(kind);
        let message = format!(
            "From: Sandbox Shop <{sender}>\r\nTo: <{recipient}>\r\nSubject: Sample {n}: {}\r\n\
             Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{id}>\r\nMIME-Version: 1.0\r\n{content}\r\n\r\n{body}",
            kind.name()
        );
        Sample { kind, id, sender, recipient, message: message.into_bytes() }
    }

    /// Whether it needs 8BITMIME.
    pub fn is_eight_bit(&self) -> bool {
        !self.message.is_ascii()
    }

    /// Whether a caught message has the same body, octet for octet.
    pub fn has_body_of(&self, message: &[u8]) -> bool {
        body(&self.message) == body(message)
    }
}

fn content(kind: Kind) -> (String, String) {
    let text =
        |encoding: &str| format!("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}");
    match kind {
        Kind::Text => (text("7bit"), "Your order has been sent.\r\n\r\nThank you.\r\n".to_owned()),
        Kind::EightBit => (text("8bit"), "Grüße aus Köln, ça va? Здравствуйте. こんにちは。\r\n".to_owned()),
        Kind::LongLine => (text("8bit"), format!("{}\r\n", "0123456789".repeat(500))),
        Kind::Dots => (text("7bit"), ".\r\n..\r\n.a line\r\nend\r\n\r\n \r\n\r\n".to_owned()),
        Kind::HtmlWithAttachment => {
            let octets: Vec<u8> = (0..3000_u32).map(|n| (n % 251) as u8).collect();
            let encoded = STANDARD.encode(octets);
            let lines: Vec<&str> = encoded
                .as_bytes()
                .chunks(76)
                // Base64 is ASCII.
                .map(|line| std::str::from_utf8(line).unwrap_or_default())
                .collect();
            let body = format!(
                "--part\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Your invoice is attached.</p>\r\n\
                 --part\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\
                 Content-Disposition: attachment; filename=\"invoice.bin\"\r\n\r\n{}\r\n--part--\r\n",
                lines.join("\r\n")
            );
            ("Content-Type: multipart/mixed; boundary=\"part\"".to_owned(), body)
        }
    }
}

/// What follows the first empty line.
pub fn body(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n");
    end.and_then(|end| message.get(end + 4..)).unwrap_or_default()
}

/// A header field's value, unfolded; the first of its name.
pub fn header(message: &[u8], name: &str) -> Option<String> {
    let head = message.get(..message.len().saturating_sub(body(message).len())).unwrap_or_default();
    let head = String::from_utf8_lossy(head).replace("\r\n ", " ").replace("\r\n\t", " ");
    let field =
        head.lines().find(|line| line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name)))?;
    field.split_once(':').map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_every_kind_and_well_formed() {
        for (n, kind) in KINDS.into_iter().enumerate() {
            let sample = Sample::numbered(n);
            assert_eq!(sample.kind, kind);
            let text = String::from_utf8(sample.message.clone()).unwrap();
            assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
            assert_eq!(header(&sample.message, "message-id"), Some(format!("<{}>", sample.id)));
            assert!(!body(&sample.message).is_empty());
            let long = text.lines().any(|line| line.len() > 998);
            assert_eq!(long, sample.kind == Kind::LongLine);
        }
    }
}
