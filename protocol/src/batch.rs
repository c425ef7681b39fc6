//! Signed batches: items, their Merkle root, the agent's signature, and bounded decompression.

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::frame::{Frame, Lane};
use crate::ids::SourceId;
use crate::limits;
use crate::wire::v1::{BatchHeader, CODEC_BATCH, Content, Epoch, Lost, SCHEMA, kind};

const SIGNED: &[u8] = b"zero-x batch 1";
const SIGNATURE_BYTES: usize = 64;

/// Bytes before an item that say how long it is.
const LENGTH_BYTES: usize = 4;

/// Compression level: level 3 makes the wire no smaller and costs a third more CPU.
const ZSTD_LEVEL: i32 = 1;

/// Signs with the key of an agent's certificate.
pub trait Signer {
    /// Returns the ECDSA P-256 SHA-256 signature of `message`, r ‖ s.
    ///
    /// # Errors
    ///
    /// When the key cannot sign.
    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], BatchError>;
}

/// Says why bytes are not a batch, or a batch could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The layout is broken.
    #[error("the batch is malformed: {0}")]
    Malformed(&'static str),
    /// The header is not what its version says.
    #[error("the batch header cannot be read")]
    Header(#[source] postcard::Error),
    /// The signature is not by the agent's key.
    #[error("the batch is not signed by this agent's key")]
    Signature,
    /// The items do not have the signed Merkle root.
    #[error("the items do not match the signed root")]
    Root,
    /// The payload would exceed a bound when decompressed.
    #[error("{bytes} compressed bytes would become {announced}: over the limit")]
    Bomb {
        /// Compressed size.
        bytes: usize,
        /// Announced size.
        announced: u32,
    },
    /// The payload is not zstd.
    #[error("the payload cannot be decompressed")]
    Zstd(#[source] std::io::Error),
    /// The agent's key could not sign.
    #[error("the agent's key cannot sign")]
    Sign,
    /// More items or bytes than a batch may hold.
    #[error("a batch of {items} items and {bytes} bytes is too large")]
    TooLarge {
        /// Items.
        items: usize,
        /// Bytes before compression.
        bytes: usize,
    },
}

/// A batch with its signature, not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBatch {
    /// What the agent signed.
    pub header: BatchHeader,
    /// The header's bytes as they were signed.
    pub header_bytes: Vec<u8>,
    /// ECDSA P-256, r ‖ s.
    pub signature: [u8; SIGNATURE_BYTES],
    /// zstd of the items.
    pub payload: Vec<u8>,
}

/// A batch whose signature and root have been checked, with its items cut apart.
#[derive(Debug, Clone)]
pub struct VerifiedBatch {
    sealed: SealedBatch,
    items: Items,
}

/// Items of a batch, cut apart but not decoded.
#[derive(Debug, Clone)]
pub struct Items {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Items {
    /// Iterates over the bytes of each item.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let cut = self.ends.iter().zip(starts);
        cut.map(|(&end, start)| {
            self.bytes
                .get(start + LENGTH_BYTES..end)
                .unwrap_or_default()
        })
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Writes behind what a list of bytes holds.
struct Behind<'b>(&'b mut Vec<u8>);

impl Extend<u8> for Behind<'_> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.0.extend(bytes);
    }
}

/// Collects items until a batch is full.
#[derive(Debug, Clone, Default)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    leaves: Vec<[u8; 32]>,
}

/// Where a batch belongs: everything that its builder does not know.
#[derive(Debug, Clone)]
pub struct Place {
    /// Lane.
    pub lane: Lane,
    /// Spool epoch.
    pub epoch: Epoch,
    /// Sequence of the first item.
    pub first_seq: u64,
    /// The source of all items.
    pub source: SourceId,
    /// The agent's clock, milliseconds since 1970 UTC.
    pub made_at_ms: i64,
}

