//! The open store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ids::OrgId;

use crate::appliance::Appliance;
use crate::error::{Fatal, OpenError};
use crate::master::MasterKey;
use crate::org::OrgStore;

/// Where the store is and how much memory it may take.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Page cache of each open file, in bytes. The kernel's cache stands behind it.
    pub cache_bytes: usize,
}

impl StoreConfig {
    /// Makes the default configuration for a data directory: 1 MiB of cache per file, so that a
    /// thousand organisations stay within a gigabyte.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), cache_bytes: 1 << 20 }
    }
}

/// The open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    _private: (),
}

impl Store {
    /// Makes an empty store. Blocks.
    ///
    /// # Errors
    ///
    /// `Exists` where there is one; it is not touched then.
    pub fn create(config: StoreConfig, master: MasterKey) -> Result<Self, OpenError> {
        let _ = (config, master);
        todo!()
    }

    /// Opens the store. Blocks.
    ///
    /// # Errors
    ///
    /// `Missing`, `WrongMasterKey`, `Newer`, `Damaged`, `InUse`; nothing is changed then.
    pub fn open(config: StoreConfig, master: MasterKey) -> Result<Self, OpenError> {
        let _ = (config, master);
        todo!()
    }

    /// Says whether there is a store in a data directory.
    pub fn exists(data_dir: &Path) -> bool {
        let _ = data_dir;
        todo!()
    }

    /// Returns the appliance's own store.
    pub fn appliance(&self) -> Appliance {
        todo!()
    }

    /// Opens an organisation's store for start-up, timers and offline commands (see the crate's
    /// documentation for who may call this). `None` if there is no such organisation.
    ///
    /// # Errors
    ///
    /// When its file cannot be opened; other organisations are not concerned.
    pub async fn maintenance(&self, org: OrgId) -> Result<Option<OrgStore>, Arc<OpenError>> {
        let _ = org;
        todo!()
    }

    /// Waits until durability is lost. The hub ends its process then.
    pub async fn failed(&self) -> Fatal {
        todo!()
    }

    /// Returns how many reads wait for their turn.
    pub fn waiting_reads(&self) -> usize {
        todo!()
    }

    /// Commits what is queued and closes every file. Later calls answer `Closed`.
    pub async fn close(&self) {
        todo!()
    }
}
