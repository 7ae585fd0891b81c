//! The server's side of one SMTP dialogue, pure: octets in, replies and wishes out.
//!
//! `submission` drives it: it feeds what it reads to [`Session::step`], sends what stands in [`Session::output`], and
//! grants the wishes in [`Act`]. The session awaits nothing, reads no clock and never answers 250 to a message without
//! a [`Proof`] that it is kept.
//!
//! ```text
//!                 EHLO             MAIL               DATA ─► ExpectText ────┐ dot
//!  ExpectHello ────────► ExpectMail ────► ExpectRcpt ─┤                      ├─► ExpectReceipt ─► ExpectMail
//!       ▲                 │   ▲ │AUTH                 BDAT ─► ExpectChunk ◄┐ │
//!       │        STARTTLS │   │ ▼                               │ octets   │ │
//!       └─ ExpectHandshake┘   │ ExpectSecret ─► ExpectVerdict   └─ ExpectBdat ┘ LAST
//!                             └──────┴───────────────┘
//! ```
//!
//! Each state is a type that names what may come next. A state consumes itself and an input and gives the next one;
//! what a command does where it does not belong is one line of its match.

mod login;
mod receive;
mod states;
mod tally;
mod terms;
mod transaction;

use std::sync::Arc;

use super::answer::Answer;
use super::auth::Login;
use super::command::{Command, Nonsense};
use super::line::{Frame, LineEnd, discard, frame};
use crate::mail::{Address, QueueId, ReversePath};
use crate::time::Timestamp;

pub use login::Denial;
pub use states::ExpectHello;
pub use tally::{Refusal, Tally, Verb};
pub use terms::{Limits, Link, Mode, Security, Terms};
pub use transaction::Message;

use states::{Common, State};

/// Replies are handed out in pieces of about this size. Unit: octets.
const OUTPUT_LENGTH_MAX: usize = 16 * 1024;
/// RFC 4954 §4.
const AUTH_LINE_LENGTH_MAX: usize = 12_288;

/// What the session wants of the shell, once [`Session::output`] was sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// More octets.
    Read,
    /// Send the output now, then go on with the same input.
    Flush,
    /// Check this login, then call [`Session::verified`].
    Verify(Login),
    /// Make this message durable, then call [`Session::accepted`].
    Accept(Box<Message>),
    /// Shake hands, then call [`Session::secured`]. Input that is left would be plaintext posing as TLS.
    StartTls,
    /// Send the output and close.
    Close,
}

/// What the session must ask before it answers.
pub trait Policy {
    /// Whether who is logged in (`None`: a trusted network) may use this envelope sender now.
    ///
    /// # Errors
    /// The refusal to answer.
    fn sender(&self, login: Option<&str>, path: &ReversePath) -> Result<(), Answer>;

    /// Whether who is logged in may send to this recipient now, as far as that is not for the session to decide.
    ///
    /// # Errors
    /// The refusal to answer.
    fn recipient(&self, _login: Option<&str>, _address: &Address) -> Result<(), Answer> {
        Ok(())
    }

    /// What is said of an envelope sender, whoever is logged in.
    ///
    /// # Errors
    /// The refusal to answer.
    fn access(&self, _path: &ReversePath) -> Result<(), Answer> {
        Ok(())
    }

    /// Whether mail from a sender can go to this recipient at all.
    ///
    /// # Errors
    /// The refusal to answer.
    fn destination(&self, _path: &ReversePath, _address: &Address) -> Result<(), Answer> {
        Ok(())
    }

    /// Whether an address is one of ours, to which anyone may send mail. `None`: it is not.
    ///
    /// # Errors
    /// The refusal to answer.
    fn report_address(&self, _address: &Address) -> Option<Result<(), Answer>> {
        None
    }

    /// What time it is: a session reads no clock.
    fn now(&self) -> Timestamp;
}

/// Proof that a message is kept: the only thing that a 250 can be made from.
pub trait Proof {
    /// What the client reads after "queued as".
    fn id(&self) -> QueueId;
}

/// One dialogue.
#[derive(Debug)]
pub struct Session {
    common: Common,
    state: State,
}

impl Session {
    /// A dialogue that has not begun: the greeting is in the output.
    pub fn new(terms: Arc<Terms>, link: Link) -> Session {
        let mut common = Common::new(terms, link);
        common.greet();
        Session { common, state: State::Hello(ExpectHello) }
    }

