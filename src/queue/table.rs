//! The working index: one row for each envelope that has no final answer, found by queue id, in the order of ids.
//!
//! Changed by the spool's writer thread as it applies records in log order; read by leases and listings. It never
//! touches a disk: a checkpoint asks it what changed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use super::names::{NONE, Names};
use super::row::{self, Flags, Row, RowNames};
use super::{Change, Life, Respite, Waiting};
use crate::mail::{Domain, Envelope, Progress, QueueId, RecipientState, StreamKind};
use crate::spool::{Place, Position, Sequence};
use crate::time::Timestamp;

/// Rows are allocated this many at a time: a growing queue never copies what it has.
const CHUNK_ROWS: usize = 512;
/// A list of changed ids may hold this many that are gone again before it is swept.
const CHANGED_SLACK: usize = 4096;

/// The rows, and what the next checkpoint must write.
pub(super) struct Table {
    respite: Option<Respite>,
    chunks: Vec<Box<[Row]>>,
    free: Vec<u32>,
    places: BTreeMap<QueueId, u32>,
    domains: Names<Domain>,
    /// Of From headers. Apart from the words, since a network that relays has ever new ones.
    authors: Names<Domain>,
    /// Streams, pools, credentials and sources: few, and shared.
    words: Names<Arc<str>>,
    /// The last record that was applied.
    applied: Sequence,
    /// The greatest id ever seen.
    last_id: QueueId,
    /// Changed since the last checkpoint began, in two generations: what is delivered within one checkpoint's time
    /// never reaches the disk.
    young: Vec<QueueId>,
    old: Vec<QueueId>,
    /// Ended, and still in the checkpoint.
    ended: Vec<QueueId>,
    /// The last record applied when `old` was young.
    old_applied: Sequence,
    /// The highest segment that a record stood in, now and when `old_applied` was taken. A start that writes the tail of the
    /// log again gives known records new places in a higher one: that is how the spool sees that a checkpoint is older.
    segment: u32,
    old_segment: u32,
    /// There is an index to write to.
    tracking: bool,
    /// What an envelope without recipients is filed under; nothing makes one.
    no_domain: Domain,
    /// The name that a handle without one means.
    no_word: Arc<str>,
}

