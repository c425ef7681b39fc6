//! What everybody may look at without asking the spool's thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::session::agent::Waiting;
use protocol::wire::v1::Epoch;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::losses::Losses;
use super::shares::Full;

/// The spool as `status` shows it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) lanes: Vec<LaneReport>,
    /// Sources that wait for room, and why.
    pub(crate) waiting: Vec<WaitReport>,
    /// Why the file cannot be read or written at present.
    pub(crate) trouble: Option<Trouble>,
    /// Files that did not open and were put aside since the agent was started.
    pub(crate) moved_aside: Vec<Aside>,
    /// What could not be sent any more.
    pub(crate) losses: Losses,
}

/// One lane. Bytes are those of the file that its batches are counted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaneReport {
    pub(crate) lane: String,
    /// What the hub has not acknowledged.
    pub(crate) items: u64,
    pub(crate) bytes: u64,
    /// Most bytes that may wait.
    pub(crate) share_bytes: u64,
    /// When the oldest waiting batch was made.
    pub(crate) oldest: Option<Timestamp>,
    /// Acknowledged batches that are kept for a hub that is restored from a backup.
    pub(crate) kept_bytes: u64,
    /// When the hub last acknowledged something.
    pub(crate) acknowledged_at: Option<Timestamp>,
}

/// One source that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitReport {
    pub(crate) source: SourceId,
    /// What it waits for: room in a lane, in the spool, on the disk, or a file that works.
    pub(crate) wants: Wants,
    pub(crate) why: String,
    pub(crate) since: Timestamp,
}

/// What a source waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wants {
    /// The hub takes what waits on the lane.
    Lane,
    /// The hub takes what waits.
    Spool,
    /// Somebody frees space.
    Disk,
    /// The file can be written again.
    File,
}

/// A file that cannot be used at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    pub(crate) since: Timestamp,
    pub(crate) error: String,
    /// Whether the disk is out of space, and not out of order.
    pub(crate) is_out_of_space: bool,
}

/// A file that was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Aside {
    pub(crate) file: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) at: Timestamp,
    pub(crate) reason: String,
}

/// Returns the name of a lane for people.
pub(crate) const fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Events => "events",
        Lane::Inventory => "inventory",
        Lane::Cost => "cost",
        Lane::Results => "results",
    }
}

#[derive(Debug, Default)]
struct State {
    report: Report,
    waits: BTreeMap<SourceId, WaitReport>,
    waiting: Waiting,
    epoch: Epoch,
}

/// Written by the spool's thread and by whoever waits for it.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    state: Mutex<State>,
    /// Whether batches flow, so that what is stored may be sent at once.
    linked: AtomicBool,
    serial: AtomicU64,
    /// Rung when there may be room again.
    pub(super) released: Notify,
    /// Rung when there may be something to send.
    pub(super) spooled: Notify,
}

impl Gauges {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(super) fn report(&self) -> Report {
        let state = self.lock();
        Report {
            waiting: state.waits.values().cloned().collect(),
            ..state.report.clone()
        }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.lock().waiting
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lock().epoch
    }

    pub(super) fn set_epoch(&self, epoch: Epoch) {
        self.lock().epoch = epoch;
    }

    pub(super) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }

    pub(super) fn set_linked(&self, linked: bool) {
        self.linked.store(linked, Ordering::Relaxed);
    }

    /// Returns a number that no other commit of this process has.
    pub(super) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn set_lanes(&self, lanes: Vec<LaneReport>, waiting: Waiting) {
        let mut state = self.lock();
        state.report.lanes = lanes;
        state.waiting = waiting;
    }

    pub(super) fn set_losses(&self, losses: Losses) {
        self.lock().report.losses = losses;
    }

    pub(super) fn has_trouble(&self) -> bool {
        self.lock().report.trouble.is_some()
    }

    pub(super) fn add_aside(&self, aside: Aside) {
        self.lock().report.moved_aside.push(aside);
    }

    /// Takes note that the file cannot be used; returns whether that is news.
    pub(super) fn set_trouble(&self, error: String, is_out_of_space: bool) -> bool {
        let mut state = self.lock();
        let since = state.report.trouble.as_ref().map(|trouble| trouble.since);
        state.report.trouble = Some(Trouble {
            since: since.unwrap_or_else(Timestamp::now),
            error,
            is_out_of_space,
        });
        since.is_none()
    }

    /// Takes note that the file can be written; whoever waited for that is woken.
    pub(super) fn clear_trouble(&self) {
        let Some(trouble) = self.lock().report.trouble.take() else {
            return;
        };
        tracing::info!(since = %trouble.since, "the spool can be written again");
        self.released.notify_waiters();
        self.spooled.notify_one();
    }

    /// Shows a source as waiting until the returned value is dropped; says it in the log once.
    pub(super) fn wait(self: &Arc<Self>, source: SourceId, why: Why) -> Wait {
        let line = WaitReport {
            source,
            wants: why.wants(),
            why: why.words(),
            since: Timestamp::now(),
        };
        tracing::warn!(%source, why = %line.why, "a source waits; it reads on by itself");
        self.lock().waits.insert(source, line);
        Wait {
            gauges: self.clone(),
            source,
        }
    }
}

/// Why a commit waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Full(Full),
    /// The file cannot be written.
    Trouble,
}

impl Why {
    fn wants(self) -> Wants {
        match self {
            Self::Full(Full::Lane(_)) => Wants::Lane,
            Self::Full(Full::Spool) => Wants::Spool,
            Self::Full(Full::Disk) => Wants::Disk,
            Self::Trouble => Wants::File,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Full(Full::Lane(lane)) => {
                format!("lane {} holds its share of the spool", lane_name(lane))
            }
            Self::Full(Full::Spool) => "the spool holds as much as it may".to_owned(),
            Self::Full(Full::Disk) => {
                "the disk has no more free space than spool.keep_free_bytes".to_owned()
            }
            Self::Trouble => "the spool cannot be written".to_owned(),
        }
    }
}

/// A source that waits, as long as this lives.
#[derive(Debug)]
pub(super) struct Wait {
    gauges: Arc<Gauges>,
    source: SourceId,
}

impl Wait {
    /// Shows another reason, if it is one.
    pub(super) fn renew(&self, why: Why) {
        if let Some(line) = self.gauges.lock().waits.get_mut(&self.source) {
            line.wants = why.wants();
            line.why = why.words();
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.gauges.lock().waits.remove(&self.source);
    }
}
