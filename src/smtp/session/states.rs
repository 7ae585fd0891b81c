//! The states that take commands outside of a transaction, and what all states share.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::answer::Answer;
use super::super::command::Command;
use super::super::data::Decoder;
use super::login::{ExpectSecret, ExpectVerdict};
use super::receive::{ExpectBdat, ExpectReceipt, ExpectText};
use super::tally::{Refusal, Tally};
use super::terms::{Link, Mode, Security, Terms};
use super::transaction::{ExpectChunk, ExpectRcpt, Transaction};
use super::{Act, Policy};
use crate::mail::Text;
use crate::time::Timestamp;

/// What may come next.
#[derive(Debug)]
pub(super) enum State {
    Hello(ExpectHello),
    Mail(ExpectMail),
    Rcpt(ExpectRcpt),
    Chunk(ExpectChunk),
    Secret(ExpectSecret),
    Verdict(ExpectVerdict),
    Text(ExpectText),
    Bdat(ExpectBdat),
    Receipt(ExpectReceipt),
    Handshake(ExpectHandshake),
    Ended,
}

impl State {
    /// What reads message octets, if those come next.
    pub(super) fn decoder(&self) -> Option<&Decoder> {
        match self {
            State::Text(text) => Some(text.decoder()),
            State::Bdat(bdat) => Some(bdat.decoder()),
            _ => None,
        }
    }

    pub(super) fn decoder_mut(&mut self) -> Option<&mut Decoder> {
        match self {
            State::Text(text) => Some(text.decoder_mut()),
            State::Bdat(bdat) => Some(bdat.decoder_mut()),
            _ => None,
        }
    }

    /// MAIL FROM, where there was one.
    pub(super) fn sender(&self) -> Option<Box<str>> {
        match self {
            State::Rcpt(rcpt) => Some(rcpt.sender()),
            State::Chunk(chunk) => Some(chunk.transaction.sender()),
            _ => None,
        }
    }

    /// A chunk of no octets needs no input to be over.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, State::Bdat(bdat) if bdat.left() == 0)
    }

    /// A command, in whatever state takes commands.
    pub(super) fn step(self, common: &mut Common, command: Command, behind: bool, policy: &impl Policy) -> State {
        let (state, command) = match common.anywhere(self, command, policy.now()) {
            ControlFlow::Break(state) => return state,
            ControlFlow::Continue(unanswered) => unanswered,
        };
        match state {
            State::Hello(hello) => hello.step(common, command, behind),
            State::Mail(mail) => mail.step(common, command, behind, policy),
            State::Rcpt(rcpt) => rcpt.step(common, command, behind, policy),
            State::Chunk(chunk) => chunk.step(common, command, behind),
            // The shell owes an outcome, or octets come next: it feeds no lines then.
            waiting @ (State::Secret(_)
            | State::Verdict(_)
            | State::Text(_)
            | State::Bdat(_)
            | State::Receipt(_)
            | State::Handshake(_)
            | State::Ended) => waiting,
        }
    }
}

/// How the client named itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) name: Text,
    /// EHLO, not HELO.
    pub(super) extended: bool,
}

/// What every state needs.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) terms: Arc<Terms>,
    pub(super) link: Link,
    pub(super) hello: Option<Hello>,
    pub(super) login: Option<Arc<str>>,
    /// Of the last AUTH.
    pub(super) mechanism: Option<&'static str>,
    pub(super) out: Vec<u8>,
    pub(super) act: Option<Act>,
    pub(super) commands: u64,
    /// A line that was too long is being thrown away.
    pub(super) discarding: bool,
    /// The last command was a DATA that we refused.
    pub(super) data_refused: bool,
    /// The message being received found no memory.
    pub(super) forsaken: bool,
    pub(super) login_failures: u32,
    /// Enhanced statuses of RCPTs that were refused and not yet told of.
    pub(super) refused_recipients: Vec<&'static str>,
    /// Refusals that were not yet told of, if anybody wants them.
    pub(super) refusals: Vec<Refusal>,
    pub(super) keeps_refusals: bool,
    pub(super) tally: Tally,
    errors: u32,
    idle_commands: u32,
}

