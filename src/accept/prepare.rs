//! From a submission to a message that can be kept: pure, so that every rule of the door is tested without one.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::mail::{
    Address, Domain, Envelope, Notify, Prepared, QueueId, Recipient, ReturnPath, ReversePath, StreamKind, Text,
};
use crate::message::{
    Control, ControlError, Field, HeaderBlock, Kind, Missing, Trace, Warning, control, mailboxes, quoted, scan, stamp,
};
use crate::route;
use crate::time::Timestamp;

use super::letterhead::{self, Head};
use super::quota::Rules;
use super::rewriting::{Deed, check_received};
use super::settings::{DEFAULT_STREAM, MARKETING_STREAM, Rights, Settings, Stream};
use super::{Origin, Refusal, Submission};

/// A prepared message, and what should be logged about it.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub prepared: Prepared,
    /// What quotas and caps it must keep to.
    pub rules: Rules,
    /// What it has already of what could be added to it.
    pub head: Head,
    pub warning: Option<Warning>,
    /// A control header that means nothing, since its family is not enabled.
    pub ignored: Option<String>,
}

/// One forward path as the client gave it: address, NOTIFY, ORCPT.
type Wanted = (Address, Notify, Option<Text>);

/// Checks, stamps, tags and splits. `next_id` gives a new queue id at each call.
pub(super) fn prepare(
    settings: &Settings,
    submission: Submission,
    deed: &Deed,
    next_id: &mut dyn FnMut() -> QueueId,
) -> Result<Admitted, Refusal> {
    let origin = &submission.origin;
    if !deed.authors_checked {
        check_sender(settings, origin.credential.as_deref(), &submission.reverse_path)?;
    }
    let mut header =
        scan(&submission.message, settings.header_limits()).map_err(|error| refuse(552, "5.3.4", error.to_string()))?;
    check_loop(settings, &header)?;
    let author_domain = match &origin.credential {
        Some(name) if !deed.authors_checked => Some(check_authors(rights(settings, name)?, name, &header)?),
        Some(_) | None => first_author(&header),
    };
    let credential = match &origin.credential {
        Some(name) => Some((&**name, rights(settings, name)?)),
        None => None,
    };
    let families = credential.map_or(origin.listener_control, |(_, rights)| rights.control);
    let control = control(&mut header, families).map_err(refused_control)?;
    let (stream_name, stream) = choose_stream(settings, origin, &control)?;
    let rules = Rules::of(credential, (stream_name, stream));
    let release_at = release_at(settings, &submission, &control)?;
    let recipients = distinct(settings, submission.recipients);
    let id = next_id();
    let hidden = origin.hide_client;
    let trace = Trace {
        hello: Some(&*origin.hello).filter(|hello| !hidden && !hello.is_empty()),
        client: origin.client.map(|client| client.ip()).filter(|_| !hidden),
        tls: origin.tls.as_deref(),
        by: &settings.hostname,
        protocol: origin.protocol,
        id,
        recipient: match recipients.as_slice() {
            [only] => Some(&only.address),
            _ => None,
        },
        at: submission.received_at,
    };
    let mut stamped = stamp(&submission.message, &header, &trace, missing(origin, &submission.reverse_path));
    check_received(settings, &mut stamped);
    let template = Envelope {
        id,
        submission: id,
        accepted_at: submission.received_at,
        release_at,
        put_off_by: Text::default(),
        held: false,
        expires_at: release_at.after(stream.max_age),
        stream: stream_name.into(),
        kind: stream.kind,
        priority: stream.priority,
        credential: origin.credential.clone().unwrap_or_default(),
        pool: stream.pool.clone(),
        reverse_path: submission.reverse_path,
        return_path: None,
        ret: submission.ret,
        envid: submission.envid,
        author_domain,
        message_id: stamped.message_id.into(),
        marks: control.marks,
        added_headers: Bytes::new(),
        body: stamped.facts,
        recipients: Vec::new(),
    };
    let whose = credential.map_or(ReturnPath::Ours, |(_, rights)| rights.return_path);
    let head = Head::of(&header, whose);
    let recipients_max = match letterhead::is_personal(settings, &head, &template) {
        true => 1,
        false => settings.envelope_recipients_max.min(rules.envelope_recipients_max()),
    };
    let envelopes = split(settings, template, recipients, recipients_max, next_id);
    if envelopes.is_empty() {
        return Err(refuse(554, "5.5.1", "Error: no valid recipients".to_owned()));
    }
    let prepared = Prepared { body: stamped.message.into(), envelopes };
    Ok(Admitted { prepared, rules, head, warning: stamped.warning, ignored: control.ignored })
}

