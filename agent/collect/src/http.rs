//! A small client for the JSON APIs of clouds and code hosts.
//!
//! One call is one request with its bounds: a turn of the [`Budget`], a time limit, a body limit,
//! and a bounded number of retries with full jitter that honour `Retry-After`. Used by the crates
//! `gcp` and `azure`. It follows no redirects (a bearer token would travel with them), keeps no
//! cookies, reads no proxy variables and never writes a header or a body to a log.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::budget::Budget;
use crate::source::{CollectError, Fault};

/// The bounds of every call that a client makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of an answer, in bytes.
    pub body_bytes: usize,
    /// Longest time for one attempt, from the first byte sent to the last received.
    pub attempt: Duration,
    /// Most attempts of one call, the first included.
    pub attempts: u32,
    /// Upper end of the first pause; it doubles with each attempt.
    pub pause_first: Duration,
    /// Upper end of every pause that the server did not ask for.
    pub pause_longest: Duration,
    /// Longest pause that a server may ask for; a longer one ends the call.
    pub retry_after_longest: Duration,
}

impl Default for Limits {
    /// A page of 1,000 rich resources is 2 to 6 MB. Eight attempts outlast a burst in which two
    /// of five calls are throttled (0.4⁸ is below one in a thousand).
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            attempt: Duration::from_secs(60),
            attempts: 8,
            pause_first: Duration::from_millis(250),
            pause_longest: Duration::from_secs(15),
            retry_after_longest: Duration::from_secs(60),
        }
    }
}

/// An answer read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most [`Limits::body_bytes`].
    pub body: Bytes,
}

impl Answer {
    /// Returns a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the body as JSON; `None` when it is not.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Why a call has no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct Failure {
    /// The call and the code that a gap shows.
    pub fault: Fault,
    /// What happened.
    pub kind: FailureKind,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// The server answered with this status.
    Status(u16),
    /// No answer came: name resolution, connection, TLS or time. The text is the transport's own.
    Transport(String),
    /// An answer came that cannot be used: too large, or of another shape.
    Unusable,
}

impl Failure {
    /// Makes the failure of a call whose answer cannot be used.
    pub fn unusable(call: &str, code: &str) -> Self {
        Self {
            fault: Fault {
                call: call.to_owned(),
                code: code.to_owned(),
            },
            kind: FailureKind::Unusable,
        }
    }
}

/// Where a provider's API hosts are reached.
///
/// Without a base, `https://<host>`. With one, every host stands below it, which serves private
/// gateways and tests alike: `<base>/<host>/<path>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint {
    base: Option<String>,
}

impl Endpoint {
    /// Reads the `endpoint` setting of a source.
    ///
    /// # Errors
    ///
    /// When the text is not an `https://` base URL, or an `http://` one that leaves this host: a
    /// bearer token in clear text belongs on no network.
    pub fn parse(text: &str) -> Result<Self, CollectError> {
        let refuse = |reason: &str| CollectError::Setting {
            key: "endpoint".to_owned(),
            reason: reason.to_owned(),
        };
        let text = text.trim_end_matches('/');
        let uri: Uri = text
            .parse()
            .map_err(|_| refuse("it is not a URL; write https://host[:port][/path]"))?;
        let Some(authority) = uri.authority() else {
            return Err(refuse("it names no host; write https://host[:port][/path]"));
        };
        if authority.as_str().contains('@') {
            return Err(refuse(
                "it holds a user name or password; secrets go to the vault",
            ));
        }
        if uri.query().is_some() {
            return Err(refuse(
                "it has a query; a base URL ends with its host or path",
            ));
        }
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(authority.host()) => {}
            Some("http") => {
                return Err(refuse(
                    "http:// is for this host only, since it would show the token; use https://",
                ));
            }
            _ => return Err(refuse("it must begin with https://")),
        }
        Ok(Self {
            base: Some(text.to_owned()),
        })
    }

    /// Returns the URL of `path` (which begins with a slash) on an API host.
    pub fn url(&self, host: &str, path: &str) -> String {
        match &self.base {
            Some(base) => format!("{base}/{host}{path}"),
            None => format!("https://{host}{path}"),
        }
    }

    /// Returns the base URL where the setting names one.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Returns whether calls go over plain HTTP, which only loopback may.
    pub fn is_plain(&self) -> bool {
        self.base
            .as_deref()
            .is_some_and(|base| base.starts_with("http://"))
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Encodes query parameters; everything but RFC 3986's unreserved characters is escaped.
pub fn query(parameters: &[(&str, &str)]) -> String {
    fn encode(text: &str, out: &mut String) {
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                other => out.push_str(&format!("%{other:02X}")),
            }
        }
    }
    let mut text = String::new();
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        encode(name, &mut text);
        text.push('=');
        encode(value, &mut text);
    }
    text
}

