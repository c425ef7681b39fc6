//! All checks in force, by id and by type.

use std::sync::Arc;

use protocol::declare::Declarations;

use crate::check::Check;
use crate::load_error::LoadError;

/// Which way links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From a resource to what it links to.
    Outgoing,
    /// From a resource to what links to it.
    Incoming,
    /// From an account's document to the resources of the account.
    Account,
}

/// Resources whose checks read a changed resource.
///
/// From the changed resource, follow `relation` in `direction`, and judge again what is of
/// `type_name`. With [`Direction::Account`] the changed resource is an account's document and all
/// resources of `type_name` in that account are meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    /// The relation; empty for [`Direction::Account`].
    pub relation: String,
    /// Which way to go from the changed resource.
    pub direction: Direction,
    /// The type to judge again.
    pub type_name: String,
}

/// How one test of a check came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The check's file.
    pub file: String,
    /// The check's id.
    pub check: String,
    /// The test's name.
    pub name: String,
    /// What went wrong, if something did.
    pub result: Result<(), String>,
}

/// Checks that were loaded together.
#[derive(Debug, Default)]
pub struct RuleSet {
    checks: Vec<Arc<Check>>,
}

#[expect(clippy::todo, reason = "bodies follow")]
#[expect(unused_variables, reason = "bodies follow")]
impl RuleSet {
    /// Loads the checks that Zero-X ships with.
    ///
    /// # Errors
    ///
    /// As [`RuleSet::load`]; a test excludes it for the built-in declarations.
    pub fn builtin(declarations: &Declarations) -> Result<RuleSet, Vec<LoadError>> {
        todo!()
    }
    /// Returns the built-in check files as `(path, text)`, in the order of their paths, to be
    /// loaded together with an operator's own.
    pub fn builtin_files() -> Vec<(&'static str, &'static str)> {
        todo!()
    }
    /// Loads check files, given as `(path, text)`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of the files. A set is loaded whole or not at all; the
    /// caller keeps the last good one in force.
    pub fn load<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
        declarations: &Declarations,
    ) -> Result<RuleSet, Vec<LoadError>> {
        todo!()
    }
    /// Iterates over all checks in the order of their ids.
    pub fn checks(&self) -> impl ExactSizeIterator<Item = &Arc<Check>> {
        self.checks.iter()
    }
    /// Returns one check.
    pub fn get(&self, id: &str) -> Option<&Arc<Check>> {
        todo!()
    }
    /// Returns the checks on resources of one type, in the order of their ids.
    pub fn for_type(&self, type_name: &str) -> &[Arc<Check>] {
        todo!()
    }
    /// Returns whose checks read resources of `type_name`.
    pub fn reads(&self, type_name: &str) -> &[Reader] {
        todo!()
    }
    /// Runs the inline tests of the checks whose id contains `filter`, and those that every
    /// check must stand: enough tests, and no unread fact that turns a verdict.
    ///
    /// No result means that no check was selected, which the caller should treat as an error.
    pub fn run_tests(&self, filter: Option<&str>) -> Vec<TestResult> {
        todo!()
    }
}
