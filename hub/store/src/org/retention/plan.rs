//! Which rows of a class are older than a line, a page of one snapshot at a time.
//!
//! What is ordered by time goes as a range, so that the engine frees whole subtrees. What is ordered
//! by name is looked through from its beginning to its end; its keys hold the time, so that nothing
//! need be opened. A document or a step that another has followed before the line goes; the one that
//! stood at the line stays, so that everything after the line can still be told.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::is_forgettable;
use crate::engine::{Direction, Entry, Key, PageSize, Range};
use crate::error::ReadError;
use crate::keys::{block_time, time};
use crate::org::{OrgReader, StoredHeader, StoredStream, Stream};
use crate::rows::audit::{AuditEntry, AuditHead};
use crate::rows::finding::Finding;
use crate::rows::resource::StoredResource;
use crate::rows::retention::{DataClass, Tally};
use crate::tables::Table;

/// Rows that are looked at on one snapshot, and the most that go in one commit: some milliseconds
/// in which other writers wait.
const PAGE: PageSize = PageSize {
    rows: 2048,
    bytes: 4 << 20,
};

/// Streams that are looked at on one snapshot.
const STREAMS: usize = 512;

/// What goes in one commit.
pub(in crate::org) struct Portion {
    pub(super) class: DataClass,
    pub(super) part: Part,
    pub(super) tally: Tally,
}

/// Its rows.
pub(super) enum Part {
    /// All of these ranges.
    Ranges(Vec<(Table, Range)>),
    /// These rows.
    Rows(Table, Vec<Key>),
    /// These findings, if they are still over, with their lives.
    Findings(Vec<Key>),
    /// These resources, if they are still gone, with what hangs on them.
    Resources(Vec<Key>),
    /// The audit log's beginning up to and with this entry.
    Audit(AuditHead),
}

impl Portion {
    /// Says whether nothing of the page goes.
    pub(super) fn is_empty(&self) -> bool {
        self.tally.rows == 0
    }

    /// Returns the last entry that goes, of an audit log.
    pub(super) fn audit_head(&self) -> Option<AuditHead> {
        match &self.part {
            Part::Audit(head) => Some(*head),
            Part::Ranges(_) | Part::Rows(..) | Part::Findings(_) | Part::Resources(_) => None,
        }
    }
}

/// Where the look through a class has come to.
pub(super) struct Plan {
    class: DataClass,
    line: Timestamp,
    /// Whether blocks are measured, which reads them.
    measures: bool,
    stage: Stage,
    /// Where the next page begins.
    from: Key,
    streams: Option<VecDeque<Key>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    Second,
    Over,
}

impl Plan {
    pub(super) fn new(class: DataClass, line: Timestamp) -> Self {
        Self {
            class,
            line,
            measures: false,
            stage: Stage::First,
            from: Key::new(),
            streams: None,
        }
    }

    /// Counts every byte.
    pub(super) fn measuring(self) -> Self {
        Self {
            measures: true,
            ..self
        }
    }

    /// Returns what goes next, which may be nothing of a page; `None` at the end.
    pub(super) fn next(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        loop {
            let found = match (self.stage, self.class) {
                (Stage::Over, _) => return Ok(None),
                (Stage::First, DataClass::Events) => self.blocks(reader)?,
                (Stage::First, DataClass::Quarantine) => self.moments(reader, Table::Quarantine)?,
                (Stage::First, DataClass::Losses) => self.moments(reader, Table::Losses)?,
                (Stage::First, DataClass::Audit) => self.entries(reader)?,
                (Stage::First, DataClass::BatchHeaders) => self.headers(reader)?,
                (Stage::First, DataClass::ResourceHistory) => self.documents(reader)?,
                (Stage::First, DataClass::Findings) => self.steps(reader)?,
                (Stage::Second, DataClass::ResourceHistory) => self.resources(reader)?,
                (Stage::Second, DataClass::Findings) => self.findings(reader)?,
                (
                    Stage::Second,
                    DataClass::Events
                    | DataClass::Quarantine
                    | DataClass::Losses
                    | DataClass::Audit
                    | DataClass::BatchHeaders,
                ) => None,
            };
            if found.is_some() {
                return Ok(found);
            }
            self.stage = match self.stage {
                Stage::First => Stage::Second,
                Stage::Second | Stage::Over => Stage::Over,
            };
            self.from = Key::new();
        }
    }

