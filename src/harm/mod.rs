//! The harm that mail does, and what is kept of it over restarts: to whom mail was delivered of late, what is usual at each
//! site, what each sender's rates are, and who is paused or suspended for them.
//!
//! `evidence` and `rates` decide; this room keeps their books, and writes them down. Told by `accept`; asked by `scheduler`
//! whose mail is held, and by the roof for operators. It changes neither the queue nor the suppression list.
//!
//! | what | where | `kill -9` loses |
//! |---|---|---|
//! | pauses and suspensions, and when past ones were | state table 12 | nothing: each is durable before it is told |
//! | counts of rates | state table 12 | five minutes at most |
//! | sites' shares, storms | state table 11 | a minute at most |
//! | deliveries | `delivered/` in the data directory | ten seconds at most; a power failure what the kernel had not written |

mod deliveries;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;
use tracing::error;

use crate::evidence::{Answer, Circumstances, Means, Share, Sites, Turn};
use crate::mail::{Address, StreamKind, Text};
use crate::rates::{Became, Book, Counts, Hold, Mail, Pause, Rests, Scope, Sender, Span, Step, Suspension, Thresholds};
use crate::spool::{Spool, StateValue};
use crate::time::Timestamp;

use deliveries::Deliveries;

/// The numbers of the state tables; `docs/SPOOL.md` lists them.
const SITES: u16 = 11;
const RATES: u16 = 12;
/// How often counts are written down, beside at a stop.
const COUNTS_EVERY: Duration = Duration::from_secs(300);
/// How often sites are.
const SITES_EVERY: Duration = Duration::from_secs(60);

/// What of the config is needed.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// When rates are too bad.
    pub thresholds: Thresholds,
    /// Providers that send reports of complaints: of deliveries there complaints are a share.
    pub feedback_providers: Vec<Box<str>>,
    /// Who complained gets no transactional mail either. Default: they do.
    pub complaint_stops_all: bool,
    /// Addresses whose deliveries are remembered. Default 16 million: 48 MiB when so many are.
    pub addresses_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        let names = ["yahoo", "outlook", "comcast", "fastmail", "zoho", "mail.ru", "yandex", "seznam", "laposte"];
        Settings {
            thresholds: Thresholds::default(),
            feedback_providers: names.map(Box::from).into(),
            complaint_stops_all: false,
            addresses_max: 1 << 24,
        }
    }
}

/// Whose mail may have to be held, or may go again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Affected {
    /// One credential on one stream.
    Sender(Sender),
    /// All of a credential.
    Credential(Text),
}

impl Affected {
    /// Whether mail of this credential on this stream is meant.
    pub fn is(&self, credential: &str, stream: &str) -> bool {
        match self {
            Affected::Sender(sender) => *sender.credential == *credential && *sender.stream == *stream,
            Affected::Credential(name) => **name == *credential,
        }
    }
}

/// The books. Cheap to clone; all clones are one. [`Harm::default`] forgets all at its end.
#[derive(Clone, Default)]
pub struct Harm {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    settings: ArcSwap<Settings>,
    book: Mutex<Book>,
    sites: Mutex<Sites>,
    deliveries: Mutex<Deliveries>,
    /// Whether anybody is held: so that nobody locks to find none.
    holds_any: AtomicBool,
    /// Whether anybody's mail is or was held, and may wait for longer.
    lengthens_any: AtomicBool,
    affected: Mutex<BTreeSet<Affected>>,
    changes: watch::Sender<u64>,
    spool: Option<Spool>,
    written: Mutex<(Timestamp, Timestamp)>,
    /// The last records of sites, so that only changes are written.
    site_records: Mutex<BTreeMap<Box<str>, String>>,
}

impl Harm {
    /// The books of the last run. Blocks.
    pub fn open(settings: Settings, spool: Spool, directory: PathBuf, now: Timestamp) -> Harm {
        let deliveries = Deliveries::open(directory, settings.addresses_max);
        let (mut book, mut sites) = (Book::default(), Sites::default());
        for (key, record) in entries(&spool, SITES) {
            sites.restore(&key, std::str::from_utf8(&record).unwrap_or_default());
        }
        for (key, record) in entries(&spool, RATES) {
            restore(&mut book, &key, &record);
        }
        let (holds_any, lengthens_any) = (AtomicBool::new(book.holds_any()), AtomicBool::new(book.lengthens_any()));
        let shared = Shared {
            settings: ArcSwap::from_pointee(settings),
            book: Mutex::new(book),
            sites: Mutex::new(sites),
            deliveries: Mutex::new(deliveries),
            holds_any,
            lengthens_any,
            spool: Some(spool),
            written: Mutex::new((now, now)),
            ..Shared::default()
        };
        Harm { shared: Arc::new(shared) }
    }

