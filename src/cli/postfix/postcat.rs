//! `postcat -q ID`: a waiting message, envelope and content, for the superuser.

use std::io::{self, Write};
use std::process::ExitCode;

use super::listing::full_date;
use super::postsuper::fatal;
use super::{Call, Fatal, Place, UNAVAILABLE, flags};
use crate::cli::client::{Client, ClientError};
use crate::http::shapes::Envelope;
use crate::mail::QueueId;
use crate::pickup::{self, Directory};

/// What of a message is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parts {
    envelope: bool,
    header: bool,
    body: bool,
}

/// A message, wherever it was found.
struct Found {
    /// Queue and id, as the markers name it.
    place: String,
    /// Lines of the envelope.
    envelope: Vec<String>,
    content: Vec<u8>,
}

/// Runs it.
pub(super) fn run(call: &Call) -> Result<ExitCode, Fatal> {
    let usage = "usage: postcat [-b (body text)] [-c config_dir] [-d (decimal record type)] [-e (envelope records)] \
                 [-h (header text)] [-q (access queue)] [-v] [queue id...]";
    let (found, ids) = flags(&call.words, "bc:dehoqrv").map_err(|_| Fatal::new(1, usage))?;
    let has = |letter| found.iter().any(|flag| flag.letter == letter);
    if !has('q') || ids.is_empty() {
        return Err(Fatal::new(1, "the queue has no files to read here: postcat -q queue_id is expected"));
    }
    let any = has('e') || has('h') || has('b');
    let parts = Parts { envelope: has('e') || !any, header: has('h') || !any, body: has('b') || !any };
    let directory = found.iter().rfind(|flag| flag.letter == 'c').map(|flag| flag.value.as_str());
    let place = Place::find(directory);
    let mut out = io::stdout().lock();
    for id in ids {
        let message = find(&place, id.trim_end_matches(['*', '!', '#']))?;
        // `postcat -q ID | head` is no error.
        let _ = out.write_all(&shown(&message, parts));
    }
    Ok(ExitCode::SUCCESS)
}

fn find(place: &Place, id: &str) -> Result<Found, Fatal> {
    let none = || Fatal::new(1, format!("open queue file {id}: No such file or directory"));
    if pickup::is_name(id) && id.parse::<QueueId>().is_err() {
        return in_maildrop(place, id).ok_or_else(none);
    }
    if id.parse::<QueueId>().is_err() {
        return Err(none());
    }
    let client = Client::new(place.daemon()).map_err(|error| Fatal::new(UNAVAILABLE, error.to_string()))?;
    let refused = |error: ClientError| match &error {
        ClientError::Refused { status: 404, .. } => none(),
        error => fatal(error),
    };
    let envelope: Envelope = client.ask(&format!("/v1/queue/{id}")).map_err(refused)?;
    let content = client.ask_octets(&format!("/v1/queue/{id}/message")).map_err(refused)?;
    Ok(in_queue(&envelope, content))
}

fn in_queue(envelope: &Envelope, content: Vec<u8>) -> Found {
    let queue = match envelope.state.as_str() {
        "held" => "hold",
        "active" => "active",
        "ready" => "incoming",
        _ => "deferred",
    };
    let arrival: Option<jiff::Timestamp> = envelope.accepted_at.parse().ok();
    let seconds = arrival.and_then(|at| u64::try_from(at.as_second()).ok()).unwrap_or_default();
    let mut lines = vec![
        format!("message_size: {:>15}", envelope.size_bytes),
        format!("message_arrival_time: {}", full_date(seconds)),
        format!("named_attribute: stream={}", envelope.stream),
    ];
    if !envelope.credential.is_empty() {
        lines.push(format!("named_attribute: sasl_username={}", envelope.credential));
    }
    lines.push(format!("sender: {}", envelope.sender));
    for recipient in &envelope.recipients {
        let label = if recipient.state == "pending" { "recipient" } else { "done_recipient" };
        lines.push(format!("{label}: {}", recipient.address));
    }
    // Postfix's queue has LF; what is stored here has CRLF.
    let mut plain = content;
    plain.retain(|byte| *byte != b'\r');
    Found { place: format!("{queue}/{}", envelope.id), envelope: lines, content: plain }
}

