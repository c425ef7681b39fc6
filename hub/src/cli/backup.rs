//! `backup`: the running hub reads, and this program writes the file with its own rights; without a
//! running hub it opens the store. `verify --backup` reads such a file to its end.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use serde_json::json;
use store::{BackupHeader, MasterKey, RecoveryRecipient, Store};
use tokio::signal::unix::{SignalKind, signal};

use super::local::told;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::backup::{self, LastBackup, Made};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::opening;

/// Makes a backup.
///
/// # Errors
/// When it could not be made. Nothing is left of it then.
pub(super) async fn run(
    config: &Config,
    file: &Path,
    recipient: Option<RecoveryRecipient>,
    format: Format,
) -> Result<Exit, Failure> {
    refuse_inside(file, &config.data_dir)?;
    let recipient = recipient.or(config.recovery_recipient);
    let partial = Partial::make(file)?;
    let made = tokio::select! {
        made = make(config, &partial, recipient) => made?,
        () = interrupted() => {
            partial.stop.store(true, Ordering::Relaxed);
            return Err(Failure::new(Exit::Failed, "stopped; no backup was made"));
        }
    };
    if made.recovery_recipient.is_none() {
        output::note(&format!(
            "only master key {} opens this backup. Keep a copy of that key apart from it, or set \
             recovery_recipient (`zero-x-hub key recovery generate FILE`)",
            made.master_key
        ));
    }
    let object = json!({
        "file": file.display().to_string(),
        "made_at": made.made_at,
        "bytes": made.bytes,
        "organisations": made.organisations,
        "rows": made.rows,
        "master_key": made.master_key,
        "recovery_recipient": made.recovery_recipient,
    });
    let mut lines = vec![
        ("backup", file.display().to_string()),
        ("made at", made.made_at.to_string()),
        ("size", format!("{} bytes", made.bytes)),
        ("organisations", made.organisations.to_string()),
        ("master key", made.master_key),
    ];
    lines.extend(made.recovery_recipient.map(|to| ("recovery key", to)));
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}

async fn make(
    config: &Config,
    partial: &Partial,
    recipient: Option<RecoveryRecipient>,
) -> Result<Made, Failure> {
    let question = Question::Backup { recipient };
    let mut to = partial.sink()?;
    let asked = admin::fetch(&config.data_dir, &question, &mut to).await;
    if let Some(answer) = asked.map_err(|error| partial.named(error.into()))? {
        let made: Made = told(answer)?;
        partial.put(made.bytes)?;
        let question = Question::BackedUp {
            last: LastBackup {
                made_at: made.made_at,
                bytes: made.bytes,
            },
        };
        // The backup stands; that `status` does not tell of it is no failure of it.
        if let Err(error) = admin::ask(&config.data_dir, &question).await {
            output::note(&format!("the hub could not note it: {error}"));
        }
        return Ok(made);
    }
    let opened = config.clone();
    let store = tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))??;
    let made = offline(&store, partial, recipient, to).await;
    store.close().await;
    made
}

async fn offline(
    store: &Store,
    partial: &Partial,
    recipient: Option<RecoveryRecipient>,
    to: Sink,
) -> Result<Made, Failure> {
    let made = backup::make(store, recipient, to).await;
    let made = made.map_err(|failure| partial.named(failure))?;
    partial.put(made.bytes)?;
    let last = LastBackup {
        made_at: made.made_at,
        bytes: made.bytes,
    };
    backup::note_last(&store.appliance(), last).await?;
    Ok(made)
}

/// Waits for the signal that ends a program.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Refuses a backup that would be lost with what it is a copy of.
fn refuse_inside(file: &Path, data_dir: &Path) -> Result<(), Failure> {
    let folder = parent(file);
    let (Ok(folder), Ok(data)) = (fs::canonicalize(folder), fs::canonicalize(data_dir)) else {
        return Ok(());
    };
    if !folder.starts_with(&data) {
        return Ok(());
    }
    let what = format!("{} lies inside the data directory", file.display());
    Err(Failure::new(Exit::Usage, what).with_fix("write it to another disk"))
}

