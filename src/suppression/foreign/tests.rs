//! Files as services export them, and what is made of each row.

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_795_255_200);

fn terms() -> Terms {
    Terms { about: None, cause: None, scope: None, expires_at: None, now: NOW }
}

/// Each row in a line: what is put in, what is left out (`-`), what is bad (`!`).
fn read_with(text: &str, terms: Terms) -> Vec<String> {
    let reader = match Reader::new(text.as_bytes(), terms) {
        Ok(reader) => reader,
        Err(unread) => return vec![format!("!! {unread}")],
    };
    let shown = reader.map(|row| match row.unwrap() {
        (line, Row::Entry(address, entry)) => {
            let day = entry.added_at.rfc3339()[..10].to_owned();
            format!("{line} {address} {} {} {day} {}", entry.scope.name(), entry.cause.name(), entry.evidence)
                .trim_end()
                .to_owned()
        }
        (line, Row::LeftOut(why)) => format!("{line} - {why}"),
        (line, Row::Bad(why)) => format!("{line} ! {why}"),
    });
    shown.collect()
}

fn read(name: &str, text: &str) -> Vec<String> {
    read_with(text, Terms { about: About::of_file_name(name), ..terms() })
}

#[test]
fn sendgrids_lists_are_told_apart_by_their_names() {
    let bounces = "email,reason,created,status\n\
        dead@example.com,550 5.1.1 The email account that you tried to reach does not exist,1700000000,5.1.1\n\
        \"Old@Example.com\",\"550 No such user here\",2023-11-14 22:13:20,\n\
        full@example.com,552 5.2.2 The email account that you tried to reach is over quota,1700000000,5.2.2\n\
        spf@example.com,\"550 5.7.1 blocked, see our policy\",1700000000,5.7.1\n\
        later@example.com,450 4.2.1 try later,1700000000,4.2.1\n";
    let want = [
        "2 dead@example.com all hard_bounce 2023-11-14 550 5.1.1 The email account that you tried to reach does not exist",
        "3 Old@example.com all hard_bounce 2023-11-14 550 No such user here",
        "4 - a soft bounce, which passes",
        "5 - a bounce whose words do not say that there is no such mailbox",
        "6 - a soft bounce, which passes",
    ];
    assert_eq!(read("suppression_bounces.csv", bounces), want);
    assert_eq!(read("list.csv", bounces), want, "each row's words tell");
    let blocks = "status,reason,email,created\n5.1.1,550 5.1.1 no such user,a@example.com,1700000000\n";
    assert_eq!(read("suppression_blocks.csv", blocks), ["2 - a refusal of the sender, not of the address"]);
    let plain = "email,created\na@example.com,1700000000\n";
    for (name, want) in [
        ("suppression_spam_reports.csv", "2 a@example.com marketing complaint 2023-11-14"),
        ("suppression_unsubscribes.csv", "2 a@example.com marketing unsubscribe 2023-11-14"),
        ("suppression_invalid_emails.csv", "2 a@example.com all hard_bounce 2023-11-14"),
        ("suppression_bounces.csv", "2 a@example.com all hard_bounce 2023-11-14"),
    ] {
        assert_eq!(read(name, plain), [want], "{name}");
    }
    let unknown = read("list.csv", plain);
    assert!(unknown[0].starts_with("!! line 1: neither the columns nor the file's name say"), "{unknown:?}");
    assert_eq!(About::of_file_name("blocked_bounces.csv"), None, "two words are none");
}

#[test]
fn mailguns_lists_say_by_their_columns_what_they_are() {
    let bounces = "address,code,error,created_at\n\
        dead@example.com,550,\"5.1.1 user unknown\",\"Fri, 21 Oct 2011 11:02:55 GMT\"\n\
        old@example.com,605,Not delivering to previously bounced address,\"Fri, 21 Oct 2011 11:02:55 GMT\"\n\
        bare@example.com,550,,\n\
        full@example.com,552,5.2.2 mailbox full,\n";
    assert_eq!(
        read("list.csv", bounces),
        [
            "2 dead@example.com all hard_bounce 2011-10-21 5.1.1 user unknown",
            "3 old@example.com all hard_bounce 2011-10-21 Not delivering to previously bounced address",
            "4 bare@example.com all hard_bounce 2026-11-21",
            "5 - a soft bounce, which passes",
        ]
    );
    let unsubscribes = "address,tags,created_at\na@example.com,*,\"Fri, 21 Oct 2011 11:02:55 GMT\"\n";
    assert_eq!(read("x.csv", unsubscribes), ["2 a@example.com marketing unsubscribe 2011-10-21"]);
    let complaints = "address,created_at\na@example.com,\"Fri, 21 Oct 2011 11:02:55 GMT\"\n";
    assert_eq!(read("complaints.csv", complaints), ["2 a@example.com marketing complaint 2011-10-21"]);
}

