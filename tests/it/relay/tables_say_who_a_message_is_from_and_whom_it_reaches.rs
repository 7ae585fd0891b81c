//! `[local]` and `[rewrite]` on the wire: what a client hands in, and what the peer is given.

use std::fs;
use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Peer, Receipt, Setup, eventually};

const WITHIN: Duration = Duration::from_secs(20);

/// A daemon whose config has these lines too, and these files beside it.
fn start(peer: &Peer, sections: &str, files: &[(&str, &str)]) -> Daemon {
    let mut daemon = Setup::relaying_to(peer.address()).with_postmaster().prepare();
    let text = fs::read_to_string(&daemon.config).unwrap() + sections;
    daemon.overwrite_config(&text);
    for (name, text) in files {
        fs::write(daemon.config.with_file_name(name), text).unwrap();
    }
    daemon.start();
    daemon
}

fn client(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    client
}

fn receipts(peer: &Peer, count: usize) -> Vec<Receipt> {
    eventually("the messages arrive", WITHIN, || peer.receipts().len() >= count);
    peer.receipts()
}

/// The header as the peer got it, without what the daemon adds to every message.
fn header(receipt: &Receipt) -> String {
    let text = String::from_utf8(receipt.bytes.clone()).unwrap();
    let head = text.split("\r\n\r\n").next().unwrap().replace("\r\n\t", " ").replace("\r\n ", " ");
    let ours = ["Received:", "Message-ID:", "Date:", "Feedback-ID:", "X-Postrider-Ref:"];
    head.lines().filter(|line| !ours.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join("\n")
}

fn all_to(receipts: &[Receipt]) -> Vec<String> {
    let mut all: Vec<String> = receipts.iter().flat_map(|receipt| receipt.to.clone()).collect();
    all.sort();
    all
}

#[test]
fn cron_s_mail_to_root_reaches_who_reads_it_and_a_stranger_to_the_host_is_refused() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let sections = "[local]\naliases = \"aliases\"\nrecipient_delimiter = \"+\"\n";
    let aliases = "root: ops@dest.example, boss@dest.example\nwww: root\n";
    let daemon = start(&peer, sections, &[("aliases", aliases)]);
    let mut client = client(&daemon);
    assert_eq!(client.command("MAIL FROM:<root>").unwrap().code, 250);
    let refused = client.command("RCPT TO:<nobody>").unwrap();
    assert_eq!(refused.code, 550, "{:?}", refused.lines);
    assert!(refused.text().contains("5.1.1 <nobody@relay.example.com>"), "{:?}", refused.lines);
    assert_eq!(client.command("RCPT TO:<www+cron@localhost>").unwrap().code, 250);
    assert_eq!(client.command("RCPT TO:<root>").unwrap().code, 250);
    assert_eq!(client.command("RCPT TO:<postmaster>").unwrap().code, 250);
    assert_eq!(client.command("RCPT TO:<else@dest.example>").unwrap().code, 250);
    assert_eq!(client.command("DATA").unwrap().code, 354);
    let message = b"From: root (Cron Daemon)\r\nTo: root\r\nSubject: x\r\n\r\nout\r\n.\r\n";
    client.write(message, crate::harness::Split::Whole).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);

    // Each once, though two ways lead to them.
    let found = receipts(&peer, 2);
    assert_eq!(all_to(&found), ["boss@dest.example", "else@dest.example", "ops@dest.example", "ops@example.com"]);
    for receipt in &found {
        assert_eq!(receipt.from, "root@relay.example.com");
        let want = "From: root@relay.example.com (Cron Daemon)\nTo: root@relay.example.com\nSubject: x";
        assert_eq!(header(receipt), want);
    }
}

