//! 500 recipient domains with one MX that takes five connections and 200 messages a second, over ten kills. They share the
//! limits of that MX, however many they are, and the peer counts.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Client, Daemon, Ledger, Nameserver, Peer, Sample, Setup, count};

const DOMAINS: u64 = 500;
const CONNECTIONS: usize = 5;
const PER_SECOND: usize = 200;
const LIMIT: Duration = Duration::from_secs(180);

const CAPPED: Behaviour = Behaviour::Capped { connections: CONNECTIONS, per_second: PER_SECOND };

/// The zone: each domain with the same MX.
fn lines() -> String {
    let domains: String = (0..DOMAINS).map(|n| format!("d{n}.bulk.test. MX 10 mx.bulk.test.\n")).collect();
    format!("mx.bulk.test. A 127.0.0.2\n{domains}")
}

/// The daemon, by MX, with these limits of the site.
fn daemon(peer: &Peer, zone: &Nameserver, site: &str) -> Daemon {
    let way_out = format!(
        "{site}[delivery]\nport = {}\nallow_private_peers = true\n[dns]\nnameservers = [\"{}\"]\n",
        peer.address().port(),
        zone.address(),
    );
    Setup::relaying_to(peer.address()).with_way_out(&way_out).start()
}

fn hand_in(daemon: &Daemon, ledger: &Ledger, messages: u64) {
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    for number in 0..messages {
        let sample = Sample::new(&format!("bulk{number}"), 500, number);
        let to = format!("someone@d{}.bulk.test", number % DOMAINS);
        assert_eq!(client.deliver(&sample.from(), &to, &sample.bytes).unwrap().code, 250);
        ledger.acknowledge(&sample);
    }
}

fn wait_for_all(ledger: &Ledger, peer: &Peer, daemon: &Daemon) {
    let began = Instant::now();
    while !ledger.missing(peer).is_empty() {
        assert!(began.elapsed() < LIMIT, "{} missing\n{}", ledger.missing(peer).len(), daemon.log());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn configured_limits_are_never_passed_over_ten_kills() {
    let kills = count("POSTRIDER_MX_KILLS", 4);
    let peer = Peer::start(CAPPED);
    let zone = Nameserver::serve(&lines());
    let site = format!(
        "[[site]]\nname = \"bulk\"\nmx = [\"mx.bulk.test\"]\nconnection_limit = {CONNECTIONS}\n\
         max_message_rate = [\"{PER_SECOND}/1s\"]\n"
    );
    let mut daemon = daemon(&peer, &zone, &site);
    let ledger = Ledger::default();
    hand_in(&daemon, &ledger, 1000 + u64::from(kills) * 200);
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(600));
        daemon.kill();
        daemon.start();
    }
    wait_for_all(&ledger, &peer, &daemon);
    let (most_open, most_in_a_second) = peer.most();
    println!("most at once {most_open} of {CONNECTIONS}, most in a second {most_in_a_second} of {PER_SECOND}");
    assert_eq!(peer.capped(), Vec::new(), "{}", daemon.log());
    assert!(most_open <= CONNECTIONS && most_in_a_second <= PER_SECOND);
    assert!(most_in_a_second * 10 >= PER_SECOND * 9, "{most_in_a_second} in the best second");
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
}
