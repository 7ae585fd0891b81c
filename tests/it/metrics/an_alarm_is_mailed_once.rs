//! A source that this machine does not have: a hundred sites cannot be dialed from it, and the postmaster hears of it once.

use std::time::Duration;

use super::{daemon_with, scrape, value};
use crate::harness::{Behaviour, Client, Peer, Sample, Setup, eventually};

const SITES: usize = 100;
const LIMIT: Duration = Duration::from_secs(40);

/// Documentation addresses (RFC 5737) are nobody's, so that binding one fails; its stream has a listener of its own.
fn config(bad: std::net::SocketAddr) -> String {
    let mut text = format!(
        "[source.gone]\naddress = \"192.0.2.1\"\nehlo = \"relay.example.com\"\n\
         [source.here]\naddress = \"127.0.0.1\"\nehlo = \"relay.example.com\"\n\
         [pool.default]\nsources = [\"here\"]\n[pool.bulk]\nsources = [\"gone\"]\n\
         [stream.marketing]\npool = \"bulk\"\n\
         [[listener]]\nbind = \"{bad}\"\nmode = \"smtp\"\ntrusted_networks = [\"127.0.0.0/8\"]\nstream = \"marketing\"\n"
    );
    for site in 0..SITES {
        let port = 20_000 + site;
        text += &format!("[[route]]\nrecipient_domain = \"d{site}.example\"\nnext_hop = [\"127.0.0.3:{port}\"]\n");
    }
    text
}

#[test]
fn though_it_is_raised_a_hundred_times() {
    let peer = Peer::keeping_bytes(Behaviour::Friendly);
    let bulk = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let daemon = daemon_with(Setup::relaying_to(peer.address()).with_postmaster(), &config(bulk));
    let mut client = Client::connect(bulk).expect("a session");
    client.hello().expect("EHLO");
    for site in 0..SITES {
        let sample = Sample::new(&format!("m{site}"), 100, 1);
        let reply = client.deliver("shop@example.com", &format!("m{site}@d{site}.example"), &sample.bytes);
        assert_eq!(reply.expect("a reply").code, 250);
    }
    let raised = || value(&scrape(&daemon).1, "postrider_alarms_total{cause=\"source_unusable\"}").unwrap_or(0.0);
    let letters = || {
        let receipts = peer.receipts();
        receipts.into_iter().filter(|receipt| receipt.to == ["ops@example.com"]).collect::<Vec<_>>()
    };
    eventually("every site was tried", LIMIT, || raised() >= SITES as f64);
    eventually("the postmaster is told", LIMIT, || !letters().is_empty());
    let before = raised();
    daemon.retry_all();
    eventually("all are tried again", LIMIT, || raised() >= before + SITES as f64);

    let (_, page) = scrape(&daemon);
    assert_eq!(value(&page, "postrider_alarm_active{cause=\"source_unusable\"}"), Some(1.0));
    assert_eq!(value(&page, "postrider_alarm_mails_total{result=\"accepted\"}"), Some(1.0));
    assert_eq!(value(&page, "postrider_alarm_mails_total{result=\"failed\"}"), Some(0.0));
    let letters = letters();
    let [letter] = letters.as_slice() else { panic!("{} letters", letters.len()) };
    assert_eq!(letter.from, "", "from nobody, so that nothing comes back of it");
    let text = String::from_utf8_lossy(&letter.bytes).into_owned();
    for part in [
        "Subject: [postrider] relay.example.com: source_unusable (gone)\r\n",
        "From: Postrider <MAILER-DAEMON@relay.example.com>\r\n",
        "To: <ops@example.com>\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "\r\nDate: ",
        "\r\nMessage-ID: <",
        "It concerns: gone\r\n",
        "192.0.2.1",
        "What to do: ",
    ] {
        assert!(text.contains(part), "{part:?}\n{text}");
    }
    let log = std::fs::read_to_string(daemon.config.with_file_name("daemon.log")).expect("the log");
    assert_eq!(log.matches("cause=\"source_unusable\"").count(), 1, "one line in the log");
}
