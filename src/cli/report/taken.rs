//! `postrider report show ID` and `report list`: reports that came in. Asks the daemon, or reads the history's files itself
//! where none runs.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::cli::client::{Client, ClientError, Daemon, conclude, path_with_query};
use crate::cli::moment::parse_moment;
use crate::cli::plain;
use crate::history::{self, CameBack, Report, ReportQuestion, Reports};
use crate::mail::QueueId;
use crate::time::Timestamp;

/// Which one.
#[derive(Debug, Args)]
pub struct Show {
    /// Its number: `report` in the log line "came back", and what the host that brought it was told ("queued as").
    #[arg(value_name = "ID")]
    id: QueueId,
}

/// Which ones.
#[derive(Debug, Args)]
pub struct List {
    /// Nothing older: `2d` ago, or a time like 2026-11-25T13:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// Nothing newer: `1h` ago, or a time like 2026-11-25T13:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Timestamp>,
    /// Of this kind.
    #[arg(long, value_parser = ["bounce", "complaint", "auto-reply", "unsubscribe", "other"])]
    kind: Option<String>,
    /// That did this.
    #[arg(long, value_parser = ["suppressed", "pending", "known", "nothing", "unknown"])]
    effect: Option<String>,
    /// About this recipient.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=history::REPORTS_MAX as u64))]
    limit: u64,
}

/// Runs `postrider report show`.
///
/// # Errors
/// Standard output is closed, or the files cannot be read.
pub fn show(daemon: Daemon<'_>, show: &Show, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let question = ReportQuestion {
        id: Some(show.id),
        since: Timestamp::ZERO,
        until: Timestamp::NEVER,
        kind: None,
        effect: None,
        recipient: None,
        limit: 1,
    };
    let found = match ask(daemon, &question)? {
        Ok(found) => found,
        Err(error) => return Ok(conclude(Err(error))),
    };
    warn_of_damage(&found);
    let Some(report) = found.reports.first() else {
        eprintln!(
            "postrider: no report {} is known: it came in longer ago than the history is kept, or it is the number of something else \
             (postrider trace)",
            show.id
        );
        return Ok(ExitCode::FAILURE);
    };
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(report)?)?,
        false => write!(out, "{}", told(report))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `postrider report list`.
///
/// # Errors
/// As [`show`].
pub fn list(daemon: Daemon<'_>, list: &List, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let question = ReportQuestion {
        id: None,
        since: list.since.unwrap_or(Timestamp::ZERO),
        until: list.until.unwrap_or(Timestamp::NEVER),
        kind: list.kind.clone(),
        effect: list.effect.clone(),
        recipient: list.recipient.clone(),
        limit: usize::try_from(list.limit).unwrap_or(usize::MAX),
    };
    let found = match ask(daemon, &question)? {
        Ok(found) => found,
        Err(error) => return Ok(conclude(Err(error))),
    };
    warn_of_damage(&found);
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found.reports)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.reports.is_empty() {
        writeln!(out, "no reports")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{:12}  {:19}  {:11}  {:10}  RECIPIENT", "REPORT", "TIME (UTC)", "KIND", "DID")?;
    for report in &found.reports {
        for row in &report.recipients {
            let (time, recipient) = (time_of(report), if row.recipient.is_empty() { "-" } else { &row.recipient });
            let recipient = plain(recipient);
            writeln!(out, "{:12}  {time:19}  {:11}  {:10}  {recipient}", report.id, row.kind, row.effect)?;
        }
    }
    if found.cut {
        writeln!(out, "… and older ones: --limit shows more of them, --until those before a time")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(daemon: Daemon<'_>, question: &ReportQuestion) -> io::Result<Result<Reports, ClientError>> {
    let mut query = vec![
        ("since_ms", question.since.as_millis().to_string()),
        ("until_ms", question.until.as_millis().to_string()),
        ("limit", question.limit.to_string()),
    ];
    let texts = [
        ("id", question.id.map(|id| id.to_string())),
        ("kind", question.kind.clone()),
        ("effect", question.effect.clone()),
        ("recipient", question.recipient.clone()),
    ];
    query.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text?))));
    match Client::new(daemon)?.ask::<Reports>(&path_with_query("/v1/reports", &query)) {
        Err(ClientError::NoDaemon { .. }) => history::reports(&daemon.data_dir.join("history"), question).map(Ok),
        asked => Ok(asked),
    }
}

