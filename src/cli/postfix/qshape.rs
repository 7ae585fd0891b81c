//! `qshape`: how old the waiting mail is, by domain. Postfix's reads queue files; this asks the daemon.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use super::postqueue::{Failure, listing_of};
use super::{Call, FORBIDDEN, Fatal, Place, UNAVAILABLE, USAGE, flags};
use crate::showq::wire::Message;

/// Most domains that are counted apart; the rest is in TOTAL alone.
const DOMAINS_MAX: usize = 1_000_000;

/// What is counted, and how it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Terms {
    /// By sender instead of recipient.
    senders: bool,
    /// Parent domains too, from so many subdomains on.
    parents: Option<usize>,
    /// Ages that begin a bucket. Unit: minutes.
    edges: Vec<u64>,
    /// Domains shown.
    lines: usize,
    queues: Vec<String>,
}

/// Runs it.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    let terms = terms(&call.words)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut counts = Counts::default();
    let listed = listing_of(&Place::find(None), &mut |message| {
        if terms.queues.contains(&message.queue) {
            counts.take(&terms, &message, now);
        }
        Ok(())
    });
    match listed {
        Ok(()) => {}
        Err(Failure::Refused(text)) => return Err(Fatal::new(FORBIDDEN, text)),
        Err(Failure::Down(error) | Failure::Broken(error)) => {
            return Err(Fatal::new(UNAVAILABLE, format!("mail system is down: {error}")));
        }
    }
    let _ = io::stdout().lock().write_all(counts.table(&terms).as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn terms(words: &[String]) -> Result<Terms, Fatal> {
    let usage = || {
        Fatal::new(
            USAGE,
            "usage: qshape [-s] [-p] [-m min] [-b buckets] [-t minutes] [-l] [-w n] [-N n] [-n lines] [queue...]",
        )
    };
    let (found, queues) = flags(words, "spm:b:t:lw:N:n:c:").map_err(|_| usage())?;
    let (mut buckets, mut start, mut linear) = (10, 5, false);
    let mut terms = Terms { senders: false, parents: None, edges: Vec::new(), lines: usize::MAX, queues: Vec::new() };
    for flag in &found {
        let number = || flag.value.parse::<u64>().ok().filter(|number| *number > 0);
        match flag.letter {
            's' => terms.senders = true,
            'p' => terms.parents = terms.parents.or(Some(5)),
            'm' => terms.parents = Some(number().ok_or_else(usage)? as usize),
            'b' => buckets = number().filter(|count| *count <= 64).ok_or_else(usage)?,
            't' => start = number().filter(|minutes| *minutes <= 1 << 20).ok_or_else(usage)?,
            'l' => linear = true,
            'n' => terms.lines = number().ok_or_else(usage)? as usize,
            // Widths, batches and directories of Postfix's own.
            _ => {}
        }
    }
    let edge = |place: u64| if linear { start * (place + 1) } else { start.saturating_mul(1 << place.min(40)) };
    terms.edges = (0..buckets.saturating_sub(1)).map(edge).collect();
    terms.queues = match queues {
        [] => ["incoming", "active"].map(str::to_owned).to_vec(),
        queues => queues.to_vec(),
    };
    Ok(terms)
}

/// Messages by domain and age.
#[derive(Debug, Default)]
struct Counts {
    total: Vec<u64>,
    domains: BTreeMap<String, Vec<u64>>,
    children: BTreeMap<String, std::collections::BTreeSet<String>>,
}

impl Counts {
    fn take(&mut self, terms: &Terms, message: &Message, now: u64) {
        let minutes = now.saturating_sub(message.time) / 60;
        let bucket = terms.edges.iter().take_while(|edge| minutes >= **edge).count();
        let sender = [message.sender.as_str()];
        let recipients: Vec<&str> = message.recipients.iter().map(|(address, _)| address.as_str()).collect();
        for address in if terms.senders { &sender[..] } else { &recipients } {
            let domain = address.rsplit_once('@').map_or("MAILER-DAEMON", |(_, domain)| domain).to_ascii_lowercase();
            add(&mut self.total, terms, bucket);
            self.add(terms, domain.clone(), bucket);
            let mut child = domain;
            while let (Some(_), Some((_, parent))) = (terms.parents, child.split_once('.')) {
                let parent = parent.to_owned();
                if !parent.contains('.') {
                    break;
                }
                self.children.entry(parent.clone()).or_default().insert(child);
                self.add(terms, format!(".{parent}"), bucket);
                child = parent;
            }
        }
    }

    fn add(&mut self, terms: &Terms, domain: String, bucket: usize) {
        if self.domains.len() < DOMAINS_MAX || self.domains.contains_key(&domain) {
            add(self.domains.entry(domain).or_default(), terms, bucket);
        }
    }

    fn table(mut self, terms: &Terms) -> String {
        let columns = terms.edges.len() + 2;
        self.total.resize(columns, 0);
        let least = terms.parents.unwrap_or_default();
        let children = std::mem::take(&mut self.children);
        let is_shown = |name: &String| match name.strip_prefix('.') {
            Some(parent) => children.get(parent).is_some_and(|children| children.len() >= least),
            None => true,
        };
        let mut rows: Vec<(String, Vec<u64>)> = self.domains.into_iter().filter(|(name, _)| is_shown(name)).collect();
        rows.sort_by(|a, b| b.1.first().cmp(&a.1.first()).then_with(|| a.0.cmp(&b.0)));
        rows.truncate(terms.lines);
        rows.insert(0, ("TOTAL".to_owned(), self.total));
        let mut head: Vec<String> = vec!["T".to_owned()];
        head.extend(terms.edges.iter().map(u64::to_string));
        head.extend(terms.edges.last().map(|last| format!("{last}+")));
        head.resize(columns, String::new());
        let name_width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max(39);
        let cell = |row: &Vec<u64>, place: usize| row.get(place).copied().unwrap_or_default().to_string();
        let width = |place: usize| {
            let widest = rows.iter().map(|(_, row)| cell(row, place).len()).max().unwrap_or_default();
            // Two at least, as in the original.
            widest.max(head.get(place).map_or(0, String::len)).max(2)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |name: &str, cells: Vec<String>| {
            let mut out = format!("{name:>name_width$}");
            for (cell, width) in cells.iter().zip(&widths) {
                out.push_str(&format!(" {cell:>width$}"));
            }
            out.push('\n');
            out
        };
        let mut out = line("", head.clone());
        for (name, row) in &rows {
            out.push_str(&line(name, (0..columns).map(|place| cell(row, place)).collect()));
        }
        out
    }
}

/// Counts one in its column and in the sum.
fn add(row: &mut Vec<u64>, terms: &Terms, bucket: usize) {
    row.resize(terms.edges.len() + 2, 0);
    for place in [0, bucket + 1] {
        if let Some(count) = row.get_mut(place) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_qshapes() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let terms_of = |line: &str| terms(&words(line)).map_err(|fatal| fatal.text).unwrap();
        let default = terms_of("");
        assert_eq!(default.edges, [5, 10, 20, 40, 80, 160, 320, 640, 1280]);
        let empty = Counts::default().table(&default);
        let want = format!(
            "{:40} T  5 10 20 40 80 160 320 640 1280 1280+\n{:>39}  0  0  0  0  0  0   0   0   0    0     0\n",
            "", "TOTAL"
        );
        assert_eq!(empty, want);
        let mut counts = Counts::default();
        let message = |to: &str, minutes: u64| Message {
            time: 1_000_000 - minutes * 60,
            recipients: vec![(to.to_owned(), String::new())],
            ..Message::default()
        };
        for (to, minutes) in [("a@x.example", 0), ("b@x.example", 7), ("c@Y.example", 5000)] {
            counts.take(&default, &message(to, minutes), 1_000_000);
        }
        let table = counts.table(&default);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["TOTAL", "3", "1", "1", "0", "0", "0", "0", "0", "0", "0", "1"]);
        assert_eq!(rows[2], ["x.example", "2", "1", "1", "0", "0", "0", "0", "0", "0", "0", "0"]);
        assert_eq!(rows[3], ["y.example", "1", "0", "0", "0", "0", "0", "0", "0", "0", "0", "1"]);
        assert_eq!(terms_of("-l -b 4 -t 10 deferred").edges, [10, 20, 30]);
    }
}