    /// Replies to be sent. The shell empties it.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.common.out
    }

    /// Enhanced statuses of the RCPTs that were refused since this was asked last.
    pub fn take_refused_recipients(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.common.refused_recipients)
    }

    /// From now on refusals are kept for [`Session::take_refusals`].
    pub fn keep_refusals(&mut self) {
        self.common.keeps_refusals = true;
    }

    /// What the client was refused since this was asked last.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.common.refusals)
    }

    /// The mechanism of the last AUTH, if it was one of ours.
    pub fn mechanism(&self) -> Option<&'static str> {
        self.common.mechanism
    }

    /// How many commands there were.
    pub fn tally(&self) -> &Tally {
        &self.common.tally
    }

    /// How the client named itself, and whether by EHLO.
    pub fn hello(&self) -> Option<(&str, bool)> {
        self.common.hello.as_ref().map(|hello| (&*hello.name, hello.extended))
    }

    /// Whether the session was ended for its errors.
    pub fn is_worn_out(&self) -> bool {
        self.common.is_worn_out()
    }

    /// Command lines seen so far. A shell's deadline runs from the last change.
    pub fn commands(&self) -> u64 {
        self.common.commands
    }

    /// Whether message octets come next: `Some(octets of this message so far)`.
    pub fn receiving(&self) -> Option<u64> {
        self.state.decoder().map(|decoder| decoder.received())
    }

    /// Whether nothing would be lost if the session ended now: no transaction is open, no wish ungranted.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Hello(_) | State::Mail(_) | State::Ended)
    }

    /// Whether message octets are kept, here or by the shell that is making them durable.
    pub fn holds_body(&self) -> bool {
        matches!(self.state, State::Text(_) | State::Bdat(_) | State::Chunk(_) | State::Receipt(_))
    }

    /// Who is logged in.
    pub fn login(&self) -> Option<&Arc<str>> {
        self.common.login.as_ref()
    }

    /// How many octets of memory the message would need at most with `input` more. 0 while none is received or kept.
    pub fn body_need(&self, input: usize) -> usize {
        match self.state.decoder() {
            // Every octet may be a bare LF.
            Some(decoder) if decoder.fault().is_none() => decoder.kept() + 2 * input + 2,
            _ => 0,
        }
    }

    /// Memory for the message is set aside up to this many octets in all.
    pub fn grant(&mut self, octets: usize) {
        if let Some(decoder) = self.state.decoder_mut() {
            decoder.grant(octets);
        }
    }

    /// There is no memory for the message being received: it is read to its end and refused for now.
    pub fn forsake(&mut self) {
        self.common.forsaken = true;
        if let Some(decoder) = self.state.decoder_mut() {
            decoder.forsake(super::data::Fault::TooBig);
        }
    }

    /// Takes in what the client sent. Gives how much was used and what must happen before the rest can be.
    pub fn step(&mut self, input: &[u8], policy: &impl Policy) -> (usize, Act) {
        let mut used = 0;
        loop {
            if matches!(self.state, State::Ended) {
                // Nothing that follows a farewell is read: RFC 5321 §4.1.1.10.
                return (input.len(), Act::Close);
            }
            if self.common.out.len() > OUTPUT_LENGTH_MAX {
                return (used, Act::Flush);
            }
            let rest = input.get(used..).unwrap_or_default();
            let (consumed, act) = match self.state.decoder().is_some() {
                true => self.octets(rest),
                false => self.line(rest, policy),
            };
            used += consumed;
            match act {
                Some(Act::Close) => return (input.len(), Act::Close),
                Some(act) => return (used, act),
                None => {}
            }
        }
    }

    /// The outcome of [`Act::Verify`]: the credential's name, or why not.
    pub fn verified(&mut self, outcome: Result<Arc<str>, Denial>) {
        self.advance(|state, common| match state {
            State::Verdict(verdict) => verdict.step(common, outcome),
            other => other,
        });
    }

    /// The outcome of [`Act::Accept`].
    pub fn accepted<P: Proof>(&mut self, outcome: Result<P, Answer>) {
        self.advance(|state, common| match state {
            State::Receipt(receipt) => receipt.step(common, outcome),
            other => other,
        });
    }

    /// The handshake of [`Act::StartTls`] is done: all that was said before it is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        self.advance(|state, common| match state {
            State::Handshake(handshake) => handshake.step(common),
            other => other,
        });
    }

    /// Ends the dialogue from our side, with a reply out of turn (RFC 5321 §3.8): timeouts and stops.
    pub fn end(&mut self, answer: &Answer) {
        answer.write(&mut self.common.out);
        self.state = State::Ended;
    }

    fn advance(&mut self, step: impl FnOnce(State, &mut Common) -> State) {
        // Whatever `step` leaves behind by panicking is ended.
        let state = std::mem::replace(&mut self.state, State::Ended);
        self.state = step(state, &mut self.common);
        if self.common.is_worn_out() && !matches!(self.state, State::Ended) {
            self.end(&Answer::fixed(421, "4.7.0", "Too many errors; closing"));
        }
    }

    /// Message octets for DATA or a chunk.
    fn octets(&mut self, input: &[u8]) -> (usize, Option<Act>) {
        if input.is_empty() && !self.state.is_complete() {
            return (0, Some(Act::Read));
        }
        let mut used = 0;
        self.advance(|state, common| match state {
            State::Text(text) => text.step(common, input, &mut used),
            State::Bdat(bdat) => bdat.step(common, input, &mut used),
            other => other,
        });
        (used, self.common.act.take())
    }

    fn line(&mut self, input: &[u8], policy: &impl Policy) -> (usize, Option<Act>) {
        if self.common.discarding {
            let (used, ended) = discard(input);
            self.common.discarding = !ended;
            return (used, if ended { None } else { Some(Act::Read) });
        }
        let auth_line = matches!(self.state, State::Secret(_))
            || input.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AUTH "));
        let length_max = if auth_line { AUTH_LINE_LENGTH_MAX } else { self.common.terms.limits.command_length_max };
        let (text, end, consumed) = match frame(input, length_max) {
            Frame::More => return (0, Some(Act::Read)),
            Frame::TooLong => {
                self.common.discarding = true;
                self.overlong();
                return (0, None);
            }
            Frame::Line { text, end, consumed } => (text, end, consumed),
        };
        self.common.commands += 1;
        if !matches!(self.state, State::Secret(_)) {
            self.common.tally.begin(Verb::of(text));
        }
        let behind = input.len() > consumed;
        self.advance(|state, common| match state {
            State::Secret(secret) => secret.step(common, text, end),
            other => command(other, common, text, end, behind, policy),
        });
        (consumed, self.common.act.take())
    }

    fn overlong(&mut self) {
        self.common.commands += 1;
        if !matches!(self.state, State::Secret(_)) {
            self.common.tally.begin(Verb::Unknown);
        }
        self.advance(|state, common| match state {
            State::Secret(_) => {
                common.refuse(&Answer::fixed(500, "5.5.6", "Authentication exchange line is too long"));
                State::Mail(states::ExpectMail)
            }
            other => {
                common.refuse(&Answer::fixed(500, "5.5.2", "Line too long"));
                other
            }
        });
    }
}

