//! A newsletter goes out; bounces, complaints and wishes to hear no more come back to the port that the world sends to. The
//! second newsletter reaches exactly those whom it should, and what nobody can prove changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use postrider::mail::{Domain, QueueId};
use postrider::signer::{Algorithm, Form, KeyFile, Settings, Signer, SigningDomain, Unsigned, generate};
use postrider::time::Timestamp;

use crate::harness::{Behaviour, Client, Daemon, Nameserver, PASSWORD, Peer, Receipt, Setup, USER, eventually, port};

const WAIT: Duration = Duration::from_secs(30);
const READERS: usize = 30;

struct House {
    daemon: Daemon,
    /// Where the world's mail comes in: nobody is trusted there.
    world: SocketAddr,
    page: SocketAddr,
}

impl House {
    fn start(peer: &Peer) -> House {
        House::start_with(peer, "")
    }

    /// With more in its config.
    fn start_with(peer: &Peer, more: &str) -> House {
        let mut daemon = Setup::relaying_to(peer.address()).with_postmaster().prepare();
        let local = || -> SocketAddr { format!("127.0.0.1:{}", port::free()).parse().unwrap() };
        let (world, page) = (local(), local());
        let text = fs::read_to_string(&daemon.config).unwrap();
        let text =
            text.replace("stream = \"transactional\"\nfrom_domains", "stream = \"marketing\"\nfrom_domains").replace(
                "name = \"example.com\"\n",
                "name = \"example.com\"\nbounce_domain = \"bounce.example.com\"\n\
                 feedback_address = \"fbl@bounce.example.com\"\n",
            );
        let more = format!(
            "[[listener]]\nbind = \"{world}\"\nmode = \"smtp\"\n\
             [unsubscribe]\nurl = \"https://mail.example.com/u\"\nbind = \"{page}\"\nsender = \"Example\"\n{more}"
        );
        daemon.overwrite_config(&(text + &more));
        daemon.start();
        House { daemon, world, page }
    }

    fn send_news(&self, number: usize) {
        let mut client = Client::connect(self.daemon.submission).unwrap();
        client.hello().unwrap();
        client.log_in(USER, PASSWORD).unwrap();
        for reader in 0..READERS {
            let message = format!(
                "From: News <news@example.com>\r\nTo: <{}>\r\nSubject: news {number}\r\nX-Test-Id: news{number}\r\n\r\nNews.\r\n",
                address(reader)
            );
            client.deliver("news@example.com", &address(reader), message.as_bytes()).unwrap().expect(250).unwrap();
        }
    }

    fn send_order(&self, id: &str, to: &str) {
        let mut client = Client::connect(self.daemon.smtp).unwrap();
        client.hello().unwrap();
        let message = format!("From: shop@example.com\r\nSubject: order\r\nX-Test-Id: {id}\r\n\r\nOrder.\r\n");
        client.deliver("orders@example.com", to, message.as_bytes()).unwrap().expect(250).unwrap();
    }

    /// Hands a message in as the world does; the code of the reply.
    fn bring(&self, to: &str, message: &[u8]) -> u16 {
        let mut client = Client::connect(self.world).unwrap();
        client.hello().unwrap();
        client.deliver("", to, message).unwrap().code
    }

    fn post(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.page).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let body = "List-Unsubscribe=One-Click";
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: mail.example.com\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The entries of the list: address, cause, and whether it blocks.
    fn entries(&self) -> BTreeSet<(String, String, bool)> {
        let told = self.daemon.run(&["--json", "suppression", "list"]);
        assert!(told.status.success(), "{told:?}");
        let text = String::from_utf8(told.stdout).unwrap();
        let rows = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let rows = rows.flat_map(|value| match value {
            serde_json::Value::Array(all) => all,
            serde_json::Value::Object(ref page) if page.contains_key("entries") => {
                page["entries"].as_array().cloned().unwrap_or_default()
            }
            row => vec![row],
        });
        let word = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        rows.map(|row| (word(&row, "address"), word(&row, "cause"), row["state"] == "in_force")).collect()
    }
}

fn address(reader: usize) -> String {
    format!("r{reader}@dest.example")
}

/// What each reader got of a newsletter.
fn got(peer: &Peer, number: usize) -> BTreeMap<String, Receipt> {
    let id = format!("news{number}");
    peer.receipts()
        .into_iter()
        .filter(|receipt| receipt.id == id)
        .map(|receipt| (receipt.to[0].clone(), receipt))
        .collect()
}

/// The value of a field, folding taken out.
fn field(message: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(message).into_owned();
    let header = text.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n\t", " ").replace("\r\n ", " ");
    let start = format!("{}:", name.to_lowercase());
    let line = header.lines().find(|line| line.to_lowercase().starts_with(&start));
    line.map(|line| line[start.len()..].trim().to_owned()).unwrap_or_default()
}

