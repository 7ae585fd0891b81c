//! The life of a connection: connect, orders, end.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::accept::{Blocked, Via};
use crate::alarm;
use crate::events::Made;
use crate::mail::{EnhancedStatus, QueueId};
use crate::queue::{Lease, Settling};
use crate::smtp::dialog::Letter;
use crate::spool::ReadError;

use super::attempt::{Circumstances, Found, due_after, needs, round};
use super::letter;
use super::past::Sent;
use super::remark;
use super::session::{Farewell, Session};
use super::{ConnectionId, Event, Order, Plan, Tools};

/// Orders taken in before there is a connection; more wait in the channel.
const EARLY_MAX: usize = 16;

/// The way to the scheduler.
pub(super) struct Line {
    id: ConnectionId,
    events: mpsc::Sender<(ConnectionId, Event)>,
}

impl Line {
    pub fn new(id: ConnectionId, events: mpsc::Sender<(ConnectionId, Event)>) -> Line {
        Line { id, events }
    }

    pub async fn tell(&self, event: Event) {
        // A scheduler that is gone needs to know nothing.
        let _ = self.events.send((self.id, event)).await;
    }

    async fn settled(&self, settling: Settling, event: Event) {
        settling.written().await;
        self.tell(event).await;
    }
}

/// What became of an order.
enum Done {
    /// Nothing was written about the envelope.
    Told(Event, Option<Farewell>),
    /// To be concluded, and how long the transaction took.
    Attempted(Lease, Found, Duration),
    /// The same, without a word to the peer.
    Stopped(Lease, Found),
    /// Recipients got into the suppression list since it was accepted: nothing was said to the peer.
    Suppressed(Lease, Blocked),
}

/// Carries out orders until one of the two ends the connection.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin>(
    plan: &Plan,
    session: &mut Session<T>,
    early: &mut VecDeque<Order>,
    orders: &mut mpsc::Receiver<Order>,
    line: &Line,
    tools: &Tools,
) -> Farewell {
    // The settle of the last attempt, on its way to the disk while the next transaction's commands are on theirs.
    let mut unwritten = pin!(None);
    let farewell = loop {
        let order = match early.pop_front() {
            Some(order) => Some(order),
            None => tokio::select! {
                biased;
                () = finish(unwritten.as_mut()), if unwritten.is_some() => continue,
                () = session.unsolicited() => break Farewell::Gone,
                order = orders.recv() => order,
            },
        };
        let (id, recipients_max) = match order {
            Some(Order::Send { id, recipients_max }) => (id, usize::from(recipients_max)),
            Some(Order::Close) | None => break Farewell::Quit,
        };
        let (lease, found, event, took, now) =
            match attempt(plan, session, (id, recipients_max), line, tools, unwritten.as_mut()).await {
                Done::Told(event, farewell) => {
                    line.tell(event).await;
                    match farewell {
                        Some(farewell) => break farewell,
                        None => continue,
                    }
                }
                Done::Attempted(lease, mut found, took) => {
                    let now = tools.caller.clock().now();
                    remark::pass_on(&found.remarks, plan, lease.envelope(), tools, now).await;
                    tools.door.events().attempted(&plan.site, &plan.source.name, &found.attempt);
                    let due = due_after(lease.progress(), &found.attempt, now, lease.envelope().expires_at);
                    let (signal, words) = (found.signal, found.words.take());
                    (lease, found, Event::Settled { id, due, signal, words }, took, now)
                }
                Done::Suppressed(lease, blocked) => {
                    let now = tools.caller.clock().now();
                    let pending = lease.progress().recipients.iter().filter(|recipient| !recipient.state.is_final());
                    // The others go at once, in a transaction without these.
                    let due = (pending.count() > blocked.len()).then(|| lease.progress().due);
                    finish(unwritten.as_mut()).await;
                    let settling = tools.door.suppress(lease, &blocked, now).await;
                    unwritten.set(Some(line.settled(settling, Event::Postponed { id, due })));
                    continue;
                }
                Done::Stopped(lease, found) => {
                    let now = tools.caller.clock().now();
                    let due = due_after(lease.progress(), &found.attempt, now, lease.envelope().expires_at);
                    (lease, found, Event::Postponed { id, due }, Duration::ZERO, now)
                }
            };
        finish(unwritten.as_mut()).await;
        let made = Made { port: session.peer.place.port(), took };
        let via = Via { source: &plan.source.name, site: &plan.site, provider: &plan.provider, made };
        let settling = tools.door.conclude_with(lease, found.attempt, found.reports, via, now).await;
        unwritten.set(Some(line.settled(settling, event)));
        if !found.reusable {
            break Farewell::Gone;
        }
    };
    finish(unwritten.as_mut()).await;
    farewell
}

