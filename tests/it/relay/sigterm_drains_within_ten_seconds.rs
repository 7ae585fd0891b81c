//! SIGTERM ends the daemon within 10 s whatever the peers do, and what was past its final dot is not sent again at once.

use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Ledger, Peer, Sample, Setup, eventually};

/// The promise, and a second for a busy machine.
const DRAIN_LIMIT: Duration = Duration::from_secs(11);
const DELIVERY_LIMIT: Duration = Duration::from_secs(20);

fn send(daemon: &Daemon, ledger: &Ledger, ids: &[&str]) {
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    for id in ids {
        let sample = Sample::new(id, 1000, 1);
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        ledger.acknowledge(&sample);
    }
}

#[test]
fn with_a_peer_that_never_greets() {
    let peer = Peer::start(Behaviour::Deaf);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let ledger = Ledger::default();
    send(&daemon, &ledger, &["a", "b", "c"]);
    eventually("a connection", DELIVERY_LIMIT, || peer.open_connections() > 0);
    let (status, _) = daemon.terminate(DRAIN_LIMIT).expect("an end in time");
    assert!(status.success(), "{status}");

    peer.become_(Behaviour::Friendly);
    daemon.start();
    daemon.retry_all();
    eventually("all arrive", DELIVERY_LIMIT, || ledger.missing(&peer).is_empty());
    assert_eq!(peer.receipts().len(), 3, "each once");
}

#[test]
fn with_a_peer_that_never_answers_the_final_dot() {
    let peer = Peer::start(Behaviour::SilentAfterDot);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let ledger = Ledger::default();
    send(&daemon, &ledger, &["past-its-dot"]);
    eventually("the dot", DELIVERY_LIMIT, || peer.receipts().len() == 1);
    let (status, _) = daemon.terminate(DRAIN_LIMIT).expect("an end in time");
    assert!(status.success(), "{status}");

    // It is uncertain now: 15 minutes until it is sent again, so one handed in later overtakes it.
    peer.become_(Behaviour::Friendly);
    daemon.start();
    send(&daemon, &ledger, &["later"]);
    eventually("the later one arrives", DELIVERY_LIMIT, || peer.taken("later") == 1);
    assert_eq!(peer.taken("past-its-dot"), 0);
    daemon.retry_all();
    eventually("an operator's word sends it", DELIVERY_LIMIT, || peer.taken("past-its-dot") == 1);
}

#[test]
fn with_clients_that_hold_their_connections() {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let mut idle = Client::connect(daemon.smtp).expect("a session");
    idle.hello().expect("EHLO");
    let mut busy = Client::connect(daemon.smtp).expect("a session");
    busy.hello().expect("EHLO");
    for command in ["MAIL FROM:<a@example.com>", "RCPT TO:<b@dest.example>", "DATA"] {
        assert!(busy.command(command).expect("a reply").code < 400);
    }
    let (status, _) = daemon.terminate(DRAIN_LIMIT).expect("an end in time");
    assert!(status.success(), "{status}");
    let farewell = idle.reply().expect("a word before the end");
    assert_eq!(farewell.code, 421, "{:?}", farewell.lines);
}
