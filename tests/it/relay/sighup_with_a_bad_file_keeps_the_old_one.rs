//! SIGHUP reloads the config with no connection lost; a bad file keeps the old one and says why.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Behaviour, Client, Daemon, PASSWORD, Peer, Sample, Setup, USER, eventually};

const LIMIT: Duration = Duration::from_secs(20);

fn log_in(daemon: &Daemon, user: &str) -> std::io::Result<Client> {
    let mut client = Client::connect(daemon.submission)?;
    client.hello()?;
    client.log_in(user, PASSWORD)?;
    Ok(client)
}

fn deliver(client: &mut Client, peer: &Peer, id: &str) {
    let sample = Sample::new(id, 500, 3);
    let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
    assert_eq!(reply.code, 250, "{:?}", reply.lines);
    eventually("it arrives", LIMIT, || peer.taken(id) == 1);
}

#[test]
fn and_a_good_one_takes_effect_while_sessions_go_on() {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let mut before = log_in(&daemon, USER).expect("a session");
    deliver(&mut before, &peer, "before");

    let good = fs::read_to_string(&daemon.config).expect("the config");
    daemon.overwrite_config(&good.replacen("hostname", "hostnaem", 1));
    daemon.signal(Signal::HUP);
    eventually("the log names the bad key", LIMIT, || daemon.log().contains("hostnaem"));
    assert!(daemon.is_running());
    deliver(&mut before, &peer, "with-a-bad-file");
    deliver(&mut log_in(&daemon, USER).expect("a new session"), &peer, "new-with-a-bad-file");

    // The same hash under another name: the password is the same.
    let hash = good.lines().find(|line| line.starts_with("password_hash")).expect("a hash");
    let newcomer = format!("[[credential]]\nname = \"newcomer\"\n{hash}\nfrom_domains = [\"example.com\"]\n");
    daemon.overwrite_config(&(good + &newcomer));
    daemon.signal(Signal::HUP);
    eventually("the new credential works", LIMIT, || log_in(&daemon, "newcomer").is_ok());
    deliver(&mut before, &peer, "old-session");

    // A credential that is gone stops at once, in sessions that are open too.
    let without =
        fs::read_to_string(&daemon.config).expect("the config").replacen("name = \"shop\"", "name = \"other\"", 1);
    daemon.overwrite_config(&without);
    daemon.signal(Signal::HUP);
    eventually("the old credential is refused", LIMIT, || log_in(&daemon, USER).is_err());
    assert_eq!(before.command("MAIL FROM:<a@example.com>").expect("a reply").code, 535);
    assert!(daemon.is_running());
}

#[test]
fn and_a_certificate_that_cannot_be_read_keeps_the_old_one() {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = Setup::relaying_to(peer.address()).with_tls().start();
    let tls = daemon.client_tls();
    let certificate = daemon.config.with_file_name("fullchain.pem");
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nnonsense\n").expect("a spoiled certificate");
    let lines_before = daemon.log().len();
    daemon.signal(Signal::HUP);
    eventually("the log says so", LIMIT, || daemon.log().len() > lines_before);
    let mut client = Client::connect_tls(daemon.submissions, tls).expect("the old certificate still serves");
    client.hello().expect("EHLO");
    client.log_in(USER, PASSWORD).expect("AUTH");
    deliver(&mut client, &peer, "after");
    assert!(daemon.is_running());
}
