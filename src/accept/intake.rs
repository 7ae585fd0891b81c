//! The bounce side: what anyone may send to our return paths and unsubscribe addresses, to the postmaster and to feedback
//! addresses.
//!
//! ```text
//!   token ─► the message that it names (history) ─► reading (report) ─► class (classify) ─► what is believed (observe)
//!                                                                                               │
//!                           the client's own MAIL FROM, or the postmaster, from `<>` ◄──────────┘
//! ```
//! The address that is written is the token's, never one that a report names. Without a valid token a report is counted,
//! and does nothing.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::classify::{Class, Observation, Scope as Concerns, VerdictKind};
use crate::evidence::{Means, Said};
use crate::history::{self, Fact};
use crate::mail::{Address, Domain, Notify, QueueId, ReversePath, StreamKind};
use crate::message::Families;
use crate::report::{self, Fate, Kind, Reading, Reported};
use crate::time::Timestamp;
use crate::token::{self, Link, REFERENCE_HEADER, Token, TokenFlaw, WHOLE_ENVELOPE};

use super::observe::{Learned, Observed, Via};
use super::settings::Settings;
use super::{Counting, Door, Origin, Receipt, Refusal, Submission};

/// Reports whose message is being looked up at once: each reads files.
const LOOKUPS_AT_ONCE: usize = 2;
/// Words of an unsubscribe mail that are looked at for a sealed link.
const WORDS_MAX: usize = 64;

/// Whose address a recipient of ours is.
#[derive(Clone, Debug)]
enum Ours {
    /// A return path or an unsubscribe address.
    Token(Token),
    /// The postmaster's, or where complaints go.
    House,
}

/// The message that a token names.
#[derive(Debug, Default)]
struct Original {
    recipients: Vec<Address>,
    from: String,
    stream: String,
    credential: String,
    site: String,
    source: String,
    delivered_at: Option<Timestamp>,
    accepted_at: Timestamp,
}

/// What a report does for one recipient.
#[derive(Debug)]
struct Effect {
    address: Option<Address>,
    class: &'static str,
    status: String,
    words: String,
    said: Option<Said>,
}

/// Bounds look-ups over all sessions.
#[derive(Clone, Debug)]
pub(super) struct Intake(Arc<Semaphore>);

impl Default for Intake {
    fn default() -> Intake {
        Intake(Arc::new(Semaphore::new(LOOKUPS_AT_ONCE)))
    }
}

impl Door {
    /// Whether anyone may send mail to this address, since it is one of ours. `None`: it is not.
    pub fn check_report_address(&self, address: &Address, now: Timestamp) -> Option<Result<(), Refusal>> {
        let found = ours(&self.settings.load(), address, now)?;
        Some(found.map(drop).map_err(|flaw| {
            self.events.came_back(Kind::Other.name(), flaw_word(flaw));
            let text = format!("<{address}>: {flaw}");
            Refusal { code: 550, status: "5.1.1", text }
        }))
    }

    /// Takes out of a submission the recipients that are ours. They must be valid: a session asks first, and what a
    /// trusted client sends to a token that is none goes nowhere.
    pub(super) fn take_out_ours(&self, submission: &mut Submission) -> Vec<(Address, Token)> {
        let settings = self.settings.load();
        let now = submission.received_at;
        let mut taken = Vec::new();
        submission.recipients.retain(|(address, ..)| match ours(&settings, address, now) {
            Some(Ok(Ours::Token(token))) => {
                taken.push((address.clone(), token));
                false
            }
            _ => true,
        });
        taken
    }

    /// Whether a recipient is the house's: the postmaster, or where complaints go.
    pub(super) fn take_out_house(&self, submission: &mut Submission) -> bool {
        let settings = self.settings.load();
        let now = submission.received_at;
        let before = submission.recipients.len();
        submission.recipients.retain(|(address, ..)| !matches!(ours(&settings, address, now), Some(Ok(Ours::House))));
        submission.recipients.len() < before
    }

