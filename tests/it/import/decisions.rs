//! What a config comes to where a slip would send mail elsewhere, in clear, from others, or show a password.

use std::path::Path;

use postrider::config::Config;
use postrider::postfix::{Action, Import, Input, Tls, import};

use super::{input, stock};

const BASE: &str = "compatibility_level = 3.6\nmyhostname = relay.example.com\nmydestination =\nmynetworks = 127.0.0.0/8\n\
                    inet_interfaces = loopback-only\nsmtp_tls_security_level = may\n";
/// Two transports with a source each, one of which has TLS of its own.
const CLONES: &str = "one unix - - n - - smtp\n -o smtp_bind_address=192.0.2.1\n\
                      two unix - - n - - smtp\n -o smtp_bind_address=192.0.2.2\n -o smtp_tls_security_level=none\n";

/// The import of a config that is taken over, and our loader's view of it.
fn taken(lines: &str, users: Option<&str>) -> (Import, Config) {
    let read = |_: &str| Err("there is no such file".to_owned());
    let (main, master) = (format!("{BASE}{lines}\n"), stock() + CLONES);
    let input = Input { users, ..input(&main, &master, &read) };
    let import = import(&input).unwrap_or_else(|(file, flaw)| panic!("{lines}: {file}: {flaw}"));
    let report = import.report.text(&|_, title| title.to_owned());
    assert!(!import.report.is_refused(), "{lines}\n{report}");
    let toml = import.target.toml();
    let config = Config::parse(&toml, Path::new("postrider.toml"));
    (import, config.unwrap_or_else(|problems| panic!("{lines}: {problems}\n{toml}")))
}

/// Routes as (sender, recipient, source, TLS).
fn routes(import: &Import) -> Vec<(&str, &str, &str, Option<Tls>)> {
    let shown = import.target.routes.iter().map(|route| {
        (
            route.sender.as_deref().unwrap_or(""),
            route.recipient.as_str(),
            route.source.as_deref().unwrap_or(""),
            route.tls,
        )
    });
    let mut all: Vec<_> = shown.collect();
    all.sort_by_key(|(sender, recipient, ..)| (*sender, *recipient));
    all
}

#[test]
fn a_policy_of_tls_holds_for_every_sender_and_every_transport() {
    let policy = "smtp_tls_policy_maps = inline:{ {.corp.example=encrypt} {bank.example=verify} {a.corp.example=may} }";
    let (import, _) = taken(&format!("{policy}\ntransport_maps = inline:{{ {{.corp.example=one:}} }}"), None);
    let want =
        [("", ".corp.example", "one", Some(Tls::Require)), ("", "=a.corp.example", "one", Some(Tls::Opportunistic))];
    assert_eq!(routes(&import), want, "a transport of the same name");
    assert!(
        import.target.recipient_domains.iter().any(|rule| rule.name == "bank.example" && rule.tls == Some(Tls::Verify))
    );

    let senders = "sender_dependent_default_transport_maps = inline:{ {@s.example=one:} {@t.example=two:} }";
    let (import, _) = taken(&format!("{policy}\n{senders}"), None);
    for (sender, source) in [("", ""), ("@s.example", "one"), ("@t.example", "two")] {
        let found = routes(&import);
        let parent = found.iter().find(|route| (route.0, route.1) == (sender, ".corp.example"));
        assert_eq!(parent, Some(&(sender, ".corp.example", source, Some(Tls::Require))), "{found:?}");
        let inner = found.iter().find(|route| (route.0, route.1) == (sender, "=a.corp.example"));
        assert_eq!(inner, Some(&(sender, "=a.corp.example", source, Some(Tls::Opportunistic))), "{found:?}");
    }
    // Where the sender's route has TLS of its own, the policy of one domain needs a route.
    assert!(
        routes(&import).contains(&("@t.example", "=bank.example", "two", Some(Tls::Verify))),
        "{:?}",
        routes(&import)
    );
}

#[test]
fn a_level_that_is_sure_of_the_smarthost_is_taken_over() {
    let (import, config) = taken("relayhost = [a.example]:587\nsmtp_tls_security_level = secure", None);
    assert_eq!(import.target.routes.len(), 1);
    assert_eq!(format!("{:?}", config.delivery.tls), "Verify");
}

