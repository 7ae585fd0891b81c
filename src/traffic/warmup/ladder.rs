//! The ladder of one (source, provider): which stage, how much is left of today, and what comes next.
//!
//! ```text
//!   roll(day): judges the day that ended
//!     blocked ............. back to half the budget at once, and frozen for the rest of the day and the next
//!     deferred > 5 % ...... one stage back
//!     under half attempted  no sending day: stays
//!     delivered < 90 %, or deferred over 2 %: stays
//!     else ................ next stage; after the last one: warm
//!   30 days without mail: a third of the stage
//! ```
//! What is granted must be durable first: [`Ladder::record`] says more than was spent, and marketing mail stops there
//! until [`Ladder::keep`] says that a new record is safe. A crash so loses allowance and never gives it twice.

use super::curve::Curve;
use super::day::Day;
use super::pace::{self, Pace};
use crate::time::Timestamp;

/// A stage falls to a third after so many days without mail: SendGrid asks to warm up anew after 30.
pub(super) const IDLE_DAYS: u32 = 30;
/// A day is frozen with the one after it.
const FROZEN_DAYS: u32 = 2;
/// Parts of a budget that are made durable at once. Smaller ones write more, larger ones lose more in a crash.
const PARTS: u32 = 64;
/// Least messages that are made durable at once.
const PART_LEAST: u32 = 4;

/// What kind of mail asks. Transactional mail never waits here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Goes whatever is left of the budget, and is counted.
    Transactional,
    /// Goes within the budget.
    Marketing,
}

/// What marketing mail may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// So many messages, at once.
    pub now: u32,
    /// When to ask again, if none. `None`: after [`Ladder::roll`] or [`Ladder::keep`].
    pub next_at: Option<Timestamp>,
    /// What bounds it.
    pub because: Because,
}

/// What bounds an allowance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Because {
    /// Nothing: warmed up.
    Warm,
    /// The rest of the day's budget is spread over the rest of the send hours.
    Spread,
    /// An eighth of the budget went in the last hour.
    Hour,
    /// The day's budget is used.
    Budget,
    /// Not within the send hours.
    Hours,
    /// The provider blocked the source.
    Frozen,
    /// The next part of the budget is not durable yet: write the record.
    Unkept,
    /// The day is over, or was never told: roll.
    NoDay,
}

/// What a day was, or would be if it ended now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Judgement {
    /// The first day: nothing to judge.
    New = 0,
    /// Under half the budget was attempted: the stage stays.
    NotASendingDay = 1,
    /// On to the next stage.
    Passed = 2,
    /// Under 90 % delivered: the stage stays.
    TooFewDelivered = 3,
    /// Over 2 % deferred for reputation: the stage stays.
    Deferred = 4,
    /// Over 5 % deferred for reputation: one stage back.
    ManyDeferred = 5,
    /// Blocked: back to half the budget, and frozen.
    Blocked = 6,
    /// Would have passed, but the operator holds the stage.
    Held = 7,
    /// No mail for 30 days: a third of the stage.
    Idle = 8,
    /// An operator set the stage.
    Set = 9,
    /// The record was damaged, or the clock was set back by days: nothing more today.
    Unknown = 10,
}

impl Judgement {
    pub(super) fn from_byte(byte: u8) -> Option<Judgement> {
        use Judgement::*;
        let all =
            [New, NotASendingDay, Passed, TooFewDelivered, Deferred, ManyDeferred, Blocked, Held, Idle, Set, Unknown];
        all.into_iter().find(|judgement| *judgement as u8 == byte)
    }
}

/// A ladder as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// Counted from 0.
    pub stage: u16,
    /// Messages today. `None`: warm.
    pub budget: Option<u32>,
    /// Messages charged to the budget today: those attempted, and what a crash lost of it.
    pub used: u32,
    /// Messages attempted today.
    pub attempted: u32,
    /// Of these, taken by the provider.
    pub delivered: u32,
    /// Deferred for our reputation.
    pub deferred: u32,
    /// Replies that say that the source is blocked.
    pub blocks: u16,
    /// Transactional messages that went though marketing mail could not.
    pub over: u32,
    /// Whether the operator holds the stage.
    pub held: bool,
    /// The day on which a freeze ends, if there is one.
    pub frozen_until: Option<u32>,
    /// How the stage came about.
    pub last: Judgement,
    /// What today would be judged if it ended now.
    pub outlook: Judgement,
}

