//! What an authority is made of as it is stored, and the stages in which it is replaced.
//!
//! ```text
//! steady ── begin ──▶ begun ── issue ──▶ issuing ── retire ──▶ steady
//!           a new root and    the new one signs,      the old one is
//!           intermediate;     the old one is still    trusted no more,
//!           both trusted      trusted                 its keys are gone
//! ```
//! The new intermediate has two certificates: by the new root, and by the old one (the bridge).
//! By the second, an agent that knows the old root alone still recognises its hub, however many
//! stages it was away for; so the bridge is shown for as long as the new one signs.

use std::fmt;

use jiff::Timestamp;
use protocol::enroll::Pin;
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::spiffe::TrustDomain;
use super::{CaError, INTERMEDIATE_LIFE, ROOT_LIFE, ca_params, made, pin_of, validity_of};

/// Retired roots that are remembered, so that their agents can be told what happened.
const RETIRED: usize = 4;

/// A root with the intermediate below it. Secret.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Pair {
    /// PKCS #8.
    root_key: Vec<u8>,
    /// DER.
    pub(super) root: Vec<u8>,
    /// PKCS #8.
    intermediate_key: Vec<u8>,
    /// DER, by the root.
    pub(super) intermediate: Vec<u8>,
    /// DER of the intermediate by the root before this one; empty for a hub's first.
    pub(super) bridge: Vec<u8>,
}

/// How far the replacement of an authority has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// There is one authority.
    Steady,
    /// A new one is trusted beside the one that signs.
    Begun,
    /// The new one signs; the old one is still trusted.
    Issuing,
}

impl Stage {
    /// Returns the word for operators.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Begun => "begun",
            Self::Issuing => "issuing",
        }
    }

    /// Returns the step that leads on from here.
    pub(crate) const fn next(self) -> Step {
        match self {
            Self::Steady => Step::Begin,
            Self::Begun => Step::Issue,
            Self::Issuing => Step::Retire,
        }
    }
}

/// One step of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// Makes a new root and has agents trust it beside the old one.
    Begin,
    /// Signs with the new one and asks agents to renew their certificates.
    Issue,
    /// Trusts the old one no more.
    Retire,
}

impl Step {
    /// Returns the word of the command.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Issue => "issue",
            Self::Retire => "retire",
        }
    }
}

/// The last step that was taken, for the audit logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// Counts the steps of this hub, from 1.
    pub(crate) number: u64,
    /// Which.
    pub(crate) step: Step,
    /// When, in seconds since 1970 UTC.
    pub(crate) at_second: i64,
    /// Agents that it shut out, by force.
    pub(crate) left_behind: u64,
}

/// The keys and certificates of an authority, as they are stored. Secret; zeroed when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Material {
    /// Pin of the hub's first root: its trust domain keeps that name.
    pub(super) first: [u8; 32],
    /// Signs.
    pub(super) current: Pair,
    /// Will sign.
    pub(super) next: Option<Pair>,
    /// Signed until now.
    pub(super) previous: Option<Pair>,
    /// Roots that are trusted no more, DER, the latest last.
    pub(super) retired: Vec<Vec<u8>>,
    #[zeroize(skip)]
    taken: Option<Taken>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

/// Reads the key of a root or an intermediate.
fn key_pair(pkcs8: &[u8], reason: &'static str) -> Result<KeyPair, CaError> {
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| CaError::Stored { reason })
}

fn intermediate_name(root: Pin) -> String {
    format!("Zero-X intermediate {}", TrustDomain::of_root_key(root))
}

impl Pair {
    /// Makes a root and an intermediate. They share nothing with any other.
    fn generate(now: Timestamp) -> Result<Self, CaError> {
        let root_key =
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made("the root's key"))?;
        // Another root's certificate should be told apart by its issuer's name: with equal names
        // it would fail as forged.
        let spki = digest(&SHA256, &root_key.subject_public_key_info());
        let pin = Pin(spki.as_ref().try_into().expect("SHA-256 has 32 bytes"));
        let name = format!("Zero-X root {}", TrustDomain::of_root_key(pin));
        let root_params = ca_params(&name, 1, now, ROOT_LIFE)?;
        let root = root_params
            .self_signed(&root_key)
            .map_err(made("the root certificate"))?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(made("the intermediate's key"))?;
        let issuer = Issuer::from_params(&root_params, &root_key);
        let intermediate = ca_params(&intermediate_name(pin), 0, now, INTERMEDIATE_LIFE)?
            .signed_by(&key, &issuer)
            .map_err(made("the intermediate certificate"))?;
        Ok(Self {
            root_key: root_key.serialize_der(),
            root: root.der().to_vec(),
            intermediate_key: key.serialize_der(),
            intermediate: intermediate.der().to_vec(),
            bridge: Vec::new(),
        })
    }

    /// Returns the key that signs leaves.
    pub(super) fn signing_key(&self) -> Result<KeyPair, CaError> {
        let reason = "its intermediate has no P-256 key";
        key_pair(&self.intermediate_key, reason)
    }

    /// Certifies this pair's intermediate by the root before it.
    fn bridge_from(&mut self, before: &Self, now: Timestamp) -> Result<(), CaError> {
        let key = self.signing_key()?;
        let above = key_pair(&before.root_key, "its root has no P-256 key")?;
        let root = CertificateDer::from(before.root.as_slice());
        let issuer = Issuer::from_ca_cert_der(&root, above).map_err(|_| CaError::Stored {
            reason: "its root cannot sign",
        })?;
        let ends_at = validity_of(&before.root).ok_or(CaError::Stored {
            reason: "its root ends at no time",
        })?;
        let life = INTERMEDIATE_LIFE.min(ends_at.until.duration_since(now));
        let bridge = ca_params(&intermediate_name(pin_of(&self.root)?), 0, now, life)?
            .signed_by(&key, &issuer)
            .map_err(made("the intermediate's second certificate"))?;
        self.bridge = bridge.der().to_vec();
        Ok(())
    }
}

