//! The rules, compiled: which of them is the first that fits a reply.
//!
//! A text is looked for only if the cheap conditions hold, each in time linear in the reply's length. One set of all texts
//! was tried and was slower: together they have so many states that the matcher's cache was thrown away for each reply.

use std::ops::RangeInclusive;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

use super::meaning::{Class, Reaction, Scope, VerdictKind};
use super::proof::{self, Proof};
use super::said::Said;
use crate::mail::{EnhancedStatus, Stage};

/// Memory of one compiled text: what a counted repetition of a repetition would exceed.
const COMPILED_SIZE_MAX: usize = 8 << 20;
/// Memory of the cache of one text's matcher, for each thread that classifies at the same time; past it the cache starts
/// anew. Few texts ever need more than a tenth.
const CACHE_SIZE_MAX: usize = 2 << 20;

/// Compiles a text. `Err` says in one line why it cannot be used.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    // Octets, not characters: classes of all Unicode's letters would make the matcher a hundred times larger.
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).size_limit(COMPILED_SIZE_MAX).dfa_size_limit(CACHE_SIZE_MAX);
    builder.build().map_err(|error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

/// One rule: when it fits, and what a reply that it fits means.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub name: Box<str>,
    pub when: When,
    pub then: Then,
}

/// All that is given must hold; what is empty holds always.
#[derive(Clone, Debug, Default)]
pub(super) struct When {
    pub stages: Vec<Stage>,
    pub codes: Vec<RangeInclusive<u16>>,
    pub statuses: Vec<StatusRange>,
    pub text: Option<Regex>,
    /// What must not be there.
    pub unless: Option<Regex>,
    /// Host names, in lower case.
    pub mx: Vec<Box<str>>,
}

/// What a reply means.
#[derive(Clone, Debug)]
pub(super) struct Then {
    pub class: Class,
    pub scope: Scope,
    /// `None`: as its code says.
    pub verdict: Option<VerdictKind>,
    pub death: Death,
    pub again_in: Option<Duration>,
    pub reaction: Option<Reaction>,
    pub trigger: u16,
    pub reputation: bool,
    pub block: bool,
    pub alarm: bool,
}

/// Whether a rule may say that an address is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Death {
    /// Never.
    No,
    /// It fits only if the words of the reply prove it ([`Proof`]).
    IfProven,
    /// Its own text is proof enough: a code that only dead mailboxes get, or an operator's word.
    Vouched,
}

/// `5.1.1`, `*.7.1`, `5.7.*`, `5.7.606-649`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StatusRange {
    pub class: Option<u8>,
    pub subject: Option<u16>,
    pub details: RangeInclusive<u16>,
}

impl StatusRange {
    fn has(&self, status: EnhancedStatus) -> bool {
        self.class.is_none_or(|class| class == status.class)
            && self.subject.is_none_or(|subject| subject == status.subject)
            && self.details.contains(&status.detail)
    }
}

impl When {
    fn fits(&self, stage: Stage, said: &Said, host: Option<&str>) -> bool {
        let has = |text: &Regex| text.is_match(said.text.as_bytes());
        (self.stages.is_empty() || self.stages.contains(&stage))
            && (self.codes.is_empty() || self.codes.iter().any(|codes| codes.contains(&said.code)))
            && (self.statuses.is_empty()
                || said.status.is_some_and(|status| self.statuses.iter().any(|range| range.has(status))))
            && (self.mx.is_empty() || host.is_some_and(|host| self.mx.iter().any(|suffix| is_within(host, suffix))))
            && self.text.as_ref().is_none_or(has)
            && !self.unless.as_ref().is_some_and(has)
    }
}

/// Whether a host is the suffix, or a name below it.
fn is_within(host: &str, suffix: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let Some(cut) = host.len().checked_sub(suffix.len()) else { return false };
    let (front, back) = host.as_bytes().split_at(cut);
    back.eq_ignore_ascii_case(suffix.as_bytes()) && (front.is_empty() || front.ends_with(b"."))
}

/// The rules of one config: the operator's, then ours. Made at start and at every reload, and shared.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Ours; only tests do without.
    proof: Option<Proof>,
}

impl Rules {
    pub(super) fn new(rules: Vec<Rule>, proof: Option<Proof>) -> Rules {
        Rules { rules, proof }
    }

    /// The first rule that fits, and its number.
    pub(super) fn first(&self, stage: Stage, said: &Said, host: Option<&str>) -> Option<(u16, &Rule)> {
        // Looked at once, and only if a rule would blame the recipient.
        let mut holds: Option<bool> = None;
        let mut is_proven = || *holds.get_or_insert_with(|| self.proof.as_ref().is_none_or(|proof| proof.holds(said)));
        let place = self.rules.iter().position(|rule| {
            rule.when.fits(stage, said, host)
                && match rule.then.death {
                    Death::No | Death::Vouched => true,
                    Death::IfProven => proof::may_say(stage, said.status, rule.when.text.is_some()) && is_proven(),
                }
        })?;
        let number = u16::try_from(place + 1).unwrap_or(u16::MAX);
        self.rules.get(place).map(|rule| (number, rule))
    }

    /// The name of a rule by its number in a `Signal`; `None` for 0, no rule.
    pub fn name(&self, number: u16) -> Option<&str> {
        let place = usize::from(number).checked_sub(1)?;
        self.rules.get(place).map(|rule| &*rule.name)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_within_a_suffix_only_at_a_dot() {
        let rows = [
            ("mx1.qq.com", "qq.com", true),
            ("QQ.com.", "qq.com", true),
            ("notqq.com", "qq.com", false),
            ("com", "qq.com", false),
            ("qq.com.example", "qq.com", false),
        ];
        for (host, suffix, want) in rows {
            assert_eq!(is_within(host, suffix), want, "{host} {suffix}");
        }
    }
}
