//! The body of a volume: sealed chunks of records, and the agent's signature.
//!
//! ```text
//! chunk      size  field
//!               4  length n of the ciphertext with its tag of 16, little-endian
//!               1  1 for the last chunk, else 0
//!               n  AES-256-GCM by the HPKE context (RFC 9180, base mode, DHKEM(X25519,
//!                  HKDF-SHA256), HKDF-SHA256), message number = chunk number; additional data:
//!                  header ‖ chunk number (8, little-endian) ‖ the byte above
//! signature    64  ECDSA P-256 (r ‖ s) over "zero-x bundle volume 1" ‖ digest
//! ```
//! The digest is BLAKE3 in its mode of deriving keys, context "zero-x bundle volume 1", of the
//! header and the BLAKE3 hash of every chunk as it stands in the file. A chunk holds whole
//! records:
//!
//! ```text
//! record     size  field
//!               1  kind: 1 frame of the spool, 2 notice, 3 request for a certificate; others are
//!                  skipped
//!               4  length n, little-endian
//!               n  body
//! ```

use hpke::aead::{AeadCtxR, AeadCtxS, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender_with_rng,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::header::{Digest, Header, Parsed};
use super::{
    BundleError, HubKey, HubSecret, Kind, PRELUDE_BYTES, SIGNATURE_BYTES, begins, read_prelude,
};
use crate::batch::Signer;
use crate::limits;

const CONTEXT: &str = "zero-x bundle volume 1";
const SEALED: &[u8] = b"zero-x bundle 1";
const CHUNK_HEAD_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
const RECORD_HEAD_BYTES: usize = 5;

/// Kinds of records.
pub mod record_kind {
    /// A frame as the spool holds it.
    pub const FRAME: u8 = 1;
    /// A [`super::Notice`].
    pub const NOTICE: u8 = 2;
    /// A PKCS #10 request for the next certificate of the agent's key, DER.
    pub const RENEWAL: u8 = 3;
}

/// What an agent says about itself, once in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its program version, for display.
    pub agent_version: String,
    /// Bytes that wait in its spool.
    pub spool_bytes: u64,
    /// When the oldest waiting batch was made, milliseconds since 1970 UTC; 0 when none waits.
    pub oldest_ms: i64,
    /// The key that replies are to be sealed with.
    pub reply_key: [u8; 32],
}

/// One record of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A frame as the spool held it; neither it nor what it carries has been looked at.
    Frame(Vec<u8>),
    /// What the agent says about itself.
    Notice(Notice),
    /// The request for its next certificate, once in a bundle; it has not been looked at.
    Renewal(Vec<u8>),
}

type Sending = AeadCtxS<AesGcm256, HkdfSha256, X25519HkdfSha256>;
type Receiving = AeadCtxR<AesGcm256, HkdfSha256, X25519HkdfSha256>;

/// The randomness of one volume, stretched: HPKE asks a generator, and a core has none.
struct Stretched(blake3::OutputReader);

impl TryRng for Stretched {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(dst);
        Ok(())
    }
}

impl TryCryptoRng for Stretched {}

fn additional(header: &[u8], chunk: u64, last: u8) -> Vec<u8> {
    [header, &chunk.to_le_bytes(), &[last]].concat()
}

fn signed_message(digest: &Digest) -> Vec<u8> {
    [CONTEXT.as_bytes(), digest].concat()
}

/// Writes one volume. The bytes that its methods append to `out` are the file, in order.
pub struct VolumeWriter {
    header: Vec<u8>,
    context: Sending,
    digest: blake3::Hasher,
    plain: Vec<u8>,
    chunk: u64,
}

impl std::fmt::Debug for VolumeWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeWriter")
            .field("chunk", &self.chunk)
            .finish_non_exhaustive()
    }
}

