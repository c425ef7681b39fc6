//! Enrolment: a token's key buys one certificate.
//!
//! ```text
//! agent: Request{token id, CSR, signature by the token's key over CSR ‖ TLS exporter, name}
//! hub:   signature good? → not expired, uses left, name harmless → certificate → positive list → audit
//! ```
//! The signature is checked before the token's state is looked at: who knows only a token's id
//! learns nothing of it. It covers keying material of this very TLS session, so that it is worth
//! nothing elsewhere.

use std::error::Error;
use std::io;
use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use jiff::Timestamp;
use protocol::bundle::{CarriedRequest, HubKey};
use protocol::enroll::{MESSAGE_BYTES, Reply, Request, signed_message};
use protocol::ids::AgentId;
use protocol::session::CloseCode;
use store::error::{ApplianceError, TokenError};
use store::rows::AgentState;
use store::rows::access::{Agent, EnrolToken, Enrolment};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{AgentIdentity, Appliance};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::ca::{Authority, CaError};
use crate::live::{Changed, Live, What};

/// Longest name of an agent, in bytes: that of a host (RFC 1035 section 2.3.4).
const NAME_BYTES: usize = 255;

/// Time for the peer to send its request, and to hang up after the reply.
pub(crate) const PEER_TIME: Duration = Duration::from_secs(20);

/// Says why a token was not accepted. The agent gets the code and these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// There is no such token.
    #[error("this hub knows no such enrolment token")]
    Unknown,
    /// Its time is over.
    #[error("this enrolment token has expired")]
    Expired,
    /// Every use is spent.
    #[error("this enrolment token has been used")]
    Used,
    /// The request is not signed by the token's key, or not for this connection.
    #[error("the request is not signed by the token's key for this connection")]
    Signature,
    /// The name is none.
    #[error(
        "the agent's name is empty, longer than 255 bytes, or holds characters that do not show"
    )]
    Name,
    /// The request cannot be used.
    #[error(
        "the certificate request cannot be used: it wants an ECDSA P-256 key and its signature"
    )]
    Request,
    /// The hub cannot store.
    #[error("the hub cannot store the enrolment at the moment; the token stays good for its time")]
    Store,
}

impl Refusal {
    /// Returns what the state of a token means.
    fn of_state(state: &TokenError) -> Self {
        match state {
            TokenError::Expired => Self::Expired,
            TokenError::Used => Self::Used,
            TokenError::Unknown | _ => Self::Unknown,
        }
    }

    /// Returns the stable code.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::Expired => "token_expired",
            Self::Used => "token_used",
            Self::Signature => "signature",
            Self::Name => "token_name",
            Self::Request => "request",
            Self::Store => "store",
        }
    }
}

/// What the token's key has signed.
#[derive(Debug, Clone, Copy)]
enum Proof<'a> {
    /// The request for the connection with this keying material.
    Session(&'a [u8; 32]),
    /// This message: a whole file, which names the hub's pin.
    Carried(&'a [u8]),
}

/// Decides whether a token's key signed this request for this connection, whether the token is
/// still good, and returns the name that the agent gets.
fn decide(
    token: Option<&EnrolToken>,
    request: &Request,
    proof: Proof<'_>,
    now: Timestamp,
) -> Result<String, Refusal> {
    let token = token.ok_or(Refusal::Unknown)?;
    let key = VerifyingKey::from_bytes(&token.public_key).map_err(|_| Refusal::Signature)?;
    let signature = Signature::from_slice(&request.signature).map_err(|_| Refusal::Signature)?;
    let signed = match proof {
        Proof::Session(exporter) => signed_message(&request.csr, exporter),
        Proof::Carried(message) => message.to_vec(),
    };
    key.verify_strict(&signed, &signature)
        .map_err(|_| Refusal::Signature)?;
    if token.expires_at <= now {
        return Err(Refusal::Expired);
    }
    if token.uses_left == 0 {
        return Err(Refusal::Used);
    }
    let name = token.bound_name.as_deref().unwrap_or(&request.name).trim();
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(shows) {
        return Err(Refusal::Name);
    }
    Ok(name.to_owned())
}

/// Says whether a character shows as itself: no control, none that turns the direction of text,
/// none of width zero (Unicode 16, general category Cf and the separators of lines).
fn shows(c: char) -> bool {
    let hides = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !hides
}

/// What an enrolment needs of the hub.
#[derive(Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) appliance: &'a Appliance,
    pub(crate) authority: &'a Authority,
    pub(crate) live: &'a Live,
    pub(crate) bundle_key: HubKey,
}

