//! The parameters behind the path in MAIL and RCPT: only those that we announce, each at most once.

use std::time::Duration;

use super::answer::Answer;
use crate::mail::{Address, Notify, Return, Text, is_safe_argument};
use crate::time::Timestamp;

/// Longest ENVID once decoded, RFC 3461 §4.4.
const ENVID_LENGTH_MAX: usize = 100;
/// Longest ORCPT. RFC 3461 §4.2. Unit: octets.
const ORCPT_LENGTH_MAX: usize = 500;

/// What MAIL said besides who from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// `SIZE=`, RFC 1870. Unit: octets. A number too big for us reads as the biggest.
    pub size: Option<u64>,
    /// `SMTPUTF8`, RFC 6531.
    pub smtputf8: bool,
    /// `RET=`, RFC 3461.
    pub ret: Option<Return>,
    /// `ENVID=`, as it came.
    pub envid: Option<Text>,
    /// `HOLDFOR=` or `HOLDUNTIL=`.
    pub hold: Option<Hold>,
}

/// When a message may go first, RFC 4865.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// So long after it was accepted. Unit: seconds.
    For(Duration),
    /// Not before this.
    Until(Timestamp),
}

/// What RCPT said besides who to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// `NOTIFY=`.
    pub notify: Notify,
    /// `ORCPT=`, as it came; non-ASCII written as RFC 6533 §3 `utf-8-addr-xtext`.
    pub original: Option<Text>,
}

/// Reads MAIL's.
///
/// # Errors
/// 501 for a bad or repeated one, 555 for one that we do not know.
pub fn mail(text: &str) -> Result<MailParameters, Answer> {
    let mut read = MailParameters::default();
    let mut seen = Seen::default();
    for (keyword, value) in parameters(text) {
        match (seen.note(keyword)?.as_str(), value) {
            ("SIZE", Some(value)) => read.size = Some(decimal(value).ok_or_else(|| bad("SIZE"))?),
            ("SMTPUTF8", None) => read.smtputf8 = true,
            ("BODY", Some(value)) if is_word(value, "7BIT") || is_word(value, "8BITMIME") => {}
            ("BODY", Some(value)) if is_word(value, "BINARYMIME") => return Err(unknown("BODY=BINARYMIME")),
            ("RET", Some(value)) if is_word(value, "FULL") => read.ret = Some(Return::Full),
            ("RET", Some(value)) if is_word(value, "HDRS") => read.ret = Some(Return::Headers),
            ("ENVID", Some(value)) => read.envid = Some(envid(value).ok_or_else(|| bad("ENVID"))?),
            // RFC 4954 §5: must be taken by a server that offers AUTH. Who submitted before us is not asserted on.
            ("AUTH", Some(value)) if is_xtext(value) => {}
            // RFC 4865: one of the two.
            ("HOLDFOR" | "HOLDUNTIL", _) if read.hold.is_some() => {
                return Err(Answer::fixed(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other"));
            }
            ("HOLDFOR", Some(value)) => read.hold = Some(hold_for(value).ok_or_else(|| bad("HOLDFOR"))?),
            ("HOLDUNTIL", Some(value)) => read.hold = Some(hold_until(value).ok_or_else(|| bad("HOLDUNTIL"))?),
            (known @ ("SIZE" | "SMTPUTF8" | "BODY" | "RET" | "ENVID" | "AUTH" | "HOLDFOR" | "HOLDUNTIL"), _) => {
                return Err(bad(known));
            }
            _ => return Err(unknown(keyword)),
        }
    }
    Ok(read)
}

/// Reads RCPT's.
///
/// # Errors
/// As [`mail`].
pub fn rcpt(text: &str) -> Result<RcptParameters, Answer> {
    let mut read = RcptParameters::default();
    let mut seen = Seen::default();
    for (keyword, value) in parameters(text) {
        match (seen.note(keyword)?.as_str(), value) {
            ("NOTIFY", Some(value)) => read.notify = notify(value).ok_or_else(|| bad("NOTIFY"))?,
            ("ORCPT", Some(value)) => read.original = Some(original(value).ok_or_else(|| bad("ORCPT"))?),
            (known @ ("NOTIFY" | "ORCPT"), None) => return Err(bad(known)),
            _ => return Err(unknown(keyword)),
        }
    }
    Ok(read)
}

fn parameters(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

/// The keywords of one command, so that none comes twice: the second of two would be what another server believes.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    fn note(&mut self, keyword: &str) -> Result<&String, Answer> {
        let keyword = keyword.to_ascii_uppercase();
        if self.0.contains(&keyword) {
            return Err(Answer::new(501, "5.5.4", format!("{keyword} is given twice")));
        }
        self.0.push(keyword);
        // Invariant: just pushed.
        self.0.last().ok_or_else(|| bad("parameter"))
    }
}

fn is_word(value: &str, word: &str) -> bool {
    value.eq_ignore_ascii_case(word)
}

fn bad(keyword: &str) -> Answer {
    Answer::new(501, "5.5.4", format!("Bad value of {keyword}"))
}

fn unknown(keyword: &str) -> Answer {
    Answer::new(555, "5.5.4", format!("Unsupported parameter: {keyword}"))
}

/// A number of 1 to 20 digits (RFC 1870 §3); what overflows is too big for any limit of ours.
fn decimal(digits: &str) -> Option<u64> {
    let plain = (1..=20).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// RFC 4865: `1*9DIGIT`, seconds.
fn hold_for(value: &str) -> Option<Hold> {
    let plain = (1..=9).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| plain).map(|secs| Hold::For(Duration::from_secs(secs)))
}

/// RFC 4865 with its erratum 2040: the `date-time` of RFC 3339.
fn hold_until(value: &str) -> Option<Hold> {
    let strict = value.starts_with(|c: char| c.is_ascii_digit()) && !value.ends_with(']');
    Timestamp::read(value).ok().filter(|_| strict).map(Hold::Until)
}

fn notify(value: &str) -> Option<Notify> {
    if is_word(value, "NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut success,
            "FAILURE" => &mut failure,
            "DELAY" => &mut delay,
            _ => return None,
        };
        *flag = true;
    }
    Some(Notify::On { success, failure, delay })
}

