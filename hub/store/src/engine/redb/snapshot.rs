//! Reads of one commit.

use std::cell::OnceCell;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableTable};

use super::disk::Health;
use super::opening::words;
use super::{ENGINE, KEY_COMMIT, KEY_FORMAT, MARKS, NOTES, rows};
use crate::engine::{Direction, Entry, Key, Note, PageSize, Range, Read, Row};
use crate::error::EngineError;
use crate::tables::{TABLES, Table};

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// One commit. Tables are opened on first use.
pub(super) struct RedbSnapshot {
    txn: ReadTransaction,
    tables: [OnceCell<Rows>; TABLES],
    health: Arc<Health>,
    // Dropped last: it closes the file.
    _database: Arc<Database>,
}

impl RedbSnapshot {
    pub(super) fn new(txn: ReadTransaction, database: Arc<Database>, health: Arc<Health>) -> Self {
        Self {
            txn,
            tables: [const { OnceCell::new() }; TABLES],
            health,
            _database: database,
        }
    }

    fn table(&self, table: Table) -> Result<&Rows, EngineError> {
        let cell = self
            .tables
            .get(usize::from(table.number()))
            .ok_or_else(|| EngineError::Damaged("no such table".into()))?;
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open = self
            .txn
            .open_table(rows(table))
            .map_err(|e| self.health.explain(&e))?;
        Ok(cell.get_or_init(|| open))
    }
}

/// Turns a panic of redb on a page that contradicts itself into an error.
fn guarded<R>(read: impl FnOnce() -> Result<R, EngineError>) -> Result<R, EngineError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        Err(EngineError::Damaged(format!(
            "panic while reading: {}",
            words(&*panic)
        )))
    })
}

impl Read for RedbSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, EngineError> {
        guarded(|| get_row(self.table(table)?, key, &self.health))
    }

    fn scan(
        &self,
        table: Table,
        range: &Range,
        direction: Direction,
        page: PageSize,
    ) -> Result<Vec<Entry>, EngineError> {
        guarded(|| scan_rows(self.table(table)?, range, direction, page, &self.health))
    }

    fn mark(&self, key: &[u8]) -> Result<u64, EngineError> {
        guarded(|| {
            let table = self
                .txn
                .open_table(MARKS)
                .map_err(|e| self.health.explain(&e))?;
            let found = table.get(key).map_err(|e| self.health.explain(&e))?;
            Ok(found.map_or(0, |value| value.value()))
        })
    }

    fn marks(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, u64)>, EngineError> {
        guarded(|| {
            let table = self
                .txn
                .open_table(MARKS)
                .map_err(|e| self.health.explain(&e))?;
            read_marks(&table, after, limit, &self.health)
        })
    }

    fn notes(&self, since: u64, limit: usize) -> Result<Vec<Note>, EngineError> {
        guarded(|| {
            let table = self
                .txn
                .open_table(NOTES)
                .map_err(|e| self.health.explain(&e))?;
            read_notes(&table, since, limit, &self.health)
        })
    }

    fn last_commit(&self) -> Result<u64, EngineError> {
        guarded(|| {
            let table = self
                .txn
                .open_table(ENGINE)
                .map_err(|e| self.health.explain(&e))?;
            let found = table.get(KEY_COMMIT).map_err(|e| self.health.explain(&e))?;
            Ok(found.map_or(0, |value| value.value()))
        })
    }

    fn format(&self) -> Result<u32, EngineError> {
        guarded(|| {
            let table = self
                .txn
                .open_table(ENGINE)
                .map_err(|e| self.health.explain(&e))?;
            format_of(&table, &self.health)
        })
    }
}

/// Returns the format that a file names.
pub(super) fn format_of(
    engine: &impl ReadableTable<&'static str, u64>,
    health: &Health,
) -> Result<u32, EngineError> {
    let found = engine.get(KEY_FORMAT).map_err(|e| health.explain(&e))?;
    let found = found.ok_or_else(|| EngineError::Damaged("it names no format".into()))?;
    Ok(u32::try_from(found.value()).unwrap_or(u32::MAX))
}

pub(super) fn read_marks(
    table: &impl ReadableTable<&'static [u8], u64>,
    after: Option<&[u8]>,
    limit: usize,
    health: &Health,
) -> Result<Vec<(Key, u64)>, EngineError> {
    let from = match after {
        Some(after) => Bound::Excluded(after),
        None => Bound::Unbounded,
    };
    let found = table
        .range::<&[u8]>((from, Bound::Unbounded))
        .map_err(|e| health.explain(&e))?;
    let mut marks = Vec::new();
    for next in found.take(limit) {
        let (key, value) = next.map_err(|e| health.explain(&e))?;
        marks.push((key.value().to_vec(), value.value()));
    }
    Ok(marks)
}

/// Splits a stored value into version and sealed value.
fn row(stored: &[u8]) -> Result<Row, EngineError> {
    let (version, value) = stored
        .split_first_chunk::<8>()
        .ok_or_else(|| EngineError::Damaged("a row is shorter than its version".into()))?;
    Ok(Row {
        version: u64::from_le_bytes(*version),
        value: value.to_vec(),
    })
}

pub(super) fn get_row(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
    health: &Health,
) -> Result<Option<Row>, EngineError> {
    let found = table.get(key).map_err(|e| health.explain(&e))?;
    found.map(|stored| row(stored.value())).transpose()
}

pub(super) fn scan_rows(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    range: &Range,
    direction: Direction,
    page: PageSize,
    health: &Health,
) -> Result<Vec<Entry>, EngineError> {
    let mut entries = Vec::new();
    if range.is_empty() || page.rows == 0 {
        return Ok(entries);
    }
    let found = match &range.to {
        Some(to) => table.range::<&[u8]>(range.from.as_slice()..to.as_slice()),
        None => table.range::<&[u8]>(range.from.as_slice()..),
    };
    let mut found = found.map_err(|e| health.explain(&e))?;
    let mut bytes = 0;
    while entries.len() < page.rows && (bytes < page.bytes || entries.is_empty()) {
        let next = match direction {
            Direction::Forward => found.next(),
            Direction::Backward => found.next_back(),
        };
        let Some(next) = next else { break };
        let (key, stored) = next.map_err(|e| health.explain(&e))?;
        let entry = Entry {
            key: key.value().to_vec(),
            row: row(stored.value())?,
        };
        bytes += entry.key.len() + entry.row.value.len();
        entries.push(entry);
    }
    Ok(entries)
}

pub(super) fn read_notes(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    since: u64,
    limit: usize,
    health: &Health,
) -> Result<Vec<Note>, EngineError> {
    let broken = || EngineError::Damaged("an entry of the feed of changes is malformed".into());
    let Some(first) = since.checked_add(1) else {
        return Ok(Vec::new());
    };
    let from = first.to_be_bytes();
    let found = table
        .range::<&[u8]>(from.as_slice()..)
        .map_err(|e| health.explain(&e))?;
    let mut notes = Vec::new();
    for next in found.take(limit) {
        let (key, value) = next.map_err(|e| health.explain(&e))?;
        let (commit, _) = key.value().split_first_chunk::<8>().ok_or_else(broken)?;
        let (table, row_key) = value.value().split_first().ok_or_else(broken)?;
        notes.push(Note {
            commit: u64::from_be_bytes(*commit),
            table: Table::from_number(*table).ok_or_else(broken)?,
            key: row_key.to_vec(),
        });
    }
    Ok(notes)
}
