//! Lets `azure_identity` send its requests through the agent's own HTTP client: ring, the host's
//! certificate store, bounded bodies and times.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Request, Transport};
use collect::http::{FailureKind, Http, Limits};
use collect::{Budget, CollectError};

/// Bounds of one request for a token. `azure_identity` repeats requests itself.
const LIMITS: Limits = Limits {
    body_bytes: 256 << 10,
    attempt: Duration::from_secs(10),
    attempts: 1,
    pause_first: Duration::from_millis(250),
    pause_longest: Duration::from_secs(2),
    retry_after_longest: Duration::from_secs(5),
};

/// Requests for tokens a second: one or two an hour are normal.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// Returns a client for requests for tokens.
pub(crate) fn client() -> Result<Http, CollectError> {
    Http::new(Budget::new(PER_SECOND, PER_SECOND, 2), LIMITS)
}

/// Returns the transport for `azure_identity`.
pub(crate) fn transport(http: Http) -> Transport {
    Transport::new(Arc::new(OverHyper(http)))
}

#[derive(Debug)]
struct OverHyper(Http);

#[async_trait]
impl HttpClient for OverHyper {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        send(&self.0, request).await
    }
}

/// Sends a request of the SDK once.
pub(crate) async fn send(client: &Http, request: &Request) -> azure_core::Result<AsyncRawResponse> {
    let unsent = |what| Error::with_message(ErrorKind::Other, what);
    let mut builder = http::Request::builder()
        .method(request.method().as_str())
        .uri(request.url().as_str());
    for (name, value) in request.headers().iter() {
        let value = http::HeaderValue::from_str(value.as_str());
        let mut value = value.map_err(|_| unsent("a header value cannot be sent"))?;
        value.set_sensitive(true);
        builder = builder.header(name.as_str(), value);
    }
    let body = match request.body() {
        Body::Bytes(bytes) => bytes.clone(),
        Body::SeekableStream(_) => return Err(unsent("a streamed body cannot be sent")),
    };
    let sent = builder.body(body).map_err(|_| unsent("not a request"))?;
    let answer = client.once("token", &sent).await.map_err(|failure| {
        let reason = match failure.kind {
            FailureKind::Transport(reason) => reason,
            FailureKind::Status(_) | FailureKind::Unusable => failure.fault.code,
        };
        Error::with_message(ErrorKind::Io, reason)
    })?;
    let headers = answer.headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?.to_owned();
        Some((
            HeaderName::from(name.as_str().to_owned()),
            HeaderValue::from(value),
        ))
    });
    let headers = Headers::from(headers.collect::<HashMap<_, _>>());
    Ok(AsyncRawResponse::from_bytes(
        answer.status.as_u16().into(),
        headers,
        answer.body,
    ))
}