/// What a record said when it was written. Given back when it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Kept {
    day: u32,
    ahead: u32,
    changes: u32,
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ladder {
    pub(super) stage: u16,
    pub(super) day: u32,
    /// `None`: warm.
    pub(super) budget: Option<u32>,
    /// Messages granted today, and what crashes lost.
    pub(super) charged: u32,
    /// Of these, what was never sent, or nobody knows how it ended.
    pub(super) waste: u32,
    pub(super) delivered: u32,
    pub(super) deferred: u32,
    pub(super) blocks: u16,
    pub(super) over: u32,
    /// The last day with mail; 0: none yet.
    pub(super) last_day: u32,
    /// The first day that is not frozen.
    pub(super) frozen_until: u32,
    pub(super) held: bool,
    /// Nothing is known of today: it counts as used.
    pub(super) blind: bool,
    pub(super) last: Judgement,
    pub(super) pace: Pace,
    /// `charged` may go so far: this is durable.
    pub(super) ahead: u32,
    /// What a record must say that the last one did not.
    pub(super) changes: u32,
    pub(super) kept_changes: u32,
    pub(super) bounds: Option<Day>,
}

impl Default for Ladder {
    fn default() -> Self {
        Ladder::new()
    }
}

impl Ladder {
    /// At the foot. Without a day: [`Ladder::roll`] comes first.
    pub fn new() -> Ladder {
        Ladder {
            stage: 0,
            day: 0,
            budget: Some(0),
            charged: 0,
            waste: 0,
            delivered: 0,
            deferred: 0,
            blocks: 0,
            over: 0,
            last_day: 0,
            frozen_until: 0,
            held: false,
            blind: false,
            last: Judgement::New,
            pace: Pace::default(),
            ahead: 0,
            changes: 1,
            kept_changes: 0,
            bounds: None,
        }
    }

    /// Begins a day, and judges the one before. Idempotent within a day. `usual`: see [`Curve::budget`].
    pub fn roll(&mut self, day: Day, curve: &Curve, usual: u32) {
        if day.number == self.day {
            self.bounds = Some(day);
            if self.blind {
                self.begin(day, curve, usual);
            }
            return;
        }
        // A clock set back across midnight: the day that it was goes on. Set back by more, a date was wrong, and
        // nobody knows what was sent on this one.
        if day.number < self.day {
            if self.day - day.number == 1 {
                return;
            }
            (self.blind, self.last) = (true, Judgement::Unknown);
            (self.last_day, self.frozen_until) = (self.last_day.min(day.number), 0);
            return self.begin(day, curve, usual);
        }
        if self.day != 0 && !self.blind {
            self.climb(day.number, curve);
        }
        self.begin(day, curve, usual);
    }

    fn climb(&mut self, today: u32, curve: &Curve) {
        let judgement = self.judge();
        match judgement {
            Judgement::Passed => self.stage = self.stage.saturating_add(1),
            Judgement::ManyDeferred => self.stage = self.stage.saturating_sub(1),
            _ => {}
        }
        self.stage = self.stage.min(curve.stages());
        // No mail for long is what the operator reads next to the stage, and a day without mail else says nothing new.
        if judgement != Judgement::NotASendingDay || self.attempted() > 0 {
            self.last = judgement;
        }
        let idle = if self.last_day == 0 { 0 } else { (today - self.last_day.min(today)) / IDLE_DAYS };
        if idle > 0 && self.stage > 0 {
            self.stage = (0..idle.min(16)).fold(self.stage, |stage, _| stage / 3);
            self.last = Judgement::Idle;
            // The next thirty days are counted from here.
            self.last_day = today;
        }
    }

