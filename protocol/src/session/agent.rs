//! The agent's half: dials, greets, sends batches within the hub's credit, releases what was
//! acknowledged, and comes back with full jitter.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::frame::{Decoder, Lane};
use crate::limits;
use crate::parts;
use crate::session::{CloseCode, Now, SessionError};
use crate::wire;
use crate::wire::v1::{self, Epoch, Heartbeat, Hello, Message, Witness};

/// Shortest time between two requests for a certificate, so that a hub whose certificates are
/// due at once is not asked without end.
const RENEW_PAUSE: Duration = Duration::from_secs(5);

/// Longest time between two requests for a certificate when the hub gives none.
const RENEW_RETRY: Duration = Duration::from_secs(3600);

/// How long what is under way may take before the session is made anew with a new certificate.
const SETTLE: Duration = Duration::from_secs(30);

/// The agent's certificate, as far as its renewal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// PKCS #10 request for the agent's key, DER.
    pub csr: Vec<u8>,
    /// When the certificate begins to be valid, milliseconds since 1970 UTC.
    pub from_ms: i64,
    /// When it ends.
    pub until_ms: i64,
    /// How many certificates from before it the agent still has. A hub that was restored from a
    /// backup may know one of them and not this one.
    pub older: usize,
}

impl Certificate {
    /// Returns how long it is, by the hub's clock, until half of its life is over.
    fn due_after(&self, hub_ms: i64) -> Duration {
        let half = self.until_ms.saturating_sub(self.from_ms) / 2;
        let left = self.from_ms.saturating_add(half).saturating_sub(hub_ms);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    /// Returns the pause before a hub that gave no certificate is asked again: an eighth of what
    /// is left, so that several attempts fit.
    fn retry_after(&self, hub_ms: i64) -> Duration {
        let left = self.until_ms.saturating_sub(hub_ms) / 8;
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        left.clamp(RENEW_PAUSE, RENEW_RETRY)
    }
}

/// What an agent's session is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Program version, for display at the hub.
    pub agent_version: String,
    /// Epoch of the spool.
    pub epoch: Epoch,
    /// The furthest that the hub's store is known to have come; `None` before the first contact.
    pub witness: Option<Witness>,
    /// Random number of this process.
    pub process: u64,
    /// Seed of the jitter.
    pub seed: u64,
    /// What is renewed; `None` where the certificate is nobody's to renew.
    pub certificate: Option<Certificate>,
    /// Whether the agent runs for a moment only: a renewal that the hub wants within some time is
    /// then asked for at once, since there may be no later.
    pub is_brief: bool,
}

/// A batch as the spool holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Sequence of its first item.
    pub first_seq: u64,
    /// Sequence of its last item.
    pub last_seq: u64,
    /// The frame, ready to be sent.
    pub frame: Vec<u8>,
}

/// What waits in the spool, for the heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Bytes not yet acknowledged.
    pub bytes: u64,
    /// When the oldest was made, milliseconds since 1970 UTC; 0 when nothing waits.
    pub oldest_ms: i64,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to the hub and report [`Session::handle_connected`] or
    /// [`Session::handle_disconnected`].
    Dial,
    /// Write bytes to the stream of a lane.
    Send {
        /// The lane.
        lane: Lane,
        /// Whole frames.
        bytes: Vec<u8>,
    },
    /// Load the first stored batch whose items come after `after_seq` and hand it to
    /// [`Session::handle_batch`], or `None` when there is none.
    Fetch {
        /// The lane.
        lane: Lane,
        /// Sequence of the last item already sent.
        after_seq: u64,
    },
    /// The hub has durably stored everything up to `through_seq`: the spool may let it go.
    Release {
        /// The lane.
        lane: Lane,
        /// Sequence of the last stored item.
        through_seq: u64,
    },
    /// Remember durably how far the hub's store has come, in place of what was remembered. What
    /// is lost of it is not missed before the hub is set back.
    Remember(Witness),
    /// The hub's store has not come as far as this agent has seen it: it was set back, or is
    /// another one under the same name. To be told to operators.
    SetBack {
        /// What this agent remembers.
        seen: Witness,
        /// The last commit that the hub has now.
        commit: u64,
    },
    /// Forget what the hub is known to hold: of one scope, or of all (empty text).
    ForgetScope(String),
    /// Compare the sums of a scope with what the hub is known to hold of it, remember where they
    /// differ, and send those parts whole at the next sweep.
    Repair {
        /// The scope's text.
        scope: String,
        /// The hub's sums.
        sums: Vec<u64>,
    },
    /// Store a new certificate chain, leaf first, and report [`Session::handle_certificate`] or
    /// [`Session::handle_not_renewed`].
    StoreCertificate(Vec<Vec<u8>>),
    /// Trust these root certificates, and no others, from the next connection on.
    Trust(Vec<Vec<u8>>),
    /// The hub gives no new certificate, in its words.
    NotRenewed(String),
    /// Show the certificate from before the one that was shown, which the hub does not know, from
    /// the next connection on.
    ShowOlder,
    /// Close the connection as planned and report [`Session::handle_disconnected`]: another is
    /// dialled at once, with the new certificate.
    ComeBack,
    /// Close the connection; a `handle_disconnected` follows.
    Close {
        /// Code.
        code: CloseCode,
        /// Words.
        reason: String,
    },
    /// Give up: the identity is refused for good.
    Stop {
        /// Code.
        code: CloseCode,
        /// The hub's words.
        reason: String,
    },
}

