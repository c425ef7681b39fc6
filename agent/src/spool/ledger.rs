//! Lanes as numbers, and the tables that hold their batches, in one transaction.

use std::collections::BTreeMap;

use protocol::frame::Lane;
use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::SpoolError;
use super::engine::storage;
use super::row::RowPlace;
use super::tables::{ACKS, BATCHES, HEADS, LANES};

/// Acknowledgements within this time are remembered as one, in milliseconds.
const ACKS_TOGETHER_MS: i64 = 60_000;

/// A lane's positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// Of the next item.
    pub(super) next: u64,
    /// Of the last item that the hub has acknowledged.
    pub(super) acked: u64,
    /// Of the last item that may have been sent: what the hub can know of this file.
    pub(super) sent: u64,
    /// A sequence is a position minus this.
    pub(super) base: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            next: 1,
            acked: 0,
            sent: 0,
            base: 0,
        }
    }
}

/// A lane as it is kept in memory; read from the tables when the file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LaneState {
    pub(super) marks: Marks,
    /// Bytes of what waits, and of acknowledged batches.
    pub(super) waiting: u64,
    pub(super) kept: u64,
    /// When the oldest waiting batch was made, and when the hub last acknowledged; 0 for none.
    pub(super) oldest_ms: i64,
    pub(super) acked_at_ms: i64,
}

pub(super) type Lanes = BTreeMap<Lane, LaneState>;

/// What is known of a batch without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    pub(super) made_at_ms: i64,
}

/// A batch ready to be written.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: RowPlace,
    pub(super) bytes: u64,
    pub(super) value: Vec<u8>,
}

type Heads<'txn> = Table<'txn, (u8, u64), (u64, u64, i64)>;

/// The tables of a write transaction.
pub(super) struct Ledger<'txn> {
    heads: Heads<'txn>,
    batches: Table<'txn, (u8, u64), &'static [u8]>,
    lanes: Table<'txn, u8, (u64, u64, u64, u64)>,
    acks: Table<'txn, (u8, u64), i64>,
}

impl<'txn> Ledger<'txn> {
    pub(super) fn open(write: &'txn WriteTransaction) -> Result<Self, SpoolError> {
        Ok(Self {
            heads: write.open_table(HEADS).map_err(storage("open the heads"))?,
            batches: write
                .open_table(BATCHES)
                .map_err(storage("open the batches"))?,
            lanes: write.open_table(LANES).map_err(storage("open the lanes"))?,
            acks: write
                .open_table(ACKS)
                .map_err(storage("open the acknowledgements"))?,
        })
    }

    /// Writes a batch, in the place of one with the same first position.
    pub(super) fn insert(&mut self, row: &Row) -> Result<(), SpoolError> {
        let place = (row.place.lane.number(), row.place.first);
        let head = (row.place.last, row.bytes, row.place.made_at_ms);
        self.heads
            .insert(place, head)
            .map_err(storage("write a head"))?;
        self.batches
            .insert(place, row.value.as_slice())
            .map(drop)
            .map_err(storage("write a batch"))
    }

    fn remove(&mut self, lane: Lane, first: u64) -> Result<(), SpoolError> {
        let place = (lane.number(), first);
        self.heads.remove(place).map_err(storage("remove a head"))?;
        self.batches
            .remove(place)
            .map(drop)
            .map_err(storage("remove a batch"))
    }

    pub(super) fn mark(&mut self, lane: Lane, marks: Marks) -> Result<(), SpoolError> {
        let value = (marks.next, marks.acked, marks.sent, marks.base);
        self.lanes
            .insert(lane.number(), value)
            .map(drop)
            .map_err(storage("write a lane"))
    }

    /// Returns the first batch of a lane from a position on.
    pub(super) fn first(&self, lane: Lane, from: u64) -> Result<Option<Head>, SpoolError> {
        first(&self.heads, lane, from)
    }

