//! One row for each pair of a state and a command: what is answered, refusals included.

use postrider::smtp::session::{Limits, Link, Mode, Security};

use super::support::Bench;

/// Lines that lead to a state of a submission session under TLS.
const STATES: [(&str, &str); 8] = [
    ("nothing said", ""),
    ("after HELO", "HELO a\r\n"),
    ("after EHLO", "EHLO a\r\n"),
    ("logged in", "EHLO a\r\nAUTH PLAIN AHNob3AAc2VjcmV0\r\n"),
    ("after MAIL", "EHLO a\r\nAUTH PLAIN AHNob3AAc2VjcmV0\r\nMAIL FROM:<a@b.example>\r\n"),
    ("after RCPT", "EHLO a\r\nAUTH PLAIN AHNob3AAc2VjcmV0\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"),
    (
        "between chunks",
        "EHLO a\r\nAUTH PLAIN AHNob3AAc2VjcmV0\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 1\r\nx",
    ),
    ("inside AUTH", "EHLO a\r\nAUTH LOGIN\r\n"),
];

#[test]
fn every_command_in_every_state_has_its_answer() {
    // In the order of STATES.
    let table: [(&str, [&str; 8]); 17] = [
        ("EHLO b", ["250", "250", "250", "250", "250", "250", "250", "501"]),
        ("HELO b", ["250", "250", "250", "250", "250", "250", "250", "501"]),
        ("MAIL FROM:<a@b.example>", ["503", "530", "530", "250", "503", "503", "503", "501"]),
        ("RCPT TO:<c@d.example>", ["503", "503", "503", "503", "250", "250", "503", "501"]),
        ("DATA", ["503", "503", "503", "503", "554", "354", "503", "501"]),
        ("BDAT 0", ["503", "503", "503", "503", "554", "250", "250", "501"]),
        ("BDAT 0 LAST", ["503", "503", "503", "503", "554", "250", "250", "501"]),
        ("AUTH PLAIN AHNob3AAc2VjcmV0", ["503", "503", "235", "503", "503", "503", "503", "501"]),
        ("AUTH LOGIN", ["503", "503", "334", "503", "503", "503", "503", "501"]),
        ("STARTTLS", ["503", "503", "503", "503", "503", "503", "503", "501"]),
        ("RSET", ["250", "250", "250", "250", "250", "250", "250", "334"]),
        ("NOOP", ["250", "250", "250", "250", "250", "250", "250", "501"]),
        ("VRFY a", ["252", "252", "252", "252", "252", "252", "252", "501"]),
        ("HELP", ["214", "214", "214", "214", "214", "214", "214", "501"]),
        ("QUIT", ["221", "221", "221", "221", "221", "221", "221", "334"]),
        ("XYZZY", ["500", "500", "500", "500", "500", "500", "500", "501"]),
        ("*", ["500", "500", "500", "500", "500", "500", "500", "501"]),
    ];
    let link = Link { security: Security::Tls, loopback: false, trusted: false };
    for (command, answers) in table {
        for ((state, lines), want) in STATES.iter().zip(answers) {
            let mut bench = Bench::new(Mode::Submission, link, Limits::default());
            bench.send(lines.as_bytes());
            let answer = bench.send(format!("{command}\r\n").as_bytes());
            let last = answer.trim_end().rsplit("\r\n").next().unwrap_or_default();
            // Some happen to be base64 of text: inside AUTH they are names.
            assert_eq!(last.get(..3), Some(want), "{command} {state}: {answer}");
        }
    }
}

#[test]
fn a_relay_listener_answers_the_same_but_for_who_may_send() {
    let link = |trusted| Link { security: Security::Upgradable, loopback: false, trusted };
    for (trusted, want) in [(true, ["250", "250", "354"]), (false, ["250", "554", "554"])] {
        let mut bench = Bench::new(Mode::Smtp, link(trusted), Limits::default());
        bench.send(b"EHLO a\r\n");
        for (command, want) in ["MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"].iter().zip(want) {
            let answer = bench.send(format!("{command}\r\n").as_bytes());
            assert_eq!(answer.get(..3), Some(want), "{command}: {answer}");
        }
    }
}

#[test]
fn who_is_in_a_trusted_network_needs_no_login_in_any_mode() {
    for (mode, security) in [
        (Mode::Submission, Security::Clear),
        (Mode::Submission, Security::Upgradable),
        (Mode::Submission, Security::Tls),
        (Mode::Submissions, Security::Tls),
    ] {
        for (trusted, want) in [(true, ["250", "250", "354"]), (false, ["530", "503", "503"])] {
            let link = Link { security, loopback: false, trusted };
            let mut bench = Bench::new(mode, link, Limits::default());
            bench.send(b"EHLO a\r\n");
            for (command, want) in ["MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"].iter().zip(want) {
                let answer = bench.send(format!("{command}\r\n").as_bytes());
                assert_eq!(answer.get(..3), Some(want), "{mode:?} {security:?} {command}: {answer}");
            }
            bench.send(b"x\r\n.\r\n");
            assert_eq!(bench.messages.len(), usize::from(trusted), "{mode:?} {security:?}");
        }
    }
}

#[test]
fn auth_lines_may_have_twelve_thousand_octets_and_no_more() {
    let link = Link { security: Security::Tls, loopback: false, trusted: false };
    for (length, want) in [(12_288, "501 5.5.2"), (12_289, "500 5.5.6")] {
        let mut bench = Bench::new(Mode::Submission, link, Limits::default());
        bench.send(b"EHLO a\r\nAUTH LOGIN\r\n");
        let answer = bench.send(format!("{}\r\n", "!".repeat(length)).as_bytes());
        assert!(answer.starts_with(want), "{length}: {answer}");
        assert!(bench.send(b"NOOP\r\n").starts_with("250 "), "the session goes on");
    }
    for (line, want) in [("NOOP ", 2048), ("AUTH PLAIN ", 12_288)] {
        for length in [want, want + 1] {
            let mut bench = Bench::new(Mode::Submission, link, Limits::default());
            bench.send(b"EHLO a\r\n");
            let text = format!("{line}{}\r\n", "a".repeat(length - line.len()));
            // Octet by octet: where a line is cut must not matter.
            let answer: String = text.bytes().map(|octet| bench.send(&[octet])).collect();
            assert_eq!(answer.starts_with("500 5.5.2 Line too long"), length > want, "{line} {length}: {answer}");
            assert_eq!(bench.send(b"NOOP\r\n"), "250 2.0.0 Ok\r\n");
        }
    }
}

#[test]
fn endless_input_ends_the_session() {
    let mut bench = Bench::relay();
    bench.send(b"HELO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
    let megabyte = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while !bench.closed {
        bench.send(&megabyte);
        sent += 1;
        assert!(sent < 300, "reading does not end");
    }
    assert!(sent > 200, "a message of four times the limit is still read: {sent}");
}

#[test]
fn replies_are_handed_out_in_pieces_that_do_not_grow() {
    let mut bench = Bench::relay();
    bench.greeting();
    let answer = bench.send("HELP\r\n".repeat(900).as_bytes());
    assert_eq!(answer.matches("214 ").count(), 900);
}
