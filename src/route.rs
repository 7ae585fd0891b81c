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

    fn rank(&self, sender: &ReversePath, recipient: &Address) -> Option<Rank> {
        Some((self.senders.rank(sender)?, self.recipients.rank(recipient)?))
    }
}

impl Recipients {
    fn rank(&self, recipient: &Address) -> Option<(usize, u8)> {
        match self {
            Recipients::Address(address) => same(address, recipient).then_some((usize::MAX, 0)),
            Recipients::Any | Recipients::Within(_) | Recipients::Below(_) | Recipients::Only(_) => {
                self.rank_of_domain(recipient.domain())
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
    fn rank(&self, sender: &ReversePath) -> Option<u8> {
        match (self, sender.address()) {
            (Senders::Any, _) => Some(0),
            (Senders::Null, None) => Some(2),
            (Senders::Domain(domain), Some(address)) => (address.domain() == domain).then_some(1),
            (Senders::Address(own), Some(address)) => same(own, address).then_some(2),
            (Senders::Null, Some(_)) | (Senders::Domain(_) | Senders::Address(_), None) => None,
        }
    }
}

/// Whether two addresses are one to an operator, who does not mean two mailboxes by two cases.
fn same(a: &Address, b: &Address) -> bool {
    a.domain() == b.domain() && a.local().eq_ignore_ascii_case(b.local())
}

/// The place of the most specific route; of equal ones the first.
pub fn best<'a>(routes: impl Iterator<Item = &'a Match>, sender: &ReversePath, recipient: &Address) -> Option<usize> {
    let mut best: Option<(usize, Rank)> = None;
    for (place, route) in routes.enumerate() {
        if let Some(rank) = route.rank(sender, recipient)
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
        ];
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
        ] {
            let sender = match sender {
                "" => ReversePath::Null,
                text => ReversePath::Address(address(text)),
            };
            let found = best(routes.iter().map(|(_, route)| route), &sender, &address(recipient));
            assert_eq!(found.map(|place| routes[place].0), Some(want), "{sender} {recipient}");
        }
        assert_eq!(best([].iter(), &ReversePath::Null, &address("a@a.example")), None);
    }
}
