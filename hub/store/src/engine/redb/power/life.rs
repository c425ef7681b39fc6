//! A random life of an engine on a disk that loses power again and again, beside the model.
//!
//! After every cut the file must open and hold exactly what the model holds: every group that was
//! acknowledged, and of the one under way all or nothing.

use std::fmt;
use std::sync::Arc;

use super::super::RedbEngine;
use super::super::opening::Make as Opening;
use super::platter::{Dice, Make, Platter, Sync};
use super::{Tally, open, take_apart};
use crate::engine::memory::MemoryEngine;
use crate::engine::{
    Condition, Direction, Engine, Entry, Key, Note, PageSize, Range, Read, Refused, Write, WriteSet,
};
use crate::error::EngineError;
use crate::tables::Table;

/// What a cut did that it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// An acknowledged group is gone.
    Lost(String),
    /// What is stored was never the state after any group.
    Torn(String),
    /// The file does not open, or fails while there is power.
    Failed(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(what) => write!(f, "an acknowledged commit is lost: {what}"),
            Self::Torn(what) => write!(f, "a commit is torn: {what}"),
            Self::Failed(what) => write!(f, "the file failed: {what}"),
        }
    }
}

/// The tables that lives use.
const TABLES: [Table; 3] = [Table::Meta, Table::Resources, Table::Blocks];

/// Everything that can be read.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    commit: u64,
    rows: Vec<Vec<Entry>>,
    notes: Vec<Note>,
    marks: Vec<u64>,
}

fn whole(read: &dyn Read) -> Result<Whole, EngineError> {
    let all = PageSize {
        rows: usize::MAX,
        bytes: usize::MAX,
    };
    let scan = |table| read.scan(table, &Range::all(), Direction::Forward, all);
    let rows: Result<_, _> = TABLES.into_iter().map(scan).collect();
    let marks: Result<_, _> = (0..4u8).map(|mark| read.mark(&[mark])).collect();
    Ok(Whole {
        commit: read.last_commit()?,
        rows: rows?,
        notes: read.notes(0, usize::MAX)?,
        marks: marks?,
    })
}

fn key(dice: &mut Dice) -> Key {
    let n = u8::try_from(dice.below(48)).unwrap();
    vec![n % 4, n]
}

fn write(dice: &mut Dice) -> Write {
    let table = TABLES[dice.below(TABLES.len())];
    match dice.below(12) {
        0 | 1 => Write::Delete {
            table,
            key: key(dice),
        },
        2 => Write::DeleteRange {
            table,
            range: Range::prefix(&[u8::try_from(dice.below(4)).unwrap()]),
        },
        _ => {
            let most = match dice.below(60) {
                0 => 40_000,
                1..6 => 6000,
                _ => 300,
            };
            let size = dice.below(most);
            let filler = u8::try_from(dice.below(256)).unwrap();
            let (key, value) = (key(dice), vec![filler; size]);
            if dice.below(8) == 0 {
                Write::Reseal { table, key, value }
            } else {
                Write::Put { table, key, value }
            }
        }
    }
}

/// Draws a write set that may be refused.
fn set(model: &dyn Read, dice: &mut Dice) -> WriteSet {
    let mark = vec![u8::try_from(dice.below(4)).unwrap()];
    let value = model.mark(&mark).unwrap();
    let conditions = match dice.below(4) {
        0 => vec![Condition::Absent {
            table: Table::Meta,
            key: key(dice),
        }],
        1 => vec![Condition::Mark {
            key: mark.clone(),
            value: value - u64::from(value > 0 && dice.one_in(4)),
        }],
        _ => Vec::new(),
    };
    let commit = model.last_commit().unwrap();
    WriteSet {
        conditions,
        writes: (0..1 + dice.below(6)).map(|_| write(dice)).collect(),
        marks: vec![(mark, value + 1)],
        notes: vec![(Table::Meta, key(dice))],
        forget_notes: dice.one_in(6).then(|| commit.saturating_sub(4)),
        format: None,
    }
}

fn group(engine: &dyn Engine, sets: &[WriteSet]) -> Result<Vec<Result<u64, Refused>>, EngineError> {
    let mut outcomes = Vec::new();
    engine.group(&mut |group| {
        outcomes.clear();
        for set in sets {
            outcomes.push(group.apply(set)?);
        }
        Ok(())
    })?;
    Ok(outcomes)
}

/// A life in progress.
pub(super) struct Life {
    dice: Dice,
    platter: Arc<Platter>,
    /// What was acknowledged.
    model: MemoryEngine,
    /// The same with the group that was under way when the power went.
    under_way: Option<MemoryEngine>,
    /// Commits every set of a group by itself, which no engine may.
    pub(super) splits_groups: bool,
    pub(super) tally: Tally,
}

