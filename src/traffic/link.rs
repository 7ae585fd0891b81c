//! The engine's part for connections: dialed, ready, busy, idle, closing, gone.

use std::time::Duration;

use super::Engine;
use super::gate::Charge;
use super::lane::place_of;
use super::site::NO_LANE;
use super::slab::State;
use super::words::{ConnectionHandle, Order, PlaceHandle, SourceHandle};
use crate::classify::{Feedback, Signal};
use crate::mail::{QueueId, StreamKind};
use crate::time::Timestamp;

/// A connection that vanished after MAIL: its lease settles as uncertain, and that is how long such waits at least.
const UNCERTAIN: Duration = Duration::from_secs(15 * 60);

/// What a connection is doing.
///
/// ```text
///   Dialing ─► Busy ⇄ Idle
///      └────────┴──────┴──► Closing ─► (Eof)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doing {
    Dialing,
    Busy,
    Idle(Timestamp),
    Closing,
}

/// Whether a reply that wants less of us is, or may be, about how many connections there are.
fn is_about_connections(signal: &Signal) -> bool {
    // A reaction says what there was too much of; if it was connections, they were lowered by it.
    signal.reaction.is_none()
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub source: SourceHandle,
    pub target: u32,
    /// Where its slot is counted, also if its target moved to another site.
    pub site: u32,
    /// For which it was dialed, while it is.
    pub lane: u32,
    /// The kind that holds its slot: that for which it is dialed, or of the envelope on it.
    pub kind: Option<StreamKind>,
    pub doing: Doing,
    /// The row of the envelope on it.
    pub carrying: Option<u32>,
    /// It carries more than was learned, for a probe: so many.
    pub tries: Option<u32>,
    /// Transactions done, and the most that there may be.
    pub done: u32,
    pub most: u32,
    pub mail_written: bool,
    /// What its envelope took of the windows.
    pub charge: Option<Charge>,
    /// The peer's address, once it is known.
    pub place: Option<PlaceHandle>,
}

impl Link {
    pub fn new(source: SourceHandle, target: u32, site: u32, lane: u32, kind: StreamKind) -> Link {
        Link {
            source,
            target,
            site,
            lane,
            kind: Some(kind),
            doing: Doing::Dialing,
            carrying: None,
            tries: None,
            done: 0,
            most: u32::MAX,
            mail_written: false,
            charge: None,
            place: None,
        }
    }
}

impl Engine {
    fn link(&self, connection: ConnectionHandle) -> Option<Link> {
        self.links.get(&connection.0).copied()
    }

    pub(super) fn connected(&mut self, connection: ConnectionHandle, most: Option<u32>, out: &mut Vec<Order>) {
        let Some(link) = self.link(connection).filter(|link| link.doing == Doing::Dialing) else { return };
        self.end_dial(connection.0);
        let configured = self.sites[link.site].limits.of(link.source).deliveries.unwrap_or(u32::MAX);
        self.change_link(connection.0, |link| link.most = configured.min(most.unwrap_or(u32::MAX)).max(1));
        self.reserve_ahead(link.site, None, link.source, out);
        self.boundary(connection.0, out);
        // It may have taken another lane's mail.
        self.want_both(link.lane, out);
    }

    /// A connection on its way for a lane is one no more; the lane may want another.
    fn want_both(&mut self, lane: u32, out: &mut Vec<Order>) {
        if lane != NO_LANE && self.lanes.get(lane).is_some() {
            for kind in [StreamKind::Transactional, StreamKind::Marketing] {
                self.want(lane, kind, out);
            }
        }
    }

    pub(super) fn refused(&mut self, connection: ConnectionHandle, signal: Signal, out: &mut Vec<Order>) {
        let Some(link) = self.link(connection).filter(|link| link.doing != Doing::Closing) else { return };
        let lane = link.lane;
        self.end_dial(connection.0);
        self.react(&link, None, &signal, out);
        self.trouble(connection.0, out);
        // Another source may be better off, or another slot of this one.
        self.want_both(lane, out);
    }

    /// Ends what dialing meant for the lane, and frees the slot's kind.
    pub(super) fn end_dial(&mut self, number: u32) {
        let Some(link) = self.links.get(&number).copied() else { return };
        if link.doing == Doing::Dialing {
            self.sites[link.site].path_mut(link.source).dialing -= 1;
            self.discharge_dial(link.site, link.source);
            // What it does now is the caller's to say; that it dials is over.
            self.change_link(number, |link| link.doing = Doing::Busy);
        }
        if link.doing == Doing::Dialing
            && let Some(kind) = link.kind
            && let Some(lane) = self.lanes.get_mut(link.lane)
        {
            lane.dialing[place_of(kind)] -= 1;
        }
        self.release_kind(number);
        self.change_link(number, |link| link.lane = NO_LANE);
    }

