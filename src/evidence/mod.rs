//! When what was said of an address is believed: facts and `now` in, what the suppression list shall say out. Pure.
//!
//! Called by `accept` for each reply and report about a recipient. It keeps nothing of an address but what the list keeps
//! anyway ([`Known`]); what it must know beside that are three facts ([`Circumstances`]): whether mail was delivered there
//! lately ([`Delivered`]), whether the site has a storm ([`Sites`]), and whether this message was counted before.
//! docs/SUPPRESSION.md has the rules with their reasons.
//!
//! ```text
//!   no mailbox ──┬─ delivered to lately ─┬─ site in a storm ─► pending, counts for nothing
//!                │                       └─ else ────────────► pending ── a day or more later ──────► believed
//!                └─ else ────────────────┬─ site in a storm ─► pending ── three days or more later ─► believed
//!                                        └─ else ───────────────────────────────────────────────────► believed
//!   a success drops what is pending, unless the site takes all mail first and reports later
//!   believed: 30 days, 90, 365, for good: a rung higher for each reply a day or more after the last that counted
//! ```

mod delivered;
mod storm;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::time::Timestamp;

pub use delivered::{Delivered, Seed};
pub use storm::{Answer, Share, Sites, Turn};

const DAY: Duration = Duration::from_secs(86_400);
/// Two replies that are less apart than this are one: mail that was on its way together, and most outages end within it.
const APART: Duration = DAY;
/// Over a storm the two are so far apart that both cannot be of one: a storm lasts three days at most ([`Sites`]). Who mails
/// the same dead list every week makes a storm each time.
const STORMS_APART: Duration = DAY.saturating_mul(3);
/// How long an address that does not exist is not written to, the first time it is found out, the second and the third;
/// then for good. SES's global list grows with each bounce as well; Postal's flat 30 days are our first.
const LADDER: [Duration; 3] = [DAY.saturating_mul(30), DAY.saturating_mul(90), DAY.saturating_mul(365)];
/// How long a pending entry waits for the next reply. As long as a delivery is remembered: without one since, a single
/// reply is enough anyway.
const PENDING_FOR: Duration = DAY.saturating_mul(90);
/// Soft: so many messages, over so long a time.
const SOFT_MESSAGES: u32 = 5;
const SOFT_OVER: Duration = DAY.saturating_mul(14);
/// How long a mailbox that was full or inactive for so long is left alone.
const SOFT_FOR: Duration = DAY.saturating_mul(30);
/// A soft count that nothing was added to for so long is forgotten.
const SOFT_PENDING_FOR: Duration = DAY.saturating_mul(60);

/// What a message found out about its recipient.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Said {
    /// There is no such mailbox: class *recipient invalid*, about this recipient alone.
    NoMailbox,
    /// The message ended undelivered, and the last that a peer said of it was that this mailbox is full or inactive. Also a
    /// report that there is no mailbox, where it names another than ours: a forwarder's.
    Unwilling,
    /// They called it spam.
    Complained,
    /// They want no more of it.
    Unsubscribed,
}

/// How it was heard. The tag stands before the words in the list's `evidence`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Means {
    /// In a storm: nothing was counted yet.
    Storm,
    /// By the peer's own reply.
    Reply,
    /// By a report that came later. The site takes all mail first, so that its taking some proves nothing.
    Report,
}

impl Means {
    /// Every one.
    pub const ALL: [Means; 3] = [Means::Storm, Means::Reply, Means::Report];

    /// The tag, which is part of the list's format.
    pub fn tag(self) -> &'static str {
        match self {
            Means::Storm => "storm",
            Means::Reply => "reply",
            Means::Report => "report",
        }
    }

    /// Evidence as it is kept: `reply: 550 5.1.1 no such user`.
    pub fn tagged(self, words: &str) -> String {
        format!("{}: {words}", self.tag())
    }

    /// Of evidence as it is kept. What has no tag of ours (an import, a person's note) was counted, and no success undoes
    /// it.
    pub fn of(evidence: &str) -> Means {
        let tag = evidence.split_once(": ").map(|(tag, _)| tag);
        Means::ALL.into_iter().find(|means| Some(means.tag()) == tag).unwrap_or(Means::Report)
    }
}

/// What the list knows of an address for one cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Of the first reply; while pending: of the first that counts.
    pub first_at: Timestamp,
    /// The last that counted.
    pub last_at: Timestamp,
    /// `None`: for good.
    pub expires_at: Option<Timestamp>,
    /// No mailbox: the rungs climbed. Soft: the messages. Else how often.
    pub hits: u32,
    /// Seen, not yet believed.
    pub pending: bool,
    /// How the first that counted was heard.
    pub means: Means,
}

impl Known {
    /// Whether it keeps mail back.
    pub fn blocks(&self, now: Timestamp) -> bool {
        !self.pending && self.is_alive(now)
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }

    fn is_older(&self, age: Duration, now: Timestamp) -> bool {
        now.since(self.first_at) >= age
    }

    /// Whether a message that was delivered there makes it void: it waits for proof, or its time is over; and the site is
    /// not one that takes all mail first and reports later.
    pub fn is_dropped_by_success(&self, now: Timestamp) -> bool {
        !self.blocks(now) && self.means != Means::Report
    }
}

/// What else must be known to judge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Circumstances {
    /// Mail was delivered to the address within 90 days; of a report: besides the message that it is about.
    pub delivered_lately: bool,
    /// The site says "no such mailbox" far more often than usual.
    pub storm: bool,
}

