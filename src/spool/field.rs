//! How the words of `mail` stand in an entry: envelopes and progress.
//!
//! A value read back was checked again by its own type (an address that could break out of a command does not decode),
//! and enums go by numbers written here, never by their order in the source.

use std::net::IpAddr;

use bytes::Bytes;

use super::wire::{Reader, Writer};
use crate::mail::{
    Address, BodyFacts, Cause, Domain, EnhancedStatus, Envelope, Marks, Notify, Outcome, Progress, QueueId, Recipient,
    RecipientProgress, RecipientState, Reply, Return, ReversePath, Stage, StreamKind, Text,
};
use crate::time::Timestamp;

const EIGHT_BIT: u8 = 1;
const UTF8_HEADERS: u8 = 2;
const FOREIGN_SIGNATURE: u8 = 4;
/// No fact of the body: the envelope was held when it was accepted.
const HELD: u8 = 8;

const ENGAGED: u8 = 1;

/// Writes an envelope: fixed numbers first, texts after, recipients last (`docs/SPOOL.md`, "Envelope").
pub(super) fn write_envelope(w: &mut Writer, envelope: &Envelope) {
    w.framed(|w| {
        w.u64(envelope.id.as_u64());
        w.u64(envelope.submission.as_u64());
        w.u64(envelope.accepted_at.as_millis());
        w.u64(envelope.expires_at.as_millis());
        w.u8(match envelope.kind {
            StreamKind::Transactional => 1,
            StreamKind::Marketing => 2,
        });
        w.u8(envelope.priority);
        w.u8(match envelope.ret {
            None => 0,
            Some(Return::Full) => 1,
            Some(Return::Headers) => 2,
        });
        w.u64(envelope.body.size_bytes);
        w.u32(envelope.body.header_bytes);
        let facts = [
            (envelope.body.eight_bit, EIGHT_BIT),
            (envelope.body.utf8_headers, UTF8_HEADERS),
            (envelope.body.foreign_signature, FOREIGN_SIGNATURE),
            (envelope.held, HELD),
        ];
        w.u8(facts.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum());
        w.text(&envelope.stream);
        w.text(&envelope.credential);
        w.text(&envelope.pool);
        w.option(envelope.reverse_path.address(), write_address);
        w.option(envelope.envid.as_deref(), |w, envid| w.text(envid));
        w.option(envelope.author_domain.as_ref(), |w, domain| w.text(domain.as_str()));
        w.text(&envelope.message_id);
        w.bytes(&envelope.added_headers);
        w.u32(envelope.recipients.len() as u32);
        for recipient in &envelope.recipients {
            write_address(w, &recipient.address);
            w.u8(notify_number(recipient.notify));
            w.option(recipient.original.as_deref(), |w, original| w.text(original));
        }
        // Since version 2.
        w.u64(envelope.release_at.as_millis());
        write_marks(w, &envelope.marks);
        w.text(&envelope.put_off_by);
        w.option(envelope.return_path.as_ref(), write_address);
    });
}

fn write_marks(w: &mut Writer, marks: &Marks) {
    w.u8(if marks.engaged { ENGAGED } else { 0 });
    w.u16(marks.tags.len() as u16);
    for tag in &marks.tags {
        w.text(tag);
    }
    w.u16(marks.metadata.len() as u16);
    for (key, value) in &marks.metadata {
        w.text(key);
        w.text(value);
    }
}

fn read_marks(r: &mut Reader) -> Option<Marks> {
    let engaged = r.u8()? & ENGAGED != 0;
    let tags = usize::from(r.u16()?);
    let tags = r.list(tags, 2, |r| r.text().map(Text::from))?;
    let pairs = usize::from(r.u16()?);
    let metadata = r.list(pairs, 4, |r| Some((r.text()?.into(), r.text()?.into())))?;
    Some(Marks { tags, metadata, engaged })
}

