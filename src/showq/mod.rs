//! What any user of this machine may ask: a listing of the queue, and that what waits be tried now. Contents, and all else,
//! are for who can open the control socket.
//!
//! Two unix sockets in `public/`, which everybody can connect to. `showq` speaks first and needs no request; `flush` reads one
//! line. Both know who asks by the socket's credentials, and are bounded in connections and in time.

pub mod wire;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::mail::{Cause, Outcome, QueueId, RecipientState, Stage};
use crate::pickup::Directory;
use crate::queue::{Filter, LISTING_MAX, Listed, Order, Ordered, Queue, State};
use crate::users;
use wire::Message;

/// Ends the pauses of sites that refused: mail was ordered to be tried now.
pub type Probe = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The directory of the sockets in the data directory.
pub const NAME: &str = "public";
/// The socket that lists.
pub const SHOWQ_NAME: &str = "showq";
/// The socket that takes orders to try.
pub const FLUSH_NAME: &str = "flush";
/// When sockets that could not be made are tried again.
const OPENED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// What `sendmail` reads of the config.
pub const LIMITS_NAME: &str = "limits";
/// Connections at once, of both sockets together.
const CONNECTIONS_MAX: usize = 16;
/// Longest listing.
const LISTING_WITHIN: Duration = Duration::from_secs(300);
/// Longest wait for a client to take what was written, or to say what it wants.
const CLIENT_WITHIN: Duration = Duration::from_secs(10);
/// Messages of the maildrop that a listing shows.
const MAILDROP_MAX: usize = 1000;
/// How often everything that waits can be ordered to be tried.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// Longest request. Unit: octets.
const REQUEST_LENGTH_MAX: usize = 512;
/// Orders carried out at once: their records share syncs.
const ORDERS_MAX: usize = 64;

/// Who may ask.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may list: names, `!name`, `*`.
    pub list_users: Vec<String>,
    /// Who may order mail to be tried.
    pub flush_users: Vec<String>,
    /// What is told to `sendmail`.
    pub limits: Limits,
}

/// What `sendmail` says to its caller at once, instead of by a bounce.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Longest message.
    pub message_bytes_max: u64,
    /// Who may send.
    pub submit_users: Vec<String>,
}

/// The public sockets. Cheap to clone.
#[derive(Clone)]
pub struct Showq {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Queue,
    maildrop: Directory,
    probe: Probe,
    settings: ArcSwap<Settings>,
    connections: Arc<Semaphore>,
    flushed: Mutex<Option<Instant>>,
}

impl Showq {
    /// Answers about this queue and this maildrop.
    pub fn new(queue: Queue, maildrop: Directory, probe: Probe, settings: Settings) -> Showq {
        let shared = Shared {
            queue,
            maildrop,
            probe,
            settings: ArcSwap::from_pointee(settings),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            flushed: Mutex::new(None),
        };
        Showq { shared: Arc::new(shared) }
    }

    /// Follows a reload.
    pub fn reload(&self, settings: Settings) {
        let before = self.shared.settings.swap(Arc::new(settings));
        let after = self.shared.settings.load();
        if before.limits != after.limits
            && let Some(data_dir) = self.shared.maildrop.path().parent()
            && let Err(error) = tell_limits(&data_dir.join(NAME), &after.limits)
        {
            warn!(%error, "sendmail goes by the old limits");
        }
    }

    /// Makes the sockets, and answers until it must stop. A disk that is full now holds up no mail: it is tried again.
    pub fn start(&self, data_dir: &Path, mut stop: watch::Receiver<bool>) {
        let Err(error) = self.open(data_dir, &stop) else { return };
        warn!(%error, directory = %data_dir.join(NAME).display(), "mailq and postqueue get no answer yet: their sockets cannot be made");
        let (showq, data_dir) = (self.clone(), data_dir.to_owned());
        tokio::spawn(async move {
            while timeout(OPENED_AGAIN_AFTER, stop.wait_for(|stop| *stop)).await.is_err() {
                if showq.open(&data_dir, &stop).is_ok() {
                    info!("mailq and postqueue get answers again");
                    return;
                }
            }
        });
    }

