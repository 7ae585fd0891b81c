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

use crate::classify::{Observation, Scope as Concerns, VerdictKind};
use crate::evidence::{Means, Said};
use crate::history::{self, Authenticated, CameBack, Fact};
use crate::mail::{Address, Notify, QueueId, ReversePath, StreamKind, Text, ToCompactString};
use crate::message::Families;
use crate::report::{self, Bounces, Fate, Kind, Reading, Reported};
use crate::signer::Incoming;
use crate::suppression::{self, Entry};
use crate::time::Timestamp;
use crate::token::{self, Link, REFERENCE_HEADER, Token, TokenFlaw, WHOLE_ENVELOPE};

use super::observe::{Learned, Observed, Via, is_unwilling};
use super::settings::Settings;
use super::{Counting, Door, Origin, Receipt, Refusal, Submission};

/// Reports whose message is being looked up at once: each reads files.
const LOOKUPS_AT_ONCE: usize = 2;
/// Reports whose SPF and DKIM are looked at, at once. Each keeps its message in memory.
const VERIFIED_AT_ONCE: usize = 16;
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
    from: Text,
    stream: Text,
    credential: Text,
    site: Text,
    source: Text,
    delivered_at: Option<Timestamp>,
    accepted_at: Timestamp,
    /// What came back of it before.
    heard: Vec<CameBack>,
}

/// What of a submission is for us.
#[derive(Debug, Default)]
pub(super) struct Inward {
    tokens: Vec<Token>,
    /// To the postmaster, or where complaints go.
    to_house: bool,
}

impl Inward {
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && !self.to_house
    }
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

/// Bounds work over all sessions.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    lookups: Arc<Semaphore>,
    verified: Arc<Semaphore>,
}

impl Default for Intake {
    fn default() -> Intake {
        let (lookups, verified) = (Semaphore::new(LOOKUPS_AT_ONCE), Semaphore::new(VERIFIED_AT_ONCE));
        Intake { lookups: Arc::new(lookups), verified: Arc::new(verified) }
    }
}

/// A report that is being taken in: what is to be written of it.
struct Taken {
    /// Its number.
    id: QueueId,
    from: Text,
    client: Text,
    rows: Vec<(Kind, &'static str, CameBack)>,
}

/// What an effect did, and why that.
struct Done {
    word: &'static str,
    why: String,
}

impl Done {
    fn new(word: &'static str, why: impl Into<String>) -> Done {
        Done { word, why: why.into() }
    }
}

impl Taken {
    /// Notes what the report did for one recipient, or for none.
    fn note(&mut self, about: QueueId, kind: Kind, token: &str, effect: Option<&Effect>, done: Done) {
        let recipient = effect.and_then(|effect| effect.address.as_ref()).map(Address::text).unwrap_or_default();
        let row = CameBack {
            queue_id: about,
            report: self.id,
            recipient,
            kind: kind.name().into(),
            class: effect.map(|effect| effect.class.into()).unwrap_or_default(),
            status: effect.map(|effect| effect.status.as_str().into()).unwrap_or_default(),
            text: effect.map(|effect| effect.words.as_str().into()).unwrap_or_default(),
            effect: done.word.into(),
            why: done.why.into(),
            token: token.into(),
            from: self.from.clone(),
            sent_on_to: Text::default(),
            sent_on_as: QueueId::default(),
            client: self.client.clone(),
        };
        self.rows.push((kind, done.word, row));
    }
}

impl Door {
    /// Whether anyone may send mail to this address, since it is one of ours. `None`: it is not.
    pub fn check_report_address(&self, address: &Address, now: Timestamp) -> Option<Result<(), Refusal>> {
        let found = ours(&self.settings.load(), address, now)?;
        Some(found.map(drop).map_err(|flaw| {
            self.events.came_back(Kind::Other, flaw_word(flaw));
            let text = format!("<{address}>: {flaw}");
            Refusal { code: 550, status: "5.1.1", text }
        }))
    }

