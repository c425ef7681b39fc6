//! How much the store has to do: queues, files, and how long a write takes to be durable. What the
//! hub's metrics and `status` show of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::ids::OrgId;

/// Upper bounds of the buckets of a [`Latency`], in microseconds: from a disk that answers from
/// its own memory to one that is about to be given up.
const BOUNDS: [u64; 14] = [
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000,
];

/// What the store has to do at one moment, and has done since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Reads that wait for their turn.
    pub waiting_reads: usize,
    /// Writes of the hub's own rows that wait for their turn.
    pub waiting_writes: usize,
    /// The same of each organisation that was used since the start.
    pub waiting_writes_of: BTreeMap<OrgId, usize>,
    /// Organisations' files that are open.
    pub open_files: usize,
    /// Most of them that are open at once, but for those that are all in use.
    pub open_files_bound: usize,
    /// Most bytes that the page caches of the open files may take.
    pub cache_bytes: usize,
    /// Most bytes that those of all files together may take.
    pub cache_bytes_bound: usize,
    /// From when a write came until it was durable, its wait in the queue included.
    pub writes: Latency,
    /// From the beginning of a group of writes until its sync.
    pub commits: Latency,
    /// Writes that the engine failed; nothing of them is stored.
    pub failed_writes: u64,
}

/// How often something took how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// By bucket; the last one has no upper bound.
    counts: Vec<u64>,
    sum: Duration,
}

impl Latency {
    /// Returns how often it happened.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns how long it took all in all.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Returns for each upper bound how often it took no longer.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bounds = BOUNDS.iter().map(|micros| Duration::from_micros(*micros));
        let counts = self.counts.iter().scan(0u64, |sum, count| {
            *sum = sum.saturating_add(*count);
            Some(*sum)
        });
        bounds.zip(counts)
    }

    /// Returns a time within which so many of a hundred were done; `None` where none was, or where
    /// it is longer than any bound.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = self.count().saturating_mul(percent).div_ceil(100);
        let mut buckets = self.buckets();
        let found = buckets.find(|(_, count)| *count >= wanted && wanted > 0)?;
        Some(found.0)
    }
}

/// Takes times.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Clock {
    pub(crate) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Latency {
        let counts = self.counts.iter();
        Latency {
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        }
    }
}

/// What all writing threads note.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    pub(crate) writes: Clock,
    pub(crate) commits: Clock,
    failed: AtomicU64,
}

impl Pulse {
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_holds_it() {
        let clock = Clock::default();
        for micros in [0, 500, 501, 9_000, 60_000_000] {
            clock.note(Duration::from_micros(micros));
        }
        let latency = clock.read();
        assert_eq!(latency.count(), 5);
        assert_eq!(latency.sum(), Duration::from_micros(60_010_001));
        let counts: Vec<u64> = latency.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn a_percentile_is_the_bound_that_enough_are_below() {
        let clock = Clock::default();
        assert_eq!(clock.read().percentile(99), None);
        for _ in 0..98 {
            clock.note(Duration::from_millis(3));
        }
        clock.note(Duration::from_millis(30));
        clock.note(Duration::from_secs(60));
        let latency = clock.read();
        let millis = |percent| latency.percentile(percent).map(|found| found.as_millis());
        assert_eq!(millis(50), Some(5));
        assert_eq!(millis(98), Some(5));
        assert_eq!(millis(99), Some(50));
        assert_eq!(millis(100), None, "it is beyond every bound");
    }
}
