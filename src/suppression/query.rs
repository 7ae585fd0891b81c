//! What is looked for in the list: by whom it may be asked is the caller's business. Pure.

use super::entry::{Cause, Entry, Scope};
use super::key;
use crate::mail::Domain;
use crate::time::Timestamp;

/// Whether an entry stops mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It does.
    InForce,
    /// It is seen and not yet believed.
    Pending,
    /// Its time is over.
    Expired,
}

impl State {
    /// Every state.
    pub const ALL: [State; 3] = [State::InForce, State::Pending, State::Expired];

    /// Of an entry at a time.
    pub fn of(entry: &Entry, now: Timestamp) -> State {
        match (entry.is_expired(now), entry.pending) {
            (true, _) => State::Expired,
            (false, true) => State::Pending,
            (false, false) => State::InForce,
        }
    }

    /// The word in JSON, CSV, listings and parameters.
    pub fn name(self) -> &'static str {
        match self {
            State::InForce => "in_force",
            State::Pending => "pending",
            State::Expired => "expired",
        }
    }

    /// Reads what [`State::name`] writes; `-` for `_` too.
    pub fn parse(text: &str) -> Option<State> {
        let text = text.replace('-', "_");
        State::ALL.into_iter().find(|state| state.name() == text)
    }
}

/// Which entries are meant; what is `None` or empty leaves none out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// Of this cause.
    pub cause: Option<Cause>,
    /// Of exactly this scope.
    pub scope: Option<Scope>,
    /// Said by this site.
    pub site: Option<Box<str>>,
    /// Of addresses at this domain, and not those below it.
    pub domain: Option<Domain>,
    /// First put there at this time or later.
    pub since: Option<Timestamp>,
    /// First put there before this time.
    pub until: Option<Timestamp>,
    /// In this state.
    pub state: Option<State>,
}

impl Query {
    /// Whether it leaves nothing out.
    pub fn is_all(&self) -> bool {
        *self == Query::default()
    }

    pub(super) fn first_key(&self) -> Vec<u8> {
        self.domain.as_ref().map(key::domain_prefix).unwrap_or_default()
    }

    /// Whether nothing that is looked for comes at or after this key.
    pub(super) fn is_past(&self, key: &[u8]) -> bool {
        self.domain.as_ref().is_some_and(|domain| {
            let prefix = key::domain_prefix(domain);
            !key.starts_with(&prefix) && key > &prefix[..]
        })
    }

    /// Whether an entry is meant, its domain aside.
    pub(super) fn matches(&self, entry: &Entry, now: Timestamp) -> bool {
        self.cause.is_none_or(|cause| entry.cause == cause)
            && self.scope.as_ref().is_none_or(|scope| entry.scope == *scope)
            && self.site.as_ref().is_none_or(|site| entry.site == *site)
            && self.since.is_none_or(|since| entry.added_at >= since)
            && self.until.is_none_or(|until| entry.added_at < until)
            && self.state.is_none_or(|state| State::of(entry, now) == state)
    }
}
