//! The hub's shell: what it keeps, whom it lets in, and the way from a session's core to a store.

use std::collections::{BTreeMap, VecDeque};

use protocol::batch::{SealedBatch, VerifiedBatch};
use protocol::frame::Lane;
use protocol::session::hub::{self, Output};
use protocol::session::{CloseCode, SessionError};
use protocol::wire::v1::{BatchHeader, Content, Epoch, GoAway};

use crate::identity::{Card, List};
use crate::store::{OrgStore, Taken};
use crate::wire::Toward;
use crate::world::{Event, World};
use crate::{Checked, violated};

/// Bytes of batches that wait, from which no more of the data lanes is read.
const HELD_BYTES: u64 = 2 << 20;

/// Backups that are kept.
const BACKUPS: usize = 4;

/// Pause between two backups, in milliseconds.
const BACKUP_MS: (u64, u64) = (20_000, 90_000);

/// A session under way.
pub(crate) struct Conn {
    pub(crate) core: hub::Session,
    agent: usize,
    /// The certificate that the agent showed.
    shown: Card,
    /// That the certificate names.
    public_key: Vec<u8>,
    work: BTreeMap<Lane, VecDeque<Box<SealedBatch>>>,
    held_bytes: u64,
    is_storing: bool,
    /// The last item of each lane that the core handed over.
    admitted: BTreeMap<Lane, u64>,
    /// What the core was told of the agent's lanes.
    marks: BTreeMap<(u8, Epoch), u64>,
    wake_ms: u64,
}

/// A batch in the store's hands.
struct Job {
    wire: u64,
    agent: usize,
    lane: Lane,
    batch: Box<VerifiedBatch>,
    taken: Option<Taken>,
}

/// What runs, and what is on the disk.
pub(crate) struct Hub {
    pub(crate) is_up: bool,
    pub(crate) epoch: Epoch,
    /// Whether its disk was set back without a new epoch.
    pub(crate) is_silently_set_back: bool,
    pub(crate) stores: Vec<OrgStore>,
    /// The positive list.
    pub(crate) list: List,
    backups: VecDeque<(Vec<OrgStore>, List)>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Until when the disk takes nothing.
    pub(crate) full_until_ms: u64,
    /// Agents that may not connect, and until when.
    pub(crate) suspended: BTreeMap<usize, u64>,
}

impl Hub {
    pub(crate) fn new(orgs: usize, epoch: Epoch) -> Self {
        Self {
            is_up: false,
            epoch,
            is_silently_set_back: false,
            stores: vec![OrgStore::default(); orgs],
            list: List::default(),
            backups: VecDeque::new(),
            conns: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            full_until_ms: 0,
            suspended: BTreeMap::new(),
        }
    }

    /// Returns whether nothing is being stored.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Returns whether bytes of a lane are read now.
    pub(crate) fn may_read(&self, wire: u64, lane: Lane) -> bool {
        let is_full = |conn: &Conn| conn.held_bytes >= HELD_BYTES;
        lane == Lane::Control || !self.conns.get(&wire).is_some_and(is_full)
    }
}

fn size(header: &BatchHeader) -> u64 {
    u64::from(header.payload_bytes)
}

impl World {
    /// Lets an agent in, or not.
    pub(crate) fn admit(&mut self, wire: u64, agent: usize) {
        let suspended = self.hub.suspended.get(&agent);
        if suspended.is_some_and(|until| *until > self.now_ms) {
            return self.close_from_hub(wire, CloseCode::Suspended, "suspended");
        }
        let (shown, duty) = match self.recognise(agent) {
            Ok(known) => known,
            Err((code, reason)) => return self.close_from_hub(wire, code, reason),
        };
        let older: Vec<u64> = self
            .hub
            .conns
            .iter()
            .filter(|(_, conn)| conn.agent == agent)
            .map(|(id, _)| *id)
            .collect();
        for id in older {
            self.close_from_hub(id, CloseCode::Superseded, "a newer session");
        }
        let Some(found) = self.agents.get(agent) else {
            return;
        };
        let stored = self.hub.stores.get(found.org);
        let high_water = stored.map_or_else(Vec::new, |store| store.high_waters(agent));
        let marks = high_water.iter().map(|m| ((m.lane, m.epoch), m.seq));
        let marks = marks.collect();
        let config = hub::Config {
            hub_epoch: self.hub.epoch,
            commit: stored.map_or(0, |store| store.commits),
            high_water,
            duty,
        };
        let public_key = found.spool.key.public();
        let core = hub::Session::new(config, self.now(0));
        let wake_ms = self.ms(core.poll_timeout());
        let conn = Conn {
            core,
            agent,
            public_key,
            shown,
            work: BTreeMap::new(),
            held_bytes: 0,
            is_storing: false,
            admitted: BTreeMap::new(),
            marks,
            wake_ms,
        };
        self.hub.conns.insert(wire, conn);
        self.at(wake_ms, Event::HubWake(wire));
        self.plan_end(wire, shown, duty);
    }

