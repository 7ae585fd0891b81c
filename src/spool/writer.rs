//! The writer: gathers what waits, writes once, syncs once, applies in log order, wakes all.
//!
//! A plain, synchronous machine, so that a simulator can drive it from a seed; `handle` runs it on its own thread.
//! It never waits for anything but the disk.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::body::{self, BODIES};
use super::disk::{Disk, Open};
use super::log::{Log, Purpose, Spares, Trouble, random_u64};
use super::quarantine::{self, Quarantine, is_passing};
use super::record::{BodyPlace, Encoded, encode_prepared, write_closed, write_put, write_settled};
use super::recover::{continue_log, disk_error, drop_superseded, find_segments, secure_tail, trouble};
use super::replay::{Learned, MailReplay, file_of, state_entry, state_puts};
use super::segment::LogKind;
use super::table::Table;
use super::{
    Apply, DurableSeq, Message, OpenError, OpenOptions, Position, PutError, Reader, Sequence, Settings, SpoolId,
    StartReport, StateEntry, StateValue, Stats,
};
use crate::mail::{Prepared, Progress, QueueId};
use crate::time::Timestamp;

/// How long a failed allocation is not tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How often free space is asked for.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// The disk broke a promise: the process must end, and recovery decide what is true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the spool's disk failed: {0}")]
pub struct Broken(pub String);

/// A message to be made durable, encoded.
pub struct PutRequest {
    pub(super) encoded: Encoded,
    pub(super) place: BodyPlace,
    pub(super) prepared: Prepared,
    pub(super) done: oneshot::Sender<Result<DurableSeq, PutError>>,
}

impl PutRequest {
    /// Encodes a message on the caller's thread, and writes its body to a file if it is large.
    ///
    /// # Errors
    /// `Full`, and nothing is left behind.
    pub fn new(
        disk: &dyn Disk,
        settings: &Settings,
        prepared: Prepared,
    ) -> Result<(PutRequest, oneshot::Receiver<Result<DurableSeq, PutError>>), PutFailure> {
        let place = body::place(disk, settings, &prepared)?;
        let encoded = encode_prepared(&prepared, place, None);
        let (done, receiver) = oneshot::channel();
        Ok((PutRequest { encoded, place, prepared, done }, receiver))
    }
}

/// Why a put did not reach the writer.
#[derive(Debug)]
pub enum PutFailure {
    /// No room for the body's file.
    Full,
    /// A sync failed: the process must end.
    Broken(Broken),
}

/// A settle on its way.
pub struct SettleRequest {
    pub(super) id: QueueId,
    pub(super) progress: Progress,
    pub(super) dsn: Option<Prepared>,
    pub(super) done: oneshot::Sender<()>,
}

impl SettleRequest {
    /// An envelope's new state, and the DSN that goes with it.
    pub fn new(id: QueueId, progress: Progress, dsn: Option<Prepared>) -> (SettleRequest, oneshot::Receiver<()>) {
        let (done, receiver) = oneshot::channel();
        (SettleRequest { id, progress, dsn, done }, receiver)
    }
}

/// A state entry on its way.
pub struct StateRequest {
    table: u16,
    key: Bytes,
    value: Option<Bytes>,
    done: oneshot::Sender<Result<DurableSeq, PutError>>,
}

impl StateRequest {
    /// A put, or with `None` a removal.
    pub fn new(
        table: u16,
        key: Bytes,
        value: Option<Bytes>,
    ) -> (StateRequest, oneshot::Receiver<Result<DurableSeq, PutError>>) {
        let (done, receiver) = oneshot::channel();
        (StateRequest { table, key, value, done }, receiver)
    }
}

/// What waits for one step.
#[derive(Default)]
pub struct Work {
    /// First in the order.
    pub states: Vec<StateRequest>,
    /// Before all puts.
    pub settles: VecDeque<SettleRequest>,
    /// New mail.
    pub puts: VecDeque<PutRequest>,
}

impl Work {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.settles.is_empty() && self.puts.is_empty()
    }
}

/// A composed record, and who waits for it.
enum Pending {
    Settle { sequence: u64, at: Position, bytes: u64, place: BodyPlace, request: SettleRequest },
    Put { sequence: u64, at: Position, request: PutRequest },
}

impl Pending {
    fn sequence(&self) -> u64 {
        match self {
            Pending::Settle { sequence, .. } | Pending::Put { sequence, .. } => *sequence,
        }
    }