fn parent(file: &Path) -> &Path {
    let folder = file.parent();
    let folder = folder.filter(|path| !path.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// A file that has its name only once it is whole; until then it is `FILE.partial`, and goes when
/// this is dropped.
struct Partial {
    file: PathBuf,
    partial: PathBuf,
    /// Locked while it is written, so that no second backup begins with the same name.
    open: File,
    stop: Arc<AtomicBool>,
    is_put: AtomicBool,
}

/// Writes to a [`Partial`] until it is told to stop.
struct Sink {
    to: File,
    stop: Arc<AtomicBool>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Partial {
    fn make(file: &Path) -> Result<Self, Failure> {
        let exists = || {
            let what = format!("{} exists already", file.display());
            Failure::new(Exit::Failed, what).with_fix("name another file; none is replaced")
        };
        if file.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let mut partial = OsString::from(file);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // One that a killed backup left behind is taken over; a link is not followed, and a pipe not
        // waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&partial)
            .map_err(|error| failed(&partial, &error))?;
        let found = open.metadata().map_err(|error| failed(&partial, &error))?;
        // In a folder that others may write to, it could be theirs, or a second name of another file.
        let is_ours = found.uid() == rustix::process::geteuid().as_raw();
        if !(found.is_file() && is_ours && found.nlink() == 1) {
            let what = format!("{} is not a file of this user's alone", partial.display());
            return Err(
                Failure::new(Exit::Failed, what).with_fix("remove it, or name another file")
            );
        }
        match open.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("{} is being written by another backup", partial.display());
                return Err(Failure::new(Exit::Failed, what));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&partial, &error)),
        }
        let made = Self {
            file: file.to_owned(),
            partial,
            open,
            stop: Arc::default(),
            is_put: AtomicBool::new(false),
        };
        let private = Permissions::from_mode(0o600);
        let emptied = made.open.set_permissions(private);
        emptied
            .and_then(|()| made.open.set_len(0))
            .map_err(|error| failed(&made.partial, &error))?;
        Ok(made)
    }

    fn sink(&self) -> Result<Sink, Failure> {
        let to = self.open.try_clone();
        Ok(Sink {
            to: to.map_err(|error| failed(&self.partial, &error))?,
            stop: Arc::clone(&self.stop),
        })
    }

    fn named(&self, failure: Failure) -> Failure {
        failure.below(format!("no backup was made to {}", self.file.display()))
    }

    /// Makes the file durable and gives it its name.
    fn put(&self, bytes: u64) -> Result<(), Failure> {
        let put = || -> io::Result<()> {
            self.open.sync_all()?;
            let found = self.open.metadata()?.len();
            if found != bytes {
                let what = format!("{found} bytes of {bytes} came");
                return Err(io::Error::other(what));
            }
            rename_new(&self.partial, &self.file)?;
            File::open(parent(&self.file))?.sync_all()
        };
        put().map_err(|error| failed(&self.file, &error))?;
        self.is_put.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_put.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Renames a file to a name that nothing has, also where it was taken in this moment.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // Some network file systems know no such rename.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        Err(error) => Err(error.into()),
    }
}

/// How a file that cannot be read or written ends the program.
pub(super) fn of_io(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Exit::Forbidden
    } else {
        Exit::Failed
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(of_io(error), format!("could not write {}", path.display())).caused_by(error)
}

/// Opens a backup and reads its header.
///
/// # Errors
/// When it cannot be read, or is none.
pub(super) fn open(file: &Path) -> Result<(BackupHeader, BufReader<File>), Failure> {
    let opened = File::open(file).map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::NotFound {
            Exit::Usage
        } else {
            of_io(&error)
        };
        Failure::new(exit, format!("could not read {}", file.display())).caused_by(&error)
    })?;
    let mut from = BufReader::with_capacity(256 << 10, opened);
    let header = BackupHeader::read(&mut from).map_err(|error| bad(file, error.into()))?;
    Ok((header, from))
}

/// Names the file that a failure is of.
pub(super) fn bad(file: &Path, failure: Failure) -> Failure {
    failure.below(format!("cannot use {}", file.display()))
}

