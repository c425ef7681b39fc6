//! The hub's own certificate authority: root → intermediate → leaves, all ECDSA P-256.
//!
//! ```text
//! root (pinned by agents and consoles, may be taken offline)
//!  └─ intermediate (signs)
//!      ├─ hub leaf     server-auth, names of the hub, 90 days, renewed from half of its life
//!      └─ agent leaf   client-auth, spiffe://<trust domain>/org/<org>/agent/<agent>, 30 days,
//!                      renewed from half of its life
//! ```
//! The authority can be replaced, stage by stage ([`material`]): two roots are trusted then, and
//! agents that know either of them recognise the hub.
//!
//! A leaf is backdated by [`BACKDATED`], so that a peer whose clock is a little behind takes it at
//! once. None outlives what signed it.

pub(crate) mod life;
mod material;
pub(crate) mod spiffe;
mod trust;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use protocol::enroll::{HUB_NAME, Pin, TokenError};
use protocol::ids::{AgentId, OrgId};
use protocol::limits::RENEWAL_GRACE;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use serde::{Deserialize, Serialize};
use store::rows::access::AgentCertificate;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::failure::{Exit, Explain};
pub(crate) use material::{Material, Stage, Step};
use spiffe::TrustDomain;
use trust::Trust;
pub(crate) use trust::Verifier;

/// Life of the root.
const ROOT_LIFE: SignedDuration = days(20 * 365);

/// Life of the intermediate.
const INTERMEDIATE_LIFE: SignedDuration = days(10 * 365);

/// Life of a hub leaf.
const HUB_LEAF_LIFE: SignedDuration = days(90);

/// Life of an agent leaf where nothing else is set.
pub(crate) const AGENT_LEAF_LIFE: SignedDuration = days(30);

/// How far before its making a certificate is already valid; a tenth of its life where that is
/// less, so that half of a short life is not over at its beginning.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

const fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// Longest certificate request, in bytes. One for a P-256 key has some 250.
pub(crate) const REQUEST_BYTES: usize = 8 << 10;

/// Length of an uncompressed P-256 point: a tag and two coordinates (SEC 1 section 2.3.3).
const POINT_BYTES: usize = 65;

/// Says why a certificate was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CaError {
    /// A key or certificate could not be made.
    #[error("could not make {what}")]
    Make {
        /// What.
        what: &'static str,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// The stored authority is not one.
    #[error("the stored certificate authority cannot be used: {reason}")]
    Stored {
        /// What is wrong.
        reason: &'static str,
    },
    /// A name that the hub is to have is neither a host name nor an address.
    #[error("{host:?} is neither a host name nor an address")]
    Host {
        /// The name.
        host: String,
    },
    /// Another step of a replacement is due.
    #[error("`ca rotate {}` is not due: {}", step.word(), match stage {
        Stage::Steady => "no rotation is under way",
        Stage::Begun => "a rotation has begun, and its new authority does not issue yet",
        Stage::Issuing => "a rotation is under way, and its new authority issues already",
    })]
    Step {
        /// What was asked for.
        step: Step,
        /// How far it has come.
        stage: Stage,
    },
    /// The certificate request is refused.
    #[error("the certificate request is refused: {reason}")]
    Request {
        /// Why.
        reason: &'static str,
    },
}

impl Explain for CaError {
    fn exit(&self) -> Exit {
        match self {
            Self::Stored { .. } => Exit::Data,
            Self::Host { .. } => Exit::Usage,
            Self::Make { .. } | Self::Random(_) | Self::Request { .. } | Self::Step { .. } => {
                Exit::Failed
            }
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Step { stage, .. } => Some(format!(
                "the next step is `zero-x-hub ca rotate {}`; `zero-x-hub ca status` tells how far \
                 it has come",
                stage.next().word()
            )),
            Self::Make { .. }
            | Self::Random(_)
            | Self::Stored { .. }
            | Self::Host { .. }
            | Self::Request { .. } => None,
        }
    }
}

/// The time in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    /// Its beginning.
    pub(crate) from: Timestamp,
    /// Its end.
    pub(crate) until: Timestamp,
}

