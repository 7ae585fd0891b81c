//! What goes over the control socket, field by field: written by the daemon, read by the command line and by scripts.
//! A field is added, never renamed. Times are RFC 3339, sizes bytes, durations seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::mail::{Address, Domain, RecipientProgress, ReversePath};
use crate::queue::{Filter, Listed, Ordered, Sender, State};
use crate::suppression;
use crate::time::Timestamp;

/// A waiting envelope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Envelope {
    /// Queue id.
    pub id: String,
    /// What the client was told: the queue id of the submission's first envelope.
    pub submission: String,
    /// `active`, `held`, `scheduled`, `deferred` or `ready`.
    pub state: String,
    /// The answer to a final dot was lost at least once.
    pub uncertain: bool,
    /// When it was accepted.
    pub accepted_at: String,
    /// Not before this.
    pub due: String,
    /// After this it expires.
    pub expires_at: String,
    /// Attempts that counted.
    pub attempts: u16,
    /// Order within the kind.
    pub priority: u8,
    /// Stream.
    pub stream: String,
    /// Its kind.
    pub kind: String,
    /// Pool.
    pub pool: String,
    /// Credential; empty for trusted networks and our own bounces.
    pub credential: String,
    /// The source it stays with, if any.
    pub source: String,
    /// Recipient domain.
    pub domain: String,
    /// Envelope sender; empty: the null one.
    pub sender: String,
    /// Without angle brackets.
    pub message_id: String,
    /// Size of the message.
    pub size_bytes: u64,
    /// Not before this, if that is later than at once: its sender's wish, or that of `put_off_by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_at: Option<String>,
    /// The quota or cap that put it off.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub put_off_by: String,
    /// Its tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Its metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The client marked the recipient as one who opened or clicked lately.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub engaged: bool,
    /// Our return path, if it has one: MAIL FROM on the way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_path: Option<String>,
    /// All of them, those with a final state too.
    pub recipients: Vec<Recipient>,
    /// Why the details could not be read from the spool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// One recipient of an envelope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// `pending`, `delivered`, `failed`, `expired`, `suppressed` or `deleted`.
    pub state: String,
    /// What was found out last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastOutcome>,
}

/// What was found out about a recipient, and from whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastOutcome {
    /// When.
    pub at: String,
    /// How far the dialogue was: `connect`, `rcpt`, `dot` …
    pub stage: String,
    /// The peer; empty if none was reached.
    pub host: String,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Enhanced status.
    pub status: String,
    /// The peer's words, or ours.
    pub text: String,
}

impl Envelope {
    /// As the queue has it.
    pub fn of(listed: &Listed) -> Envelope {
        let waiting = &listed.waiting;
        let mut shape = Envelope {
            id: waiting.id.to_string(),
            state: listed.state.name().to_owned(),
            uncertain: listed.uncertain,
            accepted_at: waiting.id.made_at().rfc3339(),
            due: waiting.due.rfc3339(),
            expires_at: waiting.expires_at.rfc3339(),
            attempts: waiting.attempts,
            priority: waiting.priority,
            stream: waiting.stream.to_string(),
            kind: waiting.kind.name().to_owned(),
            pool: waiting.pool.to_string(),
            credential: waiting.credential.to_string(),
            source: waiting.source.to_string(),
            domain: waiting.domain.to_string(),
            ..Envelope::default()
        };
        match &listed.stored {
            Ok(stored) => {
                let envelope = &stored.envelope;
                shape.submission = envelope.submission.to_string();
                shape.accepted_at = envelope.accepted_at.rfc3339();
                // To the millisecond, unless a hold of its sender's mail made it later.
                let expires_at = Some(envelope.expires_at).filter(|at| waiting.expires_at.since(*at).as_secs() == 0);
                shape.expires_at = expires_at.unwrap_or(waiting.expires_at).rfc3339();
                shape.sender = envelope.reverse_path.to_string();
                shape.return_path = envelope.return_path.as_ref().map(ToString::to_string);
                shape.message_id = envelope.message_id.to_string();
                shape.size_bytes = envelope.body.size_bytes;
                shape.release_at = envelope.is_scheduled().then(|| envelope.release_at.rfc3339());
                shape.put_off_by = envelope.put_off_by.to_string();
                shape.tags = envelope.marks.tags.iter().map(ToString::to_string).collect();
                let metadata = envelope.marks.metadata.iter();
                shape.metadata = metadata.map(|(key, value)| (key.to_string(), value.to_string())).collect();
                shape.engaged = envelope.marks.engaged;
                let states = stored.progress.recipients.iter();
                let recipients = envelope.recipients.iter().zip(states);
                shape.recipients = recipients.map(|(who, is)| Recipient::of(&who.address.to_string(), is)).collect();
            }
            Err(error) => shape.unreadable = Some(error.to_string()),
        }
        shape
    }
}