impl VolumeWriter {
    /// Begins a volume that is sealed to `hub`. `seed` is random and used once.
    ///
    /// # Errors
    ///
    /// When the header is too large or the key is not one.
    pub fn begin(
        header: &Header,
        hub: &HubKey,
        seed: &[u8; 32],
        out: &mut Vec<u8>,
    ) -> Result<Self, BundleError> {
        let (head, tail) = header.fixed(hub)?;
        // Bound to the header: with one seed twice, two volumes would still have two keys.
        let mut stretched = blake3::Hasher::new_keyed(seed);
        stretched.update(&head).update(&tail);
        let (encapsulated, context) =
            setup_sender_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &hub.key()?,
                SEALED,
                &mut Stretched(stretched.finalize_xof()),
            )
            .map_err(|_| BundleError::Key)?;
        let header = Header::encode(&head, &encapsulated.to_bytes().into(), &tail)?;
        out.extend_from_slice(&header);
        let mut digest = blake3::Hasher::new_derive_key(CONTEXT);
        digest.update(&header);
        Ok(Self {
            header,
            context,
            digest,
            plain: Vec::new(),
            chunk: 0,
        })
    }

    /// Appends a frame of the spool.
    ///
    /// # Errors
    ///
    /// When it is larger than a frame can be.
    pub fn frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), BundleError> {
        self.record(record_kind::FRAME, frame, out)
    }

    /// Appends what the agent says about itself.
    ///
    /// # Errors
    ///
    /// When it is larger than a chunk.
    pub fn notice(&mut self, notice: &Notice, out: &mut Vec<u8>) -> Result<(), BundleError> {
        let body = postcard::to_stdvec(notice).expect("plain structs always serialise");
        self.record(record_kind::NOTICE, &body, out)
    }

    /// Appends the request for the agent's next certificate (PKCS #10, DER).
    ///
    /// # Errors
    ///
    /// When it is larger than a chunk.
    pub fn renewal(&mut self, csr: &[u8], out: &mut Vec<u8>) -> Result<(), BundleError> {
        self.record(record_kind::RENEWAL, csr, out)
    }

    fn record(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), BundleError> {
        let large = BundleError::TooLarge {
            what: "a record",
            bound: limits::BUNDLE_CHUNK_BYTES,
        };
        let record_bytes = RECORD_HEAD_BYTES + body.len();
        if record_bytes > limits::BUNDLE_CHUNK_BYTES {
            return Err(large);
        }
        if self.plain.len() + record_bytes > limits::BUNDLE_CHUNK_BYTES {
            self.seal(0, out)?;
        }
        let length = u32::try_from(body.len()).map_err(|_| large)?;
        self.plain.push(kind);
        self.plain.extend_from_slice(&length.to_le_bytes());
        self.plain.extend_from_slice(body);
        Ok(())
    }

    fn seal(&mut self, last: u8, out: &mut Vec<u8>) -> Result<(), BundleError> {
        let chunk = self.chunk;
        let sealed = self
            .context
            .seal(&self.plain, &additional(&self.header, chunk, last))
            .map_err(|_| BundleError::Chunk { chunk })?;
        let length = u32::try_from(sealed.len()).expect("bounded by BUNDLE_CHUNK_BYTES");
        let start = out.len();
        out.extend_from_slice(&length.to_le_bytes());
        out.push(last);
        out.extend_from_slice(&sealed);
        let written = out.get(start..).unwrap_or_default();
        self.digest.update(blake3::hash(written).as_bytes());
        self.plain.clear();
        self.chunk += 1;
        Ok(())
    }

    /// Ends the volume and returns its digest.
    ///
    /// # Errors
    ///
    /// When the key cannot sign.
    pub fn finish(mut self, signer: &dyn Signer, out: &mut Vec<u8>) -> Result<Digest, BundleError> {
        self.seal(1, out)?;
        let digest = *self.digest.finalize().as_bytes();
        let signature = signer
            .sign(&signed_message(&digest))
            .map_err(BundleError::Sign)?;
        out.extend_from_slice(&signature);
        Ok(digest)
    }
}

