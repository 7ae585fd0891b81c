//! What is wrong with a config, as the person at the terminal reads it: file, line, key, value, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use super::place::{Place, Places, line_of};

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 if no line is to blame (the file cannot be read).
    pub line: usize,
    /// The key's path, `listener.bind`; empty if no key is to blame.
    pub key: String,
    /// The value as written; empty if the key is missing or a table.
    pub value: String,
    /// What would be right, one sentence without a final full stop.
    pub right: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        match (self.key.is_empty(), self.value.is_empty()) {
            (true, _) => {}
            (false, true) => write!(f, ": {}", self.key)?,
            (false, false) => write!(f, ": {} = {}", self.key, self.value)?,
        }
        write!(f, ": {}", self.right)
    }
}

impl Problem {
    /// At a place in a file.
    pub(super) fn at(file: &Path, place: Place, right: impl Into<String>) -> Problem {
        let Place { line, key, value } = place;
        Problem { file: file.to_owned(), line, key, value, right: right.into() }
    }

    /// About the file as a whole.
    pub(super) fn of_file(file: &Path, right: impl Into<String>) -> Problem {
        let place = Place { line: 0, key: String::new(), value: String::new() };
        Problem::at(file, place, right)
    }

    /// What toml says of a text that is no TOML at all.
    pub(super) fn of_syntax(file: &Path, text: &str, error: &toml::de::Error) -> Problem {
        let line = error.span().map_or(0, |span| line_of(text, span.start));
        let place = Place { line, key: String::new(), value: String::new() };
        Problem::at(file, place, format!("this is not TOML: {}", one_line(error.message())))
    }

    /// What serde says of a value that does not fit.
    pub(super) fn of_value(file: &Path, places: &Places, error: &toml::de::Error) -> Problem {
        let message = one_line(error.message());
        let place = match error.span() {
            // Toml gives the empty range at the start for what the whole file lacks.
            Some(span) if span != (0..0) => places.of_range(&span),
            _ => Place { line: 0, key: String::new(), value: String::new() },
        };
        let right = reworded(&message, &place.key);
        Problem::at(file, place, right)
    }
}

/// All that is wrong with a config. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Serde's words in ours.
fn reworded(message: &str, key: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field ") {
        return unknown_key(names.next().unwrap_or_default(), &names.collect::<Vec<_>>());
    }
    if message.starts_with("missing field ") {
        let place = if key.is_empty() { "at the top of the file".to_owned() } else { format!("in {key}") };
        return format!("the key `{}` is needed {place}", names.next().unwrap_or_default());
    }
    if message.starts_with("unknown variant ") {
        let known: Vec<String> = names.skip(1).map(|name| format!("\"{name}\"")).collect();
        return format!("{} is expected", any_of(&known));
    }
    let (found, expected) = match message.split_once(", expected ") {
        Some((found, expected)) => (found, expected.trim_end_matches(" is expected")),
        None => return message.to_owned(),
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number without quotes",
        "a boolean" => "true or false without quotes",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list in brackets",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    format!("{expected} is expected, not {found}")
}

fn any_of(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn unknown_key(unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|name| (strsim::levenshtein(unknown, name), name)).min();
    match nearest {
        Some((far, name)) if far <= 2.max(unknown.len() / 3) => {
            format!("there is no such key here; `{name}` may be meant")
        }
        _ => format!("there is no such key here; known are {}", known.join(", ")),
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}
