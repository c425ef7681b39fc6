//! The default engine: one redb file per holder. The only module that names redb.
//!
//! ```text
//! table    key                      value
//! (named)  row key                  version u64 LE ‖ sealed value
//! #marks   mark key                 u64
//! #notes   commit u64 BE ‖ n u32 BE table u8 ‖ row key
//! #engine  "format" | "commit"      u64
//! ```
//! Every commit is `Durability::Immediate` with `quick_repair`, so a file opens in milliseconds
//! after a kill. redb can panic on a disk that lies: opening, writing and reading are guarded, and a
//! panic becomes an error. A file is made under another name and renamed when it is whole.

mod disk;
mod files;
mod fleet;
mod group;
mod load;
mod opening;
#[cfg(test)]
pub(crate) mod power;
mod snapshot;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTableMetadata, TableDefinition, TableStats,
};

use self::disk::{Health, Medium, Trouble};
pub(crate) use self::files::RedbFiles;
pub(crate) use self::fleet::Bounds;
use self::fleet::{Fleet, Seat};
use self::group::RedbGroup;
use self::opening::{Make, Opened, io_error, open_file, open_medium, words};
use self::snapshot::RedbSnapshot;
use super::{Compacted, Engine, LoadError, Moment, Pieces, Read, Row, Usage, Work, WriteSet};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// Opens the medium of an engine, again after an error has latched the handle.
type Opener = Box<dyn Fn(Make) -> Result<Arc<dyn Medium>, OpenError> + Send + Sync>;

/// How long a compaction keeps others out while it waits for the last of them to end, and how long
/// it lets them in again.
const COMPACT_PAUSE: Duration = Duration::from_millis(50);

const ENGINE: TableDefinition<'_, &str, u64> = TableDefinition::new("#engine");
const MARKS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("#marks");
const NOTES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("#notes");
const KEY_FORMAT: &str = "format";
const KEY_COMMIT: &str = "commit";

