//! Signing in and out. A session is a family of refresh tokens of which the newest alone is good;
//! whoever shows an older one ends the family, since two hold what one should.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State as Shared;
use axum::{Extension, Json};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{LoginRequest, LoginResponse, Org, Problem, RefreshRequest, WhoAmI};
use protocol::ids::{SessionId, UserId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use store::error::ApplianceError;
use store::rows::access::Session;
use store::rows::finding::Actor;
use tracing::{info, warn};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use super::State;
use super::access::{ACCESS_SECONDS, Caller, Peer};
use super::problem::{Body, Refusal};

mod record;

/// A session that is not renewed for so long ends.
const IDLE: SignedDuration = SignedDuration::from_mins(30);

/// A session ends so long after its sign-in, whatever happens.
const ABSOLUTE: SignedDuration = SignedDuration::from_hours(12);

const REFRESH_PREFIX: &str = "zxr1_";

/// The hash of no password: what an unknown address is compared with, so that it takes as long
/// as a known one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5c3NhbHQhIQ$qfs1GdRvSRGP/z7y4cvhWBEdQYJxZPSnkai8SS/ftaY";

/// What a session's row holds.
#[derive(Serialize, Deserialize)]
struct Family {
    /// BLAKE3 of the secret of the one refresh token that is good.
    refresh_hash: [u8; 32],
    /// When the family ends, however often it is renewed.
    ends_at: Timestamp,
}

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(whoami))
}

fn fresh_secret() -> Result<Zeroizing<[u8; 32]>, Refusal> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|error| Refusal::failed(&error))?;
    Ok(secret)
}

/// Returns the text of a refresh token: `zxr1_<session>_<secret in hexadecimal>`.
fn refresh_text(session: SessionId, secret: &[u8; 32]) -> String {
    let secret = data_encoding::HEXLOWER.encode(secret);
    format!("{REFRESH_PREFIX}{session}_{secret}")
}

fn read_refresh(text: &str) -> Option<(SessionId, Zeroizing<Vec<u8>>)> {
    let (session, secret) = text.strip_prefix(REFRESH_PREFIX)?.rsplit_once('_')?;
    let secret = data_encoding::HEXLOWER.decode(secret.as_bytes()).ok()?;
    Some((session.parse().ok()?, Zeroizing::new(secret)))
}

/// Makes a session's row: good for [`IDLE`], and never beyond the family's end.
fn family_session(
    id: SessionId,
    user: UserId,
    secret: &[u8; 32],
    ends_at: Timestamp,
    now: Timestamp,
) -> Session {
    let family = Family {
        refresh_hash: *blake3::hash(secret).as_bytes(),
        ends_at,
    };
    Session {
        id,
        user,
        expires_at: (now + IDLE).min(ends_at),
        value: postcard::to_stdvec(&family).expect("plain structs always serialise"),
    }
}

fn answer(
    state: &State,
    session: SessionId,
    user: UserId,
    secret: &[u8; 32],
    now: Timestamp,
) -> Result<Json<LoginResponse>, Refusal> {
    Ok(Json(LoginResponse {
        access_token: state.keys.sign(user, session, now)?,
        refresh_token: refresh_text(session, secret),
        expires_in: ACCESS_SECONDS.unsigned_abs(),
    }))
}

