//! What would let others relay, send mail elsewhere, in clear or changed, stops the import, and says what to do.

use postrider::postfix::meaning::{ROWS, Rule};
use postrider::postfix::{Action, Import, import};

use super::{input, stock};

const BASE: &str = "compatibility_level = 3.6\nmyhostname = relay.example.com\nmydestination =\nmynetworks = 127.0.0.0/8\n\
                    inet_interfaces = all\nsmtp_tls_security_level = may\n";

fn imported(lines: &str, services: &str) -> Import {
    let read = |path: &str| match path {
        "/aliases" => Ok("root: |/bin/x\nops: /var/mail/x\nme: me\nall: :include:/list\n".to_owned()),
        "/checks" => Ok("/x/ FILTER smtp:[a.example]\n".to_owned()),
        _ => Err("there is no such file".to_owned()),
    };
    let (main, master) = (format!("{BASE}{lines}"), stock() + services);
    import(&input(&main, &master, &read)).unwrap_or_else(|(file, flaw)| panic!("{lines}: {file}: {flaw}"))
}

fn refusals(import: &Import) -> Vec<(&str, &str)> {
    let refused = import.report.entries.iter().filter(|entry| entry.action == Action::Refused);
    refused.map(|entry| (entry.parameter.as_str(), entry.text.as_str())).collect()
}

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
    // What nobody knows.
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
