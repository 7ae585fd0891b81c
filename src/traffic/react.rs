//! The engine's part for replies that call for more than deferring their own message: what is lowered or stopped of a
//! source at a site, and how the peer's taking mail again brings it back.
//!
//! A rule acts here only, never beyond the site that said it; and one that has a trigger only after so many such replies
//! within an hour, from two recipient domains or more: one mailbox's quarrel is nobody else's.

use std::time::Duration;

use super::Engine;
use super::limits::Rate;
use super::link::Link;
use super::words::{Account, Holder, Order, SiteHandle, SourceHandle, Unit};
use crate::classify::{Reaction, Signal};
use crate::time::Timestamp;

/// Replies count toward a trigger for so long.
const STRIKES_WITHIN: Duration = Duration::from_secs(3600);
/// Rules that are counted at one site at once; the longest unheard one makes room.
const STRIKES_MAX: usize = 16;

/// Replies under one rule to one source at a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Strike {
    source: SourceHandle,
    rule: u16,
    count: u16,
    since: Timestamp,
    last: Timestamp,
    domain: Option<u32>,
    /// From two recipient domains or more.
    several: bool,
}

/// Counts a reply: of which recipient domain, or (`None`) said to the connection before any. True: it is time to act, and
/// the count begins anew.
fn strike(
    strikes: &mut Vec<Strike>,
    now: Timestamp,
    source: SourceHandle,
    signal: &Signal,
    domain: Option<u32>,
) -> bool {
    if signal.trigger <= 1 {
        return true;
    }
    strikes.retain(|strike| now.since(strike.since) < STRIKES_WITHIN);
    let known = strikes.iter().position(|strike| strike.source == source && strike.rule == signal.rule);
    let place = known.unwrap_or_else(|| {
        if strikes.len() >= STRIKES_MAX
            && let Some(oldest) = (0..strikes.len()).min_by_key(|place| strikes[*place].last)
        {
            strikes.swap_remove(oldest);
        }
        strikes.push(Strike {
            source,
            rule: signal.rule,
            count: 0,
            since: now,
            last: now,
            domain,
            several: domain.is_none(),
        });
        strikes.len() - 1
    });
    let Some(known) = strikes.get_mut(place) else { return false };
    known.count = known.count.saturating_add(1);
    known.last = now;
    known.several |= known.domain != domain;
    let acts = known.count >= signal.trigger && known.several;
    if acts {
        strikes.swap_remove(place);
    }
    acts
}

impl Engine {
    /// Does what a reply calls for, to the source at the site of this connection.
    pub(super) fn react(&mut self, link: &Link, domain: Option<u32>, signal: &Signal, out: &mut Vec<Order>) {
        let Some(reaction) = signal.reaction else { return };
        let (now, jitter, source) = (self.now, self.jitter, link.source);
        let site = &mut self.sites[link.site];
        if !strike(&mut site.strikes, now, source, signal, domain) {
            return;
        }
        if signal.block {
            self.warmup_blocked(source, link.site, out);
        }
        let path = self.sites[link.site].path_mut(source);
        match reaction {
            Reaction::FewerConnections { most } => {
                let others = (path.open - path.closing).saturating_sub(1);
                path.fewer_connections(now, jitter, most.unwrap_or(others));
            }
            Reaction::FewerDeliveries { most } => {
                path.fewer_deliveries(now, jitter, most.unwrap_or(link.done));
            }
            Reaction::Slow { count, per, hold } => {
                let named = (count > 0).then_some(Rate { count, per });
                let lowered = path.slower(now, jitter, named, hold);
                // What was on its way with it stops the source once more, and lowers nothing.
                self.hold_to_lesson(link.site, source, true);
                if !lowered {
                    return;
                }
            }
            Reaction::Suspend { hold } => {
                path.block(now, jitter, hold);
                self.close_blocked(link.site, source, out);
            }
            // A sending domain is known to `delivery` alone, which asks before each attempt.
            Reaction::StopDomain { .. } => return,
        }
        self.sites[link.site].path_mut(source).because = signal.rule;
        self.keep_lesson(link.site, source, out);
        self.arm_site(link.site);
    }

    /// A message was taken: what was lowered may come back a little.
    pub(super) fn raise(&mut self, link: &Link, out: &mut Vec<Order>) {
        let (now, source) = (self.now, link.source);
        let site = &mut self.sites[link.site];
        let (limit, in_use) = (site.limits.of(source).connections, site.meters.is_lesson_in_use(source));
        let raised = site.path_mut(source).good(now, limit, in_use);
        if raised.rate {
            self.hold_to_lesson(link.site, source, false);
        }
        if raised.probe {
            self.keep_lesson(link.site, source, out);
        }
        if raised.connections {
            self.feed(link.site, out);
        }
    }

    pub(super) fn hold_to_lesson(&mut self, site: u32, source: SourceHandle, refused: bool) {
        let now = self.steady();
        let site = &mut self.sites[site];
        let rate = site.path(source).lesson.rate();
        site.meters.learn(source, rate, refused, now);
    }

    /// Has it written down, so that a restart need not learn it anew by refusals.
    pub(super) fn keep_lesson(&self, site: u32, source: SourceHandle, out: &mut Vec<Order>) {
        let account = Account { holder: Holder::Site(SiteHandle(site)), source: Some(source), unit: Unit::Lesson };
        // Several refusals at once are one record.
        if out.last() != Some(&Order::Reserve(account)) {
            out.push(Order::Reserve(account));
        }
    }

    /// Closes what idles there over a source that was stopped; busy connections close at their next boundary.
    fn close_blocked(&mut self, site: u32, source: SourceHandle, out: &mut Vec<Order>) {
        let there =
            |number: &u32| self.links.get(number).is_some_and(|link| link.site == site && link.source == source);
        let idle: Vec<u32> = self.idle.iter().map(|(_, number)| *number).filter(there).collect();
        for number in idle {
            self.close(number, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_with_a_trigger_needs_so_many_replies_from_two_domains_within_an_hour() {
        let at = |secs: u64| Timestamp::from_secs(1_800_000_000 + secs);
        let source = SourceHandle(0);
        let signal = |trigger, rule| Signal { trigger, rule, ..Signal::default() };
        let mut strikes = Vec::new();
        assert!(strike(&mut strikes, at(0), source, &signal(1, 1), Some(7)), "no trigger");
        let mut hit = |secs, rule, domain| strike(&mut strikes, at(secs), source, &signal(3, rule), Some(domain));
        assert!(!hit(0, 1, 7) && !hit(1, 1, 7) && !hit(2, 1, 7), "one domain");
        assert!(!hit(3, 2, 8), "another rule");
        assert!(hit(4, 1, 8));
        assert!(!hit(5, 1, 8) && !hit(6, 1, 7), "it begins anew");
        assert!(!hit(4000, 1, 7), "what is older than an hour is forgotten");
        assert!(!strike(&mut strikes, at(4500), source, &signal(2, 9), None), "at the door");
        assert!(strike(&mut strikes, at(4501), source, &signal(2, 9), None), "nobody's domain is several");
        for rule in 0..40 {
            strike(&mut strikes, at(5000), source, &signal(3, 100 + rule), Some(1));
        }
        assert!(strikes.len() <= STRIKES_MAX);
    }
}
