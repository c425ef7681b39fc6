//! `zero-x-hub serve`: starts every part, watches over them, and stops them in order.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sd_notify::NotifyState;
use serde_json::Value;
use store::{RecoveryRecipient, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Answer, Question};
use crate::api;
use crate::api::access::AccessKeys;
use crate::api::throttle::Throttle;
use crate::backup;
use crate::bundle::{Asked, Importer, Volume};
use crate::ca::Authority;
use crate::checkpoints::{self, Signer};
use crate::cli::{checks, verify};
use crate::compaction;
use crate::config::{Config, LogFormat};
use crate::expiry::{HubCertificates, Said, Warning};
use crate::failure::{Exit, Failure, Told};
use crate::identity::Identity;
use crate::ingest::{self, Fair};
use crate::keys;
use crate::live::Live;
use crate::metrics::{self, Gauges};
use crate::opening;
use crate::password::Hasher;
use crate::posture;
use crate::purge;
use crate::retention::{self, Retention};
use crate::rotation::{self, Rotation};
use crate::ruleset::{self, Rules, RulesError};
use crate::status::{self, Known, Running, Work};
use crate::tls::{self, CurrentLeaf};

/// How long the parts may take to end. Below what service managers and tests wait.
const DRAIN: Duration = Duration::from_secs(20);

/// Time between two rounds of upkeep: the hub's certificate lives for months, a session for hours.
const UPKEEP: Duration = Duration::from_secs(600);

/// How long an organisation's file and lists stay in memory unused.
const IDLE: Duration = Duration::from_secs(300);

/// The rules in force, which a reload may replace while the hub runs.
#[derive(Debug)]
pub(crate) struct RulesInForce {
    folder: PathBuf,
    sender: watch::Sender<Arc<Rules>>,
}

impl RulesInForce {
    /// Loads the built-in checks and those of a folder.
    ///
    /// # Errors
    /// When a file is refused.
    pub(crate) fn new(folder: PathBuf) -> Result<Self, RulesError> {
        let rules = Arc::new(ruleset::load(&folder)?);
        info!(checks = rules.set.checks().len(), "checks loaded");
        Ok(Self {
            folder,
            sender: watch::Sender::new(rules),
        })
    }

    /// Returns the rules in force at this moment.
    pub(crate) fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.sender.borrow())
    }

    /// Returns a receiver that holds the rules in force and wakes when they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Rules>> {
        self.sender.subscribe()
    }

    /// Loads the files again. Blocks for some hundred milliseconds.
    pub(crate) fn reload(&self) {
        match ruleset::load(&self.folder) {
            Ok(rules) => {
                info!(checks = rules.set.checks().len(), "checks loaded");
                self.sender.send_replace(Arc::new(rules));
            }
            Err(error) => {
                warn!(%error, "the checks were refused; the last good ones stay in force");
            }
        }
    }
}

/// Runs the hub until it is told to stop.
///
/// # Errors
/// When a part cannot start, or ended although nobody told it to.
pub(crate) async fn run(config: Config) -> Result<Exit, Failure> {
    log(&config);
    serve(config).await?;
    info!("stopped");
    Ok(Exit::Ok)
}

fn log(config: &Config) {
    // The settings were checked with the same parser.
    let filter = EnvFilter::try_new(&config.log_level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // Only a second subscriber could fail here, and there is none.
    let _ = match config.log_format {
        LogFormat::Json => lines.json().try_init(),
        LogFormat::Text => lines
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .try_init(),
    };
}

async fn serve(config: Config) -> Result<(), Failure> {
    let opened = config.clone();
    let store = tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))??;
    let served = parts(&config, &store).await;
    // Whatever happened, what is queued is written.
    store.close().await;
    served
}

