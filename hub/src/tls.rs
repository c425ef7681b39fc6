//! TLS of both ports: 1.3 only, ring only, no tickets and no early data.
//!
//! Agents see a certificate of the hub's own authority, and show one of it. The API shows the
//! same certificate, or the operator's own (`tls.cert`, `tls.key`).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use protocol::enroll::{self, Pin};
use protocol::wire::v1;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::ca::{self, Authority, CaError, HubLeaf, Validity, Verifier};
use crate::config::OwnTls;
use crate::failure::{Exit, Explain};

/// Says why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TlsError {
    /// The hub's own authority made no certificate.
    #[error("could not make the hub's certificate")]
    Leaf(#[source] CaError),
    /// A PEM file of the operator cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// The certificate file holds none.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate cannot be used")]
    Rustls(#[from] rustls::Error),
}

impl Explain for TlsError {
    fn exit(&self) -> Exit {
        match self {
            Self::Leaf(error) => error.exit(),
            Self::Pem { .. } | Self::Empty { .. } | Self::Rustls(_) => Exit::Config,
        }
    }

    fn fix(&self) -> Option<String> {
        let fix = "tls.cert wants a PEM file with the leaf first and its chain after it, tls.key \
                   the leaf's private key";
        match self {
            Self::Pem { .. } | Self::Empty { .. } | Self::Rustls(_) => Some(fix.to_owned()),
            Self::Leaf(error) => error.fix(),
        }
    }
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

/// The hub's certificate by its own authority, replaced while connections come in.
pub(crate) struct CurrentLeaf {
    authority: Arc<Authority>,
    hosts: Vec<String>,
    current: RwLock<Current>,
}

impl fmt::Debug for CurrentLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentLeaf")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl CurrentLeaf {
    /// Makes a certificate that names `hosts` besides what every hub's does.
    ///
    /// # Errors
    ///
    /// When the authority cannot make it.
    pub(crate) fn issue(
        authority: Arc<Authority>,
        hosts: Vec<String>,
        now: Timestamp,
    ) -> Result<Arc<Self>, TlsError> {
        let current = current(
            authority
                .issue_hub_leaf(&hosts, now)
                .map_err(TlsError::Leaf)?,
        )?;
        Ok(Arc::new(Self {
            authority,
            hosts,
            current: RwLock::new(current),
        }))
    }

    /// Makes a new certificate if half of the life of this one is over, or the authority was
    /// replaced since it was made; says whether it did.
    ///
    /// # Errors
    ///
    /// When the authority cannot make it; the old one then stays.
    pub(crate) fn renew_if_due(&self, now: Timestamp) -> Result<bool, TlsError> {
        let (key, validity) = self.read();
        let above = key.cert.get(1..).unwrap_or_default();
        if !ca::is_due(validity, now) && above == self.authority.above_hub_leaf() {
            return Ok(false);
        }
        let leaf = self.authority.issue_hub_leaf(&self.hosts, now);
        let fresh = current(leaf.map_err(TlsError::Leaf)?)?;
        // A panic while it is held would leave it whole: every change is one assignment.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(true)
    }

    /// Returns when the certificate is valid.
    pub(crate) fn validity(&self) -> Validity {
        self.read().1
    }

    fn read(&self) -> (Arc<CertifiedKey>, Validity) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&current.key), current.validity)
    }
}

impl ResolvesServerCert for CurrentLeaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read().0)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn current(leaf: HubLeaf) -> Result<Current, TlsError> {
    let key = CertifiedKey::from_der(leaf.chain, leaf.key, &provider())?;
    Ok(Current {
        key: Arc::new(key),
        validity: leaf.validity,
    })
}

/// Verifies agents' certificates as usual, but for two kinds that pass because the session has
/// something to say to them and takes nothing else: those that ended a short while ago, so that
/// they can be renewed ([`verify_renewable`]), and those of a retired root, so that their agents
/// can be told ([`root_of`]).
#[derive(Debug)]
struct Agents {
    authority: Arc<Authority>,
}

impl ClientCertVerifier for Agents {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // An agent has one certificate and shows it whatever is hinted at.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        // Whoever enrols has none.
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify_renewable(&self.authority.known(), end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority
            .known()
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority
            .known()
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.known().supported_verify_schemes()
    }
}

