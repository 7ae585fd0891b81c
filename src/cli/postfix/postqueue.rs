//! `postqueue` and `mailq`: what waits, and that it be tried now. Any user may, unless the config says otherwise.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use super::listing::{self, Text};
use super::{Call, FORBIDDEN, Fatal, Place, TEMPORARY, UNAVAILABLE, USAGE, flags, is_root};
use crate::mail::QueueId;
use crate::pickup::Directory;
use crate::showq::wire::{self, Message};
use crate::showq::{self, FLUSH_NAME, SHOWQ_NAME};

const USAGE_TEXT: &str = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site";
/// Longest wait for a word of the daemon.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
/// Longest answer to an order. Unit: octets.
const ANSWER_LENGTH_MAX: u64 = 1024;

/// How a listing is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Text,
    Json,
}

/// `mailq`: `sendmail -bp`.
pub(super) fn mailq(call: &Call) -> Result<ExitCode, Fatal> {
    let (found, rest) = flags(&call.words, "bp:C:vo:").map_err(|_| Fatal::new(USAGE, "usage: mailq"))?;
    if !rest.is_empty() {
        return Err(Fatal::new(USAGE, "display queue mode requires no recipient"));
    }
    let directory = found.iter().find(|flag| flag.letter == 'C').map(|flag| flag.value.as_str());
    list(call, &Place::find(directory), Form::Text)
}

/// `postqueue`.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    let usage = || Fatal::new(USAGE, USAGE_TEXT);
    let (found, rest) = flags(&call.words, "c:fi:jps:v").map_err(|_| usage())?;
    let directory = found.iter().rfind(|flag| flag.letter == 'c').map(|flag| flag.value.as_str());
    let orders: Vec<_> = found.iter().filter(|flag| !matches!(flag.letter, 'c' | 'v')).collect();
    let ([order], []) = (orders.as_slice(), rest) else { return Err(usage()) };
    let place = Place::find(directory);
    match order.letter {
        'p' => list(call, &place, Form::Text),
        'j' => list(call, &place, Form::Json),
        'f' => flush(&place, "all"),
        'i' => flush_id(&place, &order.value),
        _ => flush_site(&place, &order.value),
    }
}

/// Prints what waits.
pub(super) fn list(call: &Call, place: &Place, form: Form) -> Result<ExitCode, Fatal> {
    let mut text = Text::default();
    let mut out = io::stdout().lock();
    let mut print = |message: Message| match form {
        Form::Text => out.write_all(text.message(&message).as_bytes()),
        Form::Json => out.write_all(listing::json(&message).as_bytes()),
    };
    let listed = listing_of(place, &mut print);
    let listed = match listed {
        Err(Failure::Down(reason)) if is_root() => {
            call.warn(format!("Mail system is down -- accessing the maildrop directly ({reason})"));
            for message in showq::maildrop_messages(&Directory::of(&place.data_dir)) {
                let _ = print(message);
            }
            let text = "Queue report unavailable - mail system is down; only the maildrop can be read without it";
            return Err(Fatal::new(UNAVAILABLE, text));
        }
        Err(Failure::Down(_)) => {
            return Err(Fatal::new(UNAVAILABLE, "Queue report unavailable - mail system is down"));
        }
        other => other,
    };
    match listed {
        Ok(()) => {
            if form == Form::Text {
                let _ = out.write_all(text.end().as_bytes());
            }
            let _ = out.flush();
            Ok(ExitCode::SUCCESS)
        }
        Err(Failure::Refused(text)) => Err(Fatal::new(FORBIDDEN, text)),
        Err(Failure::Down(_)) => Ok(ExitCode::SUCCESS),
        // `mailq | head` is no error.
        Err(Failure::Broken(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Failure::Broken(error)) => {
            Err(Fatal::new(UNAVAILABLE, format!("malformed showq server response: {error}")))
        }
    }
}

/// Why there is no listing.
pub(super) enum Failure {
    /// Nobody answers.
    Down(io::Error),
    /// This user may not see it.
    Refused(String),
    /// It broke off.
    Broken(io::Error),
}

/// Everything that waits.
pub(super) fn listing_of(place: &Place, each: &mut dyn FnMut(Message) -> io::Result<()>) -> Result<(), Failure> {
    let stream = UnixStream::connect(place.public().join(SHOWQ_NAME)).map_err(Failure::Down)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(Failure::Broken)?;
    wire::read(&mut BufReader::new(stream), each).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Refused(error.to_string()),
        _ => Failure::Broken(error),
    })
}

/// `-i`: one envelope. An id that is not there is no error, as in Postfix.
pub(super) fn flush_id(place: &Place, id: &str) -> Result<ExitCode, Fatal> {
    match id.parse::<QueueId>() {
        Ok(id) => flush(place, &format!("id {id}")),
        // Ids of Postfix's own may still stand in scripts and notes.
        Err(_) if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(ExitCode::SUCCESS),
        Err(_) => Err(Fatal::new(USAGE, format!("Cannot flush queue ID - invalid name: \"{id}\""))),
    }
}

/// `-s`: all mail of a domain; any domain, not the few of fast_flush_domains.
pub(super) fn flush_site(place: &Place, site: &str) -> Result<ExitCode, Fatal> {
    let domain = site.trim_start_matches('[').trim_end_matches(']');
    match domain.parse::<crate::mail::Domain>() {
        Ok(domain) => flush(place, &format!("site {domain}")),
        Err(_) => Err(Fatal::new(USAGE, format!("Cannot flush mail queue - invalid destination: \"{site}\""))),
    }
}

/// Asks the daemon to try what waits.
pub(super) fn flush(place: &Place, request: &str) -> Result<ExitCode, Fatal> {
    let down = |_| Fatal::new(UNAVAILABLE, "Cannot flush mail queue - mail system is down");
    let mut stream = UnixStream::connect(place.public().join(FLUSH_NAME)).map_err(down)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(down)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(down)?;
    let mut answer = String::new();
    stream.take(ANSWER_LENGTH_MAX).read_to_string(&mut answer).map_err(down)?;
    match answer.trim().split_once(' ') {
        None if matches!(answer.trim(), "ok" | "unknown") => Ok(ExitCode::SUCCESS),
        Some(("denied", text)) => Err(Fatal::new(FORBIDDEN, text)),
        Some(("bad", text)) => Err(Fatal::new(USAGE, text)),
        _ => Err(Fatal::new(TEMPORARY, "Cannot flush mail queue - the mail system broke off")),
    }
}
