//! Backups of the running hub, or of its store while it rests: what they are made with, and when
//! the last one was.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use store::error::ApplianceError;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{Appliance, BackupError, BackupNote, BackupSummary, RecoveryRecipient, Store};
use tokio::sync::mpsc;
use tracing::warn;
use zeroize::Zeroizing;

use crate::ca::Authority;
use crate::failure::{Exit, Explain, Failure};
use crate::identity;

const LAST: &str = "hub/last-backup";

impl Explain for BackupError {
    fn exit(&self) -> Exit {
        match self {
            Self::WrongMasterKey { .. }
            | Self::NoRecipient { .. }
            | Self::OtherRecipient { .. } => Exit::Config,
            Self::MasterKey(error) => error.exit(),
            Self::Open(error) | Self::OpenOrg { source: error, .. } => error.exit(),
            Self::Read(error) => error.exit(),
            Self::Appliance(error) => error.exit(),
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => Exit::Forbidden,
            Self::Magic
            | Self::Newer { .. }
            | Self::Header(_)
            | Self::Unsealable
            | Self::Cut { .. }
            | Self::Chunk { .. }
            | Self::Content { .. } => Exit::Data,
            Self::Engine { .. } if self.is_data_error() => Exit::Data,
            Self::Engine { .. } | Self::Io(_) | Self::Restless { .. } | Self::Rotated | _ => {
                Exit::Failed
            }
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::Newer { .. } => "restore it with the version that made it, or a newer one".into(),
            Self::Magic => "name a file that `zero-x-hub backup` has made".into(),
            Self::Header(_)
            | Self::Unsealable
            | Self::Cut { .. }
            | Self::Chunk { .. }
            | Self::Content { .. } => "take another copy of this backup, or the one before; \
                                       nothing was restored"
                .into(),
            Self::WrongMasterKey { .. } => "give the key file that the hub had when the backup \
                                            was made, or a recovery key with \
                                            --recovery-key-file"
                .into(),
            Self::NoRecipient { .. } => "find that key; for backups to come, set \
                                         recovery_recipient (`zero-x-hub key recovery generate`)"
                .into(),
            Self::OtherRecipient { .. } => "give the file with the secret half of that key".into(),
            Self::OpenOrg { .. } | Self::Engine { .. } => {
                "`zero-x-hub verify` says what is wrong; keep the backups that you have".into()
            }
            Self::Restless { .. } | Self::Rotated => "run it again".into(),
            Self::Open(error) => return error.fix(),
            Self::MasterKey(error) => return error.fix(),
            Self::Io(_) | Self::Read(_) | Self::Appliance(_) | _ => return None,
        })
    }
}

/// The last backup that was made and reached its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBackup {
    /// When it was begun.
    pub(crate) made_at: Timestamp,
    /// Bytes of the file.
    pub(crate) bytes: u64,
}

/// What came of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    /// When it was begun.
    pub(crate) made_at: Timestamp,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Organisations that are in it.
    pub(crate) organisations: usize,
    /// Rows of all tables.
    pub(crate) rows: u64,
    /// Fingerprint of the master key that it opens under.
    pub(crate) master_key: String,
    /// Who else can open it.
    pub(crate) recovery_recipient: Option<String>,
}

/// Returns the last backup; `None` when none was ever made.
///
/// # Errors
/// When the hub's own rows cannot be read.
pub(crate) async fn last(appliance: &Appliance) -> Result<Option<LastBackup>, store::ReadError> {
    let bytes = appliance.secret(LAST).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Notes that a backup has reached its file.
///
/// # Errors
/// When the store cannot be written.
pub(crate) async fn note_last(
    appliance: &Appliance,
    last: LastBackup,
) -> Result<(), ApplianceError> {
    let bytes = serde_json::to_vec(&last).expect("a time and a number always serialise");
    appliance.put_secret(LAST, Zeroizing::new(bytes)).await
}

/// Makes a backup of an open store. Every organisation's audit log says so first: what counts is
/// that its data was read, whatever becomes of the file.
///
/// # Errors
/// When a part of the store cannot be read, or `to` not written.
pub(crate) async fn make(
    store: &Store,
    recipient: Option<RecoveryRecipient>,
    mut to: impl Write + Send + 'static,
) -> Result<Made, Failure> {
    let appliance = store.appliance();
    let material = identity::material(&appliance).await?;
    // To the millisecond, as the header has it.
    let now = Timestamp::now();
    let made_at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let note = BackupNote {
        hub: Authority::load(&material)?.pin().to_string(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        made_at,
        recipient,
    };
    let readers = match recipient {
        Some(recipient) => format!("for the master key and {recipient}"),
        None => "for the master key alone".to_owned(),
    };
    audit(store, "backup.create", &readers).await?;
    let backed_up = store.clone();
    let making = tokio::task::spawn_blocking(move || backed_up.back_up(&note, &mut to));
    let summary: BackupSummary = making.await.map_err(|error| {
        Failure::new(Exit::Failed, "cannot make the backup").caused_by(&error)
    })??;
    Ok(Made {
        made_at,
        bytes: summary.bytes,
        organisations: summary.organisations.len(),
        rows: summary.rows,
        master_key: store.master_key(),
        recovery_recipient: recipient.map(|recipient| recipient.to_string()),
    })
}

/// Records an act of an operator of the hub in the audit log of every organisation.
///
/// # Errors
/// When a log cannot be written.
pub(crate) async fn audit(store: &Store, action: &str, detail: &str) -> Result<(), Failure> {
    for org in store.appliance().orgs().await? {
        let opened = store.maintenance(org.id).await.map_err(|error| {
            Failure::new(error.exit(), format!("cannot open the store of {}", org.id))
                .caused_by(&*error)
        })?;
        // It was purged since the list was made.
        let Some(opened) = opened else { continue };
        let mut write = opened.write();
        write.audit(AuditAct {
            at: Timestamp::now(),
            actor: Actor::Local,
            action: action.to_owned(),
            object: org.id.to_string(),
            detail: detail.to_owned(),
        });
        write.commit().await.map_err(|error| {
            let what = format!("cannot write to the audit log of {}", org.id);
            Failure::new(Exit::Failed, what).caused_by(&error)
        })?;
    }
    Ok(())
}

/// Hands on what is written, piece by piece; whoever takes the pieces sets the pace.
pub(crate) struct Pieces(pub(crate) mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(bytes.to_vec());
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says in the log what came of a backup.
pub(crate) fn log(made: &Result<Made, Failure>) {
    match made {
        Ok(made) => tracing::info!(
            bytes = made.bytes,
            organisations = made.organisations,
            "a backup was read"
        ),
        Err(failure) => warn!(reason = failure.clauses().join(": "), "a backup failed"),
    }
}
