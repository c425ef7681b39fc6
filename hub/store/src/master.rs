//! The master key and its file: 64 hexadecimal characters, mode 0600, outside the data directory.
//!
//! The file may also be a credential of the service manager (`/run/credentials/…`), which can be
//! sealed to the machine's TPM and is read like any other file.

pub(crate) mod deletions;
pub(crate) mod exchange;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::Zeroizing;

use crate::backup::{BackupError, BackupHeader};
use crate::error::MasterKeyError;
use crate::recovery::RecoveryKey;
use crate::seal::{Secret, Wrap, random_key};

/// The longest file that is read: the key and a line end of either kind.
const FILE_BYTES: u64 = 66;

/// The key that every other key is wrapped by. Zeroed when dropped; never printed.
pub struct MasterKey {
    path: PathBuf,
    /// The same with its links resolved.
    file: PathBuf,
    key: Secret,
    /// The key that a rotation was about to put in its place.
    next: Option<Secret>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl MasterKey {
    /// Draws a key and writes it to a new file, mode 0600, outside the data directory.
    ///
    /// # Errors
    ///
    /// When the file exists, lies inside the data directory (links resolved), or cannot be
    /// written.
    pub fn create(path: &Path, data_dir: &Path) -> Result<Self, MasterKeyError> {
        let file = refuse_inside(path, data_dir)?;
        Self::write(path, file, random_key())
    }

    /// Writes the key that a backup carries to a new file, as [`MasterKey::create`] does.
    ///
    /// # Errors
    ///
    /// As [`MasterKey::create`], and when the recovery key does not open it.
    pub fn recover(
        path: &Path,
        data_dir: &Path,
        header: &BackupHeader,
        recovery: &RecoveryKey,
    ) -> Result<Self, BackupError> {
        let file = refuse_inside(path, data_dir)?;
        Ok(Self::write(path, file, header.unseal(recovery)?)?)
    }

    fn write(path: &Path, file: PathBuf, key: Secret) -> Result<Self, MasterKeyError> {
        exchange::write(path, &key, None)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            key,
            next: None,
        })
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    ///
    /// When the file lies inside the data directory (links resolved), is not a regular file, may
    /// be read by others than its owner, or is not 64 hexadecimal characters.
    pub fn load(path: &Path, data_dir: &Path) -> Result<Self, MasterKeyError> {
        let file = refuse_inside(path, data_dir)?;
        let key = read_key(path)?;
        // A rotation that was cut off may have left it. Half of one is none: no keyring is wrapped
        // under a key before its file is whole.
        let next = read_key(&exchange::next_of(&file)).ok();
        Ok(Self {
            path: path.to_owned(),
            file,
            key,
            next,
        })
    }

    /// Returns the key's public name: 16 hexadecimal characters, a one-way hash of the key.
    pub fn fingerprint(&self) -> String {
        self.wrap().fingerprint()
    }

    /// Returns the file that the key was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn wrap(&self) -> Wrap {
        Wrap::new(&self.key)
    }

    /// Returns what wraps under the key that a rotation was about to put in place.
    pub(crate) fn wrap_of_next(&self) -> Option<Wrap> {
        self.next.as_ref().map(Wrap::new)
    }

    /// Returns the file with its links resolved.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// Reads a key from a file.
fn read_key(path: &Path) -> Result<Secret, MasterKeyError> {
    let content = || MasterKeyError::Content {
        path: path.to_owned(),
    };
    let text = read_private(path, FILE_BYTES)?;
    let mut key: Secret = Zeroizing::new([0; 32]);
    if text.len() != 64 {
        return Err(content());
    }
    HEXLOWER_PERMISSIVE
        .decode_mut(text.as_bytes(), key.as_mut())
        .map_err(|_| content())?;
    Ok(key)
}

/// Writes words to a new file, mode 0600, as one line.
pub(crate) fn write_private(path: &Path, words: &[&str]) -> Result<(), MasterKeyError> {
    exchange::write_line(path, words, None)
}

