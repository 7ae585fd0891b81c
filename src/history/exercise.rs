//! What the fuzzer is let at: the readers of blocks and index runs. Never called by the daemon.

use super::block::{self, Builder, Header};
use super::index::Head;
use super::row::Row;

const MARKER: u64 = 0x0123_4567_89ab_cdef;

/// Octets as a block's body (under a sound header), as a whole block, and as the head of an index run: nothing panics, and
/// rows that are read are read the same again after they were written.
pub fn octets(octets: &[u8]) {
    let _ = block::rows(octets, MARKER);
    let _ = Header::read(octets, MARKER);
    let _ = Head::read(octets, MARKER);
    let Some(rows) = block::rows(&Builder::of_body(octets).sealed(MARKER), MARKER) else { return };
    let mut again = Builder::default();
    let mut copy: Vec<Row> = rows.clone();
    copy.iter_mut().for_each(|row| again.push(row));
    assert_eq!(block::rows(&again.sealed(MARKER), MARKER).as_ref(), Some(&rows), "rows survive");
    for row in &rows {
        row.fact.keys(|_| {});
        assert!(serde_json::to_string(row).is_ok(), "a row has its JSON");
    }
}
