//! What must hold, checked where things happen and at the end.
//!
//! - **Nothing acknowledged is lost.** An agent's core lets go of an item only after a store held
//!   it durably. In the end every item is stored, but for those that a named disaster took from
//!   agent and hub alike.
//! - **Nothing is stored twice**, but for items that a set-back disk gave to an agent anew.
//! - **Sequences are contiguous** for each agent, lane and epoch, and each item is stored under
//!   the number that its spool gave it.
//! - **A store holds items of its own organisation's agents only**, whoever sent them.
//! - **In flight is no more than the credit**, and one frame.
//! - **No storm**: an agent that gets nothing done dials with growing pauses.
//! - **No deadlock**: the end comes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use protocol::frame::Lane;
use protocol::wire::v1::Epoch;

use crate::spool::State;
use crate::store::{OrgStore, Stream};
use crate::{Checked, violated};

/// Most attempts to connect within [`STORM_MS`] that achieve nothing. Full jitter with doubling
/// bounds makes about eight, and lucky draws some more.
const STORM_DIALS: usize = 25;
const STORM_MS: u64 = 60_000;

#[derive(Debug)]
struct Item {
    agent: usize,
    org: usize,
    /// A store held it durably at some time.
    was_stored: bool,
    /// A store was told that it is gone.
    was_told: bool,
    /// A disaster took it.
    is_excused: bool,
    /// A disk that was set back holds it anew.
    may_repeat: bool,
    /// Where its spool put it.
    numbers: Vec<(Stream, u64)>,
}

/// The truth about every item, which neither agent nor hub knows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    items: BTreeMap<u64, Item>,
    /// More than one item has a number only where a disk was set back.
    numbers: BTreeMap<(Stream, u64), Vec<u64>>,
    dials: BTreeMap<usize, Vec<u64>>,
}

