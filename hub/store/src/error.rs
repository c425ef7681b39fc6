//! What can go wrong, one enum per operation that a caller can react to.

use std::path::{Path, PathBuf};

use protocol::ids::OrgId;

use crate::rows::retention::Hold;
use crate::writer::WriteFailure;

/// Why the store, or one organisation's part of it, could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The master key file could not be used.
    #[error("the master key cannot be used")]
    MasterKey(#[from] MasterKeyError),
    /// The data were sealed under another master key.
    #[error(
        "{} was sealed under master key {wanted}, but {} holds {given}", store.display(), key_file.display()
    )]
    WrongMasterKey {
        /// The store's file.
        store: PathBuf,
        /// The key file.
        key_file: PathBuf,
        /// Fingerprint of the key that the store wants.
        wanted: String,
        /// Fingerprint of the key that was given.
        given: String,
    },
    /// There is no store there.
    #[error("there is no store in {}", path.display())]
    Missing {
        /// The data directory.
        path: PathBuf,
    },
    /// There is a store there already.
    #[error("there is a store in {} already", path.display())]
    Exists {
        /// The data directory.
        path: PathBuf,
    },
    /// A newer program wrote it (exit code 65).
    #[error(
        "{} has format {found}; this program reads up to format {supported}", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program reads.
        supported: u32,
    },
    /// It is not a store, or it is damaged (exit code 65).
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file belongs to another organisation or another hub.
    #[error("{} does not belong to {org}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whom it should belong to.
        org: OrgId,
    },
    /// Another process has it open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("could not open {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A thread could not be started or an engine call failed for another reason.
    #[error("could not start the store: {reason}")]
    Start {
        /// What failed.
        reason: String,
    },
}

impl OpenError {
    /// Says whether exit code 65 is due: data newer than this program, or unreadable.
    pub fn is_data_error(&self) -> bool {
        matches!(
            self,
            Self::Newer { .. } | Self::Damaged { .. } | Self::Foreign { .. }
        )
    }

    /// Says whether there was no space, which may pass.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }

    /// Says why a file whose first rows cannot be read is not opened.
    pub(crate) fn of_row(path: &Path, error: &ReadError) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error {
            ReadError::Newer {
                found, supported, ..
            } => {
                let (found, supported) = (u32::from(*found), u32::from(*supported));
                Self::Newer {
                    path,
                    found,
                    supported,
                }
            }
            ReadError::Engine(cause) => Self::Damaged {
                path,
                reason: cause.to_string(),
            },
            ReadError::Seal { .. } | ReadError::Decode { .. } => Self::Damaged { path, reason },
            ReadError::Cursor | ReadError::Open(_) | ReadError::Compacting | ReadError::Closed => {
                Self::Start { reason }
            }
        }
    }
}

