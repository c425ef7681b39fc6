//! Inventory: resources, their history, the scopes that are swept, the sources that sweep them.

use jiff::Timestamp;
use protocol::document::{ContentHash, Document, Gap, SetHash};
use protocol::ids::{AgentId, OrgId, ResourceId, SourceId};
use protocol::wire::v1::Resent;
use protocol::{Scope, Urn};
use serde::{Deserialize, Serialize};

use super::{SourceState, at, maybe_at};

/// A resource as it stands: its last document and where that came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// The last document.
    pub document: Document,
    /// Hash of the document without its time of reading.
    pub content_hash: ContentHash,
    /// When the hub first stored it.
    pub first_seen: Timestamp,
    /// When a sweep last confirmed it: the later of its last document and the last complete
    /// sweep of its scope.
    pub last_seen: Timestamp,
    /// When its content last changed.
    pub changed_at: Timestamp,
    /// When a sweep found it gone; `None` while it lives. A retired resource stays readable
    /// until retention forgets it.
    pub retired_at: Option<Timestamp>,
    /// The agent that sent it.
    pub agent: AgentId,
    /// The source that read it.
    pub source: SourceId,
    /// The sweep of its scope that last sent it.
    pub generation: u64,
    /// The commit that last wrote this row.
    pub commit: u64,
}

impl Resource {
    /// Returns the id of a resource of an organisation.
    pub fn id_of(org: OrgId, urn: &Urn) -> ResourceId {
        ResourceId::derived(&[org.as_bytes(), urn.to_string().as_bytes()])
    }
}

/// Where a document comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// The agent that sent it.
    pub agent: AgentId,
    /// The source that read it.
    pub source: SourceId,
    /// The hub's clock at receipt.
    pub at: Timestamp,
}

/// A document that was replaced or retired, with the span in which it was the current one.
#[derive(Debug, Clone, PartialEq)]
pub struct PastResource {
    /// The document.
    pub document: Document,
    /// Its hash.
    pub content_hash: ContentHash,
    /// When it became the current one.
    pub since: Timestamp,
    /// When it ceased to be.
    pub until: Timestamp,
}

/// How far the sweep of a scope has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ScopeState {
    /// Begun, not ended. What was complete before stays true of the older generation.
    Sweeping,
    /// The last sweep ended, and the hub holds exactly what the agent holds.
    Complete,
    /// The list could not be read; nothing is known to be gone.
    Failed(Gap),
    /// The end would retire this many resources and waits for a person.
    Held(u64),
    /// The end's count or hash differs from the hub's; the agent must send the scope again.
    Mismatched,
}

/// A scope: account × region × type, swept by one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScopeStatus {
    /// Which scope.
    pub scope: Scope,
    /// The agent that sweeps it.
    pub agent: AgentId,
    /// The source that sweeps it.
    pub source: SourceId,
    /// Count and order-free hash of the living resources that the hub holds of it. Maintained by
    /// the store.
    pub members: SetHash,
    /// What the agent said it holds, at the last end of a sweep; `None` before the first end, and
    /// from the begin of a sweep that follows a failed or mismatched one until its own end.
    pub claimed: Option<SetHash>,
    /// The sweep it is at.
    pub generation: u64,
    /// How that sweep stands.
    pub state: ScopeState,
    /// When a sweep last ended well; `None` if none ever did.
    #[serde(with = "maybe_at")]
    pub last_complete_at: Option<Timestamp>,
    /// When the current sweep began.
    #[serde(with = "at")]
    pub last_begin_at: Timestamp,
}

impl ScopeStatus {
    /// Says whether absence from this scope proves anything: some sweep of it was complete, the
    /// last attempt that ended did not fail, and the two sides did not differ. A sweep that has
    /// begun proves nothing yet, so what was in doubt before it stays in doubt.
    pub fn is_known(&self) -> bool {
        self.last_complete_at.is_some() && self.claimed.is_some() && !self.is_doubtful()
    }

    /// Says whether the last attempt failed or left the two sides different.
    pub(crate) fn is_doubtful(&self) -> bool {
        matches!(self.state, ScopeState::Failed(_) | ScopeState::Mismatched)
    }
}

