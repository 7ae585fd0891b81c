//! The way in for programs of this machine that run `sendmail`: fetches what the helper left in the maildrop, and hands it
//! to the door. Each message goes in exactly once, whenever the process dies.
//!
//! ```text
//!   1 the name and a fresh queue id are durable (state table 13)
//!   2 the message is durable under that id, and withheld: nothing can end it
//!   3 the file is gone, and that is durable
//!   4 it is let go, and the name forgotten
//! ```
//!
//! After a crash, [`settle`] asks whether the id is in the queue before anything there may move. If so, 2 was reached: the file goes.
//! If not, it was not, and the file is fetched as new.
//!
//! Called by `app`. It trusts of a letter what the helper stamped on it, and nothing else.

mod directory;
pub mod exercise;
mod letter;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use postrider_drop::{Letter, Stamp};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::accept::{Door, Kept, Refusal, Submission};
use crate::alarm::Cause as Alarm;
use crate::clock::Clock;
use crate::ledger::Ledger;
use crate::mail::{Domain, QueueId, Text};
use crate::maillog::Service;
use crate::message::Families;
use crate::queue::{Queue, Withheld};
use crate::time::Timestamp;
use crate::users;

pub use directory::{ASIDE_NAME, Directory, Entry, NAME, is_name};
use letter::Terms;

/// How often the maildrop is looked at without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often what dead writers left is looked for.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// How long a message waits that the door could not take now.
const PUT_OFF: Duration = Duration::from_secs(10);
/// Messages that are put at once: their records share syncs. And how many octets they have together, unless it is one.
const BATCH_MAX: usize = 64;
const BATCH_BYTES_MAX: u64 = 64 << 20;
/// How long a user's name is believed, and of how many.
const NAMES_KEPT: Duration = Duration::from_secs(60);
const NAMES_MAX: usize = 4096;

/// What the clerk is told of the config.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain of bare addresses.
    pub origin: Domain,
    /// The stream of what comes in here.
    pub stream: Option<Text>,
    /// Whose control headers count.
    pub control: Families,
    /// Longest message. Unit: octets.
    pub size_max: u64,
    /// Most recipients of a message.
    pub recipients_max: usize,
    /// Who may send: names, `!name`, `*`.
    pub submit_users: Vec<String>,
}

impl Settings {
    fn terms(&self) -> Terms {
        Terms {
            origin: self.origin.clone(),
            stream: self.stream.clone(),
            control: self.control,
            size_max: self.size_max,
            recipients_max: self.recipients_max,
        }
    }
}

/// Ends what the last run began, before anything in the queue may move. Returns the names to forget. Blocks.
///
/// # Errors
/// A file whose message is in the queue cannot be removed: a start would send it twice.
pub fn settle(queue: &Queue, ledger: &Ledger, directory: &Directory) -> io::Result<Vec<Bytes>> {
    let mut names = Vec::new();
    let mut kept = Vec::new();
    for (key, record) in ledger.pickups() {
        let name = std::str::from_utf8(&key).ok().filter(|name| is_name(name)).map(str::to_owned);
        let id: Option<[u8; 8]> = record.as_ref().try_into().ok();
        match (name, id.map(|raw| QueueId::from_u64(u64::from_be_bytes(raw)))) {
            (Some(name), Some(id)) if queue.is_waiting(id) => kept.push(name),
            // It was never put.
            (Some(_), Some(_)) | (None, _) => {}
            // Whether it was put nobody knows any more: a person looks.
            (Some(name), None) => {
                if directory.set_aside(&name).is_ok() {
                    warn!(maildrop = name, aside = %directory.aside().display(), "its record is damaged: set aside");
                }
            }
        }
        names.push(key);
    }
    if let Some((name, error)) = directory.remove(&kept).into_iter().next().filter(|_| !kept.is_empty()) {
        let path = directory.path().join(name);
        return Err(io::Error::new(error.kind(), format!("{}: cannot be removed: {error}", path.display())));
    }
    Ok(names)
}