    fn begin(&mut self, day: Day, curve: &Curve, usual: u32) {
        let budget = curve.budget(self.stage, usual);
        self.day = day.number;
        self.bounds = Some(day);
        self.budget = budget;
        self.charged = if self.blind { budget.unwrap_or(0) } else { 0 };
        self.waste = self.charged;
        (self.delivered, self.deferred, self.blocks, self.over, self.ahead) = (0, 0, 0, 0, 0);
        self.blind = false;
        self.changed();
    }

    /// What today would be judged if it ended now.
    pub fn judge(&self) -> Judgement {
        let attempted = u64::from(self.attempted());
        let (delivered, deferred) = (u64::from(self.delivered), u64::from(self.deferred));
        let budget = match self.budget {
            // What is warm stays warm: from here on limits and backoff answer the provider.
            None => return Judgement::NotASendingDay,
            Some(budget) => u64::from(budget),
        };
        if self.blocks > 0 || self.frozen_until > self.day {
            Judgement::Blocked
        // Single messages are no shares: two of a day of twenty are 10 %, and say nothing.
        } else if deferred > 2 && deferred * 20 > attempted {
            Judgement::ManyDeferred
        } else if attempted == 0 || attempted * 2 < budget {
            Judgement::NotASendingDay
        } else if deferred > 1 && deferred * 50 > attempted {
            Judgement::Deferred
        } else if delivered * 10 < attempted * 9 {
            Judgement::TooFewDelivered
        } else if self.held {
            Judgement::Held
        } else {
            Judgement::Passed
        }
    }

    /// What marketing mail may do now. Allocates nothing; a few dozen additions.
    pub fn allowance(&self, now: Timestamp) -> Allowance {
        let wait = |next_at, because| Allowance { now: 0, next_at, because };
        let Some(budget) = self.budget else {
            return Allowance { now: u32::MAX, next_at: None, because: Because::Warm };
        };
        let Some(day) = self.bounds.filter(|day| now < day.ends) else { return wait(None, Because::NoDay) };
        if self.frozen_until > day.number {
            return wait(Some(day.ends), Because::Frozen);
        }
        let rest = budget.saturating_sub(self.charged);
        if rest == 0 {
            return wait(Some(day.ends), Because::Budget);
        }
        if now < day.opens {
            return wait(Some(day.opens), Because::Hours);
        }
        if now >= day.closes {
            return wait(Some(day.ends), Because::Hours);
        }
        let slot = pace::slot_of(now).max(self.pace.latest());
        let eighth = budget.div_ceil(8);
        let room = eighth.saturating_sub(self.pace.hour(slot));
        if room == 0 {
            let later = pace::start_of(self.pace.room_at(slot, eighth));
            return wait(Some(later.min(day.ends)), Because::Hour);
        }
        let (spread, next) = self.spread(slot, rest, day.closes);
        if spread == 0 {
            return wait(Some(pace::start_of(next).min(day.ends)), Because::Spread);
        }
        let kept = self.ahead.saturating_sub(self.charged);
        match spread.min(room).min(rest).min(kept) {
            0 => wait(None, Because::Unkept),
            now => Allowance { now, next_at: None, because: Because::Spread },
        }
    }

    /// A slot's part of what is left, and the slot to come for more.
    fn spread(&self, slot: u32, rest: u32, closes: Timestamp) -> (u32, u32) {
        let until_close = closes.since(pace::start_of(slot)).as_millis().div_ceil(pace::SLOT.as_millis());
        let left = u32::try_from(until_close).unwrap_or(u32::MAX).max(1);
        let in_slot = self.pace.of(slot);
        let rest = rest.saturating_add(in_slot);
        match rest.checked_div(left).filter(|part| *part > 0) {
            Some(part) => (part.saturating_sub(in_slot), slot + 1),
            // Fewer messages than slots: one in every so many.
            None => {
                let next = self.pace.latest().saturating_add(left / rest.max(1));
                (u32::from(slot >= next), next)
            }
        }
    }

    /// Messages were granted. Marketing: no more than [`Ladder::allowance`] said.
    pub fn spend(&mut self, now: Timestamp, kind: Kind, count: u32) {
        if kind == Kind::Transactional && self.budget.is_some() {
            self.over = self.over.saturating_add(count.saturating_sub(self.allowance(now).now));
        }
        self.charged = self.charged.saturating_add(count);
        self.pace.add(pace::slot_of(now), count);
        self.last_day = self.day;
    }

