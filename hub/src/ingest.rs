//! The agents' port, UDP and TCP: QUIC or TLS 1.3, a certificate on both sides.
//!
//! ```text
//! QUIC handshake (capped, Retry under load) ─┬▶ zx/1         session: certificate → positive list → lanes
//! TLS handshake on TCP (capped)             ─┘▶ zx-enroll/1  one exchange without a certificate
//! ```

mod admit;
pub(crate) mod carried;
mod clones;
mod connection;
mod fair;
mod intake;
mod places;
mod quic;
mod quota;
mod session;
mod tcp;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::bundle::HubKey;
use protocol::enroll::{self, EXPORTER_LABEL};
use protocol::session::CloseCode;
use protocol::wire::v1::{self, Epoch};
use quinn::crypto::rustls::NoInitialCipherSuite;
use quinn::{Endpoint, Incoming, VarInt};
use store::{Appliance, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::ca::Authority;
use crate::enroll::{Desk, ExchangeError, PEER_TIME, exchange};
use crate::failure::{Exit, Explain};
use crate::identity::Identity;
use crate::live::Live;
use connection::Connection;
pub(crate) use fair::{Fair, Length};
use intake::Spoiled;
use places::{Place, Places, Ticket};
use quota::Quota;
pub(crate) use quota::{Quotas, Rates};

/// Connections at once. An idle one costs some 40 KB.
const CONNECTIONS: usize = 20_000;

/// QUIC handshakes at once, and as many on TCP; the rest is turned away.
const HANDSHAKES: usize = 256;

/// QUIC handshakes at once from which a peer must first show that its address is its own.
const HANDSHAKES_WITHOUT_RETRY: usize = 64;

/// Agents that connect too often and wait for their refusal.
const KEPT_WAITING: usize = 256;

/// Enrolments at once: whoever asks has no certificate yet.
const ENROLMENTS: usize = 32;

/// Time for a handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Time for sessions to end once the hub stops.
const DRAIN: Duration = Duration::from_secs(8);

/// Pause after a connection could not be taken, for example for want of file descriptors.
const TAKE_AGAIN: Duration = Duration::from_millis(100);

/// How often a port is sought that is free for both, where any will do.
const PORTS_TRIED: usize = 16;

/// Says why the agents' port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenPortError {
    /// The address cannot be bound.
    #[error("cannot listen for agents on {address} ({protocol})")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// QUIC cannot use the TLS settings.
    #[error("QUIC cannot use the TLS settings")]
    Tls(#[from] NoInitialCipherSuite),
}

impl Explain for OpenPortError {
    fn exit(&self) -> Exit {
        match self {
            Self::Bind { .. } | Self::Tls(_) => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Bind { .. } => {
                Some("stop what uses the port, or choose another with --agent-listen".to_owned())
            }
            Self::Tls(_) => None,
        }
    }
}

/// What the port needs of the hub.
#[derive(Debug)]
pub(crate) struct Hub {
    /// The whole store; held so that it stays open.
    #[expect(dead_code, reason = "held so that the store outlives its sessions")]
    pub(crate) store: Store,
    /// Tokens, the positive list, admissions.
    pub(crate) appliance: Appliance,
    /// Issues certificates and knows the trust domain.
    pub(crate) authority: Arc<Authority>,
    /// Open sessions and news.
    pub(crate) live: Arc<Live>,
    /// Names this life of the store.
    pub(crate) epoch: Epoch,
    /// How much may be sent.
    pub(crate) quotas: Quotas,
    /// The queue before the store.
    pub(crate) fair: Arc<Fair>,
    /// What agents seal bundles to, told at enrolment.
    pub(crate) bundle_key: HubKey,
}

/// What all connections share.
struct Shared {
    hub: Arc<Hub>,
    spoiled: Arc<Spoiled>,
    fair: Arc<Fair>,
    quota: Arc<Quota>,
    handshakes: Semaphore,
    tcp_handshakes: Mutex<Handshakes>,
    enrolments: Semaphore,
    /// Places for agents that connect too often.
    kept_waiting: Semaphore,
}

/// The port, open on both protocols.
pub(crate) struct Port {
    address: SocketAddr,
    endpoint: Endpoint,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Port {
    /// Returns the address that it listens on, the same for UDP and TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Opens the port. Must be called within the runtime.
///
/// # Errors
///
/// When the address cannot be bound.
pub(crate) fn open(
    address: SocketAddr,
    identity: &Identity,
    tls: rustls::ServerConfig,
) -> Result<Port, OpenPortError> {
    let tls = Arc::new(tls);
    let settings = quic::settings(identity, Arc::clone(&tls))?;
    let (socket, listener) = bind(address)?;
    let failed = |source| OpenPortError::Bind {
        address,
        protocol: "UDP",
        source,
    };
    let endpoint = quic::endpoint(settings, socket).map_err(failed)?;
    Ok(Port {
        address: endpoint.local_addr().map_err(failed)?,
        endpoint,
        listener,
        acceptor: TlsAcceptor::from(tls),
    })
}

/// Binds one port for both protocols.
fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), OpenPortError> {
    let failed = |protocol| {
        move |source| OpenPortError::Bind {
            address,
            protocol,
            source,
        }
    };
    let mut tried = 0;
    loop {
        let udp = UdpSocket::bind(address).map_err(failed("UDP"))?;
        let both = udp.local_addr().map_err(failed("UDP"))?;
        match tcp::listen(both) {
            Ok(listener) => return Ok((udp, listener)),
            // The one that was free for UDP is taken by another's TCP.
            Err(_) if address.port() == 0 && tried < PORTS_TRIED => tried += 1,
            Err(source) => return Err(failed("TCP")(source)),
        }
    }
}

/// Serves agents until `stop`, then asks them to come back later and ends.
pub(crate) async fn serve(port: Port, hub: Arc<Hub>, stop: CancellationToken) {
    info!(address = %port.address, "listening for agents, UDP and TCP");
    let quota = Arc::new(Quota::new(hub.quotas));
    let shared = Arc::new(Shared {
        fair: Arc::clone(&hub.fair),
        hub,
        spoiled: Arc::default(),
        quota,
        handshakes: Semaphore::new(HANDSHAKES),
        tcp_handshakes: Mutex::new(Handshakes {
            places: Places::new(HANDSHAKES),
            given_up: BTreeMap::new(),
        }),
        enrolments: Semaphore::new(ENROLMENTS),
        kept_waiting: Semaphore::new(KEPT_WAITING),
    });
    let Port {
        endpoint,
        listener,
        acceptor,
        ..
    } = port;
    let tasks = TaskTracker::new();
    loop {
        // Every branch may be cancelled: a connection that was not taken stays queued.
        tokio::select! {
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                if let Some(incoming) = may_shake_hands(&shared, &tasks, incoming) {
                    let (shared, stop) = (Arc::clone(&shared), stop.clone());
                    tasks.spawn(async move {
                        if let Some(connection) = handshake(&shared, incoming).await {
                            serve_connection(&shared, connection, stop).await;
                        }
                    });
                }
            }
            (stream, remote) = next_tcp(&listener) => {
                if tasks.len() >= CONNECTIONS {
                    continue;
                }
                let Some((ticket, given_up)) = shared.begin_handshake(remote) else {
                    debug!(%remote, "too many handshakes are under way");
                    continue;
                };
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                let acceptor = acceptor.clone();
                tasks.spawn(async move {
                    // Whoever makes room has had its time.
                    let connection = tokio::select! {
                        connection = tcp_handshake(&acceptor, stream, remote) => connection,
                        () = given_up.cancelled() => None,
                    };
                    shared.end_handshake(ticket);
                    if let Some(connection) = connection {
                        serve_connection(&shared, connection, stop).await;
                    }
                });
            }
        }
    }
    endpoint.set_server_config(None);
    drop(listener);
    tasks.close();
    let drained = async {
        tasks.wait().await;
        shared.fair.drained().await;
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        warn!(sessions = tasks.len(), "sessions were cut off at the stop");
    }
    endpoint.close(
        VarInt::from_u32(CloseCode::Done.number()),
        b"the hub is stopping",
    );
    // What was said last should leave the machine; agents that are gone do not answer.
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
}

/// Decides whether a QUIC peer may go on; another is answered.
fn may_shake_hands(shared: &Shared, tasks: &TaskTracker, incoming: Incoming) -> Option<Incoming> {
    let under_way = HANDSHAKES - shared.handshakes.available_permits();
    if under_way >= HANDSHAKES || tasks.len() >= CONNECTIONS {
        incoming.refuse();
        return None;
    }
    if under_way >= HANDSHAKES_WITHOUT_RETRY && incoming.may_retry() {
        // It fails only where a retry is not allowed, which was just asked.
        let _ = incoming.retry();
        return None;
    }
    Some(incoming)
}

/// The handshakes on TCP, and how each is given up.
struct Handshakes {
    places: Places,
    given_up: BTreeMap<Ticket, CancellationToken>,
}

impl Shared {
    /// Takes note of a handshake on TCP and returns what ends it early; nothing where there is no
    /// place for it.
    fn begin_handshake(&self, remote: SocketAddr) -> Option<(Ticket, CancellationToken)> {
        let mut handshakes = self.tcp_handshakes();
        let ticket = match handshakes.places.take(remote.ip(), Instant::now()) {
            Place::Free(ticket) => ticket,
            Place::InsteadOf(ticket, oldest) => {
                if let Some(given_up) = handshakes.given_up.remove(&oldest) {
                    given_up.cancel();
                }
                ticket
            }
            Place::None => return None,
        };
        let given_up = CancellationToken::new();
        handshakes.given_up.insert(ticket, given_up.clone());
        Some((ticket, given_up))
    }

    fn end_handshake(&self, ticket: Ticket) {
        let mut handshakes = self.tcp_handshakes();
        handshakes.places.give_back(ticket);
        handshakes.given_up.remove(&ticket);
    }

    fn tcp_handshakes(&self) -> MutexGuard<'_, Handshakes> {
        // No holder of this lock panics.
        let handshakes = self.tcp_handshakes.lock();
        handshakes.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the next TCP connection.
///
/// # Cancel safety
///
/// A connection that was not taken stays queued.
async fn next_tcp(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(taken) => return taken,
            Err(error) => {
                debug!(
                    error = &error as &dyn Error,
                    "a connection could not be taken"
                );
                tokio::time::sleep(TAKE_AGAIN).await;
            }
        }
    }
}

