//! Where facts go: a bounded channel, so that a full spool slows the source down.

use tokio::sync::mpsc;

use protocol::batch::BatchBuilder;
use protocol::document::{Document, Gap};
use protocol::urn::Scope;

use crate::source::CollectError;

/// One thing that a collector found out.
#[derive(Debug)]
pub enum Fact {
    /// A sweep of a scope starts. Scopes may overlap in time, never with themselves.
    Began {
        /// What is swept.
        scope: Scope,
    },
    /// One resource of a scope that has begun.
    Document(Box<Document>),
    /// The sweep was complete: every resource of the scope has been sent.
    Ended {
        /// What was swept.
        scope: Scope,
    },
    /// The list could not be read whole. Nothing of the scope may be retired.
    Failed {
        /// What was to be swept.
        scope: Scope,
        /// The call and its error.
        gap: Gap,
    },
    /// Scrubbed, normalised events, and the cursor behind the last of them, which the spool
    /// stores in the same transaction.
    Events {
        /// The events ([`protocol::event::EventRecord`]), in the order of the input, encoded as
        /// they will be sent.
        events: BatchBuilder,
        /// Records that could not be read, in the same stretch of input.
        quarantined: Vec<Quarantined>,
        /// Opaque to everybody but the source.
        cursor: Vec<u8>,
    },
}

/// A record that could not be read: kept apart with the reason, and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it stood: file and byte offset.
    pub place: String,
    /// Why it was refused.
    pub reason: String,
    /// Its length in bytes. The text itself stays on the host: it could hold anything.
    pub bytes: u64,
}

/// Sends facts towards the spool; waits while that is full.
#[derive(Debug, Clone)]
pub struct Output {
    facts: mpsc::Sender<Fact>,
}

impl Output {
    /// Makes an output and the end that the agent reads. `waiting` facts may queue.
    pub fn channel(waiting: usize) -> (Self, mpsc::Receiver<Fact>) {
        let (facts, receiver) = mpsc::channel(waiting);
        (Self { facts }, receiver)
    }

    /// Sends one fact.
    ///
    /// # Errors
    ///
    /// [`CollectError::Stopped`] when the agent is stopping.
    ///
    /// # Cancel safety
    ///
    /// Cancelled before it returns, the fact was not sent.
    pub async fn send(&self, fact: Fact) -> Result<(), CollectError> {
        self.facts
            .send(fact)
            .await
            .map_err(|_| CollectError::Stopped)
    }
}
