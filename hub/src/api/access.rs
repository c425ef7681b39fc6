//! Who may do what: the one table of endpoints and roles, access tokens, and the extractors by
//! which a handler says whom it serves.
//!
//! [`gate`] stands before every request: what is not public in [`TABLE`] is answered only to who
//! is signed in, paths that do not exist included. A handler gets at an organisation's data only
//! through [`Member`], which looks its own endpoint up in the table; an endpoint that is missing
//! there serves nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use protocol::api::Role;
use protocol::ids::{OrgId, SessionId, UserId};
use serde::{Deserialize, Serialize};
use store::rows::access::{EnrolToken, Org, User};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{Administration, OrgStore};
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument;

use super::State;
use super::problem::Refusal;
use super::throttle::{BURST, Pace, Whose};
use super::turn::Turn;

/// Who may use an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Everybody, without a login.
    Anyone,
    /// Whoever is signed in.
    SignedIn,
    /// A member of the organisation with one of these roles.
    Role(&'static [Role]),
    /// A member with one of these roles; or a hub administrator, who sees no data by it.
    RoleOrHubAdmin(&'static [Role]),
    /// A member with one of these roles; or, as long as the organisation has no admin, a hub
    /// administrator for its first one: who could name later ones could name a helper of its own,
    /// and would have the data by it.
    RoleOrFounder(&'static [Role]),
    /// A hub administrator.
    HubAdmin,
}

/// Every role.
const READERS: &[Role] = &[
    Role::Viewer,
    Role::Auditor,
    Role::Analyst,
    Role::Operator,
    Role::Admin,
];
const AUDITORS: &[Role] = &[Role::Auditor, Role::Admin];
const OPERATORS: &[Role] = &[Role::Operator, Role::Admin];
const ADMINS: &[Role] = &[Role::Admin];

/// The one endpoint whose answer has no end.
const STREAM: &str = "/api/v1/stream";

/// Who may use which endpoint; there is no other place that says so. `GET` stands for `HEAD` too.
pub(super) const TABLE: &[(&str, &str, Takes)] = &[
    ("GET", "/healthz", Takes::Anyone),
    ("GET", "/readyz", Takes::Anyone),
    ("POST", "/api/v1/login", Takes::Anyone),
    ("POST", "/api/v1/refresh", Takes::Anyone),
    ("POST", "/api/v1/logout", Takes::SignedIn),
    ("GET", "/api/v1/whoami", Takes::SignedIn),
    ("GET", "/api/v1/openapi.json", Takes::SignedIn),
    ("GET", "/api/v1/orgs", Takes::SignedIn),
    ("POST", "/api/v1/orgs", Takes::HubAdmin),
    ("GET", "/api/v1/users", Takes::Role(READERS)),
    ("POST", "/api/v1/users", Takes::RoleOrFounder(ADMINS)),
    ("GET", "/api/v1/agents", Takes::Role(READERS)),
    ("GET", "/api/v1/agents/{id}", Takes::Role(READERS)),
    (
        "POST",
        "/api/v1/agents/{id}/suspend",
        Takes::Role(OPERATORS),
    ),
    ("POST", "/api/v1/agents/{id}/resume", Takes::Role(OPERATORS)),
    ("POST", "/api/v1/agents/{id}/revoke", Takes::Role(OPERATORS)),
    (
        "POST",
        "/api/v1/agent-tokens",
        Takes::RoleOrHubAdmin(OPERATORS),
    ),
    ("GET", "/api/v1/sources", Takes::Role(READERS)),
    ("GET", "/api/v1/sources/{id}", Takes::Role(READERS)),
    ("GET", "/api/v1/resources", Takes::Role(READERS)),
    ("GET", "/api/v1/resources/changes", Takes::Role(READERS)),
    ("GET", "/api/v1/resources/{id}", Takes::Role(READERS)),
    ("GET", "/api/v1/scopes", Takes::Role(READERS)),
    ("POST", "/api/v1/scopes/confirm", Takes::Role(OPERATORS)),
    ("GET", "/api/v1/losses", Takes::Role(READERS)),
    ("GET", "/api/v1/findings", Takes::Role(READERS)),
    ("GET", "/api/v1/findings/changes", Takes::Role(READERS)),
    ("GET", "/api/v1/findings/{id}", Takes::Role(READERS)),
    ("GET", "/api/v1/checks", Takes::SignedIn),
    ("GET", "/api/v1/checks/{id}", Takes::SignedIn),
    ("GET", "/api/v1/check-results", Takes::Role(READERS)),
    ("GET", "/api/v1/events", Takes::Role(READERS)),
    ("GET", "/api/v1/events/{id}", Takes::Role(READERS)),
    ("GET", "/api/v1/overview", Takes::Role(READERS)),
    ("GET", STREAM, Takes::Role(READERS)),
    ("GET", "/api/v1/quarantine", Takes::Role(READERS)),
    ("GET", "/api/v1/audit", Takes::Role(AUDITORS)),
    ("GET", "/api/v1/retention", Takes::Role(READERS)),
    ("PUT", "/api/v1/retention", Takes::Role(ADMINS)),
    ("POST", "/api/v1/retention/run", Takes::Role(ADMINS)),
    ("GET", "/api/v1/holds", Takes::Role(READERS)),
    ("POST", "/api/v1/holds", Takes::Role(ADMINS)),
    ("POST", "/api/v1/holds/{id}/lift", Takes::Role(ADMINS)),
];

/// Returns who may use an endpoint; `None` for one that is not in the table.
fn rule(method: &Method, path: &str) -> Option<Takes> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    TABLE
        .iter()
        .find(|(known, route, _)| *known == method && *route == path)
        .map(|(_, _, takes)| *takes)
}

/// How long an access token is good for, in seconds.
pub(super) const ACCESS_SECONDS: i64 = 600;

const ISSUER: &str = "zero-x-hub";

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: UserId,
    sid: SessionId,
    iat: i64,
    exp: i64,
}