/// Why a master key file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterKeyError {
    /// It lies inside the data directory, so whoever takes the data takes the key.
    #[error("{} lies inside the data directory {}", path.display(), data_dir.display())]
    InsideData {
        /// The key file, links resolved.
        path: PathBuf,
        /// The data directory, links resolved.
        data_dir: PathBuf,
    },
    /// Others than its owner may read it.
    #[error("{} has mode {mode:04o}; it must be 0600", path.display())]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not 64 hexadecimal characters.
    #[error("{} is not 64 hexadecimal characters", path.display())]
    Content {
        /// The key file.
        path: PathBuf,
    },
    /// It holds no recovery key.
    #[error("{} holds no recovery key", path.display())]
    NoRecoveryKey {
        /// The file.
        path: PathBuf,
    },
    /// It is not a regular file.
    #[error("{} is not a regular file", path.display())]
    Kind {
        /// The key file.
        path: PathBuf,
    },
    /// The ledger of purged organisations beside it is none.
    #[error("{} is not a ledger of purged organisations", path.display())]
    Ledger {
        /// The ledger.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("could not read or write {}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Why a key was not rotated, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key file cannot be used, or no file can be made beside it. Nothing has changed.
    #[error("the master key was not changed")]
    File(#[from] MasterKeyError),
    /// The key file holds another key than the one in use. Nothing has changed.
    #[error("{} holds another key than the one that is in use", path.display())]
    Elsewhere {
        /// The key file.
        path: PathBuf,
    },
    /// The keyrings could not be stored.
    #[error("the keyrings could not be stored")]
    Store(#[from] ApplianceError),
    /// The rows cannot be read.
    #[error("the rows cannot be read")]
    Read(#[from] ReadError),
    /// The organisation's store cannot be opened.
    #[error("the organisation's store cannot be opened")]
    Open(#[from] std::sync::Arc<OpenError>),
    /// There is no such organisation.
    #[error("there is no such organisation")]
    NoOrg,
    /// It is under a legal hold. Nothing has changed.
    #[error("the organisation is under a legal hold: {}", hold.reason)]
    Held {
        /// The oldest hold that stands.
        hold: Box<Hold>,
    },
    /// The ledger of purged organisations was changed by somebody without the master key.
    #[error("the ledger of purged organisations beside the master key was not written by this hub")]
    Ledger,
    /// The purge is decided and in the ledger, but not at its end.
    #[error("the purge is recorded, but it did not come to its end")]
    Unfinished(#[source] Box<KeyError>),
    /// The organisation is purged, but its file could not be removed.
    #[error("the organisation's keys are gone, but {} could not be removed", path.display())]
    FileLeft {
        /// The file, which nothing opens any more.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The keyrings are wrapped under the new key, but the key file was not replaced.
    #[error(
        "the store is under its new master key, which is in {}, but {} could not be replaced",
        next.display(),
        path.display()
    )]
    Unplaced {
        /// The key file.
        path: PathBuf,
        /// The file beside it that holds the new key.
        next: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A row does not open under its own key and place: it was changed or moved on disk.
    #[error("a row of table {table} is damaged or does not belong where it is")]
    Seal {
        /// The table.
        table: &'static str,
    },
    /// A row has a newer format (exit code 65 where it stops a program).
    #[error("a row of table {table} has format {found}; this program reads up to {supported}")]
    Newer {
        /// The table.
        table: &'static str,
        /// Its format.
        found: u8,
        /// The newest that this program reads.
        supported: u8,
    },
    /// A row opened but does not decode.
    #[error("a row of table {table} does not decode: {reason}")]
    Decode {
        /// The table.
        table: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// The engine failed.
    #[error("the storage engine failed")]
    Engine(#[from] EngineError),
    /// A cursor is not one that this list gave.
    #[error("not a cursor of this list and sort order")]
    Cursor,
    /// Another part of the store could not be opened.
    #[error("could not open an organisation's store")]
    Open(#[source] std::sync::Arc<OpenError>),
    /// The organisation's file is being compacted, and it took too long to wait for.
    #[error("the organisation's file is being compacted")]
    Compacting,
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// Why an engine call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No space left. Nothing was written; later attempts may succeed.
    #[error("no space left on the disk")]
    Full,
    /// Durability can no longer be promised; the process must end.
    #[error("durability is lost: {0}")]
    Fatal(String),
    /// The file contradicts itself.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// Another input/output error.
    #[error("input/output failed: {0}")]
    Io(String),
}

/// Durability can no longer be promised; the process must end, since what the kernel dropped
/// after a failed sync cannot be known. The hub turns it into an exit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("durability is lost: {reason}")]
pub struct Fatal {
    /// What failed.
    pub reason: String,
}

/// Why a write to an organisation did not happen. None of it happened then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The batch does not follow what was stored: the sender must send from `expected`.
    #[error("expected sequence number {expected}")]
    Gap {
        /// The next sequence number that fits.
        expected: u64,
    },
    /// The batch was stored before; acknowledge it.
    #[error("stored before, up to sequence number {high_water}")]
    Repeat {
        /// The last sequence number stored.
        high_water: u64,
    },
    /// A row was changed by somebody else, or exists already; read again and retry.
    #[error("a row of table {table} was changed meanwhile")]
    Conflict {
        /// The table.
        table: &'static str,
    },
    /// The write names something that does not exist.
    #[error("{what} does not exist")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// A legal hold keeps what the write would forget.
    #[error("a legal hold stands: {}", hold.reason)]
    Held {
        /// The hold.
        hold: Box<Hold>,
    },
    /// A class of data cannot be kept for so many days.
    #[error("{reason}")]
    Days {
        /// Why.
        reason: String,
    },
    /// The write is larger than one commit may be.
    #[error("{what} exceeds its bound of {bound}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// No space left on the disk. Later attempts may succeed.
    #[error("no space left on the disk")]
    Full,
    /// Durability is lost; the process must end.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// A row that the write builds on could not be read.
    #[error("could not read what the write builds on")]
    Read(#[source] ReadError),
    /// The file cannot be written or read. Later attempts may succeed.
    #[error("the storage engine failed")]
    Engine(#[source] EngineError),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// Why an agent was not admitted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitAgentError {
    /// It is not on the positive list of that organisation.
    #[error("this agent is not enrolled")]
    Unknown,
    /// It was revoked.
    #[error("this agent is revoked")]
    Revoked,
    /// It is suspended: it should come back later.
    #[error("this agent is suspended")]
    Suspended,
    /// Its identity is used by two machines.
    #[error("this agent's identity was cloned; an operator must decide")]
    Quarantined,
    /// Its certificate is not one that is in force.
    #[error("this certificate is not the agent's current one")]
    WrongSerial,
    /// The positive list or the organisation's store could not be read.
    #[error("could not read the positive list")]
    Read(#[from] ReadError),
    /// The organisation's store could not be opened.
    #[error("could not open the organisation's store")]
    Open(#[source] std::sync::Arc<OpenError>),
    /// That the new certificate was seen could not be stored.
    #[error("could not note the agent's new certificate")]
    Settle(#[source] ApplianceError),
}

/// Why a user was not admitted to an organisation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitUserError {
    /// No such organisation, or no role in it: the caller cannot tell which, and must not say.
    #[error("no such organisation")]
    NoMembership,
    /// The membership could not be read.
    #[error("could not read the membership")]
    Read(#[from] ReadError),
    /// The organisation's store could not be opened.
    #[error("could not open the organisation's store")]
    Open(#[source] std::sync::Arc<OpenError>),
}

/// Why a change to the appliance's rows did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplianceError {
    /// The name is taken (organisation).
    #[error("the name is taken")]
    NameTaken,
    /// The e-mail address is taken.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// There is no such row.
    #[error("{what} does not exist")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// The row was changed by somebody else; read again and retry.
    #[error("{what} was changed meanwhile")]
    Conflict {
        /// What.
        what: &'static str,
    },
    /// An enrolment token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The write is larger than its bound.
    #[error("{what} exceeds its bound of {bound}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// No space left on the disk.
    #[error("no space left on the disk")]
    Full,
    /// Durability is lost; the process must end.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// A row that the write builds on could not be read.
    #[error("could not read what the write builds on")]
    Read(#[from] ReadError),
    /// The file cannot be written or read. Later attempts may succeed.
    #[error("the storage engine failed")]
    Engine(#[source] EngineError),
    /// A keyring does not open, so that it cannot be wrapped anew.
    #[error("the keyring of {whose} does not open")]
    Keyring {
        /// Whose it is.
        whose: String,
    },
    /// Every number of a data key is taken.
    #[error("all 255 numbers of data keys are taken by keys under which rows are still sealed")]
    DataKeys,
    /// The organisation's store could not be made.
    #[error("could not open the organisation's store")]
    Open(#[source] std::sync::Arc<OpenError>),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// Why an enrolment token cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// There is none of that id.
    #[error("no such enrolment token")]
    Unknown,
    /// Its time is over.
    #[error("this enrolment token has expired")]
    Expired,
    /// Every use of it is spent.
    #[error("this enrolment token has been used")]
    Used,
}

impl From<WriteFailure> for CommitError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Fatal(fatal) => Self::Fatal(fatal),
            WriteFailure::Engine(EngineError::Full) => Self::Full,
            WriteFailure::Engine(error) => Self::Engine(error),
            WriteFailure::Closed => Self::Closed,
        }
    }
}

impl From<WriteFailure> for ApplianceError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Fatal(fatal) => Self::Fatal(fatal),
            WriteFailure::Engine(EngineError::Full) => Self::Full,
            WriteFailure::Engine(error) => Self::Engine(error),
            WriteFailure::Closed => Self::Closed,
        }
    }
}