async fn tcp_handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
) -> Option<Connection> {
    let accepted = tcp::accept(acceptor, stream, remote);
    match tokio::time::timeout(HANDSHAKE_TIME, accepted).await {
        Ok(Ok(connection)) => Some(Connection::Tcp(Box::new(connection))),
        Ok(Err(error)) => {
            debug!(%remote, error = &error as &dyn Error, "a handshake failed");
            None
        }
        Err(_) => {
            debug!(%remote, "a handshake took too long");
            None
        }
    }
}

/// Takes a QUIC connection through its handshake. Strangers fail here all day, so it is quiet.
async fn handshake(shared: &Shared, incoming: Incoming) -> Option<Connection> {
    let remote = incoming.remote_address();
    // Held to the end of the handshake.
    let Ok(_permit) = shared.handshakes.try_acquire() else {
        incoming.refuse();
        return None;
    };
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            debug!(%remote, error = &error as &dyn Error, "a connection could not be accepted");
            return None;
        }
    };
    match tokio::time::timeout(HANDSHAKE_TIME, connecting).await {
        Ok(Ok(connection)) => Some(Connection::Quic(quic::Connection(connection))),
        Ok(Err(error)) => {
            debug!(%remote, error = &error as &dyn Error, "a handshake failed");
            None
        }
        Err(_) => {
            debug!(%remote, "a handshake took too long");
            None
        }
    }
}

