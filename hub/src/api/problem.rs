//! What a request gets that is not served: an RFC 9457 problem document with a stable code and
//! the request's id. What went wrong inside goes to the log under that id and never to the peer.
//!
//! A handler returns a [`Refusal`]; [`super::dress`] writes it out, since it knows the id.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body as HttpBody};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use protocol::api::Problem;
use protocol::ids::RequestId;
use serde::de::DeserializeOwned;
use store::error::{AdmitUserError, ApplianceError, CommitError, ReadError};

use crate::password::PasswordError;

/// Longest detail that is sent, in characters: some reasons quote what the peer sent.
const DETAIL_CHARS: usize = 1000;

/// Draws the id of a request.
pub(super) fn new_request_id() -> RequestId {
    RequestId::from_bytes(*uuid::Uuid::now_v7().as_bytes())
}

/// Why a request is not served.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    /// For the log alone.
    cause: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
            cause: None,
        }
    }

    /// There is none, or it belongs to somebody else: the two must not differ.
    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such object",
        )
    }

    /// The request cannot mean anything.
    pub(super) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// Nobody is signed in.
    pub(super) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "sign in first: the request carries no valid access token",
        )
    }

    /// A sign-in failed. Which of both was wrong is not said.
    pub(super) fn wrong_credentials() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "wrong_credentials",
            "e-mail address or password is wrong",
        )
    }

    /// The caller may not.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// It is taken, or was changed meanwhile.
    pub(super) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// The request can be read and yet cannot be meant.
    pub(super) fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// Too many requests or attempts; `after` is when another has a chance.
    pub(super) fn too_many(what: &str, after: Duration) -> Self {
        let seconds = after.as_secs_f64().ceil().max(1.0);
        let mut refusal = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            format!("too many {what}; try again in {seconds} s"),
        );
        refusal.retry_after = Some(after.max(Duration::from_secs(1)));
        refusal
    }

    /// The hub cannot for the moment.
    pub(super) fn unavailable(cause: &dyn std::error::Error) -> Self {
        let mut refusal = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the hub cannot serve this for the moment; its log says why under the request id",
        );
        refusal.retry_after = Some(Duration::from_secs(5));
        refusal.cause = Some(chain(cause));
        refusal
    }

    /// No space is left. What is stored can be read all the while.
    fn disk_full(cause: &dyn std::error::Error) -> Self {
        let mut refusal = Self::unavailable(cause);
        refusal.code = "disk_full";
        refusal.detail =
            "the hub's disk is full: nothing was changed, and what is stored is safe; \
                           try again when somebody has made space"
                .into();
        refusal
    }

    /// The hub failed.
    pub(super) fn internal(cause: impl Into<String>) -> Self {
        let mut refusal = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the hub could not serve this; its log says why under the request id",
        );
        refusal.cause = Some(cause.into());
        refusal
    }

    /// The hub failed, and this is why.
    pub(super) fn failed(cause: &dyn std::error::Error) -> Self {
        Self::internal(chain(cause))
    }

    /// Returns what stands for an answer that some layer below gave without a document of ours.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(
                status,
                "body_too_large",
                format!("a body has at most {} bytes", super::BODY_BYTES),
            ),
            StatusCode::METHOD_NOT_ALLOWED => no_such_method_refusal(),
            StatusCode::NOT_FOUND => Self::not_found(),
            other if other.is_server_error() => Self::internal(format!("a layer answered {other}")),
            other => Self::new(other, "bad_request", "the request cannot be served"),
        }
    }

    /// Writes the problem document of a request, and the log line of what the hub is to blame for.
    pub(super) fn into_document(self, request: RequestId) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(%request, status = self.status.as_u16(), cause, "request failed");
        }
        let problem = Problem {
            type_uri: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.chars().take(DETAIL_CHARS).collect(),
            code: self.code.to_owned(),
            request_id: request.to_string(),
        };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Returns an error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Cursor => Self::bad_request(
                "bad_cursor",
                "the cursor is not one that this list gave; start again without it",
            ),
            ReadError::Closed | ReadError::Open(_) | ReadError::Compacting => {
                Self::unavailable(&error)
            }
            ReadError::Seal { .. }
            | ReadError::Newer { .. }
            | ReadError::Decode { .. }
            | ReadError::Engine(_)
            | _ => Self::failed(&error),
        }
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::conflict(
                "conflict",
                "it was changed by somebody else meanwhile; read it again",
            ),
            CommitError::Held { .. } => Self::conflict("held", error.to_string()),
            CommitError::Days { reason } => Self::unprocessable("bad_days", reason),
            CommitError::Full => Self::disk_full(&error),
            CommitError::Closed | CommitError::Engine(_) => Self::unavailable(&error),
            CommitError::Gap { .. }
            | CommitError::Repeat { .. }
            | CommitError::Missing { .. }
            | CommitError::TooLarge { .. }
            | CommitError::Fatal(_)
            | CommitError::Read(_)
            | _ => Self::failed(&error),
        }
    }
}