    /// Accepted mail is applied after its sync, and a DSN is accepted mail.
    fn needs_sync(&self) -> bool {
        match self {
            Pending::Settle { request, .. } => request.dsn.is_some(),
            Pending::Put { .. } => true,
        }
    }
}

/// The writer.
pub struct Writer {
    pub(super) settings: Settings,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) apply: Box<dyn Apply>,
    pub(super) mail: Log,
    pub(super) state: Log,
    pub(super) table: Table,
    pub(super) spares: Spares,
    pub(super) quarantine: Quarantine,
    pub(super) moved: u64,
    pub(super) clean_cursor: (u32, u32),
    pub(super) read_failures: u32,
    /// While a backup holds a clone, nothing is recycled or removed.
    pub(super) pin: Arc<()>,
    pub(super) compacting: bool,
    /// Settles that found no room; before all others when there is some.
    retained: VecDeque<SettleRequest>,
    unsynced_since: Option<Duration>,
    /// Body files whose last envelope was ended by a record that is not synced yet.
    unlinks: Vec<QueueId>,
    /// Whether the state and the mail log ended with a clean mark when they were opened.
    clean: (bool, bool),
    refused_full: u64,
    /// A put was refused for want of space, and none came since.
    refusing: bool,
    records: u64,
    retried_at: Option<Duration>,
    space: super::disk::Space,
    space_at: Option<Duration>,
    /// Held as long as the spool is open.
    _lock: Box<dyn Send + Sync>,
}