/// Reads a backup to its end: opens every chunk and every row.
///
/// # Errors
/// When it is not whole, or the master key is another. Faults in it are the answer, with exit code
/// 65.
pub(super) async fn verify(config: &Config, file: &Path, format: Format) -> Result<Exit, Failure> {
    let (header, mut from) = open(file)?;
    let master = MasterKey::load(config.master_key_file()?, &config.data_dir)?;
    let reading = header.clone();
    let found =
        tokio::task::spawn_blocking(move || Store::inspect_backup(&master, &reading, &mut from));
    let found = found
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot read the backup").caused_by(&error))?
        .map_err(|error| bad(file, error.into()))?;
    let summary = &found.summary;
    let object = json!({
        "file": file.display().to_string(),
        "hub": header.hub(),
        "program": header.program(),
        "made_at": header.made_at(),
        "master_key": header.fingerprint(),
        "recovery_recipient": header.recipient().map(|to| to.to_string()),
        "organisations": summary.organisations,
        "purged_meanwhile": summary.gone,
        "rows": summary.rows,
        "bytes": summary.bytes,
        "faults": found.faults,
    });
    let mut lines = vec![
        ("backup", file.display().to_string()),
        ("of the hub", header.hub().to_owned()),
        ("made at", header.made_at().to_string()),
        ("organisations", summary.organisations.len().to_string()),
        ("rows", summary.rows.to_string()),
    ];
    lines.extend(found.faults.iter().map(|fault| ("fault", fault.clone())));
    output::print_object(format, &object, &lines)?;
    match found.faults.len() {
        0 => Ok(Exit::Ok),
        count => Err(
            Failure::new(Exit::Data, format!("{count} faults in the backup")).with_fix(
                "keep an older backup: the store had these faults when this one was made",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Explain as _;
    use store::BackupError;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole_and_replaces_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        let left = || fs::read_dir(dir.path()).unwrap().count();
        {
            let partial = Partial::make(&file).unwrap();
            partial.sink().unwrap().write_all(b"some").unwrap();
            let second = Partial::make(&file).err().unwrap();
            assert!(second.lines().contains("another backup"), "{second:?}");
            assert!(partial.put(5).is_err(), "a byte is missing");
            assert!(!file.exists());
        }
        assert_eq!(left(), 0);
        // One that was killed left this.
        fs::write(dir.path().join("backup.partial"), b"longer than the next").unwrap();
        let partial = Partial::make(&file).unwrap();
        partial.sink().unwrap().write_all(b"whole").unwrap();
        partial.put(5).unwrap();
        drop(partial);
        assert_eq!(fs::read(&file).unwrap(), b"whole");
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert_eq!(left(), 1);
        assert!(Partial::make(&file).is_err());
        // Taken in the last moment.
        let other = dir.path().join("other");
        let partial = Partial::make(&other).unwrap();
        fs::write(&other, b"mine").unwrap();
        assert!(partial.put(0).is_err());
        drop(partial);
        assert_eq!(fs::read(&other).unwrap(), b"mine");
        assert_eq!(left(), 2);
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, b"kept").unwrap();
        for name in ["backup", "backup.partial"] {
            let link = dir.path().join(name);
            std::os::unix::fs::symlink(&target, &link).unwrap();
            assert!(Partial::make(&dir.path().join("backup")).is_err());
            fs::remove_file(link).unwrap();
        }
        // Nor is a second name of another file emptied.
        let second = dir.path().join("backup.partial");
        fs::hard_link(&target, &second).unwrap();
        assert!(Partial::make(&dir.path().join("backup")).is_err());
        assert!(second.exists());
        assert_eq!(fs::read(&target).unwrap(), b"kept");
    }

    #[test]
    fn every_damage_ends_with_65_and_says_what_to_do() {
        for error in [
            BackupError::Magic,
            BackupError::Newer { found: 2 },
            BackupError::Header("x"),
            BackupError::Cut { offset: 1 },
            BackupError::Chunk { offset: 1 },
        ] {
            assert_eq!(error.exit(), Exit::Data, "{error}");
            assert!(error.fix().is_some(), "{error}");
        }
    }
}
