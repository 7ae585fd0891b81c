//! The engine's part for targets and sites: what is shared, what is known of each source there, and when it is forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::domain::Hosts;
use super::gate::Meters;
use super::lane::{FlowKey, Lane, Via, place_of};
use super::limits::SiteLimits;
use super::path::Path;
use super::react::SiteStrikes;
use super::slab::NONE;
use super::words::{Handle, Holder, Kept, Order, ProviderHandle, SiteHandle, SourceHandle, TargetHandle, Unit};
use super::{Alarm, Engine};
use crate::time::Timestamp;

/// How long after its last transactional message a site keeps marketing from taking its last slot.
pub const RESERVE_FOR: Duration = Duration::from_secs(600);
/// How long an unused site is remembered: its windows, and that it took mail. One that refused us: a day.
const REMEMBERED: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Target {
    pub site: u32,
    /// Domains whose hosts these are.
    pub domains: u32,
    /// Connections.
    pub links: u32,
    pub lanes: Vec<u32>,
    /// Idle connections, and their sources.
    pub idle: Vec<(SourceHandle, u32)>,
}

#[derive(Debug)]
pub(super) struct Site {
    /// Tells it from one that had its number before.
    pub made: u64,
    pub limits: Arc<SiteLimits>,
    /// Whose reputation counts here.
    pub provider: ProviderHandle,
    /// What was used of its windows.
    pub meters: Meters,
    /// Idle connections that wait for a window, and when to look again.
    pub gated: Vec<u32>,
    pub gate_at: Timestamp,
    targets: u32,
    pub open: u32,
    paths: Vec<(SourceHandle, Path)>,
    /// Lanes that want connections, by kind.
    pub hungry: [VecDeque<u32>; 2],
    /// It took a message.
    pub proven: bool,
    /// It stands in the line of the starved.
    pub starved: bool,
    /// Transactional grants since the last to marketing.
    pub since_marketing: u8,
    /// Transactional dials since the last for marketing.
    pub dials: u8,
    transactional_at: Timestamp,
    used_at: Timestamp,
    alarm: Timestamp,
    /// Replies that are counted toward a rule's trigger.
    pub strikes: SiteStrikes,
}

impl Site {
    fn new(made: u64, limits: Arc<SiteLimits>, meters: Meters, now: Timestamp) -> Site {
        Site {
            made,
            limits,
            provider: ProviderHandle::default(),
            meters,
            gated: Vec::new(),
            gate_at: Timestamp::NEVER,
            targets: 0,
            open: 0,
            paths: Vec::new(),
            hungry: [VecDeque::new(), VecDeque::new()],
            proven: false,
            starved: false,
            since_marketing: 0,
            dials: 0,
            transactional_at: Timestamp::ZERO,
            used_at: now,
            alarm: Timestamp::NEVER,
            strikes: SiteStrikes::default(),
        }
    }

    pub fn path(&self, source: SourceHandle) -> &Path {
        const NEW: &Path = &Path::NEW;
        self.paths.iter().find(|(other, _)| *other == source).map_or(NEW, |(_, path)| path)
    }

    /// The state of a source here, made if it is still the default one.
    pub fn path_mut(&mut self, source: SourceHandle) -> &mut Path {
        let place = match self.paths.iter().position(|(other, _)| *other == source) {
            Some(place) => place,
            None => {
                self.paths.reserve_exact(1);
                self.paths.push((source, Path::default()));
                self.paths.len() - 1
            }
        };
        &mut self.paths[place].1
    }

    /// Sources that were used here.
    pub fn sources(&self) -> BTreeSet<SourceHandle> {
        let used = self.meters.uses().filter_map(|(source, ..)| source);
        self.paths.iter().map(|(source, _)| *source).chain(used).collect()
    }

    pub fn allowed(&self, source: SourceHandle) -> u16 {
        self.path(source).allowed(self.limits.of(source).connections)
    }

    /// Whether all sources together have all connections that there may be.
    pub fn is_full(&self) -> bool {
        self.open >= u32::from(self.limits.total.connections.max(1))
    }

    /// See [`Path::end_pause`].
    pub fn end_pauses(&mut self) {
        self.paths.iter_mut().for_each(|(_, path)| path.end_pause());
    }

    /// Whether marketing would take the last slot that transactional mail may need in a moment.
    pub fn is_reserved(&self, source: SourceHandle, now: Timestamp) -> bool {
        let allowed = self.allowed(source);
        let recent = self.transactional_at != Timestamp::ZERO && now.since(self.transactional_at) < RESERVE_FOR;
        recent && allowed >= 2 && self.path(source).marketing + 1 >= allowed
    }

