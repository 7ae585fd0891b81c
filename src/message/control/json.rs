//! Control headers whose value is JSON: SendGrid's `X-SMTPAPI`, SparkPost's `X-MSYS-API`, and plain objects of metadata.
//!
//! Read whole by serde_json, which refuses more than 128 levels; the length is bounded here.

use serde_json::{Map, Value};

use super::{Control, ControlError, quoted};
use crate::mail::StreamKind;
use crate::time::Timestamp;

/// Longest JSON that is read. Unit: octets. SendGrid takes 10,000; what is kept of it is bounded more tightly.
const LENGTH_MAX: usize = 64 * 1024;

const ELSEWHERE: &str =
    "recipients are those of the envelope; hand in one message for each recipient that gets its own";
const CONTENT: &str = "content is not changed here; send the finished message";

/// A plain object of keys and values.
pub(super) fn metadata(control: &mut Control, text: &str, place: &str) -> Result<(), ControlError> {
    let object = object(text, place)?;
    pairs(control, &object)
}

/// <https://www.twilio.com/docs/sendgrid/for-developers/sending-email/building-an-x-smtpapi-header>
pub(super) fn sendgrid(control: &mut Control, text: &str, place: &str) -> Result<(), ControlError> {
    for (key, value) in &object(text, place)? {
        let place = format!("{place}'s {key}");
        match key.as_str() {
            "to" | "send_each_at" if !is_empty(value) => return Err(ControlError::unsupported(place, ELSEWHERE)),
            "sub" | "section" if !is_empty(value) => return Err(ControlError::unsupported(place, CONTENT)),
            "category" => tags(control, value, &place)?,
            "unique_args" => pairs(control, entries(value, &place)?)?,
            "ip_pool" => control.name_stream(word(value, &place)?.as_str(), place),
            // A group of unsubscribers there may be a stream here, by an alias.
            "asm_group_id" => {
                let name = scalar(value);
                control.streams.push(super::StreamName { name, place, optional: true });
            }
            "send_at" => {
                let secs = scalar(value).trim().parse::<u64>();
                let why = "seconds since 1970 are expected";
                let secs = secs.map_err(|_| ControlError::unreadable(&*place, why))?;
                control.not_before(Ok(Timestamp::from_secs(secs)), place)?;
            }
            "filters" => filters(entries(value, &place)?, &place)?,
            // Groups to show on an unsubscribe page, batches and whatever comes later: mail without it is no other mail.
            _ => {}
        }
    }
    Ok(())
}

/// SendGrid's switches. Those that would have changed the message or its recipients must not be passed over.
fn filters(filters: &Map<String, Value>, place: &str) -> Result<(), ControlError> {
    for (name, filter) in filters {
        let enabled = filter.get("settings").and_then(|settings| settings.get("enable"));
        let is_on = enabled.is_some_and(|value| !super::is_no(&scalar(value)));
        let why = match name.as_str() {
            "bcc" => ELSEWHERE,
            "footer" | "template" | "templates" | "subscriptiontrack" => CONTENT,
            // Tracking, spam checks, DKIM, bypasses of lists that are not kept here.
            _ => continue,
        };
        if is_on {
            return Err(ControlError::unsupported(format!("{place}.{name}"), why));
        }
    }
    Ok(())
}

/// <https://developers.sparkpost.com/api/smtp/>
pub(super) fn sparkpost(control: &mut Control, text: &str, place: &str) -> Result<(), ControlError> {
    for (key, value) in &object(text, place)? {
        let place = format!("{place}'s {key}");
        match key.as_str() {
            "cc" | "bcc" | "archive" | "recipients" if !is_empty(value) => {
                return Err(ControlError::unsupported(place, ELSEWHERE));
            }
            "substitution_data" | "content" if !is_empty(value) => {
                return Err(ControlError::unsupported(place, CONTENT));
            }
            "campaign_id" => control.tag(&word(value, &place)?)?,
            "tags" => tags(control, value, &place)?,
            "metadata" => pairs(control, entries(value, &place)?)?,
            "options" => options(control, entries(value, &place)?, &place)?,
            _ => {}
        }
    }
    Ok(())
}

fn options(control: &mut Control, options: &Map<String, Value>, place: &str) -> Result<(), ControlError> {
    for (key, value) in options {
        let place = format!("{place}.{key}");
        let is_on = !super::is_no(&scalar(value));
        match key.as_str() {
            "ip_pool" => control.name_stream(word(value, &place)?.as_str(), place),
            "transactional" => {
                let kind = if is_on { StreamKind::Transactional } else { StreamKind::Marketing };
                control.kind = Some((kind, place));
            }
            "start_time" => {
                let text = word(value, &place)?;
                control.not_before(Timestamp::read(&text), place)?;
            }
            "sandbox" if is_on => {
                let why = "it asks for a message that is not sent; use `postrider sandbox` for tests";
                return Err(ControlError::unsupported(place, why));
            }
            "inline_css" if is_on => return Err(ControlError::unsupported(place, CONTENT)),
            // Tracking, and a suppression list that is not kept here.
            _ => {}
        }
    }
    Ok(())
}

fn object(text: &str, place: &str) -> Result<Map<String, Value>, ControlError> {
    if text.len() > LENGTH_MAX {
        return Err(ControlError::TooMuch(format!("{place} may have {LENGTH_MAX} octets")));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ControlError::unreadable(place, "a JSON object in braces is expected")),
        Err(error) => Err(ControlError::unreadable(place, format!("this is not JSON: {error}"))),
    }
}

fn entries<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, ControlError> {
    value.as_object().ok_or_else(|| ControlError::unreadable(place, "a JSON object in braces is expected"))
}

/// One or several.
fn tags(control: &mut Control, value: &Value, place: &str) -> Result<(), ControlError> {
    match value {
        Value::Array(list) => list.iter().try_for_each(|tag| control.tag(&word(tag, place)?)),
        tag => control.tag(&word(tag, place)?),
    }
}

fn pairs(control: &mut Control, object: &Map<String, Value>) -> Result<(), ControlError> {
    object.iter().try_for_each(|(key, value)| control.pair(key, &scalar(value)))
}

fn word(value: &Value, place: &str) -> Result<String, ControlError> {
    match value {
        Value::String(_) | Value::Number(_) | Value::Null => Ok(scalar(value)),
        other => {
            let why = format!("a text is expected, not {}", quoted(&other.to_string()));
            Err(ControlError::unreadable(place, why))
        }
    }
}

/// A value as text: what is no scalar stays JSON.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
