//! `sendmail -bs`: an SMTP dialogue on standard input and output, for programs that speak it to a process. Messages go the
//! way of all: through the helper, so that the daemon need not run.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use postrider_drop::{Letter, Wanted};

use super::super::{Fatal, Place, TEMPORARY};
use super::{Caller, helper};
use crate::mail::{Address, Domain, Notify, QueueId, Return, ReversePath};
use crate::smtp::answer::Answer;
use crate::smtp::session::{Act, Limits, Link, Message, Mode, Policy, Proof, Security, Session, Terms};
use crate::time::Timestamp;

/// Longest line that is read at once. Unit: octets.
const LINE_LENGTH_MAX: u64 = 64 * 1024;
/// Where the daemon's own answer names a queue id, which it is still to give; replaced by the name of the file.
const PLACEHOLDER: QueueId = QueueId::MIN;

struct Anyone;

impl Policy for Anyone {
    fn sender(&self, _: Option<&str>, _: &ReversePath) -> Result<(), Answer> {
        Ok(())
    }

    fn recipient(&self, _: Option<&str>, _: &Address) -> Result<(), Answer> {
        Ok(())
    }

    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(since.as_millis() as u64)
    }
}

struct Kept;

impl Proof for Kept {
    fn id(&self) -> QueueId {
        PLACEHOLDER
    }
}

/// Talks until the client has had enough.
pub(super) fn run(place: &Place, caller: &Caller) -> Result<ExitCode, Fatal> {
    let gone = |error: io::Error| caller.fatal(TEMPORARY, format!("standard output: {error}"));
    let message_size_max = usize::try_from(caller.length_max()).unwrap_or(usize::MAX);
    let limits = Limits { message_size_max, ..Limits::default() };
    let hostname = hostname(place).ok_or_else(|| caller.fatal(TEMPORARY, "this machine has no name"))?;
    let terms = Terms { hostname, origin: None, mode: Mode::Smtp, limits };
    let link = Link { security: Security::Clear, loopback: true, trusted: true };
    let mut session = Session::new(Arc::new(terms), link);
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut waiting: Vec<u8> = Vec::new();
    loop {
        if session.receiving().is_some() {
            // What one message may take up was bounded by its limit.
            session.grant(usize::MAX);
        }
        let (used, act) = session.step(&waiting, &Anyone);
        waiting.drain(..used);
        match act {
            Act::Accept(message) => {
                let kept = helper::keep(place, &letter(*message));
                let name = kept.as_ref().ok().cloned();
                session.accepted(kept.map(|_| Kept).map_err(|fatal| answer(&fatal)));
                if let Some(name) = name {
                    put_name(session.output(), &name);
                }
            }
            Act::Verify(_) => session.verified(Err(crate::smtp::session::Denial::Rejected)),
            Act::Flush | Act::StartTls => {}
            Act::Close => {
                flush(&mut session, &mut output).map_err(gone)?;
                return Ok(ExitCode::SUCCESS);
            }
            Act::Read => {
                flush(&mut session, &mut output).map_err(gone)?;
                match feed(&mut input, &mut waiting, session.receiving().is_some()) {
                    Ok(true) => {}
                    Ok(false) => return Ok(ExitCode::SUCCESS),
                    Err(error) => return Err(caller.fatal(TEMPORARY, format!("standard input: {error}"))),
                }
            }
        }
        flush(&mut session, &mut output).map_err(gone)?;
    }
}

fn flush(session: &mut Session, output: &mut impl Write) -> io::Result<()> {
    output.write_all(session.output())?;
    session.output().clear();
    output.flush()
}

/// Reads a line, whose end becomes CRLF: people type LF, and on this pipe nobody else's message can begin with what we
/// take for an end. What BDAT announces is read as it is. False: the client is gone.
fn feed(input: &mut impl BufRead, waiting: &mut Vec<u8>, receiving: bool) -> io::Result<bool> {
    let start = waiting.len();
    if Read::take(&mut *input, LINE_LENGTH_MAX).read_until(b'\n', waiting)? == 0 {
        return Ok(false);
    }
    if waiting.ends_with(b"\n") && !waiting.ends_with(b"\r\n") {
        waiting.pop();
        waiting.extend_from_slice(b"\r\n");
    }
    let line = waiting.get(start..).unwrap_or_default();
    if !receiving && let Some(length) = chunk_length(line) {
        // As much as a message may have; a longer one is refused by the session, and read all the same.
        let read = Read::take(&mut *input, length).read_to_end(waiting)? as u64;
        return Ok(read == length);
    }
    Ok(true)
}

fn chunk_length(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    words.next().filter(|verb| verb.eq_ignore_ascii_case("BDAT"))?;
    words.next()?.parse().ok().filter(|length| *length <= postrider_drop::TOTAL_LENGTH_MAX)
}

fn letter(message: Message) -> Letter {
    let notify = |notify| match notify {
        Notify::Default => String::new(),
        Notify::Never => "N".to_owned(),
        Notify::On { success, failure, delay } => [(success, 'S'), (failure, 'F'), (delay, 'D')]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, letter)| letter)
            .collect(),
    };
    Letter {
        sender: message.reverse_path.to_string(),
        full_name: String::new(),
        envid: message.envid.map(Into::into).unwrap_or_default(),
        ret: match message.ret {
            Some(Return::Full) => "F".to_owned(),
            Some(Return::Headers) => "H".to_owned(),
            None => String::new(),
        },
        recipients: message
            .recipients
            .into_iter()
            .map(|(address, wanted, _)| Wanted { address: address.to_string(), notify: notify(wanted) })
            .collect(),
        message: message.body,
    }
}

/// What the helper said, as a reply: always to be tried again, but where there is no room for such a message at all.
fn answer(fatal: &Fatal) -> Answer {
    Answer::new(451, "4.3.0", format!("Error: {}", fatal.text))
}

fn put_name(output: &mut Vec<u8>, name: &str) {
    let placeholder = PLACEHOLDER.to_string().into_bytes();
    if let Some(at) = output.windows(placeholder.len()).rposition(|window| window == placeholder) {
        output.splice(at..at + placeholder.len(), name.bytes());
    }
}

/// The daemon's name, or the machine's.
fn hostname(place: &Place) -> Option<Domain> {
    let local = || "localhost.localdomain".parse().ok();
    let system = || rustix::system::uname().nodename().to_string_lossy().parse::<Domain>().ok();
    place.config.as_ref().map(|config| config.hostname.clone()).or_else(system).or_else(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_fed_as_smtp_wants_them() {
        let mut input = &b"EHLO x\nMAIL FROM:<a@b.example>\r\nBDAT 5 LAST\nab\ncdNOOP\n"[..];
        let mut waiting = Vec::new();
        while feed(&mut input, &mut waiting, false).unwrap() {}
        assert_eq!(
            String::from_utf8(waiting).unwrap(),
            "EHLO x\r\nMAIL FROM:<a@b.example>\r\nBDAT 5 LAST\r\nab\ncdNOOP\r\n"
        );
    }

    #[test]
    fn the_name_of_the_file_is_what_the_client_reads() {
        let mut output = Vec::new();
        Answer::new(250, "2.0.0", format!("Ok: queued as {PLACEHOLDER}")).write(&mut output);
        put_name(&mut output, "m123");
        assert_eq!(output, b"250 2.0.0 Ok: queued as m123\r\n");
    }
}
