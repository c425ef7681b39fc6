//! What is known of an agent whose batches come in bundles.

use std::fmt;

use jiff::Timestamp;
use protocol::bundle::Digest;
use protocol::ids::AgentId;
use protocol::wire::v1::Epoch;
use serde::{Deserialize, Serialize};

use super::at;

/// The chain of bundles that one agent's batches come in by, as far as it is remembered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The agent.
    pub agent: AgentId,
    /// Bundles that were taken: number, digest of the last volume; oldest first.
    pub taken: Vec<(u64, Digest)>,
    /// Bundles before the greatest one that never came, and may still come.
    pub missing: Vec<u64>,
    /// Bundles that never came and whose gap was accepted: what they held cannot be stored.
    pub given_up: Vec<u64>,
    /// Epoch of the spool that the last bundle was of.
    pub epoch: Epoch,
    /// When the last one was taken, by the hub's clock.
    #[serde(with = "at")]
    pub taken_at: Timestamp,
    /// Whether something was taken since the last reply was written.
    pub is_unanswered: bool,
    /// The key that replies are sealed with. A secret; none before the first bundle.
    pub reply_key: Option<[u8; 32]>,
    /// Scopes to ask for whole in the next reply; empty text for all.
    pub resync: Vec<String>,
    /// The certificate chain, DER, that the first reply carries to an agent that asked for it by
    /// a request.
    pub issued: Vec<Vec<u8>>,
    /// BLAKE3 of that request.
    pub request: Option<[u8; 32]>,
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried")
            .field("agent", &self.agent)
            .field("last", &self.last())
            .field("missing", &self.missing)
            .field("given_up", &self.given_up)
            .field("is_unanswered", &self.is_unanswered)
            .finish_non_exhaustive()
    }
}

impl Carried {
    /// Returns what is known of an agent of which no bundle has come.
    pub fn none(agent: AgentId) -> Self {
        Self {
            agent,
            taken: Vec::new(),
            missing: Vec::new(),
            given_up: Vec::new(),
            epoch: Epoch::default(),
            taken_at: Timestamp::UNIX_EPOCH,
            is_unanswered: false,
            reply_key: None,
            resync: Vec::new(),
            issued: Vec::new(),
            request: None,
        }
    }

    /// Returns number and digest of the taken bundle with the greatest number; 0 and zeros before
    /// the first.
    pub fn last(&self) -> (u64, Digest) {
        self.taken.iter().max().copied().unwrap_or_default()
    }
}
