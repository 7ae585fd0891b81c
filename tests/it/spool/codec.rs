//! Records: what is written reads back, what was changed is noticed, and no bytes at all bring the decoder down.

use postrider::mail::{Envelope, Progress};
use postrider::spool::{Entry, decode_front, decode_record, encode_record};
use proptest::prelude::*;

use super::model::message;

const MAGIC: u64 = 0x0123_4567_89ab_cdef;

#[test]
fn a_record_reads_back_as_it_was_written() {
    for (envelopes, bytes) in [(1, 0), (1, 5000), (3, 17), (40, 300)] {
        let prepared = message(1 << 30, envelopes, bytes);
        let record = encode_record(&prepared, MAGIC, 7);
        assert_eq!(record.len() % 8, 0);
        let (entries, body) = decode_record(&record, MAGIC).unwrap();
        assert_eq!(body, &prepared.body[..]);
        let [Entry::Accepted { envelopes, .. }] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!(*envelopes, prepared.envelopes);
    }
}

#[test]
fn every_changed_byte_of_a_record_is_noticed() {
    let prepared = message(99, 2, 700);
    let record = encode_record(&prepared, MAGIC, 7);
    let padding = record.len() - (record.len() - 1) / 8 * 8;
    for at in 0..record.len() - padding {
        for with in [1, 0x80, 0xff] {
            let mut changed = record.clone();
            changed[at] ^= with;
            let what = decode_record(&changed, MAGIC).map(|(entries, body)| (entries, body.to_vec()));
            assert_eq!(what, None, "byte {at} changed by {with:#x} went unnoticed");
        }
    }
}

#[test]
fn a_record_of_another_segment_is_none_of_ours() {
    let record = encode_record(&message(99, 1, 10), MAGIC, 7);
    assert!(decode_record(&record, MAGIC + 1).is_none());
    for len in 0..record.len() - 8 {
        assert!(decode_record(&record[..len], MAGIC).is_none(), "cut at {len}");
    }
}

proptest! {
    #[test]
    fn no_bytes_bring_the_decoder_down(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_front(&bytes);
        let _ = decode_record(&bytes, MAGIC);
    }

    #[test]
    fn no_change_behind_the_checksum_brings_the_decoder_down(at in 56_usize..400, with in 1_u8.., cut in 0_usize..400) {
        let mut record = encode_record(&message(99, 2, 0), MAGIC, 7);
        let front_len = u32::from_le_bytes(record[32..36].try_into().unwrap()) as usize;
        let at = at.min(56 + front_len - 1);
        record[at] ^= with;
        // Without the checksum in the way: what a writer of another version might have meant.
        let front = &record[56..(56 + front_len).saturating_sub(cut).max(56)];
        if let Some(entries) = decode_front(front) {
            for entry in entries {
                let Entry::Accepted { envelopes, .. } = entry else { continue };
                // What decodes is fit to be written into a command, however it came to be.
                for envelope in &envelopes {
                    prop_assert!(recipients_are_sound(envelope));
                }
            }
        }
    }
}

fn recipients_are_sound(envelope: &Envelope) -> bool {
    let _ = Progress::new(envelope.recipients.len(), envelope.accepted_at);
    let sound = |text: String| text.parse::<postrider::mail::Address>().is_ok() && !text.contains(['\r', '\n']);
    envelope.recipients.iter().all(|recipient| sound(recipient.address.to_string()))
}
