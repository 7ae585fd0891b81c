//! What a row means, by the names of its columns.

use serde_json::Value;

use super::{About, Row, Terms};
use crate::classify::{Class, Observation, Rules};
use crate::mail::{Address, Cause as Found, QueueId, Reply, Stage, StreamKind};
use crate::suppression::{Cause, Entry, Scope, State};
use crate::time::Timestamp;

/// What a column may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Address,
    /// A word for the cause.
    Cause,
    /// A word for the cause (SES), or a peer's words (SendGrid).
    Reason,
    Words,
    Status,
    Code,
    Origin,
    Tags,
    Added,
    Last,
    Expires,
    Scope,
    State,
    Hits,
    Site,
    Source,
}

/// By names in small letters without anything but letters and digits.
const NAMES: &[(&str, Column)] = &[
    ("address", Column::Address),
    ("email", Column::Address),
    ("emailaddress", Column::Address),
    ("recipient", Column::Address),
    ("cause", Column::Cause),
    ("suppressionreason", Column::Cause),
    ("type", Column::Cause),
    ("bouncetype", Column::Cause),
    ("reason", Column::Reason),
    ("error", Column::Words),
    ("evidence", Column::Words),
    ("description", Column::Words),
    ("details", Column::Words),
    ("status", Column::Status),
    ("code", Column::Code),
    ("origin", Column::Origin),
    ("tags", Column::Tags),
    ("created", Column::Added),
    ("createdat", Column::Added),
    ("addedat", Column::Added),
    ("date", Column::Added),
    ("timestamp", Column::Added),
    ("lastupdatetime", Column::Added),
    ("lastat", Column::Last),
    ("expiresat", Column::Expires),
    ("scope", Column::Scope),
    ("state", Column::State),
    ("hits", Column::Hits),
    ("site", Column::Site),
    ("sourceid", Column::Source),
];

fn column(name: &str) -> Option<Column> {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    NAMES.iter().find(|(known, _)| *known == plain).map(|(_, column)| *column)
}

/// Which column stands where.
pub(super) struct Columns {
    places: Vec<(usize, Column)>,
}

impl Columns {
    /// An address, and perhaps its cause: SES's form for its bulk import.
    pub fn bare() -> Columns {
        Columns { places: vec![(0, Column::Address), (1, Column::Cause)] }
    }

    /// Of a first line. `None`: it is no header, but an address.
    pub fn of_header(fields: &[String], terms: &Terms) -> Result<Option<Columns>, String> {
        if fields.first().is_some_and(|first| first.contains('@')) {
            return Ok(None);
        }
        let known = fields.iter().enumerate().filter_map(|(place, name)| Some((place, column(name)?)));
        let columns = Columns { places: known.collect() };
        if !columns.has(Column::Address) {
            return Err(format!(
                "no column has the addresses: one of them must be called address or email, and these are {}",
                fields.join(", ").chars().take(200).collect::<String>()
            ));
        }
        let says = [Column::Cause, Column::Reason, Column::Status, Column::Code, Column::Tags];
        let says_why = says.iter().any(|column| columns.has(*column));
        // A list with dates comes from a service, which has several lists of the same columns.
        if columns.has(Column::Added) && !says_why && terms.about.is_none() && terms.cause.is_none() {
            return Err(
                "neither the columns nor the file's name say what these addresses are: add --as bounces, blocks, complaints, \
                 unsubscribes or invalid, or --cause"
                    .to_owned(),
            );
        }
        Ok(Some(columns))
    }

    fn has(&self, column: Column) -> bool {
        self.places.iter().any(|(_, other)| *other == column)
    }

    pub fn read(&self, fields: &[String], terms: &Terms) -> Row {
        let get = |column| {
            let place = self.places.iter().find(|(_, other)| *other == column)?.0;
            fields.get(place).map(String::as_str).filter(|text| !text.is_empty())
        };
        read(&get, terms)
    }
}

/// An object of JSON Lines, its names as those of columns.
pub(super) fn read_json(line: &[u8], terms: &Terms) -> Row {
    let object = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Row::Bad("a JSON object is expected on each line".to_owned()),
        Err(error) => return Row::Bad(format!("it is no JSON: {error}")),
    };
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let values: Vec<(Column, String)> =
        object.iter().filter_map(|(name, value)| Some((column(name)?, text(value)))).collect();
    let get = |column| {
        let (_, text) = values.iter().find(|(other, _)| *other == column)?;
        Some(text.as_str()).filter(|text| !text.is_empty())
    };
    read(&get, terms)
}