fn envid(value: &str) -> Option<Text> {
    let decoded_length = value.len().checked_sub(2 * value.matches('+').count())?;
    (is_xtext(value) && decoded_length <= ENVID_LENGTH_MAX).then(|| value.into())
}

/// `rfc822;xtext`, or `utf-8;` with RFC 6533's forms.
fn original(value: &str) -> Option<Text> {
    let (kind, address) = value.split_once(';')?;
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    let kept = match value.is_ascii() {
        true => value.to_owned(),
        false if is_word(kind, "utf-8") => value.chars().map(utf8_xtext).collect(),
        false => return None,
    };
    let sound = match is_word(kind, "utf-8") {
        true => !address.is_empty() && !address.contains('='),
        false => is_xtext(address),
    };
    (sound && is_safe_argument(&kept)).then(|| kept.into())
}

fn utf8_xtext(c: char) -> String {
    match c.is_ascii() {
        true => c.to_string(),
        false => format!("\\x{{{:X}}}", u32::from(c)),
    }
}

/// ORCPT for a recipient that was given without one and stands for others here: a relay may add the address that it was
/// given (RFC 3461 §4.2). `None`: one that the type rfc822 cannot say.
pub fn orcpt_of(address: &Address) -> Option<Text> {
    let mut orcpt = String::from("rfc822;");
    for octet in address.to_string().bytes() {
        match octet {
            b'+' | b'=' | 0..=0x20 | 0x7f => orcpt.push_str(&format!("+{octet:02X}")),
            octet if octet.is_ascii() => orcpt.push(char::from(octet)),
            _ => return None,
        }
    }
    (orcpt.len() <= ORCPT_LENGTH_MAX).then(|| orcpt.into())
}

