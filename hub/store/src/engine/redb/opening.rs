//! Opens a medium as a redb database, guarded: a bad file is an error that names it, never a panic,
//! and a newer one is left as it is.

use std::any::Any;
use std::fs::{self, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, CompactionError, Database, ReadTransaction, ReadableDatabase, TableError};

use super::disk::{Disk, Health, Medium, Trouble};
use super::fleet::Lease;
use super::snapshot::get_row;
use super::{ENGINE, KEY_FORMAT, MARKS, NOTES, rows};
use crate::engine::{FORMAT, Row};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// An open database with the first error of its medium.
pub(super) struct Opened {
    database: Arc<Database>,
    pub(super) health: Arc<Health>,
    // Given back after the file is closed.
    _lease: Lease,
}

impl Opened {
    /// Says whether a transaction or a snapshot holds it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.database) > 1
    }

    /// Compacts it; `None` while a transaction or a snapshot holds it.
    pub(super) fn compact(&mut self) -> Option<Result<(), EngineError>> {
        let health = &self.health;
        // The only handle: nobody else can have, or get, one.
        let database = Arc::get_mut(&mut self.database)?;
        let done = catch_unwind(AssertUnwindSafe(|| database.compact()));
        Some(match done {
            Ok(Ok(_)) => Ok(()),
            // A reader whose snapshot outlives its handle.
            Ok(Err(CompactionError::TransactionInProgress)) => return None,
            Ok(Err(error)) => Err(health.explain(&error)),
            Err(panic) => {
                let reason = format!("panic while compacting: {}", words(&*panic));
                Err(EngineError::Fatal(reason))
            }
        })
    }

    pub(super) fn parts(&self) -> (Arc<Database>, Arc<Health>) {
        (Arc::clone(&self.database), Arc::clone(&self.health))
    }
}

/// Whether there should be something there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    New,
    Existing,
}

/// Opens and locks a file.
pub(super) fn open_file(path: &Path, make: Make) -> Result<Arc<dyn Medium>, OpenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(make == Make::New)
        .mode(0o600)
        .open(path)
        .map_err(|source| io_error(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io_error(path, source)),
    }
}

/// Opens the database on a medium. `path` names it in errors.
pub(super) fn open_medium(
    medium: Arc<dyn Medium>,
    path: &Path,
    tables: &'static [Table],
    lease: Lease,
    make: Make,
) -> Result<Opened, OpenError> {
    let damaged = |reason: String| OpenError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let length = medium.len().map_err(|source| io_error(path, source))?;
    if make == Make::Existing && length == 0 {
        // redb would take an empty file for a new one.
        return Err(damaged("the file is empty".into()));
    }
    let health = Arc::new(Health::default());
    let open = || -> Result<Database, OpenError> {
        if make == Make::Existing {
            peek(&medium, path)?;
        }
        let database = Builder::new()
            .set_cache_size(lease.cache_bytes)
            .create_with_backend(Disk::new(Arc::clone(&medium), Arc::clone(&health)))
            .map_err(|error| open_error(path, &health, error))?;
        prepare(&database, path, &health, tables, make)?;
        Ok(database)
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(database) => Ok(Opened {
            database: Arc::new(database?),
            health,
            _lease: lease,
        }),
        Err(panic) => Err(damaged(format!("panic while opening: {}", words(&*panic)))),
    }
}

/// Looks at the format of a file that was closed well, without writing to it. Opening a redb file
/// for writing changes it, and a newer program's file must stay as it is. One that was not closed
/// well can only be opened for writing; its format is then checked after redb's repair.
fn peek(medium: &Arc<dyn Medium>, path: &Path) -> Result<(), OpenError> {
    let health = Arc::new(Health::default());
    let disk = Disk::new(Arc::clone(medium), Arc::clone(&health));
    let Ok(database) = Builder::new()
        .set_cache_size(0)
        .open_read_only_with_backend(disk)
    else {
        return Ok(());
    };
    let Ok(txn) = database.begin_read() else {
        return Ok(());
    };
    check_format(&txn, path, &health)
}

