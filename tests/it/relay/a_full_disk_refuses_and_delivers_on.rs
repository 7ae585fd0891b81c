//! On a disk that is really full, clients are told 452 and keep their messages, deliveries go on, a restart works, and
//! service resumes by itself once there is room.

use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Client, Daemon, Ledger, Peer, Sample, Setup, SmallDisk, eventually};

/// Room for the preallocated segments and for an index; little beyond.
const DISK_MEBIBYTES: u32 = 640;
const MESSAGE_OCTETS: usize = 200_000;
const MESSAGES_MAX: usize = 6000;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn and_resumes_by_itself() {
    let Some(disk) = SmallDisk::mount(DISK_MEBIBYTES) else { return };
    let launcher = disk.launcher();
    let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
    let peer = Peer::start(Behaviour::Deaf);
    let setup =
        Setup::relaying_to(peer.address()).with_postmaster().with_data_dir(&disk.inside()).launched_by(&launcher);
    let mut daemon = setup.start();
    let ledger = Ledger::default();

    for number in 0..20 {
        let sample = Sample::new(&format!("before{number}"), MESSAGE_OCTETS, number);
        assert_eq!(try_send(&daemon, &sample), 250);
        ledger.acknowledge(&sample);
    }
    disk.fill();
    let accepted = send_until_refused(&daemon, &ledger);
    println!("{accepted} messages accepted on the full disk, into room allocated ahead, before the first 452");

    // A restart on the full disk, after a kill: it starts, and nothing is lost.
    daemon.kill();
    daemon.start();
    let late = Sample::new("on-a-full-disk", 100, 1);
    if try_send(&daemon, &late) == 250 {
        ledger.acknowledge(&late);
    }

    // Deliveries go on, and need no room that is not there.
    peer.become_(Behaviour::Friendly);
    daemon.retry_all();
    eventually("all that was accepted arrives", LIMIT, || ledger.missing(&peer).is_empty());
    assert_eq!(ledger.altered(&peer), Vec::<String>::new());

    disk.make_room();
    let start = Instant::now();
    let mut number = 0;
    eventually("service resumes", Duration::from_secs(15), || {
        number += 1;
        try_send(&daemon, &Sample::new(&format!("again{number}"), MESSAGE_OCTETS, 2)) == 250
    });
    println!("service resumed after {:?}", start.elapsed());
    eventually("and delivers", LIMIT, || peer.taken(&format!("again{number}")) == 1);
    // Its mail could not be accepted while the disk was full, and was kept.
    let is_told = || peer.receipts().iter().any(|receipt| receipt.to == ["ops@example.com"]);
    eventually("the postmaster hears of the disk", LIMIT, is_told);
    assert_eq!(peer.doubled_beyond_contract(), Vec::<String>::new());
}

/// Sends until the answer is 452; how many were accepted before.
fn send_until_refused(daemon: &Daemon, ledger: &Ledger) -> usize {
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    for number in 0..MESSAGES_MAX {
        let sample = Sample::new(&format!("full{number}"), MESSAGE_OCTETS, number as u64);
        let reply =
            client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply, not a lost connection");
        if reply.code == 452 {
            return number;
        }
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        ledger.acknowledge(&sample);
    }
    panic!("{MESSAGES_MAX} messages of {MESSAGE_OCTETS} octets on a full disk, and no 452");
}

fn try_send(daemon: &Daemon, sample: &Sample) -> u16 {
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply").code
}
