//! The engine's part for envelopes: put, taken out, due, on their way and back.

use std::time::Duration;

use super::lane::{self, Flow, FlowKey, place_of};
use super::slab::{ByTime, GONE, HEARD, HOLD, NONE, Row, State};
use super::words::{Order, Put, SourceHandle};
use super::{Engine, heap};
use crate::mail::QueueId;
use crate::time::Timestamp;

/// How long an envelope whose longest age passed while it could not be tried may still be tried.
pub const GRACE: Duration = Duration::from_secs(15 * 60);
/// Streams with a shorter longest age get no grace: an old login code is worse than none.
const GRACE_FROM: Duration = Duration::from_secs(3600);
/// How long an envelope is left alone that could not be leased or ended. Whoever has it will tell us before.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) fn put(&mut self, put: Put, out: &mut Vec<Order>) {
        let deadline = self.deadline(&put);
        if let Some(slot) = self.rows.find(put.id) {
            return self.change(slot, put, deadline, out);
        }
        let flow = self.flow(key_of(&put));
        self.flows[flow].rows += 1;
        let row = Row {
            id: put.id,
            due: put.due,
            deadline,
            flow,
            place: NONE,
            timer: NONE,
            recipients: put.recipients,
            state: State::Held,
            flags: 0,
        };
        let slot = self.rows.insert(row);
        if !put.held {
            self.place(slot, out);
        }
    }

    fn deadline(&self, put: &Put) -> Timestamp {
        let longest_age = put.expires_at.since(put.id.made_at());
        match longest_age >= GRACE_FROM {
            true => put.expires_at.max(self.now.after(GRACE)),
            false => put.expires_at,
        }
    }

    /// What is known of an envelope changed. On its way, a hold and its new deadline matter, and, if it comes back untried
    /// because another had its lease (an operator's order), when it is due: that other one has just let go of it.
    fn change(&mut self, slot: u32, put: Put, deadline: Timestamp, out: &mut Vec<Order>) {
        match self.rows[slot].state {
            State::Flying | State::Ending => {
                let row = &mut self.rows[slot];
                row.flags = HEARD | if put.held { row.flags | HOLD } else { row.flags & !HOLD };
                (row.due, row.deadline) = (put.due, deadline);
            }
            State::Free | State::Held | State::Later | State::Ready | State::Dying => {
                self.unplace(slot);
                self.refile(slot, key_of(&put), out);
                let row = &mut self.rows[slot];
                (row.due, row.deadline, row.recipients, row.flags) = (put.due, deadline, put.recipients, 0);
                if !put.held {
                    self.place(slot, out);
                }
            }
        }
    }

    pub(super) fn gone(&mut self, id: QueueId, out: &mut Vec<Order>) {
        let Some(slot) = self.rows.find(id) else { return };
        match self.rows[slot].state {
            State::Flying | State::Ending => self.rows[slot].flags |= GONE,
            State::Free | State::Held | State::Later | State::Ready | State::Dying => self.drop_row(slot, out),
        }
    }

    /// Forgets an envelope that is not on its way.
    pub(super) fn drop_row(&mut self, slot: u32, out: &mut Vec<Order>) {
        self.unplace(slot);
        let flow = self.rows[slot].flow;
        self.rows.remove(slot);
        self.release_flow(flow, out);
    }

    /// Puts a row where it belongs now: to the timers, into its flow, or to those that expire.
    pub(super) fn place(&mut self, slot: u32, out: &mut Vec<Order>) {
        let row = &mut self.rows[slot];
        if row.deadline <= self.now {
            row.state = State::Dying;
            self.dying.push_back(slot);
            return;
        }
        row.state = if row.due > self.now { State::Later } else { State::Ready };
        let is_ready = row.state == State::Ready;
        heap::push(&mut self.timers, &mut ByTime(&mut self.rows), slot);
        if is_ready {
            self.ready(slot, out);
        }
    }

    /// Takes a row out of whatever it is in. It is then nowhere, as if held.
    pub(super) fn unplace(&mut self, slot: u32) {
        match self.rows[slot].state {
            State::Later => self.untime(slot),
            State::Ready => {
                self.untime(slot);
                lane::pull_row(slot, &mut self.rows, &mut self.flows, &mut self.lanes);
            }
            // Its place in the line of the dying is passed over when it comes.
            State::Free | State::Held | State::Dying | State::Flying | State::Ending => {}
        }
        self.rows[slot].state = State::Held;
    }

    fn untime(&mut self, slot: u32) {
        heap::remove(&mut self.timers, &mut ByTime(&mut self.rows), slot);
    }

    fn ready(&mut self, slot: u32, out: &mut Vec<Order>) {
        let flow = self.rows[slot].flow;
        lane::push_row(slot, &mut self.rows, &mut self.flows, &mut self.lanes);
        match self.flows[flow].lane {
            NONE => self.attach_flow(flow, out),
            lane => self.want(lane, self.flows[flow].key.kind, out),
        }
    }

    /// Moves what is due from the timers to its flow, and what is too old to the line of the dying.
    pub(super) fn rows_due(&mut self, out: &mut Vec<Order>) {
        while let Some(slot) = self.timers.first().copied() {
            if self.rows[slot].wakes_at() > self.now {
                return;
            }
            self.unplace(slot);
            self.place(slot, out);
        }
    }

    /// An envelope comes back from a connection: dropped, held, or waiting until `due`. `stay`: the source to keep.
    pub(super) fn land(&mut self, slot: u32, due: Timestamp, stay: Option<SourceHandle>, out: &mut Vec<Order>) {
        let flags = self.rows[slot].flags;
        self.rows[slot].state = State::Held;
        self.rows[slot].flags = 0;
        if flags & GONE != 0 {
            return self.drop_row(slot, out);
        }
        let key = FlowKey { source: stay, ..self.flows[self.rows[slot].flow].key };
        self.refile(slot, key, out);
        self.rows[slot].due = due;
        if flags & HOLD == 0 {
            self.place(slot, out);
        }
    }

    /// When an envelope that could not be leased is looked at again.
    pub(super) fn again(&self, slot: u32) -> Timestamp {
        let row = &self.rows[slot];
        if row.flags & HEARD != 0 { row.due } else { self.now.after(AGAIN) }
    }

    /// Moves a row that is nowhere to the flow of another key.
    fn refile(&mut self, slot: u32, key: FlowKey, out: &mut Vec<Order>) {
        let old = self.rows[slot].flow;
        if self.flows[old].key == key {
            return;
        }
        let new = self.flow(key);
        self.flows[new].rows += 1;
        self.rows[slot].flow = new;
        self.release_flow(old, out);
    }

    fn flow(&mut self, key: FlowKey) -> u32 {
        if let Some(flow) = self.flow_of.get(&key) {
            return *flow;
        }
        let flow = self.flows.insert(Flow::new(key));
        self.flow_of.insert(key, flow);
        self.domain_gains(key.domain, flow);
        flow
    }

    fn release_flow(&mut self, flow: u32, out: &mut Vec<Order>) {
        self.flows[flow].rows -= 1;
        if self.flows[flow].rows > 0 {
            return;
        }
        let key = self.flows[flow].key;
        self.flow_of.remove(&key);
        self.flows.take(flow);
        self.domain_loses(key.domain, flow, out);
    }

    /// After pools or suspensions changed: every flow to the lane that is now right for it.
    pub(super) fn replace_flows(&mut self, out: &mut Vec<Order>) {
        let flows: Vec<u32> = self.flows.iter().map(|(flow, _)| flow).collect();
        for flow in flows {
            lane::detach(flow, &mut self.flows, &mut self.lanes);
            self.attach_flow(flow, out);
        }
    }

    /// Puts a flow with ready rows into the lane that its domain's hosts and its sources say, if these are known.
    pub(super) fn attach_flow(&mut self, flow: u32, out: &mut Vec<Order>) {
        let key = self.flows[flow].key;
        if self.flows[flow].ready.is_empty() {
            return;
        }
        if key.kind == crate::mail::StreamKind::Transactional {
            self.saw_transactional(key.domain.0);
        }
        if self.is_shut_out(flow) {
            return;
        }
        let Some(target) = self.target_of(key.domain.0, out) else { return };
        let lane = self.lane_for(target, self.via(&key));
        lane::attach(flow, lane, &mut self.flows, &mut self.lanes);
        debug_assert!(self.lanes[lane].waiting[place_of(key.kind)] > 0);
        self.want(lane, key.kind, out);
    }
}

fn key_of(put: &Put) -> FlowKey {
    FlowKey {
        domain: put.domain,
        credential: put.credential,
        stream: put.stream,
        pool: put.pool,
        source: put.source,
        kind: put.kind,
        rank: rank_of(put.priority, put.engaged),
    }
}

/// Lower goes first: by priority, then the engaged before others. 0 to 201.
fn rank_of(priority: u8, engaged: bool) -> u8 {
    2 * (100 - priority.min(100)) + u8::from(!engaged)
}