    /// Takes out of a submission what is for us: of a client's only mail to valid tokens, since the postmaster's goes the
    /// way of all its mail.
    pub(super) fn take_out_ours(&self, submission: &mut Submission) -> Inward {
        let settings = self.settings.load();
        let (now, from_anyone) = (submission.received_at, submission.origin.from_anyone);
        let mut inward = Inward::default();
        submission.recipients.retain(|(address, ..)| match ours(&settings, address, now) {
            Some(Ok(Ours::Token(token))) => {
                inward.tokens.push(token);
                false
            }
            Some(Ok(Ours::House)) if from_anyone => {
                inward.to_house = true;
                false
            }
            Some(_) | None => true,
        });
        inward
    }

    /// Takes in mail to tokens and to the house. What it says is durable when this returns.
    ///
    /// # Errors
    /// The refusal to answer; the peer comes again, and what was learned by then is known.
    pub(super) async fn take_in(&self, submission: &Submission, inward: Inward) -> Result<Receipt, Refusal> {
        let message = submission.message.clone();
        // A whole report is read in a millisecond or so, a hostile one in some.
        let reading = tokio::task::spawn_blocking(move || report::read(&message)).await;
        let Ok(reading) = reading else { return Err(Refusal::closed()) };
        let mut taken = Taken {
            id: self.queue.next_id(submission.received_at),
            from: submission.reverse_path.text(),
            client: submission.origin.client.map(|client| client.to_compact_string()).unwrap_or_default(),
            rows: Vec::new(),
        };
        let mut onward = Vec::new();
        for token in &inward.tokens {
            onward.extend(self.take_token(submission, &reading, token, "valid", &mut taken).await?);
        }
        let is_letter = reading.kind == Kind::Other && reading.recipients.is_empty();
        let is_wish = inward.tokens.iter().any(|token| token.kind == token::Kind::Unsubscribe);
        // A person who answers a newsletter may write to its return path.
        let for_postmaster = match inward.to_house {
            true => !self.take_quoted(submission, &reading, &mut taken).await?,
            false => is_letter && !is_wish,
        };
        if for_postmaster {
            onward.extend(self.settings.load().postmaster.clone());
        }
        let mut sent_on = None;
        for to in onward {
            let receipt = self.send_on(submission, to.clone()).await?;
            for (_, _, row) in &mut taken.rows {
                (row.sent_on_to, row.sent_on_as) = (to.text(), receipt.id);
            }
            sent_on = Some(receipt);
        }
        let durable = match sent_on {
            Some(receipt) => receipt.durable,
            None => self.queue.spool().prove().await.map_err(|_| Refusal::closed())?,
        };
        let id = taken.id;
        self.tell_taken(taken);
        self.verify_later(id, submission);
        Ok(Receipt { id, durable })
    }

    /// Has SPF and DKIM of a report looked at and written down, while its 250 is under way.
    fn verify_later(&self, report: QueueId, submission: &Submission) {
        let Some((verifier, client)) = self.verifier.clone().zip(submission.origin.client) else { return };
        let history = self.events.history().clone();
        let Ok(room) = self.intake.verified.clone().try_acquire_owned() else {
            let busy = || "not checked: too many reports at once".into();
            history.tell(Fact::Authenticated(Authenticated { report, spf: busy(), dkim: busy() }));
            return;
        };
        let host = self.settings.load().hostname.to_string();
        let (hello, message) = (submission.origin.hello.clone(), submission.message.clone());
        let sender = submission.reverse_path.to_string().trim_matches(['<', '>']).to_owned();
        tokio::spawn(async move {
            let client = client.ip().to_canonical();
            let incoming = Incoming { client, hello: &hello, host: &host, sender: &sender, message: &message };
            let found = verifier.verify(incoming).await;
            history.tell(Fact::Authenticated(Authenticated { report, spf: found.spf.into(), dkim: found.dkim.into() }));
            drop(room);
        });
    }

    /// Keeps the wish of an unsubscribe link: durable when it returns, and the same wish twice is one.
    ///
    /// # Errors
    /// It could not be kept; the text is for the log.
    pub async fn unsubscribe(&self, link: &Link, now: Timestamp) -> Result<(), String> {
        let (effect, original) =
            (Effect::wish(Some(link.address.clone()), "by the link"), Original::of_link(link, now));
        let done = self.take_effect(&effect, &original, link.id, now).await.map_err(|refusal| refusal.to_string())?;
        self.events.came_back(Kind::Unsubscribe, done.word);
        Ok(())
    }