    /// Moves the mark of what is acknowledged up to the last whole batch within `through`.
    pub(super) fn acknowledge(
        &mut self,
        lane: Lane,
        state: &mut LaneState,
        through: u64,
        now_ms: i64,
    ) -> Result<(), SpoolError> {
        while let Some(head) = self.first(lane, state.marks.acked + 1)?
            && head.last <= through
        {
            state.marks.acked = head.last;
            state.waiting = state.waiting.saturating_sub(head.bytes);
            state.kept += head.bytes;
        }
        state.acked_at_ms = now_ms;
        self.refresh_oldest(lane, state)?;
        self.mark(lane, state.marks)?;
        let number = lane.number();
        let latest = {
            let range = (number, 0)..=(number, u64::MAX);
            let mut found = self.acks.range(range).map_err(storage("read a lane"))?;
            let latest = found.next_back().transpose();
            let latest = latest.map_err(storage("read a lane"))?;
            latest.map(|(place, at)| (place.value().1, at.value()))
        };
        let mut at_ms = now_ms;
        if let Some((position, begun_ms)) = latest
            && (begun_ms..begun_ms + ACKS_TOGETHER_MS).contains(&now_ms)
        {
            at_ms = begun_ms;
            self.acks
                .remove((number, position))
                .map_err(storage("write a lane"))?;
        }
        self.acks
            .insert((number, state.marks.acked), at_ms)
            .map(drop)
            .map_err(storage("write a lane"))
    }

    /// Moves the mark of what is acknowledged back to `position`: what follows waits again.
    pub(super) fn take_back(
        &mut self,
        lane: Lane,
        state: &mut LaneState,
        position: u64,
    ) -> Result<(), SpoolError> {
        let number = lane.number();
        state.marks.acked = position;
        self.acks
            .retain(|(of, through), _| of != number || through <= position)
            .map_err(storage("write a lane"))?;
        self.recount(lane, state)?;
        self.mark(lane, state.marks)
    }

    /// Counts a lane's batches anew.
    pub(super) fn recount(&self, lane: Lane, state: &mut LaneState) -> Result<(), SpoolError> {
        let counted = count(&self.heads, lane, state.marks)?;
        (state.waiting, state.kept) = (counted.waiting, counted.kept);
        state.oldest_ms = counted.oldest_ms;
        Ok(())
    }

    fn refresh_oldest(&self, lane: Lane, state: &mut LaneState) -> Result<(), SpoolError> {
        let oldest = self.first(lane, state.marks.acked + 1)?;
        state.oldest_ms = oldest.map_or(0, |head| head.made_at_ms);
        Ok(())
    }

    /// Removes acknowledged batches of a lane up to a position.
    pub(super) fn drop_kept(
        &mut self,
        lane: Lane,
        state: &mut LaneState,
        through: u64,
    ) -> Result<(), SpoolError> {
        let through = through.min(state.marks.acked);
        while let Some(head) = self.first(lane, 0)?
            && head.last <= through
        {
            self.remove(lane, head.first)?;
            state.kept = state.kept.saturating_sub(head.bytes);
        }
        let number = lane.number();
        self.acks
            .retain(|(of, position), _| of != number || position > through)
            .map_err(storage("write a lane"))
    }

    /// Removes acknowledged batches, the oldest of all lanes first, until `bytes` are free.
    pub(super) fn evict(&mut self, lanes: &mut Lanes, bytes: u64) -> Result<(), SpoolError> {
        let mut freed = 0;
        while freed < bytes {
            let mut oldest: Option<(Lane, Head)> = None;
            for (lane, state) in lanes.iter() {
                let found = self.first(*lane, 0)?;
                if let Some(head) = found.filter(|head| head.last <= state.marks.acked)
                    && oldest.is_none_or(|(_, other)| head.made_at_ms < other.made_at_ms)
                {
                    oldest = Some((*lane, head));
                }
            }
            let Some((lane, head)) = oldest else {
                return Ok(());
            };
            self.remove(lane, head.first)?;
            if let Some(state) = lanes.get_mut(&lane) {
                state.kept = state.kept.saturating_sub(head.bytes);
            }
            freed += head.bytes;
        }
        Ok(())
    }

