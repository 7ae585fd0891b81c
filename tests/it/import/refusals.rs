//! What would let others relay, send mail elsewhere, in clear or changed, stops the import, and says what to do.

use std::collections::BTreeSet;
use std::path::Path;

use postrider::postfix::meaning::{ROWS, Rule};
use postrider::postfix::{Action, Import, Input, import};

use super::{input, stock};

const BASE: &str = "compatibility_level = 3.6\nmyhostname = relay.example.com\nmydestination =\nmynetworks = 127.0.0.0/8\n\
                    inet_interfaces = all\nsmtp_tls_security_level = may\n";

fn file(path: &str) -> Result<String, String> {
    match path {
        "/aliases" => Ok("root: |/bin/x\nops: /var/mail/x\nme: me\nall: :include:/list\n".to_owned()),
        "/checks" => Ok("/x/ FILTER smtp:[a.example]\n".to_owned()),
        // Larger than what is copied, in few lines.
        "/large" => Ok("x".repeat((64 << 20) + 1)),
        "/key" => Ok("-----BEGIN PRIVATE KEY-----\n".to_owned()),
        "/keytable" => Ok("k a.example:s:/key\nk2 a.example:t:/key\nshort a.example\nfar b.example:s:/key\n\
                           gone a.example:s:/none\nodd a.example:s:/checks\n"
            .to_owned()),
        "/signing/nobody" => Ok("# nobody\n".to_owned()),
        "/signing/two" => Ok("*@a.example k\n*@a.example k2\n".to_owned()),
        "/signing/all" => Ok("* k\n".to_owned()),
        path if path.starts_with("/signing/") => Ok(format!("*@a.example {}\n", &path[9..])),
        _ => Err("there is no such file".to_owned()),
    }
}

fn imported(lines: &str, services: &str) -> Import {
    let (main, master) = (format!("{BASE}{lines}"), stock() + services);
    import(&input(&main, &master, &file)).unwrap_or_else(|(file, flaw)| panic!("{lines}: {file}: {flaw}"))
}

fn refusals(import: &Import) -> Vec<(&str, &str)> {
    let refused = import.report.entries.iter().filter(|entry| entry.action == Action::Refused);
    refused.map(|entry| (entry.parameter.as_str(), entry.text.as_str())).collect()
}

const ONE: &str = "one unix - - n - - smtp\n -o smtp_bind_address=192.0.2.1\n";
const RANDOM: &str = "sender_dependent_default_transport_maps";

