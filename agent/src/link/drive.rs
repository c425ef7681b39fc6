//! Drives the session: does what it says and tells it what happened. Decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use jiff::Timestamp;
use protocol::frame::Lane;
use protocol::session::agent::{self, Ended, Output, Session};
use protocol::session::{CloseCode, Now};
use protocol::wire::v1::{Epoch, Witness};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Config, Line, LinkError, dial, explain};
use crate::spool::{Fetched, Released, Spool};

/// What may wait between the connection's readers and the session; when full, QUIC's windows
/// slow the hub.
const HAPPENINGS: usize = 16;

/// Largest piece read from a stream at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkStatus {
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Timestamp,
    /// The address in use or last tried.
    pub(crate) hub: String,
    /// Why there is no link.
    pub(crate) error: Option<LinkError>,
    /// Bytes of frames given to connections since the agent was started.
    pub(crate) sent_bytes: u64,
}

/// Whether there is a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not tried yet, or trying for the first time since it was lost.
    Connecting,
    /// Batches flow.
    Online,
    /// The last attempt failed; another follows.
    Offline,
}

/// The hub refuses this agent for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stopped {
    pub(crate) code: CloseCode,
    pub(crate) reason: String,
}

/// Everything that a link needs.
pub(crate) struct Drive {
    pub(crate) spool: Spool,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) config: Config,
    /// Addresses of the hub, in the order to try.
    pub(crate) hubs: Vec<String>,
    pub(crate) epoch: Epoch,
    pub(crate) witness: Option<Witness>,
    /// Random number of this process.
    pub(crate) process: u64,
    pub(crate) status: watch::Sender<LinkStatus>,
    /// Rung when the hub lacks what the sources could send again.
    pub(crate) resync: Arc<Notify>,
}

enum Happening {
    Dialled(Result<Line, LinkError>),
    Bytes(u64, Lane, Vec<u8>),
    Ended(u64, LinkError),
}

/// One connection with the tasks that read and write its streams.
struct Wire {
    /// Counts connections: what an earlier one still had to say is not for this one.
    serial: u64,
    line: Line,
    address: String,
    outboxes: BTreeMap<Lane, Arc<Outbox>>,
    /// What to tell the session when the connection has ended, where this side ended it.
    ending: Option<Ended>,
    happened: mpsc::Sender<Happening>,
    /// Aborted when this is dropped.
    tasks: JoinSet<()>,
}

/// Frames that wait for a lane's stream.
///
/// Bounded by the session: it sends no more than the hub's credit for the lane.
#[derive(Debug, Default)]
struct Outbox {
    frames: Mutex<VecDeque<Vec<u8>>>,
    filled: Notify,
}

impl Outbox {
    fn push(&self, frame: Vec<u8>) {
        let mut frames = self.frames.lock().expect("no holder of this lock panics");
        frames.push_back(frame);
        drop(frames);
        self.filled.notify_one();
    }

    fn pop(&self) -> Option<Vec<u8>> {
        let mut frames = self.frames.lock().expect("no holder of this lock panics");
        frames.pop_front()
    }
}

fn now() -> Now {
    Now {
        at: Instant::now(),
        wall_ms: Timestamp::now().as_millisecond(),
    }
}

