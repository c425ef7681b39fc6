//! Verdicts: one packed row per resource, or per scope whose list was denied.

use jiff::Timestamp;
use protocol::document::{ContentHash, Gap};
use serde::{Deserialize, Serialize};

use super::resource::Subject;
use super::{Verdict, at, maybe_at};

/// Every verdict on one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictRow {
    /// What was judged.
    pub subject: Subject,
    /// One entry per selected check.
    pub verdicts: Vec<Judged>,
}

/// One check's verdict on one subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The check.
    pub check_id: String,
    /// What it says.
    pub verdict: Verdict,
    /// When it was judged.
    pub evaluated_at: Timestamp,
    /// Hash of the facts that were read for it; evidence is recomputed from them.
    pub facts_hash: ContentHash,
    /// When it must be judged again although no fact changes.
    pub due_at: Option<Timestamp>,
    /// For an unknown verdict: the paths that were needed and why they are missing.
    pub gaps: Vec<(String, Gap)>,
}

/// [`Judged`] as stored: the check as its number in the organisation's list of checks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredJudged {
    pub(crate) check: u32,
    pub(crate) verdict: Verdict,
    #[serde(with = "at")]
    pub(crate) evaluated_at: Timestamp,
    pub(crate) facts_hash: ContentHash,
    #[serde(with = "maybe_at")]
    pub(crate) due_at: Option<Timestamp>,
    pub(crate) gaps: Vec<(String, Gap)>,
}

/// [`VerdictRow`] as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredVerdicts {
    pub(crate) subject: Subject,
    pub(crate) verdicts: Vec<StoredJudged>,
}
