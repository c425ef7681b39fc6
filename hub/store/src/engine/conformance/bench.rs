//! The engines that are tried. A further one is a function here and a module in `on_every_engine`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::ids::OrgId;

use crate::engine::memory::{MemoryEngine, MemoryEngines};
use crate::engine::redb::{Bounds, RedbFiles};
use crate::engine::{
    Engine, Engines, Holder, LoadError, Moment, Pieces, Read, Row, Work, WriteSet,
};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

/// The holder that most cases use.
pub(super) const HOLDER: Holder = Holder::Org(OrgId::from_bytes([1; 16]));

/// Engines in a place of their own.
pub(super) struct Bench {
    pub(super) engines: Box<dyn Engines>,
    again: fn() -> Self,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    /// Makes an empty engine.
    pub(super) fn make(&self) -> Arc<dyn Engine> {
        self.engines.create(HOLDER, &WriteSet::default()).unwrap()
    }

    /// Returns engines of the same kind in another place.
    pub(super) fn another(&self) -> Self {
        (self.again)()
    }

    pub(super) fn open(&self) -> Arc<dyn Engine> {
        self.engines.open(HOLDER).unwrap()
    }
}

pub(super) fn model() -> Bench {
    Bench {
        engines: Box::new(MemoryEngines::default()),
        again: model,
        _dir: None,
    }
}

pub(super) fn repeating() -> Bench {
    Bench {
        engines: Box::new(Repeating::default()),
        again: repeating,
        _dir: None,
    }
}

const BOUNDS: Bounds = Bounds {
    open_files: 4,
    cache_bytes: 4 << 20,
};

pub(super) fn redb() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    Bench {
        engines: Box::new(RedbFiles::new(dir.path().to_owned(), BOUNDS)),
        again: redb,
        _dir: Some(dir),
    }
}

/// The model, but each group is run twice, the first time for nothing: what an engine may do that
/// lost a race.
#[derive(Default)]
struct Repeating(MemoryEngines);

/// An engine of [`Repeating`].
pub(crate) struct RepeatingEngine(pub(crate) Arc<dyn Engine>);

impl Engines for Repeating {
    fn place(&self, holder: Holder) -> PathBuf {
        self.0.place(holder)
    }

    fn exists(&self, holder: Holder) -> bool {
        self.0.exists(holder)
    }

    fn create(&self, holder: Holder, first: &WriteSet) -> Result<Arc<dyn Engine>, OpenError> {
        Ok(Arc::new(RepeatingEngine(self.0.create(holder, first)?)))
    }

    fn load(
        &self,
        holder: Holder,
        moment: Moment,
        pieces: &mut Pieces<'_>,
    ) -> Result<(), LoadError> {
        self.0.load(holder, moment, pieces)
    }

    fn open(&self, holder: Holder) -> Result<Arc<dyn Engine>, OpenError> {
        Ok(Arc::new(RepeatingEngine(self.0.open(holder)?)))
    }

    fn peek(&self, holder: Holder, table: Table, key: &[u8]) -> Result<Option<Row>, OpenError> {
        self.0.peek(holder, table, key)
    }

    fn remove(&self, holder: Holder) -> io::Result<()> {
        self.0.remove(holder)
    }
}

impl Engine for RepeatingEngine {
    fn group(&self, work: &mut Work<'_>) -> Result<(), EngineError> {
        let lost = self.0.group(&mut |group| {
            work(group)?;
            Err(EngineError::Io("the race is lost".into()))
        });
        assert!(lost.is_err());
        self.0.group(work)
    }

    fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
        self.0.snapshot()
    }

    fn close(&self) {
        self.0.close();
    }
}

/// The model with groups that are run twice.
pub(crate) fn repeating_engine() -> Arc<dyn Engine> {
    Arc::new(RepeatingEngine(Arc::new(MemoryEngine::default())))
}
