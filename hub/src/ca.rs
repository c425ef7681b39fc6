//! The hub's own certificate authority: root → intermediate → leaves, all ECDSA P-256.
//!
//! ```text
//! root (pinned by agents and consoles, may be taken offline)
//!  └─ intermediate (signs)
//!      ├─ hub leaf     server-auth, names of the hub, 90 days, renewed from half of its life
//!      └─ agent leaf   client-auth, spiffe://<trust domain>/org/<org>/agent/<agent>, 30 days,
//!                      renewed from half of its life
//! ```
//! A leaf is backdated by [`BACKDATED`], so that a peer whose clock is a little behind takes it at
//! once. None outlives what signed it.

pub(crate) mod life;
pub(crate) mod spiffe;

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use protocol::enroll::{HUB_NAME, Pin, TokenError};
use protocol::ids::{AgentId, OrgId};
use protocol::limits::RENEWAL_GRACE;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use serde::{Deserialize, Serialize};
use store::rows::access::AgentCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::failure::{Exit, Explain};
use spiffe::TrustDomain;

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
const REQUEST_BYTES: usize = 8 << 10;

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
            Self::Make { .. } | Self::Random(_) | Self::Request { .. } => Exit::Failed,
        }
    }
}

/// The keys and certificates of an authority, as they are stored. Secret; zeroed when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Material {
    /// PKCS #8.
    root_key: Vec<u8>,
    /// DER.
    root: Vec<u8>,
    /// PKCS #8.
    intermediate_key: Vec<u8>,
    /// DER.
    intermediate: Vec<u8>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
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
    /// Leaf, intermediate, root: who pins the root must be shown it.
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

/// The authority at work: its certificates and the key of its intermediate.
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pin: Pin,
    trust_domain: TrustDomain,
    /// When the intermediate ends.
    ends_at: Timestamp,
    agent_leaf: SignedDuration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("pin", &self.pin)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
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

impl Material {
    /// Makes a new authority. It shares nothing with any other.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub(crate) fn generate(now: Timestamp) -> Result<Self, CaError> {
        let root_key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made("the root's key"))?;
        // Another hub's certificate should be told apart by its issuer's name: with equal names
        // it would fail as forged.
        let spki = digest(&SHA256, &root_key.subject_public_key_info());
        let pin = spki.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let hub = TrustDomain::of_root_key(Pin(pin));
        let root_params = ca_params(&format!("Zero-X root {hub}"), 1, now, ROOT_LIFE)?;
        let root = root_params
            .self_signed(&root_key)
            .map_err(made("the root certificate"))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(made("the intermediate's key"))?;
        let issuer = Issuer::from_params(&root_params, &root_key);
        let name = format!("Zero-X intermediate {hub}");
        let intermediate = ca_params(&name, 0, now, INTERMEDIATE_LIFE)?
            .signed_by(&key, &issuer)
            .map_err(made("the intermediate certificate"))?;
        Ok(Self {
            root_key: root_key.serialize_der(),
            root: root.der().to_vec(),
            intermediate_key: key.serialize_der(),
            intermediate: intermediate.der().to_vec(),
        })
    }

    /// Returns the bytes to store. Secret.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(postcard::to_stdvec(self).expect("four byte strings always serialise"))
    }

    /// Reads what [`Material::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are not that.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, CaError> {
        match postcard::take_from_bytes(bytes) {
            Ok((material, [])) => Ok(material),
            Ok(_) | Err(_) => Err(CaError::Stored {
                reason: "it does not decode",
            }),
        }
    }
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
        let stored = |reason| move || CaError::Stored { reason };
        let pin = pin_of(&material.root)?;
        let parsed = X509Certificate::from_der(&material.root);
        let (_, root) = parsed.map_err(|_| stored("its root is not a certificate")())?;
        let parsed = X509Certificate::from_der(&material.intermediate);
        let (_, below) = parsed.map_err(|_| stored("its intermediate is not a certificate")())?;
        below
            .verify_signature(Some(root.public_key()))
            .map_err(|_| stored("its root did not sign its intermediate")())?;
        let pkcs8 = PrivatePkcs8KeyDer::from(material.intermediate_key.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| stored("its intermediate has no P-256 key")())?;
        if below.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(stored("its intermediate's key is another's")());
        }
        let ends_at = Timestamp::from_second(below.validity().not_after.timestamp())
            .map_err(|_| stored("its intermediate ends at no time")())?;
        let trust_domain = TrustDomain::of_root_key(pin);
        let root = CertificateDer::from(material.root.clone());
        let intermediate = CertificateDer::from(material.intermediate.clone());
        let issuer = Issuer::from_ca_cert_der(&intermediate, key)
            .map_err(|_| stored("its intermediate cannot sign")())?;
        Ok(Self {
            root,
            intermediate,
            issuer,
            pin,
            trust_domain,
            ends_at,
            agent_leaf: AGENT_LEAF_LIFE,
        })
    }

    /// Gives agents' certificates another life.
    pub(crate) fn with_agent_leaf(mut self, life: SignedDuration) -> Self {
        self.agent_leaf = life;
        self
    }

    /// Returns the validity of a leaf that is made now.
    fn leaf_validity(&self, now: Timestamp, life: SignedDuration) -> Validity {
        let validity = validity(now, life);
        Validity {
            until: validity.until.min(self.ends_at),
            ..validity
        }
    }

    /// Returns the pin of the root's key, which tokens carry.
    pub(crate) fn pin(&self) -> Pin {
        self.pin
    }

    /// Returns the trust domain of the names that this authority gives.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the trusted roots, the one that signs first.
    pub(crate) fn roots(&self) -> Vec<CertificateDer<'static>> {
        vec![self.root.clone()]
    }

    /// Returns the root certificate.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
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
        let validity = self.leaf_validity(now, HUB_LEAF_LIFE);
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
            .signed_by(&key, &self.issuer)
            .map_err(made("the hub's certificate"))?;
        Ok(HubLeaf {
            chain: vec![
                leaf.der().clone(),
                self.intermediate.clone(),
                self.root.clone(),
            ],
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
        let validity = self.leaf_validity(now, self.agent_leaf);
        let serial = serial()?;
        let mut params = params(&agent.to_string(), &serial, validity);
        let name = self.trust_domain.name_of(org, agent);
        let name = name.as_str().try_into().map_err(made("the agent's name"))?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params
            .signed_by(key, &self.issuer)
            .map_err(made("the agent's certificate"))?;
        Ok(AgentLeaf {
            chain: vec![leaf.der().clone(), self.intermediate.clone()],
            certificate: AgentCertificate {
                serial,
                not_after: validity.until,
                root: self.pin,
            },
        })
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
        assert_eq!(leaf.certificate.not_after, authority.ends_at);
        let hub = authority.issue_hub_leaf(&[], late).unwrap();
        assert_eq!(hub.validity.until, authority.ends_at);

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
        mixed.root = two.root().to_vec();
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
