//! A relay under a limit, killed in the middle: `trace` tells of every message, `audit` proves from the event lines what
//! the peer counted, and a window that was passed on purpose is found.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Behaviour, Client, Daemon, Ledger, Peer, Sample, Setup, eventually};

const MESSAGES: u64 = 60;
const PER_TWO_SECONDS: u64 = 20;
const LIMIT: Duration = Duration::from_secs(60);

fn said(daemon: &Daemon, arguments: &[&str]) -> (bool, String) {
    let output = daemon.run(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn traced(daemon: &Daemon, what: &str) -> Vec<Value> {
    let (_, text) = said(daemon, &["trace", what, "--json"]);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    answer["rows"].as_array().cloned().unwrap_or_default()
}

fn events(rows: &[Value], event: &str) -> usize {
    rows.iter().filter(|row| row["event"] == event).count()
}

#[test]
fn over_a_kill_under_a_limit() {
    let peer = Peer::start(Behaviour::Friendly);
    let keys = format!("max_message_rate = [\"{PER_TWO_SECONDS}/2s\"]");
    let mut daemon = Setup::relaying_to(peer.address()).with_route(&keys).start();
    let ledger = Ledger::default();
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    let samples: Vec<Sample> = (0..MESSAGES).map(|n| Sample::new(&format!("trace{n}"), 500, n)).collect();
    for sample in &samples {
        assert_eq!(client.deliver(&sample.from(), &sample.to(), &sample.bytes).unwrap().code, 250);
        ledger.acknowledge(sample);
    }
    // What was accepted is known while the daemon runs, though most of it was not tried yet.
    let last = traced(&daemon, &samples.last().unwrap().to());
    assert_eq!(events(&last, "accepted"), 1, "{last:?}");
    thread::sleep(Duration::from_secs(1));
    daemon.kill();
    // And while none runs.
    let last = traced(&daemon, &samples.last().unwrap().to());
    assert_eq!(events(&last, "accepted"), 1, "{last:?}");
    daemon.start();
    eventually("all are delivered", LIMIT, || ledger.missing(&peer).is_empty());
    eventually("the last outcome is told", LIMIT, || {
        samples.iter().all(|sample| traced(&daemon, &sample.to()).iter().any(|row| row["fate"] == "delivered"))
    });

    let mut connections = HashSet::new();
    for sample in &samples {
        let rows = traced(&daemon, &sample.to());
        let attempts = events(&rows, "attempt");
        // An attempt in the tenth of a second before the kill may be in no row.
        assert!((1..=peer.taken(&sample.id)).contains(&attempts), "{attempts} attempts: {rows:?}");
        let attempt = rows.iter().find(|row| row["event"] == "attempt").unwrap();
        assert_eq!(attempt["result"], "delivered");
        assert_eq!(attempt["recipients"], 1);
        connections.insert(attempt["connection"].to_string());
        let outcome = rows.iter().find(|row| row["event"] == "outcome").unwrap();
        assert_eq!((&outcome["recipient"], &outcome["stage"]), (&Value::from(sample.to()), &Value::from("dot")));
        let id = outcome["queue_id"].as_str().unwrap();
        assert_eq!(traced(&daemon, id), rows, "by id as by address");
    }
    let (found, text) = said(&daemon, &["trace", &samples[0].to()]);
    assert!(found && text.contains("  delivered   ") && text.contains("  attempt     "), "{text}");
    let (found, text) = said(&daemon, &["trace", "nobody@example.com"]);
    assert!(!found && text.contains("Nothing is known of nobody@example.com."), "{text}");

    daemon.terminate(LIMIT).expect("a clean end");
    let (whole, text) = said(&daemon, &["audit", "--json"]);
    let certificate: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(whole, "{text}");
    let receipts = peer.receipts().len() as u64;
    let attempts = certificate["attempts"].as_u64().unwrap();
    assert!(attempts <= receipts && attempts + 3 >= MESSAGES, "{attempts} of {receipts}");
    let windows = certificate["windows"].as_array().unwrap();
    let window = |unit: &str| windows.iter().find(|window| window["unit"] == unit).unwrap_or_else(|| panic!("{text}"));
    let most = window("messages")["most"].as_u64().unwrap();
    assert!((PER_TWO_SECONDS / 2..=PER_TWO_SECONDS).contains(&most), "{text}");
    let at_once = window("connections_at_once");
    assert!((1..=at_once["limit"].as_u64().unwrap()).contains(&at_once["most"].as_u64().unwrap()), "{text}");

    // One allowed less than the fullest window held: the lines convict it.
    let logs = fs::read_dir(daemon.data_dir.join("history")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = logs.filter(|path| path.extension().is_some_and(|e| e == "events")).collect();
    logs.sort();
    let lines: String = logs.iter().map(|log| fs::read_to_string(log).unwrap()).collect();
    let seeded = daemon.data_dir.join("seeded.events");
    fs::write(&seeded, lines.replace(&format!("{PER_TWO_SECONDS}/2s"), &format!("{}/2s", most - 1))).unwrap();
    let (whole, text) = said(&daemon, &["audit", seeded.to_str().unwrap()]);
    assert!(!whole && text.contains("VIOLATED") && text.contains("seeded.events:"), "{text}");
}
