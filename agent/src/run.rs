//! The daemon, and `run --once`.
//!
//! ```text
//! lock ─▶ identity ─▶ spool ─▶ link ─▶ status socket ─▶ sources ─▶ READY ─▶ signals ─▶ drain
//! ```
//! A command that needs the state directory while there is no link borrows it: everything but the
//! socket stops, and starts anew after it. Every task is in one tracker. A link that the hub refuses for good ends the process; so does a
//! spool that stops answering.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use collect::Until;
use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, warn};

use crate::config::Config;
use crate::connect::Connector;
use crate::exit::{Exit, Failure};
use crate::expiry::Valid;
use crate::identity::Identity;
use crate::layout::{Layout, Lock};
use crate::link::{Drive, LinkError, LinkStatus, State, Stopped, tls};
use crate::renew::Keeper;
use crate::sources::Sources;
use crate::spool::Spool;
use crate::status::{self, Bounds, Counter, Loan, Teller};
use crate::sync::board::Board;
use crate::sync::{Syncer, chain, span};

/// How long a stop waits for the hub to acknowledge what is under way. What is not acknowledged
/// then stays in the spool.
const DRAIN: Duration = Duration::from_secs(20);

/// How long a stop waits for sources to come to a named point.
const SOURCES_STOP: Duration = Duration::from_secs(5);

/// Time between two signs of life to systemd while the state directory is lent and no other span
/// is set.
const WATCHED: Duration = Duration::from_secs(60);

/// How often, and with what pause, the lock of a command that has ended is waited for.
const RETURNS: u32 = 50;
const RETURN_PAUSE: Duration = Duration::from_millis(100);

/// How long a run waits for a certificate that is due, once the hub has everything else.
const RENEWAL: Duration = Duration::from_secs(20);

/// How long the agent is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    /// Until a signal.
    Daemon,
    /// Until the hub has everything.
    Once,
}

/// What runs in both ways of running.
struct Node {
    spool: Spool,
    spool_thread: JoinHandle<()>,
    syncer: Arc<Syncer>,
    link: watch::Receiver<LinkStatus>,
    link_end: tokio::task::JoinHandle<Result<(), Stopped>>,
    stop_link: CancellationToken,
    resync: Arc<Notify>,
    teller: Arc<Teller>,
    _lock: Lock,
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::of(Exit::Data, "the identity cannot be used", error)
        .fix("enrol again: `zero-x-agent enroll --replace --token-file F`")
}

impl Node {
    /// Opens everything and starts the link.
    fn start(config: &Config, span: Span) -> Result<Self, Failure> {
        let layout = Layout::new(&config.state_dir);
        let lock = layout.lock()?;
        Identity::recover(&layout)?;
        let identity = Identity::load(&layout)?;
        let (ends, now) = (identity.valid.1, Timestamp::now());
        let last = identity.renewable_until();
        if last < now {
            warn!(%ends, %last, "this agent's certificate has ended and cannot be renewed any more");
        } else if ends <= now {
            warn!(%ends, %last, "this agent's certificate has ended; it is renewed first");
        }
        // Checked before anything is opened.
        tls::for_session(&identity).map_err(unusable)?;
        let signer = identity.signer().map_err(unusable)?;
        let opened = Spool::open(
            &layout.spool(),
            config.spool,
            identity.spool_key(),
            Box::new(signer),
        )?;
        let board = Arc::new(Board::default());
        let connector = Connector::new(layout.clone(), config.vault.clone());
        let syncer = Syncer::new(opened.spool.clone(), connector, config.sync, board.clone());
        let hubs = config.hub.addresses_or(&identity.hubs);
        let (status, link) = watch::channel(LinkStatus {
            state: State::Connecting,
            since: Timestamp::now(),
            hub: hubs.first().cloned().unwrap_or_default(),
            transport: None,
            error: None,
            sent_bytes: 0,
            clock_skew_ms: None,
            valid: Valid::of(&identity),
            is_renewing: false,
        });
        let (agent, org) = (identity.agent, identity.org);
        let keeper = Keeper::new(layout.clone(), identity).map_err(unusable)?;
        let resync = Arc::new(Notify::new());
        let drive = Drive {
            spool: opened.spool.clone(),
            keeper,
            config: config.transport.clone(),
            hubs,
            witness: opened.witness,
            process: u64::from_le_bytes(crate::seal::random()),
            is_brief: span == Span::Once,
            status,
            resync: resync.clone(),
        };
        let stop_link = CancellationToken::new();
        let link_end = tokio::spawn(drive.run(stop_link.clone()));
        let teller = Arc::new(Teller {
            agent,
            org,
            started_at: Timestamp::now(),
            bounds: Bounds {
                folder: layout.spool(),
                max_bytes: config.spool.max_bytes,
                keep_free_bytes: config.spool.keep_free_bytes,
            },
            link: link.clone(),
            spool: opened.spool.clone(),
            board,
        });
        info!(
            %agent,
            %org,
            version = env!("CARGO_PKG_VERSION"),
            "agent started"
        );
        Ok(Self {
            spool: opened.spool,
            spool_thread: opened.thread,
            syncer: Arc::new(syncer),
            link,
            link_end,
            stop_link,
            resync,
            teller,
            _lock: lock,
        })
    }