impl From<ApplianceError> for Refusal {
    fn from(error: ApplianceError) -> Self {
        match error {
            ApplianceError::NameTaken => {
                Self::conflict("name_taken", "an organisation of this name exists already")
            }
            ApplianceError::EmailTaken => Self::conflict(
                "email_taken",
                "a user with this e-mail address exists already",
            ),
            ApplianceError::Missing { .. } => Self::not_found(),
            ApplianceError::Conflict { .. } => Self::conflict(
                "conflict",
                "it was changed by somebody else meanwhile; read it again",
            ),
            ApplianceError::Full => Self::disk_full(&error),
            ApplianceError::Open(ref cause) if cause.is_full() => Self::disk_full(&error),
            ApplianceError::Closed | ApplianceError::Engine(_) | ApplianceError::Open(_) => {
                Self::unavailable(&error)
            }
            ApplianceError::Token(_)
            | ApplianceError::TooLarge { .. }
            | ApplianceError::Keyring { .. }
            | ApplianceError::DataKeys
            | ApplianceError::Fatal(_)
            | ApplianceError::Read(_)
            | _ => Self::failed(&error),
        }
    }
}

impl From<AdmitUserError> for Refusal {
    fn from(error: AdmitUserError) -> Self {
        match error {
            AdmitUserError::NoMembership => Self::not_found(),
            AdmitUserError::Read(error) => error.into(),
            AdmitUserError::Open(_) | _ => Self::unavailable(&error),
        }
    }
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::too_many("sign-ins at once", Duration::from_secs(2)),
            PasswordError::Hash { .. } => Self::failed(&error),
            PasswordError::Short { .. }
            | PasswordError::Long
            | PasswordError::Common
            | PasswordError::Repeats => Self::bad_request("bad_password", error.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    /// Carries the refusal to [`super::dress`], which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(HttpBody::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

/// The answer to a request that took too long.
pub(super) fn too_slow() -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_slow",
        "the request took too long",
    );
    refusal.retry_after = Some(Duration::from_secs(5));
    refusal
}

/// The answer on a path that does not exist.
pub(super) async fn no_such_path() -> Refusal {
    std::future::ready(Refusal::not_found()).await
}

/// The answer to a method that a path does not take.
pub(super) async fn no_such_method() -> Refusal {
    std::future::ready(no_such_method_refusal()).await
}

fn no_such_method_refusal() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not take this method",
    )
}

/// A JSON body; axum's own refusals would be plain text.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Refusal::of_status(StatusCode::PAYLOAD_TOO_LARGE))
            }
            Err(rejection) => Err(Refusal::new(
                rejection.status(),
                "bad_body",
                rejection.body_text(),
            )),
        }
    }
}

/// Query parameters; axum's own refusals would be plain text.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Refusal::bad_request("bad_query", rejection.body_text())),
        }
    }
}

/// One segment of the path; axum's own refusals would be plain text.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::<String>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            // Bytes that are no text name nothing.
            Err(_) => Err(Refusal::not_found()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_inside_is_not_told_to_the_peer() {
        let refusal = Refusal::internal("could not read /var/lib/zero-x-hub/secret-place");
        let response = refusal.into_document(new_request_id());
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("secret-place"), "{text}");
        assert!(text.contains("\"code\":\"internal\""), "{text}");
    }

    #[test]
    fn a_wait_is_rounded_up_and_said_in_the_header_too() {
        let refusal = Refusal::too_many("attempts", Duration::from_millis(2100));
        let response = refusal.into_document(new_request_id());
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }
}
