//! What became of resources and findings between two instants.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FINDING_STATUSES, FindingStatus, SEVERITIES, Severity, VERDICTS, Verdict, text};
use crate::filter::{FieldKind, FieldSpec, FieldValue, Row};
use crate::ids::{FindingId, ResourceId};

/// A resource that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceChange {
    /// `added`, `changed` or `removed`.
    pub change: String,
    /// Its id.
    #[schema(value_type = String)]
    pub resource_id: ResourceId,
    /// Its URN.
    pub urn: String,
    /// Full resource type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Display name.
    pub name: String,
    /// Account number, project, subscription or host.
    pub account: String,
    /// Region, or `global`.
    pub region: String,
    /// For `changed`: the parts of its document that differ, such as `config.Encrypted` or `tags.env`.
    pub fields: Vec<String>,
}

/// Words of [`ResourceChange::change`].
pub const CHANGES: &[&str] = &["added", "changed", "removed"];

/// What a filter of changed resources may name.
pub const RESOURCE_CHANGE_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "change",
        kind: FieldKind::Enum(CHANGES),
    },
    FieldSpec {
        name: "type",
        kind: FieldKind::Type,
    },
    text("urn"),
    text("name"),
    text("account"),
    text("region"),
];

impl Row for ResourceChange {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(FieldValue::Text(match name {
            "change" => &self.change,
            "type" => &self.type_name,
            "urn" => &self.urn,
            "name" => &self.name,
            "account" => &self.account,
            "region" => &self.region,
            _ => return None,
        }))
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.name) || look(&self.urn)
    }
}

/// A finding whose status or verdict is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingChange {
    /// Its id.
    #[schema(value_type = String)]
    pub id: FindingId,
    /// The check that fails.
    pub check_id: String,
    /// The check's title, as it is today.
    pub title: String,
    /// The check's severity, as it is today.
    pub severity: Severity,
    /// URN of the resource.
    pub resource_urn: String,
    /// Status at the first instant; absent when there was no such finding.
    pub status_before: Option<FindingStatus>,
    /// Status at the second.
    pub status: FindingStatus,
    /// Verdict at the first instant.
    pub verdict_before: Option<Verdict>,
    /// Verdict at the second.
    pub verdict: Verdict,
    /// When it first failed.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
}

/// What a filter of changed findings may name.
pub const FINDING_CHANGE_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "severity",
        kind: FieldKind::Enum(SEVERITIES),
    },
    FieldSpec {
        name: "status",
        kind: FieldKind::Enum(FINDING_STATUSES),
    },
    FieldSpec {
        name: "verdict",
        kind: FieldKind::Enum(VERDICTS),
    },
    text("check"),
    text("title"),
    text("resource"),
];

impl Row for FindingChange {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(FieldValue::Text(match name {
            "severity" => self.severity.word(),
            "status" => self.status.word(),
            "verdict" => self.verdict.word(),
            "check" => &self.check_id,
            "title" => &self.title,
            "resource" => &self.resource_urn,
            _ => return None,
        }))
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.title) || look(&self.check_id) || look(&self.resource_urn)
    }
}
