//! The agents' port: QUIC, TLS 1.3, a certificate on both sides.
//!
//! ```text
//! handshake (capped, Retry under load) ─▶ zx/1         session: certificate → positive list → lanes
//!                                      └▶ zx-enroll/1  one exchange without a certificate
//! ```
//! The keys of stateless resets, retry tokens and connection ids are kept over restarts, so that
//! agents of a restarted hub are told at once instead of waiting for their idle timeout (DESIGN 6).

mod admit;
mod intake;
mod session;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::enroll;
use protocol::limits;
use protocol::session::CloseCode;
use protocol::wire::v1::{self, Epoch};
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicServerConfig};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::{hkdf, hmac};
use store::{Appliance, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::ca::Authority;
use crate::enroll::{Desk, exchange};
use crate::failure::{Exit, Explain};
use crate::identity::Identity;
use crate::live::Live;
use intake::Spoiled;

/// Initial size of a packet (DESIGN 6: never rely on discovery).
const INITIAL_MTU: u16 = 1200;

/// Streams that an agent may have open: its lanes, and some that stay silent.
const STREAMS: u8 = 16;

/// Window of one stream, in bytes. More would wait here instead of in the agent's spool.
const STREAM_WINDOW: u32 = 512 << 10;

/// Window of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes that wait to be sent to one agent: acknowledgements are small.
const SEND_WINDOW: u64 = 256 << 10;

/// Connections at once. An idle one costs some 40 KB.
const CONNECTIONS: usize = 20_000;

/// Handshakes at once; the rest is turned away.
const HANDSHAKES: usize = 256;

/// Handshakes at once from which a peer must first show that its address is its own.
const HANDSHAKES_WITHOUT_RETRY: usize = 64;

/// Enrolments at once: whoever asks has no certificate yet.
const ENROLMENTS: usize = 32;

/// Time for a handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Time for sessions to end once the hub stops.
const DRAIN: Duration = Duration::from_secs(8);

/// Life of a retry token.
const RETRY_TOKEN_TIME: Duration = Duration::from_secs(15);

/// Says why the agents' port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenPortError {
    /// The address cannot be bound.
    #[error("cannot listen for agents on {address} (UDP)")]
    Bind {
        /// The address.
        address: SocketAddr,
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
}

/// What all connections share.
struct Shared {
    hub: Arc<Hub>,
    spoiled: Arc<Spoiled>,
    handshakes: Semaphore,
    enrolments: Semaphore,
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
) -> Result<Endpoint, OpenPortError> {
    let crypto = QuicServerConfig::try_from(Arc::new(tls))?;
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"zero-x retry token");
    let token_key = salt.extract(identity.retry_token_key.as_slice());
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    server
        .transport_config(Arc::new(transport()))
        .retry_token_lifetime(RETRY_TOKEN_TIME)
        .max_incoming(HANDSHAKES);
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, identity.stateless_reset_key.as_slice());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    let id_key = identity.connection_id_key;
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    let bind = |source| OpenPortError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(bind)?;
    Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).map_err(bind)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits::IDLE_TIMEOUT).expect("a minute fits the field");
    transport
        .max_concurrent_bidi_streams(VarInt::from(STREAMS))
        .max_concurrent_uni_streams(VarInt::from(0u8))
        .stream_receive_window(VarInt::from(STREAM_WINDOW))
        .receive_window(VarInt::from(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(idle))
        .initial_mtu(INITIAL_MTU)
        .datagram_receive_buffer_size(None)
        // CUBIC stalls on links with loss (DESIGN 6).
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    transport
}

/// Serves agents until `stop`, then asks them to come back later and ends.
pub(crate) async fn serve(endpoint: Endpoint, hub: Arc<Hub>, stop: CancellationToken) {
    announce(&endpoint);
    let shared = Arc::new(Shared {
        hub,
        spoiled: Arc::default(),
        handshakes: Semaphore::new(HANDSHAKES),
        enrolments: Semaphore::new(ENROLMENTS),
    });
    let tasks = TaskTracker::new();
    loop {
        let incoming = tokio::select! {
            () = stop.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let under_way = HANDSHAKES - shared.handshakes.available_permits();
        if under_way >= HANDSHAKES || tasks.len() >= CONNECTIONS {
            incoming.refuse();
            continue;
        }
        if under_way >= HANDSHAKES_WITHOUT_RETRY && incoming.may_retry() {
            // It fails only where a retry is not allowed, which was just asked.
            let _ = incoming.retry();
            continue;
        }
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move {
            if let Some(connection) = handshake(&shared, incoming).await {
                serve_connection(&shared, connection, stop).await;
            }
        });
    }
    endpoint.set_server_config(None);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        warn!(sessions = tasks.len(), "sessions were cut off at the stop");
    }
    endpoint.close(
        VarInt::from_u32(CloseCode::Done.number()),
        b"the hub is stopping",
    );
    // What was said last should leave the machine; agents that are gone do not answer.
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
}

fn announce(endpoint: &Endpoint) {
    match endpoint.local_addr() {
        Ok(address) => info!(%address, "listening for agents"),
        Err(error) => warn!(%error, "listening for agents on an address that is not known"),
    }
}

/// Takes one connection through its handshake. Strangers fail here all day, so it is quiet.
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
        Ok(Ok(connection)) => Some(connection),
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

/// Returns what the peer wants to speak.
fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?;
    data.downcast::<HandshakeData>().ok()?.protocol
}

fn close(connection: &Connection, code: CloseCode, reason: &str) {
    connection.close(VarInt::from_u32(code.number()), reason.as_bytes());
}

async fn serve_connection(shared: &Shared, connection: Connection, stop: CancellationToken) {
    match alpn(&connection).as_deref() {
        Some(v1::ALPN) => session::serve(shared, &connection, stop).await,
        Some(enroll::ALPN) => serve_enrolment(shared, &connection, stop).await,
        Some(_) | None => close(&connection, CloseCode::Version, "no protocol of this hub"),
    }
}

async fn serve_enrolment(shared: &Shared, connection: &Connection, stop: CancellationToken) {
    let remote = connection.remote_address();
    let Ok(_permit) = shared.enrolments.try_acquire() else {
        let reason = "too many enrolments at once";
        return close(connection, CloseCode::Busy, reason);
    };
    let desk = Desk {
        appliance: &shared.hub.appliance,
        authority: &shared.hub.authority,
        live: &shared.hub.live,
    };
    let (code, reason) = match exchange(connection, desk, Timestamp::now, &stop).await {
        Ok(()) => (CloseCode::Done, String::new()),
        Err(error) => {
            debug!(%remote, error = &error as &dyn Error, "an enrolment ended early");
            (error.close_code(), error.to_string())
        }
    };
    close(connection, code, &reason);
}

#[cfg(test)]
mod tests;
