//! `GET /metrics` of a daemon at work, over the control socket and TCP: what Prometheus' own parser and ours make of it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::faults::faults;
use super::{daemon_with, scrape, scrape_tcp, value};
use crate::harness::{Behaviour, Client, Daemon, Peer, Sample, Setup, USER, eventually};

/// The reference reader, `prometheus_client.openmetrics`' sibling for this format: prints one line for each sample.
const REFERENCE: &str = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as read\n\
                         for family in read(sys.stdin.read()):\n\
                         \x20   assert family.documentation and family.type != 'unknown', family\n\
                         \x20   for sample in family.samples: print(sample.name)\n";

fn deliver(daemon: &Daemon, id: &str, to: &str) -> u16 {
    let sample = Sample::new(id, 500, 1);
    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    client.deliver(&sample.from(), to, &sample.bytes).expect("a reply").code
}

#[test]
fn over_the_control_socket_and_tcp() {
    let peer = Peer::start(Behaviour::Choosy);
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let daemon = daemon_with(Setup::relaying_to(peer.address()), &format!("[metrics]\nbind = \"{address}\"\n"));
    for (id, to) in [("a", "a@dest.example"), ("b", "b@dest.example"), ("c", "later@dest.example")] {
        assert_eq!(deliver(&daemon, id, to), 250);
    }
    assert_eq!(deliver(&daemon, "d", "never@dest.example"), 250);
    let mut client = Client::connect(daemon.submission).expect("a session");
    client.hello().expect("EHLO");
    assert!(client.log_in(USER, "wrong").is_err());

    let mut client = Client::connect(daemon.smtp).expect("a session");
    client.hello().expect("EHLO");
    client.command("MAIL FROM:<e@example.com>").expect("a reply");
    let refused = client.command("RCPT TO:<a@b@c.example>").expect("a reply");
    let status = refused.text().split(' ').next().unwrap_or_default().to_owned();
    assert!(refused.code >= 500 && status.starts_with("5."), "{:?}", refused.lines);
    drop(client);

    let stream = "stream=\"transactional\",kind=\"transactional\"";
    let fate = |page: &str, fate: &str| value(page, &format!("postrider_outcomes_total{{{stream},fate=\"{fate}\"}}"));
    // Four, and a bounce.
    eventually("all were attempted", Duration::from_secs(20), || {
        let (_, page) = scrape(&daemon);
        ["delivered", "deferred", "failed"].iter().map(|word| fate(&page, word).unwrap_or(0.0)).sum::<f64>() >= 5.0
    });
    let (head, page) = scrape(&daemon);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let site = format!("site=\"{}\",source=\"default\"", peer.address());
    let first_mail = "postrider_first_mail_seconds_count{kind=\"transactional\"}";
    for (series, want) in [
        (format!("postrider_messages_accepted_total{{{stream}}}"), 4.0),
        (format!("postrider_recipients_accepted_total{{{stream}}}"), 4.0),
        ("postrider_listener_messages_total{mode=\"smtp\",result=\"accepted\"}".to_owned(), 4.0),
        (format!("postrider_queue_envelopes{{{stream},state=\"deferred\"}}"), 1.0),
        (format!("postrider_site_recipients_total{{{site},verdict=\"deferred\"}}"), 1.0),
        (format!("postrider_site_recipients_total{{{site},verdict=\"failed\"}}"), 1.0),
        ("postrider_deferrals_total{stage=\"rcpt\"}".to_owned(), 1.0),
        (format!("postrider_recipients_refused_total{{mode=\"smtp\",status=\"{status}\"}}"), 1.0),
        ("postrider_logins_total{result=\"rejected\"}".to_owned(), 1.0),
        ("postrider_queue_past_age_envelopes".to_owned(), 0.0),
        ("postrider_queue_no_next_event_envelopes".to_owned(), 0.0),
        ("postrider_spool_full".to_owned(), 0.0),
        ("postrider_alarm_active{cause=\"disk_full\"}".to_owned(), 0.0),
        (first_mail.to_owned(), 5.0),
    ] {
        assert_eq!(value(&page, &series), Some(want), "{series}\n{page}");
    }
    for series in ["process_resident_memory_bytes", "postrider_spool_sync_seconds_total", "process_open_fds"] {
        assert!(value(&page, series).is_some_and(|value| value > 0.0), "{series}\n{page}");
    }
    assert_eq!(faults(&page), Vec::<String>::new(), "{page}");

    let (head, by_tcp) = scrape_tcp(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(faults(&by_tcp), Vec::<String>::new());
    assert_eq!(names(&by_tcp), names(&page));
    let (head, _) = scrape_tcp(address, "/v1/queue");
    assert!(head.starts_with("HTTP/1.1 404 "), "only numbers are for everybody: {head}");

    let shown = daemon.run(&["metrics", "queue_envelopes"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.starts_with("# HELP postrider_queue_envelopes ") && shown.lines().count() >= 3, "{shown}");
    match read_by_reference(&page) {
        Some(samples) => assert_eq!(samples, page.lines().filter(|line| !line.starts_with('#')).count()),
        None => println!("python3 has no prometheus_client: not read by it"),
    }
}

fn names(page: &str) -> Vec<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect()
}

/// How many samples Prometheus' own Python client reads, if it is installed.
fn read_by_reference(page: &str) -> Option<usize> {
    let probe = Command::new("python3").args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut reader = Command::new("python3");
    reader.args(["-c", REFERENCE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = reader.spawn().expect("python3");
    reader.stdin.take().expect("its input").write_all(page.as_bytes()).expect("the page written");
    let output = reader.wait_with_output().expect("its end");
    assert!(output.status.success(), "prometheus_client refuses the page:\n{page}");
    Some(String::from_utf8_lossy(&output.stdout).lines().count())
}
