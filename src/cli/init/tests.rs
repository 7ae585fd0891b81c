//! Tests of `init`: what it prints, word by word, and what it leaves on the disk.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::Config;

/// Keys of fixed bytes, so that what is printed can be compared.
fn key(selector: &'static str, algorithm: Algorithm, public: &str) -> DkimKey {
    let value = format!("v=DKIM1; k={}; p={public}", algorithm.name());
    let record = signer::Record { name: format!("{selector}._domainkey.example.com"), value };
    DkimKey { selector, pem: String::new(), record }
}

fn fixed(address: Option<Address>) -> Plan {
    Plan {
        domain: "example.com".parse().unwrap(),
        hostname: "relay.example.com".parse().unwrap(),
        directory: "/etc/postrider".into(),
        data_dir: "/var/lib/postrider".into(),
        address,
        local: None,
        smarthost: None,
        bounces: BounceSide::On,
        password: "correcthorsebatterystaple".to_owned(),
        password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g".to_owned(),
        dkim: [key("r1", Algorithm::Rsa, &"qq".repeat(196)), key("e1", Algorithm::Ed25519, "u7u7u7s=")],
        certificate: Certificate { chain_pem: String::new(), key_pem: String::new() },
    }
}

#[test]
fn what_is_printed_is_what_the_golden_file_has() {
    let local = fixed(Some(Address::Local("203.0.113.10".parse().unwrap())));
    let said = format!("{}\n==== postrider.toml\n\n{}", local.report("(group)"), local.config());
    assert_eq!(said, include_str!("golden.txt"));
}

#[test]
fn without_an_address_no_record_is_invented() {
    let plan = fixed(None);
    let kinds: Vec<&str> = plan.records().iter().map(|record| record.kind).collect();
    assert_eq!(kinds, ["TXT", "TXT", "TXT", "TXT", "TXT", "MX", "TXT"]);
    assert!(plan.records()[0].value.contains("a:relay.example.com"));
    assert!(plan.report("").contains("--address 203.0.113.10"));
}

#[test]
fn the_written_config_is_sound_whatever_the_address() {
    for (address, want) in [
        (None, ("0.0.0.0", None)),
        (Some(Address::Local("192.0.2.1".parse().unwrap())), ("192.0.2.1", None)),
        (Some(Address::BehindNat("192.0.2.1".parse().unwrap())), ("0.0.0.0", Some("192.0.2.1"))),
    ] {
        let config = Config::parse(&fixed(address).config(), Path::new("p.toml")).unwrap();
        let source = &config.sources["default"];
        let public = source.public_address.map(|address| address.to_string());
        assert_eq!((source.address.to_string().as_str(), public.as_deref()), want);
        assert_eq!(config.warnings(), Vec::<String>::new());
    }
}

#[test]
fn a_config_for_this_machine_alone_asks_for_no_password() {
    for smarthost in [None, Some("smtp.example.net:587".to_owned())] {
        let plan = Plan { local: Some(loopbacks()), smarthost: smarthost.clone(), ..fixed(None) };
        let config = Config::parse(&plan.config(), Path::new("p.toml")).unwrap();
        assert!(config.credentials.is_empty());
        assert!(config.listeners.iter().all(|listener| listener.bind.ip().is_loopback() && listener.bind.port() == 25));
        assert_eq!(config.routes.len(), usize::from(smarthost.is_some()));
        assert!(!plan.report("").contains(&plan.password));
        assert!(plan.report_json()["credential"].is_null());
    }
}

