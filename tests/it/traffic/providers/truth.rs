//! Is what `why` says true? Each constraint against what the world knows.

use postrider::mail::QueueId;
use postrider::time::Timestamp;
use postrider::traffic::{Bound, Constraint, Holder, SourceHandle};

use super::super::world::{Known, World};
use super::town::Town;

/// What binds every envelope that waits is true now. The engine has just heard of this moment.
pub fn check(world: &World, town: &Town, most: usize) {
    let step = (world.waiting.len() / most.max(1)).max(1);
    for (id, known) in world.waiting.iter().step_by(step) {
        let all = world.engine.why(world.now, *id);
        let Some(binding) = all.first() else {
            panic!("nobody knows why {known:?} waits");
        };
        assert!(
            is_true(world, town, *id, known, binding),
            "{binding:?} is not true of {known:?} at {:?}: {all:?}",
            world.now
        );
    }
}

fn is_true(world: &World, town: &Town, id: QueueId, known: &Known, constraint: &Constraint) -> bool {
    let now = world.now;
    let aim = world.aims.get(&known.put.domain.0);
    let books = &town.accountant;
    let open = |site: u32, source: SourceHandle| {
        world.connections.values().filter(|link| link.site == site && link.source == source).count()
    };
    let here = |site: u32| aim.is_some_and(|aim| aim.site == site);
    match *constraint {
        Constraint::Held => known.put.held,
        Constraint::Attempted(connection) => {
            known.flying && world.connections.get(&connection.0).is_some_and(|link| link.carrying == Some(id))
        }
        Constraint::Ending => now >= known.deadline,
        Constraint::NotDue(until) => known.due > now && until == known.due,
        Constraint::Resolving(domain) => domain == known.put.domain && (aim.is_none() || world.is_looking(domain.0)),
        Constraint::Unresolved(domain, until) => {
            domain == known.put.domain && world.lost.contains(&domain.0) && until > now
        }
        Constraint::NoSource(pool) => world.rules.pools[usize::from(pool.0)].is_empty(),
        Constraint::Suspended(source) => world.stopped_sources.contains(&source),
        Constraint::SuspendedAt(source, site) => here(site.0) && world.is_stopped(site.0, source),
        Constraint::Throttled(source, site, until) => {
            here(site.0) && until > now && books.troubled.contains(&(site.0, source))
        }
        Constraint::Connections { source, site, open: said, allowed, limit } => {
            let config = books.limits_of(site.0).map(|limits| limits.of(source).connections);
            let is_open = usize::from(said) == open(site.0, source);
            here(site.0) && is_open && said >= allowed && allowed <= limit.max(1) && config == Some(limit)
        }
        Constraint::SiteConnections { site, open: said, limit } => {
            let all = world.connections.values().filter(|link| link.site == site.0).count();
            here(site.0) && usize::from(said) == all && said >= limit
        }
        Constraint::Window { account, rate, used, bound, until } => {
            let exact = books.used(world.real, account, rate.per);
            let is_ours = match account.holder {
                Holder::Site(site) => here(site.0),
                Holder::Domain(domain) => domain == known.put.domain,
                Holder::Provider(_) | Holder::All | Holder::Place(_) => false,
            };
            let is_full = bound == Bound::Paced || used >= rate.count;
            is_ours && is_full && u64::from(used) >= exact.min(rate.count.into()) && until > now
        }
        Constraint::Slowed(source, site, _, until) => {
            here(site.0) && until > now && books.troubled.contains(&(site.0, source))
        }
        Constraint::Warmup { source, stage, used, budget, until, .. } => {
            let warms = world.rules.warming.get(usize::from(source.0)).is_some_and(Option::is_some);
            warms
                && used <= budget.max(used)
                && usize::from(stage) < books.ladder.len()
                && until.is_none_or(|at| at > now)
        }
        Constraint::Reserving(_) => world.disk.is_some(),
        Constraint::Settling(until) => until > now && world.rules.first_dial > Timestamp::ZERO,
        Constraint::Reserved(source, site) => here(site.0) && open(site.0, source) > 0,
        Constraint::TotalConnections(most) => {
            let quarter = (most.max(1) / 4).max(1) as usize;
            let few = aim.is_some_and(|aim| !books.is_proven(aim.site)) && books.unproven(world) >= quarter;
            most == world.rules.total_connections && (world.connections.len() >= most as usize || few)
        }
        Constraint::Dialing(site) => {
            here(site.0) && world.connections.values().any(|link| link.site == site.0 && !link.connected)
        }
        Constraint::InLine(site, count) => here(site.0) && count > 0 && count as usize <= world.waiting.len(),
    }
}
