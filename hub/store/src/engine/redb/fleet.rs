//! Which files are open, and how much cache each has: one bound over all of them.
//!
//! A file is opened when it is first used. Where more would be open than may be, the one that was
//! used longest ago and is not in use rests: its handle and its cache go, and the next call opens
//! it again. Those who hold an engine notice nothing but the time of an opening, some milliseconds.
//!
//! ```text
//! cache of a file = its floor (all ÷ files) + 1/8 of what is left of the rest, 64 MiB at most
//! ```
//! So the first organisations of a hub have large caches, a thousand have small ones, and the sum
//! stays below the bound whatever the order. Behind each stands the kernel's cache.
//!
//! The bound on files is kept by resting others, never by waiting: who holds one file may need
//! another. Files that are all in use at one moment can therefore be more; each of them has a
//! thread that works on it, and reads are bounded (`door`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::Slot;

/// The most that one file has of the common cache, beyond its floor.
const SHARE_BYTES: usize = 64 << 20;

/// How many files may be open, and their caches together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) open_files: usize,
    pub(crate) cache_bytes: usize,
}

/// The engines under one bound.
pub(crate) struct Fleet {
    bounds: Bounds,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    open: usize,
    /// What is left of the cache beyond the floors.
    left: usize,
    /// Caches of what is open.
    given: usize,
    next: u64,
    seats: BTreeMap<u64, Weak<Seat>>,
}

/// Where an engine's handle is.
pub(super) struct Seat {
    pub(super) slot: RwLock<Slot>,
    /// Milliseconds since the fleet began.
    used_at: AtomicU64,
    fleet: Arc<Fleet>,
    number: u64,
}

/// The right to have one file open, with its part of the cache. Given back when it is dropped.
pub(super) struct Lease {
    fleet: Arc<Fleet>,
    share: usize,
    pub(super) cache_bytes: usize,
}