/// The clerk of the maildrop.
pub struct Pickup {
    door: Door,
    queue: Queue,
    ledger: Ledger,
    clock: Arc<Clock>,
    directory: Directory,
    settings: Arc<ArcSwap<Settings>>,
    /// What the door could not take, and until when it is left alone.
    put_off: HashMap<String, Instant>,
    /// What is in the queue, while its file cannot be removed: it must not go.
    stuck: Vec<(String, Held)>,
    /// Reports about messages that could not be taken yet: one that is written is not written again.
    reports: HashMap<String, Withheld>,
    users: HashMap<u32, (Option<String>, Instant)>,
    told: Option<Instant>,
}

/// What keeps a message from going, and what tells its sender of recipients that it cannot go to.
struct Held {
    message: Option<Kept>,
    report: Option<Withheld>,
}

/// A message that was read.
struct Loaded {
    entry: Entry,
    letter: Result<(Stamp, Letter), Trouble>,
}

/// Why a file is no message.
enum Trouble {
    /// It never will be one.
    Damaged(String),
    /// It cannot be read now.
    Unreadable(io::Error),
}

/// What became of a message.
enum Fate {
    Taken(Held),
    /// Its file goes to the damaged ones.
    Aside(String),
    /// The daemon may not read its file, or the disk does not give it.
    Unreadable(io::Error),
    Later(String, Option<Withheld>),
}

impl Pickup {
    /// A clerk that fetches from here.
    pub fn new(door: Door, queue: Queue, clock: Arc<Clock>, directory: Directory, settings: Settings) -> Pickup {
        Pickup {
            door,
            ledger: Ledger::new(queue.spool().clone()),
            queue,
            clock,
            directory,
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            put_off: HashMap::new(),
            stuck: Vec::new(),
            reports: HashMap::new(),
            users: HashMap::new(),
            told: None,
        }
    }

    /// Where a reload leaves new settings.
    pub fn settings(&self) -> Arc<ArcSwap<Settings>> {
        Arc::clone(&self.settings)
    }

