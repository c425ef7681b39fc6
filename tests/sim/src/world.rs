//! The clock, what is due, and the ways between agents and hub.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use protocol::frame::Lane;
use protocol::session::agent::{Ended, StoredBatch};
use protocol::session::{CloseCode, Now};

use crate::agent::Agent;
use crate::chance::Chance;
use crate::hub::Hub;
use crate::identity::Card;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::wire::{Toward, Wire};
use crate::{Checked, Failure, Summary, violated};

/// Within which everything must be drained once faults have stopped: the longest pause before an
/// attempt, a silent connection noticed, a swallowed batch missed, and the work itself.
const DRAIN_MS: u64 = 500_000;

/// Lines of trace that a failure shows.
const TRACE: usize = 60;

/// Largest number of events in a run: a livelock without time passing is one too.
const EVENTS: u64 = 3_000_000;

/// Wall clock at the start, milliseconds since 1970 UTC.
const WALL_MS: i64 = 1_700_000_000_000;

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Event {
    /// A source of an agent has items.
    Source(usize),
    /// The timer of an agent's session, of one life of its process.
    AgentWake(usize, u64),
    /// The agent's process starts.
    AgentStart(usize),
    /// An attempt to connect is decided.
    Dialled(usize, u64),
    /// An attempt to connect has failed.
    NotReached(usize, u64),
    /// The spool answers.
    Fetched(usize, u64, Lane, Option<StoredBatch>),
    /// The agent hears that its connection ended.
    AgentHears(u64, Ended),
    /// The hub hears that a connection ended.
    HubHears(u64),
    /// A piece arrives.
    Arrives(u64, Toward, u8),
    /// The timer of a hub's session.
    HubWake(u64),
    /// A batch becomes durable.
    Durable(u64),
    /// The hub hears that it did.
    Answer(u64),
    /// The hub starts.
    HubStart,
    /// A session's certificate ends, or its time to renew one.
    CardEnds(u64),
    /// The certificate that an agent asked for over a connection, with the one it showed, is made.
    Certified(u64, usize, Card),
    /// A backup is made.
    Backup,
    /// A fault strikes.
    Fault,
}

/// Everything there is.
pub(crate) struct World {
    seed: u64,
    origin: Instant,
    pub(crate) now_ms: u64,
    due: BTreeMap<(u64, u64), Event>,
    counter: u64,
    pub(crate) chance: Chance,
    pub(crate) plan: Plan,
    pub(crate) agents: Vec<Agent>,
    pub(crate) hub: Hub,
    pub(crate) wires: BTreeMap<u64, Wire>,
    last_wire: u64,
    pub(crate) last_card: u64,
    pub(crate) partitioned_until_ms: u64,
    pub(crate) ledger: Ledger,
    pub(crate) summary: Summary,
    lines: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::of(&mut chance);
        let mut agents = Vec::new();
        for (org, count) in plan.orgs.iter().enumerate() {
            for _ in 0..*count {
                agents.push(Agent::new(agents.len(), org, &plan, &mut chance));
            }
        }
        let hub = Hub::new(plan.orgs.len(), chance.epoch());
        let mut world = Self {
            seed,
            origin: Instant::now(),
            now_ms: 0,
            due: BTreeMap::new(),
            counter: 0,
            chance,
            plan,
            agents,
            hub,
            wires: BTreeMap::new(),
            last_wire: 0,
            last_card: 0,
            partitioned_until_ms: 0,
            ledger: Ledger::default(),
            summary: Summary::default(),
            lines: VecDeque::new(),
        };
        world.enrol();
        for agent in 0..world.agents.len() {
            world.after(0, Event::AgentStart(agent));
            world.after(0, Event::Source(agent));
        }
        world.after(0, Event::Backup);
        world.after(1_000, Event::Fault);
        world.after(0, Event::HubStart);
        world
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Summary, Box<Failure>> {
        match self.play() {
            Ok(()) => {
                self.summary.virtual_ms = self.now_ms;
                self.summary.items = self.ledger.count();
                Ok(self.summary)
            }
            Err(violation) => Err(Box::new(Failure {
                seed: self.seed,
                at_ms: self.now_ms,
                what: violation.to_string(),
                trace: self.lines.into(),
            })),
        }
    }

