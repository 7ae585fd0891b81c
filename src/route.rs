//! Which route a recipient's mail takes: the most specific sender, then the most specific recipient.
//!
//! Called by the door, which asks whether a recipient can be taken at all and keeps recipients of different routes in
//! different envelopes, and by the scheduler, which asks where an envelope goes. Both must find the same, so the rule stands
//! here once.

use crate::mail::{Address, Domain, ReversePath};

/// Which recipients a route is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipients {
    /// `*`: all.
    Any,
    /// A domain and those below it.
    Within(Domain),
    /// Those below a domain.
    Below(Domain),
    /// That domain alone.
    Only(Domain),
    /// One address.
    Address(Address),
}

/// Whose mail a route is for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Senders {
    /// Everybody's.
    #[default]
    Any,
    /// Reports: `<>`.
    Null,
    /// Envelope senders at this domain.
    Domain(Domain),
    /// One envelope sender.
    Address(Address),
}

/// Whom a route is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// To whom.
    pub recipients: Recipients,
    /// From whom.
    pub senders: Senders,
}

/// Whom a message is from and to, and who they are without the extension behind a recipient delimiter, if they have one:
/// `user+x@` takes the route of `user@` where it has none of its own, as transport(5) looks up both.
#[derive(Clone, Debug)]
pub struct Parties<'a> {
    /// The envelope sender.
    pub sender: &'a ReversePath,
    /// The recipient.
    pub recipient: &'a Address,
    /// The sender without its extension.
    pub plain_sender: Option<Address>,
    /// The recipient without its extension.
    pub plain_recipient: Option<Address>,
}

/// How specific a match is: sender first; labels of the domain, then how narrowly it is meant.
type Rank = (u8, (usize, u8));

impl Match {
    /// Everybody's mail to these.
    pub fn to(recipients: Recipients) -> Match {
        Match { recipients, senders: Senders::Any }
    }

    /// Whether the recipient's domain alone says if a message is meant.
    pub fn is_by_domain(&self) -> bool {
        self.senders == Senders::Any && !matches!(self.recipients, Recipients::Address(_))
    }

    /// How specific it is among those that go by the domain alone.
    pub fn rank_of_domain(&self, domain: &Domain) -> Option<(usize, u8)> {
        match &self.recipients {
            Recipients::Address(_) => None,
            recipients => recipients.rank_of_domain(domain).filter(|_| self.is_by_domain()),
        }
    }

    fn rank(&self, parties: &Parties<'_>) -> Option<Rank> {
        Some((self.senders.rank(parties)?, self.recipients.rank(parties)?))
    }
}

impl Recipients {
    fn rank(&self, parties: &Parties<'_>) -> Option<(usize, u8)> {
        match self {
            Recipients::Address(own) => {
                closeness(own, parties.recipient, parties.plain_recipient.as_ref()).map(|close| (usize::MAX, close))
            }
            Recipients::Any | Recipients::Within(_) | Recipients::Below(_) | Recipients::Only(_) => {
                self.rank_of_domain(parties.recipient.domain())
            }
        }
    }

    fn rank_of_domain(&self, domain: &Domain) -> Option<(usize, u8)> {
        let labels = |name: &Domain| name.as_str().split('.').count();
        match self {
            Recipients::Any => Some((0, 0)),
            Recipients::Within(parent) => domain.is_within(parent).then(|| (labels(parent), 0)),
            Recipients::Below(parent) => (domain != parent && domain.is_within(parent)).then(|| (labels(parent), 1)),
            Recipients::Only(name) => (domain == name).then(|| (labels(name), 2)),
            Recipients::Address(_) => None,
        }
    }
}

impl Senders {
    fn rank(&self, parties: &Parties<'_>) -> Option<u8> {
        match (self, parties.sender.address()) {
            (Senders::Any, _) => Some(0),
            (Senders::Null, None) => Some(3),
            (Senders::Domain(domain), Some(address)) => (address.domain() == domain).then_some(1),
            (Senders::Address(own), Some(address)) => {
                closeness(own, address, parties.plain_sender.as_ref()).map(|close| close + 2)
            }
            (Senders::Null, Some(_)) | (Senders::Domain(_) | Senders::Address(_), None) => None,
        }
    }
}

/// Whether two addresses are one to an operator, who does not mean two mailboxes by two cases.
fn same(a: &Address, b: &Address) -> bool {
    a.domain() == b.domain() && a.local().eq_ignore_ascii_case(b.local())
}