/// Answers a request.
pub(crate) async fn enroll(
    desk: Desk<'_>,
    request: &Request,
    exporter: &[u8; 32],
    now: Timestamp,
) -> Reply {
    answer(desk, request, Proof::Session(exporter), now).await
}

/// Answers a request that came as a file; whose hub it is for has been checked.
pub(crate) async fn enroll_carried(
    desk: Desk<'_>,
    carried: &CarriedRequest,
    message: &[u8],
    signature: &[u8],
    now: Timestamp,
) -> Reply {
    let request = Request {
        token: carried.token,
        csr: carried.csr.clone(),
        signature: signature.to_vec(),
        name: carried.name.clone(),
        agent_version: carried.agent_version.clone(),
    };
    answer(desk, &request, Proof::Carried(message), now).await
}

async fn answer(desk: Desk<'_>, request: &Request, proof: Proof<'_>, now: Timestamp) -> Reply {
    match try_enroll(desk, request, proof, now).await {
        Ok(reply) => reply,
        Err(refusal) => {
            warn!(token = %request.token, reason = refusal.code(), "enrolment refused");
            Reply::Refused {
                code: refusal.code().to_owned(),
                reason: refusal.to_string(),
            }
        }
    }
}

async fn try_enroll(
    desk: Desk<'_>,
    request: &Request,
    proof: Proof<'_>,
    now: Timestamp,
) -> Result<Reply, Refusal> {
    let token = desk.appliance.token(request.token).await.map_err(|error| {
        error!(
            error = &error as &dyn Error,
            "an enrolment token could not be read"
        );
        Refusal::Store
    })?;
    let name = decide(token.as_ref(), request, proof, now)?;
    let token = token.ok_or(Refusal::Unknown)?;
    let org = token.org;
    let agent = AgentId::from_bytes(uuid::Uuid::now_v7().into_bytes());
    let leaf = desk
        .authority
        .issue_agent_leaf(&request.csr, org, agent, now)
        .map_err(|error| {
            if matches!(error, CaError::Request { .. }) {
                return Refusal::Request;
            }
            error!(error = &error as &dyn Error, "no certificate could be made");
            Refusal::Store
        })?;
    let enrolment = Enrolment {
        agent,
        name,
        certificate: leaf.certificate.clone(),
    };
    // The token's state is checked again in the commit: of two that use it at once one wins.
    let enrolled = desk.appliance.redeem_token(request.token, enrolment, now);
    let row = enrolled.await.map_err(|error| {
        if let ApplianceError::Token(state) = &error {
            return Refusal::of_state(state);
        }
        error!(
            error = &error as &dyn Error,
            "an enrolment could not be stored"
        );
        Refusal::Store
    })?;
    if let Err(error) = audit(desk.appliance, &row, &token, &leaf.certificate.serial, now).await {
        error!(
            error = &*error,
            %agent,
            "an enrolment could not be audited; the agent is revoked"
        );
        let revoked = desk.appliance.set_agent_state(agent, AgentState::Revoked);
        if let Err(error) = revoked.await {
            error!(error = &error as &dyn Error, %agent, "the agent could not be revoked");
        }
        return Err(Refusal::Store);
    }
    info!(%org, %agent, "agent enrolled");
    desk.live.tell(Changed {
        org,
        what: What::Agents,
    });
    Ok(Reply::Issued {
        org,
        agent,
        chain: leaf.chain.iter().map(|der| der.to_vec()).collect(),
        roots: desk
            .authority
            .roots()
            .iter()
            .map(|der| der.to_vec())
            .collect(),
        not_after_ms: leaf.certificate.not_after.as_millisecond(),
        bundle_key: *desk.bundle_key.as_bytes(),
    })
}