fn warn_of_damage(found: &Reports) {
    if found.damaged > 0 {
        eprintln!("postrider: {} damaged blocks could not be looked into: something may be missing", found.damaged);
    }
}

fn time_of(report: &Report) -> String {
    let time = Timestamp::from_millis(report.at).rfc3339();
    time.get(..19).unwrap_or(&time).replacen('T', " ", 1)
}

/// A report in words.
fn told(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |indent: &str, name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{indent}{name:12}{}\n", plain(value)));
        }
    };
    let Some(first) = report.recipients.first() else { return String::new() };
    line("", "report", &report.id);
    line("", "came in", &format!("{} UTC{}", time_of(report), from(first)));
    line("", "read as", &first.kind);
    line("", "spf", report.spf.as_deref().unwrap_or("not known"));
    line("", "dkim", report.dkim.as_deref().unwrap_or("not known"));
    for row in &report.recipients {
        let (message, token) = about(row);
        line("", "token", &token);
        line("  ", "message", &message);
        line("  ", "recipient", if row.recipient.is_empty() { "none" } else { &row.recipient });
        line("  ", "class", &row.class);
        line("  ", "status", &row.status);
        line("  ", "said", &row.text);
        line("  ", "did", &row.effect);
        line("  ", "why", &row.why);
    }
    let sent_on = match first.sent_on_to.is_empty() {
        true => "nobody".to_owned(),
        false => format!("{} as {}", first.sent_on_to, first.sent_on_as),
    };
    line("", "sent on to", &sent_on);
    text
}

fn from(row: &CameBack) -> String {
    let client = if row.client.is_empty() { String::new() } else { format!(", by {}", row.client) };
    format!("{client}, from <{}>", row.from)
}

/// Which message, and what of the token.
fn about(row: &CameBack) -> (String, String) {
    let message = if row.queue_id == QueueId::default() { "none".to_owned() } else { row.queue_id.to_string() };
    let token = match row.token.as_str() {
        "quoted" => "valid, quoted by a complaint that came to another address".to_owned(),
        "unknown" => "valid, of a message that the history does not know (any more)".to_owned(),
        other => other.to_owned(),
    };
    (message, token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_with_strangers_words_made_harmless() {
        let row = CameBack {
            queue_id: QueueId::from_u64(7),
            report: QueueId::from_u64(9),
            recipient: "ann@x.example".into(),
            kind: "bounce".into(),
            class: "recipient-invalid".into(),
            status: "5.1.1".into(),
            text: "550 5.1.1 no \u{1b}[31muser".into(),
            effect: "suppressed".into(),
            why: "hard_bounce for all, until 2026-12-25T10:00:00Z".into(),
            token: "valid".into(),
            from: "".into(),
            sent_on_to: "shop@y.example".into(),
            sent_on_as: QueueId::from_u64(11),
            client: "192.0.2.1:25".into(),
        };
        let report = Report {
            id: row.report.to_string(),
            at: 1_795_255_200_000,
            recipients: vec![row],
            spf: Some("pass mx.x.example".into()),
            dkim: None,
        };
        let want = "\
report      000000000009
came in     2026-11-21 10:00:00 UTC, by 192.0.2.1:25, from <>
read as     bounce
spf         pass mx.x.example
dkim        not known
token       valid
  message     000000000007
  recipient   ann@x.example
  class       recipient-invalid
  status      5.1.1
  said        550 5.1.1 no \\u{1b}[31muser
  did         suppressed
  why         hard_bounce for all, until 2026-12-25T10:00:00Z
sent on to  shop@y.example as 00000000000C
";
        assert_eq!(told(&report), want);
    }
}