/// 1: it is this address; 0: it is without its extension.
fn closeness(own: &Address, address: &Address, plain: Option<&Address>) -> Option<u8> {
    match same(own, address) {
        true => Some(1),
        false => plain.is_some_and(|plain| same(own, plain)).then_some(0),
    }
}

/// The place of the most specific route; of equal ones the first.
pub fn best<'a>(routes: impl Iterator<Item = &'a Match>, parties: &Parties<'_>) -> Option<usize> {
    let mut best: Option<(usize, Rank)> = None;
    for (place, route) in routes.enumerate() {
        if let Some(rank) = route.rank(parties)
            && best.is_none_or(|(_, other)| rank > other)
        {
            best = Some((place, rank));
        }
    }
    best.map(|(place, _)| place)
}

/// Stands between a pool and a route: in no name of a pool.
const SEPARATOR: char = '|';

/// The pool of an envelope whose domain alone does not say which route it takes: the route's name goes with the pool's,
/// over restarts too.
pub fn join(pool: &str, route: &str) -> String {
    format!("{pool}{SEPARATOR}{route}")
}

/// A pool, and the route that was chosen with it.
pub fn split(pool: &str) -> (&str, Option<&str>) {
    match pool.split_once(SEPARATOR) {
        Some((pool, route)) => (pool, Some(route)),
        None => (pool, None),
    }
}

/// Another pool for an envelope, with the route that it has.
pub fn moved(old: &str, pool: &str) -> String {
    match split(old).1 {
        Some(route) => join(pool, route),
        None => pool.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_sender_wins_and_then_the_most_specific_recipient() {
        let domain = |name: &str| name.parse::<Domain>().unwrap();
        let address = |text: &str| text.parse::<Address>().unwrap();
        let to = Match::to;
        let from = |senders, recipients| Match { recipients, senders };
        let routes = [
            ("any", to(Recipients::Any)),
            ("within", to(Recipients::Within(domain("example.com")))),
            ("below", to(Recipients::Below(domain("example.com")))),
            ("only", to(Recipients::Only(domain("example.com")))),
            ("deeper", to(Recipients::Within(domain("a.example.com")))),
            ("one", to(Recipients::Address(address("Ops@example.com")))),
            ("of a domain", from(Senders::Domain(domain("s.example")), Recipients::Any)),
            ("of one", from(Senders::Address(address("a@s.example")), Recipients::Any)),
            ("of one to one", from(Senders::Address(address("a@s.example")), Recipients::Only(domain("example.com")))),
            ("reports", from(Senders::Null, Recipients::Any)),
            ("of one and an extension", from(Senders::Address(address("a+y@s.example")), Recipients::Any)),
            ("one and an extension", to(Recipients::Address(address("ops+y@example.com")))),
        ];
        let plain = |address: &Address| {
            let (user, _) = address.local().split_once('+')?;
            format!("{user}@{}", address.domain()).parse::<Address>().ok()
        };
        for (sender, recipient, want) in [
            ("x@x.example", "a@other.example", "any"),
            ("x@x.example", "a@example.com", "only"),
            ("x@x.example", "a@b.example.com", "below"),
            ("x@x.example", "a@a.example.com", "deeper"),
            ("x@x.example", "a@x.a.example.com", "deeper"),
            ("x@x.example", "a@badexample.com", "any"),
            ("x@x.example", "ops@EXAMPLE.com", "one"),
            ("b@s.example", "ops@example.com", "of a domain"),
            ("b@x.s.example", "a@other.example", "any"),
            ("A@s.example", "a@other.example", "of one"),
            ("a@s.example", "a@example.com", "of one to one"),
            ("", "a@example.com", "reports"),
            ("x@x.example", "Ops+x@example.com", "one"),
            ("x@x.example", "ops+Y@example.com", "one and an extension"),
            ("x@x.example", "ops-x@example.com", "only"),
            ("a+x@s.example", "a@other.example", "of one"),
            ("a+y@s.example", "a@other.example", "of one and an extension"),
        ] {
            let sender = match sender {
                "" => ReversePath::Null,
                text => ReversePath::Address(address(text)),
            };
            let recipient = address(recipient);
            let parties = Parties {
                plain_sender: sender.address().and_then(plain),
                plain_recipient: plain(&recipient),
                sender: &sender,
                recipient: &recipient,
            };
            let found = best(routes.iter().map(|(_, route)| route), &parties);
            assert_eq!(found.map(|place| routes[place].0), Some(want), "{sender} {recipient}");
        }
        let nobody = Parties {
            sender: &ReversePath::Null,
            recipient: &address("a@a.example"),
            plain_sender: None,
            plain_recipient: None,
        };
        assert_eq!(best([].iter(), &nobody), None);
    }
}
