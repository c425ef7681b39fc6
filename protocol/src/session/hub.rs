//! The hub's half: greets, checks order, credit and announced size, hands batches over for one
//! durable commit, and acknowledges after it. Signature and root are for the driver to check, as it
//! costs milliseconds and has to wait for its turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::batch::SealedBatch;
use crate::frame::{Decoder, Frame, Lane};
use crate::limits;
use crate::session::{Now, SessionError};
use crate::wire;
use crate::wire::v1::{
    self, Ack, Authority, Credit, Epoch, GoAway, Heartbeat, Hello, HighWater, Message, NotRenewed,
    Refused, Renewed, Resync, Welcome, Witness,
};

/// How often an agent may ask for a certificate in one session. An honest one comes back with
/// what it was given.
const RENEWALS: u32 = 8;

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Everything.
    All,
    /// Renew a certificate that has ended, and nothing else: no batch is taken.
    RenewOnly,
}

/// What a hub knows of an agent when it connects.
#[derive(Debug, Clone)]
pub struct Config {
    /// Epoch of the hub's store.
    pub hub_epoch: Epoch,
    /// Last commit of the agent's organisation.
    pub commit: u64,
    /// What is durably stored of this agent, all epochs.
    pub high_water: Vec<HighWater>,
    /// What the agent's certificate lets it do.
    pub duty: Duty,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Output {
    /// Write bytes to the stream of a lane.
    Send {
        /// The lane.
        lane: Lane,
        /// Whole frames.
        bytes: Vec<u8>,
    },
    /// The agent has introduced itself.
    Greeted(Hello),
    /// Verify a batch with the key of the agent's certificate, commit it and report
    /// [`Session::handle_committed`] or [`Session::handle_refused`]. One that does not verify ends
    /// the session ([`SessionError::Batch`]). Batches of one lane come in order.
    Admit(Box<SealedBatch>),
    /// The agent is alive and says what waits in its spool.
    Beat(Heartbeat),
    /// The agent asks for a certificate by this PKCS #10 request: report
    /// [`Session::handle_renewed`] or [`Session::handle_not_renewed`].
    Renew(Vec<u8>),
}

#[derive(Debug, Default)]
struct LaneState {
    committed: u64,
    received: u64,
    pending: VecDeque<(u64, u64)>,
    pending_bytes: u64,
}

/// The hub's half of one connection's session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    epoch: Option<Epoch>,
    lanes: BTreeMap<Lane, LaneState>,
    decoders: BTreeMap<Lane, Decoder>,
    heard_at: Instant,
    renewals: u32,
    is_renewing: bool,
    outputs: VecDeque<Output>,
}

impl Session {
    /// Makes the session of a connection whose certificate has been admitted.
    pub fn new(config: Config, now: Now) -> Self {
        Self {
            config,
            epoch: None,
            lanes: BTreeMap::new(),
            decoders: Lane::ALL
                .into_iter()
                .map(|lane| (lane, Decoder::new(lane)))
                .collect(),
            heard_at: now.at,
            renewals: 0,
            is_renewing: false,
            outputs: VecDeque::new(),
        }
    }

    /// Reads bytes that arrived on a lane.
    ///
    /// # Errors
    ///
    /// When the agent broke the protocol: close with [`SessionError::close_code`]; nothing of the
    /// offending frame has been admitted.
    pub fn handle_bytes(&mut self, lane: Lane, bytes: &[u8], now: Now) -> Result<(), SessionError> {
        self.heard_at = now.at;
        let Some(decoder) = self.decoders.get_mut(&lane) else {
            return Err(SessionError::Unexpected(
                "bytes of a lane that does not exist",
            ));
        };
        decoder.push(bytes);
        loop {
            let Some(decoder) = self.decoders.get_mut(&lane) else {
                return Ok(());
            };
            let frame = decoder
                .pop()
                .map_err(|source| SessionError::Frame { lane, source })?;
            let Some(frame) = frame else { return Ok(()) };
            self.handle_frame(&frame, now)?;
        }
    }

