//! Seals the rows of one owner anew, after its keyring got another data key.
//!
//! ```text
//! page of a snapshot ─▶ rows under an older key, sealed anew ─▶ the writer's turn: those that
//!   nobody has written since take their new bytes, in place, with the cursor ─▶ next page
//! ```
//! A row that was written meanwhile is under the newest key already. A pass that has found nothing
//! to do has seen every row under the newest key, so the older ones open nothing; it is the last.
//! A pass that is cut off goes on from its cursor.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::door::Door;
use crate::engine::{Direction, Engine, Group, Key, PageSize, Range, Write, WriteSet};
use crate::error::{ApplianceError, ReadError};
use crate::seal::Sealer;
use crate::store::keyring_key;
use crate::tables::Table;
use crate::writer::Writer;

/// Rows of one step: some milliseconds of the writer's time, and a sync.
const PAGE: PageSize = PageSize {
    rows: 512,
    bytes: 1 << 20,
};

/// Steps without a row to seal after which the cursor is stored all the same.
const IDLE_STEPS: u32 = 256;

/// How long a step waits at most for an owner that has other work.
const STEP_ASIDE: Duration = Duration::from_millis(1000);

/// How often it looks whether that work is done.
const LOOK: Duration = Duration::from_millis(20);

/// Whether others have to be left room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Half of the time at most, and behind all other work.
    Background,
    /// Nobody else works on this store.
    Foreground,
}

/// Whose rows are sealed anew.
pub(crate) trait Owned: Send + Sync + 'static {
    fn engine(&self) -> &dyn Engine;
    fn writer(&self) -> &Writer;
    fn sealer(&self) -> &Sealer;
    fn door(&self) -> &Door;
    fn tables(&self) -> &'static [Table];
    /// The row of [`Table::Meta`] that holds the cursor.
    fn cursor_key(&self) -> Key;
}

/// How far the rows are sealed anew, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The number of the newest data key.
    under: u8,
    /// The table and the key behind which it goes on.
    table: u8,
    after: Option<Key>,
    /// Rows that this pass has sealed anew.
    pass: u64,
    /// Rows that all passes have.
    pub(crate) total: u64,
}

/// A row under its new key, if it still has this version.
struct Anew {
    table: Table,
    key: Key,
    version: u64,
    value: Vec<u8>,
}

/// What one step has found.
struct Step {
    rows: Vec<Anew>,
    next: Cursor,
    is_end: bool,
}

/// Reads the cursor of an owner; the default where none is stored.
pub(crate) fn cursor(owner: &impl Owned) -> Result<Cursor, ReadError> {
    let (read, sealer) = owner.sealer().with(|| owner.engine().snapshot())?;
    let view = crate::view::View::new(&*read, &sealer);
    let stored = view.row(Table::Meta, &owner.cursor_key())?;
    Ok(stored.unwrap_or_default())
}

/// Seals every row of an owner under its newest data key, which has this number. When it returns,
/// no row is under another; returns how many it has sealed anew.
///
/// # Cancel safety
///
/// Dropping the future loses no row and no more than one step of the way.
pub(crate) async fn reseal<O: Owned>(
    owner: &Arc<O>,
    under: u8,
    pace: Pace,
) -> Result<u64, ApplianceError> {
    // What was sealed under an older key before the newest was known is stored once its turn is
    // over, and every turn after this one seals with the newest.
    let turn = owner
        .writer()
        .submit(|_: &mut dyn Group| Ok(Ok::<_, ApplianceError>(())), |()| ());
    turn.await??;
    let looking = Arc::clone(owner);
    let known = owner.door().run(move || cursor(&*looking)).await?;
    let mut cursor = if known.under == under {
        known
    } else {
        Cursor {
            under,
            ..Cursor::default()
        }
    };
    let mut idle = 0;
    loop {
        let begun = Instant::now();
        let (looking, from) = (Arc::clone(owner), cursor.clone());
        let step = owner.door().run(move || step(&*looking, &from)).await?;
        let Step { rows, next, is_end } = step;
        idle = if rows.is_empty() { idle + 1 } else { 0 };
        if is_end && next.pass == 0 {
            forget_cursor(owner).await?;
            return Ok(next.total);
        }
        if !rows.is_empty() || idle % IDLE_STEPS == 0 {
            store(owner, rows, &next).await?;
        }
        cursor = next;
        if is_end {
            cursor = Cursor {
                under,
                total: cursor.total,
                ..Cursor::default()
            };
        }
        if pace == Pace::Background {
            give_way(&**owner, begun.elapsed()).await;
        }
    }
}

