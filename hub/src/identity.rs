//! The hub's own keys: made once by `init`, kept sealed in the appliance's store, loaded by
//! `serve`.
//!
//! The QUIC keys are kept because agents of a hub that forgot them hang until their idle timeout
//! after each restart (DESIGN 6).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use protocol::bundle::HubSecret;
use protocol::ids::{OrgId, UserId};
use protocol::wire::v1::Epoch;
use serde::{Deserialize, Serialize};
use store::Appliance;
use store::error::{ApplianceError, ReadError};
use zeroize::Zeroizing;

use crate::ca::{self, AGENT_LEAF_LIFE, Authority, CaError};
use crate::failure::{Exit, Explain};

const CA: &str = "ca";
const CA_AUDITED: &str = "ca/audited";
const FOUNDED: &str = "hub/founded";
const EPOCH: &str = "hub/epoch";
const PUBLIC_HOSTS: &str = "hub/public-hosts";
const CONNECTION_ID: &str = "quic/connection-id";
const STATELESS_RESET: &str = "quic/stateless-reset";
const RETRY_TOKEN: &str = "quic/retry-token";
const JWT: &str = "api/jwt-ed25519";
const BUNDLE: &str = "bundle/hpke-seed";

/// Why the hub has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IdentityError {
    /// One of the keys is not in the store.
    #[error("the store has no {0}")]
    Missing(&'static str),
    /// One of the keys has another form than this program writes.
    #[error("the hub cannot read {0}")]
    Form(&'static str),
    /// The certificate authority cannot be made or read.
    #[error("the hub has no certificate authority")]
    Ca(#[from] CaError),
    /// The store cannot be read.
    #[error("the hub's own keys cannot be read")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("the hub's own keys cannot be stored")]
    Write(#[from] ApplianceError),
    /// The system has no randomness.
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
}

impl Explain for IdentityError {
    fn exit(&self) -> Exit {
        match self {
            Self::Missing(_) | Self::Form(_) | Self::Read(_) => Exit::Data,
            Self::Ca(error) => error.exit(),
            Self::Write(_) | Self::Random(_) => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        matches!(self, Self::Missing(_))
            .then(|| "run `zero-x-hub init` with this data directory once more".to_owned())
    }
}

/// What `init` founded the hub with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founded {
    /// The first organisation.
    pub(crate) org: OrgId,
    /// Its admin, who also runs the hub.
    pub(crate) admin: UserId,
}

/// The hub's own keys.
pub(crate) struct Identity {
    /// Issues the hub's and the agents' certificates.
    pub(crate) authority: Arc<Authority>,
    /// Names this life of the store to agents; a restored backup gets another.
    pub(crate) epoch: Epoch,
    /// Ed25519 key in PKCS#8 DER that signs access tokens.
    pub(crate) jwt_pkcs8: Zeroizing<Vec<u8>>,
    /// The pair that bundles are sealed to (HPKE, X25519).
    pub(crate) bundle_key: Arc<HubSecret>,
    /// Key of QUIC stateless resets (HMAC-SHA256).
    pub(crate) stateless_reset_key: Zeroizing<[u8; 64]>,
    /// Key of QUIC retry tokens (HKDF-SHA256 input).
    pub(crate) retry_token_key: Zeroizing<[u8; 64]>,
    /// Key of QUIC connection ids.
    pub(crate) connection_id_key: u64,
    /// Names and addresses by which others reach this hub, as `init` was told.
    pub(crate) public_hosts: Vec<String>,
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes).map_err(IdentityError::Random)?;
    Ok(bytes)
}

fn fresh<const N: usize>() -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    Ok(Zeroizing::new(random::<N>()?.to_vec()))
}

/// Makes every key that is not there yet. Those that are stay as they are, so that an `init` that
/// was cut off can be run again.
///
/// # Errors
/// When the system has no randomness, or the store cannot be read or written.
pub(crate) async fn establish(
    appliance: &Appliance,
    public_hosts: &[String],
    now: Timestamp,
) -> Result<(), IdentityError> {
    if appliance.secret(CA).await?.is_none() {
        let material = ca::Material::generate(now)?;
        appliance.secret_or(CA, material.to_bytes()).await?;
    }
    appliance.secret_or(EPOCH, fresh::<16>()?).await?;
    appliance.secret_or(CONNECTION_ID, fresh::<8>()?).await?;
    appliance.secret_or(STATELESS_RESET, fresh::<64>()?).await?;
    appliance.secret_or(RETRY_TOKEN, fresh::<64>()?).await?;
    appliance.secret_or(JWT, jwt_key()?).await?;
    appliance.secret_or(BUNDLE, fresh::<32>()?).await?;
    let hosts = postcard::to_stdvec(public_hosts).expect("texts always serialise");
    appliance
        .secret_or(PUBLIC_HOSTS, Zeroizing::new(hosts))
        .await?;
    Ok(())
}

/// Makes an Ed25519 key in PKCS#8 DER.
fn jwt_key() -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    use ed25519_dalek::pkcs8::EncodePrivateKey;
    let seed = random::<32>()?;
    let key = ed25519_dalek::SigningKey::from_bytes(&seed);
    let der = key
        .to_pkcs8_der()
        .map_err(|_| IdentityError::Form("its session key"))?;
    Ok(Zeroizing::new(der.as_bytes().to_vec()))
}

