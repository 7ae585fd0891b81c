//! What the door must know of the config.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::mail::{Address, Domain, DomainError, EnhancedStatus, ReturnPath, StreamKind, Text};
use crate::message::{Families, HeaderLimits};
use crate::report::Bounces;
use crate::rewrite::{Outgoing, Rewriting};
use crate::route::Match;
use crate::size::ByteSize;
use crate::suppression::Cause;
use crate::token::Keys;
use crate::traffic::Rates;

/// The name of the stream that always exists.
pub const DEFAULT_STREAM: &str = "transactional";
/// The name of the other stream that the config always has.
pub const MARKETING_STREAM: &str = "marketing";

/// The door's part of the config. Replaced as a whole at a reload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name: in Received, Message-ID and DSNs. No default.
    pub hostname: Domain,
    /// Who gets mail to postmaster and abuse at our own name (RFC 5321 §4.5.1). Default: nobody, and such mail goes
    /// where DNS says.
    pub postmaster: Option<Address>,
    /// By name. Default: [`DEFAULT_STREAM`] alone.
    pub streams: HashMap<Text, Stream>,
    /// What clients call our streams, beside their names. Default: nothing.
    pub stream_aliases: HashMap<Text, Text>,
    /// By name. Default: none.
    pub credentials: HashMap<Text, Rights>,
    /// For mail whose credential and listener name no stream. Default: `transactional`.
    pub default_stream: Text,
    /// For our own DSNs. Default: `transactional`.
    pub dsn_stream: Text,
    /// Largest header block. Unit: bytes. Default: 256 KiB (Postfix has 100 KiB, and drops the rest).
    pub header_size_max: ByteSize,
    /// Most fields in a header block. Default: 2,000.
    pub header_fields_max: usize,
    /// Most Received fields before a message is taken to go in circles. Default: 50, as Postfix has; RFC 5321 §6.3
    /// asks for "at least 100" where nothing is known, but a submission that passed 50 hosts is no submission.
    pub received_max: usize,
    /// Most recipients in one transaction of ours. Default: 100, which every peer must take (RFC 5321 §4.5.3.1.8).
    pub envelope_recipients_max: usize,
    /// How far ahead a client may schedule a message. Unit: seconds. Default: 30 days. Zero: not at all.
    pub hold_max: Duration,
    /// When a sender who asked for it (NOTIFY=DELAY) hears of a delay. Unit: seconds. Default: 4 hours.
    pub delay_report_after: Duration,
    /// Largest message that a bounce returns whole; of larger ones the header alone. Unit: bytes. Default: 50,000.
    pub returned_size_max: ByteSize,
    /// The domains that mail is sent from. Default: none, and nothing is added in anybody's name.
    pub sendings: Vec<Sending>,
    /// What makes return paths and unsubscribe links. Default: nothing, and none are made.
    pub tokens: Option<Keys>,
    /// Where unsubscribe links lead: `https://…`, without a slash at its end. Default: nowhere, and there are none.
    pub unsubscribe_url: Option<Text>,
    /// What is done to addresses and header fields on the way in. Default: nothing.
    pub rewriting: Rewriting,
    /// What is done to them on the way out. Default: nothing.
    pub outgoing: Arc<Outgoing>,
    /// The routes, in the config's order. Default: none.
    pub routes: Vec<RouteRule>,
    /// Of some route the recipient's domain alone does not say whether it is taken.
    pub routes_by_more: bool,
}

/// What of a route concerns who comes in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRule {
    /// For whom.
    pub matches: Match,
    /// What tells it from every other.
    pub name: Text,
    /// It refuses its recipients, with these words.
    pub refuses: Option<(EnhancedStatus, Text)>,
}

impl Settings {
    /// The defaults for a host of this name.
    pub fn new(hostname: Domain) -> Settings {
        let streams = HashMap::from([(Text::from(DEFAULT_STREAM), Stream::default())]);
        Settings {
            rewriting: Rewriting::none(&hostname),
            outgoing: Arc::new(Outgoing::none(&hostname)),
            routes: Vec::new(),
            routes_by_more: false,
            hostname,
            postmaster: None,
            streams,
            stream_aliases: HashMap::new(),
            credentials: HashMap::new(),
            default_stream: DEFAULT_STREAM.into(),
            dsn_stream: DEFAULT_STREAM.into(),
            header_size_max: ByteSize::kib(256),
            header_fields_max: 2000,
            received_max: 50,
            envelope_recipients_max: 100,
            hold_max: Duration::from_secs(30 * 86_400),
            delay_report_after: Duration::from_secs(4 * 3600),
            returned_size_max: ByteSize(50_000),
            sendings: Vec::new(),
            tokens: None,
            unsubscribe_url: None,
        }
    }

    /// The stream that a client means: by its name, else by an alias.
    pub(super) fn stream_called(&self, name: &str) -> Option<(&str, &Stream)> {
        let by_name = self.streams.get_key_value(name);
        let found = by_name.or_else(|| self.streams.get_key_value(self.stream_aliases.get(name)?));
        found.map(|(name, stream)| (&**name, stream))
    }

    /// Whether mail to this address is the postmaster's: `postmaster` and `abuse` where mail comes to us.
    pub(super) fn is_role(&self, address: &Address) -> bool {
        let local = address.local();
        let is_here = *address.domain() == self.hostname || self.is_bounce_domain(address.domain());
        is_here && (local.eq_ignore_ascii_case("postmaster") || local.eq_ignore_ascii_case("abuse"))
    }

