//! Keyrings: the keys of one owner, wrapped under the master key.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce, Tag};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{FORMAT, Owner, Sealer, Secret, TAG_BYTES, derive, fresh_nonce, random_key, secret};
use crate::recovery::{RecoveryRecipient, SEALED_BYTES};

const WRAP_NONCE_BYTES: usize = 12;

pub(crate) fn cipher(key: &Secret) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(**key))
}

/// Why a keyring did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnwrapError {
    /// It was wrapped under another master key, of this fingerprint.
    OtherKey { wanted: String },
    /// A newer program wrapped it.
    Newer { found: u8 },
    /// It is not what was written.
    Damaged,
}

/// Wraps keyrings under the master key.
///
/// ```text
/// format 1 ‖ fingerprint of the master key 8 ‖ nonce 12 ‖ AES-256-GCM of the keyring ‖ tag 16
/// ```
pub(crate) struct Wrap {
    master: Secret,
    cipher: Aes256Gcm,
    fingerprint: [u8; 8],
}

impl Wrap {
    pub(crate) fn new(master: &Secret) -> Self {
        let mut fingerprint = [0u8; 8];
        let named = derive(master, &[b"zero-x master key fingerprint 1"]);
        for (out, byte) in fingerprint.iter_mut().zip(named.iter()) {
            *out = *byte;
        }
        Self {
            master: master.clone(),
            cipher: cipher(&derive(master, &[b"zero-x keyring wrap 1"])),
            fingerprint,
        }
    }

    /// Returns the master key's public name.
    pub(crate) fn fingerprint(&self) -> String {
        HEXLOWER.encode(&self.fingerprint)
    }

    pub(crate) fn fingerprint_bytes(&self) -> [u8; 8] {
        self.fingerprint
    }

    /// Derives a further key of the master key.
    pub(crate) fn derived(&self, purpose: &[&[u8]]) -> Secret {
        derive(&self.master, purpose)
    }

    /// Seals the master key to a recovery recipient; `None` where nobody holds its key.
    pub(crate) fn sealed_to(&self, recipient: &RecoveryRecipient) -> Option<[u8; SEALED_BYTES]> {
        recipient.seal(&self.master, &self.fingerprint)
    }

    fn associated(purpose: &[u8]) -> Vec<u8> {
        [b"zero-x keyring 1".as_slice(), purpose].concat()
    }

    pub(crate) fn wrap(&self, purpose: &[u8], keyring: &Keyring) -> Vec<u8> {
        let nonce = fresh_nonce::<WRAP_NONCE_BYTES>();
        let mut body = keyring.encode();
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &Nonce::from(nonce),
                &Self::associated(purpose),
                body.as_mut_slice().into(),
            )
            .expect("a keyring is far below GCM's bound of 64 GiB");
        [[FORMAT].as_slice(), &self.fingerprint, &nonce, &body, &tag].concat()
    }

    pub(crate) fn unwrap(&self, purpose: &[u8], wrapped: &[u8]) -> Result<Keyring, UnwrapError> {
        let (format, rest) = wrapped.split_first().ok_or(UnwrapError::Damaged)?;
        if *format > FORMAT {
            return Err(UnwrapError::Newer { found: *format });
        }
        let (name, rest) = rest.split_first_chunk::<8>().ok_or(UnwrapError::Damaged)?;
        let (nonce, rest) = rest
            .split_first_chunk::<WRAP_NONCE_BYTES>()
            .ok_or(UnwrapError::Damaged)?;
        let (body, tag) = rest
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(UnwrapError::Damaged)?;
        if *name != self.fingerprint {
            return Err(UnwrapError::OtherKey {
                wanted: HEXLOWER.encode(name),
            });
        }
        let mut keyring = Zeroizing::new(body.to_vec());
        self.cipher
            .decrypt_inout_detached(
                &Nonce::from(*nonce),
                &Self::associated(purpose),
                keyring.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| UnwrapError::Damaged)?;
        Keyring::decode(&keyring).ok_or(UnwrapError::Damaged)
    }
}

/// The keys of one owner.
///
/// ```text
/// name key 32 ‖ ( number 1 ‖ data key 32 )*     the newest data key last
/// ```
pub(crate) struct Keyring {
    /// Names in row keys are hashed under this one. It never changes, or no row would be found.
    name_key: Secret,
    data_keys: Vec<(u8, Secret)>,
}

