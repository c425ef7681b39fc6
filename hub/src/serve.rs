//! `zero-x-hub serve`: starts every part, watches over them, and stops them in order.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::ruleset::{self, Rules, RulesError};

/// The rules in force, which a reload may replace while the hub runs.
#[derive(Debug)]
pub(crate) struct RulesInForce {
    folder: PathBuf,
    sender: watch::Sender<Arc<Rules>>,
}

impl RulesInForce {
    /// Loads the built-in checks and those of a folder.
    ///
    /// # Errors
    /// When a file is refused.
    pub(crate) fn new(folder: PathBuf) -> Result<Self, RulesError> {
        let rules = Arc::new(ruleset::load(&folder)?);
        info!(checks = rules.set.checks().len(), "checks loaded");
        Ok(Self {
            folder,
            sender: watch::Sender::new(rules),
        })
    }

    /// Returns the rules in force at this moment.
    pub(crate) fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.sender.borrow())
    }

    /// Returns a receiver that holds the rules in force and wakes when they change.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Rules>> {
        self.sender.subscribe()
    }

    /// Loads the files again. Blocks for some hundred milliseconds.
    pub(crate) fn reload(&self) {
        match ruleset::load(&self.folder) {
            Ok(rules) => {
                info!(checks = rules.set.checks().len(), "checks loaded");
                self.sender.send_replace(Arc::new(rules));
            }
            Err(error) => {
                warn!(%error, "the checks were refused; the last good ones stay in force");
            }
        }
    }
}
