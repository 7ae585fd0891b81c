//! From MAIL to the first octet of the message.

use super::super::answer::Answer;
use super::super::command::Command;
use super::super::data::Decoder;
use super::super::parameter::{Hold, MailParameters, RcptParameters};
use super::super::path::Path;
use super::receive::{ExpectBdat, ExpectText};
use super::states::{Common, ExpectMail, State};
use super::{Mode, Policy};
use crate::mail::{Address, Notify, Return, ReversePath, Text};
use crate::time::Timestamp;

/// A message as the client handed it over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What the client called itself, a safe argument.
    pub hello: Text,
    /// The keyword for Received: RFC 3848 and RFC 6531 §4.3.
    pub protocol: &'static str,
    /// MAIL FROM.
    pub reverse_path: ReversePath,
    /// RFC 3461.
    pub ret: Option<Return>,
    /// RFC 3461, as it came.
    pub envid: Option<Text>,
    /// RFC 4865: not before this.
    pub release_at: Option<Timestamp>,
    /// RCPT TO in order, one or more.
    pub recipients: Vec<(Address, Notify, Option<Text>)>,
    /// CRLF line ends only, no NUL.
    pub body: Vec<u8>,
}

/// A transaction that is being built up.
#[derive(Debug)]
pub(super) struct Transaction {
    reverse_path: ReversePath,
    parameters: MailParameters,
    release_at: Option<Timestamp>,
    recipients: Vec<(Address, Notify, Option<Text>)>,
    /// Recipients refused because the limit was reached.
    beyond: usize,
}

const SMTPUTF8_FIRST: Answer =
    Answer::fixed(553, "5.6.7", "Must declare SMTPUTF8 in MAIL to send to or from a non-ASCII address");
pub(super) const TOO_BIG: Answer = Answer::fixed(552, "5.3.4", "Message size exceeds fixed limit");

impl Transaction {
    /// MAIL.
    pub(super) fn begin(
        common: &Common,
        path: Path,
        parameters: MailParameters,
        policy: &impl Policy,
    ) -> Result<Transaction, Answer> {
        let reverse_path = match path {
            Path::Null => ReversePath::Null,
            Path::Local(name) => ReversePath::Address(qualified(common, &name)?),
            Path::Mailbox(address) => ReversePath::Address(address),
            Path::Postmaster => ReversePath::Address(postmaster(common)?),
        };
        if !parameters.smtputf8 && reverse_path.address().is_some_and(Address::needs_smtputf8) {
            return Err(SMTPUTF8_FIRST);
        }
        if parameters.size.is_some_and(|size| size > common.terms.limits.message_size_max as u64) {
            return Err(TOO_BIG);
        }
        let release_at = match parameters.hold {
            Some(hold) => Some(release_at(common, hold, policy.now())?),
            None => None,
        };
        policy.sender(common.login.as_deref(), &reverse_path)?;
        // From strangers comes what was said of our mail, whoever says it.
        if common.may_relay().is_ok() {
            policy.access(&reverse_path)?;
        }
        Ok(Transaction { reverse_path, parameters, release_at, recipients: Vec::new(), beyond: 0 })
    }

    /// RCPT: the one place that decides about a recipient.
    fn recipient(
        &mut self,
        common: &Common,
        path: Path,
        parameters: RcptParameters,
        policy: &impl Policy,
    ) -> Result<(), Answer> {
        let address = match path {
            Path::Null => return Err(Answer::fixed(501, "5.1.3", "Bad recipient: the address is missing")),
            Path::Mailbox(address) => address,
            Path::Local(name) => qualified(common, &name)?,
            Path::Postmaster => postmaster(common)?,
        };
        let is_ours = match common.may_relay() {
            Ok(()) => false,
            Err(denied) => {
                // Bounces and complaints come from anyone, to the port that the world sends to.
                let ours = (common.terms.mode == Mode::Smtp).then(|| policy.report_address(&address)).flatten();
                let denied = || Answer { text: format!("<{address}>: {}", denied.text).into(), ..denied.clone() };
                ours.unwrap_or_else(|| Err(denied()))?;
                true
            }
        };
        if !self.parameters.smtputf8 && address.needs_smtputf8() {
            return Err(SMTPUTF8_FIRST);
        }
        if self.recipients.len() >= common.terms.limits.recipients_max {
            return Err(Answer::fixed(452, "4.5.3", "Error: too many recipients; send the rest in another message"));
        }
        if !is_ours {
            policy.recipient(common.login.as_deref(), &address)?;
            policy.destination(&self.reverse_path, &address)?;
        }
        self.recipients.push((address, parameters.notify, parameters.original));
        Ok(())
    }