/// Lines of main.cf, services, and the parameter and words of the refusal.
const TABLE: &[(&str, &str, &str, &str)] = &[
    // Who may relay.
    ("smtpd_relay_restrictions = permit", "", "smtpd_relay_restrictions", "open relay"),
    (
        "smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = reject_unknown_sender_domain",
        "",
        "smtpd_relay_restrictions",
        "open relay",
    ),
    (
        "smtpd_relay_restrictions = permit_mynetworks, check_client_access hash:/x, reject",
        "",
        "smtpd_relay_restrictions",
        "check_client_access",
    ),
    ("smtpd_relay_restrictions = permit_tls_clientcerts, reject", "", "smtpd_relay_restrictions", "certificates"),
    (
        "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:10023, permit",
        "",
        "smtpd_recipient_restrictions",
        "policy service",
    ),
    ("smtpd_recipient_restrictions = reject_something_new", "", "smtpd_recipient_restrictions", "not known"),
    (
        "smtpd_restriction_classes = a\na = a\nsmtpd_client_restrictions = a",
        "",
        "smtpd_client_restrictions",
        "without an end",
    ),
    ("mynetworks = 0.0.0.0/0", "", "mynetworks", "open relay"),
    ("mynetworks = hash:/etc/postfix/networks", "", "mynetworks", "no network"),
    ("mynetworks = !10.0.0.1, 10.0.0.0/8", "", "mynetworks", "no network"),
    ("mynetworks = /none", "", "mynetworks", "no such file"),
    ("smtpd_sasl_auth_enable = yes", "", "smtpd_sasl_auth_enable", "locked out"),
    ("inet_interfaces = all\nsmtpd_sasl_auth_enable = yes", "", "smtpd_sasl_auth_enable", "in clear"),
    ("inet_interfaces = relay.example.com", "", "inet_interfaces", "name"),
    ("", "smtps inet n - y - - smtpd\n -o smtpd_tls_wrappermode=yes\n", "smtpd_tls_cert_file", "no certificate"),
    ("", "2525 inet n - y - - smtpd\n -o smtpd_relay_restrictions=permit\n", "smtpd_relay_restrictions", "open relay"),
    ("", "2525 inet n - y - 1 postscreen\n", "postscreen", "only sends"),
    ("", "628 inet n - y - - qmqpd\n", "qmqpd", "not served"),
    ("", "nosuchport inet n - y - - smtpd\n", "smtpd", "no port"),
    ("", "2525 inet n - y - - smtpd\n -o myhostname=other.example.com\n", "myhostname", "one service alone"),
    ("", "2525 inet n - y - - smtpd\n -o content_filter=smtp:[127.0.0.1]:10024\n", "content_filter", "program"),
    ("", "policy unix - n n - 0 spawn user=nobody argv=/x\n", "spawn", "not Postfix's own"),
    (
        "inet_interfaces = all\nmynetworks = 10.0.0.0/8\nsmtpd_tls_security_level = encrypt",
        "",
        "smtpd_tls_security_level",
        "without TLS",
    ),
    (
        "parent_domain_matches_subdomains =\nsmtpd_sender_restrictions = check_sender_access inline:{ {a.example=OK} }, reject",
        "",
        "parent_domain_matches_subdomains",
        "below it",
    ),
    ("mynetworks = 10.0.0.5/8", "", "mynetworks", "no network"),
    ("mynetworks = 0.0.0.0/1, 128.0.0.0/1", "", "mynetworks", "open relay"),
    ("mynetworks = [2000::]/3", "", "mynetworks", "open relay"),
    (
        "smtpd_sender_login_maps = inline:{ {a@example.com=app} }\nsmtpd_sender_restrictions = reject_sender_login_mismatch",
        "",
        "smtpd_sender_restrictions",
        "somebody owns",
    ),
    (
        "smtpd_sasl_auth_enable = yes\nsmtpd_recipient_restrictions = permit_mynetworks, check_sender_access inline:{ {a.example=OK} }, permit_sasl_authenticated, reject",
        "",
        "smtpd_recipient_restrictions",
        "some clients alone",
    ),
    (
        "smtpd_sender_restrictions = check_sender_access inline:{ {a.example=REJECT} }\nsmtpd_recipient_restrictions = check_sender_access inline:{ {b.example=OK} }, reject",
        "",
        "check_sender_access",
        "pass both",
    ),
    // Where mail goes.
    ("mydestination = localhost\nlocal_transport = smtp:[hub.example]", "", "local_transport", "aliases alone"),
    (
        "mydestination = example.org\ntransport_maps = inline:{ {example.org=smtp:[hub.example]} }",
        "",
        "transport_maps",
        "local by mydestination",
    ),
    (
        "mydestination = example.org\ntransport_maps = inline:{ {*=smtp:[hub.example]} }",
        "",
        "transport_maps",
        "local by mydestination",
    ),
    ("smtp_tcp_port = 2525", "", "smtp_tcp_port", "port 25"),
    ("relayhost = 192.0.2.1", "", "relayhost", "brackets"),
    ("relayhost = [smtp.example.net", "", "relayhost", "no host"),
    ("relayhost = [smtp.example.net]:nosuch", "", "relayhost", "no host"),
    ("default_transport = uucp:there", "", "default_transport", "other means"),
    ("transport_maps = inline:{ {a.example=lmtp:unix:/x} }", "", "transport_maps", "other means"),
    ("transport_maps = regexp:/etc/postfix/transport", "", "transport_maps", "address and domain"),
    ("transport_maps = mysql:/etc/postfix/t.cf", "", "transport_maps", "not read"),
    ("transport_maps = hash:/none", "", "transport_maps", "no such file"),
    ("sender_dependent_relayhost_maps = ldap:/x", "", "sender_dependent_relayhost_maps", "not read"),
    (
        "sender_dependent_default_transport_maps = randmap:{a,b}",
        "",
        "sender_dependent_default_transport_maps",
        "source address",
    ),
    ("virtual_alias_maps = pgsql:/x", "", "virtual_alias_maps", "not read"),
    ("alias_maps = hash:/aliases\nmydestination = localhost, relay.example.com", "", "alias_maps", "command"),
    ("mydestination = localhost\nluser_relay = ops+$local@hub.example", "", "luser_relay", "$local"),
    (
        "mydestination = localhost\nluser_relay = ops${extension?+$extension}@hub.example",
        "",
        "luser_relay",
        "$extension",
    ),
    ("mydestination = localhost\nluser_relay = $user@hub.example", "", "luser_relay", "$user"),
    ("disable_dns_lookups = yes", "", "disable_dns_lookups", "MX"),
    ("relay_domains = example.net", "", "relay_domains", "only sends"),
    ("virtual_mailbox_domains = example.net", "", "virtual_mailbox_domains", "only sends"),
    ("content_filter = smtp-amavis:[127.0.0.1]:10024", "", "content_filter", "program"),
    ("soft_bounce = yes", "", "soft_bounce", "final"),
    ("defer_transports = smtp", "", "defer_transports", "stayed"),
    ("myhostname = a b", "", "myhostname", "domain name"),
    ("myorigin = /none", "", "myorigin", "no such file"),
    // Confidentiality.
    ("smtp_tls_security_level = dane", "", "smtp_tls_security_level", "less sure"),
    ("smtp_tls_security_level = secure", "", "smtp_tls_security_level", "recipient's domain"),
    ("smtp_tls_security_level = fingerprint", "", "smtp_tls_security_level", "less sure"),
    ("smtp_tls_policy_maps = inline:{ {a.example = dane-only} }", "", "smtp_tls_policy_maps", "less sure"),
    ("smtp_tls_policy_maps = inline:{ {a.example = verify match=b} }", "", "smtp_tls_policy_maps", "own name"),
    ("smtp_tls_policy_maps = hash:/none", "", "smtp_tls_policy_maps", "no such file"),
    ("relayhost = [a.example]\nsmtp_tls_wrappermode = yes", "", "smtp_tls_wrappermode", "encrypt"),
    ("smtp_tls_wrappermode = yes\nsmtp_tls_security_level = encrypt", "", "smtp_tls_wrappermode", "MX"),
    ("smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:a:b", "", "smtp_sasl_password_maps", "every MX"),
    (
        "relayhost = [a.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:a:b\nsmtp_sasl_mechanism_filter = xoauth2",
        "",
        "smtp_sasl_mechanism_filter",
        "PLAIN",
    ),
    (
        "relayhost = [a.example], [b.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = inline:{ {[a.example]=u:pw} }",
        "",
        "smtp_sasl_password_maps",
        "not the same login",
    ),
    (
        "relayhost = [a.example]\nsmtp_fallback_relay = [b.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = inline:{ {a.example=u:pw} }",
        "",
        "smtp_sasl_password_maps",
        "not the same login",
    ),
    (
        "relayhost = [a.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:a:b",
        "",
        "smtp_sasl_tls_security_options",
        "PLAIN",
    ),
    (
        "relayhost = [a.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = static:a:b\nsmtp_sasl_mechanism_filter = !plain, !login, static:all",
        "",
        "smtp_sasl_mechanism_filter",
        "PLAIN",
    ),
    (
        "smtp_tls_security_level = verify\nsmtp_tls_verify_cert_match = nexthop",
        "",
        "smtp_tls_verify_cert_match",
        "own name",
    ),
    (
        "relayhost = [a.example]\ntransport_maps = inline:{ {b.example=smtp:} }\nsmtp_tls_security_level = secure",
        "",
        "smtp_tls_security_level",
        "recipient's domain",
    ),
    (
        "default_transport = own\nsmtp_tls_policy_maps = inline:{ {b.example=none} }",
        "own unix - - n - - smtp\n -o smtp_tls_policy_maps=inline:{b.example=verify}\n",
        "smtp_tls_policy_maps",
        "of its own",
    ),
    (
        "transport_maps = inline:{ {.b.example=own:} }",
        "own unix - - n - - smtp\n -o smtp_tls_policy_maps=inline:{a.b.example=verify}\n",
        "smtp_tls_policy_maps",
        "of its own",
    ),
    ("smtp_tls_CAfile = /none", "", "smtp_tls_CAfile", "no such file"),
    ("smtp_tls_cert_file = /x", "", "smtp_tls_cert_file", "not shown"),
    // Content.
    ("smtpd_milters = inet:localhost:11332", "", "smtpd_milters", "milter"),
    ("smtpd_milters = inet:localhost:8891", "", "smtpd_milters", "signature"),
    ("header_checks = pcre:/checks", "", "header_checks", "FILTER"),
    ("body_checks = regexp:/x", "", "body_checks", "bodies"),
    ("canonical_classes = header_sender", "", "canonical_classes", "envelope and header"),
    ("canonical_maps = cidr:/x", "", "canonical_maps", "addresses"),
    ("receive_override_options = no_address_mappings", "", "receive_override_options", "rewritten"),
    // Values that are none.
    ("recipient_delimiter = @", "", "recipient_delimiter", "four signs"),
    ("mydestination = /none", "", "mydestination", "no such file"),
    ("mydestination = hash:/x", "", "mydestination", "no domain name"),
    ("mydestination = localhost\nluser_relay = root", "", "luser_relay", "no address alone"),
    ("mydestination = localhost\nluser_relay = a@localhost", "", "luser_relay", "local name itself"),
    ("mydestination = localhost\nalias_maps = regexp:/x", "", "alias_maps", "one file"),
    ("mydestination = localhost\nalias_maps = ldap:/x", "", "alias_maps", "not read"),
    ("mydestination = localhost\nalias_maps = hash:/none", "", "alias_maps", "no such file"),
    ("masquerade_domains = a@b", "", "masquerade_domains", "no domain"),
    ("always_bcc = @example.net", "", "always_bcc", "no address"),
    ("virtual_alias_domains = hash:/none", "", "virtual_alias_domains", "no such file"),
    ("virtual_alias_domains = a@b", "", "virtual_alias_domains", "no list of domains"),
    ("virtual_alias_domains = /none", "", "virtual_alias_domains", "no such file"),
    ("header_checks = static:x", "", "header_checks", "an answer"),
    ("header_checks = hash:/x", "", "header_checks", "patterns are expected"),
    ("canonical_maps = texthash:/large", "", "canonical_maps", "larger than"),
    ("canonical_maps = hash:/none", "", "canonical_maps", "no such file"),
    ("canonical_maps = nothing", "", "canonical_maps", "is no table"),
    ("message_size_limit = lots", "", "message_size_limit", "no number"),
    ("maillog_file = mail.log", "", "maillog_file", "absolute"),
    ("authorized_submit_users = /none", "", "authorized_submit_users", "no such file"),
    ("authorized_submit_users = hash:/x", "", "authorized_submit_users", "in tables"),
    ("smtp_tls_CAfile = /checks", "", "smtp_tls_CAfile", "no certificate"),
    ("smtp_tls_security_level = verify\nsmtp_tls_CApath = /mine", "", "smtp_tls_CApath", "directory"),
    ("smtp_tls_security_level = sometimes", "", "smtp_tls_security_level", "no level"),
    ("smtp_tls_policy_maps = inline:{ {a_b c=may} }", "", "smtp_tls_policy_maps", "no domain"),
    ("smtp_tls_policy_maps = regexp:/x", "", "smtp_tls_policy_maps", "plain keys"),
    ("smtp_destination_concurrency_limit = many", "", "smtp_destination_concurrency_limit", "no number"),
    ("smtp_destination_rate_delay = 2d", "", "smtp_destination_rate_delay", "more than a day"),
    ("smtp_fallback_relay = [a.example]:nosuch", "", "smtp_fallback_relay", "no host"),
    ("transport_maps = inline:{ {a b=smtp:} }", "", "transport_maps", "no address or domain"),
    ("transport_maps = inline:{ {a.example} }", "", "transport_maps", "items are expected"),
    (
        "sender_dependent_relayhost_maps = inline:{ {a b=[a.example]} }",
        "",
        "sender_dependent_relayhost_maps",
        "no address",
    ),
    (
        "relayhost = [a.example]\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = inline:{ {[a.example]=secret} }",
        "",
        "smtp_sasl_password_maps",
        "user:password",
    ),
    // Transports.
    ("", "default unix - - n - - smtp\n -o smtp_bind_address=192.0.2.1\n", "smtp_bind_address", "this name"),
    ("sender_dependent_default_transport_maps = randmap:{one,nosuch}", ONE, RANDOM, "no transport with a source"),
    ("sender_dependent_default_transport_maps = randmap:{one:[h.example]}", ONE, RANDOM, "name next hops"),
    ("sender_dependent_default_transport_maps = randmap:{}", ONE, RANDOM, "names no transport"),
    (
        "transport_maps = inline:{ {.b.example=own:} }\nown_destination_rate_delay = 1s",
        "own unix - - n - - smtp\n",
        "own_destination_rate_delay",
        "many domains",
    ),
    // Ports.
    (
        "smtpd_sender_restrictions = check_sender_access inline:{ {a.example=OK} }, reject",
        "2525 inet n - y - - smtpd\n -o smtpd_sender_restrictions=\n",
        "check_sender_access",
        "different tables",
    ),
    (
        "smtpd_sasl_auth_enable = yes\nsmtpd_recipient_restrictions = check_sender_access inline:{ {a.example=OK} }, permit_mynetworks, reject",
        "",
        "smtpd_recipient_restrictions",
        "no table lists",
    ),
    ("mynetworks = cidr:/none", "", "mynetworks", "no such file"),
    ("smtpd_tls_chain_files = /a, /b", "", "smtpd_tls_chain_files", "one certificate"),
    ("smtpd_tls_cert_file = /none\nsmtpd_tls_security_level = may", "", "smtpd_tls_cert_file", "no such file"),
    ("smtpd_client_restrictions = reject_plaintext_session", "", "smtpd_client_restrictions", "without TLS"),
    ("smtpd_relay_restrictions = permit_mx_backup, reject", "", "smtpd_relay_restrictions", "as their MX"),
    ("smtpd_client_restrictions = hash:/x", "", "smtpd_client_restrictions", "without a word"),
    ("smtpd_client_restrictions = check_client_access", "", "smtpd_client_restrictions", "argument"),
    ("", "2525 inet n - y - - smtpd\n -o smtpd_nosuch=1\n", "smtpd_nosuch", "nobody knows"),
    // What nobody knows.
    ("masquerade_domains = /none", "", "masquerade_domains", "no such file"),
    ("masquerade_exceptions = /none", "", "masquerade_exceptions", "no such file"),
    ("smtp_tls_secuirty_level = encrypt", "", "smtp_tls_secuirty_level", "nobody knows"),
    ("maximal_queue_lifetime = five", "", "maximal_queue_lifetime", "no time"),
];

