//! Reading back: an envelope with its state, and a body. On the caller's thread, beside the writer.
//!
//! A segment may be recycled while it is read. Its magic is new then, so what is read is never taken for something
//! else: it is `Gone`, and the queue knows the new place.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tracing::error;

use super::body as body_file;
use super::clean::{envelopes_of, progress_in};
use super::disk::Disk;
use super::log::Segments;
use super::record::{BodyPlace, Entry, Header, decode_front};
use super::segment::{Segment, read_front, read_inline_body};
use super::{Place, Position, ReadError, Stored};
use crate::mail::QueueId;

/// Reads beside the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    disk: Arc<dyn Disk>,
    mail: Segments,
}

impl Reader {
    pub(super) fn new(disk: Arc<dyn Disk>, mail: Segments) -> Reader {
        Reader { disk, mail }
    }

    /// As [`super::Spool::read`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, place: Place, id: QueueId) -> Result<Stored, ReadError> {
        stored(&self.mail, place, id)
    }

    /// As [`super::Spool::read_body`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_body(&self, home: Position) -> Result<Bytes, ReadError> {
        body(&*self.disk, &self.mail, home)
    }
}

fn unreadable(error: &io::Error) -> ReadError {
    ReadError::Unreadable(error.to_string())
}

fn segment_at(segments: &Segments, at: Position) -> Result<Arc<Segment>, ReadError> {
    let segments = segments.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    segments.get(&at.segment).cloned().ok_or(ReadError::Gone)
}

/// Damaged, unless the segment went away meanwhile.
fn damaged(segments: &Segments, at: Position) -> ReadError {
    match segment_at(segments, at) {
        Ok(_) => {
            error!(segment = at.segment, offset = at.offset, "a record is damaged");
            ReadError::Damaged
        }
        Err(gone) => gone,
    }
}

fn record(segments: &Segments, at: Position) -> Result<(Arc<Segment>, Header, Vec<Entry>), ReadError> {
    let segment = segment_at(segments, at)?;
    let found = read_front(&segment, at.offset).map_err(|error| unreadable(&error))?;
    let Some((header, front)) = found else { return Err(damaged(segments, at)) };
    let entries = decode_front(&front).ok_or_else(|| damaged(segments, at))?;
    Ok((segment, header, entries))
}

/// An envelope and its latest state.
fn stored(segments: &Segments, place: Place, id: QueueId) -> Result<Stored, ReadError> {
    let (_, _, entries) = record(segments, place.home)?;
    let absent = || ReadError::Unreadable("the record holds another envelope".into());
    let (_, all) = envelopes_of(entries).ok_or_else(absent)?;
    let (envelope, mut progress) = all.into_iter().find(|(envelope, _)| envelope.id == id).ok_or_else(absent)?;
    if place.state != place.home {
        let (_, _, entries) = record(segments, place.state)?;
        progress = progress_in(&entries, &envelope).ok_or_else(absent)?;
    }
    Ok(Stored { envelope, progress })
}

/// The body of the record at `home`, verified.
fn body(disk: &dyn Disk, segments: &Segments, home: Position) -> Result<Bytes, ReadError> {
    let (segment, header, entries) = record(segments, home)?;
    let place = entries.iter().find_map(|entry| match entry {
        Entry::Accepted { body, .. } | Entry::Moved { body, .. } => Some(*body),
        Entry::Settled { .. } | Entry::Put { .. } | Entry::Closed => None,
    });
    let (bytes, sound) = match place {
        Some(BodyPlace::File { name, len, crc }) => match body_file::read(disk, name, len, crc) {
            Ok(read) => read,
            // The record says it is there: a name that is gone is damage like any other.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), false),
            Err(error) => return Err(unreadable(&error)),
        },
        Some(BodyPlace::Inline) => {
            let bytes = read_inline_body(&segment, home.offset, &header).map_err(|error| unreadable(&error))?;
            let sound = crc32fast::hash(&bytes) == header.body_crc;
            (bytes, sound)
        }
        None => return Err(ReadError::Unreadable("the record holds no message".into())),
    };
    if sound { Ok(bytes.into()) } else { Err(damaged(segments, home)) }
}
