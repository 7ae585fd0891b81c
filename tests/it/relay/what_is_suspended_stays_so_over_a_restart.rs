//! An operator stops a site and drains a source; `kill -9` and a new start change nothing of it, `why` and the listings name
//! who did it, and mail goes on when it is resumed.

use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Peer, Sample, Setup, eventually};

const LIMIT: Duration = Duration::from_secs(30);

fn hand_in(daemon: &Daemon, id: &str) {
    let sample = Sample::new(id, 300, 1);
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    assert_eq!(client.deliver(&sample.from(), &sample.to(), &sample.bytes).unwrap().code, 250);
}

fn said(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `why` says of the one envelope that waits.
fn why(daemon: &Daemon) -> String {
    let listing = said(daemon, &["queue", "list", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&listing).unwrap();
    said(daemon, &["why", rows[0]["id"].as_str().unwrap()])
}

/// The envelope waits, `why` tells the reason, and the peer saw nothing of it: also after `kill -9`.
fn check(stop: &[&str], reason: &str, row: (&str, &str), resume: &[&str]) {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    hand_in(&daemon, "before");
    eventually("the first arrives", LIMIT, || peer.taken("before") == 1);
    said(&daemon, stop);
    hand_in(&daemon, "stopped");
    for run in ["the first", "the second"] {
        eventually("the reason is known", LIMIT, || why(&daemon).contains(reason));
        assert!(why(&daemon).contains("because: by "), "{run} run: {}", why(&daemon));
        let (listing, want) = row;
        let listed = said(&daemon, &["traffic", listing]);
        assert!(listed.contains(want) && listed.contains("suspended by "), "{run} run: {listed}");
        assert_eq!(peer.taken("stopped"), 0, "{run} run");
        if run == "the first" {
            daemon.kill();
            daemon.start();
        }
    }
    said(&daemon, resume);
    eventually("what waited arrives", LIMIT, || peer.taken("stopped") == 1);
    // And it does not come back.
    daemon.kill();
    daemon.start();
    hand_in(&daemon, "after");
    eventually("a later one arrives", LIMIT, || peer.taken("after") == 1);
    assert_eq!(daemon.run(resume).status.code(), Some(1), "nothing is left to resume");
}

#[test]
fn a_site() {
    let stop = ["traffic", "suspend", "127.0.0.2"];
    check(&stop, "127.0.0.2 is suspended", ("sites", "127.0.0.2"), &["traffic", "resume", "127.0.0.2"]);
}

#[test]
fn a_source_at_a_site_for_a_time() {
    let stop = ["traffic", "suspend", "127.0.0.2", "--source", "default", "--for", "2h"];
    let reason = "127.0.0.2 for the source default is suspended until ";
    check(&stop, reason, ("sites", "127.0.0.2"), &["traffic", "resume", "127.0.0.2", "--source", "default"]);
}

#[test]
fn a_source() {
    let stop = ["traffic", "drain", "default"];
    let resume = ["traffic", "resume", "--source", "default"];
    check(&stop, "the source default is suspended", ("sources", "default"), &resume);
}
