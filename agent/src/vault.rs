//! Secrets of sources at rest: one sealed file each.
//!
//! The key is a file of its own with mode 0600, or a systemd credential, so that a copy of the
//! sealed files alone is worth nothing. What is read is zeroed when dropped and has no `Debug`
//! that shows it. Only [`crate::manage`] and [`crate::connect`] open secrets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::ids::SourceId;
use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::layout::{self, Layout, LayoutError};
use crate::seal::{self, SealError, SealKey};

/// Largest secret, in bytes. A service account's JSON key has some 2,400.
pub(crate) const SECRET_BYTES: usize = 64 << 10;

/// Where the vault's key may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// A file that holds the key; `None` for one beside the sealed files.
    pub(crate) key_file: Option<PathBuf>,
}

/// Says why a secret cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VaultError {
    /// A file of the vault.
    #[error("could not use the vault's files")]
    File(#[from] LayoutError),
    /// The key's file holds something else.
    #[error("{} does not hold a key of 64 hexadecimal digits", path.display())]
    Key { path: PathBuf },
    /// The sealed value cannot be opened.
    #[error("could not open {}", path.display())]
    Sealed {
        path: PathBuf,
        #[source]
        source: SealError,
    },
    /// There is none.
    #[error("the vault has no secret for {source_id}")]
    Missing { source_id: SourceId },
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let fix = match &error {
            VaultError::File(file) => file.fix(),
            VaultError::Key { .. }
            | VaultError::Sealed {
                source: SealError::OtherKey,
                ..
            } => "restore the vault's key, or give the secrets again with `zero-x-agent source \
                  rotate NAME --secret-file F`"
                .to_owned(),
            VaultError::Sealed {
                source: SealError::Format { .. },
                ..
            } => "install the version that wrote it, or a newer one".to_owned(),
            VaultError::Sealed { .. } | VaultError::Missing { .. } => {
                "give the secret again with `zero-x-agent source rotate NAME --secret-file F`"
                    .to_owned()
            }
        };
        let exit = match &error {
            VaultError::Sealed { .. } | VaultError::Key { .. } => Exit::Data,
            VaultError::File(_) | VaultError::Missing { .. } => Exit::No,
        };
        Failure::of(exit, "cannot use the vault", error).fix(fix)
    }
}

/// The sealed secrets of one agent.
#[derive(Debug)]
pub(crate) struct Vault {
    folder: PathBuf,
    key: SealKey,
    fingerprint_key: FingerprintKey,
}

/// What the detectors' fingerprints are keyed with: derived, so that nobody without the vault's
/// key can try guesses against a fingerprint.
struct FingerprintKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FingerprintKey")
    }
}

impl Vault {
    /// Opens the vault; makes its key if there is none yet.
    ///
    /// The key is `key_file` when configured, else the systemd credential `vault-key`, else
    /// `vault/key`.
    ///
    /// # Errors
    ///
    /// When the key cannot be read or made, or its file may be read by others.
    pub(crate) fn open(layout: &Layout, config: &Config) -> Result<Self, VaultError> {
        let folder = layout.vault();
        layout::make_private_dir(&folder)?;
        let credential = crate::config::systemd_credential("vault-key");
        let key = match (&config.key_file, credential) {
            (Some(file), _) => read_key(file)?,
            // systemd keeps credentials on a private mount with mode 0400.
            (None, Some(file)) => read_key(&file)?,
            (None, None) => own_key(&folder.join("key"))?,
        };
        let fingerprint_key = blake3::derive_key("zero-x-agent fingerprints 1", key.as_slice());
        Ok(Self {
            folder,
            key: SealKey::new(&key),
            fingerprint_key: FingerprintKey(Zeroizing::new(fingerprint_key)),
        })
    }

    /// Returns the key of the secret detectors' fingerprints, the same as long as the vault's is.
    pub(crate) fn fingerprint_key(&self) -> [u8; 32] {
        *self.fingerprint_key.0
    }

    fn path(&self, source: SourceId) -> PathBuf {
        self.folder.join(format!("{source}.sealed"))
    }

