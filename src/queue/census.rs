//! Counting the queue for metrics and alarms: how many envelopes in which state, and for how long the oldest waits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::row::{Flags, Row};
use super::table::Table;
use super::{Queue, blocking};
use crate::mail::{QueueId, StreamKind};
use crate::metrics::count::NAMES_MAX;
use crate::metrics::{Metric, OTHER, Page};
use crate::time::Timestamp;
use crate::traffic::GRACE;

/// Rows counted under one lock of the table, so that nobody waits for a count of the whole.
const SCAN_ROWS: usize = 1024;
/// A message expires at its next turn, which the scheduler takes within moments; past this much, beyond what the engine
/// gives to mail that could not be tried, it is a fault.
const PAST_AGE_GRACE: Duration = Duration::from_secs(60);

/// Where an envelope stands, as metrics tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// Due; it waits for its turn.
    Waiting,
    /// It waits for its next try.
    Deferred,
    /// Its sender asked for a later time.
    Scheduled,
    /// An operator or damage stopped it.
    Held,
    /// It is being attempted.
    Leased,
}

impl Standing {
    /// The value of the label.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Waiting => "waiting",
            Standing::Deferred => "deferred",
            Standing::Scheduled => "scheduled",
            Standing::Held => "held",
            Standing::Leased => "leased",
        }
    }

    fn of(row: &Row, now: Timestamp) -> Standing {
        match () {
            () if row.flags.has(Flags::LEASED) => Standing::Leased,
            () if row.flags.has(Flags::HELD) => Standing::Held,
            () if row.due > now && row.flags.has(Flags::SCHEDULED) => Standing::Scheduled,
            () if row.due > now => Standing::Deferred,
            () => Standing::Waiting,
        }
    }
}

/// The queue in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Envelopes and pending recipients by stream, kind and standing.
    counts: BTreeMap<(Arc<str>, &'static str, Standing), (u64, u64)>,
    /// For how long the longest due envelope of each kind has been waiting for its turn.
    oldest_due: BTreeMap<&'static str, Duration>,
    /// Envelopes that should have expired.
    past_age: u64,
}

impl Queue {
    /// Counts all that waits. The table is locked for a thousand rows at a time, so the whole is no moment's truth.
    pub async fn census(&self) -> Census {
        let queue = self.clone();
        blocking(move || Ok(queue.census_blocking())).await.unwrap_or_default()
    }

    /// Ids behind `after` of envelopes that are not held, in their order, `most` at most: whether each will ever have a
    /// turn is the scheduler's to say. Empty: there are no more.
    pub fn unheld_after(&self, after: QueueId, most: usize) -> Vec<QueueId> {
        let table = self.shared.table();
        let unheld = table.rows_after(after).filter(|row| !row.flags.has(Flags::HELD));
        unheld.take(most).map(|row| row.id).collect()
    }

    /// Those of them that are still here and not held.
    pub fn still_unheld(&self, mut ids: Vec<QueueId>) -> Vec<QueueId> {
        let table = self.shared.table();
        ids.retain(|id| table.seen(*id).is_some_and(|seen| !seen.row.flags.has(Flags::HELD)));
        ids
    }

    fn census_blocking(&self) -> Census {
        let now = self.now();
        let mut census = Census::default();
        let mut after = QueueId::MIN;
        // Ids only rise, so this ends even while mail comes in: what is new behind the last id is counted or is not.
        while let ControlFlow::Continue(next) = self.count_some(&mut census, after, now) {
            after = next;
        }
        census
    }

    fn count_some(&self, census: &mut Census, after: QueueId, now: Timestamp) -> ControlFlow<(), QueueId> {
        let table = self.shared.table();
        let mut last = None;
        for row in table.rows_after(after).take(SCAN_ROWS) {
            census.count(&table, row, self.shared.opened, now);
            last = Some(row.id);
        }
        match last {
            Some(id) => ControlFlow::Continue(id),
            None => ControlFlow::Break(()),
        }
    }
}

/// Whether an envelope should have expired. One whose longest age passed while the daemon was down, or while it was held,
/// is still tried for [`GRACE`]; a release makes it due.
/// Paused mail has not expired, however long that lasts.
fn is_past_age(row: &Row, expires_at: Timestamp, opened: Timestamp, now: Timestamp) -> bool {
    let released = if row.due > now { Timestamp::ZERO } else { row.due };
    let last_turn = expires_at.max(opened).max(released).after(GRACE);
    expires_at != Timestamp::NEVER && now >= last_turn.after(PAST_AGE_GRACE)
}

