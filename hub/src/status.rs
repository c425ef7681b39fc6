//! How the hub is doing: what `status` prints, from the running hub or from its store.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use protocol::enroll::Pin;
use protocol::ids::OrgId;
use serde::{Deserialize, Serialize};
use store::Store;
use store::error::ReadError;

use crate::backup::{self, LastBackup};
use crate::expiry::{self, HubCertificates, Warning};
use crate::failure::chain;
use crate::ingest::Fair;

/// From how many days left on a certificate of the hub's own is trouble.
const URGENT_DAYS: u16 = 7;

/// What only a running hub knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    /// When it began to serve.
    pub(crate) started_at: Timestamp,
    /// Sessions of agents that are open.
    pub(crate) sessions: usize,
    /// What it has to do.
    pub(crate) work: Work,
}

/// What a running hub has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Batches that wait for their turn before the store.
    pub(crate) waiting_batches: u64,
    /// Writes that wait for the next commit.
    pub(crate) waiting_writes: usize,
    /// Reads that wait for their turn.
    pub(crate) waiting_reads: usize,
    /// Writes that were made durable since the start.
    pub(crate) writes: u64,
    /// Within how many milliseconds half of them were durable; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) write_p50_ms: Option<f64>,
    /// Within how many milliseconds ninety-nine of a hundred were; absent where that is more than
    /// ten seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) write_p99_ms: Option<f64>,
    /// Organisations' files that are open.
    pub(crate) open_files: usize,
}

impl Work {
    /// Looks at the queue before a store, and at the store.
    pub(crate) fn of(store: &Store, fair: &Fair) -> Self {
        let load = store.load();
        let writes_of = load.waiting_writes_of.values().sum::<usize>();
        let ms = |percent| Some(load.writes.percentile(percent)?.as_secs_f64() * 1000.0);
        Self {
            waiting_batches: fair.lengths().values().map(|length| length.waiting).sum(),
            waiting_writes: load.waiting_writes + writes_of,
            waiting_reads: load.waiting_reads,
            writes: load.writes.count(),
            write_p50_ms: ms(50),
            write_p99_ms: ms(99),
            open_files: load.open_files,
        }
    }
}

/// How the hub is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// This program's version.
    pub(crate) version: String,
    /// `serving` or `stopped`.
    pub(crate) state: String,
    /// Only while it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<Timestamp>,
    /// Where agents connect.
    pub(crate) agent_listen: SocketAddr,
    /// Where the console and API clients connect.
    pub(crate) api_listen: SocketAddr,
    /// Pin of the root CA: what agents and consoles are given.
    pub(crate) ca_pin: String,
    /// Organisations of this hub.
    pub(crate) organisations: usize,
    /// Agents that were enrolled, in all organisations.
    pub(crate) agents: usize,
    /// Sessions of agents that are open.
    pub(crate) sessions: usize,
    /// What it has to do; only while it serves.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) work: Option<Work>,
    /// Checks in force.
    pub(crate) checks: usize,
    /// Bytes of the data directory.
    pub(crate) store_bytes: u64,
    /// Each organisation's part of it.
    pub(crate) files: Vec<OrgFile>,
    /// The last backup that reached its file; `null` when none was ever made.
    pub(crate) last_backup: Option<LastBackup>,
    /// Certificates that end soon.
    pub(crate) warnings: Vec<Warning>,
    /// What needs a person, one clause each.
    pub(crate) trouble: Vec<String>,
}

/// The file of one organisation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OrgFile {
    /// Whose.
    pub(crate) org: OrgId,
    /// Its size.
    pub(crate) allocated_bytes: u64,
    /// How much of it held rows when that was last measured, which reads all of it: after a day's
    /// retention and by `compact`. Absent where it was not since the start.
    pub(crate) live_bytes: Option<u64>,
}

/// What [`gather`] is told.
pub(crate) struct Known<'a> {
    pub(crate) store: &'a Store,
    pub(crate) data_dir: &'a Path,
    pub(crate) agent_listen: SocketAddr,
    pub(crate) api_listen: SocketAddr,
    pub(crate) pin: Pin,
    pub(crate) certificates: &'a HubCertificates,
    /// How long agents' certificates live.
    pub(crate) agent_leaf: SignedDuration,
    pub(crate) checks: usize,
    /// `None` while no hub serves.
    pub(crate) running: Option<Running>,
}

/// Gathers the status. An organisation whose store does not open is trouble, not an error: the
/// others are told of all the same.
///
/// # Errors
/// When the appliance's own store cannot be read.
pub(crate) async fn gather(known: Known<'_>) -> Result<Status, ReadError> {
    let orgs = known.store.appliance().orgs().await?;
    let mut trouble = Vec::new();
    let mut agents = 0;
    let mut files = Vec::new();
    for org in &orgs {
        match known.store.maintenance(org.id).await {
            Ok(Some(store)) => {
                files.push(OrgFile {
                    org: org.id,
                    allocated_bytes: known.store.file_bytes(org.id),
                    live_bytes: store.last_usage().map(|usage| usage.live_bytes),
                });
                match store.agents().await {
                    Ok(list) => agents += list.len(),
                    Err(error) => trouble.push(format!(
                        "{}: its agents cannot be read: {}",
                        org.id,
                        chain(&error).join(": ")
                    )),
                }
            }
            // It was deleted since the list was made.
            Ok(None) => {}
            Err(error) => trouble.push(format!("{}: {}", org.id, chain(&*error).join(": "))),
        }
    }
    let now = Timestamp::now();
    let mut warnings = known.certificates.warnings(now);
    let urgent = warnings
        .iter()
        .filter(|warning| warning.within_days <= URGENT_DAYS);
    trouble.extend(urgent.map(|warning| warning.text.clone()));
    let enrolled = known.store.appliance().agents().await?;
    let overdue = expiry::overdue(&enrolled, known.agent_leaf, now);
    warnings.extend(expiry::of_agents(&overdue));
    let (state, started_at, sessions, work) = match known.running {
        Some(running) => (
            "serving",
            Some(running.started_at),
            running.sessions,
            Some(running.work),
        ),
        None => ("stopped", None, 0, None),
    };
    let waiting = known.store.waiting_reads();
    if waiting > 1000 {
        trouble.push(format!(
            "{waiting} reads wait for their turn; the disk may be slow"
        ));
    }
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: state.to_owned(),
        started_at,
        agent_listen: known.agent_listen,
        api_listen: known.api_listen,
        ca_pin: known.pin.to_string(),
        organisations: orgs.len(),
        agents,
        sessions,
        work,
        checks: known.checks,
        store_bytes: folder_bytes(known.data_dir, 0),
        files,
        last_backup: backup::last(&known.store.appliance()).await?,
        warnings,
        trouble,
    })
}

/// Returns how many bytes the files below a folder have; what cannot be looked at counts nothing.
fn folder_bytes(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, found)| match found.is_dir() {
            // The store's own folders are two deep.
            true if depth < 4 => folder_bytes(&path, depth + 1),
            true => 0,
            false => found.len(),
        })
        .sum()
}