/// Why the key of access tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// It is no Ed25519 key.
    #[error("the key of access tokens is no Ed25519 key in PKCS#8")]
    Form,
}

impl crate::failure::Explain for KeyError {
    fn exit(&self) -> crate::failure::Exit {
        crate::failure::Exit::Data
    }
}

/// Signs and checks access tokens (JWT, EdDSA).
pub(crate) struct AccessKeys {
    signing: EncodingKey,
    checking: DecodingKey,
}

impl AccessKeys {
    /// Makes them of an Ed25519 key in PKCS#8 DER.
    ///
    /// # Errors
    ///
    /// When the bytes are something else.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        use ed25519_dalek::pkcs8::DecodePrivateKey;
        let key = ed25519_dalek::SigningKey::from_pkcs8_der(der).map_err(|_| KeyError::Form)?;
        Ok(Self {
            signing: EncodingKey::from_ed_der(der),
            // Named after DER, it takes the 32 bytes of the public key.
            checking: DecodingKey::from_ed_der(key.verifying_key().as_bytes()),
        })
    }

    /// Signs a token of a session, good from `now` for [`ACCESS_SECONDS`].
    ///
    /// # Errors
    ///
    /// When it cannot be signed.
    pub(super) fn sign(
        &self,
        user: UserId,
        session: SessionId,
        now: Timestamp,
    ) -> Result<String, Refusal> {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user,
            sid: session,
            iat: now.as_second(),
            exp: now.as_second() + ACCESS_SECONDS,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signing)
            .map_err(|error| Refusal::failed(&error))
    }

    /// Returns whose token it is and of which session, if it was signed by this key and is good
    /// at `now`. Whether the session still stands is not in it.
    pub(super) fn check(&self, token: &str, now: Timestamp) -> Option<(UserId, SessionId)> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss"]);
        // The library reads the clock itself; the caller's is the one that counts here.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.checking, &validation)
            .ok()?
            .claims;
        let is_good = (claims.iat..claims.exp).contains(&now.as_second());
        is_good.then_some((claims.sub, claims.sid))
    }
}