/// RFC 4954 §4 and §6: why MAIL is refused.
const LOGIN_FIRST: Answer =
    Answer::fixed(530, "5.7.0", "Authentication required: use AUTH with a credential of this server");
const TLS_FIRST: Answer =
    Answer::fixed(530, "5.7.0", "Must issue a STARTTLS command first, then authenticate; or use port 465 with TLS");
const TLS_ABSENT: Answer =
    Answer::fixed(530, "5.7.0", "Authentication needs TLS, and this server has no certificate for it");
const RELAY_DENIED: Answer = Answer::fixed(554, "5.7.1", "Relay access denied");

impl Common {
    pub(super) fn new(terms: Arc<Terms>, link: Link) -> Common {
        Common {
            terms,
            link,
            hello: None,
            login: None,
            mechanism: None,
            out: Vec::new(),
            act: None,
            commands: 0,
            discarding: false,
            data_refused: false,
            forsaken: false,
            login_failures: 0,
            refused_recipients: Vec::new(),
            refusals: Vec::new(),
            keeps_refusals: false,
            tally: Tally::default(),
            errors: 0,
            idle_commands: 0,
        }
    }

    pub(super) fn greet(&mut self) {
        let text = format!("{} ESMTP Postrider", self.terms.hostname);
        Answer::new(220, "", text).write(&mut self.out);
    }

    pub(super) fn say(&mut self, answer: &Answer) {
        answer.write(&mut self.out);
    }

    /// Answers what the client should not have sent.
    pub(super) fn refuse(&mut self, answer: &Answer) {
        self.errors += 1;
        self.tally.fail();
        answer.write(&mut self.out);
    }

    /// What a refusal will have to name, if anybody wants it.
    pub(super) fn named(&self, what: &impl std::fmt::Display) -> Option<Box<str>> {
        self.keeps_refusals.then(|| what.to_string().into())
    }

    /// Keeps a refusal for whoever logs them.
    pub(super) fn keep_refusal(&mut self, answer: &Answer, from: Option<Box<str>>, to: Option<Box<str>>) {
        /// In one step, in which at most so many commands fit that a peer would call it one.
        const REFUSALS_MAX: usize = 4096;
        let verb = self.tally.last().filter(|_| self.keeps_refusals && self.refusals.len() < REFUSALS_MAX);
        if let Some(verb) = verb {
            self.refusals.push(Refusal { verb, answer: answer.clone(), from, to });
        }
    }

    /// A recipient was refused: for whoever counts them.
    pub(super) fn note_refused_recipient(&mut self, status: &'static str) {
        /// RCPTs in one step, were they two octets long. Those beyond are not counted.
        const REFUSED_MAX: usize = 4096;
        if self.refused_recipients.len() < REFUSED_MAX {
            self.refused_recipients.push(status);
        }
    }

    pub(super) fn close(&mut self, answer: &Answer) -> State {
        if answer.code >= 400 {
            self.tally.fail();
        }
        answer.write(&mut self.out);
        self.act = Some(Act::Close);
        State::Ended
    }

    /// Refuses DATA. RFC 2920 §3.1 lets nothing follow it in one group, so what does follow is a message, whose author
    /// would be writing our commands; and what comes next may be one.
    pub(super) fn refuse_data(&mut self, state: State, answer: &Answer, behind: bool) -> State {
        let from = self.keeps_refusals.then(|| state.sender()).flatten();
        self.keep_refusal(answer, from, None);
        if behind {
            return self.close(answer);
        }
        self.data_refused = true;
        self.refuse(answer);
        state
    }

    pub(super) fn is_worn_out(&self) -> bool {
        let limits = &self.terms.limits;
        self.errors >= limits.errors_max || self.login_failures >= limits.login_failures_max
    }

    /// A message was taken: whoever brings mail may err again.
    pub(super) fn forgive(&mut self) {
        self.errors = 0;
        self.idle_commands = 0;
    }

    fn idle_command(&mut self) {
        self.idle_commands = self.idle_commands.saturating_add(1);
        if self.idle_commands > self.terms.limits.idle_commands_max {
            self.errors += 1;
        }
    }