#[test]
fn what_would_change_mail_stops_the_import_and_says_what_to_do() {
    assert_eq!(refusals(&imported("", "")), [], "the base is sound");
    for (lines, services, parameter, words) in TABLE {
        let import = imported(lines, services);
        let found = refusals(&import);
        let is_found = found.iter().any(|(name, text)| name == parameter && text.contains(words));
        assert!(is_found, "{lines}{services}: {found:?}");
        let refused = import.report.entries.iter().filter(|entry| entry.action == Action::Refused);
        assert!(refused.into_iter().all(|entry| !entry.instead.is_empty()), "{lines}: what to do is missing");
    }
}

/// Each place of the code that refuses is met by a case, and each reason that other code gives one.
#[test]
fn every_refusal_has_a_case() {
    let mut met = BTreeSet::new();
    let mut texts = String::new();
    let outcomes = TABLE.iter().map(|(lines, services, ..)| imported(lines, services));
    let outcomes =
        outcomes.chain(OPTIONS.iter().map(Options::imported)).chain(large().into_iter().map(|(import, _)| import));
    for entry in outcomes.flat_map(|import| import.report.entries) {
        if entry.action == Action::Refused {
            met.insert((entry.decided_at.file().to_owned(), entry.decided_at.line() as usize));
            texts += &entry.text;
            texts.push('\n');
        }
    }
    let (mut unmet, mut places) = (Vec::new(), 0);
    for (name, source) in sources() {
        // Tests of the room itself refuse nothing.
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.starts_with("//")) {
            let calls = [".refuse(", ".refuse_of("].iter().any(|call| line.contains(call));
            places += usize::from(calls);
            if calls && !met.contains(&(format!("src/postfix/{name}"), number)) {
                unmet.push(format!("src/postfix/{name}:{number}: {line}"));
            }
        }
    }
    for (name, source) in REASONS {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String =
            code.lines().filter(|line| !line.trim().starts_with("//")).map(|line| format!("{line}\n")).collect();
        for sentence in sentences(&code).iter().filter(|sentence| !texts.contains(sentence.as_str())) {
            unmet.push(format!("src/postfix/{name}: \"{sentence}\""));
        }
    }
    assert!(places > 100, "{places} places refuse: is the call still written so?");
    assert!(unmet.is_empty(), "{} have no case:\n{}", unmet.len(), unmet.join("\n"));
}