fn refuse(code: u16, status: &'static str, text: String) -> Refusal {
    Refusal { code, status, text }
}

fn rights<'a>(settings: &'a Settings, credential: &str) -> Result<&'a Rights, Refusal> {
    // A reload may have removed it since it authenticated.
    let gone = || refuse(550, "5.7.1", format!("the credential {credential:?} exists no more"));
    settings.credentials.get(credential).ok_or_else(gone)
}

/// Whether this envelope sender may be used. `None` is a trusted network, which may use any.
pub(super) fn check_sender(settings: &Settings, credential: Option<&str>, path: &ReversePath) -> Result<(), Refusal> {
    let (Some(name), Some(address)) = (credential, path.address()) else { return Ok(()) };
    let rights = rights(settings, name)?;
    match rights.has_sender(address) {
        true => Ok(()),
        false => check_right(rights, name, address.domain(), "the envelope sender"),
    }
}

/// All that must be right about who sends a message, as its client wrote it.
pub(super) fn check_authors_of(settings: &Settings, submission: &Submission) -> Result<(), Refusal> {
    let credential = submission.origin.credential.as_deref();
    check_sender(settings, credential, &submission.reverse_path)?;
    let Some(name) = credential else { return Ok(()) };
    let header =
        scan(&submission.message, settings.header_limits()).map_err(|error| refuse(552, "5.3.4", error.to_string()))?;
    check_authors(rights(settings, name)?, name, &header).map(drop)
}

/// A report of ours, to whom its recipient stands for: one that has no name of its own here goes to the postmaster.
pub(super) fn addressed(
    settings: &Settings,
    template: Envelope,
    next_id: &mut dyn FnMut() -> QueueId,
) -> Vec<Envelope> {
    let mut recipients = Vec::with_capacity(template.recipients.len());
    for recipient in &template.recipients {
        let all = match settings.rewriting.expand(&recipient.address) {
            Ok(all) => all,
            Err(_) => settings.postmaster.iter().cloned().collect(),
        };
        recipients.extend(all.into_iter().map(|address| Recipient { address, ..recipient.clone() }));
    }
    if recipients.is_empty() {
        recipients.clone_from(&template.recipients);
    }
    split(settings, template, recipients, settings.envelope_recipients_max, next_id)
}

fn check_right(rights: &Rights, credential: &str, domain: &Domain, place: &str) -> Result<(), Refusal> {
    match rights.covers(domain) {
        true => Ok(()),
        false => Err(refuse(
            550,
            "5.7.1",
            format!(
                "the credential {credential:?} may not send as {domain} ({place}); add the domain to its from_domains"
            ),
        )),
    }
}

/// RFC 5321 §6.3.
fn check_loop(settings: &Settings, header: &HeaderBlock) -> Result<(), Refusal> {
    let hops = header.of(Kind::Received).count();
    match hops > settings.received_max {
        true => Err(refuse(554, "5.4.6", format!("Error: too many hops: the message passed {hops} hosts"))),
        false => Ok(()),
    }
}

/// Every mailbox that a reader could take for the author or sender must be the credential's, and no field may stand
/// twice that readers show once. Returns the author's domain.
fn check_authors(rights: &Rights, credential: &str, header: &HeaderBlock) -> Result<Domain, Refusal> {
    let once = [
        (Kind::From, "From"),
        (Kind::Sender, "Sender"),
        (Kind::Subject, "Subject"),
        (Kind::Date, "Date"),
        (Kind::MessageId, "Message-ID"),
    ];
    for (kind, name) in once {
        if header.of(kind).count() > 1 {
            return Err(refuse(550, "5.6.0", format!("the message has more than one {name} field (RFC 5322 3.6)")));
        }
    }
    let Some(from) = header.of(Kind::From).next() else {
        let text = "the message has no From field; add one, and an empty line after the header";
        return Err(refuse(550, "5.6.0", text.to_owned()));
    };
    let authors = owned_mailboxes(rights, credential, from, "From")?;
    if let Some(sender) = header.of(Kind::Sender).next() {
        owned_mailboxes(rights, credential, sender, "Sender")?;
    }
    let no_author = || refuse(550, "5.6.0", "the From field holds no mail address".to_owned());
    author_domain(&authors).ok_or_else(no_author)
}