/// RFC 3461 §4: printable ASCII but `+` and `=`, and `+` with two hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let hex = |digit: Option<u8>| digit.is_some_and(|d| d.is_ascii_digit() || (b'A'..=b'F').contains(&d));
    let mut octets = value.bytes();
    while let Some(octet) = octets.next() {
        let sound = match octet {
            b'+' => hex(octets.next()) && hex(octets.next()),
            _ => octet != b'=',
        };
        if !sound {
            return false;
        }
    }
    is_safe_argument(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_mail_are_read_or_refused() {
        let whole = mail(" SIZE=100  BODY=8bitmime smtputf8 RET=hdrs ENVID=QQ+20a AUTH=<>").unwrap();
        assert_eq!((whole.size, whole.smtputf8, whole.ret), (Some(100), true, Some(Return::Headers)));
        assert_eq!(whole.envid.as_deref(), Some("QQ+20a"));
        assert_eq!(mail("").unwrap(), MailParameters::default());
        assert_eq!(mail("HOLDFOR=86400").unwrap().hold, Some(Hold::For(Duration::from_secs(86_400))));
        for until in ["2026-11-27T09:00:00Z", "2026-11-27T10:00:00+01:00"] {
            let read = mail(&format!("holduntil={until}")).unwrap().hold;
            assert_eq!(read, Some(Hold::Until(Timestamp::from_secs(1_795_770_000))), "{until}");
        }
        assert_eq!(mail("SIZE=99999999999999999999").unwrap().size, Some(u64::MAX));
        let long = format!("ENVID={}", "a".repeat(101));
        let rows = [
            ("SIZE", 501),
            ("SIZE=", 501),
            ("SIZE=-1", 501),
            ("SIZE=1x", 501),
            ("SIZE=999999999999999999999", 501),
            ("SIZE=1 SIZE=2", 501),
            ("size=1 SIZE=1", 501),
            ("SMTPUTF8=1", 501),
            ("BODY", 501),
            ("BODY=9BIT", 501),
            ("BODY=BINARYMIME", 555),
            ("RET=ALL", 501),
            ("ENVID=", 501),
            ("ENVID=a=b", 501),
            ("ENVID=a+2", 501),
            ("ENVID=a+2g", 501),
            (&long, 501),
            ("AUTH=", 501),
            ("XVERP", 555),
            ("HOLDFOR", 501),
            ("HOLDFOR=", 501),
            ("HOLDFOR=-5", 501),
            ("HOLDFOR=1234567890", 501),
            ("HOLDFOR=5 HOLDUNTIL=2026-11-27T09:00:00Z", 501),
            ("HOLDUNTIL=2026-11-27T09:00:00", 501),
            ("HOLDUNTIL=2026-11-27", 501),
            ("HOLDUNTIL=2026-11-27T09:00[Europe/Berlin]", 501),
            ("HOLDUNTIL=tomorrow", 501),
            ("REQUIRETLS", 555),
            (">", 555),
            ("=", 555),
        ];
        for (text, code) in rows {
            assert_eq!(mail(text).map_err(|a| a.code), Err(code), "{text}");
        }
    }

    #[test]
    fn parameters_of_rcpt_are_read_or_refused() {
        let notify = |success, failure, delay| Notify::On { success, failure, delay };
        assert_eq!(rcpt("NOTIFY=success,Delay").unwrap().notify, notify(true, false, true));
        assert_eq!(rcpt("NOTIFY=never").unwrap().notify, Notify::Never);
        for (text, want) in [
            ("ORCPT=rfc822;a+40b.example", "rfc822;a+40b.example"),
            ("ORCPT=RFC822;a@b.example", "RFC822;a@b.example"),
            ("ORCPT=utf-8;ü@b.example", "utf-8;\\x{FC}@b.example"),
            ("ORCPT=utf-8;\\x{FC}@b.example", "utf-8;\\x{FC}@b.example"),
        ] {
            assert_eq!(rcpt(text).unwrap().original.as_deref(), Some(want), "{text}");
        }
        let long = format!("ORCPT=rfc822;{}", "a".repeat(500));
        let rows = [
            ("NOTIFY", 501),
            ("NOTIFY=", 501),
            ("NOTIFY=NEVER,SUCCESS", 501),
            ("NOTIFY=SUCCESS,", 501),
            ("NOTIFY=SUCCESS NOTIFY=DELAY", 501),
            ("ORCPT=", 501),
            ("ORCPT=a@b", 501),
            ("ORCPT=;a@b", 501),
            ("ORCPT=rfc822;", 501),
            ("ORCPT=rfc822;ü@b", 501),
            ("ORCPT=rfc822;a+0", 501),
            ("ORCPT=rfc822;a=b", 501),
            (&long, 501),
            ("SIZE=1", 555),
        ];
        for (text, code) in rows {
            assert_eq!(rcpt(text).map_err(|a| a.code), Err(code), "{text}");
        }
    }
}