impl Drive {
    /// Keeps the link up until `stop`, or until the hub refuses this agent for good.
    ///
    /// # Errors
    ///
    /// [`Stopped`] with the hub's words.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Stopped> {
        let (happened, mut happenings) = mpsc::channel(HAPPENINGS);
        let mut session = self.session(self.epoch, self.witness);
        let mut wire: Option<Wire> = None;
        let mut attempt = 0usize;
        let mut serial = 0u64;
        // Dropped with this function, and the attempt with it.
        let mut dialling = JoinSet::new();
        loop {
            while let Some(output) = session.poll_output() {
                match output {
                    Output::Dial => {
                        let address = self.address(attempt).to_owned();
                        attempt = attempt.wrapping_add(1);
                        let (tls, config) = (self.tls.clone(), self.config);
                        let happened = happened.clone();
                        debug!(hub = %address, "dialling");
                        while dialling.try_join_next().is_some() {}
                        dialling.spawn(async move {
                            let result = dial(&address, tls, config).await;
                            let _ = happened.send(Happening::Dialled(result)).await;
                        });
                    }
                    Output::Send { lane, bytes } => {
                        if let Some(wire) = &mut wire {
                            self.count(bytes.len());
                            wire.send(lane, bytes);
                        }
                    }
                    Output::Fetch { lane, after_seq } => {
                        match self.spool.fetch(lane, after_seq).await {
                            Ok(Fetched::Batch(batch)) => session.handle_batch(lane, Some(batch)),
                            Ok(Fetched::Nothing) => session.handle_batch(lane, None),
                            Ok(Fetched::Missing) => {
                                warn!(?lane, after_seq, "the hub lacks what it once acknowledged");
                                session = self.roll(session, &mut wire).await;
                            }
                            Err(error) => {
                                error!(error = &error as &dyn Error, "a batch could not be read");
                                session.handle_batch(lane, None);
                            }
                        }
                    }
                    Output::Release { lane, through_seq } => {
                        match self.spool.release(lane, through_seq).await {
                            Ok(Released::Done) => {}
                            Ok(Released::Ahead) => {
                                warn!(
                                    ?lane,
                                    through_seq,
                                    "the hub holds more than this spool ever sent: the disk was restored"
                                );
                                session = self.roll(session, &mut wire).await;
                            }
                            Err(error) => error!(
                                error = &error as &dyn Error,
                                "acknowledged batches could not be removed"
                            ),
                        }
                    }
                    Output::SetBack { seen, commit } => error!(
                        seen = seen.commit,
                        found = commit,
                        "the hub's store was set back: it has lost what it had acknowledged"
                    ),
                    Output::Remember(witness) => {
                        let job = move |engine: &mut crate::spool::Engine| engine.remember(witness);
                        let remembered = self.spool.call(job).await;
                        if let Err(error) = remembered.and_then(|inner| inner) {
                            error!(
                                error = &error as &dyn Error,
                                "how far the hub has come could not be stored"
                            );
                        }
                    }
                    Output::Repair { scope, sums } => {
                        info!(%scope, "the hub holds another set of a scope and asks for what differs");
                        let job =
                            move |engine: &mut crate::spool::Engine| engine.repair(&scope, &sums);
                        let compared = self.spool.call(job).await;
                        if let Err(error) = compared.and_then(|inner| inner) {
                            error!(
                                error = &error as &dyn Error,
                                "a scope could not be compared"
                            );
                        }
                        self.resync.notify_one();
                    }
                    Output::ForgetScope(scope) => {
                        info!(whole = scope.is_empty(), "the hub asks for a scope anew");
                        let job =
                            move |engine: &mut crate::spool::Engine| engine.forget_scope(&scope);
                        let forgotten = self.spool.call(job).await;
                        if let Err(error) = forgotten.and_then(|inner| inner) {
                            error!(
                                error = &error as &dyn Error,
                                "a scope could not be forgotten"
                            );
                        }
                        self.resync.notify_one();
                    }
                    Output::Close { code, reason } => {
                        if let Some(wire) = &mut wire {
                            let number = VarInt::from_u32(code.number());
                            wire.line.connection.close(number, reason.as_bytes());
                            wire.ending = Some(ending(code, reason));
                        }
                    }
                    Output::Stop { code, reason } => {
                        let address = self.status.borrow().hub.clone();
                        let error = LinkError::Closed {
                            address,
                            code: Some(code),
                            reason: reason.clone(),
                        };
                        self.tell(State::Offline, Some(error), None);
                        return Err(Stopped { code, reason });
                    }
                }
            }
            let is_online = self.status.borrow().state == State::Online;
            if session.is_open() && !is_online {
                self.tell(State::Online, None, wire.as_ref());
                info!(hub = %self.status.borrow().hub, "link up");
            }
            let due = session.poll_timeout().map(tokio::time::Instant::from_std);
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            // Every branch may be cancelled: a happening stays in its queue, a wake-up is kept,
            // a sleep has no effect.
            tokio::select! {
                () = stop.cancelled() => {
                    if let Some(wire) = &wire {
                        wire.line.leave(CloseCode::Done, "the agent is stopping").await;
                    }
                    return Ok(());
                }
                happening = happenings.recv() => match happening {
                    Some(Happening::Dialled(Ok(line))) => {
                        let address = self.address(attempt.wrapping_sub(1)).to_owned();
                        serial += 1;
                        wire = Some(Wire::new(serial, line, address, happened.clone()));
                        session.handle_connected(now());
                    }
                    Some(Happening::Dialled(Err(error))) => self.lost(&mut session, error, None),
                    Some(Happening::Bytes(of, lane, bytes)) => {
                        if let Some(wire) = wire.as_mut().filter(|wire| wire.serial == of)
                            && let Err(error) = session.handle_bytes(lane, &bytes, now())
                        {
                            warn!(error = &error as &dyn Error, "the hub broke the protocol");
                            let (code, reason) = (error.close_code(), error.to_string());
                            let number = VarInt::from_u32(code.number());
                            wire.line.connection.close(number, reason.as_bytes());
                            wire.ending = Some(Ended::Lost { reason });
                        }
                    }
                    Some(Happening::Ended(of, error)) => {
                        if let Some(ended) = wire.take_if(|wire| wire.serial == of) {
                            self.lost(&mut session, error, ended.ending);
                        }
                    }
                    None => unreachable!("this function holds a sender"),
                },
                () = self.spool.spooled() => {
                    for lane in Lane::DATA {
                        session.handle_spooled(lane);
                    }
                }
                () = wait => {
                    session.set_waiting(self.spool.waiting());
                    session.handle_timeout(now());
                }
            }
        }
    }

    fn session(&self, epoch: Epoch, witness: Option<Witness>) -> Session {
        let config = agent::Config {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch,
            witness,
            process: self.process,
            seed: u64::from_le_bytes(crate::seal::random()),
        };
        Session::new(config, now())
    }

    fn address(&self, attempt: usize) -> &str {
        let at = attempt.checked_rem(self.hubs.len()).unwrap_or(0);
        self.hubs.get(at).map_or("", String::as_str)
    }

    fn count(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        // Nobody waits for this number.
        self.status.send_if_modified(|status| {
            status.sent_bytes = status.sent_bytes.saturating_add(bytes);
            false
        });
    }

    /// Begins a new epoch on both sides: the connection is made anew with it.
    async fn roll(&self, session: Session, wire: &mut Option<Wire>) -> Session {
        match self.spool.roll_epoch().await {
            Ok(epoch) => {
                if let Some(wire) = wire.take() {
                    let number = VarInt::from_u32(CloseCode::Done.number());
                    wire.line
                        .connection
                        .close(number, b"the agent begins a new epoch");
                }
                self.tell(State::Connecting, None, None);
                self.resync.notify_one();
                let witness = self.spool.call(|engine| engine.witness()).await;
                self.session(epoch, witness.ok().flatten())
            }
            Err(error) => {
                error!(
                    error = &error as &dyn Error,
                    "a new epoch could not be begun"
                );
                session
            }
        }
    }

    fn lost(&self, session: &mut Session, error: LinkError, ending: Option<Ended>) {
        let first = self.status.borrow().state != State::Offline;
        if first {
            warn!(%error, "no link to the hub; sources go on and the spool keeps what they find");
        } else {
            debug!(%error, "still no link to the hub");
        }
        let ended = ending.unwrap_or_else(|| {
            if let LinkError::Closed { code, reason, .. } = &error {
                Ended::ByHub {
                    code: *code,
                    reason: reason.clone(),
                }
            } else {
                Ended::Lost {
                    reason: error.to_string(),
                }
            }
        });
        self.tell(State::Offline, Some(error), None);
        session.handle_disconnected(ended, now());
    }

    fn tell(&self, state: State, error: Option<LinkError>, wire: Option<&Wire>) {
        self.status.send_modify(|status| {
            if status.state != state {
                status.since = Timestamp::now();
            }
            status.state = state;
            status.error = error;
            if let Some(wire) = wire {
                status.hub.clone_from(&wire.address);
            }
        });
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

impl Wire {
    /// Starts the task that watches the connection. Streams are opened when they are needed.
    fn new(serial: u64, line: Line, address: String, happened: mpsc::Sender<Happening>) -> Self {
        let mut tasks = JoinSet::new();
        let (watched, tell, at) = (line.connection.clone(), happened.clone(), address.clone());
        tasks.spawn(async move {
            let error = explain(&at, watched.closed().await);
            let _ = tell.send(Happening::Ended(serial, error)).await;
        });
        Self {
            serial,
            line,
            address,
            outboxes: BTreeMap::new(),
            ending: None,
            happened,
            tasks,
        }
    }

    /// Puts bytes on the stream of a lane, which is opened with its first bytes: a stream that is
    /// open and silent would keep the hub waiting for its first frame.
    fn send(&mut self, lane: Lane, bytes: Vec<u8>) {
        if let Some(outbox) = self.outboxes.get(&lane) {
            return outbox.push(bytes);
        }
        let outbox = Arc::new(Outbox::default());
        outbox.push(bytes);
        self.outboxes.insert(lane, outbox.clone());
        let (connection, happened) = (self.line.connection.clone(), self.happened.clone());
        let serial = self.serial;
        self.tasks.spawn(async move {
            // Both fail with the connection only, which has a task of its own that tells.
            let Ok((send, receive)) = connection.open_bi().await else {
                return;
            };
            // Lower lanes go first, so that bulk never delays events.
            let _ = send.set_priority(-i32::from(lane.number()));
            tokio::join!(write(send, outbox), read(receive, serial, lane, happened));
        });
    }
}

/// Writes what waits for a lane until the connection ends.
async fn write(mut stream: SendStream, outbox: Arc<Outbox>) {
    loop {
        match outbox.pop() {
            // A failed write is seen by the task that watches the connection.
            Some(frame) => {
                if stream.write_all(&frame).await.is_err() {
                    return;
                }
            }
            None => outbox.filled.notified().await,
        }
    }
}

/// Reads a lane until the connection ends.
async fn read(mut stream: RecvStream, serial: u64, lane: Lane, happened: mpsc::Sender<Happening>) {
    while let Ok(Some(chunk)) = stream.read_chunk(PIECE_BYTES, true).await {
        let bytes = Happening::Bytes(serial, lane, chunk.bytes.to_vec());
        if happened.send(bytes).await.is_err() {
            return;
        }
    }
}