fn owned_mailboxes(rights: &Rights, credential: &str, field: &Field, name: &str) -> Result<Vec<Address>, Refusal> {
    let found = mailboxes(field.value).map_err(|error| refuse(550, "5.6.0", format!("the {name} field {error}")))?;
    for mailbox in found.iter().filter(|mailbox| !rights.has_sender(mailbox)) {
        check_right(rights, credential, mailbox.domain(), &format!("in the {name} field"))?;
    }
    Ok(found)
}

/// RFC 9989 aligns with the one author. Of several, the last is the address proper: what hides in names is found first.
fn author_domain(authors: &[Address]) -> Option<Domain> {
    authors.last().map(|mailbox| mailbox.domain().clone())
}

/// Whose key signs mail of a trusted network: nothing is refused there.
fn first_author(header: &HeaderBlock) -> Option<Domain> {
    let field = header.of(Kind::From).next()?;
    author_domain(&mailboxes(field.value).ok()?)
}

/// RFC 6409 §8 for submissions. A trusted host on our own machine gets what Postfix gives its own host's mail, From
/// included; one elsewhere relays, and its mail is left as it is (RFC 5321 §6.4).
fn missing<'a>(origin: &Origin, path: &'a ReversePath) -> Missing<'a> {
    let is_local = origin.client.is_none_or(|client| client.ip().to_canonical().is_loopback());
    match &origin.credential {
        Some(_) => Missing::Added { author: None },
        None if origin.fix_headers || is_local => Missing::Added { author: path.address() },
        None => Missing::Left,
    }
}

fn refused_control(error: ControlError) -> Refusal {
    let status = match error {
        ControlError::Unsupported { .. } => "5.7.1",
        ControlError::Unreadable { .. } | ControlError::TooMuch(_) => "5.6.0",
    };
    refuse(550, status, error.to_string())
}

/// RFC 4865, a control header, or neither; the later of both.
fn release_at(settings: &Settings, submission: &Submission, control: &Control) -> Result<Timestamp, Refusal> {
    let now = submission.received_at;
    let asked = submission.release_at.max(control.release_at).unwrap_or(now).max(now);
    if asked <= now.after(settings.hold_max) {
        return Ok(asked);
    }
    let (asked, most) = (asked.rfc3339(), settings.hold_max.as_secs());
    Err(refuse(
        550,
        "5.7.1",
        format!("the message asks to be sent at {asked}; {most} seconds ahead are allowed at most"),
    ))
}

/// By an allowed control header, else by credential, by listener, or the default.
fn choose_stream<'a>(
    settings: &'a Settings,
    origin: &'a Origin,
    control: &Control,
) -> Result<(&'a str, &'a Stream), Refusal> {
    if let Some(named) = named_stream(settings, control)? {
        return Ok(named);
    }
    let (name, stream) = own_stream(settings, origin)?;
    let Some((kind, place)) = &control.kind else { return Ok((name, stream)) };
    if stream.kind == *kind {
        return Ok((name, stream));
    }
    let name = match kind {
        StreamKind::Transactional => DEFAULT_STREAM,
        StreamKind::Marketing => MARKETING_STREAM,
    };
    let fitting = settings.stream_called(name).filter(|(_, stream)| stream.kind == *kind);
    fitting.ok_or_else(|| refuse(550, "5.7.1", format!("{place} asks for {} mail: no stream is for that", kind.name())))
}

