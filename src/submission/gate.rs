//! Where messages go: the door, or a test's stand-in for it.

use crate::accept::{Door, Receipt, Refusal, Submission};
use crate::clock::Clock;
use crate::credential::Credentials;
use crate::mail::{Address, QueueId, ReversePath};
use crate::maillog::Maillog;
use crate::smtp::answer::Answer;
use crate::smtp::session::{Policy, Proof};
use crate::time::Timestamp;

use super::Suppressed;

/// What takes messages over.
pub trait Gate: Clone + Send + Sync + 'static {
    /// Proof that a message is kept; the door's holds a `DurableSeq`.
    type Receipt: Proof + Send;

    /// Whether a credential (`None`: a trusted network) may use this envelope sender.
    ///
    /// # Errors
    /// The refusal to answer.
    fn check_sender(&self, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal>;

    /// Whether a credential may send at all.
    ///
    /// # Errors
    /// The refusal to answer.
    fn check_suspended(&self, _credential: Option<&str>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Why a credential may not log in for now, for the log; its client is told less.
    fn why_suspended(&self, _credential: &str) -> Option<String> {
        None
    }

    /// Whether mail of a credential, or of a listener without one, may go to this recipient: asked where the listener
    /// refuses those that are suppressed.
    ///
    /// # Errors
    /// The refusal to answer.
    fn check_recipient(
        &self,
        _credential: Option<&str>,
        _listener_stream: Option<&str>,
        _address: &Address,
        _now: Timestamp,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// What the operator's tables say of an envelope sender.
    ///
    /// # Errors
    /// The refusal to answer.
    fn check_access(&self, _path: &ReversePath) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether somebody is meant by a recipient, and no route refuses it.
    ///
    /// # Errors
    /// The refusal to answer.
    fn check_destination(&self, _path: &ReversePath, _address: &Address, _now: Timestamp) -> Result<(), Refusal> {
        Ok(())
    }

    /// Whether anyone may send mail to this address, since it is one of ours. `None`: it is not.
    fn check_report_address(&self, _address: &Address, _now: Timestamp) -> Option<Result<(), Refusal>> {
        None
    }

    /// The log in the classic form.
    fn maillog(&self) -> Maillog {
        Maillog::default()
    }

    /// Takes a message over.
    ///
    /// # Errors
    /// The refusal to answer; nothing was kept.
    fn accept(&self, submission: Submission) -> impl Future<Output = Result<Self::Receipt, Refusal>> + Send;
}

impl Gate for Door {
    type Receipt = Receipt;

    fn maillog(&self) -> Maillog {
        self.events().maillog().clone()
    }

    fn check_sender(&self, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal> {
        Door::check_sender(self, credential, path)
    }

    fn check_suspended(&self, credential: Option<&str>) -> Result<(), Refusal> {
        Door::check_suspended(self, credential)
    }

    fn why_suspended(&self, credential: &str) -> Option<String> {
        self.harm().why_suspended(credential)
    }

    fn check_recipient(
        &self,
        credential: Option<&str>,
        listener_stream: Option<&str>,
        address: &Address,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        Door::check_recipient(self, credential, listener_stream, address, now)
    }

    fn check_access(&self, path: &ReversePath) -> Result<(), Refusal> {
        Door::check_access(self, path)
    }

    fn check_destination(&self, path: &ReversePath, address: &Address, now: Timestamp) -> Result<(), Refusal> {
        Door::check_destination(self, path, address, now)
    }

    fn check_report_address(&self, address: &Address, now: Timestamp) -> Option<Result<(), Refusal>> {
        Door::check_report_address(self, address, now)
    }

    async fn accept(&self, submission: Submission) -> Result<Receipt, Refusal> {
        Door::accept(self, submission).await
    }
}

impl Proof for Receipt {
    fn id(&self) -> QueueId {
        self.id
    }
}

/// The session's view of a gate.
pub(super) struct GatePolicy<'a, G> {
    pub(super) gate: &'a G,
    pub(super) credentials: &'a Credentials,
    pub(super) clock: &'a Clock,
    pub(super) suppressed: Suppressed,
    pub(super) listener_stream: Option<&'a str>,
}

/// Sessions are long-lived; a credential switched off or removed must not send on in one.
const WITHDRAWN: Answer = Answer::fixed(535, "5.7.8", "This credential is no longer valid");

impl<G: Gate> Policy for GatePolicy<'_, G> {
    fn sender(&self, login: Option<&str>, path: &ReversePath) -> Result<(), Answer> {
        if login.is_some_and(|name| !self.credentials.is_enabled(name)) {
            return Err(WITHDRAWN);
        }
        self.gate.check_sender(login, path).map_err(answer)
    }

    fn recipient(&self, login: Option<&str>, address: &Address) -> Result<(), Answer> {
        if login.is_some_and(|name| !self.credentials.is_enabled(name)) {
            return Err(WITHDRAWN);
        }
        self.gate.check_suspended(login).map_err(answer)?;
        match self.suppressed {
            Suppressed::Reported => Ok(()),
            Suppressed::Refused => {
                self.gate.check_recipient(login, self.listener_stream, address, self.clock.now()).map_err(answer)
            }
        }
    }

    fn access(&self, path: &ReversePath) -> Result<(), Answer> {
        self.gate.check_access(path).map_err(answer)
    }

    fn destination(&self, path: &ReversePath, address: &Address) -> Result<(), Answer> {
        self.gate.check_destination(path, address, self.clock.now()).map_err(answer)
    }

    fn report_address(&self, address: &Address) -> Option<Result<(), Answer>> {
        Some(self.gate.check_report_address(address, self.clock.now())?.map_err(answer))
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// A refusal as a reply.
pub(super) fn answer(refusal: Refusal) -> Answer {
    Answer::new(refusal.code, refusal.status, refusal.text)
}