/// Reads an envelope; ignores what a later version appended to it.
pub(super) fn read_envelope(r: &mut Reader) -> Option<Envelope> {
    let r = &mut r.framed()?;
    let id = QueueId::from_u64(r.u64()?);
    let submission = QueueId::from_u64(r.u64()?);
    let accepted_at = Timestamp::from_millis(r.u64()?);
    let expires_at = Timestamp::from_millis(r.u64()?);
    let kind = match r.u8()? {
        1 => StreamKind::Transactional,
        2 => StreamKind::Marketing,
        _ => return None,
    };
    let priority = r.u8()?;
    let ret = match r.u8()? {
        0 => None,
        1 => Some(Return::Full),
        2 => Some(Return::Headers),
        _ => return None,
    };
    let (size_bytes, header_bytes, facts) = (r.u64()?, r.u32()?, r.u8()?);
    let body = BodyFacts {
        size_bytes,
        header_bytes,
        eight_bit: facts & EIGHT_BIT != 0,
        utf8_headers: facts & UTF8_HEADERS != 0,
        foreign_signature: facts & FOREIGN_SIGNATURE != 0,
    };
    let (stream, credential, pool) = (r.text()?.into(), r.text()?.into(), r.text()?.into());
    let reverse_path = r.option(read_address)?.map_or(ReversePath::Null, ReversePath::Address);
    let envid = r.option(|r| r.text().map(Text::from))?;
    let author_domain = r.option(|r| r.text()?.parse::<Domain>().ok())?;
    let message_id = r.text()?.into();
    let added_headers = Bytes::copy_from_slice(r.bytes()?);
    let count = r.u32()? as usize;
    let recipients = r.list(count, 6, |r| {
        let address = read_address(r)?;
        let notify = notify(r.u8()?)?;
        let original = r.option(|r| r.text().map(Text::from))?;
        Some(Recipient { address, notify, original })
    })?;
    // What version 1 wrote ends here.
    let (release_at, marks) = match r.0.is_empty() {
        true => (accepted_at, Marks::default()),
        false => (Timestamp::from_millis(r.u64()?), read_marks(r)?),
    };
    // What was written before there were quotas ends here.
    let put_off_by = match r.0.is_empty() {
        true => Text::default(),
        false => r.text()?.into(),
    };
    // What was written before we had return paths ends here.
    let return_path = match r.0.is_empty() {
        true => None,
        false => r.option(read_address)?,
    };
    Some(Envelope {
        id,
        submission,
        accepted_at,
        release_at,
        put_off_by,
        held: facts & HELD != 0,
        expires_at,
        stream,
        kind,
        priority,
        credential,
        pool,
        reverse_path,
        return_path,
        ret,
        envid,
        author_domain,
        message_id,
        marks,
        added_headers,
        body,
        recipients,
    })
}

fn write_address(w: &mut Writer, address: &Address) {
    w.text(address.local());
    w.text(address.domain().as_str());
}

fn read_address(r: &mut Reader) -> Option<Address> {
    let local = r.text()?;
    let domain = r.text()?.parse().ok()?;
    Address::new(local, domain).ok()
}

fn notify_number(notify: Notify) -> u8 {
    match notify {
        Notify::Default => 0,
        Notify::Never => 1,
        Notify::On { success, failure, delay } => 8 | u8::from(success) | u8::from(failure) << 1 | u8::from(delay) << 2,
    }
}

fn notify(number: u8) -> Option<Notify> {
    match number {
        0 => Some(Notify::Default),
        1 => Some(Notify::Never),
        8..=15 => Some(Notify::On { success: number & 1 != 0, failure: number & 2 != 0, delay: number & 4 != 0 }),
        _ => None,
    }
}

/// Writes the whole state of an envelope (`docs/SPOOL.md`, "Progress").
pub(super) fn write_progress(w: &mut Writer, progress: &Progress) {
    w.framed(|w| {
        w.u16(progress.attempts);
        w.u64(progress.due.as_millis());
        w.u8(u8::from(progress.held));
        w.u8(progress.uncertain);
        w.u8(u8::from(progress.delay_reported));
        w.text(&progress.source);
        w.u32(progress.recipients.len() as u32);
        for recipient in &progress.recipients {
            w.u8(state_number(recipient.state));
            w.option(recipient.last.as_ref(), write_outcome);
        }
        // Since version 2.
        w.text(&progress.pool);
    });
}

