//! The queue's start, and the thread that writes changed rows to the index about once a second.
//!
//! It never slows the hot path: puts and settles only note that a row changed. The index is never trusted further than
//! the spool confirms, and never missed: without it a start reads the spool.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::table::{Extent, Table};
use super::{Applier, Ground, Queue, Settings, Shared, lock};
use crate::mail::QueueId;
use crate::spool::{Known, OpenError, OpenOptions, Sequence, Spool, SpoolId, StartReport};
use crate::store::{self, Loaded, Store, StoreError};

/// Rows encoded under one lock of the table, and written in one call.
const BATCH_ROWS: usize = 256;
/// A broken index is begun anew after this time, then after twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// The longest of these waits.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Opens index and spool: see [`Queue::open`].
pub(super) fn open(settings: Settings, ground: Ground) -> Result<(Queue, StartReport), OpenError> {
    let Ground { spool: spool_settings, disk, fatal, before_write, clock, state } = ground;
    let fatal: Arc<crate::spool::Fatal> = Arc::new(fatal);
    let state = Arc::new(Mutex::new(state));
    let mut index = settings.index_dir.as_deref().and_then(|dir| load(dir, &settings.store));
    loop {
        let shared = Arc::new(Shared::new(settings.hot, Arc::clone(&clock)));
        let (store, applied) = match index.take() {
            Some((store, table, applied)) => {
                *shared.table() = table;
                (Some(store), Some(applied))
            }
            None => (None, None),
        };
        let applier = Box::new(Applier { shared: Arc::clone(&shared), state: Arc::clone(&state), before_write });
        let fatal = Arc::clone(&fatal);
        let (spool, report) = Spool::open(
            spool_settings.clone(),
            Arc::clone(&disk),
            OpenOptions { applied },
            applier,
            Box::new(move |reason| fatal(reason)),
        )?;
        if let Some(reason) = applied.and_then(|applied| doubt(&shared, applied, &report)) {
            tracing::warn!(reason, "the queue's index does not fit the spool: rebuilding it");
            spool.close();
            continue;
        }
        clock.at_least(report.newest);
        let last_id = shared.table().last_id().max(report.last_id);
        shared.last_id.store(last_id.as_u64(), std::sync::atomic::Ordering::Relaxed);
        let checkpointer = Checkpointer::start(Arc::clone(&shared), &settings, store, report.spool_id);
        return Ok((Queue::assemble(shared, spool, checkpointer), report));
    }
}

/// Rows as the index has them, if it is to be believed so far.
fn load(directory: &std::path::Path, settings: &store::Settings) -> Option<(Store, Table, Known)> {
    let (store, loaded) = match Store::open(directory, settings, store::boot_id()) {
        Ok(found) => found,
        Err(error) => {
            tracing::info!(%error, "the queue's index is not used; the spool is read instead");
            return None;
        }
    };
    let Loaded { spool, sequence, segment, rows } = loaded;
    let mut table = Table::default();
    table.track_from(Sequence(sequence), segment);
    for (number, bytes) in rows.iter() {
        if !table.load(QueueId::from_u64(number), bytes) {
            tracing::warn!(queue_id = %QueueId::from_u64(number), "the queue's index has a row of another shape");
            return None;
        }
    }
    Some((store, table, Known { spool: SpoolId(spool), sequence: Sequence(sequence), segment }))
}

/// Why the rows are not those of the spool, after the replay, if they are not.
fn doubt(shared: &Shared, applied: Known, report: &StartReport) -> Option<&'static str> {
    let rows = shared.table().len() as u64;
    match () {
        () if report.spool_id != applied.spool => Some("it belongs to another spool"),
        // The spool did not take our word, and gave us everything: rows that it did not mention would stay.
        () if report.applied_from == Sequence(0) && applied.sequence != Sequence(0) => {
            Some("the spool does not know its record")
        }
        () if rows != report.live => Some("it has another number of envelopes"),
        () => None,
    }
}

/// The thread's handle.
pub(super) struct Checkpointer {
    stop: SyncSender<()>,
    stopped: Mutex<Receiver<()>>,
    close_within: Duration,
}