/// Records the enrolment in the audit log of the organisation: who made the token, and which.
async fn audit(
    appliance: &Appliance,
    row: &Agent,
    token: &EnrolToken,
    serial: &[u8],
    now: Timestamp,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let identity = AgentIdentity {
        org: row.org,
        agent: row.id,
        serial: serial.to_vec(),
    };
    let admitted = appliance.admit_agent(&identity).await?;
    let maker = match token.made_by {
        Some(user) => user.to_string(),
        None => "the hub's own commands".to_owned(),
    };
    let mut write = admitted.store.write();
    write.audit(AuditAct {
        at: now,
        actor: Actor::Agent(row.id),
        action: "agent.enrol".to_owned(),
        object: row.id.to_string(),
        detail: format!("as {:?} with token {}, made by {maker}", row.name, token.id),
    });
    write.commit().await?;
    Ok(())
}

/// Says why an exchange ended without a reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ExchangeError {
    /// The connection ended.
    #[error("the connection ended")]
    Connection(#[from] io::Error),
    /// The request is too long.
    #[error("a request of {bytes} bytes is too long")]
    TooLong {
        /// The announced length.
        bytes: u32,
    },
    /// The request does not decode.
    #[error("the request cannot be read")]
    Malformed,
    /// TLS gives no keying material.
    #[error("the connection gives no keying material")]
    Exporter,
    /// The request did not come in time.
    #[error("the enrolment took too long")]
    Slow,
    /// The hub stops.
    #[error("the hub is stopping")]
    Stopping,
    /// There is no place.
    #[error("too many enrolments at once")]
    Busy,
}

impl ExchangeError {
    /// Returns the code to close the connection with.
    pub(crate) fn close_code(&self) -> CloseCode {
        match self {
            Self::Slow => CloseCode::Silent,
            Self::Stopping | Self::Busy => CloseCode::Busy,
            Self::Connection(_) | Self::TooLong { .. } | Self::Malformed | Self::Exporter => {
                CloseCode::Protocol
            }
        }
    }
}

