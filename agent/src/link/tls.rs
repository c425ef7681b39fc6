//! Whom this agent trusts: the root that its token pinned, and nobody else. TLS 1.3 and ring only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::enroll::{self, Pin};
use protocol::wire::v1;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Chain, Identity};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns the TLS settings of a session: this agent's certificate, the hub's roots.
///
/// # Errors
///
/// When the identity's certificate and key do not fit each other.
pub(crate) fn for_session(identity: &Identity) -> Result<Arc<ClientConfig>, rustls::Error> {
    for_session_as(identity, &identity.chain)
}

/// Returns the TLS settings of a session that shows another certificate of this agent's key.
///
/// # Errors
///
/// As [`for_session`].
pub(crate) fn for_session_as(
    identity: &Identity,
    chain: &Chain,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in &identity.roots {
        roots.add(root.clone())?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(rooted(roots)?)
        .with_client_auth_cert(chain.clone(), identity.private_key())?;
    config.alpn_protocols = vec![v1::ALPN.to_vec()];
    // A ticket would carry an identity past its renewal.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Returns the TLS settings of an enrolment: no certificate yet, and a hub whose chain must end
/// in a root with one of the token's pins.
///
/// # Errors
///
/// When rustls refuses its own defaults.
pub(crate) fn for_enrolment(
    pins: Vec<Pin>,
) -> Result<(Arc<ClientConfig>, Arc<PinnedRoot>), rustls::Error> {
    let verifier = Arc::new(PinnedRoot {
        pins,
        provider: provider(),
        missed: AtomicBool::new(false),
        issuer: Mutex::new(None),
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![enroll::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), verifier))
}

/// Returns what checks a hub's certificates outside a handshake, as a session would.
///
/// # Errors
///
/// When a root cannot be one.
pub(crate) fn hub_verifier(
    trusted: &[CertificateDer<'static>],
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in trusted {
        roots.add(root.clone())?;
    }
    rooted(roots)
}

/// Longest name of an issuer that is told, in characters.
const ISSUER_CHARS: usize = 120;

/// Whoever answered has a certificate that does not end in the pinned root.
#[derive(Debug, thiserror::Error)]
#[error("issued by {issuer:?}")]
struct Stranger {
    issuer: String,
}

/// Returns who issued a certificate that did not pass [`for_session`]'s verifier.
pub(super) fn issuer_of(error: &CertificateError) -> Option<String> {
    if let CertificateError::Other(other) = error {
        let stranger = other.0.downcast_ref::<Stranger>();
        return stranger.map(|stranger| stranger.issuer.clone());
    }
    None
}

/// Returns the issuer's name as the certificate says it. Anybody may have written it.
fn issuer(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate.issuer().to_string();
    Some(name.chars().take(ISSUER_CHARS).collect())
}

pub(super) fn rooted(roots: RootCertStore) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(Rooted { inner }))
}

/// Checks a hub's chain against the pinned root as usual, and says of a stranger's certificate who
/// issued it: operators know their proxies by that name.
#[derive(Debug)]
struct Rooted {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Rooted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        verified.map_err(|error| match (error, issuer(end_entity)) {
            (
                rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                ),
                Some(issuer),
            ) => CertificateError::Other(OtherError(Arc::new(Stranger { issuer }))).into(),
            (error, _) => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Trusts the root whose key has one of the pins, when the hub sends it, and then checks the
/// whole chain against it as usual: signatures, validity, name and purpose.
#[derive(Debug)]
pub(crate) struct PinnedRoot {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
    missed: AtomicBool,
    issuer: Mutex<Option<String>>,
}

impl PinnedRoot {
    /// Returns who issued the certificate of the hub that was missed.
    pub(crate) fn issuer(&self) -> Option<String> {
        // No holder of this lock panics.
        let issuer = self.issuer.lock().unwrap_or_else(PoisonError::into_inner);
        issuer.clone()
    }

    /// Returns whether a hub was seen that sent no root with one of the pins.
    pub(crate) fn has_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|der| Pin::of_certificate(der).is_ok_and(|pin| self.pins.contains(&pin)));
        let Some(root) = root else {
            self.missed.store(true, Ordering::Relaxed);
            *self.issuer.lock().unwrap_or_else(PoisonError::into_inner) = issuer(end_entity);
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let provider = self.provider.clone();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let reason = "TLS 1.2 is not spoken here".to_owned();
        Err(rustls::Error::General(reason))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    struct Ca {
        key: KeyPair,
        params: CertificateParams,
        root: CertificateDer<'static>,
    }

    fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Ca { key, params, root }
    }

    fn leaf(ca: &Ca, name: &str) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&ca.params, &ca.key);
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.signed_by(&key, &issuer).unwrap().der().clone()
    }

    fn verify(
        pinned: &Ca,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
    ) -> Result<(), String> {
        let pin = Pin::of_certificate(&pinned.root).unwrap();
        let (_, verifier) = for_enrolment(vec![Pin([0; 32]), pin]).unwrap();
        let name = ServerName::try_from(enroll::HUB_NAME).unwrap();
        let verified = verifier.verify_server_cert(leaf, sent, &name, &[], UnixTime::now());
        verified
            .map(|_| ())
            .map_err(|error| format!("{} {error}", verifier.has_missed()))
    }

    #[test]
    fn a_chain_that_ends_in_the_pinned_root_passes() {
        let ca = ca();
        let sent = std::slice::from_ref(&ca.root);
        verify(&ca, &leaf(&ca, enroll::HUB_NAME), sent).unwrap();
    }

    #[test]
    fn a_root_without_the_pin_a_forged_chain_and_another_name_do_not_pass() {
        let (ours, theirs) = (ca(), ca());
        let forged = leaf(&theirs, enroll::HUB_NAME);
        let told = verify(&ours, &forged, std::slice::from_ref(&theirs.root));
        assert!(told.unwrap_err().starts_with("true "), "the pin was missed");
        // Anybody may send our root along with a leaf of their own.
        let told = verify(&ours, &forged, std::slice::from_ref(&ours.root));
        assert!(told.unwrap_err().starts_with("false "));
        let elsewhere = leaf(&ours, "elsewhere");
        assert!(verify(&ours, &elsewhere, std::slice::from_ref(&ours.root)).is_err());
        let alone = verify(&ours, &leaf(&ours, enroll::HUB_NAME), &[]);
        assert!(alone.is_err(), "the hub has to send its root");
    }
}
