//! The engine's part for sources that warm up: which mail they may carry, who waits for their budgets, and what came of
//! it. The rules themselves are `warmup`'s.
//!
//! Marketing mail goes over a warming source while its ladder at the provider and its day's total have room, before the
//! warm sources of its pool, so that the ladder is climbed; then over those, or it waits. Transactional mail takes a warm
//! source of its pool if there is one that is not refused, and else goes over the warming one at once, whatever is left.
//! While the windows of the warm ones are full it goes over the warming one too, as far as the day's budget reaches: a
//! backlog of it must not spoil the ladder.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::lane::Via;
use super::link::Link;
use super::warmup::{Because, Curve, Day, Kept, Kind, Ladder, SendHours, Total, View};
use super::words::{Account, Holder, Order, ProviderHandle, SourceHandle, Unit, WarmupOrder};
use super::{Alarm, Engine};
use crate::classify::{Feedback, Signal};
use crate::mail::StreamKind;
use crate::time::{Timestamp, Zone};

/// How a source warms up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warming {
    /// The curve of every provider without one of its own, and of the total.
    pub curve: Arc<Curve>,
    /// Curves of single providers.
    pub providers: Box<[(ProviderHandle, Arc<Curve>)]>,
    /// Whose calendar days count.
    pub zone: Zone,
    /// When marketing mail goes.
    pub hours: SendHours,
}

impl Warming {
    fn curve(&self, provider: ProviderHandle) -> &Curve {
        self.providers.iter().find(|(other, _)| *other == provider).map_or(&self.curve, |(_, curve)| curve)
    }
}

/// A source at a provider.
#[derive(Debug)]
pub(super) struct Climb {
    ladder: Ladder,
    /// The day that the ladder knows, and when it ends.
    day: u32,
    ends: Timestamp,
    /// A record that is on its way to the disk.
    asked: Option<Kept>,
    /// Sites with marketing mail for it, and whose turn is next.
    waiting: BTreeSet<u32>,
    turn: u32,
    alarm: Timestamp,
}

/// A source over all providers.
#[derive(Debug, Default)]
pub(super) struct Sum {
    total: Total,
    asked: Option<u32>,
}

/// What goes to a provider in a day over all sources: what curves in per cent are of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Volume {
    day: u32,
    today: u32,
    usual: u32,
}

/// A ladder, for listings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WarmupView {
    /// Of which source.
    pub source: SourceHandle,
    /// At which provider.
    pub provider: ProviderHandle,
    /// The ladder.
    pub view: View,
    /// Stages of its curve.
    pub stages: u16,
    /// Tomorrow's budget if today passes. `None`: warm.
    pub next_budget: Option<u32>,
    /// What marketing mail may still send of the source's total today. `None`: no limit.
    pub total_rest: Option<u32>,
    /// What binds marketing mail now, if anything does.
    pub because: Option<Because>,
    /// When there is room again.
    pub next_at: Option<Timestamp>,
}

impl Engine {
    fn warming_rule(&self, source: SourceHandle) -> Option<&Arc<Warming>> {
        self.rules.warming.get(usize::from(source.0))?.as_ref()
    }

    fn provider_of(&self, site: u32) -> ProviderHandle {
        self.sites[site].provider
    }

    /// Whether a source warms up at this provider. What was never used there does.
    pub(super) fn is_warming(&self, source: SourceHandle, provider: ProviderHandle) -> bool {
        let known = |climb: &Climb| climb.ladder.view().budget.is_some();
        self.warming_rule(source).is_some() && self.warming.get(&(source, provider)).is_none_or(known)
    }

    /// Takes over what an earlier run wrote down of a provider's ladders and of the sources' totals.
    pub(super) fn recall_warmups(&mut self, kept: &[super::Kept]) {
        for kept in kept.iter().filter(|kept| kept.account.unit == Unit::Warmup) {
            match (kept.account.holder, kept.account.source) {
                (Holder::Provider(provider), Some(source)) => {
                    let now = self.now;
                    self.warming
                        .entry((source, provider))
                        .or_insert_with(|| Climb::new(Ladder::restore(&kept.bytes, now).0));
                }
                (Holder::All, Some(source)) => {
                    let restored = || Sum { total: Total::restore(&kept.bytes).0, asked: None };
                    self.totals.entry(source).or_insert_with(restored);
                }
                (Holder::Provider(_) | Holder::All | Holder::Site(_) | Holder::Domain(_) | Holder::Place(_), _) => {}
            }
        }
    }

