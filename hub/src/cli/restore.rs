//! `restore`: makes a store from a backup, whole or not at all.
//!
//! ```text
//! D/restore.partial/          everything is made, changed and verified here
//! D/restore.partial/moving    written when all of it is whole
//! D/orgs, D/appliance.redb    moved in this order: with the second D has a store, and not before
//! ```
//! It is made inside of D, and not beside it, since the hub's user may write to D alone, and D may
//! be a mount point.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use store::error::{MasterKeyError, OpenError};
use store::{BackupHeader, Deletions, MasterKey, RecoveryKey, Restored, Store};

use super::Restore;
use super::backup::{bad, of_io, open};
use super::output::{self, Format};
use super::verify;
use crate::backup::{self, LastBackup};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::{identity, opening};

const PARTIAL: &str = "restore.partial";
const MOVING: &str = "moving";
const APPLIANCE: &str = "appliance.redb";
const ORGS: &str = "orgs";

/// Restores a backup.
///
/// # Errors
/// When it could not be restored. D has no store then.
pub(super) async fn run(config: &Config, args: &Restore, format: Format) -> Result<Exit, Failure> {
    let key_file = config.master_key_file()?;
    let data_dir = &config.data_dir;
    if Store::exists(data_dir) {
        let path = data_dir.clone();
        let failure = Failure::from(OpenError::Exists { path });
        return Err(failure.with_fix("name an empty directory with --data-dir"));
    }
    let (header, from) = open(&args.file)?;
    let bytes = from.get_ref().metadata().map_or(0, |found| found.len());
    let place = Place::make(data_dir)?;
    let (master, recovered) = key(key_file, data_dir, &header, args)?;
    let purged = purged(&master)?;
    let restored = Store::restore(
        opening::store_config(&place.partial),
        master,
        header.clone(),
        from,
        move |org| purged.of(org).is_some(),
    );
    let restored = restored.await.map_err(|e| bad(&args.file, e.into()))?;
    let faults = settle(&restored, &header, bytes).await;
    restored.store.close().await;
    let faults = faults?;
    if !faults.is_empty() && !args.with_faults {
        let count = faults.len();
        let what = format!(
            "the store of this backup had {count} faults: {}",
            faults.join("; ")
        );
        return Err(Failure::new(Exit::Data, what).with_fix(
            "restore an older backup, or this one as it is with --with-faults; nothing was \
             restored",
        ));
    }
    place.put()?;
    recovered.keep();
    told(args, &header, &restored, &faults, format)
}

/// Returns the organisations that were purged, as the ledger beside the master key tells. One that
/// another master key has signed, as after a rotation since the backup, counts all the same: to leave
/// out too many is mended by another restore, to bring one back is not.
fn purged(master: &MasterKey) -> Result<Deletions, MasterKeyError> {
    let purged = Deletions::beside(master)?;
    if purged.all().next().is_none() {
        output::note(&format!(
            "no organisation is named as purged beside {}: if one was since the backup, it comes back \
             unless its ledger, the file with the ending .deletions, is put there first",
            master.path().display()
        ));
    }
    if !purged.is_verified() {
        output::note(
            "the ledger of purged organisations beside the master key was signed by another one; \
             what it names is left out, and it is signed by this one now",
        );
        purged.adopt(master)?;
    }
    Ok(purged)
}

/// A key file that was made from a backup; it goes with a restore that fails.
struct Recovered(Option<PathBuf>);

impl Recovered {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Recovered {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            let _ = fs::remove_file(file);
        }
    }
}

