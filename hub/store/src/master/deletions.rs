//! The ledger of purged organisations: beside the master key's file, outside of the data, so that
//! who restores an older copy of the data learns what must not come back.
//!
//! ```text
//! zero-x deletions 1
//! org_… 2026-01-31T12:00:00Z          one line each, oldest first
//! mac 0123456789abcdef 64·hex         HMAC-SHA-256 of the lines above under a key derived from
//!                                     the master key of that public name
//! ```
//! It is replaced whole, by renaming. While the master key is exchanged it has two such lines, so
//! that it holds before and after.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use protocol::ids::OrgId;
use sha2::Sha256;

use super::MasterKey;
use super::exchange::{beside, owned_like, sync_parent};
use crate::error::MasterKeyError;
use crate::seal::Wrap;

const FIRST_LINE: &str = "zero-x deletions 1";

/// Largest ledger that is read: more than a hundred thousand organisations.
const LEDGER_BYTES: u64 = 8 << 20;

/// The purged organisations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Deletions {
    orgs: BTreeMap<OrgId, Timestamp>,
    /// Whether a master key that was at hand has signed it.
    is_verified: bool,
}

/// Returns the ledger's file.
pub(crate) fn ledger_of(key_file: &Path) -> PathBuf {
    beside(key_file, ".deletions")
}

impl Deletions {
    /// Reads the ledger beside a master key's file. Where there is none, nothing was purged.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none. One that another key signed is read, and
    /// [`Deletions::is_verified`] says so.
    pub fn beside(master: &MasterKey) -> Result<Self, MasterKeyError> {
        let wraps = [Some(master.wrap()), master.wrap_of_next()];
        let wraps: Vec<&Wrap> = wraps.iter().flatten().collect();
        Self::load(master.file(), &wraps)
    }

    /// Reads the ledger beside a key file. Where there is none, nothing was purged.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is none.
    pub(crate) fn load(key_file: &Path, wraps: &[&Wrap]) -> Result<Self, MasterKeyError> {
        let path = ledger_of(key_file);
        let failed = |source| MasterKeyError::Io {
            path: path.clone(),
            source,
        };
        let mut text = String::new();
        match fs::File::open(&path) {
            Ok(file) => file
                .take(LEDGER_BYTES)
                .read_to_string(&mut text)
                .map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    is_verified: true,
                    ..Self::default()
                });
            }
            Err(error) => return Err(failed(error)),
        };
        Self::parse(&text, wraps).ok_or(MasterKeyError::Ledger { path })
    }

    fn parse(text: &str, wraps: &[&Wrap]) -> Option<Self> {
        let mut orgs = BTreeMap::new();
        let (mut is_verified, mut is_closed) = (false, false);
        let mut signed = 0;
        let mut lines = text.split_inclusive('\n');
        let first = lines.next()?;
        if first.trim_end() != FIRST_LINE {
            return None;
        }
        signed += first.len();
        for line in lines {
            match line.trim_end().split(' ').collect::<Vec<_>>().as_slice() {
                ["mac", name, mac] => {
                    is_closed = true;
                    let content = text.get(..signed)?;
                    let known = wraps.iter().find(|wrap| wrap.fingerprint() == *name);
                    let mac = HEXLOWER.decode(mac.as_bytes()).ok()?;
                    is_verified |=
                        known.is_some_and(|wrap| keyed(wrap, content).verify_slice(&mac).is_ok());
                }
                // What comes behind a check is covered by none.
                [_, _] if is_closed => return None,
                [org, at] => {
                    orgs.insert(org.parse().ok()?, at.parse().ok()?);
                    signed += line.len();
                }
                _ => return None,
            }
        }
        Some(Self { orgs, is_verified })
    }

    /// Says whether an organisation was purged, and when.
    pub fn of(&self, org: OrgId) -> Option<Timestamp> {
        self.orgs.get(&org).copied()
    }

    /// Returns every purged organisation with the time of its purge.
    pub fn all(&self) -> impl Iterator<Item = (OrgId, Timestamp)> + '_ {
        self.orgs.iter().map(|(org, at)| (*org, *at))
    }

    /// Says whether nobody has changed it who had not the master key.
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// Signs it under a master key: one that is in force again, as after an older backup was restored.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn adopt(&self, master: &MasterKey) -> Result<(), MasterKeyError> {
        self.store(master.file(), &[&master.wrap()])
    }

    /// Adds an organisation; the time of its first purge stays.
    pub(crate) fn add(&mut self, org: OrgId, at: Timestamp) {
        self.orgs.entry(org).or_insert(at);
    }

    /// Stores it in the place of the one before, so that each of these master keys can check it.
    pub(crate) fn store(&self, key_file: &Path, wraps: &[&Wrap]) -> Result<(), MasterKeyError> {
        let path = ledger_of(key_file);
        if self.orgs.is_empty() && !path.exists() {
            return Ok(());
        }
        let mut text = format!("{FIRST_LINE}\n");
        for (org, at) in &self.orgs {
            text.push_str(&format!("{org} {at}\n"));
        }
        let macs: Vec<String> = wraps
            .iter()
            .map(|wrap| {
                let mac = keyed(wrap, &text).finalize().into_bytes();
                format!("mac {} {}\n", wrap.fingerprint(), HEXLOWER.encode(&mac))
            })
            .collect();
        text.push_str(&macs.concat());
        let new = beside(&path, ".new");
        let storing = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            owned_like(&file, key_file)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_parent(&path)
        };
        storing().map_err(|source| MasterKeyError::Io { path, source })
    }
}

