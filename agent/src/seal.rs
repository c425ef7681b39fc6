//! AES-256-GCM for what lies on this host's disk: the vault's secrets and the spool's values.
//!
//! ```text
//! sealed   format 1 │ key id 8 │ nonce 12 │ ciphertext and tag
//! ```
//! The key id tells a wrong key from a damaged file. The place where a value belongs is bound in
//! as associated data, so that sealed values cannot be swapped.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

const FORMAT: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;

/// Says why a sealed value cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SealError {
    /// Too short to be a sealed value.
    #[error("the sealed value is cut short")]
    Short,
    /// A newer program wrote it.
    #[error("the sealed value has format {found}; this program knows {FORMAT}")]
    Format { found: u8 },
    /// It was sealed with another key.
    #[error("the value was sealed with another key")]
    OtherKey,
    /// It was changed, or belongs to another place.
    #[error("the sealed value is damaged or belongs elsewhere")]
    Damaged,
}

/// A 256-bit key.
#[derive(Clone)]
pub(crate) struct SealKey {
    cipher: Aes256Gcm,
    id: [u8; KEY_ID_BYTES],
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

impl SealKey {
    /// Makes a key of its 32 bytes.
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        let digest = blake3::derive_key("zero-x-agent seal key id 1", bytes);
        let mut id = [0; KEY_ID_BYTES];
        let first = digest.first_chunk::<KEY_ID_BYTES>();
        id.copy_from_slice(first.expect("a digest has 32 bytes"));
        Self {
            cipher: Aes256Gcm::new(bytes.into()),
            id,
        }
    }

    /// Seals `plain` for `place`.
    pub(crate) fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce = random::<NONCE_BYTES>();
        let payload = Payload {
            msg: plain,
            aad: place,
        };
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a value is shorter than 64 GiB");
        let mut out = Vec::with_capacity(1 + KEY_ID_BYTES + NONCE_BYTES + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// Opens what [`SealKey::seal`] made for the same place.
    ///
    /// # Errors
    ///
    /// See [`SealError`].
    pub(crate) fn open(
        &self,
        place: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (&format, rest) = sealed.split_first().ok_or(SealError::Short)?;
        if format != FORMAT {
            return Err(SealError::Format { found: format });
        }
        let (id, rest) = rest
            .split_first_chunk::<KEY_ID_BYTES>()
            .ok_or(SealError::Short)?;
        let (nonce, body) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::Short)?;
        if *id != self.id {
            return Err(SealError::OtherKey);
        }
        let payload = Payload {
            msg: body,
            aad: place,
        };
        let plain = self.cipher.decrypt(&Nonce::from(*nonce), payload);
        plain.map(Zeroizing::new).map_err(|_| SealError::Damaged)
    }
}

/// Returns random bytes of the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_in_its_own_place_with_its_own_key_only() {
        let key = SealKey::new(&[1; 32]);
        let sealed = key.seal(b"here", b"value");
        assert_eq!(key.open(b"here", &sealed).unwrap().as_slice(), b"value");
        assert_eq!(key.open(b"there", &sealed), Err(SealError::Damaged));
        let other = SealKey::new(&[2; 32]);
        assert_eq!(other.open(b"here", &sealed), Err(SealError::OtherKey));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let key = SealKey::new(&[1; 32]);
        let sealed = key.seal(b"here", b"value");
        for end in 0..sealed.len() {
            assert!(key.open(b"here", &sealed[..end]).is_err(), "cut at {end}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(b"here", &changed).is_err(), "changed at {at}");
        }
    }
}
