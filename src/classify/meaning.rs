//! The words in which an answer is judged: class, scope, verdict, and what the engine is asked to do.
//!
//! Filled by the rules; read by `delivery` (the verdict) and `traffic` (the [`Signal`]). No logic but names and defaults.

use std::time::Duration;

/// What an attempt or a refusal says about a source at a site, beyond its own recipients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Feedback {
    /// The peer took mail: concurrency may grow.
    Good,
    /// Nothing either way (a 4xx or 5xx about a recipient or a message).
    #[default]
    Neutral,
    /// The peer wants less (421, too many connections) or refuses the source: concurrency shrinks.
    Slower,
    /// The connection could not be made, or broke.
    Broken,
}

/// Which verdict an outcome is, for the recipients it answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VerdictKind {
    /// The peer took responsibility.
    Delivered,
    /// Again later.
    Deferred,
    /// Never again.
    Failed,
}

impl VerdictKind {
    /// The word in JSON: what becomes of the recipient.
    pub fn name(self) -> &'static str {
        match self {
            VerdictKind::Delivered => "deliver",
            VerdictKind::Deferred => "defer",
            VerdictKind::Failed => "fail",
        }
    }
}

/// An enum whose variants have a word each, in the rules' file and in JSON.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one, in the order of the docs.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word in the rules' file and in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }
        }
    };
}

words! {
    /// Why a peer did not take a message.
    Class {
        /// There is no such mailbox or domain. The only class that may suppress an address.
        RecipientInvalid = "recipient-invalid",
        /// The mailbox has no room.
        MailboxFull = "mailbox-full",
        /// The mailbox exists, and is disabled or unused.
        Inactive = "inactive",
        /// This mailbox gets too much at once, from anyone or from us.
        RecipientRate = "recipient-rate",
        /// The message: spam, a virus, a link, its size or form.
        Content = "content",
        /// SPF, DKIM or DMARC.
        Authentication = "authentication",
        /// The source address is listed, blocked or distrusted.
        ReputationIp = "reputation-ip",
        /// The sending domain is.
        ReputationDomain = "reputation-domain",
        /// Too many connections, or too many messages on one.
        ConnectionLimit = "connection-limit",
        /// Too many messages or recipients by time.
        RateLimit = "rate-limit",
        /// Come again: the first meeting is always refused.
        Greylisting = "greylisting",
        /// A rule of the receiver's: relaying, access, a missing TLS.
        Policy = "policy",
        /// A name that does not resolve: ours, the sender's, or no PTR.
        Dns = "dns",
        /// One side did not understand the other.
        Protocol = "protocol",
        /// A connection or a host failed, theirs or between us.
        Network = "network",
        /// None of these.
        Unknown = "unknown",
    }
}

impl Class {
    /// Whom a reply of this class concerns, unless its rule knows better.
    pub fn scope(self) -> Scope {
        match self {
            Class::RecipientInvalid
            | Class::MailboxFull
            | Class::Inactive
            | Class::RecipientRate
            | Class::Greylisting
            | Class::Unknown => Scope::Recipient,
            Class::Content | Class::Policy => Scope::Message,
            Class::Authentication | Class::ReputationDomain | Class::Dns => Scope::SendingDomain,
            Class::ReputationIp | Class::RateLimit | Class::ConnectionLimit => Scope::Source,
            Class::Protocol | Class::Network => Scope::Connection,
        }
    }

    /// Limits by time end by themselves: providers who send 5xx for them (QQ, 163, Outlook) still mean "later".
    pub fn passes_by_itself(self) -> bool {
        matches!(self, Class::RecipientRate | Class::ConnectionLimit | Class::RateLimit | Class::Greylisting)
    }
}

words! {
    /// Whom or what a reply concerns.
    Scope {
        /// The recipient that it answered.
        Recipient = "recipient",
        /// This message, whoever gets it.
        Message = "message",
        /// This connection.
        Connection = "connection",
        /// The source at this site.
        Source = "source",
        /// The sending domain at this site, over every source.
        SendingDomain = "sending-domain",
        /// The recipient domain at a site that it shares with others.
        RecipientDomain = "recipient-domain",
        /// Nobody that could be named: it answered several recipients at once.
        Nobody = "nobody",
    }
}