    /// Takes in mail to tokens and to the house. What it says is durable when this returns.
    ///
    /// # Errors
    /// The refusal to answer; the peer comes again.
    pub(super) async fn take_in(
        &self,
        submission: &Submission,
        tokens: Vec<(Address, Token)>,
        to_house: bool,
    ) -> Result<Receipt, Refusal> {
        let message = submission.message.clone();
        // A whole report is read in a millisecond or so, a hostile one in some.
        let reading = tokio::task::spawn_blocking(move || report::read(&message)).await;
        let Ok(reading) = reading else { return Err(Refusal::closed()) };
        let mut forwarded = None;
        for (_, token) in &tokens {
            let onward = self.take_token(submission, &reading, token).await;
            if let Some(to) = onward {
                forwarded = Some(self.send_on(submission, to).await?);
            }
        }
        let is_mail_of_people = matches!(reading.kind, Kind::Other) && reading.recipients.is_empty();
        if to_house {
            let told = self.take_house(submission, &reading).await;
            if !told {
                self.events.came_back(reading.kind.name(), "nothing");
            }
        }
        if (to_house && !matches!(reading.kind, Kind::Complaint | Kind::AutoReply)) || (is_mail_of_people && !to_house)
        {
            let postmaster = self.settings.load().postmaster.clone();
            if let Some(postmaster) = postmaster {
                forwarded = Some(self.send_on(submission, postmaster).await?);
            }
        }
        match forwarded {
            Some(receipt) => Ok(receipt),
            None => {
                let durable = self.queue.spool().prove().await.map_err(|_| Refusal::closed())?;
                Ok(Receipt { id: self.queue.next_id(submission.received_at), durable })
            }
        }
    }

    /// Keeps the wish of an unsubscribe link: durable when it returns, and the same wish twice is one.
    ///
    /// # Errors
    /// It could not be kept; the text is for the log.
    pub async fn unsubscribe(&self, link: &Link, now: Timestamp) -> Result<(), String> {
        let original = Original { stream: link.stream.to_string(), accepted_at: now, ..Original::default() };
        let effect = Effect::of(Some(link.address.clone()), Said::Unsubscribed, "by the link");
        match self.take_effect(&effect, &original, link.id, now).await {
            "nothing" => Err("the suppression list cannot be written".to_owned()),
            done => {
                self.events.came_back(Kind::Unsubscribe.name(), done);
                Ok(())
            }
        }
    }

    /// What came to a token. Returns whom it is to be sent on to.
    async fn take_token(&self, submission: &Submission, reading: &Reading, token: &Token) -> Option<Address> {
        let now = submission.received_at;
        let Some(original) = self.original(token.id, now).await else {
            return self.take_unknown(submission, reading, token).await;
        };
        let effects = match token.kind {
            token::Kind::Unsubscribe => wish(&original, token),
            token::Kind::ReturnPath | token::Kind::Reference => self.effects(reading, &original, token),
        };
        let has_failed = reading.kind == Kind::Bounce && token.kind == token::Kind::ReturnPath && !effects.is_empty();
        let kind = if token.kind == token::Kind::Unsubscribe { Kind::Unsubscribe } else { reading.kind };
        if effects.is_empty() {
            self.tell_came_back(token.id, kind, None, "nothing", submission);
        }
        for effect in &effects {
            let done = self.take_effect(effect, &original, token.id, now).await;
            self.tell_came_back(token.id, kind, Some(effect), done, submission);
        }
        let settings = self.settings.load();
        let wants =
            settings.streams.get(&*original.stream).is_none_or(|stream| stream.bounces == report::Bounces::ByDefault);
        // One that came to the client's own return path would come back here.
        let to = original.from.parse::<Address>().ok()?;
        (has_failed && wants && ours(&settings, &to, now).is_none()).then_some(to)
    }