#[test]
fn the_bounce_side_is_on_unless_it_is_not_wanted_or_another_has_the_port() {
    for (bounces, want) in [
        (BounceSide::On, (3, Some("bounce.example.com"), true)),
        (BounceSide::PortTaken, (2, None, true)),
        (BounceSide::Off, (2, None, false)),
    ] {
        let plan = Plan { bounces, ..fixed(None) };
        let text = plan.config();
        let config = Config::parse(&text, Path::new("p.toml")).unwrap();
        assert_eq!(config.warnings(), Vec::<String>::new(), "{bounces:?}");
        let bounce = config.sending_domains[0].bounce_domain.as_ref().map(|domain| domain.as_str());
        let has_records = plan.records().iter().any(|record| record.name == "bounce.example.com");
        assert_eq!((config.listeners.len(), bounce, has_records), want, "{bounces:?}");
        assert_eq!(plan.report("").contains("Another program has port 25"), bounces == BounceSide::PortTaken);
        // What is commented out is right once it is no comment.
        let whole = text.replace("\n#[[listener]]\n#bind", "\n[[listener]]\nbind").replace("\n#mode", "\nmode");
        let whole = whole.replace("\n#bounce_domain", "\nbounce_domain");
        let config = Config::parse(&whole, Path::new("p.toml")).unwrap();
        assert_eq!((config.listeners.len(), config.sending_domains[0].bounce_domain.is_some()), (3, true));
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert_eq!(bounce_side(taken.local_addr().unwrap().port()), BounceSide::PortTaken);
    assert_eq!(bounce_side(0), BounceSide::On);
}

#[test]
fn init_writes_a_config_that_loads_keeps_its_keys_private_and_never_overwrites() {
    let base = tempfile::tempdir().unwrap();
    let arguments = || Arguments {
        domain: "example.com".parse().unwrap(),
        hostname: None,
        dir: base.path().join("etc"),
        data_dir: base.path().join("spool"),
        address: Some("192.0.2.1".parse().unwrap()),
        local: false,
        smarthost: None,
        no_bounces: false,
    };
    let context = Context { config: PathBuf::new(), json: false };
    assert_eq!(run(&context, &arguments()).unwrap(), Exit::Done);
    let config = Config::load(&base.path().join("etc/postrider.toml")).unwrap();
    assert_eq!(config.hostname.as_str(), "relay.example.com");
    for sending in &config.sending_domains {
        for dkim in &sending.dkim {
            let mode = dkim.key.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o640, "{}", dkim.key.display());
            signer::SigningKey::load(dkim.selector.as_str(), &dkim.key).unwrap();
        }
    }
    let before = std::fs::read(base.path().join("etc/postrider.toml")).unwrap();
    let again = run(&context, &arguments()).map(|_| ()).unwrap_err().to_string();
    assert!(again.ends_with("is there already; nothing was written"), "{again}");
    assert_eq!(std::fs::read(base.path().join("etc/postrider.toml")).unwrap(), before);
}

#[test]
fn a_set_up_that_fails_half_way_leaves_nothing_behind() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("tls"), "a file where a directory should be").unwrap();
    let arguments = Arguments {
        domain: "example.com".parse().unwrap(),
        hostname: None,
        dir: base.path().to_owned(),
        data_dir: base.path().join("spool"),
        address: None,
        local: false,
        smarthost: None,
        no_bounces: false,
    };
    let context = Context { config: PathBuf::new(), json: false };
    assert!(run(&context, &arguments).is_err());
    assert_eq!(std::fs::read_dir(base.path().join("dkim")).unwrap().count(), 0);
}

#[test]
fn a_group_is_found_by_its_whole_name() {
    let groups = "root:x:0:\npostriders:x:7:\npostrider:x:990:alice\n";
    assert_eq!((group_id(groups, "postrider"), group_id(groups, "rider")), (Some(990), None));
}

#[test]
fn only_addresses_that_the_world_can_answer_to_are_public() {
    for (address, want) in [
        ("9.9.9.9", true),
        ("192.0.2.1", false),
        ("10.0.0.1", false),
        ("100.64.0.1", false),
        ("100.128.0.1", true),
        ("169.254.1.1", false),
        ("2001:db8::1", true),
        ("fd00::1", false),
        ("fe80::1", false),
    ] {
        assert_eq!(is_public(address.parse().unwrap()), want, "{address}");
    }
}
