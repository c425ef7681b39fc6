//! Findings: failed checks with a life of their own.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::Urn;
use protocol::document::{ContentHash, Gap};
use protocol::ids::{FindingId, OrgId, ResourceId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FindingStatus, Severity, Verdict, at, json_text, maybe_at};

/// A finding as it stands.
///
/// What a check or framework says in general (why, fix, controls) is not in the row: it is joined
/// from the rules when shown, so that a corrected text needs no rewrite of a million rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Id, [`Finding::id_of`] organisation, check and URN.
    pub id: FindingId,
    /// The check that fails.
    pub check_id: String,
    /// The check's title when it was last judged.
    pub title: String,
    /// The check's severity when it was last judged.
    pub severity: Severity,
    /// Open, resolved or muted.
    pub status: FindingStatus,
    /// `Fail`, or `Unknown` for an open finding whose facts can no longer be read.
    pub verdict: Verdict,
    /// Since when the verdict has been unknown.
    #[serde(with = "maybe_at")]
    pub unknown_since: Option<Timestamp>,
    /// The resource whose change would fix it, where that is another one.
    pub cause: Option<Cause>,
    /// The resource that fails.
    pub resource: ResourceRef,
    /// When it first failed.
    #[serde(with = "at")]
    pub first_seen: Timestamp,
    /// When it last failed.
    #[serde(with = "at")]
    pub last_seen: Timestamp,
    /// When it was resolved; `None` while it is not.
    #[serde(with = "maybe_at")]
    pub resolved_at: Option<Timestamp>,
    /// How often it came back.
    pub reopened: u32,
    /// The values that decided it, by path.
    #[serde(with = "json_text")]
    pub evidence: BTreeMap<String, Value>,
    /// For an unknown verdict: the paths that were needed and why they are missing.
    pub gaps: BTreeMap<String, Gap>,
    /// Hash of the facts that decided it.
    pub facts_hash: ContentHash,
    /// How urgent it is.
    pub risk: Risk,
    /// Who accepted it and until when.
    pub mute: Option<Mute>,
    /// Who works on it.
    pub owner: Option<UserId>,
}

impl Finding {
    /// Returns the id of the finding of a check on a resource of an organisation.
    pub fn id_of(org: OrgId, check_id: &str, urn: &Urn) -> FindingId {
        FindingId::derived(&[
            org.as_bytes(),
            check_id.as_bytes(),
            urn.to_string().as_bytes(),
        ])
    }
}

/// The resource whose change would fix a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Its name.
    pub urn: Urn,
    /// Its id.
    pub id: ResourceId,
}

/// What a list shows about a finding's resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRef {
    /// URN.
    pub urn: Urn,
    /// Full resource type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Display name.
    pub name: String,
    /// Account.
    pub account: String,
    /// Region.
    pub region: String,
    /// Provider.
    pub provider: String,
}

/// Urgency, 0 to 100, with what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Risk {
    /// 0 to 100.
    pub score: u8,
    /// What it is made of.
    pub factors: Vec<RiskFactor>,
}

/// One part of a risk score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskFactor {
    /// `severity`, `exposure`, …
    pub name: String,
    /// Points it adds.
    pub points: u8,
    /// Why, in a clause.
    pub why: String,
}

/// An accepted finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// Why.
    pub reason: String,
    /// Who accepted it.
    pub by: UserId,
    /// When.
    #[serde(with = "at")]
    pub at: Timestamp,
    /// When it ends; `None` for never.
    #[serde(with = "maybe_at")]
    pub until: Option<Timestamp>,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// The hub itself: evaluation, timers, start-up.
    Hub,
    /// A person.
    User(UserId),
    /// An agent.
    Agent(protocol::ids::AgentId),
    /// A command on the hub's own machine.
    Local,
}

/// One step in the life of a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    #[serde(with = "at")]
    pub at: Timestamp,
    /// Status before; `None` for the first.
    pub from: Option<FindingStatus>,
    /// Status after.
    pub to: FindingStatus,
    /// Verdict after.
    pub verdict: Verdict,
    /// Who.
    pub by: Actor,
    /// Why, in a clause; empty when the status says it.
    pub note: String,
}

/// What an update of a finding decides.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingChange {
    /// The row to store.
    pub finding: Finding,
    /// The step to add to its history, if this is one.
    pub transition: Option<Transition>,
}
