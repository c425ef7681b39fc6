//! The agent's shell: does what the session's core says, over a model of the spool.

use std::collections::{BTreeMap, VecDeque};

use protocol::batch::SealedBatch;
use protocol::frame::{Decoder, Frame, Lane};
use protocol::limits;
use protocol::session::CloseCode;
use protocol::session::agent::{self, Ended, Output, Session, StoredBatch};
use protocol::wire::v1::Epoch;

use crate::chance::Chance;
use crate::identity::Folder;
use crate::plan::Plan;
use crate::spool::{Key, Released, Spool, State};
use crate::wire::{Toward, Wire};
use crate::world::{Event, World};
use crate::{Checked, Violation, violated};

/// Copies of the disk that are kept.
const SNAPSHOTS: usize = 4;

/// How long an attempt to connect may take.
const CONNECT_MS: u64 = 10_000;

/// What the agent's transport does wrong to the next batch.
#[derive(Debug, Default)]
pub(crate) struct Meddling {
    pub(crate) double: bool,
    pub(crate) swallow: bool,
}

/// One agent: its disk, its process and its connection.
pub(crate) struct Agent {
    pub(crate) org: usize,
    pub(crate) spool: Spool,
    pub(crate) skew_ms: i64,
    pub(crate) paused_until_ms: u64,
    pub(crate) wire: Option<u64>,
    pub(crate) meddling: Meddling,
    /// Its certificates; `None` before it is enrolled.
    pub(crate) folder: Option<Folder>,
    session: Option<Session>,
    /// Counts sessions: what is due for an earlier one is not for this one.
    session_no: u64,
    wake_ms: Option<u64>,
    /// What to tell the session when the connection has ended, where this side ended it.
    ending: Option<Ended>,
    snapshots: VecDeque<State>,
    /// Frames that were sent and not acknowledged, on this connection.
    in_flight: BTreeMap<(Lane, u64), u64>,
    /// How far the hub was known to be, by epoch.
    acked: BTreeMap<(Lane, Epoch), u64>,
    last_frame: Option<(Lane, Vec<u8>)>,
}

impl Agent {
    pub(crate) fn new(index: usize, org: usize, plan: &Plan, chance: &mut Chance) -> Self {
        let state = State::new(chance.epoch());
        let spool = Spool {
            durable: state.clone(),
            current: state,
            full_until_ms: 0,
            keep_ms: plan.keep_ms,
            max_bytes: plan.spool_bytes,
            owner: u32::try_from(index).unwrap_or(u32::MAX),
            largest: plan.item_bytes,
            key: Key::new(),
        };
        Self {
            org,
            spool,
            skew_ms: 0,
            paused_until_ms: 0,
            wire: None,
            meddling: Meddling::default(),
            folder: None,
            session: None,
            session_no: 0,
            wake_ms: None,
            ending: None,
            snapshots: VecDeque::new(),
            in_flight: BTreeMap::new(),
            acked: BTreeMap::new(),
            last_frame: None,
        }
    }

    pub(crate) fn snapshot(&mut self) {
        if self.snapshots.len() >= SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.snapshots.push_back(self.spool.durable.clone());
    }
}

/// What a close that the session asked for means: the hub's own farewell keeps its code.
fn ending(code: CloseCode, reason: String) -> Ended {
    match code {
        CloseCode::Protocol | CloseCode::Silent => Ended::Lost { reason },
        CloseCode::Done
        | CloseCode::Unenrolled
        | CloseCode::Revoked
        | CloseCode::Suspended
        | CloseCode::Superseded
        | CloseCode::Busy
        | CloseCode::Version
        | CloseCode::Store => Ended::ByHub {
            code: Some(code),
            reason,
        },
    }
}

fn frame_of(lane: Lane, bytes: &[u8]) -> Result<Frame, Violation> {
    let mut decoder = Decoder::new(lane);
    decoder.push(bytes);
    let frame = decoder.pop().ok().flatten();
    frame.ok_or_else(|| violated("the agent's core sends what is no frame"))
}

impl World {
    /// Returns the core of an agent while its process lives.
    pub(crate) fn session_of(&mut self, index: usize) -> Option<&mut Session> {
        self.agents.get_mut(index)?.session.as_mut()
    }

    /// Changes the session of an agent, and does what it then says.
    fn with_session(&mut self, index: usize, change: impl FnOnce(&mut Session)) -> Checked {
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        let Some(session) = agent.session.as_mut() else {
            return Ok(());
        };
        change(session);
        self.run_agent(index)
    }