/// The stream that the control headers name. Two that name different ones leave open which was meant, and the wrong one
/// would send mail from the wrong addresses.
fn named_stream<'a>(settings: &'a Settings, control: &Control) -> Result<Option<(&'a str, &'a Stream)>, Refusal> {
    let mut chosen: Option<((&str, &Stream), &str)> = None;
    for asked in &control.streams {
        let found = match settings.stream_called(&asked.name) {
            Some(found) => found,
            None if asked.optional => continue,
            None => return Err(unknown_stream(settings, &asked.name, &asked.place)),
        };
        match chosen {
            Some(((name, _), place)) if name != found.0 => {
                let text = format!("{place} chooses the stream {name}, and {} the stream {}", asked.place, found.0);
                return Err(refuse(550, "5.7.1", text));
            }
            _ => chosen = Some((found, &asked.place)),
        }
    }
    Ok(chosen.map(|(found, _)| found))
}

fn unknown_stream(settings: &Settings, name: &str, place: &str) -> Refusal {
    /// As many as a reply line holds.
    const NAMES_MAX: usize = 12;
    let mut names: Vec<&str> = settings.streams.keys().map(|name| &**name).collect();
    names.sort_unstable();
    let more = if names.len() > NAMES_MAX { " and others" } else { "" };
    names.truncate(NAMES_MAX);
    let text =
        format!("{place} names the stream {}, which is unknown; there are {}{more}", quoted(name), names.join(", "));
    refuse(550, "5.7.1", text)
}

fn own_stream<'a>(settings: &'a Settings, origin: &'a Origin) -> Result<(&'a str, &'a Stream), Refusal> {
    let of_credential = origin.credential.as_deref().and_then(|name| settings.credentials.get(name)?.stream.as_deref());
    let name = of_credential.or(origin.listener_stream.as_deref()).unwrap_or(&settings.default_stream);
    match settings.streams.get(name) {
        Some(stream) => Ok((name, stream)),
        // The config is checked for this; a reload in between is not worth losing mail for.
        None => Err(refuse(451, "4.3.5", format!("there is no stream {name:?}; try again later"))),
    }
}

/// Each recipient once, in order; mail to our own postmaster and abuse goes to the postmaster.
fn distinct(settings: &Settings, wanted: Vec<Wanted>) -> Vec<Recipient> {
    let several = wanted.len() > 1;
    let mut seen = HashSet::new();
    let mut recipients = Vec::with_capacity(wanted.len());
    for (address, notify, original) in wanted {
        let address = match &settings.postmaster {
            Some(postmaster) if settings.is_role(&address) => postmaster.clone(),
            _ => address,
        };
        if !several || seen.insert(address.clone()) {
            recipients.push(Recipient { address, notify, original });
        }
    }
    recipients
}

/// One envelope for each recipient domain and route, and for each `recipients_max` of one.
fn split(
    settings: &Settings,
    template: Envelope,
    recipients: Vec<Recipient>,
    recipients_max: usize,
    next_id: &mut dyn FnMut() -> QueueId,
) -> Vec<Envelope> {
    let chosen = |recipient: &Recipient| -> Option<&str> {
        settings.routes_by_more.then(|| settings.route_of(&template.reverse_path, &recipient.address)).flatten()
    };
    let pool = |route: Option<&str>| match route {
        Some(route) => route::join(&template.pool, route).into(),
        None => template.pool.clone(),
    };
    if let [recipient] = recipients.as_slice() {
        let pool = pool(chosen(recipient));
        return vec![Envelope { recipients, pool, ..template }];
    }
    let mut groups: Vec<(Option<&str>, Vec<Recipient>)> = Vec::new();
    let mut open: HashMap<(Domain, Option<&str>), usize> = HashMap::new();
    for recipient in recipients {
        let route = chosen(&recipient);
        let key = (recipient.address.domain().clone(), route);
        let place = open.get(&key).copied();
        let group = place.and_then(|place| groups.get_mut(place)).map(|(_, group)| group);
        match group.filter(|group| group.len() < recipients_max.max(1)) {
            Some(group) => group.push(recipient),
            None => {
                open.insert(key, groups.len());
                groups.push((route, vec![recipient]));
            }
        }
    }
    let mut envelopes = Vec::with_capacity(groups.len());
    for (place, (route, recipients)) in groups.into_iter().enumerate() {
        let id = if place == 0 { template.id } else { next_id() };
        envelopes.push(Envelope { id, recipients, pool: pool(route), ..template.clone() });
    }
    envelopes
}

#[cfg(test)]
mod tests;
