//! Transactions with peers that follow a script, over a pipe in memory.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, duplex};

use super::super::session::Peer;
use super::super::testing::{envelope, impatient, patient, play};
use super::*;
use crate::mail::Envelope;
use crate::smtp::dialog::{Capabilities, Needs};

const PEER: fn() -> Peer =
    || Peer { host: "mx.example.net".into(), place: SocketAddr::from((Ipv4Addr::LOCALHOST, 25)), encrypted: false };

struct Told {
    heard: String,
    answers: String,
    end: String,
    /// The dot was announced before it was sent.
    dot: bool,
}

fn content(body: &str) -> Content {
    Content {
        head: Bytes::from_static(b"X-Head: 1\r\n"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        eight_bit: false,
    }
}

fn described(exchange: &Exchange) -> (String, String) {
    let answers = exchange.answers.iter().map(|answer| match answer {
        Some((stage, reply)) => format!("{} {}", stage.name(), reply.code),
        None => "-".to_owned(),
    });
    let end = match exchange.end {
        End::Ended(ended) => format!("{ended:?}"),
        End::Unsendable(_) => "unsendable".to_owned(),
        End::Lost { stage, lost, uncertain, answered } => {
            let lost = match lost {
                Lost::Closed | Lost::Broken(_) => "closed",
                Lost::Timeout => "silent",
                Lost::NotSmtp(_) => "garbage",
            };
            let marks = [(uncertain, ", uncertain"), (!answered, ", unanswered")];
            let marks: String = marks.iter().filter(|(on, _)| *on).map(|(_, mark)| *mark).collect();
            format!("{lost} at {}{marks}", stage.name())
        }
    };
    (answers.collect::<Vec<_>>().join(", "), end)
}

async fn told(offered: Capabilities, envelope: &Envelope, content: Content, settings: &Settings, script: &str) -> Told {
    let (ours, mut theirs) = duplex(64 * 1024);
    let mut session = Session::new(ours, PEER());
    session.offered = offered;
    let places: Vec<usize> = (0..envelope.recipients.len()).collect();
    let needs = Needs { size_bytes: content.size() as u64, eight_bit: false, smtputf8: false };
    let letter = Letter { envelope, places: &places, needs };
    let dot = Cell::new(false);
    let ours = async {
        let nothing = || std::future::ready(());
        let exchange = session.transact(&letter, &content, settings, nothing(), nothing(), || dot.set(true)).await;
        drop(session);
        exchange
    };
    let theirs = async {
        let heard = play(&mut theirs, script).await;
        drop(theirs);
        heard
    };
    let (exchange, heard) = tokio::join!(ours, theirs);
    let (answers, end) = described(&exchange);
    Told { heard, answers, end, dot: dot.get() }
}

fn pipelining() -> Capabilities {
    Capabilities { pipelining: true, ..Capabilities::default() }
}

const OPEN: &str = "C: DATA\nS: 250 sender\nS: 250 one\nS: 550 5.1.1 two\nS: 354 go\n";

#[tokio::test]
async fn a_message_arrives_once_stuffed_and_ended_once() {
    let script = format!("{OPEN}C: .\nS: 250 2.0.0 Ok\nhold");
    let told =
        told(pipelining(), &envelope(2), content("Subject: x\r\n\r\n.\r\n..\r\nend\r\n"), &patient(), &script).await;
    let message = "X-Head: 1\r\nSubject: x\r\n\r\n..\r\n...\r\nend\r\n.\r\n";
    let commands = "MAIL FROM:<s@example.com>\r\nRCPT TO:<r0@example.net>\r\nRCPT TO:<r1@example.net>\r\nDATA\r\n";
    assert_eq!(told.heard, format!("{commands}{message}"));
    assert_eq!((&*told.answers, &*told.end, told.dot), ("dot 250, rcpt 550", "Clean", true));
}

#[tokio::test]
async fn whatever_a_peer_does_each_recipient_gets_what_was_said_to_it() {
    let long_reply = "S: 250-".repeat(101).replace("250-S", "250-\nS");
    // Capabilities in lock-step where the script waits for single commands.
    let rows: [(&str, bool, String, &str, &str); 17] = [
        ("closes at once", true, "".into(), "-, -", "closed at mail, unanswered"),
        ("says 421 at MAIL", true, "C: MAIL\nS: 421 4.3.2 bye".into(), "mail 421, mail 421", "Closing"),
        ("421 at RCPT", false, "C: MAIL\nS: 250 ok\nC: RCPT\nS: 421 bye".into(), "rcpt 421, rcpt 421", "Closing"),
        ("closes at RCPT", false, "C: MAIL\nS: 250 ok\nC: RCPT".into(), "-, -", "closed at rcpt"),
        (
            "breaks in the middle of a group",
            true,
            "C: DATA\nS: 250 ok\nS: 550 no\nS- 25".into(),
            "rcpt 550, -",
            "closed at rcpt",
        ),
        (
            "421 at DATA",
            false,
            "C: MAIL\nS: 250 ok\nC: RCPT\nS: 250 ok\nC: RCPT\nS: 250 ok\nC: DATA\nS: 421 bye".into(),
            "data 421, data 421",
            "Closing",
        ),
        ("closes at DATA", true, "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok".into(), "-, -", "closed at data"),
        (
            "refuses all",
            true,
            "C: DATA\nS: 250 ok\nS: 550 a\nS: 450 b\nS: 554 none".into(),
            "rcpt 550, rcpt 450",
            "NeedsReset",
        ),
        (
            "refuses all and says go on",
            true,
            "C: DATA\nS: 250 ok\nS: 550 a\nS: 450 b\nS: 354 go\nC: .\nS: 554 none".into(),
            "rcpt 550, rcpt 450",
            "Clean",
        ),
        ("closes after the dot", true, format!("{OPEN}C: ."), "-, rcpt 550", "closed at dot, uncertain"),
        ("silent after the dot", true, format!("{OPEN}C: .\nhold"), "-, rcpt 550", "silent at dot, uncertain"),
        (
            "garbage after the dot",
            true,
            format!("{OPEN}C: .\nS: what?\nhold"),
            "-, rcpt 550",
            "garbage at dot, uncertain",
        ),
        ("421 after the dot", true, format!("{OPEN}C: .\nS: 421 bye"), "dot 421, rcpt 550", "Closing"),
        (
            "multi-line",
            true,
            "C: DATA\nS: 250-a\nS: 250 b\nS: 250 ok\nS: 250-x\nS: 250 y\nS: 354 go\nC: .\nS: 250-a\nS: 250 b\nhold"
                .into(),
            "dot 250, dot 250",
            "Clean",
        ),
        ("silent at MAIL", true, "hold".into(), "-, -", "silent at mail, unanswered"),
        (
            "garbage at MAIL",
            true,
            "C: DATA\nS: HTTP/1.1 400 Bad Request\nhold".into(),
            "-, -",
            "garbage at mail, unanswered",
        ),
        ("an endless reply", true, format!("C: DATA\n{long_reply}x\nhold"), "-, -", "garbage at mail, unanswered"),
    ];
    for (name, pipelined, script, answers, end) in rows {
        let offered = Capabilities { pipelining: pipelined, ..Capabilities::default() };
        let told = told(offered, &envelope(2), content("a\r\n"), &impatient(), &script).await;
        assert_eq!((&*told.answers, &*told.end), (answers, end), "{name}");
        assert_eq!(told.dot, told.heard.ends_with("X-Head: 1\r\na\r\n.\r\n"), "{name}");
        assert!(told.heard.matches("\r\n.\r\n").count() <= 1, "{name}");
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_given_up_and_nothing_is_uncertain() {
    let body = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(20_000);
    let (ours, mut theirs) = duplex(4096);
    let mut session = Session::new(ours, PEER());
    session.offered = pipelining();
    let (envelope, content, settings) = (envelope(1), content(&body), impatient());
    let needs = Needs { size_bytes: content.size() as u64, eight_bit: false, smtputf8: false };
    let letter = Letter { envelope: &envelope, places: &[0], needs };
    let dot = Cell::new(false);
    let nothing = || std::future::ready(());
    let transact = session.transact(&letter, &content, &settings, nothing(), nothing(), || dot.set(true));
    let (exchange, _) = tokio::join!(transact, play(&mut theirs, "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go"));
    assert_eq!(described(&exchange), ("-".into(), "silent at data".into()));
    assert!(!dot.get());
    // One that refuses in the middle and closes is heard.
    drop(theirs);
    let script = "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: 0123\nS: 552 5.3.4 too big";
    let (ours, mut theirs) = duplex(4096);
    let mut session = Session::new(ours, PEER());
    session.offered = pipelining();
    let transact = session.transact(&letter, &content, &settings, nothing(), nothing(), || dot.set(true));
    let theirs = async {
        play(&mut theirs, script).await;
        drop(theirs);
    };
    let (exchange, ()) = tokio::join!(transact, theirs);
    assert_eq!(described(&exchange), ("data 552".into(), "Closing".into()));
    assert!(!dot.get());
}

#[tokio::test]
async fn a_long_message_is_written_in_pieces_and_arrives_whole() {
    let body = format!("Subject: long\r\n\r\n{}", ".dots and text\r\n".repeat(40_000));
    let script = "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .\nS: 250 ok\nhold";
    let told = told(pipelining(), &envelope(1), content(&body), &patient(), script).await;
    assert_eq!((&*told.answers, &*told.end), ("dot 250", "Clean"));
    let sent = told.heard.split_once("DATA\r\n").unwrap().1;
    assert_eq!(sent, format!("X-Head: 1\r\n{}.\r\n", body.replace("\r\n.", "\r\n..")));
}

#[tokio::test]
async fn a_message_with_a_bare_line_end_is_never_begun() {
    for body in ["a\n.\r\nb\r\n", "a\rb\r\n", "a\r"] {
        let told = told(pipelining(), &envelope(1), content(body), &patient(), "C: MAIL").await;
        assert_eq!((&*told.heard, &*told.end), ("", "unsendable"), "{body:?}");
    }
}

#[tokio::test]
async fn no_dot_goes_out_before_the_last_settle_is_written() {
    let (ours, mut theirs) = duplex(4096);
    let mut session = Session::new(ours, PEER());
    session.offered = pipelining();
    let (envelope, content, settings) = (envelope(1), content("a\r\n"), patient());
    let needs = Needs { size_bytes: content.size() as u64, eight_bit: false, smtputf8: false };
    let letter = Letter { envelope: &envelope, places: &[0], needs };
    let (written, gate) = tokio::sync::oneshot::channel::<()>();
    let gate = async { gate.await.unwrap() };
    let transact = session.transact(&letter, &content, &settings, std::future::ready(()), gate, || {});
    let theirs = async {
        // The commands do not wait for the gate; the message does.
        play(&mut theirs, "C: DATA\nS: 250 a\nS: 250 b\nS: 354 go").await;
        let mut early = [0u8; 64];
        let read = tokio::time::timeout(super::super::testing::SHORT, theirs.read(&mut early)).await;
        assert!(read.is_err(), "the message came before its time");
        written.send(()).unwrap();
        play(&mut theirs, "C: .\nS: 250 ok").await;
    };
    let (exchange, ()) = tokio::join!(transact, theirs);
    assert_eq!(described(&exchange), ("dot 250".into(), "Clean".into()));
}

#[tokio::test]
async fn a_reset_goes_first_only_after_a_transaction_that_was_left_open() {
    let (ours, mut theirs) = duplex(4096);
    let mut session = Session::new(ours, PEER());
    session.offered = pipelining();
    let (envelope, content, settings) = (envelope(1), content("a\r\n"), patient());
    let needs = Needs { size_bytes: content.size() as u64, eight_bit: false, smtputf8: false };
    let letter = Letter { envelope: &envelope, places: &[0], needs };
    let script = "C: DATA\nS: 250 a\nS: 550 b\nS: 503 none\nC: RSET\nS: 250 ok\nC: DATA\nS: 250 a\nS: 250 b\nS: 354 go\n\
        C: .\nS: 250 ok\nC: DATA\nS: 250 a\nS: 250 b\nS: 354 go\nC: .\nS: 250 ok";
    let ours = async {
        for want in ["NeedsReset", "Clean", "Clean"] {
            let nothing = || std::future::ready(());
            let exchange = session.transact(&letter, &content, &settings, nothing(), nothing(), || {}).await;
            assert_eq!(described(&exchange).1, want);
        }
    };
    let ((), heard) = tokio::join!(ours, play(&mut theirs, script));
    assert_eq!(heard.matches("RSET\r\n").count(), 1);
    assert!(heard.contains("DATA\r\nRSET\r\nMAIL"));
}
