//! Frames that wait to be written.

use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::frame::Lane;
use protocol::mux::Mux;
use tokio::sync::Notify;

/// Frames that wait for a stream, the most urgent lane first.
///
/// Bounded by the session: it sends no more than the hub's credit for each lane.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Mutex<Mux>,
    filled: Notify,
}

impl Outbox {
    fn frames(&self) -> MutexGuard<'_, Mux> {
        // No holder of this lock panics.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, lane: Lane, frames: Vec<u8>) {
        self.frames().push(lane, frames);
        self.filled.notify_one();
    }

    /// Returns what is to be written next, if anything waits.
    pub(super) fn pop(&self) -> Option<Vec<u8>> {
        self.frames().pop()
    }

    /// Waits for what is to be written next. For one writer.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken unless it is returned.
    pub(super) async fn next(&self) -> Vec<u8> {
        loop {
            if let Some(frames) = self.pop() {
                return frames;
            }
            self.filled.notified().await;
        }
    }
}
