//! Why a check file was refused, with its place.

use std::fmt;

/// One reason why a check file was refused.
///
/// Prints as `<file>:<line>:<column>: <key>: <reason>`, then the allowed values and the nearest
/// known name where there are such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The file as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key at fault, such as `pass`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, a lower-case clause.
    pub reason: String,
    /// What would be accepted; empty where that is not a short list.
    pub allowed: Vec<String>,
    /// The known name that is most like the one found.
    pub nearest: Option<String>,
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)?;
        if !self.allowed.is_empty() {
            write!(f, "; one of {}", self.allowed.join(", "))?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest}?")?;
        }
        Ok(())
    }
}

/// Returns the known name that is most like `name`, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let folded = name.to_lowercase();
    known
        .into_iter()
        .map(|k| (k.to_lowercase(), k))
        .map(|(lower, k)| {
            let one_off = lower.len() > 2 && strsim::osa_distance(&folded, &lower) == 1;
            let likeness = strsim::jaro_winkler(&folded, &lower);
            (if one_off { likeness + 1.0 } else { likeness }, k)
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, k)| k.to_owned())
}
