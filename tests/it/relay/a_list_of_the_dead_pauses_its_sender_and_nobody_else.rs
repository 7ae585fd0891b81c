//! A newsletter to recipients that do not exist: they are suppressed, the sender is paused and told why, over a restart too;
//! transactional mail goes on; an operator's word lets the newsletter go on; a credential can be suspended with its mail.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Behaviour, Client, Daemon, PASSWORD, Peer, Sample, Setup, USER, eventually};

const LIMIT: Duration = Duration::from_secs(30);

fn said(daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.run(words);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// As the credential, whose stream is marketing.
fn newsletter(daemon: &Daemon, id: &str, to: &str) -> u16 {
    let mut client = Client::connect(daemon.submission).unwrap();
    client.hello().unwrap();
    if client.log_in(USER, PASSWORD).is_err() {
        return 535;
    }
    let reply = client.deliver("shop@example.com", to, &Sample::with_body(id, b"body\r\n").bytes);
    reply.map_or(0, |reply| reply.code)
}

fn order(daemon: &Daemon, id: &str) {
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    let reply = client.deliver("shop@example.com", "jo@one.example", &Sample::with_body(id, b"body\r\n").bytes);
    assert_eq!(reply.unwrap().code, 250);
}

fn waiting(daemon: &Daemon) -> Vec<String> {
    let listed: Vec<Value> = serde_json::from_str(&said(daemon, &["queue", "list", "--json", "--limit", "0"])).unwrap();
    listed.iter().filter_map(|row| Some(row["id"].as_str()?.to_owned())).collect()
}

#[test]
fn until_an_operator_says_so() {
    let peer = Peer::start(Behaviour::Choosy);
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = std::fs::read_to_string(&daemon.config).unwrap();
    let text = text.replace("stream = \"transactional\"\nfrom_domains", "stream = \"marketing\"\nfrom_domains");
    daemon.overwrite_config(&(text + "[harm]\nbounce_volume = 5\n"));
    daemon.start();
    for number in 0..5 {
        assert_eq!(newsletter(&daemon, &format!("dead{number}"), &format!("never{number}@one.example")), 250);
    }
    eventually("the sender is paused", LIMIT, || said(&daemon, &["rates"]).contains("paused"));
    let evidence = said(&daemon, &["metrics", "evidence"]);
    assert!(evidence.contains("postrider_evidence_total{cause=\"hard_bounce\",state=\"believed\"} 5"), "{evidence}");

    // Who is suppressed is not written to again, and who is alive waits.
    assert_eq!(newsletter(&daemon, "again", "never1@one.example"), 250);
    let suppressed = said(&daemon, &["metrics", "suppressed"]);
    assert!(suppressed.contains("{how=\"accepted\",cause=\"hard_bounce\"} 1"), "{suppressed}");
    assert_eq!(newsletter(&daemon, "alive", "jo@one.example"), 250);
    let ids = waiting(&daemon);
    assert_eq!(ids.len(), 1, "{ids:?}");
    let why = || said(&daemon, &["why", &ids[0]]);
    eventually("it is told why it waits", LIMIT, || why().contains("recipients that do not exist, 100.00 % of 5"));
    assert!(why().contains(&format!("postrider rates resume {USER}/marketing")), "{}", why());
    order(&daemon, "order");
    eventually("transactional mail goes on", LIMIT, || peer.taken("order") == 1);

    daemon.kill();
    daemon.start();
    let sender = format!("{USER}/marketing");
    let why = || said(&daemon, &["why", &ids[0]]);
    eventually("it is so over a restart", LIMIT, || why().contains("is paused"));
    assert_eq!(peer.taken("alive"), 0);
    assert!(said(&daemon, &["rates", "resume", &sender]).contains("goes on"));
    eventually("it goes", LIMIT, || peer.taken("alive") == 1);
    assert!(said(&daemon, &["rates", "resume", &sender]).contains("is not paused"));

    // A credential by hand: what waits stays, and nobody logs in with it.
    assert_eq!(newsletter(&daemon, "held", "later@one.example"), 250);
    assert!(said(&daemon, &["credential", "disable", USER, "--hold-queue"]).contains("mail is held"));
    let ids = waiting(&daemon);
    eventually("its mail is held", LIMIT, || said(&daemon, &["why", &ids[0]]).contains("is suspended since"));
    let mut thief = Client::connect(daemon.submission).unwrap();
    thief.hello().unwrap();
    let refused = thief.log_in(USER, PASSWORD).unwrap_err().to_string();
    assert!(refused.contains("535") && refused.contains("suspended"), "{refused}");
    // Before it is let go: an attempt that is under way when the peer changes its mind is not tried again for minutes.
    peer.become_(Behaviour::Friendly);
    assert!(said(&daemon, &["credential", "enable", USER]).contains("goes on"));
    assert_eq!(newsletter(&daemon, "welcome", "jo@one.example"), 250);
    said(&daemon, &["queue", "retry", "--all"]);
    eventually("all of it goes", LIMIT, || peer.taken("held") == 1 && peer.taken("welcome") == 1);
}
