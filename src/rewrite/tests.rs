//! What all of it comes to together, and what no input may do.

use proptest::prelude::*;

use super::*;

fn table(kind: Kind, text: &str) -> Tables {
    Tables::new(vec![Table::read(kind, text).unwrap()])
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn rewriting() -> Rewriting {
    Rewriting {
        home: Home {
            origin: "example.com".parse().unwrap(),
            domains: vec!["localhost".parse().unwrap()],
            delimiters: "+".into(),
        },
        sender_canonical: table(Kind::Texthash, "www ann@example.com\n"),
        recipient_canonical: table(Kind::Texthash, "old@example.com new@example.com\n"),
        canonical: table(Kind::Pcre, "/^(.*)@internal\\.example$/ $1@host.example.com\n"),
        masquerade: Masquerade {
            domains: vec![("example.com".parse().unwrap(), false)],
            exceptions: vec!["root".into()],
        },
        virtual_aliases: table(Kind::Texthash, "team@example.com a@x.example, b@x.example, new@example.com\n"),
        local: Some(LocalNames {
            aliases: Aliases::read("root: ops@x.example\n", &mut |path| Err(path.to_owned())).unwrap(),
            unknown: None,
            postmaster: None,
        }),
        always_bcc: Some(address("archive@example.com")),
        sender_bcc: table(Kind::Texthash, "ann@example.com boss@x.example\n"),
        recipient_bcc: table(Kind::Texthash, "new@example.com audit@x.example\n"),
        ..Rewriting::none(&"relay.example.com".parse().unwrap())
    }
}

#[test]
fn a_message_takes_every_step_in_order() {
    let rewriting = rewriting();
    let sender = rewriting.sender(&ReversePath::Address(address("www@example.com"))).unwrap();
    assert_eq!(sender.to_string(), "ann@example.com");
    let sent = ["old@example.com", "team@example.com", "root@localhost", "x@internal.example"].map(address);
    let found = rewriting.recipients(&sender, &sent).unwrap();
    let shown: Vec<String> = found.all.iter().map(|(address, place)| format!("{address} {place}")).collect();
    // The envelope's recipients are not masqueraded, and who comes twice comes once.
    let want = ["new@example.com 0", "a@x.example 1", "b@x.example 1", "ops@x.example 2", "x@host.example.com 3"];
    assert_eq!(shown, want);
    let copies: Vec<String> = found.copies.iter().map(ToString::to_string).collect();
    assert_eq!(copies, ["archive@example.com", "boss@x.example", "audit@x.example"]);
    assert_eq!(rewriting.recipients(&sender, &[address("no@localhost")]), Err((0, Unexpanded::UnknownLocal)));

    let header = b"From: Web <www@example.com>\r\nTo: old@example.com, root, \"X\" <x@internal.example>\r\n\
                   Subject: to old@example.com\r\n\r\n";
    let new = rewriting.header(header).unwrap().unwrap();
    assert_eq!(
        String::from_utf8(new).unwrap(),
        "From: Web <ann@example.com>\r\nTo: new@example.com, root@example.com, \"X\" <x@example.com>\r\n\
         Subject: to old@example.com\r\n\r\n"
    );
    assert_eq!(rewriting.header(b"From: a@b.example\r\n\r\n"), Ok(None));
}

#[test]
fn what_goes_out_is_rewritten_once_and_its_fields_are_checked_after_that() {
    let outgoing = Outgoing {
        home: rewriting().home,
        generic: table(
            Kind::Texthash,
            "me@localhost me@example.com\n@localhost all@example.com\nme@example.com no@x.example\n",
        ),
        header_checks: Checks::new(
            vec![Table::read(Kind::Regexp, "/^Received:/ IGNORE\n/^From: me@example/ PREPEND X-Seen: yes\n").unwrap()],
            Moment::Send,
        )
        .unwrap(),
    };
    assert_eq!(outgoing.address(&address("me@localhost")).unwrap(), address("me@example.com"));
    assert_eq!(outgoing.address(&address("you@localhost")).unwrap(), address("all@example.com"));
    assert_eq!(outgoing.address(&address("me+tag@localhost")).unwrap(), address("me@example.com"), "generic(5)");
    let (new, notes) = outgoing.header(b"Received: x\r\nFrom: me@localhost\r\n\r\n").unwrap();
    assert_eq!(new.as_deref(), Some(&b"X-Seen: yes\r\nFrom: me@example.com\r\n\r\n"[..]));
    assert_eq!(notes, []);
}

#[test]
fn what_a_check_notes_of_a_message_is_one_line() {
    let home = rewriting().home;
    let rules = Table::read(Kind::Regexp, "/^Subject:(.*)/ INFO $1\n").unwrap();
    let outgoing = Outgoing {
        home,
        generic: table(Kind::Texthash, ""),
        header_checks: Checks::new(vec![rules], Moment::Send).unwrap(),
    };
    let (_, notes) = outgoing.header(b"Subject: x\r\n 2026-01-01T00:00:00Z  INFO delivered\r\n\r\n").unwrap();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].text.contains("INFO delivered"), "{notes:?}");
    assert!(!notes[0].text.chars().chain(notes[0].field.chars()).any(char::is_control), "{notes:?}");
}

