//! What happens to a town: mail of all kinds, an operator's orders, reloads, clocks that are set, stops and crashes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use postrider::mail::{QueueId, StreamKind};
use postrider::traffic::{
    Account, CredentialHandle, Fact, Operator, PoolHandle, ProviderHandle, SiteHandle, SourceHandle, StreamHandle,
    Unit, WarmupOrder,
};

use super::super::world::{World, secs};
use super::town::{self, Making, Town};
use super::truth;

/// Envelopes of one world at most: the order is checked against all that wait, for each that goes.
const MAIL_MAX: u32 = 500;
/// An order to end an envelope that could not be carried out is repeated after a minute.
const END_WITHIN: Duration = Duration::from_secs(62);

/// No town has more.
const SOURCES: u16 = 5;

pub struct Days {
    pub world: World,
    pub town: Rc<RefCell<Town>>,
    random: fastrand::Rng,
    mail: u32,
}

impl Days {
    pub fn new(seed: u64, making: Making) -> Days {
        let (world, town) = town::found(seed, making);
        Days { world, town, random: fastrand::Rng::with_seed(seed ^ 0xda15), mail: 0 }
    }

    /// All of it, to the last envelope.
    pub fn live(&mut self) {
        let steps = self.random.usize(5..60);
        for _ in 0..steps {
            self.step();
            self.look();
        }
        self.end();
    }

    fn look(&mut self) {
        let wait = match self.random.u8(0..12) {
            0 => secs(self.random.u64(1..4000)),
            1 | 2 => secs(self.random.u64(1..60)),
            _ => Duration::from_millis(self.random.u64(0..3000)),
        };
        self.world.run_for(wait);
        self.world.apply(Fact::Tick);
        self.check();
    }

    fn check(&mut self) {
        self.world.assert_none_stranded();
        truth::check(&self.world, &self.town.borrow(), 12);
        let now = self.world.now;
        let late = |known: &&super::super::world::Known| {
            let by = known.deadline.max(known.again_at.after(END_WITHIN)).after(secs(2));
            !known.put.held && !known.flying && !known.gone && now > by
        };
        let late = self.world.waiting.values().find(late);
        assert!(late.is_none(), "at {now:?} it is too old: {late:?}");
    }

    fn some_envelope(&mut self) -> Option<QueueId> {
        let place = self.random.usize(0..self.world.waiting.len().max(1));
        self.world.waiting.keys().nth(place).copied()
    }

    fn step(&mut self) {
        match self.random.u8(0..40) {
            0 => self.toggle_hold(),
            1 => self.retry(),
            2 => {
                if let Some(id) = self.some_envelope() {
                    self.town.borrow_mut().accountant.unsettle();
                    self.world.gone(id);
                }
            }
            3 => self.reroute(),
            4 | 5 => self.suspend(),
            6 | 7 => self.resume_all(),
            8 | 9 => self.reload_limits(),
            10 => self.reload_rules(),
            11 | 12 => self.set_clock(),
            13 | 14 => self.world.crash(secs(1)),
            15 | 16 => self.world.doom = Some(self.random.u32(0..60)),
            17 => {
                self.town.borrow_mut().accountant.unsettle();
                self.world.restart();
            }
            18 => self.names_go_down(),
            19 => {
                let full = self.random.bool();
                if let Some(disk) = &mut self.world.disk {
                    disk.is_full = full;
                }
            }
            20 => self.order_ladder(),
            21..=25 => self.trickle(),
            _ => self.burst(),
        }
    }

    fn burst(&mut self) {
        let domains = self.town.borrow().domains.len() as u32;
        let all_to_one = self.random.bool().then(|| self.random.u32(0..domains));
        for _ in 0..self.random.u32(1..40) {
            let domain = all_to_one.unwrap_or_else(|| self.random.u32(0..domains));
            self.put(domain);
        }
    }

    fn trickle(&mut self) {
        let domains = self.town.borrow().domains.len() as u32;
        let wait = Duration::from_millis(self.random.u64(50..3000));
        for _ in 0..self.random.u32(1..20) {
            let domain = self.random.u32(0..domains);
            self.put(domain);
            self.world.run_for(wait);
        }
    }

    fn put(&mut self, domain: u32) {
        if self.mail >= MAIL_MAX {
            return;
        }
        self.mail += 1;
        let random = &mut self.random;
        let kind = if random.bool() { StreamKind::Transactional } else { StreamKind::Marketing };
        let pools = self.world.rules.pools.len() as u16;
        let mut put = self.world.envelope(domain, kind);
        put.stream = StreamHandle(random.u16(0..3));
        put.credential = CredentialHandle(random.u32(0..3));
        put.pool = PoolHandle(random.u16(0..pools));
        put.priority = [50, 50, 50, 20, 90][random.usize(0..5)];
        put.engaged = random.u8(0..4) == 0;
        put.recipients = if random.u8(0..4) == 0 { random.u16(1..60) } else { 1 };
        put.held = random.u8(0..20) == 0;
        put.expires_at = self.world.now.after(secs([900, 3600, 86_400, 2 * 86_400][random.usize(0..4)]));
        if random.u8(0..10) == 0 {
            put.due = self.world.now.after(secs(random.u64(1..3000)));
        }
        self.world.put(put);
    }

    fn toggle_hold(&mut self) {
        let Some(id) = self.some_envelope() else { return };
        self.town.borrow_mut().accountant.unsettle();
        let known = self.world.waiting[&id];
        let mut put = known.put;
        (put.held, put.due, put.source) = (!put.held, known.due, known.stays);
        self.world.put(put);
    }

