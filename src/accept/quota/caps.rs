//! How much each recipient got lately on one stream: at what time may it get one message more? Pure; asked by the room
//! above.
//!
//! Bounded: the last [`EVENTS_MAX`] messages are known, each by a keyed hash of its recipient, and the oldest is forgotten
//! for the newest. So whoever sends more than that in the cap's time lets some recipients have more than their cap. Nobody
//! who had less is ever capped, unless two addresses have the same 64 bits, which nobody without the key can bring about,
//! and which chance does once in some 35 million tables.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::time::Timestamp;
use crate::traffic::{Rate, Rates};

/// Messages that are remembered for one stream. Some 20 MB once there are so many.
const EVENTS_MAX: usize = 1 << 19;
/// Messages of one recipient that are looked at: more than that cannot wait for it.
const OF_ONE_MAX: usize = 1000;

/// A message that was let in.
#[derive(Clone, Copy, Debug)]
struct Event {
    recipient: u64,
    /// When it may go; zero: it was given back.
    at: Timestamp,
    /// The number of the recipient's event before; `u64::MAX`: there is none.
    before: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Caps {
    /// Oldest first; the first one's number is `first`.
    events: VecDeque<Event>,
    first: u64,
    /// The number of each recipient's last event.
    newest: HashMap<u64, u64>,
}

/// What a cap says to one message more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CapRoom {
    /// At this time, if it is later than asked because of this window.
    At(Timestamp, Rate),
    /// [`OF_ONE_MAX`] messages wait for this recipient already, or count against it.
    Crowded(Rate),
}

impl Caps {
    /// The most that a cap may allow in one window: so many of one recipient are looked at.
    #[cfg(test)]
    pub(super) const OF_ONE_MAX: usize = OF_ONE_MAX;

    /// At what time, `from` or later, this recipient may get one more. `now` is when it is asked: what ended before counts
    /// no more. Nothing is taken.
    pub(super) fn room(&mut self, rates: Rates, recipient: u64, now: Timestamp, from: Timestamp) -> CapRoom {
        let longest = rates.iter().map(|rate| rate.per).max().unwrap_or_default();
        self.forget(now.before(longest));
        let Some(mut binding) = rates.iter().next() else {
            return CapRoom::At(from, Rate { count: 1, per: Duration::ZERO });
        };
        let mut times = self.times(recipient, now.before(longest));
        if times.len() >= OF_ONE_MAX {
            return CapRoom::Crowded(binding);
        }
        times.sort_unstable();
        let mut at = from;
        loop {
            let mut moved = false;
            for rate in rates.iter() {
                if let Some(later) = past_full_window(&times, at, rate) {
                    (at, binding, moved) = (later, rate, true);
                }
            }
            if !moved {
                return CapRoom::At(at, binding);
            }
        }
    }

    /// One more goes at a time that [`Caps::room`] gave. Returns the number by which it can be given back.
    pub(super) fn take(&mut self, recipient: u64, at: Timestamp) -> u64 {
        if self.events.len() >= EVENTS_MAX {
            self.pop();
        }
        let number = self.first + self.events.len() as u64;
        let before = self.newest.insert(recipient, number).unwrap_or(u64::MAX);
        self.events.push_back(Event { recipient, at, before });
        number
    }

    /// What was taken is not needed after all.
    pub(super) fn give_back(&mut self, number: u64) {
        let event = number.checked_sub(self.first).and_then(|place| self.events.get_mut(usize::try_from(place).ok()?));
        if let Some(event) = event {
            event.at = Timestamp::ZERO;
        }
    }

    /// Messages and recipients that are remembered.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.events.len(), self.newest.len())
    }

    /// When this recipient's messages go or went, in no order; those after `since` alone.
    fn times(&self, recipient: u64, since: Timestamp) -> Vec<Timestamp> {
        let mut times = Vec::new();
        let mut number = self.newest.get(&recipient).copied();
        // Given back ones are walked over, and bound the walk too.
        for _ in 0..2 * OF_ONE_MAX {
            let event = number.and_then(|number| number.checked_sub(self.first));
            let event = event.and_then(|place| self.events.get(usize::try_from(place).ok()?));
            let Some(event) = event.filter(|event| event.recipient == recipient) else { break };
            if event.at > since {
                times.push(event.at);
            }
            number = Some(event.before);
            if times.len() >= OF_ONE_MAX {
                break;
            }
        }
        times
    }

    /// Drops what counts no more from the old end.
    fn forget(&mut self, before: Timestamp) {
        while self.events.front().is_some_and(|event| event.at <= before) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        if self.newest.get(&event.recipient) == Some(&self.first) {
            self.newest.remove(&event.recipient);
        }
        self.first += 1;
        if self.events.is_empty() {
            (self.events, self.newest) = (VecDeque::new(), HashMap::new());
        }
    }
}

/// Whether some window of this length would hold too many, were one more to go at `at`: then the earliest time after it at
/// which that window does not. `times` are sorted, and may lie after `at` (scheduled mail).
fn past_full_window(times: &[Timestamp], at: Timestamp, rate: Rate) -> Option<Timestamp> {
    let count = rate.count.max(1) as usize;
    let place = times.partition_point(|time| *time < at);
    let mut later = None;
    for full in times.get(place.saturating_sub(count)..)?.windows(count).take(count + 1) {
        let (Some(first), Some(last)) = (full.first(), full.last()) else { continue };
        if at.max(*last).since(at.min(*first)) < rate.per {
            later = later.max(Some(first.after(rate.per)));
        }
    }
    later
}
