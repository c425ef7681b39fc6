//! A backup: everything that the store holds, in one file that opens under its master key alone.
//!
//! ```text
//! header (in the clear)      header.rs   whose it is, when, which master key; that key sealed to
//!                                        the recovery recipient, where there is one
//! chunk chunk … last chunk   stream.rs   64 KiB each, AES-256-GCM, its number and whether it is
//!                                        the last one bound to it
//!   records                  record.rs   the appliance, then one organisation after another: rows
//!                                        as they are sealed in the store, marks, feed, numbers
//! ```
//! Each holder is one snapshot, so nobody's writes wait. **The order matters**: the appliance comes
//! first. A checkpoint of an audit log is signed after the entries it names are durable, so whatever
//! checkpoint the appliance's snapshot has, the organisation's later one has the entries. What an
//! organisation was given after the appliance's snapshot (agents, its own making) the backup lacks;
//! one that was purged meanwhile is named as gone. Its keyring is read before and after its snapshot
//! and stands with its rows, so that a rotation of its keys in between leaves none unreadable.

mod header;
mod make;
mod record;
mod restore;
mod stream;

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use protocol::ids::OrgId;

pub use self::header::BackupHeader;
pub(crate) use self::make::back_up;
pub use self::restore::{BackupContent, Restored};
use crate::error::{ApplianceError, EngineError, MasterKeyError, OpenError, ReadError};
use crate::recovery::RecoveryRecipient;

/// The newest format of a backup that this program reads and the one that it writes.
pub(crate) const FORMAT: u32 = 1;

/// What a backup says about itself, in the clear.
#[derive(Debug, Clone)]
pub struct BackupNote {
    /// A public name of the hub, at most 255 bytes: the pin of its authority.
    pub hub: String,
    /// The program's version, at most 255 bytes.
    pub program: String,
    /// The hub's clock.
    pub made_at: Timestamp,
    /// Who else can open it.
    pub recipient: Option<RecoveryRecipient>,
}

/// What a backup holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupSummary {
    /// Organisations with all of their rows.
    pub organisations: Vec<OrgId>,
    /// Organisations that were purged while it was made.
    pub gone: Vec<OrgId>,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why a backup was not made or not restored. Nothing was left behind then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It does not begin as a backup does.
    #[error("this is no backup: it does not begin with ZXBACKUP")]
    Magic,
    /// A newer program wrote it (exit code 65).
    #[error("the backup has format {found}; this program reads up to format {FORMAT}")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// Its header breaks the layout.
    #[error("the backup's header is damaged: {0}")]
    Header(&'static str),
    /// It opens under another master key.
    #[error(
        "the backup was sealed under master key {wanted}, but {} holds {given}", key_file.display()
    )]
    WrongMasterKey {
        /// Fingerprint of the key that it wants.
        wanted: String,
        /// Fingerprint of the key that was given.
        given: String,
        /// The key file.
        key_file: PathBuf,
    },
    /// It carries no master key.
    #[error("the backup was made without a recovery recipient; only master key {wanted} opens it")]
    NoRecipient {
        /// Fingerprint of the master key that it wants.
        wanted: String,
    },
    /// Its master key is sealed to another recovery key.
    #[error("the backup is sealed to the recovery key {wanted}, not to {given}")]
    OtherRecipient {
        /// Public half of the key that it wants.
        wanted: RecoveryRecipient,
        /// Public half of the key that was given.
        given: RecoveryRecipient,
    },
    /// The master key that it carries does not open.
    #[error("the master key in the backup's header does not open: the header was changed")]
    Unsealable,
    /// Its end is missing.
    #[error("the backup is cut off at byte {offset}")]
    Cut {
        /// Where it ends.
        offset: u64,
    },
    /// A chunk does not open at its place.
    #[error("the backup does not open at byte {offset}: changed, cut off or put together anew")]
    Chunk {
        /// Where the chunk begins.
        offset: u64,
    },
    /// What a chunk holds is not what this program writes.
    #[error("the backup makes no sense before byte {offset}: {reason}")]
    Content {
        /// How far it was read.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// The file could not be read or written.
    #[error("could not read or write the backup")]
    Io(#[from] io::Error),
    /// An organisation's keys were changed again and again meanwhile.
    #[error("the keys of {org} were changed each time that it was read")]
    Restless {
        /// The organisation.
        org: OrgId,
    },
    /// The master key was rotated meanwhile.
    #[error("the master key was rotated while the backup was made; make it again")]
    Rotated,
    /// The store could not be opened or made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An organisation's store could not be opened.
    #[error("could not open the store of {org}")]
    OpenOrg {
        /// The organisation.
        org: OrgId,
        /// The cause.
        #[source]
        source: OpenError,
    },
    /// A holder could not be read.
    #[error("could not read {whose}")]
    Engine {
        /// Whose rows.
        whose: String,
        /// The cause.
        #[source]
        source: EngineError,
    },
    /// A row of the hub's own could not be read.
    #[error("could not read the hub's own rows")]
    Read(#[from] ReadError),
    /// The hub's own rows could not be written.
    #[error("could not write the hub's own rows")]
    Appliance(#[from] ApplianceError),
    /// The master key file could not be used.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
}

impl BackupError {
    /// Says whether exit code 65 is due: newer than this program, or unreadable.
    pub fn is_data_error(&self) -> bool {
        match self {
            Self::Magic
            | Self::Newer { .. }
            | Self::Header(_)
            | Self::Unsealable
            | Self::Cut { .. }
            | Self::Chunk { .. }
            | Self::Content { .. } => true,
            Self::Open(error) | Self::OpenOrg { source: error, .. } => error.is_data_error(),
            Self::Engine { source, .. } => matches!(source, EngineError::Damaged(_)),
            Self::Read(error) => matches!(
                error,
                ReadError::Seal { .. } | ReadError::Newer { .. } | ReadError::Decode { .. }
            ),
            Self::WrongMasterKey { .. }
            | Self::NoRecipient { .. }
            | Self::OtherRecipient { .. }
            | Self::Io(_)
            | Self::Restless { .. }
            | Self::Rotated
            | Self::Appliance(_)
            | Self::MasterKey(_) => false,
        }
    }
}
