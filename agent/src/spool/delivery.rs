//! What the session asks of the spool: the next batch, and what the hub has stored.
//!
//! ```text
//!        kept          │            waiting             │
//!  ────┬────┬────┬─────┼─────┬─────┬─────┬─────┬────────┤
//!      oldest        acked                 sent        next      positions of one lane
//! ```
//! A hub that was restored asks behind `acked`: the mark goes back, and kept batches wait again. A
//! hub that knows more than was ever `sent` has met another life of this disk.

use jiff::Timestamp;
use protocol::batch::{self, Place};
use protocol::frame::Lane;
use protocol::session::agent::StoredBatch;
use protocol::wire::v1::{Lost, LostReason};
use redb::ReadTransaction;
use tracing::warn;

use super::engine::{Engine, storage};
use super::ledger::{self, Head, LaneState, Ledger};
use super::losses;
use super::row::RowPlace;
use super::tables::{BATCHES, HEADS};
use super::{Fetched, Released, SpoolError};

/// Longest run of items that one record of a loss stands for.
const LOST_ITEMS: u64 = 1 << 31;

impl Engine {
    /// Returns the first batch behind `after_seq`, or a record of what is lost there.
    pub(super) fn fetch(&mut self, lane: Lane, after_seq: u64) -> Result<Fetched, SpoolError> {
        self.guarded(|engine| engine.find(lane, after_seq))
    }

    fn find(&mut self, lane: Lane, after_seq: u64) -> Result<Fetched, SpoolError> {
        let marks = self.lane(lane).marks;
        let after = after_seq.saturating_add(marks.base);
        if after.saturating_add(1) >= marks.next {
            return Ok(Fetched::Nothing);
        }
        if after < marks.acked {
            warn!(
                ?lane,
                after_seq, "the hub lacks what it had acknowledged; it is sent again"
            );
            self.take_back(lane, after)?;
        }
        let read = self.read()?;
        let heads = read.open_table(HEADS).map_err(storage("open the heads"))?;
        // A mark of the hub within a batch is the hub's mistake: the session says so.
        let within = ledger::last(&heads, lane, after)?.filter(|head| head.last > after);
        let next = match within {
            Some(head) => Some(head),
            None => ledger::first(&heads, lane, after + 1)?,
        };
        let end = next.map_or(marks.next, |head| head.first);
        if end > after + 1 {
            return self.lose(lane, (after + 1, end - 1), LostReason::Released, (0, 0));
        }
        let Some(head) = next else {
            return Ok(Fetched::Nothing);
        };
        let frame = match self.unseal(&read, lane, head) {
            Ok(frame) => frame,
            Err(SpoolError::Sealed(error)) => {
                warn!(?lane, head.first, %error, "a batch is damaged");
                // The head may be what is damaged: the next batch says where this one ends.
                let following = ledger::first(&heads, lane, head.first + 1)?;
                let last = following.map_or(marks.next, |head| head.first) - 1;
                drop((heads, read));
                let made = (head.made_at_ms, head.made_at_ms);
                return self.lose(lane, (head.first, last), LostReason::Damaged, made);
            }
            Err(error) => return Err(error),
        };
        drop((heads, read));
        self.deliver(lane, (head.first, head.last), frame)
    }

    /// Opens a batch as it is sent under the present epoch.
    fn unseal(
        &self,
        read: &ReadTransaction,
        lane: Lane,
        head: Head,
    ) -> Result<Vec<u8>, SpoolError> {
        let batches = read
            .open_table(BATCHES)
            .map_err(storage("open the batches"))?;
        let key = (lane.number(), head.first);
        let found = batches.get(key).map_err(storage("read a batch"))?;
        let Some(value) = found else {
            return Err(SpoolError::Sealed(crate::seal::SealError::Short));
        };
        let place = RowPlace {
            birth: self.birth,
            lane,
            first: head.first,
            last: head.last,
            made_at_ms: head.made_at_ms,
        };
        let frame = place.open(&self.key, value.value())?;
        let first_seq = head.first.saturating_sub(self.lane(lane).marks.base);
        losses::for_epoch(lane, self.epoch, first_seq, frame, self.signer.as_ref())
    }

    /// Hands a batch out, once it is on the disk that it may have been sent.
    fn deliver(
        &mut self,
        lane: Lane,
        (first, last): (u64, u64),
        frame: Vec<u8>,
    ) -> Result<Fetched, SpoolError> {
        let mut state = self.lane(lane);
        if last > state.marks.sent {
            // All that waits at once: one write after an outage, not one for each batch.
            state.marks.sent = state.marks.next - 1;
            let write = self.begin()?;
            Ledger::open(&write)?.mark(lane, state.marks)?;
            self.durably(write)?;
            self.lanes.insert(lane, state);
        }
        Ok(Fetched::Batch(StoredBatch {
            first_seq: first.saturating_sub(state.marks.base),
            last_seq: last.saturating_sub(state.marks.base),
            frame,
        }))
    }

