//! What waits for the hub, and what the hub is known to hold.
//!
//! One redb file, one thread that writes it. A [`Commit`] stores batches, the source's cursor and
//! the memory of contents in a single durable transaction: after a crash, all of it is there or
//! nothing is. Batches that the hub has acknowledged are kept for a while, for a hub that is
//! restored from a backup, and are the first to go when space is short.
//!
//! The spool is bounded in bytes, and every lane in its share of them ([`shares`]); a part of the
//! disk is left free. Where there is no room, a commit waits, and with it the source: clouds keep
//! their own history, a tail keeps its file. A file that cannot be written makes sources wait
//! too; it is tried again until it can. What can no longer be sent is told to the hub in its
//! place ([`losses`]); nothing goes in silence.
//!
//! [`engine`] holds the file open and writes it, [`file`] opens it and puts a damaged one aside,
//! [`delivery`] answers the session, [`ledger`] keeps each lane's numbers, [`row`] seals.

mod carry;
mod delivery;
mod engine;
mod file;
mod gauges;
mod ledger;
mod losses;
mod memory;
mod repair;
mod row;
mod shares;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::batch::{BatchBuilder, BatchError, Signer};
use protocol::document::ContentHash;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::session::agent::{StoredBatch, Waiting};
use protocol::wire::v1::{Epoch, Resent, Witness};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use carry::Place;
pub(crate) use engine::Engine;
pub(crate) use file::{asides, file};
#[cfg(test)]
pub(crate) use gauges::WaitReport;
pub(crate) use gauges::{Aside, LaneReport, Report, Trouble, Wants};
use gauges::{Gauges, Why};
pub(crate) use losses::Losses;

use crate::exit::{Exit, Failure};
use crate::seal::{SealError, SealKey};

/// Jobs that may wait for the spool's thread. Whoever sends one more waits.
const JOBS: usize = 64;

/// How long a commit that has no room waits before it looks again: the disk can get free space
/// from elsewhere.
const FULL_PAUSE: Duration = Duration::from_secs(5);

/// How often the spool is looked after.
const TEND_EVERY: Duration = Duration::from_secs(10);

/// How large the spool may become, and how long it keeps what the hub has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Most bytes of the file.
    pub(crate) max_bytes: u64,
    /// Free bytes of the disk that are left alone.
    pub(crate) keep_free_bytes: u64,
    /// How long acknowledged batches stay, where there is room.
    pub(crate) keep_acknowledged: Duration,
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
    #[error(
        "{} has {found}; this program knows format {} and redb's format 3",
        path.display(),
        tables::FORMAT
    )]
    Newer { path: PathBuf, found: String },
    /// It cannot be read or written.
    #[error("could not {doing}")]
    Storage {
        doing: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
    /// What is in the file contradicts itself.
    #[error("the file is torn")]
    Torn,
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

impl SpoolError {
    /// Returns whether it may be another time: the file is opened anew for the next attempt.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Folder { .. }
            | Self::Open { .. }
            | Self::Storage { .. }
            | Self::Torn
            | Self::Newer { .. } => true,
            Self::Sealed(_) | Self::Batch(_) | Self::Closed => false,
        }
    }

    fn is_out_of_space(&self) -> bool {
        let io = match self {
            Self::Folder { source, .. } => source,
            Self::Open { source, .. } | Self::Storage { source, .. } => {
                if let redb::Error::Io(io) = source.as_ref() {
                    io
                } else {
                    return false;
                }
            }
            Self::Newer { .. } | Self::Torn | Self::Sealed(_) | Self::Batch(_) | Self::Closed => {
                return false;
            }
        };
        matches!(
            io.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        )
    }
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        let (exit, fix) = match &error {
            SpoolError::Newer { .. } => (
                Exit::Data,
                "install the version that wrote it, or a newer one",
            ),
            SpoolError::Sealed(_) | SpoolError::Batch(_) | SpoolError::Torn => (
                Exit::Data,
                "stop the agent and move the spool folder away; sources are then read anew",
            ),
            SpoolError::Folder { .. } | SpoolError::Open { .. } | SpoolError::Storage { .. }
                if error.is_out_of_space() =>
            {
                (
                    Exit::No,
                    "free some space on the disk of the state directory; nothing in the spool is \
                     lost",
                )
            }
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
        let mut engine = Engine::open(folder, config, key, signer, gauges.clone())?;
        let witness = engine.witness();
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

    /// Stores a commit durably; waits while there is no room for it, or the file cannot be
    /// written.
    ///
    /// # Errors
    ///
    /// When it can never be stored: nothing of it is, then.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the commit is stored whole or not at all.
    pub(crate) async fn commit(&self, source: SourceId, commit: Commit) -> Result<(), SpoolError> {
        let commit = Arc::new(commit);
        let serial = self.gauges.next_serial();
        let mut waiting: Option<gauges::Wait> = None;
        loop {
            // Armed before the attempt, so that a release in between is not missed.
            let released = self.gauges.released.notified();
            let attempt = commit.clone();
            let result = self.call(move |engine| engine.commit(serial, source, &attempt));
            let why = match result.await? {
                Ok(Ok(())) => {
                    self.gauges.spooled.notify_one();
                    return Ok(());
                }
                Ok(Err(full)) => Why::Full(full),
                Err(error) if error.passes() => Why::Trouble,
                Err(error) => return Err(error),
            };
            match &waiting {
                Some(wait) => wait.renew(why),
                None => waiting = Some(self.gauges.wait(source, why)),
            }
            tokio::select! {
                () = released => {}
                () = tokio::time::sleep(FULL_PAUSE) => {}
            }
        }
    }

    /// Returns the first stored batch whose items come after `after_seq`, or a record of what is
    /// lost there.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) async fn fetch(&self, lane: Lane, after_seq: u64) -> Result<Fetched, SpoolError> {
        self.call(move |engine| engine.fetch(lane, after_seq))
            .await?
    }

    /// Takes note that the hub has stored everything up to `through_seq`.
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

    /// Looks after the spool until `stop`: lets go what is no longer kept, and tries a file that
    /// could not be used again.
    pub(crate) async fn tend(self, stop: CancellationToken) {
        loop {
            // Both branches may be cancelled: neither has an effect of its own.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TEND_EVERY) => {}
            }
            // What fails is shown, and tried again the next time.
            let _ = self.call(|engine| engine.tend(Timestamp::now())).await;
        }
    }

    /// Waits until something may have been spooled, or the epoch is another one.
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

    /// Returns the present epoch. It changes when the hub knows another life of this disk, and
    /// when the file had to be put aside.
    pub(crate) fn epoch(&self) -> Epoch {
        self.gauges.epoch()
    }

    /// Takes note of whether batches flow.
    pub(crate) fn set_linked(&self, linked: bool) {
        self.gauges.set_linked(linked);
    }

    /// Returns what `status` shows.
    pub(crate) fn report(&self) -> Report {
        self.gauges.report()
    }
}

/// Returns the bytes that are free for everybody on the disk of a folder.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// What a look for a batch found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The next batch.
    Batch(StoredBatch),
    /// Nothing waits behind that sequence.
    Nothing,
}

/// What a release did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// The hub is known to have them.
    Done,
    /// The hub holds sequences that this spool has not sent: the disk is a copy of an older one.
    Ahead,
}

#[cfg(test)]
pub(crate) mod tests;