/// Reads a short line that its owner alone may read, without its end.
pub(crate) fn read_private(path: &Path, bytes: u64) -> Result<Zeroizing<String>, MasterKeyError> {
    let failed = |source| MasterKeyError::Io {
        path: path.to_owned(),
        source,
    };
    let kind = || MasterKeyError::Kind {
        path: path.to_owned(),
    };
    // Asked before it is opened: a pipe would wait for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(kind());
    }
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(kind());
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & forbidden_bits(path) != 0 {
        return Err(MasterKeyError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    // Room for all of it: what grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(256));
    match file.take(bytes + 1).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(MasterKeyError::Content {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(failed(error)),
    }
    let end = text.strip_suffix('\n').unwrap_or(&text);
    let end = end.strip_suffix('\r').unwrap_or(end).len();
    text.truncate(end);
    Ok(text)
}

/// Where service managers put what they have unsealed for one service: a folder in memory that only
/// this service may enter.
const CREDENTIALS: &str = "/run/credentials";

/// Returns the bits that a key's mode must not have. A credential shows the access that its service
/// has been given by name as that of its group. Source: systemd.exec(5), CREDENTIALS, and acl(5).
fn forbidden_bits(path: &Path) -> u32 {
    if path.starts_with(CREDENTIALS) {
        0o037
    } else {
        0o077
    }
}

/// Refuses a key file that would be taken along with the data; returns its path without links.
pub(crate) fn refuse_inside(path: &Path, data_dir: &Path) -> Result<PathBuf, MasterKeyError> {
    let io = |at: &Path| {
        let at = at.to_owned();
        move |source| MasterKeyError::Io { path: at, source }
    };
    let data = resolve(data_dir).map_err(io(data_dir))?;
    let key = resolve(path).map_err(io(path))?;
    if key.starts_with(&data) {
        return Err(MasterKeyError::InsideData {
            path: key,
            data_dir: data,
        });
    }
    Ok(key)
}

/// Resolves links in what exists of a path; the rest is taken as it is written.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut resolved = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                let next = resolved.join(name);
                resolved = match fs::canonicalize(&next) {
                    Ok(found) => found,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => next,
                    Err(error) => return Err(error),
                };
            }
            Component::ParentDir => {
                resolved.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory for the data and one for keys.
    fn dirs() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let (data, keys) = (root.path().join("data"), root.path().join("keys"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&keys).unwrap();
        (root, data, keys)
    }

    #[test]
    fn a_key_is_read_back_as_it_was_made_and_is_private() {
        let (_root, data, keys) = dirs();
        let path = keys.join("master");
        let made = MasterKey::create(&path, &data).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim_end().len(), 64);
        let read = MasterKey::load(&path, &data).unwrap();
        assert_eq!(read.key, made.key);
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(made.fingerprint().len(), 16);
        assert!(!text.contains(&made.fingerprint()));
        assert!(!format!("{made:?}").contains(&text[..16]));
        let again = MasterKey::create(&path, &data).unwrap_err();
        assert!(matches!(again, MasterKeyError::Io { .. }), "{again:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_key_inside_the_data_directory_is_refused_by_every_name() {
        let (root, data, keys) = dirs();
        let link_to_data = root.path().join("link");
        symlink(&data, &link_to_data).unwrap();
        let names = [
            data.join("master"),
            data.join("not/yet/there/master"),
            keys.join("../data/master"),
            link_to_data.join("master"),
            data.join("../keys/../data/master"),
        ];
        for path in names {
            for dir in [&data, &link_to_data] {
                let error = MasterKey::create(&path, dir).unwrap_err();
                let inside = matches!(error, MasterKeyError::InsideData { .. });
                assert!(inside, "{path:?} {dir:?}: {error:?}");
            }
        }
        // A link outside that leads to a file inside.
        let inside = data.join("real");
        fs::write(&inside, "0".repeat(64)).unwrap();
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600)).unwrap();
        let link = keys.join("master");
        symlink(&inside, &link).unwrap();
        let error = MasterKey::load(&link, &data).unwrap_err();
        assert!(
            matches!(error, MasterKeyError::InsideData { .. }),
            "{error:?}"
        );
        // A directory beside it whose name begins alike is not inside.
        let beside = root.path().join("data-keys");
        fs::create_dir(&beside).unwrap();
        MasterKey::create(&beside.join("master"), &data).unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_no_key_is_refused_with_the_reason() {
        let (_root, data, keys) = dirs();
        let path = keys.join("master");
        let check = |text: &str, mode: u32, want: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = MasterKey::load(&path, &data).unwrap_err();
            assert_eq!(error.to_string(), format!("{} {want}", path.display()));
            fs::remove_file(&path).unwrap();
        };
        let key = "0123456789abcdef".repeat(4);
        check(&key, 0o640, "has mode 0640; it must be 0600");
        check(&key, 0o604, "has mode 0604; it must be 0600");
        check(&key[1..], 0o600, "is not 64 hexadecimal characters");
        check(
            &format!("{key}0"),
            0o600,
            "is not 64 hexadecimal characters",
        );
        check(
            &format!("{key}\n\n"),
            0o600,
            "is not 64 hexadecimal characters",
        );
        check(
            &key.replace('f', "g"),
            0o600,
            "is not 64 hexadecimal characters",
        );
        check(&key.repeat(1000), 0o600, "is not 64 hexadecimal characters");
        check("", 0o600, "is not 64 hexadecimal characters");
        let error = MasterKey::load(&keys, &data).unwrap_err();
        assert!(matches!(error, MasterKeyError::Kind { .. }), "{error:?}");
        let error = MasterKey::load(&keys.join("none"), &data).unwrap_err();
        assert!(matches!(error, MasterKeyError::Io { .. }), "{error:?}");
        // Upper case and a line end of another system are as good.
        fs::write(&path, format!("{}\r\n", key.to_uppercase())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        MasterKey::load(&path, &data).unwrap();
    }
}
