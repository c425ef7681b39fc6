//! Where things lie in the state directory, with which rights, and who may use it now.
//!
//! ```text
//! STATE/                 0700
//!   lock                       held by the one process that runs, enrols or leaves
//!   identity/            0700  agent.pem agent.key ca.pem enrolment.json spool.key: together or not at all
//!   spool/               0700  spool.redb
//!   bundles/             0700  ledger.json: what was exported, where the chain stands
//!   vault/               0700  key, <source id>.sealed
//!   sources.toml         0600
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// Says what is wrong with a file or folder of the state directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LayoutError {
    /// It could not be made.
    #[error("could not make {}", path.display())]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It could not be read.
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It could not be written.
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read a secret file.
    #[error("{} may be read by others than its owner (mode {mode:04o})", path.display())]
    Open { path: PathBuf, mode: u32 },
    /// Another process of this program works on the state directory.
    #[error("another zero-x-agent works in {}", path.display())]
    Busy { path: PathBuf },
}

impl LayoutError {
    /// Returns what to do about it.
    pub(crate) fn fix(&self) -> String {
        match self {
            Self::Open { path, .. } => format!("chmod 0600 {}", path.display()),
            Self::Busy { .. } => {
                "stop it first (`systemctl stop zero-x-agent`), or wait until it has ended"
                    .to_owned()
            }
            Self::Read { path, source } | Self::Write { path, source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                format!(
                    "as root, give it to USER whom the agent runs as (the service's is \
                     zero-x-agent): `chown USER {}`",
                    path.display()
                )
            }
            Self::Make { .. } | Self::Read { .. } | Self::Write { .. } => {
                "the state directory should belong to the user that runs this (the service user \
                 is zero-x-agent); --state-dir names another"
                    .to_owned()
            }
        }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        let fix = error.fix();
        Failure::of(Exit::No, "cannot use the state directory", error).fix(fix)
    }
}

/// The paths below one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    state: PathBuf,
}

impl Layout {
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
        }
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.state.join("spool")
    }

    pub(crate) fn bundles(&self) -> PathBuf {
        self.state.join("bundles")
    }

    pub(crate) fn vault(&self) -> PathBuf {
        self.state.join("vault")
    }

    pub(crate) fn sources(&self) -> PathBuf {
        self.state.join("sources.toml")
    }

    /// Makes the state directory if it is not there.
    ///
    /// # Errors
    ///
    /// [`LayoutError::Make`].
    pub(crate) fn prepare(&self) -> Result<(), LayoutError> {
        make_private_dir(&self.state)
    }

    /// Takes the state directory for this process until the value is dropped.
    ///
    /// # Errors
    ///
    /// [`LayoutError::Busy`] when another process has it.
    pub(crate) fn lock(&self) -> Result<Lock, LayoutError> {
        self.prepare()?;
        let path = self.state.join("lock");
        let file = lock_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(LayoutError::Busy {
                path: self.state.clone(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(LayoutError::Read { path, source }),
        }
    }

    /// Waits for the right to change the list of sources, which a running daemon only reads.
    ///
    /// # Errors
    ///
    /// When the lock's file cannot be made.
    pub(crate) fn lock_sources(&self) -> Result<Lock, LayoutError> {
        self.prepare()?;
        let path = self.state.join("sources.lock");
        let file = lock_file(&path)?;
        file.lock()
            .map_err(|source| LayoutError::Read { path, source })?;
        Ok(Lock { _file: file })
    }
}

/// Holds an advisory lock; the system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

fn lock_file(path: &Path) -> Result<File, LayoutError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| LayoutError::Make {
            path: path.to_owned(),
            source,
        })
}

/// Makes a folder that only its owner may enter, with its parents.
///
/// # Errors
///
/// [`LayoutError::Make`].
pub(crate) fn make_private_dir(path: &Path) -> Result<(), LayoutError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| LayoutError::Make {
            path: path.to_owned(),
            source,
        })
}

/// Writes a file that only its owner may read, whole or not at all: a new file, synced, takes the
/// old one's place.
///
/// # Errors
///
/// [`LayoutError::Write`]; the old file is then untouched.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), LayoutError> {
    let fresh = path.with_extension("new");
    let written = (|| {
        // A leftover of a crash could have other rights; it is never reused.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        sync_parent(path)
    })();
    written.map_err(|source| LayoutError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes a rename or removal in the folder of `path` durable.
///
/// # Errors
///
/// When the folder cannot be opened or synced.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a secret file, refusing one that others may read.
///
/// # Errors
///
/// [`LayoutError::Open`] for one with too wide rights; [`LayoutError::Read`].
pub(crate) fn read_private(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, LayoutError> {
    let read = |source| LayoutError::Read {
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(read)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(LayoutError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    fs::read(path).map(zeroize::Zeroizing::new).map_err(read)
}

/// Returns the user that a file or folder belongs to, or `None` when it is not there.
pub(crate) fn owner(path: &Path) -> Option<u32> {
    owner_and_group(path).map(|(user, _)| user)
}

/// Returns the user and the group that a file or folder belongs to, or `None` when it is not there.
pub(crate) fn owner_and_group(path: &Path) -> Option<(u32, u32)> {
    let found = fs::metadata(path).ok()?;
    Some((found.uid(), found.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_read_what_the_agent_writes() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&folder.path().join("state"));
        layout.prepare().unwrap();
        let file = layout.sources();
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        assert_eq!(mode(layout.state()), 0o700);
        assert_eq!(mode(&file), 0o600);
        assert_eq!(read_private(&file).unwrap().as_slice(), b"two");
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        write_private(&file, b"k").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = read_private(&file).unwrap_err().to_string();
        let want = "may be read by others than its owner (mode 0644)";
        assert!(refused.ends_with(want), "{refused}");
    }

    #[test]
    fn a_file_that_may_not_be_read_is_to_be_given_to_the_user_that_reads_it() {
        let read = |kind: io::ErrorKind| LayoutError::Read {
            path: "/state/sources.toml".into(),
            source: kind.into(),
        };
        let fix = read(io::ErrorKind::PermissionDenied).fix();
        assert!(fix.ends_with("`chown USER /state/sources.toml`"), "{fix}");
        assert!(!read(io::ErrorKind::NotFound).fix().contains("chown"));
    }

    #[test]
    fn a_state_directory_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let held = layout.lock().unwrap();
        assert!(matches!(layout.lock(), Err(LayoutError::Busy { .. })));
        drop(held);
        layout.lock().unwrap();
    }
}