fn rows(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// One holder's file.
pub(crate) struct RedbEngine {
    path: PathBuf,
    tables: &'static [Table],
    opener: Opener,
    /// A full disk latches a redb handle even after space returns, so the handle can be replaced;
    /// and it rests where too many are open.
    seat: Arc<Seat>,
}

enum Slot {
    Open(Opened),
    /// Closed until it is used again.
    Resting,
    /// An error has latched the handle, and it could not be opened again yet.
    Lost(EngineError),
    Closed,
}

fn closed() -> EngineError {
    EngineError::Io("the store is closed".into())
}

impl RedbEngine {
    /// Makes a file with its first rows and opens it. `path` must not exist; after a crash it
    /// either does not, or is whole.
    pub(crate) fn create(
        path: &Path,
        tables: &'static [Table],
        fleet: &Arc<Fleet>,
        first: &WriteSet,
    ) -> Result<Self, OpenError> {
        if path.exists() {
            let path = path.to_owned();
            return Err(OpenError::Exists { path });
        }
        let unfinished = path.with_extension("redb.new");
        opening::remove_if_present(&unfinished)?;
        let made = Self::make(&unfinished, tables, fleet, first)
            .and_then(|()| fs::rename(&unfinished, path).map_err(|source| io_error(path, source)));
        if let Err(error) = made {
            // Half a file takes space that may be what is missing. The next attempt removes it too.
            let _ = opening::remove_if_present(&unfinished);
            return Err(error);
        }
        opening::sync_parent(path)?;
        Self::open(path, tables, fleet)
    }

    /// Makes a file with the rows of another, as [`RedbEngine::create`] makes one.
    pub(crate) fn load(
        path: &Path,
        tables: &'static [Table],
        fleet: &Arc<Fleet>,
        moment: Moment,
        pieces: &mut Pieces<'_>,
    ) -> Result<(), LoadError> {
        if path.exists() {
            let path = path.to_owned();
            return Err(OpenError::Exists { path }.into());
        }
        let unfinished = path.with_extension("redb.new");
        opening::remove_if_present(&unfinished)?;
        let filled = Self::on(
            &unfinished,
            tables,
            fleet,
            file_opener(&unfinished),
            Make::New,
        )
        .map_err(LoadError::Open)
        .and_then(|made| load::fill(&made, &unfinished, moment, pieces))
        .and_then(|()| Ok(fs::rename(&unfinished, path).map_err(|e| io_error(path, e))?));
        if let Err(error) = filled {
            let _ = opening::remove_if_present(&unfinished);
            return Err(error);
        }
        Ok(opening::sync_parent(path)?)
    }

    /// Makes a file that nothing has a name for yet.
    fn make(
        path: &Path,
        tables: &'static [Table],
        fleet: &Arc<Fleet>,
        first: &WriteSet,
    ) -> Result<(), OpenError> {
        let made = Self::on(path, tables, fleet, file_opener(path), Make::New)?;
        if *first == WriteSet::default() {
            return Ok(());
        }
        let refused = || OpenError::Start {
            reason: "a new file refused its first rows".into(),
        };
        made.apply(first)
            .map_err(|error| not_written(path, &error))?
            .map(drop)
            .map_err(|_| refused())
    }

    /// Opens a file.
    pub(crate) fn open(
        path: &Path,
        tables: &'static [Table],
        fleet: &Arc<Fleet>,
    ) -> Result<Self, OpenError> {
        Self::on(path, tables, fleet, file_opener(path), Make::Existing)
    }

    /// Reads one row of a file as it lies there, without writing to it. `None` also where only a
    /// repair could tell.
    pub(crate) fn peek(path: &Path, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError> {
        opening::peek_row(path, table, key)
    }

    fn on(
        path: &Path,
        tables: &'static [Table],
        fleet: &Arc<Fleet>,
        opener: Opener,
        make: Make,
    ) -> Result<Self, OpenError> {
        let open = open_medium(opener(make)?, path, tables, fleet.lease(), make)?;
        Ok(Self {
            path: path.to_owned(),
            tables,
            opener,
            seat: fleet.seat(Slot::Open(open)),
        })
    }

    fn current(&self) -> Result<(Arc<Database>, Arc<Health>), EngineError> {
        self.seat.touch();
        {
            let slot = &self.seat.slot;
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            match &*slot {
                Slot::Open(open) if !open.health.is_latched() => return Ok(open.parts()),
                Slot::Closed => return Err(closed()),
                Slot::Open(_) | Slot::Resting | Slot::Lost(_) => {}
            }
        }
        self.reopen()
    }

    /// Opens a file that rests, and replaces a handle that an error has latched. The latter only
    /// after a full disk or a passing error: a failed sync is never retried.
    fn reopen(&self) -> Result<(Arc<Database>, Arc<Health>), EngineError> {
        let slot = &self.seat.slot;
        let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
        let cause = match &*slot {
            Slot::Closed => return Err(closed()),
            Slot::Lost(fatal @ EngineError::Fatal(_)) => return Err(fatal.clone()),
            Slot::Lost(cause) => Some(cause.clone()),
            Slot::Resting => None,
            Slot::Open(open) => match open.health.trouble() {
                None => return Ok(open.parts()),
                Some(Trouble::Sync(reason)) => return Err(EngineError::Fatal(reason)),
                Some(trouble) => Some(trouble.into()),
            },
        };
        // The old handle goes first: it holds the file's lock.
        *slot = match &cause {
            Some(cause) => Slot::Lost(cause.clone()),
            None => Slot::Resting,
        };
        let lease = self.seat.lease();
        let opened = (self.opener)(Make::Existing)
            .and_then(|medium| open_medium(medium, &self.path, self.tables, lease, Make::Existing));
        match opened {
            Ok(open) => {
                let found = open.parts();
                *slot = Slot::Open(open);
                Ok(found)
            }
            // Readers of the old handle keep its lock until they end.
            Err(error @ OpenError::InUse { .. }) => {
                Err(cause.unwrap_or_else(|| EngineError::Io(error.to_string())))
            }
            Err(OpenError::Io { source, .. }) if disk::is_full(&source) => Err(EngineError::Full),
            Err(OpenError::Io { source, .. }) => Err(EngineError::Io(source.to_string())),
            Err(error) => Err(EngineError::Damaged(error.to_string())),
        }
    }
}

/// Why a new file could not be filled.
fn not_written(path: &Path, error: &EngineError) -> OpenError {
    match error {
        EngineError::Full => io_error(path, std::io::ErrorKind::StorageFull.into()),
        EngineError::Fatal(_) | EngineError::Damaged(_) | EngineError::Io(_) => OpenError::Start {
            reason: error.to_string(),
        },
    }
}

impl RedbEngine {
    /// Compacts the file once those who use it have ended. Nobody new begins meanwhile, so that a
    /// busy writer is caught between two groups; and not for long, since who reads may need another
    /// snapshot to come to an end.
    fn compact_alone(&self) -> Result<Option<Compacted>, EngineError> {
        let slot = &self.seat.slot;
        let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        while let Slot::Open(open) = &mut *slot {
            let before_bytes = self.file_bytes();
            if let Some(done) = open.compact() {
                done?;
                return Ok(Some(Compacted {
                    before_bytes,
                    after_bytes: self.file_bytes(),
                }));
            }
            if began.elapsed() >= COMPACT_PAUSE {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(None)
    }

    /// Size of the file; 0 for a medium that is none.
    fn file_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}

fn file_opener(path: &Path) -> Opener {
    let path = path.to_owned();
    Box::new(move |make| open_file(&path, make))
}

impl Engine for RedbEngine {
    fn group(&self, work: &mut Work<'_>) -> Result<(), EngineError> {
        let (database, health) = self.current()?;
        let run = || -> Result<(), EngineError> {
            let mut txn = database.begin_write().map_err(|e| health.explain(&e))?;
            txn.set_durability(Durability::Immediate)
                .map_err(|e| health.explain(&e))?;
            txn.set_quick_repair(true);
            let has_writes = {
                let mut group = RedbGroup::begin(&txn, &health)?;
                work(&mut group)?;
                group.finish()?
            };
            if has_writes {
                txn.commit().map_err(|e| health.explain(&e))
            } else {
                txn.abort().map_err(|e| health.explain(&e))
            }
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result,
            Err(panic) => {
                let reason = format!("panic while writing: {}", words(&*panic));
                Err(EngineError::Fatal(reason))
            }
        }
    }

    fn usage(&self) -> Result<Option<Usage>, EngineError> {
        let (database, health) = self.current()?;
        let measure = || -> Result<u64, EngineError> {
            let txn = database.begin_read().map_err(|e| health.explain(&e))?;
            let mut bytes = 0;
            let mut add = |stats: TableStats| {
                bytes += stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
            };
            for table in self.tables {
                let open = txn
                    .open_table(rows(*table))
                    .map_err(|e| health.explain(&e))?;
                add(open.stats().map_err(|e| health.explain(&e))?);
            }
            let marks = txn.open_table(MARKS).map_err(|e| health.explain(&e))?;
            add(marks.stats().map_err(|e| health.explain(&e))?);
            let notes = txn.open_table(NOTES).map_err(|e| health.explain(&e))?;
            add(notes.stats().map_err(|e| health.explain(&e))?);
            Ok(bytes)
        };
        let live_bytes = catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|panic| {
            let reason = format!("panic while measuring: {}", words(&*panic));
            Err(EngineError::Damaged(reason))
        })?;
        Ok(Some(Usage {
            file_bytes: self.file_bytes(),
            live_bytes,
        }))
    }

    fn compact(&self, patience: Duration) -> Result<Option<Compacted>, EngineError> {
        let began = Instant::now();
        loop {
            // Opens it if it rests or was lost.
            drop(self.current()?);
            if let Some(compacted) = self.compact_alone()? {
                return Ok(Some(compacted));
            }
            if began.elapsed() >= patience {
                return Ok(None);
            }
            std::thread::sleep(COMPACT_PAUSE);
        }
    }

    fn close(&self) {
        let slot = &self.seat.slot;
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Slot::Closed;
    }

    fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        let (database, health) = self.current()?;
        let txn = database.begin_read().map_err(|e| health.explain(&e))?;
        Ok(Box::new(RedbSnapshot::new(txn, database, health)))
    }
}