/// Verifies a certificate as usual; one that ended a short while ago passes as it would have in its
/// last second.
fn verify_renewable(
    usual: &Verifier,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<ClientCertVerified, rustls::Error> {
    let verdict = usual.verify_client_cert(end_entity, intermediates, now);
    let Err(rustls::Error::InvalidCertificate(
        CertificateError::Expired | CertificateError::ExpiredContext { .. },
    )) = &verdict
    else {
        return verdict;
    };
    match last_second(end_entity, now) {
        Some(last) => usual.verify_client_cert(end_entity, intermediates, last),
        None => verdict,
    }
}

/// Returns the trusted root that a chain leads to, leaf first, which TLS has let pass; `None` for
/// one of a retired root.
pub(crate) fn root_of(
    authority: &Authority,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
) -> Option<Pin> {
    let (leaf, above) = chain.split_first()?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(now.as_second()).unwrap_or_default(),
    ));
    let mut verifiers = authority.verifiers().into_iter();
    let vouches = |verifier: &Verifier| verify_renewable(verifier, leaf, above, now).is_ok();
    verifiers.find_map(|(pin, verifier)| vouches(&verifier).then_some(pin))
}

/// Returns the last second of a leaf that has ended and may still be renewed.
fn last_second(leaf: &CertificateDer<'_>, now: UnixTime) -> Option<UnixTime> {
    let validity = ca::validity_of(leaf)?;
    let seconds = |at: Timestamp| u64::try_from(at.as_second()).ok();
    let (last, until) = (
        seconds(validity.until)?,
        seconds(ca::renewable_until(validity))?,
    );
    let may_renew = last < now.as_secs() && now.as_secs() <= until;
    may_renew.then(|| UnixTime::since_unix_epoch(Duration::from_secs(last)))
}

/// Returns the TLS settings of the agents' port. A peer shows a certificate of this authority, or
/// none, for enrolment; a wrong one, and one that ended long ago, ends the handshake.
///
/// # Errors
///
/// When rustls refuses its own defaults.
pub(crate) fn for_agents(
    authority: &Arc<Authority>,
    leaf: Arc<CurrentLeaf>,
) -> Result<ServerConfig, TlsError> {
    let verifier = Arc::new(Agents {
        authority: Arc::clone(authority),
    });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(leaf);
    config.alpn_protocols = vec![v1::ALPN.to_vec(), enroll::ALPN.to_vec()];
    without_resumption(&mut config);
    Ok(config)
}

/// Returns the TLS settings of the API's port with a certificate of the hub's own authority.
///
/// # Errors
///
/// When rustls refuses its own defaults.
pub(crate) fn for_api(leaf: Arc<CurrentLeaf>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(leaf);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    without_resumption(&mut config);
    Ok(config)
}

/// A ticket would carry an identity past its revocation.
fn without_resumption(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
}

/// Returns the TLS settings of the API's port with the operator's own certificate.
///
/// # Errors
///
/// When a file cannot be read or the two do not fit each other.
pub(crate) fn read_own(own: &OwnTls) -> Result<ServerConfig, TlsError> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::Pem { path, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&own.certificate)
        .and_then(Iterator::collect)
        .map_err(unreadable(&own.certificate))?;
    if chain.is_empty() {
        let path = own.certificate.clone();
        return Err(TlsError::Empty { path });
    }
    let key = PrivateKeyDer::from_pem_file(&own.key).map_err(unreadable(&own.key))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    without_resumption(&mut config);
    Ok(config)
}

/// Returns when the operator's own certificate is valid; `None` where its file holds none that can
/// be read, which is told where it is used.
pub(crate) fn validity_of_own(own: &OwnTls) -> Option<Validity> {
    let mut found = CertificateDer::pem_file_iter(&own.certificate).ok()?;
    ca::validity_of(&found.next()?.ok()?)
}