/// No line end but CRLF, and no other header than before: what a reader could take for one.
fn is_sound(block: &[u8]) -> bool {
    let bare = block.iter().enumerate().any(|(at, octet)| match octet {
        b'\n' => at == 0 || block[at - 1] != b'\r',
        b'\r' => block.get(at + 1) != Some(&b'\n'),
        _ => false,
    });
    !bare
}

/// Text as a session hands it over: every line ended by CRLF.
fn message() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "(From|To|Cc|Reply-To|Subject|Content-Type): [ -~]{0,60}",
        "[ \t][ -~]{0,40}",
        "(To|From): ([a-c\"<>(),:;@. \\\\]{0,40})",
        "Content-Type: multipart/mixed; boundary=b",
        "--b(--)?",
        Just(String::new()),
        "\\PC{0,40}",
    ];
    proptest::collection::vec(line, 0..20).prop_map(|lines| lines.iter().map(|line| format!("{line}\r\n")).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_header_stays_one(message in message()) {
        let rewriting = rewriting();
        if let Ok(Some(new)) = rewriting.header(message.as_bytes()) {
            prop_assert!(is_sound(&new));
            let (before, after) = (header::fields(message.as_bytes()).len(), header::fields(&new).len());
            prop_assert_eq!(before, after);
            prop_assert!(new.len() <= message.len() * 200);
        }
        let text = "/^(Subject|To):(.*)$/ REPLACE $1:$2 x\n/^From:(.*)$/ PREPEND X-From:$1\n/^C/ IGNORE\n";
        let checks = Checks::new(vec![Table::read(Kind::Pcre, text).unwrap()], Moment::Accept).unwrap();
        let checked = checks.check(message.as_bytes()).unwrap();
        if let Some(new) = checked.message {
            prop_assert!(is_sound(&new));
            prop_assert!(new.len() <= message.len() * 3);
        }
    }

    #[test]
    fn no_text_makes_a_reader_of_tables_panic(text in "\\PC{0,200}|([a-z/:!$()\\[\\]{}=,\"\\\\|# \n\t*+?^]|if|endif){0,120}", key in "\\PC{0,40}") {
        for kind in [Kind::Texthash, Kind::Regexp, Kind::Pcre, Kind::Inline, Kind::Static] {
            if let Ok(table) = Table::read(kind, &text) {
                let answer = table.find(&key);
                prop_assert!(!answer.clone().is_ok_and(|answer| answer.is_some_and(|answer| answer.contains('\r'))));
                let _ = Checks::new(vec![table], Moment::Accept);
            }
        }
        let _ = Aliases::read(&text, &mut |path| Err(path.to_owned()));
    }
}
