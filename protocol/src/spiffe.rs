//! Names of agents: one SPIFFE id in one URI, of one hub's trust domain.
//!
//! ```text
//! spiffe://<trust domain>/org/<organisation>/agent/<agent>
//! ```
//! Source of the form and of the rule "exactly one URI": the SPIFFE project's "X509-SVID" and
//! "SPIFFE-ID" standards, sections 2.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::enroll::Pin;
use crate::ids::{AgentId, OrgId};

/// How many bytes of the root's pin make its trust domain.
const NAME_BYTES: usize = 16;

/// Whose names these are: one hub's. Made of its first root's key, so that no two hubs share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Returns the trust domain of the hub whose first root has this pin.
    #[must_use]
    pub fn of_root_key(pin: Pin) -> Self {
        let bytes = pin.0.get(..NAME_BYTES).unwrap_or_default();
        Self(format!("zx-{}", HEXLOWER.encode(bytes)))
    }

    /// Returns the SPIFFE id of an agent.
    #[must_use]
    pub fn name_of(&self, org: OrgId, agent: AgentId) -> String {
        format!("spiffe://{self}/org/{org}/agent/{agent}")
    }

    /// Returns whom a SPIFFE id names.
    ///
    /// # Errors
    ///
    /// When it is no agent's of this trust domain.
    pub fn agent_of(&self, uri: &str) -> Result<(OrgId, AgentId), NameError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(NameError::Names)?;
        let (domain, path) = rest.split_once('/').ok_or(NameError::Form)?;
        if domain != self.0 {
            return Err(NameError::TrustDomain);
        }
        let parts: Vec<&str> = path.split('/').collect();
        let &["org", org, "agent", agent] = parts.as_slice() else {
            return Err(NameError::Form);
        };
        match (org.parse(), agent.parse()) {
            (Ok(org), Ok(agent)) => Ok((org, agent)),
            (Err(_), _) | (_, Err(_)) => Err(NameError::Form),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an agent's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The organisation that it speaks for.
    pub org: OrgId,
    /// Itself.
    pub agent: AgentId,
    /// Serial number, big endian, as it stands there.
    pub serial: Vec<u8>,
    /// The bits of its key: an uncompressed P-256 point, where a hub made the certificate.
    pub public_key: Vec<u8>,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Says why a certificate names no agent of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It does not parse.
    #[error("the client certificate cannot be read")]
    Certificate,
    /// It has not exactly one name, a URI.
    #[error("the client certificate has not exactly one name, a SPIFFE id")]
    Names,
    /// It is another hub's.
    #[error("the client certificate belongs to another hub's trust domain")]
    TrustDomain,
    /// The name has another form.
    #[error("the client certificate's SPIFFE id is not an agent's")]
    Form,
}

/// Reads what a leaf certificate says, DER. Its chain must have been verified before.
///
/// # Errors
///
/// When it names no agent of `own`.
pub fn read(leaf: &[u8], own: &TrustDomain) -> Result<Named, NameError> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return Err(NameError::Certificate);
    };
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| NameError::Certificate)?;
    let names = names.ok_or(NameError::Names)?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(NameError::Names);
    };
    let (org, agent) = own.agent_of(uri)?;
    let not_after = certificate.validity().not_after.timestamp();
    Ok(Named {
        org,
        agent,
        serial: certificate.raw_serial().to_vec(),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        not_after: Timestamp::from_second(not_after).map_err(|_| NameError::Certificate)?,
    })
}
