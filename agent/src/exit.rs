//! How the program ends: exit codes, and errors printed as a chain that says what to do next.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// What the exit code tells a script (CONTRACT, "Programs").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The answer is "no", or the work could not be done for a reason without a code of its own.
    No = 1,
    /// The command line is wrong.
    Usage = 64,
    /// Data on disk is newer than this program or unreadable.
    Data = 65,
    /// The hub, or a provider, cannot be reached.
    Unreachable = 69,
    /// Refused: a wrong pin, an expired token, a revoked certificate, a missing right.
    Forbidden = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Exit {
    /// Returns the number that the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::No => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unreachable => 69,
            Self::Forbidden => 77,
            Self::Config => 78,
        }
    }
}

/// Why a command did not do its work: one clause, its causes, the exit code and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    clause: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
    fixes: Vec<String>,
}

impl Failure {
    /// Makes a failure without a cause below it.
    pub(crate) fn new(exit: Exit, clause: impl Into<String>) -> Self {
        Self {
            exit,
            clause: clause.into(),
            cause: None,
            fixes: Vec::new(),
        }
    }

    /// Makes a failure of `clause` because of `cause`.
    pub(crate) fn of(
        exit: Exit,
        clause: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            exit,
            clause: clause.into(),
            cause: Some(cause.into()),
            fixes: Vec::new(),
        }
    }

    /// Adds a line that says what to do.
    #[must_use]
    pub(crate) fn fix(mut self, line: impl Into<String>) -> Self {
        self.fixes.push(line.into());
        self
    }

    /// Returns the code that the process should end with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns the lines for standard error, without a final line break.
    pub(crate) fn lines(&self) -> String {
        let mut text = format!("zero-x-agent: {}", self.clause);
        let mut below: Option<&(dyn Error + 'static)> = self
            .cause
            .as_deref()
            .map(|cause| cause as &(dyn Error + 'static));
        // A chain is as deep as our own layers; the bound only guards against a cycle.
        for _ in 0..16 {
            let Some(cause) = below else { break };
            let _ = write!(text, "\n  caused by: {cause}");
            below = cause.source();
        }
        for fix in &self.fixes {
            let _ = write!(text, "\n  to fix: {fix}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not read segment 17")]
    struct Segment(#[source] std::io::Error);

    #[test]
    fn a_chain_reads_once_from_the_outside_in_and_ends_with_what_to_do() {
        let io = std::io::Error::from_raw_os_error(13);
        let failure = Failure::of(Exit::Data, "cannot open the spool", Segment(io))
            .fix("the files should belong to zero-x-agent");
        assert_eq!(
            failure.lines(),
            "zero-x-agent: cannot open the spool\n  caused by: could not read segment 17\n  \
             caused by: Permission denied (os error 13)\n  to fix: the files should belong to \
             zero-x-agent"
        );
        assert_eq!(failure.exit().code(), 65);
    }
}
