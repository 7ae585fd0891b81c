//! The name of one envelope, from acceptance to its final state.

use std::fmt;
use std::str::FromStr;

use crate::time::Timestamp;

/// Digits, then consonants of both cases: no `-`, `_` or `.`, which log analysers split at, and no vowels, so
/// that no id spells a word. In ASCII order, so that ids sort as text in the order of time.
const ALPHABET: &[u8; 52] = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
/// 52^12 > 2^63: every id has this many characters.
const LENGTH: usize = 12;
/// Low bits that tell apart the ids of one millisecond.
const COUNTER_BITS: u32 = 21;

/// A queue id: 12 characters of `0-9B-Zb-z`, ordered by time, unique in one spool for ever.
///
/// ```text
///   63 | 62 .............. 21 | 20 ........ 0 |
///    0 | ms since 1970        | counter       |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueId(u64);

impl QueueId {
    /// The smallest id, below every real one.
    pub const MIN: QueueId = QueueId(0);

    /// The id after `last`, or the first of this millisecond, whichever is greater: it never repeats and never
    /// goes back, whatever the clock does.
    pub fn next(last: QueueId, now: Timestamp) -> QueueId {
        let first = (now.as_millis() << COUNTER_BITS) & (u64::MAX >> 1);
        QueueId(first.max(last.0.saturating_add(1)).min(u64::MAX >> 1))
    }

    /// As stored: big-endian order is the order of time.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From storage; the top bit is dropped, so that every value has its 12 characters.
    pub const fn from_u64(raw: u64) -> QueueId {
        QueueId(raw & (u64::MAX >> 1))
    }

    /// When it was made, to the millisecond, if the clock ran true.
    pub const fn made_at(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> COUNTER_BITS)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; LENGTH];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(rest % 52) as usize];
            rest /= 52;
        }
        // Invariant: the alphabet is ASCII.
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not a queue id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a queue id: 12 characters of 0-9, B-Z and b-z without vowels are expected")]
pub struct QueueIdError;

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        if text.len() != LENGTH {
            return Err(QueueIdError);
        }
        let mut raw: u64 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|c| *c == byte).ok_or(QueueIdError)? as u64;
            raw = raw.checked_mul(52).and_then(|r| r.checked_add(digit)).ok_or(QueueIdError)?;
        }
        if raw > u64::MAX >> 1 {
            return Err(QueueIdError);
        }
        Ok(QueueId(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        for raw in [0, 1, 51, 52, u64::MAX >> 1, 3_763_000_000_000_000_000] {
            let id = QueueId::from_u64(raw);
            assert_eq!(id.to_string().len(), LENGTH);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "0", "zzzzzzzzzzzz", "00000000000A", "00000000000-", "0000000000000"] {
            assert_eq!(bad.parse::<QueueId>(), Err(QueueIdError), "{bad}");
        }
    }

    #[test]
    fn ids_rise_as_text_even_when_the_clock_falls() {
        let mut last = QueueId::MIN;
        let mut text = String::new();
        for millis in [1_795_255_200_000, 1_795_255_200_000, 5, 1_795_255_200_001, 0] {
            last = QueueId::next(last, Timestamp::from_millis(millis));
            assert!(last.to_string() > text);
            text = last.to_string();
        }
        assert_eq!(last.made_at(), Timestamp::from_millis(1_795_255_200_001));
    }
}
