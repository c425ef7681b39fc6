//! The header: what anybody may know of a backup.
//!
//! ```text
//! offset  size
//!      0     8  "ZXBACKUP"
//!      8     4  format, little-endian, as all numbers here
//!     12     4  n, bytes of the header that follow; at most 4,096
//!     16     8  when it was made, milliseconds since 1970, signed
//!     24     8  fingerprint of the master key
//!     32    32  salt, random
//!     64     1  1 where the master key is sealed to a recovery recipient, else 0
//!     65   112  of 1 only: recipient 32 ‖ encapsulated key 32 ‖ sealed master key 48
//!      …     1  length, and the program's version
//!      …     1  length, and the hub's public name
//! ```
//! The key of the chunks is HKDF-SHA-256 of the master key, with "zero-x backup 1" and the SHA-256
//! hash of the whole header as its purpose: a header that was changed opens no chunk.

use std::io::Read;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{BackupError, BackupNote, FORMAT};
use crate::master::MasterKey;
use crate::recovery::{RecoveryKey, RecoveryRecipient, SEALED_BYTES};
use crate::seal::{Secret, Wrap, fill_random};

const MAGIC: &[u8; 8] = b"ZXBACKUP";
const PRELUDE_BYTES: usize = 16;
/// Longest header behind its prelude.
const REST_BYTES: u32 = 4096;

/// What a backup says about itself, in the clear. Nobody vouches for it before a chunk was opened.
#[derive(Debug, Clone)]
pub struct BackupHeader {
    bytes: Vec<u8>,
    fingerprint: [u8; 8],
    made_at: Timestamp,
    sealed: Option<(RecoveryRecipient, [u8; SEALED_BYTES])>,
    program: String,
    hub: String,
}

impl BackupHeader {
    /// Makes the header of a new backup.
    pub(super) fn new(note: &BackupNote, wrap: &Wrap) -> Result<Self, BackupError> {
        let sealed = match note.recipient {
            Some(recipient) => {
                let sealed = wrap.sealed_to(&recipient);
                let sealed = sealed.ok_or(BackupError::Header("its recovery key is not one"))?;
                Some((recipient, sealed))
            }
            None => None,
        };
        let mut salt = [0u8; 32];
        fill_random(&mut salt);
        let mut rest = Vec::new();
        rest.extend_from_slice(&note.made_at.as_millisecond().to_le_bytes());
        rest.extend_from_slice(&wrap.fingerprint_bytes());
        rest.extend_from_slice(&salt);
        match &sealed {
            Some((recipient, sealed)) => {
                rest.push(1);
                rest.extend_from_slice(recipient.as_bytes());
                rest.extend_from_slice(sealed);
            }
            None => rest.push(0),
        }
        for text in [&note.program, &note.hub] {
            let length = u8::try_from(text.len())
                .map_err(|_| BackupError::Header("a name is longer than 255 bytes"))?;
            rest.push(length);
            rest.extend_from_slice(text.as_bytes());
        }
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let bytes = [
            MAGIC.as_slice(),
            &FORMAT.to_le_bytes(),
            &length.to_le_bytes(),
            &rest,
        ]
        .concat();
        Ok(Self {
            bytes,
            fingerprint: wrap.fingerprint_bytes(),
            made_at: note.made_at,
            sealed,
            program: note.program.clone(),
            hub: note.hub.clone(),
        })
    }

