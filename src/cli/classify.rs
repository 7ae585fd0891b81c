//! `postrider classify`: what a reply means, as JSON.
//!
//! Called by the command line. It asks no daemon; it reads the config only for the operator's own rules, and does without
//! where there is no config.

use std::io::{self, BufRead, Read as _, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Context, Exit};
use crate::classify::{Meaning, Observation, Rules, stage_named};
use crate::config;
use crate::mail::{Cause, Reply, Stage};

/// Longest line of standard input. Unit: bytes. A reply's text is cut at 1,000.
const LINE_LENGTH_MAX: u64 = 64 * 1024;
const STAGES: &str = "greeting, ehlo, tls, auth, mail, rcpt, data or dot";

/// Which reply.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The reply's code, 400 to 599
    #[arg(long, requires = "text")]
    code: Option<u16>,
    /// Its text, with the enhanced status if it has one
    #[arg(long, requires = "code")]
    text: Option<String>,
    /// What it answered: greeting, ehlo, tls, auth, mail, rcpt, data or dot
    #[arg(long, value_parser = parse_stage, default_value = "rcpt")]
    stage: Stage,
    /// The host that said it
    #[arg(long, value_name = "HOST")]
    mx: Option<String>,
}

/// A line of standard input. What else it says (a label, an id) is the asker's.
#[derive(Deserialize)]
struct Asked {
    code: Code,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    stage: Option<String>,
    #[serde(default)]
    mx: Option<String>,
}

/// A number, or one in quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Number(u16),
    Text(String),
}

/// What is printed.
#[derive(Serialize)]
struct Answer<'a> {
    class: &'static str,
    /// The strongest thing that is done: `suspend`, `slow`, `stop-domain`, `fewer-connections`, `fewer-deliveries`, else
    /// the verdict.
    action: &'static str,
    scope: &'static str,
    suppress: bool,
    rule: Option<&'a str>,
    /// `defer` or `fail`: what becomes of the recipient.
    verdict: &'static str,
    again_in_seconds: Option<u64>,
    hold_seconds: Option<u64>,
    /// So many such replies within an hour call for the action.
    trigger: u16,
    alarm: bool,
}

fn parse_stage(word: &str) -> Result<Stage, String> {
    stage_named(word).ok_or_else(|| format!("{STAGES} is expected"))
}

/// Runs `postrider classify`.
pub(super) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let Some(rules) = rules(context) else { return Ok(Exit::Config) };
    let mut out = io::stdout().lock();
    let outcome = match (arguments.code, &arguments.text) {
        (Some(code), Some(text)) => match answer(&rules, code, text, arguments.stage, arguments.mx.as_deref()) {
            Ok(line) => writeln!(out, "{line}").map(|()| Exit::Done),
            Err(error) => anyhow::bail!(error),
        },
        _ if context.json => lines(&rules, &mut io::stdin().lock(), &mut out),
        _ => anyhow::bail!("--code and --text are needed; with --json, replies may come on standard input"),
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        outcome => Ok(outcome?),
    }
}

/// The shipped rules, and before them those that the config names. `None`: they have mistakes, which were told.
pub(super) fn rules(context: &Context) -> Option<Arc<Rules>> {
    let named = match std::fs::read_to_string(&context.config) {
        Ok(text) => match config::Config::parse(&text, &context.config) {
            Ok(config) => config.replies,
            Err(problems) => {
                eprintln!("{problems}");
                return None;
            }
        },
        // Without a config the shipped rules answer, so that the command can be tried anywhere.
        Err(_) if context.config == std::path::Path::new(config::PATH) => None,
        Err(error) => {
            eprintln!("{}: {error}", context.config.display());
            return None;
        }
    };
    let Some(file) = named else { return Some(Rules::shipped()) };
    let file = context.config.parent().unwrap_or(std::path::Path::new("")).join(file);
    match config::read_rules(&file) {
        Ok(rules) => Some(Arc::new(rules)),
        Err(flaws) => {
            eprintln!("{flaws}");
            None
        }
    }
}

