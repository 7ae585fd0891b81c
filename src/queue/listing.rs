//! Looking at the queue: filters over rows, and pages whose details are read from the spool.

use std::collections::HashSet;
use std::time::Duration;

use super::row::{self, Flags, Row};
use super::table::Table;
use super::{Queue, Waiting, blocking};
use crate::mail::{Address, Domain, Marks, QueueId, ReversePath};
use crate::spool::{ReadError, Stored};
use crate::time::Timestamp;

/// Most envelopes of one page.
pub const LISTING_MAX: usize = 1000;
/// Rows looked at under one lock of the table.
const SCAN_ROWS: usize = 4096;

/// Where a waiting envelope stands, as people see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// A connection has it now.
    Active,
    /// An operator or damage stopped it.
    Held,
    /// Its sender asked for a later time, and it was not tried yet.
    Scheduled,
    /// Not due yet.
    Deferred,
    /// Due; it waits for its turn.
    Ready,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] = [State::Active, State::Held, State::Scheduled, State::Deferred, State::Ready];

    /// The word in listings and filters.
    pub fn name(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Held => "held",
            State::Scheduled => "scheduled",
            State::Deferred => "deferred",
            State::Ready => "ready",
        }
    }
}

/// Which envelope senders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sender {
    /// `<>`.
    Null,
    /// This one; upper and lower case are one.
    Address(Address),
    /// All of this domain.
    Domain(Domain),
}

/// Which envelopes. Everything that is set must fit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// By envelope sender.
    pub sender: Option<Sender>,
    /// By the recipients' domain.
    pub domain: Option<Domain>,
    /// By the recipients' domain, one of these: those of a site.
    pub domains: Option<Vec<Domain>>,
    /// By stream.
    pub stream: Option<String>,
    /// By credential; empty: without one.
    pub credential: Option<String>,
    /// By a tag, as it was given.
    pub tag: Option<String>,
    /// Accepted at least this long ago.
    pub older_than: Option<Duration>,
    /// Accepted at most this long ago.
    pub younger_than: Option<Duration>,
    /// By state.
    pub state: Option<State>,
}

/// A waiting envelope with its details.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What memory knows.
    pub waiting: Waiting,
    /// Where it stands.
    pub state: State,
    /// The answer to a final dot was lost at least once.
    pub uncertain: bool,
    /// What the spool knows, or why it cannot say it.
    pub stored: Result<Stored, ReadError>,
}

/// Some envelopes, and where to go on.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// In the order of their ids.
    pub rows: Vec<T>,
    /// The id after which to go on; `None`: that was all.
    pub next: Option<QueueId>,
}

impl Queue {
    /// One page of a listing, with details: at most `limit` (and [`LISTING_MAX`]) envelopes after the id `after`.
    ///
    /// A page may be shorter than its limit, or empty, and yet not the last.
    pub async fn list(&self, filter: Filter, after: QueueId, limit: usize) -> Page<Listed> {
        let queue = self.clone();
        let read = blocking(move || Ok(queue.list_blocking(&filter, after, limit)));
        read.await.unwrap_or(Page { rows: Vec::new(), next: None })
    }

    /// One page of ids: what [`Queue::list`] would show.
    pub async fn ids(&self, filter: Filter, after: QueueId, limit: usize) -> Page<QueueId> {
        let queue = self.clone();
        let read = blocking(move || Ok(queue.ids_blocking(&filter, after, limit)));
        read.await.unwrap_or(Page { rows: Vec::new(), next: None })
    }

    /// One envelope with its details.
    pub async fn show(&self, id: QueueId) -> Option<Listed> {
        let queue = self.clone();
        blocking(move || Ok(queue.detail(id))).await.ok().flatten()
    }