    fn page(
        &self,
        reader: &OrgReader,
        table: Table,
        to: Option<Key>,
    ) -> Result<Vec<Entry>, ReadError> {
        let from = self.from.clone();
        let range = Range { from, to };
        if range.is_empty() {
            return Ok(Vec::new());
        }
        Ok(reader.read.scan(table, &range, Direction::Forward, PAGE)?)
    }

    fn portion(&self, part: Part, tally: Tally) -> Option<Portion> {
        let class = self.class;
        Some(Portion { class, part, tally })
    }

    /// Takes everything up to and with a key, from where the last page ended.
    fn take_to(&mut self, last: &[u8]) -> Range {
        let next = [last, &[0]].concat();
        let from = std::mem::replace(&mut self.from, next.clone());
        Range {
            from,
            to: Some(next),
        }
    }

    fn blocks(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let to = block_time(self.line).to_vec();
        let page = self.page(reader, Table::BlockIndex, Some(to))?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        let mut tally = Tally::default();
        for entry in &page {
            let mut bytes = 0;
            if self.measures {
                let block = reader.read.get(Table::Blocks, &entry.key)?;
                bytes = weight(entry) + block.map_or(0, |row| entry.key.len() + row.value.len());
            }
            tally.add(bytes, number_at(&entry.key, 0, 6));
        }
        let range = self.take_to(&last.key);
        let tables = [Table::Blocks, Table::BlockIndex];
        let ranges = tables.map(|table| (table, range.clone())).to_vec();
        Ok(self.portion(Part::Ranges(ranges), tally))
    }

    fn moments(&mut self, reader: &OrgReader, table: Table) -> Result<Option<Portion>, ReadError> {
        let page = self.page(reader, table, Some(time(self.line).to_vec()))?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        let mut tally = Tally::default();
        for entry in &page {
            tally.add(weight(entry), number_at(&entry.key, 0, 8));
        }
        let range = self.take_to(&last.key);
        Ok(self.portion(Part::Ranges(vec![(table, range)]), tally))
    }

    /// The beginning of the log as far as every entry is older. The head never goes.
    fn entries(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let head = reader.audit_head()?;
        let (mut tally, mut cut) = (Tally::default(), None);
        for row in self.page(reader, Table::Audit, None)? {
            let entry: AuditEntry = reader.view().found(Table::Audit, &row)?;
            if entry.at >= self.line || entry.seq >= head.seq {
                break;
            }
            tally.add(weight(&row), entry.at);
            let (seq, hash) = (entry.seq, entry.hash);
            cut = Some((AuditHead { seq, hash }, row.key));
        }
        let Some((head, key)) = cut else {
            return Ok(None);
        };
        self.take_to(&key);
        Ok(self.portion(Part::Audit(head), tally))
    }

    /// Headers of one stream after the other: in each they stand in the order of their receipt.
    fn headers(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let mut streams = match self.streams.take() {
            Some(streams) => streams,
            None => streams_of(reader)?,
        };
        let view = reader.view();
        let is_old = |entry: &Entry| -> Result<Option<Timestamp>, ReadError> {
            let header: StoredHeader = view.found(Table::Batches, entry)?;
            Ok(Some(header.received_at).filter(|at| *at < self.line))
        };
        let mut taken = None;
        let mut looked = 0;
        while let Some(stream) = streams.front()
            && taken.is_none()
            && looked < STREAMS
        {
            looked += 1;
            let within = Range::prefix(stream);
            let range = Range {
                from: self.from.clone().max(within.from),
                to: within.to,
            };
            let rows = |page| {
                let direction = Direction::Forward;
                reader.read.scan(Table::Batches, &range, direction, page)
            };
            let mut tally = Tally::default();
            let mut last = None;
            // Most streams have nothing old: one row says so.
            let first = rows(PageSize::rows(1))?;
            let begins_old = match first.first() {
                Some(first) => is_old(first)?.is_some(),
                None => false,
            };
            if begins_old {
                for entry in rows(PAGE)? {
                    let Some(at) = is_old(&entry)? else { break };
                    tally.add(weight(&entry), at);
                    last = Some(entry.key);
                }
            }
            match last {
                Some(last) => {
                    let next = [last.as_slice(), &[0]].concat();
                    let gone = Range {
                        from: range.from,
                        to: Some(next.clone()),
                    };
                    taken = Some((next, gone, tally));
                }
                None => {
                    streams.pop_front();
                }
            }
        }
        let is_end = streams.is_empty();
        self.streams = Some(streams);
        if let Some((next, range, tally)) = taken {
            self.from = next;
            return Ok(self.portion(Part::Ranges(vec![(Table::Batches, range)]), tally));
        }
        if is_end {
            return Ok(None);
        }
        Ok(self.portion(Part::Ranges(Vec::new()), Tally::default()))
    }

