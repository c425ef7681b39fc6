//! XAES-256-GCM: AES-256-GCM under a key of its own for every message, derived from 192 random bits.
//!
//! ```text
//! key ─ AES-256 of two counters ‖ nonce[..12] ─▶ key of the message ─ AES-256-GCM, nonce[12..]
//! ```
//! Source: C2SP, "The XAES-256-GCM extended-nonce AEAD" (c2sp.org/XAES-256-GCM), on NIST SP
//! 800-108r1 and SP 800-38D; its test vectors are below. It costs two AES blocks and a key schedule
//! a message.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::aes::{Aes256, Block};
use aes_gcm::{Aes256Gcm, Key, KeyInit, Tag};
use zeroize::Zeroizing;

use super::Secret;

type GcmNonce = aes_gcm::aead::Nonce<Aes256Gcm>;

pub(super) const NONCE_BYTES: usize = 24;

/// One key, ready to derive those of its messages.
pub(super) struct Xaes {
    block: Aes256,
    /// The first subkey of CMAC under it.
    subkey: Zeroizing<[u8; 16]>,
}

/// The message is not what was sealed under this key, nonce and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotOurs;

impl Xaes {
    pub(super) fn new(key: &Secret) -> Self {
        let block = Aes256::new(&(**key).into());
        let mut zero = Block::from([0u8; 16]);
        block.encrypt_block(&mut zero);
        let wide = u128::from_be_bytes(zero.into());
        // Doubling in GF(2^128). Source: NIST SP 800-38B, section 6.1.
        let carry = if wide >> 127 == 1 { 0x87 } else { 0 };
        let subkey = Zeroizing::new(((wide << 1) ^ carry).to_be_bytes());
        Self { block, subkey }
    }

    /// Returns what one message is sealed with.
    fn message(&self, nonce: &[u8; NONCE_BYTES]) -> (Aes256Gcm, GcmNonce) {
        let (context, rest) = nonce.split_at(12);
        let mut key = Zeroizing::new([0u8; 32]);
        for (counter, half) in (1u8..).zip(key.chunks_exact_mut(16)) {
            let mut input = [0u8; 16];
            let counted = [0, counter, b'X', 0];
            let place = counted.iter().chain(context).zip(self.subkey.iter());
            for (out, (byte, mask)) in input.iter_mut().zip(place) {
                *out = byte ^ mask;
            }
            let mut block = Block::from(input);
            self.block.encrypt_block(&mut block);
            half.copy_from_slice(&block);
        }
        let mut last = [0u8; 12];
        last.copy_from_slice(rest);
        (
            Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)),
            GcmNonce::from(last),
        )
    }

    /// Encrypts in place and returns the tag.
    pub(super) fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        bound: &[u8],
        message: &mut [u8],
    ) -> [u8; 16] {
        let (cipher, nonce) = self.message(nonce);
        cipher
            .encrypt_inout_detached(&nonce, bound, message.into())
            .expect("a row is far below GCM's bound of 64 GiB")
            .into()
    }

    /// Decrypts in place.
    pub(super) fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        bound: &[u8],
        message: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotOurs> {
        let (cipher, nonce) = self.message(nonce);
        cipher
            .decrypt_inout_detached(&nonce, bound, message.into(), &Tag::from(*tag))
            .map_err(|_| NotOurs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// Source: the specification's section "Test vectors".
    #[track_caller]
    fn check(key: u8, bound: &str, subkey: &str, want: &str) {
        let xaes = Xaes::new(&Zeroizing::new([key; 32]));
        assert_eq!(HEXLOWER.encode(&*xaes.subkey), subkey);
        let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        let mut message = *b"XAES-256-GCM";
        let tag = xaes.seal(nonce, bound.as_bytes(), &mut message);
        let sealed = [message.as_slice(), &tag].concat();
        assert_eq!(HEXLOWER.encode(&sealed), want);
        let opened = xaes.open(nonce, bound.as_bytes(), &mut message, &tag);
        assert_eq!((opened, message), (Ok(()), *b"XAES-256-GCM"));
        let mut again = message;
        assert_eq!(xaes.open(nonce, b"other", &mut again, &tag), Err(NotOurs));
    }

    #[test]
    fn it_gives_what_the_specification_says() {
        check(
            1,
            "",
            "e531954aca063d5b8d9c47a47d4cc6f0",
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
        );
        // The doubling carries.
        check(
            3,
            "c2sp.org/XAES-256-GCM",
            "23810ec50edb99f374409466ed1f4b7b",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        );
    }

    #[test]
    fn each_half_of_the_nonce_changes_everything() {
        let xaes = Xaes::new(&Zeroizing::new([1; 32]));
        let sealed = |place: usize| {
            let mut nonce = [0u8; NONCE_BYTES];
            nonce[place] = 1;
            let mut message = [0u8; 32];
            let tag = xaes.seal(&nonce, b"", &mut message);
            (message, tag)
        };
        let all: std::collections::BTreeSet<_> = (0..NONCE_BYTES).map(sealed).collect();
        assert_eq!(all.len(), NONCE_BYTES);
    }
}
