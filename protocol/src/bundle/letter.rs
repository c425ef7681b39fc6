//! The two small files beside bundles: an agent's request to be enrolled, and a hub's reply.
//!
//! ```text
//! offset  size  field
//!      0    16  prelude, kind 2 or 3; its length is n
//!     16     n  letter, postcard
//!   16+n    64  request: Ed25519 by the token's key over "zero-x bundle request 1" ‖ bytes 0..16+n
//!               reply: ECDSA P-256 by the hub's leaf over "zero-x bundle reply 1" ‖ bytes 0..16+n
//! ```
//! A request holds nothing secret. A reply names accounts (in scopes), so its contents are sealed
//! with the key that the agent's last bundle brought, AES-256-GCM, additional data: organisation ‖
//! agent; only the reply to a request is plain: it holds certificates and public keys.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::header::Digest;
use super::{BundleError, Kind, PRELUDE_BYTES, SIGNATURE_BYTES, begins, prelude, read_prelude};
use crate::enroll::Pin;
use crate::ids::{AgentId, OrgId, TokenId};
use crate::limits;
use crate::wire::v1::{Epoch, HighWater};

const REQUEST: &[u8] = b"zero-x bundle request 1";
const REPLY: &[u8] = b"zero-x bundle reply 1";
const NONCE_BYTES: usize = 12;

/// Appends the signature of a letter.
fn sign<E>(
    mut bytes: Vec<u8>,
    domain: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<[u8; SIGNATURE_BYTES], E>,
) -> Result<Vec<u8>, E> {
    let signature = sign(&[domain, &bytes].concat())?;
    bytes.extend_from_slice(&signature);
    Ok(bytes)
}

/// A file taken apart.
struct Parts<'a> {
    letter: &'a [u8],
    /// What the signature covers, but for its domain.
    signed: &'a [u8],
    signature: [u8; SIGNATURE_BYTES],
}

fn cut(bytes: &[u8], wanted: Kind) -> Result<Parts<'_>, BundleError> {
    let Some(head) = bytes.first_chunk::<PRELUDE_BYTES>() else {
        return Err(if begins(bytes) {
            BundleError::Cut
        } else {
            BundleError::Magic
        });
    };
    let (found, length) = read_prelude(head)?;
    if found != wanted {
        return Err(BundleError::Kind { found, wanted });
    }
    if length > limits::BUNDLE_LETTER_BYTES {
        return Err(BundleError::Header("it is longer than any letter"));
    }
    let (signed, rest) = bytes
        .split_at_checked(PRELUDE_BYTES + length)
        .ok_or(BundleError::Cut)?;
    let (signature, behind) = rest
        .split_first_chunk::<SIGNATURE_BYTES>()
        .ok_or(BundleError::Cut)?;
    if !behind.is_empty() {
        return Err(BundleError::Trailing);
    }
    Ok(Parts {
        letter: signed.get(PRELUDE_BYTES..).unwrap_or_default(),
        signed,
        signature: *signature,
    })
}

fn letter<T: Serialize>(kind: Kind, letter: &T) -> Result<Vec<u8>, BundleError> {
    let letter = postcard::to_stdvec(letter).expect("plain structs always serialise");
    if letter.len() > limits::BUNDLE_LETTER_BYTES {
        return Err(BundleError::TooLarge {
            what: "the letter",
            bound: limits::BUNDLE_LETTER_BYTES,
        });
    }
    let mut bytes = prelude(kind, letter.len());
    bytes.extend_from_slice(&letter);
    Ok(bytes)
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BundleError> {
    match postcard::take_from_bytes(bytes) {
        Ok((letter, [])) => Ok(letter),
        Ok(_) | Err(_) => Err(BundleError::Contents("the letter cannot be read")),
    }
}

/// An enrolment request that is carried: the same as over a connection, bound to the hub's pin
/// where there is no connection to bind it to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedRequest {
    /// The token that it is made with.
    pub token: TokenId,
    /// The pin in that token: whose request it is.
    pub pin: Pin,
    /// PKCS #10, DER.
    pub csr: Vec<u8>,
    /// The name that the hub should show.
    pub name: String,
    /// The agent's program version.
    pub agent_version: String,
}

impl CarriedRequest {
    /// Writes the file; `token_key` signs with the token's Ed25519 key.
    ///
    /// # Errors
    ///
    /// When it is too large.
    pub fn encode(
        &self,
        token_key: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
    ) -> Result<Vec<u8>, BundleError> {
        let bytes = letter(Kind::Request, self)?;
        let signed: Result<_, std::convert::Infallible> =
            sign(bytes, REQUEST, |message| Ok(token_key(message)));
        let Ok(bytes) = signed;
        Ok(bytes)
    }

    /// Reads the file. Its signature can be checked once the token is known: the message and the
    /// signature over it are returned.
    ///
    /// # Errors
    ///
    /// When the bytes are no request.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Vec<u8>, [u8; SIGNATURE_BYTES]), BundleError> {
        let parts = cut(bytes, Kind::Request)?;
        let message = [REQUEST, parts.signed].concat();
        Ok((read(parts.letter)?, message, parts.signature))
    }
}

