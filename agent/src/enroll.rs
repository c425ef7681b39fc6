//! Enrolment: a token buys this agent its certificate, once.
//!
//! The key pair is made here and its private half never leaves. The hub is checked against the
//! pin in the token before anything is said to it. The token's own key signs the request together
//! with keying material of this very TLS session, so that the token never crosses the wire.

mod pending;

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use jiff::Timestamp;
use protocol::bundle::HubKey;
use protocol::enroll::{
    EXPORTER_LABEL, MESSAGE_BYTES, Pin, Reply, Request, Token, TokenError, signed_message,
};
use protocol::ids::{AgentId, OrgId};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::CertificateDer;
use secrecy::{ExposeSecret, SecretSlice};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::identity::{Identity, IdentityError, Issued, MOST_ROOTS, names_of};
use crate::layout::{Layout, LayoutError};
use crate::link::{self, Broken, Connection, LinkError, Order, tls};

pub(crate) use pending::{Pending, request};

/// Time for the exchange, once the connection stands.
const EXCHANGE_TIME: Duration = Duration::from_secs(30);

/// Says why the agent was not enrolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EnrollError {
    /// The text is no token.
    #[error("the token cannot be read")]
    Token(#[from] TokenError),
    /// The token names no hub and none was given.
    #[error("the token names no hub")]
    NoHub,
    /// The hub has another root than the token says.
    #[error("{address} is not the hub that made this token: its root key does not have the token's pin{}", link::by(issuer.as_deref()))]
    Pin {
        address: String,
        /// Who issued the certificate that was shown.
        issuer: Option<String>,
    },
    /// There is no connection.
    #[error("the hub could not be asked")]
    Link(#[source] LinkError),
    /// The hub refused.
    #[error("the hub refused the token: {reason} ({code})")]
    Refused { code: String, reason: String },
    /// The hub's answer cannot be used.
    #[error("the hub's answer cannot be used: {reason}")]
    Answer { reason: String },
    /// The exchange broke off.
    #[error("the exchange broke off")]
    Broken(#[from] Broken),
    /// The key pair or the request could not be made.
    #[error("could not make a key pair")]
    Key(#[source] rcgen::Error),
    /// TLS cannot be set up.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    /// The identity could not be written.
    #[error("could not write the identity")]
    Identity(#[from] IdentityError),
    /// The old spool could not be set aside.
    #[error("could not set the old spool aside")]
    Spool(#[source] LayoutError),
}

impl From<EnrollError> for Failure {
    fn from(error: EnrollError) -> Self {
        let (exit, fix) = match &error {
            EnrollError::Token(_) => (
                Exit::Usage,
                "copy the token again, whole; `zero-x agent token create --org O` makes a new one",
            ),
            EnrollError::NoHub => (Exit::Usage, "give the hub's address with --hub HOST:PORT"),
            EnrollError::Pin { .. } => (
                Exit::Forbidden,
                "check the address, and make a new token if the hub's certificate authority was \
                 replaced since this one was made; else somebody stands between this host and the \
                 hub: a TLS-inspecting proxy must exempt the hub from inspection",
            ),
            EnrollError::Link(link) if link.is_refusal() => (Exit::Forbidden, "check the address"),
            EnrollError::Link(_) | EnrollError::Broken(_) => (
                Exit::Unreachable,
                "check that the hub runs and that its port is open from here, for UDP or for TCP; \
                 the token stays good for its time",
            ),
            EnrollError::Refused { .. } => (
                Exit::Forbidden,
                "make a new token at the hub: `zero-x agent token create --org O`",
            ),
            EnrollError::Answer { .. } => (
                Exit::Data,
                "agent and hub should be of one version; update the older",
            ),
            EnrollError::Key(_) | EnrollError::Tls(_) => (Exit::No, "run `zero-x-agent doctor`"),
            EnrollError::Identity(_) | EnrollError::Spool(_) => (
                Exit::No,
                "run as root or as the user that owns the state directory",
            ),
        };
        Failure::of(exit, "this agent was not enrolled", error).fix(fix)
    }
}

/// What to enrol with.
pub(crate) struct Wish {
    /// The token's text.
    pub(crate) token: SecretSlice<u8>,
    /// Addresses that take the place of the token's; none for those.
    pub(crate) hubs: Vec<String>,
    /// The name that the hub shows; the host's.
    pub(crate) name: String,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Enrolled {
    pub(crate) agent: AgentId,
    pub(crate) org: OrgId,
    pub(crate) not_after: Timestamp,
}

/// Enrols and writes the identity in the place of an older one, whose spool is set aside.
///
/// # Errors
///
/// See [`EnrollError`]; no file has changed then.
pub(crate) async fn enroll(
    layout: &Layout,
    wish: Wish,
    config: &link::Config,
) -> Result<Enrolled, EnrollError> {
    let token = read_token(&wish.token)?;
    let hubs = if wish.hubs.is_empty() {
        token.0.hubs.clone()
    } else {
        wish.hubs
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(EnrollError::Key)?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    let request = CertificateParams::default()
        .serialize_request(&key)
        .map_err(EnrollError::Key)?;
    let mut connection = connect(&hubs, &token.0.pins, config).await?;
    let csr = request.der().to_vec();
    let exchange = exchange(&mut connection, &token.0, csr, wish.name);
    let reply = match tokio::time::timeout(EXCHANGE_TIME, exchange).await {
        Ok(reply) => reply?,
        Err(_) => {
            let reason = format!("no answer within {} s", EXCHANGE_TIME.as_secs());
            return Err(Broken(reason).into());
        }
    };
    connection.leave().await;
    let (chain, roots, bundle_key) = check(reply, &token.0.pins, &key)?;
    if Identity::exists(layout) {
        set_spool_aside(layout).map_err(EnrollError::Spool)?;
    }
    let issued = Issued {
        chain: &chain,
        roots: &roots,
        key: &pkcs8,
        hubs,
        bundle_key,
        at: Timestamp::now(),
    };
    let names = Identity::store(layout, &issued)?;
    Ok(Enrolled {
        agent: names.agent,
        org: names.org,
        not_after: names.valid.1,
    })
}

/// A token whose seed is overwritten when it is dropped.
struct Held(Token);

impl Drop for Held {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0.seed);
    }
}

fn read_token(text: &SecretSlice<u8>) -> Result<Held, EnrollError> {
    let text = std::str::from_utf8(text.expose_secret()).map_err(|_| TokenError::Damaged)?;
    Ok(Held(Token::parse(text)?))
}

async fn connect(
    hubs: &[String],
    pins: &[Pin],
    config: &link::Config,
) -> Result<Connection, EnrollError> {
    let mut last = EnrollError::NoHub;
    for address in hubs {
        let (tls, pinned) = tls::for_enrolment(pins.to_vec()).map_err(EnrollError::Tls)?;
        match link::dial(address, tls, config, Order::QuicFirst).await {
            Ok(connection) => return Ok(connection),
            // A wrong pin is somebody else, or in between: no other address makes that good.
            Err(_) if pinned.has_missed() => {
                return Err(EnrollError::Pin {
                    address: address.clone(),
                    issuer: pinned.issuer(),
                });
            }
            Err(error) => last = EnrollError::Link(error),
        }
    }
    Err(last)
}

async fn exchange(
    connection: &mut Connection,
    token: &Token,
    csr: Vec<u8>,
    name: String,
) -> Result<Reply, EnrollError> {
    let exporter = connection
        .keying_material(EXPORTER_LABEL)
        .ok_or_else(|| Broken("the TLS session gives no keying material".to_owned()))?;
    let signature = SigningKey::from_bytes(&token.seed).sign(&signed_message(&csr, &exporter));
    let request = Request {
        token: token.id,
        csr,
        signature: signature.to_vec(),
        name,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let request = postcard::to_stdvec(&request).expect("plain structs always serialise");
    let reply = connection.ask(&request, MESSAGE_BYTES).await?;
    match postcard::take_from_bytes(&reply) {
        Ok((reply, [])) => Ok(reply),
        Ok(_) | Err(_) => Err(EnrollError::Answer {
            reason: "it cannot be read".to_owned(),
        }),
    }
}

/// The agent's chain, the hub's roots, and what bundles for the hub are sealed to.
type Certificates = (
    Vec<CertificateDer<'static>>,
    Vec<CertificateDer<'static>>,
    HubKey,
);

/// Checks that what was issued is for this key, by a hub with a pinned root, and names an agent.
fn check(reply: Reply, pins: &[Pin], key: &KeyPair) -> Result<Certificates, EnrollError> {
    let answer = |reason: &str| EnrollError::Answer {
        reason: reason.to_owned(),
    };
    let (org, agent, chain, roots, bundle_key) = match reply {
        Reply::Refused { code, reason } => return Err(EnrollError::Refused { code, reason }),
        Reply::Issued {
            org,
            agent,
            chain,
            roots,
            bundle_key,
            ..
        } => (org, agent, chain, roots, bundle_key),
    };
    // The hub has proved itself by a pinned root; it says which others are its own.
    let is_pinned = |root: &Vec<u8>| Pin::of_certificate(root).is_ok_and(|pin| pins.contains(&pin));
    if !roots.iter().any(is_pinned) {
        return Err(answer("none of its roots has the token's pin"));
    }
    if roots.len() > MOST_ROOTS || roots.iter().any(|root| Pin::of_certificate(root).is_err()) {
        return Err(answer("its roots cannot be used"));
    }
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
    let leaf = chain
        .first()
        .ok_or_else(|| answer("it holds no certificate"))?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_| answer("the certificate cannot be read"))?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(answer("the certificate is for another key"));
    }
    let names = names_of(leaf).map_err(answer)?;
    if (names.org, names.agent) != (org, agent) {
        return Err(answer("the certificate names somebody else"));
    }
    let bundle_key =
        HubKey::from_bytes(&bundle_key).map_err(|_| answer("its key for bundles is none"))?;
    let roots = roots.into_iter().map(CertificateDer::from).collect();
    Ok((chain, roots, bundle_key))
}

/// Puts the spool of the old identity beside: nothing in it can be read or sent by the new one.
fn set_spool_aside(layout: &Layout) -> Result<(), LayoutError> {
    let folder = layout.spool();
    let aside = folder.with_extension("replaced");
    let moved = (|| {
        match std::fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        match std::fs::rename(&folder, &aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    })();
    moved.map_err(|source| LayoutError::Write {
        path: folder.clone(),
        source,
    })
}