    /// Follows a new config.
    pub fn reload(&self, settings: Settings) {
        self.shared.settings.store(Arc::new(settings));
    }

    /// Whether who complained gets no transactional mail either.
    pub fn complaint_stops_all(&self) -> bool {
        self.shared.settings.load().complaint_stops_all
    }

    /// Whether a provider sends reports of complaints.
    pub fn sends_feedback(&self, provider: &str) -> bool {
        self.shared.settings.load().feedback_providers.iter().any(|name| **name == *provider)
    }

    /// A site took mail, or said that there is no such mailbox.
    pub fn hear(&self, site: &str, answer: Answer, now: Timestamp) -> Turn {
        lock(&self.shared.sites).hear(site, answer, now)
    }

    /// An address was believed dead for what a site said, and would not have been in a storm.
    #[must_use]
    pub fn believed(&self, site: &str, address: &Address, now: Timestamp) -> bool {
        lock(&self.shared.sites).believed(site, &address.to_string(), now)
    }

    /// The storms of now.
    pub fn storms(&self) -> Vec<(Box<str>, Timestamp, Share)> {
        lock(&self.shared.sites).storms_now()
    }

    /// Mail was delivered to an address.
    pub fn delivered(&self, address: &Address, now: Timestamp) {
        lock(&self.shared.deliveries).mark(&address.text(), now);
    }

    /// What must be known to judge what was said of an address.
    pub fn circumstances(&self, address: &Address, site: &str, means: Means, now: Timestamp) -> Circumstances {
        let delivered_lately = lock(&self.shared.deliveries).knows(&address.text(), means, now);
        Circumstances { delivered_lately, storm: lock(&self.shared.sites).storms(site) }
    }

    /// Counts what became of a recipient. Pauses are in force at once; [`Harm::write`] makes them durable.
    pub fn count(&self, mail: &Mail<'_>, became: Became, now: Timestamp) -> Vec<Step> {
        let settings = self.shared.settings.load();
        let mut book = lock(&self.shared.book);
        let steps = book.count(mail, became, &settings.thresholds, now);
        self.note(&book);
        drop(book);
        for step in &steps {
            match step {
                Step::Pause(sender, _) | Step::Recovered(sender) => self.tell(Affected::Sender(sender.clone())),
                Step::Suspend(credential, _) => self.tell(Affected::Credential(credential.clone())),
                Step::Warn(..) => {}
            }
        }
        steps
    }

