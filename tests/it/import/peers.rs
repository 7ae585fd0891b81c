//! What Postfix does with peers of every kind, by the config of each case, and what our daemon does by the imported one: in
//! clear, under TLS, with which login, or not at all. The answers were recorded by `tests/postfix/meet.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postrider::config::Config;
use postrider::postfix::{Import, Listener, Mode, Tls, Value, Way};

use super::answers::place_of;
use super::peer::{Hosts, Kind, Taken};
use super::{DOCS, cases, import_case, root};
use crate::harness::{Client, Daemon, Nameserver, Setup, write_secret};

/// An envelope, and what became of it at Postfix.
#[derive(serde::Deserialize, Clone, Debug)]
struct Theirs {
    sender: String,
    recipient: String,
    /// Where it was taken; `None`: it waits.
    host: Option<String>,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    login: Option<String>,
    /// At the second attempt.
    #[serde(default)]
    later: bool,
}

#[derive(serde::Deserialize, Clone)]
struct Record {
    password_in_clear: BTreeSet<String>,
    envelopes: Vec<Theirs>,
}

/// One envelope at one kind of peer.
#[derive(Debug)]
struct Meeting<'a> {
    kind: Kind,
    theirs: &'a Theirs,
    ours: Option<&'a Taken>,
    /// Our route has a login.
    has_login: bool,
    /// Our route has TLS from the first octet.
    is_wrapped: bool,
}

