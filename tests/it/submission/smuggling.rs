//! SMTP smuggling (CVE-2023-51764, -51765, -51766): no wrong end of data ever makes two messages out of one.

use super::support::Bench;

/// Before and after the dot: everything that some server took for a line end, but for the two true ends.
pub fn wrong_ends() -> Vec<Vec<u8>> {
    let parts: [&[u8]; 8] = [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\r\r", b"\n\n", b"\r\0\n"];
    let mut ends: Vec<Vec<u8>> = Vec::new();
    for before in parts {
        for after in parts {
            let holds_true_end = before.ends_with(b"\r\n") && after == b"\r\n";
            if !holds_true_end {
                ends.push([before, b".", after].concat());
            }
        }
    }
    assert_eq!(ends.len(), 62);
    // What scanners send besides.
    let scanners: [&[u8]; 8] = [
        b"\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\0\n",
        b"\n.\r\n",
        b"\r.\r\n",
        b"\r\n.\x0b\r\n",
        b"\r\n .\r\n",
    ];
    ends.extend(scanners.map(<[u8]>::to_vec));
    ends
}

/// What follows 354: a message, the wrong end, what the smuggler hopes to be read as commands, and the true end.
pub fn payload(end: &[u8]) -> Vec<u8> {
    let smuggled = b"MAIL FROM:<admin@b.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\nSubject: 2\r\n\r\nsmuggled";
    [b"Subject: 1\r\n\r\nfirst", end, smuggled, b"\r\n.\r\n"].concat()
}

const ENVELOPE: &[u8] = b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";

fn check(bench: &Bench, answers: &str, what: &str) {
    assert!(bench.messages.len() <= 1, "{what}: two messages");
    let kept = bench.messages.len() == 1;
    let answer = answers.trim_end().rsplit("\r\n").next().unwrap_or_default();
    assert!(kept && answer.starts_with("250 2.0.0") || !kept && answer.starts_with("550 5.6.0"), "{what}: {answers}");
    for message in &bench.messages {
        assert!(postrider::smtp::data::is_normal(&message.body), "{what}");
        assert!(message.body.ends_with(b"smuggled\r\n"), "{what}: all of it is one message");
    }
}

#[test]
fn no_wrong_end_of_data_makes_two_messages_whole_or_split() {
    for end in wrong_ends() {
        let payload = payload(&end);
        let what = end.escape_ascii().to_string();
        let mut bench = Bench::relay();
        bench.send(ENVELOPE);
        let answers = bench.send(&payload);
        check(&bench, &answers, &format!("{what} whole"));
        assert!(bench.send(b"NOOP\r\n").starts_with("250 2.0.0 Ok\r"), "{what}: in step again");

        for cut in 0..payload.len() {
            let mut bench = Bench::relay();
            bench.send(ENVELOPE);
            let (first, second) = payload.split_at(cut);
            let answers = bench.send(first) + &bench.send(second);
            check(&bench, &answers, &format!("{what} cut at {cut}"));
        }

        let mut bench = Bench::relay();
        let answers: String = [ENVELOPE, &payload].concat().iter().map(|octet| bench.send(&[*octet])).collect();
        check(&bench, &answers, &format!("{what} octet by octet"));
    }
}

#[test]
fn the_two_true_ends_end_a_message() {
    for end in [&b"\r\n.\r\n"[..], b"\r\r\n.\r\n"] {
        let mut bench = Bench::relay();
        bench.send(ENVELOPE);
        let answers = bench.send(&[b"first", end, b"NOOP\r\n"].concat());
        assert_eq!(bench.messages.len(), 1);
        assert!(answers.ends_with("250 2.0.0 Ok\r\n"), "{answers}");
    }
}

#[test]
fn chunks_carry_wrong_ends_as_text() {
    for end in wrong_ends() {
        let text = payload(&end);
        let mut bench = Bench::relay();
        let envelope = ENVELOPE.strip_suffix(b"DATA\r\n").unwrap();
        let size = format!("BDAT {} LAST\r\n", text.len());
        let answers = bench.send(&[envelope, size.as_bytes(), &text].concat());
        assert!(bench.messages.len() <= 1);
        let last = answers.trim_end().rsplit("\r\n").next().unwrap_or_default();
        let want = if end.contains(&0) { "550 5.6.0" } else { "250 2.0.0 Ok: " };
        assert!(last.starts_with(want), "{}: {last}", end.escape_ascii());
        assert!(bench.send(b"NOOP\r\n").starts_with("250 "), "in step");
    }
}