/// Starts every part, waits, and ends them.
async fn parts(config: &Config, store: &Store) -> Result<(), Failure> {
    let appliance = store.appliance();
    let identity = Identity::load_with(&appliance, config.agent_leaf).await?;
    rotation::audit(store).await?;
    let signer = Signer::load(&appliance)
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot sign audit logs").caused_by(&error))?;
    let signer = Arc::new(signer);
    let retention = Arc::new(Retention::new(store.clone(), Arc::clone(&signer)));
    let rules = Arc::new(RulesInForce::new(config.checks_dir.clone())?);
    let live = Arc::new(Live::default());
    let mut hosts = identity.public_hosts.clone();
    hosts.extend(config.public_hosts.iter().cloned());
    hosts.dedup();
    let leaf = CurrentLeaf::issue(
        Arc::clone(&identity.authority),
        hosts.clone(),
        Timestamp::now(),
    )?;

    let agents_tls = tls::for_agents(&identity.authority, Arc::clone(&leaf))?;
    let port = ingest::open(config.agent_listen.value, &identity, agents_tls)?;
    let agent_listen = port.address();
    let api_tls = Arc::new(match &config.tls {
        Some(own) => tls::read_own(own)?,
        None => tls::for_api(Arc::clone(&leaf))?,
    });
    let own_api = config.tls.as_ref().and_then(tls::validity_of_own);
    let certificates = Arc::new(HubCertificates::new(
        Arc::clone(&identity.authority),
        Some(Arc::clone(&leaf)),
        own_api,
    ));
    let api_listener = bind(config.api_listen.value, "the API", "--api-listen").await?;
    let api_listen = api_listener.local_addr().unwrap_or(config.api_listen.value);
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address, "metrics", "--metrics-listen").await?),
        None => None,
    };
    let admin_socket = admin::open(&config.data_dir)?;
    let owner = admin::owner_of(&config.data_dir)?;

    let stop = CancellationToken::new();
    let keys = AccessKeys::from_pkcs8(&identity.jwt_pkcs8)?;
    let fair = Arc::<Fair>::default();
    let hub = Arc::new(ingest::Hub {
        store: store.clone(),
        appliance: appliance.clone(),
        authority: Arc::clone(&identity.authority),
        live: Arc::clone(&live),
        epoch: identity.epoch,
        quotas: config.quotas,
        fair: Arc::clone(&fair),
        bundle_key: identity.bundle_key.public(),
    });
    let state = Arc::new(api::State {
        store: store.clone(),
        appliance: appliance.clone(),
        live: Arc::clone(&live),
        rules: Arc::clone(&rules),
        keys,
        throttle: Throttle::new(),
        hasher: Hasher::default(),
        founding: Arc::default(),
        authority: Arc::clone(&identity.authority),
        certificates: Arc::clone(&certificates),
        agent_hubs: agent_hubs(&hosts, agent_listen.port(), || {
            fs::read_to_string("/proc/sys/kernel/hostname").ok()
        }),
        retention: Arc::clone(&retention),
        stop: stop.clone(),
    });
    let resealing = Arc::new(Notify::new());
    let started_at = Timestamp::now();
    let oracle = Arc::new(Oracle {
        store: store.clone(),
        data_dir: config.data_dir.clone(),
        agent_listen,
        api_listen,
        authority: Arc::clone(&identity.authority),
        certificates: Arc::clone(&certificates),
        rotation: Rotation::new(
            store.clone(),
            Arc::clone(&identity.authority),
            Arc::clone(&leaf),
        ),
        rules: Arc::clone(&rules),
        live: Arc::clone(&live),
        importer: Importer::new(store, &identity, Arc::clone(&live)),
        recovery_recipient: config.recovery_recipient,
        backing_up: tokio::sync::Mutex::new(()),
        resealing: Arc::clone(&resealing),
        fair: Arc::clone(&fair),
        started_at,
    });
    let gauges = Gauges {
        store: store.clone(),
        live: Arc::clone(&live),
        fair,
        rules: Arc::clone(&rules),
        started_at,
    };

    let mut tasks = Tasks::default();
    tasks.start("agents' port", ingest::serve(port, hub, stop.clone()));
    tasks.start(
        "API",
        api::serve(api_listener, api_tls, state, stop.clone()),
    );
    info!(address = %api_listen, "listening for the console and API clients");
    if let Some(listener) = metrics_listener {
        tasks.start("metrics", metrics::serve(listener, gauges, stop.clone()));
    }
    let judged = posture::run(store.clone(), live, rules.watch(), stop.clone());
    tasks.start("posture", judged);
    tasks.start(
        "admin socket",
        admin::serve(admin_socket, owner, oracle, stop.clone()),
    );
    let upkept = upkeep(leaf, certificates, appliance, stop.clone());
    tasks.start("upkeep", upkept);
    tasks.start(
        "checkpoints",
        checkpoints::run(store.clone(), signer, stop.clone()),
    );
    tasks.start("retention", retention::serve(retention, stop.clone()));
    tasks.start(
        "keys",
        keys::reseal_as_asked(store.clone(), resealing, stop.clone()),
    );
    tasks.start("rest", rest(store.clone(), stop.clone()));
    tasks.start("watchdog", watchdog(stop.clone()));
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);

    let ended = wait(&mut tasks, store, &rules).await;
    notify(&[NotifyState::Stopping]);
    info!("stopping");
    stop.cancel();
    tasks.drain(Instant::now() + DRAIN).await;
    ended
}

async fn bind(address: SocketAddr, what: &str, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied {
            Exit::Forbidden
        } else {
            Exit::Failed
        };
        Failure::new(exit, format!("cannot listen at {address} for {what}"))
            .caused_by(&error)
            .with_fix(format!(
                "stop what uses the port, or choose another with {flag}"
            ))
    })
}

