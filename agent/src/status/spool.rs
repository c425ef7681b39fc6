//! The spool in `status`: what waits, who waits and why, what was lost and what was put aside.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use protocol::ids::SourceId;
use serde::{Deserialize, Serialize};

use crate::spool::{self, Aside, LaneReport, Losses, Report, Trouble, Wants};

/// Where the spool is and what it may take.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub(crate) folder: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) keep_free_bytes: u64,
}

/// The spool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SpoolStatus {
    pub(crate) state: SpoolState,
    /// Bytes of what the hub has not acknowledged, and how many the spool may take.
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
    /// When the oldest waiting batch was made.
    pub(crate) oldest: Option<Timestamp>,
    /// When the hub last acknowledged something.
    pub(crate) acknowledged_at: Option<Timestamp>,
    /// What the spool's file takes of the disk.
    pub(crate) file_bytes: Option<u64>,
    /// Free bytes of the disk, and how many of them are left alone.
    pub(crate) disk_free_bytes: Option<u64>,
    pub(crate) keep_free_bytes: u64,
    /// Why the file cannot be used at present.
    pub(crate) trouble: Option<Trouble>,
    pub(crate) lanes: Vec<LaneReport>,
    /// Sources that wait for room.
    pub(crate) waiting: Vec<WaitStatus>,
    pub(crate) losses: Losses,
    /// Files that did not open and were put aside, as far as they are still there.
    pub(crate) moved_aside: Vec<AsideStatus>,
}

/// How the spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SpoolState {
    Good,
    /// Sources wait for the hub to take what is here.
    Full,
    /// The disk has no more free space than is to be left alone; sources wait, or soon will.
    Short,
    /// The file cannot be read or written.
    Broken,
}

/// A source that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitStatus {
    pub(crate) source: String,
    pub(crate) wants: Wants,
    pub(crate) why: String,
    pub(crate) since: Timestamp,
}

/// A file that was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AsideStatus {
    pub(crate) file: PathBuf,
    pub(crate) bytes: u64,
    /// Why, where that was since the daemon was started.
    pub(crate) reason: Option<String>,
}

/// Columns of the lists in a table.
pub(crate) const LANE_COLUMNS: &[&str] = &[
    "lane",
    "items",
    "bytes",
    "share_bytes",
    "oldest",
    "acknowledged_at",
    "kept_bytes",
];
pub(crate) const WAIT_COLUMNS: &[&str] = &["source", "why", "since"];
pub(crate) const LOSS_COLUMNS: &[&str] =
    &["lane", "first_seq", "last_seq", "items", "reason", "at"];
pub(crate) const ASIDE_COLUMNS: &[&str] = &["file", "bytes", "reason"];

impl SpoolStatus {
    /// Puts together what the spool says of itself and what its disk looks like.
    pub(crate) fn new(report: Report, bounds: &Bounds, names: &BTreeMap<SourceId, String>) -> Self {
        let disk_free_bytes = spool::free_bytes(&bounds.folder);
        let is_below = disk_free_bytes.is_some_and(|free| free < bounds.keep_free_bytes);
        let wants = |what: Wants| report.waiting.iter().any(|wait| wait.wants == what);
        let state = if report.trouble.is_some() {
            SpoolState::Broken
        } else if is_below || wants(Wants::Disk) {
            SpoolState::Short
        } else if !report.waiting.is_empty() {
            SpoolState::Full
        } else {
            SpoolState::Good
        };
        let waiting = report.waiting.into_iter().map(|wait| WaitStatus {
            source: match names.get(&wait.source) {
                Some(name) => name.clone(),
                None => wait.source.to_string(),
            },
            wants: wait.wants,
            why: wait.why,
            since: wait.since,
        });
        let lanes = &report.lanes;
        Self {
            state,
            bytes: lanes.iter().map(|lane| lane.bytes).sum(),
            max_bytes: bounds.max_bytes,
            oldest: lanes.iter().filter_map(|lane| lane.oldest).min(),
            acknowledged_at: lanes.iter().filter_map(|lane| lane.acknowledged_at).max(),
            file_bytes: fs::metadata(spool::file(&bounds.folder))
                .ok()
                .map(|found| found.blocks() * 512),
            disk_free_bytes,
            keep_free_bytes: bounds.keep_free_bytes,
            trouble: report.trouble,
            waiting: waiting.collect(),
            losses: report.losses,
            moved_aside: asides(&bounds.folder, &report.moved_aside),
            lanes: report.lanes,
        }
    }