impl Recipient {
    fn of(address: &str, progress: &RecipientProgress) -> Recipient {
        let last = progress.last.as_ref().map(|outcome| LastOutcome {
            at: outcome.at.rfc3339(),
            stage: outcome.stage.name().to_owned(),
            host: outcome.host.to_string(),
            address: outcome.address.map(|address| address.to_string()),
            status: outcome.cause.status().to_string(),
            text: outcome.cause.to_string(),
        });
        Recipient { address: address.to_owned(), state: progress.state.name().to_owned(), last }
    }
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listing {
    /// Envelopes in the whole queue, whatever the filter.
    pub total: usize,
    /// In the order of their ids, which is that of acceptance.
    pub envelopes: Vec<Envelope>,
    /// Where to go on: `after` of the next request. Absent: that was all. A page may be short and yet not the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which envelopes, and where in their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// Envelope sender: `a@b.example`, `b.example` or `@b.example` for all of the domain, `<>` for the null one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Recipient domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Site: the MX hosts that share limits, as listings name them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Accepted at least so many seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<u64>,
    /// Accepted at most so many seconds ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub younger_than: Option<u64>,
    /// `active`, `held`, `scheduled`, `deferred` or `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Go on after this queue id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most envelopes of the page, 1 to 1000; 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Select {
    /// As the queue understands it. Whoever knows the sites adds `domains`.
    ///
    /// # Errors
    /// One sentence: which value is wrong, and what would be right.
    pub fn filter(&self) -> Result<Filter, String> {
        let domain = |text: &str| text.parse::<Domain>().map_err(|error| format!("{text:?}: {error}"));
        let sender = match self.sender.as_deref() {
            None => None,
            Some("<>") => Some(Sender::Null),
            Some(text) => Some(match text.trim_start_matches('@') {
                address if address.contains('@') => {
                    Sender::Address(address.parse().map_err(|error| format!("sender {text:?}: {error}"))?)
                }
                name => Sender::Domain(domain(name)?),
            }),
        };
        let state = match self.state.as_deref() {
            None => None,
            Some(name) => {
                let known = State::ALL.into_iter().find(|state| state.name() == name);
                let right = "active, held, scheduled, deferred or ready is expected";
                Some(known.ok_or_else(|| format!("state {name:?}: {right}"))?)
            }
        };
        Ok(Filter {
            sender,
            domain: self.domain.as_deref().map(domain).transpose()?,
            domains: None,
            stream: self.stream.clone(),
            credential: self.credential.clone(),
            tag: self.tag.clone(),
            older_than: self.older_than.map(Duration::from_secs),
            younger_than: self.younger_than.map(Duration::from_secs),
            state,
        })
    }
}

/// An order on some envelopes: by id, or by filter (one page of it at a time; an empty filter is every envelope).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrderRequest {
    /// These envelopes, at most 1000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Or all that this selects. Must be there when `ids` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    /// For `reroute`: the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderAnswer {
    /// One for each envelope.
    pub results: Vec<OrderResult>,
    /// Where to go on: `after` of the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What came of an order on one envelope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderResult {
    /// Queue id.
    pub id: String,
    /// `done`, `unchanged`, `after-attempt`, `busy`, `held`, `unknown`, `unreadable` or `closed`.
    pub result: String,
    /// One sentence for people.
    pub text: String,
}

impl OrderResult {
    /// The answer about this envelope.
    pub fn of(id: String, ordered: &Ordered) -> OrderResult {
        let (result, text) = match ordered {
            Ordered::Done => ("done", "done".to_owned()),
            Ordered::Unchanged => ("unchanged", "it was so already".to_owned()),
            Ordered::AfterAttempt => {
                ("after-attempt", "it is being sent just now; done as soon as that ends".to_owned())
            }
            Ordered::Busy => ("busy", "it is being sent just now; try again in a moment".to_owned()),
            Ordered::Held => ("held", "it is held: release it first".to_owned()),
            Ordered::Unknown => ("unknown", "not in the queue".to_owned()),
            Ordered::Unreadable(error) => ("unreadable", format!("its record cannot be read: {error}")),
            Ordered::Closed => ("closed", "the daemon is stopping".to_owned()),
        };
        OrderResult { id, result: result.to_owned(), text }
    }