impl Material {
    /// Makes a hub's first authority.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub(crate) fn generate(now: Timestamp) -> Result<Self, CaError> {
        let current = Pair::generate(now)?;
        Ok(Self {
            first: pin_of(&current.root)?.0,
            current,
            next: None,
            previous: None,
            retired: Vec::new(),
            taken: None,
        })
    }

    /// Returns the pin of the root that signs.
    ///
    /// # Errors
    ///
    /// When it is no certificate.
    pub(crate) fn pin(&self) -> Result<Pin, CaError> {
        pin_of(&self.current.root)
    }

    /// Returns the pin of the root that signed until now, while it is still trusted.
    ///
    /// # Errors
    ///
    /// When it is no certificate.
    pub(crate) fn previous_pin(&self) -> Result<Option<Pin>, CaError> {
        let previous = self.previous.as_ref();
        previous.map(|pair| pin_of(&pair.root)).transpose()
    }

    /// Returns how far a replacement has come.
    pub(crate) fn stage(&self) -> Stage {
        match (&self.next, &self.previous) {
            (Some(_), _) => Stage::Begun,
            (None, Some(_)) => Stage::Issuing,
            (None, None) => Stage::Steady,
        }
    }

    /// Returns the last step that was taken.
    pub(crate) fn taken(&self) -> Option<Taken> {
        self.taken
    }

    /// Says in words what the last step has made of it, for the audit logs.
    ///
    /// # Errors
    ///
    /// When one of its roots is no certificate.
    pub(crate) fn describe(&self) -> Result<String, CaError> {
        let current = self.pin()?;
        if let Some(next) = &self.next {
            let next = pin_of(&next.root)?;
            return Ok(format!(
                "the root {next} is trusted beside {current}, which signs"
            ));
        }
        if let Some(previous) = self.previous_pin()? {
            return Ok(format!(
                "the root {current} signs; {previous} is still trusted"
            ));
        }
        let Some(retired) = self.retired.last() else {
            return Ok(format!("the root {current} signs"));
        };
        let (retired, shut_out) = (pin_of(retired)?, self.taken.map(|taken| taken.left_behind));
        let by_force = match shut_out {
            None | Some(0) => String::new(),
            Some(count) => {
                format!("; by force, {count} agents that held its certificates are shut out")
            }
        };
        Ok(format!(
            "the root {retired} is trusted no more; {current} signs{by_force}"
        ))
    }

    /// Takes one step of a replacement, which shuts out so many agents.
    ///
    /// # Errors
    ///
    /// [`CaError::Step`] when another one is due; nothing has changed then.
    pub(crate) fn advance(
        &mut self,
        step: Step,
        left_behind: u64,
        now: Timestamp,
    ) -> Result<(), CaError> {
        match (step, self.stage()) {
            (Step::Begin, Stage::Steady) => {
                let mut next = Pair::generate(now)?;
                next.bridge_from(&self.current, now)?;
                self.next = Some(next);
            }
            (Step::Issue, Stage::Begun) => {
                if let Some(next) = self.next.take() {
                    self.previous = Some(std::mem::replace(&mut self.current, next));
                }
            }
            (Step::Retire, Stage::Issuing) => {
                // Its keys go with it.
                if let Some(previous) = self.previous.take() {
                    self.retired.push(previous.root.clone());
                    let beyond = self.retired.len().saturating_sub(RETIRED);
                    self.retired.drain(..beyond);
                }
            }
            (Step::Begin | Step::Issue | Step::Retire, stage) => {
                return Err(CaError::Step { step, stage });
            }
        }
        self.taken = Some(Taken {
            number: self.taken.map_or(0, |taken| taken.number) + 1,
            step,
            at_second: now.as_second(),
            left_behind,
        });
        Ok(())
    }

    /// Returns the bytes to store. Secret.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(postcard::to_stdvec(self).expect("byte strings always serialise"))
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
