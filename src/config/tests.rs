//! Tests of the config: every kind of mistake with the words it gets, and the shipped file against the code.

use std::path::Path;

use super::*;

const SHIPPED: &str = include_str!("../../conf/postrider.toml");
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g";

/// A sound config, to which a test adds its mistake.
fn sound(extra: &str) -> String {
    format!(
        "hostname = \"relay.example.com\"\n\
         {extra}\n\
         [[credential]]\nname = \"shop\"\npassword_hash = \"{HASH}\"\nfrom_domains = [\"example.com\"]\n\
         [[sending_domain]]\nname = \"example.com\"\n"
    )
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, Path::new("p.toml"))
}

#[test]
fn hostname_a_sending_domain_and_a_credential_are_enough() {
    let config = parse(&sound("")).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/postrider"));
    assert_eq!(config.listeners, [Listener::new("127.0.0.1:587".parse().unwrap(), Mode::Submission)]);
    assert_eq!(config.streams.keys().collect::<Vec<_>>(), ["marketing", "transactional"]);
    assert_eq!(config.pools["default"].sources, [Member::new("default")]);
    assert_eq!(config.sources["default"], Source::kernel(&config.hostname));
    assert_eq!(config.credentials[0].stream, "transactional");
}

#[test]
fn the_default_listeners_need_a_certificate_to_face_the_world() {
    let tls = "[tls]\ncertificate = \"/a\"\nprivate_key = \"/b\"";
    let config = parse(&sound(tls)).unwrap();
    let binds: Vec<String> = config.listeners.iter().map(|listener| listener.bind.to_string()).collect();
    assert_eq!(binds, ["0.0.0.0:587", "0.0.0.0:465"]);
}

#[test]
fn the_default_pool_has_every_source_and_a_stream_inherits_the_retry_times() {
    let config = parse(&sound(
        "[source.a]\naddress = \"192.0.2.1\"\n[source.b]\naddress = \"192.0.2.2\"\nehlo = \"b.example.com\"\n\
         [retry]\nlongest = \"1h\"\n[stream.otp]\nkind = \"transactional\"\nmax_age = \"15m\"\nretry_first = \"30s\"",
    ))
    .unwrap();
    assert_eq!(config.pools["default"].sources, [Member::new("a"), Member::new("b")]);
    assert_eq!(config.sources["a"].ehlo, config.hostname);
    let otp = &config.streams["otp"].retry;
    assert_eq!((otp.first.as_secs(), otp.longest.as_secs()), (30, 3600));
}

