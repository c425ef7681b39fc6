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

mod keyring;
mod xaes;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

pub(crate) use self::keyring::{Keyring, UnwrapError, Wrap, cipher};
use self::xaes::Xaes;
use crate::error::ReadError;
use crate::tables::{TABLES, Table};

/// 32 bytes that are zeroed when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Who owns a file: an organisation's id, or zeros for the appliance.
pub(crate) type Owner = [u8; 16];

/// The newest format of a sealed row that this program reads and the one that it writes.
const FORMAT: u8 = 1;
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

/// The data keys of an owner, the newest last.
type Keys = Arc<Vec<Arc<TableKeys>>>;

/// Seals and opens the rows of one owner. Its keys can be exchanged while it is in use.
pub(crate) struct Sealer {
    owner: Owner,
    keys: RwLock<Keys>,
}

impl Sealer {
    /// Takes data keys with their numbers, the newest last.
    fn new(owner: Owner, keys: Vec<(u8, Secret)>) -> Self {
        let keys = keys
            .into_iter()
            .map(|(number, key)| Arc::new(TableKeys::new(number, key)));
        Self {
            owner,
            keys: RwLock::new(Arc::new(keys.collect())),
        }
    }

    fn keys(&self) -> Keys {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns one with the keys of this moment, which keeps them.
    pub(crate) fn pinned(&self) -> Self {
        Self {
            owner: self.owner,
            keys: RwLock::new(self.keys()),
        }
    }

    /// Takes a snapshot with the keys of every row that it shows: no key was exchanged meanwhile.
    pub(crate) fn with<R, E>(&self, take: impl Fn() -> Result<R, E>) -> Result<(R, Self), E> {
        loop {
            let before = self.pinned();
            let taken = take()?;
            if Arc::ptr_eq(&before.keys(), &self.keys()) {
                return Ok((taken, before));
            }
        }
    }

    /// Exchanges the keys for those of a keyring. What is derived of a key that stays, stays.
    pub(crate) fn exchange(&self, keyring: &Keyring) {
        let before = self.keys();
        let after = keyring.data_keys().iter().map(|(number, key)| {
            let known = before
                .iter()
                .find(|known| known.number == *number && known.key == *key);
            known.map_or_else(
                || Arc::new(TableKeys::new(*number, key.clone())),
                Arc::clone,
            )
        });
        let after = Arc::new(after.collect());
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = after;
    }

    /// Returns the numbers of the keys, the newest last.
    pub(crate) fn numbers(&self) -> Vec<u8> {
        self.keys().iter().map(|keyed| keyed.number).collect()
    }

    /// Says whether a row is sealed under the newest key.
    pub(crate) fn is_newest(&self, sealed: &[u8]) -> bool {
        let keys = self.keys();
        keys.last().map(|newest| newest.number) == sealed.get(1).copied()
    }

    /// Returns a row under the newest key that another handle of this owner has sealed, maybe some
    /// time ago: its key may be out of use by now.
    pub(crate) fn renewed<'s>(
        &self,
        by: &Self,
        table: Table,
        key: &[u8],
        sealed: &'s [u8],
    ) -> Result<Cow<'s, [u8]>, ReadError> {
        let (ours, theirs) = (self.keys(), by.keys());
        let same = ours.last().zip(theirs.last());
        if same.is_some_and(|(ours, theirs)| Arc::ptr_eq(ours, theirs)) {
            return Ok(sealed.into());
        }
        let row = Zeroizing::new(by.open(table, key, sealed)?);
        Ok(self.seal(table, key, &row).into())
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
        let keys = self.keys();
        let newest = keys.last().expect("a keyring has a key");
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
        let keys = self.keys();
        let keyed = keys
            .iter()
            .find(|keyed| keyed.number == number)
            .ok_or_else(broken)?;
        let mut row = body.to_vec();
        let bound = self.associated(number, table, key);
        keyed
            .of(&self.owner, table)
            .open(nonce, &bound, &mut row, tag)
            .map_err(|_| broken())?;
        Ok(row)
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
