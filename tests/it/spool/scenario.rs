//! Ten thousand short histories of a spool, each from a seed: puts, settles with and without DSNs, state, cleaning,
//! compaction, full disks, failing calls, kills and power cuts at any call, in recovery too. `POSTRIDER_SEEDS` says how
//! many (300), `POSTRIDER_SEED` runs one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use postrider::mail::{Progress, QueueId};
use postrider::size::ByteSize;
use postrider::spool::{
    DurableSeq, Known, OpenError, OpenOptions, PutError, PutFailure, PutRequest, Settings, SettleRequest, SpoolId,
    StateRequest, StateValue, Work, Writer,
};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::disk::{End, Fault, SimDisk};
use super::model::{Queue, Rows, Story, message, settled};

const SEEDS_DEFAULT: u64 = 300;
const TABLES: u16 = 2;
const KEYS: u8 = 12;

/// What a key may hold after a crash.
#[derive(Clone, Debug, Default)]
struct Key {
    /// Every value asked for, in order; what a start showed takes their place.
    asked: Vec<StateValue>,
    /// How many of them were answered Ok.
    durable: usize,
}

struct History {
    random: fastrand::Rng,
    settings: Settings,
    disk: SimDisk,
    stories: BTreeMap<QueueId, Story>,
    keys: BTreeMap<(u16, u8), Key>,
    next_id: u64,
    step: u64,
    now: Duration,
    checkpoint: Option<(SpoolId, Rows)>,
    end: End,
}

type PutAnswer = Receiver<Result<DurableSeq, PutError>>;
type StateAnswer = Receiver<Result<DurableSeq, PutError>>;

