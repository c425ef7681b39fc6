//! Power cuts, failing syncs, full disks and rubbish, on a disk of our own.
//!
//! The disk holds what was synced apart from what was only written. A cut keeps any part of the
//! latter, in any order, the last write torn: what a disk with a cache may do.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Medium;
use super::opening::Make;
use super::{Opener, RedbEngine};
use crate::engine::{Condition, Direction, Engine, PageSize, Range, WriteSet};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// A small generator of the same numbers for the same seed (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % bound.max(1)
    }
}

enum Pending {
    Write(usize, Vec<u8>),
    Len(usize),
}

struct Bytes {
    /// What survives a cut.
    durable: Vec<u8>,
    /// What reads show.
    current: Vec<u8>,
    pending: Vec<Pending>,
    /// Operations until the power goes.
    power: usize,
    capacity: usize,
    sync: Sync,
}

#[derive(Clone, Copy, PartialEq)]
enum Sync {
    Works,
    /// Says that it worked and does nothing.
    Lies,
    Fails,
}

/// A disk.
struct Platter(Mutex<Bytes>);

impl std::fmt::Debug for Platter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Platter")
    }
}

fn apply(bytes: &mut Vec<u8>, pending: &Pending) {
    match pending {
        Pending::Len(len) => bytes.resize(*len, 0),
        Pending::Write(at, data) => {
            let end = at + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(data);
        }
    }
}

impl Platter {
    fn new(sync: Sync) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Bytes {
            durable: Vec::new(),
            current: Vec::new(),
            pending: Vec::new(),
            power: usize::MAX,
            capacity: usize::MAX,
            sync,
        })))
    }

    fn bytes(&self) -> std::sync::MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one operation's worth of power.
    fn burn(bytes: &mut Bytes) -> io::Result<()> {
        bytes.power = bytes.power.saturating_sub(1);
        if bytes.power == 0 {
            Err(io::Error::other("no power"))
        } else {
            Ok(())
        }
    }

    /// Cuts the power: of what was not synced, any part stays. Power returns.
    fn cut(&self, dice: &mut Dice) {
        const SECTOR: usize = 512;
        let mut bytes = self.bytes();
        let pending = std::mem::take(&mut bytes.pending);
        let mut durable = std::mem::take(&mut bytes.durable);
        let keeps = dice.below(4);
        for op in &pending {
            let is_kept = match keeps {
                0 => false,
                1 => true,
                _ => dice.below(2) == 0,
            };
            if !is_kept {
                continue;
            }
            if let Pending::Write(at, data) = op
                && dice.below(8) == 0
            {
                // Torn at a sector: a disk writes those whole.
                let kept = data.len().min(SECTOR * dice.below(data.len() / SECTOR + 1));
                apply(&mut durable, &Pending::Write(*at, data[..kept].to_vec()));
            } else {
                apply(&mut durable, op);
            }
        }
        bytes.current.clone_from(&durable);
        bytes.durable = durable;
        bytes.power = usize::MAX;
    }
}

impl Medium for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.bytes().current.len()).unwrap())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes();
        let at = usize::try_from(offset).unwrap();
        let found = bytes.current.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        Self::burn(&mut bytes)?;
        let at = usize::try_from(offset).unwrap();
        if at + data.len() > bytes.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let op = Pending::Write(at, data.to_vec());
        apply(&mut bytes.current, &op);
        bytes.pending.push(op);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        Self::burn(&mut bytes)?;
        let len = usize::try_from(len).unwrap();
        if len > bytes.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let op = Pending::Len(len);
        apply(&mut bytes.current, &op);
        bytes.pending.push(op);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut bytes = self.bytes();
        Self::burn(&mut bytes)?;
        match bytes.sync {
            Sync::Lies => Ok(()),
            Sync::Fails => Err(io::Error::other("bad sector")),
            Sync::Works => {
                bytes.pending.clear();
                bytes.durable = bytes.current.clone();
                Ok(())
            }
        }
    }
}

