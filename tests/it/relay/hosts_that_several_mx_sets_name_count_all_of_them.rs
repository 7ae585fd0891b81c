//! Three groups of domains whose MX sets differ and have one host in common. The host takes five connections and fifty
//! messages a second, counts whatever comes, and must never have to refuse any of it.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Client, Ledger, Nameserver, Peer, Sample, Setup};

const CONNECTIONS: usize = 5;
const PER_SECOND: usize = 50;
const LIMIT: Duration = Duration::from_secs(90);
const DOMAINS: u64 = 30;
const MESSAGES: u64 = 400;

/// The shared host, alone and before one or another that nobody reaches as long as it answers.
const SETS: [&[&str]; 3] =
    [&["10 mx.shared.test."], &["10 mx.shared.test.", "20 b.shared.test."], &["5 mx.shared.test.", "9 c.shared.test."]];

#[test]
fn and_their_limits_are_not_multiplied() {
    let peer = Peer::start(Behaviour::Capped { connections: CONNECTIONS, per_second: PER_SECOND });
    let hosts = "mx.shared.test. A 127.0.0.2\nb.shared.test. A 127.0.0.3\nc.shared.test. A 127.0.0.4\n";
    let domain = |n: u64| {
        let set = SETS[n as usize % SETS.len()].iter();
        set.map(|mx| format!("d{n}.overlap.test. MX {mx}\n")).collect::<String>()
    };
    let zone = Nameserver::serve(&format!("{hosts}{}", (0..DOMAINS).map(domain).collect::<String>()));
    let way_out = format!(
        "[delivery]\nport = {}\nallow_private_peers = true\nconnection_limit = {CONNECTIONS}\n\
         max_message_rate = [\"{PER_SECOND}/1s\"]\n[dns]\nnameservers = [\"{}\"]\n",
        peer.address().port(),
        zone.address(),
    );
    let daemon = Setup::relaying_to(peer.address()).with_way_out(&way_out).start();
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    for number in 0..MESSAGES {
        let sample = Sample::new(&format!("overlap{number}"), 500, number);
        let to = format!("someone@d{}.overlap.test", number % DOMAINS);
        assert_eq!(client.deliver(&sample.from(), &to, &sample.bytes).unwrap().code, 250);
        ledger.acknowledge(&sample);
    }
    let began = Instant::now();
    while !ledger.missing(&peer).is_empty() {
        assert!(began.elapsed() < LIMIT, "{} missing\n{}", ledger.missing(&peer).len(), daemon.log());
        thread::sleep(Duration::from_millis(100));
    }
    let (most_open, most_in_a_second) = peer.most();
    println!("most at once {most_open} of {CONNECTIONS}, most in a second {most_in_a_second} of {PER_SECOND}");
    assert_eq!(peer.capped(), Vec::new(), "{}", daemon.log());
    assert!(most_open <= CONNECTIONS && most_in_a_second <= PER_SECOND, "{most_open}, {most_in_a_second}");
    assert!(most_in_a_second * 10 >= PER_SECOND * 8, "{most_in_a_second} in the best second");
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
}
