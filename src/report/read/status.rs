//! Delivery status notifications: RFC 3464 and 6533, whole, cut off, relabelled or without their structure.
//!
//! The fields decide whom and what; where they give no reason (Exchange leaves the diagnostic out), the words beside them
//! are asked for it.

use super::field::{self, Fields};
use super::piece::{self, Letter};
use super::{Fate, Kind, RECIPIENTS_MAX, Reading, Reported, Returned};
use super::{address, answer, automatic, bounce};
use crate::mail::EnhancedStatus;

/// The fields of one recipient.
#[derive(Default)]
struct Record {
    final_recipient: Option<String>,
    original_recipient: Option<String>,
    actual_recipient: Option<String>,
    action: Option<String>,
    status: Option<String>,
    diagnostic: Option<String>,
    remote: Option<String>,
}

impl Record {
    /// Whether a field begins the next recipient: a name that this one has; after an empty line, anything that it has.
    fn is_over_at(&self, name: &str, is_begin: bool) -> bool {
        let is_named = self.final_recipient.is_some() || self.original_recipient.is_some();
        match name {
            "final-recipient" => self.final_recipient.is_some(),
            "original-recipient" => self.original_recipient.is_some() || is_begin && self.final_recipient.is_some(),
            "action" => is_begin && is_named && self.action.is_some(),
            "status" => is_begin && is_named && self.status.is_some(),
            "diagnostic-code" => is_begin && is_named && self.diagnostic.is_some(),
            _ => false,
        }
    }
}

/// Reads a report that has delivery-status fields.
pub(super) fn read(letter: &Letter, original: &Returned) -> Option<Reading> {
    let mut text: String = letter.texts(piece::Kind::Status).take(8).collect::<Vec<_>>().join("\n\n");
    if !has_recipients(&text) {
        // The type or the boundary is wrong: the fields stand somewhere in the text.
        text = stray(letter)?;
    }
    let (about, records) = records(&text);
    let mut reading = Reading::of(Kind::Other);
    reading.reporter =
        about.first("reporting-mta").and_then(|value| value.split(';').next_back()).map(|name| name.trim().into());
    reading.original.envelope_id = about.first("original-envelope-id").map(Into::into);
    let passage = bounce::passages(letter, original);
    for record in &records {
        let found = reported(record, records.len(), &passage);
        // An alias that leads to itself is reported once for each round.
        let is_known = found.as_ref().is_some_and(|found| {
            reading.recipients.iter().any(|known: &Reported| {
                (&known.address, &known.forwarded_to, known.fate) == (&found.address, &found.forwarded_to, found.fate)
            })
        });
        reading.recipients.extend(found.filter(|_| !is_known));
    }
    if reading.recipients.iter().any(|recipient| recipient.fate == Fate::Failed) {
        // A machine that is away may say so in a report's dress (RFC 3834 §2 forbids it, some do).
        let is_automatic = automatic::is_away(letter) || automatic::is_service_challenge(letter);
        reading.kind = if is_automatic { Kind::AutoReply } else { Kind::Bounce };
        reading.recipients.retain(|recipient| recipient.fate == Fate::Failed);
    }
    if reading.kind == Kind::AutoReply {
        reading.recipients.clear();
    }
    (!reading.recipients.is_empty() || reading.kind == Kind::AutoReply || letter.is_report() && !records.is_empty())
        .then_some(reading)
}

fn has_recipients(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["final-recipient:", "original-recipient:", "action:", "diagnostic-code:"].iter().any(|name| lower.contains(name))
}

/// Delivery-status fields outside of a part of their own: at least whom and what must be there.
fn stray(letter: &Letter) -> Option<String> {
    let body = String::from_utf8_lossy(letter.body.get(..64 * 1024).unwrap_or(letter.body));
    for text in [letter.words.as_str(), &*body] {
        let lines: Vec<&str> = text.lines().take(4000).collect();
        let is_field = |line: &&str| line.get(..16).is_some_and(|front| front.eq_ignore_ascii_case("final-recipient:"));
        let Some(place) = lines.iter().position(is_field) else { continue };
        let from = lines.get(..place).unwrap_or_default().iter().rposition(|line| line.trim().is_empty());
        let from = from.map_or(0, |place| place + 1);
        // A quoted or attached header below is no status.
        let to = lines
            .iter()
            .skip(place)
            .position(|line| line.starts_with("Received:") || line.starts_with("--"))
            .map_or(lines.len(), |count| place + count);
        let found = lines.get(from..to).unwrap_or_default().join("\n");
        let lower = found.to_ascii_lowercase();
        if lower.contains("\naction:") || lower.starts_with("action:") || lower.contains("\nstatus:") {
            return Some(found);
        }
    }
    None
}

/// The fields about the message, and those about each recipient. Groups should be parted by an empty line; some programs
/// put one between any two fields, some none at all.
fn records(text: &str) -> (Fields, Vec<Record>) {
    let groups = field::groups(text);
    let about = groups.first().cloned().unwrap_or_default();
    let mut records: Vec<Record> = Vec::new();
    let mut current = Record::default();
    for group in &groups {
        let mut is_begin = true;
        for (name, value) in group.iter() {
            if current.is_over_at(name, is_begin) {
                records.push(std::mem::take(&mut current));
                if records.len() >= RECIPIENTS_MAX {
                    return (about, records);
                }
            }
            let place = match name {
                "final-recipient" => &mut current.final_recipient,
                "original-recipient" => &mut current.original_recipient,
                "x-actual-recipient" => &mut current.actual_recipient,
                "action" => &mut current.action,
                "status" => &mut current.status,
                "diagnostic-code" => &mut current.diagnostic,
                "remote-mta" => &mut current.remote,
                _ => continue,
            };
            is_begin = false;
            place.get_or_insert_with(|| value.to_owned());
        }
    }
    records.push(current);
    records.retain(|record| {
        record.final_recipient.is_some()
            || record.original_recipient.is_some()
            || record.action.is_some() && record.status.is_some()
    });
    (about, records)
}

