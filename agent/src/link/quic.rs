//! The hub over QUIC: one bidirectional stream per lane. The only user of quinn.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use protocol::enroll::HUB_NAME;
use protocol::frame::Lane;
use protocol::limits;
use protocol::session::CloseCode;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, ConnectionError, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig,
    VarInt,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::outbox::Outbox;
use super::probe::Path;
use super::{Alert, Broken, Config, FAREWELL, Heard, LinkError, PIECE_BYTES, raised_here};

/// Initial size of a packet (DESIGN 6: never rely on discovery).
const INITIAL_MTU: u16 = 1200;

/// Round trip that is assumed until one is measured: a lost packet of the handshake is sent again
/// after three of them. The RFC's third of a second (RFC 9002 section 6.2.2) would let TCP, which
/// copes badly with loss, be up first.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Round trips after which a packet of a connection that watches the way counts as lost.
const WATCHED_TIME_THRESHOLD: f32 = 2.0;

/// Window of a stream from the hub: acknowledgements are small.
const RECEIVE_WINDOW: u32 = 256 << 10;

/// A connection with the socket it goes through.
#[derive(Debug)]
pub(super) struct Connection {
    connection: quinn::Connection,
    endpoint: Endpoint,
}

/// Dials one address.
///
/// # Errors
///
/// See [`LinkError`].
///
/// # Cancel safety
///
/// Cancelled, the attempt is given up.
pub(super) async fn dial(
    address: &str,
    socket: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    config: &Config,
) -> Result<Connection, LinkError> {
    let local = |reason: String| LinkError::Local { reason };
    let any: SocketAddr = match socket {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = Endpoint::client(any).map_err(|error| local(error.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| local(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport(config)));
    let connecting = endpoint
        .connect_with(client, socket, HUB_NAME)
        .map_err(|error| local(error.to_string()))?;
    let connection = connecting.await.map_err(|error| {
        if error == ConnectionError::TimedOut {
            return LinkError::Unreachable {
                address: address.to_owned(),
                reason: "no answer".to_owned(),
            };
        }
        explain(address, error)
    })?;
    Ok(Connection {
        connection,
        endpoint,
    })
}

fn transport(config: &Config) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits::IDLE_TIMEOUT).expect("a minute fits the field");
    transport
        // The hub opens no streams.
        .max_concurrent_bidi_streams(VarInt::from(0u8))
        .max_concurrent_uni_streams(VarInt::from(0u8))
        .stream_receive_window(VarInt::from(RECEIVE_WINDOW))
        .receive_window(VarInt::from(RECEIVE_WINDOW))
        .send_window(limits::CREDIT_BYTES)
        .max_idle_timeout(Some(idle))
        .initial_mtu(INITIAL_MTU)
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(config.ping_every)
        .enable_segmentation_offload(config.gso)
        .datagram_receive_buffer_size(None)
        // CUBIC stalls on links with loss (DESIGN 6).
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    if config.ping_every.is_some() {
        // What was overtaken is late and not lost, which takes a second round trip to tell.
        transport
            .packet_threshold(u32::MAX)
            .time_threshold(WATCHED_TIME_THRESHOLD);
    }
    transport
}

/// TLS alerts as QUIC carries them (RFC 9001 section 4.8).
fn alert_of(code: u64) -> Option<Alert> {
    let number = code.checked_sub(0x100)?;
    u8::try_from(number).ok().map(Alert)
}

