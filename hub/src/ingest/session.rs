//! One session of one agent: admission, and the moving of bytes between its lanes, the protocol's
//! state machine and the store. Decides nothing about items.
//!
//! ```text
//! lanes of a line  ─▶ readers ─▶ pieces ─▶ hub::Session ─▶ batches ─▶ turn ─▶ Intake ─▶ store
//! control lane     ◀─ writer  ◀─ frames ◀──────┘◀────────── acknowledgement ◀─────┘
//! ```
//! An agent whose certificate has ended gets a session without an intake: it can renew, and
//! nothing that it sends can reach the store.
//!
//! An agent may try two connections at once and speaks on the one it takes. So a session begins
//! with its first bytes: a connection that stays silent takes no other's place.
//!
//! Batches wait for their turn in the queue of all sessions ([`super::fair`]), and one is in the
//! store's hands at a time. While they wait, no more of the data lanes is read and the transport's
//! windows hold the agent back.

mod frames;
mod renewal;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use protocol::batch::SealedBatch;
use protocol::declare::Declarations;
use protocol::enroll::Pin;
use protocol::frame::Lane;
use protocol::limits;
use protocol::session::hub::{self, Duty, Output};
use protocol::session::{CloseCode, Now, SessionError};
use protocol::wire::v1::{Authority, Epoch, GoAway, Heartbeat, Hello, HighWater, Message};
use rustls_pki_types::CertificateDer;
use store::error::AdmitAgentError;
use store::rows::AgentState;
use store::rows::access::AgentStatus;
use store::{AdmittedAgent, OrgStore};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::admit::{Terms, clip};
use super::connection::{Connection, Ears, Full, Heard, Line};
use super::fair::{Fair, Seat};
use super::intake::{Intake, IntakeError, Taken};
use super::quota::Pace;
use super::{Hub, Shared};
use crate::ca::spiffe::{self, read_peer};
use crate::live::{Changed, EndSession, Greeted, Live, Registered, SessionInfo, Throttled, What};
use crate::tls::root_of;
use frames::Frames;
use renewal::{Renewing, next_certificate};
use turns::{Answer, next_answer};

/// Time for an agent to greet after the handshake.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// Time between two writings of an agent's status.
const STATUS_EVERY: Duration = Duration::from_secs(60);

/// Time for the last writing of an agent's status.
const LAST_STATUS: Duration = Duration::from_millis(500);

/// Time in which a suspended agent's greeting has come, if one comes: it is sent with the last
/// message of the handshake.
const FIRST_WORDS: Duration = Duration::from_millis(300);

/// Time for an agent to hang up when it is asked to.
const FAREWELL: Duration = Duration::from_secs(2);

/// Time for which an agent that connects too often waits for its refusal.
const BUSY_TIME: Duration = Duration::from_secs(1);

/// Shortest pause that a stopping hub asks for, and how much is added by chance so that agents do
/// not come back together, in milliseconds.
const RETURN_MS: (u64, u64) = (1_000, 4_000);

/// Time for an agent whose certificate has ended to renew it.
const RENEWAL_TIME: Duration = Duration::from_secs(60);

/// Time within which agents renew, each at a moment of its choice, when the authority is replaced:
/// ten thousand of them ask for some 170 certificates a second.
const RENEW_WITHIN_MS: u64 = 60_000;

/// The pause that a suspended agent is asked for, alike: often enough that it is back soon once it
/// is resumed.
const SUSPENDED_MS: (u64, u64) = (10_000, 10_000);

/// Longest program version that is kept, in bytes.
const VERSION_BYTES: usize = 64;

fn now() -> Now {
    Now {
        at: Instant::now(),
        wall_ms: Timestamp::now().as_millisecond(),
    }
}

/// How a session ended.
enum Ending {
    /// The agent left, or the network did.
    Gone(String),
    /// This side ends it.
    Close(EndSession),
}

impl From<EndSession> for Ending {
    fn from(end: EndSession) -> Self {
        Self::Close(end)
    }
}

