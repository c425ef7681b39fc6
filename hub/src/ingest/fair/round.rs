//! Whose batch the store takes next: deficit round robin over organisations, and within each over
//! its agents. No I/O, no clock.
//!
//! ```text
//! all ─▶ organisation ─▶ organisation ─▶ …       each turn brings QUANTUM bytes of credit
//!             └▶ agent ─▶ agent ─▶ …             each turn brings QUANTUM bytes of credit
//!                   └▶ events ≻ inventory ≻ …    the most urgent lane, first come first
//! ```
//! An organisation or agent whose next batch costs more than its credit goes to the end of its
//! ring with what it has; one that has nothing left to store loses it. So no two that are always
//! busy differ by more than a quantum and two batches, however many agents one of them has, and
//! who comes late waits at most for one turn of each other organisation.
//! (Source: M. Shreedhar, G. Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", 1996.)
//!
//! Of an agent one batch at a time is in the store's hands, so that its batches stay in order.

use std::collections::{BTreeMap, VecDeque};

use protocol::frame::Lane;
use protocol::ids::{AgentId, OrgId};

/// What a batch costs beside its bytes: a transaction has a price of its own, and a thousand
/// batches of one item must not pass for nothing.
pub(super) const BATCH_COST: u64 = 4 << 10;

/// How much may be in the store's hands at once. The last batch taken may exceed the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Batches.
    pub(super) batches: u64,
    /// What they cost, in bytes.
    pub(super) bytes: u64,
}

/// The bounds of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Credit of one turn, in bytes.
    pub(super) quantum: u64,
    /// Room of one organisation.
    pub(super) org: Room,
    /// Room of all together.
    pub(super) all: Room,
}

/// What is in the store's hands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    batches: u64,
    bytes: u64,
}

impl Load {
    fn fills(self, room: Room) -> bool {
        self.batches >= room.batches || self.bytes >= room.bytes
    }

    fn take(&mut self, cost: u64) {
        self.batches += 1;
        self.bytes += cost;
    }

    fn give_back(&mut self, cost: u64) {
        self.batches -= 1;
        self.bytes -= cost;
    }
}

/// The place of one session. A later session of the same agent takes it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeatId {
    agent: AgentId,
    number: u64,
}

/// Says who may give which lane's oldest batch to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    /// Who.
    pub(super) seat: SeatId,
    /// Of which lane.
    pub(super) lane: Lane,
}

/// What somebody may still take in its turn, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Credit {
    bytes: u64,
    /// Whether the turn that is under way has brought its quantum.
    is_given: bool,
}

impl Credit {
    /// Says whether a cost can be paid in this turn. If not, the turn is over.
    fn covers(&mut self, cost: u64, quantum: u64) -> bool {
        if self.bytes < cost && !self.is_given {
            self.bytes += quantum;
            self.is_given = true;
        }
        let covers = self.bytes >= cost;
        self.is_given &= covers;
        covers
    }

    fn pay(&mut self, cost: u64) {
        self.bytes = self.bytes.saturating_sub(cost);
        // Whoever did not need the quantum has had it.
        self.is_given = true;
    }

    /// Returns where in its ring somebody comes back to: who has credit left goes on with its turn.
    fn end(&mut self) -> End {
        self.is_given = self.bytes > 0;
        if self.is_given { End::Front } else { End::Back }
    }
}

#[derive(Debug)]
struct Agent {
    org: OrgId,
    /// The session that may wait; `None` once it has left.
    seat: Option<u64>,
    /// Costs of the batches that wait.
    waiting: BTreeMap<Lane, VecDeque<u64>>,
    turn: Credit,
    /// The session whose batch the store has, and what it costs.
    in_hand: Option<(u64, u64)>,
    is_queued: bool,
}

impl Agent {
    /// Returns the batch that goes first.
    fn head(&self) -> Option<(Lane, u64)> {
        let mut lanes = self.waiting.iter();
        lanes.find_map(|(lane, costs)| Some((*lane, *costs.front()?)))
    }

    fn is_ready(&self) -> bool {
        self.in_hand.is_none() && self.head().is_some()
    }
}

