//! A message that was answered 250 reaches the peer, from every listener and however the client logged in.

use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Ledger, PASSWORD, Peer, Sample, Setup, USER, eventually};

const DELIVERY_LIMIT: Duration = Duration::from_secs(20);

fn check(connect: impl Fn(&Daemon) -> std::io::Result<Client>) {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).with_tls().start();
    let ledger = Ledger::default();
    let mut client = connect(&daemon).expect("a session");
    for number in 0..3 {
        let sample = Sample::new(&format!("m{number}"), 2000, number);
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        assert!(reply.text().starts_with("2.0.0 Ok: queued as "), "{:?}", reply.lines);
        ledger.acknowledge(&sample);
    }
    assert_eq!(client.command("QUIT").expect("a reply").code, 221);

    eventually("all arrive", DELIVERY_LIMIT, || ledger.missing(&peer).is_empty());
    assert_eq!(ledger.altered(&peer), Vec::<String>::new());
    assert_eq!(peer.receipts().len(), 3, "each once");
    assert_eq!(peer.violations(), Vec::<String>::new());
    for receipt in peer.receipts() {
        assert_eq!(receipt.from, format!("{}@example.com", receipt.id));
        assert_eq!(receipt.to, [format!("{}@dest.example", receipt.id)]);
    }
}

#[test]
fn from_a_trusted_network_over_the_smtp_listener() {
    check(|daemon| {
        let mut client = Client::connect(daemon.smtp)?;
        client.hello()?;
        Ok(client)
    });
}

#[test]
fn with_a_password_in_clear_on_loopback() {
    check(|daemon| {
        let mut client = Client::connect(daemon.submission)?;
        assert!(client.hello()?.announces("AUTH"), "samples in the wild call no STARTTLS on loopback");
        client.log_in(USER, PASSWORD)?;
        Ok(client)
    });
}

#[test]
fn with_a_password_under_starttls() {
    check(|daemon| {
        let mut client = Client::connect(daemon.submission)?.start_tls(daemon.client_tls())?;
        client.hello()?;
        client.log_in(USER, PASSWORD)?;
        Ok(client)
    });
}

#[test]
fn with_a_password_under_implicit_tls() {
    check(|daemon| {
        let mut client = Client::connect_tls(daemon.submissions, daemon.client_tls())?;
        client.hello()?;
        client.log_in(USER, PASSWORD)?;
        Ok(client)
    });
}

#[test]
fn a_wrong_password_is_refused_and_the_session_goes_on() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).start();
    let mut client = Client::connect(daemon.submission).expect("a session");
    client.hello().expect("EHLO");
    assert!(client.log_in(USER, "wrong").expect_err("a refusal").to_string().contains("535"));
    let reply = client.command("MAIL FROM:<m@example.com>").expect("a reply");
    assert_eq!(reply.code, 530, "{:?}", reply.lines);
    client.log_in(USER, PASSWORD).expect("the right one, on the same connection");
}
