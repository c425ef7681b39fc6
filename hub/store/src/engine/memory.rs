//! The model: what every engine must do, in the plainest way that can be read.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{
    Condition, Direction, Engine, Entry, Group, Key, Note, PageSize, Range, Read, Refused, Row,
    Work, Write, WriteSet,
};
use crate::error::EngineError;
use crate::tables::Table;

/// Everything in memory; a commit is an assignment.
#[derive(Default)]
pub(crate) struct MemoryEngine {
    /// One group at a time.
    writing: Mutex<()>,
    state: Mutex<State>,
}

impl MemoryEngine {
    fn current(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns a copy that goes its own way.
    pub(crate) fn fork(&self) -> Self {
        Self {
            writing: Mutex::new(()),
            state: Mutex::new(self.current()),
        }
    }
}

#[derive(Clone, Default)]
struct State {
    rows: BTreeMap<(Table, Key), Row>,
    marks: BTreeMap<Key, u64>,
    notes: Vec<Note>,
    last: u64,
}

impl Engine for MemoryEngine {
    fn group(&self, work: &mut Work<'_>) -> Result<(), EngineError> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.current();
        work(&mut next)?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn close(&self) {}

    fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        Ok(Box::new(self.current()))
    }
}

impl Read for State {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, EngineError> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        range: &Range,
        direction: Direction,
        page: PageSize,
    ) -> Result<Vec<Entry>, EngineError> {
        let found = self
            .rows
            .iter()
            .filter(|((of, key), _)| *of == table && range.contains(key));
        let mut all: Vec<Entry> = found
            .map(|((_, key), row)| Entry {
                key: key.clone(),
                row: row.clone(),
            })
            .collect();
        if direction == Direction::Backward {
            all.reverse();
        }
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in all {
            if taken.len() == page.rows || (bytes >= page.bytes && !taken.is_empty()) {
                break;
            }
            bytes += entry.key.len() + entry.row.value.len();
            taken.push(entry);
        }
        Ok(taken)
    }

    fn mark(&self, key: &[u8]) -> Result<u64, EngineError> {
        Ok(self.marks.get(key).copied().unwrap_or(0))
    }

    fn notes(&self, since: u64, limit: usize) -> Result<Vec<Note>, EngineError> {
        let after = self.notes.iter().filter(|note| note.commit > since);
        Ok(after.take(limit).cloned().collect())
    }

    fn last_commit(&self) -> Result<u64, EngineError> {
        Ok(self.last)
    }
}

impl Group for State {
    fn apply(&mut self, set: &WriteSet) -> Result<Result<u64, Refused>, EngineError> {
        for condition in &set.conditions {
            let refused = match condition {
                Condition::Absent { table, key } => self
                    .get(*table, key)?
                    .map(|_| Refused::Row { table: *table }),
                Condition::Version {
                    table,
                    key,
                    version,
                } => {
                    let found = self.get(*table, key)?.map(|row| row.version);
                    (found != Some(*version)).then_some(Refused::Row { table: *table })
                }
                Condition::Mark { key, value } => {
                    let current = self.mark(key)?;
                    (current != *value).then_some(Refused::Mark { current })
                }
            };
            if let Some(refused) = refused {
                return Ok(Err(refused));
            }
        }
        self.last += 1;
        for write in &set.writes {
            match write {
                Write::Put { table, key, value } => {
                    let row = Row {
                        version: self.last,
                        value: value.clone(),
                    };
                    self.rows.insert((*table, key.clone()), row);
                }
                Write::Delete { table, key } => {
                    self.rows.remove(&(*table, key.clone()));
                }
                Write::DeleteRange { table, range } => {
                    self.rows
                        .retain(|(of, key), _| of != table || !range.contains(key));
                }
            }
        }
        self.marks.extend(set.marks.iter().cloned());
        let commit = self.last;
        let notes = set.notes.iter().cloned();
        self.notes
            .extend(notes.map(|(table, key)| Note { commit, table, key }));
        if let Some(up_to) = set.forget_notes {
            self.notes.retain(|note| note.commit > up_to);
        }
        Ok(Ok(commit))
    }
}