/// Makes an `Authorization` header that no `Debug` shows.
///
/// # Errors
///
/// When the token holds a character that no header may.
pub fn bearer(token: &SecretString) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A client with its bounds. Clones share connections, budget and counter.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    budget: Budget,
    limits: Limits,
    attempts_made: Arc<AtomicU64>,
}

impl Http {
    /// Makes a client that trusts the host's certificate store (`SSL_CERT_FILE` is honoured).
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn new(budget: Budget, limits: Limits) -> Result<Self, CollectError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|error| CollectError::Unreachable {
                endpoint: "any https:// address".to_owned(),
                reason: format!("the host's certificate store cannot be read ({error})"),
            })?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(4)
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Ok(Self {
            client,
            budget,
            limits,
            attempts_made: Arc::default(),
        })
    }

    /// Returns how many requests were sent so far, retries included.
    pub fn attempts_made(&self) -> u64 {
        self.attempts_made.load(Ordering::Relaxed)
    }

    /// Sends `request` until it is answered with success, a refusal that no repetition would
    /// change, or the bounds are spent. Only for requests that change nothing.
    ///
    /// `call` names it in the failure; `read_code` finds the provider's error code in an answer
    /// that is none. A 429 and every 5xx are tried again, and so is silence.
    ///
    /// # Errors
    ///
    /// The last failure.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, a request may have been sent and its answer is lost.
    pub async fn call(
        &self,
        call: &str,
        request: &Request<Bytes>,
        read_code: fn(&Answer) -> Option<String>,
    ) -> Result<Answer, Failure> {
        let mut attempt = 1;
        loop {
            let (failure, asked) = match self.once(call, request).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status.as_u16();
                    let fault = Fault {
                        call: call.to_owned(),
                        code: read_code(&answer).unwrap_or_else(|| format!("http_{status}")),
                    };
                    let kind = FailureKind::Status(status);
                    (Failure { fault, kind }, retry_after(&answer.headers))
                }
                Err(failure) => (failure, None),
            };
            let again = match &failure.kind {
                FailureKind::Status(status) => *status == 429 || *status >= 500,
                FailureKind::Transport(_) => true,
                FailureKind::Unusable => false,
            };
            let too_long = asked.is_some_and(|pause| pause > self.limits.retry_after_longest);
            if !again || too_long || attempt >= self.limits.attempts {
                return Err(failure);
            }
            tracing::debug!(call, attempt, code = failure.fault.code, "call is repeated");
            tokio::time::sleep(self.pause(attempt, asked)).await;
            attempt += 1;
        }
    }

    /// Returns the pause before the next attempt: random up to a doubling bound (full jitter),
    /// and after what the server asked for.
    fn pause(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        let doubled = 1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX);
        let bound = self.limits.pause_first.saturating_mul(doubled);
        let bound = bound.min(self.limits.pause_longest);
        // The standard library's seed is random per instance: enough to spread retries.
        let random = RandomState::new().build_hasher().finish();
        let random = u32::try_from(random >> 32).unwrap_or(u32::MAX);
        let jitter = bound.mul_f64(f64::from(random) / f64::from(u32::MAX));
        asked.unwrap_or_default() + jitter
    }

    /// Sends `request` once and returns the answer, whatever its status.
    ///
    /// # Errors
    ///
    /// When no answer came, or one beyond the body limit.
    pub async fn once(&self, call: &str, request: &Request<Bytes>) -> Result<Answer, Failure> {
        let silent = |code: &str, reason: String| Failure {
            fault: Fault {
                call: call.to_owned(),
                code: code.to_owned(),
            },
            kind: FailureKind::Transport(reason),
        };
        let _turn = self.budget.turn().await;
        self.attempts_made.fetch_add(1, Ordering::Relaxed);
        let request = request.clone().map(Full::new);
        let work = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|error| silent("unreachable", with_causes(&error)))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, self.limits.body_bytes).collect().await;
            let body = body.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    Failure::unusable(call, "too_large")
                } else {
                    silent("connection_lost", error.to_string())
                }
            })?;
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.to_bytes(),
            })
        };
        match tokio::time::timeout(self.limits.attempt, work).await {
            Ok(result) => result,
            Err(_) => Err(silent("timeout", "no answer in time".to_owned())),
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Reads `Retry-After`: seconds, or a date. Source: RFC 9110, section 10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let ahead = at.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(ahead).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::num::NonZeroU32;
    use std::sync::Mutex;

    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;

    type Scripted = http::Response<Full<Bytes>>;

    /// Answers each request with the next of `answers`, the last for ever.
    async fn serve(answers: Vec<Scripted>) -> (String, Arc<AtomicU64>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(AtomicU64::new(0));
        let answers = Arc::new(Mutex::new(answers));
        let count = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answers, count) = (Arc::clone(&answers), Arc::clone(&count));
                let service = service_fn(move |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let mut left = answers.lock().unwrap();
                    let answer = left.first().unwrap().clone();
                    if left.len() > 1 {
                        left.remove(0);
                    }
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (base, seen)
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Scripted {
        let mut answer = http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap()
    }

    fn client() -> Http {
        let fast = NonZeroU32::new(1000).unwrap();
        let limits = Limits {
            body_bytes: 64,
            attempt: Duration::from_secs(5),
            attempts: 3,
            pause_first: Duration::from_millis(1),
            pause_longest: Duration::from_millis(2),
            retry_after_longest: Duration::from_secs(2),
        };
        Http::new(Budget::new(fast, fast, 4), limits).unwrap()
    }

    async fn get(http: &Http, base: &str) -> Result<Answer, Failure> {
        let request = Request::get(format!("{base}/x"))
            .body(Bytes::new())
            .unwrap();
        http.call("api:x", &request, |answer| {
            answer.json()?.get("code")?.as_str().map(Into::into)
        })
        .await
    }

    #[tokio::test]
    async fn a_throttled_call_is_repeated_and_its_pause_is_honoured() {
        let wait = answer(429, &[("retry-after", "1")], "{}");
        let (base, seen) = serve(vec![wait, answer(503, &[], ""), answer(200, &[], "{}")]).await;
        let http = client();
        let begun = tokio::time::Instant::now();
        get(&http, &base).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!((seen.load(Ordering::SeqCst), http.attempts_made()), (3, 3));
    }

    #[tokio::test]
    async fn a_refusal_is_not_repeated_and_carries_the_providers_code() {
        let (base, seen) = serve(vec![answer(403, &[], r#"{"code":"Denied"}"#)]).await;
        let failure = get(&client(), &base).await.unwrap_err();
        assert_eq!(failure.fault.to_string(), "api:x answered Denied");
        assert_eq!(failure.kind, FailureKind::Status(403));
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn retries_are_bounded_and_so_is_the_pause_a_server_may_ask_for() {
        let (base, seen) = serve(vec![answer(500, &[], "oops")]).await;
        let failure = get(&client(), &base).await.unwrap_err();
        assert_eq!(failure.fault.code, "http_500");
        assert_eq!(seen.load(Ordering::SeqCst), 3);

        let (base, seen) = serve(vec![answer(429, &[("retry-after", "3600")], "")]).await;
        assert_eq!(
            get(&client(), &base).await.unwrap_err().kind,
            FailureKind::Status(429)
        );
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let (base, _) = serve(vec![answer(200, &[], &"x".repeat(65))]).await;
        let failure = get(&client(), &base).await.unwrap_err();
        assert_eq!(failure.fault.code, "too_large");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (target, reached) = serve(vec![answer(200, &[], "{}")]).await;
        let (base, _) = serve(vec![answer(302, &[("location", &target)], "")]).await;
        assert_eq!(
            get(&client(), &base).await.unwrap_err().fault.code,
            "http_302"
        );
        assert_eq!(reached.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_told_apart_from_a_refusal() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = get(&client(), &base).await.unwrap_err();
        assert_eq!(failure.fault.code, "unreachable");
        assert!(matches!(failure.kind, FailureKind::Transport(_)));
    }

    #[test]
    fn an_endpoint_keeps_the_token_off_the_network_in_clear() {
        let check = |text: &str, want: &str| {
            let got = match Endpoint::parse(text) {
                Ok(endpoint) => endpoint.url("api.example", "/v1/x"),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(want), "{text}: {got}");
        };
        check(
            "https://gate.example/cloud/",
            "https://gate.example/cloud/api.example/v1/x",
        );
        check(
            "http://127.0.0.1:18900",
            "http://127.0.0.1:18900/api.example/v1/x",
        );
        check("http://[::1]:18900", "http://[::1]:18900/api.example/v1/x");
        check("http://gate.example", "this host only");
        check("http://127.0.0.1.example", "this host only");
        check("https://user:pw@gate.example", "user name or password");
        check("ftp://gate.example", "must begin with https://");
        check("gate.example", "must begin with https://");
        check("/v1", "names no host");
        assert_eq!(
            Endpoint::default().url("api.example", "/v1"),
            "https://api.example/v1"
        );
    }

    #[test]
    fn query_values_cannot_become_parameters() {
        assert_eq!(
            query(&[("a", "1&b=2"), ("t", "x/y z")]),
            "a=1%26b%3D2&t=x%2Fy%20z"
        );
    }

    #[test]
    fn a_bearer_header_hides_its_token() {
        let header = bearer(&SecretString::from("s3cr3t")).unwrap();
        assert!(!format!("{header:?}").contains("s3cr3t"));
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value)]))
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(read("Thu, 31 Dec 2099 23:59:59 GMT").unwrap() > Duration::from_secs(3600));
        assert_eq!(read("soon"), None);
    }
}
