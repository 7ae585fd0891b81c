//! Reads lists from elsewhere, line by line: our own export, SendGrid's, Mailgun's, Postmark's and SES's, or an address a
//! line; CSV or JSON Lines. Called by the command line. It never decides more than the file says: what is no word of a dead
//! mailbox (SendGrid's "blocks", soft bounces) is left out and counted.
//!
//! | from | columns | says why |
//! |---|---|---|
//! | Postrider | `address`, `scope`, `cause`, … | `cause` |
//! | SendGrid | `email`, `created`; `reason`, `status` | the file: its name, or `--as` |
//! | Mailgun | `address`, `created_at`; `code`, `error`; `tags` | bounces and unsubscribes their columns; complaints the file |
//! | Postmark | `EmailAddress`, `SuppressionReason`, `Origin`, `CreatedAt` | `SuppressionReason` |
//! | SES | `EmailAddress`, `Reason`, `LastUpdateTime` | `Reason` |

mod csv;
mod row;

use std::io::{self, BufRead};

use super::{Cause, Entry, Scope};
use crate::mail::Address;
use crate::time::Timestamp;

use csv::Lines;
use row::Columns;

/// What a file is about, where its columns do not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// Bounces: each row's words decide whether a mailbox is dead.
    Bounces,
    /// Refusals that are about the sender: nobody is suppressed for them.
    Blocks,
    /// Complaints, "spam reports".
    Complaints,
    /// Unsubscribes.
    Unsubscribes,
    /// Addresses that cannot be.
    Invalid,
}

impl About {
    /// All, by their words on the command line.
    pub const ALL: [(&'static str, About); 5] = [
        ("bounces", About::Bounces),
        ("blocks", About::Blocks),
        ("complaints", About::Complaints),
        ("unsubscribes", About::Unsubscribes),
        ("invalid", About::Invalid),
    ];

    /// As far as a file's name tells, as the services name them: `suppression_spam_reports.csv`.
    pub fn of_file_name(name: &str) -> Option<About> {
        let name = name.to_ascii_lowercase();
        let words = [
            ("bounce", About::Bounces),
            ("block", About::Blocks),
            ("spam", About::Complaints),
            ("complaint", About::Complaints),
            ("unsub", About::Unsubscribes),
            ("invalid", About::Invalid),
        ];
        let mut found = words.into_iter().filter(|(word, _)| name.contains(word)).map(|(_, about)| about);
        let first = found.next()?;
        // Two words that mean different things mean nothing.
        found.all(|other| other == first).then_some(first)
    }
}

/// What is said of all rows.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What the file is about.
    pub about: Option<About>,
    /// The cause of all, whatever the rows say.
    pub cause: Option<Cause>,
    /// The scope of all; absent: as the rows or their causes say.
    pub scope: Option<Scope>,
    /// When all end; absent: as the rows say, else never.
    pub expires_at: Option<Timestamp>,
    /// For rows without a date.
    pub now: Timestamp,
}

/// What became of a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// It is to be put in.
    Entry(Address, Entry),
    /// It is no reason to suppress: why.
    LeftOut(&'static str),
    /// It cannot be read: why, and what would be right.
    Bad(String),
}

/// Goes through a file.
pub struct Reader<R> {
    lines: Lines<R>,
    terms: Terms,
    form: Form,
    /// A first line that is no header.
    first: Option<(u64, Vec<String>)>,
}

enum Form {
    Csv(u8, Columns),
    Json,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Nothing stands in it.
    #[error("the file is empty")]
    Empty,
    /// Its columns are strange.
    #[error("line {line}: {why}")]
    Header {
        /// Where.
        line: u64,
        /// What would be right.
        why: String,
    },
}

/// The columns of our own form, in their order.
pub const COLUMNS: &str = "address,scope,cause,state,added_at,last_at,expires_at,hits,site,source_id,evidence";

