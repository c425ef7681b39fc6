//! Drives the session: does what it says and tells it what happened. Decides nothing.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use protocol::frame::Lane;
use protocol::session::agent::{self, Ended, Output, Session};
use protocol::session::{CloseCode, Now};
use protocol::wire::v1::{Epoch, Witness};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::doubt::{Doubt, Step};
use super::home::Home;
use super::way::{End, Way};
use super::{Config, Connection, Heard, Line, LinkError, Order, PROBE_TIME, Transport, dial};
use crate::expiry::Valid;
use crate::renew::Keeper;
use crate::spool::{Fetched, Released, Spool};

/// How the link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkStatus {
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Timestamp,
    /// The address in use or last tried.
    pub(crate) hub: String,
    /// What carries the session.
    pub(crate) transport: Option<Transport>,
    /// Why there is no link.
    pub(crate) error: Option<LinkError>,
    /// Bytes of frames given to connections since the agent was started.
    pub(crate) sent_bytes: u64,
    /// How far this host's clock is ahead of the hub's, as last heard.
    pub(crate) clock_skew_ms: Option<i64>,
    /// When the certificates in use are valid.
    pub(crate) valid: Valid,
    /// Whether a new certificate is due or on its way.
    pub(crate) is_renewing: bool,
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
    /// The identity that connections show, renewed over them.
    pub(crate) keeper: Keeper,
    pub(crate) config: Config,
    /// Addresses of the hub, in the order to try.
    pub(crate) hubs: Vec<String>,
    pub(crate) witness: Option<Witness>,
    /// Random number of this process.
    pub(crate) process: u64,
    /// Whether the process ends once the hub has everything.
    pub(crate) is_brief: bool,
    pub(crate) status: watch::Sender<LinkStatus>,
    /// Rung when the hub lacks what the sources could send again.
    pub(crate) resync: Arc<Notify>,
}

/// Why another connection is dialled beside the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// The session runs over TCP, and QUIC may work.
    Quic,
    /// The session runs on another hub than the first, and that may be back.
    Home,
    /// Nothing is heard on the one in use.
    Doubt,
}

impl Beside {
    /// Returns what the log says when the session moves, and why the hub is told that it does.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Quic => (
                "QUIC works again; the session moves to it",
                "moving to QUIC",
            ),
            Self::Home => (
                "a hub that is preferred answers again; the session moves to it",
                "moving to a hub that is preferred",
            ),
            Self::Doubt => (
                "the hub is silent and answers on another connection; the session moves to it",
                "moving to a connection that answers",
            ),
        }
    }
}

/// Attempts beside the connection in use.
type Probes = JoinSet<(Beside, Result<Connection, LinkError>)>;

/// A connection in use.
struct Wire {
    line: Line,
    heard: mpsc::Receiver<Heard>,
    address: String,
    /// What to tell the session when the connection has ended, where this side ended it.
    ending: Option<Ended>,
    /// Whether this side ended it because nothing was heard any more.
    is_silent: bool,
}

impl Wire {
    fn new(connection: Connection) -> Self {
        let address = connection.address.clone();
        let (line, heard) = connection.open();
        Self {
            line,
            heard,
            address,
            ending: None,
            is_silent: false,
        }
    }

    /// Closes the connection while others take its place.
    fn leave(self, code: CloseCode, reason: &'static str, leaving: &mut JoinSet<()>) {
        while leaving.try_join_next().is_some() {}
        // What it still brings is for nobody, but it is held: it would be cut off without.
        leaving.spawn(async move { self.line.leave(code, reason).await });
    }
}