/// A life's questions that wait for answers.
#[derive(Default)]
struct Waiting {
    puts: Vec<(Vec<QueueId>, PutAnswer)>,
    settles: Vec<(QueueId, usize, Receiver<()>)>,
    states: Vec<((u16, u8), usize, StateAnswer)>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut random = fastrand::Rng::with_seed(seed);
        let settings = Settings {
            segment_size: ByteSize::kib(64),
            inline_body_max: ByteSize(random.u64(500..8000)),
            batch_size_max: ByteSize(random.u64(2000..60_000)),
            reserve: random.u16(1..3),
            slack: random.u16(1..4),
            ..Settings::default()
        };
        let disk = SimDisk::new(random.u64(..));
        History {
            random,
            settings,
            disk,
            stories: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_id: 1 << 21,
            step: 0,
            now: Duration::ZERO,
            checkpoint: None,
            end: End::Kill,
        }
    }

    fn run(&mut self) {
        for _ in 0..self.random.u8(2..7) {
            self.life();
        }
        self.disk.fill_up(None);
        let (mut writer, queue) = self.open_without_faults();
        self.disk.take_fault();
        self.verify(&writer, &queue);
        // There is room again: within a second, mail is taken in.
        self.now += Duration::from_secs(1);
        let late = self.message(100);
        let (request, mut answer) = PutRequest::new(&self.disk, &self.settings, late).unwrap();
        writer.step(Work { puts: [request].into(), ..Work::default() }, self.now).unwrap();
        assert!(matches!(answer.try_recv(), Ok(Ok(_))), "mail is refused though there is room");
        // Everything that is left can be ended, and then nothing is left.
        let live: Vec<QueueId> = queue.rows().live.into_keys().collect();
        let mut work = Work::default();
        for id in &live {
            let done = settled(&queue.rows().live[id].1, 1 << 40, true);
            work.settles.push_back(SettleRequest::new(*id, done, None).0);
        }
        writer.step(work, self.now).unwrap();
        assert!(queue.rows().live.is_empty());
        writer.close(Work::default(), self.now).unwrap();
        drop(writer);
        let (writer, report) = Writer::open(
            self.settings.clone(),
            Arc::new(self.disk.clone()),
            &OpenOptions::default(),
            Box::new(Queue::default()),
        )
        .unwrap();
        assert!(report.clean, "after a clean close");
        assert_eq!(report.live, 0, "what was ended came back");
        assert_eq!(writer.stats().live_bytes, 0);
    }

    /// From an open to an end of any kind.
    fn life(&mut self) {
        self.plan_fault();
        let Some((mut writer, queue)) = self.open() else { return };
        self.verify(&writer, &queue);
        let mut waiting = Waiting::default();
        let steps = self.random.u8(1..40);
        let mut broken = false;
        for _ in 0..steps {
            self.weather();
            self.now += Duration::from_millis(self.random.u64(0..8));
            let work = self.work(&queue, &mut waiting);
            broken = writer.step(work, self.now).is_err();
            broken = broken || self.compact(&mut writer);
            self.answers(&mut waiting);
            if broken || self.disk.is_stopped() {
                break;
            }
            if self.disk.is_synced() {
                self.stories.values_mut().for_each(|story| story.synced = story.written);
            }
        }
        let stopped = self.disk.is_stopped();
        let older = self.checkpoint.take();
        if !broken && !stopped && self.random.u8(0..3) == 0 {
            let closed = writer.close(Work::default(), self.now).is_ok();
            self.answers(&mut waiting);
            if closed && !self.disk.is_stopped() {
                self.stories.values_mut().for_each(|story| story.synced = story.written);
            }
        }
        let checkpoint = (writer.spool_id(), queue.rows());
        drop(writer);
        // A checkpoint is believed until the machine stops; it may be several lives old.
        if self.crash() == End::Kill {
            let newer = (!broken && !stopped).then_some(checkpoint);
            self.checkpoint = match self.random.u8(0..4) {
                0 => None,
                1 | 2 => older,
                _ => newer.or(older),
            };
        }
    }

    /// Ends the process one way or the other. What the next start must show is decided by the worst since the last.
    fn crash(&mut self) -> End {
        let end = if self.random.bool() { End::Kill } else { End::PowerCut };
        self.disk.end(end);
        if end == End::PowerCut {
            self.end = end;
        }
        end
    }

    fn plan_fault(&mut self) {
        let fault = match self.random.u8(0..8) {
            0..=2 => Fault::Stop,
            3 => Fault::Eio,
            4 => Fault::Enospc,
            _ => return,
        };
        let far = if self.random.bool() { 40 } else { 400 };
        self.disk.fault_at(self.random.u64(1..far), fault);
    }

    /// The disk fills up, and has room again.
    fn weather(&mut self) {
        match self.random.u8(0..40) {
            0 => self.disk.fill_up(Some(self.random.u64(0..200_000))),
            1..=4 => self.disk.fill_up(None),
            _ => {}
        }
    }

    /// Opens, whatever happens meanwhile, up to a few tries. `None`: it never got up.
    fn open(&mut self) -> Option<(Writer, Queue)> {
        for _ in 0..4 {
            let queue = Queue::default();
            let mut options = OpenOptions::default();
            if let Some((id, rows)) = &self.checkpoint {
                *queue.0.lock().unwrap() = Rows { state: BTreeMap::new(), ..rows.clone() };
                options.applied = Some(Known { spool: *id, sequence: rows.applied, segment: rows.segment });
            }
            match Writer::open(self.settings.clone(), Arc::new(self.disk.clone()), &options, Box::new(queue.clone())) {
                Ok((writer, report)) => {
                    let rows = queue.rows();
                    if report.live != rows.live.len() as u64 && self.checkpoint.take().is_some() {
                        // The end of an envelope that a checkpoint knows may be cleaned away: the queue looks for that.
                        continue;
                    }
                    assert_eq!(report.live, rows.live.len() as u64, "the spool and its queue disagree");
                    let newest = rows.live.last_key_value().map_or(QueueId::MIN, |(id, _)| *id);
                    assert!(report.last_id >= newest, "a queue id would be given twice");
                    if !self.disk.is_stopped() {
                        return Some((writer, queue));
                    }
                }
                Err(OpenError::Full) => self.disk.fill_up(None),
                Err(OpenError::Disk { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            // Dead in the middle of a recovery.
            if self.crash() == End::PowerCut {
                self.checkpoint = None;
            }
            if self.random.bool() {
                self.plan_fault();
            }
        }
        None
    }

    fn open_without_faults(&mut self) -> (Writer, Queue) {
        self.disk.take_fault();
        loop {
            if let Some(open) = self.open() {
                return open;
            }
        }
    }

    /// What clients and peers want now.
    fn work(&mut self, queue: &Queue, waiting: &mut Waiting) -> Work {
        let mut work = Work::default();
        for _ in 0..self.random.u8(0..5) {
            if let Some(put) = self.put(waiting) {
                work.puts.push_back(put);
            }
        }
        self.settles(queue, waiting, &mut work.settles);
        for _ in 0..self.random.u8(0..3) {
            work.states.push(self.state(waiting));
        }
        work
    }

    fn put(&mut self, waiting: &mut Waiting) -> Option<PutRequest> {
        let bytes = match self.random.u8(0..10) {
            0 => 0,
            1 => self.random.usize(8000..40_000),
            2..=4 => self.random.usize(2000..8000),
            _ => self.random.usize(1..2000),
        };
        let prepared = self.message(bytes);
        let ids = prepared.envelopes.iter().map(|envelope| envelope.id).collect();
        match PutRequest::new(&self.disk, &self.settings, prepared) {
            Ok((request, answer)) => {
                waiting.puts.push((ids, answer));
                Some(request)
            }
            Err(PutFailure::Full | PutFailure::Broken(_)) => None,
        }
    }

    fn message(&mut self, body_bytes: usize) -> postrider::mail::Prepared {
        let envelopes = self.random.u64(1..4);
        let prepared = message(self.next_id, envelopes, body_bytes);
        self.next_id += envelopes;
        let shared = Arc::new(prepared.clone());
        for envelope in &prepared.envelopes {
            self.stories.insert(envelope.id, Story::new(shared.clone(), envelope.clone()));
        }
        prepared
    }

    fn settles(&mut self, queue: &Queue, waiting: &mut Waiting, settles: &mut VecDeque<SettleRequest>) {
        let rows = queue.rows();
        let share = self.random.u8(1..6);
        for (id, (_, row)) in &rows.live {
            // One lease an envelope: no second settle before the first is answered.
            if self.random.u8(0..10) >= share || waiting.settles.iter().any(|(other, ..)| other == id) {
                continue;
            }
            self.step += 1;
            let end = self.random.u8(0..3) > 0;
            let progress = settled(row, self.step, end);
            let dsn = (end && self.random.u8(0..4) == 0).then(|| {
                let bytes = if self.random.u8(0..6) == 0 { 9000 } else { 300 };
                self.message(bytes)
            });
            let Some(story) = self.stories.get_mut(id) else { panic!("a row that nobody put") };
            story.states.push(progress.clone());
            let number = story.states.len() - 1;
            if let Some(dsn) = &dsn {
                story.dsn = Some((number, dsn.envelopes[0].id));
            }
            let (request, answer) = SettleRequest::new(*id, progress, dsn);
            settles.push_back(request);
            waiting.settles.push((*id, number, answer));
        }
    }

    fn state(&mut self, waiting: &mut Waiting) -> StateRequest {
        let (table, key) = (self.random.u16(0..TABLES), self.random.u8(0..KEYS));
        self.step += 1;
        let value = (self.random.u8(0..4) > 0).then(|| {
            let mut value = self.step.to_le_bytes().to_vec();
            value.resize(self.random.usize(8..3000), 7);
            Bytes::from(value)
        });
        let story = self.keys.entry((table, key)).or_default();
        story.asked.push(value.clone().map_or(StateValue::Absent, StateValue::Is));
        let (request, answer) = StateRequest::new(table, Bytes::copy_from_slice(&[key]), value);
        waiting.states.push(((table, key), story.asked.len(), answer));
        request
    }

    /// Notes every promise that was made.
    fn answers(&mut self, waiting: &mut Waiting) {
        let stories = &mut self.stories;
        waiting.puts.retain_mut(|(ids, answer)| match answer.try_recv() {
            Ok(Ok(_)) => {
                for id in ids {
                    stories.get_mut(id).unwrap().acknowledged = true;
                }
                false
            }
            Ok(Err(_)) | Err(TryRecvError::Closed) => false,
            Err(TryRecvError::Empty) => panic!("a put was neither answered nor refused"),
        });
        waiting.settles.retain_mut(|(id, number, answer)| match answer.try_recv() {
            Ok(()) => {
                let story = stories.get_mut(id).unwrap();
                story.written = story.written.max(*number);
                if let Some((_, dsn)) = story.dsn.filter(|(with, _)| with == number) {
                    story.synced = story.synced.max(*number);
                    // All envelopes of a DSN share its record.
                    let shared = stories[&dsn].prepared.clone();
                    for envelope in &shared.envelopes {
                        stories.get_mut(&envelope.id).unwrap().acknowledged = true;
                    }
                }
                false
            }
            Err(TryRecvError::Closed) => false,
            Err(TryRecvError::Empty) => true,
        });
        let keys = &mut self.keys;
        waiting.states.retain_mut(|(key, number, answer)| match answer.try_recv() {
            Ok(Ok(_)) => {
                let key = keys.get_mut(key).unwrap();
                key.durable = key.durable.max(*number);
                false
            }
            Ok(Err(_)) | Err(TryRecvError::Closed) => false,
            Err(TryRecvError::Empty) => panic!("a state put was neither answered nor refused"),
        });
    }

    /// `true`: the process must end.
    fn compact(&mut self, writer: &mut Writer) -> bool {
        match writer.compaction() {
            Some(job) => {
                let snapshot = job.run();
                writer.compacted(snapshot).is_err()
            }
            None => false,
        }
    }

    /// Holds what a start found against every promise, and takes it as what is true from here on.
    fn verify(&mut self, writer: &Writer, queue: &Queue) {
        let fault = self.disk.take_fault();
        let rows = queue.rows();
        assert!(rows.lost.is_empty(), "lost: {:?}", rows.lost);
        let reader = writer.reader();
        for (id, story) in &mut self.stories {
            let floor = if self.end == End::Kill { story.written } else { story.synced };
            let may_be_over = story.states.iter().skip(floor).any(Progress::is_final);
            let must_be_over = story.states[floor].is_final();
            let Some((place, row)) = rows.live.get(id) else {
                assert!(!story.acknowledged || may_be_over, "{id} was answered 250 and is gone");
                story.synced = story.states.len() - 1;
                story.written = story.synced;
                continue;
            };
            assert!(!must_be_over, "{id} was settled for good and came back");
            let number = story.states.iter().rposition(|state| state == row);
            let number = number.unwrap_or_else(|| panic!("{id} is in a state that nobody asked for: {row:?}"));
            assert!(number >= floor, "{id} fell back from {floor} to {number}");
            story.acknowledged = true;
            (story.written, story.synced) = (number, number);
            story.states.truncate(number + 1);
            let stored = reader.read(*place, *id).unwrap();
            assert_eq!(stored.envelope, story.envelope);
            assert_eq!(stored.progress, *row);
            let body = reader.read_body(place.home).unwrap();
            assert!(body == story.prepared.body, "the body of {id} is another");
        }
        self.verify_dsns(&rows);
        self.verify_state(writer, &rows);
        self.end = End::Kill;
        if let Some((calls, fault)) = fault {
            self.disk.fault_at(calls, fault);
        }
    }

    /// A settle and its DSN are one record: both or neither.
    fn verify_dsns(&mut self, rows: &Rows) {
        let mut over = Vec::new();
        for (id, story) in &self.stories {
            let Some((_, dsn)) = story.dsn else { continue };
            let parent_lives = rows.live.contains_key(id);
            let dsn_story = &self.stories[&dsn];
            let dsn_was_ended = dsn_story.states.len() > 1;
            if parent_lives {
                assert!(!rows.live.contains_key(&dsn), "the DSN of {id} came without its settle");
                over.push(*id);
            } else if story.acknowledged && !dsn_was_ended {
                assert!(rows.live.contains_key(&dsn), "the settle of {id} came without its DSN");
            }
        }
        for id in over {
            self.stories.get_mut(&id).unwrap().dsn = None;
        }
    }

    fn verify_state(&mut self, writer: &Writer, rows: &Rows) {
        for ((table, key), story) in &mut self.keys {
            let found = rows.state.get(&(*table, Bytes::copy_from_slice(&[*key])));
            let found = found.cloned().unwrap_or(StateValue::Absent);
            let mut possible = story.asked.split_off(story.durable.saturating_sub(1));
            if story.durable == 0 {
                possible.push(StateValue::Absent);
            }
            // A put that was torn and not answered may read as damaged: stricter than it need be.
            if possible.len() > 1 {
                possible.push(StateValue::Damaged);
            }
            assert!(possible.contains(&found), "state {table}/{key} has a value that it may not have");
            story.asked = vec![found];
            story.durable = 1;
        }
        for table in 0..TABLES {
            let entries = writer.state_entries(table).unwrap();
            let wanted = rows.state.iter().filter(|((other, _), _)| *other == table);
            let same = entries.iter().map(|entry| (&entry.key, &entry.value)).eq(wanted.map(|((_, k), v)| (k, v)));
            assert!(same, "the state read from the log differs from what was applied");
        }
    }
}

#[test]
fn no_crash_loses_what_was_promised_or_brings_back_what_was_ended() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("POSTRIDER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("POSTRIDER_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if let Err(panic) = std::panic::catch_unwind(|| History::new(seed).run()) {
                        eprintln!("seed {seed} failed: run it alone with POSTRIDER_SEED={seed}");
                        next.store(seeds.end, Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
