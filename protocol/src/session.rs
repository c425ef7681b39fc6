//! The agent–hub session as two state machines without I/O.
//!
//! Bytes of a lane and instants go in; bytes of a lane and decisions come out. A driver moves
//! bytes between these and whatever carries the lanes (one bidirectional QUIC stream each, opened
//! by the agent), loads batches from the spool when [`agent::Output::Fetch`] asks, and commits
//! what [`hub::Output::Admit`] hands over.
//!
//! ```text
//! agent                                         hub
//!   Hello{epoch, versions}            ─▶
//!                                     ◀─  Welcome{version, hub epoch, high water, credit}
//!   Batch{lane, first..last} …        ─▶  verify, Admit ─▶ one durable commit
//!                                     ◀─  Ack{lane, seq} after it  │ Refused{expected}
//!   Heartbeat when silent             ◀▶  Heartbeat
//!   Renew{request} from half life     ─▶  Renewed{chain} │ NotRenewed{reason}
//! ```

use std::fmt;
use std::time::Instant;

use crate::batch::BatchError;
use crate::frame::{FrameError, Lane};

pub mod agent;
pub mod hub;

/// An instant on both clocks: the steady one for waiting, the wall for telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For waiting.
    pub at: Instant,
    /// Milliseconds since 1970 UTC, for greetings and heartbeats. Never trusted for order.
    pub wall_ms: i64,
}

/// Why a session was closed; the application close code on QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The peer is going away as planned.
    Done = 0,
    /// The peer broke the protocol.
    Protocol = 1,
    /// The agent showed no certificate, or one that the hub did not enrol.
    Unenrolled = 2,
    /// The agent has been revoked. It stops.
    Revoked = 3,
    /// The agent has been suspended. It keeps trying.
    Suspended = 4,
    /// A newer session of the same agent took over.
    Superseded = 5,
    /// The hub has too much to do; come back later.
    Busy = 6,
    /// No common wire version.
    Version = 7,
    /// Nothing was heard for too long.
    Silent = 8,
    /// The hub cannot store anything.
    Store = 9,
}

impl CloseCode {
    const ALL: [CloseCode; 10] = [
        CloseCode::Done,
        CloseCode::Protocol,
        CloseCode::Unenrolled,
        CloseCode::Revoked,
        CloseCode::Suspended,
        CloseCode::Superseded,
        CloseCode::Busy,
        CloseCode::Version,
        CloseCode::Silent,
        CloseCode::Store,
    ];

    /// Returns the number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Returns the code of a number, if it is known.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| u64::from(code.number()) == number)
    }

    /// Returns whether trying again with the same identity is pointless.
    pub const fn is_final(self) -> bool {
        matches!(self, CloseCode::Unenrolled | CloseCode::Revoked)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseCode::Done => "done",
            CloseCode::Protocol => "protocol violated",
            CloseCode::Unenrolled => "not enrolled",
            CloseCode::Revoked => "revoked",
            CloseCode::Suspended => "suspended",
            CloseCode::Superseded => "a newer session took over",
            CloseCode::Busy => "the hub is busy",
            CloseCode::Version => "no common version",
            CloseCode::Silent => "silent for too long",
            CloseCode::Store => "the hub cannot store",
        })
    }
}

/// Says why a session must be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The bytes are not frames.
    #[error("lane {lane:?} carries no frames")]
    Frame {
        /// The lane.
        lane: Lane,
        /// What is wrong.
        #[source]
        source: FrameError,
    },
    /// A message cannot be read.
    #[error("message {kind} cannot be read")]
    Message {
        /// Message number.
        kind: u8,
        /// What is wrong.
        #[source]
        source: postcard::Error,
    },
    /// A batch cannot be accepted.
    #[error("a batch of lane {lane:?} is refused")]
    Batch {
        /// The lane.
        lane: Lane,
        /// What is wrong.
        #[source]
        source: BatchError,
    },
    /// A message arrived that has no place here.
    #[error("{0}")]
    Unexpected(&'static str),
    /// The peers share no wire version.
    #[error("the agent speaks wire versions {agent_min} to {agent_max}, the hub {hub}")]
    Version {
        /// Lowest of the agent.
        agent_min: u8,
        /// Highest of the agent.
        agent_max: u8,
        /// The hub's.
        hub: u8,
    },
    /// The agent sent more than its credit.
    #[error("lane {lane:?} exceeds its credit of {credit_bytes} bytes")]
    Credit {
        /// The lane.
        lane: Lane,
        /// The bound.
        credit_bytes: u64,
    },
    /// The certificate has ended, and the agent did something else than renew it.
    #[error("the agent's certificate has ended: all it may do is renew it")]
    RenewOnly,
    /// Nothing arrived for [`crate::limits::IDLE_TIMEOUT`].
    #[error("nothing arrived for {} seconds", crate::limits::IDLE_TIMEOUT.as_secs())]
    Silent,
}

impl SessionError {
    /// A frame is of a version that was not agreed on.
    const OTHER_VERSION: Self = Self::Unexpected("a frame of another version than the session's");

    /// Returns the code to close the connection with.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Version { .. } => CloseCode::Version,
            Self::Silent => CloseCode::Silent,
            Self::Frame { .. }
            | Self::Message { .. }
            | Self::Batch { .. }
            | Self::Unexpected(_)
            | Self::RenewOnly
            | Self::Credit { .. } => CloseCode::Protocol,
        }
    }
}

#[cfg(test)]
mod tests;
