//! What each source is doing, for `status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use collect::Summary;
use jiff::Timestamp;
use protocol::ids::SourceId;
use serde::{Deserialize, Serialize};

use super::{SyncError, chain};
use crate::sources::{Kind, Source};

/// Most failed calls that are shown of one source.
const FAULTS_SHOWN: usize = 20;

/// What a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Waits for its time.
    Waiting,
    /// Looks for credentials.
    Connecting,
    /// Reads.
    Syncing,
    /// Reads a tail.
    Following,
    /// The last attempt failed; the next has its time.
    Failed,
}

/// One source's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceStatus {
    pub(crate) id: SourceId,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) state: Phase,
    /// When the last sync began and ended.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// When the next begins.
    pub(crate) next_at: Option<Timestamp>,
    pub(crate) documents: u64,
    pub(crate) calls: u64,
    /// Events read and records set aside since the agent was started.
    pub(crate) events: u64,
    pub(crate) quarantined: u64,
    /// Calls that failed for good in the last sync, `call: code`.
    pub(crate) faults: Vec<String>,
    /// Why the last sync could not run.
    pub(crate) error: Option<String>,
}

/// All sources' lines.
#[derive(Debug, Default)]
pub(crate) struct Board {
    lines: Mutex<BTreeMap<SourceId, SourceStatus>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SourceId, SourceStatus>> {
        self.lines.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn add(&self, source: &Source) {
        let line = SourceStatus {
            id: source.id,
            name: source.name.clone(),
            kind: source.kind,
            state: Phase::Waiting,
            started_at: None,
            finished_at: None,
            next_at: None,
            documents: 0,
            calls: 0,
            events: 0,
            quarantined: 0,
            faults: Vec::new(),
            error: None,
        };
        self.lock().insert(source.id, line);
    }

    pub(crate) fn remove(&self, id: SourceId) {
        self.lock().remove(&id);
    }

    /// Returns all lines.
    pub(crate) fn lines(&self) -> Vec<SourceStatus> {
        self.lock().values().cloned().collect()
    }

    fn with(&self, id: SourceId, change: impl FnOnce(&mut SourceStatus)) {
        if let Some(line) = self.lock().get_mut(&id) {
            change(line);
        }
    }

    pub(crate) fn phase(&self, id: SourceId, phase: Phase) {
        self.with(id, |line| {
            line.state = phase;
            line.next_at = None;
            if phase == Phase::Connecting {
                line.started_at = Some(Timestamp::now());
            }
        });
    }

    pub(crate) fn events(&self, id: SourceId, events: u64, quarantined: u64) {
        self.with(id, |line| {
            line.events += events;
            line.quarantined += quarantined;
        });
    }

    pub(crate) fn wait_until(&self, id: SourceId, next: Timestamp) {
        self.with(id, |line| line.next_at = Some(next));
    }

    pub(crate) fn finished(
        &self,
        id: SourceId,
        started: Timestamp,
        finished: Timestamp,
        result: &Result<Summary, SyncError>,
    ) {
        self.with(id, |line| {
            line.started_at = Some(started);
            line.finished_at = Some(finished);
            match result {
                Ok(summary) => {
                    line.state = Phase::Waiting;
                    line.documents = summary.documents;
                    line.calls = summary.calls;
                    let shown = summary.faults.iter().take(FAULTS_SHOWN);
                    line.faults = shown
                        .map(|fault| format!("{}: {}", fault.call, fault.code))
                        .collect();
                    line.error = None;
                }
                Err(error) => {
                    line.state = Phase::Failed;
                    line.error = Some(chain(error));
                }
            }
        });
    }
}
