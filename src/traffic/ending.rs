//! The engine's part for envelopes that end without a peer: expired, or for a domain that takes no mail.

use super::Engine;
use super::slab::{GONE, State};
use super::words::{Ending, Order};
use crate::mail::QueueId;

/// Orders to end an envelope at once. Each is a read, a DSN and a write; the rest wait in line.
const ENDING_MAX: u32 = 64;

impl Engine {
    pub(super) fn end_more(&mut self, out: &mut Vec<Order>) {
        while self.ending < ENDING_MAX {
            let Some(slot) = self.dying.pop_front() else { break };
            // What left the line meanwhile (held, gone, its row another's) is not in this state.
            if self.rows[slot].state == State::Dying {
                self.end(slot, Order::Expire, out);
            }
        }
        while self.ending < ENDING_MAX {
            let Some(domain) = self.failing.front().copied() else { return };
            match self.next_failing(domain) {
                Some(slot) => self.end(slot, Order::Fail, out),
                None => {
                    self.failing.pop_front();
                    if let Some(known) = self.domains.get_mut(domain) {
                        known.in_failing = false;
                    }
                }
            }
        }
    }

    fn end(&mut self, slot: u32, order: fn(QueueId, super::words::DomainHandle) -> Order, out: &mut Vec<Order>) {
        self.unplace(slot);
        self.rows[slot].state = State::Ending;
        self.ending += 1;
        out.push(order(self.rows[slot].id, self.flows[self.rows[slot].flow].key.domain));
    }

    pub(super) fn ended(&mut self, id: QueueId, ending: Ending, out: &mut Vec<Order>) {
        let Some(slot) = self.rows.find(id).filter(|slot| self.rows[*slot].state == State::Ending) else { return };
        self.ending -= 1;
        match ending {
            Ending::Done => {
                self.rows[slot].state = State::Held;
                self.drop_row(slot, out);
            }
            Ending::Again => {
                let again = self.again(slot);
                let row = &mut self.rows[slot];
                // It still must not be sent; it is only not ended before then.
                if row.deadline <= self.now && row.flags & GONE == 0 {
                    row.deadline = again;
                }
                let source = self.flows[self.rows[slot].flow].key.source;
                self.land(slot, again, source, out);
            }
        }
    }
}
