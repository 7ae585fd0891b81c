//! One quota of one holder: at what time has it room for so many recipients more? Pure; asked by the room above.
//!
//! Times are given in order: nobody gets an earlier one than whoever came before. So only what lies less than a window's
//! length before the last time given counts, and that alone is kept.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Timestamp;
use crate::traffic::{Rate, Rates};

/// What was taken is kept in steps of this share of its window, and frees as a whole, late rather than early: a window is
/// exact, and has 1/2048 less use. So a window is 33 KB at most.
const STEPS: u64 = 2048;
/// The same for what is written down, where a record's size counts.
const WRITTEN_STEPS: u64 = 64;

#[derive(Clone, Debug)]
struct Window {
    rate: Rate,
    /// At the end of which step, how many; oldest first.
    taken: VecDeque<(Timestamp, u32)>,
    sum: u32,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    windows: Vec<Window>,
    /// The last time given.
    last: Timestamp,
    /// When the next one that must wait is due, so that what waits is spread. Unit: microseconds.
    due_us: u64,
}

/// What a quota says to some recipients more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// At this time; if it is later than asked, since this window is full before.
    At(Timestamp, Rate),
    /// Never: this window is smaller than what is asked for.
    TooSmall(Rate),
}

impl Window {
    fn step_ms(&self, steps: u64) -> u64 {
        (self.rate.per.as_millis() as u64 / steps).max(1)
    }

    fn end_of_step(&self, at: Timestamp, steps: u64) -> Timestamp {
        let step = self.step_ms(steps);
        Timestamp::from_millis(at.as_millis().div_ceil(step).saturating_mul(step))
    }

    fn forget(&mut self, before: Timestamp) {
        while let Some((_, count)) = self.taken.front().copied().filter(|(at, _)| at.after(self.rate.per) <= before) {
            self.taken.pop_front();
            self.sum = self.sum.saturating_sub(count);
        }
        if self.taken.is_empty() && self.taken.capacity() > 32 {
            self.taken = VecDeque::new();
        }
    }

    fn add(&mut self, at: Timestamp, count: u32) {
        let end = self.end_of_step(at, STEPS);
        match self.taken.back_mut() {
            Some((last, sum)) if *last >= end => *sum = sum.saturating_add(count),
            Some(_) | None => self.taken.push_back((end, count)),
        }
        self.sum = self.sum.saturating_add(count);
    }

    fn give_back(&mut self, at: Timestamp, count: u32) {
        let end = self.end_of_step(at, STEPS);
        // By the order of `add`: the step itself, or a later one that it was counted in.
        if let Some((_, sum)) = self.taken.iter_mut().find(|(step, _)| *step >= end) {
            let given = count.min(*sum);
            *sum -= given;
            self.sum -= given;
        }
    }

    /// From when on so many more fit, if nobody else comes.
    fn room(&self, from: Timestamp, count: u32) -> Timestamp {
        let mut sum = self.sum;
        let mut at = from;
        for (step, taken) in &self.taken {
            if sum.saturating_add(count) <= self.rate.count {
                break;
            }
            at = at.max(step.after(self.rate.per));
            sum = sum.saturating_sub(*taken);
        }
        at
    }
}

impl Meter {
    /// Takes over new windows: one whose length was there before goes on with what was taken of it, any other begins.
    pub(super) fn fit(&mut self, rates: Rates) {
        if self.windows.iter().map(|window| window.rate).eq(rates.iter()) {
            return;
        }
        let mut before = std::mem::take(&mut self.windows);
        self.windows = rates
            .iter()
            .map(|rate| match before.iter().position(|window| window.rate.per == rate.per) {
                Some(place) => Window { rate, ..before.swap_remove(place) },
                None => Window { rate, taken: VecDeque::new(), sum: 0 },
            })
            .collect();
    }

    /// At what time, `now` or later, so many recipients fit. Nothing is taken.
    pub(super) fn room(&mut self, now: Timestamp, count: u32) -> Room {
        let from = now.max(self.last);
        let mut at = from;
        let Some(mut binding) = self.windows.first().map(|window| window.rate) else {
            return Room::At(now, Rate { count, per: Duration::ZERO });
        };
        for window in &mut self.windows {
            if count > window.rate.count {
                return Room::TooSmall(window.rate);
            }
            window.forget(from);
            let free = window.room(from, count);
            if free > at {
                (at, binding) = (free, window.rate);
            }
        }
        if at > now {
            at = at.max(Timestamp::from_millis(self.due_us.div_ceil(1000)));
        }
        Room::At(at, binding)
    }

    /// So many go at a time that [`Meter::room`] gave.
    pub(super) fn take(&mut self, at: Timestamp, count: u32) {
        self.last = self.last.max(at);
        for window in &mut self.windows {
            window.add(at, count);
        }
        // What waits goes at the pace of the quickest window; the slower ones hold it up where they are full.
        let pace = self.windows.iter().map(|window| window.rate.per.as_micros() as u64 / u64::from(window.rate.count));
        let wait = pace.min().unwrap_or(0).saturating_mul(u64::from(count));
        self.due_us = self.due_us.max(at.as_millis().saturating_mul(1000)).saturating_add(wait);
    }

    /// What was taken is not needed after all.
    pub(super) fn give_back(&mut self, at: Timestamp, count: u32) {
        self.windows.iter_mut().for_each(|window| window.give_back(at, count));
    }

    /// Steps that are kept, over all windows.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.windows.iter().map(|window| window.taken.len()).sum()
    }

    /// As text, a line for each window: its length (ms), then time (ms) and count, in turn. `None`: nothing of it counts
    /// any more.
    pub(super) fn record(&mut self, now: Timestamp) -> Option<String> {
        let from = now.max(self.last);
        let mut text = String::new();
        for window in &mut self.windows {
            window.forget(from);
            let mut steps: Vec<(Timestamp, u32)> = Vec::new();
            for (at, count) in window.taken.iter().filter(|(_, count)| *count > 0) {
                let end = window.end_of_step(*at, WRITTEN_STEPS);
                match steps.last_mut() {
                    Some((last, sum)) if *last == end => *sum = sum.saturating_add(*count),
                    Some(_) | None => steps.push((end, *count)),
                }
            }
            if !steps.is_empty() {
                text.push_str(&window.rate.per.as_millis().to_string());
                steps.iter().for_each(|(at, count)| text.push_str(&format!(" {} {count}", at.as_millis())));
                text.push('\n');
            }
        }
        let waits = self.last > now;
        (waits || !text.is_empty()).then(|| format!("{}\n{text}", self.last.as_millis()))
    }

    /// From a record, whose windows are then to be fitted. `None`: it does not read as one.
    pub(super) fn from_record(text: &str) -> Option<Meter> {
        let mut lines = text.lines();
        let last = Timestamp::from_millis(lines.next()?.parse().ok()?);
        let mut windows = Vec::new();
        for line in lines.take(Rates::MAX) {
            let numbers: Option<Vec<u64>> = line.split(' ').map(|number| number.parse().ok()).collect();
            let numbers = numbers?;
            let (per, steps) = numbers.split_first()?;
            let mut window = Window {
                rate: Rate { count: u32::MAX, per: Duration::from_millis(*per) },
                taken: VecDeque::new(),
                sum: 0,
            };
            for step in steps.chunks(2).take(2 * STEPS as usize) {
                let [at, count] = step else { return None };
                window.add(Timestamp::from_millis(*at), u32::try_from(*count).ok()?);
            }
            windows.push(window);
        }
        Some(Meter { windows, last, due_us: last.as_millis().saturating_mul(1000) })
    }
}