/// Returns the token of an `Authorization: Bearer` header (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// A signed-in person.
#[derive(Clone)]
pub(super) struct Caller {
    /// Who.
    pub(super) user: User,
    /// Through which session.
    pub(super) session: SessionId,
}

/// Looks a token's person up. The session and the account are read at each request, so that
/// ending either takes effect at once.
async fn caller_of(state: &State, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let now = Timestamp::now();
    let (user, session) = bearer(headers)
        .and_then(|token| state.keys.check(token, now))
        .ok_or_else(Refusal::unauthenticated)?;
    let stands = state
        .appliance
        .session(session)
        .await?
        .is_some_and(|row| row.session.user == user && row.session.expires_at > now);
    if !stands {
        return Err(Refusal::unauthenticated());
    }
    match state.appliance.user(user).await? {
        Some(user) if !user.disabled => Ok(Caller { user, session }),
        Some(_) | None => Err(Refusal::unauthenticated()),
    }
}

/// Lets a request pass that the table lets pass, and paces its sender.
pub(super) async fn gate(
    axum::extract::State(state): axum::extract::State<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let is_stream = path.as_ref().is_some_and(|path| path.as_str() == STREAM);
    let takes = path.and_then(|path| rule(request.method(), path.as_str()));
    let peer = request.extensions().get::<Peer>().copied();
    let caller = match takes {
        Some(Takes::Anyone) => None,
        Some(_) | None => match caller_of(&state, request.headers()).await {
            Ok(caller) => Some(caller),
            Err(refusal) => return strangers(&state, peer, refusal),
        },
    };
    let whose = match (&caller, peer) {
        (Some(caller), _) => Some(Whose::User(caller.user.id)),
        (None, Some(Peer(address))) => Some(Whose::Network(address.ip())),
        (None, None) => None,
    };
    let pace = match whose.map(|whose| state.throttle.take(whose, Instant::now())) {
        Some(Err(after)) => return Refusal::too_many("requests", after).into_response(),
        Some(Ok(pace)) => Some(pace),
        None => None,
    };
    let turn = match &caller {
        Some(caller) => match state.throttle.begin(caller.user.id, is_stream) {
            Some(turn) => Some(turn),
            None => {
                let refusal = Refusal::too_many("requests at once", Duration::from_secs(1));
                return refusal.into_response();
            }
        },
        None => None,
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let mut response = to_the_end(request, next, turn).await;
    if let Some(pace) = pace {
        say_pace(response.headers_mut(), pace);
    }
    response
}

/// Serves a request to its end even if its sender hangs up or its time is over: a write that was
/// cut off between a change and the entry in the audit log would leave a change that nobody is told
/// of, and a read goes on in the store anyway, so it must go on to count. What depends on the
/// sender, the body, is read before.
async fn to_the_end(request: Request, next: Next, turn: Option<Turn>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, super::BODY_BYTES).await else {
        return Refusal::of_status(http::StatusCode::PAYLOAD_TOO_LARGE).into_response();
    };
    let request = Request::from_parts(parts, Body::from(body));
    let serving = async move {
        let response = next.run(request).await;
        match turn {
            Some(turn) => turn.until_sent(response),
            None => response,
        }
    };
    let served = tokio::spawn(serving.in_current_span()).await;
    served.unwrap_or_else(|error| Refusal::failed(&error).into_response())
}

/// Answers one who is not signed in: with the refusal, or with a wait when there are too many.
fn strangers(state: &State, peer: Option<Peer>, refusal: Refusal) -> Response {
    let paced = peer.map(|Peer(address)| {
        let whose = Whose::Network(address.ip());
        state.throttle.take(whose, Instant::now())
    });
    match paced {
        Some(Err(after)) => Refusal::too_many("requests", after).into_response(),
        Some(Ok(_)) | None => refusal.into_response(),
    }
}

