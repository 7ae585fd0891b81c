//! One flipped bit anywhere in the data directory: the daemon starts, and at most one message is quarantined or repeated.
//!
//! `POSTRIDER_FLIPS=1000 cargo test --test it flipped` is the long form.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Ledger, Peer, Sample, Setup, count, data_dir, eventually, seed};

const FLIPS_SHORT: u32 = 20;
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn wherever_it_lies() {
    let seed = seed("flips");
    let mut random = fastrand::Rng::with_seed(seed);
    let peer = Peer::start(Behaviour::Choosy);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let copies = tempfile::tempdir().expect("a directory for the copy");
    let golden = copies.path().join("golden");
    let (delivered, waiting) = prepare(&mut daemon, &peer, &golden);

    for number in 0..count("POSTRIDER_FLIPS", FLIPS_SHORT) {
        data_dir::restore(&golden, &daemon.data_dir);
        let place = data_dir::flip(&daemon.data_dir, &mut random);
        check(&mut daemon, &peer, &delivered, &waiting, &format!("flip {number}, {place}, seed {seed}"));
    }
}

/// Leaves a data directory behind that holds delivered, deferred and untried messages, as a kill leaves it. The ids of
/// those delivered, and of those that wait.
fn prepare(daemon: &mut Daemon, peer: &Peer, golden: &Path) -> (HashSet<String>, HashSet<String>) {
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    let mut send = |id: String, size: usize| {
        let sample = Sample::new(&id, size, 5);
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        ledger.acknowledge(&sample);
        id
    };
    let delivered: HashSet<String> = (0..10).map(|n| send(format!("done{n}"), 2000)).collect();
    let mut waiting: HashSet<String> = (0..10).map(|n| send(format!("later{n}"), 2000)).collect();
    eventually("the first ones arrive", LIMIT, || delivered.is_subset(&peer.taken_ids()));
    peer.become_(Behaviour::Deaf);
    waiting.extend((0..10).map(|n| send(format!("untried{n}"), if n == 0 { 300_000 } else { 2000 })));
    daemon.kill();
    data_dir::restore(&daemon.data_dir, golden);
    (delivered, waiting)
}

/// Starts on the damaged directory; counts what is missing and what came back.
fn check(daemon: &mut Daemon, peer: &Peer, delivered: &HashSet<String>, waiting: &HashSet<String>, what: &str) {
    peer.become_(Behaviour::Friendly);
    let before = peer.receipts().len();
    daemon.spawn();
    if let Err(trouble) = daemon.wait_until_ready(LIMIT) {
        panic!("{what}: {trouble}\n{}", daemon.log());
    }
    daemon.retry_all();
    let arrived = || peer.receipts().into_iter().skip(before).map(|receipt| receipt.id).collect::<Vec<_>>();
    eventually(&format!("{what}: all but one arrive"), LIMIT, || {
        let arrived: HashSet<String> = arrived().into_iter().collect();
        waiting.difference(&arrived).count() <= 1
    });
    // An orderly end, so that nothing is in flight when we count.
    assert!(daemon.terminate(Duration::from_secs(12)).is_some(), "{what}: no end within 12 s");
    let arrived = arrived();
    let missing = waiting.iter().filter(|id| !arrived.contains(id)).count();
    let back = delivered.iter().filter(|id| arrived.contains(id)).count();
    let mut seen = HashSet::new();
    let twice = arrived.iter().filter(|id| waiting.contains(*id) && !seen.insert((*id).clone())).count();
    assert!(missing + back + twice <= 1, "{what}: {missing} missing, {back} came back, {twice} came twice");
}
