//! From the command line to the wire: who is in the list gets nothing, whoever asks is told why, and what was put in
//! survives `kill -9`.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Behaviour, Client, Daemon, PASSWORD, Peer, Reply, Sample, Setup, USER, eventually};

fn start(peer: &Peer, credential: &str, listener: &str) -> Daemon {
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = fs::read_to_string(&daemon.config).unwrap();
    let text = text
        .replace("from_domains", &format!("{credential}\nfrom_domains"))
        .replace("mode = \"submission\"\n", &format!("mode = \"submission\"\n{listener}\n"));
    daemon.overwrite_config(&text);
    daemon.start();
    daemon
}

fn logged_in(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.submission).unwrap();
    client.hello().unwrap();
    client.log_in(USER, PASSWORD).unwrap();
    client
}

fn hand_in(client: &mut Client, name: &str, to: &str) -> Reply {
    let sample = Sample::with_body(name, b"body\r\n");
    client.deliver(&sample.from(), to, &sample.bytes).unwrap()
}

/// What a command prints; it must succeed.
fn told(daemon: &Daemon, words: &[&str]) -> String {
    let output = daemon.run(words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn json(daemon: &Daemon, words: &[&str]) -> Value {
    let text = told(daemon, &[&["--json"], words].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

fn add(daemon: &Daemon, address: &str, more: &[&str]) -> String {
    told(daemon, &[&["suppression", "add", address], more].concat())
}

#[test]
fn it_is_accepted_and_reported_and_a_neighbour_gets_its_mail() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer, "quota = [\"1/3s\", \"1000/1d\"]", "");
    let said = add(
        &daemon,
        "Dead@d1.example",
        &["--cause", "hard_bounce", "--note", "550 5.1.1 no such user", "--for", "30d"],
    );
    assert_eq!(said, "Dead@d1.example was put in: hard_bounce, all\n");
    add(&daemon, "quiet@d1.example", &["--cause", "unsubscribe", "--scope", "marketing"]);

    let mut client = logged_in(&daemon);
    let reply = hand_in(&mut client, "dead", "dead@D1.example");
    assert_eq!(reply.code, 250, "a refused recipient costs many clients the whole message");
    assert_eq!(hand_in(&mut client, "quiet", "quiet@d1.example").code, 250);
    // Over the quota, of which the first took nothing: it waits, and its recipient comes to the list meanwhile.
    assert_eq!(hand_in(&mut client, "late", "late@d1.example").code, 250);
    assert_eq!(hand_in(&mut client, "alive", "alive@d1.example").code, 250);
    add(&daemon, "late@d1.example", &["--cause", "complaint"]);

    eventually("the neighbours get theirs", Duration::from_secs(20), || {
        peer.taken("quiet") == 1 && peer.taken("alive") == 1
    });
    eventually("both are ended", Duration::from_secs(20), || {
        ["dead", "late"].iter().all(|who| daemon.log().contains(&format!("recipient={who}@d1.example attempt=0")))
    });
    assert_eq!((peer.taken("dead"), peer.taken("late")), (0, 0), "not a word of them left");
    let id = reply.text().rsplit(' ').next().unwrap();
    eventually("the history knows", Duration::from_secs(10), || told(&daemon, &["trace", id]).contains("suppressed"));
    let trace = told(&daemon, &["trace", id]);
    assert!(
        trace.contains("on the suppression list since") && trace.contains("hard_bounce (550 5.1.1 no such user)"),
        "{trace}"
    );
    let reports = daemon.log().matches("this address is on the suppression list since").count();
    assert!(reports >= 2, "both are in the log");
    let metrics = told(&daemon, &["metrics"]);
    for line in [
        "postrider_suppressed_recipients_total{how=\"accepted\",cause=\"hard_bounce\"} 1",
        "postrider_suppressed_recipients_total{how=\"waiting\",cause=\"complaint\"} 1",
        "fate=\"suppressed\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // The sender of each hears of it: two reports, which are no mail of a client's.
    eventually("both senders are told", Duration::from_secs(20), || peer.receipts().len() == 4);
}

#[test]
fn where_the_listener_refuses_it_is_told_at_rcpt_and_a_privileged_credential_goes_on() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer, "bypass_suppression = [\"unsubscribe\"]", "suppressed = \"refuse\"");
    add(&daemon, "dead@d1.example", &["--cause", "hard_bounce"]);
    add(&daemon, "quiet@d1.example", &["--cause", "unsubscribe"]);
    let mut client = logged_in(&daemon);
    client.command("MAIL FROM:<a@example.com>").unwrap().expect(250).unwrap();
    let reply = client.command("RCPT TO:<dead@d1.example>").unwrap();
    assert_eq!(reply.code, 550, "{:?}", reply.lines);
    let said = reply.text();
    assert!(said.contains("5.7.1 <dead@d1.example>: this address is on the suppression list since 20"), "{said}");
    assert!(said.ends_with(": hard_bounce"), "{said}");
    client.command("RCPT TO:<quiet@d1.example>").unwrap().expect(250).unwrap();
    client.command("RSET").unwrap().expect(250).unwrap();
    assert_eq!(hand_in(&mut client, "quiet", "quiet@d1.example").code, 250);
    eventually("who may, does", Duration::from_secs(20), || peer.taken("quiet") == 1);
    assert!(daemon.log().contains("sent in spite of the suppression list: the credential may"));
    // The other listener says nothing of refusing.
    let mut other = Client::connect(daemon.smtp).unwrap();
    other.hello().unwrap();
    assert_eq!(hand_in(&mut other, "dead", "dead@d1.example").code, 250);
    let metrics = told(&daemon, &["metrics"]);
    for line in ["{how=\"refused\",cause=\"hard_bounce\"} 1", "{how=\"bypassed\",cause=\"unsubscribe\"} 1"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[test]
fn lists_come_in_and_go_out_and_an_incident_is_undone() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = start(&peer, "", "");
    let file = daemon.data_dir.join("suppression_bounces.csv");
    let mut text = "email,reason,created,status\n".to_owned();
    for number in 0..3000 {
        let _ = writeln!(
            text,
            "u{number}@d{}.example,\"550 5.1.1 no such, user\",{},5.1.1",
            number % 7,
            1_700_000_000 + number
        );
    }
    text += "nobody,550 5.1.1 x,1700000000,5.1.1\nfull@d1.example,552 5.2.2 mailbox full,1700000000,5.2.2\n";
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();

    let dry = daemon.run(&["suppression", "import", "--dry-run", path]);
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(said.contains("      3000  would be added\n"), "{said}");
    assert_eq!(json(&daemon, &["suppression", "stats"])["entries"], 0, "a dry run is dry");
    let real = daemon.run(&["suppression", "import", path]);
    let (said, complained) = (String::from_utf8_lossy(&real.stdout), String::from_utf8_lossy(&real.stderr));
    assert_eq!(real.status.code(), Some(1), "a line could not be read, the others were imported");
    for line in [
        "      3000  added",
        "         1  left out: a soft bounce, which passes",
        "         1  lines that cannot be read",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert_eq!(complained, "line 3002: \"nobody\": an address has the form local@domain\n");
    let again = String::from_utf8_lossy(&daemon.run(&["suppression", "import", path]).stdout).into_owned();
    assert!(again.contains("         0  added") && again.contains("      3000  known already"), "{again}");

    let list = told(&daemon, &["suppression", "list", "--domain", "d1.example", "--limit", "2"]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("ADDRESS") && lines[1].contains("hard_bounce") && lines.len() == 4, "{list}");
    let shown = told(&daemon, &["suppression", "show", "U1@d1.example"]);
    assert!(shown.contains("550 5.1.1 no such, user") && shown.contains("in force"), "{shown}");
    assert_eq!(daemon.run(&["suppression", "show", "nobody@d1.example"]).status.code(), Some(1));

    let export = told(&daemon, &["suppression", "export"]);
    assert_eq!(export.lines().count(), 3001);
    let incident = ["--since", "2023-11-14T22:30:00Z", "--until", "2023-11-14T22:40:00Z"];
    let dry =
        told(&daemon, &[&["suppression", "remove", "--cause", "hard_bounce", "--dry-run"], &incident[..]].concat());
    assert_eq!(dry, "600 entries would be removed\n");
    let done = told(&daemon, &[&["suppression", "remove", "--cause", "hard_bounce"], &incident[..]].concat());
    assert_eq!(done, "600 entries removed\n");
    assert!(!daemon.run(&["suppression", "remove"]).status.success(), "nothing was named");
    assert_eq!(json(&daemon, &["suppression", "stats"])["entries"], 2400);

    // Our own export brings everything back, in both forms.
    let own = daemon.data_dir.join("own.csv");
    fs::write(&own, &export).unwrap();
    let back = told(&daemon, &["suppression", "import", own.to_str().unwrap()]);
    assert!(back.contains("       600  added") && back.contains("      2400  known already"), "{back}");
    assert_eq!(told(&daemon, &["suppression", "export"]), export);
    let lines = told(&daemon, &["suppression", "export", "--format", "jsonl", "--domain", "d3.example"]);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["cause"], &first["scope"]), (&Value::from("hard_bounce"), &Value::from("all")));
}

#[test]
fn a_backup_has_the_list_too() {
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = start(&peer, "", "");
    let file = daemon.data_dir.join("list.txt");
    fs::write(&file, "in-a-file@d1.example\n").unwrap();
    told(&daemon, &["suppression", "import", file.to_str().unwrap()]);
    add(&daemon, "in-the-log@d1.example", &[]);
    let backup = daemon.data_dir.join("backup");
    told(&daemon, &["spool", "backup", backup.to_str().unwrap()]);
    told(&daemon, &["suppression", "remove", "--all"]);
    assert_eq!(json(&daemon, &["suppression", "stats"])["entries"], 0);
    daemon.terminate(Duration::from_secs(30)).expect("a clean end");
    fs::rename(daemon.data_dir.join("spool"), daemon.data_dir.join("spool.old")).unwrap();
    told(&daemon, &["spool", "restore", backup.to_str().unwrap()]);
    daemon.start();
    let export = told(&daemon, &["suppression", "export"]);
    assert!(export.contains("in-a-file@d1.example") && export.contains("in-the-log@d1.example"), "{export}");
}

/// How often the daemon is killed in the short form.
const CYCLES_SHORT: u32 = 4;

#[test]
fn kill_nine_during_adds_and_imports_loses_nothing_that_was_answered() {
    let cycles = crate::harness::count("POSTRIDER_CRASH_CYCLES", CYCLES_SHORT);
    let mut random = fastrand::Rng::with_seed(crate::harness::seed("suppression_kill_nine"));
    let peer = Peer::start(Behaviour::Friendly);
    let mut daemon = start(&peer, "", "");
    let (mut added, mut imported, mut number) = (Vec::new(), Vec::new(), 0);
    for cycle in 0..cycles {
        // A large import and small adds, and the end at some moment of both.
        let file = daemon.data_dir.join(format!("import{cycle}.txt"));
        let text: String = (0..60_000).map(|line| format!("i{cycle}-{line}@bulk.example\n")).collect();
        fs::write(&file, text).unwrap();
        let (wait, tries) = (random.u64(100..4000), random.usize(1..8));
        let (config, path) = (daemon.config.clone(), file.clone());
        let import = thread::spawn(move || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
            let output = command.args(["suppression", "import", "-c"]).arg(config).arg(path).output().unwrap();
            output.status.success()
        });
        for _ in 0..tries {
            let address = format!("a{number}@d1.example");
            number += 1;
            if daemon.run(&["suppression", "add", &address]).status.success() {
                added.push(address);
            }
        }
        thread::sleep(Duration::from_millis(wait));
        daemon.kill();
        imported.push((cycle, import.join().unwrap()));
        daemon.start();
        let export = told(&daemon, &["suppression", "export"]);
        for address in &added {
            assert!(export.contains(&format!("{address},")), "cycle {cycle}: {address} was answered");
        }
        for (import, was_answered) in &imported {
            let there = export.matches(&format!("\ni{import}-")).count();
            assert!(there == 60_000 || (there == 0 && !was_answered), "cycle {cycle}: {there} of import {import}");
        }
    }
    println!("{cycles} kills, {} adds and {} imports answered", added.len(), imported.iter().filter(|i| i.1).count());
}

#[test]
fn without_a_daemon_the_list_is_not_touched_and_a_file_can_be_tried() {
    let peer = Peer::start(Behaviour::Friendly);
    let daemon = Setup::relaying_to(peer.address()).prepare();
    let listed = daemon.run(&["suppression", "list"]);
    assert_eq!(listed.status.code(), Some(69));
    let file = daemon.config.with_file_name("list.txt");
    fs::write(&file, "a@example.com\nb@example.com\n").unwrap();
    let tried = told(&daemon, &["suppression", "import", "--dry-run", file.to_str().unwrap()]);
    assert!(tried.contains("2  to be put in; no daemon runs"), "{tried}");
}
