//! A peer that refuses one sending domain as unauthenticated: after three such replies from two recipient domains its mail
//! waits, and is told why; another domain's mail goes on; it is so over a restart; and a retry by hand tries again.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Answer, Behaviour, Client, Daemon, Peer, Sample, Setup, eventually};

const LIMIT: Duration = Duration::from_secs(30);
const WORDS: &str = "550 5.7.26 This mail has been blocked because the sender is unauthenticated";

fn send(daemon: &Daemon, id: &str, author: &str, recipient_domain: &str) {
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    let sample = Sample::with_body(id, b"body\r\n");
    let text = String::from_utf8(sample.bytes).unwrap().replace("@example.com>", &format!("@{author}>"));
    let reply = client.deliver(&format!("shop@{author}"), &format!("you@{recipient_domain}"), text.as_bytes());
    assert_eq!(reply.unwrap().code, 250);
}

fn said(daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.run(words);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The ids of all that waits, once each was told of the stop.
fn stopped(daemon: &Daemon, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    eventually("all of it is told why it waits", LIMIT, || {
        let listed = said(daemon, &["queue", "list", "--json", "--limit", "0"]);
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap_or_default();
        ids = listed.iter().filter_map(|row| Some(row["id"].as_str()?.to_owned())).collect();
        ids.len() == count && ids.iter().all(|id| said(daemon, &["why", id]).contains("is stopped until"))
    });
    ids
}

#[test]
fn and_only_there_and_only_this_domain() {
    let peer = Peer::start(Behaviour::Distrusting);
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = std::fs::read_to_string(&daemon.config).unwrap();
    let second = "[[sending_domain]]\nname = \"news.example\"\n[[route]]";
    daemon.overwrite_config(&text.replacen("[[route]]", second, 1));
    daemon.start();
    let refused = || peer.receipts().iter().filter(|receipt| receipt.answer == Answer::Refused(550)).count();
    for (number, recipient_domain) in ["one.example", "one.example", "two.example"].into_iter().enumerate() {
        send(&daemon, &format!("refused{number}"), "news.example", recipient_domain);
        eventually("it is refused", LIMIT, || refused() == number + 1);
    }
    let alarms = || said(&daemon, &["metrics", "alarms"]);
    eventually("an operator hears of it", LIMIT, || {
        alarms().contains("postrider_alarms_total{cause=\"sending_domain_stopped\"} 1")
    });
    assert!(alarms().contains("postrider_alarms_total{cause=\"authentication_refused\"} 3"), "{}", alarms());
    let log = daemon.log();
    assert!(log.contains("cause=\"sending_domain_stopped\"") && log.contains("news.example at "), "{log}");
    let replies = said(&daemon, &["metrics", "replies"]);
    assert!(replies.contains("postrider_replies_total{class=\"authentication\"} 3"), "{replies}");

    for number in 0..4 {
        send(&daemon, &format!("stopped{number}"), "news.example", ["one.example", "three.example"][number % 2]);
        send(&daemon, &format!("other{number}"), "example.com", "one.example");
    }
    eventually("the other domain's mail goes on", LIMIT, || {
        peer.taken_ids().iter().filter(|id| id.starts_with("other")).count() == 4
    });
    let ids = stopped(&daemon, 4);
    for words in [["why", &ids[0]].as_slice(), &["queue", "show", &ids[0]]] {
        let told = said(&daemon, words);
        assert!(told.contains("mail from news.example to ") && told.contains(WORDS), "{told}");
    }
    let shown = said(&daemon, &["queue", "show", &ids[0], "--json"]);
    assert!(shown.contains("\"attempts\":0") || shown.contains("\"attempts\": 0"), "no attempt is used up: {shown}");

    daemon.kill();
    daemon.start();
    send(&daemon, "later", "news.example", "one.example");
    stopped(&daemon, 5);
    assert_eq!(refused(), 3, "the peer saw none of it");

    peer.become_(Behaviour::Friendly);
    said(&daemon, &["queue", "retry", "--all"]);
    eventually("what is tried by hand goes", LIMIT, || {
        peer.taken_ids().iter().filter(|id| id.starts_with("stopped") || *id == "later").count() == 5
    });
}