fn end(code: CloseCode, reason: impl Into<String>) -> EndSession {
    EndSession {
        code,
        reason: reason.into(),
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(shared: &Shared, connection: Connection, stop: CancellationToken) {
    let peer = Peer {
        transport: connection.transport(),
        remote: connection.remote(),
        chain: connection.peer_chain().unwrap_or_default(),
    };
    let remote = peer.remote;
    let (line, mut ears) = connection.open();
    let known = match recognise(shared, &peer).await {
        Ok(known) => known,
        Err(EndSession { code, reason }) => {
            info!(%remote, %code, %reason, "session refused");
            if code == CloseCode::Suspended {
                return send_away(line, &mut ears, code, reason).await;
            }
            if code == CloseCode::Busy {
                keep_waiting(shared, &line, &stop).await;
            }
            return line.close(code, &reason).await;
        }
    };
    let first = match first_words(&line, &mut ears, &stop).await {
        Ok(first) => first,
        Err(Ending::Gone(reason)) => {
            debug!(%remote, %reason, "a connection ended before its session began");
            return;
        }
        Err(Ending::Close(EndSession { code, reason })) => {
            debug!(%remote, %code, %reason, "a connection whose session did not begin");
            return line.close(code, &reason).await;
        }
    };
    let (drive, ended) = match admit(shared, &peer, known, line).await {
        Ok(admitted) => admitted,
        Err((line, EndSession { code, reason })) => {
            info!(%remote, %code, %reason, "session refused");
            return line.close(code, &reason).await;
        }
    };
    let agent = drive.status.agent;
    let transport = peer.transport;
    info!(%remote, transport, org = %drive.store.org(), %agent, "session open");
    match drive.run(first, ears, ended, stop).await {
        (_, Ending::Gone(reason)) => info!(%agent, %reason, "session closed"),
        (line, Ending::Close(EndSession { code, reason })) => {
            info!(%agent, %code, %reason, "session closed");
            line.close(code, &reason).await;
        }
    }
}

/// Lets an agent that comes back at once wait for its refusal. Each time costs the hub a handshake,
/// and what waits costs it next to nothing.
async fn keep_waiting(shared: &Shared, line: &Line, stop: &CancellationToken) {
    let Ok(_place) = shared.kept_waiting.try_acquire() else {
        return;
    };
    tokio::select! {
        () = tokio::time::sleep(BUSY_TIME) => {}
        _ = line.closed() => {}
        () = stop.cancelled() => {}
    }
}

/// Tells an agent that greets when to come back; one that says nothing is hung up on with the same
/// words.
async fn send_away(line: Line, ears: &mut Ears, code: CloseCode, reason: String) {
    let first = tokio::time::timeout(FIRST_WORDS, ears.control.recv()).await;
    if let Ok(Some(Heard::Bytes(..))) = first {
        let away = Message::GoAway(GoAway {
            code: code.number(),
            reason: reason.clone(),
            retry_after_ms: return_after(SUSPENDED_MS),
        });
        if line.send(away.encode()).is_ok() {
            // It hangs up by itself.
            let _ = tokio::time::timeout(FAREWELL, line.closed()).await;
        }
    }
    line.close(code, &reason).await;
}

/// Returns the pause that an agent is asked for, in milliseconds. Without chance they would all
/// come back after the same one.
fn return_after((least, spread): (u64, u64)) -> u64 {
    let mut chance = [0; 8];
    let _ = getrandom::fill(&mut chance);
    least + u64::from_le_bytes(chance) % spread
}

/// Waits for the first bytes of a connection.
async fn first_words(
    line: &Line,
    ears: &mut Ears,
    stop: &CancellationToken,
) -> Result<Heard, Ending> {
    let greeting = async {
        // Whoever speaks of data first is refused by the session.
        tokio::select! {
            Some(heard) = ears.control.recv() => heard,
            Some(heard) = ears.data.recv() => heard,
            else => std::future::pending().await,
        }
    };
    tokio::select! {
        heard = greeting => Ok(heard),
        reason = line.closed() => Err(Ending::Gone(reason)),
        () = stop.cancelled() => Err(end(CloseCode::Done, "the hub is stopping").into()),
        () = tokio::time::sleep(GREETING_TIME) => Err(ungreeted().into()),
    }
}

fn ungreeted() -> EndSession {
    let reason = format!("no greeting within {} s", GREETING_TIME.as_secs());
    end(CloseCode::Silent, reason)
}

/// The other side of a connection.
struct Peer {
    transport: &'static str,
    remote: SocketAddr,
    /// What it has proved to hold the key of, leaf first.
    chain: Vec<CertificateDer<'static>>,
}

/// A peer that may speak for an agent.
struct Known {
    peer: spiffe::Peer,
    /// That its certificate leads to.
    root: Pin,
    admitted: AdmittedAgent,
}

/// How an agent is refused whose certificate leads to a root that is trusted no more.
fn retired() -> EndSession {
    let reason = "this agent's certificate was issued by a certificate authority that the hub has \
                  since replaced and retired";
    end(CloseCode::Unenrolled, reason)
}

fn unreadable() -> EndSession {
    end(
        CloseCode::Store,
        "the hub cannot read its store at the moment",
    )
}

/// Finds out who speaks, by the certificate and nothing else, and whether it may.
async fn recognise(shared: &Shared, peer: &Peer) -> Result<Known, EndSession> {
    let hub = &shared.hub;
    let chain = &peer.chain;
    let leaf = chain.first().ok_or_else(|| {
        let reason = "no client certificate: enrol this agent first (`zero-x-agent enroll`)";
        end(CloseCode::Unenrolled, reason)
    })?;
    let peer = read_peer(leaf, hub.authority.trust_domain())
        .map_err(|error| end(CloseCode::Unenrolled, error.to_string()))?;
    let Some(root) = root_of(&hub.authority, chain, Timestamp::now()) else {
        return Err(retired());
    };
    if !shared.quota.may_begin(peer.identity.agent, Instant::now()) {
        let reason = "this agent connects too often; it may try again in some seconds";
        return Err(end(CloseCode::Busy, reason));
    }
    let admitted = match hub.appliance.admit_agent(&peer.identity).await {
        Ok(admitted) => admitted,
        Err(error) => {
            let code = match &error {
                AdmitAgentError::Unknown | AdmitAgentError::WrongSerial => CloseCode::Unenrolled,
                AdmitAgentError::Revoked => CloseCode::Revoked,
                AdmitAgentError::Suspended | AdmitAgentError::Quarantined => CloseCode::Suspended,
                AdmitAgentError::Read(_) | AdmitAgentError::Open(_) | _ => {
                    let agent = peer.identity.agent;
                    error!(%agent, error = &error as &dyn Error, "an agent could not be admitted");
                    return Err(unreadable());
                }
            };
            return Err(end(code, error.to_string()));
        }
    };
    Ok(Known {
        peer,
        root,
        admitted,
    })
}

/// Makes the session of a peer that has begun to speak; on a refusal the line is given back.
async fn admit(
    shared: &Shared,
    peer: &Peer,
    known: Known,
    line: Line,
) -> Result<(Drive, oneshot::Receiver<EndSession>), (Line, EndSession)> {
    match prepare(shared, peer, known).await {
        Ok((made, ended)) => Ok((made(line), ended)),
        Err(refusal) => Err((line, refusal)),
    }
}

/// Takes the place of the agent's older session and reads what the new one goes on from.
async fn prepare(
    shared: &Shared,
    peer: &Peer,
    known: Known,
) -> Result<(impl FnOnce(Line) -> Drive, oneshot::Receiver<EndSession>), EndSession> {
    let hub = &shared.hub;
    let Known {
        peer: names,
        root,
        admitted,
    } = known;
    let (agent, store) = (admitted.agent.id, admitted.store);
    let since = Timestamp::now();
    let session = SessionInfo {
        org: store.org(),
        transport: peer.transport,
        remote: peer.remote,
        since,
        heard_at: since,
        throttled: None,
    };
    let (registered, ended) = hub.live.register(agent, session);
    // Who was revoked between the two was not on the list of sessions to end.
    let failed = |error: &(dyn Error + 'static)| {
        error!(%agent, error, "an agent's state could not be read");
        unreadable()
    };
    let row = hub.appliance.agent(agent).await;
    let row = row.map_err(|error| failed(&error))?;
    if let Some(refusal) = refusal_of(row.map(|row| row.state)) {
        return Err(refusal);
    }
    let view = store.agent(agent).await.map_err(|error| failed(&error))?;
    let high_water = store.high_waters(agent).await;
    let high_water = high_water.map_err(|error| failed(&error))?;
    let commit = store.read(|reader| reader.commit()).await;
    let is_full = high_water.len() >= limits::AGENT_STREAMS;
    let epochs = high_water.iter().map(|(stream, _)| stream.epoch);
    let only_epochs = is_full.then(|| epochs.collect());
    let config = hub::Config {
        hub_epoch: hub.epoch,
        commit: commit.map_err(|error| failed(&error))?,
        high_water: high_water
            .into_iter()
            .map(|(stream, seq)| HighWater {
                lane: stream.lane,
                epoch: stream.epoch,
                seq,
            })
            .collect(),
        duty: if names.not_after > since {
            Duty::All
        } else {
            Duty::RenewOnly
        },
    };
    let terms = Terms {
        agent,
        public_key: names.public_key.clone(),
        accounts: admitted
            .agent
            .accounts
            .map(|accounts| accounts.into_iter().collect()),
        types: Declarations::builtin(),
    };
    let status = view.and_then(|view| view.status);
    let status = status.unwrap_or_else(|| AgentStatus {
        agent,
        last_seen: since,
        version: String::new(),
        transport: peer.transport.to_owned(),
        spool_bytes: 0,
        spool_oldest: None,
        clock_skew_ms: 0,
        refused_batches: 0,
    });
    let (live, spoiled) = (hub.live.clone(), shared.spoiled.clone());
    let (intake, expires_at) = match config.duty {
        Duty::All => {
            let intake = Intake::new(store.clone(), terms, live, spoiled);
            (Some(intake), expiry(names.not_after, since))
        }
        Duty::RenewOnly => {
            let ended = names.not_after;
            info!(%agent, %ended, "the agent's certificate has ended; it may only renew");
            (None, Instant::now() + RENEWAL_TIME)
        }
    };
    let core = hub::Session::new(config, now());
    let fair = Arc::clone(&shared.fair);
    let seat = fair.seat(store.org(), agent);
    let pace = shared.quota.pace(store.org(), agent);
    let (live, transport) = (hub.live.clone(), peer.transport);
    let authority_changes = hub.authority.changes();
    let hub = Arc::clone(hub);
    let drive = move |line| Drive {
        line,
        transport,
        core,
        store,
        live,
        registered,
        status,
        status_stored: None,
        greet_by: Some(Instant::now() + GREETING_TIME),
        expires_at,
        hub,
        names,
        root,
        authority_changes,
        intake,
        answering: None,
        renewing: None,
        is_copied: false,
        fair,
        seat,
        pace,
        throttled: None,
        held_until: None,
        only_epochs,
        frames: Frames::default(),
        spoke_at: Instant::now(),
        work: BTreeMap::new(),
        held_bytes: 0,
        piece: None,
        tasks: JoinSet::new(),
    };
    Ok((drive, ended))
}

/// Returns when a certificate ends, on the steady clock.
fn expiry(not_after: Timestamp, now: Timestamp) -> Instant {
    let left = Duration::try_from(not_after.duration_since(now)).unwrap_or_default();
    Instant::now() + left
}

/// Returns how the session of an agent in a state is refused.
fn refusal_of(state: Option<AgentState>) -> Option<EndSession> {
    let error = match state {
        Some(AgentState::Active) => return None,
        Some(AgentState::Suspended) => (CloseCode::Suspended, AdmitAgentError::Suspended),
        Some(AgentState::Quarantined) => (CloseCode::Suspended, AdmitAgentError::Quarantined),
        Some(AgentState::Revoked) => (CloseCode::Revoked, AdmitAgentError::Revoked),
        None => (CloseCode::Unenrolled, AdmitAgentError::Unknown),
    };
    Some(end(error.0, error.1.to_string()))
}

/// Waits until an instant; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// A session under way.
struct Drive {
    line: Line,
    /// `quic` or `tcp`.
    transport: &'static str,
    core: hub::Session,
    store: OrgStore,
    live: Arc<Live>,
    registered: Registered,
    status: AgentStatus,
    status_stored: Option<Instant>,
    /// Until when the agent has to greet; `None` once it has.
    greet_by: Option<Instant>,
    /// When the agent's certificate ends, and the session with it.
    expires_at: Instant,
    hub: Arc<Hub>,
    /// Who speaks, by the certificate.
    names: spiffe::Peer,
    /// That the certificate leads to.
    root: Pin,
    authority_changes: watch::Receiver<()>,
    /// At home, or with the batch that is being stored; nowhere where only a renewal is taken.
    intake: Option<Intake>,
    renewing: Option<Renewing>,
    /// Whether two machines take turns with the agent's identity.
    is_copied: bool,
    answering: Option<JoinHandle<Answer>>,
    fair: Arc<Fair>,
    seat: Seat,
    pace: Pace,
    /// As the list of sessions shows it.
    throttled: Option<Throttled>,
    /// Until when the quota lets nothing more of the data lanes be read.
    held_until: Option<Instant>,
    /// The lives of its spool that are known, once there may be no more.
    only_epochs: Option<BTreeSet<Epoch>>,
    frames: Frames,
    /// When the agent was last told anything.
    spoke_at: Instant,
    /// As they wait in the queue of all.
    work: BTreeMap<Lane, VecDeque<Box<SealedBatch>>>,
    /// Bytes of the batches in `work` and of the one that is being stored, as if decompressed.
    held_bytes: usize,
    /// Of a data lane, not yet given to the core.
    piece: Option<(Lane, Bytes)>,
    /// Writings of the status. Aborted with the session.
    tasks: JoinSet<()>,
}

impl Drive {
    /// Drives the session to its end.
    async fn run(
        mut self,
        first: Heard,
        ears: Ears,
        ended: oneshot::Receiver<EndSession>,
        stop: CancellationToken,
    ) -> (Line, Ending) {
        let ending = match self.converse(first, ears, ended, stop).await {
            Ok(never) => match never {},
            Err(ending) => ending,
        };
        if self.answering.is_some() {
            // It is stored or not; the agent will ask.
            debug!(
                agent = %self.status.agent,
                "a batch was still being stored when the session ended"
            );
        }
        self.tasks.abort_all();
        if self.status_stored.is_some() || self.status.refused_batches > 0 {
            let stored = store_status(self.store.clone(), self.status.clone());
            // Before the close, so that the agent's next session reads it; but whoever is revoked
            // does not speak on while the store is stuck.
            let _ = tokio::time::timeout(LAST_STATUS, stored).await;
        }
        (self.line, ending)
    }

    async fn converse(
        &mut self,
        first: Heard,
        mut ears: Ears,
        mut ended: oneshot::Receiver<EndSession>,
        stop: CancellationToken,
    ) -> Result<std::convert::Infallible, Ending> {
        let expires_at = tokio::time::Instant::from_std(self.expires_at);
        self.hear(first)?;
        loop {
            self.feed()?;
            if self.is_copied {
                return Err(self.quarantine().await);
            }
            let silent = tokio::time::Instant::from_std(self.core.poll_timeout());
            let may_hear = self.piece.is_none();
            let may_store = self.intake.is_some();
            // On TCP what the agent asks waits behind the piece, and it would take this for a
            // hub that is gone.
            let still_here = (!may_hear).then(|| self.spoke_at + limits::STILL_HERE);
            // Every branch may be cancelled: what was not taken stays where it was.
            tokio::select! {
                why = &mut ended => {
                    let lost = |_| end(CloseCode::Done, "the session was ended");
                    let why = why.unwrap_or_else(lost);
                    if why.code == CloseCode::Suspended {
                        return Err(self.say_farewell(why, SUSPENDED_MS).await);
                    }
                    return Err(why.into());
                }
                () = stop.cancelled() => return Err(self.ask_to_return().await),
                () = tokio::time::sleep_until(expires_at) => {
                    // The next handshake says the same, in the words of TLS.
                    let reason = "this agent's certificate has expired";
                    return Err(end(CloseCode::Done, reason).into());
                }
                reason = self.line.closed() => return Err(Ending::Gone(reason)),
                () = at(self.greet_by) => return Err(ungreeted().into()),
                Some(heard) = ears.control.recv() => self.hear(heard)?,
                Some(heard) = ears.data.recv(), if may_hear => self.hear(heard)?,
                turn = self.seat.granted(), if may_store => self.store(turn),
                answer = next_answer(&mut self.answering) => self.answered(answer)?,
                Ok(()) = self.authority_changes.changed() => self.authority_changed()?,
                renewed = next_certificate(&mut self.renewing) => {
                    match renewed {
                        Ok(chain) => self.core.handle_renewed(chain),
                        Err(reason) => self.core.handle_not_renewed(reason),
                    }
                    self.send_outputs()?;
                }
                // What waits is given at the next turn of the loop.
                () = at(self.held_until) => {}
                () = at(still_here) => {
                    self.core.tell_presence(now());
                    self.spoke_at = Instant::now();
                    self.send_outputs()?;
                }
                () = at(self.frames.due()) => self.check_frames()?,
                // While a piece waits it is this side that does not listen.
                () = tokio::time::sleep_until(silent), if may_hear => {
                    if let Err(error) = self.core.handle_timeout(now()) {
                        return Err(self.broken(&error).into());
                    }
                }
            }
        }
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Ending> {
        let (lane, bytes) = match heard {
            Heard::Bytes(lane, bytes) => (lane, bytes),
            Heard::Broken(reason) => return Err(self.breaks(reason).into()),
        };
        match lane {
            Lane::Control => {
                if self.pace.floods(bytes.len(), Instant::now()) {
                    let reason = "the agent sends more control messages than a session needs";
                    return Err(self.breaks(reason.to_owned()).into());
                }
                self.give(lane, &bytes)
            }
            Lane::Events | Lane::Inventory | Lane::Cost | Lane::Results => {
                self.piece = Some((lane, bytes));
                Ok(())
            }
        }
    }

    fn give(&mut self, lane: Lane, bytes: &[u8]) -> Result<(), Ending> {
        let now = now();
        match self.core.handle_bytes(lane, bytes, now) {
            Ok(()) => {
                let unfinished = self.core.unfinished(lane);
                self.frames.heard(lane, unfinished, now.at);
                self.send_outputs()
            }
            Err(error) => Err(self.broken(&error).into()),
        }
    }

    /// Counts a breach of the protocol.
    fn broken(&mut self, error: &SessionError) -> EndSession {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        let code = error.close_code();
        if code == CloseCode::Silent {
            // It is the network's fault more often than the agent's.
            return end(code, reason);
        }
        EndSession {
            code,
            ..self.breaks(reason)
        }
    }

    fn breaks(&mut self, reason: String) -> EndSession {
        let agent = self.status.agent;
        warn!(%agent, %reason, "the agent broke the protocol");
        self.status.refused_batches = self.status.refused_batches.saturating_add(1);
        end(CloseCode::Protocol, reason)
    }

    /// Asks the agent to come back later, once what is being stored is acknowledged.
    async fn ask_to_return(&mut self) -> Ending {
        let stopping = || end(CloseCode::Done, "the hub is stopping");
        if self.answering.is_some() {
            let answer = next_answer(&mut self.answering);
            if let Ok(answer) = tokio::time::timeout(FAREWELL, answer).await
                && let Err(ending) = self.answered(answer)
            {
                return ending;
            }
        }
        self.say_farewell(stopping(), RETURN_MS).await
    }

    /// Asks the agent to leave and to come back after a pause.
    async fn say_farewell(&mut self, why: EndSession, pause_ms: (u64, u64)) -> Ending {
        self.core.ask_to_leave(GoAway {
            code: why.code.number(),
            reason: why.reason.clone(),
            retry_after_ms: return_after(pause_ms),
        });
        if let Err(ending) = self.send_outputs() {
            return ending;
        }
        match tokio::time::timeout(FAREWELL, self.line.closed()).await {
            Ok(reason) => Ending::Gone(reason),
            Err(_) => why.into(),
        }
    }

    /// Shuts out an identity with which two machines take turns: an operator must say whose it is.
    async fn quarantine(&mut self) -> Ending {
        let agent = self.status.agent;
        warn!(%agent, "two machines speak with this identity in turn; it is quarantined");
        if let Err(error) = self.hub.quarantine(&self.store, agent).await {
            // Both go on taking turns, which is found again.
            error!(%agent, error = &*error, "a copied identity could not be quarantined");
        }
        self.live.tell(Changed {
            org: self.store.org(),
            what: What::Agents,
        });
        let why = end(
            CloseCode::Suspended,
            AdmitAgentError::Quarantined.to_string(),
        );
        self.say_farewell(why, SUSPENDED_MS).await
    }

    fn answered(&mut self, answer: Result<Answer, JoinError>) -> Result<(), Ending> {
        let agent = self.status.agent;
        let answer = answer.map_err(|error| {
            error!(%agent, error = &error as &dyn Error, "storing a batch failed");
            end(CloseCode::Store, "the hub cannot store at the moment")
        })?;
        let Answer {
            intake,
            lane,
            bytes,
            taken,
            // Held until what waits of a refused lane is withdrawn.
            _turn,
        } = answer;
        self.intake = Some(intake);
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        match taken {
            Ok(Taken::Stored {
                seq,
                commit,
                audit_head,
                resync,
            }) => {
                self.core.handle_committed(lane, seq, commit, audit_head);
                for (scope, sums) in resync {
                    self.core.ask_resync(&scope.to_string(), sums);
                }
            }
            Ok(Taken::Repeat { high_water }) => {
                self.core.handle_committed(lane, high_water, 0, [0; 32]);
            }
            Ok(Taken::Gap { expected }) => {
                warn!(%agent, ?lane, expected, "a batch did not follow what is stored");
                self.status.refused_batches = self.status.refused_batches.saturating_add(1);
                // What waits follows the refused one; the agent will send it again.
                let dropped = self.work.remove(&lane).unwrap_or_default();
                self.seat.withdraw(lane);
                let bytes: usize = dropped.iter().map(|batch| batch.held_bytes()).sum();
                self.held_bytes = self.held_bytes.saturating_sub(bytes);
                self.core.handle_refused(lane, expected);
            }
            Err(IntakeError::Breach(error)) => return Err(self.broken(&error).into()),
            Err(error) => {
                error!(%agent, error = &error as &dyn Error, "a batch could not be stored");
                let reason = match error {
                    IntakeError::Full => "the hub's disk is full",
                    IntakeError::Breach(_)
                    | IntakeError::Read(_)
                    | IntakeError::Commit(_)
                    | IntakeError::Examined(_) => "the hub cannot store at the moment",
                };
                return Err(end(CloseCode::Store, reason).into());
            }
        }
        self.send_outputs()
    }

    fn send_outputs(&mut self) -> Result<(), Ending> {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { bytes, .. } => {
                    self.spoke_at = Instant::now();
                    if let Err(Full) = self.line.send(bytes) {
                        let reason = "the agent does not read its acknowledgements";
                        return Err(self.breaks(reason.to_owned()).into());
                    }
                }
                Output::Greeted(hello) => self.greeted(hello)?,
                Output::Admit(batch) => self.queue(batch),
                Output::Beat(beat) => self.beat(&beat),
                Output::Renew(csr) => {
                    let store = self.store.clone();
                    let asked =
                        renewal::begin(Arc::clone(&self.hub), store, self.names.clone(), csr);
                    self.renewing = Some(asked);
                }
            }
        }
        Ok(())
    }

    fn greeted(&mut self, hello: Hello) -> Result<(), Ending> {
        let is_known = |epochs: &BTreeSet<Epoch>| epochs.contains(&hello.epoch);
        if !self.only_epochs.as_ref().is_none_or(is_known) {
            let reason = "this agent has begun more spools than the hub keeps; enrol it again";
            return Err(self.breaks(reason.to_owned()).into());
        }
        self.tell_authority()?;
        let greeted = self.registered.greeted(hello.process, Instant::now());
        self.is_copied = greeted == Greeted::Copied;
        let at = Timestamp::now();
        self.greet_by = None;
        self.status.version = clip(&hello.agent_version, VERSION_BYTES);
        self.transport.clone_into(&mut self.status.transport);
        self.status.clock_skew_ms = hello.wall_ms.saturating_sub(at.as_millisecond());
        let (agent, skew_ms) = (self.status.agent, self.status.clock_skew_ms);
        if let Some(seen) = self.core.set_back(&hello) {
            error!(
                %agent, seen = seen.commit, found = self.core.commit_at_start(),
                "this organisation's store was set back: the agent has seen a later commit"
            );
        }
        info!(%agent, version = %self.status.version, skew_ms, "agent greeted");
        self.alive(at);
        Ok(())
    }

    /// Tells the agent whom to trust, and to renew a certificate of an authority that goes; ends
    /// the session where the certificate's authority is gone.
    fn tell_authority(&mut self) -> Result<(), Ending> {
        let authority = &self.hub.authority;
        if !authority.pins().contains(&self.root) {
            return Err(retired().into());
        }
        let is_behind = self.root != authority.pin();
        let roots = authority.roots();
        self.core.tell_authority(Authority {
            roots: roots.iter().map(|root| root.to_vec()).collect(),
            renew_within_ms: is_behind.then_some(RENEW_WITHIN_MS),
        });
        Ok(())
    }

    /// Goes on under a changed authority. An agent that has yet to greet is told then.
    fn authority_changed(&mut self) -> Result<(), Ending> {
        if self.greet_by.is_none() {
            self.tell_authority()?;
        }
        self.send_outputs()
    }

    fn beat(&mut self, beat: &Heartbeat) {
        let at = Timestamp::now();
        self.status.spool_bytes = beat.spool_bytes;
        self.status.spool_oldest = match beat.oldest_ms {
            0 => None,
            ms => Timestamp::from_millisecond(ms).ok(),
        };
        self.status.clock_skew_ms = beat.wall_ms.saturating_sub(at.as_millisecond());
        self.alive(at);
    }

    fn alive(&mut self, at: Timestamp) {
        self.registered.heard(at);
        self.status.last_seen = at;
        self.store_status_if_due();
    }

    fn store_status_if_due(&mut self) {
        let is_due = self
            .status_stored
            .is_none_or(|stored| stored.elapsed() >= STATUS_EVERY);
        if is_due {
            self.status_stored = Some(Instant::now());
            let (store, status, live) =
                (self.store.clone(), self.status.clone(), self.live.clone());
            // Beside the session, which must hear of its end while the store is slow.
            self.tasks.spawn(async move {
                let org = store.org();
                store_status(store, status).await;
                live.tell(Changed {
                    org,
                    what: What::Agents,
                });
            });
        }
    }
}

async fn store_status(store: OrgStore, status: AgentStatus) {
    let agent = status.agent;
    let mut write = store.write();
    write.put_agent_status(status);
    if let Err(error) = write.commit().await {
        warn!(%agent, error = &error as &dyn Error, "an agent's status could not be stored");
    }
}
