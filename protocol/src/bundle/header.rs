//! The header of a volume: whose it is, its place in the chain, and the certificate that signed it.
//!
//! ```text
//! offset  size  field
//!      0    16  prelude, kind 1; its length counts from offset 16
//!     16    16  organisation
//!     32    16  agent
//!     48    16  spool epoch
//!     64     8  number of the bundle, from 1
//!     72     4  volume, from 1
//!     76     4  volumes of the bundle
//!     80     8  when it was made, milliseconds since 1970 UTC, by the agent's clock
//!     88     8  released: the agent keeps no batch of a bundle up to this number
//!     96    32  digest of the volume before; zeros for the very first
//!    128     8  id of the hub's key
//!    136    32  encapsulated key (RFC 9180 section 4.1)
//!    168     1  certificates c, leaf first
//!               c times: 2 length n, little-endian; n DER
//! ```
//! All numbers are little-endian.

use super::{BundleError, HubKey, KeyId, Kind, prelude};
use crate::ids::{AgentId, OrgId};
use crate::limits;
use crate::wire::v1::Epoch;

/// What identifies a volume: a hash of all that its signature covers.
pub type Digest = [u8; 32];

/// Most certificates in a header: a leaf, two above it, and the leaf from before it.
const CERTIFICATES: usize = 4;

/// Whose a volume is and where in the chain it stands. Nothing of it is secret, and nothing may be
/// believed before the volume's signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Organisation.
    pub org: OrgId,
    /// Agent.
    pub agent: AgentId,
    /// Epoch of the spool that the batches are of.
    pub epoch: Epoch,
    /// Number of the bundle: it rises with every bundle of an agent, and may skip.
    pub number: u64,
    /// Which volume of the bundle, from 1.
    pub volume: u32,
    /// How many volumes the bundle has.
    pub volumes: u32,
    /// When the bundle was made, milliseconds since 1970 UTC, by the agent's clock.
    pub made_at_ms: i64,
    /// Of bundles up to this number the agent keeps no batch: what is lost with one of them is
    /// lost for good. Its own number where no reply is expected.
    pub released: u64,
    /// Digest of the volume before: of this bundle, or the last of the bundle before.
    pub previous: Digest,
    /// The agent's certificate and those above it but the root, DER; then its certificate from
    /// before the last renewal, for a hub that was set back and does not know the first.
    pub certificates: Vec<Vec<u8>>,
}

/// A header as it was read.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub(super) header: Header,
    pub(super) key_id: KeyId,
    pub(super) encapsulated: [u8; 32],
}

impl Header {
    /// Returns the header without the encapsulated key, which depends on it.
    pub(super) fn fixed(&self, key: &HubKey) -> Result<(Vec<u8>, Vec<u8>), BundleError> {
        let mut head = Vec::new();
        head.extend_from_slice(self.org.as_bytes());
        head.extend_from_slice(self.agent.as_bytes());
        head.extend_from_slice(&self.epoch);
        head.extend_from_slice(&self.number.to_le_bytes());
        head.extend_from_slice(&self.volume.to_le_bytes());
        head.extend_from_slice(&self.volumes.to_le_bytes());
        head.extend_from_slice(&self.made_at_ms.to_le_bytes());
        head.extend_from_slice(&self.released.to_le_bytes());
        head.extend_from_slice(&self.previous);
        head.extend_from_slice(&key.id());
        let mut tail = Vec::new();
        let count = self.certificates.len();
        let bound = BundleError::Header("too many certificates");
        if count > CERTIFICATES {
            return Err(bound);
        }
        tail.push(u8::try_from(count).map_err(|_| bound)?);
        for certificate in &self.certificates {
            let length = u16::try_from(certificate.len())
                .map_err(|_| BundleError::Header("a certificate is too long"))?;
            tail.extend_from_slice(&length.to_le_bytes());
            tail.extend_from_slice(certificate);
        }
        Ok((head, tail))
    }

    /// Writes the header.
    pub(super) fn encode(
        head: &[u8],
        encapsulated: &[u8; 32],
        tail: &[u8],
    ) -> Result<Vec<u8>, BundleError> {
        let length = head.len() + encapsulated.len() + tail.len();
        if length > limits::BUNDLE_HEADER_BYTES {
            return Err(BundleError::TooLarge {
                what: "the header",
                bound: limits::BUNDLE_HEADER_BYTES,
            });
        }
        let mut bytes = prelude(Kind::Volume, length);
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(encapsulated);
        bytes.extend_from_slice(tail);
        Ok(bytes)
    }

    /// Reads what follows the prelude.
    pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, BundleError> {
        let mut rest = Rest(bytes);
        let org = OrgId::from_bytes(rest.take()?);
        let agent = AgentId::from_bytes(rest.take()?);
        let epoch = rest.take()?;
        let number = u64::from_le_bytes(rest.take()?);
        let volume = u32::from_le_bytes(rest.take()?);
        let volumes = u32::from_le_bytes(rest.take()?);
        let made_at_ms = i64::from_le_bytes(rest.take()?);
        let released = u64::from_le_bytes(rest.take()?);
        let previous = rest.take()?;
        let key_id = rest.take()?;
        let encapsulated = rest.take()?;
        let [count] = rest.take::<1>()?;
        let mut certificates = Vec::new();
        for _ in 0..count {
            if certificates.len() >= CERTIFICATES {
                return Err(BundleError::Header("too many certificates"));
            }
            let length = u16::from_le_bytes(rest.take()?);
            let certificate = rest.split(usize::from(length))?;
            certificates.push(certificate.to_vec());
        }
        if !rest.0.is_empty() {
            return Err(BundleError::Header("bytes follow the certificates"));
        }
        if number == 0 || volume == 0 || volume > volumes || volumes > limits::BUNDLE_VOLUMES {
            return Err(BundleError::Header(
                "bundles and volumes count from 1, and no volume is behind the last",
            ));
        }
        if released > number {
            return Err(BundleError::Header("it releases bundles that are not made"));
        }
        let header = Header {
            org,
            agent,
            epoch,
            number,
            volume,
            volumes,
            made_at_ms,
            released,
            previous,
            certificates,
        };
        Ok(Parsed {
            header,
            key_id,
            encapsulated,
        })
    }
}

/// Bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BundleError> {
        let short = BundleError::Header("it is shorter than its fields");
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn split(&mut self, length: usize) -> Result<&'a [u8], BundleError> {
        let short = BundleError::Header("a certificate is cut off");
        let (taken, rest) = self.0.split_at_checked(length).ok_or(short)?;
        self.0 = rest;
        Ok(taken)
    }
}
