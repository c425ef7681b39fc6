//! Compaction: one organisation's file is written together, and what is free goes back to the system.
//!
//! The engine does it alone with the file. Writes wait in their queue and then happen; a full queue
//! makes sessions wait, and what they carry stays with their agents. Reads wait before they take a
//! place of those that all organisations share, so that others read on; a long wait is refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{OrgInner, OrgStore};
use crate::engine::{Compacted, Usage};
use crate::error::ReadError;

/// How long a compaction waits for reads that have begun. Those that come meanwhile wait for it.
const READS_END: Duration = Duration::from_secs(10);

/// How long a read waits for a compaction: less than a request may take to be answered.
const READ_WAITS: Duration = Duration::from_secs(20);

/// What is known of a file's space.
pub(super) struct Space {
    is_compacting: watch::Sender<bool>,
    /// As it was last measured.
    usage: Mutex<Option<Usage>>,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            is_compacting: watch::Sender::new(false),
            usage: Mutex::default(),
        }
    }
}

impl Space {
    /// Waits until the file is not being compacted.
    pub(super) async fn settled(&self) -> Result<(), ReadError> {
        if !*self.is_compacting.borrow() {
            return Ok(());
        }
        let mut state = self.is_compacting.subscribe();
        match tokio::time::timeout(READ_WAITS, state.wait_for(|working| !working)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ReadError::Compacting),
        }
    }

    fn measured(&self, usage: Option<Usage>) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
}

/// Ends the wait of reads, whatever became of the compaction.
struct Working(Arc<OrgInner>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.space.is_compacting.send_replace(false);
    }
}

impl OrgStore {
    /// Compacts the file. `None` where reads went on for too long, or it is being compacted already:
    /// nothing has changed then.
    ///
    /// # Errors
    ///
    /// As a read. After a crash in it the file is as it was before or after, and whole.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop it.
    pub async fn compact(&self) -> Result<Option<Compacted>, ReadError> {
        if self.inner.is_closed() {
            return Err(ReadError::Closed);
        }
        if self.inner.space.is_compacting.send_replace(true) {
            return Ok(None);
        }
        let working = Working(Arc::clone(&self.inner));
        let done = tokio::task::spawn_blocking(move || {
            let org = &working.0;
            let compacted = org.engine.compact(READS_END)?;
            org.space.measured(org.engine.usage()?);
            Ok(compacted)
        });
        done.await.unwrap_or(Err(ReadError::Closed))
    }

    /// Measures how much of its file is in use. Reads all of it.
    pub async fn usage(&self) -> Result<Option<Usage>, ReadError> {
        self.read(|reader| {
            let usage = reader.org.engine.usage()?;
            reader.org.space.measured(usage);
            Ok(usage)
        })
        .await
    }

    /// Returns what was last measured since the start.
    pub fn last_usage(&self) -> Option<Usage> {
        let usage = &self.inner.space.usage;
        *usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