    /// Makes what a count brought about durable.
    pub async fn write(&self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Pause(sender, pause) => self.keep(pause_key(sender), Some(pause.record())).await,
                Step::Recovered(sender) => {
                    self.keep_rests(Scope::Sender(sender.clone())).await;
                    self.keep(pause_key(sender), None).await
                }
                Step::Suspend(name, suspension) => self.keep(suspension_key(name), Some(suspension.record())).await,
                Step::Warn(..) => true,
            };
        }
    }

    /// When mail expires that was accepted at `life.0` and would at `life.1`: while it is held its time stands still.
    pub fn expiry(&self, whose: (&str, &str, StreamKind), life: (Timestamp, Timestamp), now: Timestamp) -> Timestamp {
        match self.shared.lengthens_any.load(Ordering::Acquire) {
            true => lock(&self.shared.book).expiry(whose, life, now),
            false => life.1,
        }
    }

    /// Whether mail of a credential on a stream is held.
    pub fn holds(&self, credential: &str, stream: &str, kind: StreamKind) -> bool {
        self.holds_any() && lock(&self.shared.book).hold(credential, stream, kind).is_some()
    }

    /// Why it is held, as a sentence.
    pub fn why_held(&self, credential: &str, stream: &str, kind: StreamKind) -> Option<String> {
        if !self.holds_any() {
            return None;
        }
        lock(&self.shared.book).hold(credential, stream, kind).map(|hold| match hold {
            Hold::Paused(pause) => pause.sentence(&Sender::new(credential, stream)),
            Hold::Suspended(suspension) => suspension.sentence(credential),
        })
    }

    fn holds_any(&self) -> bool {
        self.shared.holds_any.load(Ordering::Acquire)
    }

    /// Whether a credential is suspended: it may not send.
    pub fn is_suspended(&self, credential: &str) -> bool {
        self.holds_any() && lock(&self.shared.book).suspension(credential).is_some()
    }

    /// Why a credential may not send; `None`: it may.
    pub fn why_suspended(&self, credential: &str) -> Option<String> {
        match self.holds_any() {
            true => lock(&self.shared.book).suspension(credential).map(|suspension| suspension.sentence(credential)),
            false => None,
        }
    }

    /// Pauses of now.
    pub fn pauses(&self) -> Vec<(Sender, Pause)> {
        lock(&self.shared.book).pauses().map(|(sender, pause)| (sender.clone(), pause.clone())).collect()
    }

    /// Suspended credentials of now.
    pub fn suspensions(&self) -> Vec<(Box<str>, Suspension)> {
        lock(&self.shared.book).suspensions().map(|(name, suspension)| (name.into(), suspension.clone())).collect()
    }

    /// What was counted in a span.
    pub fn counts(&self, span: Span, now: Timestamp) -> Vec<(Scope, Counts)> {
        let book = lock(&self.shared.book);
        book.counts(span, now).into_iter().map(|(scope, counts)| (scope.clone(), counts)).collect()
    }

    /// A person ends a pause. Durable when it returns.
    ///
    /// # Errors
    /// A sentence: it is not paused, or that could not be written down, and it is paused again after a restart.
    pub async fn resume(&self, sender: &Sender, now: Timestamp) -> Result<String, String> {
        let was = self.change(|book| book.resume(sender, now));
        if !was {
            return Err(format!("{sender} is not paused: `postrider rates` shows who is"));
        }
        self.tell(Affected::Sender(sender.clone()));
        self.keep_rests(Scope::Sender(sender.clone())).await;
        match self.keep(pause_key(sender), None).await {
            true => Ok(format!("{sender} goes on; its counts begin anew")),
            false => Err(format!("{sender} goes on, but that could not be written down: a restart pauses it again")),
        }
    }

    /// A person suspends a credential: its mail is held. Durable when it returns.
    ///
    /// # Errors
    /// A sentence: there are too many, or it could not be written down.
    pub async fn suspend(&self, credential: &str, by: &str, now: Timestamp) -> Result<String, String> {
        let by: String = by.chars().filter(|c| !c.is_control()).take(64).collect();
        let suspension = Suspension { since: now, because: format!("by {by}").into() };
        let record = suspension.record();
        if !self.change(|book| book.suspend(credential, suspension)) {
            return Err("too many credentials are suspended".to_owned());
        }
        self.tell(Affected::Credential(credential.into()));
        match self.keep(suspension_key(credential), Some(record)).await {
            true => Ok(format!("{credential}'s mail is held")),
            false => Err(format!("{credential}'s mail is held, but that could not be written down")),
        }
    }

    /// A person lets a credential in again. `None`: it was not suspended. Durable when it returns.
    ///
    /// # Errors
    /// A sentence: it could not be written down.
    pub async fn unsuspend(&self, credential: &str, now: Timestamp) -> Result<Option<String>, String> {
        if !self.change(|book| book.unsuspend(credential, now)) {
            return Ok(None);
        }
        self.tell(Affected::Credential(credential.into()));
        self.keep_rests(Scope::Credential(credential.into())).await;
        match self.keep(suspension_key(credential), None).await {
            true => Ok(Some(format!("{credential}'s mail goes on"))),
            false => Err(format!("{credential}'s mail goes on, but that could not be written down")),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = lock(&self.shared.book);
        let changed = change(&mut book);
        self.note(&book);
        changed
    }

    fn note(&self, book: &Book) {
        self.shared.holds_any.store(book.holds_any(), Ordering::Release);
        self.shared.lengthens_any.store(book.lengthens_any(), Ordering::Release);
    }

    /// Writes down when a sender's or credential's mail was held: before the end of the hold is, so that a crash between the
    /// two holds it on, and none makes it older.
    async fn keep_rests(&self, scope: Scope) -> bool {
        let record = lock(&self.shared.book).rests(&scope).map(Rests::record);
        self.keep(rests_key(&scope), record).await
    }

    fn tell(&self, affected: Affected) {
        lock(&self.shared.affected).insert(affected);
        self.shared.changes.send_modify(|number| *number += 1);
    }

    /// Says when somebody's mail is to be held or let go; [`Harm::take_affected`] says whose.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whose, since this was asked last.
    pub fn take_affected(&self) -> Vec<Affected> {
        std::mem::take(&mut *lock(&self.shared.affected)).into_iter().collect()
    }

    /// Writes down what is due; all of it at a stop. Storms that ended by themselves are returned. To be called every few
    /// seconds.
    pub async fn tick(&self, when: When, now: Timestamp) -> Vec<(Box<str>, Share)> {
        let shared = Arc::clone(&self.shared);
        // The files; a failure is told there, and tried again.
        let _ = tokio::task::spawn_blocking(move || deliveries::write(&shared.deliveries)).await;
        let (sites_due, counts_due) = {
            let mut written = lock(&self.shared.written);
            let due = |at: &mut Timestamp, every| {
                let is_due = when == When::Stop || now.since(*at) >= every;
                if is_due {
                    *at = now;
                }
                is_due
            };
            (due(&mut written.0, SITES_EVERY), due(&mut written.1, COUNTS_EVERY))
        };
        let ended = lock(&self.shared.sites).tick(now);
        if sites_due {
            self.write_sites().await;
        }
        if counts_due {
            let (changed, forgotten) = self.change(|book| {
                book.forget(now);
                (book.changed(), book.drop_rests(now))
            });
            for scope in forgotten {
                self.put(RATES, rests_key(&scope), None).await;
            }
            for (scope, record) in changed {
                self.put(RATES, counts_key(&scope), record.map(Bytes::from)).await;
            }
        }
        ended
    }

    async fn write_sites(&self) {
        let now: BTreeMap<_, _> = lock(&self.shared.sites).records().into_iter().collect();
        let before = std::mem::replace(&mut *lock(&self.shared.site_records), now.clone());
        for (name, record) in &now {
            if before.get(name) != Some(record) {
                self.put(SITES, name.to_string(), Some(record.clone().into())).await;
            }
        }
        for name in before.keys().filter(|name| !now.contains_key(*name)) {
            self.put(SITES, name.to_string(), None).await;
        }
    }

    async fn keep(&self, key: String, record: Option<String>) -> bool {
        self.put(RATES, key, record.map(Bytes::from)).await
    }

    async fn put(&self, table: u16, key: String, record: Option<Bytes>) -> bool {
        let Some(spool) = &self.shared.spool else { return true };
        match spool.state_put(table, key.into(), record).await {
            Ok(()) => true,
            Err(error) => {
                error!(%error, "what a sender's rates brought about could not be written down");
                false
            }
        }
    }
}

