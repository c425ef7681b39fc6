//! Sealing: every row is encrypted and bound to its owner, table and key.
//!
//! ```text
//! sealed row      offset  size
//!                      0     1  format
//!                      1     1  number of the data key
//!                      2    24  nonce, random
//!                     26     n  XAES-256-GCM of the row
//!                   26+n    16  tag over it, format ‖ key number ‖ owner ‖ table ‖ row key
//!
//! master key ─HKDF─▶ wrapping key ─AES-256-GCM─▶ keyring of one owner: data keys, name key
//! data key ─HKDF(owner ‖ table)─▶ key of one table
//! ```
//! A row that is moved to another place, table or organisation does not open, and a row cannot be
//! opened under another key than the one it names.
//!
//! **How much one key may seal.** Plain AES-GCM with random nonces of 96 bits may seal 2³² messages
//! (NIST SP 800-38D, section 8.3), and a count of them does not survive what a hub survives: a
//! backup that is restored, a machine that is cloned, a kill between a write and its count. So each
//! row has 192 random bits and, derived from them, a key of its own ([`xaes`]): after 2⁸⁰ rows under
//! one key two nonces are equal with a probability of 2⁻³². A table that takes a million rows a
//! second has as many after 38 billion years. Nothing is counted, and nothing is kept that a restore
//! could set back. A keyring is wrapped with 96 random bits: once when it is made and once at each
//! rotation, so 2³² is not in reach.

mod xaes;

use std::sync::OnceLock;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce, Tag};
use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use self::xaes::Xaes;
use crate::error::ReadError;
use crate::recovery::{RecoveryRecipient, SEALED_BYTES};
use crate::tables::{TABLES, Table};

/// 32 bytes that are zeroed when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Who owns a file: an organisation's id, or zeros for the appliance.
pub(crate) type Owner = [u8; 16];

/// The newest format of a sealed row that this program reads and the one that it writes.
const FORMAT: u8 = 1;
/// Of a wrapped keyring.
const WRAP_NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 2 + xaes::NONCE_BYTES;

/// Draws a key.
pub(crate) fn random_key() -> Secret {
    let mut key = Zeroizing::new([0u8; 32]);
    fill_random(key.as_mut());
    key
}

/// Fills a buffer from the kernel's generator.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's generator works once the system has started");
}

/// Derives a key for one purpose.
fn derive(key: &[u8; 32], purpose: &[&[u8]]) -> Secret {
    let mut derived = Zeroizing::new([0u8; 32]);
    Hkdf::<Sha256>::new(None, key)
        .expand_multi_info(purpose, derived.as_mut())
        .expect("32 bytes are within HKDF's bound of 255 blocks");
    derived
}

pub(crate) fn cipher(key: &Secret) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::from(**key))
}

fn fresh_nonce<const BYTES: usize>() -> [u8; BYTES] {
    let mut nonce = [0u8; BYTES];
    fill_random(&mut nonce);
    nonce
}

/// The keys of every table under one data key, each derived on first use.
struct TableKeys {
    number: u8,
    key: Secret,
    ciphers: [OnceLock<Box<Xaes>>; TABLES],
}

impl TableKeys {
    fn new(number: u8, key: Secret) -> Self {
        Self {
            number,
            key,
            ciphers: [const { OnceLock::new() }; TABLES],
        }
    }

    fn of(&self, owner: &Owner, table: Table) -> &Xaes {
        self.ciphers
            .get(usize::from(table.number()))
            .expect("TABLES is more than the greatest number of a table")
            .get_or_init(|| {
                let purpose: [&[u8]; 3] = [b"zero-x row 1", owner, &[table.number()]];
                Box::new(Xaes::new(&derive(&self.key, &purpose)))
            })
    }
}

/// Seals and opens the rows of one owner.
pub(crate) struct Sealer {
    owner: Owner,
    /// Newest first.
    keys: Vec<TableKeys>,
}

