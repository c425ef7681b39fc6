//! Checks as data: CEL compiled to a three-valued tree, policies, verdicts; pure.
//!
//! [`RuleSet`] holds the checks; [`Check::evaluate`] judges one resource. The crate reads no file
//! and no clock: texts, documents and the instant are arguments. [`check`] sets down the file
//! format and the language, [`policy`] the questions to policy documents.
#![warn(missing_docs)]

pub mod check;
mod expression;
mod load_error;
mod network;
pub mod policy;
mod ruleset;
mod verdict;

pub use check::{Check, Fix, Severity};
pub use load_error::LoadError;
pub use ruleset::{Direction, Reader, RuleSet, TestResult};
pub use verdict::{Alone, Completeness, Neighbours, Outcome, Relation, Subject, Verdict};