/// Whether all is to be written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// What is due.
    Now,
    /// All.
    Stop,
}

fn pause_key(sender: &Sender) -> String {
    format!("pause\n{sender}")
}

fn suspension_key(credential: &str) -> String {
    format!("suspension\n{credential}")
}

fn rests_key(scope: &Scope) -> String {
    format!("rests\n{}\n{}", scope.kind(), scope.name())
}

fn counts_key(scope: &Scope) -> String {
    format!("counts\n{}\n{}", scope.kind(), scope.name())
}

fn restore(book: &mut Book, key: &str, record: &[u8]) {
    let text = || std::str::from_utf8(record).unwrap_or_default();
    match key.split_once('\n') {
        Some(("pause", sender)) => {
            if let Some(sender) = Sender::parse(sender) {
                book.restore_pause(sender, Pause::read(text()));
            }
        }
        Some(("suspension", credential)) => {
            book.suspend(credential, Suspension::read(text()));
        }
        Some(("rests", scope)) => {
            if let Some(scope) = scope.split_once('\n').and_then(|(kind, name)| Scope::read(kind, name)) {
                book.restore_rests(scope, Rests::read(text()));
            }
        }
        Some(("counts", scope)) => {
            if let Some(scope) = scope.split_once('\n').and_then(|(kind, name)| Scope::read(kind, name)) {
                book.restore_counts(scope, record);
            }
        }
        Some(_) | None => {}
    }
}

/// A table's records. A damaged one is empty: its reader takes the strictest meaning.
fn entries(spool: &Spool, table: u16) -> Vec<(String, Bytes)> {
    let entries = spool.state_entries(table).unwrap_or_else(|error| {
        error!(%error, "what is known of senders and sites could not be read: it begins anew, and nobody is paused");
        Vec::new()
    });
    let read = |value| match value {
        StateValue::Is(record) => Some(record),
        StateValue::Damaged => Some(Bytes::new()),
        StateValue::Absent => None,
    };
    let all = entries.into_iter();
    all.filter_map(|entry| Some((String::from_utf8(entry.key.to_vec()).ok()?, read(entry.value)?))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
