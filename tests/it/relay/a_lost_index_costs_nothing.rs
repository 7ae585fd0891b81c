//! The index on disk is only a help: deleted, truncated or filled with nonsense, nothing is lost and nothing comes back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Ledger, Peer, Sample, Setup, data_dir, eventually};

const LIMIT: Duration = Duration::from_secs(30);

fn check(stop: impl Fn(&mut Daemon), damage: impl Fn(&Path)) {
    let peer = Peer::start(Behaviour::Choosy);
    let mut daemon = Setup::relaying_to(peer.address()).start();
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    for id in (0..20).flat_map(|n| [format!("done{n}"), format!("later{n}")]) {
        let sample = Sample::new(&id, 2000, 9);
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        ledger.acknowledge(&sample);
    }
    eventually("half of them arrive", LIMIT, || peer.receipts().len() == 20);
    eventually("the index is written", LIMIT, || data_dir::index(&daemon.data_dir).is_some());
    stop(&mut daemon);

    damage(&data_dir::index(&daemon.data_dir).expect("an index"));
    peer.become_(Behaviour::Friendly);
    daemon.start();
    daemon.retry_all();
    eventually("the others arrive", LIMIT, || ledger.missing(&peer).is_empty());
    assert!(daemon.terminate(Duration::from_secs(12)).is_some());
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
    assert_eq!(ledger.altered(&peer), Vec::<String>::new());
}

fn by_signal(daemon: &mut Daemon) {
    assert!(daemon.terminate(Duration::from_secs(12)).is_some());
}

/// Every file of the index, cut to a share of its length.
fn truncate(index: &Path, part: u64) {
    for file in data_dir::files(index) {
        let length = fs::metadata(&file).expect("a file").len();
        fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|file| file.set_len(length / part))
            .expect("a shorter file");
    }
}

#[test]
fn deleted_after_a_clean_stop() {
    check(by_signal, |index| fs::remove_dir_all(index).expect("the index removed"));
}

#[test]
fn deleted_after_a_kill() {
    check(Daemon::kill, |index| fs::remove_dir_all(index).expect("the index removed"));
}

#[test]
fn cut_in_half_after_a_clean_stop() {
    check(by_signal, |index| truncate(index, 2));
}

#[test]
fn cut_to_nothing_after_a_clean_stop() {
    check(by_signal, |index| truncate(index, u64::MAX));
}

#[test]
fn cut_in_half_after_a_kill() {
    check(Daemon::kill, |index| truncate(index, 2));
}

#[test]
fn overwritten_after_a_clean_stop() {
    check(by_signal, |index| {
        for file in data_dir::files(index) {
            fs::write(&file, b"nonsense".repeat(5000)).expect("nonsense");
        }
    });
}

#[test]
fn replaced_by_a_file() {
    check(by_signal, |index| {
        fs::remove_dir_all(index).expect("the index removed");
        fs::write(index, b"not a directory").expect("a file in its place");
    });
}
