//! Every rule names where its facts come from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Folders whose YAML files are rules.
const RULES: [&str; 2] = ["hub/rules/checks", "hub/rules/frameworks"];

/// Fails with the list of rules that have no `source`.
pub(crate) fn run() -> Result<()> {
    let mut seen = 0;
    let mut silent = Vec::new();
    for folder in RULES {
        let folder = crate::chores::checkout().join(folder);
        if !folder.is_dir() {
            continue;
        }
        let mut files = Vec::new();
        collect(&folder, &mut files)?;
        for file in files {
            seen += 1;
            let text = fs::read_to_string(&file)
                .with_context(|| format!("could not read {}", file.display()))?;
            if !names_source(&text) {
                silent.push(file);
            }
        }
    }
    if silent.is_empty() {
        println!("sources: each of {seen} rules names its source");
        return Ok(());
    }
    for file in &silent {
        println!("{}: no `source:`", file.display());
    }
    bail!("{} of {seen} rules do not name their source", silent.len())
}

/// A top-level `source` with a value beside or below it.
fn names_source(text: &str) -> bool {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("source:"));
    let beside = lines
        .next()
        .and_then(|line| line.strip_prefix("source:"))
        .map(str::trim);
    match beside {
        None => false,
        Some("" | ">" | "|" | ">-" | "|-") => lines
            .next()
            .is_some_and(|line| line.starts_with([' ', '-']) && !line.trim().is_empty()),
        Some(_) => true,
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::names_source;

    #[test]
    fn a_rule_without_a_source_is_noticed() {
        assert!(names_source("id: a\nsource: CIS 1.4\n"));
        assert!(names_source("source:\n  - https://example.com\n"));
        assert!(names_source("source: >-\n  a page\n"));
        assert!(!names_source("id: a\n"));
        assert!(!names_source("source:\ntitle: b\n"));
        assert!(!names_source("tests:\n  source: nested\n"));
    }
}
