//! A random town: who delivers to whom under which limits, and the accountant between them and the engine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::Signal;
use postrider::time::{Timestamp, Zone};
use postrider::traffic::warmup::{Curve, SendHours, Steps};
use postrider::traffic::{
    Account, Handle, Limits, ProviderHandle, Put, Rate, Rates, Rules, SiteLimits, SourceHandle, Warming,
};

use super::super::world::{Aim, Answer, Call, Greeting, Known, Peers, Place, START, Temper, World, secs};
use super::accountant::Accountant;
use super::provider::{Hidden, Outage, Provider, STYLES, Style};

/// A mistake that is made on purpose, so that somebody must see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// The engine reads every window one larger than it is.
    WindowOffByOne,
    /// It hears that a slot is free when it said QUIT; the peer hangs up later.
    SlotFreeAtQuit,
    /// Marketing may have one grant in nine; that is what an engine would do whom one in ten is too few.
    MarketingOneInNine,
    /// Each stage of a ladder is one message higher than it should be.
    LadderOffByOne,
    /// What is said to be durable is not.
    ForgetfulDisk,
    /// Nobody tells the engine that the clock was set.
    UntoldClock,
    /// It believes that there may be four times as many connections in all.
    QuarterForgotten,
}

/// How a world is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Making {
    /// Windows and connections are configured.
    pub limits: bool,
    pub warmup: bool,
    /// Peers have troubles of their own.
    pub trouble: bool,
    pub mistake: Option<Mistake>,
}

pub struct Site {
    pub provider: u16,
    pub limits: Arc<SiteLimits>,
}

pub struct Domain {
    pub target: u32,
    pub own: Option<Arc<SiteLimits>>,
}

pub struct Town {
    random: fastrand::Rng,
    pub making: Making,
    pub providers: Vec<Provider>,
    pub sites: Vec<Site>,
    /// The site of each host set.
    pub targets: Vec<u32>,
    pub domains: Vec<Domain>,
    pub names_are_down: bool,
    /// When the config was read last, and when names were down last.
    pub reloaded_at: Timestamp,
    pub names_down_at: Timestamp,
    pub accountant: Accountant,
    /// What look-ups under way found.
    found: BTreeMap<u32, (Arc<SiteLimits>, Option<Arc<SiteLimits>>)>,
}

/// The town, shared between the world and whoever changes it.
pub struct Shared(pub Rc<RefCell<Town>>);

pub const LADDER: [u32; 4] = [12, 25, 60, 150];

fn some<T>(random: &mut fastrand::Rng, one_in: u8, make: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
    (random.u8(0..one_in) == 0).then(|| make(random))
}

fn one<T: Copy>(random: &mut fastrand::Rng, all: &[T]) -> T {
    all[random.usize(0..all.len())]
}

fn windows(random: &mut fastrand::Rng, scale: u32) -> Rates {
    const LENGTHS: [u64; 8] = [1, 2, 5, 10, 30, 60, 600, 3600];
    let mut all: Vec<Rate> = Vec::new();
    for _ in 0..random.usize(1..4) {
        let per = secs(one(random, &LENGTHS));
        let count = scale * random.u32(1..=20);
        if all.iter().all(|rate| rate.per != per) {
            all.push(Rate { count, per });
        }
    }
    Rates::new(&all).unwrap()
}

fn limits_of_one(random: &mut fastrand::Rng) -> Limits {
    Limits {
        connections: one(random, &[1, 2, 3, 5, 20]),
        deliveries: some(random, 3, |random| random.u32(1..30)),
        new_connections: some(random, 4, |random| windows(random, 1)).unwrap_or_default(),
        messages: some(random, 2, |random| windows(random, 1)).unwrap_or_default(),
        recipients: some(random, 3, |random| windows(random, 4)).unwrap_or_default(),
    }
}

pub fn limits(random: &mut fastrand::Rng, making: Making) -> Arc<SiteLimits> {
    if !making.limits || random.u8(0..5) == 0 {
        return Arc::new(SiteLimits::default());
    }
    let mut all = SiteLimits::of_each(limits_of_one(random));
    if random.u8(0..4) == 0 {
        all.sources = Box::new([(SourceHandle(random.u16(0..3)), limits_of_one(random))]);
    }
    if random.u8(0..3) == 0 {
        all.total = Limits { deliveries: None, ..limits_of_one(random) };
    }
    Arc::new(all)
}

pub fn own_limits(random: &mut fastrand::Rng, making: Making) -> Option<Arc<SiteLimits>> {
    if !making.limits || random.u8(0..8) > 0 {
        return None;
    }
    let limits = |random: &mut fastrand::Rng| Limits { messages: windows(random, 1), ..Limits::NONE };
    let mut all = SiteLimits::of_each(Limits::NONE);
    match random.u8(0..4) {
        0 => all.each = limits(random),
        1 => all.sources = Box::new([(SourceHandle(random.u16(0..3)), limits(random))]),
        _ => all.total = limits(random),
    }
    Some(Arc::new(all))
}