fn in_maildrop(place: &Place, id: &str) -> Option<Found> {
    let octets = Directory::of(&place.data_dir).read(id).ok()?;
    let (stamp, letter) = postrider_drop::read(&octets).ok()?;
    let mut lines = vec![
        format!("message_arrival_time: {}", full_date(stamp.time_ms / 1000)),
        "named_attribute: rewrite_context=local".to_owned(),
        format!("named_attribute: uid={}", stamp.uid),
    ];
    if !letter.full_name.is_empty() {
        lines.push(format!("sender_fullname: {}", letter.full_name));
    }
    lines.push(format!("sender: {}", letter.sender));
    lines.extend(letter.recipients.iter().map(|wanted| format!("recipient: {}", wanted.address)));
    Some(Found { place: format!("maildrop/{id}"), envelope: lines, content: letter.message })
}

/// With the markers, if the envelope is asked for; header and body alone as they are.
fn shown(message: &Found, parts: Parts) -> Vec<u8> {
    let mut out = Vec::new();
    let end = header_end(&message.content);
    let (header, body) = message.content.split_at_checked(end).unwrap_or((&message.content, &[]));
    if parts.envelope {
        let lines = message.envelope.join("\n");
        out.extend_from_slice(
            format!("*** ENVELOPE RECORDS {0} ***\n{lines}\n*** MESSAGE CONTENTS {0} ***\n", message.place).as_bytes(),
        );
    }
    if parts.header {
        out.extend_from_slice(header);
    }
    if parts.body {
        out.extend_from_slice(body);
    }
    if parts.envelope {
        out.extend_from_slice(
            format!("*** HEADER EXTRACTED {0} ***\n*** MESSAGE FILE END {0} ***\n", message.place).as_bytes(),
        );
    }
    out
}

/// Where the header ends: before the empty line, which postcat shows as the body's first.
fn header_end(content: &[u8]) -> usize {
    if content.starts_with(b"\n") {
        return 0;
    }
    let found = content.windows(2).position(|pair| pair == b"\n\n");
    found.map_or(content.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::shapes::Recipient;

    #[test]
    fn a_message_is_shown_in_the_parts_that_are_asked_for() {
        let envelope = Envelope {
            id: "4Bz2mN2VXxzn".to_owned(),
            state: "deferred".to_owned(),
            accepted_at: "2026-11-21T10:00:00Z".to_owned(),
            sender: "a@x.example".to_owned(),
            stream: "transactional".to_owned(),
            size_bytes: 512,
            recipients: vec![
                Recipient { address: "b@y.example".to_owned(), state: "delivered".to_owned(), last: None },
                Recipient { address: "c@y.example".to_owned(), state: "pending".to_owned(), last: None },
            ],
            ..Envelope::default()
        };
        let found = in_queue(&envelope, b"Subject: x\r\nTo: y\r\n\r\nbody\r\n".to_vec());
        let show = |envelope, header, body| String::from_utf8(shown(&found, Parts { envelope, header, body })).unwrap();
        assert_eq!(show(false, true, true), "Subject: x\nTo: y\n\nbody\n");
        assert_eq!(show(false, true, false), "Subject: x\nTo: y\n");
        assert_eq!(show(false, false, true), "\nbody\n");
        let want = format!(
            "*** ENVELOPE RECORDS deferred/4Bz2mN2VXxzn ***\nmessage_size:             512\nmessage_arrival_time: {}\n\
             named_attribute: stream=transactional\nsender: a@x.example\ndone_recipient: b@y.example\n\
             recipient: c@y.example\n*** MESSAGE CONTENTS deferred/4Bz2mN2VXxzn ***\nSubject: x\nTo: y\n\nbody\n\
             *** HEADER EXTRACTED deferred/4Bz2mN2VXxzn ***\n*** MESSAGE FILE END deferred/4Bz2mN2VXxzn ***\n",
            full_date(1_795_255_200)
        );
        assert_eq!(show(true, true, true), want);
    }
}
