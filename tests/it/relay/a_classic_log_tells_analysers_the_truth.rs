//! A second log, in Postfix's form: what pflogsumm, fail2ban and the exporters count in it is what happened.

use std::collections::HashMap;
use std::time::Duration;

use crate::harness::{Behaviour, Client, PASSWORD, Peer, Sample, Setup, USER, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// Lines without what differs from run to run: times become `T`, queue ids `#1` …, sessions `s1` …, our process `us`.
fn normal(log: &str) -> Vec<String> {
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut sessions: HashMap<(String, String), usize> = HashMap::new();
    let probes = probes(log);
    let nothing_said = |line: &str| probes.iter().any(|probe| line.contains(probe.as_str()));
    let line = |line: &str| {
        let (date, rest) = line.split_at(15);
        assert!(date.as_bytes()[6].is_ascii_digit() || date.as_bytes()[6] == b' ', "{line}");
        let (host, rest) = rest.trim_start().split_once(' ').unwrap();
        assert_eq!(host, "relay.example.com");
        let (service, rest) = rest.split_once('[').unwrap();
        let (number, text) = rest.split_once("]: ").unwrap();
        let speaker = match service.ends_with("smtpd") {
            true => {
                let next = sessions.len() + 1;
                format!("s{}", sessions.entry((service.to_owned(), number.to_owned())).or_insert(next))
            }
            false => "us".to_owned(),
        };
        let mut words = Vec::new();
        for word in text.split(' ') {
            let bare = word.trim_end_matches([':', ',', '>', ')']);
            let is_id = bare.len() == 12 && bare.starts_with('0') && bare.chars().all(|c| c.is_ascii_alphanumeric());
            let told = match bare.split_once('=') {
                Some(("delay" | "delays", _)) => format!("{}=D,", bare.split_once('=').unwrap().0),
                _ if is_id => {
                    let next = ids.len() + 1;
                    let number = *ids.entry(bare.to_owned()).or_insert(next);
                    word.replace(bare, &format!("#{number}"))
                }
                _ => word.to_owned(),
            };
            words.push(told);
        }
        format!("{service}[{speaker}]: {}", words.join(" "))
    };
    log.lines().filter(|told| !nothing_said(told)).map(line).collect()
}

/// Of connections that only look whether somebody listens.
fn probes(log: &str) -> Vec<String> {
    let idle = log.lines().filter(|line| line.ends_with(" quit=1 commands=1"));
    idle.filter_map(|line| Some(line.split_once("]: ")?.0.split(' ').next_back()?.to_owned() + "]: ")).collect()
}

fn count(lines: &[String], parts: &[&str]) -> usize {
    lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

#[test]
fn line_for_line() {
    let peer = Peer::start(Behaviour::Choosy);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mail.log");
    let mut daemon = Setup::relaying_to(peer.address()).prepare();
    let text = std::fs::read_to_string(&daemon.config).unwrap();
    daemon.overwrite_config(&format!("{text}\n[log]\nclassic = \"{}\"\n", path.display()));
    daemon.start();

    // Two recipients in two domains are two envelopes, and one message.
    let mut client = Client::connect(daemon.submission).unwrap();
    client.hello().unwrap();
    client.log_in(USER, PASSWORD).unwrap();
    client.command("MAIL FROM:<shop@example.com>").unwrap();
    client.command("RCPT TO:<jo@one.example>").unwrap();
    client.command("RCPT TO:<jo@two.example>").unwrap();
    assert_eq!(client.command("RCPT TO:<a b@c>").unwrap().code, 501);
    client.command("DATA").unwrap();
    let body = Sample::with_body("two", b"body\r\n").bytes;
    let stuffed = [body.as_slice(), b"\r\n.\r\n"].concat();
    client.write(&stuffed, crate::harness::Split::Whole).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    client.command("QUIT").unwrap();

    // One who does not exist.
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    let sample = Sample::with_body("dead", b"body\r\n");
    assert_eq!(client.deliver("shop@example.com", "never1@one.example", &sample.bytes).unwrap().code, 250);
    client.command("QUIT").unwrap();

    // A password that is guessed, and a session that is lost.
    let mut client = Client::connect(daemon.submission).unwrap();
    client.hello().unwrap();
    assert!(client.log_in(USER, "guessed").is_err());
    drop(client);

    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("all is told", LIMIT, || {
        let log = read();
        log.matches(": removed").count() == 4 && log.matches("disconnect from").count() - probes(&log).len() == 3
    });
    let lines = normal(&read());
    let shown = lines.join("\n");
    // What pflogsumm calls received, delivered, bounced; and what Postfix would write of each.
    assert_eq!(count(&lines, &["smtpd[", ": client="]), 2, "{shown}");
    assert_eq!(count(&lines, &["postfix/smtp[", "status=sent"]), 3, "{shown}");
    assert_eq!(count(&lines, &["postfix/smtp[", "status=bounced"]), 1, "{shown}");
    assert_eq!(count(&lines, &["postfix/qmgr[us]", "(queue active)"]), 4, "{shown}");
    let port = peer.address().port();
    for want in [
        "postfix/submission/smtpd[s1]: connect from localhost[127.0.0.1]".to_owned(),
        format!("postfix/submission/smtpd[s1]: #1: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username={USER}"),
        "postfix/qmgr[us]: #1: from=<shop@example.com>, size=".to_owned(),
        format!("postfix/smtp[us]: #1: to=<jo@one.example>, relay=127.0.0.2[127.0.0.2]:{port}, delay=D, delays=D, dsn=2."),
        "postfix/submission/smtpd[s1]: disconnect from localhost[127.0.0.1] ehlo=1 auth=1 mail=1 rcpt=2/3 data=1 quit=1 commands=7/8".to_owned(),
        "postfix/smtpd[s2]: #3: client=localhost[127.0.0.1]".to_owned(),
        "postfix/submission/smtpd[s3]: warning: localhost[127.0.0.1]: SASL PLAIN authentication failed: authentication failure, sasl_username=".to_owned(),
        "postfix/submission/smtpd[s3]: lost connection after AUTH from localhost[127.0.0.1]".to_owned(),
        "postfix/submission/smtpd[s3]: disconnect from localhost[127.0.0.1] ehlo=1 auth=0/1 commands=1/2".to_owned(),
        "postfix/bounce[us]: #3: sender non-delivery notification: #".to_owned(),
        "postfix/qmgr[us]: #1: removed".to_owned(),
    ] {
        assert!(lines.iter().any(|line| line.starts_with(&want)), "{want}\n{shown}");
    }
    assert_eq!(
        count(&lines, &["status=bounced (host 127.0.0.2[127.0.0.2] said: 550", "(in reply to RCPT TO command))"]),
        1,
        "{shown}"
    );
    assert_eq!(
        count(
            &lines,
            &["NOQUEUE: reject: RCPT from localhost[127.0.0.1]: 501", "from=<shop@example.com> proto=ESMTP helo=<"]
        ),
        1,
        "{shown}"
    );
    // Our own report has no client.
    assert_eq!(count(&lines, &["from=<>, size="]), 1, "{shown}");
    assert_eq!(daemon.terminate(LIMIT).map(|(status, _)| status.success()), Some(true));
}