    /// Messages were granted in the slot of this moment, and not sent: no MAIL was written.
    pub fn refund(&mut self, granted_at: Timestamp, count: u32) {
        // What a crash lost stays lost.
        self.charged = self.charged.saturating_sub(count).max(self.waste);
        self.pace.remove(pace::slot_of(granted_at), count);
    }

    /// The provider took messages.
    pub fn delivered(&mut self, count: u32) {
        self.delivered = self.delivered.saturating_add(count);
    }

    /// The provider put messages off because of our reputation.
    pub fn deferred_for_reputation(&mut self, count: u32) {
        self.deferred = self.deferred.saturating_add(count);
    }

    /// A connection was lost between the dot and its reply: it is charged, and counts neither for us nor against us.
    pub fn uncertain(&mut self, count: u32) {
        self.waste = self.waste.saturating_add(count).min(self.charged);
    }

    /// The provider says that the source is blocked or listed. The first time back to half the budget; marketing mail
    /// stops for the rest of the day and all of the next.
    pub fn blocked(&mut self, curve: &Curve, usual: u32) {
        self.blocks = self.blocks.saturating_add(1);
        if self.budget.is_some() && self.frozen_until <= self.day {
            self.stage = curve.half(self.stage.min(curve.stages()), usual);
            self.frozen_until = self.day.saturating_add(FROZEN_DAYS);
            self.last = Judgement::Blocked;
            self.changed();
        }
    }

    /// Keeps the stage however well days go; it still falls.
    pub fn hold(&mut self) {
        self.held = true;
        self.changed();
    }

    /// Climbs again.
    pub fn resume(&mut self) {
        (self.held, self.frozen_until) = (false, 0);
        self.changed();
    }

    /// To the next stage, today.
    pub fn skip(&mut self, curve: &Curve, usual: u32) {
        self.set(self.stage.saturating_add(1), curve, usual);
    }

    /// To a stage, today. What was used stays used; what was frozen stays so until [`Ladder::resume`].
    pub fn set(&mut self, stage: u16, curve: &Curve, usual: u32) {
        self.stage = stage.min(curve.stages());
        self.budget = curve.budget(self.stage, usual);
        self.last = Judgement::Set;
        self.changed();
    }

    /// Whether a new record should be written: half of what is durable is spent, or it says something else.
    pub fn record_due(&self) -> bool {
        let spent = self.budget.is_some() && self.ahead.saturating_sub(self.charged) * 2 < self.part();
        spent || self.changes != self.kept_changes
    }

    /// A record that holds until a further part of the budget is spent. When it is durable: [`Ladder::keep`].
    pub fn record(&self) -> ([u8; super::RECORD_BYTES], Kept) {
        let part = if self.budget.is_some() { self.part() } else { 0 };
        let ahead = self.charged.saturating_add(part).max(self.ahead);
        (self.write(ahead - self.charged), Kept { day: self.day, ahead, changes: self.changes })
    }

    /// The record of a clean stop: nothing ahead. Nothing may be granted after it.
    pub fn record_at_stop(&self) -> [u8; super::RECORD_BYTES] {
        self.write(0)
    }

    /// A record is durable.
    pub fn keep(&mut self, kept: Kept) {
        self.kept_changes = kept.changes;
        if kept.day == self.day {
            self.ahead = self.ahead.max(kept.ahead);
        }
    }

    /// For listings.
    pub fn view(&self) -> View {
        View {
            stage: self.stage,
            budget: self.budget,
            used: self.charged,
            attempted: self.attempted(),
            delivered: self.delivered,
            deferred: self.deferred,
            blocks: self.blocks,
            over: self.over,
            held: self.held,
            frozen_until: Some(self.frozen_until).filter(|until| *until > self.day),
            last: self.last,
            outlook: self.judge(),
        }
    }

    pub(super) fn attempted(&self) -> u32 {
        self.charged.saturating_sub(self.waste)
    }

    fn part(&self) -> u32 {
        (self.budget.unwrap_or(0) / PARTS).max(PART_LEAST)
    }

    fn changed(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