fn dsn(about: &str, status: &str, words: &str) -> Vec<u8> {
    format!(
        "From: MAILER-DAEMON@mx.dest.example\r\nTo: <somebody@bounce.example.com>\r\nSubject: Undelivered Mail\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nIt could not be delivered.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.dest.example\r\n\r\n\
         Final-Recipient: rfc822; {about}\r\nAction: failed\r\nStatus: {status}\r\n\
         Remote-MTA: dns; store.dest.example\r\nDiagnostic-Code: smtp; 550 {status} {words}\r\n\r\n--b--\r\n"
    )
    .into_bytes()
}

fn complaint(original: &[u8]) -> Vec<u8> {
    let head = String::from_utf8_lossy(original).split("\r\n\r\n").next().unwrap_or_default().to_owned();
    format!(
        "From: fbl@dest.example\r\nTo: fbl@bounce.example.com\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nA complaint.\r\n\
         --b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: Test/1\r\nVersion: 1\r\n\r\n\
         --b\r\nContent-Type: text/rfc822-headers\r\n\r\n{head}\r\n\r\n--b--\r\n"
    )
    .into_bytes()
}

fn vacation() -> Vec<u8> {
    b"From: r10@dest.example\r\nTo: news@example.com\r\nSubject: Out of office\r\nAuto-Submitted: auto-replied\r\n\r\n\
      I am away. 550 5.1.1 user unknown is what I am not.\r\n"
        .to_vec()
}

#[test]
fn and_the_second_newsletter_reaches_exactly_those_whom_it_should() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let house = House::start(&peer);
    house.send_news(1);
    eventually("the first newsletter arrives", WAIT, || got(&peer, 1).len() == READERS);
    let first = got(&peer, 1);
    let path = |reader: usize| first[&address(reader)].from.clone();
    let header = |reader: usize, name: &str| field(&first[&address(reader)].bytes, name);

    // Dead, blocked, full, on holiday, dead behind a forwarder.
    (0..5).for_each(|n| assert_eq!(house.bring(&path(n), &dsn(&address(n), "5.1.1", "User unknown")), 250));
    (5..8).for_each(|n| {
        assert_eq!(house.bring(&path(n), &dsn(&address(n), "5.7.1", "Client host blocked using a block list")), 250)
    });
    assert_eq!(house.bring(&path(8), &dsn(&address(8), "5.2.2", "Mailbox full")), 250);
    (10..13).for_each(|n| assert_eq!(house.bring(&path(n), &vacation()), 250));
    assert_eq!(house.bring(&path(22), &dsn("other@forwarded.example", "5.1.1", "User unknown")), 250);
    // Who says that another reader is dead is believed of nobody but the one whom the token names.
    assert_eq!(house.bring(&path(23), &dsn(&address(24), "5.1.1", "User unknown")), 250);
    // Complaints that quote the message, wishes by mail and by the link.
    (13..17).for_each(|n| {
        assert_eq!(house.bring("fbl@bounce.example.com", &complaint(&first[&address(n)].bytes)), 250);
    });
    for n in 17..20 {
        let list = header(n, "List-Unsubscribe");
        let mailto = list.split("<mailto:").nth(1).and_then(|rest| rest.split('?').next()).unwrap().to_owned();
        let wish = format!(
            "From: {}\r\nTo: {mailto}\r\nSubject: your letters\r\nX-Test-Id: wish\r\n\r\nI have moved on, dear friends.\r\n",
            address(n)
        );
        assert_eq!(house.bring(&mailto, wish.as_bytes()), 250);
    }
    for n in 20..22 {
        let list = header(n, "List-Unsubscribe");
        let sealed = list.split("https://mail.example.com").nth(1).and_then(|rest| rest.split('>').next()).unwrap();
        for _ in 0..2 {
            assert!(house.post(sealed).starts_with("HTTP/1.1 200 "), "{sealed}");
        }
    }

    // What nobody can prove: forged and flipped tokens, a domain that is none of ours, an open relay.
    let mut random = fastrand::Rng::with_seed(7);
    let (local, domain) = path(25).split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    for n in 0..100 {
        let mut octets = local.clone().into_bytes();
        let place = random.usize(1..octets.len());
        let old = octets[place];
        while octets[place] == old {
            octets[place] = *random.choice(b"abcdefghjkmnpqrstvwxyz0123456789").unwrap();
        }
        let forged = format!("{}@{domain}", String::from_utf8(octets).unwrap());
        assert_eq!(house.bring(&forged, &dsn(&address(25), "5.1.1", "User unknown")), 550, "{n}: {forged}");
    }
    assert_eq!(house.bring("nobody@bounce.example.com", b"Subject: x\r\n\r\nx\r\n"), 550);
    assert_eq!(house.bring("somebody@dest.example", b"Subject: x\r\n\r\nx\r\n"), 554);

    let wanted: BTreeSet<(String, String, bool)> = (0..5)
        .map(|n| (n, "hard_bounce", true))
        .chain([(8, "soft_bounce", false), (22, "soft_bounce", false), (23, "soft_bounce", false)])
        .chain((13..17).map(|n| (n, "complaint", true)))
        .chain((17..22).map(|n| (n, "unsubscribe", true)))
        .map(|(n, cause, blocks)| (address(n), cause.to_owned(), blocks))
        .collect();
    assert_eq!(house.entries(), wanted, "{}", house.daemon.log());

    // The same again, with an upper-case token: nothing new.
    assert_eq!(house.bring(&path(0).to_uppercase(), &dsn(&address(0), "5.1.1", "User unknown")), 250);
    assert_eq!(house.bring("fbl@bounce.example.com", &complaint(&first[&address(13)].bytes)), 250);
    assert_eq!(house.entries(), wanted);

    house.send_news(2);
    let silent: BTreeSet<String> = (0..5).chain(13..22).map(address).collect();
    eventually("the second newsletter arrives", WAIT, || got(&peer, 2).len() == READERS - silent.len());
    let second: BTreeSet<String> = got(&peer, 2).into_keys().collect();
    assert!(second.is_disjoint(&silent), "{second:?}");

    // Who left the newsletter still gets orders; who is dead does not.
    house.send_order("order-unsubscribed", &address(17));
    house.send_order("order-dead", &address(0));
    eventually("the order arrives", WAIT, || peer.taken("order-unsubscribed") == 1);
    assert_eq!(peer.taken("order-dead"), 0);

    // A person who writes to the postmaster is heard, and so is a machine; a wish that was kept is nobody's letter.
    assert_eq!(
        house.bring("postmaster@bounce.example.com", b"Subject: hello\r\nX-Test-Id: person\r\n\r\nHello?\r\n"),
        250
    );
    eventually("the postmaster hears", WAIT, || {
        peer.receipts().iter().any(|r| r.id == "person" && r.to == ["ops@example.com"])
    });

    assert_eq!(peer.taken("wish"), 0);

    // The list outlives a crash.
    let House { mut daemon, world, page } = house;
    daemon.kill();
    daemon.start();
    let house = House { daemon, world, page };
    assert_eq!(house.entries(), wanted);
    let trace = house.daemon.run(&["trace", &address(0)]);
    let trace = String::from_utf8_lossy(&trace.stdout).into_owned();
    assert!(trace.contains("bounce") && trace.contains("suppressed"), "{trace}");
}