impl BatchBuilder {
    /// Appends an item, postcard-encoded.
    ///
    /// # Errors
    ///
    /// [`BatchError::TooLarge`] when the batch, with this item, would exceed a bound; the item
    /// was not added.
    pub fn push<T: Serialize>(&mut self, item: &T) -> Result<(), BatchError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        let encoded = postcard::to_extend(item, Behind(&mut self.bytes)).map(drop);
        let added = encoded
            .map_err(BatchError::Header)
            .and_then(|()| self.add(start));
        if added.is_err() {
            self.bytes.truncate(start);
        }
        added
    }

    /// Makes an item of the bytes behind `start`, whose first four are for its length.
    fn add(&mut self, start: usize) -> Result<(), BatchError> {
        if self.leaves.len() >= limits::BATCH_ITEMS || self.bytes.len() > limits::PAYLOAD_BYTES {
            return Err(BatchError::TooLarge {
                items: self.leaves.len() + 1,
                bytes: self.bytes.len(),
            });
        }
        let item = self.bytes.get_mut(start..).unwrap_or_default();
        let (head, encoded) = item.split_at_mut(LENGTH_BYTES);
        let length = u32::try_from(encoded.len()).expect("bounded by PAYLOAD_BYTES above");
        head.copy_from_slice(&length.to_le_bytes());
        self.leaves.push(leaf(encoded));
        Ok(())
    }

    /// Appends an item that is already encoded.
    ///
    /// # Errors
    ///
    /// As [`BatchBuilder::push`].
    pub fn push_bytes(&mut self, encoded: &[u8]) -> Result<(), BatchError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        self.bytes.extend_from_slice(encoded);
        let added = self.add(start);
        if added.is_err() {
            self.bytes.truncate(start);
        }
        added
    }

    /// Appends the items of another batch, if one that is not full has room for them; returns
    /// them otherwise.
    ///
    /// # Errors
    ///
    /// The other batch, when there is no room.
    pub fn append(&mut self, other: Self) -> Result<(), Self> {
        let bytes = self.bytes.len() + other.bytes.len();
        let items = self.leaves.len() + other.leaves.len();
        if bytes > limits::BATCH_TARGET_BYTES || items > limits::BATCH_ITEMS {
            return Err(other);
        }
        self.bytes.extend_from_slice(&other.bytes);
        self.leaves.extend_from_slice(&other.leaves);
        Ok(())
    }

    /// Iterates over the bytes of each item.
    pub fn items(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (item, behind) = behind.split_at_checked(length)?;
            rest = behind;
            Some(item)
        })
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Returns whether no item was added.
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// Returns whether the batch should be closed before the next item.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= limits::BATCH_TARGET_BYTES || self.leaves.len() >= limits::BATCH_ITEMS
    }

    /// Compresses the items without signing them; returns what [`open_payload`] takes: the
    /// payload and its size before compression.
    ///
    /// # Errors
    ///
    /// When zstd fails.
    pub fn compress(&self) -> Result<(Vec<u8>, u32), BatchError> {
        let mut compressed =
            zstd::bulk::compress(&self.bytes, ZSTD_LEVEL).map_err(BatchError::Zstd)?;
        pad_to_ratio(&mut compressed, self.bytes.len());
        let bytes = u32::try_from(self.bytes.len()).expect("bounded by PAYLOAD_BYTES");
        Ok((compressed, bytes))
    }

    /// Compresses and signs the batch and returns it as a frame, ready for spool and wire.
    ///
    /// # Errors
    ///
    /// When there is no item, the key cannot sign, or the compressed batch exceeds a frame (the
    /// caller then splits it).
    pub fn seal(
        &self,
        place: &Place,
        signer: &dyn Signer,
    ) -> Result<(BatchHeader, Vec<u8>), BatchError> {
        if self.is_empty() {
            return Err(BatchError::Malformed("no items"));
        }
        let count = u32::try_from(self.leaves.len()).expect("bounded by BATCH_ITEMS");
        self.seal_as(place, count, Content::Items, signer)
    }

    fn seal_as(
        &self,
        place: &Place,
        count: u32,
        content: Content,
        signer: &dyn Signer,
    ) -> Result<(BatchHeader, Vec<u8>), BatchError> {
        let too_large = BatchError::TooLarge {
            items: self.leaves.len(),
            bytes: self.bytes.len(),
        };
        let header = BatchHeader {
            lane: place.lane.number(),
            epoch: place.epoch,
            first_seq: place.first_seq,
            count,
            content,
            root: merkle_root(&self.leaves),
            payload_bytes: u32::try_from(self.bytes.len()).expect("bounded by PAYLOAD_BYTES"),
            source: place.source,
            made_at_ms: place.made_at_ms,
        };
        let (compressed, _) = self.compress()?;
        let header_bytes = postcard::to_stdvec(&header).map_err(BatchError::Header)?;
        let signature = signer.sign(&signed_message(&header_bytes))?;
        let length = u16::try_from(header_bytes.len()).expect("a header takes some hundred bytes");
        let mut payload =
            Vec::with_capacity(2 + header_bytes.len() + SIGNATURE_BYTES + compressed.len());
        payload.extend_from_slice(&length.to_le_bytes());
        payload.extend_from_slice(&header_bytes);
        payload.extend_from_slice(&signature);
        payload.extend_from_slice(&compressed);
        if payload.len() > limits::FRAME_BYTES {
            return Err(too_large);
        }
        let frame = Frame {
            schema: SCHEMA,
            lane: place.lane,
            kind: kind::BATCH,
            codec: CODEC_BATCH,
            payload,
        };
        Ok((header, frame.encode()))
    }
}