    /// Begins a day where one has ended. False: the source does not warm up there.
    pub(super) fn roll_warmup(&mut self, source: SourceHandle, provider: ProviderHandle) -> bool {
        let Some(rule) = self.warming_rule(source).map(Arc::clone) else { return false };
        let now = self.now;
        let climb = self.warming.entry((source, provider)).or_insert_with(|| Climb::new(Ladder::new()));
        if now >= climb.ends {
            let day = Day::of(now, &rule.zone, rule.hours);
            let usual = self.volumes.entry(provider).or_default().usual(day.number);
            climb.ladder.roll(day, rule.curve(provider), usual);
            (climb.day, climb.ends) = (day.number, day.ends);
            self.roll_total(source, &rule, day.number);
        }
        self.is_warming(source, provider)
    }

    fn roll_total(&mut self, source: SourceHandle, rule: &Warming, day: u32) {
        let own = self.warming.range((source, ProviderHandle(0))..=(source, ProviderHandle(u16::MAX)));
        let budgets: Vec<Option<u32>> = own.map(|(_, climb)| climb.ladder.view().budget).collect();
        // Where one of them is warm the address is known, and its total with it.
        let largest = budgets.iter().copied().try_fold(0, |largest, budget| budget.map(|budget| largest.max(budget)));
        self.totals.entry(source).or_default().total.roll(day, largest, &rule.curve);
    }

    /// What keeps marketing mail off a warming source at a provider now, and until when, if time alone ends it.
    pub(super) fn warmup_shut(
        &self,
        source: SourceHandle,
        provider: ProviderHandle,
    ) -> Option<(Because, Option<Timestamp>)> {
        self.warming_rule(source)?;
        let Some(climb) = self.warming.get(&(source, provider)) else { return Some((Because::NoDay, None)) };
        let allowance = climb.ladder.allowance(self.now);
        if allowance.because == Because::Warm {
            return None;
        }
        if allowance.now == 0 {
            return Some((allowance.because, allowance.next_at));
        }
        let total = &self.totals.get(&source)?.total;
        match (total.allowance(), total.rest()) {
            (0, Some(0)) => Some((Because::Budget, Some(climb.ends))),
            (0, _) => Some((Because::Unkept, None)),
            _ => None,
        }
    }

    /// Marketing mail of a site waits for a warming source: it is told when there may be room.
    pub(super) fn wait_for_warmup(&mut self, source: SourceHandle, site: u32, out: &mut Vec<Order>) {
        let provider = self.provider_of(site);
        let Some((because, next_at)) = self.warmup_shut(source, provider) else { return };
        let Some(climb) = self.warming.get_mut(&(source, provider)) else { return };
        climb.waiting.insert(site);
        match (because, next_at) {
            (_, Some(at)) => self.arm_warmup(source, provider, at),
            (Because::Unkept | Because::NoDay, None) => self.keep_warmup(source, provider, out),
            (_, None) => {}
        }
    }

    fn arm_warmup(&mut self, source: SourceHandle, provider: ProviderHandle, shown: Timestamp) {
        let (now, at) = (self.steady(), self.steady_of(shown));
        let Some(climb) = self.warming.get_mut(&(source, provider)) else { return };
        if climb.alarm > now && climb.alarm <= at {
            return;
        }
        let was = std::mem::replace(&mut climb.alarm, at);
        self.arm(was, at, Alarm::Warmup(source, provider));
    }

    /// The clock was set: days begin and end when it shows so.
    pub(super) fn calendar_moved(&mut self) {
        let armed: Vec<(SourceHandle, ProviderHandle)> =
            self.warming.iter().filter(|(_, climb)| climb.alarm != Timestamp::NEVER).map(|(of, _)| *of).collect();
        let now = self.steady();
        for (source, provider) in armed {
            let Some(climb) = self.warming.get_mut(&(source, provider)) else { continue };
            // Whoever waits says then until when.
            let was = std::mem::replace(&mut climb.alarm, now);
            self.arm(was, now, Alarm::Warmup(source, provider));
        }
    }

