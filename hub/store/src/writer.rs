//! One thread per owner that commits its writes, several at a time.

use crate::error::{EngineError, Fatal};

/// Why a write did not become durable.
#[derive(Debug, Clone)]
pub(crate) enum WriteFailure {
    /// Durability is lost.
    Fatal(Fatal),
    /// The engine failed; nothing was stored.
    Engine(EngineError),
    /// The store is closing.
    Closed,
}