    fn handle_frame(&mut self, frame: &Frame, now: Now) -> Result<(), SessionError> {
        if frame.schema != v1::SCHEMA {
            // An agent greets in the lowest version that it speaks.
            let version = frame.schema;
            let newer = SessionError::Version {
                agent_min: version,
                agent_max: version,
                hub: wire::VERSIONS.1,
            };
            return Err(match self.epoch {
                None => newer,
                Some(_) => SessionError::OTHER_VERSION,
            });
        }
        if frame.kind == v1::kind::BATCH {
            return self.handle_batch(frame);
        }
        let message = Message::decode(frame).map_err(|source| SessionError::Message {
            kind: frame.kind,
            source,
        })?;
        match message {
            Some(Message::Hello(hello)) if self.epoch.is_none() => self.greet(hello, now),
            Some(Message::Heartbeat(beat)) if self.epoch.is_some() => {
                let reply = Heartbeat {
                    wall_ms: now.wall_ms,
                    spool_bytes: 0,
                    oldest_ms: 0,
                };
                self.send(&Message::Heartbeat(reply));
                self.outputs.push_back(Output::Beat(beat));
                Ok(())
            }
            Some(Message::Renew(renew)) if self.epoch.is_some() => self.renew(renew.csr),
            None if self.epoch.is_some() => Ok(()),
            Some(_) if self.epoch.is_some() => Err(SessionError::Unexpected(
                "the agent sent a hub's message, or greeted twice",
            )),
            _ => Err(SessionError::Unexpected("the agent did not greet first")),
        }
    }

    fn greet(&mut self, hello: Hello, now: Now) -> Result<(), SessionError> {
        let (agent_min, agent_max) = hello.versions;
        let version = wire::agree(wire::VERSIONS, hello.versions).ok_or(SessionError::Version {
            agent_min,
            agent_max,
            hub: wire::VERSIONS.1,
        })?;
        self.epoch = Some(hello.epoch);
        let ours = |high_water: &&HighWater| high_water.epoch == hello.epoch;
        let high_water: Vec<HighWater> = self
            .config
            .high_water
            .iter()
            .filter(ours)
            .copied()
            .collect();
        let lanes: &[Lane] = match self.config.duty {
            Duty::All => &Lane::DATA,
            Duty::RenewOnly => &[],
        };
        for lane in lanes.iter().copied() {
            let stored = high_water
                .iter()
                .find(|high_water| high_water.lane == lane.number());
            let seq = stored.map_or(0, |high_water| high_water.seq);
            self.lanes.insert(
                lane,
                LaneState {
                    committed: seq,
                    received: seq,
                    ..LaneState::default()
                },
            );
        }
        let welcome = Welcome {
            version,
            hub_epoch: self.config.hub_epoch,
            high_water,
            commit: self.config.commit,
            // Without credit an honest agent sends nothing.
            credits: lanes
                .iter()
                .copied()
                .map(|lane| Credit {
                    lane: lane.number(),
                    bytes: limits::lane_credit_bytes(lane),
                })
                .collect(),
            wall_ms: now.wall_ms,
        };
        self.send(&Message::Welcome(welcome));
        self.outputs.push_back(Output::Greeted(hello));
        Ok(())
    }

    fn handle_batch(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let lane = frame.lane;
        let broken = |source| SessionError::Batch { lane, source };
        let Some(epoch) = self.epoch else {
            return Err(SessionError::Unexpected("the agent did not greet first"));
        };
        if self.config.duty == Duty::RenewOnly {
            return Err(SessionError::RenewOnly);
        }
        let Some(state) = self.lanes.get_mut(&lane) else {
            return Err(SessionError::Unexpected(
                "a batch on a lane that carries none",
            ));
        };
        let batch = SealedBatch::parse(frame).map_err(broken)?;
        if batch.header.epoch != epoch {
            return Err(SessionError::Unexpected(
                "a batch of another epoch than the greeting's",
            ));
        }
        let last_seq = batch.header.last_seq();
        if last_seq <= state.committed {
            let seq = state.committed;
            self.acknowledge(lane, seq, 0, [0; 32]);
            return Ok(());
        }
        if last_seq <= state.received {
            return Ok(());
        }
        if batch.header.first_seq != state.received + 1 {
            let expected_seq = state.received + 1;
            self.send(&Message::Refused(Refused {
                lane: lane.number(),
                expected_seq,
            }));
            return Ok(());
        }
        let bytes = u64::try_from(frame.payload.len()).unwrap_or(u64::MAX);
        let credit_bytes = limits::lane_credit_bytes(lane);
        if state.pending_bytes > credit_bytes {
            return Err(SessionError::Credit { lane, credit_bytes });
        }
        state.received = last_seq;
        state.pending.push_back((last_seq, bytes));
        state.pending_bytes += bytes;
        self.outputs.push_back(Output::Admit(Box::new(batch)));
        Ok(())
    }

