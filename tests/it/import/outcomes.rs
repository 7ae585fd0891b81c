//! Typical configs become what was recorded (`POSTRIDER_BLESS=1` records anew), and our own loader takes it.

use std::path::Path;

use postrider::config::Config;
use postrider::postfix::{Action, Import};
use proptest::prelude::*;

use super::{cases, import_case, input, root, stock};

#[test]
fn every_typical_config_becomes_what_was_recorded() {
    for case in cases() {
        let import = import_case(&case);
        let report = import.report.text(&|_, title| title.to_owned());
        assert!(!import.report.is_refused(), "{case}:\n{report}");
        let toml = import.target.toml();
        if let Err(problems) = Config::parse(&toml, Path::new("postrider.toml")) {
            panic!("{case}: {problems}\n{toml}");
        }
        compare(&root().join("cases").join(&case).join("postrider.toml"), &toml);
        compare(&root().join("cases").join(&case).join("import.txt"), &report);
    }
}

fn compare(path: &Path, text: &str) {
    if std::env::var_os("POSTRIDER_BLESS").is_some() {
        std::fs::write(path, text).expect("the outcome");
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(recorded, text, "{}", path.display());
}

#[test]
fn every_parameter_that_is_set_has_a_line_in_the_report() {
    for case in cases() {
        let (main, _) = super::texts(&case);
        let import = import_case(&case);
        for setting in postrider::postfix::syntax::main_cf(&main).expect("main.cf").settings {
            let is_said = import.report.entries.iter().any(|entry| entry.parameter == setting.name);
            assert!(is_said, "{case}: {}", setting.name);
        }
    }
}

#[test]
fn passwords_stand_in_files_for_their_owner_alone() {
    for (case, secrets) in
        [("d-sendgrid", vec!["SG.not-a-real-key"]), ("h-submission", vec!["secret", "hunter2", "correct horse"])]
    {
        let Import { target, files, report } = import_case(case);
        let report = report.text(&|_, title| title.to_owned());
        for secret in secrets {
            assert!(!target.toml().contains(secret) && !report.contains(secret), "{case}: {secret}");
            assert!(
                files.iter().filter(|file| file.text.contains(secret)).all(|file| file.is_secret),
                "{case}: {secret}"
            );
        }
    }
}

/// Lines that a config may have, sound and unsound.
fn line() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "relayhost",
        "mynetworks",
        "mydestination",
        "myhostname",
        "myorigin",
        "inet_interfaces",
        "inet_protocols",
        "smtp_tls_security_level",
        "smtpd_tls_security_level",
        "smtp_tls_policy_maps",
        "transport_maps",
        "default_transport",
        "sender_dependent_relayhost_maps",
        "smtpd_relay_restrictions",
        "smtpd_recipient_restrictions",
        "virtual_alias_maps",
        "canonical_maps",
        "maximal_queue_lifetime",
        "minimal_backoff_time",
        "maximal_backoff_time",
        "message_size_limit",
        "header_size_limit",
        "smtp_destination_rate_delay",
        "smtp_destination_concurrency_limit",
        "smtp_bind_address",
        "smtp_helo_name",
        "smtp_fallback_relay",
        "masquerade_domains",
        "always_bcc",
        "recipient_delimiter",
        "hopcount_limit",
        "smtpd_recipient_limit",
        "smtp_connect_timeout",
        "smtp_sasl_auth_enable",
        "smtp_sasl_password_maps",
        "mine",
        "smtpd_sasl_auth_enable",
        "notify_classes",
        "error_notice_recipient",
        "luser_relay",
        "smtp_tls_wrappermode",
        "proxy_interfaces",
        "authorized_submit_users",
        "maillog_file",
        "virtual_alias_domains",
        "masquerade_exceptions",
    ]);
    let values = prop::sample::select(vec![
        "",
        "yes",
        "no",
        "may",
        "encrypt",
        "verify",
        "secure",
        "none",
        "dane",
        "all",
        "loopback-only",
        "ipv4",
        "ipv6",
        "127.0.0.0/8",
        "10.0.0.0/8 [::1]/128 !10.1.1.1",
        "0.0.0.0/0",
        "[::ffff:10.0.0.0]/104",
        "192.0.2.7",
        "example.com",
        "[smtp.example.net]:587",
        "smtp.example.net:submission",
        "[192.0.2.1], [2001:db8::1]:26",
        "$mydomain",
        "$mine",
        "${mine?{a}:{b.example}}",
        "permit_mynetworks, reject",
        "permit",
        "permit_mynetworks reject_unauth_destination",
        "check_sender_access inline:{ {example.com=OK} }, reject",
        "inline:{ {a.example=smtp:[b.example]} {.c.example=discard:} }",
        "inline:{ {x@y.example=[z.example]:2525} {@w.example=DUNNO} }",
        "inline:{ {a@b.example=c@d.example} }",
        "inline:{ {example.com=encrypt} {.example.com=verify} }",
        "static:user:pass",
        "smtp:[a.example]",
        "error:5.1.1 no",
        "5",
        "0",
        "99999999999",
        "5d",
        "1h",
        "30s",
        "1w",
        "root",
        "ops@example.net",
        "+",
        "\"",
        "a\\b",
        "\u{7f}",
        "é.example",
        "/etc/mailname",
        "/var/log/mail.log",
        "hash:/etc/none",
        "randmap:{smtp,smtp}",
    ]);
    (names, values).prop_map(|(name, value)| format!("{name} = {value}\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever is set: no panic, and what is not refused is a config that our loader takes.
    #[test]
    fn what_is_not_refused_our_loader_takes(lines in prop::collection::vec(line(), 0..10), level in 0..4_u8) {
        let read = |path: &str| match path {
            "/etc/mailname" => Ok("example.org\n".to_owned()),
            _ => Err("there is no such file".to_owned()),
        };
        let main = format!("compatibility_level = {level}\n{}", lines.concat());
        let master = stock();
        let Ok(import) = postrider::postfix::import(&input(&main, &master, &read)) else { return Ok(()) };
        if !import.report.is_refused() {
            let toml = import.target.toml();
            let outcome = Config::parse(&toml, Path::new("postrider.toml"));
            prop_assert!(outcome.is_ok(), "{main}\n{toml}\n{}", outcome.err().map(|e| e.to_string()).unwrap_or_default());
        }
        let sorted = import.report.entries.windows(2).all(|pair| pair[0].action <= pair[1].action);
        prop_assert!(sorted);
        prop_assert_eq!(Action::ALL.iter().map(|action| import.report.count(*action)).sum::<usize>(), import.report.entries.len());
    }
}