/// Returns where agents reach this hub, as enrolment tokens say it: every public host with the
/// port, else this machine's own name.
fn agent_hubs(
    hosts: &[String],
    port: u16,
    machine_name: impl FnOnce() -> Option<String>,
) -> Vec<String> {
    let with_port = |host: &str| match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("{host}:{port}"),
    };
    if !hosts.is_empty() {
        return hosts.iter().map(|host| with_port(host)).collect();
    }
    warn!("no public host is set; enrolment tokens will carry this machine's own name");
    let name = machine_name().unwrap_or_default();
    let name = name.trim();
    vec![with_port(if name.is_empty() { "localhost" } else { name })]
}

/// Everything that runs; nothing is spawned elsewhere but below one of these.
#[derive(Default)]
struct Tasks {
    set: JoinSet<&'static str>,
}

impl Tasks {
    fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until a task ends. Cancel safe: a task that has ended is told of by the next call.
    async fn ended(&mut self) -> Result<&'static str, JoinError> {
        match self.set.join_next().await {
            Some(ended) => ended,
            None => Ok("every part"),
        }
    }

    /// Waits for all until a deadline, and says how many were abandoned.
    async fn drain(mut self, deadline: Instant) {
        while !self.set.is_empty() {
            if timeout_at(deadline, self.ended()).await.is_err() {
                warn!(
                    tasks = self.set.len(),
                    "tasks were abandoned at the end of the drain"
                );
                return;
            }
        }
    }
}

/// Waits for a reason to stop. An error is a reason that nobody wanted.
async fn wait(tasks: &mut Tasks, store: &Store, rules: &Arc<RulesInForce>) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(Exit::Failed, "cannot listen for signals").caused_by(&error)
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    loop {
        // Every branch is cancel safe: a signal, an ended task and a lost disk are told of again.
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => {
                let rules = Arc::clone(rules);
                if tokio::task::spawn_blocking(move || rules.reload()).await.is_err() {
                    error!("loading the checks panicked; the last good ones stay in force");
                }
            }
            fatal = store.failed() => {
                error!(reason = fatal.reason, "the hub ends");
                return Err(Failure::new(Exit::Failed, "durability is lost").caused_by(&fatal)
                    .with_fix("look at the disk and the kernel's log; the hub starts again with what is durable"));
            }
            ended = tasks.ended() => {
                let what = match ended {
                    Ok(name) => format!("{name} ended by itself"),
                    Err(error) => format!("a part of the hub failed: {error}"),
                };
                error!(what, "the hub ends");
                return Err(Failure::new(Exit::Failed, what));
            }
        }
    }
}

/// Closes the files of organisations that nobody asks for.
async fn rest(store: Store, stop: CancellationToken) {
    let mut rounds = interval(IDLE);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let resting = store.clone();
        // Closing a file writes to it.
        if let Ok(closed @ 1..) = tokio::task::spawn_blocking(move || resting.rest_idle(IDLE)).await
        {
            debug!(closed, "files of idle organisations were closed");
        }
    }
}

/// Renews the hub's certificate, says once which certificates come near their end, and forgets old
/// sessions.
async fn upkeep(
    leaf: Arc<CurrentLeaf>,
    certificates: Arc<HubCertificates>,
    appliance: store::Appliance,
    stop: CancellationToken,
) {
    let mut said = Said::default();
    let mut rounds = interval(UPKEEP);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let now = Timestamp::now();
        match leaf.renew_if_due(now) {
            Ok(true) => info!("the hub's certificate was renewed"),
            Ok(false) => {}
            Err(error) => error!(%error, "no new certificate"),
        }
        match appliance.agents().await {
            Ok(agents) => {
                for Warning { text, fix, .. } in said.news(&certificates, &agents, now) {
                    warn!(fix, "{text}");
                }
            }
            Err(error) => warn!(%error, "the agents' certificates could not be looked at"),
        }
        if let Err(error) = appliance.expire_sessions(now).await {
            warn!(%error, "old sessions could not be removed");
        }
    }
}

/// Tells the service manager that the hub lives, at half of the time it allows.
async fn watchdog(stop: CancellationToken) {
    let Some(allowed) = sd_notify::watchdog_enabled().filter(|allowed| !allowed.is_zero()) else {
        return stop.cancelled().await;
    };
    let mut beats = interval(allowed / 2);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beats.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// Tells the service manager; without one this does nothing.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager could not be told");
    }
}

/// Answers local commands.
struct Oracle {
    store: Store,
    data_dir: PathBuf,
    agent_listen: SocketAddr,
    api_listen: SocketAddr,
    authority: Arc<Authority>,
    certificates: Arc<HubCertificates>,
    rotation: Rotation,
    rules: Arc<RulesInForce>,
    live: Arc<Live>,
    importer: Importer,
    recovery_recipient: Option<RecoveryRecipient>,
    backing_up: tokio::sync::Mutex<()>,
    /// Wakes what seals rows anew.
    resealing: Arc<Notify>,
    fair: Arc<Fair>,
    started_at: Timestamp,
}