    /// Fetches until it must stop. What it holds by then is found by the next start.
    pub async fn run(mut self, forget: Vec<Bytes>, mut stop: watch::Receiver<bool>) {
        for name in forget {
            self.ledger.keep_pickup(name, None).await;
        }
        let wake = pipe::OpenOptions::new().read_write(true).open_receiver(self.directory.wake());
        let wake = wake.inspect_err(|error| warn!(%error, "nobody can wake the pickup: it looks once a second")).ok();
        let mut cleaned: Option<Instant> = None;
        while !*stop.borrow() {
            if cleaned.is_none_or(|at| at.elapsed() >= CLEAN_EVERY) {
                cleaned = Some(Instant::now());
                let directory = self.directory.clone();
                let _ = tokio::task::spawn_blocking(move || directory.clean(SystemTime::now())).await;
            }
            if self.round(&stop).await {
                continue;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = woken(wake.as_ref()) => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Fetches what is there. Whether there may be more.
    async fn round(&mut self, stop: &watch::Receiver<bool>) -> bool {
        self.remove_stuck().await;
        let directory = self.directory.clone();
        let scanned = tokio::task::spawn_blocking(move || directory.scan()).await;
        let entries = match scanned {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                let detail = format!("{}: {error}", self.directory.path().display());
                self.door.alarms().state(Alarm::Maildrop, "directory", &detail, self.clock.now());
                return false;
            }
            Err(_) => return false,
        };
        self.door.alarms().clear(Alarm::Maildrop, "directory");
        let now = Instant::now();
        self.put_off.retain(|_, until| *until > now);
        // Somebody took the file away: the report about it is true all the same.
        self.reports.retain(|name, _| entries.iter().any(|entry| entry.name == *name));
        let stuck = |name: &str| self.stuck.iter().any(|(other, _)| other == name);
        let mut waiting: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| !self.put_off.contains_key(&entry.name) && !stuck(&entry.name))
            .collect();
        waiting.reverse();
        let mut any = false;
        while !waiting.is_empty() && !*stop.borrow() {
            let mut batch = Vec::new();
            let mut octets = 0;
            while let Some(entry) = waiting
                .pop_if(|entry| batch.is_empty() || (batch.len() < BATCH_MAX && octets + entry.size <= BATCH_BYTES_MAX))
            {
                octets += entry.size;
                batch.push(entry);
            }
            any |= self.fetch(batch).await;
        }
        any
    }

    /// Fetches some. Whether one of them was taken.
    async fn fetch(&mut self, batch: Vec<Entry>) -> bool {
        let directory = self.directory.clone();
        let loading =
            tokio::task::spawn_blocking(move || batch.into_iter().map(|entry| load(&directory, entry)).collect());
        let loaded: Vec<Loaded> = loading.await.unwrap_or_default();
        let mut running = JoinSet::new();
        let mut fates = Vec::new();
        for Loaded { entry, letter } in loaded {
            match letter {
                Ok((stamp, letter)) => {
                    let user = self.user(stamp.uid).await;
                    let errand = Errand {
                        door: self.door.clone(),
                        queue: self.queue.clone(),
                        ledger: self.ledger.clone(),
                        settings: self.settings.load_full(),
                        now: self.clock.now(),
                        name: entry.name,
                        stamp,
                        user,
                    };
                    let report = self.reports.remove(&errand.name);
                    running.spawn(async move { (errand.name.clone(), errand.put(letter, report).await) });
                }
                Err(Trouble::Damaged(text)) => fates.push((entry.name, Fate::Aside(text))),
                Err(Trouble::Unreadable(error)) => fates.push((entry.name, Fate::Unreadable(error))),
            }
        }
        while let Some(ended) = running.join_next().await {
            fates.extend(ended.ok());
        }
        self.conclude(fates).await
    }

    /// Step 3 and 4 for what was taken; the others stay, or go to the damaged ones.
    async fn conclude(&mut self, fates: Vec<(String, Fate)>) -> bool {
        let (now, mut taken) = (self.clock.now(), Vec::new());
        for (name, fate) in fates {
            match fate {
                Fate::Taken(held) => taken.push((name, held)),
                Fate::Aside(text) => self.set_aside(name, &text, now).await,
                Fate::Unreadable(error) => {
                    let advice = match error.kind() {
                        io::ErrorKind::PermissionDenied => {
                            "; put the daemon's user into the group postrider-drop, and restart it"
                        }
                        _ => "",
                    };
                    let detail = format!("{name} cannot be read, and stays in the maildrop: {error}{advice}");
                    if self.told.is_none_or(|at| at.elapsed() >= CLEAN_EVERY) {
                        self.told = Some(Instant::now());
                        warn!("{detail}");
                    }
                    self.door.alarms().event(Alarm::Maildrop, "files", &detail, now);
                    self.put_off.insert(name, Instant::now() + PUT_OFF);
                }
                Fate::Later(text, report) => {
                    self.reports.extend(report.map(|report| (name.clone(), report)));
                    if self.told.is_none_or(|at| at.elapsed() >= CLEAN_EVERY) {
                        self.told = Some(Instant::now());
                        warn!(maildrop = name, "it cannot be taken now, and stays in the maildrop: {text}");
                    }
                    self.put_off.insert(name, Instant::now() + PUT_OFF);
                }
            }
        }
        let any = !taken.is_empty();
        self.let_go(taken).await;
        any
    }

    /// Removes files, and lets their messages go.
    async fn let_go(&mut self, taken: Vec<(String, Held)>) {
        if taken.is_empty() {
            return;
        }
        let names: Vec<String> = taken.iter().map(|(name, _)| name.clone()).collect();
        let directory = self.directory.clone();
        let removing = tokio::task::spawn_blocking(move || directory.remove(&names)).await;
        let failed: Option<HashMap<String, io::Error>> = removing.map(|failed| failed.into_iter().collect()).ok();
        let mut forgetting = JoinSet::new();
        for (name, held) in taken {
            let error = failed.as_ref().map(|failed| failed.get(&name));
            match error {
                Some(None) => {
                    let ledger = self.ledger.clone();
                    forgetting.spawn(async move {
                        drop(held.report);
                        if let Some(kept) = held.message {
                            kept.release().await;
                        }
                        ledger.keep_pickup(name.into(), None).await;
                    });
                }
                not_removed => {
                    let text = not_removed.flatten().map(ToString::to_string).unwrap_or_default();
                    let detail = format!("its file cannot be removed, so its message does not go: {text}");
                    self.door.alarms().state(Alarm::Maildrop, &name, &detail, self.clock.now());
                    self.stuck.push((name, held));
                }
            }
        }
        while forgetting.join_next().await.is_some() {}
    }

    async fn remove_stuck(&mut self) {
        let stuck = std::mem::take(&mut self.stuck);
        let names: Vec<String> = stuck.iter().map(|(name, _)| name.clone()).collect();
        self.let_go(stuck).await;
        for name in names.iter().filter(|name| !self.stuck.iter().any(|(other, _)| other == *name)) {
            self.door.alarms().clear(Alarm::Maildrop, name);
        }
    }

    async fn set_aside(&mut self, name: String, text: &str, now: Timestamp) {
        let (directory, moved) = (self.directory.clone(), name.clone());
        let moved = tokio::task::spawn_blocking(move || directory.set_aside(&moved)).await;
        let place = match moved {
            Ok(Ok(())) => format!("set aside in {}", self.directory.aside().display()),
            _ => {
                self.put_off.insert(name.clone(), Instant::now() + CLEAN_EVERY);
                "it stays in the maildrop".to_owned()
            }
        };
        warn!(maildrop = name, "it is not sent: {text}; {place}");
        self.door.alarms().event(Alarm::Maildrop, "message", &format!("{name}: {text}; {place}"), now);
    }

    /// The name of a user.
    async fn user(&mut self, uid: u32) -> Option<String> {
        if let Some((name, at)) = self.users.get(&uid)
            && at.elapsed() < NAMES_KEPT
        {
            return name.clone();
        }
        let name = tokio::task::spawn_blocking(move || users::user(uid)).await.ok().flatten().map(|user| user.name);
        if self.users.len() >= NAMES_MAX {
            self.users.clear();
        }
        self.users.insert(uid, (name.clone(), Instant::now()));
        name
    }
}

/// Waits for the helper's word, and swallows it.
async fn woken(pipe: Option<&pipe::Receiver>) {
    let Some(pipe) = pipe else { return std::future::pending().await };
    if pipe.readable().await.is_err() {
        return std::future::pending().await;
    }
    let mut words = [0; 4096];
    while matches!(pipe.try_read(&mut words), Ok(1..)) {}
}

fn load(directory: &Directory, entry: Entry) -> Loaded {
    let letter = match directory.read(&entry.name) {
        Ok(octets) => postrider_drop::read(&octets).map_err(|flaw| Trouble::Damaged(flaw.to_string())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Trouble::Damaged(error.to_string())),
        Err(error) => Err(Trouble::Unreadable(error)),
    };
    Loaded { entry, letter }
}

/// Steps 1 and 2 for one message.
struct Errand {
    door: Door,
    queue: Queue,
    ledger: Ledger,
    settings: Arc<Settings>,
    now: Timestamp,
    name: String,
    stamp: Stamp,
    user: Option<String>,
}

impl Errand {
    async fn put(&self, letter: Letter, report: Option<Withheld>) -> Fate {
        let at = Timestamp::from_millis(self.stamp.time_ms);
        let Some((submission, refusal)) = letter::submission(&self.settings.terms(), letter, at, self.now) else {
            return Fate::Aside("none of its recipients is an address".to_owned());
        };
        let id = self.queue.next_id(self.now);
        let record = Bytes::copy_from_slice(&id.as_u64().to_be_bytes());
        if !self.ledger.keep_pickup(self.name.clone().into(), Some(record)).await {
            return Fate::Later("its id could not be written down".to_owned(), report);
        }
        let allowed = users::allows(&self.settings.submit_users, self.stamp.uid, self.user.as_deref());
        let refusal = if allowed { refusal } else { Some(self.not_allowed()) };
        self.door
            .events()
            .maillog()
            .write(Service::Pickup, || format!("{id}: uid={} from=<{}>", self.stamp.uid, submission.reverse_path));
        let fate = match refusal {
            Some(refusal) => self.give_back(&submission, &[refusal], id).await,
            None => self.put_where_wanted(submission, id, report).await,
        };
        if matches!(fate, Fate::Later(..) | Fate::Aside(_)) {
            self.ledger.keep_pickup(self.name.clone().into(), None).await;
        }
        fate
    }

