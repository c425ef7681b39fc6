//! Agents over QUIC: one bidirectional stream per lane, opened by the agent with the lane's first
//! frame.
//!
//! QUIC opens every stream with a lower number along with it, so one that stays silent is left
//! alone. The keys of stateless resets, retry tokens and connection ids are kept over restarts, so
//! that agents of a restarted hub are told at once instead of waiting for their idle timeout
//! (DESIGN 6).

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use protocol::frame::{HEADER_BYTES, Lane};
use protocol::limits;
use protocol::session::CloseCode;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicServerConfig};
use quinn::{
    ConnectionError, Endpoint, EndpointConfig, IdleTimeout, RecvStream, SendStream, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::{hkdf, hmac};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::HANDSHAKES;
use super::admit::clip;
use super::connection::{Heard, Mouths, PIECE_BYTES};
use crate::identity::Identity;

/// Initial size of a packet (DESIGN 6: never rely on discovery).
const INITIAL_MTU: u16 = 1200;

/// Round trip that is assumed until one is measured: what is lost of a handshake is sent again after
/// three of them, before the agent gives QUIC up for TCP.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Streams that an agent may have open: its lanes, and some that stay silent.
const STREAMS: u8 = 16;

/// Streams that an agent may open in one session. It needs one for each lane.
const STREAMS_OPENED: u32 = 64;

/// Window of one stream, in bytes. More would wait here instead of in the agent's spool.
const STREAM_WINDOW: u32 = 512 << 10;

/// Window of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes that wait to be sent to one agent: acknowledgements are small.
const SEND_WINDOW: u64 = 256 << 10;

/// Life of a retry token.
const RETRY_TOKEN_TIME: Duration = Duration::from_secs(15);

/// Where in a frame its lane stands ([`protocol::frame`]).
const LANE_AT: usize = 5;

/// Returns the settings of the endpoint.
///
/// # Errors
///
/// When QUIC cannot use the TLS settings.
pub(super) fn settings(
    identity: &Identity,
    tls: Arc<rustls::ServerConfig>,
) -> Result<(EndpointConfig, ServerConfig), NoInitialCipherSuite> {
    let crypto = QuicServerConfig::try_from(tls)?;
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
    Ok((config, server))
}

/// Makes the endpoint of a socket.
///
/// # Errors
///
/// When the runtime does not take the socket.
pub(super) fn endpoint(
    (config, server): (EndpointConfig, ServerConfig),
    socket: UdpSocket,
) -> io::Result<Endpoint> {
    Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
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
        .initial_rtt(INITIAL_RTT)
        .datagram_receive_buffer_size(None)
        // CUBIC stalls on links with loss (DESIGN 6).
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    transport
}

/// A QUIC connection after its handshake.
#[derive(Debug)]
pub(super) struct Connection(pub(super) quinn::Connection);

impl Connection {
    pub(super) fn remote(&self) -> SocketAddr {
        self.0.remote_address()
    }

    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        let data = self.0.handshake_data()?;
        data.downcast::<HandshakeData>().ok()?.protocol
    }

    pub(super) fn peer_chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        let identity = self.0.peer_identity()?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>();
        chain.ok().map(|chain| *chain)
    }

    /// Returns keying material of the TLS session (RFC 8446 section 7.5).
    pub(super) fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        let exported = self.0.export_keying_material(&mut material, label, b"");
        exported.ok().map(|()| material)
    }

    /// Waits for a stream for one question and its answer.
    ///
    /// # Errors
    ///
    /// When the connection ended.
    pub(super) async fn stream(&self) -> io::Result<tokio::io::Join<RecvStream, SendStream>> {
        let (send, receive) = self.0.accept_bi().await?;
        Ok(tokio::io::join(receive, send))
    }

    /// Waits until the peer hangs up.
    pub(super) async fn hung_up(&self) {
        self.0.closed().await;
    }

    pub(super) fn close(self, code: CloseCode, reason: &str) {
        close(&self.0, code, reason);
    }

    /// Starts to read streams as they are opened.
    pub(super) fn open(self, mouths: Mouths, frames: mpsc::Receiver<Vec<u8>>) -> Line {
        let opened = Arc::new(Opened {
            lanes: Mutex::default(),
            frames: Mutex::new(Some(frames)),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(self.0.clone(), mouths, opened));
        Line {
            connection: self.0,
            _tasks: tasks,
        }
    }
}

