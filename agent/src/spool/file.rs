//! The file: opened, made, told from damage, put aside.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use protocol::frame::Lane;
use protocol::wire::v1::{Epoch, ReportItem};
use redb::{Database, Durability, ReadableDatabase, TableError, TableHandle};

use super::SpoolError;
use super::engine::{Engine, begin, finish};
use super::gauges::{Aside, lane_name};
use super::ledger;
use super::losses;
use super::tables::{
    ACKS, BATCHES, CONTENTS, CURSORS, FORMAT, GENERATIONS, HEADS, LANES, LOSSES, META, REPAIRS,
};
use crate::layout;
use crate::seal;

/// Pages that redb keeps in memory. The agent should be small; the system caches the file.
const CACHE_BYTES: usize = 2 << 20;

const FILE: &str = "spool.redb";

/// What the name of a file that was put aside begins with.
const ASIDE: &str = "spool.damaged-";

/// Files that are kept for whoever wants to look; on a disk that is short, one.
const ASIDES: usize = 3;

const CHECK: &[u8] = b"zero-x-agent spool";

/// Versions of redb's file format that can be taken for newer than the one it knows (3). A
/// damaged byte can hold any number.
const NEWER_REDB: std::ops::RangeInclusive<u8> = 4..=15;

impl Engine {
    fn path(&self) -> PathBuf {
        file(&self.folder)
    }