    /// Whether the order was or will be carried out, or had been before.
    pub fn is_success(&self) -> bool {
        matches!(self.result.as_str(), "done" | "unchanged" | "after-attempt")
    }
}

/// What binds a waiting envelope, as the engine tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Constraint {
    /// A word for programs.
    pub kind: String,
    /// One sentence for people.
    pub text: String,
    /// The peer's words or the config's line that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// When it ends, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Why an envelope waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Why {
    /// The envelope.
    pub envelope: Envelope,
    /// What binds it, the binding one first.
    pub constraints: Vec<Constraint>,
}

/// Envelopes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByKind {
    /// Transactional ones.
    pub transactional: u64,
    /// Marketing.
    pub marketing: u64,
}

/// Which sites.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SitesSelect {
    /// Those too where nothing waits, nothing is connected and nothing is wrong.
    pub all: bool,
    /// Whose name, provider or a host contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
}

/// Which site is explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainSelect {
    /// A rule's name, a host, a recipient domain, or `other`.
    pub site: String,
}

/// A site: hosts that share limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Site {
    /// The rule's name, or its first hosts.
    pub site: String,
    /// The provider; `other` without one.
    pub provider: String,
    /// Hosts of one of its domains.
    pub hosts: Vec<String>,
    /// Envelopes for it, whatever they wait for.
    pub queued: ByKind,
    /// Of these, those that are due.
    pub waiting: ByKind,
    /// Connections of all sources.
    pub connections: u32,
    /// Each source that has something to do here.
    pub sources: Vec<SiteSource>,
    /// Nothing waits, nothing is connected, nothing is wrong.
    pub idle: bool,
}

/// A source at a site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteSource {
    /// Its name.
    pub source: String,
    /// Envelopes that it may carry; those that others may carry too are counted for each.
    pub queued: ByKind,
    /// Connections from dial to the peer's EOF.
    pub connections: u32,
    /// As many as feedback allows now.
    pub allowed: u32,
    /// As many as the config allows.
    pub limit: u32,
    /// The fullest of its windows and those of all sources together.
    pub rate: Option<RateUse>,
    /// What became of the last attempts.
    pub recent: Recent,
    /// `ready`, `throttled` or `suspended`.
    pub state: String,
    /// When that ends, if it is known.
    pub until: Option<String>,
    /// By whom, since when, until when.
    pub suspended: Option<Suspended>,
    /// The peer's last refusal.
    pub cause: Option<String>,
}

/// How much of a window is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateUse {
    /// Of which source; absent: of all together.
    pub source: Option<String>,
    /// What is counted.
    pub unit: String,
    /// Used now.
    pub used: u64,
    /// Of so many.
    pub count: u64,
    /// In such a time.
    pub per_seconds: u64,
}

/// What became of the last attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// How far back this looks.
    pub minutes: u64,
    /// Attempts.
    pub attempts: u64,
    /// Of these, deferred.
    pub deferred: u64,
}

/// A suspension.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suspended {
    /// By whom.
    pub by: String,
    /// Since when; absent: its record cannot be read.
    pub since: Option<String>,
    /// Until when; absent: until it is resumed.
    pub until: Option<String>,
}

/// A source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Its name.
    pub source: String,
    /// What is bound.
    pub address: String,
    /// What EHLO says.
    pub ehlo: String,
    /// The pools that it is in.
    pub pools: Vec<String>,
    /// Envelopes that it may carry.
    pub queued: ByKind,
    /// Connections.
    pub connections: u32,
    /// `ready` or `suspended`.
    pub state: String,
    /// By whom, since when, until when.
    pub suspended: Option<Suspended>,
}

/// A site's limits and where they come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// Its name.
    pub site: String,
    /// Its provider.
    pub provider: String,
    /// The rule's hosts, or those of the domain.
    pub hosts: Vec<String>,
    /// Each value.
    pub values: Vec<ExplainedValue>,
    /// The recipient domain that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What holds for that domain beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domain_values: Vec<ExplainedValue>,
}

/// A value and where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainedValue {
    /// Of which source; absent: of each.
    pub source: Option<String>,
    /// The key in the config.
    pub key: String,
    /// What it says.
    pub value: String,
    /// `file:line`, or `built-in`.
    pub from: String,
}

