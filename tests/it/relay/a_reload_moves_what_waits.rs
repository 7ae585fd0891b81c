//! What waits goes by the routes of the newest config, as Postfix resolves each message anew: another next hop, another
//! source, a route that came or went.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Behaviour, Client, Daemon, Peer, Setup, Split, eventually, port};

const WITHIN: Duration = Duration::from_secs(20);

fn send(daemon: &Daemon, from: &str, to: &[&str]) {
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    assert_eq!(client.command(&format!("MAIL FROM:<{from}>")).unwrap().code, 250);
    for to in to {
        assert_eq!(client.command(&format!("RCPT TO:<{to}>")).unwrap().code, 250, "{to}");
    }
    assert_eq!(client.command("DATA").unwrap().code, 354);
    client.write(b"From: a@example.com\r\nSubject: x\r\n\r\nx\r\n.\r\n", Split::Whole).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
}

fn taken(peer: &Peer) -> Vec<String> {
    let mut all: Vec<String> = peer.receipts().iter().flat_map(|receipt| receipt.to.clone()).collect();
    all.sort();
    all
}

/// Puts `after` in the place of `before` in the config, and lets the daemon follow.
fn change(daemon: &Daemon, before: &str, after: &str) {
    let text = fs::read_to_string(&daemon.config).unwrap();
    assert_eq!(text.matches(before).count(), 1, "{before:?} in {text}");
    let seen = daemon.log().matches("the config was reloaded").count();
    daemon.overwrite_config(&text.replace(before, after));
    daemon.signal(Signal::HUP);
    eventually("the config is followed", WITHIN, || daemon.log().matches("the config was reloaded").count() > seen);
}

fn why(daemon: &Daemon, address: &str) -> String {
    let listed: serde_json::Value = serde_json::from_slice(&daemon.run(&["queue", "list", "--json"]).stdout).unwrap();
    let rows = listed.as_array().or(listed["rows"].as_array()).cloned().unwrap_or_default();
    let row =
        rows.iter().find(|row| row.to_string().contains(address)).unwrap_or_else(|| panic!("{address}: {listed}"));
    let id = row["id"].as_str().unwrap().to_owned();
    String::from_utf8(daemon.run(&["why", &id]).stdout).unwrap()
}

fn route(keys: &str, hop: impl std::fmt::Display) -> String {
    format!("[[route]]\n{keys}\nnext_hop = [\"{hop}\"]\n")
}

#[test]
fn to_the_new_smarthost() {
    let (old, new) = (Peer::start(Behaviour::Closed), Peer::start(Behaviour::Friendly));
    let daemon = Setup::relaying_to(old.address()).start();
    send(&daemon, "a@example.com", &["x@dest.example"]);
    eventually("it waits for the old one", WITHIN, || why(&daemon, "dest.example").contains("closed"));
    let (before, after) = (old.address().to_string(), new.address().to_string());
    change(&daemon, &before, &after);
    daemon.retry_all();
    eventually("it arrives at the new one", WITHIN, || taken(&new) == ["x@dest.example"]);
}

#[test]
fn over_the_routes_new_source() {
    let peer = Peer::start(Behaviour::Friendly);
    // The first source is no address of this machine: what goes by it waits.
    let text = format!(
        "[source.a]\naddress = \"192.0.2.1\"\n[source.b]\naddress = \"127.0.0.4\"\n[pool.default]\nsources = [\"a\"]\n{}\
         [delivery]\nallow_private_peers = true\n",
        route("recipient_domain = \"*\"\nsource = \"a\"", peer.address()),
    );
    let daemon = Setup::relaying_to(peer.address()).with_way_out(&text).start();
    send(&daemon, "a@example.com", &["x@dest.example"]);
    eventually("it waits for its source", WITHIN, || why(&daemon, "dest.example").contains("192.0.2.1"));
    // It is due, and waits for its source: nobody needs to order it.
    change(&daemon, "\nsource = \"a\"", "\nsource = \"b\"");
    eventually("it leaves by the other", WITHIN, || taken(&peer) == ["x@dest.example"]);
}

#[test]
fn by_a_route_of_its_sender_that_came_after_it_and_back_when_that_goes() {
    let dead = port::free();
    let peers = [(); 3].map(|()| Peer::start(Behaviour::Friendly));
    let [of_sender, of_one, plain] = &peers;
    let general = route("recipient_domain = \"*\"", format!("127.0.0.1:{dead}"));
    let text = format!("{general}[delivery]\nallow_private_peers = true\n");
    let mut daemon = Setup::relaying_to(plain.address()).with_way_out(&text).start();
    send(&daemon, "a@s.example", &["x@dest.example"]);
    send(&daemon, "a@example.com", &["one@dest.example"]);
    send(&daemon, "b@example.com", &["two@dest.example"]);
    eventually("all wait", WITHIN, || why(&daemon, "two@dest.example").contains("refused"));
    let more = [
        route("recipient_domain = \"*\"\nsender = \"@s.example\"", of_sender.address()),
        route("recipient_domain = \"one@dest.example\"", of_one.address()),
    ];
    change(&daemon, &general, &format!("{general}{}", more.concat()));
    daemon.retry_all();
    eventually("each at its new host", WITHIN, || {
        taken(of_sender) == ["x@dest.example"] && taken(of_one) == ["one@dest.example"]
    });
    assert!(taken(plain).is_empty());
    // Chosen by its sender, and then that route goes while the daemon is down.
    of_sender.become_(Behaviour::Closed);
    send(&daemon, "a@s.example", &["y@dest.example"]);
    eventually("it waits at its host", WITHIN, || why(&daemon, "y@dest.example").contains("closed"));
    daemon.terminate(Duration::from_secs(15)).unwrap();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text = text.replace(&more[0], "").replace(&format!("127.0.0.1:{dead}"), &plain.address().to_string());
    daemon.overwrite_config(&text);
    daemon.start();
    daemon.retry_all();
    eventually("as everybody's", WITHIN, || taken(plain) == ["two@dest.example", "y@dest.example"]);
    // And it comes back while the daemon is down: what waits is its own again.
    plain.become_(Behaviour::Closed);
    send(&daemon, "a@s.example", &["z@dest.example"]);
    eventually("it waits at everybody's host", WITHIN, || why(&daemon, "z@dest.example").contains("closed"));
    daemon.terminate(Duration::from_secs(15)).unwrap();
    of_sender.become_(Behaviour::Friendly);
    daemon.overwrite_config(&(text + &more[0]));
    daemon.start();
    daemon.retry_all();
    eventually("by its sender's route", WITHIN, || taken(of_sender).contains(&"z@dest.example".to_owned()));
}
