//! HTTPS to the hub: one connection, its certificate checked against the pinned CA, tokens
//! renewed when they end. Called by `cli` and by the console; draws and prints nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{LoginRequest, LoginResponse, Page, Problem, RefreshRequest};
use protocol::enroll::{Pin, TokenError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::session::{self, Locked, Session, SessionError};

mod tls;

pub(crate) use tls::is_wrong_pin;

/// Largest answer, in bytes: a page of 1,000 resources of the largest kind stays below.
const ANSWER_BYTES: usize = 64 << 20;

/// Longest wait for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Longest wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How often a question is asked again that the hub answered with "too many requests".
const BUSY_TRIES: u32 = 2;

/// Longest wait before such a question is asked again.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Wait when the hub names none.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// An access token with less than this left is renewed first.
const MARGIN: SignedDuration = SignedDuration::from_secs(30);

/// Says why the hub gave no answer, or which.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ClientError {
    /// The URL cannot be used.
    #[error("{url} is not a hub's address: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What would be right.
        reason: &'static str,
    },
    /// The pin cannot be read.
    #[error("the CA pin cannot be used")]
    Pin {
        /// Why.
        #[source]
        source: TokenError,
    },
    /// The hub cannot be reached.
    #[error("cannot reach the hub at {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The hub's certificate is not trusted.
    #[error("the hub at {address} does not prove its identity")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing came in time.
    #[error("the hub at {address} did not answer in {seconds} s")]
    Time {
        /// Host and port.
        address: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to the hub broke")]
    Broken {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hub answered with a problem.
    #[error("{}", shown(problem))]
    Problem {
        /// The answer.
        problem: Box<Problem>,
    },
    /// The answer is not what the API promises.
    #[error("the hub's answer cannot be read: {reason}")]
    Answer {
        /// Why.
        reason: String,
    },
    /// Nobody has signed in.
    #[error("nobody is signed in")]
    SignedOut,
    /// The session file cannot be used.
    #[error("the session cannot be used")]
    Session(#[from] SessionError),
}

fn shown(problem: &Problem) -> String {
    let words = if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    };
    format!("{words} ({}, request {})", problem.code, problem.request_id)
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    /// Status.
    pub(crate) status: StatusCode,
    /// Body.
    pub(crate) body: Bytes,
    /// How long the hub asks to wait before the next attempt.
    retry_after: Option<Duration>,
}

impl Raw {
    /// Returns how long to wait before a question that was one too many is asked again; `None`
    /// when it was not, or when the hub wants a longer wait than one that nobody notices.
    fn pause(&self) -> Option<Duration> {
        let pause = self.retry_after.unwrap_or(BUSY_PAUSE);
        (self.status == StatusCode::TOO_MANY_REQUESTS && pause <= BUSY_PAUSE_MAX).then_some(pause)
    }

    /// Returns the body as JSON of `T`, or the problem that the hub answered with.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if self.status.is_success() {
            let unreadable = |error: serde_json::Error| ClientError::Answer {
                reason: error.to_string(),
            };
            return serde_json::from_slice(&self.body).map_err(unreadable);
        }
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => Err(ClientError::Problem {
                problem: Box::new(problem),
            }),
            Err(_) => Err(ClientError::Answer {
                reason: format!("status {}", self.status),
            }),
        }
    }
}

/// Where a hub is and how to know it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    url: String,
    host: String,
    port: u16,
    pin: Option<Pin>,
}