#[test]
fn canonical_masquerade_virtual_and_copies_each_do_their_part() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let sections = "[local]\norigin = \"example.com\"\n\
        [rewrite]\ncanonical = [\"hash:canonical\"]\nsender_canonical = [\"inline:{ www-data=web@example.com }\"]\n\
        masquerade_domains = [\"example.com\"]\nmasquerade_exceptions = [\"root\"]\n\
        virtual_aliases = [\"hash:virtual\", \"pcre:virtual.pcre\"]\n\
        always_bcc = \"archive@copy.example\"\nsender_bcc = [\"inline:{ web@example.com=boss@copy.example }\"]\n\
        recipient_bcc = [\"inline:{ @dest.example=audit@copy.example }\"]\n";
    let files = [
        ("canonical", "ann@example.com Ann.Lee@example.com\n"),
        (
            "virtual",
            "team@dest.example a@dest.example, b@dest.example, team2@dest.example\nteam2@dest.example a@dest.example\nv.example x\ninfo@v.example c@dest.example\n",
        ),
        ("virtual.pcre", "/^(.+)@old\\.example$/ $1@dest.example\n"),
    ];
    let daemon = start(&peer, sections, &files);
    let mut client = client(&daemon);
    assert_eq!(client.command("MAIL FROM:<www-data@example.com>").unwrap().code, 250);
    let refused = client.command("RCPT TO:<nobody@v.example>").unwrap();
    assert!(refused.code == 550 && refused.text().contains("5.1.1"), "{:?}", refused.lines);
    for to in ["team@dest.example", "d@old.example", "info@v.example", "a@dest.example"] {
        assert_eq!(client.command(&format!("RCPT TO:<{to}>")).unwrap().code, 250, "{to}");
    }
    assert_eq!(client.command("DATA").unwrap().code, 354);
    let message = b"From: \"Web, of course\" <www-data@example.com>\r\nTo: team@dest.example,\r\n Ann <ann>, root@h.example.com\r\n\
                    Cc: x@web1.example.com\r\nSubject: ann@example.com\r\n\r\nx\r\n.\r\n";
    client.write(message, crate::harness::Split::Whole).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);

    let found = receipts(&peer, 2);
    let want = [
        "a@dest.example",
        "archive@copy.example",
        "audit@copy.example",
        "b@dest.example",
        "boss@copy.example",
        "c@dest.example",
        "d@dest.example",
    ];
    assert_eq!(all_to(&found), want);
    for receipt in &found {
        assert_eq!(receipt.from, "web@example.com");
        let want = "From: \"Web, of course\" <web@example.com>\n\
                    To: team@dest.example, Ann <Ann.Lee@example.com>, root@h.example.com\n\
                    Cc: x@example.com\nSubject: ann@example.com";
        assert_eq!(header(receipt), want);
    }
}

#[test]
fn what_leaves_is_generic_and_its_fields_are_checked_while_it_was_accepted_as_it_came() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let sections = "[rewrite]\ngeneric = [\"texthash:generic\"]\nsmtp_header_checks = [\"regexp:out\"]\n";
    let files = [
        ("generic", "me@box.example me@example.com\n@box.example box@example.com\n"),
        ("out", "/^Received:/ IGNORE\n/^X-Internal:/ REPLACE X-Was: hidden\n"),
    ];
    let daemon = start(&peer, sections, &files);
    let message = b"From: me@box.example\r\nTo: you@box.example, a@dest.example\r\nX-Internal: 10.0.0.1\r\n\r\nx\r\n";
    assert_eq!(client(&daemon).deliver("me@box.example", "a@dest.example", message).unwrap().code, 250);
    let found = receipts(&peer, 1);
    assert_eq!((found[0].from.as_str(), &found[0].to[..]), ("me@example.com", &["a@dest.example".to_owned()][..]));
    assert_eq!(header(&found[0]), "From: me@example.com\nTo: box@example.com, a@dest.example\nX-Was: hidden");
    assert!(!String::from_utf8_lossy(&found[0].bytes).contains("Received:"));
}

#[test]
fn header_checks_change_refuse_hold_drop_and_send_elsewhere() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let checks = "/^Received:.*127\\.0\\.0\\.1/ IGNORE\n/^X-Mailer:/ IGNORE\n/^Subject: (.*)secret(.*)$/ REPLACE Subject: $1[removed]$2\n\
                  /^Subject: bad/ REJECT 5.7.1 not from here\n/^Subject: hold/ HOLD\n/^Subject: drop/ DISCARD\n\
                  /^Subject: move/ REDIRECT moved@dest.example\n/^Subject: copy/ BCC copy@dest.example\n\
                  /^To:/ PREPEND X-Seen: yes\n/^Content-Disposition:.*\\.exe/ REJECT no programs\n";
    let daemon = start(&peer, "[rewrite]\nheader_checks = [\"pcre:checks\"]\n", &[("checks", checks)]);
    let mut client = client(&daemon);
    let mut send = |subject: &str, more: &str| {
        let message = format!(
            "From: a@example.com\r\nTo: b@dest.example\r\nX-Mailer: y\r\nSubject: {subject}\r\n{more}\r\nx\r\n"
        );
        client.deliver("a@example.com", "b@dest.example", message.as_bytes()).unwrap()
    };
    assert_eq!(send("a secret\r\n plan", "").code, 250);
    let found = receipts(&peer, 1);
    let want = "From: a@example.com\nX-Seen: yes\nTo: b@dest.example\nSubject: a [removed] plan";
    assert_eq!(header(&found[0]), want);
    assert!(!String::from_utf8_lossy(&found[0].bytes).contains("Received:"), "our own field is checked too");

    let refused = send("bad", "");
    assert_eq!((refused.code, refused.text()), (550, "5.7.1 not from here"));
    let part =
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment; filename=x.exe\r\n";
    let refused = send("part", part);
    assert_eq!((refused.code, refused.text()), (550, "5.7.1 no programs"));
    for subject in ["hold", "drop", "move", "copy"] {
        assert_eq!(send(subject, "").code, 250, "{subject}");
    }
    let found = receipts(&peer, 3);
    assert_eq!(all_to(&found[1..]), ["b@dest.example", "copy@dest.example", "moved@dest.example"]);
    let listed = String::from_utf8(daemon.run(&["queue", "list", "--json"]).stdout).unwrap();
    assert_eq!(listed.matches("\"id\"").count(), 1, "one is held, none is left: {listed}");
    assert!(listed.contains("\"state\":\"held\"") || listed.contains("\"state\": \"held\""), "{listed}");
    // As postqueue(1) shows what HOLD kept.
    let said = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
        let output = command.args(words).env("MAIL_CONFIG", daemon.config.parent().unwrap()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let row: serde_json::Value = serde_json::from_str(&said(&["postqueue", "-j"])).unwrap();
    assert_eq!(row["queue_name"], "hold");
    let id = row["queue_id"].as_str().unwrap();
    assert!(said(&["mailq"]).contains(&format!("{id}!")));
    let why = String::from_utf8(daemon.run(&["why", id]).stdout).unwrap();
    assert!(why.contains("release"), "{why}");
    assert!(daemon.run(&["queue", "release", "--all"]).status.success());
    let found = receipts(&peer, 4);
    assert_eq!(found.iter().filter(|receipt| header(receipt).contains("Subject: hold")).count(), 1);
    assert!(!found.iter().any(|receipt| header(receipt).contains("Subject: drop")));
}