    /// Does what the core of an agent says.
    fn run_agent(&mut self, index: usize) -> Checked {
        loop {
            let Some(agent) = self.agents.get_mut(index) else {
                return Ok(());
            };
            let no = agent.session_no;
            let Some(session) = agent.session.as_mut() else {
                return Ok(());
            };
            let Some(output) = session.poll_output() else {
                return self.plan_wake(index);
            };
            match output {
                Output::Dial => {
                    self.ledger.dials(index, self.now_ms)?;
                    self.summary.dials += 1;
                    let span = self.chance.within(self.plan.delay_ms) * 2;
                    self.after(span, Event::Dialled(index, no));
                }
                Output::Send { lane, bytes } => self.agent_sends(index, lane, bytes)?,
                Output::Fetch { lane, after_seq } => {
                    // What is answered may be old when it comes.
                    let found = agent.spool.fetch(lane, after_seq, self.now_ms);
                    let span = self.chance.below(self.plan.fetch_ms + 1);
                    self.after(span, Event::Fetched(index, no, lane, found));
                }
                Output::Release { lane, through_seq } => self.release(index, lane, through_seq)?,
                Output::Remember(witness) => agent.spool.remember(witness, self.now_ms),
                // The model keeps no scopes.
                Output::SetBack { .. }
                | Output::Repair { .. }
                | Output::Trust(_)
                | Output::NotRenewed(_) => {}
                Output::StoreCertificate(chain) => self.store_card(index, &chain)?,
                Output::ShowOlder => {
                    if let Some(folder) = &mut agent.folder {
                        folder.passed_over += 1;
                    }
                    self.summary.older_shown += 1;
                    self.trace(format!("agent {index} shows an older certificate"));
                }
                Output::ComeBack => {
                    let (wire, skew_ms) = (agent.wire.take(), agent.skew_ms);
                    if let Some(wire) = wire {
                        self.hang_up(wire);
                        self.let_go(wire);
                    }
                    self.trace(format!("agent {index} comes back with its certificate"));
                    let now = self.now(skew_ms);
                    let reason = "renewed".to_owned();
                    if let Some(session) = self.session_of(index) {
                        session.handle_disconnected(Ended::Lost { reason }, now);
                    }
                }
                Output::ForgetScope(_) => agent.spool.forget_contents(self.now_ms),
                Output::Close { code, reason } => {
                    let Some(wire) = agent.wire else { continue };
                    agent.ending = Some(ending(code, reason.clone()));
                    self.trace(format!(
                        "agent {index} closes wire {wire}: {code}: {reason}"
                    ));
                    self.hang_up(wire);
                    let reason = "closed".to_owned();
                    self.after(1, Event::AgentHears(wire, Ended::Lost { reason }));
                }
                Output::Stop { code, reason } => {
                    return Err(violated(format!("agent {index} gave up: {code}: {reason}")));
                }
            }
        }
    }

    fn plan_wake(&mut self, index: usize) -> Checked {
        let Some(agent) = self.agents.get(index) else {
            return Ok(());
        };
        let due = agent.session.as_ref().and_then(Session::poll_timeout);
        let due = due.map(|at| self.ms(at));
        let no = agent.session_no;
        if let Some(due) = due.filter(|due| agent.wake_ms != Some(*due)) {
            self.at(due, Event::AgentWake(index, no));
        }
        if let Some(agent) = self.agents.get_mut(index) {
            agent.wake_ms = due;
        }
        Ok(())
    }

    /// Returns until when an agent stands still, if it does.
    fn pause_of(&self, index: usize) -> Option<u64> {
        let until = self.agents.get(index)?.paused_until_ms;
        (until > self.now_ms).then_some(until)
    }

    pub(crate) fn agent_wakes(&mut self, index: usize, no: u64) -> Checked {
        if let Some(until) = self.pause_of(index) {
            self.at(until, Event::AgentWake(index, no));
            return Ok(());
        }
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if agent.session_no != no {
            return Ok(());
        }
        agent.wake_ms = None;
        let (waiting, skew_ms) = (agent.spool.waiting(), agent.skew_ms);
        let now = self.now(skew_ms);
        self.with_session(index, |session| {
            session.set_waiting(waiting);
            session.handle_timeout(now);
        })
    }

    pub(crate) fn agent_starts(&mut self, index: usize) -> Checked {
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if agent.session.is_some() {
            return Ok(());
        }
        self.trace(format!("agent {index} starts"));
        self.begin_session(index)
    }

