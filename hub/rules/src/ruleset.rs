//! All checks in force, by id and by type.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use include_dir::{Dir, include_dir};
use protocol::declare::Declarations;

use crate::check::{self, Check};
use crate::load_error::LoadError;

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/checks");

/// Checks of a set at most.
const CHECKS: usize = 10_000;

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

impl TestResult {
    fn new(check: &Check, (name, result): (String, Result<(), String>)) -> Self {
        Self {
            file: check.file().to_owned(),
            check: check.id().to_owned(),
            name,
            result,
        }
    }
}

/// Checks that were loaded together.
#[derive(Debug, Default)]
pub struct RuleSet {
    declarations: Declarations,
    checks: BTreeMap<String, Arc<Check>>,
    by_type: BTreeMap<String, Vec<Arc<Check>>>,
    readers: BTreeMap<String, Vec<Reader>>,
}

impl RuleSet {
    /// Loads the checks that Zero-X ships with.
    ///
    /// # Errors
    ///
    /// As [`RuleSet::load`]; a test excludes it for the built-in declarations.
    pub fn builtin(declarations: &Declarations) -> Result<RuleSet, Vec<LoadError>> {
        Self::load(Self::builtin_files(), declarations)
    }

    /// Returns the built-in check files as `(path, text)`, in the order of their paths, to be
    /// loaded together with an operator's own.
    pub fn builtin_files() -> Vec<(&'static str, &'static str)> {
        let mut files = Vec::new();
        let mut folders = vec![&FILES];
        while let Some(folder) = folders.pop() {
            folders.extend(folder.dirs());
            for file in folder.files() {
                let name = file.path().to_str().unwrap_or_default();
                if name.ends_with(".yaml") {
                    files.push((name, file.contents_utf8().unwrap_or_default()));
                }
            }
        }
        files.sort_unstable();
        files
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
        let mut checks: BTreeMap<String, Arc<Check>> = BTreeMap::new();
        let mut errors = Vec::new();
        for (number, (file, text)) in files.into_iter().enumerate() {
            if number == CHECKS {
                let reason = format!("more than {CHECKS} checks");
                errors.push(Self::refuse(file, (1, 1), "", reason));
                break;
            }
            match Check::read(file, text, declarations) {
                Ok(check) => match checks.entry(check.id().to_owned()) {
                    Entry::Vacant(place) => {
                        place.insert(Arc::new(check));
                    }
                    Entry::Occupied(first) => {
                        let reason = format!("{} is already in {}", check.id(), first.get().file());
                        errors.push(Self::refuse(
                            file,
                            check::place_of_id(text, check.id()),
                            "id",
                            reason,
                        ));
                    }
                },
                Err(found) => errors.extend(found),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self::index(checks, declarations.clone()))
    }

    fn refuse(file: &str, (line, column): (usize, usize), key: &str, reason: String) -> LoadError {
        LoadError {
            file: file.to_owned(),
            line,
            column,
            key: key.to_owned(),
            reason,
            allowed: Vec::new(),
            nearest: None,
        }
    }

    fn index(checks: BTreeMap<String, Arc<Check>>, declarations: Declarations) -> Self {
        let mut by_type: BTreeMap<String, Vec<Arc<Check>>> = BTreeMap::new();
        let mut readers: BTreeMap<String, Vec<Reader>> = BTreeMap::new();
        for check in checks.values() {
            let judged = check.type_name();
            let of_type = by_type.entry(judged.to_owned()).or_default();
            of_type.push(Arc::clone(check));
            for (relation, direction, other) in check.relations() {
                // Back the way the check came.
                let direction = match direction {
                    Direction::Outgoing => Direction::Incoming,
                    Direction::Incoming => Direction::Outgoing,
                    Direction::Account => Direction::Account,
                };
                readers.entry(other.to_owned()).or_default().push(Reader {
                    relation: relation.to_owned(),
                    direction,
                    type_name: judged.to_owned(),
                });
            }
            if check.reads_account() {
                let provider = judged.split('.').next().unwrap_or_default();
                let account = format!("{provider}.account");
                readers.entry(account).or_default().push(Reader {
                    relation: String::new(),
                    direction: Direction::Account,
                    type_name: judged.to_owned(),
                });
            }
        }
        for of_type in readers.values_mut() {
            of_type.sort_unstable();
            of_type.dedup();
        }
        Self {
            declarations,
            checks,
            by_type,
            readers,
        }
    }

    /// Iterates over all checks in the order of their ids.
    pub fn checks(&self) -> impl ExactSizeIterator<Item = &Arc<Check>> {
        self.checks.values()
    }

    /// Returns one check.
    pub fn get(&self, id: &str) -> Option<&Arc<Check>> {
        self.checks.get(id)
    }

    /// Returns the checks on resources of one type, in the order of their ids.
    pub fn for_type(&self, type_name: &str) -> &[Arc<Check>] {
        self.by_type.get(type_name).map_or(&[], Vec::as_slice)
    }

    /// Returns whose checks read resources of `type_name`.
    pub fn reads(&self, type_name: &str) -> &[Reader] {
        self.readers.get(type_name).map_or(&[], Vec::as_slice)
    }

    /// Runs the inline tests of the checks whose id contains `filter`, and those that every
    /// check must stand: enough tests, and no unread fact that turns a verdict.
    ///
    /// No result means that no check was selected, which the caller should treat as an error.
    pub fn run_tests(&self, filter: Option<&str>) -> Vec<TestResult> {
        let is_selected = |check: &&Arc<Check>| filter.is_none_or(|part| check.id().contains(part));
        self.checks
            .values()
            .filter(is_selected)
            .flat_map(|check| {
                let results = check::run(check, &self.declarations);
                results
                    .into_iter()
                    .map(|named| TestResult::new(check, named))
            })
            .collect()
    }
}