/// Source: draft-ietf-httpapi-ratelimit-headers-07, sections 5.1 to 5.3.
fn say_pace(headers: &mut HeaderMap, pace: Pace) {
    let seconds = pace.full_after.as_secs() + u64::from(pace.full_after.subsec_nanos() > 0);
    headers.insert("ratelimit-limit", HeaderValue::from(BURST));
    headers.insert("ratelimit-remaining", HeaderValue::from(pace.left));
    headers.insert("ratelimit-reset", HeaderValue::from(seconds));
}

/// Returns the row of the table that a request falls under.
async fn rule_of(parts: &mut Parts, state: &Arc<State>) -> Result<Takes, Refusal> {
    let path = MatchedPath::from_request_parts(parts, state)
        .await
        .map_err(|_| Refusal::not_found())?;
    rule(&parts.method, path.as_str())
        .ok_or_else(|| Refusal::internal(format!("{} is not in the table", path.as_str())))
}

impl FromRequestParts<Arc<State>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Refusal> {
        let caller = parts.extensions.get::<Self>().cloned();
        std::future::ready(caller.ok_or_else(Refusal::unauthenticated)).await
    }
}

/// Refuses a role that is not among those that an endpoint takes.
fn require(role: Role, takes: &[Role]) -> Result<(), Refusal> {
    if takes.contains(&role) {
        return Ok(());
    }
    let words: Vec<&str> = takes.iter().map(|role| role.word()).collect();
    let detail = format!("your role is {role}; this takes {}", words.join(" or "));
    Err(Refusal::forbidden(detail))
}

/// Returns the organisation that the query asks for, escapes resolved.
///
/// # Errors
///
/// When it is named twice.
fn asked_org(query: Option<&str>) -> Result<Option<String>, Refusal> {
    let mut asked = None;
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "org" {
            continue;
        }
        let spaced = value.replace('+', " ");
        let text = percent_encoding::percent_decode_str(&spaced).decode_utf8();
        let text = text.map_err(|_| Refusal::not_found())?.into_owned();
        if asked.replace(text).is_some() {
            return Err(Refusal::bad_request("bad_query", "org is given twice"));
        }
    }
    Ok(asked.filter(|text| !text.is_empty()))
}

/// Finds the organisation that a caller means among those that the caller may know of.
async fn resolve(
    state: &State,
    user: &User,
    asked: Option<&str>,
    knows_all: bool,
) -> Result<Org, Refusal> {
    let is_own = |org: &Org| user.roles.contains_key(&org.id);
    if let Some(id) = asked.and_then(|text| text.parse::<OrgId>().ok()) {
        let org = state.appliance.org(id).await?;
        return org
            .filter(|org| knows_all || is_own(org))
            .ok_or_else(Refusal::not_found);
    }
    // One's own are read and no others: a hub may serve thousands.
    let own = || state.appliance.orgs_among(user.roles.keys().copied());
    match asked {
        Some(name) => {
            let orgs = if knows_all {
                state.appliance.orgs().await?
            } else {
                own().await?
            };
            let name = name.to_lowercase();
            orgs.into_iter()
                .find(|org| org.name.to_lowercase() == name)
                .ok_or_else(Refusal::not_found)
        }
        None => {
            let orgs = own().await?;
            let oldest = orgs.into_iter().min_by_key(|org| (org.created_at, org.id));
            oldest.ok_or_else(|| {
                Refusal::forbidden("you have no role in any organisation; name one with org=")
            })
        }
    }
}

/// A person admitted to an organisation, with a role that the endpoint takes.
pub(super) struct Member {
    /// Who.
    pub(super) caller: Caller,
    /// The organisation's data.
    pub(super) store: OrgStore,
}