type Fits = fn(&Meeting<'_>) -> bool;

/// Where we differ on purpose: what Postfix does, in the words of docs/FROM-POSTFIX.md, "What differs"; which meetings those
/// are, and how many of all cases.
const DIFFERENCES: &[(&str, Fits, usize)] = &[
    (
        "a password goes to a smarthost in clear if it has no STARTTLS, or at level `none`",
        |m| {
            let theirs_in_clear = m.theirs.login.is_some() && !m.theirs.tls;
            theirs_in_clear && m.ours.is_none_or(|ours| ours.tls && ours.login == m.theirs.login)
        },
        30,
    ),
    (
        "`smtp_tls_wrappermode` with `encrypt` takes any certificate",
        |m| m.is_wrapped && matches!(m.kind, Kind::OtherName | Kind::SelfSigned) && m.theirs.tls && m.ours.is_none(),
        6,
    ),
    (
        "at `may`, mail for a host whose TLS fails waits for `minimal_backoff_time`, then goes in clear",
        |m| {
            let same = |ours: &Taken| m.theirs.host.as_deref() == Some(&ours.host) && !m.theirs.tls && !ours.tls;
            m.kind == Kind::Broken && m.theirs.later && !m.has_login && m.ours.is_some_and(same)
        },
        129,
    ),
    (
        "at `may`, any host without STARTTLS gets mail in clear",
        |m| {
            let (_, domain) = m.theirs.recipient.split_once('@').unwrap_or_default();
            let theirs_in_clear = m.theirs.host.is_some() && !m.theirs.tls && m.theirs.login.is_none();
            is_known(domain) && theirs_in_clear && m.ours.is_none()
        },
        27,
    ),
    (
        "a password is said to hosts that DNS names too",
        |m| {
            let is_keyed = m.theirs.recipient.ends_with("@gmail.com") && !m.has_login;
            let waits = m.theirs.host.is_none() && matches!(m.kind, Kind::AuthRefused | Kind::Broken);
            is_keyed && (waits || m.theirs.login.is_some()) && m.ours.is_some_and(|ours| ours.login.is_none())
        },
        21,
    ),
    (
        "a host that offers no AUTH gets mail without the login",
        |m| {
            m.kind == Kind::NoAuth
                && m.has_login
                && m.theirs.host.is_some()
                && m.theirs.login.is_none()
                && m.ours.is_none()
        },
        25,
    ),
];

/// Providers whose hosts all have TLS: conf/providers.toml.
fn is_known(domain: &str) -> bool {
    domain == "orange.fr"
}

fn is_same(meeting: &Meeting<'_>) -> bool {
    let theirs = meeting.theirs;
    match (&theirs.host, meeting.ours) {
        (None, None) => true,
        (Some(host), Some(ours)) => {
            *host == ours.host && theirs.tls == ours.tls && theirs.login == ours.login && !theirs.later
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The hosts that a case may lead to, and a zone of them: the same as in meet.py.
struct World {
    names: BTreeSet<String>,
    mx: BTreeMap<String, String>,
}

impl World {
    fn of(import: &Import, record: &Record) -> World {
        let mut world = World { names: BTreeSet::new(), mx: BTreeMap::new() };
        // Copies go there (always_bcc), and to no other host.
        world.look_up("example.com");
        let domains = record.envelopes.iter().filter_map(|envelope| envelope.recipient.split_once('@'));
        for (_, domain) in domains {
            world.look_up(domain);
        }
        for route in &import.target.routes {
            let Way::Hosts(hops) = &route.way else { continue };
            for hop in hops.iter().chain(&route.fallback).filter(|hop| *hop != "mx:") {
                let name = hop.trim_start_matches("mx:").split(':').next().unwrap_or_default();
                match hop.starts_with("mx:") {
                    true => world.look_up(name),
                    false => drop(world.names.insert(name.to_owned())),
                }
            }
        }
        world
    }

    fn look_up(&mut self, domain: &str) {
        self.mx.insert(domain.to_owned(), format!("mx.{domain}"));
        self.names.insert(format!("mx.{domain}"));
    }

    /// The host that an envelope is brought to first.
    fn first_host(&self, config: &Config, envelope: &Theirs) -> String {
        let route = place_of(&envelope.sender, &envelope.recipient, config).map(|at| &config.routes[at]);
        let hop = route.and_then(|route| route.next_hop.first()).map(ToString::to_string);
        let (_, domain) = envelope.recipient.split_once('@').expect("an address");
        let hop = hop.filter(|hop| hop != "mx:").unwrap_or_else(|| format!("mx:{domain}"));
        let name = hop.trim_start_matches("mx:").split(':').next().unwrap_or_default();
        if hop.starts_with("mx:") { self.mx[name].clone() } else { name.to_owned() }
    }

    fn zone(&self, hosts: &Hosts) -> String {
        let mut zone = String::new();
        for (domain, host) in &self.mx {
            let _ = writeln!(zone, "{domain}. MX 10 {host}.");
        }
        for (name, address) in hosts.hosts() {
            let _ = writeln!(zone, "{name}. A {address}");
        }
        zone
    }
}

/// The hosts' own ports in place of those that the config names, and literals by their loopback address.
fn placed(hop: &str, hosts: &Hosts) -> String {
    if hop == "mx:" {
        return hop.to_owned();
    }
    let (mx, rest) = hop.strip_prefix("mx:").map_or(("", hop), |rest| ("mx:", rest));
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    let port = if port == "465" { hosts.wrapped_port } else { hosts.port };
    let literal = hosts.hosts().iter().find(|(host, _)| host == name && host.parse::<std::net::IpAddr>().is_ok());
    match literal {
        Some((_, address)) => format!("{address}:{port}"),
        None => format!("{mx}{name}:{port}"),
    }
}

/// The imported config, but for where it listens, what it is told of DNS, ports, and how fast it sends.
fn start(mut import: Import, hosts: &Hosts, dns: &Nameserver) -> Daemon {
    let mut daemon = Setup::relaying_to(([127, 0, 0, 1], 25).into()).prepare();
    let directory = daemon.config.parent().expect("a directory").to_owned();
    for file in &import.files {
        let path = directory.join(&file.path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        write_secret(&path, &file.text);
    }
    write_secret(&directory.join("authority.pem"), &hosts.authority);
    let target = &mut import.target;
    (target.tls, target.credentials) = (None, Vec::new());
    let (bind, trusted) = (daemon.smtp, vec!["127.0.0.0/8".to_owned()]);
    target.listeners = vec![Listener { bind, mode: Mode::Smtp, trusted, from: String::new() }];
    for source in &mut target.sources {
        source.address = "0.0.0.0".to_owned();
    }
    for route in &mut target.routes {
        if let Way::Hosts(hops) = &mut route.way {
            hops.iter_mut().for_each(|hop| *hop = placed(hop, hosts));
        }
        route.fallback.iter_mut().for_each(|hop| *hop = placed(hop, hosts));
        route.rate = None;
    }
    target.recipient_domains.iter_mut().for_each(|domain| domain.rate = None);
    target.recipient_domains.retain(|domain| domain.tls.is_some());
    target.delivery.retain(|(key, ..)| !key.ends_with("message_rate") && *key != "ca_file");
    target.delivery.push(("ca_file", Value::Text("authority.pem".to_owned()), "the test's authority"));
    target.delivery.push(("port", Value::Number(hosts.port.into()), "the test's hosts"));
    // What smtpd asks of senders; these envelopes come from programs.
    target.rewrite.retain(|(key, ..)| *key != "sender_access");
    target.log.clear();
    let data_dir = format!("data_dir = \"{}\"\n\nhostname", daemon.data_dir.display());
    let text = target.toml().replacen("hostname", &data_dir, 1);
    let text = text.replacen("[delivery]\n", "[delivery]\nallow_private_peers = true\n", 1);
    daemon.overwrite_config(&format!("{text}\n[dns]\nnameservers = [\"{}\"]\n", dns.address()));
    daemon.start();
    daemon
}

/// What becomes of the envelopes of a case at one kind of peer.
fn meet(case: &str, kind: Kind, record: &Record) -> Seen {
    let import = import_case(case);
    let config = Config::parse(&import.target.toml(), Path::new("postrider.toml")).expect("a sound config");
    let world = World::of(&import, record);
    let names: Vec<String> = world.names.iter().cloned().collect();
    let hosts = Hosts::start(kind, &names);
    let dns = Nameserver::of_everything(&world.zone(&hosts));
    let daemon = start(import, &hosts, &dns);
    let mut client = Client::connect(daemon.smtp).expect("a greeting");
    client.hello().expect("EHLO");
    for (place, envelope) in record.envelopes.iter().enumerate() {
        let author = if envelope.sender.is_empty() { "mailer-daemon@example.com" } else { &envelope.sender };
        let text = format!("From: {author}\r\nTo: {}\r\nX-Test-Id: {place}\r\n\r\nx\r\n", envelope.recipient);
        let reply = client.deliver(&envelope.sender, &envelope.recipient, text.as_bytes()).expect("a reply");
        assert_eq!(reply.code, 250, "{case}: {envelope:?}: {reply:?}");
    }
    let own = |taken: &Taken| {
        let place: Option<usize> = taken.id.parse().ok();
        place.is_some_and(|place| record.envelopes[place].recipient == taken.recipient)
    };
    let firsts: Vec<String> = record.envelopes.iter().map(|envelope| world.first_host(&config, envelope)).collect();
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut settled = 0;
    let mut before = Vec::new();
    // Each was tried, and nothing has changed for a second: then once more, for those that stood behind others.
    loop {
        let taken: Vec<Taken> = hosts.taken().into_iter().filter(own).collect();
        let (waiting, is_tried) = (waiting(&daemon), firsts.iter().all(|host| hosts.is_visited(host)));
        let is_whole = taken.len() + waiting.len() == record.envelopes.len();
        settled = if is_tried && is_whole && before == taken { settled + 1 } else { 0 };
        if settled > 0 && waiting.is_empty() || settled == 2 * STILL {
            return (taken, hosts.in_clear());
        }
        if settled == STILL {
            daemon.retry_all();
        }
        before = taken;
        assert!(Instant::now() < deadline, "{case} {}: {waiting:?}\n{}", kind.name(), daemon.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Daemons side by side.
const RUNS_AT_ONCE: usize = 6;
/// What was taken, and where a password was said in clear.
type Seen = (Vec<Taken>, BTreeSet<String>);

/// Looks at what was taken, 200 ms apart, after which nothing more is expected: two seconds, for six daemons and their peers
/// share a machine with the tests beside them.
const STILL: u32 = 10;

/// Recipients that wait; not of reports and of copies for others.
fn waiting(daemon: &Daemon) -> Vec<String> {
    let output = daemon.run(&["queue", "list", "--json", "--limit", "0"]);
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("a listing");
    let each = listed.iter().filter_map(|envelope| envelope["recipients"][0]["address"].as_str());
    each.filter(|recipient| !recipient.ends_with("@example.com")).map(str::to_owned).collect()
}

fn records(case: &str) -> BTreeMap<String, Record> {
    let text = std::fs::read_to_string(root().join("cases").join(case).join("peers.json")).expect("a record");
    serde_json::from_str(&text).expect("a record of peers")
}

/// Records by case, and by kind.
type Records = BTreeMap<String, BTreeMap<String, Record>>;

/// Every case meets every kind.
fn meet_all(records: &Records) -> Vec<(&str, Kind, Seen)> {
    let runs: Vec<(&str, Kind)> = records.keys().flat_map(|case| Kind::ALL.map(|kind| (case.as_str(), kind))).collect();
    let next = AtomicUsize::new(0);
    let one = || {
        let &(case, kind) = runs.get(next.fetch_add(1, Ordering::Relaxed))?;
        Some((case, kind, meet(case, kind, &records[case][kind.name()])))
    };
    let work = || std::iter::from_fn(one).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..RUNS_AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("runs")).collect()
    })
}

#[test]
fn peers_of_every_kind_are_met_as_postfix_meets_them() {
    let (mut counts, mut meetings, mut unnamed) = (vec![0; DIFFERENCES.len()], 0, Vec::new());
    let mut in_clear_there = 0;
    let known: Records = cases().into_iter().map(|case| (case.clone(), records(&case))).collect();
    for (case, kind, (taken, in_clear)) in meet_all(&known) {
        let record = &known[case][kind.name()];
        assert!(in_clear.is_empty(), "{case} {}: a password in clear at {in_clear:?}", kind.name());
        assert!(!record.envelopes.is_empty(), "{case}");
        in_clear_there += record.password_in_clear.len();
        let import = import_case(case);
        let config = Config::parse(&import.target.toml(), Path::new("postrider.toml")).expect("a sound config");
        for (place, theirs) in record.envelopes.iter().enumerate() {
            let ours: Vec<&Taken> = taken.iter().filter(|taken| taken.id == place.to_string()).collect();
            assert!(ours.len() < 2, "{case} {}: {ours:?}", kind.name());
            let route = place_of(&theirs.sender, &theirs.recipient, &config).map(|at| &import.target.routes[at]);
            let has_login = route.is_some_and(|route| route.login.is_some());
            let is_wrapped = route.is_some_and(|route| route.tls == Some(Tls::Implicit));
            let meeting = Meeting { kind, theirs, ours: ours.first().copied(), has_login, is_wrapped };
            meetings += 1;
            if is_same(&meeting) {
                continue;
            }
            match DIFFERENCES.iter().position(|(_, fits, _)| fits(&meeting)) {
                Some(place) => counts[place] += 1,
                None => unnamed.push(format!("{case}: {meeting:?}")),
            }
        }
    }
    assert!(unnamed.is_empty(), "{} of {meetings}:\n{}", unnamed.len(), unnamed.join("\n"));
    for (name, ..) in DIFFERENCES {
        assert!(DOCS.contains(name), "docs/FROM-POSTFIX.md does not say: {name}");
    }
    assert!(in_clear_there > 0, "Postfix was seen to say passwords in clear");
    let wanted: Vec<(&str, usize)> = DIFFERENCES.iter().map(|(name, _, count)| (*name, *count)).collect();
    let counted: Vec<(&str, usize)> =
        DIFFERENCES.iter().zip(counts).map(|((name, ..), count)| (*name, count)).collect();
    assert_eq!(counted, wanted, "of {meetings}");
}
