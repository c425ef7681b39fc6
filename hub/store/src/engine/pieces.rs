//! Takes a snapshot apart into pieces that [`Engines::load`](super::Engines::load) puts together
//! again.

use super::{Direction, Key, Moment, Note, PageSize, Piece, Range, Read};
use crate::error::EngineError;
use crate::tables::Table;

/// Marks and notes of one piece.
const AT_ONCE: usize = 4096;

/// What is read next.
#[derive(Debug, Clone)]
enum At {
    /// Rows of the table with this place among those of the holder, behind a key.
    Rows(usize, Range),
    /// Marks behind a key.
    Marks(Option<Key>),
    /// The feed behind a commit, this many entries at once.
    Notes(u64, usize),
    End,
}

/// Reads a snapshot from its first row to the end of its feed, a bounded piece at a time.
pub(crate) struct Parts<'r> {
    read: &'r dyn Read,
    tables: &'static [Table],
    page: PageSize,
    at: At,
}

impl<'r> Parts<'r> {
    pub(crate) fn of(read: &'r dyn Read, tables: &'static [Table], page: PageSize) -> Self {
        Self {
            read,
            tables,
            page,
            at: At::Rows(0, Range::all()),
        }
    }

    /// Returns the numbers that go with the pieces.
    pub(crate) fn moment(&self) -> Result<Moment, EngineError> {
        Ok(Moment {
            commit: self.read.last_commit()?,
            format: self.read.format()?,
        })
    }

    /// Returns the next piece, which is not empty; `None` after the last.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Piece>, EngineError> {
        loop {
            match std::mem::replace(&mut self.at, At::End) {
                At::Rows(place, rest) => {
                    let Some(table) = self.tables.get(place) else {
                        self.at = At::Marks(None);
                        continue;
                    };
                    let forward = Direction::Forward;
                    let rows = self.read.scan(*table, &rest, forward, self.page)?;
                    let Some(last) = rows.last() else {
                        self.at = At::Rows(place + 1, Range::all());
                        continue;
                    };
                    self.at = At::Rows(place, rest.after(&last.key));
                    return Ok(Some(Piece::Rows(*table, rows)));
                }
                At::Marks(after) => {
                    let marks = self.read.marks(after.as_deref(), AT_ONCE)?;
                    let Some((last, _)) = marks.last() else {
                        self.at = At::Notes(0, AT_ONCE);
                        continue;
                    };
                    self.at = At::Marks(Some(last.clone()));
                    return Ok(Some(Piece::Marks(marks)));
                }
                At::Notes(since, size) => {
                    let mut notes = self.read.notes(since, size)?;
                    if notes.len() == size {
                        // It may end within a commit; that one is read again, whole.
                        let cut = notes.last().map_or(0, |note| note.commit);
                        notes.retain(|note: &Note| note.commit < cut);
                        if notes.is_empty() {
                            self.at = At::Notes(since, size.saturating_mul(2));
                            continue;
                        }
                    }
                    let Some(last) = notes.last() else {
                        return Ok(None);
                    };
                    self.at = At::Notes(last.commit, AT_ONCE);
                    return Ok(Some(Piece::Notes(notes)));
                }
                At::End => return Ok(None),
            }
        }
    }
}