#[test]
fn transport_and_next_hop_of_a_sender_are_found_each_by_itself() {
    let lines = "relayhost = [r.example]\n\
                 sender_dependent_relayhost_maps = inline:{ {a@s.example=[h.example]} {ba@s.example=DUNNO} {@s.example=[d.example]} }\n\
                 sender_dependent_default_transport_maps = inline:{ {c@s.example=DUNNO} {@s.example=one:} }";
    let (import, _) = taken(lines, None);
    let toml = import.target.toml();
    for (sender, hop, source) in [
        ("a@s.example", "h.example", Some("one")),
        ("ba@s.example", "r.example", Some("one")),
        ("c@s.example", "d.example", None),
        ("@s.example", "d.example", Some("one")),
    ] {
        let route = import.target.routes.iter().find(|route| route.sender.as_deref() == Some(sender));
        let route = route.unwrap_or_else(|| panic!("{sender}: {toml}"));
        assert!(format!("{:?}", route.way).contains(&format!("\"{hop}\"")), "{sender}: {route:?}");
        assert_eq!(route.source.as_deref(), source, "{sender}");
    }
}

#[test]
fn a_login_goes_to_its_own_host_alone() {
    let sasl = "smtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n";
    let login = |lines: &str| {
        let (import, _) = taken(&format!("{sasl}{lines}"), None);
        import
            .target
            .routes
            .iter()
            .find(|route| route.sender.is_none())
            .and_then(|route| route.login.clone())
            .map(|(name, _)| name)
    };
    for (lines, want) in [
        ("relayhost = [a.example]:587\nsmtp_sasl_password_maps = inline:{ {[a.example]:587=u:pw} }", Some("u")),
        ("relayhost = [a.example]:587\nsmtp_sasl_password_maps = inline:{ {a.example=u:pw} }", Some("u")),
        ("relayhost = [a.example]:587\nsmtp_sasl_password_maps = inline:{ {[a.example]=u:pw} }", None),
        (
            "relayhost = [a.example]:587\nsmtp_sasl_password_maps = inline:{ {[a.example]:587=u:pw} {a.example=v:pw} }",
            Some("v"),
        ),
        // Of a name with MX records, each host has a name of its own.
        ("relayhost = a.example:587\nsmtp_sasl_password_maps = inline:{ {a.example=u:pw} }", None),
        ("relayhost = a.example\nsmtp_sasl_password_maps = inline:{ {a.example=u:pw} }", Some("u")),
        (
            "relayhost = [a.example], [b.example]\nsmtp_sasl_password_maps = inline:{ {a.example=u:pw} {b.example=u:pw} }",
            Some("u"),
        ),
    ] {
        assert_eq!(login(lines).as_deref(), want, "{lines}");
    }
}

#[test]
fn no_report_and_no_config_shows_a_password() {
    let sasl = "relayhost = [a.example]:587\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n";
    for lines in [
        "smtp_sasl_password_maps = static:u:hunter2",
        "smtp_sasl_password_maps = inline:{ {[a.example]:587=u:hunter2} }",
        "word = hunter2\nsmtp_sasl_password_maps = static:u:$word",
        "word = hunter2\nmine = u:${word}\nsmtp_sasl_password_maps = inline:{ {[a.example]:587=$mine} }",
    ] {
        let (import, _) = taken(&format!("{sasl}{lines}"), None);
        let shown = import.target.toml() + &import.report.text(&|_, title| title.to_owned());
        assert!(!shown.contains("hunter2"), "{lines}\n{shown}");
        assert!(import.files.iter().any(|file| file.is_secret && file.text == "hunter2\n"), "{lines}");
    }
    // Nor where the table is no table.
    for value in ["u:hunter2", "inline:{hunter2}", "static:u:x hunter2", "regexp:{hunter2}"] {
        let read = |_: &str| Err("there is no such file".to_owned());
        let (main, master) = (format!("{BASE}{sasl}smtp_sasl_password_maps = {value}\n"), stock());
        let report = import(&input(&main, &master, &read)).expect("a config that can be read").report;
        let text = report.text(&|_, title| title.to_owned());
        assert!(report.is_refused() && !text.contains("hunter2"), "{value}\n{text}");
    }
}

#[test]
fn a_table_of_senders_that_only_strangers_come_to_refuses_nobody() {
    let lines =
        "smtpd_recipient_restrictions = permit_mynetworks, check_sender_access inline:{ {b.example=REJECT} }, reject";
    let (import, _) = taken(lines, None);
    assert!(import.target.rewrite.is_empty(), "{:?}", import.target.rewrite);
    let lines =
        "smtpd_recipient_restrictions = check_sender_access inline:{ {b.example=REJECT} }, permit_mynetworks, reject";
    let (import, config) = taken(lines, None);
    assert_eq!(import.target.rewrite.len(), 1);
    assert_eq!(config.rewrite.sender_access.len(), 1, "senders that are not listed pass");
}