    /// A token whose message the history does not know (any more): a link in an unsubscribe mail still says all.
    async fn take_unknown(&self, submission: &Submission, reading: &Reading, token: &Token) -> Option<Address> {
        let now = submission.received_at;
        let link = (token.kind == token::Kind::Unsubscribe).then(|| self.link_in(&submission.message, now)).flatten();
        let (done, effect) = match link {
            Some(link) => {
                let effect = Effect::of(Some(link.address.clone()), Said::Unsubscribed, "by mail");
                let original = Original { stream: link.stream.to_string(), accepted_at: now, ..Original::default() };
                (self.take_effect(&effect, &original, link.id, now).await, Some(effect))
            }
            None => {
                warn!(queue_id = %token.id, "a report names a message that the history does not know: nothing is learned");
                ("unknown", None)
            }
        };
        let kind = if token.kind == token::Kind::Unsubscribe { Kind::Unsubscribe } else { reading.kind };
        self.tell_came_back(token.id, kind, effect.as_ref(), done, submission);
        None
    }

    /// Mail to the postmaster or a feedback address: a complaint may still quote a token of ours. Whether it was taken in.
    async fn take_house(&self, submission: &Submission, reading: &Reading) -> bool {
        if !matches!(reading.kind, Kind::Complaint | Kind::Bounce | Kind::Unsubscribe) {
            return false;
        }
        let Some(token) = self.quoted_token(reading, submission.received_at) else { return false };
        // A bounce is sent where the return path says: one that comes elsewhere was not.
        if reading.kind == Kind::Complaint {
            self.take_token(submission, reading, &token).await;
            return true;
        }
        false
    }

    /// A token in what a complaint quotes of its message: our reference, or the return path.
    fn quoted_token(&self, reading: &Reading, now: Timestamp) -> Option<Token> {
        let settings = self.settings.load();
        let keys = settings.tokens.as_ref()?;
        let reference = reading.original.extension.iter();
        let reference =
            reference.filter(|(name, _)| name.eq_ignore_ascii_case(REFERENCE_HEADER)).map(|(_, value)| value);
        let local = |path: &str| path.split_once('@').map(|(local, _)| local.trim_start_matches('<').to_owned());
        let return_path = reading.original.return_path.as_deref().and_then(local);
        let texts = reference.map(|value| value.trim().to_owned()).chain(return_path);
        texts.filter_map(|text| keys.read(&text, now).ok()).next()
    }