/// The code that refuses: all of the room, by file.
fn sources() -> Vec<(String, String)> {
    let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/postfix");
    let files = std::fs::read_dir(room).expect("the room").map(|entry| entry.expect("an entry").path());
    let all: Vec<(String, String)> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("a source"))
        })
        .collect();
    assert!(all.len() > 10, "{} files", all.len());
    all
}

/// The code that says why, and leaves the refusing to those.
const REASONS: &[(&str, &str)] = &[
    ("dkim.rs", include_str!("../../../src/postfix/dkim.rs")),
    ("restrict.rs", include_str!("../../../src/postfix/restrict.rs")),
    ("table.rs", include_str!("../../../src/postfix/table.rs")),
];

/// Of each string of several words, the longest part that is always the same.
fn sentences(code: &str) -> Vec<String> {
    let code = code.replace("\\\"", "\u{1}").replace("'\"'", "");
    let strings = code.split('"').skip(1).step_by(2).filter(|text| text.contains(' ') && !text.contains('\n'));
    let fixed = strings.filter_map(|text| {
        let parts = text.split(['{', '}']).step_by(2);
        parts.max_by_key(|part| part.len()).map(|part| part.replace('\u{1}', "\"").trim().to_owned())
    });
    fixed.collect()
}

/// A config, what is given beside it, and the parameter and words of the refusal.
struct Options {
    lines: &'static str,
    users: Option<&'static str>,
    opendkim: Option<&'static str>,
    refused: (&'static str, &'static str),
}

