//! The alerts of a Wazuh manager on this host, followed in `alerts.json`.
//!
//! [`follow`] decides what is read, [`input`] reads one file, [`days`] knows how the manager names
//! them, [`alert`] turns a line into an event. This module waits: `notify` wakes it, a slow look
//! is the net below. The alerts themselves are evidence and stay in the manager's files; nothing
//! there is changed. A first run begins at the start of the present file; older days are not read.

mod alert;
mod days;
mod follow;
mod input;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use collect::{CollectError, Fact, Output, Summary, Tail, Until};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use follow::{Follower, Step};

/// How long a wake-up may be missed: the file is looked at this often all the same.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The same where the kernel wakes nobody, such as on network file systems.
const LOOK_OFTEN: Duration = Duration::from_secs(1);

/// Follows one manager's alerts.
#[derive(Debug)]
pub(crate) struct Wazuh {
    path: PathBuf,
}

impl Wazuh {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Tries whether alerts can be read at `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or is something that only looks like one, or when its
    /// folder cannot be listed, without which no rotation can be followed.
    pub(crate) fn try_open(path: &Path) -> std::io::Result<()> {
        input::Input::plain(path, None)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::read_dir(folder)
            .map(drop)
            .map_err(|error| days::unlisted(folder, &error))
    }

    fn failed(&self, source: std::io::Error) -> CollectError {
        CollectError::File {
            path: self.path.display().to_string(),
            source,
        }
    }
}

/// Wakes when somebody writes to the file or gives its name to another one.
///
/// The manager writes through the day's name, which lies in another folder than `alerts.json`:
/// only a watch on the file itself sees that, and it stays with the file. The watch on the folder
/// sees when the name goes to the next one.
struct Wake {
    watcher: Option<RecommendedWatcher>,
    path: PathBuf,
    /// Device and inode of the file that is watched.
    watched: Option<(u64, u64)>,
    changed: Arc<Notify>,
}

impl Wake {
    fn new(path: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let waker = changed.clone();
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own opening and closing is an event too.
            let is_change = event.is_ok_and(|event| {
                matches!(
                    event.kind,
                    EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)
                )
            });
            if is_change {
                waker.notify_one();
            }
        });
        let watched = made.and_then(|mut watcher| {
            let folder = path.parent().unwrap_or(Path::new("/"));
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = match watched {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(%error, "the folder cannot be watched; it is looked at instead");
                None
            }
        };
        let mut wake = Self {
            watcher,
            path: path.to_owned(),
            watched: None,
            changed,
        };
        wake.renew();
        wake
    }

    /// Watches the file that has the name by now; returns whether it is another one. What was
    /// written to it before has woken nobody.
    fn renew(&mut self) -> bool {
        let found = std::fs::metadata(&self.path).ok();
        let found = found.map(|found| (found.dev(), found.ino()));
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        if found.is_none() || found == self.watched {
            return false;
        }
        // There is nothing to unwatch at first, and the old file may be gone.
        let _ = watcher.unwatch(&self.path);
        let watched = watcher.watch(&self.path, RecursiveMode::NonRecursive);
        self.watched = found.filter(|_| watched.is_ok());
        watched.is_ok()
    }

    /// Waits until something may have changed.
    ///
    /// # Cancel safety
    ///
    /// A change that came while nobody waited is kept.
    async fn wait(&self) {
        let longest = match self.watcher {
            Some(_) => LOOK_EVERY,
            None => LOOK_OFTEN,
        };
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep(longest) => {}
        }
    }
}

#[async_trait]
impl Tail for Wazuh {
    async fn follow(
        &self,
        cursor: Option<Vec<u8>>,
        out: &Output,
        until: Until,
        stop: &CancellationToken,
    ) -> Result<Summary, CollectError> {
        let started = Instant::now();
        let mut summary = Summary::default();
        let mut wake = match until {
            Until::Stopped => Some(Wake::new(&self.path)),
            Until::CaughtUp => None,
        };
        let mut stored = cursor;
        let mut follower = Follower::new(self.path.clone(), stored.as_deref());
        while !stop.is_cancelled() {
            let stepping = tokio::task::spawn_blocking(move || {
                let step = follower.step();
                (follower, step)
            });
            let (back, step) = stepping
                .await
                .map_err(|error| self.failed(std::io::Error::other(error)))?;
            follower = back;
            let Step {
                events,
                quarantined,
                cursor,
                is_end,
                ..
            } = step?;
            summary.documents += u64::try_from(events.len()).unwrap_or(u64::MAX);
            if stored.as_ref() != Some(&cursor) || !quarantined.is_empty() {
                stored = Some(cursor.clone());
                // Cancelled, the fact was not sent; it is read again from the stored cursor.
                let sent = stop.run_until_cancelled(out.send(Fact::Events {
                    events,
                    quarantined,
                    cursor,
                }));
                match sent.await {
                    Some(sent) => sent?,
                    None => break,
                }
            }
            if !is_end {
                continue;
            }
            let Some(wake) = &mut wake else {
                break;
            };
            if wake.renew() {
                continue;
            }
            // Both branches may be cancelled: a wake-up is kept.
            tokio::select! {
                () = stop.cancelled() => {}
                () = wake.wait() => {}
            }
        }
        summary.took = started.elapsed();
        Ok(summary)
    }
}

#[cfg(test)]
mod tests;
