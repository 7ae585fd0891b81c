//! What a peer said, made safe to keep, log and quote.

use std::fmt;

use super::Text;

/// Longest text kept of one reply. Unit: bytes. A reply is attacker input; this much explains any honest one.
const TEXT_LENGTH_MAX: usize = 1000;

/// An enhanced status code, RFC 3463: `5.1.1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    /// 2, 4 or 5.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

/// "Other or undefined mail system status" (RFC 3463 §3.4): our own disk did not give a message back.
pub const UNREADABLE: EnhancedStatus = EnhancedStatus::new(4, 3, 0);

impl EnhancedStatus {
    /// From its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        EnhancedStatus { class, subject, detail }
    }

    /// Splits a leading `5.1.1` from a reply's text, if there is one whose class is 2, 4 or 5.
    pub fn split(text: &str) -> Option<(EnhancedStatus, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let class = parts.next().filter(|p| matches!(*p, "2" | "4" | "5"))?;
        let (subject, detail) = (number(parts.next()?)?, number(parts.next()?)?);
        if parts.next().is_some() {
            return None;
        }
        Some((EnhancedStatus::new(class.as_bytes()[0] - b'0', subject, detail), rest.trim_start()))
    }
}

fn number(digits: &str) -> Option<u16> {
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A peer's reply: code, enhanced status, and its lines joined by a space, at most 1,000 bytes, every control
/// character replaced by `?`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// RFC 2034, if the peer gave one.
    pub enhanced: Option<EnhancedStatus>,
    /// Without code and enhanced status.
    pub text: Text,
}

impl Reply {
    /// From a code and the text of all its lines, as received.
    pub fn new(code: u16, text: &str) -> Reply {
        let (enhanced, rest) = match EnhancedStatus::split(text) {
            Some((enhanced, rest)) => (Some(enhanced), rest),
            None => (None, text),
        };
        Reply { code, enhanced, text: printable(rest) }
    }

    /// 2yz.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 5yz. What is neither this nor positive is transient.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

/// What could break a line, a terminal or the direction of writing.
pub fn is_unprintable(c: char) -> bool {
    let separates_or_turns = matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || separates_or_turns
}

/// At most 1,000 bytes of a text, without what could break a line, a terminal or the direction of writing.
fn printable(text: &str) -> Text {
    // Nearly every reply is this, and every reply passes here.
    if text.len() <= TEXT_LENGTH_MAX && text.bytes().all(|octet| (b' '..0x7f).contains(&octet)) {
        return text.into();
    }
    let mut kept = Text::with_capacity(text.len().min(TEXT_LENGTH_MAX));
    for c in text.chars() {
        let c = if is_unprintable(c) { '?' } else { c };
        if kept.len() + c.len_utf8() > TEXT_LENGTH_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Where in the dialogue something happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Finding the hosts (DNS).
    Resolve,
    /// TCP connect.
    Connect,
    /// The 220 line.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH to a smarthost.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, up to its 354; BDAT.
    Data,
    /// The reply to the final dot, or to BDAT LAST.
    FinalDot,
    /// Not with the peer at all: a rule or a limit of ours.
    Local,
}

impl Stage {
    /// The word in logs, JSON and `classify --stage`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Resolve => "resolve",
            Stage::Connect => "connect",
            Stage::Greeting => "greeting",
            Stage::Hello => "ehlo",
            Stage::Tls => "tls",
            Stage::Auth => "auth",
            Stage::Mail => "mail",
            Stage::Rcpt => "rcpt",
            Stage::Data => "data",
            Stage::FinalDot => "dot",
            Stage::Local => "local",
        }
    }
}

/// Why a recipient is where it is: the peer's words, or ours.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The peer said this.
    Reply(Reply),
    /// We found this out without a reply (no route, refused connect, timeout, expiry).
    Local {
        /// For the DSN; its class need not be final (a timeout is 4.4.1, and may expire as 4.4.7).
        status: EnhancedStatus,
        /// One sentence without line breaks.
        text: Text,
    },
}

impl Cause {
    /// Our own finding, bounded and without control characters.
    pub fn local(status: EnhancedStatus, text: &str) -> Cause {
        Cause::Local { status, text: printable(text) }
    }

    /// The status for a DSN: the peer's enhanced one, else the class its code implies (RFC 3463 §2: `x.0.0`).
    pub fn status(&self) -> EnhancedStatus {
        match self {
            Cause::Reply(reply) => match reply.enhanced {
                Some(enhanced) if u16::from(enhanced.class) == reply.code / 100 => enhanced,
                _ => EnhancedStatus::new((reply.code / 100).clamp(2, 5) as u8, 0, 0),
            },
            Cause::Local { status, .. } => *status,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Reply(reply) => fmt::Display::fmt(reply, f),
            Cause::Local { text, .. } => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enhanced_status_is_split_from_the_text() {
        let rows = [
            ("5.1.1 No such user", Some("5.1.1"), "No such user"),
            ("4.7.650 wait", Some("4.7.650"), "wait"),
            ("No such user", None, "No such user"),
            ("3.1.1 odd", None, "3.1.1 odd"),
            ("5.1 short", None, "5.1 short"),
            ("192.0.2.1 listed", None, "192.0.2.1 listed"),
            ("5.1.1.1 long", None, "5.1.1.1 long"),
            ("5.+1.1 sign", None, "5.+1.1 sign"),
        ];
        for (text, want, rest) in rows {
            let reply = Reply::new(550, text);
            assert_eq!(reply.enhanced.map(|e| e.to_string()).as_deref(), want, "{text}");
            assert_eq!(&*reply.text, rest);
        }
    }

    #[test]
    fn a_hostile_text_is_bounded_and_defused() {
        let reply = Reply::new(550, &format!("\u{1b}]0;x\u{7}\r\nfake\u{202e}{}", "é".repeat(4000)));
        assert!(reply.text.len() <= TEXT_LENGTH_MAX);
        assert!(reply.text.starts_with("?]0;x???fake?é"));
    }

    #[test]
    fn a_status_that_contradicts_its_code_is_not_believed() {
        assert_eq!(Cause::Reply(Reply::new(550, "4.2.1 x")).status(), EnhancedStatus::new(5, 0, 0));
        assert_eq!(Cause::Reply(Reply::new(550, "5.2.1 x")).status(), EnhancedStatus::new(5, 2, 1));
    }
}
