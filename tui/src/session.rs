//! The signed-in session on disk: `$XDG_STATE_HOME/zero-x/session.json`, mode 0600.
//!
//! A refresh token may be used once, by one process: whoever refreshes holds the file's lock from
//! reading to writing, so that two commands at once do not end the session.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a sign-in leaves on disk.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Base URL of the hub.
    pub(crate) url: String,
    /// Pin of the hub's root CA; the system's roots when absent.
    pub(crate) ca_pin: Option<String>,
    /// Who signed in.
    pub(crate) email: String,
    /// For `Authorization: Bearer`.
    pub(crate) access_token: String,
    /// Buys the next pair.
    pub(crate) refresh_token: String,
    /// End of the access token.
    pub(crate) expires_at: Timestamp,
}

/// Says why the session file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionError {
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error("neither XDG_STATE_HOME nor HOME says where the session should be kept")]
    Nowhere,
    /// The file cannot be read or written.
    #[error("could not use {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a session.
    #[error("{} is not a session", path.display())]
    Shape {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The session file, locked while this lives.
pub(crate) struct Locked {
    path: PathBuf,
    file: File,
}

/// Returns where the session is kept.
///
/// # Errors
///
/// When the environment names no place.
pub(crate) fn path() -> Result<PathBuf, SessionError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(state), _) => PathBuf::from(state),
        (None, Some(home)) => PathBuf::from(home).join(".local/state"),
        (None, None) => return Err(SessionError::Nowhere),
    };
    Ok(state.join("zero-x").join("session.json"))
}

impl Locked {
    /// Opens the file, making it and its folder if need be, and waits for its lock.
    ///
    /// # Errors
    ///
    /// When that is not possible.
    pub(crate) fn open(path: &Path) -> Result<Self, SessionError> {
        let failed = |source| SessionError::File {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            let mut builder = std::fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path).map_err(failed)?;
        // An older file may have been made with other rights.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Returns the session, if there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds something else.
    pub(crate) fn read(&mut self) -> Result<Option<Session>, SessionError> {
        let failed = |source| SessionError::File {
            path: self.path.clone(),
            source,
        };
        let mut text = String::new();
        self.file.rewind().map_err(failed)?;
        (&self.file)
            .take(1 << 20)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let shape = |source| SessionError::Shape {
            path: self.path.clone(),
            source,
        };
        serde_json::from_str(&text).map(Some).map_err(shape)
    }

    /// Replaces the session; `None` forgets it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) fn write(&mut self, session: Option<&Session>) -> Result<(), SessionError> {
        let failed = |source| SessionError::File {
            path: self.path.clone(),
            source,
        };
        let shape = |source| SessionError::Shape {
            path: self.path.clone(),
            source,
        };
        let text = match session {
            Some(session) => serde_json::to_string_pretty(session).map_err(shape)?,
            None => String::new(),
        };
        self.file.rewind().map_err(failed)?;
        self.file.set_len(0).map_err(failed)?;
        self.file.write_all(text.as_bytes()).map_err(failed)?;
        self.file.sync_all().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_for_its_owner_alone_and_can_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zero-x/session.json");
        let session = Session {
            url: "https://127.0.0.1:8443".into(),
            ca_pin: None,
            email: "mira@example.org".into(),
            access_token: "a".into(),
            refresh_token: "r".into(),
            expires_at: Timestamp::UNIX_EPOCH,
        };
        let mut file = Locked::open(&path).unwrap();
        assert!(file.read().unwrap().is_none());
        file.write(Some(&session)).unwrap();
        assert!(file.read().unwrap().as_ref() == Some(&session));
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        file.write(None).unwrap();
        assert!(file.read().unwrap().is_none());
    }
}
