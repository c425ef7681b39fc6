//! The seam: what a storage engine does for one holder of rows (an organisation or the appliance).
//!
//! An engine sees tables, keys and sealed values, nothing else. It applies write sets atomically
//! and durably, each under its own conditions; it reads from snapshots; it numbers the write sets
//! it has accepted, and every row remembers the number that last wrote it. There is no join, and no
//! transaction over two holders can be written down: a call names one engine, an engine one holder.
//!
//! [`Engines`] makes and opens them. [`crate::store`] gets one and names no other part of an engine,
//! so a further engine is a module beside [`redb`] and one line there. What it must provide:
//!
//! - keys and ranges in the order of their bytes (for PostgreSQL `bytea`, never a collated text);
//!   keys of 0 to 3,000 bytes, values to 64 MiB, empty ones too
//! - one group at a time per holder, or the same effect: a group that lost a race is run again, so
//!   [`Work`] may be called more than once and callers keep nothing of an earlier call
//! - commit numbers without gaps, one per applied set, that a failed group gives back (a counter
//!   row, not a sequence), and the version of every row
//! - durability before [`Engine::group`] returns (`synchronous_commit = on`, and no replica that
//!   may be promoted without it); where the outcome of a commit is unknown, as after a lost
//!   connection, it finds out by the last commit number or answers [`EngineError::Fatal`]
//! - rows that are sealed anew in their place, with the version that they had ([`Write::Reseal`])
//! - snapshots that show one commit for as long as they are held (`REPEATABLE READ`)
//! - a number for each holder that says the format of its rows ([`FORMAT`])
//! - a second opening of the same holder refused while the first is open (an advisory lock whose
//!   loss is `Fatal`)
//!
//! Every engine must pass the suite in [`conformance`]: a [`Engines`] of its own in
//! `conformance/bench.rs`, and each case runs on it.

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod pieces;
pub(crate) mod redb;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::OrgId;

use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// The newest format of what tables hold that this program reads, and the one that it writes. Each
/// holder has its number, in the clear, so that a newer one is refused before a byte is changed; an
/// older one is brought up by [`crate::migrate`].
pub(crate) const FORMAT: u32 = 1;

/// Whose rows an engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Appliance,
    Org(OrgId),
}

impl Holder {
    /// The tables that its engine has.
    pub(crate) const fn tables(self) -> &'static [Table] {
        match self {
            Self::Appliance => Table::APPLIANCE,
            Self::Org(_) => Table::ORG,
        }
    }
}

/// Where engines come from: one for each holder.
pub(crate) trait Engines: Send + Sync + 'static {
    /// Where a holder's rows lie: a file, or another name that an operator can follow.
    fn place(&self, holder: Holder) -> PathBuf;

    /// Says whether a holder has rows.
    fn exists(&self, holder: Holder) -> bool;

    /// Makes a holder's place with its first rows, all or nothing, durably, and opens it. One that
    /// exists is refused and stays as it is.
    fn create(&self, holder: Holder, first: &WriteSet) -> Result<Arc<dyn Engine>, OpenError>;

    /// Makes a holder's place with rows that another one had, versions, marks, feed and numbers as
    /// they were, all or nothing, durably; it is not opened. One that exists is refused and stays
    /// as it is. Nothing is there when `pieces` stops.
    fn load(
        &self,
        holder: Holder,
        moment: Moment,
        pieces: &mut Pieces<'_>,
    ) -> Result<(), LoadError>;

    /// Opens what [`Engines::create`] or [`Engines::load`] made, with every acknowledged write set.
    /// `InUse` while it is open elsewhere, `Newer` without a change where its format is.
    fn open(&self, holder: Holder) -> Result<Arc<dyn Engine>, OpenError>;

    /// Returns a row of a holder that is not open, changing nothing. `None` also where only an
    /// opening could tell.
    fn peek(&self, holder: Holder, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError>;

    /// Removes a holder's rows, which must not be open.
    fn remove(&self, holder: Holder) -> io::Result<()>;

    /// Gives back what open engines hold that were not used for so long: files, caches,
    /// connections. The next call takes them again. Returns how many it were.
    fn rest_idle(&self, _idle: Duration) -> usize {
        0
    }

    /// Returns how many organisations' files are open.
    fn open_files(&self) -> usize {
        0
    }

    /// Returns how many bytes the caches of what is open may take.
    fn cache_bytes(&self) -> usize {
        0
    }

    /// Returns how many bytes a holder takes on the disk.
    fn bytes(&self, _holder: Holder) -> io::Result<u64> {
        Ok(0)
    }
}

