//! One connection: ordered streams both ways, and what can happen to them.

use std::collections::{BTreeMap, VecDeque};

use protocol::frame::Lane;
use protocol::mux::{Demux, Mux, Piece};

use crate::{Violation, violated};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Toward {
    Hub,
    Agent,
}

/// The streams of one way.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Pieces under way, each with its lane. The key is the stream.
    streams: BTreeMap<u8, VecDeque<(Lane, Vec<u8>)>>,
    /// When the last piece of a stream arrives: the next never comes before it.
    last_ms: BTreeMap<u8, u64>,
    /// Of a way whose lanes are one stream: what sorts them again.
    mux: Mux,
    demux: Demux,
    /// Nothing arrives before this.
    pub(crate) frozen_until_ms: u64,
    /// Nothing arrives any more, and nobody is told.
    pub(crate) is_black_hole: bool,
}

impl Way {
    /// Puts a piece on a stream; returns when it arrives.
    pub(crate) fn push(&mut self, stream: u8, lane: Lane, piece: Vec<u8>, due_ms: u64) -> u64 {
        let last = self.last_ms.entry(stream).or_default();
        *last = due_ms.max(*last);
        self.streams
            .entry(stream)
            .or_default()
            .push_back((lane, piece));
        *last
    }

    /// Returns the next frames that go onto a stream of all lanes.
    pub(crate) fn mix(&mut self, lane: Lane, frames: Vec<u8>) -> Vec<u8> {
        self.mux.push(lane, frames);
        std::iter::from_fn(|| self.mux.pop()).flatten().collect()
    }

    /// Sorts what came on a stream of all lanes.
    pub(crate) fn sort(&mut self, piece: &[u8]) -> Result<Vec<(Lane, Vec<u8>)>, Violation> {
        let pieces = self.demux.push(piece);
        let pieces = pieces.map_err(|error| violated(format!("what was mixed: {error}")))?;
        let bytes = |piece| match piece {
            Piece::Bytes(lane, bytes) => Some((lane, bytes)),
            Piece::Close(_) => None,
        };
        Ok(pieces.into_iter().filter_map(bytes).collect())
    }

    pub(crate) fn front(&self, stream: u8) -> Option<Lane> {
        Some(self.streams.get(&stream)?.front()?.0)
    }

    pub(crate) fn pop(&mut self, stream: u8) -> Option<(Lane, Vec<u8>)> {
        self.streams.get_mut(&stream)?.pop_front()
    }
}

/// A connection between the process of one agent and the hub.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) agent: usize,
    pub(crate) to_hub: Way,
    pub(crate) to_agent: Way,
    /// Whether all lanes are one stream.
    pub(crate) one_order: bool,
    /// Bytes that still arrive, both ways together, before the connection breaks.
    pub(crate) cut_after: Option<u64>,
    /// Whether a batch of another agent was put on it.
    pub(crate) is_forged: bool,
    /// Whether the agent, and the hub, still hold their ends.
    pub(crate) agent_holds: bool,
    pub(crate) hub_holds: bool,
}

impl Wire {
    pub(crate) fn new(agent: usize, one_order: bool) -> Self {
        Self {
            agent,
            to_hub: Way::default(),
            to_agent: Way::default(),
            one_order,
            cut_after: None,
            is_forged: false,
            agent_holds: true,
            hub_holds: true,
        }
    }

    pub(crate) fn stream_of(&self, lane: Lane) -> u8 {
        if self.one_order { 0 } else { lane.number() }
    }

    pub(crate) fn way(&mut self, toward: Toward) -> &mut Way {
        match toward {
            Toward::Hub => &mut self.to_hub,
            Toward::Agent => &mut self.to_agent,
        }
    }

    /// Takes the part of a piece that arrives before the connection breaks; says whether it does.
    pub(crate) fn spend(&mut self, piece: &mut Vec<u8>) -> bool {
        let Some(left) = self.cut_after.as_mut() else {
            return false;
        };
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if length < *left {
            *left -= length;
            return false;
        }
        piece.truncate(usize::try_from(*left).unwrap_or(0));
        true
    }
}