#[test]
fn a_sender_is_let_in_by_the_access_table() {
    let peer = Peer::start(Behaviour::Friendly);
    let sections = "[rewrite]\nsender_access = [\"texthash:access\", \"static:REJECT\"]\n";
    let files = [("access", "example.com OK\nbad@example.com 450 4.7.1 not now\n<> OK\n")];
    let daemon = start(&peer, sections, &files);
    let mut client = client(&daemon);
    for (from, code) in [("a@example.com", 250), ("bad@example.com", 450), ("a@other.example", 554), ("", 250)] {
        let reply = client.command(&format!("MAIL FROM:<{from}>")).unwrap();
        assert_eq!(reply.code, code, "{from} {:?}", reply.lines);
        client.command("RSET").unwrap();
    }
}

#[test]
fn a_bounce_to_a_local_sender_reaches_who_reads_his_mail() {
    let peer = Peer::keeping_bytes(Behaviour::Choosy);
    let sections = "[local]\naliases = \"aliases\"\n";
    let daemon = start(&peer, sections, &[("aliases", "www-data: ops@dest.example\n")]);
    let message = b"From: www-data\r\nTo: never@dest.example\r\n\r\nx\r\n";
    assert_eq!(client(&daemon).deliver("www-data", "never@dest.example", message).unwrap().code, 250);
    let found = receipts(&peer, 1);
    assert_eq!((found[0].from.as_str(), &found[0].to[..]), ("", &["ops@dest.example".to_owned()][..]));
}

#[test]
fn a_bounce_names_the_recipient_that_the_client_gave() {
    let peer = Peer::keeping_bytes(Behaviour::Choosy);
    let sections = "[rewrite]\nvirtual_aliases = [\"inline:{ sales@dest.example=never1@dest.example, \
                    info@dest.example=never2@dest.example }\"]\n";
    let daemon = start(&peer, sections, &[]);
    let mut client = client(&daemon);
    let rows = [
        ("sales@dest.example", "", Some("sales@dest.example")),
        ("info@dest.example", " ORCPT=rfc822;first+2Bone@dest.example", Some("first+one@dest.example")),
        // Whom nothing was changed of has none (RFC 3461 §6.3).
        ("never3@dest.example", "", None),
    ];
    for (place, (to, parameter, want)) in rows.into_iter().enumerate() {
        assert_eq!(client.command("MAIL FROM:<ops@dest.example>").unwrap().code, 250);
        assert_eq!(client.command(&format!("RCPT TO:<{to}>{parameter}")).unwrap().code, 250);
        assert_eq!(client.command("DATA").unwrap().code, 354);
        client.write(b"From: ops@dest.example\r\n\r\nx\r\n.\r\n", crate::harness::Split::Whole).unwrap();
        assert_eq!(client.reply().unwrap().code, 250);
        let found = receipts(&peer, place + 1);
        let report = String::from_utf8_lossy(&found[place].bytes).into_owned();
        let named = report.lines().find_map(|line| line.strip_prefix("Original-Recipient: rfc822; "));
        assert_eq!(named, want, "{report}");
        assert!(report.contains(&format!("Final-Recipient: rfc822; never{}@dest.example", place + 1)), "{report}");
    }
}