/// Makes a batch in place of `count` items that can no longer be sent; returns it as a frame.
///
/// # Errors
///
/// When `count` is 0 or the key cannot sign.
pub fn seal_lost(
    place: &Place,
    count: u32,
    lost: &Lost,
    signer: &dyn Signer,
) -> Result<(BatchHeader, Vec<u8>), BatchError> {
    if count == 0 {
        return Err(BatchError::Malformed("no items"));
    }
    let mut builder = BatchBuilder::default();
    builder.push(lost)?;
    builder.seal_as(place, count, Content::Lost, signer)
}

/// Appends a skippable frame (RFC 8878 section 3.1.2) when honest items compress so well that
/// [`open_payload`] would take them for a bomb: thousands of `Gone` under one long name do.
fn pad_to_ratio(compressed: &mut Vec<u8>, bytes: usize) {
    const SKIPPABLE: u32 = 0x184D_2A50;
    const HEAD_BYTES: usize = 8;
    let want = bytes.div_ceil(limits::PAYLOAD_RATIO);
    if bytes <= limits::RATIO_FREE_BYTES || want <= compressed.len() {
        return;
    }
    let body = want.saturating_sub(compressed.len() + HEAD_BYTES);
    let length = u32::try_from(body).expect("bounded by PAYLOAD_BYTES / PAYLOAD_RATIO");
    compressed.extend_from_slice(&SKIPPABLE.to_le_bytes());
    compressed.extend_from_slice(&length.to_le_bytes());
    compressed.resize(compressed.len() + body, 0);
}

fn signed_message(header_bytes: &[u8]) -> Vec<u8> {
    [SIGNED, header_bytes].concat()
}

fn leaf(item: &[u8]) -> [u8; 32] {
    sha256(&[&[0], item])
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Returns the Merkle tree hash of RFC 6962 section 2.1 over SHA-256: leaves are `H(0 ‖ item)`,
/// nodes `H(1 ‖ left ‖ right)`, and an odd last node moves up unchanged. Of nothing it is zeros.
///
/// Items are short, and processors have instructions for SHA-256: it takes half the time of
/// BLAKE3 here, and verifiers of certificate transparency know the tree.
pub fn merkle_root(leaves: &[[u8; 32]]) -> [u8; 32] {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => sha256(&[&[1], left, right]),
                [single] => *single,
                _ => unreachable!("chunks of two"),
            })
            .collect();
    }
    level.first().copied().unwrap_or_default()
}

/// Cuts a compressed payload of `payload_bytes` into its items, within every bound.
///
/// # Errors
///
/// When the payload is a bomb, is not zstd, or is not a run of length-prefixed items.
pub fn open_payload(payload: &[u8], payload_bytes: u32) -> Result<Items, BatchError> {
    let size = announced(payload, payload_bytes)?;
    let bytes = zstd::bulk::decompress(payload, size).map_err(BatchError::Zstd)?;
    cut(bytes, size)
}

/// Returns the size that a payload will have when it is decompressed, which is within the bounds.
fn announced(payload: &[u8], payload_bytes: u32) -> Result<usize, BatchError> {
    let size = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
    let ratio_bound = payload.len().saturating_mul(limits::PAYLOAD_RATIO);
    let is_bomb =
        size > limits::PAYLOAD_BYTES || (size > limits::RATIO_FREE_BYTES && size > ratio_bound);
    if is_bomb {
        return Err(BatchError::Bomb {
            bytes: payload.len(),
            announced: payload_bytes,
        });
    }
    Ok(size)
}