/// Opens an engine on a disk.
fn open(platter: &Arc<Platter>, make: Make) -> Result<RedbEngine, OpenError> {
    let medium = Arc::clone(platter);
    let opener: Opener = Box::new(move |_| {
        let medium: Arc<dyn Medium> = medium.clone();
        Ok(medium)
    });
    // No cache, so that reads come from the disk.
    RedbEngine::on(Path::new("platter"), Table::ORG, 0, opener, make)
}

const ROWS: u64 = 8;

/// The n-th batch: some rows of its own, one that all share, and the mark.
fn batch(n: u64) -> WriteSet {
    let mut set = WriteSet {
        conditions: vec![Condition::Mark {
            key: b"mark".to_vec(),
            value: n - 1,
        }],
        marks: vec![(b"mark".to_vec(), n)],
        ..WriteSet::default()
    };
    for row in 0..ROWS {
        let key = [n.to_be_bytes(), row.to_be_bytes()].concat();
        let size = 50 + usize::try_from(n * 37 % 900).unwrap();
        set.put(
            Table::Resources,
            key,
            vec![u8::try_from(n % 251).unwrap(); size],
        );
    }
    set.put(Table::Meta, b"last".to_vec(), n.to_be_bytes().to_vec());
    set.notes.push((Table::Meta, n.to_be_bytes().to_vec()));
    set
}

/// Checks that what is stored is exactly the batches up to some number, and returns it.
fn stored(engine: &RedbEngine) -> Result<u64, String> {
    let read = engine.snapshot().map_err(|e| e.to_string())?;
    let last = read.mark(b"mark").map_err(|e| e.to_string())?;
    let commit = read.last_commit().map_err(|e| e.to_string())?;
    let notes = read.notes(0, usize::MAX).map_err(|e| e.to_string())?;
    let big = PageSize {
        rows: usize::MAX,
        bytes: usize::MAX,
    };
    let rows = read
        .scan(Table::Resources, &Range::all(), Direction::Forward, big)
        .map_err(|e| e.to_string())?;
    let mut want = Vec::new();
    for n in 1..=last {
        for write in batch(n).writes {
            if let crate::engine::Write::Put {
                table: Table::Resources,
                key,
                value,
            } = write
            {
                want.push((key, n, value));
            }
        }
    }
    let found: Vec<_> = rows
        .into_iter()
        .map(|entry| (entry.key, entry.row.version, entry.row.value))
        .collect();
    if found != want {
        return Err(format!("{} rows instead of {}", found.len(), want.len()));
    }
    let shared = read.get(Table::Meta, b"last").map_err(|e| e.to_string())?;
    let shared = shared.map_or(0, |row| u64::from_be_bytes(row.value.try_into().unwrap()));
    let count = u64::try_from(notes.len()).unwrap();
    if [commit, shared, count] != [last; 3] {
        return Err(format!(
            "mark {last}, commit {commit}, row {shared}, notes {count}"
        ));
    }
    Ok(last)
}

/// Writes batches until the power goes; returns the last that was acknowledged.
fn until_dark(engine: &RedbEngine, mut last: u64) -> u64 {
    while let Ok(done) = engine.apply(&batch(last + 1)) {
        done.unwrap();
        last += 1;
    }
    last
}

/// Runs some cuts under one seed; says what was lost or torn.
fn cuts(seed: u64, sync: Sync) -> Result<u64, String> {
    let mut dice = Dice(seed * 0x9e37_79b9 + 1);
    let platter = Platter::new(Sync::Works);
    drop(open(&platter, Make::New).unwrap());
    platter.bytes().sync = sync;
    let mut acknowledged = 0;
    for _ in 0..4 {
        let engine = open(&platter, Make::Existing).map_err(|e| e.to_string())?;
        let found = stored(&engine)?;
        // One that was not acknowledged may have come through all the same, but whole.
        if found != acknowledged && found != acknowledged + 1 {
            return Err(format!("{found} stored of {acknowledged} acknowledged"));
        }
        platter.bytes().power = 2 + dice.below(250);
        acknowledged = until_dark(&engine, found);
        drop(engine);
        platter.cut(&mut dice);
    }
    Ok(acknowledged)
}

