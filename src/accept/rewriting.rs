//! What the tables do to a message on its way in, and which recipients they refuse. The order is cleanup(8)'s: header checks,
//! canonical, masquerade, virtual aliases and local names, copies.
//!
//! Who may send as whom was decided before, by what the client said itself: a table is the operator's, and may give a message
//! an author whom its credential could not choose.

use bytes::Bytes;
use tracing::{info, warn};

use crate::mail::{Address, EnhancedStatus, Notify, QueueId, ReversePath};
use crate::message::Stamped;
use crate::rewrite::{Access, Checked, Note, Outgoing, Trouble, Unexpanded};
use crate::route::{self, Parties};
use crate::smtp::parameter::orcpt_of;
use crate::time::Timestamp;

use super::settings::Settings;
use super::{Counting, Door, Refusal, Submission, intake, prepare};

/// What was done to a message, and what is still to be done with it.
#[derive(Debug, Default)]
pub(super) struct Deed {
    /// Its authors were looked at before anything was changed.
    pub authors_checked: bool,
    /// It is taken, and dropped.
    pub discarded: bool,
    /// It waits for an operator.
    pub held: bool,
    notes: Vec<Note>,
}

impl Deed {
    /// Tells what the checks noted.
    pub fn tell(&self, id: QueueId) {
        for Note { what, field, text } in &self.notes {
            match *what {
                "info" => info!(queue_id = %id, %field, "header check: info: {text}"),
                what => warn!(queue_id = %id, %field, "header check: {what}: {text}"),
            }
        }
    }
}

impl Door {
    /// What the tables say of an envelope sender.
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn check_access(&self, path: &ReversePath) -> Result<(), Refusal> {
        check_access(&self.settings.load(), path)
    }