fn hidden(random: &mut fastrand::Rng, making: Making) -> Hidden {
    let least = random.u64(2..200);
    let mut hidden = Hidden { takes_ms: (least, least + random.u64(0..400)), ..Hidden::default() };
    if !making.trouble {
        return hidden;
    }
    hidden.cap = some(random, 3, |random| random.u16(1..8));
    for _ in 0..random.usize(0..3) {
        let per = one(random, &[1, 60, 3600]);
        hidden.rates.push((random.usize(1..60), secs(per)));
    }
    hidden.deliveries = some(random, 4, |random| random.u32(1..20));
    hidden.greylist = some(random, 5, |random| secs(random.u64(1..900)));
    hidden.distrust = some(random, 5, |random| f64::from(random.u32(5..100)));
    hidden.trouble = one(random, &[0, 0, 5, 40]);
    hidden.tarpit = some(random, 8, |random| Duration::from_millis(random.u64(500..20_000))).unwrap_or_default();
    for _ in 0..random.usize(0..3) {
        let from = START.after(secs(random.u64(0..20_000)));
        let outage = one(random, &[Outage::Silent, Outage::Closed, Outage::Greets, Outage::Defers]);
        hidden.outages.push((from, from.after(secs(random.u64(10..10_000))), outage));
    }
    hidden
}

/// Sources of pools; each pool has one at least.
pub fn pools(random: &mut fastrand::Rng, sources: u16, pools: usize) -> Arc<[Box<[SourceHandle]>]> {
    let pool = |_| {
        let mut all: Vec<SourceHandle> = (0..sources).map(SourceHandle).filter(|_| random.bool()).collect();
        if all.is_empty() {
            all.push(SourceHandle(random.u16(0..sources)));
        }
        random.shuffle(&mut all);
        all.into_boxed_slice()
    };
    (0..pools).map(pool).collect::<Vec<_>>().into()
}

fn warming(random: &mut fastrand::Rng, sources: u16, making: Making) -> Arc<[Option<Arc<Warming>>]> {
    if !making.warmup {
        return Arc::default();
    }
    let more = u32::from(making.mistake == Some(Mistake::LadderOffByOne));
    let table = LADDER.iter().map(|count| count + more).collect();
    let curve = Arc::new(Curve::new(&Steps::Table(table), 3).unwrap());
    let warms = Warming { curve, providers: Box::default(), zone: Zone::UTC, hours: SendHours::ALL };
    let warms = Arc::new(warms);
    (0..sources).map(|_| random.bool().then(|| Arc::clone(&warms))).collect::<Vec<_>>().into()
}

/// A new world, and its town.
pub fn found(seed: u64, making: Making) -> (World, Rc<RefCell<Town>>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.u16(1..=6);
    let style = |random: &mut fastrand::Rng| if making.trouble { one(random, &STYLES) } else { Style::Plain };
    let providers = (0..count)
        .map(|n| {
            let style = style(&mut random);
            Provider::new(seed ^ u64::from(n), style, hidden(&mut random, making))
        })
        .collect::<Vec<_>>();
    let site = |random: &mut fastrand::Rng| Site { provider: random.u16(0..count), limits: limits(random, making) };
    let sites: Vec<Site> = (0..random.usize(1..=8)).map(|_| site(&mut random)).collect();
    let targets: Vec<u32> = (0..random.usize(1..=12)).map(|_| random.u32(0..sites.len() as u32)).collect();
    let domains = one(&mut random, &[1, 3, 10, 40, 400]);
    let domain = |random: &mut fastrand::Rng| Domain {
        target: random.u32(0..targets.len() as u32),
        own: own_limits(random, making),
    };
    let domains: Vec<Domain> = (0..random.u32(1..=domains)).map(|_| domain(&mut random)).collect();
    let sources = random.u16(1..=5);
    let more = if making.mistake == Some(Mistake::QuarterForgotten) { 4 } else { 1 };
    let pool_count = random.usize(1..=4);
    let mut rules = Rules {
        total_connections: one(&mut random, &[4, 10, 40, 1000]) * more,
        lookups: 64,
        pools: pools(&mut random, sources, pool_count),
        ..Rules::default()
    };
    rules.warming = warming(&mut random, sources, making);
    let places = domains.iter().map(|_| Place { temper: Temper::Peer, site: 0, limits: Limits::NONE }).collect();
    let mut world = World::new(seed, rules, places);
    let mut accountant = Accountant::new(LADDER.to_vec());
    match making.mistake {
        Some(Mistake::SlotFreeAtQuit) => accountant.lingers = Duration::from_millis(300),
        Some(Mistake::MarketingOneInNine) => accountant.marketing_one_in = 11,
        _ => {}
    }
    world.hides_skew = making.mistake == Some(Mistake::UntoldClock);
    world.disk = Some(Default::default());
    if let Some(disk) = &mut world.disk {
        disk.lies = making.mistake == Some(Mistake::ForgetfulDisk);
    }
    let town = Town {
        random: fastrand::Rng::with_seed(seed ^ 0x70),
        making,
        providers,
        sites,
        targets,
        domains,
        names_are_down: false,
        reloaded_at: START,
        names_down_at: Timestamp::ZERO,
        accountant,
        found: BTreeMap::new(),
    };
    let town = Rc::new(RefCell::new(town));
    world.peers = Some(Box::new(Shared(Rc::clone(&town))));
    (world, town)
}

