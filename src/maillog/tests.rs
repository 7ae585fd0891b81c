//! Lines as analysers take them apart, and where they end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use super::*;
use crate::mail::{Cause, EnhancedStatus, Outcome, QueueId, Reply, Stage};

fn id() -> QueueId {
    "0V2cWpqNDTr0".parse().unwrap()
}

fn outcome(stage: Stage, cause: Cause) -> Outcome {
    let address = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    Outcome { at: Timestamp::ZERO, stage, host: "mx.b.example".into(), address, cause }
}

fn delays(all: u64, transaction: u64) -> Delays {
    Delays { all: Duration::from_millis(all), transaction: Duration::from_millis(transaction) }
}

#[test]
fn a_delivery_is_told_as_postfix_tells_it() {
    let reply = |code, text: &str| Cause::Reply(Reply::new(code, text));
    let refused = Cause::local(EnhancedStatus::new(4, 4, 1), "Connection refused");
    let rows = [
        (
            outcome(Stage::FinalDot, reply(250, "2.0.0 Ok: queued as X")),
            Tail::Sent,
            "relay=mx.b.example[192.0.2.1]:25, delay=0.54, delays=0/0.34/0/0.2, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as X)",
        ),
        (
            outcome(Stage::Rcpt, reply(550, "5.1.1 no such user")),
            Tail::Bounced,
            "relay=mx.b.example[192.0.2.1]:25, delay=0.54, delays=0/0.34/0/0.2, dsn=5.1.1, status=bounced (host mx.b.example[192.0.2.1] said: 550 5.1.1 no such user (in reply to RCPT TO command))",
        ),
        (
            outcome(Stage::Greeting, reply(421, "busy")),
            Tail::Deferred,
            "relay=mx.b.example[192.0.2.1]:25, delay=0.54, delays=0/0.34/0/0.2, dsn=4.0.0, status=deferred (host mx.b.example[192.0.2.1] refused to talk to me: 421 busy)",
        ),
        (
            outcome(Stage::Connect, refused),
            Tail::Deferred,
            "relay=mx.b.example[192.0.2.1]:25, delay=0.54, delays=0/0.34/0/0.2, dsn=4.4.1, status=deferred (connect to mx.b.example[192.0.2.1]:25: Connection refused)",
        ),
    ];
    for (outcome, tail, want) in rows {
        let line = delivery(id(), "a@b.example", Some(&outcome), 25, delays(540, 200), tail);
        assert_eq!(line, format!("{}: to=<a@b.example>, {want}", id()));
    }
    let none = delivery(id(), "a@b.example", None, 0, delays(0, 0), Tail::Bounced);
    assert!(
        none.contains("relay=none, delay=0, delays=0/0/0/0, dsn=5.0.0, status=bounced (no attempt was made)"),
        "{none}"
    );
}

#[test]
fn delays_have_two_significant_digits() {
    let rows = [
        (0, "0"),
        (4, "0"),
        (5, "0.01"),
        (540, "0.54"),
        (1000, "1"),
        (1250, "1.2"),
        (9960, "10"),
        (12_400, "12"),
        (123_456, "123"),
    ];
    for (millis, want) in rows {
        let line = delivery(id(), "a@b.example", None, 0, delays(millis, 0), Tail::Sent);
        assert!(line.contains(&format!(" delay={want}, delays=0/{want}/0/0,")), "{millis}: {line}");
    }
}

