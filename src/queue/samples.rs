//! Envelopes for this room's tests.

use bytes::Bytes;

use crate::mail::{BodyFacts, Envelope, Notify, QueueId, Recipient, ReversePath, StreamKind};
use crate::time::Timestamp;

/// When the samples were accepted.
pub(crate) const ACCEPTED_AT: Timestamp = Timestamp::from_secs(1_795_255_200);

/// An envelope to one recipient at `d{number % 10}.example`.
pub(crate) fn envelope(number: u64) -> Envelope {
    envelope_to(number, &[&format!("user{number}@d{}.example", number % 10)])
}

/// An envelope to these recipients.
pub(crate) fn envelope_to(number: u64, recipients: &[&str]) -> Envelope {
    let recipient = |text: &&str| Recipient {
        address: text.parse().expect("a test's address"),
        notify: Notify::Default,
        original: None,
    };
    Envelope {
        id: QueueId::from_u64(number),
        submission: QueueId::from_u64(number),
        accepted_at: ACCEPTED_AT,
        release_at: ACCEPTED_AT,
        put_off_by: "".into(),
        held: false,
        expires_at: Timestamp::from_secs(ACCEPTED_AT.as_secs() + 432_000),
        stream: "transactional".into(),
        kind: StreamKind::Transactional,
        priority: 50,
        credential: "shop".into(),
        pool: "transactional".into(),
        reverse_path: ReversePath::Address("sender@example.com".parse().expect("a test's address")),
        return_path: None,
        ret: None,
        envid: None,
        author_domain: None,
        message_id: "m@example.com".into(),
        marks: crate::mail::Marks::default(),
        added_headers: Bytes::new(),
        body: BodyFacts { size_bytes: 12, header_bytes: 12, ..BodyFacts::default() },
        recipients: recipients.iter().map(recipient).collect(),
    }
}
