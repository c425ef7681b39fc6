//! What was taken from agents since the hub began to serve, by organisation and lane.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::frame::Lane;
use protocol::ids::OrgId;

/// What came on one lane of the agents of one organisation, or what is added to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Batches that were stored.
    pub(crate) batches: u64,
    /// Batches that were stored before, and had no effect.
    pub(crate) repeats: u64,
    /// Batches after a gap, which are asked for again.
    pub(crate) gaps: u64,
    /// Items of the stored batches, refused ones included.
    pub(crate) items: u64,
    /// Bytes of the stored batches, compressed.
    pub(crate) bytes: u64,
    /// Refusals that were put into quarantine.
    pub(crate) quarantined: u64,
    /// Records that agents, or an operator, have told to be lost.
    pub(crate) lost: u64,
}

impl Received {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self {
        batches: 0,
        repeats: 0,
        gaps: 0,
        items: 0,
        bytes: 0,
        quarantined: 0,
        lost: 0,
    };

    /// A batch that was stored before.
    pub(crate) const REPEAT: Self = Self {
        repeats: 1,
        ..Self::NOTHING
    };

    /// A batch after a gap.
    pub(crate) const GAP: Self = Self {
        gaps: 1,
        ..Self::NOTHING
    };
}

/// The counts. Organisations that sent nothing have none.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<(OrgId, Lane), Received>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(OrgId, Lane), Received>> {
        // Whatever a panic leaves behind is a count that is too low.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what came on a lane.
    pub(crate) fn add(&self, org: OrgId, lane: Lane, more: Received) {
        let mut counts = self.lock();
        let sum = counts.entry((org, lane)).or_default();
        let parts = [
            (&mut sum.batches, more.batches),
            (&mut sum.repeats, more.repeats),
            (&mut sum.gaps, more.gaps),
            (&mut sum.items, more.items),
            (&mut sum.bytes, more.bytes),
            (&mut sum.quarantined, more.quarantined),
            (&mut sum.lost, more.lost),
        ];
        for (part, more) in parts {
            *part = part.saturating_add(more);
        }
    }

    /// Returns all of them as they are at this moment.
    pub(crate) fn read(&self) -> BTreeMap<(OrgId, Lane), Received> {
        self.lock().clone()
    }
}