/// Returns the master key: from its file, or from the backup with a recovery key.
fn key(
    key_file: &Path,
    data_dir: &Path,
    header: &BackupHeader,
    args: &Restore,
) -> Result<(MasterKey, Recovered), Failure> {
    let Some(recovery) = &args.recovery_key_file else {
        let loaded = MasterKey::load(key_file, data_dir);
        let is_missing = matches!(
            &loaded,
            Err(MasterKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound
        );
        return match loaded {
            Ok(master) => Ok((master, Recovered(None))),
            Err(error) if is_missing => {
                let wanted = header.fingerprint();
                let fix = match header.recipient() {
                    Some(to) => format!(
                        "put master key {wanted} there, or have it made from the backup with \
                         --recovery-key-file, the secret half of {to}"
                    ),
                    None => format!("put master key {wanted} there; no other opens this backup"),
                };
                Err(Failure::from(error).with_fix(fix))
            }
            Err(error) => Err(error.into()),
        };
    };
    if key_file.symlink_metadata().is_ok() {
        let what = format!("{} exists already", key_file.display());
        return Err(Failure::new(Exit::Config, what).with_fix(
            "leave out --recovery-key-file if it holds this backup's master key; else name a file \
             that does not exist: the key is written to a new one",
        ));
    }
    let recovery = RecoveryKey::load(recovery)?;
    let master = MasterKey::recover(key_file, data_dir, header, &recovery)
        .map_err(|error| bad(&args.file, error.into()))?;
    Ok((master, Recovered(Some(key_file.to_owned()))))
}

/// Makes of what was restored a hub that begins anew, and looks at all of it. Returns its faults.
async fn settle(
    restored: &Restored,
    header: &BackupHeader,
    bytes: u64,
) -> Result<Vec<String>, Failure> {
    let store = &restored.store;
    let appliance = store.appliance();
    identity::begin_anew(&appliance).await?;
    let made_at = header.made_at();
    backup::note_last(&appliance, LastBackup { made_at, bytes }).await?;
    let detail = format!(
        "from the backup of {made_at}, made by version {}",
        header.program()
    );
    backup::audit(store, "backup.restore", &detail).await?;
    let rows = verify::verify(store).await?;
    let faults = rows.iter().flat_map(|row| {
        let whose = row.get("org").and_then(Value::as_str).unwrap_or_default();
        let faults = row.get("faults").and_then(Value::as_array);
        let faults = faults.into_iter().flatten().filter_map(Value::as_str);
        faults.map(move |fault| format!("{whose}: {fault}"))
    });
    Ok(faults.collect())
}

/// Says what was restored, and what an operator has to think of.
fn told(
    args: &Restore,
    header: &BackupHeader,
    restored: &Restored,
    faults: &[String],
    format: Format,
) -> Result<Exit, Failure> {
    let made_at = header.made_at();
    output::note(&format!(
        "what came after {made_at} is not in it: agents send again what they still keep; agents \
         enrolled since must enrol again; agents revoked, users disabled and passwords changed \
         since are as they were. People log in again, enrolment tokens are void"
    ));
    if args.recovery_key_file.is_some() {
        output::note(
            "the master key came from the backup. Anybody who knows the recovery recipient can \
             make a backup that opens like this: compare the hub's pin with what agents were given",
        );
    }
    let object = json!({
        "file": args.file.display().to_string(),
        "hub": header.hub(),
        "made_at": made_at,
        "organisations": restored.organisations,
        "purged": restored.left_out,
        "master_key": header.fingerprint(),
        "master_key_recovered": args.recovery_key_file.is_some(),
        "faults": faults,
    });
    let mut lines = vec![
        ("restored", args.file.display().to_string()),
        ("of the hub", header.hub().to_owned()),
        ("made at", made_at.to_string()),
        ("organisations", restored.organisations.len().to_string()),
        ("purged since", restored.left_out.len().to_string()),
        ("master key", header.fingerprint()),
    ];
    lines.extend(faults.iter().map(|fault| ("fault", fault.clone())));
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}

/// Where a store is made before it has its place. It goes when this is dropped.
struct Place {
    data_dir: PathBuf,
    partial: PathBuf,
    /// Locked against a second restore.
    _lock: File,
}

impl Place {
    fn make(data_dir: &Path) -> Result<Self, Failure> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| failed(&path, &error)
        };
        let mut builder = DirBuilder::new();
        let builder = builder.recursive(true).mode(0o700);
        builder.create(data_dir).map_err(at(data_dir))?;
        let lock = File::open(data_dir).map_err(at(data_dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("another restore to {} is running", data_dir.display());
                return Err(Failure::new(Exit::Failed, what));
            }
            Err(TryLockError::Error(error)) => return Err(failed(data_dir, &error)),
        }
        let place = Self {
            data_dir: data_dir.to_owned(),
            partial: data_dir.join(PARTIAL),
            _lock: lock,
        };
        place.clear().map_err(at(&place.partial))?;
        if data_dir.join(ORGS).symlink_metadata().is_ok() {
            let orgs = data_dir.join(ORGS);
            let what = format!("{} exists, without the hub's own file", orgs.display());
            return Err(Failure::new(Exit::Failed, what)
                .with_fix("name an empty directory with --data-dir; nothing was changed"));
        }
        builder.create(&place.partial).map_err(at(&place.partial))?;
        Ok(place)
    }

    /// Takes away what an unfinished restore has made: its folder, and the organisations' folder if
    /// it was cut off between its last two steps.
    fn clear(&self) -> io::Result<()> {
        let orgs = self.data_dir.join(ORGS);
        let is_moving = self.partial.join(MOVING).exists();
        if is_moving && orgs.exists() && !self.data_dir.join(APPLIANCE).exists() {
            fs::rename(&orgs, self.partial.join(ORGS))?;
        }
        match fs::remove_dir_all(&self.partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Moves everything to its place, as the owner of D has it: who restores as root must not leave
    /// files that the hub cannot open.
    fn put(&self) -> Result<(), Failure> {
        let sync = |path: &Path| File::open(path)?.sync_all();
        let put = || -> io::Result<()> {
            owned_like(&self.partial, &fs::metadata(&self.data_dir)?)?;
            let orgs = self.partial.join(ORGS);
            if orgs.exists() {
                sync(&orgs)?;
            }
            File::create_new(self.partial.join(MOVING))?.sync_all()?;
            sync(&self.partial)?;
            if orgs.exists() {
                fs::rename(&orgs, self.data_dir.join(ORGS))?;
                sync(&self.data_dir)?;
            }
            fs::rename(self.partial.join(APPLIANCE), self.data_dir.join(APPLIANCE))?;
            sync(&self.data_dir)
        };
        put().map_err(|error| failed(&self.data_dir, &error))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Gives everything below a folder the owner of another.
fn owned_like(folder: &Path, owner: &Metadata) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        if (found.uid(), found.gid()) != (owner.uid(), owner.gid()) {
            lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
        if found.is_dir() {
            owned_like(&entry.path(), owner)?;
        }
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let what = format!("could not write to {}", path.display());
    Failure::new(of_io(error), what).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a restore has made before it moves anything.
    fn made(place: &Place) {
        fs::create_dir(place.partial.join(ORGS)).unwrap();
        fs::write(place.partial.join(ORGS).join("org"), b"org").unwrap();
        fs::write(place.partial.join(APPLIANCE), b"hub").unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_made_is_moved_whole_and_an_unfinished_restore_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let place = Place::make(&data).unwrap();
        made(&place);
        let second = Place::make(&data).err().unwrap();
        assert!(second.lines().contains("another restore"), "{second:?}");
        drop(place);
        assert_eq!(names(&data), Vec::<String>::new());

        let place = Place::make(&data).unwrap();
        made(&place);
        place.put().unwrap();
        drop(place);
        assert_eq!(names(&data), [APPLIANCE, ORGS]);
        assert_eq!(names(&data.join(ORGS)), ["org"]);
    }

    #[test]
    fn a_restore_that_was_cut_off_between_its_last_steps_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let place = Place::make(&data).unwrap();
        made(&place);
        fs::write(place.partial.join(MOVING), b"").unwrap();
        fs::rename(place.partial.join(ORGS), data.join(ORGS)).unwrap();
        // Killed here: nothing is dropped.
        let lock = place._lock.try_clone().unwrap();
        std::mem::forget(place);
        lock.unlock().unwrap();
        let place = Place::make(&data).unwrap();
        assert_eq!(names(&data), [PARTIAL]);
        assert_eq!(names(&place.partial), Vec::<String>::new());
        drop(place);
        assert_eq!(names(&data), Vec::<String>::new());
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn what_root_restores_belongs_to_the_owner_of_the_folder() {
        const HUB: u32 = 54_321;
        let dir = tempfile::tempdir().unwrap();
        if lchown(dir.path(), Some(HUB), Some(HUB)).is_err() {
            println!("skipped: what_root_restores: this takes root");
            return;
        }
        let place = Place::make(dir.path()).unwrap();
        made(&place);
        place.put().unwrap();
        for name in [APPLIANCE, ORGS, "orgs/org"] {
            let found = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (HUB, HUB), "{name}");
        }
    }

    #[test]
    fn organisations_without_the_hubs_own_file_are_somebodys_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let orgs = dir.path().join(ORGS);
        fs::create_dir(&orgs).unwrap();
        fs::write(orgs.join("org"), b"theirs").unwrap();
        let refused = Place::make(dir.path()).err().unwrap();
        assert!(refused.lines().contains("without the hub's own file"));
        assert_eq!(names(dir.path()), [ORGS]);
        assert_eq!(fs::read(orgs.join("org")).unwrap(), b"theirs");
    }
}
