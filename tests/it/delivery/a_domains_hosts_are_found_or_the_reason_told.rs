//! DNS against a name server in this process, on loopback.

use std::net::IpAddr;
use std::time::Duration;

use postrider::dns::{Dns, Families, Finality, LookupError, Settings};
use postrider::mail::Domain;
use postrider::time::Timestamp;
use tokio::net::UdpSocket;

use crate::harness::Zone;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn resolver(zone: &Zone, change: impl FnOnce(&mut Settings)) -> Dns {
    let mut settings = Settings {
        nameservers: Some(vec![zone.address]),
        known_name: domain("known.test"),
        timeout: Duration::from_secs(2),
        retries: 0,
        ..Settings::default()
    };
    change(&mut settings);
    Dns::new(settings).unwrap()
}

fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

/// `preference name=addresses` of each host, or `deferred 4.4.3`.
async fn told(dns: &Dns, of: &str, now: Timestamp) -> String {
    match dns.mail_hosts(&domain(of), now).await {
        Ok(hosts) => {
            let host = |host: &postrider::dns::Host| {
                let mut addresses: Vec<String> = host.addresses.iter().map(IpAddr::to_string).collect();
                addresses.sort();
                format!("{} {}={}", host.preference, host.name, addresses.join("+"))
            };
            hosts.iter().map(host).collect::<Vec<_>>().join(" ")
        }
        Err(failure) if failure.finality == Finality::Final => format!("final {}", failure.status),
        Err(failure) => format!("deferred {}", failure.status),
    }
}

const ZONE: &str = "
    known.test. A 9.9.9.9
    plain.test. MX 20 mx2.test.
    plain.test. MX 10 mx1.test.
    mx1.test. A 192.0.2.1
    mx1.test. A 192.0.2.11
    mx2.test. A 192.0.2.2
    mx2.test. AAAA 2001:db8::2
    implicit.test. A 192.0.2.3
    null.test. MX 0 .
    nullandmore.test. MX 0 .
    nullandmore.test. MX 10 mx1.test.
    alias.test. CNAME plain.test.
    aliasedhost.test. MX 10 aliasmx.test.
    aliasmx.test. CNAME mx1.test.
    deadmx.test. MX 10 nowhere.test.
    halfdead.test. MX 10 nowhere.test.
    halfdead.test. MX 20 mx2.test.
    textonly.test. TXT hello
    six.test. MX 10 mxsix.test.
    mxsix.test. AAAA 2001:db8::6
    foreign.test. MX 10 mx.elsewhere.example.
    partlyforeign.test. MX 10 mx.elsewhere.example.
    partlyforeign.test. MX 20 mx1.test.
    oursbest.test. MX 10 us.test.
    oursbest.test. MX 20 mx1.test.
    oursbackup.test. MX 10 mx1.test.
    oursbackup.test. MX 20 us.test.
    oursbackup.test. MX 30 mx2.test.
    oursbyaddress.test. MX 10 mx1.test.
    oursbyaddress.test. MX 20 othername.test.
    oursbyaddress.test. MX 20 mx2.test.
    us.test. A 192.0.2.77
    othername.test. A 192.0.2.77
    twice.test. MX 20 mx1.test.
    twice.test. MX 10 mx1.test.
    loop1.test. CNAME loop2.test.
    loop2.test. CNAME loop1.test.
    texts.test. TXT v=spf1 -all
";

#[tokio::test]
async fn every_kind_of_domain_has_its_answer() {
    let zone = Zone::serve(ZONE).await;
    let dns = resolver(&zone, |settings| {
        settings.own_names = vec![domain("us.test")];
        settings.own_addresses = vec!["192.0.2.77".parse().unwrap()];
    });
    let one_and_two = "10 mx1.test=192.0.2.1+192.0.2.11 20 mx2.test=192.0.2.2";
    let rows = [
        ("plain.test", one_and_two),
        ("implicit.test", "0 implicit.test=192.0.2.3"),
        ("null.test", "final 5.1.10"),
        ("nullandmore.test", "10 mx1.test=192.0.2.1+192.0.2.11"),
        ("alias.test", one_and_two),
        ("aliasedhost.test", "10 aliasmx.test=192.0.2.1+192.0.2.11"),
        ("twice.test", "10 mx1.test=192.0.2.1+192.0.2.11"),
        // An MX whose hosts have no address is no implicit MX.
        ("deadmx.test", "final 5.4.4"),
        ("halfdead.test", "20 mx2.test=192.0.2.2"),
        ("textonly.test", "final 5.4.4"),
        ("six.test", "final 5.4.4"),
        ("nowhere.test", "final 5.1.2"),
        // The server refuses what it does not serve: a failure, not an absence.
        ("elsewhere.example", "deferred 4.4.3"),
        ("foreign.test", "deferred 4.4.3"),
        ("partlyforeign.test", "20 mx1.test=192.0.2.1+192.0.2.11"),
        ("loop1.test", "final 5.4.4"),
        ("oursbest.test", "final 5.4.6"),
        ("oursbackup.test", "10 mx1.test=192.0.2.1+192.0.2.11"),
        ("oursbyaddress.test", "10 mx1.test=192.0.2.1+192.0.2.11"),
    ];
    for (of, want) in rows {
        assert_eq!(told(&dns, of, NOW).await, want, "{of}");
    }
}