    /// Opens the file where it is not open; begins anew in the place of one that never will.
    pub(super) fn ready(&mut self) -> Result<(), SpoolError> {
        if self.slot.is_some() {
            return Ok(());
        }
        layout::make_private_dir(&self.folder).map_err(|error| SpoolError::Folder {
            path: self.folder.clone(),
            source: io::Error::other(error),
        })?;
        let why = match self.condemned.clone() {
            Some(words) => OpenError::Damaged(redb::Error::Corrupted(words)),
            None => match self.open_file() {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
        };
        if !why.is_for_good() {
            return Err(why.into_error(&self.path()));
        }
        let aside = self.move_aside(why.to_string())?;
        tracing::error!(
            file = %aside.file.display(),
            reason = %aside.reason,
            "the spool was moved aside; sources are read anew"
        );
        // Known where the file broke while it was in use.
        let unsent: Vec<(Lane, u64, i64)> = self
            .lanes
            .iter()
            .map(|(lane, state)| {
                let items = (state.marks.next - 1).saturating_sub(state.marks.acked);
                (*lane, items, state.oldest_ms)
            })
            .filter(|(_, items, _)| *items > 0)
            .collect();
        self.condemned = None;
        self.doubt = None;
        self.landed.clear();
        self.reached = 0;
        let opened = self.open_file();
        opened.map_err(|error| error.into_error(&self.path()))?;
        self.untold.push(report(&aside, &unsent));
        self.owed.extend(unsent);
        self.gauges.add_aside(aside);
        self.tell();
        // The session still counts in the old epoch.
        self.gauges.spooled.notify_one();
        Ok(())
    }

    fn move_aside(&self, reason: String) -> Result<Aside, SpoolError> {
        let folder = |source| SpoolError::Folder {
            path: self.folder.clone(),
            source,
        };
        let is_short = self
            .disk_free()
            .is_some_and(|free| free < self.config.keep_free_bytes);
        let kept = if is_short { 0 } else { ASIDES - 1 };
        let old = asides(&self.folder).map_err(folder)?;
        let gone = old.len().saturating_sub(kept);
        for path in old.iter().take(gone) {
            fs::remove_file(path).map_err(folder)?;
        }
        let at = Timestamp::now();
        let stamp = at.strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
        let file = self.folder.join(format!("{ASIDE}{stamp}"));
        let bytes = fs::metadata(self.path()).map_or(0, |found| found.len());
        fs::rename(self.path(), &file).map_err(folder)?;
        layout::sync_parent(&file).map_err(folder)?;
        Ok(Aside {
            file,
            bytes,
            at,
            reason,
        })
    }

    /// Opens the file into the slot, checks format and key, and reads what is needed in memory.
    fn open_file(&mut self) -> Result<(), OpenError> {
        let path = self.path();
        // redb can panic on a file that a lying disk has torn.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(&path)
        }));
        let database = match opened {
            Ok(Ok(database)) => database,
            Ok(Err(error)) => return Err(OpenError::of(error.into())),
            Err(_) => return Err(OpenError::Torn),
        };
        let read = catch_unwind(AssertUnwindSafe(|| self.read_state(&database)));
        match read {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(OpenError::Torn),
        }
        self.slot = Some(database);
        if let Some((serial, lane, next)) = self.doubt.take()
            && self.lane(lane).marks.next >= next
        {
            self.landed.insert(serial);
        }
        self.is_unsynced = false;
        self.publish();
        Ok(())
    }

    /// Reads the whole state; makes the tables where there are none. Nothing is written to a file
    /// that has them, so that a full disk does not keep one from being read.
    fn read_state(&mut self, database: &Database) -> Result<(), OpenError> {
        if !has_tables(database)? {
            self.make_tables(database)?;
        }
        let read = database.begin_read().map_err(OpenError::of_any)?;
        let meta = read.open_table(META).map_err(OpenError::of_any)?;
        let get = |name: &str| -> Result<Option<Vec<u8>>, OpenError> {
            let value = meta.get(name).map_err(OpenError::of_any)?;
            Ok(value.map(|value| value.value().to_vec()))
        };
        let id = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| Epoch::try_from(bytes).ok());
        let format = get("format")?.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        match format.map(u32::from_le_bytes) {
            Some(found) if found > FORMAT => {
                return Err(OpenError::Newer(format!("format {found}")));
            }
            Some(_) => {}
            None => return Err(OpenError::Torn),
        }
        let check = get("check")?.ok_or(OpenError::Torn)?;
        self.key
            .open(b"check", &check)
            .map_err(|_| OpenError::Foreign)?;
        self.birth = id(get("birth")?).ok_or(OpenError::Torn)?;
        self.epoch = id(get("epoch")?).ok_or(OpenError::Torn)?;
        // One that cannot be read is no worse than none: the hub is met as for the first time.
        self.witness = get("witness")?.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        self.lanes = ledger::read_lanes(&read).map_err(OpenError::of_spool)?;
        self.gauges
            .set_losses(losses::read(&read).map_err(OpenError::of_spool)?);
        Ok(())
    }

    fn make_tables(&self, database: &Database) -> Result<(), OpenError> {
        let write = begin(database).map_err(OpenError::of_spool)?;
        {
            let mut meta = write.open_table(META).map_err(OpenError::of_any)?;
            let birth = seal::random::<16>();
            let check = self.key.seal(b"check", CHECK);
            for (name, value) in [
                ("format", FORMAT.to_le_bytes().as_slice()),
                ("birth", birth.as_slice()),
                ("epoch", birth.as_slice()),
                ("check", check.as_slice()),
            ] {
                meta.insert(name, value).map_err(OpenError::of_any)?;
            }
            write.open_table(HEADS).map_err(OpenError::of_any)?;
            write.open_table(BATCHES).map_err(OpenError::of_any)?;
            write.open_table(LANES).map_err(OpenError::of_any)?;
            write.open_table(ACKS).map_err(OpenError::of_any)?;
            write.open_table(LOSSES).map_err(OpenError::of_any)?;
            write.open_table(CURSORS).map_err(OpenError::of_any)?;
            write.open_table(CONTENTS).map_err(OpenError::of_any)?;
            write.open_table(GENERATIONS).map_err(OpenError::of_any)?;
            write.open_table(REPAIRS).map_err(OpenError::of_any)?;
        }
        finish(write, Durability::Immediate).map_err(OpenError::of_spool)
    }
}

/// Returns the path of the spool's file.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Returns the files that were put aside, oldest first.
///
/// # Errors
///
/// When the folder cannot be listed.
pub(crate) fn asides(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(ASIDE) {
            found.push(entry.path());
        }
    }
    // The names are in the order of time.
    found.sort();
    Ok(found)
}

