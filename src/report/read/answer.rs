//! A peer's reply within other words: `host mx[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)`.

use crate::mail::{EnhancedStatus, Stage};

/// What of a text is looked at. Unit: bytes. A reply that is kept has at most 1,000.
const TEXT_MAX: usize = 4000;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Answer {
    /// 400 to 599.
    pub code: Option<u16>,
    pub status: Option<EnhancedStatus>,
    pub stage: Option<Stage>,
    pub host: Option<String>,
    /// What follows code and status; without a code, the whole text.
    pub text: String,
}

/// Reads a text as the record of a refusal.
pub(super) fn of(text: &str) -> Answer {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
    let stage = stage(&text.to_ascii_lowercase());
    let host = host(text);
    let Some((code, place)) = code(text) else {
        let status = marked_status(text);
        return Answer { code: None, status, stage, host, text: text.to_owned() };
    };
    let rest =
        text.get(place + 3..).unwrap_or_default().trim_start_matches(['-', ' ', ':', ',', '_', '.', '"', ')', '=']);
    let rest = match rest.strip_prefix(&format!("{code}")) {
        // "550 550 5.1.1 …", as Gmail and mimedefang write it.
        Some(again) if again.starts_with([' ', '-']) => again.trim_start_matches([' ', '-']),
        _ => rest,
    };
    // "Mailbox unavailable. [SMTP Error Code 550]": the words stand before it.
    if rest.chars().filter(|c| c.is_alphanumeric()).count() < 4 {
        let front = text.get(..place).unwrap_or_default();
        let words = front.trim_end_matches(|c: char| !c.is_alphanumeric()).to_owned();
        return Answer { code: Some(code), status: marked_status(rest), stage, host, text: words };
    }
    let bare = rest.trim_start_matches(['#', '<', '(', '[']);
    let (word, tail) = bare.split_once([' ', ':', ',', ';', ')', '>', ']']).unwrap_or((bare, ""));
    match EnhancedStatus::split(word.trim_end_matches('.')) {
        Some((status, _)) if status.class != 2 => {
            let tail = tail.trim_start_matches(['-', ' ', ':']).to_owned();
            Answer { code: Some(code), status: Some(status), stage, host, text: tail }
        }
        _ => Answer { code: Some(code), status: marked_status(rest), stage, host, text: rest.to_owned() },
    }
}

/// Whether a text repeats a reply.
pub(super) fn has_code(text: &str) -> bool {
    code(text).is_some()
}

/// Whether a text has a status of RFC 3463 that is meant as one.
pub(super) fn has_status(text: &str) -> bool {
    marked_status(text).is_some()
}

/// The code of a reply and its place: the first that a status follows, else that words announce, else that begins a
/// sentence. Other numbers of three digits are ports, sizes and counts.
fn code(text: &str) -> Option<(u16, usize)> {
    let octets = text.as_bytes();
    let mut best: Option<(u8, u16, usize)> = None;
    for place in memchr::memchr2_iter(b'4', b'5', octets).take(400) {
        let Some(digits) = octets.get(place..place + 3).filter(|digits| digits.iter().all(u8::is_ascii_digit)) else {
            continue;
        };
        let before = place.checked_sub(1).and_then(|place| octets.get(place)).copied().unwrap_or(b' ');
        let after = octets.get(place + 3).copied().unwrap_or(b' ');
        let stands = matches!(
            before,
            b' ' | b':' | b';' | b'(' | b'<' | b'"' | b'\'' | b'>' | b'[' | b',' | b'=' | b'|' | b'#' | b'\n'
        ) && matches!(
            after,
            b' ' | b'-' | b'_' | b':' | b',' | b')' | b'"' | b'\'' | b'.' | b'<' | b'=' | b'\n' | b';' | b'>' | b']'
        );
        let is_number = after == b'.' && octets.get(place + 4).is_some_and(u8::is_ascii_digit);
        let code = digits.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        if !stands || is_number || !(421..=599).contains(&code) || (460..500).contains(&code) {
            continue;
        }
        let rest =
            text.get(place + 3..).unwrap_or_default().trim_start_matches(['-', ' ', ':', '#', '(', '<', '[', '_']);
        let next = rest.split([' ', ')', '>', ':', ']', ';', ',']).next().unwrap_or_default();
        let front = text
            .get(..place)
            .unwrap_or_default()
            .trim_end_matches([' ', '"', '\'', '(', '[', '<', '\n'])
            .to_ascii_lowercase();
        let is_count = ["bytes", "octets", "seconds", "minutes", "messages", "recipients", "kb", "mb", "users"]
            .iter()
            .any(|unit| next.eq_ignore_ascii_case(unit));
        let is_port = front.ends_with("port") || front.ends_with("id");
        if is_count || is_port || code > 571 && EnhancedStatus::split(next).is_none() {
            continue;
        }
        let announced = front.is_empty()
            || front.ends_with([':', ';', '>', '-', '*', ',', '.'])
            || ANNOUNCING.iter().any(|word| front.ends_with(word));
        let rank = match () {
            () if EnhancedStatus::split(next.trim_end_matches('.')).is_some() => 3,
            () if announced => 2,
            () => 1,
        };
        if best.is_none_or(|(known, _, _)| rank > known) {
            best = Some((rank, code, place));
        }
    }
    best.map(|(_, code, place)| (code, place))
}

/// Words that stand before a reply.
const ANNOUNCING: [&str; 18] = [
    "said", "error", "code", "response", "reply", "replied", "answered", "reason", "status", "smtp", "returned",
    "with", "was", "is", "failed", "message", "remote", "server",
];