    /// Returns up to which position a lane's acknowledgements are as old as `until_ms`.
    pub(super) fn expired(&self, lane: Lane, until_ms: i64) -> Result<Option<u64>, SpoolError> {
        let number = lane.number();
        let range = (number, 0)..=(number, u64::MAX);
        let found = self.acks.range(range).map_err(storage("read a lane"))?;
        let mut through = None;
        for entry in found {
            let (place, at) = entry.map_err(storage("read a lane"))?;
            if at.value() > until_ms {
                break;
            }
            through = Some(place.value().1);
        }
        Ok(through)
    }
}

/// Returns the first batch of a lane whose first item is at `from` or behind it.
pub(super) fn first(
    heads: &impl ReadableTable<(u8, u64), (u64, u64, i64)>,
    lane: Lane,
    from: u64,
) -> Result<Option<Head>, SpoolError> {
    let number = lane.number();
    let range = (number, from)..=(number, u64::MAX);
    let mut found = heads.range(range).map_err(storage("look for a batch"))?;
    let entry = found.next().transpose();
    let entry = entry.map_err(storage("look for a batch"))?;
    Ok(entry.map(|(place, head)| head_of(place.value(), head.value())))
}

/// Returns the last batch of a lane whose first item is at `to` or before it.
pub(super) fn last(
    heads: &impl ReadableTable<(u8, u64), (u64, u64, i64)>,
    lane: Lane,
    to: u64,
) -> Result<Option<Head>, SpoolError> {
    let number = lane.number();
    let range = (number, 0)..=(number, to);
    let mut found = heads.range(range).map_err(storage("look for a batch"))?;
    let entry = found.next_back().transpose();
    let entry = entry.map_err(storage("look for a batch"))?;
    Ok(entry.map(|(place, head)| head_of(place.value(), head.value())))
}

fn head_of((_, first): (u8, u64), (last, bytes, made_at_ms): (u64, u64, i64)) -> Head {
    Head {
        first,
        last,
        bytes,
        made_at_ms,
    }
}

fn count(
    heads: &impl ReadableTable<(u8, u64), (u64, u64, i64)>,
    lane: Lane,
    marks: Marks,
) -> Result<LaneState, SpoolError> {
    let mut state = LaneState {
        marks,
        ..LaneState::default()
    };
    let number = lane.number();
    let range = (number, 0)..=(number, u64::MAX);
    for entry in heads.range(range).map_err(storage("count batches"))? {
        let (place, head) = entry.map_err(storage("count batches"))?;
        let head = head_of(place.value(), head.value());
        if head.last <= marks.acked {
            state.kept += head.bytes;
        } else {
            state.waiting += head.bytes;
            if state.oldest_ms == 0 {
                state.oldest_ms = head.made_at_ms;
            }
        }
    }
    Ok(state)
}

/// Reads every lane's numbers.
pub(super) fn read_lanes(read: &ReadTransaction) -> Result<Lanes, SpoolError> {
    let heads = read.open_table(HEADS).map_err(storage("open the heads"))?;
    let marks = read.open_table(LANES).map_err(storage("open the lanes"))?;
    let acks = read
        .open_table(ACKS)
        .map_err(storage("open the acknowledgements"))?;
    let mut lanes = Lanes::new();
    for lane in Lane::DATA {
        let number = lane.number();
        let found = marks.get(number).map_err(storage("read a lane"))?;
        let marks = found.map_or_else(Marks::default, |found| {
            let (next, acked, sent, base) = found.value();
            Marks {
                next,
                acked,
                sent,
                base,
            }
        });
        let mut state = count(&heads, lane, marks)?;
        let range = (number, 0)..=(number, u64::MAX);
        let mut found = acks.range(range).map_err(storage("read a lane"))?;
        let latest = found.next_back().transpose();
        let latest = latest.map_err(storage("read a lane"))?;
        state.acked_at_ms = latest.map_or(0, |(_, at)| at.value());
        lanes.insert(lane, state);
    }
    Ok(lanes)
}