impl Fleet {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        let floors = Self::floor(bounds).saturating_mul(bounds.open_files);
        Arc::new(Self {
            bounds,
            began: Instant::now(),
            state: Mutex::new(State {
                open: 0,
                left: bounds.cache_bytes.saturating_sub(floors),
                given: 0,
                next: 0,
                seats: BTreeMap::new(),
            }),
        })
    }

    /// A fleet of one file.
    pub(crate) fn of_one(cache_bytes: usize) -> Arc<Self> {
        Self::new(Bounds {
            open_files: 1,
            cache_bytes,
        })
    }

    /// What every file has: of a third of the cache, or of all of it where one file may be open.
    fn floor(bounds: Bounds) -> usize {
        match bounds.open_files {
            0 | 1 => bounds.cache_bytes,
            files => bounds.cache_bytes / 3 / files,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes a place for an engine.
    pub(super) fn seat(self: &Arc<Self>, slot: Slot) -> Arc<Seat> {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let seat = Arc::new(Seat {
            slot: RwLock::new(slot),
            used_at: AtomicU64::new(self.now()),
            fleet: Arc::clone(self),
            number,
        });
        state.seats.insert(number, Arc::downgrade(&seat));
        seat
    }

    /// Takes the right to open one more file, resting another if need be.
    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        if self.state().open >= self.bounds.open_files {
            self.make_room();
        }
        let mut state = self.state();
        state.open += 1;
        let share = (state.left / 8).min(SHARE_BYTES);
        state.left -= share;
        let cache_bytes = Self::floor(self.bounds) + share;
        state.given += cache_bytes;
        Lease {
            fleet: Arc::clone(self),
            share,
            cache_bytes,
        }
    }

    /// Rests the engine that was used longest ago, of those that nobody uses.
    fn make_room(&self) {
        let mut seats = self.seats();
        seats.sort_by_key(|seat| seat.used_at.load(Ordering::Relaxed));
        let _rested = seats.iter().any(|seat| seat.rest());
    }

    /// Rests what was not used for so long; returns how many were.
    pub(super) fn rest_idle(&self, idle: Duration) -> usize {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let now = self.now();
        let is_idle =
            |seat: &&Arc<Seat>| now.saturating_sub(seat.used_at.load(Ordering::Relaxed)) >= idle;
        let seats = self.seats();
        seats.iter().filter(is_idle).filter(|s| s.rest()).count()
    }

    /// Returns how many files are open.
    pub(super) fn open_files(&self) -> usize {
        self.state().open
    }

    /// Returns how many bytes the caches of the open files may take.
    pub(super) fn cache_bytes(&self) -> usize {
        self.state().given
    }

    // The list is taken out: resting a file writes to it, and gives its lease back to this state.
    fn seats(&self) -> Vec<Arc<Seat>> {
        self.state()
            .seats
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

impl Seat {
    /// Notes that it is used.
    pub(super) fn touch(&self) {
        self.used_at.store(self.fleet.now(), Ordering::Relaxed);
    }

    pub(super) fn lease(&self) -> Lease {
        self.fleet.lease()
    }

    /// Closes the file if nobody uses it; says whether it was open and is not any more. Never waits.
    fn rest(&self) -> bool {
        let Ok(mut slot) = self.slot.try_write() else {
            return false;
        };
        let Slot::Open(open) = &*slot else {
            return false;
        };
        // With the slot in hand nobody can begin to use it.
        if open.is_in_use() || open.health.is_latched() {
            return false;
        }
        let health = Arc::clone(&open.health);
        *slot = Slot::Resting;
        // Closing syncs. What was acknowledged is safe, but the rule has no exception.
        if let Some(trouble) = health.trouble() {
            *slot = Slot::Lost(trouble.into());
        }
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.fleet.state().seats.remove(&self.number);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.fleet.state();
        state.open = state.open.saturating_sub(1);
        state.left += self.share;
        state.given = state.given.saturating_sub(self.cache_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::redb::RedbFiles;
    use crate::engine::{Engine, Engines, Holder, WriteSet};
    use crate::tables::Table;
    use protocol::ids::OrgId;

    fn holder(n: u8) -> Holder {
        Holder::Org(OrgId::from_bytes([n; 16]))
    }

    fn row(n: u8) -> WriteSet {
        let mut set = WriteSet::default();
        set.put(Table::Meta, vec![n], vec![n; 100]);
        set
    }

    fn has(engine: &dyn Engine, n: u8) -> bool {
        let read = engine.snapshot().unwrap();
        read.get(Table::Meta, &[n]).unwrap().is_some()
    }

    /// Files of this directory that this process holds.
    fn held(dir: &std::path::Path) -> usize {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|file| file.starts_with(dir))
            .count()
    }

    fn files(open_files: usize) -> (tempfile::TempDir, RedbFiles) {
        let dir = tempfile::tempdir().unwrap();
        let bounds = Bounds {
            open_files,
            cache_bytes: 4 << 20,
        };
        let files = RedbFiles::new(dir.path().to_owned(), bounds);
        (dir, files)
    }

    #[test]
    fn more_engines_are_used_than_files_are_open() {
        let (dir, files) = files(3);
        let engines: Vec<Arc<dyn Engine>> = (0..12)
            .map(|n| files.create(holder(n), &row(100)).unwrap())
            .collect();
        for round in 0..3 {
            for engine in &engines {
                engine.apply(&row(round)).unwrap().unwrap();
                assert!(held(dir.path()) <= 3, "{} files", held(dir.path()));
            }
        }
        for engine in &engines {
            assert!([0, 1, 2, 100].iter().all(|n| has(&**engine, *n)));
        }
        assert!(held(dir.path()) <= 3);
    }

    #[test]
    fn what_is_in_use_does_not_rest() {
        let (dir, files) = files(2);
        let engines: Vec<Arc<dyn Engine>> = (0..6)
            .map(|n| files.create(holder(n), &row(100)).unwrap())
            .collect();
        let snapshots: Vec<_> = engines.iter().map(|e| e.snapshot().unwrap()).collect();
        assert_eq!(held(dir.path()), 6);
        assert_eq!(files.rest_idle(Duration::ZERO), 0);
        for engine in &engines {
            engine.apply(&row(1)).unwrap().unwrap();
        }
        for snapshot in &snapshots {
            assert!(snapshot.get(Table::Meta, &[1]).unwrap().is_none());
            assert!(snapshot.get(Table::Meta, &[100]).unwrap().is_some());
        }
        drop(snapshots);
        assert_eq!(files.rest_idle(Duration::ZERO), 6);
        assert_eq!(held(dir.path()), 0);
        assert!(engines.iter().all(|engine| has(&**engine, 1)));
        assert!(held(dir.path()) <= 2);
    }

    #[test]
    fn what_was_used_lately_stays_open() {
        let (dir, files) = files(10);
        let engine = files.create(holder(1), &row(100)).unwrap();
        assert_eq!(files.rest_idle(Duration::from_secs(3600)), 0);
        assert_eq!(held(dir.path()), 1);
        engine.close();
        assert_eq!(files.rest_idle(Duration::ZERO), 0);
        assert!(engine.snapshot().is_err(), "a closed engine is not opened");
    }

    #[test]
    fn writers_and_readers_of_many_files_lose_nothing() {
        let (dir, files) = files(3);
        let engines: Vec<Arc<dyn Engine>> = (0..8)
            .map(|n| files.create(holder(n), &row(100)).unwrap())
            .collect();
        std::thread::scope(|scope| {
            for engine in &engines {
                scope.spawn(move || {
                    for n in 0..40 {
                        engine.apply(&row(n)).unwrap().unwrap();
                    }
                });
                scope.spawn(move || {
                    for _ in 0..100 {
                        assert!(has(&**engine, 100));
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..200 {
                    files.rest_idle(Duration::ZERO);
                }
            });
        });
        for engine in &engines {
            assert_eq!(engine.snapshot().unwrap().last_commit().unwrap(), 41);
            assert!((0..40).all(|n| has(&**engine, n)));
        }
        files.rest_idle(Duration::ZERO);
        assert_eq!(held(dir.path()), 0);
    }

    #[test]
    fn caches_together_stay_within_the_bound() {
        let bounds = Bounds {
            open_files: 1000,
            cache_bytes: 300 << 20,
        };
        let fleet = Fleet::new(bounds);
        let first = fleet.lease();
        assert!(first.cache_bytes > 20 << 20, "{}", first.cache_bytes);
        let rest: Vec<Lease> = (1..1000).map(|_| fleet.lease()).collect();
        let sum: usize = rest.iter().map(|l| l.cache_bytes).sum::<usize>() + first.cache_bytes;
        assert!(sum <= bounds.cache_bytes, "{sum}");
        assert_eq!(fleet.cache_bytes(), sum);
        let last = rest.last().unwrap().cache_bytes;
        assert!(last >= 100 << 10, "{last}");
        drop((first, rest));
        assert_eq!((fleet.open_files(), fleet.cache_bytes()), (0, 0));
        assert!(fleet.lease().cache_bytes > 20 << 20);
    }
}
