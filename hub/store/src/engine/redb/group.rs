//! Write sets inside one redb transaction.

use redb::{ReadableTable, Table as RedbTable, WriteTransaction};

use super::disk::Health;
use super::snapshot::{format_of, get_row, read_marks, read_notes, scan_rows};
use super::{ENGINE, KEY_COMMIT, KEY_FORMAT, MARKS, NOTES, rows};
use crate::engine::{
    Condition, Direction, Entry, Group, Key, Note, PageSize, Range, Read, Refused, Row, Write,
    WriteSet,
};
use crate::error::EngineError;
use crate::tables::{TABLES, Table};

pub(super) type Rows<'txn> = RedbTable<'txn, &'static [u8], &'static [u8]>;

/// One open transaction. Tables are opened on first use and stay open to its end.
pub(super) struct RedbGroup<'txn> {
    txn: &'txn WriteTransaction,
    health: &'txn Health,
    tables: [std::cell::OnceCell<Rows<'txn>>; TABLES],
    engine: RedbTable<'txn, &'static str, u64>,
    marks: RedbTable<'txn, &'static [u8], u64>,
    notes: Rows<'txn>,
    /// Number of the last write set before this group.
    first: u64,
    last: u64,
}

impl<'txn> RedbGroup<'txn> {
    pub(super) fn begin(
        txn: &'txn WriteTransaction,
        health: &'txn Health,
    ) -> Result<Self, EngineError> {
        let engine = txn.open_table(ENGINE).map_err(|e| health.explain(&e))?;
        let last = engine.get(KEY_COMMIT).map_err(|e| health.explain(&e))?;
        let last = last.map_or(0, |value| value.value());
        Ok(Self {
            txn,
            health,
            tables: [const { std::cell::OnceCell::new() }; TABLES],
            engine,
            marks: txn.open_table(MARKS).map_err(|e| health.explain(&e))?,
            notes: txn.open_table(NOTES).map_err(|e| health.explain(&e))?,
            first: last,
            last,
        })
    }

    /// Stores the number of the last write set; says whether any was applied.
    pub(super) fn finish(mut self) -> Result<bool, EngineError> {
        if self.last == self.first {
            return Ok(false);
        }
        self.engine
            .insert(KEY_COMMIT, self.last)
            .map_err(|e| self.health.explain(&e))?;
        Ok(true)
    }

    fn cell(&self, table: Table) -> Result<&std::cell::OnceCell<Rows<'txn>>, EngineError> {
        self.tables
            .get(usize::from(table.number()))
            .ok_or_else(|| EngineError::Damaged("no such table".into()))
    }

    fn table(&self, table: Table) -> Result<&Rows<'txn>, EngineError> {
        let cell = self.cell(table)?;
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open = self
            .txn
            .open_table(rows(table))
            .map_err(|e| self.health.explain(&e))?;
        Ok(cell.get_or_init(|| open))
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut Rows<'txn>, EngineError> {
        self.table(table)?;
        self.tables
            .get_mut(usize::from(table.number()))
            .and_then(std::cell::OnceCell::get_mut)
            .ok_or_else(|| EngineError::Damaged("no such table".into()))
    }

    fn refusal(&self, condition: &Condition) -> Result<Option<Refused>, EngineError> {
        let refused = match condition {
            Condition::Absent { table, key } => self
                .get(*table, key)?
                .map(|_| Refused::Row { table: *table }),
            Condition::Version {
                table,
                key,
                version,
            } => {
                let holds = self
                    .get(*table, key)?
                    .is_some_and(|row| row.version == *version);
                (!holds).then_some(Refused::Row { table: *table })
            }
            Condition::Mark { key, value } => {
                let current = self.mark(key)?;
                (current != *value).then_some(Refused::Mark { current })
            }
        };
        Ok(refused)
    }

    fn write(&mut self, write: &Write, version: u64) -> Result<(), EngineError> {
        let health = self.health;
        match write {
            Write::Put { table, key, value } => {
                put_row(self.table_mut(*table)?, key, version, value, health)?;
            }
            Write::Reseal { table, key, value } => {
                if let Some(row) = self.get(*table, key)? {
                    put_row(self.table_mut(*table)?, key, row.version, value, health)?;
                }
            }
            Write::Delete { table, key } => {
                let table = self.table_mut(*table)?;
                table
                    .remove(key.as_slice())
                    .map_err(|e| health.explain(&e))?;
            }
            Write::DeleteRange { table, range } => {
                if range.is_empty() {
                    return Ok(());
                }
                let table = self.table_mut(*table)?;
                let from = range.from.as_slice();
                let done = match &range.to {
                    Some(to) => table.retain_in::<&[u8], _>(from..to.as_slice(), |_, _| false),
                    None => table.retain_in::<&[u8], _>(from.., |_, _| false),
                };
                done.map_err(|e| health.explain(&e))?;
            }
        }
        Ok(())
    }
}

