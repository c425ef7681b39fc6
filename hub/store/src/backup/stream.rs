//! The sealed stream (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015): a
//! chunk opens at its own place only, and the last one as the last only.
//!
//! ```text
//! chunk    size
//!     1..65,536  AES-256-GCM of as many bytes; every chunk but the last has 65,536
//!            16  tag
//! nonce      11  number of the chunk, big-endian, from 0
//!             1  1 for the last chunk, else 0
//! ```
//! Its key is drawn anew for every file (`header.rs`), so no nonce comes twice under one key.

use std::io::{self, Read, Write};

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, Nonce, Tag};

use super::BackupError;
use crate::seal::{Secret, cipher};

/// Bytes of a chunk before it is sealed.
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;

fn nonce(number: u64, is_last: bool) -> [u8; 12] {
    let mut nonce = [0u8; 12];
    let [_, _, _, place @ .., last] = &mut nonce;
    *place = number.to_be_bytes();
    *last = u8::from(is_last);
    nonce
}

/// Seals what is written to it.
pub(super) struct SealingWriter<'w> {
    to: &'w mut dyn Write,
    cipher: Aes256Gcm,
    plain: Vec<u8>,
    number: u64,
    /// Bytes written so far.
    bytes: u64,
}

impl<'w> SealingWriter<'w> {
    /// Begins behind `before` bytes.
    pub(super) fn new(to: &'w mut dyn Write, key: &Secret, before: usize) -> Self {
        Self {
            to,
            cipher: cipher(key),
            plain: Vec::with_capacity(CHUNK_BYTES + TAG_BYTES),
            number: 0,
            bytes: u64::try_from(before).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // A full chunk waits until it is known not to be the last.
            if self.plain.len() == CHUNK_BYTES {
                self.seal(false)?;
            }
            let room = CHUNK_BYTES - self.plain.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.plain.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn seal(&mut self, is_last: bool) -> io::Result<()> {
        let nonce = Nonce::from(nonce(self.number, is_last));
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &[], self.plain.as_mut_slice().into())
            .map_err(|_| io::Error::other("a chunk could not be sealed"))?;
        self.plain.extend_from_slice(&tag);
        self.to.write_all(&self.plain)?;
        self.bytes += u64::try_from(self.plain.len()).unwrap_or(u64::MAX);
        self.number += 1;
        self.plain.clear();
        Ok(())
    }

    /// Writes the last chunk and returns how many bytes the file has.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.seal(true)?;
        self.to.flush()?;
        Ok(self.bytes)
    }
}

/// Opens what a [`SealingWriter`] wrote.
pub(super) struct OpeningReader<'r> {
    from: &'r mut dyn Read,
    cipher: Aes256Gcm,
    /// The chunk after the one that is open, as far as it was read ahead.
    ahead: Vec<u8>,
    plain: Vec<u8>,
    /// How much of `plain` was given out.
    given: usize,
    number: u64,
    /// Where the next chunk begins.
    offset: u64,
    is_over: bool,
}

impl<'r> OpeningReader<'r> {
    /// Begins behind a header of `before` bytes.
    pub(super) fn new(from: &'r mut dyn Read, key: &Secret, before: usize) -> Self {
        Self {
            from,
            cipher: cipher(key),
            ahead: Vec::new(),
            plain: Vec::new(),
            given: 0,
            number: 0,
            offset: u64::try_from(before).unwrap_or(u64::MAX),
            is_over: false,
        }
    }

    /// Returns where in the file the next chunk begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Opens the next chunk.
    fn next_chunk(&mut self) -> Result<(), BackupError> {
        const SEALED: usize = CHUNK_BYTES + TAG_BYTES;
        let mut sealed = std::mem::take(&mut self.ahead);
        // One byte more than a chunk says that another follows.
        let want = u64::try_from(SEALED + 1 - sealed.len()).unwrap_or(0);
        (&mut *self.from).take(want).read_to_end(&mut sealed)?;
        let offset = self.offset;
        if sealed.is_empty() {
            return Err(BackupError::Cut { offset });
        }
        let is_last = sealed.len() <= SEALED;
        self.ahead = sealed.split_off(SEALED.min(sealed.len()));
        let length = u64::try_from(sealed.len()).unwrap_or(u64::MAX);
        match self.open(sealed.clone(), is_last) {
            Some(plain) => self.plain = plain,
            // A whole chunk of the middle that nothing follows.
            None if is_last && self.open(sealed, false).is_some() => {
                let offset = offset + length;
                return Err(BackupError::Cut { offset });
            }
            None => return Err(BackupError::Chunk { offset }),
        }
        self.given = 0;
        self.number += 1;
        self.offset += length;
        self.is_over = is_last;
        Ok(())
    }

    fn open(&self, mut sealed: Vec<u8>, is_last: bool) -> Option<Vec<u8>> {
        let at = sealed.len().checked_sub(TAG_BYTES)?;
        let tag: [u8; TAG_BYTES] = sealed.split_off(at).try_into().ok()?;
        let nonce = Nonce::from(nonce(self.number, is_last));
        self.cipher
            .decrypt_inout_detached(&nonce, &[], sealed.as_mut_slice().into(), &Tag::from(tag))
            .ok()?;
        Some(sealed)
    }

    /// Appends so many bytes to `to`.
    pub(super) fn read(&mut self, bytes: usize, to: &mut Vec<u8>) -> Result<(), BackupError> {
        let mut left = bytes;
        while left > 0 {
            let open = self.plain.get(self.given..).unwrap_or_default();
            if open.is_empty() {
                if self.is_over {
                    return Err(self.nonsense("its last record is cut off"));
                }
                self.next_chunk()?;
                continue;
            }
            let some = open.get(..left.min(open.len())).unwrap_or_default();
            to.extend_from_slice(some);
            self.given += some.len();
            left -= some.len();
        }
        Ok(())
    }

    /// Refuses what stands behind the last record.
    pub(super) fn end(&mut self) -> Result<(), BackupError> {
        if self.is_over && self.given == self.plain.len() {
            Ok(())
        } else {
            Err(self.nonsense("something stands behind its last record"))
        }
    }

    pub(super) fn nonsense(&self, reason: impl Into<String>) -> BackupError {
        BackupError::Content {
            offset: self.offset,
            reason: reason.into(),
        }
    }
}
