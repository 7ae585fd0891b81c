//! The cleaner: frees the oldest segment of the mail log, and only that one, so that a settle can never be freed before
//! the record that it ends.
//!
//! Runs on the writer thread between batches. A segment without a live envelope goes at once; one with some goes when
//! the log has grown to twice its live bytes and the slack: then its live records are copied forward, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info};

use super::log::{Purpose, Trouble};
use super::record::{BodyPlace, Encoded, Entry, Header, decode_front, write_moved};
use super::replay::file_of;
use super::segment::{LogKind, Segment, read_front, read_inline_body};
use super::table::Home;
use super::writer::{Broken, Writer, ensure, settle_trouble};
use super::{Place, Position, Sequence};
use crate::mail::{Envelope, Progress};

/// Copied in one step at least, when there is something to copy: with a step every 5 ms some 50 MiB a second.
const MOVE_BYTES_MIN: u64 = 256 * 1024;
/// How often a record that the disk will not give is tried before it is given up.
const READ_TRIES: u32 = 5;

/// A record of the oldest segment, ready to be copied.
struct Copy {
    encoded: Encoded,
    body: BodyPlace,
    stored: Vec<(Envelope, Progress)>,
}

enum Unreadable {
    /// Try again later.
    Now(std::io::Error),
    /// It is damaged.
    Damaged,
}

impl Writer {
    /// Frees what is dead, and copies as many bytes forward as new mail came in, or a little.
    pub(super) fn clean(&mut self, accepted_bytes: u64, now: Duration) -> Result<(), Broken> {
        while let Some(oldest) = self.oldest_idle() {
            if self.table.live_in(oldest.header.number) > 0 {
                break;
            }
            if !self.drop_segment(&oldest)? {
                return Ok(());
            }
        }
        if !self.wants_cleaning() {
            return Ok(());
        }
        match self.oldest_idle() {
            Some(oldest) => self.move_forward(&oldest, accepted_bytes.max(MOVE_BYTES_MIN), now),
            None => Ok(()),
        }
    }

    /// Whether the cleaner has work.
    pub(super) fn wants_cleaning(&self) -> bool {
        let Some(oldest) = self.oldest_idle() else { return false };
        let segment = u64::from(self.settings.segment_bytes());
        let (bytes, _) = self.mail.size();
        let live = self.table.live_bytes();
        let dead = self.table.live_in(oldest.header.number) == 0;
        // On a full disk every whole segment of garbage is wanted back.
        let short = self.spares.is_short() && bytes > live + 3 * segment;
        dead || short || bytes > 2 * live + u64::from(self.settings.slack.max(1)) * segment
    }

    /// The oldest segment, if it may be freed: not the active one, and no backup under way.
    fn oldest_idle(&self) -> Option<Arc<Segment>> {
        let oldest = self.mail.oldest()?;
        let active = self.mail.active_number() == Some(oldest.header.number);
        // Without an active segment the last one tells the next start where the log goes on.
        let only = self.mail.map(|segments| segments.len()) < 2;
        if active || only || Arc::strong_count(&self.pin) > 1 { None } else { Some(oldest) }
    }

    /// Frees a segment in which nothing lives. `false`: it cannot be freed now.
    fn drop_segment(&mut self, segment: &Arc<Segment>) -> Result<bool, Broken> {
        // What ended its envelopes or copied them must be on the disk first.
        self.sync_mail()?;
        let number = segment.header.number;
        let name = LogKind::Mail.segment_name(number);
        let gone = match self.quarantine.is_kept(&name) {
            true => self.quarantine.take_file(&name).map_err(|error| Trouble::of("keeping a damaged segment", &error)),
            false => self.spares.recycle(&name, segment),
        };
        if settle_trouble(gone)?.is_none() {
            return Ok(false);
        }
        self.mail.change(|segments| {
            segments.remove(&number);
        });
        self.table.forget(number);
        Ok(true)
    }

    fn move_forward(&mut self, oldest: &Arc<Segment>, allowance: u64, now: Duration) -> Result<(), Broken> {
        let number = oldest.header.number;
        if self.clean_cursor.0 != number {
            self.clean_cursor = (number, 0);
        }
        let mut pending: Vec<(u64, Position, u64, Copy)> = Vec::new();
        let mut bytes = 0;
        while bytes < allowance {
            let Some(home) = self.table.next_home(number, self.clean_cursor.1) else { break };
            bytes += u64::from(home.bytes);
            let copy = match self.copy_of(oldest, &home) {
                Ok(copy) => copy,
                Err(why) => {
                    if !self.give_up(oldest, &home, &why) {
                        break;
                    }
                    continue;
                }
            };
            let len = copy.encoded.record_bytes();
            match ensure(&mut self.mail, &mut self.spares, len, Purpose::Reserve) {
                Ok(()) => {}
                Err(Trouble::Full) => break,
                Err(Trouble::Broken(what)) => return Err(Broken(what)),
            }
            let Some((sequence, at)) = self.mail.compose(&copy.encoded, 0) else { break };
            pending.push((sequence, at, len, copy));
            self.clean_cursor.1 = home.offset.saturating_add(1);
        }
        let written = settle_trouble(self.mail.write())?;
        if written.is_none() || pending.iter().any(|(sequence, ..)| *sequence >= self.mail.next_sequence()) {
            pending.retain(|(sequence, ..)| *sequence < self.mail.next_sequence());
            self.clean_cursor.1 = 0;
        }
        if !pending.is_empty() {
            self.written_at(now);
        }
        for (sequence, at, len, copy) in pending {
            let ids = copy.stored.iter().map(|(envelope, _)| envelope.id);
            self.table.home(at, len, sequence, file_of(copy.body), ids);
            self.moved += copy.stored.len() as u64;
            for (envelope, progress) in copy.stored {
                self.apply.moved(Sequence(sequence), at, envelope, progress);
            }
        }
        Ok(())
    }

