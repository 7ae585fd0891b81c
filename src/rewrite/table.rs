//! Look-up tables in the forms that Postfix reads: lines `key value`, patterns, an inline list, one answer to all.
//!
//! Called by the rest of `rewrite`, and by `config`, which reads the files. A table never touches a disk, and a look-up in
//! it is bounded: a pattern that does not come to an end is [`Trouble`], which is answered as temporary.

use std::collections::HashMap;

use super::pattern::{self, Rule};

/// Most entries of a table of patterns. Each is tried in turn, for each address or header field.
const RULES_MAX: usize = 10_000;
/// Longest key or answer. Unit: octets. A line of aliases with some thousand addresses fits.
const TEXT_LENGTH_MAX: usize = 256 << 10;

/// How a table is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A file of lines `key value`.
    Texthash,
    /// A file of POSIX extended patterns, regexp_table(5).
    Regexp,
    /// A file of Perl patterns, pcre_table(5).
    Pcre,
    /// `{ key = value, … }` in the config.
    Inline,
    /// One answer to everything.
    Static,
}

/// What is wrong in a table, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {right}")]
pub struct Flaw {
    /// From 1.
    pub line: usize,
    /// What would be right.
    pub right: String,
}

impl Flaw {
    pub(super) fn new(line: usize, right: impl Into<String>) -> Flaw {
        Flaw { line, right: right.into() }
    }
}

/// What a look-up cannot do. Temporary: nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// A pattern took too long for this text.
    #[error("a pattern takes too long for this text")]
    Endless,
    /// An answer holds no mail address.
    #[error("a table's answer is no mail address")]
    NoAddress,
    /// An answer says nothing that can be done.
    #[error("a table's answer is no action")]
    NoAction,
    /// Addresses lead to each other.
    #[error("the tables lead in circles")]
    Loop,
    /// An address stands for too many.
    #[error("an address stands for too many others")]
    TooMany,
}

/// A table, read and sound.
#[derive(Clone, Debug)]
pub struct Table {
    answers: Answers,
}

/// Answers by keys in lower case, with the line of each.
type Keyed = HashMap<Box<str>, (usize, Box<str>)>;

#[derive(Clone, Debug)]
enum Answers {
    Keyed(Keyed),
    Patterns(Vec<Rule>),
    Always(Box<str>),
}

impl Table {
    /// Reads a table: the text of a file, or what stands after `inline:` or `static:`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(kind: Kind, text: &str) -> Result<Table, Vec<Flaw>> {
        let answers = match kind {
            Kind::Texthash => Answers::Keyed(keyed(text)?),
            Kind::Inline => Answers::Keyed(inline(text).map_err(|right| vec![Flaw::new(1, right)])?),
            Kind::Static => Answers::Always(braced(text).into()),
            Kind::Regexp | Kind::Pcre => {
                let rules = pattern::read(
                    text,
                    if kind == Kind::Pcre { pattern::Dialect::Perl } else { pattern::Dialect::Posix },
                )?;
                if rules.len() > RULES_MAX {
                    return Err(vec![Flaw::new(1, format!("it has more than {RULES_MAX} patterns"))]);
                }
                Answers::Patterns(rules)
            }
        };
        Ok(Table { answers })
    }

    /// The answer to a whole key.
    ///
    /// # Errors
    /// A pattern came to no end.
    pub fn find(&self, key: &str) -> Result<Option<String>, Trouble> {
        match &self.answers {
            Answers::Keyed(keys) => Ok(keys.get(&*key.to_lowercase()).map(|(_, answer)| answer.to_string())),
            Answers::Patterns(rules) => pattern::find(rules, key),
            Answers::Always(answer) => Ok(Some(answer.to_string())),
        }
    }

    /// The answer to a part of an address. Patterns are asked for whole addresses alone.
    pub(super) fn find_part(&self, key: &str) -> Result<Option<String>, Trouble> {
        match &self.answers {
            Answers::Patterns(_) => Ok(None),
            Answers::Keyed(_) | Answers::Always(_) => self.find(key),
        }
    }

    /// Every answer as it is written, with its line.
    pub(super) fn answers(&self) -> Vec<(usize, &str)> {
        let mut all: Vec<(usize, &str)> = match &self.answers {
            Answers::Keyed(keys) => keys.values().map(|(line, answer)| (*line, &**answer)).collect(),
            Answers::Patterns(rules) => rules.iter().filter_map(Rule::answer).collect(),
            Answers::Always(answer) => vec![(1, &**answer)],
        };
        all.sort_unstable();
        all
    }
}

/// Several tables: the first that knows a key answers.
#[derive(Clone, Debug, Default)]
pub struct Tables(pub(super) Vec<Table>);

impl Tables {
    /// In the order in which they are asked.
    pub fn new(tables: Vec<Table>) -> Tables {
        Tables(tables)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer to a whole key.
    pub(super) fn find(&self, key: &str) -> Result<Option<String>, Trouble> {
        self.0.iter().find_map(|table| table.find(key).transpose()).transpose()
    }

    /// The answer to a part of an address.
    pub(super) fn find_part(&self, key: &str) -> Result<Option<String>, Trouble> {
        self.0.iter().find_map(|table| table.find_part(key).transpose()).transpose()
    }
}

/// A logical line: its first line's number, and its text with what continues it. Empty lines and comments are left out; a
/// line that begins with white space continues the one before.
pub(super) fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let bare = line.trim_start();
        if bare.trim_end().is_empty() || bare.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some((_, text)) if line.starts_with(char::is_whitespace) => {
                text.push('\n');
                text.push_str(line);
            }
            _ => lines.push((number, line.to_owned())),
        }
    }
    lines
}