impl Sealer {
    fn new(owner: Owner, keys: Vec<(u8, Secret)>) -> Self {
        let mut keys: Vec<TableKeys> = keys
            .into_iter()
            .map(|(number, key)| TableKeys::new(number, key))
            .collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.number));
        Self { owner, keys }
    }

    /// What a row is bound to.
    fn associated(&self, key_number: u8, table: Table, key: &[u8]) -> Vec<u8> {
        let mut bound = Vec::with_capacity(3 + self.owner.len() + key.len());
        bound.extend_from_slice(&[FORMAT, key_number]);
        bound.extend_from_slice(&self.owner);
        bound.push(table.number());
        bound.extend_from_slice(key);
        bound
    }

    /// Seals a row for its place, under the newest key.
    pub(crate) fn seal(&self, table: Table, key: &[u8], row: &[u8]) -> Vec<u8> {
        let newest = self.keys.first().expect("a keyring has a key");
        let nonce = fresh_nonce::<{ xaes::NONCE_BYTES }>();
        let mut sealed = Vec::with_capacity(HEAD_BYTES + row.len() + TAG_BYTES);
        sealed.extend_from_slice(&[FORMAT, newest.number]);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(row);
        let bound = self.associated(newest.number, table, key);
        let body = sealed.get_mut(HEAD_BYTES..).unwrap_or_default();
        let tag = newest.of(&self.owner, table).seal(&nonce, &bound, body);
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// Opens a row at its place.
    pub(crate) fn open(
        &self,
        table: Table,
        key: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, ReadError> {
        let broken = || ReadError::Seal {
            table: table.name(),
        };
        let (&[format, number], rest) = sealed.split_first_chunk::<2>().ok_or_else(broken)?;
        if format > FORMAT {
            let table = table.name();
            return Err(ReadError::Newer {
                table,
                found: format,
                supported: FORMAT,
            });
        }
        if format != FORMAT {
            return Err(broken());
        }
        let (nonce, rest) = rest
            .split_first_chunk::<{ xaes::NONCE_BYTES }>()
            .ok_or_else(broken)?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or_else(broken)?;
        let keys = self
            .keys
            .iter()
            .find(|keys| keys.number == number)
            .ok_or_else(broken)?;
        let mut row = body.to_vec();
        let bound = self.associated(number, table, key);
        keys.of(&self.owner, table)
            .open(nonce, &bound, &mut row, tag)
            .map_err(|_| broken())?;
        Ok(row)
    }
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
/// name key 32 ‖ ( number 1 ‖ data key 32 )*
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

    /// Becomes what seals the rows of its owner.
    pub(crate) fn into_sealer(self, owner: Owner) -> Sealer {
        Sealer::new(owner, self.data_keys)
    }
}

fn secret(bytes: &[u8; 32]) -> Secret {
    let mut secret = Zeroizing::new([0u8; 32]);
    secret.copy_from_slice(bytes);
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer(owner: u8) -> Sealer {
        Sealer::new([owner; 16], vec![(1, secret(&[7; 32]))])
    }

    #[test]
    fn a_row_opens_only_at_its_own_place() {
        let ours = sealer(1);
        let sealed = ours.seal(Table::Findings, b"key", b"row");
        assert_eq!(ours.open(Table::Findings, b"key", &sealed).unwrap(), b"row");
        let elsewhere = [
            ours.open(Table::Findings, b"kez", &sealed),
            ours.open(Table::Findings, b"ke", &sealed),
            ours.open(Table::Resources, b"key", &sealed),
            sealer(2).open(Table::Findings, b"key", &sealed),
        ];
        for opened in elsewhere {
            assert!(matches!(opened, Err(ReadError::Seal { .. })), "{opened:?}");
        }
    }

    #[test]
    fn the_same_row_never_seals_to_the_same_bytes() {
        let sealer = sealer(1);
        let sealed: std::collections::BTreeSet<Vec<u8>> = (0..100)
            .map(|_| sealer.seal(Table::Meta, b"key", b"row"))
            .collect();
        assert_eq!(sealed.len(), 100);
        assert!(
            sealed
                .iter()
                .all(|bytes| !bytes.windows(3).any(|part| part == b"row"))
        );
    }

    #[test]
    fn rows_of_an_older_key_stay_readable_beside_those_of_the_newer() {
        let old = sealer(1);
        let both = Sealer::new([1; 16], vec![(1, secret(&[7; 32])), (2, secret(&[8; 32]))]);
        let before = old.seal(Table::Meta, b"key", b"before");
        let after = both.seal(Table::Meta, b"key", b"after");
        assert_eq!(both.open(Table::Meta, b"key", &before).unwrap(), b"before");
        assert_eq!(both.open(Table::Meta, b"key", &after).unwrap(), b"after");
        assert!(old.open(Table::Meta, b"key", &after).is_err());
    }

    #[test]
    fn a_newer_seal_format_is_named_as_such() {
        let sealer = sealer(1);
        let mut sealed = sealer.seal(Table::Audit, b"key", b"row");
        sealed[0] = FORMAT + 1;
        let error = sealer.open(Table::Audit, b"key", &sealed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a row of table audit has format 2; this program reads up to 1"
        );
    }

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

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(
            row in proptest::collection::vec(any::<u8>(), 0..200),
            place in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let sealer = sealer(1);
            let mut sealed = sealer.seal(Table::Findings, b"key", &row);
            let place = place.index(sealed.len());
            sealed[place] ^= 1 << bit;
            prop_assert!(sealer.open(Table::Findings, b"key", &sealed).is_err());
        }
    }
}