/// Reads the one request of a stream and answers it. What is decided is carried through: only the
/// waiting for the peer is bounded and ends at a stop.
///
/// # Errors
///
/// When there was no reply.
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    exporter: &[u8; 32],
    desk: Desk<'_>,
    now: fn() -> Timestamp,
    stop: &CancellationToken,
) -> Result<(), ExchangeError> {
    let read = tokio::time::timeout(PEER_TIME, read_request(stream));
    let request = tokio::select! {
        () = stop.cancelled() => return Err(ExchangeError::Stopping),
        read = read => read.map_err(|_| ExchangeError::Slow)??,
    };
    let reply = enroll(desk, &request, exporter, now()).await;
    let reply = postcard::to_stdvec(&reply).expect("plain enums always serialise");
    let length = u32::try_from(reply.len()).expect("a reply has some thousand bytes");
    let write = async {
        stream.write_u32_le(length).await?;
        stream.write_all(&reply).await?;
        stream.shutdown().await
    };
    let written = tokio::time::timeout(PEER_TIME, write).await;
    Ok(written.map_err(|_| ExchangeError::Slow)??)
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Request, ExchangeError> {
    let bytes = stream.read_u32_le().await?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES {
        return Err(ExchangeError::TooLong { bytes });
    }
    let mut request = vec![0; length];
    stream.read_exact(&mut request).await?;
    match postcard::take_from_bytes(&request) {
        Ok((request, [])) => Ok(request),
        Ok(_) | Err(_) => Err(ExchangeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};
    use jiff::SignedDuration;
    use protocol::ids::{OrgId, TokenId};
    use std::collections::BTreeMap;

    const EXPORTER: [u8; 32] = [5; 32];

    fn now() -> Timestamp {
        "2026-03-01T10:00:00Z".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn token() -> EnrolToken {
        EnrolToken {
            id: TokenId::from_bytes([1; 16]),
            org: OrgId::from_bytes([2; 16]),
            public_key: key().verifying_key().to_bytes(),
            expires_at: now() + SignedDuration::from_hours(1),
            uses_left: 1,
            bound_name: None,
            bound_accounts: None,
            labels: BTreeMap::new(),
            made_by: None,
            made_at: now(),
        }
    }

    fn request(key: &SigningKey, exporter: &[u8; 32], name: &str) -> Request {
        let csr = b"a certificate request".to_vec();
        let signature = key.sign(&signed_message(&csr, exporter)).to_vec();
        Request {
            token: token().id,
            csr,
            signature,
            name: name.to_owned(),
            agent_version: "0.0.0".to_owned(),
        }
    }

    fn refused(token: Option<&EnrolToken>, request: &Request) -> Refusal {
        decide(token, request, Proof::Session(&EXPORTER), now()).unwrap_err()
    }

    #[test]
    fn a_token_is_good_for_its_own_key_its_own_connection_its_time_and_its_uses() {
        let good = request(&key(), &EXPORTER, " web-1 ");
        let name = decide(Some(&token()), &good, Proof::Session(&EXPORTER), now());
        assert_eq!(name.as_deref(), Ok("web-1"));
        assert_eq!(refused(None, &good), Refusal::Unknown);

        let stolen = request(&SigningKey::from_bytes(&[8; 32]), &EXPORTER, "web-1");
        assert_eq!(refused(Some(&token()), &stolen), Refusal::Signature);
        let carried = request(&key(), &[6; 32], "web-1");
        assert_eq!(refused(Some(&token()), &carried), Refusal::Signature);
        let mut rebound = good.clone();
        rebound.csr.push(b'!');
        assert_eq!(refused(Some(&token()), &rebound), Refusal::Signature);
        let mut short = good.clone();
        short.signature.pop();
        assert_eq!(refused(Some(&token()), &short), Refusal::Signature);

        let expired = EnrolToken {
            expires_at: now(),
            ..token()
        };
        assert_eq!(refused(Some(&expired), &good), Refusal::Expired);
        let used = EnrolToken {
            uses_left: 0,
            ..token()
        };
        assert_eq!(refused(Some(&used), &good), Refusal::Used);
    }

    #[test]
    fn who_only_knows_a_tokens_id_learns_nothing_of_its_state() {
        let guess = request(&SigningKey::from_bytes(&[8; 32]), &EXPORTER, "\u{1b}[2J");
        let expired = EnrolToken {
            expires_at: now(),
            ..token()
        };
        let used = EnrolToken {
            uses_left: 0,
            ..token()
        };
        let bound = EnrolToken {
            bound_name: Some("db-1".to_owned()),
            ..token()
        };
        for token in [token(), expired, used, bound] {
            assert_eq!(refused(Some(&token), &guess), Refusal::Signature);
        }
    }

    #[test]
    fn a_name_bound_to_the_token_wins_and_a_hostile_one_is_refused() {
        let bound = EnrolToken {
            bound_name: Some("db-1".to_owned()),
            ..token()
        };
        let hostile = request(&key(), &EXPORTER, "\u{1b}[2J");
        let name = decide(Some(&bound), &hostile, Proof::Session(&EXPORTER), now());
        assert_eq!(name.as_deref(), Ok("db-1"));
        let long = "n".repeat(NAME_BYTES + 1);
        for name in [
            "",
            "  ",
            "a\nb",
            "\u{1b}[2J",
            "a\u{202e}b",
            "a\u{200b}b",
            &long,
        ] {
            let request = request(&key(), &EXPORTER, name);
            assert_eq!(refused(Some(&token()), &request), Refusal::Name, "{name:?}");
        }
        let foreign = request(&key(), &EXPORTER, "Müller's Büro 東京");
        assert!(decide(Some(&token()), &foreign, Proof::Session(&EXPORTER), now()).is_ok());
    }
}
