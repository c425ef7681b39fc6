//! Metrics for Prometheus: what the hub and its store have to do, asked for over HTTP on this
//! machine alone, without a login. Labels carry ids of organisations, lanes and transports; no
//! name of anything is in them.
//!
//! Nothing is kept for it but the counts of `live` and the times of the store's writes: each
//! question looks at what there is (`families`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use prometheus::{TEXT_FORMAT, TextEncoder};
use protocol::ids::OrgId;
use store::Store;
use store::error::ReadError;
use store::rows::AgentState;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::failure::chain;
use crate::ingest::Fair;
use crate::live::Live;
use crate::serve::RulesInForce;
use families::Families;

mod families;
mod process;

/// Most connections at once: Prometheus has one, and a person another.
const CONNECTIONS: usize = 8;

/// Longest time for a request to come.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// Largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// Longest time for an answer. Prometheus gives up after ten seconds.
const ANSWER_TIME: Duration = Duration::from_secs(9);

/// Pause after a connection could not be accepted: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says why there are no figures.
#[derive(Debug, thiserror::Error)]
enum MetricsError {
    #[error("the hub's own rows cannot be read")]
    Read(#[from] ReadError),
    #[error("the figures cannot be written")]
    Encode(#[from] prometheus::Error),
    #[error("the files cannot be looked at")]
    Files(#[source] tokio::task::JoinError),
    #[error("the store did not answer within {} s", ANSWER_TIME.as_secs())]
    Slow,
}

/// Where the figures come from.
pub(crate) struct Gauges {
    pub(crate) store: Store,
    pub(crate) live: Arc<Live>,
    pub(crate) fair: Arc<Fair>,
    pub(crate) rules: Arc<RulesInForce>,
    /// When the hub began to serve.
    pub(crate) started_at: Timestamp,
}

impl Gauges {
    /// Writes all of them in Prometheus' text format.
    async fn text(&self) -> Result<String, MetricsError> {
        let appliance = self.store.appliance();
        let orgs: Vec<OrgId> = appliance.orgs().await?.iter().map(|org| org.id).collect();
        let mut agents: BTreeMap<OrgId, u64> = BTreeMap::new();
        for agent in appliance.agents().await? {
            if agent.state != AgentState::Revoked {
                *agents.entry(agent.org).or_default() += 1;
            }
        }
        let store = self.store.clone();
        let sized = tokio::task::spawn_blocking(move || {
            // An organisation that was removed meanwhile has no file.
            let of = |org: OrgId| Some((org, store.bytes_of(Some(org)).ok()?));
            let bytes: BTreeMap<OrgId, u64> = orgs.into_iter().filter_map(of).collect();
            (bytes, store.bytes_of(None).unwrap_or(0))
        });
        let (bytes, own_bytes) = sized.await.map_err(MetricsError::Files)?;
        let mut families = Families::default();
        families.hub(self.started_at, self.rules.now().set.checks().len());
        families.organisations(&bytes, &agents);
        families.sessions(&self.live.sessions_by_org());
        families.received(&self.live.counts.read());
        families.queues(&self.fair.lengths());
        families.store(&self.store.load(), own_bytes);
        families.process(&process::read());
        Ok(TextEncoder::new().encode_to_string(&families.done())?)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return plain(
                StatusCode::NOT_FOUND,
                "metrics are at /metrics\n".to_owned(),
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET\n".to_owned());
            let allowed = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(header::ALLOW, allowed);
            return refused;
        }
        let text = timeout(ANSWER_TIME, self.text()).await;
        match text.unwrap_or(Err(MetricsError::Slow)) {
            Ok(text) => plain(StatusCode::OK, text),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "no metrics");
                let words = chain(&error).join(": ") + "\n";
                plain(StatusCode::SERVICE_UNAVAILABLE, words)
            }
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(TEXT_FORMAT);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Answers until `stop`.
pub(crate) async fn serve(listener: TcpListener, gauges: Gauges, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening for questions for metrics");
    }
    let gauges = Arc::new(gauges);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        // Both branches may be cancelled: a connection that was not accepted waits in the queue.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a question for metrics could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!("too many questions for metrics; one is closed");
            continue;
        };
        let (gauges, stop) = (Arc::clone(&gauges), stop.clone());
        connections.spawn(async move {
            tokio::select! {
                // A figure that nobody will read is no loss.
                () = stop.cancelled() => {}
                ended = converse(stream, gauges) => if let Err(error) = ended {
                    debug!(%error, "a question for metrics broke");
                }
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn converse(stream: TcpStream, gauges: Arc<Gauges>) -> Result<(), hyper::Error> {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let gauges = Arc::clone(&gauges);
        async move { Ok::<_, Infallible>(gauges.answer(&request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        // Nobody asks twice within the time that an idle connection would hold a place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