impl admin::Oracle for Oracle {
    async fn answer(&self, question: Question) -> Answer {
        let answer = match question {
            Question::Status => {
                let status = status::gather(Known {
                    store: &self.store,
                    data_dir: &self.data_dir,
                    agent_listen: self.agent_listen,
                    api_listen: self.api_listen,
                    pin: self.authority.pin(),
                    certificates: &self.certificates,
                    agent_leaf: self.authority.agent_leaf(),
                    checks: self.rules.now().set.checks().len(),
                    running: Some(Running {
                        started_at: self.started_at,
                        sessions: self.live.session_count(),
                        work: Work::of(&self.store, &self.fair),
                    }),
                });
                status
                    .await
                    .map(|status| serde_json::to_value(status).expect("a status always serialises"))
            }
            Question::Checks => Ok(Value::Array(checks::rows(&self.rules.now().set))),
            Question::Verify => verify::verify(&self.store).await.map(Value::Array),
            Question::Compact { org } => {
                return told(compaction::compact(&self.store, org, Timestamp::now()).await);
            }
            Question::Reply { agent } => {
                let written = self.importer.reply(&self.store, agent, Timestamp::now());
                return told(written.await);
            }
            Question::Authority => return told(self.rotation.status().await),
            Question::Keys => return told(keys::status(&self.store).await),
            Question::MasterKey { file } => {
                return told(keys::rotate_master(&self.store, file, Timestamp::now()).await);
            }
            Question::DataKey { owner } => {
                let added = keys::add_data_key(&self.store, &owner, Timestamp::now()).await;
                self.resealing.notify_one();
                return told(added);
            }
            Question::Purge { org, confirm } => {
                let live = Some(&*self.live);
                let now = Timestamp::now();
                return told(purge::purge(&self.store, live, &org, &confirm, now).await);
            }
            Question::Rotate { step, force } => {
                return told(self.rotation.step(step, force, Timestamp::now()).await);
            }
            Question::BackedUp { last } => {
                let noted = backup::note_last(&self.store.appliance(), last).await;
                return match noted {
                    Ok(()) => Answer::Ok(Value::Null),
                    Err(error) => Answer::Error(error.to_string()),
                };
            }
            // Not asked here: it is answered in pieces.
            Question::Backup { .. } => return Answer::Error("it comes in pieces".to_owned()),
            // Its files come with it; it is not asked here.
            Question::Import { .. } => return Answer::Error("no files came with it".to_owned()),
        };
        match answer {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(error.to_string()),
        }
    }

    async fn import(&self, volumes: Vec<Volume>, asked: Asked) -> Answer {
        let report = self.importer.import(volumes, asked, Timestamp::now()).await;
        if let Err(error) = &report {
            warn!(
                error = error as &dyn std::error::Error,
                "a bundle was not taken"
            );
        }
        told(report)
    }

    async fn back_up(
        &self,
        recipient: Option<RecoveryRecipient>,
        to: mpsc::Sender<Vec<u8>>,
    ) -> Answer {
        // Held to the end of the work, also when nobody waits for it any more.
        let Ok(_alone) = self.backing_up.try_lock() else {
            return Answer::Error("another backup is being made".to_owned());
        };
        let recipient = recipient.or(self.recovery_recipient);
        let made = backup::make(&self.store, recipient, backup::Pieces(to)).await;
        backup::log(&made);
        told(made)
    }

    fn scratch(&self) -> io::Result<fs::File> {
        let name = format!("incoming-{}", uuid::Uuid::new_v4());
        let path = self.data_dir.join(name);
        let mut options = fs::File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // Without a name it is gone when it is closed, however that comes about.
        fs::remove_file(&path)?;
        Ok(file)
    }
}

/// Returns what came of a command, with all that a failure says.
fn told<T: serde::Serialize, E: Into<Failure>>(result: Result<T, E>) -> Answer {
    let result = result.map_err(|error| Told::from(&error.into()));
    Answer::Ok(serde_json::to_value(result).expect("answers always serialise"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_the_public_hosts_with_the_port_agents_reach() {
        let hosts = ["hub.example.com", "10.0.0.1", "2001:db8::1"].map(str::to_owned);
        let never = || panic!("the machine's name is not needed");
        assert_eq!(
            agent_hubs(&hosts, 443, never),
            ["hub.example.com:443", "10.0.0.1:443", "[2001:db8::1]:443"]
        );
        assert_eq!(
            agent_hubs(&[], 7443, || Some("hub-1\n".to_owned())),
            ["hub-1:7443"]
        );
        assert_eq!(agent_hubs(&[], 7443, || None), ["localhost:7443"]);
    }
}
