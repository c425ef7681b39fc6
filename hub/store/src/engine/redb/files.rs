//! Where redb's files lie: one for the appliance, one for each organisation.
//!
//! ```text
//! <data>/appliance.redb
//! <data>/orgs/<org id>.redb
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RedbEngine;
use super::opening::io_error;
use crate::engine::{Engine, Engines, Holder, Row, WriteSet};
use crate::error::OpenError;
use crate::tables::Table;

/// The files under one data directory.
pub(crate) struct RedbFiles {
    data_dir: PathBuf,
    cache_bytes: usize,
}

impl RedbFiles {
    pub(crate) fn new(data_dir: PathBuf, cache_bytes: usize) -> Self {
        Self {
            data_dir,
            cache_bytes,
        }
    }
}

impl Engines for RedbFiles {
    fn place(&self, holder: Holder) -> PathBuf {
        match holder {
            Holder::Appliance => self.data_dir.join("appliance.redb"),
            Holder::Org(org) => self.data_dir.join("orgs").join(format!("{org}.redb")),
        }
    }

    fn exists(&self, holder: Holder) -> bool {
        self.place(holder).exists()
    }

    fn create(&self, holder: Holder, first: &WriteSet) -> Result<Arc<dyn Engine>, OpenError> {
        let path = self.place(holder);
        if let Some(parent) = path.parent() {
            private_dir(parent)?;
        }
        let engine = RedbEngine::create(&path, holder.tables(), self.cache_bytes, first)?;
        Ok(Arc::new(engine))
    }

    fn open(&self, holder: Holder) -> Result<Arc<dyn Engine>, OpenError> {
        let path = self.place(holder);
        let engine = RedbEngine::open(&path, holder.tables(), self.cache_bytes)?;
        Ok(Arc::new(engine))
    }

    fn peek(&self, holder: Holder, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError> {
        RedbEngine::peek(&self.place(holder), table, key)
    }

    fn remove(&self, holder: Holder) -> io::Result<()> {
        fs::remove_file(self.place(holder))
    }
}

/// Makes a directory that only its owner may enter; one that is there stays as it is.
fn private_dir(path: &Path) -> Result<(), OpenError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|source| io_error(path, source))
}