impl Life {
    /// Makes the file; from then on syncs are worth `sync`.
    pub(super) fn begin(seed: u64, sync: Sync) -> Self {
        let platter = Platter::new(Make::of_seed(seed));
        drop(open(&platter, Opening::New).unwrap());
        platter.set_sync(sync);
        Self {
            dice: Dice::new(seed),
            platter,
            model: MemoryEngine::default(),
            under_way: None,
            splits_groups: false,
            tally: Tally::default(),
        }
    }

    /// Runs to so many cuts and one opening more.
    pub(super) fn run(&mut self, cuts: usize) -> Result<(), Fault> {
        while self.tally.cuts < cuts {
            if let Some(engine) = self.wake()? {
                self.check(&engine)?;
                self.work(engine)?;
            }
            self.cut();
        }
        let engine = open(&self.platter, Opening::Existing)
            .map_err(|error| Fault::Failed(error.to_string()))?;
        self.check(&engine)
    }

    fn cut(&mut self) {
        self.platter.cut(&mut self.dice);
        self.tally.cuts += 1;
    }

    /// Opens the file; `None` if the power went meanwhile.
    fn wake(&mut self) -> Result<Option<RedbEngine>, Fault> {
        if self.dice.one_in(3) {
            self.platter.set_power(1 + self.dice.below(24));
        }
        match open(&self.platter, Opening::Existing) {
            Ok(engine) if !self.platter.is_dark() => Ok(Some(engine)),
            Ok(_) | Err(_) if self.platter.is_dark() => {
                self.tally.in_opening += 1;
                Ok(None)
            }
            Ok(_) => Ok(None),
            Err(error) => Err(Fault::Failed(error.to_string())),
        }
    }

    /// Compares what is stored with what may be stored.
    fn check(&mut self, engine: &RedbEngine) -> Result<(), Fault> {
        let failed = |error: EngineError| Fault::Failed(error.to_string());
        let found = engine.snapshot().and_then(|read| whole(&*read));
        let found = found.map_err(failed)?;
        let want = whole(&*self.model.snapshot().unwrap()).unwrap();
        if let Some(next) = self.under_way.take()
            && found == whole(&*next.snapshot().unwrap()).unwrap()
        {
            self.tally.came_through += usize::from(found != want);
            self.model = next;
            return Ok(());
        }
        if found == want {
            return Ok(());
        }
        let what = format!("found commit {}, wanted {}", found.commit, want.commit);
        Err(if found.commit < want.commit {
            Fault::Lost(what)
        } else {
            Fault::Torn(what)
        })
    }

    /// Works until the power goes.
    fn work(&mut self, mut engine: RedbEngine) -> Result<(), Fault> {
        let span = [12, 80, 400][self.dice.below(3)];
        self.platter.set_power(1 + self.dice.below(span));
        loop {
            let step = self.dice.below(32);
            let done = match step {
                0 => self.compact(engine)?,
                1 => self.close_and_open(engine)?,
                _ => self.store(engine)?,
            };
            match done {
                Some(open) => engine = open,
                None => return Ok(()),
            }
        }
    }

    /// An error with the power on is a fault; one in the dark ends the work.
    fn ended(&self, error: String) -> Result<Option<RedbEngine>, Fault> {
        if self.platter.is_dark() {
            Ok(None)
        } else {
            Err(Fault::Failed(error))
        }
    }

    fn store(&mut self, engine: RedbEngine) -> Result<Option<RedbEngine>, Fault> {
        let next = self.model.fork();
        let mut sets = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..1 + self.dice.below(3) {
            let set = set(&*next.snapshot().unwrap(), &mut self.dice);
            wanted.push(next.apply(&set).unwrap());
            sets.push(set);
        }
        let done = if self.splits_groups {
            let each = sets.chunks(1).map(|set| group(&engine, set));
            each.collect::<Result<Vec<_>, _>>()
                .map(|outcomes| outcomes.concat())
        } else {
            group(&engine, &sets)
        };
        match done {
            Ok(outcomes) if outcomes == wanted => {
                self.model = next;
                self.tally.commits += 1;
                Ok(Some(engine))
            }
            Ok(outcomes) => Err(Fault::Torn(format!("{outcomes:?} instead of {wanted:?}"))),
            Err(error) => {
                self.under_way = Some(next);
                self.ended(error.to_string())
            }
        }
    }

    fn compact(&mut self, engine: RedbEngine) -> Result<Option<RedbEngine>, Fault> {
        let done = take_apart(engine).compact();
        match done {
            Ok(moved) => self.tally.compactions += usize::from(moved),
            Err(error) => {
                self.tally.in_compaction += 1;
                return self.ended(error.to_string());
            }
        }
        self.again()
    }

    fn close_and_open(&mut self, engine: RedbEngine) -> Result<Option<RedbEngine>, Fault> {
        drop(engine);
        self.again()
    }

    fn again(&mut self) -> Result<Option<RedbEngine>, Fault> {
        match open(&self.platter, Opening::Existing) {
            Ok(engine) => {
                self.check(&engine)?;
                Ok(Some(engine))
            }
            Err(error) => {
                self.tally.in_opening += 1;
                self.ended(error.to_string())
            }
        }
    }
}