/// Why a connection ended, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The hub closed it with a code and words.
    ByHub {
        /// The code, when it is a known one.
        code: Option<CloseCode>,
        /// The hub's words.
        reason: String,
    },
    /// Network, TLS or time.
    Lost {
        /// The transport's words.
        reason: String,
    },
    /// Nothing has left this host: it has no route to the hub.
    Unrouted {
        /// The system's words.
        reason: String,
    },
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Dialling,
    Greeting,
    Open,
    Stopped,
}

#[derive(Debug, Default)]
struct LaneState {
    acked: u64,
    sent: u64,
    in_flight: VecDeque<(u64, u64)>,
    in_flight_bytes: u64,
    credit_bytes: u64,
    /// After which sequence a batch is being loaded.
    fetching: Option<u64>,
    drained: bool,
    /// Whether something was spooled since the batch that is being loaded was asked for.
    is_news: bool,
    refusals: u32,
    /// The oldest batch in flight when this was last looked at, and since when it is the oldest.
    oldest: Option<(u64, Instant)>,
}

/// How often a lane may be refused in a row without progress before the connection is given up.
const REFUSALS: u32 = 3;

/// The agent's half of a session, over all its connections.
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    /// Connections in a row that achieved nothing.
    attempts: u32,
    /// When the hub's greeting came.
    opened_at: Option<Instant>,
    jitter: u64,
    lanes: BTreeMap<Lane, LaneState>,
    decoders: BTreeMap<Lane, Decoder>,
    heard_at: Option<Instant>,
    beat_at: Option<Instant>,
    clock_skew_ms: Option<i64>,
    retry_after: Option<Duration>,
    waiting: Waiting,
    /// The hub's clock less this one's, at the last greeting.
    hub_ahead_ms: i64,
    /// When to ask for a certificate.
    renew_at: Option<Instant>,
    /// When one was last asked for, over all connections.
    asked_at: Option<Instant>,
    /// Whether the hub owes an answer.
    is_asking: bool,
    /// When the session is to be made anew with the certificate that was stored, at the latest.
    settle_by: Option<Instant>,
    /// How many certificates the hub did not know since one was stored, from the newest on.
    passed_over: usize,
    /// Whether the hub has said on this connection which roots it has, and what is to be renewed.
    has_authority: bool,
    outputs: VecDeque<Output>,
}

impl Session {
    /// Makes a session that dials at once.
    pub fn new(config: Config, now: Now) -> Self {
        let jitter = config.seed | 1;
        Self {
            config,
            state: State::Waiting { until: now.at },
            attempts: 0,
            opened_at: None,
            jitter,
            lanes: BTreeMap::new(),
            decoders: BTreeMap::new(),
            heard_at: None,
            beat_at: None,
            clock_skew_ms: None,
            retry_after: None,
            waiting: Waiting::default(),
            hub_ahead_ms: 0,
            renew_at: None,
            asked_at: None,
            is_asking: false,
            settle_by: None,
            passed_over: 0,
            has_authority: false,
            outputs: VecDeque::new(),
        }
    }

