//! The offline recovery key: an X25519 pair of which the hub knows the public half alone. Every
//! backup carries the master key sealed to it, so that a lost master key is no lost backup.
//!
//! ```text
//! sealed master key   encapsulated key 32 ‖ AES-256-GCM of the master key 32 ‖ tag 16
//! ```
//! HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; info "zero-x
//! recovery 1", additional data the master key's fingerprint.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender_with_rng,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::MasterKeyError;
use crate::master::{read_private, write_private};
use crate::seal::{Secret, fill_random, random_key};

/// Bytes of a sealed master key.
pub(crate) const SEALED_BYTES: usize = 32 + 32 + 16;
const INFO: &[u8] = b"zero-x recovery 1";
const PUBLIC: &str = "x25519:";
const PRIVATE: &str = "x25519-secret:";
/// The longest key file: its words, the key and a line end of either kind.
const FILE_BYTES: u64 = 80;

type Public = <X25519HkdfSha256 as Kem>::PublicKey;
type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

/// The public half of a recovery key, written `x25519:` and 64 hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RecoveryRecipient([u8; 32]);

impl RecoveryRecipient {
    pub(crate) fn of(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals a master key of this fingerprint; `None` for a point that nobody holds the key of.
    pub(crate) fn seal(
        &self,
        master: &Secret,
        fingerprint: &[u8; 8],
    ) -> Option<[u8; SEALED_BYTES]> {
        let public = Public::from_bytes(&self.0).ok()?;
        let mode = OpModeS::Base;
        let (encapped, mut context) = setup_sender_with_rng::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(&mode, &public, INFO, &mut Kernel)
        .ok()?;
        let sealed = context.seal(master.as_ref(), fingerprint).ok()?;
        [encapped.to_bytes().as_slice(), &sealed]
            .concat()
            .try_into()
            .ok()
    }
}

impl fmt::Display for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<RecoveryRecipient> for String {
    fn from(recipient: RecoveryRecipient) -> Self {
        recipient.to_string()
    }
}

impl TryFrom<String> for RecoveryRecipient {
    type Error = NoRecipientError;

    fn try_from(text: String) -> Result<Self, NoRecipientError> {
        text.parse()
    }
}

/// Why a text names no recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a recovery recipient is \"x25519:\" and 64 hexadecimal characters")]
pub struct NoRecipientError;

impl FromStr for RecoveryRecipient {
    type Err = NoRecipientError;

    fn from_str(text: &str) -> Result<Self, NoRecipientError> {
        let key = text.strip_prefix(PUBLIC).and_then(decode);
        let key = key.ok_or(NoRecipientError)?;
        // Zero and its like: what is sealed to them anybody opens.
        let recipient = Self(*key);
        match recipient.seal(&random_key(), &[0; 8]) {
            Some(_) => Ok(recipient),
            None => Err(NoRecipientError),
        }
    }
}

/// The secret half. Zeroed when dropped; never printed.
pub struct RecoveryKey {
    private: Private,
    recipient: RecoveryRecipient,
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecoveryKey")
            .field("recipient", &self.recipient)
            .finish_non_exhaustive()
    }
}

impl RecoveryKey {
    fn of(key: &Secret) -> Option<Self> {
        let private = Private::from_bytes(key.as_ref()).ok()?;
        let public = X25519HkdfSha256::sk_to_pk(&private);
        let recipient = RecoveryRecipient(public.to_bytes().into());
        Some(Self { private, recipient })
    }

    /// Draws a key and writes it to a new file, mode 0600: `x25519-secret:` and 64 hexadecimal
    /// characters.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn create(path: &Path) -> Result<Self, MasterKeyError> {
        let key = random_key();
        let content = || MasterKeyError::Content {
            path: path.to_owned(),
        };
        let made = Self::of(&key).ok_or_else(content)?;
        let hex = Zeroizing::new(HEXLOWER_PERMISSIVE.encode(key.as_ref()));
        write_private(path, &[PRIVATE, &hex])?;
        Ok(made)
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    ///
    /// When the file is not a regular one, may be read by others than its owner, or holds
    /// something else.
    pub fn load(path: &Path) -> Result<Self, MasterKeyError> {
        let text = read_private(path, FILE_BYTES)?;
        let key = text.strip_prefix(PRIVATE).and_then(decode);
        key.and_then(|key| Self::of(&key))
            .ok_or_else(|| MasterKeyError::NoRecoveryKey {
                path: path.to_owned(),
            })
    }

