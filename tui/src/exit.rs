//! Exit codes, and errors as a chain that reads once.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use crate::client::{ClientError, is_wrong_pin};

/// Exit codes of CONTRACT, "Programs".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The answer is "no", or something failed that has no code of its own.
    No = 1,
    /// The command line cannot be used.
    Usage = 64,
    /// The hub cannot be reached.
    Unreachable = 69,
    /// The hub refuses.
    Forbidden = 77,
    /// The settings or the session file cannot be used.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    causes: Vec<String>,
    fix: Option<String>,
}

impl Failure {
    /// A failure with words of its own.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            causes: Vec::new(),
            fix: None,
        }
    }

    /// A failure of `what` because of `error`.
    pub(crate) fn because(exit: Exit, what: impl Into<String>, error: &dyn Error) -> Self {
        let mut failure = Self::new(exit, what);
        let mut next = Some(error);
        while let Some(cause) = next {
            failure.causes.push(cause.to_string());
            next = cause.source();
        }
        failure
    }

    /// Adds what to do.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Prints the chain to stderr and returns the exit code.
    pub(crate) fn report(&self) -> Exit {
        let mut lines = format!("zero-x: {}\n", crate::text::plain(&self.what));
        for cause in &self.causes {
            lines.push_str(&format!("  caused by: {}\n", crate::text::plain(cause)));
        }
        if let Some(fix) = &self.fix {
            lines.push_str(&format!("  to fix: {fix}\n"));
        }
        // Nowhere is left to report that stderr is closed.
        let _ = std::io::stderr().write_all(lines.as_bytes());
        self.exit
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (exit, fix) = match &error {
            ClientError::Connect { .. } | ClientError::Time { .. } | ClientError::Broken { .. } => {
                (
                    Exit::Unreachable,
                    Some("check that the hub runs and that the address and port are right"),
                )
            }
            ClientError::Pin { .. } => (
                Exit::Usage,
                Some("compare the pin with `ca_pin` as `zero-x-hub init` prints it"),
            ),
            ClientError::Tls { source, .. } if is_wrong_pin(source) => (
                Exit::Forbidden,
                Some(
                    "this hub's CA has another pin than the one given: check the address, and \
                     take the pin that `zero-x-hub status` prints on the hub's own \
                     machine, never from the network",
                ),
            ),
            ClientError::Tls { .. } => (
                Exit::Forbidden,
                Some("sign in with the hub's --ca-pin, which `zero-x-hub init` prints"),
            ),
            ClientError::Url { .. } => (Exit::Usage, None),
            ClientError::SignedOut => (Exit::Forbidden, Some("sign in with `zero-x login`")),
            ClientError::Problem { problem } => match (problem.status, problem.code.as_str()) {
                (_, "wrong_credentials") => (
                    Exit::Forbidden,
                    Some("check the e-mail address and the password"),
                ),
                (401, _) => (Exit::Forbidden, Some("sign in with `zero-x login`")),
                (403, _) => (Exit::Forbidden, None),
                (429, _) => (
                    Exit::No,
                    Some("wait as long as the hub says, then try again"),
                ),
                (400 | 422, _) => (Exit::Usage, None),
                (_, _) => (Exit::No, None),
            },
            ClientError::Answer { .. } => (Exit::No, None),
            ClientError::Session(_) => (Exit::Config, Some("sign in again with `zero-x login`")),
        };
        let mut failure = Self::new(exit, error.to_string());
        let mut next = error.source();
        while let Some(cause) = next {
            failure.causes.push(cause.to_string());
            next = cause.source();
        }
        failure.fix = fix.map(str::to_owned);
        failure
    }
}
