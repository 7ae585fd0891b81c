//! Warm-up in the operator's words: the listing of ladders, and orders to them.

use serde_json::{Value, json};

use super::clerk::Clerk;
use super::suspend::Said;
use super::world::World;
use crate::time::Timestamp;
use crate::traffic::warmup::{Because, Judgement};
use crate::traffic::{Fact, Operator, ProviderHandle, SourceHandle, WarmupOrder, WarmupView};

impl<W: World> Clerk<W> {
    /// All ladders that are in use, by source and provider.
    pub(super) fn list_warmups(&self) -> Value {
        let mut views = self.engine.warmups();
        views.sort_by_key(|view| (self.sources.name(view.source.0).to_owned(), view.provider));
        views.iter().map(|view| self.list_warmup(view)).collect()
    }

    fn list_warmup(&self, shown: &WarmupView) -> Value {
        let view = &shown.view;
        json!({
            "source": self.sources.name(shown.source.0),
            "provider": self.providers.name(shown.provider.0),
            // People count from 1.
            "stage": view.stage.saturating_add(1),
            "stages": shown.stages,
            "warm": view.budget.is_none(),
            "budget": view.budget,
            "used": view.used,
            "attempted": view.attempted,
            "delivered": view.delivered,
            "deferred": view.deferred,
            "blocks": view.blocks,
            "over": view.over,
            "held": view.held,
            "frozen": view.frozen_until.is_some(),
            "last": judgement(view.last),
            "outlook": judgement(view.outlook),
            "next_budget": shown.next_budget,
            "total_rest": shown.total_rest,
            "waits_for": shown.because.map(because),
            "until": shown.next_at.map(Timestamp::rfc3339),
        })
    }

    /// Orders a source's ladder at one provider, or all that are in use.
    pub(super) fn order_warmup(&mut self, source: &str, provider: Option<&str>, order: WarmupOrder, answer: Said) {
        // Whoever asked may be gone.
        drop(answer.send(self.ordered_warmup(source, provider, order)));
    }

    fn ordered_warmup(&mut self, source: &str, provider: Option<&str>, order: WarmupOrder) -> Result<String, String> {
        if !self.settings().warmups.iter().any(|rule| &*rule.source == source) {
            let known: Vec<&str> = self.settings().warmups.iter().map(|rule| &*rule.source).collect();
            return Err(match known.as_slice() {
                [] => "no source warms up: the config has no `warmup` at a [source]".to_owned(),
                known => format!("the source \"{source}\" does not warm up; those that do: {}", known.join(", ")),
            });
        }
        let number = self.sources.find(source).map(SourceHandle).ok_or("there is no such source")?;
        let providers: Vec<ProviderHandle> = match provider {
            Some(name) => vec![ProviderHandle(self.providers.find(name).ok_or_else(|| {
                format!("no mail went to a provider \"{name}\" yet; `traffic warmup` lists those that are known")
            })?)],
            None => {
                let of_source = self.engine.warmups().into_iter().filter(|view| view.source == number);
                of_source.map(|view| view.provider).collect()
            }
        };
        if providers.is_empty() {
            return Err(format!("the source \"{source}\" has sent to no provider yet"));
        }
        for provider in &providers {
            self.tell(Fact::Operator(Operator::Warmup(number, *provider, order)));
        }
        let where_ = providers.iter().map(|provider| self.providers.name(provider.0)).collect::<Vec<_>>().join(", ");
        let what = match order {
            WarmupOrder::Set(stage) => format!("is at stage {} now", stage.saturating_add(1)),
            WarmupOrder::Skip => "went to the next stage".to_owned(),
            WarmupOrder::Hold => "keeps its stage until `traffic warmup resume`".to_owned(),
            WarmupOrder::Resume => "climbs again".to_owned(),
        };
        Ok(format!("{source} at {where_} {what}"))
    }
}

/// Why a stage is what it is, or what today comes to.
fn judgement(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::New => "it begins",
        Judgement::NotASendingDay => "under half the budget was attempted",
        Judgement::Passed => "passed",
        Judgement::TooFewDelivered => "under 90 % were delivered",
        Judgement::Deferred => "over 2 % were deferred for reputation",
        Judgement::ManyDeferred => "over 5 % were deferred for reputation: a stage back",
        Judgement::Blocked => "blocked: back to half the budget, and frozen",
        Judgement::Held => "held by an operator",
        Judgement::Idle => "no mail for 30 days",
        Judgement::Set => "set by an operator",
        Judgement::Unknown => "its record was damaged, or the clock set back",
    }
}

/// What marketing mail waits for.
pub(super) fn because(because: Because) -> &'static str {
    match because {
        Because::Warm => "nothing",
        Because::Spread => "the rest of the budget is spread over the day",
        Because::Hour => "an eighth of the budget went within the hour",
        Because::Budget => "the day's budget is used",
        Because::Hours => "it is not within send_hours",
        Because::Frozen => "the provider blocked the source",
        Because::Unkept | Because::NoDay => "the budget is being written down",
    }
}