impl Checkpointer {
    pub(super) fn start(
        shared: Arc<Shared>,
        settings: &Settings,
        store: Option<Store>,
        spool: SpoolId,
    ) -> Checkpointer {
        let (stop, stopping) = sync_channel(1);
        let (stopped_sender, stopped) = sync_channel(1);
        let close_within = settings.close_within;
        let checkpointer = Checkpointer { stop, stopped: Mutex::new(stopped), close_within };
        let Some(directory) = settings.index_dir.clone() else { return checkpointer };
        let every = settings.checkpoint_every;
        let mut scribe = Scribe {
            shared,
            directory,
            settings: settings.store.clone(),
            spool,
            store,
            retry: RETRY_FIRST,
            again: None,
        };
        let run = move || {
            while stopping.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                scribe.checkpoint();
            }
            scribe.close();
            let _ = stopped_sender.send(());
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(run);
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread for the queue's index: the next start reads the whole spool");
        }
        checkpointer
    }

    /// Writes a last checkpoint, if the index answers in time.
    pub(super) fn close(&self) {
        if self.stop.try_send(()).is_ok() && lock(&self.stopped).recv_timeout(self.close_within).is_err() {
            tracing::debug!("the queue's index was not closed");
        }
    }
}

/// The thread's side.
struct Scribe {
    shared: Arc<Shared>,
    directory: PathBuf,
    settings: store::Settings,
    spool: SpoolId,
    store: Option<Store>,
    /// Wait before the next new beginning.
    retry: Duration,
    /// When that is; `None`: at once.
    again: Option<Instant>,
}

impl Scribe {
    fn checkpoint(&mut self) {
        if self.store.is_none() {
            self.begin();
        }
        if let Some(mut store) = self.store.take() {
            match write(&self.shared, &mut store, Extent::Settled) {
                Ok(_) => {
                    self.shared.index.used.store(true, Ordering::Relaxed);
                    self.store = Some(store);
                    self.retry = RETRY_FIRST;
                }
                Err(error) => self.give_up(&error),
            }
        }
    }

    /// Begins an empty index, to which the next checkpoint writes every row.
    fn begin(&mut self) {
        if self.again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match Store::begin(&self.directory, &self.settings, self.spool.0, store::boot_id()) {
            Ok(store) => {
                self.shared.table().track_all();
                self.store = Some(store);
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// The index is bad: the queue goes on from memory.
    fn give_up(&mut self, error: &StoreError) {
        tracing::warn!(%error, retry_secs = self.retry.as_secs(), "the queue's index failed; mail goes on without it");
        self.shared.index.used.store(false, Ordering::Relaxed);
        self.shared.index.failures.fetch_add(1, Ordering::Relaxed);
        self.shared.table().track_none();
        self.store = None;
        self.again = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    fn close(&mut self) {
        if self.store.is_none() && self.again.is_none() {
            // Stopped before the first checkpoint.
            self.begin();
        }
        let Some(mut store) = self.store.take() else { return };
        let closed = write(&self.shared, &mut store, Extent::All)
            .and_then(|(sequence, segment)| store.close(sequence.0, segment));
        if let Err(error) = closed {
            tracing::debug!(%error, "the queue's index was not closed");
        }
    }
}

/// One checkpoint. The table is locked for one batch at a time.
fn write(shared: &Shared, store: &mut Store, extent: Extent) -> Result<(Sequence, u32), StoreError> {
    let mut pass = shared.table().begin_checkpoint(extent);
    loop {
        let batch = shared.table().next_changed(BATCH_ROWS, &mut pass);
        if pass.unwritable {
            return Err(StoreError::Failed("a row's names are too long".to_owned()));
        }
        if batch.is_empty() {
            break;
        }
        store.write(batch.into_iter().map(|(id, row)| (id.as_u64(), row)).collect())?;
    }
    store.checkpoint(pass.sequence.0, pass.segment)?;
    Ok((pass.sequence, pass.segment))
}