    /// Ends the link and writes the spool to the end; says whether it is closed.
    async fn stop(self) -> bool {
        self.stop_link.cancel();
        let waiting = self.spool.waiting().bytes;
        let sent_bytes = self.link.borrow().sent_bytes;
        if !self.link_end.is_finished() {
            let _ = self.link_end.await;
        }
        if waiting > 0 {
            info!(
                bytes = waiting,
                sent_bytes, "stopped; what the hub has not acknowledged stays in the spool"
            );
        } else {
            info!(sent_bytes, "stopped; the hub has acknowledged everything");
        }
        drop((self.spool, self.syncer, self.teller));
        let thread = self.spool_thread;
        // The thread ends with the last handle; a task that was abandoned may still hold one.
        let joined = tokio::task::spawn_blocking(move || thread.join());
        let is_closed = tokio::time::timeout(SOURCES_STOP, joined).await.is_ok();
        if !is_closed {
            warn!("the spool is still in use; it is left as it is, which loses nothing");
        }
        is_closed
    }
}

fn refused(node: &Node, stopped: Stopped) -> Failure {
    Failure::from(LinkError::Closed {
        address: node.link.borrow().hub.clone(),
        code: Some(stopped.code),
        reason: stopped.reason,
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::of(Exit::No, "cannot listen for signals", error))
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    ///
    /// # Cancel safety
    ///
    /// A signal that came while nobody waited is kept.
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Returns a token that is cancelled by SIGTERM or SIGINT.
///
/// # Errors
///
/// When signals cannot be listened for.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let mut signals = Signals::listen()?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        signals.stop().await;
        stop.cancel();
    });
    Ok(token)
}

/// Runs the daemon until a signal. When a command of this host borrows the state directory, all
/// but the status socket stops, and starts anew when it is done.
///
/// # Errors
///
/// When something it needs cannot be opened, or the hub refuses this agent for good.
pub(crate) async fn daemon(config: &Config) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut node = Node::start(config, Span::Daemon)?;
    let (counter, mut wishes) = Counter::new(node.teller.clone());
    let counter = Arc::new(counter);
    let stop_status = CancellationToken::new();
    let runtime_dir = config.runtime_dir();
    match status::open(&runtime_dir) {
        Ok(listener) => {
            let serving = status::serve(listener, counter.clone(), stop_status.clone());
            tokio::spawn(serving);
        }
        // Without it the agent only cannot be asked.
        Err(error) => warn!(%error, folder = %runtime_dir.display(), "no status socket"),
    }
    // It ends with the daemon, however that ends.
    let _stop_status = stop_status.drop_guard();
    loop {
        notify(&[NotifyState::Ready]);
        let wish = attend(node, &counter, &mut signals, &mut hangup, &mut wishes).await?;
        let Some(loan) = wish else {
            return Ok(Exit::Ok);
        };
        if lent(loan, &mut signals).await == Back::Stopping {
            notify(&[NotifyState::Stopping]);
            return Ok(Exit::Ok);
        }
        free_again(config).await;
        node = Node::start(config, Span::Daemon)?;
        counter.run(node.teller.clone());
    }
}

/// What ended a loan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// The command is done.
    Returned,
    /// This process is to stop.
    Stopping,
}