#[test]
fn refusals_and_ends_of_sessions_match_what_fail2ban_looks_for() {
    let host = peer(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)));
    assert_eq!(peer(IpAddr::V6(Ipv6Addr::LOCALHOST)), "localhost[::1]");
    let said = Said {
        at: "RCPT",
        code: 554,
        status: "5.7.1",
        text: "<x@y.example>: Relay access denied",
        from: Some("a@b.example"),
        to: Some("x@y.example"),
        protocol: "ESMTP",
        hello: "z",
    };
    let line = refused(&host, &said);
    assert_eq!(
        line,
        "NOQUEUE: reject: RCPT from unknown[203.0.113.9]: 554 5.7.1 <x@y.example>: Relay access denied; from=<a@b.example> to=<x@y.example> proto=ESMTP helo=<z>"
    );
    // Debian's filter, mode `normal`, with its host put in.
    let filter = r"^[A-Z]{4} from [^\[]*\[203\.0\.113\.9\](?::[0-9]+)?: [45][50][04] [45]\.[0-9]\.[0-9]+ (?:(?:<[^>]*>)?: )?Relay access denied";
    assert!(Regex::new(filter).unwrap().is_match(line.trim_start_matches("NOQUEUE: reject: ")));
    let tallies = [("ehlo", 2, 2), ("auth", 0, 3), ("mail", 1, 1), ("rcpt", 2, 3), ("data", 0, 0)];
    let end = session_end(&host, tallies.into_iter());
    assert_eq!(end, "disconnect from unknown[203.0.113.9] ehlo=2 auth=0/3 mail=1 rcpt=2/3 commands=5/9");
    assert_eq!(session_end(&host, std::iter::empty()), "disconnect from unknown[203.0.113.9] commands=0/0");
    assert_eq!(
        lost("lost connection", "DATA", Some(123), &host),
        "lost connection after DATA (123 bytes) from unknown[203.0.113.9]"
    );
    assert_eq!(lost("timeout", "RCPT", None, &host), "timeout after RCPT from unknown[203.0.113.9]");
}

#[test]
fn a_strangers_words_stay_in_their_place() {
    let login = client(id(), "unknown[192.0.2.7]", Some(("PLAIN", "a, relay=b")));
    assert_eq!(login, format!("{}: client=unknown[192.0.2.7], sasl_method=PLAIN, sasl_username=a??relay=b", id()));
    assert_eq!(
        queued(id(), "a>, size=9", 1, 1),
        format!("{}: from=<a?, size=9>, size=1, nrcpt=1 (queue active)", id())
    );
    assert_eq!(line::safe("a\r\nb\u{85}c".to_owned(), 100), "a??b?c");
    assert_eq!(line::safe("éééé".to_owned(), 5), "éé");
}

fn file_log(path: &Path) -> Maillog {
    let now: Clock = Arc::new(|| Timestamp::from_secs(1_700_000_000));
    Maillog::open(Target::File(path.to_owned()), "relay.example.com", now).unwrap()
}

#[test]
fn lines_stand_in_a_file_that_may_be_moved_away() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("mail.log"), directory.path().join("mail.log.1"));
    let log = file_log(&path);
    let session = log.session(Service::Smtps);
    log.write_of(session, || "connect from localhost[127.0.0.1]".to_owned());
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !path.exists() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::rename(&path, &moved).unwrap();
    // What is looked at once a second is looked at by now.
    std::thread::sleep(Duration::from_millis(1100));
    log.write(Service::Qmgr, || format!("{}: removed", id()));
    log.close();
    let (before, after) = (std::fs::read_to_string(&moved).unwrap(), std::fs::read_to_string(&path).unwrap());
    let form = Regex::new(r"^Nov 1[45] [0-9:]{8} relay\.example\.com (postfix/[a-z/]+)\[([0-9]+)\]: (.*)\n$").unwrap();
    let parts = form.captures(&before).expect("a line of syslog's form");
    assert_eq!((&parts[1], &parts[2], &parts[3]), ("postfix/smtps/smtpd", "1", "connect from localhost[127.0.0.1]"));
    let parts = form.captures(&after).expect("a line of syslog's form");
    assert_eq!(&parts[1], "postfix/qmgr");
    assert_eq!(parts[2].parse(), Ok(std::process::id()));
}

#[test]
fn a_log_that_cannot_be_written_stops_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let log = file_log(&directory.path().join("missing/mail.log"));
    (0..1000).for_each(|_| log.write(Service::Qmgr, || "x".repeat(10_000)));
    log.close();
    assert!(!directory.path().join("missing").exists());
    assert!(!Maillog::default().is_on());
    Maillog::default().write(Service::Qmgr, || unreachable!("nobody reads it"));
}