    /// What came to a token. Returns whom it is to be sent on to.
    async fn take_token(
        &self,
        submission: &Submission,
        reading: &Reading,
        token: &Token,
        verdict: &str,
        taken: &mut Taken,
    ) -> Result<Option<Address>, Refusal> {
        let now = submission.received_at;
        let kind = if token.kind == token::Kind::Unsubscribe { Kind::Unsubscribe } else { reading.kind };
        let Some(original) = self.original(token.id, now).await? else {
            self.take_unknown(submission, kind, token, taken).await?;
            return Ok(None);
        };
        let effects = match token.kind {
            // Whatever stands in it.
            token::Kind::Unsubscribe => vec![Effect::wish(original.meant(token.recipient), "by mail")],
            token::Kind::ReturnPath | token::Kind::Reference => self.effects(reading, &original, token),
        };
        if effects.is_empty() {
            taken.note(token.id, kind, verdict, None, Done::new("nothing", why_nothing(reading)));
        }
        let mut is_news = false;
        for effect in &effects {
            // What the history has was answered 250: one that was not comes again, though the list may have it.
            let is_heard = original.has_heard(kind, effect);
            let done = match is_heard {
                true => Done::new("known", WHY_KNOWN),
                false => self.take_effect(effect, &original, token.id, now).await?,
            };
            is_news |= !is_heard;
            taken.note(token.id, kind, verdict, Some(effect), done);
        }
        let is_bounce = kind == Kind::Bounce && token.kind == token::Kind::ReturnPath && is_news;
        let settings = self.settings.load();
        let wants = settings.streams.get(&*original.stream).is_none_or(|stream| stream.bounces == Bounces::ByDefault);
        // One whose sender is a return path of ours would come back here.
        let to = original.from.parse::<Address>().ok();
        Ok(to.filter(|to| is_bounce && wants && ours(&settings, to, now).is_none()))
    }

    /// A token whose message the history does not know (any more): the link in an unsubscribe mail still says all.
    async fn take_unknown(
        &self,
        submission: &Submission,
        kind: Kind,
        token: &Token,
        taken: &mut Taken,
    ) -> Result<(), Refusal> {
        let now = submission.received_at;
        let link = (token.kind == token::Kind::Unsubscribe).then(|| self.link_in(&submission.message, now)).flatten();
        let Some(link) = link else {
            warn!(queue_id = %token.id, "a report names a message that the history does not know: nothing is learned");
            let done = Done::new("unknown", "the history does not know the message of its token (any more)");
            taken.note(token.id, kind, "unknown", None, done);
            return Ok(());
        };
        let (effect, original) = (Effect::wish(Some(link.address.clone()), "by mail"), Original::of_link(&link, now));
        let done = self.take_effect(&effect, &original, link.id, now).await?;
        taken.note(token.id, kind, "valid", Some(&effect), done);
        Ok(())
    }

