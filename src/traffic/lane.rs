//! The order of what waits: flows of like envelopes, in lanes that share hosts and sources.
//!
//! A *flow* holds the ready envelopes of one domain, stream, pool, kind, priority and credential, by due time. A *lane*
//! holds the flows that go to the same target over the same sources, and says which comes next:
//!
//! ```text
//!   lane ─ levels, by kind, then priority ─ shares, by credential in turn ─ flows, by oldest due ─ rows, by due
//! ```
//! Used by the engine; it never looks at limits or time.

use super::heap::{self, Ranked};
use super::slab::{ByDue, NONE, Rows, Slab};
use super::words::{CredentialHandle, DomainHandle, PoolHandle, SourceHandle, StreamHandle};
use crate::mail::StreamKind;
use crate::time::Timestamp;

/// What one visit adds to a credential's deficit, in recipients. It may go into debt by one envelope and then waits.
const QUANTUM: i32 = 1;
/// The most that one envelope costs, so that a debt is paid within as many turns.
const COST_MAX: u16 = 32;

/// What makes two envelopes alike to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FlowKey {
    pub domain: DomainHandle,
    pub credential: CredentialHandle,
    pub stream: StreamHandle,
    pub pool: PoolHandle,
    pub source: Option<SourceHandle>,
    pub kind: StreamKind,
    /// 255 less the priority: the least goes first.
    pub rank: u8,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub key: FlowKey,
    /// The lane it stands in; none while it is empty or its domain unresolved.
    pub lane: u32,
    /// Envelopes that belong to it, ready or not.
    pub rows: u32,
    place: u32,
    oldest: Timestamp,
    pub ready: Vec<u32>,
}

impl Flow {
    pub fn new(key: FlowKey) -> Flow {
        Flow { key, lane: NONE, rows: 0, place: NONE, oldest: Timestamp::NEVER, ready: Vec::new() }
    }
}

struct ByOldest<'a>(&'a mut Slab<Flow>);

impl Ranked for ByOldest<'_> {
    fn rank(&self, slot: u32) -> (u64, u64) {
        (self.0[slot].oldest.as_millis(), u64::from(slot))
    }
    fn place(&self, slot: u32) -> u32 {
        self.0[slot].place
    }
    fn seat(&mut self, slot: u32, place: u32) {
        self.0[slot].place = place;
    }
}

/// Whose sources a lane uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Via {
    Pool(PoolHandle),
    /// The same for a domain whose own limits are of single sources: what one of them may not carry, another may.
    Own(PoolHandle, DomainHandle),
    /// Envelopes that keep a source.
    Source(SourceHandle),
}

#[derive(Debug)]
pub(super) struct Lane {
    pub target: u32,
    pub via: Via,
    levels: Vec<Level>,
    /// Ready envelopes, by kind.
    pub waiting: [u32; 2],
    /// Connections on their way for it, by kind.
    pub dialing: [u16; 2],
    /// Whether it stands in its site's line for slots, by kind.
    pub queued: [bool; 2],
    /// Which source is next.
    pub turn: u16,
    /// When it was last served, in grants of the engine.
    pub served: u64,
}

#[derive(Debug)]
struct Level {
    kind: StreamKind,
    rank: u8,
    turn: usize,
    shares: Vec<Share>,
}

#[derive(Debug)]
struct Share {
    credential: CredentialHandle,
    deficit: i32,
    flows: Vec<u32>,
}

/// A kind's place in arrays.
pub(super) fn place_of(kind: StreamKind) -> usize {
    match kind {
        StreamKind::Transactional => 0,
        StreamKind::Marketing => 1,
    }
}

impl Lane {
    pub fn new(target: u32, via: Via) -> Lane {
        let (waiting, dialing, queued) = ([0; 2], [0; 2], [false; 2]);
        Lane { target, via, levels: Vec::new(), waiting, dialing, queued, turn: 0, served: 0 }
    }