/// Returns whether the tables were made: all in one transaction, so that one tells for all. A file
/// with other tables is somebody else's.
fn has_tables(database: &Database) -> Result<bool, OpenError> {
    let read = database.begin_read().map_err(OpenError::of_any)?;
    match read.open_table(META) {
        Ok(_) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => {
            let mut others = read.list_tables().map_err(OpenError::of_any)?;
            match others.find(|table| table.name() != META.name()) {
                Some(_) => Err(OpenError::Foreign),
                None => Ok(false),
            }
        }
        Err(error) => Err(OpenError::of_any(error)),
    }
}

/// Returns what the hub is told of a file that was put aside.
fn report(aside: &Aside, unsent: &[(Lane, u64, i64)]) -> ReportItem {
    let counts: Vec<String> = unsent
        .iter()
        .map(|(lane, items, _)| format!("{items} of lane {}", lane_name(*lane)))
        .collect();
    let lost = if counts.is_empty() {
        "how many is not known".to_owned()
    } else {
        counts.join(", ")
    };
    let name = aside.file.file_name().unwrap_or_default();
    ReportItem::Quarantined {
        place: name.to_string_lossy().into_owned(),
        reason: format!(
            "the agent's spool could not be used and was moved aside: {}; items in it that this \
             hub had not acknowledged are lost: {lost}",
            aside.reason
        ),
        bytes: aside.bytes,
    }
}

/// Why a file does not open, and whether it ever will.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("the file is torn")]
    Torn,
    #[error("the file belongs to another identity, or is no spool")]
    Foreign,
    #[error("a newer program wrote it")]
    Newer(String),
    #[error("{0}")]
    Damaged(redb::Error),
    #[error("{0}")]
    System(redb::Error),
}

impl OpenError {
    fn of(error: redb::Error) -> Self {
        if let redb::Error::Corrupted(words) = &error
            && let Some(found) = newer_redb(words)
        {
            return Self::Newer(found);
        }
        // redb answers InvalidData for a file that does not begin as its own do.
        let is_foreign = if let redb::Error::Io(io) = &error {
            matches!(
                io.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            )
        } else {
            false
        };
        let is_damage = is_foreign
            || matches!(
                error,
                redb::Error::Corrupted(_)
                    | redb::Error::UpgradeRequired(_)
                    | redb::Error::TableDoesNotExist(_)
                    | redb::Error::TableTypeMismatch { .. }
                    | redb::Error::TypeDefinitionChanged { .. }
            );
        if is_damage {
            Self::Damaged(error)
        } else {
            Self::System(error)
        }
    }

    fn of_any(error: impl Into<redb::Error>) -> Self {
        Self::of(error.into())
    }

    fn of_spool(error: SpoolError) -> Self {
        if let SpoolError::Storage { source, .. } = error {
            Self::of(*source)
        } else {
            Self::Torn
        }
    }

    fn is_for_good(&self) -> bool {
        matches!(self, Self::Torn | Self::Foreign | Self::Damaged(_))
    }

    fn into_error(self, path: &Path) -> SpoolError {
        let path = path.to_owned();
        let source = match self {
            Self::Newer(found) => return SpoolError::Newer { path, found },
            Self::Damaged(error) | Self::System(error) => error,
            Self::Torn | Self::Foreign => redb::Error::Corrupted(self.to_string()),
        };
        SpoolError::Open {
            path,
            source: Box::new(source),
        }
    }
}

/// Returns the version in redb's words about a file of a newer one.
/// Source: redb 4.5.0, `TransactionHeader::from_bytes`; pinned by a test.
fn newer_redb(words: &str) -> Option<String> {
    let (_, found) = words
        .strip_prefix("Expected file format version")?
        .split_once("found ")?;
    let version: u8 = found.parse().ok()?;
    NEWER_REDB
        .contains(&version)
        .then(|| format!("redb's format {version}"))
}
