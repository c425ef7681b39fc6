//! Rows as a snapshot shows them: found by key, opened, decoded.

use std::ops::ControlFlow;

use serde::de::DeserializeOwned;

use crate::codec;
use crate::engine::{Direction, Entry, Key, PageSize, Range, Read, each};
use crate::error::ReadError;
use crate::seal::Sealer;
use crate::tables::Table;

/// A snapshot with what opens its rows.
#[derive(Clone, Copy)]
pub(crate) struct View<'r> {
    pub(crate) read: &'r dyn Read,
    pub(crate) sealer: &'r Sealer,
}

impl<'r> View<'r> {
    pub(crate) fn new(read: &'r dyn Read, sealer: &'r Sealer) -> Self {
        Self { read, sealer }
    }

    /// Returns a row's bytes, opened.
    pub(crate) fn bytes(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        match self.read.get(table, key)? {
            Some(row) => self.sealer.open(table, key, &row.value).map(Some),
            None => Ok(None),
        }
    }

    /// Returns a row with the number of the commit that wrote it.
    pub(crate) fn versioned<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<(T, u64)>, ReadError> {
        let Some(row) = self.read.get(table, key)? else {
            return Ok(None);
        };
        let bytes = self.sealer.open(table, key, &row.value)?;
        Ok(Some((codec::decode(table, &bytes)?, row.version)))
    }

    /// Returns a row.
    pub(crate) fn row<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, ReadError> {
        Ok(self.versioned(table, key)?.map(|(row, _)| row))
    }

    /// Opens and decodes a row that a scan found.
    pub(crate) fn found<T: DeserializeOwned>(
        &self,
        table: Table,
        entry: &Entry,
    ) -> Result<T, ReadError> {
        let bytes = self.sealer.open(table, &entry.key, &entry.row.value)?;
        codec::decode(table, &bytes)
    }

    /// Returns what a scan found, opened but not decoded.
    pub(crate) fn opened(&self, table: Table, entry: &Entry) -> Result<Vec<u8>, ReadError> {
        self.sealer.open(table, &entry.key, &entry.row.value)
    }

    /// Calls `visit` with the rows of a range, their keys and versions, until it breaks.
    pub(crate) fn each<T: DeserializeOwned>(
        &self,
        table: Table,
        range: &Range,
        direction: Direction,
        mut visit: impl FnMut(&Key, u64, T) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        each(self.read, table, range, direction, |entry| {
            let row = self.found(table, &entry)?;
            Ok::<_, ReadError>(visit(&entry.key, entry.row.version, row))
        })?;
        Ok(())
    }

    /// Returns every row of a range, in key order.
    pub(crate) fn all<T: DeserializeOwned>(
        &self,
        table: Table,
        range: &Range,
    ) -> Result<Vec<T>, ReadError> {
        let mut rows = Vec::new();
        self.each(table, range, Direction::Forward, |_, _, row| {
            rows.push(row);
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }

    /// Returns at most `limit` rows from one end of a range.
    pub(crate) fn first<T: DeserializeOwned>(
        &self,
        table: Table,
        range: &Range,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<T>, ReadError> {
        let mut rows = Vec::new();
        let mut rest = range.clone();
        while rows.len() < limit && !rest.is_empty() {
            let wanted = PageSize::rows((limit - rows.len()).min(PageSize::USUAL.rows));
            let page = self.read.scan(table, &rest, direction, wanted)?;
            let Some(last) = page.last() else { break };
            rest = match direction {
                Direction::Forward => rest.after(&last.key),
                Direction::Backward => rest.before(&last.key),
            };
            for entry in &page {
                rows.push(self.found(table, entry)?);
            }
        }
        Ok(rows)
    }
}
