//! Why an envelope waits: the engine's answer, from what it would decide now.

use super::Engine;
use super::domain::Hosts;
use super::lane::{FlowKey, Via, place_of};
use super::meter::Haste;
use super::slab::{NONE, State};
use super::words::{Account, ConnectionHandle, Constraint, DomainHandle, Holder, Now, SiteHandle, SourceHandle, Unit};
use crate::mail::{QueueId, StreamKind};
use crate::time::Timestamp;

impl Engine {
    /// What keeps an envelope from going now, the binding constraint first. Empty: it is unknown.
    pub fn why(&self, now: Now, id: QueueId) -> Vec<Constraint> {
        let Some(slot) = self.rows.find(id) else { return Vec::new() };
        let row = &self.rows[slot];
        match row.state {
            State::Free => Vec::new(),
            State::Held => vec![Constraint::Held],
            State::Flying => vec![Constraint::Attempted(ConnectionHandle(row.place))],
            State::Ending | State::Dying => vec![Constraint::Ending],
            State::Later => {
                // What else would stand in its way is worth knowing: a throttle may outlast it.
                let mut all = vec![Constraint::NotDue(row.due)];
                all.extend(self.why_flow(now, row.flow).into_iter().filter(|c| !is_queueing(c)));
                all
            }
            State::Ready => self.why_flow(now, row.flow),
        }
    }

    /// Whether nothing would ever happen to an envelope that is not held: it is unknown, has no timer, is on a connection
    /// that is none, or stands in a line that nothing moves. Always false; the daemon counts it to be sure.
    pub fn is_stranded(&self, now: Now, id: QueueId) -> bool {
        let Some(slot) = self.rows.find(id) else { return true };
        let row = &self.rows[slot];
        match row.state {
            State::Free | State::Held => true,
            State::Flying => !self.links.contains_key(&row.place),
            State::Ending => self.ending == 0,
            State::Dying => self.dying.is_empty() && self.ending == 0,
            State::Later => row.timer == NONE,
            State::Ready => row.timer == NONE || self.is_line_still(now, row.flow),
        }
    }

    /// A line of ready mail in which nothing binds, and yet nobody is served or dialed, nor will be looked at again.
    fn is_line_still(&self, now: Now, flow: u32) -> bool {
        let FlowKey { domain, kind, .. } = self.flows[flow].key;
        let steady = self.steady_of(now);
        if self.is_shut(domain.0, kind) || self.site_at(domain).is_some_and(|site| self.sites[site].gate_at > steady) {
            return false;
        }
        let constraints = self.why_flow(now, flow);
        let only_in_line = constraints.iter().all(|constraint| matches!(constraint, Constraint::InLine(..)));
        let Some(Constraint::InLine(site, _)) = constraints.first().filter(|_| only_in_line) else {
            return constraints.is_empty();
        };
        self.sites[site.0].open == 0
    }

    /// The site that an envelope would go to, if its hosts are known.
    pub fn site_of(&self, id: QueueId) -> Option<SiteHandle> {
        let slot = self.rows.find(id)?;
        self.site_at(self.flows[self.rows[slot].flow].key.domain).map(SiteHandle)
    }

    fn site_at(&self, domain: DomainHandle) -> Option<u32> {
        match self.domains.get(domain.0)?.hosts {
            Hosts::Known(target) => Some(self.targets[target].site),
            Hosts::Unknown | Hosts::Failing(_) | Hosts::Never => None,
        }
    }

    /// The domains whose hosts are those of one of these sites. Walks over every domain: for an operator's question.
    pub fn domains_of(&self, sites: &[SiteHandle]) -> Vec<DomainHandle> {
        let at = |hosts: Hosts| match hosts {
            Hosts::Known(target) => sites.contains(&SiteHandle(self.targets[target].site)),
            Hosts::Unknown | Hosts::Failing(_) | Hosts::Never => false,
        };
        self.domains.iter().filter(|(_, domain)| at(domain.hosts)).map(|(domain, _)| DomainHandle(domain)).collect()
    }

