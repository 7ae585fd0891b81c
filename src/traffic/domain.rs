//! The engine's part for recipient domains: whose hosts are known, asked for, or not to be had.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Meters;
use super::lane::{self, place_of};
use super::limits::{Limits, SiteLimits};
use super::slab::NONE;
use super::words::{
    DomainHandle, Handle, Holder, Kept, Order, ProviderHandle, SiteHandle, SourceHandle, TargetHandle, Unresolved,
};
use super::{Alarm, Engine};
use crate::mail::StreamKind;
use crate::time::Timestamp;

/// Waits between look-ups that failed, doubled up to the longest.
const WAIT_MIN: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(1800);
/// A domain without mail whose own windows are in use is looked at again after this.
const IN_USE: Duration = Duration::from_secs(600);

/// What is known of a domain's hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hosts {
    /// Nothing.
    Unknown,
    /// These.
    Known(u32),
    /// The look-up failed; again then, by the steady clock.
    Failing(Timestamp),
    /// There are none: what waits fails.
    Never,
}

#[derive(Debug)]
pub(super) struct Domain {
    pub hosts: Hosts,
    /// A look-up is in line or on its way.
    pub asked: bool,
    /// What is being looked up speaks of a config that was changed since: to be asked for once more.
    pub outdated: bool,
    /// It stands in the line of domains whose mail fails.
    pub in_failing: bool,
    failures: u8,
    alarm: Timestamp,
    pub flows: Vec<u32>,
    /// Its hosts were known once, so that it may have been sent to.
    met: bool,
    /// Its own limits, if it has some, and what was used of them.
    pub own: Option<Box<Own>>,
}

/// Limits that a recipient domain has beside its site's.
#[derive(Debug)]
pub(super) struct Own {
    pub limits: Arc<SiteLimits>,
    pub meters: Meters,
    /// Its windows have no room for what a source carries until then: transactional, marketing.
    shut: Vec<(SourceHandle, [Timestamp; 2])>,
    /// When that is looked at.
    pub gate_at: Timestamp,
}

impl Own {
    fn new(limits: Arc<SiteLimits>, meters: Meters) -> Own {
        Own { limits, meters, shut: Vec::new(), gate_at: Timestamp::NEVER }
    }

    /// Whether what one source used leaves others their own.
    pub fn is_by_source(&self) -> bool {
        self.limits.sources.iter().map(|(_, limits)| limits).chain([&self.limits.each]).any(|limits| !is_free(limits))
    }

    /// Nothing of a kind goes over a source before this.
    pub fn shut(&mut self, source: SourceHandle, kind: StreamKind, until: Timestamp) {
        let place = match self.shut.iter().position(|(other, _)| *other == source) {
            Some(place) => place,
            None => {
                self.shut.push((source, [Timestamp::ZERO; 2]));
                self.shut.len() - 1
            }
        };
        self.shut[place].1[place_of(kind)] = until;
    }

    /// Forgets what was shut until then.
    pub fn open(&mut self, now: Timestamp) {
        self.shut.retain(|(_, until)| until.iter().any(|until| *until > now));
    }

    /// When the next source may have room.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.shut.iter().flat_map(|(_, until)| until).copied().filter(|until| *until > now).min()
    }

    /// Whether a source has no room for mail of a kind; `None`: some source.
    pub fn is_shut(&self, source: Option<SourceHandle>, kind: StreamKind, now: Timestamp) -> bool {
        let of = |other: &SourceHandle| source.is_none_or(|source| source == *other);
        self.shut.iter().any(|(other, until)| of(other) && until[place_of(kind)] > now)
    }
}

/// Whether nothing is limited that a domain can have limits of.
fn is_free(limits: &Limits) -> bool {
    limits.messages.is_empty() && limits.recipients.is_empty()
}

/// What a look-up found.
pub(super) struct Resolution {
    pub domain: DomainHandle,
    pub target: TargetHandle,
    pub site: SiteHandle,
    pub provider: ProviderHandle,
    pub limits: Arc<SiteLimits>,
    pub own: Option<Arc<SiteLimits>>,
    pub kept: Box<[Kept]>,
    pub until: Timestamp,
}

impl Engine {
    pub(super) fn domain_gains(&mut self, domain: DomainHandle, flow: u32) {
        if self.domains.get(domain.0).is_none() {
            let new = Domain {
                hosts: Hosts::Unknown,
                asked: false,
                outdated: false,
                in_failing: false,
                failures: 0,
                alarm: Timestamp::NEVER,
                flows: Vec::new(),
                met: false,
                own: None,
            };
            self.domains.insert_at(domain.0, new);
        }
        let flows = &mut self.domains[domain.0].flows;
        if flows.is_empty() {
            flows.reserve_exact(1);
        }
        flows.push(flow);
    }

