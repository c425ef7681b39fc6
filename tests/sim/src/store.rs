//! A model of an organisation's store: rows and mark in one transaction.

use std::collections::BTreeMap;

use protocol::batch::VerifiedBatch;
use protocol::frame::Lane;
use protocol::wire::v1::{Content, Epoch, HighWater};

use crate::ledger::Ledger;
use crate::spool::Item;
use crate::{Violation, violated};

/// A history of one agent.
pub(crate) type Stream = (usize, Lane, Epoch);

/// What one organisation's file holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct OrgStore {
    pub(crate) marks: BTreeMap<Stream, u64>,
    /// Items, with how often each is stored.
    pub(crate) items: BTreeMap<u64, u32>,
    /// Ranges whose items are gone.
    pub(crate) losses: BTreeMap<Stream, Vec<(u64, u64)>>,
    pub(crate) commits: u64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Stored { seq: u64, commit: u64 },
    Repeat { high_water: u64 },
    Gap { expected: u64 },
    Full,
}

impl OrgStore {
    /// Returns the marks of an agent, all epochs.
    pub(crate) fn high_waters(&self, agent: usize) -> Vec<HighWater> {
        let own = self.marks.iter().filter(|((of, ..), _)| *of == agent);
        own.map(|(&(_, lane, epoch), &seq)| HighWater {
            lane: lane.number(),
            epoch,
            seq,
        })
        .collect()
    }

    pub(crate) fn mark(&self, stream: Stream) -> u64 {
        self.marks.get(&stream).copied().unwrap_or(0)
    }

    /// Stores a batch of an agent of organisation `org`.
    pub(crate) fn take(
        &mut self,
        org: usize,
        agent: usize,
        batch: &VerifiedBatch,
        ledger: &mut Ledger,
    ) -> Result<Taken, Violation> {
        let header = batch.header();
        let lane = Lane::from_number(header.lane).ok_or_else(|| violated("a lane that is none"))?;
        let stream = (agent, lane, header.epoch);
        let (mark, last_seq) = (self.mark(stream), header.last_seq());
        if last_seq <= mark {
            return Ok(Taken::Repeat { high_water: mark });
        }
        if header.first_seq != mark + 1 {
            return Ok(Taken::Gap { expected: mark + 1 });
        }
        if header.content == Content::Lost {
            let range = (header.first_seq, last_seq);
            self.losses.entry(stream).or_default().push(range);
            return Ok(self.advance(stream, last_seq));
        }
        for (seq, item) in (header.first_seq..).zip(batch.decode::<Item>()) {
            let (owner, id, _) = item.map_err(|error| violated(format!("an item: {error}")))?;
            let count = self.items.entry(id).or_default();
            *count += 1;
            ledger.stored(org, (agent, lane, header.epoch), seq, (owner, id), *count)?;
        }
        Ok(self.advance(stream, last_seq))
    }

    fn advance(&mut self, stream: Stream, seq: u64) -> Taken {
        self.marks.insert(stream, seq);
        self.commits += 1;
        Taken::Stored {
            seq,
            commit: self.commits,
        }
    }

    /// Returns whether a sequence is told to be lost.
    pub(crate) fn is_told_lost(&self, stream: Stream, seq: u64) -> bool {
        let ranges = self.losses.get(&stream).into_iter().flatten();
        ranges
            .into_iter()
            .any(|(first, last)| (*first..=*last).contains(&seq))
    }
}