impl FromRequestParts<Arc<State>> for Member {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Refusal> {
        let Takes::Role(takes) = rule_of(parts, state).await? else {
            return Err(Refusal::internal("the table names no role for a member"));
        };
        let caller = Caller::from_request_parts(parts, state).await?;
        let asked = asked_org(parts.uri.query())?;
        let org = resolve(state, &caller.user, asked.as_deref(), false).await?;
        let admitted = state.appliance.admit_user(caller.user.id, org.id).await?;
        require(admitted.role, takes)?;
        Ok(Self {
            caller,
            store: admitted.store,
        })
    }
}

/// A hub administrator.
pub(super) struct HubAdmin(pub(super) Caller);

impl FromRequestParts<Arc<State>> for HubAdmin {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Refusal> {
        if rule_of(parts, state).await? != Takes::HubAdmin {
            return Err(Refusal::internal("the table names no hub administrator"));
        }
        let caller = Caller::from_request_parts(parts, state).await?;
        if !caller.user.hub_admin {
            return Err(Refusal::forbidden("this takes a hub administrator"));
        }
        Ok(Self(caller))
    }
}

/// By what right an organisation is administered.
enum Right {
    /// A role in it.
    Role(OrgStore),
    /// The hub's administration.
    Hub(Administration),
}

/// An organisation under administration, by somebody with a role that the endpoint takes or by a
/// hub administrator. It gives access to no data.
pub(super) struct Administered {
    /// Who.
    pub(super) caller: Caller,
    right: Right,
    /// Held by a hub administrator from the look whether there is an admin until one is made, so
    /// that of two at once only one makes the first.
    founding: Option<OwnedMutexGuard<()>>,
}

impl Administered {
    /// Makes it of an admission that a hub administrator has had.
    pub(super) const fn by_hub(caller: Caller, administration: Administration) -> Self {
        Self {
            caller,
            right: Right::Hub(administration),
            founding: None,
        }
    }

    /// Returns whether this is a hub administrator about to make the organisation's first admin,
    /// and nothing else.
    pub(super) const fn is_founding(&self) -> bool {
        self.founding.is_some()
    }

    /// Returns which organisation it is.
    pub(super) fn org(&self) -> OrgId {
        match &self.right {
            Right::Role(store) => store.org(),
            Right::Hub(administration) => administration.org(),
        }
    }

    /// Stores an enrolment token.
    ///
    /// # Errors
    ///
    /// When it cannot be stored.
    pub(super) async fn put_token(&self, token: EnrolToken) -> Result<(), Refusal> {
        match &self.right {
            Right::Role(store) => store.put_token(token).await?,
            Right::Hub(administration) => administration.put_token(token).await?,
        }
        Ok(())
    }

