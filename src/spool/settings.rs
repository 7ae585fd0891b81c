//! What the spool can be told, with defaults that need no telling.

use std::time::Duration;

use super::{Sequence, SpoolId};
use crate::size::ByteSize;

/// The spool's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Size of a segment of either log, preallocated.
    ///
    /// Unit: bytes. Default 64 MiB; 64 KiB to 1 GiB. Small segments free space sooner and are begun more often. Four of
    /// them are on the disk at least: one active in each log and two in reserve.
    pub segment_size: ByteSize,
    /// Bodies up to this size stand in the log, larger ones in files of their own.
    ///
    /// Unit: bytes. Default 256 KiB; at most a quarter of a segment counts. A file costs two more syncs, a body in the
    /// log may be copied by the cleaner.
    pub inline_body_max: ByteSize,
    /// A written settle is on the disk at the latest after this time.
    ///
    /// Unit: milliseconds. Default 10: what a power cut may cause to be delivered twice.
    pub settle_sync_within: Duration,
    /// Most bytes gathered for one write and one sync.
    ///
    /// Unit: bytes. Default 8 MiB: some tens of milliseconds of a slow disk.
    pub batch_size_max: ByteSize,
    /// Segments kept preallocated for settles, moves and state when the disk is full.
    ///
    /// Unit: segments. Default 2; 1 to 16. Each takes in the settles of some 300,000 envelopes.
    pub reserve: u16,
    /// Garbage tolerated beyond as much again as is live.
    ///
    /// Unit: segments. Default 4. The mail log takes up at most about twice the live bytes and this.
    pub slack: u16,
    /// Puts that may wait for the writer; more wait for a place.
    ///
    /// Unit: messages. Default 4096: with them their bodies are in memory.
    pub puts_waiting_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            segment_size: ByteSize::mib(64),
            inline_body_max: ByteSize::kib(256),
            settle_sync_within: Duration::from_millis(10),
            batch_size_max: ByteSize::mib(8),
            reserve: 2,
            slack: 4,
            puts_waiting_max: 4096,
        }
    }
}

/// The smallest segment that works: the header's page, and room for some records.
const SEGMENT_SIZE_MIN: u64 = 64 * 1024;
const SEGMENT_SIZE_MAX: u64 = 1 << 30;

impl Settings {
    /// Bytes of a new segment, within what works.
    pub(crate) fn segment_bytes(&self) -> u32 {
        let whole_pages = self.segment_size.bytes().clamp(SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX) / 4096 * 4096;
        u32::try_from(whole_pages).unwrap_or(u32::MAX)
    }

    /// The largest body that stands in the log.
    pub(crate) fn inline_bytes(&self) -> usize {
        self.inline_body_max.as_usize().min(self.segment_bytes() as usize / 4)
    }
}

/// What the opener already knows.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// A checkpoint of the rows: the spool they came from and the last record applied to them. Records up to it are not
    /// given to [`super::Apply`] again, if the spool is that one and has that record. `None`: everything is.
    pub applied: Option<Known>,
}

/// What a checkpoint of the rows knows of the mail log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// The spool that the rows came from.
    pub spool: SpoolId,
    /// The last record that was applied to them.
    pub sequence: Sequence,
    /// The highest segment in which they know a record. A start that wrote the tail of the log again put records that the
    /// checkpoint has applied into a higher one: those are applied again, for their new places.
    pub segment: u32,
}