    /// Mail to the postmaster or a feedback address: a complaint may still quote a token of ours. Whether it did. A bounce
    /// goes where the return path says, so that one that comes elsewhere proves nothing.
    async fn take_quoted(
        &self,
        submission: &Submission,
        reading: &Reading,
        taken: &mut Taken,
    ) -> Result<bool, Refusal> {
        let quoted = (reading.kind == Kind::Complaint).then(|| self.quoted_token(reading, submission.received_at));
        let Some(token) = quoted.flatten() else {
            let why = match reading.kind {
                Kind::Complaint => "it quotes no token of ours, so that nobody knows of whom it speaks",
                Kind::Bounce | Kind::AutoReply | Kind::Unsubscribe | Kind::Other => {
                    "it came to the postmaster or a feedback address, where only a complaint counts that quotes a token"
                }
            };
            taken.note(QueueId::default(), reading.kind, "none", None, Done::new("nothing", why));
            return Ok(false);
        };
        self.take_token(submission, reading, &token, "quoted", taken).await?;
        Ok(true)
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
                failed.map(|reported| self.bounced(reported, reading, original, token)).collect()
            }
            Kind::Complaint => {
                let named = reading.recipients.iter().find_map(|reported| named(reported, original));
                let address = original.meant(token.recipient).or(named);
                let words = reading.feedback_type.as_deref().unwrap_or("abuse").to_owned();
                vec![Effect { words, said: Some(Said::Complained), ..Effect::wish(address, "") }]
            }
            Kind::Unsubscribe | Kind::AutoReply | Kind::Other => Vec::new(),
        }
    }

    fn bounced(&self, reported: &Reported, reading: &Reading, original: &Original, token: &Token) -> Effect {
        let cause = reported.cause();
        let rules = self.rules.load();
        let host = reported.remote_host.as_deref();
        let observation = Observation { stage: reported.stage(), cause: &cause, recipients_taken: 1, host };
        let meaning = rules.classify(&observation);
        let (own, named) = (original.meant(token.recipient), named(reported, original));
        // A token of one recipient: the report can be about nobody else, and another that it names is a forwarder's.
        let is_another = match (&own, &named) {
            (Some(own), Some(named)) => own != named,
            (Some(_), None) => reported.address.is_some() || reading.recipients.len() > 1,
            (None, _) => false,
        };
        let said = match meaning.verdict {
            VerdictKind::Failed if meaning.suppress && meaning.scope == Concerns::Recipient => {
                Some(if is_another || reported.names_another() { Said::Unwilling } else { Said::NoMailbox })
            }
            VerdictKind::Failed | VerdictKind::Deferred | VerdictKind::Delivered => {
                is_unwilling(&meaning).then_some(Said::Unwilling)
            }
        };
        let status = cause.status().to_string();
        Effect { address: own.or(named), class: meaning.class.name(), status, words: cause.to_string(), said }
    }

    /// Has an effect believed. Returns the word for what it did.
    ///
    /// # Errors
    /// It could not be kept: the refusal to answer.
    async fn take_effect(
        &self,
        effect: &Effect,
        original: &Original,
        id: QueueId,
        now: Timestamp,
    ) -> Result<Done, Refusal> {
        let Some(address) = &effect.address else {
            return Ok(Done::new("nothing", "it does not say which recipient of the message it means"));
        };
        let Some(said) = effect.said else {
            let why = format!("{} says nothing of whether the mailbox is there", effect.class);
            return Ok(Done::new("nothing", why));
        };
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
            via: Via { source: &original.source, site: &original.site, provider, ..Via::default() },
            scope: None,
        };
        match self.observe(&observed, now).await {
            Learned::NotKept => Err(Refusal::closed()),
            Learned::NoList => Ok(Done::new("nothing", "this daemon keeps no suppression list")),
            Learned::Known => Ok(Done::new("known", WHY_KNOWN)),
            Learned::Written(entry) => {
                let word = if entry.pending { "pending" } else { "suppressed" };
                Ok(Done::new(word, why_written(&entry)))
            }
        }
    }

    /// Writes down what a report did: to the log, the counters, and the history.
    fn tell_taken(&self, taken: Taken) {
        for (kind, effect, row) in taken.rows {
            self.events.came_back(kind, effect);
            let CameBack { queue_id, report, recipient, kind, why, sent_on_to, .. } = &row;
            let about = if queue_id.as_u64() == 0 { String::new() } else { queue_id.to_string() };
            info!(
                target: "postrider::mail",
                %report, queue_id = about, kind = &**kind, recipient = &**recipient, effect, why = &**why, sent_on_to = &**sent_on_to, "came back"
            );
            self.events.history().tell(Fact::CameBack(row));
        }
    }

    /// The message of an id, from the history; `None`: it does not know it (any more).
    ///
    /// # Errors
    /// It could not be read now: the refusal to answer.
    async fn original(&self, id: QueueId, now: Timestamp) -> Result<Option<Original>, Refusal> {
        let history = self.events.history().clone();
        // Nobody closes the semaphore.
        let _room = self.intake.lookups.acquire().await.map_err(|_| Refusal::closed())?;
        match tokio::task::spawn_blocking(move || history.find(id, now)).await {
            Ok(Ok(rows)) => Ok(original_of(id, rows)),
            Ok(Err(error)) => {
                warn!(queue_id = %id, %error, "the history cannot be read now: a report is put off");
                Err(Refusal::closed())
            }
            Err(_) => Err(Refusal::closed()),
        }
    }

    /// Sends a message that came in on to somebody, from nobody: nothing may come back of it.
    async fn send_on(&self, submission: &Submission, to: Address) -> Result<Receipt, Refusal> {
        let origin = Origin {
            credential: None,
            from_anyone: false,
            listener_stream: Some(self.settings.load().dsn_stream.clone()),
            listener_control: Families::default(),
            fix_headers: false,
            session: None,
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

/// Whether a recipient is a token of ours, or the house.
pub(super) fn is_ours(settings: &Settings, address: &Address, now: Timestamp) -> bool {
    matches!(ours(settings, address, now), Some(Ok(_)))
}

impl Original {
    /// What a link still says of its message.
    fn of_link(link: &Link, now: Timestamp) -> Original {
        Original { stream: link.stream.clone(), accepted_at: now, ..Original::default() }
    }

    /// Whether this was said of the message before, whatever it did.
    fn has_heard(&self, kind: Kind, effect: &Effect) -> bool {
        let recipient = effect.address.as_ref().map(Address::to_string).unwrap_or_default();
        self.heard.iter().any(|heard| {
            let is_first = !matches!(heard.effect.as_str(), "known" | "unknown");
            is_first && heard.kind == kind.name() && heard.recipient == recipient && heard.class == effect.class
        })
    }

    /// The recipient at a token's place; none if it stands for several, whatever is left of them in the history.
    fn meant(&self, place: u16) -> Option<Address> {
        (place != WHOLE_ENVELOPE).then(|| self.recipients.get(usize::from(place)).cloned()).flatten()
    }
}

impl Effect {
    fn wish(address: Option<Address>, words: &str) -> Effect {
        let said = Some(Said::Unsubscribed);
        Effect { address, class: "", status: String::new(), words: words.to_owned(), said }
    }
}

/// The recipient of a message that a report names.
fn named(reported: &Reported, original: &Original) -> Option<Address> {
    let said = reported.address.as_deref()?;
    original.recipients.iter().find(|address| report::same_mailbox(&address.to_string(), said)).cloned()
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
            Fact::CameBack(it) if it.queue_id == id => original.heard.push(it),
            Fact::Outcome(it) if it.queue_id == id && it.fate == "delivered" => original.delivered_at = Some(row.at),
            _ => {}
        }
    }
    (!original.recipients.is_empty()).then_some(original)
}