    fn change_link(&mut self, number: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(&number) {
            change(link);
        }
    }

    pub(super) fn release_kind(&mut self, number: u32) {
        let Some(link) = self.links.get_mut(&number) else { return };
        if link.kind.take() == Some(StreamKind::Marketing) {
            self.sites[link.site].path_mut(link.source).marketing -= 1;
        }
    }

    /// The peer refuses or broke this connection: what that says about the source, and no further use of it.
    fn trouble(&mut self, number: u32, out: &mut Vec<Order>) {
        self.close(number, out);
        self.blame(number);
    }

    /// What a closed connection's end says about its source at the site.
    fn blame(&mut self, number: u32) {
        let (now, jitter) = (self.steady(), self.jitter);
        let Some(link) = self.links.get(&number).copied() else { return };
        let path = self.sites[link.site].path_mut(link.source);
        path.refused(now, jitter, path.open - path.closing);
        self.arm_site(link.site);
    }

    /// What a reply within a transaction says about the source, beyond its own message.
    fn heed(&mut self, number: u32, domain: u32, signal: &Signal, out: &mut Vec<Order>) {
        let Some(link) = self.links.get(&number).copied() else { return };
        self.react(&link, Some(domain), signal, out);
        match signal.feedback {
            Feedback::Good => {
                self.prove(link.site);
                self.raise(&link, out);
            }
            // It answers, so it is alive; whether it wants more of us is not known.
            Feedback::Neutral => self.prove(link.site),
            Feedback::Broken => self.trouble(number, out),
            // A reply that says what there was too much of says nothing about the number of connections.
            Feedback::Slower if !is_about_connections(signal) => self.close(number, out),
            Feedback::Slower => self.trouble(number, out),
        }
    }

    /// Tells a connection to close, if it was not told yet.
    pub(super) fn close(&mut self, number: u32, out: &mut Vec<Order>) {
        if self.shut(number) {
            out.push(Order::Close(ConnectionHandle(number)));
        }
    }

    /// Takes a connection out of use. False: it was already.
    fn shut(&mut self, number: u32) -> bool {
        let Some(link) = self.links.get(&number).copied() else { return false };
        match link.doing {
            Doing::Closing => return false,
            Doing::Dialing => self.end_dial(number),
            Doing::Idle(since) => self.unidle(number, since),
            // Its envelope comes back by Settled, Returned or Eof.
            Doing::Busy => {}
        }
        self.sites[link.site].path_mut(link.source).closing += 1;
        self.closing += 1;
        self.change_link(number, |link| link.doing = Doing::Closing);
        true
    }

    pub(super) fn unidle(&mut self, number: u32, since: Timestamp) {
        self.idle.remove(&(since, number));
        let Some(link) = self.links.get(&number) else { return };
        let idle = &mut self.targets[link.target].idle;
        if let Some(place) = idle.iter().rposition(|(_, other)| *other == number) {
            idle.remove(place);
        }
    }

    pub(super) fn mail_written(&mut self, connection: ConnectionHandle, id: QueueId) {
        if self.flying(connection, id).is_some() {
            self.change_link(connection.0, |link| link.mail_written = true);
        }
    }

    /// The row that is on its way over this connection under this name.
    fn flying(&self, connection: ConnectionHandle, id: QueueId) -> Option<u32> {
        let slot = self.rows.find(id)?;
        let row = &self.rows[slot];
        (row.state == State::Flying && row.place == connection.0).then_some(slot)
    }

    pub(super) fn settled(
        &mut self,
        connection: ConnectionHandle,
        id: QueueId,
        due: Option<Timestamp>,
        signal: Signal,
        out: &mut Vec<Order>,
    ) {
        let (Some(slot), Some(link)) = (self.flying(connection, id), self.link(connection)) else { return };
        let domain = self.flows[self.rows[slot].flow].key.domain.0;
        if link.charge.is_some_and(|charge| charge.warmup.is_some()) {
            self.warmup_settled(&link, due.is_none(), &signal);
        }
        self.transaction_over(connection.0);
        match due {
            None => {
                self.rows[slot].state = State::Held;
                self.drop_row(slot, out);
            }
            // What was deferred stays with its source: greylisting knows it by that. A refused source is not kept.
            Some(due) => {
                let stay = (signal.feedback == Feedback::Neutral).then_some(link.source);
                self.land(slot, due, stay, out);
            }
        }
        self.heed(connection.0, domain, &signal, out);
        self.boundary(connection.0, out);
    }