    /// MAIL FROM, for logs.
    pub(super) fn sender(&self) -> Box<str> {
        self.reverse_path.to_string().into()
    }

    /// The first recipient, for logs.
    fn first(&self) -> Option<Box<str>> {
        self.recipients.first().map(|(address, ..)| address.to_string().into())
    }

    /// Sender and first recipient, if anybody wants them.
    pub(super) fn named(&self, common: &Common) -> (Option<Box<str>>, Option<Box<str>>) {
        match common.keeps_refusals {
            true => (Some(self.sender()), self.first()),
            false => (None, None),
        }
    }

    /// Counts a recipient beyond the limit, and tells whether that is still no error.
    fn is_patient(&mut self, common: &Common) -> bool {
        self.beyond = self.beyond.saturating_add(1);
        self.beyond <= common.terms.limits.recipients_max
    }

    /// Whether there is somebody to send to.
    fn is_addressed(&self) -> Result<(), Answer> {
        match self.recipients.is_empty() {
            false => Ok(()),
            true => Err(Answer::fixed(554, "5.5.1", "Error: no valid recipients")),
        }
    }

    pub(super) fn complete(self, common: &Common, body: Vec<u8>) -> Message {
        let hello = common.hello.as_ref();
        Message {
            hello: hello.map(|hello| hello.name.clone()).unwrap_or_default(),
            protocol: self.protocol(common),
            reverse_path: self.reverse_path,
            ret: self.parameters.ret,
            envid: self.parameters.envid,
            release_at: self.release_at,
            recipients: self.recipients,
            body,
        }
    }

    fn protocol(&self, common: &Common) -> &'static str {
        let extended = common.hello.as_ref().is_some_and(|hello| hello.extended);
        let tls = common.link.security == super::Security::Tls;
        match (extended, self.parameters.smtputf8, tls, common.login.is_some()) {
            (false, ..) => "SMTP",
            (true, false, false, false) => "ESMTP",
            (true, false, false, true) => "ESMTPA",
            (true, false, true, false) => "ESMTPS",
            (true, false, true, true) => "ESMTPSA",
            (true, true, false, false) => "UTF8SMTP",
            (true, true, false, true) => "UTF8SMTPA",
            (true, true, true, false) => "UTF8SMTPS",
            (true, true, true, true) => "UTF8SMTPSA",
        }
    }
}

/// RFC 4865. A time that has passed is now: the client's clock may be behind.
fn release_at(common: &Common, hold: Hold, now: Timestamp) -> Result<Timestamp, Answer> {
    if !common.holds() {
        return Err(Answer::fixed(555, "5.5.4", "Unsupported parameter: HOLDFOR or HOLDUNTIL"));
    }
    let at = match hold {
        Hold::For(time) => now.after(time),
        Hold::Until(at) => at.max(now),
    };
    let most = common.terms.limits.hold_max;
    match at <= now.after(most) {
        true => Ok(at),
        false => {
            let text = format!("A message may be held for {} seconds at most", most.as_secs());
            Err(Answer::new(501, "5.5.4", text))
        }
    }
}

/// A name without a domain, of a client that we relay for.
fn qualified(common: &Common, name: &str) -> Result<Address, Answer> {
    common.may_relay().map_err(|denied| denied.clone())?;
    let origin = common.terms.origin.as_ref().unwrap_or(&common.terms.hostname);
    Address::new(name, origin.clone()).map_err(|_| Answer::fixed(501, "5.1.3", "Bad address: a name without a domain"))
}

/// `<postmaster>` is ours: RFC 5321 §4.5.1.
fn postmaster(common: &Common) -> Result<Address, Answer> {
    Address::new("postmaster", common.terms.hostname.clone())
        .map_err(|_| Answer::fixed(451, "4.3.0", "Error: no postmaster is known here"))
}

/// After MAIL.
#[derive(Debug)]
pub(super) struct ExpectRcpt(Transaction);