    /// Returns the public half.
    pub fn recipient(&self) -> RecoveryRecipient {
        self.recipient
    }

    /// Opens a master key of this fingerprint.
    pub(crate) fn open(
        &self,
        sealed: &[u8; SEALED_BYTES],
        fingerprint: &[u8; 8],
    ) -> Option<Secret> {
        let (encapped, sealed) = sealed.split_first_chunk::<32>()?;
        let encapped = Encapped::from_bytes(encapped).ok()?;
        let mut context = setup_receiver::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapped,
            INFO,
        )
        .ok()?;
        let master = Zeroizing::new(context.open(sealed, fingerprint).ok()?);
        let mut key: Secret = Zeroizing::new([0; 32]);
        if master.len() != key.len() {
            return None;
        }
        key.copy_from_slice(&master);
        Some(key)
    }
}

fn decode(hex: &str) -> Option<Secret> {
    let mut key: Secret = Zeroizing::new([0; 32]);
    if hex.len() != 64 {
        return None;
    }
    HEXLOWER_PERMISSIVE
        .decode_mut(hex.as_bytes(), key.as_mut())
        .ok()?;
    Some(key)
}

/// The kernel's generator.
struct Kernel;

impl TryRng for Kernel {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        fill_random(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        fill_random(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        fill_random(to);
        Ok(())
    }
}

impl TryCryptoRng for Kernel {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_recovery_key_is_read_back_as_it_was_made_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery");
        let made = RecoveryKey::create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        let read = RecoveryKey::load(&path).unwrap();
        assert_eq!(read.recipient(), made.recipient());
        let shown = made.recipient().to_string();
        assert_eq!(shown.parse(), Ok(made.recipient()));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(shown.trim_start_matches(PUBLIC)), "{shown}");
        let again = RecoveryKey::create(&path).unwrap_err();
        assert!(matches!(again, MasterKeyError::Io { .. }), "{again:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = RecoveryKey::load(&path).unwrap_err();
        assert!(matches!(open, MasterKeyError::Mode { .. }), "{open:?}");
    }

    #[test]
    fn another_kind_of_key_is_not_taken_for_a_recovery_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in ["", &"0".repeat(64), &format!("{PUBLIC}{}", "1".repeat(64))] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = RecoveryKey::load(&path).unwrap_err();
            let is_named = matches!(error, MasterKeyError::NoRecoveryKey { .. });
            assert!(is_named, "{text}: {error:?}");
        }
    }

    #[test]
    fn a_text_that_is_no_public_key_is_refused() {
        let zeros = format!("{PUBLIC}{}", "0".repeat(64));
        let short = format!("{PUBLIC}{}", "9".repeat(63));
        let other = format!("ed25519:{}", "9".repeat(64));
        for text in ["", &zeros, &short, &other, &"9".repeat(64)] {
            assert_eq!(text.parse::<RecoveryRecipient>(), Err(NoRecipientError));
        }
    }

    #[test]
    fn a_sealed_master_key_opens_under_its_own_recovery_key_and_fingerprint_only() {
        let dir = tempfile::tempdir().unwrap();
        let ours = RecoveryKey::create(&dir.path().join("ours")).unwrap();
        let other = RecoveryKey::create(&dir.path().join("other")).unwrap();
        let master = random_key();
        let sealed = ours.recipient().seal(&master, &[1; 8]).unwrap();
        assert_eq!(ours.open(&sealed, &[1; 8]), Some(master.clone()));
        assert_eq!(ours.open(&sealed, &[2; 8]), None);
        assert_eq!(other.open(&sealed, &[1; 8]), None);
        for place in 0..sealed.len() {
            let mut changed = sealed;
            changed[place] ^= 1;
            assert_eq!(ours.open(&changed, &[1; 8]), None, "byte {place}");
        }
        let again = ours.recipient().seal(&master, &[1; 8]).unwrap();
        assert_ne!(sealed, again);
    }
}