    /// Reads a record and the latest states of what lives in it.
    fn copy_of(&self, oldest: &Segment, home: &Home) -> Result<Copy, Unreadable> {
        let at = Position { segment: oldest.header.number, offset: home.offset };
        let (header, front) = read_front(oldest, home.offset).map_err(Unreadable::Now)?.ok_or(Unreadable::Damaged)?;
        let (body, all) = envelopes_of(decode_front(&front).ok_or(Unreadable::Damaged)?).ok_or(Unreadable::Damaged)?;
        let mut stored = Vec::with_capacity(all.len());
        for (slot, (envelope, progress)) in all.into_iter().enumerate() {
            if self.table.is_ended(at, slot as u32) {
                continue;
            }
            // Not ended, so live, whatever else is known of it.
            let place = self.table.place(envelope.id).unwrap_or(Place::home(at));
            let progress = match place.state == at {
                true => progress,
                false => self.latest_state(place.state, &envelope)?.unwrap_or(progress),
            };
            stored.push((envelope, progress));
        }
        let bytes = read_body_as_is(oldest, home.offset, &header).map_err(Unreadable::Now)?;
        // The sum as it was: a damaged body stays known as damaged.
        let encoded = Encoded::new(|w| write_moved(w, body, &stored), bytes.into(), header.body_crc);
        Ok(Copy { encoded, body, stored })
    }

    /// `None`: its record is damaged, and what was true before counts, which at worst delivers twice.
    fn latest_state(&self, at: Position, envelope: &Envelope) -> Result<Option<Progress>, Unreadable> {
        let Some(segment) = self.mail.map(|segments| segments.get(&at.segment).cloned()) else { return Ok(None) };
        let read = read_front(&segment, at.offset).map_err(Unreadable::Now)?;
        let progress = read.and_then(|(_, front)| progress_in(&decode_front(&front)?, envelope));
        if progress.is_none() {
            error!(queue_id = %envelope.id, "the latest state of an envelope is damaged; the one before it counts");
        }
        Ok(progress)
    }

    /// `false`: wait, and try again.
    fn give_up(&mut self, oldest: &Arc<Segment>, home: &Home, why: &Unreadable) -> bool {
        match why {
            Unreadable::Now(error) if self.read_failures < READ_TRIES => {
                self.read_failures += 1;
                error!(%error, segment = oldest.header.number, offset = home.offset, "a record could not be read");
                return false;
            }
            Unreadable::Now(_) => self.quarantine.keep(LogKind::Mail.segment_name(oldest.header.number)),
            Unreadable::Damaged => {}
        }
        self.read_failures = 0;
        self.quarantine.copy(oldest, home.offset, u64::from(home.bytes));
        let at = Position { segment: oldest.header.number, offset: home.offset };
        for id in self.table.give_up(at) {
            info!(queue_id = %id, "an envelope's record is unreadable and was quarantined");
            self.apply.lost(id);
        }
        true
    }
}

/// The envelopes of an Accepted or Moved among entries, with the state that it gives them.
pub(super) fn envelopes_of(entries: Vec<Entry>) -> Option<(BodyPlace, Vec<(Envelope, Progress)>)> {
    entries.into_iter().find_map(|entry| match entry {
        Entry::Accepted { body, envelopes } => {
            let fresh = |envelope: Envelope| {
                let progress = envelope.untried();
                (envelope, progress)
            };
            Some((body, envelopes.into_iter().map(fresh).collect()))
        }
        Entry::Moved { body, stored } => Some((body, stored)),
        Entry::Settled { .. } | Entry::Put { .. } | Entry::Closed => None,
    })
}

/// The state that a record gives an envelope.
pub(super) fn progress_in(entries: &[Entry], envelope: &Envelope) -> Option<Progress> {
    entries.iter().find_map(|entry| match entry {
        Entry::Settled { id, progress } if *id == envelope.id => Some(progress.clone()),
        Entry::Moved { stored, .. } => {
            stored.iter().find(|(other, _)| other.id == envelope.id).map(|(_, progress)| progress.clone())
        }
        _ => None,
    })
}

fn read_body_as_is(segment: &Segment, at: u32, header: &Header) -> std::io::Result<Vec<u8>> {
    match header.body_len {
        0 => Ok(Vec::new()),
        _ => read_inline_body(segment, at, header),
    }
}