    fn retry(&mut self) {
        self.town.borrow_mut().accountant.unsettle();
        for _ in 0..self.random.u8(1..5) {
            let Some(id) = self.some_envelope() else { return };
            let mut put = self.world.waiting[&id].put;
            (put.due, put.source) = (self.world.now, None);
            self.world.put(put);
        }
        self.world.apply(Fact::Operator(Operator::Probe));
    }

    fn reroute(&mut self) {
        let Some(id) = self.some_envelope() else { return };
        self.town.borrow_mut().accountant.unsettle();
        let pools = self.world.rules.pools.len() as u16;
        let known = self.world.waiting[&id];
        if !known.flying && !known.ending {
            let mut put = known.put;
            (put.pool, put.due, put.source) = (PoolHandle(self.random.u16(0..pools)), known.due, None);
            self.world.put(put);
        }
    }

    fn operate(&mut self, operator: Operator) {
        self.town.borrow_mut().accountant.unsettle();
        self.world.apply(Fact::Operator(operator));
    }

    fn suspend(&mut self) {
        let source = SourceHandle(self.random.u16(0..SOURCES));
        let site = SiteHandle(self.random.u32(0..self.town.borrow().sites.len() as u32));
        let operator = match self.random.u8(0..3) {
            0 => Operator::SuspendSource(source),
            1 => Operator::SuspendAt(site, Box::new([None])),
            _ => Operator::SuspendAt(site, Box::new([Some(source)])),
        };
        self.operate(operator);
    }

    fn resume_all(&mut self) {
        for source in 0..SOURCES {
            self.operate(Operator::ResumeSource(SourceHandle(source)));
        }
        let sites = self.town.borrow().sites.len() as u32;
        for site in 0..sites {
            self.operate(Operator::SuspendAt(SiteHandle(site), Box::default()));
        }
    }

    /// The config says other limits, of some sites and domains.
    fn reload_limits(&mut self) {
        {
            let town = &mut *self.town.borrow_mut();
            for site in &mut town.sites {
                if self.random.bool() {
                    site.limits = town::limits(&mut self.random, town.making);
                }
            }
            for domain in town.domains.iter_mut().take(20) {
                if self.random.u8(0..4) == 0 {
                    domain.own = town::own_limits(&mut self.random, town.making);
                }
            }
        }
        self.reload();
    }

    fn reload_rules(&mut self) {
        let pools = self.world.rules.pools.len();
        if self.random.bool() {
            self.world.rules.pools = town::pools(&mut self.random, SOURCES, pools);
        }
        let more = if self.town.borrow().making.mistake == Some(town::Mistake::QuarterForgotten) { 4 } else { 1 };
        self.world.rules.total_connections = [40, 100, 1000][self.random.usize(0..3)] * more;
        self.reload();
    }

    fn reload(&mut self) {
        {
            let town = &mut *self.town.borrow_mut();
            town.accountant.unsettle();
            town.reloaded_at = self.world.real;
        }
        let rules = self.world.rules.clone();
        self.world.set_rules(rules);
    }

    /// By whole seconds, and long enough before the next crash for the records to be written anew. A full disk takes none.
    fn set_clock(&mut self) {
        let by = self.random.i64(-100..100);
        // A record that no meter stands for is not written anew.
        let accounts: Vec<Account> = self.world.records.keys().copied().collect();
        let is_metered = |world: &mut World, account: Account| match account.unit {
            Unit::Warmup | Unit::Lesson => true,
            Unit::Messages | Unit::Recipients | Unit::Connections => world.engine.record(account).is_some(),
        };
        let is_full = self.world.disk.as_ref().is_some_and(|disk| disk.is_full);
        if is_full || !accounts.into_iter().all(|account| is_metered(&mut self.world, account)) {
            return;
        }
        let doom = self.world.doom.take();
        self.world.set_clock(by * 1000);
        self.world.apply(Fact::Tick);
        self.world.run_for(Duration::from_millis(10));
        self.world.doom = doom;
    }

    fn names_go_down(&mut self) {
        let town = &mut *self.town.borrow_mut();
        town.names_are_down = !town.names_are_down;
        town.names_down_at = self.world.real;
    }

    fn order_ladder(&mut self) {
        if !self.town.borrow().making.warmup {
            return;
        }
        let order = match self.random.u8(0..4) {
            0 => WarmupOrder::Set(self.random.u16(0..4)),
            1 => WarmupOrder::Skip,
            2 => WarmupOrder::Hold,
            _ => WarmupOrder::Resume,
        };
        let source = SourceHandle(self.random.u16(0..SOURCES));
        let provider = ProviderHandle(self.random.u16(0..6));
        // As the scheduler: whoever has no provider of that name yet has not read what was kept of its ladders either.
        if !self.world.aims.values().any(|aim| aim.provider == provider) {
            return;
        }
        self.operate(Operator::Warmup(source, provider, order));
    }

    /// Everything is made good again, and then every envelope has its end by its longest age.
    fn end(&mut self) {
        self.world.doom = None;
        self.resume_all();
        if let Some(disk) = &mut self.world.disk {
            disk.is_full = false;
        }
        if self.town.borrow().names_are_down {
            self.names_go_down();
        }
        let held: Vec<QueueId> =
            self.world.waiting.iter().filter(|(_, known)| known.put.held).map(|(id, _)| *id).collect();
        for id in held {
            let known = self.world.waiting[&id];
            let mut put = known.put;
            (put.held, put.due, put.source) = (false, known.due, known.stays);
            self.world.put(put);
        }
        for _ in 0..6 * 24 * 3 {
            if self.world.waiting.is_empty() {
                break;
            }
            self.world.run_for(secs(600));
            self.world.apply(Fact::Tick);
            self.check();
        }
        let left = self.world.waiting.values().next();
        assert!(left.is_none(), "{} without an end, such as {left:?}", self.world.waiting.len());
    }
}