    /// Keeps the secret of a source, in the place of an older one.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) fn put(&self, source: SourceId, secret: &SecretSlice<u8>) -> Result<(), VaultError> {
        let sealed = self.key.seal(&place(source), secret.expose_secret());
        layout::write_private(&self.path(source), &sealed)?;
        Ok(())
    }

    /// Returns the secret of a source.
    ///
    /// # Errors
    ///
    /// [`VaultError::Missing`] when there is none; else when it cannot be opened.
    pub(crate) fn get(&self, source: SourceId) -> Result<SecretSlice<u8>, VaultError> {
        let path = self.path(source);
        let sealed = match layout::read_private(&path) {
            Ok(sealed) => sealed,
            Err(LayoutError::Read { source: error, .. })
                if error.kind() == io::ErrorKind::NotFound =>
            {
                return Err(VaultError::Missing { source_id: source });
            }
            Err(error) => return Err(error.into()),
        };
        match self.key.open(&place(source), &sealed) {
            Ok(plain) => Ok(SecretSlice::from(plain.to_vec())),
            Err(source) => Err(VaultError::Sealed { path, source }),
        }
    }

    /// Removes the secret of a source, if there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub(crate) fn remove(&self, source: SourceId) -> Result<(), VaultError> {
        let path = self.path(source);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LayoutError::Write { path, source }.into())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn place(source: SourceId) -> Vec<u8> {
    [b"zero-x-agent vault 1 ".as_slice(), source.as_bytes()].concat()
}

fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let text = layout::read_private(path)?;
    let text = std::str::from_utf8(&text)
        .map(str::trim)
        .unwrap_or_default();
    let mut key = Zeroizing::new([0u8; 32]);
    let hex = data_encoding::HEXLOWER_PERMISSIVE;
    // `decode_mut` panics where the lengths do not fit.
    let fits = hex.decode_len(text.len()) == Ok(key.len());
    if fits && hex.decode_mut(text.as_bytes(), key.as_mut_slice()).is_ok() {
        Ok(key)
    } else {
        Err(VaultError::Key {
            path: path.to_owned(),
        })
    }
}

fn own_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    if !path.exists() {
        let fresh = Zeroizing::new(seal::random::<32>());
        let text = Zeroizing::new(data_encoding::HEXLOWER.encode(fresh.as_slice()));
        layout::write_private(path, text.as_bytes())?;
    }
    read_key(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary-3f1c9a77-do-not-leak";

    fn secret(text: &str) -> SecretSlice<u8> {
        SecretSlice::from(text.as_bytes().to_vec())
    }

    fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                let content = fs::read(&path).unwrap();
                found.push((path, content));
            }
        }
        found
    }

    #[test]
    fn a_secret_is_in_no_file_and_in_no_debug_output() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let vault = Vault::open(&layout, &Config::default()).unwrap();
        let source = SourceId::derived(&[b"prod"]);
        let given = secret(CANARY);
        vault.put(source, &given).unwrap();
        assert!(!format!("{vault:?} {given:?}").contains(CANARY));
        let written = files(folder.path());
        assert_eq!(written.len(), 2, "the key and one sealed file");
        for (path, content) in written {
            let is_part = |part: &[u8]| CANARY.as_bytes().windows(8).any(|canary| canary == part);
            let found = content.windows(8).any(is_part);
            assert!(!found, "{} holds a part of the secret", path.display());
        }
        let again = Vault::open(&layout, &Config::default()).unwrap();
        assert_eq!(
            again.get(source).unwrap().expose_secret(),
            CANARY.as_bytes()
        );
    }

    #[test]
    fn a_sealed_file_moved_to_another_source_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(&Layout::new(folder.path()), &Config::default()).unwrap();
        let (one, two) = (SourceId::derived(&[b"1"]), SourceId::derived(&[b"2"]));
        vault.put(one, &secret("a")).unwrap();
        fs::rename(vault.path(one), vault.path(two)).unwrap();
        assert!(matches!(vault.get(one), Err(VaultError::Missing { .. })));
        assert!(matches!(
            vault.get(two),
            Err(VaultError::Sealed {
                source: SealError::Damaged,
                ..
            })
        ));
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let vault = Vault::open(&layout, &Config::default()).unwrap();
        let source = SourceId::derived(&[b"1"]);
        vault.put(source, &secret("a")).unwrap();
        let key_file = folder.path().join("other.key");
        layout::write_private(&key_file, "ab".repeat(32).as_bytes()).unwrap();
        let config = Config {
            key_file: Some(key_file),
        };
        let other = Vault::open(&layout, &config).unwrap();
        assert!(matches!(
            other.get(source),
            Err(VaultError::Sealed {
                source: SealError::OtherKey,
                ..
            })
        ));
    }

    #[test]
    fn a_key_file_with_anything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("k");
        for text in ["", "abc", &"zz".repeat(32), &"ab".repeat(33)] {
            layout::write_private(&key_file, text.as_bytes()).unwrap();
            let config = Config {
                key_file: Some(key_file.clone()),
            };
            let opened = Vault::open(&Layout::new(folder.path()), &config);
            assert!(matches!(opened, Err(VaultError::Key { .. })), "{text:?}");
        }
    }
}