    fn documents(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let page = self.page(reader, Table::ResourceHistory, None)?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        let (mut tally, mut keys) = (Tally::default(), Vec::new());
        for entry in &page {
            let until = number_at(&entry.key, 32, 8);
            if until < self.line {
                tally.add(weight(entry), until);
                keys.push(entry.key.clone());
            }
        }
        self.take_to(&last.key);
        Ok(self.portion(Part::Rows(Table::ResourceHistory, keys), tally))
    }

    fn resources(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let page = self.page(reader, Table::Resources, None)?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        let (mut tally, mut keys) = (Tally::default(), Vec::new());
        for entry in &page {
            let row: StoredResource = reader.view().found(Table::Resources, entry)?;
            if let Some(at) = row.retired_at.filter(|at| *at < self.line) {
                tally.add(weight(entry), at);
                keys.push(entry.key.clone());
            }
        }
        self.take_to(&last.key);
        Ok(self.portion(Part::Resources(keys), tally))
    }

    /// Steps that another step of the same finding has followed before the line.
    fn steps(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let page = self.page(reader, Table::FindingHistory, None)?;
        let (Some(last), true) = (page.last(), page.len() > 1) else {
            return Ok(None);
        };
        let (mut tally, mut keys) = (Tally::default(), Vec::new());
        for (step, next) in page.iter().zip(page.iter().skip(1)) {
            let is_of_one = step.key.get(..16) == next.key.get(..16);
            if is_of_one && number_at(&next.key, 16, 8) < self.line {
                tally.add(weight(step), number_at(&step.key, 16, 8));
                keys.push(step.key.clone());
            }
        }
        // The last one's successor is on the next page.
        self.from = last.key.clone();
        Ok(self.portion(Part::Rows(Table::FindingHistory, keys), tally))
    }

    fn findings(&mut self, reader: &OrgReader) -> Result<Option<Portion>, ReadError> {
        let page = self.page(reader, Table::Findings, None)?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        let (mut tally, mut keys) = (Tally::default(), Vec::new());
        for entry in &page {
            let row: Finding = reader.view().found(Table::Findings, entry)?;
            if let Some(at) = row.resolved_at.filter(|_| is_forgettable(&row, self.line)) {
                tally.add(weight(entry), at);
                keys.push(entry.key.clone());
            }
        }
        self.take_to(&last.key);
        Ok(self.portion(Part::Findings(keys), tally))
    }
}

/// Returns the keys of every stream, in order.
fn streams_of(reader: &OrgReader) -> Result<VecDeque<Key>, ReadError> {
    let rows: Vec<StoredStream> = reader.view().all(Table::Streams, &Range::all())?;
    let mut keys: Vec<Key> = rows
        .into_iter()
        .map(|row| {
            reader.org.names.stream(Stream {
                agent: row.agent,
                lane: row.lane,
                epoch: row.epoch,
            })
        })
        .collect();
    // The place in one stream is a place behind all of those before it.
    keys.sort();
    Ok(keys.into())
}

/// Returns the sealed size of a row with its key, in bytes.
fn weight(entry: &Entry) -> usize {
    entry.key.len() + entry.row.value.len()
}

/// Returns the instant that stands at a place of a key, in milliseconds. What is no instant counts
/// as later than all: it does not go.
fn number_at(key: &[u8], place: usize, bytes: usize) -> Timestamp {
    let number = key.get(place..place + bytes).map(|part| {
        part.iter()
            .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte))
    });
    number
        .and_then(|ms| i64::try_from(ms).ok())
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_holds_no_instant_is_never_old() {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(number_at(&[&[1; 16], &time(at)[..]].concat(), 16, 8), at);
        assert_eq!(number_at(&block_time(at), 0, 6), at);
        for odd in [&[][..], &[0; 7], &[0xff; 8]] {
            assert_eq!(number_at(odd, 0, 8), Timestamp::MAX);
        }
    }
}