    /// The hub reads what arrived.
    pub(crate) fn hub_reads(&mut self, wire: u64, lane: Lane, piece: &[u8]) -> Checked {
        let now = self.now(0);
        let Some(conn) = self.hub.conns.get_mut(&wire) else {
            return Ok(());
        };
        let agent = conn.agent;
        if let Err(error) = conn.core.handle_bytes(lane, piece, now) {
            let is_forged = self.wires.get(&wire).is_some_and(|wire| wire.is_forged);
            if !is_forged {
                return Err(violated(format!(
                    "an honest agent {agent} is refused: {error:?}"
                )));
            }
            self.close_from_hub(wire, error.close_code(), &error.to_string());
            return Ok(());
        }
        self.run_hub(wire)
    }

    /// Does what a core of the hub says.
    pub(crate) fn run_hub(&mut self, wire: u64) -> Checked {
        while let Some(conn) = self.hub.conns.get_mut(&wire) {
            let Some(output) = conn.core.poll_output() else {
                break;
            };
            match output {
                Output::Send { lane, bytes } => self.send(wire, Toward::Agent, lane, bytes),
                Output::Greeted(_) | Output::Beat(_) => {}
                Output::Renew(_) => {
                    let (agent, shown) = (conn.agent, conn.shown);
                    let span = self.chance.within(self.plan.store_ms);
                    self.after(span, Event::Certified(wire, agent, shown));
                }
                Output::Admit(batch) => {
                    let header = &batch.header;
                    let lane = Lane::from_number(header.lane);
                    let lane = lane.ok_or_else(|| violated("a batch of no lane"))?;
                    let mark = conn.marks.get(&(header.lane, header.epoch));
                    let before = conn.admitted.get(&lane).or(mark).copied().unwrap_or(0);
                    if header.first_seq != before + 1 {
                        return Err(violated(format!(
                            "the core hands over {lane:?} {} after {before}",
                            header.first_seq
                        )));
                    }
                    conn.admitted.insert(lane, header.last_seq());
                    conn.held_bytes += size(header);
                    conn.work.entry(lane).or_default().push_back(batch);
                }
            }
        }
        self.next_work(wire);
        Ok(())
    }

    fn next_work(&mut self, wire: u64) {
        let Some(conn) = self.hub.conns.get_mut(&wire) else {
            return;
        };
        if conn.is_storing {
            return;
        }
        let next = conn
            .work
            .iter_mut()
            .find_map(|(lane, queue)| Some((*lane, queue.pop_front()?)));
        let Some((lane, batch)) = next else { return };
        let batch = match batch.verify(&conn.public_key) {
            Ok(batch) => Box::new(batch),
            Err(source) => {
                let error = SessionError::Batch { lane, source };
                return self.close_from_hub(wire, error.close_code(), &error.to_string());
            }
        };
        conn.is_storing = true;
        let job = Job {
            wire,
            agent: conn.agent,
            lane,
            batch,
            taken: None,
        };
        let id = self.hub.next_job;
        self.hub.next_job += 1;
        self.hub.jobs.insert(id, job);
        let span = self.chance.within(self.plan.store_ms);
        self.after(span, Event::Durable(id));
    }

    /// A batch's transaction is on the disk, or refused.
    pub(crate) fn durable(&mut self, id: u64) -> Checked {
        let Some(job) = self.hub.jobs.get_mut(&id) else {
            return Ok(());
        };
        let Some(org) = self.agents.get(job.agent).map(|agent| agent.org) else {
            return Ok(());
        };
        let taken = if self.now_ms < self.hub.full_until_ms {
            Taken::Full
        } else if let Some(store) = self.hub.stores.get_mut(org) {
            let taken = store.take(org, job.agent, &job.batch, &mut self.ledger)?;
            let header = job.batch.header();
            if header.content == Content::Lost && matches!(taken, Taken::Stored { .. }) {
                self.summary.losses += 1;
                let stream = (job.agent, job.lane, header.epoch);
                let range = (header.first_seq, header.last_seq());
                if let Some(agent) = self.agents.get(job.agent) {
                    self.ledger.told_lost(stream, range, &agent.spool.current)?;
                }
            }
            taken
        } else {
            return Ok(());
        };
        job.taken = Some(taken);
        match taken {
            Taken::Stored { .. } => self.summary.batches += 1,
            Taken::Repeat { .. } => self.summary.repeats += 1,
            Taken::Gap { .. } => self.summary.refusals += 1,
            Taken::Full => {}
        }
        let line = format!("agent {} {:?}: {taken:?}", job.agent, job.lane);
        self.trace(line);
        let span = self.chance.below(20);
        self.after(span, Event::Answer(id));
        Ok(())
    }

