//! What is known of an agent whose batches come in bundles.

use std::fmt;

use jiff::Timestamp;
use protocol::bundle::Digest;
use protocol::ids::AgentId;
use protocol::wire::v1::Epoch;
use serde::{Deserialize, Serialize};

use super::at;

/// A request for the next certificate that came with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedRenewal {
    /// PKCS #10, DER, as it came.
    pub csr: Vec<u8>,
    /// The certificate that the bundle was signed with, DER.
    pub shown: Vec<u8>,
    /// Whether it was another than the newest: the hub was set back behind the agent's renewal.
    pub is_set_back: bool,
}

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
    /// The certificate chain, DER, that replies carry to an agent that asked for it, until a bundle
    /// is signed with it.
    pub issued: Vec<Vec<u8>>,
    /// BLAKE3 of the request to be enrolled.
    pub request: Option<[u8; 32]>,
    /// The request of the last bundle, which the next reply answers if it is time.
    pub renewal: Option<AskedRenewal>,
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
            renewal: None,
        }
    }

    /// Returns number and digest of the taken bundle with the greatest number; 0 and zeros before
    /// the first.
    pub fn last(&self) -> (u64, Digest) {
        self.taken.iter().max().copied().unwrap_or_default()
    }
}