/// Waits for the end of a loan; systemd is told meanwhile that the agent lives.
async fn lent(mut loan: Loan, signals: &mut Signals) -> Back {
    if loan.begin().await.is_err() {
        return Back::Returned;
    }
    info!("the state directory is lent to a command");
    let span = sd_notify::watchdog_enabled().map_or(WATCHED, |span| span / 3);
    let mut ticks = tokio::time::interval(span);
    loop {
        // Every branch may be cancelled: signals are kept, and what a loan brings says nothing.
        tokio::select! {
            () = loan.returned() => {
                info!("the state directory is back");
                return Back::Returned;
            }
            _ = signals.stop() => return Back::Stopping,
            _ = ticks.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// Waits for the lock of a command that was killed: its connection may end before its lock does.
async fn free_again(config: &Config) {
    let layout = Layout::new(&config.state_dir);
    for _ in 0..RETURNS {
        if layout.lock().is_ok() {
            return;
        }
        tokio::time::sleep(RETURN_PAUSE).await;
    }
}

/// Runs everything until a signal, or until somebody wants to borrow the state directory; all of
/// it has stopped when this returns.
async fn attend(
    mut node: Node,
    counter: &Counter,
    signals: &mut Signals,
    hangup: &mut Signal,
    wishes: &mut mpsc::Receiver<Loan>,
) -> Result<Option<Loan>, Failure> {
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    tasks.spawn(node.spool.clone().tend(stop.clone()));
    let wake = Arc::new(Notify::new());
    let syncing = node
        .syncer
        .clone()
        .run(wake.clone(), node.resync.clone(), stop.clone());
    let mut sources = tasks.spawn(syncing);
    let mut watchdog = tasks.spawn(watchdog(node.spool.clone(), stop.clone()));
    let end = loop {
        // Every branch may be cancelled: signals and wishes are kept, handles are only looked at.
        tokio::select! {
            name = signals.stop() => {
                info!(signal = name, "stopping");
                break Ok(None);
            }
            Some(loan) = wishes.recv() => break Ok(Some(loan)),
            _ = hangup.recv() => {
                info!("looking at the list of sources anew; other settings need a restart");
                wake.notify_one();
            }
            end = &mut node.link_end => break match end {
                Ok(Err(stopped)) => Err(refused(&node, stopped)),
                Ok(Ok(())) | Err(_) => Err(Failure::new(Exit::No, "the link ended by itself")),
            },
            _ = &mut sources => {
                break Err(Failure::new(Exit::No, "the scheduler ended by itself"));
            }
            reason = &mut watchdog => {
                let reason = reason.unwrap_or("the watchdog ended by itself");
                break Err(Failure::new(Exit::No, reason));
            }
        }
    };
    let is_lent = matches!(end, Ok(Some(_)));
    if is_lent {
        counter.lend();
    } else {
        counter.stop();
        notify(&[NotifyState::Stopping]);
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(SOURCES_STOP, tasks.wait())
        .await
        .is_err()
    {
        warn!(
            "a source did not come to an end in time and is abandoned; its next sync starts over"
        );
        sources.abort();
    }
    let is_online = node.link.borrow().state == State::Online;
    if end.is_ok() && is_online {
        // What is not acknowledged by then is told by `stop`.
        let _ = tokio::time::timeout(DRAIN, node.spool.drained()).await;
    }
    let is_closed = node.stop().await;
    if is_lent && !is_closed {
        return Err(Failure::new(
            Exit::No,
            "the spool was still in use when a command wanted to borrow the state directory",
        )
        .fix("start the agent again, and then the command"));
    }
    end
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager could not be told");
    }
}

/// Tells systemd that the agent lives, as long as its spool answers. Returns why it does not.
async fn watchdog(spool: Spool, stop: CancellationToken) -> &'static str {
    let Some(span) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return "stopping";
    };
    let mut ticks = tokio::time::interval(span / 3);
    loop {
        tokio::select! {
            () = stop.cancelled() => return "stopping",
            _ = ticks.tick() => {}
        }
        match spool.call(|_| ()).await {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(_) => return "the spool's thread has ended",
        }
    }
}

/// Syncs every source once and waits until the hub has acknowledged everything.
///
/// # Errors
///
/// With exit code 69 when the hub cannot be reached, 77 when it refuses this agent, and 1 when a
/// source could not be synced.
pub(crate) async fn once(config: &Config) -> Result<Exit, Failure> {
    let stop = stop_on_signal()?;
    let node = Node::start(config, Span::Once)?;
    let result = once_within(&node, config, &stop).await;
    node.stop().await;
    result
}

async fn once_within(
    node: &Node,
    config: &Config,
    stop: &CancellationToken,
) -> Result<Exit, Failure> {
    let sources = Sources::load(node.syncer.connector.layout())?;
    let count = sources.iter().len();
    if count == 0 {
        warn!("there are no sources; `zero-x-agent source add` makes one");
    }
    let syncing = futures::future::join_all(sources.iter().map(|source| async {
        node.syncer.board.add(source);
        let syncing = node.syncer.sync(source, Until::CaughtUp, stop);
        let synced = syncing.instrument(span(source)).await;
        synced.map_err(|error| format!("{}: {}", source.name, chain(&error)))
    }));
    // The link may turn out to be refused long before a large account is read.
    let outcomes = tokio::select! {
        outcomes = syncing => outcomes,
        failure = link_refused(node.link.clone()) => return Err(failure),
    };
    if stop.is_cancelled() {
        let clause = "stopped by a signal before everything was read";
        return Err(Failure::new(Exit::No, clause));
    }
    acknowledged(node, config.sync.once_timeout, stop).await?;
    renewed(node, stop).await;
    let frame_bytes = node.link.borrow().sent_bytes;
    info!(frame_bytes, "the hub has acknowledged everything");
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    let clause = format!("{} of {count} sources could not be synced", failed.len());
    Err(Failure::of(Exit::No, clause, failed.join("; "))
        .fix("`zero-x-agent source test NAME` shows what is missing"))
}

/// Waits until the hub has acknowledged everything, as long as that goes on.
async fn acknowledged(
    node: &Node,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut before = node.spool.waiting().bytes;
    loop {
        // Every branch may be cancelled: all of them only wait.
        tokio::select! {
            () = online_and_drained(node) => return Ok(()),
            failure = link_refused(node.link.clone()) => return Err(failure),
            () = stop.cancelled() => {
                let clause = "stopped by a signal; the rest stays in the spool";
                return Err(Failure::new(Exit::No, clause));
            }
            () = tokio::time::sleep(patience) => {}
        }
        let waiting = node.spool.waiting().bytes;
        if waiting >= before {
            let clause = format!(
                "the hub has acknowledged nothing for {} s; {waiting} bytes stay in the spool",
                patience.as_secs()
            );
            let cause = node.link.borrow().error.clone();
            let failure = match cause {
                Some(error) => Failure::of(Exit::Unreachable, clause, error),
                None => Failure::new(Exit::Unreachable, clause),
            };
            return Err(failure.fix(
                "check that the hub runs and that its port is open from here, for UDP or for TCP; \
                 the next run sends them",
            ));
        }
        before = waiting;
    }
}

/// Waits while a certificate is due or on its way, but not for ever: an agent that is only ever run
/// for a moment has no other time to renew. The next run tries again.
async fn renewed(node: &Node, stop: &CancellationToken) {
    let mut link = node.link.clone();
    // A new certificate is seen by the hub once the link is up again.
    let settled = link.wait_for(|status| status.state == State::Online && !status.is_renewing);
    // Every branch may be cancelled: all of them only wait.
    tokio::select! {
        _ = settled => {}
        _ = link_refused(node.link.clone()) => {}
        () = stop.cancelled() => {}
        () = tokio::time::sleep(RENEWAL) => {
            warn!("this agent's certificate is due for renewal, and the hub gave none in time");
        }
    }
}

/// Waits for a link and an empty spool: without having met the hub, an empty spool proves nothing.
async fn online_and_drained(node: &Node) {
    let mut link = node.link.clone();
    let online = link.wait_for(|status| status.state == State::Online);
    if online.await.is_err() {
        error!("the link has ended");
        std::future::pending::<()>().await;
    }
    node.spool.drained().await;
}

/// Waits until the hub, or what stands in its place, refuses this agent.
async fn link_refused(mut link: watch::Receiver<LinkStatus>) -> Failure {
    let refused = |status: &LinkStatus| status.error.as_ref().is_some_and(LinkError::is_refusal);
    let error = match link.wait_for(refused).await {
        Ok(status) => status.error.clone(),
        Err(_) => std::future::pending().await,
    };
    error.map_or_else(
        || Failure::new(Exit::Forbidden, "the hub refuses this agent"),
        Failure::from,
    )
}
