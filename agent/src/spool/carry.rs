//! What an export asks of the spool: which batches wait, without opening them.

use protocol::frame::Lane;

use super::SpoolError;
use super::engine::{Engine, storage};
use super::ledger;
use super::tables::HEADS;

/// A batch that waits, or the place of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lane: Lane,
    /// Sequence behind which it comes; what lies between is lost.
    pub(crate) after_seq: u64,
    /// Sequence of its last item.
    pub(crate) last_seq: u64,
    /// At least the length of its frame.
    pub(crate) frame_bytes: usize,
}

impl Engine {
    /// Lists what waits for the hub, lane by lane, in order.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(crate) fn waiting_batches(&mut self) -> Result<Vec<Place>, SpoolError> {
        self.guarded(|engine| {
            let read = engine.read()?;
            let heads = read.open_table(HEADS).map_err(storage("open the heads"))?;
            let mut places = Vec::new();
            for lane in Lane::DATA {
                let marks = engine.lane(lane).marks;
                let mut after = marks.acked;
                while let Some(head) = ledger::first(&heads, lane, after + 1)? {
                    places.push(Place {
                        lane,
                        after_seq: after.saturating_sub(marks.base),
                        last_seq: head.last.saturating_sub(marks.base),
                        frame_bytes: usize::try_from(head.bytes).unwrap_or(usize::MAX),
                    });
                    after = head.last.max(after + 1);
                }
            }
            Ok(places)
        })
    }
}