impl Keyring {
    /// Draws a keyring with one data key.
    pub(crate) fn fresh() -> Self {
        Self {
            name_key: random_key(),
            data_keys: vec![(1, random_key())],
        }
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(32 + 33 * self.data_keys.len()));
        bytes.extend_from_slice(self.name_key.as_ref());
        for (number, key) in &self.data_keys {
            bytes.push(*number);
            bytes.extend_from_slice(key.as_ref());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (name_key, rest) = bytes.split_first_chunk::<32>()?;
        let mut data_keys = Vec::new();
        let mut rest = rest;
        while let Some((number, after)) = rest.split_first() {
            let (key, after) = after.split_first_chunk::<32>()?;
            data_keys.push((*number, secret(key)));
            rest = after;
        }
        (!data_keys.is_empty()).then(|| Self {
            name_key: secret(name_key),
            data_keys,
        })
    }

    /// Returns the key that names are hashed under.
    pub(crate) fn name_key(&self) -> &Secret {
        &self.name_key
    }

    /// Returns the data keys with their numbers, the newest last.
    pub(crate) fn data_keys(&self) -> &[(u8, Secret)] {
        &self.data_keys
    }

    /// Draws a further data key, under which rows are sealed from then on, and returns its number:
    /// the next that is free, from 1 again after 255. `None` when none is.
    pub(crate) fn add_data_key(&mut self) -> Option<u8> {
        let newest = self.data_keys.last().map_or(0, |(number, _)| *number);
        let taken = |number: &u8| self.data_keys.iter().any(|(known, _)| known == number);
        let mut free = (1..=u8::MAX).map(|step| match newest.overflowing_add(step) {
            (number, false) => number,
            (number, true) => number.saturating_add(1),
        });
        let number = free.find(|number| !taken(number))?;
        self.data_keys.push((number, random_key()));
        Some(number)
    }

    /// Forgets every data key but the newest, which must have this number; says whether it has.
    pub(crate) fn keep_newest(&mut self, number: u8) -> bool {
        let is_newest = self
            .data_keys
            .last()
            .is_some_and(|(newest, _)| *newest == number);
        if is_newest {
            self.data_keys.retain(|(known, _)| *known == number);
        }
        is_newest
    }

    /// Becomes what seals the rows of its owner.
    pub(crate) fn into_sealer(self, owner: Owner) -> Sealer {
        Sealer::new(owner, self.data_keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyring_opens_under_its_master_key_only_and_says_which_one_it_wants() {
        let (ours, other) = (Wrap::new(&random_key()), Wrap::new(&random_key()));
        let keyring = Keyring::fresh();
        let wrapped = ours.wrap(b"org a", &keyring);
        let opened = ours.unwrap(b"org a", &wrapped).unwrap();
        assert_eq!(*opened.encode(), *keyring.encode());
        let wanted = ours.fingerprint();
        assert_eq!(
            other.unwrap(b"org a", &wrapped).err(),
            Some(UnwrapError::OtherKey { wanted })
        );
        assert_eq!(
            ours.unwrap(b"org b", &wrapped).err(),
            Some(UnwrapError::Damaged)
        );
        assert_eq!(
            ours.unwrap(b"org a", &wrapped[..40]).err(),
            Some(UnwrapError::Damaged)
        );
        let secrets = keyring.encode();
        assert!(
            secrets
                .chunks(16)
                .all(|part| !wrapped.windows(16).any(|bytes| bytes == part))
        );
    }

    fn numbers(keyring: &Keyring) -> Vec<u8> {
        let keys = keyring.data_keys().iter();
        keys.map(|(number, _)| *number).collect()
    }

    #[test]
    fn numbers_of_data_keys_go_round_and_are_never_given_twice() {
        let mut keyring = Keyring::fresh();
        for number in 2..=255 {
            assert_eq!(keyring.add_data_key(), Some(number));
        }
        assert_eq!(keyring.add_data_key(), None, "every number is taken");
        assert!(!keyring.keep_newest(1), "it is not the newest");
        assert_eq!(numbers(&keyring).len(), 255);
        assert!(keyring.keep_newest(255));
        assert_eq!(numbers(&keyring), [255]);
        assert_eq!(keyring.add_data_key(), Some(1));
        assert_eq!(keyring.add_data_key(), Some(2));
        assert_eq!(numbers(&keyring), [255, 1, 2], "the newest is the last");
    }

    #[test]
    fn a_keyring_is_read_back_in_its_order() {
        let mut keyring = Keyring::fresh();
        for _ in 0..254 {
            keyring.add_data_key();
        }
        keyring.keep_newest(255);
        keyring.add_data_key();
        let read = Keyring::decode(&keyring.encode()).unwrap();
        assert_eq!(numbers(&read), [255, 1]);
    }
}