/// Reads on, as far as one step goes, and seals anew what is under an older key.
fn step(owner: &impl Owned, from: &Cursor) -> Result<Step, ReadError> {
    let (read, sealer) = owner.sealer().with(|| owner.engine().snapshot())?;
    let mut next = from.clone();
    let mut rows = Vec::new();
    let mut left = PAGE;
    let mut is_end = false;
    while left.rows > 0 && left.bytes > 0 {
        let mut tables = owner.tables().iter().copied();
        let Some(table) = tables.find(|table| table.number() >= next.table) else {
            is_end = true;
            break;
        };
        let range = match &next.after {
            Some(after) => Range::all().after(after),
            None => Range::all(),
        };
        let page = read.scan(table, &range, Direction::Forward, left)?;
        match page.last() {
            Some(last) => {
                next.table = table.number();
                next.after = Some(last.key.clone());
            }
            None => {
                next.table = table.number().saturating_add(1);
                next.after = None;
            }
        }
        for entry in page {
            let size = entry.key.len().saturating_add(entry.row.value.len());
            left.rows = left.rows.saturating_sub(1);
            left.bytes = left.bytes.saturating_sub(size);
            let is_keyring = table == Table::Meta && entry.key == keyring_key();
            if is_keyring || sealer.is_newest(&entry.row.value) {
                continue;
            }
            let plain = sealer.open(table, &entry.key, &entry.row.value)?;
            let plain = zeroize::Zeroizing::new(plain);
            rows.push(Anew {
                value: sealer.seal(table, &entry.key, &plain),
                table,
                key: entry.key,
                version: entry.row.version,
            });
        }
    }
    let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    next.pass = next.pass.saturating_add(count);
    next.total = next.total.saturating_add(count);
    Ok(Step { rows, next, is_end })
}

/// Stores a step in its turn.
async fn store<O: Owned>(
    owner: &Arc<O>,
    rows: Vec<Anew>,
    cursor: &Cursor,
) -> Result<(), ApplianceError> {
    let key = owner.cursor_key();
    let cursor = owner
        .sealer()
        .seal(Table::Meta, &key, &codec::encode(cursor));
    let owned = Arc::clone(owner);
    let work = move |group: &mut dyn Group| {
        let mut set = WriteSet::default();
        // It may have waited while its key became an older one itself, which goes at some point.
        if !owned.sealer().is_newest(&cursor) {
            return Ok(Ok(()));
        }
        for row in &rows {
            let stands = group.get(row.table, &row.key)?;
            if stands.is_some_and(|stands| stands.version == row.version) {
                set.writes.push(Write::Reseal {
                    table: row.table,
                    key: row.key.clone(),
                    value: row.value.clone(),
                });
            }
        }
        set.put(Table::Meta, key.clone(), cursor.clone());
        let applied = group.apply(&set)?;
        let refused = |_| ApplianceError::Conflict { what: "a row" };
        Ok(applied.map(drop).map_err(refused))
    };
    owner.writer().submit(work, |()| ()).await?
}

async fn forget_cursor<O: Owned>(owner: &Arc<O>) -> Result<(), ApplianceError> {
    let key = owner.cursor_key();
    let work = move |group: &mut dyn Group| {
        if group.get(Table::Meta, &key)?.is_some() {
            let mut set = WriteSet::default();
            set.delete(Table::Meta, key.clone());
            let applied = group.apply(&set)?;
            let refused = |_| ApplianceError::Conflict { what: "a row" };
            return Ok(applied.map(drop).map_err(refused));
        }
        Ok(Ok(()))
    };
    owner.writer().submit(work, |()| ()).await?
}

/// Waits as long as the step took, and while the owner has other work.
async fn give_way(owner: &impl Owned, took: Duration) {
    tokio::time::sleep(took).await;
    let begun = Instant::now();
    let is_busy = || owner.writer().is_busy() || owner.door().waiting() > 0;
    while is_busy() && begun.elapsed() < STEP_ASIDE {
        tokio::time::sleep(LOOK).await;
    }
}
