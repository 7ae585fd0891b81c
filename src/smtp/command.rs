//! One command line as a value. Called by the session; pure.
//!
//! smtp-proto tells the verbs apart. MAIL, RCPT, BDAT and AUTH are read here: it unquotes local parts, takes `<>` and
//! `<postmaster>` for the same recipient, wraps chunk sizes that overflow, and truncates long AUTH lines.

use smtp_proto::{Error, Request};

use super::answer::Answer;
use super::parameter::{self, MailParameters, RcptParameters};
use super::path::{self, Path};
use crate::mail::Text;

/// Longest EHLO name that is kept, RFC 5321 §4.5.3.1.2. Unit: octets.
const HELLO_LENGTH_MAX: usize = 255;

/// A command that is well formed, whatever the session makes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// EHLO.
    Ehlo(Text),
    /// HELO.
    Helo(Text),
    /// MAIL FROM.
    Mail(Path, MailParameters),
    /// RCPT TO.
    Rcpt(Path, RcptParameters),
    /// DATA.
    Data,
    /// BDAT, RFC 3030.
    Bdat {
        /// Octets that follow the line.
        size: u64,
        /// It is the last chunk.
        last: bool,
    },
    /// AUTH, RFC 4954.
    Auth {
        /// Its name, in the case it came in.
        mechanism: &'a str,
        /// Base64, or `=` for an empty one.
        initial: Option<&'a str>,
    },
    /// STARTTLS.
    StartTls,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// VRFY.
    Vrfy,
    /// HELP.
    Help,
    /// QUIT.
    Quit,
}

/// Why a line is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nonsense {
    /// The reply to give.
    Refused(Answer),
    /// No verb of SMTP: perhaps a line of a message.
    Unknown(Answer),
    /// The peer does not speak SMTP (a browser tricked into posting to us), or the rest of the stream can no longer be
    /// told apart: reply, then close.
    Fatal(Answer),
}

const UNPRINTABLE: Answer =
    Answer::fixed(500, "5.5.2", "Command lines hold printable characters only, and end with CR LF");
const UNKNOWN: Answer = Answer::fixed(500, "5.5.1", "Command not recognised");
const NOT_SMTP: Answer = Answer::fixed(521, "5.5.1", "This is an SMTP server");
const CHUNK_SIZE: Answer =
    Answer::fixed(501, "5.5.4", "Syntax: BDAT size [LAST]; closing, since the chunk cannot be told apart");

impl Command<'_> {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(line: &[u8]) -> Result<Command<'_>, Nonsense> {
        let printable = line.iter().all(|octet| *octet >= b' ' && *octet != 0x7f);
        let text = std::str::from_utf8(line).ok().filter(|_| printable);
        let text = text.ok_or(Nonsense::Refused(UNPRINTABLE))?;
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        match () {
            () if verb.eq_ignore_ascii_case("MAIL") => mail(rest).map_err(Nonsense::Refused),
            () if verb.eq_ignore_ascii_case("RCPT") => rcpt(rest).map_err(Nonsense::Refused),
            () if verb.eq_ignore_ascii_case("BDAT") => bdat(rest).ok_or(Nonsense::Fatal(CHUNK_SIZE)),
            () if verb.eq_ignore_ascii_case("AUTH") => auth(rest).map_err(Nonsense::Refused),
            () if ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"].contains(&verb) => {
                Err(Nonsense::Fatal(NOT_SMTP))
            }
            () => other(verb, rest),
        }
    }
}