    fn play(&mut self) -> Checked {
        let mut events = 0;
        let mut is_healed = false;
        while let Some(((at, _), event)) = self.due.pop_first() {
            events += 1;
            if events > EVENTS {
                return Err(violated("there is no end of events"));
            }
            if !is_healed && at >= self.plan.faults_ms {
                self.now_ms = self.plan.faults_ms;
                self.trace("faults end".to_owned());
                self.heal();
                is_healed = true;
            }
            self.now_ms = at;
            self.step(event)?;
            if is_healed {
                self.summary.drain_ms = self.now_ms - self.plan.faults_ms;
                if self.is_drained() {
                    return self.ledger.complete(&self.hub.stores);
                }
                if self.summary.drain_ms > DRAIN_MS {
                    return Err(violated(format!(
                        "not drained {DRAIN_MS} ms after the faults ended: {}",
                        self.what_waits()
                    )));
                }
            }
        }
        Err(violated(format!(
            "nothing is due and not everything is drained: {}",
            self.what_waits()
        )))
    }

    fn step(&mut self, event: Event) -> Checked {
        match event {
            Event::Source(agent) => self.source(agent),
            Event::AgentWake(agent, life) => self.agent_wakes(agent, life),
            Event::AgentStart(agent) => self.agent_starts(agent),
            Event::Dialled(agent, life) => self.dialled(agent, life),
            Event::NotReached(agent, life) => self.not_reached(agent, life),
            Event::Fetched(agent, session, lane, found) => {
                self.fetched(agent, session, lane, found)
            }
            Event::AgentHears(wire, ended) => self.agent_hears(wire, ended),
            Event::HubHears(wire) => {
                self.hub_hears(wire);
                Ok(())
            }
            Event::Arrives(wire, toward, stream) => self.arrives(wire, toward, stream),
            Event::HubWake(wire) => self.hub_wakes(wire),
            Event::Durable(job) => self.durable(job),
            Event::Answer(job) => self.answer(job),
            Event::HubStart => {
                self.hub.is_up = true;
                Ok(())
            }
            Event::CardEnds(wire) => {
                self.card_ends(wire);
                Ok(())
            }
            Event::Certified(wire, agent, shown) => self.certified(wire, agent, shown),
            Event::Backup => {
                self.backup();
                Ok(())
            }
            Event::Fault => self.fault(),
        }
    }

    fn is_drained(&self) -> bool {
        self.hub.is_idle() && self.agents.iter().all(|agent| self.is_agent_drained(agent))
    }

    fn what_waits(&self) -> String {
        let waiting = self.agents.iter().filter(|a| !self.is_agent_drained(a));
        let words: Vec<String> = waiting.map(|agent| self.explain(agent)).collect();
        format!("{} (hub up: {})", words.join("; "), self.hub.is_up)
    }

