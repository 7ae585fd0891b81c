//! Which causes are known, and when each is told: pure, on the `now` that it is given.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Cause, Notice};
use crate::metrics::OTHER;
use crate::time::Timestamp;

/// The shortest time between two mails for one cause.
const REPEAT_FIRST: Duration = Duration::from_secs(3600);
/// While a cause goes on, the time between its mails doubles up to this: a disk that stays full over a weekend, or a
/// certificate nobody renews, must not bury the other causes.
const REPEAT_MAX: Duration = Duration::from_secs(86_400);
/// A cause that was not noticed for so long is over.
const OVER_AFTER: Duration = Duration::from_secs(3600);
/// Subjects (sources, credentials) that one cause tells apart; those beyond are told as `other`, together.
const SUBJECTS_MAX: usize = 16;

/// A cause that holds, or came a short while ago.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Active {
    /// What is wrong.
    pub cause: Cause,
    /// With what.
    pub subject: Box<str>,
    /// What was noticed last.
    pub detail: Box<str>,
    /// Since when it goes on.
    pub since: Timestamp,
    /// When it was noticed last.
    pub last: Timestamp,
}

/// Which causes are known, and when each was told last: decides what is told and what is held back.
#[derive(Debug, Default)]
pub struct Book {
    known: BTreeMap<(Cause, Box<str>), Known>,
}

#[derive(Debug)]
struct Known {
    detail: Box<str>,
    since: Timestamp,
    last: Timestamp,
    told: Timestamp,
    /// After `told`, until it may be told again.
    wait: Duration,
    held_back: u64,
    /// It was said to be over.
    cleared: bool,
}

impl Known {
    fn is_active(&self, now: Timestamp) -> bool {
        !self.cleared && now < self.last.after(OVER_AFTER)
    }

    fn may_be_told(&self, now: Timestamp) -> bool {
        now >= self.told.after(self.wait)
    }

    fn tell(&mut self, cause: Cause, subject: &str, now: Timestamp) -> Notice {
        (self.told, self.wait) = (now, (self.wait * 2).min(REPEAT_MAX));
        Notice {
            cause,
            subject: subject.into(),
            detail: self.detail.clone(),
            since: self.since,
            last: self.last,
            held_back: std::mem::take(&mut self.held_back),
        }
    }
}

impl Book {
    /// Something happened once more. What is to be told, if anything.
    pub fn event(&mut self, cause: Cause, subject: &str, detail: &str, now: Timestamp) -> Option<Notice> {
        self.note(cause, subject, detail, now, 1)
    }

    /// Something is still so: called again and again while it is. What is to be told, if anything.
    pub fn state(&mut self, cause: Cause, subject: &str, detail: &str, now: Timestamp) -> Option<Notice> {
        self.note(cause, subject, detail, now, 0)
    }

    fn note(&mut self, cause: Cause, subject: &str, detail: &str, now: Timestamp, times: u64) -> Option<Notice> {
        let key = self.key(cause, subject);
        let Some(known) = self.known.get_mut(&key) else {
            let known = Known {
                detail: detail.into(),
                since: now,
                last: now,
                told: now,
                wait: REPEAT_FIRST / 2,
                held_back: 0,
                cleared: false,
            };
            return Some(self.known.entry(key.clone()).or_insert(known).tell(cause, &key.1, now));
        };
        if !known.is_active(now) {
            // Anew: it is told at once, unless that would be the second time within the hour.
            known.since = now;
            known.wait = if now >= known.told.after(REPEAT_FIRST) { REPEAT_FIRST / 2 } else { REPEAT_FIRST };
        }
        (known.detail, known.last, known.cleared) = (detail.into(), now, false);
        if known.may_be_told(now) {
            return Some(known.tell(cause, &key.1, now));
        }
        known.held_back = known.held_back.saturating_add(times);
        None
    }

    /// It is over.
    pub fn clear(&mut self, cause: Cause, subject: &str) {
        let key = self.key(cause, subject);
        if let Some(known) = self.known.get_mut(&key) {
            known.cleared = true;
        }
    }

