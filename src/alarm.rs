//! Alarms: what an operator must look at, told by a log line, a metric and a mail to the postmaster, at most once an hour
//! for each cause, with a count of what was held back.
//!
//! Any room from here up may raise one; it observes and never decides. Who writes and sends the mail is the roof's
//! affair ([`Alarms::set_courier`]): this room only says that one is due. [`Book`] decides, purely, on the `now` it is
//! given.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, warn};

use crate::mail::{Domain, QueueId};
use crate::metrics::count::Counter;
use crate::metrics::{Metric, OTHER, Page};
use crate::time::Timestamp;

/// The target of an alarm's line in the log. A literal wherever it is used: `tracing` wants a constant.
const TARGET: &str = "postrider::alarm";
/// The shortest time between two mails for one cause.
const REPEAT_FIRST: Duration = Duration::from_secs(3600);
/// While a cause goes on, the time between its mails doubles up to this: a disk that stays full over a weekend, or a
/// certificate nobody renews, must not bury the other causes.
const REPEAT_MAX: Duration = Duration::from_secs(86_400);
/// A cause that was not noticed for so long is over.
const OVER_AFTER: Duration = Duration::from_secs(3600);
/// Subjects (sources, credentials) that one cause tells apart; those beyond are told as `other`, together.
const SUBJECTS_MAX: usize = 16;
/// Longest subject and longest detail. Unit: bytes.
const SUBJECT_BYTES_MAX: usize = 100;
const DETAIL_BYTES_MAX: usize = 600;
/// Our own mails that are remembered, so that none is told of itself. They leave within hours.
const OWN_MAX: usize = 256;

/// What can be wrong. The names are stable: alert rules and filters of mail know them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// Messages are answered 452 for want of space.
    DiskFull,
    /// It will be, soon.
    DiskNearlyFull,
    /// The spool's writer shows no life.
    SpoolSilent,
    /// A sync took over a second.
    SlowSync,
    /// A record could not be read and was set aside.
    Quarantined,
    /// A message in the spool is damaged, and held.
    MessageDamaged,
    /// The queue's index was given up.
    IndexBad,
    /// A source's address cannot be used on this machine.
    SourceUnusable,
    /// A peer refused our authentication: SPF, DKIM or DMARC, or a smarthost's AUTH.
    AuthenticationRefused,
    /// A source is blocked or listed at a provider.
    SourceBlocked,
    /// A sending domain was stopped at a site.
    SendingDomainStopped,
    /// A source's warm-up was frozen at a provider.
    WarmupFrozen,
    /// A peer saw one Message-ID twice.
    DuplicateMessageId,
    /// Messages are past their longest age and still here.
    MessagesPastAge,
    /// Messages wait for nothing: nobody would ever send them.
    NoNextEvent,
    /// The certificate that clients see expires soon, or has.
    CertificateExpiring,
}