    /// Returns whether batches can flow.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Says whether a certificate is due or on its way, or could still be found to be: an agent that
    /// runs for a moment waits for the end of that, or it would never renew.
    pub fn is_renewing(&self, now: Now) -> bool {
        let is_due = self.renew_at.is_some_and(|at| at <= now.at);
        let is_told = self.has_authority || !self.config.is_brief;
        let is_under_way = is_due || self.is_asking || self.settle_by.is_some() || !is_told;
        self.config.certificate.is_some() && self.is_open() && is_under_way
    }

    /// Says whether the certificate from before the one that the hub did not know is shown next.
    pub fn shows_older_next(&self) -> bool {
        self.outputs.contains(&Output::ShowOlder)
    }

    /// Returns the last acknowledged sequence of a lane, 0 when none is known.
    pub fn acknowledged(&self, lane: Lane) -> u64 {
        self.lanes.get(&lane).map_or(0, |lane| lane.acked)
    }

    /// Returns how far this host's clock was ahead of the hub's when the hub last told its time.
    /// The way of the message counts in.
    pub fn clock_skew_ms(&self) -> Option<i64> {
        self.clock_skew_ms
    }

    /// Takes note of what waits in the spool, for heartbeats.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Takes note that a connection stands.
    pub fn handle_connected(&mut self, now: Now) {
        self.decoders = Lane::ALL
            .into_iter()
            .map(|lane| (lane, Decoder::new(lane)))
            .collect();
        self.lanes = Lane::DATA
            .into_iter()
            .map(|lane| (lane, LaneState::default()))
            .collect();
        self.state = State::Greeting;
        self.heard_at = Some(now.at);
        self.beat_at = Some(now.at + limits::HEARTBEAT);
        let hello = Hello {
            versions: wire::VERSIONS,
            agent_version: self.config.agent_version.clone(),
            epoch: self.config.epoch,
            process: self.config.process,
            witness: self.config.witness,
            wall_ms: now.wall_ms,
        };
        self.send(&Message::Hello(hello));
    }

    /// Takes note that the connection ended, or could not be made.
    pub fn handle_disconnected(&mut self, ended: Ended, now: Now) {
        if matches!(self.state, State::Stopped) {
            return;
        }
        self.heard_at = None;
        self.beat_at = None;
        // A greeting alone is no success: a hub that cannot store greets too, and would be dialled
        // twice a second by every agent.
        let stood_long = |at: Instant| at + limits::RECONNECT_MAX <= now.at;
        if self.opened_at.take().is_some_and(stood_long) {
            self.attempts = 0;
        }
        self.renew_at = None;
        self.is_asking = false;
        self.settle_by = None;
        self.has_authority = false;
        self.outputs.retain(|output| {
            matches!(
                output,
                Output::Release { .. }
                    | Output::Remember(_)
                    | Output::SetBack { .. }
                    | Output::StoreCertificate(_)
                    | Output::Trust(_)
                    | Output::NotRenewed(_)
                    | Output::ShowOlder
                    | Output::ForgetScope(_)
                    | Output::Repair { .. }
                    | Output::Stop { .. }
            )
        });
        let pause = match ended {
            Ended::ByHub {
                code: Some(code),
                reason,
            } if code.is_final() => {
                let older = self.config.certificate.as_ref().map_or(0, |own| own.older);
                if code == CloseCode::Unenrolled && self.passed_over < older {
                    self.passed_over += 1;
                    self.outputs.push_back(Output::ShowOlder);
                    self.state = State::Waiting { until: now.at };
                    return;
                }
                self.state = State::Stopped;
                self.outputs.push_back(Output::Stop { code, reason });
                return;
            }
            // The hub has not been bothered.
            Ended::Unrouted { .. } => self.pause_within(limits::UNROUTED_RETRY),
            Ended::ByHub { .. } | Ended::Lost { .. } => {
                let pause = self.retry_after.take().unwrap_or_else(|| self.backoff());
                self.attempts = self.attempts.saturating_add(1);
                pause
            }
        };
        self.state = State::Waiting {
            until: now.at + pause,
        };
    }

