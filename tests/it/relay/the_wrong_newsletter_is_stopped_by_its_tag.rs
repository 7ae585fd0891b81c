//! One campaign among others waits for a peer that is down: held by its tag, moved to another pool by its site, and only
//! that; the rest goes out.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Behaviour, Client, Daemon, Peer, Sample, Setup, eventually};

const EACH: u64 = 20;

fn told(daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.run(words);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn only_the_tagged_envelopes_are_held_and_only_the_sites_are_rerouted() {
    let peer = Peer::keeping_bytes(Behaviour::Closed);
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text = text.replace("trusted_networks", "control_headers = [\"postrider\"]\ntrusted_networks");
    daemon.overwrite_config(&format!("{text}[pool.spare]\nsources = [\"default\"]\n"));
    daemon.start();
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    for number in 0..2 * EACH {
        let tag = if number % 2 == 0 { "spring-sale" } else { "spring" };
        let sample = Sample::with_body(&format!("{tag}-{number}"), b"body\r\n");
        let message = [format!("X-Tag: {tag}\r\n").as_bytes(), &sample.bytes].concat();
        assert_eq!(client.deliver(&sample.from(), &sample.to(), &message).unwrap().code, 250);
    }
    assert_eq!(told(&daemon, &["queue", "hold", "--tag", "spring-sale"]), format!("hold: {EACH} envelopes.\n"));

    // The site's name is what listings of the daemon say; it is known once its hosts are.
    let site = peer.address().ip().to_string();
    let mut listed = String::new();
    eventually("the site is known", Duration::from_secs(20), || {
        listed = told(&daemon, &["queue", "list", "--site", &site, "--json", "--limit", "0"]);
        listed.starts_with('[')
    });
    assert_eq!(serde_json::from_str::<Vec<Value>>(&listed).unwrap().len() as u64, 2 * EACH);
    let unknown = told(&daemon, &["queue", "list", "--site", "elsewhere"]);
    assert!(unknown.contains("no mail waits for a site \"elsewhere\""), "{unknown}");
    let rerouted = told(&daemon, &["queue", "reroute", "--pool", "spare", "--site", &site, "--tag", "spring-sale"]);
    assert_eq!(rerouted, format!("reroute: {EACH} envelopes.\n"));
    let refused = told(&daemon, &["queue", "reroute", "--pool", "nowhere", "--all"]);
    assert!(refused.contains("there is no pool \"nowhere\"; there are: default, spare"), "{refused}");

    peer.become_(Behaviour::Friendly);
    eventually("the rest arrives", Duration::from_secs(30), || {
        // The held ones cannot be retried, and are not.
        let _ = daemon.run(&["queue", "retry", "--tag", "spring"]);
        peer.taken_ids().len() as u64 == EACH
    });
    assert!(peer.taken_ids().iter().all(|id| id.starts_with("spring-") && !id.starts_with("spring-sale")));
    daemon.kill();
    daemon.start();
    let listed = told(&daemon, &["queue", "list", "--json", "--limit", "0"]);
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.len() as u64, EACH);
    for envelope in &listed {
        assert_eq!((&envelope["state"], &envelope["pool"]), (&"held".into(), &"spare".into()));
    }
    assert_eq!(told(&daemon, &["queue", "release", "--tag", "spring-sale"]), format!("release: {EACH} envelopes.\n"));
    eventually("then the campaign, by the other pool", Duration::from_secs(30), || {
        peer.taken_ids().len() as u64 == 2 * EACH
    });
    assert!(peer.receipts().iter().all(|receipt| !String::from_utf8_lossy(&receipt.bytes).contains("X-Tag")));
}
