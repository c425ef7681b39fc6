//! A disk whose power can go at any operation, and what it then shows.
//!
//! ```text
//! write, set length ─▶ pending ─ sync ─▶ durable
//!                         │ cut
//!                         ▼
//!      of every sector any state it had since the last sync; the length likewise
//! ```
//! A sector is 512 or 4,096 bytes; it is written whole, or torn at any byte where the disk is told
//! to tear. The operation during which the power goes is under way: it may have been done, not,
//! or in part. Once it is dark every operation fails, reads too, until [`Platter::cut`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::disk::Medium;

/// A small generator of the same numbers for the same seed (xorshift64, Marsaglia 2003).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.below(2);
        dice.below(2);
        dice
    }

    /// Returns a number below `bound`; 0 if there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % bound.max(1)
    }

    /// Says yes once in `bound` times.
    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// What a sync of the disk is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Works,
    /// Says that it worked and does nothing.
    Lies,
    /// Does so every other time.
    LiesInTurn,
    Fails,
}

/// How the disk writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Make {
    /// Bytes of a sector.
    pub(crate) sector: usize,
    /// Whether a sector can be half old, half new.
    pub(crate) tears_sectors: bool,
}

impl Make {
    pub(crate) const USUAL: Self = Self {
        sector: 512,
        tears_sectors: false,
    };

    /// Every kind in turn.
    pub(crate) fn of_seed(seed: u64) -> Self {
        Self {
            sector: if seed.is_multiple_of(2) { 512 } else { 4096 },
            tears_sectors: seed % 4 > 1,
        }
    }
}

enum Pending {
    Write(usize, Vec<u8>),
    Len(usize),
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

struct Bytes {
    /// What survives a cut whatever happens.
    durable: Vec<u8>,
    /// What reads show.
    current: Vec<u8>,
    /// What was written since the last sync, in order.
    pending: Vec<Pending>,
    /// Operations until the power goes; the last of them is under way then.
    power: usize,
    capacity: usize,
    sync: Sync,
    syncs: u64,
}

/// A disk.
pub(crate) struct Platter {
    make: Make,
    bytes: Mutex<Bytes>,
}

impl std::fmt::Debug for Platter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Platter")
    }
}

fn dark() -> io::Error {
    io::Error::other("no power")
}

impl Platter {
    /// An empty disk with power for ever.
    pub(crate) fn new(make: Make) -> Arc<Self> {
        Self::holding(make, Vec::new())
    }

