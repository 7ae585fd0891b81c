//! Routes by sender, by address and by subdomain; routes that refuse, wait and drop; one source, a fallback, MX by name.

use std::time::Duration;

use crate::harness::{Behaviour, Client, Daemon, Nameserver, Peer, Setup, eventually, port};

const WITHIN: Duration = Duration::from_secs(20);

fn client(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.smtp).unwrap();
    client.hello().unwrap();
    client
}

fn send(client: &mut Client, from: &str, to: &[&str]) {
    assert_eq!(client.command(&format!("MAIL FROM:<{from}>")).unwrap().code, 250);
    for to in to {
        assert_eq!(client.command(&format!("RCPT TO:<{to}>")).unwrap().code, 250, "{to}");
    }
    assert_eq!(client.command("DATA").unwrap().code, 354);
    client.write(b"From: a@example.com\r\nSubject: x\r\n\r\nx\r\n.\r\n", crate::harness::Split::Whole).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
}

fn taken(peer: &Peer) -> Vec<String> {
    let mut all: Vec<String> = peer.receipts().iter().flat_map(|receipt| receipt.to.clone()).collect();
    all.sort();
    all
}

#[test]
fn the_most_specific_sender_and_then_the_most_specific_recipient_choose_the_host() {
    let [plain, of_sender, of_one, below] = [(); 4].map(|()| Peer::start(Behaviour::Friendly));
    let route = |keys: &str, peer: &Peer| format!("[[route]]\n{keys}\nnext_hop = [\"{}\"]\n", peer.address());
    let routes = [
        route("recipient_domain = \"*\"", &plain),
        route("recipient_domain = \"*\"\nsender = \"@s.example\"", &of_sender),
        route("recipient_domain = \"one@dest.example\"", &of_one),
        route("recipient_domain = \".dest.example\"", &below),
        "[[route]]\nrecipient_domain = \"closed.example\"\nfail = \"5.7.1 not there\"\n".to_owned(),
        "[[route]]\nrecipient_domain = \"void.example\"\ndiscard = true\n".to_owned(),
        "[[route]]\nrecipient_domain = \"later.example\"\nretry = \"4.3.0 not yet\"\n".to_owned(),
    ];
    let mut daemon = Setup::relaying_to(plain.address()).with_way_out(&routes.concat()).start();
    let mut client = client(&daemon);
    let all = ["one@dest.example", "two@dest.example", "x@sub.dest.example", "y@void.example", "z@later.example"];
    send(&mut client, "a@example.com", &all);
    send(&mut client, "a@s.example", &["one@dest.example", "two@dest.example", "x@sub.dest.example"]);
    client.command("MAIL FROM:<a@example.com>").unwrap();
    let refused = client.command("RCPT TO:<n@closed.example>").unwrap();
    assert_eq!((refused.code, refused.text()), (550, "5.7.1 <n@closed.example>: not there"));
    client.command("RSET").unwrap();
    let arrived = || {
        taken(&plain) == ["two@dest.example"]
            && taken(&of_one) == ["one@dest.example"]
            && taken(&below) == ["x@sub.dest.example"]
            && taken(&of_sender) == ["one@dest.example", "two@dest.example", "x@sub.dest.example"]
    };
    eventually("each at its own host", WITHIN, arrived);
    // What waits says why, and what is dropped is gone.
    eventually("only what waits is left", WITHIN, || {
        let listed = String::from_utf8(daemon.run(&["queue", "list", "--json"]).stdout).unwrap();
        listed.matches("\"id\"").count() == 1 && listed.contains("later.example")
    });
    // The choice outlives the process.
    of_sender.become_(Behaviour::Closed);
    send(&mut client, "b@s.example", &["three@dest.example"]);
    daemon.terminate(Duration::from_secs(15)).unwrap();
    of_sender.become_(Behaviour::Friendly);
    daemon.start();
    daemon.retry_all();
    eventually("at the sender's host", WITHIN, || taken(&of_sender).contains(&"three@dest.example".to_owned()));
}

