//! Tests of the sandbox's parts, each without a daemon: the peer's dialogue, the client against it, what is shown.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::show;
use super::{Caught, Peer, Stage};
use crate::clock::system_time;
use crate::tls::client::{Client as Tls, Proof, Settings};

const PATIENCE: Duration = Duration::from_secs(30);

async fn peer(stage: &Stage) -> (SocketAddr, mpsc::Receiver<Caught>) {
    let peer = Peer::bind(&stage.peer_tls().unwrap()).await.unwrap();
    let address = peer.address().unwrap();
    let (caught_in, caught) = mpsc::channel(8);
    tokio::spawn(peer.run(caught_in));
    (address, caught)
}

/// Says everything at once, ends its side, and reads to the end.
async fn say(address: SocketAddr, lines: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(lines.as_bytes()).await.unwrap();
    let mut said = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    said
}

#[tokio::test]
async fn the_peer_takes_mail_unstuffs_dots_and_refuses_whom_it_is_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::build(directory.path()).unwrap();
    let (address, mut caught) = peer(&stage).await;
    let said = say(
        address,
        "EHLO me\r\nMAIL FROM:<a@b.example> BODY=8BITMIME\r\nRCPT TO:<reject@c.example>\r\nRCPT TO:<defer@c.example>\r\n\
         DATA\r\nRCPT TO:<d@c.example>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\n.. not the end\r\n.\r\nNOPE\r\nQUIT\r\n",
    )
    .await;
    let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "550", "451", "554", "250", "354", "250", "500", "221"]);
    let message = caught.recv().await.unwrap();
    assert_eq!(message.message, b"Subject: x\r\n\r\n.dot\r\n\n.. not the end\r\n");
    assert_eq!(
        (message.sender.as_str(), message.recipients.as_slice()),
        ("a@b.example", &["d@c.example".to_owned()][..])
    );
    assert_eq!(message.tls, None);
    let dialogue = &message.dialogue;
    assert_eq!(dialogue.first().map(String::as_str), Some("S: 220 catcher.sandbox.example ESMTP"));
    assert!(dialogue.contains(&"C: (37 octets of message, and the final dot)".to_owned()), "{dialogue:#?}");
    assert_eq!(dialogue.last().map(String::as_str), Some("S: 250 2.0.0 caught"));
}

#[tokio::test]
async fn the_peer_shows_the_sandbox_s_certificate_and_says_under_which_cipher_mail_came() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::build(directory.path()).unwrap();
    let (address, mut caught) = peer(&stage).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"EHLO me\r\nSTARTTLS\r\n").await.unwrap();
    let mut said = String::new();
    while !said.contains("220 2.0.0") {
        let mut piece = [0; 512];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "{said}");
        said += &String::from_utf8_lossy(&piece[..read]);
    }
    let tls = Tls::new(&Settings { extra_roots: Some(stage.authority.clone()), ..Settings::default() }).unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tls.connector(Proof::Name).connect(name, stream).await.unwrap();
    stream
        .write_all(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<d@c.example>\r\nDATA\r\nA: b\r\n\r\n.\r\nQUIT\r\n")
        .await
        .unwrap();
    let message = tokio::time::timeout(PATIENCE, caught.recv()).await.unwrap().unwrap();
    assert!(message.tls.as_deref().is_some_and(|tls| tls.starts_with("TLSv1.3 with cipher ")), "{:?}", message.tls);
    assert_eq!(message.dialogue.iter().filter(|line| line.as_str() == "C: EHLO me").count(), 2);
}

#[tokio::test]
async fn what_is_shown_cannot_steer_a_terminal() {
    let caught = Caught {
        dialogue: vec!["C: EHLO \u{1b}[2Jme".to_owned()],
        message: b"Subject: \x1b]0;owned\x07\r\n\r\none\r\ntwo\r\nthree\r\nfour\r\n".to_vec(),
        ..Caught::default()
    };
    let signatures = show::signatures(&caught, &[], system_time());
    let text = show::in_full(&caught, &signatures) + &show::in_short(&caught, &signatures);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("no signature") && text.contains("… 1 more lines"), "{text}");
    assert!(!show::all_hold(&signatures, &[]));
}

#[test]
fn a_stage_is_gone_when_it_is_dropped_and_its_keys_were_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::build(directory.path()).unwrap();
    stage.write_config("127.0.0.1:2525".parse().unwrap()).unwrap();
    for entry in std::fs::read_dir(&stage.directory).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
    let path = stage.directory.clone();
    drop(stage);
    assert!(!path.exists());
}
