//! The file under redb: plain positioned reads and writes, remembering the first error by kind,
//! since redb reports a later one only as "previous error".

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use crate::error::EngineError;

/// What went wrong first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No space, or over quota. Nothing that was acknowledged is touched by it.
    Full,
    /// A sync failed: what the kernel has dropped is unknown.
    Sync(String),
    /// Anything else.
    Other(String),
}

impl From<Trouble> for EngineError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full => Self::Full,
            Trouble::Sync(reason) => Self::Fatal(reason),
            Trouble::Other(reason) => Self::Io(reason),
        }
    }
}

/// The first error of a file.
#[derive(Debug, Default)]
pub(super) struct Health {
    first: Mutex<Option<Trouble>>,
}

impl Health {
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn is_latched(&self) -> bool {
        self.trouble().is_some()
    }

    fn note(&self, trouble: Trouble) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // A failed sync outranks what came before it.
        if first.is_none() || matches!(trouble, Trouble::Sync(_)) {
            *first = Some(trouble);
        }
    }

    /// Turns an error of redb into what a caller can act on.
    pub(super) fn explain(&self, error: &dyn fmt::Display) -> EngineError {
        self.trouble()
            .map_or_else(|| EngineError::Damaged(error.to_string()), Into::into)
    }
}

/// Says whether an error means that there is no room. Source: errno(3), ENOSPC, EDQUOT, EFBIG.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Bytes that outlive the process: a locked file, or what the tests put in its place.
pub(super) trait Medium: fmt::Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|data| data.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A medium whose errors are noted.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Arc<dyn Medium>,
    health: Arc<Health>,
}

impl Disk {
    pub(super) fn new(medium: Arc<dyn Medium>, health: Arc<Health>) -> Self {
        Self { medium, health }
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.health.note(if is_full(error) {
                Trouble::Full
            } else {
                Trouble::Other(error.to_string())
            });
        }
        result
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.noted(self.medium.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted(self.medium.read_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted(self.medium.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.medium.sync();
        if let Err(error) = &result {
            self.health
                .note(Trouble::Sync(format!("fsync failed: {error}")));
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.medium.write_at(data, offset))
    }
}
