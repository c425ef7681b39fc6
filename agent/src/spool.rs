//! What waits for the hub, and what the hub is known to hold.
//!
//! One redb file, one thread that writes it. A [`Commit`] stores batches, the source's cursor and
//! the memory of contents in a single durable transaction: after a crash, all of it is there or
//! nothing is. Batches leave when the hub has acknowledged them.
//!
//! The spool is bounded in bytes and leaves a part of the disk free. When it is full, a commit
//! waits, and with it the source: clouds keep their own history, a tail keeps its file. Bulk
//! lanes are held back before the last quarter, so that events still find room when inventory
//! does not.
//!
//! Acknowledged batches are removed at once; a hub that is restored from a backup gets the
//! current state by a new epoch and whole sweeps ([`Spool::roll_epoch`]), not the history.

mod engine;
mod repair;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use protocol::batch::{BatchBuilder, BatchError, Signer};
use protocol::document::ContentHash;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::session::agent::{StoredBatch, Waiting};
use protocol::wire::v1::{Epoch, Resent, Witness};
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use engine::Engine;

use crate::exit::{Exit, Failure};
use crate::seal::{SealError, SealKey};

/// Jobs that may wait for the spool's thread. Whoever sends one more waits.
const JOBS: usize = 64;

/// How long a full spool is left alone before the disk is looked at again.
const FULL_PAUSE: Duration = Duration::from_secs(5);

/// How large the spool may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Most bytes of waiting batches.
    pub(crate) max_bytes: u64,
    /// Free bytes of the disk that are left alone.
    pub(crate) keep_free_bytes: u64,
}

/// Says why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SpoolError {
    /// The folder cannot be made or entered.
    #[error("could not use {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("could not open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: Box<redb::Error>,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}; this program knows {}", path.display(), tables::FORMAT)]
    Newer { path: PathBuf, found: u32 },
    /// It cannot be read or written.
    #[error("could not {doing}")]
    Storage {
        doing: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
    /// A value in it does not open.
    #[error("a value of the spool cannot be opened")]
    Sealed(#[from] SealError),
    /// A batch could not be made.
    #[error("a batch could not be made")]
    Batch(#[from] BatchError),
    /// Its thread has ended.
    #[error("the spool is closed")]
    Closed,
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        let (exit, fix) = match &error {
            SpoolError::Newer { .. } => (
                Exit::Data,
                "install the version that wrote it, or a newer one",
            ),
            SpoolError::Sealed(_) | SpoolError::Batch(_) => (
                Exit::Data,
                "stop the agent and move the spool folder away; sources are then read anew",
            ),
            SpoolError::Folder { .. }
            | SpoolError::Open { .. }
            | SpoolError::Storage { .. }
            | SpoolError::Closed => (
                Exit::No,
                "the files should belong to the user that runs this, on a disk with free space; \
                 run `zero-x-agent doctor`",
            ),
        };
        Failure::of(exit, "cannot use the spool", error).fix(fix)
    }
}

/// What is stored together.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// Batches, in order, each with its lane.
    pub(crate) batches: Vec<(Lane, BatchBuilder)>,
    /// What to remember in the same transaction.
    pub(crate) effects: Vec<Effect>,
}

/// Something that the agent remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The hub is told this content of a resource.
    Content {
        scope: String,
        id: String,
        content: ContentHash,
    },
    /// The hub is told that a resource is gone.
    Forgotten { scope: String, id: String },
    /// A sweep of a scope has begun.
    Generation { scope: String, generation: u64 },
    /// The hub is told that these parts of a scope were sent whole, as it had asked.
    Resent { scope: String, resent: Resent },
    /// A tail has been read up to here.
    Cursor { source: SourceId, cursor: Vec<u8> },
}

/// Why a commit has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The spool holds as much as it may.
    Spool,
    /// The disk has no more to spare.
    Disk,
}

/// What everybody may look at without asking the thread.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    bytes: AtomicU64,
    oldest_ms: AtomicI64,
    full: AtomicBool,
    released: Notify,
    spooled: Notify,
}

/// The way to the spool's thread; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    jobs: mpsc::Sender<Job>,
    gauges: Arc<Gauges>,
}

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// A spool that has just been opened.
pub(crate) struct Opened {
    pub(crate) spool: Spool,
    /// The thread; it ends when the last [`Spool`] is dropped and everything is written.
    pub(crate) thread: std::thread::JoinHandle<()>,
    /// Where a damaged or foreign file was put, when the spool had to begin anew.
    pub(crate) moved_aside: Option<PathBuf>,
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// How far the hub's store has come, as far as is known.
    pub(crate) witness: Option<Witness>,
}