/// One command line in a state that takes commands.
fn command(state: State, common: &mut Common, line: &[u8], end: LineEnd, behind: bool, policy: &impl Policy) -> State {
    let command = match Command::parse(line) {
        Ok(command) => command,
        Err(Nonsense::Refused(answer)) => {
            if line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"RCPT ")) {
                common.note_refused_recipient(answer.status);
            }
            let from = common.keeps_refusals.then(|| state.sender()).flatten();
            common.keep_refusal(&answer, from, None);
            common.refuse(&answer);
            return state;
        }
        Err(Nonsense::Unknown(_)) if common.data_refused => {
            // The client did not wait for our answer to DATA and is sending the message: its lines are no commands,
            // though somebody may have written them to be taken for such.
            return common.close(&Answer::fixed(554, "5.5.0", "DATA was refused and message text follows; closing"));
        }
        Err(Nonsense::Unknown(answer)) => {
            common.refuse(&answer);
            return state;
        }
        Err(Nonsense::Fatal(answer)) => return common.close(&answer),
    };
    common.data_refused = false;
    let reframes = matches!(command, Command::Data | Command::Bdat { .. } | Command::Auth { .. } | Command::StartTls);
    if end == LineEnd::Lf && reframes {
        // A client that ends lines with LF could not end its message either. Better told now than after a timeout.
        return common.close(&Answer::fixed(521, "5.5.2", "Bare LF received: lines must end with CR LF; closing"));
    }
    state.step(common, command, behind, policy)
}