/// Reads a state; ignores what a later version appended to it.
pub(super) fn read_progress(r: &mut Reader) -> Option<Progress> {
    let r = &mut r.framed()?;
    let attempts = r.u16()?;
    let due = Timestamp::from_millis(r.u64()?);
    let held = r.flag()?;
    let uncertain = r.u8()?;
    let delay_reported = r.flag()?;
    let source = r.text()?.into();
    let count = r.u32()? as usize;
    let recipients = r.list(count, 2, |r| {
        let state = state(r.u8()?)?;
        let last = r.option(read_outcome)?;
        Some(RecipientProgress { state, last })
    })?;
    let pool = if r.0.is_empty() { "" } else { r.text()? };
    Some(Progress { attempts, due, held, uncertain, delay_reported, source, pool: pool.into(), recipients })
}

fn write_outcome(w: &mut Writer, outcome: &Outcome) {
    w.u64(outcome.at.as_millis());
    w.u8(stage_number(outcome.stage));
    w.text(&outcome.host);
    match outcome.address {
        None => w.u8(0),
        Some(IpAddr::V4(address)) => {
            w.u8(4);
            w.0.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            w.u8(6);
            w.0.extend_from_slice(&address.octets());
        }
    }
    match &outcome.cause {
        Cause::Reply(reply) => {
            w.u8(1);
            w.u16(reply.code);
            w.option(reply.enhanced, write_status);
            w.text(&reply.text);
        }
        Cause::Local { status, text } => {
            w.u8(2);
            write_status(w, *status);
            w.text(text);
        }
    }
}

fn read_outcome(r: &mut Reader) -> Option<Outcome> {
    let at = Timestamp::from_millis(r.u64()?);
    let stage = stage(r.u8()?)?;
    let host = r.text()?.into();
    let address = match r.u8()? {
        0 => None,
        4 => Some(IpAddr::from(r.octets::<4>()?)),
        6 => Some(IpAddr::from(r.octets::<16>()?)),
        _ => return None,
    };
    let cause = match r.u8()? {
        1 => {
            let code = r.u16()?;
            let enhanced = r.option(read_status)?;
            Cause::Reply(Reply { code, enhanced, text: r.text()?.into() })
        }
        2 => {
            let status = read_status(r)?;
            Cause::Local { status, text: r.text()?.into() }
        }
        _ => return None,
    };
    Some(Outcome { at, stage, host, address, cause })
}

fn write_status(w: &mut Writer, status: EnhancedStatus) {
    w.u8(status.class);
    w.u16(status.subject);
    w.u16(status.detail);
}

fn read_status(r: &mut Reader) -> Option<EnhancedStatus> {
    Some(EnhancedStatus::new(r.u8()?, r.u16()?, r.u16()?))
}

fn state_number(state: RecipientState) -> u8 {
    match state {
        RecipientState::Pending => 0,
        RecipientState::Delivered => 1,
        RecipientState::Failed => 2,
        RecipientState::Expired => 3,
        RecipientState::Suppressed => 4,
        RecipientState::Deleted => 5,
    }
}

fn state(number: u8) -> Option<RecipientState> {
    Some(match number {
        0 => RecipientState::Pending,
        1 => RecipientState::Delivered,
        2 => RecipientState::Failed,
        3 => RecipientState::Expired,
        4 => RecipientState::Suppressed,
        5 => RecipientState::Deleted,
        _ => return None,
    })
}

fn stage_number(stage: Stage) -> u8 {
    match stage {
        Stage::Resolve => 1,
        Stage::Connect => 2,
        Stage::Greeting => 3,
        Stage::Hello => 4,
        Stage::Tls => 5,
        Stage::Auth => 6,
        Stage::Mail => 7,
        Stage::Rcpt => 8,
        Stage::Data => 9,
        Stage::FinalDot => 10,
        Stage::Local => 11,
    }
}