/// What a row says, spelt out.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) row: Row,
    pub(super) waiting: Waiting,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            respite: None,
            chunks: Vec::new(),
            free: Vec::new(),
            places: BTreeMap::new(),
            domains: Names::new(u32::MAX - 1),
            authors: Names::new(u32::from(u16::MAX)),
            words: Names::new(u32::from(u16::MAX)),
            applied: Sequence(0),
            last_id: QueueId::MIN,
            young: Vec::new(),
            old: Vec::new(),
            ended: Vec::new(),
            old_applied: Sequence(0),
            segment: 0,
            old_segment: 0,
            tracking: false,
            // Invariant: `invalid` (RFC 2606 §2) is a domain name.
            no_domain: "invalid".parse().expect("a constant"),
            no_word: "".into(),
        }
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn last_id(&self) -> QueueId {
        self.last_id
    }

    pub(super) fn applied(&self) -> Sequence {
        self.applied
    }

    /// An envelope is at `at`, in this state: as accepted, or as the cleaner copied it. Replaces what is known of it,
    /// except who holds its lease.
    pub(super) fn place(&mut self, sequence: Sequence, at: Position, envelope: &Envelope, progress: Option<&Progress>) {
        self.applied = self.applied.max(sequence);
        self.segment = self.segment.max(at.segment);
        self.last_id = self.last_id.max(envelope.id);
        if progress.is_some_and(Progress::is_final) {
            // The cleaner moves only what is alive; were it not, this is what its state says.
            return self.remove(envelope.id);
        }
        if self.row(envelope.id).is_none() {
            let row = self.row_of(at, envelope);
            self.insert(row);
        }
        if let Some(row) = self.row_mut(envelope.id) {
            row.place = Place::home(at);
        }
        match progress {
            Some(progress) => self.update(envelope.id, progress),
            None => self.mark(envelope.id),
        }
    }

    /// An envelope's new state was written. Returns what the scheduler must hear, if no connection will tell it.
    ///
    /// An id without a row is one that ended before the checkpoint from which the rows came.
    pub(super) fn settled(
        &mut self,
        sequence: Sequence,
        at: Position,
        id: QueueId,
        progress: &Progress,
    ) -> Option<Change> {
        self.applied = self.applied.max(sequence);
        self.segment = self.segment.max(at.segment);
        let row = self.row_mut(id)?;
        let announce = row.flags.has(Flags::ANNOUNCE);
        if progress.is_final() {
            self.remove(id);
            return announce.then_some(Change::Gone(id));
        }
        row.place.state = at;
        row.flags.set(Flags::LEASED, false);
        row.flags.set(Flags::ANNOUNCE, false);
        self.update(id, progress);
        if announce { self.seen(id).map(|seen| Change::Waiting(seen.waiting)) } else { None }
    }

    /// An envelope's record is unreadable and was given up.
    pub(super) fn lost(&mut self, id: QueueId) -> Option<Change> {
        self.row(id)?;
        self.remove(id);
        Some(Change::Gone(id))
    }

    /// Takes the lease, unless there is none to take: `None` if the row is leased, held or gone.
    pub(super) fn lease(&mut self, id: QueueId) -> Option<Row> {
        let row = self.row_mut(id)?;
        if row.flags.has(Flags::LEASED) || row.flags.has(Flags::HELD) {
            return None;
        }
        row.flags.set(Flags::LEASED, true);
        Some(*row)
    }

    /// Takes the lease for an operator's order, of a held envelope too. `Err` if a connection has it.
    pub(super) fn lease_for_order(&mut self, id: QueueId) -> Result<Option<Row>, ()> {
        let Some(row) = self.row_mut(id) else { return Ok(None) };
        if row.flags.has(Flags::LEASED) {
            return Err(());
        }
        row.flags.set(Flags::LEASED, true);
        Ok(Some(*row))
    }

    /// The settle that is on its way must be announced.
    pub(super) fn announce(&mut self, id: QueueId) {
        if let Some(row) = self.row_mut(id) {
            row.flags.set(Flags::ANNOUNCE, true);
        }
    }

    /// Gives a lease back, with the envelope as it was.
    pub(super) fn give_back(&mut self, id: QueueId) -> Option<Change> {
        let row = self.row_mut(id)?;
        row.flags.set(Flags::LEASED, false);
        self.seen(id).map(|seen| Change::Waiting(seen.waiting))
    }

    /// Its record could not be read: not before `due`, or held (`None`). In memory only.
    pub(super) fn put_off(&mut self, id: QueueId, due: Option<Timestamp>) {
        let Some(row) = self.row_mut(id) else { return };
        match due {
            Some(due) => row.due = due,
            None => row.flags.set(Flags::HELD, true),
        }
    }

    /// A row, spelt out.
    pub(super) fn seen(&self, id: QueueId) -> Option<Seen> {
        let row = *self.row(id)?;
        Some(self.spell(row))
    }

    /// The rows after an id, in their order.
    pub(super) fn rows_after(&self, after: QueueId) -> impl Iterator<Item = &Row> {
        let places = self.places.range((Bound::Excluded(after), Bound::Unbounded));
        places.filter_map(|(_, place)| self.at(*place))
    }

    pub(super) fn set_respite(&mut self, respite: Respite) {
        self.respite = Some(respite);
    }

    /// When an envelope expires.
    pub(super) fn expiry(&self, life: &Life<'_>) -> Timestamp {
        self.respite.as_ref().map_or(life.expires_at, |respite| respite(life))
    }

    /// When a row's envelope does.
    pub(super) fn expiry_of(&self, row: &Row) -> Timestamp {
        let credential = self.words.name(u32::from(row.credential)).unwrap_or(&self.no_word);
        self.expiry(&Life {
            credential,
            stream: self.stream_of(row),
            kind: row.kind(),
            accepted_at: row.id.made_at(),
            expires_at: row.expires_at(),
        })
    }

    /// The name of a row's stream.
    pub(super) fn stream_of(&self, row: &Row) -> &Arc<str> {
        self.words.name(u32::from(row.stream)).unwrap_or(&self.no_word)
    }

    /// The ids of all rows, in their order.
    pub(super) fn ids(&self) -> Vec<QueueId> {
        self.places.keys().copied().collect()
    }

    /// Up to `scan_max` rows after an id, in order; those that `keep` wants are returned, at most `limit`, with the id
    /// after which to go on (`None`: that was all).
    pub(super) fn page(
        &self,
        after: QueueId,
        scan_max: usize,
        limit: usize,
        keep: impl Fn(&Row) -> bool,
    ) -> (Vec<Seen>, Option<QueueId>) {
        let mut kept = Vec::new();
        let mut last = None;
        let rows = self.places.range((Bound::Excluded(after), Bound::Unbounded));
        for (scanned, (id, place)) in rows.enumerate() {
            if scanned == scan_max || kept.len() == limit {
                return (kept, last);
            }
            last = Some(*id);
            if let Some(row) = self.at(*place).filter(|row| keep(row)) {
                kept.push(self.spell(*row));
            }
        }
        (kept, None)
    }

    /// The handle of a domain that some row has.
    pub(super) fn domain_handle(&self, domain: &Domain) -> Option<u32> {
        self.domains.handle(domain)
    }

    /// The handle of a stream, pool, credential or source that some row has; the empty word's is always known.
    pub(super) fn word_handle(&self, word: &str) -> Option<u16> {
        match word {
            "" => Some(NONE as u16),
            word => self.words.handle(word).and_then(|handle| u16::try_from(handle).ok()),
        }
    }

    /// Begins a checkpoint, which takes what changed before the last one began: mail that is delivered meanwhile never
    /// reaches the disk. It writes everything up to its record, and of some envelopes a newer state; a replay from
    /// there on ends in the same rows, since the latest state of an envelope wins.
    pub(super) fn begin_checkpoint(&mut self, extent: Extent) -> Pass {
        let mut ids = std::mem::take(&mut self.old);
        let young = std::mem::take(&mut self.young);
        let applied = std::mem::replace(&mut self.old_applied, self.applied);
        let seen = std::mem::replace(&mut self.old_segment, self.segment);
        let (sequence, segment) = match extent {
            Extent::Settled => {
                self.old = young;
                (applied, seen)
            }
            Extent::All => {
                ids.extend(young);
                (self.applied, self.segment)
            }
        };
        Pass { ids, ended: std::mem::take(&mut self.ended), sequence, segment, unwritable: false }
    }

    /// The next rows of a checkpoint, encoded, at most `limit`; no value where an envelope ended. Empty: it is done.
    pub(super) fn next_changed(&mut self, limit: usize, pass: &mut Pass) -> Vec<(QueueId, Option<Vec<u8>>)> {
        let mut batch = Vec::with_capacity(limit.min(pass.ids.len() + pass.ended.len()));
        while batch.len() < limit {
            let Some(id) = pass.ids.pop() else { break };
            let Some(row) = self.row(id).copied() else { continue };
            match row::encode(&row, &self.names_of(&row)) {
                Some(bytes) => batch.push((id, Some(bytes))),
                None => pass.unwritable = true,
            }
            if let Some(row) = self.row_mut(id) {
                row.flags.set(Flags::DIRTY, false);
                row.flags.set(Flags::STORED, true);
            }
        }
        while batch.len() < limit {
            let Some(id) = pass.ended.pop() else { break };
            batch.push((id, None));
        }
        batch
    }

    /// From now on changes are kept for checkpoints, the first of which writes every row: the index is new and empty.
    pub(super) fn track_all(&mut self) {
        self.track_none();
        self.tracking = true;
        let ids = self.ids();
        for id in &ids {
            if let Some(row) = self.row_mut(*id) {
                row.flags.set(Flags::DIRTY, true);
            }
        }
        self.old = ids;
        self.old_applied = self.applied;
        self.old_segment = self.segment;
    }

    /// The rows are those of the index, which was written up to this record: from now on changes are kept.
    pub(super) fn track_from(&mut self, sequence: Sequence, segment: u32) {
        self.tracking = true;
        (self.applied, self.old_applied) = (sequence, sequence);
        (self.segment, self.old_segment) = (segment, segment);
    }

    /// There is no index: changes are not kept.
    pub(super) fn track_none(&mut self) {
        self.tracking = false;
        (self.young, self.old, self.ended) = (Vec::new(), Vec::new(), Vec::new());
        for row in self.chunks.iter_mut().flat_map(|chunk| chunk.iter_mut()) {
            row.flags.set(Flags::DIRTY, false);
            row.flags.set(Flags::STORED, false);
        }
    }

    /// Takes a row from the index. `false` if it cannot be read: nothing of the index is believed then.
    pub(super) fn load(&mut self, id: QueueId, bytes: &[u8]) -> bool {
        let Some((mut row, names)) = row::decode(id, bytes) else { return false };
        if self.places.contains_key(&id) {
            return false;
        }
        row.domain = names.domain.as_ref().map_or(NONE, |domain| self.domains.intern(domain, || domain.clone()));
        row.author = self.author(names.author.as_ref());
        row.stream = self.word(&names.stream);
        row.pool = self.word(&names.pool);
        row.credential = self.word(&names.credential);
        row.source = self.word(&names.source);
        row.flags.set(Flags::STORED, true);
        self.last_id = self.last_id.max(id);
        self.insert(row);
        true
    }

    /// The row of an envelope that was never tried.
    fn row_of(&mut self, at: Position, envelope: &Envelope) -> Row {
        let (sender, sender_domain) = row::sender_checksums(&envelope.reverse_path);
        let mut flags = Flags::default();
        flags.set(Flags::MARKETING, envelope.kind == StreamKind::Marketing);
        flags.set(Flags::TAGGED, !envelope.marks.tags.is_empty());
        flags.set(Flags::ENGAGED, envelope.marks.engaged);
        flags.set(Flags::SCHEDULED, envelope.is_scheduled());
        flags.set(Flags::HELD, envelope.held);
        Row {
            id: envelope.id,
            place: Place::home(at),
            due: envelope.release_at,
            expires_secs: row::expiry_secs(envelope.expires_at),
            domain: envelope.domain().map_or(NONE, |domain| self.domains.intern(domain, || domain.clone())),
            sender,
            sender_domain,
            stream: self.word(&envelope.stream),
            pool: self.word(&envelope.pool),
            credential: self.word(&envelope.credential),
            source: 0,
            author: self.author(envelope.author_domain.as_ref()),
            recipients: u16::try_from(envelope.recipients.len()).unwrap_or(u16::MAX),
            flags,
            attempts: 0,
            priority: envelope.priority,
        }
    }

    /// Takes over what a settle changed.
    fn update(&mut self, id: QueueId, progress: &Progress) {
        let source = self.word(&progress.source);
        let pool = self.word(&progress.pool);
        let pending = progress.recipients.iter().filter(|r| r.state == RecipientState::Pending).count();
        let mut let_go = [source, pool];
        if let Some(row) = self.row_mut(id) {
            let_go[0] = std::mem::replace(&mut row.source, source);
            // Without an operator's choice it stays the envelope's.
            if !progress.pool.is_empty() {
                let_go[1] = std::mem::replace(&mut row.pool, pool);
            }
            row.due = progress.due;
            row.attempts = u8::try_from(progress.attempts).unwrap_or(u8::MAX);
            row.recipients = u16::try_from(pending).unwrap_or(u16::MAX);
            row.flags.set(Flags::HELD, progress.held);
            row.flags.set(Flags::UNCERTAIN, progress.uncertain > 0);
            row.flags.set(Flags::SCHEDULED, row.flags.has(Flags::SCHEDULED) && progress.is_untried());
        }
        for word in let_go {
            self.words.release(u32::from(word));
        }
        self.mark(id);
    }

    fn insert(&mut self, row: Row) {
        let Entry::Vacant(entry) = self.places.entry(row.id) else { return };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let first = (self.chunks.len() * CHUNK_ROWS) as u32;
                self.chunks.push(vec![row; CHUNK_ROWS].into_boxed_slice());
                self.free.extend((first + 1..first + CHUNK_ROWS as u32).rev());
                first
            }
        };
        entry.insert(place);
        if let Some(slot) = Self::slot(&mut self.chunks, place) {
            *slot = row;
        }
    }

    fn remove(&mut self, id: QueueId) {
        let Some(place) = self.places.remove(&id) else { return };
        let Some(row) = self.at(place).copied() else { return };
        self.domains.release(row.domain);
        self.authors.release(u32::from(row.author));
        for word in [row.stream, row.pool, row.credential, row.source] {
            self.words.release(u32::from(word));
        }
        if self.tracking && row.flags.has(Flags::STORED) {
            self.ended.push(id);
        }
        self.free.push(place);
        if self.places.is_empty() {
            // Nothing waits: give back what a large queue took.
            (self.chunks, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Notes that a row differs from the checkpoint.
    fn mark(&mut self, id: QueueId) {
        if !self.tracking {
            return;
        }
        let Some(row) = self.row_mut(id) else { return };
        if row.flags.has(Flags::DIRTY) {
            return;
        }
        row.flags.set(Flags::DIRTY, true);
        self.young.push(id);
        if self.young.len() > 2 * self.places.len() + CHANGED_SLACK {
            // The checkpoint is late, and most of what it would write is gone.
            let places = &self.places;
            self.young.retain(|id| places.contains_key(id));
        }
    }

    /// What the lists of changes take up.
    #[cfg(test)]
    pub(super) fn changes_capacity(&self) -> usize {
        self.young.capacity() + self.old.capacity() + self.ended.capacity()
    }

    fn word(&mut self, word: &str) -> u16 {
        match word {
            "" => 0,
            word => u16::try_from(self.words.intern(word, || word.into())).unwrap_or(0),
        }
    }

    fn author(&mut self, domain: Option<&Domain>) -> u16 {
        let handle = domain.map_or(NONE, |domain| self.authors.intern(domain, || domain.clone()));
        u16::try_from(handle).unwrap_or(0)
    }

    fn names_of(&self, row: &Row) -> RowNames {
        let word = |handle: u16| self.words.name(u32::from(handle)).cloned().unwrap_or_default();
        RowNames {
            domain: self.domains.name(row.domain).cloned(),
            author: self.authors.name(u32::from(row.author)).cloned(),
            stream: word(row.stream),
            pool: word(row.pool),
            credential: word(row.credential),
            source: word(row.source),
        }
    }

    fn spell(&self, row: Row) -> Seen {
        let names = self.names_of(&row);
        let waiting = Waiting {
            id: row.id,
            domain: names.domain.unwrap_or_else(|| self.no_domain.clone()),
            author: names.author,
            stream: names.stream,
            kind: row.kind(),
            pool: names.pool,
            credential: names.credential,
            priority: row.priority,
            engaged: row.flags.has(Flags::ENGAGED),
            attempts: u16::from(row.attempts),
            recipients: row.recipients,
            due: row.due,
            expires_at: self.expiry_of(&row),
            held: row.flags.has(Flags::HELD),
            source: names.source,
        };
        Seen { row, waiting }
    }

    fn row(&self, id: QueueId) -> Option<&Row> {
        self.at(*self.places.get(&id)?)
    }

    fn row_mut(&mut self, id: QueueId) -> Option<&mut Row> {
        let place = *self.places.get(&id)?;
        Self::slot(&mut self.chunks, place)
    }

    fn at(&self, place: u32) -> Option<&Row> {
        self.chunks.get(place as usize / CHUNK_ROWS)?.get(place as usize % CHUNK_ROWS)
    }

    fn slot(chunks: &mut [Box<[Row]>], place: u32) -> Option<&mut Row> {
        chunks.get_mut(place as usize / CHUNK_ROWS)?.get_mut(place as usize % CHUNK_ROWS)
    }
}

/// How much a checkpoint writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// What changed before the last checkpoint began.
    Settled,
    /// Everything, at a clean stop.
    All,
}

/// What one checkpoint has still to write.
#[derive(Debug)]
pub(super) struct Pass {
    ids: Vec<QueueId>,
    ended: Vec<QueueId>,
    /// When all is written, the index holds at least what was true after this record.
    pub(super) sequence: Sequence,
    /// And knows of no segment above this one.
    pub(super) segment: u32,
    /// A row's names are too long to be written: the index cannot be trusted.
    pub(super) unwritable: bool,
}
