//! SMTP smuggling, end to end: 62 wrong ends of data (`.` between odd line ends), and three that scanners use, on each kind
//! of listener, whole and cut up. Whatever the daemon makes of the bytes, the peer never sees two messages.

use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, PASSWORD, Peer, Setup, Split, USER, eventually};

const LINE_ENDS: [(&str, &[u8]); 8] = [
    ("LF", b"\n"),
    ("CR", b"\r"),
    ("CRLF", b"\r\n"),
    ("CRCRLF", b"\r\r\n"),
    ("LFCR", b"\n\r"),
    ("CRCR", b"\r\r"),
    ("LFLF", b"\n\n"),
    ("CRNULLF", b"\r\0\n"),
];

/// The wrong ends: all pairs but those that hold a true CRLF.CRLF.
fn wrong_ends() -> Vec<(String, Vec<u8>)> {
    let mut ends = Vec::new();
    for (before_name, before) in LINE_ENDS {
        for (after_name, after) in LINE_ENDS {
            let end = [before, b".", after].concat();
            if !end.windows(5).any(|window| window == b"\r\n.\r\n") {
                ends.push((format!("{before_name}-{after_name}"), end));
            }
        }
    }
    assert_eq!(ends.len(), 62);
    ends.push(("NUL-before-the-dot".to_owned(), b"\r\n\0.\r\n".to_vec()));
    ends.push(("NUL-behind-the-dot".to_owned(), b"\r\n.\0\r\n".to_vec()));
    ends.push(("dot-dot".to_owned(), b"\r\n..\r\n".to_vec()));
    ends
}

fn check(listener: &str, connect: impl Fn(&Daemon) -> std::io::Result<Client>) {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).with_tls().start();
    let mut accepted = Vec::new();
    for (name, end) in wrong_ends() {
        for (cut, split) in [("whole", Split::Whole), ("cut", Split::At(0)), ("bytes", Split::EachByte)] {
            let id = format!("{listener}-{name}-{cut}");
            let mut client = connect(&daemon).unwrap_or_else(|error| panic!("{id}: {error}"));
            if smuggle(&mut client, &id, &end, split) {
                accepted.push(id);
            }
        }
    }
    eventually("what was accepted arrives", Duration::from_secs(30), || accepted.iter().all(|id| peer.taken(id) > 0));
    for receipt in peer.receipts() {
        assert!(
            !receipt.from.contains("smuggled") && !receipt.to.iter().any(|to| to.contains("smuggled")),
            "{receipt:?}"
        );
        assert!(accepted.contains(&receipt.id), "an answer of 5xx, and delivered: {receipt:?}");
        assert_eq!(peer.taken(&receipt.id), 1, "{}", receipt.id);
    }
    assert_eq!(peer.violations(), Vec::<String>::new());
}

/// Sends one message with a wrong end and a second one behind it, then a true end. Whether the first was accepted.
fn smuggle(client: &mut Client, id: &str, end: &[u8], split: Split) -> bool {
    for command in ["MAIL FROM:<honest@example.com>", "RCPT TO:<a@dest.example>", "DATA"] {
        let reply = client.command(command).expect(id);
        assert!(reply.code < 400, "{id}: {command}: {:?}", reply.lines);
    }
    let head = format!("From: honest@example.com\r\nX-Test-Id: {id}\r\nSubject: s\r\n\r\nbody");
    let tail = "MAIL FROM:<smuggled@example.com>\r\nRCPT TO:<smuggled@dest.example>\r\nDATA\r\n\
                From: honest@example.com\r\nX-Test-Id: smuggled\r\nSubject: s\r\n\r\nsmuggled\r\n.\r\n";
    let bytes = [head.as_bytes(), end, tail.as_bytes()].concat();
    // The cut falls behind the dot: the two halves of the end of data come in two reads.
    let dot = end.iter().rposition(|byte| *byte == b'.').map_or(0, |place| head.len() + place + 1);
    let split = if split == Split::At(0) { Split::At(dot) } else { split };
    client.write(&bytes, split).expect(id);
    let reply = client.reply().expect(id);
    assert!(reply.code == 250 || reply.code >= 500, "{id}: {:?}", reply.lines);
    if reply.code == 521 {
        return false; // Refused with its connection.
    }
    // Exactly one reply: the next one is the answer to this command, not to anything in the message.
    let quit = client.command("QUIT").expect(id);
    assert_eq!(quit.code, 221, "{id}: a second reply: {:?}", quit.lines);
    reply.code == 250
}

#[test]
fn on_the_submission_listener_under_starttls() {
    check("starttls", |daemon| {
        let mut client = Client::connect(daemon.submission)?.start_tls(daemon.client_tls())?;
        client.hello()?;
        client.log_in(USER, PASSWORD)?;
        Ok(client)
    });
}

#[test]
fn on_the_submissions_listener() {
    check("implicit-tls", |daemon| {
        let mut client = Client::connect_tls(daemon.submissions, daemon.client_tls())?;
        client.hello()?;
        client.log_in(USER, PASSWORD)?;
        Ok(client)
    });
}

#[test]
fn on_the_smtp_listener() {
    check("smtp", |daemon| {
        let mut client = Client::connect(daemon.smtp)?;
        client.hello()?;
        Ok(client)
    });
}
