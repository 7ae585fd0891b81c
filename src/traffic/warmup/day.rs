//! A sending day: a calendar day of the zone, and the hours in which marketing mail may go.

use crate::time::{Timestamp, Zone};

/// The hours of a day in which a warming source sends marketing mail: from the start of one to the start of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendHours {
    from: u8,
    to: u8,
}

impl SendHours {
    /// The whole day.
    pub const ALL: SendHours = SendHours { from: 0, to: 24 };

    /// From `from` o'clock to `to` o'clock. `None`: not within one day, or no hour at all.
    pub fn new(from: u8, to: u8) -> Option<SendHours> {
        (from < to && to <= 24).then_some(SendHours { from, to })
    }
}

impl std::fmt::Display for SendHours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02}-{:02}", self.from, self.to)
    }
}

/// One day: 23 to 25 hours where clocks change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Day {
    /// Counted from 1970-01-01, as the zone's calendar has it.
    pub number: u32,
    /// When marketing mail may go.
    pub opens: Timestamp,
    /// Until when.
    pub closes: Timestamp,
    /// When the next day begins.
    pub ends: Timestamp,
}

impl Day {
    /// The day that holds a moment. Asked once a day: it walks the zone's rules.
    pub fn of(at: Timestamp, zone: &Zone, hours: SendHours) -> Day {
        let number = zone.day(at);
        Day {
            number,
            opens: zone.hour(number, hours.from),
            closes: zone.hour(number, hours.to),
            ends: zone.hour(number, 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_lie_within_one_day() {
        let rows = [(8, 20, true), (0, 24, true), (8, 8, false), (20, 8, false), (0, 25, false)];
        for (from, to, sound) in rows {
            assert_eq!(SendHours::new(from, to).is_some(), sound, "{from}-{to}");
        }
        assert_eq!(SendHours::ALL.to_string(), "00-24");
    }
}
