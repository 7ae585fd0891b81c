//! When mail of a sender or a credential was held: so much longer may it wait.

use std::time::Duration;

use crate::time::Timestamp;

/// Most spans that are kept of one; beyond, the two oldest become one, which only lengthens the life of mail.
const SPANS_MAX: usize = 16;
/// No mail waits for longer after a hold: what ended before is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180 * 86_400);
/// What mail has at least while it is held, so that an attempt of the tenth that still goes does not end it.
const LEFT_MIN: Duration = Duration::from_secs(15 * 60);

/// From when to when.
pub(super) type Span = (Timestamp, Timestamp);

/// Holds that are over, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rests {
    spans: Vec<Span>,
}

impl Rests {
    pub(super) fn add(&mut self, since: Timestamp, until: Timestamp) {
        // After a crash between the two records of its end, a hold ends once more.
        self.spans.retain(|span| span.0 != since);
        self.spans.push((since, until));
        self.spans.sort_unstable();
        if self.spans.len() > SPANS_MAX {
            let (oldest, _) = self.spans.remove(0);
            self.spans[0] = (oldest, self.spans[0].1);
        }
    }

    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// When the last one ended.
    pub(super) fn last(&self) -> Timestamp {
        self.spans.iter().map(|span| span.1).max().unwrap_or(Timestamp::ZERO)
    }

    pub(super) fn is_forgotten(&self, now: Timestamp) -> bool {
        now.since(self.last()) > FORGOTTEN_AFTER
    }

    /// `1 SINCE UNTIL SINCE UNTIL ...`.
    pub fn record(&self) -> String {
        let words = self.spans.iter().map(|(since, until)| format!(" {} {}", since.as_millis(), until.as_millis()));
        format!("1{}", words.collect::<String>())
    }

    /// What cannot be read lengthens nothing.
    pub fn read(record: &str) -> Rests {
        let mut rests = Rests::default();
        let Some(words) = record.strip_prefix("1 ") else { return rests };
        let numbers = words.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>().unwrap_or_default();
        for pair in numbers.chunks_exact(2).take(SPANS_MAX) {
            let (since, until) = (Timestamp::from_millis(pair[0]), Timestamp::from_millis(pair[1]));
            if since <= until {
                rests.add(since, until);
            }
        }
        rests
    }
}

/// When mail expires whose time stood still in these spans, that of now among them if `is_held`.
pub(super) fn expiry(life: Span, mut spans: Vec<Span>, is_held: bool, now: Timestamp) -> Timestamp {
    let (accepted_at, mut expires_at) = life;
    if expires_at == Timestamp::NEVER {
        return expires_at;
    }
    spans.sort_unstable();
    let mut counted = accepted_at;
    for (since, until) in spans {
        let since = since.max(counted);
        if until > since {
            // What was past its age already had its last minutes then, and has them now.
            expires_at = expires_at.max(since).after(until.since(since));
            counted = until;
        }
    }
    if is_held { expires_at.max(now.after(LEFT_MIN)) } else { expires_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn time_stands_still_while_mail_is_held() {
        type Case = (&'static str, &'static [(u64, u64)], u64);
        let cases: &[Case] = &[
            ("never held", &[], 5000),
            ("before it came", &[(100, 900)], 5000),
            ("it came meanwhile", &[(500, 1500)], 5500),
            ("twice", &[(2000, 3000), (4000, 4500)], 6500),
            ("its sender and its credential at once", &[(2000, 3000), (2500, 3500)], 6500),
            ("one in the other", &[(2000, 4000), (2500, 3000)], 7000),
            ("in its last minutes", &[(5100, 9000)], 9000),
            ("beyond its age", &[(4000, 900_000)], 901_000),
        ];
        for (what, spans, want) in cases {
            let spans: Vec<Span> = spans.iter().map(|(since, until)| (at(*since), at(*until))).collect();
            let reversed = spans.iter().rev().copied().collect();
            assert_eq!(expiry((at(1000), at(5000)), spans, false, at(1_000_000)), at(*want), "{what}");
            assert_eq!(expiry((at(1000), at(5000)), reversed, false, at(1_000_000)), at(*want), "{what}");
        }
        assert_eq!(expiry((at(1000), at(5000)), vec![(at(5100), at(6000))], true, at(6000)), at(6900));
        assert_eq!(expiry((at(1000), Timestamp::NEVER), vec![(at(2), at(3))], true, at(4)), Timestamp::NEVER);
    }

    #[test]
    fn what_is_written_is_read_and_stays_bounded() {
        let mut rests = Rests::default();
        rests.add(at(10), at(20));
        rests.add(at(10), at(25));
        assert_eq!(rests.record(), "1 10000 25000", "the same one ended twice");
        for number in 1..100 {
            rests.add(at(number * 100), at(number * 100 + 10));
        }
        assert_eq!(rests.spans().len(), SPANS_MAX);
        assert_eq!((rests.spans()[0].0, rests.last()), (at(10), at(9910)));
        assert_eq!(Rests::read(&rests.record()), rests);
        for bad in ["", "1", "2 1 2", "1 5", "1 9 3", "1 a b", "1  "] {
            assert_eq!(Rests::read(bad), Rests::default(), "{bad:?}");
        }
        assert!(!rests.is_forgotten(at(9910).after(FORGOTTEN_AFTER)) && rests.is_forgotten(Timestamp::NEVER));
    }
}