    /// Puts a message to whom it can go. For the others, a client would have been told at RCPT; here a DSN says it, and it
    /// comes first: after a crash between the two, it is told twice rather than never.
    async fn put_where_wanted(&self, mut submission: Submission, id: QueueId, mut report: Option<Withheld>) -> Fate {
        let (mut nowhere, mut refusals) = (Vec::new(), Vec::new());
        let recipients = std::mem::take(&mut submission.recipients);
        for recipient in recipients {
            let address = &recipient.0;
            let destination = match address.local().starts_with('-') {
                // Postfix's allow_min_user: an option that stands behind the addresses is nobody's name.
                true => Err(Refusal {
                    code: 550,
                    status: "5.1.3",
                    text: format!("<{address}>: bad address syntax: it begins with -"),
                }),
                false => self.door.check_destination(&submission.reverse_path, address, self.now),
            };
            match destination {
                Err(refusal) if refusal.code >= 500 => {
                    nowhere.push(recipient);
                    refusals.push(refusal);
                }
                // What a table does not know now, the door finds out again.
                Ok(()) | Err(_) => submission.recipients.push(recipient),
            }
        }
        if submission.recipients.is_empty() {
            submission.recipients = nowhere;
            return self.give_back(&submission, &refusals, id).await;
        }
        if !nowhere.is_empty() && report.is_none() {
            let others = Submission { recipients: nowhere, ..submission.clone() };
            match self.give_back(&others, &refusals, self.queue.next_id(self.now)).await {
                Fate::Taken(held) => report = held.report,
                // Nobody is to be told: that is no reason to keep it from the others.
                Fate::Aside(text) => warn!(maildrop = self.name, "not sent to all: {text}"),
                later => return later,
            }
        }
        match self.door.accept_withheld(submission.clone(), id).await {
            Ok(kept) => {
                info!(
                    queue_id = %kept.receipt().id,
                    maildrop = self.name,
                    uid = self.stamp.uid,
                    user = self.user.as_deref().unwrap_or_default(),
                    from = %format_args!("<{}>", submission.reverse_path),
                    "picked up"
                );
                Fate::Taken(Held { message: Some(kept), report })
            }
            Err(refusal) if refusal.code < 500 => Fate::Later(refusal.to_string(), report),
            // Dropped, the report about the others goes as well.
            Err(refusal) => self.give_back(&submission, &[refusal], id).await,
        }
    }

    /// Its program is long gone: a DSN says what a client would have been answered.
    async fn give_back(&self, submission: &Submission, refusals: &[Refusal], id: QueueId) -> Fate {
        let said = refusals.first().map(ToString::to_string).unwrap_or_default();
        match self.door.return_refused(submission, refusals, id).await {
            Ok(Some(withheld)) => {
                let from = &submission.reverse_path;
                warn!(maildrop = self.name, uid = self.stamp.uid, %from, "returned to its sender: {said}");
                Fate::Taken(Held { message: None, report: Some(withheld) })
            }
            Ok(None) => Fate::Aside(format!("{said}, and nobody is to be told")),
            Err(error) => Fate::Later(format!("{error:?}"), None),
        }
    }

    fn not_allowed(&self) -> Refusal {
        let name = self.user.as_deref().unwrap_or("unknown");
        let text = format!("user {name}({}) is not allowed to submit mail (sendmail.submit_users)", self.stamp.uid);
        Refusal { code: 550, status: "5.7.1", text }
    }
}