    /// Whether who is at the other end may use MAIL.
    fn may_send(&self) -> Result<(), Answer> {
        match self.terms.mode {
            // Decided by recipient: see `transaction::recipient`.
            Mode::Smtp => Ok(()),
            Mode::Submission | Mode::Submissions if self.login.is_some() || self.link.trusted => Ok(()),
            Mode::Submission | Mode::Submissions if self.auth_is_offered() => Err(LOGIN_FIRST),
            Mode::Submission | Mode::Submissions if self.link.security == Security::Upgradable => Err(TLS_FIRST),
            Mode::Submission | Mode::Submissions => Err(TLS_ABSENT),
        }
    }

    /// Whether who is at the other end may send to anybody.
    pub(super) fn may_relay(&self) -> Result<(), Answer> {
        match self.terms.mode {
            Mode::Smtp if self.link.trusted => Ok(()),
            Mode::Smtp => Err(RELAY_DENIED),
            Mode::Submission | Mode::Submissions if self.login.is_some() || self.link.trusted => Ok(()),
            Mode::Submission | Mode::Submissions => Err(LOGIN_FIRST),
        }
    }

    /// Passwords go over TLS, or over this machine's loopback, where no one else listens.
    pub(super) fn auth_is_offered(&self) -> bool {
        self.terms.mode != Mode::Smtp && (self.link.security == Security::Tls || self.link.loopback)
    }

    /// Commands that mean the same in every state.
    fn anywhere<'a>(
        &mut self,
        state: State,
        command: Command<'a>,
        now: Timestamp,
    ) -> ControlFlow<State, (State, Command<'a>)> {
        match command {
            Command::Ehlo(name) => {
                self.idle_command();
                self.hello = Some(Hello { name, extended: true });
                self.announce(now);
                ControlFlow::Break(State::Mail(ExpectMail))
            }
            Command::Helo(name) => {
                self.idle_command();
                self.hello = Some(Hello { name, extended: false });
                let text = self.terms.hostname.to_string();
                self.say(&Answer::new(250, "", text));
                ControlFlow::Break(State::Mail(ExpectMail))
            }
            Command::Rset => {
                self.idle_command();
                self.say(&Answer::fixed(250, "2.0.0", "Ok"));
                let fresh = if self.hello.is_some() { State::Mail(ExpectMail) } else { State::Hello(ExpectHello) };
                ControlFlow::Break(fresh)
            }
            Command::Noop => {
                self.idle_command();
                self.say(&Answer::fixed(250, "2.0.0", "Ok"));
                ControlFlow::Break(state)
            }
            Command::Vrfy => {
                self.idle_command();
                self.say(&Answer::fixed(252, "2.0.0", "Cannot verify; send the message and see"));
                ControlFlow::Break(state)
            }
            Command::Help => {
                self.idle_command();
                self.say(&Answer::fixed(
                    214,
                    "2.0.0",
                    "Postrider. RFC 5321 tells it all; ask the postmaster for the rest",
                ));
                ControlFlow::Break(state)
            }
            Command::Quit => ControlFlow::Break(self.close(&Answer::fixed(221, "2.0.0", "Bye"))),
            other => ControlFlow::Continue((state, other)),
        }
    }

    /// Whether messages are held for a later time: RFC 4865 has it for submissions, so strangers are not offered it.
    pub(super) fn holds(&self) -> bool {
        !self.terms.limits.hold_max.is_zero() && (self.terms.mode != Mode::Smtp || self.link.trusted)
    }

    /// The reply to EHLO.
    fn announce(&mut self, now: Timestamp) {
        let limits = self.terms.limits;
        let mut lines =
            vec![self.terms.hostname.to_string(), "PIPELINING".to_owned(), format!("SIZE {}", limits.message_size_max)];
        if self.link.security == Security::Upgradable {
            lines.push("STARTTLS".to_owned());
        }
        if self.auth_is_offered() {
            lines.push("AUTH PLAIN LOGIN".to_owned());
        }
        if self.holds() {
            // RFC 4865: the longest time, and the latest date.
            let most = limits.hold_max.as_secs();
            let latest = Timestamp::from_secs(now.as_secs().saturating_add(most)).rfc3339().replace(".000Z", "Z");
            lines.push(format!("FUTURERELEASE {most} {latest}"));
        }
        lines.extend(["ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"].map(str::to_owned));
        let last = Answer::new(250, "", format!("LIMITS RCPTMAX={}", limits.recipients_max));
        for line in lines {
            Answer::new(250, "", line).write_continued(&mut self.out);
        }
        last.write(&mut self.out);
    }
}

