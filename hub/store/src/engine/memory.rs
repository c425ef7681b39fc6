//! The model: what every engine must do, in the plainest way that can be read.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{
    Condition, Direction, Engine, Engines, Entry, FORMAT, Group, Holder, Key, LoadError, Moment,
    Note, PageSize, Piece, Pieces, Range, Read, Refused, Row, Work, Write, WriteSet,
};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// Everything in memory; a commit is an assignment.
#[derive(Default)]
pub(crate) struct MemoryEngine {
    held: Arc<Held>,
    is_closed: AtomicBool,
}

/// What outlives a handle.
#[derive(Default)]
struct Held {
    /// One group at a time.
    writing: Mutex<()>,
    state: Mutex<State>,
}

impl MemoryEngine {
    fn on(held: Arc<Held>) -> Self {
        Self {
            held,
            is_closed: AtomicBool::new(false),
        }
    }

    fn current(&self) -> Result<State, EngineError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(EngineError::Io("the store is closed".into()));
        }
        Ok(self.held.current())
    }

    /// Returns a copy that goes its own way.
    pub(crate) fn fork(&self) -> Self {
        let state = Mutex::new(self.held.current());
        Self::on(Arc::new(Held {
            writing: Mutex::new(()),
            state,
        }))
    }
}

impl Held {
    fn current(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Every holder's rows in memory.
#[derive(Default)]
pub(crate) struct MemoryEngines {
    places: Mutex<BTreeMap<Holder, Place>>,
}

struct Place {
    held: Arc<Held>,
    open: Weak<MemoryEngine>,
}

impl Place {
    fn is_open(&self) -> bool {
        let open = self.open.upgrade();
        open.is_some_and(|open| !open.is_closed.load(Ordering::Acquire))
    }

    fn open(&mut self) -> Arc<MemoryEngine> {
        let engine = Arc::new(MemoryEngine::on(Arc::clone(&self.held)));
        self.open = Arc::downgrade(&engine);
        engine
    }
}

impl MemoryEngines {
    fn places(&self) -> MutexGuard<'_, BTreeMap<Holder, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed_place<R>(
        &self,
        holder: Holder,
        work: impl FnOnce(&mut Place) -> R,
    ) -> Result<R, OpenError> {
        let path = self.place(holder);
        match self.places().get_mut(&holder) {
            None => Err(OpenError::Io {
                path,
                source: io::ErrorKind::NotFound.into(),
            }),
            Some(place) if place.is_open() => Err(OpenError::InUse { path }),
            Some(place) => Ok(work(place)),
        }
    }
}

impl Engines for MemoryEngines {
    fn place(&self, holder: Holder) -> PathBuf {
        format!("memory of {holder:?}").into()
    }

    fn exists(&self, holder: Holder) -> bool {
        self.places().contains_key(&holder)
    }

    fn create(&self, holder: Holder, first: &WriteSet) -> Result<Arc<dyn Engine>, OpenError> {
        if self.exists(holder) {
            let path = self.place(holder);
            return Err(OpenError::Exists { path });
        }
        let mut place = Place {
            held: Arc::default(),
            open: Weak::new(),
        };
        let engine = place.open();
        if *first != WriteSet::default() {
            engine.apply(first).unwrap().unwrap();
        }
        self.places().insert(holder, place);
        Ok(engine)
    }

    fn load(
        &self,
        holder: Holder,
        moment: Moment,
        pieces: &mut Pieces<'_>,
    ) -> Result<(), LoadError> {
        if self.exists(holder) {
            let path = self.place(holder);
            return Err(OpenError::Exists { path }.into());
        }
        let mut state = State {
            last: moment.commit,
            format: moment.format,
            ..State::default()
        };
        while let Some(piece) = pieces()? {
            match piece {
                Piece::Rows(table, entries) => {
                    let rows = entries.into_iter().map(|e| ((table, e.key), e.row));
                    state.rows.extend(rows);
                }
                Piece::Marks(marks) => state.marks.extend(marks),
                Piece::Notes(notes) => state.notes.extend(notes),
            }
        }
        let held = Held {
            writing: Mutex::new(()),
            state: Mutex::new(state),
        };
        let place = Place {
            held: Arc::new(held),
            open: Weak::new(),
        };
        self.places().insert(holder, place);
        Ok(())
    }

    fn open(&self, holder: Holder) -> Result<Arc<dyn Engine>, OpenError> {
        let path = self.place(holder);
        let engine = self.closed_place(holder, |place| {
            let found = place.held.current().format;
            if found > FORMAT {
                let supported = FORMAT;
                return Err(OpenError::Newer {
                    path,
                    found,
                    supported,
                });
            }
            Ok(place.open())
        })??;
        Ok(engine)
    }

    fn peek(&self, holder: Holder, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError> {
        let state = self.closed_place(holder, |place| place.held.current())?;
        Ok(state.get(table, key).unwrap())
    }

    fn remove(&self, holder: Holder) -> io::Result<()> {
        let removed = self.places().remove(&holder);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

#[derive(Clone)]
struct State {
    rows: BTreeMap<(Table, Key), Row>,
    marks: BTreeMap<Key, u64>,
    notes: Vec<Note>,
    last: u64,
    format: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            marks: BTreeMap::new(),
            notes: Vec::new(),
            last: 0,
            format: FORMAT,
        }
    }
}

impl Engine for MemoryEngine {
    fn group(&self, work: &mut Work<'_>) -> Result<(), EngineError> {
        let held = &self.held;
        let _alone = held.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.current()?;
        work(&mut next)?;
        *held.state.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        Ok(Box::new(self.current()?))
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

    fn marks(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, u64)>, EngineError> {
        let behind = |key: &Key| after.is_none_or(|after| key.as_slice() > after);
        let found = self.marks.iter().filter(|(key, _)| behind(key));
        Ok(found.take(limit).map(|(k, v)| (k.clone(), *v)).collect())
    }

    fn notes(&self, since: u64, limit: usize) -> Result<Vec<Note>, EngineError> {
        let after = self.notes.iter().filter(|note| note.commit > since);
        Ok(after.take(limit).cloned().collect())
    }

    fn last_commit(&self) -> Result<u64, EngineError> {
        Ok(self.last)
    }

    fn format(&self) -> Result<u32, EngineError> {
        Ok(self.format)
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
                Write::Reseal { table, key, value } => {
                    if let Some(row) = self.rows.get_mut(&(*table, key.clone())) {
                        row.value.clone_from(value);
                    }
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
        self.format = set.format.unwrap_or(self.format);
        Ok(Ok(commit))
    }
}