    /// Reads the header from a file's beginning.
    ///
    /// # Errors
    ///
    /// `Magic`, `Newer`, `Header`, `Io`.
    pub fn read(from: &mut dyn Read) -> Result<Self, BackupError> {
        let mut prelude = [0u8; PRELUDE_BYTES];
        if !fill(from, &mut prelude)? || !prelude.starts_with(MAGIC) {
            return Err(BackupError::Magic);
        }
        let [.., f0, f1, f2, f3, n0, n1, n2, n3] = prelude;
        let found = u32::from_le_bytes([f0, f1, f2, f3]);
        if found > FORMAT {
            return Err(BackupError::Newer { found });
        }
        let length = u32::from_le_bytes([n0, n1, n2, n3]);
        if found != FORMAT || length > REST_BYTES {
            return Err(BackupError::Header("its format or length is none"));
        }
        let mut rest = vec![0u8; usize::try_from(length).unwrap_or(0)];
        if !fill(from, &mut rest)? {
            return Err(BackupError::Header("it is cut off"));
        }
        let parsed = Self::parse(&rest).ok_or(BackupError::Header("it breaks the layout"))?;
        Ok(Self {
            bytes: [prelude.as_slice(), &rest].concat(),
            ..parsed
        })
    }

    fn parse(rest: &[u8]) -> Option<Self> {
        let (made_at, rest) = rest.split_first_chunk::<8>()?;
        let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
        let (_salt, rest) = rest.split_first_chunk::<32>()?;
        let (sealed, rest) = match rest.split_first()? {
            (0, rest) => (None, rest),
            (1, rest) => {
                let (recipient, rest) = rest.split_first_chunk::<32>()?;
                let (sealed, rest) = rest.split_first_chunk::<SEALED_BYTES>()?;
                (Some((RecoveryRecipient::of(*recipient), *sealed)), rest)
            }
            _ => return None,
        };
        let (program, rest) = text(rest)?;
        let (hub, rest) = text(rest)?;
        let made_at = Timestamp::from_millisecond(i64::from_le_bytes(*made_at)).ok()?;
        rest.is_empty().then(|| Self {
            bytes: Vec::new(),
            fingerprint: *fingerprint,
            made_at,
            sealed,
            program,
            hub,
        })
    }

    /// The header as it stands in the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Derives the key of the chunks.
    pub(super) fn chunk_key(&self, wrap: &Wrap) -> Secret {
        wrap.derived(&[b"zero-x backup 1", &Sha256::digest(&self.bytes)])
    }

    /// Returns the fingerprint of the master key that opens it.
    pub fn fingerprint(&self) -> String {
        HEXLOWER.encode(&self.fingerprint)
    }

    /// Returns when it was made, by the hub's clock.
    pub fn made_at(&self) -> Timestamp {
        self.made_at
    }

    /// Returns the hub's public name.
    pub fn hub(&self) -> &str {
        &self.hub
    }

    /// Returns the version of the program that made it.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Returns who can recover the master key from it.
    pub fn recipient(&self) -> Option<RecoveryRecipient> {
        self.sealed.map(|(recipient, _)| recipient)
    }

    /// Refuses a master key that does not open it.
    pub(super) fn wants(&self, master: &MasterKey) -> Result<Wrap, BackupError> {
        let wrap = master.wrap();
        if wrap.fingerprint_bytes() != self.fingerprint {
            return Err(BackupError::WrongMasterKey {
                wanted: self.fingerprint(),
                given: wrap.fingerprint(),
                key_file: master.path().to_owned(),
            });
        }
        Ok(wrap)
    }

    /// Opens the master key that the backup carries.
    ///
    /// # Errors
    ///
    /// `NoRecipient`, `OtherRecipient`, `Unsealable`.
    pub(crate) fn unseal(&self, key: &RecoveryKey) -> Result<Secret, BackupError> {
        let Some((recipient, sealed)) = &self.sealed else {
            let wanted = self.fingerprint();
            return Err(BackupError::NoRecipient { wanted });
        };
        if *recipient != key.recipient() {
            return Err(BackupError::OtherRecipient {
                wanted: *recipient,
                given: key.recipient(),
            });
        }
        let master = key.open(sealed, &self.fingerprint);
        let master = master.ok_or(BackupError::Unsealable)?;
        // Sealed by whoever knows the public half: only the fingerprint says that it is the key.
        if Wrap::new(&master).fingerprint_bytes() != self.fingerprint {
            return Err(BackupError::Unsealable);
        }
        Ok(master)
    }
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// Reads until the buffer is full; says whether it is.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> Result<bool, BackupError> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}