/// How bad it is: the level of the log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Severity {
    /// We break, or are about to break, a promise.
    Error,
    /// An operator should look today.
    Warning,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 16] = [
        Cause::DiskFull,
        Cause::DiskNearlyFull,
        Cause::SpoolSilent,
        Cause::SlowSync,
        Cause::Quarantined,
        Cause::MessageDamaged,
        Cause::IndexBad,
        Cause::SourceUnusable,
        Cause::AuthenticationRefused,
        Cause::SourceBlocked,
        Cause::SendingDomainStopped,
        Cause::WarmupFrozen,
        Cause::DuplicateMessageId,
        Cause::MessagesPastAge,
        Cause::NoNextEvent,
        Cause::CertificateExpiring,
    ];

    /// The word in logs, metrics and mails.
    pub fn name(self) -> &'static str {
        match self {
            Cause::DiskFull => "disk_full",
            Cause::DiskNearlyFull => "disk_nearly_full",
            Cause::SpoolSilent => "spool_silent",
            Cause::SlowSync => "slow_sync",
            Cause::Quarantined => "quarantined",
            Cause::MessageDamaged => "message_damaged",
            Cause::IndexBad => "index_bad",
            Cause::SourceUnusable => "source_unusable",
            Cause::AuthenticationRefused => "authentication_refused",
            Cause::SourceBlocked => "source_blocked",
            Cause::SendingDomainStopped => "sending_domain_stopped",
            Cause::WarmupFrozen => "warmup_frozen",
            Cause::DuplicateMessageId => "duplicate_message_id",
            Cause::MessagesPastAge => "messages_past_age",
            Cause::NoNextEvent => "no_next_event",
            Cause::CertificateExpiring => "certificate_expiring",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Cause::DiskFull
            | Cause::SpoolSilent
            | Cause::Quarantined
            | Cause::MessageDamaged
            | Cause::SourceUnusable
            | Cause::MessagesPastAge
            | Cause::NoNextEvent => Severity::Error,
            Cause::DiskNearlyFull
            | Cause::SlowSync
            | Cause::IndexBad
            | Cause::AuthenticationRefused
            | Cause::SourceBlocked
            | Cause::SendingDomainStopped
            | Cause::WarmupFrozen
            | Cause::DuplicateMessageId
            | Cause::CertificateExpiring => Severity::Warning,
        }
    }

    /// What it means, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Cause::DiskFull => {
                "The disk under the spool is full: clients are answered 452. Mail that is here is sent on."
            }
            Cause::DiskNearlyFull => "The disk under the spool is nearly full. When it is, clients are answered 452.",
            Cause::SpoolSilent => "The spool's writer shows no life: the disk hangs. No message is accepted meanwhile.",
            Cause::SlowSync => "The disk took over a second to make a message durable.",
            Cause::Quarantined => "Records of the spool could not be read and were set aside: the disk lost something.",
            Cause::MessageDamaged => {
                "A message in the spool is damaged. It is held, and its sender is told that it failed."
            }
            Cause::SourceUnusable => "A source's address cannot be used on this machine: mail that goes over it waits.",
            Cause::IndexBad => "The queue's index on disk failed. Mail flows without it; the next start takes longer.",
            Cause::AuthenticationRefused => "A peer refuses our mail because it is not authenticated as it should be.",
            Cause::SourceBlocked => "A peer blocks one of our addresses, or found it on a blocklist.",
            Cause::SendingDomainStopped => "A site refuses mail of a sending domain, which is stopped there.",
            Cause::WarmupFrozen => "A provider refuses a source that is being warmed up. Its stage is frozen.",
            Cause::DuplicateMessageId => "A peer got one Message-ID twice: messages may arrive in duplicate.",
            Cause::MessagesPastAge => "Messages are past their longest age and were not given back: a bug.",
            Cause::NoNextEvent => "Messages wait for nothing, so nobody would ever send them: a bug.",
            Cause::CertificateExpiring => "The certificate that clients see expires soon, or has expired.",
        }
    }

    /// What to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Cause::DiskFull => "Make room on the file system; delete nothing in the spool itself.",
            Cause::DiskNearlyFull => "Make room on the file system; delete nothing in the spool itself.",
            Cause::SpoolSilent => {
                "Look at the disk and at the kernel's log; systemd restarts the daemon after 30 seconds."
            }
            Cause::SlowSync => "Look at the disk, and at what else writes to it.",
            Cause::Quarantined => "Look at the disk's health, then read docs/SPOOL.md, \"Damage\".",
            Cause::MessageDamaged => {
                "Look at the disk's health. Delete it when nothing is to be saved of it: `postrider queue delete ID`."
            }
            Cause::SourceUnusable => "Give the machine the address, or correct or remove the [source] in the config.",
            Cause::IndexBad => "Look for the reason in the log: a full or failing disk. It is begun anew by itself.",
            Cause::AuthenticationRefused => "Check the SPF, DKIM and DMARC records of the sending domain.",
            Cause::SourceBlocked => {
                "Stop what made it so (a bad list, a stolen credential), then ask the provider or list to lift it."
            }
            Cause::SendingDomainStopped => {
                "Read the site's words, and check the SPF, DKIM and DMARC records of the domain."
            }
            Cause::WarmupFrozen => {
                "Read the provider's words. Send less, and to recipients who want it, until it takes mail again."
            }
            Cause::DuplicateMessageId => {
                "Look whether an application reuses Message-IDs, or connections break after the final dot."
            }
            Cause::MessagesPastAge => "Look at one, restart the daemon, and please report it.",
            Cause::NoNextEvent => "Order them to be tried (`postrider queue retry --all`), and please report it.",
            Cause::CertificateExpiring => "Renew it, then `systemctl reload postrider`.",
        }
    }

    /// The command to look closer.
    pub fn command(self) -> &'static str {
        match self {
            Cause::DiskFull => "df -h /var/lib/postrider",
            Cause::DiskNearlyFull => "df -h /var/lib/postrider",
            Cause::SpoolSilent => "journalctl -k -n 50",
            Cause::SlowSync => "journalctl -u postrider -n 50",
            Cause::Quarantined => "postrider spool check",
            Cause::MessageDamaged => "postrider queue list --state held",
            Cause::SourceUnusable => "postrider check --network",
            Cause::IndexBad => "journalctl -u postrider -n 50",
            Cause::AuthenticationRefused => "postrider check --network",
            Cause::SourceBlocked => "postrider check --network",
            Cause::SendingDomainStopped => "postrider check --network",
            Cause::WarmupFrozen => "postrider check --network",
            Cause::DuplicateMessageId => "journalctl -u postrider --grep uncertain",
            Cause::MessagesPastAge => "postrider queue list",
            Cause::NoNextEvent => "postrider queue list",
            Cause::CertificateExpiring => "postrider check",
        }
    }
}