/// A QUIC connection with the tasks that read and write its streams.
#[derive(Debug)]
pub(super) struct Line {
    connection: quinn::Connection,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl Line {
    pub(super) async fn closed(&self) -> String {
        let error = self.connection.closed().await;
        match error {
            ConnectionError::ApplicationClosed(closed) => {
                let reason = String::from_utf8_lossy(&closed.reason);
                let reason = clip(&reason, limits::CLOSE_REASON_BYTES);
                format!("the agent left: {}", reason.escape_debug())
            }
            ConnectionError::TimedOut => "the connection timed out".to_owned(),
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::Reset
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => error.to_string(),
        }
    }

    pub(super) fn close(self, code: CloseCode, reason: &str) {
        close(&self.connection, code, reason);
    }
}

fn close(connection: &quinn::Connection, code: CloseCode, reason: &str) {
    let reason = clip(reason, limits::CLOSE_REASON_BYTES);
    connection.close(VarInt::from_u32(code.number()), reason.as_bytes());
}

/// What the streams of a connection share.
struct Opened {
    lanes: Mutex<BTreeSet<Lane>>,
    /// For the control lane, the only one with a way back.
    frames: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
}

/// Takes the agent's streams until the connection ends.
async fn accept(connection: quinn::Connection, mouths: Mouths, opened: Arc<Opened>) {
    let mut readers = JoinSet::new();
    let mut count: u32 = 0;
    while let Ok((send, receive)) = connection.accept_bi().await {
        count += 1;
        if count > STREAMS_OPENED {
            let reason = "the agent keeps opening streams".to_owned();
            // The session has ended where nobody listens.
            let _ = mouths.control.send(Heard::Broken(reason)).await;
            return;
        }
        while readers.try_join_next().is_some() {}
        readers.spawn(read_lane(
            send,
            receive,
            mouths.clone(),
            Arc::clone(&opened),
        ));
    }
}

/// Reads a stream to its end. Its first frame says which lane it is.
async fn read_lane(send: SendStream, mut receive: RecvStream, mouths: Mouths, opened: Arc<Opened>) {
    let mut head = Vec::with_capacity(HEADER_BYTES);
    let number = loop {
        match receive.read_chunk(PIECE_BYTES, true).await {
            Ok(Some(chunk)) => head.extend_from_slice(&chunk.bytes),
            // It was never used, or the connection ended, which is seen elsewhere.
            Ok(None) | Err(_) => return,
        }
        if let Some(number) = head.get(LANE_AT) {
            break *number;
        }
    };
    let lane = match opened.begin(number) {
        Ok(lane) => lane,
        Err(reason) => {
            // The session has ended where nobody listens.
            let _ = mouths.control.send(Heard::Broken(reason)).await;
            return;
        }
    };
    // Only the control lane has a way back; dropping the others' ends them.
    let back = if lane == Lane::Control {
        opened.take_frames()
    } else {
        None
    };
    let reading = read_on(receive, lane, head, &mouths);
    match back {
        Some(frames) => {
            tokio::join!(reading, write_back(send, frames));
        }
        None => {
            drop(send);
            reading.await;
        }
    }
}

impl Opened {
    /// Takes note of a lane's stream.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn begin(&self, number: u8) -> Result<Lane, String> {
        let lane = Lane::from_number(number).ok_or_else(|| format!("there is no lane {number}"))?;
        // A panic while it is held would leave it whole: every change is one call.
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.insert(lane) {
            Ok(lane)
        } else {
            Err(format!("a second stream of lane {lane:?}"))
        }
    }

    fn take_frames(&self) -> Option<mpsc::Receiver<Vec<u8>>> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.take()
    }
}

async fn read_on(mut receive: RecvStream, lane: Lane, head: Vec<u8>, mouths: &Mouths) {
    let mouth = mouths.of(lane);
    let mut heard = Heard::Bytes(lane, Bytes::from(head));
    loop {
        if mouth.send(heard).await.is_err() {
            return;
        }
        heard = match receive.read_chunk(PIECE_BYTES, true).await {
            Ok(Some(chunk)) => Heard::Bytes(lane, chunk.bytes),
            Err(quinn::ReadError::Reset(_)) => {
                let _ = mouth
                    .send(Heard::Broken("the agent reset a lane's stream".to_owned()))
                    .await;
                return;
            }
            Ok(None) | Err(_) => return,
        };
    }
}

/// Writes frames to the control stream until the session or the connection ends.
async fn write_back(mut send: SendStream, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if send.write_all(&frame).await.is_err() {
            return;
        }
    }
}
