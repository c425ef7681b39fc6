//! The HTTPS API: what the console and API clients talk to.
//!
//! `serve` calls [`serve`] with the listener, the TLS configuration and one [`State`].
//!
//! ```text
//! connection ─▶ TLS 1.3 ─▶ dress: request id, time limit, headers, problems
//!            ─▶ gate: login unless the table says "anyone", pace ─▶ once: writes with a key
//!            ─▶ handler: Member │ Administered │ HubAdmin
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use store::{Appliance, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{Instrument, debug, warn};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::ca::Authority;
use crate::expiry::HubCertificates;
use crate::live::Live;
use crate::password::Hasher;
use crate::retention::Retention;
use crate::serve::RulesInForce;

use access::{AccessKeys, Peer};
use problem::Refusal;
use throttle::Throttle;

pub(crate) mod access;
mod agents;
mod audit;
mod checks;
mod events;
mod findings;
mod fix;
mod list;
mod losses;
mod openapi;
mod orgs;
mod overview;
mod past;
mod problem;
mod repeat;
mod resources;
mod retention;
mod scopes;
mod session;
mod sources;
pub(crate) mod throttle;
mod turn;

/// Largest body of a request, in bytes: the largest that anything takes is a few hundred.
const BODY_BYTES: usize = 64 << 10;

/// Largest head of a request, in bytes: a filter of [`protocol::limits::FILTER_BYTES`] with every
/// byte escaped, a cursor and a token.
const HEAD_BYTES: usize = 32 << 10;

/// Most headers of a request.
const HEADERS: usize = 64;

/// Longest time for a request to be answered, its body included.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Longest time for a handshake, and for the head of a request once begun.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Most connections at once.
const CONNECTIONS: usize = 1024;

/// Most connections at once from one network, so that no one takes them all.
const CONNECTIONS_OF_ONE: usize = 128;

/// Pause after a connection could not be accepted: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests may go on when the hub stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What every request may need.
pub(crate) struct State {
    /// The whole store; only its load is looked at. A request gets at data only through an
    /// admission of [`State::appliance`].
    pub(crate) store: Store,
    /// Users, sessions, admissions.
    pub(crate) appliance: Appliance,
    /// Open sessions and news.
    pub(crate) live: Arc<Live>,
    /// The checks in force.
    pub(crate) rules: Arc<RulesInForce>,
    /// Signs and checks access tokens.
    pub(crate) keys: AccessKeys,
    /// Slows guessing.
    pub(crate) throttle: Throttle,
    /// Hashes passwords, few at a time.
    pub(crate) hasher: Hasher,
    /// Held while a hub administrator makes the first admin of an organisation.
    pub(crate) founding: Arc<tokio::sync::Mutex<()>>,
    /// Whose pins enrolment tokens carry.
    pub(crate) authority: Arc<Authority>,
    /// Those that the hub lives by.
    pub(crate) certificates: Arc<HubCertificates>,
    /// Where agents reach this hub, `host:port`, for enrolment tokens.
    pub(crate) agent_hubs: Vec<String>,
    /// Forgets what is old.
    pub(crate) retention: Arc<Retention>,
    /// Ends streams when the hub stops.
    pub(crate) stop: CancellationToken,
}

/// Returns every endpoint and the document that describes them.
fn endpoints() -> (Router<Arc<State>>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::Frame::openapi())
        .merge(session::routes())
        .merge(orgs::routes())
        .merge(agents::routes())
        .merge(sources::routes())
        .merge(resources::routes())
        .merge(findings::routes())
        .merge(checks::routes())
        .merge(events::routes())
        .merge(overview::routes())
        .merge(scopes::routes())
        .merge(losses::routes())
        .merge(retention::routes())
        .merge(past::routes())
        .merge(audit::routes())
        .split_for_parts();
    openapi::describe_answers(&mut document);
    (router, document)
}

/// Puts the whole API together.
fn router(state: Arc<State>) -> Router {
    let (described, document) = endpoints();
    described
        .merge(openapi::routes(&document))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(middleware::from_fn_with_state(
            Arc::new(repeat::Repeats::default()),
            repeat::once,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            access::gate,
        ))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(dress))
        .with_state(state)
}

/// The answer to a request whose handler panicked. The panic itself is in the log.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Refusal::internal("a handler panicked").into_response()
}

/// Gives a request its id and its time, and its answer the headers that every answer has.
async fn dress(request: Request, next: Next) -> Response {
    let id = problem::new_request_id();
    let span = tracing::debug_span!("request", request = %id, method = %request.method());
    let answered = timeout(ANSWER_TIME, next.run(request).instrument(span)).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(_) => problem::too_slow().into_response(),
    };
    let status = response.status();
    let refusal = response.extensions_mut().remove::<Refusal>();
    let is_dressed = response.headers().contains_key(header::CONTENT_TYPE)
        && refusal.is_none()
        && !is_plain(&response);
    if let Some(refusal) = refusal {
        response = redressed(response, refusal.into_document(id));
    } else if (status.is_client_error() || status.is_server_error()) && !is_dressed {
        response = redressed(response, Refusal::of_status(status).into_document(id));
    }
    let headers = response.headers_mut();
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert("x-request-id", value);
    }
    response
}

fn is_plain(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

/// Returns a problem document with the headers that the layers below gave its predecessor.
fn redressed(bare: Response, mut document: Response) -> Response {
    for (name, value) in bare.headers() {
        let is_body = name == header::CONTENT_LENGTH || name == header::CONTENT_TYPE;
        if !is_body && !document.headers().contains_key(name) {
            document.headers_mut().append(name, value.clone());
        }
    }
    document
}

/// Accepts connections until `stop`, then lets the requests that run come to their end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    state: Arc<State>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = router(state);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let crowd = Arc::new(Crowd::default());
    let connections = TaskTracker::new();
    loop {
        // Both branches may be cancelled: a connection that was not accepted waits in the queue.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection to the API could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = Place::take(&places, &crowd, address.ip()) else {
            debug!(%address, "too many connections; one is closed");
            continue;
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            converse(acceptor, stream, address, router, stop).await;
            drop(place);
        });
    }
    connections.close();
    if timeout(LAST_ANSWERS, connections.wait()).await.is_err() {
        let left = connections.len();
        warn!(
            connections = left,
            "connections to the API were cut off at the end"
        );
    }
}

/// Connections by network: who owns a block of IPv6 addresses has one for each connection.
#[derive(Default)]
struct Crowd(Mutex<BTreeMap<[u8; 8], usize>>);

/// One connection's place; given back when dropped.
struct Place {
    crowd: Arc<Crowd>,
    network: [u8; 8],
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(places: &Arc<Semaphore>, crowd: &Arc<Crowd>, address: IpAddr) -> Option<Self> {
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        let network = throttle::network(address);
        let mut counts = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= CONNECTIONS_OF_ONE {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self {
            crowd: Arc::clone(crowd),
            network,
            _permit: permit,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

/// Serves one connection.
async fn converse(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    // Small answers should not wait for more to send.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HEAD_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%address, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            debug!(%address, "a TLS handshake took too long");
            return;
        }
    };
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(Peer(address));
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // The first branch may be cancelled: the connection stays where it was.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%address, %error, "a connection to the API broke");
    }
}

#[cfg(test)]
mod tests;
