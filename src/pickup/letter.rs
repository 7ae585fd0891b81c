//! From a letter of the maildrop to a submission: pure.

use bytes::Bytes;
use postrider_drop::{Letter, Wanted};

use crate::accept::{Origin, Refusal, Submission};
use crate::mail::{Address, Domain, Notify, Return, ReversePath, Text, is_safe_argument};
use crate::message::{Families, HeaderLimits, Kind, scan};
use crate::time::Timestamp;

/// Who an empty recipient means: the sender of what has none.
const NOBODY: &str = "MAILER-DAEMON";

/// Longest full name that is put into a From field. Unit: octets.
const NAME_LENGTH_MAX: usize = 128;

/// What a letter is read with.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The domain of bare addresses.
    pub origin: Domain,
    /// The stream, if the config says one.
    pub stream: Option<Text>,
    /// Whose control headers count.
    pub control: Families,
    /// Longest message. Unit: octets.
    pub size_max: u64,
    /// Most recipients.
    pub recipients_max: usize,
}

/// Makes a submission of a letter; and the refusal, where the door need not be asked. `None`: it has no recipient that
/// could be told or sent to.
pub(super) fn submission(
    terms: &Terms,
    letter: Letter,
    handed_in: Timestamp,
    now: Timestamp,
) -> Option<(Submission, Option<Refusal>)> {
    let reverse_path = match letter.sender.as_str() {
        "" => ReversePath::Null,
        text => address(text, &terms.origin).map_or(ReversePath::Null, ReversePath::Address),
    };
    let recipients: Vec<_> = letter.recipients.iter().filter_map(|wanted| recipient(wanted, &terms.origin)).collect();
    if recipients.is_empty() {
        return None;
    }
    let refusal = refusal(terms, &letter, recipients.len());
    let message = normalized(&letter.message);
    let message = with_fields(message, &letter.full_name, reverse_path.address(), handed_in);
    let submission = Submission {
        origin: Origin {
            client: None,
            hello: "".into(),
            protocol: "local",
            tls: None,
            credential: None,
            from_anyone: false,
            listener_stream: terms.stream.clone(),
            listener_control: terms.control,
            hide_client: false,
            fix_headers: true,
            session: None,
        },
        reverse_path,
        ret: match letter.ret.as_str() {
            "F" => Some(Return::Full),
            "H" => Some(Return::Headers),
            _ => None,
        },
        envid: Some(letter.envid.as_str()).filter(|envid| is_safe_argument(envid)).map(Into::into),
        release_at: None,
        recipients,
        message,
        received_at: now,
    };
    Some((submission, refusal))
}

/// What the SMTP session would refuse before the door sees it.
fn refusal(terms: &Terms, letter: &Letter, recipients: usize) -> Option<Refusal> {
    let refuse = |code, status, text: String| Some(Refusal { code, status, text });
    if letter.message.len() as u64 > terms.size_max {
        let text = format!("the message has {} octets; limits.message allows {}", letter.message.len(), terms.size_max);
        return refuse(552, "5.3.4", text);
    }
    if recipients > terms.recipients_max {
        let text = format!("{recipients} recipients; limits.recipients allows {}", terms.recipients_max);
        return refuse(554, "5.5.3", text);
    }
    if memchr::memchr(0, &letter.message).is_some() {
        return refuse(554, "5.6.0", "the message holds a NUL, which mail cannot carry (RFC 5321 2.3.8)".to_owned());
    }
    None
}

/// An address, or a bare local part of this host. What is neither is taken for a local part that needs quotes: it then
/// comes back as any address that does not exist, as `sendmail`'s callers know it.
fn address(text: &str, origin: &Domain) -> Option<Address> {
    let text = text.trim();
    let read = match text.contains('@') {
        true => text.parse().ok(),
        false => None,
    };
    read.or_else(|| Address::new(text, origin.clone()).ok())
}

fn recipient(wanted: &Wanted, origin: &Domain) -> Option<(Address, Notify, Option<Text>)> {
    let text = if wanted.address.trim().is_empty() { NOBODY } else { wanted.address.as_str() };
    let has = |letter| wanted.notify.contains(letter);
    let notify = match wanted.notify.as_str() {
        "" => Notify::Default,
        "N" => Notify::Never,
        _ => Notify::On { success: has('S'), failure: has('F'), delay: has('D') },
    };
    Some((address(text, origin)?, notify, None))
}

/// Every line ended by CRLF, and no CR or LF elsewhere.
pub(super) fn normalized(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 32 + 2);
    let mut rest = message;
    while !rest.is_empty() {
        let (line, behind) = match memchr::memchr2(b'\n', b'\r', rest) {
            Some(end) => {
                let (line, behind) = rest.split_at(end);
                // As many CRs as stand before an LF, or one alone.
                let crs = behind.iter().take_while(|byte| **byte == b'\r').count();
                let behind = match behind.get(crs) {
                    Some(b'\n') => behind.get(crs + 1..),
                    _ => behind.get(crs.min(1)..),
                };
                (line, behind.unwrap_or_default())
            }
            None => (rest, &[][..]),
        };
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        rest = behind;
    }
    out
}