/// What a mistake is told: its line, key and value, and what would be right.
#[test]
fn every_mistake_is_told_its_line_its_value_and_what_would_be_right() {
    let mut wrong = String::new();
    for (extra, want) in [
        ("data_dir = \"spool\"", "p.toml:2: data_dir = \"spool\": an absolute path such as \"/var/lib/postrider\""),
        ("data_dri = \"/x\"", "p.toml:2: data_dri: there is no such key here; `data_dir` may be meant"),
        ("zzzzz = 1", "p.toml:2: zzzzz: there is no such key here; known are hostname, "),
        ("data_dir = 5", "p.toml:2: data_dir = 5: a text in quotes is expected, not integer `5`"),
        ("data_dir = \"/x", "p.toml:2: this is not TOML: "),
        ("postmaster = \"ops\"", "p.toml:2: postmaster = \"ops\": a mail address such as \"ops@example.com\" is exp"),
        ("[limits]\nmessage = \"25 MBs\"", "p.toml:3: limits.message = \"25 MBs\": a size such as \"512 KiB\" or "),
        (
            "[limits]\nmessage = 25",
            "p.toml:3: limits.message = 25: a size such as \"512 KiB\" or \"25 MiB\" is expected",
        ),
        ("[limits]\nmessage = \"1 KiB\"", "p.toml:3: limits.message = \"1 KiB\": 64 KiB to 2 GiB is allowed"),
        ("[limits]\nrecipients = \"9\"", "p.toml:3: limits.recipients = \"9\": a whole number without quotes is exp"),
        ("[limits]\nrecipients = 99", "p.toml:3: limits.recipients = 99: 100 to 100000 is allowed"),
        ("[limits]\nrecipients = -1", "p.toml:3: limits.recipients = -1: a whole number without quotes is expected"),
        (
            "[limits]\nbody_memory = \"16 MiB\"",
            "p.toml:3: limits.body_memory = \"16 MiB\": limits.message is 50 MiB, and",
        ),
        (
            "[retry]\nfirst = \"5\"",
            "p.toml:3: retry.first = \"5\": a duration such as \"90s\", \"15m\", \"4h\" or \"5d\"",
        ),
        ("[retry]\nfirst = \"2d\"", "p.toml:3: retry.first = \"2d\": 1s to 1d is allowed"),
        ("[retry]\nfirst = \"2h\"\nlongest = \"1h\"", "p.toml:4: retry.longest = \"1h\": 2h to 1d is allowed"),
        (
            "[delivery]\ntls = \"maybe\"",
            "p.toml:3: delivery.tls = \"maybe\": \"opportunistic\", \"require\", \"verify\"",
        ),
        ("[delivery]\ntls = \"implicit\"", "p.toml:3: delivery.tls = \"implicit\": MX hosts speak STARTTLS"),
        ("[delivery]\nport = 0", "p.toml:3: delivery.port = 0: 1 to 65535 is allowed"),
        ("[delivery]\nport = 65536", "p.toml:3: delivery.port = 65536: a whole number without quotes is expected, not"),
        (
            "[delivery]\nallow_private_peers = 1",
            "p.toml:3: delivery.allow_private_peers = 1: true or false without quotes",
        ),
        ("[dns]\nnameservers = [\"ns1\"]", "p.toml:3: dns.nameservers = \"ns1\": an address such as \"127.0.0.1\", "),
        (
            "[dns]\nnameservers = \"::1\"",
            "p.toml:3: dns.nameservers = \"::1\": a list in brackets, of which each is an a",
        ),
        ("[sendmail]\nstream = \"x\"", "p.toml:3: sendmail.stream = \"x\": there is no stream \"x\""),
        (
            "[sendmail]\nlist_users = [\"static:anyone\"]",
            "p.toml:3: sendmail.list_users = \"static:anyone\": a user's name or id",
        ),
        ("[metrics]\nbind = \"9725\"", "p.toml:3: metrics.bind = \"9725\": an address and a port such as "),
        ("[log]\nlevel = \"loud\"", "p.toml:3: log.level = \"loud\": \"error\", \"warn\""),
        (
            "[stream.x]\npool = \"default\"",
            "p.toml:2: stream.x: a stream of this name needs `kind = \"transactional\"`",
        ),
        (
            "[stream.x]\nkind = \"bulk\"",
            "p.toml:3: stream.x.kind = \"bulk\": \"transactional\" or \"marketing\" is expected",
        ),
        (
            "[stream.marketing]\npool = \"m\"",
            "p.toml:3: stream.marketing.pool = \"m\": there is no pool \"m\"; there are: default",
        ),
        ("[stream.marketing]\npriority = 101", "p.toml:3: stream.marketing.priority = 101: 0 to 100 is allowed"),
        ("[stream.marketing]\nmax_age = \"31d\"", "p.toml:3: stream.marketing.max_age = \"31d\": 1m to 30d is allowed"),
        ("[pool.p]\nsources = []", "p.toml:3: pool.p.sources = []: at least one source is needed"),
        (
            "[pool.p]\nsources = [\"a\"]",
            "p.toml:3: pool.p.sources = \"a\": there is no source \"a\"; there are: default",
        ),
        (
            "[pool.p]\nsources = [{ source = \"default\", weight = 0 }]",
            "p.toml:3: pool.p.sources = { source = \"default\", weight = 0 }: 1 to 1000 is allowed",
        ),
        (
            "[pool.p]\nsources = [5]",
            "p.toml:3: pool.p.sources = 5: a source's name such as \"a\", or { source = \"a\", ",
        ),
        (
            "[pool.p]\nsources = [\"default\", \"default\"]",
            "p.toml:3: pool.p.sources = \"default\": \"default\" stands in line 3 already",
        ),
        (
            "[source.a]\naddress = \"a.example\"",
            "p.toml:3: source.a.address = \"a.example\": an IP address such as \"203",
        ),
        (
            "[source.a]\naddress = \"224.0.0.1\"",
            "p.toml:3: source.a.address = \"224.0.0.1\": an address of this machine",
        ),
        ("[source.\"a b\"]\n", "p.toml:2: source.a b: 1 to 64 letters, digits and \"-_.@+\" are allowed in a name"),
        (
            "[source.a]\nwarmup = \"fast\"",
            "p.toml:3: source.a.warmup = \"fast\": there is no warm-up curve \"fast\"; there are: cautious, sendgrid, ses, sparkpost, standard",
        ),
        (
            "[[site]]\nname = \"x\"\nmx = [\"a.example\"]\nmax_message_rate = [\"2/1s\", \"3/1w\"]",
            "p.toml:5: site.max_message_rate = \"3/1w\": a rate such as \"100/1h\" is expected: 1 to 100000000, in 1s to 1d",
        ),
        ("[[site]]\nname = \"x\"\nmx = []", "p.toml:4: site.mx = []: at least one MX host is needed"),
        ("[[site]]\nmx = [\"a.example\"]", "p.toml:2: site: the key `name` is needed in site"),
        (
            "[[site]]\nname = \"x\"\nmx = [\"a.example\"]\n[[site]]\nname = \"y\"\nmx = [\"A.example.\"]",
            "p.toml:7: site.mx = \"A.example.\": \"a.example\" stands in line 4 already",
        ),
        ("[[site]]\nname = \"x\"", "p.toml:2: site.mx: at least one MX host is needed"),
        (
            "[[site]]\nname = \"google\"\nconnection_limit = 0",
            "p.toml:4: site.connection_limit = 0: 1 to 10000 is allowed",
        ),
        (
            "[[site]]\nname = \"google\"\nmax_message_rate = [\"1/1s\", \"2/1s\"]",
            "p.toml:4: site.max_message_rate = [\"1/1s\", \"2/1s\"]: up to four rates are expected, each with another time",
        ),
        (
            "[[site]]\nname = \"google\"\nsource = \"b\"",
            "p.toml:4: site.source = \"b\": there is no source \"b\"; there are: default",
        ),
        (
            "[[site]]\nname = \"google\"\nsource = \"default\"\ntotal_connection_limit = 5",
            "p.toml:5: site.total_connection_limit = 5: it is not of one source: it stands in the entry without `source`",
        ),
        (
            "[[site]]\nname = \"google\"\nsource = \"default\"\n[[site]]\nname = \"google\"\nsource = \"default\"",
            "p.toml:6: site.name = \"google\": \"google\" of source \"default\" stands in line 3 already",
        ),
        (
            "[[site]]\nname = \"google\"\ntls = \"implicit\"",
            "p.toml:4: site.tls = \"implicit\": MX hosts speak STARTTLS",
        ),
        (
            "[[recipient_domain]]\nname = \"a.example\"\nconnection_limit = 5",
            "p.toml:4: recipient_domain.connection_limit: there is no such key here; known are name, source, max_",
        ),
        (
            "[[recipient_domain]]\nname = \"a.example\"\n[[recipient_domain]]\nname = \"A.example\"",
            "p.toml:5: recipient_domain.name = \"A.example\": \"a.example\" stands in line 3 already",
        ),
        (
            "[[recipient_domain]]\nname = \"*.example\"",
            "p.toml:3: recipient_domain.name = \"*.example\": a domain name such as \"example.com\" is expected",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nsource = \"default\"\nconnection_limit = 5",
            "p.toml:4: route.source = \"default\": a [[route]] for the same recipients without `source`, which says the hosts",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\n\
             [[route]]\nrecipient_domain = \"*\"\nsource = \"default\"\nport = 5",
            "p.toml:8: route.port = 5: it stands in the [[route]] without `source`",
        ),
        (
            "[stream.marketing]\nquota = [\"5\"]",
            "p.toml:3: stream.marketing.quota = \"5\": a rate such as \"100/1h\" is expected: 1 to 100000000, in 1s to 1d",
        ),
        (
            "[stream.marketing]\nrecipient_cap = [\"3/1d\", \"101/2h\"]",
            "p.toml:3: stream.marketing.recipient_cap = [\"3/1d\", \"101/2h\"]: 1 to 100 messages, in 1s to 1d, are allowed: \
             \"3/1d\"",
        ),
        (
            "[stream.marketing]\nover = \"drop\"",
            "p.toml:3: stream.marketing.over = \"drop\": \"queue\" or \"refuse\" is expected",
        ),
        (
            "[delivery]\nmax_message_rate = [\"5\"]",
            "p.toml:3: delivery.max_message_rate = \"5\": a rate such as \"100/1h\"",
        ),
        (
            "[delivery]\ntotal_connection_limit = 0",
            "p.toml:3: delivery.total_connection_limit = 0: 1 to 10000 is allowed",
        ),
        (
            "[[listener]]\nbind = \"587\"\nmode = \"smtp\"",
            "p.toml:3: listener.bind = \"587\": an address and a port such as \"0.0.0.0:587\" or \"[::]:587\" is expected",
        ),
        (
            "[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtps\"",
            "p.toml:4: listener.mode = \"smtps\": \"submission\", \"submissions\" or \"smtp\" is expected",
        ),
        (
            "[[listener]]\nbind = \"0.0.0.0:587\"\nmode = \"submission\"",
            "p.toml:4: listener.mode = \"submission\": passwords are taken only under TLS: this port needs a [tls] section",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:465\"\nmode = \"submissions\"",
            "p.toml:4: listener.mode = \"submissions\": passwords are taken only under TLS",
        ),
        (
            "[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtp\"\n[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"",
            "p.toml:6: listener.bind = \"127.0.0.1:25\": the listener in line 3 has this port already",
        ),
        (
            "[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtp\"\ntrusted_networks = [\"::1\", \"0.0.0.0/0\"]",
            "p.toml:5: listener.trusted_networks = \"0.0.0.0/0\": the whole internet must not relay without a password",
        ),
        (
            "[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtp\"\ntrusted_networks = [\"10.1.2.3/8\"]",
            "p.toml:5: listener.trusted_networks = \"10.1.2.3/8\": the address has bits set beyond its prefix; \"10.0.0.0/8\"",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"\nstream = \"bulk\"",
            "p.toml:5: listener.stream = \"bulk\": there is no stream \"bulk\"; there are: marketing, transactional",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"\nreceived = \"none\"",
            "p.toml:5: listener.received = \"none\": \"full\" or \"hide-client\" is expected",
        ),
        (
            "[[route]]\nrecipient_domain = \"*.example\"\nnext_hop = [\"a.example\"]",
            "p.toml:3: route.recipient_domain = \"*.example\": \"*\", a domain such as \"example.com\", or \"=example.com\"",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example:x\"]",
            "p.toml:4: route.next_hop = \"a.example:x\": a host such as \"smtp.example.net\", \"smtp.example.net:587\" or",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\nusername = \"u\"",
            "p.toml:5: route.username = \"u\": `password_file` is needed with it",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\nusername = \"u\"\npassword_file = \"/p\"\n\
             tls = \"none\"",
            "p.toml:7: route.tls = \"none\": a password needs \"require\", \"verify\" or \"implicit\"",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\n\
             [[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"b.example\"]",
            "p.toml:6: route.recipient_domain = \"*\": \"*\" stands in line 3 already",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\nsender = \"example.com\"",
            "p.toml:5: route.sender = \"example.com\": an envelope sender such as \"a@example.com\", \"@example.com\" for a",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\nsender = \"<>\"\n\
             [[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"b.example\"]\nsender = \"<>\"",
            "p.toml:7: route.recipient_domain = \"*\": \"*\" from \"<>\" stands in line 3 already",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"a.example\"]\nfail = \"5.7.1 no\"",
            "p.toml:4: route.next_hop = [\"a.example\"]: one of `next_hop`, `fail`, `retry` and `discard` is expected",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nfail = \"no\"",
            "p.toml:4: route.fail = \"no\": a status and a text such as \"5.7.1 not here\" are expected",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nretry = \"5.3.0 later\"",
            "p.toml:4: route.retry = \"5.3.0 later\": a status and a text such as \"4.3.0 later\" are expected",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\ndiscard = true\nport = 25",
            "p.toml:5: route.port = 25: it goes with `next_hop`",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"mx:\", \"a.example\"]",
            "p.toml:4: route.next_hop = [\"mx:\", \"a.example\"]: \"mx:\", where DNS says, stands alone; other hosts are its",
        ),
        (
            "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"mx:\"]\nconnection_limit = 3",
            "p.toml:5: route.connection_limit = 3: the limits of MX hosts stand in [[site]] and [[recipient_domain]]",
        ),
        (
            "[local]\nunknown = \"drop\"",
            "p.toml:3: local.unknown = \"drop\": \"refuse\", or an address such as \"ops@example.com\", is expected",
        ),
        (
            "[local]\nunknown = \"ops@localhost\"",
            "p.toml:3: local.unknown = \"ops@localhost\": an address elsewhere is expected: this one is local itself",
        ),
        (
            "[local]\nrecipient_delimiter = \"@\"",
            "p.toml:3: local.recipient_delimiter = \"@\": up to four characters such as \"+\" or \"+-\" are expected",
        ),
        (
            "[rewrite]\ncanonical = [\"/etc/postfix/canonical\"]",
            "p.toml:3: rewrite.canonical = \"/etc/postfix/canonical\": a table such as \"texthash:/etc/postrider/canonical\"",
        ),
        (
            "[rewrite]\ncanonical = [\"mysql:/etc/x\"]",
            "p.toml:3: rewrite.canonical = \"mysql:/etc/x\": tables of type \"mysql\" are not read here; write it out",
        ),
        (
            "[rewrite]\nheader_checks = [\"texthash:/x\"]",
            "p.toml:3: rewrite.header_checks = \"texthash:/x\": a table of patterns is expected, regexp: or pcre:",
        ),
        (
            "[rewrite]\nmasquerade_domains = [\"a b\"]",
            "p.toml:3: rewrite.masquerade_domains = \"a b\": a domain such as \"example.com\", or \"!host.example.com\"",
        ),
        (
            "[[credential]]\nname = \"a\"\npassword_hash = \"secret\"\nfrom_domains = [\"example.com\"]",
            "p.toml:4: credential.password_hash = \"secret\": an argon2id hash that begins \"$argon2id$v=19$\" is expected",
        ),
        (
            "[[credential]]\nname = \"APIKEY\"\nfrom_domains = [\"example.com\"]",
            "p.toml:3: credential.name = \"APIKEY\": `apikey` is the user name that goes with every key; choose another",
        ),
        (
            "[[credential]]\nname = \"a\"\nfrom_domains = [\"exa mple\"]",
            "p.toml:4: credential.from_domains = \"exa mple\": a domain such as \"example.com\", or \"=example.com\" without",
        ),
        (
            "[[credential]]\nname = \"a\"\nfrom_domains = []",
            "p.toml:4: credential.from_domains = []: at least one domain is needed, or nothing could be sent",
        ),
        (
            "[[credential]]\nname = \"shop\"\nfrom_domains = [\"example.com\"]",
            "p.toml:6: credential.name = \"shop\": \"shop\" stands in line 3 already",
        ),
        (
            "[[sending_domain]]\nname = \"a.example\"\nfeedback_address = \"fbl@b.example\"",
            "p.toml:4: sending_domain.feedback_address = \"fbl@b.example\": an address at a.example or below it is expected",
        ),
        (
            "[unsubscribe]\nurl = \"http://mail.example.com/u\"",
            "p.toml:3: unsubscribe.url = \"http://mail.example.com/u\": it must begin with https://",
        ),
        (
            "[unsubscribe]\ntls = true",
            "p.toml:3: unsubscribe.tls = true: a [tls] section with the certificate is needed for it",
        ),
        (
            "[[sending_domain]]\nname = \"example.com\"",
            "p.toml:9: sending_domain.name = \"example.com\": \"example.com\" stands in line 3 already",
        ),
        (
            "[[sending_domain]]\nname = \"a.example\"\ndkim = [{ selector = \"s\", key = \"/k\", bits = 1024 }]",
            "p.toml:4: sending_domain.dkim.bits: there is no such key here; known are",
        ),
        ("hostname = \"b.example\"", "p.toml:2: this is not TOML: duplicate key"),
    ] {
        let said = parse(&sound(extra)).map(|_| ()).map_err(|problems| problems.to_string());
        let first = said.as_ref().err().and_then(|text| text.lines().next()).unwrap_or("no error");
        if !first.starts_with(want) {
            wrong += &format!("\n{extra}\n  says  {first}\n  wants {want}\n");
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn what_the_whole_file_lacks_is_named() {
    for (text, want) in [
        ("", "p.toml: the key `hostname` is needed at the top of the file"),
        (
            "hostname = \"a.example\"",
            "p.toml:1: credential: at least one [[credential]] is needed where clients log in",
        ),
        (
            "hostname = \"a.example\"\ncredential = []\nsending_domain = []",
            "p.toml:2: credential = []: at least one [[credential]] is needed",
        ),
        ("hostname = \"a b\"", "p.toml:1: hostname = \"a b\": a domain name such as \"example.com\" is expected"),
    ] {
        let said = parse(text).map(|_| ()).map_err(|problems| problems.to_string());
        assert!(said.as_ref().is_err_and(|said| said.starts_with(want)), "{text}\n  says  {said:?}\n  wants {want}");
    }
}

#[test]
fn a_relay_for_this_machine_alone_needs_no_credential_and_no_domain() {
    let text = "hostname = \"a.example\"\n[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"\n\
                trusted_networks = [\"127.0.0.0/8\"]\n";
    let config = parse(text).unwrap();
    assert!(config.warnings().iter().any(|warning| warning.starts_with("there is no [[sending_domain]]")));
    let smarthost = "[[route]]\nrecipient_domain = \"*\"\nnext_hop = [\"192.0.2.1\"]\n";
    let config = parse(&format!("{text}{smarthost}")).unwrap();
    assert!(!config.warnings().iter().any(|warning| warning.contains("sending_domain")));
}

#[test]
fn all_that_is_wrong_in_meaning_is_told_at_once_in_the_file_s_order() {
    let text = sound("data_dir = \"x\"\n[limits]\nerrors = 0\n[retry]\nfirst = \"3d\"");
    let Problems(problems) = parse(&text).unwrap_err();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["data_dir", "limits.errors", "retry.first"]);
}

#[test]
fn what_will_be_regretted_is_warned_of() {
    let covered = "[[sending_domain]]\nname = \"relay.example.com\"\ndkim = [{ selector = \"s\", key = \"/k\" }]";
    for (extra, want) in [
        ("", "credential \"shop\" may send from example.com, for which no [[sending_domain]] has a DKIM key"),
        ("", "no DKIM key covers relay.example.com: our bounces leave unsigned"),
        ("", "there is no [tls] section"),
        ("", "there is no postmaster"),
        ("[metrics]\nbind = \"0.0.0.0:9725\"", "metrics.bind = \"0.0.0.0:9725\" is not on this machine's loopback"),
        (
            "[[listener]]\nbind = \"0.0.0.0:25\"\nmode = \"smtp\"",
            "the smtp listener 0.0.0.0:25 has no trusted_networks",
        ),
        (
            "[[sending_domain]]\nname = \"b.example\"\nbounce_domain = \"bounce.b.example\"",
            "there is a bounce_domain, and no [[listener]] of mode \"smtp\": bounces and complaints to bounce.b.example cannot",
        ),
        (
            "[[sending_domain]]\nname = \"b.example\"\nbounce_domain = \"bounce.other.example\"",
            "bounce_domain bounce.other.example does not stand below b.example",
        ),
        (
            "[[sending_domain]]\nname = \"b.example\"\nbounce_domain = \"bounce.b.example\"\n[history]\nkeep = \"18d\"",
            "history.keep = \"18d\" is less than the 19d for which a bounce may come",
        ),
        (
            "[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"\ntrusted_networks = [\"127.0.0.1/32\"]\n\
             stream = \"marketing\"",
            "there is no unsubscribe.url: mail of the stream \"marketing\" (marketing)",
        ),
    ] {
        let warnings = parse(&sound(extra)).unwrap().warnings();
        assert!(warnings.iter().any(|warning| warning.starts_with(want)), "{want}\n{warnings:#?}");
    }
    let local = parse(&sound("[metrics]\nbind = \"[::ffff:127.0.0.1]:9725\"")).unwrap();
    assert!(!local.warnings().iter().any(|warning| warning.starts_with("metrics")), "{:#?}", local.warnings());
    let quiet = parse(&sound("")).unwrap().warnings();
    let loud = ["unsubscribe", "bounce_domain", "history.keep"];
    assert!(!quiet.iter().any(|warning| loud.iter().any(|word| warning.contains(word))), "{quiet:#?}");
    let warnings = parse(&sound(covered)).unwrap().warnings();
    assert!(!warnings.iter().any(|warning| warning.starts_with("no DKIM key covers")), "{warnings:#?}");
}

/// The shipped file with its defaults, and if asked its examples too, turned into keys.
fn uncommented(examples: bool) -> String {
    let line = |line: &str| {
        let example = line.strip_prefix("#| ");
        let default =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        match (example, default) {
            (Some(example), _) if examples => example.to_owned(),
            (_, Some(default)) => default.to_owned(),
            (_, None) => line.to_owned(),
        }
    };
    SHIPPED.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_s_defaults_are_the_code_s() {
    let bare = parse(SHIPPED).unwrap();
    let written_out = parse(&uncommented(false)).unwrap();
    assert_eq!(bare, written_out);
    let long = SHIPPED.lines().find(|line| line.chars().count() > 120);
    assert_eq!(long, None);
}

#[test]
fn the_shipped_file_s_examples_are_sound() {
    // The one default that an example replaces.
    let text = uncommented(true).replace("dkim = []\n", "");
    let config = parse(&text).unwrap();
    assert_eq!((config.routes.len(), config.sites.len(), config.sending_domains[0].dkim.len()), (5, 2, 2));
    assert_eq!(config.recipient_domains.len(), 1);
    assert!(config.tls.is_some() && config.postmaster.is_some());
}

/// Serde lists the keys it knows when it meets one that it does not: each must stand in the shipped file.
#[test]
fn the_shipped_file_has_every_key_that_the_code_knows() {
    let tables = [
        "",
        "[tls]",
        "[[listener]]",
        "[[credential]]",
        "[limits]",
        "[stream.x]",
        "[pool.x]",
        "[source.x]",
        "[warmup.x]",
        "[[sending_domain]]",
        "[[route]]",
        "[[site]]",
        "[[recipient_domain]]",
        "[delivery]",
        "[retry]",
        "[dns]",
        "[harm]",
        "[history]",
        "[local]",
        "[rewrite]",
        "[log]",
        "[metrics]",
        "[unsubscribe]",
        "[sendmail]",
    ];
    for table in tables {
        let said = parse(&format!("{table}\nqqqqqqqqqqqq = 1")).map(|_| ()).unwrap_err().to_string();
        let (_, known) = said.split_once("known are ").unwrap_or_else(|| panic!("{table}: {said}"));
        for key in known.split(", ") {
            let here = |line: &str| {
                let line = line.trim_start_matches("#| ").trim_start_matches('#');
                line.starts_with(&format!("{key} = ")) || line.trim_start_matches('[').starts_with(key)
            };
            assert!(SHIPPED.lines().any(here), "{table} {key} is not in conf/postrider.toml");
        }
    }
}

#[test]
fn files_that_strangers_can_read_or_that_are_not_what_they_should_be_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let config = |extra: &str| write("p.toml", &sound(extra), 0o640);
    let dkim = |name: &str| {
        format!("[[sending_domain]]\nname = \"a.example\"\ndkim = [{{ selector = \"s\", key = \"{name}\" }}]")
    };
    write("good.pem", key, 0o640);
    write("open.pem", key, 0o644);
    write("shared.pem", key, 0o660);
    write("text.pem", "not a key\n", 0o600);
    for (name, want) in [
        ("good.pem", None),
        (
            "open.pem",
            Some("sending_domain.dkim.key = \"open.pem\": everybody on this machine can read the file (mode 0644)"),
        ),
        (
            "shared.pem",
            Some("sending_domain.dkim.key = \"shared.pem\": others than its owner can change the file (mode 0660)"),
        ),
        (
            "text.pem",
            Some("sending_domain.dkim.key = \"text.pem\": a PEM file with a block \"-----BEGIN PRIVATE KEY-----\""),
        ),
        ("none.pem", Some("sending_domain.dkim.key = \"none.pem\": there is no file ")),
    ] {
        let said = Config::load(&config(&dkim(name))).map(|_| ()).map_err(|problems| problems.to_string());
        match want {
            None => assert_eq!(said, Ok(())),
            Some(want) => assert!(said.as_ref().is_err_and(|said| said.contains(want)), "{said:?}\n  wants {want}"),
        }
    }
    let anchored = Config::load(&config(&dkim("good.pem"))).unwrap();
    assert_eq!(anchored.sending_domains[0].dkim[0].key, dir.path().join("good.pem"));
    let said = Config::load(&write("w.toml", &sound(""), 0o666)).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("others than its owner can change it (mode 0666)"), "{said}");
    let said = Config::load(&dir.path().join("absent.toml")).map(|_| ()).unwrap_err().to_string();
    assert!(said.ends_with("there is no such file; `postrider init DOMAIN` writes one"), "{said}");
}

#[test]
fn kinds_share_a_source_only_where_the_config_says_so() {
    let sources = "[source.a]\naddress = \"192.0.2.1\"\n[source.b]\naddress = \"192.0.2.2\"\n";
    let news = "[[credential]]\nname = \"news\"\nfrom_domains = [\"example.com\"]\nstream = \"marketing\"\n";
    let apart = "[pool.t]\nsources = [\"a\"]\n[pool.m]\nsources = [\"b\"]\n[stream.transactional]\npool = \"t\"\n\
                 [stream.marketing]\npool = \"m\"\n";
    let overlap = apart.replace("sources = [\"b\"]", "sources = [\"b\", \"a\"]");
    let said = |extra: &str| parse(&sound(extra)).map(|_| ()).map_err(|problems| problems.to_string());
    assert_eq!(said(sources), Ok(()), "no mail comes into the marketing stream");
    assert_eq!(said(&format!("{sources}{news}{apart}")), Ok(()));
    let wrong = said(&format!("{sources}{news}{overlap}")).unwrap_err();
    assert!(
        wrong.starts_with("p.toml:2: source.a: the streams \"transactional\" (transactional) and \"mark"),
        "{wrong}"
    );
    assert!(!wrong.contains("source.b"), "{wrong}");
    assert!(said(&format!("{sources}{news}")).unwrap_err().contains("source.b"), "the default pool has every source");
    let header = "[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"\ncontrol_headers = [\"postrider\"]\n";
    assert!(said(&format!("{sources}{header}")).unwrap_err().contains("source.a"), "a header may choose any stream");

    let route = "[[route]]\nrecipient_domain = \"bank.example\"\nnext_hop = [\"mx:\"]\nsource = \"b\"\n";
    assert!(
        said(&format!("{sources}{news}{apart}{route}")).unwrap_err().contains("source.b"),
        "a route has both kinds"
    );

    let allowed = sources.replace("192.0.2.1\"", "192.0.2.1\"\nshared = true");
    let config = parse(&sound(&format!("{allowed}{news}{overlap}"))).unwrap();
    let told = |config: &Config| config.warnings().into_iter().filter(|text| text.contains("share the source")).count();
    assert_eq!(told(&config), 1);
    assert_eq!(told(&parse(&sound(news)).unwrap()), 1, "the kernel's own source is shared, and that is told");
    assert_eq!(told(&parse(&sound("")).unwrap()), 0);
}

#[test]
fn control_headers_and_aliases_are_read_and_judged() {
    let config = parse(&sound(
        "[[credential]]\nname = \"app\"\nfrom_domains = [\"example.com\"]\ncontrol_headers = [\"postrider\", \"sendgrid\"]\n\
         [stream.marketing]\naliases = [\"broadcast\", \"news set\"]",
    ))
    .unwrap();
    assert_eq!(
        config.credentials[0].control_headers.iter().map(|f| f.name()).collect::<Vec<_>>(),
        ["postrider", "sendgrid"]
    );
    assert_eq!(config.streams["marketing"].aliases, ["broadcast", "news set"]);
    for (extra, want) in [
        ("[stream.marketing]\naliases = [\"transactional\"]", "there is a stream of the name \"transactional\""),
        ("[stream.marketing]\naliases = [\" x\"]", "1 to 128 characters"),
        ("[stream.marketing]\naliases = [\"\"]", "1 to 128 characters"),
        ("[stream.marketing]\naliases = [\"x\"]\n[stream.transactional]\naliases = [\"x\"]", "\"x\" stands in line"),
        ("[limits]\nmax_hold = \"366d\"", "0s to 365d is allowed"),
        (
            "[[listener]]\nbind = \"127.0.0.1:25\"\nmode = \"smtp\"\ncontrol_headers = [\"mailchimp\"]",
            "one of postrider, postmark, mailgun, ses, ",
        ),
    ] {
        let said = parse(&sound(extra)).unwrap_err().to_string();
        assert!(said.contains(want), "{extra}: {said}");
    }
}

/// What `--explain` shows: a value for each key, of each source and of single ones, with its line.
fn told(values: &layers::Values, key: layers::Key) -> String {
    values.get(&key).map(|told| format!("{} {}", told.value, told.from)).unwrap_or_default()
}

#[test]
fn the_most_specific_layer_wins_each_key_by_itself() {
    use layers::Key::*;
    let config = parse(&sound(
        "[source.a]\naddress = \"192.0.2.1\"\n[source.b]\naddress = \"192.0.2.2\"\n\
         [delivery]\nconnection_limit = 7\nmax_recipient_rate = [\"9/1s\"]\n\
         [[site]]\nname = \"yahoo-japan\"\nmax_deliveries_per_connection = 3\n\
         [[site]]\nname = \"yahoo-japan\"\nsource = \"a\"\nconnection_limit = 1\nmax_message_rate = []\n\
         [[site]]\nname = \"workspace\"\nmx = [\"aspmx.l.google.com\"]\ntls = \"none\"\n\
         [[site]]\nname = \"mine\"\nmx = [\"mx.example.net\"]\n\
         [[recipient_domain]]\nname = \"d.example\"\nmax_message_rate = [\"5/1m\"]\n\
         [[recipient_domain]]\nname = \"d.example\"\nsource = \"b\"\nmax_message_rate = [\"1/1m\"]\n\
         [[route]]\nrecipient_domain = \"r.example\"\nnext_hop = [\"h.example\"]\nconnection_limit = 4\n\
         [[route]]\nrecipient_domain = \"r.example\"\nsource = \"a\"\nconnection_limit = 2",
    ))
    .unwrap();
    let sites = config.layered_sites();
    let site = |name: &str| sites.iter().find(|site| site.name == name).unwrap();
    let of = |limits: &layers::Layered, source: &str| {
        limits.sources.iter().find(|(name, _)| name == source).unwrap().1.clone()
    };
    let (japan, a) = (site("yahoo-japan"), of(&site("yahoo-japan").limits, "a"));
    let line = |text: &str| layers_line(text);
    let rows = [
        // Default, provider, site; and for source a, site of that source.
        (told(&japan.limits.each, MaxRecipientRate), "[\"9/1s\"] p.toml:8".to_owned()),
        (told(&japan.limits.each, ConnectionLimit), format!("2 {}", line("yahoo-japan connection_limit"))),
        (told(&japan.limits.each, MaxDeliveriesPerConnection), "3 p.toml:11".to_owned()),
        (told(&japan.limits.each, MaxConnectionRate), "none built-in".to_owned()),
        (told(&a, ConnectionLimit), "1 p.toml:15".to_owned()),
        (told(&a, MaxMessageRate), "none p.toml:16".to_owned()),
        (told(&a, MaxDeliveriesPerConnection), "3 p.toml:11".to_owned()),
        // A site within a provider's hosts starts from that provider; another one from the default.
        (told(&site("workspace").limits.each, ConnectionLimit), format!("5 {}", line("google connection_limit"))),
        (told(&site("workspace").limits.each, Tls), "none p.toml:20".to_owned()),
        (told(&site("mine").limits.each, ConnectionLimit), "7 p.toml:7".to_owned()),
        (told(&config.default_limits().each, Tls), "opportunistic built-in".to_owned()),
        // A domain's windows stand beside its site's: nothing lies below them.
        (told(&config.domain_limits()[0].1.each, MaxMessageRate), "[\"5/1m\"] p.toml:26".to_owned()),
        (told(&of(&config.domain_limits()[0].1, "b"), MaxMessageRate), "[\"1/1m\"] p.toml:30".to_owned()),
        (told(&config.domain_limits()[0].1.each, ConnectionLimit), String::new()),
        (told(&config.route_limits(0).each, ConnectionLimit), "4 p.toml:34".to_owned()),
        (told(&of(&config.route_limits(0), "a"), ConnectionLimit), "2 p.toml:38".to_owned()),
        (told(&config.route_limits(0).each, MaxRecipientRate), "[\"9/1s\"] p.toml:8".to_owned()),
    ];
    for (said, want) in rows {
        assert_eq!(said, want);
    }
    assert_eq!(site("workspace").provider, "google");
    assert_eq!((site("mine").provider.as_str(), japan.mx[0].as_str()), ("mine", "mail.yahoo.co.jp"));
    // Providers first: of equally long names the user's is meant.
    let last: Vec<&str> = sites[sites.len() - 3..].iter().map(|site| site.name.as_str()).collect();
    assert_eq!(last, ["yahoo-japan", "workspace", "mine"]);
    assert!(sites.iter().any(|site| site.name == "google" && site.provider == "google"));
}

/// Where a provider's key stands in the shipped file.
fn layers_line(provider_and_key: &str) -> String {
    let (provider, key) = provider_and_key.split_once(' ').unwrap();
    let mut lines = PROVIDERS.lines().enumerate().skip_while(|(_, line)| *line != format!("name = \"{provider}\""));
    let found = lines.find(|(_, line)| line.starts_with(key)).unwrap();
    format!("providers.toml:{}", found.0 + 1)
}

#[test]
fn every_shipped_provider_says_where_its_values_come_from() {
    let config = parse(&sound("")).unwrap();
    assert!(config.providers.len() >= 30, "{}", config.providers.len());
    for line in PROVIDERS.lines() {
        let is_value = ["connection_limit", "max_", "total_", "tls"].iter().any(|key| line.starts_with(key));
        assert!(!is_value || line.contains("# ["), "no source: {line}");
        assert!(line.chars().count() <= 120, "{line}");
    }
    let of = |host: &str| {
        let host: Domain = host.parse().unwrap();
        let fits =
            |site: &Site| site.mx.iter().flatten().filter(|mx| host.is_within(mx)).map(|mx| mx.as_str().len()).max();
        config
            .providers
            .iter()
            .max_by_key(|site| fits(site))
            .filter(|site| fits(site).is_some())
            .map(|site| &*site.name)
    };
    for (host, want) in [
        ("aspmx.l.google.com", Some("google")),
        ("aspmx2.googlemail.com", Some("google")),
        ("mta5.am0.yahoodns.net", Some("yahoo")),
        ("mx1.mail.yahoo.co.jp", Some("yahoo-japan")),
        ("outlook-com.olc.protection.outlook.com", Some("outlook")),
        ("contoso-com.mail.protection.outlook.com", Some("microsoft365")),
        ("contoso-com.p-v1.mx.microsoft", Some("microsoft365")),
        ("mx01.mail.icloud.com", Some("apple")),
        ("mx-ha02.web.de", Some("gmx")),
        ("mxbiz1.qq.com", Some("qq")),
        ("163mx01.mxmail.netease.com", Some("163")),
        ("eu-smtp-inbound-1.mimecast.com", Some("mimecast")),
        ("mxs.mail.ru", Some("mail.ru")),
        ("mx.example.net", None),
        ("notgoogle.com", None),
    ] {
        assert_eq!(of(host), want, "{host}");
    }
}

#[test]
fn a_file_of_providers_takes_the_place_of_the_built_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let (config, providers) = (dir.path().join("p.toml"), dir.path().join("own.toml"));
    let load = |text: &str, own: &str| {
        std::fs::write(&config, text).unwrap();
        std::fs::write(&providers, own).unwrap();
        Config::load(&config).map_err(|problems| problems.to_string())
    };
    let text = sound("providers = \"own.toml\"\n[[site]]\nname = \"mine\"\nconnection_limit = 3");
    let own = "[[provider]]\nname = \"mine\"\nmx = [\"mx.example\"]\nmax_deliveries_per_connection = 9\n\
               [[provider]]\nname = \"mine\"\nsource = \"default\"\nconnection_limit = 1\nmax_deliveries_per_connection = 8";
    let sites = load(&text, own).unwrap().layered_sites();
    assert_eq!((sites.len(), sites[0].mx[0].as_str()), (1, "mx.example"));
    let each = &sites[0].limits.each;
    assert_eq!(told(each, layers::Key::MaxDeliveriesPerConnection), format!("9 {}:4", providers.display()));
    let of_source = &sites[0].limits.sources[0].1;
    assert_eq!(told(of_source, layers::Key::MaxDeliveriesPerConnection), format!("8 {}:9", providers.display()));
    // A site without a source is above a provider with one.
    assert_eq!(told(of_source, layers::Key::ConnectionLimit), format!("3 {}:5", config.display()));
    for (own, want) in [
        ("[[provider]]\nname = \"x\"", "own.toml:1: provider.mx: at least one MX host is needed"),
        ("[[provider]]\nname = \"x\"\nmx = [\"a b\"]", "own.toml:3: provider.mx = \"a b\": a domain name such as"),
        ("[[site]]\nname = \"x\"", "own.toml:1: site: there is no such key here; known are provider"),
        ("x", "own.toml:1: this is not TOML"),
    ] {
        let said = load(&sound("providers = \"own.toml\""), own).map(|_| ()).unwrap_err();
        assert!(said.contains(want), "{said}\n  wants {want}");
    }
    std::fs::remove_file(&providers).unwrap();
    let said = Config::load(&config).map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("own.toml: there is no such file"), "{said}");
}