#[test]
fn and_a_bounce_of_transactional_mail_goes_on_to_its_sender() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let house = House::start(&peer);
    house.send_order("first", "ann@dest.example");
    eventually("it arrives", WAIT, || peer.taken("first") == 1);
    let path = peer.receipts()[0].from.clone();
    assert!(path.ends_with("@bounce.example.com"), "{path}");
    assert_eq!(house.bring(&path, &dsn("ann@dest.example", "5.2.2", "Mailbox full")), 250);
    let is_onward = |receipt: &Receipt| receipt.from.is_empty() && receipt.to == ["orders@example.com"];
    eventually("the bounce goes on", WAIT, || peer.receipts().iter().any(is_onward));
    let receipts = peer.receipts();
    let onward = receipts.iter().find(|receipt| is_onward(receipt)).unwrap();
    let text = String::from_utf8_lossy(&onward.bytes);
    assert!(text.contains("report-type=delivery-status") && text.contains("Mailbox full"), "{text}");
    // The same again changes nothing, and is told to nobody.
    assert_eq!(house.bring(&path, &dsn("ann@dest.example", "5.2.2", "Mailbox full")), 250);
    house.send_order("last", "bob@dest.example");
    eventually("what came after it is there", WAIT, || peer.taken("last") == 1);
    assert_eq!(peer.receipts().iter().filter(|receipt| is_onward(receipt)).count(), 1);
}

/// A message with a signature of dest.test on top, and the record that verifies it.
fn signed(message: &[u8]) -> (Vec<u8>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let new = generate(Algorithm::Ed25519, "e1").unwrap();
    fs::write(&path, &new.pem).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let domain: Domain = "dest.test".parse().unwrap();
    let domains = vec![SigningDomain { domain: domain.clone(), keys: vec![KeyFile { selector: "e1".into(), path }] }];
    let signer = Signer::new(&Settings { domains, ..Settings::default() }).unwrap();
    let record = signer.records().remove(0);
    let unsigned = Unsigned {
        submission: QueueId::from_u64(1),
        form: Form::AsAccepted,
        variant: 0,
        author_domain: &domain,
        added_headers: &Bytes::new(),
        message,
        header_bytes: message.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4,
    };
    let now = Timestamp::from_secs(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs());
    let signature = signer.sign(&unsigned, now).unwrap();
    ([&signature, message].concat(), format!("{}. TEXT {}", record.name, record.value))
}

