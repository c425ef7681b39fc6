//! An enrolment whose request is under way: `enrolling.json` in the state directory keeps the key
//! until the reply comes.

use std::fs;
use std::path::Path;

use data_encoding::BASE64;
use protocol::bundle::{CarriedRequest, Issued as Granted};
use protocol::enroll::{Pin, Reply};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::*;
use crate::layout;

const FILE: &str = "enrolling.json";

#[derive(Serialize, Deserialize)]
struct Kept {
    /// PKCS #8, base64.
    key: String,
    hubs: Vec<String>,
    pins: Vec<String>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

/// A key that waits for its certificate.
pub(crate) struct Pending {
    pkcs8: Zeroizing<Vec<u8>>,
    hubs: Vec<String>,
    pins: Vec<Pin>,
}

/// Makes a key and writes the request for its certificate to `file`, to be carried to the hub.
///
/// # Errors
///
/// When the token cannot be read or a file cannot be written.
pub(crate) fn request(layout: &Layout, wish: Wish, file: &Path) -> Result<(), EnrollError> {
    let token = read_token(&wish.token)?;
    let pin = *token.0.pins.first().ok_or(TokenError::Damaged)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(EnrollError::Key)?;
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .map_err(EnrollError::Key)?;
    let request = CarriedRequest {
        token: token.0.id,
        pin,
        csr: csr.der().to_vec(),
        name: wish.name,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let signing = SigningKey::from_bytes(&token.0.seed);
    let bytes = request
        .encode(|message| signing.sign(message).to_bytes())
        .map_err(|error| EnrollError::Answer {
            reason: error.to_string(),
        })?;
    let kept = Kept {
        key: BASE64.encode(&Zeroizing::new(key.serialize_der())),
        hubs: if wish.hubs.is_empty() {
            token.0.hubs.clone()
        } else {
            wish.hubs
        },
        pins: token.0.pins.iter().map(ToString::to_string).collect(),
    };
    let text = Zeroizing::new(serde_json::to_vec(&kept).expect("plain structs always serialise"));
    let layout_error = |error| EnrollError::Identity(IdentityError::File(error));
    layout.prepare().map_err(layout_error)?;
    layout::write_private(&layout.state().join(FILE), &text).map_err(layout_error)?;
    layout::write_private(file, &bytes).map_err(layout_error)
}

impl Pending {
    /// Loads the enrolment that is under way, if one is.
    ///
    /// # Errors
    ///
    /// When its file cannot be read.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>, EnrollError> {
        let path = layout.state().join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = layout::read_private(&path)
            .map_err(|error| EnrollError::Identity(IdentityError::File(error)))?;
        let damaged = || {
            EnrollError::Identity(IdentityError::Damaged {
                path: path.clone(),
                reason: "it is not what `enroll --bundle` wrote".to_owned(),
            })
        };
        let kept: Kept = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let pkcs8 = BASE64.decode(kept.key.as_bytes()).map_err(|_| damaged())?;
        let pins: Result<Vec<Pin>, _> = kept.pins.iter().map(|pin| pin.parse()).collect();
        Ok(Some(Self {
            pkcs8: Zeroizing::new(pkcs8),
            hubs: kept.hubs.clone(),
            pins: pins.map_err(|_| damaged())?,
        }))
    }

    /// Returns the certificate among `chain` that the token pinned.
    pub(crate) fn root(&self, chain: &[Vec<u8>]) -> Option<CertificateDer<'static>> {
        let mut pinned = chain
            .iter()
            .filter(|der| Pin::of_certificate(der).is_ok_and(|pin| self.pins.contains(&pin)));
        pinned.next().map(|der| CertificateDer::from(der.clone()))
    }

    /// Writes what the hub issued, in the place of an older identity, whose spool is set aside.
    ///
    /// # Errors
    ///
    /// When it is not for this key, or a file cannot be written.
    pub(crate) fn finish(
        self,
        layout: &Layout,
        names: (OrgId, AgentId),
        granted: Granted,
    ) -> Result<Enrolled, EnrollError> {
        let answer = |reason: &str| EnrollError::Answer {
            reason: reason.to_owned(),
        };
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(EnrollError::Key)?;
        let (org, agent) = names;
        let reply = Reply::Issued {
            org,
            agent,
            chain: granted.chain,
            roots: granted.roots,
            not_after_ms: 0,
            bundle_key: granted.bundle_key,
        };
        let (chain, roots, bundle_key) = check(reply, &self.pins, &key)?;
        if Identity::exists(layout) {
            set_spool_aside(layout).map_err(EnrollError::Spool)?;
        }
        let issued = Issued {
            chain: &chain,
            roots: &roots,
            key: &self.pkcs8,
            hubs: self.hubs,
            bundle_key,
            at: Timestamp::now(),
        };
        let names = Identity::store(layout, &issued)?;
        // The key is in the identity; a copy that stays behind is found and taken again, no more.
        fs::remove_file(layout.state().join(FILE))
            .map_err(|_| answer("its key could not be removed from enrolling.json"))?;
        Ok(Enrolled {
            agent: names.agent,
            org: names.org,
            not_after: names.valid.1,
        })
    }
}
