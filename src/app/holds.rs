//! Follows who is paused or suspended: tells the scheduler whose mail is to be held or let go, and lets the tenth of a
//! bounce pause go. Also what the API answers about rates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::accept::Door;
use crate::clock::Clock;
use crate::harm::Harm;
use crate::mail::{QueueId, StreamKind};
use crate::queue::{Queue, Waiting};
use crate::rates::{Pause, Sender, Span, Why};
use crate::scheduler::Handle;
use crate::time::Timestamp;

/// How often a bounce pause lets some mail go.
const TRICKLE_EVERY: Duration = Duration::from_secs(10);
/// Most envelopes that one pause lets go at once.
const TRICKLE_MAX: usize = 10_000;

pub(super) struct Follower {
    queue: Queue,
    door: Door,
    scheduler: Handle,
    clock: Arc<Clock>,
    /// To how many recipients each paused sender may still send, and the envelope after which to go on.
    credit: BTreeMap<Sender, (f64, QueueId)>,
}

impl Follower {
    pub fn new(queue: Queue, door: Door, scheduler: Handle, clock: Arc<Clock>) -> Follower {
        Follower { queue, door, scheduler, clock, credit: BTreeMap::new() }
    }

    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.door.harm().changes();
        let mut trickle = interval(TRICKLE_EVERY);
        trickle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_changed = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = changes.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                _ = trickle.tick() => false,
            };
            match is_changed {
                true => self.tell_again().await,
                false => self.trickle().await,
            }
        }
    }

    async fn tell_again(&self) {
        for affected in self.door.harm().take_affected() {
            let meant = move |waiting: Waiting| affected.is(&waiting.credential, &waiting.stream).then_some(waiting);
            self.scheduler.tell_again(Box::new(self.queue.waiting().map(meant))).await;
        }
    }

    async fn trickle(&mut self) {
        let pauses = self.door.harm().pauses();
        self.credit.retain(|sender, _| pauses.iter().any(|(paused, _)| paused == sender));
        for (sender, pause) in pauses.into_iter().filter(|(_, pause)| pause.why == Why::Bounces) {
            if !self.door.harm().is_suspended(&sender.credential) {
                self.let_go(sender, &pause).await;
            }
        }
    }

    async fn let_go(&mut self, sender: Sender, pause: &Pause) {
        let (credit, after) = self.credit.entry(sender.clone()).or_insert((0.0, QueueId::MIN));
        *credit += f64::from(pause.per_hour) * TRICKLE_EVERY.as_secs_f64() / 3600.0;
        if *credit < 1.0 {
            return;
        }
        let (queue, cursor, now, room) = (self.queue.clone(), *after, self.clock.now(), *credit);
        let found = tokio::task::spawn_blocking(move || {
            let is_next = |waiting: &Waiting| waiting.id > cursor && is_due(waiting, &sender, now);
            within(room, queue.waiting().filter(is_next).map(|row| (row.id, row.recipients)))
        });
        let Ok((ids, spent)) = found.await else { return };
        *credit -= spent;
        // Behind the last one it begins at the first again: those that were deferred.
        *after = ids.last().copied().unwrap_or(QueueId::MIN);
        if !ids.is_empty() {
            let queue = self.queue.clone();
            let rows = ids.into_iter().filter_map(move |id| queue.waiting_one(id)).filter(|row| !row.held);
            self.scheduler.let_go(Box::new(rows)).await;
        }
    }
}

/// Whether an envelope is a paused sender's marketing mail that could go now.
fn is_due(waiting: &Waiting, sender: &Sender, now: Timestamp) -> bool {
    waiting.kind == StreamKind::Marketing
        && *waiting.credential == *sender.credential
        && *waiting.stream == *sender.stream
        && !waiting.held
        && waiting.due <= now
}

/// The first envelopes for whose recipients there is room, and how much of it they take: shares are of recipients, so what
/// goes is counted by them. One that is larger than all room goes when there is some, and its rest is owed.
fn within(room: f64, rows: impl Iterator<Item = (QueueId, u16)>) -> (Vec<QueueId>, f64) {
    let (mut ids, mut spent) = (Vec::new(), 0.0);
    for (id, recipients) in rows.take(TRICKLE_MAX) {
        if spent + 1.0 > room {
            break;
        }
        spent += f64::from(recipients.max(1));
        ids.push(id);
    }
    (ids, spent)
}

/// What `GET /v1/rates` answers.
pub(super) fn rates(harm: &Harm, span: &str, now: Timestamp) -> Result<Value, String> {
    let span = Span::ALL.into_iter().find(|known| known.name() == span);
    let span = span.ok_or_else(|| "span: hour, day or week is expected".to_owned())?;
    let (pauses, suspensions) = (harm.pauses(), harm.suspensions());
    let rows = harm.counts(span, now).into_iter().map(|(scope, counts)| {
        let name = scope.name();
        let held = match scope.kind() {
            "sender" => {
                pauses.iter().find(|(sender, _)| sender.to_string() == name).map(|(s, pause)| pause.sentence(s))
            }
            "credential" => suspensions.iter().find(|(own, _)| **own == *name).map(|(own, s)| s.sentence(own)),
            _ => None,
        };
        json!({
            "scope": scope.kind(),
            "name": name,
            "delivered": counts.delivered,
            "deferred": counts.deferred,
            "bounced": counts.bounced,
            "bounced_share": counts.bounce_share().0,
            "complained": counts.complained,
            "complained_of": counts.feedback,
            "complained_share": counts.complaint_share().0,
            "held": held,
        })
    });
    let rows: Vec<Value> = rows.collect();
    // A pause whose counts are of another span, or a person's suspension, is told all the same.
    let told = |kind: &str, name: &str| rows.iter().any(|row| row["scope"] == kind && row["name"] == name);
    let paused = pauses.iter().filter(|(sender, _)| !told("sender", &sender.to_string()));
    let paused = paused.map(
        |(sender, pause)| json!({ "scope": "sender", "name": sender.to_string(), "held": pause.sentence(sender) }),
    );
    let suspended = suspensions.iter().filter(|(name, _)| !told("credential", name));
    let suspended =
        suspended.map(|(name, s)| json!({ "scope": "credential", "name": &**name, "held": s.sentence(name) }));
    let more: Vec<Value> = paused.chain(suspended).collect();
    let storms = harm.storms().into_iter().map(|(site, since, share)| {
        json!({ "site": &*site, "since": since.rfc3339(), "share": share.recent, "usual": share.usual })
    });
    let storms: Vec<Value> = storms.collect();
    Ok(json!({ "span": span.name(), "rates": rows.into_iter().chain(more).collect::<Vec<_>>(), "storms": storms }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pause_lets_go_is_counted_by_recipients() {
        let rows = || [(1, 3), (2, 20), (3, 1)].into_iter().map(|(id, count)| (QueueId::from_u64(id), count));
        let went = |room| {
            let (ids, spent) = within(room, rows());
            (ids.len(), spent)
        };
        assert_eq!(went(0.9), (0, 0.0));
        assert_eq!(went(1.0), (1, 3.0), "the rest is owed");
        assert_eq!(went(3.0), (1, 3.0));
        assert_eq!(went(4.0), (2, 23.0));
        assert_eq!(went(24.0), (3, 24.0));
    }
}