#[test]
fn a_fallback_is_tried_when_no_next_hop_answers_and_a_name_may_be_looked_up_by_mx() {
    let (dead, backup, by_mx) = (port::free(), Peer::start(Behaviour::Friendly), Peer::start(Behaviour::Friendly));
    let zone = "relays.test. MX 10 mx.test.\nmx.test. A 127.0.0.2\n";
    let dns = Nameserver::serve(zone);
    let text = format!(
        "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"127.0.0.2:{dead}\"]\nfallback = [\"{}\"]\n\
         [[route]]\nrecipient_domain = \"mx.example\"\nnext_hop = [\"mx:relays.test:{}\"]\n\
         [dns]\nnameservers = [\"{}\"]\n[delivery]\nallow_private_peers = true\n",
        backup.address(),
        by_mx.address().port(),
        dns.address(),
    );
    let daemon = Setup::relaying_to(backup.address()).with_way_out(&text).start();
    let mut client = client(&daemon);
    send(&mut client, "a@example.com", &["a@dest.example", "b@mx.example"]);
    eventually("by fallback and by MX", WITHIN, || {
        taken(&backup) == ["a@dest.example"] && taken(&by_mx) == ["b@mx.example"]
    });
}

#[test]
fn a_route_with_a_source_leaves_by_that_address_alone() {
    let peer = Peer::start(Behaviour::Friendly);
    let dns = Nameserver::serve("bank.test. MX 10 mx.test.\nother.test. MX 10 mx.test.\nmx.test. A 127.0.0.2\n");
    // The pool's own source is no address of this machine: what goes by the pool waits.
    let text = format!(
        "[source.a]\naddress = \"192.0.2.1\"\n[source.b]\naddress = \"127.0.0.4\"\n[pool.default]\nsources = [\"a\"]\n\
         [[route]]\nrecipient_domain = \"bank.test\"\nnext_hop = [\"mx:\"]\nsource = \"b\"\n\
         [dns]\nnameservers = [\"{}\"]\n[delivery]\nallow_private_peers = true\nport = {}\n",
        dns.address(),
        peer.address().port(),
    );
    let daemon = Setup::relaying_to(peer.address()).with_way_out(&text).start();
    let mut client = client(&daemon);
    send(&mut client, "a@example.com", &["b@other.test", "a@bank.test"]);
    eventually("what the route says arrives", WITHIN, || taken(&peer) == ["a@bank.test"]);
    let listed = String::from_utf8(daemon.run(&["queue", "list", "--json"]).stdout).unwrap();
    assert!(listed.contains("other.test"), "{listed}");
}

#[test]
fn an_extension_takes_the_route_of_its_user() {
    let [plain, of_user, of_sender] = [(); 3].map(|()| Peer::start(Behaviour::Friendly));
    let route = |keys: &str, peer: &Peer| format!("[[route]]\n{keys}\nnext_hop = [\"{}\"]\n", peer.address());
    let text = [
        "[local]\nrecipient_delimiter = \"+\"\n".to_owned(),
        route("recipient_domain = \"*\"", &plain),
        route("recipient_domain = \"user@dest.example\"", &of_user),
        route("recipient_domain = \"*\"\nsender = \"list@example.com\"", &of_sender),
    ];
    let daemon = Setup::relaying_to(plain.address()).with_way_out(&text.concat()).start();
    let mut client = client(&daemon);
    send(&mut client, "a@example.com", &["user+x@dest.example", "user-x@dest.example"]);
    send(&mut client, "list+a=b@example.com", &["c@dest.example"]);
    eventually("each at its own host", WITHIN, || {
        taken(&of_user) == ["user+x@dest.example"]
            && taken(&plain) == ["user-x@dest.example"]
            && taken(&of_sender) == ["c@dest.example"]
    });
}
