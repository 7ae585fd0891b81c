//! Messages built to make a parser slow or hungry are changed in time that grows with their length alone.

use std::time::{Duration, Instant};

use postrider::message::{HeaderLimits, downgrade_8bit, mailboxes, scan, shorten_lines};

/// An unoptimised build needs half a second for the worst; what is quadratic takes minutes.
const LONGEST: Duration = Duration::from_secs(20);
const LENGTH: usize = 1 << 20;

fn filled(start: &str, piece: &str) -> Vec<u8> {
    let mut message = start.as_bytes().to_vec();
    while message.len() < LENGTH {
        message.extend_from_slice(piece.as_bytes());
    }
    // One line that must be changed, so that all is looked at.
    message.extend_from_slice(&b"\r\n".iter().copied().chain(std::iter::repeat_n(b'z', 2000)).collect::<Vec<_>>());
    message.extend_from_slice("\u{e9}\r\n".as_bytes());
    message
}

#[test]
fn malicious_structure_costs_no_more_than_its_length() {
    let mixed = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let nest = "Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\n";
    let messages = [
        filled(mixed, "--b\r\n"),
        filled(mixed, "--b\r\n\r\n"),
        filled(mixed, "--bb\r\n"),
        filled(mixed, "--b\r\nContent-Type: multipart/mixed; boundary=c\\d\r\n\r\n"),
        filled("", nest),
        filled("", "Content-Type: message/rfc822\r\n\r\n"),
        filled("", "a:\r\n"),
        filled("\r\n", "\r\n--"),
        filled("\r\n", " "),
        filled("\r\n", "="),
        filled("Content-Transfer-Encoding: quoted-printable\r\n\r\n", "=\u{e9}"),
        filled("Content-Transfer-Encoding: base64\r\n\r\n", "-"),
        filled("Subject:", " "),
        filled("Subject:", "(("),
        filled(mixed, "--b\r\n--"),
    ];
    for (number, message) in messages.iter().enumerate() {
        let started = Instant::now();
        let (out, _) = shorten_lines(message);
        assert!(out.len() <= message.len() * 4, "message {number}");
        let _ = downgrade_8bit(message);
        if let Ok(block) = scan(message, HeaderLimits::NONE) {
            for field in block.fields.iter().take(100) {
                let _ = mailboxes(field.value);
            }
        }
        let took = started.elapsed();
        assert!(took < LONGEST, "message {number} took {took:?}");
    }
    for piece in ["(", "<", "\"", "\\", "a@b.example,", "=?q?q?<?= ", "<a@", ":;", ",", "@"] {
        let started = Instant::now();
        let _ = mailboxes(piece.repeat(200_000 / piece.len()).as_bytes());
        assert!(started.elapsed() < LONGEST, "{piece}");
    }
}