/// Checks that the operator's own certificate can be used, for `check` and `doctor`.
///
/// # Errors
///
/// As [`read_own`].
pub(crate) fn check_own(own: &OwnTls) -> Result<(), TlsError> {
    read_own(own).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Material;
    use jiff::SignedDuration;

    #[test]
    fn a_renewed_certificate_is_shown_to_the_next_connection() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let authority = Authority::load(&Material::generate(now).unwrap()).unwrap();
        let leaf = CurrentLeaf::issue(Arc::new(authority), vec![], now).unwrap();
        let first = leaf.read().0;
        assert!(
            !leaf
                .renew_if_due(now + SignedDuration::from_hours(24))
                .unwrap()
        );
        assert!(Arc::ptr_eq(&first, &leaf.read().0));
        let later = now + SignedDuration::from_hours(24 * 60);
        assert!(leaf.renew_if_due(later).unwrap());
        assert_ne!(first.cert, leaf.read().0.cert);
        assert!(!leaf.renew_if_due(later).unwrap());
    }

    #[test]
    fn an_agents_certificate_passes_for_as_long_again_as_it_lived_and_30_days_at_most() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let day = SignedDuration::from_hours(24);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        let request = request.unwrap();
        let (org, agent) = (
            protocol::ids::OrgId::derived(&[b"acme"]),
            protocol::ids::AgentId::derived(&[b"one"]),
        );
        for (life, grace) in [(30, 30), (2, 2), (365, 30)] {
            let material = Material::generate(now).unwrap();
            let authority = Authority::load(&material).unwrap();
            let authority = Arc::new(authority.with_agent_leaf(day * life));
            let made = authority.issue_agent_leaf(request.der(), org, agent, now);
            let chain = made.unwrap().chain;
            let verify = |after: SignedDuration| {
                let at = u64::try_from((now + after).as_second()).unwrap();
                let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
                let authority = Arc::clone(&authority);
                Agents { authority }.verify_client_cert(&chain[0], &chain[1..], at)
            };
            let second = SignedDuration::from_secs(1);
            verify(SignedDuration::ZERO).unwrap();
            verify(day * life).unwrap();
            verify(day * life + second).unwrap();
            verify(day * (life + grace)).unwrap();
            // It began an hour before it was made, and so lives an hour longer than that.
            let hour = SignedDuration::from_hours(1);
            let error = verify(day * (life + grace) + hour + second).unwrap_err();
            assert!(error.to_string().contains("xpired"), "{error}");
            assert!(verify(-day).is_err(), "not yet valid");
        }
    }

    #[test]
    fn anothers_ended_certificate_does_not_pass_by_being_ended() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let make = || Authority::load(&Material::generate(now).unwrap()).unwrap();
        let (ours, theirs) = (make(), make());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        let (org, agent) = (
            protocol::ids::OrgId::derived(&[b"acme"]),
            protocol::ids::AgentId::derived(&[b"one"]),
        );
        let made = theirs.issue_agent_leaf(request.unwrap().der(), org, agent, now);
        let chain = made.unwrap().chain;
        let later = u64::try_from(now.as_second()).unwrap() + 31 * 86_400;
        let later = UnixTime::since_unix_epoch(Duration::from_secs(later));
        let authority = Arc::new(ours);
        let error = Agents { authority }.verify_client_cert(&chain[0], &chain[1..], later);
        assert!(matches!(
            error,
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer
            ))
        ));
    }

    #[test]
    fn a_certificate_that_does_not_fit_its_key_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let own = OwnTls {
            certificate: folder.path().join("hub.pem"),
            key: folder.path().join("hub.key"),
        };
        assert!(matches!(check_own(&own), Err(TlsError::Pem { .. })));
        let make = || rcgen::generate_simple_self_signed(vec!["hub.example".into()]).unwrap();
        let (one, two) = (make(), make());
        std::fs::write(&own.certificate, "nothing").unwrap();
        std::fs::write(&own.key, one.signing_key.serialize_pem()).unwrap();
        assert!(matches!(check_own(&own), Err(TlsError::Empty { .. })));
        std::fs::write(&own.certificate, two.cert.pem()).unwrap();
        let error = check_own(&own).unwrap_err();
        assert_eq!(error.exit(), Exit::Config);
        assert!(error.fix().unwrap().contains("the leaf first"));
        std::fs::write(&own.certificate, one.cert.pem()).unwrap();
        check_own(&own).unwrap();
    }
}