    /// The windows of its own that keep a domain's mail from all its sources.
    fn why_shut_out(&self, key: &FlowKey) -> Vec<Constraint> {
        let via = self.via(key);
        let windows = |source: &SourceHandle| self.why_windows(*source, None, key.domain.0, (key.kind, Haste::Paced));
        let mut all = all_shut(self.sources(via).iter().map(windows).collect());
        // They opened, and that is looked at in a moment.
        if all.is_empty() && self.is_shut(key.domain.0, key.kind) {
            let (holder, unit) = (Holder::Domain(key.domain), Unit::Messages);
            all.push(Constraint::Reserving(Account { holder, source: None, unit }));
        }
        all
    }

    fn why_flow(&self, now: Now, flow: u32) -> Vec<Constraint> {
        let key = self.flows[flow].key;
        let Some(domain) = self.domains.get(key.domain.0) else { return Vec::new() };
        let target = match domain.hosts {
            // Nobody looks its hosts up before its own windows open.
            Hosts::Unknown if !domain.asked => {
                let shut = self.why_shut_out(&key);
                return if shut.is_empty() { vec![Constraint::Resolving(key.domain)] } else { shut };
            }
            Hosts::Unknown => return vec![Constraint::Resolving(key.domain)],
            Hosts::Failing(_) if domain.asked => return vec![Constraint::Resolving(key.domain)],
            Hosts::Failing(until) => return vec![Constraint::Unresolved(key.domain, self.at(until))],
            Hosts::Never => return vec![Constraint::Ending],
            Hosts::Known(target) => target,
        };
        let site = self.targets[target].site;
        let via = self.via(&key);
        let lane = self.targets[target].lanes.iter().find(|lane| self.lanes[**lane].via == via).copied();
        // A warming source that is left alone since a warm one has its mail stands for nothing here.
        let left_alone = |source: &SourceHandle| {
            key.kind == StreamKind::Transactional && self.is_kept_off_via(via, *source, site, key.kind)
        };
        let sources: Vec<SourceHandle> =
            self.sources(via).iter().copied().filter(|source| !left_alone(source)).collect();
        let mut all: Vec<Constraint> =
            sources.iter().filter_map(|source| self.why_source(now, *source, site, key.kind)).collect();
        // What an operator stopped waits for the operator, whatever else would open.
        if !all.is_empty() && sources.iter().all(|source| self.is_stopped(*source, site)) {
            all.dedup();
            return all;
        }
        // A full window binds whether or not there is a connection. All sources' windows must be shut for that.
        let haste = match (key.kind, lane) {
            (StreamKind::Transactional, Some(lane)) => Haste::Ahead(self.lanes[lane].waiting[place_of(key.kind)]),
            (StreamKind::Transactional | StreamKind::Marketing, _) => Haste::Paced,
        };
        let mut windows: Vec<Vec<Constraint>> = Vec::new();
        for source in &sources {
            windows.push(self.why_windows(*source, Some(site), key.domain.0, (key.kind, haste)));
        }
        let mut binding = all_shut(windows);
        if !binding.is_empty() {
            binding.extend(all);
            return binding;
        }
        if self.sources(via).is_empty() {
            return match via {
                Via::Pool(pool) | Via::Own(pool, _) => vec![Constraint::NoSource(pool)],
                Via::Source(_) => all,
            };
        }
        // A source that is free makes the others' constraints not binding.
        let some_source_is_free = all.len() < sources.len();
        if some_source_is_free {
            all.clear();
            let dialing = lane.is_some_and(|lane| self.lanes[lane].dialing != [0, 0]);
            if dialing {
                all.push(Constraint::Dialing(SiteHandle(site)));
            } else if self.sites[site].starved {
                all.push(Constraint::TotalConnections(self.rules.total_connections));
            }
            if self.first_dial > self.steady_of(now) {
                all.push(Constraint::Settling(self.at(self.first_dial)));
            }
        }
        if let Some(lane) = lane.filter(|_| self.is_attached(flow)) {
            all.push(Constraint::InLine(SiteHandle(site), self.lanes[lane].waiting[place_of(key.kind)]));
        }
        // Its windows opened, and that is looked at in a moment.
        if all.is_empty() && self.is_shut(key.domain.0, key.kind) {
            let (holder, unit) = (Holder::Domain(key.domain), Unit::Messages);
            all.push(Constraint::Reserving(Account { holder, source: None, unit }));
        }
        all
    }

