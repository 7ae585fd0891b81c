//! `kill -9` at random moments, a fifth of them during start-up, under eight clients, with a peer that errs and drops
//! connections: every message that was answered 250 arrives or is answered 5xx, none comes twice but those whose answer
//! was lost on the way, and what the queue has no more has its end in the log.
//!
//! `POSTRIDER_CRASH_CYCLES=100 cargo test --test it kill_nine` is the long form.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Client, Daemon, Ledger, PASSWORD, Peer, Sample, Setup, USER, count, seed};

const CLIENTS: u64 = 8;
const CYCLES_SHORT: u32 = 6;
const SETTLE_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn over_many_cycles_under_load() {
    let seed = seed("kill_nine");
    let cycles = count("POSTRIDER_CRASH_CYCLES", CYCLES_SHORT);
    let mut random = fastrand::Rng::with_seed(seed);
    let peer = Peer::start(Behaviour::Rough(seed));
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let ledger = Arc::new(Ledger::default());
    let stop = Arc::new(AtomicBool::new(false));
    let numbers = Arc::new(AtomicU64::new(0));
    let ids = Arc::new(Mutex::new(Vec::new()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (ledger, stop, numbers) = (Arc::clone(&ledger), Arc::clone(&stop), Arc::clone(&numbers));
            let ids = Arc::clone(&ids);
            let address = if client % 2 == 0 { daemon.smtp } else { daemon.submission };
            let with_password = client % 2 == 1;
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = session(address, with_password, &ledger, &ids, &stop, &numbers, seed);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();

    for _ in 0..cycles {
        if random.u8(0..5) == 0 {
            daemon.kill();
            daemon.spawn();
            thread::sleep(Duration::from_millis(random.u64(0..200)));
            daemon.kill();
            daemon.start();
        }
        thread::sleep(Duration::from_millis(random.u64(20..1500)));
        daemon.kill();
        daemon.start();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client");
    }
    peer.become_(Behaviour::Friendly);
    settle(&daemon, &ledger, &peer);
    let ids = std::mem::take(&mut *ids.lock().expect("the ids"));
    assert_eq!(ids.len(), ledger.len());
    assert_eq!(ended_in_silence(&daemon, &ids), Vec::<&String>::new());

    let receipts = peer.receipts().len();
    println!("{cycles} kills, {} messages answered 250, {receipts} receipts", ledger.len());
    assert!(ledger.len() > cycles as usize, "the clients got through");
    assert_eq!(ledger.altered(&peer), Vec::<String>::new());
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
    assert_eq!(peer.violations(), Vec::<String>::new());
}

/// One session: messages until the connection breaks. Only what was answered 250 is entered in the ledger.
fn session(
    address: std::net::SocketAddr,
    with_password: bool,
    ledger: &Ledger,
    ids: &Mutex<Vec<String>>,
    stop: &AtomicBool,
    numbers: &AtomicU64,
    seed: u64,
) -> std::io::Result<()> {
    let mut client = Client::connect(address)?;
    client.hello()?;
    if with_password {
        client.log_in(USER, PASSWORD)?;
    }
    while !stop.load(Ordering::Relaxed) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        // Some are too big to lie in the log beside their envelopes.
        let size = if number.is_multiple_of(50) { 300_000 } else { (number as usize * 37) % 20_000 };
        let sample = Sample::new(&format!("crash{number}"), size, seed ^ number);
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes)?;
        if reply.code == 250 {
            ledger.acknowledge(&sample);
            ids.lock().expect("the ids").extend(reply.text().rsplit(' ').next().map(str::to_owned));
        }
    }
    client.command("QUIT").map(drop)
}

/// Envelopes that the queue has no more, and of whose end the log says nothing.
fn ended_in_silence<'a>(daemon: &Daemon, ids: &'a [String]) -> Vec<&'a String> {
    // The queue first: what ends between the two is in the log.
    let queued = daemon.run(&["queue", "list", "--json", "--limit", "1000000"]);
    assert!(queued.status.success(), "{}", String::from_utf8_lossy(&queued.stderr));
    let queued = String::from_utf8_lossy(&queued.stdout).into_owned();
    let log = daemon.log_now();
    let log = String::from_utf8_lossy(&log);
    let ended: HashSet<&str> =
        log.lines().filter_map(|line| line.split_once("removed queue_id=")).map(|(_, id)| id).collect();
    assert!(!ended.is_empty(), "the log tells of ends");
    ids.iter().filter(|id| !ended.contains(id.as_str()) && !queued.contains(id.as_str())).collect()
}

/// Makes all that waits due, again and again, until all is accounted for.
fn settle(daemon: &Daemon, ledger: &Ledger, peer: &Peer) {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        daemon.retry_all();
        for _ in 0..20 {
            if ledger.missing(peer).is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        if Instant::now() > deadline {
            let missing = ledger.missing(peer);
            let queue = String::from_utf8_lossy(&daemon.run(&["queue", "list", "--limit", "20"]).stdout).into_owned();
            let id = queue.lines().nth(1).and_then(|line| line.split_whitespace().next()).unwrap_or("none").to_owned();
            let why = String::from_utf8_lossy(&daemon.run(&["why", &id]).stdout).into_owned();
            let some: Vec<_> = missing.iter().take(20).collect();
            panic!("{} of {} missing: {some:?}; the queue:\n{queue}\nwhy {id}:\n{why}", missing.len(), ledger.len());
        }
    }
}