/// A certificate of the hub with its key.
pub(crate) struct HubLeaf {
    /// Leaf, intermediates, roots: who pins a root must be shown it.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The leaf's private key.
    pub(crate) key: PrivateKeyDer<'static>,
    /// When it is valid.
    pub(crate) validity: Validity,
}

impl fmt::Debug for HubLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubLeaf")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// A certificate of an agent.
#[derive(Debug, Clone)]
pub(crate) struct AgentLeaf {
    /// Leaf and intermediate.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// What the positive list says of it.
    pub(crate) certificate: AgentCertificate,
}

/// The authority at work. A step of its replacement changes it while the hub runs.
pub(crate) struct Authority {
    trust: RwLock<Arc<Trust>>,
    changes: watch::Sender<()>,
    trust_domain: TrustDomain,
    agent_leaf: SignedDuration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("pin", &self.pin())
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// One certificate of an authority, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaCertificate {
    /// `root`, `intermediate`, or `hub`: the one that the hub shows.
    pub(crate) what: String,
    /// `signs`, `will sign`, `trusted`, `retired`, or `shown`.
    pub(crate) role: String,
    /// Of the root that it is or leads to.
    pub(crate) pin: String,
    /// When it begins.
    pub(crate) not_before: Timestamp,
    /// When it ends.
    pub(crate) not_after: Timestamp,
}

fn made(what: &'static str) -> impl Fn(rcgen::Error) -> CaError {
    move |source| CaError::Make { what, source }
}

/// Draws a serial number: positive, 16 bytes, 126 random bits (RFC 5280 section 4.1.2.2 allows 20
/// bytes and wants it positive and unique).
fn serial() -> Result<Vec<u8>, CaError> {
    let mut bytes = vec![0; 16];
    getrandom::fill(&mut bytes).map_err(CaError::Random)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(bytes)
}

fn params(name: &str, serial: &[u8], validity: Validity) -> CertificateParams {
    let since_1970 =
        |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default());
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(validity.from);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(validity.until);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// Returns the validity of a certificate that is made now. Certificates count whole seconds.
fn validity(now: Timestamp, life: SignedDuration) -> Validity {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let backdated = BACKDATED.min(SignedDuration::from_secs(life.as_secs() / 10));
    Validity {
        from: second.saturating_sub(backdated).unwrap_or(second),
        until: second.saturating_add(life).unwrap_or(Timestamp::MAX),
    }
}

