//! What Postfix itself answers: `postconf -x` of each value, and for 200 envelopes of each case by which way they go and whether
//! the client may relay. The answers were recorded by `tests/postfix/ask.py`; where Postfix is installed, postconf is asked
//! anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use postrider::config::{Config, Mode, RecipientPattern, SenderPattern};
use postrider::mail::{Address, ReversePath};
use postrider::postfix::{self, Import, syntax};
use postrider::route::{self, Match, Parties, Recipients, Senders};

use super::{cases, import_case, input, root, texts};

/// Values by name, white space as one space: postconf folds long lines.
fn values(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (_, line) in syntax::logical_lines(text).expect("lines of postconf") {
        let (name, value) = line.split_once('=').expect("name = value");
        all.insert(name.trim().to_owned(), folded(value));
    }
    all
}

fn folded(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn asked(case: &str) -> Option<String> {
    let directory = tempfile::tempdir().ok()?;
    let (main, master) = texts(case);
    std::fs::write(directory.path().join("main.cf"), main).ok()?;
    std::fs::write(directory.path().join("master.cf"), master).ok()?;
    let output = Command::new("postconf").arg("-c").arg(directory.path()).args(["-x", "-n"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("config_directory")).collect();
    output.status.success().then(|| kept.join("\n"))
}

#[test]
fn values_are_expanded_as_postconf_does() {
    for case in cases() {
        let (main, master) = texts(&case);
        let read = |_: &str| Err("no file is read".to_owned());
        let ours = postfix::expanded(&input(&main, &master, &read)).expect("a config that can be read");
        let ours: BTreeMap<String, String> = ours.into_iter().map(|(name, value)| (name, folded(&value))).collect();
        let recorded =
            std::fs::read_to_string(root().join("cases").join(&case).join("expanded.txt")).expect("a record");
        for answer in [Some(recorded), asked(&case)].into_iter().flatten() {
            let theirs = values(&answer);
            assert!(theirs.len() > 5, "{case}: {answer}");
            for (name, value) in &theirs {
                assert_eq!(ours.get(name), Some(value), "{case}: {name}");
            }
        }
    }
}

/// An envelope, and what Postfix does with it.
#[derive(serde::Deserialize, Debug)]
struct Answer {
    sender: String,
    recipient: String,
    client: IpAddr,
    login: String,
    port: String,
    transport: String,
    nexthop: String,
    /// `None`: smtpd does not run with this config.
    relays: Option<bool>,
}

/// Where an envelope goes.
#[derive(PartialEq, Eq, Debug)]
struct Way {
    /// Hosts as ours are written; `mx:`: where DNS says. Or what is done instead.
    hops: Vec<String>,
    /// The source, or the default one.
    source: String,
}

/// Transport and next hop of Postfix in our words.
fn theirs(answer: &Answer, master: &[syntax::Service], import: &Import) -> Way {
    let service = master.iter().find(|service| service.name == answer.transport && service.kind == "unix");
    let command = service.map(|service| service.command.as_str()).expect("a transport of master.cf");
    let domain = answer.recipient.split_once('@').expect("an address").1;
    let hops = match command {
        "smtp" if answer.nexthop == domain => vec!["mx:".to_owned()],
        "smtp" => vec![match answer.nexthop.strip_prefix('[') {
            Some(rest) => rest.replacen(']', "", 1),
            None => format!("mx:{}", answer.nexthop),
        }],
        "error" if answer.transport == "retry" => vec![format!("retry 4.0.0 {}", answer.nexthop)],
        "error" => vec![format!("fail {}", answer.nexthop)],
        command => vec![command.to_owned()],
    };
    let is_source = command == "smtp" && import.target.sources.iter().any(|source| source.name == answer.transport);
    Way { hops, source: if is_source { answer.transport.clone() } else { "default".to_owned() } }
}

/// The place of the route that our config has for an envelope.
fn place(answer: &Answer, config: &Config) -> Option<usize> {
    place_of(&answer.sender, &answer.recipient, config)
}

/// The same by sender, empty for the null one, and recipient.
pub fn place_of(sender: &str, recipient: &str, config: &Config) -> Option<usize> {
    let matches: Vec<Match> = config
        .routes
        .iter()
        .map(|route| Match {
            recipients: match &route.recipient_domain {
                RecipientPattern::Any => Recipients::Any,
                RecipientPattern::Domain(pattern) if pattern.alone => Recipients::Only(pattern.domain.clone()),
                RecipientPattern::Domain(pattern) => Recipients::Within(pattern.domain.clone()),
                RecipientPattern::Below(parent) => Recipients::Below(parent.clone()),
                RecipientPattern::Address(address) => Recipients::Address(address.clone()),
            },
            senders: match &route.sender {
                None => Senders::Any,
                Some(SenderPattern::Null) => Senders::Null,
                Some(SenderPattern::Domain(domain)) => Senders::Domain(domain.clone()),
                Some(SenderPattern::Address(address)) => Senders::Address(address.clone()),
            },
        })
        .collect();
    let sender: ReversePath = match sender.is_empty() {
        true => ReversePath::Null,
        false => ReversePath::Address(sender.parse().expect("an address")),
    };
    let recipient = recipient.parse().expect("an address");
    let parties = Parties { sender: &sender, recipient: &recipient, plain_sender: None, plain_recipient: None };
    route::best(matches.iter(), &parties)
}

/// The way that our config has for an envelope.
fn ours(answer: &Answer, config: &Config) -> Way {
    let Some(route) = place(answer, config).map(|place| &config.routes[place]) else {
        return Way { hops: vec!["mx:".to_owned()], source: "default".to_owned() };
    };
    let hops = match (&route.fail, &route.retry, route.discard) {
        (Some(text), _, _) => vec![format!("fail {text}")],
        (_, Some(text), _) => vec![format!("retry {text}")],
        (_, _, true) => vec!["discard".to_owned()],
        _ => route.next_hop.iter().map(ToString::to_string).collect(),
    };
    Way { hops, source: route.source.clone().unwrap_or_else(|| "default".to_owned()) }
}

/// Whether our config takes the envelope from the client.
fn relays(answer: &Answer, config: &Config, import: &Import, way: &Way) -> bool {
    let of_port =
        import.target.listeners.iter().position(|listener| listener.from.ends_with(&format!(": {} inet", answer.port)));
    let listener = &config.listeners[of_port.expect("a listener for each port")];
    let is_trusted = listener.trusted_networks.iter().any(|network| network.contains(&answer.client));
    let credential =
        config.credentials.iter().find(|credential| credential.name == answer.login && !credential.disabled);
    let logs_in = credential.filter(|_| listener.mode != Mode::Smtp).is_some_and(|credential| {
        let sender = answer.sender.parse::<Address>();
        sender.map_or(true, |sender| {
            credential.senders.contains(&sender)
                || credential.from_domains.iter().any(|pattern| pattern.matches(sender.domain()))
        })
    });
    // Who logs in is held to its senders, also from a trusted network.
    let is_let = if listener.mode != Mode::Smtp && credential.is_some() { logs_in } else { is_trusted };
    is_let && is_listed(answer, import) && !way.hops[0].starts_with("fail ")
}

/// `rewrite.sender_access`, as far as the cases go: a table of domains, and all others refused.
fn is_listed(answer: &Answer, import: &Import) -> bool {
    let file = import
        .files
        .iter()
        .find(|file| import.target.toml().contains(&format!("sender_access = [\"texthash:{}\"", file.path)));
    let Some(file) = file else { return true };
    let (_, domain) = answer.sender.split_once('@').unwrap_or_default();
    // access(5): a domain means those below it too (parent_domain_matches_subdomains).
    let mut listed = file.text.lines().filter_map(|line| line.split_ascii_whitespace().next());
    listed.any(|key| domain == key || domain.ends_with(&format!(".{key}")))
}

#[test]
fn envelopes_go_where_postfix_sends_them_and_come_from_whom_it_lets_relay() {
    let mut any_sender = 0;
    for case in cases() {
        let import = import_case(&case);
        let config = Config::parse(&import.target.toml(), Path::new("postrider.toml")).expect("a sound config");
        let master = syntax::master_cf(&texts(&case).1).expect("master.cf");
        let text = std::fs::read_to_string(root().join("cases").join(&case).join("answers.json")).expect("a record");
        let answers: Vec<Answer> = serde_json::from_str(&text).expect("answers");
        assert_eq!(answers.len(), 200, "{case}");
        let owns_senders = texts(&case).0.contains("smtpd_sender_login_maps");
        for answer in &answers {
            let way = ours(answer, &config);
            assert_eq!(way, theirs(answer, &master, &import), "{case}: {answer:?}");
            // Postfix's smtpd says 450 to these; ours takes them into the queue, as Postfix does from programs.
            if way.hops[0].starts_with("retry ") {
                continue;
            }
            let relays = relays(answer, &config, &import, &way);
            // A login may use the sending domains, and any sender there where smtpd_sender_login_maps says nothing.
            if !relays && answer.relays == Some(true) && !answer.login.is_empty() && !owns_senders {
                any_sender += 1;
                continue;
            }
            assert_eq!(relays, answer.relays.unwrap_or(relays), "{case}: {answer:?}");
        }
        let relayed = answers.iter().filter(|answer| answer.relays == Some(true)).count();
        let is_local = config.listeners.iter().all(|listener| listener.bind.ip().is_loopback());
        assert!((10..190).contains(&relayed) || is_local && answers[0].relays.is_none(), "{case}: {relayed} relayed");
    }
    assert_eq!(any_sender, 33, "senders that a login of i-hub may not use here");
}

/// What `postmap -q` says of each key that smtp(8) asks for, in the tables of passwords and of TLS policies.
#[derive(serde::Deserialize)]
struct LookUps {
    sasl_passwd: BTreeMap<String, String>,
    tls_policy: BTreeMap<String, String>,
}

/// Asks by sender, by its domain, by host and by next hop for the login, and by next hop for the policy, as Postfix does
/// with `smtp_sender_dependent_authentication = yes` and `smtp_tls_security_level = verify`.
#[test]
fn logins_and_tls_are_those_that_postmap_finds() {
    let case = "h-submission";
    let import = import_case(case);
    let config = Config::parse(&import.target.toml(), Path::new("postrider.toml")).expect("a sound config");
    let text_of = |name: &str| std::fs::read_to_string(root().join("cases").join(case).join(name)).expect("a record");
    let asked: LookUps = serde_json::from_str(&text_of("lookups.json")).expect("look-ups");
    let answers: Vec<Answer> = serde_json::from_str(&text_of("answers.json")).expect("answers");
    let mut seen = std::collections::BTreeSet::new();
    for answer in &answers {
        let route = &import.target.routes[place(answer, &config).expect("a route")];
        let find = |key: &str| asked.sasl_passwd.get(key);
        let (_, domain) = answer.sender.split_once('@').unwrap_or_default();
        let host = answer.nexthop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(host, _)| host);
        let by_sender = find(&answer.sender).or_else(|| find(&format!("@{domain}")));
        let login = by_sender.or_else(|| find(host?)).or_else(|| find(&answer.nexthop));
        let ours = route.login.as_ref().map(|(name, path)| {
            let file = import.files.iter().find(|file| file.path == *path).expect("its password");
            format!("{name}:{}", file.text.trim_end())
        });
        assert_eq!(ours.as_ref(), login, "{answer:?}");
        let policy = asked.tls_policy.get(&answer.nexthop).map_or("verify", String::as_str);
        let tls = route.tls.map_or("verify", postfix::Tls::name);
        assert_eq!(tls, if policy == "encrypt" { "require" } else { policy }, "{answer:?}");
        seen.insert((ours, policy));
    }
    assert!(seen.len() >= 3, "{seen:?}");
}