impl Read for RedbGroup<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, EngineError> {
        get_row(self.table(table)?, key, self.health)
    }

    fn scan(
        &self,
        table: Table,
        range: &Range,
        direction: Direction,
        page: PageSize,
    ) -> Result<Vec<Entry>, EngineError> {
        scan_rows(self.table(table)?, range, direction, page, self.health)
    }

    fn mark(&self, key: &[u8]) -> Result<u64, EngineError> {
        let found = self.marks.get(key).map_err(|e| self.health.explain(&e))?;
        Ok(found.map_or(0, |value| value.value()))
    }

    fn marks(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, u64)>, EngineError> {
        read_marks(&self.marks, after, limit, self.health)
    }

    fn notes(&self, since: u64, limit: usize) -> Result<Vec<Note>, EngineError> {
        read_notes(&self.notes, since, limit, self.health)
    }

    fn last_commit(&self) -> Result<u64, EngineError> {
        Ok(self.last)
    }

    fn format(&self) -> Result<u32, EngineError> {
        format_of(&self.engine, self.health)
    }
}

impl Group for RedbGroup<'_> {
    fn apply(&mut self, set: &WriteSet) -> Result<Result<u64, Refused>, EngineError> {
        for condition in &set.conditions {
            if let Some(refused) = self.refusal(condition)? {
                return Ok(Err(refused));
            }
        }
        let health = self.health;
        self.last += 1;
        let commit = self.last;
        for write in &set.writes {
            self.write(write, commit)?;
        }
        for (key, value) in &set.marks {
            self.marks
                .insert(key.as_slice(), value)
                .map_err(|e| health.explain(&e))?;
        }
        for (n, (table, key)) in (0u32..).zip(&set.notes) {
            put_note(&mut self.notes, (commit, n), *table, key, health)?;
        }
        if let Some(up_to) = set.forget_notes {
            let end = up_to.saturating_add(1).to_be_bytes();
            let range = ..end.as_slice();
            self.notes
                .retain_in::<&[u8], _>(range, |_, _| false)
                .map_err(|e| health.explain(&e))?;
        }
        if let Some(format) = set.format {
            self.engine
                .insert(KEY_FORMAT, u64::from(format))
                .map_err(|e| health.explain(&e))?;
        }
        Ok(Ok(commit))
    }
}

/// Stores a row with its version.
pub(super) fn put_row(
    table: &mut Rows<'_>,
    key: &[u8],
    version: u64,
    value: &[u8],
    health: &Health,
) -> Result<(), EngineError> {
    let mut slot = table
        .insert_reserve(key, 8 + value.len())
        .map_err(|e| health.explain(&e))?;
    let (head, body) = slot
        .as_mut()
        .split_first_chunk_mut::<8>()
        .ok_or_else(|| EngineError::Damaged("a reserved row is too short".into()))?;
    *head = version.to_le_bytes();
    body.copy_from_slice(value);
    Ok(())
}

/// Stores an entry of the feed: the commit, and its place among the entries of that commit.
pub(super) fn put_note(
    notes: &mut Rows<'_>,
    (commit, n): (u64, u32),
    table: Table,
    key: &[u8],
    health: &Health,
) -> Result<(), EngineError> {
    let place = [commit.to_be_bytes().as_slice(), &n.to_be_bytes()].concat();
    let named = [&[table.number()], key].concat();
    notes
        .insert(place.as_slice(), named.as_slice())
        .map_err(|e| health.explain(&e))?;
    Ok(())
}
