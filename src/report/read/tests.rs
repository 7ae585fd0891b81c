//! Reports, as tables. The labelled set of whole messages is `tests/reports`.

use std::time::{Duration, Instant};

use super::*;

fn report(fields: &str) -> String {
    format!(
        "From: mailer-daemon@mx.example.net\nContent-Type: multipart/report; boundary=b\n\n--b\n\nwords\n--b\n\
         Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.net\nOriginal-Envelope-Id: e1\n\n{fields}\n\
         --b\nContent-Type: text/rfc822-headers\n\nReturn-Path: <t0@b.example.com>\nMessage-ID: <m1@example.com>\n\
         X-Ref: r1\nFeedback-ID: f1\n\n--b--\n"
    )
}

#[test]
fn fields_are_read_however_they_are_parted() {
    type Row = (&'static str, &'static [(&'static str, Fate, Option<u16>)]);
    let rows: [Row; 8] = [
        (
            "Final-Recipient: rfc822; a@x.example\nAction: failed\nStatus: 5.1.1\n",
            &[("a@x.example", Fate::Failed, None)],
        ),
        (
            "Final-Recipient: rfc822; a@x.example\nAction: failed\nStatus: 5.1.1\n\nFinal-Recipient: rfc822; b@x.example\nAction: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; 550 no\n",
            &[("a@x.example", Fate::Failed, None), ("b@x.example", Fate::Failed, Some(550))],
        ),
        (
            "Action: failed\nStatus: 5.1.1\nFinal-Recipient: rfc822; a@x.example\n\nAction: failed\nStatus: 5.2.2\nFinal-Recipient: rfc822; b@x.example\n",
            &[("a@x.example", Fate::Failed, None), ("b@x.example", Fate::Failed, None)],
        ),
        (
            "Final-Recipient: rfc822; a@x.example\n\nAction: failed\n\nStatus: 5.1.1\n",
            &[("a@x.example", Fate::Failed, None)],
        ),
        (
            "Final-Recipient: rfc822; a@x.example\nAction: delayed\nStatus: 4.4.1\n",
            &[("a@x.example", Fate::Delayed, None)],
        ),
        ("Final-Recipient: rfc822; a@x.example\nAction: expanded\n", &[("a@x.example", Fate::Passed, None)]),
        ("Final-Recipient: rfc822; a@x.example\nStatus: 2.1.5\n", &[("a@x.example", Fate::Passed, None)]),
        ("Final-Recipient: rfc822; a@x.example\nAction: FAILED (bad)\n", &[("a@x.example", Fate::Failed, None)]),
    ];
    for (fields, want) in rows {
        let reading = read(report(fields).as_bytes());
        let got: Vec<_> =
            reading.recipients.iter().map(|r| (r.address.as_deref().unwrap_or_default(), r.fate, r.code)).collect();
        assert_eq!(got, want, "{fields}");
        let is_bounce = want.iter().any(|(_, fate, _)| *fate == Fate::Failed);
        assert_eq!(reading.kind == Kind::Bounce, is_bounce, "{fields}");
    }
}

#[test]
fn what_is_left_of_the_message_is_handed_out() {
    let reading = read(report("Final-Recipient: rfc822; a@x.example\nAction: failed\n").as_bytes());
    let original = &reading.original;
    assert_eq!(original.message_id.as_deref(), Some("m1@example.com"));
    assert_eq!(original.return_path.as_deref(), Some("t0@b.example.com"));
    assert_eq!(original.feedback_id.as_deref(), Some("f1"));
    assert_eq!(original.envelope_id.as_deref(), Some("e1"));
    assert_eq!(original.extension, [("x-ref".into(), "r1".into())]);
    assert_eq!(reading.reporter.as_deref(), Some("mx.example.net"));
}

#[test]
fn a_forwarders_target_is_another_mailbox_and_a_renamed_one_is_not() {
    let rows = [
        ("a@x.example", "b@y.example", true),
        ("a@x.example", "a@mx.x.example", false),
        ("a@x.example", "A@X.example", false),
    ];
    for (first, last, want) in rows {
        let fields = format!("Original-Recipient: rfc822;{first}\nFinal-Recipient: rfc822; {last}\nAction: failed\n");
        let reading = read(report(&fields).as_bytes());
        assert_eq!(reading.recipients[0].address.as_deref(), Some(first));
        assert_eq!(reading.recipients[0].names_another(), want, "{first} {last}");
    }
}

#[test]
fn the_status_of_the_reply_goes_before_that_of_the_report() {
    let rows = [
        ("5.0.0", "smtp; 550 5.1.1 no such user", Some(550), Some("5.1.1")),
        ("5.1.1", "smtp; 550 no", Some(550), Some("5.1.1")),
        ("5.1.1", "smtp; 554 5.7.1 blocked", Some(554), Some("5.7.1")),
        ("5.0.0", "smtp; 550 no", Some(550), None),
        ("4.4.7", "smtp; 550 4.4.7 QUEUE.Expired; message expired", Some(550), Some("4.4.7")),
        ("4.4.1", "X-Postfix; connect to mx.example.net: Connection timed out", None, Some("4.4.1")),
    ];
    for (status, diagnostic, code, want) in rows {
        let fields = format!(
            "Final-Recipient: rfc822; a@x.example\nAction: failed\nStatus: {status}\nDiagnostic-Code: {diagnostic}\n"
        );
        let reading = read(report(&fields).as_bytes());
        let got = &reading.recipients[0];
        assert_eq!(
            (got.code, got.status.map(|status| status.to_string()).as_deref()),
            (code, want),
            "{status} {diagnostic}"
        );
    }
}

#[test]
fn people_and_machines_that_are_no_mail_system_bounce_nothing() {
    let rows = [
        (
            "From: lea@example.net\nSubject: Re: hi\n\n550 5.1.1 User unknown, said my server of max@example.net\n",
            Kind::Other,
        ),
        (
            "From: lea@example.net\nSubject: Automatic reply: hi\n\nmax@example.net does not exist any more\n",
            Kind::AutoReply,
        ),
        ("From: lea@example.net\nSubject: hi\nAuto-Submitted: auto-replied\n\nI am away\n", Kind::AutoReply),
        ("From: lea@example.net\nSubject: unsubscribe\n\n", Kind::Unsubscribe),
        ("From: lea@example.net\nSubject: How do I unsubscribe a colleague who left?\n\nHe has left.\n", Kind::Other),
        ("From: lea@example.net\nSubject: stop\n\n", Kind::Unsubscribe),
        ("From: lea@example.net\nSubject: stop by for lunch\n\n", Kind::Other),
        ("", Kind::Other),
        ("\n", Kind::Other),
        ("no header at all", Kind::Other),
    ];
    for (message, want) in rows {
        assert_eq!(read(message.as_bytes()).kind, want, "{message}");
    }
}

#[test]
fn hostile_structure_costs_no_stack_and_little_time() {
    let nested = "Content-Type: message/rfc822\n\n".repeat(9_000);
    let deep: String =
        (0..4_000).map(|at| format!("Content-Type: multipart/mixed; boundary=b{at}\n\n--b{at}\n")).collect();
    let wide = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(30_000));
    let addresses = format!(
        "From: postmaster@x.example\nSubject: failure notice\n\nuser unknown\n{}",
        "a@b.example ".repeat(20_000)
    );
    let many: String = (0..8_000).map(|at| format!("{at}@b.example\n")).collect();
    let many = format!("From: postmaster@x.example\nSubject: failure notice\n\nuser unknown:\n{many}");
    let groups = report(&"Final-Recipient: rfc822; a@x.example\nAction: failed\n\n".repeat(4_000));
    let digits = format!("From: postmaster@x.example\nSubject: failure notice\n\n{}", "550 ".repeat(60_000));
    let folded = format!("Subject: failure\n{}\n", " 550 a@b.example\n".repeat(12_000));
    for message in [nested, deep, wide, addresses, many, groups, digits, folded] {
        let begun = Instant::now();
        let reading = read(message.as_bytes());
        assert!(reading.recipients.len() <= RECIPIENTS_MAX);
        // Unoptimised and beside other tests; in release it is a few milliseconds.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}: {}", begun.elapsed(), &message[..60]);
        println!("{:?} {}", begun.elapsed(), &message[..40].replace('\n', " "));
    }
}