/// Waits for the last settle, if there is one.
async fn finish<F: Future<Output = ()>>(mut unwritten: Pin<&mut Option<F>>) {
    if let Some(settle) = unwritten.as_mut().as_pin_mut() {
        settle.await;
    }
    unwritten.set(None);
}

async fn attempt<T, F>(
    plan: &Plan,
    session: &mut Session<T>,
    (id, recipients_max): (QueueId, usize),
    line: &Line,
    tools: &Tools,
    unwritten: Pin<&mut Option<F>>,
) -> Done
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let mut lease = match tools.queue.lease(id).await {
        Ok(Some(lease)) => lease,
        Ok(None) => return Done::Told(Event::Skipped(id), None),
        Err(error) => {
            tracing::warn!(queue_id = %id, %error, "an envelope could not be read; it waits for an operator");
            alarm_if_damaged(tools, id, &error);
            return Done::Told(Event::Skipped(id), None);
        }
    };
    let envelope = lease.envelope().clone();
    let settings = tools.caller.settings();
    let recipients_max = session.offered.recipients_max.map_or(recipients_max, |offered| offered.min(recipients_max));
    let round = round(lease.progress(), Some(recipients_max));
    if round.places.is_empty() {
        return Done::Told(Event::Skipped(id), None);
    }
    let now = tools.caller.clock().now();
    let blocked = tools.door.blocked(&envelope, lease.progress(), now);
    tools.door.tell_bypassed(&envelope, lease.progress(), now);
    if !blocked.is_empty() {
        return Done::Suppressed(lease, blocked);
    }
    if let Some(author) = &envelope.author_domain
        && let Some(stop) = tools.stops.in_force(&plan.site, author, now).await
    {
        let everybody = super::attempt::round(lease.progress(), None).places;
        let found = circumstances(plan, session, &lease, tools).stopped(&everybody, &stop, (&plan.site, author));
        return Done::Stopped(lease, found);
    }
    let whose = plan.return_path;
    let rewritten = letter::envelope_out(tools, &envelope).map(|new| new.map_or_else(|| envelope.clone(), Arc::new));
    let composed = match rewritten {
        Ok(envelope) => letter::compose(tools, (&lease, &envelope), &session.offered, whose, now)
            .await
            .map(|content| (envelope, content)),
        Err(trouble) => Err(letter::Unsent::Undecided(trouble)),
    };
    let (envelope, content) = match composed {
        Ok(composed) => composed,
        Err(letter::Unsent::Undecided(trouble)) => {
            tracing::error!(queue_id = %id, %trouble, "the tables of [rewrite] give no answer; it is tried again later");
            let status = EnhancedStatus::new(4, 3, 0);
            let found = circumstances(plan, session, &lease, tools).unsent(&round.places, status, &trouble.to_string());
            return Done::Attempted(lease, found, Duration::ZERO);
        }
        Err(letter::Unsent::Unreadable(error)) => {
            tracing::warn!(queue_id = %id, %error, "a body could not be read; its envelope waits for an operator");
            alarm_if_damaged(tools, id, &error);
            return Done::Told(Event::Skipped(id), None);
        }
        Err(letter::Unsent::Unsigned(error)) => {
            tracing::error!(queue_id = %id, %error, "a message could not be signed; it is tried again later");
            let status = EnhancedStatus::new(4, 7, 0);
            let found = circumstances(plan, session, &lease, tools).unsent(&round.places, status, &error.to_string());
            return Done::Attempted(lease, found, Duration::ZERO);
        }
        Err(letter::Unsent::Refused(unsendable)) => {
            let found = circumstances(plan, session, &lease, tools).unsent(
                &round.places,
                unsendable.status(),
                &unsendable.to_string(),
            );
            return Done::Attempted(lease, found, Duration::ZERO);
        }
    };
    let needs = needs(&envelope, &content, whose);
    let letter = Letter { envelope: &envelope, places: &round.places, needs, return_path: whose };
    let first = session.transactions == 0;
    let history = tools.door.events().history();
    let mail_ms = history.steady_ms();
    let mut is_written = false;
    let is_first = lease.progress().attempts == 0;
    let (kind, begun) = (envelope.kind, envelope.accepted_at.max(lease.progress().due));
    let mail_written = async {
        is_written = true;
        if is_first {
            tools.door.events().first_mail(kind, tools.caller.clock().now().since(begun));
        }
        line.tell(Event::MailWritten(id)).await;
    };
    let dot = || lease.final_dot_sent();
    let began = Instant::now();
    let exchange = session.transact(&letter, &content, settings, mail_written, finish(unwritten), dot).await;
    let took = began.elapsed();
    tools.door.events().transacted(took);
    let done_ms = history.steady_ms();
    let found = circumstances(plan, session, &lease, tools).exchanged(&round, exchange, first);
    if is_written {
        let domain =
            envelope.recipients.first().map(|first| first.address.domain().as_str().into()).unwrap_or_default();
        let sent = Sent { plan, peer: &session.peer, id, domain, mail_ms, recipients: round.places.len() };
        sent.tell(history, done_ms, found.as_ref());
    }
    match found {
        Some(found) => Done::Attempted(lease, found, took),
        None => Done::Told(Event::Returned(id), Some(Farewell::Gone)),
    }
}

