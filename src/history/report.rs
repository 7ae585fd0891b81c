//! What came in to our return paths and unsubscribe addresses, report by report: what each was taken for, and what it did.
//! Reads the files as `search` does.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::key::{Key, folded};
use super::row::{Authenticated, CameBack, Fact, Row};
use super::search::{Answer, Question, Sought, days};
use crate::mail::QueueId;
use crate::time::Timestamp;

/// Reports that are told at once, the newest.
pub const REPORTS_MAX: usize = 10_000;

/// Which are asked for; what is `None` leaves none out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportQuestion {
    /// This one.
    pub id: Option<QueueId>,
    /// Nothing older.
    pub since: Timestamp,
    /// Nothing newer.
    pub until: Timestamp,
    /// bounce, complaint, auto-reply, unsubscribe, other.
    pub kind: Option<String>,
    /// One of its recipients met this: suppressed, pending, known, nothing, unknown.
    pub effect: Option<String>,
    /// About this address, in whatever case.
    pub recipient: Option<String>,
    /// At most so many, the newest.
    pub limit: usize,
}

/// What is known of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Its number, as the log has it.
    pub id: String,
    /// When it came in.
    #[serde(rename = "at_ms")]
    pub at: u64,
    /// What it did for each recipient: one row at least, whose recipient is empty where it is about nobody.
    pub recipients: Vec<CameBack>,
    /// The result's word and whose record it is; `None`: nobody checked, or not yet.
    pub spf: Option<String>,
    /// Of each signature the result's word, domain and selector.
    pub dkim: Option<String>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reports {
    /// In the order in which they came in.
    pub reports: Vec<Report>,
    /// Damaged blocks that were met, and could not be looked into.
    pub damaged: u64,
    /// There are more, and these are the newest.
    pub cut: bool,
}

#[derive(Default)]
struct Found {
    at: Timestamp,
    recipients: Vec<CameBack>,
    checked: Option<Authenticated>,
}

/// The newest that fit.
///
/// # Errors
/// A file cannot be read.
pub fn reports(directory: &Path, question: &ReportQuestion) -> io::Result<Reports> {
    let limit = question.limit.min(REPORTS_MAX);
    // What SPF and DKIM say may stand in the file of the day after.
    let times = Question { what: String::new(), since: question.since, until: question.until };
    let mut answer = Answer::default();
    let keys = vec![question.id.map_or_else(Key::of_reports, Key::of_id)];
    let (mut found, mut cut) = (BTreeMap::<QueueId, Found>::new(), false);
    let mut sought = Sought { keys, question: &times, answer: &mut answer };
    // The newest first: what is older than enough of them need not be read.
    for day in days(directory, &times)?.into_iter().rev() {
        if found.values().filter(|report| !report.recipients.is_empty()).count() >= limit {
            cut = true;
            break;
        }
        sought.look(directory, day, |row| {
            take(&mut found, question, row);
            // Numbers rise with time.
            while found.len() > limit {
                cut |= found.pop_first().is_some_and(|(_, report)| !report.recipients.is_empty());
            }
        })?;
    }
    let report = |(id, found): (QueueId, Found)| Report {
        id: id.to_string(),
        at: found.at.as_millis(),
        recipients: found.recipients,
        spf: found.checked.as_ref().map(|checked| checked.spf.to_string()),
        dkim: found.checked.map(|checked| checked.dkim.into()),
    };
    let whole = found.into_iter().filter(|(_, found)| !found.recipients.is_empty());
    Ok(Reports { reports: whole.map(report).collect(), damaged: answer.damaged, cut })
}

fn take(found: &mut BTreeMap<QueueId, Found>, question: &ReportQuestion, row: Row) {
    let is_asked = |id: QueueId| question.id.is_none_or(|asked| asked == id);
    match row.fact {
        Fact::CameBack(it) if is_asked(it.report) && question.fits(&it) => {
            let report = found.entry(it.report).or_default();
            report.at = row.at;
            report.recipients.push(it);
        }
        Fact::Authenticated(it) if is_asked(it.report) => {
            let report = found.entry(it.report).or_default();
            report.checked = Some(it);
        }
        _ => {}
    }
}

impl ReportQuestion {
    fn fits(&self, row: &CameBack) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == row.kind)
            && self.effect.as_ref().is_none_or(|effect| *effect == row.effect)
            && self.recipient.as_ref().is_none_or(|address| folded(address) == folded(&row.recipient))
    }
}