/// Cuts a decompressed payload into its items.
fn cut(bytes: Vec<u8>, size: usize) -> Result<Items, BatchError> {
    if bytes.len() != size {
        return Err(BatchError::Malformed(
            "the payload has another size than announced",
        ));
    }
    let mut ends = Vec::new();
    let mut at = 0usize;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else {
            return Err(BatchError::Malformed("an item's length is cut off"));
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(BatchError::Malformed("an item is cut off"));
        }
        if ends.len() >= limits::BATCH_ITEMS {
            return Err(BatchError::TooLarge {
                items: ends.len() + 1,
                bytes: bytes.len(),
            });
        }
        at += 4 + length;
        ends.push(at);
    }
    Ok(Items { bytes, ends })
}

impl SealedBatch {
    /// Takes a batch frame apart, without checking signature or items.
    ///
    /// # Errors
    ///
    /// When the layout is broken, the header contradicts the frame, or it announces more than a
    /// batch may hold.
    pub fn parse(frame: &Frame) -> Result<Self, BatchError> {
        if frame.codec != CODEC_BATCH {
            return Err(BatchError::Malformed("a batch has codec 1"));
        }
        let cut = || BatchError::Malformed("the batch is cut off");
        let (length, rest) = frame.payload.split_first_chunk::<2>().ok_or_else(cut)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let (header_bytes, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        let (signature, payload) = rest
            .split_first_chunk::<SIGNATURE_BYTES>()
            .ok_or_else(cut)?;
        let header: BatchHeader = match postcard::take_from_bytes(header_bytes) {
            Ok((header, [])) => header,
            Ok(_) => return Err(BatchError::Malformed("bytes behind the header")),
            Err(source) => return Err(BatchError::Header(source)),
        };
        if header.lane != frame.lane.number() {
            return Err(BatchError::Malformed("the header names another lane"));
        }
        if header.count == 0 || header.first_seq == 0 || header.last_seq() < header.first_seq {
            return Err(BatchError::Malformed(
                "sequences start at 1 and a batch has items",
            ));
        }
        let bytes = announced(payload, header.payload_bytes)?;
        let items = usize::try_from(header.count).unwrap_or(usize::MAX);
        if header.content == Content::Items && items > limits::BATCH_ITEMS {
            return Err(BatchError::TooLarge { items, bytes });
        }
        Ok(Self {
            header,
            header_bytes: header_bytes.to_vec(),
            signature: *signature,
            payload: payload.to_vec(),
        })
    }

    /// Returns how many bytes it takes in memory once it is verified.
    pub fn held_bytes(&self) -> usize {
        let items = usize::try_from(self.header.payload_bytes).unwrap_or(usize::MAX);
        items.saturating_add(self.payload.len())
    }

    /// Checks the signature with the agent's public key (uncompressed P-256 point, 65 bytes),
    /// decompresses, and checks the root.
    ///
    /// # Errors
    ///
    /// When any of that fails.
    pub fn verify(self, public_key: &[u8]) -> Result<VerifiedBatch, BatchError> {
        let message = signed_message(&self.header_bytes);
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
            .verify(&message, &self.signature)
            .map_err(|_| BatchError::Signature)?;
        let items = open_payload(&self.payload, self.header.payload_bytes)?;
        let leaves: Vec<[u8; 32]> = items.iter().map(leaf).collect();
        let count = match self.header.content {
            Content::Items => usize::try_from(self.header.count).unwrap_or(usize::MAX),
            Content::Lost => 1,
        };
        if leaves.len() != count || merkle_root(&leaves) != self.header.root {
            return Err(BatchError::Root);
        }
        Ok(VerifiedBatch {
            sealed: self,
            items,
        })
    }
}

impl VerifiedBatch {
    /// Returns what the agent signed.
    pub fn header(&self) -> &BatchHeader {
        &self.sealed.header
    }

    /// Returns the signed header's bytes and the signature: the evidence that the hub keeps.
    pub fn proof(&self) -> (&[u8], &[u8; SIGNATURE_BYTES]) {
        (&self.sealed.header_bytes, &self.sealed.signature)
    }

    /// Returns the payload as the agent compressed it.
    pub fn payload(&self) -> &[u8] {
        &self.sealed.payload
    }

    /// Returns the items, cut apart.
    pub fn items(&self) -> &Items {
        &self.items
    }

