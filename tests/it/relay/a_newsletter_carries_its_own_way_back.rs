//! What leaves for a sending domain with a bounce domain: a return path that proves itself, fields that name the message,
//! and one-click unsubscribe (RFC 8058), all of it under our signature, and the same after a crash and with a new key.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use postrider::mail::Address;
use postrider::signer::{Algorithm, Record, generate, verify};
use postrider::time::Timestamp;
use postrider::token::{Keys, Kind};

use crate::harness::{Behaviour, Client, Daemon, PASSWORD, Peer, Receipt, Setup, USER, eventually, port};

const NEWS: &[u8] =
    b"From: News <news@example.com>\r\nTo: readers@example.com\r\nSubject: news\r\nX-Test-Id: news\r\n\r\nNews.\r\n";
const WAIT: Duration = Duration::from_secs(20);

struct House {
    daemon: Daemon,
    page: SocketAddr,
    record: Record,
}

/// The credential sends newsletters; the smtp listener takes transactional mail.
fn house(peer: &Peer) -> House {
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let new = generate(Algorithm::Rsa, "r1").unwrap();
    let key = daemon.config.with_file_name("r1.pem");
    fs::write(&key, &new.pem).unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let page: SocketAddr = format!("127.0.0.1:{}", port::free()).parse().unwrap();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text =
        text.replace("stream = \"transactional\"\nfrom_domains", "stream = \"marketing\"\nfrom_domains").replace(
            "name = \"example.com\"\n",
            &format!(
                "name = \"example.com\"\ndkim = [{{ selector = \"r1\", key = \"{}\" }}]\n\
                 bounce_domain = \"bounce.example.com\"\nfeedback_address = \"fbl@bounce.example.com\"\n",
                key.display()
            ),
        ) + &format!("[unsubscribe]\nurl = \"https://mail.example.com/u/\"\nbind = \"{page}\"\nsender = \"Example\"\n");
    daemon.overwrite_config(&text);
    daemon.start();
    House { daemon, page, record: new.key.record(&"example.com".parse().unwrap()) }
}

impl House {
    fn keys(&self) -> Keys {
        Keys::parse(&fs::read_to_string(self.daemon.data_dir.join("token.keys")).unwrap()).unwrap()
    }

    fn send_news(&self, to: &[&str], message: &[u8]) {
        let mut client = Client::connect(self.daemon.submission).unwrap();
        client.hello().unwrap();
        client.log_in(USER, PASSWORD).unwrap();
        client.command("MAIL FROM:<news@example.com>").unwrap().expect(250).unwrap();
        for to in to {
            client.command(&format!("RCPT TO:<{to}>")).unwrap().expect(250).unwrap();
        }
        client.command("DATA").unwrap().expect(354).unwrap();
        client.write(&[message, b".\r\n"].concat(), crate::harness::Split::Whole).unwrap();
        client.reply().unwrap().expect(250).unwrap();
    }

    fn send_transactional(&self, from: &str, to: &str) {
        let mut client = Client::connect(self.daemon.smtp).unwrap();
        client.hello().unwrap();
        let message = b"From: shop@example.com\r\nSubject: order\r\nX-Test-Id: order\r\n\r\nOrder.\r\n";
        client.deliver(from, to, message).unwrap().expect(250).unwrap();
    }

    /// Every signature holds, and covers each of these fields: with our own verifier, and with dkimpy where it is installed.
    fn verified(&self, message: &[u8], covered: &[&str]) {
        let now = Timestamp::from_millis(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64,
        );
        let found = verify(message, std::slice::from_ref(&self.record), now);
        assert!(found.len() == 1 && found[0].result.is_ok(), "{found:?}");
        let text = String::from_utf8_lossy(message).replace("\r\n\t", "").replace("\r\n ", "");
        let signature = text.lines().find(|line| line.starts_with("DKIM-Signature:")).unwrap().to_owned();
        let signed = signature.split("h=").nth(1).and_then(|rest| rest.split(';').next()).unwrap().to_ascii_lowercase();
        let signed: Vec<&str> = signed.split(':').map(str::trim).collect();
        for name in covered {
            assert!(signed.contains(&name.to_ascii_lowercase().as_str()), "{name} is not in {signed:?}");
        }
        self.verified_by_dkimpy(message);
    }