    /// A sealed link in the subject of an unsubscribe mail.
    fn link_in(&self, message: &[u8], now: Timestamp) -> Option<Link> {
        let settings = self.settings.load();
        let keys = settings.tokens.as_ref()?;
        let head = message.get(..message.len().min(64 * 1024)).unwrap_or_default();
        let text = String::from_utf8_lossy(head);
        let header = text.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n\t", "").replace("\r\n ", "");
        let subject = header.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("subject").then(|| value.to_owned())
        })?;
        subject.split([' ', '\t']).take(WORDS_MAX).find_map(|word| keys.open(word, now).ok())
    }

    /// What a report says of the recipients that its token stands for.
    fn effects(&self, reading: &Reading, original: &Original, token: &Token) -> Vec<Effect> {
        match reading.kind {
            Kind::Bounce => {
                let failed = reading.recipients.iter().filter(|reported| reported.fate == Fate::Failed);
                failed.filter_map(|reported| self.bounced(reported, reading, original, token)).collect()
            }
            Kind::Complaint => {
                let named = reading.recipients.iter().find_map(|reported| named(reported, original));
                let address = original.meant(token.recipient).or(named);
                vec![Effect::of(address, Said::Complained, reading.feedback_type.as_deref().unwrap_or("abuse"))]
            }
            Kind::Unsubscribe => wish(original, token),
            Kind::AutoReply | Kind::Other => Vec::new(),
        }
    }

    fn bounced(&self, reported: &Reported, reading: &Reading, original: &Original, token: &Token) -> Option<Effect> {
        let cause = reported.cause();
        let rules = self.rules.load();
        let host = reported.remote_host.as_deref();
        let observation = Observation { stage: reported.stage(), cause: &cause, recipients_taken: 1, host };
        let meaning = rules.classify(&observation);
        let whole = original.meant(token.recipient);
        let named = named(reported, original);
        // One token of one recipient: the report can be about nobody else. A second one that it names is the forwarder's.
        let (address, is_another) = match (whole, named) {
            (Some(own), Some(named)) => (Some(own.clone()), own != named),
            (Some(own), None) => {
                let is_another = reported.address.is_some() || reading.recipients.len() > 1;
                (Some(own), is_another)
            }
            (None, Some(named)) => (Some(named), false),
            (None, None) => (None, false),
        };
        let is_about_them = meaning.scope == Concerns::Recipient;
        let said = match (meaning.verdict, meaning.class) {
            (VerdictKind::Failed, _) if meaning.suppress && is_about_them => {
                Some(if is_another || reported.names_another() { Said::Unwilling } else { Said::NoMailbox })
            }
            (_, Class::MailboxFull | Class::Inactive) if is_about_them => Some(Said::Unwilling),
            _ => None,
        };
        let status = cause.status().to_string();
        Some(Effect { address, class: meaning.class.name(), status, words: cause.to_string(), said })
    }

    /// Has an effect believed. Returns the word for what it did.
    async fn take_effect(&self, effect: &Effect, original: &Original, id: QueueId, now: Timestamp) -> &'static str {
        let (Some(address), Some(said)) = (&effect.address, effect.said) else { return "nothing" };
        let kind = {
            let settings = self.settings.load();
            settings.streams.get(&*original.stream).map_or(StreamKind::Transactional, |stream| stream.kind)
        };
        let provider = if original.site.contains('.') { "" } else { &original.site };
        let domain = original.from.rsplit_once('@').map_or("", |(_, domain)| domain);
        let observed = Observed {
            address,
            said,
            means: Means::Report,
            words: &effect.words,
            id,
            delivered_at: original.delivered_at.unwrap_or(original.accepted_at),
            stream: &original.stream,
            kind,
            credential: &original.credential,
            domain,
            via: Via { source: &original.source, site: &original.site, provider },
            scope: None,
        };
        match self.observe(&observed, now).await {
            Learned::Nothing => "nothing",
            Learned::Known => "known",
            Learned::Written(entry) if entry.pending => "pending",
            Learned::Written(_) => "suppressed",
        }
    }

    fn tell_came_back(
        &self,
        id: QueueId,
        kind: Kind,
        effect: Option<&Effect>,
        done: &'static str,
        submission: &Submission,
    ) {
        self.events.came_back(kind.name(), done);
        let recipient = effect.and_then(|effect| effect.address.as_ref()).map(Address::to_string).unwrap_or_default();
        info!(target: "postrider::mail", queue_id = %id, kind = kind.name(), %recipient, effect = done, "came back");
        self.events.history().tell(Fact::CameBack(history::CameBack {
            queue_id: id,
            recipient,
            kind: kind.name().to_owned(),
            class: effect.map(|effect| effect.class.to_owned()).unwrap_or_default(),
            status: effect.map(|effect| effect.status.clone()).unwrap_or_default(),
            text: effect.map(|effect| effect.words.clone()).unwrap_or_default(),
            effect: done.to_owned(),
            client: submission.origin.client.map(|client| client.to_string()).unwrap_or_default(),
        }));
    }

    /// The message of an id, from the history.
    async fn original(&self, id: QueueId, now: Timestamp) -> Option<Original> {
        let history = self.events.history().clone();
        // Nobody closes the semaphore.
        let _room = self.intake.0.acquire().await.ok()?;
        let rows = tokio::task::spawn_blocking(move || history.find(id, now)).await.ok()?;
        match rows {
            Ok(rows) => original_of(id, rows),
            Err(error) => {
                warn!(queue_id = %id, %error, "the history cannot be read: nothing is learned of a report");
                None
            }
        }
    }

    /// Sends a message that came in on to somebody, from nobody: nothing may come back of it.
    async fn send_on(&self, submission: &Submission, to: Address) -> Result<Receipt, Refusal> {
        let origin = Origin {
            credential: None,
            listener_stream: Some(self.settings.load().dsn_stream.clone()),
            listener_control: Families::default(),
            fix_headers: false,
            ..submission.origin.clone()
        };
        let onward = Submission {
            origin,
            reverse_path: ReversePath::Null,
            ret: None,
            envid: None,
            release_at: None,
            recipients: vec![(to, Notify::Never, None)],
            message: submission.message.clone(),
            received_at: submission.received_at,
        };
        self.take_over(onward, Counting::Free).await
    }
}