/// What is to stop: a site, a source, or a source at a site. One of the two at least.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuspendRequest {
    /// A rule's name or a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// A source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// For so many seconds; absent: until it is resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Who says so.
    pub by: String,
}

/// What goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeRequest {
    /// A rule's name or a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// A source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Who says so.
    pub by: String,
}

/// What becomes of a ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupRequest {
    /// Whose.
    pub source: String,
    /// At which provider; absent: at all where it is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// `set`, `skip`, `hold` or `resume`.
    pub order: String,
    /// For `set`, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<u16>,
}

/// The ladder of a source at a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warmup {
    /// The source.
    pub source: String,
    /// The provider; `other`: all that have no name.
    pub provider: String,
    /// Counted from 1.
    pub stage: u32,
    /// How many there are.
    pub stages: u32,
    /// It is through.
    pub warm: bool,
    /// Messages today; none: warm.
    pub budget: Option<u32>,
    /// Of these, used.
    pub used: u32,
    /// Attempted today.
    pub attempted: u32,
    /// Of these, delivered.
    pub delivered: u32,
    /// Deferred for reputation.
    pub deferred: u32,
    /// Replies that said that the source is blocked.
    pub blocks: u32,
    /// Transactional messages beyond what marketing mail might have sent.
    pub over: u32,
    /// An operator holds the stage.
    pub held: bool,
    /// Nothing goes: blocked.
    pub frozen: bool,
    /// How the stage came about.
    pub last: String,
    /// What today comes to, if it ended now.
    pub outlook: String,
    /// The budget of the next stage; none: warm.
    pub next_budget: Option<u32>,
    /// What is left of the source's total today.
    pub total_rest: Option<u32>,
    /// What marketing mail waits for.
    pub waits_for: Option<String>,
    /// Until then.
    pub until: Option<String>,
}

/// Which rates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesSelect {
    /// `hour`, `day` or `week`.
    pub span: String,
}

/// What was counted of senders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Over which time.
    pub span: String,
    /// By scope.
    pub rates: Vec<Rate>,
    /// Sites that say of far more recipients than usual that they do not exist.
    pub storms: Vec<Storm>,
}

/// What was counted of one scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// `sender` (a credential on a stream), `stream`, `credential`, `source`, `domain` or `provider`.
    pub scope: String,
    /// Its name.
    pub name: String,
    /// Recipients whose mail was taken.
    pub delivered: u64,
    /// Attempts that ended in "later".
    pub deferred: u64,
    /// Recipients that do not exist.
    pub bounced: u64,
    /// Of both, 0 to 1.
    pub bounced_share: f64,
    /// Complaints, by when their mail was delivered.
    pub complained: u64,
    /// Deliveries at providers that report complaints.
    pub complained_of: u64,
    /// 0 to 1.
    pub complained_share: f64,
    /// Why it is paused or suspended, and how that ends.
    pub held: Option<String>,
}

/// A site's storm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storm {
    /// Its provider, or its name.
    pub site: String,
    /// Since when.
    pub since: String,
    /// Of its last answers, 0 to 1.
    pub share: f64,
    /// What is usual.
    pub usual: f64,
}

/// A sender goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeSender {
    /// `CREDENTIAL/STREAM`.
    pub sender: String,
    /// Who says so.
    pub by: String,
}

/// A credential's mail is held, or goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldCredential {
    /// Its name.
    pub name: String,
    /// Held, or not.
    pub hold: bool,
    /// Who says so.
    pub by: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// One sentence for people.
    pub said: String,
}

/// The text of an envelope sender, as people read it.
pub fn sender_text(sender: &str) -> String {
    match sender {
        "" => format!("<{}>", ReversePath::Null),
        sender => sender.to_owned(),
    }
}

/// One entry of the suppression list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// To whom nothing is sent.
    pub address: String,
    /// `all`, `marketing`, `transactional` or `stream:NAME`.
    pub scope: String,
    /// `hard_bounce`, `soft_bounce`, `complaint`, `unsubscribe`, `manual` or `import`.
    pub cause: String,
    /// `in_force`, `pending` (seen, not believed yet: stops nothing) or `expired`.
    pub state: String,
    /// When it was first put there.
    pub added_at: String,
    /// When it was last said again.
    pub last_at: String,
    /// When it ends; absent: never.
    pub expires_at: Option<String>,
    /// How often it was said.
    pub hits: u32,
    /// The site that said so; empty: none did.
    pub site: String,
    /// The envelope that it came of.
    pub source_id: Option<String>,
    /// The words.
    pub evidence: String,
}

