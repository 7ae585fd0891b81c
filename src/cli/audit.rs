//! `postrider audit LOG…`: counts every window anew from event lines alone, and prints a certificate or the violation.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::config::units::show_duration;
use crate::history::{Audit, Certificate, Unit, Use};
use crate::time::Timestamp;

/// Longest line that is read. Unit: octets. Longer ones are unread lines.
const LINE_LENGTH_MAX: u64 = 64 * 1024;
/// Windows that are shown without --all.
const SHOWN: usize = 40;
/// Lines of a proof that are shown.
const PROOF_SHOWN: usize = 12;

/// Count every limit's windows anew from event lines, and say whether all were kept.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files of event lines in the order of time; `-` is standard input. None: all in the data directory.
    #[arg(value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Show every window, not the fullest alone.
    #[arg(long)]
    all: bool,
}

/// Runs `postrider audit`.
///
/// # Errors
/// A log cannot be read, or standard output is closed.
pub fn run(
    arguments: &Arguments,
    data_dir: impl FnOnce() -> anyhow::Result<PathBuf>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    let logs = match arguments.logs.is_empty() {
        true => kept_logs(&data_dir()?.join("history"))?,
        false => arguments.logs.clone(),
    };
    let mut audit = Audit::new();
    let mut read = Vec::new();
    let mut lines = 0;
    for log in &logs {
        read.push((lines, log.as_path()));
        let count = match log.as_os_str() == "-" {
            true => feed(&mut audit, io::stdin().lock()),
            false => File::open(log).and_then(|file| feed(&mut audit, BufReader::new(file))),
        };
        lines += count.with_context(|| log.display().to_string())?;
    }
    let certificate = audit.finish();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&certificate)?)?,
        false => write!(out, "{}", told(&certificate, &read, arguments.all))?,
    }
    Ok(if certificate.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Days in their order, which is that of their names.
fn kept_logs(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "events") {
            logs.push(path);
        }
    }
    logs.sort();
    anyhow::ensure!(!logs.is_empty(), "{}: there are no event lines; see [history] in the config", directory.display());
    Ok(logs)
}

fn feed(audit: &mut Audit, mut log: impl BufRead) -> io::Result<u64> {
    let (mut line, mut count) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = log.by_ref().take(LINE_LENGTH_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(count);
        }
        count += 1;
        // What is cut off, or no text, is no event line, and counted as such.
        audit.line(&String::from_utf8_lossy(&line));
    }
}

fn told(found: &Certificate, read: &[(u64, &Path)], all: bool) -> String {
    let mut text = format!(
        "{} lines: {} attempts with {} recipients, {} connections.\n",
        found.lines, found.attempts, found.recipients, found.connections
    );
    let verdict = match found.violations_count {
        0 if found.is_whole() => "Every window held: no limit was passed.".to_owned(),
        0 => "No limit was passed by what these lines tell, but they do not tell all.".to_owned(),
        count => format!("VIOLATED: windows held more than their limit {count} times."),
    };
    text.push_str(&verdict);
    text.push('\n');
    let remarks = [
        (found.lost, "rows were dropped by the daemon at overload, or by a full disk"),
        (found.lines_unread, "lines are no event lines"),
        (found.cut_off, "connections were cut off by a crash: each may have carried one message that no line tells of"),
        (found.late, "lines began before their log did, and are counted from its beginning"),
        (found.unlimited, "attempts and connections had no limit"),
    ];
    for (count, remark) in remarks.iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("  {count} {remark}.\n"));
    }
    for violation in &found.violations {
        text.push_str(&format!("\n{}\n", sentence(&violation.of)));
        for line in violation.lines.iter().take(PROOF_SHOWN) {
            text.push_str(&format!("  {}\n", place(*line, read)));
        }
        if violation.lines.len() > PROOF_SHOWN {
            text.push_str(&format!("  and {} more\n", violation.lines.len() - PROOF_SHOWN));
        }
    }
    let shown = if all { found.windows.len() } else { SHOWN.min(found.windows.len()) };
    if shown == 0 {
        return text;
    }
    let mut rows = vec![["SOURCE", "SITE", "WHAT", "LIMIT", "FULLEST", "USE", "WHEN (UTC)"].map(str::to_owned)];
    rows.extend(found.windows.iter().take(shown).map(row));
    text.push('\n');
    text.push_str(&columns(&rows));
    if shown < found.windows.len() {
        text.push_str(&format!("and {} more windows, less full: --all shows them\n", found.windows.len() - shown));
    }
    text
}

fn row(window: &Use) -> [String; 7] {
    let holder = &window.holder;
    let source = if holder.source.is_empty() { "(all)" } else { &holder.source };
    let site = if holder.site.is_empty() { format!("@{}", holder.domain) } else { holder.site.clone() };
    let when = match window.most_at_ms {
        0 => "-".to_owned(),
        ms => Timestamp::from_millis(ms).rfc3339().trim_end_matches('Z').replacen('T', " ", 1),
    };
    [
        source.to_owned(),
        site,
        window.unit.name().to_owned(),
        limit(window),
        window.most.to_string(),
        format!("{}%", window.most * 100 / window.limit.max(1)),
        when,
    ]
}

/// Columns as wide as what is in them; the last as it is.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn limit(window: &Use) -> String {
    match window.unit {
        Unit::ConnectionsAtOnce => window.limit.to_string(),
        Unit::Messages | Unit::Recipients | Unit::NewConnections => {
            let per = std::time::Duration::from_millis(window.per_ms);
            format!("{}/{}", window.limit, show_duration(per))
        }
    }
}

fn sentence(window: &Use) -> String {
    let [source, site, what, limit, most, _, when] = row(window);
    format!("{what} from source {source} to {site}: {most} where {limit} is allowed, at {when}. The window held")
}

fn place(line: u64, read: &[(u64, &Path)]) -> String {
    let of = read.iter().rev().find(|(before, _)| *before < line);
    of.map_or_else(|| format!("line {line}"), |(before, log)| format!("{}:{}", log.display(), line - before))
}