    pub(super) fn domain_loses(&mut self, domain: DomainHandle, flow: u32, out: &mut Vec<Order>) {
        let Some(known) = self.domains.get_mut(domain.0) else { return };
        if let Some(place) = known.flows.iter().position(|other| *other == flow) {
            known.flows.swap_remove(place);
        }
        // What its look-up said is kept until that is too old: the next message may come in a moment.
        if known.flows.is_empty() && known.alarm == Timestamp::NEVER && !known.asked {
            self.let_go(domain.0, out);
        }
    }

    /// Forgets a domain without mail, once nothing of its own windows is in use.
    fn let_go(&mut self, domain: u32, out: &mut Vec<Order>) {
        let now = self.steady();
        let Some(known) = self.domains.get_mut(domain) else { return };
        if known.own.as_deref_mut().is_none_or(|own| own.meters.is_idle(now)) {
            return self.forget_domain(domain, out);
        }
        self.leave_target(domain, Hosts::Unknown, out);
        self.arm_domain(domain, self.now.after(IN_USE));
    }

    fn forget_domain(&mut self, domain: u32, out: &mut Vec<Order>) {
        let Some(known) = self.domains.take_at(domain) else { return };
        self.arm(known.alarm, Timestamp::NEVER, Alarm::Domain(domain));
        if let Hosts::Known(target) = known.hosts {
            self.release_target(target, out);
        }
        out.push(Order::Forget(Handle::Domain(DomainHandle(domain))));
    }

    /// The domain's target, or the first step to know it.
    pub(super) fn target_of(&mut self, domain: u32, out: &mut Vec<Order>) -> Option<u32> {
        match self.domains.get(domain)?.hosts {
            Hosts::Known(target) => return Some(target),
            Hosts::Unknown => {
                self.ask(domain);
                self.resolve_more(out);
            }
            Hosts::Failing(_) => {}
            Hosts::Never => self.fail_soon(domain),
        }
        None
    }

    pub(super) fn ask(&mut self, domain: u32) {
        if let Some(known) = self.domains.get_mut(domain).filter(|known| !known.asked) {
            known.asked = true;
            self.to_resolve.push_back(domain);
        }
    }

    /// Asks again where the config was changed: an answer that is on its way may speak of the old one.
    pub(super) fn ask_anew(&mut self, domain: u32) {
        match self.domains.get_mut(domain).filter(|known| known.asked) {
            Some(known) => known.outdated = true,
            None => self.ask(domain),
        }
    }

    pub(super) fn resolve_more(&mut self, out: &mut Vec<Order>) {
        while self.resolving < self.rules.lookups.max(1) {
            let Some(domain) = self.to_resolve.pop_front() else { return };
            if let Some(known) = self.domains.get_mut(domain) {
                known.outdated = false;
            }
            self.resolving += 1;
            out.push(Order::Resolve(DomainHandle(domain)));
        }
    }

    /// An answer came: true, if it was asked for.
    fn answered(&mut self, domain: u32) -> bool {
        let Some(known) = self.domains.get_mut(domain).filter(|known| known.asked) else { return false };
        known.asked = false;
        let outdated = std::mem::take(&mut known.outdated);
        self.resolving = self.resolving.saturating_sub(1);
        if outdated {
            self.ask(domain);
        }
        true
    }

    fn arm_domain(&mut self, domain: u32, shown: Timestamp) {
        let at = self.steady_of(shown);
        let was = std::mem::replace(&mut self.domains[domain].alarm, at);
        self.arm(was, at, Alarm::Domain(domain));
    }

    pub(super) fn resolved(&mut self, found: Resolution, out: &mut Vec<Order>) {
        let Resolution { domain, target, site, provider, limits, own, kept, until } = found;
        let domain = domain.0;
        if !self.answered(domain) {
            return;
        }
        self.recall_warmups(&kept);
        self.site_is(target.0, site, limits, &kept);
        self.sites[site.0].provider = provider;
        let other_limits = self.own_limits(domain, own, &kept);
        self.targets[target.0].domains += 1;
        let was = std::mem::replace(&mut self.domains[domain].hosts, Hosts::Known(target.0));
        self.domains[domain].failures = 0;
        self.arm_domain(domain, until.max(self.now.after(Duration::from_secs(1))));
        if was != Hosts::Known(target.0) {
            for place in 0..self.domains[domain].flows.len() {
                let flow = self.domains[domain].flows[place];
                lane::detach(flow, &mut self.flows, &mut self.lanes);
                self.attach_flow(flow, out);
            }
        }
        if let Hosts::Known(old) = was {
            self.release_target(old, out);
        }
        // What the old limits kept out of its lanes may pass the new ones.
        if other_limits {
            self.reopen_domain(domain, out);
        }
        self.feed(self.targets[target.0].site, out);
    }

