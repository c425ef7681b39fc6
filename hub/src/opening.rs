//! Opens the store as the settings say, and explains what keeps it from opening.

use std::io;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use store::error::{ApplianceError, KeyError, MasterKeyError, OpenError, ReadError};
use store::{MasterKey, Store, StoreConfig};
use tracing::{info, warn};

use crate::config::Config;
use crate::failure::{Exit, Explain, Failure};

/// What to do about a ledger of purged organisations that is none, or somebody else's.
const LEDGER: &str = "put the copy of the ledger back that you keep with the copies of the master \
                      key; without the ledger nothing tells which organisations a backup must not \
                      bring back";

impl Explain for MasterKeyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Io { source, .. } => of_io(source),
            Self::Ledger { .. } => Exit::Data,
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
            Self::Ledger { .. } => LEDGER.to_owned(),
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
                "give the key file that belongs to this data directory. Where the hub reads a copy \
                 of it, as from a service manager's credential, a `key rotate` that was cut off is \
                 ended by `zero-x-hub key status --master-key-file FILE` as root, with the file \
                 that the copy is made of"
                    .to_owned()
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
            | Self::Keyring { .. }
            | Self::DataKeys
            | Self::Closed
            | _ => Exit::Failed,
        }
    }
}

impl Explain for KeyError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Elsewhere { .. } => Exit::Config,
            Self::Store(error) => error.exit(),
            Self::Read(error) => error.exit(),
            Self::Open(error) => error.exit(),
            Self::Ledger => Exit::Data,
            Self::Unfinished(error) => error.exit(),
            Self::NoOrg | Self::Held { .. } | Self::Unplaced { .. } | Self::FileLeft { .. } | _ => {
                Exit::Failed
            }
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::Ledger => LEDGER.to_owned(),
            Self::Unfinished(_) => "the next start of the hub ends it".to_owned(),
            Self::FileLeft { path, .. } => format!("remove {}", path.display()),
            Self::File(MasterKeyError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::NotFound
                ) =>
            {
                "the hub may not write beside its key file, which is a service manager's credential \
                 or in somebody else's folder. Either stop the hub, run the same command as root \
                 with `--master-key-file FILE` naming the file that the credential is made of, and \
                 start the hub; or have the new key written elsewhere, `--new-key-file FILE`, and \
                 put it where the hub finds its key before the next start"
                    .to_owned()
            }
            Self::File(error) => return error.fix(),
            Self::Elsewhere { path } => format!(
                "nothing has changed. Put the key in use back into {}, or start the hub again",
                path.display()
            ),
            Self::Unplaced { next, path, .. } => format!(
                "the hub goes on, and starts with either file where it can write; make the folder \
                 writable and start the hub again, or move {} to {} by hand",
                next.display(),
                path.display()
            ),
            Self::Held { .. } => {
                "nothing has changed; `zero-x hold list` names it, and who may lift it".to_owned()
            }
            Self::NoOrg => "`zero-x org list` names them".to_owned(),
            Self::Store(_) | Self::Read(_) | Self::Open(_) | _ => return None,
        })
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
    let store = Store::open(store_config(&config.data_dir), master)?;
    finish_purges(&store);
    Ok(store)
}

/// Ends purges of organisations that were cut off, as the ledger beside the master key tells them.
/// What stands in the way is said; it is no reason to keep the others waiting.
fn finish_purges(store: &Store) {
    let finished = tokio::runtime::Handle::try_current().map(|runtime| {
        let ended = runtime.block_on(store.finish_purges());
        match ended {
            Ok(0) => {}
            Ok(count) => info!(
                count,
                "purges of organisations that were cut off are at their end"
            ),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(error, "purges of organisations could not be looked after");
            }
        }
    });
    if let Err(error) = finished {
        warn!(%error, "purges of organisations could not be looked after");
    }
}