impl Options {
    const fn users(lines: &'static str, users: &'static str, refused: (&'static str, &'static str)) -> Options {
        Options { lines, users: Some(users), opendkim: None, refused }
    }

    const fn opendkim(text: &'static str, words: &'static str) -> Options {
        let lines = "smtpd_milters = inet:localhost:8891";
        Options { lines, users: None, opendkim: Some(text), refused: ("smtpd_milters", words) }
    }

    fn imported(&self) -> Import {
        let base = if self.lines.contains("compatibility_level") { "" } else { BASE };
        let (main, master) = (format!("{base}{}", self.lines), stock());
        let opendkim = self.opendkim.map(|text| ("/etc/opendkim.conf", text));
        let given = Input { users: self.users, opendkim, ..input(&main, &master, &file) };
        import(&given).unwrap_or_else(|(file, flaw)| panic!("{}: {file}: {flaw}", self.lines))
    }
}

const LOGINS: &str = "inet_interfaces = loopback-only\nsmtpd_sasl_auth_enable = yes\n";
const OWNED: &str = "inet_interfaces = loopback-only\nsmtpd_sasl_auth_enable = yes\n\
                     smtpd_sender_restrictions = reject_authenticated_sender_login_mismatch\n\
                     smtpd_sender_login_maps = inline:{ {@example.com=app} {boss@example.com=boss} }\n";