#[test]
fn postmarks_and_ses_say_why_in_each_row() {
    let postmark = "EmailAddress,SuppressionReason,Origin,CreatedAt\n\
        a@example.com,HardBounce,Recipient,2019-12-10T08:58:33-05:00\n\
        b@example.com,SpamComplaint,Recipient,2019-12-11T08:58:33-05:00\n\
        c@example.com,ManualSuppression,Customer,2019-12-12T08:58:33-05:00\n\
        d@example.com,ManualSuppression,Recipient,2019-12-12T08:58:33-05:00\n\
        e@example.com,SoftBounce,Recipient,2019-12-12T08:58:33-05:00\n\
        f@example.com,Whatever,Recipient,2019-12-12T08:58:33-05:00\n";
    let want = [
        "2 a@example.com all hard_bounce 2019-12-10",
        "3 b@example.com marketing complaint 2019-12-11",
        "4 c@example.com all manual 2019-12-12",
        "5 d@example.com marketing unsubscribe 2019-12-12",
        "6 - a soft bounce, which passes",
        "7 ! \"Whatever\" is no cause that is known: hard_bounce, complaint, unsubscribe, manual … or --cause",
    ];
    assert_eq!(read("x.csv", postmark), want);
    let ses = "{\"EmailAddress\": \"a@example.com\", \"Reason\": \"BOUNCE\", \"LastUpdateTime\": \"2021-08-18T14:05:28.123000-04:00\"}\n\
        \n\
        {\"EmailAddress\": \"b@example.com\", \"Reason\": \"COMPLAINT\", \"LastUpdateTime\": 1586553585.077}\n\
        [1]\n{\"x\n{\"Reason\": \"BOUNCE\"}\n";
    let lines = read("x.json", ses);
    assert_eq!(lines[0], "1 a@example.com all hard_bounce 2021-08-18");
    assert_eq!(lines[1], "3 b@example.com marketing complaint 2020-04-10");
    assert_eq!(lines[2], "4 ! a JSON object is expected on each line");
    assert!(lines[3].starts_with("5 ! it is no JSON: "), "{}", lines[3]);
    assert_eq!(lines[4], "6 ! the address is missing");
    assert_eq!(
        read("x.csv", "a@example.com,COMPLAINT\nb@example.com,BOUNCE\n"),
        ["1 a@example.com marketing complaint 2026-11-21", "2 b@example.com all hard_bounce 2026-11-21",]
    );
}

#[test]
fn addresses_alone_are_an_import_and_bad_ones_are_told() {
    let text = "\u{feff}a@example.com\r\n<B@Example.com>\r\n\r\nnobody\r\nx@y z\r\n";
    let lines = read("x.txt", text);
    assert_eq!(lines[..2], ["1 a@example.com all import 2026-11-21", "2 B@example.com all import 2026-11-21"]);
    assert_eq!(lines[2], "4 ! \"nobody\": an address has the form local@domain");
    assert_eq!(lines[3], "5 ! \"x@y z\": the part after the @ is no domain name");
    let manual = Terms { cause: Some(Cause::Manual), scope: Some(Scope::Stream("news".into())), ..terms() };
    assert_eq!(
        read_with("email,created\na@x.example,1700000000\n", manual),
        ["2 a@x.example stream:news manual 2023-11-14"]
    );
    for (text, want) in [
        ("", "!! the file is empty"),
        (
            "name,phone\na,b",
            "!! line 1: no column has the addresses: one of them must be called address or email, and these are name, phone",
        ),
        (
            "email,created\na@example.com,yesterday\n",
            "2 ! created \"yesterday\" is no time such as 2026-11-21T10:00:00Z",
        ),
    ] {
        assert_eq!(read("bounces.csv", text), [want]);
    }
}

#[test]
fn our_own_export_reads_back_in_both_forms() {
    let address: Address = "\"a,b\"@example.com".parse().unwrap();
    let entry = Entry {
        expires_at: Some(Timestamp::from_secs(1_900_000_000)),
        last_at: NOW,
        hits: 9,
        pending: true,
        site: "gmail".into(),
        source_id: Some(crate::mail::QueueId::from_u64(1 << 60)),
        evidence: "550 \"no\", really".into(),
        ..Entry::new(Scope::Stream("news".into()), Cause::SoftBounce, Timestamp::from_secs(1_700_000_000))
    };
    let csv = format!("{COLUMNS}\n{}\n", csv_line(&address, &entry, NOW));
    let json = format!("{}\n", json_of(&address, &entry, NOW));
    for text in [csv, json] {
        let rows: Vec<Row> = Reader::new(text.as_bytes(), terms()).unwrap().map(|row| row.unwrap().1).collect();
        assert_eq!(rows, [Row::Entry(address.clone(), entry.clone())], "{text}");
    }
}
