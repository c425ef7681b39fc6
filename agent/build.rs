//! Makes a table of the checks that Zero-X ships with, so that `source test` can say which of
//! them a missing permission blinds. The agent knows of each only what it reads.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::Deserialize;

#[path = "build/mentions.rs"]
mod mentions;

use mentions::Mentions;

#[derive(Deserialize)]
struct Check {
    id: String,
    #[serde(rename = "type")]
    type_name: String,
    applies: Option<String>,
    pass: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let folder = here.join("../hub/rules/checks");
    announce("cargo:rerun-if-changed=build.rs")?;
    announce("cargo:rerun-if-changed=build/mentions.rs")?;
    announce("cargo:rerun-if-changed=../hub/rules/checks")?;
    let mut files = BTreeSet::new();
    find(&folder, &mut files)?;
    let mut table = String::from("&[\n");
    for file in files {
        let row = row(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        table.push_str(&row);
    }
    table.push(']');
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("checks.rs"), table)?;
    Ok(())
}

fn announce(line: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}")
}

fn find(folder: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|found| found == "yaml") {
            files.insert(path);
        }
    }
    Ok(())
}

/// Returns the line of the table for one check. The fields that it shows as evidence beside those
/// that its expressions read cannot make it unknown, and do not count.
fn row(file: &Path) -> Result<String, Box<dyn Error>> {
    let check: Check = yaml_serde::from_str(&fs::read_to_string(file)?)?;
    let mut mentions = Mentions::default();
    for expression in check.applies.iter().chain([&check.pass]) {
        mentions.add(expression)?;
    }
    let Check { id, type_name, .. } = check;
    let Mentions {
        own,
        account,
        neighbours,
        linked,
        linked_from,
    } = mentions;
    let mut line = String::new();
    writeln!(
        line,
        "Check {{ id: {id:?}, type_name: {type_name:?}, own: &{:?}, account: &{:?}, \
         neighbours: &{:?}, linked: &{:?}, linked_from: &{:?} }},",
        list(own),
        list(account),
        list(neighbours),
        list(linked),
        list(linked_from),
    )?;
    Ok(line)
}

fn list<T>(set: BTreeSet<T>) -> Vec<T> {
    set.into_iter().collect()
}
