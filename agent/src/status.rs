//! What the daemon tells about itself on its Unix socket, and how it is asked.
//!
//! Whoever may enter the socket's folder may ask. The answer is one JSON document. Of what is
//! written to the socket one word is read, [`loan`]'s; who writes another, or none, is told the
//! status.

mod loan;
mod spool;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::{AgentId, OrgId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};
use crate::expiry::Valid;
use crate::link::{LinkError, LinkStatus, State};
use crate::spool::Spool;
use crate::sync::board::{Board, SourceStatus};
pub(crate) use spool::{
    ASIDE_COLUMNS, Bounds, LANE_COLUMNS, LOSS_COLUMNS, SpoolState, SpoolStatus, WAIT_COLUMNS,
};

pub(crate) use loan::{Answer, Loan};

/// Time for whoever asks to say that it wants more than the status.
const ASKING: Duration = Duration::from_millis(250);

/// Largest answer that is read.
const ANSWER_BYTES: u64 = 4 << 20;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers that are given at the same time; whoever comes then waits.
const ANSWERS: usize = 8;

/// What the daemon is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) agent: AgentId,
    pub(crate) org: OrgId,
    pub(crate) started_at: Timestamp,
    pub(crate) link: Link,
    pub(crate) certificate: Certificate,
    pub(crate) spool: SpoolStatus,
    pub(crate) sources: Vec<SourceStatus>,
    /// Resident memory in bytes, where the system tells it.
    pub(crate) rss_bytes: Option<u64>,
}

/// The way to the hub.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Link {
    /// `connecting`, `online`, `offline` or `refused`; `lent` while a command has the state
    /// directory.
    pub(crate) state: String,
    pub(crate) since: Timestamp,
    pub(crate) hub: String,
    /// `quic` or `tcp` while there is a link.
    pub(crate) transport: Option<String>,
    pub(crate) error: Option<String>,
    /// Bytes of frames sent since the agent was started.
    pub(crate) sent_bytes: u64,
    /// How far this host's clock is ahead of the hub's, once the hub has told its time.
    pub(crate) clock_skew_ms: Option<i64>,
}

/// The agent's certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) not_after: Timestamp,
    /// When the last of the hub's roots ends.
    pub(crate) hub_root_not_after: Option<Timestamp>,
    /// What ends soon, in clauses.
    pub(crate) warnings: Vec<String>,
}

impl Certificate {
    fn of(valid: Valid, now: Timestamp) -> Self {
        Self {
            not_after: valid.own.1,
            hub_root_not_after: valid.roots_end,
            warnings: valid.warnings(now),
        }
    }

    fn line(&self) -> String {
        if self.warnings.is_empty() {
            return format!("good until {}", self.not_after);
        }
        self.warnings.join("; ")
    }
}

/// Columns of the sources in a table.
pub(crate) const SOURCE_COLUMNS: &[&str] = &[
    "name",
    "kind",
    "state",
    "finished_at",
    "next_at",
    "documents",
    "calls",
    "events",
    "faults",
    "error",
];

/// The lines above the sources in a table.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    agent: AgentId,
    hub: String,
    link: String,
    certificate: String,
    spool: String,
}

impl Status {
    /// Returns the lines above the sources.
    pub(crate) fn summary(&self) -> Summary {
        let link = &self.link;
        let error = link.error.as_ref().map(|error| format!(": {error}"));
        let over = link.transport.as_ref().map(|word| format!(" over {word}"));
        Summary {
            agent: self.agent,
            hub: link.hub.clone(),
            link: format!(
                "{}{} since {}{}",
                link.state,
                over.unwrap_or_default(),
                link.since,
                error.unwrap_or_default()
            ),
            certificate: self.certificate.line(),
            spool: self.spool.line(),
        }
    }
}

/// What a status is made of.
pub(crate) struct Teller {
    pub(crate) agent: AgentId,
    pub(crate) org: OrgId,
    pub(crate) started_at: Timestamp,
    pub(crate) bounds: Bounds,
    pub(crate) link: watch::Receiver<LinkStatus>,
    pub(crate) spool: Spool,
    pub(crate) board: Arc<Board>,
}

impl Teller {
    fn status(&self) -> Status {
        let link = self.link.borrow().clone();
        let refused = link.error.as_ref().is_some_and(LinkError::is_refusal);
        let state = match link.state {
            State::Connecting => "connecting",
            State::Online => "online",
            State::Offline if refused => "refused",
            State::Offline => "offline",
        };
        let sources = self.board.lines();
        let names = sources.iter().map(|line| (line.id, line.name.clone()));
        let spool = SpoolStatus::new(self.spool.report(), &self.bounds, &names.collect());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            agent: self.agent,
            org: self.org,
            started_at: self.started_at,
            link: Link {
                state: state.to_owned(),
                since: link.since,
                hub: link.hub,
                transport: link.transport.map(|transport| transport.word().to_owned()),
                error: link.error.map(|error| error.to_string()),
                sent_bytes: link.sent_bytes,
                clock_skew_ms: link.clock_skew_ms,
            },
            certificate: Certificate::of(link.valid, Timestamp::now()),
            spool,
            sources,
            rss_bytes: rss_bytes(),
        }
    }
}