impl Suppression {
    /// As it stands at a time.
    pub fn of(address: &Address, entry: &suppression::Entry, now: Timestamp) -> Suppression {
        Suppression {
            address: address.to_string(),
            scope: entry.scope.name(),
            cause: entry.cause.name().to_owned(),
            state: suppression::State::of(entry, now).name().to_owned(),
            added_at: entry.added_at.rfc3339(),
            last_at: entry.last_at.rfc3339(),
            expires_at: entry.expires_at.map(Timestamp::rfc3339),
            hits: entry.hits,
            site: entry.site.to_string(),
            source_id: entry.source_id.map(|id| id.to_string()),
            evidence: entry.evidence.to_string(),
        }
    }
}

/// Which entries are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuppressionSelect {
    /// Of this cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Of exactly this scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Said by this site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Of addresses at this domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// First put there at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// First put there before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// In this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// After this: what the page before named as `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most entries of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl SuppressionSelect {
    /// As parameters of a path.
    pub fn query(&self) -> Vec<(&'static str, String)> {
        let texts = [
            ("cause", &self.cause),
            ("scope", &self.scope),
            ("site", &self.site),
            ("domain", &self.domain),
            ("since", &self.since),
            ("until", &self.until),
            ("state", &self.state),
            ("after", &self.after),
        ];
        let mut query: Vec<_> = texts.iter().filter_map(|(name, text)| Some((*name, (*text).clone()?))).collect();
        query.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        query
    }
}

/// A page of the suppression list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuppressionPage {
    /// In the order of domains and addresses.
    pub entries: Vec<Suppression>,
    /// Where the next page begins. A page may be short, or empty, and have a next one.
    pub next: Option<String>,
    /// Damaged blocks: what is in them is missing here.
    pub damaged: u64,
}

/// `POST /v1/suppression/add`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuppressionAdd {
    /// To whom nothing is to be sent.
    pub address: String,
    /// Absent: `all`.
    #[serde(default)]
    pub scope: Option<String>,
    /// Absent: `manual`.
    #[serde(default)]
    pub cause: Option<String>,
    /// Absent: for good.
    #[serde(default)]
    pub expires_at: Option<String>,
    /// Why, in words.
    #[serde(default)]
    pub evidence: Option<String>,
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SuppressionAdded {
    /// As it stands now.
    pub entry: Suppression,
    /// One of this scope and cause was there before.
    pub was_there: bool,
}

/// `POST /v1/suppression/remove`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionRemove {
    /// Those of this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// All of the list.
    #[serde(default)]
    pub all: bool,
    /// Only count them.
    #[serde(default)]
    pub dry_run: bool,
    /// Those that fit all of this.
    #[serde(default)]
    pub select: SuppressionSelect,
}

/// Its answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SuppressionRemoved {
    /// How many.
    pub removed: u64,
    /// They are still there.
    pub dry_run: bool,
}

/// What the suppression list holds and takes: the answer of `/v1/suppression/stats`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionStats {
    /// Entries.
    pub entries: u64,
    /// Addresses that have one or more.
    pub addresses: u64,
    /// By cause and state; none that is 0.
    pub causes: Vec<SuppressionCount>,
    /// By scope.
    pub scopes: BTreeMap<String, u64>,
    /// Files on the disk.
    pub files: u64,
    /// Records in them: entries, and what says that one was removed.
    pub in_files: u64,
    /// Changes that no file has yet.
    pub in_memory: u64,
    /// Octets of the files.
    pub disk_bytes: u64,
    /// Octets of memory for filters and indexes.
    pub memory_bytes: u64,
    /// Damaged blocks that were come across, and files that could not be read at all.
    pub damaged: u64,
    /// Why the last file could not be written.
    pub failed: Option<String>,
}

/// Entries of a cause in a state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionCount {
    /// See [`Suppression::cause`].
    pub cause: String,
    /// See [`Suppression::state`].
    pub state: String,
    /// How many.
    pub entries: u64,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SuppressionImport {
    /// Lines that came.
    pub taken: u64,
    /// Different entries that were compared with the list.
    pub merged: u64,
}

/// What became of an import.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SuppressionImported {
    /// Entries that came.
    pub taken: u64,
    /// Of them different ones.
    pub distinct: u64,
    /// Were not in the list.
    pub added: u64,
    /// Were there, and say more now.
    pub changed: u64,
    /// Were there, and said as much.
    pub known: u64,
}