    fn verified_by_dkimpy(&self, message: &[u8]) {
        const SCRIPT: &str = "import sys\ntry:\n  import dkim\nexcept ImportError:\n  print('absent'); sys.exit()\n\
                              print(dkim.verify(sys.stdin.buffer.read(), dnsfunc=lambda *a, **k: sys.argv[1].encode()))";
        let python = Command::new("python3")
            .args(["-c", SCRIPT, &self.record.value])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut python) = python.inspect_err(|error| println!("python3: {error}; not tested here")) else { return };
        python.stdin.take().unwrap().write_all(message).unwrap();
        let told = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
        assert!(["True", "absent"].contains(&told.trim()), "dkimpy says {told}");
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.page).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: mail.example.com\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn now() -> Timestamp {
    Timestamp::from_secs(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
}

fn wait_for(peer: &Peer, count: usize) -> Vec<Receipt> {
    eventually("the messages arrive", WAIT, || peer.receipts().len() >= count);
    peer.receipts()
}

/// The value of a field, folding taken out.
fn field(message: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(message).into_owned();
    let header = text.split("\r\n\r\n").next()?.replace("\r\n\t", " ").replace("\r\n ", " ");
    let line =
        header.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{}:", name.to_lowercase())))?;
    Some(line[name.len() + 1..].trim().to_owned())
}

const ADDED: [&str; 6] =
    ["List-Unsubscribe", "List-Unsubscribe-Post", "Feedback-ID", "X-Postrider-Ref", "CFBL-Address", "CFBL-Feedback-ID"];

#[test]
fn each_reader_gets_a_path_and_a_link_of_their_own_signed_and_the_link_leads_to_a_button() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let house = house(&peer);
    house.send_news(&["ann@dest.example", "bob@dest.example"], NEWS);
    let receipts = wait_for(&peer, 2);
    let mut paths = Vec::new();
    for receipt in &receipts {
        let path: Address = receipt.from.parse().unwrap();
        assert_eq!(path.domain().as_str(), "bounce.example.com");
        let token = house.keys().read(path.local(), now()).unwrap();
        assert_eq!((token.kind, token.recipient), (Kind::ReturnPath, 0));
        house.verified(&receipt.bytes, &ADDED);
        // RFC 8058 §3.1: one of each, an https URI and the one pair.
        assert_eq!(field(&receipt.bytes, "List-Unsubscribe-Post").as_deref(), Some("List-Unsubscribe=One-Click"));
        let unsubscribe = field(&receipt.bytes, "List-Unsubscribe").unwrap();
        let url = unsubscribe.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap().0;
        let sealed = url.strip_prefix("https://mail.example.com/u/").unwrap();
        let link = house.keys().open(sealed, now()).unwrap();
        assert_eq!([link.address.to_string()], receipt.to.as_slice());
        assert_eq!((&*link.stream, link.id), ("marketing", token.id));
        assert!(
            unsubscribe.contains(", <mailto:u") && unsubscribe.contains("@bounce.example.com?subject=unsubscribe%20")
        );
        assert!(field(&receipt.bytes, "CFBL-Address").unwrap().starts_with("fbl@bounce.example.com;"));
        let page = house.get(&format!("/u/{sealed}"));
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("newsletters from Example"), "{page}");
        assert!(!page.contains("dest.example"), "{page}");
        paths.push(path);
    }
    assert_ne!(paths[0], paths[1]);
    assert!(house.get("/u/").starts_with("HTTP/1.1 404 "));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(house.daemon.data_dir.join("token.keys")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_newsletter_with_its_own_link_keeps_it_and_a_foreign_signature_stays_whole() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let house = house(&peer);
    let own = [b"List-Unsubscribe: <https://news.example/u/1>\r\n".as_slice(), NEWS].concat();
    house.send_news(&["ann@dest.example"], &own);
    let receipts = wait_for(&peer, 1);
    assert_eq!(field(&receipts[0].bytes, "List-Unsubscribe").as_deref(), Some("<https://news.example/u/1>"));
    assert_eq!(field(&receipts[0].bytes, "List-Unsubscribe-Post"), None);
    house.verified(&receipts[0].bytes, &["List-Unsubscribe", "Feedback-ID"]);

    // Signed by somebody else: once the signature allows another field, once it forbids it.
    for (sealed, wants_link) in [("", true), (":List-Unsubscribe", false)] {
        let signature = format!("DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; h=From{sealed}; bh=x; b=x\r\n");
        let before = peer.receipts().len();
        house.send_news(&["ann@dest.example"], &[signature.as_bytes(), NEWS].concat());
        let receipts = wait_for(&peer, before + 1);
        let bytes = &receipts.last().unwrap().bytes;
        assert_eq!(field(bytes, "List-Unsubscribe").is_some(), wants_link, "{sealed}");
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Some(link) = text.find("\nList-Unsubscribe:") {
            assert!(link < text.find(&signature).unwrap(), "added above the foreign signature");
        }
    }
}

