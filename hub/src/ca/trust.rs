//! An authority at work: what signs, whom agents and hub believe, and what the hub shows of it.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use protocol::enroll::Pin;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::material::{Material, Pair, Stage};
use super::{CaError, pin_of};

/// Checks agents' certificates.
pub(crate) type Verifier = Arc<dyn ClientCertVerifier>;

/// One state of the authority. It never changes; a step makes another.
pub(super) struct Trust {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Of the root that signs.
    pub(super) pin: Pin,
    /// When the intermediate ends.
    pub(super) ends_at: Timestamp,
    pub(super) intermediate: CertificateDer<'static>,
    /// What follows the hub's leaf: the intermediate, its bridge, the roots.
    pub(super) above_hub_leaf: Vec<CertificateDer<'static>>,
    /// The one that signs first.
    pub(super) roots: Vec<(Pin, CertificateDer<'static>)>,
    /// The latest last.
    pub(super) retired: Vec<(Pin, CertificateDer<'static>)>,
    pub(super) stage: Stage,
    /// Believes each of the roots alone, in their order.
    pub(super) by_root: Vec<(Pin, Verifier)>,
    /// Believes the roots, and those that are retired: who shows a certificate of them is to be
    /// told so.
    pub(super) known: Verifier,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("pin", &self.pin)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

fn stored(reason: &'static str) -> CaError {
    CaError::Stored { reason }
}

/// Checks that the parts of a pair fit each other, and returns when its intermediate ends.
fn check(pair: &Pair) -> Result<(KeyPair, Timestamp), CaError> {
    let (_, root) = X509Certificate::from_der(&pair.root)
        .map_err(|_| stored("its root is not a certificate"))?;
    let (_, below) = X509Certificate::from_der(&pair.intermediate)
        .map_err(|_| stored("its intermediate is not a certificate"))?;
    below
        .verify_signature(Some(root.public_key()))
        .map_err(|_| stored("its root did not sign its intermediate"))?;
    let key = pair.signing_key()?;
    if below.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(stored("its intermediate's key is another's"));
    }
    let ends_at = Timestamp::from_second(below.validity().not_after.timestamp())
        .map_err(|_| stored("its intermediate ends at no time"))?;
    Ok((key, ends_at))
}

fn verifier<'a>(
    roots: impl Iterator<Item = &'a (Pin, CertificateDer<'static>)>,
) -> Result<Verifier, CaError> {
    let mut store = RootCertStore::empty();
    for (_, root) in roots {
        let added = store.add(root.clone());
        added.map_err(|_| stored("its root cannot be trusted"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|_| stored("its roots cannot be trusted"))
}

impl Trust {
    /// Puts what is stored to work.
    pub(super) fn load(material: &Material) -> Result<Self, CaError> {
        let own = &material.current;
        let beside = || material.next.iter().chain(&material.previous);
        for pair in beside() {
            check(pair)?;
        }
        let (key, ends_at) = check(own)?;
        let intermediate = CertificateDer::from(own.intermediate.clone());
        let issuer = Issuer::from_ca_cert_der(&intermediate, key)
            .map_err(|_| stored("its intermediate cannot sign"))?;
        let pinned = |der: &Vec<u8>| Ok((pin_of(der)?, CertificateDer::from(der.clone())));
        let roots = std::iter::once(own).chain(beside());
        let roots: Result<Vec<_>, CaError> = roots.map(|pair| pinned(&pair.root)).collect();
        let roots = roots?;
        let retired: Result<Vec<_>, CaError> = material.retired.iter().map(pinned).collect();
        let retired = retired?;
        let mut above_hub_leaf = vec![intermediate.clone()];
        if !own.bridge.is_empty() {
            above_hub_leaf.push(CertificateDer::from(own.bridge.clone()));
        }
        // Who pins a root must be shown it.
        above_hub_leaf.extend(roots.iter().map(|(_, root)| root.clone()));
        let by_root: Result<Vec<_>, CaError> = roots
            .iter()
            .map(|root| Ok((root.0, verifier(std::iter::once(root))?)))
            .collect();
        Ok(Self {
            issuer,
            pin: pin_of(&own.root)?,
            ends_at,
            intermediate,
            above_hub_leaf,
            by_root: by_root?,
            known: verifier(roots.iter().chain(&retired))?,
            roots,
            retired,
            stage: material.stage(),
        })
    }
}
