//! A smarthost with a certificate of a private authority gets mail only if `ca_file` names it; AUTH says what the password file says.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Client, Daemon, Nameserver, Setup, eventually, write_secret};
use crate::import::peer::{Hosts, Kind};

const WITHIN: Duration = Duration::from_secs(20);
const HOST: &str = "smarthost.test";

/// A smarthost, and the zone that names it.
fn smarthost(kind: Kind) -> (Hosts, Nameserver) {
    let hosts = Hosts::start(kind, &[HOST.to_owned()]);
    let dns = Nameserver::serve(&format!("{HOST}. A {}\n", hosts.hosts()[0].1));
    (hosts, dns)
}

/// A daemon whose mail all goes to the smarthost, with further keys of the route and of `[delivery]`.
fn daemon(hosts: &Hosts, dns: &Nameserver, route: &str, delivery: &str) -> Daemon {
    let (address, port) = (hosts.hosts()[0].1, hosts.port);
    let text = format!(
        "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"{HOST}:{port}\"]\ntls = \"verify\"\n{route}\n\
         [delivery]\nallow_private_peers = true\n{delivery}\n[dns]\nnameservers = [\"{}\"]\n",
        dns.address()
    );
    Setup::relaying_to((address, port).into()).with_way_out(&text).start()
}

fn send(daemon: &Daemon) {
    let mut client = Client::connect(daemon.smtp).expect("a greeting");
    client.hello().expect("EHLO");
    let text = b"From: a@example.com\r\nX-Test-Id: it\r\n\r\nx\r\n";
    assert_eq!(client.deliver("a@example.com", "b@dest.example", text).expect("a reply").code, 250);
}

/// What the queue's listing says of what was tried and waits.
fn waits_after_a_try(daemon: &Daemon) -> bool {
    let listed = daemon.run(&["queue", "list", "--json"]).stdout;
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("a listing");
    listed.to_string().contains("b@dest.example")
}

#[test]
fn a_certificate_of_a_private_authority_counts_where_ca_file_names_it() {
    let files = tempfile::tempdir().expect("a directory");
    let (hosts, dns) = smarthost(Kind::Trusted);
    let (stranger, _dns) = smarthost(Kind::Trusted);
    let [right, wrong] = [("right.pem", &hosts), ("wrong.pem", &stranger)].map(|(name, of)| {
        let path = files.path().join(name);
        write_secret(&path, &of.authority);
        format!("ca_file = \"{}\"", path.display())
    });
    // The route's file stands in place of that of [delivery].
    let rows = [
        ("", "", false),
        (&*wrong, "", false),
        ("", &*wrong, false),
        (&*wrong, &*right, false),
        (&*right, "", true),
        ("", &*right, true),
        (&*right, &*wrong, true),
    ];
    for (route, delivery, is_trusted) in rows {
        let (hosts_before, row) = (hosts.taken().len(), format!("route: {route:?}, [delivery]: {delivery:?}"));
        let daemon = daemon(&hosts, &dns, route, delivery);
        send(&daemon);
        if is_trusted {
            eventually(&row, WITHIN, || hosts.taken().len() == hosts_before + 1);
            assert!(hosts.taken().iter().all(|taken| taken.tls), "{row}");
        } else {
            eventually(&row, WITHIN, || daemon.log().contains("certificate"));
            assert!(waits_after_a_try(&daemon), "{row}");
            assert_eq!(hosts.taken().len(), hosts_before, "{row}");
        }
    }
}

#[test]
fn auth_says_the_password_of_the_file_and_a_reload_reads_it_again() {
    let files = tempfile::tempdir().expect("a directory");
    let (ca, password) = (files.path().join("ca.pem"), files.path().join("password"));
    // No password is good there: no connection outlives a try, so each try says what the daemon knows by then.
    for kind in [Kind::Trusted, Kind::AuthRefused] {
        let (hosts, dns) = smarthost(kind);
        write_secret(&ca, &hosts.authority);
        write_secret(&password, "first: #\" word \n");
        let keys = format!(
            "ca_file = \"{}\"\nusername = \"relay@user\"\npassword_file = \"{}\"",
            ca.display(),
            password.display()
        );
        let daemon = daemon(&hosts, &dns, &keys, "");
        send(&daemon);
        let said = |password: &str| hosts.logins().contains(&("relay@user".to_owned(), password.to_owned()));
        eventually("the first password is said", WITHIN, || said("first: #\" word "));
        assert!(hosts.in_clear().is_empty());
        if kind == Kind::Trusted {
            eventually("it arrives", WITHIN, || hosts.taken().len() == 1);
            assert_eq!(hosts.taken()[0].login.as_deref(), Some("relay@user"));
            continue;
        }
        write_secret(&password, "second\n");
        daemon.signal(Signal::HUP);
        eventually("the second password is said", WITHIN, || {
            daemon.retry_all();
            said("second")
        });
        assert!(hosts.taken().is_empty() && waits_after_a_try(&daemon));
    }
}
