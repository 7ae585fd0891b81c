//! The engine's part for replies that call for more than deferring their own message: what is lowered or stopped of a
//! source at a site, and how the peer's taking mail again brings it back.
//!
//! A rule acts here only, never beyond the site that said it; and one that has a trigger only after so many such replies
//! within an hour, from two recipient domains or more: one mailbox's quarrel is nobody else's.

use super::Engine;
use super::limits::Rate;
use super::link::Link;
use super::words::{Account, Holder, Order, SiteHandle, SourceHandle, Unit};
use crate::classify::{Reaction, Signal, Strikes};

/// Rules that are counted at one site at once.
const STRIKES_MAX: usize = 16;

/// Replies under rules to sources at a site, by recipient domain.
pub(super) type SiteStrikes = Strikes<(SourceHandle, u16), u32, STRIKES_MAX>;

impl Engine {
    /// Does what a reply calls for, to the source at the site of this connection. `domain`: of the recipients whom it
    /// answered, if it answered any.
    pub(super) fn react(&mut self, link: &Link, domain: Option<u32>, signal: &Signal, out: &mut Vec<Order>) {
        let Some(reaction) = signal.reaction else { return };
        let (now, jitter, source) = (self.steady(), self.jitter, link.source);
        let site = &mut self.sites[link.site];
        if !site.strikes.hear((source, signal.rule), signal.trigger, domain, now) {
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
                // The last was done, and refused.
                path.fewer_deliveries(now, jitter, most.unwrap_or(link.done.saturating_sub(1)));
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
        let (now, source, done) = (self.steady(), link.source, link.done);
        let site = &mut self.sites[link.site];
        let (limit, in_use) = (site.limits.of(source).connections, site.meters.is_lesson_in_use(source));
        let path = site.path_mut(source);
        path.carried(done);
        let raised = path.good(now, limit, in_use);
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
        let path = site.path(source);
        let (rate, refused) = (path.rate(), refused && !path.knows_window());
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
