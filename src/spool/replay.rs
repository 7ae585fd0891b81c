//! Reads the logs at a start and tells the table and the queue what they say, in log order.
//!
//! Called once, by [`super::writer::Writer::open`]. It reads headers and fronts, never the bodies of messages.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::quarantine::Quarantine;
use super::record::{BodyPlace, Entry, Header, decode_front, repair_front};
use super::recover::{end_of, void_from};
use super::segment::{Found, Segment, Walk};
use super::table::Table;
use super::{Apply, Message, Position, Sequence, StateEntry, StateValue};
use crate::mail::{Envelope, Progress, QueueId};
use crate::time::Timestamp;

/// What a replay of the mail log learns besides the rows.
#[derive(Debug)]
pub(super) struct Learned {
    pub last_id: QueueId,
    pub newest: Timestamp,
}

impl Learned {
    pub(super) fn envelope(&mut self, envelope: &Envelope) {
        self.last_id = self.last_id.max(envelope.id);
        self.newest = self.newest.max(envelope.accepted_at);
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        for outcome in progress.recipients.iter().filter_map(|recipient| recipient.last.as_ref()) {
            self.newest = self.newest.max(outcome.at);
        }
    }
}

/// The one who replays the mail log.
pub(super) struct MailReplay<'a> {
    pub table: &'a mut Table,
    pub apply: &'a mut dyn Apply,
    pub quarantine: &'a mut Quarantine,
    /// Records up to this are known to the queue.
    pub applied: u64,
    pub learned: Learned,
}

impl MailReplay<'_> {
    pub(super) fn run(&mut self, segments: &BTreeMap<u32, Arc<Segment>>) -> io::Result<()> {
        for (number, segment) in segments {
            let header = segment.header;
            self.learned.last_id = self.learned.last_id.max(QueueId::from_u64(header.last_id));
            self.learned.newest = self.learned.newest.max(Timestamp::from_millis(header.newest));
            let void_from = void_from(segments, *number);
            let mut walk = Walk::new(segment, end_of(segments, *number));
            while let Some(found) = walk.next()? {
                match found {
                    Found::Record { header, .. } | Found::BadFront { header, .. } if header.sequence >= void_from => {}
                    Found::Record { at, header, front } => match decode_front(front) {
                        Some(entries) => self.record(Position { segment: *number, offset: at }, &header, entries),
                        None => self.quarantine.copy(segment, at, header.record_bytes()),
                    },
                    Found::BadFront { at, header, .. } => self.quarantine.copy(segment, at, header.record_bytes()),
                    Found::Gap { at, len } => self.quarantine.copy(segment, at, len),
                }
            }
            if walk.is_unreadable() {
                self.quarantine.keep(header.kind.segment_name(*number));
            }
        }
        Ok(())
    }

    fn record(&mut self, at: Position, header: &Header, entries: Vec<Entry>) {
        let known = header.sequence <= self.applied;
        let sequence = Sequence(header.sequence);
        for entry in entries {
            match entry {
                Entry::Accepted { body, envelopes } => {
                    envelopes.iter().for_each(|envelope| self.learned.envelope(envelope));
                    let ids = envelopes.iter().map(|envelope| envelope.id);
                    self.table.home(at, header.record_bytes(), header.sequence, file_of(body), ids);
                    if !known {
                        self.apply.accepted(sequence, at, Message { envelopes, body: None });
                    }
                }
                Entry::Settled { id, progress } => {
                    self.learned.progress(&progress);
                    let live = match progress.is_final() {
                        true => self.table.end(id).is_some(),
                        false => self.table.state(id, at),
                    };
                    if live && !known {
                        self.apply.settled(sequence, at, id, progress);
                    }
                }
                Entry::Moved { body, stored } => {
                    let ids = stored.iter().map(|(envelope, _)| envelope.id);
                    self.table.home(at, header.record_bytes(), header.sequence, file_of(body), ids);
                    for (envelope, progress) in stored {
                        self.learned.envelope(&envelope);
                        self.learned.progress(&progress);
                        if !known {
                            self.apply.moved(sequence, at, envelope, progress);
                        }
                    }
                }
                // Not the mail log's.
                Entry::Put { .. } | Entry::Closed => {}
            }
        }
    }
}

pub(super) fn file_of(body: BodyPlace) -> Option<QueueId> {
    match body {
        BodyPlace::Inline => None,
        BodyPlace::File { name, .. } => Some(name),
    }
}

/// A put as found in the state log.
pub(super) struct FoundPut {
    pub sequence: u64,
    pub table: u16,
    pub key: bytes::Bytes,
    pub value: StateValue,
}

/// Gives every put of the state log in log order, and counts the damaged ones whose key cannot be told. Damaged
/// stretches go to `damaged`.
pub(super) fn state_puts(
    segments: &BTreeMap<u32, Arc<Segment>>,
    end_of_last: Option<u32>,
    mut put: impl FnMut(FoundPut),
    mut damaged: impl FnMut(&Segment, u32, u64),
) -> io::Result<u64> {
    let mut lost = 0;
    let last = segments.last_key_value().map(|(number, _)| *number);
    for (number, segment) in segments {
        let void_from = void_from(segments, *number);
        let known = end_of(segments, *number);
        let end = if Some(*number) == last && !segment.header.snapshot { end_of_last.or(known) } else { known };
        let mut walk = Walk::new(segment, end);
        while let Some(found) = walk.next()? {
            let (at, header, entries, sound) = match found {
                Found::Record { header, .. } | Found::BadFront { header, .. } if header.sequence >= void_from => {
                    continue;
                }
                Found::Record { at, header, front } => (at, header, decode_front(front), true),
                Found::BadFront { at, header, front } => {
                    let front = repair_front(front, header.front_crc);
                    (at, header, front.as_deref().and_then(decode_front), false)
                }
                Found::Gap { at, len } => {
                    damaged(segment, at, len);
                    lost += 1;
                    continue;
                }
            };
            if !sound {
                damaged(segment, at, header.record_bytes());
            }
            let Some(entries) = entries else {
                lost += 1;
                continue;
            };
            for entry in entries {
                let Entry::Put { table, key, present } = entry else { continue };
                let body = walk.body(at, &header)?;
                let value = match (sound && crc32fast::hash(body) == header.body_crc, present) {
                    (false, _) => StateValue::Damaged,
                    (true, false) => StateValue::Absent,
                    (true, true) => StateValue::Is(bytes::Bytes::copy_from_slice(body)),
                };
                if sound && value == StateValue::Damaged {
                    damaged(segment, at, header.record_bytes());
                }
                put(FoundPut { sequence: header.sequence, table, key, value });
            }
        }
    }
    Ok(lost)
}

/// For the queue, without the number.
pub(super) fn state_entry(put: FoundPut) -> StateEntry {
    StateEntry { table: put.table, key: put.key, value: put.value }
}