/// What the list shall say now. Equal to what it knows: there is nothing to write.
pub fn judge(known: Option<Known>, said: Said, means: Means, circumstances: Circumstances, now: Timestamp) -> Known {
    match said {
        Said::NoMailbox => no_mailbox(known, means, circumstances, now),
        Said::Unwilling => unwilling(known, means, now),
        Said::Complained | Said::Unsubscribed => for_good(known, means, now),
    }
}

fn no_mailbox(known: Option<Known>, means: Means, circumstances: Circumstances, now: Timestamp) -> Known {
    let until = Some(now.after(PENDING_FOR));
    if circumstances.storm {
        let seen =
            Known { first_at: now, last_at: now, expires_at: until, hits: 0, pending: true, means: Means::Storm };
        // What is believed stays so, and what counts already counts on.
        return match known.filter(|known| !known.pending || known.is_alive(now)) {
            Some(first) if !circumstances.delivered_lately && first.is_older(STORMS_APART, now) => {
                match first.blocks(now) {
                    true => again(first, now),
                    false => believe(known, first.hits, first.means.max(means), now),
                }
            }
            Some(first) if first.pending && first.means == Means::Storm => Known { expires_at: until, ..first },
            Some(known) => known,
            None => seen,
        };
    }
    let known = match known {
        Some(known) if known.blocks(now) => return again(known, now),
        known => known,
    };
    let counted = known.filter(|known| known.pending && known.is_alive(now) && known.means != Means::Storm);
    let hits = known.map_or(0, |known| known.hits);
    // Who was found dead before, and took nothing since, says it a second time: a success would have dropped what the list
    // knows. Not so at a site that takes all mail first and reports later: there it must be said twice again.
    let is_second = hits > 0 && known.is_some_and(|known| known.means != Means::Report);
    match counted {
        _ if !circumstances.delivered_lately || is_second => believe(known, hits, means, now),
        Some(first) if first.is_older(APART, now) => believe(known, hits, first.means.max(means), now),
        Some(first) => Known { expires_at: later(first.expires_at, until), ..first },
        None => {
            let means = known.filter(|known| known.hits > 0).map_or(means, |known| known.means.max(means));
            Known { first_at: now, last_at: now, expires_at: until, hits, pending: true, means }
        }
    }
}

/// Believed, and once more than before.
fn believe(known: Option<Known>, hits: u32, means: Means, now: Timestamp) -> Known {
    let hits = hits.saturating_add(1);
    let first_at = known.map_or(now, |known| known.first_at);
    Known { first_at, last_at: now, expires_at: rung(hits, now), hits, pending: false, means }
}

/// It is believed already: mail that was on its way, or that somebody sent all the same. Never blocked for shorter by it.
fn again(known: Known, now: Timestamp) -> Known {
    let (hits, last_at) = match now.since(known.last_at) >= APART {
        true => (known.hits.saturating_add(1), now),
        false => (known.hits, known.last_at),
    };
    Known { hits, last_at, expires_at: later(known.expires_at, rung(hits, now)), ..known }
}

/// Until when the rung blocks. `None`: for good.
fn rung(hits: u32, now: Timestamp) -> Option<Timestamp> {
    LADDER.get(hits.max(1) as usize - 1).map(|wait| now.after(*wait))
}

fn unwilling(known: Option<Known>, means: Means, now: Timestamp) -> Known {
    // One whose time is over counts on: without a success since, the next message confirms it.
    let counted = known.filter(|known| known.blocks(now) || now.since(known.last_at) < SOFT_PENDING_FOR);
    let Some(known) = counted else {
        let expires_at = Some(now.after(SOFT_PENDING_FOR));
        return Known { first_at: now, last_at: now, expires_at, hits: 1, pending: true, means };
    };
    let (hits, means) = (known.hits.saturating_add(1), known.means.max(means));
    let is_enough = hits >= SOFT_MESSAGES && now.since(known.first_at) >= SOFT_OVER;
    match known.blocks(now) || is_enough {
        true => {
            let until = later(known.expires_at.filter(|_| !known.pending).or(Some(now)), Some(now.after(SOFT_FOR)));
            Known { hits, means, last_at: known.last_at.max(now), expires_at: until, pending: false, ..known }
        }
        false => {
            let expires_at = Some(now.after(SOFT_PENDING_FOR));
            Known { hits, means, last_at: known.last_at.max(now), expires_at, pending: true, ..known }
        }
    }
}

fn for_good(known: Option<Known>, means: Means, now: Timestamp) -> Known {
    let (first_at, hits) = known.map_or((now, 0), |known| (known.first_at, known.hits));
    Known { first_at, last_at: now, expires_at: None, hits: hits.saturating_add(1), pending: false, means }
}

/// The later of two ends; `None` is never.
fn later(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    Some(one?.max(other?))
}

/// Whether it would be believed even if the site turns out to have had a storm already.
pub fn holds_in_a_storm(known: Option<Known>, means: Means, circumstances: Circumstances, now: Timestamp) -> bool {
    judge(known, Said::NoMailbox, means, Circumstances { storm: true, ..circumstances }, now).blocks(now)
}

/// A belief that a storm was found out to be behind: seen, and counted for nothing.
pub fn doubted(known: Known, now: Timestamp) -> Known {
    let expires_at = Some(now.after(PENDING_FOR));
    Known { expires_at, hits: known.hits.saturating_sub(1), pending: true, means: Means::Storm, ..known }
}