    /// Has written down what is due to be, of the ladder and of the source's total.
    fn keep_warmup(&mut self, source: SourceHandle, provider: ProviderHandle, out: &mut Vec<Order>) {
        let unit = Unit::Warmup;
        let due = |climb: &&mut Climb| climb.asked.is_none() && climb.ladder.record_due();
        if self.warming.get_mut(&(source, provider)).filter(due).is_some() {
            out.push(Order::Reserve(Account { holder: Holder::Provider(provider), source: Some(source), unit }));
        }
        let due = |sum: &&mut Sum| sum.asked.is_none() && sum.total.record_due();
        if self.totals.get_mut(&source).filter(due).is_some() {
            out.push(Order::Reserve(Account { holder: Holder::All, source: Some(source), unit }));
        }
    }

    /// What is to be written down, see [`Engine::record`].
    pub(super) fn warmup_record(&mut self, account: Account) -> Option<Vec<u8>> {
        let source = account.source?;
        match account.holder {
            Holder::Provider(provider) => {
                let climb = self.warming.get_mut(&(source, provider))?;
                let (record, kept) = climb.ladder.record();
                climb.asked = Some(kept);
                Some(record.to_vec())
            }
            Holder::All => {
                let sum = self.totals.get_mut(&source)?;
                let (record, ahead) = sum.total.record();
                sum.asked = Some(ahead);
                Some(record.to_vec())
            }
            Holder::Site(_) | Holder::Domain(_) | Holder::Place(_) => None,
        }
    }

    /// What is to be written down at a clean stop, so that it costs no allowance. Nothing may be granted after it.
    pub fn final_records(&self) -> Vec<(Account, Vec<u8>)> {
        let account = |holder, source| Account { holder, source: Some(source), unit: Unit::Warmup };
        let ladders = self.warming.iter().map(|((source, provider), climb)| {
            (account(Holder::Provider(*provider), *source), climb.ladder.record_at_stop().to_vec())
        });
        let totals = self.totals.iter();
        let totals = totals.map(|(source, sum)| (account(Holder::All, *source), sum.total.record_at_stop().to_vec()));
        ladders.chain(totals).collect()
    }

    /// A record is durable, or is not to be had now.
    pub(super) fn warmup_kept(&mut self, account: Account, durable: bool, out: &mut Vec<Order>) {
        let Some(source) = account.source else { return };
        let mut providers = Vec::new();
        match account.holder {
            Holder::Provider(provider) => {
                let Some(climb) = self.warming.get_mut(&(source, provider)) else { return };
                if let Some(kept) = climb.asked.take().filter(|_| durable) {
                    climb.ladder.keep(kept);
                }
                providers.push(provider);
            }
            Holder::All => {
                let Some(sum) = self.totals.get_mut(&source) else { return };
                if let Some(ahead) = sum.asked.take().filter(|_| durable) {
                    let day = sum.total.day();
                    sum.total.keep(day, ahead);
                }
                providers.extend(self.warming.keys().filter(|(other, _)| *other == source).map(|(_, of)| *of));
            }
            Holder::Site(_) | Holder::Domain(_) | Holder::Place(_) => return,
        }
        for provider in providers {
            match durable {
                true => self.open_warmup(source, provider, out),
                // A disk that is full or slow: another try in a moment.
                false => self.arm_warmup(source, provider, self.now.after(std::time::Duration::from_secs(1))),
            }
        }
    }

    /// A budget may have room: the sites that wait for it get it in turn.
    pub(super) fn open_warmup(&mut self, source: SourceHandle, provider: ProviderHandle, out: &mut Vec<Order>) {
        let now = self.steady();
        if let Some(climb) = self.warming.get_mut(&(source, provider)).filter(|climb| climb.alarm <= now) {
            climb.alarm = Timestamp::NEVER;
        }
        self.roll_warmup(source, provider);
        let sites = self.warming.get(&(source, provider)).map_or(0, |climb| climb.waiting.len());
        for _ in 0..sites {
            if self.warmup_shut(source, provider).is_some() {
                break;
            }
            let Some(climb) = self.warming.get_mut(&(source, provider)) else { return };
            let next = climb.waiting.range(climb.turn..).next().or_else(|| climb.waiting.first()).copied();
            let Some(site) = next else { return };
            climb.waiting.remove(&site);
            climb.turn = site.wrapping_add(1);
            self.open_site(site, out);
        }
        // Who is left waits on.
        let left = self.warming.get(&(source, provider)).and_then(|climb| climb.waiting.first().copied());
        if let Some(site) = left.filter(|site| self.sites.get(*site).is_some()) {
            self.wait_for_warmup(source, site, out);
        } else if let (Some(site), Some(climb)) = (left, self.warming.get_mut(&(source, provider))) {
            climb.waiting.remove(&site);
        }
    }

