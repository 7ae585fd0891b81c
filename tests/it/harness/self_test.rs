//! The harness proved on itself: its client against its peer, so that a scenario that passes means something.

use super::peer::Answer;
use super::{Behaviour, Client, Ledger, Peer, Sample, SmallDisk, Split, data_dir};

fn session(peer: &Peer) -> Client {
    let mut client = Client::connect(peer.address()).expect("a session");
    client.hello().expect("EHLO");
    client
}

#[test]
fn what_the_client_sends_the_peer_records() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let ledger = Ledger::default();
    let mut client = session(&peer);
    for number in 0..20 {
        let sample = Sample::new(&format!("s{number}"), number * 97, number as u64);
        assert_eq!(client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply").code, 250);
        ledger.acknowledge(&sample);
        assert_eq!(peer.receipts()[number].bytes, sample.bytes);
    }
    assert!(ledger.missing(&peer).is_empty() && ledger.altered(&peer).is_empty() && peer.violations().is_empty());
}

#[test]
fn a_lost_an_altered_and_a_doubled_message_are_seen() {
    let peer = Peer::start(Behaviour::Friendly);
    let ledger = Ledger::default();
    let [lost, altered, doubled] = ["lost", "altered", "doubled"].map(|id| Sample::new(id, 500, 1));
    for sample in [&lost, &altered, &doubled] {
        ledger.acknowledge(sample);
    }
    let mut client = session(&peer);
    let other = Sample::new("altered", 500, 2);
    for sample in [&other, &doubled, &doubled] {
        client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
    }
    client.command("QUIT").expect("a reply");
    assert_eq!(ledger.missing(&peer), ["lost"]);
    assert_eq!(ledger.altered(&peer), ["altered"]);
    assert_eq!(peer.doubled_beyond_contract(), ["doubled"]);
}

#[test]
fn a_second_receipt_is_excused_only_after_a_connection_that_vanished() {
    let peer = Peer::start(Behaviour::Friendly);
    let [early, last] = ["early", "last"].map(|id| Sample::new(id, 500, 1));
    let mut client = session(&peer);
    for sample in [&early, &last] {
        client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
    }
    drop(client);
    super::eventually("the peer sees the end", std::time::Duration::from_secs(5), || peer.open_connections() == 0);
    let mut client = session(&peer);
    for sample in [&early, &last] {
        client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
    }
    assert_eq!(peer.doubled_beyond_contract(), ["early"]);
}

#[test]
fn bare_line_ends_and_long_lines_are_violations() {
    for (bytes, broken) in [
        (&b"a: b\r\n\r\nx\r\n.\r\n"[..], false),
        (b"a: b\r\n\r\nx\n.\r\ny\r\n.\r\n", true),
        (b"a: b\r\n\r\nx\ry\r\n.\r\n", true),
        (b"a: b\r\n\r\nx\0y\r\n.\r\n", true),
        (&[b"a: b\r\n\r\n", &[b'x'; 1001][..], b"\r\n.\r\n"].concat(), true),
    ] {
        let peer = Peer::start(Behaviour::Friendly);
        let mut client = session(&peer);
        for command in ["MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA"] {
            client.command(command).expect("a reply");
        }
        client.write(bytes, Split::EachByte).expect("written");
        assert_eq!(client.reply().expect("a reply").code, 250);
        assert_eq!(!peer.violations().is_empty(), broken, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn the_rough_peer_errs_at_every_stage_and_lets_most_through() {
    let peer = Peer::start(Behaviour::Rough(1));
    let sample = Sample::new("rough", 300, 1);
    let mut broken = 0;
    let mut codes = std::collections::BTreeSet::new();
    for _ in 0..600 {
        let attempt = || -> std::io::Result<u16> {
            let mut client = Client::connect(peer.address())?;
            client.hello()?;
            Ok(client.deliver(&sample.from(), &sample.to(), &sample.bytes)?.code)
        };
        match attempt() {
            Ok(code) => drop(codes.insert(code)),
            Err(_) => broken += 1,
        }
    }
    assert!(broken > 20, "{broken} broken");
    for code in [250, 450, 451, 550, 554] {
        assert!(codes.contains(&code), "{code} never came: {codes:?}");
    }
    let answers: Vec<Answer> = peer.receipts().iter().map(|receipt| receipt.answer).collect();
    assert!(answers.contains(&Answer::Lost) && answers.contains(&Answer::Refused(451)), "{answers:?}");
    assert!(peer.taken("rough") > 300);
}

#[test]
fn a_flip_changes_one_bit_of_one_file() {
    let [golden, copy] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    std::fs::create_dir(golden.path().join("deep")).expect("a directory");
    for name in ["a", "deep/b"] {
        std::fs::write(golden.path().join(name), [7; 1000]).expect("a file");
    }
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        data_dir::restore(golden.path(), copy.path());
        data_dir::flip(copy.path(), &mut random);
        let flipped: u32 = data_dir::files(copy.path())
            .iter()
            .flat_map(|file| std::fs::read(file).expect("a file"))
            .map(|byte| (byte ^ 7).count_ones())
            .sum();
        assert_eq!(flipped, 1);
    }
}

#[test]
fn a_small_disk_is_really_full_and_really_has_room_again() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let write = |name: &str| {
        let [command, namespace, end] = disk.launcher();
        let mut command = std::process::Command::new(command);
        command.args([&namespace, &end, "dd", "if=/dev/zero", "bs=1000", "count=1"]);
        command
            .arg(format!("of={}", disk.inside().with_file_name(name).display()))
            .output()
            .expect("dd")
            .status
            .success()
    };
    assert!(write("before"));
    disk.fill();
    assert!(!disk.inside().with_file_name("before").exists(), "it is not visible from here");
    assert!(!write("full"), "not one more file of 1,000 bytes");
    disk.make_room();
    assert!(write("after"));
}