/// Turns the transport's error into what an operator can act on.
fn explain(address: &str, error: ConnectionError) -> LinkError {
    let address = address.to_owned();
    let reason = error.to_string();
    let unreachable = |reason| LinkError::Unreachable {
        address: address.clone(),
        reason,
    };
    match error {
        // Raised on this side: the hub's certificate did not pass.
        ConnectionError::TransportError(error) => match alert_of(error.code.into()) {
            Some(alert) => raised_here(&address, alert, None),
            None => unreachable(reason),
        },
        // Raised on the other side.
        ConnectionError::ConnectionClosed(close) => alert_of(close.error_code.into())
            .and_then(|alert| alert.of_the_hub(&address))
            .unwrap_or_else(|| unreachable(reason)),
        ConnectionError::ApplicationClosed(close) => LinkError::Closed {
            address,
            code: CloseCode::from_number(close.error_code.into_inner()),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::TimedOut => LinkError::Silent { address },
        ConnectionError::VersionMismatch => LinkError::NoHub { address },
        ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => unreachable(reason),
    }
}

impl Connection {
    /// Returns keying material of the TLS session (RFC 8446 section 7.5).
    pub(super) fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        let exported = self
            .connection
            .export_keying_material(&mut material, label, b"");
        exported.ok().map(|()| material)
    }

    /// Opens a stream for one question and its answer.
    ///
    /// # Errors
    ///
    /// When the connection ended.
    pub(super) async fn stream(&self) -> Result<tokio::io::Join<RecvStream, SendStream>, Broken> {
        let opened = self.connection.open_bi().await;
        let (send, receive) = opened.map_err(|error| Broken(error.to_string()))?;
        Ok(tokio::io::join(receive, send))
    }

    /// Closes the connection and waits until that is told, so that it is told even when the
    /// program ends right after: a close is only queued, and what is queued dies with the runtime.
    pub(super) async fn leave(&self, code: CloseCode, reason: &str) {
        self.close(code, reason);
        // A hub that does not hear it notices the silence.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }

    fn close(&self, code: CloseCode, reason: &str) {
        let number = VarInt::from_u32(code.number());
        self.connection.close(number, reason.as_bytes());
    }
}

/// A connection with the tasks that read and write its streams.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    outboxes: BTreeMap<Lane, Arc<Outbox>>,
    heard: mpsc::Sender<Heard>,
    /// Aborted when this is dropped.
    tasks: JoinSet<()>,
}

impl Line {
    /// Starts the task that watches the connection. Streams are opened when they are needed.
    pub(super) fn new(connection: Connection, address: String, heard: mpsc::Sender<Heard>) -> Self {
        let mut tasks = JoinSet::new();
        let (watched, tell) = (connection.connection.clone(), heard.clone());
        tasks.spawn(async move {
            let error = explain(&address, watched.closed().await);
            let _ = tell.send(Heard::Ended(error)).await;
        });
        Self {
            connection,
            outboxes: BTreeMap::new(),
            heard,
            tasks,
        }
    }

    /// Puts frames on the stream of a lane, which is opened with its first bytes: a stream that is
    /// open and silent would keep the hub waiting for its first frame.
    pub(super) fn send(&mut self, lane: Lane, frames: Vec<u8>) {
        if let Some(outbox) = self.outboxes.get(&lane) {
            return outbox.push(lane, frames);
        }
        let outbox = Arc::new(Outbox::default());
        outbox.push(lane, frames);
        self.outboxes.insert(lane, outbox.clone());
        let (connection, heard) = (self.connection.connection.clone(), self.heard.clone());
        self.tasks.spawn(async move {
            // Both fail with the connection only, which has a task of its own that tells.
            let Ok((send, receive)) = connection.open_bi().await else {
                return;
            };
            // Lower lanes go first, so that bulk never delays events.
            let _ = send.set_priority(-i32::from(lane.number()));
            tokio::join!(write(send, outbox), read(receive, lane, heard));
        });
    }

    /// Returns what was seen of the way.
    pub(super) fn path(&self) -> Path {
        let path = self.connection.connection.stats().path;
        Path {
            round_trip: path.rtt,
            sent: path.sent_packets,
            lost: path.lost_packets,
        }
    }

    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(code, reason);
    }

    pub(super) async fn leave(&self, code: CloseCode, reason: &str) {
        self.connection.leave(code, reason).await;
    }
}

/// Writes what waits for a lane until the connection ends.
async fn write(mut stream: SendStream, outbox: Arc<Outbox>) {
    loop {
        let frames = outbox.next().await;
        // A failed write is seen by the task that watches the connection.
        if stream.write_all(&frames).await.is_err() {
            return;
        }
    }
}

/// Reads a lane until the connection ends.
async fn read(mut stream: RecvStream, lane: Lane, heard: mpsc::Sender<Heard>) {
    while let Ok(Some(chunk)) = stream.read_chunk(PIECE_BYTES, true).await {
        let bytes = Heard::Bytes(lane, chunk.bytes.to_vec());
        if heard.send(bytes).await.is_err() {
            return;
        }
    }
}
