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
use std::time::Duration;

use super::RedbEngine;
use super::fleet::{Bounds, Fleet};
use super::opening::io_error;
use crate::engine::{Engine, Engines, Holder, LoadError, Moment, Pieces, Row, WriteSet};
use crate::error::OpenError;
use crate::tables::Table;

/// The files under one data directory.
pub(crate) struct RedbFiles {
    data_dir: PathBuf,
    /// The organisations' files.
    orgs: Arc<Fleet>,
}

/// Cache of the appliance's file, which is always open: its rows are few, and asked for at every
/// admission.
const APPLIANCE_CACHE_BYTES: usize = 4 << 20;

impl RedbFiles {
    /// `bounds` are those of the organisations' files.
    pub(crate) fn new(data_dir: PathBuf, bounds: Bounds) -> Self {
        Self {
            data_dir,
            orgs: Fleet::new(bounds),
        }
    }

    fn fleet(&self, holder: Holder) -> Arc<Fleet> {
        match holder {
            Holder::Appliance => Fleet::of_one(APPLIANCE_CACHE_BYTES),
            Holder::Org(_) => Arc::clone(&self.orgs),
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
        let engine = RedbEngine::create(&path, holder.tables(), &self.fleet(holder), first)?;
        Ok(Arc::new(engine))
    }

    fn load(
        &self,
        holder: Holder,
        moment: Moment,
        pieces: &mut Pieces<'_>,
    ) -> Result<(), LoadError> {
        let path = self.place(holder);
        if let Some(parent) = path.parent() {
            private_dir(parent)?;
        }
        let fleet = self.fleet(holder);
        RedbEngine::load(&path, holder.tables(), &fleet, moment, pieces)
    }

    fn open(&self, holder: Holder) -> Result<Arc<dyn Engine>, OpenError> {
        let path = self.place(holder);
        let engine = RedbEngine::open(&path, holder.tables(), &self.fleet(holder))?;
        Ok(Arc::new(engine))
    }

    fn peek(&self, holder: Holder, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError> {
        RedbEngine::peek(&self.place(holder), table, key)
    }

    fn remove(&self, holder: Holder) -> io::Result<()> {
        let path = self.place(holder);
        fs::remove_file(&path)?;
        // A name that comes back after a power cut would be a file that nobody asked for.
        path.parent()
            .map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    }

    fn rest_idle(&self, idle: Duration) -> usize {
        self.orgs.rest_idle(idle)
    }

    fn open_files(&self) -> usize {
        self.orgs.open_files()
    }

    fn cache_bytes(&self) -> usize {
        self.orgs.cache_bytes()
    }

    fn bytes(&self, holder: Holder) -> io::Result<u64> {
        Ok(fs::metadata(self.place(holder))?.len())
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