const OWNED_BY_PATTERN: &str = "inet_interfaces = loopback-only\nsmtpd_sasl_auth_enable = yes\n\
                                smtpd_sender_restrictions = reject_authenticated_sender_login_mismatch\n\
                                smtpd_sender_login_maps = regexp:/x\n";

/// Cases with options.
const OPTIONS: &[Options] = &[
    Options {
        lines: "compatibility_level = 3.6\nmyhostname = relay.example.com\nmydestination =\nmynetworks_style = subnet\n",
        users: None,
        opendkim: None,
        refused: ("mynetworks_style", "whole networks"),
    },
    Options::users(LOGINS, "nonsense\n", ("smtpd_sasl_auth_enable", "name:password")),
    Options::users(LOGINS, "app:{CRYPT}x\n", ("smtpd_sasl_auth_enable", "plain text")),
    Options::users(LOGINS, "# nobody\n", ("smtpd_sasl_auth_enable", "names nobody")),
    Options::users(OWNED, "app:x\nboss:y\n", ("smtpd_sender_login_maps", "boss@example.com")),
    Options::users(OWNED_BY_PATTERN, "app:x\n", ("smtpd_sender_login_maps", "plain keys")),
    Options::opendkim("KeyTable\n", "Name value"),
    Options::opendkim("Mode v\n", "signs nothing"),
    Options::opendkim("KeyTable /keytable\n", "beside the KeyTable"),
    Options::opendkim("KeyTable dsn:/x\nSigningTable /signing/k\n", "type dsn"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/none\n", "has no key"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/short\n", "domain:selector:/path"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/all\n", "no one domain"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/far\n", "only its own mail"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/nobody\n", "is empty"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/two\n", "more than one key"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/gone\n", "no such file"),
    Options::opendkim("KeyTable /keytable\nSigningTable /signing/odd\n", "no private key"),
    Options::opendkim("Domain a.example\n", "Domain, Selector and KeyFile"),
    Options::opendkim("Domain *\nSelector s\nKeyFile /key\n", "names of domains"),
    Options::opendkim("Domain /domains\nSelector s\nKeyFile /key\n", "write the names themselves"),
];

/// Configs that are too large, each with its words.
fn large() -> Vec<(Import, &'static str)> {
    let each = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(" ");
    let senders = |count| each(count, &|n| format!("{{s{n}@example.com=[h.example]}}"));
    let many = each(10_001, &|_| "permit_inet_interfaces".to_owned());
    let by_sender = "sender_dependent_relayhost_maps = inline:{";
    let by_domain = "sender_dependent_default_transport_maps = inline:{";
    let transports = each(150, &|n| format!("{{d{n}.example=smtp:}}"));
    let policies = each(150, &|n| format!("{{.d{n}.example=encrypt}}"));
    let by_dns = each(150, &|n| format!("{{s{n}@example.com=smtp:}}"));
    [
        (format!("smtpd_client_restrictions = {many}"), "10000 restrictions"),
        (
            format!("{by_sender} {} }}\ntransport_maps = inline:{{ {transports} }}", senders(150)),
            "senders times recipients",
        ),
        (format!("{by_domain} {by_dns} }}\nsmtp_tls_policy_maps = inline:{{ {policies} }}"), "senders times policies"),
    ]
    .map(|(lines, words)| (imported(&lines, ""), words))
    .into()
}

#[test]
fn what_options_bring_is_refused_alike() {
    for options in OPTIONS {
        let import = options.imported();
        let found = refusals(&import);
        let (parameter, words) = options.refused;
        let is_found = found.iter().any(|(name, text)| *name == parameter && text.contains(words));
        assert!(is_found, "{} {:?} {:?}: {found:?}", options.lines, options.users, options.opendkim);
    }
    for (import, words) in large() {
        let found = refusals(&import);
        assert!(found.iter().any(|(_, text)| text.contains(words)), "{words}: {found:?}");
    }
}

/// A value that is no parameter's default.
#[test]
fn every_row_that_refuses_refuses() {
    for row in ROWS {
        let Rule::Refuse(_, why, instead) = row.rule else { continue };
        assert!(!why.is_empty() && !instead.is_empty(), "{}", row.pattern);
        let name = match row.pattern {
            "smtp_tls_*cert_file" => "smtp_tls_eccert_file".to_owned(),
            "smtp_tls_*key_file" => "smtp_tls_eckey_file".to_owned(),
            "smtpd_client_*_rate_limit" => "smtpd_client_message_rate_limit".to_owned(),
            "empty_address_*" => "empty_address_relayhost_maps_lookup_key".to_owned(),
            pattern => pattern.to_owned(),
        };
        let import = imported(&format!("{name} = receive_override_nothing\n"), "");
        assert!(refusals(&import).iter().any(|(found, _)| *found == name), "{name}: {:?}", refusals(&import));
    }
}

#[test]
fn every_parameter_of_postfix_has_a_row() {
    let defaults = include_str!("../../../src/postfix/defaults.cf");
    let names = defaults.lines().filter_map(|line| line.split_once(" =")).map(|(name, _)| name.trim());
    let unknown: Vec<&str> = names.filter(|name| postrider::postfix::meaning::row(name).is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_refusal_can_be_taken_back_by_name() {
    let main = format!("{BASE}body_checks = regexp:/x\n");
    let master = stock();
    let read = |_: &str| Err("there is no such file".to_owned());
    let allowed = ["body_checks".to_owned()];
    let outcome =
        import(&postrider::postfix::Input { allowed: &allowed, ..input(&main, &master, &read) }).expect("read");
    assert!(!outcome.report.is_refused());
    let entry = outcome.report.entries.iter().find(|entry| entry.parameter == "body_checks").expect("an entry");
    assert!(entry.action == Action::Approximated && entry.text.contains("--allow"), "{entry:?}");
}

#[test]
fn a_name_that_others_name_is_no_unknown_parameter() {
    let import = imported("mine = example.net\nmasquerade_domains = $mine\n", "");
    assert_eq!(refusals(&import), []);
}
