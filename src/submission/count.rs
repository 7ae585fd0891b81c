//! What this room counts for metrics.

use std::sync::Arc;

use super::admission::Full;
use crate::metrics::count::{Counter, Open, Tally};
use crate::metrics::{Metric, Page};
use crate::smtp::session::Mode;

/// Counted since the start, and held now.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) open: Arc<Open>,
    admitted: Tally,
    refused: Tally,
    logins: Tally,
    refused_recipients: [Tally; 3],
    messages: [[Counter; MessageEnd::ALL.len()]; 3],
    pub(super) no_memory: Counter,
}

/// How an attempt to log in ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LoginEnd {
    Accepted,
    Rejected,
    /// With the right secret of a credential that is suspended.
    Suspended,
    /// There was no time to verify it.
    Busy,
}

/// What a client was told of a whole message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MessageEnd {
    Accepted,
    /// 4xx: it comes again.
    Deferred,
    /// 5xx.
    Refused,
}

impl MessageEnd {
    const ALL: [MessageEnd; 3] = [MessageEnd::Accepted, MessageEnd::Deferred, MessageEnd::Refused];

    fn name(self) -> &'static str {
        match self {
            MessageEnd::Accepted => "accepted",
            MessageEnd::Deferred => "deferred",
            MessageEnd::Refused => "refused",
        }
    }
}

const MODES: [Mode; 3] = [Mode::Submission, Mode::Submissions, Mode::Smtp];

fn name_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Submission => "submission",
        Mode::Submissions => "submissions",
        Mode::Smtp => "smtp",
    }
}

impl Counts {
    pub(super) fn admitted(&self, mode: Mode) {
        self.admitted.one(name_of(mode));
    }

    pub(super) fn refused_recipients(&self, mode: Mode, statuses: Vec<&'static str>) {
        let place = MODES.iter().position(|known| *known == mode);
        if let Some(tally) = place.and_then(|place| self.refused_recipients.get(place)) {
            statuses.into_iter().for_each(|status| tally.one(status));
        }
    }

    pub(super) fn message(&self, mode: Mode, end: MessageEnd) {
        let place = MODES.iter().position(|known| *known == mode);
        if let Some(counters) = place.and_then(|place| self.messages.get(place)) {
            counters[end as usize].one();
        }
    }

    pub(super) fn turned_away(&self, full: Full) {
        self.refused.one(match full {
            Full::All => "all",
            Full::Client => "client",
        });
    }

    pub(super) fn login(&self, end: LoginEnd) {
        self.logins.one(match end {
            LoginEnd::Accepted => "accepted",
            LoginEnd::Rejected => "rejected",
            LoginEnd::Suspended => "suspended",
            LoginEnd::Busy => "busy",
        });
    }

    pub(super) fn write(&self, page: &mut Page) {
        page.count(Metric::ClientsOpen, &[], self.open.read());
        for (metric, tally) in [
            (Metric::ClientsTotal, &self.admitted),
            (Metric::ClientsRefused, &self.refused),
            (Metric::Logins, &self.logins),
        ] {
            tally.all().iter().for_each(|(word, count)| page.count(metric, &[word], *count));
        }
        for (mode, tally) in MODES.iter().zip(&self.refused_recipients) {
            for (status, count) in tally.all() {
                page.count(Metric::RecipientsRefused, &[name_of(*mode), status], count);
            }
        }
        for (mode, counters) in MODES.iter().zip(&self.messages) {
            for end in MessageEnd::ALL {
                page.count(Metric::ListenerMessages, &[name_of(*mode), end.name()], counters[end as usize].read());
            }
        }
        page.count(Metric::BodyMemoryRefused, &[], self.no_memory.read());
    }
}