    /// A disk that holds these bytes, durably.
    pub(crate) fn holding(make: Make, held: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            make,
            bytes: Mutex::new(Bytes {
                durable: held.clone(),
                current: held,
                pending: Vec::new(),
                power: usize::MAX,
                capacity: usize::MAX,
                sync: Sync::Works,
                syncs: 0,
            }),
        })
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_sync(&self, sync: Sync) {
        self.bytes().sync = sync;
    }

    /// Bounds how long the file can get.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        self.bytes().capacity = capacity;
    }

    /// Lets so many operations come to their end: during the one after them the power goes.
    pub(crate) fn set_power(&self, operations: usize) {
        self.bytes().power = operations;
    }

    /// Says whether the power has gone.
    pub(crate) fn is_dark(&self) -> bool {
        self.bytes().power == 0
    }

    /// Returns what reads show.
    pub(crate) fn shown(&self) -> Vec<u8> {
        self.bytes().current.clone()
    }

    /// What an unsynced write came to is settled, and power returns.
    pub(crate) fn cut(&self, dice: &mut Dice) {
        let mut bytes = self.bytes();
        let pending = std::mem::take(&mut bytes.pending);
        let mut left = std::mem::take(&mut bytes.durable);
        match dice.below(8) {
            // A disk without a cache that lost nothing, which is also what a killed process leaves.
            0 => pending.iter().for_each(|op| apply(&mut left, op)),
            // One that lost all of it.
            1 => {}
            // One that writes in order and was stopped in the middle of a write.
            2 => {
                let whole = dice.below(pending.len() + 1);
                for op in pending.iter().take(whole) {
                    apply(&mut left, op);
                }
                if let Some(Pending::Write(at, data)) = pending.get(whole) {
                    let kept = self.boundary(data.len(), dice);
                    apply(&mut left, &Pending::Write(*at, data[..kept].to_vec()));
                }
            }
            // One that writes in an order of its own.
            kind => self.shuffle(&mut left, &pending, kind, dice),
        }
        bytes.current.clone_from(&left);
        bytes.durable = left;
        bytes.power = usize::MAX;
    }

    /// Draws how much of a write was done.
    fn boundary(&self, len: usize, dice: &mut Dice) -> usize {
        if self.make.tears_sectors {
            return dice.below(len + 1);
        }
        len.min(self.make.sector * dice.below(len / self.make.sector + 1))
    }

    /// Leaves of each sector one of the states that it had.
    fn shuffle(&self, left: &mut Vec<u8>, pending: &[Pending], kind: usize, dice: &mut Dice) {
        let sector = self.make.sector;
        let mut lengths = vec![left.len()];
        let mut states: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let old = |at: usize| -> Vec<u8> {
            let from = left.get(at * sector..).unwrap_or_default();
            let mut found = from[..from.len().min(sector)].to_vec();
            found.resize(sector, 0);
            found
        };
        for op in pending {
            let length = *lengths.last().unwrap();
            match op {
                Pending::Len(len) => {
                    // What is cut off is zeros if the file grows again.
                    for at in len.div_ceil(sector)..length.div_ceil(sector) {
                        states
                            .entry(at)
                            .or_insert_with(|| vec![old(at)])
                            .push(vec![0; sector]);
                    }
                    lengths.push(*len);
                }
                Pending::Write(at, data) => {
                    let end = at + data.len();
                    for place in at / sector..end.div_ceil(sector) {
                        let states = states.entry(place).or_insert_with(|| vec![old(place)]);
                        let mut next = states.last().unwrap().clone();
                        let (from, to) = (place * sector, (place + 1) * sector);
                        let (first, last) = (from.max(*at), to.min(end));
                        next[first - from..last - from]
                            .copy_from_slice(&data[first - at..last - at]);
                        states.push(next);
                    }
                    if end > length {
                        lengths.push(end);
                    }
                }
            }
        }
        let odd_one = dice.below(states.len());
        let length = lengths[dice.below(lengths.len())];
        left.resize(length, 0);
        for (n, (at, states)) in states.into_iter().enumerate() {
            let newest = states.len() - 1;
            let drawn = match kind {
                // All came through but one, or none but one.
                3 if n == odd_one => 0,
                4 if n != odd_one => 0,
                3 | 4 => newest,
                // All or nothing of each sector.
                5 if dice.one_in(2) => 0,
                5 => newest,
                _ => dice.below(states.len()),
            };
            let mut found = states[drawn].clone();
            if self.make.tears_sectors && drawn > 0 && dice.one_in(8) {
                let torn = dice.below(sector);
                found[torn..].copy_from_slice(&states[drawn - 1][torn..]);
            }
            let from = at * sector;
            if from < length {
                let to = length.min(from + sector);
                left[from..to].copy_from_slice(&found[..to - from]);
            }
        }
    }
}

impl Bytes {
    /// Takes one operation's worth of power; says whether it is the one under way.
    fn burn(&mut self) -> io::Result<bool> {
        if self.power == 0 {
            return Err(dark());
        }
        self.power -= 1;
        Ok(self.power == 0)
    }

    fn change(&mut self, op: Pending) -> io::Result<()> {
        let is_last = self.burn()?;
        let end = match &op {
            Pending::Write(at, data) => at + data.len(),
            Pending::Len(len) => *len,
        };
        if end > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        apply(&mut self.current, &op);
        self.pending.push(op);
        if is_last { Err(dark()) } else { Ok(()) }
    }
}

impl Medium for Platter {
    fn len(&self) -> io::Result<u64> {
        let bytes = self.bytes();
        if bytes.power == 0 {
            return Err(dark());
        }
        Ok(u64::try_from(bytes.current.len()).unwrap())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes();
        if bytes.power == 0 {
            return Err(dark());
        }
        let at = usize::try_from(offset).unwrap();
        let found = bytes.current.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.bytes().change(Pending::Write(at, data.to_vec()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        self.bytes().change(Pending::Len(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut bytes = self.bytes();
        // What was pending when the power goes in a sync is settled by the cut.
        if bytes.burn()? {
            return Err(dark());
        }
        bytes.syncs += 1;
        match bytes.sync {
            Sync::Lies => Ok(()),
            Sync::LiesInTurn if bytes.syncs.is_multiple_of(2) => Ok(()),
            Sync::Fails => Err(io::Error::other("bad sector")),
            Sync::Works | Sync::LiesInTurn => {
                let Bytes {
                    durable, pending, ..
                } = &mut *bytes;
                for op in pending.drain(..) {
                    apply(durable, &op);
                }
                Ok(())
            }
        }
    }
}