const HELLO_FIRST: Answer = Answer::fixed(503, "5.5.1", "Error: send HELO or EHLO first");
const MAIL_FIRST: Answer = Answer::fixed(503, "5.5.1", "Error: need MAIL command");
const BARE_CHUNK: Answer = Answer::fixed(503, "5.5.1", "Error: BDAT without MAIL and RCPT");

/// Nothing was said yet.
#[derive(Debug, PartialEq, Eq)]
pub struct ExpectHello;

impl ExpectHello {
    fn step(self, common: &mut Common, command: Command, behind: bool) -> State {
        match command {
            Command::Bdat { size, .. } => ExpectBdat::refused(size, HELLO_FIRST, State::Hello(self)).begin(common),
            Command::Data => common.refuse_data(State::Hello(self), &HELLO_FIRST, behind),
            Command::Mail(..) | Command::Rcpt(..) | Command::Auth { .. } | Command::StartTls => {
                common.refuse(&HELLO_FIRST);
                State::Hello(self)
            }
            // Answered in every state alike.
            Command::Ehlo(_)
            | Command::Helo(_)
            | Command::Rset
            | Command::Noop
            | Command::Vrfy
            | Command::Help
            | Command::Quit => State::Hello(self),
        }
    }
}

/// Between messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExpectMail;

impl ExpectMail {
    fn step(self, common: &mut Common, command: Command, behind: bool, policy: &impl Policy) -> State {
        match command {
            Command::Mail(path, parameters) => {
                let from = common.named(&path);
                let begun = common.may_send().and_then(|()| Transaction::begin(common, path, parameters, policy));
                match begun {
                    Ok(transaction) => {
                        common.say(&Answer::fixed(250, "2.1.0", "Ok"));
                        State::Rcpt(ExpectRcpt::new(transaction))
                    }
                    Err(answer) => {
                        common.keep_refusal(&answer, from, None);
                        self.refuse(common, &answer)
                    }
                }
            }
            Command::Auth { mechanism, initial } => ExpectSecret::begin(common, mechanism, initial),
            Command::StartTls => self.start_tls(common, behind),
            Command::Bdat { size, .. } => ExpectBdat::refused(size, BARE_CHUNK, State::Mail(self)).begin(common),
            Command::Data => common.refuse_data(State::Mail(self), &MAIL_FIRST, behind),
            Command::Rcpt(..) => self.refuse(common, &MAIL_FIRST),
            // Answered in every state alike.
            Command::Ehlo(_)
            | Command::Helo(_)
            | Command::Rset
            | Command::Noop
            | Command::Vrfy
            | Command::Help
            | Command::Quit => State::Mail(self),
        }
    }

    fn refuse(self, common: &mut Common, answer: &Answer) -> State {
        common.refuse(answer);
        State::Mail(self)
    }

    fn start_tls(self, common: &mut Common, behind: bool) -> State {
        match common.link.security {
            Security::Tls => self.refuse(common, &Answer::fixed(503, "5.5.1", "Error: TLS is already active")),
            Security::Clear => self.refuse(common, &Answer::fixed(502, "5.5.1", "STARTTLS is not offered here")),
            Security::Upgradable if behind => {
                // Somebody between us and the client may have put it there, to be read as if said under TLS
                // (CVE-2011-0411).
                common.close(&Answer::fixed(554, "5.5.0", "Error: nothing may follow STARTTLS; closing"))
            }
            Security::Upgradable => {
                common.say(&Answer::fixed(220, "2.0.0", "Ready to start TLS"));
                common.act = Some(Act::StartTls);
                State::Handshake(ExpectHandshake)
            }
        }
    }
}

/// STARTTLS was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExpectHandshake;

impl ExpectHandshake {
    pub(super) fn step(self, common: &mut Common) -> State {
        common.link.security = Security::Tls;
        common.hello = None;
        common.login = None;
        State::Hello(ExpectHello)
    }
}