impl Spool {
    /// Opens the spool in `folder`, makes it if there is none, and starts its thread.
    ///
    /// A file that is damaged or belongs to another identity is moved aside.
    ///
    /// # Errors
    ///
    /// When the folder cannot be used, or a newer program wrote the file.
    pub(crate) fn open(
        folder: &Path,
        config: Config,
        key: SealKey,
        signer: Box<dyn Signer + Send>,
    ) -> Result<Opened, SpoolError> {
        let gauges = Arc::new(Gauges::default());
        let (mut engine, moved_aside) = Engine::open(folder, config, key, signer, gauges.clone())?;
        let (epoch, witness) = (engine.epoch(), engine.witness());
        let (jobs, mut waiting) = mpsc::channel::<Job>(JOBS);
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                while let Some(job) = waiting.blocking_recv() {
                    job(&mut engine);
                }
                engine.close();
            })
            .map_err(|source| SpoolError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        Ok(Opened {
            spool: Self { jobs, gauges },
            thread,
            moved_aside,
            epoch,
            witness,
        })
    }

    /// Runs `job` on the spool's thread.
    ///
    /// # Errors
    ///
    /// [`SpoolError::Closed`] when the thread has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the job may or may not run; its result is lost.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |engine| {
            // The asker may have stopped waiting; the work is done all the same.
            let _ = answer.send(job(engine));
        });
        self.jobs.send(job).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)
    }

    /// Stores a commit durably; waits while the spool or the disk is full.
    ///
    /// # Errors
    ///
    /// When it cannot be written: nothing of it is stored then.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the commit is stored whole or not at all.
    pub(crate) async fn commit(&self, source: SourceId, commit: Commit) -> Result<(), SpoolError> {
        let mut waiting = commit;
        loop {
            // Armed before the attempt, so that a release in between is not missed.
            let released = self.gauges.released.notified();
            let result = self
                .call(move |engine| engine.commit(source, waiting))
                .await??;
            match result {
                Ok(()) => {
                    self.gauges.full.store(false, Ordering::Relaxed);
                    self.gauges.spooled.notify_one();
                    return Ok(());
                }
                Err((full, back)) => {
                    if !self.gauges.full.swap(true, Ordering::Relaxed) {
                        tracing::warn!(?full, "the spool is full; sources wait for the hub");
                    }
                    waiting = back;
                }
            }
            tokio::select! {
                () = released => {}
                // The disk can get free space from elsewhere.
                () = tokio::time::sleep(FULL_PAUSE) => {}
            }
        }
    }

    /// Returns the first stored batch whose items come after `after_seq`.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) async fn fetch(&self, lane: Lane, after_seq: u64) -> Result<Fetched, SpoolError> {
        self.call(move |engine| engine.fetch(lane, after_seq))
            .await?
    }

    /// Removes batches that the hub has stored.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) async fn release(
        &self,
        lane: Lane,
        through_seq: u64,
    ) -> Result<Released, SpoolError> {
        let released = self
            .call(move |engine| engine.release(lane, through_seq))
            .await??;
        self.gauges.released.notify_waiters();
        Ok(released)
    }

    /// Begins a new epoch: waiting batches are numbered and signed anew, and what the hub holds
    /// is forgotten, so that the next sweeps send everything.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written; the old epoch then stays.
    pub(crate) async fn roll_epoch(&self) -> Result<Epoch, SpoolError> {
        self.call(Engine::roll_epoch).await?
    }

    /// Waits until something may have been spooled.
    ///
    /// # Cancel safety
    ///
    /// Nothing is missed: a wake-up that came while nobody waited is kept.
    pub(crate) async fn spooled(&self) {
        self.gauges.spooled.notified().await;
    }

    /// Waits until the hub has acknowledged everything.
    ///
    /// # Cancel safety
    ///
    /// Has no effect but waiting.
    pub(crate) async fn drained(&self) {
        loop {
            let released = self.gauges.released.notified();
            if self.waiting().bytes == 0 {
                return;
            }
            tokio::select! {
                () = released => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// Returns how much waits.
    pub(crate) fn waiting(&self) -> Waiting {
        self.gauges.waiting()
    }

    /// Returns whether a source waits for room.
    pub(crate) fn is_full(&self) -> bool {
        self.gauges.full.load(Ordering::Relaxed)
    }
}

impl Gauges {
    fn waiting(&self) -> Waiting {
        Waiting {
            bytes: self.bytes.load(Ordering::Relaxed),
            oldest_ms: self.oldest_ms.load(Ordering::Relaxed),
        }
    }

    fn set(&self, bytes: u64, oldest_ms: i64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.oldest_ms.store(oldest_ms, Ordering::Relaxed);
    }
}

/// What a look for a batch found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The next batch.
    Batch(StoredBatch),
    /// Nothing waits behind that sequence.
    Nothing,
    /// Items behind that sequence are no longer here: the hub has lost what it acknowledged.
    Missing,
}

/// What a release did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// The batches are gone.
    Done,
    /// The hub holds sequences that this spool has not made: the disk is a copy of an older one.
    Ahead,
}

#[cfg(test)]
#[path = "spool/tests.rs"]
pub(crate) mod tests;