impl Original {
    /// The recipient at a token's place; the only one of an envelope that has one.
    fn meant(&self, place: u16) -> Option<Address> {
        match (place, self.recipients.as_slice()) {
            (WHOLE_ENVELOPE, [only]) => Some(only.clone()),
            (WHOLE_ENVELOPE, _) => None,
            (place, all) => all.get(usize::from(place)).cloned(),
        }
    }
}

impl Effect {
    fn of(address: Option<Address>, said: Said, words: &str) -> Effect {
        Effect { address, class: "", status: String::new(), words: words.to_owned(), said: Some(said) }
    }
}

/// What mail to an unsubscribe address wants, whatever stands in it.
fn wish(original: &Original, token: &Token) -> Vec<Effect> {
    vec![Effect::of(original.meant(token.recipient), Said::Unsubscribed, "by mail")]
}

/// The recipient of a message that a report names.
fn named(reported: &Reported, original: &Original) -> Option<Address> {
    let said = reported.address.as_deref()?.parse::<Address>().ok()?;
    let same =
        |address: &&Address| address.domain() == said.domain() && address.local().eq_ignore_ascii_case(said.local());
    original.recipients.iter().find(same).cloned()
}

fn original_of(id: QueueId, rows: Vec<history::Row>) -> Option<Original> {
    let mut original = Original::default();
    for row in rows {
        match row.fact {
            Fact::Accepted(it) if it.queue_id == id => {
                original.recipients.extend(it.recipient.parse::<Address>());
                original.accepted_at = row.at;
                (original.from, original.stream, original.credential) = (it.from, it.stream, it.credential);
            }
            Fact::Attempt(it) if it.queue_id == id => (original.site, original.source) = (it.site, it.source),
            Fact::Outcome(it) if it.queue_id == id && it.fate == "delivered" => original.delivered_at = Some(row.at),
            _ => {}
        }
    }
    (!original.recipients.is_empty()).then_some(original)
}

/// Why an address at a domain of ours is none of ours.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Stray {
    #[error("no such address here: {0}")]
    Token(#[from] TokenFlaw),
    #[error("no such address here: it takes no mail")]
    Reference,
}

fn flaw_word(stray: Stray) -> &'static str {
    match stray {
        Stray::Token(TokenFlaw::Expired) => "expired",
        Stray::Token(TokenFlaw::Forged) => "forged",
        Stray::Token(TokenFlaw::Form) | Stray::Reference => "no_token",
    }
}

/// What an address of ours is. `None`: it is not at a domain whose mail comes to us.
fn ours(settings: &Settings, address: &Address, now: Timestamp) -> Option<Result<Ours, Stray>> {
    if settings.sendings.iter().any(|sending| sending.feedback_address.as_ref() == Some(address)) {
        return Some(Ok(Ours::House));
    }
    let domain: &Domain = address.domain();
    let is_bounce = settings.sendings.iter().any(|sending| sending.bounce_domain.as_ref() == Some(domain));
    let is_house = is_bounce || *domain == settings.hostname;
    let local = address.local();
    if is_house
        && settings.postmaster.is_some()
        && ["postmaster", "abuse"].iter().any(|name| local.eq_ignore_ascii_case(name))
    {
        return Some(Ok(Ours::House));
    }
    let keys = settings.tokens.as_ref().filter(|_| is_bounce)?;
    Some(match keys.read(local, now) {
        Ok(Token { kind: token::Kind::Reference, .. }) => Err(Stray::Reference),
        Ok(token) => Ok(Ours::Token(token)),
        Err(flaw) => Err(flaw.into()),
    })
}
