//! `config show`, `config check` and `check` without a verb.

use serde_json::Value;

use super::output::{self, Format};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::{ruleset, tls};

/// Prints every setting with its value and where it came from.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn show(config: &Config, format: Format) -> Result<Exit, Failure> {
    let rows: Vec<Value> = config
        .shown()
        .iter()
        .map(|shown| serde_json::to_value(shown).expect("a row of texts always serialises"))
        .collect();
    output::print_list(format, &["key", "value", "origin", "meaning"], &rows)?;
    Ok(Exit::Ok)
}

/// Checks what the settings name as well: the certificate files and the checks folder.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(config: &Config) -> Result<Exit, Failure> {
    if let Some(own) = &config.tls {
        tls::check_own(own)?;
    }
    let rules = ruleset::load(&config.checks_dir)?;
    output::note(&format!(
        "the settings are good; {} checks load",
        rules.set.checks().len()
    ));
    Ok(Exit::Ok)
}
