//! Where messages go: the door, or a test's stand-in for it.

use crate::accept::{Door, Receipt, Refusal, Submission};
use crate::clock::Clock;
use crate::credential::Credentials;
use crate::mail::{QueueId, ReversePath};
use crate::smtp::answer::Answer;
use crate::smtp::session::{Policy, Proof};
use crate::time::Timestamp;

/// What takes messages over.
pub trait Gate: Clone + Send + Sync + 'static {
    /// Proof that a message is kept; the door's holds a `DurableSeq`.
    type Receipt: Proof + Send;

    /// Whether a credential (`None`: a trusted network) may use this envelope sender.
    ///
    /// # Errors
    /// The refusal to answer.
    fn check_sender(&self, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal>;

    /// Takes a message over.
    ///
    /// # Errors
    /// The refusal to answer; nothing was kept.
    fn accept(&self, submission: Submission) -> impl Future<Output = Result<Self::Receipt, Refusal>> + Send;
}

impl Gate for Door {
    type Receipt = Receipt;

    fn check_sender(&self, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal> {
        Door::check_sender(self, credential, path)
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

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// A refusal as a reply.
pub(super) fn answer(refusal: Refusal) -> Answer {
    Answer::new(refusal.code, refusal.status, refusal.text)
}