    /// Reads bytes that arrived on a lane.
    ///
    /// # Errors
    ///
    /// When the hub broke the protocol: close with [`SessionError::close_code`].
    pub fn handle_bytes(&mut self, lane: Lane, bytes: &[u8], now: Now) -> Result<(), SessionError> {
        let Some(decoder) = self.decoders.get_mut(&lane) else {
            return Err(SessionError::Unexpected(
                "bytes arrived without a connection",
            ));
        };
        decoder.push(bytes);
        self.heard_at = Some(now.at);
        loop {
            let decoder = self.decoders.get_mut(&lane).expect("looked up above");
            let frame = decoder
                .pop()
                .map_err(|source| SessionError::Frame { lane, source })?;
            let Some(frame) = frame else { return Ok(()) };
            if frame.schema != v1::SCHEMA {
                return Err(SessionError::OTHER_VERSION);
            }
            let message = Message::decode(&frame).map_err(|source| SessionError::Message {
                kind: frame.kind,
                source,
            })?;
            if let Some(message) = message {
                self.handle_message(message, now)?;
            }
        }
    }

    fn handle_message(&mut self, message: Message, now: Now) -> Result<(), SessionError> {
        match (&self.state, message) {
            (State::Greeting, Message::Welcome(welcome)) => {
                if welcome.version != v1::SCHEMA {
                    return Err(SessionError::OTHER_VERSION);
                }
                self.opened_at = Some(now.at);
                self.clock_skew_ms = Some(now.wall_ms.saturating_sub(welcome.wall_ms));
                self.open(welcome, now);
                Ok(())
            }
            (State::Open, Message::Ack(ack)) => {
                let lane = lane_of(ack.lane)?;
                self.remember(ack.commit, ack.audit_head);
                self.acknowledge(lane, ack.seq);
                self.fill(lane);
                self.settle(now);
                Ok(())
            }
            (State::Open, Message::Refused(refused)) => {
                self.rewind(lane_of(refused.lane)?, refused.expected_seq);
                Ok(())
            }
            (State::Open, Message::Heartbeat(beat)) => {
                self.clock_skew_ms = Some(now.wall_ms.saturating_sub(beat.wall_ms));
                Ok(())
            }
            (State::Open, Message::Resync(resync)) => {
                let v1::Resync { scope, sums } = resync;
                if sums.is_empty() {
                    self.outputs.push_back(Output::ForgetScope(scope));
                } else if parts::is_count(sums.len()) {
                    self.outputs.push_back(Output::Repair { scope, sums });
                } else {
                    return Err(SessionError::Unexpected("sums of parts that cannot be"));
                }
                Ok(())
            }
            (State::Open, Message::Renewed(renewed)) => {
                self.is_asking = false;
                self.outputs
                    .push_back(Output::StoreCertificate(renewed.chain));
                Ok(())
            }
            (State::Open, Message::NotRenewed(refused)) => {
                self.is_asking = false;
                self.handle_not_renewed(now);
                self.outputs.push_back(Output::NotRenewed(refused.reason));
                Ok(())
            }
            (State::Open, Message::Authority(authority)) => {
                self.has_authority = true;
                self.outputs.push_back(Output::Trust(authority.roots));
                if let Some(within_ms) = authority.renew_within_ms {
                    let chosen = if self.config.is_brief {
                        0
                    } else {
                        self.chance() % within_ms.saturating_add(1)
                    };
                    let at = now.at + Duration::from_millis(chosen).min(RENEW_RETRY);
                    self.renew_at = self.renew_at.map(|due| due.min(at));
                }
                Ok(())
            }
            (State::Open | State::Greeting, Message::GoAway(away)) => {
                self.retry_after = Some(
                    Duration::from_millis(away.retry_after_ms).min(limits::RECONNECT_MAX * 10),
                );
                let code = CloseCode::from_number(u64::from(away.code)).unwrap_or(CloseCode::Done);
                self.outputs.push_back(Output::Close {
                    code,
                    reason: away.reason,
                });
                Ok(())
            }
            (State::Greeting, _) => Err(SessionError::Unexpected("the hub did not greet first")),
            (_, _) => Err(SessionError::Unexpected("the hub sent an agent's message")),
        }
    }