    fn next_end_of_throttle(&self, now: Timestamp) -> Option<Timestamp> {
        self.paths.iter().filter_map(|(_, path)| path.throttled(now)).min()
    }
}

/// A source at a site, as listings show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathView {
    /// The source.
    pub source: SourceHandle,
    /// Connections from dial to EOF.
    pub open: u16,
    /// Allowed now by feedback.
    pub allowed: u16,
    /// Allowed by the limits.
    pub limit: u16,
    /// Refused until then.
    pub throttled: Option<Timestamp>,
    /// Deliveries on a connection, as learned.
    pub deliveries: Option<u32>,
    /// Messages by time, as learned, and how many of them are used.
    pub slowed: Option<(u32, super::limits::Rate)>,
    /// The number of the rule that lowered something last; 0: none.
    pub rule: u16,
}

/// A window's use, as listings show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UseView {
    /// Of which source; `None`: of all together.
    pub source: Option<SourceHandle>,
    /// What is counted.
    pub unit: Unit,
    /// Now.
    pub used: u32,
    /// Of so many, in such a time.
    pub rate: super::limits::Rate,
}

/// A site, as listings show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteView {
    /// Which.
    pub site: SiteHandle,
    /// Its targets, for their hosts.
    pub targets: Vec<TargetHandle>,
    /// Its limits.
    pub limits: Arc<SiteLimits>,
    /// What is used of its windows: of a source, or of all together (`None`).
    pub uses: Vec<UseView>,
    /// Connections of all sources.
    pub open: u32,
    /// Envelopes that are due and wait: transactional, marketing.
    pub waiting: [u32; 2],
    /// All envelopes of the domains whose hosts these are, whatever they wait for: transactional, marketing.
    pub queued: [u32; 2],
    /// Of these, those that each source may carry. What several may carry is counted for each.
    pub carried: Vec<(SourceHandle, [u32; 2])>,
    /// Whether it took a message since it is known.
    pub proven: bool,
    /// Sources whose state differs from the default, or that have something to carry.
    pub paths: Vec<PathView>,
}

/// What is queued for a site: transactional, marketing.
#[derive(Default)]
struct Queued {
    all: [u32; 2],
    /// By the sources that may carry it.
    by_source: BTreeMap<SourceHandle, [u32; 2]>,
}

impl Engine {
    /// All sites that are known, for a listing.
    pub fn sites(&self) -> Vec<SiteView> {
        let slots = self.sites.slots() as usize;
        let (mut waiting, mut targets_of) = (vec![[0u32; 2]; slots], vec![Vec::new(); slots]);
        for (slot, target) in self.targets.iter() {
            targets_of[target.site as usize].push(TargetHandle(slot));
            for lane in &target.lanes {
                let sums = waiting[target.site as usize].iter_mut();
                sums.zip(self.lanes[*lane].waiting).for_each(|(sum, waiting)| *sum += waiting);
            }
        }
        let mut queued = self.queued_by_site(slots);
        let view = |(slot, site): (u32, &Site)| SiteView {
            site: SiteHandle(slot),
            targets: std::mem::take(&mut targets_of[slot as usize]),
            limits: Arc::clone(&site.limits),
            uses: site.meters.uses().flat_map(|(source, unit, meter)| uses_of(source, unit, meter)).collect(),
            open: site.open,
            waiting: waiting[slot as usize],
            queued: queued[slot as usize].all,
            proven: site.proven,
            paths: {
                let carried = queued[slot as usize].by_source.keys().copied();
                let known: BTreeSet<SourceHandle> =
                    site.paths.iter().map(|(source, _)| *source).chain(carried).collect();
                known.into_iter().map(|source| self.path_view(site, source, site.path(source))).collect()
            },
            carried: std::mem::take(&mut queued[slot as usize].by_source).into_iter().collect(),
        };
        self.sites.iter().map(view).collect()
    }

    /// The limits of a site.
    pub fn limits_of(&self, site: SiteHandle) -> Option<&SiteLimits> {
        self.sites.get(site.0).map(|site| &*site.limits)
    }