impl ExpectRcpt {
    pub(super) fn new(transaction: Transaction) -> ExpectRcpt {
        ExpectRcpt(transaction)
    }

    pub(super) fn sender(&self) -> Box<str> {
        self.0.sender()
    }

    pub(super) fn step(mut self, common: &mut Common, command: Command, behind: bool, policy: &impl Policy) -> State {
        match command {
            Command::Rcpt(path, parameters) => {
                let to = common.named(&path);
                match self.0.recipient(common, path, parameters, policy) {
                    Ok(()) => common.say(&Answer::fixed(250, "2.1.5", "Ok")),
                    Err(answer) => {
                        common.note_refused_recipient(answer.status);
                        let from = common.named(&self.0.reverse_path);
                        common.keep_refusal(&answer, from, to);
                        match answer.code {
                            // RFC 5321 §4.5.3.1.10: who has a long list takes this for "the rest later", which is no
                            // error. Who goes on for as many again is not reading our answers.
                            452 if self.0.is_patient(common) => {
                                common.tally.fail();
                                common.say(&answer);
                            }
                            _ => common.refuse(&answer),
                        }
                    }
                }
                State::Rcpt(self)
            }
            Command::Data => self.data(common, behind),
            Command::Bdat { size, last } => match self.0.is_addressed() {
                Ok(()) => {
                    let decoder = Decoder::for_chunks(common.terms.limits.message_size_max);
                    ExpectBdat::begun(self.0, decoder, size, last).begin(common)
                }
                Err(answer) => ExpectBdat::refused(size, answer, State::Rcpt(self)).begin(common),
            },
            Command::Mail(..) => self.refuse(common, Answer::fixed(503, "5.5.1", "Error: nested MAIL command")),
            Command::Auth { .. } => self
                .refuse(common, Answer::fixed(503, "5.5.1", "Error: AUTH is not permitted during a mail transaction")),
            Command::StartTls => self.refuse(
                common,
                Answer::fixed(503, "5.5.1", "Error: STARTTLS is not permitted during a mail transaction"),
            ),
            // Answered in every state alike.
            Command::Ehlo(_)
            | Command::Helo(_)
            | Command::Rset
            | Command::Noop
            | Command::Vrfy
            | Command::Help
            | Command::Quit => State::Rcpt(self),
        }
    }

    fn refuse(self, common: &mut Common, answer: Answer) -> State {
        common.refuse(&answer);
        State::Rcpt(self)
    }

    fn data(self, common: &mut Common, behind: bool) -> State {
        match self.0.is_addressed() {
            Ok(()) => {
                common.say(&Answer::fixed(354, "", "End data with <CR><LF>.<CR><LF>"));
                let decoder = Decoder::for_data(common.terms.limits.message_size_max);
                State::Text(ExpectText::new(self.0, decoder))
            }
            Err(answer) => common.refuse_data(State::Rcpt(self), &answer, behind),
        }
    }
}

/// Between two chunks.
#[derive(Debug)]
pub(super) struct ExpectChunk {
    pub(super) transaction: Transaction,
    pub(super) decoder: Decoder,
}

impl ExpectChunk {
    pub(super) fn step(self, common: &mut Common, command: Command, behind: bool) -> State {
        match command {
            Command::Bdat { size, last } => ExpectBdat::begun(self.transaction, self.decoder, size, last).begin(common),
            Command::Data => {
                let answer = Answer::fixed(503, "5.5.1", "Error: DATA after BDAT");
                common.refuse_data(State::Chunk(self), &answer, behind)
            }
            Command::Mail(..) | Command::Rcpt(..) | Command::Auth { .. } | Command::StartTls => {
                self.refuse(common, Answer::fixed(503, "5.5.1", "Error: only BDAT may follow BDAT; RSET to start over"))
            }
            // Answered in every state alike.
            Command::Ehlo(_)
            | Command::Helo(_)
            | Command::Rset
            | Command::Noop
            | Command::Vrfy
            | Command::Help
            | Command::Quit => State::Chunk(self),
        }
    }

    fn refuse(self, common: &mut Common, answer: Answer) -> State {
        common.refuse(&answer);
        State::Chunk(self)
    }
}

/// The state after a transaction came to its end, one way or the other.
pub(super) fn over() -> State {
    State::Mail(ExpectMail)
}