fn stage(number: u8) -> Option<Stage> {
    Some(match number {
        1 => Stage::Resolve,
        2 => Stage::Connect,
        3 => Stage::Greeting,
        4 => Stage::Hello,
        5 => Stage::Tls,
        6 => Stage::Auth,
        7 => Stage::Mail,
        8 => Stage::Rcpt,
        9 => Stage::Data,
        10 => Stage::FinalDot,
        11 => Stage::Local,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope_to(recipients: &[&str]) -> Envelope {
        let at = Timestamp::from_secs(1_795_255_200);
        let recipient = |to: &&str| Recipient { address: to.parse().unwrap(), notify: Notify::Default, original: None };
        Envelope {
            id: QueueId::from_u64(7),
            submission: QueueId::from_u64(7),
            accepted_at: at,
            release_at: at,
            put_off_by: "".into(),
            held: false,
            expires_at: Timestamp::from_secs(1_795_687_200),
            stream: "transactional".into(),
            kind: StreamKind::Transactional,
            priority: 50,
            credential: "shop".into(),
            pool: "default".into(),
            reverse_path: ReversePath::Null,
            return_path: None,
            ret: None,
            envid: None,
            author_domain: "example.com".parse().ok(),
            message_id: "m@example.com".into(),
            marks: Marks::default(),
            added_headers: Bytes::new(),
            body: BodyFacts::default(),
            recipients: recipients.iter().map(recipient).collect(),
        }
    }

    /// What was written, without its last octets: as a version wrote it that did not have them yet.
    fn cut(write: impl FnOnce(&mut Writer), octets: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut Writer(&mut bytes));
        bytes.truncate(bytes.len() - octets);
        let len = u32::try_from(bytes.len() - 4).unwrap();
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    #[test]
    fn what_version_1_wrote_is_unscheduled_and_has_no_marks() {
        let envelope = envelope_to(&["a@example.net", "b@example.net"]);
        // Release u64, engaged u8, two counts u16, the length of an empty text, no return path.
        let old = cut(|w| write_envelope(w, &envelope), 16);
        assert_eq!(read_envelope(&mut Reader(&old)), Some(envelope));

        let mut progress = Progress::new(2, Timestamp::from_secs(5));
        progress.source = "a".into();
        // The length of an empty text.
        let old = cut(|w| write_progress(w, &progress), 2);
        assert_eq!(read_progress(&mut Reader(&old)), Some(progress));
    }

    #[test]
    fn marks_release_and_pool_read_back_and_a_cut_is_noticed() {
        let mut envelope = envelope_to(&["a@example.net"]);
        envelope.release_at = Timestamp::from_secs(1_900_000_000);
        envelope.marks.tags = vec!["spring-sale".into(), "Frühling".into()];
        envelope.marks.metadata = vec![("order".into(), "7".into()), ("empty".into(), "".into())];
        envelope.marks.engaged = true;
        envelope.held = true;
        envelope.put_off_by = "the quota".into();
        envelope.return_path = Some("b2@bounce.example".parse().unwrap());
        let whole = cut(|w| write_envelope(w, &envelope), 0);
        assert_eq!(read_envelope(&mut Reader(&whole)).as_ref(), Some(&envelope));
        // Without the path, its flag and its lengths it is what was written before there were return paths; without "the
        // quota" and its length, what was written before there were quotas.
        let before_paths = 1 + 2 + "b2".len() + 2 + "bounce.example".len();
        let before_quotas = before_paths + 11;
        for octets in (1..60).filter(|octets| ![before_paths, before_quotas].contains(octets)) {
            let read = read_envelope(&mut Reader(&cut(|w| write_envelope(w, &envelope), octets)));
            assert!(read.is_none(), "{octets} octets are missing");
        }
        let old = cut(|w| write_envelope(w, &envelope), before_paths);
        envelope.return_path = None;
        assert_eq!(read_envelope(&mut Reader(&old)).as_ref(), Some(&envelope));
        let before_quotas = 1 + 11;
        let old = cut(|w| write_envelope(w, &envelope), before_quotas);
        envelope.put_off_by = Text::default();
        assert_eq!(read_envelope(&mut Reader(&old)).as_ref(), Some(&envelope));
        let mut progress = Progress::new(1, Timestamp::from_secs(5));
        progress.pool = "bulk".into();
        let whole = cut(|w| write_progress(w, &progress), 0);
        assert_eq!(read_progress(&mut Reader(&whole)), Some(progress));
    }
}