    fn begin_session(&mut self, index: usize) -> Checked {
        let seed = self.chance.number();
        let skew_ms = self.agents.get(index).map_or(0, |agent| agent.skew_ms);
        let now = self.now(skew_ms);
        let folder = self.agents.get_mut(index).and_then(|a| a.folder.as_mut());
        let folder = folder.map(|folder| {
            // A process that begins shows the newest.
            folder.passed_over = 0;
            folder.clone()
        });
        let certificate = folder.map(|folder| self.certificate(&folder));
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        let config = agent::Config {
            agent_version: "0.0.0".to_owned(),
            epoch: agent.spool.current.epoch,
            witness: agent.spool.current.witness,
            process: seed,
            seed,
            certificate,
            is_brief: false,
        };
        agent.session = Some(Session::new(config, now));
        agent.session_no += 1;
        agent.wake_ms = None;
        self.run_agent(index)
    }

    /// An attempt to connect comes to its end.
    pub(crate) fn dialled(&mut self, index: usize, no: u64) -> Checked {
        if let Some(until) = self.pause_of(index) {
            self.at(until, Event::Dialled(index, no));
            return Ok(());
        }
        let Some(agent) = self.agents.get(index) else {
            return Ok(());
        };
        if agent.session_no != no || agent.session.is_none() {
            return Ok(());
        }
        let is_reached = self.hub.is_up && self.partitioned_until_ms <= self.now_ms;
        if !is_reached {
            let span = if self.chance.is_one_in(2) {
                CONNECT_MS
            } else {
                0
            };
            self.after(span, Event::NotReached(index, no));
            return Ok(());
        }
        let id = self.next_wire();
        self.trace(format!("agent {index} connects: wire {id}"));
        self.wires.insert(id, Wire::new(index, self.plan.one_order));
        if let Some(agent) = self.agents.get_mut(index) {
            agent.wire = Some(id);
            agent.ending = None;
            agent.in_flight.clear();
        }
        self.admit(id, index);
        let skew_ms = self.agents.get(index).map_or(0, |agent| agent.skew_ms);
        let now = self.now(skew_ms);
        self.with_session(index, |session| session.handle_connected(now))
    }

    /// The hub could not be reached.
    pub(crate) fn not_reached(&mut self, index: usize, no: u64) -> Checked {
        if self.agents.get(index).is_none_or(|a| a.session_no != no) {
            return Ok(());
        }
        let now = self.now(0);
        let reason = "no answer".to_owned();
        self.with_session(index, |session| {
            session.handle_disconnected(Ended::Lost { reason }, now);
        })
    }

    fn agent_sends(&mut self, index: usize, lane: Lane, bytes: Vec<u8>) -> Checked {
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        let Some(wire) = agent.wire else {
            return Ok(());
        };
        let mut times = 1;
        if lane != Lane::Control {
            let frame = frame_of(lane, &bytes)?;
            let sealed = SealedBatch::parse(&frame)
                .map_err(|error| violated(format!("the agent's core sends no batch: {error}")))?;
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let last_seq = sealed.header.last_seq();
            agent.in_flight.insert((lane, last_seq), length);
            let range = (lane, 0)..=(lane, u64::MAX);
            let sum: u64 = agent.in_flight.range(range).map(|(_, bytes)| bytes).sum();
            let frame_bytes = u64::try_from(limits::FRAME_BYTES).unwrap_or(u64::MAX);
            if sum > limits::lane_credit_bytes(lane) + frame_bytes {
                return Err(violated(format!(
                    "agent {index} has {sum} bytes in flight on {lane:?}"
                )));
            }
            agent.last_frame = Some((lane, bytes.clone()));
            if std::mem::take(&mut agent.meddling.double) {
                times = 2;
            } else if std::mem::take(&mut agent.meddling.swallow) {
                times = 0;
            }
        }
        for _ in 0..times {
            self.send(wire, Toward::Hub, lane, bytes.clone());
        }
        Ok(())
    }

    pub(crate) fn fetched(
        &mut self,
        index: usize,
        no: u64,
        lane: Lane,
        found: Option<StoredBatch>,
    ) -> Checked {
        if let Some(until) = self.pause_of(index) {
            self.at(until, Event::Fetched(index, no, lane, found));
            return Ok(());
        }
        let agent = self.agents.get(index);
        if agent.is_none_or(|agent| agent.session_no != no || agent.session.is_none()) {
            return Ok(());
        }
        self.with_session(index, |session| session.handle_batch(lane, found))
    }