    /// A message was granted over a source. `Some`: it is charged to a ladder, and may be given back by this time.
    pub(super) fn charge_warmup(&mut self, link: &Link, kind: StreamKind, out: &mut Vec<Order>) -> Option<Timestamp> {
        let (source, provider, now) = (link.source, self.provider_of(link.site), self.now);
        if self.rules.warming.is_empty() {
            return None;
        }
        self.volumes.entry(provider).or_default().today += 1;
        let climb = self.warming.get_mut(&(source, provider))?;
        let kind = match kind {
            StreamKind::Transactional => Kind::Transactional,
            StreamKind::Marketing => Kind::Marketing,
        };
        climb.ladder.spend(now, kind, 1);
        self.totals.entry(source).or_default().total.spend(1);
        self.keep_warmup(source, provider, out);
        Some(now)
    }

    /// What was charged at this time was not sent.
    pub(super) fn refund_warmup(&mut self, source: SourceHandle, site: u32, charged_at: Timestamp) {
        let provider = self.provider_of(site);
        if let Some(climb) = self.warming.get_mut(&(source, provider)) {
            climb.ladder.refund(charged_at, 1);
            self.totals.entry(source).or_default().total.refund(1);
        }
    }

    /// What became of a message that was charged.
    pub(super) fn warmup_settled(&mut self, link: &Link, is_final: bool, signal: &Signal) {
        let provider = self.provider_of(link.site);
        let Some(climb) = self.warming.get_mut(&(link.source, provider)) else { return };
        match signal.feedback {
            _ if signal.reputation => climb.ladder.deferred_for_reputation(1),
            Feedback::Good if is_final => climb.ladder.delivered(1),
            Feedback::Broken if link.mail_written => climb.ladder.uncertain(1),
            Feedback::Good | Feedback::Neutral | Feedback::Slower | Feedback::Broken => {}
        }
    }

    /// The provider says that the source is blocked.
    pub(super) fn warmup_blocked(&mut self, source: SourceHandle, site: u32, out: &mut Vec<Order>) {
        let provider = self.provider_of(site);
        let Some(rule) = self.warming_rule(source).map(Arc::clone) else { return };
        let Some(climb) = self.warming.get_mut(&(source, provider)) else { return };
        let usual = self.volumes.get(&provider).map_or(0, |volume| volume.usual);
        let was_frozen = climb.ladder.view().frozen_until.is_some();
        climb.ladder.blocked(rule.curve(provider), usual);
        if !was_frozen && climb.ladder.view().frozen_until.is_some() {
            out.push(Order::Frozen(source, provider));
        }
        self.keep_warmup(source, provider, out);
    }

    /// An operator's order to a ladder. Unknown ones begin with it.
    pub(super) fn order_warmup(
        &mut self,
        source: SourceHandle,
        provider: ProviderHandle,
        order: WarmupOrder,
        out: &mut Vec<Order>,
    ) {
        let Some(rule) = self.warming_rule(source).map(Arc::clone) else { return };
        self.roll_warmup(source, provider);
        let usual = self.volumes.get(&provider).map_or(0, |volume| volume.usual);
        let Some(climb) = self.warming.get_mut(&(source, provider)) else { return };
        match order {
            WarmupOrder::Set(stage) => climb.ladder.set(stage, rule.curve(provider), usual),
            WarmupOrder::Skip => climb.ladder.skip(rule.curve(provider), usual),
            WarmupOrder::Hold => climb.ladder.hold(),
            WarmupOrder::Resume => climb.ladder.resume(),
        }
        let day = climb.day;
        self.roll_total(source, &rule, day);
        self.keep_warmup(source, provider, out);
        self.open_warmup(source, provider, out);
    }

