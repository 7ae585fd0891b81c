//! The engine's part for peers' addresses: sites whose host sets overlap meet at one, and share its limits by time there.
//!
//! A peer counts by its address, whatever names led to it. As long as one site alone was connected to an address, the
//! site's own windows say all. When a second comes within their time, the address gets windows of its own, which begin
//! with all that either of them used; then both are charged there too. They are not written down: what a site used is,
//! and after a restart the address begins with that again.
//!
//! How many connections there are at once is `delivery`'s to count, since nobody knows before to which address a
//! connection will go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::gate::{Meters, Shut, rates};
use super::limits::SiteLimits;
use super::link::{Doing, Link};
use super::serve::ROTATE_AFTER;
use super::words::{ConnectionHandle, Handle, Order, PlaceHandle, SourceHandle, Unit};
use super::{Alarm, Engine};
use crate::time::Timestamp;

/// How soon one that found an address crowded tries again.
const CROWDED_WAIT: Duration = Duration::from_secs(1);
/// How long a site leaves the turn at an address to another.
const TURN: Duration = Duration::from_millis(1);
/// What is charged at an address.
pub(super) const UNITS: [Unit; 2] = [Unit::Messages, Unit::Recipients];

#[derive(Debug)]
pub(super) struct Place {
    sites: BTreeMap<u32, Visitor>,
    /// What was used here, for each of the limits that the sites have. Empty: one site alone was here.
    shared: Vec<(Arc<SiteLimits>, Meters)>,
    /// The site of the last grant.
    last: u32,
    /// When to look whether it can be forgotten.
    alarm: Timestamp,
}

/// A site that is or was connected to an address.
#[derive(Clone, Copy, Debug)]
struct Visitor {
    /// [`super::site::Site::made`]: a number goes to another site once its own is forgotten.
    made: u64,
    links: u32,
    /// Its use counts until then, by the steady clock, once its last connection ended.
    until: Timestamp,
}

impl Engine {
    /// A connection goes to this address.
    pub(super) fn arrived(&mut self, connection: ConnectionHandle, place: PlaceHandle) {
        let steady = self.steady();
        let Some(link) = self.links.get_mut(&connection.0).filter(|link| link.place.is_none()) else { return };
        link.place = Some(place);
        let site = link.site;
        let made = |site: u32| self.sites.get(site).map(|known| known.made);
        let new = || Place { sites: BTreeMap::new(), shared: Vec::new(), last: site, alarm: Timestamp::NEVER };
        let known = self.places.entry(place).or_insert_with(new);
        known
            .sites
            .retain(|site, visitor| (visitor.links > 0 || visitor.until > steady) && made(*site) == Some(visitor.made));
        let visitor = Visitor { made: made(site).unwrap_or_default(), links: 0, until: steady };
        known.sites.entry(site).or_insert(visitor).links += 1;
        self.fit_place(place);
    }

    /// The connection has ended.
    pub(super) fn left(&mut self, link: &Link, out: &mut Vec<Order>) {
        let steady = self.steady();
        let Some(place) = link.place else { return };
        let longest = self.sites.get(link.site).map_or(Duration::ZERO, |site| longest(&site.limits));
        let Some(known) = self.places.get_mut(&place) else { return };
        if let Some(visitor) = known.sites.get_mut(&link.site) {
            visitor.links = visitor.links.saturating_sub(1);
            visitor.until = steady.after(longest);
        }
        self.forget_place_if_unused(place, out);
    }

    /// Forgets an address to which nobody is connected, once no window reaches back to when somebody was.
    pub(super) fn forget_place_if_unused(&mut self, place: PlaceHandle, out: &mut Vec<Order>) {
        let steady = self.steady();
        let Some(known) = self.places.get_mut(&place) else { return };
        if known.sites.values().any(|visitor| visitor.links > 0) {
            return;
        }
        let until = known.sites.values().map(|visitor| visitor.until).max().unwrap_or(steady);
        let was = std::mem::replace(&mut known.alarm, Timestamp::NEVER);
        if until > steady {
            if let Some(known) = self.places.get_mut(&place) {
                known.alarm = until;
            }
            return self.arm(was, until, Alarm::Place(place));
        }
        self.arm(was, Timestamp::NEVER, Alarm::Place(place));
        self.places.remove(&place);
        out.push(Order::Forget(Handle::Place(place)));
    }

    pub(super) fn place_alarm(&mut self, place: PlaceHandle, out: &mut Vec<Order>) {
        if let Some(known) = self.places.get_mut(&place) {
            known.alarm = Timestamp::NEVER;
            self.forget_place_if_unused(place, out);
        }
    }

    /// The limits of a site changed.
    pub(super) fn fit_places_of(&mut self, site: u32) {
        let there = self.places.iter().filter(|(_, known)| known.sites.contains_key(&site));
        let all: Vec<PlaceHandle> = there.map(|(place, _)| *place).collect();
        all.into_iter().for_each(|place| self.fit_place(place));
    }

    /// Gives an address the windows of all its sites' limits, once there are two sites.
    fn fit_place(&mut self, place: PlaceHandle) {
        let Some(known) = self.places.get(&place) else { return };
        if known.sites.len() < 2 && known.shared.is_empty() {
            return;
        }
        let mut wanted: Vec<Arc<SiteLimits>> = Vec::new();
        for site in known.sites.keys().filter_map(|site| self.sites.get(*site)) {
            if !longest(&site.limits).is_zero() && !wanted.contains(&site.limits) {
                wanted.push(Arc::clone(&site.limits));
            }
        }
        let missing = wanted.iter().filter(|limits| known.shared.iter().all(|(other, _)| other != *limits));
        let made: Vec<_> = missing.map(|limits| (Arc::clone(limits), self.used_at(place, limits))).collect();
        if let Some(known) = self.places.get_mut(&place) {
            known.shared.extend(made);
            known.shared.retain(|(limits, _)| wanted.contains(limits));
        }
    }

