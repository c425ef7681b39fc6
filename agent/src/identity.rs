//! Who this agent is: its key, its certificate, the hub's root, and the key of its spool.
//!
//! Enrolment makes the folder `identity/` as a whole: a folder beside it is filled, synced and
//! renamed. So it is there completely or not at all, and `agent.pem` in it is what the systemd
//! unit waits for.
//!
//! A renewal exchanges `agent.pem` alone, and a new authority `ca.pem` alone, each whole by one
//! rename: the key stays, so that every mixture of old and new files is an identity that the hub
//! lets in. The key stays because batches that wait in the spool are signed with it. Certificates
//! from before are kept in `earlier.pem`, for a hub that is set back.

mod earlier;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use jiff::{SignedDuration, Timestamp};
use protocol::batch::{BatchError, Signer};
use protocol::bundle::HubKey;
use protocol::enroll::Pin;
use protocol::ids::{AgentId, OrgId};
use protocol::limits::RENEWAL_GRACE;
use rcgen::PublicKeyData;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::layout::{self, Layout, LayoutError};
use crate::seal::{self, SealKey};
pub(crate) use earlier::Chain;

/// Version of `enrolment.json`.
const FORMAT: u32 = 1;

/// Most roots that a hub may have its agents trust.
pub(crate) const MOST_ROOTS: usize = 4;

/// Says why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IdentityError {
    /// This agent has not enrolled.
    #[error("this agent is not enrolled")]
    None,
    /// A file could not be read or written.
    #[error("could not use the identity's files")]
    File(#[from] LayoutError),
    /// A file is not what enrolment wrote.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// What the hub sent for it does not fit it.
    #[error("what the hub sent does not fit this agent: {reason}")]
    Unfit { reason: &'static str },
    /// A newer program wrote it.
    #[error("{} has format {found}; this program knows {FORMAT}", path.display())]
    Newer { path: PathBuf, found: u32 },
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match &error {
            IdentityError::None => Failure::of(Exit::Config, "there is no identity", error).fix(
                "make a token at the hub (`zero-x agent token create --org O`), then run \
                 `zero-x-agent enroll --token-file F`",
            ),
            IdentityError::Newer { .. } => {
                Failure::of(Exit::Data, "cannot read the identity", error)
                    .fix("install the version that wrote it, or a newer one")
            }
            IdentityError::Damaged { .. } => {
                Failure::of(Exit::Data, "cannot read the identity", error).fix(
                    "restore the file, or enrol again: `zero-x-agent enroll --replace \
                     --token-file F`",
                )
            }
            IdentityError::Unfit { .. } => {
                Failure::of(Exit::Data, "cannot change the identity", error)
                    .fix("agent and hub should be of one version; update the older")
            }
            IdentityError::File(file) => {
                let fix = file.fix();
                Failure::of(Exit::No, "cannot read the identity", error).fix(fix)
            }
        }
    }
}

/// What enrolment left, checked.
pub(crate) struct Identity {
    pub(crate) agent: AgentId,
    pub(crate) org: OrgId,
    /// Addresses of the hub, in the order to try.
    pub(crate) hubs: Vec<String>,
    /// Certificate chain, leaf first.
    pub(crate) chain: Chain,
    /// The chains from before the last renewals, newest first.
    pub(crate) earlier: Vec<Chain>,
    /// The hub's roots, the only ones that this agent trusts: two while the hub's authority is
    /// being replaced.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// When the certificate begins and ends to be valid.
    pub(crate) valid: (Timestamp, Timestamp),
    /// What bundles for the hub are sealed to.
    pub(crate) bundle_key: Option<HubKey>,
    key: Zeroizing<Vec<u8>>,
    spool_key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("agent", &self.agent)
            .field("org", &self.org)
            .finish_non_exhaustive()
    }
}

