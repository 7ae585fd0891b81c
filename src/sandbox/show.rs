//! A caught message as it is shown: dialogue, signatures, header block.

use super::peer::Caught;
use super::samples;
use crate::signer::{self, Record, Verified};
use crate::time::Timestamp;

/// Header lines shown of one message.
const HEADER_LINES_MAX: usize = 60;
/// Lines of the body shown.
const BODY_LINES_MAX: usize = 3;
/// Octets shown of one line.
const LINE_OCTETS_MAX: usize = 160;

/// What the signatures of a message are worth, by the records that DNS would have.
pub fn signatures(caught: &Caught, records: &[Record], now: Timestamp) -> Vec<Verified> {
    signer::verify(&caught.message, records, now)
}

/// Whether one signature for each record holds.
pub fn all_hold(signatures: &[Verified], records: &[Record]) -> bool {
    let holds = |record: &Record| {
        signatures.iter().any(|signature| {
            let name = format!("{}._domainkey.{}", signature.selector, signature.domain);
            name == record.name && signature.result.is_ok()
        })
    };
    !records.is_empty() && records.iter().all(holds)
}

/// One line about a message.
pub fn in_short(caught: &Caught, signatures: &[Verified]) -> String {
    let subject = samples::header(&caught.message, "subject").unwrap_or_default();
    let (to, octets) = (caught.recipients.join(", "), caught.message.len());
    clean(&format!("{to}  {octets} octets  {}  \"{subject}\"", verdicts(signatures)))
}

/// Everything about a message.
pub fn in_full(caught: &Caught, signatures: &[Verified]) -> String {
    let mut text = String::from("dialogue\n");
    for line in &caught.dialogue {
        text += &format!("    {}\n", clean(line));
    }
    text += &format!("TLS   {}\n", caught.tls.as_deref().unwrap_or("none"));
    text += &format!("DKIM  {}\n", verdicts(signatures));
    text += "message\n";
    let body = samples::body(&caught.message);
    let head = caught.message.get(..caught.message.len() - body.len()).unwrap_or_default();
    for line in String::from_utf8_lossy(head).lines().take(HEADER_LINES_MAX) {
        text += &format!("    {}\n", clean(line));
    }
    let body = String::from_utf8_lossy(body);
    for line in body.lines().take(BODY_LINES_MAX) {
        text += &format!("    {}\n", clean(line));
    }
    match body.lines().count() {
        lines if lines > BODY_LINES_MAX => text + &format!("    … {} more lines\n", lines - BODY_LINES_MAX),
        _ => text,
    }
}

fn verdicts(signatures: &[Verified]) -> String {
    let verdict = |signature: &Verified| {
        let Verified { domain, selector, algorithm, result } = signature;
        match result {
            Ok(()) => format!("pass ({algorithm}, {selector}._domainkey.{domain})"),
            Err(why) => format!("FAIL ({algorithm}, {selector}._domainkey.{domain}: {why})"),
        }
    };
    match signatures {
        [] => "no signature".to_owned(),
        _ => signatures.iter().map(verdict).collect::<Vec<_>>().join(", "),
    }
}

/// A line that cannot steer a terminal, and is not too long.
fn clean(line: &str) -> String {
    let spaced = line.replace('\t', "    ");
    let printable: String = spaced.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    match printable.char_indices().nth(LINE_OCTETS_MAX) {
        Some((cut, _)) => format!("{}…", &printable[..cut]),
        None => printable,
    }
}
