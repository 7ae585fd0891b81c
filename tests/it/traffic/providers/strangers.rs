//! A provider of which nothing is known and nothing configured: how often does it have to refuse in a day? Its limits are
//! of connections, of messages on one, and by the second, the minute or the hour.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use postrider::classify::Signal;
use postrider::mail::StreamKind::Marketing;
use postrider::traffic::{Handle, Limits, ProviderHandle, Put, Rules, SiteLimits};

use super::super::world::{Aim, Answer, Call, Greeting, Known, Peers, Place, START, Temper, World, secs};
use super::provider::{Hidden, Provider, Style};

/// One provider, and nobody who watches.
struct Alone(Rc<RefCell<Provider>>);

impl Peers for Alone {
    fn find(&mut self, _: &World, domain: u32) -> Option<Aim> {
        let limits = Arc::new(SiteLimits::default());
        Some(Aim { target: domain, site: 0, provider: ProviderHandle(0), limits, own: None })
    }

    fn told(&mut self, _: &World, _: u32) {}

    fn dialed(&mut self, _: &World, call: &Call) -> Greeting {
        self.0.borrow_mut().greets(call)
    }

    fn greeted(&mut self, _: &World, _: &Call, _: Option<Signal>) {}

    fn sent(&mut self, world: &World, call: &Call, known: &Known, _: u16) -> Answer {
        self.0.borrow_mut().answers(call, &known.put, world.now)
    }

    fn answered(&mut self, _: &World, call: &Call, _: &Put, _: bool, signal: Option<Signal>) {
        self.0.borrow_mut().hears(call, signal);
    }

    fn hangs_up_after(&mut self) -> Duration {
        Duration::from_millis(20)
    }

    fn hung_up(&mut self, _: &World, call: &Call) {
        self.0.borrow_mut().hung_up(call);
    }

    fn crashed(&mut self, _: &World, _: bool) {}

    fn forgotten(&mut self, _: &World, _: Handle) {}
}

/// What a day was like.
#[derive(Debug)]
pub struct Day {
    #[allow(dead_code, reason = "printed where it is too much")]
    /// Refusals for a limit, while it is learned and in the day after that.
    pub learning: usize,
    pub later: usize,
    /// Of what its limit by time takes, this share was delivered in the day after.
    pub used: Option<f64>,
}

/// Mail waits all day for a provider with limits that it does not tell.
pub fn day(seed: u64) -> Day {
    let mut random = fastrand::Rng::with_seed(seed);
    let least = random.u64(5..300);
    let per = [1, 60, 3600][random.usize(0..3)];
    let rate = random.bool().then(|| (random.usize(if per == 1 { 1..4 } else { 4..40 }), secs(per)));
    let cap = (rate.is_none() || random.bool()).then(|| random.u16(1..8));
    let deliveries = (random.u8(0..3) == 0).then(|| random.u32(2..30));
    // Without a rate nothing but its slowness bounds it.
    let takes_ms = if rate.is_none() { (20_000, 40_000) } else { (least, least * 2) };
    let hidden = Hidden { cap, rates: rate.into_iter().collect(), deliveries, takes_ms, ..Hidden::default() };
    let provider = Rc::new(RefCell::new(Provider::new(seed, Style::Plain, hidden)));
    let place = Place { temper: Temper::Peer, site: 0, limits: Limits::NONE };
    let mut world = World::new(seed, Rules::default(), vec![place; 3]);
    world.peers = Some(Box::new(Alone(Rc::clone(&provider))));
    // An hour that is full teaches nothing before it is over.
    let learned = START.after(secs(600 + if per > 60 { per } else { 0 }));
    let mut before = 0;
    while world.now < learned.after(secs(86_400)) {
        while world.waiting.len() < 400 {
            let mut put = world.envelope(random.u32(0..3), Marketing);
            put.expires_at = world.now.after(secs(20 * 86_400));
            world.put(put);
        }
        if world.now <= learned {
            before = world.ended.len();
        }
        world.run_for(secs(60));
    }
    let refusals = &provider.borrow().refusals;
    let learning = refusals.iter().filter(|(at, _)| *at < learned).count();
    let delivered = world.ended.len() - before;
    let used = rate.map(|(count, per)| delivered as f64 / (count as f64 * 86_400.0 / per.as_secs_f64()));
    Day { learning, later: refusals.len() - learning, used }
}
