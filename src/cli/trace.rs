//! `postrider trace ADDRESS|ID|MESSAGE-ID`: all that happened to it, in words. Asks the daemon, or reads the files itself
//! where none runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::client::{Client, ClientError, Daemon, conclude, path_with_query};
use super::moment::parse_moment;
use super::plain;
use crate::clock;
use crate::history::{self, Answer, Fact, Question, Row};
use crate::mail::QueueId;
use crate::time::Timestamp;

/// Say what happened to mail: every attempt, reply and decision, also long after it left.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A recipient's address, a queue id, or a Message-ID.
    #[arg(value_name = "ADDRESS|ID|MESSAGE-ID")]
    what: String,
    /// Nothing older: `2d` ago, or a time like 2026-11-25T13:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// Nothing newer: `1h` ago, or a time like 2026-11-25T13:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    until: Option<Timestamp>,
}

/// Runs `postrider trace`.
///
/// # Errors
/// Standard output is closed, or the files cannot be read.
pub fn run(daemon: Daemon<'_>, arguments: &Arguments, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let question = Question {
        what: arguments.what.clone(),
        since: arguments.since.unwrap_or(Timestamp::ZERO),
        until: arguments.until.unwrap_or(Timestamp::NEVER),
    };
    let query = [
        ("what", question.what.clone()),
        ("since_ms", question.since.as_millis().to_string()),
        ("until_ms", question.until.as_millis().to_string()),
    ];
    let answer = match Client::new(daemon)?.ask::<Answer>(&path_with_query("/v1/history", &query)) {
        Ok(answer) => answer,
        Err(ClientError::NoDaemon { .. }) => history::trace(&daemon.data_dir.join("history"), &question)?,
        Err(error) => return Ok(conclude(Err(error))),
    };
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        write!(out, "{}", told(&question.what, &answer, clock::system_time()))?;
    }
    Ok(if answer.rows.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The answer in words, envelope by envelope, in the order in which they were accepted.
fn told(what: &str, answer: &Answer, now: Timestamp) -> String {
    let mut text = String::new();
    if answer.rows.is_empty() {
        let _ = writeln!(text, "Nothing is known of {}.", plain(what));
    }
    let mut envelopes: BTreeMap<QueueId, Vec<&Row>> = BTreeMap::new();
    for row in &answer.rows {
        if let Some(id) = row.fact.queue_id() {
            envelopes.entry(id).or_default().push(row);
        }
    }
    for (place, (id, rows)) in envelopes.iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        tell_envelope(*id, rows, now, &mut text);
    }
    if answer.cut {
        text.push_str("\nThere is more than is shown: this is the newest. Use --since and --until.\n");
    }
    if answer.damaged > 0 {
        let _ =
            writeln!(text, "\n{} damaged blocks could not be looked into: something may be missing.", answer.damaged);
    }
    text
}

fn tell_envelope(id: QueueId, rows: &[&Row], now: Timestamp, text: &mut String) {
    let accepted = rows.iter().find_map(|row| match &row.fact {
        Fact::Accepted(accepted) => Some((row.at, accepted)),
        _ => None,
    });
    let began = accepted.map_or_else(|| rows.first().map_or(now, |row| row.at), |(at, _)| at);
    let _ = match accepted {
        Some((_, it)) => writeln!(text, "{id}  from <{}>, stream {}", plain(&it.from), plain(&it.stream)),
        None => writeln!(text, "{id}  accepted before what is kept"),
    };
    for row in rows {
        let (word, rest) = words(&row.fact);
        let time = row.at.rfc3339();
        let time = time.trim_end_matches('Z').replacen('T', " ", 1);
        let _ = writeln!(text, "  {time}  {:>9}  {word:<10}  {rest}", format!("+{}", span(began, row.at)));
    }
    let _ = writeln!(text, "  times are UTC; the first is {} ago", span(began, now));
}