/// The numbers of a holder at one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Of the last accepted write set.
    pub(crate) commit: u64,
    /// Of what the tables hold.
    pub(crate) format: u32,
}

/// Some of what a holder had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Rows of a table, with their versions.
    Rows(Table, Vec<Entry>),
    Marks(Vec<(Key, u64)>),
    /// The feed of changes, whole commits, oldest first.
    Notes(Vec<Note>),
}

/// Whoever gives the pieces stopped, and knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

/// Gives one piece after another, then `None`.
pub(crate) type Pieces<'p> = dyn FnMut() -> Result<Option<Piece>, Stopped> + 'p;

/// Why a holder was not loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// Its pieces stopped.
    Stopped,
    /// The engine failed.
    Open(OpenError),
}

impl From<Stopped> for LoadError {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<OpenError> for LoadError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// A row key, built in [`crate::keys`].
pub(crate) type Key = Vec<u8>;

/// A stored value with the number of the write set that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) version: u64,
    pub(crate) value: Vec<u8>,
}

/// A row with its key, as a scan returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) row: Row,
}

/// Keys from `from` (inclusive) to `to` (exclusive; `None` for the table's end).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Range {
    pub(crate) from: Key,
    pub(crate) to: Option<Key>,
}

impl Range {
    /// The whole table.
    pub(crate) fn all() -> Self {
        Self::default()
    }

    /// Every key that begins with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        let mut to = prefix.to_vec();
        while let Some(last) = to.pop() {
            if let Some(next) = last.checked_add(1) {
                to.push(next);
                return Self {
                    from: prefix.to_vec(),
                    to: Some(to),
                };
            }
        }
        Self {
            from: prefix.to_vec(),
            to: None,
        }
    }

    /// Narrows the range to the keys after `key`.
    pub(crate) fn after(mut self, key: &[u8]) -> Self {
        let mut next = key.to_vec();
        next.push(0);
        self.from = self.from.max(next);
        self
    }

    /// Narrows the range to the keys before `key`.
    pub(crate) fn before(mut self, key: &[u8]) -> Self {
        self.to = Some(match self.to {
            Some(to) => to.min(key.to_vec()),
            None => key.to_vec(),
        });
        self
    }

    /// Says whether a key lies in it.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && self.to.as_ref().is_none_or(|to| key < to.as_slice())
    }

    /// Says whether no key can lie in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// Which end of a range a scan begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Bounds of one page of a scan: it ends at whichever is reached first, after at least one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageSize {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

impl PageSize {
    /// Enough rows to hide the cost of a call, few enough bytes to hold many pages at once.
    pub(crate) const USUAL: Self = Self {
        rows: 512,
        bytes: 4 << 20,
    };

    /// Pages of at most `rows` rows.
    pub(crate) fn rows(rows: usize) -> Self {
        Self {
            rows,
            ..Self::USUAL
        }
    }
}

/// What must hold for a write set to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The row does not exist.
    Absent { table: Table, key: Key },
    /// The row was last written by this write set.
    Version {
        table: Table,
        key: Key,
        version: u64,
    },
    /// The mark has this value; one that was never set has 0.
    Mark { key: Key, value: u64 },
}

/// One change of a write set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    Put {
        table: Table,
        key: Key,
        value: Vec<u8>,
    },
    /// Other bytes for the same row: it keeps its version. Where there is no row, nothing happens.
    Reseal {
        table: Table,
        key: Key,
        value: Vec<u8>,
    },
    Delete {
        table: Table,
        key: Key,
    },
    DeleteRange {
        table: Table,
        range: Range,
    },
}

/// Changes that happen together or not at all, if every condition holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WriteSet {
    pub(crate) conditions: Vec<Condition>,
    /// Applied in order.
    pub(crate) writes: Vec<Write>,
    /// Numbers in the clear that a condition can ask for: high-water marks.
    pub(crate) marks: Vec<(Key, u64)>,
    /// Rows to be named in the feed of changes under this write set's number.
    pub(crate) notes: Vec<(Table, Key)>,
    /// Forgets the feed up to and with this number.
    pub(crate) forget_notes: Option<u64>,
    /// The tables hold another format from now on.
    pub(crate) format: Option<u32>,
}

impl WriteSet {
    pub(crate) fn put(&mut self, table: Table, key: Key, value: Vec<u8>) {
        self.writes.push(Write::Put { table, key, value });
    }

    pub(crate) fn delete(&mut self, table: Table, key: Key) {
        self.writes.push(Write::Delete { table, key });
    }
}