fn other(verb: &str, rest: &str) -> Result<Command<'static>, Nonsense> {
    // Long enough for every verb; anything longer is none.
    let mut line = [b'\n'; 16];
    let name = verb.as_bytes();
    line.get_mut(..name.len()).filter(|_| name.len() < 12).ok_or(Nonsense::Unknown(UNKNOWN))?.copy_from_slice(name);
    // A stand-in argument: which verb it is, and not what the argument says, is asked here.
    if let Some(place) = line.get_mut(name.len()..name.len() + 2).filter(|_| !rest.is_empty()) {
        place.copy_from_slice(b" x");
    }
    let request = Request::parse(&mut line.iter());
    match request {
        Ok(Request::Ehlo { .. }) => hello(rest).map(Command::Ehlo),
        Ok(Request::Helo { .. }) => hello(rest).map(Command::Helo),
        Ok(Request::Data) => bare(Command::Data, rest),
        Ok(Request::StartTls) => bare(Command::StartTls, rest),
        Ok(Request::Rset) => bare(Command::Rset, rest),
        Ok(Request::Quit) => bare(Command::Quit, rest),
        Ok(Request::Noop { .. }) => Ok(Command::Noop),
        Ok(Request::Help { .. }) => Ok(Command::Help),
        Ok(Request::Vrfy { .. }) => Ok(Command::Vrfy),
        Err(Error::SyntaxError { syntax }) if !syntax.starts_with("LHLO") => {
            Err(Nonsense::Refused(Answer::new(501, "5.5.4", format!("Syntax: {syntax}"))))
        }
        Ok(Request::Expn { .. } | Request::Etrn { .. } | Request::Atrn { .. } | Request::Burl { .. }) => {
            Err(Nonsense::Refused(Answer::fixed(502, "5.5.1", "Command not implemented")))
        }
        // LHLO belongs to LMTP; the verbs read above cannot come here.
        Ok(
            Request::Lhlo { .. }
            | Request::Mail { .. }
            | Request::Rcpt { .. }
            | Request::Bdat { .. }
            | Request::Auth { .. },
        )
        | Err(_) => Err(Nonsense::Unknown(UNKNOWN)),
    }
}

/// A command that takes no argument: RFC 5321 §4.1.1 wants one refused.
fn bare<'a>(command: Command<'a>, rest: &str) -> Result<Command<'a>, Nonsense> {
    match rest.trim_matches(' ').is_empty() {
        true => Ok(command),
        false => Err(Nonsense::Refused(Answer::fixed(501, "5.5.4", "This command takes no argument"))),
    }
}

/// The name behind EHLO, any first word: clients send container ids, underscores and worse. It is only for the trace,
/// so what could not stand there is replaced.
fn hello(rest: &str) -> Result<Text, Nonsense> {
    let name = rest.split(' ').find(|word| !word.is_empty());
    let name = name.filter(|name| name.len() <= HELLO_LENGTH_MAX);
    let name = name.ok_or(Nonsense::Refused(Answer::fixed(501, "5.5.4", "Syntax: EHLO hostname")))?;
    // Parentheses and the like would end up inside a Received field's comment.
    let fit = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    Ok(name.chars().map(|c| if fit(c) { c } else { '?' }).collect())
}

fn mail(rest: &str) -> Result<Command<'_>, Answer> {
    let text = behind_colon(rest, "FROM").ok_or(Answer::fixed(501, "5.5.4", "Syntax: MAIL FROM:<address>"))?;
    let (path, rest) = path::read(text).map_err(|why| Answer::new(501, "5.1.7", format!("Bad sender: {why}")))?;
    Ok(Command::Mail(path, parameter::mail(rest)?))
}

fn rcpt(rest: &str) -> Result<Command<'_>, Answer> {
    let text = behind_colon(rest, "TO").ok_or(Answer::fixed(501, "5.5.4", "Syntax: RCPT TO:<address>"))?;
    let (path, rest) = path::read(text).map_err(|why| Answer::new(501, "5.1.3", format!("Bad recipient: {why}")))?;
    Ok(Command::Rcpt(path, parameter::rcpt(rest)?))
}

/// What follows `FROM:` or `TO:`.
fn behind_colon<'a>(rest: &'a str, word: &str) -> Option<&'a str> {
    let (before, behind) = rest.split_once(':')?;
    before.trim_matches(' ').eq_ignore_ascii_case(word).then_some(behind)
}

/// Digits counted by us: a size that wraps around would leave the rest of the chunk to be read as commands.
fn bdat(rest: &str) -> Option<Command<'static>> {
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let digits = words.next()?;
    let plain = (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let size = if plain { digits.parse().ok()? } else { return None };
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Command::Bdat { size, last })
}

