//! The rules in force: the built-in checks and the operator's own, loaded whole or not at all.
//!
//! Who calls: `serve` at its start and when it is told to reload, `check list`, `check test` and
//! `check`. Which set is in force while the hub runs is [`crate::serve`]'s business.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use protocol::declare::Declarations;
use rules::{LoadError, RuleSet};

use crate::failure::{Exit, Explain};

/// Largest check file, in bytes. The largest built-in one has some 6 KiB.
const FILE_BYTES: u64 = 256 << 10;

/// Most files of an operator's own; a folder with more is not a folder of checks.
const FILES: usize = 10_000;

/// Deepest folder below the checks folder.
const DEPTH: usize = 8;

/// Most faults that an error shows.
const SHOWN: usize = 20;

/// Why a set of checks was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RulesError {
    /// A file or folder cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is more than a folder of checks holds.
    #[error("{} holds more than {what}", path.display())]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
        /// The bound.
        what: &'static str,
    },
    /// Some files are not good checks.
    #[error("{}", lines(.0))]
    Refused(Vec<LoadError>),
}

fn lines(faults: &[LoadError]) -> String {
    let mut lines: Vec<String> = faults
        .iter()
        .take(SHOWN)
        .map(LoadError::to_string)
        .collect();
    if let Some(more) = faults.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        lines.push(format!("and {more} more faults"));
    }
    lines.join("\n")
}

impl Explain for RulesError {
    fn exit(&self) -> Exit {
        Exit::Config
    }

    fn fix(&self) -> Option<String> {
        matches!(self, Self::Refused(_))
            .then(|| "mend the file and try it with `zero-x-hub check test FILE`".to_owned())
    }
}

/// Checks that are in force together.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The checks.
    pub(crate) set: RuleSet,
    /// Hash of everything that decides a verdict: this program's version, the declarations and
    /// the texts of all files. Verdicts of another fingerprint must be made anew.
    pub(crate) fingerprint: [u8; 32],
}

/// Loads the built-in checks and those of a folder, searched for `*.yaml`. A folder that is not
/// there holds none.
///
/// # Errors
/// When the folder cannot be read, or any file is not a good check.
pub(crate) fn load(folder: &Path) -> Result<Rules, RulesError> {
    let mut own = Vec::new();
    match fs::symlink_metadata(folder) {
        Ok(_) => read(folder, 0, &mut own)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(RulesError::Read {
                path: folder.to_owned(),
                source,
            });
        }
    }
    let mut files = RuleSet::builtin_files();
    files.extend(
        own.iter()
            .map(|(path, text)| (path.as_str(), text.as_str())),
    );
    build(&files)
}

/// Loads the built-in checks alone.
///
/// # Errors
/// As [`load`].
pub(crate) fn builtin() -> Result<Rules, RulesError> {
    build(&RuleSet::builtin_files())
}

fn build(files: &[(&str, &str)]) -> Result<Rules, RulesError> {
    let declarations = Declarations::builtin();
    let set = RuleSet::load(files.iter().copied(), declarations).map_err(RulesError::Refused)?;
    Ok(Rules {
        set,
        fingerprint: fingerprint(files, declarations),
    })
}

/// Loads the checks of files and folders alone, without the built-in ones.
///
/// # Errors
/// As [`load`]; a path that is not there is an error here.
pub(crate) fn load_only(paths: &[PathBuf]) -> Result<Rules, RulesError> {
    let mut own = Vec::new();
    for path in paths {
        read(path, 0, &mut own)?;
    }
    let files: Vec<(&str, &str)> = own
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    build(&files)
}

/// Reads a file, or the `*.yaml` files below a folder, in the order of their names.
fn read(path: &Path, depth: usize, into: &mut Vec<(String, String)>) -> Result<(), RulesError> {
    let failed = |source| RulesError::Read {
        path: path.to_owned(),
        source,
    };
    let too_much = |what| RulesError::TooMuch {
        path: path.to_owned(),
        what,
    };
    if fs::metadata(path).map_err(failed)?.is_dir() {
        if depth == DEPTH {
            return Err(too_much("8 folders within each other"));
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_folder = fs::metadata(entry.path()).map_err(failed)?.is_dir();
            let is_check = entry.path().extension().is_some_and(|ext| ext == "yaml");
            if is_folder || is_check {
                names.push(entry.path());
            }
        }
        names.sort();
        return names
            .iter()
            .try_for_each(|name| read(name, depth + 1, into));
    }
    if into.len() == FILES {
        return Err(too_much("10,000 check files"));
    }
    let file = fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(too_much("a check's 256 KiB"));
    }
    into.push((path.display().to_string(), text));
    Ok(())
}

fn fingerprint(files: &[(&str, &str)], declarations: &Declarations) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("zero-x rules in force 1");
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(env!("CARGO_PKG_VERSION"));
    for declared in declarations.iter() {
        // The derived form names every field; that it is no format does not matter to a hash.
        add(&format!("{declared:?}"));
    }
    // Where a file lies does not change what it says.
    let mut texts: Vec<&str> = files.iter().map(|(_, text)| *text).collect();
    texts.sort_unstable();
    texts.into_iter().for_each(&mut add);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_means_the_builtin_checks_alone() {
        let rules = load(Path::new("/nonexistent/checks.d")).unwrap();
        assert_eq!(
            rules.set.checks().len(),
            RuleSet::builtin_files().len(),
            "one check a file"
        );
    }

    #[test]
    fn a_bad_file_refuses_the_whole_set_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/own.yaml");
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(&path, "id: aws.ec2.own-check\ntitel: Own\n").unwrap();
        // Neither is a check: an editor's copy, and a note.
        fs::write(folder.path().join("own.yaml~"), "garbage: [").unwrap();
        fs::write(folder.path().join("README.md"), "garbage: [").unwrap();

        let error = load(folder.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("deep/own.yaml:2:1"), "{text}");
        assert!(text.contains("titel"), "{text}");
        assert!(text.contains("title"), "the nearest key is missing: {text}");
        assert_eq!(error.exit().code(), 78);
        assert!(!text.contains("README"), "{text}");
    }
}