fn read<'a>(get: &dyn Fn(Column) -> Option<&'a str>, terms: &Terms) -> Row {
    let Some(address) = get(Column::Address) else { return Row::Bad("the address is missing".to_owned()) };
    let address: Address = match address.trim().trim_start_matches('<').trim_end_matches('>').parse() {
        Ok(address) => address,
        Err(error) => return Row::Bad(format!("{:?}: {error}", address.chars().take(100).collect::<String>())),
    };
    let found = match terms.cause {
        Some(cause) => Why::Is(cause),
        None => match why(get, terms) {
            Ok(found) => found,
            Err(bad) => return Row::Bad(bad),
        },
    };
    let cause = match found {
        Why::Is(cause) => cause,
        Why::IsNone(reason) => return Row::LeftOut(reason),
    };
    match entry(get, terms, cause) {
        Ok(entry) => Row::Entry(address, entry),
        Err(bad) => Row::Bad(bad),
    }
}

enum Why {
    Is(Cause),
    /// It is no reason to suppress.
    IsNone(&'static str),
}

const SOFT: &str = "a soft bounce, which passes";
const BLOCK: &str = "a refusal of the sender, not of the address";
const NOT_DEAD: &str = "a bounce whose words do not say that there is no such mailbox";

/// Why the address is in the file: the row's word for it comes first, then what the file is about, then its columns.
fn why<'a>(get: &dyn Fn(Column) -> Option<&'a str>, terms: &Terms) -> Result<Why, String> {
    if let Some(word) = get(Column::Cause) {
        let known = cause_word(word, get(Column::Origin));
        return known.ok_or_else(|| {
            let word: String = word.chars().take(50).collect();
            format!("{word:?} is no cause that is known: hard_bounce, complaint, unsubscribe, manual … or --cause")
        });
    }
    let reason = get(Column::Reason);
    if let Some(known) = reason.filter(|reason| !reason.contains(' ')).and_then(|word| cause_word(word, None)) {
        return Ok(known);
    }
    let words = reason.or(get(Column::Words));
    match terms.about {
        Some(About::Complaints) => return Ok(Why::Is(Cause::Complaint)),
        Some(About::Unsubscribes) => return Ok(Why::Is(Cause::Unsubscribe)),
        Some(About::Invalid) => return Ok(Why::Is(Cause::HardBounce)),
        Some(About::Blocks) => return Ok(Why::IsNone(BLOCK)),
        Some(About::Bounces) | None => {}
    }
    if get(Column::Tags).is_some() && terms.about.is_none() {
        return Ok(Why::Is(Cause::Unsubscribe));
    }
    let (status, code) = (get(Column::Status), get(Column::Code));
    if words.is_some() || status.is_some() || code.is_some() {
        return Ok(of_bounce(words.unwrap_or_default(), status, code));
    }
    match terms.about {
        // A list of bounces that says no more of them is believed.
        Some(About::Bounces) => Ok(Why::Is(Cause::HardBounce)),
        _ => Ok(Why::Is(Cause::Import)),
    }
}

/// Words for causes as services write them.
fn cause_word(word: &str, origin: Option<&str>) -> Option<Why> {
    let plain: String = word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    Some(match plain.as_str() {
        // Our own export has believed it already.
        "softbounce" if word == Cause::SoftBounce.name() => Why::Is(Cause::SoftBounce),
        "hardbounce" | "bounce" | "bounced" | "permanent" | "invalid" | "invalidemail" | "bademailaddress" => {
            Why::Is(Cause::HardBounce)
        }
        "complaint" | "spamcomplaint" | "spam" | "spamreport" | "abuse" => Why::Is(Cause::Complaint),
        "unsubscribe" | "unsubscribed" | "globalunsubscribe" | "groupunsubscribe" | "optout" => {
            Why::Is(Cause::Unsubscribe)
        }
        // Postmark's: by the recipient's own hand, or by the customer's.
        "manualsuppression" if origin.is_some_and(|origin| origin.eq_ignore_ascii_case("recipient")) => {
            Why::Is(Cause::Unsubscribe)
        }
        "manual" | "manualsuppression" => Why::Is(Cause::Manual),
        "import" | "imported" => Why::Is(Cause::Import),
        "softbounce" | "soft" | "transient" | "temporary" | "mailboxfull" => Why::IsNone(SOFT),
        "block" | "blocked" | "blocks" => Why::IsNone(BLOCK),
        _ => return None,
    })
}

