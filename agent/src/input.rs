//! Secrets that a command is given: from a file or standard input, never from its arguments.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::SecretSlice;
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::vault::SECRET_BYTES;

/// Says why the secret could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InputError {
    /// The file or standard input failed.
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// There was nothing.
    #[error("{} is empty", path.display())]
    Empty { path: PathBuf },
    /// There was more than any secret has.
    #[error("{} holds more than {SECRET_BYTES} bytes", path.display())]
    TooLong { path: PathBuf },
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Failure::of(Exit::Usage, "cannot read the secret", error)
            .fix("name a file that holds it, or `-` and pipe it in")
    }
}

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// Makes an input of a flag's value, where `-` is standard input.
    pub(crate) fn of_flag(path: &Path, already_on_stdin: bool) -> Self {
        if already_on_stdin || path == Path::new("-") {
            Self::Stdin
        } else {
            Self::File(path.to_owned())
        }
    }

    /// Reads the whole secret; at most [`SECRET_BYTES`].
    ///
    /// # Errors
    ///
    /// When nothing, too much, or nothing readable is there.
    pub(crate) fn read(&self) -> Result<SecretSlice<u8>, InputError> {
        let path = match self {
            Self::Stdin => PathBuf::from("standard input"),
            Self::File(path) => path.clone(),
        };
        // Reserved once: a growing buffer would leave copies of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES + 1));
        let limit = u64::try_from(SECRET_BYTES).unwrap_or(u64::MAX) + 1;
        let read = match self {
            Self::Stdin => io::stdin().lock().take(limit).read_to_end(&mut bytes),
            Self::File(path) => {
                File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
            }
        };
        match read {
            Err(source) => Err(InputError::Read { path, source }),
            Ok(_) if bytes.iter().all(u8::is_ascii_whitespace) => Err(InputError::Empty { path }),
            Ok(length) if length > SECRET_BYTES => Err(InputError::TooLong { path }),
            Ok(_) => Ok(SecretSlice::from(bytes.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_too_much_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s");
        let read = || Input::File(file.clone()).read();
        std::fs::write(&file, " \n").unwrap();
        assert!(matches!(read(), Err(InputError::Empty { .. })));
        std::fs::write(&file, vec![b'a'; SECRET_BYTES + 1]).unwrap();
        assert!(matches!(read(), Err(InputError::TooLong { .. })));
        std::fs::write(&file, vec![b'a'; SECRET_BYTES]).unwrap();
        assert!(read().is_ok());
    }
}