/// What a hub issued, to be written as an identity.
pub(crate) struct Issued<'a> {
    pub(crate) chain: &'a [CertificateDer<'static>],
    /// The hub's roots.
    pub(crate) roots: &'a [CertificateDer<'static>],
    /// PKCS #8 of the agent's key.
    pub(crate) key: &'a Zeroizing<Vec<u8>>,
    pub(crate) hubs: Vec<String>,
    /// What bundles are to be sealed to.
    pub(crate) bundle_key: HubKey,
    pub(crate) at: Timestamp,
}

/// What the files say beside the certificates.
#[derive(Debug, Serialize, Deserialize)]
struct Enrolment {
    format: u32,
    agent: AgentId,
    org: OrgId,
    hubs: Vec<String>,
    enrolled_at: Timestamp,
    /// Hexadecimal digits; an enrolment of before has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle_key: Option<String>,
}

/// The names in an agent's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) org: OrgId,
    pub(crate) agent: AgentId,
    pub(crate) valid: (Timestamp, Timestamp),
}

/// Reads organisation and agent from a leaf's one SPIFFE name,
/// `spiffe://<trust domain>/org/<org>/agent/<agent>`.
///
/// # Errors
///
/// A clause that says what is missing.
pub(crate) fn names_of(leaf: &CertificateDer<'_>) -> Result<Names, &'static str> {
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| "it is not a certificate")?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.ok_or("the certificate names nobody")?;
    let mut uris = names.value.general_names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err("the certificate has not exactly one SPIFFE name");
    };
    let path = uri
        .strip_prefix("spiffe://")
        .ok_or("the certificate has no SPIFFE name")?;
    let parts: Vec<&str> = path.split('/').collect();
    let &[_, "org", org, "agent", agent] = parts.as_slice() else {
        return Err("the certificate's SPIFFE name is not an agent's");
    };
    let at =
        |time: ASN1Time| Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH);
    let validity = certificate.validity();
    Ok(Names {
        org: org
            .parse()
            .map_err(|_| "the organisation in the certificate is no id")?,
        agent: agent
            .parse()
            .map_err(|_| "the agent in the certificate is no id")?,
        valid: (at(validity.not_before), at(validity.not_after)),
    })
}

impl Identity {
    /// Returns whether there is an identity.
    pub(crate) fn exists(layout: &Layout) -> bool {
        layout.identity().join("agent.pem").exists()
    }

    /// Reads and checks the identity.
    ///
    /// # Errors
    ///
    /// [`IdentityError::None`] before enrolment; else what is wrong with which file.
    pub(crate) fn load(layout: &Layout) -> Result<Self, IdentityError> {
        let folder = layout.identity();
        let damaged = |name: &str, reason: &str| IdentityError::Damaged {
            path: folder.join(name),
            reason: reason.to_owned(),
        };
        let read = |name: &str| match layout::read_private(&folder.join(name)) {
            Err(LayoutError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && name == "agent.pem" =>
            {
                Err(IdentityError::None)
            }
            other => other.map_err(IdentityError::from),
        };
        let chain = read("agent.pem")?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<_, _>>()
            .map_err(|_| damaged("agent.pem", "it is not PEM"))?;
        let leaf = chain
            .first()
            .ok_or_else(|| damaged("agent.pem", "it is empty"))?;
        let names = names_of(leaf).map_err(|reason| damaged("agent.pem", reason))?;
        let enrolment = read("enrolment.json")?;
        let enrolment: Enrolment = serde_json::from_slice(&enrolment)
            .map_err(|_| damaged("enrolment.json", "it is not what enrolment wrote"))?;
        if enrolment.format > FORMAT {
            return Err(IdentityError::Newer {
                path: folder.join("enrolment.json"),
                found: enrolment.format,
            });
        }
        let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read("ca.pem")?)
            .collect::<Result<_, _>>()
            .map_err(|_| damaged("ca.pem", "it is not PEM"))?;
        if roots.is_empty() {
            return Err(damaged("ca.pem", "it is empty"));
        }
        let key = PrivatePkcs8KeyDer::from_pem_slice(&read("agent.key")?)
            .map_err(|_| damaged("agent.key", "it is not PEM"))?;
        let mut spool_key = Zeroizing::new([0; 32]);
        let hex = read("spool.key")?;
        let digits = data_encoding::HEXLOWER;
        let fits = digits.decode_len(hex.len()) == Ok(32);
        if !fits || digits.decode_mut(&hex, spool_key.as_mut_slice()).is_err() {
            return Err(damaged("spool.key", "it is not 64 hexadecimal digits"));
        }
        let bundle_key = enrolment.bundle_key.as_ref().map(|text| {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
            bytes.and_then(|bytes| HubKey::from_bytes(&bytes).ok())
        });
        let bundle_key = match bundle_key {
            Some(None) => return Err(damaged("enrolment.json", "its key for bundles is none")),
            Some(key) => key,
            None => None,
        };
        let identity = Self {
            bundle_key,
            earlier: earlier::load(layout)?
                .into_iter()
                .filter(|known| known.first() != chain.first())
                .collect(),
            agent: names.agent,
            org: names.org,
            hubs: enrolment.hubs,
            roots,
            valid: names.valid,
            key: Zeroizing::new(key.secret_pkcs8_der().to_vec()),
            spool_key,
            chain,
        };
        identity
            .signer()
            .map_err(|_| damaged("agent.key", "it is no P-256 key"))?;
        Ok(identity)
    }