    fn why_source(&self, now: Now, source: SourceHandle, site: u32, kind: StreamKind) -> Option<Constraint> {
        let (known, steady) = (&self.sites[site], self.steady_of(now));
        let path = known.path(source);
        let (handle, allowed) = (SiteHandle(site), known.allowed(source));
        if self.stopped.everywhere(source) {
            return Some(Constraint::Suspended(source));
        }
        if self.stopped.at(source, site) {
            return Some(Constraint::SuspendedAt(source, handle));
        }
        if let Some(until) = path.throttled(steady) {
            return Some(Constraint::Throttled(source, handle, self.at(until)));
        }
        if path.open >= allowed {
            let (open, limit) = (path.open, known.limits.of(source).connections);
            return Some(Constraint::Connections { source, site: handle, open, allowed, limit });
        }
        if known.is_full() {
            let (open, limit) = (known.open.min(u32::from(u16::MAX)) as u16, known.limits.total.connections);
            return Some(Constraint::SiteConnections { site: handle, open, limit });
        }
        if kind == StreamKind::Marketing
            && let Some((because, until)) = self.warmup_shut(source, known.provider)
            && let Some(view) = self.warming.get(&(source, known.provider)).map(|climb| climb.view())
        {
            let (stage, used, budget) = (view.stage, view.used, view.budget.unwrap_or(0));
            let provider = known.provider;
            return Some(Constraint::Warmup { source, provider, stage, used, budget, because, until });
        }
        let reserved = kind == StreamKind::Marketing && known.is_reserved(source, steady);
        reserved.then_some(Constraint::Reserved(source, handle))
    }
}

/// The windows of each source, if those of every one are shut: the one that opens first before the others, and of each
/// source what ends last.
fn all_shut(mut windows: Vec<Vec<Constraint>>) -> Vec<Constraint> {
    if windows.iter().any(Vec::is_empty) {
        return Vec::new();
    }
    windows.iter_mut().for_each(|shut| shut.sort_by_key(|constraint| std::cmp::Reverse(ends_at(constraint))));
    windows.sort_by_key(|shut| shut.first().map(ends_at));
    let mut binding: Vec<Constraint> = windows.into_iter().flatten().collect();
    binding.dedup();
    binding
}

fn ends_at(constraint: &Constraint) -> Timestamp {
    match constraint {
        Constraint::Window { until, .. } | Constraint::Slowed(.., until) => *until,
        _ => Timestamp::ZERO,
    }
}

/// Whether a constraint is about others before it, which says nothing about one that is not due.
fn is_queueing(constraint: &Constraint) -> bool {
    match constraint {
        Constraint::Connections { .. }
        | Constraint::Reserved(..)
        | Constraint::TotalConnections(_)
        | Constraint::Dialing(_)
        | Constraint::InLine(..)
        | Constraint::SiteConnections { .. }
        | Constraint::Reserving(_)
        | Constraint::Resolving(_) => true,
        Constraint::Held
        | Constraint::Attempted(_)
        | Constraint::Ending
        | Constraint::NotDue(_)
        | Constraint::Unresolved(..)
        | Constraint::NoSource(_)
        | Constraint::Suspended(_)
        | Constraint::SuspendedAt(..)
        | Constraint::Window { .. }
        | Constraint::Slowed(..)
        | Constraint::Warmup { .. }
        | Constraint::Settling(_)
        | Constraint::Throttled(..) => false,
    }
}