fn keyed(text: &str) -> Result<Keyed, Vec<Flaw>> {
    let mut keys = Keyed::new();
    let mut flaws = Vec::new();
    for (line, text) in logical_lines(text) {
        let text = text.replace('\n', "");
        let (key, value) = text.trim().split_at(key_length(text.trim()));
        let (key, value) = (unquoted(key).to_lowercase(), value.trim());
        if value.is_empty() {
            flaws.push(Flaw::new(line, "a key, white space and a value are expected"));
        } else if key.len() > TEXT_LENGTH_MAX || value.len() > TEXT_LENGTH_MAX {
            flaws.push(Flaw::new(line, format!("at most {TEXT_LENGTH_MAX} octets are allowed")));
        } else if value.chars().any(|c| c.is_control() && c != '\t') {
            flaws.push(Flaw::new(line, "control characters are not allowed in a value"));
        } else {
            // As postmap has it: what stands there first holds.
            keys.entry(key.into()).or_insert((line, value.into()));
        }
    }
    if flaws.is_empty() { Ok(keys) } else { Err(flaws) }
}

/// Up to the first white space that stands outside of quotes.
fn key_length(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

/// A local part is asked for in the form that it has in SMTP: with quotes only where it needs them.
fn unquoted(key: &str) -> String {
    match key.parse::<crate::mail::Address>() {
        Ok(address) if key.starts_with('"') => address.to_string(),
        _ => key.to_owned(),
    }
}

/// `{ text }` or `text`.
fn braced(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).map_or(text, str::trim)
}

/// `{ key=value, { key = value with spaces } … }`
fn inline(text: &str) -> Result<Keyed, String> {
    let wrong = || "a table such as \"inline:{ key=value, { other = a value }}\" is expected".to_owned();
    let mut rest = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(wrong)?;
    let mut keys = Keyed::new();
    let between = |c: char| c.is_whitespace() || c == ',';
    loop {
        rest = rest.trim_start_matches(between);
        if rest.is_empty() {
            break;
        }
        let entry;
        match rest.strip_prefix('{') {
            Some(inner) => {
                let end = inner.find('}').ok_or_else(wrong)?;
                entry = &inner[..end];
                rest = &inner[end + 1..];
            }
            None => {
                let end = rest.find(between).unwrap_or(rest.len());
                entry = &rest[..end];
                rest = &rest[end..];
            }
        }
        let (key, value) = entry.split_once('=').ok_or_else(wrong)?;
        let (key, value) = (key.trim().to_lowercase(), value.trim());
        if key.is_empty() || value.is_empty() || value.chars().any(char::is_control) {
            return Err(wrong());
        }
        keys.entry(key.into()).or_insert((1, value.into()));
    }
    if keys.is_empty() { Err(wrong()) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(kind: Kind, text: &str, keys: &[(&str, Option<&str>)]) {
        let table = Table::read(kind, text).unwrap();
        for (key, want) in keys {
            assert_eq!(table.find(key).unwrap().as_deref(), *want, "{text:?} {key:?}");
        }
    }

    #[test]
    fn a_line_has_a_key_and_a_value_and_is_continued_by_white_space() {
        answers(
            Kind::Texthash,
            "# comment\n\nRoot  ops@example.com\nlist a@example.com,\n   # within\n  b@example.com\n\
             \"a b\"@example.com c@example.com\nroot second@example.com\n",
            &[
                ("root", Some("ops@example.com")),
                ("ROOT", Some("ops@example.com")),
                ("list", Some("a@example.com,  b@example.com")),
                ("\"a b\"@example.com", Some("c@example.com")),
                ("within", None),
                ("", None),
            ],
        );
        let flaws = Table::read(Kind::Texthash, "good value\nalone\n").unwrap_err();
        assert_eq!(flaws, [Flaw::new(2, "a key, white space and a value are expected")]);
    }

    #[test]
    fn an_inline_table_has_its_entries_in_braces() {
        answers(
            Kind::Inline,
            "{ a=1, B=2 {c = some words}, { d=4 } }",
            &[("a", Some("1")), ("b", Some("2")), ("c", Some("some words")), ("D", Some("4")), ("e", None)],
        );
        for bad in ["", "a=1", "{}", "{ a }", "{ a= }", "{ =1 }", "{ {a=1 }", "{ { a=1 }"] {
            assert!(Table::read(Kind::Inline, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_static_table_answers_everything() {
        answers(Kind::Static, "REJECT", &[("a", Some("REJECT")), ("", Some("REJECT"))]);
        answers(Kind::Static, "{ 550 no }", &[("a", Some("550 no"))]);
    }

    #[test]
    fn the_first_table_that_knows_a_key_answers() {
        let read = |text| Table::read(Kind::Texthash, text).unwrap();
        let pattern = Table::read(Kind::Regexp, "/^a/ pattern\n").unwrap();
        let tables = Tables::new(vec![read("b 1\n"), pattern, read("a 2\nb 3\n")]);
        assert_eq!(tables.find("a").unwrap().as_deref(), Some("pattern"));
        assert_eq!(
            tables.find_part("a").unwrap().as_deref(),
            Some("2"),
            "patterns are asked for whole addresses alone"
        );
        assert_eq!(tables.find("b").unwrap().as_deref(), Some("1"));
        assert_eq!(tables.find("c").unwrap(), None);
    }
}