/// A fact's word, and the rest of it.
fn words(fact: &Fact) -> (&str, String) {
    match fact {
        Fact::Accepted(it) => {
            let mut rest = format!("{}, {} octets", plain(&it.recipient), it.size_bytes);
            if !it.client.is_empty() {
                let _ = write!(rest, ", from {}", plain(&it.client));
            }
            if !it.credential.is_empty() {
                let _ = write!(rest, " as {}", plain(&it.credential));
            }
            if !it.message_id.is_empty() {
                let _ = write!(rest, ", Message-ID <{}>", plain(&it.message_id));
            }
            ("accepted", rest)
        }
        Fact::Attempt(it) => {
            let (plural, took) = (if it.recipients == 1 { "" } else { "s" }, it.done_ms.saturating_sub(it.mail_ms));
            let rest = format!(
                "{} [{}] from source {}: {} recipient{plural} in {took} ms, {}",
                plain(&it.host),
                plain(&it.address),
                plain(&it.source),
                it.recipients,
                plain(&it.result)
            );
            ("attempt", rest)
        }
        Fact::Outcome(it) => {
            let mut rest = plain(&it.recipient);
            if !it.reply.is_empty() {
                let who = match it.host.is_empty() || it.stage == "local" {
                    true => String::new(),
                    false => format!("{} at {}: ", plain(&it.host), plain(&it.stage)),
                };
                let _ = write!(rest, ", {who}\"{}\"", plain(&it.reply));
            }
            if it.due_ms > 0 {
                let due = Timestamp::from_millis(it.due_ms).rfc3339();
                let _ = write!(rest, "; attempt {}, again at {}", it.attempt, due.get(..19).unwrap_or(&due));
            }
            (&it.fate, rest)
        }
        Fact::Decided(it) => {
            let due = Timestamp::from_millis(it.due_ms).rfc3339();
            let rest = match it.due_ms {
                0 => "until it is released".to_owned(),
                _ => format!("due at {}", due.get(..19).unwrap_or(&due)),
            };
            (&it.decision, rest)
        }
        Fact::Reported(it) => ("reported", format!("the sender is told, by {}", it.report)),
        Fact::CameBack(it) => {
            let mut rest = it.recipient.to_string();
            if !it.class.is_empty() {
                let _ = write!(rest, ", {}", it.class);
            }
            if !it.text.is_empty() {
                let _ = write!(rest, ", \"{} {}\"", plain(&it.status), plain(&it.text));
            }
            let _ = write!(rest, "; did: {}; report {}", it.effect, it.report);
            (&it.kind, rest)
        }
        Fact::Started(_)
        | Fact::Lost(_)
        | Fact::Authenticated(_)
        | Fact::Dialed(_)
        | Fact::Connected(_)
        | Fact::Closed(_)
        | Fact::Limits(_) => ("", String::new()),
    }
}

/// `0.123s`, `45s`, `12m 30s`, `3h 5m`, `12d 4h`.
fn span(from: Timestamp, to: Timestamp) -> String {
    let ms = to.since(from).as_millis() as u64;
    let secs = ms / 1000;
    match secs {
        0..=9 => format!("{}.{:03}s", secs, ms % 1000),
        10..=119 => format!("{secs}s"),
        120..=7199 => format!("{}m {}s", secs / 60, secs % 60),
        7200..=172_799 => format!("{}h {}m", secs / 3600, secs / 60 % 60),
        _ => format!("{}d {}h", secs / 86_400, secs / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Accepted, Attempt, Outcome};

    #[test]
    fn an_envelope_is_told_in_order_with_the_peers_words_made_harmless() {
        let (id, at) = (QueueId::from_u64(7), |ms: u64| Timestamp::from_millis(1_795_255_200_000 + ms));
        let row = |ms, fact| Row { at: at(ms), fact };
        let rows = vec![
            row(
                0,
                Fact::Accepted(Accepted {
                    queue_id: id,
                    submission: id,
                    recipient: "ann@x.example".into(),
                    from: "shop@y.example".into(),
                    credential: "shop".into(),
                    stream: "transactional".into(),
                    client: "127.0.0.1:5".into(),
                    size_bytes: 512,
                    ..Accepted::default()
                }),
            ),
            row(
                350,
                Fact::Attempt(Attempt {
                    queue_id: id,
                    source: "a".into(),
                    host: "mx.x.example".into(),
                    address: "192.0.2.1".into(),
                    mail_ms: 100,
                    done_ms: 340,
                    recipients: 1,
                    result: "deferred".into(),
                    ..Attempt::default()
                }),
            ),
            row(
                351,
                Fact::Outcome(Outcome {
                    queue_id: id,
                    recipient: "ann@x.example".into(),
                    fate: "deferred".into(),
                    attempt: 1,
                    due_ms: at(300_000).as_millis(),
                    stage: "rcpt".into(),
                    reply: "450 \"soon\" \u{1b}[31m".into(),
                    host: "mx.x.example".into(),
                    ..Outcome::default()
                }),
            ),
        ];
        let answer = Answer { rows, damaged: 0, cut: false };
        let want = "\
000000000007  from <shop@y.example>, stream transactional
  2026-11-21 10:00:00.000    +0.000s  accepted    ann@x.example, 512 octets, from 127.0.0.1:5 as shop
  2026-11-21 10:00:00.350    +0.350s  attempt     mx.x.example [192.0.2.1] from source a: 1 recipient in 240 ms, deferred
  2026-11-21 10:00:00.351    +0.351s  deferred    ann@x.example, mx.x.example at rcpt: \"450 \\\"soon\\\" \\u{1b}[31m\"; \
attempt 1, again at 2026-11-21T10:05:00
  times are UTC; the first is 2h 0m ago
";
        assert_eq!(told("x", &answer, at(7_200_000)), want);
        assert_eq!(told("\u{7}", &Answer::default(), at(0)), "Nothing is known of \\u{7}.\n");
    }
}