    fn transaction_over(&mut self, number: u32) {
        self.discharge(number);
        self.release_kind(number);
        self.change_link(number, |link| {
            link.done = link.done.saturating_add(1);
            link.mail_written = false;
            link.carrying = None;
        });
    }

    /// A site took its first message: its connections no longer count among the unproven.
    fn prove(&mut self, site: u32) {
        if !self.sites[site].proven {
            self.sites[site].proven = true;
            self.unproven -= self.sites[site].open;
            if self.sites[site].starved {
                self.starved[0].push_back(site);
            }
        }
    }

    pub(super) fn skipped(&mut self, connection: ConnectionHandle, id: QueueId, out: &mut Vec<Order>) {
        let Some(slot) = self.flying(connection, id) else { return };
        self.discharge(connection.0);
        self.release_kind(connection.0);
        let again = self.again(slot);
        let source = self.flows[self.rows[slot].flow].key.source;
        self.land(slot, again, source, out);
        self.boundary(connection.0, out);
    }

    pub(super) fn returned(&mut self, connection: ConnectionHandle, id: QueueId, out: &mut Vec<Order>) {
        let Some(slot) = self.flying(connection, id) else { return };
        self.discharge(connection.0);
        self.close(connection.0, out);
        self.blame_if_fresh(connection.0);
        let source = self.flows[self.rows[slot].flow].key.source;
        let due = self.rows[slot].due;
        self.land(slot, due, source, out);
    }

    /// The peer closed a connection under us. After a transaction that is any peer's right when it was idle; before the
    /// first it is a refusal, and must not be tried again and again.
    fn blame_if_fresh(&mut self, number: u32) {
        self.release_kind(number);
        if self.links.get(&number).is_some_and(|link| link.done == 0) {
            self.blame(number);
        }
    }

    pub(super) fn eof(&mut self, connection: ConnectionHandle, out: &mut Vec<Order>) {
        let number = connection.0;
        let Some(link) = self.link(connection) else { return };
        // One that was told to close while busy may still have its envelope.
        let left = self.left_on(number);
        self.discharge(number);
        self.shut(number);
        match link.doing {
            Doing::Dialing | Doing::Busy => self.blame_if_fresh(number),
            Doing::Idle(_) | Doing::Closing => {}
        }
        self.release_kind(number);
        self.links.remove(&number);
        self.left(&link, out);
        let site = &mut self.sites[link.site];
        site.open -= 1;
        let path = site.path_mut(link.source);
        path.open -= 1;
        path.closing -= 1;
        self.closing -= 1;
        if !site.proven {
            self.unproven -= 1;
        }
        if let Some(slot) = left {
            let source = self.flows[self.rows[slot].flow].key.source;
            let due = if link.mail_written { self.now.after(UNCERTAIN) } else { self.rows[slot].due };
            self.land(slot, due, source, out);
        }
        if link.doing == Doing::Dialing {
            self.want_both(link.lane, out);
        }
        self.targets[link.target].links -= 1;
        self.forget_target_if_unused(link.target, out);
        self.arm_site(link.site);
        self.feed(link.site, out);
    }

    fn left_on(&self, number: u32) -> Option<u32> {
        let slot = self.links.get(&number)?.carrying?;
        let row = &self.rows[slot];
        (row.state == State::Flying && row.place == number).then_some(slot)
    }

    pub(super) fn close_idle(&mut self, out: &mut Vec<Order>) {
        let now = self.steady();
        while let Some((since, number)) = self.idle.first().copied() {
            if since.after(self.rules.idle) > now {
                return;
            }
            self.close(number, out);
        }
    }

    /// Closes the idle connections that an operator stopped; busy ones close at their next boundary.
    pub(super) fn close_unusable(&mut self, out: &mut Vec<Order>) {
        let idle: Vec<u32> = self.idle.iter().map(|(_, number)| *number).collect();
        for number in idle {
            if self.links.get(&number).is_some_and(|link| self.is_stopped(link.source, link.site)) {
                self.close(number, out);
            }
        }
    }
}
