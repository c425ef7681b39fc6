//! What a source can do.

use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::output::Output;
use protocol::document::Gap;

/// One cloud call that did not answer: which, and the provider's code.
///
/// It becomes a [`Gap`] where it hides a field and a `Failed` scope where it hides a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} answered {code}")]
pub struct Fault {
    /// Service and operation, `s3:GetBucketPolicy`.
    pub call: String,
    /// The provider's error code (`AccessDenied`, `Throttling`), or our own lower-case reason
    /// such as `timeout` or `truncated`. Never a message, which may quote customer data.
    pub code: String,
}

impl From<Fault> for Gap {
    fn from(fault: Fault) -> Self {
        Self {
            call: fault.call,
            error: fault.code,
        }
    }
}

/// Says why a whole sync could not run. Single calls that fail are [`Fault`]s, not this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// No credentials were found or the provider refused them.
    #[error("no usable credentials: {reason}")]
    Credentials {
        /// What was tried and what would help.
        reason: String,
    },
    /// The provider cannot be reached at all.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable {
        /// Host or base URL.
        endpoint: String,
        /// The transport's words.
        reason: String,
    },
    /// The source's settings cannot be used.
    #[error("{key} cannot be used: {reason}")]
    Setting {
        /// The setting.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A local file could not be read.
    #[error("could not read {path}")]
    File {
        /// Which file.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The receiver of facts has gone away; the agent is stopping.
    #[error("the receiver has gone away")]
    Stopped,
}

/// What one sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Calls made, retries included.
    pub calls: u64,
    /// Documents sent.
    pub documents: u64,
    /// Scopes that ended without an error.
    pub scopes_ended: u64,
    /// Calls that failed for good, each once.
    pub faults: Vec<Fault>,
    /// How long it took.
    pub took: Duration,
}

/// The answer to "may this source make this call?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Service and operation.
    pub call: String,
    /// The permission that it needs.
    pub permission: String,
    /// `None` when it answered; else the provider's code.
    pub refused: Option<String>,
}

/// A source of resources, read in sweeps.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Returns the resource types that the source reads.
    fn types(&self) -> Vec<String>;

    /// Reads everything once: for every scope `Began`, documents as pages arrive, then `Ended`
    /// if and only if nothing of the scope was missed, else `Failed`.
    ///
    /// A document with gaps does not spoil its scope: the list was whole. Stops early, without
    /// ending open scopes, when `stop` is cancelled.
    ///
    /// # Errors
    ///
    /// When nothing could be read at all.
    async fn sync(&self, out: &Output, stop: &CancellationToken) -> Result<Summary, CollectError>;

    /// Tries each call of the declared types once, with the smallest possible page.
    ///
    /// # Errors
    ///
    /// When nothing could be tried at all.
    async fn probe(&self) -> Result<Vec<Probe>, CollectError>;
}

/// When a tail should return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the present end of the input (`run --once`).
    CaughtUp,
    /// Only when it is told to stop.
    Stopped,
}

/// A source of events, read from where it left off.
#[async_trait]
pub trait Tail: Send + Sync {
    /// Reads from `cursor` (what the last stored [`crate::Fact::Events`] carried; `None` at the
    /// very first start) and sends events with the cursor behind them.
    ///
    /// # Errors
    ///
    /// When the input cannot be read. A bad record is quarantined, not an error.
    async fn follow(
        &self,
        cursor: Option<Vec<u8>>,
        out: &Output,
        until: Until,
        stop: &CancellationToken,
    ) -> Result<Summary, CollectError>;
}
