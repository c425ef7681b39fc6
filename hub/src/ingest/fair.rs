//! The queue before the store: sessions wait here for their turn, each batch by its lane, and
//! nothing is dropped. Who waits is held back by its session, which reads no further.
//!
//! [`round`] decides; this carries its decisions to the sessions. The turn of a batch lives as long
//! as the store works on it, also when its session has ended meanwhile: a storm of sessions that
//! send a batch and die cannot pile up more than there is room for.

mod round;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::frame::Lane;
use protocol::ids::{AgentId, OrgId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use round::{Bounds, Room, Round, SeatId};

/// Bytes of one turn: a full batch, decompressed and compressed.
const QUANTUM: u64 = 512 << 10;

/// Room of one organisation. In bytes some six full batches, which keep two cores and the disk
/// busy and hold up another organisation's batch by some milliseconds; in batches one group of its
/// store's commits, so that small ones share a sync.
const ORG_ROOM: Room = Room {
    batches: 64,
    bytes: 2 << 20,
};

/// Room of all organisations: eight busy ones. The hub holds at most this, and one batch of
/// [`protocol::limits::PAYLOAD_BYTES`] more, in decompressed bytes at work.
const ALL_ROOM: Room = Room {
    batches: 256,
    bytes: 16 << 20,
};

/// What a seat is told.
#[derive(Debug, Default)]
struct Desk {
    bell: Arc<Notify>,
    /// Granted, and not yet taken.
    granted: Option<Lane>,
}

/// How long the queue of an organisation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length {
    /// Batches that wait for their turn.
    pub(crate) waiting: u64,
    /// Batches in the store's hands.
    pub(crate) at_work: u64,
}

#[derive(Debug)]
struct State {
    round: Round,
    desks: BTreeMap<SeatId, Desk>,
}

impl State {
    /// Grants what there is room for.
    fn turn(&mut self) {
        while let Some(grant) = self.round.grant() {
            match self.desks.get_mut(&grant.seat) {
                Some(desk) => {
                    desk.granted = Some(grant.lane);
                    desk.bell.notify_one();
                }
                // A seat leaves the round before its desk goes, so this does not happen; the room
                // is more important than the reason.
                None => self.round.done(grant.seat),
            }
        }
    }
}

/// The queue of the whole hub.
#[derive(Debug)]
pub(crate) struct Fair {
    state: Mutex<State>,
    /// Batches in the store's hands.
    at_work: TaskTracker,
}

impl Default for Fair {
    fn default() -> Self {
        let round = Round::new(Bounds {
            quantum: QUANTUM,
            org: ORG_ROOM,
            all: ALL_ROOM,
        });
        Self {
            state: Mutex::new(State {
                round,
                desks: BTreeMap::new(),
            }),
            at_work: TaskTracker::new(),
        }
    }
}

impl Fair {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it is held would be one of the round's own, and its counts are then what
        // they were: every change is made of steps that cannot fail half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how long the queue of each organisation is that has sessions.
    pub(crate) fn lengths(&self) -> BTreeMap<OrgId, Length> {
        let state = self.state();
        let lengths = state.round.lengths();
        lengths
            .map(|(org, waiting, at_work)| (org, Length { waiting, at_work }))
            .collect()
    }

    /// Gives a session its place. One of an older session of the same agent is void from here on.
    pub(super) fn seat(self: &Arc<Self>, org: OrgId, agent: AgentId) -> Seat {
        let mut state = self.state();
        let id = state.round.sit(org, agent);
        let desk = Desk::default();
        let bell = Arc::clone(&desk.bell);
        state.desks.insert(id, desk);
        // What the older one gave up may be room.
        state.turn();
        drop(state);
        Seat {
            fair: Arc::clone(self),
            id,
            bell,
        }
    }

    /// Runs what has a turn. It runs to its end whether or not anybody waits for it.
    pub(super) fn run<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
    ) -> JoinHandle<R> {
        self.at_work.spawn(work)
    }

    /// Waits until nothing is in the store's hands. Called when no session is left.
    pub(super) async fn drained(&self) {
        self.at_work.close();
        self.at_work.wait().await;
    }
}

/// A session's place in the queue; dropped, it forgets what waits.
#[derive(Debug)]
pub(super) struct Seat {
    fair: Arc<Fair>,
    id: SeatId,
    bell: Arc<Notify>,
}

impl Seat {
    /// Puts a batch of so many bytes behind those of its lane.
    pub(super) fn wait(&self, lane: Lane, bytes: usize) {
        let mut state = self.fair.state();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        state.round.wait(self.id, lane, bytes);
        state.turn();
    }

    /// Forgets what waits of a lane. Must not be called between a grant and its [`Turn`].
    pub(super) fn withdraw(&self, lane: Lane) {
        let mut state = self.fair.state();
        state.round.withdraw(self.id, lane);
        state.turn();
    }

    /// Waits for the turn of the next batch.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the turn stays and is returned by the next call.
    pub(super) async fn granted(&self) -> Turn {
        loop {
            let rung = self.bell.notified();
            let granted = {
                let mut state = self.fair.state();
                let desk = state.desks.get_mut(&self.id);
                desk.and_then(|desk| desk.granted.take())
            };
            if let Some(lane) = granted {
                return Turn {
                    fair: Arc::clone(&self.fair),
                    seat: self.id,
                    lane,
                };
            }
            rung.await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.fair.state();
        state.round.leave(self.id);
        let desk = state.desks.remove(&self.id);
        if desk.is_some_and(|desk| desk.granted.is_some()) {
            state.round.done(self.id);
        }
        state.turn();
    }
}

/// The right to have one batch in the store's hands; dropped, the next one's begins.
#[derive(Debug)]
pub(super) struct Turn {
    fair: Arc<Fair>,
    seat: SeatId,
    lane: Lane,
}

impl Turn {
    /// Returns the lane whose oldest batch it is.
    pub(super) fn lane(&self) -> Lane {
        self.lane
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.fair.state();
        state.round.done(self.seat);
        state.turn();
    }
}

#[cfg(test)]
mod tests;