#[test]
fn a_path_is_made_once_survives_a_crash_and_a_new_key_and_the_sender_still_hears_of_trouble() {
    let peer = Peer::keeping_bytes(Behaviour::Closed);
    let mut house = house(&peer);
    let old = house.keys();
    house.send_transactional("orders@example.com", "ann@dest.example");
    house.daemon.kill();
    let file = house.daemon.data_dir.join("token.keys");
    let mut text = fs::read_to_string(&file).unwrap();
    text += &"cd".repeat(32);
    fs::write(&file, text).unwrap();
    peer.become_(Behaviour::Choosy);
    house.daemon.start();
    house.daemon.retry_all();
    let receipts = wait_for(&peer, 1);
    let path: Address = receipts[0].from.parse().unwrap();
    let token = old.read(path.local(), now()).expect("the key of the day on which it was accepted");
    assert_eq!((token.kind, token.recipient), (Kind::ReturnPath, 0));
    house.verified(&receipts[0].bytes, &["Feedback-ID", "X-Postrider-Ref"]);
    assert_eq!(field(&receipts[0].bytes, "List-Unsubscribe"), None, "transactional mail has no link");

    // Now the new key makes them; a refused recipient is told to the client, not to us.
    house.send_transactional("orders@example.com", "never@dest.example");
    let receipts = wait_for(&peer, 2);
    let report = receipts.last().unwrap();
    assert_eq!((report.from.as_str(), report.to.as_slice()), ("", ["orders@example.com".to_owned()].as_slice()));
    house.send_transactional("orders@example.com", "bob@dest.example");
    let receipts = wait_for(&peer, 3);
    let path: Address = receipts.last().unwrap().from.parse().unwrap();
    assert!(old.read(path.local(), now()).is_err() && house.keys().read(path.local(), now()).is_ok());
    // Mail from nobody stays from nobody.
    house.send_transactional("", "carl@dest.example");
    assert_eq!(wait_for(&peer, 4).last().unwrap().from, "");
}

#[test]
fn a_client_that_reads_its_own_bounces_keeps_its_path_and_so_does_a_route_that_says_so() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let mut house = house(&peer);
    let text = fs::read_to_string(&house.daemon.config).unwrap();
    let of_credential = text.replace("from_domains", "return_path = \"client\"\nfrom_domains");
    let of_route = text.replace("connection_limit = 8", "connection_limit = 8\nreturn_path = \"client\"");
    for (count, config) in [of_credential, of_route].iter().enumerate() {
        assert_ne!(*config, text);
        house.daemon.kill();
        house.daemon.overwrite_config(config);
        house.daemon.start();
        house.send_news(&["ann@dest.example"], NEWS);
        let receipts = wait_for(&peer, count + 1);
        assert_eq!(receipts.last().unwrap().from, "news@example.com");
        house.verified(&receipts.last().unwrap().bytes, &["List-Unsubscribe", "List-Unsubscribe-Post"]);
    }
}
