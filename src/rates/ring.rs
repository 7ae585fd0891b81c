//! Counts over the last hour, day and week: rings of slots.
//!
//! | span | slots | is exact to |
//! |---|---|---|
//! | hour | 13 of 5 minutes | the last 60 to 65 minutes |
//! | day | 25 of an hour | the last 24 to 25 hours |
//! | week | 8 of a day, in UTC | today and the 7 days before |
//!
//! A complaint is counted in the slots of when its message was delivered, the rest in those of when it was heard.

use std::time::Duration;

use super::Became;
use crate::time::Timestamp;

/// How far back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// Sixty minutes.
    Hour,
    /// Twenty-four hours.
    Day,
    /// Seven days, and today.
    Week,
}

impl Span {
    /// Every one.
    pub const ALL: [Span; 3] = [Span::Hour, Span::Day, Span::Week];

    /// The word in listings.
    pub fn name(self) -> &'static str {
        match self {
            Span::Hour => "hour",
            Span::Day => "day",
            Span::Week => "week",
        }
    }

    const fn slots(self) -> (u64, usize) {
        match self {
            Span::Hour => (300, 13),
            Span::Day => (3600, 25),
            Span::Week => (86_400, 8),
        }
    }
}

/// Recipients, by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Taken by the peer.
    pub delivered: u64,
    /// Attempts that ended in "later".
    pub deferred: u64,
    /// They do not exist.
    pub bounced: u64,
    /// Of the bounced, those that nothing was delivered to of late.
    pub strangers: u64,
    /// They called it spam.
    pub complained: u64,
    /// Of the delivered, those at providers that send complaints.
    pub feedback: u64,
}

impl Counts {
    const FIELDS: usize = 6;

    pub(super) fn count(&mut self, became: Became) {
        match became {
            Became::Delivered { feedback } => {
                self.delivered += 1;
                self.feedback += u64::from(feedback);
            }
            Became::Deferred => self.deferred += 1,
            Became::Bounced { stranger } => {
                self.bounced += 1;
                self.strangers += u64::from(stranger);
            }
            Became::Complained { .. } => self.complained += 1,
        }
    }

    fn add(&mut self, other: &Counts) {
        let own = self.fields_mut();
        own.into_iter().zip(other.fields()).for_each(|(own, other)| *own = own.saturating_add(other));
    }

    fn fields(&self) -> [u64; Counts::FIELDS] {
        [self.delivered, self.deferred, self.bounced, self.strangers, self.complained, self.feedback]
    }

    fn fields_mut(&mut self) -> [&mut u64; Counts::FIELDS] {
        let Counts { delivered, deferred, bounced, strangers, complained, feedback } = self;
        [delivered, deferred, bounced, strangers, complained, feedback]
    }

    /// Recipients that were delivered to or do not exist.
    pub fn answers(&self) -> u64 {
        self.delivered + self.bounced
    }

    /// What part of the answers do not exist, and how many answers there are.
    pub fn bounce_share(&self) -> (f64, u64) {
        (self.bounced as f64 / self.answers().max(1) as f64, self.answers())
    }

    /// What part of the deliveries at providers that send complaints was complained about, and how many those are.
    pub fn complaint_share(&self) -> (f64, u64) {
        (self.complained as f64 / self.feedback.max(1) as f64, self.feedback)
    }
}

#[derive(Clone, PartialEq, Debug)]
struct Ring {
    span: Span,
    slots: Box<[Counts]>,
    /// The number of the newest slot, counted from 1970.
    head: u64,
}

impl Ring {
    fn new(span: Span, now: Timestamp) -> Ring {
        let (length, slots) = span.slots();
        Ring { span, slots: vec![Counts::default(); slots].into(), head: now.as_secs() / length }
    }

    fn number(&self, at: Timestamp) -> u64 {
        at.as_secs() / self.span.slots().0
    }

