//! The audit log: who did what, each entry bound to the one before.

use jiff::Timestamp;
use protocol::ids::OrgId;
use serde::{Deserialize, Serialize};

use super::at;
use super::finding::Actor;

/// An act to be recorded. No secret may be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditAct {
    /// When, by the hub's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What, as a dotted verb: `finding.mute`, `agent.enrol`.
    pub action: String,
    /// On what: an id or a name.
    pub object: String,
    /// More, in a clause; may be empty.
    pub detail: String,
}

/// A recorded act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Place in the log, from 1, without gaps.
    pub seq: u64,
    /// When, by the hub's clock.
    #[serde(with = "at")]
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: String,
    /// On what.
    pub object: String,
    /// More.
    pub detail: String,
    /// Hash of the entry before; zeros for the first.
    pub prev_hash: [u8; 32],
    /// Hash of this entry: BLAKE3 over the organisation, `prev_hash` and every field above.
    pub hash: [u8; 32],
}

/// The end of the log: what an acknowledgement carries, so that agents notice a hub that went
/// backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditHead {
    /// Place of the last entry; 0 when there is none.
    pub seq: u64,
    /// Hash of the last entry.
    pub hash: [u8; 32],
}

/// Where an audit log stops being what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("audit entry {seq}: {reason}")]
pub struct AuditFault {
    /// Place of the first bad entry.
    pub seq: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// The end of an organisation's log at one moment. Signed, it is a witness in another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose log.
    pub org: OrgId,
    /// Its end.
    pub head: AuditHead,
    /// When, by the hub's clock.
    #[serde(with = "at")]
    pub at: Timestamp,
}

impl Checkpoint {
    /// Returns the bytes that are signed.
    ///
    /// ```text
    /// "zero-x audit checkpoint 1" ‖ organisation 16 ‖ sequence u64 BE ‖ hash 32 ‖ milliseconds i64 BE
    /// ```
    pub fn message(&self) -> Vec<u8> {
        [
            b"zero-x audit checkpoint 1".as_slice(),
            self.org.as_bytes(),
            &self.head.seq.to_be_bytes(),
            &self.head.hash,
            &self.at.as_millisecond().to_be_bytes(),
        ]
        .concat()
    }
}

/// A checkpoint with the hub's signature over [`Checkpoint::message`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// What is signed.
    pub checkpoint: Checkpoint,
    /// The signature.
    pub signature: Vec<u8>,
}

/// How long checkpoints are kept, in days. There is one for each day on which the log grew.
pub const CHECKPOINT_DAYS: u32 = 400;