    fn open(&mut self, welcome: v1::Welcome, now: Now) {
        self.state = State::Open;
        self.hub_ahead_ms = welcome.wall_ms.saturating_sub(now.wall_ms);
        let rested_at = self.asked_at.map(|at| at + RENEW_PAUSE);
        self.renew_at = self.config.certificate.as_ref().map(|certificate| {
            let is_known = self.passed_over == 0;
            let due = certificate.due_after(welcome.wall_ms);
            let due_at = now.at + if is_known { due } else { Duration::ZERO };
            rested_at.map_or(due_at, |rested_at| due_at.max(rested_at))
        });
        let known = self.config.witness;
        let is_same_life = known.is_some_and(|seen| seen.hub_epoch == welcome.hub_epoch);
        if let Some(seen) = known
            && is_same_life
            && welcome.commit < seen.commit
        {
            let commit = welcome.commit;
            self.outputs.push_back(Output::SetBack { seen, commit });
            // What it is known to hold may be among what it lost.
            self.outputs.push_back(Output::ForgetScope(String::new()));
        }
        if !is_same_life {
            if known.is_some() {
                self.outputs.push_back(Output::ForgetScope(String::new()));
            }
            self.witness(Witness {
                hub_epoch: welcome.hub_epoch,
                commit: 0,
                audit_head: [0; 32],
            });
        }
        for lane in Lane::DATA {
            let stored = welcome.high_water.iter().find(|high_water| {
                high_water.lane == lane.number() && high_water.epoch == self.config.epoch
            });
            let seq = stored.map_or(0, |high_water| high_water.seq);
            let credit = welcome.credits.iter().find(|c| c.lane == lane.number());
            let state = LaneState {
                acked: seq,
                sent: seq,
                credit_bytes: credit.map_or(0, |credit| credit.bytes),
                ..LaneState::default()
            };
            self.lanes.insert(lane, state);
            if seq > 0 {
                self.outputs.push_back(Output::Release {
                    lane,
                    through_seq: seq,
                });
            }
            self.fill(lane);
        }
    }

    /// Takes note of how far the hub's store has come.
    fn remember(&mut self, commit: u64, audit_head: [u8; 32]) {
        if let Some(known) = self.config.witness
            && commit > known.commit
        {
            self.witness(Witness {
                commit,
                audit_head,
                ..known
            });
        }
    }

    fn witness(&mut self, witness: Witness) {
        self.config.witness = Some(witness);
        // The last one says it all.
        let is_news = |output: &Output| !matches!(output, Output::Remember(_));
        self.outputs.retain(is_news);
        self.outputs.push_back(Output::Remember(witness));
    }

