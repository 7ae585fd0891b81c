//! Replies that are counted until their rule acts: so many within an hour, from two recipient domains or more, since one
//! mailbox's quarrel is nobody else's. Pure.
//!
//! `traffic` counts so for what concerns a source at a site, `delivery` for sending domains.

use std::time::Duration;

use crate::time::Timestamp;

/// Replies count toward a trigger for so long.
const WITHIN: Duration = Duration::from_secs(3600);

/// Replies of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Strike<K, D> {
    key: K,
    count: u16,
    since: Timestamp,
    last: Timestamp,
    domain: Option<D>,
    /// From two recipient domains or more.
    several: bool,
}

/// Counts by key, `MOST` at once: the longest unheard one makes room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Strikes<K, D, const MOST: usize>(Vec<Strike<K, D>>);

impl<K, D, const MOST: usize> Default for Strikes<K, D, MOST> {
    fn default() -> Self {
        Strikes(Vec::new())
    }
}

impl<K: PartialEq, D: PartialEq, const MOST: usize> Strikes<K, D, MOST> {
    /// Counts a reply to mail for this recipient domain (`None`: it was said to the connection, before any). True: so many
    /// as its rule's `trigger` came, and it is time to act; the count begins anew.
    pub fn hear(&mut self, key: K, trigger: u16, domain: Option<D>, now: Timestamp) -> bool {
        if trigger <= 1 {
            return true;
        }
        self.0.retain(|strike| now.since(strike.since) < WITHIN);
        let place = match self.0.iter().position(|strike| strike.key == key) {
            Some(place) => place,
            None => {
                if self.0.len() >= MOST
                    && let Some(oldest) = (0..self.0.len()).min_by_key(|place| self.0[*place].last)
                {
                    self.0.swap_remove(oldest);
                }
                self.0.push(Strike { key, count: 0, since: now, last: now, domain: None, several: false });
                self.0.len() - 1
            }
        };
        let known = &mut self.0[place];
        known.count = known.count.saturating_add(1);
        known.last = now;
        match (&known.domain, domain) {
            (_, None) => known.several = true,
            (Some(before), Some(domain)) => known.several |= *before != domain,
            (None, domain) => known.domain = domain,
        }
        let acts = known.count >= trigger && known.several;
        if acts {
            self.0.swap_remove(place);
        }
        acts
    }

    /// How many keys are counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the counts under these keys.
    pub fn forget(&mut self, is_over: impl Fn(&K) -> bool) {
        self.0.retain(|strike| !is_over(&strike.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_with_a_trigger_needs_so_many_replies_from_two_domains_within_an_hour() {
        let at = |secs: u64| Timestamp::from_secs(1_800_000_000 + secs);
        let mut strikes: Strikes<u16, u32, 16> = Strikes::default();
        assert!(strikes.hear(1, 1, Some(7), at(0)) && strikes.hear(1, 0, Some(7), at(0)), "no trigger");
        let mut hit = |secs, rule, domain| strikes.hear(rule, 3, Some(domain), at(secs));
        assert!(!hit(0, 1, 7) && !hit(1, 1, 7) && !hit(2, 1, 7), "one domain");
        assert!(!hit(3, 2, 8), "another rule");
        assert!(hit(4, 1, 8));
        assert!(!hit(5, 1, 8) && !hit(6, 1, 7), "it begins anew");
        assert!(!hit(4000, 1, 7), "what is older than an hour is forgotten");
        assert!(!strikes.hear(9, 2, None, at(4500)), "at the door");
        assert!(strikes.hear(9, 2, None, at(4501)), "nobody's domain is several");
        for rule in 0..40 {
            strikes.hear(100 + rule, 3, Some(1), at(5000));
        }
        assert_eq!(strikes.len(), 16);
        strikes.forget(|rule| *rule >= 100);
        assert!(!strikes.0.iter().any(|strike| strike.key >= 100));
    }
}