fn keyed(wrap: &Wrap, content: &str) -> Hmac<Sha256> {
    let key = wrap.derived(&[b"zero-x deletions 1"]);
    let mut keyed =
        Hmac::<Sha256>::new_from_slice(key.as_ref()).expect("HMAC takes keys of any length");
    keyed.update(content.as_bytes());
    keyed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::random_key;

    fn org(n: u8) -> OrgId {
        OrgId::from_bytes([n; 16])
    }

    #[test]
    fn a_ledger_is_read_back_and_known_by_every_key_that_it_was_stored_under() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master");
        fs::write(&file, "").unwrap();
        let keys = [random_key(), random_key(), random_key()];
        let [old, new, other] = keys.map(|key| Wrap::new(&key));
        let none = Deletions::load(&file, &[&old]).unwrap();
        assert!(none.is_verified() && none.all().count() == 0);
        none.store(&file, &[&old]).unwrap();
        assert!(!ledger_of(&file).exists(), "there is nothing to keep");
        let at: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let mut some = none;
        some.add(org(7), at);
        some.add(org(3), at);
        some.add(org(7), Timestamp::UNIX_EPOCH);
        some.store(&file, &[&old, &new]).unwrap();
        for wrap in [&old, &new] {
            let read = Deletions::load(&file, &[wrap]).unwrap();
            assert!(read.is_verified());
            assert_eq!(read.of(org(7)), Some(at));
            assert_eq!(read.all().count(), 2);
        }
        assert!(!Deletions::load(&file, &[&other]).unwrap().is_verified());
        some.store(&file, &[&new]).unwrap();
        assert!(!Deletions::load(&file, &[&old]).unwrap().is_verified());
    }

    #[test]
    fn a_ledger_that_was_changed_is_not_verified_and_one_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("master");
        fs::write(&file, "").unwrap();
        let wrap = Wrap::new(&random_key());
        let mut some = Deletions::default();
        some.add(org(1), Timestamp::UNIX_EPOCH);
        some.add(org(2), Timestamp::UNIX_EPOCH);
        some.store(&file, &[&wrap]).unwrap();
        let path = ledger_of(&file);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let without = [lines[0], lines[1], lines[3]].concat();
        let other = text.replace(&org(1).to_string(), &org(9).to_string());
        for changed in [without, other] {
            fs::write(&path, &changed).unwrap();
            let read = Deletions::load(&file, &[&wrap]).unwrap();
            assert!(!read.is_verified(), "{changed}");
        }
        let further = [lines[0], lines[1], lines[2], lines[3], lines[1]].concat();
        let odd = text.replace("org_", "o_");
        for none in ["", "zero-x deletions 2\n", &odd, &further] {
            fs::write(&path, none).unwrap();
            let error = Deletions::load(&file, &[&wrap]).unwrap_err();
            assert!(matches!(error, MasterKeyError::Ledger { .. }), "{error:?}");
        }
    }
}