/// Says how many of `frames`, given by their lengths in order, go into each volume of at most
/// `volume_bytes`. There is always a volume, and a frame is never cut.
pub fn plan(frames: impl IntoIterator<Item = usize>, volume_bytes: u64) -> Vec<usize> {
    let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    // A notice and a request have their place in the header's share.
    let begun = wide(PRELUDE_BYTES + limits::BUNDLE_HEADER_BYTES + SIGNATURE_BYTES);
    let per_chunk = wide(CHUNK_HEAD_BYTES + TAG_BYTES);
    let mut volumes = Vec::new();
    let (mut count, mut bytes, mut chunk) = (0usize, begun + per_chunk, 0usize);
    for frame in frames {
        let record = RECORD_HEAD_BYTES + frame;
        let opens = chunk + record > limits::BUNDLE_CHUNK_BYTES;
        let cost = wide(record) + if opens { per_chunk } else { 0 };
        if count > 0 && bytes + cost > volume_bytes {
            volumes.push(count);
            (count, bytes, chunk) = (0, begun + per_chunk, 0);
        }
        chunk = if chunk + record > limits::BUNDLE_CHUNK_BYTES {
            record
        } else {
            chunk + record
        };
        count += 1;
        bytes += cost;
    }
    volumes.push(count);
    volumes
}

/// What was read of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Its header, with nothing checked but the layout.
    Header(Box<Header>),
    /// The records of one chunk; none when the volume is read without the hub's key.
    Records(Vec<Record>),
    /// Its end: the signature is by the key that was given.
    End(Digest),
}

enum State {
    Prelude,
    Header { bytes: usize },
    Chunk,
    Signature,
    End,
}

/// Reads one volume from its bytes as they come. Holds at most a chunk of them.
pub struct VolumeReader<'k> {
    secret: Option<&'k HubSecret>,
    public_key: Option<Vec<u8>>,
    context: Option<Receiving>,
    header: Vec<u8>,
    digest: blake3::Hasher,
    chunk: u64,
    state: State,
    pending: Vec<u8>,
    read: usize,
}

impl std::fmt::Debug for VolumeReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VolumeReader")
            .field("chunk", &self.chunk)
            .finish_non_exhaustive()
    }
}

impl<'k> VolumeReader<'k> {
    /// Makes a reader. Without the hub's key chunks stay closed, and only that the volume is whole
    /// and signed is checked.
    pub fn new(secret: Option<&'k HubSecret>) -> Self {
        Self {
            secret,
            public_key: None,
            context: None,
            header: Vec::new(),
            digest: blake3::Hasher::new_derive_key(CONTEXT),
            chunk: 0,
            state: State::Prelude,
            pending: Vec::new(),
            read: 0,
        }
    }

    /// Says whose signature is expected: the public key of the header's leaf, an uncompressed
    /// P-256 point. Must be called between [`Piece::Header`] and [`Piece::End`].
    pub fn expect_signer(&mut self, public_key: Vec<u8>) {
        self.public_key = Some(public_key);
    }