#[test]
fn local_names_stay_local_without_a_file_of_aliases() {
    for lines in
        ["mydestination = example.org\nalias_maps =", "mydestination = example.org\nalias_maps = hash:/etc/aliases"]
    {
        let (import, config) = taken(lines, None);
        assert!(config.local.is_some(), "{lines}: {}", import.target.toml());
    }
    let (_, config) = taken("myorigin = example.org", None);
    assert!(!config.local.is_some(), "nothing is local where mydestination is empty");
}

#[test]
fn who_owns_a_domain_may_not_use_an_address_of_others() {
    let lines = |maps: &str| {
        format!(
            "smtpd_sasl_auth_enable = yes\nsmtpd_sender_login_maps = inline:{{ {maps} }}\n\
             smtpd_sender_restrictions = reject_authenticated_sender_login_mismatch"
        )
    };
    let users = Some("app:x\nboss:y\n");
    let (import, _) = taken(&lines("{@example.com=app} {boss@example.com=boss app}"), users);
    let app = import.target.credentials.iter().find(|credential| credential.name == "app").expect("app");
    assert_eq!(app.from_domains, ["=example.com"]);
    let read = |_: &str| Err("there is no such file".to_owned());
    let (main, master) = (format!("{BASE}{}\n", lines("{@example.com=app} {boss@example.com=boss}")), stock());
    let import = import_of(&main, &master, users, &read);
    let refused = import.report.entries.iter().filter(|entry| entry.action == Action::Refused);
    let found: Vec<_> =
        refused.map(|entry| (entry.parameter.as_str(), entry.text.contains("boss@example.com"))).collect();
    assert_eq!(found, [("smtpd_sender_login_maps", true)]);
}

fn import_of(main: &str, master: &str, users: Option<&str>, read: &dyn Fn(&str) -> Result<String, String>) -> Import {
    import(&Input { users, ..input(main, master, read) }).expect("a config that can be read")
}

#[test]
fn a_config_without_logins_has_no_credential() {
    let (import, config) = taken("", None);
    assert!(import.target.credentials.is_empty() && config.credentials.is_empty());
}

#[test]
fn a_transport_that_is_named_takes_its_own_source_beside_a_pool() {
    let lines = "sender_dependent_default_transport_maps = randmap:{one,two}\n\
                 transport_maps = inline:{ {a.example=smtp:} {b.example=:[h.example]} {c.example=one:} {d.example=relay:[h.example]} }";
    let (import, _) = taken(lines, None);
    let sources: Vec<(&str, &str)> =
        routes(&import).into_iter().map(|(_, recipient, source, _)| (recipient, source)).collect();
    let want = [("=a.example", "default"), ("=b.example", ""), ("=c.example", "one"), ("=d.example", "default")];
    assert_eq!(sources, want, "{}", import.target.toml());
    assert_eq!(import.target.pool, [("one".to_owned(), 1), ("two".to_owned(), 1)]);
}

#[test]
fn verify_without_an_authority_is_told_of() {
    let told = |lines: &str| {
        let (import, _) = taken(lines, None);
        import.report.entries.iter().any(|entry| {
            entry.parameter == "smtp_tls_CAfile"
                && entry.action == Action::Approximated
                && entry.text.contains("system's")
        })
    };
    for lines in [
        "smtp_tls_security_level = verify",
        "smtp_tls_policy_maps = inline:{ {bank.example=verify} }",
        "relayhost = [a.example]\nsmtp_tls_policy_maps = inline:{ {[a.example]=secure} }",
    ] {
        assert!(told(lines), "{lines}");
    }
    for lines in [
        "smtp_tls_security_level = encrypt",
        "smtp_tls_security_level = verify\nsmtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt",
        "smtp_tls_security_level = verify\nsmtp_tls_CApath = /etc/ssl/certs",
        "smtp_tls_security_level = verify\ntls_append_default_CA = yes",
    ] {
        assert!(!told(lines), "{lines}");
    }
}

#[test]
fn a_password_that_no_next_hop_has_is_told_of() {
    let sasl = "smtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n\
                smtp_sasl_password_maps = inline:{ {gmail.example=u:pw} {[a.example]=v:pw} {@s.example=w:pw} }\n";
    let told = |lines: &str| {
        let (import, _) = taken(&format!("{sasl}{lines}"), None);
        let entries = import.report.entries.into_iter();
        entries.filter(|entry| entry.action == Action::Approximated).any(|entry| {
            entry.parameter == "smtp_sasl_password_maps"
                && entry.text.contains("gmail.example")
                && !entry.text.contains("a.example,")
        })
    };
    assert!(told("transport_maps = inline:{ {x.example=smtp:[a.example]} }"));
    assert!(!told("relayhost = [a.example]"), "no mail goes where DNS says");
}