/// A bounce is read as the reply that it quotes: only what says that the mailbox is not there suppresses.
fn of_bounce(words: &str, status: Option<&str>, code: Option<&str>) -> Why {
    let digits =
        |text: &str| text.get(..3).and_then(|code| code.parse::<u16>().ok()).filter(|c| (400..700).contains(c));
    let in_words = digits(words).filter(|_| !words.as_bytes().get(3).is_some_and(u8::is_ascii_digit));
    let text =
        if in_words.is_some() { words.get(3..).unwrap_or_default().trim_start_matches([' ', '-']) } else { words };
    let is_status = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u16>().is_ok());
        parts.clone().count() == 3 && parts.all(|is_number| is_number)
    };
    let status = status.filter(|status| is_status(status));
    let text = match (status, text.split_ascii_whitespace().next().is_some_and(is_status)) {
        (Some(status), false) => format!("{status} {text}"),
        _ => text.to_owned(),
    };
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    let class = first.bytes().next().filter(|_| is_status(first));
    let told = code.and_then(digits).or(in_words);
    // A service's own codes lie above 599: Mailgun's 605 is an address that bounced before.
    let code = match (told, class) {
        (Some(code @ 400..=599), _) => code,
        (Some(_), _) => 550,
        (None, Some(b'4')) => 450,
        (None, _) => 550,
    };
    if code < 500 || class == Some(b'4') {
        return Why::IsNone(SOFT);
    }
    if told.is_some_and(|code| code >= 600) || text.trim().is_empty() {
        return Why::Is(Cause::HardBounce);
    }
    let cause = Found::Reply(Reply::new(code, &text));
    let observation = Observation { stage: Stage::Rcpt, cause: &cause, recipients_taken: 0, host: None };
    let meaning = Rules::shipped().classify(&observation);
    match meaning.class {
        Class::RecipientInvalid if meaning.suppress => Why::Is(Cause::HardBounce),
        Class::RecipientInvalid => Why::IsNone(NOT_DEAD),
        Class::Inactive | Class::MailboxFull => Why::IsNone(SOFT),
        _ if meaning.class.passes_by_itself() => Why::IsNone(SOFT),
        _ => Why::IsNone(NOT_DEAD),
    }
}

fn entry<'a>(get: &dyn Fn(Column) -> Option<&'a str>, terms: &Terms, cause: Cause) -> Result<Entry, String> {
    let time = |column, name: &str| match get(column) {
        None => Ok(None),
        Some(text) => time(text).map(Some).ok_or_else(|| {
            format!("{name} {:?} is no time such as 2026-11-21T10:00:00Z", text.chars().take(50).collect::<String>())
        }),
    };
    let added_at = time(Column::Added, "created")?.unwrap_or(terms.now).min(terms.now);
    let scope = match (&terms.scope, get(Column::Scope)) {
        (Some(scope), _) => scope.clone(),
        (None, Some(text)) => Scope::parse(text)
            .ok_or_else(|| format!("scope {text:?}: all, marketing, transactional or stream:NAME is expected"))?,
        (None, None) => scope_of(cause),
    };
    let state = get(Column::State).and_then(State::parse);
    let hits = get(Column::Hits).and_then(|text| text.parse().ok()).unwrap_or(1);
    let words = get(Column::Words).or(get(Column::Reason).filter(|reason| reason.contains(' ')));
    Ok(Entry {
        last_at: time(Column::Last, "last_at")?.unwrap_or(added_at).max(added_at),
        expires_at: match terms.expires_at {
            Some(at) => Some(at),
            None => time(Column::Expires, "expires_at")?,
        },
        hits,
        pending: state == Some(State::Pending),
        site: get(Column::Site).unwrap_or_default().into(),
        source_id: get(Column::Source).and_then(|text| text.parse::<QueueId>().ok()),
        evidence: words.unwrap_or_default().into(),
        ..Entry::new(scope, cause, added_at)
    }
    .bounded())
}

/// What a cause stops where nothing else is said: who wants no newsletter may still want the invoice.
fn scope_of(cause: Cause) -> Scope {
    match cause {
        Cause::Complaint | Cause::Unsubscribe => Scope::Kind(StreamKind::Marketing),
        Cause::HardBounce | Cause::SoftBounce | Cause::Manual | Cause::Import => Scope::All,
    }
}

/// A time in any form that services export: RFC 3339 and 5322, `2026-11-21 10:00:00` (UTC), seconds or milliseconds since 1970.
fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        // Up to the year 5138 in seconds; what is more is milliseconds.
        let millis = if number < 1e11 { number * 1000.0 } else { number };
        return (millis.is_finite() && (0.0..1e15).contains(&millis)).then(|| Timestamp::from_millis(millis as u64));
    }
    let plain = text.strip_suffix(" UTC").unwrap_or(text);
    Timestamp::read_utc(plain).ok()
}