    /// Takes note that everything of a lane up to `seq` is durably stored.
    pub fn handle_committed(&mut self, lane: Lane, seq: u64, commit: u64, audit_head: [u8; 32]) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        state.committed = state.committed.max(seq);
        // A commit of an earlier session may have come in after the high-water mark was read.
        state.received = state.received.max(state.committed);
        while let Some(&(last, bytes)) = state.pending.front()
            && last <= seq
        {
            state.pending.pop_front();
            state.pending_bytes = state.pending_bytes.saturating_sub(bytes);
        }
        self.acknowledge(lane, seq, commit, audit_head);
    }

    /// Takes note that the store expects another sequence: what was received is forgotten.
    pub fn handle_refused(&mut self, lane: Lane, expected_seq: u64) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        state.received = expected_seq.saturating_sub(1);
        state.committed = state.received;
        state.pending.clear();
        state.pending_bytes = 0;
        self.send(&Message::Refused(Refused {
            lane: lane.number(),
            expected_seq,
        }));
    }

    fn renew(&mut self, csr: Vec<u8>) -> Result<(), SessionError> {
        if self.is_renewing {
            let reason = "a second request for a certificate before the first was answered";
            return Err(SessionError::Unexpected(reason));
        }
        self.renewals += 1;
        if self.renewals > RENEWALS {
            let reason = "the agent asks for certificates and does not come back with them";
            return Err(SessionError::Unexpected(reason));
        }
        self.is_renewing = true;
        self.outputs.push_back(Output::Renew(csr));
        Ok(())
    }

    /// Takes note that a certificate was made and its serial number is durably stored: leaf first.
    pub fn handle_renewed(&mut self, chain: Vec<Vec<u8>>) {
        self.is_renewing = false;
        self.send(&Message::Renewed(Renewed { chain }));
    }

    /// Takes note that no certificate is given, with words for the operator.
    pub fn handle_not_renewed(&mut self, reason: String) {
        self.is_renewing = false;
        self.send(&Message::NotRenewed(NotRenewed { reason }));
    }

    /// Tells the agent which roots to trust, and whether to renew soon.
    pub fn tell_authority(&mut self, authority: Authority) {
        self.send(&Message::Authority(authority));
    }

    /// Asks the agent to send, at its next sweep, what lies in the parts of a scope whose sums are
    /// not its own; the whole scope without sums.
    pub fn ask_resync(&mut self, scope: &str, sums: Vec<u64>) {
        self.send(&Message::Resync(Resync {
            scope: scope.to_owned(),
            sums,
        }));
    }

    /// Says that the hub is there, though it does not read what the agent sends at the moment.
    pub fn tell_presence(&mut self, now: Now) {
        if self.epoch.is_some() {
            self.send(&Message::Heartbeat(Heartbeat {
                wall_ms: now.wall_ms,
                spool_bytes: 0,
                oldest_ms: 0,
            }));
        }
    }

    /// Asks the agent to leave and come back.
    pub fn ask_to_leave(&mut self, away: GoAway) {
        self.send(&Message::GoAway(away));
    }

    /// Returns what an agent has seen of this store, where the store has not come as far: it was
    /// set back since.
    pub fn set_back(&self, hello: &Hello) -> Option<Witness> {
        let is_ahead = |seen: &Witness| {
            seen.hub_epoch == self.config.hub_epoch && seen.commit > self.config.commit
        };
        hello.witness.filter(is_ahead)
    }

    /// Returns the last commit of the agent's organisation when the session began.
    pub fn commit_at_start(&self) -> u64 {
        self.config.commit
    }

    /// Returns the number of a lane's frame that has begun to arrive and is not whole. The driver
    /// gives up an agent that never ends one.
    pub fn unfinished(&self, lane: Lane) -> Option<u64> {
        self.decoders.get(&lane)?.unfinished()
    }

    /// Returns when [`Session::handle_timeout`] should be called.
    pub fn poll_timeout(&self) -> Instant {
        self.heard_at + limits::IDLE_TIMEOUT
    }

    /// Checks that the agent is alive.
    ///
    /// # Errors
    ///
    /// [`SessionError::Silent`] when it is not.
    pub fn handle_timeout(&self, now: Now) -> Result<(), SessionError> {
        if self.poll_timeout() <= now.at {
            Err(SessionError::Silent)
        } else {
            Ok(())
        }
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn acknowledge(&mut self, lane: Lane, seq: u64, commit: u64, audit_head: [u8; 32]) {
        self.send(&Message::Ack(Ack {
            lane: lane.number(),
            seq,
            commit,
            audit_head,
        }));
    }

    fn send(&mut self, message: &Message) {
        self.outputs.push_back(Output::Send {
            lane: Lane::Control,
            bytes: message.encode(),
        });
    }
}
