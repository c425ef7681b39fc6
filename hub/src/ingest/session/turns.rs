//! Where batches of a session wait: for the quota before they are read, for their turn after.

use std::collections::VecDeque;
use std::time::Instant;

use jiff::Timestamp;
use protocol::batch::SealedBatch;
use protocol::frame::Lane;
use protocol::limits::FRAME_TIME;
use protocol::wire::v1::Content;
use tokio::task::{JoinError, JoinHandle};

use super::{Drive, Ending};
use crate::ingest::fair::Turn;
use crate::ingest::intake::{Intake, IntakeError, Taken};
use crate::ingest::quota::Spent;

/// Largest piece given to the state machine at once, in bytes: what a hostile peer can make of it
/// before [`HELD_BYTES`] and the quota are looked at again is some twenty small batches.
const FEED_BYTES: usize = 4 << 10;

/// Bytes of batches that wait, as if decompressed, from which no more of the data lanes is read.
const HELD_BYTES: usize = 8 << 20;

/// What became of a batch that was given to the store.
pub(super) struct Answer {
    pub(super) intake: Intake,
    pub(super) lane: Lane,
    pub(super) bytes: usize,
    pub(super) taken: Result<Taken, IntakeError>,
    /// Ends with the answer.
    pub(super) _turn: Turn,
}

/// Waits for the answer that is due; for ever when none is.
pub(super) async fn next_answer(
    answering: &mut Option<JoinHandle<Answer>>,
) -> Result<Answer, JoinError> {
    match answering {
        Some(answer) => {
            let answer = answer.await;
            *answering = None;
            answer
        }
        None => std::future::pending().await,
    }
}

impl Drive {
    /// Gives the core what waits, until enough batches wait in turn or the quota is used up.
    pub(super) fn feed(&mut self) -> Result<(), Ending> {
        self.held_until = None;
        while self.held_bytes < HELD_BYTES
            && self.may_read()
            && let Some((lane, mut bytes)) = self.piece.take()
        {
            let some = bytes.split_to(FEED_BYTES.min(bytes.len()));
            if !bytes.is_empty() {
                self.piece = Some((lane, bytes));
            }
            self.spend(some.len(), 0);
            self.give(lane, &some)?;
        }
        if self.piece.is_some() {
            self.frames.held(Instant::now());
        }
        Ok(())
    }

    /// Gives up an agent that does not end what it has begun to send.
    pub(super) fn check_frames(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if self.piece.is_some() {
            self.frames.held(now);
        }
        match self.frames.late(now) {
            None => Ok(()),
            Some(lane) => {
                let seconds = FRAME_TIME.as_secs();
                let reason = format!("a frame of lane {lane:?} took longer than {seconds} seconds");
                Err(self.breaks(reason).into())
            }
        }
    }

    /// Says whether the quota lets more of the data lanes be read.
    fn may_read(&mut self) -> bool {
        let at = Instant::now();
        if self.piece.is_some() {
            self.held_until = self.pace.hold(at, Timestamp::now());
        }
        let throttled = self.pace.throttled(at);
        if self.throttled != throttled {
            self.throttled = throttled;
            self.registered.throttled(throttled);
        }
        self.held_until.is_none()
    }

    fn spend(&self, bytes: usize, events: usize) {
        let spent = Spent {
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            events: u64::try_from(events).unwrap_or(u64::MAX),
        };
        self.pace.spend(spent, Instant::now());
    }

    /// Lets a batch wait for its turn.
    pub(super) fn queue(&mut self, batch: Box<SealedBatch>) {
        let header = &batch.header;
        let lane = Lane::from_number(header.lane).unwrap_or(Lane::Control);
        let bytes = batch.held_bytes();
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        self.seat.wait(lane, bytes);
        let records = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        // What came over the wire has been counted as it was read.
        let rest = records.saturating_sub(batch.payload.len());
        let events = match (lane, header.content) {
            (Lane::Events, Content::Items) => usize::try_from(header.count).unwrap_or(usize::MAX),
            _ => 0,
        };
        self.spend(rest, events);
        self.work.entry(lane).or_default().push_back(batch);
    }

    /// Gives the batch whose turn it is to the store.
    pub(super) fn store(&mut self, turn: Turn) {
        let lane = turn.lane();
        let Some(mut intake) = self.intake.take() else {
            return;
        };
        let Some(batch) = self.work.get_mut(&lane).and_then(VecDeque::pop_front) else {
            self.intake = Some(intake);
            return;
        };
        let bytes = batch.held_bytes();
        self.answering = Some(self.fair.run(async move {
            let taken = intake.take(batch, Timestamp::now()).await;
            Answer {
                intake,
                lane,
                bytes,
                taken,
                _turn: turn,
            }
        }));
    }
}