#[tokio::test]
async fn the_families_of_the_sources_are_asked_for() {
    let zone = Zone::serve(ZONE).await;
    let rows = [(Families::V4, "192.0.2.2"), (Families::V6, "2001:db8::2"), (Families::Both, "192.0.2.2+2001:db8::2")];
    for (families, want) in rows {
        let dns = resolver(&zone, |settings| settings.families = families);
        let hosts = told(&dns, "halfdead.test", NOW).await;
        assert_eq!(hosts, format!("20 mx2.test={want}"));
    }
}

#[tokio::test]
async fn equal_preferences_come_in_every_order() {
    let zone = Zone::serve(ZONE).await;
    zone.add("equal.test. MX 10 mx1.test.\nequal.test. MX 10 mx2.test.").await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let hosts = resolver(&zone, |_| {}).mail_hosts(&domain("equal.test"), NOW).await.unwrap();
        first.insert(hosts[0].name.to_string());
    }
    assert_eq!(first.len(), 2);
}

#[tokio::test]
async fn absence_is_believed_while_a_known_name_resolves_or_when_heard_again() {
    let zone = Zone::serve(ZONE).await;
    let after = |secs| NOW.after(Duration::from_secs(secs));
    // The known name is refused: the resolver is not to be trusted alone.
    let dns = resolver(&zone, |settings| {
        settings.known_name = domain("known.example");
        // The resolver's own memory runs on the real clock; this test's does not.
        settings.ttl_min = Duration::ZERO;
    });
    assert_eq!(told(&dns, "nowhere.test", NOW).await, "deferred 4.1.2");
    let until = dns.mail_hosts(&domain("nowhere.test"), NOW).await.unwrap_err().until;
    assert_eq!(until, after(30));
    assert_eq!(told(&dns, "nowhere.test", after(299)).await, "deferred 4.1.2");
    assert_eq!(told(&dns, "nowhere.test", after(330)).await, "final 5.1.2");
    // It came to be in between.
    assert_eq!(told(&dns, "late.test", NOW).await, "deferred 4.1.2");
    zone.add("late.test. MX 10 mx1.test.").await;
    assert_eq!(told(&dns, "late.test", after(1)).await, "deferred 4.1.2", "kept for its time");
    assert_eq!(told(&dns, "late.test", after(30)).await, "10 mx1.test=192.0.2.1+192.0.2.11");
}

#[tokio::test]
async fn a_silent_server_defers_and_is_not_asked_by_everybody() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        nameservers: Some(vec![silent.local_addr().unwrap()]),
        timeout: Duration::from_millis(200),
        retries: 0,
        ..Settings::default()
    };
    let dns = Dns::new(settings).unwrap();
    let ask = || told(&dns, "plain.test", NOW);
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    assert_eq!([a, b, c], ["deferred 4.4.3"; 3]);
    let (mut buffer, mut questions) = ([0u8; 512], 0);
    while silent.try_recv_from(&mut buffer).is_ok() {
        questions += 1;
    }
    assert!((1..=4).contains(&questions), "{questions} questions");
    assert_eq!(told(&dns, "plain.test", NOW.after(Duration::from_secs(29))).await, "deferred 4.4.3");
    assert!(silent.try_recv_from(&mut buffer).is_err(), "a kept failure is not asked for again");
}

#[tokio::test]
async fn a_huge_answer_is_bounded() {
    let zone = Zone::serve(ZONE).await;
    let mut lines = String::new();
    for n in 0..300 {
        lines.push_str(&format!("huge.test. MX {n} h{n}.test.\nh{n}.test. A 192.0.2.1\n"));
        lines.push_str(&format!("many.test. A 198.51.{}.{}\n", 100 + n / 250, n % 250));
    }
    zone.add(&lines).await;
    let dns = resolver(&zone, |_| {});
    let hosts = dns.mail_hosts(&domain("huge.test"), NOW).await.unwrap();
    assert_eq!(hosts.len(), 16);
    let hosts = dns.mail_hosts(&domain("many.test"), NOW).await.unwrap();
    assert_eq!(hosts.iter().map(|host| host.addresses.len()).collect::<Vec<_>>(), [100]);
}

#[tokio::test]
async fn single_records_can_be_asked_for() {
    let zone = Zone::serve(ZONE).await;
    let dns = resolver(&zone, |_| {});
    assert_eq!(dns.texts(&domain("texts.test")).await, Ok(vec!["v=spf1-all".to_owned()]));
    assert_eq!(dns.texts(&domain("mx1.test")).await, Err(LookupError::NoRecord));
    assert_eq!(dns.texts(&domain("nowhere.test")).await, Err(LookupError::NoName));
    assert!(matches!(dns.names_of("192.0.2.1".parse().unwrap()).await, Err(LookupError::Failed(_))));
    assert_eq!(dns.mx(&domain("null.test")).await, Ok(vec![(0, None)]));
    let literal = dns.host("127.0.0.1", 2525, NOW).await.unwrap();
    assert_eq!((&*literal.name, literal.port, literal.addresses.len()), ("127.0.0.1", 2525, 1));
    assert_eq!(dns.host("[::1]", 25, NOW).await.unwrap().addresses, ["::1".parse::<IpAddr>().unwrap()]);
    assert_eq!(dns.host("mx2.test", 25, NOW).await.unwrap().addresses, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(dns.host("nowhere.test", 25, NOW).await.unwrap_err().finality, Finality::Deferred);
}