impl Census {
    fn count(&mut self, table: &Table, row: &Row, opened: Timestamp, now: Timestamp) {
        let stream = table.stream_of(row);
        let (kind, standing) = (row.kind().name(), Standing::of(row, now));
        // Mail of streams that left the config can wait; their number is bounded by what the config ever was.
        let key = (Arc::clone(stream), kind, standing);
        let key = match self.counts.len() < NAMES_MAX || self.counts.contains_key(&key) {
            true => key,
            false => (OTHER.into(), kind, standing),
        };
        let (envelopes, recipients) = self.counts.entry(key).or_default();
        *envelopes += 1;
        *recipients += u64::from(row.recipients);
        if standing == Standing::Waiting {
            let oldest = self.oldest_due.entry(kind).or_default();
            *oldest = (*oldest).max(now.since(row.due));
        }
        let is_stopped = matches!(standing, Standing::Held | Standing::Leased);
        if !is_stopped && is_past_age(row, table.expiry_of(row), opened, now) {
            self.past_age += 1;
        }
    }

    /// Envelopes past their longest age and all grace, neither held nor being attempted: there should be none.
    pub fn past_age(&self) -> u64 {
        self.past_age
    }

    /// Puts all on a page of metrics.
    pub fn write(&self, page: &mut Page) {
        for ((stream, kind, standing), (envelopes, recipients)) in &self.counts {
            let labels = [&**stream, kind, standing.name()];
            page.count(Metric::QueueEnvelopes, &labels, *envelopes);
            page.count(Metric::QueueRecipients, &labels, *recipients);
        }
        for kind in [StreamKind::Transactional, StreamKind::Marketing] {
            let age = self.oldest_due.get(kind.name()).copied().unwrap_or_default();
            page.put(Metric::QueueOldestDue, &[kind.name()], age.as_secs_f64());
        }
        page.count(Metric::QueuePastAge, &[], self.past_age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::samples::envelope;
    use crate::spool::{Position, Sequence};

    #[test]
    fn every_envelope_is_counted_once_where_it_stands() {
        let (opened, now) = (Timestamp::from_secs(900_000), Timestamp::from_secs(1_000_000));
        let mut table = Table::default();
        for number in 1..=6 {
            let mut envelope = envelope(number);
            (envelope.accepted_at, envelope.expires_at) = (now.before(Duration::from_secs(number)), Timestamp::NEVER);
            if number == 6 {
                envelope.accepted_at = now.before(Duration::from_secs(5000));
                envelope.expires_at = now.before(Duration::from_secs(961));
            }
            envelope.release_at = envelope.accepted_at;
            table.place(Sequence(number), Position { segment: 1, offset: number as u32 }, &envelope, None);
        }
        let id = QueueId::from_u64;
        table.lease(id(1));
        table.put_off(id(2), None);
        table.put_off(id(3), Some(now.after(Duration::from_secs(5))));
        let mut census = Census::default();
        for row in table.rows_after(QueueId::MIN) {
            census.count(&table, row, opened, now);
        }
        let by_standing: BTreeMap<Standing, u64> =
            census.counts.iter().map(|((_, _, standing), (envelopes, _))| (*standing, *envelopes)).collect();
        let want = [(Standing::Waiting, 3), (Standing::Deferred, 1), (Standing::Held, 1), (Standing::Leased, 1)];
        assert_eq!(by_standing, BTreeMap::from(want));
        assert_eq!(census.oldest_due.values().max(), Some(&Duration::from_secs(5000)));
        assert_eq!(census.past_age(), 1);
        // The daemon was down when it expired, or it was held till now: it has a quarter of an hour.
        let row = *table.rows_after(id(5)).next().unwrap();
        let past = |row: Row, opened| is_past_age(&row, row.expires_at(), opened, now);
        assert!(past(row, opened) && !past(row, now.before(Duration::from_secs(959))));
        assert!(!past(Row { due: now, ..row }, opened));
        assert!(past(Row { due: now.after(Duration::from_secs(1)), ..row }, opened));
        // Only paused mail is left out.
        let past_age_of = |paused: u64| {
            let mut table = Table::default();
            for number in 6..=7 {
                let mut envelope = envelope(number);
                envelope.stream = format!("stream{number}").into();
                envelope.accepted_at = now.before(Duration::from_secs(5000));
                envelope.release_at = envelope.accepted_at;
                envelope.expires_at = now.before(Duration::from_secs(961));
                table.place(Sequence(number), Position { segment: 1, offset: number as u32 }, &envelope, None);
            }
            table.set_respite(Arc::new(move |life| match life.stream == format!("stream{paused}") {
                true => Timestamp::NEVER,
                false => life.expires_at,
            }));
            let mut census = Census::default();
            table.rows_after(QueueId::MIN).for_each(|row| census.count(&table, row, opened, now));
            census.past_age()
        };
        assert_eq!((past_age_of(0), past_age_of(7)), (2, 1));
        let mut page = Page::default();
        census.write(&mut page);
        let text = page.text();
        assert!(text.contains("\npostrider_queue_past_age_envelopes 1\n"), "{text}");
        assert!(text.contains("state=\"waiting\"} 3\n"), "{text}");
    }
}