/// The key that replies to one agent are sealed with.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplyKey(pub [u8; 32]);

impl fmt::Debug for ReplyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKey")
    }
}

impl ReplyKey {
    fn key(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).expect("the key has 32 bytes");
        LessSafeKey::new(key)
    }
}

/// What a hub issued to an agent: to its request to be enrolled, or as its next certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Certificate chain, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The hub's root certificates, DER, the one that signs first: two while its authority is
    /// being replaced.
    pub roots: Vec<Vec<u8>>,
    /// The key that bundles are to be sealed to.
    pub bundle_key: [u8; 32],
}

/// What a hub answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Epoch of the hub's store. A change means that the hub may have lost what it acknowledged.
    pub hub_epoch: Epoch,
    /// The last bundle that the hub has taken, and the digest of its last volume; 0 and zeros
    /// before the first.
    pub last: (u64, Digest),
    /// Bundles before that one which never came.
    pub missing: Vec<u64>,
    /// What is durably stored, per lane and epoch.
    pub high_water: Vec<HighWater>,
    /// Scopes to send whole; empty text for all.
    pub resync: Vec<String>,
    /// The certificate that a request asked for.
    pub issued: Option<Issued>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReplyLetter {
    org: OrgId,
    agent: AgentId,
    made_at_ms: i64,
    chain: Vec<Vec<u8>>,
    nonce: Option<[u8; NONCE_BYTES]>,
    contents: Vec<u8>,
}

/// A reply as it lies in its file: its contents may be sealed, its signature is not checked.
#[derive(Debug)]
pub struct SealedReply {
    letter: ReplyLetter,
    signed: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

/// To whom a reply goes and by whom it is.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Organisation.
    pub org: OrgId,
    /// Agent.
    pub agent: AgentId,
    /// The hub's clock, milliseconds since 1970 UTC.
    pub made_at_ms: i64,
    /// Certificates of the key that signs, DER: the leaf and all above it.
    pub chain: Vec<Vec<u8>>,
}

impl Reply {
    /// Writes the file. `sealed` is the agent's key and a fresh random nonce; without it the
    /// contents stay plain.
    ///
    /// # Errors
    ///
    /// When it is too large, or `sign` fails.
    pub fn encode<E: From<BundleError>>(
        &self,
        envelope: Envelope,
        sealed: Option<(&ReplyKey, [u8; NONCE_BYTES])>,
        sign_by_hub: impl FnOnce(&[u8]) -> Result<[u8; SIGNATURE_BYTES], E>,
    ) -> Result<Vec<u8>, E> {
        let Envelope {
            org,
            agent,
            made_at_ms,
            chain,
        } = envelope;
        let mut contents = postcard::to_stdvec(self).expect("plain structs always serialise");
        let nonce = sealed.map(|(key, nonce)| {
            let aad = Aad::from([*org.as_bytes(), *agent.as_bytes()].concat());
            key.key()
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut contents)
                .expect("a reply is shorter than 64 GiB");
            nonce
        });
        let whole = ReplyLetter {
            org,
            agent,
            made_at_ms,
            chain,
            nonce,
            contents,
        };
        sign(letter(Kind::Reply, &whole)?, REPLY, sign_by_hub)
    }
}

impl SealedReply {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When the bytes are no reply.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        let parts = cut(bytes, Kind::Reply)?;
        Ok(Self {
            letter: read(parts.letter)?,
            signed: [REPLY, parts.signed].concat(),
            signature: parts.signature,
        })
    }

    /// Returns whom it claims to be for.
    pub fn addressee(&self) -> (OrgId, AgentId) {
        (self.letter.org, self.letter.agent)
    }

    /// Says whether its contents are sealed: all but the answer to a request are.
    pub fn is_sealed(&self) -> bool {
        self.letter.nonce.is_some()
    }

    /// Returns when it was made, by the hub's clock: the instant at which its chain must have been
    /// valid, since its key signs nothing else.
    pub fn made_at_ms(&self) -> i64 {
        self.letter.made_at_ms
    }

    /// Returns the certificates of the key that should have signed it, DER, leaf first. Who calls
    /// this checks them before [`SealedReply::open`].
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.letter.chain
    }

    /// Checks the signature with the public key of the chain's leaf (an uncompressed P-256
    /// point), and opens the contents.
    ///
    /// # Errors
    ///
    /// [`BundleError::Signature`]; [`BundleError::Contents`] when they are sealed with another
    /// key.
    pub fn open(&self, public_key: &[u8], key: Option<&ReplyKey>) -> Result<Reply, BundleError> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
            .verify(&self.signed, &self.signature)
            .map_err(|_| BundleError::Signature)?;
        let Some(nonce) = self.letter.nonce else {
            return read(&self.letter.contents);
        };
        let closed = "it is sealed with another key than this agent's";
        let key = key.ok_or(BundleError::Contents(closed))?;
        let (org, agent) = self.addressee();
        let aad = Aad::from([*org.as_bytes(), *agent.as_bytes()].concat());
        let mut contents = self.letter.contents.clone();
        let plain = key
            .key()
            .open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut contents)
            .map_err(|_| BundleError::Contents(closed))?;
        read(plain)
    }
}
