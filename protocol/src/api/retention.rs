//! How long each class of data is kept, and the legal holds under which nothing is forgotten.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{text, time};
use crate::filter::{FieldKind, FieldSpec, FieldValue, Row};
use crate::ids::{HoldId, UserId};

words! {
    /// A class of data with a retention of its own. The order is part of the store's rows.
    DataClass, DATA_CLASSES {
        /// Events, by receipt.
        Events = "events",
        /// Documents that were replaced, and resources that are gone.
        ResourceHistory = "resource_history",
        /// Findings that are resolved, and steps in a finding's life that another has followed.
        Findings = "findings",
        /// Records that were refused.
        Quarantine = "quarantine",
        /// What agents lost.
        Losses = "losses",
        /// Signed headers of batches: the evidence of who sent what.
        BatchHeaders = "batch_headers",
        /// The audit log.
        Audit = "audit",
    }
}

impl DataClass {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Events,
        Self::ResourceHistory,
        Self::Findings,
        Self::Quarantine,
        Self::Losses,
        Self::BatchHeaders,
        Self::Audit,
    ];
}

/// How long one class of data is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClassRetention {
    /// Which class.
    pub class: DataClass,
    /// Full days that it is kept. What is older goes at the next midnight, UTC.
    pub days: u32,
    /// Days that it is kept where nobody has set anything.
    pub default_days: u32,
    /// Fewest days that can be set.
    pub least_days: u32,
    /// Most days that can be set.
    pub most_days: u32,
    /// What is older than this is due to go now.
    #[schema(value_type = String, format = DateTime)]
    pub before: Timestamp,
    /// When more falls due.
    #[schema(value_type = String, format = DateTime)]
    pub next_purge: Timestamp,
    /// From before this, something was forgotten. Absent while everything there ever was is kept.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub forgotten_before: Option<Timestamp>,
    /// Says whether a legal hold keeps all of it.
    pub held: bool,
}

/// Sets how long a class of data is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionSet {
    /// Which class.
    pub class: DataClass,
    /// Full days.
    pub days: u32,
}

/// Forgets what is due, or says what would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionRun {
    /// Says what would go, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetentionRan {
    /// Says whether nothing was changed.
    pub dry_run: bool,
    /// Each class.
    pub items: Vec<Purged>,
}

/// What a run came to for one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Purged {
    /// Which class.
    pub class: DataClass,
    /// What is older is due.
    #[schema(value_type = String, format = DateTime)]
    pub before: Timestamp,
    /// Rows that went, or would go. For events these are blocks of some hundred events each.
    pub rows: u64,
    /// Sealed bytes of those rows; only a dry run measures them.
    pub bytes: Option<u64>,
    /// When the oldest of them is from.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Option<Timestamp>,
    /// When the newest of them is from.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub newest: Option<Timestamp>,
    /// The legal hold that kept them: its reason. Nothing goes while it stands.
    pub held: Option<String>,
}

/// A legal hold: nothing of what it covers is forgotten while it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Id.
    #[schema(value_type = String)]
    pub id: HoldId,
    /// The class of data; absent where it covers the whole organisation, its deletion too.
    pub class: Option<DataClass>,
    /// Why.
    pub reason: String,
    /// Who set it.
    #[schema(value_type = Option<String>)]
    pub by: Option<UserId>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// Sets a legal hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldCreate {
    /// The class of data; the whole organisation when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<DataClass>,
    /// Why: the matter it belongs to.
    pub reason: String,
}

/// Lifts a legal hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldLift {
    /// Why.
    pub reason: String,
}

/// Fields of a class's retention that filters know.
pub const CLASS_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "class",
        kind: FieldKind::Enum(DATA_CLASSES),
    },
    FieldSpec {
        name: "days",
        kind: FieldKind::Number,
    },
    time("before"),
    time("next_purge"),
    time("forgotten_before"),
    FieldSpec {
        name: "held",
        kind: FieldKind::Bool,
    },
];

impl Row for ClassRetention {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "class" => Some(FieldValue::Text(self.class.word())),
            "days" => Some(FieldValue::Number(f64::from(self.days))),
            "before" => Some(FieldValue::Time(self.before)),
            "next_purge" => Some(FieldValue::Time(self.next_purge)),
            "forgotten_before" => self.forgotten_before.map(FieldValue::Time),
            "held" => Some(FieldValue::Bool(self.held)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(self.class.word())
    }
}

/// Fields of a legal hold that filters know.
pub const HOLD_FIELDS: &[FieldSpec] = &[
    text("id"),
    FieldSpec {
        name: "class",
        kind: FieldKind::Enum(DATA_CLASSES),
    },
    text("reason"),
    text("by"),
    time("since"),
];

impl Row for Hold {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "id" => Some(FieldValue::Owned(self.id.to_string())),
            "class" => Some(FieldValue::Text(self.class?.word())),
            "reason" => Some(FieldValue::Text(&self.reason)),
            "by" => Some(FieldValue::Owned(self.by?.to_string())),
            "since" => Some(FieldValue::Time(self.since)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.reason) || self.class.is_some_and(|class| look(class.word()))
    }
}