    /// Returns a request for a certificate for the agent's key (PKCS #10, DER). The hub ignores its
    /// names.
    ///
    /// # Errors
    ///
    /// When the key cannot sign.
    pub(crate) fn request(&self) -> Result<Vec<u8>, rcgen::Error> {
        let key = self.key_pair()?;
        let request = rcgen::CertificateParams::default().serialize_request(&key)?;
        Ok(request.der().to_vec())
    }

    fn key_pair(&self) -> Result<rcgen::KeyPair, rcgen::Error> {
        let key = PrivatePkcs8KeyDer::from(self.key.as_slice());
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// Returns until when the certificate may be renewed. The hub decides; this is for words.
    pub(crate) fn renewable_until(&self) -> Timestamp {
        let (from, until) = self.valid;
        let life = until.duration_since(from);
        let grace = SignedDuration::try_from(RENEWAL_GRACE).unwrap_or(life);
        until
            .saturating_add(life.min(grace))
            .unwrap_or(Timestamp::MAX)
    }

    /// Puts a renewed certificate in the place of the old one, durably.
    ///
    /// # Errors
    ///
    /// When it is not for this agent's key and names, or cannot be written; nothing has changed
    /// then.
    pub(crate) fn renew(
        &mut self,
        layout: &Layout,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<(), IdentityError> {
        let path = layout.identity().join("agent.pem");
        let unfit = |reason: &'static str| IdentityError::Unfit { reason };
        let leaf = chain.first().ok_or_else(|| unfit("it is empty"))?;
        let names = names_of(leaf).map_err(unfit)?;
        if (names.org, names.agent) != (self.org, self.agent) {
            return Err(unfit("it names somebody else"));
        }
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| unfit("it is no certificate"))?;
        let own = self
            .key_pair()
            .map_err(|_| unfit("this agent's key is no P-256 key"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != own.der_bytes() {
            return Err(unfit("it is for another key"));
        }
        // First: a crash between the two leaves the same certificate in both.
        self.earlier = earlier::keep(layout, self)?;
        layout::write_private(&path, pems(&chain).as_bytes())?;
        self.valid = names.valid;
        self.chain = chain;
        Ok(())
    }

    /// Trusts other roots from here on, durably; says whether they are others.
    ///
    /// # Errors
    ///
    /// When there is none, one is no certificate, or they cannot be written; nothing has changed
    /// then.
    pub(crate) fn trust(
        &mut self,
        layout: &Layout,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<bool, IdentityError> {
        if roots == self.roots {
            return Ok(false);
        }
        let unfit = |reason: &'static str| IdentityError::Unfit { reason };
        if roots.is_empty() || roots.len() > MOST_ROOTS {
            return Err(unfit("it has no root, or too many"));
        }
        if roots.iter().any(|root| Pin::of_certificate(root).is_err()) {
            return Err(unfit("a root is no certificate"));
        }
        layout::write_private(&layout.identity().join("ca.pem"), pems(&roots).as_bytes())?;
        self.roots = roots;
        Ok(true)
    }

    /// Returns the agent's private key for TLS.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }

    /// Returns the key that seals the spool.
    pub(crate) fn spool_key(&self) -> SealKey {
        SealKey::new(&self.spool_key)
    }

    /// Returns what signs batches.
    ///
    /// # Errors
    ///
    /// When the key is no P-256 key.
    pub(crate) fn signer(&self) -> Result<BatchSigner, BatchError> {
        let rng = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.key, &rng);
        Ok(BatchSigner {
            pair: pair.map_err(|_| BatchError::Sign)?,
            rng,
        })
    }

    /// Returns the public key of the certificate: an uncompressed P-256 point.
    ///
    /// # Errors
    ///
    /// When the key is no P-256 key.
    pub(crate) fn public_key(&self) -> Result<Vec<u8>, BatchError> {
        let signer = self.signer()?;
        Ok(signer.pair.public_key().as_ref().to_vec())
    }

    /// Writes what a hub issued in the place of whatever was there.
    ///
    /// # Errors
    ///
    /// When a file cannot be written; the old identity is then untouched.
    pub(crate) fn store(layout: &Layout, issued: &Issued<'_>) -> Result<Names, IdentityError> {
        let folder = layout.identity();
        let unfit = |reason: &str| IdentityError::Damaged {
            path: folder.join("agent.pem"),
            reason: reason.to_owned(),
        };
        let leaf = issued
            .chain
            .first()
            .ok_or_else(|| unfit("the hub sent no certificate"))?;
        let names = names_of(leaf).map_err(unfit)?;
        let enrolment = Enrolment {
            format: FORMAT,
            agent: names.agent,
            org: names.org,
            hubs: issued.hubs.clone(),
            enrolled_at: issued.at,
            bundle_key: Some(data_encoding::HEXLOWER.encode(issued.bundle_key.as_bytes())),
        };
        let fresh = folder.with_extension("new");
        let write = |source| LayoutError::Write {
            path: folder.clone(),
            source,
        };
        remove_dir(&fresh).map_err(write)?;
        layout::make_private_dir(&fresh)?;
        let chain = pems(issued.chain);
        let key = Zeroizing::new(pem("PRIVATE KEY", issued.key));
        let spool_key = Zeroizing::new(data_encoding::HEXLOWER.encode(&seal::random::<32>()));
        let enrolment =
            serde_json::to_vec_pretty(&enrolment).expect("plain structs always serialise");
        for (name, content) in [
            ("agent.key", key.as_bytes()),
            ("spool.key", spool_key.as_bytes()),
            ("ca.pem", pems(issued.roots).as_bytes()),
            ("enrolment.json", enrolment.as_slice()),
            ("agent.pem", chain.as_bytes()),
        ] {
            layout::write_private(&fresh.join(name), content)?;
        }
        let old = folder.with_extension("old");
        let swapped = (|| {
            remove_dir(&old)?;
            if folder.exists() {
                fs::rename(&folder, &old)?;
            }
            fs::rename(&fresh, &folder)?;
            layout::sync_parent(&folder)?;
            remove_dir(&old)
        })();
        swapped.map_err(write)?;
        Ok(names)
    }

    /// Finishes an exchange of identities that a crash cut between its two renames.
    ///
    /// # Errors
    ///
    /// When the folders cannot be renamed.
    pub(crate) fn recover(layout: &Layout) -> Result<(), IdentityError> {
        let folder = layout.identity();
        let old = folder.with_extension("old");
        if !folder.exists() && old.exists() {
            fs::rename(&old, &folder).map_err(|source| LayoutError::Write {
                path: folder.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Removes the identity.
    ///
    /// # Errors
    ///
    /// When it cannot be removed whole.
    pub(crate) fn remove(layout: &Layout) -> Result<(), IdentityError> {
        let folder = layout.identity();
        let removed = remove_dir(&folder).map_err(|source| LayoutError::Write {
            path: folder.clone(),
            source,
        });
        removed.map_err(IdentityError::from)
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns certificates as PEM, one after the other.
fn pems(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// Returns DER as PEM (RFC 7468 section 2): base64 in lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 64);
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, below) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = below;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Signs batches with the key of the agent's certificate.
pub(crate) struct BatchSigner {
    pair: EcdsaKeyPair,
    rng: SystemRandom,
}

impl Signer for BatchSigner {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self
            .pair
            .sign(&self.rng, message)
            .map_err(|_| BatchError::Sign)?;
        signature.as_ref().try_into().map_err(|_| BatchError::Sign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::bundle::HubSecret;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

    /// A self-signed certificate with an agent's name, and its key.
    fn issued(uri: &str) -> (CertificateDer<'static>, Zeroizing<Vec<u8>>) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let certificate = params.self_signed(&key).unwrap();
        (
            certificate.der().clone(),
            Zeroizing::new(key.serialize_der()),
        )
    }

    fn name_of(agent: AgentId) -> String {
        let org = OrgId::derived(&[b"o"]);
        format!("spiffe://hub.example/org/{org}/agent/{agent}")
    }

    fn store(layout: &Layout, agent: AgentId) {
        let (leaf, key) = issued(&name_of(agent));
        let issued = Issued {
            chain: std::slice::from_ref(&leaf),
            roots: std::slice::from_ref(&leaf),
            key: &key,
            hubs: vec!["hub.example:7443".into()],
            bundle_key: HubSecret::derive(&[1; 32]).public(),
            at: Timestamp::UNIX_EPOCH,
        };
        Identity::store(layout, &issued).unwrap();
    }

    #[test]
    fn an_identity_survives_its_files_and_only_its_owner_reads_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert!(matches!(Identity::load(&layout), Err(IdentityError::None)));
        let agent = AgentId::derived(&[b"a"]);
        store(&layout, agent);
        let identity = Identity::load(&layout).unwrap();
        assert_eq!(identity.agent, agent);
        assert_eq!(identity.hubs, ["hub.example:7443"]);
        identity.signer().unwrap().sign(b"x").unwrap();
        assert_eq!(format!("{identity:?}").matches("key").count(), 0);
        for entry in fs::read_dir(layout.identity()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.path().display());
        }
    }

    /// A certificate for the key of an identity.
    fn renewed(identity: &Identity, uri: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let key = identity.key_pair().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_renewal_exchanges_the_certificate_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let agent = AgentId::derived(&[b"a"]);
        store(&layout, agent);
        let mut identity = Identity::load(&layout).unwrap();
        let key = fs::read(layout.identity().join("agent.key")).unwrap();
        let fresh = renewed(&identity, &name_of(agent));
        // A crash left half of a file behind.
        fs::write(layout.identity().join("agent.new"), "-----BEGIN").unwrap();
        identity.renew(&layout, vec![fresh.clone()]).unwrap();
        let read = Identity::load(&layout).unwrap();
        assert_eq!(read.chain, std::slice::from_ref(&fresh));
        assert_eq!(read.valid, identity.valid);
        assert_eq!(read.valid.1.to_string(), "2031-01-01T00:00:00Z");
        assert_eq!(fs::read(layout.identity().join("agent.key")).unwrap(), key);

        let stranger = AgentId::derived(&[b"b"]);
        let bad = [
            vec![],
            vec![CertificateDer::from(vec![1, 2, 3])],
            vec![renewed(&identity, &name_of(stranger))],
            vec![issued(&name_of(agent)).0],
        ];
        for chain in bad {
            let error = identity.renew(&layout, chain).unwrap_err();
            assert!(matches!(error, IdentityError::Unfit { .. }), "{error}");
        }
        assert_eq!(Identity::load(&layout).unwrap().chain, [fresh]);
    }

    /// A certificate for the key of an identity that is valid from a year on, in the chain that a
    /// hub sends.
    fn chain_from(identity: &Identity, year: i32) -> Chain {
        let mut params = CertificateParams::default();
        let name = name_of(identity.agent);
        params.subject_alt_names = vec![SanType::URI(name.as_str().try_into().unwrap())];
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        let leaf = params.self_signed(&identity.key_pair().unwrap()).unwrap();
        let above = CertificateParams::default();
        let above = above.self_signed(&KeyPair::generate().unwrap()).unwrap();
        vec![leaf.der().clone(), above.der().clone()]
    }

    #[test]
    fn the_last_certificates_are_kept_and_never_the_one_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        store(&layout, AgentId::derived(&[b"a"]));
        let mut identity = Identity::load(&layout).unwrap();
        let first = identity.chain.clone();
        assert!(identity.earlier.is_empty());
        let long_ended = chain_from(&identity, 2001);
        identity.renew(&layout, long_ended.clone()).unwrap();
        assert_eq!(identity.earlier, std::slice::from_ref(&first));
        let later: Vec<Chain> = (0..6).map(|n| chain_from(&identity, 2090 + n)).collect();
        let mut want = vec![long_ended, first];
        for chain in &later {
            identity.renew(&layout, chain.clone()).unwrap();
            assert_eq!(identity.earlier, want);
            assert_eq!(Identity::load(&layout).unwrap().earlier, want);
            want.insert(0, chain.clone());
            want.truncate(4);
        }
        // A crash between the two files of a renewal; and a damaged file costs nothing else.
        identity.earlier = earlier::keep(&layout, &identity).unwrap();
        let read = Identity::load(&layout).unwrap();
        assert_eq!(read.chain, later[5]);
        assert_eq!(
            read.earlier,
            later[2..5].iter().rev().cloned().collect::<Vec<_>>()
        );
        let path = layout.identity().join("earlier.pem");
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
        assert!(Identity::load(&layout).unwrap().earlier.is_empty());
    }

    #[test]
    fn roots_are_exchanged_as_a_whole_and_never_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        store(&layout, AgentId::derived(&[b"a"]));
        let mut identity = Identity::load(&layout).unwrap();
        let old = identity.roots[0].clone();
        let new = issued("spiffe://x/y").0;
        assert!(!identity.trust(&layout, vec![old.clone()]).unwrap());
        let both = vec![old.clone(), new.clone()];
        assert!(identity.trust(&layout, both.clone()).unwrap());
        assert_eq!(Identity::load(&layout).unwrap().roots, both);
        assert!(identity.trust(&layout, vec![]).is_err());
        assert!(identity.trust(&layout, vec![old.clone(); 5]).is_err());
        let junk = CertificateDer::from(vec![0; 9]);
        assert!(identity.trust(&layout, vec![old, junk]).is_err());
        assert_eq!(Identity::load(&layout).unwrap().roots, both);
        assert!(identity.trust(&layout, vec![new.clone()]).unwrap());
        assert_eq!(Identity::load(&layout).unwrap().roots, [new]);
    }

    #[test]
    fn a_replacement_cut_between_its_renames_falls_back_to_the_old_identity() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let (one, two) = (AgentId::derived(&[b"1"]), AgentId::derived(&[b"2"]));
        store(&layout, one);
        let old = layout.identity().with_extension("old");
        fs::rename(layout.identity(), &old).unwrap();
        Identity::recover(&layout).unwrap();
        assert_eq!(Identity::load(&layout).unwrap().agent, one);
        store(&layout, two);
        Identity::recover(&layout).unwrap();
        assert_eq!(Identity::load(&layout).unwrap().agent, two);
        assert!(!old.exists());
    }

    #[test]
    fn only_an_agents_name_makes_an_identity() {
        let org = OrgId::derived(&[b"o"]);
        for bad in [
            format!("spiffe://hub/org/{org}"),
            format!("spiffe://hub/org/{org}/user/{}", AgentId::derived(&[b"a"])),
            format!("spiffe://hub/org/{org}/agent/{org}"),
            "https://hub/".to_owned(),
        ] {
            assert!(names_of(&issued(&bad).0).is_err(), "{bad}");
        }
    }
}
