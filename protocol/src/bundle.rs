//! Bundles: what an agent without a way to its hub writes to files that are carried over.
//!
//! ```text
//! agent                                                hub
//!   bundle 1, 2, … (volumes of sealed, signed chunks) ─▶ the same door as a session
//!   reply: marks, scopes to send whole, certificate   ◀─
//!   enrolment request (once, before all that)         ─▶
//! ```
//! A volume is sealed to the hub's key (HPKE, RFC 9180), so that who carries it learns whose it is
//! and how large, and nothing else. It is signed by the agent and names the volume before it by
//! its digest, so that a lost, repeated, exchanged, cut or spliced one is noticed. What it holds
//! are the signed batches of the spool, byte for byte.
//!
//! Every file begins with a prelude:
//!
//! ```text
//! offset  size  field
//!      0     8  "ZXBUNDLE"
//!      8     1  format, 1
//!      9     1  kind: 1 volume of a bundle, 2 enrolment request, 3 reply
//!     10     2  zero
//!     12     4  length of what follows as one piece, little-endian: the rest of a volume's
//!               header, or the letter of a request or reply
//! ```
//! `docs/bundle-format.md` is the whole layout, with an example byte by byte.

use std::fmt;

use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};

use crate::batch::BatchError;

mod header;
mod letter;
mod volume;

pub use header::{Digest, Header};
pub use letter::{CarriedRequest, Envelope, Issued, Reply, ReplyKey, SealedReply};
pub use volume::{Notice, Piece, Record, VolumeReader, VolumeWriter, plan, record_kind};

/// Version of the files.
pub const FORMAT: u8 = 1;

/// Length of the prelude, in bytes.
pub const PRELUDE_BYTES: usize = 16;

const MAGIC: &[u8; 8] = b"ZXBUNDLE";

/// Length of a signature: ECDSA P-256 r ‖ s, and Ed25519 alike.
const SIGNATURE_BYTES: usize = 64;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A volume of a bundle.
    Volume = 1,
    /// A request to be enrolled.
    Request = 2,
    /// A hub's reply.
    Reply = 3,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Volume => "a bundle",
            Kind::Request => "an enrolment request",
            Kind::Reply => "a reply",
        })
    }
}

/// Says why a file is not taken, or could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It does not begin as a bundle does.
    #[error("this is no bundle: it does not begin with ZXBUNDLE")]
    Magic,
    /// A newer program wrote it.
    #[error("the file has format {found}; this program knows {FORMAT}")]
    Newer {
        /// The format found.
        found: u8,
    },
    /// It is another kind of file.
    #[error("this is {found}, not {wanted}")]
    Kind {
        /// What it is.
        found: Kind,
        /// What was wanted.
        wanted: Kind,
    },
    /// Its end is missing.
    #[error("the file is cut off")]
    Cut,
    /// Something stands behind its end.
    #[error("there are bytes behind the file's end")]
    Trailing,
    /// Its beginning breaks the layout.
    #[error("the header is damaged: {0}")]
    Header(&'static str),
    /// It is sealed to a key that this hub does not have.
    #[error("the bundle is sealed to another hub's key")]
    OtherHub,
    /// A chunk does not open.
    #[error("chunk {chunk} is damaged or belongs to another place")]
    Chunk {
        /// Its number in the volume, from 0.
        chunk: u64,
    },
    /// What was sealed breaks the layout: its writer is broken or hostile.
    #[error("the contents are malformed: {0}")]
    Contents(&'static str),
    /// The signature is not by the key that it should be by.
    #[error("the signature does not match: the file was changed or is somebody else's")]
    Signature,
    /// Bytes are not a public key for bundles.
    #[error("the hub's key for bundles is not a key")]
    Key,
    /// It would be larger than a bound.
    #[error("{what} would be larger than {bound} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// The agent's key could not sign.
    #[error("the volume could not be signed")]
    Sign(#[source] BatchError),
}

/// Writes a prelude.
fn prelude(kind: Kind, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).expect("bounded far below 4 GiB");
    let mut bytes = Vec::with_capacity(PRELUDE_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[FORMAT, kind as u8, 0, 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes
}

/// Reads a prelude: what the file is, and the length of the piece behind it.
///
/// # Errors
///
/// When the bytes are not a prelude of this format.
pub fn read_prelude(bytes: &[u8; PRELUDE_BYTES]) -> Result<(Kind, usize), BundleError> {
    let [magic @ .., format, kind, z0, z1, l0, l1, l2, l3] = bytes;
    if magic != MAGIC {
        return Err(BundleError::Magic);
    }
    if *format != FORMAT {
        return Err(BundleError::Newer { found: *format });
    }
    let kind = match kind {
        1 => Kind::Volume,
        2 => Kind::Request,
        3 => Kind::Reply,
        _ => return Err(BundleError::Header("its kind is none")),
    };
    if [z0, z1] != [&0, &0] {
        return Err(BundleError::Header("a reserved byte is not zero"));
    }
    let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    Ok((kind, usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Returns whether bytes that are too few for a prelude begin as one.
fn begins(bytes: &[u8]) -> bool {
    bytes.iter().zip(MAGIC).all(|(found, known)| found == known)
}

/// The public key that bundles for a hub are sealed to: X25519.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HubKey([u8; 32]);

impl fmt::Debug for HubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HubKey({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Eight bytes that tell hub keys apart.
type KeyId = [u8; 8];

impl HubKey {
    /// Takes a key's 32 bytes.
    ///
    /// # Errors
    ///
    /// [`BundleError::Key`] when they are not a point that a secret could be shared with.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(bytes);
        let key = key.map_err(|_| BundleError::Key)?;
        Ok(Self(key.to_bytes().into()))
    }

    /// Returns the key's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn id(&self) -> KeyId {
        let digest = blake3::derive_key("zero-x bundle key id 1", &self.0);
        let [a, b, c, d, e, f, g, h, ..] = digest;
        [a, b, c, d, e, f, g, h]
    }

    fn key(&self) -> Result<<X25519HkdfSha256 as Kem>::PublicKey, BundleError> {
        <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| BundleError::Key)
    }
}

/// The hub's secret half. It overwrites itself when it is dropped.
pub struct HubSecret {
    secret: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: HubKey,
}

impl fmt::Debug for HubSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSecret")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl HubSecret {
    /// Derives the pair of 32 random bytes (RFC 9180 section 7.1.3).
    pub fn derive(seed: &[u8; 32]) -> Self {
        let (secret, public) = X25519HkdfSha256::derive_keypair(seed);
        let public = HubKey(public.to_bytes().into());
        Self { secret, public }
    }

    /// Returns the public half, which agents are given.
    pub fn public(&self) -> HubKey {
        self.public
    }
}

#[cfg(test)]
mod tests;