    /// Whether nothing refers to it any more.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.dialing == [0, 0] && self.queued == [false, false]
    }

    /// Whether its target is forgotten and it only stands in line any more.
    pub fn is_orphan(&self) -> bool {
        self.target == NONE && self.is_empty()
    }

    /// Whether more connections are wanted than are on their way.
    pub fn is_hungry(&self, kind: StreamKind) -> bool {
        self.waiting[place_of(kind)] > u32::from(self.dialing[place_of(kind)])
    }

    /// The priority of the next envelope of a kind, as its rank.
    pub fn best(&self, kind: StreamKind) -> Option<u8> {
        self.levels.get(self.first_level(kind)).filter(|level| level.kind == kind).map(|level| level.rank)
    }

    fn first_level(&self, kind: StreamKind) -> usize {
        self.levels.partition_point(|level| level.kind < kind)
    }

    fn add(&mut self, slot: u32, flows: &mut Slab<Flow>) {
        let key = flows[slot].key;
        let place = match self.levels.binary_search_by_key(&(key.kind, key.rank), |level| (level.kind, level.rank)) {
            Ok(place) => place,
            Err(place) => {
                self.levels.reserve_exact(1);
                self.levels.insert(place, Level { kind: key.kind, rank: key.rank, turn: 0, shares: Vec::new() });
                place
            }
        };
        let level = &mut self.levels[place];
        let place = match level.shares.binary_search_by_key(&key.credential, |share| share.credential) {
            Ok(place) => place,
            Err(place) => {
                if level.shares.is_empty() {
                    level.shares.reserve_exact(1);
                }
                level.shares.insert(place, Share { credential: key.credential, deficit: 0, flows: Vec::new() });
                if place < level.turn {
                    level.turn += 1;
                }
                place
            }
        };
        heap::push(&mut level.shares[place].flows, &mut ByOldest(flows), slot);
    }

    fn remove(&mut self, slot: u32, flows: &mut Slab<Flow>) {
        let key = flows[slot].key;
        let found = self.levels.binary_search_by_key(&(key.kind, key.rank), |level| (level.kind, level.rank));
        let Ok(level_place) = found else { return };
        let level = &mut self.levels[level_place];
        let found = level.shares.binary_search_by_key(&key.credential, |share| share.credential);
        let Ok(place) = found else { return };
        heap::remove(&mut level.shares[place].flows, &mut ByOldest(flows), slot);
        if level.shares[place].flows.is_empty() {
            level.shares.remove(place);
            if place < level.turn {
                level.turn -= 1;
            }
        }
        if level.shares.is_empty() {
            self.levels.remove(level_place);
        }
    }

    /// Moves a flow to where its new oldest envelope puts it, without touching anybody's turn.
    fn reseat(&mut self, slot: u32, oldest: Timestamp, flows: &mut Slab<Flow>) {
        let key = flows[slot].key;
        let found = self.levels.binary_search_by_key(&(key.kind, key.rank), |level| (level.kind, level.rank));
        let Ok(place) = found else { return };
        let level = &mut self.levels[place];
        let found = level.shares.binary_search_by_key(&key.credential, |share| share.credential);
        let Ok(place) = found else { return };
        let seats = &mut level.shares[place].flows;
        heap::remove(seats, &mut ByOldest(flows), slot);
        flows[slot].oldest = oldest;
        heap::push(seats, &mut ByOldest(flows), slot);
    }

    /// The flow whose turn it is, deficit round robin between credentials: each visit adds to a credential's deficit,
    /// and one with a positive deficit is served. [`Lane::pay`] takes the cost.
    pub fn choose(&mut self, kind: StreamKind) -> Option<u32> {
        let place = self.first_level(kind);
        let level = self.levels.get_mut(place).filter(|level| level.kind == kind)?;
        // At most COST_MAX rounds: every visit pays off some of a debt that is no greater.
        loop {
            let count = level.shares.len();
            level.turn = if level.turn >= count { 0 } else { level.turn };
            let share = level.shares.get_mut(level.turn)?;
            if share.deficit > 0 {
                return share.flows.first().copied();
            }
            share.deficit = (share.deficit + QUANTUM).min(QUANTUM);
            if share.deficit > 0 {
                return share.flows.first().copied();
            }
            level.turn += 1;
        }
    }

    /// Takes the cost of what was chosen, and gives the turn to the next credential.
    pub fn pay(&mut self, kind: StreamKind, recipients: u16) {
        let place = self.first_level(kind);
        let Some(level) = self.levels.get_mut(place).filter(|level| level.kind == kind) else { return };
        if let Some(share) = level.shares.get_mut(level.turn) {
            share.deficit -= i32::from(recipients.clamp(1, COST_MAX));
        }
        level.turn += 1;
    }
}

/// Puts a row into its flow, and the flow to its place in its lane. The flow may have none.
pub(super) fn push_row(slot: u32, rows: &mut Rows, flows: &mut Slab<Flow>, lanes: &mut Slab<Lane>) {
    let flow = rows[slot].flow;
    heap::push(&mut flows[flow].ready, &mut ByDue(rows), slot);
    if flows[flow].lane != NONE {
        lanes[flows[flow].lane].waiting[place_of(flows[flow].key.kind)] += 1;
    }
    settle_oldest(flow, rows, flows, lanes);
}

/// Takes a ready row out of its flow.
pub(super) fn pull_row(slot: u32, rows: &mut Rows, flows: &mut Slab<Flow>, lanes: &mut Slab<Lane>) {
    let flow = rows[slot].flow;
    heap::remove(&mut flows[flow].ready, &mut ByDue(rows), slot);
    if flows[flow].lane != NONE {
        lanes[flows[flow].lane].waiting[place_of(flows[flow].key.kind)] -= 1;
    }
    settle_oldest(flow, rows, flows, lanes);
}

/// After the first of a flow changed: moves the flow within its lane, or out of it when it is empty.
fn settle_oldest(flow: u32, rows: &Rows, flows: &mut Slab<Flow>, lanes: &mut Slab<Lane>) {
    let oldest = flows[flow].ready.first().map_or(Timestamp::NEVER, |slot| rows[*slot].due);
    let lane = flows[flow].lane;
    if flows[flow].oldest == oldest && !flows[flow].ready.is_empty() {
        return;
    }
    if lane == NONE {
        flows[flow].oldest = oldest;
        return;
    }
    match flows[flow].ready.is_empty() {
        true => {
            lanes[lane].remove(flow, flows);
            flows[flow].oldest = oldest;
            flows[flow].lane = NONE;
        }
        false => lanes[lane].reseat(flow, oldest, flows),
    }
}

/// Puts a flow with ready rows into a lane.
pub(super) fn attach(flow: u32, lane: u32, flows: &mut Slab<Flow>, lanes: &mut Slab<Lane>) {
    flows[flow].lane = lane;
    lanes[lane].waiting[place_of(flows[flow].key.kind)] += flows[flow].ready.len() as u32;
    lanes[lane].add(flow, flows);
}

/// Takes a flow out of its lane, if it stands in one.
pub(super) fn detach(flow: u32, flows: &mut Slab<Flow>, lanes: &mut Slab<Lane>) {
    let lane = flows[flow].lane;
    if lane != NONE {
        lanes[lane].remove(flow, flows);
        lanes[lane].waiting[place_of(flows[flow].key.kind)] -= flows[flow].ready.len() as u32;
        flows[flow].lane = NONE;
    }
}
