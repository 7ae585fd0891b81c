//! `sendmail`, `mailq`, `postqueue`, `postsuper` and `postcat` as programs and scripts call them, with the daemon up or down.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Behaviour, Daemon, Peer, Setup, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// A command under Postfix's name.
fn applet(daemon: &Daemon, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(words).env("MAIL_CONFIG", daemon.config.parent().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn call(daemon: &Daemon, words: &[&str]) -> Output {
    applet(daemon, words).output().unwrap()
}

fn said(daemon: &Daemon, words: &[&str]) -> String {
    let output = call(daemon, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn begin(daemon: &Daemon, words: &[&str], input: &str) -> Child {
    let mut child = applet(daemon, words).stdin(Stdio::piped()).spawn().unwrap();
    // Who was killed reads no more.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child
}

fn send(daemon: &Daemon, words: &[&str], input: &str) -> Output {
    begin(daemon, words, input).wait_with_output().unwrap()
}

#[test]
fn and_what_was_taken_while_the_daemon_was_down_arrives_once() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    daemon.kill();
    let many = std::env::var("POSTRIDER_SENDMAILS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let (mut kept, mut perhaps) = (HashSet::new(), HashSet::new());
    for round in (0..many).collect::<Vec<usize>>().chunks(16) {
        let message = |id: &str| format!("To: jo@one.example\nSubject: {id}\nX-Test-Id: {id}\n\nHello\n.\nend\n");
        let children = round.iter().map(|number| {
            let id = format!("down{number}");
            let child = begin(&daemon, &["sendmail", "-t", "-i", "-f", "shop@example.com"], &message(&id));
            (id, child)
        });
        let children: Vec<_> = children.collect();
        for (number, (id, mut child)) in children.into_iter().enumerate() {
            if number % 5 == 4 {
                let _ = child.kill();
            }
            match child.wait().unwrap().success() {
                true => kept.insert(id),
                false => perhaps.insert(id),
            };
        }
    }
    assert!(kept.len() >= many / 2, "{} of {many}", kept.len());
    daemon.start();
    eventually("what was kept arrives", LIMIT, || kept.iter().all(|id| peer.taken(id) == 1));
    // Ended in good order: a kill may double what was past its final dot, as any relay may.
    assert!(daemon.terminate(LIMIT).is_some());
    daemon.start();
    // What comes after it is there, so nothing of it is still on its way.
    let last = send(&daemon, &["sendmail", "-i", "li@one.example"], "X-Test-Id: last\nSubject: last\n\nlast\n");
    assert!(last.status.success(), "{last:?}");
    eventually("the last one arrives", LIMIT, || peer.taken("last") == 1);
    assert!(kept.iter().all(|id| peer.taken(id) == 1));
    assert!(perhaps.iter().all(|id| peer.taken(id) <= 1));
    let receipts = peer.receipts();
    let first = receipts.iter().find(|receipt| kept.contains(&receipt.id)).unwrap();
    let text = String::from_utf8_lossy(&first.bytes);
    assert_eq!(
        (first.from.as_str(), first.to.as_slice()),
        ("shop@example.com", ["jo@one.example".to_owned()].as_slice())
    );
    assert!(text.contains("\r\nHello\r\n.\r\nend\r\n"), "{text}");
    for field in ["From: ", "Date: ", "Message-ID: "] {
        assert!(text.contains(&format!("\r\n{field}")), "{field} is missing:\n{text}");
    }
}

#[test]
fn and_scripts_read_and_order_the_queue() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).start();
    assert_eq!(said(&daemon, &["mailq"]), "Mail queue is empty\n");
    assert_eq!(said(&daemon, &["postqueue", "-p"]), "Mail queue is empty\n");
    assert_eq!(said(&daemon, &["postqueue", "-j"]), "");

    // Nobody takes it while it is looked at.
    peer.become_(Behaviour::Closed);
    for (id, to) in [("one", "jo@one.example"), ("two", "li@two.example")] {
        let words = ["sendmail", "-i", "-f", "shop@example.com", to];
        let sent =
            send(&daemon, &words, &format!("Subject: {id}\nX-Test-Id: {id}\nBcc: secret@one.example\n\nHello {id}\n"));
        assert!(sent.status.success(), "{sent:?}");
    }
    // In the queue, not in the maildrop, where they have other names. From here on a listing has both, whatever is tried.
    let mut rows: Vec<Value> = Vec::new();
    eventually("both wait", LIMIT, || {
        rows = said(&daemon, &["postqueue", "-j"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        rows.len() == 2 && rows.iter().all(|row| row["queue_name"] != "maildrop")
    });
    let id = |to: &str| {
        let row = rows.iter().find(|row| row["recipients"][0]["address"] == to).unwrap();
        assert_eq!(row["sender"], "shop@example.com");
        row["queue_id"].as_str().unwrap().to_owned()
    };
    let (one, two) = (id("jo@one.example"), id("li@two.example"));
    let listing = said(&daemon, &["mailq"]);
    assert!(listing.ends_with(" in 2 Requests.\n"), "{listing}");
    // postsuper(1)'s own example: all mail to a recipient.
    let found = listing.split("\n\n").find(|part| part.contains("li@two.example")).unwrap();
    let word = found.lines().find(|line| line.starts_with(two.as_str())).unwrap();
    assert_eq!(word.split_whitespace().next().unwrap().trim_end_matches(['*', '!']), two);

    let content = said(&daemon, &["postcat", "-qbh", &one]);
    assert!(content.contains("Hello one") && content.contains("Subject: one"), "{content}");
    assert!(!content.to_lowercase().contains("bcc:"), "{content}");

    let told = |words: &[&str]| {
        let output = call(&daemon, words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        told(&["postsuper", "-h", &two]),
        format!("postsuper: {two}: placed on hold\npostsuper: Placed on hold: 1 message\n")
    );
    assert!(said(&daemon, &["mailq"]).contains(&format!("{two}!")));
    assert_eq!(
        told(&["postsuper", "-H", &two]),
        format!("postsuper: {two}: released from hold\npostsuper: Released from hold: 1 message\n")
    );
    assert_eq!(told(&["postsuper", "-d", &one]), format!("postsuper: {one}: removed\npostsuper: Deleted: 1 message\n"));
    assert_eq!(told(&["postsuper", "-d", &one]), "postsuper: Deleted: 0 messages\n");
    eventually("one waits", LIMIT, || said(&daemon, &["mailq"]).ends_with(" in 1 Request.\n"));
    peer.become_(Behaviour::Friendly);
    assert!(call(&daemon, &["postqueue", "-f"]).status.success());
    eventually("the other arrives", LIMIT, || peer.taken("two") == 1);
    // The peer knows that it has it before the queue does.
    eventually("none is left", LIMIT, || said(&daemon, &["mailq"]) == "Mail queue is empty\n");
    assert_eq!(peer.taken("one"), 0);
}

#[test]
fn and_what_is_wrong_ends_with_the_code_that_programs_know() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).start();
    for (words, input, code, text) in [
        (["sendmail", "-t"].as_slice(), "Subject: x\n\nx\n", 64, "No recipient addresses found in message header"),
        (&["sendmail", "-i"], "Subject: x\n\nx\n", 64, "Recipient addresses must be specified"),
        (&["sendmail", "-bx"], "", 64, "unsupported: -bx"),
        (&["postqueue"], "", 64, "usage: postqueue"),
        (&["postqueue", "-i", "a-b"], "", 64, "invalid name"),
    ] {
        let output = send(&daemon, words, input);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(text), "{words:?}: {said}");
    }
    let dialogue = "EHLO laravel\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<jo@one.example>\r\nDATA\r\n\
                    X-Test-Id: spoken\r\nSubject: x\r\n\r\nHello\r\n.\r\nQUIT\r\n";
    let output = send(&daemon, &["sendmail", "-bs", "-i"], dialogue);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.starts_with("220 "), "{output:?}");
    assert!(said.contains("\r\n250 2.0.0 Ok: queued as ") && said.trim_end().ends_with("Bye"), "{said}");
    eventually("it arrives", LIMIT, || peer.taken("spoken") == 1);
}

#[test]
fn and_a_stranger_to_the_host_among_the_recipients_keeps_it_from_nobody_else() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = std::fs::read_to_string(&daemon.config).unwrap() + "[local]\naliases = \"aliases\"\n";
    daemon.overwrite_config(&text);
    std::fs::write(daemon.config.with_file_name("aliases"), "root: ops@dest.example\n").unwrap();
    daemon.start();
    let words = ["sendmail", "-i", "-f", "shop@example.com", "jo@one.example", "nobody", "root", "noone"];
    let sent = send(&daemon, &words, "Subject: to some\nX-Test-Id: some\n\nHello\n");
    assert!(sent.status.success(), "{sent:?}");
    eventually("it and the report arrive", LIMIT, || peer.receipts().len() >= 3);
    let receipts = peer.receipts();
    let mut reached: Vec<_> = receipts.iter().filter(|r| r.id == "some").flat_map(|r| r.to.clone()).collect();
    reached.sort();
    assert_eq!(reached, ["jo@one.example", "ops@dest.example"]);
    let reports: Vec<_> = receipts.iter().filter(|r| r.id != "some").collect();
    let [report] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    assert_eq!((report.from.as_str(), report.to.as_slice()), ("", ["shop@example.com".to_owned()].as_slice()));
    let text = String::from_utf8_lossy(&report.bytes).replace("\r\n ", " ");
    for name in ["nobody", "noone"] {
        let said = format!("Final-Recipient: rfc822; {name}@relay.example.com");
        assert!(text.contains(&said), "{said} is missing:\n{text}");
        assert!(
            text.contains(&format!("<{name}@relay.example.com>: Recipient address rejected: User unknown")),
            "{text}"
        );
    }
    assert!(!text.contains("Final-Recipient: rfc822; jo@one.example"), "{text}");
}