fn ca_params(
    name: &str,
    below: u8,
    now: Timestamp,
    life: SignedDuration,
) -> Result<CertificateParams, CaError> {
    let mut params = params(name, &serial()?, validity(now, life));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Returns the pin of a root: SHA-256 of its SubjectPublicKeyInfo.
fn pin_of(root: &[u8]) -> Result<Pin, CaError> {
    Pin::of_certificate(root).map_err(|_: TokenError| CaError::Stored {
        reason: "its root is not a certificate",
    })
}

impl Authority {
    /// Puts a stored authority to work.
    ///
    /// # Errors
    ///
    /// [`CaError::Stored`] when its parts do not fit each other.
    pub(crate) fn load(material: &Material) -> Result<Self, CaError> {
        Ok(Self {
            trust: RwLock::new(Arc::new(Trust::load(material)?)),
            changes: watch::Sender::new(()),
            trust_domain: TrustDomain::of_root_key(Pin(material.first)),
            agent_leaf: AGENT_LEAF_LIFE,
        })
    }

    /// Goes on with what a step of its replacement has made of it.
    ///
    /// # Errors
    ///
    /// As [`Authority::load`]; the old one then stays at work.
    pub(crate) fn replace(&self, material: &Material) -> Result<(), CaError> {
        let fresh = Arc::new(Trust::load(material)?);
        // A panic while it is held would leave it whole: every change is one assignment.
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.changes.send_replace(());
        Ok(())
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a receiver that wakes when the authority was replaced.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Gives agents' certificates another life.
    pub(crate) fn with_agent_leaf(mut self, life: SignedDuration) -> Self {
        self.agent_leaf = life;
        self
    }

    /// Returns how long agents' certificates live.
    pub(crate) fn agent_leaf(&self) -> SignedDuration {
        self.agent_leaf
    }

    /// Returns when the root and the intermediate that sign are valid.
    pub(crate) fn validities(&self) -> (Option<Validity>, Option<Validity>) {
        let trust = self.trust();
        let root = trust.roots.first().and_then(|(_, root)| validity_of(root));
        (root, validity_of(&trust.intermediate))
    }

    /// Returns how far a replacement has come.
    pub(crate) fn stage(&self) -> Stage {
        self.trust().stage
    }

    /// Returns the pin of the root that signs.
    pub(crate) fn pin(&self) -> Pin {
        self.trust().pin
    }

    /// Returns the pins of the trusted roots, the one that signs first; tokens carry them.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        self.trust().roots.iter().map(|(pin, _)| *pin).collect()
    }

    /// Returns the pin of the root that signed until now, while it is still trusted.
    pub(crate) fn previous_pin(&self) -> Option<Pin> {
        let trust = self.trust();
        let others = || {
            trust
                .roots
                .iter()
                .map(|(pin, _)| *pin)
                .find(|pin| *pin != trust.pin)
        };
        match trust.stage {
            Stage::Issuing => others(),
            Stage::Steady | Stage::Begun => None,
        }
    }

    /// Says whether this was a root of this hub that is trusted no more.
    pub(crate) fn has_retired(&self, pin: Pin) -> bool {
        let trust = self.trust();
        trust.retired.iter().any(|(retired, _)| *retired == pin)
    }

    /// Returns the trust domain of the names that this authority gives.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the trusted roots, the one that signs first.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        let trust = self.trust();
        trust.roots.iter().map(|(_, root)| root.clone()).collect()
    }

    /// Returns what believes the trusted roots and those that are retired. Who shows a
    /// certificate of these must be refused with words, by [`Authority::verifiers`].
    pub(crate) fn known(&self) -> Verifier {
        Arc::clone(&self.trust().known)
    }

    /// Returns what believes each trusted root alone, the one that signs first.
    pub(crate) fn verifiers(&self) -> Vec<(Pin, Verifier)> {
        self.trust().by_root.clone()
    }

    /// Returns what the hub shows above its leaf.
    pub(crate) fn above_hub_leaf(&self) -> Vec<CertificateDer<'static>> {
        self.trust().above_hub_leaf.clone()
    }

    /// Returns the authority's certificates, those that sign first.
    pub(crate) fn certificates(&self) -> Vec<CaCertificate> {
        let trust = self.trust();
        let describe = |what: &str, role: &str, pin: Pin, der: &CertificateDer<'_>| {
            let validity = validity_of(der)?;
            Some(CaCertificate {
                what: what.to_owned(),
                role: role.to_owned(),
                pin: pin.to_string(),
                not_before: validity.from,
                not_after: validity.until,
            })
        };
        let roots = trust.roots.iter().map(|(pin, root)| {
            let role = match (*pin == trust.pin, trust.stage) {
                (true, _) => "signs",
                (false, Stage::Begun) => "will sign",
                (false, Stage::Steady | Stage::Issuing) => "trusted",
            };
            describe("root", role, *pin, root)
        });
        let retired = trust.retired.iter();
        let retired = retired.map(|(pin, root)| describe("root", "retired", *pin, root));
        let below = describe("intermediate", "signs", trust.pin, &trust.intermediate);
        roots.chain([below]).chain(retired).flatten().collect()
    }

    /// Makes a key and a certificate for the hub itself. Besides `hosts` it names
    /// [`HUB_NAME`], by which agents ask, and this machine.
    ///
    /// # Errors
    ///
    /// [`CaError::Host`] for a host that is neither a name nor an address.
    pub(crate) fn issue_hub_leaf(
        &self,
        hosts: &[String],
        now: Timestamp,
    ) -> Result<HubLeaf, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made("the hub's key"))?;
        let trust = self.trust();
        let validity = leaf_validity(&trust, now, HUB_LEAF_LIFE);
        let mut params = params(HUB_NAME, &serial()?, validity);
        let own = [HUB_NAME, "localhost", "127.0.0.1", "::1"];
        for host in own.into_iter().chain(hosts.iter().map(String::as_str)) {
            let name = match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.try_into().map_err(|_| CaError::Host {
                    host: host.to_owned(),
                })?),
            };
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params
            .signed_by(&key, &trust.issuer)
            .map_err(made("the hub's certificate"))?;
        let above = trust.above_hub_leaf.iter().cloned();
        Ok(HubLeaf {
            chain: std::iter::once(leaf.der().clone()).chain(above).collect(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            validity,
        })
    }

    /// Makes a certificate for the key of a PKCS #10 request. Every name in the request is
    /// ignored: the hub gives the names.
    ///
    /// # Errors
    ///
    /// [`CaError::Request`] when the request is not signed by its own key, or the key is not
    /// ECDSA P-256.
    pub(crate) fn issue_agent_leaf(
        &self,
        request: &[u8],
        org: OrgId,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<AgentLeaf, CaError> {
        let key = key_of(request)?;
        self.certify(&key, org, agent, now)
    }

    /// Makes a new certificate for an agent that has one, by its request. The key stays: batches
    /// that wait in the agent's spool, and evidence, are signed with it, and who could exchange it
    /// with a stolen one could lock the agent out.
    ///
    /// # Errors
    ///
    /// As [`Authority::issue_agent_leaf`], and when the request is for another key than `own`, an
    /// uncompressed point.
    pub(crate) fn renew_agent_leaf(
        &self,
        request: &[u8],
        own: &[u8],
        org: OrgId,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<AgentLeaf, CaError> {
        let key = key_of(request)?;
        if key.der_bytes() != own {
            let reason = "it is for another key than the agent's, which takes a new enrolment";
            return Err(CaError::Request { reason });
        }
        self.certify(&key, org, agent, now)
    }

    fn certify(
        &self,
        key: &rcgen::PublicKey,
        org: OrgId,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<AgentLeaf, CaError> {
        let trust = self.trust();
        let validity = leaf_validity(&trust, now, self.agent_leaf);
        let serial = serial()?;
        let mut params = params(&agent.to_string(), &serial, validity);
        let name = self.trust_domain.name_of(org, agent);
        let name = name.as_str().try_into().map_err(made("the agent's name"))?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params
            .signed_by(key, &trust.issuer)
            .map_err(made("the agent's certificate"))?;
        Ok(AgentLeaf {
            chain: vec![leaf.der().clone(), trust.intermediate.clone()],
            certificate: AgentCertificate {
                serial,
                not_after: validity.until,
                root: trust.pin,
            },
        })
    }
}

/// Returns the validity of a leaf that is made now.
fn leaf_validity(trust: &Trust, now: Timestamp, life: SignedDuration) -> Validity {
    let validity = validity(now, life);
    Validity {
        until: validity.until.min(trust.ends_at),
        ..validity
    }
}

/// Returns the key of a PKCS #10 request.
fn key_of(request: &[u8]) -> Result<rcgen::PublicKey, CaError> {
    let refused = |reason| CaError::Request { reason };
    if request.len() > REQUEST_BYTES {
        return Err(refused("it is too long"));
    }
    let request = CertificateSigningRequestDer::from(request);
    // This checks the signature.
    let request = CertificateSigningRequestParams::from_der(&request)
        .map_err(|_| refused("it is malformed or not signed by its own key"))?;
    let key = request.public_key;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != POINT_BYTES {
        return Err(refused("its key is not ECDSA P-256"));
    }
    Ok(key)
}

/// Returns until when an agent's certificate may be renewed.
pub(crate) fn renewable_until(validity: Validity) -> Timestamp {
    let life = validity.until.duration_since(validity.from);
    let grace = SignedDuration::try_from(RENEWAL_GRACE).unwrap_or(life);
    validity
        .until
        .saturating_add(life.min(grace))
        .unwrap_or(Timestamp::MAX)
}

/// Reads when a certificate is valid; `None` where it cannot be read.
pub(crate) fn validity_of(certificate: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = certificate.validity();
    Some(Validity {
        from: at(validity.not_before)?,
        until: at(validity.not_after)?,
    })
}

/// Says whether a certificate should be replaced: half of its life is over.
pub(crate) fn is_due(validity: Validity, now: Timestamp) -> bool {
    let life = validity.until.duration_since(validity.from);
    now.duration_since(validity.from) >= life / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::extensions::{GeneralName, ParsedExtension};

    fn now() -> Timestamp {
        "2026-03-01T10:00:00.5Z".parse().unwrap()
    }

    fn authority() -> Authority {
        let stored = Material::generate(now()).unwrap().to_bytes();
        Authority::load(&Material::from_bytes(&stored).unwrap()).unwrap()
    }

    fn request(params: &CertificateParams) -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = params.serialize_request(&key).unwrap().der().to_vec();
        (key, request)
    }

    fn ids() -> (OrgId, AgentId) {
        (OrgId::derived(&[b"acme"]), AgentId::derived(&[b"one"]))
    }

    #[test]
    fn an_agent_leaf_carries_the_names_the_hub_gives_and_none_of_the_request() {
        let authority = authority();
        let (org, agent) = ids();
        let mut wish = CertificateParams::new(vec!["admin.example".into()]).unwrap();
        let other = format!("spiffe://elsewhere/org/{org}/agent/{agent}");
        wish.subject_alt_names
            .push(SanType::URI(other.as_str().try_into().unwrap()));
        wish.distinguished_name.push(DnType::CommonName, "root");
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (key, request) = request(&wish);
        let leaf = authority
            .issue_agent_leaf(&request, org, agent, now())
            .unwrap();

        let (_, read) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
        assert_eq!(
            read.public_key().subject_public_key.data.as_ref(),
            key.der_bytes()
        );
        let names = read.subject_alternative_name().unwrap().unwrap();
        let want = authority.trust_domain().name_of(org, agent);
        assert_eq!(names.value.general_names, [GeneralName::URI(want.as_str())]);
        assert_eq!(read.subject().to_string(), format!("CN={agent}"));
        assert!(!read.is_ca());
        let usage = read.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert_eq!(read.raw_serial(), leaf.certificate.serial);
        let until = read.validity().not_after.timestamp();
        assert_eq!(leaf.certificate.not_after.as_second(), until);
        assert_eq!(until - now().as_second(), 30 * 86_400);
        assert_eq!(leaf.certificate.root, authority.pin());
        let (_, issuer) = X509Certificate::from_der(&leaf.chain[1]).unwrap();
        read.verify_signature(Some(issuer.public_key())).unwrap();
    }

    #[test]
    fn a_request_that_is_not_signed_by_its_own_key_is_refused() {
        let authority = authority();
        let (org, agent) = ids();
        let refused = |request: &[u8]| {
            let error = authority.issue_agent_leaf(request, org, agent, now());
            error.unwrap_err().to_string()
        };
        let (_, good) = request(&CertificateParams::default());
        // The last byte belongs to the signature.
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        let malformed = "the certificate request is refused: it is malformed or not signed by its \
                         own key";
        assert_eq!(refused(&forged), malformed);
        assert_eq!(refused(b"hello"), malformed);
        let long = vec![0; REQUEST_BYTES + 1];
        assert!(refused(&long).ends_with("it is too long"));
        let strange = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let strange = CertificateParams::default().serialize_request(&strange);
        assert!(refused(strange.unwrap().der()).ends_with("its key is not ECDSA P-256"));
        assert!(authority.issue_agent_leaf(&good, org, agent, now()).is_ok());
    }

    #[test]
    fn a_renewal_is_for_the_agents_own_key_and_no_other() {
        let authority = authority();
        let (org, agent) = ids();
        let (key, own) = request(&CertificateParams::default());
        let (_, other) = request(&CertificateParams::default());
        let renew = |request: &[u8]| {
            authority.renew_agent_leaf(request, key.der_bytes(), org, agent, now())
        };
        let leaf = renew(&own).unwrap();
        let (_, read) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
        assert_eq!(
            read.public_key().subject_public_key.data.as_ref(),
            key.der_bytes()
        );
        let error = renew(&other).unwrap_err().to_string();
        assert!(error.contains("another key"), "{error}");
    }

    #[test]
    fn no_leaf_outlives_what_signed_it_and_a_short_one_is_not_due_at_once() {
        let authority = authority();
        let (org, agent) = ids();
        let (_, own) = request(&CertificateParams::default());
        let late = now() + INTERMEDIATE_LIFE - days(10);
        let leaf = authority.issue_agent_leaf(&own, org, agent, late).unwrap();
        assert_eq!(leaf.certificate.not_after, authority.trust().ends_at);
        let hub = authority.issue_hub_leaf(&[], late).unwrap();
        assert_eq!(hub.validity.until, authority.trust().ends_at);

        let short = authority.with_agent_leaf(SignedDuration::from_secs(40));
        let leaf = short.issue_agent_leaf(&own, org, agent, now()).unwrap();
        let validity = validity_of(&leaf.chain[0]).unwrap();
        assert!(!is_due(validity, now() + SignedDuration::from_secs(15)));
        assert!(is_due(validity, now() + SignedDuration::from_secs(20)));
        // It may be renewed for as long again as it lived; one of a year for 30 days.
        let grace = renewable_until(validity).duration_since(validity.until);
        assert_eq!(grace, SignedDuration::from_secs(44));
        let year = Validity {
            from: now(),
            until: now() + days(365),
        };
        assert_eq!(renewable_until(year), now() + days(395));
    }

    #[test]
    fn the_hub_leaf_is_for_servers_and_its_chain_ends_in_the_pinned_root() {
        let authority = authority();
        let hosts = ["hub.example".to_owned(), "192.0.2.7".to_owned()];
        let leaf = authority.issue_hub_leaf(&hosts, now()).unwrap();
        let chain: Vec<X509Certificate<'_>> = leaf
            .chain
            .iter()
            .map(|der| X509Certificate::from_der(der).unwrap().1)
            .collect();
        let [read, intermediate, root] = chain.as_slice() else {
            panic!("a chain of three");
        };
        let usage = read.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth);
        let names = read.subject_alternative_name().unwrap().unwrap();
        let names = &names.value.general_names;
        for name in [HUB_NAME, "localhost", "hub.example"] {
            assert!(names.contains(&GeneralName::DNSName(name)), "{name}");
        }
        assert!(names.contains(&GeneralName::IPAddress(&[192, 0, 2, 7])));
        read.verify_signature(Some(intermediate.public_key()))
            .unwrap();
        intermediate
            .verify_signature(Some(root.public_key()))
            .unwrap();
        root.verify_signature(None).unwrap();
        assert_eq!(
            Pin::of_certificate(&leaf.chain[2]).unwrap(),
            authority.pin()
        );
        let below = |certificate: &X509Certificate<'_>| {
            certificate.extensions().iter().find_map(|extension| {
                if let ParsedExtension::BasicConstraints(ca) = extension.parsed_extension() {
                    ca.ca.then_some(ca.path_len_constraint)
                } else {
                    None
                }
            })
        };
        assert_eq!(
            (below(root), below(intermediate)),
            (Some(Some(1)), Some(Some(0)))
        );
        let bad = authority.issue_hub_leaf(&["hüb".to_owned()], now());
        assert!(matches!(bad, Err(CaError::Host { .. })));
    }

    #[test]
    fn two_authorities_share_neither_pin_nor_trust_domain() {
        let (one, two) = (authority(), authority());
        assert_ne!(one.pin(), two.pin());
        assert_ne!(one.trust_domain(), two.trust_domain());
        let mut mixed = Material::generate(now()).unwrap();
        mixed.current.root = two.roots()[0].to_vec();
        assert!(matches!(
            Authority::load(&mixed),
            Err(CaError::Stored { .. })
        ));
    }

    #[test]
    fn a_hub_leaf_is_renewed_from_half_of_its_life() {
        let leaf = authority().issue_hub_leaf(&[], now()).unwrap();
        let day = SignedDuration::from_hours(24);
        assert!(!is_due(leaf.validity, now()));
        assert!(!is_due(leaf.validity, now() + day * 44));
        assert!(is_due(leaf.validity, now() + day * 45));
        assert!(is_due(leaf.validity, now() + day * 400));
    }
}