#[test]
fn a_power_cut_loses_no_acknowledged_commit_and_tears_none() {
    let mut total = 0;
    for seed in 0..60 {
        total += cuts(seed, Sync::Works).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(total > 60, "only {total} commits were tried");
}

#[test]
fn a_disk_whose_sync_lies_is_found_out_by_the_same_test() {
    let found_out = (0..60)
        .filter(|seed| cuts(*seed, Sync::Lies).is_err())
        .count();
    assert!(
        found_out > 30,
        "only {found_out} of 60 lying disks were found out"
    );
}

#[test]
fn a_failed_sync_is_fatal_and_stays_so() {
    let platter = Platter::new(Sync::Works);
    let engine = open(&platter, Make::New).unwrap();
    engine.apply(&batch(1)).unwrap().unwrap();
    platter.bytes().sync = Sync::Fails;
    let failed = engine.apply(&batch(2)).unwrap_err();
    assert!(matches!(&failed, EngineError::Fatal(reason) if reason.contains("bad sector")));
    // The next sync may say that all is well; what the first one dropped is gone all the same.
    platter.bytes().sync = Sync::Works;
    for _ in 0..3 {
        assert!(matches!(
            engine.apply(&batch(2)),
            Err(EngineError::Fatal(_))
        ));
        assert!(matches!(
            engine.snapshot().err(),
            Some(EngineError::Fatal(_))
        ));
    }
}

#[test]
fn a_full_disk_passes_and_what_was_stored_is_untouched() {
    let platter = Platter::new(Sync::Works);
    let engine = open(&platter, Make::New).unwrap();
    let size = platter.bytes().current.len();
    platter.bytes().capacity = size;
    let mut last = 0;
    let full = loop {
        match engine.apply(&batch(last + 1)) {
            Ok(done) => done.unwrap(),
            Err(error) => break error,
        };
        last += 1;
    };
    assert!(matches!(full, EngineError::Full), "{full:?}");
    assert!(last > 0);
    assert!(matches!(
        engine.apply(&batch(last + 1)),
        Err(EngineError::Full)
    ));
    assert_eq!(stored(&engine).unwrap(), last);
    platter.bytes().capacity = usize::MAX;
    for n in last + 1..last + 20 {
        engine.apply(&batch(n)).unwrap().unwrap();
    }
    assert_eq!(stored(&engine).unwrap(), last + 19);
    drop(engine);
    let again = open(&platter, Make::Existing).unwrap();
    assert_eq!(stored(&again).unwrap(), last + 19);
}

#[test]
fn a_disk_that_returns_rubbish_is_an_error_and_not_a_panic() {
    let platter = Platter::new(Sync::Works);
    let engine = open(&platter, Make::New).unwrap();
    for n in 1..=20 {
        engine.apply(&batch(n)).unwrap().unwrap();
    }
    drop(engine);
    let whole = platter.bytes().current.clone();
    let mut errors = 0;
    for seed in 1..80 {
        let mut dice = Dice(seed);
        let mut damaged = whole.clone();
        let used = damaged.len();
        for _ in 0..1 + dice.below(6) {
            let (at, size) = (dice.below(used), 1 + dice.below(4096));
            for byte in damaged.iter_mut().skip(at).take(size) {
                *byte = u8::try_from(dice.below(256)).unwrap();
            }
        }
        if dice.below(8) == 0 {
            damaged.truncate(dice.below(used));
        }
        let broken = Platter::new(Sync::Works);
        {
            let mut bytes = broken.bytes();
            bytes.current.clone_from(&damaged);
            bytes.durable = damaged;
        }
        let outcome = open(&broken, Make::Existing)
            .map_err(|e| e.to_string())
            .and_then(|engine| {
                stored(&engine)?;
                engine
                    .apply(&batch(21))
                    .map_err(|e| e.to_string())?
                    .map_err(|e| format!("{e:?}"))
            });
        errors += usize::from(outcome.is_err());
    }
    assert!(errors > 5, "only {errors} of 79 damaged disks were noticed");
}
