//! Power cuts, failing syncs, full disks and rubbish, on a disk of our own.
//!
//! The usual test makes 5,000 cuts. `ZERO_X_POWER_CUTS=1000000 cargo test -p store power` makes so
//! many, and `ZERO_X_POWER_SEED=n` begins with that seed. A failure names its seed; 50 cuts from
//! there on are its life again.

mod life;
pub(crate) mod platter;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::Database;

use self::life::{Fault, Life};
use self::platter::{Dice, Make as DiskMake, Platter, Sync};
use super::disk::Medium;
use super::opening::Make;
use super::{Fleet, Opener, RedbEngine, Slot};
use crate::engine::{Condition, Direction, Engine, PageSize, Range, WriteSet};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// What happened in some lives.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    cuts: usize,
    in_opening: usize,
    in_compaction: usize,
    compactions: usize,
    commits: usize,
    /// Groups that were not acknowledged and came through whole all the same.
    came_through: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.in_opening += other.in_opening;
        self.in_compaction += other.in_compaction;
        self.compactions += other.compactions;
        self.commits += other.commits;
        self.came_through += other.came_through;
    }
}

/// Opens an existing engine on a disk, as the program does.
pub(crate) fn open_again(platter: &Arc<Platter>) -> Result<RedbEngine, OpenError> {
    open(platter, Make::Existing)
}

/// Makes an engine on an empty disk.
pub(crate) fn create(platter: &Arc<Platter>) -> Result<RedbEngine, OpenError> {
    open(platter, Make::New)
}

/// Ends an engine without a call to it and returns its database.
fn take_apart(engine: RedbEngine) -> Database {
    let mut slot = engine.seat.slot.write().unwrap();
    let Slot::Open(open) = std::mem::replace(&mut *slot, Slot::Closed) else {
        panic!("the engine is not open");
    };
    let (database, _) = open.parts();
    drop(open);
    Arc::into_inner(database).expect("nobody reads")
}

/// Opens an engine on a disk.
fn open(platter: &Arc<Platter>, make: Make) -> Result<RedbEngine, OpenError> {
    let medium = Arc::clone(platter);
    let opener: Opener = Box::new(move |_| {
        let medium: Arc<dyn Medium> = medium.clone();
        Ok(medium)
    });
    // No cache, so that reads come from the disk.
    RedbEngine::on(
        Path::new("platter"),
        Table::ORG,
        &Fleet::of_one(0),
        opener,
        make,
    )
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

/// Cuts of one life: a file that has been through many is another test than a fresh one.
const CUTS_OF_A_LIFE: usize = 50;

/// Runs lives of these seeds on every core; the first fault is named with its seed.
fn lives(seeds: std::ops::Range<u64>) -> Result<Tally, String> {
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let mut tally = Tally::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return Ok::<Tally, String>(tally);
                        }
                        let mut life = Life::begin(seed, Sync::Works);
                        life.run(CUTS_OF_A_LIFE)
                            .map_err(|fault| format!("seed {seed}: {fault}"))?;
                        tally.add(life.tally);
                    }
                })
            })
            .collect();
        let mut all = Tally::default();
        for worker in workers {
            all.add(worker.join().expect("a life panicked")?);
        }
        Ok(all)
    })
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of a run")]
fn a_power_cut_loses_no_acknowledged_commit_tears_none_and_leaves_a_file_that_opens() {
    let cuts = number_in("ZERO_X_POWER_CUTS").unwrap_or(5000);
    let first = number_in("ZERO_X_POWER_SEED").unwrap_or(0);
    let seeds = first..first + cuts.div_ceil(u64::try_from(CUTS_OF_A_LIFE).unwrap());
    let is_long = seeds.end - seeds.start >= 50;
    let tally = lives(seeds).unwrap_or_else(|fault| panic!("{fault}"));
    println!("{tally:?}");
    // Every kind of moment was hit.
    if is_long {
        assert!(tally.in_opening > tally.cuts / 50, "{tally:?}");
        assert!(tally.in_compaction > tally.cuts / 500, "{tally:?}");
        assert!(tally.compactions > tally.cuts / 500, "{tally:?}");
        assert!(tally.commits > tally.cuts, "{tally:?}");
        assert!(tally.came_through > tally.cuts / 200, "{tally:?}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of a run")]
fn a_disk_whose_sync_lies_is_found_out_by_the_same_lives() {
    // The second forgets only what the sync after it does not make good.
    for (lies, least) in [(Sync::Lies, 50), (Sync::LiesInTurn, 20)] {
        let (mut lost, mut torn, mut failed) = (0, 0, 0);
        for seed in 0..60 {
            match Life::begin(seed, lies).run(6) {
                Ok(()) => {}
                Err(Fault::Lost(_)) => lost += 1,
                Err(Fault::Torn(_)) => torn += 1,
                Err(Fault::Failed(_)) => failed += 1,
            }
        }
        println!("of 60 disks, {lies:?}: {lost} lost, {torn} tore, {failed} failed");
        let all = lost + torn + failed;
        assert!(all > least, "only {all} of 60 disks were found out");
        assert!(lost > 5 && failed > 5, "{lost} lost, {failed} failed");
    }
}

#[test]
fn an_engine_that_stores_half_a_group_is_found_out_by_the_same_lives() {
    let tears = |seed: &u64| {
        let mut life = Life::begin(*seed, Sync::Works);
        life.splits_groups = true;
        matches!(life.run(20), Err(Fault::Torn(_)))
    };
    let torn = (0..40).filter(tears).count();
    assert!(torn > 10, "only {torn} of 40 were found out");
}

#[test]
fn a_failed_sync_is_fatal_and_stays_so() {
    let platter = Platter::new(DiskMake::USUAL);
    let engine = open(&platter, Make::New).unwrap();
    engine.apply(&batch(1)).unwrap().unwrap();
    platter.set_sync(Sync::Fails);
    let failed = engine.apply(&batch(2)).unwrap_err();
    assert!(matches!(&failed, EngineError::Fatal(reason) if reason.contains("bad sector")));
    // The next sync may say that all is well; what the first one dropped is gone all the same.
    platter.set_sync(Sync::Works);
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
    let platter = Platter::new(DiskMake::USUAL);
    let engine = open(&platter, Make::New).unwrap();
    let size = platter.shown().len();
    platter.set_capacity(size);
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
    platter.set_capacity(usize::MAX);
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
    let platter = Platter::new(DiskMake::USUAL);
    let engine = open(&platter, Make::New).unwrap();
    for n in 1..=20 {
        engine.apply(&batch(n)).unwrap().unwrap();
    }
    drop(engine);
    let whole = platter.shown();
    let mut errors = 0;
    for seed in 1..80 {
        let mut dice = Dice::new(seed);
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
        let broken = Platter::holding(DiskMake::USUAL, damaged);
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