/// What an observation means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Meaning {
    /// For the recipients it answered: one at RCPT, all of the transaction elsewhere.
    pub verdict: VerdictKind,
    /// Why.
    pub class: Class,
    /// Whom it concerns.
    pub scope: Scope,
    /// The address is dead: do not write to it again. Only for [`Class::RecipientInvalid`].
    pub suppress: bool,
    /// Whether it uses up one of the envelope's attempts: what concerns the source alone does not.
    pub counts: bool,
    /// Whether the envelope should come back over the same source: greylisting knows it by that.
    pub stay: bool,
    /// When the peer asked us to come again, from now; 30 seconds to 4 hours if it named a time, to a day by a rule.
    pub again_in: Option<Duration>,
    /// For the engine.
    pub signal: Signal,
}

impl Meaning {
    pub(super) const fn new(verdict: VerdictKind, feedback: Feedback, class: Class, scope: Scope) -> Meaning {
        let signal = Signal { feedback, ..Signal::NOTHING };
        Meaning { verdict, class, scope, suppress: false, counts: true, stay: false, again_in: None, signal }
    }

    pub(super) const fn uncounted(self) -> Meaning {
        Meaning { counts: false, ..self }
    }

    /// The strongest thing that is done about it, one word: to the source at the site if the rule asks for that (and its
    /// trigger is reached), else to the recipient.
    pub fn action(&self) -> &'static str {
        self.signal.reaction.map_or_else(|| self.verdict.name(), Reaction::name)
    }
}

/// What a reply asks of the engine, for the source at the site that said it. `Default` asks nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Signal {
    /// Whether concurrency may grow or must shrink.
    pub feedback: Feedback,
    /// What is to be done, once `trigger` is reached.
    pub reaction: Option<Reaction>,
    /// React only from this many such replies within an hour on; 0 and 1: at once.
    pub trigger: u16,
    /// The number of the rule, from 1, stable within one config; 0: no rule matched. See `Rules::name`.
    pub rule: u16,
    /// Speaks of our reputation: counts against warm-up.
    pub reputation: bool,
    /// The source is blocked or listed.
    pub block: bool,
    /// A person should know.
    pub alarm: bool,
}

impl Signal {
    /// Asks nothing.
    pub const NOTHING: Signal = Signal {
        feedback: Feedback::Neutral,
        reaction: None,
        trigger: 1,
        rule: 0,
        reputation: false,
        block: false,
        alarm: false,
    };
}

impl From<Feedback> for Signal {
    /// Nothing but how it went.
    fn from(feedback: Feedback) -> Signal {
        Signal { feedback, ..Signal::NOTHING }
    }
}

/// What the engine is asked to do at the site that said it, never beyond.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reaction {
    /// Fewer connections at once; `most`: no more than these.
    FewerConnections {
        /// `None`: fewer than now.
        most: Option<u16>,
    },
    /// Fewer messages on one connection.
    FewerDeliveries {
        /// `None`: fewer than now.
        most: Option<u32>,
    },
    /// At most `count` messages in any `per`, for as long as `hold`.
    Slow {
        /// Messages. 0: the reply tells no number, so that it is what the peer took of late, found by the engine.
        count: u32,
        /// The window.
        per: Duration,
        /// Until it comes back.
        hold: Duration,
    },
    /// Nothing from this source.
    Suspend {
        /// Until it comes back.
        hold: Duration,
    },
    /// Nothing of this sending domain, over any source.
    StopDomain {
        /// Until it comes back.
        hold: Duration,
    },
}

impl Reaction {
    /// The word in the rules' file and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Reaction::FewerConnections { .. } => "fewer-connections",
            Reaction::FewerDeliveries { .. } => "fewer-deliveries",
            Reaction::Slow { .. } => "slow",
            Reaction::Suspend { .. } => "suspend",
            Reaction::StopDomain { .. } => "stop-domain",
        }
    }

    /// How long it lasts, where the rule says so.
    pub fn hold(self) -> Option<Duration> {
        match self {
            Reaction::FewerConnections { .. } | Reaction::FewerDeliveries { .. } => None,
            Reaction::Slow { hold, .. } | Reaction::Suspend { hold } | Reaction::StopDomain { hold } => Some(hold),
        }
    }
}
