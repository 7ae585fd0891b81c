//! HOLDFOR, HOLDUNTIL and X-Deliver-At: nothing leaves before its time, over `kill -9` too, unless an operator says so.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::harness::{Behaviour, Client, Daemon, Peer, Sample, Setup, Split, eventually};

fn start(peer: &Peer) -> Daemon {
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text = text.replace("trusted_networks", "control_headers = [\"postrider\"]\ntrusted_networks");
    daemon.overwrite_config(&format!("{text}[limits]\nmax_hold = \"1d\"\n"));
    daemon.start();
    daemon
}

fn client(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.smtp).unwrap();
    let hello = client.hello().unwrap();
    let offer = hello.lines.iter().find(|line| line.contains("FUTURERELEASE")).expect("the keyword of RFC 4865");
    let words: Vec<&str> = offer[4..].split(' ').collect();
    assert!(words[1] == "86400" && words[2].ends_with('Z') && words.len() == 3, "{offer}");
    client
}

/// Hands in a message with parameters of MAIL and header fields of its own; gives its queue id.
fn hand_in(client: &mut Client, name: &str, parameters: &str, fields: &str) -> String {
    let sample = Sample::with_body(name, b"body\r\n");
    client.command(&format!("MAIL FROM:<{}> {parameters}", sample.from())).unwrap().expect_code(250);
    client.command(&format!("RCPT TO:<{}>", sample.to())).unwrap().expect_code(250);
    client.command("DATA").unwrap().expect_code(354);
    let message = [fields.as_bytes(), &sample.bytes, b".\r\n"].concat();
    client.write(&message, Split::Whole).unwrap();
    let reply = client.reply().unwrap();
    assert_eq!(reply.code, 250, "{:?}", reply.lines);
    reply.text().rsplit(' ').next().unwrap().to_owned()
}

trait ExpectCode {
    fn expect_code(&self, code: u16);
}

impl ExpectCode for crate::harness::Reply {
    fn expect_code(&self, code: u16) {
        assert_eq!(self.code, code, "{:?}", self.lines);
    }
}

/// RFC 3339, in UTC.
fn in_secs(secs: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    postrider::time::Timestamp::from_secs(now.as_secs() + secs).rfc3339()
}

fn told(daemon: &Daemon, words: &[&str]) -> String {
    String::from_utf8_lossy(&daemon.run(words).stdout).into_owned()
}

#[test]
fn nothing_leaves_before_its_time() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer);
    let mut client = client(&daemon);
    let began = Instant::now();
    hand_in(&mut client, "plain", "", "");
    hand_in(&mut client, "for", "HOLDFOR=3", "");
    let until = in_secs(3);
    hand_in(&mut client, "until", &format!("HOLDUNTIL={until}"), "");
    hand_in(&mut client, "header", "", &format!("X-Deliver-At: {until}\r\n"));
    hand_in(&mut client, "both", "HOLDFOR=1", &format!("X-Deliver-At: {until}\r\n"));
    hand_in(&mut client, "past", "HOLDUNTIL=2020-01-01T00:00:00Z", "X-Deliver-At: Wed, 01 Jan 2020 00:00:00 +0000\r\n");
    eventually("all arrive", Duration::from_secs(20), || peer.taken_ids().len() == 6);
    for receipt in peer.receipts() {
        let after = receipt.at.duration_since(began);
        let held = !matches!(receipt.id.as_str(), "plain" | "past");
        // HOLDUNTIL names whole seconds, and `now` may be at the end of one.
        let fits = if held { after >= Duration::from_millis(1900) } else { after < Duration::from_millis(1900) };
        assert!(fits, "{} left after {after:?}", receipt.id);
    }
}

#[test]
fn a_schedule_survives_a_kill_is_shown_and_can_be_cut_short() {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = start(&peer);
    let mut session = client(&daemon);
    let id = hand_in(&mut session, "later", "HOLDFOR=7200", "X-Tag: reminder\r\n");
    let other = hand_in(&mut session, "released", "", &format!("X-Deliver-At: {}\r\n", in_secs(7200)));
    daemon.kill();
    daemon.start();
    let listed = told(&daemon, &["queue", "list", "--state", "scheduled"]);
    assert!(listed.contains(&format!("{id}  scheduled")) && listed.contains("2 of 2 waiting"), "{listed}");
    let why = told(&daemon, &["why", &id]);
    assert!(why.starts_with(&format!("{id} waits: it is scheduled: its sender wants it sent at 20")), "{why}");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(peer.taken_ids().len(), 0, "not before its time");
    assert_eq!(told(&daemon, &["queue", "retry", &id]), "retry: 1 envelope.\n");
    eventually("it is sent now", Duration::from_secs(20), || peer.taken("later") == 1);
    assert_eq!(told(&daemon, &["queue", "release", &other]), "release: 1 envelope.\n");
    eventually("so is the other", Duration::from_secs(20), || peer.taken("released") == 1);
}

#[test]
fn a_time_too_far_ahead_is_refused_and_a_stranger_is_not_offered_any() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer);
    let mut client = client(&daemon);
    for parameter in ["HOLDFOR=86401", "HOLDUNTIL=2099-01-01T00:00:00Z", "HOLDFOR=x", "HOLDFOR=1 HOLDFOR=1"] {
        client.command(&format!("MAIL FROM:<a@example.com> {parameter}")).unwrap().expect_code(501);
    }
    let sample = Sample::with_body("far", b"body\r\n");
    let message = [b"X-Deliver-At: 2099-01-01T00:00:00Z\r\n", &sample.bytes[..]].concat();
    let reply = client.deliver(&sample.from(), &sample.to(), &message).unwrap();
    reply.expect_code(550);
    assert!(reply.text().contains("86400 seconds ahead are allowed at most"), "{:?}", reply.lines);
}
