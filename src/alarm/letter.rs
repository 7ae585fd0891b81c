//! The mail about an alarm.

use std::fmt::Write;

use super::Cause;
use crate::mail::Domain;
use crate::time::Timestamp;

/// What is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// What is wrong.
    pub cause: Cause,
    /// With which source, credential or the like; empty if there is only one.
    pub subject: Box<str>,
    /// What was noticed last, in words. One line of printable ASCII.
    pub detail: Box<str>,
    /// Since when it goes on.
    pub since: Timestamp,
    /// When it was noticed last.
    pub last: Timestamp,
    /// How often it was noticed since the last notice, beyond this one.
    pub held_back: u64,
}

impl Notice {
    /// The mail: plain text, what and since when, what to do, and the command to look closer. CRLF line ends.
    pub fn letter(&self, hostname: &Domain, postmaster: &str) -> Vec<u8> {
        let Notice { cause, subject, detail, since, last, held_back } = self;
        let about = if subject.is_empty() { String::new() } else { format!(" ({subject})") };
        let mut text = String::with_capacity(2048);
        let headers = [
            ("From", format!("Postrider <MAILER-DAEMON@{hostname}>")),
            ("To", format!("<{postmaster}>")),
            ("Subject", format!("[postrider] {hostname}: {}{about}", cause.name())),
            // RFC 3834 §5: nobody's holiday program is to answer.
            ("Auto-Submitted", "auto-generated".to_owned()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=us-ascii".to_owned()),
        ];
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        paragraph(&mut text, cause.meaning());
        if !subject.is_empty() {
            paragraph(&mut text, &format!("It concerns: {subject}"));
        }
        if !detail.is_empty() {
            paragraph(&mut text, &format!("What was seen: {detail}"));
        }
        paragraph(&mut text, &format!("Since {}; last seen {}.", since.rfc3339(), last.rfc3339()));
        if *held_back > 0 {
            let times = if *held_back == 1 { "time" } else { "times" };
            paragraph(&mut text, &format!("It was seen {held_back} more {times} since the mail before this one."));
        }
        paragraph(&mut text, &format!("What to do: {}", cause.remedy()));
        paragraph(&mut text, &format!("To look closer: {}", cause.command()));
        paragraph(
            &mut text,
            "While it goes on you are told again after an hour, then after twice as long each time, a day at most.",
        );
        text.into_bytes()
    }
}

/// Words in lines of 76 characters or less, unless one word is longer, and an empty line. A word of over 900 characters
/// does not come: details are shorter.
fn paragraph(text: &mut String, words: &str) {
    let mut length = 0;
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        if length > 0 && length + 1 + word.len() > 76 {
            text.push_str("\r\n");
            length = 0;
        }
        if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += word.len();
    }
    text.push_str("\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::super::{DETAIL_BYTES_MAX, line};
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn a_letter_says_what_since_when_what_to_do_and_how_to_look_closer() {
        let hostname: Domain = "relay.example.com".parse().unwrap();
        for cause in Cause::ALL {
            let notice = Notice {
                cause,
                subject: "a".into(),
                detail: line(&"word ".repeat(500), DETAIL_BYTES_MAX).into(),
                since: at(0),
                last: at(60),
                held_back: 3,
            };
            let letter = String::from_utf8(notice.letter(&hostname, "ops@example.com")).unwrap();
            for part in [
                &*format!("Subject: [postrider] relay.example.com: {} (a)\r\n", cause.name()),
                "To: <ops@example.com>\r\n",
                "Auto-Submitted: auto-generated\r\n",
                "Since 2027-01-15T08:00:00.000Z",
                "3 more times",
                "What to do: ",
                &format!("To look closer: {}\r\n", cause.command()),
            ] {
                assert!(letter.contains(part), "{part:?}\n{letter}");
            }
            assert!(letter.is_ascii() && letter.lines().all(|line| line.len() <= 78), "{letter}");
            assert!(letter.ends_with("\r\n") && !letter.replace("\r\n", "").contains(['\r', '\n']));
        }
    }
}