/// Reads one row of a file that was closed well, without writing to it; `None` where there is no
/// such row, and where only a repair could tell.
pub(super) fn peek_row(path: &Path, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError> {
    let medium = open_file(path, Make::Existing)?;
    let health = Arc::new(Health::default());
    let look = || {
        let disk = Disk::new(Arc::clone(&medium), Arc::clone(&health));
        let database = Builder::new()
            .set_cache_size(0)
            .open_read_only_with_backend(disk);
        let txn = database.ok()?.begin_read().ok()?;
        get_row(&txn.open_table(rows(table)).ok()?, key, &health).ok()?
    };
    // What is wrong with it is said when it is opened for good.
    Ok(catch_unwind(AssertUnwindSafe(look)).unwrap_or(None))
}

/// Refuses what is not a store and what is newer than this program.
fn check_format(txn: &ReadTransaction, path: &Path, health: &Health) -> Result<(), OpenError> {
    let damaged = |reason: String| OpenError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let broken = |error: &dyn std::fmt::Display| damaged(health.explain(error).to_string());
    let table = match txn.open_table(ENGINE) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Err(damaged("not a store".into())),
        Err(error) => return Err(broken(&error)),
    };
    let format = table
        .get(KEY_FORMAT)
        .map_err(|e| broken(&e))?
        .map(|found| found.value());
    let found = format.ok_or_else(|| damaged("it names no format".into()))?;
    if found > u64::from(FORMAT) {
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            supported: FORMAT,
        });
    }
    Ok(())
}

/// Checks the format before anything else is touched, then makes the tables that are missing.
fn prepare(
    database: &Database,
    path: &Path,
    health: &Health,
    tables: &'static [Table],
    make: Make,
) -> Result<(), OpenError> {
    let explain = |error: &dyn std::fmt::Display| match health.trouble() {
        Some(Trouble::Full) => io_error(path, std::io::ErrorKind::StorageFull.into()),
        Some(Trouble::Sync(reason) | Trouble::Other(reason)) => {
            io_error(path, std::io::Error::other(reason))
        }
        None => OpenError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    };
    if make == Make::Existing {
        let txn = database.begin_read().map_err(|e| explain(&e))?;
        check_format(&txn, path, health)?;
        let mut present = std::collections::BTreeSet::new();
        for handle in txn.list_tables().map_err(|e| explain(&e))? {
            present.insert(redb::TableHandle::name(&handle).to_owned());
        }
        if tables.iter().all(|table| present.contains(table.name())) {
            return Ok(());
        }
    }
    let mut txn = database.begin_write().map_err(|e| explain(&e))?;
    txn.set_quick_repair(true);
    {
        let mut engine = txn.open_table(ENGINE).map_err(|e| explain(&e))?;
        // An older file has its own until it is brought up.
        if make == Make::New {
            engine
                .insert(KEY_FORMAT, u64::from(FORMAT))
                .map_err(|e| explain(&e))?;
        }
        txn.open_table(MARKS).map_err(|e| explain(&e))?;
        txn.open_table(NOTES).map_err(|e| explain(&e))?;
        for table in tables {
            txn.open_table(rows(*table)).map_err(|e| explain(&e))?;
        }
    }
    txn.commit().map_err(|e| explain(&e))
}

fn open_error(path: &Path, health: &Health, error: redb::DatabaseError) -> OpenError {
    if let redb::DatabaseError::DatabaseAlreadyOpen = error {
        return OpenError::InUse {
            path: path.to_owned(),
        };
    }
    match health.trouble() {
        Some(Trouble::Full) => io_error(path, std::io::ErrorKind::StorageFull.into()),
        Some(Trouble::Sync(reason) | Trouble::Other(reason)) => {
            io_error(path, std::io::Error::other(reason))
        }
        None => OpenError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

pub(super) fn io_error(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn remove_if_present(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(path, source)),
    }
}

/// Makes a rename durable: the directory's entry is data of its own.
pub(super) fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let directory = fs::File::open(parent).map_err(|source| io_error(parent, source))?;
    directory
        .sync_all()
        .map_err(|source| io_error(parent, source))
}

pub(super) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
