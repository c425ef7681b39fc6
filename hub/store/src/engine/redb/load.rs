//! Fills a new file with the rows of another.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Durability, WriteTransaction};

use super::disk::Health;
use super::group::{Rows, put_note, put_row};
use super::opening::words;
use super::{ENGINE, KEY_COMMIT, KEY_FORMAT, MARKS, NOTES, RedbEngine, not_written, rows};
use crate::engine::{LoadError, Moment, Note, Piece, Pieces};
use crate::error::EngineError;

/// Bytes of one transaction: pages that wait for its commit are in memory.
const STEP_BYTES: usize = 32 << 20;

/// Writes every piece, then the numbers, which make the whole durable.
pub(super) fn fill(
    made: &RedbEngine,
    path: &Path,
    moment: Moment,
    pieces: &mut Pieces<'_>,
) -> Result<(), LoadError> {
    let failed = |error: EngineError| LoadError::Open(not_written(path, &error));
    let (database, health) = made.current().map_err(failed)?;
    let health = &*health;
    let begin = || -> Result<WriteTransaction, EngineError> {
        let mut txn = database.begin_write().map_err(|e| health.explain(&e))?;
        txn.set_durability(Durability::None)
            .map_err(|e| health.explain(&e))?;
        Ok(txn)
    };
    let mut run = || -> Result<(), LoadError> {
        let mut is_over = false;
        while !is_over {
            let txn = begin().map_err(failed)?;
            let mut bytes = 0;
            while bytes < STEP_BYTES {
                let Some(piece) = pieces()? else {
                    is_over = true;
                    break;
                };
                bytes += write(&txn, &piece, health).map_err(failed)?;
            }
            let committed = txn.commit().map_err(|e| health.explain(&e));
            committed.map_err(failed)?;
        }
        let end = || -> Result<(), EngineError> {
            let mut txn = database.begin_write().map_err(|e| health.explain(&e))?;
            txn.set_quick_repair(true);
            {
                let mut engine = txn.open_table(ENGINE).map_err(|e| health.explain(&e))?;
                let numbers = [
                    (KEY_COMMIT, moment.commit),
                    (KEY_FORMAT, u64::from(moment.format)),
                ];
                for (key, number) in numbers {
                    engine.insert(key, number).map_err(|e| health.explain(&e))?;
                }
            }
            txn.commit().map_err(|e| health.explain(&e))
        };
        end().map_err(failed)
    };
    catch_unwind(AssertUnwindSafe(&mut run)).unwrap_or_else(|panic| {
        let reason = format!("panic while writing: {}", words(&*panic));
        Err(failed(EngineError::Fatal(reason)))
    })
}

/// Writes a piece and returns about how many bytes it had.
fn write(txn: &WriteTransaction, piece: &Piece, health: &Health) -> Result<usize, EngineError> {
    /// Bytes of a row or an entry beside its key and value.
    const BESIDE: usize = 16;
    let mut bytes = 0;
    match piece {
        Piece::Rows(table, entries) => {
            let mut table: Rows<'_> = txn
                .open_table(rows(*table))
                .map_err(|e| health.explain(&e))?;
            for entry in entries {
                let row = &entry.row;
                put_row(&mut table, &entry.key, row.version, &row.value, health)?;
                bytes += entry.key.len() + row.value.len() + BESIDE;
            }
        }
        Piece::Marks(marks) => {
            let mut table = txn.open_table(MARKS).map_err(|e| health.explain(&e))?;
            for (key, value) in marks {
                table
                    .insert(key.as_slice(), value)
                    .map_err(|e| health.explain(&e))?;
                bytes += key.len() + BESIDE;
            }
        }
        Piece::Notes(notes) => {
            let mut table: Rows<'_> = txn.open_table(NOTES).map_err(|e| health.explain(&e))?;
            let mut places: BTreeMap<u64, u32> = BTreeMap::new();
            for Note {
                commit,
                table: of,
                key,
            } in notes
            {
                let next = places.entry(*commit).or_default();
                put_note(&mut table, (*commit, *next), *of, key, health)?;
                *next += 1;
                bytes += key.len() + BESIDE;
            }
        }
    }
    Ok(bytes)
}
