//! `postrider why ID`: why an envelope waits, in words.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::client::{Client, Daemon, conclude};
use super::moment::Now;
use super::queue::Sheet;
use crate::http::shapes::{Constraint, Why};

/// Say why an envelope waits, who or what caused it, and when that ends.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Queue id, as `queued as` told it, or as `queue list` shows it.
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `postrider why ID`.
///
/// # Errors
/// Standard output is closed.
pub fn run(daemon: Daemon<'_>, arguments: &Arguments, json: bool, out: &mut dyn Write) -> io::Result<ExitCode> {
    let client = Client::new(daemon)?;
    let path = format!("/v1/why/{}", arguments.id);
    if json {
        return match client.ask::<Value>(&path) {
            Ok(answer) => writeln!(out, "{answer:#}").map(|()| ExitCode::SUCCESS),
            Err(error) => Ok(conclude(Err(error))),
        };
    }
    match client.ask::<Why>(&path) {
        Ok(why) => tell(&why, Now::of_system(), out).map(|()| ExitCode::SUCCESS),
        Err(error) => Ok(conclude(Err(error))),
    }
}

fn tell(why: &Why, now: Now, out: &mut dyn Write) -> io::Result<()> {
    match &why.constraints[..] {
        [] => writeln!(out, "Nothing holds {} back: it goes out next.", why.envelope.id)?,
        [binding, rest @ ..] => {
            writeln!(out, "{} waits: {}", why.envelope.id, Reason(binding))?;
            for constraint in rest {
                writeln!(out, "  then: {}", Reason(constraint))?;
            }
        }
    }
    writeln!(out)?;
    write!(out, "{}", Sheet(&why.envelope, now))
}

/// One constraint as a sentence, and its cause. The sentence names its end; `until` is that for machines.
struct Reason<'a>(&'a Constraint);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reason(constraint) = self;
        let text = if constraint.text.is_empty() { &constraint.kind } else { &constraint.text };
        // "… waits: until 10:32", not "waits: waits".
        let waits = ["it waits ", "waits "].iter().find_map(|prefix| text.strip_prefix(prefix));
        f.write_str(waits.unwrap_or(text))?;
        match &constraint.cause {
            Some(cause) => write!(f, "\n    because: {cause}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::shapes::Envelope;

    #[test]
    fn the_binding_reason_comes_first_and_then_everything_known() {
        let envelope = Envelope { id: "0000000000BC".to_owned(), state: "deferred".to_owned(), ..Envelope::default() };
        let constraint = |text: &str, cause: Option<&str>| Constraint {
            kind: "k".to_owned(),
            text: text.to_owned(),
            cause: cause.map(str::to_owned),
            until: Some("2026-11-25T10:32:00.000Z".to_owned()),
        };
        let why = Why {
            envelope,
            constraints: vec![
                constraint("waits until 10:32 UTC (in 4 min): it asked for less", Some("421 4.7.0 slow down")),
                constraint("it is in line", None),
            ],
        };
        let mut out = Vec::new();
        tell(&why, Now::of_system(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let want = "0000000000BC waits: until 10:32 UTC (in 4 min): it asked for less\n    because: 421 4.7.0 slow down\n  \
                    then: it is in line\n\n0000000000BC  deferred\n";
        assert!(text.starts_with(want), "{text}");
    }
}
