//! Lists that are sorted and filtered by text: what they show and how they are asked.
//!
//! Row keys hold no names, so no index on disk can sort by one; these are answered from compact
//! columns in memory ([`crate::org::columns`]), which every commit keeps up to date.

pub(crate) mod page;
pub(crate) mod shared;
pub(crate) mod slab;

use std::sync::Arc;

use jiff::Timestamp;
use protocol::filter::{FieldValue, Row};
use protocol::ids::{FindingId, ResourceId, UserId};

pub use self::shared::{SharedScope, SharedUrn, Tags};
use crate::rows::{FindingStatus, Severity, Verdict};

/// What a list shows of a finding.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingSummary {
    /// Id.
    pub id: FindingId,
    /// The check that fails.
    pub check_id: Arc<str>,
    /// The check's title.
    pub title: Arc<str>,
    /// The check's severity.
    pub severity: Severity,
    /// Open, resolved or muted.
    pub status: FindingStatus,
    /// `Fail` or `Unknown`.
    pub verdict: Verdict,
    /// The resource.
    pub urn: SharedUrn,
    /// The resource's id.
    pub resource_id: ResourceId,
    /// Its full type.
    pub type_name: Arc<str>,
    /// Its display name.
    pub name: Arc<str>,
    /// When it first failed.
    pub first_seen: Timestamp,
    /// When it last failed.
    pub last_seen: Timestamp,
    /// When it was resolved.
    pub resolved_at: Option<Timestamp>,
    /// 0 to 100.
    pub risk: u8,
    /// Who works on it.
    pub owner: Option<UserId>,
}

/// What a list shows of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceSummary {
    /// Id.
    pub id: ResourceId,
    /// URN.
    pub urn: SharedUrn,
    /// Full type.
    pub type_name: Arc<str>,
    /// Display name.
    pub name: Arc<str>,
    /// The provider's own full name.
    pub native_id: Arc<str>,
    /// Tags, sorted by name; empty also when they were not read.
    pub tags: Tags,
    /// When it was first stored.
    pub first_seen: Timestamp,
    /// When a sweep last confirmed it.
    pub last_seen: Timestamp,
    /// Open findings on it.
    pub open_findings: OpenFindings,
}

/// Open findings by severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFindings([u32; 5]);

impl OpenFindings {
    /// Returns how many there are of a severity.
    pub fn of(self, severity: Severity) -> u32 {
        let [info, low, medium, high, critical] = self.0;
        match severity {
            Severity::Info => info,
            Severity::Low => low,
            Severity::Medium => medium,
            Severity::High => high,
            Severity::Critical => critical,
        }
    }

    /// Returns how many there are in all.
    pub fn total(self) -> u32 {
        self.0
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The counter of a severity.
    pub(crate) fn count(&mut self, severity: Severity) -> &mut u32 {
        let [info, low, medium, high, critical] = &mut self.0;
        match severity {
            Severity::Info => info,
            Severity::Low => low,
            Severity::Medium => medium,
            Severity::High => high,
            Severity::Critical => critical,
        }
    }
}

/// Which way a list runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Smallest first.
    #[default]
    Ascending,
    /// Greatest first.
    Descending,
}

/// What a list of findings is sorted by. Ties are broken by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FindingSort {
    /// By severity, within one by risk score, within that by when it last failed.
    #[default]
    Severity,
    /// By risk score.
    Risk,
    /// By when it first failed.
    FirstSeen,
    /// By when it last failed.
    LastSeen,
    /// By check id.
    Check,
    /// By status.
    Status,
    /// By the resource's URN.
    Resource,
    /// By account.
    Account,
}

/// What a list of resources is sorted by. Ties are broken by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResourceSort {
    /// By URN.
    #[default]
    Urn,
    /// By display name.
    Name,
    /// By type.
    Type,
    /// By when it was first stored.
    FirstSeen,
    /// By when a sweep last confirmed it.
    LastSeen,
    /// By open findings on it.
    Findings,
}

/// A test that a list applies to each item.
pub type Predicate<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

/// A question for a list: what passes, in which order, how much, from where.
pub struct List<T, S> {
    /// What passes; `None` for everything.
    pub filter: Option<Predicate<T>>,
    /// By what it is sorted.
    pub sort: S,
    /// Which way.
    pub order: Order,
    /// Most items of one page, cut to [`protocol::limits::PAGE_ITEMS`].
    pub limit: usize,
    /// The cursor that the page before gave.
    pub after: Option<String>,
}

