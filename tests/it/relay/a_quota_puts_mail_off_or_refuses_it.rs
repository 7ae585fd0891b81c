//! What is over a quota waits until there is room, in order, and `why` says which quota; or it is refused with the time to
//! come again, also after a restart. Who got as much as a cap allows gets no more, and nobody else notices.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Behaviour, Client, Daemon, PASSWORD, Peer, Reply, Sample, Setup, USER, eventually};

fn start(peer: &Peer, credential: &str, stream: &str) -> Daemon {
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text = text.replace("from_domains", &format!("{credential}\nfrom_domains"));
    daemon.overwrite_config(&format!("{text}[stream.transactional]\n{stream}\n"));
    daemon.start();
    daemon
}

fn hand_in(client: &mut Client, name: &str, to: &str) -> Reply {
    let sample = Sample::with_body(name, b"body\r\n");
    client.deliver(&sample.from(), to, &sample.bytes).unwrap()
}

fn told(daemon: &Daemon, words: &[&str]) -> String {
    String::from_utf8_lossy(&daemon.run(words).stdout).into_owned()
}

#[test]
fn what_is_over_a_quota_waits_in_order_and_why_names_it() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer, "quota = [\"2/4s\", \"1000/1d\"]", "");
    let mut client = Client::connect(daemon.submission).unwrap();
    client.hello().unwrap();
    client.log_in(USER, PASSWORD).unwrap();
    let began = Instant::now();
    let mut ids = Vec::new();
    for number in 0..6 {
        let reply = hand_in(&mut client, &format!("q{number}"), &format!("to{number}@d{number}.example"));
        assert_eq!(reply.code, 250, "{:?}", reply.lines);
        ids.push(reply.text().rsplit(' ').next().unwrap().to_owned());
    }
    let why = told(&daemon, &["why", &ids[5]]);
    assert!(why.contains(&format!("the quota 2/4s of the credential {USER} has room for it at 20")), "{why}");
    let shown = told(&daemon, &["queue", "show", &ids[5]]);
    assert!(shown.contains("put off by") && shown.contains("scheduled"), "{shown}");
    // Another way in has no quota.
    let mut other = Client::connect(daemon.smtp).unwrap();
    other.hello().unwrap();
    assert_eq!(hand_in(&mut other, "free", "to@other.example").code, 250);
    let handed_in = began.elapsed();
    eventually("what has no quota goes at once", Duration::from_secs(3), || peer.taken("free") == 1);
    eventually("all arrive", Duration::from_secs(30), || peer.taken_ids().len() == 7);
    // The third at 4 s after the first, and then one each two seconds; of the first two no more than that is known.
    let mut receipts = peer.receipts();
    receipts.sort_by_key(|receipt| receipt.at);
    let names: Vec<&str> = receipts.iter().map(|receipt| &*receipt.id).filter(|id| *id != "free").collect();
    assert_eq!(names[2..], ["q2", "q3", "q4", "q5"], "in order");
    for receipt in receipts.iter().filter(|receipt| receipt.id != "free") {
        let number: u64 = receipt.id[1..].parse().unwrap();
        let at = receipt.at.duration_since(began);
        let earliest = Duration::from_secs(if number < 2 { 0 } else { 2 * number });
        assert!(at >= earliest, "{} at {at:?}, not before {earliest:?}", receipt.id);
        let latest = earliest + handed_in + Duration::from_secs(5);
        assert!(at < latest, "{} at {at:?}, no later than {latest:?}", receipt.id);
    }
    let metrics = told(&daemon, &["metrics"]);
    assert!(metrics.contains("postrider_quota_recipients_total{action=\"queued\"} 4\n"), "{metrics}");
}

#[test]
fn over_refuse_tells_when_to_come_again_and_a_restart_forgets_nothing() {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = start(&peer, "", "quota = [\"4/1d\"]\nrecipient_cap = [\"2/1h\"]\nover = \"refuse\"");
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    let code = |client: &mut Client, to: &str| hand_in(client, &format!("to-{to}"), &format!("{to}@dest.example"));
    for (to, want, text) in [
        ("bombed", 250, ""),
        ("bombed", 250, ""),
        (
            "bombed",
            451,
            "4.7.1 bombed@dest.example got as much as recipient_cap 2/1h of the stream transactional allows; come \
                         again in 3",
        ),
        ("Bombed", 451, "4.7.1 "),
        ("someone", 250, ""),
        ("another", 250, ""),
        ("else", 451, "4.7.1 the quota 4/1d of the stream transactional is used up; come again in 86"),
    ] {
        let reply = code(&mut client, to);
        assert_eq!(reply.code, want, "{to}: {:?}", reply.lines);
        assert!(reply.lines[0].contains(text), "{to}: {:?}", reply.lines);
    }
    let metrics = told(&daemon, &["metrics"]);
    for line in [
        "postrider_quota_recipients_total{action=\"refused\"} 1\n",
        "postrider_quota_recipients_total{action=\"queued\"} 0\n",
        "postrider_capped_recipients_total{stream=\"transactional\"} 2\n",
        "postrider_messages_refused_total{at=\"message\",status=\"4.7.1\"} 3\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    drop(client);
    daemon.terminate(Duration::from_secs(20)).expect("it stops");
    daemon.start();
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    let reply = code(&mut client, "else");
    assert_eq!(reply.code, 451, "what was taken is known: {:?}", reply.lines);
    eventually("what was accepted is delivered", Duration::from_secs(20), || peer.receipts().len() == 4);
}