/// A status in brackets, behind `#`, or where a sentence begins.
fn marked_status(text: &str) -> Option<EnhancedStatus> {
    let mut first = true;
    for word in text.split([' ', ',', ';']).take(400) {
        let inner = word.trim_matches(['#', '(', ')', '[', ']', '<', '>', ':', '-', '.', '"', '\'']);
        let inner = inner.rsplit(['#', ':']).next().unwrap_or_default();
        let marked =
            first || word.contains('#') || word.starts_with(['(', '[', '<', '"']) || word.ends_with(['-', ':', '>']);
        first = word.ends_with([':', '-']) || word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        if let Some((status, "")) = EnhancedStatus::split(inner).filter(|(status, _)| marked && status.class != 2) {
            return Some(status);
        }
    }
    None
}

/// What the words say that a reply answered.
fn stage(lower: &str) -> Option<Stage> {
    const SAID: [(&str, Stage); 34] = [
        ("in reply to end of data", Stage::FinalDot),
        ("in reply to rcpt to", Stage::Rcpt),
        ("in reply to mail from", Stage::Mail),
        ("in reply to data", Stage::Data),
        ("in reply to helo", Stage::Hello),
        ("in reply to ehlo", Stage::Hello),
        ("in reply to initial", Stage::Greeting),
        ("after end of data", Stage::FinalDot),
        ("after rcpt to", Stage::Rcpt),
        ("after pipelined rcpt", Stage::Rcpt),
        ("after mail from", Stage::Mail),
        ("after pipelined mail", Stage::Mail),
        ("after initial connection", Stage::Greeting),
        ("after helo", Stage::Hello),
        ("after ehlo", Stage::Hello),
        ("after data", Stage::Data),
        ("after pipelined data", Stage::Data),
        ("after sending data block", Stage::FinalDot),
        ("end of data transfer", Stage::FinalDot),
        ("at end of data", Stage::FinalDot),
        ("to rcpt to command", Stage::Rcpt),
        ("to the rcpt to command", Stage::Rcpt),
        ("to mail from command", Stage::Mail),
        ("to the mail from command", Stage::Mail),
        ("in response to rcpt", Stage::Rcpt),
        ("in response to the rcpt", Stage::Rcpt),
        ("in response to mail from", Stage::Mail),
        ("in response to the mail", Stage::Mail),
        ("in response to the data", Stage::FinalDot),
        (">>> rcpt", Stage::Rcpt),
        (">>> mail", Stage::Mail),
        (">>> data", Stage::FinalDot),
        ("connected to but greeting failed", Stage::Greeting),
        ("but greeting failed", Stage::Greeting),
    ];
    let found = SAID.iter().filter_map(|(words, stage)| lower.rfind(words).map(|place| (place, *stage)));
    found.max_by_key(|(place, _)| *place).map(|(_, stage)| stage)
}

/// `host mx.example.net[192.0.2.1] said`, `host mx.example.net [192.0.2.1]:`, `from mx.example.net:`, `192.0.2.1 does not like`.
fn host(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    for lead in ["host ", "talking to ", "server for the recipient domain ", "by ", "mail server "] {
        for (place, _) in lower.match_indices(lead).take(8) {
            let rest = text.get(place + lead.len()..).unwrap_or_default();
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).unwrap_or(rest.len());
            let name = rest.get(..end).unwrap_or_default().trim_end_matches(['.', '-', ':']);
            let starts = place == 0 || lower.get(..place).is_some_and(|front| front.ends_with([' ', ';', ':', '(']));
            if starts && name.contains('.') && name.len() <= 255 && name.bytes().any(|byte| byte.is_ascii_alphabetic())
            {
                return Some(name.to_ascii_lowercase());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_found_within_the_words_of_whoever_repeats_it() {
        let rows = [
            ("550 5.1.1 User unknown", Some(550), Some("5.1.1"), "User unknown", None, None),
            (
                "host mx.example.net[192.0.2.1] said: 550 5.7.1 blocked (in reply to end of DATA command)",
                Some(550),
                Some("5.7.1"),
                "blocked (in reply to end of DATA command)",
                Some(Stage::FinalDot),
                Some("mx.example.net"),
            ),
            (
                "SMTP error from remote mail server after RCPT TO:<a@b.example>: 550-5.1.1 no 550 5.1.1 such",
                Some(550),
                Some("5.1.1"),
                "no 550 5.1.1 such",
                Some(Stage::Rcpt),
                None,
            ),
            ("The error was: 550 550 5.1.1 gone (state 14).", Some(550), Some("5.1.1"), "gone (state 14).", None, None),
            (
                "Remote host said: 553 sorry, no mailbox here (#5.7.1)",
                Some(553),
                Some("5.7.1"),
                "sorry, no mailbox here (#5.7.1)",
                None,
                None,
            ),
            ("550 Mailbox not found", Some(550), None, "Mailbox not found", None, None),
            ("#< #5.1.1 smtp; 550 5.1.1 x> #SMTP#", Some(550), Some("5.1.1"), "x> #SMTP#", None, None),
            ("mail.example.net #5.1.1", None, Some("5.1.1"), "mail.example.net #5.1.1", None, None),
            ("It has 550 bytes and went to port 587", None, None, "It has 550 bytes and went to port 587", None, None),
            (
                "connect to 192.0.2.1[192.0.2.1]:25: Connection timed out",
                None,
                None,
                "connect to 192.0.2.1[192.0.2.1]:25: Connection timed out",
                None,
                None,
            ),
            ("", None, None, "", None, None),
        ];
        for (text, code, status, words, stage, host) in rows {
            let answer = of(text);
            assert_eq!(
                (answer.code, answer.status.map(|status| status.to_string()).as_deref(), &*answer.text),
                (code, status, words),
                "{text}"
            );
            assert_eq!((answer.stage, answer.host.as_deref()), (stage, host), "{text}");
        }
    }
}