/// What is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// What is wrong.
    pub cause: Cause,
    /// With which source, credential or the like; empty if there is only one.
    pub subject: Box<str>,
    /// What was noticed last, in words. One line of printable ASCII.
    pub detail: Box<str>,
    /// Since when it goes on.
    pub since: Timestamp,
    /// When it was noticed last.
    pub last: Timestamp,
    /// How often it was noticed since the last notice, beyond this one.
    pub held_back: u64,
}

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

impl Notice {
    /// The mail: plain text, what and since when, what to do, and the command to look closer. CRLF line ends.
    pub fn letter(&self, hostname: &Domain, postmaster: &str) -> Vec<u8> {
        let Notice { cause, subject, detail, since, last, held_back } = self;
        let about = if subject.is_empty() { String::new() } else { format!(" ({subject})") };
        let mut text = String::with_capacity(2048);
        let headers = [
            ("From", format!("Postrider <MAILER-DAEMON@{hostname}>")),
            ("To", format!("<{postmaster}>")),
            ("Subject", format!("[postrider] {hostname}: {}{about}", cause.name())),
            // RFC 3834 §5: nobody's holiday program is to answer.
            ("Auto-Submitted", "auto-generated".to_owned()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=us-ascii".to_owned()),
        ];
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        paragraph(&mut text, cause.meaning());
        if !subject.is_empty() {
            paragraph(&mut text, &format!("It concerns: {subject}"));
        }
        if !detail.is_empty() {
            paragraph(&mut text, &format!("What was seen: {detail}"));
        }
        paragraph(&mut text, &format!("Since {}; last seen {}.", since.rfc3339(), last.rfc3339()));
        if *held_back > 0 {
            let times = if *held_back == 1 { "time" } else { "times" };
            paragraph(&mut text, &format!("It was seen {held_back} more {times} since the mail before this one."));
        }
        paragraph(&mut text, &format!("What to do: {}", cause.remedy()));
        paragraph(&mut text, &format!("To look closer: {}", cause.command()));
        paragraph(
            &mut text,
            "While it goes on you are told again after an hour, then after twice as long each time, a day at most.",
        );
        text.into_bytes()
    }
}

/// Words in lines of 76 characters or less, unless one word is longer, and an empty line. A word of over 900 characters
/// does not come: details are shorter.
fn paragraph(text: &mut String, words: &str) {
    let mut length = 0;
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        if length > 0 && length + 1 + word.len() > 76 {
            text.push_str("\r\n");
            length = 0;
        }
        if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += word.len();
    }
    text.push_str("\r\n\r\n");
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

    #[test]
    fn the_manual_lists_every_cause_by_its_name() {
        let manual = include_str!("../docs/OPERATIONS.md");
        for (place, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, place, "the counters' order");
            assert!(manual.contains(&format!("`{}`", cause.name())), "{cause:?}");
        }
    }

    #[test]
    fn a_letter_says_what_since_when_what_to_do_and_how_to_look_closer() {
        let hostname: Domain = "relay.example.com".parse().unwrap();
        for cause in Cause::ALL {
            let notice = Notice {
                cause,
                subject: "a".into(),
                detail: line(&"word ".repeat(500), DETAIL_BYTES_MAX).into(),
                since: at(0),
                last: at(60),
                held_back: 3,
            };
            let letter = String::from_utf8(notice.letter(&hostname, "ops@example.com")).unwrap();
            for part in [
                &*format!("Subject: [postrider] relay.example.com: {} (a)\r\n", cause.name()),
                "To: <ops@example.com>\r\n",
                "Auto-Submitted: auto-generated\r\n",
                "Since 2027-01-15T08:00:00.000Z",
                "3 more times",
                "What to do: ",
                &format!("To look closer: {}\r\n", cause.command()),
            ] {
                assert!(letter.contains(part), "{part:?}\n{letter}");
            }
            assert!(letter.is_ascii() && letter.lines().all(|line| line.len() <= 78), "{letter}");
            assert!(letter.ends_with("\r\n") && !letter.replace("\r\n", "").contains(['\r', '\n']));
        }
    }
}
