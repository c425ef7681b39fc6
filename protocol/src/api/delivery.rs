//! How far what agents read has come: the scopes they sweep, and what they lost.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{text, time};
use crate::document::Gap;
use crate::filter::{FieldKind, FieldSpec, FieldValue, Row};
use crate::ids::{AgentId, SourceId};

/// A scope, account × region × type, and how its last sweep stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScopeStatus {
    /// `provider/account/region/type`.
    pub scope: String,
    /// Full resource type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Account number, project, subscription or host.
    pub account: String,
    /// Region, or `global`.
    pub region: String,
    /// The agent that sweeps it.
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    /// The source that it is swept for.
    #[schema(value_type = String)]
    pub source_id: SourceId,
    /// `sweeping`, `complete`, `failed`, `held`, or `mismatched`: the agent holds another set and
    /// was asked for the difference.
    pub state: String,
    /// Resources that the hub holds of it.
    pub resources: u64,
    /// For `held`: resources that seem gone, too many to be retired unasked.
    pub retiring: Option<u64>,
    /// For `failed`: the call that failed.
    pub gap: Option<Gap>,
    /// When a sweep last ended well.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_complete_at: Option<Timestamp>,
    /// When the last sweep began.
    #[schema(value_type = String, format = DateTime)]
    pub last_begin_at: Timestamp,
}

/// Confirms that what seems gone of a held scope is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeConfirm {
    /// The scope as its list shows it.
    pub scope: String,
    /// How many resources the caller has seen that would be retired; another number is refused.
    pub retiring: u64,
}

/// Records that an agent had and cannot send any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loss {
    /// When the hub was told.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The agent.
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    /// The source that had read them.
    #[schema(value_type = String)]
    pub source_id: SourceId,
    /// `events`, `inventory`, `cost`, `results`.
    pub lane: String,
    /// How many.
    pub records: u64,
    /// Why, in words.
    pub reason: String,
    /// When the first was made, by the agent's clock, where that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// When the last was made.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
}

/// Fields of a scope that filters know.
pub const SCOPE_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "state",
        kind: FieldKind::Enum(&["sweeping", "complete", "failed", "held", "mismatched"]),
    },
    FieldSpec {
        name: "type",
        kind: FieldKind::Type,
    },
    text("account"),
    text("region"),
    text("scope"),
    time("last_complete_at"),
];

impl Row for ScopeStatus {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "state" => FieldValue::Text(&self.state),
            "type" => FieldValue::Text(&self.type_name),
            "account" => FieldValue::Text(&self.account),
            "region" => FieldValue::Text(&self.region),
            "scope" => FieldValue::Text(&self.scope),
            "last_complete_at" => FieldValue::Time(self.last_complete_at?),
            _ => return None,
        })
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.scope)
    }
}

/// Fields of a loss that filters know.
pub const LOSS_FIELDS: &[FieldSpec] = &[
    time("at"),
    text("agent"),
    text("source"),
    FieldSpec {
        name: "lane",
        kind: FieldKind::Enum(&["events", "inventory", "cost", "results"]),
    },
    text("reason"),
];

impl Row for Loss {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "at" => FieldValue::Time(self.at),
            "agent" => FieldValue::Owned(self.agent_id.to_string()),
            "source" => FieldValue::Owned(self.source_id.to_string()),
            "lane" => FieldValue::Text(&self.lane),
            "reason" => FieldValue::Text(&self.reason),
            _ => return None,
        })
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.reason) || look(&self.lane)
    }
}