    /// Whether mail of a client can go to this recipient: that somebody is meant by it, and that no route refuses it.
    ///
    /// # Errors
    /// The refusal to answer.
    pub fn check_destination(&self, path: &ReversePath, address: &Address, now: Timestamp) -> Result<(), Refusal> {
        let settings = self.settings.load();
        let is_free = !settings.rewriting.is_some() && settings.routes.iter().all(|route| route.refuses.is_none());
        if is_free {
            return Ok(());
        }
        if intake::is_ours(&settings, address, now) {
            return Ok(());
        }
        let rewriting = &settings.rewriting;
        let sender = rewriting.sender(path).map_err(troubled)?;
        let all = rewriting.expand(address).map_err(|error| unexpanded(address, error))?;
        let mut refused = None;
        for address in &all {
            match settings.refused_by_route(&sender, address) {
                // One of several that goes is enough: the others are reported.
                None => return Ok(()),
                Some(refusal) => refused = Some(refusal),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// The name of the route that an envelope to this recipient takes by the config of now, where its domain alone does not
    /// say which.
    pub fn route_of(&self, sender: &ReversePath, recipient: &Address) -> Option<String> {
        self.settings.load().route_of(sender, recipient).map(str::to_owned)
    }

    /// All that [`Door::route_of`] depends on, as a text: two configs with one text choose alike.
    pub fn choices(&self) -> String {
        let settings = self.settings.load();
        let chosen = settings.routes.iter().filter(|route| !route.matches.is_by_domain());
        let mut names: Vec<&str> = chosen.map(|route| &*route.name).collect();
        names.sort_unstable();
        match names.is_empty() {
            true => String::new(),
            false => format!("{}\n{}\n", settings.rewriting.home.delimiters, names.join("\n")),
        }
    }

    /// What is done to what goes out.
    pub fn outgoing(&self) -> std::sync::Arc<Outgoing> {
        std::sync::Arc::clone(&self.settings.load().outgoing)
    }
}

impl Settings {
    fn refused_by_route(&self, sender: &ReversePath, address: &Address) -> Option<Refusal> {
        let place = self.best_route(sender, address)?;
        let (status, text) = self.routes.get(place)?.refuses.as_ref()?;
        Some(Refusal { code: 550, status: status_word(*status), text: format!("<{address}>: {text}") })
    }

    fn best_route(&self, sender: &ReversePath, recipient: &Address) -> Option<usize> {
        let parties = Parties {
            plain_sender: sender.address().and_then(|address| self.rewriting.without_extension(address)),
            plain_recipient: self.rewriting.without_extension(recipient),
            sender,
            recipient,
        };
        route::best(self.routes.iter().map(|route| &route.matches), &parties)
    }

    /// The name of the route that an envelope takes, where its domain alone does not say which.
    pub(super) fn route_of(&self, sender: &ReversePath, recipient: &Address) -> Option<&str> {
        let place = self.best_route(sender, recipient)?;
        self.routes.get(place).filter(|route| !route.matches.is_by_domain()).map(|route| &*route.name)
    }
}

/// Refusals have fixed statuses; what an operator writes is one of a few, or says "other".
fn status_word(status: EnhancedStatus) -> &'static str {
    const KNOWN: [&str; 12] =
        ["5.0.0", "5.1.0", "5.1.1", "5.1.2", "5.2.1", "5.4.4", "5.6.0", "5.7.0", "5.7.1", "4.3.0", "4.7.0", "4.7.1"];
    let own = status.to_string();
    let otherwise = if status.class == 4 { "4.0.0" } else { "5.0.0" };
    KNOWN.into_iter().find(|known| *known == own).unwrap_or(otherwise)
}

pub(super) fn check_access(settings: &Settings, path: &ReversePath) -> Result<(), Refusal> {
    if settings.rewriting.sender_access.is_empty() {
        return Ok(());
    }
    match settings.rewriting.access(path).map_err(troubled)? {
        Access::Taken => Ok(()),
        Access::Refused(code, status, text) => {
            let status = EnhancedStatus::split(&status).map_or("5.7.1", |(status, _)| status_word(status));
            Err(Refusal { code, status, text: format!("<{path}>: Sender address rejected: {text}") })
        }
    }
}

fn troubled(trouble: Trouble) -> Refusal {
    warn!(%trouble, "the tables of [rewrite] give no answer; the client is to come again");
    Refusal { code: 451, status: "4.3.0", text: "Error: a table gives no answer now; try again later".to_owned() }
}

fn unexpanded(address: &Address, error: Unexpanded) -> Refusal {
    let unknown = |table: &str| Refusal {
        code: 550,
        status: "5.1.1",
        text: format!("<{address}>: Recipient address rejected: User unknown in {table}"),
    };
    match error {
        Unexpanded::UnknownLocal => unknown("local recipient table"),
        Unexpanded::UnknownVirtual => unknown("virtual alias table"),
        Unexpanded::Trouble(trouble) => troubled(trouble),
    }
}

/// Does to a message all that is done before it is kept.
pub(super) fn rewrite(settings: &Settings, submission: &mut Submission, counting: Counting) -> Result<Deed, Refusal> {
    let mut deed = Deed::default();
    let rewriting = &settings.rewriting;
    if !rewriting.is_some() {
        return Ok(deed);
    }
    if counting == Counting::Free {
        // Ours goes as it is, to whom its recipients stand for; one that stands for nobody is left to the peers.
        let recipients = std::mem::take(&mut submission.recipients);
        for (address, notify, original) in recipients {
            let all = rewriting.expand(&address).unwrap_or_else(|_| vec![address]);
            submission.recipients.extend(all.into_iter().map(|address| (address, notify, original.clone())));
        }
        return Ok(deed);
    }
    check_access(settings, &submission.reverse_path)?;
    prepare::check_authors_of(settings, submission)?;
    deed.authors_checked = true;
    let Checked { message, rejected, discarded, held, redirected, copies, notes } =
        rewriting.header_checks.check(&submission.message).map_err(troubled)?;
    if let Some((code, status, text)) = rejected {
        for note in &notes {
            warn!(field = note.field, from = %submission.reverse_path, "header check: {}: {}", note.what, note.text);
        }
        let status = EnhancedStatus::split(&status).map_or("5.7.1", |(status, _)| status_word(status));
        return Err(Refusal { code, status, text });
    }
    (deed.notes, deed.held, deed.discarded) = (notes, held, discarded);
    if let Some(message) = message {
        submission.message = message.into();
    }
    if let Some(header) = rewriting.header(header_of(&submission.message)).map_err(troubled)? {
        submission.message = with_header(&submission.message, &header);
    }
    submission.reverse_path = rewriting.sender(&submission.reverse_path).map_err(troubled)?;
    let before = std::mem::take(&mut submission.recipients);
    let addresses: Vec<Address> = before.iter().map(|(address, ..)| address.clone()).collect();
    let found = rewriting.recipients(&submission.reverse_path, &addresses).map_err(|(place, error)| match addresses
        .get(place)
    {
        Some(address) => unexpanded(address, error),
        None => troubled(Trouble::NoAddress),
    })?;
    let of = |place: usize| {
        before.get(place).map_or((Notify::default(), None), |(_, notify, original)| (*notify, original.clone()))
    };
    submission.recipients = match redirected {
        Some(to) => vec![(to, of(0).0, None)],
        None => {
            let copied = copies.iter().flat_map(|copy| rewriting.expand(copy).unwrap_or_default()).chain(found.copies);
            let all = found.all.into_iter().map(|(address, place)| {
                let (notify, original) = of(place);
                let given = addresses.get(place).filter(|given| **given != address);
                let original = original.or_else(|| given.and_then(orcpt_of));
                (address, notify, original)
            });
            all.chain(copied.map(|copy| (copy, Notify::Never, None))).collect()
        }
    };
    Ok(deed)
}

/// Up to the empty line: what rules about fields may touch.
fn header_of(message: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |end| end + 2);
    message.get(..end).unwrap_or(message)
}

fn with_header(message: &Bytes, header: &[u8]) -> Bytes {
    [header, message.get(header_of(message).len()..).unwrap_or_default()].concat().into()
}

/// The checks see the Received field that is ours, too: many a rule is there to take it out.
pub(super) fn check_received(settings: &Settings, stamped: &mut Stamped) {
    let checks = &settings.rewriting.header_checks;
    if checks.is_empty() {
        return;
    }
    let lines = memchr::memmem::find_iter(&stamped.message, b"\r\n").map(|at| at + 2);
    let mut ends = lines.filter(|end| !matches!(stamped.message.get(*end), Some(b' ' | b'\t')));
    let Some(end) = ends.next() else { return };
    // A pattern that came to no end for a field of ours leaves it as it is.
    let Ok(Checked { message: Some(new), .. }) = checks.check_header(&stamped.message[..end]) else { return };
    stamped.facts.size_bytes = (stamped.facts.size_bytes + new.len() as u64).saturating_sub(end as u64);
    stamped.facts.header_bytes = (stamped.facts.header_bytes + new.len() as u32).saturating_sub(end as u32);
    stamped.message.splice(..end, new);
}
