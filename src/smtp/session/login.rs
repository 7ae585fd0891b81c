//! AUTH inside a session.

use std::sync::Arc;

use super::super::answer::Answer;
use super::super::auth::{self, Exchange, Turn};
use super::super::line::LineEnd;
use super::Act;
use super::states::{Common, ExpectMail, State};
use super::terms::{Mode, Security};

/// Why a login is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// Wrong name, wrong password, or a disabled credential: the client is never told which.
    Rejected,
    /// Name and secret are right, and the credential is suspended.
    Suspended,
    /// Not checked: too many wait to be.
    Busy,
}

const REJECTED: Answer = Answer::fixed(535, "5.7.8", "Error: authentication failed: name or password is wrong");
/// RFC 4954 §6: credentials that are "invalid or insufficient". A 454 would have a thief, and an application, try for days.
const SUSPENDED: Answer = Answer::fixed(535, "5.7.8", "This credential is suspended");
const BUSY: Answer = Answer::fixed(454, "4.7.0", "Temporary authentication failure: try again later");
const ENCRYPT_FIRST: Answer =
    Answer::fixed(538, "5.7.11", "Encryption required: issue STARTTLS before AUTH, or use port 465 with TLS");
const NO_TLS: Answer =
    Answer::fixed(538, "5.7.11", "Encryption required for AUTH, and this server has no certificate for it");
const NOT_HERE: Answer =
    Answer::fixed(502, "5.5.1", "AUTH is not offered on this port: use port 587 with STARTTLS, or 465 with TLS");

/// In the middle of an exchange.
#[derive(Debug)]
pub(super) struct ExpectSecret(Exchange);

impl ExpectSecret {
    /// AUTH, between messages.
    pub(super) fn begin(common: &mut Common, mechanism: &str, initial: Option<&str>) -> State {
        common.mechanism = ["PLAIN", "LOGIN"].into_iter().find(|known| known.eq_ignore_ascii_case(mechanism));
        let refusal = match () {
            () if common.terms.mode == Mode::Smtp => Some(NOT_HERE),
            () if !common.auth_is_offered() && common.link.security == Security::Upgradable => Some(ENCRYPT_FIRST),
            () if !common.auth_is_offered() => Some(NO_TLS),
            () if common.login.is_some() => Some(Answer::fixed(503, "5.5.1", "Error: already authenticated")),
            () if !common.hello.as_ref().is_some_and(|hello| hello.extended) => {
                Some(Answer::fixed(503, "5.5.1", "Error: send EHLO before AUTH"))
            }
            () => None,
        };
        match refusal {
            Some(answer) => {
                common.refuse(&answer);
                State::Mail(ExpectMail)
            }
            None => turn(common, auth::begin(mechanism, initial)),
        }
    }

    /// The client's next line of the exchange.
    pub(super) fn step(self, common: &mut Common, line: &[u8], end: LineEnd) -> State {
        match end {
            LineEnd::CrLf => turn(common, self.0.answer(line)),
            LineEnd::Lf => turn(common, Turn::Failed(Answer::fixed(501, "5.5.2", "Lines must end with CR LF"))),
        }
    }
}

/// Nothing of a failed exchange is carried into the next: `ExpectMail` holds nothing.
fn turn(common: &mut Common, turn: Turn) -> State {
    match turn {
        Turn::Ask(exchange, challenge) => {
            common.say(&challenge);
            State::Secret(ExpectSecret(exchange))
        }
        Turn::Done(login) => {
            common.act = Some(Act::Verify(login));
            State::Verdict(ExpectVerdict)
        }
        Turn::Failed(answer) => {
            common.refuse(&answer);
            State::Mail(ExpectMail)
        }
    }
}

/// The shell is checking a login.
#[derive(Debug)]
pub(super) struct ExpectVerdict;

impl ExpectVerdict {
    pub(super) fn step(self, common: &mut Common, outcome: Result<Arc<str>, Denial>) -> State {
        match outcome {
            Ok(name) => {
                common.login = Some(name);
                common.say(&Answer::fixed(235, "2.7.0", "Authentication successful"));
            }
            // The connection stays open: Go sends `*` and QUIT, smtplib tries the next mechanism.
            Err(Denial::Rejected) => {
                common.login_failures += 1;
                common.refuse(&REJECTED);
            }
            // Nobody guessed: it costs no more than any other error.
            Err(Denial::Suspended) => common.refuse(&SUSPENDED),
            Err(Denial::Busy) => {
                common.tally.fail();
                common.say(&BUSY);
            }
        }
        State::Mail(ExpectMail)
    }
}