    /// Decodes every item on its own: one that cannot be read does not spoil the others.
    pub fn decode<T: DeserializeOwned>(&self) -> impl Iterator<Item = Result<T, postcard::Error>> {
        self.items.iter().map(decode_item)
    }
}

/// Decodes one item, which must use all of its bytes.
///
/// # Errors
///
/// When the bytes are not the type's.
pub fn decode_item<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (item, []) => Ok(item),
        (_, _) => Err(postcard::Error::DeserializeBadEncoding),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::frame::Decoder;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    pub(crate) struct TestKey(EcdsaKeyPair);

    impl TestKey {
        pub(crate) fn new() -> Self {
            let rng = SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng);
            let pkcs8 = pkcs8.unwrap();
            let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
            Self(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &rng).unwrap())
        }
        pub(crate) fn public(&self) -> Vec<u8> {
            self.0.public_key().as_ref().to_vec()
        }
    }

    impl Signer for TestKey {
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
            let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
            Ok(signature.as_ref().try_into().unwrap())
        }
    }

    pub(crate) fn place(lane: Lane, first_seq: u64) -> Place {
        Place {
            lane,
            epoch: [9; 16],
            first_seq,
            source: SourceId::from_bytes([3; 16]),
            made_at_ms: 1_700_000_000_000,
        }
    }

    pub(crate) fn sealed(key: &TestKey, place: &Place, items: &[String]) -> (BatchHeader, Vec<u8>) {
        let mut builder = BatchBuilder::default();
        for item in items {
            builder.push(item).unwrap();
        }
        builder.seal(place, key).unwrap()
    }

    fn frame_of(lane: Lane, bytes: &[u8]) -> Frame {
        let mut decoder = Decoder::new(lane);
        decoder.push(bytes);
        decoder.pop().unwrap().unwrap()
    }

    #[test]
    fn a_batch_comes_out_as_it_went_in_and_only_with_its_own_key() {
        let key = TestKey::new();
        let items: Vec<String> = (0..5).map(|n| format!("item {n}")).collect();
        let (header, bytes) = sealed(&key, &place(Lane::Events, 7), &items);
        assert_eq!((header.first_seq, header.last_seq()), (7, 11));
        let batch = SealedBatch::parse(&frame_of(Lane::Events, &bytes)).unwrap();
        let verified = batch.clone().verify(&key.public()).unwrap();
        let read: Vec<String> = verified.decode().map(Result::unwrap).collect();
        assert_eq!(read, items);
        let stranger = TestKey::new().public();
        assert!(matches!(
            batch.verify(&stranger),
            Err(BatchError::Signature)
        ));
    }

    #[test]
    fn what_is_lost_takes_its_sequences_and_says_why() {
        let key = TestKey::new();
        let lost = Lost {
            reason: crate::wire::v1::LostReason::SpoolFull,
            from_ms: 1,
            to_ms: 2,
            unsequenced: 3,
        };
        let at = place(Lane::Events, 7);
        let (header, bytes) = seal_lost(&at, 100_000, &lost, &key).unwrap();
        assert_eq!((header.first_seq, header.last_seq()), (7, 100_006));
        let sealed = SealedBatch::parse(&frame_of(Lane::Events, &bytes)).unwrap();
        let verified = sealed.clone().verify(&key.public()).unwrap();
        let told: Vec<Lost> = verified.decode().map(Result::unwrap).collect();
        assert_eq!(told, std::slice::from_ref(&lost));
        let other = sealed.verify(&TestKey::new().public());
        assert!(matches!(other, Err(BatchError::Signature)));
        assert!(seal_lost(&at, 0, &lost, &key).is_err());

        // A header of items cannot stand over fewer of them.
        let mut builder = BatchBuilder::default();
        builder.push(&lost).unwrap();
        let (_, bytes) = builder.seal_as(&at, 2, Content::Items, &key).unwrap();
        let sealed = SealedBatch::parse(&frame_of(Lane::Events, &bytes)).unwrap();
        assert!(matches!(
            sealed.verify(&key.public()),
            Err(BatchError::Root)
        ));
    }

    #[test]
    fn the_tree_is_that_of_certificate_transparency() {
        // The inputs of RFC 6962's reference implementation and its tree hashes after each.
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let hex = &data_encoding::HEXLOWER;
        let leaves = inputs.map(|input| leaf(&hex.decode(input.as_bytes()).unwrap()));
        for (count, root) in (1..).zip(roots) {
            assert_eq!(hex.encode(&merkle_root(&leaves[..count])), root, "{count}");
        }
    }

    #[test]
    fn swapped_items_do_not_match_the_signed_root() {
        let key = TestKey::new();
        let place = place(Lane::Events, 1);
        let (_, bytes) = sealed(&key, &place, &["a".into(), "b".into()]);
        let (_, other) = sealed(&key, &place, &["b".into(), "a".into()]);
        let mut batch = SealedBatch::parse(&frame_of(Lane::Events, &bytes)).unwrap();
        batch.payload = SealedBatch::parse(&frame_of(Lane::Events, &other))
            .unwrap()
            .payload;
        assert!(matches!(batch.verify(&key.public()), Err(BatchError::Root)));
    }

    #[test]
    fn honest_items_that_compress_too_well_are_not_taken_for_a_bomb() {
        let key = TestKey::new();
        for count in [3_000, 9_000] {
            let items = vec!["the same name again and again ".repeat(4); count];
            let (_, bytes) = sealed(&key, &place(Lane::Inventory, 1), &items);
            let batch = SealedBatch::parse(&frame_of(Lane::Inventory, &bytes)).unwrap();
            let verified = batch.verify(&key.public()).unwrap();
            assert_eq!(verified.items().len(), count);
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_decompressed() {
        let zeros = zstd::bulk::compress(&vec![0u8; 4 << 20], 1).unwrap();
        assert!(zeros.len() * limits::PAYLOAD_RATIO < 4 << 20);
        assert!(matches!(
            open_payload(&zeros, 4 << 20),
            Err(BatchError::Bomb { .. })
        ));
        assert!(matches!(
            open_payload(&zeros, 64 << 20),
            Err(BatchError::Bomb { .. })
        ));
        assert!(matches!(
            open_payload(&zeros, 1000),
            Err(BatchError::Zstd(_))
        ));
    }

    #[test]
    fn a_batch_that_announces_too_much_does_not_wait_for_its_turn() {
        let key = TestKey::new();
        let place = place(Lane::Events, 1);
        let (_, bytes) = sealed(&key, &place, &["a".into()]);
        let batch = SealedBatch::parse(&frame_of(Lane::Events, &bytes)).unwrap();
        let parsed = |change: &dyn Fn(&mut BatchHeader)| {
            let mut header = batch.header.clone();
            change(&mut header);
            let header = postcard::to_stdvec(&header).unwrap();
            let length = u16::try_from(header.len()).unwrap().to_le_bytes();
            SealedBatch::parse(&Frame {
                schema: SCHEMA,
                lane: Lane::Events,
                kind: kind::BATCH,
                codec: CODEC_BATCH,
                payload: [&length[..], &header, &batch.signature, &batch.payload].concat(),
            })
        };
        assert_eq!(parsed(&|_| {}).unwrap(), batch);
        let bomb = parsed(&|header| header.payload_bytes = 4 << 20);
        assert!(matches!(bomb, Err(BatchError::Bomb { .. })), "{bomb:?}");
        let items = u32::try_from(limits::BATCH_ITEMS).unwrap() + 1;
        let many = parsed(&|header| header.count = items);
        assert!(matches!(many, Err(BatchError::TooLarge { .. })), "{many:?}");
        let gone = parsed(&|header| (header.count, header.content) = (items, Content::Lost));
        assert!(gone.is_ok(), "so many may be lost: {gone:?}");
    }

    #[test]
    fn an_honest_batch_of_equal_items_is_not_taken_for_a_bomb() {
        let key = TestKey::new();
        let mut builder = BatchBuilder::default();
        while !builder.is_full() {
            builder.push(&"x".repeat(1000)).unwrap();
        }
        let (_, bytes) = builder.seal(&place(Lane::Events, 1), &key).unwrap();
        let batch = SealedBatch::parse(&frame_of(Lane::Events, &bytes)).unwrap();
        assert!(batch.verify(&key.public()).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let frame = Frame {
                schema: SCHEMA, lane: Lane::Events, kind: kind::BATCH, codec: CODEC_BATCH,
                payload: bytes.clone(),
            };
            let _ = SealedBatch::parse(&frame);
            let _ = open_payload(&bytes, 300);
        }
    }
}