/// Which condition did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A row exists, or has another version.
    Row { table: Table },
    /// A mark has this value.
    Mark { current: u64 },
}

/// One entry of the feed of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// The write set that wrote it.
    pub(crate) commit: u64,
    pub(crate) table: Table,
    pub(crate) key: Key,
}

/// Reads, all of one moment.
pub(crate) trait Read {
    /// Returns a row.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, EngineError>;

    /// Returns the next rows of a range, in key order from the end that `direction` names. Fewer
    /// than a page only at the range's end; the caller continues behind the last key.
    fn scan(
        &self,
        table: Table,
        range: &Range,
        direction: Direction,
        page: PageSize,
    ) -> Result<Vec<Entry>, EngineError>;

    /// Returns a mark; 0 if it was never set.
    fn mark(&self, key: &[u8]) -> Result<u64, EngineError>;

    /// Returns the marks that were ever set, in the order of their keys, from the one behind
    /// `after`; at most `limit`.
    fn marks(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Key, u64)>, EngineError>;

    /// Returns the feed after write set `since`, oldest first, at most `limit` entries.
    fn notes(&self, since: u64, limit: usize) -> Result<Vec<Note>, EngineError>;

    /// Returns the number of the last accepted write set; 0 before the first.
    fn last_commit(&self) -> Result<u64, EngineError>;

    /// Returns the format of what the tables hold.
    fn format(&self) -> Result<u32, EngineError>;
}

/// Write sets that share one durable commit. Reads see what was applied before.
pub(crate) trait Group: Read {
    /// Applies a write set if its conditions hold, and returns its number; a refused one changes
    /// nothing and takes no number.
    ///
    /// An error of the engine ends the whole group: nothing of it will be stored.
    fn apply(&mut self, set: &WriteSet) -> Result<Result<u64, Refused>, EngineError>;
}

/// The work of a group. May be called again by an engine that has to retry.
pub(crate) type Work<'w> = dyn FnMut(&mut dyn Group) -> Result<(), EngineError> + 'w;

/// How much of its place an engine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of it that hold rows; the rest is free, and used again before the file grows.
    pub live_bytes: u64,
}

/// What compacting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Bytes of the file before.
    pub before_bytes: u64,
    /// Bytes of the file after.
    pub after_bytes: u64,
}

/// A storage engine for one holder.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Runs `work` and makes everything it applied durable, at once, before it returns. When it
    /// returns an error, nothing of the group is stored, unless the error is
    /// [`EngineError::Fatal`]: then that is unknown, and the process must end.
    fn group(&self, work: &mut Work<'_>) -> Result<(), EngineError>;

    /// Returns a view of the last commit that later ones do not change.
    fn snapshot(&self) -> Result<Box<dyn Read>, EngineError>;

    /// Says how much of its place it uses. Reads all of it. `None` where nothing is to be gained by
    /// [`Engine::compact`].
    fn usage(&self) -> Result<Option<Usage>, EngineError> {
        Ok(None)
    }

    /// Gives space that it does not use back to the system. For that nobody may hold a snapshot: it
    /// waits for those that are held, at most so long; `None` when that was too short. Everybody
    /// else's calls wait while it works.
    fn compact(&self, _patience: Duration) -> Result<Option<Compacted>, EngineError> {
        Ok(Some(Compacted::default()))
    }

    /// Closes it. Later calls fail; snapshots that are held show their commit to their end.
    fn close(&self);

    /// Applies one write set, durably.
    fn apply(&self, set: &WriteSet) -> Result<Result<u64, Refused>, EngineError> {
        let mut outcome = Ok(0);
        self.group(&mut |group| {
            outcome = group.apply(set)?;
            Ok(())
        })?;
        Ok(outcome)
    }
}

/// Calls `visit` with every row of a range until it returns `Break`, page by page.
pub(crate) fn each<B, E: From<EngineError>>(
    read: &dyn Read,
    table: Table,
    range: &Range,
    direction: Direction,
    mut visit: impl FnMut(Entry) -> Result<std::ops::ControlFlow<B>, E>,
) -> Result<Option<B>, E> {
    let mut rest = range.clone();
    while !rest.is_empty() {
        let page = read.scan(table, &rest, direction, PageSize::USUAL)?;
        let Some(last) = page.last() else { break };
        rest = match direction {
            Direction::Forward => rest.after(&last.key),
            Direction::Backward => rest.before(&last.key),
        };
        for entry in page {
            if let std::ops::ControlFlow::Break(value) = visit(entry)? {
                return Ok(Some(value));
            }
        }
    }
    Ok(None)
}