    fn release(&mut self, index: usize, lane: Lane, through_seq: u64) -> Checked {
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        agent
            .in_flight
            .retain(|(of, last), _| *of != lane || *last > through_seq);
        let told = through_seq.min(agent.spool.current.sent(lane));
        let range = (lane, 0)..=(lane, told);
        let held = agent.spool.current.batches.range(range);
        let gone = held.filter(|(_, batch)| batch.last_seq <= told);
        self.ledger
            .released(gone.flat_map(|(_, batch)| batch.ids.iter()))?;
        let released = agent.spool.release(lane, through_seq, now_ms);
        let stream = (lane, agent.spool.current.epoch);
        let acked = agent.acked.entry(stream).or_default();
        if through_seq > *acked {
            *acked = through_seq;
            self.ledger.progressed(index);
        }
        match released {
            Released::Done => Ok(()),
            Released::Ahead => {
                self.trace(format!("hub is ahead of agent {index} on {lane:?}"));
                self.roll(index)
            }
        }
    }

    /// Begins a new epoch on a new connection.
    fn roll(&mut self, index: usize) -> Checked {
        let epoch = self.chance.epoch();
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        let session = agent.session.as_ref();
        let marks = Lane::DATA.map(|lane| (lane, session.map_or(0, |s| s.acknowledged(lane))));
        let marks = BTreeMap::from(marks);
        let hub_has = |lane| marks.get(&lane).copied().unwrap_or(0);
        let old = agent.spool.current.clone();
        let falls = agent.spool.roll(epoch, hub_has);
        for (lane, fall) in falls {
            let of = |epoch| (index, lane, epoch);
            let range = fall..old.next(lane) - 1;
            self.ledger.renumbered((of(old.epoch), of(epoch)), range);
        }
        self.summary.rolls += 1;
        if let Some(wire) = agent.wire.take() {
            self.hang_up(wire);
            self.let_go(wire);
        }
        self.begin_session(index)
    }