    /// Whether transactional mail should leave a warming source to marketing mail.
    fn is_left_to_marketing(&self, via: Via, source: SourceHandle, site: u32) -> bool {
        let (has_warm, has_room) = self.warm_sources(via, site);
        has_warm && (has_room || !self.has_budget(source, self.provider_of(site)))
    }

    /// Whether the day's budgets have something left, whatever the hour.
    fn has_budget(&self, source: SourceHandle, provider: ProviderHandle) -> bool {
        let Some(climb) = self.warming.get(&(source, provider)) else { return false };
        let view = climb.ladder.view();
        let total = self.totals.get(&source).and_then(|sum| sum.total.rest());
        view.budget.is_none_or(|budget| view.used < budget) && view.frozen_until.is_none() && total != Some(0)
    }

    /// Whether a lane has a warm source that is not refused, and whether one of them has room in its windows.
    fn warm_sources(&self, via: Via, site: u32) -> (bool, bool) {
        let (provider, known, now) = (self.provider_of(site), &self.sites[site], self.steady());
        let warm = |source: &SourceHandle| {
            !self.is_warming(*source, provider)
                && !self.is_stopped(*source, site)
                && known.path(*source).throttled(now).is_none()
        };
        let sources = self.sources(via);
        let mut all = sources.iter().filter(|source| warm(source)).peekable();
        (all.peek().is_some(), all.any(|source| !known.path(*source).is_full(now)))
    }

    /// A source's windows at a site are full: what is in a hurry looks for one that warms up there.
    pub(super) fn overflow(
        &mut self,
        source: SourceHandle,
        site: u32,
        lane: u32,
        until: Timestamp,
        out: &mut Vec<Order>,
    ) {
        if self.rules.warming.is_empty() || self.is_warming(source, self.provider_of(site)) {
            return;
        }
        let now = self.steady();
        if self.sites[site].path_mut(source).fills(now, until) {
            self.want(lane, StreamKind::Transactional, out);
        }
    }

    /// Whether mail of this kind has no business on this source at a site, since it warms up there.
    pub(super) fn is_kept_off(&self, lane: u32, source: SourceHandle, site: u32, kind: StreamKind) -> bool {
        self.is_kept_off_via(self.lanes[lane].via, source, site, kind)
    }

    pub(super) fn is_kept_off_via(&self, via: Via, source: SourceHandle, site: u32, kind: StreamKind) -> bool {
        if self.rules.warming.is_empty() || !self.is_warming(source, self.provider_of(site)) {
            return false;
        }
        match kind {
            StreamKind::Transactional => self.is_left_to_marketing(via, source, site),
            StreamKind::Marketing => self.warmup_shut(source, self.provider_of(site)).is_some(),
        }
    }

    /// All ladders that are in use.
    pub fn warmups(&self) -> Vec<WarmupView> {
        let view = |((source, provider), climb): (&(SourceHandle, ProviderHandle), &Climb)| {
            let rule = self.warming_rule(*source)?;
            let (view, curve) = (climb.ladder.view(), rule.curve(*provider));
            let usual = self.volumes.get(provider).map_or(0, |volume| volume.usual);
            let shut = self.warmup_shut(*source, *provider);
            Some(WarmupView {
                source: *source,
                provider: *provider,
                view,
                stages: curve.stages(),
                next_budget: curve.budget(view.stage.saturating_add(1), usual),
                total_rest: self.totals.get(source).and_then(|sum| sum.total.rest()),
                because: shut.map(|(because, _)| because),
                next_at: shut.and_then(|(_, at)| at),
            })
        };
        self.warming.iter().filter_map(view).collect()
    }
}

impl Climb {
    pub fn view(&self) -> View {
        self.ladder.view()
    }

    fn new(ladder: Ladder) -> Climb {
        Climb {
            ladder,
            day: 0,
            ends: Timestamp::ZERO,
            asked: None,
            waiting: BTreeSet::new(),
            turn: 0,
            alarm: Timestamp::NEVER,
        }
    }
}

impl Volume {
    /// What went yesterday, if anything did.
    fn usual(&mut self, day: u32) -> u32 {
        if day != self.day {
            if self.today > 0 {
                self.usual = self.today;
            }
            (self.day, self.today) = (day, 0);
        }
        self.usual
    }
}
