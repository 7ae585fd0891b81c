//! Alarms: what an operator must look at, told by a log line, a metric and a mail to the postmaster, at most once an hour
//! for each cause, with a count of what was held back.
//!
//! Any room from here up may raise one; it observes and never decides. Who writes and sends the mail is the roof's
//! affair ([`Alarms::set_courier`]): this room only says that one is due. [`Book`] decides, purely, on the `now` it is
//! given.

mod book;
mod cause;
mod letter;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{error, warn};

use crate::mail::QueueId;
use crate::metrics::count::Counter;
use crate::metrics::{Metric, Page};
use crate::time::Timestamp;

pub use book::{Active, Book};
pub use cause::{Cause, Severity};
pub use letter::Notice;

/// The target of an alarm's line in the log. A literal wherever it is used: `tracing` wants a constant.
const TARGET: &str = "postrider::alarm";
/// Longest subject and longest detail. Unit: bytes.
const SUBJECT_BYTES_MAX: usize = 100;
const DETAIL_BYTES_MAX: usize = 600;
/// Our own mails that are remembered, so that none is told of itself. They leave within hours.
const OWN_MAX: usize = 256;

/// Who takes a notice that is to be mailed. Must not block.
pub type Courier = Arc<dyn Fn(Notice) + Send + Sync>;

/// The handle of all rooms. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Alarms {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    book: Mutex<Book>,
    courier: Mutex<Option<Courier>>,
    noticed: [Counter; Cause::ALL.len()],
    mailed: Counter,
    unmailed: Counter,
    own: Mutex<VecDeque<QueueId>>,
}

impl Alarms {
    /// Names who mails notices. Until then, and without a postmaster, they are logged alone.
    pub fn set_courier(&self, courier: Courier) {
        *lock(&self.shared.courier) = Some(courier);
    }

    /// Something happened: once more is told once more, if the last telling is long enough ago.
    pub fn event(&self, cause: Cause, subject: &str, detail: &str, now: Timestamp) {
        self.shared.noticed[cause as usize].one();
        let notice = self.book().event(cause, &line(subject, SUBJECT_BYTES_MAX), &line(detail, DETAIL_BYTES_MAX), now);
        self.tell(notice);
    }

    /// As [`Alarms::event`], found out while this envelope was attempted: an alarm's own mail makes no alarm.
    pub fn event_about(&self, id: QueueId, cause: Cause, subject: &str, detail: &str, now: Timestamp) {
        match lock(&self.shared.own).contains(&id) {
            true => {
                warn!(target: TARGET, queue_id = %id, cause = cause.name(), "the mail of an alarm meets one itself")
            }
            false => self.event(cause, subject, detail, now),
        }
    }

    /// Something is so: to be called again and again while it is, then [`Alarms::clear`].
    pub fn state(&self, cause: Cause, subject: &str, detail: &str, now: Timestamp) {
        let (subject, detail) = (line(subject, SUBJECT_BYTES_MAX), line(detail, DETAIL_BYTES_MAX));
        let mut book = self.book();
        let is_new = !book.active(now).iter().any(|active| active.cause == cause && *active.subject == *subject);
        let notice = book.state(cause, &subject, &detail, now);
        drop(book);
        if is_new {
            self.shared.noticed[cause as usize].one();
        }
        self.tell(notice);
    }

    /// It is no longer so.
    pub fn clear(&self, cause: Cause, subject: &str) {
        self.book().clear(cause, &line(subject, SUBJECT_BYTES_MAX));
    }

    /// Tells what was held back for long enough. To be called every minute or so.
    pub fn tick(&self, now: Timestamp) {
        let overdue = self.book().overdue(now);
        overdue.into_iter().for_each(|notice| self.tell(Some(notice)));
    }

    /// What holds, or came within the last hour.
    pub fn active(&self, now: Timestamp) -> Vec<Active> {
        self.book().active(now)
    }

    /// A notice's mail was accepted under this id, or could not be.
    pub fn mailed(&self, accepted: Option<QueueId>) {
        let Some(id) = accepted else { return self.shared.unmailed.one() };
        self.shared.mailed.one();
        let mut own = lock(&self.shared.own);
        own.truncate(OWN_MAX - 1);
        own.push_front(id);
    }

    /// Puts all on a page of metrics.
    pub fn write(&self, page: &mut Page, now: Timestamp) {
        let active = self.active(now);
        for cause in Cause::ALL {
            let is_active = active.iter().any(|active| active.cause == cause);
            page.count(Metric::AlarmActive, &[cause.name()], u64::from(is_active));
            page.count(Metric::AlarmsTotal, &[cause.name()], self.shared.noticed[cause as usize].read());
        }
        page.count(Metric::AlarmMails, &["accepted"], self.shared.mailed.read());
        page.count(Metric::AlarmMails, &["failed"], self.shared.unmailed.read());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.shared.book)
    }

    fn tell(&self, notice: Option<Notice>) {
        let Some(notice) = notice else { return };
        let Notice { cause, subject, detail, held_back, .. } = &notice;
        let (cause_name, meaning, since) = (cause.name(), cause.meaning(), notice.since.rfc3339());
        match cause.severity() {
            Severity::Error => {
                error!(target: TARGET, cause = cause_name, %subject, %detail, %since, held_back, "{meaning}");
            }
            Severity::Warning => {
                warn!(target: TARGET, cause = cause_name, %subject, %detail, %since, held_back, "{meaning}");
            }
        }
        let courier = lock(&self.shared.courier).clone();
        if let Some(courier) = courier {
            courier(notice);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a peer or a file name said, as one line of printable ASCII.
fn line(text: &str, bytes_max: usize) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(bytes_max).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn an_alarm_is_logged_counted_and_handed_to_the_courier_once() {
        let alarms = Alarms::default();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let taking = Arc::clone(&taken);
        alarms.set_courier(Arc::new(move |notice| taking.lock().unwrap().push(notice)));
        for _ in 0..5 {
            alarms.event(Cause::AuthenticationRefused, "example.com", "550 5.7.26 \u{1b}[31m", at(0));
        }
        assert_eq!(taken.lock().unwrap().len(), 1);
        assert_eq!(&*taken.lock().unwrap()[0].detail, "550 5.7.26 ?[31m");
        alarms.mailed(Some(QueueId::from_u64(7)));
        alarms.mailed(None);
        // The mail itself meets the same trouble: nothing is told of that.
        alarms.event_about(QueueId::from_u64(7), Cause::SourceBlocked, "a", "x", at(1));
        assert_eq!(taken.lock().unwrap().len(), 1);
        alarms.event_about(QueueId::from_u64(8), Cause::SourceBlocked, "a", "x", at(1));
        assert_eq!(taken.lock().unwrap().len(), 2);
        let mut page = Page::default();
        alarms.write(&mut page, at(2));
        let text = page.text();
        for line in [
            "postrider_alarm_active{cause=\"authentication_refused\"} 1",
            "postrider_alarm_active{cause=\"disk_full\"} 0",
            "postrider_alarms_total{cause=\"authentication_refused\"} 5",
            "postrider_alarms_total{cause=\"source_blocked\"} 1",
            "postrider_alarm_mails_total{result=\"accepted\"} 1",
            "postrider_alarm_mails_total{result=\"failed\"} 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
    }
}