    /// What is queued for each site.
    fn queued_by_site(&self, slots: usize) -> Vec<Queued> {
        let mut sites: Vec<Queued> = std::iter::repeat_with(Queued::default).take(slots).collect();
        for (_, flow) in self.flows.iter() {
            let Some(Hosts::Known(target)) = self.domains.get(flow.key.domain.0).map(|domain| domain.hosts) else {
                continue;
            };
            let (queued, place) = (&mut sites[self.targets[target].site as usize], place_of(flow.key.kind));
            queued.all[place] += flow.rows;
            // A source stands in its pool as often as its weight says.
            let sources: BTreeSet<SourceHandle> = self.sources(self.via(&flow.key)).iter().copied().collect();
            for source in sources {
                queued.by_source.entry(source).or_insert([0; 2])[place] += flow.rows;
            }
        }
        sites
    }

    fn path_view(&self, site: &Site, source: SourceHandle, path: &Path) -> PathView {
        let limit = site.limits.of(source).connections;
        let allowed = path.allowed(limit);
        let slowed = site.meters.lesson(source).and_then(|(_, meter)| meter.uses().next());
        PathView {
            source,
            open: path.open,
            allowed,
            limit,
            throttled: path.throttled(self.steady()).map(|until| self.at(until)),
            deliveries: path.most(),
            slowed,
            rule: path.because,
        }
    }

    /// A look-up says that a target belongs to a site. One that moves to another takes its lanes along.
    pub(super) fn site_is(&mut self, target: u32, site: SiteHandle, limits: Arc<SiteLimits>, kept: &[Kept]) {
        let now = self.steady();
        match self.sites.get_mut(site.0) {
            None => {
                let mut meters = Meters::new(self.started);
                meters.restore(Holder::Site(site), &limits, kept, now);
                self.sites_made += 1;
                self.sites.insert_at(site.0, Site::new(self.sites_made, limits, meters, now));
                self.recall(site, kept);
            }
            Some(known) if known.limits != limits => {
                known.meters.change(&known.limits, &limits, now);
                known.limits = limits;
                self.fit_places_of(site.0);
            }
            Some(_) => {}
        }
        self.sites[site.0].used_at = now;
        match self.targets.get(target).map(|known| known.site) {
            None => {
                let new = Target { site: site.0, domains: 0, links: 0, lanes: Vec::new(), idle: Vec::new() };
                self.targets.insert_at(target, new);
                self.sites[site.0].targets += 1;
            }
            Some(old) if old != site.0 => {
                // Connections stay charged where they were dialed until their EOF.
                self.targets[target].site = site.0;
                self.sites[site.0].targets += 1;
                self.sites[old].targets -= 1;
                for place in 0..self.targets[target].lanes.len() {
                    let lane = self.targets[target].lanes[place];
                    self.unqueue(lane, old);
                    self.queue_if_hungry(lane);
                }
                self.arm_site(old);
            }
            Some(_) => {}
        }
    }

    /// What earlier runs learned here.
    fn recall(&mut self, site: SiteHandle, kept: &[Kept]) {
        let (now, skew) = (self.steady(), self.skew_ms);
        for kept in kept.iter().filter(|kept| kept.account.holder == Holder::Site(site)) {
            if let (Unit::Lesson, Some(source)) = (kept.account.unit, kept.account.source) {
                self.sites[site.0].path_mut(source).restore(&kept.bytes, now, -skew);
                self.hold_to_lesson(site.0, source, true);
            }
        }
    }

    pub(super) fn release_target(&mut self, target: u32, out: &mut Vec<Order>) {
        self.targets[target].domains -= 1;
        self.forget_target_if_unused(target, out);
    }

    pub(super) fn forget_target_if_unused(&mut self, target: u32, out: &mut Vec<Order>) {
        let Some(known) = self.targets.get(target).filter(|known| known.domains == 0 && known.links == 0) else {
            return;
        };
        let site = known.site;
        for place in 0..self.targets[target].lanes.len() {
            let lane = self.targets[target].lanes[place];
            self.lanes[lane].target = NONE;
            // One that stands in line is forgotten when its turn comes.
            if self.lanes[lane].is_orphan() {
                self.lanes.take(lane);
            }
        }
        self.targets.take_at(target);
        self.sites[site].targets -= 1;
        self.sites[site].used_at = self.steady();
        self.arm_site(site);
        out.push(Order::Forget(Handle::Target(TargetHandle(target))));
    }

    fn unqueue(&mut self, lane: u32, site: u32) {
        for kind in 0..2 {
            if std::mem::take(&mut self.lanes[lane].queued[kind]) {
                self.sites[site].hungry[kind].retain(|other| *other != lane);
            }
        }
    }

    pub(super) fn saw_transactional(&mut self, domain: u32) {
        let Some(super::domain::Hosts::Known(target)) = self.domains.get(domain).map(|known| known.hosts) else {
            return;
        };
        let site = self.targets[target].site;
        self.sites[site].transactional_at = self.steady();
    }