    /// Whether our return paths are at this domain.
    pub(super) fn is_bounce_domain(&self, domain: &Domain) -> bool {
        self.sendings.iter().any(|sending| sending.bounce_domain.as_ref() == Some(domain))
    }

    /// The sending domain of an author's: its own, else the nearest above it.
    pub(super) fn sending(&self, author: &Domain) -> Option<&Sending> {
        let covering = self.sendings.iter().filter(|sending| author.is_within(&sending.domain));
        covering.max_by_key(|sending| sending.domain.as_str().len())
    }

    pub(super) fn header_limits(&self) -> HeaderLimits {
        HeaderLimits { bytes_max: self.header_size_max.as_usize(), fields_max: self.header_fields_max }
    }
}

/// `[stream.NAME]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// `transactional` or `marketing`. Default: transactional.
    pub kind: StreamKind,
    /// The pool whose sources carry it. Default: `default`.
    pub pool: Text,
    /// After this a message is given up. Unit: seconds. Default: 5 days (RFC 5321 §4.5.4.1: 4 to 5 days).
    pub max_age: Duration,
    /// Order within the kind. Range: 0 to 100. Default: 50.
    pub priority: u8,
    /// Whether the envelope sender hears of failures. Default: for transactional mail yes, for marketing where asked.
    pub bounces: Bounces,
    /// How many recipients may be let in by time. Default: any number.
    pub quota: Rates,
    /// How many messages one recipient may get by time. Default: any number.
    pub recipient_cap: Rates,
    /// What is done about mail over either. Default: it is queued.
    pub over: Over,
}

/// What is done about mail over a quota or a cap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Over {
    /// It is accepted, and released when there is room.
    #[default]
    Queue,
    /// It is refused for now: 451, with the time to come again.
    Refuse,
}

impl Default for Stream {
    fn default() -> Self {
        Stream {
            kind: StreamKind::Transactional,
            pool: "default".into(),
            max_age: Duration::from_secs(5 * 86_400),
            priority: 50,
            bounces: Bounces::ByDefault,
            quota: Rates::NONE,
            recipient_cap: Rates::NONE,
            over: Over::Queue,
        }
    }
}

/// What is added in the name of a `[[sending_domain]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sending {
    /// Its name; for mail from domains below it too, unless they have an entry of their own.
    pub domain: Domain,
    /// Where our return paths are. Default: nowhere, and MAIL FROM says what the client said.
    pub bounce_domain: Option<Domain>,
    /// What CFBL-Address says (RFC 9477). Default: there is none.
    pub feedback_address: Option<Address>,
    /// It has a DKIM key.
    pub signed: bool,
}

/// What a `[[credential]]` may do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Its stream. Default: the listener's, else the default stream.
    pub stream: Option<Text>,
    /// Whom it may send as: in MAIL FROM, From and Sender. Default: nobody.
    pub from_domains: Vec<SenderDomain>,
    /// Addresses that it may send as beside those. Default: none.
    pub senders: Vec<Address>,
    /// Whose control headers count in its mail. Default: nobody's.
    pub control: Families,
    /// How many recipients it may hand in by time. Default: any number.
    pub quota: Rates,
    /// What is done about mail over that. Default: it is queued.
    pub over: Over,
    /// Whose return path its mail leaves with. Default: ours, where its sending domain has a bounce domain.
    pub return_path: ReturnPath,
    /// Causes for which the suppression list does not hold its mail back. Default: none.
    pub bypass: Vec<Cause>,
}

/// A domain that a credential may use as a sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SenderDomain {
    /// `example.com`: this and every name below it.
    Within(Domain),
    /// `=example.com`: this name alone.
    Exactly(Domain),
}

impl SenderDomain {
    fn covers(&self, domain: &Domain) -> bool {
        match self {
            SenderDomain::Within(parent) => domain.is_within(parent),
            SenderDomain::Exactly(name) => domain == name,
        }
    }
}

impl FromStr for SenderDomain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        match text.strip_prefix('=') {
            Some(name) => Ok(SenderDomain::Exactly(name.parse()?)),
            None => Ok(SenderDomain::Within(text.parse()?)),
        }
    }
}

impl Rights {
    /// Whether mail may be sent in the name of this address, whatever its domain.
    pub fn has_sender(&self, address: &Address) -> bool {
        // Nobody means two people by two cases of a local part.
        let is_same = |own: &Address| own.local().eq_ignore_ascii_case(address.local());
        self.senders.iter().any(|own| own.domain() == address.domain() && is_same(own))
    }

    /// Whether mail may be sent in the name of this domain.
    pub fn covers(&self, domain: &Domain) -> bool {
        self.from_domains.iter().any(|allowed| allowed.covers(domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_domain_covers_what_is_below_it_unless_it_is_exact() {
        let rows = [
            ("example.com", "example.com", true),
            ("example.com", "a.b.example.com", true),
            ("example.com", "badexample.com", false),
            ("example.com", "com", false),
            ("=example.com", "example.com", true),
            ("=example.com", "a.example.com", false),
        ];
        for (allowed, domain, want) in rows {
            let rights = Rights { from_domains: vec![allowed.parse().unwrap()], ..Rights::default() };
            assert_eq!(rights.covers(&domain.parse().unwrap()), want, "{allowed} {domain}");
        }
        assert!("=".parse::<SenderDomain>().is_err());
        let rights = Rights { senders: vec!["Ann@b.example".parse().unwrap()], ..Rights::default() };
        for (sender, want) in [("ann@b.example", true), ("bob@b.example", false), ("ann@x.b.example", false)] {
            assert_eq!(rights.has_sender(&sender.parse().unwrap()), want, "{sender}");
        }
    }
}