    /// What was used at an address, as windows of these limits: all that its sites used, wherever they used it.
    fn used_at(&self, place: PlaceHandle, limits: &Arc<SiteLimits>) -> Meters {
        let now = self.steady();
        let mut meters = Meters::unkept(self.started);
        let sites = self.places.get(&place).into_iter().flat_map(|known| known.sites.keys());
        for site in sites.filter_map(|site| self.sites.get(*site)) {
            let sources = site.sources().into_iter().map(Some).chain([None]);
            for source in sources {
                UNITS.iter().for_each(|unit| meters.absorb(limits, source, *unit, (&site.limits, &site.meters), now));
            }
        }
        for link in self.links.values().filter(|link| link.place == Some(place)) {
            let Some(charge) = link.charge else { continue };
            for (unit, count) in UNITS.iter().zip([1, u32::from(charge.recipients)]) {
                meters.passed(limits, link.source, *unit, |meter| meter.take(now, count));
            }
        }
        meters
    }

    /// How many recipients of a transaction the address of a connection takes now.
    pub(super) fn pass_place(
        &mut self,
        link: &Link,
        take: impl Fn(&mut Meters, &SiteLimits) -> Result<u32, Shut>,
    ) -> Result<u32, Shut> {
        let Some(place) = link.place else { return Ok(u32::MAX) };
        if self.is_anothers_turn(place, link.site) {
            return Err(Shut::Until(self.steady().after(TURN)));
        }
        let Some(known) = self.places.get_mut(&place) else { return Ok(u32::MAX) };
        let mut all = known.shared.iter_mut();
        all.try_fold(u32::MAX, |least, (limits, meters)| Ok(least.min(take(meters, limits)?)))
    }

    /// Whether another site waits for what this one had last: else the first to look would always have it.
    fn is_anothers_turn(&self, place: PlaceHandle, site: u32) -> bool {
        let Some(known) = self.places.get(&place).filter(|known| !known.shared.is_empty()) else { return false };
        let now = self.steady();
        let waits = |other: &u32| {
            self.sites.get(*other).is_some_and(|other| {
                let here = |number: &u32| self.links.get(number).is_some_and(|link| link.place == Some(place));
                other.gate_at <= now && other.gated.iter().any(here)
            })
        };
        known.last == site && known.sites.keys().any(|other| *other != site && waits(other))
    }

    /// Does something to the meters that a connection's mail passes at its address.
    pub(super) fn each_meter_at(
        &mut self,
        place: Option<PlaceHandle>,
        source: SourceHandle,
        mut visit: impl FnMut(Unit, &mut super::meter::Meter),
    ) {
        let Some(known) = place.and_then(|place| self.places.get_mut(&place)) else { return };
        for (limits, meters) in &mut known.shared {
            UNITS.iter().for_each(|unit| meters.passed(limits, source, *unit, |meter| visit(*unit, meter)));
        }
    }

    /// A site was granted something at an address.
    pub(super) fn had_turn(&mut self, link: &Link) {
        if let Some(known) = link.place.and_then(|place| self.places.get_mut(&place)) {
            known.last = link.site;
        }
    }

    /// The windows of a site's connections at addresses that it shares: for `why`.
    pub(super) fn meters_at(&self, site: u32, source: SourceHandle) -> impl Iterator<Item = (PlaceHandle, &Meters)> {
        let there = self.links.values().filter(move |link| link.site == site && link.source == source);
        let mut places: Vec<PlaceHandle> = there.filter_map(|link| link.place).collect();
        places.sort();
        places.dedup();
        let known = places.into_iter().filter_map(|place| Some((place, self.places.get(&place)?)));
        known.flat_map(|(place, known)| known.shared.iter().map(move |(_, meters)| (place, meters)))
    }

    /// A connection found all places of its hosts' addresses taken by other sites' connections: it is tried again soon, and
    /// one of these makes room.
    pub(super) fn crowded(&mut self, connection: ConnectionHandle, place: PlaceHandle, out: &mut Vec<Order>) {
        let Some(link) = self.links.get(&connection.0).copied().filter(|link| link.doing != Doing::Closing) else {
            return;
        };
        self.end_dial(connection.0);
        let until = self.steady().after(CROWDED_WAIT);
        self.sites[link.site].path_mut(link.source).wait(until);
        self.arm_site(link.site);
        self.close(connection.0, out);
        let others = self.links.iter().filter(|(_, other)| {
            other.place == Some(place) && other.site != link.site && other.doing != Doing::Closing
        });
        let Some((number, other)) = others.max_by_key(|(number, other)| (other.done, **number)) else { return };
        match (*number, other.doing) {
            (number, Doing::Idle(_)) => self.close(number, out),
            (number, _) => {
                if let Some(other) = self.links.get_mut(&number) {
                    other.most = other.most.min(other.done.saturating_add(1).max(ROTATE_AFTER));
                }
            }
        }
    }
}

/// The longest window of what is charged at an address.
fn longest(limits: &SiteLimits) -> Duration {
    let all = limits.sources.iter().map(|(_, limits)| limits).chain([&limits.each, &limits.total]);
    let windows = all.flat_map(|limits| UNITS.iter().flat_map(|unit| rates(limits, *unit).iter()));
    windows.map(|rate| rate.per).max().unwrap_or(Duration::ZERO)
}