    fn open(&self, data_dir: &Path, stop: &watch::Receiver<bool>) -> io::Result<()> {
        let public = data_dir.join(NAME);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&public)?;
        fs::set_permissions(&public, fs::Permissions::from_mode(0o755))?;
        tell_limits(&public, &self.shared.settings.load().limits)?;
        for (name, errand) in [(SHOWQ_NAME, Errand::List), (FLUSH_NAME, Errand::Flush)] {
            let listener = bind(&public.join(name))?;
            tokio::spawn(self.clone().answer(listener, errand, stop.clone()));
        }
        Ok(())
    }

    async fn answer(self, listener: UnixListener, errand: Errand, mut stop: watch::Receiver<bool>) {
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Who finds no room is closed, and may come again.
            let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() else { continue };
            let showq = self.clone();
            tokio::spawn(async move {
                let done = match errand {
                    Errand::List => timeout(LISTING_WITHIN, showq.list(stream)).await,
                    Errand::Flush => timeout(LISTING_WITHIN, showq.flush(stream)).await,
                };
                // A client that left, or was too slow, is no trouble of ours.
                drop((done, permit));
            });
        }
    }

    /// Whether the user at the other end may do this; the text to tell him otherwise.
    async fn check(&self, stream: &UnixStream, list: &[String], what: &str) -> io::Result<Result<u32, String>> {
        let uid = stream.peer_cred()?.uid();
        if uid == 0 || uid == rustix::process::geteuid().as_raw() || list.first().is_some_and(|first| first == "*") {
            return Ok(Ok(uid));
        }
        let user = tokio::task::spawn_blocking(move || users::user(uid)).await.ok().flatten();
        let name = user.map(|user| user.name);
        Ok(match users::allows(list, uid, name.as_deref()) {
            true => Ok(uid),
            false => Err(format!("User {}({uid}) is not allowed to {what}", name.as_deref().unwrap_or("unknown"))),
        })
    }

    async fn list(&self, mut stream: UnixStream) -> io::Result<()> {
        let settings = self.shared.settings.load_full();
        let mut out = Vec::new();
        if let Err(text) = self.check(&stream, &settings.list_users, "view the mail queue").await? {
            wire::write_error(&mut out, &text);
            return send(&mut stream, &mut out).await;
        }
        let maildrop = self.shared.maildrop.clone();
        let waiting = tokio::task::spawn_blocking(move || maildrop_messages(&maildrop)).await.unwrap_or_default();
        waiting.iter().for_each(|message| message.write(&mut out));
        send(&mut stream, &mut out).await?;
        // Those that change their state meanwhile are shown once.
        let mut shown = HashSet::new();
        for state in [State::Active, State::Ready, State::Deferred, State::Scheduled, State::Held] {
            let filter = Filter { state: Some(state), ..Filter::default() };
            let mut after = QueueId::MIN;
            loop {
                let page = self.shared.queue.list(filter.clone(), after, LISTING_MAX).await;
                for listed in page.rows.iter().filter(|listed| shown.insert(listed.waiting.id)) {
                    message(listed).write(&mut out);
                }
                send(&mut stream, &mut out).await?;
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        // One that went from a state not yet listed to one that was, by an attempt that began or ended, is not left out.
        let mut after = QueueId::MIN;
        loop {
            let page = self.shared.queue.ids(Filter::default(), after, LISTING_MAX).await;
            for id in page.rows.into_iter().filter(|id| shown.insert(*id)) {
                if let Some(listed) = self.shared.queue.show(id).await {
                    message(&listed).write(&mut out);
                }
            }
            send(&mut stream, &mut out).await?;
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        wire::write_end(&mut out);
        send(&mut stream, &mut out).await
    }

    async fn flush(&self, mut stream: UnixStream) -> io::Result<()> {
        let settings = self.shared.settings.load_full();
        let answer = match self.check(&stream, &settings.flush_users, "flush the mail queue").await? {
            Err(text) => format!("denied {text}\n"),
            Ok(uid) => {
                let request = request(&mut stream).await?;
                self.carry_out(&request, uid).await
            }
        };
        timeout(CLIENT_WITHIN, stream.write_all(answer.as_bytes())).await?
    }

    /// `all`, `id ID` or `site DOMAIN`.
    async fn carry_out(&self, request: &str, uid: u32) -> String {
        let queue = &self.shared.queue;
        let (word, rest) = request.split_once(' ').unwrap_or((request, ""));
        let filter = match word {
            "all" => Filter { state: Some(State::Deferred), ..Filter::default() },
            "site" => match rest.parse() {
                Ok(domain) => Filter { state: Some(State::Deferred), domain: Some(domain), ..Filter::default() },
                Err(_) => return "bad a domain is expected\n".to_owned(),
            },
            "id" => match rest.parse::<QueueId>() {
                Ok(id) => {
                    let ordered = queue.order(id, Order::Retry).await;
                    (self.shared.probe)().await;
                    return match ordered {
                        Ordered::Unknown => "unknown\n".to_owned(),
                        _ => "ok\n".to_owned(),
                    };
                }
                Err(_) => return "bad a queue id is expected\n".to_owned(),
            },
            _ => return "bad all, id ID or site DOMAIN is expected\n".to_owned(),
        };
        if word == "all" && !self.may_flush() {
            // It was done a moment ago.
            return "ok\n".to_owned();
        }
        info!(uid, request, "waiting mail is to be tried now");
        self.retry(filter).await;
        (self.shared.probe)().await;
        "ok\n".to_owned()
    }

    fn may_flush(&self) -> bool {
        let mut last = self.shared.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|at| at.elapsed() >= FLUSH_EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }

    async fn retry(&self, filter: Filter) {
        let mut after = QueueId::MIN;
        loop {
            let page = self.shared.queue.ids(filter.clone(), after, LISTING_MAX).await;
            let mut running = JoinSet::new();
            for id in page.rows {
                if running.len() >= ORDERS_MAX {
                    running.join_next().await;
                }
                let queue = self.shared.queue.clone();
                running.spawn(async move { queue.order(id, Order::Retry).await });
            }
            while running.join_next().await.is_some() {}
            match page.next {
                Some(next) => after = next,
                None => return,
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Errand {
    List,
    Flush,
}

/// Writes and empties a buffer.
async fn send(stream: &mut UnixStream, out: &mut Vec<u8>) -> io::Result<()> {
    let sent = timeout(CLIENT_WITHIN, stream.write_all(out)).await?;
    out.clear();
    sent
}

async fn request(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let reading = async {
        let mut octet = [0; 64];
        while !line.contains(&b'\n') && line.len() < REQUEST_LENGTH_MAX {
            match stream.read(&mut octet).await? {
                0 => break,
                length => line.extend_from_slice(octet.get(..length).unwrap_or_default()),
            }
        }
        io::Result::Ok(())
    };
    timeout(CLIENT_WITHIN, reading).await??;
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

/// A socket that everybody can connect to.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

fn tell_limits(public: &Path, limits: &Limits) -> io::Result<()> {
    let temporary = public.join("limits.new");
    fs::write(&temporary, serde_json::to_vec(limits)?)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644))?;
    fs::rename(temporary, public.join(LIMITS_NAME))
}

/// What waits in the maildrop, as a listing shows it. Blocks.
pub fn maildrop_messages(maildrop: &Directory) -> Vec<Message> {
    let mut messages = Vec::new();
    for entry in maildrop.scan().unwrap_or_default().into_iter().take(MAILDROP_MAX) {
        let Some((stamp, letter)) =
            maildrop.read(&entry.name).ok().and_then(|octets| postrider_drop::read(&octets).ok())
        else {
            continue;
        };
        messages.push(Message {
            queue: "maildrop".to_owned(),
            id: entry.name,
            time: stamp.time_ms / 1000,
            size: letter.message.len() as u64,
            sender: letter.sender,
            recipients: letter.recipients.into_iter().map(|wanted| (wanted.address, String::new())).collect(),
        });
    }
    messages
}

/// A waiting envelope, as a listing shows it.
pub fn message(listed: &Listed) -> Message {
    let queue = match listed.state {
        State::Active => "active",
        State::Ready if listed.waiting.attempts == 0 => "incoming",
        State::Ready => "active",
        State::Deferred | State::Scheduled => "deferred",
        State::Held => "hold",
    };
    let mut message = Message {
        queue: queue.to_owned(),
        id: listed.waiting.id.to_string(),
        time: listed.waiting.id.made_at().as_secs(),
        ..Message::default()
    };
    if let Ok(stored) = &listed.stored {
        let envelope = &stored.envelope;
        message.time = envelope.accepted_at.as_secs();
        message.size = envelope.body.size_bytes;
        message.sender = envelope.reverse_path.to_string();
        let recipients = envelope.recipients.iter().zip(&stored.progress.recipients);
        let pending = recipients.filter(|(_, progress)| progress.state == RecipientState::Pending);
        message.recipients = pending
            .map(|(who, progress)| (who.address.to_string(), progress.last.as_ref().map(reason).unwrap_or_default()))
            .collect();
    }
    message
}

/// Why a recipient waits, as Postfix says it.
fn reason(last: &Outcome) -> String {
    let peer = match (&*last.host, last.address) {
        ("", None) => String::new(),
        (host, None) => host.to_owned(),
        (host, Some(address)) => format!("{host}[{address}]"),
    };
    let command = match last.stage {
        Stage::Hello => "EHLO",
        Stage::Auth => "AUTH",
        Stage::Mail => "MAIL FROM",
        Stage::Rcpt => "RCPT TO",
        Stage::Data => "DATA",
        Stage::FinalDot => "end of DATA",
        Stage::Resolve | Stage::Connect | Stage::Greeting | Stage::Tls | Stage::Local => "",
    };
    match &last.cause {
        Cause::Reply(reply) if last.stage == Stage::Greeting => format!("host {peer} refused to talk to me: {reply}"),
        Cause::Reply(reply) if command.is_empty() => format!("host {peer} said: {reply}"),
        Cause::Reply(reply) => format!("host {peer} said: {reply} (in reply to {command} command)"),
        Cause::Local { text, .. } => text.to_string(),
    }
}
