//! Drives the server's side with arbitrary octets and checks what it promises. Called by fuzz targets and tests only.

use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;
use super::data::{Decoder, is_normal};
use super::session::{Act, Denial, Limits, Link, Mode, Policy, Proof, Security, Session, Terms};
use crate::mail::{QueueId, ReversePath};
use crate::time::Timestamp;

/// A policy that knows no refusal.
pub struct AnySender;

impl Policy for AnySender {
    fn sender(&self, _login: Option<&str>, _path: &ReversePath) -> Result<(), Answer> {
        Ok(())
    }

    /// 2026-11-21T10:00:00Z.
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_795_255_200)
    }
}

/// A receipt for nothing: it exists only here.
struct NoReceipt;

impl Proof for NoReceipt {
    fn id(&self) -> QueueId {
        QueueId::MIN
    }
}

/// A session over arbitrary octets. The first octet chooses the listener and the size of pieces.
///
/// # Panics
/// A promise is broken: a reply that is no reply line, a message with a bare CR, a bare LF or NUL, a step that does
/// nothing, memory without bound.
pub fn session(octets: &[u8]) {
    let Some((&choice, octets)) = octets.split_first() else { return };
    let mode = [Mode::Submission, Mode::Submissions, Mode::Smtp, Mode::Smtp][usize::from(choice & 3)];
    let security = [Security::Tls, Security::Upgradable][usize::from(choice >> 2 & 1)];
    let piece = usize::from(choice >> 3).max(1);
    let limits = Limits {
        message_size_max: 4096,
        header_size_max: 1024,
        recipients_max: 3,
        hold_max: Duration::from_secs(3600),
        ..Limits::default()
    };
    // Invariant: a domain name.
    let Ok(hostname) = "relay.example".parse() else { return };
    let link = Link { security, loopback: choice & 4 == 0, trusted: mode == Mode::Smtp };
    let mut session = Session::new(Arc::new(Terms { hostname, origin: None, mode, limits }), link);
    check_replies(session.output());
    let mut input = Vec::new();
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        if feed(&mut session, &mut input) {
            return;
        }
        assert!(input.len() <= 12_288 + 2 + piece.len(), "a session must use up what it reads");
    }
}

/// Steps until the session wants more. True if it is over.
fn feed(session: &mut Session, input: &mut Vec<u8>) -> bool {
    loop {
        let (used, act) = session.step(input, &AnySender);
        assert!(used <= input.len(), "a session uses no more than it has");
        input.drain(..used);
        check_replies(session.output());
        match act {
            Act::Read => return false,
            Act::Close => return true,
            Act::Flush => {}
            Act::Verify(login) if login.name.len() % 2 == 0 => session.verified(Ok("shop".into())),
            Act::Verify(_) => session.verified(Err(Denial::Rejected)),
            Act::Accept(message) => {
                assert!(is_normal(&message.body), "a message has CRLF line ends and no NUL");
                assert!(message.body.len() <= 4096, "a message keeps to its limit");
                assert!((1..=3).contains(&message.recipients.len()), "a message has recipients");
                session.accepted(Ok(NoReceipt));
            }
            Act::StartTls => {
                if !input.is_empty() {
                    return true;
                }
                session.secured();
            }
        }
    }
}

/// Whole lines of code, separator and text; RFC 2034 statuses on all but those that have none.
fn check_replies(out: &mut Vec<u8>) {
    let text = std::mem::take(out);
    let mut lines = text.split(|octet| *octet == b'\n');
    assert_eq!(lines.next_back(), Some(&b""[..]), "replies end with LF");
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or_default();
        assert!(line.len() <= 510 && !line.iter().any(|octet| *octet < b' '), "{}", line.escape_ascii());
        let Some((code, rest)) = line.split_at_checked(3) else { panic!("a reply has a code") };
        let class = code.first().copied().unwrap_or_default();
        assert!(code.iter().all(u8::is_ascii_digit) && matches!(rest.first(), Some(b' ' | b'-')));
        let bare = matches!(code, b"220" | b"250" | b"334" | b"354");
        let status = rest.get(1..3).is_some_and(|start| start == [class, b'.']);
        assert!(bare || status, "no enhanced status in {}", line.escape_ascii());
    }
}

/// BDAT chunks: the first octets choose where the rest is cut; cut or whole, the message is the same.
///
/// # Panics
/// A promise is broken.
pub fn chunks(octets: &[u8]) {
    let Some((cuts, content)) = octets.split_at_checked(8) else { return };
    let mut whole = Decoder::for_chunks(2048);
    whole.chunk(content);
    let mut cut = Decoder::for_chunks(2048);
    let mut rest = content;
    for length in cuts {
        let (chunk, behind) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        cut.chunk(chunk);
        rest = behind;
    }
    cut.chunk(rest);
    let (whole, cut) = (whole.finish(), cut.finish());
    assert_eq!(whole.is_ok(), cut.is_ok(), "cutting changes no verdict");
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert_eq!(whole, cut, "cutting changes no message");
        assert!(is_normal(&whole), "a message has CRLF line ends and no NUL");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines that mean something, in any order, with some noise.
    fn dialogue() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            "EHLO a.example\r\n",
            "HELO a\r\n",
            "MAIL FROM:<a@b.example>\r\n",
            "MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
            "RCPT TO:<c@d.example>\r\n",
            "RCPT TO:<postmaster> NOTIFY=NEVER\r\n",
            "RCPT TO:<\"x y\"@d.example>\r\n",
            "DATA\r\n",
            ".\r\n",
            "Subject: x\r\n\r\n",
            "..\r\n",
            "BDAT 5\r\nabc\r\n",
            "BDAT 3 LAST\r\nx\r\n",
            "BDAT 0 LAST\r\n",
            "BDAT 99999\r\n",
            "AUTH PLAIN AHNob3AAc2VjcmV0\r\n",
            "AUTH PLAIN\r\n",
            "AUTH LOGIN\r\n",
            "c2hvcA==\r\n",
            "*\r\n",
            "STARTTLS\r\n",
            "RSET\r\n",
            "NOOP\r\n",
            "VRFY a\r\n",
            "HELP\r\n",
            "\n",
            "\r",
            "\0",
            "x",
            "\u{e9}",
        ]);
        let piece = prop_oneof![
            9 => line.prop_map(|line| line.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn no_dialogue_breaks_a_promise(choice in any::<u8>(), octets in dialogue()) {
            let mut all = vec![choice];
            all.extend(octets);
            session(&all);
        }

        #[test]
        fn no_cut_of_chunks_changes_a_message(octets in prop::collection::vec(prop::sample::select(b"\r\n.a\0".to_vec()), 0..200)) {
            chunks(&octets);
        }
    }
}