/// Notes what the hub was founded with; the last step of `init`.
///
/// # Errors
/// When the store cannot be written.
pub(crate) async fn found(appliance: &Appliance, founded: Founded) -> Result<(), IdentityError> {
    let bytes = postcard::to_stdvec(&founded).expect("two ids always serialise");
    appliance.put_secret(FOUNDED, Zeroizing::new(bytes)).await?;
    Ok(())
}

/// Returns what the hub was founded with; `None` while `init` has not come to its end.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn founded(appliance: &Appliance) -> Result<Option<Founded>, IdentityError> {
    let Some(bytes) = appliance.secret(FOUNDED).await? else {
        return Ok(None);
    };
    postcard::from_bytes(&bytes)
        .map(Some)
        .map_err(|_| IdentityError::Form("the note of its founding"))
}

/// Returns the stored certificate authority. Secret.
///
/// # Errors
/// When it is missing or cannot be read.
pub(crate) async fn material(appliance: &Appliance) -> Result<ca::Material, IdentityError> {
    let stored = appliance.secret(CA).await?;
    let stored = stored.ok_or(IdentityError::Missing("certificate authority"))?;
    Ok(ca::Material::from_bytes(&stored)?)
}

/// Stores another state of the certificate authority in the place of the one before, in one durable
/// commit.
///
/// # Errors
/// When the store cannot be written; the one before is then in force.
pub(crate) async fn put_material(
    appliance: &Appliance,
    material: &ca::Material,
) -> Result<(), ApplianceError> {
    appliance.put_secret(CA, material.to_bytes()).await
}

/// Returns the number of the last step of a rotation that the audit logs have.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn audited_step(appliance: &Appliance) -> Result<u64, IdentityError> {
    let Some(bytes) = appliance.secret(CA_AUDITED).await? else {
        return Ok(0);
    };
    let bytes = sized(&bytes, "the note of its last rotation")?;
    Ok(u64::from_le_bytes(*bytes))
}

/// Notes that the audit logs have a step of a rotation.
///
/// # Errors
/// When the store cannot be written.
pub(crate) async fn note_audited_step(
    appliance: &Appliance,
    number: u64,
) -> Result<(), ApplianceError> {
    let bytes = Zeroizing::new(number.to_le_bytes().to_vec());
    appliance.put_secret(CA_AUDITED, bytes).await
}

/// Makes a hub that was restored a new one to agents and people, under the same authority: agents
/// forget what this hub is known to hold and send it again, and no access token of before is good.
///
/// # Errors
/// When the system has no randomness, or the store cannot be written.
pub(crate) async fn begin_anew(appliance: &Appliance) -> Result<(), IdentityError> {
    appliance.put_secret(EPOCH, fresh::<16>()?).await?;
    appliance.put_secret(JWT, jwt_key()?).await?;
    Ok(())
}

/// Makes the keys of the API's sessions and of QUIC anew. Who goes on with the old ones is a hub
/// that runs; it must not.
///
/// # Errors
/// When the system has no randomness, or the store cannot be written; some keys may be new then.
pub(crate) async fn renew_session_keys(appliance: &Appliance) -> Result<(), IdentityError> {
    for (name, key) in [
        (JWT, jwt_key()?),
        (CONNECTION_ID, fresh::<8>()?),
        (STATELESS_RESET, fresh::<64>()?),
        (RETRY_TOKEN, fresh::<64>()?),
    ] {
        appliance.put_secret(name, key).await?;
    }
    Ok(())
}

impl Identity {
    /// Loads the keys that [`establish`] made.
    ///
    /// # Errors
    /// When one is missing or cannot be read.
    pub(crate) async fn load(appliance: &Appliance) -> Result<Self, IdentityError> {
        Self::load_with(appliance, AGENT_LEAF_LIFE).await
    }

    /// Loads the keys; the certificates of agents are to live so long.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub(crate) async fn load_with(
        appliance: &Appliance,
        agent_leaf: SignedDuration,
    ) -> Result<Self, IdentityError> {
        let bytes = async |name: &str, what: &'static str| {
            appliance
                .secret(name)
                .await?
                .ok_or(IdentityError::Missing(what))
        };
        let material = material(appliance).await?;
        let hosts = bytes(PUBLIC_HOSTS, "public names").await?;
        Ok(Self {
            authority: Arc::new(Authority::load(&material)?.with_agent_leaf(agent_leaf)),
            epoch: *sized(&bytes(EPOCH, "epoch").await?, "its epoch")?,
            jwt_pkcs8: bytes(JWT, "session key").await?,
            bundle_key: Arc::new(HubSecret::derive(&*sized(
                &bytes(BUNDLE, "key for bundles").await?,
                "its key for bundles",
            )?)),
            stateless_reset_key: sized(
                &bytes(STATELESS_RESET, "reset key").await?,
                "its reset key",
            )?,
            retry_token_key: sized(&bytes(RETRY_TOKEN, "retry key").await?, "its retry key")?,
            connection_id_key: u64::from_le_bytes(*sized(
                &bytes(CONNECTION_ID, "connection-id key").await?,
                "its connection-id key",
            )?),
            public_hosts: postcard::from_bytes(&hosts)
                .map_err(|_| IdentityError::Form("its public names"))?,
        })
    }
}

fn sized<const N: usize>(
    bytes: &[u8],
    what: &'static str,
) -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let array: [u8; N] = bytes.try_into().map_err(|_| IdentityError::Form(what))?;
    Ok(Zeroizing::new(array))
}