    /// What was held back and is due to be told now. Also forgets what is long over.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<Notice> {
        self.known.retain(|_, known| known.held_back > 0 || known.is_active(now) || !known.may_be_told(now));
        let known = self.known.iter_mut();
        let due = known.filter(|(_, known)| known.held_back > 0 && known.may_be_told(now));
        due.map(|((cause, subject), known)| {
            // One of them is told by the notice itself.
            known.held_back -= 1;
            known.tell(*cause, subject, now)
        })
        .collect()
    }

    /// What holds, or came within the last hour.
    pub fn active(&self, now: Timestamp) -> Vec<Active> {
        let active = self.known.iter().filter(|(_, known)| known.is_active(now));
        active
            .map(|((cause, subject), known)| Active {
                cause: *cause,
                subject: subject.clone(),
                detail: known.detail.clone(),
                since: known.since,
                last: known.last,
            })
            .collect()
    }

    /// The key of a subject; beyond the bound all are one.
    fn key(&self, cause: Cause, subject: &str) -> (Cause, Box<str>) {
        let key = (cause, Box::from(subject));
        let of_cause = self.known.keys().filter(|(known, _)| *known == cause).count();
        match self.known.contains_key(&key) || of_cause < SUBJECTS_MAX {
            true => key,
            false => (cause, OTHER.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 3600;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    /// When each of these times of one cause is told, with how many held back.
    fn told(times: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
        let mut book = Book::default();
        let mut told = Vec::new();
        for time in times {
            for notice in book.overdue(at(time)) {
                told.push((time, notice.held_back));
            }
            if let Some(notice) = book.event(Cause::SlowSync, "", "x", at(time)) {
                told.push((time, notice.held_back));
            }
        }
        told
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_with_a_count() {
        assert_eq!(told([0]), [(0, 0)]);
        assert_eq!(told([0, 1, 2, HOUR - 1]), [(0, 0)]);
        // The three held back, of which the notice itself is one.
        assert_eq!(told([0, 1, 2, 3, HOUR]).first(), Some(&(0, 0)));
        assert_eq!(told([0, 1, 2, 3, HOUR])[1], (HOUR, 2));
    }

    #[test]
    fn whatever_comes_no_cause_is_told_twice_within_an_hour_and_nothing_is_lost_from_the_count() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut book = Book::default();
            let (mut now, mut last_told, mut told, mut happened) = (0, None, 0, 0);
            for _ in 0..500 {
                now += random.u64(0..20 * MINUTE);
                let mut notices = book.overdue(at(now));
                match random.u8(0..4) {
                    0 => book.clear(Cause::DiskFull, ""),
                    _ => {
                        happened += 1;
                        notices.extend(book.event(Cause::DiskFull, "", "x", at(now)));
                    }
                }
                assert!(notices.len() <= 1, "seed {seed}");
                for notice in notices {
                    assert!(last_told.is_none_or(|last| now >= last + HOUR), "seed {seed}, {now}");
                    last_told = Some(now);
                    told += 1 + notice.held_back;
                }
            }
            for notice in book.overdue(at(now + 48 * HOUR)) {
                told += 1 + notice.held_back;
            }
            assert_eq!(told, happened, "seed {seed}");
        }
    }

    #[test]
    fn what_goes_on_is_told_ever_more_rarely_but_daily() {
        let mut book = Book::default();
        let times: Vec<u64> = (0..10 * 24 * 60)
            .filter(|minute| book.state(Cause::DiskFull, "", "", at(minute * MINUTE)).is_some())
            .map(|minute| minute / 60)
            .collect();
        assert_eq!(times, [0, 1, 3, 7, 15, 31, 55, 79, 103, 127, 151, 175, 199, 223]);
    }

    #[test]
    fn what_is_over_is_not_shown_and_comes_back_anew() {
        let mut book = Book::default();
        assert!(book.state(Cause::DiskFull, "", "a", at(0)).is_some());
        assert!(book.state(Cause::DiskFull, "", "b", at(30)).is_none());
        let active = book.active(at(31));
        assert_eq!((active.len(), &*active[0].detail, active[0].since), (1, "b", at(0)));
        book.clear(Cause::DiskFull, "");
        assert_eq!(book.active(at(32)), []);
        // Flapping is told once an hour, and shown all the time.
        assert!(book.state(Cause::DiskFull, "", "", at(10 * MINUTE)).is_none());
        assert_eq!(book.active(at(10 * MINUTE))[0].since, at(10 * MINUTE));
        assert!(book.state(Cause::DiskFull, "", "", at(HOUR)).is_some());
        assert_eq!(book.active(at(3 * HOUR)), []);
        assert!(book.overdue(at(100 * HOUR)).is_empty() && book.known.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn subjects_are_apart_up_to_a_bound() {
        let mut book = Book::default();
        let told = (0..1000).filter(|n| book.event(Cause::SourceBlocked, &format!("s{n}"), "", at(*n)).is_some());
        assert_eq!(told.count(), SUBJECTS_MAX + 1);
        assert_eq!(book.known.len(), SUBJECTS_MAX + 1);
        assert!(book.event(Cause::DiskFull, "", "", at(0)).is_some(), "another cause is another matter");
    }
}
