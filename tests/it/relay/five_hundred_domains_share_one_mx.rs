//! 500 recipient domains with one MX that takes five connections and 200 messages a second. They share the limits of that MX,
//! however many they are, and the peer counts: with both in the config, over ten kills; and with nothing in the config, where
//! the peer's refusals are all that the daemon has to learn from.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Clients that hand in at once, so that the peer's limit and not one client's round trips bounds the rate.
const CLIENTS: u64 = 4;
/// Messages of the short form.
const MESSAGES: u64 = 3000;
/// Refusals while the limits are found, and a day after that.
const REFUSALS_TO_LEARN: usize = 60;
const REFUSALS_A_DAY: usize = 30;
const TO_LEARN: Duration = Duration::from_secs(120);
/// The long form keeps so many waiting.
const BACKLOG: u64 = 3000;

/// Messages of all clients, and the word to stop.
#[derive(Default)]
struct Feed {
    next: AtomicU64,
    is_over: AtomicBool,
}

impl Feed {
    /// Hands in `messages`, the next numbers of all clients. `backlog`: no more than these beyond what the peer took.
    fn run(&self, daemon: &Daemon, peer: &Peer, ledger: &Ledger, messages: u64, backlog: Option<u64>) {
        let mut client = Client::connect(daemon.smtp).unwrap();
        client.hello().unwrap();
        while !self.is_over.load(Ordering::SeqCst) {
            if backlog.is_some_and(|backlog| self.next.load(Ordering::SeqCst) > peer.answered() as u64 + backlog) {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= messages {
                return;
            }
            let sample = Sample::new(&format!("learn{number}"), 500, number);
            let to = format!("someone@d{}.bulk.test", number % DOMAINS);
            assert_eq!(client.deliver(&sample.from(), &to, &sample.bytes).unwrap().code, 250);
            ledger.acknowledge(&sample);
        }
    }
}

/// Waits for the rest. What was deferred waits as long as the rules say: it is called for whenever nothing else comes.
fn wait_and_retry(ledger: &Ledger, peer: &Peer, daemon: &Daemon) {
    let (mut seen, mut since) = (0, Instant::now());
    while !ledger.missing(peer).is_empty() {
        let now = peer.answered();
        if now > seen {
            (seen, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < LIMIT, "{} missing\n{}", ledger.missing(peer).len(), daemon.log());
        if since.elapsed() > Duration::from_secs(2) {
            daemon.retry_all();
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Refusals of connections and of transactions, from then on.
fn refusals(peer: &Peer, from: Instant) -> (usize, usize) {
    let capped = peer.capped();
    let of = |what| capped.iter().filter(|(at, kind)| *at >= from && *kind == what).count();
    (of("connection"), of("transaction"))
}

/// The long form, by `POSTRIDER_MX_LEARN_MINUTES`: two minutes to learn in, then so many in which refusals are counted.
#[test]
fn unknown_limits_are_learned_from_the_refusals() {
    let minutes = u64::from(count("POSTRIDER_MX_LEARN_MINUTES", 0));
    let peer = Peer::start(CAPPED);
    let zone = Nameserver::serve(&lines());
    let daemon = daemon(&peer, &zone, "");
    let (ledger, feed) = (Ledger::default(), Feed::default());
    let began = Instant::now();
    let learned = began + TO_LEARN;
    let long = Duration::from_secs(minutes * 60);
    let (messages, backlog) = if minutes > 0 { (u64::MAX, Some(BACKLOG)) } else { (MESSAGES, None) };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| feed.run(&daemon, &peer, &ledger, messages, backlog));
        }
        while minutes > 0 && began.elapsed() < TO_LEARN + long {
            thread::sleep(Duration::from_secs(1));
        }
        feed.is_over.store(minutes > 0, Ordering::SeqCst);
    });
    let (fed, taken) = (Instant::now(), peer.answered());
    let (connections, transactions) = refusals(&peer, began);
    println!("{taken} taken in {:.1} s; refused: {connections} connections, {transactions} transactions", {
        fed.duration_since(began).as_secs_f64()
    });
    if minutes > 0 {
        let (connections, transactions) = refusals(&peer, learned);
        println!(
            "of these after two minutes, in {minutes} min: {connections} connections, {transactions} transactions"
        );
        assert!(connections + transactions <= REFUSALS_A_DAY);
        let possible = PER_SECOND as u64 * (minutes * 60 + TO_LEARN.as_secs());
        println!("{taken} of {possible} that it would have taken");
        // A learned pace catches up on nothing, so that at 200 a second each late wake-up of a busy machine is lost.
        assert!(taken as u64 * 2 >= possible, "{taken} of {possible}");
    }
    wait_and_retry(&ledger, &peer, &daemon);
    let refused = refusals(&peer, began);
    let (most_open, most_in_a_second) = peer.most();
    println!(
        "all {} there after {:.1} s; refused: {} connections, {} transactions; most at once {most_open}, in a second \
         {most_in_a_second}",
        ledger.len(),
        began.elapsed().as_secs_f64(),
        refused.0,
        refused.1,
    );
    // Otherwise nothing was there to be learned.
    assert!(refused.1 > 0, "{most_in_a_second} in the best second");
    assert!(
        refused.0 + refused.1 <= REFUSALS_TO_LEARN + if minutes > 0 { REFUSALS_A_DAY } else { 0 },
        "{}",
        daemon.log()
    );
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
    assert_eq!(ledger.altered(&peer), Vec::<String>::new());
}