    /// The session hears what became of its batch.
    pub(crate) fn answer(&mut self, id: u64) -> Checked {
        let Some(job) = self.hub.jobs.remove(&id) else {
            return Ok(());
        };
        let (Some(taken), Some(conn)) = (job.taken, self.hub.conns.get_mut(&job.wire)) else {
            return Ok(());
        };
        conn.is_storing = false;
        conn.held_bytes -= size(job.batch.header());
        match taken {
            Taken::Stored { seq, commit } => {
                conn.core.handle_committed(job.lane, seq, commit, [0; 32]);
            }
            Taken::Repeat { high_water } => {
                conn.core.handle_committed(job.lane, high_water, 0, [0; 32]);
                let admitted = conn.admitted.entry(job.lane).or_default();
                *admitted = high_water.max(*admitted);
            }
            Taken::Gap { expected } => {
                let dropped = conn.work.remove(&job.lane).unwrap_or_default();
                conn.held_bytes -= dropped.iter().map(|batch| size(&batch.header)).sum::<u64>();
                conn.core.handle_refused(job.lane, expected);
                conn.admitted.insert(job.lane, expected - 1);
            }
            Taken::Full => {
                self.close_from_hub(job.wire, CloseCode::Store, "the hub's disk is full");
                return Ok(());
            }
        }
        self.run_hub(job.wire)
    }

    /// The timer of a session is due.
    pub(crate) fn hub_wakes(&mut self, wire: u64) -> Checked {
        let now = self.now(0);
        let Some(conn) = self.hub.conns.get_mut(&wire) else {
            return Ok(());
        };
        match conn.core.handle_timeout(now) {
            Ok(()) => {
                let at = conn.core.poll_timeout();
                let wake_ms = self.ms(at);
                if let Some(conn) = self.hub.conns.get_mut(&wire) {
                    conn.wake_ms = wake_ms;
                }
                self.at(wake_ms, Event::HubWake(wire));
            }
            Err(error) => self.close_from_hub(wire, error.close_code(), &error.to_string()),
        }
        Ok(())
    }

    /// The hub hears that a connection is gone.
    pub(crate) fn hub_hears(&mut self, wire: u64) {
        if self.hub.conns.remove(&wire).is_some() {
            self.trace(format!("hub hears the end of wire {wire}"));
            // A batch in the store's hands is stored or not.
            if self.chance.is_one_in(2) {
                self.hub
                    .jobs
                    .retain(|_, job| job.wire != wire || job.taken.is_some());
            }
        }
        if let Some(wire) = self.wires.get_mut(&wire) {
            wire.hub_holds = false;
        }
        self.forget_wire(wire);
    }

    pub(crate) fn ask_to_leave(&mut self, agent: usize, span_ms: u64) -> Checked {
        let found = self.hub.conns.iter_mut().find(|(_, c)| c.agent == agent);
        let Some((&wire, conn)) = found else {
            return Ok(());
        };
        conn.core.ask_to_leave(GoAway {
            code: CloseCode::Busy.number(),
            reason: "later".to_owned(),
            retry_after_ms: span_ms,
        });
        self.run_hub(wire)
    }

    pub(crate) fn close_suspended(&mut self, agent: usize) {
        let found = self.hub.conns.iter().find(|(_, c)| c.agent == agent);
        if let Some((&wire, _)) = found {
            self.close_from_hub(wire, CloseCode::Suspended, "suspended");
        }
    }

    pub(crate) fn crash_hub(&mut self, down_ms: u64) {
        if !self.hub.is_up {
            return;
        }
        self.hub.is_up = false;
        self.hub.conns.clear();
        self.hub.jobs.clear();
        let wires: Vec<u64> = self.wires.keys().copied().collect();
        for id in wires {
            self.break_wire(id, "the hub is gone");
        }
        self.after(down_ms, Event::HubStart);
    }

    /// Puts a backup in the place of every store.
    pub(crate) fn restore_hub(&mut self, down_ms: u64) {
        let index = self.chance.index(self.hub.backups.len());
        let Some(backup) = self.hub.backups.get(index).cloned() else {
            return;
        };
        self.crash_hub(down_ms);
        (self.hub.stores, self.hub.list) = backup;
        // Later backups are of a history that did not happen.
        self.hub.backups.truncate(index + 1);
        // A disk that was set back says nothing of it.
        if self.chance.is_one_in(4) {
            self.hub.is_silently_set_back = true;
        } else {
            self.hub.epoch = self.chance.epoch();
        }
        self.disaster();
    }

    pub(crate) fn backup(&mut self) {
        if self.hub.backups.len() >= BACKUPS {
            self.hub.backups.pop_front();
        }
        let whole = (self.hub.stores.clone(), self.hub.list.clone());
        self.hub.backups.push_back(whole);
        for agent in &mut self.agents {
            agent.snapshot();
        }
        if self.now_ms < self.plan.faults_ms {
            let span = self.chance.within(BACKUP_MS);
            self.after(span, Event::Backup);
        }
    }

    /// Ends whatever the hub still does for an agent.
    pub(crate) fn forget_agent(&mut self, agent: usize) {
        let conns = self.hub.conns.iter();
        let own = conns.filter(|(_, conn)| conn.agent == agent);
        let wires: Vec<u64> = own.map(|(id, _)| *id).collect();
        for wire in wires {
            self.hub_hears(wire);
        }
        self.hub.jobs.retain(|_, job| job.agent != agent);
    }

    pub(crate) fn disaster(&mut self) {
        let spools = self.agents.iter().map(|agent| &agent.spool.durable);
        self.ledger.disaster(spools, &self.hub.stores);
    }
}