fn auth(rest: &str) -> Result<Command<'_>, Answer> {
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
        _ => Err(Answer::fixed(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &[u8]) -> Result<(), u16> {
        match Command::parse(line) {
            Ok(_) => Ok(()),
            Err(Nonsense::Refused(answer) | Nonsense::Unknown(answer) | Nonsense::Fatal(answer)) => Err(answer.code),
        }
    }

    #[test]
    fn verbs_are_read_in_any_case() {
        let rows: &[(&str, Command)] = &[
            ("EHLO a_b.example", Command::Ehlo("a_b.example".into())),
            ("ehlo [192.0.2.1]", Command::Ehlo("[192.0.2.1]".into())),
            ("EHLO a)b(c", Command::Ehlo("a?b?c".into())),
            ("Helo x", Command::Helo("x".into())),
            ("data", Command::Data),
            ("DATA ", Command::Data),
            ("starttls", Command::StartTls),
            ("rset", Command::Rset),
            ("NOOP", Command::Noop),
            ("noop anything \"at all", Command::Noop),
            ("VRFY a@b", Command::Vrfy),
            ("HELP", Command::Help),
            ("HELP mail", Command::Help),
            ("quit", Command::Quit),
            ("BDAT 5", Command::Bdat { size: 5, last: false }),
            ("bdat 0 last", Command::Bdat { size: 0, last: true }),
            ("BDAT 18446744073709551615", Command::Bdat { size: u64::MAX, last: false }),
            ("AUTH PLAIN", Command::Auth { mechanism: "PLAIN", initial: None }),
            ("auth login dQ==", Command::Auth { mechanism: "login", initial: Some("dQ==") }),
            ("AUTH PLAIN =", Command::Auth { mechanism: "PLAIN", initial: Some("=") }),
        ];
        for (line, want) in rows {
            assert_eq!(Command::parse(line.as_bytes()).as_ref(), Ok(want), "{line}");
        }
        for line in ["MAIL FROM:<a@b.example>", "mail from: <a@b.example>", "MAIL FROM :<a@b.example>"] {
            assert!(matches!(Command::parse(line.as_bytes()), Ok(Command::Mail(Path::Mailbox(_), _))), "{line}");
        }
        for line in ["RCPT TO:<a@b.example>", "rcpt to: a@b.example", "RCPT To:<postmaster>"] {
            assert!(matches!(Command::parse(line.as_bytes()), Ok(Command::Rcpt(..))), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let rows: &[(&[u8], u16)] = &[
            (b"", 500),
            (b" ", 500),
            (b"XCLIENT ADDR=1", 500),
            (b"LHLO x", 500),
            (b"From: a@b", 500),
            (b"MAILFROM:<a@b.example>", 500),
            (b"QUITX", 500),
            (b"NOOP\r", 500),
            (b"MAIL FROM:<a\rb@c.example>", 500),
            (b"MAIL FROM:<a\0@c.example>", 500),
            (b"MAIL FROM:<a@c.example>\x1b", 500),
            (b"MAIL FROM:<a\xff@c.example>", 500),
            (b"EHLO", 501),
            (b"EHLO  ", 501),
            (b"HELO", 501),
            (b"MAIL", 501),
            (b"MAIL <a@b.example>", 501),
            (b"MAIL TO:<a@b.example>", 501),
            (b"RCPT", 501),
            (b"RCPT FROM:<a@b.example>", 501),
            (b"DATA x", 501),
            (b"QUIT now", 501),
            (b"RSET x", 501),
            (b"STARTTLS x", 501),
            (b"VRFY", 501),
            (b"AUTH", 501),
            (b"AUTH PLAIN a b", 501),
            (b"EXPN list", 502),
            (b"ETRN x", 502),
            (b"BURL imap://x LAST", 502),
            (b"BDAT", 501),
            (b"BDAT -1", 501),
            (b"BDAT 1 FIRST", 501),
            (b"BDAT 1 LAST x", 501),
            (b"BDAT 18446744073709551616", 501),
            (b"BDAT 99999999999999999999999 LAST", 501),
            (b"BDAT 0x10", 501),
            (b"BDAT +1", 501),
            (b"GET / HTTP/1.1", 521),
            (b"POST / HTTP/1.1", 521),
        ];
        for (line, want) in rows {
            assert_eq!(code(line), Err(*want), "{}", line.escape_ascii());
        }
        let mut long = b"EHLO ".to_vec();
        long.resize(5 + 256, b'a');
        assert_eq!(code(&long), Err(501));
    }
}
