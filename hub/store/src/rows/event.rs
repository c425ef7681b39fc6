//! Events: blocks as the agent compressed them, what a search asks and what it gets; what was
//! refused, and what was lost.

use std::fmt;

use jiff::Timestamp;
use protocol::event::EventRecord;
use protocol::ids::{AgentId, EventId, SourceId};
use protocol::wire::v1::{Epoch, LostReason};
use serde::{Deserialize, Serialize};

use super::{at, maybe_at};
pub use crate::org::search::{EventIndex, IndexBuilder, holds_words};

/// A block of events to be stored.
#[derive(Debug, Clone)]
pub struct EventBlock {
    /// The agent that sent it.
    pub agent: AgentId,
    /// The source that read it.
    pub source: SourceId,
    /// The hub's clock at receipt.
    pub received_at: Timestamp,
    /// Epoch of the agent's spool; with `first_seq` it ties the block to its signed header.
    pub epoch: Epoch,
    /// Sequence number of the block's first event.
    pub first_seq: u64,
    /// The payload exactly as the agent compressed it ([`protocol::batch`]).
    pub payload: Vec<u8>,
    /// Size of the payload before compression, in bytes, as the signed header states it.
    pub payload_bytes: u32,
}

/// [`EventBlock`] as stored: this head, then the payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BlockHead {
    pub(crate) agent: AgentId,
    pub(crate) source: SourceId,
    #[serde(with = "at")]
    pub(crate) received_at: Timestamp,
    pub(crate) epoch: Epoch,
    pub(crate) first_seq: u64,
    pub(crate) payload_bytes: u32,
}

/// One stored event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Id: its block and its place in it.
    pub id: EventId,
    /// The agent that sent it.
    pub agent: AgentId,
    /// The source that read it.
    pub source: SourceId,
    /// The hub's clock at receipt.
    pub received_at: Timestamp,
    /// The event itself.
    pub record: EventRecord,
}

/// The key of a block: receipt time and counter. Twelve bytes, ordered by receipt.
///
/// ```text
/// 0       6      8         12      16
/// ├ time ─┼ salt ┼ counter ┼ index ┤      milliseconds since 1970, big endian throughout
/// └────── block key ───────┘       │
/// └─────────── event id ───────────┘
/// ```
/// The salt is drawn when a store is opened, so that a clock that steps back over a restart cannot
/// name a block twice; that it does not exist yet is checked at the commit all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey(pub(crate) [u8; 12]);

impl BlockKey {
    /// Returns the id of the event at a place of this block.
    pub fn event(self, index: u32) -> EventId {
        let mut bytes = [0u8; 16];
        let (block, place) = bytes.split_at_mut(12);
        block.copy_from_slice(&self.0);
        place.copy_from_slice(&index.to_be_bytes());
        EventId::from_bytes(bytes)
    }

    /// Returns the block and the place that an event id names.
    pub fn of(id: EventId) -> (Self, u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, index @ ..] = *id.as_bytes();
        let key = Self([a, b, c, d, e, f, g, h, i, j, k, l]);
        (key, u32::from_be_bytes(index))
    }
}

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What a search asks. Every given part must hold.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Earliest event time, inclusive.
    pub since: Option<Timestamp>,
    /// Latest event time, exclusive.
    pub until: Option<Timestamp>,
    /// Least severity, OCSF `severity_id`.
    pub severity_at_least: Option<u8>,
    /// Terms that must all occur in the event, as whole words, without regard to case. A term may
    /// hold several words (`"root login"`, `10.0.0.1`); they must then stand together.
    pub text: Vec<String>,
    /// The whole of the actor, without regard to case.
    pub actor: Option<String>,
    /// The whole of the resource, without regard to case.
    pub resource: Option<String>,
    /// The whole of the source address.
    pub src_ip: Option<String>,
    /// The source that read it.
    pub source: Option<SourceId>,
    /// Most events to return.
    pub limit: usize,
    /// Where the last page ended ([`EventPage::next`]).
    pub before: Option<EventId>,
}

/// A page of a search, newest receipt first.
#[derive(Debug, Clone)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// Where the next page begins; `None` when the search has come to its end.
    pub next: Option<EventId>,
    /// Blocks whose index was read.
    pub blocks_seen: u64,
    /// Blocks that had to be opened.
    pub blocks_opened: u64,
}

/// An item that was refused, kept so that a person can see why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The hub's clock at receipt.
    #[serde(with = "at")]
    pub at: Timestamp,
    /// The agent that sent it.
    pub agent: AgentId,
    /// The source that read it, where the item says.
    pub source: Option<SourceId>,
    /// Why it was refused, in a clause.
    pub reason: String,
    /// The beginning of the item, scrubbed; cut to [`QUARANTINE_TEXT_BYTES`] by the store.
    pub what: String,
}

/// Items that an agent had and cannot send any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The hub's clock at receipt.
    #[serde(with = "at")]
    pub at: Timestamp,
    /// The agent.
    pub agent: AgentId,
    /// The source that had read them; nil where several had.
    pub source: SourceId,
    /// Lane number.
    pub lane: u8,
    /// The spool's epoch, to which the sequences belong.
    pub epoch: Epoch,
    /// Sequence of the first.
    pub first_seq: u64,
    /// Sequence of the last.
    pub last_seq: u64,
    /// Records beyond those: they were never given a sequence.
    pub unsequenced: u64,
    /// Why.
    pub reason: LostReason,
    /// When the first was made, by the agent's clock, where that is known.
    #[serde(with = "maybe_at")]
    pub from: Option<Timestamp>,
    /// When the last was made.
    #[serde(with = "maybe_at")]
    pub to: Option<Timestamp>,
}

impl Loss {
    /// Returns how many records are lost.
    pub fn records(&self) -> u64 {
        let sequenced = self
            .last_seq
            .saturating_sub(self.first_seq)
            .saturating_add(1);
        sequenced.saturating_add(self.unsequenced)
    }
}

/// Most rows of losses in an organisation; beyond it only the counter grows.
pub const LOSS_ROWS: u64 = 10_000;

/// How much of a refused item is kept, in bytes: enough to recognise it, too little to store by.
pub const QUARANTINE_TEXT_BYTES: usize = 512;

/// Most rows in an organisation's quarantine; beyond it only the counters grow.
pub const QUARANTINE_ROWS: u64 = 10_000;