    /// Lets what follows `position` wait again. Durable, so that none of it is let go before the
    /// hub has it.
    fn take_back(&mut self, lane: Lane, position: u64) -> Result<(), SpoolError> {
        let mut state = self.lane(lane);
        let write = self.begin()?;
        Ledger::open(&write)?.take_back(lane, &mut state, position)?;
        self.durably(write)?;
        self.lanes.insert(lane, state);
        self.publish();
        Ok(())
    }

    /// Puts a record in the place of items that cannot be sent any more, and hands it out. `made`
    /// holds when the first and the last of them were, 0 where that is not known.
    fn lose(
        &mut self,
        lane: Lane,
        (first, last): (u64, u64),
        reason: LostReason,
        made: (i64, i64),
    ) -> Result<Fetched, SpoolError> {
        let last = last.min(first.saturating_add(LOST_ITEMS - 1));
        let frame = self.put_lost(lane, (first, last), reason, made)?;
        self.deliver(lane, (first, last), frame)
    }

    /// Puts a record behind all that a lane holds, for items that were in a damaged file.
    pub(super) fn lose_more(
        &mut self,
        lane: Lane,
        items: u64,
        from_ms: i64,
    ) -> Result<(), SpoolError> {
        let first = self.lane(lane).marks.next;
        let last = first + items.clamp(1, LOST_ITEMS) - 1;
        let made = (from_ms, 0);
        self.put_lost(lane, (first, last), LostReason::Damaged, made)
            .map(drop)
    }

    fn put_lost(
        &mut self,
        lane: Lane,
        (first, last): (u64, u64),
        reason: LostReason,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<Vec<u8>, SpoolError> {
        let mut state = self.lane(lane);
        let base = state.marks.base;
        let place = Place {
            lane,
            epoch: self.epoch,
            first_seq: first.saturating_sub(base),
            source: losses::source(self.birth),
            made_at_ms: Timestamp::now().as_millisecond(),
        };
        let lost = Lost {
            reason,
            from_ms,
            to_ms,
            unsequenced: 0,
        };
        let count = u32::try_from(last + 1 - first).unwrap_or(u32::MAX);
        let (header, frame) = batch::seal_lost(&place, count, &lost, self.signer.as_ref())?;
        let sequences = (header.first_seq, header.last_seq());
        let loss = losses::loss(lane, self.epoch, sequences, reason);
        warn!(
            lane = %loss.lane,
            from = loss.first_seq,
            to = loss.last_seq,
            items = loss.items,
            reason = %loss.reason,
            "items are lost; the hub is told"
        );
        let row = self.row(lane, (first, last), place.made_at_ms, &frame);
        state.marks.next = state.marks.next.max(last + 1);
        let write = self.begin()?;
        {
            let mut ledger = Ledger::open(&write)?;
            ledger.insert(&row)?;
            ledger.recount(lane, &mut state)?;
            ledger.mark(lane, state.marks)?;
        }
        losses::note(&write, &loss)?;
        self.durably(write)?;
        self.lanes.insert(lane, state);
        self.publish();
        self.gauges.set_losses(losses::read(&self.read()?)?);
        Ok(frame)
    }

    /// Takes note that the hub has stored everything up to `through_seq`.
    ///
    /// Not durable by itself: a crash only brings back what the hub says again to have.
    pub(super) fn release(&mut self, lane: Lane, through_seq: u64) -> Result<Released, SpoolError> {
        self.guarded(|engine| engine.acknowledged(lane, through_seq))
    }

    fn acknowledged(&mut self, lane: Lane, through_seq: u64) -> Result<Released, SpoolError> {
        let mut state = self.lane(lane);
        let through = through_seq.saturating_add(state.marks.base);
        // What was sent before the disk was set back, the hub has as it is here.
        let told = through.min(state.marks.sent);
        if told > state.marks.acked {
            self.acknowledge(lane, &mut state, told)?;
        }
        Ok(if through > state.marks.sent {
            Released::Ahead
        } else {
            Released::Done
        })
    }

    fn acknowledge(
        &mut self,
        lane: Lane,
        state: &mut LaneState,
        through: u64,
    ) -> Result<(), SpoolError> {
        let now_ms = Timestamp::now().as_millisecond();
        let write = self.begin()?;
        {
            let mut ledger = Ledger::open(&write)?;
            ledger.acknowledge(lane, state, through, now_ms)?;
            if self.config.keep_acknowledged.is_zero() {
                ledger.drop_kept(lane, state, u64::MAX)?;
            }
        }
        self.lightly(write)?;
        self.lanes.insert(lane, *state);
        self.publish();
        Ok(())
    }
}