impl<T, S: Clone> Clone for List<T, S> {
    fn clone(&self) -> Self {
        Self {
            filter: self.filter.clone(),
            sort: self.sort.clone(),
            order: self.order,
            limit: self.limit,
            after: self.after.clone(),
        }
    }
}

impl<T, S: Default> Default for List<T, S> {
    fn default() -> Self {
        Self {
            filter: None,
            sort: S::default(),
            order: Order::Ascending,
            limit: protocol::limits::PAGE_ITEMS,
            after: None,
        }
    }
}

/// A question for the list of findings.
pub type FindingList = List<FindingSummary, FindingSort>;

impl FindingList {
    /// Returns the cursor of the page that begins behind an item, for who shows less than a page.
    pub fn cursor_after(&self, last: &FindingSummary) -> String {
        page::cursor_after(self, last)
    }
}

/// A question for the list of resources.
pub type ResourceList = List<ResourceSummary, ResourceSort>;

impl ResourceList {
    /// Returns the cursor of the page that begins behind an item, for who shows less than a page.
    pub fn cursor_after(&self, last: &ResourceSummary) -> String {
        page::cursor_after(self, last)
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<String>,
    /// How many items pass the filter in all, where the list knows.
    pub total: Option<u64>,
}

/// The fields of [`protocol::api::FINDING_FIELDS`].
impl Row for FindingSummary {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "severity" => FieldValue::Text(self.severity.word()),
            "status" => FieldValue::Text(self.status.word()),
            "verdict" => FieldValue::Text(self.verdict.word()),
            "check" => FieldValue::Text(&self.check_id),
            "title" => FieldValue::Text(&self.title),
            "provider" => FieldValue::Text(&self.urn.scope.provider),
            "account" => FieldValue::Text(&self.urn.scope.account),
            "region" => FieldValue::Text(&self.urn.scope.region),
            "type" => FieldValue::Text(&self.type_name),
            "resource" => FieldValue::Owned(self.urn.text()),
            "name" => FieldValue::Text(&self.name),
            "owner" => FieldValue::Owned(self.owner?.to_string()),
            "risk" => FieldValue::Number(f64::from(self.risk)),
            "first_seen" => FieldValue::Time(self.first_seen),
            "last_seen" => FieldValue::Time(self.last_seen),
            "id" => FieldValue::Owned(self.id.to_string()),
            _ => return None,
        })
    }

    fn any_value(&self, name: &str, meets: &mut dyn FnMut(&FieldValue<'_>) -> bool) -> bool {
        if name != "resource" {
            return self.field(name).as_ref().is_some_and(meets);
        }
        meets(&FieldValue::Text(&self.name))
            || meets(&FieldValue::Text(&self.urn.id))
            || meets(&FieldValue::Owned(self.urn.text()))
            || meets(&FieldValue::Owned(self.resource_id.to_string()))
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.title)
            || look(&self.check_id)
            || look(&self.urn.text())
            || look(&self.name)
            || look(&self.id.to_string())
    }
}

/// The fields of [`protocol::api::RESOURCE_FIELDS`].
impl Row for ResourceSummary {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "type" => FieldValue::Text(&self.type_name),
            "provider" => FieldValue::Text(&self.urn.scope.provider),
            "account" => FieldValue::Text(&self.urn.scope.account),
            "region" => FieldValue::Text(&self.urn.scope.region),
            "name" => FieldValue::Text(&self.name),
            "id" => FieldValue::Text(&self.urn.id),
            "resource_id" => FieldValue::Owned(self.id.to_string()),
            "urn" => FieldValue::Owned(self.urn.text()),
            "first_seen" => FieldValue::Time(self.first_seen),
            "last_seen" => FieldValue::Time(self.last_seen),
            _ => return None,
        })
    }

    fn any_value(&self, name: &str, meets: &mut dyn FnMut(&FieldValue<'_>) -> bool) -> bool {
        if !matches!(name, "id" | "resource_id") {
            return self.field(name).as_ref().is_some_and(meets);
        }
        meets(&FieldValue::Text(&self.urn.id))
            || meets(&FieldValue::Text(&self.native_id))
            || meets(&FieldValue::Owned(self.id.to_string()))
    }

    fn tag(&self, name: &str) -> Option<&str> {
        self.tags.get(name)
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.name) || look(&self.urn.id) || look(&self.native_id) || look(&self.type_name)
    }
}
