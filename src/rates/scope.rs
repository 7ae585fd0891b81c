//! Whose mail is counted together.

use std::fmt;

use super::Mail;
use crate::mail::Text;

/// Who sends: one credential on one stream, the smallest that can be paused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sender {
    /// Empty: trusted networks.
    pub credential: Text,
    /// The stream's name.
    pub stream: Text,
}

impl Sender {
    /// By its names.
    pub fn new(credential: &str, stream: &str) -> Sender {
        Sender { credential: credential.into(), stream: stream.into() }
    }

    pub(super) fn is(&self, credential: &str, stream: &str) -> bool {
        *self.credential == *credential && *self.stream == *stream
    }

    /// As [`Sender`] is shown: `shop/newsletter`, `/newsletter` without a credential.
    pub fn parse(text: &str) -> Option<Sender> {
        let (credential, stream) = text.rsplit_once('/')?;
        (!stream.is_empty()).then(|| Sender::new(credential, stream))
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.credential, self.stream)
    }
}

/// What is counted together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// One credential on one stream.
    Sender(Sender),
    /// A stream.
    Stream(Text),
    /// A credential.
    Credential(Text),
    /// A source.
    Source(Text),
    /// A sending domain.
    Domain(Text),
    /// A provider of recipients.
    Provider(Text),
}

impl Scope {
    /// All that a message counts for. What is not known is not counted.
    pub(super) fn of(mail: &Mail<'_>) -> impl Iterator<Item = Scope> {
        let all = [
            Scope::Sender(Sender::new(mail.credential, mail.stream)),
            Scope::Stream(mail.stream.into()),
            Scope::Credential(mail.credential.into()),
            Scope::Source(mail.source.into()),
            Scope::Domain(mail.domain.into()),
            Scope::Provider(mail.provider.into()),
        ];
        all.into_iter().filter(|scope| !scope.is_nameless())
    }

    pub(super) fn is_nameless(&self) -> bool {
        match self {
            Scope::Sender(sender) => sender.stream.is_empty(),
            Scope::Stream(name)
            | Scope::Credential(name)
            | Scope::Source(name)
            | Scope::Domain(name)
            | Scope::Provider(name) => name.is_empty(),
        }
    }

    /// The word in listings, JSON and records.
    pub fn kind(&self) -> &'static str {
        match self {
            Scope::Sender(_) => "sender",
            Scope::Stream(_) => "stream",
            Scope::Credential(_) => "credential",
            Scope::Source(_) => "source",
            Scope::Domain(_) => "domain",
            Scope::Provider(_) => "provider",
        }
    }

    /// Its name, in words.
    pub fn name(&self) -> String {
        match self {
            Scope::Sender(sender) => sender.to_string(),
            Scope::Stream(name)
            | Scope::Credential(name)
            | Scope::Source(name)
            | Scope::Domain(name)
            | Scope::Provider(name) => name.to_string(),
        }
    }

    /// Undoes [`Scope::kind`] and [`Scope::name`].
    pub fn read(kind: &str, name: &str) -> Option<Scope> {
        let scope = match kind {
            "sender" => Scope::Sender(Sender::parse(name)?),
            "stream" => Scope::Stream(name.into()),
            "credential" => Scope::Credential(name.into()),
            "source" => Scope::Source(name.into()),
            "domain" => Scope::Domain(name.into()),
            "provider" => Scope::Provider(name.into()),
            _ => return None,
        };
        (!scope.is_nameless()).then_some(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}
