//! The master key and its file.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::MasterKeyError;

/// The key that every other key is wrapped by. Zeroed when dropped; never printed.
pub struct MasterKey {
    path: PathBuf,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("path", &self.path).finish_non_exhaustive()
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
        let _ = (path, data_dir);
        todo!()
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    ///
    /// When the file lies inside the data directory (links resolved), is not a regular file, may
    /// be read by others than its owner, or is not 64 hexadecimal characters.
    pub fn load(path: &Path, data_dir: &Path) -> Result<Self, MasterKeyError> {
        let _ = (path, data_dir);
        todo!()
    }

    /// Returns the key's public name: 16 hexadecimal characters, a one-way hash of the key.
    pub fn fingerprint(&self) -> String {
        todo!()
    }

    /// Returns the file that the key was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