    /// Returns the state in a line.
    pub(crate) fn line(&self) -> String {
        let mut text = format!(
            "{} of {} bytes wait for the hub",
            self.bytes, self.max_bytes
        );
        if let Some(oldest) = self.oldest {
            text += &format!(", the oldest since {oldest}");
        }
        if let Some(at) = self.acknowledged_at {
            text += &format!("; last acknowledged {at}");
        }
        match (&self.trouble, self.state) {
            (Some(trouble), _) => {
                text += &format!(
                    "; the file cannot be used since {}: {}; sources wait, and it is tried again",
                    trouble.since, trouble.error
                );
            }
            (None, SpoolState::Full) => text += "; sources wait for room",
            (None, SpoolState::Short) => {
                let free = self.disk_free_bytes.unwrap_or_default();
                let kept = self.keep_free_bytes;
                text +=
                    &format!("; the disk has {free} bytes free, of which {kept} are left alone");
            }
            (None, SpoolState::Good | SpoolState::Broken) => {}
        }
        if self.losses.items > 0 {
            text += &format!("; {} items were lost", self.losses.items);
        }
        text
    }
}

fn asides(folder: &Path, known: &[Aside]) -> Vec<AsideStatus> {
    let found = spool::asides(folder).unwrap_or_default();
    let lines = found.into_iter().map(|file| {
        let reason = known.iter().find(|aside| aside.file == file);
        AsideStatus {
            bytes: fs::metadata(&file).map_or(0, |found| found.len()),
            reason: reason.map(|aside| aside.reason.clone()),
            file,
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::WaitReport;

    fn wait(wants: Wants) -> WaitReport {
        WaitReport {
            source: SourceId::derived(&[b"w"]),
            wants,
            why: "why".to_owned(),
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[track_caller]
    fn check(report: Report, keep_free_bytes: u64, want: SpoolState, words: &str) {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds {
            folder: folder.path().to_owned(),
            max_bytes: 100,
            keep_free_bytes,
        };
        let names = BTreeMap::from([(SourceId::derived(&[b"w"]), "manager".to_owned())]);
        let status = SpoolStatus::new(report, &bounds, &names);
        assert_eq!(status.state, want);
        assert!(status.line().contains(words), "{}", status.line());
        assert!(status.waiting.iter().all(|wait| wait.source == "manager"));
    }

    #[test]
    fn the_worst_state_is_shown_and_said() {
        let waiting = |wants| Report {
            waiting: vec![wait(wants)],
            ..Report::default()
        };
        let broken = Report {
            trouble: Some(Trouble {
                since: Timestamp::UNIX_EPOCH,
                error: "no space".to_owned(),
                is_out_of_space: true,
            }),
            ..waiting(Wants::File)
        };
        let lost = Report {
            losses: Losses {
                records: 1,
                items: 7,
                last: vec![],
            },
            ..Report::default()
        };
        check(Report::default(), 0, SpoolState::Good, "0 of 100 bytes");
        check(lost, 0, SpoolState::Good, "7 items were lost");
        check(waiting(Wants::Lane), 0, SpoolState::Full, "sources wait");
        check(waiting(Wants::Disk), 0, SpoolState::Short, "bytes free");
        check(Report::default(), u64::MAX, SpoolState::Short, "left alone");
        check(
            broken,
            u64::MAX,
            SpoolState::Broken,
            "no space; sources wait",
        );
    }
}