/// Waits for what a connection brings; for ever when there is none.
///
/// # Cancel safety
///
/// Nothing is taken unless it is returned.
async fn heard(wire: &mut Option<Wire>) -> Heard {
    match wire {
        Some(wire) => wire.heard.recv().await.unwrap_or_else(|| {
            Heard::Ended(LinkError::Local {
                reason: "the connection's tasks have ended".to_owned(),
            })
        }),
        None => std::future::pending().await,
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
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Stopped> {
        let mut epoch = self.spool.epoch();
        let mut session = self.session(epoch, self.witness);
        let mut wire: Option<Wire> = None;
        let mut way = Way::new(self.config.probe_quic_after);
        let mut home = Home::new(self.hubs.clone(), self.config.return_after);
        let mut doubt = Doubt::new();
        // Dropped with this function, and the attempts with them.
        let mut dialling = JoinSet::new();
        let mut probing = Probes::new();
        let mut leaving = JoinSet::new();
        loop {
            let mut is_ahead = false;
            while let Some(output) = session.poll_output() {
                if is_ahead && !matches!(output, Output::Release { .. } | Output::Stop { .. }) {
                    // All that still counts in this epoch is what the hub has of it.
                    continue;
                }
                match output {
                    Output::Dial => {
                        let (hubs, tls) = (home.order(), self.keeper.tls());
                        let config = self.config.clone();
                        let order = way.order(Instant::now());
                        dialling.spawn(async move {
                            let unusable = |error: rustls::Error| LinkError::Local {
                                reason: error.to_string(),
                            };
                            dial_one_of(hubs, tls.map_err(unusable)?, config, order).await
                        });
                    }
                    Output::Send { lane, bytes } => {
                        if let Some(wire) = &mut wire {
                            self.count(bytes.len());
                            doubt.sent(Instant::now());
                            wire.line.send(lane, bytes);
                        }
                    }
                    Output::Fetch { lane, after_seq } => {
                        match self.spool.fetch(lane, after_seq).await {
                            Ok(Fetched::Batch(batch)) => session.handle_batch(lane, Some(batch)),
                            Ok(Fetched::Nothing) => session.handle_batch(lane, None),
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
                                    "the hub holds more than this spool ever sent: the disk was \
                                     set back; events may come twice"
                                );
                                is_ahead = true;
                            }
                            Err(error) => error!(
                                error = &error as &dyn Error,
                                "an acknowledgement could not be stored"
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
                    Output::StoreCertificate(chain) => match self.keeper.renew(chain) {
                        Ok(()) => {
                            let until = self.keeper.ends_at();
                            info!(%until, "certificate renewed");
                            let valid = self.keeper.valid();
                            self.status.send_modify(|status| status.valid = valid);
                            session.handle_certificate(self.keeper.renewable(), now());
                        }
                        Err(error) => {
                            error!(
                                error = &error as &dyn Error,
                                "a renewed certificate could not be stored"
                            );
                            session.handle_not_renewed(now());
                        }
                    },
                    Output::Trust(roots) => match self.keeper.trust(roots) {
                        Ok(true) => {
                            info!("the hub's certificate authority has changed");
                            let valid = self.keeper.valid();
                            self.status.send_modify(|status| status.valid = valid);
                        }
                        Ok(false) => {}
                        Err(error) => error!(
                            error = &error as &dyn Error,
                            "the hub's new certificate authority could not be stored"
                        ),
                    },
                    Output::NotRenewed(reason) => {
                        let ends = self.keeper.ends_at();
                        warn!(%reason, %ends, "the hub did not renew this agent's certificate");
                    }
                    Output::ShowOlder => {
                        warn!(
                            "the hub does not know this agent's certificate, as one that was \
                             restored from a backup; the one from before it is tried"
                        );
                        self.keeper.show_older();
                    }
                    Output::ComeBack => {
                        let reason = "the agent comes back with its new certificate";
                        if let Some(wire) = wire.take() {
                            wire.leave(CloseCode::Done, reason, &mut leaving);
                        }
                        self.tell(State::Connecting, None, None);
                        let reason = reason.to_owned();
                        session.handle_disconnected(Ended::Lost { reason }, now());
                    }
                    Output::Close { code, reason } => {
                        if let Some(wire) = &mut wire {
                            wire.line.close(code, &reason);
                            wire.is_silent = code == CloseCode::Silent;
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
            if is_ahead && let Err(error) = self.spool.roll_epoch().await {
                error!(
                    error = &error as &dyn Error,
                    "a new epoch could not be begun"
                );
                if let Some(wire) = &mut wire {
                    let reason = "no new epoch".to_owned();
                    wire.line.close(CloseCode::Done, &reason);
                    wire.ending = Some(Ended::Lost { reason });
                }
            }
            if self.spool.epoch() != epoch {
                epoch = self.spool.epoch();
                // An attempt for the old session would be taken for one of the new.
                (dialling, probing) = (JoinSet::new(), Probes::new());
                way.down(End::Told, Instant::now());
                home.down(Instant::now());
                doubt.heard();
                session = self.renew(epoch, &mut wire, &mut leaving).await;
                continue;
            }
            // Before it is told that the link is up: who waits for both must not see one alone.
            let is_renewing = session.is_renewing(now());
            self.status.send_if_modified(|status| {
                std::mem::replace(&mut status.is_renewing, is_renewing) != is_renewing
            });
            let is_online = self.status.borrow().state == State::Online;
            if session.is_open() && !is_online {
                self.tell(State::Online, None, wire.as_ref());
                home.open(&self.status.borrow().hub, Instant::now());
                let transport = wire
                    .as_ref()
                    .map_or("", |wire| wire.line.transport().word());
                info!(hub = %self.status.borrow().hub, transport, "link up");
            }
            let (wait, look) = (at(session.poll_timeout()), at(way.probe_at()));
            let look_home = at(home.look_at());
            // A greeting has a time of its own.
            let next = doubt.next().filter(|_| session.is_open());
            let doubted = at(next.map(|(at, _)| at));
            // Every branch may be cancelled: what was not taken stays in its queue, a wake-up is
            // kept, a sleep has no effect.
            tokio::select! {
                () = stop.cancelled() => {
                    if let Some(wire) = &wire {
                        wire.line.leave(CloseCode::Done, "the agent is stopping").await;
                    }
                    return Ok(());
                }
                Some(dialled) = dialling.join_next() => match dialled {
                    Ok(Ok(connection)) => {
                        way.up(connection.transport(), Instant::now());
                        doubt.up(connection.transport());
                        wire = Some(Wire::new(connection));
                        session.handle_connected(now());
                    }
                    Ok(Err(error)) => {
                        way.nothing_answers();
                        self.lost(&mut session, error, None);
                    }
                    Err(error) => {
                        let error = LinkError::Local { reason: error.to_string() };
                        self.lost(&mut session, error, None);
                    }
                },
                heard = heard(&mut wire) => match heard {
                    Heard::Bytes(lane, bytes) => {
                        doubt.heard();
                        if let Err(error) = session.handle_bytes(lane, &bytes, now())
                            && let Some(wire) = &mut wire
                            && wire.ending.is_none()
                        {
                            warn!(error = &error as &dyn Error, "the hub broke the protocol");
                            let (code, reason) = (error.close_code(), error.to_string());
                            wire.line.close(code, &reason);
                            wire.ending = Some(Ended::Lost { reason });
                        }
                        self.tell_clock(&session);
                    }
                    Heard::Ended(error) => {
                        if let Some(ended) = wire.take() {
                            let silent = ended.is_silent || matches!(error, LinkError::Silent { .. });
                            let end = if silent { End::Silent } else { End::Told };
                            way.down(end, Instant::now());
                            home.down(Instant::now());
                            doubt.heard();
                            probing = Probes::new();
                            let hub = ended.address.clone();
                            let was_open = session.is_open();
                            let told = self.lost(&mut session, error, ended.ending);
                            if !was_open || told.is_some_and(is_incapable) {
                                home.shun(&hub);
                            }
                        }
                    }
                },
                () = self.spool.spooled() => {
                    for lane in Lane::DATA {
                        session.handle_spooled(lane);
                    }
                }
                () = look => {
                    way.probing();
                    if let Some(wire) = &wire {
                        let hubs = vec![wire.address.clone()];
                        let order = Order::Only(Transport::Quic);
                        self.dial_beside(&mut probing, Beside::Quic, hubs, order);
                    }
                }
                () = look_home => {
                    if let Some(wire) = &wire {
                        let hubs = home.looking(&wire.address);
                        let order = way.order(Instant::now());
                        self.dial_beside(&mut probing, Beside::Home, hubs, order);
                    }
                }
                () = doubted => match next {
                    Some((_, Step::Ask)) => {
                        doubt.asked(Instant::now());
                        session.handle_doubt(now());
                    }
                    Some((_, Step::Dial)) => {
                        doubt.dialling();
                        if let Some(wire) = &wire {
                            let hubs = vec![wire.address.clone()];
                            let order = way.order(Instant::now());
                            self.dial_beside(&mut probing, Beside::Doubt, hubs, order);
                        }
                    }
                    None => {}
                },
                Some(probed) = probing.join_next() => match probed {
                    // The session has ended meanwhile, or is heard again.
                    Ok((beside, Ok(_)))
                        if !session.is_open()
                            || (beside == Beside::Doubt && !doubt.stands()) => {}
                    Ok((beside, Ok(connection))) => {
                        let at = Instant::now();
                        let (news, reason) = beside.words();
                        let transport = connection.transport();
                        info!(hub = %connection.address, transport = transport.word(), "{news}");
                        if let Some(wire) = wire.take() {
                            wire.leave(CloseCode::Done, reason, &mut leaving);
                        }
                        if beside == Beside::Doubt {
                            doubt.took_over(at);
                        }
                        // Where QUIC answers, the silence was not QUIC's.
                        let end = match (beside, transport) {
                            (Beside::Doubt, Transport::Tcp) => End::Silent,
                            (Beside::Doubt | Beside::Home | Beside::Quic, _) => End::Told,
                        };
                        if beside != Beside::Quic {
                            way.down(end, at);
                        }
                        home.down(at);
                        if beside == Beside::Home {
                            home.returned(at);
                        }
                        self.tell(State::Connecting, None, None);
                        let reason = reason.to_owned();
                        session.handle_disconnected(Ended::Lost { reason }, now());
                        way.up(transport, at);
                        doubt.up(transport);
                        probing = Probes::new();
                        wire = Some(Wire::new(connection));
                        session.handle_connected(now());
                    }
                    Ok((beside, Err(error))) => {
                        debug!(%error, ?beside, "no connection beside the one in use");
                        let at = Instant::now();
                        match beside {
                            Beside::Quic if wire.is_some() => way.probe_failed(at),
                            Beside::Home if wire.is_some() => home.failed(at),
                            Beside::Doubt => doubt.failed(at),
                            Beside::Quic | Beside::Home => {}
                        }
                    }
                    Err(error) => warn!(%error, "an attempt to connect has failed"),
                },
                () = wait => {
                    session.set_waiting(self.spool.waiting());
                    session.handle_timeout(now());
                }
            }
        }
    }

    /// Dials while the connection in use stays.
    fn dial_beside(&self, probing: &mut Probes, beside: Beside, hubs: Vec<String>, order: Order) {
        let mut config = self.config.clone();
        config.connect_timeout = config.connect_timeout.min(PROBE_TIME);
        let tls = self.keeper.tls();
        probing.spawn(async move {
            let unusable = |error: rustls::Error| LinkError::Local {
                reason: error.to_string(),
            };
            let dialled = match tls.map_err(unusable) {
                Ok(tls) => dial_one_of(hubs, tls, config, order).await,
                Err(error) => Err(error),
            };
            (beside, dialled)
        });
    }

    fn session(&mut self, epoch: Epoch, witness: Option<Witness>) -> Session {
        let config = agent::Config {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch,
            witness,
            process: self.process,
            certificate: Some(self.keeper.certificate()),
            is_brief: self.is_brief,
            seed: u64::from_le_bytes(crate::seal::random()),
        };
        Session::new(config, now())
    }

    fn count(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        // Nobody waits for this number.
        self.status.send_if_modified(|status| {
            status.sent_bytes = status.sent_bytes.saturating_add(bytes);
            false
        });
    }

    /// Makes the connection anew for another epoch of the spool.
    async fn renew(
        &mut self,
        epoch: Epoch,
        wire: &mut Option<Wire>,
        leaving: &mut JoinSet<()>,
    ) -> Session {
        if let Some(wire) = wire.take() {
            wire.leave(CloseCode::Done, "the agent begins a new epoch", leaving);
        }
        self.tell(State::Connecting, None, None);
        self.resync.notify_one();
        let witness = self.spool.call(|engine| engine.witness()).await;
        self.session(epoch, witness.ok().flatten())
    }

    fn tell_clock(&self, session: &Session) {
        // Nobody waits for this number.
        self.status.send_if_modified(|status| {
            status.clock_skew_ms = session.clock_skew_ms();
            false
        });
    }

    /// Tells of the end of a connection, or that there is none; returns the hub's code for it.
    fn lost(
        &self,
        session: &mut Session,
        error: LinkError,
        ending: Option<Ended>,
    ) -> Option<CloseCode> {
        let first = self.status.borrow().state != State::Offline;
        let ended = match (ending, &error) {
            (Some(ended), _) => ended,
            (None, LinkError::Closed { code, reason, .. }) => Ended::ByHub {
                code: *code,
                reason: reason.clone(),
            },
            // No hub takes it any more: the next older one, or none.
            (None, LinkError::Certificate { reason, .. }) if self.keeper.shows_older() => {
                Ended::ByHub {
                    code: Some(CloseCode::Unenrolled),
                    reason: format!(
                        "the hub knows neither this agent's certificate nor those from before \
                         it: {reason}"
                    ),
                }
            }
            // By the hub's clock and by this one: nothing but an operator can mend it.
            (None, LinkError::Certificate { reason, .. })
                if self.keeper.is_past_renewal(Timestamp::now()) =>
            {
                Ended::ByHub {
                    code: Some(CloseCode::Unenrolled),
                    reason: format!(
                        "this agent's certificate cannot be renewed any more: {reason}"
                    ),
                }
            }
            (None, LinkError::NoRoute { .. }) => Ended::Unrouted {
                reason: error.to_string(),
            },
            (None, _) => Ended::Lost {
                reason: error.to_string(),
            },
        };
        let told = match &ended {
            Ended::ByHub { code, .. } => *code,
            Ended::Lost { .. } | Ended::Unrouted { .. } => None,
        };
        // What the hub said before the connection ended says more than that it ended.
        let error = match &ended {
            Ended::ByHub { code, reason } => LinkError::Closed {
                address: self.status.borrow().hub.clone(),
                code: *code,
                reason: reason.clone(),
            },
            Ended::Lost { .. } | Ended::Unrouted { .. } => error,
        };
        if first {
            warn!(%error, "no link to the hub; sources go on and the spool keeps what they find");
        } else {
            debug!(%error, "still no link to the hub");
        }
        session.handle_disconnected(ended, now());
        if error.is_refusal() && session.shows_older_next() {
            // No refusal yet: the hub may know the certificate from before.
            self.tell(State::Connecting, None, None);
        } else {
            self.tell(State::Offline, Some(error), None);
        }
        told
    }

    fn tell(&self, state: State, error: Option<LinkError>, wire: Option<&Wire>) {
        self.spool.set_linked(state == State::Online);
        self.status.send_modify(|status| {
            if status.state != state {
                status.since = Timestamp::now();
            }
            status.state = state;
            status.error = error;
            status.transport = wire.map(|wire| wire.line.transport());
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

/// Returns whether a hub that says this may have a neighbour that can do more.
fn is_incapable(code: CloseCode) -> bool {
    match code {
        CloseCode::Busy | CloseCode::Store | CloseCode::Version => true,
        CloseCode::Done
        | CloseCode::Protocol
        | CloseCode::Unenrolled
        | CloseCode::Revoked
        | CloseCode::Suspended
        | CloseCode::Superseded
        | CloseCode::Silent => false,
    }
}

/// Waits until an instant; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Dials the hubs in their order and takes the first that is up.
///
/// # Errors
///
/// What the hub said that refuses this agent, else why the first could not be reached.
async fn dial_one_of(
    hubs: Vec<String>,
    tls: Arc<rustls::ClientConfig>,
    config: Config,
    order: Order,
) -> Result<Connection, LinkError> {
    let mut first = None;
    for address in hubs {
        debug!(hub = %address, "dialling");
        match dial(&address, tls.clone(), &config, order).await {
            Ok(connection) => {
                let transport = connection.transport().word();
                debug!(hub = %address, transport, "connected");
                return Ok(connection);
            }
            Err(error) => {
                debug!(%error, "no connection");
                if first.is_none() || error.is_refusal() {
                    first = Some(error);
                }
            }
        }
    }
    Err(first.unwrap_or_else(|| LinkError::Local {
        reason: "no hub has an address".to_owned(),
    }))
}