fn reported(record: &Record, count: usize, passages: &bounce::Passages) -> Option<Reported> {
    let typed = |value: &Option<String>| value.as_deref().and_then(address::typed);
    let (last, first, actual) =
        (typed(&record.final_recipient), typed(&record.original_recipient), typed(&record.actual_recipient));
    let has_domain = |address: &String| address.contains('@');
    // Exim has no Original-Recipient, and tells in words what an address was made of.
    let first = first.or_else(|| last.as_deref().and_then(|last| passages.origin_of(last)).map(|(origin, _)| origin));
    let address = first
        .clone()
        .filter(has_domain)
        .or(last.clone().filter(has_domain))
        .or(actual.clone().filter(has_domain))
        .or(last.clone())
        .or(first);
    let forwarded_to = [last, actual].into_iter().flatten().rfind(|other| {
        other.contains('@') && address.as_ref().is_some_and(|address| !address::same_mailbox(address, other))
    });
    let status = record.status.as_deref().and_then(status_of);
    let mut said = diagnosed(record.diagnostic.as_deref().unwrap_or_default());
    if said.text.trim().len() < 4 || (said.code.is_none() && said.status.is_none() && is_hollow(&said.text)) {
        let comment = record
            .status
            .as_deref()
            .and_then(|value| value.split_once('('))
            .map(|(_, comment)| comment.trim_end_matches(')'));
        let words = passages.reason_of(address.as_deref(), count).or_else(|| comment.map(answer::of));
        if let Some(words) = words {
            said = answer::Answer {
                code: said.code.or(words.code),
                status: said.status.or(words.status),
                stage: said.stage.or(words.stage),
                host: said.host.or(words.host),
                text: words.text,
            };
        }
    } else if said.stage.is_none() {
        said.stage = passages.stage_of(address.as_deref(), count);
    }
    let remote = record.remote.as_deref().and_then(host_of).or(said.host);
    // A status of x.0.0 says nothing, and would hide one that stands in the text.
    let told = status.filter(|status| (status.subject, status.detail) != (0, 0));
    Some(Reported {
        fate: fate(record, status, said.code),
        address: address.map(Into::into),
        forwarded_to: forwarded_to.map(Into::into),
        status: said.status.or(told).or(status.filter(|status| status.class == 4 && said.code.is_none())),
        code: said.code,
        stage: said.stage,
        text: said.text.into(),
        remote_host: remote.map(Into::into),
    })
}

/// Without an action the status tells.
fn fate(record: &Record, status: Option<EnhancedStatus>, code: Option<u16>) -> Fate {
    let action = record.action.as_deref().unwrap_or_default().trim().to_ascii_lowercase();
    let word = action.split([' ', '(', ';', ',']).next().unwrap_or_default();
    match word {
        "failed" | "failure" | "fail" | "expired" | "error" | "bounced" => Fate::Failed,
        "delayed" | "deferred" | "delay" => Fate::Delayed,
        "delivered" | "relayed" | "expanded" | "deliverable" | "success" | "transferred" => Fate::Passed,
        _ => match (status.map(|status| status.class), code) {
            (Some(2), _) => Fate::Passed,
            (Some(5), _) | (None, Some(500..)) => Fate::Failed,
            _ => Fate::Delayed,
        },
    }
}

fn status_of(value: &str) -> Option<EnhancedStatus> {
    let word = value.trim().split([' ', '(', ';', '\t']).next().unwrap_or_default();
    EnhancedStatus::split(word).map(|(status, _)| status)
}

/// `smtp; 550 …`, `X-Postfix; host … said: 550 …`, `X-Notes; …`.
fn diagnosed(value: &str) -> answer::Answer {
    let (kind, rest) = match value.split_once(';') {
        Some((kind, rest)) if kind.len() <= 24 && !kind.trim().contains(' ') => (kind.trim(), rest.trim()),
        _ => ("", value.trim()),
    };
    let rest = rest.strip_prefix("smtp;").unwrap_or(rest).trim();
    let mut said = answer::of(rest);
    if kind.eq_ignore_ascii_case("x-unix") && said.code.is_some_and(|code| code < 400) {
        said.code = None;
    }
    said
}

/// Words of the reporting program that stand for any reason.
fn is_hollow(text: &str) -> bool {
    let lower = text.trim().trim_end_matches('.').to_ascii_lowercase();
    lower.len() < 16
        // X.400's reason 1, whose diagnostic is no number of X.400's.
        || lower.starts_with("reason ") && lower.ends_with("(unknown)")
        || ["permanent failure", "delivery failed", "permanent error", "unknown error", "undefined error"]
            .contains(&lower.as_str())
}

fn host_of(value: &str) -> Option<String> {
    let name = value.split(';').next_back().unwrap_or_default().trim();
    let name = name.split([' ', '(', '[', '\t']).next().unwrap_or_default().trim_end_matches('.');
    let is_host = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte));
    Some(name.to_ascii_lowercase()).filter(|name| !name.is_empty() && name.len() <= 255 && is_host(name))
}