enum Told {
    /// What runs now.
    Running(Arc<Teller>),
    /// What was true when the state directory was lent, or when the daemon began to stop.
    Still(Box<Status>),
}

/// Who answers on the socket, through all lives of what it tells of.
pub(crate) struct Counter {
    told: Mutex<Told>,
    wishes: mpsc::Sender<Loan>,
}

impl Counter {
    /// Makes a counter for what runs, and the end where wishes for a loan arrive.
    pub(crate) fn new(teller: Arc<Teller>) -> (Self, mpsc::Receiver<Loan>) {
        // One loan at a time.
        let (wishes, come) = mpsc::channel(1);
        let told = Mutex::new(Told::Running(teller));
        (Self { told, wishes }, come)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Every change of it is one assignment.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of another life from here on.
    pub(crate) fn run(&self, teller: Arc<Teller>) {
        *self.told() = Told::Running(teller);
    }

    /// Tells what was true until now, while the daemon stops: what it was read from is let go.
    pub(crate) fn stop(&self) {
        let status = self.status();
        *self.told() = Told::Still(Box::new(status));
    }

    /// Does the same while the state directory is lent, and says so.
    pub(crate) fn lend(&self) {
        let mut status = self.status();
        status.link.state = "lent".to_owned();
        status.link.since = Timestamp::now();
        status.link.transport = None;
        let reason = "a command of this host has the state directory; the agent goes on after it";
        status.link.error = Some(reason.to_owned());
        *self.told() = Told::Still(Box::new(status));
    }

    fn status(&self) -> Status {
        let running = match &*self.told() {
            Told::Running(teller) => Arc::clone(teller),
            Told::Still(status) => return Status::clone(status),
        };
        running.status()
    }

    /// Answers one who asks.
    async fn answer(&self, mut stream: UnixStream) {
        if !wants_loan(&mut stream).await {
            let text = serde_json::to_vec(&self.status()).expect("plain structs always serialise");
            let answer = async {
                stream.write_all(&text).await?;
                stream.shutdown().await
            };
            // Whoever asked may have gone away.
            let _ = tokio::time::timeout(PATIENCE, answer).await;
            return;
        }
        let no = match &*self.told() {
            _ if !loan::is_own(&stream) => Some(Answer::Stranger),
            Told::Still(_) => Some(Answer::Taken),
            Told::Running(teller) if teller.link.borrow().state == State::Online => {
                Some(Answer::Online)
            }
            Told::Running(_) => None,
        };
        match no {
            Some(no) => loan::refuse(stream, no).await,
            None => match self.wishes.try_reserve() {
                Ok(place) => place.send(Loan::of(stream)),
                // The one before it is being prepared, or the daemon stops.
                Err(_) => loan::refuse(stream, Answer::Taken).await,
            },
        }
    }
}

/// Reads what is asked for; only the one word counts.
async fn wants_loan(stream: &mut UnixStream) -> bool {
    let mut word = [0; loan::WORD.len()];
    let read = tokio::time::timeout(ASKING, stream.read_exact(&mut word)).await;
    matches!(read, Ok(Ok(_))) && word == *loan::WORD
}

/// Returns the resident memory of this process.
/// Source: proc_pid_status(5), `VmRSS` in kB of 1,024 bytes.
fn rss_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("status.sock")
}

/// Opens the socket, in the place of one that a crash left behind.
///
/// # Errors
///
/// When the folder cannot be used or the path is longer than a socket's may be (107 bytes).
pub(crate) fn open(folder: &Path) -> io::Result<UnixListener> {
    let path = socket(folder);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The folder's rights decide who may ask; the state directory lets only its owner in.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Answers whoever asks, until `stop`.
pub(crate) async fn serve(listener: UnixListener, counter: Arc<Counter>, stop: CancellationToken) {
    let mut answers = tokio::task::JoinSet::new();
    loop {
        // Both branches may be cancelled: a connection that was not accepted stays queued.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, for example: that passes.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        while answers.len() >= ANSWERS {
            answers.join_next().await;
        }
        let counter = Arc::clone(&counter);
        answers.spawn(async move { counter.answer(stream).await });
        while answers.try_join_next().is_some() {}
    }
}

/// Asks the running daemon.
///
/// # Errors
///
/// With exit code 69 when none answers.
pub(crate) async fn ask(folder: &Path) -> Result<Status, Failure> {
    let path = socket(folder);
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut stream = UnixStream::connect(&path).await?;
        // Nothing more is asked for.
        stream.shutdown().await?;
        let mut text = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut text).await?;
        Ok::<_, io::Error>(text)
    });
    let failed = |error: io::Error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let (exit, fix) = if denied {
            (Exit::Forbidden, "run as root or as zero-x-agent")
        } else {
            (
                Exit::Unreachable,
                "start it: `sudo systemctl start zero-x-agent`, or `zero-x-agent run`",
            )
        };
        let clause = format!("no agent answers on {}", path.display());
        Failure::of(exit, clause, error).fix(fix)
    };
    match answer.await {
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(text)) => serde_json::from_slice(&text).map_err(|error| {
            Failure::of(Exit::Data, "the agent's answer cannot be read", error).fix(
                "program and daemon should be of one version; restart the daemon after an upgrade",
            )
        }),
    }
}