/// A disk that flips bits wants an operator; one that cannot be read just now gets another chance.
fn alarm_if_damaged(tools: &Tools, id: QueueId, error: &ReadError) {
    match error {
        ReadError::Damaged => {
            let (detail, now) = (format!("the message {id}: {error}"), tools.caller.clock().now());
            tools.door.alarms().event_about(id, alarm::Cause::MessageDamaged, "", &detail, now);
        }
        ReadError::Gone | ReadError::Unreadable(_) => {}
    }
}

fn circumstances<'a, T: AsyncRead + AsyncWrite>(
    plan: &'a Plan,
    session: &'a Session<T>,
    lease: &'a Lease,
    tools: &'a Tools,
) -> Circumstances<'a> {
    Circumstances {
        envelope: lease.envelope(),
        progress: lease.progress(),
        peer: &session.peer,
        source: &plan.source.name,
        dsn: session.offered.dsn && !lease.envelope().is_ours(plan.return_path),
        rules: tools.rules.load_full(),
        schedule: tools.caller.settings().retry_of(&lease.envelope().stream),
        now: tools.caller.clock().now(),
        jitter: fastrand::f64(),
    }
}

/// Waits, while the connection is being made, for an order to close it. Orders are kept in their order: one to close
/// behind one to send waits for that.
pub(super) async fn closing(orders: &mut mpsc::Receiver<Order>, early: &mut VecDeque<Order>) {
    while early.len() < EARLY_MAX {
        match orders.recv().await {
            Some(order @ Order::Send { .. }) => early.push_back(order),
            Some(Order::Close) | None if early.is_empty() => return,
            Some(Order::Close) | None => {
                early.push_back(Order::Close);
                break;
            }
        }
    }
    pending().await
}
