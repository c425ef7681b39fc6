//! Exchanges the master key's file for another, so that a crash at any point leaves one of them.
//!
//! ```text
//! K.next written ─▶ keyrings rewrapped (one commit of the store) ─▶ K.old = K ─▶ K.next becomes K
//!                                                                  ─▶ K.old overwritten, removed
//! ```
//! Before the commit the store opens with K, after it with K.next, which the next opening puts in
//! place. K.old is a second name of the old key's file, so that a crash leaves no nameless copy of it.
//!
//! **What overwriting cannot promise.** A solid-state disk writes new bytes to another place and
//! erases the old place when it likes; file systems that copy on write or keep a journal of data,
//! snapshots and backups of the key's folder do alike. Where that matters, keep the key in a
//! credential that is sealed to a TPM, or on a disk whose encryption key can be destroyed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::error::MasterKeyError;
use crate::seal::{Secret, fill_random};

/// A point that an exchange of the master key has passed, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyStep {
    /// The new key is in a file of its own.
    Written,
    /// The ledger says which organisation is purged (purges only).
    Recorded,
    /// Every keyring is wrapped under it.
    Rewrapped,
    /// The old key's file has a second name, under which it will be destroyed.
    Named,
    /// The new key is in the key file.
    Replaced,
    /// The old key is overwritten and removed.
    Destroyed,
    /// The ledger is signed by the new key alone (only where there is one).
    Signed,
    /// The organisation's file is gone (purges only).
    Removed,
}

/// Is told of every step when it is done.
pub type Told = dyn Fn(KeyStep) + Send + Sync;

/// Returns the file that a new key waits in.
pub(crate) fn next_of(file: &Path) -> PathBuf {
    beside(file, ".next")
}

fn old_of(file: &Path) -> PathBuf {
    beside(file, ".old")
}

/// Returns a file beside another: its name with an ending.
pub(crate) fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Writes a key to a new file, mode 0600, durably. Its owner is that of the file `like`.
///
/// # Errors
///
/// When the file exists or cannot be written; nothing is left of it then.
pub(crate) fn write(path: &Path, key: &Secret, like: Option<&Path>) -> Result<(), MasterKeyError> {
    let text = Zeroizing::new(HEXLOWER.encode(key.as_ref()));
    write_line(path, &[&text], like)
}

/// Writes words to a new file, mode 0600, as one line, durably.
pub(super) fn write_line(
    path: &Path,
    words: &[&str],
    like: Option<&Path>,
) -> Result<(), MasterKeyError> {
    let failed = |source| MasterKeyError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = like
        .map_or(Ok(()), |like| owned_like(&file, like))
        .and_then(|()| {
            let mut words = words.iter().chain(&["\n"]);
            words.try_for_each(|word| file.write_all(word.as_bytes()))
        })
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_parent(path));
    if let Err(source) = written {
        // Half a key would be taken for a damaged one at the next start. The first error is the
        // one to tell.
        let _ = fs::remove_file(path);
        return Err(failed(source));
    }
    Ok(())
}

/// Gives a file the owner of another: root may rotate the key of a hub that runs as another user.
pub(crate) fn owned_like(file: &File, like: &Path) -> io::Result<()> {
    let (ours, theirs) = (file.metadata()?, fs::metadata(like)?);
    if (ours.uid(), ours.gid()) == (theirs.uid(), theirs.gid()) {
        return Ok(());
    }
    fchown(file, Some(theirs.uid()), Some(theirs.gid()))
}

/// Puts the key that waits beside a key file in its place, and destroys the one before.
///
/// # Errors
///
/// When a file cannot be changed. One of the two then holds the new key.
pub(crate) fn replace(file: &Path, told: &Told) -> io::Result<()> {
    destroy_old(file)?;
    let old = old_of(file);
    // Held open, so that what loses its name can still be overwritten.
    let mut before = OpenOptions::new().write(true).open(file)?;
    match fs::hard_link(file, &old) {
        Ok(()) => sync_parent(file)?,
        // A file system without second names. A crash before the end leaves the old key's bytes in
        // blocks that are free.
        Err(error) => tracing::debug!(%error, "the old key has no second name"),
    }
    told(KeyStep::Named);
    fs::rename(next_of(file), file)?;
    sync_parent(file)?;
    told(KeyStep::Replaced);
    overwrite(&mut before)?;
    match fs::remove_file(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_parent(file)?;
    told(KeyStep::Destroyed);
    Ok(())
}

/// Destroys an old key that a rotation has left, and says whether there was one.
///
/// # Errors
///
/// When it cannot be overwritten or removed.
pub(crate) fn destroy_old(file: &Path) -> io::Result<bool> {
    let old = old_of(file);
    let found = match fs::symlink_metadata(&old) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let current = fs::metadata(file)?;
    let is_current = (found.dev(), found.ino()) == (current.dev(), current.ino());
    if found.is_file() && !is_current {
        overwrite(&mut OpenOptions::new().write(true).open(&old)?)?;
    }
    fs::remove_file(&old)?;
    sync_parent(file)?;
    Ok(true)
}

/// Removes a key that waits beside a key file and is not in use.
///
/// # Errors
///
/// When it cannot be overwritten or removed.
pub(crate) fn discard_next(file: &Path) -> io::Result<()> {
    let next = next_of(file);
    let opened = OpenOptions::new().write(true).open(&next);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(mut waiting) => overwrite(&mut waiting)?,
    }
    fs::remove_file(&next)?;
    sync_parent(file)
}

/// Writes over a file's bytes, in place, down to the disk.
fn overwrite(file: &mut File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    // No key file is longer; what is, is none.
    let mut noise = vec![0; length.min(4096)];
    fill_random(&mut noise);
    file.rewind()?;
    file.write_all(&noise)?;
    file.sync_all()
}

/// Makes the entries of a file's folder durable: a key that is gone after a power cut takes all
/// data with it.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::random_key;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_old_key_is_overwritten_before_its_name_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master");
        write(&file, &random_key(), None).unwrap();
        let old_text = fs::read(&file).unwrap();
        // Another name stands for whoever could still reach its blocks.
        let spy = folder.path().join("spy");
        fs::hard_link(&file, &spy).unwrap();
        write(&next_of(&file), &random_key(), Some(&file)).unwrap();
        let new_text = fs::read(next_of(&file)).unwrap();
        replace(&file, &|_| ()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), new_text);
        let left = fs::read(&spy).unwrap();
        assert_eq!(left.len(), old_text.len());
        let kept = left.iter().zip(&old_text).filter(|(a, b)| a == b).count();
        assert!(kept < 16, "{kept} bytes of the old key are where they were");
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "the key and the spy");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn an_old_key_that_was_left_is_destroyed_unless_it_is_the_current_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master");
        write(&file, &random_key(), None).unwrap();
        let text = fs::read(&file).unwrap();
        assert!(!destroy_old(&file).unwrap(), "there is none");
        fs::hard_link(&file, old_of(&file)).unwrap();
        assert!(destroy_old(&file).unwrap());
        assert_eq!(fs::read(&file).unwrap(), text);
        write(&old_of(&file), &random_key(), None).unwrap();
        assert!(destroy_old(&file).unwrap());
        assert!(!old_of(&file).exists());
        assert_eq!(fs::read(&file).unwrap(), text);
    }
}
