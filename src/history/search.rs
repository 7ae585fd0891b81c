//! Search: all that is kept of an address, a queue id or a Message-ID. Reads the files, with or without a daemon that
//! writes on them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::day::{Day, Scan, marker_of, runs};
use super::key::Key;
use super::row::{Asked, Row};
use crate::mail::QueueId;
use crate::time::Timestamp;

/// Envelopes of which everything is told, the newest.
pub const ENVELOPES_MAX: usize = 1000;
/// Rows that are told, the newest.
pub const ROWS_MAX: usize = 50_000;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// An address, a queue id or a Message-ID.
    pub what: String,
    /// Nothing older.
    pub since: Timestamp,
    /// Nothing newer.
    pub until: Timestamp,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// In the order of time.
    pub rows: Vec<Row>,
    /// Damaged blocks that were met, and could not be looked into.
    pub damaged: u64,
    /// There is more than fits, and this is the newest of it.
    pub cut: bool,
}

/// All that is kept of it.
///
/// # Errors
/// A file cannot be read.
pub fn trace(directory: &Path, question: &Question) -> io::Result<Answer> {
    let asked = Asked::new(&question.what);
    let mut answer = Answer::default();
    let days = days(directory, question)?;
    let mut rows = Vec::new();
    let mut found = Sought { keys: asked.keys(), question, answer: &mut answer };
    for day in &days {
        found.look(directory, *day, |row| rows.extend(row.fact.answers(&asked).then_some(row)))?;
    }
    let mut ids: BTreeSet<QueueId> = rows.iter().filter_map(|row| row.fact.queue_id()).collect();
    while ids.len() > ENVELOPES_MAX {
        ids.pop_first();
        answer.cut = true;
    }
    // By address: of envelopes with many recipients, what concerns this one and what concerns all.
    let by_address = asked.id.is_none() && rows.iter().any(|row| row.fact.recipient().is_some_and(|r| asked.is(r)));
    let wanted = |row: &Row| {
        row.fact.queue_id().is_some_and(|id| ids.contains(&id))
            && (!by_address || row.fact.recipient().is_none_or(|recipient| asked.is(recipient)))
    };
    answer.damaged = 0;
    let mut rows = Vec::new();
    let mut found = Sought { keys: ids.iter().copied().map(Key::of_id).collect(), question, answer: &mut answer };
    for day in &days {
        found.look(directory, *day, |row| rows.extend(wanted(&row).then_some(row)))?;
    }
    rows.sort_by_key(|row| row.at);
    if rows.len() > ROWS_MAX {
        rows.drain(..rows.len() - ROWS_MAX);
        answer.cut = true;
    }
    answer.rows = rows;
    Ok(answer)
}

/// The rows of one envelope between two times, in their order. Unlike [`trace`] it has no use for the others of its
/// submission, of which there may be a million.
///
/// # Errors
/// A file cannot be read.
pub(super) fn of_envelope(directory: &Path, id: QueueId, since: Timestamp, until: Timestamp) -> io::Result<Vec<Row>> {
    let question = Question { what: String::new(), since, until };
    let (mut answer, mut rows) = (Answer::default(), Vec::new());
    let mut found = Sought { keys: vec![Key::of_id(id)], question: &question, answer: &mut answer };
    for day in days(directory, &question)? {
        found.look(directory, day, |row| rows.extend((row.fact.queue_id() == Some(id)).then_some(row)))?;
    }
    rows.sort_by_key(|row| row.at);
    Ok(rows)
}

impl Asked {
    fn is(&self, recipient: &str) -> bool {
        self.has_at && super::key::folded(recipient) == self.folded
    }
}

/// The days that may hold an answer: a row told late stands in the file of the day after.
pub(super) fn days(directory: &Path, question: &Question) -> io::Result<Vec<Day>> {
    let mut days = BTreeSet::new();
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        if let Some((day, "log")) = Day::of_path(&entry?.path()) {
            days.insert(day);
        }
    }
    let (first, last) = (Day::of(question.since).0.saturating_sub(1), Day::of(question.until).0.saturating_add(1));
    Ok(days.into_iter().filter(|day| (first..=last).contains(&day.0)).collect())
}

/// Where rows may be, in a day's log.
struct Places {
    /// Blocks that the index names.
    offsets: BTreeSet<u64>,
    /// From and to: what the index cannot speak of.
    stretches: Vec<(u64, u64)>,
}

/// A search under way.
pub(super) struct Sought<'a> {
    pub keys: Vec<Key>,
    pub question: &'a Question,
    pub answer: &'a mut Answer,
}

impl Sought<'_> {
    /// Shows `see` every row of a day that may be looked for, and others.
    pub fn look(&mut self, directory: &Path, day: Day, mut see: impl FnMut(Row)) -> io::Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let log = match File::open(day.path(directory, "log")) {
            // Its time was over between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            log => log?,
        };
        let Some(marker) = marker_of(&log)? else { return Ok(()) };
        let end = log.metadata()?.len();
        let Places { offsets, stretches } = self.places(directory, day, marker, end)?;
        let (since, until) = (self.question.since, self.question.until);
        let mut keep = |found: Vec<Row>| {
            found.into_iter().filter(|row| (since..=until).contains(&row.at)).for_each(&mut see);
        };
        let mut at = Scan::new(log.try_clone()?, marker, 0, end);
        for offset in offsets {
            match at.block_at(offset)? {
                Some((_, found)) => keep(found),
                None => self.answer.damaged += 1,
            }
        }
        for (from, to) in stretches {
            let mut scan = Scan::new(log.try_clone()?, marker, from, to);
            while let Some((_, found)) = scan.next_block()? {
                keep(found);
            }
            self.answer.damaged += scan.damaged_before_last;
        }
        Ok(())
    }

    /// The blocks that the index names, and the stretches that it cannot speak of.
    fn places(&self, directory: &Path, day: Day, marker: u64, end: u64) -> io::Result<Places> {
        let (mut offsets, mut stretches, mut covered) = (BTreeSet::new(), Vec::new(), 0);
        if let Ok(index) = File::open(day.path(directory, "idx")) {
            let (runs, _) = runs(&index, marker, end)?;
            for (at, head) in runs {
                covered = head.to;
                let mut bucket = Vec::new();
                for key in &self.keys {
                    let (from, length) = head.bucket(*key, marker);
                    bucket.resize(length, 0);
                    index.read_exact_at(&mut bucket, at + from)?;
                    match head.find(&bucket, *key, marker) {
                        Some(found) => offsets.extend(found),
                        None => {
                            stretches.push((head.from, head.to));
                            break;
                        }
                    }
                }
            }
        }
        stretches.push((covered, end));
        // What is read through anyway is not read twice.
        offsets.retain(|offset| !stretches.iter().any(|(from, to)| (from..to).contains(&offset)));
        Ok(Places { offsets, stretches })
    }
}