    /// Plans an event.
    pub(crate) fn after(&mut self, span_ms: u64, event: Event) {
        self.at(self.now_ms + span_ms, event);
    }

    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.counter += 1;
        self.due
            .insert((at_ms.max(self.now_ms), self.counter), event);
    }

    /// Returns the time on both clocks, with a wall clock that is off.
    pub(crate) fn now(&self, skew_ms: i64) -> Now {
        Now {
            at: self.origin + Duration::from_millis(self.now_ms),
            wall_ms: WALL_MS + i64::try_from(self.now_ms).unwrap_or(0) + skew_ms,
        }
    }

    /// Returns when an instant is, in milliseconds since the start.
    pub(crate) fn ms(&self, at: Instant) -> u64 {
        let span = at.saturating_duration_since(self.origin);
        u64::try_from(span.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    pub(crate) fn trace(&mut self, line: String) {
        if self.lines.len() >= TRACE {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>9} {line}", self.now_ms));
    }

    pub(crate) fn next_wire(&mut self) -> u64 {
        self.last_wire += 1;
        self.last_wire
    }

    /// Returns the connection that an agent uses.
    pub(crate) fn wire_of(&mut self, agent: usize) -> Option<&mut Wire> {
        let wire = self.agents.get(agent)?.wire?;
        self.wires.get_mut(&wire)
    }

    /// Puts bytes on their way.
    pub(crate) fn send(&mut self, wire: u64, toward: Toward, lane: Lane, mut bytes: Vec<u8>) {
        if let Some(found) = self.wires.get_mut(&wire).filter(|wire| wire.one_order) {
            bytes = found.way(toward).mix(lane, bytes);
        }
        while !bytes.is_empty() {
            let piece = if self.chance.is_one_in(4) && bytes.len() > 1 {
                let at = self.chance.index(bytes.len() - 1) + 1;
                let rest = bytes.split_off(at);
                std::mem::replace(&mut bytes, rest)
            } else {
                std::mem::take(&mut bytes)
            };
            let due = self.now_ms + self.chance.within(self.plan.delay_ms);
            let Some(found) = self.wires.get_mut(&wire) else {
                return;
            };
            let stream = found.stream_of(lane);
            let due = found.way(toward).push(stream, lane, piece, due);
            self.at(due, Event::Arrives(wire, toward, stream));
        }
    }

    fn arrives(&mut self, id: u64, toward: Toward, stream: u8) -> Checked {
        let Some(wire) = self.wires.get_mut(&id) else {
            return Ok(());
        };
        let agent = wire.agent;
        let Some(lane) = wire.way(toward).front(stream) else {
            return Ok(());
        };
        let way = wire.way(toward);
        if way.is_black_hole {
            way.pop(stream);
            return Ok(());
        }
        let mut not_before = way.frozen_until_ms;
        if toward == Toward::Agent {
            let paused = self.agents.get(agent).map_or(0, |a| a.paused_until_ms);
            not_before = not_before.max(paused);
        }
        if not_before > self.now_ms {
            self.at(not_before, Event::Arrives(id, toward, stream));
            return Ok(());
        }
        if toward == Toward::Hub && !self.plan.one_order && !self.hub.may_read(id, lane) {
            // The receiver's window of a stream is closed; one of all lanes is always read.
            self.after(5, Event::Arrives(id, toward, stream));
            return Ok(());
        }
        let Some(wire) = self.wires.get_mut(&id) else {
            return Ok(());
        };
        let Some((lane, mut piece)) = wire.way(toward).pop(stream) else {
            return Ok(());
        };
        let breaks = wire.spend(&mut piece);
        let holds = match toward {
            Toward::Hub => wire.hub_holds,
            Toward::Agent => wire.agent_holds,
        };
        let pieces = match wire.one_order {
            true => wire.way(toward).sort(&piece)?,
            false => vec![(lane, piece)],
        };
        for (lane, piece) in pieces.iter().filter(|_| holds) {
            match toward {
                Toward::Hub => self.hub_reads(id, *lane, piece)?,
                Toward::Agent => self.agent_reads(id, *lane, piece)?,
            }
        }
        if breaks {
            self.trace(format!("wire {id} of agent {agent} breaks"));
            self.break_wire(id, "the connection broke");
        }
        Ok(())
    }

    /// Ends a connection without a farewell: each side hears of it in its own time, or not.
    pub(crate) fn break_wire(&mut self, id: u64, reason: &str) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        for way in [&mut wire.to_hub, &mut wire.to_agent] {
            way.is_black_hole = true;
        }
        let is_heard = !self.chance.is_one_in(4);
        if is_heard {
            let span = self.chance.below(500);
            let reason = reason.to_owned();
            self.after(span, Event::AgentHears(id, Ended::Lost { reason }));
        }
        if !self.chance.is_one_in(4) {
            let span = self.chance.below(500);
            self.after(span, Event::HubHears(id));
        }
    }

    /// Closes a connection from the hub's side, with a code.
    pub(crate) fn close_from_hub(&mut self, id: u64, code: CloseCode, reason: &str) {
        self.trace(format!("hub closes wire {id}: {code}: {reason}"));
        self.hub.conns.remove(&id);
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        wire.hub_holds = false;
        let is_deaf = wire.to_agent.is_black_hole;
        let frozen = wire.to_agent.frozen_until_ms;
        wire.to_agent.is_black_hole = true;
        if is_deaf {
            return;
        }
        let due = (self.now_ms + self.chance.within(self.plan.delay_ms)).max(frozen);
        let ended = Ended::ByHub {
            code: Some(code),
            reason: reason.to_owned(),
        };
        self.at(due, Event::AgentHears(id, ended));
    }

    /// Forgets connections that nobody holds.
    pub(crate) fn forget_wire(&mut self, id: u64) {
        if self
            .wires
            .get(&id)
            .is_some_and(|wire| !wire.agent_holds && !wire.hub_holds)
        {
            self.wires.remove(&id);
        }
    }
}