/// Signs in.
#[utoipa::path(
    post, path = "/api/v1/login", operation_id = "login", tag = "session", security(()),
    request_body = LoginRequest,
    responses(
        (status = 200, body = LoginResponse),
        (status = 401, body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn login(
    Shared(state): Shared<Arc<State>>,
    Extension(Peer(peer)): Extension<Peer>,
    Body(request): Body<LoginRequest>,
) -> Result<Json<LoginResponse>, Refusal> {
    let password = SecretString::from(request.password);
    let address = peer.ip();
    state
        .throttle
        .attempt(address, &request.email, Instant::now())
        .map_err(|after| {
            record::refused(&state, request.email.clone(), "too many attempts", address);
            Refusal::too_many("attempts", after)
        })?;
    let user = state.appliance.user_by_email(request.email.trim()).await?;
    let hash = match &user {
        Some(user) => user.password_hash.clone(),
        None => NOBODY.to_owned(),
    };
    let matches = state.hasher.verify(password, hash).await?;
    let Some(user) = user.filter(|user| matches && !user.disabled) else {
        warn!(%address, "sign-in refused");
        record::refused(&state, request.email, "wrong password", address);
        return Err(Refusal::wrong_credentials());
    };
    state
        .throttle
        .forgive(address, &request.email, Instant::now());
    let now = Timestamp::now();
    let session = SessionId::from_bytes(*uuid::Uuid::now_v7().as_bytes());
    let secret = fresh_secret()?;
    let row = family_session(session, user.id, &secret, now + ABSOLUTE, now);
    state.appliance.put_session(row).await?;
    record::begun(&state, &user, session, address).await;
    info!(user = %user.id, %session, %address, "signed in");
    answer(&state, session, user.id, &secret, now)
}

/// Buys the next pair of tokens. A refresh token is good once: shown again, it ends the session.
#[utoipa::path(
    post, path = "/api/v1/refresh", operation_id = "refresh", tag = "session", security(()),
    request_body = RefreshRequest,
    responses(
        (status = 200, body = LoginResponse),
        (status = 401, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn refresh(
    Shared(state): Shared<Arc<State>>,
    Body(request): Body<RefreshRequest>,
) -> Result<Json<LoginResponse>, Refusal> {
    let text = Zeroizing::new(request.refresh_token);
    let (id, shown) = read_refresh(&text).ok_or_else(Refusal::unauthenticated)?;
    let now = Timestamp::now();
    let held = state.appliance.session(id).await?;
    let held = held.filter(|held| held.session.expires_at > now);
    let held = held.ok_or_else(Refusal::unauthenticated)?;
    let family: Family =
        postcard::from_bytes(&held.session.value).map_err(|error| Refusal::failed(&error))?;
    // BLAKE3's own comparison takes the same time wherever two hashes differ.
    if blake3::hash(&shown) != blake3::Hash::from_bytes(family.refresh_hash) {
        return Err(end_family(&state, held.session.user, id).await);
    }
    let user = state.appliance.user(held.session.user).await?;
    let Some(user) = user.filter(|user| !user.disabled) else {
        state.appliance.delete_session(id).await?;
        return Err(Refusal::unauthenticated());
    };
    let secret = fresh_secret()?;
    let row = family_session(id, user.id, &secret, family.ends_at, now);
    match state.appliance.replace_session(row, held.version).await {
        Ok(()) => answer(&state, id, user.id, &secret, now),
        // Two showed the same token at the same moment.
        Err(ApplianceError::Conflict { .. }) => Err(end_family(&state, user.id, id).await),
        Err(ApplianceError::Missing { .. }) => Err(Refusal::unauthenticated()),
        Err(error) => Err(error.into()),
    }
}

async fn end_family(state: &Arc<State>, user: UserId, session: SessionId) -> Refusal {
    warn!(%session, "a refresh token was used twice; the session is ended");
    if let Err(error) = state.appliance.delete_session(session).await {
        return error.into();
    }
    match state.appliance.user(user).await {
        Ok(Some(user)) => {
            let reason = "a refresh token was shown twice";
            record::ended(state, &user, session, Actor::Hub, reason).await;
            Refusal::unauthenticated()
        }
        Ok(None) => Refusal::unauthenticated(),
        Err(error) => error.into(),
    }
}

/// Signs out: the session ends at once.
#[utoipa::path(
    post, path = "/api/v1/logout", operation_id = "logout", tag = "session",
    responses((status = 204)),
)]
async fn logout(Shared(state): Shared<Arc<State>>, caller: Caller) -> Result<StatusCode, Refusal> {
    state.appliance.delete_session(caller.session).await?;
    let by = Actor::User(caller.user.id);
    record::ended(&state, &caller.user, caller.session, by, "signed out").await;
    info!(user = %caller.user.id, session = %caller.session, "signed out");
    Ok(StatusCode::NO_CONTENT)
}

/// Says who is asking.
#[utoipa::path(
    get, path = "/api/v1/whoami", operation_id = "whoami", tag = "session",
    responses((status = 200, body = WhoAmI)),
)]
async fn whoami(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
) -> Result<Json<WhoAmI>, Refusal> {
    let user = caller.user;
    let own = state
        .appliance
        .orgs_among(user.roles.keys().copied())
        .await?;
    let mut orgs: Vec<Org> = own
        .into_iter()
        .map(|org| Org {
            role: user.roles.get(&org.id).copied(),
            id: org.id,
            name: org.name,
            created_at: org.created_at,
        })
        .collect();
    orgs.sort_by_key(|org| (org.created_at, org.id));
    Ok(Json(WhoAmI {
        user_id: user.id,
        email: user.email,
        hub_admin: user.hub_admin,
        orgs,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_survives_its_text() {
        let session = SessionId::from_bytes([7; 16]);
        let text = refresh_text(session, &[9; 32]);
        let (id, secret) = read_refresh(&text).unwrap();
        assert_eq!((id, secret.as_slice()), (session, [9; 32].as_slice()));
        for bad in [
            "",
            "zxr1_",
            "zxr1_ses_x_00",
            &text[1..],
            &text[..text.len() - 1],
        ] {
            assert!(read_refresh(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_refusal_says_nothing_about_which_of_both_was_wrong() {
        let refusal = Refusal::wrong_credentials();
        let response = refusal.into_document(super::super::problem::new_request_id());
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.code, "wrong_credentials");
        assert_eq!(problem.detail, "e-mail address or password is wrong");
    }

    #[tokio::test]
    async fn nobodys_hash_is_a_hash_and_matches_no_password() {
        let parts: Vec<&str> = NOBODY.split('$').collect();
        // The same work as a real one, or the time would tell.
        assert_eq!(parts[1..4], ["argon2id", "v=19", "m=19456,t=2,p=1"]);
        assert!(argon2::password_hash::phc::PasswordHash::new(NOBODY).is_ok());
        let hasher = crate::password::Hasher::default();
        let real = hasher
            .hash(SecretString::from("drums under wet gravel"))
            .await;
        let real = real.unwrap();
        assert_eq!(real.split('$').nth(3), Some(parts[3]));
        assert_eq!(
            real.split('$').next_back().map(str::len),
            Some(parts[5].len())
        );
        for password in ["", "nobody", "password"] {
            let verified = hasher.verify(SecretString::from(password), NOBODY.to_owned());
            assert!(!verified.await.unwrap());
        }
    }

    #[test]
    fn a_session_never_outlives_its_family() {
        let now = Timestamp::UNIX_EPOCH;
        let make = |ends_at| {
            family_session(
                SessionId::from_bytes([1; 16]),
                UserId::from_bytes([2; 16]),
                &[3; 32],
                ends_at,
                now,
            )
        };
        assert_eq!(make(now + ABSOLUTE).expires_at, now + IDLE);
        let soon = now + SignedDuration::from_mins(1);
        assert_eq!(make(soon).expires_at, soon);
    }
}
