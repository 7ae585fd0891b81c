//! What arrives is what was sent, octet for octet, below the fields that the relay adds; and what must be added or removed
//! at submission is.

use std::time::Duration;

use crate::harness::{Behaviour, Client, PASSWORD, Peer, Receipt, Sample, Setup, USER, eventually, field, own_part};

const DELIVERY_LIMIT: Duration = Duration::from_secs(20);

/// Bodies that relays have spoiled before.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("one-line", b"Hello.\r\n".to_vec()),
        ("dots", b".\r\n..\r\n.a\r\n. \r\nx.\r\n.\r\n".to_vec()),
        ("blank-at-end", b"text\r\n\r\n\r\n\r\n".to_vec()),
        ("whitespace-at-end", b"text\r\n \t\r\n  \r\n".to_vec()),
        ("only-blank", b"\r\n\r\n".to_vec()),
        ("trailing-spaces", b"a  \r\nb\t\r\n".to_vec()),
        ("eight-bit", "Grüße, 世界\r\n".as_bytes().to_vec()),
        ("latin-1", b"caf\xe9\r\n".to_vec()),
        ("line-of-998", [vec![b'x'; 998], b"\r\n".to_vec()].concat()),
        ("smuggler", b"text\r\n..\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n".to_vec()),
        ("long", b"0123456789 lorem ipsum\r\n".repeat(20_000)),
    ]
}

#[test]
fn octet_for_octet() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).start();
    let mut client = Client::connect(daemon.submission).expect("a session");
    client.hello().expect("EHLO");
    client.log_in(USER, PASSWORD).expect("AUTH");
    let samples: Vec<Sample> = bodies().iter().map(|(name, body)| Sample::with_body(name, body)).collect();
    for sample in &samples {
        let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
        assert_eq!(reply.code, 250, "{}: {:?}", sample.id, reply.lines);
    }
    eventually("all arrive", DELIVERY_LIMIT, || samples.iter().all(|sample| peer.taken(&sample.id) > 0));
    for sample in &samples {
        let receipt = receipt_of(&peer, &sample.id);
        let (arrived, sent) = (own_part(&receipt.bytes), sample.bytes.as_slice());
        assert!(arrived == sent, "{}: {:?}", sample.id, String::from_utf8_lossy(&arrived[..arrived.len().min(2000)]));
        let added = &receipt.bytes[..receipt.bytes.len() - arrived.len()];
        let added = String::from_utf8_lossy(added);
        assert!(added.contains("Received: ") && added.contains("ESMTPA"), "{}: {added}", sample.id);
    }
    assert_eq!(peer.violations(), Vec::<String>::new());
}

#[test]
fn a_submission_gets_the_fields_it_lacks_and_loses_those_that_must_not_leave() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).start();
    let mut client = Client::connect(daemon.submission).expect("a session");
    client.hello().expect("EHLO");
    client.log_in(USER, PASSWORD).expect("AUTH");
    let message =
        b"Return-Path: <old@example.com>\r\nFrom: shop@example.com\r\nTo: a@dest.example\r\nX-Test-Id: bare\r\n\
        Bcc: secret@dest.example,\r\n other@dest.example\r\nSubject: bare\r\n\r\nbody\r\n";
    let reply = client.deliver("shop@example.com", "a@dest.example", message).expect("a reply");
    assert_eq!(reply.code, 250, "{:?}", reply.lines);
    eventually("it arrives", DELIVERY_LIMIT, || peer.taken("bare") == 1);
    let receipt = receipt_of(&peer, "bare");
    let text = String::from_utf8_lossy(&receipt.bytes);
    assert!(field(&receipt.bytes, "Date").is_some(), "{text}");
    assert!(field(&receipt.bytes, "Message-ID").is_some_and(|id| id.ends_with("@relay.example.com>")), "{text}");
    assert!(!text.contains("secret@") && !text.contains("other@") && !text.contains("Return-Path"), "{text}");
}

#[test]
fn a_line_of_5000_octets_arrives_in_lines_that_a_peer_can_take() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).start();
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    let line = "0123456789".repeat(500);
    let sample = Sample::with_body("wide", format!("{line}\r\n").as_bytes());
    let reply = client.deliver(&sample.from(), &sample.to(), &sample.bytes).expect("a reply");
    assert_eq!(reply.code, 250, "{:?}", reply.lines);
    eventually("it arrives", DELIVERY_LIMIT, || peer.taken("wide") == 1);
    let receipt = receipt_of(&peer, "wide");
    let text = String::from_utf8_lossy(&receipt.bytes);
    assert_eq!(field(&receipt.bytes, "Content-Transfer-Encoding").as_deref(), Some("quoted-printable"), "{text}");
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    assert_eq!(body.replace("=\r\n", ""), format!("{line}\r\n"));
    assert_eq!(peer.violations(), Vec::<String>::new());
}

fn receipt_of(peer: &Peer, id: &str) -> Receipt {
    peer.receipts().into_iter().find(|receipt| receipt.id == id).expect("a receipt")
}