async fn serve_connection(shared: &Shared, connection: Connection, stop: CancellationToken) {
    match connection.alpn().as_deref() {
        Some(v1::ALPN) => session::serve(shared, connection, stop).await,
        Some(enroll::ALPN) => serve_enrolment(shared, connection, stop).await,
        Some(_) | None => {
            let reason = "no protocol of this hub";
            connection.close(CloseCode::Version, reason).await;
        }
    }
}

async fn serve_enrolment(shared: &Shared, mut connection: Connection, stop: CancellationToken) {
    let remote = connection.remote();
    let enrolled = match shared.enrolments.try_acquire() {
        Ok(_permit) => enrol(shared, &mut connection, &stop).await,
        Err(_) => Err(ExchangeError::Busy),
    };
    let (code, reason) = match enrolled {
        Ok(()) => (CloseCode::Done, String::new()),
        Err(error) => {
            debug!(%remote, error = &error as &dyn Error, "an enrolment ended early");
            (error.close_code(), error.to_string())
        }
    };
    match connection {
        Connection::Quic(connection) => connection.close(code, &reason),
        // This exchange has no frames that could carry a farewell.
        Connection::Tcp(connection) => drop(connection),
    }
}

/// Answers the one request of a connection.
async fn enrol(
    shared: &Shared,
    connection: &mut Connection,
    stop: &CancellationToken,
) -> Result<(), ExchangeError> {
    let desk = Desk {
        appliance: &shared.hub.appliance,
        authority: &shared.hub.authority,
        live: &shared.hub.live,
        bundle_key: shared.hub.bundle_key,
    };
    let exporter = connection
        .keying_material(EXPORTER_LABEL)
        .ok_or(ExchangeError::Exporter)?;
    let now = Timestamp::now;
    match connection {
        Connection::Quic(connection) => {
            let opened = tokio::time::timeout(PEER_TIME, connection.stream());
            let mut stream = tokio::select! {
                () = stop.cancelled() => return Err(ExchangeError::Stopping),
                opened = opened => opened.map_err(|_| ExchangeError::Slow)??,
            };
            exchange(&mut stream, &exporter, desk, now, stop).await?;
        }
        Connection::Tcp(connection) => {
            exchange(connection.stream(), &exporter, desk, now, stop).await?;
        }
    }
    // The agent hangs up when it has read the reply; closing before would discard it.
    tokio::select! {
        () = stop.cancelled() => {}
        _ = tokio::time::timeout(PEER_TIME, connection.hung_up()) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
