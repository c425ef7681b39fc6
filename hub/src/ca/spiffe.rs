//! Who a peer is, by the name in its certificate ([`protocol::spiffe`]).

use jiff::Timestamp;
pub(crate) use protocol::spiffe::{NameError as PeerError, TrustDomain};
use protocol::spiffe::{Named, read};
use store::AgentIdentity;

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

/// Reads who a peer is from its leaf certificate. The chain must have been verified before.
///
/// # Errors
///
/// When the certificate names no agent of `own`.
pub(crate) fn read_peer(leaf: &[u8], own: &TrustDomain) -> Result<Peer, PeerError> {
    let Named {
        org,
        agent,
        serial,
        public_key,
        not_after,
    } = read(leaf, own)?;
    Ok(Peer {
        identity: AgentIdentity { org, agent, serial },
        public_key,
        not_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::enroll::Pin;
    use protocol::ids::{AgentId, OrgId};
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
            prop_assert!(own().agent_of(&text).is_err());
            let (longer, later) = (format!("{name}{tail}"), format!("{tail}{name}"));
            prop_assert!(own().agent_of(&longer).is_err());
            prop_assert!(own().agent_of(&later).is_err());
        }
    }
}