    fn acknowledge(&mut self, lane: Lane, seq: u64) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        if seq <= state.acked {
            return;
        }
        state.acked = seq;
        state.sent = state.sent.max(seq);
        state.refusals = 0;
        self.attempts = 0;
        while let Some(&(last, bytes)) = state.in_flight.front()
            && last <= seq
        {
            state.in_flight.pop_front();
            state.in_flight_bytes = state.in_flight_bytes.saturating_sub(bytes);
        }
        self.outputs.push_back(Output::Release {
            lane,
            through_seq: seq,
        });
    }

    fn rewind(&mut self, lane: Lane, expected_seq: u64) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        state.refusals += 1;
        state.sent = expected_seq.saturating_sub(1);
        state.in_flight.clear();
        state.in_flight_bytes = 0;
        state.drained = false;
        if state.refusals > REFUSALS {
            let reason = format!("lane {lane:?} is refused again and again at {expected_seq}");
            self.outputs.push_back(Output::Close {
                code: CloseCode::Protocol,
                reason,
            });
            return;
        }
        self.fill(lane);
    }

    /// Takes note that the spool has a new batch on a lane.
    pub fn handle_spooled(&mut self, lane: Lane) {
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.drained = false;
            state.is_news = true;
        }
        self.fill(lane);
    }

    fn fill(&mut self, lane: Lane) {
        // What is under way should come to its end before the session is made anew.
        if !self.is_open() || self.settle_by.is_some() {
            return;
        }
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        if state.fetching.is_some() || state.drained || state.in_flight_bytes >= state.credit_bytes
        {
            return;
        }
        state.fetching = Some(state.sent);
        state.is_news = false;
        self.outputs.push_back(Output::Fetch {
            lane,
            after_seq: state.sent,
        });
    }

    /// Takes what [`Output::Fetch`] asked for.
    pub fn handle_batch(&mut self, lane: Lane, batch: Option<StoredBatch>) {
        let is_open = self.is_open();
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        let fetched_after = state.fetching.take();
        if !is_open {
            return;
        }
        let Some(batch) = batch else {
            // The lane may have been rewound, or got more, since this was asked.
            state.drained = fetched_after == Some(state.sent) && !state.is_news;
            self.fill(lane);
            return;
        };
        if batch.first_seq != state.sent + 1 {
            if fetched_after == Some(state.sent) {
                // Asking again would give the same answer.
                state.drained = true;
                let reason = format!(
                    "lane {lane:?} should go on at {}, but the spool has a batch from {} to {}",
                    state.sent + 1,
                    batch.first_seq,
                    batch.last_seq
                );
                self.outputs.push_back(Output::Close {
                    code: CloseCode::Protocol,
                    reason,
                });
            } else {
                // The lane was rewound or acknowledged while the batch was being loaded.
                self.fill(lane);
            }
            return;
        }
        let bytes = u64::try_from(batch.frame.len()).unwrap_or(u64::MAX);
        state.sent = batch.last_seq;
        state.in_flight.push_back((batch.last_seq, bytes));
        state.in_flight_bytes += bytes;
        self.outputs.push_back(Output::Send {
            lane,
            bytes: batch.frame,
        });
        self.fill(lane);
    }

    /// Returns when [`Session::handle_timeout`] should be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Greeting | State::Open => {
                let silent = self.heard_at.map(|at| at + self.patience());
                [silent, self.beat_at, self.renew_at, self.settle_by]
                    .into_iter()
                    .flatten()
                    .min()
            }
            State::Dialling | State::Stopped => None,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        match self.state {
            State::Waiting { until } if until <= now.at => {
                self.state = State::Dialling;
                self.outputs.push_back(Output::Dial);
            }
            State::Greeting | State::Open => {
                self.renew(now);
                self.settle(now);
                let patience = self.patience();
                if self.heard_at.is_some_and(|at| at + patience <= now.at) {
                    let reason = if self.is_open() {
                        SessionError::Silent.to_string()
                    } else {
                        format!("no greeting within {} s", patience.as_secs())
                    };
                    self.outputs.push_back(Output::Close {
                        code: CloseCode::Silent,
                        reason,
                    });
                    self.heard_at = None;
                    self.beat_at = None;
                    return;
                }
                if self.beat_at.is_some_and(|at| at <= now.at) {
                    self.beat_at = Some(now.at + limits::HEARTBEAT);
                    if let Some(lane) = self.find_stuck(now) {
                        let seconds = limits::ACK_TIMEOUT.as_secs();
                        let reason =
                            format!("lane {lane:?} was not acknowledged for {seconds} seconds");
                        let code = CloseCode::Silent;
                        self.outputs.push_back(Output::Close { code, reason });
                        return;
                    }
                    if self.is_open() {
                        self.ask_anew();
                        self.beat(now);
                    }
                }
            }
            State::Waiting { .. } | State::Dialling | State::Stopped => {}
        }
    }

    /// Returns after which silence the connection is taken for dead.
    fn patience(&self) -> Duration {
        if self.is_open() {
            return limits::IDLE_TIMEOUT;
        }
        let doubled = limits::GREETING_TIME.saturating_mul(1 << self.attempts.min(4));
        doubled.min(limits::IDLE_TIMEOUT)
    }

    /// Asks the hub whether it is still there; it answers this at once, whatever else it has to do.
    pub fn handle_doubt(&mut self, now: Now) {
        if self.is_open() {
            self.beat(now);
        }
    }

    fn beat(&mut self, now: Now) {
        let Waiting { bytes, oldest_ms } = self.waiting;
        self.send(&Message::Heartbeat(Heartbeat {
            wall_ms: now.wall_ms,
            spool_bytes: bytes,
            oldest_ms,
        }));
    }

    /// Asks for a certificate when it is time.
    fn renew(&mut self, now: Now) {
        if self.renew_at.is_none_or(|at| now.at < at) {
            return;
        }
        let Some(certificate) = &self.config.certificate else {
            self.renew_at = None;
            return;
        };
        let csr = certificate.csr.clone();
        // An answer sets another time.
        self.renew_at = Some(now.at + RENEW_RETRY);
        if self.is_asking {
            return;
        }
        self.is_asking = true;
        self.asked_at = Some(now.at);
        self.send(&Message::Renew(v1::Renew { csr }));
    }

    /// Takes note that a new certificate is stored and is shown by the next connection. The session
    /// is made anew once nothing is under way.
    pub fn handle_certificate(&mut self, stored: Certificate, now: Now) {
        self.config.certificate = Some(stored);
        self.passed_over = 0;
        self.renew_at = None;
        if self.is_open() {
            self.settle_by = Some(now.at + SETTLE);
            self.settle(now);
        }
    }

    /// Takes note that there is no new certificate, from the hub or because it could not be
    /// stored: it is asked for again later.
    pub fn handle_not_renewed(&mut self, now: Now) {
        let hub_ms = now.wall_ms.saturating_add(self.hub_ahead_ms);
        if let Some(certificate) = &self.config.certificate
            && self.is_open()
        {
            self.renew_at = Some(now.at + certificate.retry_after(hub_ms));
        }
    }

    /// Ends a session that is to be made anew, once nothing is under way or time is over.
    fn settle(&mut self, now: Now) {
        let Some(by) = self.settle_by else { return };
        let is_idle = self.lanes.values().all(|lane| lane.in_flight.is_empty());
        if is_idle || by <= now.at {
            self.settle_by = None;
            self.retry_after = Some(Duration::ZERO);
            self.outputs.push_back(Output::ComeBack);
        }
    }

    /// Tells the spool once more what it may let go, and looks for batches once more: a spool whose
    /// disk was full has forgotten the one and could not answer the other.
    fn ask_anew(&mut self) {
        for lane in Lane::DATA {
            let Some(state) = self.lanes.get_mut(&lane) else {
                continue;
            };
            state.drained = false;
            if state.acked > 0 {
                let through_seq = state.acked;
                self.outputs
                    .push_back(Output::Release { lane, through_seq });
            }
            self.fill(lane);
        }
    }

    /// Returns a lane whose oldest batch is in flight for too long. No hub that works makes one;
    /// but where one was swallowed, nothing else would ever send it again.
    fn find_stuck(&mut self, now: Now) -> Option<Lane> {
        let mut stuck = None;
        for (lane, state) in &mut self.lanes {
            let front = state.in_flight.front().map(|(last, _)| *last);
            let known = state.oldest.filter(|(last, _)| Some(*last) == front);
            let since = known.map_or(now.at, |(_, since)| since);
            state.oldest = front.map(|last| (last, since));
            if front.is_some() && since + limits::ACK_TIMEOUT <= now.at {
                stuck = Some(*lane);
            }
        }
        stuck
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn send(&mut self, message: &Message) {
        self.outputs.push_back(Output::Send {
            lane: Lane::Control,
            bytes: message.encode(),
        });
    }

    /// Full jitter: anywhere between zero and the doubled bound, so that ten thousand agents do
    /// not come back together.
    fn backoff(&mut self) -> Duration {
        let doubled = limits::RECONNECT_MIN.saturating_mul(1u32 << self.attempts.min(16));
        self.pause_within(doubled.min(limits::RECONNECT_MAX))
    }

    fn pause_within(&mut self, bound: Duration) -> Duration {
        let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(60_000);
        Duration::from_millis(self.chance() % (bound_ms + 1))
    }

    /// xorshift64: any sequence that differs between agents will do.
    fn chance(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }
}

fn lane_of(number: u8) -> Result<Lane, SessionError> {
    Lane::from_number(number)
        .filter(|lane| *lane != Lane::Control)
        .ok_or(SessionError::Unexpected(
            "a message names a lane that carries no batches",
        ))
}
