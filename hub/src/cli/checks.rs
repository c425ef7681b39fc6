//! `check test` and `check list`.

use std::path::PathBuf;

use rules::{Check, RuleSet, TestResult};
use serde_json::{Value, json};

use super::local::rows_of;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::ruleset;

const COLUMNS: [&str; 4] = ["id", "severity", "type", "title"];

/// Lists the checks in force: the running hub's, else those that would be loaded.
///
/// # Errors
/// When the hub cannot be asked or the checks are refused.
pub(super) async fn list(config: &Config, format: Format) -> Result<Exit, Failure> {
    let answered = admin::ask(&config.data_dir, &Question::Checks).await?;
    let rows = match answered {
        Some(answer) => rows_of(answer)?,
        None => rows(&ruleset::load(&config.checks_dir)?.set),
    };
    output::print_list(format, &COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

/// Returns one object for each check of a set.
pub(crate) fn rows(set: &RuleSet) -> Vec<Value> {
    set.checks().map(|check| listed(check)).collect()
}

fn listed(check: &Check) -> Value {
    json!({
        "id": check.id(),
        "severity": check.severity().as_str(),
        "type": check.type_name(),
        "title": check.title(),
        "source": check.source(),
        "controls": check.controls(),
        "file": check.file(),
    })
}

/// Runs the inline tests of the built-in checks, or of those in files and folders.
///
/// # Errors
/// When a file is refused, or no check was found: a run of nothing proves nothing.
pub(super) fn test(paths: &[PathBuf], format: Format) -> Result<Exit, Failure> {
    let rules = if paths.is_empty() {
        ruleset::builtin()?
    } else {
        ruleset::load_only(paths)?
    };
    let results = rules.set.run_tests(None);
    if results.is_empty() {
        return Err(
            Failure::new(Exit::Failed, "no check was found, so none was tested")
                .with_fix("name check files, or folders with *.yaml files"),
        );
    }
    let failed = results
        .iter()
        .filter(|result| result.result.is_err())
        .count();
    // People want what went wrong; programs get everything.
    let rows: Vec<Value> = results
        .iter()
        .filter(|result| format != Format::Table || result.result.is_err())
        .map(row)
        .collect();
    if format != Format::Table || !rows.is_empty() {
        output::print_list(format, &["check", "test", "reason"], &rows)?;
    }
    output::note(&summary(&results, failed));
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

fn row(result: &TestResult) -> Value {
    json!({
        "check": result.check,
        "file": result.file,
        "test": result.name,
        "result": if result.result.is_ok() { "pass" } else { "fail" },
        "reason": result.result.as_ref().err(),
    })
}

fn summary(results: &[TestResult], failed: usize) -> String {
    let mut checks: Vec<&str> = results.iter().map(|result| result.check.as_str()).collect();
    checks.sort_unstable();
    checks.dedup();
    format!(
        "{} checks, {} tests passed, {failed} failed",
        checks.len(),
        results.len() - failed
    )
}