const WHY_KNOWN: &str = "the same was said of this message before";

/// Why a report with a token speaks of no recipient.
fn why_nothing(reading: &Reading) -> &'static str {
    match reading.kind {
        Kind::AutoReply => "an automatic reply counts for nothing",
        Kind::Bounce => "no recipient of it failed",
        Kind::Complaint => "it complains of nothing",
        Kind::Unsubscribe => "a wish to be taken off counts only at an unsubscribe address",
        Kind::Other if reading.recipients.is_empty() => "it is no report",
        Kind::Other => "a delay or a success counts for nothing",
    }
}

/// What an entry means, and why it is one.
fn why_written(entry: &Entry) -> String {
    let until = entry.expires_at.map_or_else(|| "for good".to_owned(), |at| format!("until {}", at.rfc3339()));
    match (entry.cause, entry.pending) {
        (suppression::Cause::SoftBounce, true) => {
            format!("a soft count: {} of 5 messages, over 14 days or more", entry.hits)
        }
        (cause, true) if Means::of(&entry.evidence) == Means::Storm => {
            format!("a first {}, said while its site says it of far too many: it counts for nothing", cause.name())
        }
        (cause, true) => {
            format!(
                "a first {}: mail was delivered there lately, so a second one a day or more later is believed",
                cause.name()
            )
        }
        (cause, false) => format!("{} for {}, {until}", cause.name(), entry.scope.name()),
    }
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
    if settings.postmaster.is_some() && settings.is_role(address) {
        return Some(Ok(Ours::House));
    }
    let keys = settings.tokens.as_ref().filter(|_| settings.is_bounce_domain(address.domain()))?;
    Some(match keys.read(address.local(), now) {
        Ok(Token { kind: token::Kind::Reference, .. }) => Err(Stray::Reference),
        Ok(token) => Ok(Ours::Token(token)),
        Err(flaw) => Err(flaw.into()),
    })
}
