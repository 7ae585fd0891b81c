//! Control headers: the fields by which a client chooses stream, tags, metadata and time, in the words of whatever
//! service its library was written for.
//!
//! Called by the door, for the families that a credential may use. Pure and total: bounded by the header block, and by
//! [`Marks`]. It knows no stream and no right; what it cannot honour without mailing the wrong thing it refuses.

mod json;
mod names;

use std::borrow::Cow;

use super::header::{Field, HeaderBlock, Kind, unfold};
use crate::mail::{Marks, StreamKind};
use crate::time::Timestamp;
use names::{Meaning, Name};

/// A text that is quoted in a refusal is cut here. Unit: characters.
const QUOTED_CHARS_MAX: usize = 60;

/// Whose words they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// Our own.
    Postrider,
    /// ActiveCampaign Postmark.
    Postmark,
    /// Sinch Mailgun.
    Mailgun,
    /// Amazon SES.
    Ses,
    /// Twilio SendGrid.
    Sendgrid,
    /// SparkPost, by Bird.
    Sparkpost,
    /// Mailchimp Transactional.
    Mandrill,
    /// Sinch Mailjet.
    Mailjet,
    /// Elastic Email.
    Elastic,
    /// Postal.
    Postal,
    /// SendCloud.
    Sendcloud,
    /// PowerMTA.
    Powermta,
    /// ZoneMTA.
    Zonemta,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 13] = [
        Family::Postrider,
        Family::Postmark,
        Family::Mailgun,
        Family::Ses,
        Family::Sendgrid,
        Family::Sparkpost,
        Family::Mandrill,
        Family::Mailjet,
        Family::Elastic,
        Family::Postal,
        Family::Sendcloud,
        Family::Powermta,
        Family::Zonemta,
    ];

    /// The word in the config.
    pub fn name(self) -> &'static str {
        match self {
            Family::Postrider => "postrider",
            Family::Postmark => "postmark",
            Family::Mailgun => "mailgun",
            Family::Ses => "ses",
            Family::Sendgrid => "sendgrid",
            Family::Sparkpost => "sparkpost",
            Family::Mandrill => "mandrill",
            Family::Mailjet => "mailjet",
            Family::Elastic => "elastic",
            Family::Postal => "postal",
            Family::Sendcloud => "sendcloud",
            Family::Powermta => "powermta",
            Family::Zonemta => "zonemta",
        }
    }
}

/// Some families.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Families(u16);

impl Families {
    /// No family.
    pub const NONE: Families = Families(0);

    /// Whether a family is one of them.
    pub fn has(self, family: Family) -> bool {
        self.0 & (1 << family as u16) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Families::NONE
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> Families {
        Families(families.into_iter().fold(0, |set, family| set | 1 << family as u16))
    }
}

/// A stream, as a client calls it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamName {
    /// Its name for the stream: ours, or one of the stream's aliases.
    pub name: String,
    /// What said so: `X-SMTPAPI's ip_pool`.
    pub place: String,
    /// A name that we do not know means nothing.
    pub optional: bool,
}

/// What the control headers of one message ask for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Control {
    /// In the order of the message.
    pub streams: Vec<StreamName>,
    /// The kind that the stream must have, and what said so.
    pub kind: Option<(StreamKind, String)>,
    /// Tags, metadata, engagement.
    pub marks: Marks,
    /// Not before this.
    pub release_at: Option<Timestamp>,
    /// A field of a family that is not enabled, which therefore stays in the message and means nothing.
    pub ignored: Option<String>,
}

/// Why a message is refused for its control headers. Each says what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    /// It asks for what is not done here, and would be wrong without it.
    #[error("{place} cannot be honoured: {why}")]
    Unsupported {
        /// `X-SMTPAPI's to`.
        place: String,
        /// A sentence.
        why: String,
    },
    /// It cannot be read.
    #[error("{place} cannot be read: {why}")]
    Unreadable {
        /// As above.
        place: String,
        /// As above.
        why: String,
    },
    /// There is more of it than is kept.
    #[error("{0}")]
    TooMuch(String),
}

impl ControlError {
    fn unsupported(place: impl Into<String>, why: impl Into<String>) -> ControlError {
        ControlError::Unsupported { place: place.into(), why: why.into() }
    }

    fn unreadable(place: impl Into<String>, why: impl Into<String>) -> ControlError {
        ControlError::Unreadable { place: place.into(), why: why.into() }
    }
}

/// Reads the control headers of the enabled families, and marks their fields as [`Kind::Control`]: they do not leave.
///
/// # Errors
/// What the client is told.
pub fn control(header: &mut HeaderBlock, enabled: Families) -> Result<Control, ControlError> {
    let mut control = Control::default();
    // Two of one JSON field: which of them counts is another's choice at each service.
    let mut seen_json: Option<&Name> = None;
    for field in &mut header.fields {
        if field.kind != Kind::Other {
            continue;
        }
        let Some((name, rest)) = names::find(field.name) else { continue };
        if !enabled.has(name.family) {
            control.ignored.get_or_insert_with(|| lossy(field.name));
            continue;
        }
        field.kind = Kind::Control;
        if matches!(name.meaning, Meaning::Sendgrid | Meaning::Sparkpost)
            && seen_json.replace(name).is_some_and(|seen| std::ptr::eq(seen, name))
        {
            return Err(ControlError::unsupported(lossy(field.name), "it stands twice; send one field"));
        }
        take(&mut control, name, rest, field)?;
    }
    Ok(control)
}