impl<R: BufRead> Reader<R> {
    /// Reads the first line, and decides what the file is.
    ///
    /// # Errors
    /// It cannot be read, or says nothing about why its addresses are in it.
    pub fn new(mut input: R, terms: Terms) -> Result<Reader<R>, Unread> {
        let head = input.fill_buf()?;
        if head.starts_with(b"\xef\xbb\xbf") {
            input.consume(3);
        }
        // Enough of the first line to see what divides it.
        let head = input.fill_buf()?;
        let is_json = head.trim_ascii_start().first() == Some(&b'{');
        let first = head.split(|octet| *octet == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
        let delimiter = csv::delimiter_of(first);
        let mut lines = Lines::new(input);
        if is_json {
            return Ok(Reader { lines, terms, form: Form::Json, first: None });
        }
        let record = lines.record(delimiter)?.ok_or(Unread::Empty)?;
        let line = record.line;
        let fields = record.fields.map_err(|bad| Unread::Header { line, why: bad.to_string() })?;
        match Columns::of_header(&fields, &terms) {
            Ok(Some(columns)) => Ok(Reader { lines, terms, form: Form::Csv(delimiter, columns), first: None }),
            // No header: an address a line, with its cause behind it perhaps.
            Ok(None) => {
                let form = Form::Csv(delimiter, Columns::bare());
                Ok(Reader { lines, terms, form, first: Some((line, fields)) })
            }
            Err(why) => Err(Unread::Header { line, why }),
        }
    }

    /// The next row, with its line.
    fn row(&mut self) -> io::Result<Option<(u64, Row)>> {
        match &self.form {
            Form::Csv(delimiter, columns) => {
                if let Some((line, fields)) = self.first.take() {
                    return Ok(Some((line, columns.read(&fields, &self.terms))));
                }
                let Some(record) = self.lines.record(*delimiter)? else { return Ok(None) };
                let row = match record.fields {
                    Ok(fields) => columns.read(&fields, &self.terms),
                    Err(bad) => Row::Bad(bad.to_string()),
                };
                Ok(Some((record.line, row)))
            }
            Form::Json => {
                let mut text = Vec::new();
                loop {
                    let Some((line, is_long)) = self.lines.line(&mut text)? else { return Ok(None) };
                    if text.trim_ascii().is_empty() && !is_long {
                        continue;
                    }
                    let row = match is_long {
                        true => Row::Bad(csv::Bad::Long.to_string()),
                        false => row::read_json(&text, &self.terms),
                    };
                    return Ok(Some((line, row)));
                }
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<(u64, Row)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().transpose()
    }
}

/// A line of JSON Lines.
pub fn read_line(line: &[u8], terms: &Terms) -> Row {
    row::read_json(line, terms)
}

/// An entry as a line of our own CSV.
pub fn csv_line(address: &Address, entry: &Entry, now: Timestamp) -> String {
    csv_fields([
        &address.to_string(),
        &entry.scope.name(),
        entry.cause.name(),
        super::State::of(entry, now).name(),
        &entry.added_at.rfc3339(),
        &entry.last_at.rfc3339(),
        &entry.expires_at.map_or_else(String::new, Timestamp::rfc3339),
        &entry.hits.to_string(),
        &entry.site,
        &entry.source_id.map_or_else(String::new, |id| id.to_string()),
        &entry.evidence,
    ])
}

/// The fields of [`COLUMNS`] as a line.
pub fn csv_fields(fields: [&str; 11]) -> String {
    fields.map(csv::quote).join(",")
}

/// An entry as an object of our own JSON Lines; `null` where there is nothing.
pub fn json_of(address: &Address, entry: &Entry, now: Timestamp) -> serde_json::Value {
    serde_json::json!({
        "address": address.to_string(),
        "scope": entry.scope.name(),
        "cause": entry.cause.name(),
        "state": super::State::of(entry, now).name(),
        "added_at": entry.added_at.rfc3339(),
        "last_at": entry.last_at.rfc3339(),
        "expires_at": entry.expires_at.map(Timestamp::rfc3339),
        "hits": entry.hits,
        "site": &*entry.site,
        "source_id": entry.source_id.map(|id| id.to_string()),
        "evidence": &*entry.evidence,
    })
}

#[cfg(test)]
mod tests;
