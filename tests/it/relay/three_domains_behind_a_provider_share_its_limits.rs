//! Three domains, two MX hosts, one provider rule: the peer sees the rule's connections and no more, whichever domain's mail
//! comes, and the command line shows one site with one line of the config behind each of its limits.

use std::collections::HashMap;
use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Nameserver, Peer, Sample, Setup, eventually};

const MESSAGES: usize = 60;
const CONNECTIONS: usize = 2;
const DELIVERIES: usize = 7;

/// The daemon's own config, with MX look-ups instead of the route.
fn by_mx(daemon: &Daemon, peer: &Peer, nameserver: &Nameserver, rules: &str) {
    let text = std::fs::read_to_string(&daemon.config).unwrap();
    let (before, _) = text.split_once("[[route]]").unwrap();
    let (port, dns) = (peer.address().port(), nameserver.address());
    daemon.overwrite_config(&format!(
        "{before}{rules}\n[delivery]\nport = {port}\nallow_private_peers = true\n[dns]\nnameservers = [\"{dns}\"]\n"
    ));
}

fn said(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn on_the_wire_and_at_a_glance() {
    let peer = Peer::start(Behaviour::Friendly);
    let nameserver = Nameserver::serve(
        "a.test. MX 10 mx1.big.test.
         b.test. MX 10 mx1.big.test.
         b.test. MX 20 backup.elsewhere.test.
         c.test. MX 10 mx2.big.test.
         mx1.big.test. A 127.0.0.2
         mx2.big.test. A 127.0.0.2
         backup.elsewhere.test. A 127.0.0.2",
    );
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let rules = format!(
        "[[site]]\nname = \"big\"\nmx = [\"big.test\"]\nconnection_limit = {CONNECTIONS}\n\
         [[site]]\nname = \"big\"\nsource = \"default\"\nmax_deliveries_per_connection = {DELIVERIES}\n\
         [[recipient_domain]]\nname = \"c.test\"\nmax_message_rate = [\"5/1s\"]\n"
    );
    by_mx(&daemon, &peer, &nameserver, &rules);
    daemon.start();
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    for number in 0..MESSAGES {
        let domain = ["a.test", "b.test", "c.test"][number % 3];
        let sample = Sample::new(&format!("big{number}"), 300, number as u64);
        assert_eq!(client.deliver(&sample.from(), &format!("you@{domain}"), &sample.bytes).unwrap().code, 250);
    }
    let mut most = 0;
    eventually("all arrive", Duration::from_secs(60), || {
        most = most.max(peer.open_connections());
        peer.receipts().len() == MESSAGES
    });
    assert!((1..=CONNECTIONS).contains(&most), "{most} connections at once");
    let mut by_connection: HashMap<u64, usize> = HashMap::new();
    peer.receipts().iter().for_each(|receipt| *by_connection.entry(receipt.connection).or_default() += 1);
    assert!(by_connection.values().all(|count| *count <= DELIVERIES), "{by_connection:?}");
    // The domain's own window, beside its site's limits.
    let mut times: Vec<_> =
        peer.receipts().iter().filter(|receipt| receipt.to == ["you@c.test"]).map(|receipt| receipt.at).collect();
    times.sort();
    assert_eq!(times.len(), MESSAGES / 3);
    for (first, sixth) in times.iter().zip(&times[5..]) {
        assert!(sixth.duration_since(*first) >= Duration::from_millis(990), "six within a second");
    }

    // The peer has the last before the daemon has heard so.
    let mut listing = String::new();
    eventually("the last is counted", Duration::from_secs(10), || {
        listing = said(&daemon, &["traffic", "sites", "--all"]);
        listing.contains("0% of 60")
    });
    let rows: Vec<&str> = listing.lines().skip(1).collect();
    assert!(rows.len() == 1 && rows[0].starts_with("big "), "{listing}");
    let none = said(&daemon, &["traffic", "sites", "--all", "nowhere"]);
    assert!(none.starts_with("No site"), "{none}");
    let line = |key: &str| {
        let text = std::fs::read_to_string(&daemon.config).unwrap();
        let number = text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
        format!("{}:{number}", daemon.config.display())
    };
    for asked in ["big", "c.test"] {
        let explained = said(&daemon, &["traffic", "sites", "--explain", asked]);
        assert!(explained.contains(&line("connection_limit")), "{explained}");
        assert!(explained.contains(&line("max_deliveries")), "{explained}");
        assert_eq!(explained.contains(&line("max_message_rate")), asked == "c.test", "{explained}");
    }
    assert!(said(&daemon, &["traffic", "sites", "--explain", "google"]).contains("providers.toml:"));
    let unknown = daemon.run(&["traffic", "sites", "--explain", "nowhere.test"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", String::from_utf8_lossy(&unknown.stderr));
}