    /// Ends a connection from the agent's side.
    fn hang_up(&mut self, id: u64) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        wire.to_agent.is_black_hole = true;
        let is_heard = !wire.to_hub.is_black_hole;
        wire.to_hub.is_black_hole = true;
        if is_heard {
            let span = self.chance.within(self.plan.delay_ms);
            self.after(span, Event::HubHears(id));
        }
    }

    /// The agent has no more use for a connection.
    fn let_go(&mut self, id: u64) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.agent_holds = false;
        }
        self.forget_wire(id);
    }

    /// The agent reads what arrived.
    pub(crate) fn agent_reads(&mut self, wire: u64, lane: Lane, piece: &[u8]) -> Checked {
        let Some(found) = self.wires.get(&wire) else {
            return Ok(());
        };
        let index = found.agent;
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if agent.wire != Some(wire) {
            return Ok(());
        }
        let skew_ms = agent.skew_ms;
        let now = self.now(skew_ms);
        let mut result = Ok(());
        self.with_session(index, |session| {
            result = session.handle_bytes(lane, piece, now);
        })?;
        result.map_err(|error| violated(format!("the hub broke the protocol: {error:?}")))
    }

    /// The agent hears that its connection ended.
    pub(crate) fn agent_hears(&mut self, wire: u64, ended: Ended) -> Checked {
        let Some(found) = self.wires.get_mut(&wire) else {
            return Ok(());
        };
        let index = found.agent;
        if let Some(until) = self.pause_of(index) {
            self.at(until, Event::AgentHears(wire, ended));
            return Ok(());
        }
        self.let_go(wire);
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if agent.wire != Some(wire) {
            return Ok(());
        }
        agent.wire = None;
        let ended = agent.ending.take().unwrap_or(ended);
        let skew_ms = agent.skew_ms;
        self.trace(format!("agent {index} hears the end of wire {wire}"));
        let now = self.now(skew_ms);
        self.with_session(index, |session| session.handle_disconnected(ended, now))
    }

    /// A source has something.
    pub(crate) fn source(&mut self, index: usize) -> Checked {
        if self.now_ms >= self.plan.faults_ms {
            return Ok(());
        }
        let pause = self.chance.within(self.plan.source_pause_ms);
        self.after(pause, Event::Source(index));
        let lane = *self.chance.pick(&Lane::DATA).unwrap_or(&Lane::Events);
        let count = self.chance.within((1, self.plan.items));
        let is_paused = self.pause_of(index).is_some();
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        if is_paused || agent.session.is_none() {
            return Ok(());
        }
        let first = self.ledger.next_id();
        let ids: Vec<u64> = (first..first + count).collect();
        let Ok(first_seq) = agent.spool.commit(lane, ids.clone(), self.now_ms) else {
            return Ok(());
        };
        for id in &ids {
            self.ledger.made(index, agent.org, *id);
        }
        let stream = (index, lane, agent.spool.durable.epoch);
        self.ledger.numbered(stream, first_seq, &ids);
        self.with_session(index, |session| {
            for lane in Lane::DATA {
                session.handle_spooled(lane);
            }
        })
    }

    pub(crate) fn crash_agent(&mut self, index: usize, down_ms: u64) {
        let Some(agent) = self.agents.get_mut(index) else {
            return;
        };
        if agent.session.take().is_none() {
            return;
        }
        agent.session_no += 1;
        agent.spool.crash();
        let wire = agent.wire.take();
        if let Some(wire) = wire {
            self.hang_up(wire);
            self.let_go(wire);
        }
        self.after(down_ms, Event::AgentStart(index));
    }

    /// Puts another file in the place of the spool's.
    pub(crate) fn replace_spool(&mut self, index: usize, state: State) {
        if let Some(agent) = self.agents.get_mut(index) {
            agent.spool.replace(state);
        }
        self.disaster();
    }

    pub(crate) fn set_back(&mut self, index: usize, down_ms: u64) {
        let count = self.agents.get(index).map_or(0, |a| a.snapshots.len());
        let which = self.chance.index(count);
        let Some(agent) = self.agents.get_mut(index) else {
            return;
        };
        let Some(state) = agent.snapshots.get(which).cloned() else {
            return;
        };
        agent.snapshots.truncate(which + 1);
        self.ledger.set_back(&state);
        self.crash_agent(index, down_ms);
        self.forget_agent(index);
        self.replace_spool(index, state);
    }

    /// Sends a batch that another agent signed over this agent's connection: the last of its own,
    /// or one that follows what the hub has of this agent.
    pub(crate) fn forge(&mut self, index: usize) {
        let other = self.chance.index(self.agents.len());
        let fits = self.chance.is_one_in(2);
        let lane = *self.chance.pick(&Lane::DATA).unwrap_or(&Lane::Events);
        let Some(agent) = self.agents.get(index) else {
            return;
        };
        let Some(other) = self.agents.get(other).filter(|_| other != index) else {
            return;
        };
        let Some(wire) = agent.wire else {
            return;
        };
        let epoch = agent.spool.current.epoch;
        let store = self.hub.stores.get(agent.org);
        let mark = store.map_or(0, |store| store.mark((index, lane, epoch)));
        let forged = match other.last_frame.clone() {
            Some(last) if !fits => last,
            Some(_) | None => (lane, other.spool.forged(lane, epoch, mark + 1)),
        };
        if let Some(wire) = self.wires.get_mut(&wire) {
            wire.is_forged = true;
        }
        let (lane, bytes) = forged;
        self.send(wire, Toward::Hub, lane, bytes);
    }

    pub(crate) fn is_agent_drained(&self, agent: &Agent) -> bool {
        let Some(index) = self.agents.iter().position(|one| std::ptr::eq(one, agent)) else {
            return false;
        };
        let Some(store) = self.hub.stores.get(agent.org) else {
            return false;
        };
        let state = &agent.spool.current;
        let is_stored =
            |lane: &Lane| store.mark((index, *lane, state.epoch)) + 1 == state.next(*lane);
        agent.session.as_ref().is_some_and(Session::is_open)
            && agent.spool.is_drained()
            && Lane::DATA.iter().all(is_stored)
            && self.knows_its_hub(agent)
    }

    /// Returns whether an agent remembers contents of this hub only. A full disk may keep it from
    /// forgetting, and a hub that was set back silently from knowing: a sweep's set repairs both.
    fn knows_its_hub(&self, agent: &Agent) -> bool {
        let known_to = agent.spool.current.known_to;
        known_to.is_none_or(|hub| hub == self.hub.epoch)
            || self.hub.is_silently_set_back
            || self.plan.kinds.contains(&crate::fault::Kind::AgentDiskFull)
    }

    /// Says what an agent waits for.
    pub(crate) fn explain(&self, agent: &Agent) -> String {
        let state = &agent.spool.current;
        let next: Vec<u64> = Lane::DATA.iter().map(|lane| state.next(*lane)).collect();
        format!(
            "organisation {}: next {next:?}, {} bytes wait, session open {:?}, due {:?}",
            agent.org,
            agent.spool.waiting().bytes,
            agent.session.as_ref().map(Session::is_open),
            agent.wake_ms,
        )
    }
}
