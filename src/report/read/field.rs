//! Fields: `Name: value` with folded lines, as headers, delivery-status groups and feedback reports have them.
//!
//! Parses what peers wrote, so it takes what can be taken: a line that is no field ends a header, and is skipped in a group.

use mail_parser::MessageParser;

/// Fields of one header or group.
const FIELDS_MAX: usize = 400;
/// Longest value that is kept. Unit: bytes.
const VALUE_MAX: usize = 4096;

/// Fields in their order. Names are lower case.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first of a name, which is given in lower case.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push_line(&mut self, line: &str) -> bool {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = self.0.last_mut()
                && value.len() < VALUE_MAX
            {
                value.push(' ');
                value.push_str(line.trim());
            }
            return true;
        }
        let Some((name, value)) = line.split_once(':') else { return false };
        let name = name.trim_end();
        let is_name = !name.is_empty() && name.len() <= 80 && name.bytes().all(|byte| (33..=126).contains(&byte));
        if is_name && self.0.len() < FIELDS_MAX {
            let mut value = value.trim().to_owned();
            value.truncate(value.floor_char_boundary(VALUE_MAX));
            self.0.push((name.to_ascii_lowercase(), value));
        }
        is_name
    }
}

/// A header and what follows it. A mailbox file's `From ` line before it is skipped.
pub(super) fn header(octets: &[u8]) -> (Fields, &[u8]) {
    let mut fields = Fields::default();
    let mut rest = octets;
    while let Some(end) = memchr::memchr(b'\n', rest)
        && rest.get(..end).is_some_and(|line| line.trim_ascii().is_empty())
    {
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = String::from_utf8_lossy(rest.get(..end).unwrap_or_default());
        let after = rest.get(end + 1..).unwrap_or_default();
        if line.trim().is_empty() {
            return (fields, after);
        }
        let is_envelope = line.starts_with("From ") || line.starts_with(">From ");
        if !fields.push_line(&line) && !is_envelope {
            // No field: the empty line is missing.
            return (fields, rest);
        }
        rest = after;
    }
    (fields, rest)
}

/// The groups of a delivery-status or feedback part, parted by empty lines. Lines that are no field are skipped.
pub(super) fn groups(text: &str) -> Vec<Fields> {
    let mut groups = vec![Fields::default()];
    let mut count = 0;
    for line in text.lines() {
        if line.trim().is_empty() {
            if groups.last().is_some_and(|group| !group.is_empty()) {
                groups.push(Fields::default());
            }
            continue;
        }
        count += 1;
        if count > 20 * FIELDS_MAX {
            break;
        }
        if let Some(group) = groups.last_mut() {
            group.push_line(line);
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// A parameter of a Content-Type: `boundary="…"`.
pub(super) fn parameter(value: &str, name: &str) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    for (place, _) in lower.match_indices(name) {
        let before = lower.get(..place)?.trim_end();
        let rest = value.get(place + name.len()..)?.trim_start();
        if let (true, Some(rest)) = (before.ends_with(';'), rest.strip_prefix('=')) {
            let rest = rest.trim_start();
            let found = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next().unwrap_or_default(),
                None => rest.split([';', ' ', '\t']).next().unwrap_or_default(),
            };
            return Some(found.to_owned()).filter(|found| !found.is_empty());
        }
    }
    None
}

/// A value without its encoded words (RFC 2047).
pub(super) fn decoded(value: &str) -> String {
    if !value.contains("=?") {
        return value.to_owned();
    }
    let message = format!("Subject: {}\n\n", value.replace('\n', " "));
    let parsed = MessageParser::new().parse(message.as_bytes());
    parsed.and_then(|message| message.subject().map(str::to_owned)).unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_quoted_or_not() {
        let rows = [
            ("multipart/report; boundary=\"a b;c\"; x=y", Some("a b;c")),
            ("multipart/report;boundary=abc", Some("abc")),
            ("multipart/report; BOUNDARY = abc ; x", Some("abc")),
            ("multipart/report; noboundary=abc", None),
            ("multipart/report", None),
        ];
        for (value, want) in rows {
            assert_eq!(parameter(value, "boundary").as_deref(), want, "{value}");
        }
    }

    #[test]
    fn a_header_ends_at_an_empty_line_or_at_what_is_no_field() {
        let rows: [(&[u8], usize, &[u8]); 4] = [
            (b"A: 1\n b\nB: 2\n\nbody", 2, b"body"),
            (b"From x y\nA: 1\nno field here\n", 1, b"no field here\n"),
            (b"\n  \n\nA: 1\n", 1, b""),
            (b"", 0, b""),
        ];
        for (octets, count, rest) in rows {
            let (fields, body) = header(octets);
            assert_eq!((fields.iter().count(), body), (count, rest), "{octets:?}");
        }
    }
}
