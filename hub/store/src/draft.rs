//! A write set in the making: reads see what the draft itself has written.
//!
//! A draft lives only inside its turn in a group, so what it reads cannot change before the set it
//! becomes is applied. Rows are sealed as they are put; no plain text waits in it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::engine::{Condition, Direction, Key, Range, Read, Write, WriteSet, each};
use crate::error::ReadError;
use crate::seal::Sealer;
use crate::tables::Table;

/// A write set in the making.
pub(crate) struct Draft<'g> {
    read: &'g dyn Read,
    sealer: &'g Sealer,
    commit: u64,
    /// Ranges to be deleted; rows in `rows` were put after and stay.
    ranges: Vec<(Table, Range)>,
    /// Sealed rows to be put, `None` for those to be deleted. Sorted, which a B-tree likes.
    rows: BTreeMap<(Table, Key), Option<Vec<u8>>>,
    /// Everything else of the set.
    rest: WriteSet,
}

impl<'g> Draft<'g> {
    pub(crate) fn new(read: &'g dyn Read, sealer: &'g Sealer) -> Result<Self, ReadError> {
        let commit = read.last_commit()? + 1;
        Ok(Self {
            read,
            sealer,
            commit,
            ranges: Vec::new(),
            rows: BTreeMap::new(),
            rest: WriteSet::default(),
        })
    }

    /// Returns the number that the set will have.
    pub(crate) fn commit_number(&self) -> u64 {
        self.commit
    }

    fn is_hidden(&self, table: Table, key: &[u8]) -> bool {
        self.ranges
            .iter()
            .any(|(of, range)| *of == table && range.contains(key))
    }

    /// Returns a row as it is sealed, with its version.
    fn sealed(&self, table: Table, key: &[u8]) -> Result<Option<(Vec<u8>, u64)>, ReadError> {
        if let Some(row) = self.rows.get(&(table, key.to_vec())) {
            return Ok(row.clone().map(|row| (row, self.commit)));
        }
        if self.is_hidden(table, key) {
            return Ok(None);
        }
        Ok(self
            .read
            .get(table, key)?
            .map(|row| (row.value, row.version)))
    }

    /// Returns a row's bytes, opened.
    pub(crate) fn bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let Some((sealed, _)) = self.sealed(table, key)? else {
            return Ok(None);
        };
        self.sealer.open(table, key, &sealed).map(Some)
    }

    /// Returns a row.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, ReadError> {
        Ok(self.versioned(table, key)?.map(|(row, _)| row))
    }

    /// Returns a row with the number of the commit that wrote it.
    pub(crate) fn versioned<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<(T, u64)>, ReadError> {
        let Some((sealed, version)) = self.sealed(table, key)? else {
            return Ok(None);
        };
        let bytes = self.sealer.open(table, key, &sealed)?;
        Ok(Some((codec::decode(table, &bytes)?, version)))
    }

    pub(crate) fn exists(&self, table: Table, key: &[u8]) -> Result<bool, ReadError> {
        Ok(self.sealed(table, key)?.is_some())
    }

    /// Calls `visit` with every row of a range, those of the draft last.
    pub(crate) fn scan<T: DeserializeOwned>(
        &self,
        table: Table,
        range: &Range,
        mut visit: impl FnMut(&[u8], T),
    ) -> Result<(), ReadError> {
        if range.is_empty() {
            return Ok(());
        }
        each(self.read, table, range, Direction::Forward, |entry| {
            let is_ours = self.rows.contains_key(&(table, entry.key.clone()));
            if !is_ours && !self.is_hidden(table, &entry.key) {
                let bytes = self.sealer.open(table, &entry.key, &entry.row.value)?;
                visit(&entry.key, codec::decode(table, &bytes)?);
            }
            Ok::<_, ReadError>(ControlFlow::<()>::Continue(()))
        })?;
        let from = (table, range.from.clone());
        for ((of, key), row) in self.rows.range(from..) {
            if *of != table || !range.contains(key) {
                break;
            }
            if let Some(sealed) = row {
                let bytes = self.sealer.open(table, key, sealed)?;
                visit(key, codec::decode(table, &bytes)?);
            }
        }
        Ok(())
    }

    pub(crate) fn put<T: Serialize>(&mut self, table: Table, key: Key, row: &T) {
        self.put_bytes(table, key, &codec::encode(row));
    }

    pub(crate) fn put_bytes(&mut self, table: Table, key: Key, row: &[u8]) {
        let sealed = self.sealer.seal(table, &key, row);
        self.rows.insert((table, key), Some(sealed));
    }

    /// Returns a row that is not sealed: a keyring, which is what opens the others.
    pub(crate) fn plain(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.sealed(table, key)?.map(|(row, _)| row))
    }

    /// Puts a row as it is.
    pub(crate) fn put_plain(&mut self, table: Table, key: Key, row: Vec<u8>) {
        self.rows.insert((table, key), Some(row));
    }

    /// Puts a row that was sealed for this place, if there is none yet.
    pub(crate) fn put_sealed(&mut self, table: Table, key: Key, sealed: Vec<u8>) {
        self.rest.conditions.push(Condition::Absent {
            table,
            key: key.clone(),
        });
        self.rows.insert((table, key), Some(sealed));
    }

    /// Replaces a row that some commit before this one wrote, if no other has since.
    pub(crate) fn replace<T: Serialize>(&mut self, table: Table, key: Key, version: u64, row: &T) {
        self.rest.conditions.push(Condition::Version {
            table,
            key: key.clone(),
            version,
        });
        self.put(table, key, row);
    }

    pub(crate) fn delete(&mut self, table: Table, key: Key) {
        self.rows.insert((table, key), None);
    }

    pub(crate) fn delete_range(&mut self, table: Table, range: Range) {
        self.rows
            .retain(|(of, key), _| *of != table || !range.contains(key));
        self.ranges.push((table, range));
    }

    /// Returns a mark; 0 if it was never set.
    pub(crate) fn mark(&self, key: &[u8]) -> Result<u64, ReadError> {
        let ours = self.rest.marks.iter().rev().find(|(of, _)| of == key);
        match ours {
            Some((_, value)) => Ok(*value),
            None => Ok(self.read.mark(key)?),
        }
    }

    /// Moves a mark from where it stands.
    pub(crate) fn advance(&mut self, key: Key, from: u64, to: u64) {
        let is_ours = self.rest.marks.iter().any(|(of, _)| *of == key);
        if !is_ours {
            self.rest.conditions.push(Condition::Mark {
                key: key.clone(),
                value: from,
            });
        }
        self.rest.marks.push((key, to));
    }

    /// Names a row in the feed of changes, once.
    pub(crate) fn note(&mut self, table: Table, key: Key) {
        let note = (table, key);
        if self.rest.notes.last() != Some(&note) {
            self.rest.notes.push(note);
        }
    }

    /// Forgets the feed up to and with a commit.
    pub(crate) fn forget_notes(&mut self, up_to: u64) {
        self.rest.forget_notes = self.rest.forget_notes.max(Some(up_to));
    }

    /// Becomes the write set.
    pub(crate) fn finish(self) -> WriteSet {
        let mut set = self.rest;
        let ranges = self.ranges.into_iter();
        set.writes
            .extend(ranges.map(|(table, range)| Write::DeleteRange { table, range }));
        for ((table, key), row) in self.rows {
            match row {
                Some(sealed) => set.put(table, key, sealed),
                None => set.delete(table, key),
            }
        }
        set
    }
}