    /// A domain has these limits of its own, or none. True: it had others.
    fn own_limits(&mut self, domain: u32, limits: Option<Arc<SiteLimits>>, kept: &[Kept]) -> bool {
        let (now, started) = (self.steady(), self.started);
        let Some(known) = self.domains.get_mut(domain) else { return false };
        let met = std::mem::replace(&mut known.met, true);
        let changed = known.own.as_ref().map(|own| &own.limits) != limits.as_ref();
        match (limits, &mut known.own) {
            (None, own) => *own = None,
            (Some(limits), Some(own)) => {
                own.meters.change(&own.limits, &limits, now);
                own.limits = limits;
            }
            (Some(limits), own) => {
                let mut meters = Meters::new(started);
                if met {
                    meters.change(&SiteLimits::of_each(Limits::NONE), &limits, now);
                }
                meters.restore(Holder::Domain(DomainHandle(domain)), &limits, kept, now);
                *own = Some(Box::new(Own::new(limits, meters)));
            }
        }
        changed
    }

    pub(super) fn unresolved(&mut self, domain: DomainHandle, why: Unresolved, out: &mut Vec<Order>) {
        let domain = domain.0;
        if !self.answered(domain) {
            return;
        }
        match why {
            Unresolved::Later(until) => {
                let now = self.now;
                let known = &mut self.domains[domain];
                let wait = WAIT_MIN * (1u32 << known.failures.min(10));
                known.failures = known.failures.saturating_add(1);
                let again = until.max(now.after(wait.min(WAIT_MAX)));
                let again_at = self.steady_of(again);
                let known = &mut self.domains[domain];
                // Hosts that were right an hour ago are better than none.
                if !matches!(known.hosts, Hosts::Known(_)) {
                    known.hosts = Hosts::Failing(again_at);
                }
                self.arm_domain(domain, again);
            }
            Unresolved::Never(until) => {
                self.leave_target(domain, Hosts::Never, out);
                self.arm_domain(domain, until.max(self.now.after(WAIT_MIN)));
                self.fail_soon(domain);
            }
        }
    }

    fn leave_target(&mut self, domain: u32, hosts: Hosts, out: &mut Vec<Order>) {
        let was = std::mem::replace(&mut self.domains[domain].hosts, hosts);
        let Hosts::Known(target) = was else { return };
        for place in 0..self.domains[domain].flows.len() {
            lane::detach(self.domains[domain].flows[place], &mut self.flows, &mut self.lanes);
        }
        self.release_target(target, out);
    }

    fn fail_soon(&mut self, domain: u32) {
        let Some(known) = self.domains.get_mut(domain).filter(|known| !known.in_failing) else { return };
        known.in_failing = true;
        self.failing.push_back(domain);
    }

    /// The next ready row of a domain whose mail fails.
    pub(super) fn next_failing(&mut self, domain: u32) -> Option<u32> {
        let known = self.domains.get(domain).filter(|known| known.hosts == Hosts::Never)?;
        known.flows.iter().find_map(|flow| self.flows[*flow].ready.first().copied())
    }

    /// What was known is too old.
    pub(super) fn domain_alarm(&mut self, domain: u32, out: &mut Vec<Order>) {
        let Some(known) = self.domains.get_mut(domain) else { return };
        known.alarm = Timestamp::NEVER;
        if known.asked {
            return;
        }
        if known.flows.is_empty() {
            return self.let_go(domain, out);
        }
        let flows = &self.domains[domain].flows;
        if flows.iter().any(|flow| !self.flows[*flow].ready.is_empty()) {
            // Mail goes on to the hosts that are known until the answer is here.
            if self.domains[domain].hosts == Hosts::Never {
                self.domains[domain].hosts = Hosts::Unknown;
            }
            return self.ask(domain);
        }
        self.leave_target(domain, Hosts::Unknown, out);
    }

    /// Whether a flow stands where it can be served.
    pub(super) fn is_attached(&self, flow: u32) -> bool {
        self.flows[flow].lane != NONE
    }
}