    pub(super) fn granted_transactional(&mut self, site: u32) {
        self.sites[site].transactional_at = self.steady();
    }

    /// Whose sources carry a flow: those of its pool, or the one that its last 4xx came over, while that is usable.
    pub(super) fn via(&self, key: &FlowKey) -> Via {
        match key.source {
            Some(source)
                if self.sources(Via::Pool(key.pool)).contains(&source) && !self.is_stopped_for(source, key) =>
            {
                Via::Source(source)
            }
            Some(_) | None => self.via_pool(key),
        }
    }

    fn via_pool(&self, key: &FlowKey) -> Via {
        let own = self.domains.get(key.domain.0).and_then(|known| known.own.as_deref());
        if own.is_none_or(|own| !own.is_by_source()) {
            return Via::Pool(key.pool);
        }
        let sources = self.sources(Via::Pool(key.pool));
        match sources.iter().any(|source| Some(source) != sources.first()) {
            true => Via::Own(key.pool, key.domain),
            false => Via::Pool(key.pool),
        }
    }

    pub(super) fn sources(&self, via: Via) -> Sources {
        match via {
            Via::Pool(pool) | Via::Own(pool, _) => Sources::Pool(self.rules.pools.clone(), usize::from(pool.0)),
            Via::Source(source) => Sources::One([source]),
        }
    }

    pub(super) fn lane_for(&mut self, target: u32, via: Via) -> u32 {
        let found = self.targets[target].lanes.iter().find(|lane| self.lanes[**lane].via == via);
        if let Some(lane) = found {
            return *lane;
        }
        let lane = self.lanes.insert(Lane::new(target, via));
        self.targets[target].lanes.reserve_exact(1);
        self.targets[target].lanes.push(lane);
        lane
    }

    /// Sets the one alarm of a site: the end of a throttle, or the time to forget it.
    pub(super) fn arm_site(&mut self, slot: u32) {
        let now = self.steady();
        let site = &mut self.sites[slot];
        let forget = (site.targets == 0 && site.open == 0).then(|| site.used_at.max(now).after(REMEMBERED));
        let soonest = [site.next_end_of_throttle(now), Some(site.gate_at)].into_iter().flatten().min();
        let soonest = soonest.filter(|at| *at != Timestamp::NEVER);
        let at = soonest.or(forget).unwrap_or(Timestamp::NEVER);
        let was = std::mem::replace(&mut site.alarm, at);
        self.arm(was, at, Alarm::Site(slot));
    }

    pub(super) fn site_alarm(&mut self, slot: u32, out: &mut Vec<Order>) {
        let now = self.steady();
        let Some(site) = self.sites.get_mut(slot) else { return };
        site.alarm = Timestamp::NEVER;
        for (source, _) in site.paths.iter().filter(|(_, path)| path.is_forgettable(now)) {
            site.meters.learn(*source, None, false, now);
        }
        site.paths.retain(|(_, path)| !path.is_forgettable(now));
        let unused = site.targets == 0 && site.open == 0 && now.since(site.used_at) >= REMEMBERED;
        if unused && site.paths.is_empty() && !site.starved && site.meters.is_idle(now) {
            let lines = self.sites.take_at(slot).map(|site| site.hungry).unwrap_or_default();
            for lane in lines.into_iter().flatten() {
                self.lanes.take(lane);
            }
            out.push(Order::Forget(Handle::Site(SiteHandle(slot))));
            return;
        }
        match self.sites[slot].gate_at <= now {
            true => self.open_site(slot, out),
            false => {
                self.arm_site(slot);
                self.feed(slot, out);
            }
        }
    }
}

fn uses_of(
    source: Option<SourceHandle>,
    unit: Unit,
    meter: &super::meter::Meter,
) -> impl Iterator<Item = UseView> + use<'_> {
    meter.uses().map(move |(used, rate)| UseView { source, unit, used, rate })
}

/// The sources of a lane, cheap to hold while the engine changes.
pub(super) enum Sources {
    Pool(std::sync::Arc<[Box<[SourceHandle]>]>, usize),
    One([SourceHandle; 1]),
}

impl std::ops::Deref for Sources {
    type Target = [SourceHandle];
    fn deref(&self) -> &[SourceHandle] {
        match self {
            Sources::Pool(pools, pool) => pools.get(*pool).map_or(&[], |sources| sources),
            Sources::One(source) => source,
        }
    }
}

/// No lane: a connection that was not dialed for one that still exists.
pub(super) const NO_LANE: u32 = NONE;