impl Endpoint {
    /// Reads `https://host[:port]` and a pin.
    pub(crate) fn parse(url: &str, pin: Option<&str>) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::Url {
            url: url.to_owned(),
            reason,
        };
        let uri: http::Uri = url.parse().map_err(|_| bad("write https://host:port"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("it begins with https://"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(bad("it has no path"));
        }
        let host = uri.host().ok_or_else(|| bad("it names no host"))?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let pin = pin
            .map(str::parse)
            .transpose()
            .map_err(|source| ClientError::Pin { source })?;
        let port = uri.port_u16().unwrap_or(8443);
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            host,
            port,
            pin,
        })
    }

    /// Returns host and port as shown to people.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let address = self.address();
        let dial = TcpStream::connect((self.host.as_str(), self.port));
        let late = || ClientError::Time {
            address: self.address(),
            seconds: CONNECT_TIME.as_secs(),
        };
        let stream = tokio::time::timeout(CONNECT_TIME, dial)
            .await
            .map_err(|_| late())?
            .map_err(|source| ClientError::Connect {
                address: address.clone(),
                source,
            })?;
        // Small requests should not wait for more to send.
        let _ = stream.set_nodelay(true);
        let untrusted = |source| ClientError::Tls {
            address: address.clone(),
            source,
        };
        let config = tls::config(self.pin).map_err(untrusted)?;
        let name = tls::server_name(&self.host).map_err(untrusted)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = tokio::time::timeout(CONNECT_TIME, connector.connect(name, stream))
            .await
            .map_err(|_| late())?
            .map_err(untrusted)?;
        let broken = |error: hyper::Error| ClientError::Broken {
            source: Box::new(error),
        };
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(async move {
            // Whoever waits for an answer learns of the break from its own error.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// A client of one hub.
pub(crate) struct Client {
    endpoint: Endpoint,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
    session: Mutex<Option<Session>>,
    /// Held while the session is being renewed.
    renewal: Mutex<()>,
}

/// An answer that does not end by itself.
pub(crate) struct Stream {
    /// What comes.
    pub(crate) body: hyper::body::Incoming,
    /// The connection is closed when nobody could send on it any more.
    _sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Makes a client that nobody has signed in with.
    pub(crate) fn anonymous(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            connection: Mutex::new(None),
            session: Mutex::new(None),
            renewal: Mutex::new(()),
        }
    }

    /// Makes a client of the session on disk.
    pub(crate) fn signed_in() -> Result<Self, ClientError> {
        let session = Locked::open(&session::path()?)?
            .read()?
            .ok_or(ClientError::SignedOut)?;
        let endpoint = Endpoint::parse(&session.url, session.ca_pin.as_deref())?;
        let client = Self::anonymous(endpoint);
        Ok(Self {
            session: Mutex::new(Some(session)),
            ..client
        })
    }

    /// Returns host and port of the hub.
    pub(crate) fn address(&self) -> String {
        self.endpoint.address()
    }

    /// Signs in and keeps the session on disk.
    pub(crate) async fn login(&self, email: &str, password: String) -> Result<(), ClientError> {
        let request = LoginRequest {
            email: email.to_owned(),
            password,
        };
        let answer = self
            .send(Method::POST, "/api/v1/login", Some(encode(&request)?), None)
            .await?;
        let tokens: LoginResponse = answer.read()?;
        let session = Session {
            url: self.endpoint.url.clone(),
            ca_pin: self.endpoint.pin.map(|pin| pin.to_string()),
            email: email.to_owned(),
            access_token: String::new(),
            refresh_token: String::new(),
            expires_at: Timestamp::now(),
        };
        let session = renewed(session, tokens);
        Locked::open(&session::path()?)?.write(Some(&session))?;
        *self.session.lock().await = Some(session);
        Ok(())
    }

    /// Signs out; the session on disk is forgotten even when the hub cannot be reached.
    pub(crate) async fn logout(&self) -> Result<(), ClientError> {
        let told = self.request(Method::POST, "/api/v1/logout", None).await;
        Locked::open(&session::path()?)?.write(None)?;
        match told {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => answer.read::<Value>().map(|_| ()),
            Err(error) => Err(error),
        }
    }

    /// Asks for JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, None).await?.read()
    }

    /// Sends JSON and asks for JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::POST, path, Some(encode(body)?))
            .await?
            .read()
    }

    /// Replaces by JSON and asks for JSON.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::PUT, path, Some(encode(body)?))
            .await?
            .read()
    }

    /// Asks for the rows of a list, page after page, until `most` have come.
    pub(crate) async fn rows(
        &self,
        path: &str,
        query: &[(&str, String)],
        most: Option<usize>,
    ) -> Result<Vec<Value>, ClientError> {
        Ok(self.rows_kept(path, query, most).await?.0)
    }

    /// As [`Client::rows`], and from before when rows that might have come are kept no longer.
    pub(crate) async fn rows_kept(
        &self,
        path: &str,
        query: &[(&str, String)],
        most: Option<usize>,
    ) -> Result<(Vec<Value>, Option<Timestamp>), ClientError> {
        let mut rows: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let left = most.map_or(usize::MAX, |most| most.saturating_sub(rows.len()));
            let mut pairs = query.to_vec();
            pairs.push(("limit", left.min(protocol::limits::PAGE_ITEMS).to_string()));
            pairs.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: Page<Value> = self.get(&with_query(path, &pairs)).await?;
            rows.extend(page.items);
            cursor = page.next_cursor;
            let enough = most.is_some_and(|most| rows.len() >= most);
            // A page may be empty and yet not the last: a filter looked through many rows in vain.
            if enough || cursor.is_none() {
                rows.truncate(most.unwrap_or(usize::MAX));
                return Ok((rows, page.forgotten_before));
            }
        }
    }

    /// Sends any request with the session's token, renewing it first when it is about to end.
    ///
    /// A question to a hub that is busy is asked again [`BUSY_TRIES`] times, as late as the hub
    /// wants; a write is not, since only who asked for it knows whether it is still wanted.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Raw, ClientError> {
        let tries = if method == Method::GET { BUSY_TRIES } else { 0 };
        for _ in 0..tries {
            let answer = self
                .signed_request(method.clone(), path, body.clone())
                .await?;
            match answer.pause() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Ok(answer),
            }
        }
        self.signed_request(method, path, body).await
    }

    async fn signed_request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Raw, ClientError> {
        let token = self.token().await?;
        let answer = self
            .send(method.clone(), path, body.clone(), Some(&token))
            .await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // Another process may have renewed the session, or the clock differs from the hub's.
        match self.renew(&token).await {
            Ok(token) => self.send(method, path, body, Some(&token)).await,
            Err(_) => Ok(answer),
        }
    }

    async fn token(&self) -> Result<String, ClientError> {
        let (token, expires_at) = match self.session.lock().await.as_ref() {
            Some(session) => (session.access_token.clone(), session.expires_at),
            None => return Err(ClientError::SignedOut),
        };
        if expires_at > Timestamp::now() + MARGIN {
            return Ok(token);
        }
        self.renew(&token).await
    }

    /// Waits until no renewal of the session is under way: one that is cut off after the hub has
    /// taken the old token and before the new one is on disk ends the session.
    pub(crate) async fn settle(&self) {
        drop(self.renewal.lock().await);
    }

    /// Opens a stream of server-sent events on a connection of its own.
    pub(crate) async fn listen(&self, path: &str) -> Result<Stream, ClientError> {
        let token = self.token().await?;
        let mut sender = self.endpoint.connect().await?;
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, self.endpoint.address())
            .header(header::ACCEPT, "text/event-stream")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::default())
            .map_err(|error| ClientError::Answer {
                reason: error.to_string(),
            })?;
        let late = ClientError::Time {
            address: self.endpoint.address(),
            seconds: ANSWER_TIME.as_secs(),
        };
        let response = tokio::time::timeout(ANSWER_TIME, sender.send_request(request))
            .await
            .map_err(|_| late)?
            .map_err(|error| ClientError::Broken {
                source: Box::new(error),
            })?;
        if !response.status().is_success() {
            return Err(ClientError::Answer {
                reason: format!("status {}", response.status()),
            });
        }
        Ok(Stream {
            body: response.into_body(),
            _sender: sender,
        })
    }

    /// Renews the session unless another process already has, and returns the access token.
    async fn renew(&self, stale: &str) -> Result<String, ClientError> {
        let _renewal = self.renewal.lock().await;
        let path = session::path()?;
        let locked = tokio::task::spawn_blocking(move || Locked::open(&path)).await;
        let mut file = locked.map_err(|error| ClientError::Broken {
            source: Box::new(error),
        })??;
        let session = file.read()?.ok_or(ClientError::SignedOut)?;
        if session.access_token != stale && session.expires_at > Timestamp::now() + MARGIN {
            let token = session.access_token.clone();
            *self.session.lock().await = Some(session);
            return Ok(token);
        }
        let request = RefreshRequest {
            refresh_token: session.refresh_token.clone(),
        };
        let answer = self
            .send(
                Method::POST,
                "/api/v1/refresh",
                Some(encode(&request)?),
                None,
            )
            .await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(ClientError::SignedOut);
        }
        let session = renewed(session, answer.read()?);
        file.write(Some(&session))?;
        let token = session.access_token.clone();
        *self.session.lock().await = Some(session);
        Ok(token)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        token: Option<&str>,
    ) -> Result<Raw, ClientError> {
        let build = |error: http::Error| ClientError::Answer {
            reason: error.to_string(),
        };
        // One key for both attempts: the hub may have served the first and lost only the answer.
        let key = (method == Method::POST).then(|| uuid::Uuid::new_v4().to_string());
        let request = || {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header(header::HOST, self.endpoint.address())
                .header(header::ACCEPT, "application/json");
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(key) = &key {
                request = request.header("idempotency-key", key);
            }
            if body.is_some() {
                request = request.header(header::CONTENT_TYPE, "application/json");
            }
            request
                .body(Full::new(body.clone().unwrap_or_default()))
                .map_err(build)
        };
        let mut kept = self.connection.lock().await;
        // A kept connection may have been closed by the hub meanwhile: then one fresh attempt.
        if let Some(mut sender) = kept.take()
            && sender.ready().await.is_ok()
            && let Ok(answer) = self.exchange(&mut sender, request()?).await
        {
            *kept = Some(sender);
            return Ok(answer);
        }
        let mut sender = self.endpoint.connect().await?;
        let answer = self.exchange(&mut sender, request()?).await?;
        *kept = Some(sender);
        Ok(answer)
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Raw, ClientError> {
        let exchange = async {
            let broken = |error: hyper::Error| ClientError::Broken {
                source: Box::new(error),
            };
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            // Seconds, as the hub writes it; RFC 9110, section 10.2.3, allows a date as well.
            let retry_after = response.headers().get(header::RETRY_AFTER);
            let retry_after = retry_after
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs);
            let body = Limited::new(response.into_body(), ANSWER_BYTES)
                .collect()
                .await;
            let body = body
                .map_err(|source| ClientError::Broken { source })?
                .to_bytes();
            Ok(Raw {
                status,
                body,
                retry_after,
            })
        };
        let late = ClientError::Time {
            address: self.endpoint.address(),
            seconds: ANSWER_TIME.as_secs(),
        };
        tokio::time::timeout(ANSWER_TIME, exchange)
            .await
            .map_err(|_| late)?
    }
}

fn renewed(session: Session, tokens: LoginResponse) -> Session {
    let life = SignedDuration::from_secs(i64::try_from(tokens.expires_in).unwrap_or(0));
    Session {
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        expires_at: Timestamp::now() + life,
        ..session
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, ClientError> {
    let unreadable = |error: serde_json::Error| ClientError::Answer {
        reason: error.to_string(),
    };
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(unreadable)
}

/// Appends query parameters to a path, percent-encoded.
pub(crate) fn with_query(path: &str, pairs: &[(&str, String)]) -> String {
    let mut text = path.to_owned();
    for (index, (name, value)) in pairs.iter().enumerate() {
        text.push(if index == 0 && !path.contains('?') {
            '?'
        } else {
            '&'
        });
        text.push_str(name);
        text.push('=');
        text.push_str(&segment(value));
    }
    text
}

/// Percent-encodes text for one segment of a path, or a query value.
pub(crate) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests;