impl Ledger {
    /// Returns the number of a new item.
    pub(crate) fn next_id(&self) -> u64 {
        self.items.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.items.len()).unwrap_or(u64::MAX)
    }

    /// A source has an item for the spool.
    pub(crate) fn made(&mut self, agent: usize, org: usize, id: u64) {
        let item = Item {
            agent,
            org,
            was_stored: false,
            was_told: false,
            is_excused: false,
            may_repeat: false,
            numbers: Vec::new(),
        };
        self.items.insert(id, item);
    }

    /// A spool holds items under these numbers durably.
    pub(crate) fn numbered(&mut self, stream: Stream, first_seq: u64, ids: &[u64]) {
        for (seq, id) in (first_seq..).zip(ids) {
            let known = self.numbers.entry((stream, seq)).or_default();
            if !known.contains(id) {
                known.push(*id);
            }
            if let Some(item) = self.items.get_mut(id) {
                item.numbers.push((stream, seq));
            }
        }
    }

    /// A spool begins a new epoch: what follows a sequence keeps its order.
    pub(crate) fn renumbered(&mut self, (old, new): (Stream, Stream), range: Range<u64>) {
        for (after, seq) in range.zip(1..) {
            let ids = self.numbers.get(&(old, after + 1)).cloned();
            for id in ids.unwrap_or_default() {
                self.numbered(new, seq, &[id]);
            }
        }
    }

    /// The store of `org` holds an item for the `count`th time.
    pub(crate) fn stored(
        &mut self,
        org: usize,
        stream: Stream,
        seq: u64,
        (owner, id): (u32, u64),
        count: u32,
    ) -> Checked {
        let Some(item) = self.items.get_mut(&id) else {
            return Err(violated(format!("item {id} is stored and was never made")));
        };
        let (agent, ..) = stream;
        if item.org != org || item.agent != agent || usize::try_from(owner) != Ok(agent) {
            return Err(violated(format!(
                "organisation {org} holds item {id} of agent {owner}, sent by agent {agent}"
            )));
        }
        if count > 1 && !item.may_repeat {
            return Err(violated(format!("item {id} is stored {count} times")));
        }
        item.was_stored = true;
        let numbers = self.numbers.get(&(stream, seq));
        if !numbers.is_some_and(|ids| ids.contains(&id)) {
            return Err(violated(format!(
                "item {id} is stored as {stream:?} {seq}, which its spool never said"
            )));
        }
        Ok(())
    }

    /// An agent's core says that the hub holds everything up to a sequence.
    pub(crate) fn released<'a>(&self, ids: impl Iterator<Item = &'a u64>) -> Checked {
        for id in ids {
            if self
                .items
                .get(id)
                .is_some_and(|item| !item.was_stored && !item.was_told)
            {
                return Err(violated(format!(
                    "item {id} is let go and was never stored"
                )));
            }
        }
        Ok(())
    }

    /// A store was told that items of a spool are gone.
    pub(crate) fn told_lost(
        &mut self,
        stream: Stream,
        range: (u64, u64),
        spool: &State,
    ) -> Checked {
        let (first, last) = range;
        for seq in first..=last {
            let ids = self.numbers.get(&(stream, seq)).into_iter().flatten();
            for id in ids {
                let Some(item) = self.items.get_mut(id) else {
                    continue;
                };
                item.was_told = true;
                if spool.epoch == stream.2
                    && !item.may_repeat
                    && spool.ids().any(|held| held == *id)
                {
                    return Err(violated(format!(
                        "item {id} is told to be lost and waits in its spool as {stream:?} {seq}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// A disaster has struck: what neither a spool nor a store holds any more is excused.
    pub(crate) fn disaster<'a>(
        &mut self,
        spools: impl Iterator<Item = &'a State>,
        stores: &[OrgStore],
    ) {
        let mut held = BTreeSet::new();
        for state in spools {
            held.extend(state.ids());
        }
        for store in stores {
            held.extend(store.items.keys().copied());
        }
        for (id, item) in &mut self.items {
            item.is_excused |= !held.contains(id);
        }
    }

    /// A disk was set back to this state.
    pub(crate) fn set_back(&mut self, state: &State) {
        for id in state.ids() {
            if let Some(item) = self.items.get_mut(&id) {
                item.may_repeat = true;
            }
        }
    }

    /// An agent dials.
    pub(crate) fn dials(&mut self, agent: usize, now_ms: u64) -> Checked {
        let dials = self.dials.entry(agent).or_default();
        dials.retain(|at| at + STORM_MS > now_ms);
        dials.push(now_ms);
        if dials.len() > STORM_DIALS {
            return Err(violated(format!(
                "agent {agent} dialled {} times within a minute and achieved nothing",
                dials.len()
            )));
        }
        Ok(())
    }

    /// An agent got something done: its next attempts count anew.
    pub(crate) fn progressed(&mut self, agent: usize) {
        self.dials.remove(&agent);
    }

    /// Everything is drained: nothing may be missing.
    pub(crate) fn complete(&self, stores: &[OrgStore]) -> Checked {
        for (id, item) in &self.items {
            let Some(store) = stores.get(item.org) else {
                continue;
            };
            let is_told = |(stream, seq): &(Stream, u64)| store.is_told_lost(*stream, *seq);
            let is_there = store.items.contains_key(id) || item.numbers.iter().any(is_told);
            if !is_there && !item.is_excused {
                let was = if item.was_stored {
                    "was stored and"
                } else {
                    ""
                };
                let agent = item.agent;
                return Err(violated(format!(
                    "item {id} of agent {agent} {was} is lost"
                )));
            }
        }
        for store in stores {
            for (&(agent, lane, epoch), &mark) in &store.marks {
                self.contiguous(store, (agent, lane, epoch), mark)?;
            }
        }
        Ok(())
    }

    fn contiguous(&self, store: &OrgStore, stream: (usize, Lane, Epoch), mark: u64) -> Checked {
        for seq in 1..=mark {
            let ids = self.numbers.get(&(stream, seq)).into_iter().flatten();
            let is_told = store.is_told_lost(stream, seq);
            if !is_told && !ids.into_iter().any(|id| store.items.contains_key(id)) {
                return Err(violated(format!(
                    "{stream:?} is stored up to {mark}, but {seq} is not there"
                )));
            }
        }
        Ok(())
    }
}