    /// A message as it would be sent: what its envelope alone gets, then what was accepted. `None`: it is not in the queue.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn message(&self, id: QueueId) -> Result<Option<Vec<u8>>, ReadError> {
        let queue = self.clone();
        let read = move || {
            let Some(listed) = queue.detail(id) else { return Ok(None) };
            let Some(seen) = queue.shared.table().seen(id) else { return Ok(None) };
            let (body, _) = queue.look_up(id, seen.row.place, |spool, place| spool.read_body(place.home))?;
            let added = listed.stored.map(|stored| stored.envelope.added_headers).unwrap_or_default();
            Ok(Some([&added[..], &body[..]].concat()))
        };
        blocking(read).await
    }

    fn list_blocking(&self, filter: &Filter, after: QueueId, limit: usize) -> Page<Listed> {
        let page = self.matching(filter, after, limit);
        let rows = page.rows.into_iter().filter_map(|id| self.detail(id));
        // The sender's checksum, and that there is a tag, found candidates; what was read decides.
        let rows = rows.filter(|listed| match &listed.stored {
            Ok(stored) => filter.fits_sender(&stored.envelope.reverse_path) && filter.fits_tag(&stored.envelope.marks),
            Err(_) => true,
        });
        Page { rows: rows.collect(), next: page.next }
    }

    fn ids_blocking(&self, filter: &Filter, after: QueueId, limit: usize) -> Page<QueueId> {
        if filter.sender.is_none() && filter.tag.is_none() {
            return self.matching(filter, after, limit);
        }
        let page = self.list_blocking(filter, after, limit);
        // An unreadable envelope may be of another sender or campaign: no order by filter touches it.
        let rows = page.rows.iter().filter(|listed| listed.stored.is_ok()).map(|listed| listed.waiting.id);
        Page { rows: rows.collect(), next: page.next }
    }

    fn matching(&self, filter: &Filter, mut after: QueueId, limit: usize) -> Page<QueueId> {
        let limit = limit.clamp(1, LISTING_MAX);
        let now = self.now();
        let mut rows: Vec<QueueId> = Vec::new();
        loop {
            let table = self.shared.table();
            // Handles are looked up anew under each lock: they mean nothing once it was let go.
            let Some(keep) = filter.on_rows(&table, now) else { return Page { rows, next: None } };
            let (found, next) = table.page(after, SCAN_ROWS, limit - rows.len(), keep);
            drop(table);
            rows.extend(found.into_iter().map(|seen| seen.row.id));
            match next {
                Some(next) if rows.len() < limit => after = next,
                next => return Page { rows, next },
            }
        }
    }

    fn detail(&self, id: QueueId) -> Option<Listed> {
        let seen = self.shared.table().seen(id)?;
        let stored = self.look_up(id, seen.row.place, |spool, place| spool.read(place, id));
        Some(Listed {
            state: state_of(&seen.row, self.now()),
            uncertain: seen.row.flags.has(Flags::UNCERTAIN),
            waiting: seen.waiting,
            stored: stored.map(|(stored, _)| stored),
        })
    }
}

impl Filter {
    /// The filter over rows; `None` if no row can fit, since nothing that waits has such a name.
    fn on_rows(&self, table: &Table, now: Timestamp) -> Option<impl Fn(&Row) -> bool + use<>> {
        let sender = self.sender.as_ref().map(|sender| match sender {
            Sender::Null => (Some(0), Some(0)),
            Sender::Address(address) => (Some(row::text_checksum(&address.to_string())), None),
            Sender::Domain(domain) => (None, Some(row::text_checksum(domain.as_str()))),
        });
        let domain = match &self.domain {
            Some(domain) => Some(table.domain_handle(domain)?),
            None => None,
        };
        let domains: Option<HashSet<u32>> = match &self.domains {
            Some(names) => {
                let known: HashSet<u32> = names.iter().filter_map(|name| table.domain_handle(name)).collect();
                Some(Some(known).filter(|known| !known.is_empty())?)
            }
            None => None,
        };
        let stream = match &self.stream {
            Some(stream) => Some(table.word_handle(stream)?),
            None => None,
        };
        let credential = match &self.credential {
            Some(credential) => Some(table.word_handle(credential)?),
            None => None,
        };
        let (state, oldest, youngest, tagged) = (self.state, self.older_than, self.younger_than, self.tag.is_some());
        Some(move |row: &Row| {
            let age = now.since(row.id.made_at());
            let (address, sender_domain) = sender.unwrap_or((None, None));
            address.is_none_or(|sum| sum == row.sender)
                && sender_domain.is_none_or(|sum| sum == row.sender_domain)
                && domain.is_none_or(|handle| handle == row.domain)
                && domains.as_ref().is_none_or(|handles| handles.contains(&row.domain))
                && (!tagged || row.flags.has(Flags::TAGGED))
                && stream.is_none_or(|handle| handle == row.stream)
                && credential.is_none_or(|handle| handle == row.credential)
                && oldest.is_none_or(|least| age >= least)
                && youngest.is_none_or(|most| age <= most)
                && state.is_none_or(|state| state == state_of(row, now))
        })
    }

    fn fits_tag(&self, marks: &Marks) -> bool {
        self.tag.as_ref().is_none_or(|tag| marks.tags.iter().any(|known| **known == **tag))
    }

    fn fits_sender(&self, path: &ReversePath) -> bool {
        match (&self.sender, path) {
            (None, _) | (Some(Sender::Null), ReversePath::Null) => true,
            (Some(Sender::Null), ReversePath::Address(_)) => false,
            (Some(Sender::Address(_) | Sender::Domain(_)), ReversePath::Null) => false,
            (Some(Sender::Address(wanted)), ReversePath::Address(address)) => {
                wanted.to_string().eq_ignore_ascii_case(&address.to_string())
            }
            (Some(Sender::Domain(wanted)), ReversePath::Address(address)) => wanted == address.domain(),
        }
    }
}

fn state_of(row: &Row, now: Timestamp) -> State {
    match () {
        () if row.flags.has(Flags::LEASED) => State::Active,
        () if row.flags.has(Flags::HELD) => State::Held,
        () if row.due > now && row.flags.has(Flags::SCHEDULED) => State::Scheduled,
        () if row.due > now => State::Deferred,
        () => State::Ready,
    }
}
