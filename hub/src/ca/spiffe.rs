//! Names of agents: one SPIFFE id in one URI, of this hub's own trust domain.
//!
//! ```text
//! spiffe://<trust domain>/org/<organisation>/agent/<agent>
//! ```
//! Source of the form and of the rule "exactly one URI": the SPIFFE project's "X509-SVID" and
//! "SPIFFE-ID" standards, sections 2.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use protocol::enroll::Pin;
use protocol::ids::{AgentId, OrgId};
use store::AgentIdentity;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How many bytes of the root's pin make its trust domain.
const NAME_BYTES: usize = 16;

/// Whose names these are: one hub's. Made of the root's key, so that no two hubs share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrustDomain(String);

impl TrustDomain {
    /// Returns the trust domain of the root with this pin.
    pub(crate) fn of_root_key(pin: Pin) -> Self {
        let bytes = pin.0.get(..NAME_BYTES).unwrap_or_default();
        Self(format!("zx-{}", HEXLOWER.encode(bytes)))
    }

    /// Returns the SPIFFE id of an agent.
    pub(crate) fn name_of(&self, org: OrgId, agent: AgentId) -> String {
        format!("spiffe://{self}/org/{org}/agent/{agent}")
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a peer is, by a certificate whose chain TLS has verified.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Organisation, agent and serial number.
    pub(crate) identity: AgentIdentity,
    /// The key that signs its batches: uncompressed P-256 point.
    pub(crate) public_key: Vec<u8>,
    /// End of the certificate.
    pub(crate) not_after: Timestamp,
}

/// Says why a certificate names no agent of this hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PeerError {
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

/// Reads who a peer is from its leaf certificate. The chain must have been verified before.
///
/// # Errors
///
/// When the certificate names no agent of `own`.
pub(crate) fn read_peer(leaf: &[u8], own: &TrustDomain) -> Result<Peer, PeerError> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return Err(PeerError::Certificate);
    };
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| PeerError::Certificate)?;
    let names = names.ok_or(PeerError::Names)?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(PeerError::Names);
    };
    let (org, agent) = parse(uri, own)?;
    let not_after = certificate.validity().not_after.timestamp();
    Ok(Peer {
        identity: AgentIdentity {
            org,
            agent,
            serial: certificate.raw_serial().to_vec(),
        },
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        not_after: Timestamp::from_second(not_after).map_err(|_| PeerError::Certificate)?,
    })
}

fn parse(uri: &str, own: &TrustDomain) -> Result<(OrgId, AgentId), PeerError> {
    let rest = uri.strip_prefix("spiffe://").ok_or(PeerError::Names)?;
    let (domain, path) = rest.split_once('/').ok_or(PeerError::Form)?;
    if domain != own.0 {
        return Err(PeerError::TrustDomain);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let &["org", org, "agent", agent] = parts.as_slice() else {
        return Err(PeerError::Form);
    };
    match (org.parse(), agent.parse()) {
        (Ok(org), Ok(agent)) => Ok((org, agent)),
        (Err(_), _) | (_, Err(_)) => Err(PeerError::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn own() -> TrustDomain {
        TrustDomain::of_root_key(Pin([7; 32]))
    }

    fn name() -> (OrgId, AgentId, String) {
        let (org, agent) = (OrgId::derived(&[b"acme"]), AgentId::derived(&[b"one"]));
        (org, agent, own().name_of(org, agent))
    }

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_name_is_read_from_the_one_uri_of_the_certificate() {
        let (org, agent, name) = name();
        let peer = read_peer(&certificate(vec![uri(&name)]), &own()).unwrap();
        assert_eq!((peer.identity.org, peer.identity.agent), (org, agent));
        assert_eq!(peer.public_key.len(), 65);
        assert!(!peer.identity.serial.is_empty());
    }

    #[test]
    fn every_other_set_of_names_is_refused() {
        let (org, agent, name) = name();
        let refused = |names: Vec<SanType>| read_peer(&certificate(names), &own()).unwrap_err();
        let dns = || SanType::DnsName("zero-x-hub".try_into().unwrap());
        assert_eq!(refused(vec![]), PeerError::Names);
        assert_eq!(refused(vec![dns()]), PeerError::Names);
        assert_eq!(refused(vec![uri(&name), uri(&name)]), PeerError::Names);
        assert_eq!(refused(vec![uri(&name), dns()]), PeerError::Names);
        let theirs = TrustDomain::of_root_key(Pin([8; 32])).name_of(org, agent);
        assert_eq!(refused(vec![uri(&theirs)]), PeerError::TrustDomain);
        let form = |text: &str| assert_eq!(refused(vec![uri(text)]), PeerError::Form, "{text}");
        form(&format!("{name}/more"));
        form(&format!("{name}/"));
        form(&name.replace("/org/", "/user/"));
        form(&format!("spiffe://{}/org/{org}", own()));
        form(&format!("spiffe://{}/org/{agent}/agent/{org}", own()));
        form(&format!("spiffe://{}", own()));
        let web = name.replace("spiffe://", "https://");
        assert_eq!(refused(vec![uri(&web)]), PeerError::Names);
        assert_eq!(
            read_peer(b"hello", &own()).unwrap_err(),
            PeerError::Certificate
        );
    }

    proptest! {
        #[test]
        fn arbitrary_uris_never_name_an_agent(
            text in "(spiffe://)?[ -~]{0,80}",
            tail in "[a-z0-9/%?#._-]{1,20}",
        ) {
            let (_, _, name) = name();
            prop_assert!(parse(&text, &own()).is_err());
            let (longer, later) = (format!("{name}{tail}"), format!("{tail}{name}"));
            prop_assert!(parse(&longer, &own()).is_err());
            prop_assert!(parse(&later, &own()).is_err());
        }
    }
}