impl Writer {
    /// Locks, recovers and replays.
    ///
    /// # Errors
    /// As [`super::Spool::open`].
    pub fn open(
        settings: Settings,
        disk: Arc<dyn Disk>,
        options: &OpenOptions,
        mut apply: Box<dyn Apply>,
    ) -> Result<(Writer, StartReport), OpenError> {
        let lock = disk.lock().map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => OpenError::Disk { doing: "locking the spool".into(), source },
        })?;
        for directory in [BODIES, quarantine::DIRECTORY] {
            disk.make_dir(directory).map_err(disk_error("making a directory"))?;
        }
        disk.sync_dir("").map_err(disk_error("syncing the spool's directory"))?;
        let files = disk.list("").map_err(disk_error("listing the spool"))?;
        let mut quarantine = Quarantine::new(disk.clone());
        let mut mail_segments = find_segments(&*disk, LogKind::Mail, &files, &mut quarantine)?;
        let mut state_segments = find_segments(&*disk, LogKind::State, &files, &mut quarantine)?;
        let names: Vec<(String, u64)> = files.iter().map(|file| (file.name.clone(), file.len)).collect();
        let mut spares =
            Spares::new(disk.clone(), &names, settings.segment_bytes(), usize::from(settings.reserve.clamp(1, 16)))
                .map_err(disk_error("looking at the spare segments"))?;
        drop_superseded(&*disk, &mut state_segments, &files)?;
        let known_id = mail_segments.values().chain(state_segments.values()).next().map(|s| s.header.spool_id);
        let spool_id = match known_id {
            Some(id) => id,
            None => {
                SpoolId(u128::from(random_u64().map_err(trouble)?) << 64 | u128::from(random_u64().map_err(trouble)?))
            }
        };

        let state_tail = secure_tail(&disk, &mut state_segments, &mut spares, &mut quarantine)?;
        let mail_tail = secure_tail(&disk, &mut mail_segments, &mut spares, &mut quarantine)?;

        let state_lost = state_puts(
            &state_segments,
            None,
            |put| apply.state(state_entry(put)),
            |segment, at, len| quarantine.copy(segment, at, len),
        )
        .map_err(disk_error("reading the state log"))?;
        let applied = match options.applied {
            Some(known) if known.spool == spool_id && known.sequence.0 < mail_tail.next_sequence => {
                // The tail may have been written again by this start, or by one that crashed before a checkpoint.
                let newer = mail_segments.range(known.segment.saturating_add(1)..);
                newer
                    .map(|(_, segment)| segment.header.first_sequence.saturating_sub(1))
                    .fold(known.sequence.0, u64::min)
            }
            _ => 0,
        };
        let mut table = Table::default();
        let learned = Learned { last_id: QueueId::MIN, newest: Timestamp::ZERO };
        let mut replay =
            MailReplay { table: &mut table, apply: &mut *apply, quarantine: &mut quarantine, applied, learned };
        replay.run(&mail_segments).map_err(disk_error("reading the mail log"))?;
        let learned = replay.learned;
        body::remove_orphans(&*disk, &table, &mut quarantine).map_err(disk_error("looking at the bodies"))?;

        let mut mail = continue_log(LogKind::Mail, spool_id, &disk, mail_segments, &mail_tail);
        mail.last_id = learned.last_id.as_u64();
        mail.newest = learned.newest.as_millis();
        let state = continue_log(LogKind::State, spool_id, &disk, state_segments, &state_tail);
        spares.retry().map_err(trouble)?;
        let report = StartReport {
            spool_id,
            clean: mail_tail.clean,
            applied_from: Sequence(applied),
            last: Sequence(mail.next_sequence() - 1),
            live: table.live(),
            rewritten: mail_tail.rewritten + state_tail.rewritten,
            quarantined: quarantine.found,
            state_lost,
            last_id: learned.last_id,
            newest: learned.newest,
        };
        info!(
            live = report.live,
            last = report.last.0,
            clean = report.clean,
            rewritten = report.rewritten,
            quarantined = report.quarantined,
            "the spool is open"
        );
        let space = disk.space().unwrap_or_default();
        let writer = Writer {
            settings,
            disk,
            apply,
            mail,
            state,
            table,
            spares,
            quarantine,
            moved: 0,
            clean_cursor: (0, 0),
            read_failures: 0,
            pin: Arc::new(()),
            compacting: false,
            retained: VecDeque::new(),
            unsynced_since: None,
            unlinks: Vec::new(),
            clean: (state_tail.clean, mail_tail.clean),
            refused_full: 0,
            refusing: false,
            records: 0,
            retried_at: None,
            space,
            space_at: None,
            _lock: lock,
        };
        Ok((writer, report))
    }

    /// Does what waits. `now` is any clock that does not go back.
    ///
    /// # Errors
    /// The process must end; nothing more may be asked of this writer.
    pub fn step(&mut self, work: Work, now: Duration) -> Result<(), Broken> {
        self.look_at_space(now)?;
        if !(work.settles.is_empty() && work.states.is_empty()) {
            self.apply.before_write();
        }
        let accepted = self.write_states(work.states).and_then(|()| self.write_mail(work.settles, work.puts, now));
        let accepted_bytes = settle_trouble(accepted)?.unwrap_or(0);
        if self.sync_is_due(now) {
            self.sync_mail()?;
        }
        self.clean(accepted_bytes, now)
    }

    /// How long the writer may sleep when nothing comes in.
    pub fn idle_time(&self, now: Duration) -> Duration {
        /// A move at a time, with a pause for others to use the disk.
        const BETWEEN_MOVES: Duration = Duration::from_millis(5);
        const HEARTBEAT: Duration = Duration::from_secs(1);
        let mut wait = HEARTBEAT;
        if let Some(since) = self.unsynced_since {
            wait = wait.min((since + self.settings.settle_sync_within).saturating_sub(now));
        }
        if !self.retained.is_empty() {
            wait = wait.min(RETRY_EVERY);
        }
        if self.wants_cleaning() {
            wait = wait.min(BETWEEN_MOVES);
        }
        wait
    }

    /// Writes what waits and marks a clean close.
    ///
    /// # Errors
    /// As [`Writer::step`].
    pub fn close(&mut self, work: Work, now: Duration) -> Result<(), Broken> {
        self.step(work, now)?;
        self.sync_mail()?;
        let closed = Encoded::new(write_closed, Bytes::new(), 0);
        for (log, was_clean) in [(&mut self.state, self.clean.0), (&mut self.mail, self.clean.1)] {
            // Nothing was written since the last mark.
            if log.active_number().is_none() && was_clean {
                continue;
            }
            // An unclean end is no loss: what was synced is synced. So a full disk gets no mark.
            let marked = ensure(log, &mut self.spares, closed.record_bytes(), Purpose::Reserve).and_then(|()| {
                log.compose(&closed, 0);
                log.write()?;
                log.sync()
            });
            settle_trouble(marked)?;
        }
        Ok(())
    }

    /// The spool's name.
    pub fn spool_id(&self) -> SpoolId {
        self.mail.spool_id
    }

    /// Reads beside this writer.
    pub fn reader(&self) -> Reader {
        Reader::new(self.disk.clone(), self.mail.segments.clone())
    }

    /// All entries of one state table that are not absent, in the order of keys.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn state_entries(&self, table: u16) -> std::io::Result<Vec<StateEntry>> {
        super::state::entries(&self.state.segments, self.state.committed.load(Ordering::Acquire), table)
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        let (mail_bytes, mail_segments) = self.mail.size();
        Stats {
            live: self.table.live(),
            mail_bytes,
            live_bytes: self.table.live_bytes(),
            mail_segments,
            state_segments: self.state.size().1,
            spares: self.spares.len() as u64,
            syncs: self.mail.syncs + self.state.syncs,
            sync_time: self.mail.sync_time + self.state.sync_time,
            slow_syncs: self.mail.slow_syncs + self.state.slow_syncs,
            records: self.records,
            moved: self.moved,
            quarantined: self.quarantine.found,
            refused_full: self.refused_full,
            free_bytes: self.space.free,
            total_bytes: self.space.total,
        }
    }

    fn look_at_space(&mut self, now: Duration) -> Result<(), Broken> {
        if self.space_at.is_none_or(|at| now.saturating_sub(at) >= SPACE_EVERY) {
            self.space_at = Some(now);
            self.space = self.disk.space().unwrap_or(self.space);
        }
        if self.spares.is_short() && self.retried_at.is_none_or(|at| now.saturating_sub(at) >= RETRY_EVERY) {
            self.retried_at = Some(now);
            settle_trouble(self.spares.retry())?;
        }
        self.refusing &= self.spares.is_short();
        Ok(())
    }

    /// Whether the next put would be refused too, as far as is known.
    pub fn is_full(&self) -> bool {
        self.refusing
    }

    fn write_states(&mut self, requests: Vec<StateRequest>) -> Result<(), Trouble> {
        let mut pending: Vec<(u64, StateRequest)> = Vec::new();
        for request in requests {
            let value = request.value.clone().unwrap_or_default();
            let crc = crc32fast::hash(&value);
            let present = request.value.is_some();
            let encoded = Encoded::new(|w| write_put(w, request.table, &request.key, present), value, crc);
            let composed = match ensure(&mut self.state, &mut self.spares, encoded.record_bytes(), Purpose::Reserve) {
                Ok(()) => self.state.compose(&encoded, 0),
                Err(Trouble::Full) => None,
                Err(broken) => return Err(broken),
            };
            let unwritten = pending.iter().position(|(sequence, _)| *sequence >= self.state.next_sequence());
            for (_, request) in pending.drain(unwritten.unwrap_or(pending.len())..) {
                let _ = request.done.send(Err(PutError::Full));
            }
            match composed {
                Some((sequence, _)) => pending.push((sequence, request)),
                None => drop(request.done.send(Err(PutError::Full))),
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        match self.state.write() {
            Ok(()) => {}
            Err(Trouble::Full) => {
                let unwritten = pending.iter().position(|(sequence, _)| *sequence >= self.state.next_sequence());
                for (_, request) in pending.drain(unwritten.unwrap_or(pending.len())..) {
                    let _ = request.done.send(Err(PutError::Full));
                }
            }
            Err(broken) => return Err(broken),
        }
        self.state.sync()?;
        self.records += pending.len() as u64;
        for (sequence, request) in pending {
            let value = request.value.map_or(StateValue::Absent, StateValue::Is);
            self.apply.state(StateEntry { table: request.table, key: request.key, value });
            let _ = request.done.send(Ok(DurableSeq(Sequence(sequence))));
        }
        Ok(())
    }

    /// Settles first, then puts, in one write and one sync. Tells the bytes of new mail.
    fn write_mail(
        &mut self,
        settles: VecDeque<SettleRequest>,
        puts: VecDeque<PutRequest>,
        now: Duration,
    ) -> Result<u64, Trouble> {
        let mut queue = mem::take(&mut self.retained);
        queue.extend(settles);
        let mut pending: Vec<Pending> = Vec::with_capacity(queue.len() + puts.len());
        while let Some(request) = queue.pop_front() {
            if let Some(request) = self.compose_settle(request, &mut pending)? {
                self.drop_unwritten(&mut pending);
                self.retained.push_back(request);
                break;
            }
        }
        self.retained.extend(queue);
        let mut accepted_bytes = 0;
        let mut full = !self.spares.reserve_is_whole();
        for request in puts {
            let bytes = request.encoded.record_bytes();
            let ready = match full {
                true => Err(Trouble::Full),
                false => ensure(&mut self.mail, &mut self.spares, bytes, Purpose::Accept),
            };
            match ready {
                Ok(()) => {}
                Err(Trouble::Full) => {
                    full = true;
                    self.drop_unwritten(&mut pending);
                    self.refuse(request);
                    continue;
                }
                Err(broken) => return Err(broken),
            }
            match self.mail.compose(&request.encoded, 0) {
                Some((sequence, at)) => pending.push(Pending::Put { sequence, at, request }),
                None => self.refuse(request),
            }
            accepted_bytes += bytes;
            if self.mail.buffered() >= self.settings.batch_size_max.as_usize() {
                self.write_or_drop(&mut pending)?;
            }
        }
        self.write_or_drop(&mut pending)?;
        self.finish(pending, now)?;
        Ok(accepted_bytes)
    }

    /// Encodes a settle and adds it to the buffer; gives it back when there is no room.
    fn compose_settle(
        &mut self,
        request: SettleRequest,
        pending: &mut Vec<Pending>,
    ) -> Result<Option<SettleRequest>, Trouble> {
        let Some(home) = self.table.home_sequence(request.id) else {
            warn!(queue_id = %request.id, "a settle for an envelope that is not live was ignored");
            let _ = request.done.send(());
            return Ok(None);
        };
        let ends = if request.progress.is_final() { home } else { 0 };
        let mut place = BodyPlace::Inline;
        let encoded = match &request.dsn {
            None => Encoded::new(|w| write_settled(w, request.id, &request.progress), Bytes::new(), 0),
            Some(dsn) => {
                place = match body::place(&*self.disk, &self.settings, dsn) {
                    Ok(place) => place,
                    Err(PutFailure::Full) => return Ok(Some(request)),
                    Err(PutFailure::Broken(Broken(what))) => return Err(Trouble::Broken(what)),
                };
                encode_prepared(dsn, place, Some((request.id, &request.progress)))
            }
        };
        let bytes = encoded.record_bytes();
        match ensure(&mut self.mail, &mut self.spares, bytes, Purpose::Reserve) {
            Ok(()) => {}
            Err(Trouble::Full) => return Ok(Some(request)),
            Err(broken) => return Err(broken),
        }
        match self.mail.compose(&encoded, ends) {
            Some((sequence, at)) => pending.push(Pending::Settle { sequence, at, bytes, place, request }),
            None => return Ok(Some(request)),
        }
        Ok(None)
    }

    fn write_or_drop(&mut self, pending: &mut Vec<Pending>) -> Result<(), Trouble> {
        match self.mail.write() {
            Err(Trouble::Full) => {
                self.drop_unwritten(pending);
                Ok(())
            }
            other => other,
        }
    }

    /// After a write that found no room: what was composed and not written goes back to where it came from.
    fn drop_unwritten(&mut self, pending: &mut Vec<Pending>) {
        let first = pending.iter().position(|pending| pending.sequence() >= self.mail.next_sequence());
        let unwritten: Vec<Pending> = pending.drain(first.unwrap_or(pending.len())..).collect();
        let mut settles = VecDeque::new();
        for pending in unwritten {
            match pending {
                Pending::Settle { request, .. } => settles.push_back(request),
                Pending::Put { request, .. } => self.refuse(request),
            }
        }
        settles.append(&mut self.retained);
        self.retained = settles;
    }

    fn refuse(&mut self, request: PutRequest) {
        self.refused_full += 1;
        self.refusing = true;
        if let Some(name) = file_of(request.place) {
            // If it cannot be removed now, the next start finds that nothing names it.
            let _ = self.disk.unlink(&body::file_name(name));
        }
        let _ = request.done.send(Err(PutError::Full));
    }

    /// Applies in log order: settles up to the first that needs a sync, then, after it, the rest.
    fn finish(&mut self, pending: Vec<Pending>, now: Duration) -> Result<(), Trouble> {
        if pending.is_empty() {
            return Ok(());
        }
        self.records += pending.len() as u64;
        let mut synced = false;
        for pending in pending {
            if pending.needs_sync() && !synced {
                self.mail.sync()?;
                synced = true;
            }
            match pending {
                Pending::Settle { sequence, at, bytes, place, request } => {
                    self.apply_settle(sequence, at, bytes, place, request);
                }
                Pending::Put { sequence, at, request } => {
                    let bytes = request.encoded.record_bytes();
                    self.apply_message(sequence, at, bytes, request.place, request.prepared);
                    let _ = request.done.send(Ok(DurableSeq(Sequence(sequence))));
                }
            }
        }
        if synced {
            self.after_sync();
        } else {
            self.unsynced_since.get_or_insert(now);
        }
        Ok(())
    }

    fn apply_settle(&mut self, sequence: u64, at: Position, bytes: u64, place: BodyPlace, request: SettleRequest) {
        let SettleRequest { id, progress, dsn, done } = request;
        let live = match progress.is_final() {
            true => {
                let ended = self.table.end(id);
                self.unlinks.extend(ended.and_then(|ended| ended.orphan));
                ended.is_some()
            }
            false => self.table.state(id, at),
        };
        for outcome in progress.recipients.iter().filter_map(|recipient| recipient.last.as_ref()) {
            self.mail.newest = self.mail.newest.max(outcome.at.as_millis());
        }
        if live {
            self.apply.settled(Sequence(sequence), at, id, progress);
        }
        if let Some(dsn) = dsn {
            self.apply_message(sequence, at, bytes, place, dsn);
        }
        let _ = done.send(());
    }

    fn apply_message(&mut self, sequence: u64, at: Position, bytes: u64, place: BodyPlace, prepared: Prepared) {
        let Prepared { body, envelopes } = prepared;
        for envelope in &envelopes {
            self.mail.last_id = self.mail.last_id.max(envelope.id.as_u64());
            self.mail.newest = self.mail.newest.max(envelope.accepted_at.as_millis());
        }
        let ids = envelopes.iter().map(|envelope| envelope.id);
        let orphans = self.table.home(at, bytes, sequence, file_of(place), ids);
        self.unlinks.extend(orphans);
        self.apply.accepted(Sequence(sequence), at, Message { envelopes, body: Some(body) });
    }

    fn sync_is_due(&self, now: Duration) -> bool {
        self.unsynced_since.is_some_and(|since| now >= since + self.settings.settle_sync_within)
    }

    /// Syncs what was written.
    pub(super) fn sync_mail(&mut self) -> Result<(), Broken> {
        settle_trouble(self.mail.sync())?;
        self.after_sync();
        Ok(())
    }

    /// Something was written that the next sync must cover.
    pub(super) fn written_at(&mut self, now: Duration) {
        self.unsynced_since.get_or_insert(now);
    }

    fn after_sync(&mut self) {
        self.unsynced_since = None;
        // Only now is it certain that nothing needs these files: the records that say so are on the disk. While a
        // backup runs they are left, and the next start removes them.
        let pinned = Arc::strong_count(&self.pin) > 1;
        for name in self.unlinks.drain(..).filter(|_| !pinned) {
            if let Err(error) = self.disk.unlink(&body::file_name(name)) {
                warn!(queue_id = %name, %error, "the file of a body that nothing needs could not be removed");
            }
        }
    }
}

/// Room in a log for a record; begins a new segment if there is none.
pub(super) fn ensure(log: &mut Log, spares: &mut Spares, bytes: u64, purpose: Purpose) -> Result<(), Trouble> {
    if log.room() >= bytes {
        return Ok(());
    }
    log.write()?;
    let spare = spares.take(purpose, bytes)?;
    match log.roll(spare) {
        Ok(()) => Ok(()),
        Err((trouble, spare)) => {
            if let Some(spare) = spare {
                spares.give(spare);
            }
            Err(trouble)
        }
    }
}

/// A full disk is weather; anything else ends the process.
pub(super) fn settle_trouble<T>(result: Result<T, Trouble>) -> Result<Option<T>, Broken> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Trouble::Full) => Ok(None),
        Err(Trouble::Broken(what)) => Err(Broken(what)),
    }
}

/// Makes a read-only look possible without the trait's user naming it.
pub(super) fn open_read_only(disk: &dyn Disk, name: &str) -> std::io::Result<Arc<dyn super::disk::DiskFile>> {
    match disk.open(name, Open::ReadOnly) {
        Err(error) if is_passing(&error) => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        other => other,
    }
}