fn answer(rules: &Rules, code: u16, text: &str, stage: Stage, mx: Option<&str>) -> Result<String, String> {
    if !(200..=599).contains(&code) {
        return Err(format!("code {code}: 200 to 599 is expected"));
    }
    // Several lines are one text, as a reply reader makes of them.
    let text: String = text.chars().map(|c| if matches!(c, '\r' | '\n' | '\t') { ' ' } else { c }).collect();
    let cause = Cause::Reply(Reply::new(code, text.trim()));
    let meaning = rules.classify(&Observation { stage, cause: &cause, recipients_taken: 1, host: mx });
    let Meaning { class, scope, suppress, verdict, again_in, signal, .. } = meaning;
    let answer = Answer {
        class: class.name(),
        action: meaning.action(),
        scope: scope.name(),
        suppress,
        rule: rules.name(signal.rule),
        verdict: verdict.name(),
        again_in_seconds: again_in.map(|wait| wait.as_secs()),
        hold_seconds: signal.reaction.and_then(|reaction| reaction.hold()).map(|hold| hold.as_secs()),
        trigger: signal.trigger,
        alarm: signal.alarm,
    };
    serde_json::to_string(&answer).map_err(|error| error.to_string())
}

/// Answers each line with one; a bad one with its error.
fn lines(rules: &Rules, input: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<Exit> {
    let mut exit = Exit::Done;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.take(LINE_LENGTH_MAX + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(exit);
        }
        let answered = match line.len() as u64 > LINE_LENGTH_MAX {
            true => {
                skip_line(input, &line)?;
                Err(format!("a line has at most {LINE_LENGTH_MAX} bytes"))
            }
            false if line.trim_ascii().is_empty() => continue,
            false => asked(rules, &line),
        };
        match answered {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => {
                exit = Exit::Failed;
                writeln!(out, "{}", serde_json::json!({ "error": error }))?;
            }
        }
        out.flush()?;
    }
}

/// Drops what is left of a line that was too long.
fn skip_line(input: &mut dyn BufRead, begun: &[u8]) -> io::Result<()> {
    let mut ended = begun.ends_with(b"\n");
    while !ended {
        let octets = input.fill_buf()?;
        let end = memchr::memchr(b'\n', octets);
        let length = end.map_or(octets.len(), |at| at + 1);
        ended = end.is_some() || length == 0;
        input.consume(length);
    }
    Ok(())
}

fn asked(rules: &Rules, line: &[u8]) -> Result<String, String> {
    let asked: Asked = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let code = match asked.code {
        Code::Number(code) => code,
        Code::Text(text) => text.trim().parse().map_err(|_| format!("code {text:?}: 200 to 599 is expected"))?,
    };
    let stage = match asked.stage.as_deref() {
        None | Some("") => Stage::Rcpt,
        Some(word) => stage_named(word).ok_or_else(|| format!("stage {word:?}: {STAGES} is expected"))?,
    };
    answer(rules, code, asked.text.as_deref().unwrap_or_default(), stage, asked.mx.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_answered_by_one_and_a_bad_one_by_its_error() {
        let long = format!("{{\"code\":550,\"text\":\"{}\"}}\n", "x".repeat(70_000));
        let input = [
            "{\"code\":550,\"text\":\"5.1.1 No such user\"}\n",
            "\n",
            "{\"code\":\"550\",\"text\":\"5.7.1 blocked using zen.spamhaus.org\",\"stage\":\"mail\",\"mx\":\"mx.example.net\"}\n",
            "nonsense\n",
            &long,
            "{\"code\":99}\n",
            "{\"code\":550,\"stage\":\"moon\"}\n",
            "{\"code\":450,\"text\":\"4.2.0 Greylisted,\\r\\nretry in 5 minutes\"}",
        ]
        .concat();
        let mut out = Vec::new();
        let exit = lines(&Rules::shipped(), &mut input.as_bytes(), &mut out).unwrap();
        let answers: Vec<serde_json::Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((exit, answers.len()), (Exit::Failed, 7));
        let told = |place: usize, key: &str| answers[place][key].clone();
        assert_eq!((told(0, "class"), told(0, "suppress")), ("recipient-invalid".into(), true.into()));
        assert_eq!((told(0, "action"), told(0, "scope")), ("fail".into(), "recipient".into()));
        assert_eq!((told(1, "class"), told(1, "action")), ("reputation-ip".into(), "suspend".into()));
        for bad in [2, 3, 4, 5] {
            assert!(answers[bad]["error"].is_string(), "{bad}: {}", answers[bad]);
        }
        assert_eq!((told(6, "class"), told(6, "again_in_seconds")), ("greylisting".into(), 300.into()));
    }
}
