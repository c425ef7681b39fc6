//! How the program ends: an exit code, a chain of causes, and what the operator can do.

use std::error::Error;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How the program ended (exit codes of CONTRACT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Ok,
    /// It could not, or the answer is "no".
    Failed,
    /// The command line is wrong.
    Usage,
    /// The data is newer than this program, or unreadable.
    Data,
    /// A peer cannot be reached.
    Unreachable,
    /// It may not.
    Forbidden,
    /// The configuration is wrong.
    Config,
}

impl Exit {
    const ALL: [Self; 7] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Data,
        Self::Unreachable,
        Self::Forbidden,
        Self::Config,
    ];

    /// Returns the number that the system sees. Source: `sysexits.h` for 64 and above.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unreachable => 69,
            Self::Forbidden => 77,
            Self::Config => 78,
        }
    }
}

/// An error that knows how the program should end by it and what would mend it.
pub(crate) trait Explain: Error {
    /// Returns how the program ends if nobody handles it.
    fn exit(&self) -> Exit;

    /// Returns what the operator can do, as a clause; `None` where the chain says it.
    fn fix(&self) -> Option<String> {
        None
    }
}

/// A failure as it is shown: it ends the command.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Outermost first.
    chain: Vec<String>,
    fix: Option<String>,
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        let exit = error.exit();
        let fix = error.fix();
        Self {
            exit,
            chain: chain(&error),
            fix,
        }
    }
}

/// Returns an error's clause and those of its causes. A transparent wrapper repeats its cause,
/// which is said once.
pub(crate) fn chain(error: &dyn Error) -> Vec<String> {
    let mut clauses = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let clause = cause.to_string();
        if clauses.last() != Some(&clause) {
            clauses.push(clause);
        }
        source = cause.source();
    }
    clauses
}

/// A failure as the running hub tells it to a local command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    exit: u8,
    chain: Vec<String>,
    fix: Option<String>,
}

impl From<&Failure> for Told {
    fn from(failure: &Failure) -> Self {
        Self {
            exit: failure.exit.code(),
            chain: failure.chain.clone(),
            fix: failure.fix.clone(),
        }
    }
}

impl From<Told> for Failure {
    fn from(told: Told) -> Self {
        let Told { exit, chain, fix } = told;
        let known = Exit::ALL.into_iter().find(|known| known.code() == exit);
        Self {
            exit: known.unwrap_or(Exit::Failed),
            chain,
            fix,
        }
    }
}

impl Failure {
    /// Makes a failure without a cause.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            chain: vec![what.into()],
            fix: None,
        }
    }

    /// Adds an error and its causes below what is there.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &dyn Error) -> Self {
        self.chain.extend(chain(error));
        self
    }

    /// Puts what was being done above what failed.
    #[must_use]
    pub(crate) fn below(mut self, what: impl Into<String>) -> Self {
        self.chain.insert(0, what.into());
        self
    }

    /// Sets what the operator can do.
    #[must_use]
    pub(crate) fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns what failed and why, outermost first.
    pub(crate) fn clauses(&self) -> &[String] {
        &self.chain
    }

    /// Returns what the operator can do.
    pub(crate) fn fix(&self) -> Option<&str> {
        self.fix.as_deref()
    }

    /// Returns the text for standard error, without a line end.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::from("zero-x-hub");
        for (depth, clause) in self.chain.iter().enumerate() {
            let lead = if depth == 0 { ": " } else { "\n  caused by: " };
            let _ = write!(text, "{lead}{clause}");
        }
        if let Some(fix) = &self.fix {
            let _ = write!(text, "\n  to fix: {fix}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot open the store")]
        Store(#[source] std::io::Error),
    }

    impl Explain for Outer {
        fn exit(&self) -> Exit {
            Exit::Data
        }
        fn fix(&self) -> Option<String> {
            Some("restore a backup".to_owned())
        }
    }

    #[test]
    fn a_chain_reads_once_from_the_top_and_ends_with_the_way_out() {
        let failure = Failure::from(Outer::Store(std::io::Error::other("the disk is gone")));
        assert_eq!(failure.exit().code(), 65);
        assert_eq!(
            failure.lines(),
            "zero-x-hub: cannot open the store\n  caused by: the disk is gone\n  \
             to fix: restore a backup"
        );
    }
}
