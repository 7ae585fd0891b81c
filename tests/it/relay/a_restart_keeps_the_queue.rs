//! What waits in the queue waits there after a restart, whether the daemon was asked to stop or was killed.

use std::time::{Duration, SystemTime};

use crate::harness::{Behaviour, Client, Daemon, Ledger, Peer, Sample, Setup, data_dir, eventually};

const MESSAGES: u64 = 40;
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);

fn check(stop: impl Fn(&mut Daemon)) {
    let peer = Peer::start(Behaviour::Deaf);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    for number in 0..MESSAGES {
        // Every fourth is too big to lie in the log beside its envelope.
        let size = if number.is_multiple_of(4) { 300_000 } else { 3000 };
        let sample = Sample::new(&format!("kept{number}"), size, number);
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        ledger.acknowledge(&sample);
    }
    stop(&mut daemon);
    peer.become_(Behaviour::Friendly);
    daemon.start();
    daemon.retry_all();
    eventually("all arrive", DELIVERY_LIMIT, || ledger.missing(&peer).is_empty());
    assert_eq!(ledger.altered(&peer), Vec::<String>::new());
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
    assert_eq!(peer.receipts().len() as u64, MESSAGES, "nothing had reached its dot before");

    // And what was delivered does not come back, once its settle is written: what the peer took a moment before a kill may.
    let is_empty =
        |daemon: &Daemon| !String::from_utf8_lossy(&daemon.run(&["queue", "list"]).stdout).contains("dest.example");
    eventually("all is settled", DELIVERY_LIMIT, || is_empty(&daemon));
    daemon.kill();
    daemon.start();
    let late = Sample::new("late", 100, 7);
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    assert_eq!(client.deliver(&late.from(), &late.to(), &late.bytes).expect("a reply").code, 250);
    eventually("a late one arrives", DELIVERY_LIMIT, || peer.taken("late") == 1);
    assert_eq!(peer.receipts().len() as u64, MESSAGES + 1);
}

#[test]
fn after_sigterm() {
    check(|daemon| {
        let (status, _) = daemon.terminate(Duration::from_secs(12)).expect("an end within 12 s");
        assert!(status.success(), "{status}");
    });
}

#[test]
fn after_kill_nine() {
    check(Daemon::kill);
}

#[test]
fn deferred_again_and_again_between_kills() {
    let peer = Peer::start(Behaviour::Choosy);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    for number in 0..MESSAGES {
        let sample = Sample::new(&format!("later{number}"), 3000, number);
        assert_eq!(client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply").code, 250);
        ledger.acknowledge(&sample);
    }
    for round in 1..5 {
        let deferred = |daemon: &Daemon| {
            let listing = daemon.run(&["queue", "list", "--limit", "0", "--state", "deferred"]);
            String::from_utf8_lossy(&listing.stdout).matches("450 4.2.0 later").count() as u64
        };
        eventually(&format!("all are deferred, round {round}"), DELIVERY_LIMIT, || deferred(&daemon) == MESSAGES);
        let now = SystemTime::now();
        eventually("a checkpoint is written", DELIVERY_LIMIT, || data_dir::last_change(&daemon.data_dir) > now);
        // Twice at once: what the first start moved must be known to the second, which finds an older checkpoint.
        for _ in 0..2 {
            daemon.kill();
            daemon.start();
        }
        assert_eq!(deferred(&daemon), MESSAGES, "each is known with what was last said of it, round {round}");
        daemon.retry_all();
    }
    peer.become_(Behaviour::Friendly);
    eventually("all arrive", DELIVERY_LIMIT * 4, || {
        daemon.retry_all();
        ledger.missing(&peer).is_empty()
    });
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
}