    /// Appends bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.read);
        self.read = 0;
        self.pending.extend_from_slice(bytes);
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let bytes = self.pending.get(self.read..self.read + length)?.to_vec();
        self.read += length;
        Some(bytes)
    }

    /// Returns the next piece; `None` when more bytes are needed, or none are to come.
    ///
    /// # Errors
    ///
    /// When the bytes are no volume for this hub; the reader must not be used any more.
    pub fn pop(&mut self) -> Result<Option<Piece>, BundleError> {
        if let State::Prelude = self.state {
            let rest = self.pending.get(self.read..).unwrap_or_default();
            let Some(prelude) = rest.first_chunk::<PRELUDE_BYTES>() else {
                return Ok(None);
            };
            let (found, bytes) = read_prelude(prelude)?;
            if found != Kind::Volume {
                let wanted = Kind::Volume;
                return Err(BundleError::Kind { found, wanted });
            }
            if bytes > limits::BUNDLE_HEADER_BYTES {
                return Err(BundleError::Header("it is longer than any header"));
            }
            self.state = State::Header { bytes };
        }
        if let State::Header { bytes } = self.state {
            let Some(header) = self.take(PRELUDE_BYTES + bytes) else {
                return Ok(None);
            };
            return self.header(header).map(Some);
        }
        match self.state {
            State::Chunk => self.chunk(),
            State::Signature => self.signature(),
            State::End if self.read < self.pending.len() => Err(BundleError::Trailing),
            State::Prelude | State::Header { .. } | State::End => Ok(None),
        }
    }

    fn header(&mut self, bytes: Vec<u8>) -> Result<Piece, BundleError> {
        let parsed = Header::parse(bytes.get(PRELUDE_BYTES..).unwrap_or_default())?;
        let Parsed {
            header,
            key_id,
            encapsulated,
        } = parsed;
        if let Some(secret) = self.secret {
            if key_id != secret.public().id() {
                return Err(BundleError::OtherHub);
            }
            let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&encapsulated)
                .map_err(|_| BundleError::Header("its key is not a key"))?;
            let context = setup_receiver(&OpModeR::Base, &secret.secret, &encapsulated, SEALED)
                .map_err(|_| BundleError::Header("its key is not a key"))?;
            self.context = Some(context);
        }
        self.digest.update(&bytes);
        self.header = bytes;
        self.state = State::Chunk;
        Ok(Piece::Header(Box::new(header)))
    }

    fn chunk(&mut self) -> Result<Option<Piece>, BundleError> {
        let chunk = self.chunk;
        let damaged = BundleError::Chunk { chunk };
        let rest = self.pending.get(self.read..).unwrap_or_default();
        let Some(&[l0, l1, l2, l3, last]) = rest.first_chunk::<CHUNK_HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let fits = (TAG_BYTES..=limits::BUNDLE_CHUNK_BYTES + TAG_BYTES).contains(&length);
        if !fits || last > 1 {
            return Err(damaged);
        }
        let Some(whole) = self.take(CHUNK_HEAD_BYTES + length) else {
            return Ok(None);
        };
        self.digest.update(blake3::hash(&whole).as_bytes());
        self.chunk += 1;
        if last == 1 {
            self.state = State::Signature;
        }
        let records = match &mut self.context {
            None => Vec::new(),
            Some(context) => {
                let sealed = whole.get(CHUNK_HEAD_BYTES..).unwrap_or_default();
                let plain = context.open(sealed, &additional(&self.header, chunk, last));
                records(&plain.map_err(|_| damaged)?)?
            }
        };
        Ok(Some(Piece::Records(records)))
    }

    fn signature(&mut self) -> Result<Option<Piece>, BundleError> {
        let Some(signature) = self.take(SIGNATURE_BYTES) else {
            return Ok(None);
        };
        let digest = *self.digest.finalize().as_bytes();
        let public_key = self.public_key.as_ref().ok_or(BundleError::Signature)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
            .verify(&signed_message(&digest), &signature)
            .map_err(|_| BundleError::Signature)?;
        self.state = State::End;
        Ok(Some(Piece::End(digest)))
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    ///
    /// [`BundleError::Cut`] when the volume has not come to its end, [`BundleError::Trailing`]
    /// when something follows it.
    pub fn finish(self) -> Result<(), BundleError> {
        match self.state {
            State::End if self.read < self.pending.len() => Err(BundleError::Trailing),
            State::End => Ok(()),
            State::Prelude if !self.pending.is_empty() && !begins(&self.pending) => {
                Err(BundleError::Magic)
            }
            State::Prelude | State::Header { .. } | State::Chunk | State::Signature => {
                Err(BundleError::Cut)
            }
        }
    }
}

/// Cuts the plain text of a chunk into its records.
fn records(plain: &[u8]) -> Result<Vec<Record>, BundleError> {
    let cut = BundleError::Contents("a record is cut off");
    let mut records = Vec::new();
    let mut rest = plain;
    while let Some((head, behind)) = rest.split_first_chunk::<RECORD_HEAD_BYTES>() {
        let &[kind, l0, l1, l2, l3] = head;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some((body, behind)) = behind.split_at_checked(length) else {
            return Err(cut);
        };
        match kind {
            record_kind::FRAME => records.push(Record::Frame(body.to_vec())),
            record_kind::NOTICE => match postcard::take_from_bytes(body) {
                Ok((notice, [])) => records.push(Record::Notice(notice)),
                Ok(_) | Err(_) => {
                    return Err(BundleError::Contents("the notice cannot be read"));
                }
            },
            record_kind::RENEWAL => records.push(Record::Renewal(body.to_vec())),
            _ => {}
        }
        rest = behind;
    }
    if rest.is_empty() {
        Ok(records)
    } else {
        Err(cut)
    }
}