    fn count(&mut self, became: Became, at: Timestamp, now: Timestamp) {
        let (number, newest, slots) = (self.number(at), self.number(now), self.slots.len() as u64);
        if newest > self.head {
            for passed in self.head.max(newest.saturating_sub(slots)) + 1..=newest {
                self.slots[(passed % slots) as usize] = Counts::default();
            }
            self.head = newest;
        }
        // A clock that was set back counts on in the newest slot; a complaint about older mail than this counts nowhere.
        let number = if number > self.head || at >= now { self.head } else { number };
        if self.head - number < slots {
            self.slots[(number % slots) as usize].count(became);
        }
    }

    /// The slots that are not over, the newest first.
    fn live(&self, now: Timestamp) -> impl Iterator<Item = &Counts> {
        let slots = self.slots.len() as u64;
        let newest = self.number(now).max(self.head);
        let oldest = newest.saturating_sub(slots - 1);
        let live = (oldest..=self.head).rev();
        live.map(move |number| &self.slots[(number % slots) as usize])
    }
}

/// The counts of one scope.
#[derive(Clone, PartialEq, Debug)]
pub struct Windows {
    rings: [Ring; 3],
    at: Timestamp,
    is_changed: bool,
}

impl Windows {
    pub(super) fn new(now: Timestamp) -> Windows {
        Windows { rings: Span::ALL.map(|span| Ring::new(span, now)), at: now, is_changed: false }
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    pub(super) fn count(&mut self, became: Became, now: Timestamp) {
        let at = match became {
            Became::Complained { delivered_at } => delivered_at,
            Became::Delivered { .. } | Became::Deferred | Became::Bounced { .. } => now,
        };
        self.rings.iter_mut().for_each(|ring| ring.count(became, at, now));
        (self.at, self.is_changed) = (self.at.max(now), true);
    }

    /// What was counted in a span.
    pub fn sum(&self, span: Span, now: Timestamp) -> Counts {
        let mut sum = Counts::default();
        let ring = self.rings.iter().find(|ring| ring.span == span);
        ring.into_iter().flat_map(|ring| ring.live(now)).for_each(|slot| sum.add(slot));
        sum
    }

    /// Each day of the week, the newest first.
    pub fn days(&self, now: Timestamp) -> impl Iterator<Item = Counts> {
        self.rings.iter().filter(|ring| ring.span == Span::Week).flat_map(move |ring| ring.live(now)).copied()
    }

    /// As it is kept, if it changed since this was asked last.
    ///
    /// ```text
    ///   0         1..9          each ring: head u64, each slot: six u32
    ///   | 1       | at, ms u64  | …
    /// ```
    /// Numbers are little-endian.
    pub(super) fn changed(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.is_changed).then(|| {
            let mut out = vec![1];
            out.extend_from_slice(&self.at.as_millis().to_le_bytes());
            for ring in &self.rings {
                out.extend_from_slice(&ring.head.to_le_bytes());
                for field in ring.slots.iter().flat_map(Counts::fields) {
                    out.extend_from_slice(&u32::try_from(field).unwrap_or(u32::MAX).to_le_bytes());
                }
            }
            out
        })
    }

    pub(super) fn read(record: &[u8]) -> Option<Windows> {
        let rest = record.strip_prefix(&[1])?;
        let (at, mut rest) = rest.split_first_chunk::<8>()?;
        let mut windows = Windows::new(Timestamp::from_millis(u64::from_le_bytes(*at)));
        for ring in &mut windows.rings {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            (ring.head, rest) = (u64::from_le_bytes(*head), tail);
            for field in ring.slots.iter_mut().flat_map(Counts::fields_mut) {
                let (number, tail) = rest.split_first_chunk::<4>()?;
                (*field, rest) = (u64::from(u32::from_le_bytes(*number)), tail);
            }
        }
        // Heads far off would make sums that loop for long.
        let sound = |ring: &Ring| ring.head == ring.number(windows.at);
        (rest.is_empty() && windows.rings.iter().all(sound)).then_some(windows)
    }

    /// How long ago it was heard of.
    pub fn idle(&self, now: Timestamp) -> Duration {
        now.since(self.at)
    }
}