#[test]
fn and_a_report_is_shown_with_what_it_did_and_a_replay_of_any_of_them_counts_once() {
    let bounce = dsn("ann@dest.example", "5.2.2", "Mailbox full");
    let bounce =
        [b"From: Mailer <mailer@dest.test>\r\n", &bounce[bounce.iter().position(|b| *b == b'\n').unwrap() + 1..]]
            .concat();
    let (bounce, record) = signed(&bounce);
    let names = Nameserver::serve(&format!("mx.dest.test. TEXT v=spf1 ip4:127.0.0.1 -all\n{record}"));
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let house = House::start_with(&peer, &format!("[dns]\nnameservers = [\"{}\"]\n", names.address()));
    let path = |order: &str| {
        house.send_order(order, "ann@dest.example");
        eventually("it arrives", WAIT, || peer.taken(order) == 1);
        peer.receipts().into_iter().find(|receipt| receipt.id == order).unwrap().from
    };
    let (first, second) = (path("first"), path("second"));
    let bring = |to: &str, message: &[u8]| {
        let mut client = Client::connect(house.world).unwrap();
        client.command("EHLO mx.dest.test").unwrap().expect(250).unwrap();
        let reply = client.deliver("", to, message).unwrap().expect(250).unwrap();
        reply.text().split_whitespace().last().unwrap().to_owned()
    };
    let numbers: Vec<String> = [&first, &second, &first, &second].map(|to| bring(to, &bounce)).to_vec();
    let shown = |number: &str| -> serde_json::Value {
        let told = house.daemon.run(&["--json", "report", "show", number]);
        serde_json::from_slice(&told.stdout).unwrap_or_else(|_| panic!("{told:?} {}", house.daemon.log()))
    };
    // What DNS says of it comes later than the 250.
    eventually("SPF and DKIM are known", WAIT, || !shown(&numbers[0])["dkim"].is_null());
    let report = shown(&numbers[0]);
    let row = &report["recipients"][0];
    assert_eq!(report["spf"], "pass mx.dest.test", "{report:#}");
    assert_eq!(report["dkim"], "pass dest.test (e1)", "{report:#}");
    let texts = ["kind", "token", "recipient", "class", "status", "effect", "why", "sent_on_to"];
    let texts = texts.map(|name| row[name].as_str().unwrap_or_default());
    assert_eq!(
        texts,
        [
            "bounce",
            "valid",
            "ann@dest.example",
            "mailbox-full",
            "5.2.2",
            "pending",
            "a soft count: 1 of 5 messages, over 14 days or more",
            "orders@example.com"
        ],
        "{report:#}"
    );
    assert!(row["text"].as_str().unwrap().contains("Mailbox full"), "{report:#}");
    let effect = |number: &str| shown(number)["recipients"][0]["effect"].as_str().unwrap().to_owned();
    let effects: Vec<String> = numbers.iter().map(|number| effect(number)).collect();
    // The first one again, after the second: it was heard, though the list knows only of the last.
    assert_eq!(effects, ["pending", "pending", "known", "known"]);
    let list = house.daemon.run(&["--json", "suppression", "show", "ann@dest.example"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list[0]["hits"], 2, "{list:#}");

    let letter = bring("postmaster@bounce.example.com", b"From: a@dest.test\r\nSubject: hello\r\n\r\nHello?\r\n");
    let text = |arguments: &[&str]| {
        let told = house.daemon.run(arguments);
        assert!(told.status.success(), "{told:?}");
        String::from_utf8(told.stdout).unwrap()
    };
    let told = text(&["report", "show", &letter]);
    assert!(told.contains("read as     other\n") && told.contains("sent on to  ops@example.com as "), "{told}");
    let list = text(&["report", "list"]);
    assert_eq!(list.lines().count(), 1 + 5, "{list}");
    assert_eq!(text(&["report", "list", "--effect", "pending"]).lines().count(), 1 + 2);
    assert!(house.daemon.log().contains(&numbers[0]), "the log names the report");
    assert!(!house.daemon.run(&["report", "show", "000000000001"]).status.success());

    // Without a daemon the files are read; what was told is there after a crash.
    std::thread::sleep(Duration::from_millis(300));
    let House { mut daemon, .. } = house;
    daemon.kill();
    let told = daemon.run(&["report", "show", &numbers[0]]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("spf         pass mx.dest.test\n") && told.contains("recipient   ann@dest.example"),
        "{told}"
    );
}
