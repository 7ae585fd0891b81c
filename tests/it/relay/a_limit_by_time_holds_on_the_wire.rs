//! A rate in the config, and a peer that counts: also while the daemon is killed again and again.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Client, Ledger, Peer, Sample, Setup};

const MESSAGES: u64 = 240;
const PER_SECOND: usize = 30;
const PER_FIFTEEN_SECONDS: usize = 240;
const KILLS: u32 = 3;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn no_second_holds_one_message_too_many() {
    let peer = Peer::start(Behaviour::Friendly);
    let keys = format!("max_message_rate = [\"{PER_SECOND}/1s\", \"{PER_FIFTEEN_SECONDS}/15s\"]");
    let mut daemon = Setup::relaying_to(peer.address()).with_route(&keys).start();
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    for number in 0..MESSAGES {
        let sample = Sample::new(&format!("rate{number}"), 500, number);
        assert_eq!(client.deliver(&sample.from(), &sample.to(), &sample.bytes).unwrap().code, 250);
        ledger.acknowledge(&sample);
    }
    for _ in 0..KILLS {
        thread::sleep(Duration::from_millis(700));
        daemon.kill();
        daemon.start();
    }
    let began = Instant::now();
    while !ledger.missing(&peer).is_empty() {
        assert!(began.elapsed() < LIMIT, "{} missing", ledger.missing(&peer).len());
        thread::sleep(Duration::from_millis(100));
    }
    let mut times: Vec<Instant> = peer.receipts().iter().map(|receipt| receipt.at).collect();
    times.sort();
    for (count, seconds) in [(PER_SECOND, 1), (PER_FIFTEEN_SECONDS, 15)] {
        let mut fullest = 0;
        for (place, first) in times.iter().enumerate() {
            let window =
                times[place..].iter().take_while(|at| at.duration_since(*first) < Duration::from_secs(seconds));
            fullest = fullest.max(window.count());
        }
        assert!(fullest <= count, "{fullest} messages in {seconds} s, allowed are {count}");
        assert!(seconds > 1 || fullest * 10 >= count * 9, "{fullest} of {count} used");
    }
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
}
