//! What a check says about a resource, and what it is told to judge by.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use protocol::document::Gap;
use protocol::{Document, Urn};
use serde::{Deserialize, Serialize};

/// The answer of one check on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every deciding fact was read and the demand holds.
    Pass,
    /// Every deciding fact was read and the demand does not hold.
    Fail,
    /// A deciding fact was not read; `gaps` names it. Never opens and never closes a finding.
    Unknown,
    /// The check does not concern this resource.
    NotApplicable,
    /// The check itself failed on this resource (overflow, text that is no number, too costly).
    ///
    /// `gaps` holds the reason under `check`. To be shown like [`Verdict::Unknown`].
    Broken,
}

impl Verdict {
    /// Returns the name as the API prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Unknown => "unknown",
            Verdict::NotApplicable => "not_applicable",
            Verdict::Broken => "broken",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A verdict with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The answer.
    pub verdict: Verdict,
    /// Values that were judged, by path: `IpPermissions`, `account.Id`, `tags.env`, `now`, and
    /// for relations `linked.in_vpc`, a list of URNs.
    pub evidence: BTreeMap<String, serde_json::Value>,
    /// For [`Verdict::Unknown`], the facts that were needed and not read, by path
    /// (`config.Policy`, `tags`, `account.…`, `linked.in_vpc`, `<urn>#config.…`); for
    /// [`Verdict::Broken`] the reason under `check`. Empty otherwise.
    pub gaps: BTreeMap<String, Gap>,
    /// The first instant at which the passing of time alone can change the verdict.
    pub due_at: Option<Timestamp>,
    /// For [`Verdict::Fail`], the resource whose change would mend it; `None` otherwise.
    pub cause: Option<Urn>,
}

/// One resource as a check sees it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The resource.
    pub document: &'a Document,
    /// The document of the account it lives in; `None` while that has not been read.
    pub account: Option<&'a Document>,
    /// Its relations.
    pub neighbours: &'a dyn Neighbours,
    /// The instant of the judgement.
    pub now: Timestamp,
}

/// Where a check finds the documents that a resource is linked with.
pub trait Neighbours {
    /// Returns what the resource links to by `rel`.
    fn linked(&self, rel: &str) -> Relation<'_>;
    /// Returns what links to the resource by `rel`, of any type.
    fn linked_from(&self, rel: &str) -> Relation<'_>;
}

/// The documents at the other end of a relation.
#[derive(Debug, Clone)]
pub struct Relation<'a> {
    /// The documents that are known.
    pub documents: Vec<&'a Document>,
    /// Whether all of them are known: every scope the relation reads has a complete sweep and
    /// every link leads to a document. The gap says which call is missing.
    pub complete: Completeness,
}

/// Whether a relation is wholly known.
pub type Completeness = Result<(), Gap>;

impl Default for Relation<'_> {
    /// Returns a relation that is known to be empty.
    fn default() -> Self {
        Self {
            documents: Vec::new(),
            complete: Ok(()),
        }
    }
}

/// A resource without any relation: every relation is known to be empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Neighbours for Alone {
    fn linked(&self, _: &str) -> Relation<'_> {
        Relation::default()
    }
    fn linked_from(&self, _: &str) -> Relation<'_> {
        Relation::default()
    }
}
