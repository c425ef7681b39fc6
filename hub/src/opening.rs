//! Opens the store as the settings say, and explains what keeps it from opening.

use std::io;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use store::error::{ApplianceError, MasterKeyError, OpenError, ReadError};
use store::{MasterKey, Store, StoreConfig};

use crate::config::Config;
use crate::failure::{Exit, Explain, Failure};

impl Explain for MasterKeyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { source, .. } => of_io(source),
            // Where the key may lie, how it must look and who may read it is configuration.
            Self::InsideData { .. }
            | Self::Mode { .. }
            | Self::Content { .. }
            | Self::Kind { .. }
            | Self::NoRecoveryKey { .. }
            | _ => Exit::Config,
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::InsideData { .. } => "keep the key outside the data directory, for example in \
                                        /etc/zero-x-hub/master.key: who copies the data must not \
                                        get the key"
                .to_owned(),
            Self::Mode { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Content { .. } => {
                "restore the file from your copy of the key; without it the data cannot be read"
                    .to_owned()
            }
            Self::Kind { .. } => "name the file itself".to_owned(),
            Self::NoRecoveryKey { .. } => {
                "name the file that `zero-x-hub key recovery generate` wrote".to_owned()
            }
            Self::Io { path, source } if source.kind() == io::ErrorKind::NotFound => format!(
                "{} is the key that `zero-x-hub init` made; restore it from your copy",
                path.display()
            ),
            Self::Io { .. } => "the file should be readable by the hub's user alone".to_owned(),
            _ => return None,
        })
    }
}

impl Explain for OpenError {
    fn exit(&self) -> Exit {
        match self {
            Self::MasterKey(error) => error.exit(),
            Self::WrongMasterKey { .. } => Exit::Config,
            Self::InUse { .. } => Exit::Unreachable,
            Self::Io { source, .. } => of_io(source),
            Self::Missing { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Foreign { .. } => Exit::Data,
            Self::Exists { .. } | Self::Start { .. } | _ => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::MasterKey(error) => return error.fix(),
            Self::WrongMasterKey { .. } => {
                "give the key file that belongs to this data directory".to_owned()
            }
            Self::Missing { .. } => "run `zero-x-hub init` first".to_owned(),
            Self::Newer { .. } => {
                "install the newer version again; data is never converted back".to_owned()
            }
            Self::Damaged { .. } | Self::Foreign { .. } => {
                "restore a backup; nothing was changed".to_owned()
            }
            Self::InUse { .. } => "another hub has it open; local commands reach a running hub \
                                   through its admin.sock, as root or the hub's user"
                .to_owned(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root or as the hub's user".to_owned()
            }
            Self::Exists { .. } | Self::Io { .. } | Self::Start { .. } | _ => return None,
        })
    }
}

impl Explain for ReadError {
    fn exit(&self) -> Exit {
        match self {
            Self::Open(error) => error.exit(),
            Self::Seal { .. } | Self::Newer { .. } | Self::Decode { .. } => Exit::Data,
            Self::Engine(_) | Self::Cursor | Self::Closed | _ => Exit::Failed,
        }
    }
}

impl Explain for ApplianceError {
    fn exit(&self) -> Exit {
        match self {
            Self::Read(error) => error.exit(),
            Self::Open(error) => error.exit(),
            Self::NameTaken
            | Self::EmailTaken
            | Self::Missing { .. }
            | Self::Conflict { .. }
            | Self::Token(_)
            | Self::TooLarge { .. }
            | Self::Full
            | Self::Fatal(_)
            | Self::Closed
            | _ => Exit::Failed,
        }
    }
}

fn of_io(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::Forbidden
    } else if error.kind() == io::ErrorKind::NotFound {
        Exit::Data
    } else {
        Exit::Failed
    }
}

/// Returns how the store of a data directory is to be opened: of the files that this process may
/// have open, sessions get three quarters.
pub(crate) fn store_config(data_dir: &Path) -> StoreConfig {
    let usual = StoreConfig::new(data_dir);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(allowed / 4).unwrap_or(usize::MAX);
    StoreConfig {
        open_files: usual.open_files.min(files).max(1),
        ..usual
    }
}

/// Opens the store that the settings name. Blocks.
///
/// # Errors
/// When no master key is set, or the key or the store cannot be opened.
pub(crate) fn open(config: &Config) -> Result<Store, Failure> {
    let key_file = config.master_key_file()?;
    if !Store::exists(&config.data_dir) {
        return Err(OpenError::Missing {
            path: config.data_dir.clone(),
        }
        .into());
    }
    let master = MasterKey::load(key_file, &config.data_dir)?;
    Ok(Store::open(store_config(&config.data_dir), master)?)
}