impl Town {
    pub fn provider_of(&mut self, site: u32) -> &mut Provider {
        let provider = self.sites[site as usize].provider;
        &mut self.providers[usize::from(provider)]
    }

    pub fn site_of(&self, domain: u32) -> u32 {
        self.targets[self.domains[domain as usize].target as usize]
    }

    /// As the engine is told it.
    fn distorted(&self, limits: &Arc<SiteLimits>) -> Arc<SiteLimits> {
        if self.making.mistake != Some(Mistake::WindowOffByOne) {
            return Arc::clone(limits);
        }
        let more = |rates: &Rates| {
            let all: Vec<Rate> = rates.iter().map(|rate| Rate { count: rate.count + 1, ..rate }).collect();
            Rates::new(&all).unwrap()
        };
        let mut all = SiteLimits::clone(limits);
        for one in [&mut all.each, &mut all.total] {
            (one.messages, one.recipients) = (more(&one.messages), more(&one.recipients));
        }
        Arc::new(all)
    }

    /// A reload reaches every site with the look-ups that it causes.
    fn check_reload(&self, world: &World, site: u32) {
        let long = world.real.since(self.reloaded_at) > secs(10);
        let steady = self.reloaded_at.since(self.names_down_at) > secs(3600);
        if long && steady && !self.names_are_down {
            let (told, config) = (self.accountant.limits_of(site), &self.sites[site as usize].limits);
            assert_eq!(told, Some(config), "site {site} still has the limits of before the reload");
        }
    }
}

impl Peers for Shared {
    fn find(&mut self, _: &World, domain: u32) -> Option<Aim> {
        let mut town = self.0.borrow_mut();
        if town.names_are_down {
            town.found.remove(&domain);
            return None;
        }
        let (place, site) = (&town.domains[domain as usize], town.site_of(domain));
        let (target, own) = (place.target, place.own.clone());
        let limits = Arc::clone(&town.sites[site as usize].limits);
        let aim = Aim {
            target,
            site,
            provider: ProviderHandle(town.sites[site as usize].provider),
            limits: town.distorted(&limits),
            own: own.as_ref().map(|own| town.distorted(own)),
        };
        town.found.insert(domain, (limits, own));
        Some(aim)
    }

    fn told(&mut self, _: &World, domain: u32) {
        let mut town = self.0.borrow_mut();
        let site = town.site_of(domain);
        if let Some((limits, own)) = town.found.remove(&domain) {
            town.accountant.told(site, limits, domain, own);
        }
    }

    fn dialed(&mut self, world: &World, call: &Call) -> Greeting {
        let mut town = self.0.borrow_mut();
        town.accountant.dialed(world, call);
        if town.making.mistake == Some(Mistake::QuarterForgotten) {
            let (all, most) = (world.connections.len(), world.rules.total_connections / 4);
            assert!(all <= most as usize, "{all} of {most} connections in all");
        }
        town.check_reload(world, call.site);
        town.provider_of(call.site).greets(call)
    }

    fn greeted(&mut self, _: &World, call: &Call, signal: Option<Signal>) {
        self.0.borrow_mut().accountant.greeted(call, signal);
    }

    fn sent(&mut self, world: &World, call: &Call, known: &Known, recipients: u16) -> Answer {
        let mut town = self.0.borrow_mut();
        town.accountant.sent(world, call, known, recipients);
        town.provider_of(call.site).answers(call, &known.put, world.now)
    }

    fn answered(&mut self, _: &World, call: &Call, _: &Put, sent: bool, signal: Option<Signal>) {
        let mut town = self.0.borrow_mut();
        town.accountant.answered(call, sent, signal);
        town.provider_of(call.site).hears(call, signal);
    }

    fn hangs_up_after(&mut self) -> Duration {
        let town = &mut *self.0.borrow_mut();
        Duration::from_millis(town.random.u64(1..200))
    }

    fn hung_up(&mut self, _: &World, call: &Call) {
        let mut town = self.0.borrow_mut();
        town.accountant.hung_up(call);
        town.provider_of(call.site).hung_up(call);
    }

    fn crashed(&mut self, world: &World, clean: bool) {
        let mut town = self.0.borrow_mut();
        let within = if clean { Duration::ZERO } else { Duration::from_millis(900) };
        let durable = world.disk.as_ref().map(|disk| &disk.durable);
        let honest = town.making.mistake != Some(Mistake::ForgetfulDisk);
        let is_written = |account: &Account| !honest || durable.is_some_and(|durable| durable.contains_key(account));
        town.accountant.stopped(world.real, within, is_written);
        town.providers.iter_mut().for_each(Provider::all_hung_up);
        town.found.clear();
        town.reloaded_at = world.real;
    }

    fn forgotten(&mut self, world: &World, handle: Handle) {
        self.0.borrow_mut().accountant.forgotten(world.real, handle);
    }
}