#[derive(Debug, Default)]
struct Org {
    /// Agents that are ready.
    ring: VecDeque<AgentId>,
    turn: Credit,
    /// Batches of its agents that wait, of those too that are not ready.
    waiting: u64,
    load: Load,
    /// Its agents that are known here.
    agents: u64,
    is_queued: bool,
}

/// Where in a ring somebody is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

fn put<T>(ring: &mut VecDeque<T>, item: T, end: End) {
    match end {
        End::Front => ring.push_front(item),
        End::Back => ring.push_back(item),
    }
}

/// Everybody who waits for the store.
#[derive(Debug)]
pub(super) struct Round {
    bounds: Bounds,
    agents: BTreeMap<AgentId, Agent>,
    orgs: BTreeMap<OrgId, Org>,
    /// Organisations with an agent that is ready, and with room.
    ring: VecDeque<OrgId>,
    load: Load,
    last_seat: u64,
}

impl Round {
    /// Makes a round in which nobody waits.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            agents: BTreeMap::new(),
            orgs: BTreeMap::new(),
            ring: VecDeque::new(),
            load: Load::default(),
            last_seat: 0,
        }
    }

    /// Gives a session its place. What an older one of the same agent waited for is forgotten.
    pub(super) fn sit(&mut self, org: OrgId, agent: AgentId) -> SeatId {
        self.last_seat += 1;
        let seat = SeatId {
            agent,
            number: self.last_seat,
        };
        self.clear(agent, None);
        if !self.agents.contains_key(&agent) {
            self.orgs.entry(org).or_default().agents += 1;
        }
        let place = self.agents.entry(agent).or_insert_with(|| Agent {
            org,
            seat: None,
            waiting: BTreeMap::new(),
            turn: Credit::default(),
            in_hand: None,
            is_queued: false,
        });
        place.seat = Some(seat.number);
        seat
    }

    /// Puts a batch of so many bytes behind those of its lane.
    pub(super) fn wait(&mut self, seat: SeatId, lane: Lane, bytes: u64) {
        let Some(agent) = self.seated(seat) else {
            return;
        };
        let cost = bytes.saturating_add(BATCH_COST);
        agent.waiting.entry(lane).or_default().push_back(cost);
        let id = agent.org;
        if let Some(org) = self.orgs.get_mut(&id) {
            org.waiting += 1;
        }
        self.queue(seat.agent, End::Back);
        self.queue_org(id, End::Back);
    }

    /// Forgets what waits of a lane.
    pub(super) fn withdraw(&mut self, seat: SeatId, lane: Lane) {
        if self.seated(seat).is_some() {
            self.clear(seat.agent, Some(lane));
        }
    }

    /// Returns of each organisation that is known here how many batches wait, and how many are in
    /// the store's hands.
    pub(super) fn lengths(&self) -> impl Iterator<Item = (OrgId, u64, u64)> {
        let orgs = self.orgs.iter();
        orgs.map(|(id, org)| (*id, org.waiting, org.load.batches))
    }

    /// Returns who goes next, if there is room: what is granted is in the store's hands until
    /// [`Round::done`].
    pub(super) fn grant(&mut self) -> Option<Grant> {
        if self.load.fills(self.bounds.all) {
            return None;
        }
        loop {
            let id = *self.ring.front()?;
            let org = self.orgs.get_mut(&id)?;
            let (agent, lane, cost) = next_of(org, &mut self.agents, self.bounds.quantum)?;
            if !org.turn.covers(cost, self.bounds.quantum) {
                self.ring.rotate_left(1);
                continue;
            }
            let place = self.agents.get_mut(&agent)?;
            let number = place.seat?;
            place.waiting.get_mut(&lane)?.pop_front();
            place.in_hand = Some((number, cost));
            place.is_queued = false;
            place.turn.pay(cost);
            if place.head().is_none() {
                place.turn = Credit::default();
            }
            org.ring.pop_front();
            org.waiting -= 1;
            org.turn.pay(cost);
            if org.waiting == 0 {
                org.turn = Credit::default();
            }
            org.load.take(cost);
            self.load.take(cost);
            if org.ring.is_empty() || org.load.fills(self.bounds.org) {
                org.is_queued = false;
                self.ring.pop_front();
            }
            let seat = SeatId { agent, number };
            return Some(Grant { seat, lane });
        }
    }

    /// Takes note that the store is done with the batch of a seat, whether or not that is still
    /// taken.
    pub(super) fn done(&mut self, seat: SeatId) {
        let Some(agent) = self.agents.get_mut(&seat.agent) else {
            return;
        };
        let Some((_, cost)) = agent.in_hand.filter(|(number, _)| *number == seat.number) else {
            return;
        };
        agent.in_hand = None;
        let id = agent.org;
        self.load.give_back(cost);
        if let Some(org) = self.orgs.get_mut(&id) {
            org.load.give_back(cost);
        }
        let end = agent.turn.end();
        self.queue(seat.agent, end);
        let org = self.orgs.get_mut(&id);
        if let Some(org) = org.filter(|org| !org.is_queued) {
            let end = org.turn.end();
            self.queue_org(id, end);
        }
        self.forget(seat.agent);
    }

    /// Gives a place up. What the store has of it stays there until [`Round::done`].
    pub(super) fn leave(&mut self, seat: SeatId) {
        let Some(agent) = self.seated(seat) else {
            return;
        };
        agent.seat = None;
        self.clear(seat.agent, None);
        self.forget(seat.agent);
    }

    fn seated(&mut self, seat: SeatId) -> Option<&mut Agent> {
        let agent = self.agents.get_mut(&seat.agent)?;
        (agent.seat == Some(seat.number)).then_some(agent)
    }

    /// Forgets what an agent waits for, of one lane or of all.
    fn clear(&mut self, id: AgentId, lane: Option<Lane>) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        let gone = match lane {
            Some(lane) => agent.waiting.remove(&lane).unwrap_or_default().len(),
            None => std::mem::take(&mut agent.waiting)
                .values()
                .map(VecDeque::len)
                .sum(),
        };
        let Some(org) = self.orgs.get_mut(&agent.org) else {
            return;
        };
        org.waiting -= u64::try_from(gone).unwrap_or(u64::MAX);
        if agent.head().is_none() {
            agent.turn = Credit::default();
        }
        if agent.is_queued && !agent.is_ready() {
            agent.is_queued = false;
            org.ring.retain(|other| *other != id);
        }
        if org.waiting == 0 {
            org.turn = Credit::default();
        }
        if org.is_queued && org.ring.is_empty() {
            org.is_queued = false;
            let org = agent.org;
            self.ring.retain(|other| *other != org);
        }
    }

    /// Puts an agent into its organisation's ring if it is ready.
    fn queue(&mut self, id: AgentId, end: End) {
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.is_queued || !agent.is_ready() {
            return;
        }
        agent.is_queued = true;
        if let Some(org) = self.orgs.get_mut(&agent.org) {
            put(&mut org.ring, id, end);
        }
    }

    /// Puts an organisation into the ring if it has an agent that is ready, and room.
    fn queue_org(&mut self, id: OrgId, end: End) {
        let Some(org) = self.orgs.get_mut(&id) else {
            return;
        };
        if !org.is_queued && !org.ring.is_empty() && !org.load.fills(self.bounds.org) {
            org.is_queued = true;
            put(&mut self.ring, id, end);
        }
    }

    /// Forgets an agent that has left and has nothing in the store's hands.
    fn forget(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else {
            return;
        };
        if agent.seat.is_some() || agent.in_hand.is_some() {
            return;
        }
        let id_of_org = agent.org;
        self.agents.remove(&id);
        if let Some(org) = self.orgs.get_mut(&id_of_org) {
            org.agents -= 1;
            if org.agents == 0 {
                self.orgs.remove(&id_of_org);
            }
        }
    }
}

/// Turns an organisation's ring until the agent at its front can pay for its next batch; returns
/// that batch.
fn next_of(
    org: &mut Org,
    agents: &mut BTreeMap<AgentId, Agent>,
    quantum: u64,
) -> Option<(AgentId, Lane, u64)> {
    loop {
        let id = *org.ring.front()?;
        let agent = agents.get_mut(&id)?;
        let (lane, cost) = agent.head()?;
        if agent.turn.covers(cost, quantum) {
            return Some((id, lane, cost));
        }
        org.ring.rotate_left(1);
    }
}

#[cfg(test)]
mod tests;