    /// Records an act of the caller in the organisation's audit log.
    ///
    /// # Errors
    ///
    /// When it cannot be recorded; the act must then be reported as failed.
    pub(super) async fn audit(
        &self,
        action: &str,
        object: String,
        detail: String,
    ) -> Result<(), Refusal> {
        let act = AuditAct {
            at: Timestamp::now(),
            actor: Actor::User(self.caller.user.id),
            action: action.to_owned(),
            object,
            detail,
        };
        match &self.right {
            Right::Role(store) => {
                let mut write = store.write();
                write.audit(act);
                write.commit().await?;
            }
            Right::Hub(administration) => {
                administration.audit(act).await?;
            }
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<State>> for Administered {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Refusal> {
        let (takes, first_alone) = match rule_of(parts, state).await? {
            Takes::RoleOrHubAdmin(takes) => (takes, false),
            Takes::RoleOrFounder(takes) => (takes, true),
            Takes::Anyone | Takes::SignedIn | Takes::Role(_) | Takes::HubAdmin => {
                return Err(Refusal::internal("the table names no administrator"));
            }
        };
        let caller = Caller::from_request_parts(parts, state).await?;
        let user = &caller.user;
        let asked = asked_org(parts.uri.query())?;
        let org = resolve(state, user, asked.as_deref(), user.hub_admin).await?;
        let has_role = user
            .roles
            .get(&org.id)
            .is_some_and(|role| takes.contains(role));
        let is_by_hub = user.hub_admin && !(first_alone && has_role);
        let founding = if is_by_hub && first_alone {
            Some(begin_founding(state, org.id).await?)
        } else {
            None
        };
        let right = if is_by_hub {
            Right::Hub(state.appliance.admit_administrator(user.id, org.id).await?)
        } else {
            let admitted = state.appliance.admit_user(user.id, org.id).await?;
            require(admitted.role, takes)?;
            Right::Role(admitted.store)
        };
        Ok(Self {
            caller,
            right,
            founding,
        })
    }
}

/// Lets one hub administrator at a time make the first admin of an organisation.
///
/// # Errors
///
/// When the organisation has an admin. A disabled one counts: the role is given.
async fn begin_founding(state: &State, org: OrgId) -> Result<OwnedMutexGuard<()>, Refusal> {
    let founding = Arc::clone(&state.founding).lock_owned().await;
    let users = state.appliance.users().await?;
    if users
        .iter()
        .any(|user| user.roles.get(&org) == Some(&Role::Admin))
    {
        return Err(Refusal::forbidden(
            "this organisation has an admin, and only its admins make its users; a hub \
             administrator makes the first admin of an organisation and nobody else",
        ));
    }
    Ok(founding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(seed: u8) -> AccessKeys {
        use ed25519_dalek::pkcs8::EncodePrivateKey;
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        AccessKeys::from_pkcs8(key.to_pkcs8_der().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_session_and_no_other_key_or_time() {
        let keys = keys(1);
        let (user, session) = (UserId::from_bytes([1; 16]), SessionId::from_bytes([2; 16]));
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let token = keys.sign(user, session, now).unwrap();
        let later = |seconds| now + jiff::SignedDuration::from_secs(seconds);

        assert_eq!(keys.check(&token, now), Some((user, session)));
        assert_eq!(keys.check(&token, later(599)), Some((user, session)));
        assert_eq!(keys.check(&token, later(600)), None);
        assert_eq!(keys.check(&token, later(-1)), None);
        assert_eq!(super::tests::keys(2).check(&token, now), None);

        // Every single byte counts: no part of it can be exchanged.
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(keys.check(&changed, now), None, "byte {at}");
        }
        // And a token that says it needs no signature is none.
        let body = token.split('.').nth(1).unwrap();
        let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
        assert_eq!(keys.check(&format!("{none}.{body}."), now), None);
    }

    #[test]
    fn the_organisation_is_read_from_the_query_with_its_escapes() {
        let asked = |query| asked_org(Some(query)).unwrap();
        assert_eq!(asked("org=acme").as_deref(), Some("acme"));
        assert_eq!(
            asked("limit=1&org=A%26B+Ltd%2e&x=y").as_deref(),
            Some("A&B Ltd.")
        );
        assert_eq!(asked("organisation=x&orgs=y"), None);
        assert_eq!(asked("org="), None);
        assert!(asked_org(Some("org=a&org=b")).is_err());
        assert!(asked_org(Some("org=%ff")).is_err());
        assert_eq!(asked_org(None).unwrap(), None);
    }

    #[test]
    fn a_token_is_read_from_one_header_of_one_scheme() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&["bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&["Basic abc"]), None);
        assert_eq!(read(&["Bearer"]), None);
        assert_eq!(read(&["Bearer a", "Bearer b"]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn no_endpoint_is_in_the_table_twice_and_only_four_are_public() {
        for (index, (method, path, _)) in TABLE.iter().enumerate() {
            let again = TABLE.iter().skip(index + 1);
            assert!(!again.clone().any(|row| (row.0, row.1) == (*method, *path)));
        }
        let public: Vec<&str> = TABLE
            .iter()
            .filter(|(_, _, takes)| *takes == Takes::Anyone)
            .map(|(_, path, _)| *path)
            .collect();
        assert_eq!(
            public,
            ["/healthz", "/readyz", "/api/v1/login", "/api/v1/refresh"]
        );
    }
}