/// The end of a sweep as the agent states it.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepEnd {
    /// Which scope.
    pub scope: Scope,
    /// Which sweep of it.
    pub generation: u64,
    /// What the agent holds now.
    pub claimed: SetHash,
    /// What the sweep's documents cover.
    pub coverage: Coverage,
    /// The hub's clock at receipt.
    pub at: Timestamp,
}

/// What the documents of one sweep cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// Only what changed; what is gone was named.
    Changes,
    /// What changed, and everything in these parts: what this generation did not send of them is
    /// gone.
    Parts(Resent),
    /// Everything there is: what this generation did not send is gone.
    Everything,
}

/// What an end of a sweep came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepOutcome {
    /// Which scope.
    pub scope: Scope,
    /// Which sweep of it.
    pub generation: u64,
    /// The result.
    pub result: SweepResult,
}

/// The result of an end of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepResult {
    /// The scope is complete; this many resources were retired.
    Complete {
        /// Resources retired by it.
        retired: u64,
    },
    /// It would retire too many, so nothing was retired and a person must confirm.
    Held {
        /// Resources that wait to be retired.
        retiring: u64,
    },
    /// The two sides differ, so nothing was retired.
    Mismatched {
        /// What the hub would hold after the end.
        ours: SetHash,
    },
    /// Another sweep of the scope is current, so this end means nothing.
    Superseded {
        /// The generation that is current.
        current: u64,
    },
}

/// A source: one thing that one agent reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Id, derived from agent and name by [`Source::id_of`].
    pub id: SourceId,
    /// The agent that reads it.
    pub agent: AgentId,
    /// The name that the agent's operator gave it.
    pub name: String,
    /// `aws`, `gcp`, `wazuh`, …
    pub kind: String,
    /// Whether it works.
    pub state: SourceState,
    /// When a sync last ended.
    #[serde(with = "maybe_at")]
    pub last_sync: Option<Timestamp>,
    /// Calls of the last sync.
    pub calls: u64,
    /// Documents of the last sync, unchanged ones included.
    pub documents: u64,
    /// Calls that failed for good in the last sync.
    pub faults: Vec<Gap>,
    /// Why the last sync could not run at all.
    pub error: Option<String>,
}

impl Source {
    /// Returns the id of an agent's source of that name.
    pub fn id_of(agent: AgentId, name: &str) -> SourceId {
        SourceId::derived(&[agent.as_bytes(), name.as_bytes()])
    }
}

/// Something that changed, for the evaluator.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The commit that changed it.
    pub commit: u64,
    /// What changed.
    pub subject: Subject,
}

/// What a verdict or a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// One resource.
    Resource(Urn),
    /// A whole scope: a list that was denied yields no resource, so the verdict is its own.
    Scope(Scope),
}

/// [`Resource`] as stored. The document is JSON text: postcard carries no free-form values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredResource {
    /// Also in the document; here it costs no JSON parser.
    pub(crate) urn: Urn,
    pub(crate) document: String,
    pub(crate) content_hash: ContentHash,
    #[serde(with = "at")]
    pub(crate) first_seen: Timestamp,
    #[serde(with = "at")]
    pub(crate) last_seen: Timestamp,
    #[serde(with = "at")]
    pub(crate) changed_at: Timestamp,
    #[serde(with = "maybe_at")]
    pub(crate) retired_at: Option<Timestamp>,
    pub(crate) agent: AgentId,
    pub(crate) source: SourceId,
    pub(crate) generation: u64,
}

/// [`PastResource`] as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredPast {
    pub(crate) document: String,
    pub(crate) content_hash: ContentHash,
    #[serde(with = "at")]
    pub(crate) since: Timestamp,
    #[serde(with = "at")]
    pub(crate) until: Timestamp,
}

/// A link as stored, in both directions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredLink {
    pub(crate) rel: String,
    pub(crate) far: Urn,
}

/// A resource that a sweep named as gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StagedGone {
    pub(crate) urn: Urn,
    pub(crate) generation: u64,
}
