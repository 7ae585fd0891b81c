//! Complaints: ARF (RFC 5965, 6590, 6650) with its redactions, Microsoft's JMRP, which is a message attached to a message,
//! and Yahoo's and others' that forget half of the form.

use super::field;
use super::piece::{self, Letter};
use super::{Fate, Kind, Reading, Reported, Returned};
use super::{address, phrases, quoted};

/// Feedback-Types that no person sent: RFC 5965 §7.3, RFC 6591, RFC 6650 §3.
const NO_COMPLAINT: [&str; 8] =
    ["not-spam", "auth-failure", "dmarc", "spf", "dkim", "miscategorized", "identity", "not_spam"];

/// Reads a message that a feedback loop sent.
pub(super) fn read(letter: &Letter, original: &Returned) -> Option<Reading> {
    letter_of_arf(letter, original).or_else(|| letter_of_jmrp(letter, original)).or_else(|| plain(letter, original))
}

fn letter_of_arf(letter: &Letter, original: &Returned) -> Option<Reading> {
    let text = letter.texts(piece::Kind::Feedback).next()?;
    let fields = field::groups(&text);
    let first = |name: &str| fields.iter().find_map(|group| group.first(name));
    let kind = first("feedback-type").unwrap_or("abuse").trim().to_ascii_lowercase();
    let is_complaint = !NO_COMPLAINT.contains(&kind.as_str());
    let mut reading = Reading::of(if is_complaint { Kind::Complaint } else { Kind::Other });
    reading.reporter = first("user-agent").map(Into::into);
    let sender = first("original-mail-from").map(|value| value.trim().trim_matches(['<', '>']));
    reading.original.return_path = sender.filter(|path| path.contains('@')).map(Into::into);
    reading.original.envelope_id = first("original-envelope-id").map(Into::into);
    if is_complaint {
        let named = ["original-rcpt-to", "removal-recipient", "x-hmxmroriginalrecipient", "redacted-address"];
        let named: Vec<String> = named
            .iter()
            .flat_map(|name| fields.iter().flat_map(move |group| group.all(name)))
            .filter_map(address::typed)
            .collect();
        reading.recipients = complainers(named, original, &kind);
    }
    reading.feedback_type = Some(kind.into());
    Some(reading)
}

/// One complaint for each address that is named, else one of nobody: our token knows whom it was sent to.
fn complainers(named: Vec<String>, original: &Returned, kind: &str) -> Vec<Reported> {
    let mut addresses: Vec<Box<str>> = Vec::new();
    let known = named.into_iter().filter(|address| !is_redacted(address)).map(Into::into);
    let known: Vec<Box<str>> = known.collect();
    // Of several the one that is not redacted is the one who did not complain.
    let known = match (known.is_empty(), original.to.as_slice()) {
        (true, [only]) if !is_redacted(only) => vec![only.clone()],
        _ => known,
    };
    for address in known {
        if !addresses.iter().any(|seen| seen.eq_ignore_ascii_case(&address)) {
            addresses.push(address);
        }
    }
    let one = |address: Option<Box<str>>| Reported {
        address,
        forwarded_to: None,
        fate: Fate::Passed,
        status: None,
        code: None,
        stage: None,
        text: kind.into(),
        remote_host: None,
    };
    match addresses.is_empty() {
        true => vec![one(None)],
        false => addresses.into_iter().map(|address| one(Some(address))).collect(),
    }
}

/// RFC 6590 replaces local parts; AOL and Microsoft write the word.
fn is_redacted(address: &str) -> bool {
    let local = address.split('@').next().unwrap_or_default().to_ascii_lowercase();
    !address.contains('@')
        || phrases::has(&local, &["redact", "undisclosed", "xxxx", "hidden"])
        || local == "x"
        || address.ends_with(".invalid")
}

/// Microsoft's: the message attached as it came, with the recipient in a field of its own, or a report from its staff.
fn letter_of_jmrp(letter: &Letter, original: &Returned) -> Option<Reading> {
    let mut named = Vec::new();
    let mut header = letter.fields.clone();
    for piece in letter.pieces.iter().filter(|piece| matches!(piece.kind, piece::Kind::Message | piece::Kind::Header)) {
        let (fields, _) = field::header(piece.body);
        named.extend(fields.all("x-hmxmroriginalrecipient").filter_map(address::typed));
        header = fields;
    }
    named.extend(letter.fields.all("x-hmxmroriginalrecipient").filter_map(address::typed));
    let from = letter.from().unwrap_or_default().to_ascii_lowercase();
    let is_staff = phrases::begins(&from, &["staff@hotmail.", "staff@outlook.", "jmrp@", "junkmail@"]);
    let subject = letter.subject();
    let is_attached = letter.pieces.iter().any(|piece| piece.kind == piece::Kind::Message);
    if named.is_empty() && !(is_staff && is_attached && subject.starts_with("complaint about message")) {
        return None;
    }
    let mut reading = Reading::of(Kind::Complaint);
    reading.recipients =
        complainers(named, &Returned { to: original.to.clone(), ..quoted::of_fields(&header) }, "abuse");
    reading.feedback_type = Some("abuse".into());
    reading.reporter = Some("JMRP".into());
    Some(reading)
}

/// A loop that sends no form: it says so in words, and attaches the message.
fn plain(letter: &Letter, original: &Returned) -> Option<Reading> {
    let from = letter.fields.first("from").unwrap_or_default().to_ascii_lowercase();
    let content = letter.fields.first("content-type").unwrap_or_default().to_ascii_lowercase();
    let attached = letter.pieces.iter().any(|piece| matches!(piece.kind, piece::Kind::Message | piece::Kind::Header));
    let is_form = content.contains("feedback-report");
    let words = letter.words.get(..letter.words.floor_char_boundary(2000)).unwrap_or_default().to_lowercase();
    let says = [
        "this is an email abuse report",
        "this is a spam report",
        "email feedback report",
        "abuse report for an email",
        "spam complaint",
        "reported as spam by",
        "marked this message as spam",
        "marked as spam by",
        "feedback loop report",
    ];
    let is_loop = phrases::has(&from, &["feedback", "fbl", "complaint", "abuse", "scomp@", "junk", "spam"]);
    if !(attached && (is_form || phrases::has(&words, &says) && is_loop)) {
        return None;
    }
    let mut reading = Reading::of(Kind::Complaint);
    reading.recipients = complainers(Vec::new(), original, "abuse");
    reading.feedback_type = Some("abuse".into());
    Some(reading)
}