/// Takes one field over.
fn take(control: &mut Control, name: &Name, rest: &[u8], field: &Field) -> Result<(), ControlError> {
    let place = lossy(field.name);
    let value = text(field.value);
    match name.meaning {
        Meaning::Stream => control.name_stream(&value, place),
        Meaning::Tag => return control.tag(&value),
        Meaning::Tags => return value.split(',').try_for_each(|tag| control.tag(tag)),
        Meaning::Pairs => {
            for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                let why = "pairs such as campaign=spring, with commas between, are expected";
                let (key, value) = pair.split_once('=').ok_or_else(|| ControlError::unreadable(&*place, why))?;
                control.tag(pair)?;
                control.pair(key, value)?;
            }
        }
        Meaning::Metadata => return control.pair(&lossy(rest), &value),
        Meaning::MetadataAs(key) => return control.pair(key, &value),
        Meaning::MetadataObject => return json::metadata(control, &value, &place),
        Meaning::Sendgrid => return json::sendgrid(control, &value, &place),
        Meaning::Sparkpost => return json::sparkpost(control, &value, &place),
        Meaning::At => control.not_before(Timestamp::read(&value), place)?,
        Meaning::AtUtc => control.not_before(Timestamp::read_utc(&value), place)?,
        Meaning::Engaged => control.marks.engaged = is_yes(&value),
        Meaning::Transactional => {
            let kind = if is_no(&value) { StreamKind::Marketing } else { StreamKind::Transactional };
            control.kind = Some((kind, place));
        }
        Meaning::Nothing => {}
        Meaning::Unsupported(why) if !is_no(&value) => return Err(ControlError::unsupported(place, why)),
        Meaning::Unsupported(_) => {}
    }
    Ok(())
}

impl Control {
    fn name_stream(&mut self, name: &str, place: String) {
        let name = name.trim();
        if !name.is_empty() {
            self.streams.push(StreamName { name: name.to_owned(), place, optional: false });
        }
    }

    fn not_before(
        &mut self,
        read: Result<Timestamp, crate::time::MomentError>,
        place: String,
    ) -> Result<(), ControlError> {
        let at = read.map_err(|error| ControlError::unreadable(place, error.to_string()))?;
        self.release_at = Some(self.release_at.map_or(at, |other| other.max(at)));
        Ok(())
    }

    /// Adds a tag, once.
    fn tag(&mut self, tag: &str) -> Result<(), ControlError> {
        let tag = clean(tag);
        if tag.is_empty() || self.marks.tags.iter().any(|known| **known == *tag) {
            return Ok(());
        }
        within("a tag", tag.len(), Marks::WORD_LENGTH_MAX, "octets")?;
        within("the message's tags", self.marks.tags.len() + 1, Marks::TAGS_MAX, "tags")?;
        self.marks.tags.push(tag.as_ref().into());
        Ok(())
    }

    /// Sets a value; a key that is known gets the later one.
    fn pair(&mut self, key: &str, value: &str) -> Result<(), ControlError> {
        let (key, value) = (clean(key), clean(value));
        if key.is_empty() {
            return Ok(());
        }
        within("a key of the metadata", key.len(), Marks::WORD_LENGTH_MAX, "octets")?;
        let metadata = &mut self.marks.metadata;
        metadata.retain(|(known, _)| **known != *key);
        within("the metadata", metadata.len() + 1, Marks::PAIRS_MAX, "pairs")?;
        let length: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        within("the metadata", length + key.len() + value.len(), Marks::METADATA_LENGTH_MAX, "octets")?;
        metadata.push((key.as_ref().into(), value.as_ref().into()));
        Ok(())
    }
}

fn within(what: &str, is: usize, most: usize, unit: &str) -> Result<(), ControlError> {
    match is <= most {
        true => Ok(()),
        false => Err(ControlError::TooMuch(format!("{what} may have {most} {unit}, and has {is}"))),
    }
}

/// The value on one line, encoded words (RFC 2047) decoded.
fn text(value: &[u8]) -> String {
    let flat = unfold(value);
    match memchr::memmem::find(&flat, b"=?") {
        None => lossy(&flat),
        Some(_) => decoded(&flat).unwrap_or_else(|| lossy(&flat)),
    }
}

/// As a mail reader shows a Subject, which is free text too.
fn decoded(flat: &[u8]) -> Option<String> {
    let message = [b"Subject: ", flat, b"\r\n\r\n"].concat();
    let parsed = mail_parser::MessageParser::new().parse(&message)?;
    parsed.subject().map(str::to_owned)
}

fn lossy(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Trimmed, and without control characters, which would break a listing or a log line.
fn clean(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    match text.contains(char::is_control) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()),
    }
}

/// A client's words in a reply: short and harmless.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

fn is_yes(value: &str) -> bool {
    ["yes", "true", "1", "on"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

fn is_no(value: &str) -> bool {
    ["", "no", "false", "0", "off"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