/// A From field that names the user, if there is none and his full name is known (without a name the door adds one); and
/// a Date of when it was handed in, however long it lay in the maildrop.
fn with_fields(message: Vec<u8>, full_name: &str, author: Option<&Address>, at: Timestamp) -> Bytes {
    let Ok(header) = scan(&message, HeaderLimits::NONE) else { return message.into() };
    let has = |kind| header.of(kind).next().is_some();
    let mut fields = String::new();
    if !has(Kind::Date) {
        fields.push_str(&format!("Date: {}\r\n", at.rfc5322()));
    }
    let name = Some(full_name).filter(|name| !name.is_empty() && name.is_ascii() && name.len() <= NAME_LENGTH_MAX);
    if let (Some(author), Some(name), false) = (author, name, has(Kind::From)) {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        fields.push_str(&format!("From: \"{quoted}\" <{author}>\r\n"));
    }
    if header.end == 0 && !message.starts_with(b"\r\n") {
        // It begins with its body, and a line of that with white space before it would go on with our last field.
        fields.push_str("\r\n");
    }
    match fields.is_empty() {
        true => message.into(),
        false => [fields.into_bytes(), message].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms {
            origin: "host.example".parse().unwrap(),
            stream: None,
            control: Families::default(),
            size_max: 1000,
            recipients_max: 2,
        }
    }

    fn letter(recipients: &[&str], message: &[u8]) -> Letter {
        let recipients = recipients.iter().map(|to| Wanted { address: (*to).to_owned(), notify: String::new() });
        Letter {
            sender: "www-data".to_owned(),
            recipients: recipients.collect(),
            message: message.to_vec(),
            ..Letter::default()
        }
    }

    #[test]
    fn bare_and_broken_names_are_local_ones() {
        let rows = [
            ("root", "root@host.example"),
            ("a@b.example", "a@b.example"),
            ("", "MAILER-DAEMON@host.example"),
            ("a b", "\"a b\"@host.example"),
            ("a@[192.0.2.1]", "\"a@[192.0.2.1]\"@host.example"),
            ("a@", "\"a@\"@host.example"),
        ];
        for (given, wanted) in rows {
            let (submission, _) =
                submission(&terms(), letter(&[given], b"x\n"), Timestamp::ZERO, Timestamp::ZERO).unwrap();
            assert_eq!(submission.recipients[0].0.to_string(), wanted, "{given:?}");
            assert_eq!(submission.reverse_path.to_string(), "www-data@host.example");
        }
        assert!(submission(&terms(), letter(&[&"x".repeat(65)], b""), Timestamp::ZERO, Timestamp::ZERO).is_none());
    }

    #[test]
    fn what_no_session_would_take_is_refused() {
        let rows: [(&[&str], &[u8], Option<u16>); 4] = [
            (&["a"], b"Subject: x\n\nbody\n", None),
            (&["a"], &[b'x'; 1001], Some(552)),
            (&["a", "b", "c"], b"x\n", Some(554)),
            (&["a"], b"x\0y\n", Some(554)),
        ];
        for (to, message, code) in rows {
            let (_, refusal) = submission(&terms(), letter(to, message), Timestamp::ZERO, Timestamp::ZERO).unwrap();
            assert_eq!(refusal.map(|refusal| refusal.code), code);
        }
    }

    #[test]
    fn lines_end_in_crlf_and_nothing_else() {
        let rows: [(&[u8], &[u8]); 8] = [
            (b"", b""),
            (b"a\nb\n", b"a\r\nb\r\n"),
            (b"a\r\nb", b"a\r\nb\r\n"),
            (b"a\r\r\nb\n", b"a\r\nb\r\n"),
            (b"a\rb\n", b"a\r\nb\r\n"),
            (b"a\r\rb\n", b"a\r\n\r\nb\r\n"),
            (b"\n\n", b"\r\n\r\n"),
            (b"a\r", b"a\r\n"),
        ];
        for (given, wanted) in rows {
            assert_eq!(normalized(given), wanted, "{:?}", String::from_utf8_lossy(given));
        }
    }

    #[test]
    fn a_missing_author_gets_the_users_full_name() {
        let made = |message: &[u8], name: &str| {
            let letter = Letter { full_name: name.to_owned(), ..letter(&["a"], message) };
            let (submission, _) = submission(&terms(), letter, Timestamp::ZERO, Timestamp::ZERO).unwrap();
            String::from_utf8(submission.message.to_vec()).unwrap()
        };
        let with = made(b"Date: x\nSubject: x\n\nbody\n", "Web \"S\"");
        let from = "From: \"Web \\\"S\\\"\" <www-data@host.example>\r\n";
        assert_eq!(with, format!("{from}Date: x\r\nSubject: x\r\n\r\nbody\r\n"));
        let date = "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n";
        assert_eq!(made(b"Subject: x\n\nbody\n", ""), format!("{date}Subject: x\r\n\r\nbody\r\n"));
        assert_eq!(made(b"From: me@b.example\n\n", "Web"), format!("{date}From: me@b.example\r\n\r\n"));
    }

    #[test]
    fn a_body_without_a_header_stays_whole() {
        for body in ["\thello\r\n", " X: y\r\n", "hello\r\n", "\r\nhello\r\n"] {
            let letter = Letter { full_name: "Web".to_owned(), ..letter(&["a"], body.as_bytes()) };
            let (submission, _) = submission(&terms(), letter, Timestamp::ZERO, Timestamp::ZERO).unwrap();
            let header = scan(&submission.message, HeaderLimits::NONE).unwrap();
            assert_eq!(header.of(Kind::Date).next().unwrap().value, b" Thu, 01 Jan 1970 00:00:00 +0000", "{body:?}");
            assert_eq!(&submission.message[header.body_start..], body.trim_start_matches("\r\n").as_bytes());
        }
    }
}
